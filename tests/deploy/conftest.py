"""A sandbox in a process of its own, for the commands of deploy/."""

from collections.abc import Iterator

import pytest

from tests.cli.conftest import Twin, twin_process


@pytest.fixture(scope="session")
def twin() -> Iterator[Twin]:
    """A small sandbox."""
    with twin_process("--users", "12", "--seed", "7") as running:
        yield running
