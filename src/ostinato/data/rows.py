"""Tables: a row a sequence or a row a step, their columns guessed or asked for by name."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.corpus import (
    Corpus,
    Place,
    ReadingSettings,
    existing,
    media_kind,
)
from ostinato.data.formats import numbered_lines
from ostinato.errors import DataError

__all__ = ["Table", "sequences_of_table", "steps_of_table"]

# What columns are usually called, in lower case.
LABELS = {"label", "labels", "class", "target", "category", "sentiment", "tag"}
WEAK_LABELS = {"y", "output"}  # where no other is
TEXTS = {"text", "sentence", "review", "content", "message", "document", "body", "word", "token"}
IDS = {"id", "sequence", "sequence_id", "series", "series_id", "case", "case_id", "sample_id"}
TIMES = {"time", "t", "timestamp", "date", "datetime", "step", "frame"}


class Table:
    """Rows of cells, all of one width, with the line that each begins on.

    Args:
        path: where they came from.
        names: of the columns; None where the file does not name them.
        rows: cells: text, or, of JSON, whatever it was.
        lines: of each row.
    """

    def __init__(
        self, path: Path, names: list[str] | None, rows: list[list[Any]], lines: list[int]
    ) -> None:
        self.path = path
        self.named = names is not None
        self.rows = rows
        self.lines = lines
        width = len(names) if names is not None else len(rows[0]) if rows else 0
        self.names = names or [str(i) for i in range(1, width + 1)]
        self._numeric: dict[int, bool] = {}

    @classmethod
    def read(cls, path: Path, header: bool | None = None, asked: Collection[str] = ()) -> Table:
        """A CSV, TSV or JSON lines file.

        Args:
            path: the file.
            header: whether its first line names the columns; guessed if None.
            asked: names that columns are asked for by, in lower case.
        """
        if any(suffix in (".jsonl", ".ndjson") for suffix in path.suffixes):
            return cls._read_json(path)
        lines = [line for _, line in numbered_lines(path)]
        if not any(line.strip() for line in lines):
            raise DataError("is empty; give some rows.", path=path)
        delimiter = _delimiter(path, lines)
        rows, numbers = _cells(path, lines, delimiter)
        width = len(rows[0])
        for row, number in zip(rows, numbers, strict=True):
            if len(row) != width:
                raise DataError(
                    f"has {len(row)} cells, and line {numbers[0]} has {width}.",
                    path=path,
                    line=number,
                )
        _write_numbers_plainly(rows, delimiter)
        if header is None:
            header = _has_header(rows, asked)
        if not header:
            return cls(path, None, rows, numbers)
        names = [name.strip() for name in rows[0]]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"names two columns {twice[0]!r}.", path=path, line=numbers[0])
        if len(rows) == 1:
            raise DataError("has a line of names, and no rows after it.", path=path)
        return cls(path, names, rows[1:], numbers[1:])

    @classmethod
    def _read_json(cls, path: Path) -> Table:
        names: dict[str, None] = {}
        objects, numbers = [], []
        for number, line in numbered_lines(path):
            if not line.strip():
                continue
            try:
                document = json.loads(line)
            except ValueError as error:
                raise DataError(f"is not JSON: {error}.", path=path, line=number) from None
            if not isinstance(document, dict):
                raise DataError('is no JSON object, as in {"text": ...}.', path=path, line=number)
            objects.append(document)
            numbers.append(number)
            names |= dict.fromkeys(document)
        if not objects:
            raise DataError("is empty; give some rows.", path=path)
        return cls(path, list(names), [[o.get(n) for n in names] for o in objects], numbers)

    def place(self, row: int) -> Place:
        """Where a row stands."""
        return Place(str(self.path), self.lines[row])

    def column(self, name: str, what: str) -> int:
        """Number of a column that the user named, by its name or its number from 1."""
        if name in self.names:
            return self.names.index(name)
        alike = [i for i, each in enumerate(self.names) if each.lower() == name.lower()]
        if len(alike) == 1:
            return alike[0]
        if name.lstrip("-").isdecimal() and 1 <= abs(int(name)) <= len(self.names):
            return (int(name) - 1) if int(name) > 0 else len(self.names) + int(name)
        raise DataError(f"has no column {name!r} for {what}; {self.columns()}.", path=self.path)

    def columns(self) -> str:
        """What columns there are, in words."""
        if not self.named:
            return f"its columns have no names: they are numbered, 1 to {len(self.names)}"
        shown = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        return f"its columns are {shown}"

    def called(self, names: set[str], among: Iterable[int]) -> list[int]:
        """Columns with one of some usual names."""
        return [i for i in among if self.names[i].lower() in names] if self.named else []

    def cells(self, column: int) -> list[Any]:
        """All cells of a column."""
        return [row[column] for row in self.rows]

    def is_numeric(self, column: int) -> bool:
        """Whether most cells of a column are numbers (those that are not are mistakes)."""
        if column not in self._numeric:
            some = self.cells(column)[:1000]
            filled = [cell for cell in some if not is_missing(cell)]
            good = sum(as_number(cell) is not None for cell in filled)
            self._numeric[column] = good > 0.5 * len(filled) or not filled
        return self._numeric[column]

    def text(self, row: int, column: int) -> str:
        """A cell as text that must be there."""
        cell = self.rows[row][column]
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise self.place(row).error(f"{self.names[column]!r} is empty.")
        if isinstance(cell, dict | list):
            raise self.place(row).error(f"{self.names[column]!r} is no text but {cell!r:.40}.")
        return cell if isinstance(cell, str) else json.dumps(cell)

    def numbers(self, columns: Sequence[int], *, missing: bool = False) -> NDArray[np.float64]:
        """Columns of numbers, ``(rows, columns)``; a `DataError` at the first that is none.

        With ``missing`` a cell that says nothing is NaN.
        """
        found = np.empty((len(self.rows), len(columns)))
        for k, column in enumerate(columns):
            cells = self.cells(column)
            try:
                found[:, k] = np.array(cells, dtype=np.float64)
                if np.isfinite(found[:, k]).all():
                    continue
            except (ValueError, TypeError):
                pass
            for row, cell in enumerate(cells):
                number = as_number(cell)
                if missing and is_missing(cell):
                    number = math.nan
                elif number is None or not math.isfinite(number):
                    what = "is missing" if is_missing(cell) else f"is {cell!r:.40}, no number"
                    raise self.place(row).error(
                        f"{self.names[column]!r} {what}; fill it in, or leave the row out."
                    )
                found[row, k] = number
        return found


def is_missing(cell: Any) -> bool:
    """Whether a cell says that there is nothing."""
    if isinstance(cell, float) and math.isnan(cell):
        return True
    return cell is None or (
        isinstance(cell, str)
        and cell.strip().lower() in ("", "na", "n/a", "#n/a", "nan", "null", "none", "?")
    )


def as_number(cell: Any) -> float | None:
    """What a cell says as a number; None if it says none."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _delimiter(path: Path, lines: Sequence[str]) -> str:
    if any(suffix in (".tsv", ".tab") for suffix in path.suffixes):
        return "\t"
    some = [line for line in lines[:50] if line.strip()]
    # The candidate that most lines hold equally often, the oftener the better.
    found = {d: Counter(line.count(d) for line in some).most_common(1)[0] for d in ",\t;|"}
    steady = {d: (times, count) for d, (count, times) in found.items() if count}
    return max(steady, key=lambda d: steady[d]) if steady else ","


def _cells(path: Path, lines: list[str], delimiter: str) -> tuple[list[list[str]], list[int]]:
    """Cells of a table: by the rules of quoting where they hold, without quotes where not."""
    try:
        rows, numbers, at = [], [], 1
        reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
        for row in reader:
            if row:
                rows.append(row)
                numbers.append(at)
            at = reader.line_num + 1
        if delimiter != "\t" or len({len(row) for row in rows}) == 1:
            return rows, numbers
    except csv.Error as error:
        if delimiter != "\t":
            raise DataError(
                f"{error}: a quotation mark stands where none may.", path=path, line=at
            ) from None
    # A tab-separated file often knows no quoting: quotation marks are part of its text.
    kept = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [line.split(delimiter) for _, line in kept], [number for number, _ in kept]


_DECIMAL_COMMA = re.compile(r"[-+]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?")
_THOUSANDS = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")


def _write_numbers_plainly(rows: list[list[str]], delimiter: str) -> None:
    """Rewrite columns of 1.234,5, or in a table with commas of "1,234.5", as 1234.5.

    Only where all that is there reads so: below the header, if there is one.
    """
    form = _THOUSANDS if delimiter == "," else _DECIMAL_COMMA
    group, point = (",", ".") if delimiter == "," else (".", ",")
    for column in range(len(rows[0])):
        if not any("," in row[column] for row in rows[1:21]):
            continue
        filled = [row for row in rows[1:] if not is_missing(row[column])]
        if all(form.fullmatch(row[column].strip()) for row in filled):
            first = rows[:1] if form.fullmatch(rows[0][column].strip()) else []
            for row in [*first, *filled]:
                row[column] = row[column].strip().replace(group, "").replace(point, ".")


def _has_header(rows: Sequence[Sequence[str]], asked: Collection[str]) -> bool:
    """Whether the first row names the columns: one is asked for, or it differs from the rest."""
    first, rest = rows[0], rows[1:1001]
    names = [cell.strip().lower() for cell in first]
    if any(name in names for name in asked):
        return True
    if any(as_number(cell) is not None or not cell for cell in names):
        return False
    if not rest or any(name in LABELS | TEXTS | IDS | TIMES for name in names):
        return True
    words = all(len(name.split()) == 1 for name in first)
    verdict = False
    for column, name in enumerate(first):
        cells = [row[column] for row in rest if column < len(row)]
        if media_kind(cells[:100]) and not media_kind([name]):
            return True  # files under a word
        spaced = sum(" " in cell.strip() for cell in cells)
        if words and len(cells) >= 5 and spaced > 0.95 * len(cells):
            return True  # sentences under a word
        if sum(as_number(cell) is not None for cell in cells) > 0.9 * len(cells):
            return True  # numbers under a word
        if len(set(cells)) <= len(cells) / 3:  # a few words again and again
            if name in cells:
                return False
            verdict = True
    return verdict


def _label_column(table: Table, settings: ReadingSettings, labelled: bool | None) -> int | None:
    if settings.label is not None:
        if not labelled and settings.label not in table.names:
            return None  # of a table that is to be predicted
        return table.column(settings.label, "the labels")
    everything = range(len(table.names))
    for usual in (LABELS, WEAK_LABELS):
        named = table.called(usual, everything)
        if len(named) == 1:
            return named[0]
    if labelled is False:
        return None
    if len(table.names) == 2:
        # The one with fewer different values, or the only one that is no longer text.
        distinct = [len({str(cell) for cell in table.cells(i)}) for i in (0, 1)]
        return 1 if distinct[1] <= distinct[0] else 0
    if labelled:
        # A few words again and again beside nothing but numbers.
        asked = [settings.id, settings.time, settings.text, *(settings.variables or "").split(",")]
        others = [table.column(name.strip(), "its use") for name in asked if name]
        others += table.called(IDS | TIMES | TEXTS, everything)
        words = [i for i in everything if not table.is_numeric(i) and i not in others]
        again = len(words) == 1 and len(set(table.cells(words[0]))) <= len(table.rows) / 2
        if len(words) == 1 and (again or not table.named):
            return words[0]
    if labelled is None:
        return None
    raise DataError(
        f"which column holds the labels is not clear; name it with label: {table.columns()}.",
        path=table.path,
    )


def _labels(table: Table, column: int, settings: ReadingSettings) -> list[Any]:
    """Labels of all rows; lists of them, where there may be several."""
    found: list[Any] = []
    for row in range(len(table.rows)):
        cell = table.rows[row][column]
        if isinstance(cell, list):
            found.append([str(each) for each in cell])
        elif settings.separator is not None:
            parts = [] if is_missing(cell) else str(cell).split(settings.separator)
            found.append([part.strip() for part in parts if part.strip()])
        else:
            found.append(table.text(row, column).strip())
    if len({type(label) for label in found}) > 1:
        row = [type(label) for label in found].index(list)
        raise table.place(row).error("has a list of labels, and other rows a single one.")
    return found


def sequences_of_table(table: Table, settings: ReadingSettings, labelled: bool | None) -> Corpus:
    """A label a sequence: texts, files, a long table, or a series a row."""
    label = _label_column(table, settings, labelled)
    rest = [i for i in range(len(table.names)) if i != label]
    if not rest:
        raise DataError("has a single column, and no labels beside it.", path=table.path)
    places = [table.place(row) for row in range(len(table.rows))]
    key = _id_column(table, settings, rest)
    if key is not None:
        return _long_table(table, settings, key, label)
    targets = None if label is None else _labels(table, label, settings)
    text = _text_column(table, settings, rest)
    if text is not None:
        cells = [table.text(row, text) for row in range(len(table.rows))]
        kind = media_kind(cells)
        if kind in ("sound", "image"):
            base = table.path.parent
            return Corpus(
                kind,
                [existing(base / c, p) for c, p in zip(cells, places, strict=True)],
                targets,
                places,
            )
        return Corpus("text", cells, targets, places)
    stamps = table.called(TIMES, rest)
    if stamps and settings.variables is None:
        raise DataError(
            f"column {table.names[stamps[0]]!r} says that each row is a step; name the column that "
            f"tells sequences apart with id: {table.columns()}.",
            path=table.path,
        )
    columns = _measured(table, settings, rest)
    numbers = table.numbers(columns)
    return Corpus("series", list(numbers[:, :, None]), targets, places, ["value"])


def _id_column(
    table: Table, settings: ReadingSettings, among: Sequence[int], by_step: bool = False
) -> int | None:
    if settings.id is not None:
        return table.column(settings.id, "the sequences' ids")
    if settings.text is not None and not by_step:
        return None
    # One that tells rows apart is no id of sequences, nor is one beside texts.
    found = [
        i
        for i in table.called(IDS, among)
        if len({str(cell) for cell in table.cells(i)}) < len(table.rows)
    ]
    if len(found) != 1:
        return None
    others = [i for i in among if i not in (found[0], *table.called(TIMES, among))]
    measured = settings.variables is not None or all(table.is_numeric(i) for i in others)
    return found[0] if by_step or measured else None


def _text_column(table: Table, settings: ReadingSettings, among: Sequence[int]) -> int | None:
    """The column of texts; None where all are numbers."""
    if settings.text is not None:
        return table.column(settings.text, "the texts")
    if settings.variables is not None:
        return None
    named = table.called(TEXTS, among)
    if len(named) == 1:
        return named[0]
    words = [i for i in among if not table.is_numeric(i) and i not in table.called(TIMES, among)]
    if len(words) > 1:
        # Ids and categories are short and few; if one column is left, it holds the texts.
        spaced = [
            i for i in words if np.mean([" " in str(cell).strip() for cell in table.cells(i)]) > 0.5
        ]
        words = spaced if len(spaced) == 1 else words
    if len(words) > 1:
        raise DataError(
            "which column holds the texts is not clear; name it with text: "
            f"{table.columns()}. For measurements name them with variables.",
            path=table.path,
        )
    return words[0] if words else None


def _measured(table: Table, settings: ReadingSettings, among: Sequence[int]) -> list[int]:
    """The columns of measurements."""
    if settings.variables is not None:
        names = [name.strip() for name in settings.variables.split(",")]
        return [table.column(name, "a variable") for name in names]
    for i in among:
        if not table.is_numeric(i):
            cell = next(c for c in table.cells(i) if not is_missing(c) and as_number(c) is None)
            raise DataError(
                f"column {table.names[i]!r} holds no numbers but, say, {cell!r:.40}; name the "
                f"columns to use with variables, separated by commas: {table.columns()}.",
                path=table.path,
            )
    if not among:
        raise DataError(f"has no columns of measurements; {table.columns()}.", path=table.path)
    return list(among)


def _grouped(
    table: Table, settings: ReadingSettings, key: int | None, but: Iterable[int | None]
) -> tuple[list[list[int]], list[int]]:
    """Rows of each sequence in the order of time, and the columns that are left."""
    groups: dict[str, list[int]] = {}
    for row in range(len(table.rows)):
        groups.setdefault("" if key is None else table.text(row, key), []).append(row)
    rest = [i for i in range(len(table.names)) if i != key and i not in set(but)]
    time: int | None = None
    if settings.time is not None:
        time = table.column(settings.time, "the time")
    else:
        named = table.called(TIMES, rest)
        time = named[0] if len(named) == 1 else None
    if time is None:
        return list(groups.values()), rest
    stamps = _times(table, time)
    for rows in groups.values():
        rows.sort(key=lambda row: stamps[row])
        for before, after in pairwise(rows):
            if stamps[before] == stamps[after]:
                raise table.place(after).error(
                    f"has the time of line {table.lines[before]} again: {table.rows[after][time]}."
                )
    return list(groups.values()), [i for i in rest if i != time]


def _times(table: Table, column: int) -> list[float]:
    cells = table.cells(column)
    if table.is_numeric(column):
        return [float(number) for number in table.numbers([column])[:, 0]]
    stamps = []
    for row, cell in enumerate(cells):
        try:
            moment = datetime.fromisoformat(str(cell).strip())
        except ValueError:
            raise table.place(row).error(
                f"{table.names[column]!r} is {cell!r:.40}, no time; expected a number, or a date "
                "and time as in 2024-01-31 12:00."
            ) from None
        stamps.append((moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds())
    return stamps


def _long_table(table: Table, settings: ReadingSettings, key: int, label: int | None) -> Corpus:
    """A row a step, a label a sequence."""
    groups, rest = _grouped(table, settings, key, [label])
    columns = _measured(table, settings, rest)
    numbers = table.numbers(columns)
    labels = None if label is None else _labels(table, label, settings)
    if labels is not None:
        for rows in groups:
            for row in rows:
                if labels[row] != labels[rows[0]]:
                    raise table.place(row).error(
                        f"has the label {labels[row]!r}, and line {table.lines[rows[0]]} of the "
                        f"same sequence {labels[rows[0]]!r}; a sequence has one label. (For a "
                        "label at every step: tag.)"
                    )
    return Corpus(
        "series",
        [numbers[rows] for rows in groups],
        None if labels is None else [labels[rows[0]] for rows in groups],
        [Place(f"{table.path}: {table.rows[rows[0]][key]}") for rows in groups],
        [table.names[i] for i in columns],
        [[table.lines[row] for row in rows] for rows in groups],
    )


def steps_of_table(table: Table, settings: ReadingSettings, labelled: bool | None) -> Corpus:
    """A row a step, a label a step: words, or measurements."""
    label = _label_column(table, settings, labelled)
    everything = [i for i in range(len(table.names)) if i != label]
    key = _id_column(table, settings, everything, by_step=True)
    groups, rest = _grouped(table, settings, key, [label])
    labels = None if label is None else _labels(table, label, settings)
    targets = None if labels is None else [[labels[row] for row in rows] for rows in groups]
    lines = [[table.lines[row] for row in rows] for rows in groups]
    places = [table.place(rows[0]) for rows in groups]
    text = _text_column(table, settings, rest)
    if text is not None:
        words = [[table.text(row, text) for row in rows] for rows in groups]
        return Corpus("words", words, targets, places, (), lines)
    columns = _measured(table, settings, rest)
    numbers = table.numbers(columns)
    names = [table.names[i] for i in columns]
    return Corpus("series", [numbers[rows] for rows in groups], targets, places, names, lines)
