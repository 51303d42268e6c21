"""Time series from files, data frames and arrays: which column is what, then onto one grid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.columns import IDS, TIMES, names_rows
from ostinato.data.dates import join_parts, parse_times
from ostinato.data.formats import read_table
from ostinato.data.lazy import pd
from ostinato.data.places import Place, paths_of
from ostinato.data.tables import Table, TableSettings, is_frame, is_missing, table_of
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting.grid import NOWHERE, Grid, Times
from ostinato.tasks.forecasting.panel import Columns, Panel, Series, Static

__all__ = ["SeriesSettings", "read_panel"]

Array = NDArray[np.float64]

MAX_STEPS = 50_000_000
"""Steps of a grid from the first time of a series to its last, at most."""

MAX_CATEGORIES = 200
"""Categories of a past or future covariate, at most."""

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
        series_in_rows: whether each row of a table is a series, named in its first column or that
            of the id, and each other column a step, as in the tables of the M competitions;
            inferred if not given.
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
    series_in_rows: bool | None = None


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
    first: tuple[Columns, Path] | None = None
    categories: dict[str, Sequence[str]] = dict(like.categories) if like is not None else {}
    notes: dict[str, None] = {}
    for name, table in _tables(X, settings):
        names = _names_of_rows(table, settings)
        if names is not None:
            found, more = Columns(id=table.names[names]), _series_of_rows(table, names, name, notes)
        else:
            found, times = _columns(table, settings, None if like is None else like.columns, notes)
            more = _rows_of(table, found, times, name, categories, notes)
        columns, path = first = first or (found, table.path)
        if found != columns:
            raise DataError(f"has other columns than {path}.", path=table.path)
        if like is not None and columns[3:] != like.columns[3:]:
            raise DataError(
                "has other covariates than the training data; "
                f"expected {like.columns}, got {columns}.",
                path=path,
            )
        rows += more
    if first is None:
        raise OstinatoError("X holds no series.")
    return _on_grid(rows, settings, like, first[0], categories, list(notes))


def _tables(X: Any, settings: SeriesSettings) -> Iterator[tuple[str, Table]]:
    """Tables, and the names of their series."""
    if is_frame(X):
        yield "", table_of(X)
        return
    if paths := paths_of(X):
        columns = (settings.target, settings.time, settings.id, settings.future_covariates,
                   settings.past_covariates, settings.static_covariates)  # fmt: skip
        names = {name for each in columns if each for name in each.split(",")}
        names |= TIME_NAMES | PART_NAMES | ID_NAMES | TARGET_NAMES  # names that tell a header
        for path in paths:
            yield path.stem if len(paths) > 1 else "", read_table(path, settings, names)
        return
    if not pd.api.types.is_list_like(X):
        raise OstinatoError(
            f"X is {X!r:.60}; expected series: a pathlib.Path of a table, a data frame, an array "
            "(T,), or several. (To set the steps ahead, name the argument: horizon=12.)"
        )
    if isinstance(X, Mapping):
        named = {str(name): (f"X[{name!r}]", values) for name, values in X.items()}
    elif not any(is_frame(each) or np.ndim(each) for each in X):
        named = {"": ("X", X)} if len(X) else {}
    else:
        named = {str(i): (f"X[{i}]", values) for i, values in enumerate(X)}
    for name, (place, values) in named.items():
        if is_frame(values):
            values = values.rename("value") if isinstance(values, pd.Series) else values
            yield name, table_of(values)
            continue
        if np.ma.isMaskedArray(values):
            values = np.ma.filled(values.astype(np.float64), np.nan)
        if np.ndim(values) != 1 or not len(values):
            raise DataError(
                f"is {values!r:.60}; expected numbers (T,), NaN where one is missing.", path=place
            )
        yield name, Table(Path(place), pd.DataFrame({"value": values}), line=0)


# Which column is what


def _columns(
    table: Table, settings: SeriesSettings, like: Columns | None, notes: dict[str, None]
) -> tuple[Columns, Times | None]:
    """What each column is: as set, as in the training data, or else inferred; and all times.

    There are no times where rows are steps.
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
    times = _times(table, time, settings.day_first, notes)
    ids = named(settings.id, [before.id] if before.id else [], "ids of series")
    ids = ids or _find_id(table, free(), times)
    taken.update(ids)
    target = target or _find_target(table, free(), every, like)
    parts = ([table.names[i] for i in some] for some in (time, target, future, past, static))
    time_, target_, *covariates = map(tuple, parts)
    columns = Columns(time_, table.names[ids[0]] if ids else None, target_, *covariates)
    return columns, times


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
    # A column called a time that cannot be read as one is a mistake, not to be passed over.
    return numeric[:1] or (sure if len(sure) == 1 else [])


def _cells(table: Table, column: int) -> pd.Series:
    """A column for dates: as the file has it, numbers as numbers."""
    cells = table.frame.iloc[:, column]
    return cells if pd.api.types.is_numeric_dtype(cells.dtype) else table.series(column)


def _times(
    table: Table, columns: Sequence[int], day_first: bool | None, notes: dict[str, None]
) -> Times | None:
    if not columns:
        return None
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
    if utc:
        notes["times are in UTC, since they have offsets"] = None
    return times


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
        "numbers, each a series; or, if each row is a series, say so with series_in_rows: "
        f"{table.described()}.",
        path=table.path,
    )


# Series of a table


def _names_of_rows(table: Table, settings: SeriesSettings) -> int | None:
    """The column of names where each row is a series and the other columns its steps; else None.

    Without a setting: if the first column is an id of each row, and the others are numbered.
    """
    names = 0 if settings.id is None else table.column(settings.id, "ids of series")
    named = (settings.target, settings.time, settings.future_covariates, settings.past_covariates,
             settings.static_covariates)  # fmt: skip
    if settings.series_in_rows is not None or any(named) or not table.named:
        return names if settings.series_in_rows else None
    steps = [re.fullmatch(r"(\D*)(\d+)", n) for i, n in enumerate(table.names) if i != names]
    numbers = [(step[1], int(step[2])) for step in steps if step is not None]
    if not numbers or len(numbers) < len(steps):
        return None
    prefix, first = numbers[0]
    counted = numbers == [(prefix, first + k) for k in range(len(numbers))]
    if not counted or table.is_numeric(names) or len(table.codes(names).cells) < len(table):
        return None
    is_id = names_rows(table, names) or table.names[names] == f"{prefix}{first - 1}"
    return names if is_id else None


def _series_of_rows(
    table: Table, names: int, label: str, notes: dict[str, None]
) -> Iterator[_Rows]:
    """Series of a table with one in each row."""
    steps = [i for i in range(len(table.names)) if i != names]
    shown = f"{table.names[steps[0]]} to {table.names[steps[-1]]}"
    notes[f"each row is a series, and its steps are the columns {shown}"] = None
    values, nothing = table.numbers(steps, missing=True), np.zeros((len(steps), 0))
    for row, name in enumerate(table.texts(names)):
        full = "/".join(part for part in (label, name.strip()) if part)
        times, rows = np.arange(len(steps)), np.full(len(steps), row)
        yield _Rows(full, times, values[row], nothing, nothing, (), table, rows)


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
    columns: Columns,
    times: Times | None,
    label: str,
    categories: dict[str, Sequence[str]],
    notes: dict[str, None],
) -> Iterator[_Rows]:
    """Series of a table, sorted by time."""
    numbers = {name: i for i, name in enumerate(table.names)}
    N = len(table)
    codes, cells = np.zeros(N, np.int64), [""]
    if columns.id is not None:
        codes, cells = table.codes(numbers[columns.id])
        if not all(cell.strip() for cell in cells):
            row = int(np.isin(codes, [k for k, c in enumerate(cells) if not c.strip()]).argmax())
            raise table.place(row).error(f"{columns.id!r} is empty.")
    targets = table.numbers([numbers[name] for name in columns.target], missing=True)
    future, past = (
        np.hstack([np.zeros((N, 0)), *(_covariate(table, numbers[c], categories) for c in some)])
        for some in (columns.future_covariates, columns.past_covariates)
    )
    static = [_static(table, numbers[name], codes) for name in columns.static_covariates]
    order = np.argsort(codes, kind="stable") if times is None else np.lexsort((times, codes))
    borders = np.flatnonzero(np.diff(codes[order])) + 1
    if times is not None:
        _check_order(table, columns, order, codes, times, notes)
    for rows in np.split(order, borders):
        stamps = np.arange(len(rows)) if times is None else times[rows]
        constant = tuple(values[rows[0]] for values in static)
        for k, column in enumerate(columns.target):
            parts = label, cells[codes[rows[0]]].strip(), column if len(columns.target) > 1 else ""
            name = "/".join(part for part in parts if part)
            values = targets[rows, k]
            yield _Rows(name, stamps, values, future[rows], past[rows], constant, table, rows)


def _covariate(table: Table, column: int, categories: dict[str, Sequence[str]]) -> Array:
    """A covariate ``(N, 1)``; of text, which the training data determine, ``(N, categories)``."""
    name = table.names[column]
    if name not in categories and (table.is_numeric(column) or table.is_boolean(column)):
        return table.numbers([column], missing=True)
    codes, cells = table.codes(column)
    found = sorted({cell.strip() for cell in cells} - {""})
    known = categories.setdefault(name, found)
    if len(known) > MAX_CATEGORIES:
        raise DataError(
            f"{name!r} has {len(known):,} categories; expected numbers, or {MAX_CATEGORIES} "
            "categories at most.",
            path=table.path,
        )
    encoded = np.array([[cell.strip() == each for each in known] for cell in cells], dtype=float)
    encoded = encoded.reshape(len(cells), len(known))
    encoded[[is_missing(cell) for cell in cells]] = np.nan
    return encoded[codes]


def _static(table: Table, column: int, ids: NDArray[np.int64]) -> Sequence[Static]:
    """A static covariate, of each row; a `DataError` where it changes within a series."""
    name, (codes, cells) = table.names[column], table.codes(column)
    _, first, which = np.unique(ids, return_index=True, return_inverse=True)
    other = codes != codes[first][which]
    if other.any():
        row = int(other.argmax())
        raise table.place(row).error(
            f"{name!r} is {cells[codes[row]]!r:.40}, and was "
            f"{cells[codes[first[which[row]]]]!r:.40}; a static covariate does not change within "
            "a series."
        )
    if table.is_numeric(column):
        return list(table.numbers([column])[:, 0].tolist())
    return [str(text).strip() for text in table.texts(column)]


def _check_order(
    table: Table,
    columns: Columns,
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
        shown = table.cell(other, table.names.index(columns.time[0]))
        raise table.place(other).error(
            f"has the time of line {table.place(one).line} again: {shown}{more}."
        )
    back = np.diff(order)[same] < 0
    if back.any():
        how = "the newest came first" if back.all() else "they were in no order"
        notes[f"rows were sorted by time: {how}"] = None


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
