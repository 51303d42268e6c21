"""From a user's files and objects to sequences and their labels.

Tables of every format of `formats`, ``.ts`` files, CoNLL and CoNLL-U, folders of recordings or
images, idx files. What cannot be used is a `DataError` that names the file and the line.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.corpus import IMAGES, SOUNDS, Corpus, ReadingSettings, existing, media_kind
from ostinato.data.formats import is_table, read_table
from ostinato.data.places import Place
from ostinato.data.sequences import sequences_of
from ostinato.data.tables import array_of, cells_of, has_columns, is_missing, table_of
from ostinato.data.textfiles import numbered_lines, opened
from ostinato.errors import DataError, OstinatoError, require

__all__ = ["corpus_of", "read_corpus"]

READERS = {
    ".ts": "ts",
    ".conllu": "conllu",
    ".conll": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bio": "conll",
    ".bioes": "conll",
}
"""Formats that are no tables, by suffix."""


def read_corpus(
    paths: Sequence[str | os.PathLike[str]],
    settings: ReadingSettings,
    *,
    by_step: bool = False,
    labelled: bool | None = True,
) -> Corpus:
    """Read files.

    Args:
        paths: files and folders; ``-`` is standard input, a text a line.
        settings: see `ReadingSettings`.
        by_step: whether each step has a label, not each sequence.
        labelled: whether there must be labels; None reads them where they are.

    Raises:
        DataError: naming file and line.
    """
    if not paths:
        raise DataError("no files were named; name at least one.")
    listed = [Path(path) for path in paths]
    for path in listed:
        if str(path) != "-" and not path.exists():
            raise DataError("no such file or folder.", path=path)
    idx = [path for path in listed if _is_idx(path)]
    if idx:
        return _read_idx(idx, labelled)
    files = list(_media(listed))
    if files:
        return _of_files(files, settings, labelled)
    parts = [_read_file(path, settings, by_step, labelled) for path in listed]
    first = parts[0]
    for path, part in zip(listed, parts, strict=True):
        if part.kind != first.kind or len(part.variables) != len(first.variables):
            raise DataError(
                f"holds {_described(part)}, and {listed[0]} {_described(first)}; "
                "read together, files must be of one kind.",
                path=path,
            )
    return Corpus.joined(parts)


def _described(part: Corpus) -> str:
    return f"series of {len(part.variables)} variables" if part.kind == "series" else part.kind


def _read_file(
    path: Path, settings: ReadingSettings, by_step: bool, labelled: bool | None
) -> Corpus:
    if path.is_dir():
        raise DataError(
            "holds no recordings, images or texts; name files of another kind.", path=path
        )
    kind = settings.format or _kind_of(path, by_step, labelled)
    if kind == "lines":
        return _read_lines(path, by_step)
    if kind == "ts":
        return _read_ts(path)
    if kind in ("conll", "conllu"):
        if not by_step:
            raise DataError("has a label for every word, not for a whole text: tag.", path=path)
        read = _read_conll if kind == "conll" else _read_conllu
        return read(path, settings, labelled)
    asked = [settings.label, settings.text, settings.id, settings.time]
    asked += (settings.variables or "").split(",")
    names = {name.strip().lower() for name in asked if name and not name.strip("- ").isdecimal()}
    return sequences_of(read_table(path, settings, names), settings, by_step, labelled)


def _kind_of(path: Path, by_step: bool, labelled: bool | None) -> str:
    """The format of a file by its suffix, or its content."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    named = next((READERS[s] for s in suffixes[-2:] if s in READERS), None)
    if named is not None:
        return named
    if str(path) == "-":
        return "lines"
    if is_table(path):
        return "table"
    lines = [line for _, line in itertools.islice(_text_lines(path), 500)]
    filled = [line for line in lines if line.strip()]
    if filled and filled[0].startswith("@") and any(line[:5].lower() == "@data" for line in filled):
        return "ts"
    if by_step:
        data = [line for line in filled if not line.startswith("#")]
        if data and all(
            re.match(r"\d+([.-]\d+)?\t", line) and line.count("\t") == 9 for line in data
        ):
            return "conllu"
        # A word a line, and a blank line between sentences.
        return "conll" if "" in [line.strip() for line in lines[:-1]] else "table"
    return "lines" if not labelled and suffixes[-1:] in ([], [".txt"], [".gz"]) else "table"


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a file; none of one that is no text."""
    try:
        yield from numbered_lines(path)
    except DataError:
        return


def _read_lines(path: Path, by_step: bool) -> Corpus:
    """A text a line."""
    name = "<standard input>" if str(path) == "-" else str(path)
    found = [(number, line) for number, line in numbered_lines(path) if line.strip()]
    places = [Place(name, number) for number, _ in found]
    if by_step:
        return Corpus("words", [line.split() for _, line in found], None, places)
    return Corpus("text", [line for _, line in found], None, places)


# Other files


def _read_ts(path: Path) -> Corpus:
    """The text format of the UEA and UCR archives: a case a line, ``:`` between variables."""
    has_target: bool | None = None
    inputs: list[NDArray[np.float64]] = []
    targets, places = [], []
    in_data = False
    for number, line in numbered_lines(path):
        line = line.strip()
        place = Place(str(path), number)
        if not line or line.startswith("#"):
            continue
        if not in_data:
            if not line.startswith("@"):
                raise place.error("expected a line that begins with @, or @data before the cases.")
            name, *rest = line[1:].lower().split()
            if name in ("classlabel", "targetlabel"):
                has_target = rest[:1] == ["true"] or has_target is True
            if name == "timestamps" and rest[:1] == ["true"]:
                raise place.error("time stamps in .ts files are not read; take them out.")
            in_data = name == "data"
            continue
        parts = line.split(":")
        if has_target and len(parts) < 2:
            raise place.error("has no label after a colon.")
        cells = parts[:-1] if has_target else parts
        rows = []
        for cell in cells:
            try:
                row = np.array(cell.split(","), dtype=np.float64)
            except ValueError:
                bad = next(c for c in cell.split(",") if not _is_number(c))
                raise place.error(
                    f"{bad.strip()!r:.40} is no number; values that are missing must be filled in."
                ) from None
            if not np.isfinite(row).all():
                raise place.error("holds a number that is not finite; fill it in.")
            rows.append(row)
        if len({len(row) for row in rows}) != 1:
            raise place.error(
                f"variables of {' and '.join(map(str, sorted({len(r) for r in rows})))} steps; "
                "those of one case must be of equal length."
            )
        if inputs and len(rows) != inputs[0].shape[1]:
            raise place.error(f"has {len(rows)} variables, and others {inputs[0].shape[1]}.")
        inputs.append(np.stack(rows, axis=1))
        targets.append(parts[-1].strip())
        places.append(place)
    if not inputs:
        raise DataError("holds no cases (after a line @data).", path=path)
    names = [str(i) for i in range(1, inputs[0].shape[1] + 1)]
    return Corpus("series", inputs, targets if has_target else None, places, names)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """Numbered lines between blank ones."""
    block: list[tuple[int, str]] = []
    for number, line in numbered_lines(path):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _read_conll(path: Path, settings: ReadingSettings, labelled: bool | None) -> Corpus:
    """A word a line with its columns, a blank line between sentences; the tag stands last."""
    inputs, targets, places, lines = [], [], [], []
    width = None
    for block in _blocks(path):
        rows = []
        for number, line in block:
            # Spaces that do not break are part of a word.
            cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
            if line.startswith(("-DOCSTART-", "# ")) and len(cells) != width:
                continue
            width = len(cells) if width is None else width
            if len(cells) != width:
                raise Place(str(path), number).error(
                    f"has {len(cells)} columns, and others {width}."
                )
            if cells[0] != "-DOCSTART-":
                rows.append((number, cells))
        if not rows:
            continue
        assert width is not None
        word = 0 if settings.text is None else _numbered(settings.text, width, path, "the words")
        tag = width - 1
        if settings.label is not None:
            tag = _numbered(settings.label, width, path, "the tags")
        if labelled and tag == word:
            raise Place(str(path), rows[0][0]).error(
                "has a single column; expected a word and its tag."
            )
        inputs.append([cells[word] for _, cells in rows])
        targets.append([cells[tag] for _, cells in rows])
        places.append(Place(str(path), block[0][0]))
        lines.append([number for number, _ in rows])
    if not inputs:
        raise DataError("holds no sentences.", path=path)
    there = labelled or (labelled is None and (width or 0) > 1)
    return Corpus("words", inputs, targets if there else None, places, (), lines)


def _numbered(name: str, width: int, path: Path, what: str) -> int:
    """A column of a file without names, by its number from 1, or from -1 at the end."""
    if name.lstrip("-").isdecimal() and 1 <= abs(int(name)) <= width:
        return int(name) - (int(name) > 0) if int(name) > 0 else width + int(name)
    raise DataError(
        f"has no column {name!r} for {what}; its columns have no names: they are numbered, 1 to "
        f"{width}.",
        path=path,
    )


def _read_conllu(path: Path, settings: ReadingSettings, labelled: bool | None) -> Corpus:
    conllu = require("conllu", "conllu", "reading CoNLL-U")
    field = settings.label or "upos"
    inputs, targets, places, lines = [], [], [], []
    for block in _blocks(path):
        place = Place(str(path), block[0][0])
        if all(line.startswith("#") for _, line in block):
            continue
        try:
            (sentence,) = conllu.parse("\n".join(line for _, line in block) + "\n\n")
        except (conllu.exceptions.ParseException, ValueError) as error:
            raise place.error(f"the sentence that begins here is no CoNLL-U: {error}") from None
        numbered = [number for number, line in block if not line.startswith("#")]
        words, tags, at = [], [], []
        for token, number in zip(sentence, numbered, strict=False):
            if not isinstance(token["id"], int):
                continue  # a surface form of several words, or an empty node
            tag = token.get(field)
            if tag is None:
                tag = next(
                    (token[f][field] for f in ("feats", "misc") if field in (token.get(f) or {})),
                    None,
                )
            if tag in (None, "_") and labelled and field in ("upos", "xpos", "deprel"):
                raise Place(str(path), number).error(f"has no {field}.")
            words.append(token["form"])
            tags.append("_" if tag is None else str(tag))
            at.append(number)
        if words:
            inputs.append(words)
            targets.append(tags)
            places.append(place)
            lines.append(at)
    if not inputs:
        raise DataError("holds no sentences.", path=path)
    if labelled and {tag for tags in targets for tag in tags} == {"_"}:
        raise DataError(f"no word has a {field!r}; name another column with label.", path=path)
    return Corpus("words", inputs, None if labelled is False else targets, places, (), lines)


# Recordings and images


def _media(paths: Iterable[Path]) -> Iterator[Path]:
    """Recordings and images among paths, and with texts below folders, sorted."""
    for path in paths:
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if not each.name.startswith("."))
            media = [each for each in found if each.suffix.lower() in SOUNDS | IMAGES]
            yield from media or (each for each in found if each.suffix.lower() == ".txt")
        elif path.suffix.lower() in SOUNDS | IMAGES:
            yield path


def _of_files(files: list[Path], settings: ReadingSettings, labelled: bool | None) -> Corpus:
    kind = media_kind([file.name for file in files])
    if kind is None:
        raise DataError(
            "recordings and images lie together; name the one or the other.", path=files[0].parent
        )
    places = [Place(str(file)) for file in files]
    inputs: list[Any] = list(files)
    if kind == "text":
        inputs = ["\n".join(line for _, line in numbered_lines(file)) for file in files]
    if labelled is False:
        return Corpus(kind, inputs, None, places)
    if settings.pattern is not None:
        matches = _pattern(settings.pattern)
        labels = []
        for file in files:
            found = matches(file.name)
            if found is None:
                if labelled is None:
                    return Corpus(kind, inputs, None, places)
                raise DataError(f"its name does not match {settings.pattern!r}.", path=file)
            labels.append(found)
        return Corpus(kind, inputs, labels, places)
    labels = [file.resolve().parent.name for file in files]
    if len(set(labels)) == 1:
        if labelled is None:
            return Corpus(kind, inputs, None, places)
        raise DataError(
            f"all {len(files)} files lie in one folder, {labels[0]!r}, whose name would be their "
            "only label; name a folder with a folder for each label in it, or say what the files' "
            f"names look like, as in pattern='{{label}}_{{speaker}}{files[0].suffix}'.",
            path=files[0].parent,
        )
    return Corpus(kind, inputs, labels, places)


def _pattern(pattern: str) -> Callable[[str], str | None]:
    """What finds the label in a file's name, by a pattern such as ``{label}_{speaker}.wav``."""
    parts = re.split(r"(\{\w*\})", pattern)
    names = [part[1:-1] for part in parts if part.startswith("{")]
    if names.count("label") != 1:
        raise OstinatoError(
            f"pattern={pattern!r}: expected {{label}} once, as in {{label}}_{{speaker}}.wav."
        )
    expression = "".join(
        ("(.+?)" if part == "{label}" else ".*?") if part.startswith("{") else re.escape(part)
        for part in parts
    ).replace(r"\*", ".*")
    compiled = re.compile(expression)

    def label_of(name: str) -> str | None:
        found = compiled.fullmatch(name) or compiled.fullmatch(Path(name).stem)
        return found[1] if found else None

    return label_of


def _is_idx(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with opened(path) as file:
            head = file.read(4)
    except DataError:
        return False
    return len(head) == 4 and head[:3] == b"\0\0\x08" and head[3] in (1, 3, 4)


def _read_idx_file(path: Path) -> NDArray[np.uint8]:
    with opened(path) as file:
        data = file.read()
    axes = data[3]
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    if len(data) != 4 + 4 * axes + math.prod(shape):
        raise DataError(
            f"holds {len(data)} bytes, and its head says {4 + 4 * axes + math.prod(shape)}; "
            "it is damaged.",
            path=path,
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _read_idx(paths: list[Path], labelled: bool | None) -> Corpus:
    """Images and labels in the format of MNIST; labels are found by their file's name."""
    arrays = {path: _read_idx_file(path) for path in paths}
    images = [path for path in paths if arrays[path].ndim > 1]
    given = {path: arrays[path] for path in paths if arrays[path].ndim == 1}
    inputs: list[Any] = []
    targets: list[str] = []
    places = []
    for path in images:
        beside = path.with_name(re.sub("images(.)idx.", r"labels\1idx1", path.name))
        if len(images) == len(given) == 1:
            labels = next(iter(given.values()))
        elif beside != path and beside.exists():
            labels = _read_idx_file(beside)
        elif labelled:
            raise DataError(f"there are no labels for it; expected {beside.name}.", path=path)
        else:
            labels = None
        pixels = arrays[path].reshape(*arrays[path].shape[:3], -1)  # (N, height, width, channels)
        if labels is not None and len(labels) != len(pixels):
            raise DataError(f"holds {len(pixels)} images, for {len(labels)} labels.", path=path)
        inputs += list(pixels)
        targets += [] if labels is None else [str(label) for label in labels.tolist()]
        places += [Place(f"{path}[{i}]") for i in range(len(pixels))]
    if not images:
        raise DataError("holds labels; name the file of the images too.", path=paths[0])
    whole = len(targets) == len(inputs) and labelled is not False
    return Corpus("image", inputs, targets if whole else None, places)


# Objects


def corpus_of(
    X: Any,
    y: Any = None,
    settings: ReadingSettings | None = None,
    *,
    by_step: bool = False,
    labelled: bool | None = None,
) -> Corpus:
    """Take sequences that are in memory already.

    Args:
        X: texts; lists of words; arrays ``(T, I)`` or ``(T,)``; one array ``(N, T)`` or
            ``(N, T, I)``; images ``(N, height, width)`` as uint8; paths of recordings or images; or
            a table: a data frame of pandas, polars or Arrow, or a dictionary of columns.
        y: the label of each, or labels of its steps, or None.
        settings: columns of a table; see `ReadingSettings`.
        by_step: whether each step has a label.
        labelled: whether a table must have labels; None reads them where they are.

    Raises:
        DataError: naming the sequence, or the row of a table.
    """
    settings = settings or ReadingSettings()
    if isinstance(X, str | bytes | os.PathLike):
        raise OstinatoError(
            f"X is {X!r:.60}; expected several sequences, or, for files, pathlib.Path objects."
        )
    if has_columns(X) or isinstance(X, Mapping):
        table = table_of(X)
        if y is None:
            return sequences_of(table, settings, by_step, labelled)
        corpus = sequences_of(table, settings, False, False)
    else:
        corpus = _of_items(cells_of(X))
    if y is not None:
        corpus.targets = _targets(y, len(corpus))
    return corpus


def _targets(y: Any, count: int) -> list[Any]:
    """Labels in memory, none of them missing."""
    if has_columns(y):
        table = table_of(y)
        rows = table.frame.to_numpy().tolist()
        targets = [row[0] for row in rows] if len(table.names) == 1 else rows
    else:
        targets = cells_of(y)
    if len(targets) != count:
        raise DataError(f"X has {count} sequences, and y {len(targets)} labels.")
    for i, target in enumerate(targets):
        if target is None or (
            np.ndim(target) == 0 and not isinstance(target, str) and is_missing(target)
        ):
            raise Place(f"y[{i}]").error("is missing; fill it in, or leave the sequence out.")
    return targets


def _of_items(inputs: list[Any]) -> Corpus:
    """A corpus of sequences without labels."""
    places = [Place(f"X[{i}]") for i in range(len(inputs))]
    if not inputs:
        raise DataError("X is empty; give at least one sequence.")
    first = inputs[0]
    if isinstance(first, str):
        return _all(Corpus("text", inputs, None, places), str, "a text")
    if isinstance(first, os.PathLike):
        inputs = [existing(Path(path), place) for path, place in zip(inputs, places, strict=True)]
        kind = media_kind([path.name for path in inputs])
        if kind not in ("sound", "image"):
            raise places[0].error(f"is {first!s}; expected a recording or an image.")
        return Corpus(kind, inputs, None, places)
    words = cells_of(first) if np.ndim(first) == 1 or isinstance(first, list | tuple) else []
    if words and isinstance(words[0], str):
        corpus = Corpus("words", inputs, None, places)
        if not isinstance(first, list | tuple):
            corpus.inputs = [cells_of(each) for each in inputs]
        return _all(corpus, (list, tuple), "a list of words")
    arrays = []
    for each, place in zip(inputs, places, strict=True):
        try:
            arrays.append(array_of(each))
        except (ValueError, TypeError) as error:
            raise place.error(f"cannot be read as numbers: {error}.") from None
    if arrays[0].dtype == np.uint8 and arrays[0].ndim in (2, 3):
        pixels = [a.reshape(*a.shape[:2], -1) for a in arrays]
        return Corpus("image", pixels, None, places)
    arrays = [a.astype(np.float64) for a in arrays]
    arrays = [a[:, None] if a.ndim == 1 else a for a in arrays]
    names = _names_of(inputs, places) or [str(i) for i in range(1, arrays[0].shape[-1] + 1)]
    for array, place in zip(arrays, places, strict=True):
        if array.ndim != 2 or array.shape[1] != arrays[0].shape[1]:
            raise place.error(
                f"has shape {array.shape}; expected (T, {arrays[0].shape[-1]}), as X[0] has."
            )
        if not np.isfinite(array).all():
            t, i = map(int, np.argwhere(~np.isfinite(array))[0])
            raise place.error(f"is {array[t, i]} at step {t}, variable {i}; fill it in.")
    return Corpus("series", arrays, None, places, names)


def _names_of(inputs: Sequence[Any], places: Sequence[Place]) -> list[str]:
    """The columns of frames, a sequence each; none of arrays."""
    if not has_columns(inputs[0]):
        return []
    first = [str(name) for name in inputs[0].columns]
    for each, place in zip(inputs, places, strict=True):
        names = [str(name) for name in each.columns] if has_columns(each) else []
        if names != first:
            raise place.error(f"has the columns {names}; expected {first}, as X[0] has.")
    return first


def _all(corpus: Corpus, kind: Any, what: str) -> Corpus:
    for each, place in zip(corpus.inputs, corpus.places, strict=True):
        if not isinstance(each, kind):
            raise place.error(f"is {each!r:.40}; expected {what}, as X[0] is.")
    return corpus
