"""The turn and the slot that a call holds as a GET that may refresh."""

import asyncio

import msgspec

from flowmate_async.engine.breaker import Breaker
from flowmate_async.engine.slot_ledger import Client


class Loan:
    """A slot that is shared with other processes, and that a task holds.

    Attributes:
        is_lent: whether the slot was granted.
        given_back: set when the slot is not needed any more.
        task: holds it.
    """

    def __init__(self) -> None:
        self.is_lent: bool = False
        self.given_back: asyncio.Event = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def give_back(self) -> None:
        """Release the slot, or stop waiting for it."""
        if self.is_lent:
            self.given_back.set()
        elif self.task is not None:
            self.task.cancel()


class Refresh(msgspec.Struct, eq=False):
    """The turn and the slot that a call holds as a GET that may refresh.

    Attributes:
        in_turn: whether a flight holds the turn on its behalf.
        has_slot: whether it holds a slot, and…
        client: …of which OAuth client; ``None`` if unknown.
        identified: whether a look-up of the OAuth client was attempted.
        breaker: the provider's breaker, while the request is in flight.
        epoch: that breaker's epoch when the request was sent.
        loan: the slot that is shared with other processes.
    """

    in_turn: bool = False
    has_slot: bool = False
    client: Client = None
    identified: bool = False
    breaker: Breaker | None = None
    epoch: int = 0
    loan: Loan | None = None
