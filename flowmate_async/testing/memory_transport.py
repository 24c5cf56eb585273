"""A transport without a network: a function answers each request."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits, OnDone, Response, TransportError

__all__ = [
    "Answer",
    "ImmediateMemoryTransport",
    "MemoryTransport",
    "json_response",
]

Answer = Callable[[str, str, Headers, bytes | None], Response | Awaitable[Response]]
"""Called with method, path, headers and body; may raise :class:`~flowmate_async.TransportError`."""


class MemoryTransport:
    """A :class:`~flowmate_async.Transport` in memory: no sockets, so it also runs on virtual time.

    Args:
        answer: answers one request, at once or as an awaitable.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.sent: int = 0
        """Return how many requests were sent."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    async def send(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | None,
        limits: Limits,  # noqa: ARG002 - the seam's
    ) -> Response:
        """Let the function answer; ``limits`` are not enforced here."""
        self.sent += 1
        answer = self._answer(method, path, headers, body)
        return await answer if inspect.isawaitable(answer) else answer


class ImmediateMemoryTransport(MemoryTransport):
    """The same as an :class:`~flowmate_async.ImmediateTransport`, which always has an idle connection.

    Args:
        answer: answers one request, at once or as an awaitable.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._exchanges: set[asyncio.Task[None]] = set()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel the exchanges in flight."""
        for exchange in self._exchanges:
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)

    def send_at_once(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | None,
        limits: Limits,
        *,
        then: OnDone,
    ) -> bool:
        """See :meth:`flowmate_async.ImmediateTransport.send_at_once`."""
        exchange = asyncio.get_running_loop().create_task(
            self._exchange(method, path, headers, body, limits, then=then)
        )
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)
        return True

    async def _exchange(self, *request: Any, then: OnDone) -> None:
        try:
            answer: Response | Exception = await self.send(*request)
        except Exception as broken:  # noqa: BLE001 - there is no caller to raise it to
            answer = broken
        except asyncio.CancelledError:
            then(TransportError("interrupted", "the transport was closed"))
            raise
        then(answer)


def json_response(body: bytes, status: int = 200, **headers: str) -> Response:
    """Return a JSON answer; ``retry_after="3"`` becomes the header ``retry-after``."""
    lowered = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"content-type": "application/json", **lowered}, body)
