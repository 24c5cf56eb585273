"""The next step of a call: one decision without side effects.

The engine decides whenever a call could be sent: when it is new, when its turn has come, when a wait is over,
after a failure. The gates are checked in this order: is the wait of a retry over; is there a token; does a
GET that may refresh have its turn; does upstream seem healthy; is the secret in quarantine; may a refresh
begin. Concurrency and rate come last, in the engine, so that a call never holds a slot there while it waits
for something else.
"""

import enum

import msgspec

from flowmate_async.contract.protocol import Request
from flowmate_async.engine.breaker import Breaker
from flowmate_async.engine.call import Call
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.quarantine import Quarantine
from flowmate_async.engine.refreshes import Refreshes, RefreshStep
from flowmate_async.errors import FlowMateError, RefreshFailedError, UpstreamUnavailableError


class Now(enum.Enum):
    """Steps that take effect immediately."""

    SEND = "send"
    OBTAIN_TOKEN = "obtain token"  # noqa: S105 - no password


class Wait(msgspec.Struct, frozen=True):
    """Decide again later.

    Attributes:
        until: seconds of the client's monotonic clock.
        patience_seconds: how long the call may still wait for a failing upstream after that; ``None`` if this
            wait has another reason.
    """

    until: float
    patience_seconds: float | None = None


class Refuse(msgspec.Struct, frozen=True):
    """End the call without sending it.

    Attributes:
        error: why.
        by_breaker: whether the circuit breaker for all of upstream refused it.
        by_provider: whether the breaker of its OAuth client's provider refused it.
    """

    error: FlowMateError
    by_breaker: bool = False
    by_provider: bool = False


Step = Now | Wait | Refuse | RefreshStep
SEND = Now.SEND


class Gates(msgspec.Struct, frozen=True, gc=False):
    """The gates that a call has to pass, and the maximum wait for a failing upstream.

    Attributes:
        breaker: the breaker for everything that is sent.
        quarantine: secrets that upstream may still be refreshing.
        refreshes: turns of secrets and slots of OAuth clients.
        patience_seconds: how long background calls wait for a failing upstream.
    """

    breaker: Breaker
    quarantine: Quarantine
    refreshes: Refreshes
    patience_seconds: float


def next_step(call: Call, gates: Gates, now: float) -> Step:
    """Return the next step of a call.

    Args:
        call: a call that is neither in flight nor done, with its identity's current token.
        gates: see :class:`Gates`.
        now: seconds of the client's monotonic clock.
    """
    if call.trouble is not None and call.trouble.not_before > now:
        return Wait(call.trouble.not_before)
    if call.token is None:
        return Now.OBTAIN_TOKEN
    if call.request.may_refresh and gates.refreshes.awaits_turn(call):
        return RefreshStep.AWAIT_TURN
    if not gates.breaker.closed and (seconds := gates.breaker.closed_for()) is not None:
        return _until_healthy(call, gates, seconds, now)
    if gates.quarantine.secrets and (until := gates.quarantine.until(call.request.secret_id)) > now:
        if call.priority is Priority.INTERACTIVE:
            return Refuse(_perhaps_refreshing(call.request, until - now))
        return Wait(until)
    if not call.request.may_refresh:
        return SEND
    step = gates.refreshes.next_step(call)
    if step is RefreshStep.SEND:
        return SEND
    return Refuse(step, by_provider=True) if isinstance(step, RefreshFailedError) else step


def _until_healthy(call: Call, gates: Gates, seconds: float, now: float) -> Step:
    """Let background calls wait for a failing upstream. Fail interactive ones immediately."""
    if call.priority is Priority.INTERACTIVE:
        patience = 0.0
    elif call.trouble is None or call.trouble.patience_seconds is None:
        patience = gates.patience_seconds
    else:
        patience = call.trouble.patience_seconds
    if seconds > patience:
        return Refuse(_unwell(call.request, seconds), by_breaker=True)
    return Wait(now + seconds, patience - seconds)


def _perhaps_refreshing(request: Request, seconds: float) -> RefreshFailedError:
    return RefreshFailedError(
        "FlowMate may still be refreshing this secret for an earlier request; nothing was sent",
        advice=f"Try again in {seconds:.0f} s",
        endpoint=request.endpoint,
        secret_id=request.secret_id,
    )


def _unwell(request: Request, seconds: float) -> UpstreamUnavailableError:
    return UpstreamUnavailableError(
        "FlowMate failed for many users a moment ago; nothing was sent",
        advice=f"Try again in {seconds:.0f} s",
        endpoint=request.endpoint,
        secret_id=request.secret_id,
    )
