"""The concurrency of a sync goes to the workers that need it, and all of them together never exceed it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.workers.allotments import Allotments, fair_shares


@pytest.mark.parametrize(
    ("wanted", "shares"),
    [
        ([64, 0, 0], [54, 5, 5]),
        ([64, 64, 64], [21, 21, 22]),
        ([64, 10, 64], [27, 10, 27]),
        ([3, 4, 5], [5, 5, 5]),
    ],
)
def test_a_worker_gets_what_it_wants_or_as_much_as_the_others(wanted, shares):
    assert sorted(fair_shares(64, dict(enumerate(wanted)), least=5).values()) == sorted(shares)


@given(total=st.integers(1, 200), wanted=st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_shares_add_up_to_no_more_than_there_is(total, wanted):
    total = max(total, len(wanted))
    shares = fair_shares(total, dict(enumerate(wanted)), least=2)
    assert sum(shares.values()) <= total
    assert min(shares.values()) >= 1


class Worker:
    """A worker that hears late, and whose requests take a while."""

    def __init__(self, told):
        self.told = self.keeps_to = told
        self.tasks = self.in_flight = 0

    def work(self, rng):
        self.in_flight -= rng.randint(0, self.in_flight)
        self.in_flight = max(self.in_flight, min(self.tasks, self.keeps_to))


@pytest.mark.parametrize("seed", range(50))
def test_all_workers_together_never_exceed_it(seed):
    """Whatever they want, however late they hear, and when some die or end."""
    rng = random.Random(seed)
    total, count = rng.randint(3, 64), rng.randint(1, 3)
    allotments = Allotments(total, workers=count)
    workers = {number: Worker(allotments.join(number)) for number in range(count)}
    for _ in range(300):
        name = rng.choice(list(workers))
        worker = workers[name]
        match rng.choice(["hear", "report", "want", "work", "work", "die", "end"]):
            case "hear":
                worker.keeps_to = worker.told
            case "report":
                waiting = max(0, worker.tasks - worker.in_flight)
                changes = allotments.note(
                    name, keeps_to=worker.keeps_to, in_flight=worker.in_flight, waiting=waiting
                )
                for other, told in changes.items():
                    workers[other].told = told
            case "want":
                worker.tasks = rng.choice([0, 1, 10, 100])
            case "work":
                worker.work(rng)
            case "die" if rng.random() < 0.1:
                workers[name] = Worker(allotments.join(name))
            case "end" if len(workers) > 1 and rng.random() < 0.05:
                allotments.leave(name)
                del workers[name]
        assert sum(worker.in_flight for worker in workers.values()) <= total
        assert sum(max(worker.keeps_to, worker.in_flight) for worker in workers.values()) <= total


def test_a_busy_worker_gets_what_the_idle_ones_do_not_use():
    allotments = Allotments(64, workers=3)
    assert [allotments.join(name) for name in "abc"] == [21, 21, 21]
    told = {}
    for _ in range(3):  # the idle ones are told, then they say that they keep to it
        for name, in_flight, waiting in (("a", 21, 43), ("b", 0, 0), ("c", 1, 0)):
            keeps_to = told.get(name, 21)
            told |= allotments.note(name, keeps_to=keeps_to, in_flight=in_flight, waiting=waiting)
    assert told == {"a": 54, "b": 5, "c": 5}


def test_without_need_nothing_is_moved():
    allotments = Allotments(64, workers=2)
    for name in "ab":
        allotments.join(name)
    assert allotments.note("a", keeps_to=32, in_flight=3, waiting=0) == {}
    assert allotments.note("nobody", keeps_to=1, in_flight=1, waiting=0) == {}
