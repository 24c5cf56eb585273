"""A document that is too long for one secret: its parts, and the head that names them. Pure."""

import msgspec

from flowmate_async.redaction import Redacted
from flowmate_async.stores.encoding import Plaintext

LARGEST_SECRET = 65_536
"""The most bytes that Secrets Manager keeps in a secret."""

_HEAD_BEGINS = b'{"parts":['


class PartAt(msgspec.Struct, frozen=True, array_like=True):
    """Where a part is: the secret's name, and the version of it that belongs to the head."""

    name: str
    version: str


class Head(Redacted, frozen=True):
    """What stands in the place of a document that is in parts."""

    parts: tuple[PartAt, ...]


_head_decoder = msgspec.json.Decoder(Head)


def split(text: Plaintext, *, largest: int = LARGEST_SECRET) -> list[Plaintext]:
    """Return a document's text in parts of at most so many bytes, none of which ends within a character.

    Args:
        text: the text; one that fits as it is comes back alone.
        largest: the most bytes of a part.
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
    """Return the head in a secret's text; ``None`` when it is a document as it is."""
    if not text.data.startswith(_HEAD_BEGINS):
        return None
    try:
        return _head_decoder.decode(text.data)
    except msgspec.MsgspecError:
        return None


def encoded(head: Head) -> Plaintext:
    """Return a head as it is written."""
    return Plaintext(msgspec.json.encode(head))
