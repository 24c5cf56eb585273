"""Passage: the one place through which every counted request goes before it is answered.

Rate limit and latency are here; faults come after it (`mischief.py`), so that the limit counts every
request. The endpoints stay truthful.
"""

import anyio

from .answers import Answer, throttled
from .limits import TokenBucket
from .options import Settings
from .routes import Route

__all__ = ["Passage"]


class Passage:
    """Gate in front of the endpoints; obeys the run-time settings."""

    __slots__ = ("_bucket", "_settings")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bucket = _bucket_for(settings)

    def configure(self, settings: Settings) -> None:
        """Obey other settings; a changed limit starts with a full bucket."""
        before, self._settings = self._settings, settings
        if (before.rate, before.burst) != (settings.rate, settings.burst):
            self._bucket = _bucket_for(settings)

    async def before(self, _route: Route) -> Answer | None:
        """Refuse a request, or let it through after the latency."""
        if self._bucket is not None:
            wait_seconds = self._bucket.take()
            if wait_seconds:
                return throttled(wait_seconds)
        if self._settings.latency_seconds:
            await anyio.sleep(self._settings.latency_seconds)
        return None


def _bucket_for(settings: Settings) -> TokenBucket | None:
    if settings.rate is None:
        return None
    return TokenBucket(rate=settings.rate, burst=settings.burst)
