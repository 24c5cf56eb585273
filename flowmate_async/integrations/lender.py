"""Lender: what an integration needs of a client, so that it need not import one."""

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
            CredentialRejectedError: there is no newer one.
        """
        ...


class Lender(Protocol):
    """Whatever lends credentials; :class:`~flowmate_async.FlowMate` does."""

    def lease(
        self, username: str, secret_id: str, *, min_valid: float = 60.0
    ) -> AbstractAsyncContextManager[HeldLease]:
        """A lease on a credential that is valid for ``min_valid`` seconds."""
        ...
