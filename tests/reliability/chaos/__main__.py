"""``python -m tests.reliability.chaos``: many chaos runs and a report; status 1 when a promise broke."""

# ruff: noqa: T201 - a command

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import msgspec

from .plan import plan_for
from .report import Report, complaint, written
from .seeds import carry_out

_CHUNK = 10


def main() -> int:
    """Parse the options, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="how many seeds (default 2000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="only this seed, and show its plan")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: a core each)"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    options = parser.parse_args()
    if options.seed is not None:
        print(msgspec.json.format(msgspec.json.encode(plan_for(options.seed))).decode(), file=sys.stderr)
        report = carry_out([options.seed])
    else:
        report = _many(range(options.first, options.first + options.runs), jobs=options.jobs)
    print(msgspec.json.encode(report).decode() if options.json else written(report))
    if problems := complaint(report):
        print(problems, file=sys.stderr)
    return bool(report.broken)


def _many(seeds: range, *, jobs: int) -> Report:
    """In processes, a few seeds at a time, with a line of progress."""
    report = Report()
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    with ProcessPoolExecutor(jobs) as pool:
        for done in pool.map(carry_out, chunks):
            report += done
            if sys.stderr.isatty() or done.broken:
                print(f"{report.runs} of {len(seeds)} runs, {len(report.broken)} broken", file=sys.stderr)
    return report


if __name__ == "__main__":
    sys.exit(main())
