"""The tree of errors is as it is drawn, public, and each error says what its reader needs."""

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowmate_async
from flowmate_async import FlowMateError, MaskedSecretError, errors

LINE = re.compile(r"^ {4}(?P<branches>[│├└─ ]*)(?P<name>\w+Error)(?P<when> .*)?$", re.MULTILINE)


def drawn():
    """Name and parent of every error in the drawing of the module's docstring."""
    parents, path = {}, []
    for found in LINE.finditer(errors.__doc__):
        depth = len(found["branches"]) // 4
        path[depth:] = [found["name"]]
        parents[found["name"]] = path[depth - 1] if depth else "Exception"
    return parents


CLASSES = {
    name: found
    for name, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, FlowMateError)
}


def test_the_drawing_is_the_tree():
    assert drawn() == {name: found.__bases__[0].__name__ for name, found in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
class TestEachError:
    def test_it_is_public_and_says_when_it_is_raised(self, name):
        assert name in flowmate_async.__all__
        assert getattr(flowmate_async, name) is CLASSES[name]
        assert CLASSES[name].__doc__.startswith(("Raised", "Base"))

    def test_it_names_user_secret_endpoint_and_advice(self, name):
        error = CLASSES[name](
            "it went wrong", advice="Do this", endpoint="GET /secrets/{id}", username="alice", secret_id="s1"
        )
        assert str(error) == "it went wrong (user 'alice', secret 's1', GET /secrets/{id}). Do this"

    def test_its_clone_is_equal_and_has_a_traceback_of_its_own(self, name):
        original = CLASSES[name]("m", advice="a", username="u", secret_id="s", endpoint="e", status=500)
        with pytest.raises(CLASSES[name]) as raised:
            raise original
        twin = raised.value.clone()
        assert type(twin) is CLASSES[name]
        assert (str(twin), vars(twin)) == (str(original), vars(original))
        assert twin.__traceback__ is None
        assert original.__traceback__ is not None

    def test_its_kind_is_its_name_in_reports(self, name):
        kind = CLASSES[name]("m").kind
        assert re.fullmatch(r"[a-z_]+", kind)
        assert kind.replace("_", "") + ("" if name == "FlowMateError" else "error") in (
            name.lower(),
            "flowmate",
        )


def test_kinds_are_distinct():
    kinds = [found("m").kind for found in CLASSES.values()]
    assert len(set(kinds)) == len(kinds)
    assert MaskedSecretError("m").kind == "masked_secret"


def test_what_is_named_already_is_not_renamed():
    error = FlowMateError("m", username="alice").about(username="bob", secret_id="s")
    assert (error.username, error.secret_id) == ("alice", "s")


@given(st.text(max_size=300))
def test_an_odd_username_cannot_forge_a_second_line(username):
    said = str(FlowMateError("m", username=username))
    assert len(said.splitlines()) == 1
    assert len(said) < 200
