"""Whether an OAuth client's provider is down: most of its renewals fail at the same time.

Many credentials behind one OAuth client do not get revoked in the same quarter of an hour; a provider that is
down, or an OAuth client whose own password has changed, looks exactly like that. Then no user can help,
whatever the provider's answers say. If most renewals of all clients together fail, FlowMate itself is down.
Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from flowmate_async.health.policy import HealthPolicy

_EVERYBODY = ""
"""Stands for all OAuth clients together, and for secrets whose client is unknown."""


class Renewals:
    """Renewals of credentials, counted by OAuth client and by slots of time.

    Memory depends on the number of clients and slots, not of credentials.

    Args:
        policy: how many failures it takes.
        ongoing: OAuth clients that were in an outage when it was decided last. Theirs go on until clearly
            fewer renewals fail, so that a share near the limit does not flicker.
    """

    def __init__(self, policy: HealthPolicy, *, ongoing: Iterable[str] = ()) -> None:
        self._policy = policy
        self._ongoing = frozenset(ongoing)
        self._succeeded: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._failed: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def succeeded(self, client: str | None, *, at: float, times: int = 1) -> None:
        """Count renewals that succeeded.

        Args:
            client: the OAuth client; ``None`` if it is unknown.
            at: when, in seconds since the Unix epoch.
            times: how many.
        """
        for key in {client or _EVERYBODY, _EVERYBODY}:
            self._succeeded[key][self._slot(at)] += times

    def failed(self, client: str | None, *, at: float) -> None:
        """Count one credential whose renewal failed and that was not broken before; see above."""
        for key in {client or _EVERYBODY, _EVERYBODY}:
            self._failed[key][self._slot(at)] += 1

    def are_outage(self, client: str | None, *, at: float) -> bool:
        """Return whether most renewals of a client failed around this time.

        Args:
            client: the OAuth client; ``None`` if it is unknown.
            at: when, in seconds since the Unix epoch.
        """
        slot = self._slot(at)
        return any(self._fails_in(key, slot) for key in {client or _EVERYBODY, _EVERYBODY})

    def _fails_in(self, client: str, slot: int) -> bool:
        """Return whether most renewals failed in a slot of time, judged with both of its neighbours."""
        near = (slot - 1, slot, slot + 1)
        failed = sum(self._failed[client][one] for one in near)
        if failed < self._policy.outage_credentials:
            return False
        total = failed + sum(self._succeeded[client][one] for one in near)
        is_ongoing = client != _EVERYBODY and client in self._ongoing
        share = self._policy.outage_over_share if is_ongoing else self._policy.outage_share
        return failed >= share * total

    def _slot(self, at: float) -> int:
        return int(at // self._policy.outage_seconds)
