"""A store is given a new key: everything opens with it at any time, nothing with the old one in the end."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmate_async.errors import StoreError
from flowmate_async.health.observations import Observed
from flowmate_async.stores import Store, StoreKey, Written, open_store
from flowmate_async.stores.sealed.rekeying import Rekeyed
from flowmate_async.stores.sealed.sealing import Sealed, Sealing
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.testing.health_laws import judge, outbox, seeing
from flowmate_async.testing.samples import api_key, every_type
from flowmate_async.testing.store_writes import ORIGIN, collect, listing, synced, write
from tests.stores.postgres_server import PostgresServer

pytestmark = pytest.mark.anyio

NEW = StoreKey(b"n" * 32)
THIRD = StoreKey(b"t" * 32)
MANY = 700
"""More than two pages."""

Open = Callable[..., Store]


class EndedError(Exception):
    """Somebody ended the process."""


@pytest.fixture(params=["sqlite", "postgresql", "jsonl+age"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        return postgres.url(request.getfixturevalue("schema"))
    return f"{request.param}:///{tmp_path / 'store'}"


@pytest.fixture
def at_once(url: str) -> bool:
    """Whether the store takes a new key in one step."""
    return url.startswith("jsonl")


@pytest.fixture
def opened(url: str, key: StoreKey) -> Open:
    return lambda key=key, other_key=None: open_store(url, key=key, other_key=other_key)


def interrupt(_: int) -> None:
    raise EndedError


async def test_everything_opens_with_the_new_key_and_nothing_with_the_old(opened: Open) -> None:
    """Runs and checkpoints are as they were, and what has not changed counts as unchanged."""
    secrets = tuple(every_type().values())
    async with opened() as store:
        run = await write(store, synced("ann", *secrets), synced("bob", api_key()))
        assert await store.rekey(NEW) == Rekeyed(resealed=len(secrets) + 1)
        assert await store.get("ann", "secret-1") == api_key()
    with pytest.raises(StoreError, match=r"key"):
        await opened().__aenter__()
    async with opened(NEW) as store:
        assert (await store.verify()).intact == len(secrets) + 1
        assert [secret async for _, secret in store.secrets("ann")] == sorted(secrets, key=lambda one: one.id)
        assert await store.statuses(run, ["ann", "bob"]) == {"ann": "synced", "bob": "synced"}
        assert await store.write(run, [synced("bob", api_key())]) == Written(0, 1)


async def test_health_and_the_outbox_survive(opened: Open, *, at_once: bool) -> None:
    """Also when it is interrupted; afterwards a change is told as if nothing had happened."""
    users = [synced(f"user-{number:03}", api_key(key=str(number))) for number in range(MANY)]
    async with opened() as store:
        run = await write(store, *users, seeing(synced("zoë"), Observed.REFUSED, Observed.MASKED))
        await store.settle_health(judge())
        await store.write(run, [seeing(synced("ann"), Observed.FAILED)])
        records = await collect(store.health())
        assert [record.username for record in records] == ["ann", "zoë"]
        with pytest.raises(EndedError):
            await store.rekey(NEW, on_progress=interrupt)
    async with opened() if at_once else opened(NEW) as store:
        assert await collect(store.health()) == records
        await store.rekey(NEW)
    async with opened(NEW) as store:
        assert await collect(store.health()) == records
        assert await outbox(store) == ["zoë credential.broken"]
        run = await store.begin_run(at=60.0)
        await store.write(run, [seeing(listing("zoë"))])
        await store.settle_health(judge(at=70.0))
        assert [record.username for record in await collect(store.health())] == ["ann"]


async def test_whoever_is_interrupted_goes_on_where_it_was(opened: Open, *, at_once: bool) -> None:
    """Meanwhile the new key opens everything, for reading and writing, however far it came."""
    users = [synced(f"user-{number:03}", api_key(key=str(number))) for number in range(MANY)]
    async with opened() as store:
        run = await write(store, *users)
        with pytest.raises(EndedError):
            await store.rekey(NEW, on_progress=interrupt)
    if at_once:
        async with opened() as store:
            assert await store.rekey(NEW) == Rekeyed(resealed=MANY)
        return
    async with opened(NEW) as store:
        assert (await store.verify()).intact == MANY
        assert await store.write(run, [synced("user-699", api_key(key="new"))]) == Written(1, 0)
        assert await store.get("user-699", "secret-1") == api_key(key="new")
        done = await store.rekey(NEW)
        assert 0 < done.already < MANY
        assert done.resealed + done.already == MANY
        assert done.damaged == ()
        assert await store.rekey(NEW) == Rekeyed(already=MANY)
        assert (await store.verify()).intact == MANY


async def test_who_has_both_keys_notices_nothing(opened: Open, key: StoreKey) -> None:
    """Workers get the second key first; then the store may be given it at any time, and they stay."""
    async with opened(other_key=NEW) as worker, opened(NEW, other_key=key) as other, opened() as store:
        run = await write(worker, *(synced(f"user-{number:03}", api_key()) for number in range(MANY)))
        pairs = worker.secrets()
        assert await anext(pairs) == ("user-000", api_key())
        await store.rekey(NEW)
        assert len(await collect(pairs)) == MANY - 1
        await other.bind(ORIGIN)
        for one in (worker, other):
            assert await one.get("user-500", "secret-1") == api_key()
            assert await one.write(run, [synced("user-500", api_key())]) == Written(0, 1)
            assert (await one.verify()).intact == MANY


async def test_who_has_the_old_key_alone_writes_nothing_any_more(opened: Open) -> None:
    """What it sealed would never open again."""
    async with opened() as late, opened() as store:
        run = await write(late, synced("ann", api_key()))
        await store.rekey(NEW)
        with pytest.raises(StoreError, match="key"):
            await late.write(run, [synced("bob", api_key())])
        with pytest.raises(StoreError, match="key"):
            await late.get("ann", "secret-1")
    async with opened(NEW) as store:
        assert await collect(store.secrets()) == [("ann", api_key())]


async def test_a_third_key_has_to_wait(opened: Open, *, at_once: bool) -> None:
    """Of two keys none would be lost track of; of three one might."""
    async with opened() as store:
        await write(store, *(synced(f"user-{number:03}", api_key()) for number in range(MANY)))
        with pytest.raises(EndedError):
            await store.rekey(NEW, on_progress=interrupt)
        if not at_once:
            with pytest.raises(StoreError, match="Finish that first"):
                await store.rekey(THIRD)
            await store.rekey(NEW)
        await store.rekey(THIRD)
    async with opened(THIRD) as store:
        assert (await store.verify()).intact == MANY


async def test_a_store_that_was_never_used_takes_a_new_key(opened: Open) -> None:
    async with opened() as store:
        assert await store.rekey(NEW) == Rekeyed()
    async with opened(NEW) as store:
        await write(store, synced("ann", api_key()))


async def test_what_is_written_while_a_page_is_sealed_anew_stays(
    opened: Open, key: StoreKey, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    """By a worker with both keys, after the page was read and before it is written."""
    if at_once:
        pytest.skip("nobody writes between")
    async with opened(other_key=NEW) as worker, opened() as store:
        run = await write(worker, synced("ann", api_key()), synced("bob", api_key()))
        genuine = Sealing.resealed
        written: list[asyncio.Task[Written]] = []

        def resealed(self: Sealing, username: str, secret_id: str, sealed: Sealed) -> Sealed | None:
            found = genuine(self, username, secret_id, sealed)
            if username == "bob":
                newer = worker.write(run, [synced("ann", api_key(key="newer"))])
                written.append(asyncio.get_running_loop().create_task(newer))
            return found

        monkeypatch.setattr(Sealing, "resealed", resealed)
        page_is_read = store._on_database

        async def after_the_worker(work: Callable[..., object], *args: object) -> object:
            if written:
                await asyncio.gather(*written)
            return await page_is_read(work, *args)

        monkeypatch.setattr(store, "_on_database", after_the_worker)
        assert await store.rekey(NEW)
        assert await written[0] == Written(1, 0)
    async with opened(NEW) as store:
        assert await store.get("ann", "secret-1") == api_key(key="newer")
        assert (await store.verify()).damaged == ()


class TestPostgres:
    async def test_dead_rows_of_the_old_key_are_gone(
        self, postgres: PostgresServer, schema: str, key: StoreKey
    ) -> None:
        """From the tables' files: PostgreSQL keeps replaced rows until a table is written anew."""
        async with open_store(postgres.url(schema), key=key) as store:
            await write(store, *(synced(f"user-{number:03}", api_key()) for number in range(50)))
            sealed = bytes.fromhex(postgres.psql("SELECT encode(sealed, 'hex') FROM secrets LIMIT 1", schema))
            await store.rekey(NEW)
        postgres.psql("CHECKPOINT")
        files = [file for file in (postgres.data / "base").rglob("*") if file.is_file()]
        assert not [file for file in files if sealed[:64] in file.read_bytes()]

    async def test_dead_rows_that_must_stay_are_named(
        self, postgres: PostgresServer, schema: str, key: StoreKey
    ) -> None:
        """The role may write the tables, and does not own them."""
        async with open_store(postgres.url(schema), key=key) as store:
            await write(store, synced("ann", api_key()))
        role = f"writer_{schema}"
        postgres.psql(f"CREATE ROLE {role} LOGIN PASSWORD '{postgres.password}'")
        postgres.psql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        postgres.psql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
        url = postgres.url(schema).replace(postgres.user, role)
        async with open_store(url, key=key) as store:
            assert "dead rows of secrets" in (await store.rekey(NEW)).left


class TestSqlite:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "creds.db"

    async def test_it_does_not_end_while_another_program_reads_an_older_state(
        self, file: Path, key: StoreKey
    ) -> None:
        """Nothing can be removed from the disk then; the same command ends once the other program has."""
        async with SqliteStore(file, key=key, busy_timeout_seconds=0) as store:
            await write(store, synced("ann", api_key(key="x" * 300)))
            reader = sqlite3.connect(file, isolation_level=None)
            ((sealed,),) = reader.execute("SELECT sealed FROM secrets").fetchall()
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM secrets").fetchone()
            with pytest.raises(StoreError, match=r"still on the disk.*run the same command again"):
                await store.rekey(NEW)
            assert await store.get("ann", "secret-1") == api_key(key="x" * 300)
            reader.close()
            assert await store.rekey(NEW) == Rekeyed(already=1)
            on_disk = b"".join(one.read_bytes() for one in file.parent.iterdir())
        assert sealed[:200] not in on_disk

    async def test_a_record_that_neither_key_opens_is_named_and_left(self, file: Path, key: StoreKey) -> None:
        async with open_store(f"sqlite:///{file}", key=key) as store:
            await write(store, synced("ann", api_key("a"), api_key("b")))
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE secrets SET sealed = x'00' WHERE secret_id = 'a'")
        connection.close()
        async with open_store(f"sqlite:///{file}", key=key) as store:
            assert await store.rekey(NEW) == Rekeyed(resealed=1, damaged=(("ann", "a"),))
            assert (await store.verify()).damaged == (("ann", "a"),)

    async def test_what_the_old_key_sealed_is_gone_from_the_disk(self, file: Path, key: StoreKey) -> None:
        """The new key never was in it, and the old one has left no trace."""
        async with open_store(f"sqlite:///{file}", key=key) as store:
            await write(store, synced("ann", api_key(key="x" * 300)))
            with sqlite3.connect(file) as connection:
                ((sealed,),) = connection.execute("SELECT sealed FROM secrets").fetchall()
            connection.close()
            await store.rekey(NEW)
            with sqlite3.connect(file) as connection:
                assert connection.execute("SELECT previous_key_id, previous_key FROM meta").fetchall() == [
                    (None, None)
                ]
            connection.close()
            on_disk = b"".join(one.read_bytes() for one in file.parent.iterdir())
        assert sealed[:200] not in on_disk
        assert key.material not in on_disk
        assert NEW.material not in on_disk

    async def test_a_tampered_record_of_the_previous_key_is_refused(self, file: Path, key: StoreKey) -> None:
        async with open_store(f"sqlite:///{file}", key=key) as store:
            await write(store, *(synced(f"user-{number:03}", api_key()) for number in range(MANY)))
            with pytest.raises(EndedError):
                await store.rekey(NEW, on_progress=interrupt)
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE meta SET previous_key = zeroblob(60)")
        connection.close()
        with pytest.raises(StoreError, match="tampered with"):
            await open_store(f"sqlite:///{file}", key=NEW).__aenter__()
