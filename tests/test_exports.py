"""``flowmate_async.__all__`` is the public face: importable, documented, complete."""

import ast
import inspect
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

import flowmate_async

SOURCE = ast.parse(Path(flowmate_async.__file__).read_text())


def test_every_reexported_name_is_listed_and_every_listed_name_is_there():
    imported = {
        alias.asname
        for node in SOURCE.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert set(flowmate_async.__all__) == imported
    assert len(set(flowmate_async.__all__)) == len(flowmate_async.__all__)


def attribute_docs():
    """The docstrings below assignments, in every module of the package."""
    for path in Path(flowmate_async.__file__).parent.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        for node, after in pairwise(body):
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and isinstance(after.value, ast.Constant):
                    yield target.id


REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
SHOWN = {
    line.removeprefix("::: ")
    for page in REFERENCE.glob("*.md")
    for line in page.read_text().splitlines()
    if line.startswith("::: ")
}
DOCUMENTED_VALUES = set(attribute_docs())


@pytest.mark.parametrize("name", flowmate_async.__all__)
def test_every_public_name_is_documented(name):
    found = getattr(flowmate_async, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert inspect.getdoc(found)
        inherited = {inspect.getdoc(base) for base in getattr(found, "__mro__", ())[1:]}
        assert inspect.getdoc(found) not in inherited, "it needs a docstring of its own"
    else:
        assert name in DOCUMENTED_VALUES or name == "Outcome"


@pytest.mark.parametrize("name", [name for name in flowmate_async.__all__ if not name.endswith("Error")])
def test_every_public_method_is_documented(name):
    found = getattr(flowmate_async, name)
    if not inspect.isclass(found):
        return
    for method, member in vars(found).items():
        if method.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        assert inspect.getdoc(getattr(found, method)), f"{name}.{method}"


def test_public_structs_are_frozen():
    for name in flowmate_async.__all__:
        found = getattr(flowmate_async, name)
        if inspect.isclass(found) and issubclass(found, msgspec.Struct):
            assert found.__struct_config__.frozen, name


@pytest.mark.parametrize("name", flowmate_async.__all__)
def test_every_public_name_has_its_place_in_the_reference(name):
    """A page of docs/reference shows it: ``::: flowmate_async.Name``."""
    assert f"flowmate_async.{name}" in SHOWN or (name.endswith("Error") and "flowmate_async.errors" in SHOWN)
