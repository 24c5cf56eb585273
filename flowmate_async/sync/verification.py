"""Verify stored credentials against their apps, and record the results as evidence of their health.

What an app answers is decided by its :class:`Verifier`. A rejection counts only if FlowMate returns the same
value again: the stored one may be outdated. The next sync judges the evidence, together with all other.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.contract.known_secrets import auth_client_of
from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.health.observations import Observation, Observed, observed_failure
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import Credential, Sighting
from flowmate_async.stores.base import Store
from flowmate_async.stores.health import require_health_keeper
from flowmate_async.sync.source import Usernames, iterate
from flowmate_async.values.secrets import Secret, presented

_WRITTEN_TOGETHER = 50
_log = logging.getLogger("flowmate_async")

Fetch = Callable[[str, str], Awaitable[Secret]]
"""Fetches a user's secret from FlowMate."""


class Verifier(Protocol):
    """Knows whether an app accepts its credentials."""

    @property
    def seconds_apart(self) -> float:
        """Minimum seconds between the beginnings of two checks."""
        ...

    def applies_to(self, secret: Secret) -> bool:
        """Return whether it is a credential of this app."""
        ...

    async def accepts(self, secret: Secret) -> bool | None:
        """Return whether the app accepts it; ``None`` if that cannot be known now."""
        ...


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a verification.

    Attributes:
        accepted: credentials that their apps accepted.
        rejected: credentials that their apps rejected and of which FlowMate has no other value.
        unknown: credentials that could not be verified, because the app or FlowMate failed.
    """

    accepted: int = 0
    rejected: int = 0
    unknown: int = 0


class Verification:
    """One pass over stored credentials.

    Args:
        store: the store with the credentials; the evidence goes there.
        fetch: fetches a secret that an app has rejected, or that has expired.
        policy: how much evidence a state needs.
        clock: dates the evidence, and waits between checks.
    """

    def __init__(self, store: Store, *, fetch: Fetch, policy: HealthPolicy, clock: Clock) -> None:
        self._keeper = require_health_keeper(store)
        self._store = store
        self._fetch = fetch
        self._policy = policy
        self._clock = clock
        self._sightings: list[Sighting] = []
        self._next: dict[int, float] = {}
        self._counts = dict.fromkeys(Verified.__struct_fields__, 0)

    async def run(self, verifiers: Sequence[Verifier], usernames: Usernames | None) -> Verified:
        """Verify every stored credential that one of the verifiers applies to.

        Args:
            verifiers: the first one that applies to a credential is used.
            usernames: whose credentials; ``None`` for all.
        """
        async for username, secret in self._stored(usernames):
            verifier = next((one for one in verifiers if one.applies_to(secret)), None)
            if verifier is not None:
                await self._verify(verifier, username, secret)
        await self._write()
        return Verified(**self._counts)

    async def _stored(self, usernames: Usernames | None) -> AsyncIterator[tuple[str, Secret]]:
        if usernames is None:
            async for found in self._store.secrets():
                yield found
            return
        async for username in iterate(usernames):
            async for found in self._store.secrets(username):
                yield found

    async def _verify(self, verifier: Verifier, username: str, secret: Secret) -> None:
        try:
            what, told = await self._observe(verifier, username, secret)
        except ConfigurationError:
            raise
        except FlowMateError as error:
            what, told = observed_failure(error), "unknown"
        self._counts[told] += 1
        if what is None:
            return
        credential = Credential(
            username=username, secret_id=secret.id, type=secret.kind, auth_client_id=auth_client_of(secret)
        )
        self._sightings.append(Sighting(credential, (Observation(what, self._clock.wall()),)))
        if len(self._sightings) >= _WRITTEN_TOGETHER:
            await self._write()

    async def _observe(
        self, verifier: Verifier, username: str, secret: Secret
    ) -> tuple[Observed | None, str]:
        """Return what a check shows, and how it is counted."""
        end = secret.expires_at
        if end is not None and end.timestamp() <= self._clock.wall():
            secret = await self._fetch(username, secret.id)
        accepted = await self._ask(verifier, secret)
        if accepted is False:
            newer = await self._fetch(username, secret.id)
            if presented(newer) != presented(secret):
                accepted = await self._ask(verifier, newer)
        if accepted is None:
            return None, "unknown"
        return (Observed.ACCEPTED, "accepted") if accepted else (Observed.REJECTED, "rejected")

    async def _ask(self, verifier: Verifier, secret: Secret) -> bool | None:
        """Ask the app, no sooner than its rate allows. A verifier that fails knows nothing."""
        now, due = self._clock.monotonic(), self._next.get(id(verifier), 0.0)
        self._next[id(verifier)] = max(now, due) + verifier.seconds_apart
        if due > now:
            await self._clock.sleep(due - now)
        try:
            return await verifier.accepts(secret)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - the caller's code; its words may hold the credential
            _log.warning("a verification failed: %s", type(error).__name__)
            return None

    async def _write(self) -> None:
        sightings, self._sightings = self._sightings, []
        if sightings:
            await self._keeper.note_health(sightings, policy=self._policy, at=self._clock.wall())
