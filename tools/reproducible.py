"""Check that the release can be rebuilt byte for byte: build it again elsewhere and compare.

    python tools/reproducible.py dist

The second build is of a copy of the tracked files in another folder, with other times and modes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Return 0 if both builds are equal, else 1."""
    first = digests(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        second = digests(built(copied(Path(folder) / "copy"), Path(folder) / "dist"))
    for name, digest in first.items():
        print(f"{digest}  {name}")
    if first != second:
        print(f"wrong: a second build differs: {sorted(set(first.items()) ^ set(second.items()))}")
        return 1
    print("a second build is the same byte for byte")
    return 0


def copied(folder: Path) -> Path:
    """Copy the tracked files into a folder, with other times and modes. Return the folder."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
            executable = (ROOT / name).stat().st_mode & 0o100
            (folder / name).chmod(0o700 if executable else 0o600)
            os.utime(folder / name, (1_000_000_000, 1_000_000_000))
    shutil.copyfile(ROOT / ".gitignore", folder / ".gitignore")
    return folder


def built(source: Path, target: Path) -> Path:
    """Build the wheel and the source archive of a folder. Return the folder they are in."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each release file by its name."""
    files = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


if __name__ == "__main__":
    sys.exit(main())
