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
from ostinato.data.tables import NUMBER_LIKE, Table, is_missing
from ostinato.errors import DataError

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
    if any(re.fullmatch(NUMBER_LIKE, name) for name in names) or not any(names):
        return False
    columns = [[row[i].strip() for row in rest] for i in range(len(first))]
    for i, name in enumerate(names):  # a name may be missing above row numbers, or nothing
        below = "" if i else NUMBER_LIKE
        if not name and not all(re.fullmatch(below, cell) for cell in columns[i]):
            return False
    if not rest or any(name in LABELS | TEXTS | IDS | TIMES for name in names):
        return True
    words = all(len(name.split()) <= 1 for name in names)
    verdict = False
    for name, cells in zip(map(str.strip, first), columns, strict=True):
        if not name:
            continue
        if media_kind(cells[:100]) and not media_kind([name]):
            return True  # files under a word
        if words and len(cells) >= 5 and sum(" " in cell for cell in cells) > 0.95 * len(cells):
            return True  # sentences under a word
        if sum(re.fullmatch(NUMBER_LIKE, cell) is not None for cell in cells) > 0.9 * len(cells):
            return True  # numbers under a word
        if len(set(cells)) <= len(cells) / 3:  # a few words again and again
            if name in cells:
                return False
            verdict = True
    return verdict


class Columns(NamedTuple):
    """Which column of a table is what.

    Attributes:
        id: what tells sequences apart, in a table with a row for every step.
        time: what orders the steps.
        position: what counts the steps of each sequence, and so tells sequences apart.
        text: texts, words or names of files.
        variables: measurements.
        label: the target to predict.
        group: what must not be both in training and in test data.
    """

    id: int | None = None
    time: int | None = None
    position: int | None = None
    text: int | None = None
    variables: tuple[int, ...] = ()
    label: int | None = None
    group: int | None = None

    def described(self, table: Table) -> str:
        """Return what each column is read as, in one line.

        >>> from pathlib import Path
        >>> from pandas import DataFrame
        >>> table = Table(Path("a.csv"), DataFrame(columns=["n", "review", "mood"]))
        >>> Columns(label=2, text=1).described(table)
        'text: review; label: mood; not used: n'
        """
        roles = {r: c if isinstance(c, tuple) else (c,) for r, c in self._asdict().items()}
        used = {i for some in roles.values() for i in some}
        roles["not used"] = tuple(i for i in range(len(table.names)) if i not in used)
        said = []
        for role, some in roles.items():
            if some and some != (None,):
                names = [table.names[i] if table.named else f"column {i + 1}" for i in some[:8]]
                names += [f"... ({len(some)})"] if len(some) > 8 else []
                said.append(f"{role}: {', '.join(names)}")
        return "; ".join(said)


def sequence_columns(table: Table, settings: ReadingSettings, labelled: bool | None) -> Columns:
    """Return the columns of a table whose sequences have a label each.

    The table has texts, files, rows of steps with an id, or a series a row; ``labelled`` is as of
    `read_corpus`.
    """
    group = group_column(table, settings.group, labelled)
    label = _label(table, settings, labelled, group)
    rest = [i for i in range(len(table.names)) if i not in (label, group)]
    if not rest:
        raise DataError("has a single column, and no labels beside it.", path=table.path)
    key = _id(table, settings, rest, label)
    if key is not None:
        time = _time(table, settings, [i for i in rest if i != key])
        rest = [i for i in rest if i not in (key, time)]
        variables = _variables(table, settings, rest)
        return Columns(key, time, variables=variables, label=label, group=group)
    text = _text(table, settings, rest)
    if text is not None:
        return Columns(text=text, label=label, group=group)
    stamps = table.called(TIMES, rest)
    if stamps and settings.variables is None:
        raise table.error(
            f"column {table.names[stamps[0]]!r} means that each row is a step; name the column "
            "that tells sequences apart with id"
        )
    variables = _variables(table, settings, rest)
    if settings.variables is None:
        _ask_about_order(table, variables, label)
    return Columns(variables=variables, label=label, group=group)


def step_columns(table: Table, settings: ReadingSettings, labelled: bool | None) -> Columns:
    """Return the columns of a table with a row, and a label, for each step."""
    group = group_column(table, settings.group, labelled)
    label = _label(table, settings, labelled, group)
    rest = [i for i in range(len(table.names)) if i not in (label, group)]
    words = table.called(WORDS, rest)
    text = None if settings.text is None else table.column(settings.text, "the texts")
    free = [i for i in rest if i != text and i not in words]
    key = _id_of_steps(table, settings, free)
    time = _time(table, settings, [i for i in free if i != key])
    position = None
    if key is None and settings.time is None:
        position = next((i for i in table.called(POSITIONS, free) if _restarts(table, i)), None)
        time = time if position is None else None
    rest = [i for i in rest if i not in (key, time, position)]
    if text is None and settings.variables is None and len(words) == 1:
        text = words[0]
    text = _text(table, settings, rest) if text is None else text
    variables = () if text is not None else _variables(table, settings, rest)
    if key is None and position is None and (text is not None or settings.variables is None):
        _ask_about_order(table, variables or [i for i in rest if i != text], None)
    return Columns(key, time, position, text, variables, label, group)


def group_column(table: Table, name: str | None, labelled: bool | None) -> int | None:
    """Return the column of groups; None where it is not asked for, or not needed and not there."""
    if name is None or (not labelled and table.find(name) is None):
        return None
    return table.column(name, "the groups")


def pair_columns(
    table: Table,
    source: str | None,
    target: str | None,
    *,
    alone: bool = False,
    group: int | None = None,
) -> tuple[int, int | None]:
    """Return the columns of sources and of targets; None for these where sources are ``alone``."""
    rest = [i for i in range(len(table.names)) if i != group and not numbers_rows(table, i)]
    one = _pair_column(table, source, "source", rest, SOURCES, 0)
    rest = [i for i in rest if i != one]
    return one, None if alone else _pair_column(table, target, "target", rest, TARGETS, -1)


def _pair_column(
    table: Table, name: str | None, what: str, among: Sequence[int], usual: set[str], which: int
) -> int:
    """Return the column of a name, or with a usual one, or of at most two the first or the last."""
    if name is not None:
        return table.column(name, f"the {what}")
    named = table.called(usual, among)
    if len(named) == 1:
        return named[0]
    if not named and 0 < len(among) <= 2:
        return among[which]
    raise table.error(f"which column holds the {what} is not clear; name it with {what}")


# What cells tell


def _whole(table: Table, column: int) -> NDArray[np.float64] | None:
    """Return a column of whole numbers; None if it is no such column."""
    if not table.is_numeric(column):
        return None
    try:
        values = table.numbers([column], missing=True)[:, 0]
    except DataError:
        return None
    return values if (values == np.round(values)).all() else None  # nor is NaN a whole number


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
    return _named_as_id(table, column) and _distinct(table, column) == len(table)


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
    if table.is_numeric(column) and _whole(table, column) is None:
        return False
    codes, cells = table.codes(column)
    if not 1 < 1 + np.count_nonzero(np.diff(codes)) == len(cells) <= len(table) / 2:
        return False
    return label is None or (_shares(table, column, label) and _distinct(table, label) > 1)


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
            raise table.error(
                f"column {table.names[i]!r} may number the rows, or measure something: name the "
                "columns to use with variables, or this one with time if it orders the steps"
            )
        if table.named and _in_runs(table, i, label):
            raise table.error(
                f"column {table.names[i]!r} may tell sequences apart, or measure something: name "
                "it with id, or the columns to use with variables"
            )


# The columns one by one


def _label(
    table: Table, settings: ReadingSettings, labelled: bool | None, group: int | None
) -> int | None:
    if settings.label is not None:
        if not labelled and table.find(settings.label) is None:
            return None  # of a table that is to be predicted
        return table.column(settings.label, "the labels")
    everything = [i for i in range(len(table.names)) if i != group]
    for usual in (LABELS, WEAK_LABELS):
        named = table.called(usual, everything)
        if len(named) == 1:
            return named[0]
    if labelled is False:
        return None
    rest = [i for i in everything if not numbers_rows(table, i)]
    if len(rest) == 2:
        # The one with fewer different values, or the only one that is no longer text.
        return min(reversed(rest), key=lambda i: _distinct(table, i))
    if labelled:
        # A few words again and again beside nothing but numbers.
        asked = [settings.id, settings.time, settings.text, *(settings.variables or "").split(",")]
        others = [table.column(name.strip(), "its use") for name in asked if name]
        others += table.called(IDS | TIMES | TEXTS, everything)
        words = [i for i in rest if not table.is_numeric(i) and i not in others]
        if len(words) == 1 and (2 * _distinct(table, words[0]) <= len(table) or not table.named):
            return words[0]
        raise table.error("which column holds the labels is not clear; name it with label")
    return None


def _distinct(table: Table, column: int) -> int:
    """Return how many different cells a column has."""
    if table.has_objects(column):
        return len({repr(cell) for cell in table.series(column)})
    return len(table.codes(column).cells)


def _id(
    table: Table, settings: ReadingSettings, among: Sequence[int], label: int | None
) -> int | None:
    """Return the column of ids of a long table, beside nothing but measurements."""
    if settings.id is not None:
        return table.column(settings.id, "the sequences' ids")
    if settings.text is not None:
        return None
    # One that tells rows apart is no id of sequences, nor is one beside texts.
    named = [i for i in among if _named_as_id(table, i) and _distinct(table, i) < len(table)]
    usual = table.called(IDS, named)
    found = usual if len(usual) == 1 else named
    if len(found) != 1:
        return None
    others = [i for i in among if i not in (found[0], *table.called(TIMES, among))]
    if settings.variables is None and not all(_measures(table, i) for i in others):
        return None
    if not usual and label is not None and not _shares(table, found[0], label):
        raise table.error(
            f"whether column {table.names[found[0]]!r}, whose rows have several labels, tells "
            "sequences apart is not clear; name it with id, or the columns to use with variables"
        )
    return found[0]


def _measures(table: Table, column: int) -> bool:
    return table.is_numeric(column) or table.is_boolean(column)


def _shares(table: Table, column: int, label: int) -> bool:
    """Tell whether rows with the same cell have the same label."""
    both = np.stack([table.codes(column).codes, table.codes(label).codes])
    return len(np.unique(both, axis=1).T) == len(table.codes(column).cells)


def _id_of_steps(table: Table, settings: ReadingSettings, among: Sequence[int]) -> int | None:
    if settings.id is not None:
        return table.column(settings.id, "the sequences' ids")
    sentences = [
        i
        for i in table.called(SENTENCES, among)
        if table.is_numeric(i) or any(re.search(r"\d\s*$", c) for c in table.codes(i).cells[:3])
    ]
    named = [i for i in table.called(IDS, among) if not _restarts(table, i)]
    found = [i for i in dict.fromkeys([*sentences, *named]) if _distinct(table, i) < len(table)]
    return _only(table, found, "tells sequences apart", "id")


def _time(table: Table, settings: ReadingSettings, among: Sequence[int]) -> int | None:
    if settings.time is not None:
        return table.column(settings.time, "the time")
    return _only(table, table.called(TIMES, among), "orders the steps", "time")


def _only(table: Table, found: Sequence[int], does: str, setting: str) -> int | None:
    """Return the only column that was found; a `DataError` where there are several."""
    if len(found) > 1:
        names = " or ".join(repr(table.names[i]) for i in found)
        raise table.error(f"whether {names} {does} is not clear; name it with {setting}")
    return found[0] if found else None


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
        if not (_measures(table, i) or numbers_rows(table, i))
        and i not in table.called(TIMES, among)
    ]
    if len(words) > 1:
        # Ids and categories are short and few; if one column is left, it holds the texts.
        spaced = [i for i in words if _spaced(table, i)]
        words = spaced if len(spaced) == 1 else words
    if len(words) > 1:
        raise table.error(
            "which column holds the texts is not clear; name it with text, or columns of "
            "measurements with variables"
        )
    if words and not _spaced(table, words[0]) and media_kind(_some(table, words[0])) is None:
        numbers = [i for i in among if table.is_numeric(i) and not numbers_rows(table, i)]
        if numbers and table.named:
            raise table.error(
                f"whether column {table.names[words[0]]!r} holds the texts, or the others the "
                "measurements, is not clear; name the one with text, or with id if it tells "
                "sequences apart, or the others with variables"
            )
    return words[0] if words else None


def _some(table: Table, column: int) -> list[str]:
    return [str(cell) for cell in table.series(column)[:1000]]


def _spaced(table: Table, column: int) -> bool:
    """Tell whether most cells are of several words."""
    return float(np.mean([" " in cell.strip() for cell in _some(table, column)])) > 0.5


def _variables(table: Table, settings: ReadingSettings, among: Sequence[int]) -> tuple[int, ...]:
    if settings.variables is not None:
        names = [name.strip() for name in settings.variables.split(",")]
        return tuple(table.column(name, "a variable") for name in names)
    measured = [i for i in among if not names_rows(table, i)]
    for i in measured:
        if not _measures(table, i):
            cell = next((c for c in table.codes(i).cells if not is_missing(c)), "")
            raise table.error(
                f"column {table.names[i]!r} holds no numbers but, say, {cell!r:.40}; name the "
                "columns to use with variables, separated by commas"
            )
    if not measured:
        numbered = f"; column {table.names[among[0]]!r} numbers the rows" if among else ""
        raise table.error(f"has no columns of measurements{numbered}: name them with variables")
    return tuple(measured)
