"""Opens when many users meet a failing upstream at once, and for nothing less; lets a few probes through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.engine.breaker import Breaker, BreakerPolicy, BreakerState

POLICY = BreakerPolicy(
    window_seconds=10, failures=20, subjects=5, share=0.5, open_seconds=5, max_open_seconds=60, probes=3
)


class Stopped:
    """A clock that stands where it is put."""

    now = 100.0

    def monotonic(self):
        return self.now


class Bench:
    """A breaker with a clock to move and no jitter."""

    def __init__(self, policy=POLICY, uniform=lambda low, _high: low):
        self.clock = Stopped()
        self.opened = []
        self.breaker = Breaker(policy, clock=self.clock, on_open=self.opened.append, uniform=uniform)

    def note(self, subject, *, failed=True, count=1):
        for _ in range(count):
            self.breaker.note(subject=subject, failed=failed, epoch=self.breaker.epoch)

    def break_it(self):
        for user in range(POLICY.failures):
            self.note(user)
        assert self.breaker.state is BreakerState.OPEN

    def half_open(self):
        self.break_it()
        self.clock.now += POLICY.open_seconds
        assert self.breaker.state is BreakerState.HALF_OPEN


@pytest.fixture
def bench():
    return Bench()


def test_many_failures_across_many_users_open_it(bench):
    for user in range(POLICY.failures - 1):
        bench.note(user)
        assert bench.breaker.refused_for() is None
    bench.note("one more")
    assert bench.breaker.refused_for() == 5
    assert bench.opened == [5]


@given(st.integers(1, POLICY.subjects - 1), st.integers(1, 100))
def test_the_trouble_of_a_few_users_never_opens_it(users, times):
    bench = Bench()
    for user in range(users):
        bench.note(user, count=times)
    assert bench.breaker.state is BreakerState.CLOSED


def test_a_minority_of_failures_never_opens_it(bench):
    for user in range(500):
        bench.note(user, failed=False, count=2)
        bench.note(user)
    assert bench.breaker.state is BreakerState.CLOSED


def test_failures_that_are_long_past_do_not_count(bench):
    for user in range(200):
        bench.note(user)
        bench.clock.now += 0.6
    assert bench.breaker.state is BreakerState.CLOSED


def test_successes_that_are_long_past_do_not_hide_failures(bench):
    bench.note("ali", failed=False, count=1000)
    bench.clock.now += 11
    bench.break_it()


def test_while_it_is_open_nobody_passes(bench):
    bench.break_it()
    bench.clock.now += 4.5
    assert all(bench.breaker.refused_for() == 0.5 for _ in range(10))
    assert bench.breaker.statistics().refused == 10


def test_half_open_lets_a_few_probes_through(bench):
    bench.half_open()
    assert [bench.breaker.refused_for() for _ in range(5)] == [None, None, None, 0.5, 0.5]


def test_looking_whether_it_is_closed_takes_no_probes_place(bench):
    bench.half_open()
    assert all(bench.breaker.closed_for() is None for _ in range(10))
    assert bench.breaker.refused_for() is None


def test_a_probe_that_succeeds_closes_it_and_forgets_how_long_it_was_open(bench):
    bench.half_open()
    bench.breaker.refused_for()
    bench.note("ali", failed=False)
    assert bench.breaker.state is BreakerState.CLOSED
    assert bench.breaker.refused_for() is None
    bench.break_it()
    assert bench.opened == [5, 5]


def test_each_probe_that_fails_opens_it_for_twice_as_long_up_to_a_limit(bench):
    bench.half_open()
    for _ in range(6):
        assert bench.breaker.refused_for() is None
        bench.note("ali")
        assert bench.breaker.state is BreakerState.OPEN
        bench.clock.now += bench.opened[-1]
    assert bench.opened == [5, 10, 20, 40, 60, 60, 60]


def test_a_probe_that_says_nothing_makes_room_for_another(bench):
    bench.half_open()
    for _ in range(20):
        assert bench.breaker.refused_for() is None
        bench.breaker.note(subject="s", failed=None, epoch=bench.breaker.epoch)
    assert bench.breaker.state is BreakerState.HALF_OPEN


def test_answers_to_what_was_sent_before_it_opened_say_nothing_new(bench):
    before = bench.breaker.epoch
    bench.half_open()
    for _ in range(3):
        bench.breaker.refused_for()
    bench.breaker.note(subject="late", failed=False, epoch=before)
    bench.breaker.note(subject="late", failed=True, epoch=before)
    bench.breaker.note(subject="s", failed=None, epoch=before)
    assert bench.breaker.state is BreakerState.HALF_OPEN
    assert bench.breaker.refused_for() is not None


def test_how_long_it_stays_open_is_spread():
    bench = Bench(uniform=lambda _low, high: high)
    bench.break_it()
    assert bench.opened == [5 * 1.25]


events = st.lists(
    st.tuples(
        st.sampled_from(["ask", "good", "bad", "nothing", "late"]),
        st.integers(0, 9),
        st.sampled_from([0.0, 0.25, 1.0, 5.0]),
    ),
    max_size=200,
)


@given(events)
def test_whatever_happens_probes_stay_few_and_it_is_never_stuck(events):
    """A model of its callers: each admitted caller reports back once, with the epoch at admission."""
    bench = Bench(BreakerPolicy(failures=3, subjects=2, open_seconds=5))
    breaker, inside = bench.breaker, []
    for what, user, seconds in events:
        bench.clock.now += seconds
        if what == "ask":
            if breaker.refused_for() is None:
                inside.append(breaker.epoch)
        elif inside:
            epoch = inside.pop(0 if what == "late" else -1)
            if what == "nothing":
                breaker.note(subject="s", failed=None, epoch=epoch)
            else:
                breaker.note(subject=user, failed=what != "good", epoch=epoch)
        if breaker.state is BreakerState.HALF_OPEN:
            assert sum(epoch == breaker.epoch for epoch in inside) <= 3 + 3 * (breaker.epoch == 0)
    for epoch in inside:
        breaker.note(subject="s", failed=None, epoch=epoch)
    bench.clock.now += 100
    assert breaker.refused_for() is None
