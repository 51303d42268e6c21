"""Which column of a table means what, decided in one place for all tasks."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ostinato.data.corpus import media_kind

__all__ = ["IDS", "LABELS", "SOURCES", "TEXTS", "TIMES", "UNNAMED", "WEAK_LABELS", "has_header"]

# What columns are usually called, in lower case.
LABELS = {"label", "labels", "class", "target", "category", "sentiment", "tag"}
WEAK_LABELS = {"y", "output"}  # where no other is
TEXTS = {"text", "sentence", "review", "content", "message", "document", "body", "word", "token"}
IDS = {"id", "sequence", "sequence_id", "series", "series_id", "case", "case_id", "sample_id"}
TIMES = {"time", "t", "timestamp", "date", "datetime", "step", "frame"}
SOURCES = {"source", "src", "article", "input"}

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
