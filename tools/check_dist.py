"""Check the release: the files in dist/, their contents, and that the wheel works by itself.

    python tools/check_dist.py dist

Install the wheel into a separate environment without extras, and use it from another folder: the demo, the
help, and errors that name a missing extra. Then pyright checks whether every public name has its type, and
the files in tests/typing/.
"""

import email
import email.message
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "flowmate_async"
NEVER = ("tests/", "benchmarks/", "docs/", "tools/", ".git", ".venv", "build/", "site/")
LEAST_SCORE = 99.5
"""Below 100, since one name has a base class in Celery, which is not typed."""

PLACEHOLDER = "flowmate-async.example"
"""The domain in the metadata until the project has a public home."""

EXTRAS = {"otel", "postgres", "prometheus", "report", "wire"}


def main() -> int:
    """Print what is wrong. Return 0 if nothing is, else 1."""
    folder = Path(sys.argv[1])
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        print(f"{folder} has {len(wheels)} wheels and {len(sources)} source archives, not one of each")
        return 1
    problems = [*of_wheel(wheels[0]), *of_source(sources[0])]
    problems += of_use(wheels[0]) if not problems else []
    for problem in problems:
        print(f"wrong: {problem}")
    if not problems:
        print(f"{wheels[0].name} and {sources[0].name} are fit to be released")
    return 1 if problems else 0


def of_wheel(path: Path) -> Iterator[str]:
    """Yield what is wrong with the wheel's contents and metadata."""
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        entries = wheel.read(f"{info}/entry_points.txt").decode()
    for needed in tracked(f"{PACKAGE}/", "pytest_flowmate.py"):
        if needed not in names:
            yield f"the wheel lacks {needed}"
    for name in sorted(names):
        top = name.partition("/")[0]
        if top not in (PACKAGE, info, "pytest_flowmate.py") or name.endswith(".pyc"):
            yield f"the wheel has {name}"
    if f"{info}/licenses/LICENSE" not in names:
        yield "the wheel has no license"
    yield from of_metadata(metadata)
    for entry in ("flowmate = flowmate_async.cli.app:main", "flowmate = pytest_flowmate"):
        if entry not in entries:
            yield f"the wheel has no entry point {entry!r}"


def of_metadata(metadata: email.message.Message) -> Iterator[str]:
    """Yield what is wrong with the metadata."""
    version = (ROOT / PACKAGE / "__init__.py").read_text().partition('__version__ = "')[2].partition('"')[0]
    expected = {
        "Name": "flowmate-async",
        "Version": version,
        "Requires-Python": ">=3.11",
        "License-Expression": "Apache-2.0",
        "Description-Content-Type": "text/markdown",
    }
    for field, value in expected.items():
        if metadata[field] != value:
            yield f"{field} is {metadata[field]!r}, not {value!r}"
    if missing := EXTRAS - set(metadata.get_all("Provides-Extra", [])):
        yield f"there are no extras {sorted(missing)}"
    if len(metadata.get_all("Project-URL", [])) < 4 or "security" not in str(metadata["Maintainer-email"]):
        yield "project URLs or the security contact are missing"
    if any(PLACEHOLDER in url for url in metadata.get_all("Project-URL", [])):
        print(
            f"note: the project's URLs are still placeholders ({PLACEHOLDER}); replace them before an upload"
        )
    if "Typing :: Typed" not in metadata.get_all("Classifier", []):
        yield "it is not said to be typed"
    if not str(metadata.get_payload()).startswith("# flowmate_async"):
        yield "the description is not the README"


def of_source(path: Path) -> Iterator[str]:
    """Yield what is wrong with the source archive: packagers must be able to build and test from it."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in tracked(f"{PACKAGE}/", "tests/", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        if needed not in names:
            yield f"the source archive lacks {needed}"
    for name in sorted(names):
        if name.startswith((".git/", ".venv", "build/")) or name.endswith((".pyc", ".db", ".key")):
            yield f"the source archive has {name}"


def of_use(wheel: Path) -> Iterator[str]:
    """Yield what goes wrong when the wheel is used."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        python = Path(folder) / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        run([str(python), "-m", "pip", "install", "--quiet", str(wheel.absolute())], folder)
        yield from of_commands(python, folder)
        typed = f"{wheel.absolute()}[celery,httpx,otel,prometheus,redis]"  # public names use their types
        run([str(python), "-m", "pip", "install", "--quiet", typed], folder)
        checker = str(Path(sys.executable).with_name("basedpyright"))
        # It checks the environment of the first python on the path.
        path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        verify = [checker, "--verifytypes", PACKAGE, "--ignoreexternal"]
        _, shown = run(verify, folder, PATH=path)
        score = float((re.search(r"Type completeness score: ([\d.]+)%", shown) or ["", "0"])[1])
        if score < LEAST_SCORE:
            yield f"types: {shown}"
        code, shown = run([checker, "--level", "error", str(ROOT / "tests" / "typing")], folder, PATH=path)
        if code:
            yield f"types: {shown}"
        print(f"pyright knows the types of {score} % of all names, internal ones included")


def of_commands(python: Path, folder: str) -> Iterator[str]:
    """Yield what is wrong with the commands in an environment without extras."""
    flowmate = str(python.with_name("flowmate"))
    for command, expected, wanted in (
        ([flowmate, "--version"], 0, ""),
        ([flowmate, "sync", "--help"], 0, "--all-users"),
        ([str(python), "-W", "error", "-c", f"import {PACKAGE}; print({PACKAGE}.FlowMate)"], 0, "FlowMate"),
        ([flowmate, "demo", "--users", "60"], 0, "credentials verified"),
        ([flowmate, "sync", "a", "--metrics-port", "0"], 2, "[prometheus]"),
        ([flowmate, "sync", "a", "--report", "r.html"], 2, "[report]"),
        ([str(python), "-m", "pip", "check"], 0, ""),
    ):
        code, shown = run(command, folder)
        if code != expected or wanted not in shown or "Traceback" in shown:
            yield f"{' '.join(command[:4])} ended with {code}: {shown}"


def run(command: list[str], folder: str, **settings: str) -> tuple[int, str]:
    """Run a command without this environment's settings. Return its exit code and output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLOWMATE_", "PYTHON"))}
    env = {
        **kept,
        "FLOWMATE_ADMIN_TOKEN": "invented",
        "XDG_CONFIG_HOME": folder,
        "COLUMNS": "100",
        **settings,
    }
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    return done.returncode, done.stdout + done.stderr


def tracked(*begins: str) -> list[str]:
    """Return the tracked files that begin with one of these strings."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if name.startswith(begins)]


if __name__ == "__main__":
    sys.exit(main())
