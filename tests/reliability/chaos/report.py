"""What many runs add up to: how many faults of each kind were injected, and what was survived."""

from collections import Counter

import msgspec

from flowmate_async.sandbox.faults import KINDS

from .promises import PROMISES, broken
from .record import Record

PROXY_FAULTS = ("proxy_cut", "proxy_stall")


class Report(msgspec.Struct, kw_only=True):
    """Sums over runs; plain values, so that processes can hand them over.

    Attributes:
        faults: kind -> how often it came about.
        interruptions: how parts ended that did not end complete, by how.
        errors: errors that reached a caller, by kind.
        promises: promises that were checked, once a run each.
        broken: seed -> promise -> what broke it.
    """

    runs: int = 0
    parts: int = 0
    users: int = 0
    synced: int = 0
    failed: int = 0
    requests: int = 0
    credentials: int = 0
    handed_out: int = 0
    promises: int = 0
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, -1)
    faults: dict[str, int] = {}
    interruptions: dict[str, int] = {}
    errors: dict[str, int] = {}
    broken: dict[int, dict[str, list[str]]] = {}

    def __add__(self, other: "Report") -> "Report":
        summed = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        counted = {
            name: dict(Counter(getattr(self, name)) + Counter(getattr(other, name))) for name in _COUNTERS
        }
        slowest = max(self.slowest, other.slowest)
        return Report(**summed, **counted, slowest=slowest, broken=self.broken | other.broken)


_COUNTERS = ("faults", "interruptions", "errors")
_SUMS = tuple(name for name in Report.__struct_fields__ if name not in (*_COUNTERS, "slowest", "broken"))


def report_on(record: Record) -> Report:
    """The report of one run: here its promises are checked."""
    ends = [end.status for end in record.checkpoints.values()]
    ends += ["failed" if end.error else "synced" for end in record.swept]
    problems = broken(record)
    return Report(
        runs=1,
        parts=len(record.parts),
        users=len(ends),
        synced=ends.count("synced"),
        failed=ends.count("failed"),
        requests=len(record.sends),
        credentials=len(record.stored) + sum(len(end.contents) for end in record.swept),
        handed_out=len(record.handed),
        promises=len(PROMISES),
        seconds=record.seconds,
        slowest=(record.seconds, record.plan.seed),
        faults=record.faults,
        interruptions=dict(Counter(part.ended for part in record.parts if part.ended != "complete")),
        errors=dict(Counter(record.errors)),
        broken={record.plan.seed: problems} if problems else {},
    )


def written(report: Report) -> str:
    """The report as text."""
    lines = [
        f"{report.runs} runs of {report.parts} parts, {report.seconds:.0f} s of run time",
        f"the slowest took {report.slowest[0]:.1f} s (seed {report.slowest[1]})",
        f"{report.users} users: {report.synced} synced, {report.failed} failed",
        f"{report.requests} requests, {report.credentials} credentials stored or swept",
        f"{report.handed_out} credentials handed out to workers",
        f"{report.promises} promises checked, broken in {len(report.broken)} runs",
        "faults injected and survived:",
        *(f"  {kind:20} {report.faults.get(kind, 0):7}" for kind in (*KINDS, *PROXY_FAULTS)),
        f"  {'all':20} {sum(report.faults.values()):7}",
        "parts that ended early: " + _counts(report.interruptions),
        "errors that reached a caller: " + _counts(report.errors),
    ]
    return "\n".join(lines)


def complaint(report: Report) -> str:
    """What broke, and the command that repeats each run; empty when nothing did."""
    lines = []
    for seed, problems in sorted(report.broken.items()):
        lines.append(f"seed {seed}; repeat it: python -m tests.reliability.chaos --seed {seed}")
        for promise, found in problems.items():
            lines += [f"  {promise}: {problem}" for problem in found[:5]]
            lines += [f"  {promise}: … {len(found) - 5} more"] if len(found) > 5 else []
    return "\n".join(lines)


def _counts(counted: dict[str, int]) -> str:
    ordered = sorted(counted.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {number}" for name, number in ordered) or "none"
