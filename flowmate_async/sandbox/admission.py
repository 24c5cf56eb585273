"""Admission: every counted request passes here before it is answered.

The HTTP server's own limit, the rate limit, latency and outages are here; faults come after it
(``fault_injector.py``), so that the limit counts every request. The endpoints always give true answers.
"""

import math
import time
from collections.abc import Callable

import anyio
from aiohttp import web

from flowmate_async.sandbox.answers import Answer, throttled, too_large_headers
from flowmate_async.sandbox.options import Settings
from flowmate_async.sandbox.outages import after_hanging, hangs, instead_of_answer
from flowmate_async.sandbox.preliminaries import MAX_HEADER_BYTES, header_bytes
from flowmate_async.sandbox.routes import Route

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


class TokenBucket:
    """Strict token bucket: ``burst`` requests at once, then ``rate`` per second. It refuses and never waits.

    The hosted gateway's limits were never observed; this is the hardest possible limit.

    Over any window of ``w`` seconds it grants at most ``burst + rate * w``, and it grants every request that
    it can. It counts from the last time at which it was full, so that rounding errors do not add up.
    """

    __slots__ = ("_burst", "_clock", "_full_at", "_rate", "_taken")

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._full_at = clock()
        self._taken = 0

    def take(self) -> int:
        """Take a token: return 0 if there was one, else the whole seconds until there is one."""
        now = self._clock()
        refilled = (now - self._full_at) * self._rate
        if refilled >= self._taken:
            self._full_at, self._taken, refilled = now, 0, 0.0
        missing = self._taken + 1 - self._burst - refilled
        if missing <= 0:
            self._taken += 1
            return 0
        return max(1, math.ceil(missing / self._rate))


def _bucket_for(settings: Settings) -> TokenBucket | None:
    if settings.rate is None:
        return None
    return TokenBucket(rate=settings.rate, burst=settings.burst)
