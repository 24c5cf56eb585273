"""What is sent: a request with all that its attempts need, and who is told how it ended."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from typing import Any, Protocol

from flowmate_async.failures import Failure
from flowmate_async.protocol import Request
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits, Response

OFF_WIRE: AbstractContextManager[Any] = nullcontext()

Outcome = Response | Failure
"""A good answer, or what is wrong."""


class Errand:
    """One request with all that its attempts need; its ``repr`` is the default one, without fields.

    Args:
        request: what to send.
        headers: its credentials.
        limits: the bounds of each attempt.
        wire: entered for exactly as long as an attempt is on the wire.
    """

    __slots__ = ("headers", "limits", "request", "wire")

    def __init__(
        self,
        request: Request,
        headers: Headers,
        limits: Limits,
        wire: AbstractContextManager[Any] = OFF_WIRE,
    ) -> None:
        self.request: Request = request
        self.headers: Headers = headers
        self.limits: Limits = limits
        self.wire: AbstractContextManager[Any] = wire


class Receiver(Protocol):
    """Who waits for an errand that nobody awaits."""

    def receive(self, outcome: Outcome | Exception) -> None:
        """How it ended; an exception is a fault of this library's own."""


class UnawaitedErrand(Errand):
    """An errand for one attempt that is made at once: it carries back up what each layer will need then.

    One object instead of a closure a layer: what is alive while requests are in flight is what the garbage
    collector looks through, again and again, and it cost more than the flow control itself.

    Args:
        request: see :class:`Errand`.
        headers: see there.
        limits: see there.
        wire: see there.
        receiver: told how it ended.

    Attributes:
        sent_at: when admission let it pass.
        epoch: of the breaker, when it let it pass.
        on_answer: told what the transport brought.
        on_outcome: told what that means.
    """

    __slots__ = ("_context", "epoch", "on_answer", "on_outcome", "receiver", "sent_at")

    def __init__(
        self,
        request: Request,
        headers: Headers,
        limits: Limits,
        wire: AbstractContextManager[Any],
        receiver: Receiver,
    ) -> None:
        super().__init__(request, headers, limits, wire)
        self.receiver: Receiver = receiver
        # The caller's: a transport may tell in that of whoever made the connection.
        self._context: Context = copy_context()
        self.sent_at: float
        self.epoch: int
        self.on_answer: OnAnswer
        self.on_outcome: OnOutcome

    def __call__(self, answer: Response | Exception) -> None:
        """Go on with what the transport brought."""
        self._context.run(self.on_answer, self, answer)


OnAnswer = Callable[[UnawaitedErrand, Response | Exception], object]
OnOutcome = Callable[[UnawaitedErrand, Outcome | Exception], object]
