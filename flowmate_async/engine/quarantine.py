"""Secrets that must not be fetched for a while, because upstream may still be refreshing them."""

from flowmate_async.clock import Clock


class Quarantine:
    """The earliest time at which each secret may be fetched again, by secret id.

    Upstream's refresh lock belongs to the secret, not to the caller, so the key is the secret id alone. The
    table never has more entries than secrets that failed within the duration of one lock.

    Args:
        clock: the clock for the entries.

    Attributes:
        secrets: these times, in seconds of the monotonic clock, by secret id.
    """

    __slots__ = ("_clock", "secrets")

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.secrets: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.secrets)

    def impose(self, secret_id: str, seconds: float) -> None:
        """Block fetches of a secret for this many seconds. A longer quarantine in effect stays."""
        now = self._clock.monotonic()
        self.secrets = {key: until for key, until in self.secrets.items() if until > now}
        self.secrets[secret_id] = max(now + seconds, self.secrets.get(secret_id, now))

    def until(self, secret_id: str | None) -> float:
        """Return the time until which a secret may not be fetched, in seconds of the monotonic clock.

        ``-inf`` if it may be fetched, and for a request without a secret.
        """
        return float("-inf") if secret_id is None else self.secrets.get(secret_id, float("-inf"))
