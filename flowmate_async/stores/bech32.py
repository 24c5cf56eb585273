"""Bech32 (BIP-173), the encoding of age keys. Pure; nothing here knows what the bytes are for."""

from collections.abc import Iterable, Sequence

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH = 6


def encode(prefix: str, data: bytes) -> str:
    """Encode bytes as text with a checksum; lower case, as ``prefix``."""
    values = _regrouped(data, 8, 5)
    return f"{prefix}1" + "".join(_ALPHABET[value] for value in (*values, *_checksum(prefix, values)))


def decode(prefix: str, text: str) -> bytes | None:
    """Decode a single-case text with this prefix; ``None`` when it is not valid Bech32."""
    if text not in (text.lower(), text.upper()):
        return None
    text = text.lower()
    digits = text.removeprefix(f"{prefix}1")
    if digits == text or not set(digits) <= set(_ALPHABET) or len(digits) < _CHECKSUM_LENGTH:
        return None
    values = [_ALPHABET.index(digit) for digit in digits]
    values, checksum = values[:-_CHECKSUM_LENGTH], values[-_CHECKSUM_LENGTH:]
    data = bytes(_regrouped(values, 5, 8))[: len(values) * 5 // 8]
    canonical = _regrouped(data, 8, 5) == values
    return data if canonical and _checksum(prefix, values) == checksum else None


def _regrouped(values: Iterable[int], bits: int, into: int) -> list[int]:
    """Regroup bits into numbers of another width, padded with zero bits."""
    number = length = 0
    for value in values:
        number, length = number << bits | value, length + bits
    padding = -length % into
    number, length = number << padding, length + padding
    return [number >> shift & ((1 << into) - 1) for shift in range(length - into, -1, -into)]


def _checksum(prefix: str, values: Sequence[int]) -> list[int]:
    expanded = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    remainder = _remainder([*expanded, *values, *[0] * _CHECKSUM_LENGTH]) ^ 1
    return [remainder >> 5 * (5 - place) & 31 for place in range(_CHECKSUM_LENGTH)]


def _remainder(values: Iterable[int]) -> int:
    remainder = 1
    for value in values:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATOR):
            remainder ^= generator if top >> place & 1 else 0
    return remainder
