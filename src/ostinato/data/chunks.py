"""Data larger than memory, read a chunk after the other: each is a small `Corpus`.

From tables (CSV, TSV, JSON lines, Parquet), folders of them, folders of recordings, images or
texts, and tar archives of samples. What a column means is decided by the first chunk, and holds for
all of them. Files of other formats are read whole, one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.archives import archive_chunks, is_archive, members, text_of
from ostinato.data.columns import (
    SOURCES,
    TARGETS,
    TEXTS,
    Columns,
    sequence_columns,
    step_columns,
)
from ostinato.data.corpus import IMAGES, SOUNDS, Corpus, ReadingSettings, media_kind
from ostinato.data.delimited import CHUNK_BYTES, chunked
from ostinato.data.formats import is_table, table_chunks
from ostinato.data.lazy import pd
from ostinato.data.pairs import PairSettings, pairs_of_lines, pairs_of_table
from ostinato.data.places import Place
from ostinato.data.reading import READERS, asked_columns, groups_of, labels_of, read_file
from ostinato.data.sequences import codes_of, sequences_by
from ostinato.data.tables import Table, TableSettings
from ostinato.data.text import TextSource
from ostinato.data.textfiles import numbered_lines
from ostinato.errors import DataError
from ostinato.files import check_there
from ostinato.memory import available_memory

FILES = 4096
"""Files of a chunk, at most."""

SHARE = 0.1
"""Share of the memory that files may have together and still be read as a whole."""


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files, and all files below folders, in order; those whose name begins with a dot not.

    A link to a folder is not followed.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from walk([Path(entry.path)])
            elif entry.is_file():
                yield Path(entry.path)


def is_large(paths: Sequence[Path]) -> bool:
    """Tell whether files are read in chunks: they are tables in a folder, archives, or large."""
    size, limit = 0, SHARE * available_memory()
    folders = [path for path in paths if path.is_dir()]
    if any(is_archive(path) for path in paths):
        return True
    suffixes = set()
    for file in walk(paths):
        if str(file) == "-" or not file.is_file():
            return False
        size += file.stat().st_size
        suffixes.add(file.suffix.lower())
        if size > limit:
            return True
    media = suffixes & (SOUNDS | IMAGES | {".txt"})
    return bool(folders) and not media and any(
        is_table(Path(f"a{suffix}")) or suffix == ".tar" for suffix in suffixes
    )  # fmt: skip


def corpus_chunks(
    paths: Sequence[Path],
    settings: ReadingSettings,
    *,
    by_step: bool = False,
    labelled: bool | None = True,
    missing: bool = False,
) -> Iterator[Corpus]:
    """Read files a chunk at a time; arguments and errors are those of `read_corpus`."""
    check_there(paths)
    suffixes = {each.suffix.lower() for each in walk(paths)}
    archives = [each for each in walk(paths) if is_archive(each)] if suffixes else []
    if archives:
        if by_step:
            raise DataError("is a tar archive, in which steps have no labels.", path=archives[0])
        if settings.group is not None:
            raise DataError("is a tar archive, whose samples have no groups.", path=archives[0])
        return archive_chunks(archives, settings, labelled)
    media = [path for path in paths if path.is_dir() or path.suffix.lower() in SOUNDS | IMAGES]
    if media and suffixes & (SOUNDS | IMAGES):
        return _media(media, SOUNDS | IMAGES, settings, labelled)
    if any(path.is_dir() for path in paths) and suffixes <= {".txt"}:
        return _media(media, {".txt"}, settings, labelled)
    return _tables(paths, settings, by_step, labelled, missing)


# Recordings, images, texts


def _media(
    paths: Sequence[Path], suffixes: set[str], settings: ReadingSettings, labelled: bool | None
) -> Iterator[Corpus]:
    def files() -> Iterator[Path]:
        return (file for file in walk(paths) if file.suffix.lower() in suffixes)

    kind = media_kind([f"a{suffix}" for suffix in {file.suffix.lower() for file in files()}])
    if kind is None:
        raise DataError(
            "recordings and images lie together; name the one or the other.", path=paths[0]
        )
    by_folder = labelled is not False and settings.pattern is None
    if by_folder and len({_folder(file) for file in files()}) < 2:
        labels_of(list(islice(files(), 1)), None, labelled)  # which raises if there must be some
        by_folder, labelled = False, False
    for some in chunked(files(), _weight if kind == "text" else lambda file: CHUNK_BYTES // FILES):
        inputs: list[Any] = list(some)
        if kind == "text":
            inputs = ["\n".join(line for _, line in numbered_lines(file)) for file in some]
        labels = None
        if by_folder:
            labels = [_folder(file) for file in some]
        elif labelled is not False:
            labels = labels_of(some, settings.pattern, labelled)
        places, groups = [Place(str(file)) for file in some], groups_of(some, settings, labelled)
        yield Corpus(kind, inputs, labels, places, groups=groups)


def _weight(file: Path) -> int:
    return file.stat().st_size


def _folder(file: Path) -> str:
    return file.resolve().parent.name if file.is_symlink() else _name(file.parent)


@lru_cache(maxsize=1024)
def _name(folder: Path) -> str:
    return folder.resolve().name


# Tables


def _tables(
    paths: Sequence[Path],
    settings: ReadingSettings,
    by_step: bool,
    labelled: bool | None,
    missing: bool,
) -> Iterator[Corpus]:
    given = {*paths}
    files = [file for file in walk(paths) if file in given or _is_known(file)]
    if not files:
        raise DataError("holds no recordings, images, texts or tables.", path=paths[0])
    asked, read = asked_columns(settings), False
    columns: dict[tuple[str, ...], Columns] = {}
    for file in files:
        if not is_table(file) and settings.format is None:
            yield read_file(file, settings, by_step, labelled, missing)
            continue
        steps = _Steps()
        for table in table_chunks(file, settings, asked):
            names = tuple(table.names)
            notes = []
            if names not in columns:
                find = step_columns if by_step else sequence_columns
                columns[names] = find(table, settings, labelled)
                first = f" (by its first {len(table):,} rows)" if not read else ""
                notes = [columns[names].described(table) + first]
            read, how = True, columns[names]
            whole = steps.whole(table, how) if by_step or how.id is not None else table
            if whole is not None:
                corpus = sequences_by(whole, how, settings, by_step, missing)
                corpus.notes = [*notes, *corpus.notes]
                yield corpus
        if (whole := steps.rest(how)) is not None:
            yield sequences_by(whole, how, settings, by_step, missing)


def _is_known(file: Path) -> bool:
    return is_table(file) or any(suffix.lower() in READERS for suffix in file.suffixes[-2:])


class _Steps:
    """Rows of steps that come in chunks: the last sequence of each waits for the next chunk."""

    def __init__(self) -> None:
        self._table: Table | None = None
        self._seen: set[int] = set()

    def whole(self, table: Table, columns: Columns) -> Table | None:
        """Return the rows of whole sequences; a `DataError` where those of one are apart."""
        if self._table is not None:
            table = _joined(self._table, table)
        codes = codes_of(table, columns)
        kept = int(np.flatnonzero(codes != codes[-1])[-1]) + 1 if (codes != codes[-1]).any() else 0
        if (codes[:kept] == codes[-1]).any():
            self._apart(table, columns, kept)
        self._table = _rows(table, kept, len(table))
        return _rows(table, 0, kept) if self._notes(table, columns, codes[:kept]) else None

    def rest(self, columns: Columns) -> Table | None:
        """Return the rows of the last sequence."""
        table, self._table = self._table, None
        if table is not None:
            self._notes(table, columns, codes_of(table, columns))
        return table

    def _notes(self, table: Table, columns: Columns, codes: NDArray[np.int64]) -> bool:
        """Note which sequences there were; return whether there are any."""
        if columns.id is not None and len(codes):
            begins = np.flatnonzero(np.diff(codes, prepend=codes[0] - 1))
            ids = table.texts(columns.id)
            for row in begins.tolist():
                name = hash(ids[row])
                if ids[row].strip() and name in self._seen:
                    self._apart(table, columns, row)
                self._seen.add(name)
        return len(codes) > 0

    def _apart(self, table: Table, columns: Columns, row: int) -> None:
        assert columns.id is not None
        raise table.place(row).error(
            f"rows of {table.cell(row, columns.id)!r:.40} are apart; sort the file by "
            f"{table.names[columns.id]!r}: data larger than memory are read from beginning to end."
        )


def _rows(table: Table, begin: int, end: int) -> Table:
    lines: NDArray[np.int64] = table.lines[begin:end].copy()
    frame = table.frame.iloc[begin:end].reset_index(drop=True)
    return Table(table.path, frame, named=table.named, line=lambda: lines,
                 decimal=table.decimal_mark)  # fmt: skip


def _joined(before: Table, after: Table) -> Table:
    lines = np.concatenate([before.lines, after.lines])
    frame = pd.concat([before.frame, after.frame], ignore_index=True)
    return Table(after.path, frame, named=after.named, line=lambda: lines,
                 decimal=after.decimal_mark)  # fmt: skip


# Pairs


def pair_chunks(paths: Sequence[Path], settings: PairSettings) -> Iterator[Corpus]:
    """Read pairs a chunk at a time; arguments and errors are those of `read_pairs`."""
    check_there(paths)
    given = {*paths}
    files = [file for file in walk(paths) if file in given or is_table(file)]
    if settings.format is not None or (files and all(is_table(file) for file in files)):
        names = {settings.source, settings.target, settings.group, *SOURCES, *TARGETS}
        for file in files:
            for table in table_chunks(file, settings, names):
                yield pairs_of_table(table, settings)
        return
    if settings.group is not None:
        raise DataError(
            f"group={settings.group!r}: parallel files have no columns; expected a table.",
            path=paths[0],
        )
    if len(files) != 2:
        raise DataError(
            f"{', '.join(map(str, paths))}: expected two parallel files, first the sources, then "
            "the targets; or tables (CSV, TSV, JSON lines, ...) with a column of each."
        )
    one, other = (chunked_lines(file) for file in files)
    number, sources, targets = 0, list[str](), list[str]()
    while any(more := (next(one, []), next(other, []))):
        sources += more[0]
        targets += more[1]
        count = min(len(sources), len(targets))
        corpus = pairs_of_lines(files[0], sources[:count], targets[:count], number)
        if len(corpus):
            yield corpus
        number, sources, targets = number + count, sources[count:], targets[count:]
    if any(line.strip() for line in [*sources, *targets]):  # empty lines at the end are nobody's
        raise DataError(
            f"has {number + len(sources):,} lines, and {files[1]} has {number + len(targets):,}; "
            "line by line they must belong together.",
            path=files[0],
        )


def chunked_lines(path: Path) -> Iterator[list[str]]:
    """Yield the lines of a file, a chunk at a time."""
    return chunked((line for _, line in numbered_lines(path)), len)


# Running text

_TEXTS = {".parquet", ".pq", ".jsonl", ".ndjson"}
"""Suffixes of tables whose column of texts is a text to train a language model on."""


def text_of_tables(paths: Sequence[Path]) -> TextSource | None:
    """Return the texts in tables and archives one after the other, each ended by a newline.

    Of Parquet and JSON lines the column with a usual name, such as text; of tar archives their
    files ``.txt``. None if the files are others.
    """
    try:
        suffixes = {file.suffix.lower() for file in walk(paths)}
    except OSError:  # who reads them as texts says it, if that is a file to be read
        return None
    if not suffixes or not suffixes <= _TEXTS | {".tar"}:
        return None

    def texts() -> Iterator[str]:
        for file in walk(paths):
            if is_archive(file):
                for some in chunked(_texts_in(file), len):
                    yield "".join(f"{text}\n" for text in some)
                continue
            for table in table_chunks(file, TableSettings()):
                found = table.called(TEXTS, range(len(table.names)))
                if len(found) != 1:
                    raise table.error("expected one column called text, content or the like")
                yield "".join(f"{text}\n" for text in table.texts(found[0]).tolist() if text)

    return TextSource(texts, f"{', '.join(map(str, paths))} (column of texts)")


def _texts_in(archive: Path) -> Iterator[str]:
    for member in members(archive):
        if member.suffix == ".txt":
            yield text_of(member, Place(str(member)))
