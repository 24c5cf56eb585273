"""The headers of an answer: found by name, and decoded when they are read, since most never are.

A server sends the same names in the same order with nearly every answer. Which header is where is worked out
once for such a sequence of names, so that the headers of an answer cost one look-up.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

T = TypeVar("T")

_BLANKS = b" \t"
_MAX_LAYOUTS = 64


class HeaderFields(Mapping[str, str]):
    """Headers by lower-case name. ``repr`` shows the names only.

    Args:
        positions: where the value of each name is.
        values: as they were received, with blanks around them.
    """

    __slots__ = ("_positions", "_values")

    def __init__(self, positions: Mapping[str, int], values: Sequence[bytes]) -> None:
        self._positions = positions
        self._values = values

    def __getitem__(self, name: str) -> str:
        return _text(self._values[self._positions[name]])

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, default: T, /) -> str | T: ...
    def get(self, name: str, default: Any = None, /) -> Any:
        """Return the value of a header, or the default: the inherited method takes twice as long."""
        position = self._positions.get(name)
        return default if position is None else _text(self._values[position])

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._positions)})"


class Layout:
    """Where each header is in a head with these names.

    Args:
        names: as they were received.

    Attributes:
        positions: by lower-case name, in a list of one value per name.
        repeats: whether a name comes twice, so that there are more values than names.
        length: the position of ``Content-Length``.
        keep_alive: the position of ``Keep-Alive``.
        coded: whether there is a content or a transfer encoding.
        chunked: whether there is a transfer encoding.
    """

    __slots__ = ("_names", "chunked", "coded", "keep_alive", "length", "positions", "repeats")

    def __init__(self, names: tuple[bytes, ...]) -> None:
        self._names = [name.decode("ascii").lower() for name in names]
        self.positions: dict[str, int] = {name: at for at, name in enumerate(dict.fromkeys(self._names))}
        self.repeats: bool = len(self.positions) < len(names)
        self.length: int | None = self.positions.get("content-length")
        self.keep_alive: int | None = self.positions.get("keep-alive")
        self.chunked: bool = "transfer-encoding" in self.positions
        self.coded: bool = self.chunked or "content-encoding" in self.positions

    def joined(self, values: list[bytes]) -> list[bytes]:
        """Return one value per name. Those of a repeated one are joined with commas (RFC 9110 § 5.3)."""
        fields: dict[str, bytes] = {}
        for name, value in zip(self._names, values, strict=True):
            before = fields.get(name)
            fields[name] = (
                value if before is None else b"%b, %b" % (before.strip(_BLANKS), value.strip(_BLANKS))
            )
        return list(fields.values())


known_layouts: dict[tuple[bytes, ...], Layout] = {}
"""Layouts by the names they are made from; a reader looks here first."""


def layout_of(names: tuple[bytes, ...]) -> Layout:
    """Return the layout of a head with these names, and keep it in :data:`known_layouts`."""
    if len(known_layouts) >= _MAX_LAYOUTS:
        known_layouts.clear()
    layout = known_layouts[names] = Layout(names)
    return layout


def _text(value: bytes) -> str:
    return value.strip(_BLANKS).decode("utf-8", "surrogateescape")
