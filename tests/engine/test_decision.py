"""One decision: it changes nothing, and asks the gates in the order that its docstring states."""

import asyncio
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from flowmate_async.contract.known_secrets import KnownSecrets, SecretFacts
from flowmate_async.contract.protocol import USERS, Request, get_secret
from flowmate_async.engine.breaker import Breaker, BreakerPolicy
from flowmate_async.engine.bulkheads import BulkheadPolicy, Bulkheads
from flowmate_async.engine.call import Call
from flowmate_async.engine.decision import SEND, Gates, Now, Refuse, Wait, next_step
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.quarantine import Quarantine
from flowmate_async.engine.refresh import Loan, Refresh
from flowmate_async.engine.refreshes import Refreshes, RefreshStep, held_by
from flowmate_async.engine.secret_turns import SecretTurns
from flowmate_async.errors import RefreshFailedError, UpstreamUnavailableError
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Limits

FRONT, BEHIND = Priority.INTERACTIVE, Priority.BACKGROUND
EPOCH = 1_800_000_000.0
LIMITS = Limits(timeout_seconds=30.0, max_body_bytes=1024)


class Clock:
    """A clock that is set."""

    now = 1000.0

    def monotonic(self):
        return self.now

    def wall(self):
        return EPOCH + self.now

    sleep = staticmethod(asyncio.sleep)


class Token:
    headers = Headers(())


class Identity:
    """Somebody who may not be asked: a decision takes the token that the call has."""


class World:
    """Gates, and a call before them; each ``close_…`` closes one gate."""

    def __init__(self, *, borrows=False, patience=120.0, refreshes=2):
        self.clock = Clock()
        self.known = KnownSecrets(clock=self.clock)
        quick = BreakerPolicy(failures=1, subjects=1)
        self.turns = SecretTurns()
        self.bulkheads = Bulkheads(
            BulkheadPolicy(refreshes=refreshes, breaker=quick),
            clock=self.clock,
            uniform=lambda low, _high: low,
        )
        self.gates = Gates(
            breaker=Breaker(
                quick, clock=self.clock, on_open=lambda _seconds: None, uniform=lambda low, _high: low
            ),
            quarantine=Quarantine(clock=self.clock),
            refreshes=Refreshes(self.turns, self.bulkheads, known=self.known, borrows=borrows),
            patience_seconds=patience,
        )

    def call(self, *, may_refresh=True, priority=FRONT, client="c", secret_id="s"):
        request = Request(endpoint=USERS, method="GET", path="/users/")
        if may_refresh:
            request = get_secret(secret_id, username="u", auth_client_id=client)
        call = Call(request, Identity(), LIMITS, priority)
        call.token = Token()  # as the engine has looked it up
        return call

    def step(self, call):
        return next_step(call, self.gates, self.clock.monotonic())

    def close_retry(self, call):
        call.troubled().not_before = self.clock.now + 3

    def close_token(self, call):
        call.token = None

    def close_turn(self, call):
        self.turns.take(call.request.secret_id, self.call())

    def close_breaker(self, _call=None):
        self.gates.breaker.note(subject="u", failed=True, epoch=self.gates.breaker.epoch)

    def close_quarantine(self, call):
        self.gates.quarantine.impose(call.request.secret_id, 10)

    def close_slots(self, _call=None):
        for client in ("c", "c", None):
            self.bulkheads.slots.enter(client)

    def close_provider(self, _call=None):
        self.bulkheads.note_failure("c", secret_id="s")


IN_ORDER = ["retry", "token", "turn", "breaker", "quarantine", "slots", "provider"]
EXPECTED = {
    FRONT: {
        "retry": Wait(1003.0),
        "token": Now.OBTAIN_TOKEN,
        "turn": RefreshStep.AWAIT_TURN,
        "breaker": UpstreamUnavailableError,
        "quarantine": RefreshFailedError,
        "slots": RefreshStep.AWAIT_SLOT,
        "provider": RefreshFailedError,
    },
    BEHIND: {
        "retry": Wait(1003.0),
        "token": Now.OBTAIN_TOKEN,
        "turn": RefreshStep.AWAIT_TURN,
        "breaker": Wait(1005.0, 115.0),
        "quarantine": Wait(1010.0),
        "slots": RefreshStep.AWAIT_SLOT,
        "provider": RefreshFailedError,
    },
}


@pytest.mark.parametrize("priority", [FRONT, BEHIND])
@pytest.mark.parametrize("first", range(len(IN_ORDER)))
def test_the_first_closed_gate_decides(first, priority):
    """With that one and all later ones closed."""
    world = World()
    call = world.call(priority=priority)
    for name in IN_ORDER[first:]:
        getattr(world, f"close_{name}")(call)
    step, expected = world.step(call), EXPECTED[priority][IN_ORDER[first]]
    if isinstance(step, Refuse):
        assert type(step.error) is expected
        assert step.by_breaker == (IN_ORDER[first] == "breaker")
        assert step.by_provider == (IN_ORDER[first] == "provider")
    else:
        assert step == expected


@pytest.mark.parametrize("may_refresh", [True, False])
def test_with_every_gate_open_it_is_sent(may_refresh):
    world = World()
    assert world.step(world.call(may_refresh=may_refresh)) is SEND


def test_gates_of_refreshes_do_not_concern_other_requests():
    world = World()
    secret, call = world.call(), world.call(may_refresh=False)
    for name in ("turn", "quarantine", "slots", "provider"):
        getattr(world, f"close_{name}")(secret)
    assert world.step(call) is SEND


def test_a_plain_read_needs_no_turn_and_no_slot():
    world = World()
    call = world.call()
    for name in ("turn", "slots", "provider"):
        getattr(world, f"close_{name}")(call)
    now = world.clock.wall()
    world.known.note("s", SecretFacts("c", now + 3600, now))
    assert world.step(call) is SEND


def test_a_wait_that_is_over_holds_no_call():
    world = World()
    call = world.call(priority=BEHIND)
    world.close_retry(call)
    world.close_quarantine(call)
    world.clock.now += 10
    assert world.step(call) is SEND


def test_a_background_call_waits_for_a_sick_upstream_as_long_as_it_may():
    world = World(patience=120.0)
    world.close_breaker()
    call = world.call(priority=BEHIND)
    call.troubled().patience_seconds = 4.0
    assert isinstance(world.step(call), Refuse)
    call.troubled().patience_seconds = 5.0
    assert world.step(call) == Wait(1005.0, 0.0)


def test_an_unknown_client_is_identified_once_when_slots_are_crowded():
    world = World()
    world.bulkheads.slots.enter("d")
    world.bulkheads.slots.enter("d")
    call = world.call(client=None)
    assert world.step(call) is RefreshStep.IDENTIFY
    held_by(call).identified = True
    assert world.step(call) is SEND, "one unknown refresh may always begin"


def test_a_slot_of_another_client_is_changed():
    world = World()
    call = world.call(client="c")
    held_by(call).has_slot, held_by(call).client = True, None
    assert world.step(call) is RefreshStep.CHANGE_SLOT


def test_a_slot_is_borrowed_last_and_once():
    world = World(borrows=True)
    call = world.call()
    assert world.step(call) is RefreshStep.BORROW
    held_by(call).loan = Loan()
    assert world.step(call) is SEND
    world.close_provider()
    assert isinstance(world.step(call), Refuse)


gates = st.sets(st.sampled_from(IN_ORDER))
worlds = st.fixed_dictionaries({"borrows": st.booleans(), "patience": st.sampled_from([0.0, 120.0])})
held = st.none() | st.builds(
    Refresh,
    in_turn=st.booleans(),
    has_slot=st.booleans(),
    client=st.sampled_from([None, "c", "d"]),
    identified=st.booleans(),
    loan=st.none() | st.builds(Loan),
)


def state_of(thing, seen):
    """Everything that an object holds, however deep, in plain values."""
    if isinstance(thing, str | bytes | int | float | bool | None):
        return thing
    if id(thing) in seen:
        return seen[id(thing)]
    seen[id(thing)] = f"#{len(seen)}"
    if isinstance(thing, dict):
        return [(state_of(key, seen), state_of(value, seen)) for key, value in thing.items()]
    if isinstance(thing, list | tuple | set | frozenset) or type(thing).__name__ == "deque":
        return [type(thing).__name__, *(state_of(each, seen) for each in thing)]
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    names += list(getattr(thing, "__struct_fields__", ())) + list(getattr(thing, "__dict__", ()))
    if callable(thing) and not names:
        return "callable"
    return [
        type(thing).__name__,
        *((name, state_of(getattr(thing, name, None), seen)) for name in dict.fromkeys(names)),
    ]


@given(
    worlds,
    gates,
    held,
    st.sampled_from([FRONT, BEHIND]),
    st.booleans(),
    st.sampled_from([None, "c", "d"]),
    st.sampled_from([0.0, 2.9, 4.9, 7.0, 30.0]),
)
@settings(max_examples=3 * settings().max_examples)
def test_a_decision_changes_nothing(options, closed, held, priority, may_refresh, client, later):
    """Neither the gates nor the call; so the same question is answered the same way twice."""
    world = World(**options)
    call = world.call(may_refresh=may_refresh, priority=priority, client=client)
    secret = world.call(client=client)
    for name in sorted(closed):
        getattr(world, f"close_{name}")(call if name in ("retry", "token") else secret)
    call.refresh = None if held is None else structs.replace(held)
    world.clock.now += later
    before = state_of([world.gates, call], {})
    step = world.step(call)
    assert state_of([world.gates, call], {}) == before
    again = world.step(call)
    assert state_of([world.gates, call], {}) == before
    assert type(again) is type(step)
    if isinstance(step, Refuse):
        assert str(again.error) == str(step.error)
    else:
        assert again == step


def test_the_comparison_of_states_sees_a_change():
    world = World()
    call = world.call()
    before = pickle.dumps(state_of([world.gates, call], {}))
    for change in (
        world.close_breaker,
        lambda: world.close_quarantine(call),
        lambda: world.close_turn(call),
        world.close_slots,
        world.close_provider,
        lambda: world.close_retry(call),
    ):
        change()
        after = pickle.dumps(state_of([world.gates, call], {}))
        assert after != before
        before = after
