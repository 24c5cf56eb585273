"""What an answer says about a credential: whether and when it ends for good."""

from flowmate_async.values.secrets import OAuth1Secret, OAuth2Secret, Secret


def ends_at(secret: Secret) -> float | None:
    """Return when a credential ends that FlowMate cannot renew; ``None`` for any other.

    OAuth 2 is renewed with its refresh token only, sessions by another login, OAuth 1 never
    (docs/contract/OBSERVED.md § One secret).

    Args:
        secret: as FlowMate answered it.

    Returns:
        Seconds since the Unix epoch.
    """
    renewable = isinstance(secret, OAuth2Secret) and secret.renewable
    if renewable or not isinstance(secret, OAuth1Secret | OAuth2Secret) or secret.expires_at is None:
        return None
    return secret.expires_at.timestamp()
