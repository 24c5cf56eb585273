"""Which requests get a fault: shares, seeds, routes, and the ways to set faults."""

import contextlib
import json
import re
import statistics
from collections import Counter
from random import Random
from typing import Any, get_args

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.sandbox import Faults, Sandbox, SandboxOptions, faults, faults_from_text
from flowmate_async.sandbox.fault_schedule import FaultSchedule
from flowmate_async.sandbox.routes import GET_SECRET, IMPERSONATE, LIST_SECRETS, ROUTES

ALICE = "user-000000@tenant.example"
OF_KIND = dict(zip(faults.KINDS, get_args(faults.Fault), strict=True))
REQUIRED = {"latency": {"seconds": 0.001}, "provider": {"fault": "http_error"}}


def decisions(rules: tuple[faults.Fault, ...], seed: int, routes: list[str]) -> list[str | None]:
    chance = FaultSchedule(Faults(seed=seed, rules=rules), Counter())
    return [due.one and due.one.kind for due in map(chance.due, routes)]


@given(st.integers(0, 2**32), st.lists(st.sampled_from(ROUTES), min_size=200, max_size=200))
def test_one_seed_decides_the_same_for_the_same_sequence(seed: int, routes: list[str]) -> None:
    """And another seed something else."""
    rules = (faults.Reset(share=0.3), faults.Html(share=0.5, routes=(GET_SECRET, LIST_SECRETS)))
    once = decisions(rules, seed, routes)
    assert once == decisions(rules, seed, routes)
    assert once != decisions(rules, seed + 1, routes)


def test_a_rule_does_not_disturb_anothers_decisions() -> None:
    """Taking one away leaves the other's sequence as it was."""
    reset, delay = faults.Reset(share=0.2), faults.Latency(seconds=1, share=0.5)
    with_delay = decisions((reset, delay), 5, [GET_SECRET] * 500)
    assert with_delay == decisions((reset,), 5, [GET_SECRET] * 500)


def test_a_share_is_a_share() -> None:
    """Within five standard deviations of it."""
    struck = decisions((faults.Reset(share=0.1),), 3, [GET_SECRET] * 20_000).count("reset")
    assert abs(struck - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5


def test_routes_skip_and_at_most_narrow_a_rule() -> None:
    """Only its own routes count for it."""
    rule = faults.Reset(routes=(LIST_SECRETS,), skip=2, at_most=2)
    routes = [LIST_SECRETS, GET_SECRET, LIST_SECRETS, LIST_SECRETS, IMPERSONATE, LIST_SECRETS, LIST_SECRETS]
    assert decisions((rule,), 0, routes) == [None, None, None, "reset", None, "reset", None]


def test_the_first_of_those_that_exclude_each_other_acts() -> None:
    """The other has not struck: neither its counter nor its `at_most` moves."""
    rules = (faults.Reset(at_most=2), faults.Html(at_most=1), faults.ItemsMove())
    struck: Counter[str] = Counter()
    chance = FaultSchedule(Faults(rules=rules), struck)
    dues = [chance.due(LIST_SECRETS) for _ in range(4)]
    assert [due.one and due.one.kind for due in dues] == ["reset", "reset", "html", None]
    assert all(due.changes == [rules[2]] for due in dues)
    assert struck == {"reset": 2, "html": 1, "items_move": 4}


@pytest.mark.parametrize("distribution", list(faults.Distribution))
def test_seconds_is_the_mean_of_a_latency(distribution: faults.Distribution) -> None:
    """Of every distribution; the tail of the heavy one is cut off at the most it may be."""
    rule = faults.Latency(seconds=1, distribution=distribution, most_seconds=1000)
    drawn = [rule.drawn(Random(number)) for number in range(20_000)]
    assert statistics.mean(drawn) == pytest.approx(1, rel=0.15)
    assert 0 <= min(drawn) <= max(drawn) <= 1000
    far = sum(seconds > 5 for seconds in drawn) / len(drawn)
    shape = {"fixed": far == 0, "uniform": far == 0, "exponential": far < 0.012, "heavy_tail": far > 0.013}
    assert shape[distribution]


def test_a_text_names_rules_with_shares_fields_and_routes() -> None:
    """As one writes them on a command line."""
    text = "reset=0.01; latency seconds=0.05 distribution=heavy_tail;"
    text += "throttle at_most=3 @GET /secrets/ | unknown;"
    assert faults_from_text(text, seed=4) == Faults(
        seed=4,
        rules=(
            faults.Reset(share=0.01),
            faults.Latency(seconds=0.05, distribution=faults.Distribution.HEAVY_TAIL),
            faults.Throttle(at_most=3, routes=("GET /secrets/", "unknown")),
        ),
    )
    as_json = msgspec.json.encode(faults_from_text(text)).decode()
    assert faults_from_text(as_json) == faults_from_text(text)
    assert faults_from_text("") == Faults()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "unknown kind of fault 'nonsense'; there are latency, "),
        ("reset=2", "between 0 and 1"),
        ("reset=x", "share"),
        ("reset colour=red", "colour"),
        ("reset at_most", "not field=value"),
        ("reset at_most=-1", "negative"),
        ("error status=404", "404"),
        ("hang seconds=-1", "negative"),
        ("latency", "seconds"),
        ("reset @ /secrets/", "unknown route '/secrets/'"),
        ("huge_json size_bytes=99999999999", "size_bytes"),
        ("slow_loris piece_bytes=0", "piece_bytes"),
        ("provider fault=x", "fault"),
        ('{"rules":[{"kind":"reset","share":-1}]}', "between 0 and 1"),
        ('{"rules":1', "rules"),
    ],
)
def test_a_text_that_makes_no_sense_says_why(text: str, complaint: str) -> None:
    """Before anything listens."""
    with pytest.raises(ValueError, match=re.escape(complaint)):
        faults_from_text(text)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", faults.KINDS)
async def test_every_kind_can_be_set_over_http_and_is_counted(running: Any, until: Any, kind: str) -> None:
    """`POST /_sandbox/faults`; what is struck is found under its kind in `/_sandbox/stats`."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        secret = next(s for s in sandbox.world.secrets_of(ALICE) if s.type == "SESSION_AUTH")
        secret.value["expires"] = None
        rule = {"kind": kind, "at_most": 1, **REQUIRED.get(kind, {})}
        if "seconds" in OF_KIND[kind].__struct_fields__:
            rule["seconds"] = 0.001
        reply = await call.admin("POST", "faults", json={"seed": 3, "rules": [rule]})
        assert reply.status == 200, reply
        assert reply.json()["rules"][0]["kind"] == kind
        assert (await call.admin("GET", "faults")).json() == reply.json()
        path = "/secrets/" if kind == "items_move" else f"/secrets/{secret.id}"
        # What the caller sees is tested elsewhere.
        with contextlib.suppress(aiohttp.ClientError):
            await call.get(path, token)
        await until(lambda: sandbox.stats().faults == {kind: 1})
        if kind != "refused":
            assert (await call.admin("GET", "stats")).json()["faults"] == {kind: 1}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body", ["", "[]", '{"rules":[{"kind":"x"}]}', '{"rules":[{"kind":"reset","share":7}]}']
)
async def test_impossible_faults_are_refused_over_http(running: Any, body: str) -> None:
    """400 and a reason; the faults stay unchanged; setting them needs the admin token."""
    async with running(faults=Faults(rules=(faults.Html(share=0),))) as (sandbox, call):
        before = sandbox.settings
        reply = await call.admin("POST", "faults", data=body)
        assert (reply.status, sandbox.settings) == (400, before)
        assert reply.json()["message"]
        assert (await call.send("POST", "/_sandbox/faults", "x", data="{}")).status == 401


@pytest.mark.anyio
async def test_faults_are_settings_like_others(running: Any) -> None:
    """By option, in process and over HTTP; other settings do not start their sequence anew."""
    async with running(faults=Faults(rules=(faults.Error(at_most=1),))) as (sandbox, call):
        assert (await call.get("/secrets/")).status == 503
        sandbox.configure(raw_read=False)
        assert (await call.get("/secrets/")).status == 401
        sandbox.configure(faults=sandbox.settings.faults)
        assert (await call.get("/secrets/")).status == 503, "set anew, the sequence begins again"
        assert (await call.get("/secrets/")).status == 401
        await call.admin("POST", "faults", json=json.loads(msgspec.json.encode(sandbox.settings.faults)))
        assert (await call.get("/secrets/")).status == 503, "over HTTP too"
        sandbox.configure(faults=Faults())
        assert (await call.get("/secrets/")).status == 401
        assert sandbox.stats().faults == {"error": 3}
        sandbox.reset_stats()
        assert sandbox.stats().faults == {}


def test_without_faults_nothing_stands_in_a_requests_way() -> None:
    """The hot path pays for faults only where there are some."""
    assert Sandbox(SandboxOptions())._injector is None
