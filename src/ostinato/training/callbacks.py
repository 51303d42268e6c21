"""Callbacks of a training run, and the files they write.

Callbacks only observe: without them the run is the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from torch import nn

from ostinato.errors import require
from ostinato.files import atomic_file, finite, writing
from ostinato.training import storage
from ostinato.training.evaluation import Objective
from ostinato.training.settings import TrainingSettings

Ending = Literal["budget", "patience", "interrupt", "unfinished"]


class Run(Protocol):
    """A training run, as callbacks see it; see `Trainer`."""

    network: nn.Module
    settings: TrainingSettings
    objective: Objective[Any, Any]
    callbacks: Sequence[Callback]
    batch: Any
    title: str
    step: int
    total: int | None
    tokens: int
    seconds: float
    time_limit: float | None
    evaluated_parts: int
    best_score: float
    judge: str

    def stop(self) -> None:
        """End the run after the current step, as Ctrl-C does: it can be resumed."""

    def log(self, message: str, /) -> None:
        """Send a warning for the user to the callbacks."""

    def suspect(self, message: str, /) -> None:
        """Warn, unless the next evaluation is better than all before it."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training run ended.

    Args:
        ended: why: its budget was used, patience ran out, or it was interrupted.
        steps: number of steps.
        best_loss: validation loss of the best weights; the last training loss without validation.
        best_step: the step of the best weights, which the network has.
        seconds: training time, before and after resuming.
    """

    ended: Ending
    steps: int
    best_loss: float
    best_step: int
    seconds: float


class Callback:
    """Base class of callbacks; does nothing."""

    def on_begin(self, run: Run) -> None:
        """The run starts, or resumes after ``run.step`` steps."""

    def on_step(self, record: dict[str, Any]) -> None:
        """A step is finished."""

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        """The network was evaluated on the validation data."""

    def on_health(self, record: dict[str, Any]) -> None:
        """Gradients were measured; see `GradientHealth`."""

    def log(self, message: str) -> None:
        """A warning for the user."""

    def note(self, message: str) -> None:
        """A message for the user that is no warning, such as how good the trained model is."""

    def on_checkpoint(self) -> None:
        """A checkpoint is about to be written: records so far must be on disk first."""

    def on_rollback(self, run: Run) -> None:
        """The run was rolled back to ``run.step``."""

    def on_end(self, result: TrainingResult) -> None:
        """The run has ended."""

    def close(self) -> None:
        """Release files and the terminal; called last, also after errors."""


class History(Callback):
    """Keeps the records of a run in memory, as `MetricsFile` writes them.

    Of more than ``limit`` steps every second is left out, again and again, so that those that are
    left stay evenly spread over the run.
    """

    def __init__(self, limit: int = 4096) -> None:
        self.limit = limit
        self._every = 1
        self._steps: list[dict[str, Any]] = []
        self._others: list[dict[str, Any]] = []

    @property
    def records(self) -> list[dict[str, Any]]:
        """Records so far, by step."""
        return sorted([*self._steps, *self._others], key=lambda record: record["step"])

    def on_step(self, record: dict[str, Any]) -> None:
        """Keep the record, if its step is one of those that are kept."""
        if record["step"] % self._every == 0 or record["step"] == 1:
            self._steps.append(finite(record))
        if len(self._steps) > self.limit:
            self._every *= 2
            self._steps = [r for r in self._steps if r["step"] % self._every == 0 or r["step"] == 1]

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        """Keep the record, without its sample."""
        self._others.append(finite(record))

    def on_rollback(self, run: Run) -> None:
        """Forget the repeated steps."""
        for kept in (self._steps, self._others):
            kept[:] = [record for record in kept if record["step"] <= run.step]


class MetricsFile(Callback):
    """Writes the record of every step as a JSON line to a file.

    When a run resumes from a checkpoint, or is rolled back to one, the records of later steps are
    removed; earlier ones are on disk before the checkpoint. Non-finite numbers are written as null.

    The SHA-256 of the records up to the last checkpoint, and their bytes, are in a file beside it,
    ``metrics.jsonl.sha256``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = io.BytesIO()  # until the run begins
        self._flushed = 0.0
        self._digest, self._length = hashlib.sha256(), 0

    def on_begin(self, run: Run) -> None:
        """Open the file after the last record to keep; a `DamagedError` if it is damaged."""
        if run.step and self.path.exists():
            _read_checked(self.path)
        self._digest, self._length = hashlib.sha256(), 0
        with writing(self.path):
            self._file = open(self.path, "a+b")  # noqa: SIM115
        self._file.seek(0)
        with suppress(ValueError, KeyError, TypeError):
            for line in self._file if run.step else ():
                if not line.endswith(b"\n") or json.loads(line)["step"] > run.step:
                    break
                self._count(line)
        self._seal()  # first: what it says of the file must be true at any moment
        self._file.truncate(self._length)

    def on_step(self, record: dict[str, Any]) -> None:
        """Add a line, written to disk within a second."""
        self._write(record)
        if time.monotonic() - self._flushed > 1:
            with writing(self.path):
                self._file.flush()
            self._flushed = time.monotonic()

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        """Add a line with the evaluation and its sample."""
        self._write(record if sample is None else record | {"sample": sample})

    def on_health(self, record: dict[str, Any]) -> None:
        self._write(record)

    def on_checkpoint(self) -> None:
        """Write all records, and their checksum, to disk."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._seal()

    def on_rollback(self, run: Run) -> None:
        """Remove the records of the repeated steps."""
        self.close()
        self.on_begin(run)

    def close(self) -> None:
        with writing(self.path):
            self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        line = (json.dumps(finite(record), ensure_ascii=False) + "\n").encode()
        with writing(self.path):
            self._file.write(line)
        self._count(line)

    def _count(self, line: bytes) -> None:
        self._digest.update(line)
        self._length += len(line)

    def _seal(self) -> None:
        with atomic_file(_seal_of(self.path)) as file:
            file.write(f"{self._digest.hexdigest()}  {self._length}\n".encode())


def _seal_of(metrics: Path) -> Path:
    return metrics.with_name(f"{metrics.name}.sha256")


def _read_checked(path: Path) -> bytes:
    """Read a `MetricsFile`; a `DamagedError` if it is not what its checksum says, if it has one."""
    data, seal = storage.read_file(path, sys.maxsize), _seal_of(path)
    if seal.exists():
        written = storage.read_file(seal)
        with suppress(ValueError):
            known = data[: int(written[64:])]
            if written == f"{storage.sha256(known)}  {len(known)}\n".encode():
                return data
        raise storage.DamagedError(
            f"{path}: damaged: its SHA-256 is not the one in {seal.name}; restore it from a copy, "
            "or delete both, to go on without earlier records."
        )
    return data


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a `MetricsFile`, without a last one that is incomplete.

    Raises:
        DamagedError: if a line is no record, or the file is not what its checksum says.
    """
    path = Path(path)
    lines = _read_checked(path).split(b"\n")[:-1]
    records = [storage.from_json(line, path) for line in lines]
    return [storage.check_types(record, path, step=int) for record in records]


class TensorBoard(Callback):
    """Writes curves for TensorBoard to a folder. Needs ``ostinato[tensorboard]``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._module = require("torch.utils.tensorboard", "tensorboard", "TensorBoard logging")
        self._writer: Any = None

    def on_begin(self, run: Run) -> None:
        """Open a file; later steps of earlier files are hidden."""
        self._writer = self._module.SummaryWriter(str(self._folder), purge_step=run.step + 1)

    def on_rollback(self, run: Run) -> None:
        """Hide the repeated steps."""
        self.close()
        self.on_begin(run)

    def on_step(self, record: dict[str, Any]) -> None:
        for name in ("loss", "learning_rate", "gradient_norm"):
            self._writer.add_scalar(f"training/{name}", record[name], record["step"])

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        """Add a point to the validation curve, and the sample."""
        for name, value in record.items():
            if name.endswith("_loss"):
                self._writer.add_scalar(name, value, record["step"])
        if sample is not None:
            self._writer.add_text("sample", sample, record["step"])

    def on_checkpoint(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
