"""Calls of AWS Secrets Manager: the address, the client, its refusals in words.

Credentials come from where the driver looks for them: the environment, a profile, the machine's role. Nothing
here knows what is in a secret, and nothing here logs one.
"""

import logging
import re
from contextlib import AsyncExitStack
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.redaction import safe_text
from flowmate_async.settings import is_loopback
from flowmate_async.stores.encoding import Plaintext

CONNECTIONS = 20

_LONGEST_PREFIX = 60
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REGION = re.compile(r"[a-z0-9-]*")
_EXAMPLE = "It looks like awssm://eu-central-1/flowmate: the region, then how the secrets' names begin"
_CREDENTIALS = "Check the AWS credentials and the permissions that the documentation of stores lists"
_LATER = "Run again once the service answers: what was acknowledged is kept"
_ADVICE = {
    "AccessDenied": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "IncompleteSignature": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "UnrecognizedClient": _CREDENTIALS,
    "LimitExceeded": "The secret has too many versions of one day; wait, or sync less often",
    "InvalidRequest": "A secret of that name may be in deletion; wait until it is gone",
}


class Address(msgspec.Struct, frozen=True):
    """A region, how names begin, and the key the service encrypts with where it is not the default one."""

    region: str
    prefix: str
    kms_key_id: str = ""

    @property
    def where(self) -> str:
        """The same for messages."""
        return f"awssm://{self.region}/{self.prefix}"


class Refusal(msgspec.Struct, frozen=True):
    """Why a call was refused: the service's word for it, without ``Exception``, and what it says."""

    kind: str
    message: str


def parse_address(url: str) -> Address:
    """The address in ``awssm://region/prefix?kms_key_id=alias/name``.

    A region that is left out comes from ``AWS_REGION`` or the profile, as credentials do.

    Raises:
        ConfigurationError: no such URL.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ConfigurationError("this is not the URL of an AWS store", advice=_EXAMPLE) from None
    prefix = parts.path.strip("/")
    plain = all(_SEGMENT.fullmatch(one) for one in prefix.split("/")) and len(prefix) <= _LONGEST_PREFIX
    if not plain or not _REGION.fullmatch(parts.netloc) or set(options) - {"kms_key_id"} or parts.fragment:
        raise ConfigurationError("this is not the URL of an AWS store", advice=_EXAMPLE)
    return Address(parts.netloc, prefix, options.get("kms_key_id", ""))


def driver() -> Any:
    """The driver, an extra.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return import_module("aiobotocore.session")
    except ImportError:
        pass
    raise ConfigurationError("an AWS store needs aiobotocore", advice="pip install 'flowmate-async[aws]'")


class AwsCalls:
    """A client of the service, for one address."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        """Make the client; nothing is sent yet.

        Raises:
            ConfigurationError: there is no region, or the endpoint is plain HTTP to another machine.
        """
        _hush()
        try:
            client = _session().create_client(
                "secretsmanager", region_name=self._address.region or None, config=_config()
            )
            self._client = await self._stack.enter_async_context(client)
        except _errors().BotoCoreError as failure:
            reason = safe_text(str(failure))
        else:
            reason = self._way_is_open()
        if reason:
            await self.close()
            raise ConfigurationError(
                f"the store {self._address.where} cannot be used: {reason}", advice=_CREDENTIALS
            )

    async def close(self) -> None:
        """Close the client; harmless when it is not open."""
        self._client = None
        await self._stack.aclose()

    async def call(
        self, operation: str, text: Plaintext | None = None, *, allowed: tuple[str, ...] = (), **options: Any
    ) -> Any:
        """What the service answers, or its refusal, when it is one of the allowed ones.

        Args:
            operation: the operation's name, as ``get_secret_value``.
            text: the secret's text, for operations that write one.
            allowed: kinds of refusal that are no failure.
            options: the other parameters of the operation.

        Raises:
            StoreError: refused, or not reached after several tries.
        """
        if self._client is None:
            raise StoreError(
                f"the store {self._address.where} is not open", advice="Enter it with async with"
            )
        answer, refusal = await self._called(operation, text, options)
        if refusal is None:
            return answer
        if refusal.kind in allowed:
            return refusal
        advice = next((one for kind, one in _ADVICE.items() if refusal.kind.startswith(kind)), _LATER)
        raise StoreError(
            f"the store {self._address.where} failed: {refusal.kind}: {refusal.message}", advice=advice
        )

    async def _called(
        self, operation: str, text: Plaintext | None, options: dict[str, Any]
    ) -> tuple[Any, Refusal | None]:
        errors = _errors()
        call = getattr(self._client, operation)
        try:
            if text is None:
                return await call(**options), None
            return await call(SecretString=text.data.decode(), **options), None
        except errors.ClientError as failure:
            said = failure.response.get("Error", {})
            kind = str(said.get("Code", "")).rpartition("#")[2].removesuffix("Exception")
            return None, Refusal(kind, safe_text(str(said.get("Message", ""))))
        except (errors.BotoCoreError, OSError, TimeoutError) as failure:
            return None, Refusal(type(failure).__name__, safe_text(str(failure)))

    def _way_is_open(self) -> str:
        """Why the endpoint must not be used, or nothing."""
        parts = urlsplit(self._client.meta.endpoint_url)
        if parts.scheme == "https" or is_loopback(parts.hostname or ""):
            return ""
        return "its endpoint is plain HTTP to another machine"


def _session() -> Any:
    session = driver().get_session()
    session.register_component("data_loader", _loader())
    return session


@cache
def _loader() -> Any:
    """The driver's descriptions of services, which are large, and the same for every session."""
    return driver().get_session().get_component("data_loader")


def _config() -> Any:
    return import_module("aiobotocore.config").AioConfig(
        connect_timeout=10,
        read_timeout=30,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "max_attempts": 6},
    )


def _errors() -> Any:
    return import_module("botocore.exceptions")


def _hush() -> None:
    """At the level DEBUG the driver logs whole requests and answers, credentials included."""
    for name in ("botocore", "aiobotocore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))
