"""Users' tokens at rest: sealed, in their own place only, given a new key with the rest, and never copied."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from msgspec.structs import replace

from flowmate_async.errors import StoreError
from flowmate_async.stores import Store, StoreKey, open_store
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.stores.postgres.store import PostgresStore
from flowmate_async.stores.sealed.rekeying import Rekeyed
from flowmate_async.stores.sealed.sealing import NONCE_BYTES, Sealed, Sealing, length_prefixed
from flowmate_async.stores.transfer.copying import copy_store
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import synced, write
from flowmate_async.testing.token_laws import kept, with_token
from flowmate_async.values.models import KeptToken, UserToken

from .postgres_server import PostgresServer

pytestmark = pytest.mark.anyio

NEW = StoreKey(b"n" * 32)
SECRET = "the-token-of-ann"
TOKEN = KeptToken(UserToken(SECRET, id="its-id"), 100.0)
MANY = 600
"""More than two pages."""

Open = Callable[..., Store]
Sql = Callable[[str], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opened(kind: str, request: pytest.FixtureRequest, path: Path, key: StoreKey) -> Open:
    """A function that gives a store over the same data, with a key."""
    if kind == "sqlite":
        url = f"sqlite:///{path}"
    else:
        url = request.getfixturevalue("postgres").url(request.getfixturevalue("schema"))
    return lambda key=key, other_key=None: open_store(url, key=key, other_key=other_key)


@pytest.fixture
def sql(kind: str, request: pytest.FixtureRequest, path: Path) -> Sql:
    """Somebody can write to the store but does not have its key."""

    def on_file(statement: str) -> str:
        connection = sqlite3.connect(path)
        with connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return repr(rows)

    def on_server(statement: str) -> str:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        return postgres.psql(statement, request.getfixturevalue("schema"))

    return on_file if kind == "sqlite" else on_server


class EndedError(Exception):
    """Somebody ended the process."""


def interrupt(_: int) -> None:
    raise EndedError


async def test_nothing_of_a_token_is_in_clear(opened: Open, sql: Sql, kind: str, path: Path) -> None:
    async with opened() as store:
        await write(store, with_token("ann", TOKEN))
        if kind == "sqlite":
            there = b"".join(file.read_bytes() for file in path.parent.iterdir())
        else:
            there = (
                sql("SELECT * FROM tokens") + sql("SELECT encode(sealed, 'escape') FROM tokens")
            ).encode()
    assert b"ann" in there
    assert SECRET.encode() not in there
    assert b"its-id" not in there


async def test_one_moved_to_another_user_or_run_does_not_open(opened: Open, sql: Sql) -> None:
    """It is as good as none, and takes no others along."""
    async with opened() as store:
        users = [with_token("ann", TOKEN), with_token("bob", kept("b")), with_token("cid", kept("c"))]
        await write(store, *users)
        sql(
            "UPDATE tokens SET sealed = (SELECT sealed FROM tokens WHERE username = 'ann') "
            "WHERE username = 'bob'"
        )
        assert await store.kept_tokens(["ann", "bob", "cid"]) == {"ann": TOKEN, "cid": kept("c")}
        sql("UPDATE tokens SET run_id = 'another' WHERE username = 'ann'")
        assert await store.kept_tokens(["ann", "bob", "cid"]) == {"cid": kept("c")}


def test_a_token_and_a_credential_cannot_take_each_others_place(key: StoreKey) -> None:
    """Their places are named otherwise, and they have subkeys of their own."""
    sealing = Sealing(key, store_id="store", origin="o")
    token = sealing.seal_token("ann", TOKEN, run_id="run")
    credential = sealing.seal_unless_same("ann", api_key("s"), run_id="run", stored=None)
    assert credential is not None
    for username, run_id in (("ann", "run"), ("", "ann"), ("ann", "s")):
        assert sealing.opened_token(username, run_id, credential.data) is None
    for secret_id, run_id in (("", "run"), ("run", ""), ("s", "run")):
        assert sealing.opened("ann", secret_id, Sealed(run_id, token, b"")) is None
    place = sealing._bound(length_prefixed("ann"), "run")
    with pytest.raises(InvalidTag):
        sealing._cipher("seal", "run").decrypt(token[:NONCE_BYTES], token[NONCE_BYTES:], place)
    assert sealing.opened_token("ann", "run", token) == TOKEN
    assert sealing.opened_token("bob", "run", token) is None
    assert Sealing(key, store_id="another", origin="o").opened_token("ann", "run", token) is None
    assert Sealing(key, store_id="store", origin="p").opened_token("ann", "run", token) is None
    assert Sealing(NEW, store_id="store", origin="o").opened_token("ann", "run", token) is None


async def test_a_damaged_one_is_as_good_as_none_and_written_over(opened: Open, sql: Sql, kind: str) -> None:
    async with opened() as store:
        run = await write(store, with_token("ann", TOKEN))
        sql(f"UPDATE tokens SET sealed = {'x' if kind == 'sqlite' else ''}'00'")
        assert await store.kept_tokens(["ann"]) == {}
        await store.write(run, [with_token("ann", TOKEN)])
        assert await store.kept_tokens(["ann"]) == {"ann": TOKEN}


async def test_a_wrong_key_opens_none(opened: Open) -> None:
    async with opened() as store:
        await write(store, with_token("ann", TOKEN))
    with pytest.raises(StoreError, match="key"):
        await opened(NEW).__aenter__()
    async with opened() as store:
        assert await store.kept_tokens(["ann"]) == {"ann": TOKEN}


async def test_a_new_key_opens_them_and_the_old_one_does_not(opened: Open, sql: Sql) -> None:
    """They do not count as credentials. The record of the old key is gone, so the new one opens them."""
    async with opened() as store:
        await write(store, *(with_token(f"user-{number:03}", kept(f"{number}")) for number in range(MANY)))
        before = sql("SELECT sealed FROM tokens")
        assert await store.rekey(NEW) == Rekeyed(resealed=MANY)
    async with opened(NEW) as store:
        names = [f"user-{number:03}" for number in range(MANY)]
        assert len(await store.kept_tokens(names)) == MANY
    assert sql("SELECT sealed FROM tokens") != before


async def test_while_a_new_key_is_given_either_opens_them(opened: Open, key: StoreKey) -> None:
    """Wherever it was interrupted; and what is written meanwhile is sealed with the new one."""
    names = [f"user-{number:03}" for number in range(MANY)]
    async with opened(other_key=NEW) as worker, opened() as store:
        run = await write(worker, *(with_token(name, kept(name)) for name in names))
        with pytest.raises(EndedError):
            await store.rekey(NEW, on_progress=interrupt)
        await worker.write(run, [with_token(names[5], TOKEN)])
        assert (await worker.kept_tokens(names))[names[5]] == TOKEN
        async with opened(NEW, key) as other:
            assert len(await other.kept_tokens(names)) == MANY
            await other.rekey(NEW)
            assert len(await other.kept_tokens(names)) == MANY
    async with opened(NEW) as store:
        assert (await store.kept_tokens(names))[names[5]] == TOKEN


async def test_a_copy_has_none(opened: Open) -> None:
    """Like runs and checkpoints they stay behind; the store that is copied keeps them."""
    async with opened() as store, MemoryStore() as target:
        await write(store, with_token("ann", TOKEN))
        await copy_store(store, target, at=2.0)
        assert await target.kept_tokens(["ann"]) == {}
        assert await target.get("ann", "secret-1") == api_key()
        assert await store.kept_tokens(["ann"]) == {"ann": TOKEN}


async def test_a_token_that_cannot_be_encoded_fails_its_batch_unseen(
    opened: Open, exposed: Callable[[BaseException], str]
) -> None:
    bad = KeptToken(UserToken(f"{SECRET}\ud800"), 100.0)
    async with opened() as store:
        run = await write(store, synced("ann", api_key()))
        with pytest.raises(StoreError, match=r"user's token cannot.*'ann'") as caught:
            await store.write(run, [replace(synced("ann", api_key(key="after")), token=bad)])
        assert SECRET not in exposed(caught.value)
        assert await store.get("ann", "secret-1") == api_key()


class TestPostgresOfAnEarlierVersion:
    async def test_a_wrong_key_changes_nothing(
        self, open_postgres: Callable[[], PostgresStore], postgres: PostgresServer, schema: str
    ) -> None:
        async with open_postgres():
            pass
        postgres.psql("DROP TABLE tokens; UPDATE meta SET format = 1", schema)
        with pytest.raises(StoreError, match="key"):
            await open_store(postgres.url(schema), key=NEW).__aenter__()
        assert postgres.psql("SELECT format FROM meta", schema) == "1"
