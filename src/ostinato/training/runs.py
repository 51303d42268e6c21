"""A run and its folder: what was asked, the data it learns from, and everything it leaves.

::

    RUN/run.json               what was asked for, and what the data were
    RUN/data/                  the data as the network takes them
    RUN/checkpoints/           to go on from
    RUN/metrics.jsonl          a record of every step
    RUN/learning_curve.png     the same to look at
    RUN/config.json, ...       the model, see `storage`
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ostinato.errors import MissingExtra, OstinatoError
from ostinato.files import sync_folder
from ostinato.training import storage
from ostinato.training.callbacks import Callback, MetricsFile, TensorBoard
from ostinato.training.pictures import draw_learning_curve

RUN_FILE = "run.json"


class RunFolder:
    """The folder of a run. Made by `create`, which leaves a whole one or none, or `reopen`."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document
        self.data = path / "data"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.curve = path / "learning_curve.png"

    @classmethod
    def create(cls, path: Path, prepare: Callable[[Path], Mapping[str, Any]]) -> Self:
        """Make the folder of a new run.

        Args:
            path: where; nothing may be there yet but an empty folder.
            prepare: writes the data into the folder it is given, and returns the facts that a
                resumed run needs; plain JSON.

        Raises:
            OstinatoError: if something is there. If ``prepare`` fails, nothing stays behind.
        """
        refuse_to_overwrite(path)
        # In a folder that is there, so that no parent is made for a run that comes to nothing.
        home = next(parent for parent in path.parents if parent.exists())
        unfinished = home / f".{path.name}.{os.getpid()}.unfinished"
        try:
            for leftover in home.glob(f".{glob.escape(path.name)}.*.unfinished"):
                if not _is_running(leftover.name.split(".")[-2]):
                    shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            (unfinished / "data").mkdir()
            document = dict(prepare(unfinished / "data"))
            storage.write_files(unfinished, {RUN_FILE: storage.to_json(document)})
            os.rename(unfinished / storage.SUMS, unfinished / f"{RUN_FILE}.sha256")
            sync_folder(unfinished)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.rename(unfinished, path)
            sync_folder(path.parent)
        except OSError as error:
            raise OstinatoError(f"{path}: cannot be written: {error.strerror}.") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return cls(path, document)

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """The folder of a run that was begun.

        Raises:
            OstinatoError: if there is none, or its description is damaged.
        """
        file = path / RUN_FILE
        try:
            data, recorded = file.read_bytes(), (path / f"{RUN_FILE}.sha256").read_text()
        except OSError as error:
            raise OstinatoError(
                f"{path}: there is no run to go on with ({file.name}: {error.strerror})."
            ) from None
        if not recorded.startswith(storage.sha256(data)):
            raise storage.DamagedError(f"{file}: damaged: its SHA-256 is not the one recorded.")
        return cls(path, dict(storage.from_json(data, file)))

    @contextmanager
    def removed_unless_begun(self) -> Iterator[None]:
        """Remove the folder if what is done in here fails before the first checkpoint."""
        try:
            yield
        except BaseException:
            if not self.checkpoints.exists():
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def callbacks(self, tensorboard: bool) -> list[Callback]:
        """Who records the run in this folder."""
        files: list[Callback] = [MetricsFile(self.metrics)]
        return [*files, TensorBoard(self.path / "tensorboard")] if tensorboard else files

    def refuse_other_task(self, task: str) -> None:
        """Raise an `OstinatoError` if the run was begun by another estimator."""
        recorded = self.document["task"]
        if recorded != task:
            raise OstinatoError(f"{self.path}: expected a run of {task}, got one of {recorded}.")

    def refuse_other_settings(self, asked: Mapping[str, Any]) -> None:
        """Raise an `OstinatoError` where a setting is asked for that the run did not begin with."""
        recorded = self.document["parameters"]
        words = [
            f"{name}={value!r} (it began with {recorded.get(name)!r})"
            for name, value in asked.items()
            if name not in recorded or recorded[name] != value
        ]
        if words:
            raise OstinatoError(f"{self.path}: a run keeps its settings: {', '.join(words)}.")

    def draw(self, unit: str) -> str | None:
        """Draw the learning curve; why not, if it cannot be drawn."""
        try:
            draw_learning_curve(self.metrics, self.curve, unit)
        except MissingExtra as error:
            return str(error)
        return None


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        pass  # it runs, and is somebody else's
    return True


def refuse_to_overwrite(path: Path) -> None:
    """Raise an `OstinatoError` unless ``path`` is free for a new run."""
    if path.is_dir() and (path / RUN_FILE).exists():
        raise OstinatoError(
            f"{path}: holds a run already; go on with it by --resume (the estimator's resume), "
            "or choose another folder."
        )
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not (is_empty and path.name):  # "." cannot be renamed to
        raise OstinatoError(f"{path}: exists already and is no empty folder; choose another.")


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe the model or run in a folder: its task, settings, and how it was trained.

    Of a run without a finished model ``finished`` is False.

    Raises:
        OstinatoError: if there is neither, or a file of the model is damaged.
    """
    path = Path(path)
    if (path / RUN_FILE).exists() and not storage.holds_model(path):
        document = RunFolder.reopen(path).document
        known = {name: document[name] for name in ("task", "parameters")}
        return {**known, "finished": False, "training": {}}
    config = storage.read_config(path)
    storage.read_files(path, "config.json")
    return config
