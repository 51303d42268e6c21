"""Which column of a table means what, decided in one place for all tasks.

A name that everybody gives a column, or its cells, may tell its meaning. Where two readings are
plausible, nothing is chosen: a `DataError` names the setting that says it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.corpus import ReadingSettings, media_kind
from ostinato.data.tables import Table, is_missing
from ostinato.errors import DataError

__all__ = [
    "UNNAMED",
    "Columns",
    "has_header",
    "numbers_rows",
    "pair_columns",
    "sequence_columns",
    "step_columns",
]  # fmt: skip

# What columns are usually called, in lower case.
LABELS = {"label", "labels", "class", "target", "category", "sentiment", "tag", "tags"}
WEAK_LABELS = {"y", "output"}  # where no other is
TEXTS = {"text", "sentence", "review", "content", "message", "document", "body", "word", "token"}
WORDS = {"word", "words", "token", "tokens", "form"}  # of steps, before TEXTS
IDS = {"id", "sequence", "sequence_id", "series", "series_id", "case", "case_id", "sample_id",
       "unique_id"}  # fmt: skip
SENTENCES = {"sentence", "sent", "sentence_id", "sent_id", "sentence #", "sentence_number",
             "document", "doc", "document_id", "doc_id", "utterance", "utterance_id"}  # fmt: skip
ROWS = {"index", "row", "row_id", "rowid", "nr", "no", "no.", "number", "#", "key"}
TIMES = {"time", "t", "timestamp", "date", "datetime", "step", "frame"}
POSITIONS = TIMES | IDS | {"position", "pos", "index", "i", "n", "nr", "#", "token_id", "word_id"}
SOURCES = {"source", "src", "document", "article", "text", "input"}
TARGETS = {"target", "tgt", "summary", "summaries", "translation", "output", "highlights"}

UNNAMED = re.compile(r"Unnamed: \d+")
"""A column that its file does not name, as pandas calls it."""

_NUMBER = re.compile(r"\s*[-+]?(\d[\d.,' \u00a0]*|[.,]\d+)([eE][-+]?\d+)?\s*|\s*[-+]?inf\s*", re.I)


def has_header(rows: Sequence[Sequence[str]], asked: Collection[str] = ()) -> bool:
    """Tell whether the first row of a table names its columns.

    Args:
        rows: cells of the first rows, as text.
        asked: names that columns are asked for by, in lower case.

    >>> has_header([["x", "y"], ["1", "2"]]), has_header([["1", "2"], ["3", "4"]])
    (True, False)
    """
    first, rest = rows[0], rows[1:1001]
    names = [" ".join(cell.split()).lower() for cell in first]
    if any(name in names for name in asked):
        return True
    if any(_NUMBER.fullmatch(name) for name in names):
        return False
    for i, name in enumerate(names):  # a name may be missing above row numbers, or nothing
        below = "" if i else _NUMBER
        if not name and not all(
            re.fullmatch(below, row[i].strip()) for row in rest if i < len(row)
        ):
            return False
    if not any(names):
        return False
    if not rest or any(name in LABELS | TEXTS | IDS | TIMES for name in names):
        return True
    words = all(len(name.split()) <= 1 for name in first)
    verdict = False
    for column, name in enumerate(first):
        cells = [row[column] for row in rest if column < len(row)]
        if not name:
            continue
        if media_kind(cells[:100]) and not media_kind([name]):
            return True  # files under a word
        spaced = sum(" " in cell.strip() for cell in cells)
        if words and len(cells) >= 5 and spaced > 0.95 * len(cells):
            return True  # sentences under a word
        if sum(_NUMBER.fullmatch(cell) is not None for cell in cells) > 0.9 * len(cells):
            return True  # numbers under a word
        if len(set(cells)) <= len(cells) / 3:  # a few words again and again
            if name in cells:
                return False
            verdict = True
    return verdict


class Columns(NamedTuple):
    """Which column of a table is what.

    Attributes:
        label: the target to predict.
        text: texts, words or names of files.
        id: what tells sequences apart, in a table with a row for every step.
        time: what orders the steps.
        variables: measurements.
        position: what counts the steps of each sequence, and so tells sequences apart.
    """

    label: int | None = None
    text: int | None = None
    id: int | None = None
    time: int | None = None
    variables: tuple[int, ...] = ()
    position: int | None = None

    def described(self, table: Table) -> str:
        """Return what each column is read as, in one line.

        >>> from pathlib import Path
        >>> from pandas import DataFrame
        >>> table = Table(Path("a.csv"), DataFrame(columns=["n", "review", "mood"]))
        >>> Columns(label=2, text=1).described(table)
        'text: review; label: mood; not used: n'
        """
        kinds: dict[str, list[int | None]] = {
            "id": [self.id],
            "time": [self.time],
            "position": [self.position],
            "text": [self.text],
            "variables": list(self.variables),
            "label": [self.label],
        }
        used = {i for some in kinds.values() for i in some if i is not None}
        kinds["not used"] = [i for i in range(len(table.names)) if i not in used]
        named = {
            kind: [
                table.names[i] if table.named else f"column {i + 1}" for i in some if i is not None
            ]
            for kind, some in kinds.items()
        }
        return "; ".join(
            f"{kind}: {', '.join(some[:8])}{f', ... ({len(some)})' if len(some) > 8 else ''}"
            for kind, some in named.items()
            if some
        )


def sequence_columns(table: Table, settings: ReadingSettings, labelled: bool | None) -> Columns:
    """Return the columns of a table whose sequences have a label each.

    Args:
        table: texts, files, a long table with an id, or a series a row.
        settings: columns by name.
        labelled: whether there must be a label; None takes one where it is.
    """
    label = _label(table, settings, labelled)
    rest = [i for i in range(len(table.names)) if i != label]
    if not rest:
        raise DataError("has a single column, and no labels beside it.", path=table.path)
    key = _id(table, settings, rest, label)
    if key is not None:
        time = _time(table, settings, [i for i in rest if i != key])
        rest = [i for i in rest if i not in (key, time)]
        return Columns(label, None, key, time, _variables(table, settings, rest))
    text = _text(table, settings, rest)
    if text is not None:
        return Columns(label, text)
    stamps = table.called(TIMES, rest)
    if stamps and settings.variables is None:
        raise _unclear(
            table,
            f"column {table.names[stamps[0]]!r} means that each row is a step",
            "the column that tells sequences apart",
            "id",
        )
    variables = _variables(table, settings, rest)
    if settings.variables is None:
        _ask_about_order(table, variables, label)
    return Columns(label, variables=variables)


def step_columns(table: Table, settings: ReadingSettings, labelled: bool | None) -> Columns:
    """Return the columns of a table with a row, and a label, for each step."""
    label = _label(table, settings, labelled)
    rest = [i for i in range(len(table.names)) if i != label]
    words = table.called(WORDS, rest)
    asked = None if settings.text is None else table.column(settings.text, "the texts")
    free = [i for i in rest if i != asked and i not in words]
    key = _id_of_steps(table, settings, free)
    time = _time(table, settings, [i for i in free if i != key])
    position = None
    if key is None:
        named = [i for i in table.called(POSITIONS, free) if _restarts(table, i)]
        position = named[0] if named and settings.time is None else None
        time = None if position is not None else time
    rest = [i for i in rest if i not in (key, time, position)]
    if asked is None and settings.variables is None and len(words) == 1:
        asked = words[0]
    text = asked if asked is not None else _text(table, settings, rest)
    if text is not None:
        others = [i for i in rest if i != text]
        if key is None and position is None:
            _ask_about_order(table, others, None)
        return Columns(label, text, key, time, position=position)
    variables = _variables(table, settings, rest)
    if key is None and position is None and settings.variables is None:
        _ask_about_order(table, variables, None)
    return Columns(label, None, key, time, variables, position)


def pair_columns(
    table: Table, source: str | None, target: str | None, *, alone: bool = False
) -> tuple[int, int | None]:
    """Return the columns of sources and of targets; None for these where sources are ``alone``."""
    rest = [i for i in range(len(table.names)) if not numbers_rows(table, i)]
    if source is not None:
        one: int | None = table.column(source, "the source")
    elif alone and len(rest) == 1:
        one = rest[0]
    else:
        one = _called_once(table, rest, SOURCES, first=True)
        other = _called_once(table, [i for i in rest if i != one], TARGETS, first=False)
        if one == other:
            one = None
    if one is None:
        raise _unclear(table, "which column holds the source is not clear", "it", "source")
    if alone:
        return one, None
    if target is not None:
        return one, table.column(target, "the target")
    two = _called_once(table, [i for i in rest if i != one], TARGETS, first=False)
    if two is None:
        raise _unclear(table, "which column holds the target is not clear", "it", "target")
    return one, two


def _called_once(table: Table, among: Sequence[int], usual: set[str], *, first: bool) -> int | None:
    """Return the column with a usual name, or of at most two the first or the last."""
    named = table.called(usual, among)
    if len(named) == 1:
        return named[0]
    return among[0 if first else -1] if 0 < len(among) <= 2 and not named else None


def _unclear(table: Table, why: str, what: str, setting: str) -> DataError:
    return DataError(f"{why}; name {what} with {setting}: {table.described()}.", path=table.path)


# What cells tell


def _whole(table: Table, column: int) -> NDArray[np.float64] | None:
    """Return a column of whole numbers; None if it is no such column."""
    if not table.is_numeric(column):
        return None
    try:
        values = table.numbers([column])[:, 0]
    except DataError:
        return None
    return values if (values == np.round(values)).all() else None


def numbers_rows(table: Table, column: int) -> bool:
    """Tell whether a column numbers the rows, by its name or its cells.

    Such as an index that was written with a frame: it measures nothing, and sorted by label it
    would tell the labels.
    """
    return names_rows(table, column) or _counts(table, column)


def names_rows(table: Table, column: int) -> bool:
    """Tell whether a column is named as an id, and gives each row one of its own."""
    if len(table) < 2:
        return bool(UNNAMED.fullmatch(table.names[column]))
    return _named_as_id(table, column) and len(_cells(table, column)) == len(table)


def _counts(table: Table, column: int) -> bool:
    """Tell whether a column holds each of ten or more whole numbers in turn, in any order."""
    values = _whole(table, column)
    if values is None or len(table) < 10:
        return False
    distinct = np.unique(values)
    return len(distinct) == len(values) and bool(distinct[-1] - distinct[0] == len(values) - 1)


def _named_as_id(table: Table, column: int) -> bool:
    name = table.names[column]
    return table.named and bool(
        table.called(IDS | ROWS, [column]) or UNNAMED.fullmatch(name) or _ID_NAME.search(name)
    )


_ID_NAME = re.compile(r"(?:[a-z0-9](?:Id|ID)|(?i:[_\s.-](?:id|idx|index|key|nr|no|uuid|guid)))$")


def _in_runs(table: Table, column: int, label: int | None) -> bool:
    """Tell whether each cell of a column stands in one run of rows, which share their label."""
    codes = table.codes(column)
    new = np.flatnonzero(np.diff(codes.codes) != 0)
    runs = len(new) + 1
    if not 1 < runs == len(codes.cells) <= len(table) / 2:
        return False
    if table.is_numeric(column) and _whole(table, column) is None:
        return False
    return label is None or (_shares(table, column, label) and len(_cells(table, label)) > 1)


def _restarts(table: Table, column: int) -> bool:
    """Tell whether a column counts up by one, again and again from the same number."""
    values = _whole(table, column)
    if values is None or not len(values):
        return False
    steps, back = np.diff(values), values[1:] == values[0]
    return bool(((steps == 1) | back).all() and back.any() and (steps == 1).any())


def _ask_about_order(table: Table, among: Iterable[int], label: int | None) -> None:
    """Raise a `DataError` if a column may tell sequences apart, or order steps."""
    for i in among:
        values = _whole(table, i) if table.named and len(table) >= 10 else None
        rises = values is not None and (np.diff(values) > 0).all()
        if rises or _counts(table, i):
            raise DataError(
                f"column {table.names[i]!r} may number the rows, or measure something: name the "
                "columns to use with variables, or this one with time if it orders the steps; "
                f"{table.described()}.",
                path=table.path,
            )
        if table.named and _in_runs(table, i, label):
            raise DataError(
                f"column {table.names[i]!r} may tell sequences apart, or measure something: name "
                f"it with id, or the columns to use with variables; {table.described()}.",
                path=table.path,
            )


# The columns one by one


def _label(table: Table, settings: ReadingSettings, labelled: bool | None) -> int | None:
    if settings.label is not None:
        if not labelled and table.find(settings.label) is None:
            return None  # of a table that is to be predicted
        return table.column(settings.label, "the labels")
    everything = range(len(table.names))
    for usual in (LABELS, WEAK_LABELS):
        named = table.called(usual, everything)
        if len(named) == 1:
            return named[0]
    if labelled is False:
        return None
    rest = [i for i in everything if not numbers_rows(table, i)]
    if len(rest) == 2:
        # The one with fewer different values, or the only one that is no longer text.
        distinct = [len(_cells(table, i)) for i in rest]
        return rest[1] if distinct[1] <= distinct[0] else rest[0]
    if labelled:
        # A few words again and again beside nothing but numbers.
        asked = [settings.id, settings.time, settings.text, *(settings.variables or "").split(",")]
        others = [table.column(name.strip(), "its use") for name in asked if name]
        others += table.called(IDS | TIMES | TEXTS, everything)
        words = [i for i in rest if not table.is_numeric(i) and i not in others]
        again = len(words) == 1 and len(_cells(table, words[0])) <= len(table) / 2
        if len(words) == 1 and (again or not table.named):
            return words[0]
    if labelled is None:
        return None
    raise _unclear(table, "which column holds the labels is not clear", "it", "label")


def _cells(table: Table, column: int) -> set[str]:
    try:
        return set(table.codes(column).cells)
    except DataError:  # of lists
        return {repr(cell) for cell in table.series(column)}


def _id(
    table: Table, settings: ReadingSettings, among: Sequence[int], label: int | None
) -> int | None:
    """Return the column of ids of a long table, beside nothing but measurements."""
    if settings.id is not None:
        return table.column(settings.id, "the sequences' ids")
    if settings.text is not None:
        return None
    # One that tells rows apart is no id of sequences, nor is one beside texts.
    named = [i for i in among if _named_as_id(table, i) and len(_cells(table, i)) < len(table)]
    usual = table.called(IDS, named)
    found = usual if len(usual) == 1 else named
    if len(found) != 1:
        return None
    others = [i for i in among if i not in (found[0], *table.called(TIMES, among))]
    if settings.variables is None and not all(
        table.is_numeric(i) or table.is_boolean(i) for i in others
    ):
        return None
    if not usual and label is not None and not _shares(table, found[0], label):
        raise _unclear(
            table,
            f"whether column {table.names[found[0]]!r}, whose rows have several labels, tells "
            "sequences apart is not clear",
            "it with id, or the columns to use",
            "variables",
        )
    return found[0]


def _shares(table: Table, column: int, label: int) -> bool:
    """Tell whether rows with the same cell have the same label."""
    both = np.stack([table.codes(column).codes, table.codes(label).codes])
    return len(np.unique(both, axis=1).T) == len(table.codes(column).cells)


def _id_of_steps(table: Table, settings: ReadingSettings, among: Sequence[int]) -> int | None:
    """Return the column that tells sequences of steps apart."""
    if settings.id is not None:
        return table.column(settings.id, "the sequences' ids")
    sentences = [
        i
        for i in table.called(SENTENCES, among)
        if table.is_numeric(i) or any(re.search(r"\d\s*$", c) for c in table.codes(i).cells[:3])
    ]
    named = [i for i in table.called(IDS, among) if not _restarts(table, i)]
    found = [
        i for i in dict.fromkeys([*sentences, *named]) if len(table.codes(i).cells) < len(table)
    ]
    if len(found) > 1:
        names = " or ".join(repr(table.names[i]) for i in found)
        raise _unclear(table, f"whether {names} tells sequences apart is not clear", "it", "id")
    return found[0] if found else None


def _time(table: Table, settings: ReadingSettings, among: Sequence[int]) -> int | None:
    if settings.time is not None:
        return table.column(settings.time, "the time")
    named = table.called(TIMES, among)
    if len(named) > 1:
        names = " or ".join(repr(table.names[i]) for i in named)
        raise _unclear(table, f"whether {names} orders the steps is not clear", "it", "time")
    return named[0] if named else None


def _text(table: Table, settings: ReadingSettings, among: Sequence[int]) -> int | None:
    """Return the column of texts; None where all are numbers."""
    if settings.text is not None:
        return table.column(settings.text, "the texts")
    if settings.variables is not None:
        return None
    named = [i for i in table.called(TEXTS, among) if not table.is_numeric(i)]
    if len(named) == 1:
        return named[0]
    words = [
        i
        for i in among
        if not (table.is_numeric(i) or table.is_boolean(i) or numbers_rows(table, i))
        and i not in table.called(TIMES, among)
    ]
    if len(words) > 1:
        # Ids and categories are short and few; if one column is left, it holds the texts.
        spaced = [i for i in words if _spaced(table, i)]
        words = spaced if len(spaced) == 1 else words
    if len(words) > 1:
        raise DataError(
            "which column holds the texts is not clear; name it with text: "
            f"{table.described()}. For measurements name them with variables.",
            path=table.path,
        )
    if words and not _spaced(table, words[0]) and media_kind(_some(table, words[0])) is None:
        numbers = [i for i in among if table.is_numeric(i) and not numbers_rows(table, i)]
        if numbers and table.named:
            raise DataError(
                f"whether column {table.names[words[0]]!r} holds the texts, or the others the "
                f"measurements, is not clear; name the one with text, or with id if it tells "
                f"sequences apart, or the others with variables: {table.described()}.",
                path=table.path,
            )
    return words[0] if words else None


def _some(table: Table, column: int) -> list[str]:
    return [str(cell) for cell in table.series(column)[:1000]]


def _spaced(table: Table, column: int) -> bool:
    """Tell whether most cells are of several words."""
    return float(np.mean([" " in cell.strip() for cell in _some(table, column)])) > 0.5


def _variables(table: Table, settings: ReadingSettings, among: Sequence[int]) -> tuple[int, ...]:
    """Return the columns of measurements."""
    if settings.variables is not None:
        names = [name.strip() for name in settings.variables.split(",")]
        return tuple(table.column(name, "a variable") for name in names)
    measured = [i for i in among if not names_rows(table, i)]
    for i in measured:
        if not (table.is_numeric(i) or table.is_boolean(i)):
            cell = next((c for c in table.codes(i).cells if not is_missing(c)), "")
            raise DataError(
                f"column {table.names[i]!r} holds no numbers but, say, {cell!r:.40}; name the "
                f"columns to use with variables, separated by commas: {table.described()}.",
                path=table.path,
            )
    if not measured:
        numbered = f"; column {table.names[among[0]]!r} numbers the rows" if among else ""
        raise DataError(
            f"has no columns of measurements{numbered}: name them with variables; "
            f"{table.described()}.",
            path=table.path,
        )
    return tuple(measured)
