"""Masks: what a reader without the raw-read permission sees.

docs/contract/OBSERVED.md § One secret, "Masking is silent". Pure; the caller decides who is masked.
"""

import re
from typing import Any

_SHORT_UNITS = 10
_SHOWN_UNITS = 4
_TERMINATORS = "\n\r\u2028\u2029"
_LAST_LINE = re.compile(f"[^{_TERMINATORS}]*\\Z")
_NOT_TERMINATOR = re.compile(f"[^{_TERMINATORS}]")
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")


def mask_value(secret_type: str, value: dict[str, Any]) -> dict[str, Any]:
    """Return a masked copy. Types that are not in the table are not masked."""
    match secret_type:
        case "SIMPLE":
            return {**value, "passphrase": "***"}
        case "SESSION_AUTH":
            return {**value, "inputFields": "***"}
        case "API_KEY":
            return _with_masked(value, "key")
        case "MIXED":
            return _with_masked(value, "payload")
        case "OA2_AUTHORIZATION_CODE":
            return _with_masked(value, "accessToken", "refreshToken")
        case _:
            return value


def _with_masked(value: dict[str, Any], *names: str) -> dict[str, Any]:
    # An absent field comes back as "": the recorded OAuth secret without a refresh token shows it.
    return {**value, **{name: mask_text(value.get(name, "")) for name in names}}


def mask_text(text: str) -> str:
    """Mask all of a short text, and all but the last four characters of a longer one.

    Only the last line of a longer text is masked: line terminators end the upstream's pattern.
    """
    units = _as_utf16_units(text)
    if len(units) < _SHORT_UNITS:
        return _NOT_TERMINATOR.sub("*", units)
    last_line = _LAST_LINE.search(units)
    start = last_line.start() if last_line else len(units)
    hidden = max(0, len(units) - start - _SHOWN_UNITS)
    return _from_utf16_units(units[:start] + "*" * hidden + units[start + hidden :])


def _as_utf16_units(text: str) -> str:
    # The upstream counts UTF-16 units: an emoji is two of its characters.
    if _ASTRAL.search(text) is None:
        return text
    raw = text.encode("utf-16-le")
    return "".join(chr(raw[i] | raw[i + 1] << 8) for i in range(0, len(raw), 2))


def _from_utf16_units(units: str) -> str:
    # Half of a pair cannot be written as UTF-8; it becomes the replacement character.
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
