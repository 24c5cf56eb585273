"""Secrets that must be left alone for a while, because upstream may still be refreshing them."""

from flowmate_async.clock import Clock


class Quarantine:
    """Per secret id, the earliest moment at which it may be fetched again.

    Upstream's refresh lock is the secret's, whoever asks for it, so the secret id is the key. Entries are
    dropped as they pass; there are never more than secrets that failed within one lock's time.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def impose(self, secret_id: str, seconds: float) -> None:
        """Let nobody fetch this secret for that many seconds."""
        now = self._clock.monotonic()
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[secret_id] = max(now + seconds, self._until.get(secret_id, now))

    def holds(self, secret_id: str | None) -> bool:
        """Return whether this secret is quarantined (False for None)."""
        return bool(self._until) and self.remaining_seconds(secret_id) > 0

    def remaining_seconds(self, secret_id: str | None) -> float:
        """Return for how long this secret is still quarantined; 0 if it is not."""
        until = self._until.get(secret_id) if secret_id is not None else None
        return 0.0 if until is None else max(0.0, until - self._clock.monotonic())

    async def passed(self, secret_id: str) -> None:
        """Wait until this secret may be fetched."""
        while (until := self._until.get(secret_id)) is not None:
            seconds = until - self._clock.monotonic()
            if seconds <= 0:
                del self._until[secret_id]
                return
            await self._clock.sleep(seconds)
