"""What figures belong to: the machine, the versions, the day and the commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cores import CORES, PINNED

_HERE = Path(__file__).parent
_PACKAGES = ("aiohttp", "msgspec", "uvloop", "httptools")


def about() -> dict[str, Any]:
    """Everything that a figure depends on and that can be asked for."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": _cpu(),
        "cores": len(CORES) or os.cpu_count(),
        "pinned": PINNED,
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in _PACKAGES},
    }


def version_of(package: str) -> str | None:
    """A package's version here; ``None`` when it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """The commit that is checked out; ``+`` when files differ from it, results aside."""
    found = _git("rev-parse", "--short=12", "HEAD")
    changed = _git(
        "status", "--porcelain", "--", ":/flowmate_async", ":/benchmarks/*.py", ":/benchmarks/peers"
    )
    return f"{found}{'+' if changed else ''}" if found else "unknown"


def _git(*words: str) -> str:
    try:
        ran = subprocess.run(["git", *words], cwd=_HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return ran.stdout.strip()


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
