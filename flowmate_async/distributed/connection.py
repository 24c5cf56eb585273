"""The connection to Redis, and what its failures mean."""

import os
import ssl
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flowmate_async.distributed.urls import NamedUrl, SecretUrl
from flowmate_async.errors import ConfigurationError, FlowMateError, UpstreamUnavailableError
from flowmate_async.redaction import one_line
from flowmate_async.system.extras import needs_extra
from flowmate_async.transport.tls import client_context

if TYPE_CHECKING:
    from redis.asyncio import Redis

URL_VARIABLES = ("FLOWMATE_REDIS_URL", "FLOWMATE_BROKER_URL")

_PATIENCE_SECONDS = 1.0
_SCHEMES = ("redis://", "rediss://", "unix://")


class RedisUrl(SecretUrl, frozen=True):
    """Where Redis is, with its login data; never printed.

    Attributes:
        text: ``rediss://`` (TLS), ``redis://`` or ``unix://``, with ACL user and password if there are any.
        allow_plaintext: accept ``redis://`` to another machine.

    Raises:
        ConfigurationError: the URL is invalid, or the connection would not be private.
    """

    allow_plaintext: bool = False

    def __post_init__(self) -> None:
        if not self.text.startswith(_SCHEMES):
            raise ConfigurationError(
                "this is not the URL of a Redis", advice="Write rediss://user:password@host:port/0"
            )
        self.check("Redis", allow_plaintext=self.allow_plaintext)


def url_from(environ: Mapping[str, str] = os.environ, *, allow_plaintext: bool = False) -> RedisUrl:
    """Return the URL from ``FLOWMATE_REDIS_URL``, or ``FLOWMATE_BROKER_URL`` if that is a Redis as well.

    Each may be in a private file instead, named by the variable with ``_FILE`` appended to its name.

    Args:
        environ: the environment.
        allow_plaintext: accept ``redis://`` to another machine.

    Raises:
        ConfigurationError: neither is set to a URL of Redis that can be used, or such a file cannot be read.
    """
    named = [NamedUrl.of(environ, variable) for variable in URL_VARIABLES]
    del environ
    for found in (one.read() for one in named):
        if found.text.startswith(_SCHEMES):
            return RedisUrl(found.text, allow_plaintext=allow_plaintext)
    raise ConfigurationError(
        "no Redis is named",
        advice=f"Set {URL_VARIABLES[0]} to rediss://user:password@host:port/0, "
        f"or {URL_VARIABLES[0]}_FILE to a private file that holds it",
    )


def connect(url: RedisUrl) -> "Redis":
    """Return a client that has not connected yet; it does not wait for an unresponsive Redis.

    Raises:
        ConfigurationError: the URL or its certificates cannot be used, or the extra ``redis`` is missing.
    """
    asyncio_redis = driver("redis.asyncio")
    backoff, retry = driver("redis.backoff"), driver("redis.asyncio.retry")
    exceptions = driver("redis.exceptions")
    try:
        client: Redis = asyncio_redis.Redis.from_url(
            url.text,
            socket_timeout=_PATIENCE_SECONDS,
            socket_connect_timeout=_PATIENCE_SECONDS,
            # Retry once, for connections that broke while idle. Not after a timeout: Redis may still execute
            # the command.
            retry=retry.Retry(backoff.NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,)),
        )
    except ValueError:
        pass  # raised below, where it has no context: that would hold the URL
    else:
        if url.text.startswith("rediss:"):
            client.connection_pool.connection_class = _verified(asyncio_redis.SSLConnection, _tls(url))
        return client
    raise ConfigurationError(
        "the URL of Redis cannot work", advice="Write rediss://user:password@host:port/0"
    )


def _tls(url: RedisUrl) -> ssl.SSLContext:
    options = url.tls_files
    context = client_context(ca_file=options.get("ssl_ca_certs"))
    certificate = options.get("ssl_certfile")
    if certificate is None:
        return context
    try:
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except (OSError, ValueError) as error:
        reason = one_line(str(error))
    else:
        return context
    raise ConfigurationError(f"the client certificate for Redis cannot be used: {reason}")


def _verified(connection: type[Any], tls: ssl.SSLContext) -> type[Any]:
    """Return a connection class with the library's TLS rules; the driver's would honour ``SSLKEYLOGFILE``."""

    class VerifiedConnection(connection):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.ssl_context.context = tls

    return VerifiedConnection


def driver(module: str) -> Any:
    """Return a module of the extra ``redis``.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    with needs_extra("coordination over Redis", module, "redis"):
        imported = import_module(module)
    return imported  # noqa: RET504 - within the block it would not always return


def redis_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions for a Redis that is unavailable, refuses or misbehaves."""
    return (driver("redis.exceptions").RedisError, OSError)


class Trouble(msgspec.Struct, frozen=True):
    """What is wrong with Redis.

    Attributes:
        kind: ``away``, nothing works for now; ``refused``, Redis refuses this process; ``command``,
            Redis answered one command with an error.
        text: the reason, for people; holds no credential.
    """

    kind: Literal["away", "refused", "command"]
    text: str


_PASSING = (
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
)
"""Error codes that count as an outage of Redis; it may work again later."""

_NOT_TLS = "WRONG_VERSION_NUMBER"


def trouble_of(error: Exception) -> Trouble:
    """Return what an exception of the driver means.

    Args:
        error: one of :func:`redis_errors`, with its chain.
    """
    known = driver("redis.exceptions")
    tls = next((cause for cause in causes(error) if isinstance(cause, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return Trouble("refused", f"its certificate is not trusted: {one_line(tls.verify_message)}")
    if tls is not None and tls.reason == _NOT_TLS:
        return Trouble("refused", "it does not speak TLS at this address")
    if isinstance(error, known.AuthenticationError | known.AuthorizationError):
        return Trouble("refused", "it rejects the user name or the password")
    if isinstance(error, known.NoPermissionError):
        return Trouble("refused", f"its user lacks a permission: {one_line(str(error))}")
    if isinstance(error, known.InvalidResponse):
        return Trouble("refused", "what answers at this address is not a Redis")
    # Redis repeats the arguments of an unknown command, and those of AUTH are a password.
    text = one_line(str(error).partition(", with args")[0]) or type(error).__name__
    if isinstance(error, known.ResponseError) and not _is_passing(error):
        return Trouble("command", text)
    return Trouble("away", text if text != "TimeoutError" else "it does not answer")


def _is_passing(error: Exception) -> bool:
    # The driver strips the error code where it has a class for it.
    named = driver("redis.exceptions")
    by_class = (named.ReadOnlyError, named.OutOfMemoryError, named.ClusterDownError, named.TryAgainError)
    return isinstance(error, by_class) or str(error).startswith(_PASSING)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its chain."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refused(trouble: Trouble) -> ConfigurationError:
    """Return the error for a Redis that refuses this process."""
    return ConfigurationError(
        f"Redis cannot be used: {trouble.text}",
        advice=f"Check {URL_VARIABLES[0]} and what its user may do: all keys, channels and scripts",
    )


def unreachable(trouble: Trouble) -> FlowMateError:
    """Return the error for a Redis that is needed but unavailable."""
    return UpstreamUnavailableError(
        f"Redis cannot be used: {trouble.text}",
        advice="Check that it runs; with on_outage='share' processes go on without it",
    )
