"""Data of a task read before PyTorch is imported, and which tasks fit some data."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ostinato.data.chunks import is_large
from ostinato.data.columns import numbers_rows
from ostinato.data.corpus import IMAGES, SOUNDS, Corpus, ReadingSettings
from ostinato.data.formats import is_table, read_table
from ostinato.data.midi import read_music
from ostinato.data.pairs import PairSettings, read_pairs
from ostinato.data.reading import READERS, read_corpus
from ostinato.data.speech import SpeechSettings, read_speech
from ostinato.data.tables import NUMBER_LIKE, Table
from ostinato.data.text import TextSource
from ostinato.errors import DataError, OstinatoError
from ostinato.files import MIDI, any_prepared, check_there
from ostinato.tasks.forecasting.reading import SeriesSettings, read_panel
from ostinato.tasks.registry import TASKS, Source

Settings = TypeVar("Settings", ReadingSettings, PairSettings, SeriesSettings, SpeechSettings)

PLAIN = {".txt", ".text", ".md", ".rst", ".gz", ".xz", ".bz2", ".zst", ""}
"""Suffixes of files that may hold running text."""

LARGE = ("labels", "steps", "pairs", "speech", "series")
"""Sources that may be larger than memory."""

FEW = 20
"""Distinct numbers up to which they may be classes."""


def read(source: Source, paths: Sequence[Path], given: Mapping[str, Any]) -> Any:
    """Read the files of a task as its ``fit`` would; ``given`` has settings, others too.

    What is wrong with the files is a `DataError` as of ``fit``, but before PyTorch is imported.
    """

    def settings(kind: Callable[..., Settings]) -> Settings:
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass
        return kind(**{name: given[name] for name in names if name in given})

    if any_prepared(paths) or (source in LARGE and is_large(paths)):
        return list(paths)  # which `fit` reads a chunk at a time
    match source:
        case "labels" | "steps":
            by_step = source == "steps"
            cell = str(given.get("cell") or "")
            missing = cell == "gru-d" or ":" in cell  # the network has the last word
            how = settings(ReadingSettings)
            return read_corpus(paths, how, by_step=by_step, missing=missing)
        case "pairs":
            return read_pairs(paths, settings(PairSettings))
        case "speech":
            return read_speech(paths, settings(SpeechSettings))
        case "series":
            return read_panel(list(paths), settings(SeriesSettings))
    return list(paths)


def read_pattern(paths: Sequence[Path], pattern: str = "*.txt") -> TextSource:
    """Read a text; ``pattern`` says which files of a folder."""
    return TextSource.from_paths(list(paths), pattern=pattern)


IN_ROWS = ("--series-in-rows",)
SHORT = 5
"""Steps below which measurements of a row are no series."""


class Fit(NamedTuple):
    """A task that some data fit.

    Attributes:
        command: of ``ostinato train``.
        about: what would be learned from what, in a line.
        options: what the command needs beside the files.
        notes: what each column is read as, and the like.
    """

    command: str
    about: str
    options: tuple[str, ...] = ()
    notes: Sequence[str] = ()

    def told(self, paths: Sequence[Path], verb: str = "train", out: str = "run") -> str:
        """Return the task, and the command that trains it, or does another thing with the data."""
        files = [f"./{path}" if str(path).startswith("-") else str(path) for path in paths]
        words = ["ostinato", verb, self.command, *files, *self.options, "--out", out]
        notes = "".join(f"\n    {note}" for note in self.notes if note)
        return f"{self.command}: {self.about}{notes}\n    {shlex.join(words)}"


def fitting(paths: Sequence[Path]) -> list[Fit]:
    """Return the tasks that fit some files or folders, the likeliest first.

    Raises:
        DataError: there is nothing to be read, or nothing fits.
    """
    check_there(paths)
    for path in paths:
        _look_into(path)
    problems: list[str] = []

    def looked(look: Callable[[Sequence[Path]], Iterator[Fit]]) -> list[Fit]:
        try:
            return list(look(paths))
        except OstinatoError as error:
            problems.append(str(error))
            return []

    series = looked(_series)
    if series and series[0].options == IN_ROWS:
        return series
    found = [each for look in (_music, _labels, _steps, _pairs) for each in looked(look)]
    found += [*series, *looked(_text)]
    if any(each.command == "tag" for each in found) and not found[0].options:
        rows = [each for each in found if each.about.endswith(" series")]
        found = [each for each in found if each not in rows]  # a row is a step
    if not found:
        why = f" ({problems[0]})" if problems else ""
        names = ", ".join(task.command for task in TASKS)
        raise DataError(
            f"no task fits what is there{why}; ostinato train TASK --help says what each takes: "
            f"{names}.",
            path=", ".join(map(str, paths)),
        )
    return found


def _look_into(path: Path) -> None:
    """Refuse a folder of files that are to be named one by one."""
    if not path.is_dir():
        return
    files = sorted(each for each in path.rglob("*") if each.is_file() and each.name[0] != ".")
    suffixes = {file.suffix.lower() for file in files}
    if not suffixes & {*SOUNDS, *IMAGES, *MIDI, ".txt"}:
        some = ", ".join(str(file.relative_to(path)) for file in files[:8])
        more = f" and {len(files) - 8:,} more" if len(files) > 8 else ""
        what = f"is a folder with {some}{more}; name the files" if files else "is an empty folder"
        raise DataError(f"{what} to train on.", path=path)


def _music(paths: Sequence[Path]) -> Iterator[Fit]:
    suffixes = {path.suffix.lower() for path in paths if path.is_file()}
    within = {each.suffix.lower() for path in paths if path.is_dir() for each in path.rglob("*")}
    if suffixes <= {*MIDI, ".mat", ".json"} and (suffixes or within & {*MIDI}):
        with suppress(DataError):
            parts = read_music(paths)
            yield Fit("music", f"the next notes of {sum(map(len, parts.values())):,} pieces")


def _labels(paths: Sequence[Path]) -> Iterator[Fit]:
    try:
        yield from _of_labels(read("labels", paths, {}), ())
        return
    except OstinatoError as error:
        unclear = re.search(r"name it with label|apart with id|with id\b", str(error))
    names = _categories(read_table(paths[0])) if unclear else []
    options: list[tuple[str, ...]] = [("--label", name) for name in names] or _patterns(paths)
    found = [fit for some in options for fit in _tried(paths, some)]
    several = [("--id", key, "--label", name) for name in names for key in names if key != name]
    yield from found or (fit for some in several for fit in _tried(paths, some))


def _tried(paths: Sequence[Path], options: tuple[str, ...]) -> list[Fit]:
    """Return what the labels of some files tell, read with some options; nothing if they fail."""
    given = {flag[2:]: value for flag, value in zip(options[::2], options[1::2], strict=True)}
    with suppress(OstinatoError):
        return list(_of_labels(read("labels", paths, given), options))
    return []


def _of_labels(corpus: Corpus, options: tuple[str, ...]) -> Iterator[Fit]:
    """Tasks that predict something of each sequence, by what the targets look like."""
    labels, N = corpus.targets, len(corpus)
    if labels is None or N < 2:
        return
    if corpus.kind == "series" and max(map(len, corpus.inputs)) < SHORT:
        return  # no sequences, but rows of a few measurements
    if corpus.kind == "text" and not any(re.search("[^\\W\\d_]", text) for text in corpus.inputs):
        return  # dates, or numbers
    what = {"sound": "recordings", "image": "images", "series": "series"}.get(corpus.kind, "texts")
    if corpus.kind == "image" and not isinstance(corpus.inputs[0], Path):
        what = "images of an idx file"
    if any(isinstance(label, list) for label in labels):
        distinct = {each for label in labels for each in label}
    else:
        distinct = {*labels}
    d, written = len(distinct), sum(" " in str(label) for label in labels) > N / 2
    numbers = all(re.fullmatch(NUMBER_LIKE, str(label)) for label in distinct)
    some = f"{N:,} {what}"
    if corpus.kind in ("sound", "image") and (written or d > N / 2):
        if corpus.kind == "sound":
            yield Fit("transcribe", f"the text of each of {some}", options, corpus.notes)
        else:
            yield Fit("caption", f"a sentence about each of {some}", options, corpus.notes)
    elif numbers and (d > max(FEW, N / 100) or d > N / 2):
        yield Fit("regress", f"a number for each of {some}", options, corpus.notes)
    elif 2 <= d <= max(2, N / 2) and not (written and d > N / 10):
        names = ", ".join(sorted(map(str, distinct))[:6]) + (", ..." if d > 6 else "")
        about = f"one of {d} labels ({names}) for each of {some}"
        yield Fit("classify", about, options, corpus.notes)
        if corpus.kind == "sound":
            about = f"the label of each of {some}, spelled letter by letter"
            yield Fit("transcribe", about, options, corpus.notes)


def _patterns(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Patterns of the names of recordings or images in one folder, if these have parts."""
    files = [each for path in paths if path.is_dir() for each in sorted(path.rglob("*"))]
    files = [each for each in files if each.suffix.lower() in SOUNDS | IMAGES]
    for mark in "_-":
        parts = [file.stem.split(mark) for file in files]
        if not parts or len({*map(len, parts)}) != 1 or not 2 <= len(parts[0]) <= 12:
            continue
        for k, column in enumerate(zip(*parts, strict=True)):
            if 2 <= len({*column}) <= len(files) / 5:
                names = [f"{{{letter}}}" for letter in "abcdefghijkl"[: len(parts[0])]]
                names[k : k + 1] = ["{label}"]
                return [("--pattern", mark.join(names) + files[0].suffix)]
    return []


def _categories(table: Table) -> list[str]:
    """Columns that may hold labels: few different cells, again and again; at most three."""
    found = []
    for i, name in enumerate(table.names):
        if table.has_objects(i) or numbers_rows(table, i):
            continue
        d = int(table.frame.iloc[:, i].nunique())
        if 2 <= d <= min(50, len(table) / 4):
            found.append((table.is_numeric(i), d, name if table.named else str(i + 1)))
    return [name for _, _, name in sorted(found)[:3]]


def _steps(paths: Sequence[Path]) -> Iterator[Fit]:
    corpus: Corpus = read("steps", paths, {})
    labels = corpus.targets
    if labels is None or corpus.kind not in ("words", "series"):
        return
    every = [label for row in labels for label in row]
    changes = sum(a != b for row in labels for a, b in pairwise(row))
    d, N = len({*map(str, every)}), len(every)
    # Measurements that have a label each come in runs of one label; other rows, in any order.
    runs = 0 < changes < 0.3 * N and changes >= 2 * d
    words = corpus.kind == "words"
    if d > max(2, N / 5) or not ((changes and words) or runs):
        return
    if words and (len(corpus) > N / 2 or any(" " in word for word in corpus.inputs[0])):
        return  # texts, not words
    what = "words" if words else "steps"
    several = f" in {len(corpus):,} sequences" if len(corpus) > 1 else ""
    yield Fit("tag", f"one of {d} labels for each of {N:,} {what}{several}", (), corpus.notes)


def _pairs(paths: Sequence[Path]) -> Iterator[Fit]:
    tables = all(is_table(path) for path in paths)
    if not tables and (len(paths) != 2 or any(path.is_dir() for path in paths)):
        return
    if any(suffix in READERS for path in paths for suffix in path.suffixes):
        return
    corpus: Corpus = read("pairs", paths, {})
    N = len(corpus)
    sources = [str(text) for text in corpus.inputs]
    targets = [several[0] for several in corpus.targets or []]
    for texts in (sources, targets):
        numbers = sum(re.fullmatch(NUMBER_LIKE, text.strip()) is not None for text in texts[:200])
        if len({*texts}) < N / 2 or numbers > 0.5 * len(texts[:200]):
            return
    if tables and {Path(text).suffix.lower() for text in sources[:20]} & (SOUNDS | IMAGES):
        return
    words = sum(len(text.split()) for text in sources) / N
    fits = [
        Fit("translate", f"{N:,} texts, and each in other words", (), corpus.notes),
        Fit("summarize", f"{N:,} texts, and each made short", (), corpus.notes),
    ]
    short = sum(map(len, sources)) > 3 * sum(map(len, targets)) and words > FEW
    yield fits[1] if short else fits[0]


def _series(paths: Sequence[Path]) -> Iterator[Fit]:
    if not all(path.is_file() and (is_table(path) or path.suffix == "") for path in paths):
        return
    options: list[tuple[str, ...]] = [()]
    try:
        panel = read("series", paths, {})
    except OstinatoError as error:
        if "name it with target" not in str(error):
            raise
        panel = read("series", paths, {"target": "*"})
        options = [("--target", panel.columns.target[-1]), ("--target", "*")]
    table = read_table(paths[0])
    timed = bool(panel.columns.time)
    numeric = all(table.is_numeric(i) for i in range(len(table.names)))
    named = table.called({"label", "class", "target", "tag", "sentiment"}, range(len(table.names)))
    if len(panel) == len(table) > 1:
        options = [IN_ROWS]
    if panel.longest < 10 or named or not (timed or numeric or len(panel) == len(table)):
        return
    for some in options:
        many = 1 if some[-1:] == (panel.columns.target[-1],) else len(panel)
        about = f"the next steps of {many:,} series" if many > 1 else "the next steps of a series"
        steps = f" of up to {panel.longest:,} steps" if some == options[0] else ""
        notes = [panel.description] if some in ((), IN_ROWS) else []
        yield Fit("forecast", about + steps, some, notes)


def _text(paths: Sequence[Path]) -> Iterator[Fit]:
    if len(paths) == 2 and all(path.suffix not in (".txt", ".md") for path in paths):
        return
    for path in paths:
        named = path.suffix.lower() in PLAIN and not is_table(path)
        if not (path.is_dir() or named):
            return
    with suppress(OstinatoError):
        letters = TextSource.from_paths(list(paths)).characters()
        if letters > 1000:
            yield Fit("text", f"a language model of {letters:,} characters")
