"""A call: one request in progress, with its state and the identity it is sent with."""

from collections.abc import Callable
from contextvars import Context
from typing import Any, ParamSpec, Protocol

import msgspec

from flowmate_async.contract.protocol import Request
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.refresh import Refresh
from flowmate_async.engine.retry import RetrySchedule
from flowmate_async.engine.states import READY
from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits, Response

P = ParamSpec("P")
Outcome = Response | Exception
"""How a call ended: a good answer, a :class:`FlowMateError`, or a fault of this library."""


class Token(Protocol):
    """A token that a call can be sent with."""

    headers: Headers


class Identity(Protocol):
    """The admin or one user, with the cached token."""

    def current(self, now: float, wall: float) -> Token | None:
        """Return the cached token; ``None`` if one has to be obtained first.

        Args:
            now: seconds of the client's monotonic clock.
            wall: seconds since the Unix epoch.
        """
        ...

    def obtain(self, call: "Call") -> None:
        """Obtain a token for a parked call. The engine then resumes the call or fails it."""
        ...

    def abandon(self, call: "Call") -> None:
        """Forget a parked call that nothing waits for any longer."""
        ...

    def hurry(self, call: "Call") -> None:
        """Note that a parked call has become interactive."""
        ...

    def accepted(self, token: Token | None, now: float) -> None:
        """Note that upstream accepted this token."""
        ...

    def reject(self, token: Token, now: float) -> bool:
        """Note that upstream rejected this token. Return whether another token may help."""
        ...


class Tally(msgspec.Struct):
    """The number of requests sent on behalf of one user of a sweep."""

    requests: int = 0


class Trouble(msgspec.Struct, eq=False):
    """State of a call that failed at least once or had to wait for a failing upstream.

    Attributes:
        not_before: when it may be sent again after a failure, in seconds of the monotonic clock.
        schedule: the retries; ``None`` before the first failure.
        rejection: why the first token was rejected; ``None`` before that.
        rejected: that token.
        patience_seconds: how long the call may still wait for a failing upstream; ``None`` before it waits.
        first_sent_at: when it was sent for the first time.
        failed_attempts: how often it failed and was prepared for another attempt.
    """

    not_before: float = float("-inf")
    schedule: RetrySchedule | None = None
    rejection: FlowMateError | None = None
    rejected: Token | None = None
    patience_seconds: float | None = None
    first_sent_at: float | None = None
    failed_attempts: int = 0


class Progress(Protocol):
    """The engine, as its calls know it."""

    answered: "Callable[[Call, Response | Exception], None]"
    """Takes the outcome of the exchange."""

    def resume(self, *calls: "Call") -> None:
        """Decide again about calls that have waited."""

    def fail(self, call: "Call", error: Exception) -> None:
        """Fail a waiting call."""


class Call(msgspec.Struct, eq=False):
    """One request in progress. Its ``repr`` is the default one, without fields.

    A subclass handles the outcome in :meth:`receive`. It is a struct because there is one per request, and a
    struct is the fastest object to create.

    Attributes:
        request: what to send.
        identity: whose token it is sent with.
        limits: the bounds of each attempt.
        priority: the queue it waits in.
        tally: counts its requests, if set.
        state: its state; see ``states.py``.
        engine: sends it; set when it is submitted.
        context: the caller's context, if events are listened to.
        token: the token it is sent with; ``None`` while there is none.
        sent_at: when the last attempt was sent, in seconds of the client's monotonic clock.
        epoch: the breaker's epoch when the last attempt was sent.
        was_sent: whether any attempt was sent.
        trouble: see :class:`Trouble`; ``None`` for most calls.
        refresh: see :class:`~flowmate_async.engine.refresh.Refresh`; ``None`` for most calls.
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
        """Whether anything still waits for the answer. Checked before a call is sent again."""
        return True

    @property
    def first_sent_at(self) -> float | None:
        """When it was sent for the first time, in seconds of the client's monotonic clock."""
        if not self.was_sent:
            return None
        first = None if self.trouble is None else self.trouble.first_sent_at
        return self.sent_at if first is None else first

    @property
    def attempt(self) -> int:
        """1 for the first attempt, 2 for the first repetition, and so on."""
        return 1 if self.trouble is None else self.trouble.failed_attempts + 1

    def troubled(self) -> Trouble:
        """Return its :class:`Trouble`, made on first use."""
        if self.trouble is None:
            self.trouble = Trouble()
        return self.trouble

    def __call__(self, answer: Response | Exception) -> None:
        """Take the outcome of the exchange."""
        self.engine.answered(self, answer)

    def run(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function in the caller's context, so that listeners see it."""
        if self.context is None:
            function(*args, **kwargs)
        else:
            self.context.run(function, *args, **kwargs)

    def go_on(self) -> None:
        """Resume: what it waited for is available."""
        self.engine.resume(self)

    def fail(self, error: Exception) -> None:
        """Fail: what it waited for is not available."""
        self.engine.fail(self, error)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


def closed_error() -> ConfigurationError:
    """Return the error for calls that ended because the client was closed."""
    return ConfigurationError("the client was closed before the answer came")
