"""Provider faults: how the OAuth or session service behind a secret misbehaves. Values only."""

from enum import StrEnum


class ProviderFault(StrEnum):
    """Refresh failure.

    docs/contract/OBSERVED.md § Refresh failures and § Second look, "Refreshes and logins"
    """

    ERROR_BODY = "error_body"
    """Answers 200 with an error in its body, and the lock is released.

    OAuth: the GET is a 500 and ``currentError`` stays. A session: the GET is a 200 without ``accessToken``.
    """

    NO_TOKEN = "no_token"  # noqa: S105 - a fault's name
    """Answers 200 without a token at the configured path. Readers see the same as with ``ERROR_BODY``."""

    HTTP_ERROR = "http_error"
    """Answers 400: the lock stays taken."""

    GARBAGE = "garbage"
    """Answers something that is not JSON: the message names the token URL, the lock stays taken."""

    HANG = "hang"
    """Never answers, and neither does the service."""

    NO_EXPIRES_IN = "no_expires_in"
    """Grants without a lifetime: ``expires`` is now, so that every GET refreshes."""

    ROTATION_LOST = "rotation_lost"
    """Rotates the refresh token and drops the connection: the stored one is dead from now on.

    This GET fails as with ``GARBAGE``, later ones as with ``ERROR_BODY``, fault or no fault: the user has
    to connect the app again. Which of the two the service shows is from the contract's rules; that a
    provider does it was not observed.
    """
