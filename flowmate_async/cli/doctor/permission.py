"""Whether the tenant's users can be read, by a sample, since the permission is per user.

The requests are harmless: a listing for each user, and secrets of types that no GET refreshes
(docs/contract/OBSERVED.md § One secret), until one shows whether values come masked (§ Second look).
"""

import time
from collections.abc import Sequence

import msgspec

from flowmate_async.cli.doctor.findings import Finding, error, ok, warning
from flowmate_async.cli.exits import Exit
from flowmate_async.client import FlowMate
from flowmate_async.contract.freshness import may_refresh
from flowmate_async.contract.masks import proves_raw_read, shows_masking
from flowmate_async.errors import FlowMateError, MaskedSecretError
from flowmate_async.redaction import one_line
from flowmate_async.values.models import SecretSummary

SAMPLE = 5
"""How many users are sampled."""

_ONE_LINE_TYPES = ("SIMPLE", "OA2_AUTHORIZATION_CODE")
"""Types to try first: values of several lines may arrive unmasked, so they prove nothing."""

_GRANT = "Grant these users the permission secrets.secret.readRaw"
_SHOWN = 3


def sample_of(usernames: Sequence[str]) -> list[str]:
    """Return at most :data:`SAMPLE` of these users, evenly spread, including the first and the last."""
    last = len(usernames) - 1
    if last < SAMPLE:
        return list(usernames)
    return [usernames[round(number * last / (SAMPLE - 1))] for number in range(SAMPLE)]


class Looked(msgspec.Struct):
    """What sampling some users found.

    Attributes:
        busiest: the user with the most secrets.
        secrets: how many secrets that user has.
        readable: users whose credentials arrive in plaintext.
        masked: users whose credentials arrive masked.
        unclear: users with no secret that shows which.
        failed: users that cannot be read at all, and why.
    """

    busiest: str = ""
    secrets: int = -1
    readable: list[str] = []
    masked: list[str] = []
    unclear: list[str] = []
    failed: dict[str, FlowMateError] = {}


async def look_at(fm: FlowMate, usernames: Sequence[str]) -> Looked:
    """Sample these users.

    Args:
        fm: the client.
        usernames: at least one.

    Raises:
        FlowMateError: none of them can be read.
    """
    looked = Looked()
    for username in usernames:
        try:
            secrets = await fm.list_secrets(username)
            shown = await _reads_raw(fm, username, secrets)
        except FlowMateError as problem:
            looked.failed[username] = problem
            continue
        if len(secrets) > looked.secrets:
            looked.busiest, looked.secrets = username, len(secrets)
        found = {True: looked.readable, False: looked.masked, None: looked.unclear}[shown]
        found.append(username)
    if len(looked.failed) == len(usernames):
        raise looked.failed[usernames[0]]
    return looked


def permission_finding(looked: Looked) -> Finding:
    """Return the findings about the sampled users."""
    users = [*looked.readable, *looked.masked, *looked.unclear, *looked.failed]
    if len(looked.masked) == len(users):
        text = f"credentials come masked, not in clear: {_counted(looked.masked, users)}"
        return error("permission", text, _GRANT, code=Exit.UPSTREAM)
    if looked.masked:
        text = f"{_counted(looked.masked, users)}, {len(looked.readable)} come in clear"
        return warning("permission", f"credentials of some users come masked: {text}", _GRANT)
    if looked.failed:
        name, problem = next(iter(looked.failed.items()))
        text = f"{_counted(list(looked.failed), users)}; {name}: {problem}"
        return warning(
            "permission", one_line(f"some users cannot be read: {text}", limit=2000), problem.advice
        )
    if looked.readable:
        text = f"credentials arrive in clear, not masked ({_counted(looked.readable, users, names=False)})"
        return ok("permission", text)
    return warning(
        "permission",
        f"none of the {len(users)} users looked at has a secret that shows whether values come masked",
        "With --user, name a user with a password, an API key or an OAuth token",
    )


async def _reads_raw(fm: FlowMate, username: str, secrets: Sequence[SecretSummary]) -> bool | None:
    """Return whether a user's credentials arrive in plaintext; ``None`` if no secret shows it."""
    now = time.time()
    harmless = [
        summary for summary in secrets if shows_masking(summary.type) and not may_refresh(summary, now=now)
    ]
    for summary in sorted(harmless, key=lambda one: one.type not in _ONE_LINE_TYPES):
        try:
            secret = await fm.get_secret(username, summary.id)
        except MaskedSecretError:
            return False
        if proves_raw_read(secret):
            return True
    return None


def _counted(some: Sequence[str], users: Sequence[str], *, names: bool = True) -> str:
    named = ", ".join(some[:_SHOWN]) + (", …" if len(some) > _SHOWN else "")
    count = f"{len(some)} of {len(users)} users looked at"
    return f"{count} ({one_line(named, limit=300)})" if names else count
