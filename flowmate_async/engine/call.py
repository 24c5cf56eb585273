"""A call: one request under way, with its state, and as whom it is sent."""

from contextvars import Context
from typing import Any, Protocol

import msgspec

from flowmate_async.contract.protocol import Request
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.refresh import Refresh
from flowmate_async.engine.retry import RetrySchedule
from flowmate_async.engine.states import READY
from flowmate_async.errors import FlowMateError
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits, Response

Outcome = Response | Exception
"""How a call ended: a good answer, a :class:`FlowMateError`, or a fault of this library."""


class Token(Protocol):
    """A token that a call can be sent with."""

    headers: Headers


class Identity(Protocol):
    """The admin or one user, with the token that is cached of each."""

    def current(self, now: float) -> Token | None:
        """Return the cached token; ``None`` when one has to be obtained first.

        Args:
            now: seconds of the client's monotonic clock.
        """
        ...

    def obtain(self, call: "Call") -> None:
        """Obtain a token for a parked call; the engine then resumes the call, or fails it."""
        ...

    def abandon(self, call: "Call") -> None:
        """Forget a parked call: nothing waits for it any longer."""
        ...

    def hurry(self, call: "Call") -> None:
        """Note that a parked call has become an interactive one."""
        ...

    def accepted(self, token: Token | None, now: float) -> None:
        """Note that upstream accepted this token."""
        ...

    def reject(self, token: Token, now: float) -> bool:
        """Note that upstream rejected this token. Return whether another one may help."""
        ...


class Tally(msgspec.Struct):
    """The number of requests sent on behalf of one user of a sweep."""

    requests: int = 0


class Trouble(msgspec.Struct, eq=False):
    """What only a call has that was not answered well, or had to wait for a sick upstream.

    Attributes:
        not_before: when it may be sent again after a failure, in seconds of the monotonic clock.
        schedule: the retries; ``None`` before the first failure.
        rejection: why the first token was rejected; ``None`` before that.
        rejected: that token.
        patience_seconds: how long the call may still wait for a sick upstream; ``None`` before it waits.
        first_sent_at: when it was sent for the first time.
    """

    not_before: float = float("-inf")
    schedule: RetrySchedule | None = None
    rejection: FlowMateError | None = None
    rejected: Token | None = None
    patience_seconds: float | None = None
    first_sent_at: float | None = None


class Progress(Protocol):
    """The engine, as its calls know it."""

    def answered(self, call: "Call", answer: Response | Exception) -> None:
        """Take what the transport brought."""

    def resume(self, *calls: "Call") -> None:
        """Decide anew about calls that have waited."""

    def fail(self, call: "Call", error: Exception) -> None:
        """End a call that waits with an error."""


class Call(msgspec.Struct, eq=False):
    """One request under way. Its ``repr`` is the default one, without fields.

    A subclass says in :meth:`receive` what becomes of the outcome. It is a struct, since there is one for
    every request and nothing is made faster.

    Attributes:
        request: what to send.
        identity: as whom it is sent.
        limits: the bounds of each attempt.
        priority: in which queue it waits.
        tally: counts its requests, if there is one.
        state: where it is, see ``states.py``.
        engine: sends it; set when it is submitted.
        context: the caller's, if listeners hear of the call.
        token: what it is sent with; ``None`` while there is none.
        sent_at: when the last attempt was sent, in seconds of the client's monotonic clock.
        epoch: the breaker's, when the last attempt was sent.
        was_sent: whether any attempt was sent.
        trouble: see :class:`Trouble`; ``None`` for most calls.
        refresh: what it holds as a GET that may refresh; ``None`` for most calls.
    """

    request: Request
    identity: Identity
    limits: Limits
    priority: Priority
    tally: Tally | None = None
    state: int = READY
    engine: Progress = None  # type: ignore[assignment]  # until it is submitted
    context: Context | None = None
    token: Token | None = None
    sent_at: float = 0.0
    epoch: int = 0
    was_sent: bool = False
    trouble: Trouble | None = None
    refresh: Refresh | None = None

    def __repr__(self) -> str:
        return object.__repr__(self)

    def receive(self, outcome: Outcome) -> None:
        """Take the outcome, once. Must not raise."""
        raise NotImplementedError

    @property
    def is_wanted(self) -> bool:
        """Whether anything still waits for the answer. Asked before a call is sent again."""
        return True

    @property
    def first_sent_at(self) -> float | None:
        """When it was sent for the first time, in seconds of the client's monotonic clock."""
        if not self.was_sent:
            return None
        first = None if self.trouble is None else self.trouble.first_sent_at
        return self.sent_at if first is None else first

    def troubled(self) -> Trouble:
        """Return its :class:`Trouble`, made on first use."""
        if self.trouble is None:
            self.trouble = Trouble()
        return self.trouble

    def __call__(self, answer: Response | Exception) -> None:
        """Take what the transport brought."""
        if self.context is None:
            self.engine.answered(self, answer)
        else:
            self.context.run(self.engine.answered, self, answer)

    def go_on(self) -> None:
        """Be decided about anew: what it waited for is there."""
        self.engine.resume(self)

    def fail(self, error: Exception) -> None:
        """End with an error: what it waited for cannot be had."""
        self.engine.fail(self, error)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []
