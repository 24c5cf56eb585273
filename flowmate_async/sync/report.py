"""The report of a sync: totals, and accounts left out. It contains no credential."""

import msgspec

from flowmate_async.values.models import User


class LeftOut(msgspec.Struct, frozen=True):
    """An account that "all users" does not include (docs/contract/OBSERVED.md § Users of the tenant).

    Attributes:
        username: the account's username; empty if it has none.
        reason: why, in a word or two.
    """

    username: str
    reason: str


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of a run. The result of each user is its checkpoint in the store.

    Attributes:
        run_id: the run in the store.
        resumed: whether it was started earlier.
        complete: whether every user was tried; an incomplete run is resumed by the next sync.
        started_at: when the run was first started, in seconds since the Unix epoch.
        seconds: how long this call took.
        synced: users whose credentials are all stored, including earlier parts of the run.
        failed: users with something that could not be fetched, including earlier parts of the run.
        skipped: users that an earlier part of the run had synced.
        secrets: credentials that the run confirmed.
        changed: credentials this call wrote; ``None`` if unknown: after a sync by Celery workers, or if a
            worker process died after it had stored something.
        unchanged: credentials this call found unchanged; ``None`` if unknown.
        left: credentials this call did not fetch, by reason: ``unchanged``, ``renamed`` (the new name was
            stored), ``failed_before``, ``volatile``, ``other_type``; see
            :class:`~flowmate_async.DeltaPolicy`.
        missed: credentials that this call's listings showed and that could not be fetched or stored.
        throttled: answers of this call by which FlowMate asked to wait.
        requests: requests of this call.
        errors: failed users of the run by kind of error.
        left_out: accounts that were not selected.
        missing: stored credentials that upstream no longer has; not counted under the policy ``keep``.
        removed: how many of these were marked or deleted, including those that were marked before.
        removal_refused: whether nothing was removed because too large a share is missing.
        health: number of credentials by state; plainly healthy ones are not counted.
        told: notices that this call put into the store's outbox, by type, such as ``credential.broken``.
    """

    run_id: str
    resumed: bool
    complete: bool
    started_at: float
    seconds: float
    synced: int
    failed: int
    skipped: int
    secrets: int
    changed: int | None
    unchanged: int | None
    requests: int
    errors: dict[str, int]
    left_out: tuple[LeftOut, ...] = ()
    missing: int = 0
    removed: int = 0
    removal_refused: bool = False
    left: dict[str, int] | None = {}
    missed: int | None = 0
    throttled: int = 0
    health: dict[str, int] = {}
    told: dict[str, int] = {}

    @property
    def credentials(self) -> int | None:
        """Credentials that this call's listings showed; ``None`` if unknown.

        The sum of ``changed``, ``unchanged``, all of ``left``, and ``missed``.
        """
        if self.changed is None or self.unchanged is None or self.left is None or self.missed is None:
            return None
        return self.changed + self.unchanged + sum(self.left.values()) + self.missed


def with_throttling(report: SyncReport, throttled: int) -> SyncReport:
    """Return the report with the number of answers by which FlowMate asked to wait."""
    return msgspec.structs.replace(report, throttled=throttled)


def select(users: list[User]) -> tuple[list[str], tuple[LeftOut, ...]]:
    """Return the users in "all users" (docs/contract/OBSERVED.md § Users of the tenant), and the others."""
    chosen = [user.username for user in users if user.username and user.is_active_tenant_user]
    left_out = tuple(
        LeftOut(user.username or "", _reason(user)) for user in users if not user.is_active_tenant_user
    )
    return chosen, left_out


def _reason(user: User) -> str:
    if user.status != "ACTIVE":
        return f"status {user.status or 'unknown'}"
    return "no tenant" if not user.tenant else "has roles"
