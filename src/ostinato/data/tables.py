"""A table of a user's: its columns as text, as numbers or as codes, and where each row was read."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ostinato.data.lazy import pd
from ostinato.data.places import Place
from ostinato.errors import DataError, OstinatoError, require

DecimalMark = Literal[".", ","]

MISSING = ("", "na", "n/a", "#n/a", "nan", "<na>", "null", "none", "nat", "?")
"""Texts of cells without a value, in lower case."""

_OBJECTS = (dict, list, tuple, np.ndarray)

# Numbers with groups of three digits, by their decimal mark.
_SPACES = "' \u00a0\u202f"
_GROUPS: dict[DecimalMark, DecimalMark] = {".": ",", ",": "."}
_FORMS = {
    mark: rf"[-+]?(?:(?:(?:\d+|[1-9]\d{{0,2}}(?:[{group}{_SPACES}]\d{{3}})+)(?:[{mark}]\d*)?"
    rf"|[{mark}]\d+)(?:[eE][-+]?\d+)?|inf)"
    for mark, group in _GROUPS.items()
}
NUMBER_LIKE = rf"[-+]?[.,]?\d[\d.,{_SPACES}]*(?:[eE][-+]?\d+)?"
"""What may be a number, with some decimal mark."""


@dataclass(kw_only=True, eq=False, repr=False)
class TableSettings:
    """How tables are read.

    Args:
        format: such as csv, tsv, jsonl, json, parquet, feather or excel, whatever a file is called;
            by its name, or else its content, if not given.
        header: whether the first line of a table names its columns; inferred if not given.
        decimal: the decimal mark of numbers in text, . or a comma; inferred where all that a table
            holds has one reading.
    """

    format: str | None = None
    header: bool | None = None
    decimal: DecimalMark | None = None


class Codes(NamedTuple):
    """A column as numbers of its distinct cells.

    Attributes:
        codes: of each row, the number of its cell in ``cells``, ``(rows,)``.
        cells: distinct texts, in the order in which they first appear.
    """

    codes: NDArray[np.int64]
    cells: list[str]


class _Places(Sequence[Place]):
    """Where rows of a table were read, found when one is asked for."""

    def __init__(self, table: Table, rows: NDArray[np.int64] | range) -> None:
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> _Places: ...
    def __getitem__(self, index: int | slice) -> Place | _Places:
        if isinstance(index, slice):
            return _Places(self._table, self._rows[index])
        return self._table.place(int(self._rows[index]))


class Table:
    """Rows of cells under named columns, asked for as `texts`, as `numbers` or as `codes`.

    Nothing is rewritten on the way: the text of a cell in a text file is what stands there.

    Args:
        path: where it came from, for messages.
        frame: the cells. Of a text file they are text, categories of text, or numbers that pandas
            has parsed already; of another file or object they have its types.
        named: whether the file names its columns.
        line: the line that the first row is on, where each row takes one line; or the lines of all
            rows, found when they are needed.
        reread: reads a column of parsed numbers again as text; None where cells have types.
        decimal: the decimal mark of numbers in text; None for what all columns agree on.
    """

    def __init__(
        self,
        path: Path,
        frame: pd.DataFrame,
        *,
        named: bool = True,
        line: int | Callable[[], NDArray[np.int64]] = 1,
        reread: Callable[[int], pd.Series] | None = None,
        decimal: DecimalMark | None = None,
    ) -> None:
        self.path = path
        self.frame = frame
        self.named = named
        self.names = [str(name) for name in frame.columns]
        self._line = line
        self._reread = reread
        self._decimal = decimal
        self._columns: dict[int, _Column] = {}

    def __len__(self) -> int:
        return len(self.frame)

    # Places and names

    def place(self, row: int) -> Place:
        """Where a row was read."""
        return Place(str(self.path), int(self.lines[row]))

    @cached_property
    def lines(self) -> NDArray[np.int64]:
        """The line that each row begins on; of a table that is no text, the number of the row."""
        return self._line + np.arange(len(self)) if isinstance(self._line, int) else self._line()

    @property
    def breaks(self) -> NDArray[np.int64]:
        """Rows before which the file has blank lines."""
        after = np.flatnonzero(np.diff(self.lines) > 1)
        several = [any("\n" in str(cell) for cell in self.frame.iloc[row]) for row in after]
        return np.asarray(after[~np.array(several, dtype=bool)] + 1)

    @property
    def places(self) -> Sequence[Place]:
        """Where each row was read."""
        return _Places(self, range(len(self)))

    def column(self, name: str, what: str) -> int:
        """Return the number of a column that the user named, by its name or its number from 1."""
        found = self.find(name)
        if found is None:
            raise self.error(f"has no column {name!r} for {what}")
        return found

    def find(self, name: str) -> int | None:
        """Return the number of a column by its name, in any case, or its number from 1, or None."""
        if name in self.names:
            return self.names.index(name)
        same = [i for i, each in enumerate(self.names) if _plain(each) == _plain(name)]
        if len(same) == 1:
            return same[0]
        if name.lstrip("-").isdecimal() and 1 <= abs(int(name)) <= len(self.names):
            return range(len(self.names))[int(name) - (int(name) > 0)]
        return None

    def described(self) -> str:
        """Return what columns there are, in words."""
        if not self.named:
            return f"its columns have no names: they are numbered, 1 to {len(self.names)}"
        shown = ", ".join(f"{' '.join(name.split()):.40}" for name in self.names[:20]) + (
            ", ..." if len(self.names) > 20 else ""
        )
        return f"its columns are {shown}"

    def error(self, message: str) -> DataError:
        """Return an error about the columns, which says what these are."""
        return DataError(f"{message}; {self.described()}.", path=self.path)

    def called(self, names: set[str], among: Iterable[int]) -> list[int]:
        """Return the columns with one of some usual names."""
        return [i for i in among if _plain(self.names[i]) in names] if self.named else []

    # Cells

    def cell(self, row: int, column: int) -> Any:
        """Return a cell: text of a text file, or what the file or object holds."""
        return self.series(column).iloc[row]

    def series(self, column: int) -> pd.Series:
        """Return a column as pandas holds it: of a text file as text, parsed numbers too."""
        if self._reread is None or not self._stored_as_numbers(column):
            return self.frame.iloc[:, column]
        return self._column(column).series

    def texts(self, column: int) -> NDArray[np.object_]:
        """Return a column as text, ``(rows,)``, exactly as written; "" where a cell is empty."""
        codes, cells = self.codes(column)
        return np.array(cells, dtype=object)[codes]

    def filled(self, column: int) -> list[str]:
        """Return a column as text; a `DataError` where a cell is empty."""
        texts: list[str] = self.texts(column).tolist()
        for row, text in enumerate(texts):
            if not text.strip():
                raise self.place(row).error(f"{self.names[column]!r} is empty.")
        return texts

    def codes(self, column: int) -> Codes:
        """Return a column as numbers of its distinct texts; a `DataError` at a list or object."""
        return self._column(column).codes

    def is_numeric(self, column: int) -> bool:
        """Tell whether most cells of a column are numbers: those that are not are mistakes.

        True and false are no numbers here, though `numbers` reads them.
        """
        if self._stored_as_numbers(column):
            return self._kind(column) != "b"
        if self.has_objects(column) or self.is_boolean(column):
            return False
        values, wrong = self._parsed(column, asking=False)
        return not wrong.any() or bool(wrong.sum() < (~np.isnan(values)).sum())

    def is_boolean(self, column: int) -> bool:
        """Tell whether every cell of a column is true or false."""
        if self._stored_as_numbers(column):
            return self._kind(column) == "b"
        return not self.has_objects(column) and self._column(column).is_boolean

    def has_objects(self, column: int) -> bool:
        """Tell whether cells of a column are lists or objects, as in JSON."""
        series = self.frame.iloc[:, column]
        return series.dtype == object and any(isinstance(c, _OBJECTS) for c in series)

    def numbers(self, columns: Sequence[int], *, missing: bool = False) -> NDArray[np.float64]:
        """Return columns of numbers, ``(rows, columns)``; true and false are 1 and 0.

        With ``missing`` a cell may have no value, which becomes NaN. A `DataError` names the place
        of the first cell that is no finite number, or the setting that decides between two readings
        of a column such as 1,234.
        """
        found = np.empty((len(self), len(columns)))
        for k, column in enumerate(columns):
            if self._stored_as_numbers(column) and not self._may_mean_thousands(column):
                values = np.asarray(self.frame.iloc[:, column], dtype=np.float64)
                wrong = np.isinf(values)
            else:
                values, wrong = self._parsed(column)
            if not missing:
                wrong |= np.isnan(values)
            if wrong.any():
                row = int(wrong.argmax())
                cell = self.cell(row, column)
                message = "is missing" if is_missing(cell) else f"is {cell!r:.40}, no number"
                raise self.place(row).error(
                    f"{self.names[column]!r} {message}; fill it in, or leave the row out."
                )
            found[:, k] = values
        return found

    @property
    def decimal_mark(self) -> DecimalMark | None:
        """The decimal mark of numbers in text, where it was given or all columns agree on it."""
        marks = self._marks_of_text
        return self._decimal or (next(iter(marks)) if len(marks) == 1 else None)

    # How columns are held

    def _stored_as_numbers(self, column: int) -> bool:
        return self._kind(column) in "iufb"

    def _may_mean_thousands(self, column: int) -> bool:
        """Tell whether 1.234 may be 1234 in a column that was parsed with a decimal point."""
        if self._reread is None or self._kind(column) != "f" or self._decimal == ".":
            return False
        return self._decimal == "," or "," in self._marks_of_text

    def _kind(self, column: int) -> str:
        return str(self.frame.dtypes.iloc[column].kind)

    def _column(self, column: int) -> _Column:
        if column not in self._columns:
            series = self.frame.iloc[:, column]
            if self._reread is not None and self._stored_as_numbers(column):
                series = self._reread(column)
            elif self.has_objects(column):
                row, cell = next(x for x in enumerate(series) if isinstance(x[1], _OBJECTS))
                raise self.place(row).error(f"{self.names[column]!r} is no text but {cell!r:.40}.")
            self._columns[column] = _Column(series)
        return self._columns[column]

    def _parsed(
        self, column: int, asking: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return numbers, NaN where there is none, and which cells are mistakes, ``(rows,)``."""
        found = self._column(column)
        values, wrong = found.numbers(self._mark(found, column, asking))
        return values[found.codes.codes], wrong[found.codes.codes]

    def _mark(self, found: _Column, column: int, asking: bool) -> DecimalMark:
        """Return the decimal mark of a column; a `DataError` where there are two readings."""
        mark = found.only_mark if found.only_mark == "." else self._decimal or found.only_mark
        if mark is not None or found.unclear is None:
            return mark or "."
        ask, marks = "," in found.unclear, self._marks_of_text
        if not marks and ask and self._reread is not None:
            numeric = [i for i in range(len(self.names)) if self._stored_as_numbers(i)]
            marks = {mark for i in numeric if (mark := self._column(i).only_mark)}
        if len(marks) == 1:
            return next(iter(marks))
        if ask and asking:
            raise DataError(
                f"column {self.names[column]!r} has cells such as {found.unclear!r}, which may be "
                "a number with a decimal comma or one in thousands; name the decimal mark with "
                "decimal: , or .",
                path=self.path,
            )
        return "."

    @cached_property
    def _marks_of_text(self) -> set[DecimalMark]:
        """The decimal marks without which some column of text would be no column of numbers."""
        marks: set[DecimalMark] = set()
        for i in range(len(self.names)):
            some = [_text_of(cell).strip() for cell in self.frame.iloc[:200, i]]
            numbers = all(re.fullmatch(NUMBER_LIKE, cell) or is_missing(cell) for cell in some)
            if numbers and not self._stored_as_numbers(i) and (mark := self._column(i).only_mark):
                marks.add(mark)
        return marks


class _Column:
    """A column as text, and which decimal marks it can have."""

    def __init__(self, series: pd.Series) -> None:
        self.series = series
        text = isinstance(series.dtype, pd.CategoricalDtype | pd.StringDtype)
        codes, cells = pd.factorize(series if text else series.map(_text_of), use_na_sentinel=False)
        self.codes = Codes(codes.astype(np.int64, copy=False), [_text_of(cell) for cell in cells])
        self._cells = pd.Series(self.codes.cells, dtype=str).str.strip()
        lower = self._cells.str.lower()
        self._missing = lower.isin(MISSING)
        self._true, filled = lower == "true", lower[~self._missing]
        self.is_boolean = len(filled) > 0 and bool(filled.isin(["true", "false"]).all())
        self._fits = {mark: self._cells.str.fullmatch(form) for mark, form in _FORMS.items()}
        like = self._cells.str.fullmatch(NUMBER_LIKE) & ~self._missing
        marks = [mark for mark, fits in self._fits.items() if fits[like].all() and like.any()]
        # What looks like a number is one with a single mark alone; or with both, not all the same.
        self.only_mark = marks[0] if len(marks) == 1 else None
        marked = [cell for cell in self._cells[like] if len(marks) == 2 and re.search("[.,]", cell)]
        self.unclear: str | None = max(marked, key=lambda cell: "," in cell, default=None)

    def numbers(self, mark: DecimalMark) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the numbers of the distinct cells, and which of these are mistakes."""
        if self.is_boolean:
            found = self._true.astype(float)
        else:
            plain = self._cells.str.replace(f"[{_GROUPS[mark]}{_SPACES}]", "", regex=True)
            plain = plain.str.replace(mark, ".", regex=False).where(self._fits[mark])
            found = pd.to_numeric(plain, errors="coerce")
        values = found.mask(self._missing).to_numpy(dtype=np.float64)
        return values, ~np.isfinite(values) & ~self._missing.to_numpy(dtype=bool)


def is_missing(cell: object) -> bool:
    """Tell whether a cell has no value."""
    return _text_of(cell).strip().lower() in MISSING


def _plain(name: str) -> str:
    """Return a name as it is compared: in lower case, with ordinary spaces."""
    return re.sub(r"\s+", " ", name).strip().lower()


def _text_of(cell: object) -> str:
    """Return a cell as text; "" where it has no value."""
    if isinstance(cell, str):
        return cell
    if cell is None or str(cell) in ("nan", "NaN", "<NA>", "NaT"):
        return ""
    if isinstance(cell, bool | np.bool_):
        return "true" if cell else "false"
    return json.dumps(cell) if isinstance(cell, dict | list) else str(cell)


@runtime_checkable
class _ArrowStream(Protocol):
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


@runtime_checkable
class _Interchange(Protocol):
    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> object: ...


@runtime_checkable
class _HasColumns(Protocol):
    @property
    def columns(self) -> Any: ...


def is_frame(X: object) -> bool:
    """Tell whether an object is a data frame or a column of one, of pandas, polars or Arrow."""
    return isinstance(X, _ArrowStream | _Interchange)


def has_columns(X: object) -> bool:
    """Tell whether an object is a data frame, not a column."""
    return isinstance(X, _Interchange) or (is_frame(X) and isinstance(X, _HasColumns))


def cells_of(X: Any) -> list[Any]:
    """Return the items of a list, an array, or a column of pandas, polars or Arrow.

    A masked item is None; one string is no list of letters, but an `OstinatoError`.

    >>> cells_of(np.ma.masked_array([1, 2], [False, True]))
    [1, None]
    """
    if isinstance(X, str | bytes | os.PathLike):
        raise OstinatoError(
            f"got {X!r:.60}; expected several items, such as a list [...], or, for files, "
            "pathlib.Path objects."
        )
    if isinstance(X, np.ma.MaskedArray):
        return X.tolist() if X.ndim == 1 else list(X)
    if not isinstance(X, Iterable):
        raise OstinatoError(f"got {X!r:.60}; expected several items, such as a list [...].")
    arrow = sys.modules.get("pyarrow")
    if arrow is not None and isinstance(X, arrow.Array | arrow.ChunkedArray):
        return list(X.to_pylist())
    return list(X)


def array_of(X: Any) -> NDArray[Any]:
    """Return numbers of any kind as an array, NaN where one has no value; uint8 stays as it is.

    Args:
        X: a list, an array, perhaps masked; a column or a frame of pandas, polars or Arrow; with
            Decimal, ``pd.NA`` and None among the numbers, if need be.

    >>> array_of(np.ma.masked_array([1.0, 2.0], [False, True]))
    array([ 1., nan])
    """
    if isinstance(X, np.ma.MaskedArray):
        return np.ma.filled(X.astype(np.float64), np.nan)
    if has_columns(X):
        table = table_of(X)
        return table.numbers(range(len(table.names)), missing=True)
    array = np.asarray(X)
    if array.dtype == object:
        missing = np.array([_text_of(cell) == "" for cell in array.ravel()]).reshape(array.shape)
        return np.where(missing, np.nan, array).astype(np.float64)
    return array if array.dtype == np.uint8 else array.astype(np.float64)


def as_frame(X: Any) -> pd.DataFrame:
    """Return a data frame of any library as one of pandas, with what its index holds as columns.

    Args:
        X: a frame or series of pandas, a dictionary of columns, or what offers the Arrow stream
            (``__arrow_c_stream__``) or the interchange protocol (``__dataframe__``).

    >>> import pandas
    >>> series = pandas.Series([1, 2], pandas.date_range("2020", periods=2), name="sales")
    >>> list(as_frame(series).columns)
    ['time', 'sales']
    """
    if isinstance(X, Mapping):
        X = pd.DataFrame({name: cells_of(cells) for name, cells in X.items()})
    if isinstance(X, pd.Series):
        X = X.to_frame("value" if X.name is None else X.name)
    if not isinstance(X, pd.DataFrame):
        if isinstance(X, _Interchange) and not isinstance(X, _ArrowStream):
            X = pd.api.interchange.from_dataframe(X)
        elif has_columns(X):
            arrow = require("pyarrow", "tables", f"a frame of {type(X).__module__}")
            X = arrow.table(X).to_pandas()
        else:
            X = pd.DataFrame({"value": cells_of(X)})
    index = X.index
    if isinstance(index, pd.MultiIndex) or index.name is not None:
        return X.reset_index()
    if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex):
        return X.rename_axis("time").reset_index()
    return X.reset_index(drop=True)


def table_of(X: Any) -> Table:
    """Return a data frame of any library as a table; see `as_frame`.

    One without rows, or with two columns of one name, is a `DataError`.
    """
    frame = as_frame(X)
    path = Path("<data frame>")
    if frame.empty:
        raise DataError("has no rows.", path=path)
    names = [str(name) for name in frame.columns]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"names two columns {twice[0]!r}.", path=path)
    return Table(path, frame)
