"""Tables in text: cells between commas, tabs, semicolons or bars, cut by pandas.

What pandas does not refuse is looked for beside it: rows of another width, and quotation marks
where none may stand. A column is held as text, or as numbers that can be read again as text.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ostinato.data.columns import IDS, LABELS, UNNAMED, WEAK_LABELS, has_header
from ostinato.data.lazy import pd
from ostinato.data.tables import MISSING, Table, TableSettings
from ostinato.data.textfiles import numbered_lines, opened, pieces
from ostinato.errors import DataError

HEAD = 1 << 20  # characters looked at before a table is read

Storage = type[float] | type[str]


class _Survey(NamedTuple):
    """What the rows of a delimited text look like from afar."""

    lines: int
    delimiters: int  # outside quotation marks
    quoted: bool  # whether there are quotation marks,
    strict: bool  # and each stands at the border of a cell or is doubled
    returns: bool  # whether there are carriage returns alone or beside quotation marks


class _Text(NamedTuple):
    """A delimited text, and how it is cut into cells."""

    path: Path
    delimiter: str
    quoting: int  # of `csv`
    skipped: int  # lines before the header, or the first row

    def records(self, head: str | None = None) -> Iterator[tuple[list[str], int]]:
        """Yield the cells of each row and the line that it begins on, by strict rules of quoting.

        ``head`` is the beginning of the text; without it the whole file is read.
        """
        lines: Iterable[str] = (line for _, line in numbered_lines(self.path))
        lines = itertools.islice(lines if head is None else head.split("\n"), self.skipped, None)
        if self.quoting == csv.QUOTE_NONE:
            for number, line in enumerate(lines, start=self.skipped + 1):
                if line.strip(" \t"):
                    yield line.split(self.delimiter), number
            return
        first = self.skipped + 1
        limit = csv.field_size_limit(sys.maxsize)
        try:
            reader = csv.reader(
                (f"{line}\n" for line in lines), delimiter=self.delimiter, strict=True
            )
            for row in reader:
                if len(row) > 1 or "".join(row).strip(" \t"):
                    yield row, first
                first = self.skipped + 1 + reader.line_num
        except csv.Error as error:
            raise DataError(
                f"{error}: a quotation mark stands where none may; within a cell it is doubled.",
                path=self.path,
                line=first,
            ) from None
        finally:
            csv.field_size_limit(limit)

    def first_records(self, head: str) -> list[tuple[list[str], int]]:
        """Return `records` of the head, at most some thousand."""
        found = []
        whole = len(head) < HEAD
        try:
            for record in itertools.islice(self.records(head), 2001):
                found.append(record)
            if not whole and 1 < len(found) < 2001:
                found.pop()  # perhaps cut
        except DataError:
            if whole:
                raise
        if not found and whole:
            raise DataError("is empty; give some rows.", path=self.path)
        if not found:
            raise DataError("has no whole row in its first million characters.", path=self.path)
        return found

    def refuse(self) -> None:
        """Raise a `DataError` at the first row of another width than the first, or badly quoted."""
        records = self.records()
        first, line = next(records)
        for row, number in records:
            if len(row) != len(first):
                raise DataError(
                    f"has {len(row)} cells, and line {line} has {len(first)}.",
                    path=self.path,
                    line=number,
                )

    def survey(self) -> _Survey:
        """Look over the text before pandas cuts it; a `DataError` where it is no text."""
        lines = delimiters = inside = 0
        quoted, strict = False, True
        quote, delimiter, newline = ord('"'), ord(self.delimiter), ord("\n")
        border = np.isin(np.arange(256), [quote, delimiter, newline])
        ends = io.IncrementalNewlineDecoder(None, translate=False)
        tail = b"\n"
        for text in itertools.chain(pieces(self.path, self.skipped, ends), [""]):
            # The last byte waits for the one after it, and comes with the next piece.
            data = tail + (text.encode() or b"\n")
            cells = np.frombuffer(data, np.uint8)
            inner, tail = cells[1:-1], data[-2:]
            lines += int(np.count_nonzero(inner == newline))
            quoted |= b'"' in data and self.quoting != csv.QUOTE_NONE
            if not quoted:
                delimiters += int(np.count_nonzero(inner == delimiter))
                continue
            marks = 1 + np.flatnonzero((inner == quote) | (inner == delimiter))
            quotes = cells[marks] == quote
            within = (np.cumsum(quotes) + inside) & 1
            delimiters += int(np.count_nonzero(~quotes & (within == 0)))
            opening, closing = marks[quotes & (within == 1)], marks[quotes & (within == 0)]
            strict &= bool(border[cells[opening - 1]].all() and border[cells[closing + 1]].all())
            inside = int(within[-1]) if len(within) else inside
        lines += tail[:1] != b"\n"
        found = ends.newlines if isinstance(ends.newlines, tuple) else (ends.newlines,)
        returns = "\r" in found or ("\r\n" in found and quoted)
        return _Survey(lines, delimiters, quoted, strict and not inside, returns)

    def frame(
        self,
        width: int,
        stream: bool,
        storage: Mapping[int, Storage],
        only: Sequence[int] | None = None,
    ) -> pd.DataFrame:
        """Return the rows as a frame with numbered columns.

        pandas reads a file that holds plain text by itself, large ones in parallel.
        """
        with opened(self.path) as file, self.path.open("rb") as raw:
            head = raw.read(4)
            stream |= file.read(4) != head
        stream |= head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            return pd.read_csv(
                _Stream(pieces(self.path, self.skipped)) if stream else str(self.path),
                sep=self.delimiter,
                header=None,
                names=range(width),
                usecols=only,
                index_col=False,
                skiprows=0 if stream else self.skipped,
                dtype=storage,
                keep_default_na=False,
                na_values={i: list(_EMPTY) for i, kind in storage.items() if kind is float},
                quoting=self.quoting,
                lineterminator="\n" if stream else None,
                compression=None,
            )


class _Stream(io.TextIOBase):
    """Text in pieces as a file that pandas reads from."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces

    def read(self, size: int | None = -1) -> str:
        """Read the next piece, whatever the size."""
        return next(self._pieces, "")


def read_delimited(
    path: Path, settings: TableSettings, asked: Collection[str], delimiter: str | None
) -> Table:
    """Read a delimited text; without a delimiter that which its lines agree on."""
    text, head = _begin(path, delimiter)
    if text.delimiter == "\t":
        # A tab-separated file often knows no quoting: quotation marks are part of its text.
        try:
            return _table(text, head, settings, asked)
        except DataError:
            text = text._replace(quoting=csv.QUOTE_NONE)
    return _table(text, head, settings, asked)


def _begin(path: Path, delimiter: str | None) -> tuple[_Text, str]:
    """Return how a file is cut into cells, and its beginning."""
    head = ""
    for piece in pieces(path):
        head += piece
        if len(head) >= HEAD:
            break
    declared = re.match(r"\s*\"?sep=([\x00-\x7f])\"?[ ;,\t|]*\n", head)
    if declared:
        delimiter = declared[1]
    skipped = declared[0].count("\n") if declared else 0
    return _Text(path, delimiter or _delimiter(head), csv.QUOTE_MINIMAL, skipped), head


def delimited_chunks(
    path: Path, settings: TableSettings, asked: Collection[str], delimiter: str | None
) -> Iterator[Table]:
    """Read a delimited text some rows at a time, every cell as text.

    Names and delimiter are those of the first million characters; the decimal mark is what the
    first rows agree on, a point between commas.
    """
    text, head = _begin(path, delimiter)
    try:
        first = text.first_records(head)
    except DataError:
        if text.delimiter != "\t":
            raise
        text = text._replace(quoting=csv.QUOTE_NONE)
        first = text.first_records(head)
    rows = [row for row, _ in first]
    names, named = names_of_columns(path, rows, first[0][1], settings, asked)
    if named and len(rows) == 1:
        raise DataError("has a line of names, and no rows after it.", path=path)
    if named:
        text = text._replace(skipped=first[1][1] - 1)
    decimal = settings.decimal or ("." if text.delimiter == "," else None)
    kept: list[int] | None = None
    for some in chunked(text.records(), lambda record: sum(map(len, record[0]))):
        for row, line in some:
            if len(row) != len(names):
                raise DataError(
                    f"has {len(row)} cells, and line {first[0][1]} has {len(names)}.",
                    path=path,
                    line=line,
                )
        frame = pd.DataFrame([row for row, _ in some], columns=names, dtype=str)
        kept = _kept(frame, names, named) if kept is None else kept
        lines = np.array([line for _, line in some])
        table = Table(
            path, frame.iloc[:, kept], named=named, line=partial(np.copy, lines), decimal=decimal
        )
        decimal = decimal or table.decimal_mark
        yield table


Item = TypeVar("Item")

CHUNK_ROWS = 20_000
"""Rows that are read at a time of a table larger than memory, at most."""

CHUNK_BYTES = 1 << 23
"""Letters, or bytes, of these, about."""


def chunked(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield items a chunk at a time: so many rows, or letters, at most.

    >>> list(chunked("abc", lambda letter: CHUNK_BYTES // 2))
    [['a', 'b'], ['c']]
    """
    some: list[Item] = []
    letters = 0
    for item in items:
        some.append(item)
        letters += size(item)
        if len(some) == CHUNK_ROWS or letters >= CHUNK_BYTES:
            yield some
            some, letters = [], 0
    if some:
        yield some


def _table(text: _Text, head: str, settings: TableSettings, asked: Collection[str]) -> Table:
    """Return a delimited text as a table; a `DataError` at the first row of another width."""
    first = text.first_records(head)
    rows = [row for row, _ in first]
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        text.refuse()
    names, named = names_of_columns(text.path, rows, first[0][1], settings, asked)
    if named and len(rows) == 1:
        raise DataError("has a line of names, and no rows after it.", path=text.path)
    body = text._replace(skipped=first[1][1] - 1) if named else text
    survey = body.survey()
    # pandas skips rows where these are lines, and may be cut at one within quotation marks.
    read = partial(body.frame, width, survey.returns or (named and "\n" in "".join(rows[0])))
    usual = {*asked, *LABELS, *WEAK_LABELS, *IDS}
    columns = enumerate(zip(*rows[int(named) :], strict=True))
    storage = {i: _storage(cells, not named or names[i].lower() in usual) for i, cells in columns}
    held = {i: kind for i, kind in storage.items() if kind is not None}
    try:
        try:
            frame = read(held)
        except ValueError:  # a column of numbers holds something else later on
            frame = read({i: kind for i, kind in held.items() if kind is str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        text.refuse()
        raise DataError(f"is no table: {' '.join(str(error).split())}", path=text.path) from None
    if not survey.strict or survey.delimiters != len(frame) * (width - 1):
        text.refuse()
    odd = [i for i in range(width) if frame[i].dtype.kind not in "iuf" and frame[i].dtype != "str"]
    if odd:
        frame[odd] = read(dict.fromkeys(odd, str), odd)
    kept = _kept(frame, names, named)
    frame = frame if len(kept) == width else frame[kept]
    frame.columns = [names[i] for i in kept]
    whole = survey.lines == len(frame)  # a line a row
    return Table(
        text.path,
        frame,
        named=named,
        line=body.skipped + 1 if whole else lambda: np.array([n for _, n in body.records()]),
        reread=lambda i: read({kept[i]: str}, [kept[i]])[kept[i]],
        # Without quotation marks no cell has a comma where commas are between cells.
        decimal=settings.decimal or ("." if text.delimiter == "," and not survey.quoted else None),
    )


def _kept(frame: pd.DataFrame, names: Sequence[str], named: bool) -> list[int]:
    """Return the columns that are any: a delimiter at the end of each line makes one more."""
    nameless = [UNNAMED.fullmatch(name) or (not named and len(names) > 1) for name in names]
    return [i for i, none in enumerate(nameless) if not (none and (frame.iloc[:, i] == "").all())]


def _storage(cells: Sequence[str], named: bool) -> Storage | None:
    """How to hold a column whose first cells are these; its content does not depend on it.

    Few whole numbers under a name of labels or ids are likely to be asked for as text.

    Numbers are read again as text where they are asked for as that, or turn out to be something
    else; so are columns left to pandas (None) that are no text throughout.
    """
    filled = [cell for cell in cells if cell.strip().lower() not in MISSING]
    if filled and all(_NUMBER.fullmatch(cell) for cell in filled):
        few = len(set(cells)) <= max(20, len(cells) // 2)
        whole = all(cell.lstrip("+-").isdecimal() for cell in filled)
        return str if named and whole and few else float
    return str if {cell.lower() for cell in filled} <= {"true", "false"} else None


_EMPTY = {form for word in MISSING for form in (word, word.upper(), word.title())} | {"NaN"}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _delimiter(head: str) -> str:
    """Return the candidate that most lines hold equally often, the oftener the better."""
    some = [line for line in head.split("\n", 51)[:50] if line.strip()]
    found = {d: Counter(line.count(d) for line in some).most_common(1) for d in ",\t;|"}
    return max(found, key=lambda d: [(times, count) for count, times in found[d] if count])


def names_of_columns(
    path: Path,
    rows: Sequence[Sequence[str]],
    line: int,
    settings: TableSettings,
    asked: Collection[str],
) -> tuple[list[str], bool]:
    """Return the names of columns, and whether they are those in the first row, which is on a line.

    Otherwise they are numbers from 1.
    """
    if not (has_header(rows, asked) if settings.header is None else settings.header):
        return [str(i) for i in range(1, len(rows[0]) + 1)], False
    names = [" ".join(name.split()) for name in rows[0]]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(f"names two columns {twice[0]!r}.", path=path, line=line)
    return [name or f"Unnamed: {i}" for i, name in enumerate(names)], True
