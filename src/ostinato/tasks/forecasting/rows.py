"""Rows of tables that hold steps of series, and how they are put on a regular grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ostinato.data.lazy import pd
from ostinato.data.places import Place
from ostinato.tasks.forecasting.grid import NOWHERE, Grid, Times
from ostinato.tasks.forecasting.panel import Columns, Panel, Series, Static

Array = NDArray[np.float64]

MAX_STEPS = 50_000_000
"""Steps of a grid from the first time of a series to its last, at most."""


class Rows(NamedTuple):
    """Rows of series, and in which row of which table each was read."""

    series: NDArray[np.int64]
    times: Times
    cells: Array  # (N, 1 + F + P): value, future and past covariates
    row: NDArray[np.integer]
    table: NDArray[np.integer]

    def take(self, some: NDArray[np.intp]) -> Rows:
        """Return some rows, by their numbers."""
        return Rows(*cast(Any, [part[some] for part in self]))

    def in_order(self) -> Rows:
        """Return the rows by series, and those of each by time."""
        order = np.lexsort((self.times, self.series))
        return self.take(order) if (np.diff(order) < 0).any() else self

    def place(self, at: int, tables: Sequence[Places]) -> Place:
        """Where a row was read."""
        return tables[int(self.table[at])].place(int(self.row[at]))


NamedSeries = tuple[str, tuple[Static, ...]]
"""The name of a series, and its static covariates."""


class Read(Protocol):
    """What is known of the tables that rows are of; see `reading.Reading`."""

    @property
    def frequency(self) -> str | None:
        """The step, as set."""

    @property
    def like(self) -> Panel | None:
        """The panel of a trained model."""

    @property
    def columns(self) -> Columns:
        """Which columns are what."""

    @property
    def categories(self) -> Mapping[str, Sequence[str]]:
        """Of each covariate that is text."""

    @property
    def notes(self) -> Iterable[str]:
        """What the user should know."""

    @property
    def series(self) -> Sequence[NamedSeries]:
        """By the numbers that rows have."""


class Places(Protocol):
    """Knows where rows were read, as a `Table` does."""

    def place(self, row: int) -> Place:
        """Return where a row was read."""


def on_grid(rows: Rows, reading: Read, tables: Sequence[Places], grid: Grid | None = None) -> Panel:
    """Put the series of rows that are in order on a grid: the one given, or that of their times."""
    frequency, like, columns = reading.frequency, reading.like, reading.columns
    categories, notes = reading.categories, list(reading.notes)
    _check_times(rows, tables, columns, notes)
    if like is not None:
        grid = like.grid
        if (rows.times.dtype.kind == "M") == (grid.unit == "step"):
            message = f"has other times than the training data, one every {grid.name}."
            raise rows.place(0, tables).error(message)
    elif grid is None and frequency is not None:
        grid = Grid.named(frequency, rows.times)
    elif grid is None:
        grid = Grid.find(rows.times, rows.series)
    # The first day of a month and its last are the same to a trained model.
    nearest = frequency is not None or (like is not None and grid.unit == "month")
    steps = grid.nearest(rows.times) if nearest else grid.numbers(rows.times)
    new = (np.diff(rows.series, prepend=-1) != 0) | (np.diff(steps, prepend=NOWHERE) != 0)
    shared = int((~new).sum()) if frequency is not None else 0
    if shared:
        cells = pd.DataFrame(rows.cells).groupby([rows.series, steps]).mean().to_numpy()
        rows, steps = rows.take(np.flatnonzero(new))._replace(cells=cells), steps[new]
    begins = _check_steps(rows, steps, tables, grid, like)
    series: list[Series] = []
    suspect: list[int] = []
    F = sum(len(categories.get(name, "1")) for name in columns.future_covariates)
    ends = [*begins[1:], len(steps)]
    for begin, end in zip(begins, ends, strict=True):
        name, static = reading.series[int(rows.series[begin])]
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
        series.append(found._replace(negative=found.first_negative()))
    notes += gaps(series)
    if suspect:
        more = f", and in {len(suspect) - 1:,} more series" if len(suspect) > 1 else ""
        first = rows.place(suspect[0], tables)
        notes.append(f"most steps are missing before {first}{more}: is that time right?")
    if shared:
        notes.append(f"{shared:,} rows are in one step with the row before; the mean counts")
    return Panel(series, grid, columns, categories, notes)


def gaps(series: Sequence[Series]) -> list[str]:
    """Return a note on missing values."""
    gaps = sum(int(np.isnan(s.values).sum()) for s in series)
    every = sum(len(s.values) for s in series)
    return [f"{gaps:,} of {every:,} values are missing"] if gaps else []


def _shown_time(time: Any) -> str:
    return str(time).replace("T", " ").removesuffix(".000000").removesuffix(" 00:00:00")


def _check_times(rows: Rows, tables: Sequence[Places], columns: Columns, notes: list[str]) -> None:
    """Refuse a time that a series has twice; note rows that were out of order."""
    same = np.diff(rows.series) == 0
    for at in np.flatnonzero(same & (rows.times[1:] == rows.times[:-1]))[:1].tolist():
        before, more = rows.place(at, tables), ""
        where = f"line {before.line}"
        if rows.table[at] != rows.table[at + 1]:
            where = f"{where} of {before.path}"
        if not columns.id:
            more = "; if there are several series, name their id"
        raise rows.place(at + 1, tables).error(
            f"has the time of {where} again: {_shown_time(rows.times[at])}{more}."
        )
    back = ((np.diff(rows.row) < 0) & (np.diff(rows.table) == 0))[same]
    if back.any():
        how = "the newest came first" if back.all() else "they were in no order"
        notes.append(f"rows were sorted by time: {how}")


def _check_steps(
    rows: Rows,
    steps: NDArray[np.int64],
    tables: Sequence[Places],
    grid: Grid,
    like: Panel | None,
) -> list[int]:
    """Refuse times that are not one a step; return where each series begins."""
    same = np.diff(rows.series) == 0
    begins = [0, *(np.flatnonzero(~same) + 1).tolist()]
    ends = [*begins[1:], len(steps)]

    for at in np.flatnonzero(steps == NOWHERE)[:1]:
        raise rows.place(at, tables).error(
            f"{_shown_time(rows.times[at])} is not on the grid of the others, one every "
            f"{grid.name}; name the step with frequency, or correct the time."
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
            f"{_shown_time(rows.times[at])} is in the same step as the row before, of one every "
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
