"""The batch job into each kind of store: interrupted, resumed, and in the end exactly what upstream has."""

import asyncio

import msgspec
import pytest

from flowmate_async import DeltaPolicy, FlowMate, SyncOptions
from flowmate_async.events import UserStored
from flowmate_async.sandbox import Sandbox
from flowmate_async.stores import StoreKey, open_store

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "postgresql", "jsonl+age", "openbao", "awssm"])
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").url(request.getfixturevalue("schema"))
    if request.param in ("openbao", "awssm"):
        return request.getfixturevalue({"openbao": "openbao_url", "awssm": "aws_url"}[request.param])
    return f"{request.param}:///{tmp_path / 'store'}"


def bare(value):
    return {name: part for name, part in value.items() if part is not None}


async def test_what_was_interrupted_is_resumed_and_is_what_upstream_has(
    sandbox: Sandbox, fm: FlowMate, url: str, key: StoreKey
) -> None:
    """The second part is another process, as far as the store can tell; what upstream deletes goes."""
    stop = asyncio.Event()

    def stop_soon(event: object) -> None:
        if isinstance(event, UserStored):
            stop.set()

    async with open_store(url, key=key) as store:
        first = await fm.sync(store, stop=stop, on_event=stop_soon)
    assert not first.complete
    async with open_store(url, key=key, create=False) as store:
        full = await fm.sync(store, stop=stop, options=SyncOptions(delta=DeltaPolicy(full=True)))
        assert (full.resumed, full.synced) == (False, 0), "it was asked for something else"
        second = await fm.sync(store)
        assert (second.resumed, second.complete, second.synced) == (True, True, 20)
        assert second.skipped > 0
        gone = next(truth for truth in sandbox.world.truth() if truth.type == "SIMPLE")
        sandbox.world.remove_secret(gone.secret_id)
        renamed = next(truth for truth in sandbox.world.truth() if truth.type == "API_KEY")
        sandbox.world.secret(renamed.secret_id).name = "a new name"
        third = await fm.sync(store, options=SyncOptions(removed="delete"))
        assert (third.resumed, third.removed, third.left["renamed"]) == (False, 1, 1)
        stored = await store.get(renamed.username, renamed.secret_id)
        assert stored is not None
        assert stored.name == "a new name"
        found = {
            (username, secret.id): msgspec.json.decode(msgspec.json.encode(secret))["value"]
            async for username, secret in store.secrets()
        }
    found = {place: value | value.pop("_extra", {}) for place, value in found.items()}
    assert found == {(one.username, one.secret_id): bare(one.value) for one in sandbox.world.truth()}
