"""Every public name says what its parameters are, in which unit, what it raises, where a rule comes from."""

import ast
import enum
import inspect
import itertools
import re
import textwrap
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

import flowmate_async
from flowmate_async import FlowMate, FlowMateSync

PACKAGE = Path(flowmate_async.__file__).parent
OBSERVED = (PACKAGE.parent / "docs" / "contract" / "OBSERVED.md").read_text(encoding="utf-8")
NAMES = [
    " ".join(line.lstrip("# ").partition(":")[0].split()[:2])
    for line in OBSERVED.splitlines()
    if line.startswith("## ")
]
CITED = re.compile(r"OBSERVED\.md\s+§\s+([^)\n\"]*(?:\n[^)\n\"]*)?)")
UNITS = re.compile(r"second|hour|requests/s|bytes|share|0 to 1|epoch", re.IGNORECASE)
ELSEWHERE = re.compile(r"See :meth:`~?(?:flowmate_async\.)?(\w+)\.(\w+)`")
TAKES_FLOWMATES = {FlowMateSync}
"""Classes whose docstring refers to another's for their arguments."""

MODULES = (
    "",
    ".stores",
    ".events",
    ".engine.coordination",
    ".distributed.coordination",
    ".integrations.aiohttp",
    ".integrations.httpx",
    ".integrations.prometheus",
    ".integrations.opentelemetry",
    ".sandbox",
    ".sandbox.faults",
)
"""The modules in docs/reference: the package, and its public submodules."""


def public(module):
    """What a module exports; where it has no such list, what it makes itself."""
    own = [name for name, it in vars(module).items() if getattr(it, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return [getattr(module, name) for name in names]


PUBLIC = list(
    {id(it): it for name in MODULES for it in public(import_module(f"flowmate_async{name}"))}.values()
)
CLASSES = [it for it in PUBLIC if inspect.isclass(it) and not issubclass(it, enum.Enum)]
STRUCTS = [found for found in CLASSES if issubclass(found, msgspec.Struct)]


def written(found):
    """All that is written of a struct's fields: its docstrings, and those below single fields."""
    texts = []
    for base in found.__mro__:
        if base.__module__.startswith("flowmate_async"):
            texts.append(inspect.cleandoc(base.__doc__ or ""))
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
            texts += [
                f"{field.target.id}: {text.value.value}"
                for field, text in itertools.pairwise(body)
                if isinstance(field, ast.AnnAssign) and _is_text(text)
            ]
    return "\n".join(texts)


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def methods(found):
    for name, member in vars(found).items():
        function = getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


CALLABLES = [
    (f"{found.__name__}.{name}", function) for found in CLASSES for name, function in methods(found)
] + [(found.__name__, found) for found in PUBLIC if inspect.isfunction(found)]


def documentation(function):
    """A docstring, and those of the method and the class that it refers to."""
    text = inspect.getdoc(function) or ""
    found = ELSEWHERE.search(text)
    if found is not None:
        other = getattr(flowmate_async, found[1])
        text += inspect.getdoc(getattr(other, found[2])) or ""
    if "the arguments of :class:`FlowMate`" in text:
        text += inspect.getdoc(FlowMate)
    return text


def paragraph(text, name):
    """What a docstring says of one parameter or field."""
    found = re.search(rf"^ *{re.escape(name)}: .*(?:\n {{5,}}.*)*", text, flags=re.MULTILINE)
    return found[0] if found else text if re.search(rf"\b{re.escape(name)}\b", text) else ""


def described(text, name):
    return bool(re.search(rf"\b{re.escape(name)}\b", text))


@pytest.mark.parametrize(("name", "function"), CALLABLES, ids=[name for name, _ in CALLABLES])
class TestCallables:
    def test_every_parameter_is_described(self, name, function):
        parameters = [one for one in inspect.signature(function).parameters if one not in ("self", "cls")]
        text = documentation(function)
        assert [one for one in parameters if not described(text, one)] == []

    def test_every_number_has_its_unit(self, name, function):
        text = documentation(function)
        for parameter in inspect.signature(function).parameters.values():
            if "float" in str(parameter.annotation):
                said = paragraph(text, parameter.name)
                assert UNITS.search(parameter.name + said), parameter.name


@pytest.mark.parametrize("found", STRUCTS, ids=lambda found: found.__name__)
class TestStructs:
    def test_every_field_is_described(self, found):
        text = written(found)
        fields = [field.name for field in msgspec.structs.fields(found)]
        assert [name for name in fields if not described(text, name)] == []

    def test_every_number_has_its_unit(self, found):
        text = written(found)
        for field in msgspec.structs.fields(found):
            if field.type in (float, float | None):
                assert UNITS.search(field.name + paragraph(text, field.name)), field.name


@pytest.mark.parametrize(
    "found",
    [found for found in CLASSES if found not in STRUCTS and not issubclass(found, Exception)],
    ids=lambda found: found.__name__,
)
def test_every_argument_of_a_class_is_described(found):
    if getattr(found, "_is_protocol", False) or found in TAKES_FLOWMATES:
        return
    parameters = [name for name in inspect.signature(found).parameters if name not in ("args", "kwargs")]
    assert [name for name in parameters if not described(found.__doc__ or "", name)] == []


NEVER_RAISE = {
    "base_url",
    "executor",  # only makes something
    "keep_fresh",  # failures are left to the caller who asks for the credential
    "lease",  # entering it raises what credential() does, and says so
    "listening",
    "stats",
    "sweep",  # a user's failure is an outcome
}


@pytest.mark.parametrize("name", [name for name, _ in methods(FlowMate) if name not in NEVER_RAISE])
def test_what_can_fail_says_how(name):
    assert "Raises:" in (inspect.getdoc(getattr(FlowMate, name)) or "")


def cited():
    for path in sorted(PACKAGE.rglob("*.py")):
        for section in filter(str.strip, CITED.findall(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(PACKAGE)}: {' '.join(section.split())}", " ".join(section.split())


@pytest.mark.parametrize("section", [pytest.param(section, id=where) for where, section in cited()])
def test_every_section_of_the_contract_that_is_cited_exists(section):
    """By the first words of its heading, which is what a reader searches for."""
    assert section.startswith(tuple(NAMES)), f"§ {section} is none of {NAMES}"
