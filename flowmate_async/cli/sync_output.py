"""Text output about what a sync did or would do."""

from collections import Counter

from flowmate_async.cli.exits import print_data, print_json, print_status, print_warning
from flowmate_async.cli.progress import plural, throttling
from flowmate_async.sync.dry_run import SyncPlan
from flowmate_async.sync.removal import RemovalPolicy
from flowmate_async.sync.report import SyncReport

_SHOWN_LEFT_OUT = 20


def show(
    report: SyncReport, *, as_json: bool, verbose: bool = False, removal: RemovalPolicy = "keep"
) -> None:
    """Print what a sync did: data on stdout, the rest on stderr.

    Args:
        report: the totals.
        as_json: print them as JSON.
        verbose: name the accounts that were left out.
        removal: what happened to credentials that upstream no longer has.
    """
    if as_json:
        print_json(report)
    else:
        print_data(summary(report, removal=removal))
    if report.left_out:
        _show_left_out(report, verbose=verbose)
    if report.throttled:
        _show_throttling(report)
    if report.removal_refused:
        print_status(
            f"Nothing was removed: {plural(report.missing, 'stored credential')} gone upstream, more than "
            "--max-removed-share allows. If that is right, sync again with a larger share.",
            event="removal_refused",
        )
    if not report.complete:
        print_status("The run is incomplete; run the same command again to resume it.", event="incomplete")


def _show_left_out(report: SyncReport, *, verbose: bool) -> None:
    reasons = counts(dict(Counter(account.reason for account in report.left_out)))
    named = "; -v names them"
    if verbose:
        shown = [f"{account.username} ({account.reason})" for account in report.left_out[:_SHOWN_LEFT_OUT]]
        more = len(report.left_out) - len(shown)
        named = f": {', '.join(shown)}{f' and {more:,} more' if more else ''}"
    text = f"Left out {plural(len(report.left_out), 'account')} ({reasons}){named}"
    print_status(text, event="left_out", accounts=len(report.left_out))


def _show_throttling(report: SyncReport) -> None:
    print_warning(
        f"FlowMate throttled {report.throttled:,} of {plural(report.requests, 'request')}. Lower --rate; "
        "`flowmate doctor` measures which rate fits",
        event="throttled",
        throttled=report.throttled,
    )


def summary(report: SyncReport, *, removal: RemovalPolicy = "keep") -> str:
    """Return the totals in one line."""
    how = "complete" if report.complete else "incomplete"
    text = (
        f"Run {report.run_id} {how}: {plural(report.synced, 'user')} synced, {report.failed:,} failed; "
        f"{_credentials(report)}; "
        f"{plural(report.requests, 'request')}{throttling(report.throttled)} in {report.seconds:.1f} s"
    )
    if report.removed:
        text += f"; {report.removed:,} {'marked as removed' if removal == 'mark' else 'removed'}"
    if report.resumed:
        text += f"; resumed, {plural(report.skipped, 'user')} done before"
    if report.errors:
        text += f"; failures: {counts(report.errors)}"
    if report.health:
        text += f"; health: {counts(report.health)}"
    return text


def _credentials(report: SyncReport) -> str:
    """Return numbers that add up: those of this call's listings, if they are known."""
    if report.credentials is None or report.left is None:
        return plural(report.secrets, "credential")
    return (
        f"{plural(report.credentials, 'credential')} ({report.changed:,} written, "
        f"{report.unchanged:,} unchanged, {sum(report.left.values()):,} skipped, {report.missed:,} failed)"
    )


def planned(plan: SyncPlan) -> str:
    """Return the plan in one line."""
    fetch, left = counts(plan.fetch), counts(plan.left)
    text = (
        f"{plural(plan.users, 'user')}: {plural(sum(plan.fetch.values()), 'credential')} to fetch"
        f"{fetch and f' ({fetch})'}, "
        f"{sum(plan.left.values()):,} to leave as they are stored{left and f' ({left})'}; "
        f"{plural(plan.requests, 'request')}"
    )
    if plan.failed:
        text += f"; could not be listed: {counts(plan.failed)}"
    return text


def counts(numbers: dict[str, int]) -> str:
    """Return counts by kind in one line."""
    return ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in sorted(numbers.items()))
