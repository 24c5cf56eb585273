"""Secrets that must not be fetched for a while, because upstream may still be refreshing them."""

from flowmate_async.clock import Clock


class Quarantine:
    """Per secret id, the earliest moment at which it may be fetched again.

    Upstream's refresh lock belongs to the secret, not to the caller, so the key is the secret id alone. There
    are never more entries than secrets that failed within the time of one lock.

    Args:
        clock: times the entries.

    Attributes:
        secrets: the moments, in seconds of the monotonic clock, by secret id.
    """

    __slots__ = ("_clock", "secrets")

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.secrets: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.secrets)

    def impose(self, secret_id: str, seconds: float) -> None:
        """Keep a secret from being fetched for so many seconds; a longer quarantine under way stays."""
        now = self._clock.monotonic()
        self.secrets = {key: until for key, until in self.secrets.items() if until > now}
        self.secrets[secret_id] = max(now + seconds, self.secrets.get(secret_id, now))

    def until(self, secret_id: str | None) -> float:
        """Return until when a secret may not be fetched, in seconds of the monotonic clock.

        ``-inf`` when it may, and for a request that is about none.
        """
        return float("-inf") if secret_id is None else self.secrets.get(secret_id, float("-inf"))
