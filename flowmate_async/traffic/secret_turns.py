"""Whose turn it is to make upstream refresh a secret: one request per secret, whoever its owners are.

Upstream's refresh lock belongs to the secret and not to the caller (docs/contract/OBSERVED.md § Second look).
"""

import asyncio
from collections.abc import Callable
from typing import Self

from flowmate_async.traffic.gate import PriorityGate
from flowmate_async.traffic.priority import Priority, current_priority

Hurry = Callable[[], object]
"""Makes a request that is still queued continue with interactive priority."""


class Turn:
    """A turn that was taken; used as ``with turn:``, and may be released before the end."""

    __slots__ = ("_secret_id", "_turns")

    def __init__(self, turns: "SecretTurns", secret_id: str) -> None:
        self._turns: SecretTurns | None = turns
        self._secret_id = secret_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the turn to the next waiter; once is enough."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.leave(self._secret_id)


class _Queue:
    """The turn of one secret, and how to hurry the one who has it if that one can wait."""

    __slots__ = ("gate", "hurry")

    def __init__(self) -> None:
        self.gate = PriorityGate()
        self.hurry: Hurry | None = None


class SecretTurns:
    """A mutex per secret id, interactive before background; a secret that no one waits for has no entry."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return sum(queue.gate.waiting for queue in self._queues.values())

    def take_at_once(self, secret_id: str) -> Turn | None:
        """Return the turn, if it is free."""
        key = secret_id.lower()
        if key in self._queues:
            return None
        queue = self._queues[key] = _Queue()
        queue.gate.enter_at_once()
        return Turn(self, key)

    async def take(self, secret_id: str, hurry: Hurry | None = None) -> Turn:
        """Wait for the turn.

        Args:
            secret_id: the secret.
            hurry: called when an interactive request begins to wait for a background one that has the turn,
                since it would wait in every queue behind which that one stands.
        """
        key, priority = secret_id.lower(), current_priority()
        queue = self._queues.setdefault(key, _Queue())
        if priority is Priority.INTERACTIVE and queue.hurry is not None:
            urgent, queue.hurry = queue.hurry, None
            urgent()
        try:
            await queue.gate.enter(priority)
        except BaseException:
            self._forget_if_unused(key, queue)
            raise
        queue.hurry = hurry if priority is Priority.BACKGROUND else None
        if queue.hurry is not None and queue.gate.urgent:
            queue.hurry()
            await self._let_go(key)
        return Turn(self, key)

    async def _let_go(self, key: str) -> None:
        """End here if the request continues in another task, and never in the midst of being sent."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.leave(key)
            raise

    def leave(self, key: str) -> None:
        """Give the turn to the next waiter."""
        queue = self._queues[key]
        queue.hurry = None
        queue.gate.leave()
        self._forget_if_unused(key, queue)

    def _forget_if_unused(self, key: str, queue: _Queue) -> None:
        if not queue.gate.inside and self._queues.get(key) is queue:
            del self._queues[key]
