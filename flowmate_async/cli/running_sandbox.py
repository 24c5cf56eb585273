"""Requests to the admin API of a running sandbox, on this machine only.

These requests never reach a real FlowMate.
"""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import aiohttp
import msgspec
from cyclopts import Parameter

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted
from flowmate_async.system.private_files import read_private_text
from flowmate_async.values.settings import checked_base_url, is_loopback

_TIMEOUT = aiohttp.ClientTimeout(total=60)


class _Reply(Redacted, frozen=True):
    status: int
    body: bytes


class _Refusal(msgspec.Struct):
    message: str


@Parameter(name="*", group="Connection")
@dataclass(frozen=True, kw_only=True)
class RunningSandbox:
    """The sandbox's URL, as ``flowmate sandbox`` printed it."""

    base_url: Annotated[
        str | None, Parameter(env_var="FLOWMATE_BASE_URL", help="The sandbox's URL, on this machine.")
    ] = field(default=None, repr=False)
    admin_token_file: Annotated[
        Path | None,
        Parameter(
            env_var="FLOWMATE_ADMIN_TOKEN_FILE",
            help="A private file (0600) with the admin token; or set FLOWMATE_ADMIN_TOKEN.",
        ),
    ] = None

    async def send(self, method: str, route: str, body: object = None) -> bytes:
        """Send one request to the admin API and return the body of its answer.

        Raises:
            ConfigurationError: no sandbox answers, or it refuses.
        """
        reply = await self._exchange(method, f"{self._url()}/_sandbox/{route}", body)
        if reply is None:
            raise ConfigurationError(
                f"no sandbox answers at {self._url()}", advice="Start one: flowmate sandbox"
            )
        if reply.status == 200:
            return reply.body
        raise ConfigurationError(
            _refusal(reply.body) or f"what answers at {self._url()} is not a sandbox of this version"
        )

    async def _exchange(self, method: str, url: str, body: object) -> _Reply | None:
        headers = {"Authorization": f"Bearer {self._admin_token()}"}
        data = None if body is None else msgspec.json.encode(body)
        # Errors stop here: the frame holds the token.
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.request(method, url, headers=headers, data=data, allow_redirects=False) as reply,
            ):
                return _Reply(reply.status, await reply.read())
        return None

    def _url(self) -> str:
        if not self.base_url:
            raise ConfigurationError(
                "no sandbox is named", advice="Set FLOWMATE_BASE_URL to what flowmate sandbox printed"
            )
        base_url = checked_base_url(self.base_url)
        if not is_loopback(urlsplit(base_url).hostname or ""):
            raise ConfigurationError(f"{base_url} is not a sandbox: a sandbox listens on this machine only")
        return base_url

    def _admin_token(self) -> str:
        if self.admin_token_file is not None:
            return read_private_text(self.admin_token_file, what="the admin token file").strip()
        if token := os.environ.get("FLOWMATE_ADMIN_TOKEN", "").strip():
            return token
        raise ConfigurationError(
            "there is no admin token", advice="Set FLOWMATE_ADMIN_TOKEN to what flowmate sandbox printed"
        )


def _refusal(body: bytes) -> str:
    """Return the message of the sandbox's own errors; nothing for any other body."""
    try:
        return msgspec.json.decode(body, type=_Refusal).message
    except msgspec.DecodeError:
        return ""
