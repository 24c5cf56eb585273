"""Calls that a coroutine awaits."""

import asyncio
from typing import Any

import msgspec

from flowmate_async.contract.protocol import Request
from flowmate_async.engine.call import Call, Identity, Outcome
from flowmate_async.engine.engine import Engine
from flowmate_async.engine.priority import current_priority
from flowmate_async.transport.base import Limits, Response


def _future() -> "asyncio.Future[Response]":
    return asyncio.get_running_loop().create_future()


def mark_retrieved(future: "asyncio.Future[Any]") -> None:
    """Mark the exception of a future as retrieved, in case it came at the same time as a cancellation."""
    if future.done() and not future.cancelled():
        future.exception()


class AwaitedCall(Call, eq=False, kw_only=True):
    """A call with a future.

    Attributes:
        future: done when the call has ended.
    """

    future: "asyncio.Future[Response]" = msgspec.field(default_factory=_future)

    @property
    def is_wanted(self) -> bool:
        """Whether anything waits for the answer."""
        return not self.future.done()

    def receive(self, outcome: Outcome) -> None:
        """Wake the coroutine."""
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    async def answer(self, engine: Engine) -> Response:
        """Submit the call and wait for its answer.

        Raises:
            FlowMateError: what the last failure means.
        """
        engine.submit(self)
        try:
            return await self.future
        except asyncio.CancelledError:
            mark_retrieved(self.future)
            engine.drop(self)
            raise


async def send(engine: Engine, request: Request, identity: Identity, limits: Limits) -> Response:
    """Send one request with the caller's priority and wait for its answer.

    Args:
        engine: sends it.
        request: what to send.
        identity: whose token to send it with.
        limits: the bounds of each attempt.

    Raises:
        FlowMateError: what the last failure means.
    """
    return await AwaitedCall(request, identity, limits, current_priority()).answer(engine)
