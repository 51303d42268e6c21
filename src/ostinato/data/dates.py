"""Dates and times as people write them: text, numbers, and pandas' own types.

pandas parses; this module decides how. Of two plausible readings none is guessed.
"""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.lazy import pd
from ostinato.errors import OstinatoError

Stamps = NDArray[np.datetime64]
Whole = NDArray[np.int64]
NAT = np.datetime64("NaT", "us")


class Parsed(NamedTuple):
    """Times as they were read.

    Attributes:
        times: ``(T,)``, in microseconds, NaT for a cell that is no time; or whole numbers.
        utc: whether they had offsets and were converted to UTC.
    """

    times: Stamps | Whole
    utc: bool = False


YEARS = 1700, 2200
"""Years that numbers such as 20200131 are taken for dates of."""

# Numbers of so many digits that are dates, by what pandas calls it, and since 1970, in a unit.
_DIGITS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_SINCE_1970 = (
    (10**8, 10**10, "s"),
    (10**11, 10**13, "ms"),
    (10**14, 10**16, "us"),
    (10**17, 10**19, "ns"),
)

_TEXT = (
    r"^(?P<date>.*?)"
    r"(?:(?:[Tt]|[\s,]+)(?P<hour>\d{1,2}(?=:)|(?<=[Tt])\d{1,2})"
    r"(?::(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d{1,6})?)\d*)?)?"
    r"\s*(?:(?P<half>[AaPp])\.?[Mm]\.?)?"
    r"\s*(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+-])(?P<hours>\d{2})(?::?(?P<minutes>\d{2}))?)?)?$"
)
_REWRITTEN = (  # of dates
    (r"(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?", r" \1 "),
    (r"(?<=\d)(?:st|nd|rd|th)\b", ""),
    (r"^\s+|\s+$", ""),
    (r"[\s,./_-]+", "-"),
    (r"(?i)^(?:q([1-4])|([1-4])q)-?(\d{4})$", r"\3q\1\2"),
    (r"(?i)^(\d{4})-?q([1-4])$", lambda m: f"{m[1]}-{3 * int(m[2]) - 2:02d}"),
    (r"(?i)^(\d{4})-?m(\d{1,2})$", r"\1-\2"),
    (r"(?i)^(\d{4})-?w(\d\d?)$", r"\1-W\2-1"),
    (r"(?i)^(\d{4})-?w(\d\d?)-(\d)$", r"\1-W\2-\3"),
)
_FORMS = (
    "%Y-%m-%d", "%Y-%m", "%m-%Y", "%b-%Y", "%Y-%b", "%b-%y", "%d-%b-%Y", "%d-%b-%y", "%b-%d-%Y",
    "%Y-%b-%d", "%Y%m%d", "%G-W%V-%u",
)  # fmt: skip


def parse_times(cells: pd.Series, day_first: bool | None = None) -> Parsed:
    """Read a column as dates and times, or as whole numbers.

    Times with offsets become UTC, but where all are midnights of their own zone, which are days.

    Args:
        cells: text, numbers, dates, periods, or objects.
        day_first: whether 01/02/2020 is in February; None to infer it from the other cells.

    Raises:
        OstinatoError: if two readings are plausible.

    >>> def read(*cells): return [str(time)[:16] for time in parse_times(pd.Series(cells)).times]
    >>> [*read("1949-01"), *read("2020Q2"), *read("2016-07-01 03:00"), *read("31.01.22")]
    ['1949-01-01T00:00', '2020-04-01T00:00', '2016-07-01T03:00', '2022-01-31T00:00']
    >>> [*read("1 Feb 2020", "soon"), *read("2020-W05"), *read(20200131), *read(1, 2)]
    ['2020-02-01T00:00', 'NaT', '2020-01-27T00:00', '2020-01-31T00:00', '1', '2']
    """
    if isinstance(cells.dtype, pd.PeriodDtype):
        return Parsed(_stamps(cells.dt.to_timestamp()))
    if isinstance(cells.dtype, pd.DatetimeTZDtype):
        return _local_days(_stamps(cells.dt.tz_localize(None)), _stamps(cells.dt.tz_convert(None)))
    if pd.api.types.is_datetime64_dtype(cells.dtype):
        return Parsed(_stamps(cells))
    if pd.api.types.is_numeric_dtype(cells.dtype):
        return Parsed(_of_numbers(cells))
    if cells.dtype == object:
        listed = [str(c) if isinstance(c, list | dict | np.ndarray) else c for c in cells]
        cells = pd.Series(listed, dtype=object)
    codes, distinct = pd.factorize(cells)
    if isinstance(distinct.dtype, pd.CategoricalDtype):
        distinct = distinct.astype(object)
    times, utc = _of_distinct(pd.Series(distinct), day_first)
    if (codes < 0).any():  # the last is taken for a missing cell
        known = times if times.dtype.kind == "M" else np.zeros(len(times), "M8[us]")
        times = np.append(known, NAT)
    return Parsed(times[codes], utc)


def join_parts(parts: dict[str, pd.Series]) -> pd.Series:
    """Join columns that hold parts of a time, such as year and month, or date and hour, as text.

    >>> year, month = pd.Series([2020, 2020]), pd.Series([1, 12])
    >>> join_parts({"year": year, "Month": month}).tolist()
    ['2020-1', '2020-12']
    """
    text = {
        name.strip().lower(): cells.map(lambda cell: "" if pd.isna(cell) else str(cell))
        .str.strip().str.removesuffix(".0")
        for name, cells in parts.items()
    }  # fmt: skip
    clock = [text.pop(name) for name in ("hour", "minute", "second") if name in text]
    date = text.pop("year" if "year" in text else next(iter(text)))
    for name, mark in (("quarter", "Q"), ("week", "-W"), ("month", "-"), ("day", "-")):
        date = date + mark + text.pop(name).str.lstrip("Qq") if name in text else date
    for rest in text.values():
        date = date + " " + rest
    for mark, part in zip("T::", clock, strict=False):
        date = date + mark + part.str.zfill(2)
    return date


def _stamps(values: Any) -> Stamps:
    return np.asarray(values, dtype="M8[us]")


def _local_days(wall: Stamps, utc: Stamps) -> Parsed:
    """Days of clocks on the wall where all show midnight, since by UTC they would shift; or UTC."""
    there = wall[~np.isnat(wall)]
    return Parsed(wall) if (there == there.astype("M8[D]")).all() else Parsed(utc, utc=True)


def _of_numbers(cells: pd.Series) -> Stamps | Whole:
    """Numbers as dates where their digits say so, as seconds since 1970, or as they are."""
    values = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    odd = ~(np.abs(values) < 2.0**62) | (values != np.round(values))
    if odd.any():
        return np.where(odd, NAT, np.datetime64(0, "us"))  # the others are as good as any time
    whole: Whole = cells.to_numpy(dtype=np.int64)
    if not len(whole):
        return whole
    low, high = int(whole.min()), int(whole.max())
    form = _DIGITS.get(len(str(low))) if len(str(low)) == len(str(high)) else None
    if low > 0 and form is not None:
        stamps = pd.Series(pd.to_datetime(whole.astype(str), format=form, errors="coerce"))
        if stamps.notna().all() and stamps.dt.year.between(*YEARS).all():
            return _stamps(stamps)
    for least, most, unit in _SINCE_1970:
        if least <= low and high < most:
            return _stamps(whole.astype(f"M8[{unit}]"))
    return whole


def _of_distinct(cells: pd.Series, day_first: bool | None) -> Parsed:
    if all(isinstance(cell, Real | Decimal) and not isinstance(cell, bool) for cell in cells):
        with suppress(OverflowError):
            return Parsed(_of_numbers(cells.astype(np.float64)))
    if cells.dtype == object:
        cells = cells.map(lambda c: str(c.start_time if isinstance(c, pd.Period) else c))
    text = cells.str.strip()
    if text.str.fullmatch(r"-?(\d{1,18}|[1-8]\d{18})").all():  # what 64 bits hold
        return Parsed(_of_numbers(text.astype(np.int64)))
    plain = text.str.fullmatch(r"\d{4}-\d\d(-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?)?")
    if plain.all():
        iso = pd.to_datetime(text, format="ISO8601", errors="coerce")
        if iso.notna().all():
            return Parsed(_stamps(iso))
    return _of_text(text, day_first)


def _of_text(text: pd.Series, day_first: bool | None) -> Parsed:
    parts = text.str.extract(_TEXT)
    date = parts["date"].fillna("")
    dotted = bool(date.str.contains(".", regex=False).any())
    for pattern, rewritten in _REWRITTEN:
        date = date.str.replace(pattern, rewritten, regex=True)
    hour, minute, second, hours, minutes = (
        parts[name].fillna("0").str.replace(",", ".").astype(float)
        for name in ("hour", "minute", "second", "hours", "minutes")
    )
    half = parts["half"].str.lower()
    hour = hour.where(half.isna(), hour % 12 + 12 * (half == "p"))
    wall = _stamps(_days(date, dotted, day_first, text)) + _span(hour, minute, second)
    if parts["zone"].isna().all():
        return Parsed(wall)
    ahead = _span(hours, minutes)
    return _local_days(wall, np.where(parts["sign"] == "-", wall + ahead, wall - ahead))


def _span(hours: pd.Series, minutes: pd.Series, seconds: pd.Series | float = 0) -> Any:
    microseconds = 1e6 * (3600 * hours + 60 * minutes + seconds)
    return microseconds.round().to_numpy(dtype=np.int64).astype("m8[us]")


def _days(date: pd.Series, dotted: bool, day_first: bool | None, text: pd.Series) -> pd.Series:
    """Days of texts whose parts are joined by hyphens; NaT where one is no date."""
    found = pd.Series(NAT, date.index, dtype="M8[us]")
    numeric = date.str.fullmatch(r"\d\d?-\d\d?-\d{2,4}")
    for form in _FORMS:
        if (left := found.isna() & ~numeric).any():
            found[left] = pd.to_datetime(date[left], format=form, errors="coerce")
    if numeric.any():
        found[numeric] = _day_and_month(date[numeric], dotted, day_first, text[numeric])
    return found


def _day_and_month(
    date: pd.Series, dotted: bool, day_first: bool | None, text: pd.Series
) -> pd.Series:
    """Dates such as 31-01-2020, 01-31-2020 or 31-01-22, all of one form."""
    year = "Y" if date.str.fullmatch(r".*-\d{4}").all() else "y"
    forms = [f"%d-%m-%{year}", f"%m-%d-%{year}"]
    if day_first is not None:
        forms = [forms[not day_first]]
    elif dotted:
        forms = forms[:1]
    elif year == "y":
        forms.append("%y-%m-%d")
    readings = [pd.to_datetime(date, format=f, errors="coerce").astype("M8[us]") for f in forms]
    most = max(int(each.notna().sum()) for each in readings)
    whole = [each for each in readings if each.notna().sum() == most]
    whole = [each for k, each in enumerate(whole) if not any(each.equals(o) for o in whole[:k])]
    if len(whole) > 1:
        whole.sort(key=_irregularity)
        if _irregularity(whole[1]) < 3 * _irregularity(whole[0]):
            at = int(np.argmax(whole[0].to_numpy() != whole[1].to_numpy()))
            one, other = (f"{each.iloc[at]:%Y-%m-%d}" for each in whole[:2])
            raise OstinatoError(
                f"{text.iloc[at]!r} may be {one} or {other}; say which with day_first (--day-first "
                "or --no-day-first), or write years first, with four digits."
            )
    return whole[0]


def _irregularity(days: pd.Series) -> float:
    """The longest distance between times over the usual one; 1 where times are regular."""
    steps = np.diff(np.unique(_stamps(days.dropna()))).astype(np.int64)
    return float(steps.max() / np.median(steps)) if len(steps) else 1.0
