"""Lines in age-encrypted files: written atomically, read piece by piece.

A store's key is directly an age identity (X25519), so that ``age --decrypt --identity store.key`` opens
these files, too. Nothing here knows what the lines say.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from flowmate_async.errors import StoreError
from flowmate_async.redaction import Redacted, shown_path
from flowmate_async.stores.keys import StoreKey
from flowmate_async.system.extras import needs_extra
from flowmate_async.system.private_files import replaced_atomically

_PIECES_AHEAD = 8
_PATIENCE_SECONDS = 0.1


class Identity(Redacted, frozen=True):
    """The key in the driver's form; its text never prints."""

    text: str

    def secret(self) -> Any:
        """Return the driver's object that decrypts."""
        return driver().x25519.Identity.from_str(self.text)

    def recipient(self) -> Any:
        """Return the driver's object that encrypts."""
        return self.secret().to_public()


def identity_of(key: StoreKey) -> Identity:
    """Return a store's key as an age identity."""
    return Identity(key.age_identity())


def driver() -> Any:
    """Return the driver, which is an optional extra.

    Raises:
        ConfigurationError: it is not installed.
    """
    with needs_extra("a jsonl+age store", "pyrage", "age"):
        import pyrage  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    return pyrage


def write_lines(path: Path, lines: Iterable[bytes], identity: Identity) -> None:
    """Replace a private file atomically: after a crash it holds the old lines or the new ones.

    Raises:
        StoreError: it cannot be written.
    """
    source = _Source(lines)
    with replaced_atomically(path, error=StoreError) as file:
        try:
            driver().encrypt_io(source, file, [identity.recipient()])
        except driver().EncryptError:
            if source.failure is None:
                raise
        if source.failure is not None:
            raise source.failure


class _Source:
    """What the driver reads from. Keeps the original error of the lines, which the driver would stringify."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._rest = b""
        self.failure: Exception | None = None

    def read(self, size: int) -> bytes:
        """Return at most this many bytes; empty at the end."""
        try:
            while len(self._rest) < size and (line := next(self._lines, None)) is not None:
                self._rest += line + b"\n"
        except Exception as failure:  # noqa: BLE001 - raised again by write_lines
            self.failure = failure
            return b""
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def read_lines(path: Path, identity: Identity) -> Generator[bytes, None, None]:
    """Yield the lines of a file; close the iterator if you stop early.

    Raises:
        FileNotFoundError: the file does not exist.
        StoreError: the key is wrong, or the file is damaged.
    """
    with path.open("rb") as file, contextlib.closing(_Decryption(file, identity)) as decryption:
        rest = b""
        for piece in decryption.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
    failure = decryption.failure
    if failure is not None or rest:
        raise _unreadable(path, failure)


class _Decryption:
    """A thread that decrypts a few pieces ahead of the reader: the driver pushes, the reader pulls."""

    def __init__(self, file: Any, identity: Identity) -> None:
        self.failure: str | None = None
        self._ended = threading.Event()
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=_PIECES_AHEAD)
        self._thread = threading.Thread(target=self._decrypt, args=(file, identity), daemon=True)
        self._thread.start()

    def pieces(self) -> Iterator[bytes]:
        """Yield the decrypted pieces; end early if something fails."""
        while (piece := self._queue.get()) is not None:
            yield piece

    def close(self) -> None:
        """Stop. The thread has ended when this returns, unless waiting for it would block an event loop.

        The garbage collector closes a reader that was left open, in any thread.
        """
        self._ended.set()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._thread.join()

    def write(self, piece: bytes) -> int:
        """Called by the driver."""
        self._put(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Called by the driver."""

    def _decrypt(self, file: Any, identity: Identity) -> None:
        try:
            driver().decrypt_io(file, self, [identity.secret()])
        except _Enough:
            return
        except Exception as failure:  # noqa: BLE001 - the driver's errors have no common base
            self.failure = str(failure)
        with contextlib.suppress(_Enough):
            self._put(None)

    def _put(self, piece: bytes | None) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(piece, timeout=_PATIENCE_SECONDS)
                return
        raise _Enough


class WrongKeyError(StoreError):
    """Raised when a file is encrypted for another key."""


class _Enough(Exception):  # noqa: N818 - not an error: reading stops early
    """Ends a decryption whose remaining output is not needed."""


def _unreadable(path: Path, failure: str | None) -> StoreError:
    if failure is not None and "No matching keys" in failure:
        return WrongKeyError(
            f"the store {shown_path(path)} is encrypted for another key",
            advice="Give the key it was made with",
        )
    return StoreError(
        f"the file {shown_path(path)} does not decrypt: it was damaged, cut short or tampered with",
        advice="Restore a backup, or remove the store and sync again",
    )
