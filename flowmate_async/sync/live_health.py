"""The health of credentials as listings show it now: every user is listed and no credential is fetched.

A listing shows when a token expires and whether a renewal has ever failed, which upstream never clears
(docs/contract/OBSERVED.md § Listing). So it can show that a token is good, but never that one is broken: that
takes a sync. Records that syncs have written to a store take precedence.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.errors import FlowMateError
from flowmate_async.health.decide import initial
from flowmate_async.health.records import Credential
from flowmate_async.health.states import Health, HealthState, Reason
from flowmate_async.stores.health import KeepsHealth
from flowmate_async.sync.outcomes import Outcome, UserFailed
from flowmate_async.sync.plan import DeltaPolicy, Plan
from flowmate_async.sync.reader import UserRead, UserReader
from flowmate_async.sync.sweep import SweepLimits, sweep_in_batches
from flowmate_async.values.models import SecretSummary


class CredentialHealth(msgspec.Struct, frozen=True, gc=False):
    """One credential and its health.

    Attributes:
        credential: which credential it is.
        health: its health.
    """

    credential: Credential
    health: Health


class UserHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials of one user.

    Attributes:
        username: the user.
        credentials: those that the listing shows, in its order.
        error: why the user could not be listed; ``None`` if the user was.
    """

    username: str
    credentials: tuple[CredentialHealth, ...] = ()
    error: FlowMateError | None = None


class LiveHealth:
    """Derives health from listings.

    Args:
        reader: lists the users.
        limits: how much is done at once.
        clock: tells which credentials have expired.
        store: its records take precedence over listings; ``None`` for listings only.
    """

    def __init__(
        self, reader: UserReader, *, limits: SweepLimits, clock: Clock, store: KeepsHealth | None = None
    ) -> None:
        self._reader = reader
        self._limits = limits
        self._clock = clock
        self._store = store
        self._reads: dict[str, UserRead] = {}

    async def of(self, usernames: Iterable[str] | AsyncIterable[str]) -> AsyncGenerator[UserHealth, None]:
        """Yield the health of these users as they are listed."""
        async with aclosing(sweep_in_batches(self._look, usernames, limits=self._limits)) as batches:
            async for batch in batches:
                for outcome in batch:
                    yield await self._user(outcome)

    def _look(self, username: str) -> UserRead:
        plan = Plan(DeltaPolicy(full=True), notes=False)
        self._reads[username] = read = self._reader.read(username, plan, look_only=True)
        return read

    async def _user(self, outcome: Outcome) -> UserHealth:
        username, read = outcome.username, self._reads.pop(outcome.username, None)
        if isinstance(outcome, UserFailed):
            return UserHealth(username=username, error=outcome.error)
        known = await self._known(username)
        now = self._clock.wall()
        credentials = (_shown(username, summary, known, now=now) for summary in (read.listed if read else ()))
        return UserHealth(username=username, credentials=tuple(credentials))

    async def _known(self, username: str) -> Mapping[str, Health]:
        if self._store is None:
            return {}
        return {record.secret_id: record.health async for record in self._store.health(username)}


def _shown(
    username: str, summary: SecretSummary, known: Mapping[str, Health], *, now: float
) -> CredentialHealth:
    credential = Credential(
        username=username, secret_id=summary.id, type=summary.type, auth_client_id=summary.auth_client_id
    )
    return CredentialHealth(credential, known.get(summary.id) or listed_health(summary, now=now))


def listed_health(summary: SecretSummary, *, now: float) -> Health:
    """Return a credential's health by its listing alone.

    Args:
        summary: the secret as it was listed.
        now: seconds since the Unix epoch.
    """
    base = initial(summary.type)
    if base.state is not HealthState.HEALTHY:
        return base
    if summary.expires_at is not None and summary.expires_at.timestamp() > now:
        return base
    reason = Reason.FAILED_BEFORE if summary.ever_failed else Reason.RENEWAL_DUE
    return Health(HealthState.UNVERIFIED, reason)
