"""A queue of calls with two priorities: interactive before background, without starvation."""

from collections import deque
from typing import Generic, Protocol, TypeVar

from flowmate_async.engine.priority import Priority
from flowmate_async.engine.states import READY

_INTERACTIVE, _BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND
BACKGROUND_SHARE = 5
"""One of this many calls is a background call, however many interactive calls wait."""


class Queued(Protocol):
    """What can wait in the queue: mostly calls."""

    state: int
    priority: Priority


Q = TypeVar("Q", bound=Queued)


class ReadyQueue(Generic[Q]):
    """Calls in order of arrival within each priority.

    If a call is dropped or changes its priority, its old entry stays in the queue and is skipped when its
    turn comes. So both operations cost nothing here.

    Args:
        state: the state of waiting calls; calls in any other state are skipped.

    Attributes:
        size: number of entries, including those that will be skipped.
    """

    __slots__ = ("_queues", "_state", "_turns", "size")

    def __init__(self, state: int = READY) -> None:
        self._state = state
        self._queues: tuple[deque[Q], deque[Q]] = (deque(), deque())
        self._turns = 0
        self.size: int = 0

    def __bool__(self) -> bool:
        """Return whether any call waits. Stale entries at the front are dropped."""
        for at, queue in enumerate(self._queues):
            while queue and not self._waits(queue[0], at):
                queue.popleft()
                self.size -= 1
        return bool(self.size)

    def __len__(self) -> int:
        return sum(self._waits(call, at) for at, queue in enumerate(self._queues) for call in queue)

    @property
    def has_interactive(self) -> bool:
        """Whether an interactive call waits."""
        return any(self._waits(call, Priority.INTERACTIVE) for call in self._queues[Priority.INTERACTIVE])

    def push(self, call: Q) -> None:
        """Append a call to the queue of its priority."""
        self._queues[call.priority].append(call)
        self.size += 1

    def push_front(self, call: Q) -> None:
        """Insert a call before all others of its priority."""
        self._queues[call.priority].appendleft(call)
        self.size += 1

    def put_back(self, call: Q) -> None:
        """Undo a :meth:`pop`."""
        self._turns -= 1
        self.push_front(call)

    def pop(self) -> Q | None:
        """Take the next call; ``None`` if none waits."""
        interactive, background = self._queues
        while True:
            if not interactive or (background and (self._turns + 1) % BACKGROUND_SHARE == 0):
                queue, priority = background, _BACKGROUND
            else:
                queue, priority = interactive, _INTERACTIVE
            if not queue:
                return None
            call = queue.popleft()
            self.size -= 1
            if call.state == self._state and call.priority is priority:
                self._turns += 1
                return call

    def _waits(self, call: Q, at: int) -> bool:
        return call.state == self._state and call.priority == at
