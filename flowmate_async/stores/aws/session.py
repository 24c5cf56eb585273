"""The driver's session with AWS, by the library's rules for TLS and proxies.

By default the driver takes proxies from the environment, even for plain HTTP, and its TLS contexts honour
``SSLKEYLOGFILE``. Nothing here knows which service is called.
"""

from functools import cache
from typing import Any

from flowmate_async.system.extras import needs_extra
from flowmate_async.transport.tls import client_context

CONNECTIONS = 20


def driver() -> Any:
    """Return the driver, which is an optional extra.

    Raises:
        ConfigurationError: it is not installed.
    """
    with needs_extra("an AWS store", "aiobotocore", "aws"):
        import aiobotocore.session  # noqa: PLC0415 - an extra
    return aiobotocore.session


def aws_session(*, trust_env: bool) -> Any:
    """Return a new session. Its rules also apply to the clients that fetch AWS credentials.

    Args:
        trust_env: take proxies from the environment.
    """
    session = driver().get_session()
    session.register_component("data_loader", _loader())
    session.set_default_client_config(_config(trust_env=trust_env))
    _reach_metadata_directly(session)
    return session


@cache
def _loader() -> Any:
    """Return the driver's service descriptions. They are large, and all sessions share them."""
    return driver().get_session().get_component("data_loader")


def _config(*, trust_env: bool) -> Any:
    from aiobotocore.config import AioConfig  # noqa: PLC0415 - an extra

    class Config(AioConfig):  # type: ignore[misc]
        """The driver's config, whose HTTP session class survives merging with other options."""

        def merge(self, other_config: Any) -> Any:
            merged = super().merge(other_config)
            merged.http_session_cls = _http_session()
            return merged

    return Config(
        connect_timeout=10,
        read_timeout=30,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "max_attempts": 6},
        proxies=None if trust_env else {},
        http_session_cls=_http_session(),
    )


@cache
def _http_session() -> Any:
    from aiobotocore.httpsession import AIOHTTPSession  # noqa: PLC0415 - an extra

    class HttpSession(AIOHTTPSession):  # type: ignore[misc]
        """The driver's HTTP session with the library's TLS rules; it adds the authorities itself."""

        def _get_ssl_context(self) -> Any:
            return client_context(system=False)

    return HttpSession


def _reach_metadata_directly(session: Any) -> None:
    """Bypass proxies for the machine's metadata service, which returns credentials over plain HTTP."""
    for provider in session.get_component("credential_provider").providers:
        fetcher: Any = getattr(provider, "_role_fetcher", None)
        if hasattr(fetcher, "_session"):
            fetcher._session = type(fetcher._session)(timeout=fetcher._timeout)  # noqa: SLF001 - has no option
