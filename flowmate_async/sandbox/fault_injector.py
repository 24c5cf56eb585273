"""Fault injector: applies the faults that are due for a request. Endpoints know nothing about faults.

The order for one request: a stale connection, delay, changes of the world, a replacement answer, the true
answer, changes to it, changes to its bytes.
"""

from collections.abc import Awaitable, Callable

import anyio
from aiohttp import web

from flowmate_async.sandbox.answers import Answer, error
from flowmate_async.sandbox.bad_answers import failed, iam_down, ingress_page, spoiled, throttle
from flowmate_async.sandbox.byte_scripts import Ending, Script, script_for
from flowmate_async.sandbox.fault_schedule import FaultSchedule
from flowmate_async.sandbox.faults import (
    DatabaseDown,
    Error,
    ErrorAfter,
    Fault,
    Hang,
    HangAfter,
    IamDown,
    IngressPage,
    ItemsMove,
    Refused,
    Reset,
    ResetAfter,
    Throttle,
    TokenRevoked,
    UserDeleted,
)
from flowmate_async.sandbox.preliminaries import carried_token
from flowmate_async.sandbox.raw_response import (
    UNANSWERED,
    RawResponse,
    StaleConnections,
    caller_gone,
    head_of,
)
from flowmate_async.sandbox.responses import deliver
from flowmate_async.sandbox.routes import Route
from flowmate_async.sandbox.user import User
from flowmate_async.sandbox.world import World


class FaultInjector:
    """Fault injector around an endpoint. ``refuse(seconds)`` closes the listener for a moment."""

    __slots__ = ("_now", "_refuse", "_schedule", "_stale", "_world")

    def __init__(
        self,
        chance: FaultSchedule,
        *,
        world: World,
        now: Callable[[], float],
        refuse: Callable[[float], None],
        stale: StaleConnections,
    ) -> None:
        self._schedule = chance
        self._world = world
        self._now = now
        self._refuse = refuse
        self._stale = stale

    async def exchange(
        self, request: web.BaseRequest, route: Route, answer: Callable[[], Awaitable[Answer]]
    ) -> web.Response | RawResponse:
        """Return the response to one request; ``answer()`` asks the endpoint."""
        if request.transport in self._stale:
            return self._unanswered(Ending.RESET)
        due = self._schedule.due(route.template)
        if due.delay_seconds:
            await anyio.sleep(due.delay_seconds)
        reader = self._reader(request)
        for change in due.changes:
            self._change_before(change, reader)
        response = None if due.one is None else await self._instead(due.one, request)
        if response is not None:
            return response
        true = await answer()
        for change in due.changes:
            self._change_after(change, reader)
        return await self._afterwards(due.one, request, true)

    async def _instead(self, fault: Fault, request: web.BaseRequest) -> web.Response | RawResponse | None:
        """Return what replaces the answer of a request that is not processed; None to process it."""
        match fault:
            case Hang(seconds=seconds):
                return await self._silent(request, seconds)
            case Reset():
                return self._unanswered(Ending.RESET)
            case Refused(seconds=seconds):
                self._refuse(seconds)
                return self._unanswered(Ending.RESET)
            case Throttle():
                return deliver(request, throttle(fault, self._now()))
            case Error():
                return deliver(request, failed(fault))
            case IngressPage():
                return deliver(request, ingress_page(fault))
            case DatabaseDown(seconds=seconds):
                await anyio.sleep(seconds)
                return deliver(request, error(401))
            case IamDown():
                return deliver(request, iam_down(request.headers.get("Authorization")))
            case _:
                return None

    async def _afterwards(
        self, fault: Fault | None, request: web.BaseRequest, answer: Answer
    ) -> web.Response | RawResponse:
        """Return the response to a processed request."""
        match fault:
            case None:
                return deliver(request, answer)
            case HangAfter(seconds=seconds):
                return await self._silent(request, seconds)
            case ResetAfter():
                return self._unanswered(Ending.RESET)
            case ErrorAfter():
                return deliver(request, failed(fault))
            case _:
                return self._delivered_badly(fault, request, deliver(request, spoiled(fault, answer)))

    def _delivered_badly(
        self, fault: Fault, request: web.BaseRequest, response: web.Response
    ) -> web.Response | RawResponse:
        body = response.body if isinstance(response.body, bytes) else b""
        script = script_for(fault, body, lambda length: head_of(response, request, length))
        # An answer without a body, such as a 304, cannot be cut or get a wrong length.
        if script is None or not body or request.method == "HEAD":
            return response
        status = UNANSWERED if script.ending in (Ending.RESET, Ending.SILENT) else response.status
        return RawResponse(script, stale=self._stale, status=status)

    def _unanswered(self, ending: Ending) -> RawResponse:
        return RawResponse(Script((), ending), stale=self._stale, status=UNANSWERED)

    async def _silent(self, request: web.BaseRequest, seconds: float | None) -> RawResponse:
        await caller_gone(request, seconds)
        return self._unanswered(Ending.CLOSED)

    def _change_before(self, change: Fault, reader: User | None) -> None:
        if reader is None:
            return
        match change:
            case TokenRevoked():
                self._world.revoke_tokens(reader.username)
            case UserDeleted():
                self._world.delete_user(reader.username)
            case _:
                pass

    def _change_after(self, change: Fault, reader: User | None) -> None:
        if isinstance(change, ItemsMove) and reader is not None:
            self._world.move_first_secret_last(reader.username)

    def _reader(self, request: web.BaseRequest) -> User | None:
        token = carried_token(request.headers.get("Authorization"))
        return None if token is None else self._world.tokens.holder(token)
