"""Whether a finished run is plausible: a pure rule on its totals."""

from flowmate_async.contract.protocol import IMPERSONATE
from flowmate_async.errors import FlowMateError, UpstreamUnavailableError, UserNotFoundError
from flowmate_async.stores.base import RunTotals

_AT_LEAST_USERS = 10
_NEARLY_ALL = 0.9

_NOT_FOUND = UserNotFoundError("").kind


def implausible(totals: RunTotals) -> FlowMateError | None:
    """Return the error of a run in which nearly all users were "not found"; ``None`` for any other run.

    So many users do not disappear at once. Another tenant's token, a wrong base URL or a gateway that answers
    for FlowMate looks like this. So the run is not complete and nothing counts as removed.
    """
    not_found = totals.errors.get(_NOT_FOUND, 0)
    users = totals.synced + totals.failed
    if not_found < _AT_LEAST_USERS or not_found < _NEARLY_ALL * users:
        return None
    return UpstreamUnavailableError(
        f'{not_found} of {users} users were "not found", which is more likely a fault than the truth',
        advice="Check the base URL, the admin token and the usernames; run again to resume",
        endpoint=IMPERSONATE,
    )
