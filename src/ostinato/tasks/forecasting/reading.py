"""Time series from files, data frames and arrays: which column is what, and onto one grid."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ostinato.data.columns import IDS, TIMES
from ostinato.data.corpus import Place
from ostinato.data.dates import join_parts, parse_times
from ostinato.data.formats import read_table
from ostinato.data.tables import Table, TableSettings, is_frame, table_of
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting.grid import NOWHERE, Grid, Times
from ostinato.tasks.forecasting.panel import Columns, Panel, Series, Static

__all__ = ["SeriesSettings", "read_panel"]

Array = NDArray[np.float64]

# What columns are usually called, in lower case.
TIME_NAMES = TIMES | {"ds", "month", "day", "hour", "week", "quarter", "year", "period", "when"}
ID_NAMES = IDS | {"unique_id", "item", "item_id", "store", "sensor", "name", "key"}
TARGET_NAMES = {"target", "value", "values", "y", "sales", "demand", "quantity", "observation"}
ROW_NUMBERS = {"id", "index", "row", "no", "nr", "unnamed: 0", ""}
YEAR_PARTS = ("month", "quarter", "week", "day")
CLOCK_PARTS = ("time", "hour", "minute", "second")

MAX_STEPS = 50_000_000
"""Steps of a grid from the first time of a series to its last, at most."""

MAX_CATEGORIES = 200
"""Categories of a past or future covariate, at most."""


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


def read_panel(X: Any, settings: SeriesSettings, like: Panel | None = None) -> Panel:
    """Read series from files, data frames or arrays.

    Args:
        X: a `Panel`; one or several tables as `pathlib.Path`; a data frame; an array or a pandas
            Series ``(T,)``, or several, in a list or by name in a dictionary.
        settings: how they are read.
        like: the panel of a trained model: the same columns are read, on the same grid.

    Raises:
        DataError: naming file and line.

    >>> panel = read_panel({"a": [1, 2, 4]}, SeriesSettings())
    >>> panel.series[0].name, panel.series[0].values.tolist(), panel.description
    ('a', [1.0, 2.0, 4.0], 'target: value; one series, by step')
    """
    if isinstance(X, Panel):
        return X
    rows: list[_Rows] = []
    columns: Columns | None = None
    categories: dict[str, Sequence[str]] = dict(like.categories) if like is not None else {}
    notes: dict[str, None] = {}
    path = ""
    for name, table in _tables(X, settings):
        found = _Resolved.of(table, settings, like)
        if columns is not None and found.names(table) != columns:
            raise DataError(f"has other columns than {path}.", path=table.path)
        columns, path = columns or found.names(table), path or str(table.path)
        if found.utc:
            notes["times are in UTC, since they have offsets"] = None
        rows += _rows_of(table, found, name, categories, notes)
    if columns is None:
        raise OstinatoError("X holds no series.")
    if like is not None and columns[3:] != like.columns[3:]:
        raise DataError(
            f"has other covariates than the training data; expected {like.columns}, got {columns}.",
            path=path,
        )
    return _on_grid(rows, settings, like, columns, categories, list(notes))


def _tables(X: Any, settings: SeriesSettings) -> Iterator[tuple[str, Table]]:
    """Tables, and the names of their series."""
    if is_frame(X):
        yield "", table_of(X)
        return
    paths = [X] if isinstance(X, os.PathLike) else X
    if isinstance(paths, list | tuple) and paths and isinstance(paths[0], os.PathLike):
        fields = (settings.target, settings.time, settings.id, settings.future_covariates,
                  settings.past_covariates, settings.static_covariates)  # fmt: skip
        asked = {part for each in fields if each for part in each.split(",")}
        for path in map(Path, paths):
            table = read_table(path, settings, asked | TIME_NAMES | ID_NAMES | TARGET_NAMES)
            yield path.stem if len(paths) > 1 else "", table
        return
    if not pd.api.types.is_list_like(X):
        raise OstinatoError(
            f"X is {X!r:.60}; expected series: a pathlib.Path of a table, a data frame, an array "
            "(T,), or several. (How many steps ahead is said by name: horizon=12.)"
        )
    if isinstance(X, Mapping):
        named = {str(name): (f"X[{name!r}]", values) for name, values in X.items()}
    elif not any(is_frame(each) or np.ndim(each) for each in X):
        named = {"": ("X", X)} if len(X) else {}
    else:
        named = {str(i): (f"X[{i}]", values) for i, values in enumerate(X)}
    for name, (place, values) in named.items():
        if is_frame(values):
            yield name, table_of(values)
            continue
        if np.ma.isMaskedArray(values):
            values = np.ma.filled(values.astype(np.float64), np.nan)
        if np.ndim(values) != 1 or not len(values):
            raise DataError(
                f"is {values!r:.60}; expected numbers (T,), NaN where one is missing.", path=place
            )
        yield name, Table(Path(place), pd.DataFrame({"value": values}), line=0)


class _Resolved(NamedTuple):
    """Which column of a table is what, by number; and the times."""

    time: list[int]
    id: int | None
    target: list[int]
    future: list[int]
    past: list[int]
    static: list[int]
    times: Times | None
    utc: bool

    def names(self, table: Table) -> Columns:
        """Names of the columns."""
        time, target, future, past, static = (
            tuple(table.names[i] for i in some)
            for some in (self.time, self.target, self.future, self.past, self.static)
        )
        key = None if self.id is None else table.names[self.id]
        return Columns(time, key, target, future, past, static)

    @classmethod
    def of(cls, table: Table, settings: SeriesSettings, like: Panel | None) -> _Resolved:
        """Find out what each column is, as it was told or as it can be inferred."""
        before = Columns() if like is None else like.columns
        taken: set[int] = set()

        def named(names: str | None, known: Sequence[str], what: str) -> list[int]:
            """Columns that the user, or the training data, names."""
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
        target = named(None if every else settings.target, () if every else before.target, "target")
        time = named(settings.time, before.time, "times") or _find_time(table, free(), settings)
        taken.update(time)
        times, utc = _times(table, time, settings)
        ids = named(settings.id, () if before.id is None else (before.id,), "ids of series")
        key = ids[0] if ids else _find_id(table, free(), times)
        taken.update([] if key is None else [key])
        target = target or _find_target(table, free(), every, before if like is not None else None)
        return cls(time, key, target, future, past, static, times, utc)


def _find_time(table: Table, free: Sequence[int], settings: SeriesSettings) -> list[int]:
    """Columns of the times: those called so that hold dates, the first with dates, or parts."""
    names = {table.names[i].strip().lower(): i for i in free} if table.named else {}
    if "year" in names and any(part in names for part in YEAR_PARTS[:3]):
        parts = ("year", *YEAR_PARTS, *CLOCK_PARTS)
        return [names[part] for part in parts if part in names]
    called = table.called(TIME_NAMES, free)
    numeric = [i for i in called if table.is_numeric(i)]
    for column in [i for i in [*called, *free] if i not in numeric and not table.is_numeric(i)]:
        some = _cells(table, column).dropna().head(50)
        times = parse_times(some, bool(settings.day_first)).times
        if len(some) and times.dtype.kind == "M" and (~np.isnat(times)).mean() > 0.9:
            days = (times == times.astype("M8[D]")).all()
            clock = [names[part] for part in CLOCK_PARTS if part in names and names[part] != column]
            return [column, *clock] if days else [column]
    if numeric:
        return numeric[:1]
    # What is called a time and cannot be read as one is a mistake, not to be passed over.
    return called if len(called) == 1 else []


def _cells(table: Table, column: int) -> pd.Series:
    """A column for dates: as the file has it, numbers as numbers."""
    cells = table.frame.iloc[:, column]
    return cells if pd.api.types.is_numeric_dtype(cells.dtype) else table.series(column)


def _times(
    table: Table, columns: Sequence[int], settings: SeriesSettings
) -> tuple[Times | None, bool]:
    """Times of all rows; None where rows are steps."""
    if not columns:
        return None, False
    if len(columns) == 1:
        cells = _cells(table, columns[0])
    else:
        cells = join_parts({table.names[i]: _cells(table, i) for i in columns})
    try:
        times, utc = parse_times(cells, settings.day_first)
    except OstinatoError as error:
        raise DataError(f"{table.names[columns[0]]!r}: {error}", path=table.path) from None
    if times.dtype.kind == "M" and np.isnat(times).any():
        row = int(np.isnat(times).argmax())
        raise table.place(row).error(
            f"{table.names[columns[0]]!r} is {str(cells.iloc[row])!r:.40}, no time; expected a "
            "date, as in 2024-01-31 or 2024-01-31 12:00, or a whole number."
        )
    return times, utc


def _find_id(table: Table, free: Sequence[int], times: Times | None) -> int | None:
    """The column of names of series: where times repeat, the one within which they do not."""
    N = len(table)
    free = [i for i in free if not table.is_boolean(i)]
    called = table.called(ID_NAMES, free)
    words = [i for i in free if not table.is_numeric(i)]

    def splits(column: int) -> bool:
        """Whether rows with the same cell can be a series."""
        codes = table.codes(column).codes
        if times is None:  # they stand together
            return 1 + int((np.diff(codes) != 0).sum()) == len(np.unique(codes)) < N
        order = np.lexsort((times, codes))
        again = (np.diff(codes[order]) == 0) & (np.diff(times[order]).astype(np.int64) == 0)
        return not again.any() and len(np.unique(codes)) < N

    if times is not None and len(np.unique(times)) == N:
        called = [i for i in called if i in words]
        words = []
    for some in (called, words):
        found = [i for i in some if splits(i)]
        if len({len(table.codes(i).cells) for i in found}) > 1:
            raise DataError(
                "which column names the series is not clear; name it with id: "
                f"{table.described()}.",
                path=table.path,
            )
        if found:
            return found[0]
    return None


def _find_target(
    table: Table, free: Sequence[int], every: bool, before: Columns | None
) -> list[int]:
    """The only column of numbers, the one called so, or all of them."""
    if len(table.names) == 1:
        return list(free)
    counted = [i for i in table.called(ROW_NUMBERS, free) if _numbers_rows(table, i)]
    numbers = [
        i for i in free if i not in counted and table.is_numeric(i) and not table.is_boolean(i)
    ]
    if every or len(numbers) == 1:
        return numbers
    found = table.called(TARGET_NAMES, numbers)
    if len(found) == 1:
        return found
    if before is not None:
        raise DataError(
            f"has no column {before.target[0]!r}, which the model forecasts; {table.described()}.",
            path=table.path,
        )
    raise DataError(
        "which column is to be forecast is not clear; name it with target, or * for all that hold "
        f"numbers, each a series: {table.described()}.",
        path=table.path,
    )


def _numbers_rows(table: Table, column: int) -> bool:
    if not table.is_numeric(column):
        return False
    values = table.numbers([column], missing=True)[:, 0]
    return bool((np.diff(values) == 1).all())


class _Rows(NamedTuple):
    """A series before it lies on a grid: its rows in the order of their times."""

    name: str
    times: Times
    values: Array
    future: Array
    past: Array
    static: tuple[Static, ...]
    table: Table
    rows: NDArray[np.int64]  # of the table

    def place(self, at: int) -> Place:
        """Where a row was read."""
        return self.table.place(int(self.rows[at]))


def _rows_of(
    table: Table,
    columns: _Resolved,
    label: str,
    categories: dict[str, Sequence[str]],
    notes: dict[str, None],
) -> Iterator[_Rows]:
    """Series of a table, sorted by time."""
    N = len(table)
    codes, cells = np.zeros(N, np.int64), [""]
    if columns.id is not None:
        codes, cells = table.codes(columns.id)
        empty = np.flatnonzero([not cell.strip() for cell in cells])
        if len(empty):
            row = int(np.flatnonzero(codes == empty[0])[0])
            raise table.place(row).error(f"{table.names[columns.id]!r} is empty.")
    values = table.numbers(columns.target, missing=True)
    future, past = (
        np.concatenate([np.zeros((N, 0)), *(_covariate(table, i, categories) for i in some)], 1)
        for some in (columns.future, columns.past)
    )
    times = columns.times
    order = np.argsort(codes, kind="stable") if times is None else np.lexsort((times, codes))
    borders = np.flatnonzero(np.diff(codes[order])) + 1
    if times is not None:
        _check_order(table, columns, order, codes, times, notes)
    for rows in np.split(order, borders):
        static = tuple(_constant(table, i, rows) for i in columns.static)
        stamps = np.arange(len(rows)) if times is None else times[rows]
        for k, column in enumerate(columns.target):
            several = table.names[column] if len(columns.target) > 1 else ""
            parts = [label, cells[codes[rows[0]]].strip(), several]
            yield _Rows(
                "/".join(part for part in parts if part), stamps, values[rows, k], future[rows],
                past[rows], static, table, rows,
            )  # fmt: skip


def _covariate(table: Table, column: int, categories: dict[str, Sequence[str]]) -> Array:
    """A covariate ``(N, 1)``; of text, which the training data determine, ``(N, categories)``."""
    name = table.names[column]
    if name not in categories:
        if table.is_numeric(column) or table.is_boolean(column):
            return table.numbers([column], missing=True)
        found = {cell.strip() for cell in table.codes(column).cells}
        if len(found) > MAX_CATEGORIES:
            raise DataError(
                f"{name!r} has {len(found):,} categories; expected {MAX_CATEGORIES} at most, or "
                "numbers.",
                path=table.path,
            )
        categories[name] = sorted(found - {""})
    codes, cells = table.codes(column)
    kinds = np.array([[cell.strip() == kind for kind in categories[name]] for cell in cells], float)
    encoded = kinds.reshape(len(cells), -1)[codes]
    encoded[table.is_missing(column)] = np.nan
    return np.asarray(encoded)


def _check_order(
    table: Table,
    columns: _Resolved,
    order: NDArray[np.int64],
    codes: NDArray[np.int64],
    times: Times,
    notes: dict[str, None],
) -> None:
    """Refuse a time that a series has twice; note rows that were out of order."""
    same = np.diff(codes[order]) == 0
    again = np.flatnonzero(same & (np.diff(times[order]).astype(np.int64) == 0))
    if len(again):
        one, other = sorted(order[again[0] : again[0] + 2].tolist())
        more = "" if columns.id is not None else "; if there are several series, name their id"
        raise table.place(other).error(
            f"has the time of line {table.place(one).line} again: "
            f"{table.cell(other, columns.time[0])}{more}."
        )
    back = np.diff(order)[same] < 0
    if back.all() and len(back):
        notes["rows were sorted by time: the newest came first"] = None
    elif back.any():
        notes["rows were sorted by time: they were in no order"] = None


def _constant(table: Table, column: int, rows: NDArray[np.int64]) -> Static:
    """A static covariate of a series."""
    codes = table.codes(column).codes[rows]
    first = table.text(int(rows[0]), column).strip()
    other = np.flatnonzero(codes != codes[0])
    if len(other):
        row = int(rows[other[0]])
        raise table.place(row).error(
            f"{table.names[column]!r} is {table.text(row, column)!r:.40}, and was {first!r:.40}; "
            "a static covariate does not change within a series."
        )
    return float(first) if table.is_numeric(column) else first


# Onto a grid


def _on_grid(
    rows: Sequence[_Rows],
    settings: SeriesSettings,
    like: Panel | None,
    columns: Columns,
    categories: Mapping[str, Sequence[str]],
    notes: list[str],
) -> Panel:
    """Series on the grid of their times, or of ``like``."""
    times = np.concatenate([each.times for each in rows])
    ids = np.repeat(np.arange(len(rows)), [len(each.times) for each in rows])
    if like is not None:
        grid = like.grid
        if (times.dtype.kind == "M") == (grid.unit == "step"):
            raise (
                rows[0]
                .place(0)
                .error(f"has other times than the training data, one every {grid.name}.")
            )
    elif settings.frequency is not None:
        grid = Grid.named(settings.frequency, times)
    else:
        grid = Grid.find(times, ids)
    series: list[Series] = []
    shared = 0
    suspect: list[Place] = []
    for each in rows:
        if settings.frequency is not None:
            numbers = grid.nearest(each.times)
            alone, numbers = _mean_per_step(each, numbers)
            shared += len(each.times) - len(numbers)
            each = alone
        else:
            # The first day of a month and its last are the same to a trained model.
            nearest = like is not None and grid.unit == "month"
            numbers = grid.nearest(each.times) if nearest else grid.numbers(each.times)
        _check_steps(each, numbers, grid, like)
        wide = int(np.argmax(np.diff(numbers, prepend=numbers[0])))
        if 2 * (numbers[wide] - numbers[wide - 1]) > numbers[-1] - numbers[0] > 20:
            suspect.append(each.place(wide))
        found = _spread_out(each, numbers).trimmed()
        if found is None:
            raise each.place(0).error("has no value of the target in the whole series.")
        series.append(found)
    names = [s.name for s in series]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise rows[0].place(0).error(f"names two series {twice!r}.")
    gaps = sum(int(np.isnan(s.values).sum()) for s in series)
    if gaps:
        steps = sum(len(s.values) for s in series)
        notes.append(f"{gaps:,} of {steps:,} values are missing")
    if suspect:
        more = f", and in {len(suspect) - 1:,} more series" if len(suspect) > 1 else ""
        notes.append(f"most steps are missing before {suspect[0]}{more}: is that time right?")
    if shared:
        notes.append(f"{shared:,} rows are in one step with the row before; the mean counts")
    return Panel(series, grid, columns, categories, notes)


def _mean_per_step(rows: _Rows, numbers: NDArray[np.int64]) -> tuple[_Rows, NDArray[np.int64]]:
    """Rows with the mean of those that fall into each step, and these steps."""
    there, first = np.unique(numbers, return_index=True)
    if len(there) == len(numbers):
        return rows, numbers

    def mean(part: Array) -> Array:
        flat = pd.DataFrame(part.reshape(len(part), -1)).groupby(numbers).mean()
        return np.asarray(flat).reshape(len(there), *part.shape[1:])

    return rows._replace(
        times=rows.times[first], values=mean(rows.values), future=mean(rows.future),
        past=mean(rows.past), rows=rows.rows[first],
    ), there  # fmt: skip


def _check_steps(rows: _Rows, numbers: NDArray[np.int64], grid: Grid, like: Panel | None) -> None:
    """Refuse times that are not one a step."""
    off = np.flatnonzero(numbers == NOWHERE)
    if len(off):
        at = int(off[0])
        raise rows.place(at).error(
            f"{_shown(rows.times[at])} is not on the grid of the others, one every {grid.name}; "
            "name the step with frequency, or correct the time."
        )
    T = int(numbers[-1] - numbers[0]) + 1
    if max(100 * len(numbers), 1000) < T or T > MAX_STEPS:
        raise rows.place(0).error(
            f"has {len(numbers):,} rows on a grid of {T:,} steps, one every {grid.name}: "
            "irregular times; name a longer step with frequency."
        )
    steps = np.diff(numbers)
    trained = "" if like is None else ", that of the training data"
    again = np.flatnonzero(steps <= 0)
    if len(again):
        at = int(again[0]) + 1
        raise rows.place(at).error(
            f"{_shown(rows.times[at])} is in the same step as the row before, of one every "
            f"{grid.name}{trained}; name a shorter frequency, or keep one row of each step."
        )
    if like is not None and len(steps) > 2 and (longer := int(np.gcd.reduce(steps))) > 1:
        own = Grid.find(rows.times)
        raise rows.place(0).error(
            f"has one time every {own.name}, each {longer} steps of the training data, which has "
            f"one every {grid.name}; give such data, or train on data like these."
        )


def _shown(time: Any) -> str:
    return str(time).replace("T", " ").removesuffix(".000000").removesuffix(" 00:00:00")


def _spread_out(rows: _Rows, numbers: NDArray[np.int64]) -> Series:
    """A series with a row for every step, NaN where there is none."""

    def full(part: Array) -> Array:
        spread = np.full((int(numbers[-1] - numbers[0]) + 1, *part.shape[1:]), np.nan)
        spread[numbers - numbers[0]] = part
        return spread

    parts = full(rows.values), full(rows.future), full(rows.past)
    return Series(rows.name, int(numbers[0]), *parts, rows.static)
