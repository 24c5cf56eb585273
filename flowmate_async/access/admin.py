"""The tenant's admin token: its source, and when it is read again."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio.to_thread
from async_lru import alru_cache

from flowmate_async.engine.call import Call, Token
from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.redaction import Headers, Redacted
from flowmate_async.system.private_files import read_private_text

TokenProvider = Callable[[], Awaitable[str]]
"""An async function that returns the admin token."""

_KINDS = "a text, the path of a private file, or an async function"
_HOW = "Set FLOWMATE_ADMIN_TOKEN, or name a private file with --admin-token-file"


class _Typed(Redacted, frozen=True):
    """A token as it was passed in."""

    value: str


class _Nothing(Redacted, frozen=True):
    """An unusable token source. Only its type is kept."""

    kind: str


class AdminHeaders:
    """The admin token as it is sent. Its ``repr`` is the default one, without fields."""

    __slots__ = ("headers",)

    def __init__(self, headers: Headers) -> None:
        self.headers: Headers = headers


class AdminToken:
    """The admin token. It is read once, and again whenever upstream rejects it.

    async-lru deduplicates concurrent reads. Its key is a generation that a rejection increments, so the file
    or provider is read once, however many requests are rejected at the same time.

    Args:
        source: the token itself, the path of a private file that contains it, or an async provider.
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
        self._token: AdminHeaders | None = None
        self._latest: Headers | None = None
        self._waiting: list[Call] = []
        self._reading: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._read = alru_cache(maxsize=None)(self._read_generation)

    def check(self) -> None:
        """Check a token that was passed in. ``__init__`` does not: its callers' frames hold the plain token.

        Raises:
            ConfigurationError: no header can carry it, or it is not a valid token source.
        """
        match self._source:
            case _Typed() as typed:
                _headers(typed)
            case _Nothing(kind=kind):
                raise _of_no_kind(kind)

    def forget(self) -> None:
        """Forget the token permanently."""
        self._source = _Typed("")
        self._token = self._latest = None
        self._read.cache_clear()

    def latest(self) -> Headers | None:
        """Return the header with the most recently read token; ``None`` before the first read."""
        return self._latest

    # Called by the engine; see :class:`~flowmate_async.engine.call.Identity`.

    def current(self, now: float, wall: float) -> Token | None:  # noqa: ARG002 - an admin token has no age
        """Return the token, if it has been read since the last rejection."""
        return self._token

    def obtain(self, call: Call) -> None:
        """Read the token, then resume the call. Fail it if the source has only the rejected token."""
        self._waiting.append(call)
        if isinstance(self._source, _Typed):
            self._obtained(_read_typed(self._source))
        elif self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._obtain())

    def abandon(self, call: Call) -> None:
        """Stop waiting on behalf of this call. Stop reading if no call waits any longer."""
        if call in self._waiting:
            self._waiting.remove(call)
        if not self._waiting:
            self._stop_reading()

    async def aclose(self) -> None:
        """Stop reading."""
        self._stop_reading()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _stop_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            self._ending.add(reading)
            reading.add_done_callback(self._ending.discard)
            reading.cancel()

    def hurry(self, call: Call) -> None:
        """Do nothing: reading a token has no priority."""

    def accepted(self, token: Token | None, now: float) -> None:
        """Do nothing: an accepted admin token stays in use."""

    def reject(self, token: Token, now: float) -> bool:  # noqa: ARG002 - an admin token has no age
        """Read the token again, since upstream rejected it; a provider or file may have a newer one."""
        if isinstance(self._source, _Typed):
            return False
        if token is self._token:
            self._token = None
            self._read.cache_invalidate(self._generation)
            self._generation += 1
        return self._token is None or self._token.headers != token.headers

    async def _obtain(self) -> None:
        try:
            read: AdminHeaders | Exception = AdminHeaders(await self._read(self._generation))
        except Exception as error:  # noqa: BLE001 - a provider may raise anything; it is the callers'
            read = error
        self._reading = None
        self._obtained(read)

    def _obtained(self, read: AdminHeaders | Exception) -> None:
        """Resume or fail all calls that wait for the token."""
        waiting, self._waiting = self._waiting, []
        if isinstance(read, Exception):
            for call in waiting:
                call.fail(read.clone() if isinstance(read, FlowMateError) else read)
            return
        self._token, self._latest = read, read.headers
        resumed = [call for call in waiting if not _fail_without_another(call, read)]
        if resumed:
            resumed[0].engine.resume(*resumed)

    async def _read_generation(self, _generation: int) -> Headers:
        return await self._read_source()

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


def _read_typed(typed: _Typed) -> AdminHeaders | Exception:
    try:
        return AdminHeaders(_headers(typed))
    except ConfigurationError as error:
        return error


def _fail_without_another(call: Call, read: AdminHeaders) -> bool:
    """Fail a call if the source has only the token that was rejected. Return whether it failed."""
    trouble = call.trouble
    if trouble is None or trouble.rejection is None or trouble.rejected is None:
        return False
    if trouble.rejected.headers != read.headers:
        return False
    call.fail(trouble.rejection)
    return True


def _of_no_kind(kind: str) -> ConfigurationError:
    if kind == "NoneType":  # such as os.environ.get(…) of an unset variable
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
