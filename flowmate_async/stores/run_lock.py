"""The run lock of stores in files. Services that keep documents have a lease instead."""

import sqlite3
from contextlib import closing
from pathlib import Path

from flowmate_async.errors import RunInProgressError
from flowmate_async.redaction import shown_path
from flowmate_async.stores.database_file import open_file, prepare_file


class RunLock:
    """Advisory lock: an exclusive transaction on a separate database, released when the process dies.

    Args:
        path: the store's path; the lock is a file beside it.
        suffix: the suffix of the lock file's name.
        wait_seconds: how long to wait for it.
    """

    def __init__(self, path: Path, *, suffix: str = ".lock", wait_seconds: float = 0.0) -> None:
        self.path: Path = Path(f"{path}{suffix}")
        self._wait_seconds = wait_seconds
        self._connection: sqlite3.Connection | None = None

    def acquire(self) -> None:
        """Take the lock, or fail after the waiting time.

        Raises:
            RunInProgressError: another run holds it.
            StoreError: its file cannot be used.
        """
        prepare_file(self.path)
        self._connection = open_file(self.path, "mode=rw", busy_timeout_seconds=self._wait_seconds)
        try:
            self._connection.execute("PRAGMA journal_mode = MEMORY")  # no file beside the lock
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if not str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY"):
                raise
        else:
            return
        self.release()
        raise RunInProgressError(
            f"another run holds {shown_path(self.path)}",
            advice="Wait for it to end, or stop its process; the lock goes with it, leave the file alone",
        )

    def is_held(self) -> bool:
        """Return whether the lock is held, without taking it."""
        if not self.path.exists():
            return False
        try:
            with closing(open_file(self.path, "mode=ro", busy_timeout_seconds=0)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY"):
                return True
            raise
        return False

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
