"""Object ids: 24 hex digits from which the generated user can be derived.

An id looks like a database's: eight digits of time, ten of a machine, six of a counter. The first part
encodes the user's index, so that an id alone identifies its owner and nothing has to be generated in advance.
Nothing here knows a user or a secret.
"""

import hashlib
import re

_FIRST_SECOND = 0x60000000
_OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")
_OBJECT_ID_BYTES = 12


def object_id_of(text: str) -> str | None:
    """Return the id as the database reads it; None for a malformed one.

    24 hexadecimal digits in either case, or any 12 bytes (docs/contract/OBSERVED.md § Second look).
    """
    if _OBJECT_ID.fullmatch(text) is not None:
        return text.lower()
    raw = text.encode("utf-8", "surrogatepass")
    return raw.hex() if len(raw) == len(text) == _OBJECT_ID_BYTES else None


class IdSpace:
    """Bijection between ``(index, slot)`` and ids, one for each kind of object and seed."""

    __slots__ = ("_machine",)

    def __init__(self, seed: int, kind: str) -> None:
        self._machine = hashlib.blake2b(f"{seed}/{kind}".encode(), digest_size=5).hexdigest()

    def id_of(self, index: int, slot: int = 0) -> str:
        """Return the id of one object."""
        return f"{_FIRST_SECOND + index:08x}{self._machine}{slot:06x}"

    def place_of(self, object_id: str) -> tuple[int, int] | None:
        """Return ``(index, slot)``, or None for an id of another space."""
        if object_id[8:18] != self._machine:
            return None
        return int(object_id[:8], 16) - _FIRST_SECOND, int(object_id[18:], 16)
