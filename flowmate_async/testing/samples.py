"""Secrets to test with: one of every type, and values that break careless code. All of them made up."""

# ruff: noqa: S106 - all made up

from flowmate_async.values.models import Owner
from flowmate_async.values.secrets import (
    ApiKeySecret,
    ApiKeyValue,
    MixedSecret,
    MixedValue,
    OAuth1Secret,
    OAuth1TwoLeggedSecret,
    OAuth1Value,
    OAuth2Secret,
    OAuth2Value,
    Secret,
    SessionSecret,
    SessionValue,
    SimpleSecret,
    SimpleValue,
    UnknownSecret,
)

__all__ = [
    "EXPIRES",
    "EXPIRES_AS_STORED",
    "api_key",
    "every_type",
]

EXPIRES = "2026-11-23T18:35:52.322Z"
EXPIRES_AS_STORED = "2026-11-23T18:35:52.322000+00:00"


def api_key(secret_id: str = "secret-1", key: str = "sample") -> ApiKeySecret:  # noqa: S107 - an id
    """The simplest secret."""
    return ApiKeySecret(id=secret_id, name="an app", value=ApiKeyValue(key=key, header_name="X-Key"))


def every_type() -> dict[str, Secret]:
    """One secret of every type and the unusual ones, by what is special about them."""
    found: dict[str, Secret] = {"api key": api_key()}
    found |= _of_known_types()
    found |= _awkward()
    return found


def _of_known_types() -> dict[str, Secret]:
    return {
        "simple": SimpleSecret(
            id="simple",
            owners=(Owner("o1", "USER"),),
            value=SimpleValue(passphrase="open sesame", username="ali"),
        ),
        "oauth 2": OAuth2Secret(
            id="oauth2",
            name="an app",
            created="2025-01-01T00:00:00.000Z",
            value=OAuth2Value(access_token="access", refresh_token="refresh", scope="a b", expires=EXPIRES),
        ),
        "session": SessionSecret(
            id="session",
            value=SessionValue(access_token="access", input_fields={"pin": "1234"}, expires=EXPIRES),
        ),
        "mixed": MixedSecret(id="mixed", value=MixedValue(payload='{"any": "thing"}')),
        "oauth 1, three legs": OAuth1Secret(
            id="oauth1", value=OAuth1Value(access_token="access", access_token_secret="shared")
        ),
        "oauth 1, two legs": OAuth1TwoLeggedSecret(id="oauth1-2", value=OAuth1Value(access_token="access")),
    }


def _awkward() -> dict[str, Secret]:
    return {
        "unknown type": UnknownSecret(
            id="unknown", kind="A_TYPE_OF_TOMORROW", value={"deep": [{"er": None}], "expires": EXPIRES}
        ),
        "unknown type, no object": UnknownSecret(
            id="bare", kind="A_TYPE_OF_TOMORROW", value=["just", 1, "list"]
        ),
        "unknown fields": ApiKeySecret(
            id="extras", value=ApiKeyValue(key="k", extra={"region": "eu", "nested": {"a": [1, 2.5, True]}})
        ),
        "unicode": MixedSecret(
            id="unicode", name="Zoë 🗝 \u202etxt", value=MixedValue(payload="ключ\u0000\u2028🔑")
        ),
        "many lines": SimpleSecret(
            id="lines",
            value=SimpleValue(passphrase="-----BEGIN KEY-----\r\nAAAA\n\n\tBBBB\n-----END KEY-----\n"),
        ),
        "empty": SimpleSecret(id="empty", value=SimpleValue(passphrase="", username="")),
        "large": MixedSecret(id="large", value=MixedValue(payload="x" * 200_000)),
    }
