"""Linear classifiers of texts, and how their scores are blended with those of a network."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, hstack
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import normalize

from ostinato.errors import OstinatoError

Array = NDArray[np.float64]

STRENGTH = 3.0
"""Inverse of the regularisation of logistic regression."""

SMOOTHING = 0.3
"""What naive Bayes adds to the counts."""

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


CHANCE = 3.0
"""Nats of all validation data together, by which two more weights fit them better by chance in a
twentieth of all cases: the likelihood-ratio test."""

PRIOR = 4.0
"""Inverse of the variance of weights around those of a prior."""

KINDS: Mapping[str, tuple[Callable[[Sequence[str]], list[str]], int]] = {
    "phrases": (phrases, 1),
    "pieces": (pieces, 2),
}
"""Kinds of terms: what finds them, and in how many texts they must be to count."""


@dataclass
class LinearClassifier:
    """A linear classifier of texts by words, pairs of words and pieces of words.

    Terms are weighted by ``(1 + log count) (1 + log((1 + N) / (1 + texts with the term)))``, those
    of each kind scaled to a vector of length 1.

    Args:
        texts: training texts, ``N``.
        terms: by kind, how many texts each term is in.
        weights: of all terms for each class, ``(F, K)``.
        bias: of each class, ``(K,)``.
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
    def fit(
        cls, texts: Sequence[Sequence[str]], classes: NDArray[np.int64], seed: int
    ) -> tuple[Self, Self]:
        """Fit to texts, lists of words, and the numbers of their classes, of which none is absent.

        Where there are too many words, some texts are drawn.

        Returns:
            logistic regression, each term scaled by how unequally it is shared among classes (Wang
            and Manning 2012, "Baselines and bigrams"); and naive Bayes, on words and pairs alone.
        """
        K = int(classes.max()) + 1
        order = np.random.default_rng(seed % 2**32).permutation(len(texts))
        words = np.cumsum([len(texts[i]) for i in order])
        some = order[: max(1, int(np.searchsorted(words, MAX_WORDS // K, "right")))]
        rows = np.union1d(some, np.unique(classes, return_index=True)[1])  # of each class the first
        texts, classes = [texts[i] for i in rows], classes[rows]
        terms = {}
        for kind, (find, least) in KINDS.items():
            counts = Counter(term for text in texts for term in set(find(text)))
            common = sorted((-n, term) for term, n in counts.items() if n >= least)
            most = min(MAX_TERMS, MAX_WEIGHTS // len(KINDS) // K)
            terms[kind] = {term: -n for n, term in common[:most]}
        F, pairs = sum(map(len, terms.values())), len(terms["phrases"])
        X = cls(len(texts), terms, np.zeros((F, K)), np.zeros(K)).features(texts)
        inside = 1 + (X > 0).T @ np.eye(K)[classes]  # (F, K)
        outside = 2 - K + inside.sum(1, keepdims=True) - inside
        ratios = np.log(inside / inside.sum(0)) - np.log(outside / outside.sum(0))
        scale = np.abs(ratios).max(1)
        logistic, bayes = (
            LogisticRegression(C=STRENGTH, max_iter=200),
            MultinomialNB(alpha=SMOOTHING),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # good enough after so long
            logistic.fit(X.multiply(scale).tocsr(), classes)
        bayes.fit(X[:, :pairs], classes)
        signs = np.array([[-0.5], [0.5]]) if K == 2 else np.eye(K)
        weights = np.zeros((F, K))
        weights[:pairs] = bayes.feature_log_prob_.T
        return (
            cls(len(texts), terms, (signs @ logistic.coef_ * scale).T, signs @ logistic.intercept_),
            cls(len(texts), terms, weights, bayes.class_log_prior_),
        )

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

    def scores(self, texts: Sequence[Sequence[str]]) -> Array:
        """Return scores, the logarithms of the classes' odds, ``(N, K)``."""
        return np.asarray(self.features(texts) @ self.weights + self.bias)

    def plus(self, other: Self, weight: float, other_weight: float) -> Self:
        """Return the sum of this, weighted, and another with the same terms, to four decimals."""
        weights = weight * self.weights + other_weight * other.weights
        bias = weight * self.bias + other_weight * other.bias
        centered = weights - weights.mean(1, keepdims=True)  # which no probability depends on
        return replace(self, weights=centered.round(4), bias=(bias - bias.mean()).round(4))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document, the arguments."""
        values = vars(self).items()
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values}


def fit_blend(
    scores: Sequence[Array], classes: NDArray[np.int64], prior: Sequence[float] | None = None
) -> list[float]:
    """Return the weights, not below 0, with which scores fit validation data best.

    Without a ``prior`` they are 1 for the first and 0 for the others unless the logarithm of the
    likelihood of all data rises by more than `CHANCE`.

    Args:
        scores: of several classifiers, the first of them calibrated, ``(N, K)`` each.
        classes: the true ones, ``(N,)``.
        prior: weights from which few data move little.

    >>> right, none = 3 * np.eye(2)[[0, 1] * 50], np.zeros((100, 2))
    >>> fit_blend([none, none, none], np.array([0, 1] * 50))
    [1.0, 0.0, 0.0]
    >>> fit_blend([none, right, none], np.array([0, 1] * 50))[1] > 1
    True
    """
    N = len(classes)

    def loss(weights: Array) -> tuple[float, Array]:
        log_p = log_softmax(np.tensordot(weights, np.stack(scores), 1), axis=1)
        wrong = np.exp(log_p)
        wrong[np.arange(N), classes] -= 1
        excess = weights.sum() - 1 if prior is None else weights - prior  # for few data
        pull = (1.0 if prior is None else PRIOR) / N
        value = -log_p[np.arange(N), classes].mean() + 0.5 * pull * np.sum(excess**2)
        return value, np.array([(wrong * each).sum() for each in scores]) / N + pull * excess

    alone = np.eye(len(scores))
    start = min(alone, key=lambda weights: loss(weights)[0])  # it ends no worse than the best
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(scores))
    helps = prior is not None or N * (loss(alone[0])[0] - found.fun) > CHANCE
    weights: list[float] = (found.x if helps else alone[0]).tolist()
    return weights
