"""Dates and times: every way in which people write them, as pandas reads them or by hand."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostinato.data.dates import join_parts, parse_times
from ostinato.errors import OstinatoError


def read(*cells, day_first=None):
    return parse_times(pd.Series(list(cells)), day_first).times


def text(*cells):
    return [str(time).removesuffix(".000000") for time in read(*cells)]


@given(st.lists(st.datetimes(min_value=datetime.datetime(1700, 1, 1)), min_size=1, max_size=5))
def test_iso_times_are_read(moments):
    moments = [moment.replace(microsecond=0) for moment in moments]
    expected = np.array(moments, dtype="M8[us]")
    for cells in ([m.isoformat() for m in moments], [m.isoformat(" ") for m in moments], moments):
        np.testing.assert_array_equal(read(*cells), expected)


DAY = [
    "2020-02-03", "2020/2/3", "2020.02.03", "20200203", "3.2.2020", "03.02.20", "3 Feb 2020",
    "3-Feb-2020", "3-Feb-20", "Feb 3, 2020", "February 3 2020", "3rd February 2020", "2020-Feb-03",
    "2020-W06-1", "2020-W06", "2020W06", "03.02.2020 00:00", "2020-02-03T00", 20200203, 20200203.0,
    Decimal(20200203), datetime.date(2020, 2, 3), datetime.datetime(2020, 2, 3),
    np.datetime64("2020-02-03"), pd.Timestamp("2020-02-03"), pd.Period("2020-02-03"), 1580688000,
    1580688000000, 1580688000000000, 1580688000000000000,
]  # fmt: skip
MONTH = [
    "2020-04", "2020/4", "2020.04", "04/2020", "4.2020", "Apr 2020", "April 2020", "Apr-2020",
    "2020 Apr", "2020M04", "2020Q2", "2020-Q2", "Q2 2020", "Q2-2020", "2Q2020", 202004, "202004",
    pd.Period("2020-04"), pd.Period("2020Q2"),
]  # fmt: skip


@pytest.mark.parametrize("cell", DAY, ids=str)
def test_a_day_is_read(cell):
    assert text(cell) == ["2020-02-03T00:00:00"]


@pytest.mark.parametrize("cell", MONTH, ids=str)
def test_a_month_or_quarter_is_read(cell):
    assert text(cell) == ["2020-04-01T00:00:00"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2020-02-03 04:05", "04:05:00"), ("2020-02-03T04:05:06", "04:05:06"),
        ("3.2.2020 04:05", "04:05:00"), ("3 Feb 2020 4:05 PM", "16:05:00"),
        ("3 Feb 2020 12:05 a.m.", "00:05:00"), ("2020-02-03 04:05:06.250", "04:05:06.250000"),
        ("2020-02-03T04:05:06Z", "04:05:06"), ("2020-02-03 04:05:06+02:00", "02:05:06"),
        ("2020-02-03 04:05-0530", "09:35:00"), ("2020-02-03 04:05:06 -01", "05:05:06"),
        (2020020304, "04:00:00"), (202002030405, "04:05:00"), (20200203040506, "04:05:06"),
        (1580702706250, "04:05:06.250000"),
    ],
)  # fmt: skip
def test_a_time_of_day_is_read(cell, expected):
    assert text(cell) == [f"2020-02-03T{expected}"]


def test_plain_numbers_stay_numbers():
    for cells in ((1, 2, 30), ("1", "2", "30"), (1.0, 2.0, 30.0), (Decimal(1), 2, 30)):
        found = read(*cells)
        assert found.dtype.kind == "i" and found.tolist() == [1, 2, 30]
    assert read(199001, 199002, 199013).tolist() == [199001, 199002, 199013]  # no month 13


def test_cells_that_are_no_time_are_nat():
    assert np.isnat(read("2020-13-01", "soon", "", "January 1", "may")).all()
    for cells in (("2020-01-01", None), ("1", None)):
        assert np.isnat(read(*cells)).tolist() == [False, True]
    assert np.isnat(read(1.5, 2.0)).tolist() == [True, False]


def test_typed_columns_keep_their_types():
    months = ["2020-01", "2020-02", "2020-01"]
    for cells in (
        pd.Series(pd.PeriodIndex(months, freq="M")),
        pd.Series([202001, 202002, 202001], dtype="Int64"),
        pd.Series(months, dtype="category"),
    ):
        assert [str(time)[:7] for time in parse_times(cells).times] == months


def test_which_is_the_day_is_settled_by_other_cells_by_regularity_or_by_dots():
    day = np.datetime64("2020-02-03")
    assert read("03/02/2020", "13/02/2020")[0] == day
    assert read("02/03/2020", "02/13/2020")[0] == day
    assert read("03.02.2020")[0] == read("03/02/2020", day_first=True)[0] == day
    assert read("02/03/2020", day_first=False)[0] == day
    two_years = [(year, month) for year in (2020, 2021) for month in range(1, 13)]
    for form in ("01/{1:02d}/{0}", "{1:02d}/01/{0}", "1-{1}-{0}"):
        assert read(*(form.format(*each) for each in two_years))[1] == np.datetime64("2020-02-01")


def test_of_two_plausible_readings_none_is_guessed():
    for cells in (("01/02/2020", "01/03/2020", "01/04/2020"), ("2/3/2020",), ("1-2-20", "1-3-20")):
        with pytest.raises(OstinatoError, match=r"'.*' may be .* say which with day_first"):
            read(*cells)


AUTUMN = [
    "2021-10-31T01:00+02:00", "2021-10-31T02:00+02:00", "2021-10-31T02:00+01:00",
    "2021-10-31T03:00+01:00",
]  # fmt: skip


def test_offsets_tell_the_hours_of_autumn_apart():
    for old, new in (("", ""), ("T", " "), ("2021-10-31T", "31.10.2021 ")):
        times, utc = parse_times(pd.Series([cell.replace(old, new) for cell in AUTUMN]))
        assert utc and str(times[0])[:16] == "2021-10-30T23:00"
        assert (np.diff(times) == np.timedelta64(1, "h")).all()
    zone = pd.Series(pd.date_range("2021-10-31T01:00", periods=4, freq="h", tz="Europe/Berlin"))
    np.testing.assert_array_equal(parse_times(zone).times, times)


def test_local_days_stay_days_where_clocks_change():
    index = pd.Series(pd.date_range("2021-03-25", periods=6, freq="D", tz="Europe/Berlin"))
    days = np.arange("2021-03-25", "2021-03-31", dtype="M8[D]")
    for cells in (index, index.map(lambda time: time.isoformat()), index.astype(object)):
        times, utc = parse_times(cells)
        np.testing.assert_array_equal(times, days)
        assert not utc


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"year": 2020, "month": 2}, "2020-02-01T00:00:00"),
        ({"Year": "2020", "Month": "Feb"}, "2020-02-01T00:00:00"),
        ({"year": 2020, "quarter": "Q3"}, "2020-07-01T00:00:00"),
        ({"year": 2020, "quarter": 3}, "2020-07-01T00:00:00"),
        ({"year": 2020, "week": 6}, "2020-02-03T00:00:00"),
        ({"year": 2020, "month": 2, "day": 3, "hour": 4}, "2020-02-03T04:00:00"),
        ({"date": "3.2.2020", "time": "04:05"}, "2020-02-03T04:05:00"),
        ({"date": "2020-02-03", "hour": 4, "minute": 5}, "2020-02-03T04:05:00"),
    ],
)
def test_parts_of_a_time_are_joined(parts, expected):
    cells = join_parts({name: pd.Series([cell]) for name, cell in parts.items()})
    assert str(parse_times(cells).times[0]).removesuffix(".000000") == expected


@pytest.mark.parametrize(
    "cell", ["9" * 19, "9" * 40, 10**400, 1e300, -(10**30), [1], {"a": 1}], ids=str
)
def test_a_cell_beyond_all_times_is_none_and_spoils_no_other(cell):
    assert np.isnat(read("2020-02-03", cell)).tolist() == [False, True]
    assert np.isnat(read(cell)).all()
    assert len(read("2020-02-03", "-0001-01-05")) == 2


def test_years_that_nanoseconds_do_not_reach_are_read_in_every_form():
    assert text("3024-02-03", "4 Feb 2024") == ["3024-02-03T00:00:00", "2024-02-04T00:00:00"]
