"""Admission: every counted request passes here before it is answered.

The HTTP server's own limit, the rate limit, latency and outages are here; faults come after it
(`fault_injector.py`), so that the limit counts every request. The endpoints always give true answers.
"""

import anyio
from aiohttp import web

from .answers import Answer, throttled, too_large_headers
from .limits import TokenBucket
from .options import Settings
from .outages import after_hanging, hangs, instead_of_answer
from .preliminaries import MAX_HEADER_BYTES, header_bytes
from .routes import Route

__all__ = ["Admission"]

_LOOK_SECONDS = 0.02


class Admission:
    """Admission control in front of the endpoints; applies the run-time settings."""

    __slots__ = ("_bucket", "_database_wait_seconds", "_settings")

    def __init__(self, settings: Settings, *, database_wait_seconds: float) -> None:
        self._settings = settings
        self._database_wait_seconds = database_wait_seconds
        self._bucket = _bucket_for(settings)

    def configure(self, settings: Settings) -> None:
        """Apply new settings; a changed limit starts with a full bucket."""
        before, self._settings = self._settings, settings
        if (before.rate, before.burst) != (settings.rate, settings.burst):
            self._bucket = _bucket_for(settings)

    async def before(self, request: web.BaseRequest, route: Route) -> Answer | None:
        """Refuse a request, or let it through after the latency."""
        if header_bytes(request) > MAX_HEADER_BYTES:
            return too_large_headers()
        if self._bucket is not None:
            wait_seconds = self._bucket.take()
            if wait_seconds:
                return throttled(wait_seconds)
        if self._settings.latency_seconds:
            await anyio.sleep(self._settings.latency_seconds)
        if self._settings.outage is None:
            return None
        refusal = await self._hang(route)
        if refusal is None and self._settings.outage is not None:
            refusal = instead_of_answer(self._settings.outage, route, request.headers.get("Authorization"))
        return refusal

    async def _hang(self, route: Route) -> Answer | None:
        """Wait for the end of a database outage, if this request is affected."""
        waited = 0.0
        # Poll, since settings may change from another thread.
        while hangs(self._settings.outage, route):
            if waited >= self._database_wait_seconds and (gave_up := after_hanging(route)):
                return gave_up
            await anyio.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS
        return None


def _bucket_for(settings: Settings) -> TokenBucket | None:
    if settings.rate is None:
        return None
    return TokenBucket(rate=settings.rate, burst=settings.burst)
