"""What all tasks share: from `fit` to a run's folder, to a stored model and back.

A task puts together five objects: a source of data, inputs, targets, a network, and `fit`. The
methods of `Estimator` that begin with an underscore and raise are the hooks of a task.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ostinato.data.corpus import Corpus
from ostinato.data.inputs import SequenceInputs
from ostinato.data.prefetch import ahead, closing
from ostinato.data.ragged import Examples
from ostinato.data.shards import Work, checked_files
from ostinato.data.tables import cells_of
from ostinato.errors import OstinatoError, check_choice
from ostinato.files import RUN_FILE, temporary_folder
from ostinato.launch import launch
from ostinato.memory import check_memory
from ostinato.recurrence.cells import name_of
from ostinato.recurrence.layers import MAX_LAYERS, Recurrent
from ostinato.tasks.base import MANY, RunSamples
from ostinato.tasks.networks import NetworkSettings, check_shares, check_sizes
from ostinato.tasks.prepared import Prepared, Preparing
from ostinato.tasks.sequences import (
    Sequences,
    check_groups,
    group_digests,
    prepare,
    resolve,
    split,
    split_groups,
)
from ostinato.tasks.targets import SequenceTargets
from ostinato.training import storage
from ostinato.training.callbacks import Callback, History, TrainingResult
from ostinato.training.distributed import ALONE, World, check_all, join
from ostinato.training.evaluation import Problem, Sample, evaluate
from ostinato.training.loop import Pace, Trainer, device_of
from ostinato.training.optimization import updates_of
from ostinato.training.progress import ProgressMode, duration, make_progress
from ostinato.training.runs import RunFolder, checked_data
from ostinato.training.settings import TrainingSettings, check_value

InputsT = TypeVar("InputsT")
TargetsT = TypeVar("TargetsT")
NetworkT = TypeVar("NetworkT", bound=nn.Module)


_INNER = {"architecture", "check_settings", "get_metadata_routing"}
"""Public names that are for other modules, and for those of scikit-learn."""


class Plan(NamedTuple):
    """What training would do.

    Attributes:
        title: what was read, the network, and what was chosen, in lines.
        seconds: time of training, about; at most, where it may end early.
        steps: optimizer steps; None where the time is the limit.
        evaluations: evaluations on the validation data.
        pace: seconds of a step, and of an evaluation.
        patience: evaluations without improvement before training ends early; 0 for never.
    """

    title: str
    seconds: float
    steps: int | None
    evaluations: int
    pace: Pace
    patience: int

    def __str__(self) -> str:
        time = duration(self.seconds)
        if self.steps is None:
            steps = self.seconds / self.pace.step
            return f"{self.title}\ntraining takes {time}: about {steps:,.0f} steps"
        early = ", or less: it ends once validation stalls" if self.patience else ""
        return (
            f"{self.title}\ntraining takes about {time}{early}: {self.steps:,} steps of "
            f"{self.pace.step:.2g} s and {self.evaluations} evaluations of "
            f"{self.pace.evaluation:.2g} s"
        )

    @classmethod
    def of(cls, trainer: Trainer) -> Self:
        """Return the plan of a trainer, which trains for a moment."""
        limit, pace, evaluations = trainer.time_limit, trainer.pace(), trainer.evaluations
        steps = None if limit is not None else trainer.total
        whole = limit or (steps or 0) * pace.step + evaluations * pace.evaluation
        patience = trainer.settings.patience or 0
        return cls(trainer.title, whole, steps, evaluations, pace, patience)


class StartedRun(NamedTuple):
    """What a run, which may be continued, is trained on.

    Attributes:
        folder: of the run; None if all is in memory.
        data: folder of the prepared data.
        document: task, settings and what `Prepared` has.
        resumes: whether it is an earlier run, which goes on.
    """

    folder: Path | None
    data: Path
    document: Mapping[str, Any]
    resumes: bool = False


class Estimator(
    NetworkSettings,
    TrainingSettings,
    BaseEstimator,
    Preparing,
    Generic[InputsT, TargetsT, NetworkT],
):
    """An estimator whose model is a network: runs, resuming, storing, loading.

    Attributes:
        inputs_: what the model knows of its inputs.
        targets_: the targets that it predicts.
        network_: the trained network.
        training_: facts of the training run.
        resolved_: settings that were not given, and what the data made of them.
        folder_: the folder of the run or model that it stems from; None if there is none.
        history_: records of training, as in ``metrics.jsonl``, thinned where they are many; empty
            for a model that was loaded.
        samples_: rows that it was trained and validated on, for `diagnose`; None for a run in a
            folder, a model that was loaded, and a copy.
    """

    inputs_: InputsT
    targets_: TargetsT
    network_: NetworkT
    training_: dict[str, Any]
    resolved_: dict[str, Any]
    folder_ = cast("Path | None", None)
    history_: Sequence[Mapping[str, Any]] = ()
    samples_ = cast("RunSamples | None", None)

    if not TYPE_CHECKING:  # which would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            needs = isinstance(getattr(type(self), name, None), property)  # which needs one of
            if needs or name in ("inputs_", "targets_", "network_", "training_", "resolved_"):
                kind = type(self).__name__
                raise NotFittedError(f"{kind}: is not trained yet ({name}); call fit first.")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle or a copy keeps: the model, and not rows of its data."""
        return {**super().__getstate__(), "samples_": None}

    def __dir__(self) -> list[str]:
        """Return what a user calls, sets or reads."""
        names = [name for name in super().__dir__() if not name.isupper() and name not in _INNER]
        return [n for n in names if (n[0] != "_" and not n.endswith("_request")) or n[:2] == "__"]

    # Hooks of a task; the defaults are for sequences with targets.

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes(self, "hidden_size")
        expected = f"a whole number above zero, up to {MAX_LAYERS:,}"
        check_value(self, "num_layers", lambda n: 0 < n <= MAX_LAYERS, expected)
        check_shares(self, "dropout weight_dropout zoneout")

    def _read(self, X: Any, y: Any = None, *, labelled: bool | None = None) -> Corpus:
        """Return data from memory or files, with targets if they are known or ``labelled``."""
        raise NotImplementedError

    def _labelled(self, X: Any, y: Any = None) -> Corpus:
        """Return data with targets from memory or files."""
        corpus = self._read(X, y, labelled=True)
        if corpus.targets is None:
            raise OstinatoError(
                f"{type(self).__name__}: the data have no targets: y is missing, and so is a "
                "column, a second file, or a pattern that tells them."
            )
        return corpus

    def _learn(self, training: Corpus) -> tuple[InputsT, TargetsT]:
        """Learn inputs and targets from training data."""
        raise NotImplementedError

    def _pieces(self, inputs: InputsT, lengths: NDArray[np.int64]) -> int:
        """Return the number of sequences, or of windows of them, that are trained on."""
        return len(lengths)

    def _facts(self, training: Corpus) -> dict[str, Any]:
        """Return further facts of training data, which settings depend on."""
        return {}

    def _defaults(
        self, facts: Mapping[str, Any], pieces: int, usual: dict[str, Any]
    ) -> dict[str, Any]:
        """Return settings that were not given, other than the usual ones of so many pieces."""
        return {}

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Split into training and validation data."""
        return split(corpus, self.validation_fraction, self.seed, call=type(self).__name__)

    def _examples(self, corpus: Corpus, part: str) -> Corpus:
        """Return the examples of the part, training or validation, that are trained on."""
        return corpus

    def _documents(self, inputs: InputsT, targets: TargetsT) -> dict[str, Any]:
        """Return inputs and targets as JSON documents by file name."""
        raise NotImplementedError

    def _restore(self, documents: Mapping[str, Any]) -> tuple[InputsT, TargetsT]:
        """Return the inverse of `_documents`."""
        raise NotImplementedError

    def _fitted_documents(self) -> dict[str, Any]:
        """Return what was fitted beside the network, as JSON documents by file name."""
        return {}

    def _restore_fitted(self, documents: Mapping[str, Any]) -> None:
        """Take what `_fitted_documents` returned, once all else is restored."""

    def _build(self, inputs: InputsT, targets: TargetsT) -> NetworkT:
        """Return the network, its weights drawn at random.

        `load` calls it on the meta device first, to compare shapes with those that are stored.
        """
        raise NotImplementedError

    def _batching(self) -> dict[str, Any]:
        """Return further arguments of the training batches; see `SequenceBatches`."""
        return {}

    def _problem(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Problem:
        """Return the training problem of the data, and their facts, that `_prepare` left."""
        size, notes = self.resolved("batch_size"), self._resolved_title()
        return self._sequences(device).problem(data, facts, size, notes, **self._batching())

    def _final_facts(self, problem: Problem) -> dict[str, Any]:
        """Return facts that are measured once, when the network has its last weights."""
        if problem.validation is None:
            return {}
        measured = evaluate(self.network_, problem.objective, problem.validation)
        loss = measured.pop("loss")
        return {"validation": measured | problem.objective.units(loss) or {"loss": loss}}

    def _sequences(self, device: torch.device | None = None) -> Sequences:
        """Return what encodes data for the network; None for the device that it is on."""
        inputs, targets = self.inputs_, self.targets_
        assert isinstance(inputs, SequenceInputs) and isinstance(targets, SequenceTargets)
        return Sequences(inputs, targets, self.seed, device or self._device())

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        groups: Any = None,
        validation: Any = None,
        out: str | os.PathLike[str] | None = None,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train on data, which the class describes.

        Args:
            X: the data in memory; or files and folders, one or several `pathlib.Path` and no ``y``.
            y: the target of each sequence.
            groups: the group of each sequence, such as its speaker, where data in memory have any.
                Validation data that are held out share no group with those trained on.
            validation: data to validate on, ``(X, y)`` or files as for ``X``; if not given, a share
                of the training data is held out.
            out: new folder for model, checkpoints, metrics and curve; None keeps all in memory.
            progress: bar, lines, json, quiet, or auto: a bar on a terminal, lines elsewhere.
            tensorboard: write curves for TensorBoard into ``out``.
            callbacks: further callbacks of the training run.

        Raises:
            OstinatoError: on settings or data that cannot be used. Nothing is left behind.
        """
        self.check_settings()
        world = join()
        device_of(world.local_device(self.device))
        check_choice(f"{type(self).__name__}.fit: progress", progress, get_args(ProgressMode))
        X, y = self._grouped(X, y, groups)

        def document(data: Path) -> dict[str, Any]:
            task = {"task": type(self).__name__, "parameters": self.get_params()}
            return task | self._prepared(data, X, y, validation)._asdict()

        with ExitStack() as held:

            def start() -> StartedRun:
                if out is None:
                    data = held.enter_context(temporary_folder())
                    return StartedRun(None, data, document(data))
                if launch().restarts and (Path(out) / RUN_FILE).exists():
                    return self._reopened(world.path(Path(out)), held, self.get_params())
                run = RunFolder.create(world.path(Path(out)), document)
                held.enter_context(run.trained_by_one())
                held.enter_context(run.removed_on_early_failure())
                return StartedRun(run.path, run.data, run.document)

            started = world.first(start)
            self._train(started, progress, tensorboard, callbacks, world)
        return self

    @classmethod
    def _reopened(cls, path: Path, held: ExitStack, settings: Mapping[str, Any]) -> StartedRun:
        """Return an earlier run, which nobody else trains while something is held."""
        run = RunFolder.reopen(path)
        run.refuse_other(cls.__name__, settings)
        run.check_data()
        with storage.parts_of(run.path):
            cls._checked(run.document["parameters"], run.document["resolved"])
        held.enter_context(run.trained_by_one())
        return StartedRun(run.path, run.data, run.document, resumes=True)

    def plan(self, X: Any, y: Any = None, *, groups: Any = None, validation: Any = None) -> Plan:
        """Say what `fit` would do with such data: what it reads, what it chooses, its time.

        Some steps of training are tried, to measure the time; nothing is kept.
        """
        self.check_settings()
        device_of(self.device)
        model = type(self)(**self.get_params())
        X, y = self._grouped(X, y, groups)
        with temporary_folder() as data, torch.random.fork_rng():
            documents, model.resolved_, facts = model._prepared(data, X, y, validation)
            model.inputs_, model.targets_ = model._restore(documents)
            torch.manual_seed(self.seed)
            trainer, _ = model._trainer(data, facts)
            with closing(trainer.batches):
                return Plan.of(trainer)

    def _resolve(self, inputs: InputsT, data: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings that were not given, by encoded data."""
        training = Examples.open(data, "training")
        assert training is not None
        lengths = training.inputs.lengths
        pieces = self._pieces(inputs, lengths)
        usual = resolve(self, pieces, int(lengths.max()) if self.init == "chrono" else None)
        return usual | self._defaults(facts, pieces, usual)

    def _prepare(
        self, data: Path, X: Any, y: Any, validation: Any, work: Work | None = None
    ) -> Prepared:
        """Write data into a folder, as the network takes them; with ``work`` in shards."""
        training, held_out = self._parts(X, y, validation)
        inputs, targets = self._learn(training)
        assert isinstance(inputs, SequenceInputs) and isinstance(targets, SequenceTargets)
        parts = {"training": self._examples(training, "training")}
        if held_out is not None:
            parts["validation"] = self._examples(held_out, "validation")
        scaled, _, facts = prepare(data, parts, inputs, targets, training.notes, work)
        if seen := {group for part in parts.values() for group in part.groups or []}:
            facts["groups"] = group_digests(seen)
        facts |= self._facts(training)
        return Prepared(self._documents(scaled, targets), self._resolve(scaled, data, facts), facts)

    def _parts(self, X: Any, y: Any, validation: Any) -> tuple[Corpus, Corpus | None]:
        """Return training and validation data, as `fit` is given them."""
        training = self._labelled(X, y)
        if validation is not None:
            pair = validation if isinstance(validation, tuple) else (validation,)
            if len(pair) > 2 or (y is not None and len(pair) < 2):
                raise OstinatoError(
                    f"{type(self).__name__}.fit: validation is {validation!r:.40}; expected "
                    "(X, y), as for training."
                )
            held_out = self._labelled(*pair)
            digests, call = group_digests(training.groups or []), f"{type(self).__name__}.fit"
            check_groups(held_out, digests, f"{call}: validation", "leave these out.")
            return training, held_out
        if self.validation_fraction == 0:
            return training, None
        if training.groups is not None:
            fraction, call = self.validation_fraction, type(self).__name__
            return split_groups(training, fraction, self.seed, call=call)
        return self._split(training)

    def _grouped(self, X: Any, y: Any, groups: Any) -> tuple[Any, Any]:
        """Return ``X`` and ``y``; as one corpus where groups are given."""
        if groups is None:
            return X, y
        name = type(self).__name__
        if type(self)._read is Estimator._read:
            raise OstinatoError(f"{name}: groups are for sequences with a target each.")
        corpus, given = self._labelled(X, y), cells_of(groups)
        if len(given) != len(corpus):
            raise OstinatoError(
                f"{name}: X has {len(corpus):,} sequences, and groups {len(given):,}; expected the "
                "group of each."
            )
        return replace(corpus, groups=[str(group) for group in given]), None

    def _tested(
        self, X: Any, y: Any = None, groups: Any = None, allow_shared_groups: bool = False
    ) -> Corpus:
        """Return labelled data to measure predictions by; a `DataError` at groups known already."""
        corpus = self._labelled(*self._grouped(X, y, groups))
        if not allow_shared_groups:
            remedy = "leave these out, or use allow_shared_groups=True (--allow-shared-groups)."
            seen = self.training_.get("groups", ())
            check_groups(corpus, seen, f"{type(self).__name__}.evaluate", remedy)
        return corpus

    @classmethod
    def resume(
        cls,
        out: str | os.PathLike[str],
        *,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> Self:
        """Continue the run in a folder as if it had not been interrupted.

        Arguments are as in `fit`; settings may repeat those of the run, and must then equal them. A
        folder without a run, or with one of another task, is refused.
        """
        world = join()
        with ExitStack() as held:
            started = world.first(lambda: cls._reopened(world.path(Path(out)), held, settings))
            model = cls(**started.document["parameters"])
            model._train(started, progress, tensorboard, callbacks, world)
        return model

    def _train(
        self,
        started: StartedRun,
        progress: ProgressMode,
        tensorboard: bool,
        callbacks: Sequence[Callback],
        world: World,
    ) -> None:
        """Train on prepared data; a run records it, and keeps the best model."""
        folder, data, document, resume = started
        missing = f"there is no {data}: expected a folder that all machines see (out, --out)."
        check_all(world, data.is_dir(), missing)
        facts: dict[str, Any] = document["facts"]
        history = History()
        run = None if folder is None or world.rank else RunFolder(folder, dict(document))
        self.folder_ = folder
        self.resolved_ = document["resolved"]

        def whole(*clear: type[Exception]) -> AbstractContextManager[None]:
            return storage.parts_of(data.parent, *clear) if resume else nullcontext()

        with whole():
            self.inputs_, self.targets_ = self._restore(document["documents"])

        def note(result: TrainingResult) -> None:
            seconds, weights = round(result.seconds, 1), _weights(self.network_)
            self.training_ = {**facts, **asdict(result), "seconds": seconds, "weights": weights}

        def keep_best(result: TrainingResult) -> None:
            note(result)
            if run is not None:
                self.save(run.path)

        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            with whole(OstinatoError):
                every: list[Callback] = [history]
                if world.rank == 0:
                    every = [make_progress(progress), history]
                    every += run.callbacks(tensorboard) if run else []
                    every += callbacks
                checkpoints = None if run is None else run.checkpoints
                trainer, problem = self._trainer(data, facts, every, keep_best, checkpoints, world)
            with closing(trainer.batches):
                result = trainer.run(resume=resume)
            self.history_ = history.records
            self.samples_ = self._samples_of_run(data) if folder is None else None
            note(result)
            if result.ended != "interrupt":
                self.training_ |= self._final_facts(problem)
                if summary := self.training_.get("summary"):
                    for callback in trainer.callbacks:
                        callback.note(summary)
        if run is not None:
            if result.ended != "interrupt":
                self.save(run.path)
            if reason := run.draw(problem.objective.loss_unit):
                warnings.warn(reason, stacklevel=3)
        world.sum()  # the others wait for what the first one saves

    def _trainer(
        self,
        data: Path,
        facts: Mapping[str, Any],
        callbacks: Sequence[Callback] = (),
        on_best: Callable[[TrainingResult], None] | None = None,
        folder: Path | None = None,
        world: World = ALONE,
    ) -> tuple[Trainer, Problem]:
        """Return what trains a new network on prepared data, and the problem of these."""
        device = device_of(world.local_device(self.device))
        self._check_weights(device)
        self.network_ = self._build(self.inputs_, self.targets_).to(device)
        threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        ranks = f", {world.size} processes" if world.size > 1 else ""
        weights = f"{_weights(self.network_):,} weights; {device.type}{threads}{ranks}"
        problem = self._problem(data, facts, device)
        names = [field.name for field in fields(TrainingSettings)]
        trainer = Trainer(
            self.network_,
            ahead(problem.batches) if checked_files(data) else problem.batches,
            problem.objective,
            TrainingSettings(**{name: self.resolved(name) for name in names}),
            callbacks,
            validation=problem.validation,
            sample=problem.sample,
            on_best=on_best,
            title=f"{problem.title}; {self._network_title()}, {weights}{problem.notes}",
            folder=folder,
            world=world,
        )
        return trainer, problem

    def _check_weights(self, device: torch.device) -> None:
        """Refuse a network whose weights do not fit into memory, before it is built."""
        with torch.device("meta"), torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network itself will warn
            planned = self._build(self.inputs_, self.targets_)
        weights = _weights(planned)
        # Weights and gradients, the best weights, and the checkpoint or what the optimizer keeps.
        copies = 4 if device.type == "cpu" else 1
        check_memory(
            f"{type(self).__name__}: training a network of {weights:,} weights",
            copies * 4 * weights,
            "choose a smaller hidden_size, num_layers, embedding_size or vocabulary_size",
        )

    def _check_batch(self, rows: int, steps: int, device: torch.device) -> None:
        """Refuse batches for which what back-propagation keeps does not fit into memory."""
        kept = sum(
            4 * (weight.shape[0] + layers.hidden_size)  # gates, and the state
            for layers in self.network_.modules()
            if isinstance(layers, Recurrent)
            for name, weight in layers.named_parameters()
            if name.startswith("weight_ih")
        )
        if device.type == "cpu":
            check_memory(
                f"{type(self).__name__}: a batch of {rows:,} x {steps:,} steps",
                rows * steps * kept,
                "choose a smaller batch_size, hidden_size, window or context",
            )

    def resolved(self, name: str) -> Any:
        """Return a setting as it was given, or else as it was resolved from the data."""
        given = getattr(self, name)
        return self.resolved_.get(name) if given is None else given

    def _network_title(self) -> str:
        return f"{name_of(self.cell)} of {self.num_layers} x {self.resolved('hidden_size')} units"

    def _resolved_title(self) -> str:
        chosen = ", ".join(
            f"{name} {value:g}"
            for name, value in self.resolved_.items()
            if getattr(self, name, None) is None and value is not None
        )
        return f"\nby the size of the data: {chosen}" if chosen else ""

    def _device(self) -> torch.device:
        check_is_fitted(self, "network_")
        return next(self.network_.parameters()).device

    def untrained(self, settings: Mapping[str, Any]) -> nn.Module:
        """Return a network as before training, some settings of which are others."""
        other = type(self)(**{**self.get_params(), **settings})
        other.folder_, other.resolved_ = self.folder_, self.resolved_
        other.inputs_, other.targets_ = self.inputs_, self.targets_
        return other._build(self.inputs_, self.targets_).to(self._device())

    def examples(
        self, X: Any, y: Any = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Encode some data as the network takes them, to look into it; ``X, y`` as in `fit`.

        They are ``count`` rows at most, each cut to ``steps`` steps where a row may be cut, or to
        what training takes.
        """
        sequences = self._sequences()
        return sequences.sample(sequences.labelled(self._labelled(X, y)), count, steps)

    def validation_examples(
        self, data: Path, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Encode some of the data of a run, the validation part if there is one, as `examples`."""
        return self._validation_sample(checked_data(data), count, steps)

    def samples_of_run(self, data: Path) -> RunSamples:
        """Encode some of what a run was trained and validated on."""
        return self._samples_of_run(checked_data(data))

    def _samples_of_run(self, data: Path) -> RunSamples:
        few, many = self._training_sample(data), self._training_sample(data, MANY)
        validation = self._validation_sample(data, MANY)
        if few is None or many is None:
            return RunSamples(self._validation_sample(data), validation, None)
        return RunSamples(few, many, held_out=validation)

    def _validation_sample(self, data: Path, count: int = 32, steps: int | None = None) -> Sample:
        """Encode some of the validation part of a run, of all if there is none."""
        return self._sequences().sample_of_run(data, count, steps)

    def _training_sample(self, data: Path, count: int = 32) -> Sample | None:
        """Encode some of what a run trained on; None if it has no validation part."""
        return self._sequences().training_sample_of_run(data, count, None)

    def encode(self, sequence: Any) -> tuple[Any, list[str]]:
        """Encode one sequence as the network takes it, ``(1, T, ...)``, and name its steps."""
        return self._sequences().encode(self._read([sequence]))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder; see `storage`. A model that is there is replaced.

        Whoever loads it meanwhile gets the old one or the new one; others who save it wait. While
        another thread trains it, its weights are those after a whole step.

        Raises:
            OstinatoError: a file cannot be written.
        """
        check_is_fitted(self, ["network_", "training_"])
        config = {
            "task": type(self).__name__,
            "parameters": self.get_params(),
            "resolved": self.resolved_,
            "training": self.training_,
        }
        documents = self._documents(self.inputs_, self.targets_) | self._fitted_documents()
        with updates_of(self.network_):
            weights = storage.pack_tensors(self.network_.state_dict())
        storage.save_model(Path(folder), config, weights, documents)

    @classmethod
    def _checked(cls, parameters: Mapping[str, Any], resolved: Mapping[str, Any]) -> Self:
        """Return an estimator of stored settings, all of them known, once they are checked."""
        known = {n: resolved.get(n) for n, given in parameters.items() if given is None}
        whole = cls(**{**parameters, **known})
        whole.check_settings()
        return whole

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "auto") -> Self:
        """Load the model of a folder that `save`, or training, wrote, unless it is damaged.

        The folder may come from anywhere: no memory is taken but what its own size explains.
        """
        path = Path(folder)
        model: Self | None = None

        def expected(
            config: dict[str, Any], documents: dict[str, Any], header: storage.Header
        ) -> dict[str, torch.Tensor]:
            nonlocal model
            parameters, resolved = config["parameters"], config["resolved"]
            whole = cls._checked(parameters, resolved)
            networks: int = whole.get_params().get("ensemble_size") or 1
            if networks * whole.num_layers > len(header):
                raise OstinatoError(
                    f"expected {networks} x {whole.num_layers} layers, got {len(header)} tensors."
                )
            model = cls(**parameters)
            model.folder_, model.training_, model.resolved_ = path, config["training"], resolved
            model.inputs_, model.targets_ = model._restore(documents)
            model._restore_fitted(documents)
            with torch.device("meta"):  # which has shapes, and takes no memory
                return model._build(model.inputs_, model.targets_).state_dict()

        _, weights, _ = storage.load_model(path, cls.__name__, expected)
        assert model is not None, "made from the config"
        with storage.parts_of(path):
            with torch.random.fork_rng():
                model.network_ = model._build(model.inputs_, model.targets_)
            model.network_.load_state_dict(weights)
        model.network_.to(device_of(device)).eval()
        return model


def _weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def random_generator(seed: int | None) -> torch.Generator:
    """Return a random generator; of a seed of its own for None."""
    if seed is not None and not (isinstance(seed, int) and abs(seed) < 2**63):
        raise OstinatoError(f"seed={seed!r}; expected a whole number below 2**63.")
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    return generator
