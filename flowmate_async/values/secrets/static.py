"""Secrets that do not expire: a passphrase, an API key, an opaque payload."""

from typing import ClassVar, Literal

from flowmate_async.values import auth_headers
from flowmate_async.values.secrets.base import SecretBase, SecretValue


class SimpleValue(SecretValue, frozen=True, kw_only=True):
    """A username and its passphrase (docs/contract/OBSERVED.md § One secret).

    Attributes:
        passphrase: the passphrase.
        username: the username in the app, not FlowMate's.
    """

    passphrase: str
    username: str | None = None


class SimpleSecret(SecretBase, frozen=True, kw_only=True, tag_field="type", tag="SIMPLE"):
    """Username and passphrase; presented as HTTP Basic."""

    type: ClassVar[Literal["SIMPLE"]] = "SIMPLE"
    value: SimpleValue

    def _headers(self, default_header: str | None) -> dict[str, str]:
        return auth_headers.basic(self.value.username or "", self.value.passphrase, secret_id=self.id)


class ApiKeyValue(SecretValue, frozen=True, kw_only=True):
    """An API key (docs/contract/OBSERVED.md § One secret).

    Attributes:
        key: the key.
        header_name: the header it belongs in; may be missing or empty.
    """

    key: str
    header_name: str | None = None


class ApiKeySecret(SecretBase, frozen=True, kw_only=True, tag_field="type", tag="API_KEY"):
    """An API key; presented in the header it names, or in the one you name."""

    type: ClassVar[Literal["API_KEY"]] = "API_KEY"
    value: ApiKeyValue

    def _headers(self, default_header: str | None) -> dict[str, str]:
        return auth_headers.api_key(
            self.value.header_name or default_header, self.value.key, secret_id=self.id
        )


class MixedValue(SecretValue, frozen=True, kw_only=True):
    """An opaque payload.

    Attributes:
        payload: a text whose meaning only its app knows.
    """

    payload: str


class MixedSecret(SecretBase, frozen=True, kw_only=True, tag_field="type", tag="MIXED"):
    """A payload whose meaning only its app knows."""

    type: ClassVar[Literal["MIXED"]] = "MIXED"
    value: MixedValue
