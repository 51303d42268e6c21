"""Formats of tables: one row of `FORMATS` says which reader serves which suffix.

Text is read as text: numbers, dates and labels are told apart later, by whoever needs them.
Whatever a format's library raises becomes a `DataError` with the file, and the line where there is
one. A suffix that is not known, or none, is no reason to refuse: the file is looked into.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ostinato.data.delimited import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    chunked,
    delimited_chunks,
    names_of_columns,
    read_delimited,
)
from ostinato.data.lazy import pd
from ostinato.data.tables import Table, TableSettings, as_frame
from ostinato.data.textfiles import (
    PACKED,
    check_size,
    library_errors,
    numbered_lines,
    opened,
    pieces,
    regular,
)
from ostinato.errors import DataError, OstinatoError, require

Chunks = Callable[[Path, TableSettings, Collection[str]], Iterator[Table]]


class Format(NamedTuple):
    """A format of tables."""

    name: str  # as ``format`` has it
    suffixes: tuple[str, ...]  # of its files, in lower case
    read: Callable[[Path, TableSettings, Collection[str]], Table]
    extra: tuple[str, str] | None = None  # a module that it needs, and Ostinato's extra with it
    chunks: Chunks | None = None  # some rows after the others, where it can be read so


def read_table(
    path: str | os.PathLike[str],
    settings: TableSettings | None = None,
    asked: Collection[str | None] = (),
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
    found = _format_of(path, settings)
    table = found.read(path, settings, {name.strip().lower() for name in asked if name})
    if not len(table) or not table.names:
        raise DataError("is empty; give some rows.", path=path)
    return table


def table_chunks(
    path: Path, settings: TableSettings, asked: Collection[str | None] = ()
) -> Iterator[Table]:
    """Read a file some rows at a time, in bounded memory where its format allows.

    Its columns are those of the first rows. Arguments and errors are those of `read_table`.
    """
    found = _format_of(path, settings)
    if found.chunks is None:
        yield read_table(path, settings, asked)
        return
    empty = True
    for table in found.chunks(path, settings, {name.strip().lower() for name in asked if name}):
        empty = False
        yield table
    if empty:
        raise DataError("is empty; give some rows.", path=path)


def _format_of(path: Path, settings: TableSettings) -> Format:
    """Return the format of a file; what it needs must be installed."""
    if path.is_dir():
        raise DataError(f"is a folder; expected a file with a table ({suffixes()}).", path=path)
    if settings.format is None:
        found = _by_suffix(path) or _named(_by_content(path))
    else:
        found = _named(settings.format)
    if found.extra is not None:
        require(*found.extra, f"reading {path.name}")
    return found


_OLD_EXCEL = b"\xd0\xcf\x11\xe0"  # of .xls, before .xlsx
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "feather", _OLD_EXCEL: "excel"}


def suffixes() -> str:
    """Return the suffixes of tables, for messages."""
    return ", ".join(suffix for each in FORMATS for suffix in each.suffixes)


def is_table(path: Path) -> bool:
    """Tell whether a file's name says that it is a table."""
    return _by_suffix(path) is not None


def _by_suffix(path: Path) -> Format | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return next((f for f in FORMATS if suffixes and suffixes[-1] in f.suffixes), None)


def _named(name: str) -> Format:
    named = {each.name: each for each in FORMATS}
    if name not in named:
        raise OstinatoError(f"format={name!r}; expected one of {', '.join(named)}.")
    return named[name]


def _by_content(path: Path) -> str:
    """Return the name of the format that a file's first bytes speak of; lines of text are CSV."""
    with library_errors(path), regular(path).open("rb") as file:
        if file.read(4) == b"PK\x03\x04" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name in ("xl/workbook.xml", "content.xml") for name in names):
                return "excel"
            if len(names) == 1 and (inner := _by_suffix(Path(names[0]))):
                return inner.name
    with opened(path) as file:
        head = file.read(4096)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if re.match(rb'\{\s*("[^\n]*)?\}\s*\n\s*\{', text):
        return "jsonl"
    return "json" if re.match(rb'\[|\{\s*["}]', text) else "csv"


# JSON


def _read_json_lines(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    objects, lines = [], []
    for number, document, _ in _json_lines(path):
        objects.append(document)
        lines.append(number)
    return _table_of_objects(path, objects, lines, settings)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Yield number, object and letters of each line."""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        with library_errors(path, "JSON", number):
            document = _json(line)
        if not isinstance(document, dict):
            raise DataError('is no JSON object, as in {"text": ...}.', path=path, line=number)
        yield number, document, len(line)


def _table_of_objects(
    path: Path,
    objects: list[dict[str, Any]],
    lines: list[int],
    settings: TableSettings,
    names: list[str] | None = None,
) -> Table:
    frame = _typed(pd.DataFrame(objects, columns=names, dtype=object))
    return Table(path, frame, line=lambda: np.array(lines), decimal=settings.decimal)


def _json_line_chunks(
    path: Path, settings: TableSettings, asked: Collection[str]
) -> Iterator[Table]:
    names: list[str] | None = None
    for some in chunked(_json_lines(path), lambda each: each[2]):
        objects, lines = [each[1] for each in some], [each[0] for each in some]
        table = _table_of_objects(path, objects, lines, settings, names)
        names = table.names
        yield table


def _read_json(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    """A list of objects, an object of columns, or what pandas writes with any ``orient``."""
    with library_errors(path, "JSON"):
        try:
            document = _json("".join(pieces(path)))
        except json.JSONDecodeError as error:
            if error.msg == "Extra data":
                return _read_json_lines(path, settings, asked)
            raise
    try:
        frame = _typed(pd.DataFrame(_columns_or_rows(document), dtype=object))
    except (TypeError, ValueError):
        raise DataError(
            'holds no table; expected a list of objects, as in [{"text": ...}, ...], an object of '
            'columns, as in {"text": [...], ...}, or an object a line.',
            path=path,
        ) from None
    return Table(path, frame, decimal=settings.decimal)


def _json(text: str) -> Any:
    document = json.loads(text)
    if re.search(r"\\u[dD]", text):
        json.dumps(document, ensure_ascii=False).encode()  # a UnicodeError of half a character
    return document


def _columns_or_rows(document: Any) -> dict[str, list[Any]] | list[dict[str, Any]]:
    if isinstance(document, dict) and isinstance(rows := document.get("data"), list):
        names = document.get("columns")
        if isinstance(names, list) and all(isinstance(row, list) for row in rows):
            return [dict(zip(map(str, names), row, strict=True)) for row in rows]
        document = rows if all(isinstance(row, dict) for row in rows) else document
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        return document
    if isinstance(document, dict):
        columns = {k: [*v.values()] if isinstance(v, dict) else v for k, v in document.items()}
        lists = [isinstance(cells, list) for cells in columns.values()]
        if all(lists) or not any(lists):
            return columns if all(lists) else [document]
    raise ValueError


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Hold columns of numbers of one type, or of text alone, as such; the others cell by cell."""
    for name, cells in frame.items():
        if set(map(type, cells)) in ({int}, {float}, {str}):
            frame[name] = cells.infer_objects()
    return frame


# Formats of other libraries


def _bytes(path: Path) -> IO[bytes]:
    """A file unpacked, to be read in any order."""
    if path.suffix.lower() not in PACKED:
        return regular(path).open("rb")
    with opened(path) as file:
        return io.BytesIO(file.read())


def _size(file: IO[bytes]) -> int:
    """The bytes of a file, which is then at its beginning."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _read_arrow(path: Path, settings: TableSettings, asked: Collection[str], library: str) -> Table:
    arrow = require(f"pyarrow.{library.lower()}", "tables", f"reading {path.name}")
    with _bytes(path) as file, library_errors(path, library):
        if library == "Parquet":
            head = arrow.read_metadata(file)
            check_size(8 * head.num_rows * head.num_columns, path, _size(file), 1000)
            frame = pd.read_parquet(file)
        else:
            # Of a file that is damaged pandas may read what is no memory of its own.
            arrow.read_table(file).validate(full=True)
            file.seek(0)
            frame = pd.read_feather(file)
        return Table(path, as_frame(frame), decimal=settings.decimal)


def _parquet_chunks(path: Path, settings: TableSettings, asked: Collection[str]) -> Iterator[Table]:
    parquet = require("pyarrow.parquet", "tables", f"reading {path.name}")
    with library_errors(path, "Parquet"), regular(path).open("rb") as source:
        file = parquet.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        groups = range(file.metadata.num_row_groups)
        size = sum(file.metadata.row_group(i).total_byte_size for i in groups)
        per_row = max(1, size // max(1, file.metadata.num_rows))
        rows, line = max(1, min(CHUNK_ROWS, CHUNK_BYTES // per_row)), 1
        for batch in file.iter_batches(batch_size=rows, use_threads=False):
            if batch.num_rows:
                yield Table(path, as_frame(batch.to_pandas()), line=line, decimal=settings.decimal)
            line += batch.num_rows


def _read_excel(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    """The only sheet of a workbook that holds anything."""
    with _bytes(path) as file, library_errors(path, "Excel"):
        module = "xlrd" if file.read(4) == _OLD_EXCEL else "openpyxl"
        file.seek(0)
        require(module, "excel", f"reading {path.name}")
        if module == "openpyxl":
            _check_workbook(file, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and the like
            sheets = pd.read_excel(file, sheet_name=None, header=None, dtype=object,
                                   keep_default_na=False, na_values=[""])  # fmt: skip
    full = {name: cells for name, sheet in sheets.items()
            if len(cells := sheet.dropna(how="all").dropna(how="all", axis=1))}  # fmt: skip
    if len(full) != 1:
        raise DataError(
            f"has {len(full)} sheets with cells ({', '.join(map(repr, full))}); save the one to "
            "read as a file of its own.",
            path=path,
        )
    (sheet,) = full.values()
    lines = sheet.index.to_numpy(dtype=np.int64) + 1
    head = sheet.head(1001).map(lambda cell: "" if pd.isna(cell) else str(cell))
    rows = head.to_numpy().tolist()
    names, named = names_of_columns(path, rows, int(lines[0]), settings, asked)
    body = sheet.iloc[int(named) :].reset_index(drop=True).infer_objects().set_axis(names, axis=1)
    lines = lines[int(named) :]
    return Table(path, body, named=named, line=lambda: lines, decimal=settings.decimal)


def _check_workbook(file: IO[bytes], path: Path) -> None:
    """Refuse a workbook of far more cells than it has bytes: each row has as many as the widest."""
    size = _size(file)
    with zipfile.ZipFile(file) as archive:
        check_size(sum(each.file_size for each in archive.infolist()), path, size)
        for name in archive.namelist():
            if re.fullmatch(r"xl/worksheets/[^/]*\.xml", name):
                cells = re.findall(rb"""\br\s*=\s*["']([A-Za-z]*)(\d+)""", archive.read(name))
                columns = max((_number_of(column) for column in {c for c, _ in cells}), default=0)
                rows = max((int(row[:20]) for _, row in cells), default=0)
                check_size(16 * rows * max(columns, 1), path, size)
    file.seek(0)


def _number_of(column: bytes) -> int:
    """The number of a column from 1, of its letters."""
    return sum(26**i * (letter - 64) for i, letter in enumerate(reversed(column.upper()[:9])))


_ARROW = "pyarrow", "tables"
FORMATS: tuple[Format, ...] = (
    Format("csv", (".csv",), partial(read_delimited, delimiter=None),
           chunks=partial(delimited_chunks, delimiter=None)),
    Format("tsv", (".tsv", ".tab"), partial(read_delimited, delimiter="\t"),
           chunks=partial(delimited_chunks, delimiter="\t")),
    Format("jsonl", (".jsonl", ".ndjson"), _read_json_lines, chunks=_json_line_chunks),
    Format("json", (".json",), _read_json),
    Format("parquet", (".parquet", ".pq"), partial(_read_arrow, library="Parquet"), _ARROW,
           _parquet_chunks),
    Format("feather", (".feather", ".arrow"), partial(_read_arrow, library="Feather"), _ARROW),
    Format("excel", (".xlsx", ".xlsm", ".xls"), _read_excel),
)  # fmt: skip
"""The formats; a new one is its reader and a row here."""
