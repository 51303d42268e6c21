"""From a user's files to sequences and what is wanted of them.

Tables (CSV, TSV, JSON lines), ``.ts`` files, CoNLL and CoNLL-U, folders of recordings or images,
idx files; each also compressed by gzip where that is usual. Columns are guessed where there is one
choice, and asked for by name where there are more. Whatever cannot be used is a `DataError` that
names the file and the line.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import math
import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.errors import DataError, OstinatoError, require

__all__ = ["Corpus", "Kind", "Place", "ReadingSettings", "Table", "corpus_of", "read_corpus"]

Kind = Literal["text", "words", "series", "sound", "image"]

SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
TABLES = {".csv", ".tsv", ".tab", ".jsonl", ".ndjson"}
COLUMNS = {".conll", ".iob", ".bio", ".bioes"}

# What columns are usually called, in lower case.
LABELS = {"label", "labels", "class", "target", "category", "sentiment", "tag"}
WEAK_LABELS = {"y", "output"}  # where no other is
TEXTS = {"text", "sentence", "review", "content", "message", "document", "body", "word", "token"}
IDS = {"id", "sequence", "sequence_id", "series", "series_id", "case", "case_id", "sample_id"}
TIMES = {"time", "t", "timestamp", "date", "datetime", "step", "frame"}


@dataclass(kw_only=True, eq=False, repr=False)
class ReadingSettings:
    """How files are read.

    Args:
        label: column of what is to be predicted, by name or by number from 1; guessed where there
            is one choice. Of CoNLL-U: upos, xpos, deprel or a name in feats or misc.
        text: column of the texts, words, or names of files; guessed where there is one choice.
        id: column that tells sequences apart, in a table with a row for every step.
        time: column that orders the steps; their order in the file if not given.
        variables: columns of measurements, separated by commas; if not given, all that are left.
        pattern: what file names look like, as in {label}_{speaker}_{take}.wav; if not given, the
            folder that a file lies in is its label.
        separator: what separates several labels of one sequence from each other.
        header: whether the first line of a table names its columns; guessed if not given.
    """

    label: str | None = None
    text: str | None = None
    id: str | None = None
    time: str | None = None
    variables: str | None = None
    pattern: str | None = None
    separator: str | None = None
    header: bool | None = None


class Place(NamedTuple):
    """Where something was read."""

    path: str
    line: int | None = None

    def error(self, message: str) -> DataError:
        """An error that begins with the place."""
        return DataError(message, path=self.path, line=self.line)

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


@dataclass
class Corpus:
    """Sequences as they were read.

    Args:
        kind: ``text``, a string each; ``words``, a list of strings; ``series``, ``(T, I)`` numbers;
            ``sound`` and ``image``, a path or pixels.
        inputs: of each sequence.
        targets: of each sequence: a label, a list of labels or numbers, or one a step. None where
            they were not asked for, or are not there.
        places: where each was read.
        variables: names of the features of a series.
        step_lines: lines of the steps of each sequence, where each has one.
    """

    kind: Kind
    inputs: Sequence[Any]
    targets: Sequence[Any] | None
    places: Sequence[Place]
    variables: Sequence[str] = ()
    step_lines: Sequence[Sequence[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int]) -> Corpus:
        """Some of the sequences."""

        def some(items: Sequence[Any]) -> list[Any]:
            return [items[row] for row in rows]

        return Corpus(
            self.kind,
            some(self.inputs),
            None if self.targets is None else some(self.targets),
            some(self.places),
            self.variables,
            some(self.step_lines) if self.step_lines else [],
        )


def read_corpus(
    paths: Sequence[str | os.PathLike[str]],
    settings: ReadingSettings,
    *,
    by_step: bool = False,
    labelled: bool | None = True,
) -> Corpus:
    """Read files.

    Args:
        paths: files and folders; ``-`` is standard input, a text a line.
        settings: see `ReadingSettings`.
        by_step: whether each step has a label, not each sequence.
        labelled: whether there must be labels; None reads them where they are.

    Raises:
        DataError: naming file and line.
    """
    if not paths:
        raise DataError("no files were named; name at least one.")
    listed = [Path(path) for path in paths]
    for path in listed:
        if str(path) != "-" and not path.exists():
            raise DataError("no such file or folder.", path=path)
    idx = [path for path in listed if _is_idx(path)]
    if idx:
        return _read_idx(idx, labelled)
    files = list(_media(listed))
    if files:
        return _of_files(files, settings, labelled)
    parts = [_read_file(path, settings, by_step, labelled) for path in listed]
    first = parts[0]
    for path, part in zip(listed, parts, strict=True):
        if part.kind != first.kind or len(part.variables) != len(first.variables):
            raise DataError(
                f"holds {_described(part)}, and {listed[0]} {_described(first)}; "
                "read together, files must be of one kind.",
                path=path,
            )
    targets = [part.targets for part in parts]
    return Corpus(
        first.kind,
        [each for part in parts for each in part.inputs],
        None if None in targets else [t for some in targets if some is not None for t in some],
        [each for part in parts for each in part.places],
        first.variables,
        [each for part in parts for each in part.step_lines],
    )


def _described(part: Corpus) -> str:
    return f"series of {len(part.variables)} variables" if part.kind == "series" else part.kind


def _read_file(
    path: Path, settings: ReadingSettings, by_step: bool, labelled: bool | None
) -> Corpus:
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    kind = kind.lower()
    if str(path) == "-" or (not labelled and kind in ("", ".txt") and not by_step):
        return _read_lines(path, by_step)
    if path.is_dir():
        raise DataError(
            "holds no recordings, images or texts; name files of another kind.", path=path
        )
    if kind == ".ts":
        return _read_ts(path, settings)
    if kind in {".conllu", *COLUMNS} and not by_step:
        raise DataError("has a label for every word, not for a whole text: tag.", path=path)
    if kind == ".conllu":
        return _read_conllu(path, settings, labelled)
    if kind in COLUMNS or (by_step and kind == ".txt"):
        return _read_conll(path, settings, labelled)
    if kind not in TABLES and kind != ".txt":
        raise DataError(
            f"files ending in {kind or 'nothing'!r} are not known; expected "
            ".csv .tsv .jsonl .ts .conll .conllu, or recordings, images, or folders of them.",
            path=path,
        )
    asked = [settings.label, settings.text, settings.id, settings.time]
    asked += (settings.variables or "").split(",")
    names = {name.strip().lower() for name in asked if name and not name.strip("- ").isdecimal()}
    table = Table.read(path, settings.header, names)
    read = _steps_of_table if by_step else _sequences_of_table
    return read(table, settings, labelled)


# Lines of files


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, compressed or not, without their ends."""
    try:
        with _opened(path) as file:
            number = 0
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"byte 0x{raw[error.start]:02X} is not valid UTF-8; convert the file.",
                        path=path,
                        line=number,
                    ) from None
                if "\0" in line:
                    raise DataError("holds a zero byte: no text file.", path=path, line=number)
                yield number, line.rstrip("\r\n")
    except (OSError, EOFError) as error:
        raise DataError(f"cannot be read: {error}.", path=path) from error


def _opened(path: Path) -> Any:
    if str(path) == "-":
        return io.BytesIO(sys.stdin.buffer.read())
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _read_lines(path: Path, by_step: bool) -> Corpus:
    """A text a line."""
    name = "<standard input>" if str(path) == "-" else str(path)
    found = [(number, line) for number, line in _lines(path) if line.strip()]
    places = [Place(name, number) for number, _ in found]
    if by_step:
        return Corpus("words", [line.split() for _, line in found], None, places)
    return Corpus("text", [line for _, line in found], None, places)


# Tables


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
        lines = [line for _, line in _lines(path)]
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
        for number, line in _lines(path):
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
            filled = [cell for cell in some if not _is_missing(cell)]
            good = sum(_number(cell) is not None for cell in filled)
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

    def numbers(self, columns: Sequence[int]) -> NDArray[np.float64]:
        """Columns of numbers, ``(rows, columns)``; a `DataError` at the first that is none."""
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
                number = _number(cell)
                if number is None or not math.isfinite(number):
                    what = "is missing" if _is_missing(cell) else f"is {cell!r:.40}, no number"
                    raise self.place(row).error(
                        f"{self.names[column]!r} {what}; fill it in, or leave the row out."
                    )
                found[row, k] = number
        return found


def _is_missing(cell: Any) -> bool:
    if isinstance(cell, float) and math.isnan(cell):
        return True
    return cell is None or (
        isinstance(cell, str) and cell.strip().lower() in ("", "na", "nan", "null", "none", "?")
    )


def _number(cell: Any) -> float | None:
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


def _has_header(rows: Sequence[Sequence[str]], asked: Collection[str]) -> bool:
    """Whether the first row names the columns: one is asked for, or it differs from the rest."""
    first, rest = rows[0], rows[1:1001]
    names = [cell.strip().lower() for cell in first]
    if any(name in names for name in asked):
        return True
    if any(_number(cell) is not None or not cell for cell in names):
        return False
    if not rest or any(name in LABELS | TEXTS | IDS | TIMES for name in names):
        return True
    verdict = False
    for column, name in enumerate(first):
        cells = [row[column] for row in rest if column < len(row)]
        if sum(_number(cell) is not None for cell in cells) > 0.9 * len(cells):
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
        others = table.called(IDS | TIMES | TEXTS, everything)
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
            parts = [] if _is_missing(cell) else str(cell).split(settings.separator)
            found.append([part.strip() for part in parts if part.strip()])
        else:
            found.append(table.text(row, column).strip())
    if len({type(label) for label in found}) > 1:
        row = [type(label) for label in found].index(list)
        raise table.place(row).error("has a list of labels, and other rows a single one.")
    return found


def _sequences_of_table(table: Table, settings: ReadingSettings, labelled: bool | None) -> Corpus:
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
        kind = _media_kind(cells)
        if kind in ("sound", "image"):
            base = table.path.parent
            return Corpus(
                kind,
                [_existing(base / c, p) for c, p in zip(cells, places, strict=True)],
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


def _existing(path: Path, place: Place) -> Path:
    if not path.exists():
        raise place.error(f"names {path}, and there is no such file.")
    return path


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
            cell = next(c for c in table.cells(i) if not _is_missing(c) and _number(c) is None)
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
        for before, after in itertools.pairwise(rows):
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


def _steps_of_table(table: Table, settings: ReadingSettings, labelled: bool | None) -> Corpus:
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


# Other files


def _read_ts(path: Path, settings: ReadingSettings) -> Corpus:
    """The text format of the UEA and UCR archives: a case a line, ``:`` between variables."""
    has_target: bool | None = None
    inputs: list[NDArray[np.float64]] = []
    targets, places = [], []
    begun = False
    for number, line in _lines(path):
        line = line.strip()
        place = Place(str(path), number)
        if not line or line.startswith("#"):
            continue
        if not begun:
            if not line.startswith("@"):
                raise place.error("expected a line that begins with @, or @data before the cases.")
            name, *rest = line[1:].lower().split()
            if name in ("classlabel", "targetlabel"):
                has_target = rest[:1] == ["true"] or has_target is True
            if name == "timestamps" and rest[:1] == ["true"]:
                raise place.error("time stamps in .ts files are not read; take them out.")
            begun = name == "data"
            continue
        parts = line.split(":")
        if has_target and len(parts) < 2:
            raise place.error("has no label after a colon.")
        cells = parts[:-1] if has_target else parts
        rows = []
        for cell in cells:
            try:
                row = np.array(cell.split(","), dtype=np.float64)
            except ValueError:
                bad = next(c for c in cell.split(",") if _number(c) is None)
                raise place.error(
                    f"{bad.strip()!r:.40} is no number; values that are missing must be filled in."
                ) from None
            if not np.isfinite(row).all():
                raise place.error("holds a number that is not finite; fill it in.")
            rows.append(row)
        if len({len(row) for row in rows}) != 1:
            raise place.error(
                f"variables of {' and '.join(map(str, sorted({len(r) for r in rows})))} steps; "
                "those of one case must be of equal length."
            )
        if inputs and len(rows) != inputs[0].shape[1]:
            raise place.error(f"has {len(rows)} variables, and others {inputs[0].shape[1]}.")
        inputs.append(np.stack(rows, axis=1))
        targets.append(parts[-1].strip())
        places.append(place)
    if not inputs:
        raise DataError("holds no cases (after a line @data).", path=path)
    names = [str(i) for i in range(1, inputs[0].shape[1] + 1)]
    return Corpus("series", inputs, targets if has_target else None, places, names)


def _blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """Numbered lines between blank ones."""
    block: list[tuple[int, str]] = []
    for number, line in _lines(path):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _read_conll(path: Path, settings: ReadingSettings, labelled: bool | None) -> Corpus:
    """A word a line with its columns, a blank line between sentences; the tag stands last."""
    inputs, targets, places, lines = [], [], [], []
    width = None
    for block in _blocks(path):
        words, tags = [], []
        for number, line in block:
            if line.startswith(("-DOCSTART-", "# ")) and len(line.split()) != width:
                continue
            cells = line.split("\t") if "\t" in line else line.split()
            width = len(cells) if width is None else width
            place = Place(str(path), number)
            if len(cells) != width:
                raise place.error(f"has {len(cells)} columns, and others {width}.")
            if cells[0] == "-DOCSTART-":
                continue
            table = Table(path, None, [cells], [number])
            word = 0 if settings.text is None else table.column(settings.text, "the words")
            tag = width - 1 if settings.label is None else table.column(settings.label, "the tags")
            if labelled and tag == word:
                raise place.error("has a single column; expected a word and its tag.")
            words.append(cells[word])
            tags.append(cells[tag])
        if words:
            inputs.append(words)
            targets.append(tags)
            places.append(Place(str(path), block[0][0]))
            lines.append([number for number, _ in block][-len(words) :])
    if not inputs:
        raise DataError("holds no sentences.", path=path)
    there = labelled or (labelled is None and (width or 0) > 1)
    return Corpus("words", inputs, targets if there else None, places, (), lines)


def _read_conllu(path: Path, settings: ReadingSettings, labelled: bool | None) -> Corpus:
    conllu = require("conllu", "conllu", "reading CoNLL-U")
    wanted = settings.label or "upos"
    inputs, targets, places, lines = [], [], [], []
    for block in _blocks(path):
        place = Place(str(path), block[0][0])
        if all(line.startswith("#") for _, line in block):
            continue
        try:
            (sentence,) = conllu.parse("\n".join(line for _, line in block) + "\n\n")
        except (conllu.exceptions.ParseException, ValueError) as error:
            raise place.error(f"the sentence that begins here is no CoNLL-U: {error}") from None
        numbered = [number for number, line in block if not line.startswith("#")]
        words, tags, at = [], [], []
        for token, number in zip(sentence, numbered, strict=False):
            if not isinstance(token["id"], int):
                continue  # a surface form of several words, or an empty node
            tag = token.get(wanted)
            if tag is None:
                tag = next(
                    (token[f][wanted] for f in ("feats", "misc") if wanted in (token.get(f) or {})),
                    None,
                )
            if tag in (None, "_") and labelled and wanted in ("upos", "xpos", "deprel"):
                raise Place(str(path), number).error(f"has no {wanted}.")
            words.append(token["form"])
            tags.append("_" if tag is None else str(tag))
            at.append(number)
        if words:
            inputs.append(words)
            targets.append(tags)
            places.append(place)
            lines.append(at)
    if not inputs:
        raise DataError("holds no sentences.", path=path)
    if labelled and {tag for tags in targets for tag in tags} == {"_"}:
        raise DataError(f"no word has a {wanted!r}; name another column with label.", path=path)
    return Corpus("words", inputs, None if labelled is False else targets, places, (), lines)


# Recordings and images


def _media(paths: Iterable[Path]) -> Iterator[Path]:
    """Recordings and images among paths, and with texts below folders, sorted."""
    for path in paths:
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if not each.name.startswith("."))
            media = [each for each in found if each.suffix.lower() in SOUNDS | IMAGES]
            yield from media or (each for each in found if each.suffix.lower() == ".txt")
        elif path.suffix.lower() in SOUNDS | IMAGES:
            yield path


def _media_kind(names: Sequence[str]) -> Literal["sound", "image", "text"] | None:
    suffixes = {Path(name).suffix.lower() for name in names}
    kinds: dict[Literal["sound", "image", "text"], set[str]] = {
        "sound": SOUNDS,
        "image": IMAGES,
        "text": {".txt"},
    }
    return next((kind for kind, some in kinds.items() if suffixes <= some), None)


def _of_files(files: list[Path], settings: ReadingSettings, labelled: bool | None) -> Corpus:
    kind = _media_kind([file.name for file in files])
    if kind is None:
        raise DataError(
            "recordings and images lie together; name the one or the other.", path=files[0].parent
        )
    places = [Place(str(file)) for file in files]
    inputs: list[Any] = list(files)
    if kind == "text":
        inputs = ["\n".join(line for _, line in _lines(file)) for file in files]
    if labelled is False:
        return Corpus(kind, inputs, None, places)
    if settings.pattern is not None:
        matches = _pattern(settings.pattern)
        labels = []
        for file in files:
            found = matches(file.name)
            if found is None:
                if labelled is None:
                    return Corpus(kind, inputs, None, places)
                raise DataError(f"its name does not match {settings.pattern!r}.", path=file)
            labels.append(found)
        return Corpus(kind, inputs, labels, places)
    labels = [file.resolve().parent.name for file in files]
    if len(set(labels)) == 1:
        if labelled is None:
            return Corpus(kind, inputs, None, places)
        raise DataError(
            f"all {len(files)} files lie in one folder, {labels[0]!r}, whose name would be their "
            "only label; name a folder with a folder for each label in it, or say what the files' "
            f"names look like, as in pattern='{{label}}_{{speaker}}{files[0].suffix}'.",
            path=files[0].parent,
        )
    return Corpus(kind, inputs, labels, places)


def _pattern(pattern: str) -> Callable[[str], str | None]:
    """What finds the label in a file's name, by a pattern such as ``{label}_{speaker}.wav``."""
    parts = re.split(r"(\{\w*\})", pattern)
    names = [part[1:-1] for part in parts if part.startswith("{")]
    if names.count("label") != 1:
        raise OstinatoError(
            f"pattern={pattern!r}: expected {{label}} once, as in {{label}}_{{speaker}}.wav."
        )
    expression = "".join(
        ("(.+?)" if part == "{label}" else ".*?") if part.startswith("{") else re.escape(part)
        for part in parts
    ).replace(r"\*", ".*")
    compiled = re.compile(expression)

    def label_of(name: str) -> str | None:
        found = compiled.fullmatch(name) or compiled.fullmatch(Path(name).stem)
        return found[1] if found else None

    return label_of


def _is_idx(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with _opened(path) as file:
            head = file.read(4)
    except (OSError, EOFError):
        return False
    return len(head) == 4 and head[:3] == b"\0\0\x08" and head[3] in (1, 3, 4)


def _read_idx_file(path: Path) -> NDArray[np.uint8]:
    try:
        with _opened(path) as file:
            data = file.read()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot be read: {error}.", path=path) from error
    axes = data[3]
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    if len(data) != 4 + 4 * axes + math.prod(shape):
        raise DataError(
            f"holds {len(data)} bytes, and its head says {4 + 4 * axes + math.prod(shape)}; "
            "it is damaged.",
            path=path,
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _read_idx(paths: list[Path], labelled: bool | None) -> Corpus:
    """Images and labels in the format of MNIST; labels are found by their file's name."""
    arrays = {path: _read_idx_file(path) for path in paths}
    images = [path for path in paths if arrays[path].ndim > 1]
    given = {path: arrays[path] for path in paths if arrays[path].ndim == 1}
    inputs: list[Any] = []
    targets: list[str] = []
    places = []
    for path in images:
        beside = path.with_name(re.sub("images(.)idx.", r"labels\1idx1", path.name))
        if len(images) == len(given) == 1:
            labels = next(iter(given.values()))
        elif beside != path and beside.exists():
            labels = _read_idx_file(beside)
        elif labelled:
            raise DataError(f"there are no labels for it; expected {beside.name}.", path=path)
        else:
            labels = None
        pixels = arrays[path].reshape(*arrays[path].shape[:3], -1)  # (N, height, width, channels)
        if labels is not None and len(labels) != len(pixels):
            raise DataError(f"holds {len(pixels)} images, for {len(labels)} labels.", path=path)
        inputs += list(pixels)
        targets += [] if labels is None else [str(label) for label in labels.tolist()]
        places += [Place(f"{path}[{i}]") for i in range(len(pixels))]
    if not images:
        raise DataError("holds labels; name the file of the images too.", path=paths[0])
    whole = len(targets) == len(inputs) and labelled is not False
    return Corpus("image", inputs, targets if whole else None, places)


# Objects


def corpus_of(X: Any, y: Any = None, *, by_step: bool = False) -> Corpus:
    """Sequences that are in memory already.

    Args:
        X: texts; lists of words; arrays ``(T, I)`` or ``(T,)``; one array ``(N, T)`` or
            ``(N, T, I)``; images ``(N, height, width)`` as uint8; or paths of recordings or images.
        y: what is wanted of each, or None.
        by_step: whether it is wanted of each step.
    """
    if isinstance(X, str | bytes | os.PathLike):
        raise OstinatoError(
            f"X is {X!r:.60}; expected several sequences, or, for files, pathlib.Path objects."
        )
    inputs: list[Any] = list(X)
    places = [Place(f"X[{i}]") for i in range(len(inputs))]
    if not inputs:
        raise DataError("X is empty; give at least one sequence.")
    targets = None if y is None else list(y)
    if targets is not None and len(targets) != len(inputs):
        raise DataError(f"X has {len(inputs)} sequences, and y {len(targets)} labels.")
    first = inputs[0]
    if isinstance(first, str):
        return _all(Corpus("text", inputs, targets, places), str, "a text")
    if isinstance(first, os.PathLike):
        inputs = [_existing(Path(path), place) for path, place in zip(inputs, places, strict=True)]
        kind = _media_kind([path.name for path in inputs])
        if kind not in ("sound", "image"):
            raise places[0].error(f"is {first!s}; expected a recording or an image.")
        return Corpus(kind, inputs, targets, places)
    if isinstance(first, list | tuple) and first and isinstance(first[0], str):
        return _all(Corpus("words", inputs, targets, places), (list, tuple), "a list of words")
    arrays = []
    for each, place in zip(inputs, places, strict=True):
        try:
            array = np.asarray(each)
            array = array if array.dtype == np.uint8 else array.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise place.error(f"cannot be read as numbers: {error}.") from None
        arrays.append(array)
    if arrays[0].dtype == np.uint8 and arrays[0].ndim in (2, 3):
        pixels = [a.reshape(*a.shape[:2], -1) for a in arrays]
        return Corpus("image", pixels, targets, places)
    arrays = [a[:, None] if a.ndim == 1 else a for a in arrays]
    for array, place in zip(arrays, places, strict=True):
        if array.ndim != 2 or array.shape[1] != arrays[0].shape[1]:
            raise place.error(
                f"has shape {array.shape}; expected (T, {arrays[0].shape[-1]}), as X[0] has."
            )
        if not np.isfinite(array).all():
            t, i = map(int, np.argwhere(~np.isfinite(array))[0])
            raise place.error(f"is {array[t, i]} at step {t}, variable {i}; fill it in.")
    names = [str(i) for i in range(1, arrays[0].shape[1] + 1)]
    return Corpus("series", arrays, targets, places, names)


def _all(corpus: Corpus, kind: Any, what: str) -> Corpus:
    for each, place in zip(corpus.inputs, corpus.places, strict=True):
        if not isinstance(each, kind):
            raise place.error(f"is {each!r:.40}; expected {what}, as X[0] is.")
    return corpus
