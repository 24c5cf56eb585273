"""Lenders: the parent lends rate tokens and refresh slots to the processes of one machine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import msgspec
from aiolimiter import AsyncLimiter

from flowmate_async.clock import Clock
from flowmate_async.engine.contender import Ticket
from flowmate_async.engine.coordination import (
    CoordinationStatistics,
    RateBudget,
    SharedCredentials,
    TokenLease,
)
from flowmate_async.engine.leased_bucket import LeaseTerms
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.refresh_slots import RefreshSlots
from flowmate_async.engine.secret_turns import SecretTurns
from flowmate_async.events import Listener


class RateLender:
    """Lends tokens; a :class:`~flowmate_async.engine.coordination.RateBudget` for its own process.

    Args:
        terms: the rate, and how it is lent.
        clock: must be the machine's monotonic clock, which its processes share.
    """

    def __init__(self, terms: LeaseTerms, *, clock: Clock) -> None:
        self._terms = terms
        self._clock = clock
        self._turn = asyncio.Lock()
        self._bucket = self._new_bucket()
        self._resume_at = float("-inf")
        self._paused = False

    async def lease(self, most: int) -> TokenLease:
        """See :meth:`RateBudget.lease`; requests are served first come, first served."""
        tokens = min(most, self._terms.batch)
        async with self._turn:
            while True:
                await self._pause_passed()
                await self._bucket.acquire(tokens)
                now = self._clock.monotonic()
                if self._resume_at <= now:  # otherwise a pause began meanwhile, and the tokens are dropped
                    return TokenLease(tokens, now + self._terms.life_seconds)

    def pause(self, seconds: float) -> None:
        """Lend nothing for that many seconds, then begin with an empty bucket."""
        self._resume_at = max(self._resume_at, self._clock.monotonic() + seconds)
        self._paused = True

    async def _pause_passed(self) -> None:
        while (seconds := self._resume_at - self._clock.monotonic()) > 0:
            await self._clock.sleep(seconds)
        if self._paused:
            self._paused = False
            self._bucket = self._new_bucket()
            await self._bucket.acquire(self._bucket.max_rate)

    def _new_bucket(self) -> AsyncLimiter:
        return AsyncLimiter(self._terms.capacity, self._terms.capacity / self._terms.rate)


class RefreshLoan:
    """A secret's turn and a slot of its OAuth client, until it is returned."""

    def __init__(
        self, slots: RefreshSlots, turns: SecretTurns, auth_client_id: str | None, secret_id: str
    ) -> None:
        self._slots = slots
        self._turns = turns
        self._auth_client_id = auth_client_id
        self._secret_id = secret_id
        self._ticket = Ticket(Priority.INTERACTIVE)

    async def wait(self) -> None:
        """Wait for the turn, then for the slot."""
        await self._turns.wait(self._secret_id, self._ticket)
        try:
            await self._slots.wait(self._auth_client_id, Ticket(Priority.INTERACTIVE))
        except BaseException:
            self._end_turn()
            raise

    def give_back(self) -> None:
        """Return both; a second call does nothing."""
        for _, contender in self._slots.leave(self._auth_client_id):
            contender.go_on()
        self._end_turn()

    def _end_turn(self) -> None:
        following = self._turns.leave(self._secret_id, self._ticket)
        if following is not None:
            following.go_on()


class SlotLender:
    """Lends slots for refreshes.

    A :class:`~flowmate_async.engine.coordination.RefreshLender` for its own process.

    Args:
        limit: maximum number of refreshes of one OAuth client in all processes together.
    """

    def __init__(self, limit: int) -> None:
        self._slots = RefreshSlots(limit)
        self._turns = SecretTurns()

    async def borrow(self, auth_client_id: str | None, secret_id: str) -> RefreshLoan:
        """Wait for the secret's turn, then for a slot.

        Args:
            auth_client_id: the OAuth client; ``None`` when it is unknown, which counts for every client.
            secret_id: the secret.
        """
        loan = RefreshLoan(self._slots, self._turns, auth_client_id, secret_id)
        await loan.wait()
        return loan

    @asynccontextmanager
    async def slot(self, auth_client_id: str | None, secret_id: str) -> AsyncIterator[None]:
        """See :meth:`flowmate_async.engine.coordination.RefreshLender.slot`."""
        loan = await self.borrow(auth_client_id, secret_id)
        try:
            yield
        finally:
            loan.give_back()


class Pauses:
    """Broadcasts pauses: a process that meets one tells all others."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[float], object]] = []

    def join(self, listener: Callable[[float], object]) -> None:
        """Add a listener, called with the number of seconds to wait."""
        self._listeners.append(listener)

    def leave(self, listener: Callable[[float], object]) -> None:
        """Remove a listener."""
        self._listeners.remove(listener)

    def spread(self, seconds: float, *, but: Callable[[float], object] | None = None) -> None:
        """Notify every listener except the sender."""
        for listener in self._listeners:
            if listener != but:
                listener(seconds)


class SharedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a parent shares with its workers.

    Attributes:
        rate: lends tokens; ``None`` when there is no limit.
        refreshes: lends slots for refreshes.
        pauses: broadcasts pauses between all processes.
        concurrency: maximum requests in flight of all workers together.
    """

    rate: RateLender | None
    refreshes: SlotLender
    pauses: Pauses
    concurrency: int


class ParentCoordination:
    """The :class:`~flowmate_async.engine.coordination.Coordination` of the parent's own client.

    Args:
        shared: the lenders that it shares with its workers.
    """

    def __init__(self, shared: SharedLimits) -> None:
        self._shared = shared
        self._pauses = shared.pauses
        self._own: Callable[[float], object] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def join(self, base_url: str) -> None:
        """See :meth:`Coordination.join`; there is only one upstream."""

    def budget(self, *, rate: float, burst: int) -> RateBudget | None:  # noqa: ARG002 - lent on its own terms
        """See :meth:`Coordination.budget`."""
        return self._shared.rate

    def refreshes(self, limit: int) -> SlotLender:  # noqa: ARG002 - lent within the parent's own limit
        """See :meth:`LendsRefreshes.refreshes`."""
        return self._shared.refreshes

    def credentials(self) -> SharedCredentials | None:
        """Nothing is shared: no user is read by two workers."""
        return None

    def pause(self, seconds: float) -> None:
        """See :meth:`Coordination.pause`."""
        self._pauses.spread(seconds, but=self._own)

    def on_pause(self, listener: Callable[[float], object]) -> None:
        """See :meth:`Coordination.on_pause`."""
        self._own = listener
        self._pauses.join(listener)

    def on_event(self, listener: Listener) -> None:
        """See :meth:`Coordination.on_event`; within one process there are none."""

    def statistics(self) -> CoordinationStatistics | None:
        """See :meth:`Coordination.statistics`; within one process nothing can fail on its own."""
        return None
