"""Time series from files, data frames and arrays: which column is what, then onto one grid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

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

COVARIATES = ("future_covariates", "past_covariates", "static_covariates")
SETTINGS = {"id": "ids of series", "target": "target", "time": "times"} | {
    name: name.replace("_", " ") for name in COVARIATES
}
"""Settings that name columns, and what these hold."""


_Named = tuple[str, tuple[Static, ...]]
"""The name of a series, and its static covariates."""


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
        season: steps of a season; if not given, by the frequency, or by the values where rows are
            steps.
        long_season: steps of a longer one, such as 168, the hours of a week; found likewise if not
            given, 1 for none.
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
    long_season: int | None = None
    calendar: bool = True
    day_first: bool | None = None
    series_in_rows: bool | None = None

    def named(self, setting: str) -> list[str]:
        """Return the names of columns that a setting lists."""
        names = getattr(self, setting) or ""
        if not isinstance(names, str):
            raise OstinatoError(
                f"{setting}={names!r}: expected the names of columns in one string, separated by "
                "commas, such as 'price,holiday'."
            )
        return [name.strip() for name in names.split(",") if name.strip()]


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
    if (panel := _panel_of_arrays(X, settings, like)) is not None:
        return panel
    parts: list[_Rows] = []
    tables: list[Table] = []
    series: list[_Named] = []
    columns = Columns()
    categories: dict[str, Sequence[str]] = dict(like.categories) if like is not None else {}
    notes: dict[str, None] = {}
    for label, table in _tables(X, settings):
        names = _names_of_rows(table, settings)
        if names is not None:
            found, rows, more = _series_in_rows(table, names, notes)
        else:
            found, rows, more = _series_in_columns(table, settings, like, categories, notes)
        columns = columns if tables else found
        if found != columns:
            raise DataError(f"has other columns than {tables[0].path}.", path=table.path)
        if like is not None and columns[3:] != like.columns[3:]:
            raise DataError(
                "has other covariates than the training data; "
                f"expected {like.columns}, got {columns}.",
                path=table.path,
            )
        rows.table.fill(len(tables))
        parts.append(rows._replace(series=rows.series + len(series)))
        tables.append(table)
        series += [(_joined(label, name), static) for name, static in more]
    if not tables:
        raise OstinatoError("X holds no series.")
    rows = _Rows(*map(np.concatenate, zip(*parts, strict=True))) if len(parts) > 1 else parts[0]
    order = np.lexsort((rows.times, rows.series))
    if (np.diff(order) < 0).any():
        rows = rows.take(order)
    return _on_grid(rows, series, tables, settings, like, columns, categories, list(notes))


def _panel_of_arrays(X: Any, settings: SeriesSettings, like: Panel | None) -> Panel | None:
    """Return what tables of arrays of numbers would give, without making a table of each.

    None for other data, and for those that are not right: tables say what is wrong with them.
    """
    asked = settings.frequency or settings.series_in_rows or any(map(settings.named, SETTINGS))
    if asked or not isinstance(X, Mapping | list | tuple):
        return None
    named = {str(name): x for name, x in (X.items() if isinstance(X, Mapping) else enumerate(X))}

    def is_plain(x: Any) -> bool:
        fits = type(x) is np.ndarray and x.ndim == 1 and 0 < len(x) <= MAX_STEPS
        return fits and (x.dtype.kind in "iu" or x.dtype in (np.float32, np.float64))

    if not all(map(is_plain, named.values())) or len(named) < len(X):
        return None
    if max(map(len, named.values()), default=0) < 2:
        return None
    columns, grid = Columns(), Grid.find(np.arange(2))
    if like is not None and (like.grid != grid or like.columns[3:] != columns[3:]):
        return None
    nothing = np.zeros((max(map(len, named.values())), 0))
    series = []
    for name, x in named.items():
        values, none = x.astype(np.float64), nothing[: len(x)]
        found = Series(name, 0, values, none, none).trimmed()
        if found is None or np.isinf(values).any():
            return None
        series.append(found)
    return Panel(series, grid, columns, {}, _gaps(series))


def _gaps(series: Sequence[Series]) -> list[str]:
    """Return a note on missing values."""
    gaps = sum(int(np.isnan(s.values).sum()) for s in series)
    every = sum(len(s.values) for s in series)
    return [f"{gaps:,} of {every:,} values are missing"] if gaps else []


def _tables(X: Any, settings: SeriesSettings) -> Iterator[tuple[str, Table]]:
    """Tables, and the names of their series."""
    if is_frame(X):
        yield "", table_of(X)
        return
    if paths := paths_of(X):
        names = {name for setting in SETTINGS for name in settings.named(setting)}
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
    every = settings.target == "*"
    found: dict[str, list[int]] = {}
    for setting, what in SETTINGS.items():
        known = getattr(like, setting, ()) if table.named else ()
        there = [i for i in map(table.find, known) if i is not None]
        found[setting] = there if len(there) == len(known) else []
        if names := settings.named(setting):
            star = every and setting == "target"
            found[setting] = [] if star else [table.column(name, what) for name in names]

    def free() -> list[int]:
        taken = {i for some in found.values() for i in some}
        return [i for i in range(len(table.names)) if i not in taken]

    found["time"] = found["time"] or _find_time(table, free())
    times = _times(table, found["time"], settings.day_first, notes)
    found["id"] = found["id"][:1] or _find_id(table, free(), times)
    found["target"] = found["target"] or _find_target(table, free(), every, like)
    named = {setting: tuple(table.names[i] for i in some) for setting, some in found.items()}
    return Columns(**named), times


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
        again = pd.DataFrame({"id": codes, "time": times}).duplicated()
        return len(cells) < N and not again.any()

    for some in (called, words):
        found = [i for i in some if splits(i)]
        if len({len(table.codes(i).cells) for i in found}) > 1:
            raise table.error("which column names the series is not clear; name it with id")
        if found:
            return found[:1]
    return []


def _find_target(table: Table, free: Sequence[int], every: bool, like: Columns | None) -> list[int]:
    """The only column of numbers, the one called so, or all of them."""
    if len(table.names) == 1:
        return list(free)
    numbers = [i for i in free if table.is_numeric(i) and not names_rows(table, i)]
    if len(numbers) == 1 or (every and numbers):
        return numbers
    found = table.called(TARGET_NAMES, numbers)
    if len(found) == 1:
        return found
    if like is not None:
        raise table.error(f"has no column {like.target[0]!r}, which the model forecasts")
    raise table.error(
        "which column is to be forecast is not clear; name it with target, or * for all that hold "
        "numbers, each a series; or, if each row is a series, say so with series_in_rows"
    )


# Series of a table


def _names_of_rows(table: Table, settings: SeriesSettings) -> int | None:
    """The column of names where each row is a series and the other columns its steps; else None.

    Without a setting: if the first column is an id of each row, and the others are numbered.
    """
    names = 0 if settings.id is None else table.column(settings.id, "ids of series")
    named = any(settings.named(setting) for setting in SETTINGS if setting != "id")
    if settings.series_in_rows is not None or named or not table.named:
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


def _series_in_rows(
    table: Table, names: int, notes: dict[str, None]
) -> tuple[Columns, _Rows, list[_Named]]:
    """As `_series_in_columns`, of a table with a series in each row."""
    steps = [i for i in range(len(table.names)) if i != names]
    shown = f"{table.names[steps[0]]} to {table.names[steps[-1]]}"
    notes[f"each row is a series, and its steps are the columns {shown}"] = None
    values = table.numbers(steps, missing=True)
    row, time = np.indices(values.shape).reshape(2, -1)
    rows = _Rows(row, time, values.reshape(-1, 1), row, np.zeros_like(row))
    named: list[_Named] = [(name.strip(), ()) for name in table.texts(names)]
    return Columns(id=(table.names[names],)), rows, named


def _series_in_columns(
    table: Table,
    settings: SeriesSettings,
    like: Panel | None,
    categories: dict[str, Sequence[str]],
    notes: dict[str, None],
) -> tuple[Columns, _Rows, list[_Named]]:
    """Return columns; for each row its series, time, value and covariates; and the series."""
    columns, times = _columns(table, settings, None if like is None else like.columns, notes)
    where, N, K = table.names.index, len(table), len(columns.target)
    codes, cells = np.zeros(N, np.int64), [""]
    if columns.id:
        codes, cells = table.codes(where(columns.id[0]))
        if not all(cell.strip() for cell in cells):
            row = int(np.isin(codes, [k for k, c in enumerate(cells) if not c.strip()]).argmax())
            raise table.place(row).error(f"{columns.id[0]!r} is empty.")
    targets = table.numbers([where(name) for name in columns.target], missing=True)
    names = columns.future_covariates + columns.past_covariates
    covariates = [_covariate(table, where(name), categories) for name in names]
    static = [_static(table, where(name), codes) for name in columns.static_covariates]
    if times is None:
        times = (
            np.asarray(pd.Series(codes).groupby(codes).cumcount()) if columns.id else np.arange(N)
        )
    rows = _Rows(
        np.concatenate([K * codes + k for k in range(K)]),
        cast(Times, np.tile(times, K)),
        np.concatenate([np.hstack([targets[:, [k]], *covariates]) for k in range(K)]),
        np.tile(np.arange(N, dtype=np.int32), K),
        np.zeros(K * N, np.int32),
    )
    named = [
        (_joined(cell.strip(), target * (K > 1)), tuple(values[i] for values in static))
        for i, cell in enumerate(cells)
        for target in columns.target
    ]
    return columns, rows, named


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
    texts = np.array([cell.strip() for cell in cells], dtype=str)
    encoded: Array = (texts[:, None] == np.array(known, dtype=str)).astype(np.float64)
    encoded[[is_missing(cell) for cell in cells]] = np.nan
    return encoded[codes]


def _static(table: Table, column: int, ids: NDArray[np.int64]) -> list[Static]:
    """A static covariate of each series; a `DataError` where it changes within one."""
    name, (codes, cells) = table.names[column], table.codes(column)
    first = np.unique(ids, return_index=True)[1]
    other = codes != codes[first][ids]
    if other.any():
        row = int(other.argmax())
        raise table.place(row).error(
            f"{name!r} is {cells[codes[row]]!r:.40}, and was {cells[codes[first[ids[row]]]]!r:.40};"
            " a static covariate does not change within a series."
        )
    if table.is_numeric(column):
        return list(table.numbers([column])[first, 0].tolist())
    return [str(text).strip() for text in table.texts(column)[first]]


# Onto a grid


class _Rows(NamedTuple):
    """Rows of series, and in which row of which table each was read."""

    series: NDArray[np.int64]
    times: Times
    cells: Array  # (N, 1 + F + P): value, future and past covariates
    row: NDArray[np.integer]
    table: NDArray[np.integer]

    def take(self, some: NDArray[np.intp]) -> _Rows:
        """Return some rows, by their numbers."""
        return _Rows(*cast(Any, [part[some] for part in self]))

    def place(self, at: int, tables: Sequence[Table]) -> Place:
        """Where a row was read."""
        return tables[int(self.table[at])].place(int(self.row[at]))


def _on_grid(
    rows: _Rows,
    named: Sequence[_Named],
    tables: Sequence[Table],
    settings: SeriesSettings,
    like: Panel | None,
    columns: Columns,
    categories: Mapping[str, Sequence[str]],
    notes: list[str],
) -> Panel:
    """Series on the grid of their times, or of ``like``."""
    _check_times(rows, tables, columns, notes)
    if like is not None:
        grid = like.grid
        if (rows.times.dtype.kind == "M") == (grid.unit == "step"):
            message = f"has other times than the training data, one every {grid.name}."
            raise rows.place(0, tables).error(message)
    elif settings.frequency is not None:
        grid = Grid.named(settings.frequency, rows.times)
    else:
        grid = Grid.find(rows.times, rows.series)
    # The first day of a month and its last are the same to a trained model.
    nearest = settings.frequency is not None or (like is not None and grid.unit == "month")
    steps = grid.nearest(rows.times) if nearest else grid.numbers(rows.times)
    new = (np.diff(rows.series, prepend=-1) != 0) | (np.diff(steps, prepend=NOWHERE) != 0)
    shared = int((~new).sum()) if settings.frequency is not None else 0
    if shared:
        cells = pd.DataFrame(rows.cells).groupby([rows.series, steps]).mean().to_numpy()
        rows, steps = rows.take(np.flatnonzero(new))._replace(cells=cells), steps[new]
    begins = _check_steps(rows, steps, tables, grid, like)
    series: list[Series] = []
    suspect: list[int] = []
    F = sum(len(categories.get(name, "1")) for name in columns.future_covariates)
    ends = [*begins[1:], len(steps)]
    for (name, static), begin, end in zip(named, begins, ends, strict=True):
        at = steps[begin:end] - steps[begin]
        wide = int(np.argmax(np.diff(at, prepend=0)))
        if 2 * (at[wide] - at[wide - 1]) > at[-1] > 20:
            suspect.append(begin + wide)
        full = np.full((at[-1] + 1, rows.cells.shape[1]), np.nan)
        full[at] = rows.cells[begin:end]
        future, past = full[:, 1 : 1 + F], full[:, 1 + F :]
        found = Series(name, int(steps[begin]), full[:, 0], future, past, static).trimmed()
        if found is None:
            raise rows.place(begin, tables).error("has no value of the target in the whole series.")
        series.append(found)
    twice = [name for name, n in Counter(s.name for s in series).items() if n > 1]
    if twice:
        raise rows.place(0, tables).error(f"names two series {twice[0]!r}.")
    notes += _gaps(series)
    if suspect:
        more = f", and in {len(suspect) - 1:,} more series" if len(suspect) > 1 else ""
        first = rows.place(suspect[0], tables)
        notes.append(f"most steps are missing before {first}{more}: is that time right?")
    if shared:
        notes.append(f"{shared:,} rows are in one step with the row before; the mean counts")
    return Panel(series, grid, columns, categories, notes)


def _check_times(rows: _Rows, tables: Sequence[Table], columns: Columns, notes: list[str]) -> None:
    """Refuse a time that a series has twice; note rows that were out of order."""
    same = np.diff(rows.series) == 0
    for at in np.flatnonzero(same & (rows.times[1:] == rows.times[:-1]))[:1].tolist():
        table = tables[rows.table[at]]
        shown = table.cell(int(rows.row[at + 1]), table.names.index(columns.time[0]))
        more = "" if columns.id else "; if there are several series, name their id"
        raise rows.place(at + 1, tables).error(
            f"has the time of line {rows.place(at, tables).line} again: {shown}{more}."
        )
    back = np.diff(rows.row)[same] < 0
    if back.any():
        how = "the newest came first" if back.all() else "they were in no order"
        notes.append(f"rows were sorted by time: {how}")


def _check_steps(
    rows: _Rows,
    steps: NDArray[np.int64],
    tables: Sequence[Table],
    grid: Grid,
    like: Panel | None,
) -> list[int]:
    """Refuse times that are not one a step; return where each series begins."""
    same = np.diff(rows.series) == 0
    begins = [0, *(np.flatnonzero(~same) + 1).tolist()]
    ends = [*begins[1:], len(steps)]

    def shown(at: int) -> str:
        time = str(rows.times[at]).replace("T", " ")
        return time.removesuffix(".000000").removesuffix(" 00:00:00")

    for at in np.flatnonzero(steps == NOWHERE)[:1]:
        raise rows.place(at, tables).error(
            f"{shown(at)} is not on the grid of the others, one every {grid.name}; "
            "name the step with frequency, or correct the time."
        )
    for begin, end in zip(begins, ends, strict=True):
        T = steps[end - 1] - steps[begin] + 1
        if not 0 < T <= min(max(100 * (end - begin), 1000), MAX_STEPS):
            raise rows.place(begin, tables).error(
                f"has {end - begin:,} rows on a grid of {T:,} steps, one every {grid.name}: "
                "irregular times; name a longer step with frequency."
            )
    trained = "" if like is None else ", that of the training data"
    for at in np.flatnonzero(same & (np.diff(steps) <= 0))[:1] + 1:
        raise rows.place(at, tables).error(
            f"{shown(at)} is in the same step as the row before, of one every "
            f"{grid.name}{trained}; name a shorter frequency, or keep one row of each step."
        )
    for begin, end in zip(begins, ends, strict=True) if like is not None else ():
        longer = int(np.gcd.reduce(np.diff(steps[begin:end])))
        if end - begin > 3 and longer > 1:
            raise rows.place(begin, tables).error(
                f"has one time every {Grid.find(rows.times[begin:end]).name}, each {longer} steps "
                f"of the training data, which has one every {grid.name}; give such data, or train "
                "on data like these."
            )
    return begins


def _joined(*names: str) -> str:
    return "/".join(name for name in names if name)
