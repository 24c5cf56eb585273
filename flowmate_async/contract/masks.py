"""Recognise masked values (docs/contract/OBSERVED.md § One secret, "Masking is silent").

Without the raw-read permission upstream answers an ordinary 200 whose values are stars. A masked value that
is stored destroys a good one; a good value that is taken for a masked one is lost until it changes. So each
type is judged only by its conclusive field: upstream always masks it, and it never looks masked by chance:

==================  ================  =====================================================================
type                judged by         odds that a genuine value looks masked
==================  ================  =====================================================================
SIMPLE              ``passphrase``    only the passphrase ``***`` itself
API_KEY             ``key``           one line of n ≥ 10 random printable characters: 95^-(n-4), at most
                                      1 in 7 * 10^11; of n < 10: 95^-n, since it would be stars only
OA2_…               ``accessToken``   as a key, and a token has no line breaks (RFC 6750 § 2.1)
SESSION_AUTH        ``inputFields``   none: it is an object or a ciphertext of 16 bytes or more
MIXED               ``payload``       one line: as a key. Several lines: if the last one is stars followed
                                      by exactly four characters, such as ``*note``
OA1_…               both tokens       as an OAuth 2 token
unknown             every text        as a payload; ``refreshToken`` as a single line only
==================  ================  =====================================================================

``refreshToken`` is not conclusive. It is ciphertext even for readers with the permission, and random bytes
contain line breaks: 79 of 3,000,000 ciphertexts of 48 bytes, 1 in 38,000, look masked. Upstream masks
``accessToken`` whenever it masks ``refreshToken`` (§ Second look). Pure rules.
"""

import re
from collections.abc import Callable
from typing import Any

from flowmate_async.values.secrets import (
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
_SHOW_MASKING = frozenset({"SIMPLE", "API_KEY", "OA2_AUTHORIZATION_CODE", "MIXED"})
_WHOLE = re.compile(r"[*\n\r\u2028\u2029]*\*[*\n\r\u2028\u2029]*")
# Upstream replaces every "." that at least four others follow up to the end. In JavaScript "." does not
# match a line break, so only the last line of a multi-line value is masked.
_LAST_LINE = re.compile(r"(?:.*[\n\r\u2028\u2029])?\*+[^\n\r\u2028\u2029]{4}", re.DOTALL)
_LINE_END = re.compile(r"[\n\r\u2028\u2029]")
_SHORT = 10
_ENDS_OF_WHOLE = frozenset("*\n\r\u2028\u2029")


def masked_fields(secret: Secret) -> tuple[str, ...]:
    """Return the names of the secret's masked fields, as upstream names them; empty when nothing is masked.

    A multi-line value whose last line is shorter than five characters arrives unmasked and is not reported.
    """
    fields = _FIELDS.get(type(secret))
    if fields is None:
        return tuple(name for name, part in _parts(secret.value) if _is_any_mask(name, part))
    masked = []
    for name, attribute, rule in fields:
        part = getattr(secret.value, attribute)
        if isinstance(part, str) and rule(part):
            masked.append(name)
    return tuple(masked)


def proves_raw_read(secret: Secret) -> bool:
    """Return whether this unmasked secret shows that the token has the raw-read permission.

    Sessions, OAuth 1 and unknown types may arrive in clear without the permission, and so may multi-line
    values (§ One secret); but not passphrases, since upstream replaces the whole of one.
    """
    if not isinstance(secret, SimpleSecret | ApiKeySecret | OAuth2Secret | MixedSecret):
        return False
    _, attribute, rule = _FIELDS[type(secret)][0]
    value = getattr(secret.value, attribute)
    return bool(value) and (rule is is_fixed_mask or not _LINE_END.search(value))


def shows_masking(secret_type: str) -> bool:
    """Return whether a secret of this type shows if its user has the raw-read permission."""
    return secret_type in _SHOW_MASKING


def is_fixed_mask(value: str) -> bool:
    """Return whether a ``passphrase`` or ``inputFields`` is masked."""
    return value == _FIXED_MASK


def is_starred(value: str) -> bool:
    """Return whether a ``key``, ``accessToken`` or ``payload`` is masked."""
    if "*" not in value or ("*" not in value[-5:-2] and value[-1:] not in _ENDS_OF_WHOLE):
        return False  # neither rule can hold; nearly all values end here
    units = _utf16_units(value)
    rule = _WHOLE if len(units) < _SHORT else _LAST_LINE
    return rule.fullmatch(units) is not None


def _utf16_units(text: str) -> str:
    """Return one character per UTF-16 unit, as JavaScript counts: an emoji is two characters."""
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
    OAuth2Secret: (("accessToken", "access_token", is_starred),),
    SessionSecret: (("inputFields", "input_fields", is_fixed_mask),),  # its accessToken is never masked
    MixedSecret: (("payload", "payload", is_starred),),
    OAuth1Secret: _OF_OAUTH1,
    OAuth1TwoLeggedSecret: _OF_OAUTH1,
}
"""The conclusive fields of each known type: upstream's name, ours, and how upstream masks it."""

_CIPHERTEXT = "refreshToken"


def _is_any_mask(name: str, part: Any) -> bool:
    """Return whether a part of an unknown type looks masked. Fails closed, except for ciphertext."""
    if not isinstance(part, str) or (name == _CIPHERTEXT and _LINE_END.search(part)):
        return False
    return is_fixed_mask(part) or is_starred(part)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return every part of a free-form value, however deep, with its name."""
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
