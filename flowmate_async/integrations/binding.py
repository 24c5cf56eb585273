"""Binding: one credential, tied to the origins that may see it. Each client sends its own requests."""

from collections.abc import Container
from contextlib import AbstractAsyncContextManager

from flowmate_async.errors import ConfigurationError, CredentialRejectedError
from flowmate_async.integrations.lender import HeldLease, Lender
from flowmate_async.integrations.origins import GivenOrigins, Origin
from flowmate_async.redaction import Headers
from flowmate_async.values.secrets import Secret


class Binding:
    """A credential and the origins it may be sent to.

    Args:
        fm: the client that lends it, entered.
        username: the user.
        secret_id: the secret.
        origins: ``scheme://host[:port]`` of the app; https, or http to this machine.
        default_header: the header for an API key that does not name one.
        min_valid: seconds for which the credential must be valid when a request begins.

    Raises:
        ConfigurationError: the origins are invalid.
    """

    def __init__(
        self,
        fm: Lender,
        username: str,
        secret_id: str,
        *,
        origins: GivenOrigins,
        default_header: str | None,
        min_valid: float,
    ) -> None:
        self._lender = fm
        self._username = username
        self._secret_id = secret_id
        self._default_header = default_header
        self._min_valid = min_valid
        self.origins: frozenset[Origin] = origins.checked()

    def covers(self, origin: Origin) -> bool:
        """Return whether a request to this origin may carry the credential."""
        return origin in self.origins

    def lease(self) -> AbstractAsyncContextManager[HeldLease]:
        """Return a lease for one request."""
        return self._lender.lease(self._username, self._secret_id, min_valid=self._min_valid)

    def headers(self, secret: Secret, *, present: Container[str]) -> Headers:
        """Return the headers that present the credential. The request must not have any of them yet.

        Args:
            secret: the credential.
            present: the names of the request's headers, case-insensitive.

        Raises:
            ConfigurationError: it has no header form, or the caller has set such a header.
        """
        try:
            headers = Headers(tuple(secret.auth_headers(default_header=self._default_header).items()))
        except ConfigurationError as error:
            error.about(username=self._username, secret_id=self._secret_id)
            raise
        for name in headers.names:
            if name in present:
                raise ConfigurationError(
                    f"the request already has the header {name}, which the credential would set",
                    advice="Leave it out, or send this request without the credential's integration",
                    username=self._username,
                    secret_id=self._secret_id,
                )
        return headers


async def has_newer(lease: HeldLease) -> bool:
    """Reject a lease after the app's 401. Return whether a newer credential is available.

    Raises:
        FlowMateError: the newer one could not be fetched.
    """
    try:
        await lease.reject()
    except CredentialRejectedError:
        return False
    return True
