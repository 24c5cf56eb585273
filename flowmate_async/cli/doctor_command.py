"""``flowmate doctor``: checks everything a sync needs, and says how to fix problems."""

import io
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowmate_async.cli.doctor import (
    Finding,
    Status,
    check_environment,
    check_network,
    check_store,
    check_upstream,
    worst_exit,
)
from flowmate_async.cli.doctor.findings import skipped
from flowmate_async.cli.doctor.upstream import Options
from flowmate_async.cli.exits import Exit, print_json, print_styled
from flowmate_async.cli.options import Connection, StoreFlags
from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import one_line
from flowmate_async.values.settings import checked_base_url

_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}
_WIDEST = 110
_UNBOUNDED = 100_000
_INDENT = 8
_PRECEDING = ("configuration", "token source", "token file")
"""Checks without which nothing is sent."""


async def doctor(
    *,
    user: Annotated[
        str | None, Parameter(help="Look at this user; without it, at five users of the tenant.")
    ] = None,
    probe: Annotated[
        int, Parameter(help="Listings sent at the configured rate to see whether it fits; 0 for none.")
    ] = 40,
    strict: Annotated[bool, Parameter(negative=(), help="End with 1 when there is a warning.")] = False,
    json: Annotated[bool, Parameter(negative=(), help="Print one JSON object.")] = False,
    connection: Connection = Connection(),
    store: StoreFlags = StoreFlags(),
) -> Exit:
    """Check configuration, network, clock, token, permissions, rate and store; say how to fix what is wrong.

    Nothing is written, and no credential is refreshed. Ends with 0 when there is no error, 2 when the
    configuration or the store must be fixed, 3 when FlowMate or its answers must.

    Examples:
        flowmate doctor

        flowmate doctor --store sqlite:///credentials.db --json

        flowmate doctor --user abc123 --probe 0
    """
    if not 0 <= probe <= 1000:
        raise ConfigurationError("--probe is from 0 to 1000")
    options = Options(username=user, probe=probe, wall=time.time)
    findings: list[Finding] = []
    async for finding in run_checks(connection, store, options):
        findings.append(finding)
        if not json:
            print_styled(_shown(finding))
    if json:
        print_json({"ok": not any(found.status == "error" for found in findings), "checks": findings})
    return worst_exit(findings, strict=strict)


async def run_checks(connection: Connection, store: StoreFlags, options: Options) -> AsyncIterator[Finding]:
    """Run every check, in the order of their dependencies."""
    ready = True
    for finding in check_environment(connection, os.environ):
        ready = ready and not (finding.status == "error" and finding.check in _PRECEDING)
        yield finding
    base_url = _base_url(connection)
    if ready and base_url is not None:
        reached = True
        async for finding in check_network(connection, base_url):
            reached = reached and finding.status != "error"
            yield finding
        if reached:
            async for finding in check_upstream(connection, base_url, options):
                yield finding
        else:
            yield skipped("api", "FlowMate cannot be reached")
    else:
        yield skipped("connection", "the configuration comes first")
    async for finding in check_store(store, base_url):
        yield finding


def _base_url(connection: Connection) -> str | None:
    try:
        return checked_base_url(connection.base_url)
    except ConfigurationError:
        return None


def _shown(finding: Finding) -> str:
    """Format a finding for people: wrapped to the terminal, or one line if there is none."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    width = min(shutil.get_terminal_size().columns, _WIDEST) if terminal else _UNBOUNDED
    paper = io.StringIO()
    console = Console(file=paper, force_terminal=terminal, width=max(width, 30), highlight=False)
    lines = Table.grid(padding=(0, 1))
    lines.add_column(width=_INDENT)
    lines.add_column(overflow="fold")
    lines.add_row(
        Text(finding.status, style=_STYLES[finding.status]),
        Text.assemble((finding.check, "bold"), ": ", one_line(finding.message, limit=2000)),
    )
    if finding.fix:
        lines.add_row("", Text(f"fix: {one_line(finding.fix, limit=2000)}"))
    console.print(lines)
    return "\n".join(line.rstrip() for line in paper.getvalue().splitlines())
