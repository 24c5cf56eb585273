"""The sandbox imports nothing of the client."""

import ast
import sys
from pathlib import Path

import pytest

import flowmate_async.sandbox as sandbox_package

ROOM = Path(sandbox_package.__file__).parent
ALLOWED = {"aiohttp", "msgspec", "anyio"}


@pytest.mark.parametrize("module", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_the_room_the_standard_library_and_three_packages(module: Path) -> None:
    """Client and sandbox cannot share a mistake if they share no code."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            own = name == "flowmate_async.sandbox" or name.startswith("flowmate_async.sandbox.")
            assert own or top in ALLOWED or top in sys.stdlib_module_names, name


def test_every_public_name_is_there() -> None:
    """`__all__` is the room's page."""
    for name in sandbox_package.__all__:
        assert getattr(sandbox_package, name) is not None
