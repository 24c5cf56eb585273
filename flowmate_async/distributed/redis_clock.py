"""Redis' clock, as one process knows it: the clocks of many machines differ, this one all of them share."""

import time

from flowmate_async.distributed.circuit import PATIENCE_SECONDS

_SLACK_SECONDS = 0.5


class RedisClock:
    """Redis' time in milliseconds since the Unix epoch, as told last and gone on since."""

    def __init__(self) -> None:
        self.set(0)

    def set(self, now: int) -> None:
        """Take over the time that Redis has just told."""
        self._told, self._told_at = now, time.monotonic()

    def now(self) -> int:
        """Return Redis' time, or a little less: its last answer was on its way for a moment."""
        return self._told + int((time.monotonic() - self._told_at) * 1000)

    def deadline(self) -> int:
        """Return Redis' time after which nobody waits any more for an answer to a command sent now."""
        return self.now() + int((PATIENCE_SECONDS + _SLACK_SECONDS) * 1000)
