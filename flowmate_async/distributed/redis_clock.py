"""Redis' clock, as known to one process. All machines share it, while their own clocks differ."""

import time

from flowmate_async.distributed.circuit import PATIENCE_SECONDS

_SLACK_SECONDS = 0.5


class RedisClock:
    """Redis' time in milliseconds since the Unix epoch, extrapolated from its last answer."""

    def __init__(self) -> None:
        self.set(0)

    def set(self, now: int) -> None:
        """Set the clock to the time that Redis has just returned."""
        self._told, self._told_at = now, time.monotonic()

    def now(self) -> int:
        """Return Redis' time, or slightly less because of the network latency of its last answer."""
        return self._told + int((time.monotonic() - self._told_at) * 1000)

    def deadline(self) -> int:
        """Return Redis' time at which the answer to a command sent now has timed out."""
        return self.now() + int((PATIENCE_SECONDS + _SLACK_SECONDS) * 1000)
