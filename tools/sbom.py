"""Write the bill of materials (CycloneDX, JSON) of the wheel with all that it and its extras install.

    python tools/sbom.py dist

The file names packages, versions and licenses. It names no folder of this machine and no index.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Write the file and return 0, or print what is wrong and return 1."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        bill = made(Path(folder), f"{wheel.absolute()}[{','.join(extras)}]")
    without_places(bill)
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    names = {component["name"] for component in bill["components"]}
    if missing := {"aiohttp", "msgspec", "cryptography"} - names:
        print(f"wrong: the bill of materials lacks {sorted(missing)}")
        return 1
    if leaked := re.findall(r"file:[^\"]*|[\w.-]*/simple[^\"]*", text):
        print(f"wrong: the bill of materials names {leaked[:3]}")
        return 1
    path = wheel.with_name(f"{'-'.join(wheel.name.split('-')[:2])}.cdx.json")
    path.write_text(text)
    print(f"{path.name} has {len(names)} packages")
    return 0


def made(folder: Path, requirement: str) -> dict[str, Any]:
    """Install a requirement into a new environment and return its bill of materials."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", requirement], check=True)
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "setuptools"], check=True)
    program = str(Path(sys.executable).with_name("cyclonedx-py"))
    options = [
        "--pyproject",
        str(ROOT / "pyproject.toml"),
        "--output-reproducible",
        "--output-format",
        "JSON",
    ]
    done = subprocess.run(
        [program, "environment", *options, str(python)], check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout))


def without_places(bill: dict[str, Any]) -> None:
    """Remove where packages came from, pip itself, and the second entry of this package."""
    bill["components"] = [one for one in bill["components"] if one["name"] not in ("pip", "flowmate-async")]
    for component in bill["components"]:
        references = component.get("externalReferences", [])
        component["externalReferences"] = [one for one in references if one["type"] != "distribution"]


if __name__ == "__main__":
    sys.exit(main())
