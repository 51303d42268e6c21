"""Prepared data: a folder that any number of runs train from.

::

    FOLDER/prepared.json     task, settings, what was learned from the data, facts about them
    FOLDER/sources.jsonl     path, size and time of each file that they were made from
    FOLDER/data/             the encoded data, memory-mapped; shards.json has their checksums
    FOLDER/work/             while it is being prepared: what is done, and what was read
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ostinato.data.chunks import walk
from ostinato.data.places import paths_of
from ostinato.data.shards import CHECKSUMS, Tell, Work
from ostinato.data.spool import open_chunks
from ostinato.errors import DataError, OstinatoError
from ostinato.files import PREPARED_FILE, atomic_file, check_new_folder, is_prepared, sole_writer
from ostinato.training import storage

SOURCES = "sources.jsonl"


class PreparedFolder(NamedTuple):
    """A folder of prepared data.

    Attributes:
        path: the folder.
        task: the estimator's name.
        settings: those that shaped the data.
        documents: inputs and targets, as a stored model keeps them.
        facts: facts of the data.
    """

    path: Path
    task: str
    settings: dict[str, Any]
    documents: dict[str, Any]
    facts: dict[str, Any]

    @property
    def data(self) -> Path:
        """The folder of the encoded data."""
        return self.path / "data"

    @property
    def size(self) -> int:
        """Bytes of the encoded data."""
        return sum(file.stat().st_size for file in self.data.iterdir())

    @classmethod
    def open(cls, path: Path) -> PreparedFolder:
        """Open a folder; a `DamagedError` if it is damaged, shards apart."""
        file = path / PREPARED_FILE
        document = storage.from_json(storage.read_files(path, PREPARED_FILE)[PREPARED_FILE], file)
        kinds = dict.fromkeys(("settings", "documents", "facts", "data"), dict)
        known = storage.check_types(document, file, task=str, **kinds)
        storage.check_digests(path / "data", known.pop("data"), PREPARED_FILE)
        return cls(path, *(known[name] for name in cls._fields[1:]))

    @classmethod
    def of(cls, X: object) -> PreparedFolder | None:
        """Return the folder of prepared data that data are; None if they are others."""
        paths = paths_of(X)
        if not any(map(is_prepared, paths)):
            return None
        if len(paths) > 1:
            raise OstinatoError(
                f"{', '.join(map(str, paths))}: expected one folder of prepared data, or other "
                "data; prepare them together."
            )
        return cls.open(paths[0])

    def check(self, task: str, settings: Mapping[str, Any]) -> None:
        """Raise an `OstinatoError` unless they were prepared for a task with these settings."""
        if task != self.task:
            raise OstinatoError(f"{self.path}: was prepared for {self.task}; expected {task}.")
        changes = [
            f"{name}={self.settings.get(name)!r} (here {value!r})"
            for name, value in settings.items()
            if self.settings.get(name) != value
        ]
        if changes:
            raise OstinatoError(
                f"{self.path}: was prepared with {', '.join(changes)}: train with these settings, "
                "or prepare the data again in another folder."
            )

    def link(self, folder: Path) -> None:
        """Put the data into another folder, without a copy where the file system allows it."""
        for file in sorted(self.data.iterdir()):
            try:
                os.link(file, folder / file.name)
            except OSError:  # another file system, or one without hard links
                (folder / file.name).symlink_to(file.resolve())


Make = Callable[[Path, Work], tuple[dict[str, Any], dict[str, Any]]]
"""Writes encoded data into a folder, and returns documents and facts of them."""


def prepare_folder(
    path: Path,
    task: str,
    settings: Mapping[str, Any],
    paths: Sequence[Path],
    make: Make,
    tell: Tell,
    say: Callable[[str], None],
) -> PreparedFolder:
    """Prepare data in a folder; go on with what was interrupted, reuse what has not changed.

    Args:
        path: the folder: new, empty, or of an earlier call.
        task: the estimator's name.
        settings: those that shape the data.
        paths: the files or folders; none for data in memory, which are never reused.
        make: prepares them.
        tell: is told of the progress.
        say: is told, in a line, what became of an earlier call.

    Raises:
        OstinatoError: the folder holds something else, or data of other settings.
    """
    check_new_folder(path)
    begun = path / "work" / "begun.json"
    if path.exists() and not (is_prepared(path) or begun.exists()) and any(path.iterdir()):
        raise OstinatoError(f"{path}: already exists and holds no prepared data; choose another.")
    data = path / "data"
    data.mkdir(parents=True, exist_ok=True)
    # The folder itself is locked while the manifest is written.
    with sole_writer(data, f"{path}: is being prepared by another process or thread; wait."):
        what = {"task": task, "settings": dict(settings)}
        if is_prepared(path):
            found = PreparedFolder.open(path)
            found.check(task, settings)
            if paths and (changed := _changed(path / SOURCES, paths)) is None:
                say(f"{path}: prepared before, and the data have not changed: reused")
                return found
            if not paths:
                raise OstinatoError(f"{path}: already holds prepared data; choose another folder.")
            say(f"{path}: {changed}: prepared again")
            (path / PREPARED_FILE).unlink()
            begun.unlink(missing_ok=True)
        same = begun.exists() and paths and begun.read_bytes() == _json(what)
        if same and (changed := _changed(path / "work" / SOURCES, paths)):
            say(f"{path}: {changed}: prepared from the beginning")
            same = False
        if not same:
            shutil.rmtree(path / "work", ignore_errors=True)
            for each in data.iterdir():
                each.unlink()
        work = Work(path / "work", tell)
        if not same:
            _write_sources(path / "work" / SOURCES, _stats(walk(paths)))
            with atomic_file(begun) as file:
                file.write(_json(what))
        elif work.begun:
            say(f"{path}: goes on where it was interrupted")
        documents, facts = make(data, work)
        work.write_checksums(data)
        listed = set(json.loads((data / CHECKSUMS).read_bytes()))
        digests = {}
        for each in sorted(data.iterdir()):
            if each.name not in listed:
                with each.open("rb") as opened:
                    digests[each.name] = storage.digest_of(opened)
        named = _named(work) if any(each.is_file() for each in paths) else ()
        with suppress(FileNotFoundError):
            (path / SOURCES).unlink()
        _write_sources(path / SOURCES, _stats(walk(paths)), _stats(named))
        document = {**what, "documents": documents, "facts": facts, "data": digests}
        storage.write_files(path, {PREPARED_FILE: storage.to_json(document)})
        shutil.rmtree(path / "work", ignore_errors=True)
    return PreparedFolder.open(path)


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


# Where the data came from


def _stats(files: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    for file in files:
        try:
            facts = file.stat()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}.", path=file) from error
        yield str(file.absolute()), facts.st_size, facts.st_mtime_ns


def _named(work: Work) -> Iterator[Path]:
    """Yield the recordings or images that tables name."""
    if work.known("corpus") is not None and work.known("corpus")["kind"] in ("sound", "image"):
        yield from (each for each in open_chunks(work).inputs if isinstance(each, Path))


def _write_sources(
    path: Path, found: Iterable[tuple[str, int, int]], named: Iterable[tuple[str, int, int]] = ()
) -> None:
    with path.open("w", encoding="ascii") as file:
        for kind, some in (("named", named), ("found", found)):
            for name, size, time in some:
                file.write(json.dumps([kind, size, time, name]) + "\n")


def _changed(path: Path, paths: Sequence[Path]) -> str | None:
    """Return what is different about the sources, in words; None if they are the same."""
    with path.open(encoding="ascii") as file:
        before = (json.loads(line) for line in file)
        first = next(before, None)
        while first is not None and first[0] == "named":
            now = next(_stats([Path(first[3])]), None) if os.path.exists(first[3]) else None
            if now is None or list(now[1:]) != first[1:3]:
                return f"{first[3]} has changed"
            first = next(before, None)
        for name, size, time in _stats(walk(paths)):
            if first is None:
                return f"{name} is new"
            if first[3] != name:
                return f"{name} is new" if os.path.exists(first[3]) else f"{first[3]} is gone"
            if [size, time] != first[1:3]:
                return f"{name} has changed"
            first = next(before, None)
        return None if first is None else f"{first[3]} is gone"
