"""Sequences of a table, once it is known which column means what."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.columns import Columns, sequence_columns, step_columns
from ostinato.data.corpus import Corpus, ReadingSettings, existing, media_kind
from ostinato.data.dates import parse_times
from ostinato.data.places import Place
from ostinato.data.tables import Table
from ostinato.errors import DataError, OstinatoError


def sequences_of(
    table: Table,
    settings: ReadingSettings,
    by_step: bool,
    labelled: bool | None,
    missing: bool = False,
) -> Corpus:
    """Return the sequences of a table; arguments are as of `read_corpus`."""
    columns = (step_columns if by_step else sequence_columns)(table, settings, labelled)
    corpus = sequences_by(table, columns, settings, by_step, missing)
    corpus.notes = [columns.described(table), *corpus.notes]
    return corpus


def sequences_by(
    table: Table, columns: Columns, settings: ReadingSettings, by_step: bool, missing: bool = False
) -> Corpus:
    """Return the sequences of a table whose columns are known."""
    labels = None if columns.label is None else _labels(table, columns.label, settings)
    if by_step or columns.id is not None:
        corpus = _grouped(table, columns, labels, by_step, missing)
    elif columns.text is None:
        rows = table.numbers(columns.variables, missing=missing)
        corpus = Corpus("series", list(rows[:, :, None]), labels, table.places, ["value"])
    else:
        cells = table.filled(columns.text)
        kind = media_kind(cells)
        if kind in ("sound", "image"):
            named = zip(cells, table.places, strict=True)
            files = [existing(table.path.parent / cell, place) for cell, place in named]
            corpus = Corpus(kind, files, labels, table.places)
        else:
            corpus = Corpus("text", cells, labels, table.places)
    if columns.group is not None and corpus.groups is None:
        corpus.groups = [cell.strip() for cell in table.filled(columns.group)]
    return corpus


def codes_of(table: Table, columns: Columns) -> NDArray[np.int64]:
    """Return the number of the sequence that each row belongs to, of a table of steps."""
    if columns.id is not None:
        codes, cells = table.codes(columns.id)
        names = np.array([bool(cell.strip()) for cell in cells])
        filled = names[codes]
        if filled[0] and not filled.all() and filled.sum() == names.sum():
            return np.cumsum(filled)  # the id stands at the first row of each sequence alone
        table.filled(columns.id)
        return codes
    starts = np.zeros(len(table), dtype=np.int64)
    if columns.position is not None:
        values = table.numbers([columns.position])[:, 0]
        starts[values == values[0]] = 1
    else:
        starts[table.breaks] = 1
    return np.cumsum(starts)


def _labels(table: Table, column: int, settings: ReadingSettings) -> list[Any]:
    """Labels of all rows, as they are written; lists of them, where there may be several."""
    if table.has_objects(column):
        several = []
        for row, cell in enumerate(table.series(column)):
            if not isinstance(cell, list | tuple | np.ndarray):
                raise table.place(row).error(
                    f"has the label {cell!r:.40}, and other rows have lists of labels."
                )
            several.append([str(each) for each in cell])
        return several
    if not settings.separator:
        return [cell.strip() for cell in table.filled(column)]
    parts = [cell.split(settings.separator) for cell in table.texts(column)]
    return [[part.strip() for part in some if part.strip()] for some in parts]


def _grouped(
    table: Table, columns: Columns, labels: list[Any] | None, by_step: bool, missing: bool
) -> Corpus:
    """Sequences of a table with a row for every step."""
    codes = codes_of(table, columns)
    order, notes = np.argsort(codes, kind="stable"), []
    if columns.time is not None:
        by_time = _by_time(table, columns.time, codes)
        if (by_time != order).any():
            order, notes = by_time, [f"rows are sorted by {table.names[columns.time]}"]
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    lines: list[Any] = [table.lines[rows] for rows in groups]
    places = [table.place(int(rows[0])) for rows in groups]
    if columns.id is not None and not by_step:
        ids = table.texts(columns.id)
        places = [Place(f"{table.path}: {ids[rows[0]]}") for rows in groups]
    targets: list[Any] | None = None
    if labels is not None and by_step:
        targets = [[labels[row] for row in rows] for rows in groups]
    elif labels is not None:
        targets = [_one_label(table, rows, labels) for rows in groups]
    of_groups = None
    if columns.group is not None:
        cells = [cell.strip() for cell in table.filled(columns.group)]
        of_groups = [_one_group(table, rows, cells) for rows in groups]
    if columns.text is not None:
        cells = table.filled(columns.text)
        words = [[cells[row] for row in rows] for rows in groups]
        return Corpus("words", words, targets, places, (), lines, notes, of_groups)
    values = table.numbers(columns.variables, missing=missing)
    names = [table.names[i] for i in columns.variables]
    inputs = [values[rows] for rows in groups]
    return Corpus("series", inputs, targets, places, names, lines, notes, of_groups)


def _by_time(table: Table, column: int, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows by sequence and time; a `DataError` where a sequence has a time twice."""
    moments: NDArray[Any]
    if table.is_numeric(column):
        moments = table.numbers([column])[:, 0]
    else:
        try:
            moments = parse_times(table.series(column)).times
        except OstinatoError as error:
            raise DataError(f"{table.names[column]!r}: {error}", path=table.path) from None
    odd = moments != moments  # NaT
    if odd.any():
        row = int(odd.argmax())
        raise table.place(row).error(
            f"{table.names[column]!r} is {table.cell(row, column)!r:.40}, no time; expected a "
            "number, or a date and time as in 2024-01-31 12:00."
        )
    order = np.lexsort((moments, codes))
    again = (np.diff(codes[order]) == 0) & (moments[order][1:] == moments[order][:-1])
    if again.any():
        before, after = map(int, order[again.argmax() :][:2])
        raise table.place(after).error(
            f"has the time of line {table.place(before).line} again: {table.cell(after, column)}."
        )
    return order


def _one_label(table: Table, rows: NDArray[np.int64], labels: list[Any]) -> Any:
    first = labels[rows[0]]
    for row in rows:
        if labels[row] != first:
            raise table.place(int(row)).error(
                f"has the label {labels[row]!r}, and line {table.place(int(rows[0])).line} of the "
                f"same sequence {first!r}; a sequence has one label. (For a label at every step: "
                "tag.)"
            )
    return first


def _one_group(table: Table, rows: NDArray[np.int64], cells: list[str]) -> str:
    group, first = cells[int(rows[0])], table.place(int(rows[0])).line
    for row in rows.tolist():
        if cells[row] != group:
            raise table.place(row).error(
                f"is of the group {cells[row]!r}, and line {first} of the same sequence of "
                f"{group!r}; a sequence is of one group."
            )
    return group
