"""Lender: what an integration needs from a client, so that it does not have to import one."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from flowmate_async.values.secrets import Secret


class HeldLease(Protocol):
    """A lease inside its ``async with`` block."""

    @property
    def secret(self) -> Secret:
        """The credential; after :meth:`reject`, the newer one."""
        ...

    async def reject(self) -> Secret:
        """Report that the app answered 401, and get a newer credential.

        Raises:
            CredentialRejectedError: upstream has no newer one.
        """
        ...


class Lender(Protocol):
    """Anything that lends credentials; :class:`~flowmate_async.FlowMate` does."""

    def lease(
        self, username: str, secret_id: str, *, min_valid: float = 60.0
    ) -> AbstractAsyncContextManager[HeldLease]:
        """Return a lease on a credential that is valid for ``min_valid`` seconds."""
        ...
