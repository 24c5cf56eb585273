"""The health of the credentials that a worker uses, by the same rules as a sync.

The cache reports answers, failures and rejections by apps. Each credential that is not plainly healthy has a
record in memory, and events report when a credential breaks or recovers. A failed renewal is judged after a
quarter of an hour, so that an outage can be recognised first.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from flowmate_async.clock import Clock
from flowmate_async.containers import LruDict
from flowmate_async.contract.freshness import never_refreshed
from flowmate_async.contract.known_secrets import KnownSecrets, auth_client_of
from flowmate_async.errors import FlowMateError
from flowmate_async.events import Emitter
from flowmate_async.health.from_secret import ends_at
from flowmate_async.health.observations import SUCCESSES, Observation, Observed, observed_failure
from flowmate_async.health.outage import Renewals
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import Credential, HealthRecord, Sighting, failed_at, observed, settled
from flowmate_async.health.states import not_working
from flowmate_async.health.telling import event_of
from flowmate_async.values.secrets import Secret

Key = tuple[str, str]
OnSighting = Callable[[Sighting], object]
"""Called with what was observed of a credential, if a store keeps it as well."""

_SAME_SECONDS = 30.0
"""Every waiter of a request reports its outcome. Reports within this time count as one observation."""


class HealthWatch:
    """Watches the credentials of one client.

    Args:
        policy: how much evidence a verdict needs.
        known: knows the OAuth client of a secret that was only listed.
        clock: dates observations.
        emitter: told when a credential breaks or recovers.
        capacity: maximum number of records; the least recently changed are evicted first.
        on_sighting: told what is observed; ``None`` if nothing else keeps it.
    """

    def __init__(
        self,
        *,
        policy: HealthPolicy,
        known: KnownSecrets,
        clock: Clock,
        emitter: Emitter,
        capacity: int,
        on_sighting: OnSighting | None = None,
    ) -> None:
        self._policy = policy
        self._known = known
        self._clock = clock
        self._emitter = emitter
        self._on_sighting = on_sighting
        self._records: LruDict[Key, HealthRecord] = LruDict(capacity)
        self._last: LruDict[Key, tuple[Observed, float]] = LruDict(capacity)
        self._renewals = Renewals(policy)
        self._timer: asyncio.TimerHandle | None = None

    def failed(self, key: Key, error: FlowMateError, secret: Secret | None) -> None:
        """Record a failure to fetch a credential, or an app's rejection of it.

        Args:
            key: username and secret id.
            error: the failure.
            secret: the cached credential, if any.
        """
        what = observed_failure(error)
        if what is None or (what is Observed.HUNG and secret is not None and never_refreshed(secret.kind)):
            return
        now = self._clock.wall()
        if self._is_repeated(key, what, now):
            return
        client = self._known.client_of(key[1]) if secret is None else auth_client_of(secret)
        credential = _credential(key, "" if secret is None else secret.kind, client)
        self._see(Sighting(credential, (Observation(what, now),)), now)

    def fetched(self, key: Key, secret: Secret, *, changed: bool) -> None:
        """Record a credential that was fetched.

        Args:
            key: username and secret id.
            secret: the credential.
            changed: whether its value differs from the one cached before.
        """
        end, record = ends_at(secret), self._records.get(key)
        if changed and not never_refreshed(secret.kind):
            self._renewals.succeeded(auth_client_of(secret), at=self._clock.wall())
        if end is None and record is None:
            return
        self._last.pop(key, None)
        now = self._clock.wall()
        what = Observed.CHANGED if changed else Observed.READ
        credential = _credential(key, secret.kind, auth_client_of(secret))
        self._see(Sighting(credential, (Observation(what, now, end),)), now)

    def heard(self, sighting: Sighting) -> None:
        """Record what another process observed; it has told its own listeners.

        Processes that share a credential fail together, so repeated failures count as one.
        """
        key, now = (sighting.credential.username, sighting.credential.secret_id), self._clock.wall()
        kept = tuple(
            one
            for one in sighting.observations
            if one.what in SUCCESSES or not self._is_repeated(key, one.what, now)
        )
        if kept:
            self._apply(Sighting(sighting.credential, kept), now)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of credentials by state and type, of those that do not plainly work."""
        records = list(self._records.values())  # a copy: a metrics exporter reads in its own thread
        return not_working(Counter((one.health.state.value, one.credential.type) for one in records))

    def close(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._records.clear()
        self._last.clear()

    def _is_repeated(self, key: Key, what: Observed, now: float) -> bool:
        """Return whether the same was observed a moment ago; note that it was."""
        before, at = self._last.get(key, (None, 0.0))
        if before is what and abs(now - at) < _SAME_SECONDS:
            return True
        self._last.put(key, (what, now))
        return False

    def _see(self, sighting: Sighting, now: float) -> None:
        if self._on_sighting is not None:
            self._on_sighting(sighting)
        self._apply(sighting, now)

    def _apply(self, sighting: Sighting, now: float) -> None:
        key = sighting.credential.username, sighting.credential.secret_id
        record = observed(self._records.get(key), sighting, now=now, policy=self._policy)
        self._put(key, record)
        if record is None:
            return
        if record.evidence.pending:
            self._judge_later()
        else:
            self._settle(key, record, outage=False)

    def _judge_later(self) -> None:
        """Schedule a judgement of pending failures, after others of the same outage had time to fail."""
        if self._timer is None:
            with suppress(RuntimeError):  # no loop: the next caller gets the error
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._policy.outage_seconds, self._judge)

    def _judge(self) -> None:
        self._timer = None
        due = [(key, record) for key, record in self._records.items() if record.evidence.pending]
        renewals, self._renewals = self._renewals, Renewals(self._policy)
        for _, record in due:
            if (at := failed_at(record)) is not None:
                renewals.failed(record.credential.auth_client_id, at=at)
        for key, record in due:
            client, at = record.credential.auth_client_id, record.evidence.pending.last
            self._settle(key, record, outage=renewals.are_outage(client, at=at))

    def _settle(self, key: Key, record: HealthRecord, *, outage: bool) -> None:
        done = settled(record, outage=outage, now=self._clock.wall(), policy=self._policy)
        self._put(key, done.record)
        if done.notice is not None and (event := event_of(done.notice)) is not None:
            self._emitter.emit(event)

    def _put(self, key: Key, record: HealthRecord | None) -> None:
        if record is None:
            self._records.pop(key, None)
        else:
            self._records.put(key, record)


def _credential(key: Key, secret_type: str, client: str | None) -> Credential:
    return Credential(username=key[0], secret_id=key[1], type=secret_type, auth_client_id=client)
