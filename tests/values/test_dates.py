"""Upstream's dates never fail a decode."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FAR_FUTURE
from flowmate_async.values.dates import parse_date


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
        ({}, None),
        (True, None),
        ("0000-00-00T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),  # in UTC before the calendar begins
        ("9999-12-31T23:59:59-14:00", None),  # and after it ends
    ],
)
def test_a_date_is_read_as_the_contract_has_it(written, meant):
    assert parse_date(written) == meant


THE_28TH = datetime(2026, 5, 28, 23, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        1_780_010_112,
        1_780_010_112.0,
        1_780_010_112_000,
        "1780010112",
        "1780010112000",
        " 1780010112000 ",
        "1780010112.000",
        "Thu, 28 May 2026 23:15:12 GMT",
        "Thu, 28 May 2026 23:15:12 +0000",
        "28 May 2026 23:15:12 UTC",
        "Fri, 29 May 2026 01:15:12 +0200",
        "Thursday, 28-May-2026 23:15:12 GMT",
        "Thu May 28 2026 23:15:12 GMT+0000 (Coordinated Universal Time)",
        "Fri May 29 2026 01:15:12 GMT+0200 (Central European Summer Time)",
        "Thu May 28 2026 18:15:12 GMT-0500",
        "Thu May 28 23:15:12 2026",
        "2026-05-28T23:15:12Z",
        "2026-05-28t23:15:12z",
        "  2026-05-28T23:15:12.000Z\t",
        "2026-05-28 23:15:12",
        "2026-05-28 23:15:12 Z",
        "2026-05-28 23:15:12 +00:00",
        "2026-05-28 23:15:12 +0000 UTC",
        "2026-05-28, 23:15:12",
        "2026-05-28T23:15:12,000Z",
        "2026-05-28T23:15:12.000000000Z",
        "2026-05-29T01:15:12+0200",
        "20260528T231512Z",
        "20260528T231512.000+0000",
    ],
)
def test_every_unambiguous_form_is_the_same_moment(written):
    """`expires` is a free string, and providers write what they like into it."""
    assert parse_date(written) == THE_28TH


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-05-28T24:00:00Z", datetime(2026, 5, 29, tzinfo=UTC)),
        ("2026-12-31T24:00:00.000+00:00", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2026-05-28 24:00", datetime(2026, 5, 29, tzinfo=UTC)),
        ("2026-05-28", datetime(2026, 5, 28, tzinfo=UTC)),
        ("2026-05-28T23:15", datetime(2026, 5, 28, 23, 15, tzinfo=UTC)),
        ("2026-05-28T23:15:12,5Z", THE_28TH.replace(microsecond=500_000)),
        ("2026-05-28T23:15:12.0123456789Z", THE_28TH.replace(microsecond=12_345)),
        ("1780010112345", THE_28TH.replace(microsecond=345_000)),
        ("Sun Sep 27 33658 01:46:40 GMT+0000 (Coordinated Universal Time)", FAR_FUTURE),
        (100_000_000, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (99_999_999_999, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        (100_000_000_000, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
    ],
)
def test_odd_but_clear_dates_are_read(written, meant):
    assert parse_date(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        0, -1, 5, 3600, 99_999_999, 10**14, 10**30, 1e400, float("nan"), "0", "-1780010112", "3600",
        "20260528", "17800101", "1780010112345678", "1e12", "1,780,010,112", "٢٠٢٦-05-28", "05/28/2026",
        "28.05.2026 23:15",
        "1970-01-01T00:00:00.000Z", "0001-01-01T00:00:00Z", "1780-01-01T00:00:00Z", "1900-01-01 00:00:00",
        "2026-05-28T24:00:01Z", "2026-05-28T25:00:00Z", "2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z",
        "Thu, 28 Xyz 2026 23:15:12 GMT", "Thu, 28 May 2026 23:15:12 EST", "33658-19-27T01:46:40+00:00",
        "2026-05-28T23:15:12+25:00", "x" * 10_000, "1" * 10_000, "Invalid Date", "null", "never",
    ],
)  # fmt: skip
def test_what_is_not_certainly_a_date_is_unknown(written):
    """An unknown end is served for minutes; a wrong one loses a live credential or serves a dead one."""
    assert parse_date(written) is None


def whole_minutes(minutes):
    """An offset as ISO 8601 has it; Python 3.11 misreads its own fractions of a second."""
    return timezone(timedelta(minutes=minutes))


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.integers().map(str)
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


@given(
    st.datetimes(
        min_value=datetime(1974, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
        timezones=st.integers(-14 * 60, 14 * 60).map(whole_minutes),
    )
)
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
