"""Tokens that an identity provider issues: OAuth 2, sessions, OAuth 1."""

from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from flowmate_async.values import auth_headers
from flowmate_async.values.dates import parse_date
from flowmate_async.values.secrets.base import SecretBase, SecretValue

_SAME_MOMENT = timedelta(seconds=1)
"""Upstream's own dates of one refresh differ by up to 0.1 s (docs/contract/OBSERVED.md § Second look)."""


class _BearerSecret(SecretBase, frozen=True, kw_only=True):
    """A token that is presented as a bearer token."""

    value: Any

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when that is not known.

        If a provider sends no ``expires_in``, upstream gives the time of the refresh (docs/contract/
        OBSERVED.md § Second look). Such a token is fresh, and its end is unknown.
        """
        end = parse_date(self.value.expires)
        if end is not None:
            for moment in (self.updated, self.locked, self.created):
                made = None if moment is None else parse_date(moment)
                if made is not None and abs(end - made) <= _SAME_MOMENT:
                    return None
        return end

    def _headers(self, default_header: str | None) -> dict[str, str]:
        return auth_headers.bearer(self.value.access_token, secret_id=self.id)


class OAuth2Value(SecretValue, frozen=True, kw_only=True):
    """An OAuth 2 access token (docs/contract/OBSERVED.md § One secret).

    Attributes:
        access_token: the token.
        auth_client_id: the OAuth client it was granted to.
        scope: what it may do, as the provider says it.
        expires: as upstream sent it; read it as the secret's ``expires_at``.
        external_id: the user's id at the provider.
        refresh_token: dropped at decode unless asked for; may be a ciphertext.
    """

    access_token: str
    auth_client_id: str | None = None
    scope: str | None = None
    expires: Any = None
    external_id: str | None = None
    refresh_token: Any = None


class OAuth2Secret(_BearerSecret, frozen=True, kw_only=True, tag_field="type", tag="OA2_AUTHORIZATION_CODE"):
    """An OAuth 2 access token; presented as a bearer token.

    Attributes:
        renewable: ``False`` if FlowMate has no refresh token and cannot renew the expired token.
    """

    type: ClassVar[Literal["OA2_AUTHORIZATION_CODE"]] = "OA2_AUTHORIZATION_CODE"
    value: OAuth2Value
    renewable: bool = True


class SessionValue(SecretValue, frozen=True, kw_only=True):
    """A session token (docs/contract/OBSERVED.md § One secret).

    Attributes:
        access_token: the token.
        auth_client_id: the client it was made with.
        expires: as upstream sent it, often nothing; read it as the secret's ``expires_at``.
        input_fields: what the user typed to log in; dropped at decode unless asked for.
    """

    access_token: str
    auth_client_id: str | None = None
    expires: Any = None
    input_fields: Any = None


class SessionSecret(_BearerSecret, frozen=True, kw_only=True, tag_field="type", tag="SESSION_AUTH"):
    """A session token; presented as a bearer token."""

    type: ClassVar[Literal["SESSION_AUTH"]] = "SESSION_AUTH"
    value: SessionValue


class OAuth1Value(SecretValue, frozen=True, kw_only=True):
    """OAuth 1 tokens, two- or three-legged (docs/contract/OBSERVED.md § One secret).

    Attributes:
        access_token: the token.
        access_token_secret: what requests are signed with.
        scope: what it may do, as the provider says it.
        expires: as upstream sent it; read it as the secret's ``expires_at``.
        expires_at: the same under its other name.
        external_id: the user's id at the provider.
    """

    access_token: str | None = None
    access_token_secret: str | None = None
    scope: str | None = None
    expires: Any = None
    expires_at: Any = None
    external_id: str | None = None


class OAuth1Secret(SecretBase, frozen=True, kw_only=True, tag_field="type", tag="OA1_THREE_LEGGED"):
    """OAuth 1 tokens. Each request is signed individually, so they have no header form."""

    type: ClassVar[Literal["OA1_THREE_LEGGED", "OA1_TWO_LEGGED"]] = "OA1_THREE_LEGGED"
    value: OAuth1Value

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when that is not known."""
        return parse_date(self.value.expires_at) or parse_date(self.value.expires)


class OAuth1TwoLeggedSecret(OAuth1Secret, frozen=True, kw_only=True, tag_field="type", tag="OA1_TWO_LEGGED"):
    """OAuth 1 tokens without a user behind them."""

    type: ClassVar[Literal["OA1_TWO_LEGGED"]] = "OA1_TWO_LEGGED"
