"""Time series from files, data frames and arrays, onto one grid."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ostinato.data.formats import read_table
from ostinato.data.places import Place
from ostinato.data.tables import Table, is_frame, table_of
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting.columns import (
    Columns,
    Resolved,
    SeriesSettings,
    resolve,
    usual_names,
)
from ostinato.tasks.forecasting.grid import NOWHERE, Grid, Times
from ostinato.tasks.forecasting.panel import Panel, Series, Static

__all__ = ["read_panel"]

Array = NDArray[np.float64]

MAX_STEPS = 50_000_000
"""Steps of a grid from the first time of a series to its last, at most."""

MAX_CATEGORIES = 200
"""Categories of a past or future covariate, at most."""


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
        found = resolve(table, settings, None if like is None else like.columns)
        columns, path = first = first or (found.columns, table.path)
        if found.columns != columns:
            raise DataError(f"has other columns than {path}.", path=table.path)
        if like is not None and columns[3:] != like.columns[3:]:
            raise DataError(
                "has other covariates than the training data; "
                f"expected {like.columns}, got {columns}.",
                path=path,
            )
        rows += _rows_of(table, found, name, categories, notes)
    if first is None:
        raise OstinatoError("X holds no series.")
    return _on_grid(rows, settings, like, first[0], categories, list(notes))


def _tables(X: Any, settings: SeriesSettings) -> Iterator[tuple[str, Table]]:
    """Tables, and the names of their series."""
    if is_frame(X):
        yield "", table_of(X)
        return
    paths = [X] if isinstance(X, os.PathLike) else X
    if isinstance(paths, list | tuple) and paths and isinstance(paths[0], os.PathLike):
        for path in map(Path, paths):
            table = read_table(path, settings, usual_names(settings))
            yield path.stem if len(paths) > 1 else "", table
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
    resolved: Resolved,
    label: str,
    categories: dict[str, Sequence[str]],
    notes: dict[str, None],
) -> Iterator[_Rows]:
    """Series of a table, sorted by time."""
    columns, times, utc = resolved
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
    if utc:
        notes["times are in UTC, since they have offsets"] = None
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
    encoded = encoded.reshape(len(cells), len(known))[codes]
    encoded[table.is_missing(column)] = np.nan
    return encoded


def _static(table: Table, column: int, ids: NDArray[np.int64]) -> Sequence[Static]:
    """A static covariate, of each row; a `DataError` where it changes within a series."""
    name, codes = table.names[column], table.codes(column).codes
    _, first, which = np.unique(ids, return_index=True, return_inverse=True)
    other = codes != codes[first][which]
    if other.any():
        row = int(other.argmax())
        raise table.place(row).error(
            f"{name!r} is {table.text(row, column)!r:.40}, and was "
            f"{table.text(int(first[which[row]]), column)!r:.40}; a static covariate does not "
            "change within a series."
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
