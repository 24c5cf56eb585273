"""A secret narrows by its ``type``. mypy checks this file in ``make types``, pyright in ``make dist``."""

from typing import Any, assert_type

from flowmate_async import (
    ApiKeySecret,
    MixedSecret,
    OAuth1Secret,
    OAuth1TwoLeggedSecret,
    OAuth2Secret,
    Secret,
    SessionSecret,
    SimpleSecret,
    UnknownSecret,
)


def narrowed_by_equality(secret: Secret) -> str | None:
    """Each comparison leaves one class, whose fields are known."""
    if secret.type == "SIMPLE":
        assert_type(secret, SimpleSecret)
        return secret.value.passphrase
    if secret.type == "API_KEY":
        assert_type(secret, ApiKeySecret)
        return secret.value.key
    if secret.type == "OA2_AUTHORIZATION_CODE":
        assert_type(secret, OAuth2Secret)
        return secret.value.access_token
    if secret.type == "SESSION_AUTH":
        assert_type(secret, SessionSecret)
        return secret.value.access_token
    if secret.type == "MIXED":
        assert_type(secret, MixedSecret)
        return secret.value.payload
    if secret.type == "UNKNOWN":
        assert_type(secret, UnknownSecret)
        assert_type(secret.value, Any)
        return secret.kind
    assert_type(secret, OAuth1Secret | OAuth1TwoLeggedSecret)
    return secret.value.access_token


def is_impossible(secret: Secret) -> bool:
    """A misspelled type is an error: both checkers would report an unused comment if it were none."""
    return secret.type == "SIMPEL"  # type: ignore[comparison-overlap]
