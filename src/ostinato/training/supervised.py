"""What the forecaster's network and training share with other tasks: settings, resolved by size."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ostinato.networks.arrangements import CellName, recurrent_layers
from ostinato.recurrence.cells import Initialization
from ostinato.training.estimators import NetworkEstimator


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceEstimator(NetworkEstimator):
    """An estimator that learns from whole sequences, batches of them in a random order.

    Args:
        cell: lstm, gru, gru-reset-before, rnn (tanh), rnn-relu (starting from the identity); or a
            variant, slower: lstm-peephole, lstm-coupled, lstm-norm, gru-norm, mgu, indrnn, min-gru,
            min-lstm.
        hidden_size: hidden units of each layer and direction; by the size of the data if not given.
        num_layers: recurrent layers.
        init: initialisation of the recurrent layers: pytorch, orthogonal, identity, or chrono, for
            memories as long as the longest sequence.
        dropout: share of features dropped before and between layers, the same at every step, and
            before the output; by the size of the data if not given.
        weight_dropout: share of recurrent weights dropped.
        zoneout: share of units that keep their state in a step.
        residual: layers add what they take to what they give, so that many can be trained.
    """

    cell: CellName = "gru"
    hidden_size: int | None = None
    num_layers: int = 1
    init: Initialization = "orthogonal"
    dropout: float | None = None
    weight_dropout: float = 0.0
    zoneout: float = 0.0
    residual: bool = False

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want_one_of("cell", get_args(CellName))
        self._want_one_of("init", get_args(Initialization))
        for name in ("hidden_size", "num_layers"):
            if getattr(self, name) is not None:
                self._want(name, lambda n: 0 < n < 2**24, "a whole number above zero, below 2**24")
        for name in ("dropout", "weight_dropout", "zoneout"):
            if getattr(self, name) is not None:
                self._want(name, lambda value: 0 <= value < 1, "a share from 0 to below 1")

    def _choose(self, steps: NDArray[np.int64]) -> dict[str, Any]:
        """Settings that were not given, by the size of the data."""
        n = self._pieces(steps)
        batch = self.batch_size or min(64, max(8, 1 << round(math.log2(max(1, n / 50)))))
        batch = min(batch, max(1, n))
        an_epoch = -(-n // batch)
        # Small data are gone over more often; none so seldom that the network has not begun.
        epochs = min(100.0, max(4.0, 40 * (1000 / n) ** (1 / 3)))
        epochs = max(epochs, 600 / an_epoch)
        if self.epochs is not None:
            epochs = self.epochs
        elif self.steps is not None:
            epochs = self.steps / an_epoch
        evaluations = self.evaluations or max(1, min(50, round(epochs)))
        budgeted = any(b is not None for b in (self.minutes, self.epochs, self.steps))
        return {
            "batch_size": batch,
            "evaluations": evaluations,
            "epochs": None if budgeted else round(epochs, 1),
            "patience": max(5, evaluations // 3) if self.validation_fraction != 0 else 0,
            "hidden_size": 64 if n < 500 else 128 if n < 200_000 else 256,
            "dropout": 0.5 if n < 20_000 else 0.3 if n < 200_000 else 0.1,
            "init_steps": int(steps.max()) if self.init == "chrono" else None,
        }

    def _pieces(self, steps: NDArray[np.int64]) -> int:
        """What is learnt from one at a time: sequences."""
        return len(steps)

    def _recurrent(self, features: int, *, bidirectional: bool = False) -> Any:
        """Recurrent layers on so many features."""
        return recurrent_layers(
            self.cell,
            features,
            self._value("hidden_size"),
            self.num_layers,
            bidirectional=bidirectional,
            variational_dropout=self._value("dropout") if self.num_layers > 1 else 0.0,
            weight_dropout=self.weight_dropout,
            init=self.init,
            init_steps=self.chosen_.get("init_steps") or 100,
            zoneout=self.zoneout,
            residual=self.residual,
        )

    # The loop

    @abstractmethod
    def _title(self, facts: Mapping[str, Any], device: torch.device) -> str:
        """What is learnt from what, in a line."""

    def _said_of_choices(self) -> str:
        """What was chosen by the size of the data, as a line for a title."""
        chosen = {
            name: value
            for name, value in self.chosen_.items()
            if getattr(self, name, None) is None and value is not None
        }
        said = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        return f"\nby the size of the data: {said}" if said else ""
