"""Upstream's dates: free strings that must never fail a decode (docs/contract/OBSERVED.md § One secret)."""

import email.utils
from datetime import UTC, datetime

FAR_FUTURE = datetime.max.replace(tzinfo=UTC)
"""What a date beyond Python's year 9999 becomes; the documentation has one in the year 33658."""


def parse_date(raw: object) -> datetime | None:
    """Read a date as upstream may write it.

    Args:
        raw: ISO 8601 with ``Z`` or an offset, a year beyond 9999, garbage, ``None``, or no string at all.

    Returns:
        An aware datetime; :data:`FAR_FUTURE` for a year beyond 9999; ``None`` for anything else.
    """
    if not isinstance(raw, str):
        return None
    try:
        moment = datetime.fromisoformat(raw)
        # In UTC at once: an offset at either end of the calendar must fail here and not in a comparison.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return FAR_FUTURE if _is_beyond_year_9999(raw) else None


def parse_http_date(raw: str) -> float | None:
    """Read the date of an HTTP header (RFC 9110 § 5.6.7).

    Returns:
        Seconds since the Unix epoch; ``None`` for anything else.
    """
    try:
        moment = email.utils.parsedate_to_datetime(raw)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _is_beyond_year_9999(text: str) -> bool:
    year, dash, _ = text.strip().removeprefix("+").partition("-")
    return bool(dash) and year.isascii() and year.isdigit() and len(year.lstrip("0")) > 4
