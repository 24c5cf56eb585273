"""Upstream's dates never fail a decode."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FAR_FUTURE
from flowmate_async.dates import parse_date


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-11-23T17:24:11.359Z", datetime(2026, 11, 23, 17, 24, 11, 359_000, UTC)),
        ("2026-11-23T17:31:07+00:00", datetime(2026, 11, 23, 17, 31, 7, tzinfo=UTC)),
        ("2026-11-23T19:31:07+02:00", datetime(2026, 11, 23, 17, 31, 7, tzinfo=UTC)),
        ("2026-11-23T17:31:07", datetime(2026, 11, 23, 17, 31, 7, tzinfo=UTC)),
        ("33658-09-27T01:46:40+00:00", FAR_FUTURE),
        ("+033658-09-27T01:46:40.000Z", FAR_FUTURE),
        (None, None),
        ("", None),
        ("soon", None),
        ("never-ever", None),
        (1_700_000_000, None),
        ({}, None),
        ("0000-00-00T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),  # in UTC before the calendar begins
        ("9999-12-31T23:59:59-14:00", None),  # and after it ends
    ],
)
def test_a_date_is_read_as_the_contract_has_it(written, meant):
    assert parse_date(written) == meant


def whole_minutes(minutes):
    """An offset as ISO 8601 has it; Python 3.11 misreads its own fractions of a second."""
    return timezone(timedelta(minutes=minutes))


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.from_regex(
        r"[+-]?[0-9]{1,12}-[0-9]{2}-[0-9]{2}(T[0-9:.]{0,14}(Z|[+-][0-9]{2}:[0-9]{2})?)?", fullmatch=True
    )
)
def test_whatever_is_written_a_date_is_an_aware_moment_or_nothing(written):
    """Also comparable with any other and convertible to a timestamp: that is what readers do next."""
    moment = parse_date(written)
    if moment is not None:
        assert moment.utcoffset() == timedelta(0)
        assert isinstance(moment.timestamp(), float)
        assert moment <= FAR_FUTURE


@given(st.datetimes(timezones=st.integers(-14 * 60, 14 * 60).map(whole_minutes)))
def test_every_iso_date_keeps_its_moment(moment):
    try:
        meant = moment.astimezone(UTC)
    except OverflowError:
        assert parse_date(moment.isoformat()) is None
        return
    assert parse_date(moment.isoformat()) == meant


@given(st.integers(10_000, 10**12))
def test_every_year_beyond_9999_is_the_far_future(year):
    assert parse_date(f"{year}-09-27T01:46:40+00:00") == FAR_FUTURE
