"""Recognising masked values (docs/contract/OBSERVED.md § One secret, "Masking is silent").

Without the raw-read permission upstream answers an ordinary 200 whose values are stars. Pure rules, per
type; a masked value that were stored would destroy a good one.
"""

import re
from typing import Any

from flowmate_async.secrets import (
    ApiKeySecret,
    MixedSecret,
    OAuth1Secret,
    OAuth2Secret,
    Secret,
    SessionSecret,
    SimpleSecret,
    UnknownSecret,
)

_FIXED_MASK = "***"
_WHOLE = re.compile(r"[*\n\r\u2028\u2029]*\*[*\n\r\u2028\u2029]*")
# Upstream replaces every "." that has four more before the end; "." is no line terminator in JavaScript,
# so of a multi-line value only the last line is masked.
_LAST_LINE = re.compile(r"(?:.*[\n\r\u2028\u2029])?\*+[^\n\r\u2028\u2029]{4}", re.DOTALL)
_LINE_END = re.compile(r"[\n\r\u2028\u2029]")
_SHORT = 10
_STAR, _BACKSLASH = b"*\\"
_ENDS_OF_WHOLE = frozenset("*\n\r\u2028\u2029")


def masked_fields(secret: Secret) -> tuple[str, ...]:
    """The names of the secret's masked fields, as upstream names them; empty when nothing is masked.

    A multi-line value whose last line is shorter than five characters arrives unmasked, and is not reported.
    """
    return tuple(name for name, value, rule in _rules(secret) if isinstance(value, str) and rule(value))


def may_have_stars(body: bytes) -> bool:
    """Whether any string of this JSON may have a star, and so be masked; nearly none has."""
    # A star may be written as an escape. A byte is searched for much faster as a number, or than a word.
    return _STAR in body or (_BACKSLASH in body and b"\\u002" in body)


def proves_raw_read(secret: Secret) -> bool:
    """Whether this secret, which is not masked, shows that the token has the raw-read permission.

    Sessions, OAuth 1 and unknown types may arrive in clear without it, and so may multi-line values.
    """
    if not isinstance(secret, SimpleSecret | ApiKeySecret | OAuth2Secret | MixedSecret):
        return False
    _, value, _ = _rules(secret)[0]
    return bool(value) and not _LINE_END.search(value)


def is_fixed_mask(value: str) -> bool:
    """Whether a ``passphrase`` or ``inputFields`` is masked."""
    return value == _FIXED_MASK


def is_starred(value: str) -> bool:
    """Whether a ``key``, ``accessToken``, ``refreshToken`` or ``payload`` is masked."""
    if "*" not in value[-5:-2] and value[-1:] not in _ENDS_OF_WHOLE:
        return False  # neither rule can hold; nearly all values end here
    units = _utf16_units(value)
    rule = _WHOLE if len(units) < _SHORT else _LAST_LINE
    return rule.fullmatch(units) is not None


def _utf16_units(text: str) -> str:
    """One character a UTF-16 unit, as upstream counts: JavaScript takes an emoji for two characters."""
    if text.isascii():
        return text
    raw = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(low | high << 8) for low, high in zip(raw[::2], raw[1::2], strict=True))


def _rules(secret: Secret) -> list[tuple[str, Any, Any]]:
    match secret:
        case SimpleSecret():
            return [("passphrase", secret.value.passphrase, is_fixed_mask)]
        case ApiKeySecret():
            return [("key", secret.value.key, is_starred)]
        case OAuth2Secret():
            return [
                ("accessToken", secret.value.access_token, is_starred),
                ("refreshToken", secret.value.refresh_token, is_starred),
            ]
        case SessionSecret():  # its accessToken is never masked
            return [("inputFields", secret.value.input_fields, is_fixed_mask)]
        case MixedSecret():
            return [("payload", secret.value.payload, is_starred)]
        case OAuth1Secret():
            return [
                ("accessToken", secret.value.access_token, is_starred),
                ("accessTokenSecret", secret.value.access_token_secret, is_starred),
            ]
        case UnknownSecret():
            return [(name, value, _is_any_mask) for name, value in _strings(secret.value)]


def _is_any_mask(value: str) -> bool:
    """For types the contract does not know: fail closed on anything that looks masked."""
    return is_fixed_mask(value) or is_starred(value)


def _strings(value: Any) -> list[tuple[str, Any]]:
    """Every part of a free-form value, however deep, by the name it goes by."""
    found, waiting = [], [("value", value)]
    while waiting:
        name, part = waiting.pop()
        if isinstance(part, dict):
            waiting += [(str(key), inner) for key, inner in reversed(part.items())]
        elif isinstance(part, list):
            waiting += [(name, inner) for inner in reversed(part)]
        else:
            found.append((name, part))
    return found
