"""What the store tests share: one key, one path, and a way to see whether anything was touched."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sqlite import SqliteStore

Snapshot = dict[str, tuple[int, bytes]]


@pytest.fixture
def key() -> StoreKey:
    return StoreKey(b"0123456789abcdef0123456789abcdef")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "creds.db"


@pytest.fixture
def open_sqlite(path: Path, key: StoreKey) -> Callable[[], SqliteStore]:
    return lambda: SqliteStore(path, key=key, busy_timeout_seconds=0)


@pytest.fixture
def snapshot(tmp_path: Path) -> Callable[[], Snapshot]:
    """Every file of the folder, with mode and content."""

    def take() -> Snapshot:
        return {file.name: (file.stat().st_mode, file.read_bytes()) for file in tmp_path.iterdir()}

    return take
