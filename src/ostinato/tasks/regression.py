"""Regression: one number, or several, for each sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from ostinato.data.inputs import Inputs
from ostinato.networks.arrangements import ManyToOne, OneToOne
from ostinato.tasks.base import Prediction
from ostinato.tasks.corpora import SoundEstimator
from ostinato.tasks.networks import PoolingSettings, pooled_network
from ostinato.tasks.targets import Numbers


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceRegressor(PoolingSettings, SoundEstimator[Numbers, ManyToOne | OneToOne]):
    """A recurrent network that predicts a number, or several, for a sequence.

    Sequences and settings are as of `SequenceClassifier`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(rng.integers(3, 9), 1)) for i in range(100)]
        >>> y = [x.mean() for x in X]
        >>> model = SequenceRegressor(hidden_size=16, epochs=20).fit(X, y)
        >>> model.score(X, y) > 0.8
        True
    """

    convolutions: bool | None = False
    band_convolutions: bool | None = False

    TARGETS = Numbers

    def _build(self, inputs: Inputs, targets: Numbers) -> ManyToOne | OneToOne:
        return pooled_network(inputs, targets.head, self.architecture(self.resolved_), self)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predict the number of each sequence, ``(N,)``, or its numbers, ``(N, K)``."""
        scores = self._sequences().scores(self.network_, self._read(X))
        return self.targets_.decode(scores.double().numpy())

    def predictions(self, X: Any, *, probabilities: bool = False) -> Iterator[Prediction]:
        """Yield the prediction for each sequence; see `Predictor`."""
        corpus = self._read(X)
        for place, found in zip(corpus.places, self.predict(corpus), strict=True):
            numbers = np.atleast_1d(found).tolist()
            text = " ".join(f"{number:.6g}" for number in numbers)
            facts = {"number": numbers[0]} if self.targets_.single else {"numbers": numbers}
            yield Prediction(place, f"{text}\t{place}", facts)

    def evaluate(
        self, X: Any, y: Any = None, *, groups: Any = None, allow_shared_groups: bool = False
    ) -> dict[str, Any]:
        """Measure the predictions by known numbers; data are as in `fit`.

        Groups that were trained or validated on are a `DataError`, unless ``allow_shared_groups``.

        Returns:
            mae (mean absolute error), rmse (root of the mean squared error), r2, sequences.
        """
        corpus = self._tested(X, y, groups, allow_shared_groups)
        truth = self.targets_.numbers(corpus)
        guess = self.predict(corpus).reshape(truth.shape)
        r2 = float(metrics.r2_score(truth, guess)) if len(truth) > 1 else float("nan")
        return {**_errors(truth - guess), "r2": r2, "sequences": len(truth)}

    def score(self, X: Any, y: Any = None) -> float:
        """Return R2, the share of the numbers' variance that the predictions explain."""
        return float(self.evaluate(X, y)["r2"])


def _errors(errors: NDArray[np.float64]) -> dict[str, float]:
    return {"mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt((errors**2).mean()))}
