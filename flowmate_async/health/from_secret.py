"""Whether and when a credential ends permanently, according to an answer."""

from flowmate_async.values.secrets import OAuth2Secret, Secret


def ends_at(secret: Secret) -> float | None:
    """Return when a credential ends that FlowMate cannot renew; ``None`` for any other.

    That is an OAuth 2 token without a refresh token. Sessions are renewed by another login
    (docs/contract/OBSERVED.md § One secret). The ends of OAuth 1 tokens were never observed, so they are not
    trusted here.

    Args:
        secret: as FlowMate answered it.

    Returns:
        Seconds since the Unix epoch.
    """
    if type(secret) is not OAuth2Secret or secret.renewable or (end := secret.expires_at) is None:
        return None
    return end.timestamp()
