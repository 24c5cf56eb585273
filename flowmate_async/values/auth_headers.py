"""Build the HTTP header that presents a credential, without guessing and without injection.

Pure rules on header names and values; ``secrets/`` decides which secret uses which rule. The secret's id
is only used in errors.
"""

import base64
import re

from flowmate_async.errors import ConfigurationError

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 § 5.6.2
# RFC 9110 § 5.5: no control characters, and no blanks around, which a recipient would drop.
_VALUE = re.compile(r"[!-~\xa1-\xff](?:[\t -~\xa0-\xff]*[!-~\xa1-\xff])?")
_FRAMING = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "expect",
        "content-encoding",
        "content-type",
        "cookie",
    }
)


def basic(username: str, passphrase: str, *, secret_id: str | None = None) -> dict[str, str]:
    """Return the header for HTTP Basic (RFC 7617).

    Raises:
        ConfigurationError: the username contains a colon, which Basic cannot carry.
    """
    if ":" in username:
        del passphrase
        raise ConfigurationError(
            "HTTP Basic cannot carry a username that contains a colon",
            advice="Build the request from secret.value",
            secret_id=secret_id,
        )
    encoded = base64.b64encode(f"{username}:{passphrase}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def bearer(token: str, *, secret_id: str | None = None) -> dict[str, str]:
    """Return the header for a bearer token (RFC 6750).

    Raises:
        ConfigurationError: the token is empty, or no header can carry it.
    """
    if (error := _value_error(token)) is not None:
        del token
        raise error.about(secret_id=secret_id)
    return {"Authorization": f"Bearer {token}"}


def api_key(name: str | None, key: str, *, secret_id: str | None = None) -> dict[str, str]:
    """Return the header for an API key, with the name given by its secret or by the caller.

    Raises:
        ConfigurationError: no name, or one that may not be set; or the key is empty or not a header value.
    """
    name = name or ""
    if (error := _name_error(name) or _value_error(key)) is not None:
        del key
        raise error.about(secret_id=secret_id)
    return {name: key}


# The checks return their errors: a frame that raises would show the credential among its locals.


def _name_error(name: str) -> ConfigurationError | None:
    if not name:
        return ConfigurationError(
            "the API key names no header of its own",
            advice="Pass default_header=…, the header that its app expects",
        )
    if not _TOKEN.fullmatch(name) or name.lower() in _FRAMING:
        return ConfigurationError(
            "the API key names a header that must not be set from a credential",
            advice="Build the request from secret.value yourself",
        )
    return None


def _value_error(value: str) -> ConfigurationError | None:
    if _VALUE.fullmatch(value):
        return None
    what = (
        "the credential is empty"
        if not value.strip()
        else "the credential has blanks around it, or characters that no HTTP header can carry"
    )
    return ConfigurationError(
        what, advice="Have the user connect the app again, or build the request from secret.value"
    )
