"""Verify credentials against their app: a function of the caller asks the app, at its origins only.

Nothing is verified unless a check is passed to :meth:`FlowMate.verify`. TLS is verified and redirects are not
followed. Of the app's answer only the status is returned.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from flowmate_async.errors import ConfigurationError
from flowmate_async.integrations.origins import GivenOrigins, Origin, origin_of
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits, Transport
from flowmate_async.transport.factory import transport_by_name
from flowmate_async.transport.request_rules import is_target
from flowmate_async.values.secrets import Secret

__all__ = ["App", "AppCheck", "Verify"]

_LIMITS = Limits(timeout_seconds=15.0, max_body_bytes=1024 * 1024)


class App:
    """The app of one credential, as a check sees it."""

    __slots__ = ("_default_header", "_secret", "_transports")

    def __init__(
        self, secret: Secret, transports: dict[Origin, Transport], default_header: str | None
    ) -> None:
        self._secret = secret
        self._transports = transports
        self._default_header = default_header

    async def get(self, url: str) -> int:
        """Send a GET that carries the credential, and return the status of the answer.

        Args:
            url: a URL of one of the check's origins.

        Raises:
            ConfigurationError: it belongs to another origin, or the credential has no header form.
            TransportError: the app did not answer; an exception in a check means that nothing is known.
        """
        origin, target = _split(url)
        transport = self._transports.get(origin)
        if transport is None:
            raise ConfigurationError(
                f"the check's origins do not include {origin[0]}://{origin[1]}, port {origin[2]}",
                advice="Add the origin to the check if it belongs to the app",
            )
        sent = Headers(tuple(self._secret.auth_headers(default_header=self._default_header).items()))
        return (await transport.send("GET", target, sent, None, _LIMITS)).status


Verify = Callable[[Secret, App], Awaitable[bool | None]]
"""Returns whether the app accepts a credential; ``None`` or an exception if that cannot be known now."""


class AppCheck:
    """Checks whether an app accepts its credentials. Use it as ``async with AppCheck(...) as check``.

    Args:
        verify: called with a credential and its :class:`App`; see :data:`Verify`. Return ``False`` only for
            an answer that means a wrong credential, as 401, and not for a throttled or failed request.
        origins: ``scheme://host[:port]`` of the app; https, or http to this machine.
        applies_to: returns whether a credential belongs to this app, by its name, type or OAuth client.
        rate: maximum checks/s.
        default_header: the header for an API key that does not name one.

    Raises:
        ConfigurationError: the origins or the rate are invalid.
    """

    def __init__(
        self,
        verify: Verify,
        *,
        origins: Iterable[str],
        applies_to: Callable[[Secret], bool],
        rate: float = 1.0,
        default_header: str | None = None,
    ) -> None:
        given, origins = GivenOrigins(origins), ()
        if not rate > 0:
            raise ConfigurationError("the rate of a check must be above zero")
        self._verify = verify
        self._origins = given.checked()
        self._applies_to = applies_to
        self._default_header = default_header
        self._transports: dict[Origin, Transport] = {}
        self._entered = AsyncExitStack()
        self.seconds_apart: float = 1 / rate

    async def __aenter__(self) -> Self:
        """Open a transport to each origin."""
        async with AsyncExitStack() as entered:
            for origin in self._origins:
                transport = transport_by_name("auto", _url(origin), ca_file=None, proxy=None, trust_env=False)
                self._transports[origin] = await entered.enter_async_context(transport)
            self._entered = entered.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transports.clear()
        await self._entered.__aexit__(kind, error, trace)

    def applies_to(self, secret: Secret) -> bool:
        """Return whether a credential belongs to this app."""
        return self._applies_to(secret)

    async def accepts(self, secret: Secret) -> bool | None:
        """Return whether the app accepts a credential; ``None`` if that is not known."""
        if not self._transports:
            raise ConfigurationError("the check is not entered", advice="Use it as: async with AppCheck(...)")
        answer = await self._verify(secret, App(secret, self._transports, self._default_header))
        return answer if isinstance(answer, bool) else None


def _split(url: str) -> tuple[Origin, str]:
    """Return the origin of a URL, and the rest of it."""
    try:
        parts = urlsplit(url)
        origin = origin_of(parts.scheme, parts.hostname or "", parts.port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        is_good = parts.scheme in ("http", "https") and "@" not in parts.netloc and bool(is_target(target))
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigurationError("a check asked for something that is not a URL", advice="Pass a whole URL")
    return origin, target


def _url(origin: Origin) -> str:
    scheme, host, port = origin
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
