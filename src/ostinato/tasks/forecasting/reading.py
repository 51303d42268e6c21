"""Time series from files, data frames and arrays: which column is what, then onto one grid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ostinato.data.chunks import walk
from ostinato.data.columns import IDS, TIMES, names_rows
from ostinato.data.dates import join_parts, parse_times
from ostinato.data.formats import is_table, read_table, suffixes
from ostinato.data.lazy import pd
from ostinato.data.places import paths_of
from ostinato.data.tables import Table, TableSettings, is_frame, is_missing, table_of
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting.grid import Grid, Times
from ostinato.tasks.forecasting.panel import Columns, Panel, Series, Static
from ostinato.tasks.forecasting.rows import MAX_STEPS, NamedSeries, Rows, gaps, on_grid

Array = NDArray[np.float64]

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
        parts: whether several tables are parts of one, and a series goes on from one to the next;
            otherwise each table has series of its own.
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
    parts: bool | None = None

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
    labelled = list(_tables(X, settings))
    if not labelled:
        raise OstinatoError("X holds no series.")
    tables = [table for _, table in labelled]
    reading = Reading(settings, like, tables)
    parts = [reading.rows(table, label, k) for k, (label, table) in enumerate(labelled)]
    rows = Rows(*map(np.concatenate, zip(*parts, strict=True))) if len(parts) > 1 else parts[0]
    return on_grid(rows.in_order(), reading, tables)


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
        series.append(found._replace(negative=found.first_negative()))
    return Panel(series, grid, columns, {}, gaps(series))


def _tables(X: Any, settings: SeriesSettings) -> Iterator[tuple[str, Table]]:
    """Tables, and the names of their series."""
    if is_frame(X):
        yield "", table_of(X)
        return
    if paths := paths_of(X):
        for label, path in tables_in(paths):
            yield label, read_table(path, settings, names_of_header(settings))
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


def tables_in(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return tables, those in folders too, and what the series of each are called, if several."""
    found: list[tuple[str, Path]] = []
    for path in paths:
        if not path.is_dir():
            found.append((path.stem, path))
            continue
        inside = [file for file in walk([path]) if is_table(file)]
        if not inside:
            raise DataError(f"holds no tables ({suffixes()}).", path=path)
        found += [(str(file.relative_to(path).with_suffix("")), file) for file in inside]
    return [("", found[0][1])] if len(found) == 1 else found


def names_of_header(settings: SeriesSettings) -> set[str]:
    """Return names of columns that tell the header of a table."""
    names = {name for setting in SETTINGS for name in settings.named(setting)}
    return names | TIME_NAMES | PART_NAMES | ID_NAMES | TARGET_NAMES


class Reading:
    """Tables as they are read one after the other, all with the same columns.

    Args:
        settings: how they are read.
        like: the panel of a trained model.
        tables: all of them, whose categories are known before the first is read.
        whole: whether each is read as a whole, and not by chunks.

    Attributes:
        columns: which of them are what.
        known: columns that are looked for first.
        categories: of each covariate that is text.
        notes: what the user should know.
        series: the series so far.
    """

    def __init__(
        self,
        settings: SeriesSettings,
        like: Panel | None,
        tables: Iterable[Table],
        whole: bool = True,
    ) -> None:
        self.settings = settings
        self.whole = whole
        self.like = like
        self.columns = Columns()
        self.known = None if like is None else like.columns
        self.categories: dict[str, Sequence[str]] = (
            _categories(tables, settings) if like is None else dict(like.categories)
        )
        self.notes: dict[str, None] = {}
        self.series: list[NamedSeries] = []
        self.in_rows = False
        self._first: Path | None = None
        self._numbers: dict[str, int] = {}
        self._tables: dict[str, int] = {}
        self._ids: dict[str, int] = {}
        self._counts = np.zeros(0, np.int64)

    @property
    def frequency(self) -> str | None:
        """The step, as set."""
        return self.settings.frequency

    def rows(self, table: Table, label: str, number: int) -> Rows:
        """Read a table, or a part of one, by the name and the number of the table."""
        names = _names_of_rows(table, self.settings)
        self.in_rows = names is not None
        if names is not None:
            found, rows, named = _series_in_rows(table, names, self.notes)
        else:
            found, rows, named = _series_in_columns(
                table, self.settings, self.known, self.categories, self.notes, self.whole
            )
        if self._first is None:
            self.columns, self._first = found, table.path
        if found != self.columns:
            raise DataError(f"has other columns than {self._first}.", path=table.path)
        if self.like is not None and found[3:] != self.like.columns[3:]:
            raise DataError(
                "has other covariates than the training data; "
                f"expected {self.like.columns}, got {found}.",
                path=table.path,
            )
        numbers = np.array([self._number(each, label, number, table) for each in named], np.int64)
        if len(np.unique(numbers)) < len(numbers):
            twice = Counter(numbers.tolist()).most_common(1)[0][0]
            raise DataError(f"names two series {self.series[twice][0]!r}.", path=table.path)
        rows.table.fill(number)
        rows = rows._replace(series=numbers[rows.series])
        if found.time or self.in_rows:
            return rows
        before = np.zeros(len(self.series), np.int64)  # rows are steps, and go on
        before[: len(self._counts)] = self._counts
        self._counts = before + np.bincount(rows.series, minlength=len(before))
        return rows._replace(times=rows.times + before[rows.series])

    def _number(self, named: NamedSeries, label: str, number: int, table: Table) -> int:
        """Return the number of a series, which may have been read before."""
        (name, static), parts = named, self.settings.parts
        full = name if parts else _joined(label, name)
        if self.columns.id and parts is None and self._ids.setdefault(name, number) != number:
            raise DataError(
                f"has the series {name!r}, as a table before: say with parts (--parts or "
                "--no-parts) whether the tables are parts of one, or each has series of its own.",
                path=table.path,
            )
        found = self._numbers.setdefault(full, len(self.series))
        if found == len(self.series):
            self.series.append((full, static))
        elif self._tables[full] != number and not parts:
            raise DataError(f"names two series {full!r}.", path=table.path)
        elif self.series[found][1] != static:
            raise DataError(
                f"series {full!r} has {_shown(static)}, and had {_shown(self.series[found][1])} "
                "before; a static covariate does not change within a series.",
                path=table.path,
            )
        self._tables[full] = number
        return found


def _shown(static: tuple[Static, ...]) -> str:
    return ", ".join(map(str, static))


def _categories(tables: Iterable[Table], settings: SeriesSettings) -> dict[str, Sequence[str]]:
    """Return the categories of covariates that the first table holds as text."""
    names = [*settings.named("future_covariates"), *settings.named("past_covariates")]
    found: dict[str, set[str]] = {}
    for k, table in enumerate(tables if names else ()):
        for column in [i for i in map(table.find, names) if i is not None]:
            name = table.names[column]
            if k == 0 and not (table.is_numeric(column) or table.is_boolean(column)):
                found[name] = set()
            if name in found and len(found[name]) <= MAX_CATEGORIES:
                found[name] |= {cell.strip() for cell in table.codes(column).cells} - {""}
    return {name: sorted(cells) for name, cells in found.items()}


# Which column is what


def _columns(
    table: Table,
    settings: SeriesSettings,
    like: Columns | None,
    notes: dict[str, None],
    whole: bool,
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
    times = times_of(table, found["time"], settings.day_first, notes)
    found["id"] = found["id"][:1] or _find_id(table, free(), times, whole)
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


def times_of(
    table: Table, columns: Sequence[int], day_first: bool | None, notes: dict[str, None]
) -> Times | None:
    """Return the times of all rows, which columns hold the parts of; None without such columns."""
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


def _find_id(table: Table, free: Sequence[int], times: Times | None, whole: bool) -> list[int]:
    """The column of names of series: where times repeat, the one within which they do not.

    Of a table that is not ``whole`` each series may have but one row so far.
    """
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
        return (len(cells) < N or not whole) and not again.any()

    for some in (called, words):
        found = [i for i in some if splits(i)]
        if len({len(table.codes(i).cells) for i in found}) > 1 or (len(found) > 1 and not whole):
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
        raise table.error(f"has no column {like.target[0]!r}, which is forecast")
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
) -> tuple[Columns, Rows, list[NamedSeries]]:
    """As `_series_in_columns`, of a table with a series in each row."""
    steps = [i for i in range(len(table.names)) if i != names]
    shown = f"{table.names[steps[0]]} to {table.names[steps[-1]]}"
    notes[f"each row is a series, and its steps are the columns {shown}"] = None
    values = table.numbers(steps, missing=True)
    row, time = np.indices(values.shape).reshape(2, -1)
    rows = Rows(row, time, values.reshape(-1, 1), row, np.zeros_like(row))
    named: list[NamedSeries] = [(name.strip(), ()) for name in table.texts(names)]
    return Columns(id=(table.names[names],)), rows, named


def _series_in_columns(
    table: Table,
    settings: SeriesSettings,
    known: Columns | None,
    categories: Mapping[str, Sequence[str]],
    notes: dict[str, None],
    whole: bool,
) -> tuple[Columns, Rows, list[NamedSeries]]:
    """Return columns; for each row its series, time, value and covariates; and the series."""
    columns, times = _columns(table, settings, known, notes, whole)
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
    rows = Rows(
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


def _covariate(table: Table, column: int, categories: Mapping[str, Sequence[str]]) -> Array:
    """A covariate ``(N, 1)``; of text ``(N, categories)``, 0 everywhere for an unknown one."""
    name = table.names[column]
    if name not in categories:
        return table.numbers([column], missing=True)
    if len(known := categories[name]) > MAX_CATEGORIES:
        raise DataError(
            f"{name!r} has {len(known):,} categories; expected numbers, or {MAX_CATEGORIES} "
            "categories at most.",
            path=table.path,
        )
    codes, cells = table.codes(column)
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


def _joined(*names: str) -> str:
    return "/".join(name for name in names if name)
