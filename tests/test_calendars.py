"""Times on grids: there and back, whatever the step; and what the calendar says of them."""

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostinato.data.calendars import Grid, parse_time, parse_times
from ostinato.errors import OstinatoError

START = np.datetime64("2019-12-30T00:00:00")


def every(n, unit, count=40, start=START):
    return (start + n * np.arange(count).astype(f"timedelta64[{unit}]")).astype("datetime64[s]")


def months(n, count=30, day=1):
    first = np.datetime64("2001-03") + n * np.arange(count).astype("timedelta64[M]")
    return first.astype("datetime64[s]") + np.timedelta64(day - 1, "D")


MONTH_ENDS = (months(1).astype("datetime64[M]") + 1).astype("datetime64[D]") - 1
BUSINESS = np.arange("2020-01-01", "2020-03-01", dtype="datetime64[D]")
BUSINESS = BUSINESS[np.is_busday(BUSINESS)]

GRIDS = {
    "1 second": (every(1, "s"), 60),
    "15 minutes": (every(15, "m"), 96),
    "1 hour": (every(1, "h"), 24),
    "6 hours": (every(6, "h"), 4),
    "1 day": (every(1, "D"), 7),
    "1 week": (every(7, "D"), 52),
    "1 month": (months(1), 12),
    "3 months": (months(3), 4),
    "1 year": (months(12), 1),
    "1 business day": (BUSINESS.astype("datetime64[s]"), 5),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_found_with_gaps_and_leads_there_and_back(name):
    times, season = GRIDS[name]
    rng = np.random.default_rng(0)
    kept = times[np.sort(rng.permutation(len(times))[: len(times) - 5])]
    grid = Grid.found(kept)
    assert (grid.name, grid.season) == (name, season)
    numbers = grid.numbers(times)
    assert (np.diff(numbers) == 1).all()
    np.testing.assert_array_equal(grid.times(numbers), times)
    off = times + np.timedelta64(1 if name != "1 second" else 0, "s")
    assert name == "1 second" or (grid.numbers(off) < -(2**61)).all()
    assert Grid(**grid.to_json()) == grid


def test_ends_of_months_are_months():
    grid = Grid.found(MONTH_ENDS.astype("datetime64[s]"))
    assert grid.name == "1 month" and grid.seconds == -1
    np.testing.assert_array_equal(grid.times(grid.numbers(MONTH_ENDS)), MONTH_ENDS)
    assert grid.shown(int(grid.numbers(MONTH_ENDS)[0])) == str(MONTH_ENDS[0])


def test_several_series_share_a_grid_and_numbers_are_steps():
    both = np.concatenate([every(1, "h", 10), every(1, "h", 10)])
    assert Grid.found(both, np.repeat([0, 1], 10)).name == "1 hour"
    grid = Grid.found(np.array([5, 8, 11, 17]))
    assert (grid.unit, grid.n, grid.season) == ("step", 3, 1)
    assert grid.numbers(np.array([5, 8, 17])).tolist() == [1, 2, 5]
    assert grid.shown(5) == "17" and grid.calendar(np.arange(3)).shape == (3, 0)


@pytest.mark.parametrize(
    ("name", "found"),
    [("h", "1 hour"), ("15min", "15 minutes"), ("D", "1 day"), ("B", "1 business day"),
     ("W", "1 week"), ("M", "1 month"), ("Q", "3 months"), ("Y", "1 year"), ("2h", "2 hours"),
     ("monthly", "1 month")],
)  # fmt: skip
def test_a_grid_is_had_by_its_name(name, found):
    times = months(12)
    grid = Grid.named(name, times)
    assert grid.name == found
    assert grid.unit == "business" or grid.numbers(times[:1]) > -(2**61)


def test_names_that_say_nothing_are_refused():
    for name in ("often", "0h", "", "3B"):
        with pytest.raises(OstinatoError, match="expected a step of dates: 15min, h, D"):
            Grid.named(name, every(1, "h"))
    with pytest.raises(OstinatoError, match="expected a step of numbers"):
        Grid.named("h", np.array([1, 2]))


@pytest.mark.parametrize("name", GRIDS)
def test_the_calendar_is_where_a_time_lies_in_day_week_and_year(name):
    times, _ = GRIDS[name]
    grid = Grid.found(times)
    found = grid.calendar(grid.numbers(times))
    K = found.shape[1] // 2
    np.testing.assert_allclose((found[:, :K] ** 2 + found[:, K:] ** 2), 1, rtol=1e-5)
    wanted = {"second": 3, "minutes": 3, "hour": 3, "hours": 3, "day": 2, "week": 1}
    assert wanted.get(name.split()[-1], 1 if "month" in name else 0) == K
    turns = np.unwrap(np.arctan2(found[:, 0], found[:, K])) if K else np.zeros(1)
    if name == "1 hour":
        np.testing.assert_allclose(np.diff(turns), 2 * np.pi / 24, rtol=1e-3)
    if "day" in name:
        weekday = [t.astype(object).isoweekday() - 1 for t in times]
        np.testing.assert_allclose(
            found[:, 0], np.sin(2 * np.pi * np.array(weekday) / 7), atol=1e-6
        )


@given(st.datetimes(min_value=datetime(1700, 1, 1)))
def test_iso_times_are_read(moment):
    moment = moment.replace(microsecond=0)
    for text in (moment.isoformat(), moment.isoformat(" ")):
        assert parse_time(text) == np.datetime64(moment, "s")


def test_other_ways_to_write_a_day_are_read_and_the_day_is_settled_by_the_others():
    day = np.datetime64("2020-02-03T00:00:00")
    for text in ("2020-02-03", "2020/2/3", "2020.02.03", "20200203"):
        assert parse_time(text) == day
    assert parse_times(["03/02/2020", "13/02/2020"])[0] == day
    assert parse_times(["02/03/2020", "02/13/2020"])[0] == day
    assert parse_times(["03.02.2020"])[0] == day
    assert parse_times(["02/03/2020"])[0] == day
    late, early = parse_times(["2021-10-31T02:00:00+02:00", "2021-10-31T02:00:00+01:00"])
    assert early - late == np.timedelta64(1, "h")
    assert np.isnat(parse_times(["2020-13-01", "soon", ""])).all()
