"""The figures as people read them: tables in README.md, and plots; made from results/*.json alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plots import Bar, bars

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE / "README.md"
BEGIN, END = "<!-- figures: made by report.py -->", "<!-- end of figures -->"

TARGETS = [
    ("http", "flowmate wire", "pyreqwest", 1.5),
    ("http", "flowmate wire", "aiohttp idiomatic", 5.0),
    ("http", "flowmate wire", "wrk", 0.25),
    ("https", "flowmate wire", "aiohttp idiomatic", 2.5),
    ("http", "flowmate aiohttp", "aiohttp idiomatic", 1.1),
    ("http", "flowmate aiohttp", "aiohttp tuned", 0.87),
]
"""What was aimed at: contender, peer, least ratio of their medians."""


def renew() -> None:
    """Write the tables and the plots anew."""
    sections = {"throughput": throughput}
    found = [(part, make) for part, make in sections.items() if (RESULTS / f"{part}.json").exists()]
    text = "\n".join(line for part, make in found for line in _section(part, make))
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def _section(part: str, make: Any) -> Iterator[str]:
    result = json.loads((RESULTS / f"{part}.json").read_text())
    yield from make(result["figures"])
    yield from ["", _about(result["about"]), ""]


def _about(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"*{about['date'][:10]}, commit {about['commit']}; {about['cores']} cores of {about['cpu']}, load "
        f"{about['load_before']} before; {about['system']}, Python {about['python']}, {versions}; "
        f"{about['seconds']} s.*"
    )


def throughput(figures: dict[str, Any]) -> Iterator[str]:
    """(a): every contender, what is missing, and the ratios."""
    http, https = figures["http"], figures["https"]
    names = sorted(http["contenders"], key=lambda name: -http["contenders"][name]["per_second"])
    yield from ["### What a credential costs", "", f"Against {figures['server']}, 64 requests in flight.", ""]
    yield "| | HTTP requests/s | quartiles | CPU µs | HTTPS requests/s | quartiles | CPU µs |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in names:
        version = http["contenders"][name]["version"]
        label = f"**{name}**" if name.startswith("flowmate") else f"{name} {version or ''}".strip()
        cells = [_cells(scheme["contenders"].get(name)) for scheme in (http, https)]
        yield f"| {label} | {' | '.join(cells)} |"
    for how in ("missing", "failed"):
        for name, why in sorted((http[how] | https[how]).items()):
            yield f"| {name} | {how}: {why} | | | | | |"
    yield from ["", *_ratios(figures)]
    for scheme in ("http", "https"):
        title = f"Requests/s over {scheme.upper()}, one core (median)"
        yield from ["", _plot(f"throughput-{scheme}", title, _throughput_bars(figures[scheme]))]


def _cells(row: dict[str, Any] | None) -> str:
    if row is None:
        return " | | "
    spread = f"{row['lower_quartile']:,.0f} to {row['upper_quartile']:,.0f}"
    return f"{row['per_second']:,.0f} | {spread} | {row['cpu_us']:,.1f}"


def _ratios(figures: dict[str, Any]) -> Iterator[str]:
    yield "| ratio of medians | | requests/s | CPU | aim (requests/s) |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for scheme, ours, peer, aim in TARGETS:
        found = figures[scheme]["contenders"]
        if ours in found and peer in found:
            rate = found[ours]["per_second"] / found[peer]["per_second"]
            cpu = found[peer]["cpu_us"] / found[ours]["cpu_us"]
            met = "met" if rate >= aim else "missed"
            yield f"| {ours} / {peer} | {scheme.upper()} | {rate:.2f} | {cpu:.2f} | ≥ {aim} {met} |"


def _throughput_bars(found: dict[str, Any]) -> list[Bar]:
    rows = sorted(found["contenders"].items(), key=lambda item: -item[1]["per_second"])
    return [
        Bar(name, row["per_second"], f"{row['per_second']:,.0f}", name.startswith("flowmate"))
        for name, row in rows
    ]


def _plot(name: str, title: str, rows: list[Bar]) -> str:
    (RESULTS / f"{name}.svg").write_text(bars(title, rows), encoding="utf-8")
    return f"![{title}](results/{name}.svg)"


if __name__ == "__main__":
    renew()
