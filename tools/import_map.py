"""Draw the packages and their imports into CONTRIBUTING.md.

    python tools/import_map.py            renew the diagram
    python tools/import_map.py --check    exit with 1 if the diagram is out of date

An arrow points from a package to one that it imports. An arrow that follows from two others is left out.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import grimp

PACKAGE = "flowmate_async"
PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
_DIAGRAM = re.compile(r"(?<=<!-- made by `make map` -->\n).*?(?=<!-- end of the map -->)", re.DOTALL)

Imports = Mapping[str, frozenset[str]]


def imports() -> Imports:
    """Return which other parts of the package each part imports."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    parts = {part for part in graph.find_children(PACKAGE) if not part.endswith("__main__")}
    for part in parts:
        graph.squash_module(part)
    return {
        _name(part): frozenset(map(_name, graph.find_modules_directly_imported_by(part) & parts - {part}))
        for part in parts
    }


def reduced(graph: Imports) -> Imports:
    """Return the imports without those that follow from others; imports have no cycles."""
    return {
        part: direct - frozenset().union(*(_reachable(graph, other) for other in direct))
        for part, direct in graph.items()
    }


def _reachable(graph: Imports, part: str) -> frozenset[str]:
    return graph[part].union(*(_reachable(graph, other) for other in graph[part]))


def diagram(graph: Imports) -> str:
    """Return the diagram in Mermaid's language."""
    arrows = [
        f"    {part} --> {' & '.join(sorted(direct))}" for part, direct in sorted(graph.items()) if direct
    ]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```", ""])


def _name(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")


def main() -> int:
    """Renew the diagram, or compare it."""
    before = PAGE.read_text()
    now = _DIAGRAM.sub(lambda _: diagram(reduced(imports())), before)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(now)
    elif now != before:
        print("the map in CONTRIBUTING.md is out of date: run make map")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
