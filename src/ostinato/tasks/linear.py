"""A linear classifier of texts, and how its probabilities are blended with those of a network."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, hstack
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from ostinato.errors import OstinatoError

Array = NDArray[np.float64]

STRENGTH = 10.0
"""Inverse of the regularisation."""

MAX_WORDS = 2**22
"""Words that are fitted on, times the classes, at most: so it takes seconds."""

MAX_TERMS = 2**17
"""Terms of a kind, at most."""

MAX_WEIGHTS = 2**20
"""Weights of terms, for all classes, at most."""


def phrases(words: Sequence[str]) -> list[str]:
    """Return words, and pairs of words with a blank between.

    >>> phrases(["not", "so", "bad"])
    ['not', 'so', 'bad', 'not so', 'so bad']
    """
    return [*words, *map(" ".join, pairwise(words))]


def pieces(words: Iterable[str]) -> list[str]:
    """Return pieces of words: three to five letters, begin and end included.

    >>> pieces(["bad", "a"])
    ['<ba', 'bad', 'ad>', '<bad', 'bad>', '<bad>', '<a>']
    """
    return [piece for word in words for piece in _pieces_of(word)]


@lru_cache(2**16)
def _pieces_of(word: str) -> list[str]:
    whole = f"<{word}>"
    return [whole[i : i + n] for n in (3, 4, 5) for i in range(len(whole) - n + 1)]


CHANCE = 1.92
"""Nats of all validation data together, by which one more weight fits them better by chance in a
twentieth of all cases: the likelihood-ratio test."""

KINDS: Mapping[str, tuple[Callable[[Sequence[str]], list[str]], int]] = {
    "phrases": (phrases, 1),
    "pieces": (pieces, 2),
}
"""Kinds of terms: what finds them, and in how many texts they must be to count."""


@dataclass
class LinearClassifier:
    """Logistic regression on words, pairs of words and pieces of words, by tf-idf.

    Terms are weighted by ``(1 + log count) (1 + log((1 + N) / (1 + texts with the term)))``, those
    of each kind scaled to a vector of length 1.

    Args:
        texts: training texts, ``N``.
        terms: by kind, how many texts each term is in.
        weights: of all terms, ``(F, K)``; of two classes only for the second, ``(F, 1)``.
        bias: of the same classes, ``(K,)`` or ``(1,)``.
    """

    texts: int
    terms: Mapping[str, Mapping[str, int]]
    weights: Array
    bias: Array

    def __post_init__(self) -> None:
        self.weights, self.bias = (np.asarray(a, np.float64) for a in (self.weights, self.bias))
        counts = [n for kind in KINDS for n in self.terms[kind].values()]
        if not (
            self.bias.ndim == 1
            and self.weights.shape == (len(counts), len(self.bias))
            and np.isfinite(self.weights).all()
            and np.isfinite(self.bias).all()
            and all(type(n) is int and 0 < n <= self.texts < 2**53 for n in counts)
        ):
            raise OstinatoError(f"LinearClassifier: its weights do not fit {len(counts)} terms.")

    @classmethod
    def fit(cls, texts: Sequence[Sequence[str]], classes: NDArray[np.int64], seed: int) -> Self:
        """Fit to texts, lists of words, and the numbers of their classes, of which none is absent.

        Where there are too many words, some texts are drawn.
        """
        K = int(classes.max()) + 1
        order = np.random.default_rng(seed % 2**32).permutation(len(texts))
        words = np.cumsum([len(texts[i]) for i in order])
        some = order[: max(1, int(np.searchsorted(words, MAX_WORDS // K, "right")))]
        first = np.unique(classes, return_index=True)[1]  # of each class
        rows = np.union1d(some, first)
        texts, classes = [texts[i] for i in rows], classes[rows]
        most = min(MAX_TERMS, MAX_WEIGHTS // len(KINDS) // K)
        terms = {}
        for kind, (find, least) in KINDS.items():
            counts = Counter(term for text in texts for term in set(find(text)))
            common = sorted((-n, term) for term, n in counts.items() if n >= least)
            terms[kind] = {term: -n for n, term in common[:most]}
        empty = cls(len(texts), terms, np.zeros((sum(map(len, terms.values())), 1)), np.zeros(1))
        model = LogisticRegression(C=STRENGTH, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # good enough after so long
            model.fit(empty.features(texts), classes)
        return cls(len(texts), terms, model.coef_.T.round(4), model.intercept_.round(4))

    def features(self, texts: Sequence[Sequence[str]]) -> csr_matrix:
        """Return the weights of terms in texts, ``(N, F)``."""
        blocks = []
        for kind, (find, _) in KINDS.items():
            column = {term: i for i, term in enumerate(self.terms[kind])}
            found = [Counter(t for t in find(text) if t in column) for text in texts]
            ends = np.cumsum([0, *map(len, found)])
            columns = np.array([column[t] for each in found for t in each], np.int64)
            counts = np.array([n for each in found for n in each.values()], np.float64)
            rarity = 1 + np.log((1 + self.texts) / (1 + np.array([*self.terms[kind].values()])))
            values = (1 + np.log(counts)) * rarity[columns]
            block = csr_matrix((values, columns, ends), (len(texts), len(column)))
            block.sort_indices()
            blocks.append(normalize(block))
        return csr_matrix(hstack(blocks))

    def log_probabilities(self, texts: Sequence[Sequence[str]]) -> Array:
        """Return the logarithm of the probability of each class, ``(N, K)``."""
        scores = self.features(texts) @ self.weights + self.bias
        if scores.shape[1] == 1:
            scores = np.hstack([np.zeros_like(scores), scores])
        return np.asarray(log_softmax(scores, axis=1))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document, the arguments."""
        values = vars(self).items()
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values}


@dataclass(frozen=True)
class Blend:
    """Weights by which scores of a network and log-probabilities of a linear classifier are added.

    Args:
        network: of the network's scores, not below 0.
        linear: of the log-probabilities, not below 0.
    """

    network: float
    linear: float

    def __post_init__(self) -> None:
        if not (0 <= self.network < math.inf and 0 <= self.linear < math.inf):
            raise OstinatoError(f"{self!r:.99}: expected numbers not below 0.")

    def __call__(self, network: Array, linear: Array) -> Array:
        """Return probabilities ``(N, K)``."""
        return np.asarray(softmax(self.network * network + self.linear * linear, axis=1))


def fit_blend(network: Array, linear: Array, classes: NDArray[np.int64]) -> Blend:
    """Return the blend whose probabilities fit validation data best.

    The network alone is taken unless the logarithm of the likelihood of all data rises by more than
    `CHANCE`.

    Args:
        network: calibrated scores of the network, ``(N, K)``.
        linear: log-probabilities of the linear classifier, ``(N, K)``.
        classes: the true ones, ``(N,)``.

    >>> right, none = np.eye(2)[[0, 1] * 50], np.zeros((100, 2))
    >>> fit_blend(right, none, np.array([0, 1] * 50)).linear
    0.0
    >>> fit_blend(none, right, np.array([0, 1] * 50)).linear > 1
    True
    """
    N, both = len(classes), (network, linear)

    def loss(weights: Array) -> tuple[float, Array]:
        log_p = log_softmax(sum(w * each for w, each in zip(weights, both, strict=True)), axis=1)
        wrong = np.exp(log_p)
        wrong[np.arange(N), classes] -= 1
        excess = weights.sum() - 1  # a prior, for few data
        value = -log_p[np.arange(N), classes].mean() + 0.5 / N * excess**2
        slopes = [(wrong * each).sum() / N + excess / N for each in both]
        return value, np.array(slopes)

    alone = np.array([1.0, 0.0])
    start = min(alone, alone[::-1], key=lambda w: loss(w)[0])  # no worse than the better
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2)
    better = N * (loss(alone)[0] - found.fun) > CHANCE
    return Blend(*(found.x if better else alone).tolist())
