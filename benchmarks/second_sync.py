"""What a second, unchanged sync costs upstream: requests of each kind, as the twin itself counted them.

The twin and the sync are processes of their own. What is due is what the listing shows that upstream would
refresh or log in for; `--dry-run` says how many that are before the second sync begins.

    python benchmarks/second_sync.py [--users 5000] [--seed 7] [--workers 1]
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLOWMATE = (sys.executable, "-m", "flowmate_async")


@contextlib.contextmanager
def twin(users: int, seed: int) -> Iterator[dict[str, str]]:
    """A running twin: the variables that name it."""
    command = [*FLOWMATE, "sandbox", "--users", str(users), "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield dict(process.stdout.readline().strip().split("=", 1) for _ in range(2))
    finally:
        process.terminate()
        process.wait()


def ask(where: dict[str, str], path: str, *, method: str = "GET") -> bytes:
    """What the twin answers about itself."""
    request = urllib.request.Request(f"{where['FLOWMATE_BASE_URL']}/_sandbox/{path}", method=method)
    request.add_header("Authorization", f"Bearer {where['FLOWMATE_ADMIN_TOKEN']}")
    with urllib.request.urlopen(request) as answer:
        body: bytes = answer.read()
    return body


def sync(where: dict[str, str], folder: Path, *flags: str) -> tuple[dict[str, Any], dict[str, int]]:
    """One sync of all users: its totals, and the requests by kind that the twin counted meanwhile."""
    ask(where, "reset-stats", method="POST")
    environment = {
        "PATH": os.environ["PATH"],
        "FLOWMATE_RATE": "0",
        "FLOWMATE_STORE": f"sqlite:///{folder}/credentials.db",
        "FLOWMATE_STORE_KEY": "5a" * 32,
        **where,
    }
    command = [*FLOWMATE, "sync", "--all-users", "--json", *flags]
    out = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    requests = json.loads(ask(where, "stats"))["requests"]
    counts = {route: sum(by_status.values()) for route, by_status in sorted(requests.items())}
    return json.loads(out), {route: count for route, count in counts.items() if "_sandbox" not in route}


def measure(users: int, seed: int, *flags: str) -> None:
    """Sync, ask what is due, sync again; print what each cost."""
    with tempfile.TemporaryDirectory() as folder, twin(users, seed) as where:
        for name, more in (("first", ()), ("dry run", ("--dry-run",)), ("second", ())):
            report, counts = sync(where, Path(folder), *flags, *more)
            assert not report["failed"], report
            due = f"due {sum(report['fetch'].values())}" if more else f"{report['seconds']:.1f} s"
            print(f"  {name}: {due}, {sum(counts.values()):,} requests: {counts}", flush=True)


def main() -> None:
    """Measure without and with kept tokens."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for flags in ((), ("--keep-tokens",)):
        print(" ".join(("sync", *flags)) + f", {options.users:,} users", flush=True)
        measure(options.users, options.seed, "--workers", str(options.workers), *flags)


if __name__ == "__main__":
    main()
