"""Credentials that an app rejected: one newer value for all callers that report a rejection.

``cache.py`` decides what is cached and served.
"""

from typing import Protocol

from flowmate_async.access.cache_entries import Entry, Key
from flowmate_async.access.validity import Validity
from flowmate_async.clock import Clock, Moment
from flowmate_async.engine.coordination import Acceptable, Recognizes, SharedCredentials
from flowmate_async.errors import CredentialRejectedError
from flowmate_async.values.secrets import presented


class Cache(Protocol):
    """The part of the cache that rejections need."""

    def get(self, key: Key) -> Entry | None:
        """Return the cached entry."""
        ...

    async def settled(self, key: Key) -> None:
        """Wait until no unforced fetch is in flight."""
        ...

    async def entry(self, key: Key, min_valid: float) -> Entry:
        """Return the entry to serve."""
        ...

    async def fetch(self, key: Key, *, acceptable: Acceptable, forced: bool = False) -> Entry:
        """Fetch the secret."""
        ...

    async def arrived(self, key: Key, entry: Entry, min_valid: float) -> Entry:
        """Return the result of a flight, or something newer."""
        ...

    def raise_recent_failure(self, key: Key) -> None:
        """Raise the error of a recent failure to fetch it, if any."""
        ...


class Rejections:
    """Compare-and-swap on rejected credentials, within this process and with others.

    Args:
        cache: holds the credentials.
        validity: tells how long credentials are valid.
        clock: the clock for cool-downs.
        shared: passes rejections to other processes, if there are any.
    """

    def __init__(
        self, cache: Cache, *, validity: Validity, clock: Clock, shared: SharedCredentials | None
    ) -> None:
        self._cache = cache
        self._validity = validity
        self._clock = clock
        self._shared = shared
        if shared is not None:
            shared.on_rejected(self._rejected_elsewhere)

    async def replaced(self, key: Key, rejected: Entry, min_valid: float) -> Entry:
        """Return the successor of an entry that the app rejected. Many rejections cause one fetch.

        The comparison is by credential, since an evicted credential that is fetched again has another entry.

        Raises:
            CredentialRejectedError: upstream still has the same value, or had it during the cool-down.
        """
        # A renewal in flight may bring the newer value; another request would invalidate that one.
        await self._cache.settled(key)
        current = self._cache.get(key)
        if current is not None and presented(current.secret) != presented(rejected.secret):
            await self._tell(key, rejected)
            return await self._cache.entry(key, min_valid)
        known = rejected if current is None else current
        self._raise_known_failure(key, known, rejected)
        if self._shared is not None and await self._shared.reject(*key, rejected.secret):
            self._note_no_other(known, rejected, self._validity.cool_down())
            raise _rejected(key)
        fetched = await self._fetch_instead_of(known, key, min_valid)
        if presented(fetched.secret) == presented(rejected.secret):
            seconds = self._validity.cool_down()
            self._note_no_other(fetched, rejected, seconds)
            if self._shared is not None:
                await self._shared.confirm(*key, rejected.secret, seconds=seconds)
            raise _rejected(key)
        # Again, for processes that received the rejected value meanwhile: there is a newer one now.
        await self._tell(key, rejected)
        return await self._cache.arrived(key, fetched, min_valid)

    def _raise_known_failure(self, key: Key, known: Entry, rejected: Entry) -> None:
        """Raise if upstream is known to have no other value, or failed a moment ago."""
        if not (known.rejected_until.passed(self._clock) and rejected.rejected_until.passed(self._clock)):
            raise _rejected(key)
        self._cache.raise_recent_failure(key)
        if known.failure is not None and not known.retry_at.passed(self._clock):
            raise known.failure.clone()

    def _note_no_other(self, known: Entry, rejected: Entry, seconds: float) -> None:
        known.rejected_until = rejected.rejected_until = Moment.after(seconds, self._clock)

    async def _tell(self, key: Key, rejected: Entry) -> None:
        """Tell other processes once to stop serving the rejected value, since there is something newer."""
        if self._shared is None or rejected.announced:
            return
        rejected.announced = True
        try:
            await self._shared.reject(*key, rejected.secret)
        except BaseException:
            rejected.announced = False
            raise

    async def _fetch_instead_of(self, rejected: Entry, key: Key, min_valid: float) -> Entry:
        """Force a fetch. Meanwhile the rejected value is not served."""
        old = rejected.secret
        if not rejected.pending_rejections:
            rejected.saved_timeline = rejected.timeline
        rejected.pending_rejections += 1
        lasts = self._validity.lasting(min_valid)
        rejected.revoke()
        try:
            return await self._cache.fetch(
                key,
                forced=True,
                acceptable=lambda answer: presented(answer.secret) != presented(old) and lasts(answer),
            )
        finally:
            rejected.pending_rejections -= 1
            if rejected.is_revoked and not rejected.pending_rejections:
                rejected.timeline = rejected.saved_timeline

    def _rejected_elsewhere(self, username: str, secret_id: str, recognizes: Recognizes) -> None:
        """Stop serving a value that the app rejected in another process."""
        entry = self._cache.get((username, secret_id))
        if entry is not None and recognizes(entry.secret):
            entry.revoke()


def _rejected(key: Key) -> CredentialRejectedError:
    username, secret_id = key
    return CredentialRejectedError(
        "the app rejected the credential, and upstream has no other",
        advice="Check that it is for this app; the user may have to connect the app again",
        username=username,
        secret_id=secret_id,
    )
