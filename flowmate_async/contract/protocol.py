"""FlowMate's endpoints: the requests that are sent to them, without a socket.

Pure. ``answers.py`` reads good answers, ``failures.py`` bad ones. Sections cited are those of
docs/contract/OBSERVED.md.
"""

import msgspec

from flowmate_async.contract.ids import checked_id, checked_username
from flowmate_async.errors import InvalidIdError

IMPERSONATE = "POST /impersonate"
USERS = "GET /users/"
LIST = "GET /secrets/"
GET = "GET /secrets/{id}"

_MAX_PAGE = 2**31 - 1


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request, without its credentials.

    Attributes:
        endpoint: its name in errors and statistics.
        path: path and query below the base URL.
        body: sent as JSON when not ``None``.
        username: on whose behalf it is sent; ``None`` for the tenant's own requests.
        secret_id: the secret it fetches.
        may_refresh: upstream may refresh a credential while answering, so that sending it twice is not
            harmless (§ Connections).
        auth_client_id: the OAuth client whose provider upstream may ask meanwhile, as far as that is known.
    """

    endpoint: str
    method: str
    path: str
    body: bytes | None = None
    username: str | None = None
    secret_id: str | None = None
    may_refresh: bool = False
    auth_client_id: str | None = None


def impersonate(username: str) -> Request:
    """Return the request for a user token (§ Impersonation).

    Raises:
        InvalidIdError: the username is empty or invalid; a typo may create a user upstream.
    """
    body = msgspec.json.encode({"username": checked_username(username)})
    return Request(endpoint=IMPERSONATE, method="POST", path="/impersonate", body=body, username=username)


def users() -> Request:
    """Return the request for every account of the tenant (§ Users of the tenant): one body, not paginated."""
    return Request(endpoint=USERS, method="GET", path="/users/?meta=true")


def list_secrets(*, number: int, size: int, username: str | None = None) -> Request:
    """Return the request for one page of a listing (§ Listing).

    Args:
        number: the page, from 1.
        size: secrets per page; upstream has no maximum.
        username: on whose behalf.

    Raises:
        InvalidIdError: a number or size below 1, for which upstream would return something else.
    """
    for name, value in (("number", number), ("size", size)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_PAGE:
            raise InvalidIdError(f"the page {name} must be a whole number from 1, not {value!r}")
    path = f"/secrets/?page%5Bsize%5D={size}&page%5Bnumber%5D={number}"
    return Request(endpoint=LIST, method="GET", path=path, username=username)


def get_secret(
    secret_id: str,
    *,
    username: str | None = None,
    may_refresh: bool = True,
    auth_client_id: str | None = None,
) -> Request:
    """Return the request for one secret with its credential (§ One secret).

    Args:
        secret_id: the secret's id.
        username: on whose behalf.
        may_refresh: whether upstream may refresh it; ``True`` when that is not known.
        auth_client_id: the OAuth client that it would be refreshed with, as far as that is known.

    Raises:
        InvalidIdError: the id could leave its path segment. Upstream answers a malformed one with 401.
    """
    path = f"/secrets/{checked_id(secret_id)}"  # contains no character that needs quoting
    return Request(
        endpoint=GET,
        method="GET",
        path=path,
        username=username,
        secret_id=secret_id,
        may_refresh=may_refresh,
        auth_client_id=auth_client_id,
    )
