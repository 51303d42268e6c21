"""Sequences as they were read, and where each was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ostinato.data.places import Place
from ostinato.data.tables import TableSettings

Kind = Literal["text", "words", "series", "sound", "image"]

SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


@dataclass(kw_only=True, eq=False, repr=False)
class ReadingSettings(TableSettings):
    """How files are read.

    Args:
        label: column of the targets, by name or by number from 1; inferred where there
            is one choice. Of CoNLL-U: upos, xpos, deprel or a name in feats or misc.
        text: column of the texts, words, or names of files; inferred where there is one choice.
        id: column that tells sequences apart, in a table with a row for every step.
        time: column that orders the steps; their order in the file if not given.
        variables: columns of measurements, separated by commas; if not given, all that are left.
        pattern: what file names look like, as in {label}_{speaker}_{take}.wav; if not given, the
            folder that a file lies in is its label.
        separator: what separates several labels of one sequence from each other.
        group: column, or field of the pattern, of what must not be both in training and in
            validation or test data, such as the speaker; a field {group} needs no other name.
    """

    label: str | None = None
    text: str | None = None
    id: str | None = None
    time: str | None = None
    variables: str | None = None
    pattern: str | None = None
    separator: str | None = None
    group: str | None = None


@dataclass
class Corpus:
    """Sequences as they were read.

    Args:
        kind: ``text``, a string each; ``words``, a list of strings; ``series``, ``(T, I)`` numbers;
            ``sound`` and ``image``, a path or pixels.
        inputs: of each sequence.
        targets: of each sequence: a label, a list of labels or numbers, or one a step; a text, or
            several, any of which would do. None where they were not asked for, or are not there.
        places: where each was read.
        variables: names of the features of a series.
        step_lines: lines of the steps of each sequence, where each has one.
        notes: what a reader should know, such as which column was read as what.
        groups: the group of each sequence, such as its speaker; None where there are none.
    """

    kind: Kind
    inputs: Sequence[Any]
    targets: Sequence[Any] | None
    places: Sequence[Place]
    variables: Sequence[str] = ()
    step_lines: Sequence[Sequence[int]] = ()
    notes: Sequence[str] = ()
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @classmethod
    def joined(cls, parts: Sequence[Corpus]) -> Corpus:
        """Join corpora of one kind; without targets where one has none."""
        first, targets = parts[0], [part.targets for part in parts]
        groups = [part.groups for part in parts]
        if len(parts) == 1:
            return first
        return cls(
            first.kind,
            [each for part in parts for each in part.inputs],
            None if None in targets else [t for some in targets for t in some or []],
            [each for part in parts for each in part.places],
            first.variables,
            [each for part in parts for each in part.step_lines],
            list(dict.fromkeys(note for part in parts for note in part.notes)),
            None if None in groups else [g for some in groups for g in some or []],
        )

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Corpus:
        """Some of the sequences."""
        taken: dict[str, Any] = {}
        for name in ("inputs", "targets", "places", "step_lines", "groups"):
            items = getattr(self, name)
            if isinstance(items, list | tuple) and len(items):
                taken[name] = [items[row] for row in np.asarray(rows, dtype=np.int64).tolist()]
            elif items is not None and len(items):  # perhaps more than fits into memory
                taken[name] = _Taken(items, np.asarray(rows, dtype=np.int64))
        return replace(self, **taken)


class _Taken(Sequence[Any]):
    """Some items of a sequence, looked up when they are asked for."""

    def __init__(self, items: Sequence[Any], rows: NDArray[np.int64]) -> None:
        self._items = items
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return _Taken(self._items, self._rows[index])
        return self._items[int(self._rows[index])]


def media_kind(names: Sequence[str]) -> Literal["sound", "image", "text"] | None:
    """What files of such names hold, all of them; None if that is not one thing."""
    suffixes = {Path(name).suffix.lower() for name in names}
    if suffixes <= SOUNDS:
        return "sound"
    if suffixes <= IMAGES:
        return "image"
    return "text" if suffixes <= {".txt"} else None


def existing(path: Path, place: Place) -> Path:
    """The path; a `DataError` if there is no such file."""
    if not os.path.exists(path):  # False too where no file can be called so
        raise place.error(f"names {path}, and there is no such file.")
    return path
