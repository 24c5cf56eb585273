"""``flowmate health``: whose connections are broken, since when, why, and what to do."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from cyclopts import Parameter

from flowmate_async.cli.durations import UNITS
from flowmate_async.cli.exits import Exit, print_data, print_error, print_json, print_status
from flowmate_async.cli.options import Connection, StoreFlags
from flowmate_async.cli.usernames import checked_usernames
from flowmate_async.errors import ConfigurationError
from flowmate_async.health.records import Credential
from flowmate_async.health.states import Health, HealthState
from flowmate_async.redaction import one_line
from flowmate_async.stores.base import Store
from flowmate_async.stores.health import require_health_keeper

_FINE = (HealthState.HEALTHY, HealthState.UNVERIFIED)


class Shown(msgspec.Struct, frozen=True):
    """A credential as shown.

    Attributes:
        username: the user.
        secret_id: the secret's id.
        type: upstream's word for its type.
        auth_client_id: the OAuth client behind it, if one is known.
        state: the state, as ``broken``.
        reason: why it has this state.
        since: when the state began, in ISO 8601; ``None`` when that is not known.
        action: what to do, and who should do it.
    """

    username: str
    secret_id: str
    type: str
    auth_client_id: str | None
    state: HealthState
    reason: str
    since: str | None
    action: str


@Parameter(name="*", group="Which credentials")
@dataclass(frozen=True, kw_only=True)
class Which:
    """Which credentials are shown."""

    broken: Annotated[bool, Parameter(negative=(), help="Only those whose users have to reconnect.")] = False
    state: Annotated[
        tuple[HealthState, ...], Parameter(negative=(), help="Only those in this state; repeatable.")
    ] = ()
    client: Annotated[str | None, Parameter(help="Only those of this OAuth client (authClientId).")] = None
    type: Annotated[str | None, Parameter(help="Only those of this type, as API_KEY.")] = None
    since: Annotated[
        str | None,
        Parameter(
            help="Only those whose state began since then: 2026-11-30, 2026-11-30T08:00:00Z, 36h or 7d."
        ),
    ] = None

    def matches(self, credential: Credential, health: Health, *, earliest: float) -> bool:
        """Return whether to show a credential.

        Args:
            credential: the credential.
            health: its health.
            earliest: the earliest start of the state, in seconds since the Unix epoch.
        """
        states = (HealthState.BROKEN,) if self.broken else self.state
        return (
            (not states or health.state in states)
            and self.client in (None, credential.auth_client_id)
            and self.type in (None, credential.type)
            and health.since >= earliest
        )

    def earliest(self, *, now: datetime) -> float:
        """Return ``--since`` in seconds since the Unix epoch; 0 without it.

        Args:
            now: the time.

        Raises:
            ConfigurationError: it is not a time.
        """
        text = self.since
        if text is None:
            return 0.0
        try:
            if text[-1:] in UNITS:
                return (now - timedelta(seconds=float(text[:-1]) * UNITS[text[-1]])).timestamp()
            moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            raise ConfigurationError(
                "--since is not a time", advice="Write 2026-11-30, 2026-11-30T08:00:00Z, 36h or 7d"
            ) from None
        return (moment if moment.tzinfo else moment.astimezone()).timestamp()


async def health(
    *usernames: str,
    which: Which = Which(),
    live: Annotated[
        bool,
        Parameter(negative=(), help="List the users at FlowMate as well; no credential is fetched."),
    ] = False,
    json: Annotated[bool, Parameter(negative=(), help="One JSON object per line.")] = False,
    store: StoreFlags = StoreFlags(),
    connection: Connection = Connection(),
) -> Exit:
    """Show which credentials do not work, since when, why, and what to do.

    Shows what syncs have written to the store. Credentials that are plainly fine are not shown, except with
    --live. They are grouped by app: by OAuth client, or by type. Ends with exit code 1 if a credential that
    is shown is broken.

    Examples:
        flowmate health --store sqlite:///credentials.db

        flowmate health --broken --since 7d --json

        flowmate health customer-a --live

    Args:
        usernames: Users by name; all users when left out.
        which: Which credentials are shown.
        live: List the users as well.
        json: How it is shown.
        store: Where syncs have written it.
        connection: How FlowMate is reached, with --live.
    """
    names = checked_usernames(usernames, what="the command line", unit="username") if usernames else None
    earliest = which.earliest(now=datetime.now(UTC))
    counts: Counter[HealthState] = Counter()
    shown: list[tuple[Credential, Health]] = []
    failed = 0
    async with AsyncExitStack() as entered:
        opened = None if live and not store.store else await entered.enter_async_context(store.open())
        found = _live(connection, opened, names) if live else _stored(opened, names)
        async for one in await entered.enter_async_context(aclosing(found)):  # type: ignore[type-var] # a generator
            if isinstance(one, str):
                print_error(one)
                failed += 1
            elif which.matches(*one, earliest=earliest):
                counts[one[1].state] += 1
                if json:
                    print_json(_shown(*one))
                else:
                    shown.append(one)
    if not json:
        _show_by_app(shown)
        print_status(_summary(counts))
    return Exit.SOME_FAILED if counts[HealthState.BROKEN] or failed else Exit.OK


async def _stored(
    store: Store | None, names: Sequence[str] | None
) -> AsyncIterator[tuple[Credential, Health] | str]:
    """Yield the store's records."""
    if store is None:
        return
    keeper = require_health_keeper(store)
    for name in names if names is not None else [None]:
        async for record in keeper.health(name):
            yield record.credential, record.health


async def _live(
    connection: Connection, store: Store | None, names: Sequence[str] | None
) -> AsyncIterator[tuple[Credential, Health] | str]:
    """Yield what listings show, or why a user cannot be listed."""
    async with connection.client() as fm, aclosing(fm.health(names, store=store)) as users:
        async for user in users:
            if user.error is not None:
                yield str(user.error)
            for one in user.credentials:
                yield one.credential, one.health


def _shown(credential: Credential, health: Health) -> Shown:
    since = datetime.fromtimestamp(health.since, UTC).isoformat(timespec="seconds") if health.since else None
    return Shown(
        username=credential.username,
        secret_id=credential.secret_id,
        type=credential.type,
        auth_client_id=credential.auth_client_id,
        state=health.state,
        reason=health.reason.value,
        since=since,
        action=health.action,
    )


def _show_by_app(shown: Iterable[tuple[Credential, Health]]) -> None:
    """Print the credentials by app: those with most broken ones first, in each the newest first."""
    apps: dict[str, list[tuple[Credential, Health]]] = {}
    for one in shown:
        apps.setdefault(one[0].app, []).append(one)
    for group in sorted(apps.values(), key=_most_broken_first):
        first, counts = group[0][0], Counter(health.state for _, health in group)
        app = f"OAuth client {first.auth_client_id}" if first.auth_client_id else first.app
        print_data(one_line(f"{app}: {_summary(counts)}", limit=200))
        for credential, health in sorted(group, key=lambda one: -one[1].since):
            _show(_shown(credential, health))


def _most_broken_first(group: list[tuple[Credential, Health]]) -> tuple[int, str]:
    return -sum(health.state is HealthState.BROKEN for _, health in group), group[0][0].app


def _show(shown: Shown) -> None:
    since = shown.since.partition("+")[0].replace("T", " ") if shown.since else "-"
    what = f"{shown.state.value:<15}  {since:<19}  {shown.username}  {shown.secret_id}  {shown.type}"
    print_data("  " + one_line(f"{what}  {shown.reason}: {shown.action}", limit=600))


def _summary(counts: Counter[HealthState]) -> str:
    if not counts:
        return "No credential to show: nothing is known to be wrong"
    return ", ".join(
        f"{counts[state]:,} {state.value.replace('_', ' ')}" for state in HealthState if counts[state]
    )
