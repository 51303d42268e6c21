"""Tables in text: cells between commas, tabs, semicolons or bars, cut by pandas.

What pandas does not refuse is looked for beside it: rows of another width, and quotation marks
where none may stand. A column is held as text, or as numbers that can be read again as text.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import re
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.columns import IDS, LABELS, UNNAMED, WEAK_LABELS, has_header
from ostinato.data.lazy import pd
from ostinato.data.tables import MISSING, Table, TableSettings
from ostinato.data.textfiles import LineEnds, after, decoded, numbered_lines, opened, pieces
from ostinato.errors import DataError

__all__ = ["names_of_columns", "read_delimited"]

HEAD = 1 << 20  # characters looked at before a table is read


class _Dialect(NamedTuple):
    """How a delimited text is cut into cells."""

    delimiter: str
    quoting: int
    skipped: int  # lines before the header, or the first row


class _Survey(NamedTuple):
    """What the rows of a delimited text look like from afar.

    Attributes:
        lines: of the text.
        delimiters: outside quotation marks.
        quoted: whether there are quotation marks.
        strict: whether every quotation mark stands at the border of a cell or is doubled.
        returns: whether there are carriage returns, and lone ones or beside quotation marks.
    """

    lines: int
    delimiters: int
    quoted: bool
    strict: bool
    returns: Literal["", "before newlines", "elsewhere"]


def _survey(path: Path, dialect: _Dialect, skipped: int) -> _Survey:
    """Look over a file before pandas cuts it; a `DataError` where it is no text."""
    lines = delimiters = inside = 0
    quoted, strict = False, True
    quote, delimiter, newline = ord('"'), ord(dialect.delimiter), ord("\n")
    border = np.zeros(256, dtype=bool)
    border[[quote, delimiter, newline]] = True
    tail = b"\n"
    ends = LineEnds()
    for text in itertools.chain(after(map(ends, decoded(path)), skipped), [""]):
        data = text.encode()
        cells = np.frombuffer(data, np.uint8)
        lines += int(np.count_nonzero(cells == newline))
        quoted |= b'"' in data and dialect.quoting != csv.QUOTE_NONE
        if quoted:
            cells = np.frombuffer(tail + (data or b"\n"), np.uint8)
            marks = np.flatnonzero((cells == quote) | (cells == delimiter))
            marks = marks[(marks > 0) & (marks < len(cells) - 1)]
            quotes = cells[marks] == quote
            within = (np.cumsum(quotes) + inside) & 1
            delimiters += int(np.count_nonzero(~quotes & (within == 0)))
            opening, closing = marks[quotes & (within == 1)], marks[quotes & (within == 0)]
            strict &= bool(border[cells[opening - 1]].all() and border[cells[closing + 1]].all())
            inside = int(within[-1]) if len(within) else inside
        else:
            delimiters += int(np.count_nonzero(cells == delimiter))
        tail = (tail + data)[-2:]
    lines += tail[-1:] != b"\n"
    returns: Literal["", "before newlines", "elsewhere"] = "before newlines" if ends.pairs else ""
    if ends.alone or (ends.pairs and quoted):
        returns = "elsewhere"
    return _Survey(lines, delimiters, quoted, strict and not inside, returns)


class _Stream:
    """Text in pieces as a file that pandas reads from."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._rest = ""

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def read(self, size: int = -1) -> str:
        """Read at most ``size`` characters."""
        self._rest = self._rest or next(self._pieces, "")
        size = len(self._rest) if size < 0 else size
        text, self._rest = self._rest[:size], self._rest[size:]
        return text


def read_delimited(
    path: Path, settings: TableSettings, asked: Collection[str], delimiter: str | None
) -> Table:
    """Read a delimited text; without a delimiter that which its lines agree on."""
    head = _head(path, 0)
    declared = re.match(r"\s*\"?sep=(.)\"?[ ;,\t|]*(\n|$)", head)
    skipped = 0
    if declared:
        delimiter = declared[1]
        skipped = declared[0].count("\n")
        head = _head(path, skipped)
    if not head.strip():
        raise DataError("is empty; give some rows.", path=path)
    dialect = _Dialect(delimiter or _delimiter(head), csv.QUOTE_MINIMAL, skipped)
    if dialect.delimiter == "\t":
        # A tab-separated file often knows no quoting: quotation marks are part of its text.
        try:
            return _parsed(path, head, dialect, settings, asked)
        except DataError:
            dialect = dialect._replace(quoting=csv.QUOTE_NONE)
    return _parsed(path, head, dialect, settings, asked)


def _head(path: Path, skipped: int) -> str:
    """The beginning of a text."""
    head = ""
    for piece in pieces(path, skipped):
        head += piece
        if len(head) >= HEAD:
            break
    return head


def _parsed(
    path: Path, head: str, dialect: _Dialect, settings: TableSettings, asked: Collection[str]
) -> Table:
    """A delimited text as a table; a `DataError` at the first row of another width."""
    rows = _head_rows(path, head, dialect)
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        _refuse_rows(path, dialect)
    header = settings.header
    if header is None:
        header = has_header(rows, asked)
    names, skipped = names_of_columns(path, rows, header, dialect.skipped + 1), dialect.skipped
    # pandas skips rows where these are lines, and may be cut at one within quotation marks.
    end = _end_of_record(head, dialect) if header else 0
    skipped += head[:end].count("\n")
    rows = rows[1:] if header else rows
    if header and not rows:
        raise DataError("has a line of names, and no rows after it.", path=path)
    survey = _survey(path, dialect, skipped)
    usual = {*asked, *LABELS, *WEAK_LABELS, *IDS}
    storage = [
        _storage([row[i] for row in rows], not header or names[i].lower() in usual)
        for i in range(width)
    ]
    as_stream = survey.returns == "elsewhere" or '"' in head[:end]
    returns = "elsewhere" if as_stream else survey.returns
    read = partial(_cells, path, width, dialect, skipped, returns)
    held = {i: kind for i, kind in enumerate(storage) if kind}
    try:
        try:
            frame = read(held)
        except ValueError:  # a column of numbers holds something else later on
            frame = read({i: kind for i, kind in held.items() if kind == "text"})
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        _refuse_rows(path, dialect)
        raise DataError(f"is no table: {' '.join(str(error).split())}", path=path) from None
    last = frame.iloc[:, -1]
    uneven = survey.delimiters != len(frame) * (width - 1)
    if not survey.strict or (uneven and (width == 1 or (last.isna() | (last == "")).any())):
        _refuse_rows(path, dialect)
    odd = [i for i in range(width) if not _is_one_thing(frame[i])]
    if odd:
        again = read(dict.fromkeys(odd, "text"), odd)
        frame = pd.DataFrame({i: again[i] if i in odd else frame[i] for i in range(width)})
    # A delimiter at the end of every line makes a column without a name or a cell.
    nameless = [UNNAMED.fullmatch(name) or (not header and width > 1) for name in names]
    kept = [i for i in range(width) if not (nameless[i] and (frame[i] == "").all())]
    frame = frame if len(kept) == width else frame[kept]
    frame.columns = [names[i] for i in kept]
    return Table(
        path,
        frame,
        named=header,
        line=skipped + 1
        if survey.lines == len(frame)
        else lambda: _lines_of_rows(path, dialect, header),
        reread=lambda i: read({kept[i]: "text"}, [kept[i]])[kept[i]],
        # Without quotation marks no cell has a comma where commas are between cells.
        decimal=settings.decimal
        or ("." if dialect.delimiter == "," and not survey.quoted else None),
    )


Storage = Literal["number", "text", ""]


def _cells(
    path: Path,
    width: int,
    dialect: _Dialect,
    skipped: int,
    returns: str,
    storage: Mapping[int, Storage],
    only: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Rows of a text as a frame with numbered columns.

    pandas reads a file that holds plain text by itself, large ones in parallel; others as a stream.
    """
    with opened(path) as file, path.open("rb") as raw:
        head = raw.read(4)
        plain = file.read(4) == head and returns != "elsewhere"
    plain = plain and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    plain = plain and not (head.startswith(codecs.BOM_UTF8) and not skipped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        return pd.read_csv(
            str(path) if plain else _Stream(pieces(path, skipped)),
            sep=dialect.delimiter,
            header=None,
            names=range(width),
            usecols=only,
            index_col=False,
            skiprows=skipped if plain else 0,
            dtype={i: float if kind == "number" else str for i, kind in storage.items()},
            keep_default_na=False,
            na_values={i: list(_EMPTY) for i, kind in storage.items() if kind == "number"},
            quoting=dialect.quoting,
            lineterminator=None if plain and returns else "\n",
            compression=None,
        )


def _is_one_thing(series: pd.Series) -> bool:
    """Tell whether a column came out as numbers or as text throughout."""
    if series.dtype.kind in "iuf":
        return True
    return series.dtype.kind == "O" and (
        str(series.dtype) != "object" or all(type(cell) is str for cell in series)
    )


def _storage(cells: Sequence[str], named: bool) -> Storage:
    """How to hold a column whose first cells are these; its content does not depend on it.

    Few whole numbers under a name of labels or ids are likely to be asked for as text.

    Numbers are read again as text where they are asked for as that, or turn out to be something
    else; so are columns left to pandas ("") that are no text throughout.
    """
    filled = [cell for cell in cells if cell.strip().lower() not in MISSING]
    if filled and all(_NUMBER.fullmatch(cell) for cell in filled):
        few = len(set(cells)) <= max(20, len(cells) // 2)
        whole = all(cell.lstrip("+-").isdecimal() for cell in filled)
        return "text" if named and whole and few else "number"
    return "text" if {cell.lower() for cell in filled} <= {"true", "false"} else ""


_EMPTY = tuple({form for word in MISSING for form in (word, word.upper(), word.title())} | {"NaN"})
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _delimiter(head: str) -> str:
    some = [line for line in head.split("\n", 51)[:50] if line.strip()]
    # The candidate that most lines hold equally often, the oftener the better.
    found = {d: Counter(line.count(d) for line in some).most_common(1)[0] for d in ",\t;|"}
    steady = {d: (times, count) for d, (count, times) in found.items() if count}
    return max(steady, key=lambda d: steady[d]) if steady else ","


def _head_rows(path: Path, head: str, dialect: _Dialect) -> list[list[str]]:
    """The first rows of a text, at most some thousand."""
    rows: list[list[str]] = []
    whole = len(head) < HEAD
    records = _records(enumerate(head.split("\n"), start=1), dialect)
    try:
        for row, _ in itertools.islice(records, 2001):
            rows.append(row)
        if not whole and 1 < len(rows) < 2001:
            rows.pop()  # perhaps cut
    except _Malformed as error:
        if whole:
            raise DataError(str(error), path=path, line=error.line + dialect.skipped) from None
    if not rows:
        raise DataError("has no whole row in its first million characters.", path=path)
    return rows


class _Malformed(ValueError):
    """A quotation mark where none may stand."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def _records(
    lines: Iterable[tuple[int, str]], dialect: _Dialect
) -> Iterator[tuple[list[str], int]]:
    """Cells of each row and the line that it begins on, by the rules of quoting, strictly."""
    if dialect.quoting == csv.QUOTE_NONE:
        yield from ((line.split(dialect.delimiter), n) for n, line in lines if line.strip(" \t"))
        return
    limit = csv.field_size_limit(sys.maxsize)
    first = 0

    def text() -> Iterator[str]:
        nonlocal first
        for number, line in lines:
            first = first or number
            yield line + "\n"

    try:
        reader = csv.reader(text(), delimiter=dialect.delimiter, strict=True)
        while True:
            first = 0
            row = next(reader, None)
            if row is None:
                return
            if row and (len(row) > 1 or row[0].strip(" \t") or dialect.delimiter in " \t"):
                yield row, first
    except csv.Error as error:
        message = f"{error}: a quotation mark stands where none may; within a cell it is doubled."
        raise _Malformed(message, first) from None
    finally:
        csv.field_size_limit(limit)


def _end_of_record(head: str, dialect: _Dialect) -> int:
    """Characters of the first record, with blank lines before it."""
    at, inside, filled = 0, False, False
    for line in head.split("\n"):
        at += len(line) + 1
        filled |= bool(line.strip())
        if dialect.quoting != csv.QUOTE_NONE:
            inside ^= line.count('"') % 2 == 1
        if filled and not inside:
            break
    return min(at, len(head))


def _refuse_rows(path: Path, dialect: _Dialect) -> None:
    """Raise a `DataError` at the first row of another width than the first, or badly quoted."""
    try:
        width, first = None, 0
        for row, number in _records(_numbered(path, dialect), dialect):
            if width is None:
                width, first = len(row), number
            if len(row) != width:
                raise DataError(
                    f"has {len(row)} cells, and line {first} has {width}.", path=path, line=number
                )
    except _Malformed as error:
        raise DataError(str(error), path=path, line=error.line) from None


def _numbered(path: Path, dialect: _Dialect) -> Iterator[tuple[int, str]]:
    return ((n, line) for n, line in numbered_lines(path) if n > dialect.skipped)


def _lines_of_rows(path: Path, dialect: _Dialect, header: bool) -> NDArray[np.int64]:
    found = [number for _, number in _records(_numbered(path, dialect), dialect)]
    return np.array(found[1:] if header else found, dtype=np.int64)


def names_of_columns(
    path: Path, rows: Sequence[Sequence[str]], header: bool, line: int
) -> list[str]:
    """Names of columns: those in the first row, which is on a line, or numbers from 1."""
    if not header:
        return [str(i) for i in range(1, len(rows[0]) + 1)]
    names = [" ".join(name.split()) for name in rows[0]]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(f"names two columns {twice[0]!r}.", path=path, line=line)
    return [name or f"Unnamed: {i}" for i, name in enumerate(names)]
