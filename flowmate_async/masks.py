"""Recognising masked values (docs/contract/OBSERVED.md § One secret, "Masking is silent").

Without the raw-read permission upstream answers an ordinary 200 whose values are stars. Pure rules, per
type; a masked value that were stored would destroy a good one.
"""

import re
from collections.abc import Callable
from typing import Any

from flowmate_async.secrets import (
    ApiKeySecret,
    MixedSecret,
    OAuth1Secret,
    OAuth1TwoLeggedSecret,
    OAuth2Secret,
    Secret,
    SessionSecret,
    SimpleSecret,
)

_FIXED_MASK = "***"
_WHOLE = re.compile(r"[*\n\r\u2028\u2029]*\*[*\n\r\u2028\u2029]*")
# Upstream replaces every "." that has four more before the end; "." is no line terminator in JavaScript,
# so of a multi-line value only the last line is masked.
_LAST_LINE = re.compile(r"(?:.*[\n\r\u2028\u2029])?\*+[^\n\r\u2028\u2029]{4}", re.DOTALL)
_LINE_END = re.compile(r"[\n\r\u2028\u2029]")
_SHORT = 10
_ENDS_OF_WHOLE = frozenset("*\n\r\u2028\u2029")


def masked_fields(secret: Secret) -> tuple[str, ...]:
    """The names of the secret's masked fields, as upstream names them; empty when nothing is masked.

    A multi-line value whose last line is shorter than five characters arrives unmasked, and is not reported.
    """
    fields = _FIELDS.get(type(secret))
    if fields is None:
        return tuple(name for name, part in _parts(secret.value) if _is_any_mask(part))
    masked = []
    for name, attribute, rule in fields:
        part = getattr(secret.value, attribute)
        if isinstance(part, str) and rule(part):
            masked.append(name)
    return tuple(masked)


def proves_raw_read(secret: Secret) -> bool:
    """Whether this secret, which is not masked, shows that the token has the raw-read permission.

    Sessions, OAuth 1 and unknown types may arrive in clear without it, and so may multi-line values.
    """
    if not isinstance(secret, SimpleSecret | ApiKeySecret | OAuth2Secret | MixedSecret):
        return False
    _, attribute, _ = _FIELDS[type(secret)][0]
    value = getattr(secret.value, attribute)
    return bool(value) and not _LINE_END.search(value)


def is_fixed_mask(value: str) -> bool:
    """Whether a ``passphrase`` or ``inputFields`` is masked."""
    return value == _FIXED_MASK


def is_starred(value: str) -> bool:
    """Whether a ``key``, ``accessToken``, ``refreshToken`` or ``payload`` is masked."""
    if "*" not in value or ("*" not in value[-5:-2] and value[-1:] not in _ENDS_OF_WHOLE):
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


_OF_OAUTH1 = (
    ("accessToken", "access_token", is_starred),
    ("accessTokenSecret", "access_token_secret", is_starred),
)
_FIELDS: dict[type, tuple[tuple[str, str, Callable[[str], bool]], ...]] = {
    SimpleSecret: (("passphrase", "passphrase", is_fixed_mask),),
    ApiKeySecret: (("key", "key", is_starred),),
    OAuth2Secret: (
        ("accessToken", "access_token", is_starred),
        ("refreshToken", "refresh_token", is_starred),
    ),
    SessionSecret: (("inputFields", "input_fields", is_fixed_mask),),  # its accessToken is never masked
    MixedSecret: (("payload", "payload", is_starred),),
    OAuth1Secret: _OF_OAUTH1,
    OAuth1TwoLeggedSecret: _OF_OAUTH1,
}
"""What upstream masks of each known type: a field as upstream names it, as we do, and how it is masked."""


def _is_any_mask(part: Any) -> bool:
    """For types the contract does not know: fail closed on anything that looks masked."""
    return isinstance(part, str) and (is_fixed_mask(part) or is_starred(part))


def _parts(value: Any) -> list[tuple[str, Any]]:
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
