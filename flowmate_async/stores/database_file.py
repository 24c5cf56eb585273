"""A private SQLite file: create it and connect to it. Its owner decides which tables are inside."""

import os
import sqlite3
from pathlib import Path

from flowmate_async.errors import StoreError
from flowmate_async.system.private_files import create_private, require_private


def prepare_file(path: Path) -> None:
    """Create the empty private file, or check the existing one.

    Raises:
        StoreError: it cannot be created, is readable by others, or is not a regular file.
    """
    if not os.path.lexists(path):
        create_private(path, error=StoreError)
    require_private(path, what="the store", follow_symlinks=False, error=StoreError)


def open_file(path: Path, options: str, *, busy_timeout_seconds: float) -> sqlite3.Connection:
    """Return a connection in autocommit mode, for any thread.

    Args:
        path: the file.
        options: SQLite's URI parameters, like ``mode=ro``.
        busy_timeout_seconds: how long to wait while another process holds a lock on it.
    """
    return sqlite3.connect(
        f"{path.as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=busy_timeout_seconds,
    )
