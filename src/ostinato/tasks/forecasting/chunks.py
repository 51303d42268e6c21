"""Series from tables larger than memory: read by chunks, sorted by series, written in shards.

Rows of a series may lie anywhere, as in a table that is sorted by time. What was read goes into
files of many series each, no larger than fits into memory, and these onto the grid one after the
other::

    WORK/0.rows ...     rows as they were read, a chunk each
    WORK/0.bucket ...   the same rows by series, those of neighbouring series in one file
    WORK/0.panel ...    series on the grid, and what a reader should know of them
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.formats import table_chunks
from ostinato.data.places import Place
from ostinato.data.shards import Work
from ostinato.data.tables import Table
from ostinato.data.textfiles import library_errors
from ostinato.errors import DataError
from ostinato.files import atomic_file, check_there
from ostinato.tasks.forecasting.grid import Grid
from ostinato.tasks.forecasting.panel import Panel, Series
from ostinato.tasks.forecasting.reading import (
    Reading,
    SeriesSettings,
    names_of_header,
    tables_in,
    times_of,
)
from ostinato.tasks.forecasting.rows import Rows, gaps, on_grid
from ostinato.tasks.forecasting.stored import PARTS, load_panel, save_shards, save_steps

BUCKET_ROWS = 1 << 19
"""Rows of a bucket, or those of one series if they are more."""


class _Lines(NamedTuple):
    """A table whose rows are known by their lines."""

    path: Path

    def place(self, line: int) -> Place:
        """Return where a line is."""
        return Place(str(self.path), line)


def write_panel(paths: Sequence[Path], settings: SeriesSettings, folder: Path, work: Work) -> Panel:
    """Read tables, or folders of them, and write their series into a folder; see `stored`.

    Which column is what, the grid and a date's order of day and month are found in the first chunk
    or bucket. What was done by a call that was killed is not done again. Errors are those of
    `read_panel`.
    """
    check_there(paths)
    tables = tables_in(paths)
    reading, counts, dated = _read(tables, settings, work)
    ends = _buckets(counts)
    width = 1 + sum(_widths(reading))
    if work.known("sorted") is None:
        _sort(work, ends, width)
    places = [_Lines(path) for _, path in tables]
    grid, notes, steps = None, dict.fromkeys(reading.notes), []
    for k, end in enumerate(ends):
        path = work.folder / f"{k}.panel"
        if not path.exists():
            rows = _rows_of(work.folder / f"{k}.bucket", width, dated).in_order()
            _save(path, on_grid(rows, reading, places, grid))
            (work.folder / f"{k}.bucket").unlink()
        found = _load(path)
        grid = Grid(**found.document["grid"])
        notes |= dict.fromkeys(found.document["notes"])
        steps.append(np.stack([found.arrays["start"], found.arrays["negative"]], 1))
        work.tell("ordering", end, ends[-1])
    assert grid is not None, "there are series"
    load = lru_cache(1)(lambda k: _load(work.folder / f"{k}.panel"))

    def series(done: int) -> Iterator[Series]:
        for k, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if done < end:
                yield from load(k).series(max(0, done - begin))

    save_shards(series, len(counts), folder, work)
    save_steps(np.concatenate(steps), folder)
    panel = load_panel(
        folder,
        {
            "grid": asdict(grid),
            "columns": reading.columns._asdict(),
            "categories": reading.categories,
            "covariates": _widths(reading),
            "series": [[name, *static] for name, static in reading.series],
        },
    )
    some = [f"steps are {grid.adverb}, as those of the first {ends[0]:,} series"]
    panel.notes = [*notes, *some * (len(ends) > 1), *gaps(panel.series)]
    return panel


def _widths(reading: Reading) -> list[int]:
    """Return the columns of numbers that future covariates make, and past ones."""
    both = reading.columns.future_covariates, reading.columns.past_covariates
    return [sum(len(reading.categories.get(name, "1")) for name in names) for names in both]


# Chunks


def _read(
    tables: Sequence[tuple[str, Path]], settings: SeriesSettings, work: Work
) -> tuple[Reading, list[int], bool]:
    """Write rows of all chunks; return what they are, rows of each series, and whether dated."""
    names = names_of_header(settings)

    def chunks() -> Iterator[tuple[int, str, Table]]:
        for number, (label, path) in enumerate(tables):
            for table in table_chunks(path, settings, names):
                yield number, label, table

    known = work.known("rows")
    every = () if known else (table for _, _, table in chunks())
    reading = Reading(settings, None, every, whole=False)
    if known is None:
        done, first = 0, None
        counts = np.zeros(0, np.int64)
        for k, (number, label, table) in enumerate(chunks()):
            rows = reading.rows(table, label, number)
            dated = rows.times.dtype.kind == "M"
            if first is None:
                first = dated
                reading.known = reading.columns
                reading.settings = _as_read(table, reading, rows)
            if dated != first:
                raise DataError("has other times than the rows before.", path=table.path)
            _save_rows(work.folder / f"{k}.rows", rows, table)
            new = np.bincount(rows.series, minlength=len(reading.series))
            new[: len(counts)] += counts
            counts, done = new, done + len(rows.series)
            work.tell("reading", done, None)
        assert first is not None, "a table has rows"
        found = {
            "columns": reading.columns,
            "categories": reading.categories,
            "notes": list(reading.notes),
            "series": reading.series,
            "counts": counts.tolist(),
            "dated": first,
        }
        known = work.recall("rows", lambda: json.loads(json.dumps(found)))
    reading.columns = type(reading.columns)(*map(tuple, known["columns"]))
    reading.categories = known["categories"]
    reading.notes = dict.fromkeys(known["notes"])
    reading.series = [(name, tuple(static)) for name, static in known["series"]]
    return reading, known["counts"], known["dated"]


def _as_read(table: Table, reading: Reading, rows: Rows) -> SeriesSettings:
    """Return settings that read further chunks as the first was."""
    settings = replace(reading.settings, series_in_rows=reading.in_rows)
    if settings.day_first is not None or reading.in_rows or not reading.columns.time:
        return settings
    columns = [table.names.index(name) for name in reading.columns.time]
    ways = [way for way in (True, False) if _reads(table, columns, way, rows)]
    return replace(settings, day_first=ways[0]) if len(ways) == 1 else settings


def _reads(table: Table, columns: Sequence[int], day_first: bool, rows: Rows) -> bool:
    """Tell whether times are those of the rows with the day first, or with the month first."""
    try:
        times = times_of(table, columns, day_first, {})
    except DataError:
        return False
    assert times is not None, "there are columns of times"
    return np.array_equal(rows.times[: len(times)], times)


def _record(width: int) -> np.dtype[Any]:
    whole = [(name, "<i8") for name in ("series", "time", "line")]
    return np.dtype([*whole, ("table", "<i4"), ("cells", "<f8", (width,))])


def _save_rows(path: Path, rows: Rows, table: Table) -> None:
    if path.exists():
        return
    found = np.empty(len(rows.series), _record(rows.cells.shape[1]))
    found["series"], found["cells"], found["table"] = rows.series, rows.cells, rows.table
    found["time"], found["line"] = rows.times.astype(np.int64), table.lines[rows.row]
    with atomic_file(path) as file:
        found.tofile(file)


def _rows_of(path: Path, width: int, dated: bool) -> Rows:
    found = np.fromfile(path, _record(width))
    times = found["time"].astype("M8[us]") if dated else found["time"].copy()
    cells = np.ascontiguousarray(found["cells"])
    return Rows(found["series"].copy(), times, cells, found["line"].copy(), found["table"].copy())


# Buckets


def _buckets(counts: Sequence[int]) -> list[int]:
    """Return the series that each bucket ends before.

    >>> _buckets([BUCKET_ROWS - 1, 1, 1, 2 * BUCKET_ROWS])
    [2, 3, 4]
    """
    ends, rows = [], 0
    for i, count in enumerate(counts):
        if rows and rows + count > BUCKET_ROWS:
            ends.append(i)
            rows = 0
        rows += count
    return [*ends, len(counts)]


def _sort(work: Work, ends: Sequence[int], width: int) -> None:
    """Write the rows of all chunks into buckets, in the order in which they were read."""
    for k in range(len(ends)):
        (work.folder / f"{k}.bucket").unlink(missing_ok=True)
    chunks = len(list(work.folder.glob("*.rows")))
    for k in range(chunks):
        rows = np.fromfile(work.folder / f"{k}.rows", _record(width))
        bucket = np.searchsorted(ends, rows["series"], side="right")
        order = np.argsort(bucket, kind="stable")
        begins = np.flatnonzero(np.diff(bucket[order], prepend=-1))
        for some in np.split(order, begins[1:]):
            with (work.folder / f"{bucket[some[0]]}.bucket").open("ab") as file:
                rows[some].tofile(file)
        work.tell("sorting", k + 1, chunks)
    work.recall("sorted", lambda: True)
    for k in range(chunks):
        (work.folder / f"{k}.rows").unlink()


# Series on the grid


class _Piece(NamedTuple):
    """Series of a bucket: what there is of them as JSON, and numbers."""

    document: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def series(self, first: int) -> Iterator[Series]:
        """Yield series from a number on, without names."""
        parts = [
            np.split(self.arrays[part], ends[:-1])
            for part, ends in zip(PARTS, self.arrays["lengths"].cumsum(1), strict=True)
        ]
        for rows in list(zip(*parts, strict=True))[first:]:
            yield Series("", 0, *rows)


def _save(path: Path, panel: Panel) -> None:
    parts = {part: [getattr(s, part) for s in panel.series] for part in PARTS}
    arrays: dict[str, NDArray[Any]] = {part: np.concatenate(rows) for part, rows in parts.items()}
    arrays["lengths"] = np.array([[len(each) for each in rows] for rows in parts.values()])
    arrays["start"] = np.array([s.start for s in panel.series])
    arrays["negative"] = np.array([s.first_negative() for s in panel.series])
    notes = [note for note in panel.notes if note not in gaps(panel.series)]  # told of all series
    document = json.dumps({"grid": asdict(panel.grid), "notes": notes}).encode()
    with atomic_file(path) as file:
        np.savez(file, document=np.frombuffer(document, np.uint8), **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> _Piece:
    with library_errors(path, "series that were read"), np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return _Piece(json.loads(arrays.pop("document").tobytes()), arrays)
