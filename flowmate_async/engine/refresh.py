"""What a call holds as a GET that may refresh."""

import msgspec

from flowmate_async.engine.breaker import Breaker
from flowmate_async.engine.slot_ledger import Client


class Loan:
    """A slot that other processes know of, until it is given back."""

    def give_back(self) -> None:
        """Give it back; once."""


class Refresh(msgspec.Struct, eq=False):
    """What a call holds as a GET that may refresh.

    Attributes:
        in_turn: whether a flight holds the turn on its behalf.
        has_slot: whether it holds a slot, and…
        client: …of which OAuth client; ``None`` for one that is unknown.
        identified: whether it was tried to find out the OAuth client.
        breaker: of the provider, while it is asked.
        epoch: of that breaker, when the request was sent.
        loan: the slot that other processes know of.
    """

    in_turn: bool = False
    has_slot: bool = False
    client: Client = None
    identified: bool = False
    breaker: Breaker | None = None
    epoch: int = 0
    loan: Loan | None = None
