"""Formats of tables: one row of `FORMATS` says which reader serves which suffix.

Text is read as text: what is a number, a date or a label is decided later, by whoever needs it.
Whatever a format's library raises becomes a `DataError` with the file, and the line where there is
one. A suffix that is not known, or none, is no reason to refuse: the file is looked into.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ostinato.data.columns import UNNAMED, has_header
from ostinato.data.tables import MISSING, Table, TableSettings, as_frame
from ostinato.errors import DataError, OstinatoError, require

__all__ = ["FORMATS", "FormatName", "is_table", "numbered_lines", "opened",
           "read_table"]  # fmt: skip

FormatName = Literal["csv", "tsv", "jsonl", "json", "parquet", "feather", "excel"]

PIECE = 1 << 18  # characters read at a time
HEAD = 1 << 20  # characters looked at before a table is read
ROWS = 1 << 18  # rows that pandas parses at a time


class Format(NamedTuple):
    """A format of tables.

    Attributes:
        name: what ``format`` calls it.
        suffixes: of its files, in lower case.
        read: the reader.
        extra: modules that it needs, and the extra of Ostinato that brings them.
    """

    name: FormatName
    suffixes: tuple[str, ...]
    read: Callable[[Path, TableSettings, Collection[str]], Table]
    extra: tuple[tuple[str, ...], str] = ((), "")


def read_table(
    path: str | os.PathLike[str],
    settings: TableSettings | None = None,
    asked: Collection[str] = (),
) -> Table:
    """Read a file as a table.

    Args:
        path: the file, perhaps compressed (.gz, .bz2, .xz, .zip, .zst); ``-`` is standard input.
        settings: how it is read.
        asked: names that columns are asked for by, which tell a header from data.

    Raises:
        DataError: naming the file, and the line where there is one.
        MissingExtra: the format needs a package that is not installed.
    """
    path = Path(path)
    settings = settings or TableSettings()
    if settings.format is None:
        found = _by_suffix(path) or _by_content(path)
    else:
        named = {each.name: each for each in FORMATS}
        if settings.format not in named:
            raise OstinatoError(
                f"format={settings.format!r}; expected one of {', '.join(get_args(FormatName))}."
            )
        found = named[settings.format]
    modules, extra = found.extra
    for module in modules:
        require(module, extra, f"reading {path.name}")
    table = found.read(path, settings, {name.strip().lower() for name in asked})
    if not len(table) or not table.names:
        raise DataError("is empty; give some rows.", path=path)
    return table


_MAGIC: dict[bytes, FormatName] = {
    b"PAR1": "parquet",
    b"ARROW1": "feather",
    b"\xd0\xcf\x11\xe0": "excel",
}


def is_table(path: Path) -> bool:
    """Tell whether a file's name says that it is a table."""
    return _by_suffix(path) is not None


def _by_suffix(path: Path) -> Format | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return next((f for f in FORMATS if suffixes and suffixes[-1] in f.suffixes), None)


def _by_content(path: Path) -> Format:
    """The format that a file's first bytes speak of; lines of text are CSV."""
    named = {each.name: each for each in FORMATS}
    with _as_data_error(path), path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name in ("xl/workbook.xml", "content.xml") for name in names):
                return named["excel"]
            inner = _by_suffix(Path(names[0])) if len(names) == 1 else None
            if inner is not None:
                return inner
    with opened(path) as file:
        head = file.read(4096)
    for magic, name in (
        (b"PAR1", "parquet"),
        (b"ARROW1", "feather"),
        (b"\xd0\xcf\x11\xe0", "excel"),
    ):
        if head.startswith(magic):
            return named[name]  # type: ignore[index]
    text = head.lstrip(codecs.BOM_UTF8).lstrip()
    if text[:1] == b"[":
        return named["json"]
    if re.match(rb'\{\s*("|\})', text):
        return named["jsonl" if re.match(rb"\{[^\n]*\}\s*\n\s*\{", text) else "json"]
    return named["csv"]


_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)
"""What reading bytes raises, packed or not."""


@contextmanager
def _as_data_error(path: Path, library: str | None = None) -> Iterator[None]:
    """Turn what reading a file raises into a `DataError`; all that a format's library raises."""
    try:
        yield
    except (OstinatoError, MemoryError):
        raise
    except _UNREADABLE as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot be read: {said}.", path=path) from error
    except Exception as error:
        if library is None:
            raise
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"cannot be read as {library}: {said}.", path=path) from error


# Files as bytes and as text


@contextmanager
def _zip(file: IO[bytes]) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
        names = [name for name in names if not name.endswith("/")]
        if len(names) != 1:
            raise DataError(
                f"holds {len(names)} files ({', '.join(names[:5])}); expected one: unpack it.",
                path=file.name,
            )
        with archive.open(names[0]) as member:
            yield member


@contextmanager
def _zstd(file: IO[bytes]) -> Iterator[IO[bytes]]:
    module = require("zstandard", "tables", "reading .zst")
    try:
        with module.ZstdDecompressor().stream_reader(file, read_across_frames=True) as unpacked:
            yield unpacked
    except module.ZstdError as error:
        raise OSError(str(error)) from error


PACKED: dict[str, tuple[bytes, Callable[[Any], Any]]] = {
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.open),
    ".xz": (b"\xfd7zXZ\0", lzma.open),
    ".zst": (b"\x28\xb5\x2f\xfd", _zstd),
    ".zip": (b"PK\x03\x04", _zip),
}
"""Of each suffix of compressed files, how they begin and what unpacks them."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read its bytes, unpacked if it is compressed; standard input for ``-``."""
    if str(path) == "-":
        yield io.BytesIO(sys.stdin.buffer.read())
        return
    with _as_data_error(path), path.open("rb") as file:
        head = file.peek(6)[:6]
        for suffix, (magic, unpack) in PACKED.items():
            if head.startswith(magic) and (suffix != ".bz2" or head[3:4].isdigit()):
                with unpack(file) as unpacked:
                    yield unpacked
                return
        if path.suffix.lower() in PACKED and head:
            raise DataError(f"is no {path.suffix} file; rename it.", path=path)
        yield file


def _pieces(path: Path) -> Iterator[str]:
    r"""The text of a file in pieces, with ``\n`` at the end of lines and no byte order mark."""
    ended_by_cr: bool | None = None
    line, held = 1, ""
    with opened(path) as file:
        data = file.read(PIECE)
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
        while True:
            try:
                text = held + decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(error.encoding, "replace")
                raise DataError(
                    f"byte 0x{error.object[error.start]:02X} is not valid UTF-8; convert the file, "
                    "if it is Latin-1 with iconv -f LATIN1 -t UTF-8.",
                    path=path,
                    line=line + before.count("\n"),
                ) from None
            held = ""
            if ended_by_cr is None and text:
                ended_by_cr = "\r" in text[:-1] and "\n" not in text
            if "\r" in text:
                if text.endswith("\r") and data:
                    text, held = text[:-1], "\r"
                text = text.replace("\r\n", "\n")
                text = text.replace("\r", "\n") if ended_by_cr else text
            if "\0" in text:
                raise DataError(
                    "holds a zero byte: no text file, or UTF-16 without a byte order mark.",
                    path=path,
                    line=line + text[: text.index("\0")].count("\n"),
                )
            line += text.count("\n")
            if text:
                yield text
            if not data:
                return
            data = file.read(PIECE)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file, compressed or not, without their ends."""
    rest, number = "", 0
    for piece in _pieces(path):
        *lines, rest = (rest + piece).split("\n")
        for number, line in enumerate(lines, start=number + 1):  # noqa: B020
            yield number, line
    if rest:
        yield number + 1, rest


# Delimited text


class _Watched:
    """Text in pieces, as a file that pandas reads from, and what was noticed on the way.

    Attributes:
        lines: that were read.
        delimiters: outside quotation marks.
        quoted: whether there are quotation marks.
        strict: whether every quotation mark stands at the border of a cell or is doubled.
    """

    def __init__(self, pieces: Iterator[str], delimiter: str) -> None:
        self._pieces = pieces
        self._rest = ""
        self._delimiter = delimiter
        self._tail = "\n"
        self._inside = 0
        self.lines = self.delimiters = 0
        self.ended = True
        self.quoted = False
        self.strict = True

    def __iter__(self) -> Iterator[str]:
        return iter(partial(self.read, PIECE), "")

    def read(self, size: int = -1) -> str:
        if not self._rest:
            self._rest = next(self._pieces, "")
            self._watch(self._rest)
        size = len(self._rest) if size < 0 else size
        text, self._rest = self._rest[:size], self._rest[size:]
        return text

    def _watch(self, piece: str) -> None:
        self.lines += piece.count("\n")
        self.ended = piece.endswith("\n") if piece else self.ended
        if not self.quoted and '"' not in piece:
            self.delimiters += piece.count(self._delimiter)
            self._tail = (self._tail + piece)[-2:]
            return
        self.quoted = True
        text = (self._tail + (piece or "\n")).encode()
        data = np.frombuffer(text, np.uint8)
        marks = np.flatnonzero((data == ord('"')) | (data == ord(self._delimiter)))
        marks = marks[(marks > 0) & (marks < len(data) - 1)]
        quotes = data[marks] == ord('"')
        inside = (np.cumsum(quotes) + self._inside) & 1
        self.delimiters += int((~quotes & (inside == 0)).sum())
        border = np.zeros(256, dtype=bool)
        border[[ord('"'), ord(self._delimiter), ord("\n")]] = True
        opening, closing = marks[quotes & (inside == 1)], marks[quotes & (inside == 0)]
        self.strict &= bool(border[data[opening - 1]].all() and border[data[closing + 1]].all())
        self._inside = int(inside[-1]) if len(inside) else self._inside
        self._tail = (self._tail + piece)[-2:]


class _Dialect(NamedTuple):
    """How a delimited text is cut into cells."""

    delimiter: str
    quoting: int
    skipped: int  # lines before the header, or the first row


def _read_delimited(
    path: Path, settings: TableSettings, asked: Collection[str], delimiter: str | None
) -> Table:
    pieces = _pieces(path)
    head = ""
    for piece in pieces:
        head += piece
        if len(head) >= HEAD:
            break
    if not head.strip():
        raise DataError("is empty; give some rows.", path=path)
    declared = re.match(r"\s*\"?sep=(.)\"?[ ;,\t|]*(\n|$)", head)
    skipped = 0
    if declared:
        delimiter = declared[1]
        skipped = head[: declared.end()].count("\n")
        head = head[declared.end() :]
        if not head.strip():
            raise DataError("is empty; give some rows.", path=path)
    delimiter = delimiter or _delimiter(head)
    text = itertools.chain([head], pieces)
    quoted = _Dialect(delimiter, csv.QUOTE_MINIMAL, skipped)
    if delimiter != "\t":
        return _parsed(path, text, head, quoted, settings, asked)
    # A tab-separated file often knows no quoting: quotation marks are part of its text.
    try:
        return _parsed(path, text, head, quoted, settings, asked)
    except DataError:
        plain = quoted._replace(quoting=csv.QUOTE_NONE)
        return _parsed(path, _after(path, skipped), head, plain, settings, asked)


def _after(path: Path, skipped: int) -> Iterator[str]:
    """The text of a file without its first lines."""
    for piece in _pieces(path):
        while skipped and "\n" in piece:
            piece = piece.partition("\n")[2]
            skipped -= 1
        if not skipped and piece:
            yield piece


def _parsed(
    path: Path,
    text: Iterator[str],
    head: str,
    dialect: _Dialect,
    settings: TableSettings,
    asked: Collection[str],
) -> Table:
    """A delimited text as a table; a `DataError` at the first row of another width."""
    import pandas

    rows = _head_rows(path, head, dialect)
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        _refuse_rows(path, dialect)
    header = settings.header
    if header is None:
        header = has_header(rows, asked)
    names, start = _names(path, rows, header, dialect), 0
    if header:
        start = _end_of_record(head, dialect)
        rows = rows[1:]
    watched = _Watched(_skipping(text, start), dialect.delimiter)
    storage = [_storage([row[i] for row in rows]) for i in range(width)]
    columns = [_Parts(pandas, each) for each in storage]
    try:
        for chunk in _chunks(pandas, watched, width, dialect, storage):
            for i, parts in enumerate(columns):
                parts.append(chunk[i])
    except (pandas.errors.ParserError, csv.Error) as error:
        _refuse_rows(path, dialect)
        raise DataError(f"is no table: {' '.join(str(error).split())}", path=path) from None
    except pandas.errors.EmptyDataError:
        pass
    count = columns[0].count
    if header and not count:
        raise DataError("has a line of names, and no rows after it.", path=path)
    even = watched.delimiters == count * (width - 1)
    if (dialect.quoting != csv.QUOTE_NONE and watched.quoted and not watched.strict) or (
        (columns[-1].blank or width == 1) and not even
    ):
        _refuse_rows(path, dialect)
    first = dialect.skipped + head[:start].count("\n") + 1
    lines = watched.lines + (not watched.ended)
    regular = lines == count

    def reread(column: int) -> Any:
        stream = _Watched(_skipping(_after(path, dialect.skipped), start), dialect.delimiter)
        again = _chunks(pandas, stream, width, dialect, [str] * width, [column])
        return pandas.concat([chunk[column] for chunk in again], ignore_index=True)

    joined = {}
    for i, name in enumerate(names):
        series = columns[i].joined()
        joined[name] = reread(i) if series is None else series
    frame = pandas.DataFrame(joined, columns=names, copy=False)
    # A delimiter at the end of every line makes a column without a name or a cell.
    kept = [
        i
        for i in range(width)
        if not (header and UNNAMED.fullmatch(names[i]) and _blank(frame.iloc[:, i]))
    ]
    return Table(
        path,
        frame if len(kept) == width else frame.iloc[:, kept],
        named=header,
        line=first if regular else lambda: _lines_of_rows(path, dialect, header),
        reread=lambda i: reread(kept[i]),
        decimal=settings.decimal,
    )


def _blank(series: Any) -> bool:
    return bool((series.isna() | (series == "")).all())


def _skipping(text: Iterator[str], start: int) -> Iterator[str]:
    """Text without its first characters."""
    for piece in text:
        cut, start = piece[start:], max(0, start - len(piece))
        if cut:
            yield cut


def _chunks(
    pandas: Any,
    stream: _Watched,
    width: int,
    dialect: _Dialect,
    storage: Sequence[Any],
    only: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Rows of a text in frames, some hundred thousand at a time."""
    numbers = [i for i in range(width) if storage[i] is None]
    exact = {} if pandas.__version__ >= "3.1" else {"float_precision": "round_trip"}
    reader = pandas.read_csv(
        stream,
        sep=dialect.delimiter,
        header=None,
        names=range(width),
        usecols=only,
        index_col=False,
        dtype={i: kind for i, kind in enumerate(storage) if kind is not None},
        keep_default_na=False,
        na_values={i: list(_EMPTY) for i in numbers},
        quoting=dialect.quoting,
        lineterminator="\n",
        chunksize=ROWS,
        low_memory=False,
        **exact,
    )
    with reader:
        yield from reader


_EMPTY = tuple({form for word in MISSING for form in (word, word.upper(), word.title())} | {"NaN"})


def _storage(cells: Sequence[str]) -> Any:
    """How to hold a column whose first cells are these; what it says does not depend on it.

    None is a column of parsed numbers, to be read again as text where it is asked for as that or
    turns out to hold something else; object one of few texts, kept as their numbers.
    """
    filled = [cell for cell in cells if cell.strip().lower() not in MISSING]
    few = len(set(cells)) <= max(20, len(cells) // 2) and len(cells) >= 100
    if filled and all(_NUMBER.fullmatch(cell) for cell in filled):
        whole = all(cell.lstrip("+-").isdecimal() for cell in filled)
        return object if whole and few else None
    return object if few else str


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class _Parts:
    """A column of a text, chunk by chunk.

    Attributes:
        count: rows so far.
        blank: whether a cell is empty.
    """

    def __init__(self, pandas: Any, storage: Any) -> None:
        self._pandas = pandas
        self._storage = storage
        self._parts: list[Any] = []
        self._codes: dict[str, int] = {}
        self.count = 0
        self.blank = False

    def append(self, series: Any) -> None:
        self.count += len(series)
        if self._storage is object:
            numbers, cells = self._pandas.factorize(series.to_numpy())
            known = [self._codes.setdefault(cell, len(self._codes)) for cell in cells]
            self._parts.append(np.array(known, dtype=np.int32)[numbers])
            self.blank = "" in self._codes
            return
        self._parts.append(series)
        self.blank |= bool((series.isna() | (series == "")).any())

    def joined(self) -> Any:
        """The whole; None where parsed numbers turned out to be something else."""
        parts, self._parts = self._parts, []
        pandas = self._pandas
        if not parts:
            return pandas.Series([], dtype=str)
        if self._storage is object:
            cells = pandas.Index(list(self._codes), dtype=str)
            return pandas.Series(pandas.Categorical.from_codes(np.concatenate(parts), cells))
        if self._storage is None and any(part.dtype.kind not in "iuf" for part in parts):
            return None
        return pandas.concat(parts, ignore_index=True)


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
    begun = 0

    def text() -> Iterator[str]:
        nonlocal begun
        for number, line in lines:
            begun = begun or number
            yield line + "\n"

    try:
        reader = csv.reader(text(), delimiter=dialect.delimiter, strict=True)
        while True:
            begun = 0
            row = next(reader, None)
            if row is None:
                return
            if row and (len(row) > 1 or row[0].strip(" \t") or dialect.delimiter in " \t"):
                yield row, begun
    except csv.Error as error:
        said = f"{error}: a quotation mark stands where none may."
        raise _Malformed(said, begun) from None
    finally:
        csv.field_size_limit(limit)


def _end_of_record(head: str, dialect: _Dialect) -> int:
    """Characters of the first record, with blank lines before it."""
    at, inside, begun = 0, False, False
    for line in head.split("\n"):
        at += len(line) + 1
        begun |= bool(line.strip())
        if dialect.quoting != csv.QUOTE_NONE:
            inside ^= line.count('"') % 2 == 1
        if begun and not inside:
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


def _names(path: Path, rows: Sequence[Sequence[str]], header: bool, dialect: _Dialect) -> list[str]:
    if not header:
        return [str(i) for i in range(1, len(rows[0]) + 1)]
    names = [" ".join(name.split()) for name in rows[0]]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(f"names two columns {twice[0]!r}.", path=path, line=dialect.skipped + 1)
    return [name or f"Unnamed: {i}" for i, name in enumerate(names)]


# JSON


def _read_json_lines(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    names: dict[str, None] = {}
    objects, lines = [], []
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
        lines.append(number)
        names |= dict.fromkeys(document)
    columns = {name: [each.get(name) for each in objects] for name in names}
    return _of_columns(path, columns, settings, lambda: np.array(lines, dtype=np.int64))


def _read_json(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    """A list of objects, an object of columns, or what pandas writes with any ``orient``."""
    try:
        document = json.loads("".join(_pieces(path)))
    except ValueError as error:
        if str(error).startswith("Extra data"):
            return _read_json_lines(path, settings, asked)
        raise DataError(f"is not JSON: {error}.", path=path) from None
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        names = document.get("columns")
        rows = document["data"]
        if isinstance(names, list) and all(isinstance(row, list) for row in rows):
            rows = [dict(zip(map(str, names), row, strict=True)) for row in rows]
        document = rows
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        keys = dict.fromkeys(key for row in document for key in row)
        return _of_columns(path, {k: [row.get(k) for row in document] for k in keys}, settings)
    if isinstance(document, dict):
        columns = {
            name: list(cells.values()) if isinstance(cells, dict) else cells
            for name, cells in document.items()
        }
        lengths = {len(cells) if isinstance(cells, list) else -1 for cells in columns.values()}
        if len(lengths) == 1 and -1 not in lengths:
            return _of_columns(path, columns, settings)
    raise DataError(
        'holds no table; expected a list of objects, as in [{"text": ...}, ...], an object of '
        'columns, as in {"text": [...], ...}, or an object a line.',
        path=path,
    )


def _of_columns(
    path: Path,
    columns: dict[str, list[Any]],
    settings: TableSettings,
    lines: int | Callable[[], NDArray[np.int64]] = 1,
) -> Table:
    """Columns of JSON: those of numbers of one type as such, the others cell by cell."""
    import pandas

    def series(cells: list[Any]) -> Any:
        kinds = {type(cell) for cell in cells}
        if kinds <= {int, float} and len(kinds) == 1:
            return pandas.Series(cells)
        return pandas.Series(cells, dtype=str if kinds == {str} else object)

    frame = pandas.DataFrame({str(name): series(cells) for name, cells in columns.items()})
    return Table(path, frame, line=lines, decimal=settings.decimal)


# Formats of other libraries


def _bytes(path: Path) -> IO[bytes]:
    """A file unpacked, to be read in any order."""
    if path.suffix.lower() not in PACKED:
        return path.open("rb")
    with opened(path) as file:
        return io.BytesIO(file.read())


def _read_parquet(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    import pandas

    with _bytes(path) as file, _as_data_error(path, "Parquet"):
        return _of_frame(path, pandas.read_parquet(file), settings)


def _read_feather(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    import pandas

    with _bytes(path) as file, _as_data_error(path, "Feather"):
        return _of_frame(path, pandas.read_feather(file), settings)


def _of_frame(path: Path, frame: Any, settings: TableSettings) -> Table:
    return Table(path, as_frame(frame), decimal=settings.decimal)


def _read_excel(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    """The only sheet of a workbook that holds anything."""
    import pandas

    with _bytes(path) as file, _as_data_error(path, "Excel"):
        old = file.read(4) == b"\xd0\xcf\x11\xe0"
        if old:
            require("xlrd", "excel", f"reading {path.name}")
        file.seek(0)
        sheets = pandas.read_excel(file, sheet_name=None, header=None, dtype=object,
                                   keep_default_na=False, na_values=[""])  # fmt: skip
    full = {name: sheet.dropna(how="all") for name, sheet in sheets.items()}
    full = {name: sheet.dropna(how="all", axis=1) for name, sheet in full.items() if len(sheet)}
    if len(full) != 1:
        raise DataError(
            f"has {len(full)} sheets with cells ({', '.join(map(repr, full))}); save the one to "
            "read as a file of its own.",
            path=path,
        )
    (sheet,) = full.values()
    lines = sheet.index.to_numpy(dtype=np.int64) + 1
    rows = sheet.head(1001).astype(object)
    head = [["" if cell is None or cell != cell else str(cell) for cell in row]
            for row in rows.itertuples(index=False)]  # fmt: skip
    header = has_header(head, asked) if settings.header is None else settings.header
    names = _names(path, head, header, _Dialect("", 0, int(lines[0]) - 1))
    body = (sheet.iloc[1:] if header else sheet).reset_index(drop=True)
    lines = lines[1:] if header else lines
    body = body.infer_objects()
    body.columns = names
    return Table(path, body, named=header, line=lambda: lines, decimal=settings.decimal)


FORMATS: tuple[Format, ...] = (
    Format("csv", (".csv",), partial(_read_delimited, delimiter=None)),
    Format("tsv", (".tsv", ".tab"), partial(_read_delimited, delimiter="\t")),
    Format("jsonl", (".jsonl", ".ndjson"), _read_json_lines),
    Format("json", (".json",), _read_json),
    Format("parquet", (".parquet", ".pq"), _read_parquet, (("pyarrow",), "tables")),
    Format("feather", (".feather", ".arrow"), _read_feather, (("pyarrow",), "tables")),
    Format("excel", (".xlsx", ".xlsm", ".xls"), _read_excel, (("openpyxl",), "excel")),
)
"""The formats; a new one is its reader and a row here."""
