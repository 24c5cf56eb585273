"""Waiting for the rate, in one task for all calls."""

import asyncio
from collections.abc import Callable

from flowmate_async.engine.call import Call
from flowmate_async.engine.pacer import Pacer
from flowmate_async.engine.ready_queue import ReadyQueue
from flowmate_async.errors import FlowMateError


class RateWait:
    """Waits for one token after another while calls need them.

    Args:
        pacer: has the tokens.
        ready: the calls that wait.
        send: sends what can be sent.
        fail: fails a call, if the rate is unavailable.
    """

    __slots__ = ("_fail", "_pacer", "_ready", "_send", "_task")

    def __init__(
        self,
        pacer: Pacer,
        ready: ReadyQueue[Call],
        *,
        send: Callable[[], object],
        fail: Callable[[Call, Exception], object],
    ) -> None:
        self._pacer = pacer
        self._ready = ready
        self._send = send
        self._fail = fail
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to wait, unless calls wait for a slot as well."""
        if self._task is None and self._pacer.has_slot:
            self._task = asyncio.get_running_loop().create_task(self._wait())

    async def aclose(self) -> None:
        """Stop waiting."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _wait(self) -> None:
        try:
            while self._ready and self._pacer.has_slot:
                self._pacer.ready = self._ready.size
                await self._pacer.wait_for_token()
                self._send()
                self._pacer.discard_token()
        except FlowMateError as error:  # the shared rate is unavailable
            while (call := self._ready.pop()) is not None:
                self._fail(call, error.clone())
        finally:
            self._task = None
