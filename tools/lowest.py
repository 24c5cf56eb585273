"""Print constraints that pin every direct dependency to the lowest version that pyproject.toml allows.

python tools/lowest.py > constraints.txt
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print one line per dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for text in sorted({*project["dependencies"], *(one for extra in extras for one in extra)}):
        requirement = Requirement(text)
        for bound in requirement.specifier:
            if bound.operator == ">=":
                print(f"{requirement.name}=={bound.version}")


if __name__ == "__main__":
    main()
