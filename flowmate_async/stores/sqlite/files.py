"""The files of a sqlite store: paths, permissions, connections, and readable SQLite errors.

Only SQLite opens the database: closing a file drops every POSIX lock that the process holds on it, including
those of other connections. ``schema.py`` knows the tables.
"""

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.redaction import one_line, shown_path
from flowmate_async.stores.database_file import open_file
from flowmate_async.stores.url import StoreUrl

T = TypeVar("T")

_PREFIX = "sqlite:///"
_TURN_SECONDS = (0.0005, 0.002)
"""Minimum and maximum interval between attempts to get the write lock."""

_ADVICE = {
    "SQLITE_FULL": "Free some disk space, then run again: what was acknowledged is kept",
    "SQLITE_IOERR": "Free some disk space, or check the disk, then run again: what was acknowledged is kept",
    "SQLITE_BUSY": "Another process is writing; wait for it to end, then run again",
    "SQLITE_LOCKED": "Another process is writing; wait for it to end, then run again",
    "SQLITE_READONLY": "Make the file and its folder writable for this user",
    "SQLITE_CANTOPEN": "Check that the folder exists and is writable for this user",
    "SQLITE_CORRUPT": "Restore a backup, or remove the file and sync again",
    "SQLITE_NOTADB": "Name another file: this is no SQLite database, or it is damaged",
}


def path_of_url(url: str | StoreUrl) -> Path:
    """Return the path in ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, made absolute.

    Raises:
        ConfigurationError: the URL is invalid, or the working directory is gone.
    """
    url = StoreUrl.of(url)
    path = url.path_after(_PREFIX)
    if path is None:
        raise ConfigurationError(
            "this is not the URL of a sqlite store",
            advice="Write sqlite:///relative.db or sqlite:////absolute.db; a ? or # in a name as %3F or %23",
        )
    return path


def require_writable(path: Path) -> None:
    """Refuse to create a store where SQLite could not write it.

    Raises:
        StoreError: its folder is not writable.
    """
    if path.parent.is_dir() and not _may(path.parent, os.W_OK | os.X_OK):
        raise StoreError(f"the store {shown_path(path)} cannot be written", advice=_ADVICE["SQLITE_READONLY"])


def is_writable(path: Path) -> bool:
    """Return whether SQLite can write an existing store."""
    return _may(path, os.W_OK) and _may(path.parent, os.W_OK | os.X_OK)


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def connect(path: Path, *, busy_timeout_seconds: float, writable: bool = True) -> sqlite3.Connection:
    """Make a connection, used from one thread at a time.

    Args:
        path: the store.
        busy_timeout_seconds: how long to wait while another process writes.
        writable: whether the file and its folder can be written. Otherwise the store is opened read-only and
            assumed to have no writers, as on a read-only mount.
    """
    if not writable:
        # Without a log the store is not in use; otherwise SQLite would need to write next to it to read it.
        options = "mode=ro" if has_write_ahead_log(path) else "mode=ro&immutable=1"
        return open_file(path, options, busy_timeout_seconds=busy_timeout_seconds)
    connection = open_file(path, "mode=rw", busy_timeout_seconds=busy_timeout_seconds)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def inspect(path: Path, check: Callable[[sqlite3.Connection], T]) -> T:
    """Read without side effects: no lock, no recovery, no ``-wal`` or ``-shm`` left behind."""
    with closing(open_file(path, "mode=ro&immutable=1", busy_timeout_seconds=0)) as connection:
        return check(connection)


def has_rollback_journal(path: Path) -> bool:
    """Return whether the store's creation was interrupted, which only SQLite itself can repair."""
    return Path(f"{path}-journal").exists()


def has_write_ahead_log(path: Path) -> bool:
    """Return whether the store is in use, or was when its last user was killed."""
    return Path(f"{path}-wal").exists()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a transaction: commit all or roll back; no transaction stays open."""
    _begin(connection)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _begin(connection: sqlite3.Connection) -> None:
    """Wait for the write lock, up to the connection's timeout.

    SQLite's own waiting backs off up to 100 ms; meanwhile a writer that never pauses gets the lock again and
    again.
    """
    (milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    until = time.monotonic() + milliseconds / 1000
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                    raise
            else:
                return
            time.sleep(random.uniform(*_TURN_SECONDS))  # noqa: S311 - so that two do not ask in step
    finally:
        connection.execute(f"PRAGMA busy_timeout = {milliseconds}")


def guarded(work: Callable[[], T], *, path: Path) -> T:
    """Do the work. Turn SQLite's errors into one-line messages without their stack frames.

    Raises:
        StoreError: SQLite refused.
    """
    try:
        return work()
    except sqlite3.Error as error:
        failure = _store_error(error, path)
    except OSError as error:
        failure = StoreError(
            f"the store {shown_path(path)} failed: {one_line(error.strerror or 'unknown reason')}"
        )
    except UnicodeError:
        failure = StoreError(f"the store {shown_path(path)} cannot hold a name that is not valid Unicode")
    raise failure


def _store_error(error: sqlite3.Error, path: Path) -> StoreError:
    name = getattr(error, "sqlite_errorname", None) or ""
    advice = next((text for prefix, text in _ADVICE.items() if name.startswith(prefix)), "")
    return StoreError(f"the store {shown_path(path)} failed: {one_line(str(error))}", advice=advice)
