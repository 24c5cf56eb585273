"""Which incomplete run a sync resumes: only one of the same users that was asked to do the same."""

import asyncio

import pytest

from flowmate_async import DeltaPolicy, FlowMate, SyncOptions, open_store
from flowmate_async.events import UserStored

pytestmark = pytest.mark.anyio

NAMES = [f"user-{number:06d}@tenant.example" for number in range(20)]
DELTA = SyncOptions()
FULL = SyncOptions(delta=DeltaPolicy(full=True))


@pytest.fixture
async def store():
    async with open_store("memory:") as opened:
        yield opened


async def interrupted(fm, store, options=DELTA, users=NAMES):
    """Return the report of a run that was stopped after its first users."""
    stop = asyncio.Event()

    def on_event(event):
        if isinstance(event, UserStored):
            stop.set()

    report = await fm.sync(store, users, options=options, on_event=on_event, stop=stop)
    assert not report.complete
    return report


def client_of(sandbox, *, concurrency=2, rate=None):
    return FlowMate(admin_token=sandbox.admin_token, base_url=sandbox.url, rate=rate, concurrency=concurrency)


@pytest.fixture
async def fm(sandbox):
    async with client_of(sandbox) as client:
        yield client


@pytest.mark.parametrize(
    "other",
    [
        FULL,
        SyncOptions(removed="mark"),
        SyncOptions(removed="delete"),
        SyncOptions(delta=DeltaPolicy(staleness_seconds=60.0)),
        SyncOptions(delta=DeltaPolicy(staleness_by_type={"SIMPLE": 60.0})),
        SyncOptions(delta=DeltaPolicy(skip_volatile=True)),
    ],
    ids=["full", "mark", "delete", "staleness", "staleness by type", "volatile"],
)
async def test_a_request_for_something_else_begins_a_new_run(fm, store, other):
    first = await interrupted(fm, store)
    second = await fm.sync(store, NAMES, options=other)
    assert (second.resumed, second.skipped, second.complete) == (False, 0, True)
    assert second.run_id != first.run_id


@pytest.mark.parametrize(
    "same",
    [
        SyncOptions(max_failures=5, max_age_seconds=3600.0, retry_failed=True, max_removed_share=0.5),
        SyncOptions(delta=DeltaPolicy(keep_tokens=True)),
        SyncOptions(delta=DeltaPolicy(staleness_seconds=12 * 3600)),
    ],
    ids=["bounds", "kept tokens", "the default as an int"],
)
async def test_options_that_change_no_result_resume_the_run(fm, store, same):
    first = await interrupted(fm, store)
    second = await fm.sync(store, NAMES, options=same)
    assert (second.run_id, second.resumed, second.complete) == (first.run_id, True, True)


async def test_staleness_does_not_matter_to_a_full_run(fm, store):
    first = await interrupted(fm, store, FULL)
    other = SyncOptions(
        delta=DeltaPolicy(full=True, staleness_seconds=60.0, staleness_by_type={"API_KEY": 1.0})
    )
    assert (await fm.sync(store, NAMES, options=other)).run_id == first.run_id


async def test_another_client_with_another_rate_resumes_the_run(sandbox, fm, store):
    first = await interrupted(fm, store)
    async with client_of(sandbox, concurrency=9, rate=500.0) as other:
        assert (await other.sync(store, NAMES)).run_id == first.run_id


async def test_a_full_run_fetches_what_an_incomplete_delta_run_had_done(sandbox, fm, store):
    """Passwords that changed after the delta run read their users are in the store afterwards."""
    await fm.sync(store, NAMES, options=FULL)
    await interrupted(fm, store)
    simple = [sandbox.world.secret(one.secret_id) for one in sandbox.world.truth() if one.type == "SIMPLE"]
    for secret in simple:
        secret.value = secret.value | {"passphrase": "changed"}
    await fm.sync(store, NAMES, options=FULL)
    stored = [secret async for _, secret in store.secrets() if secret.type == "SIMPLE"]
    assert len(stored) == len(simple) > 0
    assert {secret.value.passphrase for secret in stored} == {"changed"}


async def test_failed_users_are_tried_again_in_a_run_that_was_asked_the_same(sandbox, fm, store):
    sandbox.world.user(NAMES[3]).status = "DISABLED"
    first = await fm.sync(store, NAMES, options=SyncOptions(delta=DeltaPolicy(full=True)))
    assert first.failed == 1
    again = SyncOptions(retry_failed=True)
    assert (await fm.sync(store, NAMES, options=again)).run_id != first.run_id
    full_again = SyncOptions(retry_failed=True, delta=DeltaPolicy(full=True))
    assert (await fm.sync(store, NAMES, options=full_again)).run_id == first.run_id
