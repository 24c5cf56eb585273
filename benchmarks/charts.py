"""The charts of each part: by file name, its title and its bars."""

from typing import Any

from plots import Bar

Charts = dict[str, tuple[str, list[Bar]]]


def throughput(figures: dict[str, Any]) -> Charts:
    """(a): requests/s, of HTTP and of HTTPS."""
    return {
        f"throughput-{scheme}": (
            f"Requests/s over {scheme.upper()}, one core (median)",
            _fastest_first(figures[scheme]["contenders"]),
        )
        for scheme in ("http", "https")
    }


def _fastest_first(contenders: dict[str, Any]) -> list[Bar]:
    rows = sorted(contenders.items(), key=lambda item: -item[1]["per_second"])
    return [
        Bar(name, row["per_second"], f"{row['per_second']:,.0f}", name.startswith("flowmate"))
        for name, row in rows
    ]


def flow(figures: list[dict[str, Any]]) -> Charts:
    """(c): efficiency under latency."""
    rows = [
        Bar(f"{row['latency_seconds'] * 1000:.0f} ms", row["share"], f"{row['share']:.1%}", ours=True)
        for row in figures
        if row["case"] == "latency"
    ]
    return {"latency": ("Share of the reachable throughput, 200 in flight, by latency", rows)}


def memory(figures: list[dict[str, Any]]) -> Charts:
    """(d): peaks."""
    rows = [
        Bar(f"{row['users']:,} users", row["peak_bytes"], f"{row['peak_bytes'] / 2**20:.1f} MiB", ours=True)
        for row in figures
    ]
    return {"memory": ("Peak resident set of a sweep", rows)}


def sync(figures: dict[str, Any]) -> Charts:
    """(e): stages."""
    rows = [
        Bar(name, max(0.0, row["cpu_us_a_user"]), f"{row['share']:.0%}", ours=True)
        for name, row in figures["stages"].items()
    ]
    return {"sync": ("Where the processor time of a sync goes", rows)}


def none(_figures: Any) -> Charts:
    """A part without a chart."""
    return {}
