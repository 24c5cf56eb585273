"""Keep credentials out of text: values with a redacted ``repr``, and text that is safe to show.

A credential leaks through anything that prints an object: ``repr`` in a log line, captured locals in a
traceback, a pickle in a task queue. So credentials are only passed inside :class:`Redacted` structs, and text
from upstream goes through :func:`safe_text` before it enters a message. Nothing here knows FlowMate's
contract.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self
from urllib.parse import urlsplit

import msgspec

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Control characters except tab and line feed; format characters (bidi marks, zero-width, tags); surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
# URLs, and long unbroken runs that look like tokens; words and 24-digit ids stay readable.
_TELLING = re.compile(r"(?P<url>\b[a-z][a-z0-9+.-]*://[^\s\"'<>]*)|[A-Za-z0-9+/_=~.-]{25,}", re.IGNORECASE)

_PART = 8
_SHORT = 4


class Redacted(msgspec.Struct, frozen=True, gc=False):
    """Base of structs that hold credentials. ``repr`` is redacted, and pickling raises ``TypeError``.

    ``__shown__`` names the fields that may appear in ``repr``; all others are omitted. The garbage collector
    does not track these structs, since a cache may hold a million. A struct that could be part of a cycle
    sets ``gc=True``.
    """

    __shown__: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._shown())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return self._shown()

    def _shown(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in type(self).__shown__]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: the pickle would contain the credential.

        Raises:
            TypeError: always.
        """
        message = (
            f"{type(self).__name__} holds a credential and cannot be pickled; pass the username and "
            "the secret id instead, and fetch the credential where it is needed"
        )
        raise TypeError(message)


class Headers(Redacted, frozen=True, gc=True, weakref=True):
    """Request headers whose values are never shown: one of them is a bearer token.

    They can be weakly referenced, so that values derived from them can be dropped with them.

    Attributes:
        pairs: names and values.
    """

    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The header names, which may be shown."""
        return tuple(name for name, _ in self.pairs)

    __shown__: ClassVar[tuple[str, ...]] = ("names",)


def as_escapes(text: str) -> str:
    r"""Return every character as an escape of JSON and Python: ``\u202e``; two escapes above U+FFFF."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def escaped(text: str) -> str:
    """Escape every character that controls a terminal, is invisible or reorders text.

    Everything that the command line prints passes through here. Tabs and line feeds stay, and JSON keeps its
    meaning. Ordinary text is returned unchanged.
    """
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return as_escapes(found[0])


def one_line(text: str, *, limit: int = 200) -> str:
    """Return the text without control characters or line breaks, :func:`escaped`, shortened to ``limit``."""
    text = escaped(_CONTROL.sub(" ", text[: 4 * limit])).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown_path(path: Path) -> str:
    """Return a path as safe text for a message."""
    return one_line(str(path), limit=1000)


def safe_text(text: str, *, limit: int = 200) -> str:
    """Return text from upstream, made safe for a message: one line, URLs cut to the host, no token-like runs.

    Args:
        text: text from upstream.
        limit: maximum characters of the result.
    """
    kept = text[: 4 * limit]
    if len(kept) < len(text):
        # A truncated token would no longer look like one.
        kept = "".join(re.split(r"(\s+)", kept)[:-1]) + "…"
    return one_line(" ".join(_TELLING.sub(_discreet, kept).split()), limit=limit)


def conceal(text: str, tokens: Iterable[str]) -> str:
    """Return a text without these tokens, and without any eight or more consecutive characters of them.

    Args:
        text: text from upstream.
        tokens: what must not appear, in upper or lower case.
    """
    for token in tokens:
        if len(token) >= _PART:
            text = _without_parts(text, token.lower())
        elif token:
            # A very short token is only hidden as a whole word: it may be part of any word.
            alone = r"(?<!\w){}(?!\w)" if len(token) < _SHORT else "{}"
            text = re.sub(alone.format(re.escape(token)), "…", text, flags=re.IGNORECASE)
    return text


def _without_parts(text: str, token: str) -> str:
    parts = {token[at : at + _PART] for at in range(len(token) - _PART + 1)}
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters get longer in lower case
        return "…" if any(part in lowered for part in parts) else text
    hidden = bytearray(len(text))
    for at in range(len(text) - _PART + 1):
        if lowered[at : at + _PART] in parts:
            hidden[at : at + _PART] = b"\1" * _PART
    kept = "".join("\0" if hide else letter for letter, hide in zip(text, hidden, strict=True))
    return re.sub("\0+", "…", kept)


def _discreet(match: re.Match[str]) -> str:
    """Reduce a URL to scheme and host: paths and queries of token endpoints contain credentials."""
    if match["url"] is None:
        return "…"
    try:
        parts = urlsplit(match["url"])
    except ValueError:
        return "…"
    return f"{parts.scheme}://{parts.hostname or ''}/…"
