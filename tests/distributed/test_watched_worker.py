"""``flowmate worker`` under observation: its metrics, and what its probes say while it works and leaves."""

import re
import signal
import urllib.request
from urllib.error import HTTPError

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.conftest import twin_thread
from tests.workers.conftest import acknowledged, contents, until

from .cluster import Cluster, ending

pytestmark = pytest.mark.timeout(120)
WAIT = 60


@pytest.fixture
def twin():
    """Each shard takes seconds, so that there is time to look."""
    with twin_thread(users=60, latency_seconds=0.1) as running:
        yield running


@pytest.fixture
def cluster(twin, redis, tmp_path):
    told = Cluster(
        twin=twin, redis=redis, store=tmp_path / "credentials.db", rate=2000, burst=200, shard_users=60
    )
    with ending(told):
        yield told


def asked(url):
    """Status and body of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as refused:
        return refused.code, refused.read().decode()


def answers(metrics):
    """How many requests a page of metrics counts."""
    families = text_string_to_metric_families(metrics)
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "flowmate_requests_total")


def test_it_counts_what_it_does_and_is_ready_until_it_is_told_to_stop(twin, cluster, tmp_path):
    worker, (said,) = cluster.watched_worker("--metrics-port", "0", "--concurrency", "4")
    base = msgspec.json.decode(said)["message"].rpartition(" ")[2].removesuffix("/metrics")
    until(lambda: asked(f"{base}/readyz") == (200, "ready\n"), seconds=WAIT)
    assert answers(asked(f"{base}/metrics")[1]) == 0
    following = cluster.follow("--report", str(tmp_path / "report.html"))
    until(lambda: cluster.store.exists() and acknowledged(cluster.store), seconds=WAIT)
    metrics = asked(f"{base}/metrics")[1]
    assert 0 < answers(metrics) <= twin.total()
    assert not re.search("@tenant.example|[0-9a-f]{24}", metrics), "it names a user or a secret"
    worker.send_signal(signal.SIGTERM)
    until(lambda: asked(f"{base}/readyz") == (503, "not ready\n"), seconds=WAIT)
    assert asked(f"{base}/healthz") == (200, "ok\n")
    assert worker.wait(timeout=WAIT) == 0
    assert 0 < len(acknowledged(cluster.store)) < 60
    cluster.worker()
    assert following.ended(WAIT)[0] == 0
    assert contents(cluster.store) == twin.truth()
    page = (tmp_path / "report.html").read_text()
    assert "the workers of the cluster sent the requests" in page
    assert len(re.findall('aria-label="[^"]* over time"', page)) == 1, "only the users are drawn"


def test_a_port_that_is_taken_ends_it_before_it_takes_a_shard(twin, cluster):
    port = twin.url.rpartition(":")[2]
    process = cluster.start("worker", "--metrics-port", port)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 2
    assert "in use" in err
    assert "Traceback" not in err


def test_the_broker_may_be_named_by_a_private_file(twin, cluster, tmp_path):
    file = tmp_path / "broker-url"
    file.write_text(f"{cluster.redis.url}\n")
    cluster.told = {"FLOWMATE_BROKER_URL": "", "FLOWMATE_BROKER_URL_FILE": str(file)}
    file.chmod(0o644)
    process = cluster.start("worker")
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 2
    assert "other users of this machine" in err
    file.chmod(0o600)
    cluster.worker()
    assert cluster.follow().ended(WAIT)[0] == 0
    assert contents(cluster.store) == twin.truth()
