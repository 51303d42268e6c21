"""MiniRocket, a linear classifier of series by fixed convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ostinato.data.ragged import Ragged
from ostinato.errors import OstinatoError
from ostinato.tasks.targets import calibrate

Array = NDArray[np.float64]

SIZE = 9
"""Steps that a convolution takes."""

KERNELS = torch.tensor(
    [[2.0 if k in large else -1.0 for k in range(SIZE)] for large in combinations(range(SIZE), 3)]
)
"""Weights of the convolutions, ``(84, 9)``: all choices of three 2s among -1s; they sum to 0."""

MAX_FEATURES = 10_000
MAX_DILATIONS = 32

MAX_WEIGHTS = 2**20
"""Weights of features, for all classes, at most."""

MAX_SERIES = 2048
MAX_VALUES = 2**22
"""Series that are fitted to, and values of them, at most: so it takes seconds."""

MARGIN = 1e-5
"""Added to thresholds: where a series is constant, rounding must not decide."""

RARE = 0.01
"""Standard deviation of a feature, below which it has less weight."""

STRENGTHS = np.logspace(-3, 3, 10)
"""Strengths of the ridge penalty that are tried."""

CHUNK = 2**20
"""Results of convolutions that are held at a time."""


@dataclass
class MiniRocket:
    """A ridge classifier by the shares of steps at which convolutions exceed thresholds.

    ::

        feature     mean over t of [y_t > threshold]
        y_t         sum over k of kernel_k x_{t + (k - 4) dilation}

    Of the convolutions only thresholds come from data: quantiles of what one gives for a training
    series. Before and after a series there are zeros. Dempster, Schmidt and Webb 2021, "MiniRocket:
    a very fast (almost) deterministic transform for time series classification".

    Args:
        dilations: distances between the steps that a convolution takes, ``D`` of them.
        thresholds: for each dilation, ``(84, F_d)``; of all together, ``F``.
        variables: of which variables each convolution takes the sum, 0 or 1, ``(D, 84, I)``.
        weights: of each feature for each class, ``(F, K)``.
        bias: of each class, ``(K,)``.
    """

    dilations: Sequence[int]
    thresholds: Sequence[NDArray[np.float32]]
    variables: NDArray[np.float32]
    weights: Array
    bias: Array

    def __post_init__(self) -> None:
        self.thresholds = [np.asarray(each, np.float32) for each in self.thresholds]
        self.variables = np.asarray(self.variables, np.float32)
        self.weights, self.bias = (np.asarray(a, np.float64) for a in (self.weights, self.bias))
        D, C = len(self.dilations), len(KERNELS)
        arrays: list[NDArray[Any]] = [*self.thresholds, self.variables, self.weights, self.bias]
        if not (
            all(type(d) is int and 0 < d < 2**20 for d in self.dilations)
            and [(each.ndim, len(each)) for each in self.thresholds] == [(2, C)] * D
            and self.variables.shape == (D, C, *self.variables.shape[2:3])
            and self.weights.shape == (sum(each.size for each in self.thresholds), len(self.bias))
            and self.bias.ndim == 1
            and all(np.isfinite(each).all() for each in arrays)
        ):
            raise OstinatoError(f"MiniRocket: its weights do not fit {D} dilations.")

    @classmethod
    def fit(cls, series: Ragged, classes: NDArray[np.int64], seed: int) -> tuple[Self, Array]:
        """Fit to standardised series, not all empty, and the numbers of their classes.

        None of the classes is absent. Where there is too much, some series are drawn.

        Returns:
            the classifier, whose scores are calibrated; and the scores that it would give to each
            series had it not been fitted to that one, ``(N, K)``.
        """
        random, N, K = np.random.default_rng(seed % 2**32), len(series), int(classes.max()) + 1
        order = random.permutation(np.flatnonzero(series.lengths))
        values = np.cumsum(series.lengths[order]) * series.values.shape[1]
        drawn = order[: max(1, min(MAX_SERIES, int(np.searchsorted(values, MAX_VALUES, "right"))))]
        model = cls._untrained(series, drawn, K, random)
        firsts = np.unique(classes, return_index=True)[1]  # of each class one
        rows = np.union1d(drawn, firsts)
        weights, bias, scores = _ridge(model.features(series, rows), np.eye(K)[classes[rows]])
        coldness = 1 / (calibrate(torch.tensor(scores), torch.tensor(classes[rows]), _nats) or 1.0)
        model = replace(model, weights=weights, bias=bias).times(coldness)
        others = np.setdiff1d(np.arange(N), rows)
        found = np.empty((N, K))
        found[rows], found[others] = coldness * scores, model.scores(series, others)
        return model, found

    @classmethod
    def _untrained(
        cls, series: Ragged, rows: NDArray[np.int64], K: int, random: np.random.Generator
    ) -> Self:
        """Choose all but the weights by some of the series, none of them empty."""
        C, I = len(KERNELS), series.values.shape[1]
        each = max(1, min(MAX_FEATURES, MAX_WEIGHTS // K) // C)  # features of a convolution
        longest = max(1.0, (series.lengths[rows].max() - 1) / (SIZE - 1))
        places = np.arange(each) * MAX_DILATIONS // each / (MAX_DILATIONS - 1)
        dilations, counts = np.unique((longest**places).astype(int), return_counts=True)
        sizes = 2 ** random.uniform(0, np.log2(min(I, SIZE) + 1), (len(dilations), C, 1))
        ranks = random.random((len(dilations), C, I)).argsort(-1).argsort(-1)
        nothing = [np.zeros((C, n), np.float32) for n in counts]
        model = cls(
            dilations.tolist(),
            nothing,
            (ranks < sizes.astype(int)).astype(np.float32),
            np.zeros((C * each, K)),
            np.zeros(K),
        )
        golden = (1 + math.sqrt(5)) / 2  # whose multiples lie evenly between whole numbers
        levels = np.arange(1, C * each + 1).reshape(C, each) * golden % 1
        for d, part in enumerate(np.split(levels, counts.cumsum()[:-1], axis=1)):
            for c, row in enumerate(random.choice(rows, C)):
                y = model._convolved(_padded(series, [row]), d, slice(c, c + 1))[0, 0]
                nothing[d][c] = np.round(np.quantile(y, part[c]) + MARGIN, 5)
        return model

    def features(self, series: Ragged, rows: NDArray[np.int64]) -> Array:
        """Return features of some series, ``(N, F)``; those of an empty one are 0."""
        lengths, I = series.lengths[rows], self.variables.shape[2]
        found = np.zeros((len(rows), len(self.weights)))
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        T, reach = int(lengths.max(initial=0)), (SIZE - 1) * max(self.dilations, default=0)
        size = max(1, CHUNK // (1 + (len(KERNELS) + SIZE * I) * T + I * reach))
        for begin in range(0, len(order), size):
            some = order[begin : begin + size]
            n = torch.from_numpy(lengths[some])
            found[some] = self._shares(_padded(series, rows[some].tolist()), n).numpy()
        return found

    def _shares(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return features of padded series ``(B, I, T)``, ``(B, F)``."""
        B, _, T = x.shape
        after = torch.arange(T) >= lengths[:, None, None]  # (B, 1, T)
        exceeds, parts = x.new_empty(B, len(KERNELS), T), []
        for d, thresholds in enumerate(self.thresholds):
            y = self._convolved(x, d).masked_fill_(after, -math.inf)
            counts = [
                # A comparison into floats is summed several times as fast as one into bits.
                torch.gt(y, threshold[:, None], out=exceeds).sum(-1)
                for threshold in torch.from_numpy(thresholds.T)
            ]
            parts.append(torch.stack(counts, -1).flatten(1))
        return torch.cat(parts, 1).double() / lengths[:, None]

    def _convolved(self, x: Tensor, d: int, which: slice = slice(None)) -> Tensor:
        """Return convolutions of one of the dilations of ``x (B, I, T)``, ``(B, 84, T)``."""
        reach = (SIZE - 1) * self.dilations[d]
        taken = F.pad(x, (reach // 2, reach // 2)).unfold(-1, reach + 1, 1)
        taken = taken[..., :: self.dilations[d]].permute(0, 1, 3, 2).flatten(1, 2)  # (B, I * 9, T)
        variables = torch.from_numpy(self.variables[d])
        return (variables[..., None] * KERNELS[:, None]).flatten(1)[which] @ taken

    def scores(self, series: Ragged, rows: NDArray[np.int64] | None = None) -> Array:
        """Return scores of standardised series, or of some, ``(N, K)``."""
        rows = np.arange(len(series)) if rows is None else rows
        return self.features(series, rows) @ self.weights + self.bias

    def times(self, factor: float) -> Self:
        """Return one whose scores are so many times as large, to six decimals."""
        weights, bias = (factor * array for array in (self.weights, self.bias))
        return replace(self, weights=weights.round(6), bias=bias.round(6))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document, the arguments."""
        return {
            "dilations": [*self.dilations],
            "thresholds": [np.round(each.astype(float), 5).tolist() for each in self.thresholds],
            "variables": self.variables.astype(int).tolist(),
            "weights": self.weights.tolist(),
            "bias": self.bias.tolist(),
        }


def _padded(series: Ragged, rows: Sequence[int]) -> Tensor:
    """Return some series as one tensor, ``(B, I, T)``."""
    return torch.from_numpy(series.padded(rows)).float().transpose(1, 2)


def _nats(scores: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(scores, classes, reduction="none")


def _ridge(X: Array, truth: Array) -> tuple[Array, Array, Array]:
    """Fit ridge regression, with the strength by which rows left out are predicted best.

    Args:
        X: features, ``(N, F)``; they are standardised, and the intercept is not penalised.
        truth: 1 for the class of a row, else 0, ``(N, K)``.

    Returns:
        weights ``(F, K)`` and bias ``(K,)`` of features as they are; and the scores of each row by
        a fit to all others, ``(N, K)``.
    """
    mean, scale = X.mean(0), np.hypot(X.std(0), RARE)
    Z = (X - mean) / scale
    Gram = Z @ Z.T
    free = 1e3 * (1 + np.trace(Gram) / len(X))  # as good as no penalty of the intercept
    values, vectors = np.linalg.eigh(Gram + free)
    best = (math.inf, truth, truth)
    for strength in STRENGTHS:
        inverse = 1 / (values.clip(0) + strength)
        dual = vectors @ (inverse[:, None] * (vectors.T @ truth))
        missed = dual / (vectors**2 @ inverse)[:, None]
        best = min(
            best, (float((missed**2).mean()), dual, truth - missed), key=lambda each: each[0]
        )
    _, dual, scores = best
    weights = Z.T @ dual / scale[:, None]
    return weights, free * dual.sum(0) - mean @ weights, scores
