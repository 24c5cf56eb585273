"""The pytest plugin: a running twin of FlowMate and clients of it, for your own tests.

It is installed with the library, so its fixtures are always available. It is a separate module, so that test
suites that do not use it do not import the library. The twin runs on its own event loop in a thread: like
FlowMate itself, it needs nothing of the test's loop, whatever plugin runs that.
"""

from collections.abc import AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flowmate_async import FlowMate, FlowMateSync
    from flowmate_async.sandbox import Sandbox, SandboxOptions

__all__ = [
    "flowmate",
    "flowmate_options",
    "flowmate_sandbox",
    "flowmate_sandbox_options",
    "flowmate_sync",
]


@pytest.fixture
def flowmate_sandbox_options() -> "SandboxOptions":
    """How the twin is made: 10 users, the same ones every time. Override this fixture for others."""
    from flowmate_async.sandbox import SandboxOptions  # noqa: PLC0415 - only where it is used

    return SandboxOptions(users=10, seed=7)


@pytest.fixture
def flowmate_sandbox(flowmate_sandbox_options: "SandboxOptions") -> "Iterator[Sandbox]":
    """A running twin, fresh for each test.

    ``url`` and ``admin_token`` are what a client needs, ``world`` is who and what there is, ``stats()`` what
    was asked of it, ``configure(…)`` changes latency, rate, permissions and faults while it runs.
    """
    from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - only where it is used

    from flowmate_async.sandbox import Sandbox  # noqa: PLC0415 - only where it is used

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Sandbox(flowmate_sandbox_options)) as sandbox,
    ):
        yield sandbox


@pytest.fixture
def flowmate_options(flowmate_sandbox: "Sandbox") -> dict[str, Any]:
    """The arguments of a client of the twin: ``FlowMate(**flowmate_options)``. Without a rate limit."""
    return {"admin_token": flowmate_sandbox.admin_token, "base_url": flowmate_sandbox.url, "rate": None}


@pytest.fixture
async def flowmate(flowmate_options: dict[str, Any]) -> "AsyncIterator[FlowMate]":
    """An entered client of the twin.

    For tests marked ``anyio``, and for both modes of pytest-asyncio.
    """
    from flowmate_async import FlowMate  # noqa: PLC0415 - only where it is used

    async with FlowMate(**flowmate_options) as client:
        yield client


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Let pytest-asyncio run :func:`flowmate` in its strict mode, unless the test is one of anyio's.

    ``pytest_asyncio.fixture`` would set the same attribute, for good, and need pytest-asyncio.
    """
    if fixturedef.argname == "flowmate" and fixturedef.func.__module__ == __name__:
        function: Any = fixturedef.func
        function._force_asyncio_fixture = "anyio_backend" not in request.fixturenames  # noqa: SLF001
    return (yield)


@pytest.fixture
def flowmate_sync(flowmate_options: dict[str, Any]) -> "Iterator[FlowMateSync]":
    """An entered blocking client of the twin, for tests without an event loop."""
    from flowmate_async import FlowMateSync  # noqa: PLC0415 - only where it is used

    with FlowMateSync(**flowmate_options) as client:
        yield client
