"""Read upstream's dates: free strings that must never fail a decode (docs/contract/OBSERVED.md § One secret).

A date is read only when its form leaves no doubt. Everything else is unknown, which is safe: a credential
with an unknown end is served for a short while only.
"""

import email.utils
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

FAR_FUTURE = datetime.max.replace(tzinfo=UTC)
"""What a date beyond Python's year 9999 becomes; the documentation has one in the year 33658."""

_EARLIEST_SECONDS = 100_000_000.0
"""The year 1973. Earlier dates mean "not set": zero dates of databases and languages, and epochs of zero."""

_EARLIEST = datetime.fromtimestamp(_EARLIEST_SECONDS, UTC)
_REMEMBERED = 1024
"""How many texts are remembered: the dates of a listing are read several times, one after another."""

_EPOCH_MS = 100_000_000_000.0
"""From here on a number is milliseconds; as seconds it would be the year 5138."""

_LATEST_MS = 100_000_000_000_000.0

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?"
_ZONE = (
    r"(?:\s*(?:Z|(?:GMT|UTC|UT)?\s*(?P<sign>[+-])(?P<zone_hour>\d{2}):?(?P<zone_minute>\d{2})|GMT|UTC|UT))?"
)
_BASIC_CLOCK = r"(?P<hour>\d{2})(?P<minute>\d{2})(?:(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?"
_COMMENT = r"(?:\s*(?:\([^()]*\)|UTC|GMT))?"  # JavaScript's "(Coordinated …)", Go's second "UTC"
_WEEKDAY = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,?\s+)?"
_FORMS = tuple(
    re.compile(form + _COMMENT, re.IGNORECASE | re.ASCII)
    for form in (
        # ISO 8601 and RFC 3339, extended or basic; also with a blank or comma before the time.
        rf"\+?(?P<year>\d{{4,}})-(?P<month>\d{{2}})-(?P<day>\d{{2}})(?:(?:T|,?\s+){_CLOCK}{_ZONE})?",
        rf"(?P<year>\d{{4}})(?P<month>\d{{2}})(?P<day>\d{{2}})T{_BASIC_CLOCK}{_ZONE}",
        # RFC 2822 and the dates of HTTP.
        rf"{_WEEKDAY}(?P<day>\d{{1,2}})[ -](?P<name>[a-z]{{3}})[ -](?P<year>\d{{4,}}),?\s+{_CLOCK}{_ZONE}",
        # JavaScript's Date.toString().
        rf"{_WEEKDAY}(?P<name>[a-z]{{3}})\s+(?P<day>\d{{1,2}}),?\s+(?P<year>\d{{4,}}),?\s+{_CLOCK}{_ZONE}",
        # C's asctime, which has no zone.
        rf"{_WEEKDAY}(?P<name>[a-z]{{3}})\s+(?P<day>\d{{1,2}})\s+{_CLOCK}{_ZONE}\s+(?P<year>\d{{4,}})",
    )
)
_NUMBER = re.compile(r"\d{1,20}(?:\.\d{1,9})?", re.ASCII)
_ISO = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{3})?(?:Z|\+00:00)", re.ASCII)
_LONGEST = 100


def parse_date(raw: object) -> datetime | None:
    """Read a date as upstream, or the provider behind it, may write it.

    Args:
        raw: ISO 8601 or RFC 3339, epoch seconds or milliseconds (number or string), RFC 2822, JavaScript's
            ``Date.toString()``, a year beyond 9999, garbage, ``None``, or anything else. The zone is UTC if
            none is given.

    Returns:
        An aware datetime in UTC; :data:`FAR_FUTURE` for a year beyond 9999; ``None`` for anything that is not
        certainly a date from 1973 on.
    """
    if isinstance(raw, str):
        return _parse_text(raw)
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        with suppress(ValueError, OverflowError):
            return _from_epoch(float(raw))
    return None


@lru_cache(maxsize=_REMEMBERED)
def iso(moment: datetime | None) -> str:
    """Return a date in ISO 8601; an empty string for ``None``."""
    return "" if moment is None else moment.isoformat()


@lru_cache(maxsize=_REMEMBERED)
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


@lru_cache(maxsize=_REMEMBERED)
def _parse_text(text: str) -> datetime | None:
    try:
        moment = _moment_of(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment is not None and moment >= _EARLIEST else None


def _moment_of(text: str) -> datetime | None:
    if _ISO.fullmatch(text):
        return datetime.fromisoformat(text)  # nearly all dates, by the fastest way; always UTC
    if len(text) > _LONGEST:
        return None
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return _from_epoch(float(text))
    for form in _FORMS:
        if (match := form.fullmatch(text)) is not None:
            return _from_parts(match.groupdict())
    return None


def _from_epoch(number: float) -> datetime | None:
    if not _EARLIEST_SECONDS <= number < _LATEST_MS:
        return None
    return datetime.fromtimestamp(number / 1000 if number >= _EPOCH_MS else number, UTC)


def _from_parts(parts: dict[str, str | None]) -> datetime | None:
    year, day = int(parts["year"] or 0), int(parts["day"] or 0)
    name, month = parts.get("name"), parts.get("month")
    number = int(month) if month else _MONTHS.index((name or "").lower()) + 1
    hour, minute, second = (int(parts.get(unit) or 0) for unit in ("hour", "minute", "second"))
    if year > FAR_FUTURE.year:
        datetime(2000, number, day, tzinfo=UTC)  # raises unless the rest is a date
        return FAR_FUTURE
    midnight = hour == 24 and not (minute or second or int(parts.get("fraction") or 0))
    micro = int((parts.get("fraction") or "0")[:6].ljust(6, "0"))
    zone = _zone(parts)
    moment = datetime(year, number, day, 0 if midnight else hour, minute, second, micro, zone)
    return (moment + timedelta(days=midnight)).astimezone(UTC)


def _zone(parts: dict[str, str | None]) -> timezone:
    if parts.get("sign") is None:
        return UTC
    offset = timedelta(hours=int(parts["zone_hour"] or 0), minutes=int(parts["zone_minute"] or 0))
    return timezone(-offset if parts["sign"] == "-" else offset)
