"""Dead man's switch: pings that tell a monitor when a job starts, succeeds or fails, as for healthchecks.io.

The monitor raises the alarm if no success comes in time, so a job that never runs is noticed too.
"""

import asyncio
from typing import Literal

from flowmate_async.integrations.receiver_url import ReceiverUrl
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits, Transport, TransportError
from flowmate_async.transport.factory import transport_by_name

__all__ = ["Ping"]

_LIMITS = Limits(timeout_seconds=5.0, max_body_bytes=64 * 1024)
_WAITS_SECONDS = (1.0, 3.0)
_SUFFIXES = {"start": "/start", "success": "", "failure": "/fail"}


class Ping:
    """Sends pings: POST to the URL on success, to ``/start`` below it at the start, to ``/fail`` on failure.

    Args:
        url: https, or http to this machine. Whoever knows it can ping, so no message repeats it.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    def __init__(self, url: str) -> None:
        example = "https://hc-ping.com/your-uuid-here"
        named, url = ReceiverUrl(url), ""
        self._receiver = named.receiver(what="the ping URL", example=example)

    async def send(self, event: Literal["start", "success", "failure"], body: bytes) -> str:
        """Send one ping, up to three times. Return why it was not accepted; empty if it was.

        Args:
            event: what happened.
            body: JSON for the monitor to show; must hold no secret.
        """
        problem = ""
        for wait in (0.0, *_WAITS_SECONDS):
            await asyncio.sleep(wait)
            problem, again = await self._sent(_SUFFIXES[event], body)
            if not again:
                break
        return problem

    async def _sent(self, suffix: str, body: bytes) -> tuple[str, bool]:
        """Return the problem, and whether to try again."""
        try:
            async with self._transport() as transport:
                answer = await transport.send("POST", self._receiver.below(suffix), Headers(), body, _LIMITS)
        except TransportError as broken:
            return f"it cannot be reached: {broken.failure.replace('_', ' ')}", True
        if 200 <= answer.status < 300:
            return "", False
        return f"it answered {answer.status}", answer.status >= 500 or answer.status == 429

    def _transport(self) -> Transport:
        return transport_by_name("auto", self._receiver.origin, ca_file=None, proxy=None, trust_env=False)
