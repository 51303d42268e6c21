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
from typing import Any, NamedTuple, Self, get_args

from ostinato.data.chunks import is_large, walk
from ostinato.data.places import paths_of
from ostinato.data.reading import is_idx
from ostinato.data.shards import CHECKSUMS, Tell, Work
from ostinato.data.spool import open_chunks
from ostinato.errors import DataError, OstinatoError, check_choice
from ostinato.files import (
    PREPARE_REQUEST,
    PREPARED_FILE,
    any_prepared,
    atomic_file,
    check_new_folder,
    is_prepared,
    sole_writer,
)
from ostinato.training import storage
from ostinato.training.progress import ProgressMode, Stages

SOURCES = "sources.jsonl"


class Prepared(NamedTuple):
    """What preparing data leaves for training, all of it JSON.

    Inputs and targets by file name, as a stored model keeps them; settings that were not given; and
    facts of the data.
    """

    documents: dict[str, Any]
    resolved: dict[str, Any]
    facts: dict[str, Any]


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
        if not any_prepared(paths):
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
    request = path / PREPARE_REQUEST
    if path.exists() and not (is_prepared(path) or request.exists()) and any(path.iterdir()):
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
            request.unlink(missing_ok=True)
        same = request.exists() and paths and request.read_bytes() == _json(what)
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
            with atomic_file(request) as file:
                file.write(_json(what))
        elif work.resumes:
            say(f"{path}: goes on where it was interrupted")
        documents, facts = make(data, work)
        work.write_checksums(data)
        listed = set(json.loads((data / CHECKSUMS).read_bytes()))
        digests = {}
        for each in sorted(data.iterdir()):
            if each.name not in listed:
                with each.open("rb") as opened:
                    digests[each.name] = storage.digest_of(opened)
        named = _named(work, [each for each in paths if each.is_dir()])
        with suppress(FileNotFoundError):
            (path / SOURCES).unlink()
        _write_sources(path / SOURCES, _stats(walk(paths)), _stats(named))
        document = {**what, "documents": documents, "facts": facts, "data": digests}
        storage.write_files(path, {PREPARED_FILE: storage.to_json(document)})
        shutil.rmtree(path / "work", ignore_errors=True)
    return PreparedFolder.open(path)


class Preparing:
    """What of an estimator prepares data, in a folder of their own or in that of a run.

    The methods of `Estimator` that raise here are used.
    """

    resolved_: dict[str, Any]

    def prepare(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        out: str | os.PathLike[str],
        progress: ProgressMode = "quiet",
    ) -> Path:
        """Prepare data in a folder, from which `fit` trains any number of times.

        Data of files are read a chunk at a time and may be larger than memory. A call that was
        interrupted goes on when it is repeated; data that have not changed, by the size and the
        time of each file, are not prepared again.

        Args:
            X: the data, as in `fit`; also folders of tables, and tar archives of samples.
            y: as in `fit`.
            validation: as in `fit`.
            out: the folder, which `fit` then takes as ``X``.
            progress: as in `fit`.

        Returns:
            the folder.

        Raises:
            OstinatoError: on data that cannot be used, or a folder that holds something else.
        """
        paths = paths_of(X) if y is None else []
        if paths and validation is not None:
            paths += paths_of(validation)
        return self._prepare_in(
            Path(out),
            paths,
            progress,
            lambda model, data, work: model._prepare_chunks(data, X, y, validation, work),
        )

    def _prepare_in(
        self,
        out: Path,
        paths: Sequence[Path],
        progress: ProgressMode,
        make: Callable[[Self, Path, Work], Prepared],
    ) -> Path:
        """Prepare data in a folder, by an equal estimator; the paths are those of their files."""
        self.check_settings()
        check_choice(f"{type(self).__name__}.prepare: progress", progress, get_args(ProgressMode))
        model = type(self)(**self.get_params())

        def write(data: Path, work: Work) -> tuple[dict[str, Any], dict[str, Any]]:
            documents, _, facts = make(model, data, work)
            return documents, facts

        settings = {name: getattr(self, name) for name in self._data_settings()}
        with Stages(progress) as stages:
            name = type(self).__name__
            prepare_folder(out, name, settings, paths, write, stages.tell, stages.say)
        return out

    def _prepare_chunks(self, data: Path, X: Any, y: Any, validation: Any, work: Work) -> Prepared:
        """Write data into a folder in shards; those of files are read in bounded memory."""

        def chunked(X: Any, y: Any, work: Work) -> Any:
            paths = paths_of(X) if y is None else []
            return X if not paths or any(map(is_idx, paths)) else self._read_chunks(paths, work)

        if validation is not None:
            validation = chunked(validation, None, Work(work.folder / "validation", work.tell))
        return self._prepare(data, chunked(X, y, work), y, validation, work)

    def _prepared(self, data: Path, X: Any, y: Any, validation: Any) -> Prepared:
        """Put the data into the folder of a run, as the network takes them."""
        folder = PreparedFolder.of(X) if y is None else None
        if folder is None:
            paths = paths_of(X) if y is None else []
            if not paths or not is_large(paths):
                return self._prepare(data, X, y, validation)
            work = Work(data / "work")
            found = self._prepare_chunks(data, X, y, validation, work)
            work.write_checksums(data)
            shutil.rmtree(work.folder)
            return found
        if validation is not None:
            raise OstinatoError(
                f"{type(self).__name__}: {folder.path} is prepared, with its validation data; give "
                "no others, or prepare both together."
            )
        folder.check(
            type(self).__name__, {name: getattr(self, name) for name in self._data_settings()}
        )
        folder.link(data)
        model = type(self)(**self.get_params())
        model.resolved_ = {}
        with storage.parts_of(folder.path):
            inputs, _ = model._restore(folder.documents)
        self._check_inputs(inputs, folder.path)
        return self._prepared_before(folder, inputs, data)

    def _prepared_before(self, folder: PreparedFolder, inputs: Any, data: Path) -> Prepared:
        """Return what preparing the data left, which lie in the folder of a run now."""
        return Prepared(folder.documents, self._resolve(inputs, data, folder.facts), folder.facts)

    def _read_chunks(self, paths: Sequence[Path], work: Work) -> Any:
        """Return data of files in bounded memory, however large: in a folder, while it is there."""
        raise NotImplementedError

    def _data_settings(self) -> Sequence[str]:
        """Return names of the settings that shape encoded data."""
        return ["validation_fraction"]

    def _check_inputs(self, inputs: Any, folder: Path) -> None:
        """Raise an `OstinatoError` if inputs were prepared for a network of another kind."""

    def check_settings(self) -> None:
        """Raise an `OstinatoError` that names a setting out of range."""
        raise NotImplementedError

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the settings by name."""
        raise NotImplementedError

    def _prepare(
        self, data: Path, X: Any, y: Any, validation: Any, work: Work | None = None
    ) -> Prepared:
        """Write data into a folder, as the network takes them; with ``work`` in shards."""
        raise NotImplementedError

    def _restore(self, documents: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return inputs and targets of their documents."""
        raise NotImplementedError

    def _resolve(self, inputs: Any, data: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings that were not given, by encoded data."""
        raise NotImplementedError


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


def _named(work: Work, folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the recordings or images that tables name, outside the folders that are read."""
    if work.known("corpus") is not None and work.known("corpus")["kind"] in ("sound", "image"):
        within = tuple(f"{each.absolute()}{os.sep}" for each in folders)
        for each in open_chunks(work).inputs:
            if isinstance(each, Path) and not str(each.absolute()).startswith(within):
                yield each


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
