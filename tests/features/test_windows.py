from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.windows import Window, between, midnight, night_of, night_window, parse_date

DATE = dt.date(2010, 12, 1)
instants = st.datetimes(
    dt.datetime.fromisoformat("1990-01-01"),
    dt.datetime.fromisoformat("2090-01-01"),
    timezones=st.sampled_from([dt.timezone(dt.timedelta(hours=hours)) for hours in (-11, 0, 14)]),
)


def test_a_window_is_utc_and_runs_forwards() -> None:
    noon = dt.datetime(2010, 12, 1, 12, tzinfo=dt.UTC)
    with pytest.raises(ValueError, match="must end after it starts"):
        Window(noon, noon)
    with pytest.raises(ValueError, match="must end after it starts"):
        between(DATE, DATE - dt.timedelta(days=1))
    with pytest.raises(ValueError, match="must be UTC"):
        Window(noon.replace(tzinfo=None), noon)


@given(st.dates(dt.date(1990, 1, 1), dt.date(2090, 1, 1)))
@settings(max_examples=20)
def test_nights_tile_time(date: dt.date) -> None:
    night = night_window(date)
    assert night.end == midnight(date) == night_window(date + dt.timedelta(days=1)).start
    assert night == between(date - dt.timedelta(days=1), date)


def test_a_date_that_is_none_is_named() -> None:
    assert parse_date("2010-12-01") == DATE
    with pytest.raises(ValueError, match=r"YYYY-MM-DD, got '01\.12\.2010'"):
        parse_date("01.12.2010")


def test_the_night_is_what_was_asked_else_the_interval_end_else_the_day_due() -> None:
    end, due = dt.datetime(2010, 12, 2, tzinfo=dt.UTC), dt.datetime(2010, 12, 3, 4, tzinfo=dt.UTC)
    assert night_of("2010-12-01", end, due) == DATE
    assert night_of(None, end, due) == dt.date(2010, 12, 2)
    assert night_of(None, None, due) == dt.date(2010, 12, 3)


@given(instants)
@settings(max_examples=50)
def test_a_night_knows_no_more_than_its_run_may(instant: dt.datetime) -> None:
    known_until = midnight(night_of(None, instant, instant))
    assert known_until <= instant < known_until + dt.timedelta(days=1)


def test_a_night_needs_a_date_and_a_time_zone() -> None:
    with pytest.raises(ValueError, match="expected a date"):
        night_of("tonight", None, dt.datetime(2010, 12, 1, tzinfo=dt.UTC))
    with pytest.raises(ValueError, match="time zone"):
        night_of(None, None, dt.datetime.fromisoformat("2010-12-01"))
