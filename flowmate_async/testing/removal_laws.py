"""The laws of credentials that upstream no longer has; a part of :class:`~.store_suite.StoreSuite`."""

# ruff: noqa: S101 - these are tests

import pytest
from msgspec.structs import replace

from flowmate_async.errors import CheckpointError
from flowmate_async.stores.base import Missing, Run, UserWrite
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import (
    OpenStore,
    failed,
    listing,
    named,
    places,
    synced,
    write,
)

__all__ = [
    "RemovalLaws",
]


class RemovalLaws:
    """Noting, marking, deleting."""

    async def test_what_a_proven_listing_lacks_is_missing(self, open_store: OpenStore) -> None:
        """They count as a part of what the run could judge. Nothing is removed. Resuming keeps the note."""
        async with open_store() as store:
            await write(store, synced("ann", *named("a", "b", "c")), synced("bob", *named("a")))
            run = await store.begin_run(at=2.0)
            await store.write(run, [listing("ann", *named("b"))])
        async with open_store() as store:
            assert await store.missing(run) == Missing(missing=2, stored=3)
            assert await places(store) == ["ann a", "ann b", "ann c", "bob a"]

    async def test_without_a_proven_listing_nothing_is_missing(self, open_store: OpenStore) -> None:
        """Nothing is noted for a failed user, or for one whose listing could not be counted."""
        async with open_store() as store:
            await write(store, synced("ann", *named("a", "b")), synced("bob", *named("a", "b")))
            run = await store.begin_run(at=2.0)
            unproven = replace(synced("bob", *named("a")).checkpoint, listing_proven=False)
            await store.write(run, [failed("ann", "protocol", *named("a"))])
            await store.write(run, [UserWrite(checkpoint=unproven, secrets=named("a"))])
            assert await store.missing(run) == Missing(missing=0, stored=0)
            assert await store.remove_missing(run, how="delete", at=3.0) == 0

    async def test_the_missing_are_deleted_and_nothing_else(self, open_store: OpenStore) -> None:
        """Only what this run noted, for the users it judged."""
        async with open_store() as store:
            before = await write(store, synced("ann", *named("a", "b")), synced("bob", *named("a", "b")))
            await store.write(before, [listing("bob", *named("a"))])
            run = await store.begin_run(at=2.0)
            await store.write(run, [listing("ann", *named("b"))])
            assert await store.remove_missing(run, how="delete", at=3.0) == 1
            assert await places(store) == ["ann b", "bob a", "bob b"]
            assert await store.get("ann", "a") is None
            assert await store.missing(run) == Missing(missing=0, stored=1)

    async def test_the_missing_are_marked_and_stay_readable(self, open_store: OpenStore) -> None:
        """Marking keeps the time of the first mark; a marked one is not counted as missing again."""
        async with open_store() as store:
            await write(store, synced("ann", *named("a", "b")))
            for at in (3.0, 4.0):
                run = await store.begin_run(at=at)
                await store.write(run, [listing("ann", *named("b"))])
                assert (await store.missing(run)).missing == (1 if at == 3.0 else 0)
                assert await store.remove_missing(run, how="mark", at=at) == (1 if at == 3.0 else 0)
            assert [item.removed_at async for item in store.items()] == [3.0, None]
            assert await store.get("ann", "a") == api_key("a")
            assert await store.remove_missing(run, how="delete", at=5.0) == 1
            assert await places(store) == ["ann b"]

    async def test_what_comes_back_is_neither_missing_nor_marked(self, open_store: OpenStore) -> None:
        """It is back if it was written again, found unchanged, or only listed."""
        async with open_store() as store:
            run = await write(store, synced("ann", *named("a", "b", "c")))
            await store.write(run, [listing("ann")])
            await store.remove_missing(run, how="mark", at=3.0)
            run = await store.begin_run(at=4.0)
            back = synced("ann", api_key("a"), api_key("b", key="new"))
            await store.write(run, [replace(back, listed=("a", "b", "c"))])
            assert await store.missing(run) == Missing(missing=0, stored=3)
            assert [item.removed_at async for item in store.items()] == [None, None, None]

    async def test_all_of_a_user_that_is_gone_is_missing(self, open_store: OpenStore) -> None:
        """Users are noted by name. An unknown user is accepted; a run of another store is an error."""
        async with open_store() as store:
            await write(store, synced("ann", *named("a", "b")), synced("bob", *named("a")))
            run = await store.begin_run(at=2.0)
            await store.note_missing(run, ["ann", "nobody"])
            assert await store.missing(run) == Missing(missing=2, stored=2)
            assert await store.remove_missing(run, how="delete", at=3.0) == 2
            assert await places(store) == ["bob a"]
            with pytest.raises(CheckpointError):
                await store.note_missing(Run(id="no-such-run", started_at=1.0), ["bob"])

    async def test_a_user_twice_in_a_batch_is_back_wholly(self, open_store: OpenStore) -> None:
        """Every credential in any of the user's writes is back, whether marked, noted or changed."""
        async with open_store() as store:
            run = await write(store, synced("ann", *named("a", "b", "c", "d")))
            await store.write(run, [listing("ann")])
            await store.remove_missing(run, how="mark", at=3.0)
            run = await store.begin_run(at=4.0)
            changed = synced("ann", api_key("b", key="new"))
            await store.write(run, [synced("ann", *named("a")), changed, listing("ann", *named("c", "d"))])
            assert [item.removed_at async for item in store.items()] == [None] * 4
            await store.write(run, [synced("ann", *named("a")), synced("ann", *named("b"))])
            assert await store.remove_missing(run, how="delete", at=5.0) == 0
            await store.write(run, [listing("ann"), synced("ann", *named("a", "b", "c", "d"))])
            assert await store.missing(run) == Missing(missing=0, stored=4)

    async def test_a_user_twice_in_a_batch_lacks_what_the_last_listing_lacks(
        self, open_store: OpenStore
    ) -> None:
        """This includes what the batch wrote earlier. A write without a listing keeps the notes."""
        async with open_store() as store:
            await write(store, synced("ann", *named("a")), synced("bob", *named("a", "b")))
            run = await store.begin_run(at=2.0)
            await store.write(run, [listing("ann", *named("b")), listing("ann", *named("c"))])
            assert await store.missing(run) == Missing(missing=2, stored=3)
            await store.write(run, [listing("bob", *named("a")), failed("bob", "protocol", *named("a"))])
            assert await store.remove_missing(run, how="delete", at=3.0) == 3
            assert await places(store) == ["ann c", "bob a"]
            await store.write(run, [listing("bob")])
            await store.remove_missing(run, how="mark", at=4.0)
            await store.write(run, [synced("bob", *named("a")), listing("bob")])
            assert [item.removed_at async for item in store.items("bob")] == [None], "it was back, once"
            assert await store.remove_missing(run, how="delete", at=5.0) == 1
