"""Texts and the texts that are wanted of them: parallel files, tables of two columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostinato.data.corpus import Place, numbered_lines
from ostinato.data.rows import Table
from ostinato.errors import DataError, OstinatoError

__all__ = ["PairSettings", "Pairs", "pairs_of", "read_pairs", "read_sources"]

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
SOURCES = {"source", "src", "document", "article", "text", "input"}
TARGETS = {"target", "tgt", "summary", "summaries", "translation", "output", "highlights"}


@dataclass(kw_only=True, eq=False, repr=False)
class PairSettings:
    """How files of pairs are read.

    Args:
        source: column of what is read, by name or by number from 1; guessed where there is one
            choice. Files without columns are parallel: first the sources, then the targets.
        target: column of what is to be written.
    """

    source: str | None = None
    target: str | None = None


@dataclass
class Pairs:
    """Sources, what is wanted of each, and where each was read.

    Args:
        sources: texts.
        targets: of each source one text or several, any of which would do; None where they were not
            asked for.
        places: of the sources.
    """

    sources: Sequence[str]
    targets: Sequence[Sequence[str]] | None
    places: Sequence[Place]

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, rows: Sequence[int]) -> Pairs:
        """Some of the pairs."""
        targets = None if self.targets is None else [self.targets[row] for row in rows]
        return Pairs([self.sources[r] for r in rows], targets, [self.places[r] for r in rows])


def pairs_of(X: Any, y: Any = None) -> Pairs:
    """Pairs in memory: texts, and a text or a list of texts for each."""
    sources = list(X)
    places = [Place(f"X[{i}]") for i in range(len(sources))]
    for text, place in zip(sources, places, strict=True):
        if not isinstance(text, str):
            raise place.error(f"is {text!r:.40}; expected a text.")
    if y is None:
        return Pairs(sources, None, places)
    wanted = list(y)
    if len(wanted) != len(sources):
        raise OstinatoError(f"X has {len(sources)} texts, and y has {len(wanted)}.")
    return Pairs(
        sources, [_several(each, p) for each, p in zip(wanted, places, strict=True)], places
    )


def read_pairs(paths: Sequence[Path], settings: PairSettings) -> Pairs:
    """Pairs from two parallel files, or from one or several tables.

    Files may be compressed (``.gz``).

    Raises:
        DataError: naming file and line.
    """
    if all(_is_table(path) for path in paths):
        parts = [_of_table(path, settings) for path in paths]
        return Pairs(
            [s for part in parts for s in part.sources],
            [t for part in parts for t in part.targets or []],
            [p for part in parts for p in part.places],
        )
    if len(paths) != 2:
        raise DataError(
            f"{', '.join(map(str, paths))}: expected two parallel files, first the sources, then "
            "the targets; or tables (CSV, TSV, JSON lines) with a column of each."
        )
    (sources, places), (targets, _) = (_lines(path) for path in paths)
    if len(sources) != len(targets):
        raise DataError(
            f"has {len(sources):,} lines, and {paths[1]} has {len(targets):,}; line by line they "
            "must belong together.",
            path=paths[0],
        )
    kept = [i for i in range(len(sources)) if sources[i].strip() and targets[i].strip()]
    if not kept:
        raise DataError("has no line with text on both sides.", path=paths[0])
    return Pairs(
        [sources[i] for i in kept], [[targets[i]] for i in kept], [places[i] for i in kept]
    )


def read_sources(paths: Sequence[Path], settings: PairSettings) -> Pairs:
    """What is to be read alone: a text a line, empty ones too, or a column of a table."""
    sources: list[str] = []
    places: list[Place] = []
    for path in paths:
        if _is_table(path):
            table = Table.read(path, asked=_asked(settings))
            column = _source_column(table, settings)
            found = [
                (_text(table, row, column), table.place(row)) for row in range(len(table.rows))
            ]
        else:
            found = list(zip(*_lines(path), strict=True))
        sources += [text for text, _ in found]
        places += [place for _, place in found]
    return Pairs(sources, None, places)


def _is_table(path: Path) -> bool:
    return any(suffix in TABLES for suffix in path.suffixes)


def _asked(settings: PairSettings) -> set[str]:
    names = {name.lower() for name in (settings.source, settings.target) if name}
    return names | SOURCES | TARGETS


def _lines(path: Path) -> tuple[list[str], list[Place]]:
    """Lines of a text file without those that are empty at its end, and their places."""
    found = list(numbered_lines(path))
    while found and not found[-1][1].strip():
        found.pop()
    if not found:
        raise DataError("is empty; give some lines.", path=path)
    return [line for _, line in found], [Place(str(path), number) for number, _ in found]


def _of_table(path: Path, settings: PairSettings) -> Pairs:
    table = Table.read(path, asked=_asked(settings))
    source = _source_column(table, settings)
    target = _column(table, settings.target, TARGETS, source, "target")
    rows = range(len(table.rows))
    places = [table.place(row) for row in rows]
    return Pairs(
        [_text(table, row, source) for row in rows],
        [_several(table.rows[row][target], places[row]) for row in rows],
        places,
    )


def _source_column(table: Table, settings: PairSettings) -> int:
    if settings.source is None and len(table.names) == 1:
        return 0
    return _column(table, settings.source, SOURCES, None, "source")


def _column(table: Table, asked: str | None, usual: set[str], taken: int | None, what: str) -> int:
    """A column by its name, by a usual name, or, of two columns without names, by its place."""
    if asked is not None:
        return table.column(asked, f"the {what}")
    free = [i for i in range(len(table.names)) if i != taken]
    named = table.called(usual, free)
    if len(named) == 1:
        return named[0]
    if len(table.names) == 2 and not named:
        return (0 if taken is None else free[0]) if what == "source" else free[-1]
    raise DataError(
        f"which column holds the {what} is not clear; name it with {what}: {table.columns()}.",
        path=table.path,
    )


def _text(table: Table, row: int, column: int) -> str:
    """A cell of text; a list of sentences is joined."""
    cell = table.rows[row][column]
    if isinstance(cell, list) and cell and all(isinstance(part, str) for part in cell):
        return " ".join(part.strip() for part in cell)
    return table.text(row, column)


def _several(cell: Any, place: Place) -> list[str]:
    """A text, or several."""
    texts = (
        [cell] if isinstance(cell, str) else list(cell) if isinstance(cell, list | tuple) else []
    )
    texts = [text for text in texts if isinstance(text, str) and text.strip()]
    if not texts:
        raise place.error(f"has the target {cell!r:.40}; expected a text, or a list of texts.")
    return texts
