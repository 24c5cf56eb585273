"""Whose credentials need reconnecting: by app, the newest first, in bounded memory."""

import heapq
from collections import Counter

import msgspec

from flowmate_async.health.records import HealthRecord
from flowmate_async.health.states import HealthState
from flowmate_async.reporting import charts
from flowmate_async.stores import Store
from flowmate_async.stores.health import KeepsHealth

MOST_PER_APP = 50
DAYS = 14
_DAY_SECONDS = 86_400.0
_FOR_USERS = frozenset({HealthState.BROKEN, HealthState.EXPIRING})
"""States in which the user can act. Administrators and providers are not asked to reconnect."""


class AppTrouble(msgspec.Struct, kw_only=True):
    """The credentials of one app that need reconnecting.

    Attributes:
        app: the OAuth client, or the type of credentials without one.
        is_client: whether it is an OAuth client.
        broken: broken credentials.
        expiring: credentials that end soon.
        last_day: how many of both began within the last 24 hours.
        last_week: how many of both began within the last 7 days.
        newest: the newest ones, at most :data:`MOST_PER_APP`.
    """

    app: str
    is_client: bool
    broken: int = 0
    expiring: int = 0
    last_day: int = 0
    last_week: int = 0
    newest: list[HealthRecord] = []

    @property
    def total(self) -> int:
        """Broken and expiring ones."""
        return self.broken + self.expiring


class NeedsReconnecting(msgspec.Struct, kw_only=True):
    """What a page shows about credentials that need reconnecting.

    Attributes:
        apps: by app, those with most of them first.
        trend: how many of them began on each of the last :data:`DAYS` days; the last one ends now.
        before: how many began earlier.
    """

    apps: list[AppTrouble]
    trend: tuple[charts.DayBar, ...]
    before: int


async def needs_reconnecting(store: Store, *, now: float) -> NeedsReconnecting:
    """Return whose credentials need reconnecting, by the records of a store.

    Args:
        store: an entered store. One that keeps no health has none.
        now: seconds since the Unix epoch.
    """
    apps: dict[str, AppTrouble] = {}
    newest: dict[str, list[tuple[float, str, str, HealthRecord]]] = {}
    days: Counter[int] = Counter()
    if isinstance(store, KeepsHealth):
        async for record in store.health():
            if record.health.state not in _FOR_USERS:
                continue
            _count(apps, record, age_seconds=now - record.health.since)
            days[max(0, int((now - record.health.since) // _DAY_SECONDS))] += 1
            kept = newest.setdefault(record.credential.app, [])
            heapq.heappush(kept, (record.health.since, *record.place, record))
            if len(kept) > MOST_PER_APP:
                heapq.heappop(kept)
    for name, trouble in apps.items():
        trouble.newest = [
            record for *_, record in sorted(newest[name], key=lambda one: one[:3], reverse=True)
        ]
    return NeedsReconnecting(
        apps=sorted(apps.values(), key=lambda one: (-one.total, one.app)),
        trend=charts.days([days[age] for age in reversed(range(DAYS))]),
        before=sum(times for age, times in days.items() if age >= DAYS),
    )


def _count(apps: dict[str, AppTrouble], record: HealthRecord, *, age_seconds: float) -> None:
    credential = record.credential
    trouble = apps.get(credential.app)
    if trouble is None:
        is_client = credential.auth_client_id is not None
        trouble = apps[credential.app] = AppTrouble(app=credential.app, is_client=is_client)
    if record.health.state is HealthState.BROKEN:
        trouble.broken += 1
    else:
        trouble.expiring += 1
    trouble.last_day += age_seconds < _DAY_SECONDS
    trouble.last_week += age_seconds < 7 * _DAY_SECONDS
