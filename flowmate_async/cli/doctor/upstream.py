"""FlowMate itself: its identity, its clock, and what the admin token may do.

The requests are harmless: listings, and secrets that no GET refreshes (``permission.py``). Usernames
come from its own list: impersonating a name that is not on it may create a user (docs/contract/OBSERVED.md
§ Impersonation).
"""

from collections.abc import AsyncIterator, Callable

import msgspec

from flowmate_async.cli.doctor.findings import Finding, error, failed, ok, skipped, warning
from flowmate_async.cli.doctor.permission import look_at, permission_finding, sample_of
from flowmate_async.cli.doctor.traffic import check_rate
from flowmate_async.cli.exits import Exit
from flowmate_async.cli.options import Connection
from flowmate_async.client import FlowMate
from flowmate_async.contract.answers import read_page
from flowmate_async.contract.failures import examine, examine_broken
from flowmate_async.contract.protocol import LIST, USERS, list_secrets
from flowmate_async.errors import FlowMateError, PermissionDeniedError, RateLimitedError
from flowmate_async.redaction import Headers, one_line
from flowmate_async.transport import Limits, Response, Transport, TransportError
from flowmate_async.transport.factory import transport_by_name
from flowmate_async.values.dates import parse_http_date
from flowmate_async.values.models import SecretPage

_LIMITS = Limits(timeout_seconds=15.0, max_body_bytes=8 * 1024 * 1024)
_SKEW_WARNING_SECONDS, _SKEW_ERROR_SECONDS = 5.0, 60.0
_LARGE_PAGE = 1000
_AFTER = ("clock", "token", "permission", "pages", "rate")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the checks against FlowMate.

    Attributes:
        username: the user to check; ``None`` for a sample of the tenant's.
        probe: how many requests test the rate; 0 for none.
        wall: the local time, in seconds since the Unix epoch.
    """

    username: str | None
    probe: int
    wall: Callable[[], float]


async def check_upstream(connection: Connection, base_url: str, options: Options) -> AsyncIterator[Finding]:
    """Check that it is FlowMate, and what the token may do there.

    Args:
        connection: the flags.
        base_url: FlowMate's, checked.
        options: see :class:`Options`.
    """
    transport = transport_by_name(
        connection.transport,
        base_url,
        ca_file=connection.ca_file,
        proxy=connection.proxy,
        trust_env=connection.trust_env,
    )
    async with transport:
        answer, finding = await _check_api(transport)
        yield finding
        if answer is None:
            for check in _AFTER:
                yield skipped(check, "FlowMate does not answer")
            return
        yield _check_clock(answer, options.wall())
        async with connection.client() as fm:
            async for finding in _check_token(fm, transport, options):
                yield finding


async def _check_api(transport: Transport) -> tuple[Response | None, Finding]:
    """Send a request without a token; FlowMate answers that it is missing (§ Errors)."""
    request = list_secrets(number=1, size=1)
    try:
        answer = await transport.send(request.method, request.path, Headers(), None, _LIMITS)
    except TransportError as broken:
        return None, failed("api", examine_broken(request, broken).error, fix="Check the base URL")
    kind = one_line(answer.headers.get("content-type", "nothing").partition(";")[0], limit=60)
    if answer.status == 401:
        return answer, ok("api", "FlowMate answers, and asks for a token")
    if answer.status == 429 or answer.status >= 500:
        text = f"FlowMate answers {answer.status}"
        return None, error("api", text, "Try again later", code=Exit.UPSTREAM)
    text = f"asked without a token, the base URL answers {answer.status} and {kind}, not 401"
    fix = "Check that the base URL is FlowMate's API and not a login page, a proxy or a redirect"
    return None, error("api", text, fix, code=Exit.UPSTREAM)


def _check_clock(answer: Response, now: float) -> Finding:
    """Credentials are judged by their ``expires`` and this clock."""
    served_at = parse_http_date(answer.headers.get("date", ""))
    if served_at is None:
        return warning(
            "clock", "the answer has no Date to compare this clock with", "Check this clock by other means"
        )
    ahead = now - served_at
    way = f"{abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} FlowMate's"
    if abs(ahead) < _SKEW_WARNING_SECONDS:
        return ok("clock", "this clock and FlowMate's agree")
    effect = "credentials are taken for expired too " + ("early" if ahead > 0 else "late")
    fix = "Synchronise this machine's clock (NTP)"
    if abs(ahead) < _SKEW_ERROR_SECONDS:
        return warning("clock", f"this clock is {way}: {effect}", fix)
    return error("clock", f"this clock is {way}: {effect}", fix)


async def _check_token(fm: FlowMate, transport: Transport, options: Options) -> AsyncIterator[Finding]:
    usernames, finding = await _usernames(fm, options.username)
    yield finding
    if not usernames:
        for check in ("permission", "pages", "rate"):
            yield skipped(check, "there is no user to look at")
        return
    try:
        looked = await look_at(fm, usernames)
        yield permission_finding(looked)
        yield await _check_pages(fm, transport, looked.busiest, looked.secrets)
        yield await check_rate(fm, looked.busiest, probe=options.probe)
    except FlowMateError as problem:
        yield failed("user", problem, fix="Name a user that works with --user")


async def _usernames(fm: FlowMate, named: str | None) -> tuple[list[str], Finding]:
    """Return the users to check: the given one, or a sample of the tenant's."""
    try:
        accounts = [account async for account in fm.users()]
    except PermissionDeniedError as problem:
        if named is None:
            return [], failed("token", problem, fix="Use the tenant's admin token")
        text = f"the token may not list users ({USERS}), so --all-users will not work"
        return [named], warning("token", text, "Use the tenant's admin token, or name the users to sync")
    except FlowMateError as problem:
        return [], failed("token", problem, fix="Try again later")
    active = [account.username for account in accounts if account.is_active_tenant_user and account.username]
    text = f"accepted; {len(accounts):,} accounts, {len(active):,} of them active users of the tenant"
    if not active and named is None:
        return [], warning("token", text, "Check that the token is the right tenant's")
    return ([named] if named is not None else sample_of(active)), ok("token", text)


async def _check_pages(fm: FlowMate, transport: Transport, username: str, expected: int) -> Finding:
    """Check whether listings have totals and page sizes are respected (§ Listing)."""
    headers = (await fm.impersonate(username)).headers()
    try:
        small = await _page(transport, headers, size=1)
        large = await _page(transport, headers, size=_LARGE_PAGE)
    except RateLimitedError as problem:
        return skipped("pages", problem.message)
    if small.total is None or large.total is None:
        return warning(
            "pages",
            f"{LIST} gives no total, so no listing can be proven complete",
            "Ask FlowMate's support why meta.total is missing; syncs work, and remove nothing",
        )
    if len(small.data) > 1 or len(large.data) < min(large.total, _LARGE_PAGE):
        text = f"page sizes are not obeyed: of 1 came {len(small.data)}, of {_LARGE_PAGE} {len(large.data)}"
        return warning("pages", f"{text} of {large.total}", "Leave page_size at its default of 100")
    return ok("pages", f"sizes 1 to {_LARGE_PAGE} are obeyed, and {large.total or expected} are counted")


async def _page(transport: Transport, headers: Headers, *, size: int) -> SecretPage:
    request = list_secrets(number=1, size=size)
    try:
        answer = await transport.send(request.method, request.path, headers, None, _LIMITS)
    except TransportError as broken:
        failure = examine_broken(request, broken)
    else:
        refused = examine(request, answer, now=0.0)
        if refused is None:
            return read_page(answer)
        failure = refused
    raise failure.error
