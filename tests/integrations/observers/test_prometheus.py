"""Prometheus: what a scrape brings, read by prometheus_client's own parser."""

import asyncio
import gc
import urllib.request
from urllib.error import HTTPError

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import flowmate_async
from flowmate_async import BreakerPolicy, ConfigurationError, FlowMate, FlowMateError, RetryPolicy, open_store
from flowmate_async.integrations.prometheus import instrument, serve
from flowmate_async.sandbox import Faults, faults
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.sync import health_sink
from tests.health.world import OAUTH, Tenant

pytestmark = pytest.mark.anyio


def samples(text):
    """Every sample by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def registry(fm):
    made = CollectorRegistry()
    with instrument(fm, registry=made):
        yield made


@pytest.fixture
def scrape(registry):
    return lambda: samples(generate_latest(registry).decode())


async def ask(url):
    """Status, media type and body of a GET, from another thread: the server is on this loop."""

    def get():
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except HTTPError as refused:
            return refused.code, refused.headers["Content-Type"], refused.read().decode()

    return await asyncio.to_thread(get)


async def test_a_sync_is_counted_as_its_report_has_it(fm, scrape):
    async with open_store("memory:") as store:
        names = [user.username async for user in fm.users() if user.is_active_tenant_user]
        report = await fm.sync(store, [*names, "nobody-at-all"])
    found = scrape()
    requests = sum(value for key, value in found.items() if key[0] == "flowmate_requests_total")
    assert requests == report.requests + 1
    assert found["flowmate_requests_total", "404", "POST /impersonate"] == 1
    assert found["flowmate_users_total", "synced"] == report.synced == 20
    assert found["flowmate_users_failed_total", "user_not_found"] == 1
    assert found["flowmate_secrets_stored_total",] == report.secrets
    assert found["flowmate_tokens_made_total", "first"] == 20
    assert found["flowmate_breaker_state", "closed"] == 1
    assert found["flowmate_concurrency_limit",] == 64


async def test_the_histogram_is_one(fm, scrape):
    """Counts climb with the bound, and the last bucket, the count and the counter agree."""
    async with open_store("memory:") as store:
        await fm.sync(store)
    found = scrape()
    route = "GET /secrets/{id}"
    buckets = sorted(
        (float(next(label for label in key[1:] if label != route)), value)
        for key, value in found.items()
        if key[0] == "flowmate_request_seconds_bucket" and route in key
    )
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert len(buckets) == 19
    assert counts[-1] == found["flowmate_request_seconds_count", route]
    assert counts[-1] == found["flowmate_requests_total", "200", route]
    mean = found["flowmate_request_seconds_sum", route] / counts[-1]
    assert mean == pytest.approx(fm.stats().latency[route].mean_seconds)


async def test_a_second_client_of_a_registry_needs_a_name(fm, registry):
    with pytest.raises(ConfigurationError, match="name"):
        instrument(fm, registry=registry)
    with instrument(fm, registry=registry, client="crm"), pytest.raises(ConfigurationError, match="name"):
        instrument(fm, registry=registry, client="crm")


async def test_clients_of_one_registry_are_told_apart(fm, sandbox):
    registry = CollectorRegistry()
    async with FlowMate(admin_token=sandbox.admin_token, base_url=sandbox.url) as other:
        [user async for user in other.users()]
        with instrument(fm, registry=registry, client="a"), instrument(other, registry=registry, client="b"):
            text = generate_latest(registry).decode()
            found = samples(text)
            assert found["flowmate_requests_total", "200", "GET /users/", "b"] == 1
            assert ("flowmate_requests_total", "200", "GET /users/", "a") not in found
            assert (found["flowmate_cache_hits_total", "a"], found["flowmate_cache_hits_total", "b"]) == (
                0,
                0,
            )
            assert text.count("# TYPE flowmate_cache_hits_total") == 1
        assert generate_latest(registry) == b""


async def test_a_bare_statement_registers_for_good(fm):
    registry = CollectorRegistry()
    instrument(fm, registry=registry)
    gc.collect()
    assert ("flowmate_cache_entries",) in samples(generate_latest(registry).decode())


def credentials(text):
    """Credentials that do not plainly work, by health and type."""
    return {
        (sample.labels["health"], sample.labels["type"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == "flowmate_credentials"
    }


async def counted(registry, expected):
    """Wait until the gauge has these values besides zeros."""
    while True:
        found = credentials(generate_latest(registry).decode())
        if {key: value for key, value in found.items() if value} == expected and found:
            return found
        await asyncio.sleep(0.05)


@pytest.mark.timeout(60)
async def test_a_client_with_a_health_store_counts_what_is_in_it():
    """What syncs and other processes have stored shows, and falls to 0 when it is over."""
    tenant, registry = Tenant(users=4, clients=4), CollectorRegistry()
    tenant.mask("user-0001")
    async with tenant.sandbox, open_store("memory:") as store:
        await tenant.sync(store)
        async with tenant.client(health_store=store) as fm:
            with instrument(fm, registry=registry):
                found = await counted(registry, {("unreadable", OAUTH): 1.0})
                assert found["broken", "API_KEY"] == 0.0
        tenant.mask("user-0001", masked=False)
        tenant.next_night()
        await tenant.sync(store)
        async with tenant.client(health_store=store) as fm:
            with instrument(fm, registry=registry):
                assert (await counted(registry, {}))["unreadable", OAUTH] == 0.0


@pytest.mark.timeout(60)
async def test_the_store_is_counted_again_while_the_client_is_open(monkeypatch):
    monkeypatch.setattr(health_sink, "_COUNT_SECONDS", 0.1)
    tenant, registry = Tenant(users=4, clients=4), CollectorRegistry()
    async with tenant.sandbox, open_store("memory:") as store, tenant.client(health_store=store) as fm:
        with instrument(fm, registry=registry):
            await counted(registry, {})
            tenant.mask("user-0001", "user-0002")
            await tenant.sync(store)
            await counted(registry, {("unreadable", OAUTH): 2.0})


class Uncountable(MemoryStore):
    """A store that is down, or whose tables are locked."""

    async def count_health(self):
        raise FlowMateError("the database is down")


async def test_a_store_that_cannot_be_counted_has_no_gauge(caplog):
    """A missing gauge is honest; an old number or 0 would not be."""
    tenant, registry = Tenant(users=1, clients=1), CollectorRegistry()
    async with tenant.sandbox, tenant.client(health_store=Uncountable()) as fm:
        with instrument(fm, registry=registry):
            await asyncio.sleep(0.1)
            assert credentials(generate_latest(registry).decode()) == {}
    assert "was not counted: the database is down" in caplog.text


async def test_without_a_health_store_there_is_no_such_gauge(scrape):
    assert not [key for key in scrape() if key[0] == "flowmate_credentials"]


async def test_the_version_is_a_metric(fm, scrape):
    found = [key for key in scrape() if key[0] == "flowmate_build_info"]
    assert len(found) == 1
    assert flowmate_async.__version__ in found[0]


async def test_a_registry_forgets_the_client_when_the_block_ends(fm):
    registry = CollectorRegistry()
    with instrument(fm, registry=registry):
        pass
    assert generate_latest(registry) == b""


async def test_no_credential_and_no_id_is_in_any_metric(fm, registry, leaks):
    async with open_store("memory:") as store:
        await fm.sync(store)
    text = generate_latest(registry).decode()
    assert leaks(text, ids=True) == []
    assert "flowmate_users_total" in text


async def test_it_is_served_with_health_and_readiness(fm):
    async with serve(fm, port=0) as port:
        base = f"http://127.0.0.1:{port}"
        status, kind, text = await ask(f"{base}/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert ("flowmate_requests_in_flight",) in samples(text)
        assert await ask(f"{base}/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
        assert (await ask(f"{base}/readyz"))[0] == 200
        assert (await ask(f"{base}/else"))[0] == 404
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            async with serve(fm, port=port):
                pass
    with pytest.raises(OSError, match="refused"):
        await ask(f"{base}/healthz")


async def test_it_is_not_ready_while_the_breaker_is_open(sandbox):
    sandbox.configure(faults=Faults(rules=(faults.Error(share=1.0, status=503),)))
    made = FlowMate(
        admin_token=sandbox.admin_token,
        base_url=sandbox.url,
        rate=None,
        retry=RetryPolicy(attempts=1),
        breaker=BreakerPolicy(failures=3, subjects=3, open_seconds=60),
    )
    async with made as fm, serve(fm, port=0) as port:
        for number in range(4):
            with pytest.raises(FlowMateError):
                await fm.impersonate(f"user-{number}")
        assert await ask(f"http://127.0.0.1:{port}/readyz") == (
            503,
            "text/plain; charset=utf-8",
            "not ready\n",
        )
        assert (await ask(f"http://127.0.0.1:{port}/healthz"))[0] == 200
