"""From seeds to a report: each run in its own empty folder."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from .plan import plan_for
from .report import Report, report_on
from .run import carried_out


def carry_out(seeds: Iterable[int]) -> Report:
    """Carry out the runs of these seeds, one after the other."""
    report = Report()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            report += report_on(carried_out(plan_for(seed), Path(folder)))
    return report
