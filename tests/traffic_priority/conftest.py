"""Virtual time for every test of this folder."""

from typing import Any

import pytest


@pytest.fixture
def anyio_backend(virtual_time) -> Any:
    """Every test of this folder runs on virtual time, unless its module says otherwise."""
    return virtual_time
