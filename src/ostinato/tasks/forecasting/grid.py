"""Regular grids of times: numbers of steps from times, and back."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ostinato.data.lazy import pd
from ostinato.errors import OstinatoError

Stamps = NDArray[np.datetime64]
Times = Stamps | NDArray[np.int64]
"""Dates and times, in microseconds, or whole numbers; ``(T,)``."""

Unit = Literal["step", "time", "business", "month"]

NOWHERE = -(2**62)
"""Number of a time that lies between two steps."""

SECOND = 1_000_000
DAY = 86_400 * SECOND
LENGTHS = {"week": 7 * DAY, "day": DAY, "hour": 3600 * SECOND, "minute": 60 * SECOND,
           "second": SECOND, "millisecond": 1000, "microsecond": 1}  # fmt: skip
ADVERBS = {"week": "weekly", "day": "daily", "hour": "hourly", "month": "monthly",
           "3 months": "quarterly", "year": "yearly", "business day": "on business days",
           "step": "by step"}  # fmt: skip
WORDS = {
    alias: name
    for name, aliases in {
        "s": "s sec second seconds", "min": "t min minute minutes", "h": "h hour hours hourly",
        "D": "d day days daily", "W": "w week weeks weekly", "ME": "m month months monthly",
        "QE": "q quarter quarters quarterly", "YE": "y a year years yearly", "B": "b bd business",
    }.items()
    for alias in aliases.split()
}  # fmt: skip
"""What people call a frequency, beside the names of pandas."""

# Seasons and the longest steps that have them, in seconds: a minute, an hour, a day, a week.
SEASONS = ((60, 1), (3600, 60), (86_400, 43_200), (604_800, 86_400))

MONTHS = {"ME": 1, "MS": 1, "QE": 3, "QS": 3, "YE": 12, "YS": 12}
"""Months of pandas' offsets, by their names without what is about business days."""

MAX_SEASON = 2016
"""Steps of a season that is looked for beyond the first, at most: five minutes in a week."""

LAST_DAY, LAST_BUSINESS_DAY = -1, -2
FILLED = 0.8
"""Share of weeks or months that have a time where times are irregular but one in each."""


@dataclass(frozen=True)
class Grid:
    """Regular times: one every so many steps, microseconds, business days or months.

    Args:
        unit: the unit of a step.
        n: so many of them are a step.
        phase: remainder of the number of every step's start after division by ``n``.
        anchor: where the time of a step lies, in microseconds from the start of the step; of
            months -1 is the last day, -2 the last business day.
        loose: whether a time counts for the step that it falls into, wherever it lies in it.

    >>> days = np.array(["2020-01-31", "2020-02-29", "2020-04-30"], dtype="M8[us]")
    >>> grid = Grid.find(days)
    >>> grid.numbers(days).tolist(), grid.name, grid.adverb
    ([600, 601, 603], '1 month', 'monthly')
    >>> str(grid.times(np.array([604]))[0])[:10]
    '2020-05-31'
    """

    unit: Unit
    n: int = 1
    phase: int = 0
    anchor: int = 0
    loose: bool = False

    @classmethod
    def find(cls, times: Times, ids: NDArray[np.int64] | None = None) -> Grid:
        """Find the coarsest grid that times lie on.

        Times that are irregular, but one in nearly every week, month, quarter or year, such as
        Fridays moved by a holiday, are taken for that.

        Args:
            times: those of several series one after the other, in order within each.
            ids: the series of each time; one series if not given.
        """
        same = np.diff(np.zeros(len(times), np.int64) if ids is None else ids) == 0
        if times.dtype.kind != "M":
            step = _usual(np.diff(_count(times))[same])
            return cls("step", step, int(times[0].astype(np.int64)) % step)
        months = _count(times, "M")
        by_month = np.diff(months)[same]
        if len(by_month) and (by_month > 0).all():
            anchor = _anchor_in_month(times)
            if anchor is not None:
                n = int(np.gcd.reduce(by_month))
                return cls("month", n, int(months[0]) % n, anchor)
        stamps, weekdays = _count(times, "us"), (_count(times, "D") + 3) % 7  # Monday is 0
        steps = np.diff(stamps)[same]
        step = _usual(steps)
        if (steps % step != 0).any() or steps.sum() > 2 * step * max(1, len(steps)):
            usual = int(np.bincount(weekdays).argmax())
            weeks = [
                cls("time", 7 * DAY, (end - 2) % 7 * DAY, (usual - end - 1) % 7 * DAY, loose=True)
                for end in sorted(range(7), key=lambda day: (day - usual) % 7)
            ]
            for grid in [*weeks, *(cls("month", n, loose=True) for n in (1, 3, 12))]:
                found = np.diff(grid.nearest(times))[same]
                if len(found) > 2 and (found > 0).all() and len(found) >= FILLED * found.sum():
                    return grid
        at_midnight = step == DAY and (stamps % DAY == 0).all()
        if at_midnight and len(times) > 7 and (weekdays < 5).all():
            return cls("business")
        return cls("time", step, int(stamps[0]) % step)

    @classmethod
    def named(cls, name: str, times: Times) -> Grid:
        """Return the grid of a frequency through the first of some times, which are in order.

        Its name is as in 15min, h, D, B, W, W-FRI, M, Q, Y or any other of pandas' frequencies; of
        whole numbers it is a number.
        """
        dated = times.dtype.kind == "M"
        found = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]*(?:-[A-Za-z]{3})?)\s*", name)
        n, word = (int(found[1] or 1), found[2]) if found else (0, "")
        if not dated and n and word in ("", "step", "steps"):
            return cls("step", n, int(times[0].astype(np.int64)) % n)
        offset = None
        if dated and n and word:
            with suppress(ValueError):
                offset = pd.tseries.frequencies.to_offset(WORDS.get(word.lower(), word))
        if isinstance(offset, pd.offsets.Week):
            end = 6 if offset.weekday is None else offset.weekday
            return cls("time", n * 7 * DAY, (end - 2) % 7 * DAY, loose=True)
        if isinstance(offset, pd.offsets.BusinessDay) and n == 1:
            return cls("business", loose=True)
        if isinstance(offset, pd.offsets.Tick | pd.offsets.Day):
            n *= DAY if isinstance(offset, pd.offsets.Day) else offset.nanos // 1000
            stamps = _count(times, "us")
            steps = np.diff(stamps)
            dense = (steps > 0).any() and 1.1 * float(np.median(steps[steps > 0])) < n
            return cls("time", n, 0 if dense else int(stamps[0]) % n, loose=bool(dense))
        code = "" if offset is None else offset.rule_code.removeprefix("B").split("-")[0]
        if code in MONTHS:
            n *= MONTHS[code]
            first = int(_count(times[:1], "M")[0])
            return cls("month", n, first % n, _anchor_in_month(times) or 0, loose=True)
        what = "dates: 15min, h, D, B, W, M, Q, Y" if dated else "numbers: 1, 2, ..."
        raise OstinatoError(f"frequency={name!r}; expected a step of {what}.")

    def numbers(self, times: Times) -> NDArray[np.int64]:
        """Return the number of each time's step; of a time between two steps `NOWHERE`."""
        found = self.nearest(times)
        if self.loose:
            return found
        return np.where(self.times(found) == times, found, NOWHERE)

    def nearest(self, times: Times) -> NDArray[np.int64]:
        """Return the number of the step that each time falls into.

        Of months and business days that is the one which it is in; of other grids the nearest, or
        the one which it is in where the grid is loose.
        """
        if self.unit == "month":
            return (_count(times, "M") - self.phase) // self.n
        if self.unit == "business":
            days = np.busday_offset(times.astype("M8[D]"), 0, roll="backward")
            return np.asarray(np.busday_count(np.datetime64("1970-01-01"), days), dtype=np.int64)
        half = 0 if self.loose else self.n // 2
        return (_count(times, "us") - self.phase + half) // self.n

    def times(self, numbers: ArrayLike) -> Times:
        """Return the time of each step: dates and times, or whole numbers."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if self.unit == "business":
            return np.busday_offset(np.datetime64("1970-01-01"), numbers).astype("M8[us]")
        numbers = numbers * self.n + self.phase
        if self.unit == "step":
            return numbers
        if self.unit == "time" or self.anchor >= 0:
            starts = numbers if self.unit == "time" else _count(numbers.astype("M8[M]"), "us")
            return (starts + self.anchor).astype("M8[us]")
        last = _count((numbers + 1).astype("M8[M]"), "D") - 1
        days: Stamps = last.astype("M8[D]")
        if self.anchor == LAST_BUSINESS_DAY:
            days = np.busday_offset(days, 0, roll="backward")
        return days.astype("M8[us]")

    def format(self, times: Times) -> list[str]:
        """Return times of steps as text, as short as it can be.

        >>> hourly = Grid("time", 3600 * 10**6)
        >>> Grid("month").format(Grid("month").times([601])), hourly.format(hourly.times([5]))
        (['2020-02'], ['1970-01-01 05:00:00'])
        """
        if self.unit == "step":
            return [str(time) for time in times]
        times = times.astype("M8[us]")
        if self.unit == "month" and self.anchor == 0:
            unit = "M"
        elif (times == times.astype("M8[D]")).all() and (self.unit != "time" or self.n % DAY == 0):
            unit = "D"
        else:
            unit = "s" if (times == times.astype("M8[s]")).all() else "us"
        return [str(time).replace("T", " ") for time in times.astype(f"M8[{unit}]")]

    @property
    def name(self) -> str:
        """The step in words, as in ``3 months``."""
        n, unit = self.n, "business day" if self.unit == "business" else str(self.unit)
        if unit == "time":
            unit = next(u for u, length in LENGTHS.items() if n % length == 0)
            n //= LENGTHS[unit]
        elif unit == "month" and n % 12 == 0:
            n, unit = n // 12, "year"
        return f"{n} {unit}" + "s" * (n > 1)

    @property
    def adverb(self) -> str:
        """How often there is a step, as in ``monthly``."""
        name = self.name.removeprefix("1 ")
        return ADVERBS.get(name, f"every {name}")

    @property
    def season(self) -> int:
        """Steps of a season, by the calendar; 1 where there is none."""
        if self.unit == "business":
            return 5
        if self.unit == "month":
            return 12 // self.n if 12 % self.n == 0 else 1
        if self.unit == "time" and self.n == LENGTHS["week"]:
            return 52
        if self.unit == "time" and self.n % SECOND == 0:
            seconds = self.n // SECOND
            fit = (p for p, longest in SEASONS if seconds <= longest and p % seconds == 0)
            return next(fit, seconds) // seconds
        return 1

    def longer_season(self, season: int) -> int:
        """Return steps of the day or week, whichever is the next after a season; 1 for none.

        >>> hourly = Grid("time", 3600 * 10**6)
        >>> hourly.longer_season(24), hourly.longer_season(168)
        (168, 1)
        """
        if self.unit != "time":
            return 1
        found = [cycle // self.n for cycle in (DAY, 7 * DAY) if cycle % self.n == 0]
        good = (m for m in found if season < m <= MAX_SEASON and m % season == 0)
        return next(good, 1) if season > 1 else 1

    def calendar(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return where times lie in the day, the week and the year: sine and cosine, ``(T, K)``.

        A cycle that is no longer than a step is left out.
        """
        if self.unit == "step":
            return np.zeros((len(numbers), 0), dtype=np.float32)
        times = self.times(numbers)
        days = _count(times, "D")
        step = self.n * {"time": 1, "business": DAY, "month": 28 * DAY}[self.unit]
        parts: list[NDArray[np.float64]] = []
        if step < DAY:
            parts.append((_count(times, "us") - days * DAY) / DAY)
        if step < 7 * DAY:
            parts.append(((days + 3) % 7) / 7)
        if step < 12 * 28 * DAY:
            parts.append((days - _count(times.astype("M8[Y]"), "D")) / 365.25)
        phases = 2 * np.pi * np.array(parts, dtype=np.float64).reshape(len(parts), len(times))
        return np.concatenate([np.sin(phases), np.cos(phases)]).T.astype(np.float32)

    @property
    def calendar_features(self) -> int:
        """Features of `calendar`, K."""
        return int(self.calendar(np.zeros(1, np.int64)).shape[1])


def _count(times: Times, unit: str = "us") -> NDArray[np.int64]:
    """Times as whole units since 1970; whole numbers as they are."""
    whole = times.astype(f"M8[{unit}]") if times.dtype.kind == "M" else times
    return np.asarray(whole.astype(np.int64))


def _anchor_in_month(times: Times) -> int | None:
    """Where in its month every time lies, as `Grid.anchor`; None if in different places."""
    months = _count(times, "M")
    within = _count(times) - _count(months.astype("M8[M]"))
    if (within == within[0]).all():
        return int(within[0])
    for anchor in (LAST_DAY, LAST_BUSINESS_DAY):
        if (Grid("month", anchor=anchor).times(months) == times).all():
            return anchor
    return None


def _usual(steps: NDArray[np.int64]) -> int:
    """The commonest distance of times, or the common divisor of all where it divides too few."""
    steps = steps[steps > 0]
    if not len(steps):
        return 1
    values, counts = np.unique(steps, return_counts=True)
    common = int(values[counts.argmax()])
    return common if (steps % common == 0).mean() > 0.9 else int(np.gcd.reduce(steps))
