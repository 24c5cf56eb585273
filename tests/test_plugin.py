"""The pytest plugin, used as its users do: tests of their own, run by pytest in a separate process."""

import pytest

ASYNC = """
import pytest
from flowmate_async import FlowMate, RateLimitedError, RetryPolicy
from flowmate_async.sandbox import Faults, SandboxOptions, faults

pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

async def test_a_client_of_a_running_twin(flowmate, flowmate_sandbox):
    usernames = [user.username async for user in flowmate.users() if user.is_active_tenant_user]
    assert len(usernames) == 10
    secrets = await flowmate.list_secrets(usernames[0])
    assert (await flowmate.credential(usernames[0], secrets[0].id)).id == secrets[0].id
    assert flowmate_sandbox.stats().impersonations == 1

async def test_another_test_has_another_twin(flowmate_sandbox):
    assert flowmate_sandbox.stats().impersonations == 0

async def test_its_own_client_and_faults(flowmate_options, flowmate_sandbox):
    flowmate_sandbox.configure(faults=Faults(rules=(faults.Throttle(),)))
    async with FlowMate(**flowmate_options, retry=RetryPolicy(attempts=1)) as fm:
        with pytest.raises(RateLimitedError):
            await fm.impersonate("somebody")

class TestMany:
    @pytest.fixture
    def flowmate_sandbox_options(self):
        return SandboxOptions(users=3, raw_read=False)

    async def test_a_twin_made_to_order(self, flowmate):
        users = [user async for user in flowmate.users() if user.is_active_tenant_user]
        assert len(users) == 3
"""

BLOCKING = """
def test_without_a_loop(flowmate_sync, flowmate_sandbox):
    usernames = [user.username for user in flowmate_sync.users() if user.is_active_tenant_user]
    secrets = flowmate_sync.list_secrets(usernames[0])
    held = {truth.secret_id for truth in flowmate_sandbox.world.truth() if truth.username == usernames[0]}
    assert {secret.id for secret in secrets} <= held
    assert secrets

def test_the_admin_token_does_not_show(flowmate_sandbox):
    assert flowmate_sandbox.admin_token not in repr(flowmate_sandbox)
"""

UNUSED = """
import sys

def test_nothing_of_the_library_is_imported():
    assert "flowmate_async" not in sys.modules
"""


OTHERS = (
    "asyncio",
    "cacheprovider",
    "hypothesispytest",
    "looptime_plugin",
    "looptime_chronometers",
    "looptime_timeproxies",
    "schemathesis",
)
"""Plugins of this project's own tests that its users need not have."""


@pytest.fixture
def run(pytester):
    """Run some tests with nothing but what is installed."""

    def runs(code, *flags):
        pytester.makepyfile(code)
        without = [flag for name in OTHERS for flag in ("-p", f"no:{name}")]
        return pytester.runpytest_subprocess("-W", "error", *without, *flags)

    return runs


def test_asynchronous_tests_have_a_twin_and_an_entered_client(run):
    run(ASYNC).assert_outcomes(passed=4)


def test_blocking_tests_have_a_blocking_client(run):
    run(BLOCKING).assert_outcomes(passed=2)


def test_it_costs_nothing_when_unused(run):
    run(UNUSED).assert_outcomes(passed=1)


def test_its_fixtures_are_documented(run):
    shown = run(UNUSED, "--fixtures").stdout.str()
    for name in (
        "flowmate_sandbox",
        "flowmate",
        "flowmate_sync",
        "flowmate_options",
        "flowmate_sandbox_options",
    ):
        assert f"{name} -- " in shown
    assert (
        "no docstring" not in shown.partition("from pytest_flowmate")[2].partition("fixtures defined from")[0]
    )


FUNCTION_LOOPS = ("-o", "asyncio_default_fixture_loop_scope=function")
"""What pytest-asyncio warns about if it is not set."""


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_both_modes_of_pytest_asyncio_have_an_entered_client(pytester, mode):
    pytest.importorskip("pytest_asyncio")
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.asyncio


        async def test_users(flowmate):
            assert [user async for user in flowmate.users()]


        async def test_again(flowmate):
            assert [user async for user in flowmate.users()]
        """
    )
    without = [flag for name in ("anyio", *OTHERS[1:]) for flag in ("-p", f"no:{name}")]
    flags = ("-W", "error", *without, "-o", f"asyncio_mode={mode}", *FUNCTION_LOOPS)
    pytester.runpytest_subprocess(*flags).assert_outcomes(passed=2)


def test_tests_of_anyio_are_left_to_it_beside_pytest_asyncio(pytester):
    pytest.importorskip("pytest_asyncio")
    pytester.makepyfile(ASYNC)
    without = [flag for name in OTHERS[1:] for flag in ("-p", f"no:{name}")]
    pytester.runpytest_subprocess("-W", "error", *without, *FUNCTION_LOOPS).assert_outcomes(passed=4)
