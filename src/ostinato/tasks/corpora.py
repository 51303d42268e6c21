"""Tasks that train on sequences with labels, in memory or in files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ostinato.data.corpus import Corpus
from ostinato.data.inputs import Inputs
from ostinato.data.reading import corpus_of, read_corpus
from ostinato.errors import OstinatoError
from ostinato.tasks.estimators import Estimator, Prepared
from ostinato.tasks.networks import Architecture, EncoderSettings, NetworkSettings
from ostinato.tasks.sequences import prepare, resolve, split
from ostinato.tasks.targets import SequenceTargets
from ostinato.training.progress import ProgressMode
from ostinato.training.settings import TrainingSettings

TargetsT = TypeVar("TargetsT", bound=SequenceTargets[Any])
NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(kw_only=True, eq=False, repr=False)
class CorpusEstimator(
    EncoderSettings, NetworkSettings, TrainingSettings, Estimator[Inputs, TargetsT, NetworkT]
):
    """An estimator that trains on sequences with labels.

    A task names its targets (`_learn_targets`) and its network (`_build`).
    """

    BY_STEP = False
    """Whether each step has a label, not each sequence."""

    def check_settings(self) -> None:
        """Raise an `OstinatoError` at a setting out of range; see `TrainingSettings`."""
        super().check_settings()
        self.check_network()
        self.check_encoder()

    # What a task says

    def _learn_targets(self, training: Corpus) -> TargetsT:
        """Return what there is to predict, such as the classes."""
        raise NotImplementedError

    def _strata(self, corpus: Corpus) -> Sequence[str] | None:
        """Return what should be in equal shares in training and validation data."""
        return None

    def _examples(self, corpus: Corpus) -> Corpus:
        """Return an example for each target, where a sequence may have several."""
        return corpus

    def _pieces(self, inputs: Inputs, lengths: NDArray[np.int64]) -> int:
        """Return the number of sequences, or of windows, that are trained on."""
        return len(lengths)

    # Training

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        out: str | os.PathLike[str] | None = None,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
    ) -> Self:
        """Train on sequences and their labels.

        Args:
            X: sequences: texts, lists of words, arrays ``(T, I)`` or ``(T,)``, uint8 images
                ``(height, width)``, or, as `pathlib.Path`, recordings or images; or files and
                folders, one or several `pathlib.Path` and no ``y``.
            y: the label of each sequence, or the labels of its steps, as the task has it.
            validation: sequences to validate on, ``(X, y)`` or files as for ``X``; if not given,
                a share of the training data is held out.
            out: folder for the model, checkpoints, metrics and learning curve, made anew; None
                keeps all in memory.
            progress: bar, lines, json, quiet, or auto: a bar on a terminal, lines elsewhere.
            tensorboard: write curves for TensorBoard into ``out``.

        Raises:
            OstinatoError: on settings or data that cannot be used. Nothing is left behind.
        """
        return self._fit(
            lambda data: self._prepare(data, X, y, validation), out, progress, tensorboard
        )

    def _prepare(self, data: Path, X: Any, y: Any, validation: Any) -> Prepared:
        training, held_out = self._labelled(X, y), None
        if validation is not None:
            pair = validation if isinstance(validation, tuple) else (validation,)
            held_out = self._labelled(*pair)
        elif self.validation_fraction != 0:
            training, held_out = self._split(training)
        targets = self._learn_targets(training)
        parts = {"training": self._examples(training)}
        if held_out is not None:
            parts["validation"] = self._examples(held_out)
        for part in parts.values():
            targets.check(part)
        inputs = Inputs.learn(training, self, causal=not self.bidirectional)
        inputs, lengths, facts = prepare(data, parts, inputs, targets)
        facts["notes"] = list(training.notes)
        return Prepared(self._documents(inputs, targets), self._defaults(inputs, lengths), facts)

    def _read(self, X: Any, y: Any = None, *, labelled: bool | None = None) -> Corpus:
        """Read files, or take what is in memory; a corpus is taken as it is."""
        if isinstance(X, Corpus):
            return X
        paths = [X] if isinstance(X, os.PathLike) else X
        files = isinstance(paths, list) and all(isinstance(path, os.PathLike) for path in paths)
        if files and y is None:
            return read_corpus(paths, self, by_step=self.BY_STEP, labelled=labelled)
        return corpus_of(X, y, self, by_step=self.BY_STEP, labelled=labelled)

    def _labelled(self, X: Any, y: Any = None) -> Corpus:
        corpus = self._read(X, y, labelled=True)
        if corpus.targets is None:
            raise OstinatoError(
                f"{type(self).__name__}: the sequences have no labels: y is missing, and so is a "
                "column or a pattern that tells them."
            )
        return corpus

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Split into training and validation sequences."""
        strata, call = self._strata(corpus), type(self).__name__
        return split(corpus, self.validation_fraction, self.seed, strata, call=call)

    def _defaults(self, inputs: Inputs, lengths: NDArray[np.int64]) -> dict[str, Any]:
        """Return settings that were not given, by the lengths of the training sequences."""
        steps = int(lengths.max()) if self.init == "chrono" else None
        return resolve(self, self._pieces(inputs, lengths), steps)

    def _network_title(self, device: torch.device) -> str:
        title = super()._network_title(device)
        return title if self.recurrent else title.replace(self.cell, "no recurrence", 1)

    def _architecture(self) -> Architecture:
        return self.architecture(self.resolved_)

    # Storing

    def _documents(self, inputs: Inputs, targets: TargetsT) -> dict[str, Any]:
        return {"inputs.json": inputs.to_json(), "targets.json": targets.to_json()}

    def _restore(self, documents: Mapping[str, Any]) -> tuple[Inputs, TargetsT]:
        targets = self._restore_targets(documents["targets.json"])
        return Inputs.from_json(documents["inputs.json"]), targets

    def _restore_targets(self, document: Mapping[str, Any]) -> TargetsT:
        """Return targets from their JSON document."""
        raise NotImplementedError
