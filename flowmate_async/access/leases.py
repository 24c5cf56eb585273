"""Leases: a credential for as long as a job needs it, and a way to report that the app rejected it.

``cache.py`` holds the credentials and decides what a rejection means for them.
"""

from types import TracebackType
from typing import Self

from flowmate_async.access.cache import Credentials
from flowmate_async.access.cache_entries import Entry
from flowmate_async.values.secrets import Secret


class Lease:
    """A lease: a credential that was valid for the requested time when the lease began.

    Use it as ``async with fm.lease(user, secret_id, min_valid=300) as lease``.

    Created by :meth:`FlowMate.lease` only.

    Args:
        credentials: the cache that it is leased from.
        username: the user.
        secret_id: the secret.
        min_valid: seconds for which it must be valid when the lease begins.

    Attributes:
        username: the user.
        secret_id: the secret.
    """

    __slots__ = ("_credentials", "_entry", "_min_valid", "secret_id", "username")

    def __init__(self, credentials: Credentials, username: str, secret_id: str, *, min_valid: float) -> None:
        self._credentials = credentials
        self._min_valid = min_valid
        self._entry: Entry | None = None
        self.username: str = username
        self.secret_id: str = secret_id

    async def __aenter__(self) -> Self:
        self._entry = await self._credentials.entry((self.username, self.secret_id), self._min_valid)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entry = None

    @property
    def secret(self) -> Secret:
        """The credential. After :meth:`reject`, it is the newer one."""
        return self._held().secret

    @property
    def generation(self) -> int:
        """A number that orders the values this client has seen; a newer value has a higher one."""
        return self._held().generation

    async def reject(self) -> Secret:
        """Report that the app answered 401, and get a newer credential.

        Upstream is asked once, however many leases of one value are rejected.

        Raises:
            CredentialRejectedError: upstream still has the same one.
            CredentialExpiredError: the newer one is not valid for as long as the lease requires.
            FlowMateError: the newer one could not be fetched.
        """
        key = (self.username, self.secret_id)
        self._entry = await self._credentials.replaced(key, self._held(), self._min_valid)
        return self._entry.secret

    def _held(self) -> Entry:
        if self._entry is None:
            raise RuntimeError("a lease is used inside its 'async with' block")
        return self._entry
