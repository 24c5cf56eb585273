"""``flowmate sync --workers N`` against one process: users/s of whole syncs into SQLite, and what they cost.

nginx answers from memory, one worker process of it, on the same cores. Rounds take turns, so that a noisy
machine hurts all alike; medians are printed, and the CPU time of nginx and of the sync beside them.

    python benchmarks/workers.py [--users 15000] [--rounds 5] [--workers 1 2] [--transport wire] [--core-each]

With ``--core-each`` N workers, and nginx with them, have N cores and no more: what another core brings.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ALL_CORES = os.sched_getaffinity(0)
IDS = ["66761aedcf268b4d68470e01", "66761aedcf268b4d68470e02", "66761aedcf268b4d68470e03"]
VALUES = [
    (
        "OA2_AUTHORIZATION_CODE",
        {"accessToken": "t" * 160, "scope": "a b", "expires": "2100-01-01T00:00:00.000Z"},
    ),
    ("SIMPLE", {"username": "me", "passphrase": "correct horse battery staple"}),
    ("API_KEY", {"key": "ak_4f8d8e7c6b5a49382716", "headerName": "X-Api-Key"}),
]


def answers() -> dict[str, str]:
    """What is answered by path: a listing of three secrets, and each of them."""
    listed = [
        {"_id": id_, "name": "n", "type": kind, "owners": [], "value": {"expires": value.get("expires")}}
        for id_, (kind, value) in zip(IDS, VALUES, strict=True)
    ]
    meta = {"page": 1, "perPage": 100, "total": 3, "totalPages": 1}
    found = {"= /secrets/": {"data": listed, "meta": meta}, "/": {"token": "0" * 32, "id": "6" * 24}}
    for id_, (kind, value) in zip(IDS, VALUES, strict=True):
        found[f"= /secrets/{id_}"] = {
            "data": {"_id": id_, "name": "n", "type": kind, "owners": [], "value": value}
        }
    return {path: json.dumps(body) for path, body in found.items()}


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[tuple[str, int]]:
    """A running nginx: its URL, and the process id of its one worker."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    locations = "\n".join(f"location {path} {{ return 200 '{body}'; }}" for path, body in answers().items())
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/pid;"
        "events { worker_connections 4096; } http { access_log off; default_type application/json;"
        f"keepalive_requests 100000000; client_body_temp_path {folder}/body; {paths}"
        f"server {{ listen 127.0.0.1:{port}; {locations} }} }}"
    )
    server = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        (worker,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        yield f"http://127.0.0.1:{port}", int(worker)
    finally:
        server.terminate()
        server.wait()


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cores(number: int | None) -> set[int]:
    """So many of this machine's cores; all of them for ``None``."""
    every = sorted(ALL_CORES)
    if number is not None and number > len(every):
        sys.exit(f"{number} workers with a core each need {number} cores; this machine has {len(every)}")
    return set(every[:number])


def sync(url: str, folder: Path, *, users: int, workers: int, transport: str) -> dict[str, float]:
    """One whole sync into a new store, on the cores of this process: its seconds, and its CPU seconds."""
    for old in folder.glob("credentials.db*"):
        old.unlink()
    names = folder / "users"
    names.write_text("".join(f"u{number:06d}\n" for number in range(users)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "flowmate_async", "sync", "--users-file", str(names), "--json"]
    out = subprocess.run(
        [*command, "--workers", str(workers), "--transport", transport],
        env={
            "PATH": os.environ["PATH"],
            "FLOWMATE_RATE": "0",
            "FLOWMATE_STORE": f"sqlite:///{folder}/credentials.db",
            "FLOWMATE_STORE_KEY": "5a" * 32,
            "FLOWMATE_ADMIN_TOKEN": "token",
            "FLOWMATE_BASE_URL": url,
        },
        check=True,
        capture_output=True,
    ).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(out)
    assert report["synced"] == users
    spent = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return {"seconds": report["seconds"], "cpu_seconds": spent, "requests": report["requests"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=15_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--transport", default="aiohttp")
    parser.add_argument("--core-each", action="store_true", help="N workers and nginx have N cores")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("nginx") is None:
        sys.exit("nginx is missing: apt-get install nginx-light")
    runs: dict[int, list[dict[str, float]]] = {workers: [] for workers in options.workers}
    with tempfile.TemporaryDirectory() as name, nginx(Path(name)) as (url, server):
        for _ in range(options.rounds):
            for workers, done in runs.items():
                for pid in (os.getpid(), server):  # what this process starts has its cores
                    os.sched_setaffinity(pid, cores(workers if options.core_each else None))
                served = cpu_of(server)
                run = sync(url, Path(name), users=options.users, workers=workers, transport=options.transport)
                done.append(run | {"nginx_cpu_seconds": cpu_of(server) - served})
    results = {workers: _medians(done, options.users) for workers, done in runs.items()}
    first = results[options.workers[0]]["users_per_second"]
    for workers, result in results.items():
        result["ratio"] = result["users_per_second"] / first
        print(f"workers {workers}: " + "  ".join(f"{name} {value:,.2f}" for name, value in result.items()))
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "results": results}))


def _medians(done: list[dict[str, float]], users: int) -> dict[str, float]:
    medians = {name: statistics.median(run[name] for run in done) for name in done[0]}
    return {"users_per_second": users / medians["seconds"]} | medians


if __name__ == "__main__":
    main()
