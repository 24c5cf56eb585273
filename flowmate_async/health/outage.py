"""Whether an OAuth client's provider is down: most of its renewals fail at the same time.

Many credentials behind one OAuth client do not get revoked in the same quarter of an hour; a provider that is
down, or an OAuth client whose own password has changed, looks exactly like that. Then no user can help,
whatever the provider's answers say. If most renewals of all clients together fail, FlowMate itself is down.
Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from flowmate_async.health.policy import HealthPolicy


class Renewals(msgspec.Struct, frozen=True, kw_only=True):
    """Renewals of one OAuth client's credentials.

    Attributes:
        succeeded: when they succeeded, in seconds since the Unix epoch; one for each credential.
        failed: when they failed; one for each credential that was not broken before.
    """

    succeeded: tuple[float, ...] = ()
    failed: tuple[float, ...] = ()


_EVERYBODY = ""
"""Stands for all OAuth clients together."""


class Outages:
    """When OAuth clients failed as a whole.

    Args:
        renewals: by OAuth client; the empty name is for secrets whose client is unknown.
        policy: how many failures it takes.
        ongoing: OAuth clients that were in an outage when it was decided last. Theirs go on until clearly
            fewer renewals fail, so that a share near the limit does not flicker.
    """

    def __init__(
        self, renewals: Mapping[str, Renewals], *, policy: HealthPolicy, ongoing: Iterable[str] = ()
    ) -> None:
        self._policy = policy
        self._ongoing = frozenset(ongoing)
        everybody = Renewals(
            succeeded=tuple(at for of in renewals.values() for at in of.succeeded),
            failed=tuple(at for of in renewals.values() for at in of.failed),
        )
        self._slots = {client: self._failing_slots(client, of) for client, of in renewals.items() if client}
        self._slots[_EVERYBODY] = self._failing_slots(_EVERYBODY, everybody)

    def covers(self, client: str | None, *, first: float, last: float) -> bool:
        """Return whether failures of a client's credential were part of an outage.

        Args:
            client: the OAuth client, or ``None`` if it is unknown.
            first: when the first failure was, in seconds since the Unix epoch.
            last: when the last one was.
        """
        failing = self._slots[_EVERYBODY] | self._slots.get(client or _EVERYBODY, frozenset())
        return not failing.isdisjoint((self._slot(first), self._slot(last)))

    def _failing_slots(self, client: str, renewals: Renewals) -> frozenset[int]:
        """Return the slots of time in which most renewals failed, each judged with both of its neighbours."""
        succeeded = Counter(map(self._slot, renewals.succeeded))
        failed = Counter(map(self._slot, renewals.failed))
        share = self._policy.outage_over_share if client in self._ongoing else self._policy.outage_share
        failing = set()
        for slot in failed:
            near = (slot - 1, slot, slot + 1)
            bad = sum(failed[one] for one in near)
            total = bad + sum(succeeded[one] for one in near)
            if bad >= self._policy.outage_credentials and bad >= share * total:
                failing.add(slot)
        return frozenset(failing)

    def _slot(self, at: float) -> int:
        return int(at // self._policy.outage_seconds)


def renewals_by_client(
    succeeded: Iterable[tuple[str | None, float]], failed: Iterable[tuple[str | None, float]]
) -> dict[str, Renewals]:
    """Return renewals by OAuth client.

    Args:
        succeeded: OAuth client, ``None`` if unknown, and time of each renewal that succeeded.
        failed: the same of each one that failed.
    """
    good: defaultdict[str, list[float]] = defaultdict(list)
    bad: defaultdict[str, list[float]] = defaultdict(list)
    for client, at in succeeded:
        good[client or _EVERYBODY].append(at)
    for client, at in failed:
        bad[client or _EVERYBODY].append(at)
    return {
        client: Renewals(succeeded=tuple(good.get(client, ())), failed=tuple(bad.get(client, ())))
        for client in {*good, *bad}
    }
