"""Carry requests over a transport of coroutines: a fixed set of tasks, whatever the number of requests."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits, OnDone, Response, Transport, TransportError


class _Load(NamedTuple):
    """One request and its callback. Its ``repr`` shows neither."""

    method: str
    path: str
    headers: Headers
    body: bytes | None
    limits: Limits
    then: OnDone

    def __repr__(self) -> str:
        return object.__repr__(self)


class Carriers:
    """Tasks that carry requests over one transport, each one request at a time.

    A carrier whose request was answered waits for one turn of the loop, in which the next requests are sent,
    and ends if there is none for it. So there are never more tasks than requests in flight, and under load no
    tasks start or end.

    Args:
        transport: any :class:`Transport`.
        is_paused: whether nothing may be sent now. A pause may begin between :meth:`carry` and the first
            step of the carrier.
        outlast_pause: waits until the pause is over.
    """

    __slots__ = ("_free", "_is_paused", "_loads", "_outlast_pause", "_tasks", "_transport")

    def __init__(
        self,
        transport: Transport,
        *,
        is_paused: Callable[[], bool],
        outlast_pause: Callable[[], Awaitable[None]],
    ) -> None:
        self._transport = transport
        self._is_paused = is_paused
        self._outlast_pause = outlast_pause
        self._loads: deque[_Load] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = 0

    def carry(  # noqa: PLR0917 - as the transports take it
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits, then: OnDone
    ) -> None:
        """Send one request; see :meth:`Transport.send`. ``then`` is called later, once, with the outcome."""
        self._loads.append(_Load(method, path, headers, body, limits, then))
        if self._free:
            self._free -= 1  # a carrier that waits for its next request takes it
            return
        task = asyncio.get_running_loop().create_task(self._work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End every task. What is not answered yet ends with ``interrupted``."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._loads:
            self._loads.popleft().then(_closed())

    async def _work(self) -> None:
        while self._loads:
            load = self._loads.popleft()
            load.then(await self._carried(load))
            del load
            self._free += 1
            await asyncio.sleep(0)
        self._free -= 1

    async def _carried(self, load: _Load) -> Response | Exception:
        try:
            if self._is_paused():
                await self._outlast_pause()
            return await self._transport.send(load.method, load.path, load.headers, load.body, load.limits)
        except asyncio.CancelledError:
            load.then(_closed())
            raise
        except Exception as error:  # noqa: BLE001 - no caller could catch it
            return error


def _closed() -> TransportError:
    return TransportError("interrupted", "the transport was closed")
