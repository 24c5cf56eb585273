"""The page: its numbers are the JSON's, and no text from upstream can be more than text."""

import base64
import hashlib
import re
import subprocess
import sys

import anyio
import msgspec
import pytest

from flowmate_async import ConfigurationError, FlowMate, open_store
from flowmate_async.reporting import recording, write_report
from flowmate_async.reporting.page import duration, visible
from flowmate_async.reporting.summary import summarize
from flowmate_async.sandbox import Faults, Sandbox, SandboxOptions, faults
from flowmate_async.stores.base import Checkpoint, UserWrite

from .pages import Page

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><style>*{background:url(//evil.example)}</style>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</bdi></td></table><h1>all users synced",
    "{{ 7*7 }}{% raw %}",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe\u2066",
    "null\x00byte",
)
RULES = (
    faults.Error(share=0.02, status=503),
    faults.Error(share=0.01, status=500, routes=("GET /secrets/{id}",)),
    faults.Reset(share=0.01, routes=("GET /secrets/", "POST /impersonate")),
    faults.UserDeleted(share=0.01),
    faults.Latency(seconds=0.002, distribution="heavy_tail"),
)


async def sync_with_faults(folder):
    options = SandboxOptions(users=150, seed=7, faults=Faults(rules=RULES, seed=7), rate=3000, burst=100)
    async with (
        Sandbox(options) as twin,
        open_store("memory:") as store,
        FlowMate(admin_token=twin.admin_token, base_url=twin.url, rate=4000, burst=100) as fm,
    ):
        names = [user.username async for user in fm.users() if user.is_active_tenant_user]
        with recording(fm.stats) as recorder:
            report = await fm.sync(store, [*names, "nobody-1", "nobody-2", "nobody-3"])
        for name in ("report.json", "report.html"):
            await write_report(
                folder / name, store, report=report, error=None, observed=recorder.observation()
            )


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Both reports of one run with faults, whose users fail in several ways."""
    folder = tmp_path_factory.mktemp("reports")
    anyio.run(sync_with_faults, folder)
    data = msgspec.json.decode((folder / "report.json").read_bytes())
    assert data["totals"]["failed"] > 3, "the run has no failures to show"
    return data, Page((folder / "report.html").read_text(encoding="utf-8"))


class TestNumbers:
    def test_the_totals_are_the_jsons(self, reports):
        data, page = reports
        shown = page.numbers
        assert shown["synced"] == data["totals"]["synced"]
        assert shown["failed"] == data["totals"]["failed"]
        assert shown["secrets"] == data["totals"]["secrets"]
        assert shown["changed"] == data["call"]["changed"]
        assert shown["requests"] == data["call"]["requests"]
        assert shown["seconds"] == data["call"]["seconds"]
        assert shown["throttled"] == data["observed"]["throttled"]
        assert shown["retries"] == sum(data["observed"]["retries"].values())

    def test_the_errors_are_those_of_the_users(self, reports):
        data, page = reports
        expected = {}
        for user in data["users"]:
            if user["status"] == "failed":
                expected.setdefault(user["error"], []).append(user["username"])
        rows = {row[0]: row for row in page.rows("errors")}
        assert {kind: int(row[1]) for kind, row in rows.items()} == data["totals"]["errors"]
        assert {kind: len(users) for kind, users in expected.items()} == data["totals"]["errors"]
        for kind, users in expected.items():
            assert all(name in rows[kind][3] for name in users[:50])
        assert [int(row[1]) for row in page.rows("errors")] == sorted(
            data["totals"]["errors"].values(), reverse=True
        )

    def test_the_slowest_users_are_the_slowest(self, reports):
        data, page = reports
        slowest = sorted(data["users"], key=lambda user: (-user["seconds"], user["username"]))[:20]
        rows = page.rows("slowest")
        assert [row[0] for row in rows] == [user["username"] for user in slowest]
        assert [row[1] for row in rows] == [duration(user["seconds"]) for user in slowest]
        assert [(int(row[3]), int(row[4])) for row in rows] == [
            (user["requests"], user["secrets"]) for user in slowest
        ]

    def test_the_timeline_adds_up_to_the_totals(self, reports):
        data, page = reports
        rows = page.rows("timeline")
        assert len(rows) == len(data["observed"]["samples"])
        for column, field in enumerate(("requests", "synced", "failed", "throttled", "retries"), start=1):
            shown = [int(row[column]) for row in rows]
            assert shown == [sample[field] for sample in data["observed"]["samples"]]
        assert sum(int(row[2]) for row in rows) == data["totals"]["synced"]
        assert sum(int(row[3]) for row in rows) == data["totals"]["failed"]

    def test_a_mean_is_what_happened_by_the_time_it_took(self, reports):
        """And not the mean of a line that is drawn smoothed."""
        data, page = reports
        samples = data["observed"]["samples"]
        seconds = samples[-1]["at_seconds"]
        requests, users = page.means[:2]
        assert requests == pytest.approx(sum(sample["requests"] for sample in samples) / seconds)
        done = sum(sample["synced"] + sample["failed"] for sample in samples)
        assert users == pytest.approx(done / seconds)

    def test_the_histograms_hold_every_answer(self, reports):
        data, page = reports
        answers = sum(latency["count"] for latency in data["observed"]["latency"].values())
        assert sum(page.buckets) == answers
        assert answers == sum(sum(by.values()) for by in data["observed"]["answers"].values())
        bars = [float(value) for name, value in page.attributes if name == "height"]
        assert max(bars) == 100

    def test_the_answers_are_all_there(self, reports):
        data, page = reports
        text = " ".join(" ".join(row) for row in page.rows("answers"))
        for statuses in data["observed"]["answers"].values():
            for status, count in statuses.items():
                assert re.search(rf"{status}\s+{count:,}\b", text)


async def written(tmp_path, text, *, error=None):
    """The page of a run whose user, error and message are this text."""
    async with open_store("memory:") as store:
        await store.bind("https://flowmate.example")
        run = await store.begin_run(at=0.0)
        failed = Checkpoint(username=text, status="failed", error=text, message=text, seconds=1.0)
        await store.write(run, [UserWrite(checkpoint=failed)])
        await write_report(tmp_path / "r.html", store, report=None, error=error)
    return Page((tmp_path / "r.html").read_text(encoding="utf-8"))


class TestHostileText:
    @pytest.mark.anyio
    @pytest.mark.parametrize("text", HOSTILE, ids=ascii)
    async def test_it_stays_text(self, tmp_path, text):
        """The page has the same elements and attributes as with harmless text, and none that could act."""
        harmless = await written(tmp_path, "harmless", error="harmless")
        hostile = await written(tmp_path, text, error=text)
        assert hostile.tags == harmless.tags
        assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
        assert visible(text) in hostile.text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", hostile.source)

    def test_nothing_in_the_page_can_run_or_be_fetched(self, reports):
        _, page = reports
        assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "form", "a", "base"}
        names = {name for name, _ in page.attributes}
        assert not {name for name in names if name.startswith("on")} | (names & {"href", "src", "style"})
        assert "url(" not in page.source
        assert "@import" not in page.source

    def test_the_policy_admits_the_pages_own_style_and_nothing_else(self, reports):
        _, page = reports
        policy = next(value for name, value in page.attributes if value and "default-src" in value)
        style = re.search("<style>(.*?)</style>", page.source, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        )


@pytest.mark.anyio
class TestEnds:
    async def test_a_run_that_was_ended_early_says_why(self, tmp_path):
        page = await written(tmp_path, "ali", error="the admin token was rejected (POST /impersonate)")
        assert "ended early" in page.text
        assert "the admin token was rejected" in page.text

    async def test_a_million_users_make_no_bigger_page(self, tmp_path):
        """Fifty thousand here, all failing alike: the first fifty are named."""
        async with open_store("memory:") as store:
            await store.bind("https://flowmate.example")
            run = await store.begin_run(at=0.0)
            for start in range(0, 50_000, 5_000):
                writes = [
                    UserWrite(
                        checkpoint=Checkpoint(username=f"u{n}", status="failed", error="x", message="m")
                    )
                    for n in range(start, start + 5_000)
                ]
                await store.write(run, writes)
            await write_report(tmp_path / "r.html", store, report=None, error=None)
        page = Page((tmp_path / "r.html").read_text())
        assert page.rows("errors")[0][1] == "50,000"
        assert len(page.source) < 40_000

    async def test_the_file_is_the_owners_only(self, tmp_path):
        await written(tmp_path, "ali")
        assert (tmp_path / "r.html").stat().st_mode & 0o777 == 0o600


def test_without_jinja_json_is_still_written_and_a_page_refused(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['jinja2'] = None\n"
        "from pathlib import Path\n"
        "from flowmate_async.reporting import require_report_path\n"
        "require_report_path(Path('r.json'))\n"
        "require_report_path(Path('r.html'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert "flowmate-async[report]" in done.stderr
    assert ConfigurationError.__name__ in done.stderr


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (2e-6, "2 µs"),
        (0.0186, "18.6 ms"),
        (1.0, "1 s"),
        (59.9, "59.9 s"),
        (64.1, "1 min 4 s"),
        (7384, "2 h 3 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.anyio
async def test_only_users_that_were_read_have_an_unproven_listing():
    async def checkpoints():
        for number, (status, proven) in enumerate(
            [("synced", True), ("synced", False), ("failed", False), ("failed", True)]
        ):
            yield Checkpoint(
                username=f"user-{number}", status=status, secrets=0, at=1.0, listing_proven=proven
            )

    summary = await summarize(checkpoints())
    assert (summary.unproven, [kind.users for kind in summary.errors]) == (1, [2])
