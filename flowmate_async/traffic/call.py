"""What is sent: a request with all that its attempts need, and who is told how it ended."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from typing import Any, Protocol

import msgspec

from flowmate_async.contract.failures import Failure
from flowmate_async.contract.protocol import Request
from flowmate_async.redaction import Headers
from flowmate_async.traffic.breaker import Breaker
from flowmate_async.transport.base import Limits, Response

OFF_WIRE: AbstractContextManager[Any] = nullcontext()

Outcome = Response | Failure
"""A good answer, or what is wrong."""

Identify = Callable[[], Awaitable[object]]
"""Finds out which OAuth client is behind a secret, as far as a listing shows it."""


async def _unidentified() -> None:
    """Find out nothing."""


class Errand(msgspec.Struct, eq=False):
    """One request with all that its attempts need; it prints as any object does, without its fields.

    Attributes:
        request: what to send.
        headers: its credentials.
        limits: the bounds of each attempt.
        wire: entered for exactly as long as an attempt is on the wire.
        identify: finds out whose refresh it would be when the request does not say so.
        unattributed: whether its first attempt, made at once, was sent for an unknown client.
    """

    request: Request
    headers: Headers
    limits: Limits
    wire: AbstractContextManager[Any]
    identify: Identify = _unidentified
    unattributed: bool = False

    def __repr__(self) -> str:
        return object.__repr__(self)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Receiver(Protocol):
    """Who waits for an errand that nobody awaits."""

    def receive(self, outcome: Outcome | Exception) -> None:
        """How it ended; an exception is a fault of this library's own."""


def _nobody(_errand: "UnawaitedErrand", _ended: Any) -> object:
    raise AssertionError("an errand came back before it was sent")


class UnawaitedErrand(Errand, kw_only=True):
    """An errand for one attempt that is made at once: it carries back up what each layer will need then.

    One object instead of a closure a layer: what is alive while requests are in flight is what the garbage
    collector looks through, again and again, and it cost more than the flow control itself.

    Attributes:
        receiver: told how it ended.
        context: the caller's; a transport may tell in that of whoever made the connection.
        sent_at: when admission let it pass.
        epoch: of the breaker, when it let it pass.
        provider: the breaker of the OAuth client, if a slot for a refresh was taken.
        provider_epoch: of that breaker.
        auth_client_id: whose slot was taken.
        on_answer: told what the transport brought.
        on_outcome: told what that means.
    """

    receiver: Receiver
    context: Context = msgspec.field(default_factory=copy_context)
    sent_at: float = 0.0
    epoch: int = 0
    provider: Breaker | None = None
    provider_epoch: int = 0
    auth_client_id: str | None = None
    on_answer: "OnAnswer" = _nobody
    on_outcome: "OnOutcome" = _nobody

    def __call__(self, answer: Response | Exception) -> None:
        """Go on with what the transport brought."""
        self.context.run(self.on_answer, self, answer)


OnAnswer = Callable[[UnawaitedErrand, Response | Exception], object]
OnOutcome = Callable[[UnawaitedErrand, Outcome | Exception], object]
