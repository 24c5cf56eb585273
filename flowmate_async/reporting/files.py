"""The report file: JSON with one line per user, or a page, by its name. Readable only by its owner."""

import time
from pathlib import Path

import msgspec

from flowmate_async.redaction import escaped
from flowmate_async.reporting import page
from flowmate_async.reporting.reconnecting import needs_reconnecting
from flowmate_async.reporting.recorder import Observation
from flowmate_async.reporting.summary import Head, summarize
from flowmate_async.stores import Store
from flowmate_async.sync.report import SyncReport
from flowmate_async.system.private_files import replaced_atomically, require_replaceable
from flowmate_async.values.plain import plain

SCHEMA_VERSION = 1
"""The version of ``schemas/report.v1.json``; a change that breaks readers gets a new one."""

_JSON_BEGINS = b'{"run_id":'
_HTML_BEGINS = b"<!doctype html>\n<!-- flowmate report -->"
_PAGES = (".html", ".htm")


def require_report_path(path: Path) -> None:
    """Refuse, before anything is sent, a path where the report cannot or must not be written.

    Args:
        path: ``.html`` for a page, any other for JSON.

    Raises:
        ConfigurationError: the folder cannot be written to, the path is something other than a report, or
            a page is asked for and Jinja is not installed.
    """
    as_page = _is_page(path)
    require_replaceable(path, begins=_HTML_BEGINS if as_page else _JSON_BEGINS, what="a report")
    if as_page:
        page.require_engine()


async def write_report(
    path: Path,
    store: Store,
    *,
    report: SyncReport | None,
    error: str | None,
    observed: Observation | None = None,
) -> None:
    """Write the newest run's report; atomically replaces an earlier one.

    Args:
        path: ``.html`` for a page, any other for JSON.
        store: the entered store.
        report: what the call returned, if it did.
        error: why the run was ended early, if it was.
        observed: the time series of the call.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    run = await store.last_run()
    if run is None:
        return
    totals = await store.totals(run)
    head = Head.of(run, totals, call=report, ended_early=error, observed=observed)
    if _is_page(path):
        reconnect = await needs_reconnecting(store, now=time.time())
        content = page.render(head, await summarize(store.checkpoints(run)), reconnect)
        with replaced_atomically(path) as file:
            file.write(content)
        return
    with replaced_atomically(path) as file:
        file.write(_json(plain(head) | {"schema_version": SCHEMA_VERSION})[:-1] + b',"users":[')
        separator = b"\n"
        async for checkpoint in store.checkpoints(run):
            file.write(separator + _json(plain(checkpoint)))
            separator = b",\n"
        file.write(b"\n]}\n")


def _is_page(path: Path) -> bool:
    return path.suffix.lower() in _PAGES


def _json(value: object) -> bytes:
    return escaped(msgspec.json.encode(value).decode()).encode()
