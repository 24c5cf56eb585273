"""Plain: values as JSON shows them, the same in every command and in the report.

Field names are snake_case, as in Python, and times are ISO 8601 in UTC. Upstream's own spelling, such as
``currentError`` or dates as it wrote them, never shows.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowmate_async.values.dates import parse_date

_INTERNAL = frozenset({"seen", "renewed"})
"""Fields that only the next sync can read."""


def plain(value: Any) -> Any:
    """Return a struct, or a container of structs, as JSON-compatible values.

    Args:
        value: any struct of this library.
    """
    if isinstance(value, msgspec.Struct):
        names = [name for name in value.__struct_fields__ if name not in _INTERNAL]
        return {name: _field(name, getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return moment(value.timestamp()) if isinstance(value, datetime) and value.year < _LAST_YEAR else value


_LAST_YEAR = 9999


def moment(epoch: float) -> datetime:
    """Return a time in UTC, to the millisecond.

    Args:
        epoch: seconds since the Unix epoch.
    """
    exact = datetime.fromtimestamp(epoch, UTC)
    return exact.replace(microsecond=exact.microsecond // 1000 * 1000)


def _field(name: str, value: Any) -> Any:
    if is_time(name) and isinstance(value, int | float):
        return moment(value)
    if is_time(name) and isinstance(value, str):
        return plain(parse_date(value)) or value
    return plain(value)


def is_time(name: str) -> bool:
    """Return whether a field of this name is a moment."""
    return name in {"at", "since", "expires"} or name.endswith("_at")
