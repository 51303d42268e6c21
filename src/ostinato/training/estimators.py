"""What all estimators share: from `fit` to a run's folder, to a stored model and back."""

from __future__ import annotations

import os
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ostinato.errors import OstinatoError
from ostinato.training import storage
from ostinato.training.callbacks import Callback, TrainingResult
from ostinato.training.fit import Sample as Sample
from ostinato.training.health import GradientHealth
from ostinato.training.loop import Batches, LossFunction, Trainer, Validation, device_of
from ostinato.training.progress import ProgressMode, make_progress
from ostinato.training.runs import RunFolder
from ostinato.training.settings import TrainingSettings


class Learning(NamedTuple):
    """What a task gives the loop; see `Trainer` for what each is."""

    batches: Batches
    objective: LossFunction
    title: str
    validate: Validation | None = None
    sample: Callable[[int], str] | None = None
    units: Callable[[float], dict[str, float]] = lambda loss: {}
    counted: str = "tok"


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkEstimator(TrainingSettings, BaseEstimator):
    """An estimator whose model is a network that the loop trains.

    A task says how its data are prepared, what its network is and what the loop is given; this
    class has the rest, the same for all: runs in a folder or in memory, resuming, storing.

    Attributes:
        network_: the trained network.
        training_: facts of the training run.
        chosen_: settings that were not given, and what the data made of them.
        folder_: the folder of the run or model that it stems from; None if there is none.
    """

    folder_ = cast("Path | None", None)

    # What a task adds

    _loss_unit = "nats"

    @abstractmethod
    def _make_network(self) -> nn.Module:
        """The network, its weights drawn anew."""

    @abstractmethod
    def _learning(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Learning:
        """What the loop is given.

        Args:
            data: folder with what was prepared.
            facts: what was said of it then.
            device: where the network is.
        """

    @abstractmethod
    def _documents(self) -> dict[str, Any]:
        """JSON documents that the model needs beside its weights, by file name."""

    @abstractmethod
    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        """The inverse of `_documents`."""

    @abstractmethod
    def examples(
        self, X: Any, y: Any = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Some of the data as the network takes them, to look into it.

        Args:
            X: as in ``fit``.
            y: as in ``fit``.
            count: the most rows.
            steps: the most steps of a row, where a row may be cut; None for what training takes.
        """

    @abstractmethod
    def examples_of_run(self, data: Path, *, count: int = 32, steps: int | None = None) -> Sample:
        """The same of the data in a run's folder: of what it was validated on, where there is."""

    @abstractmethod
    def reading(self, sequence: Any) -> tuple[Any, list[str]]:
        """One sequence as the network takes it, ``(1, T, ...)``, and what its steps are called."""

    def validation_examples(
        self, data: Path, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """See `examples_of_run`."""
        return self.examples_of_run(data, count=count, steps=steps)

    def encode(self, sequence: Any) -> tuple[Any, list[str]]:
        """See `reading`."""
        return self.reading(sequence)

    def resolved(self, name: str) -> Any:
        """A setting as it was given, or else as it was chosen."""
        return self._value(name)

    def _finish(self, data: Path) -> None:
        """What is done once, when the network has its last weights."""

    # What every task has

    def _fit(
        self,
        prepare: Callable[[Path], dict[str, Any]],
        out: str | os.PathLike[str] | None,
        progress: ProgressMode,
        tensorboard: bool,
    ) -> Self:
        """Prepare the data, and learn.

        Args:
            prepare: writes the data into a folder, sets what `_documents` needs and `chosen_`, and
                returns facts of the data.
            out: folder of the run; None keeps all in memory, but for data in a temporary folder.
            progress: as `make_progress` takes it.
            tensorboard: whether to write curves for TensorBoard into ``out``.
        """
        self.check_settings()
        device_of(self.device)

        def prepared(data: Path) -> dict[str, Any]:
            self.chosen_: dict[str, Any] = {}
            facts = prepare(data)
            return {
                "task": type(self).__name__,
                "parameters": self.get_params(),
                "chosen": self.chosen_,
                "data": facts,
                "documents": self._documents(),
            }

        if out is None:
            with tempfile.TemporaryDirectory(prefix="ostinato-") as folder:
                facts = prepared(Path(folder))["data"]
                self._train(Path(folder), facts, None, [make_progress(progress)])
        else:
            run = RunFolder.create(Path(out), prepared)
            with run.removed_unless_begun():
                self._train_in(run, progress, tensorboard)
        return self

    @classmethod
    def resume(
        cls,
        out: str | os.PathLike[str],
        *,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
        **settings: Any,
    ) -> Self:
        """Go on with the run in a folder as if it had never stopped.

        Args:
            out: the folder that `fit` was given.
            progress: as in `fit`.
            tensorboard: as in `fit`.
            settings: may repeat settings of the run, and must then equal them.

        Raises:
            OstinatoError: if there is no run, or it was begun with other settings.
        """
        run = RunFolder.reopen(Path(out))
        run.refuse_other_task(cls.__name__)
        run.refuse_other_settings(settings)
        model = cls(**run.document["parameters"])
        model.chosen_ = run.document["chosen"]
        model._take_documents(run.document["documents"])
        model._train_in(run, progress, tensorboard, resume=True)
        return model

    def _train_in(
        self, run: RunFolder, progress: ProgressMode, tensorboard: bool, *, resume: bool = False
    ) -> None:
        self._from(run.path)
        callbacks = [make_progress(progress), *run.callbacks(tensorboard)]
        self._train(run.data, run.document["data"], run, callbacks, resume=resume)
        if self.training_["ended"] != "interrupt":
            self.save(run.path)
        missing = run.draw(self._loss_unit)
        if missing:
            warnings.warn(missing, stacklevel=4)

    def _train(
        self,
        data: Path,
        facts: dict[str, Any],
        run: RunFolder | None,
        callbacks: Sequence[Callback],
        *,
        resume: bool = False,
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            device = device_of(self.device)
            self.network_: Any = self._make_network().to(device)
            learning = self._learning(data, facts, device)
            self.training_: dict[str, Any] = dict(facts)
            if self.health:
                health = GradientHealth(self.network_, self.clip_norm, callbacks)
                learning = learning._replace(objective=health.observed(learning.objective))
                callbacks = [*callbacks, health]

            def keep_best() -> None:
                self.training_ |= self._facts_of(trainer.result())
                if run is not None:
                    self.save(run.path)

            trainer = Trainer(
                self.network_,
                learning.batches,
                learning.objective,
                self._settings(),
                validate=learning.validate,
                sample=learning.sample,
                keep_best=keep_best,
                units=learning.units,
                title=learning.title,
                counted=learning.counted,
                loss_unit=self._loss_unit,
                folder=run.checkpoints if run else None,
                callbacks=callbacks,
            )
            outcome = trainer.run(resume=resume)
            self.training_ |= self._facts_of(outcome)
            if outcome.ended != "interrupt":
                self._finish(data)

    def _from(self, folder: Path) -> None:
        self.folder_ = folder

    def _value(self, name: str) -> Any:
        """A setting as it was given, or else as it was chosen."""
        given = getattr(self, name)
        return self.chosen_[name] if given is None and name in self.chosen_ else given

    def _settings(self) -> TrainingSettings:
        """The settings of the run, those that were chosen filled in."""
        return TrainingSettings(**{f.name: self._value(f.name) for f in fields(TrainingSettings)})

    def _facts_of(self, outcome: TrainingResult) -> dict[str, Any]:
        return {
            "ended": outcome.ended,
            "steps": outcome.steps,
            "seconds": round(outcome.seconds, 1),
            "best_step": outcome.best_step,
            "best_loss": outcome.best_loss,
            "weights": sum(p.numel() for p in self.network_.parameters()),
        }

    def _where(self, device: torch.device) -> str:
        """Size of the network and where it runs, for a title."""
        weights = sum(p.numel() for p in self.network_.parameters())
        threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        return f"{weights:,} weights; {device.type}{threads}"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder; see `storage`. A model that is there is replaced."""
        check_is_fitted(self, "network_")
        config = {
            "task": type(self).__name__,
            "parameters": self.get_params(),
            "chosen": self.chosen_,
            "training": self.training_,
        }
        storage.save_model(Path(folder), config, self.network_.state_dict(), self._documents())

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "auto") -> Self:
        """The model in a folder that `save`, or training, wrote.

        Raises:
            OstinatoError: if there is none, or it is damaged.
        """
        path = Path(folder)
        config, weights, documents = storage.load_model(path, cls.__name__)
        try:
            model = cls(**config["parameters"])
            model._from(path)
            model.training_ = config["training"]
            model.chosen_ = config.get("chosen", {})
            model._take_documents(documents)
            with torch.random.fork_rng():
                model.network_ = model._make_network()
            model.network_.load_state_dict(weights)
        except OstinatoError:
            raise
        except (KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise storage.DamagedError(
                f"{path}: its parts do not fit together: {reason}"
            ) from error
        model.network_.to(device_of(device)).eval()
        return model
