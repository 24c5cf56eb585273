"""First come, first served within a priority; interactive first; one in five is a background call."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.engine.priority import Priority
from flowmate_async.engine.ready_queue import BACKGROUND_SHARE, ReadyQueue
from flowmate_async.engine.states import DONE, PARKED, READY

FRONT, BEHIND = Priority.INTERACTIVE, Priority.BACKGROUND


class Queued:
    def __init__(self, name, priority=FRONT, state=READY):
        self.name, self.priority, self.state = name, priority, state


def filled(*arrivals):
    queue, calls = ReadyQueue(), [Queued(name, priority) for name, priority in arrivals]
    for call in calls:
        queue.push(call)
    return queue, calls


def drained(queue):
    return [call.name for call in iter(queue.pop, None)]


def test_first_come_first_served_within_each_priority():
    queue, _ = filled(
        *(((number, priority), priority) for number in range(50) for priority in (FRONT, BEHIND))
    )
    order = drained(queue)
    for wanted in (FRONT, BEHIND):
        assert [number for number, priority in order if priority is wanted] == list(range(50))


def test_interactive_calls_go_first():
    queue, _ = filled(("later", BEHIND), ("later", BEHIND), ("a", FRONT), ("b", FRONT))
    assert drained(queue) == ["a", "b", "later", "later"]


def test_one_call_in_five_is_a_background_call():
    queue, _ = filled(*[("b", BEHIND)] * 20, *[("i", FRONT)] * 100)
    shared = drained(queue)[: 20 * BACKGROUND_SHARE]
    assert shared.count("b") == 20
    for at in range(0, len(shared), BACKGROUND_SHARE):
        assert shared[at : at + BACKGROUND_SHARE].count("b") == 1


def test_a_call_pushed_to_the_front_goes_before_others_of_its_priority():
    queue, _ = filled(("b", BEHIND), ("a", FRONT))
    queue.push_front(Queued("first a", FRONT))
    queue.push_front(Queued("first b", BEHIND))
    assert drained(queue) == ["first a", "a", "first b", "b"]


def test_a_call_put_back_is_the_next_and_changes_no_share():
    arrivals = [*[("b", BEHIND)] * 20, *[("i", FRONT)] * 20]
    queue, _ = filled(*arrivals)
    order = []
    while (call := queue.pop()) is not None:
        for _ in range(3):
            queue.put_back(call)
            assert queue.pop() is call
        order.append(call.name)
    assert order == drained(filled(*arrivals)[0])


@pytest.mark.parametrize("state", [DONE, PARKED])
def test_a_call_in_another_state_is_skipped(state):
    queue, calls = filled(("a", FRONT), ("b", FRONT), ("c", BEHIND), ("d", BEHIND))
    calls[0].state = calls[2].state = state
    assert (len(queue), queue.size) == (2, 4), "skipped when its turn comes, not before"
    assert drained(queue) == ["b", "d"]
    assert (len(queue), queue.size, bool(queue)) == (0, 0, False)


def test_a_queue_of_skipped_calls_is_empty():
    queue, calls = filled(("a", FRONT), ("b", BEHIND))
    for call in calls:
        call.state = DONE
    assert not queue
    assert queue.pop() is None


def test_a_skipped_call_takes_no_share():
    queue, calls = filled(*[("i", FRONT)] * 8, *[("gone", BEHIND)] * 4, ("b", BEHIND))
    for call in calls[8:12]:
        call.state = DONE
    assert drained(queue)[:5] == ["i", "i", "i", "i", "b"]


def test_a_hurried_call_goes_with_the_interactive_ones_and_once():
    queue, calls = filled(("x", BEHIND), ("hurried", BEHIND), ("a", FRONT))
    calls[1].priority = FRONT
    queue.push(calls[1])
    assert len(queue) == 3
    assert drained(queue) == ["a", "hurried", "x"]


def test_a_queue_of_parked_calls_skips_the_ready_ones():
    queue = ReadyQueue(PARKED)
    queue.push(Queued("ready", state=READY))
    queue.push(Queued("parked", state=PARKED))
    assert drained(queue) == ["parked"]


steps = st.lists(
    st.sampled_from(["push front", "push behind", "pop", "drop", "hurry", "first"]), max_size=200
)


@given(steps, st.randoms(use_true_random=False))
def test_no_call_is_lost_or_returned_twice(steps, random):
    """Compared to two plain lists, with calls dropped or made interactive in between."""
    queue, waiting, model = ReadyQueue(), [], {FRONT: deque(), BEHIND: deque()}
    for number, step in enumerate(steps):
        if step in ("push front", "push behind", "first"):
            call = Queued(number, BEHIND if step == "push behind" else FRONT)
            if step == "first":
                queue.push_front(call)
                model[FRONT].appendleft(call)
            else:
                queue.push(call)
                model[call.priority].append(call)
            waiting.append(call)
        elif step == "pop":
            call = queue.pop()
            assert (call is None) == (not waiting)
            if call is not None:
                assert call is model[call.priority].popleft()
                waiting.remove(call)
                call.state = DONE
        elif waiting:
            call = random.choice(waiting)
            if step == "drop":
                call.state = DONE
                waiting.remove(call)
                model[call.priority].remove(call)
            elif call.priority is BEHIND:
                model[BEHIND].remove(call)
                model[FRONT].append(call)
                call.priority = FRONT
                queue.push(call)
        assert len(queue) == len(waiting)
        assert bool(queue) == bool(waiting)
        assert queue.size >= len(waiting)
    assert len(drained(queue)) == len(waiting)
    assert queue.size == 0
