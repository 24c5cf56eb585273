"""No test of this folder may block the loop."""

import pytest


@pytest.fixture(autouse=True)
def _no_blocking(no_blocking):
    """The library may not block the loop."""
