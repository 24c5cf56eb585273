"""Outages: what a request gets while a service behind the gateway is down. Pure.

docs/contract/OBSERVED.md § Errors and § Second look, "Outages". A fault (``faults.py``) strikes a share of
the requests; an outage affects every request that needs the service that is down.
"""

from enum import StrEnum

from flowmate_async.sandbox.answers import Answer, error
from flowmate_async.sandbox.bad_answers import iam_down, ingress_page
from flowmate_async.sandbox.faults import IngressPage
from flowmate_async.sandbox.routes import GET_SECRET, LIST_SECRETS, UNKNOWN, Route

_BAD_GATEWAY = ingress_page(IngressPage(page="bad_gateway"))


class Outage(StrEnum):
    """What is down."""

    IAM = "iam"
    """Secrets: 401 ``… Details: Authorization failed``, whatever the token. IAM's own routes: a 502 page."""

    SECRET_SERVICE = "secret_service"  # noqa: S105 - a service's name
    """Secrets: a 502 page. IAM's routes work."""

    DATABASE = "database"
    """Every route hangs until the database is back; a GET by id gives up after 30 s with 401."""


def instead_of_answer(outage: Outage, route: Route, authorization: str | None) -> Answer | None:
    """Return the replacement answer; None if the outage does not affect the request or the request hangs."""
    concerns_secrets = route.template in (LIST_SECRETS, GET_SECRET)
    match outage:
        case Outage.IAM if concerns_secrets:
            return iam_down(authorization)
        case Outage.IAM if route.template != UNKNOWN:
            return _BAD_GATEWAY
        case Outage.SECRET_SERVICE if concerns_secrets:
            return _BAD_GATEWAY
        case _:
            return None


def hangs(outage: Outage | None, route: Route) -> bool:
    """Return whether a request waits for the end of the outage."""
    return outage is Outage.DATABASE and route.template != UNKNOWN


def after_hanging(route: Route) -> Answer | None:
    """Return the answer to a request that has hung for 30 s; None if it keeps hanging."""
    return error(401) if route.template == GET_SECRET else None
