"""The report's section about credentials that need reconnecting: by app, the newest first, with the trend."""

import time

import anyio
import pytest

from flowmate_async import FlowMate, open_store
from flowmate_async.health import Credential, Health, HealthRecord, HealthState, Reason
from flowmate_async.reporting import write_report
from flowmate_async.reporting.reconnecting import DAYS, MOST_PER_APP, needs_reconnecting
from flowmate_async.sandbox import Sandbox, SandboxOptions
from flowmate_async.stores.memory import MemoryStore

from .pages import Page

DAY = 86_400.0
NOW = 1_790_000_000.0
STATES = {
    "broken": (HealthState.BROKEN, Reason.REFUSED),
    "expiring": (HealthState.EXPIRING, Reason.ENDS_SOON),
    "outage": (HealthState.PROVIDER_OUTAGE, Reason.CLIENT_FAILING),
    "unreadable": (HealthState.UNREADABLE, Reason.MASKED),
}


def record(user, *, state="broken", client="client-a", days_ago=1.5, now=NOW):
    kind = "OA2_AUTHORIZATION_CODE" if client else "API_KEY"
    return HealthRecord(
        credential=Credential(username=user, secret_id="a" * 24, type=kind, auth_client_id=client),
        health=Health(*STATES[state], now - days_ago * DAY),
    )


async def found(*records):
    store = MemoryStore()
    await store.put_health(records)
    return await needs_reconnecting(store, now=NOW)


@pytest.mark.anyio
async def test_they_are_grouped_by_app_newest_first():
    there = await found(
        record("ann", days_ago=3),
        record("bob", days_ago=0.5),
        record("cid", days_ago=20),
        record("dan", state="expiring", days_ago=8),
        record("eva", client=None, days_ago=2),
        record("fay", state="outage"),
        record("gus", state="unreadable"),
    )
    first, second = there.apps
    assert (first.app, first.is_client, first.broken, first.expiring) == ("client-a", True, 3, 1)
    assert (first.last_day, first.last_week) == (1, 2)
    assert [one.username for one in first.newest] == ["bob", "ann", "dan", "cid"]
    assert (second.app, second.is_client, second.total) == ("API_KEY", False, 1)


@pytest.mark.anyio
async def test_the_trend_counts_them_by_the_day_that_began():
    ages = [0.1, 0.9, 1.1, 13.9, 14.1, 400]
    there = await found(*(record(f"user-{number}", days_ago=age) for number, age in enumerate(ages)))
    assert len(there.trend) == DAYS
    assert {bar.days_ago: bar.count for bar in there.trend if bar.count} == {0: 2, 1: 1, 13: 1}
    assert there.before == 2
    assert max(bar.height for bar in there.trend) == 100


@pytest.mark.anyio
async def test_many_are_counted_and_few_are_named():
    there = await found(*(record(f"user-{number:04}", days_ago=number / 100) for number in range(300)))
    [app] = there.apps
    assert app.broken == 300
    assert [one.username for one in app.newest] == [f"user-{number:04}" for number in range(MOST_PER_APP)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a sync into a store with broken credentials, one of a user with a hostile name."""

    async def written(path):
        async with (
            Sandbox(SandboxOptions(users=2, seed=7)) as twin,
            open_store("memory:") as store,
            FlowMate(admin_token=twin.admin_token, base_url=twin.url) as fm,
        ):
            report = await fm.sync(store, [])
            await store.put_health(
                [
                    record("ann", days_ago=0.5, now=time.time()),
                    record("<script>alert(1)</script>", days_ago=2, now=time.time()),
                    record("bob", client="<b>", now=time.time()),
                ]
            )
            await write_report(path, store, report=report, error=None)

    path = tmp_path_factory.mktemp("report") / "report.html"
    anyio.run(written, path)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_has_the_section(page):
    assert "Needs reconnecting" in page.text
    heading, first, second = page.tables["reconnect"]
    assert heading[:3] == ["app", "broken", "expiring"]
    assert first[:5] == ["OAuth client client-a", "2", "0", "1", "2"]
    assert first[5].index("ann") < first[5].index("<script>")
    assert "Ask the user to reconnect." in first[5]
    assert second[0] == "OAuth client <b>"
    assert page.tags["script"] == page.tags["b"] == 0, "names are text"


def test_without_broken_credentials_there_is_no_section(tmp_path):
    async def written(path):
        async with (
            Sandbox(SandboxOptions(users=1, seed=7)) as twin,
            open_store("memory:") as store,
            FlowMate(admin_token=twin.admin_token, base_url=twin.url) as fm,
        ):
            await write_report(path, store, report=await fm.sync(store, []), error=None)

    anyio.run(written, tmp_path / "report.html")
    assert "Needs reconnecting" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.anyio
async def test_the_day_and_the_week_are_exact():
    there = await found(*(record(f"user-{days}", days_ago=days) for days in (0.99, 1, 6.99, 7)))
    [app] = there.apps
    assert (app.last_day, app.last_week, app.total) == (1, 3, 4)


@pytest.mark.anyio
async def test_apps_are_ordered_by_broken_and_expiring_together():
    there = await found(
        record("ann", client="all-broken"),
        record("bob", client="mostly-expiring", state="expiring"),
        record("cid", client="mostly-expiring", state="expiring"),
    )
    assert [app.app for app in there.apps] == ["mostly-expiring", "all-broken"]
