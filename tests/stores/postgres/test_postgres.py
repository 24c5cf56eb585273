"""What a PostgreSQL store promises beyond the laws of every store."""

# ruff: noqa: ASYNC110, ASYNC220 - other processes are waited for

import asyncio
import contextlib
import gc
import subprocess
import sys
from asyncio.selector_events import _SelectorTransport
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
import trustme

from flowmate_async.errors import CheckpointError, ConfigurationError, StoreError
from flowmate_async.stores import StoreKey, Written, open_store
from flowmate_async.stores.base import Missing
from flowmate_async.stores.postgres.address import parse_address
from flowmate_async.stores.postgres.store import PostgresStore, postgres_store
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import ORIGIN, listing, named, synced, write
from flowmate_async.values.secrets import MixedSecret, MixedValue
from tests.stores.postgres_server import PASSWORD, PostgresServer, postgres_server

pytestmark = pytest.mark.anyio

OpenPostgres = Callable[[], PostgresStore]


@pytest.fixture
async def all_closed() -> AsyncIterator[None]:
    """The driver closes the TLS of a refused connection in the background; wait until it has."""
    yield
    with anyio.fail_after(10):
        while any(isinstance(one, _SelectorTransport) and one._sock for one in gc.get_objects()):
            await anyio.sleep(0.01)


async def waiting(postgres: PostgresServer) -> str:
    """The backend that waits for a lock, once there is one."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' LIMIT 1"
    while not (pid := await asyncio.to_thread(postgres.psql, query)):
        await anyio.sleep(0.02)
    return pid


async def test_the_short_scheme_names_the_same_store(
    open_postgres: OpenPostgres, postgres: PostgresServer, schema: str, key: StoreKey
) -> None:
    async with open_postgres() as store:
        await write(store, synced("ann", api_key()))
    url = postgres.url(schema).replace("postgresql://", "postgres://")
    async with open_store(url, key=key, create=False) as store:
        assert [item.username async for item in store.items()] == ["ann"]
    with pytest.raises(ConfigurationError, match="holds a credential"):
        open_store("postgres://me:password@db/app", key=key)


class TestAtRest:
    async def test_no_credential_and_no_name_of_an_app_is_in_the_database_in_clear(
        self, open_postgres: OpenPostgres, postgres: PostgresServer, schema: str
    ) -> None:
        secret = MixedSecret(id="s", name="the-app", value=MixedValue(payload="the-credential"))
        async with open_postgres() as store:
            await write(store, synced("ann", secret))
        dump = "".join(
            postgres.psql(f"SELECT * FROM {table}", schema) for table in ("secrets", "runs", "meta")
        )
        dump += postgres.psql("SELECT encode(sealed, 'escape') FROM secrets", schema)
        assert "ann" in dump
        assert "the-credential" not in dump
        assert "the-app" not in dump

    async def test_a_record_moved_to_another_place_does_not_open(
        self, open_postgres: OpenPostgres, postgres: PostgresServer, schema: str
    ) -> None:
        async with open_postgres() as store:
            await write(store, synced("ann", api_key()), synced("bob", api_key(key="of bob")))
            postgres.psql(
                "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE username = 'bob')", schema
            )
            assert (await store.verify()).damaged == (("ann", "secret-1"),)
            with pytest.raises(StoreError, match="does not open"):
                await store.get("ann", "secret-1")

    async def test_a_store_of_a_newer_version_is_left_alone(
        self, open_postgres: OpenPostgres, postgres: PostgresServer, schema: str
    ) -> None:
        async with open_postgres():
            pass
        postgres.psql("UPDATE meta SET format = 99", schema)
        with pytest.raises(StoreError, match=r"has format 99.*Upgrade"):
            await open_postgres().__aenter__()

    async def test_reading_makes_no_tables(
        self, postgres: PostgresServer, schema: str, key: StoreKey
    ) -> None:
        """A mistyped name is not a new, empty store."""
        with pytest.raises(StoreError, match="there is no store"):
            await open_store(postgres.url(schema), key=key, create=False).__aenter__()
        assert postgres.psql(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'") == "0"

    async def test_many_may_make_the_same_store_at_once(self, open_postgres: OpenPostgres) -> None:
        """As workers do that start together."""
        stores = [open_postgres() for _ in range(6)]
        async with anyio.create_task_group() as group:
            for store in stores:
                group.start_soon(store.__aenter__)
        run = await write(stores[0], synced("ann", api_key()))
        assert {await store.last_run() == run for store in stores} == {True}
        for store in stores:
            await store.__aexit__(None, None, None)


@pytest.mark.usefixtures("all_closed")
class TestFailure:
    async def test_a_connection_lost_in_mid_batch_takes_the_whole_batch_and_no_more(
        self, open_postgres: OpenPostgres, postgres: PostgresServer, schema: str
    ) -> None:
        """The credentials are written, the checkpoint waits, the server ends the session: nothing is left."""
        async with open_postgres() as store, open_postgres() as other:
            run = await write(store, synced("ann", api_key(key="before")))
            async with other._pool.acquire() as holder, holder.transaction():
                await holder.execute("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
                batch = [synced("ann", api_key(key="after")), synced("bob", api_key())]
                failure, _ = await asyncio.gather(
                    store.write(run, batch), _end_session(postgres), return_exceptions=True
                )
            assert isinstance(failure, StoreError)
            assert "what was acknowledged is kept" in str(failure)
            assert await store.get("ann", "secret-1") == api_key(key="before")
            assert await store.get("bob", "secret-1") is None
            assert await store.statuses(run, ["ann", "bob"]) == {"ann": "synced"}
            assert await store.write(run, batch) == Written(2, 0)

    async def test_two_who_write_the_same_user_at_once_take_turns(self, open_postgres: OpenPostgres) -> None:
        """Neither waits for the other in a circle, and what is missing is what the later of them lacks."""
        async with open_postgres() as one, open_postgres() as other:
            await other.bind(ORIGIN)
            for attempt in range(10):
                run = await write(one, synced("ann", *named("a", "z")))
                key = f"renewed {attempt}"
                await asyncio.gather(
                    one.write(run, [listing("ann", api_key("a", key=key)), synced("bob", api_key(key=key))]),
                    other.write(
                        run, [listing("ann", api_key("z", key=key)), synced("bob", api_key(key=key))]
                    ),
                )
                assert await one.missing(run) == Missing(missing=1, stored=3)
                assert await one.remove_missing(run, how="delete", at=3.0) == 1

    async def test_a_server_that_is_gone_is_named_without_the_password(
        self, key: StoreKey, monkeypatch: pytest.MonkeyPatch, exposed: Callable[[BaseException], str]
    ) -> None:
        monkeypatch.setenv("PGPASSWORD", "never-show-this")
        with pytest.raises(StoreError, match=r"127\.0\.0\.1:9.*Check host, port and TLS") as caught:
            await postgres_store("postgresql://me@127.0.0.1:9/db", key=key).__aenter__()
        assert "never-show-this" not in exposed(caught.value)

    async def test_a_wrong_password_is_refused_and_not_repeated(
        self,
        open_postgres: OpenPostgres,
        schema: str,
        monkeypatch: pytest.MonkeyPatch,
        exposed: Callable[[BaseException], str],
    ) -> None:
        monkeypatch.setenv("PGPASSWORD", "never-show-this")
        with pytest.raises(StoreError, match="PGPASSFILE") as caught:
            await open_postgres().__aenter__()
        assert "never-show-this" not in exposed(caught.value)

    async def test_a_run_lock_goes_with_its_process(
        self, open_postgres: OpenPostgres, postgres: PostgresServer, schema: str, key: StoreKey
    ) -> None:
        """Also when that is killed."""
        program = """
import asyncio, sys
from flowmate_async.stores import StoreKey, open_store
async def hold():
    async with open_store(sys.argv[1], key=StoreKey(sys.argv[2].encode())) as store:
        async with store.exclusive_run():
            print("held", flush=True)
            await asyncio.sleep(60)
asyncio.run(hold())
"""
        command = [sys.executable, "-c", program, postgres.url(schema), key.material.decode()]
        async with open_postgres() as store:
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert await asyncio.to_thread(process.stdout.readline) == "held\n"
                with pytest.raises(CheckpointError, match="another run"):
                    await store.exclusive_run().__aenter__()
                process.kill()
            with anyio.fail_after(20):
                while not await _taken(store):
                    await anyio.sleep(0.02)


class TestAddress:
    async def test_the_password_may_be_in_a_private_file(
        self,
        open_postgres: OpenPostgres,
        postgres: PostgresServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        file = tmp_path / "pgpass"
        file.write_text(f"127.0.0.1:{postgres.port}:*:{postgres.user}:{postgres.password}\n")
        file.chmod(0o600)
        monkeypatch.delenv("PGPASSWORD")
        monkeypatch.setenv("PGPASSFILE", str(file))
        async with open_postgres() as store:
            await store.bind(ORIGIN)

    @pytest.mark.usefixtures("all_closed")
    async def test_a_certificate_is_verified(
        self, postgres: PostgresServer, schema: str, key: StoreKey, tmp_path: Path
    ) -> None:
        """Of the authority that is named, and of no other."""
        stranger = tmp_path / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(stranger)
        good, bad = (
            postgres.url(schema, sslmode="verify-full", sslrootcert=str(authority))
            for authority in (postgres.authority, stranger)
        )
        async with postgres_store(good, key=key) as store:
            await store.bind(ORIGIN)
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            await postgres_store(bad, key=key).__aenter__()

    async def test_without_an_authority_it_is_said_how_to_name_one(
        self, key: StoreKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver knows none of the system's; nothing is connected to."""
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("PGSSLMODE", "PGSSLROOTCERT"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(StoreError, match=r"root certificate.*\?sslrootcert=FILE") as caught:
            await postgres_store("postgresql://me@db.invalid/x", key=key).__aenter__()
        assert "HINT" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "mode"),
        [
            ("postgresql://db.example/x", "verify-full"),
            ("postgresql://127.0.0.1,db.example/x", "verify-full"),
            ("postgresql://db.example/x?sslmode=require", "require"),
            ("postgresql://127.0.0.1/x", "prefer"),
            ("postgresql://[::1]:5433/x", "prefer"),
            ("postgresql:///x?host=/run/postgresql", "prefer"),
            ("postgresql:///x", "prefer"),
        ],
    )
    def test_other_machines_must_prove_who_they_are(
        self, url: str, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Unless the URL or the environment says otherwise."""
        monkeypatch.delenv("PGHOST", raising=False)
        monkeypatch.delenv("PGSSLMODE", raising=False)
        assert f"sslmode={mode}" in parse_address(url).dsn
        monkeypatch.setenv("PGSSLMODE", "verify-ca")
        assert ("sslmode" in parse_address(url).dsn) == ("sslmode" in url)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://host:port/db",
            "postgresql://host/db?schema=Robert'); DROP TABLE secrets;--",
            "postgresql://host/db?schema=",
            "postgresql://host/db?options=-c%20x",
            "postgresql://host/db#part",
            "postgresql://host/db?schema",
        ],
    )
    def test_a_url_that_cannot_work_is_refused(self, url: str, key: StoreKey) -> None:
        with pytest.raises(ConfigurationError, match="It looks like postgresql://"):
            open_store(url, key=key)

    @pytest.mark.parametrize(
        ("variable", "value", "complaint"),
        [("PGPORT", "tcp://10.0.0.1:5432", "PGPORT"), ("PGSSLMODE", "none", "sslmode")],
    )
    async def test_a_variable_of_libpq_that_cannot_work_is_told(
        self, variable: str, value: str, complaint: str, key: StoreKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Kubernetes sets the first for a service that is named "pg"."""
        monkeypatch.setenv(variable, value)
        with pytest.raises(StoreError, match=complaint) as caught:
            await postgres_store("postgresql://me@127.0.0.1/db", key=key).__aenter__()
        assert len(str(caught.value).splitlines()) == 1

    def test_without_the_driver_the_extra_is_named(
        self, key: StoreKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "asyncpg", None)
        with pytest.raises(ConfigurationError, match=r"flowmate-async\[postgres\]"):
            open_store("postgresql://host/db", key=key)


async def test_a_server_that_goes_away_is_told_by_an_error_alone(
    program: Callable[..., Path],
    key: StoreKey,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not by the driver's tracebacks either, which would keep unused connections."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    found = program("postgres", package="postgresql", folders="usr/lib/postgresql/*/bin/postgres")
    server = contextlib.ExitStack()
    url = server.enter_context(postgres_server(found)).url("flowmate")
    async with postgres_store(url, key=key) as store:
        await store.bind(ORIGIN)
        await asyncio.to_thread(server.close)
        await asyncio.sleep(0.5)  # for whatever the driver does by itself
        with pytest.raises(StoreError, match="cannot be used"):
            await store.bind(ORIGIN)
    assert caplog.records == []


async def _end_session(postgres: PostgresServer) -> None:
    pid = await waiting(postgres)
    await asyncio.to_thread(postgres.psql, f"SELECT pg_terminate_backend({pid})")


async def _taken(store: PostgresStore) -> bool:
    try:
        async with store.exclusive_run():
            return True
    except CheckpointError:
        return False
