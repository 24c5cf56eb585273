"""The figures as people read them: tables in README.md, and plots; made from results/*.json alone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import charts
import tables
from plots import bars

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE / "README.md"
BEGIN, END = "<!-- figures: made by report.py -->", "<!-- end of figures -->"


class Part(NamedTuple):
    """How a part's figures are shown."""

    table: Callable[[Any], Iterator[str]]
    drawn: Callable[[Any], charts.Charts] = charts.none


PARTS = {
    "throughput": Part(tables.throughput, charts.throughput),
    "micro": Part(tables.micro),
    "flow": Part(tables.flow, charts.flow),
    "memory": Part(tables.memory, charts.memory),
    "sync": Part(tables.sync, charts.sync),
    "processes": Part(tables.processes),
    "job": Part(tables.job),
    "skew": Part(tables.skew),
}


def renew() -> None:
    """Write the tables and the plots anew."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n\n{text()}\n{END}{after}", encoding="utf-8")
    for name, chart in plots().items():
        (RESULTS / f"{name}.svg").write_text(chart, encoding="utf-8")


def text() -> str:
    """All that results say, as Markdown."""
    return "\n".join(line for part, result in results() for line in _section(PARTS[part], result))


def plots() -> dict[str, str]:
    """All plots, by file name without its ending."""
    return {
        name: bars(*chart)
        for part, result in results()
        for name, chart in PARTS[part].drawn(result["figures"]).items()
    }


def results() -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts that were measured, and what was found."""
    for part in PARTS:
        path = RESULTS / f"{part}.json"
        if path.exists():
            yield part, json.loads(path.read_text(encoding="utf-8"))


def _section(part: Part, result: dict[str, Any]) -> Iterator[str]:
    yield from part.table(result["figures"])
    for name, (title, _) in part.drawn(result["figures"]).items():
        yield from ["", f"![{title}](results/{name}.svg)"]
    yield from ["", _about(result["about"]), ""]


def _about(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"*{about['date'][:10]}, commit {about['commit']}; {about['cores']} cores of {about['cpu']}, load "
        f"{about['load_before']} before; {about['system']}, Python {about['python']}, {versions}; "
        f"{about['seconds']} s.*"
    )


if __name__ == "__main__":
    renew()
