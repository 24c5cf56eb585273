"""Virtual time for every test of this folder."""

import asyncio
from typing import Any

import looptime
import pytest


@pytest.fixture
def anyio_backend() -> Any:
    """Every test of this folder runs on virtual time."""
    return "asyncio", {"loop_factory": looptime.new_event_loop}


@pytest.fixture(scope="session")
def virtually():
    """Run a coroutine function to its end in virtual time; for the examples of hypothesis."""

    def run(main):
        with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
            return runner.run(main())

    return run
