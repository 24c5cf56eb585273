"""The public conformance suite, on the stores of the library."""

from collections.abc import Callable, Iterator

import pytest
from blockbuster import blockbuster_ctx

from flowmate_async.stores.memory import MemoryStore
from flowmate_async.stores.sqlite import SqliteStore
from flowmate_async.testing.store_suite import OpenStore, StoreSuite


class TestMemoryStore(StoreSuite):
    """In memory, where one instance is the data."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        store = MemoryStore()
        return lambda: store


class TestSqliteStore(StoreSuite):
    """In a file, where every opening is a new instance, and where the event loop never waits for the disk."""

    @pytest.fixture
    def open_store(self, open_sqlite: Callable[[], SqliteStore]) -> Iterator[OpenStore]:
        with blockbuster_ctx("flowmate_async.stores"):
            yield open_sqlite
