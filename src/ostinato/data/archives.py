"""Tar archives of samples, as WebDataset has them: read where they lie, never unpacked.

Files of one sample stand next to each other and share their name up to its first dot: ``a/17.wav``,
``a/17.txt``, ``a/17.json``. What follows that dot says what a file is. A name is never used as a
path, links and devices are refused, and no more is read at a time than a file or a head has.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ostinato.data.corpus import IMAGES, SOUNDS, Corpus, ReadingSettings
from ostinato.data.places import Place
from ostinato.data.textfiles import PACKED, library_errors
from ostinato.errors import DataError

CHUNK = 4096
"""Samples of a chunk."""

LARGEST_HEAD = 1 << 20
"""Bytes that the head of a file in an archive has at most, its long name included."""

LARGEST_TEXT = 1 << 26
"""Bytes of a text, a label or a JSON document in an archive, at most."""

TEXTS = ("txt", "text")
LABELS = ("cls", "label", "txt", "text", "caption", "transcript")
"""What labels are called, the likeliest first."""


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        archive: the archive.
        name: of the file, for messages and its suffix alone.
        offset, size: where its bytes are.
    """

    archive: str
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return its bytes."""
        path = Path(self.archive)
        with library_errors(path), path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise DataError(f"ends within {self.name!r:.80}; it is damaged.", path=path)
        return data

    def open(self) -> BinaryIO:
        """Return it as a file."""
        return io.BytesIO(self.read())

    @property
    def suffix(self) -> str:
        """Its suffix, in lower case."""
        return Path(self.name).suffix.lower()

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"


def is_archive(path: Path) -> bool:
    """Tell whether a file's name says that it is a tar archive, compressed or not."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return suffixes[-1:] == [".tar"] or suffixes[-1:] in ([".tgz"], [".tbz"], [".txz"]) or (
        len(suffixes) == 2 and suffixes[0] == ".tar" and suffixes[1] in PACKED
    )  # fmt: skip


class _Heads(io.BufferedReader):
    """An archive of which `tarfile` reads nothing but heads, each of a size that heads have."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= LARGEST_HEAD:
            raise DataError(f"has a head of {size} bytes; it is damaged.", path=self.name)
        return super().read(size)


def members(path: Path) -> Iterator[Member]:
    """Yield the files of an archive in their order; a `DataError` where it is damaged."""
    if path.suffix.lower() != ".tar":
        raise DataError(
            "is compressed, and files in it cannot be read one by one: unpack it to a .tar "
            "(gunzip, bunzip2, unxz, unzstd).",
            path=path,
        )
    size = path.stat().st_size
    with (
        library_errors(path, "tar"),
        _Heads(io.FileIO(path)) as file,
        tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive,
    ):
        while (each := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # which it would keep
            name = each.name
            if each.isdir():
                continue
            if not each.isreg() or each.issparse():
                raise DataError(
                    f"{name!r:.80} is no plain file but a link, a device or a sparse file; "
                    "make the archive again without it (tar --dereference).",
                    path=path,
                )
            if not 0 <= each.size <= size - each.offset_data:
                raise DataError(f"ends within {name!r:.80}; it is damaged.", path=path)
            if not os.path.basename(name).startswith("."):
                yield Member(str(path), name, each.offset_data, each.size)


def samples(path: Path) -> Iterator[dict[str, Member]]:
    """Yield the files of each sample by what follows the first dot in their names, in lower case.

    A kind of file that a sample has twice is a `DataError`.
    """
    for key, some in groupby(members(path), lambda member: _split(member.name)[0]):
        found: dict[str, Member] = {}
        for member in some:
            kind = _split(member.name)[1]
            if kind in found:
                raise DataError(f"sample {key!r:.80} has two files .{kind}.", path=path)
            found[kind] = member
        yield found


def _split(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    key, _, kind = file.partition(".")
    return f"{folder}/{key}", kind.lower()


class Roles(NamedTuple):
    """Which file of a sample is what: ``key`` names a member of a JSON object."""

    kind: Any
    input: str
    label: str | None
    key: str | None = None

    def described(self) -> str:
        """Say it in words."""
        label = self.label if self.key is None else f"{self.key} in {self.label}"
        return f"samples of tar archives; input: {self.input}" + (
            f"; label: {label}" if label else ""
        )


def archive_chunks(
    paths: list[Path], settings: ReadingSettings, labelled: bool | None
) -> Iterator[Corpus]:
    """Yield the samples of archives, some thousand at a time; the first says what is what."""
    roles: Roles | None = None
    for path in paths:
        rows: list[tuple[Any, Any, Place]] = []
        for sample in samples(path):
            roles = roles or _roles(sample, settings, labelled, path)
            rows.append(_sample(sample, roles, settings, path))
            if len(rows) == CHUNK:
                yield _chunk(rows, roles)
                rows = []
        if rows and roles:
            yield _chunk(rows, roles)
    if roles is None:
        raise DataError("holds no files.", path=paths[0])


def _chunk(rows: list[tuple[Any, Any, Place]], roles: Roles) -> Corpus:
    inputs, targets, places = map(list, zip(*rows, strict=True))
    labelled = targets if roles.label else None
    return Corpus(roles.kind, inputs, labelled, places, notes=[roles.described()])


def _sample(
    sample: dict[str, Member], roles: Roles, settings: ReadingSettings, path: Path
) -> tuple[Any, Any, Place]:
    """Return input, label and place of a sample."""
    first = next(iter(sample.values()))
    place = Place(f"{path}: {_split(first.name)[0].lstrip('/')}")
    missing = [kind for kind in (roles.input, roles.label) if kind and kind not in sample]
    if missing:
        raise place.error(f"has no file .{missing[0]}; others have.")
    member = sample[roles.input]
    label = _label(sample[roles.label], roles.key, settings, place) if roles.label else None
    return text_of(member, place) if roles.kind == "text" else member, label, place


def _roles(
    sample: dict[str, Member], settings: ReadingSettings, labelled: bool | None, path: Path
) -> Roles:
    """Return what is what, by the settings or by what the files of the first sample are called."""
    media = {kind: "sound" for kind, m in sample.items() if m.suffix in SOUNDS}
    media |= {kind: "image" for kind, m in sample.items() if m.suffix in IMAGES}
    if settings.text is not None:
        named = settings.text.lower().lstrip(".")
        inputs = [named] if named in sample else []
    else:
        inputs = list(media) or [kind for kind in TEXTS if kind in sample]
    names = ", ".join(f".{kind}" for kind in sample)
    if len(inputs) != 1:
        raise DataError(
            f"which file of a sample is the input is not clear; name its suffix with text; there "
            f"are {names}.",
            path=path,
        )
    kind, rest = media.get(inputs[0], "text"), [k for k in sample if k != inputs[0]]
    if labelled is False:
        return Roles(kind, inputs[0], None)
    if settings.label is not None:
        named = settings.label.lower().lstrip(".")
        if named in rest:
            return Roles(kind, inputs[0], named)
        if "json" in rest:
            return Roles(kind, inputs[0], "json", settings.label)
        raise DataError(f"has no file .{named} for the labels; there are {names}.", path=path)
    usual = [label for label in LABELS if label in rest]
    if usual:
        return Roles(kind, inputs[0], usual[0])
    if "json" in rest:
        document = _document(sample["json"], Place(str(path)))
        keys = [key for key in ("label", "cls", "class", "text", "caption") if key in document]
        if len(keys) == 1:
            return Roles(kind, inputs[0], "json", keys[0])
    if labelled is None:
        return Roles(kind, inputs[0], None)
    raise DataError(
        f"which file holds the label of a sample is not clear; name its suffix, or a key of its "
        f".json, with label; there are {names}.",
        path=path,
    )


def text_of(member: Member, place: Place) -> str:
    """Return the text of a file in an archive."""
    if member.size > LARGEST_TEXT:
        raise place.error(f"has a {member.suffix} of {member.size:,} bytes; expected a text.")
    try:
        return member.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise place.error(f"{member.name!r:.80} is not UTF-8.") from None


def _document(member: Member, place: Place) -> dict[str, Any]:
    try:
        document = json.loads(text_of(member, place))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise place.error(f"{member.name!r:.80} is no JSON object.")
    return document


def _label(member: Member, key: str | None, settings: ReadingSettings, place: Place) -> Any:
    label: Any
    if key is None:
        label = text_of(member, place).strip()
    else:
        document = _document(member, place)
        if document.get(key) is None:
            raise place.error(f"{member.name!r:.80} has no {key!r}.")
        label = document[key]
        if isinstance(label, list):
            return [str(each) for each in label]
        label = str(label)
    if not label:
        raise place.error(f"{member.name!r:.80} is empty; expected a label.")
    if settings.separator:
        return [part.strip() for part in label.split(settings.separator) if part.strip()]
    return label
