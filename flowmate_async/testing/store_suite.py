"""The laws of a store, as tests that any store can run.

Derive from :class:`StoreSuite` in a test module of yours and say how your store is opened::

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda: MyStore(tmp_path / "data")

The suite of a store that needs a key derives from :class:`SealedStoreSuite`. Needs pytest and anyio's plugin,
which
comes with anyio. Nothing here knows any particular store.
"""

# ruff: noqa: S101, S106 - these are tests

import pytest
from msgspec.structs import replace

from flowmate_async.errors import CheckpointError, StoreError
from flowmate_async.stores.base import (
    Checkpoint,
    Run,
    RunTotals,
    StoredItem,
    UserWrite,
    Verification,
    Written,
)
from flowmate_async.stores.run_history import ListsRuns, latest_runs
from flowmate_async.testing.concurrency_laws import ConcurrencyLaws
from flowmate_async.testing.removal_laws import RemovalLaws
from flowmate_async.testing.samples import EXPIRES_AS_STORED, api_key, every_type
from flowmate_async.testing.store_writes import ORIGIN, OpenStore, collect, failed, synced, write
from flowmate_async.values.secrets import MixedSecret, MixedValue, Secret, UnknownSecret

__all__ = [
    "SealedStoreSuite",
    "StoreSuite",
]


class StoreSuite(RemovalLaws, ConcurrencyLaws):
    """Contract tests: derive, and override :meth:`open_store`."""

    pytestmark = pytest.mark.anyio

    more_than_a_page = 1200
    """More rows than the store fetches at a time; fewer where each is a request."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop to run on."""
        return "asyncio"

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """Return a function that creates a store, not yet entered; in a test always over the same data."""
        raise NotImplementedError("override the fixture open_store")

    @pytest.mark.parametrize("secret", [pytest.param(s, id=name) for name, s in every_type().items()])
    async def test_every_secret_comes_back_as_it_was(self, open_store: OpenStore, secret: Secret) -> None:
        """For any type and content, including refresh fields, and after the store was closed."""
        async with open_store() as store:
            await write(store, synced("ann", secret))
        async with open_store() as store:
            assert await store.get("ann", secret.id) == secret
            assert await collect(store.secrets()) == [("ann", secret)]

    async def test_what_is_not_there_is_none(self, open_store: OpenStore) -> None:
        """Neither an unknown user nor an unknown secret is an error."""
        async with open_store() as store:
            assert await store.get("ann", "secret-1") is None
            await write(store, synced("ann", api_key()))
            assert await store.get("ann", "secret-2") is None
            assert await store.get("bob", "secret-1") is None

    async def test_users_with_the_same_secret_id_do_not_mix(self, open_store: OpenStore) -> None:
        """A credential belongs to its user and its id together."""
        async with open_store() as store:
            await write(store, synced("ann", api_key(key="of ann")), synced("bob", api_key(key="of bob")))
            assert await store.get("ann", "secret-1") == api_key(key="of ann")
            assert await store.get("bob", "secret-1") == api_key(key="of bob")
            assert await collect(store.secrets("bob")) == [("bob", api_key(key="of bob"))]

    @pytest.mark.parametrize(
        "username", ["ann@example.com", "Zoë/../x", "a'b\"c;--", "%_*", "用户", "a b\tc"]
    )
    async def test_any_username_is_just_a_name(self, open_store: OpenStore, username: str) -> None:
        """Usernames are never interpreted as paths, patterns or statements."""
        async with open_store() as store:
            run = await write(store, synced(username, api_key()), synced("other", api_key(key="other")))
            assert await store.get(username, "secret-1") == api_key()
            assert await collect(store.secrets(username)) == [(username, api_key())]
            assert await store.statuses(run, [username]) == {username: "synced"}

    async def test_an_unchanged_credential_is_not_rewritten(self, open_store: OpenStore) -> None:
        """The record keeps its storage time and counts as unchanged, also in a later run."""
        async with open_store() as store:
            await write(store, synced("ann", api_key(), at=10.0))
        async with open_store() as store:
            run = await store.begin_run(at=2.0)
            assert await store.write(run, [synced("ann", api_key(), at=20.0)]) == Written(0, 1)
            assert [item.stored_at async for item in store.items()] == [10.0]
            assert await store.get("ann", "secret-1") == api_key()

    async def test_a_changed_credential_is_rewritten(self, open_store: OpenStore) -> None:
        """The newest value replaces the old one; others stay."""
        async with open_store() as store:
            run = await write(store, synced("ann", api_key(key="old"), api_key("secret-2")))
            renewed = synced("ann", api_key(key="new"), api_key("secret-2"), at=20.0)
            assert await store.write(run, [renewed]) == Written(1, 1)
            assert await store.get("ann", "secret-1") == api_key(key="new")
            assert [item.stored_at async for item in store.items()] == [20.0, 10.0]

    async def test_a_new_name_is_stored_without_the_credential(self, open_store: OpenStore) -> None:
        """The credential keeps everything else; an id that is not stored is ignored."""
        async with open_store() as store:
            await write(store, synced("ann", api_key(), api_key("secret-2")), synced("bob", api_key()))
        async with open_store() as store:
            run = await store.begin_run(at=2.0)
            names = {"secret-1": "a new name", "not-stored": "another"}
            renamed = replace(synced("ann", api_key("secret-3"), at=20.0), renamed=names)
            assert await store.write(run, [renamed]) == Written(1, 0)
            expected = replace(api_key(), name="a new name")
            assert await store.get("ann", "secret-1") == expected
        async with open_store() as store:
            assert await store.get("ann", "secret-1") == expected
            assert await store.get("bob", "secret-1") == api_key()
            assert [item.secret_id async for item in store.items("ann")] == [
                "secret-1",
                "secret-2",
                "secret-3",
            ]
            assert (await store.verify()).damaged == ()

    async def test_a_new_name_never_undoes_a_fetched_credential(self, open_store: OpenStore) -> None:
        """A user may occur twice in a batch, renamed in one part and fetched in the other."""
        async with open_store() as store:
            run = await write(store, synced("ann", api_key(key="old")))
            fetched = synced("ann", api_key(key="new"))
            renamed = replace(synced("ann"), renamed={"secret-1": "a new name"})
            await store.write(run, [renamed, fetched])
            assert await store.get("ann", "secret-1") == api_key(key="new")
            await store.write(run, [fetched, renamed])
            assert await store.get("ann", "secret-1") == replace(api_key(key="new"), name="a new name")

    async def test_what_upstream_no_longer_lists_is_kept(self, open_store: OpenStore) -> None:
        """A write adds and replaces; it never removes."""
        async with open_store() as store:
            run = await write(store, synced("ann", api_key("secret-1"), api_key("secret-2")))
            await store.write(run, [synced("ann", api_key("secret-2"))])
            assert await store.get("ann", "secret-1") == api_key("secret-1")

    async def test_a_store_says_whose_it_is(self, open_store: OpenStore) -> None:
        """From the first bind on."""
        async with open_store() as store:
            assert await store.origin() is None
            await store.bind(ORIGIN)
            assert await store.origin() == ORIGIN
        async with open_store() as store:
            assert await store.origin() == ORIGIN

    async def test_a_batch_is_written_wholly_or_not_at_all(self, open_store: OpenStore) -> None:
        """One credential that cannot be written takes its batch with it; the store stays usable."""
        impossible = UnknownSecret(id="bad", kind="X", value="\ud800")
        async with open_store() as store:
            run = await write(store, synced("ann", api_key(key="before")))
            with pytest.raises(StoreError, match="bad"):
                await store.write(run, [synced("ann", api_key(key="after")), synced("bob", impossible)])
            assert await store.get("ann", "secret-1") == api_key(key="before")
            assert await store.statuses(run, ["ann", "bob"]) == {"ann": "synced"}
            assert await store.write(run, [synced("bob", api_key())]) == Written(1, 0)

    async def test_an_empty_batch_is_no_work(self, open_store: OpenStore) -> None:
        """An empty batch writes nothing and is not an error."""
        async with open_store() as store:
            run = await write(store)
            assert await store.write(run, []) == Written(0, 0)
            assert await store.totals(run) == RunTotals()

    async def test_a_user_twice_in_a_batch_ends_as_the_later(self, open_store: OpenStore) -> None:
        """A batch is applied in order."""
        async with open_store() as store:
            run = await write(store, synced("ann", api_key(key="1")), failed("ann", "x", api_key(key="2")))
            assert await store.get("ann", "secret-1") == api_key(key="2")
            assert await store.statuses(run, ["ann"]) == {"ann": "failed"}

    async def test_a_resumed_run_knows_how_each_user_ended(self, open_store: OpenStore) -> None:
        """Also after the store was closed; users without a checkpoint are absent."""
        async with open_store() as store:
            await write(store, synced("ann", api_key()), failed("bob"))
        async with open_store() as store:
            run = await store.last_run()
            assert run is not None
            assert run.finished_at is None
            assert await store.statuses(run, ["ann", "bob", "cid"]) == {"ann": "synced", "bob": "failed"}

    async def test_statuses_are_asked_for_by_the_thousand(self, open_store: OpenStore) -> None:
        """Limits of the driver are not visible."""
        names = [f"user-{number:05}" for number in range(5000)]
        async with open_store() as store:
            run = await write(store, synced(names[7]), synced(names[4999]))
            assert await store.statuses(run, names) == {names[7]: "synced", names[4999]: "synced"}
            assert await store.statuses(run, []) == {}

    async def test_a_checkpoint_replaces_the_earlier_one_of_its_run(self, open_store: OpenStore) -> None:
        """A user that failed and then succeeds counts once, as synced."""
        async with open_store() as store:
            run = await write(store, failed("ann"))
            await store.write(run, [synced("ann", api_key())])
            assert await collect(store.checkpoints(run)) == [synced("ann", api_key()).checkpoint]
            assert await store.totals(run) == RunTotals(synced=1, secrets=1, requests=2)

    async def test_checkpoints_come_back_complete_and_by_username(self, open_store: OpenStore) -> None:
        """Every field survives, and the order is that of the names."""
        async with open_store() as store:
            writes = [failed("cid"), synced("ann", api_key()), failed("bob", "refresh_failed")]
            run = await write(store, *writes)
            found = await collect(store.checkpoints(run))
        assert found == [writes[1].checkpoint, writes[2].checkpoint, writes[0].checkpoint]

    async def test_totals_are_the_sums_of_the_checkpoints(self, open_store: OpenStore) -> None:
        """Failures are counted by kind of error."""
        async with open_store() as store:
            users = [synced("ann", api_key()), failed("bob"), failed("cid"), failed("dan", "protocol")]
            run = await write(store, *users)
            assert await store.totals(run) == RunTotals(
                synced=1, failed=3, secrets=1, requests=5, errors={"masked_secret": 2, "protocol": 1}
            )

    async def test_runs_do_not_share_checkpoints(self, open_store: OpenStore) -> None:
        """A new run starts without checkpoints; the previous one can still be reported on."""
        async with open_store() as store:
            first = await write(store, synced("ann", api_key()))
            second = await store.begin_run(at=2.0)
            assert await store.statuses(second, ["ann"]) == {}
            assert await store.totals(second) == RunTotals()
            assert await store.statuses(first, ["ann"]) == {"ann": "synced"}

    async def test_what_was_seen_last_is_there_for_the_next_run(self, open_store: OpenStore) -> None:
        """Returned unchanged from the newest checkpoint of any run; absent for other users."""

        def seen(username: str, text: str) -> UserWrite:
            return UserWrite(checkpoint=Checkpoint(username=username, status="synced", seen=text))

        text = '{"s":[1.5,"é\\n"]}'
        async with open_store() as store:
            await write(store, seen("ann", "old"), seen("bob", text))
            assert await store.seen(["ann", "bob", "cid"]) == {"ann": "old", "bob": text}
            await store.write(await store.begin_run(at=2.0), [seen("ann", "new")])
            assert await store.seen(["ann", "bob"]) == {"ann": "new", "bob": text}
        async with open_store() as store:
            assert await store.seen(["ann", "cid"]) == {"ann": "new"}
            assert await store.seen([]) == {}

    async def test_the_last_run_is_the_one_that_began_last(self, open_store: OpenStore) -> None:
        """Runs are ordered by their beginning, even if the clock went back; a new store has none."""
        async with open_store() as store:
            assert await store.last_run() is None
            first = await store.begin_run(at=100.0)
            second = await store.begin_run(at=50.0)
            assert first.id != second.id
            assert await store.last_run() == Run(id=second.id, started_at=50.0)
            latest = [run.id for run in await latest_runs(store, limit=2)]
            assert latest == ([second.id, first.id] if isinstance(store, ListsRuns) else [second.id])

    async def test_a_run_can_be_finished_and_reopened(self, open_store: OpenStore) -> None:
        """The completion mark can be set and removed, and survives closing."""
        async with open_store() as store:
            run = await store.begin_run(at=1.0)
            await store.finish_run(run, at=9.0)
        async with open_store() as store:
            assert await store.last_run() == Run(id=run.id, started_at=1.0, finished_at=9.0)
            await store.finish_run(run, at=None)
            assert await store.last_run() == run

    async def test_a_run_of_another_store_is_refused(self, open_store: OpenStore) -> None:
        """Progress recorded under an unknown run would be lost."""
        unknown = Run(id="no-such-run", started_at=1.0)
        async with open_store() as store:
            await store.bind(ORIGIN)
            with pytest.raises(CheckpointError):
                await store.write(unknown, [synced("ann", api_key())])
            with pytest.raises(CheckpointError):
                await store.finish_run(unknown, at=2.0)
            assert await store.get("ann", "secret-1") is None

    async def test_items_show_what_is_stored_in_order(self, open_store: OpenStore) -> None:
        """By username and secret id, with type, expiry and time, for all users or for one."""
        oauth2 = every_type()["oauth 2"]
        async with open_store() as store:
            await write(store, synced("bob", oauth2, api_key("b")), synced("ann", api_key("z"), api_key("a")))
            found = await collect(store.items())
            assert [(item.username, item.secret_id) for item in found] == [
                ("ann", "a"),
                ("ann", "z"),
                ("bob", "b"),
                ("bob", "oauth2"),
            ]
            assert await collect(store.items("bob")) == found[2:]
        assert found[2:] == [
            StoredItem(username="bob", secret_id="b", type="API_KEY", expires_at=None, stored_at=10.0),
            StoredItem(
                username="bob",
                secret_id="oauth2",
                type="OA2_AUTHORIZATION_CODE",
                expires_at=EXPIRES_AS_STORED,
                stored_at=10.0,
            ),
        ]

    async def test_iterators_pass_every_row_once_and_in_order(self, open_store: OpenStore) -> None:
        """Across pages, for many users and for one user with many secrets."""
        names = [f"user-{number:05}" for number in range(self.more_than_a_page)]
        many = [api_key(name) for name in names]
        async with open_store() as store:
            run = await write(store, *(synced(name, api_key()) for name in names), synced("zed", *many))
            assert [one.username async for one in store.checkpoints(run)] == [*names, "zed"]
            assert [one.username async for one in store.items()] == names + ["zed"] * self.more_than_a_page
            assert [one.secret_id async for one in store.items("zed")] == names
            assert await collect(store.secrets("zed")) == [("zed", one) for one in many]
            assert len(await collect(store.secrets())) == 2 * self.more_than_a_page

    async def test_a_store_can_be_written_while_it_is_iterated(self, open_store: OpenStore) -> None:
        """An iterator holds no lock between its steps, and stopping early leaves nothing behind."""
        async with open_store() as store:
            run = await write(store, synced("ann", api_key()), synced("bob", api_key()))
            async for username, _ in store.secrets():
                await store.write(run, [synced(username, api_key(key="renewed"))])
                break
            assert await store.get("ann", "secret-1") == api_key(key="renewed")

    async def test_a_store_belongs_to_one_upstream(self, open_store: OpenStore) -> None:
        """The first bind decides; later ones agree or are refused, with both named."""
        async with open_store() as store:
            await store.bind(ORIGIN)
        async with open_store() as store:
            with pytest.raises(StoreError, match=r"(?s)flowmate\.example.*other\.example"):
                await store.bind("https://other.example")
            await store.bind(ORIGIN)

    async def test_nothing_is_written_before_the_store_is_bound(self, open_store: OpenStore) -> None:
        """A credential of an unknown upstream is useless."""
        async with open_store() as store:
            run = await store.begin_run(at=1.0)
            with pytest.raises(StoreError):
                await store.write(run, [synced("ann", api_key())])

    async def test_verify_counts_what_opens(self, open_store: OpenStore) -> None:
        """An intact store has nothing damaged."""
        async with open_store() as store:
            await write(store, synced("ann", *every_type().values()), synced("bob", api_key()))
            found = await store.verify()
        assert found.intact == len(every_type()) + 1
        assert found.damaged == ()

    async def test_a_new_store_is_empty_and_sound(self, open_store: OpenStore) -> None:
        """Also before it is bound."""
        async with open_store() as store:
            assert await store.verify() == Verification(intact=0)
            assert await collect(store.items()) == []
            assert await collect(store.secrets()) == []

    async def test_errors_do_not_show_the_credential(self, open_store: OpenStore) -> None:
        """Neither the text nor the chain of an error of ``write`` holds any part of it."""
        secret = MixedSecret(id="bad", value=MixedValue(payload="do-not-show\ud800"))
        async with open_store() as store:
            run = await write(store)
            with pytest.raises(StoreError) as caught:
                await store.write(run, [synced("ann", secret)])
        assert "do-not-show" not in repr(caught.value) + str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


class SealedStoreSuite(StoreSuite):
    """The same for a store that needs a key: also override :meth:`open_with_wrong_key`."""

    @pytest.fixture
    def open_with_wrong_key(self) -> OpenStore:
        """Return a function that creates a store over the same data with another key, not yet entered."""
        raise NotImplementedError("override the fixture open_with_wrong_key")

    async def test_a_wrong_key_opens_nothing_and_harms_nothing(
        self, open_store: OpenStore, open_with_wrong_key: OpenStore
    ) -> None:
        """It is refused before anything is read or written; the right key finds everything unchanged."""
        async with open_store() as store:
            run = await write(store, synced("ann", *every_type().values()))
        with pytest.raises(StoreError) as caught:
            await open_with_wrong_key().__aenter__()
        assert caught.value.advice
        async with open_store() as store:
            assert await store.last_run() == run
            assert (await store.verify()).intact == len(every_type())
