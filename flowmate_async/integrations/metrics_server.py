"""A small HTTP server on the client's own event loop: ``/metrics``, ``/healthz`` and ``/readyz``.

``/healthz`` answers as long as the loop runs; ``/readyz`` answers 503 while no work should be sent here, and
200 with a reason while work is degraded. The caller supplies the metrics.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from flowmate_async.errors import ConfigurationError

__all__ = [
    "serve_metrics",
]

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_SHUTDOWN_SECONDS = 1.0


@asynccontextmanager
async def serve_metrics(
    metrics: Callable[[], bytes],
    *,
    content_type: str,
    ready: Callable[[], bool],
    degraded: Callable[[], str] = lambda: "",
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[int]:
    """Serve until the block ends; yields the port.

    Args:
        metrics: returns the body of ``/metrics``; called on the event loop for each request.
        content_type: its media type.
        ready: returns whether ``/readyz`` answers 200.
        degraded: returns the problem for ``/readyz``; empty when all is well.
        host: the address to listen on; ``0.0.0.0`` for all.
        port: 0 for a free one.

    Raises:
        ConfigurationError: cannot listen on the port.
    """

    async def respond(request: web.BaseRequest) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers=_HEADERS)
        match request.path:
            case "/metrics":
                return web.Response(body=metrics(), headers={**_HEADERS, "Content-Type": content_type})
            case "/healthz":
                return web.Response(text="ok\n", headers=_HEADERS)
            case "/readyz":
                good, problem = ready(), degraded()
                text = ("degraded" if problem else "ready") if good else "not ready"
                text = f"{text}: {problem}\n" if problem else f"{text}\n"
                return web.Response(status=200 if good else 503, text=text, headers=_HEADERS)
            case _:
                return web.Response(status=404, headers=_HEADERS)

    runner = web.ServerRunner(web.Server(respond, access_log=None), shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        yield await _listen(runner, host, port)
    finally:
        await runner.cleanup()


async def _listen(runner: web.ServerRunner, host: str, port: int) -> int:
    try:
        await web.TCPSite(runner, host, port).start()
    except (OSError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or "there is no such port"
    else:
        return int(runner.addresses[0][1])
    raise ConfigurationError(f"metrics cannot be served on {host}, port {port}: {reason}")
