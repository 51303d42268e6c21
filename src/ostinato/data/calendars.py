"""Times of a series as numbers of a regular grid, found from the times themselves, and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ostinato.errors import OstinatoError

__all__ = ["Grid", "Stamp", "parse_time", "parse_times"]

Stamp = NDArray[np.datetime64]
Unit = Literal["step", "second", "business", "month"]

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
MONTHS = {"m": 1, "q": 3, "y": 12}
NAMES = {
    "sec": "s", "second": "s", "seconds": "s", "t": "min", "minute": "min", "minutes": "min",
    "hour": "h", "hours": "h", "hourly": "h", "day": "d", "days": "d", "daily": "d", "week": "w",
    "weeks": "w", "weekly": "w", "month": "m", "months": "m", "monthly": "m", "ms": "m", "me": "m",
    "quarter": "q", "quarters": "q", "quarterly": "q", "qs": "q", "qe": "q", "year": "y",
    "years": "y", "yearly": "y", "a": "y", "ys": "y", "ye": "y", "business": "b", "bd": "b",
}  # fmt: skip

# Seconds of a season, and of the longest step that has it: a minute, an hour, a day, a week.
SEASONS = ((60, 1), (3600, 60), (86_400, 43_200), (604_800, 86_400))


@dataclass(frozen=True)
class Grid:
    """Regular times: one every so many steps, seconds, business days or months.

    Args:
        unit: what steps are counted in.
        n: so many of them are a step.
        phase: of the first time: what is left of its number after division by ``n``.
        seconds: from midnight of the first day of a month to its time, where months are counted;
            -1 for the last day of the month.
        gathers: whether a step holds several times: all from its own on to the next.

    >>> grid = Grid.found(parse_times(["2020-01-31", "2020-02-29", "2020-04-30"]))
    >>> grid.numbers(parse_times(["2020-01-31", "2020-04-30"])).tolist(), grid.name
    ([600, 603], '1 month')
    >>> str(grid.times(np.array([604]))[0])
    '2020-05-31T00:00:00'
    """

    unit: Unit
    n: int = 1
    phase: int = 0
    seconds: int = 0
    gathers: bool = False

    @classmethod
    def found(cls, times: Stamp | NDArray[np.int64], of: Any = ()) -> Grid:
        """The coarsest grid that times lie on, those of several series one after the other.

        Args:
            times: in order within each series: dates and times, or whole numbers.
            of: the series of each time; all of one if not given.
        """
        same = np.ones(max(0, len(times) - 1), dtype=bool)
        if len(of):
            same = np.diff(np.asarray(of)) == 0
        if not np.issubdtype(times.dtype, np.datetime64):
            numbers = times.astype(np.int64)
            step = _usual(np.diff(numbers)[same])
            return cls("step", step, int(numbers[0]) % step)
        days = times.astype("datetime64[D]")
        months = times.astype("datetime64[M]")
        within = (times - months.astype("datetime64[s]")).astype(np.int64)
        last = (days + 1).astype("datetime64[M]") != months
        midnight = bool((times == days).all())
        by_month = np.diff(months.astype(np.int64))[same]
        if len(by_month) and (by_month > 0).all():
            at = int(within[0])
            if (within == at).all() or (last.all() and midnight):
                n = int(np.gcd.reduce(by_month))
                at = -1 if last.all() and midnight and not (within == at).all() else at
                return cls("month", n, int(months[0].astype(np.int64)) % n, at)
        seconds = times.astype("datetime64[s]").astype(np.int64)
        step = _usual(np.diff(seconds)[same])
        weekday = (days.astype(np.int64) + 3) % 7
        weekends = bool((weekday >= 5).any())
        if step == SECONDS["d"] and midnight and not weekends and len(times) > 7:
            return cls("business")
        return cls("second", step, int(seconds[0]) % step)

    @classmethod
    def named(cls, name: str, times: Stamp | NDArray[np.int64]) -> Grid:
        """A grid by its name, as in 15min, h, D, B, W, M, Q or Y, through the first of some times.

        Raises:
            OstinatoError: on a name that says nothing.
        """
        found = re.fullmatch(r"\s*(\d*)\s*([a-zA-Z]*)\s*", name)
        count, word = (found[1] or "1", found[2].lower()) if found else ("0", "")
        word = NAMES.get(word, word)
        n = int(count)
        dated = np.issubdtype(times.dtype, np.datetime64)
        if n and not dated and word in ("", "step", "steps"):
            return cls("step", n, int(times[0]) % n)
        if n and dated and word == "b" and n == 1:
            return cls("business")
        if n and dated and word in MONTHS:
            n *= MONTHS[word]
            month = times[0].astype("datetime64[M]")
            within = times.astype("datetime64[s]") - times.astype("datetime64[M]")
            at = int(within[0].astype("timedelta64[s]").astype(np.int64))
            last = (times.astype("datetime64[D]") + 1).astype("datetime64[M]") != times.astype(
                "datetime64[M]"
            )
            return cls("month", n, int(month.astype(np.int64)) % n, -1 if last.all() else at)
        if n and dated and word in SECONDS:
            n *= SECONDS[word]
            seconds = times.astype("datetime64[s]").astype(np.int64)
            steps = np.diff(seconds)
            steps = steps[steps > 0]
            if len(steps) and 1.1 * float(np.median(steps)) < n:
                monday = 4 * SECONDS["d"]  # 1970 began on a Thursday
                return cls("second", n, monday if n % SECONDS["w"] == 0 else 0, gathers=True)
            return cls("second", n, int(seconds[0]) % n)
        what = "dates: 15min, h, D, B, W, M, Q, Y" if dated else "numbers: 1, 2, ..."
        raise OstinatoError(f"frequency={name!r}; expected a step of {what}.")

    def numbers(self, times: Stamp | NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of each time; of one that lies between two, -1 times 2**62."""
        nowhere = np.int64(-(2**62))
        if self.unit == "step":
            numbers = times.astype(np.int64) - self.phase
        elif self.unit == "second":
            numbers = times.astype("datetime64[s]").astype(np.int64) - self.phase
        elif self.unit == "business":
            days = times.astype("datetime64[D]")
            counted = np.busday_count(np.datetime64("1970-01-01"), days).astype(np.int64)
            return np.where((times == days) & np.is_busday(days), counted, nowhere)
        else:
            numbers = times.astype("datetime64[M]").astype(np.int64) - self.phase
        found = np.where(numbers % self.n == 0, numbers // self.n, nowhere)
        if self.unit == "month":
            found = np.where(self.times(found) == times, found, nowhere)
        return np.asarray(found)

    def nearest(self, times: Stamp | NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the step that each time falls into.

        Of months and days that is the one which it is in; of seconds the nearest, or the one which
        it is in where the grid gathers.
        """
        if self.unit == "month":
            numbers = times.astype("datetime64[M]").astype(np.int64) - self.phase
            return np.asarray(numbers // self.n)
        if self.unit == "business":
            days = np.busday_offset(times.astype("datetime64[D]"), 0, roll="backward")
            counted = np.busday_count(np.datetime64("1970-01-01"), days)
            return np.asarray(counted, dtype=np.int64)
        whole = times if self.unit == "step" else times.astype("datetime64[s]")
        numbers = whole.astype(np.int64) - self.phase
        half = 0 if self.gathers else self.n // 2
        return np.asarray((numbers + half) // self.n)

    def times(self, numbers: NDArray[np.int64]) -> Any:
        """The time of each number: dates and times, or whole numbers."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if self.unit == "step":
            return numbers * self.n + self.phase
        if self.unit == "second":
            return (numbers * self.n + self.phase).astype("datetime64[s]")
        if self.unit == "business":
            days = np.busday_offset(np.datetime64("1970-01-01"), numbers)
            return days.astype("datetime64[s]")
        months = np.clip(numbers * self.n + self.phase, -(2**40), 2**40).astype("datetime64[M]")
        if self.seconds < 0:
            return ((months + 1).astype("datetime64[D]") - 1).astype("datetime64[s]")
        return months.astype("datetime64[s]") + np.timedelta64(self.seconds, "s")

    def shown(self, number: int) -> str:
        """A time in words, no longer than it needs be."""
        time = self.times(np.array([number]))[0]
        if self.unit == "step":
            return str(time)
        if self.unit == "month" and self.seconds == 0:
            return str(time.astype("datetime64[M]"))
        day = time.astype("datetime64[D]")
        whole = self.unit != "second" or self.n % 86_400 == 0
        return str(day) if time == day and whole else str(time).replace("T", " ")

    @property
    def name(self) -> str:
        """The step in words."""
        n, unit = self.n, str(self.unit)
        if self.unit == "business":
            return "1 business day"
        if self.unit == "second":
            unit = next(u for u in ("w", "d", "h", "min", "s") if n % SECONDS[u] == 0)
            n //= SECONDS[unit]
            unit = {"w": "week", "d": "day", "h": "hour", "min": "minute", "s": "second"}[unit]
        elif self.unit == "month" and n % 12 == 0:
            n, unit = n // 12, "year"
        return f"{n} {unit}" + "s" * (n > 1)

    @property
    def season(self) -> int:
        """Steps of a season, by the calendar; 1 where it tells of none."""
        if self.unit == "business":
            return 5
        if self.unit == "month":
            return 12 // self.n if 12 % self.n == 0 else 1
        if self.unit == "second":
            if self.n == SECONDS["w"]:
                return 52
            for period, longest in SEASONS:
                if self.n <= longest and period % self.n == 0:
                    return period // self.n
        return 1

    def calendar(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Where times lie in the day, the week and the year: a sine and a cosine each, ``(T, K)``.

        A cycle that is no longer than a step, or shorter, is left out.
        """
        if self.unit == "step":
            return np.zeros((len(numbers), 0), dtype=np.float32)
        times = self.times(numbers).astype("datetime64[s]")
        days, years = times.astype("datetime64[D]"), times.astype("datetime64[Y]")
        long = {"second": 1, "business": 86_400, "month": 86_400 * 28}
        step = self.n * long[self.unit]
        parts: list[Any] = []
        if step < 86_400:
            parts.append((times - days).astype(np.int64) / 86_400)
        if step < 604_800:
            parts.append(((days.astype(np.int64) + 3) % 7) / 7)
        if step < 86_400 * 28 * 12:
            parts.append((days - years.astype("datetime64[D]")).astype(np.int64) / 365.25)
        phases = 2 * np.pi * np.array(parts, dtype=np.float64).reshape(len(parts), len(times))
        return np.concatenate([np.sin(phases), np.cos(phases)]).T.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """All that makes it, as JSON."""
        return asdict(self)


def _usual(steps: NDArray[np.int64]) -> int:
    """The commonest distance of times, or what divides them all where it divides not most."""
    steps = steps[steps > 0]
    if not len(steps):
        return 1
    common = Counter(steps.tolist()).most_common(1)[0][0]
    if (steps % common == 0).mean() > 0.9:
        return int(common)
    return int(np.gcd.reduce(steps))


_FORMS: Sequence[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = (
    (re.compile(r"(\d{4})[-/.]?[Qq]([1-4])"), lambda m: f"{m[1]}-{3 * int(m[2]) - 2:02d}"),
    (re.compile(r"(\d{4})[-/.]?[Mm](\d{1,2})"), lambda m: f"{m[1]}-{int(m[2]):02d}"),
    (re.compile(r"(\d{4})(\d{2})(\d{2})"), lambda m: f"{m[1]}-{m[2]}-{m[3]}"),
    (re.compile(r"(\d{4})[/.](\d{1,2})"), lambda m: f"{m[1]}-{int(m[2]):02d}"),
    (
        re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})((?:[ T].*)?)"),
        lambda m: f"{m[1]}-{int(m[2]):02d}-{int(m[3]):02d}{m[4]}",
    ),
)  # fmt: skip
_MONTH = r"([A-Za-z]{3,9})\.?"
_NAMED: Sequence[tuple[re.Pattern[str], tuple[int, int, int]]] = (  # groups of year, month and day
    (re.compile(rf"{_MONTH}[-/, ]+(\d{{4}})()()"), (2, 1, 3)),
    (re.compile(rf"(\d{{4}})[-/ ]*{_MONTH}()()"), (1, 2, 3)),
    (re.compile(rf"(\d{{1,2}})[-/. ]+{_MONTH}[-/, ]+(\d{{4}})((?:[ T].*)?)"), (3, 2, 1)),
    (re.compile(rf"{_MONTH} (\d{{1,2}}),? (\d{{4}})((?:[ T].*)?)"), (3, 1, 2)),
)
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_DAY_MONTH = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})((?:[ T].*)?)")


def parse_time(cell: Any, day_first: bool | None = None) -> np.datetime64 | None:
    """A date, perhaps with a time, as text has it; None if it says none. With an offset, in UTC.

    Args:
        cell: what stands there: ISO 8601, 2020Q1, 2020M01, 20200131, 31/01/2020, Jan 2020,
            31 January 2020, ...
        day_first: whether 01/02/2020 is in February; None where no such date is read.

    >>> [str(parse_time(text)) for text in ("1949-01", "2020Q2", "2016-07-01 03:00", "2020/1/31")]
    ['1949-01-01T00:00:00', '2020-04-01T00:00:00', '2016-07-01T03:00:00', '2020-01-31T00:00:00']
    >>> str(parse_time("3/4/2020", day_first=True)), parse_time("soon")
    ('2020-04-03T00:00:00', None)
    >>> [str(parse_time(text))[:10] for text in ("Feb 2020", "2020M02", "1-Feb-2020 12:00", "may")]
    ['2020-02-01', '2020-02-01', '2020-02-01', 'None']
    """
    text = str(cell).strip()
    for form, made in _FORMS:
        found = form.fullmatch(text)
        if found:
            text = made(found)
            break
    text = _with_numbers(text)
    found = _DAY_MONTH.fullmatch(text)
    if found and day_first is not None:
        day, month = (1, 2) if day_first else (2, 1)
        text = f"{found[3]}-{int(found[month]):02d}-{int(found[day]):02d}{found[4]}"
    if re.fullmatch(r"\d{4}-\d{2}", text):
        text += "-01"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is not None:  # a clock that is put back shows an hour twice
        moment = moment.astimezone(UTC)
    return np.datetime64(moment.replace(tzinfo=None), "s")


def _with_numbers(text: str) -> str:
    """A date whose month has its name, with its number."""
    for form, (year, month, day) in _NAMED:
        found = form.fullmatch(text)
        name = found[month].lower() if found else ""
        which = [n for n, whole in enumerate(_MONTHS, start=1) if name and whole.startswith(name)]
        if found and len(which) == 1:
            return f"{found[year]}-{which[0]:02d}-{int(found[day] or 1):02d}{found[4]}"
    return text


def parse_times(cells: Sequence[Any]) -> Stamp:
    """Times as texts have them; those that say none are NaT.

    Of 01/02/2020 it is settled by the others which is the day; where they are silent, it is what
    makes times more regular, or else the month comes first, unless the separator is a full stop.

    >>> [str(t.astype("datetime64[D]")) for t in parse_times(["01/02/2020", "15/02/2020"])]
    ['2020-02-01', '2020-02-15']
    >>> months = [f"01/{month:02d}/{year}" for year in (2020, 2021) for month in range(1, 13)]
    >>> str(parse_times(months)[1].astype("datetime64[D]"))
    '2020-02-01'
    """
    day_first: bool | None = None
    settled = False
    for cell in cells:
        found = _DAY_MONTH.fullmatch(str(cell).strip())
        if found:
            day_first = "." in str(cell)[: found.end(2) + 1] if day_first is None else day_first
            if int(found[1]) > 12 or int(found[2]) > 12:
                day_first = int(found[1]) > 12
                settled = True
                break

    def read(day_first: bool | None) -> Stamp:
        nothing = np.datetime64("NaT", "s")
        found = [parse_time(cell, day_first) for cell in cells]
        return np.array([nothing if t is None else t for t in found], dtype="datetime64[s]")

    if settled or day_first is None:
        return read(day_first)
    one, other = read(day_first), read(not day_first)
    return other if _steps(other) < _steps(one) else one


def _steps(times: Stamp) -> float:
    """Steps of the grid of some times for each of them: 1 where none is missing."""
    times = np.unique(times[~np.isnat(times)])
    if len(times) < 3:
        return 1.0
    numbers = Grid.found(times).numbers(times[[0, -1]])
    return float(numbers[1] - numbers[0] + 1) / len(times)
