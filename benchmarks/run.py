"""Every benchmark, or some: ``python run.py [PART …]``. Writes results/PART.json, then table and plots anew.

Each part is a script of its own, too, with options.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import report
from machine import about

HERE = Path(__file__).parent
PARTS = {
    "throughput": ["throughput.py"],
    "micro": ["micro.py"],
    "flow": [
        *("flow.py", "--transport", "wire", "--rates", "500", "5000"),
        *("--latencies", "0.01", "0.05", "0.2", "--latency-rounds", "2"),
    ],
    "memory": ["sweep_memory.py"],
    "sync": ["sync_stages.py"],
    "processes": ["processes.py"],
    "job": ["whole_job.py"],
    "skew": ["skewed.py"],
}


def measure(part: str) -> bool:
    """Run one part's script and keep what it found. Return whether it ended well."""
    began, before = time.perf_counter(), about()
    with TemporaryDirectory(prefix="flowmate-bench-") as folder:
        found = Path(folder) / "figures.json"
        script, *words = PARTS[part]
        code = subprocess.run(
            [sys.executable, HERE / script, *words, "--json", found], check=False
        ).returncode
        if not found.exists():
            print(f"{part}: no figures, exit code {code}", file=sys.stderr)
            return False
        result = {"part": part, "about": before, "figures": json.loads(found.read_text())}
    result["about"]["seconds"] = round(time.perf_counter() - began)
    report.RESULTS.mkdir(exist_ok=True)
    (report.RESULTS / f"{part}.json").write_text(json.dumps(result, indent=1) + "\n")
    return code == 0


def main() -> int:
    """Measure, and renew the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    good = [measure(part) for part in parts]
    report.renew()
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
