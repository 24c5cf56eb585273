"""Reading never writes into a store and never locks it, whatever kind it is."""

import asyncio
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import aiobotocore.session
import pytest

from flowmate_async.stores import Store, StoreKey, open_store
from flowmate_async.stores.held_lock import ReportsRunLock
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import collect, listing, synced, write

from .openbao_server import OpenBaoServer

pytestmark = pytest.mark.anyio


async def fill(url: str, key: StoreKey | None) -> None:
    """A run with an end, and one without: what a killed sync leaves."""
    async with open_store(url, key=key) as store:
        run = await write(store, synced("ann", api_key(), api_key("b")), listing("bob", api_key()))
        await store.finish_run(run, at=2.0)
        run = await store.begin_run(at=3.0)
        await store.write(run, [listing("ann", api_key(key="newer")), synced("cid", api_key())])


async def read_everything(store: Store) -> None:
    assert await store.get("ann", "secret-1") == api_key(key="newer")
    assert await store.get("ann", "no-such") is None
    assert len(await collect(store.items())) == 4
    assert len(await collect(store.secrets())) == 4
    assert (await store.verify()).intact == 4
    run = await store.last_run()
    assert run is not None
    assert (await store.totals(run)).synced == 2
    assert len(await collect(store.checkpoints(run))) == 2
    assert (await store.missing(run)).missing == 1
    assert await store.statuses(run, ["ann"]) == {"ann": "synced"}
    assert await store.origin() == "https://flowmate.example"
    assert isinstance(store, ReportsRunLock)
    assert not await store.is_running()


@pytest.mark.parametrize("kind", ["sqlite", "jsonl+age"])
async def test_reading_files_leaves_every_file_as_it_is(kind: str, tmp_path: Path, key: StoreKey) -> None:
    """And no other file beside them, such as a lock."""

    def files() -> dict[str, tuple[int, bytes]]:
        found = (file for file in tmp_path.rglob("*") if file.is_file())
        return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in found}

    url = f"{kind}:///{tmp_path / 'store'}"
    await fill(url, key)
    before = files()
    for create in (True, False):
        async with open_store(url, key=key, create=create) as store:
            await read_everything(store)
    assert files() == before


async def test_reading_documents_makes_no_new_version(openbao: OpenBaoServer, openbao_url: str) -> None:
    path = openbao_url.split("/secret/")[1].partition("?")[0]

    def versions() -> dict[str, int]:
        names = ["store", *(f"users/{one}" for one in ("ann", "bob", "cid"))]
        found = {name: openbao.ask("GET", f"secret/metadata/{path}/{name}") for name in names}
        return {name: one["data"]["current_version"] for name, one in found.items()}

    await fill(openbao_url, None)
    before = versions()
    async with open_store(openbao_url) as store:
        await read_everything(store)
    assert versions() == before


async def test_reading_secrets_makes_no_new_version(aws_url: str) -> None:
    async def versions() -> list[tuple[str, Any]]:
        session = aiobotocore.session.get_session()
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        async with session.create_client(
            "secretsmanager", region_name="eu-central-1", endpoint_url=endpoint
        ) as aws:
            found = (await aws.list_secrets(MaxResults=100))["SecretList"]
        return sorted((one["Name"], sorted(one["SecretVersionsToStages"])) for one in found)

    await fill(aws_url, None)
    before = await versions()
    async with open_store(aws_url) as store:
        await read_everything(store)
    assert await versions() == before


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "jsonl+age", "openbao", "awssm"])
async def test_whether_a_run_holds_the_lock_is_told_without_taking_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, key: StoreKey
) -> None:
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").url(request.getfixturevalue("schema"))
    elif kind in ("openbao", "awssm"):
        url = request.getfixturevalue({"openbao": "openbao_url", "awssm": "aws_url"}[kind])
    else:
        url = f"{kind}:///{tmp_path / 'store'}"
    async with open_store(url, key=key) as store, open_store(url, key=key) as other:
        assert isinstance(other, ReportsRunLock)
        assert not await other.is_running()
        async with store.exclusive_run():
            assert await other.is_running()
            assert await other.is_running()
        assert not await other.is_running()


READ = """
import anyio, sys
from flowmate_async.errors import StoreError
from flowmate_async.stores import StoreKey, open_store
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import synced, write

async def main():
    async with open_store(sys.argv[1], key=StoreKey(sys.argv[2].encode())) as store:
        print(await store.get("ann", "secret-1") == api_key(key="newer"))
        print((await store.verify()).intact)
        print(len([item async for item in store.items()]))
        try:
            await write(store, synced("ann", api_key()))
        except StoreError as error:
            print(error)

anyio.run(main)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting needs root")
@pytest.mark.parametrize("kind", ["sqlite", "jsonl+age"])
async def test_a_finished_store_is_read_from_a_read_only_mount(
    kind: str, tmp_path: Path, key: StoreKey
) -> None:
    """As a backup, or a volume of Kubernetes that is mounted so; a write says why it cannot be."""
    url = f"{kind}:///{tmp_path / 'store'}"
    await fill(url, key)
    mounting = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    script = f'mount --make-rprivate / && {mounting} && exec "$@"'
    program = [sys.executable, "-c", READ, url, key.material.decode()]
    command = ["unshare", "-m", "sh", "-c", script, "sh", *program]
    run = partial(subprocess.run, command, check=False, capture_output=True, text=True)
    done = await asyncio.to_thread(run)
    if "mount" in done.stderr:
        pytest.skip("this machine does not let us mount")
    opens, intact, items, refused = done.stdout.splitlines()
    assert (opens, intact, items) == ("True", "4", "4")
    assert "read-only" in refused or "readonly" in refused


async def test_the_log_of_a_store_that_was_not_closed_is_read_as_well(
    tmp_path: Path, key: StoreKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log holds the newest rows; reading the file alone would show older ones."""
    source, copy = tmp_path / "a" / "store", tmp_path / "b" / "store"
    source.parent.mkdir()
    copy.parent.mkdir()
    async with open_store(f"sqlite:///{source}", key=key) as store:
        await write(store, synced("ann", api_key()))
        for suffix in ("", "-wal"):
            shutil.copy2(f"{source}{suffix}", f"{copy}{suffix}")
    monkeypatch.setattr("flowmate_async.stores.sqlite.schema.is_writable", lambda _: False)
    async with open_store(f"sqlite:///{copy}", key=key) as reader:
        assert await reader.get("ann", "secret-1") == api_key()
