"""What a sync learns about the health of credentials, and when it judges that.

While users are read, :class:`Sightings` collects failures. The store keeps them with each user's checkpoint.
Whether a failed renewal is one user's problem or a provider outage is only known after the other users have
been tried. So all records are settled, and notices written, at the end of the run. That needs no requests.
"""

from collections import Counter
from collections.abc import Mapping

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.errors import FlowMateError
from flowmate_async.health.from_secret import ends_at
from flowmate_async.health.observations import Observation, Observed, observed_failure
from flowmate_async.health.outage import Renewals
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import (
    Credential,
    HealthRecord,
    Notice,
    Settled,
    Sighting,
    failed_at,
    in_outage,
    settled,
)
from flowmate_async.health.states import not_working
from flowmate_async.stores.base import Run, Store
from flowmate_async.stores.health import CountsHealth, KeepsHealth, counted
from flowmate_async.values.models import SecretSummary
from flowmate_async.values.secrets import Secret

_renewed_of = msgspec.json.Decoder(dict[str, int]).decode


class Sightings:
    """What reading one user shows about credentials that are not plainly healthy."""

    __slots__ = ("_clock", "_renewed", "_seen", "_username")

    def __init__(self, username: str, clock: Clock) -> None:
        self._username = username
        self._clock = clock
        self._seen: tuple[Sighting, ...] = ()
        self._renewed: dict[str, int] = {}

    def failed(self, summary: SecretSummary, failure: FlowMateError, client: str | None) -> None:
        """Record a secret that could not be fetched.

        Args:
            summary: the secret as listed.
            failure: the error.
            client: the OAuth client whose provider FlowMate would have asked, empty if unknown; ``None`` if
                it would not have asked any.
        """
        what = observed_failure(failure)
        if what is not None and (client is not None or what is not Observed.HUNG):
            self._note(summary, Observation(what, self._clock.wall()))

    def fetched(self, summary: SecretSummary, secret: Secret, client: str | None) -> None:
        """Record a secret that was fetched; see :meth:`failed`. Runs for every credential."""
        if client is not None:
            self._renewed[client] = self._renewed.get(client, 0) + 1
        if (end := ends_at(secret)) is not None:
            self._note(summary, Observation(Observed.READ, self._clock.wall(), end))

    def seen(self) -> tuple[Sighting, ...]:
        """Return what was recorded."""
        return self._seen

    def renewed(self) -> str:
        """Return the number of renewed credentials by OAuth client, in the format of checkpoints."""
        return msgspec.json.encode(self._renewed).decode() if self._renewed else ""

    def _note(self, summary: SecretSummary, observation: Observation) -> None:
        credential = Credential(
            username=self._username,
            secret_id=summary.id,
            type=summary.type,
            auth_client_id=summary.auth_client_id,
        )
        self._seen += (Sighting(credential, (observation,)),)


class RunHealth(msgspec.Struct, frozen=True):
    """The health of all credentials after a run.

    Attributes:
        states: number of credentials by state; plainly healthy ones are not counted.
        notices: notices that the run has put into the outbox.
    """

    states: dict[str, int] = {}
    notices: list[Notice] = []


async def count_health(store: Store) -> dict[tuple[str, str], int]:
    """Return the number of credentials by state and type, of those that do not plainly work.

    Args:
        store: an entered store; one that keeps no health has none.
    """
    counts: dict[tuple[str, str], int] = {}
    if isinstance(store, CountsHealth):
        counts = await store.count_health()
    elif isinstance(store, KeepsHealth):
        counts = counted([record async for record in store.health()])
    return not_working(counts)


async def settle_run(store: Store, run: Run, *, policy: HealthPolicy, now: float) -> RunHealth:
    """Judge the run's observations, and write the notices about them.

    Args:
        store: the store of the run; one that keeps no health has nothing to settle.
        run: the run.
        policy: how much evidence a verdict needs.
        now: seconds since the Unix epoch.
    """
    if not isinstance(store, KeepsHealth):
        return RunHealth()
    failing: list[tuple[str | None, float]] = []
    ongoing: set[str] = set()
    is_empty = True
    async for record in store.health():
        is_empty = False
        if (at := failed_at(record)) is not None:
            failing.append((record.credential.auth_client_id, at))
        if in_outage(record) and record.credential.auth_client_id is not None:
            ongoing.add(record.credential.auth_client_id)
    if is_empty:
        return RunHealth()
    renewals = Renewals(policy, ongoing=ongoing)
    if len(failing) >= policy.outage_credentials:
        await _count_successes(store, run, renewals)
    for client, at in failing:
        renewals.failed(client, at=at)

    states: Counter[str] = Counter()

    def judge(record: HealthRecord) -> Settled:
        pending = record.evidence.pending
        outage = bool(pending) and renewals.are_outage(record.credential.auth_client_id, at=pending.last)
        done = settled(record, outage=outage, now=now, policy=policy)
        if done.record is not None:
            states[done.record.health.state.value] += 1
        return done

    notices = await store.settle_health(judge)
    return RunHealth(dict(sorted(states.items())), notices)


async def _count_successes(store: Store, run: Run, renewals: Renewals) -> None:
    async for checkpoint in store.checkpoints(run):
        for client, times in _renewed(checkpoint.renewed).items():
            renewals.succeeded(client or None, at=checkpoint.at, times=times)


def _renewed(text: str) -> Mapping[str, int]:
    try:
        return _renewed_of(text) if text else {}
    except msgspec.MsgspecError:
        return {}
