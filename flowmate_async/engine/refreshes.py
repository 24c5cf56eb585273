"""The additional gates of a GET that may refresh: the turn of its secret and a slot of its OAuth client.

:meth:`Refreshes.next_step` decides without side effects; the other methods carry out the decision.
"""

import enum
from collections.abc import Sequence

from msgspec import structs

from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.contract.protocol import Request
from flowmate_async.engine.bulkheads import Bulkheads
from flowmate_async.engine.call import Call
from flowmate_async.engine.contender import Contender
from flowmate_async.engine.refresh import Refresh
from flowmate_async.engine.secret_turns import SecretTurns
from flowmate_async.engine.slot_ledger import Client
from flowmate_async.errors import RefreshFailedError
from flowmate_async.redaction import one_line


class RefreshStep(enum.Enum):
    """The next step of a call that may refresh."""

    SEND = "send"
    AWAIT_TURN = "await turn"
    AWAIT_SLOT = "await slot"
    IDENTIFY = "identify"
    """Find out which OAuth client is behind the secret."""
    CHANGE_SLOT = "change slot"
    """Its OAuth client has become known, and the slot that it holds belongs to another client."""
    BORROW = "borrow"
    """Ask the other processes for a slot."""


class Refreshes:
    """Decides who may refresh.

    Args:
        turns: the turns of secrets.
        bulkheads: the slots and breakers of OAuth clients.
        known: what listings and answers have shown about secrets.
        borrows: whether other processes share the slots.
    """

    def __init__(
        self, turns: SecretTurns, bulkheads: Bulkheads, *, known: KnownSecrets, borrows: bool
    ) -> None:
        self.turns: SecretTurns = turns
        self.bulkheads: Bulkheads = bulkheads
        self._known = known
        self._borrows = borrows

    def awaits_turn(self, call: Call) -> bool:
        """Return whether a call that may refresh has to wait for the turn of its secret."""
        secret_id = call.request.secret_id or ""
        if self._known.is_plain(secret_id) or (call.refresh is not None and call.refresh.in_turn):
            return False
        return not self.turns.is_free(secret_id, call)

    def next_step(self, call: Call) -> RefreshStep | RefreshFailedError:
        """Return the next step of a call that has its turn. An error ends the call without sending it."""
        request, held = call.request, call.refresh or _NOTHING
        secret_id = request.secret_id or ""
        if self._known.is_plain(secret_id):
            return RefreshStep.SEND
        client = self.client_of(request)
        if held.has_slot and held.client != client:
            return RefreshStep.CHANGE_SLOT
        if self._is_worth_identifying(request, client) and not held.identified and not held.has_slot:
            return RefreshStep.IDENTIFY
        if not held.has_slot and not self.bulkheads.slots.has_room(client):
            return RefreshStep.AWAIT_SLOT
        seconds = self.bulkheads.closed_for(client)
        if seconds is not None:
            return _provider_unwell(request, client, seconds)
        return RefreshStep.BORROW if self._borrows and held.loan is None else RefreshStep.SEND

    def client_of(self, request: Request) -> Client:
        """Return the OAuth client behind a request; ``None`` if unknown."""
        return request.auth_client_id or self._known.client_of(request.secret_id or "")

    def is_known(self, request: Request) -> bool:
        """Return whether anything is known about the secret of a request."""
        return self._known.is_known(request.secret_id or "")

    def park_for_turn(self, call: Call) -> Contender | None:
        """Queue for the turn. Return the background holder that this interactive call waits for."""
        held_by(call)  # ensures that the turn is released, however the call ends
        return self.turns.park(call.request.secret_id or "", call)

    def park_for_slot(self, call: Call) -> None:
        """Queue for a slot while holding the turn of its secret."""
        self.take_turn(call)
        self.bulkheads.slots.park(self.client_of(call.request), call)

    def take_turn(self, call: Call) -> None:
        """Take the turn of its secret, unless it holds the turn already."""
        if not held_by(call).in_turn:
            self.turns.take(call.request.secret_id or "", call)

    def take_slot(self, call: Call) -> None:
        """Take the turn and a slot, unless it holds them already."""
        self.take_turn(call)
        held = held_by(call)
        if not held.has_slot:
            held.has_slot, held.client = True, self.client_of(call.request)
            self.bulkheads.slots.enter(held.client)

    def begin(self, call: Call) -> Sequence[Contender]:
        """Take what a call needs to be sent now.

        Returns:
            The contenders that can resume because this call has become a plain read and needs nothing.
        """
        if self._known.is_plain(call.request.secret_id or ""):
            call.request = structs.replace(call.request, may_refresh=False)
            return () if call.refresh is None else self.end(call)
        self.take_slot(call)
        held = held_by(call)
        held.breaker = self.bulkheads.breaker_of(held.client)
        held.breaker.refused_for()  # it may be a probe
        held.epoch = held.breaker.epoch
        return ()

    def refuse(self, call: Call) -> None:
        """Count a call that is not sent because its provider keeps failing."""
        self.bulkheads.breaker_of(self.client_of(call.request)).refused_for()

    def end_attempt(self, call: Call, *, provider_failed: bool | None = None) -> list[Contender]:
        """Release the slot and report to the provider's breaker. The turn is held until the call ends.

        Args:
            call: the call.
            provider_failed: whether its provider failed; ``None`` if the outcome does not tell, or if the
                call was not sent.

        Returns:
            The contenders that can resume.
        """
        held = call.refresh
        if held is None:
            return []
        if held.breaker is not None:
            # The failure of an unknown client is attributed later.
            failed = None if provider_failed and held.client is None else provider_failed
            held.breaker.note(subject=call.request.secret_id, failed=failed, epoch=held.epoch)
            held.breaker = None
        if held.loan is not None:
            held.loan.give_back()
            held.loan = None
        if not held.has_slot:
            return []
        held.has_slot = False
        return self._admitted(self.bulkheads.slots.leave(held.client))

    def end(self, call: Call) -> list[Contender]:
        """Release everything. Return the contenders that can resume."""
        resumed = self.end_attempt(call)
        secret_id, call.refresh = call.request.secret_id or "", None
        next_in_turn = self.turns.leave(secret_id, call)
        return resumed if next_in_turn is None else [*resumed, next_in_turn]

    def forget_parked(self) -> list[Contender]:
        """Return the contenders that can resume because a waiter has given up."""
        return self._admitted(self.bulkheads.slots.admit())

    def _admitted(self, admitted: list[tuple[Client, Contender]]) -> list[Contender]:
        for client, contender in admitted:
            if isinstance(contender, Call):
                held = held_by(contender)
                held.has_slot, held.client = True, client
        return [contender for _, contender in admitted]

    def _is_worth_identifying(self, request: Request, client: Client) -> bool:
        return client is None and self.bulkheads.crowded and not self.is_known(request)


def held_by(call: Call) -> Refresh:
    """Return what a call holds, created on first use."""
    if call.refresh is None:
        call.refresh = Refresh()
    return call.refresh


_NOTHING = Refresh()


def _provider_unwell(request: Request, client: Client, seconds: float) -> RefreshFailedError:
    whose = "secrets whose OAuth client is unknown"
    if client is not None:
        whose = f"OAuth client {one_line(client, limit=60)}"
    return RefreshFailedError(
        f"the provider behind {whose} has just failed to refresh many secrets; nothing was sent",
        advice=f"Try again in {seconds:.0f} s; if it stays, check the OAuth client in FlowMate",
        endpoint=request.endpoint,
        secret_id=request.secret_id,
    )
