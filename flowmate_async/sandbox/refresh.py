"""Refresh on GET: when the service renews a token, and the lock that turns concurrency into 500s.

docs/contract/OBSERVED.md § One secret, § Concurrent GETs and § Refresh failures. The lock is
a timestamp in the stored secret: a waiter sleeps and reads again a few times, an expired lock is taken over,
and the later of two conflicting saves is lost.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import anyio

from flowmate_async.sandbox.answers import NOTHING_SAID, TOO_MANY_LOCK_WAITS
from flowmate_async.sandbox.options import SandboxOptions, Settings
from flowmate_async.sandbox.provider import Granted, Provider, ProviderError, Rejected
from flowmate_async.sandbox.provider_faults import ProviderFault
from flowmate_async.sandbox.secret import Secret, Value, view
from flowmate_async.sandbox.stats import Counters
from flowmate_async.sandbox.timestamps import instant_of, iso


class RefreshError(Exception):
    """The GET ends in a 500 with this message."""


class Refresher:
    """Read-through refresh with an optimistic, time-limited lock.

    ``current(secret)`` returns what a raw reader sees. ``settings`` and ``provider_fault`` are callables
    because latency and faults of the provider change at run time.
    """

    __slots__ = ("_counters", "_keep", "_options", "_provider", "_provider_fault", "_rng", "_settings")

    def __init__(
        self,
        options: SandboxOptions,
        *,
        settings: Callable[[], Settings],
        counters: Counters,
        keep: Callable[[Secret], None],
        provider_fault: Callable[[], ProviderFault | None],
    ) -> None:
        self._options = options
        self._settings = settings
        self._counters = counters
        self._keep = keep
        self._provider_fault = provider_fault
        self._provider = Provider(options)
        self._rng = Random(f"{options.seed}/lock-waits")  # noqa: S311 - spreads waiters, no secret

    async def current(self, secret: Secret) -> dict[str, Any]:
        """Return the secret, refreshed if needed; raise ``RefreshError``."""
        if not _refreshable(secret):
            return self._stored(secret)
        for attempt in range(self._options.lock_wait_attempts + 1):
            if attempt:
                await anyio.sleep(self._rng.uniform(*self._options.lock_wait_seconds))
            self._break_old_lock(secret)
            if secret.locked_at is None:
                return await self._refreshed(secret) if self._due(secret) else self._stored(secret)
            if not attempt:
                self._counters.lock_waits[secret.id] += 1
        raise RefreshError(TOO_MANY_LOCK_WAITS)

    def _break_old_lock(self, secret: Secret) -> None:
        now = self._options.now()
        if secret.locked_at is not None and now - secret.locked_at >= self._options.lock_seconds:
            secret.locked_at = None

    def _due(self, secret: Secret) -> bool:
        """Return whether under 15 minutes remain or it has no expiry; an unreadable one is never due.

        The tokens of an OAuth client that a test has broken are due as well.
        """
        expires = secret.value.get("expires")
        if not expires or self._client_fault(secret):
            return True
        instant = instant_of(expires) if isinstance(expires, str) else None
        return instant is not None and instant - self._options.now() <= self._options.refresh_below_seconds

    async def _refreshed(self, secret: Secret) -> dict[str, Any]:
        locked_at = self._lock(secret)
        version = secret.version
        try:
            outcome = await self._ask_provider(secret)
        except ProviderError as failure:
            # The lock stays: every GET of this secret fails until it is too old.
            raise RefreshError(str(failure)) from None
        if isinstance(outcome, Rejected) and secret.type != "SESSION_AUTH":
            secret.current_error = outcome.body
            self._unlock(secret)
            raise RefreshError(NOTHING_SAID)
        if secret.version != version:
            # Another request took the lock over and saved first, so these rotated tokens are lost.
            raise RefreshError(_version_conflict(secret.id, version))
        return self._save(secret, outcome, locked_at)

    async def _ask_provider(self, secret: Secret) -> Granted | Rejected:
        settings = self._settings()
        self._counters.refresh_began(secret.id, str(secret.value.get("authClientId")))
        try:
            return await self._provider.grant(
                secret,
                latency_seconds=settings.provider_seconds,
                fault=(
                    secret.fault
                    or self._client_fault(secret)
                    or self._provider_fault()
                    or settings.provider_fault
                ),
            )
        finally:
            self._counters.refresh_ended()

    def _client_fault(self, secret: Secret) -> ProviderFault | None:
        return self._settings().client_fault(secret.value.get("authClientId"))

    def _lock(self, secret: Secret) -> str:
        self._keep(secret)
        now = self._options.now()
        secret.locked_at = now
        secret.was_locked = True
        secret.updated_at = iso(now)
        return secret.updated_at

    def _unlock(self, secret: Secret) -> None:
        secret.locked_at = None
        secret.updated_at = iso(self._options.now())

    def _save(self, secret: Secret, outcome: Granted | Rejected, locked_at: str) -> dict[str, Any]:
        """Store the provider's answer; the refreshing reader sees all else as before the save."""
        if isinstance(outcome, Granted):
            secret.value = self._renewed(secret, outcome)
        else:
            secret.value = _without_token(secret.value)
        secret.sealed.clear()
        secret.updated_at = locked_at
        shown = view(secret, locked_at=locked_at, in_clear=True)
        secret.version += 1
        self._unlock(secret)
        return shown

    def _renewed(self, secret: Secret, granted: Granted) -> Value:
        value = dict(secret.value)
        value["accessToken"] = granted.access_token
        if secret.type == "SESSION_AUTH" and not value.get("expires"):
            # It has no expiry after the login either: the next GET logs in again.
            value["expires"] = None
            return value
        if secret.type != "SESSION_AUTH":
            value["refreshToken"] = granted.refresh_token
        value["expires"] = iso(self._options.now() + granted.expires_in_seconds)
        return value

    def _stored(self, secret: Secret) -> dict[str, Any]:
        locked_at = None if secret.locked_at is None else iso(secret.locked_at)
        return view(secret, locked_at=locked_at, in_clear=False)


def _refreshable(secret: Secret) -> bool:
    if secret.type == "OA2_AUTHORIZATION_CODE":
        return bool(secret.value.get("refreshToken"))
    return secret.type == "SESSION_AUTH"


def _without_token(value: Value) -> Value:
    """Return a session as a login without a token leaves it: due for the next login (§ Second look)."""
    kept = {name: field for name, field in value.items() if name != "accessToken"}
    return {**kept, "expires": kept.get("expires")}


def _version_conflict(secret_id: str, version: int) -> str:
    # Only the 500 was observed, not its words; these are the database library's.
    return f'No matching document found for id "{secret_id}" version {version}'
