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
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
        path: the file, perhaps compressed (.gz, .bz2, .xz, .zip, .zst).
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


def _decoded(path: Path) -> Iterator[str]:
    r"""The text of a file in pieces, without a byte order mark; none ends between \r and \n."""
    before, held = 0, ""
    with opened(path) as file:
        data = file.read(PIECE)
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
        while True:
            try:
                text = held + decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = before + len(data) - len(error.object) + error.start
                raise DataError(
                    f"byte 0x{error.object[error.start]:02X} is not valid UTF-8; convert the file, "
                    "if it is Latin-1 with iconv -f LATIN1 -t UTF-8.",
                    path=path,
                    line=_line_of(path, at),
                ) from None
            held = "\r" if text.endswith("\r") and data else ""
            text = text[: len(text) - len(held)]
            if "\0" in text:
                raise DataError(
                    "holds a zero byte: no text file, or UTF-16 without a byte order mark.",
                    path=path,
                    line=_line_of(path, before + max(0, data.find(b"\0"))),
                )
            before += len(data)
            if text:
                yield text
            if not data:
                return
            data = file.read(PIECE)


def _line_of(path: Path, offset: int) -> int:
    """The line that a byte is in."""
    line = 1
    with opened(path) as file:
        while offset > 0 and (data := file.read(min(PIECE, offset))):
            line += data.count(b"\n")
            offset -= len(data)
    return line


class _LineEnds:
    r"""Turns what ends lines into \n: \r\n, or \r where there is no \n.

    Attributes:
        alone: carriage returns that are not before a newline.
        pairs: those that are.
    """

    def __init__(self) -> None:
        self.alone = self.pairs = 0
        self._by_return: bool | None = None

    def __call__(self, text: str) -> str:
        if "\r" not in text:
            return text
        if self._by_return is None:
            self._by_return = "\n" not in text
        pairs = text.count("\r\n")
        self.pairs += pairs
        self.alone += text.count("\r") - pairs
        text = text.replace("\r\n", "\n")
        return text.replace("\r", "\n") if self._by_return else text


def _after(pieces: Iterable[str], lines: int) -> Iterator[str]:
    """Text without its first lines."""
    for text in pieces:
        while lines and "\n" in text:
            text = text.partition("\n")[2]
            lines -= 1
        if text and not lines:
            yield text


def _pieces(path: Path, skipped: int = 0) -> Iterator[str]:
    r"""The text of a file in pieces, with \n at the end of lines, without its first lines."""
    return _after(map(_LineEnds(), _decoded(path)), skipped)


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
    ends = _LineEnds()
    for text in itertools.chain(_after(map(ends, _decoded(path)), skipped), [""]):
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
        return iter(partial(self.read, PIECE), "")

    def read(self, size: int = -1) -> str:
        self._rest = self._rest or next(self._pieces, "")
        size = len(self._rest) if size < 0 else size
        text, self._rest = self._rest[:size], self._rest[size:]
        return text


def _read_delimited(
    path: Path, settings: TableSettings, asked: Collection[str], delimiter: str | None
) -> Table:
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
    for piece in _pieces(path, skipped):
        head += piece
        if len(head) >= HEAD:
            break
    return head


def _parsed(
    path: Path, head: str, dialect: _Dialect, settings: TableSettings, asked: Collection[str]
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
    names, skipped = _names(path, rows, header, dialect), dialect.skipped
    if header:
        skipped += head[: _end_of_record(head, dialect)].count("\n")
        rows = rows[1:]
    if header and not rows:
        raise DataError("has a line of names, and no rows after it.", path=path)
    survey = _survey(path, dialect, skipped)
    storage = [_storage([row[i] for row in rows]) for i in range(width)]
    read = partial(_cells, path, width, dialect, skipped, survey.returns)
    held = {i: kind for i, kind in enumerate(storage) if kind}
    try:
        try:
            frame = read(held)
        except ValueError:  # a column of numbers holds something else later on
            frame = read({i: kind for i, kind in held.items() if kind == "text"})
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
        _refuse_rows(path, dialect)
        raise DataError(f"is no table: {' '.join(str(error).split())}", path=path) from None
    last = frame.iloc[:, -1]
    uneven = survey.delimiters != len(frame) * (width - 1)
    if not survey.strict or (uneven and (width == 1 or (last.isna() | (last == "")).any())):
        _refuse_rows(path, dialect)
    odd = [i for i in range(width) if not _is_one_thing(frame[i])]
    if odd:
        again = read(dict.fromkeys(odd, "text"), odd)
        frame = pandas.DataFrame({i: again[i] if i in odd else frame[i] for i in range(width)})
    # A delimiter at the end of every line makes a column without a name or a cell.
    kept = [i for i in range(width) if not (UNNAMED.fullmatch(names[i]) and (frame[i] == "").all())]
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
) -> Any:
    """Rows of a text as a frame with numbered columns.

    pandas reads a file that holds plain text by itself, large ones in parallel; others as a stream.
    """
    import pandas

    with opened(path) as file, path.open("rb") as raw:
        head = raw.read(4)
        plain = file.read(4) == head and returns != "elsewhere"
    plain = plain and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    plain = plain and not (head.startswith(codecs.BOM_UTF8) and not skipped)
    exact = {} if pandas.__version__ >= "3.1" else {"float_precision": "round_trip"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pandas.errors.DtypeWarning)
        return pandas.read_csv(
            str(path) if plain else _Stream(_pieces(path, skipped)),
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
            **exact,
        )


def _is_one_thing(series: Any) -> bool:
    """Tell whether a column came out as numbers or as text throughout."""
    if series.dtype.kind in "iuf":
        return True
    return series.dtype.kind == "O" and (
        str(series.dtype) != "object" or all(type(cell) is str for cell in series)
    )


def _storage(cells: Sequence[str]) -> Storage:
    """How to hold a column whose first cells are these; what it says does not depend on it.

    Numbers are read again as text where they are asked for as that, or turn out to be something
    else; so is what was left to pandas ("") and is no text throughout.
    """
    filled = [cell for cell in cells if cell.strip().lower() not in MISSING]
    if filled and all(_NUMBER.fullmatch(cell) for cell in filled):
        few = len(set(cells)) <= max(20, len(cells) // 2)
        whole = all(cell.lstrip("+-").isdecimal() for cell in filled)
        return "text" if whole and few else "number"
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
