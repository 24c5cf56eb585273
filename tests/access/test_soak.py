"""A few seconds of the soak: every job's credential is valid upstream, and no refresh happens twice."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def soak(monkeypatch):
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "soak", module)
    spec.loader.exec_module(module)
    return module


async def test_a_short_soak_with_faults_and_revocations_hands_out_nothing_invalid(soak):
    figures = await soak.soak(seconds=4, jobs_per_second=1000, secrets=50, life=2.5, faults=0.02, seed=3)
    assert soak.verdict(figures), figures
    assert figures["refreshes"] >= 50
    assert figures["jobs"] > 100
