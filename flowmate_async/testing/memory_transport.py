"""A transport without a network: a function answers each request."""

import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits, Response

Answer = Callable[[str, str, Headers, bytes | None], Response | Awaitable[Response]]
"""Called with method, path, headers and body; may raise :class:`~flowmate_async.TransportError`."""


class MemoryTransport:
    """A :class:`~flowmate_async.Transport` in memory: no sockets, so it also runs on virtual time.

    Args:
        answer: answers one request, at once or as an awaitable.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.sent = 0
        """How many requests were sent."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to close."""

    async def send(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | None,
        limits: Limits,  # noqa: ARG002 - the seam's
    ) -> Response:
        """Have the function answer; ``limits`` are the function's to keep, if it cares."""
        self.sent += 1
        answer = self._answer(method, path, headers, body)
        return await answer if inspect.isawaitable(answer) else answer


def json_response(body: bytes, status: int = 200, **headers: str) -> Response:
    """A JSON answer; ``retry_after="3"`` becomes the header ``retry-after``."""
    lowered = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"content-type": "application/json", **lowered}, body)
