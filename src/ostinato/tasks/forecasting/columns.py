"""Which column of a table is what: times, ids of series, targets, covariates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from ostinato.data.columns import IDS, TIMES, names_rows
from ostinato.data.dates import join_parts, parse_times
from ostinato.data.tables import Table, TableSettings
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting.grid import Times

__all__ = ["Columns", "Resolved", "SeriesSettings", "resolve", "usual_names"]

# What columns are usually called, in lower case.
TIME_NAMES = TIMES | {"ds", "when"}
PART_NAMES = {"month", "day", "hour", "week", "quarter", "year", "period"}  # or a covariate
ID_NAMES = IDS | {"item", "item_id", "store", "sensor", "name", "key"}
TARGET_NAMES = {"target", "value", "values", "y", "sales", "demand", "quantity", "observation"}
YEAR_PARTS = ("month", "quarter", "week", "day")
CLOCK_PARTS = ("time", "hour", "minute", "second")


@dataclass(kw_only=True, eq=False, repr=False)
class SeriesSettings(TableSettings):
    """How time series are read.

    Args:
        target: column to forecast; of several, separated by commas, each is a series, and * stands
            for all numbers; inferred where there is one choice.
        time: column of the times, or columns of their parts, separated by commas; inferred from
            names and cells. Without one, rows are steps.
        id: column of the names of series; inferred where times repeat and there is one choice.
        future_covariates: columns known ahead, such as prices or holidays, separated by commas.
        past_covariates: columns known up to the present, separated by commas.
        static_covariates: columns that are constant within a series, separated by commas.
        frequency: the step: 15min, h, D, B (business days), W, M, Q, Y, or a number; inferred from
            the times if not given. Given, times need not lie on a grid: each counts for the step
            that it falls into, and several for their mean.
        season: steps of a season; by the frequency if not given.
        calendar: whether the time of day, week and year are known to the network.
        day_first: whether 01/02/2020 is in February; inferred from the other dates if not given.
    """

    target: str | None = None
    time: str | None = None
    id: str | None = None
    future_covariates: str | None = None
    past_covariates: str | None = None
    static_covariates: str | None = None
    frequency: str | None = None
    season: int | None = None
    calendar: bool = True
    day_first: bool | None = None


def usual_names(settings: SeriesSettings) -> set[str]:
    """Return names that columns are asked for by, or are usually called: they tell a header."""
    told = (settings.target, settings.time, settings.id, settings.future_covariates,
            settings.past_covariates, settings.static_covariates)  # fmt: skip
    asked = {name for each in told if each for name in each.split(",")}
    return asked | TIME_NAMES | PART_NAMES | ID_NAMES | TARGET_NAMES


class Columns(NamedTuple):
    """Which columns of a table are what, by name.

    Attributes:
        time: of the times; several where they are in parts, such as year and month; or none.
        id: of the names of the series, or none.
        target: what is forecast; several where each is a series.
        future_covariates: known ahead.
        past_covariates: known up to the present.
        static_covariates: constant within a series.
    """

    time: tuple[str, ...] = ()
    id: str | None = None
    target: tuple[str, ...] = ("value",)
    future_covariates: tuple[str, ...] = ()
    past_covariates: tuple[str, ...] = ()
    static_covariates: tuple[str, ...] = ()

    def __str__(self) -> str:
        def shown(names: tuple[str, ...] | str) -> str:
            if isinstance(names, str) or len(names) <= 6:
                return names if isinstance(names, str) else ", ".join(names)
            return f"{', '.join(names[:3])}, ... ({len(names):,} columns)"

        parts = {name.replace("_", " "): value for name, value in self._asdict().items() if value}
        return "; ".join(f"{name}: {shown(value)}" for name, value in parts.items())


class Resolved(NamedTuple):
    """The columns of a table, by name; and its times.

    Attributes:
        columns: what each column is.
        times: of all rows; None where rows are steps.
        utc: whether times had offsets and were converted to UTC.
    """

    columns: Columns
    times: Times | None
    utc: bool


def resolve(table: Table, settings: SeriesSettings, like: Columns | None = None) -> Resolved:
    """Find out what each column is: as told, as in the training data, or else inferred.

    Args:
        table: rows of one or several series.
        settings: columns that are told.
        like: those of the training data.

    Raises:
        DataError: if a column is not there, or what is what is not clear.
    """
    before = Columns(target=()) if like is None else like
    taken: set[int] = set()

    def named(names: str | None, known: Sequence[str], what: str) -> list[int]:
        if names:
            found = [table.column(n.strip(), what) for n in names.split(",") if n.strip()]
        else:
            found = [i for i in map(table.find, known) if i is not None and table.named]
            found = found if len(found) == len(known) else []
        taken.update(found)
        return found

    def free() -> list[int]:
        return [i for i in range(len(table.names)) if i not in taken]

    future = named(settings.future_covariates, before.future_covariates, "future covariates")
    past = named(settings.past_covariates, before.past_covariates, "past covariates")
    static = named(settings.static_covariates, before.static_covariates, "static covariates")
    every = settings.target == "*"
    target = [] if every else named(settings.target, before.target, "target")
    time = named(settings.time, before.time, "times") or _find_time(table, free())
    taken.update(time)
    times, utc = _times(table, time, settings.day_first)
    ids = named(settings.id, [before.id] if before.id else [], "ids of series")
    ids = ids or _find_id(table, free(), times)
    taken.update(ids)
    target = target or _find_target(table, free(), every, like)
    parts = ([table.names[i] for i in some] for some in (time, target, future, past, static))
    time_, target_, *covariates = map(tuple, parts)
    columns = Columns(time_, table.names[ids[0]] if ids else None, target_, *covariates)
    return Resolved(columns, times, utc)


def _find_time(table: Table, free: Sequence[int]) -> list[int]:
    """Columns of the times: one called so, the first with dates, or parts as year and month."""
    names = {table.names[i].strip().lower(): i for i in free} if table.named else {}
    if "year" in names and any(part in names for part in YEAR_PARTS[:3]):
        parts = ("year", *YEAR_PARTS, *CLOCK_PARTS)
        return [names[part] for part in parts if part in names]
    called = table.called(TIME_NAMES | PART_NAMES, free)
    for column in dict.fromkeys([*called, *free]):
        some = _cells(table, column).head(200).dropna()
        times = parse_times(some, day_first=False).times
        if not len(some) or times.dtype.kind != "M" or np.isnat(times).mean() >= 0.1:
            continue
        if column in called or not table.is_numeric(column):
            days = (times == times.astype("M8[D]")).all()
            clock = [names[part] for part in CLOCK_PARTS if part in names and names[part] != column]
            return [column, *clock] if days else [column]
    sure = table.called(TIME_NAMES, free)
    numeric = [i for i in called if i in sure or _cells(table, i).is_unique]
    numeric = [i for i in numeric if table.is_numeric(i)]
    # What is called a time and cannot be read as one is a mistake, not to be passed over.
    return numeric[:1] or (sure if len(sure) == 1 else [])


def _cells(table: Table, column: int) -> pd.Series:
    """A column for dates: as the file has it, numbers as numbers."""
    cells = table.frame.iloc[:, column]
    return cells if pd.api.types.is_numeric_dtype(cells.dtype) else table.series(column)


def _times(
    table: Table, columns: Sequence[int], day_first: bool | None
) -> tuple[Times | None, bool]:
    if not columns:
        return None, False
    name, parts = table.names[columns[0]], {table.names[i]: _cells(table, i) for i in columns}
    cells = join_parts(parts) if len(parts) > 1 else parts[name]
    try:
        times, utc = parse_times(cells, day_first)
    except OstinatoError as error:
        raise DataError(f"{name!r}: {error}", path=table.path) from None
    if times.dtype.kind == "M" and np.isnat(times).any():
        row = int(np.isnat(times).argmax())
        raise table.place(row).error(
            f"{name!r} is {str(cells.iloc[row])!r:.40}, no time; expected a date, as in 2024-01-31 "
            "or 2024-01-31 12:00, or a whole number."
        )
    return times, utc


def _find_id(table: Table, free: Sequence[int], times: Times | None) -> list[int]:
    """The column of names of series: where times repeat, the one within which they do not."""
    N = len(table)
    free = [i for i in free if not table.is_boolean(i)]
    words = [i for i in free if not table.is_numeric(i)]
    called = table.called(ID_NAMES, free)
    if times is not None and len(np.unique(times)) == N:
        called, words = [i for i in called if i in words], []

    def splits(column: int) -> bool:
        codes, cells = table.codes(column)
        if times is None:  # rows of a series stand together
            return 1 + int((np.diff(codes) != 0).sum()) == len(cells) < N
        order = np.lexsort((times, codes))
        again = (np.diff(codes[order]) == 0) & (np.diff(times[order]).astype(np.int64) == 0)
        return not again.any() and len(cells) < N

    for some in (called, words):
        found = [i for i in some if splits(i)]
        if len({len(table.codes(i).cells) for i in found}) > 1:
            raise DataError(
                "which column names the series is not clear; name it with id: "
                f"{table.described()}.",
                path=table.path,
            )
        if found:
            return found[:1]
    return []


def _find_target(table: Table, free: Sequence[int], every: bool, like: Columns | None) -> list[int]:
    """The only column of numbers, the one called so, or all of them."""
    if len(table.names) == 1:
        return list(free)
    numbers = [i for i in free if table.is_numeric(i) and not names_rows(table, i)]
    if every or len(numbers) == 1:
        return numbers
    found = table.called(TARGET_NAMES, numbers)
    if len(found) == 1:
        return found
    if like is not None:
        raise DataError(
            f"has no column {like.target[0]!r}, which the model forecasts; {table.described()}.",
            path=table.path,
        )
    raise DataError(
        "which column is to be forecast is not clear; name it with target, or * for all that hold "
        f"numbers, each a series: {table.described()}.",
        path=table.path,
    )
