"""``flowmate worker`` and its broker: wrong logins, outages, hostile messages, lost workers, wrong clocks."""

import base64
import json
import re
import signal
import sys
import time
import zlib
from pathlib import Path

import msgspec
import pytest
import redis as redis_driver

from tests.cli.conftest import twin_thread
from tests.workers.conftest import acknowledged, contents, needs_proc, until

from .cluster import Cluster, ending
from .redis_server import PASSWORD, redis_server
from .test_watched_worker import asked

pytestmark = [pytest.mark.timeout(180), needs_proc]

WAIT = 90
USERS = 12
COMMAND = "import sys; sys.argv[0] = 'flowmate'; from flowmate_async.cli.app import main; main()"


@pytest.fixture
def twin():
    with twin_thread(users=USERS, latency_seconds=0.05) as running:
        yield running


@pytest.fixture
def broker(redis_program):
    """A Redis of its own for the broker, which may be killed."""
    with redis_server(redis_program) as server:
        yield server


@pytest.fixture
def cluster(twin, redis, broker, tmp_path):
    """Workers that share over one Redis and take shards from another."""
    where = Cluster(
        twin=twin, redis=redis, store=tmp_path / "credentials.db", rate=2000, burst=200, visibility=4
    )
    where.told = {"FLOWMATE_BROKER_URL": broker.url, "FLOWMATE_REDIS_URL": redis.url}
    with ending(where) as running:
        yield running


def lines(process):
    """Return exit code and complaints of a command that ends by itself."""
    _, err = process.communicate(timeout=WAIT)
    assert "Traceback" not in err
    assert PASSWORD not in err
    said = [msgspec.json.decode(line) for line in err.splitlines()]
    return process.returncode, [line["message"] for line in said if line["level"] == "error"]


def said_by(worker):
    """Return the message of the next line on stderr."""
    return msgspec.json.decode(worker.stderr.readline())["message"]


@pytest.mark.parametrize("command", [["worker"], ["sync", "--all-users", "--celery"]])
@pytest.mark.parametrize("variable", ["FLOWMATE_BROKER_URL", "FLOWMATE_REDIS_URL"])
def test_a_wrong_password_ends_the_command(cluster, command, variable):
    """With one line and exit code 2, and without a word about being ready."""
    cluster.told[variable] = cluster.told[variable].replace(PASSWORD, "not-the-password")
    code, (complaint,) = lines(cluster.start(*command))
    assert code == 2
    assert "rejects the user name or the password" in complaint
    assert variable in complaint
    assert "not-the-password" not in complaint


def test_a_broker_that_is_away_is_waited_for(cluster, broker):
    """The worker says so, and is not ready, until it can take a shard; and again when that is lost."""
    broker.kill()
    worker = cluster.start("worker", "--metrics-port", "0")
    base = said_by(worker).rpartition(" ")[2].removesuffix("/metrics")
    assert "the broker cannot be used" in said_by(worker)
    status, text = asked(f"{base}/readyz")
    assert (status, text.partition(":")[0]) == (503, "not ready")
    broker.start()
    assert "A worker is ready" in said_by(worker)
    until(lambda: asked(f"{base}/readyz") == (200, "ready\n"), seconds=WAIT)
    broker.kill()
    until(lambda: asked(f"{base}/readyz")[0] == 503, seconds=WAIT)
    broker.start()
    until(lambda: asked(f"{base}/readyz") == (200, "ready\n"), seconds=WAIT)
    assert cluster.follow().ended(WAIT)[0] == 0


def test_a_login_that_is_rejected_once_the_broker_is_there_ends_the_worker(cluster, broker):
    broker.kill()
    worker = cluster.start("worker")
    assert "the broker cannot be used" in said_by(worker)
    (broker.folder / "users.acl").write_text("user default on >another ~* &* +@all\n")
    broker.start_only()
    code, complaints = lines(worker)
    assert code == 2
    assert "rejects the user name or the password" in complaints[-1]


def peak_mib(pid):
    """Return the most memory that a process has had."""
    (line,) = re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1024


def envelope(queue, body, **headers):
    """A message as Celery would have written it."""
    told = {"task": "flowmate_async.carry_out", "id": "x", "lang": "py", "root_id": "x", "parent_id": None}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": told | headers,
            "properties": {
                "correlation_id": "x",
                "delivery_mode": 2,
                "delivery_info": {"exchange": queue, "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": "t",
            },
        }
    )


def test_hostile_messages_cost_a_worker_nothing(cluster, broker, twin):
    """Bombs, oversized ones, rubbish, other tasks: all are dropped, and the next shard is carried out."""
    worker = cluster.worker()
    with redis_driver.Redis.from_url(broker.url) as raw:
        (binding,) = [name.decode() for name in raw.keys("*_kombu.binding.*")]
        prefix, _, queue = binding.partition("_kombu.binding.")
        packer = zlib.compressobj(9)
        bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(400)) + packer.flush()
        before = peak_mib(worker.pid)
        for message in (
            envelope(queue, bomb, compression="application/x-gzip"),
            envelope(queue, bomb, compression="zlib"),
            "x" * 60_000_000,
            "no JSON",
            "[]",
            "{}",
            json.dumps({"body": None, "headers": None, "properties": None}),
            "[" * 100_000,
            envelope(queue, b"[[], {}, {}]", task="celery.backend_cleanup"),
            envelope(queue, b'[["no shard of ours"], {}, {}]'),
        ):
            raw.lpush(f"{prefix}{queue}", message)
        # Some that a worker seems to have taken long ago:
        for tag, value in (("rubbish", "no JSON"), ("large", "x" * 60_000_000), ("odd", "[1]")):
            raw.hset(f"{prefix}unacked", tag, value)
            raw.zadd(f"{prefix}unacked_index", {tag: 1.0})
        code, out, err = cluster.follow().ended(WAIT)
        assert (code, json.loads(out)["synced"]) == (0, USERS), err
        until(lambda: not raw.hlen(f"{prefix}unacked"), seconds=WAIT)
    assert peak_mib(worker.pid) - before < 40
    assert worker.poll() is None
    assert contents(cluster.store) == twin.truth()


def test_a_lost_workers_shard_goes_to_another_soon_after_its_visibility(cluster):
    """Also without a following sync, which would resubmit it after a fifth longer."""
    first = cluster.worker()
    following = cluster.follow()
    until(lambda: cluster.store.exists() and acknowledged(cluster.store), seconds=WAIT)
    following.send(signal.SIGKILL)
    first.kill()
    first.wait()
    begun = len(acknowledged(cluster.store))
    assert begun < USERS
    cluster.worker()
    began = time.monotonic()
    until(lambda: len(acknowledged(cluster.store)) == USERS, seconds=WAIT)
    assert time.monotonic() - began < 5 * cluster.visibility  # kombu alone looks every 100 seconds


def test_a_worker_whose_clock_is_wrong_keeps_its_shard(cluster, twin):
    """Visibility follows Redis' clock: a worker 15 minutes behind keeps its shard."""
    shifted = f"import time; real = time.time; time.time = lambda: real() - 900; {COMMAND}"
    worker = cluster.start("worker", command=(sys.executable, "-c", shifted))
    until(lambda: "ready" in worker.stderr.readline(), seconds=WAIT)
    following = cluster.follow()
    until(lambda: cluster.store.exists() and acknowledged(cluster.store), seconds=WAIT)
    cluster.worker()
    assert following.ended(WAIT)[0] == 0
    assert set(twin.stats()["lists"].values()) == {1}
