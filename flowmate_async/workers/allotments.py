"""Divides the concurrency of a sync among its workers by need, never exceeding the total. Pure."""

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

W = TypeVar("W", bound=Hashable)


def fair_shares(total: int, wanted: Mapping[W, int], *, least: int) -> dict[W, int]:
    """Divide a number among workers (max-min fairness): each gets what it wants, or an equal share.

    Args:
        total: the number to divide; at least one for each worker.
        wanted: how much each worker could use.
        least: minimum for each worker, so that it can begin at once.
    """
    shares, left = dict.fromkeys(wanted, 0), total
    waiting = sorted(wanted, key=lambda worker: wanted[worker])
    while waiting:
        worker = waiting.pop(0)
        shares[worker] = min(max(wanted[worker], least, 1), left // (len(waiting) + 1))
        left -= shares[worker]
    return shares


class _Allotment:
    __slots__ = ("granted", "told", "wanted")

    def __init__(self, granted: int) -> None:
        self.granted = granted
        self.told = granted
        self.wanted = granted


class Allotments(Generic[W]):
    """What each worker may have in flight.

    A worker that is told to use less counts with its old allotment until it confirms the new one. So all
    workers together never exceed the total.

    Args:
        total: maximum requests in flight of all workers together.
        workers: how many workers there will be.
    """

    def __init__(self, total: int, *, workers: int) -> None:
        self._total = max(total, workers)
        self._least = max(1, self._total // (4 * workers))
        self._share = self._total // workers
        self._allotments: dict[W, _Allotment] = {}

    def join(self, worker: W) -> int:
        """Return what a worker may have in flight at first; a replacement gets what the dead one had."""
        allotment = self._allotments.setdefault(worker, _Allotment(self._share))
        allotment.granted = allotment.told
        return allotment.told

    def leave(self, worker: W) -> None:
        """Reclaim the allotment of a worker that will not be replaced."""
        self._allotments.pop(worker, None)

    def note(self, worker: W, *, keeps_to: int, in_flight: int, waiting: int) -> dict[W, int]:
        """Update a worker's state. Return the workers' new allotments, where they change.

        Args:
            worker: which.
            keeps_to: the last allotment that it confirmed.
            in_flight: its requests in flight.
            waiting: its requests that wait for a slot.
        """
        allotment = self._allotments.get(worker)
        if allotment is None:
            return {}
        allotment.wanted = in_flight + waiting
        if keeps_to == allotment.told and in_flight <= allotment.told:
            allotment.granted = allotment.told
        return self._divided()

    def _divided(self) -> dict[W, int]:
        wanted = {worker: one.wanted for worker, one in self._allotments.items()}
        shares = fair_shares(self._total, wanted, least=self._least)
        changes: dict[W, int] = {}
        starved = any(shares[worker] > one.told for worker, one in self._allotments.items())
        for worker, one in self._allotments.items():
            if starved and shares[worker] < one.told:
                one.told = changes[worker] = shares[worker]
        free = self._total - sum(one.granted for one in self._allotments.values())
        for worker, one in self._allotments.items():
            more = min(shares[worker] - one.told, free)
            if more > 0 and one.granted == one.told:
                one.told = one.granted = changes[worker] = one.told + more
                free -= more
        return changes
