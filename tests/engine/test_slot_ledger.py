"""Slots by OAuth client: the limit of each holds, and neither known nor unknown refreshes are kept out."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.engine.slot_ledger import SlotLedger


def filled(limit, *clients):
    ledger = SlotLedger(limit)
    for client in clients:
        ledger.enter(client)
    return ledger


@pytest.mark.parametrize(
    ("inside", "client", "fits"),
    [
        (["a"] * 7, "a", True),
        (["a"] * 8, "a", False),
        (["a"] * 8, "b", True),
        (["a"] * 6 + [None], "a", True),
        (["a"] * 6 + [None] * 2, "a", False),
        ([None] * 7, None, True),
        ([None] * 8, None, False),
        (["a"] * 5 + [None] * 2, None, True),
        (["a"] * 6 + [None] * 2, None, False),
        (["a"] * 8, None, True),  # the one that may always begin
        (["a"] * 8 + [None], None, False),
    ],
)
def test_unknown_clients_count_for_each(inside, client, fits):
    assert filled(8, *inside).fits(client) is fits


def test_while_known_refreshes_wait_the_unknown_take_half():
    assert filled(8, None, None, None).fits(None, known_wait=True)
    assert not filled(8, None, None, None, None).fits(None, known_wait=True)
    assert filled(8, None, None, None, None).fits("a")
    assert filled(1).fits(None, known_wait=True)


def test_a_lower_limit_is_this_clients_only():
    ledger = filled(8, "a", "b")
    assert not ledger.fits("a", limit=1)
    assert ledger.fits("b")
    assert filled(8, None).fits("a", limit=1)


def test_it_is_crowded_when_an_unknown_refresh_could_exceed_a_limit():
    assert not filled(8, *["a"] * 5, None, None).crowded
    assert filled(8, *["a"] * 6, "b", None, None).crowded
    assert filled(8, *["a"] * 8).crowded


def test_what_left_takes_no_slot():
    ledger = filled(1, "a")
    ledger.leave("a")
    assert ledger.fits("a")
    assert ledger.inside == 0


@given(
    steps=st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.booleans(), st.booleans()), max_size=200),
    limit=st.integers(1, 9),
)
def test_the_limit_of_each_client_holds_whatever_the_unknown_are(steps, limit):
    """But for the one unknown refresh that may always begin."""
    ledger, inside = SlotLedger(limit), Counter()
    for client, enters, known_wait in steps:
        if enters and ledger.fits(client, known_wait=known_wait):
            ledger.enter(client)
            inside[client] += 1
        elif not enters and inside[client]:
            ledger.leave(client)
            inside[client] -= 1
        assert ledger.inside == inside.total()
        for known in ("a", "b"):
            assert inside[known] + max(0, inside[None] - 1) <= limit
