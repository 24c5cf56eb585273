"""The tenant's admin token: where it comes from, and when it is read again."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from async_lru import alru_cache

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Headers, Redacted
from flowmate_async.system.private_files import read_private_text
from flowmate_async.traffic.dispatch import TokenRejected

T = TypeVar("T")

TokenProvider = Callable[[], Awaitable[str]]
"""Brings the admin token when asked, from wherever it is kept."""

_KINDS = "a text, the path of a private file, or an async function"
_HOW = "Set FLOWMATE_ADMIN_TOKEN, or name a private file with --admin-token-file"


class _Typed(Redacted, frozen=True):
    """A token as it was passed in."""

    value: str


class _Nothing(Redacted, frozen=True):
    """What was passed in and can bring no token; only what kind of thing it is."""

    kind: str


class AdminToken:
    """The admin token, read once, and once more whenever upstream rejects it.

    async-lru is the in-flight table of reading: its key is a generation that a rejection moves on, so that
    however many requests are rejected at once, the file or provider is read once.

    Args:
        source: the token itself, the path of a private file that holds it, or an async provider.
    """

    def __init__(self, source: str | os.PathLike[str] | TokenProvider) -> None:
        self._source: _Typed | Path | TokenProvider | _Nothing
        if isinstance(source, str):
            self._source = _Typed(source)
        elif isinstance(source, os.PathLike):
            self._source = Path(source)
        elif callable(source):
            self._source = source
        else:
            self._source = _Nothing(type(source).__name__)
        self._generation = 0
        self._latest: Headers | None = None
        self._read = alru_cache(maxsize=None)(self._read_generation)

    def check(self) -> None:
        """Check a token that was passed in; not when made, as the frames of then hold it in clear.

        Raises:
            ConfigurationError: no header can carry it, or it is nothing that can bring one.
        """
        match self._source:
            case _Typed() as typed:
                _headers(typed)
            case _Nothing(kind=kind):
                raise _of_no_kind(kind)

    def forget(self) -> None:
        """Forget the token for good."""
        self._source = _Typed("")
        self._latest = None
        self._read.cache_clear()

    def latest(self) -> Headers | None:
        """Return the header with the token that was read last; ``None`` before it was first read."""
        return self._latest

    async def call(self, operation: Callable[[Headers], Awaitable[T]]) -> T:
        """Run an operation with the token; once more with a newer one, if there is one, after a 401.

        Raises:
            AuthenticationError: the token was rejected and there is no other.
        """
        generation = self._generation
        held = await self._read(generation)
        try:
            return await operation(held)
        except TokenRejected as rejected:
            error = rejected.error
        if generation == self._generation:
            self._generation += 1
            self._read.cache_invalidate(generation)
        newer = await self._read(self._generation)
        if newer == held:
            raise error
        try:
            return await operation(newer)
        except TokenRejected as rejected:
            error = rejected.error
        raise error

    async def _read_generation(self, _generation: int) -> Headers:
        self._latest = headers = await self._read_source()
        return headers

    async def _read_source(self) -> Headers:
        match self._source:
            case _Typed() as typed:
                return _headers(typed)
            case Path() as path:
                return _headers(await anyio.to_thread.run_sync(_read_file, path))
            case _Nothing(kind=kind):
                raise _of_no_kind(kind)
            case provider:
                return _headers(_Typed(await provider()))


def _of_no_kind(kind: str) -> ConfigurationError:
    if kind == "NoneType":  # such as os.environ.get(…) of what is not set
        return ConfigurationError("there is no admin token", advice=_HOW)
    return ConfigurationError(f"the admin token is {_KINDS}, not {kind}")


def _read_file(path: Path) -> _Typed:
    return _Typed(read_private_text(path, what="the admin token file"))


def _headers(typed: _Typed) -> Headers:
    if not typed.value.strip():
        raise ConfigurationError("there is no admin token", advice=_HOW)
    if typed.value.strip().lower().startswith("bearer "):
        raise ConfigurationError("the admin token begins with Bearer", advice="Leave that word out")
    if any(not "!" <= letter <= "~" for letter in typed.value.strip()):
        raise ConfigurationError(
            "the admin token has blanks, line breaks or other characters that no header can carry",
            advice="The token must be all there is, without a name or quotes around it",
        )
    return Headers((("Authorization", f"Bearer {typed.value.strip()}"),))
