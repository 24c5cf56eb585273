"""A store is copied into another one, of whatever kind, and the copy is compared."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from flowmate_async.errors import StoreError
from flowmate_async.health.observations import Observed
from flowmate_async.stores import Store, StoreKey, open_store
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.stores.transfer import copying
from flowmate_async.stores.transfer.copying import Copied, copy_store, is_copy_of, is_empty, unfinished_copy
from flowmate_async.testing.health_laws import judge, keeper, outbox, seeing
from flowmate_async.testing.samples import api_key, every_type
from flowmate_async.testing.store_writes import ORIGIN, collect, listing, named, synced, write
from flowmate_async.values.secrets import Secret
from tests.stores.postgres_server import PostgresServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def urls(
    postgres: PostgresServer, schema: str, openbao_url: str, aws_url: str, tmp_path: Path
) -> dict[str, str]:
    """A place in every kind of store."""
    return {
        "sqlite": f"sqlite:///{tmp_path / 'store.db'}",
        "postgresql": postgres.url(schema),
        "jsonl+age": f"jsonl+age:///{tmp_path / 'store.age'}",
        "openbao": openbao_url,
        "awssm": aws_url,
    }


async def test_a_copy_of_a_copy_through_every_store_is_the_same(urls: dict[str, str], key: StoreKey) -> None:
    """Credentials, and when they were stored; each time compared, and a second time nothing is left to do.

    Their health as well, and the notices that nobody has taken yet.
    """
    users = [
        synced("zoë", *every_type().values(), at=11.0),
        seeing(synced("ann", api_key(), at=12.0), Observed.REFUSED, secret_id="another"),
    ]
    origin = MemoryStore()
    async with origin:
        await write(origin, *users)
        await origin.settle_health(judge())
        records = await collect(origin.health())
        expected = await collect(origin.secrets())
        items = await collect(origin.items())
        source: Store = origin
        for name, url in urls.items():
            target = await open_store(url, key=key).__aenter__()
            done = await copy_store(source, target, at=20.0)
            assert done == Copied(users=2, secrets=len(expected), changed=len(expected)), name
            assert await collect(target.secrets()) == expected, name
            assert await collect(target.items()) == items, name
            assert await collect(keeper(target).health()) == records, name
            assert await outbox(target) == ["ann credential.broken"], name
            assert (await copy_store(source, target, at=21.0)).changed == 0, name
            await source.__aexit__(None, None, None)
            source = target
        await source.__aexit__(None, None, None)


async def test_what_the_other_store_has_besides_stays() -> None:
    async with MemoryStore() as source, MemoryStore() as target:
        await write(source, synced("ann", api_key("b")))
        await write(target, synced("ann", api_key("a"), api_key("c")), synced("bob", api_key()))
        assert not await is_empty(target)
        assert await copy_store(source, target, at=1.0) == Copied(users=1, secrets=1, changed=1)
        assert [item.secret_id async for item in target.items("ann")] == ["a", "b", "c"]


async def test_what_was_missing_in_the_other_store_is_back_in_it(urls: dict[str, str], key: StoreKey) -> None:
    """All that was copied of a user, marked or only noted: the next removal takes none of it away."""
    secrets = [api_key("a"), api_key("b"), api_key("c", key="new")]
    async with MemoryStore() as source:
        await write(source, synced("ann", *secrets))
        for name, url in urls.items():
            async with open_store(url, key=key) as target:
                run = await write(target, synced("ann", *named("a", "b", "c")))
                await target.write(run, [listing("ann", api_key("a"))])
                await target.remove_missing(run, how="mark", at=3.0)
                await target.write(run, [listing("ann")])
                await copy_store(source, target, at=4.0)
                assert await target.remove_missing(run, how="delete", at=5.0) == 0, name
                assert [item.removed_at async for item in target.items()] == [None] * 3, name
                assert await collect(target.secrets()) == [("ann", secret) for secret in secrets], name


async def test_a_copy_of_another_upstreams_store_is_refused() -> None:
    async with MemoryStore() as source, MemoryStore() as target:
        with pytest.raises(StoreError, match="never synced"):
            await copy_store(source, target, at=1.0)
        await write(source, synced("ann", api_key()))
        await target.bind("https://other.example")
        with pytest.raises(StoreError, match=r"other\.example"):
            await copy_store(source, target, at=1.0)
        assert await is_empty(target)


class Forgetful(MemoryStore):
    """Acknowledges everything, and gives back something else."""

    async def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        async for owner, secret in super().secrets(username):
            yield owner, api_key(secret.id, key="something else") if owner == "bob" else secret


class EndedError(Exception):
    """Somebody ended the copy."""


async def test_an_interrupted_copy_is_gone_on_with(
    urls: dict[str, str], key: StoreKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every kind of store: it is recognised, repeated without rewriting, and complete in the end."""
    monkeypatch.setattr(copying, "_BATCH", 2)
    users = [synced(f"user-{number}", api_key()) for number in range(5)]

    def interrupt(done: int, _total: int) -> None:
        if done >= 4:
            raise EndedError

    async with MemoryStore() as source:
        await write(source, *users)
        for name, url in urls.items():
            async with open_store(url, key=key) as target:
                with pytest.raises(EndedError):
                    await copy_store(source, target, at=1.0, source_url="a", on_progress=interrupt)
            async with open_store(url, key=key) as target:
                assert await unfinished_copy(target) is not None, name
                assert await is_copy_of(target, "a", finished=False)
                assert not await is_copy_of(target, "b", finished=True)
                done = await copy_store(source, target, at=2.0, source_url="a")
                assert (done.users, done.changed) == (5, 1), name
                assert await unfinished_copy(target) is None
                assert await is_copy_of(target, "a", finished=True)
                assert not await is_copy_of(target, "a", finished=False)


async def test_a_sync_since_makes_it_no_copy_any_more() -> None:
    async with MemoryStore() as source, MemoryStore() as target:
        await write(source, synced("ann", api_key()))
        await copy_store(source, target, at=1.0, source_url="a")
        await write(target, synced("bob", api_key()))
        assert not await is_copy_of(target, "a", finished=True)
        assert await unfinished_copy(target) is None


async def test_a_copy_that_is_not_the_same_is_an_error_and_no_complete_run() -> None:
    """Whatever the store acknowledged."""
    async with MemoryStore() as source, Forgetful() as target:
        await write(source, synced("ann", api_key()), synced("bob", api_key()), synced("cid", api_key()))
        with pytest.raises(StoreError, match=r"not the same .*'bob'"):
            await copy_store(source, target, at=1.0)
        assert (await target.last_run()).finished_at is None
        assert await target.origin() == ORIGIN


async def test_the_next_delta_sync_compares_with_what_was_seen_before() -> None:
    ann = synced("ann", api_key())
    ann = structs.replace(ann, checkpoint=structs.replace(ann.checkpoint, seen="as-listed"))
    async with MemoryStore() as source, MemoryStore() as target:
        await write(source, ann, synced("bob", api_key()))
        await copy_store(source, target, at=1.0)
        assert (await target.seen(["ann"]))["ann"] == "as-listed"
        assert not (await target.seen(["bob"])).get("bob")


async def test_the_health_of_many_credentials_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches, the last of which is not full."""
    monkeypatch.setattr(copying, "_BATCH", 2)

    class Counting(MemoryStore):
        put = 0

        async def put_health(self, records, notices=()):
            self.put += len(records)
            await super().put_health(records, notices)

    names = [f"user-{number}" for number in range(5)]
    async with MemoryStore() as source, Counting() as target:
        await write(source, *(seeing(synced(name, api_key()), Observed.REFUSED) for name in names))
        await copy_store(source, target, at=1.0)
        assert [record.credential.username async for record in target.health()] == names
        assert target.put == len(names)
