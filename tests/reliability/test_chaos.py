"""Chaos runs in separate processes: every promise holds in each, whatever goes wrong.

30 runs every day, 200 in the long version, 2,000 with ``make chaos``. A failure shows the command that
repeats a run.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from flowmate_async.sandbox.faults import KINDS

from .chaos.plan import plan_for
from .chaos.promises import PROMISES
from .chaos.report import PROXY_FAULTS, Report

FEW, RUNS = 30, 200
FIRST = int(os.environ.get("FLOWMATE_CHAOS_FIRST", "0"))
PROCESSES = 3
"""A run mostly waits, so that even one core carries several."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", params=[FEW, pytest.param(RUNS, marks=pytest.mark.long)])
def runs(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def ended(runs: int) -> tuple[Report, str]:
    """The report of all runs, and what was complained of."""
    command = [sys.executable, "-m", "tests.reliability.chaos", "--json"]
    command += ["--first", str(FIRST), "--runs", str(runs), "--jobs", str(PROCESSES)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=590, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return msgspec.json.decode(done.stdout, type=Report), done.stderr


@pytest.mark.parametrize("promise", [promise.__name__ for promise in PROMISES])
def test_the_promise_holds_in_every_run(ended: tuple[Report, str], promise: str) -> None:
    report, complaint = ended
    seeds = [seed for seed, problems in report.broken.items() if promise in problems]
    assert not seeds, complaint


def test_every_run_was_made_and_every_promise_checked(ended: tuple[Report, str], runs: int) -> None:
    report, _ = ended
    assert (report.runs, report.promises) == (runs, runs * len(PROMISES))


def test_every_kind_of_fault_was_injected(ended: tuple[Report, str], runs: int) -> None:
    report, _ = ended
    least = 5 if runs == RUNS else 1
    assert {kind for kind in (*KINDS, *PROXY_FAULTS) if report.faults.get(kind, 0) < least} == set()
    assert sum(report.faults.values()) > 5 * runs


def test_the_runs_get_through_and_fail_in_places(ended: tuple[Report, str], runs: int) -> None:
    """Neither runs in which nothing goes wrong prove anything, nor those in which nothing works."""
    report, _ = ended
    assert (0.4 if runs == RUNS else 0.3) < report.synced / report.users < 0.95
    assert report.handed_out > 5 * runs
    assert {"cancelled", "stopped"} <= report.interruptions.keys()
    if runs == RUNS:
        assert "store" in report.interruptions
    assert len(report.errors) >= (8 if runs == RUNS else 6)


def test_a_seed_is_the_same_run_each_time() -> None:
    assert [plan_for(seed) for seed in range(20)] == [plan_for(seed) for seed in range(20)]
    assert len({msgspec.json.encode(plan_for(seed)) for seed in range(200)}) == 200


def test_a_third_of_the_runs_have_every_kind_of_fault_at_once() -> None:
    plans = [plan_for(seed) for seed in range(0, RUNS, 3)]
    assert all({rule.kind for rule in plan.faults.rules} == set(KINDS) for plan in plans)
