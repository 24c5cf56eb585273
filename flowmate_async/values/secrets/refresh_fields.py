"""The fields of a secret that only upstream's refresh needs: noted, dropped, or left out of a comparison."""

from typing import Any

from msgspec import structs

from flowmate_async.values.secrets.base import SecretValue
from flowmate_async.values.secrets.tokens import OAuth1Value, OAuth2Secret, OAuth2Value, SessionValue
from flowmate_async.values.secrets.union import Secret

_UPSTREAMS_BUSINESS = frozenset({"refreshToken", "inputFields"})


def note_renewable(secret: Secret) -> None:
    """Note whether FlowMate can renew an OAuth 2 token (docs/contract/OBSERVED.md § One secret).

    Args:
        secret: one that came from FlowMate just now, with its refresh token if any; changed in place.
    """
    if isinstance(secret, OAuth2Secret) and not secret.value.refresh_token:
        structs.force_setattr(secret, "renewable", False)  # noqa: FBT003 - a value, no flag


def drop_refresh_fields(secret: Secret) -> None:
    """Take ``refreshToken`` and ``inputFields`` out of a secret, whatever its type.

    Args:
        secret: a newly decoded secret without other references, since it is changed in place.
    """
    value = secret.value
    if isinstance(value, OAuth2Value):
        structs.force_setattr(value, "refresh_token", None)
    elif isinstance(value, SessionValue):
        structs.force_setattr(value, "input_fields", None)
    if isinstance(value, SecretValue):
        if value.extra:
            structs.force_setattr(value, "extra", _without_upstreams_business(value.extra))
    elif isinstance(value, dict):
        structs.force_setattr(secret, "value", _without_upstreams_business(value))


def _without_upstreams_business(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in fields.items() if name not in _UPSTREAMS_BUSINESS}


def presented(secret: Secret) -> object:
    """Return what an app sees of a secret: without its expiry and the fields for upstream's refresh."""
    value = secret.value
    if isinstance(value, OAuth1Value):
        return value.access_token, value.access_token_secret
    return value.access_token if isinstance(value, OAuth2Value | SessionValue) else value
