"""Turns at making upstream refresh a secret: one request per secret at a time, across all its owners.

Upstream's refresh lock belongs to the secret and not to the caller (docs/contract/OBSERVED.md § Second look).
"""

import asyncio
from collections.abc import Callable

from flowmate_async.engine.contender import Contender, Ticket
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.ready_queue import ReadyQueue
from flowmate_async.engine.states import PARKED


class _Turn:
    """The turn of one secret: its holder and its waiters."""

    __slots__ = ("holder", "waiting")

    def __init__(self, holder: Contender) -> None:
        self.holder = holder
        self.waiting: ReadyQueue[Contender] = ReadyQueue(PARKED)


class SecretTurns:
    """A mutex per secret id, interactive before background. A secret that nothing waits for has no entry."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def waiting(self) -> int:
        """How many contenders wait for a turn."""
        return sum(len(turn.waiting) for turn in self._turns.values())

    def is_free(self, secret_id: str, contender: Contender) -> bool:
        """Return whether this contender has the turn, or may take it."""
        turn = self._turns.get(secret_id.lower())
        return turn is None or turn.holder is contender

    def take(self, secret_id: str, contender: Contender) -> None:
        """Take a turn that is free."""
        key = secret_id.lower()
        if key not in self._turns:
            self._turns[key] = _Turn(contender)

    def park(self, secret_id: str, contender: Contender) -> Contender | None:
        """Queue for the turn. Return the background holder that this interactive contender waits for."""
        turn = self._turns[secret_id.lower()]
        contender.state = PARKED
        turn.waiting.push(contender)
        is_behind = contender.priority is Priority.INTERACTIVE and turn.holder.priority is Priority.BACKGROUND
        return turn.holder if is_behind else None

    def leave(self, secret_id: str, contender: Contender) -> Contender | None:
        """Pass the turn to the next contender and return that one; do nothing without the turn."""
        key = secret_id.lower()
        turn = self._turns.get(key)
        if turn is None or turn.holder is not contender:
            return None
        waiting = turn.waiting.pop()
        if waiting is None:
            del self._turns[key]
            return None
        turn.holder = waiting
        if waiting.priority is Priority.BACKGROUND and turn.waiting.has_interactive:
            waiting.priority = Priority.INTERACTIVE  # background had its share; others wait for it now
            if isinstance(waiting, Ticket):
                waiting.hurry()
        return waiting

    async def wait(
        self, secret_id: str, ticket: Ticket, hurry: Callable[[Contender], object] = lambda _holder: None
    ) -> None:
        """Wait for the turn on behalf of a coroutine; :meth:`leave` must follow.

        Args:
            secret_id: the secret.
            ticket: the waiter.
            hurry: called with the background holder that an interactive ticket waits for.
        """
        if self.is_free(secret_id, ticket):
            self.take(secret_id, ticket)
            return
        holder = self.park(secret_id, ticket)
        if holder is not None:
            hurry(holder)
        try:
            await ticket.wait()
        except asyncio.CancelledError:
            following = self.leave(secret_id, ticket)
            if following is not None:
                following.go_on()
            raise
