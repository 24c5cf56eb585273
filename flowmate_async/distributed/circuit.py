"""Circuit breaker of one Redis: nothing waits while it is unavailable, and its return is noticed at once.

Budget, turns and cache send their commands through the same circuit. The first command without an answer
opens it: all commands in flight fail at once, and so does every later one. A watch probes Redis several times
a second until it answers again. Nothing here knows what the commands are.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from flowmate_async.clock import Clock
from flowmate_async.distributed.connection import Trouble, redis_errors, refused, trouble_of, unreachable
from flowmate_async.errors import ConfigurationError
from flowmate_async.system.driver_boundary import DriverBoundary

T = TypeVar("T")

PATIENCE_SECONDS = 1.0
"""After this long without an answer, Redis counts as unavailable."""

BEAT_SECONDS = 1.0
"""How often the watch probes a Redis that answers."""

NOTICED_SECONDS = 0.75
"""Time until every process has noticed that Redis is back: a pause between two probes, and one probe."""

_PROBE_SECONDS = 0.5
_PROBE_PAUSE_SECONDS = NOTICED_SECONDS - _PROBE_SECONDS
_MAX_LATER = 10_000

_log = logging.getLogger("flowmate_async")


class RedisAwayError(Exception):
    """Redis cannot be used now. Never leaves this package.

    Attributes:
        trouble: what is wrong.
    """

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.text)
        self.trouble: Trouble = trouble


class Circuit:
    """Circuit breaker in front of one Redis.

    Args:
        clock: measures how long Redis was unavailable.
        on_lost: called with the reason when Redis becomes unavailable.
        on_back: called with the seconds of the outage when Redis is back.

    Attributes:
        away: whether Redis cannot be used now.
        problem: why not; empty if it can.
        outages: how many outages there were.
        back_at: when the last outage ended, in monotonic seconds.
    """

    def __init__(
        self, *, clock: Clock, on_lost: Callable[[str], object], on_back: Callable[[float], object]
    ) -> None:
        self._clock = clock
        self._on_lost = on_lost
        self._on_back = on_back
        self._errors = redis_errors()
        self._deadlines: set[asyncio.Timeout] = set()
        self._later: deque[Callable[[], Awaitable[Any]]] = deque(maxlen=_MAX_LATER)
        self._look = asyncio.Event()
        self._worked = False
        self._refusal: ConfigurationError | None = None
        self._lost_at = 0.0
        self.away: bool = False
        self.problem: str = ""
        self.outages: int = 0
        self.back_at: float = float("-inf")

    async def call(self, command: Callable[[], Awaitable[T]]) -> T:
        """Send a command and return the answer.

        Raises:
            RedisAwayError: Redis is unavailable, does not answer within a second, or refuses this command.
            ConfigurationError: Redis has never accepted this process and gives a reason.
        """
        if self._refusal is not None:
            raise self._refusal.clone()
        if self.away:
            raise RedisAwayError(Trouble("away", self.problem))
        try:
            return await self._answer(command, PATIENCE_SECONDS)
        except RedisAwayError as error:
            # An error in reply to one command may be that command's own: the watch finds out.
            if error.trouble.kind == "away":
                self._open(error.trouble)
            self._look.set()
            raise

    def call_later(self, command: Callable[[], Awaitable[Any]]) -> None:
        """Send a command once Redis is back; its answer does not matter."""
        self._later.append(command)

    async def begin(self, beat: Callable[[], Awaitable[object]], *, needed: bool) -> None:
        """Contact Redis for the first time.

        Args:
            beat: sends one probe with everything that this process needs from Redis.
            needed: whether the process cannot work without Redis.

        Raises:
            ConfigurationError: Redis answers, but refuses this process.
            UpstreamUnavailableError: Redis is unavailable, and needed.
        """
        try:
            await self._answer(beat, PATIENCE_SECONDS)
        except RedisAwayError as error:
            trouble = error.trouble
        else:
            self._worked = True
            return
        if trouble.kind != "away":
            raise refused(trouble)
        if needed:
            raise unreachable(trouble)
        self._open(trouble)

    async def watch(self, beat: Callable[[], Awaitable[object]]) -> None:
        """Detect outages of Redis and their end, until cancelled.

        Args:
            beat: sends one probe with everything that this process needs from Redis.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_PAUSE_SECONDS if self.away else BEAT_SECONDS):
                    await self._look.wait()
            self._look.clear()
            await self._beat(beat)

    async def _beat(self, beat: Callable[[], Awaitable[object]]) -> None:
        try:
            await self._answer(beat, _PROBE_SECONDS if self.away else PATIENCE_SECONDS)
        except RedisAwayError as error:
            if not self._worked and error.trouble.kind != "away":
                self._refusal = refused(error.trouble)
            self._open(error.trouble)
        else:
            self._worked, self._refusal = True, None
            if self.away:
                await self._close()

    def _open(self, trouble: Trouble) -> None:
        self.problem = trouble.text
        if self.away:
            return
        self.away, self.outages, self._lost_at = True, self.outages + 1, self._clock.monotonic()
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(now)
        _log.warning("Redis cannot be used: %s", trouble.text)
        self._on_lost(trouble.text)

    async def _close(self) -> None:
        self.away, self.problem, self.back_at = False, "", self._clock.monotonic()
        seconds = self.back_at - self._lost_at
        _log.warning("Redis is back after %.1f s", seconds)
        self._on_back(seconds)
        with suppress(RedisAwayError, ConfigurationError):  # away again; they stay for the next time
            while self._later:
                await self.call(self._later[0])
                self._later.popleft()

    async def _answer(self, command: Callable[[], Awaitable[T]], seconds: float) -> T:
        with DriverBoundary():
            try:
                async with asyncio.timeout(seconds) as deadline:
                    self._deadlines.add(deadline)
                    try:
                        return await command()
                    finally:
                        self._deadlines.discard(deadline)
            except self._errors as error:
                trouble = trouble_of(error)
        raise RedisAwayError(trouble)
