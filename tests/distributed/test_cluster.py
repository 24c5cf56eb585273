"""A sync by Celery workers: the rate used up and kept, nothing lost with a worker or with Redis.

``make cluster`` carries it out with 5,000 users instead.
"""

import os
import signal
import time
from collections import defaultdict

import msgspec
import pytest

from tests.cli.conftest import twin_thread
from tests.reporting.pages import Page
from tests.workers.conftest import acknowledged, contents, kept_tokens, needs_proc, until

from .cluster import Cluster, ending
from .redis_server import redis_server

USERS = int(os.environ.get("FLOWMATE_CLUSTER_USERS", "80"))
RATE = float(os.environ.get("FLOWMATE_CLUSTER_RATE", "200"))
BURST = int(RATE / 10)
OUTAGE_SECONDS = 5 if USERS >= 1000 else 2
VISIBILITY, SHARD = (10, 50) if USERS >= 1000 else (4, 10)
FEW, MANY = (2, 2), (3, 4)
"""Workers and the processes of each: few beside other tests, many on a machine of their own."""
WAIT = 60 + USERS * 10 / RATE
"""Seconds; a user takes about seven requests."""

pytestmark = [pytest.mark.timeout(2 * WAIT), needs_proc]


on_a_machine_of_its_own = pytest.mark.parametrize(
    "strict", [False, pytest.param(True, marks=[pytest.mark.alone, pytest.mark.long])]
)


@pytest.fixture
def strict():
    """Whether nothing else runs on the machine; otherwise requests may arrive half a second late."""
    return False


@pytest.fixture
def twin(strict):
    """One that answers 429 to whatever exceeds the limit."""
    burst = BURST if strict else BURST + int(RATE / 2)
    with twin_thread(users=USERS, rate=RATE, burst=burst) as running:
        yield running


@pytest.fixture
def size(strict):
    return MANY if strict else FEW


@pytest.fixture
def cluster(twin, redis_program, tmp_path, size):
    _, pool = size
    with redis_server(redis_program) as redis:
        where = Cluster(twin, redis, tmp_path / "credentials.db", RATE, BURST, VISIBILITY, SHARD, pool=pool)
        with ending(where) as running:
            yield running


def throttled(twin):
    return twin.stats()["throttled"]


def plain_texts(twin, cluster):
    """What Redis must never have seen."""
    for (username, secret_id), (_, value) in twin.truth().items():
        yield from (username, secret_id)
        yield from (text for text in value.values() if isinstance(text, str) and len(text) > 7)
    yield cluster.environment()["FLOWMATE_STORE_KEY"]
    yield twin.admin_token
    yield from kept_tokens(cluster.store)


def shown(twin, cluster):
    """Of what Redis must never see, what it has seen; also of thousands of users in seconds."""
    by_beginning = defaultdict(list)
    for text in plain_texts(twin, cluster):
        by_beginning[text.encode()[:8]].append(text.encode())
    seen = cluster.redis.everything()
    assert len(seen) > 10_000
    places = (place for place in range(len(seen) - 8) if seen[place : place + 8] in by_beginning)
    return [
        text
        for place in places
        for text in by_beginning[seen[place : place + 8]]
        if seen.startswith(text, place)
    ]


@on_a_machine_of_its_own
def test_the_workers_use_up_the_rate_and_show_redis_nothing(twin, cluster, strict, size):
    """At least 95 % of it, from the first shard to the last user; not one 429."""
    workers = [cluster.worker() for _ in range(size[0])]
    code, out, _ = cluster.follow("--keep-tokens").ended(WAIT)
    report = msgspec.json.decode(out)
    assert (code, report["complete"], report["synced"], report["failed"]) == (0, True, USERS, 0)
    assert throttled(twin) == 0
    assert report["requests"] == twin.total() - 1  # but for the list of users
    if strict:
        assert report["requests"] / report["seconds"] >= (0.95 if USERS >= 1000 else 0.85) * RATE
    assert contents(cluster.store) == twin.truth()
    assert set(twin.stats()["lists"].values()) == {1}
    code, out, _ = cluster.follow("--keep-tokens").ended(WAIT)
    assert (code, msgspec.json.decode(out)["synced"]) == (0, USERS)
    assert twin.stats()["impersonations"] == USERS, "none by the second sync"
    assert shown(twin, cluster) == []
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    assert {worker.wait(timeout=20) for worker in workers} == {0}
    assert not any("Traceback" in worker.stderr.read() for worker in workers)


@on_a_machine_of_its_own
def test_a_worker_and_redis_killed_in_the_middle_cost_time_and_nothing_else(twin, cluster, size):
    workers = [cluster.worker() for _ in range(size[0])]
    following = cluster.follow()
    until(lambda: cluster.store.exists() and len(acknowledged(cluster.store)) > USERS // 6, seconds=WAIT)
    done, lists = acknowledged(cluster.store), twin.stats()["lists"]
    os.killpg(workers[0].pid, signal.SIGKILL)
    until(lambda: len(acknowledged(cluster.store)) > USERS // 3, seconds=WAIT)
    cluster.redis.kill()
    time.sleep(OUTAGE_SECONDS)
    cluster.redis.start()
    code, out, err = following.ended(WAIT)
    report = msgspec.json.decode(out)
    assert (code, report["complete"], report["synced"]) == (0, True, USERS), err
    assert throttled(twin) == 0
    stored = contents(cluster.store)
    assert stored == twin.truth()
    after = twin.stats()["lists"]
    assert [user for user in done if after[user] != lists[user]] == []
    assert shown(twin, cluster) == []


def test_a_follower_may_return_and_a_worker_returns_unstarted_shards(twin, cluster):
    first = cluster.worker()
    following = cluster.follow()
    until(lambda: cluster.store.exists() and acknowledged(cluster.store), seconds=WAIT)
    following.send(signal.SIGINT)
    code, out, _ = following.ended(WAIT)
    assert (code, msgspec.json.decode(out)["complete"]) == (130, False)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=20) == 0
    begun = len(acknowledged(cluster.store))
    assert 0 < begun < USERS
    cluster.worker()
    until(lambda: len(acknowledged(cluster.store)) > begun, seconds=WAIT)  # nobody follows
    page = cluster.store.with_name("report.html")
    code, out, _ = cluster.follow("--report", str(page)).ended(WAIT)
    report = msgspec.json.decode(out)
    assert (code, report["resumed"], report["synced"]) == (0, True, USERS)
    # What the workers found changed nobody knows here; a nought would be a lie.
    assert (report["changed"], report["unchanged"], report["left"]) == (None, None, None)
    shown_numbers = Page(page.read_text(encoding="utf-8")).numbers
    assert shown_numbers["synced"] == USERS
    assert "changed" not in shown_numbers
    assert set(twin.stats()["lists"].values()) == {1}
    assert contents(cluster.store) == twin.truth()


def test_shards_of_masked_users_end_nothing(twin, cluster):
    """The first shard holds no other users. Two nights: the second one is a delta sync."""
    masked = [f"user-{number:06d}@tenant.example" for number in range(SHARD + 2)]
    for name in masked:
        twin.ask(f"/_sandbox/users/{name}", {"raw_read": False}, method="PATCH")
    cluster.worker()
    for _night in range(2):
        code, out, _ = cluster.follow().ended(WAIT)
        report = msgspec.json.decode(out)
        assert (code, report["complete"], report["synced"]) == (1, True, USERS - len(masked))
        assert report["errors"] == {"masked_secret": len(masked)}


def test_a_tenant_in_which_nobody_is_readable_is_told_at_the_end(twin, cluster):
    twin.ask("/_sandbox/settings", {"raw_read": False})
    cluster.worker()
    code, out, err = cluster.follow().ended(WAIT)
    assert (code, msgspec.json.decode(out)["error"]["exit_code"]) == (3, 3)
    assert "secrets.secret.readRaw" in err
    assert twin.stats()["impersonations"] == USERS


def test_a_rejected_admin_token_ends_the_job_for_all(twin, cluster):
    names = cluster.store.with_name("users.txt")
    names.write_text("".join(f"user-{number:06d}@tenant.example\n" for number in range(100)))
    right, twin.admin_token = twin.admin_token, "not-the-token"
    cluster.worker()
    code, out, err = cluster.follow("--users-file", str(names), everybody=False).ended()
    errors = [line for line in map(msgspec.json.decode, err.splitlines()) if line["level"] == "error"]
    assert (code, len(errors)) == (3, 1)
    assert "admin token" in errors[0]["message"]
    assert "admin token" in msgspec.json.decode(out)["error"]["message"]
    twin.admin_token = right
    assert twin.total() < 50
