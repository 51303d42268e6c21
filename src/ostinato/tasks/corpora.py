"""Tasks that train on sequences with labels, in memory or in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ostinato.data.corpus import Corpus, ReadingSettings
from ostinato.data.inputs import Inputs, InputSettings
from ostinato.data.places import paths_of
from ostinato.data.reading import corpus_of, read_corpus
from ostinato.errors import OstinatoError
from ostinato.tasks.estimators import Estimator
from ostinato.tasks.networks import EncoderSettings, NetworkSettings, check_sizes
from ostinato.tasks.sequences import resolve
from ostinato.tasks.targets import SequenceTargets
from ostinato.training.settings import TrainingSettings

TargetsT = TypeVar("TargetsT", bound=SequenceTargets[Any])
NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(kw_only=True, eq=False, repr=False)
class CorpusEstimator(
    InputSettings,
    ReadingSettings,
    EncoderSettings,
    NetworkSettings,
    TrainingSettings,
    Estimator[Inputs, TargetsT, NetworkT],
):
    """An estimator that trains on sequences with labels.

    ``fit`` takes sequences: texts, lists of words, arrays ``(T, I)`` or ``(T,)``, uint8 images
    ``(height, width)``, or, as `pathlib.Path`, recordings or images; ``y`` is the label of each, or
    the labels of its steps, as the task has it.

    A task names its targets (`_learn_targets`) and its network (`_build`).
    """

    BY_STEP = False
    """Whether each step has a label, not each sequence."""

    def check_settings(self) -> None:
        """Raise an `OstinatoError` at a setting out of range; see `TrainingSettings`."""
        super().check_settings()
        self.check_network()
        self.check_encoder()
        check_sizes(self, "vocabulary_size", "min_count", "bands")

    # Hooks of a task

    def _learn_targets(self, training: Corpus) -> TargetsT:
        """Return what there is to predict, such as the classes."""
        raise NotImplementedError

    def _pieces(self, inputs: Inputs, lengths: NDArray[np.int64]) -> int:
        """Return the number of sequences, or of windows, that are trained on."""
        return len(lengths)

    def _read(self, X: Any, y: Any = None, *, labelled: bool | None = None) -> Corpus:
        """Read files, or take sequences in memory; a corpus is taken as it is."""
        if isinstance(X, Corpus):
            return X
        if y is None and (paths := paths_of(X)):
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

    def _learn(self, training: Corpus) -> tuple[Inputs, TargetsT]:
        targets = self._learn_targets(training)
        return Inputs.learn(training, self, causal=not self.bidirectional), targets

    def _defaults(
        self, training: Corpus, inputs: Inputs, lengths: NDArray[np.int64]
    ) -> dict[str, Any]:
        steps = int(lengths.max()) if self.init == "chrono" else None
        return resolve(self, self._pieces(inputs, lengths), steps)

    def _network_title(self, device: torch.device) -> str:
        title = super()._network_title(device)
        return title if self.recurrent else title.replace(self.cell, "no recurrence", 1)

    # Storing

    def _documents(self, inputs: Inputs, targets: TargetsT) -> dict[str, Any]:
        return {"inputs.json": inputs.to_json(), "targets.json": targets.to_json()}

    def _restore(self, documents: Mapping[str, Any]) -> tuple[Inputs, TargetsT]:
        targets = self._restore_targets(documents["targets.json"])
        return Inputs.from_json(documents["inputs.json"]), targets

    def _restore_targets(self, document: Mapping[str, Any]) -> TargetsT:
        """Return targets from their JSON document."""
        raise NotImplementedError
