"""Time series: from tables, arrays and data frames onto a regular grid, gaps and all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.calendars import Grid, parse_times
from ostinato.data.corpus import Place
from ostinato.data.rows import IDS, TIMES, Table, as_number, is_missing
from ostinato.errors import DataError, OstinatoError, require

__all__ = ["Panel", "Series", "SeriesSettings", "read_panel"]

MORE_TIMES = TIMES | {"ds", "month", "day", "hour", "week", "quarter", "year", "period", "when"}
MORE_IDS = IDS | {"unique_id", "item", "item_id", "store", "sensor", "name", "key"}
TARGETS = {"target", "value", "values", "y", "sales", "demand", "quantity", "observation"}
_OFFSET = re.compile(r":\d\d[+-]\d\d:?\d\d$")
LONGEST = 50_000_000
"""Steps of a grid from the first time of a series to its last, at most."""


@dataclass(kw_only=True, eq=False, repr=False)
class SeriesSettings:
    """How time series are read.

    Args:
        target: column to forecast; of several, separated by commas, each is a series, and * stands
            for all numbers; guessed where there is one choice.
        time: column of the times; guessed by its name or its dates. Without one, rows are steps.
        id: column that tells series apart; guessed where there is one choice.
        known: columns of what is known ahead, such as prices or holidays, separated by commas.
        observed: columns of what is known up to now only, separated by commas.
        static: columns of what does not change within a series, separated by commas.
        frequency: the step: 15min, h, D, B (business days), W, M, Q, Y, or a number; found from
            the times if not given. Given, times need not lie on a grid: each counts for the step
            that it falls into, and several for their mean.
        season: steps of a season; by the frequency if not given.
        calendar: whether the time of day, week and year are known to the network.
    """

    target: str | None = None
    time: str | None = None
    id: str | None = None
    known: str | None = None
    observed: str | None = None
    static: str | None = None
    frequency: str | None = None
    season: int | None = None
    calendar: bool = True


class Series(NamedTuple):
    """A series on a grid.

    Attributes:
        name: of the series; empty where there is but one.
        start: number of its first value on the grid.
        values: ``(T,)``, NaN where one is missing; neither the first nor the last is.
        known: what is known ahead, ``(T + ahead, K)``.
        observed: what is known up to now, ``(T, O)``.
        static: what does not change: text or numbers, ``(S,)``.
    """

    name: str
    start: int
    values: NDArray[np.float64]
    known: NDArray[np.float64]
    observed: NDArray[np.float64]
    static: tuple[Any, ...] = ()

    def until(self, T: int) -> Series:
        """The first ``T`` values, and what is known ahead of them."""
        return self._replace(values=self.values[:T], observed=self.observed[:T])


@dataclass
class Panel:
    """Series on one grid.

    Args:
        series: them.
        grid: what their steps are.
        target: what is forecast, by its column.
        known: names of what is known ahead.
        observed: names of what is known up to now.
        static: names of what does not change.
        notes: what a reader should know, such as gaps.
    """

    series: list[Series]
    grid: Grid
    target: str = "value"
    known: Sequence[str] = ()
    observed: Sequence[str] = ()
    static: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.series)

    @property
    def longest(self) -> int:
        """Steps of the longest series."""
        return max(len(s.values) for s in self.series)

    def of(self, series: Iterable[Series]) -> Panel:
        """Other series of the same kind."""
        return Panel(list(series), self.grid, self.target, self.known, self.observed, self.static)

    def until(self, left: int) -> Panel:
        """Each series without its last ``left`` values; those that are no longer are left out."""
        cut = (_trimmed(s.until(len(s.values) - left)) for s in self.series if len(s.values) > left)
        return self.of(s for s in cut if s is not None)

    def save(self, path: Path) -> None:
        """Write everything into one ``.npz`` file."""
        arrays: dict[str, Any] = {}
        for part in ("values", "known", "observed"):
            rows = [getattr(s, part) for s in self.series]
            arrays[part] = np.concatenate(rows)
            arrays[f"{part}_lengths"] = np.array([len(row) for row in rows])
        np.savez(path, start=np.array([s.start for s in self.series]), **arrays)

    def to_json(self) -> dict[str, Any]:
        """What `save` leaves out, as JSON."""
        return {
            "grid": self.grid.to_json(),
            "target": self.target,
            "known": list(self.known),
            "observed": list(self.observed),
            "static": list(self.static),
            "series": [[s.name, *s.static] for s in self.series],
        }

    @classmethod
    def load(cls, path: Path | None, data: Mapping[str, Any]) -> Panel:
        """The inverse of `save` and `to_json`; without a path the series are empty."""
        names, nothing = data["series"], np.zeros(0)
        start = [0] * len(names)
        parts: list[Any] = [[nothing] * len(names)] + [
            [np.zeros((0, len(data[part])))] * len(names) for part in ("known", "observed")
        ]
        if path is not None:
            with np.load(path) as stored:
                start = stored["start"].tolist()
                parts = [
                    np.split(stored[part], stored[f"{part}_lengths"].cumsum()[:-1])
                    for part in ("values", "known", "observed")
                ]
        rows = zip(names, start, *parts, strict=True)
        return cls(
            [Series(n[0], s, v, k, o, tuple(n[1:])) for n, s, v, k, o in rows],
            Grid(**data["grid"]),
            data["target"],
            data["known"],
            data["observed"],
            data["static"],
        )


def _trimmed(series: Series) -> Series | None:
    """Without what is missing at both ends; None if nothing is left."""
    there = np.flatnonzero(~np.isnan(series.values))
    if not len(there):
        return None
    first, end = int(there[0]), int(there[-1]) + 1
    return series._replace(
        start=series.start + first,
        values=series.values[first:end],
        known=series.known[first:],
        observed=series.observed[first:end],
    )


def read_panel(X: Any, settings: SeriesSettings, like: Panel | None = None) -> Panel:
    """Series from files, data frames or arrays.

    Args:
        X: a `Panel`; one or several tables as `pathlib.Path` (CSV, TSV, JSON lines, Parquet); a
            data frame of pandas; an array ``(T,)``, or several, in a list or in a dictionary by
            their names.
        settings: how they are read.
        like: what they must go on: the same columns, on the same grid.

    Raises:
        DataError: naming file and line.
    """
    if isinstance(X, Panel):
        return X
    if hasattr(X, "to_frame") and hasattr(X, "index"):
        X = X.to_frame(X.name or "value")  # a series of pandas
    if hasattr(X, "columns") and hasattr(X, "itertuples"):
        return _of_tables([_table_of_frame(X, Path("<data frame>"))], settings, like)
    paths = [X] if isinstance(X, os.PathLike) else X
    if isinstance(paths, list | tuple) and paths and isinstance(paths[0], os.PathLike):
        return _of_tables([_read_table(Path(p), settings) for p in paths], settings, like)
    return _of_arrays(X, settings, like)


def _read_table(path: Path, settings: SeriesSettings) -> Table:
    if path.suffix.lower() in (".parquet", ".pq"):
        pandas = require("pandas", "tables", "reading Parquet")
        require("pyarrow", "tables", "reading Parquet")
        try:
            return _table_of_frame(pandas.read_parquet(path), path)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read as Parquet: {error}", path=path) from error
    named = (settings.target, settings.time, settings.id, settings.known, settings.observed)
    asked = {part.strip().lower() for each in named if each for part in each.split(",")}
    return Table.read(path, asked=asked | MORE_TIMES | MORE_IDS | TARGETS)


def _table_of_frame(frame: Any, path: Path) -> Table:
    """A data frame as a table; an index of times is a column."""
    if frame.index.name is not None or hasattr(frame.index, "year"):
        frame = frame.rename_axis(frame.index.name or "time").reset_index()
    for name in frame.columns:
        frame = _in_local_days(frame, name)
    names = [str(name) for name in frame.columns]
    if frame.empty:
        raise DataError("has no rows.", path=path)
    return Table(path, names, frame.values.tolist(), list(range(1, len(frame) + 1)))


def _in_local_days(frame: Any, name: Any) -> Any:
    """Where all times of a column are midnights somewhere, the days; by UTC they would shift."""
    if getattr(frame[name].dtype, "tz", None) is None:
        return frame
    there = frame[name].dt.tz_localize(None)
    return frame.assign(**{name: there}) if (there == there.dt.normalize()).all() else frame


class _Columns(NamedTuple):
    """Which column of a table is what."""

    time: int | None
    id: int | None
    targets: list[int]
    known: list[int]
    observed: list[int]
    static: list[int]


def _named(table: Table, names: str | None, what: str) -> list[int]:
    if not names:
        return []
    return [table.column(name.strip(), what) for name in names.split(",") if name.strip()]


def _columns(table: Table, settings: SeriesSettings, like: Panel | None) -> _Columns:
    """What each column is, as it was said or as it can be guessed."""
    known = _named(table, settings.known, "what is known ahead")
    observed = _named(table, settings.observed, "what is known up to now")
    static = _named(table, settings.static, "what does not change")
    target = settings.target
    if target is None and like is not None and like.target in table.names:
        target = like.target
    asked = [] if target == "*" else _named(table, target, "the target")
    free = [i for i in range(len(table.names)) if i not in {*known, *observed, *static, *asked}]
    (time,) = _named(table, settings.time, "the times") or (_time_column(table, free),)
    free = [i for i in free if i != time]
    (key,) = _named(table, settings.id, "the ids") or (_id_column(table, free),)
    free = [i for i in free if i != key]
    if not asked:
        numbers = [i for i in free if table.is_numeric(i)]
        named = table.called(TARGETS, numbers)
        asked = numbers if target == "*" or len(numbers) == 1 else named
        if like is not None and len(asked) != 1 and target != "*":
            raise DataError(
                f"has no column {like.target!r}, which the model forecasts; {table.columns()}.",
                path=table.path,
            )
        if not asked or (len(asked) > 1 and target != "*"):
            raise DataError(
                "which column is to be forecast is not clear; name it with target, or * for all "
                f"that hold numbers, each a series: {table.columns()}.",
                path=table.path,
            )
    return _Columns(time, key, asked, known, observed, static)


def _time_column(table: Table, among: Sequence[int]) -> int | None:
    """The column called so that holds times, or the first whose cells are all dates."""
    called = table.called(MORE_TIMES, among)
    for column in called + [i for i in among if not table.is_numeric(i)]:
        some = [cell for cell in table.cells(column)[:50] if not is_missing(cell)]
        dates = int((~np.isnat(parse_times(some))).sum())
        if some and (dates > 0.9 * len(some) or (table.is_numeric(column) and table.named)):
            return column
    # What is called a time and cannot be read as one is a mistake, not to be passed over.
    return called[0] if len(called) == 1 and not table.is_numeric(called[0]) else None


def _id_column(table: Table, among: Sequence[int]) -> int | None:
    """The column called so whose values repeat, or the only one of words that repeat."""

    def repeats(column: int) -> bool:
        return len({str(cell) for cell in table.cells(column)}) < len(table.rows)

    named = [i for i in table.called(MORE_IDS, among) if repeats(i)]
    words = [i for i in among if not table.is_numeric(i) and repeats(i)]
    return named[0] if len(named) == 1 else words[0] if len(words) == 1 and not named else None


def _of_tables(tables: Sequence[Table], settings: SeriesSettings, like: Panel | None) -> Panel:
    """Series of some tables; a table without ids is a series by the name of its file."""
    raw: list[_Raw] = []
    names: tuple[list[str], ...] = ([], [], [], [])
    offsets = False
    for table in tables:
        columns = _columns(table, settings, like)
        parts = (columns.targets, columns.known, columns.observed, columns.static)
        here = tuple([table.names[i] for i in part] for part in parts)
        if names[0] and here != names:
            raise DataError(f"has other columns than {tables[0].path}.", path=table.path)
        names = here
        label = table.path.stem if len(tables) > 1 else ""
        if columns.time is not None:
            offsets |= bool(_OFFSET.search(str(table.rows[0][columns.time])))
        raw += _series_of(table, columns, label)
    targets, known, observed, static = names
    if like is not None and [known, observed, static] != [
        list(like.known), list(like.observed), list(like.static)
    ]:  # fmt: skip
        raise DataError(
            "has other covariates than the model was trained on: known "
            f"{', '.join(like.known) or 'none'}; observed {', '.join(like.observed) or 'none'}; "
            f"static {', '.join(like.static) or 'none'}.",
            path=tables[0].path,
        )
    panel = _on_grid(raw, settings, like, tables[0].path)
    panel.target = targets[0] if len(targets) == 1 else "value"
    panel.known, panel.observed, panel.static = known, observed, static
    if offsets:
        panel.notes.append("times are shown in UTC, since they have offsets")
    return panel


class _Raw(NamedTuple):
    """A series before it lies on a grid: rows in the order of their times."""

    name: str
    times: Any
    values: NDArray[np.float64]
    known: NDArray[np.float64]
    observed: NDArray[np.float64]
    static: tuple[Any, ...]
    places: Sequence[Place]


def _series_of(table: Table, columns: _Columns, label: str) -> Iterator[_Raw]:
    groups: dict[str, list[int]] = {}
    for row in range(len(table.rows)):
        key = "" if columns.id is None else table.text(row, columns.id).strip()
        groups.setdefault(key, []).append(row)
    times = _times(table, columns.time)
    values = table.numbers(columns.targets, missing=True)
    known = table.numbers(columns.known, missing=True)
    observed = table.numbers(columns.observed, missing=True)
    for key, rows in groups.items():
        places = [table.place(row) for row in rows]
        if times is None:
            stamps: Any = np.arange(len(rows))
        else:
            stamps = times[rows]
            _refuse_disorder(table, columns, stamps, places, rows)
        static = tuple(_constant(table, column, rows) for column in columns.static)
        for k, column in enumerate(columns.targets):
            several = [table.names[column]] if len(columns.targets) > 1 else []
            name = "/".join(part for part in [label, key, *several] if part)
            yield _Raw(name, stamps, values[rows, k], known[rows], observed[rows], static, places)


def _times(table: Table, column: int | None) -> Any:
    """Times of all rows: dates, or whole numbers; None where rows are steps."""
    if column is None:
        return None
    cells = table.cells(column)
    some = [as_number(cell) for cell in cells[:100]]
    if all(n is not None and 1e8 <= n < 1e10 for n in some):  # seconds since 1970
        return table.numbers([column])[:, 0].astype("datetime64[s]")
    if all(n is not None and abs(n) < 10_000_000 for n in some):  # 20200131 is a date
        numbers = table.numbers([column])[:, 0]
        odd = np.flatnonzero(numbers != np.round(numbers))
        if len(odd):
            raise table.place(int(odd[0])).error(
                f"{table.names[column]!r} is {cells[odd[0]]!r:.40}; expected a whole number, or a "
                "date."
            )
        return numbers.astype(np.int64)
    stamps = parse_times(cells)
    odd = np.flatnonzero(np.isnat(stamps))
    if len(odd):
        raise table.place(int(odd[0])).error(
            f"{table.names[column]!r} is {cells[odd[0]]!r:.40}, no time; expected a date, as in "
            "2024-01-31 or 2024-01-31 12:00, or a whole number."
        )
    return stamps


def _refuse_disorder(
    table: Table, columns: _Columns, stamps: Any, places: Sequence[Place], rows: Sequence[int]
) -> None:
    """Raise a `DataError` at the first time that is not after the one before."""
    back = np.flatnonzero(stamps[1:] <= stamps[:-1])
    if not len(back):
        return
    at = int(back[0]) + 1
    assert columns.time is not None
    now, before = (table.rows[rows[i]][columns.time] for i in (at, at - 1))
    if stamps[at] == stamps[at - 1]:
        more = "" if columns.id is not None else "; if there are several series, name their id"
        raise places[at].error(f"has the time of line {places[at - 1].line} again: {now}{more}.")
    raise places[at].error(
        f"goes back in time: {now} after {before}; sort the rows"
        + ("." if columns.id is not None else ", or name the id of the series.")
    )


def _constant(table: Table, column: int, rows: Sequence[int]) -> Any:
    first = table.text(rows[0], column)
    for row in rows:
        if table.text(row, column) != first:
            raise table.place(row).error(
                f"{table.names[column]!r} is {table.text(row, column)!r:.40}, and was "
                f"{first!r:.40}; what is static does not change within a series."
            )
    number = as_number(first)
    return first if number is None else number


def _of_arrays(X: Any, settings: SeriesSettings, like: Panel | None) -> Panel:
    """Series in memory, a value a step."""
    if isinstance(X, str) or not hasattr(X, "__len__"):
        raise OstinatoError(
            f"X is {X!r:.60}; expected series: a pathlib.Path of a table, a data frame, an array "
            "(T,), or several. (How many steps ahead is said by name: horizon=12.)"
        )
    if isinstance(X, Mapping):
        named = {str(name): values for name, values in X.items()}
    else:
        one = not any(np.ndim(each) for each in X)
        named = {"": X} if one else {str(i): values for i, values in enumerate(X)}
    raw = []
    for name, given in named.items():
        place = Place(f"X[{name!r}]" if isinstance(X, Mapping) else f"X[{name}]" if name else "X")
        try:
            values = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.zeros((0, 0))
        if values.ndim != 1 or not len(values):
            raise place.error(f"is {given!r:.60}; expected numbers (T,), NaN where one is missing.")
        if np.isinf(values).any():
            at = int(np.flatnonzero(np.isinf(values))[0])
            raise place.error(
                f"is {values[at]} at {at}; expected numbers, NaN where one is missing."
            )
        nothing = np.zeros((len(values), 0))
        places = [place] * len(values)
        raw.append(_Raw(name, np.arange(len(values)), values, nothing, nothing, (), places))
    if not raw:
        raise OstinatoError("X holds no series.")
    return _on_grid(raw, settings, like, Path("X"))


def _one_a_step(raw: _Raw, numbers: NDArray[np.int64]) -> tuple[_Raw, NDArray[np.int64]]:
    """A series with the mean of the rows that fall into each step, and these steps."""
    there, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    if len(there) == len(numbers):
        return raw, numbers

    def means(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        flat = rows.reshape(len(rows), -1)
        seen = ~np.isnan(flat)
        found = np.zeros((2, len(there), flat.shape[1]))
        np.add.at(found[0], which, np.where(seen, flat, 0.0))
        np.add.at(found[1], which, seen)
        with np.errstate(invalid="ignore"):
            return np.asarray(found[0] / found[1]).reshape(len(there), *rows.shape[1:])

    alone = raw._replace(
        times=raw.times[first],
        values=means(raw.values),
        known=means(raw.known),
        observed=means(raw.observed),
        places=[raw.places[row] for row in first],
    )
    return alone, there


def _on_grid(
    raw: Sequence[_Raw], settings: SeriesSettings, like: Panel | None, path: Path
) -> Panel:
    """Series on the grid of their times, or of ``like``."""
    stamps = np.concatenate([r.times for r in raw])
    if like is not None:
        grid = like.grid
        if np.issubdtype(stamps.dtype, np.datetime64) == (grid.unit == "step"):
            raise DataError(f"has other times than the model was trained on: every {grid.name}.")
    elif settings.frequency is not None:
        grid = Grid.named(settings.frequency, stamps)
    else:
        of = np.repeat(np.arange(len(raw)), [len(r.times) for r in raw])
        grid = Grid.found(stamps, of)
    series, gaps, steps, shared = [], 0, 0, 0
    suspect: list[str] = []
    for each in raw:
        if settings.frequency is not None:
            rows = len(each.times)
            each, numbers = _one_a_step(each, grid.nearest(each.times))
            shared += rows - len(numbers)
        elif like is not None and grid.unit == "month":  # its first day and its last are the same
            numbers = grid.nearest(each.times)
        else:
            numbers = grid.numbers(each.times)
        _refuse_irregular(each, numbers, grid)
        wide = int(np.argmax(np.diff(numbers, prepend=numbers[0])))
        if 2 * (numbers[wide] - numbers[wide - 1]) > numbers[-1] - numbers[0] > 20:
            suspect.append(str(each.places[wide]))
        found = _trimmed(_spread_out(each, numbers))
        if found is None:
            raise each.places[0].error("has no value of the target in the whole series.")
        gaps += int(np.isnan(found.values).sum())
        steps += len(found.values)
        series.append(found)
    if len({s.name for s in series}) < len(series):
        raise DataError("names two series alike.", path=path)
    notes = [f"{gaps:,} of {steps:,} values are missing"] if gaps else []
    if suspect:
        more = f", and in {len(suspect) - 1:,} more series" if len(suspect) > 1 else ""
        notes.append(f"most steps are missing before {suspect[0]}{more}: is that time right?")
    if shared:
        notes.append(f"{shared:,} rows are in one step with the row before; the mean counts")
    return Panel(series, grid, notes=notes)


def _refuse_irregular(raw: _Raw, numbers: NDArray[np.int64], grid: Grid) -> None:
    """Raise a `DataError` at the first time that is no step of its own."""
    off = np.flatnonzero(numbers < -(2**61))
    if len(off):
        at = int(off[0])
        raise raw.places[at].error(
            f"{raw.times[at]} is not on the grid of the others, one every {grid.name}; name "
            "the step with frequency, or mend the time."
        )
    T = int(numbers[-1] - numbers[0]) + 1
    if max(100 * len(numbers), 1000) < T or T > LONGEST:
        raise raw.places[0].error(
            f"has {len(numbers):,} rows on a grid of {T:,} steps, one every {grid.name}: "
            "irregular times; name a longer step with frequency."
        )
    repeated = np.flatnonzero(np.diff(numbers) <= 0)
    if len(repeated):
        at = int(repeated[0]) + 1
        raise raw.places[at].error(
            f"{raw.times[at]} is in the same step as the row before, of one every "
            f"{grid.name}; name a shorter frequency, or keep one row of each step."
        )


def _spread_out(raw: _Raw, numbers: NDArray[np.int64]) -> Series:
    """A series with a row for every step, NaN where there is none."""

    def full(part: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = np.full((int(numbers[-1] - numbers[0]) + 1, *part.shape[1:]), np.nan)
        rows[numbers - numbers[0]] = part
        return rows

    start = int(numbers[0])
    values, known, observed = full(raw.values), full(raw.known), full(raw.observed)
    return Series(raw.name, start, values, known, observed, raw.static)
