"""Timestamps as the upstream writes and reads them: ISO 8601 with milliseconds and a ``Z``.

The clock is injected (``SandboxOptions.now``); nothing here reads the time.
"""

from datetime import UTC, datetime


def iso(instant: float) -> str:
    """Write an instant as the upstream does: ``2026-11-23T17:24:11.359Z``."""
    moment = datetime.fromtimestamp(instant, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant_of(text: str) -> float | None:
    """Read a free-form ``expires``; None where the upstream cannot read it either.

    The year 33658 is such a case: a date that cannot be read is never due (§ One secret).
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
