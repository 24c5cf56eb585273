"""What ends a sync from outside: kills among faults, signals while upstream hangs, a full or locked store.

Each time: whole users are kept, the next run resumes, and in the end the store equals the twin.
"""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from flowmate_async.cli.exits import Exit

from .conftest import FLOWMATE, Twin, twin_thread
from .test_kill import KEY, acknowledged, contents

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of another process are POSIX"),
    pytest.mark.timeout(480),
]

FAULTS = (
    "throttle=0.002 retry_after_seconds=0; error=0.02 status=503 retry_after_seconds=0;"
    "reset=0.02 @ POST /impersonate | GET /secrets/;"
    "stale_keep_alive=0.05 @ POST /impersonate | GET /secrets/;"
    "token_revoked=0.01; items_move=0.05; truncated=0.02 @ POST /impersonate | GET /secrets/"
)


@contextlib.contextmanager
def syncing(
    twin: Twin, store: Path, *flags: str, before: Callable[[], None] | None = None
) -> Iterator[subprocess.Popen]:
    """Run ``flowmate sync --all-users`` as a process, and stop it at the end of the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOWMATE_")}
    environment |= {
        "FLOWMATE_BASE_URL": twin.url,
        "FLOWMATE_ADMIN_TOKEN": twin.admin_token,
        "FLOWMATE_RATE": "0",
        "FLOWMATE_STORE": f"sqlite:///{store}",
        "FLOWMATE_STORE_KEY": KEY.encoded(),
    }
    process = subprocess.Popen(
        [*FLOWMATE, "sync", "--all-users", "--json", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,  # noqa: PLW1509 - a limit of the child's, set where no thread runs
    )
    with process:
        yield process
        process.kill()


def ended(
    twin: Twin, store: Path, *flags: str, before: Callable[[], None] | None = None
) -> tuple[int, str, str]:
    """Let a sync end by itself: its exit code, stdout and stderr."""
    with syncing(twin, store, *flags, before=before) as process:
        # A 429 among the first requests makes a sync slow: it goes on at the rate that was proven until then.
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err
        return process.returncode, out, err


def synced(store: Path) -> set[str]:
    return {user for user, end in anyio.run(acknowledged, store).items() if end.status == "synced"}


def assert_whole_users_only(twin: Twin, store: Path) -> set[str]:
    """Check that exactly the acknowledged users have every credential. Return the acknowledged users."""
    done = synced(store)
    truth, stored = twin.truth(), anyio.run(contents, store)
    assert {key: truth[key] for key in truth if key[0] in done} == {
        key: content for key, content in stored.items() if key[0] in done
    }
    return done


def wait_until(holds: Callable[[], object], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


@pytest.mark.parametrize(("users", "times"), [(120, 3), pytest.param(400, 5, marks=pytest.mark.long)])
def test_kills_among_faults_lose_nothing(tmp_path: Path, users: int, times: int) -> None:
    """SIGKILL at any instant while upstream throttles, fails, resets and revokes."""
    store, instants = tmp_path / "store.db", random.Random(os.environ.get("FLOWMATE_TEST_SEED", "7"))
    kills = 0
    with twin_thread(users=users, faults=FAULTS) as twin:
        for number in range(times):
            with syncing(twin, store) as process:
                wait_until(
                    lambda goal=users * 3 // 20 * number: (
                        twin.stats()["impersonations"] > goal or process.poll() is not None
                    )
                )
                time.sleep(instants.uniform(0, 0.3))
                process.kill()
                kills += process.wait() == -signal.SIGKILL
            assert_whole_users_only(twin, store)
        done, lists = synced(store), twin.stats()["lists"]
        code, out, _ = ended(twin, store)
        report = msgspec.json.decode(out)
        assert (report["synced"] + report["failed"], report["complete"]) == (users, True)
        assert code == (Exit.SOME_FAILED if report["failed"] else Exit.OK)
        assert assert_whole_users_only(twin, store) >= done
        assert [user for user in done if twin.stats()["lists"][user] != lists[user]] == []
        struck = twin.stats()["faults"]
        twin.ask("/_sandbox/faults", {"rules": []})
        assert ended(twin, store, "--retry-failed")[0] == Exit.OK
        assert anyio.run(contents, store) == twin.truth()
    assert kills >= times - 2, "the runs were over before they could be killed"
    assert min(struck.values()) > 0
    assert len(struck) == 7


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_ends_a_sync_whose_upstream_hangs(tmp_path: Path, number: int, times: int) -> None:
    """Long before the requests' own deadline of 30 s; a second signal does not wait for the drain."""
    store = tmp_path / "store.db"
    with twin_thread(users=120, latency_seconds=0.01) as twin:
        with syncing(twin, store) as process:
            wait_until(lambda: twin.stats()["impersonations"] > 70)
            twin.ask("/_sandbox/faults", {"rules": [{"kind": "hang", "routes": ["GET /secrets/{id}"]}]})
            wait_until(lambda: twin.stats()["faults"].get("hang", 0) >= 20)
            began = time.monotonic()
            process.send_signal(number)
            if times == 2:
                assert "Interrupted" in next(line for line in process.stderr if "Interrupted" in line)
                process.send_signal(number)
            _, err = process.communicate(timeout=25)
            took = time.monotonic() - began
            assert (process.returncode, "Traceback" in err) == (Exit.INTERRUPTED, False)
        assert took < (20 if times == 1 else 9)
        twin.ask("/_sandbox/faults", {"rules": []})
        done = assert_whole_users_only(twin, store)
        assert 0 < len(done) < 120
        # What hung may have been refreshing: upstream's lock has passed when the next run comes.
        code, out, _ = ended(twin, store)
        assert (code, msgspec.json.decode(out)["skipped"]) == (Exit.OK, len(done))
        assert anyio.run(contents, store) == twin.truth()


def test_a_full_disk_keeps_whole_users_and_the_next_run_resumes(tmp_path: Path) -> None:
    """The process may write files of 300 kB and no more; the store needs several times that."""
    import resource  # noqa: PLC0415 - POSIX only

    store = tmp_path / "store.db"

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    with twin_thread(users=400) as twin:
        code, _, err = ended(twin, store, before=little_room)
        assert code == Exit.USAGE
        assert "Free some disk space" in err
        done = assert_whole_users_only(twin, store)
        assert 0 < len(done) < 400
        lists = twin.stats()["lists"]
        code, out, _ = ended(twin, store)
        assert (code, msgspec.json.decode(out)["skipped"]) == (Exit.OK, len(done))
        assert anyio.run(contents, store) == twin.truth()
        assert [user for user in done if twin.stats()["lists"][user] != lists[user]] == []
    assert store.stat().st_size > 300_000


def test_a_store_locked_by_another_process_keeps_whole_users(
    tmp_path: Path,
) -> None:
    """A backup tool, say, that holds the write lock for longer than a sync is willing to wait."""
    store = tmp_path / "store.db"
    with twin_thread(users=300, latency_seconds=0.02) as twin:
        with syncing(twin, store) as process:
            wait_until(lambda: twin.stats()["impersonations"] > 100)
            other = sqlite3.connect(store, isolation_level=None, timeout=30)
            other.execute("BEGIN IMMEDIATE")
            try:
                _, err = process.communicate(timeout=60)
            finally:
                other.execute("ROLLBACK")
                other.close()
            assert (process.returncode, "Traceback" in err) == (Exit.USAGE, False)
            assert "Another process is writing" in err
        done = assert_whole_users_only(twin, store)
        assert 0 < len(done) < 300
        code, out, _ = ended(twin, store)
        assert (code, msgspec.json.decode(out)["skipped"]) == (Exit.OK, len(done))
        assert anyio.run(contents, store) == twin.truth()
