"""Every error of the library, and when it is raised.

::

    FlowMateError
    ├── ConfigurationError        what you passed or configured cannot work; nothing was sent
    │   └── InvalidIdError        a username, secret id or page number that is not valid
    ├── AuthenticationError       the admin token, or a freshly made user token, was rejected
    ├── PermissionDeniedError     the token is valid but may not do this
    │   └── MaskedSecretError     upstream answered with masked values: raw-read permission is missing
    ├── UserNotFoundError         no such user, or the user is disabled
    ├── SecretNotFoundError       no such secret
    ├── CredentialExpiredError    the newest credential there is has expired
    ├── CredentialMissingError    the secret exists and holds no credential
    ├── CredentialRejectedError   the app rejected the credential and upstream has no newer one
    ├── RefreshFailedError        upstream could not refresh the credential with its provider
    ├── RateLimitedError          still throttled after every allowed retry
    ├── UpstreamUnavailableError  FlowMate cannot be reached or is failing
    │   └── UpstreamTimeoutError  no answer within the deadline
    ├── ProtocolError             an answer that is not what the contract documents
    ├── IncompleteListingError    a listing that could not be proven complete
    ├── TooManyFailuresError      a run was ended because more users failed than was allowed
    ├── WorkerLostError           the worker processes of a run keep dying
    ├── StoreError                the store cannot be opened, read or written
    │   └── StoreMissingError     there is no store yet; the first sync makes it
    └── CheckpointError           the progress of a run cannot be recorded or read
        └── RunInProgressError    another run holds the store

Each says what happened, to which user and secret, at which endpoint, and what to do. None carries a
credential: messages are made of the library's own words, ids and sanitised upstream text.
"""

import re
from typing import Self

from flowmate_async.redaction import one_line

__all__ = [
    "AuthenticationError",
    "CheckpointError",
    "ConfigurationError",
    "CredentialExpiredError",
    "CredentialMissingError",
    "CredentialRejectedError",
    "FlowMateError",
    "IncompleteListingError",
    "InvalidIdError",
    "MaskedSecretError",
    "PermissionDeniedError",
    "ProtocolError",
    "RateLimitedError",
    "RefreshFailedError",
    "RunInProgressError",
    "SecretNotFoundError",
    "StoreError",
    "StoreMissingError",
    "TooManyFailuresError",
    "UpstreamTimeoutError",
    "UpstreamUnavailableError",
    "UserNotFoundError",
    "WorkerLostError",
]

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class FlowMateError(Exception):
    """Base of all errors of this library.

    Args:
        message: what happened, without a final full stop.
        advice: what the reader can do about it.
        endpoint: the endpoint concerned, as ``GET /secrets/{id}``.
        username: the user concerned, when known.
        secret_id: the secret concerned, when known.
        status: the HTTP status of the answer, when there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        endpoint: str = "",
        username: str | None = None,
        secret_id: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.endpoint = endpoint
        self.username = username
        self.secret_id = secret_id
        self.status = status

    @property
    def kind(self) -> str:
        """The class's name as reports count it: ``masked_secret`` for :class:`MaskedSecretError`."""
        return _WORD.sub("_", type(self).__name__.removesuffix("Error")).lower()

    def about(self, *, username: str | None = None, secret_id: str | None = None) -> Self:
        """Name the user and secret concerned, where not named yet, and return the error itself.

        Args:
            username: the user.
            secret_id: the secret.
        """
        self.username = self.username or username
        self.secret_id = self.secret_id or secret_id
        return self

    def clone(self) -> Self:
        """Return a copy without a traceback, so that each waiter of a flight raises its own error."""
        twin = type(self).__new__(type(self), *self.args)
        twin.args = self.args
        twin.__dict__.update(self.__dict__)
        return twin

    def __str__(self) -> str:
        concerned = [
            f"user {_quoted(self.username)}" if self.username is not None else "",
            f"secret {_quoted(self.secret_id)}" if self.secret_id is not None else "",
            self.endpoint,
        ]
        where = ", ".join(part for part in concerned if part)
        text = f"{self.message} ({where})" if where else self.message
        return f"{text}. {self.advice}" if self.advice else text


def _quoted(name: str) -> str:
    return f"'{one_line(str(name), limit=120)}'"


class ConfigurationError(FlowMateError):
    """Raised before anything is sent: an argument, a setting, a file or a key that cannot work."""


class InvalidIdError(ConfigurationError):
    """Raised when a username, secret id or page number is invalid.

    Nearly always raised before anything is sent. FlowMate answers 401 to an id that is neither 24 hexadecimal
    digits nor 12 characters (docs/contract/OBSERVED.md § Second look); then ``status`` is 401.
    """


class AuthenticationError(FlowMateError):
    """Raised when the admin token is rejected, or when a new user token is rejected immediately.

    Not every 401 raises it: an expired token is replaced once, and several other upstream problems look the
    same (docs/contract/OBSERVED.md § Errors).
    """


class PermissionDeniedError(FlowMateError):
    """Raised on a 403: the token is valid but may not do this, or the secret belongs to another user.

    See docs/contract/OBSERVED.md § Errors.
    """


class MaskedSecretError(PermissionDeniedError):
    """Raised when values are masked. Grant the token the permission ``secrets.secret.readRaw``.

    Upstream answers 200 with stars in that case (docs/contract/OBSERVED.md § One secret).
    """


class UserNotFoundError(FlowMateError):
    """Raised when upstream knows no such user, or the user's account is disabled.

    See docs/contract/OBSERVED.md § Impersonation.
    """


class SecretNotFoundError(FlowMateError):
    """Raised when upstream knows no secret with that id (docs/contract/OBSERVED.md § Errors)."""


class CredentialExpiredError(FlowMateError):
    """Raised when upstream's newest value has expired, or expires sooner than required.

    Upstream only refreshes credentials with less than 15 minutes left (docs/contract/OBSERVED.md
    § One secret) and for which it has a refresh token.
    """


class CredentialMissingError(FlowMateError):
    """Raised when a password, key, payload or OAuth 1 token is missing, ``null`` or empty upstream.

    For OAuth 2 and sessions a :class:`RefreshFailedError` is raised instead: their provider gave no token
    (docs/contract/OBSERVED.md § Second look).
    """


class CredentialRejectedError(FlowMateError):
    """Raised when the app rejected a credential and upstream still answers with the same one.

    A refresh cannot be forced (docs/contract/OBSERVED.md § One secret).
    """


class RefreshFailedError(FlowMateError):
    """Raised when upstream could not refresh a secret with the provider behind it, or got no token from it.

    See docs/contract/OBSERVED.md § Refresh failures and § Second look.
    """

    @property
    def was_sent(self) -> bool:
        """Whether the request was sent.

        If not, the secret or its provider was being left alone, or another process was asking for the secret.
        """
        return self.status is not None


class RateLimitedError(FlowMateError):
    """Raised when upstream still answers 429 after every allowed retry."""


class UpstreamUnavailableError(FlowMateError):
    """Raised when FlowMate cannot be reached, reports a failure of its own, or the breaker is open.

    Some of its failures look like a rejected token (docs/contract/OBSERVED.md § Errors).
    """


class UpstreamTimeoutError(UpstreamUnavailableError):
    """Raised when no complete answer came within the deadline."""


class ProtocolError(FlowMateError):
    """Raised when an answer is not what the contract documents: HTML, truncated, too large, not JSON."""


class IncompleteListingError(FlowMateError):
    """Raised when a user's listing keeps disagreeing with its own total.

    Pages are unsorted upstream, so that an item can be missed (docs/contract/OBSERVED.md § Listing).
    """


class TooManyFailuresError(FlowMateError):
    """Raised when more users of a run failed than ``max_failures`` allows; what succeeded is stored."""


class WorkerLostError(FlowMateError):
    """Raised when the worker processes of a run keep dying. Acknowledged users are kept."""


class StoreError(FlowMateError):
    """Raised when a store cannot be opened, read or written: wrong key, newer version, no permission."""


class StoreMissingError(StoreError):
    """Raised when this URL has no store yet. A sync creates it."""


class CheckpointError(FlowMateError):
    """Raised when a run's progress cannot be recorded or read."""


class RunInProgressError(CheckpointError):
    """Raised when another run holds the store; nothing was sent or written."""
