"""Texts and their targets: parallel files, or tables with a column of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostinato.data.columns import SOURCES, TARGETS, group_column, pair_columns
from ostinato.data.corpus import Corpus
from ostinato.data.formats import is_table, read_table
from ostinato.data.places import Place
from ostinato.data.tables import Table, TableSettings, cells_of, has_columns, table_of
from ostinato.data.textfiles import numbered_lines
from ostinato.errors import DataError, OstinatoError


@dataclass(kw_only=True, eq=False, repr=False)
class PairSettings(TableSettings):
    """How files of pairs are read.

    Args:
        source: column of the sources, by name or by number from 1; inferred where there is one
            choice. Files without columns are parallel: first the sources, then the targets.
        target: column of the targets.
        group: column of what must not be both in training and in validation or test data, such as
            the document that a pair is from.
    """

    source: str | None = None
    target: str | None = None
    group: str | None = None


def pairs_of(X: Any, y: Any = None, settings: PairSettings | None = None) -> Corpus:
    """Take pairs that are in memory already.

    Args:
        X: texts; or a data frame with columns of sources and targets, and no ``y``.
        y: a text, or a list of texts, for each.
        settings: columns of a frame; see `PairSettings`.
    """
    if has_columns(X) and y is None:
        return pairs_of_table(table_of(X), settings or PairSettings())
    sources = cells_of(X)
    places = [Place(f"X[{i}]") for i in range(len(sources))]
    for text, place in zip(sources, places, strict=True):
        if not isinstance(text, str):
            raise place.error(f"is {text!r:.40}; expected a text.")
    if y is None:
        return Corpus("text", sources, None, places)
    targets = cells_of(y)
    if len(targets) != len(sources):
        raise OstinatoError(f"X has {len(sources)} texts, and y has {len(targets)}.")
    several = [_several(each, place) for each, place in zip(targets, places, strict=True)]
    return Corpus("text", sources, several, places)


def read_pairs(paths: Sequence[Path], settings: PairSettings) -> Corpus:
    """Read pairs from two parallel files, or from tables; errors name file and line."""
    if settings.format is not None or all(is_table(path) for path in paths):
        return Corpus.joined([pairs_of_table(_read(path, settings), settings) for path in paths])
    if len(paths) != 2:
        raise DataError(
            f"{', '.join(map(str, paths))}: expected two parallel files, first the sources, then "
            "the targets; or tables (CSV, TSV, JSON lines, ...) with a column of each."
        )
    if settings.group is not None:
        raise DataError(
            f"group={settings.group!r}: parallel files have no columns; expected a table.",
            path=paths[0],
        )
    sources, targets = (_lines(path) for path in paths)
    # Empty lines belong to their partners; those at the end of one file, which many editors leave
    # there, to nobody.
    longer, count = max(sources, targets, key=len), min(len(sources), len(targets))
    if any(line.strip() for line in longer[count:]):
        raise DataError(
            f"has {len(sources):,} lines, and {paths[1]} has {len(targets):,}; line by line they "
            "must belong together.",
            path=paths[0],
        )
    corpus = pairs_of_lines(paths[0], sources[:count], targets[:count])
    if not len(corpus):
        raise DataError("has no line with text on both sides.", path=paths[0])
    return corpus


def pairs_of_lines(
    path: Path, sources: Sequence[str], targets: Sequence[str], before: int = 0
) -> Corpus:
    """Return the pairs of parallel lines, without those that are empty on one side.

    The path is of the file of the sources, in which so many lines are ``before`` them.
    """
    count = len(sources)
    kept = [i for i in range(count) if sources[i].strip() and targets[i].strip()]
    left = count - len(kept)
    return Corpus(
        "text",
        [sources[i] for i in kept],
        [[targets[i]] for i in kept],
        [Place(str(path), before + i + 1) for i in kept],
        notes=[f"{left:,} of {count:,} lines are empty on one side and left out"] if left else [],
    )


def read_sources(paths: Sequence[Path], settings: PairSettings) -> Corpus:
    """Read sources alone: a text a line, empty ones too, or a column of a table."""
    sources: list[str] = []
    places: list[Place] = []
    for path in paths:
        if is_table(path) or (settings.format is not None and str(path) != "-"):
            table = _read(path, settings)
            group = group_column(table, settings.group, None)
            column, _ = pair_columns(table, settings.source, None, alone=True, group=group)
            sources += _texts(table, column)
            places += table.places
        else:
            lines = _lines(path)
            sources += lines
            places += [Place(str(path), number) for number in range(1, len(lines) + 1)]
    return Corpus("text", sources, None, places)


def _read(path: Path, settings: PairSettings) -> Table:
    asked = {settings.source, settings.target, settings.group, *SOURCES, *TARGETS}
    return read_table(path, settings, asked)


def _lines(path: Path) -> list[str]:
    found = [line for _, line in numbered_lines(path)]
    if not any(line.strip() for line in found):
        raise DataError("is empty; give some lines.", path=path)
    return found


def pairs_of_table(table: Table, settings: PairSettings) -> Corpus:
    """Return the pairs of a table."""
    group = group_column(table, settings.group, True)
    source, target = pair_columns(table, settings.source, settings.target, group=group)
    assert target is not None
    groups = None if group is None else [cell.strip() for cell in table.filled(group)]
    return Corpus(
        "text",
        _texts(table, source),
        [_several(cell, table.place(row)) for row, cell in enumerate(table.series(target))],
        table.places,
        notes=[f"source: {table.names[source]}; target: {table.names[target]}"],
        groups=groups,
    )


def _texts(table: Table, column: int) -> list[str]:
    """Cells of text; a list of sentences is joined."""
    if not table.has_objects(column):
        return table.filled(column)
    texts = []
    for row, cell in enumerate(table.series(column)):
        if isinstance(cell, list) and all(isinstance(part, str) for part in cell):
            cell = " ".join(part.strip() for part in cell)
        if not isinstance(cell, str) or not cell.strip():
            problem = "is empty" if isinstance(cell, str) else f"is {cell!r:.40}, no text"
            raise table.place(row).error(f"{table.names[column]!r} {problem}.")
        texts.append(cell)
    return texts


def _several(cell: Any, place: Place) -> list[str]:
    some = cell if isinstance(cell, list | tuple) else [cell]
    texts = [text for text in some if isinstance(text, str) and text.strip()]
    if not texts:
        raise place.error(f"has the target {cell!r:.40}; expected a text, or a list of texts.")
    return texts
