"""``flowmate sync --workers``: one rate, one checkpoint, one report, whatever happens to the processes."""

import os
import signal
import time

import msgspec
import pytest

from .conftest import acknowledged, contents, is_alive, needs_proc, twin_thread, until

pytestmark = [pytest.mark.timeout(120), needs_proc]

USERS = 80
FEW = ("--concurrency", "16")


@pytest.fixture
def twin():
    with twin_thread(users=USERS) as running:
        yield running


@pytest.fixture
def slow_twin():
    """A sync of it takes a few seconds, however fast the machine is."""
    with twin_thread(users=USERS, latency_seconds=0.05) as running:
        yield running


def test_the_store_equals_upstream_and_no_user_is_read_twice(twin, sync, store_file):
    code, out, _ = sync(twin, workers=3).ended()
    report = msgspec.json.decode(out)
    assert (code, report["complete"], report["synced"], report["failed"]) == (0, True, USERS, 0)
    assert contents(store_file) == twin.truth()
    assert set(twin.stats()["lists"].values()) == {1}
    assert report["secrets"] == report["changed"] == len(twin.truth())
    assert report["requests"] == twin.total() - 1  # but for the list of users


def test_kept_tokens_are_the_workers_own_business(twin, sync, store_file):
    """Each keeps and finds them in the store; a worker that reads a user needs not be the one that did."""
    for impersonations in (USERS, 0):
        before = twin.stats()
        code, out, _ = sync(twin, "--keep-tokens", workers=2).ended()
        after = twin.stats()
        assert (code, msgspec.json.decode(out)["synced"]) == (0, USERS)
        assert after["impersonations"] - before["impersonations"] == impersonations
        assert sum(after["lists"].values()) - sum(before["lists"].values()) == USERS
    assert contents(store_file) == twin.truth()


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=[pytest.mark.alone, pytest.mark.long])])
def test_a_strict_limit_is_kept_by_all_of_them_together(sync, store_file, strict):
    """Zero 429s, and the time it takes is what the rate demands, starting up aside.

    Unless the machine is busy with other tests: then requests may arrive together, half a second late.
    """
    rate = 300
    burst = 30 if strict else 30 + rate // 2
    with twin_thread(users=90, rate=rate, burst=burst) as twin:
        code, out, _ = sync(twin, "--burst", "30", rate=rate, workers=3).ended()
        report = msgspec.json.decode(out)
        throttled = sum(by_status.get("429", 0) for by_status in twin.stats()["requests"].values())
        assert (code, report["synced"], throttled) == (0, 90, 0)
        assert contents(store_file) == twin.truth()
        assert report["requests"] / report["seconds"] <= rate * 1.02


def test_a_worker_that_is_killed_costs_nothing(slow_twin, sync, store_file):
    """Another takes its place and does the rest; what was acknowledged is not fetched again."""
    syncing = sync(slow_twin, *FEW)
    until(lambda: store_file.exists() and len(acknowledged(store_file)) > USERS // 10)
    done, lists = acknowledged(store_file), slow_twin.stats()["lists"]
    os.kill(syncing.workers()[0], signal.SIGKILL)
    code, out, _ = syncing.ended()
    report = msgspec.json.decode(out)
    assert (code, report["complete"], report["synced"]) == (0, True, USERS)
    assert contents(store_file) == slow_twin.truth()
    after = slow_twin.stats()["lists"]
    assert [user for user in done if after[user] != lists[user]] == []


def test_the_parent_killed_takes_its_workers_along_and_the_next_sync_resumes(slow_twin, sync, store_file):
    syncing = sync(slow_twin, *FEW)
    until(lambda: store_file.exists() and len(acknowledged(store_file)) > USERS // 10)
    workers = syncing.workers()
    assert len(workers) == 2
    syncing.send(signal.SIGKILL)
    until(lambda: not any(map(is_alive, workers)))
    done, lists = acknowledged(store_file), slow_twin.stats()["lists"]
    assert 0 < len(done) < USERS
    code, out, _ = sync(slow_twin, *FEW).ended()
    report = msgspec.json.decode(out)
    assert (code, report["resumed"], report["synced"], report["skipped"]) == (0, True, USERS, len(done))
    assert contents(store_file) == slow_twin.truth()
    after = slow_twin.stats()["lists"]
    assert [user for user in done if after[user] != lists[user]] == []


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interruption_finishes_what_was_begun(slow_twin, sync, store_file, number, group):
    """As a terminal sends it to all of them, and as a service manager sends it to the parent."""
    syncing = sync(slow_twin, *FEW)
    until(lambda: store_file.exists() and len(acknowledged(store_file)) > USERS // 10)
    workers = syncing.workers()
    syncing.send(number, group=group)
    code, out, err = syncing.ended()
    report = msgspec.json.decode(out)
    assert (code, report["complete"]) == (130, False)
    assert 0 < report["synced"] == len(acknowledged(store_file)) < USERS
    assert "Traceback" not in err
    assert not any(map(is_alive, workers))
    code, out, _ = sync(slow_twin, *FEW, workers=1).ended()
    assert (code, msgspec.json.decode(out)["skipped"]) == (0, report["synced"])
    assert contents(store_file) == slow_twin.truth()


def test_workers_that_keep_dying_end_the_run_with_a_word_on_it(slow_twin, sync):
    """Not one user ends, so it cannot be that another worker would fare better."""
    syncing = sync(slow_twin, workers=1 + 1)
    deadline = time.monotonic() + 60
    while syncing.process.poll() is None and time.monotonic() < deadline:
        for worker in syncing.workers():
            os.kill(worker, signal.SIGKILL)
        time.sleep(0.05)
    code, _, err = syncing.ended()
    errors = [line for line in map(msgspec.json.decode, err.splitlines()) if line["level"] == "error"]
    assert code == 3
    assert len(errors) == 1
    assert "worker processes died" in errors[0]["message"]


def test_an_error_of_the_workers_is_one_line_of_the_parents(twin, sync, store_file):
    """As of an admin token that they meet first, when the users are named."""
    twin.admin_token = "not-the-token"
    names = store_file.with_name("users.txt")
    names.write_text("".join(f"user-{number:06d}@tenant.example\n" for number in range(50)))
    code, out, err = sync(twin, "--users-file", str(names), everybody=False).ended()
    errors = [line for line in map(msgspec.json.decode, err.splitlines()) if line["level"] == "error"]
    assert (code, len(errors)) == (3, 1)
    assert "admin token" in errors[0]["message"]
    assert msgspec.json.decode(out)["error"]["exit_code"] == 3
    assert "Traceback" not in err
