"""A document too long for one secret: its parts, and the head that lists them. Pure."""

import msgspec

from flowmate_async.redaction import Redacted
from flowmate_async.stores.encoding import Plaintext

LARGEST_SECRET = 65_536
"""Maximum size of a secret in Secrets Manager, in bytes."""

_HEAD_BEGINS = b'{"parts":['


class PartAt(msgspec.Struct, frozen=True, array_like=True):
    """Where a part is: the secret's name, and the version that belongs to the head."""

    name: str
    version: str


class Head(Redacted, frozen=True):
    """What is stored in place of a document that was split."""

    parts: tuple[PartAt, ...]


_head_decoder = msgspec.json.Decoder(Head)


def split(text: Plaintext, *, largest: int = LARGEST_SECRET) -> list[Plaintext]:
    """Split a document's text into parts of limited size, never within a character.

    Args:
        text: the text; if it fits, it is the only part.
        largest: maximum size of a part, in bytes.
    """
    data, parts, first = text.data, [], 0
    while first < len(data):
        last = min(first + largest, len(data))
        while last < len(data) and data[last] & 0xC0 == 0x80:
            last -= 1
        parts.append(Plaintext(data[first:last]))
        first = last
    return parts


def head_of(text: Plaintext) -> Head | None:
    """Return the head in a secret's text; ``None`` when the text is a whole document."""
    if not text.data.startswith(_HEAD_BEGINS):
        return None
    try:
        return _head_decoder.decode(text.data)
    except msgspec.MsgspecError:
        return None


def encoded(head: Head) -> Plaintext:
    """Encode a head."""
    return Plaintext(msgspec.json.encode(head))
