"""Sequences as they were read, and where each was."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ostinato.errors import DataError

__all__ = ["Corpus", "Kind", "Place", "ReadingSettings"]

Kind = Literal["text", "words", "series", "sound", "image"]

SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


@dataclass(kw_only=True, eq=False, repr=False)
class ReadingSettings:
    """How files are read.

    Args:
        label: column of what is to be predicted, by name or by number from 1; guessed where there
            is one choice. Of CoNLL-U: upos, xpos, deprel or a name in feats or misc.
        text: column of the texts, words, or names of files; guessed where there is one choice.
        id: column that tells sequences apart, in a table with a row for every step.
        time: column that orders the steps; their order in the file if not given.
        variables: columns of measurements, separated by commas; if not given, all that are left.
        pattern: what file names look like, as in {label}_{speaker}_{take}.wav; if not given, the
            folder that a file lies in is its label.
        separator: what separates several labels of one sequence from each other.
        header: whether the first line of a table names its columns; guessed if not given.
    """

    label: str | None = None
    text: str | None = None
    id: str | None = None
    time: str | None = None
    variables: str | None = None
    pattern: str | None = None
    separator: str | None = None
    header: bool | None = None


class Place(NamedTuple):
    """Where something was read."""

    path: str
    line: int | None = None

    def error(self, message: str) -> DataError:
        """An error that begins with the place."""
        return DataError(message, path=self.path, line=self.line)

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


@dataclass
class Corpus:
    """Sequences as they were read.

    Args:
        kind: ``text``, a string each; ``words``, a list of strings; ``series``, ``(T, I)`` numbers;
            ``sound`` and ``image``, a path or pixels.
        inputs: of each sequence.
        targets: of each sequence: a label, a list of labels or numbers, or one a step. None where
            they were not asked for, or are not there.
        places: where each was read.
        variables: names of the features of a series.
        step_lines: lines of the steps of each sequence, where each has one.
    """

    kind: Kind
    inputs: Sequence[Any]
    targets: Sequence[Any] | None
    places: Sequence[Place]
    variables: Sequence[str] = ()
    step_lines: Sequence[Sequence[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int]) -> Corpus:
        """Some of the sequences."""

        def some(items: Sequence[Any]) -> list[Any]:
            return [items[row] for row in rows]

        return Corpus(
            self.kind,
            some(self.inputs),
            None if self.targets is None else some(self.targets),
            some(self.places),
            self.variables,
            some(self.step_lines) if self.step_lines else [],
        )


def media_kind(names: Sequence[str]) -> Literal["sound", "image", "text"] | None:
    """What files of such names hold, all of them; None if that is not one thing."""
    suffixes = {Path(name).suffix.lower() for name in names}
    kinds: dict[Literal["sound", "image", "text"], set[str]] = {
        "sound": SOUNDS,
        "image": IMAGES,
        "text": {".txt"},
    }
    return next((kind for kind, some in kinds.items() if suffixes <= some), None)


def existing(path: Path, place: Place) -> Path:
    """The path; a `DataError` if there is no such file."""
    if not path.exists():
        raise place.error(f"names {path}, and there is no such file.")
    return path


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, compressed or not, without their ends."""
    try:
        with opened(path) as file:
            number = 0
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"byte 0x{raw[error.start]:02X} is not valid UTF-8; convert the file.",
                        path=path,
                        line=number,
                    ) from None
                if "\0" in line:
                    raise DataError("holds a zero byte: no text file.", path=path, line=number)
                yield number, line.rstrip("\r\n")
    except (OSError, EOFError) as error:
        raise DataError(f"cannot be read: {error}.", path=path) from error


def opened(path: Path) -> Any:
    """A file to read bytes from, compressed or not; standard input for ``-``."""
    if str(path) == "-":
        return io.BytesIO(sys.stdin.buffer.read())
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
