"""Text output about what a sync did or would do."""

from flowmate_async.cli.exits import print_data, print_json, print_status
from flowmate_async.sync.dry_run import SyncPlan
from flowmate_async.sync.report import SyncReport

_SHOWN_LEFT_OUT = 20


def show(report: SyncReport, *, as_json: bool) -> None:
    """Print what a sync did: data on stdout, the rest on stderr."""
    if as_json:
        print_json(report)
    else:
        print_data(summary(report))
    if report.left_out:
        shown = [f"{account.username} ({account.reason})" for account in report.left_out[:_SHOWN_LEFT_OUT]]
        more = len(report.left_out) - len(shown)
        rest = f" and {more} more" if more else ""
        print_status(f"Left out {len(report.left_out)} accounts: {', '.join(shown)}{rest}")
    if report.removal_refused:
        print_status(
            f"Nothing was removed: {report.missing:,} stored credentials are gone upstream, more than "
            "--max-removed-share allows. If that is right, sync again with a larger share."
        )
    if not report.complete:
        print_status("The run is incomplete; run the same command again to resume it.")


def summary(report: SyncReport) -> str:
    """Return the totals in one line."""
    how = "complete" if report.complete else "incomplete"
    text = (
        f"Run {report.run_id} {how}: {report.synced:,} users synced, {report.failed:,} failed; "
        f"{report.secrets:,} credentials{_written(report)}; "
        f"{report.requests:,} requests in {report.seconds:.1f} s"
    )
    if report.removed:
        text += f"; {report.removed:,} removed"
    if report.resumed:
        text += f"; resumed, {report.skipped:,} users were done before"
    if report.errors:
        text += f"; failures: {counts(report.errors)}"
    if report.health:
        text += f"; health: {counts(report.health)}"
    return text


def _written(report: SyncReport) -> str:
    if report.changed is None or report.unchanged is None or report.left is None:
        return ""
    left = sum(report.left.values())
    return f" ({report.changed:,} written, {report.unchanged:,} fetched and unchanged, {left:,} left)"


def planned(plan: SyncPlan) -> str:
    """Return the plan in one line."""
    fetch, left = counts(plan.fetch), counts(plan.left)
    text = (
        f"{plan.users:,} users: {sum(plan.fetch.values()):,} credentials to fetch{fetch and f' ({fetch})'}, "
        f"{sum(plan.left.values()):,} to leave as they are stored{left and f' ({left})'}; "
        f"{plan.requests:,} requests"
    )
    if plan.failed:
        text += f"; could not be listed: {counts(plan.failed)}"
    return text


def counts(numbers: dict[str, int]) -> str:
    """Return counts by kind in one line."""
    return ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in sorted(numbers.items()))
