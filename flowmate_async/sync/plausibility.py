"""Whether a finished run is plausible: a pure rule on its totals."""

from flowmate_async.contract.protocol import IMPERSONATE
from flowmate_async.errors import (
    FlowMateError,
    RateLimitedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    UserNotFoundError,
)
from flowmate_async.stores.base import RunTotals

_AT_LEAST_USERS = 10
_NEARLY_ALL = 0.9

_NOT_FOUND = UserNotFoundError("").kind
_UNAVAILABLE = tuple(
    kind("").kind for kind in (UpstreamUnavailableError, UpstreamTimeoutError, RateLimitedError)
)


def implausible(totals: RunTotals) -> FlowMateError | None:
    """Return the error of a run in which nearly all users failed alike; ``None`` for any other run.

    So many users do not disappear at once. Another tenant's token, a wrong base URL or a gateway that answers
    for FlowMate looks like this. And if FlowMate was unavailable for nearly all users, the run would count as
    a success although it stored nothing. So the run is not complete and nothing counts as removed.
    """
    not_found = totals.errors.get(_NOT_FOUND, 0)
    unavailable = sum(totals.errors.get(kind, 0) for kind in _UNAVAILABLE)
    users = totals.synced + totals.failed
    enough = max(_AT_LEAST_USERS, _NEARLY_ALL * users)
    if unavailable >= enough:
        return UpstreamUnavailableError(
            f"FlowMate was unavailable for {unavailable} of {users} users", advice="Run again later to resume"
        )
    if not_found < enough:
        return None
    return UpstreamUnavailableError(
        f'{not_found} of {users} users were "not found", which is more likely a fault than the truth',
        advice="Check the base URL, the admin token and the usernames; run again to resume",
        endpoint=IMPERSONATE,
    )
