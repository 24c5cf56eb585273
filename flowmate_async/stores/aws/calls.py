"""Calls to AWS Secrets Manager: the address, the client and its error messages.

The driver finds AWS credentials in the environment, a profile or the machine's role. Nothing here knows what
is in a secret, and nothing here logs one.
"""

import logging
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import msgspec

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.redaction import Redacted, one_line, safe_text
from flowmate_async.stores.aws.session import aws_session
from flowmate_async.stores.documents.base import DocumentRefused
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.stores.url import StoreUrl
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.values.settings import is_loopback

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
}


class Address(msgspec.Struct, frozen=True):
    """A region and a name prefix.

    Attributes:
        region: empty for the environment's or the profile's.
        prefix: the prefix of the secrets' names.
        kms_key_id: the key that the service encrypts with, if not the default one.
        trust_env: take proxies from the environment.
    """

    region: str
    prefix: str
    kms_key_id: str = ""
    trust_env: bool = False

    @property
    def where(self) -> str:
        """The address as text for messages."""
        return f"awssm://{self.region}/{self.prefix}"


class AwsResponse(Redacted, frozen=True, gc=True):
    """The service's answer, which may hold credentials."""

    fields: Mapping[str, Any]


class Refusal(msgspec.Struct, frozen=True):
    """Why a call was refused: the service's error code without ``Exception``, and its message."""

    kind: str
    message: str

    @property
    def is_deletion(self) -> bool:
        """Return whether the secret is scheduled for deletion."""
        return self.kind == "InvalidRequest" and "delet" in self.message

    @property
    def has_no_value(self) -> bool:
        """Return whether the secret exists but has no value."""
        return self.kind == "ResourceNotFound" and "secret value" in self.message


def parse_address(url: str | StoreUrl) -> Address:
    """Return the address in ``awssm://region/prefix?kms_key_id=alias/name&trust_env=on``.

    A region that is left out comes from ``AWS_REGION`` or the profile, as credentials do. Proxies come from
    the environment with ``trust_env=on`` only.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    url = StoreUrl.of(url)
    parts = url.parts()
    if parts is None:
        raise ConfigurationError("this is not the URL of an AWS store", advice=_EXAMPLE)
    prefix = parts.path.strip("/")
    plain = all(_SEGMENT.fullmatch(one) for one in prefix.split("/")) and len(prefix) <= _LONGEST_PREFIX
    trust_env = parts.options.get("trust_env", "off")
    unknown = set(parts.options) - {"kms_key_id", "trust_env"} or trust_env not in ("on", "off")
    if not plain or not _REGION.fullmatch(parts.netloc) or unknown or parts.fragment:
        raise ConfigurationError("this is not the URL of an AWS store", advice=_EXAMPLE)
    return Address(parts.netloc, prefix, parts.options.get("kms_key_id", ""), trust_env == "on")


class AwsCalls:
    """A client of the service, for one address."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        """Make the client; nothing is sent yet.

        Raises:
            ConfigurationError: the region is missing, or the endpoint is not allowed.
        """
        _hush()
        try:
            with DriverBoundary():
                client = aws_session(trust_env=self._address.trust_env).create_client(
                    "secretsmanager", region_name=self._address.region or None
                )
                self._client = await self._stack.enter_async_context(client)
        except (_errors().BotoCoreError, ValueError) as failure:  # ValueError: an endpoint without a scheme
            reason = safe_text(str(failure))
        else:
            reason = self._way_is_open()
        if reason:
            await self.close()
            raise ConfigurationError(
                f"the store {self._address.where} cannot be used: {reason}", advice=_CREDENTIALS
            )

    async def close(self) -> None:
        """Close the client; does nothing if it is not open."""
        self._client = None
        with DriverBoundary():
            await self._stack.aclose()

    async def call(self, operation: str, text: Plaintext | None = None, **options: Any) -> "AwsResponse":
        """Return the service's answer.

        Args:
            operation: the operation's name, as ``get_secret_value``.
            text: the secret's text, for operations that write one.
            options: the other parameters of the operation.

        Raises:
            StoreError: the call was refused, or the service was not reached after several tries.
        """
        answer = await self.attempt(operation, text, **options)
        if isinstance(answer, Refusal):
            raise self.failure(answer, options)
        return answer

    async def attempt(
        self, operation: str, text: Plaintext | None = None, *, allowed: tuple[str, ...] = (), **options: Any
    ) -> "AwsResponse | Refusal":
        """Return the service's answer, or its refusal if that is one of the allowed kinds.

        Args:
            operation: as for :meth:`call`.
            text: as for :meth:`call`.
            allowed: kinds of refusal that are not failures.
            options: as for :meth:`call`.

        Raises:
            StoreError: refused in another way, or not reached after several tries.
        """
        if self._client is None:
            raise StoreError(
                f"the store {self._address.where} is not open", advice="Enter it with async with"
            )
        answer = await self._called(operation, text, options)
        if isinstance(answer, AwsResponse) or answer.kind in allowed:
            return answer
        raise self.failure(answer, options)

    def failure(self, refusal: "Refusal", options: Mapping[str, Any]) -> StoreError:
        """Return the error of a refusal, which names the secret."""
        advice = next((one for kind, one in _ADVICE.items() if refusal.kind.startswith(kind)), _LATER)
        secret = options.get("SecretId") or options.get("Name")
        which = f" at the secret {one_line(secret)}" if isinstance(secret, str) else ""
        kind = DocumentRefused if _is_of_one_secret(refusal) else StoreError
        return kind(
            f"the store {self._address.where} failed{which}: {refusal.kind}: {refusal.message}", advice=advice
        )

    async def _called(
        self, operation: str, text: Plaintext | None, options: dict[str, Any]
    ) -> "AwsResponse | Refusal":
        errors = _errors()
        call = getattr(self._client, operation)
        try:
            with DriverBoundary():
                if text is None:
                    return AwsResponse(await call(**options))
                return AwsResponse(await call(SecretString=text.data.decode(), **options))
        except errors.ClientError as failure:
            said = failure.response.get("Error", {})
            kind = str(said.get("Code", "")).rpartition("#")[2].removesuffix("Exception")
            return Refusal(kind, safe_text(str(said.get("Message", ""))))
        except (errors.BotoCoreError, OSError, TimeoutError) as failure:
            return Refusal(type(failure).__name__, safe_text(str(failure)))

    def _way_is_open(self) -> str:
        """Return why the endpoint must not be used; empty if it may be."""
        parts = urlsplit(self._client.meta.endpoint_url)
        if parts.scheme == "https":
            return ""
        if parts.scheme != "http":
            return "its endpoint is not a URL with https://"
        if not is_loopback(parts.hostname or ""):
            return "its endpoint is plain HTTP to another machine"
        return (
            "a proxy would read what plain HTTP carries; leave out trust_env"
            if self._address.trust_env
            else ""
        )


def _is_of_one_secret(refusal: Refusal) -> bool:
    """Return whether this concerns one secret only: too many versions in a day, its key, or its state."""
    versions = refusal.kind == "LimitExceeded" and "version" in refusal.message
    return versions or refusal.kind in ("DecryptionFailure", "EncryptionFailure", "InvalidRequest")


def _errors() -> Any:
    return import_module("botocore.exceptions")


def _hush() -> None:
    """Disable the driver's DEBUG logs, which contain whole requests and answers, credentials included."""
    for name in ("botocore", "aiobotocore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))
