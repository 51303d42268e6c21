"""The folder of a run: its settings, data and results.

::

    RUN/run.json               settings, facts about the data, and their checksums
    RUN/data/                  the encoded data
    RUN/checkpoints/           checkpoints to resume from
    RUN/metrics.jsonl          a record of every step, see `callbacks`
    RUN/learning_curve.png     a plot of it
    RUN/config.json, ...       the model, see `storage`
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ostinato.data.shards import checked_files
from ostinato.errors import MissingExtra, OstinatoError
from ostinato.files import (
    RUN_FILE,
    open_file,
    refuse_to_overwrite,
    sole_writer,
    sync_folder,
    writing,
)
from ostinato.training import storage
from ostinato.training.callbacks import Callback, MetricsFile, TensorBoard
from ostinato.training.pictures import draw_learning_curve

_DIGEST_FILE = f"{RUN_FILE}.sha256"


class RunFolder:
    """The folder of a run, created atomically by `create` or opened by `reopen`."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document
        self.data = path / "data"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"

    @classmethod
    def create(cls, path: Path, prepare: Callable[[Path], Mapping[str, Any]]) -> Self:
        """Create the folder of a new run; nothing is left behind if that fails.

        Args:
            path: the folder; missing or empty.
            prepare: writes the data into a folder, and returns a JSON document with the facts that
                a resumed run needs.

        Raises:
            OstinatoError: if the path exists, or cannot be written.
        """
        refuse_to_overwrite(path)
        # In an existing folder, so that no parent is created for a run that fails.
        home = next(parent for parent in path.parents if parent.exists())
        unfinished = home / f".{path.name}.{threading.get_ident()}.{os.getpid()}.unfinished"
        try:
            for leftover in home.glob(f".{glob.escape(path.name)}.*.unfinished"):
                if not _is_running(leftover.name.split(".")[-2]):
                    shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
            with writing(path, unfinished):
                (unfinished / "data").mkdir(parents=True)
                document = dict(prepare(unfinished / "data"))
                digests = {}
                checked = checked_files(unfinished / "data")  # when they are read, shard by shard
                for file in sorted((unfinished / "data").iterdir()):
                    if file.name in checked:
                        continue
                    with open_file(file) as opened:
                        digests[file.name] = storage.digest_of(opened)
                document["data"] = digests
                storage.write_files(unfinished, {RUN_FILE: storage.to_json(document)})
                os.rename(unfinished / storage.SUMS, unfinished / _DIGEST_FILE)
                sync_folder(unfinished)
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    if sys.platform == "win32" and path.is_dir():
                        path.rmdir()  # empty; nothing is renamed over it there
                    os.rename(unfinished, path)
                except OSError:
                    refuse_to_overwrite(path)  # another run was faster
                    raise
                sync_folder(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return cls(path, document)

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Open the folder of an earlier run.

        Raises:
            OstinatoError: if there is none, or ``run.json`` is damaged.
        """
        file = path / RUN_FILE
        try:
            data, recorded = storage.read_file(file), storage.read_file(path / _DIGEST_FILE)
        except OSError as error:
            why = f"{Path(error.filename or file).name}: {error.strerror}"
            raise OstinatoError(f"{path}: there is no run to resume ({why}).") from None
        if recorded != f"{storage.sha256(data)}  {RUN_FILE}\n".encode():
            raise storage.DamagedError(
                f"{file}: damaged: its SHA-256 is not the one in {_DIGEST_FILE}; restore it from "
                "a copy, or train again."
            )
        parts = dict.fromkeys(("parameters", "resolved", "facts", "documents", "data"), dict)
        document = storage.check_types(storage.from_json(data, file), file, task=str, **parts)
        return cls(path, document)

    def check_data(self) -> None:
        """Raise a `DamagedError` if a file of the data is missing, or any bit of it has changed."""
        storage.check_digests(self.data, self.document["data"], RUN_FILE)
        if not self.data.is_dir():
            raise storage.DamagedError(f"{self.data}: no such folder; the run is incomplete.")

    @contextmanager
    def trained_by_one(self) -> Iterator[None]:
        """Raise an `OstinatoError` if another thread or process is in such a block of the run."""
        busy = f"{self.path}: is being trained by another process or thread; wait for it to end."
        with sole_writer(self.data, busy):  # the run's own folder is locked while a model is saved
            yield

    @contextmanager
    def removed_on_early_failure(self) -> Iterator[None]:
        """Remove the folder if the block fails before the first checkpoint."""
        try:
            yield
        except BaseException:
            if not self.checkpoints.exists():
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def callbacks(self, tensorboard: bool) -> list[Callback]:
        """Return the callbacks that record the run in this folder."""
        board = [TensorBoard(self.path / "tensorboard")] if tensorboard else []
        return [MetricsFile(self.metrics), *board]

    def refuse_other(self, task: str, settings: Mapping[str, Any]) -> None:
        """Raise an `OstinatoError` if the run is of another estimator, or a setting differs."""
        started, recorded = self.document["task"], self.document["parameters"]
        if started != task:
            raise OstinatoError(f"{self.path}: expected a run of {task}, got one of {started}.")
        changes = [
            f"{name}={value!r} (started with {recorded.get(name)!r})"
            for name, value in settings.items()
            if name not in recorded or recorded[name] != value
        ]
        if changes:
            raise OstinatoError(f"{self.path}: settings of a run are fixed: {', '.join(changes)}.")

    def draw(self, unit: str) -> str | None:
        """Draw the learning curve; return a message if it cannot be drawn."""
        picture = self.path / "learning_curve.png"
        try:
            with writing(picture):
                draw_learning_curve(self.metrics, picture, unit)
        except (MissingExtra, storage.DamagedError) as error:
            return str(error)
        return None


def _is_running(pid: str) -> bool:
    if sys.platform == "win32":  # where this call would end it
        return True
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        pass  # it runs, as another user
    return True


def describe(path: str | os.PathLike[str], *, weights: bool = True) -> dict[str, Any]:
    """Describe the model or run in a folder: its task, settings, and how it was trained.

    For a run without a finished model ``finished`` is False.

    Args:
        path: the folder.
        weights: whether to check the weights, too, which takes the longer the larger they are.

    Raises:
        OstinatoError: if there is no model or run, or a file of the model is damaged.
    """
    path = Path(path)
    if (path / RUN_FILE).exists() and not storage.holds_model(path):
        run = RunFolder.reopen(path).document
        known = {"task": run["task"], "parameters": run["parameters"]}
        return known | {"finished": False, "training": {}}
    config = storage.read_config(path)
    storage.read_files(path, "config.json", allow=lambda files, header: 0 if weights else None)
    return config


def checked_data(data: Path) -> Path:
    """Return the folder with the data of a run; a `DamagedError` if they are damaged."""
    RunFolder.reopen(data.parent).check_data()
    return data
