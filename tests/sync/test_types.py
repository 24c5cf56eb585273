"""A filter by type: other types cost no request, and stay in the store as they are."""

from contextlib import suppress

import pytest

from flowmate_async import ConfigurationError, DeltaPolicy, MaskedSecretError, SyncOptions, open_store
from flowmate_async.stores.keys import StoreKey

pytestmark = pytest.mark.anyio

SIMPLE = ("SIMPLE",)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'credentials.db'}"
    key = None if request.param == "memory" else StoreKey.generate()
    async with open_store(url, key=key, create=True) as opened:
        yield opened


def options(types=SIMPLE, **fields):
    delta = DeltaPolicy(types=types, full=fields.pop("full", False))
    return SyncOptions(delta=delta, **fields)


def fetched_types(sandbox):
    return {sandbox.world.secret(secret_id).type for secret_id in sandbox.stats().secret_gets}


def count(sandbox, kind):
    return sum(truth.type == kind for truth in sandbox.world.truth())


async def contents(store):
    return {(username, secret.id): secret async for username, secret in store.secrets()}


class TestSweep:
    async def test_only_the_types_are_fetched(self, sandbox, fm):
        names = [user.username async for user in fm.users() if user.is_active_tenant_user]
        found = [secret for one in [end async for end in fm.sweep(names, types=["SIMPLE", "API_KEY"])]
                 for secret in one.secrets]  # fmt: skip
        assert {secret.type for secret in found} == fetched_types(sandbox) == {"SIMPLE", "API_KEY"}
        assert len(found) == count(sandbox, "SIMPLE") + count(sandbox, "API_KEY")

    async def test_types_unknown_to_the_library_are_one_type(self, sandbox, fm):
        truth = next(sandbox.world.truth())
        sandbox.world.add_secret(truth.username, type="OF_TOMORROW", value={"a": "b"})
        [end] = [end async for end in fm.sweep([truth.username], types=["UNKNOWN"])]
        kinds = {secret.kind for secret in end.secrets}
        assert "OF_TOMORROW" in kinds <= {"OF_TOMORROW", "FUTURE_TYPE"}

    @pytest.mark.parametrize(
        ("types", "match"), [(["simple"], "simple is not a type"), ("SIMPLE", "single text"), ([], "no type")]
    )
    async def test_a_filter_that_would_find_nothing_is_refused(self, sandbox, fm, types, match):
        with pytest.raises(ConfigurationError, match=match):
            [end async for end in fm.sweep(["u"], types=types)]
        assert sandbox.stats().impersonations == 0


class TestSync:
    @pytest.mark.parametrize("full", [False, True])
    async def test_only_the_types_are_fetched_and_stored(self, sandbox, fm, store, full):
        report = await fm.sync(store, options=options(full=full))
        assert fetched_types(sandbox) == {"SIMPLE"}
        assert {secret.type for secret in (await contents(store)).values()} == {"SIMPLE"}
        assert report.secrets == count(sandbox, "SIMPLE")
        assert report.left["other_type"] == sum(truth.type != "SIMPLE" for truth in sandbox.world.truth())

    @pytest.mark.parametrize("full", [False, True])
    async def test_what_is_filtered_out_is_not_missing(self, sandbox, fm, store, full):
        await fm.sync(store)
        before = await contents(store)
        report = await fm.sync(store, options=options(full=full, removed="delete", max_removed_share=1.0))
        assert (report.missing, report.removed) == (0, 0)
        assert (await contents(store)).keys() == before.keys()

    async def test_what_upstream_has_lost_is_removed_whatever_its_type(self, sandbox, fm, store):
        """The listing proves it."""
        await fm.sync(store)
        gone = next(truth for truth in sandbox.world.truth() if truth.type == "API_KEY")
        sandbox.world.remove_secret(gone.secret_id)
        report = await fm.sync(store, options=options(removed="delete"))
        assert (report.missing, report.removed) == (1, 1)
        assert (gone.username, gone.secret_id) not in await contents(store)

    @pytest.mark.parametrize("full", [False, True])
    async def test_the_next_sync_of_all_types_fetches_no_more_than_without_it(self, sandbox, fm, store, full):
        await fm.sync(store)
        await fm.sync(store, options=options(full=full))
        sandbox.reset_stats()
        await fm.sync(store)
        assert "API_KEY" not in fetched_types(sandbox)

    async def test_a_masked_user_is_not_probed_with_another_type(self, sandbox, fm, store):
        truth = next(truth for truth in sandbox.world.truth() if truth.type == "SIMPLE")
        sandbox.world.add_secret(
            truth.username, type="SESSION_AUTH", value={"accessToken": "a", "inputFields": {}}
        )
        await fm.sync(store, [truth.username])
        sandbox.configure(raw_read=False)
        with pytest.raises(MaskedSecretError):
            await fm.sync(store, [truth.username], options=SyncOptions(delta=DeltaPolicy(full=True)))
        sandbox.reset_stats()
        with suppress(MaskedSecretError):
            await fm.sync(store, [truth.username], options=options(("SESSION_AUTH",)))
        assert fetched_types(sandbox) == {"SESSION_AUTH"}

    async def test_a_run_of_other_types_is_not_resumed(self, fm, store):
        first = await fm.sync(store, options=options(retry_failed=True))
        again = await fm.sync(store, options=options(retry_failed=True))
        other = await fm.sync(store, options=options(("API_KEY",), retry_failed=True))
        assert first.run_id == again.run_id != other.run_id

    async def test_a_type_that_does_not_exist_is_refused(self, fm, store):
        for job in (
            fm.sync(store, options=options(("simple",))),
            fm.plan_sync(store, delta=DeltaPolicy(types=("simple",))),
        ):
            with pytest.raises(ConfigurationError, match="simple is not a type"):
                await job

    async def test_a_dry_run_counts_what_is_filtered_out(self, sandbox, fm, store):
        plan = await fm.plan_sync(store, delta=DeltaPolicy(types=SIMPLE))
        assert sum(plan.fetch.values()) == count(sandbox, "SIMPLE")
        assert plan.left["other_type"] > 0
