"""Sequences of a table, once it is known which column means what."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.columns import Columns, sequence_columns, step_columns
from ostinato.data.corpus import Corpus, ReadingSettings, existing, media_kind
from ostinato.data.dates import parse_times
from ostinato.data.places import Place
from ostinato.data.tables import Table
from ostinato.errors import DataError, OstinatoError

__all__ = ["sequences_of"]


def sequences_of(
    table: Table, settings: ReadingSettings, by_step: bool, labelled: bool | None
) -> Corpus:
    """Return the sequences of a table.

    Args:
        table: a row a sequence, or a row a step.
        settings: see `ReadingSettings`.
        by_step: whether each step has a label, not each sequence.
        labelled: whether there must be labels; None reads them where they are.
    """
    columns = (step_columns if by_step else sequence_columns)(table, settings, labelled)
    notes = [columns.described(table)]
    labels = None if columns.label is None else _labels(table, columns.label, settings)
    if by_step or columns.id is not None:
        corpus = _grouped(table, columns, labels, by_step)
    elif columns.text is not None:
        corpus = _of_texts(table, columns.text, labels)
    else:
        rows = table.numbers(columns.variables)
        corpus = Corpus("series", list(rows[:, :, None]), labels, table.places, ["value"])
    corpus.notes = [*notes, *corpus.notes]
    return corpus


def _of_texts(table: Table, column: int, labels: list[Any] | None) -> Corpus:
    cells = table.texts(column).tolist()
    _refuse_empty(table, column, cells)
    kind = media_kind(cells)
    if kind in ("sound", "image"):
        base = table.path.parent
        files = [existing(base / c, p) for c, p in zip(cells, table.places, strict=True)]
        return Corpus(kind, files, labels, table.places)
    return Corpus("text", cells, labels, table.places)


def _refuse_empty(table: Table, column: int, cells: Sequence[str]) -> None:
    for row, cell in enumerate(cells):
        if not cell.strip():
            raise table.place(row).error(f"{table.names[column]!r} is empty.")


def _labels(table: Table, column: int, settings: ReadingSettings) -> list[Any]:
    """Labels of all rows, as they are written; lists of them, where there may be several."""
    if table.has_objects(column):
        found = [
            [str(each) for each in cell] if isinstance(cell, list) else cell
            for cell in table.series(column)
        ]
        if any(not isinstance(label, list) for label in found):
            row = next(row for row, label in enumerate(found) if isinstance(label, list))
            raise table.place(row).error("has a list of labels, and other rows a single one.")
        return found
    cells = [cell.strip() for cell in table.texts(column).tolist()]
    if settings.separator is None:
        _refuse_empty(table, column, cells)
        return cells
    parts = [cell.split(settings.separator) for cell in cells]
    return [[part.strip() for part in some if part.strip()] for some in parts]


def _grouped(table: Table, columns: Columns, labels: list[Any] | None, by_step: bool) -> Corpus:
    """Sequences of a table with a row for every step."""
    groups = _groups(table, columns)
    notes = []
    if columns.time is not None:
        moments = _moments(table, columns.time)
        groups, newest_first = _in_order(table, columns.time, groups, moments)
        if newest_first:
            notes = [f"rows are sorted by {table.names[columns.time]}"]
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
    if columns.text is not None:
        cells = table.texts(columns.text).tolist()
        _refuse_empty(table, columns.text, cells)
        words = [[cells[row] for row in rows] for rows in groups]
        return Corpus("words", words, targets, places, (), lines, notes)
    values = table.numbers(columns.variables)
    names = [table.names[i] for i in columns.variables]
    inputs = [values[rows] for rows in groups]
    return Corpus("series", inputs, targets, places, names, lines, notes)


def _groups(table: Table, columns: Columns) -> list[NDArray[np.int64]]:
    """Rows of each sequence."""
    rows = np.arange(len(table))
    if columns.id is not None:
        codes, cells = table.codes(columns.id)
        blank = [i for i, cell in enumerate(cells) if not cell.strip()]
        if blank and codes[0] != blank[0] and len(cells) - 1 == (codes != blank[0]).sum():
            # The id stands at the first row of each sequence alone.
            codes = np.cumsum(codes != blank[0])
        elif blank:
            row = int(np.flatnonzero(codes == blank[0])[0])
            raise table.place(row).error(f"{table.names[columns.id]!r} is empty.")
        order = np.argsort(codes, kind="stable")
        ends = np.flatnonzero(np.diff(codes[order])) + 1
        return np.split(order, ends)
    if columns.position is not None:
        values = table.numbers([columns.position])[:, 0]
        return np.split(rows, np.flatnonzero(values[1:] == values[0]) + 1)
    return np.split(rows, table.breaks)


def _moments(table: Table, column: int) -> NDArray[Any]:
    """The time of each row, as numbers or dates."""
    if table.is_numeric(column):
        return table.numbers([column])[:, 0]
    try:
        moments = parse_times(table.series(column)).times
    except OstinatoError as error:
        raise DataError(f"{table.names[column]!r}: {error}", path=table.path) from None
    odd = np.flatnonzero(moments != moments)  # NaT
    if len(odd):
        row = int(odd[0])
        raise table.place(row).error(
            f"{table.names[column]!r} is {table.cell(row, column)!r:.40}, no time; expected a "
            "number, or a date and time as in 2024-01-31 12:00."
        )
    return moments


def _in_order(
    table: Table, column: int, groups: list[NDArray[np.int64]], moments: NDArray[Any]
) -> tuple[list[NDArray[np.int64]], bool]:
    """Rows of each sequence in the order of time, and whether they were not."""
    found, moved = [], False
    for rows in groups:
        ordered = rows[np.argsort(moments[rows], kind="stable")]
        moved |= bool((ordered != rows).any())
        for before, after in pairwise(ordered):
            if moments[before] == moments[after]:
                raise table.place(int(after)).error(
                    f"has the time of line {table.place(int(before)).line} again: "
                    f"{table.cell(int(after), column)}."
                )
        found.append(ordered)
    return found, moved


def _one_label(table: Table, rows: NDArray[np.int64], labels: list[Any]) -> Any:
    for row in rows:
        if labels[row] != labels[rows[0]]:
            raise table.place(int(row)).error(
                f"has the label {labels[row]!r}, and line {table.place(int(rows[0])).line} of the "
                f"same sequence {labels[rows[0]]!r}; a sequence has one label. (For a label at "
                "every step: tag.)"
            )
    return labels[rows[0]]
