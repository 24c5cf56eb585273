"""The public conformance suite, on the stores of the library."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from flowmate_async.stores.age.store import AgeStore
from flowmate_async.stores.documents.store import DocumentStore
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.stores.openbao.store import openbao_store
from flowmate_async.stores.postgres.store import PostgresStore, postgres_store
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.system.private_files import create_private
from flowmate_async.testing.health_laws import HealthLaws
from flowmate_async.testing.store_suite import OpenStore, SealedStoreSuite, StoreSuite
from flowmate_async.testing.token_laws import TokenLaws

from .postgres_server import PostgresServer


class TestMemoryStore(StoreSuite, TokenLaws, HealthLaws):
    """In memory, where one instance is the data."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        store = MemoryStore()
        return lambda: store


class TestSqliteStore(SealedStoreSuite, TokenLaws, HealthLaws):
    """In a file, where every opening is a new instance, and where the event loop never waits for the disk."""

    @pytest.fixture
    def open_store(self, path: Path, key: StoreKey) -> Iterator[OpenStore]:
        with blockbuster_ctx("flowmate_async.stores"):
            yield lambda: SqliteStore(path, key=key)

    @pytest.fixture
    def open_with_wrong_key(self, path: Path) -> OpenStore:
        return lambda: SqliteStore(path, key=StoreKey.generate())


class TestPostgresStore(SealedStoreSuite, TokenLaws, HealthLaws):
    """In a schema of a real PostgreSQL."""

    @pytest.fixture
    def open_store(self, open_postgres: Callable[[], PostgresStore]) -> OpenStore:
        return open_postgres

    @pytest.fixture
    def open_with_wrong_key(self, postgres: PostgresServer, schema: str) -> OpenStore:
        return lambda: postgres_store(postgres.url(schema), key=StoreKey.generate())


class TestAgeStore(SealedStoreSuite, HealthLaws):
    """In files that age encrypts, where the event loop never waits for the disk."""

    @pytest.fixture
    def open_store(self, path: Path, key: StoreKey) -> Iterator[OpenStore]:
        with blockbuster_ctx("flowmate_async.stores"):
            yield lambda: AgeStore(path, key=key)

    @pytest.fixture
    def open_with_wrong_key(self, path: Path) -> OpenStore:
        return lambda: AgeStore(path, key=StoreKey.generate())


class TestOpenBaoStore(SealedStoreSuite, HealthLaws):
    """In a real OpenBao, whose key is a token."""

    more_than_a_page = 250

    @pytest.fixture
    def open_store(self, open_openbao: Callable[[], DocumentStore]) -> OpenStore:
        return open_openbao

    @pytest.fixture
    def open_with_wrong_key(self, openbao_url: str, tmp_path: Path) -> OpenStore:
        create_private(tmp_path / "token", b"a-token-that-nobody-made")
        return lambda: openbao_store(f"{openbao_url}&token_file={tmp_path / 'token'}")


class TestAwsStore(StoreSuite, HealthLaws):
    """In moto's server, which speaks the protocol of AWS Secrets Manager and takes any credentials."""

    more_than_a_page = 250

    @pytest.fixture
    def open_store(self, open_aws: Callable[[], DocumentStore]) -> OpenStore:
        return open_aws
