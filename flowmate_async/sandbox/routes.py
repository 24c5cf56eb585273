"""Routes: which endpoint a request line means. Pure; an unknown route is an answer too.

docs/contract/OBSERVED.md names the paths; a slash at the end makes no difference to the services.
"""

from urllib.parse import unquote

import msgspec

__all__ = [
    "GET_SECRET",
    "GET_USER",
    "IMPERSONATE",
    "LIST_SECRETS",
    "LIST_USERS",
    "ROUTES",
    "UNKNOWN",
    "Route",
    "route_of",
]

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
_BY_ID = {"GET /users": GET_USER, "GET /secrets": GET_SECRET}


class Route(msgspec.Struct, frozen=True, gc=False):
    """Matched route: the template it is counted under, and the parts that vary."""

    template: str
    path: str
    query: str = ""
    object_id: str = ""


def route_of(method: str, target: str) -> Route:
    """Match a request line."""
    path, _, query = target.partition("?")
    whole = f"{method} {path.removesuffix('/')}"
    if whole in _WHOLE:
        return Route(_WHOLE[whole], path, query)
    parent, _, last = whole.rpartition("/")
    if parent in _BY_ID:
        return Route(_BY_ID[parent], path, query, unquote(last) if "%" in last else last)
    return Route(UNKNOWN, path, query)
