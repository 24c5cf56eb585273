"""The tenant's admin token: where it comes from, and when it is read again."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from async_lru import alru_cache

from flowmate_async.errors import ConfigurationError
from flowmate_async.private_files import read_private_text
from flowmate_async.redaction import Headers, Redacted
from flowmate_async.traffic.dispatch import TokenRejected

T = TypeVar("T")

TokenProvider = Callable[[], Awaitable[str]]
"""Brings the admin token when asked, from wherever it is kept."""

_HOW = "Set FLOWMATE_ADMIN_TOKEN, or name a private file with --admin-token-file"


class _Typed(Redacted, frozen=True):
    """A token as it was passed in."""

    value: str


class AdminToken:
    """The admin token, read once, and once more whenever upstream rejects it.

    async-lru is the in-flight table of reading: its key is a generation that a rejection moves on, so that
    however many requests are rejected at once, the file or provider is read once.

    Args:
        source: the token itself, the path of a private file that holds it, or an async provider.
    """

    def __init__(self, source: str | os.PathLike[str] | TokenProvider) -> None:
        self._source: _Typed | Path | TokenProvider
        if isinstance(source, str):
            self._source = _Typed(source)
        elif isinstance(source, os.PathLike):
            self._source = Path(source)
        else:
            self._source = source
        self._generation = 0
        self._read = alru_cache(maxsize=1)(self._read_generation)

    def check(self) -> None:
        """Check a token that was passed in; apart from the constructor, whose caller has it in a local.

        Raises:
            ConfigurationError: it is empty, or no header can carry it.
        """
        if isinstance(self._source, _Typed):
            _headers(self._source)

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
        newer = await self._read(self._generation)
        if newer == held:
            raise error
        try:
            return await operation(newer)
        except TokenRejected as rejected:
            error = rejected.error
        raise error

    async def _read_generation(self, _generation: int) -> Headers:
        match self._source:
            case _Typed() as typed:
                return _headers(typed)
            case Path() as path:
                return _headers(await anyio.to_thread.run_sync(_read_file, path))
            case provider:
                return _headers(_Typed(await provider()))


def _read_file(path: Path) -> _Typed:
    return _Typed(read_private_text(path, what="the admin token file"))


def _headers(typed: _Typed) -> Headers:
    if not typed.value.strip():
        raise ConfigurationError("there is no admin token", advice=_HOW)
    if any(not "!" <= letter <= "~" for letter in typed.value.strip()):
        raise ConfigurationError("the admin token has characters that no header can carry", advice=_HOW)
    return Headers((("Authorization", f"Bearer {typed.value.strip()}"),))
