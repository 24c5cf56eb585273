"""Routes: which endpoint a request line means. Pure.

docs/contract/OBSERVED.md names the paths; a slash at the end makes no difference to the services, two make
none after a collection, and HEAD is GET without the body (§ Second look, "Requests").
"""

import re
from urllib.parse import unquote_to_bytes

import msgspec

IMPERSONATE = "POST /impersonate"
LIST_USERS = "GET /users/"
GET_USER = "GET /users/{id}"
LIST_SECRETS = "GET /secrets/"
GET_SECRET = "GET /secrets/{id}"  # noqa: S105 - a route
UNKNOWN = "unknown"
ROUTES = (IMPERSONATE, LIST_USERS, GET_USER, LIST_SECRETS, GET_SECRET, UNKNOWN)

_WHOLE = {
    "POST /impersonate": IMPERSONATE,
    "GET /users": LIST_USERS,
    "GET /secrets": LIST_SECRETS,
}
_BY_ID = {
    "GET /users": GET_USER,
    "GET /secrets": GET_SECRET,
    "DELETE /secrets": UNKNOWN,
    "PATCH /secrets": UNKNOWN,
}
_BROKEN_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")


class Route(msgspec.Struct, frozen=True, gc=False):
    """Matched route: the template it is counted under, and the parts that vary.

    Attributes:
        template: one of ``ROUTES``.
        path: the path as sent, without the query.
        query: the query as sent.
        object_id: the id in the path, decoded; empty without one, None if it cannot be decoded.
    """

    template: str
    path: str
    query: str = ""
    object_id: str | None = ""

    @property
    def parameter(self) -> str:
        """The last part of the path, as sent."""
        return self.path.removesuffix("/").rpartition("/")[2]


def route_of(method: str, target: str) -> Route:
    """Match a request line."""
    path, _, query = target.partition("?")
    method = "GET" if method == "HEAD" else method
    whole = f"{method} {path.removesuffix('/')}"
    collection = whole.removesuffix("/")
    if collection in _WHOLE:
        return Route(_WHOLE[collection], path, query)
    parent, _, last = whole.rpartition("/")
    if parent in _BY_ID:
        return Route(_BY_ID[parent], path, query, _decoded(last))
    return Route(UNKNOWN, path, query)


def _decoded(segment: str) -> str | None:
    if "%" not in segment:
        return segment
    if _BROKEN_ESCAPE.search(segment):
        return None
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
