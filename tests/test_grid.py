"""Grids of times: there and back, whatever the step; irregular times; the calendar."""

from dataclasses import asdict

import numpy as np
import pytest

from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.grid import LAST_BUSINESS_DAY, NOWHERE, Grid

START = np.datetime64("2019-12-30T00:00:00")


def every(n, unit, count=40, start=START):
    return (start + n * np.arange(count).astype(f"timedelta64[{unit}]")).astype("datetime64[us]")


def months(n, count=30, day=1):
    first = np.datetime64("2001-03") + n * np.arange(count).astype("timedelta64[M]")
    return first.astype("datetime64[us]") + np.timedelta64(day - 1, "D")


MONTH_ENDS = months(1).astype("datetime64[M]") + np.timedelta64(1, "M")
MONTH_ENDS = MONTH_ENDS.astype("datetime64[D]") - np.timedelta64(1, "D")
MONTH_ENDS = MONTH_ENDS.astype("datetime64[us]")
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
    "1 business day": (BUSINESS.astype("datetime64[us]"), 5),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_found_with_gaps_and_leads_there_and_back(name):
    times, season = GRIDS[name]
    rng = np.random.default_rng(0)
    kept = times[np.sort(rng.permutation(len(times))[: len(times) - 5])]
    grid = Grid.find(kept)
    assert (grid.name, grid.season) == (name, season)
    numbers = grid.numbers(times)
    assert (np.diff(numbers) == 1).all()
    np.testing.assert_array_equal(grid.times(numbers), times)
    off = times + np.timedelta64(1 if name != "1 second" else 0, "s")
    assert name == "1 second" or (grid.numbers(off) == NOWHERE).all()
    assert Grid(**asdict(grid)) == grid


def test_ends_of_months_are_months():
    grid = Grid.find(MONTH_ENDS)
    assert grid.name == "1 month" and grid.anchor == -1
    np.testing.assert_array_equal(grid.times(grid.numbers(MONTH_ENDS)), MONTH_ENDS)
    assert grid.format(MONTH_ENDS[:1]) == [str(MONTH_ENDS[0])[:10]]


def test_several_series_share_a_grid_and_numbers_are_steps():
    both = np.concatenate([every(1, "h", 10), every(1, "h", 10)])
    assert Grid.find(both, np.repeat([0, 1], 10)).name == "1 hour"
    grid = Grid.find(np.array([5, 8, 11, 17]))
    assert (grid.unit, grid.n, grid.season) == ("step", 3, 1)
    assert grid.numbers(np.array([5, 8, 17])).tolist() == [1, 2, 5]
    assert grid.format(grid.times([5])) == ["17"] and grid.calendar(np.arange(3)).shape == (3, 0)


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
    assert grid.unit == "business" or grid.numbers(times[:1]) != NOWHERE


def test_unknown_frequencies_are_refused():
    for name in ("often", "0h", "", "3B"):
        with pytest.raises(OstinatoError, match="expected a step of dates: 15min, h, D"):
            Grid.named(name, every(1, "h"))
    with pytest.raises(OstinatoError, match="expected a step of numbers"):
        Grid.named("h", np.array([1, 2]))


@pytest.mark.parametrize("name", GRIDS)
def test_the_calendar_is_where_a_time_lies_in_day_week_and_year(name):
    times, _ = GRIDS[name]
    grid = Grid.find(times)
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


def business_month_ends(count=30):
    return np.busday_offset(MONTH_ENDS[:count].astype("datetime64[D]"), 0, roll="backward")


def test_last_business_days_of_months_are_months():
    times = business_month_ends().astype("datetime64[us]")
    grid = Grid.find(times)
    assert (grid.name, grid.anchor) == ("1 month", LAST_BUSINESS_DAY)
    np.testing.assert_array_equal(grid.times(grid.numbers(times)), times)
    assert (np.diff(grid.numbers(times)) == 1).all()


@pytest.mark.parametrize("moved", [-1, 3], ids=["Thursday", "Monday"])
def test_fridays_moved_by_holidays_are_weeks(moved):
    fridays = every(7, "D", 60, np.datetime64("2020-01-03T00:00:00")).astype("datetime64[D]")
    fridays[[14, 51]] += np.timedelta64(moved, "D")
    grid = Grid.find(fridays.astype("datetime64[us]"))
    assert (grid.name, grid.season, grid.loose) == ("1 week", 52, True)
    numbers = grid.numbers(fridays.astype("datetime64[us]"))
    assert (np.diff(numbers) == 1).all()
    shown = grid.times(numbers).astype("datetime64[D]")
    assert ((shown.astype(int) + 3) % 7 == 4).all()  # on Fridays
    assert np.abs((shown - fridays).astype(int)).max() == abs(moved)


def test_first_fridays_of_months_are_months_and_of_quarters_quarters():
    first = months(1, 40).astype("datetime64[D]")
    fridays = np.busday_offset(first, 0, roll="forward", weekmask="Fri").astype("datetime64[us]")
    assert Grid.find(fridays).name == "1 month"
    assert Grid.find(fridays[::3]).name == "3 months"
    assert (np.diff(Grid.find(fridays).numbers(fridays)) == 1).all()


def test_days_with_many_gaps_are_no_weeks_or_months():
    rng = np.random.default_rng(0)
    days = every(1, "D", 400)[np.sort(rng.permutation(400)[:120])]
    assert Grid.find(days).name == "1 day"


def test_milliseconds_are_kept():
    times = every(250, "ms")
    grid = Grid.find(times)
    assert (grid.name, grid.season) == ("250 milliseconds", 1)
    np.testing.assert_array_equal(grid.times(grid.numbers(times)), times)
    assert grid.format(times[1:2]) == ["2019-12-30 00:00:00.250000"]


def test_pandas_frequencies_are_known():
    times = every(1, "D", 10)
    for name, found in (("W-FRI", "1 week"), ("QS", "3 months"), ("BME", "1 month"),
                        ("YE-MAR", "1 year"), ("250ms", "250 milliseconds"), ("MS", "1 month"),
                        ("2 weeks", "2 weeks"), ("5 minutes", "5 minutes")):  # fmt: skip
        assert Grid.named(name, times).name == found
    friday = Grid.named("W-FRI", times)
    numbers = friday.nearest(np.array(["2020-01-03", "2020-01-04"], dtype="datetime64[us]"))
    assert np.diff(numbers) == 1  # a week ends on Friday


def test_dates_centuries_ago_are_on_grids():
    times = np.array([f"{year}-01-01" for year in range(1500, 1530)], dtype="datetime64[us]")
    grid = Grid.find(times)
    assert grid.name == "1 year" and (np.diff(grid.numbers(times)) == 1).all()


@pytest.mark.parametrize("name", GRIDS)
def test_adverbs_say_how_often(name):
    adverbs = {"1 second": "every second", "15 minutes": "every 15 minutes", "1 hour": "hourly",
               "6 hours": "every 6 hours", "1 day": "daily", "1 week": "weekly",
               "1 month": "monthly", "3 months": "quarterly", "1 year": "yearly",
               "1 business day": "on business days"}  # fmt: skip
    assert Grid.find(GRIDS[name][0]).adverb == adverbs[name]
