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
import zipfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.columns import has_header
from ostinato.data.delimited import names_of_columns, read_delimited
from ostinato.data.lazy import pd
from ostinato.data.tables import Table, TableSettings, as_frame
from ostinato.data.textfiles import PACKED, library_errors, numbered_lines, opened, pieces
from ostinato.errors import DataError, OstinatoError, require

__all__ = ["FORMATS", "is_table", "read_table"]


class Format(NamedTuple):
    """A format of tables.

    Attributes:
        name: what ``format`` calls it.
        suffixes: of its files, in lower case.
        read: the reader.
        extra: a module that it needs, and the extra of Ostinato that brings it.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, TableSettings, Collection[str]], Table]
    extra: tuple[str, str] | None = None


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
    if path.is_dir():
        suffixes = ", ".join(suffix for each in FORMATS for suffix in each.suffixes)
        raise DataError(f"is a folder; expected a file with a table ({suffixes}).", path=path)
    if settings.format is None:
        found = _by_suffix(path) or _by_content(path)
    else:
        named = {each.name: each for each in FORMATS}
        if settings.format not in named:
            raise OstinatoError(f"format={settings.format!r}; expected one of {', '.join(named)}.")
        found = named[settings.format]
    if found.extra is not None:
        require(*found.extra, f"reading {path.name}")
    table = found.read(path, settings, {name.strip().lower() for name in asked})
    if not len(table) or not table.names:
        raise DataError("is empty; give some rows.", path=path)
    return table


_OLD_EXCEL = b"\xd0\xcf\x11\xe0"  # of .xls, before .xlsx
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "feather", _OLD_EXCEL: "excel"}


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
    with library_errors(path), path.open("rb") as file:
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
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return named[name]
    text = head.lstrip(codecs.BOM_UTF8).lstrip()
    if text[:1] == b"[":
        return named["json"]
    if re.match(rb'\{\s*("|\})', text):
        return named["jsonl" if re.match(rb"\{[^\n]*\}\s*\n\s*\{", text) else "json"]
    return named["csv"]


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
        document = json.loads("".join(pieces(path)))
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
        if lengths == {-1}:  # a row
            columns = {name: [cell] for name, cell in columns.items()}
        if len(lengths) == 1:
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

    def series(cells: list[Any]) -> pd.Series:
        kinds = {type(cell) for cell in cells}
        if kinds <= {int, float} and len(kinds) == 1:
            return pd.Series(cells)
        return pd.Series(cells, dtype=str if kinds == {str} else object)

    frame = pd.DataFrame({str(name): series(cells) for name, cells in columns.items()})
    return Table(path, frame, line=lines, decimal=settings.decimal)


# Formats of other libraries


def _bytes(path: Path) -> IO[bytes]:
    """A file unpacked, to be read in any order."""
    if path.suffix.lower() not in PACKED:
        return path.open("rb")
    with opened(path) as file:
        return io.BytesIO(file.read())


def _read_arrow(path: Path, settings: TableSettings, asked: Collection[str], library: str) -> Table:
    with _bytes(path) as file, library_errors(path, library):
        frame = pd.read_parquet(file) if library == "Parquet" else pd.read_feather(file)
        return Table(path, as_frame(frame), decimal=settings.decimal)


def _read_excel(path: Path, settings: TableSettings, asked: Collection[str]) -> Table:
    """The only sheet of a workbook that holds anything."""
    with _bytes(path) as file, library_errors(path, "Excel"):
        module = "xlrd" if file.read(4) == _OLD_EXCEL else "openpyxl"
        file.seek(0)
        require(module, "excel", f"reading {path.name}")
        sheets = pd.read_excel(file, sheet_name=None, header=None, dtype=object,
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
    names = names_of_columns(path, head, header, int(lines[0]))
    body = (sheet.iloc[1:] if header else sheet).reset_index(drop=True)
    lines = lines[1:] if header else lines
    body = body.infer_objects()
    body.columns = names
    return Table(path, body, named=header, line=lambda: lines, decimal=settings.decimal)


_ARROW = "pyarrow", "tables"
FORMATS: tuple[Format, ...] = (
    Format("csv", (".csv",), partial(read_delimited, delimiter=None)),
    Format("tsv", (".tsv", ".tab"), partial(read_delimited, delimiter="\t")),
    Format("jsonl", (".jsonl", ".ndjson"), _read_json_lines),
    Format("json", (".json",), _read_json),
    Format("parquet", (".parquet", ".pq"), partial(_read_arrow, library="Parquet"), _ARROW),
    Format("feather", (".feather", ".arrow"), partial(_read_arrow, library="Feather"), _ARROW),
    Format("excel", (".xlsx", ".xlsm", ".xls"), _read_excel),
)
"""The formats; a new one is its reader and a row here."""
