"""What the documentation names can be imported, and is in an ``__all__``."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module, util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PUBLIC_MODULES = [
    "flowmate_async",
    "flowmate_async.distributed.coordination",
    "flowmate_async.errors",
    "flowmate_async.events",
    "flowmate_async.health",
    "flowmate_async.integrations.aiohttp",
    "flowmate_async.integrations.httpx",
    "flowmate_async.integrations.metrics_server",
    "flowmate_async.integrations.opentelemetry",
    "flowmate_async.integrations.prometheus",
    "flowmate_async.integrations.verification",
    "flowmate_async.integrations.webhook",
    "flowmate_async.sandbox",
    "flowmate_async.sandbox.faults",
    "flowmate_async.stores",
    "flowmate_async.stores.base",
    "flowmate_async.stores.health",
    "flowmate_async.stores.keys",
    *(
        f"flowmate_async.testing.{path.stem}"
        for path in sorted((ROOT / "flowmate_async" / "testing").glob("*.py"))
        if path.stem != "__init__"
    ),
    "pytest_flowmate",
]
"""The modules that users import from: their ``__all__`` is the public API."""

SHOWN = re.compile(
    r"^::: ((?:flowmate_async|pytest_flowmate)[\w.]*)(?:\n    options:\n      (members|filters): \[(.*)\])?",
    re.MULTILINE,
)
IMPORTED = re.compile(r"^\s*(?:from (flowmate_async[\w.]*) import (\([^)]*\)|[^\n#]+))", re.MULTILINE)
NAMED = re.compile(r"\bflowmate_async(?:\.\w+)+")


def is_module(name: str) -> bool:
    try:
        return util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def exported(module: str) -> list[str]:
    """The names that a public module exports."""
    assert module in PUBLIC_MODULES, f"{module} is documented, but is not public"
    return import_module(module).__all__


def split(dotted: str) -> tuple[str, str]:
    """A dotted name as its module and what follows, which is empty for a module."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        if is_module(module := ".".join(parts[:size])):
            return module, ".".join(parts[size:])
    raise AssertionError(f"{dotted} does not exist")


def named() -> Iterator[tuple[str, str]]:
    """Every page and dotted name in it, those of imports included."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        where = page.relative_to(ROOT).as_posix()
        for module, names in IMPORTED.findall(text):
            for name in names.strip("()").split(","):
                if name.strip():
                    yield where, f"{module}.{name.split(' as ')[0].strip()}"
        for dotted in NAMED.findall(text):
            yield where, dotted


@pytest.mark.parametrize(("page", "dotted"), sorted(set(named())))
def test_a_documented_name_is_exported(page, dotted):
    module, name = split(dotted)
    first = name.partition(".")[0]
    if page == "docs/reference/cli.md" or not first:
        return  # the page of the command line, which is made from its parser; or a module's name alone
    assert first in exported(module)


def names_in(module: str) -> Iterator[str]:
    """The names that a module's own source makes, imports left out."""
    for node in ast.parse(inspect.getsource(import_module(module))).body:
        match node:
            case (
                ast.ClassDef(name)
                | ast.FunctionDef(name)
                | ast.AsyncFunctionDef(name)
                | ast.Assign([ast.Name(name)])
                | ast.AnnAssign(ast.Name(name))
            ):
                yield name


@pytest.mark.parametrize(
    ("dotted", "option", "value"),
    sorted({found for page in PAGES for found in SHOWN.findall(page.read_text())}),
)
def test_the_reference_shows_what_is_exported(dotted, option, value):
    """A module's entry shows the members that it lists, or all that its filters let pass."""
    module, name = split(dotted)
    values = re.findall(r"[^\s,\"]+", value)
    if name or option == "members":
        assert {*values, *name.split(".")[:1]} - {""} <= set(exported(module))
        return
    hidden = [one.removeprefix("!") for one in values or ["!^_"]]  # as in mkdocs.yml
    shown = {one for one in names_in(module) if not any(re.search(pattern, one) for pattern in hidden)}
    assert shown == set(exported(module))


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_a_public_module_exports_what_is_there_and_described(name):
    module = import_module(name)
    for exports in module.__all__:
        found = getattr(module, exports)
        if inspect.isclass(found) or inspect.isroutine(found):
            assert inspect.getdoc(found), exports
