"""The figures of each part as a Markdown table."""

import statistics
from collections.abc import Iterator
from typing import Any

TARGETS = [
    ("http", "flowmate wire", "pyreqwest", 1.5),
    ("http", "flowmate wire", "aiohttp idiomatic", 5.0),
    ("http", "flowmate wire", "aiohttp idiomatic, asyncio", 5.0),
    ("http", "flowmate wire", "wrk", 0.25),
    ("https", "flowmate wire", "aiohttp idiomatic", 2.5),
    ("https", "flowmate wire", "aiohttp idiomatic, asyncio", 2.5),
    ("http", "flowmate aiohttp", "aiohttp idiomatic", 1.1),
    ("http", "flowmate aiohttp, asyncio", "aiohttp idiomatic, asyncio", 1.1),
    ("http", "flowmate aiohttp", "aiohttp tuned", 0.87),
]
"""What was aimed at: contender, peer, least ratio of their medians."""


SLOWER_THAN_EXPECTED = {
    "httpx": (
        "its connection pool looks at all connections for each of them, at every request (httpcore 1.0, "
        "`_assign_requests_to_connections`), so the cost grows with the square of the requests in flight. "
        "With 8 in flight instead of 64, a request takes about a quarter of the CPU time."
    ),
}
"""Footnotes of the table above: why a peer is slower than its users know it."""


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
        label += " ¹" if name in SLOWER_THAN_EXPECTED else ""
        cells = [_cells(scheme["contenders"].get(name)) for scheme in (http, https)]
        yield f"| {label} | {' | '.join(cells)} |"
    for how in ("missing", "failed"):
        for name, why in sorted((http[how] | https[how]).items()):
            yield f"| {name} | {how}: {why} | | | | | |"
    yield from (f"\n¹ {name}: {why}" for name, why in SLOWER_THAN_EXPECTED.items() if name in names)
    yield from ["", *_ratios(figures)]


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


def micro(figures: dict[str, Any]) -> Iterator[str]:
    """(b): the parts by themselves."""
    hit, crowd, alone = figures["hit"], figures["one_flight"], figures["flight_alone"]
    yield from ["### The parts by themselves", "", "| | |", "| --- | ---: |"]
    yield f"| a hit of the credential cache | {hit['credential_hit_ns']:,.0f} ns |"
    yield f"| a hit of an `alru_cache`, which has no expiry | {hit['alru_cache_hit_ns']:,.0f} ns |"
    yield f"| a flight nobody joins | {alone['flight_us']:.2f} µs |"
    waiting = f"waiting on one flight, each of {crowd['waiters']:,}"
    yield f"| {waiting} | {crowd['flight_us_per_waiter']:.2f} µs |"
    for name, taken in figures["decode"]["us"].items():
        yield f"| an answer decoded: {name} | {taken:.2f} µs |"
    for name, why in figures["decode"]["missing"].items():
        yield f"| an answer decoded: {name} | missing: {why} |"


def flow(figures: list[dict[str, Any]]) -> Iterator[str]:
    """(c): under a rate limit and under latency."""
    yield from ["### Under a rate limit, and under latency", "", "| | of what is to be had | 429s |"]
    yield "| --- | ---: | ---: |"
    for row in figures:
        if row["case"] == "told":
            yield f"| told the limit of {row['rate']:,.0f} requests/s | {row['share']:.1%} | {row['429s']} |"
        elif row["case"] == "untold":
            label = f"told four times the limit of {row['rate']:,.0f}, from second 5 on"
            yield f"| {label} | {row['share']:.1%} | {row['share_of_429s']:.1%} of the answers |"
    yield from ["", "| 200 in flight, an answer takes | ideal | bare loop | sweep | share |"]
    yield "| ---: | ---: | ---: | ---: | ---: |"
    latencies = [row for row in figures if row["case"] == "latency"]
    for row in latencies:
        bare, swept = (statistics.median(row[f"{name}_per_second"]) for name in ("bare", "swept"))
        yield (
            f"| {row['latency_seconds'] * 1000:.0f} ms | {row['ideal_per_second']:,.0f}/s | {bare:,.0f}/s "
            f"| {swept:,.0f}/s | {row['share']:.1%} |"
        )


def memory(figures: list[dict[str, Any]]) -> Iterator[str]:
    """(d): a sweep's peak by the number of users."""
    yield from [
        "### Memory of a sweep",
        "",
        "| users | peak resident | µs a user |",
        "| ---: | ---: | ---: |",
    ]
    for row in figures:
        each = row["seconds"] / row["users"] * 1e6
        yield f"| {row['users']:,} | {row['peak_bytes'] / 2**20:.1f} MiB | {each:,.0f} |"


def sync(figures: dict[str, Any]) -> Iterator[str]:
    """(e): a whole sync, by stages."""
    yield from ["### A whole sync to SQLite", ""]
    yield (
        f"**{figures['users_per_second']:,.0f} users/s** on one core, {figures['requests_a_user']} requests "
        f"and {figures['cpu_us_a_user']:,.0f} µs of processor time each:"
    )
    yield from ["", "| stage | µs a user | share |", "| --- | ---: | ---: |"]
    for name, row in figures["stages"].items():
        yield f"| {name} | {row['cpu_us_a_user']:,.0f} | {row['share']:.0%} |"


def processes(figures: dict[str, Any]) -> Iterator[str]:
    """(f): two processes against one."""
    yield from ["### Two processes against one", ""]
    yield (
        f"One sweep: {figures['one_per_second']:,.0f} requests/s; two at once: "
        f"{figures['two_per_second']:,.0f}/s together, {figures['ratio']:.2f} times as much, on "
        f"{figures['cores']} cores that nginx uses as well."
    )


def job(figures: dict[str, Any]) -> Iterator[str]:
    """(g): the whole job beside a script written by hand."""
    yield from ["### The whole job beside a script written by hand", ""]
    yield f"Per user with {figures['requests_per_user']} requests, {figures['users']:,} users per round."
    yield from ["", "| | wall µs | CPU µs | times less CPU than by hand |", "| --- | ---: | ---: | ---: |"]
    for scheme in ("http", "https"):
        for name, rows in figures[scheme].items():
            for contender, row in rows.items():
                label = contender if contender == "by hand" else f"**flowmate {contender}**"
                ratio = rows["by hand"]["cpu_us_per_user"] / row["cpu_us_per_user"]
                yield (
                    f"| {name} over {scheme.upper()}, {label} | {row['wall_us_per_user']:,.0f} "
                    f"| {row['cpu_us_per_user']:,.0f} | {ratio:.2f} |"
                )


def skew(figures: list[dict[str, Any]]) -> Iterator[str]:
    """(h): tenants whose accounts differ in size."""
    yield from ["### Accounts of different sizes", "", "64 requests in flight, 20 ms each.", ""]
    yield from ["| | ideal | sweep | share |", "| --- | ---: | ---: | ---: |"]
    for row in figures:
        what = f"{row['users']:,} accounts of {row['secrets']} secrets over {row['transport']}"
        yield f"| {what} | {row['ideal_seconds']:.2f} s | {row['seconds']:.2f} s | {row['share']:.0%} |"
