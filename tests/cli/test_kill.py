"""Killed at any instant and run again, a sync ends as if nothing had happened."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import anyio
import msgspec
import pytest

from flowmate_async import StoreKey, open_store
from flowmate_async.stores import Checkpoint

from .conftest import FLOWMATE, Twin, present, twin_process

KEY = StoreKey.parse("5a" * 32)


def sync(twin: Twin, store: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOWMATE_")}
    environment |= {
        "FLOWMATE_BASE_URL": twin.url,
        "FLOWMATE_ADMIN_TOKEN": twin.admin_token,
        "FLOWMATE_RATE": "0",
        "FLOWMATE_STORE": f"sqlite:///{store}",
        "FLOWMATE_STORE_KEY": KEY.encoded(),
    }
    return subprocess.Popen(
        [*FLOWMATE, "sync", "--all-users", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


async def contents(store: Path) -> dict[tuple[str, str], tuple[str, dict]]:
    found = {}
    async with open_store(f"sqlite:///{store}", key=KEY) as opened:
        async for username, secret in opened.secrets():
            value = msgspec.to_builtins(secret.value)
            found[username, secret.id] = (secret.kind, present(value | value.pop("_extra", {})))
    return found


async def acknowledged(store: Path) -> dict[str, Checkpoint]:
    async with open_store(f"sqlite:///{store}", key=KEY) as opened:
        run = await opened.last_run()
        return {} if run is None else {done.username: done async for done in opened.checkpoints(run)}


def wait_for_file(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def wait_for_users(twin: Twin, process: subprocess.Popen[bytes], more: float) -> None:
    """Wait until so many more users were listed: progress, not time, so that no run is ever over before."""
    before = len(twin.stats()["lists"])
    while len(twin.stats()["lists"]) < before + more and process.poll() is None:
        time.sleep(0.001)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("users", "times"), [(300, 3), pytest.param(2000, 5, marks=pytest.mark.long)])
def test_kills_lose_nothing_and_fetch_no_acknowledged_user_again(
    tmp_path: Path, users: int, times: int
) -> None:
    """The store equals the sandbox, as after an undisturbed run; the counters show no second fetch."""
    undisturbed, killed = tmp_path / "undisturbed.db", tmp_path / "killed.db"
    # With some latency, a run of few users is not over before it can be killed.
    flags = ("--users", str(users), "--seed", "7", "--latency", "0.05" if users < 1000 else "0")
    with twin_process(*flags) as twin:
        assert sync(twin, undisturbed).communicate()[0]
        assert anyio.run(contents, undisturbed) == twin.truth()

    instants = random.Random(os.environ.get("FLOWMATE_TEST_SEED", "7"))
    acknowledged_by_then: list[tuple[set[str], dict[str, int]]] = []
    kills = 0
    with twin_process(*flags) as twin:
        for _ in range(times):
            process = sync(twin, killed)
            wait_for_file(killed, process)
            wait_for_users(twin, process, instants.uniform(0, users / 6))
            process.kill()
            kills += process.wait() == -9
            process.stdout.close()
            done = {user for user, end in anyio.run(acknowledged, killed).items() if end.status == "synced"}
            acknowledged_by_then.append((done, twin.stats()["lists"]))
        report = msgspec.json.decode(sync(twin, killed).communicate()[0])
        lists = twin.stats()["lists"]
        stored = anyio.run(contents, killed)
        assert stored == twin.truth()

    assert kills == times, "a run was over before it could be killed"
    assert report["complete"]
    assert report["resumed"]
    assert report["synced"] == users
    assert report["skipped"] == len(acknowledged_by_then[-1][0])
    assert stored.keys() == anyio.run(contents, undisturbed).keys()
    for done, lists_then in acknowledged_by_then:
        assert [user for user in done if lists[user] != lists_then[user]] == []
    assert any(0 < len(done) < users for done, _ in acknowledged_by_then), "no kill came in mid-run"
