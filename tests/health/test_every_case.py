"""Every type, observation and order is decided as docs/health.md says, and as a second model says."""

import itertools
from pathlib import Path
from typing import get_args

import pytest

from flowmate_async.health import HealthState
from flowmate_async.health.decide import initial
from flowmate_async.health.observations import FAILED_RENEWALS, Observation, Observed
from flowmate_async.values.secrets import Secret
from tests.health.observing import DAY, NOW, TYPES, Watched

PAGE = (Path(__file__).parents[2] / "docs" / "health.md").read_text()
WORKS = (HealthState.HEALTHY, HealthState.UNVERIFIED)


def nights(one, *what, first=0):
    """Observe something each night, and settle it."""
    for night, kind in enumerate(what, first):
        one.see(kind, at=NOW + night * DAY).settle(at=NOW + night * DAY)
    return one


BEFORE = {
    "works": lambda one: one,
    "broken (`refused`)": lambda one: nights(one, Observed.REFUSED),
    "broken (`refresh_fails`)": lambda one: nights(one, *[Observed.FAILED] * 3),
    "broken (`rejected`)": lambda one: nights(one, *[Observed.REJECTED] * 3),
    "broken (`empty`)": lambda one: nights(one, *[Observed.EMPTY] * 2),
    "unreadable": lambda one: nights(one, Observed.MASKED),
    "provider_outage": lambda one: one.see(Observed.REFUSED).settle(outage=True),
    "expiring": lambda one: one.see(Observation(Observed.READ, NOW, NOW + 6 * DAY)).settle(),
}


def shown(one):
    """The state as the page shows it: whether a working one is verified depends on its type."""
    state = one.state or initial(one.credential.type).state
    return "works" if state in WORKS else state.value


def table(secret_type):
    """The documented table: the state after one more observation in the next night."""
    yield ["before", *(f"`{kind.value}`" for kind in Observed)]
    yield ["---"] * (1 + len(Observed))
    for name, begin in BEFORE.items():
        cells = []
        for kind in Observed:
            one = begin(Watched(secret_type))
            cells.append(shown(nights(one, kind, first=4)))
        yield [name, *cells]


@pytest.mark.parametrize("secret_type", TYPES)
def test_the_documented_table_is_what_the_rules_do(secret_type):
    for row in table(secret_type):
        assert f"| {' | '.join(row)} |" in PAGE, row


def test_the_page_explains_every_observation():
    section = PAGE.split("### Every case\n")[1]
    for kind in Observed:
        assert f"- `{kind.value}`" in section or f", `{kind.value}`" in section.split("|\n\n")[1]


def test_every_known_type_is_tried():
    known = {one.type for one in get_args(Secret) if one.type != "UNKNOWN"}
    assert known < set(TYPES), "and one type that this library does not know"


def since_last(history, *kinds):
    """What was observed after the last of these."""
    ends = [place for place, kind in enumerate(history) if kind in kinds]
    return history[ends[-1] + 1 :] if ends else history


def expected(secret_type, history):
    """The state by a second, simpler model: one observation each night, no outage."""
    history = since_last(history, Observed.GONE)
    unread = since_last(history, Observed.READ, Observed.CHANGED)
    unchanged = since_last(history, Observed.CHANGED)
    rejections = since_last(unchanged, Observed.ACCEPTED).count(Observed.REJECTED)
    if (
        Observed.REFUSED in unread
        or sum(kind in FAILED_RENEWALS for kind in unread) >= 3
        or unread.count(Observed.EMPTY) >= 2
        or rejections >= 3
    ):
        return HealthState.BROKEN
    if Observed.MASKED in unread or Observed.FORBIDDEN in unread:
        return HealthState.UNREADABLE
    return HealthState.HEALTHY if Observed.ACCEPTED in unchanged else initial(secret_type).state


@pytest.mark.parametrize("length", [1, 2, 3, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.parametrize("secret_type", TYPES)
def test_every_order_of_observations_is_decided_alike(secret_type, length):
    for history in itertools.product(Observed, repeat=length):
        one = nights(Watched(secret_type), *history)
        state = one.state or initial(secret_type).state
        assert state is expected(secret_type, list(history)), [kind.value for kind in history]
        if Observed.GONE not in history:  # which is not a recovery: a new connection may break again
            assert all(before != after for before, after in itertools.pairwise(one.told))
