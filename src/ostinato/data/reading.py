"""From a user's files and objects to sequences and their labels.

Tables of every format of `formats`, ``.ts`` files, CoNLL and CoNLL-U, folders of recordings or
images, idx files. What cannot be used is a `DataError` that names the file and the line.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.corpus import IMAGES, SOUNDS, Corpus, ReadingSettings, existing, media_kind
from ostinato.data.formats import is_table, read_table
from ostinato.data.lazy import pd
from ostinato.data.places import Place
from ostinato.data.sequences import sequences_of
from ostinato.data.tables import Table, array_of, cells_of, has_columns, is_missing, table_of
from ostinato.data.textfiles import library_errors, numbered_lines, opened
from ostinato.errors import DataError, OstinatoError, require
from ostinato.files import check_there

READERS = {".ts": "ts", ".conllu": "conllu"} | dict.fromkeys(
    (".conll", ".iob", ".iob2", ".bio", ".bioes"), "conll"
)
"""Formats that are no tables, by suffix."""


def read_corpus(
    paths: Sequence[str | os.PathLike[str]],
    settings: ReadingSettings,
    *,
    by_step: bool = False,
    labelled: bool | None = True,
    missing: bool = False,
) -> Corpus:
    """Read files.

    Args:
        paths: files and folders; ``-`` is standard input, a text a line.
        settings: see `ReadingSettings`.
        by_step: whether each step has a label, not each sequence.
        labelled: whether there must be labels; None reads them where they are.
        missing: whether measurements may be missing, which become NaN.

    Raises:
        DataError: naming file and line.
    """
    if not paths:
        raise DataError("no files were named; name at least one.")
    listed = [Path(path) for path in paths]
    check_there(listed)
    corpus = _read_all(listed, settings, by_step, labelled, missing)
    if not len(corpus):
        raise DataError("is empty; give some sequences.", path=", ".join(map(str, paths)))
    return corpus


def _read_all(
    listed: list[Path],
    settings: ReadingSettings,
    by_step: bool,
    labelled: bool | None,
    missing: bool,
) -> Corpus:
    if idx := [path for path in listed if is_idx(path)]:
        _refuse_group(settings, labelled, idx[0])
        return _read_idx(idx, labelled)
    if files := list(_media(listed)):
        return _of_files(files, settings, labelled)
    parts = [read_file(path, settings, by_step, labelled, missing) for path in listed]
    kinds = [f"series of {len(p.variables)} variables" if p.kind == "series" else p.kind
             for p in parts]  # fmt: skip
    for path, kind in zip(listed, kinds, strict=True):
        if kind != kinds[0]:
            raise DataError(
                f"holds {kind}, and {listed[0]} {kinds[0]}; read together, files must be of one "
                "kind.",
                path=path,
            )
    return Corpus.joined(parts)


def asked_columns(settings: ReadingSettings) -> list[str]:
    """Return the names by which columns are asked for."""
    asked = (settings.label, settings.text, settings.id, settings.time, settings.group,
             *(settings.variables or "").split(","))  # fmt: skip
    return [name for name in asked if name and not name.strip("- ").isdecimal()]


def read_file(
    path: Path, settings: ReadingSettings, by_step: bool, labelled: bool | None, missing: bool
) -> Corpus:
    """Read one file; arguments are those of `read_corpus`."""
    if path.is_dir():
        raise DataError(
            "holds no recordings, images or texts; name files of another kind.", path=path
        )
    kind = settings.format or _kind_of(path, by_step, labelled)
    if kind in ("lines", "ts", "conll", "conllu"):
        _refuse_group(settings, labelled, path)
    if kind == "lines":
        return _read_lines(path, by_step)
    if kind == "ts":
        return _read_ts(path, missing)
    if kind in ("conll", "conllu"):
        if not by_step:
            raise DataError("has a label for every word, not for a whole text: tag.", path=path)
        sentences = (_conll if kind == "conll" else _conllu)(path, settings, labelled)
        return _read_tagged(path, sentences, labelled)
    table = read_table(path, settings, asked_columns(settings))
    return sequences_of(table, settings, by_step, labelled, missing)


def _refuse_group(settings: ReadingSettings, labelled: bool | None, path: Path) -> None:
    """Raise a `DataError` where groups are asked for and the format has none."""
    if settings.group is not None and labelled:
        raise DataError(
            f"has no column {settings.group!r} for the groups; expected a table, or recordings or "
            "images whose names hold it.",
            path=path,
        )


def _kind_of(path: Path, by_step: bool, labelled: bool | None) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if named := [READERS[suffix] for suffix in suffixes[-2:] if suffix in READERS]:
        return named[0]
    if str(path) == "-" or is_table(path):
        return "lines" if str(path) == "-" else "table"
    lines = []
    with contextlib.suppress(DataError):  # of a file that is no text
        for _, line in itertools.islice(numbered_lines(path), 500):
            lines.append(line)
    filled = [line for line in lines if line.strip()]
    if filled and filled[0].startswith("@") and any(line[:5].lower() == "@data" for line in filled):
        return "ts"
    if by_step:
        data = [line for line in filled if not line.startswith("#")]
        if data and all(re.fullmatch(r"\d+([.-]\d+)?(\t[^\t]*){9}", line) for line in data):
            return "conllu"
        # Every row of a table has as many cells; plain sentences differ in words and in commas.
        if not labelled and not any("\t" in line for line in data):
            counts = [{len(re.split(mark, line)) for line in data} for mark in (r"\s+", ",")]
            if len(counts[0]) > 1 and (len(counts[1]) > 1 or counts[1] == {1}):
                return "lines"
        # A word a line, and a blank line between sentences.
        return "conll" if "" in [line.strip() for line in lines[:-1]] else "table"
    return "lines" if not labelled and suffixes[-1:] in ([], [".txt"], [".gz"]) else "table"


def _read_lines(path: Path, by_step: bool) -> Corpus:
    name = "<standard input>" if str(path) == "-" else str(path)
    found = [(number, line) for number, line in numbered_lines(path) if line.strip()]
    places = [Place(name, number) for number, _ in found]
    texts = [line.split() if by_step else line for _, line in found]
    return Corpus("words" if by_step else "text", texts, None, places)


# Other files


def _read_ts(path: Path, missing: bool) -> Corpus:
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
            name, *rest = line[1:].lower().split() or [""]
            if name in ("classlabel", "targetlabel"):
                has_target = rest[:1] == ["true"] or has_target is True
            if name == "timestamps" and rest[:1] == ["true"]:
                raise place.error("time stamps in .ts files are not read; take them out.")
            in_data = name == "data"
            continue
        parts = line.split(":")
        if has_target and len(parts) < 2:
            raise place.error("has no label after a colon.")
        rows = [_numbers(cell, place, missing) for cell in (parts[:-1] if has_target else parts)]
        steps = sorted({len(row) for row in rows})
        if len(steps) != 1:
            raise place.error(
                f"variables of {' and '.join(map(str, steps))} steps; those of one case must be of "
                "equal length."
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


def _numbers(cells: str, place: Place, missing: bool) -> NDArray[np.float64]:
    values = []
    for cell in cells.split(","):
        try:
            values.append(float(cell))
        except ValueError:
            values.append(math.nan)
        if not (math.isfinite(values[-1]) or (missing and is_missing(cell))):
            raise place.error(
                f"{cell.strip()!r:.40} is no number; values that are missing must be filled in, "
                "but for cell='gru-d'."
            )
    return np.array(values)


def _blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """Numbered lines between blank ones."""
    for filled, lines in itertools.groupby(numbered_lines(path), lambda n: bool(n[1].strip())):
        if filled:
            yield list(lines)


Words = list[tuple[int, str, str | None]]
"""The line, the form and the tag of each word of a sentence."""
Sentence = tuple[Place, Words]


def _read_tagged(path: Path, sentences: Iterable[Sentence], labelled: bool | None) -> Corpus:
    found = [(place, words) for place, words in sentences if words]
    if not found:
        raise DataError("holds no sentences.", path=path)
    lines = [[line for line, _, _ in words] for _, words in found]
    inputs = [[form for _, form, _ in words] for _, words in found]
    targets = [[tag for _, _, tag in words] for _, words in found]
    tagged = labelled is not False and targets[0][0] is not None
    places = [place for place, _ in found]
    return Corpus("words", inputs, targets if tagged else None, places, (), lines)


def _conll(path: Path, settings: ReadingSettings, labelled: bool | None) -> Iterator[Sentence]:
    """A word a line with its columns, a blank line between sentences; the tag stands last."""
    width = 0
    for block in _blocks(path):
        rows = []
        for number, line in block:
            # Spaces that do not break are part of a word.
            cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
            if line.startswith(("-DOCSTART-", "# ")) and len(cells) != width:
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise Place(str(path), number).error(
                    f"has {len(cells)} columns, and others {width}."
                )
            if cells[0] != "-DOCSTART-":
                rows.append((number, cells))
        if not rows:
            continue
        word = 0 if settings.text is None else _numbered(settings.text, width, path, "the words")
        tag = width - 1
        if settings.label is not None:
            tag = _numbered(settings.label, width, path, "the tags")
        if labelled and tag == word:
            raise Place(str(path), rows[0][0]).error(
                "has a single column; expected a word and its tag."
            )
        words = [(n, cells[word], cells[tag] if width > 1 else None) for n, cells in rows]
        yield Place(str(path), block[0][0]), words


def _numbered(name: str, width: int, path: Path, what: str) -> int:
    """A column of a file without names, by its number from 1, or from -1 at the end."""
    return Table(path, pd.DataFrame(columns=range(1, width + 1)), named=False).column(name, what)


def _conllu(path: Path, settings: ReadingSettings, labelled: bool | None) -> Iterator[Sentence]:
    conllu = require("conllu", "conllu", "reading CoNLL-U")
    field = settings.label or "upos"
    tags = set()
    for block in _blocks(path):
        place = Place(str(path), block[0][0])
        numbers = [number for number, line in block if not line.startswith("#")]
        if not numbers:
            continue
        with library_errors(path, "CoNLL-U", place.line):
            (sentence,) = conllu.parse("\n".join(line for _, line in block) + "\n\n")
        words: Words = []
        for token, number in zip(sentence, numbers, strict=False):
            if not isinstance(token["id"], int):
                continue  # a surface form of several words, or an empty node
            holders = (token, token.get("feats") or {}, token.get("misc") or {})
            tag = next((str(each[field]) for each in holders if each.get(field) is not None), "_")
            if tag == "_" and labelled and field in ("upos", "xpos", "deprel"):
                raise Place(str(path), number).error(f"has no {field}.")
            words.append((number, token["form"], tag))
            tags.add(tag)
        yield place, words
    if labelled and tags == {"_"}:
        raise DataError(f"no word has a {field!r}; name another column with label.", path=path)


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
    labels = None if labelled is False else labels_of(files, settings.pattern, labelled)
    return Corpus(kind, inputs, labels, places, groups=groups_of(files, settings, labelled))


def labels_of(files: list[Path], pattern: str | None, labelled: bool | None) -> list[str] | None:
    """Return labels of files, by their names or folders; None if they have and need none."""
    if pattern is not None:
        return fields_of(files, pattern, "label", labelled)
    labels = [file.resolve().parent.name for file in files]
    if len(set(labels)) > 1:
        return labels
    if labelled is None:
        return None
    raise DataError(
        f"all {len(files)} files lie in one folder, {labels[0]!r}, whose name would be their only "
        "label; name a folder with a folder for each label in it, or say what the files' names "
        f"look like, as in pattern='{{label}}_{{speaker}}{files[0].suffix}'.",
        path=files[0].parent,
    )


def groups_of(
    files: list[Path], settings: ReadingSettings, labelled: bool | None
) -> list[str] | None:
    """The groups of files, by their names; None if there are none, or none are needed."""
    pattern, field = settings.pattern or "", settings.group or "group"
    if f"{{{field}}}" in pattern:
        return fields_of(files, pattern, field, labelled or None)
    if settings.group is not None and labelled:
        raise OstinatoError(
            f"group={field!r}: expected a field {{{field}}} in the pattern of the files' names, "
            f"as in pattern='{{label}}_{{{field}}}{files[0].suffix}', got "
            f"pattern={settings.pattern!r}."
        )
    return None


def fields_of(
    files: list[Path], pattern: str, field: str, labelled: bool | None
) -> list[str] | None:
    """What the names of files hold in place of a field of their pattern."""
    parts, asked = re.split(r"(\{\w*\})", pattern), f"{{{field}}}"
    if parts.count(asked) != 1:
        raise OstinatoError(
            f"pattern={pattern!r}: expected {asked} once, as in {{label}}_{{speaker}}.wav."
        )
    wild = {part: "(.+?)" if part == asked else ".*?" for part in parts[1::2]}
    form = re.compile("".join(
        wild.get(part) or re.escape(part).replace(r"\*", ".*") for part in parts
    ))  # fmt: skip
    matches = [form.fullmatch(file.name) or form.fullmatch(file.stem) for file in files]
    found = [match[1] for match in matches if match is not None]
    if len(found) == len(files):
        return found
    if labelled is None:
        return None
    raise DataError(f"its name does not match {pattern!r}.", path=files[matches.index(None)])


def is_idx(path: Path) -> bool:
    """Tell whether a file begins as one in the format of MNIST."""
    head = b""
    if path.is_file():
        with contextlib.suppress(DataError), opened(path) as file:
            head = file.read(4)
    return head[:3] == b"\0\0\x08" and head[3:] in (b"\1", b"\3", b"\4")


def _read_idx_file(path: Path) -> NDArray[np.uint8]:
    with opened(path) as file:
        data = file.read()
    with library_errors(path, "idx"):
        axes = data[3]
        shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    size = 4 + 4 * axes + math.prod(shape)
    if len(data) != size:
        raise DataError(
            f"holds {len(data)} bytes, and its head says {size}; it is damaged.", path=path
        )
    if 0 in shape:
        raise DataError("is empty.", path=path)
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
    missing: bool = False,
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
        missing: whether measurements may be missing, NaN.

    Raises:
        DataError: naming the sequence, or the row of a table.
    """
    settings = settings or ReadingSettings()
    if has_columns(X) or isinstance(X, Mapping):
        table = table_of(X)
        if y is None:
            return sequences_of(table, settings, by_step, labelled, missing)
        corpus = sequences_of(table, settings, False, False, missing)
    else:
        corpus = _of_items(cells_of(X), missing)
    if y is not None:
        corpus.targets = _targets(y, len(corpus))
    return corpus


def _targets(y: Any, count: int) -> list[Any]:
    """Labels in memory, none of them missing."""
    if has_columns(y):
        y = table_of(y).frame.squeeze(axis=1).to_numpy().tolist()
    targets = cells_of(y)
    if len(targets) != count:
        raise DataError(f"X has {count} sequences, and y {len(targets)} labels.")
    for i, target in enumerate(targets):
        if np.ndim(target) == 0 and not isinstance(target, str) and is_missing(target):
            raise Place(f"y[{i}]").error("is missing; fill it in, or leave the sequence out.")
    return targets


def _of_items(inputs: list[Any], missing: bool) -> Corpus:
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
        listed = inputs if isinstance(first, list | tuple) else [cells_of(each) for each in inputs]
        return _all(Corpus("words", listed, None, places), (list, tuple), "a list of words")
    arrays = []
    for each, place in zip(inputs, places, strict=True):
        try:
            arrays.append(array_of(each))
        except (ValueError, TypeError) as error:
            raise place.error(f"cannot be read as numbers: {error}.") from None
        if not arrays[-1].ndim:
            raise place.error(
                f"is {each!r:.40}; expected a sequence: a text, a list of words, numbers (T,) or "
                "(T, I), an image."
            )
    if arrays[0].dtype == np.uint8 and arrays[0].ndim in (2, 3):
        return Corpus("image", [a.reshape(*a.shape[:2], -1) for a in arrays], None, places)
    arrays = [(a[:, None] if a.ndim == 1 else a).astype(np.float64) for a in arrays]
    names = _names_of(inputs, places) or [str(i) for i in range(1, arrays[0].shape[-1] + 1)]
    for array, place in zip(arrays, places, strict=True):
        if array.ndim != 2 or array.shape[1] != arrays[0].shape[1]:
            raise place.error(
                f"has shape {array.shape}; expected (T, {arrays[0].shape[-1]}), as X[0] has."
            )
        wrong = np.isinf(array) if missing else ~np.isfinite(array)
        if wrong.any():
            t, i = map(int, np.argwhere(wrong)[0])
            hint = "fill it in" if np.isinf(array[t, i]) else "fill it in, or use cell='gru-d'"
            raise place.error(f"is {array[t, i]} at step {t}, variable {i}; {hint}.")
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
