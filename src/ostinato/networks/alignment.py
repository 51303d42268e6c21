"""Where tokens and phrases stand in the output of CTC: forced alignment, search for a phrase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.errors import OstinatoError

LEAST = 1e-9
"""Probability below which a phrase is not said to be anywhere."""


class Span(NamedTuple):
    """Steps that a token, or a phrase, takes.

    Attributes:
        begin: the first of its steps.
        end: the first step after it.
        probability: of a token, the highest that it has in a step; of a phrase, that it is there.
    """

    begin: float
    end: float
    probability: float


def ctc_align(log_p: NDArray[np.float64], tokens: Sequence[int]) -> list[Span]:
    """Return the steps of each token in the likeliest alignment of a text (Viterbi).

    Args:
        log_p: log-probabilities of tokens and, last, the blank, ``(T, V + 1)``.
        tokens: numbers of the tokens.

    Raises:
        OstinatoError: there are too few steps for the tokens.

    >>> log_p = np.log([[0.8, 0.1, 0.1], [0.7, 0.1, 0.2], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]])
    >>> [(span.begin, span.end) for span in ctc_align(log_p, [0, 1])]
    [(0, 2), (3, 4)]
    """
    T, N = len(log_p), len(tokens)
    if not N:
        return []
    ids = np.asarray(tokens)
    needed = N + int((ids[1:] == ids[:-1]).sum())
    if needed > T:
        raise OstinatoError(
            f"ctc_align: {T} steps for {N} tokens; expected {needed} or more, a blank between "
            "equal ones included."
        )
    blank = log_p.shape[1] - 1
    states = np.full(2 * N + 1, blank)  # blank, token, blank, token, ..., blank
    states[1::2] = ids
    skips = np.zeros(2 * N + 1, dtype=bool)  # whether the blank before may be left out
    skips[3::2] = ids[1:] != ids[:-1]
    best = np.full(2 * N + 1, -np.inf)
    best[:2] = log_p[0, states[:2]]
    steps = np.zeros((T, 2 * N + 1), dtype=np.int8)
    for t in range(1, T):
        before = np.stack([
            best,
            np.append(-np.inf, best[:-1]),
            np.where(skips, np.append([-np.inf, -np.inf], best[:-2]), -np.inf),
        ])  # fmt: skip
        steps[t] = before.argmax(0)
        best = before.max(0) + log_p[t, states]
    state = 2 * N - int(best[-2] >= best[-1])
    path = np.empty(T, dtype=np.int64)
    for t in range(T - 1, -1, -1):
        path[t] = state
        state -= int(steps[t, state])
    spans = []
    for n, token in enumerate(tokens):
        of = np.flatnonzero(path == 2 * n + 1)
        probability = float(np.exp(log_p[of, token].max()))
        spans.append(Span(int(of[0]), int(of[-1]) + 1, probability))
    return spans


def ctc_find(
    p: NDArray[np.float64],
    tokens: Sequence[int],
    *,
    boundary: int | None = None,
    least: float = LEAST,
) -> list[Span]:
    """Return where a phrase may stand in a longer text, the likeliest first; none twice in a place.

    The probability of a place is that of all alignments of all texts that have the phrase there,
    exactly: given the sound, the steps of CTC are independent of each other, so that a recursion
    over the tokens of the phrase, as of the forward algorithm, leaves the rest of the text free.

    Args:
        p: probabilities of tokens and, last, the blank, ``(T, V + 1)``.
        tokens: numbers of the tokens of the phrase.
        boundary: the token that must stand on either side of the phrase, if the text does not begin
            or end there: the space, for whole words.
        least: probability below which a place is left out.

    >>> p = np.array([[0.0, 0.1, 0.9], [0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]])
    >>> ctc_find(p, [0, 1])
    [Span(begin=1.0, end=3.0, probability=0.72)]
    """
    if not len(tokens):
        raise OstinatoError("ctc_find: tokens is empty; expected a phrase.")
    ends, begins, lasts = _occurrences(p, np.asarray(tokens), boundary)
    spans: list[Span] = []
    left = ends.copy()
    while left.max(initial=0.0) > least:
        t = int(left.argmax())
        same = (left > 0) & (begins < lasts[t]) & (lasts > begins[t])
        same[t] = True
        share = left[same] / left[same].sum()
        begin, end = float(share @ begins[same]), float(share @ lasts[same])
        spans.append(
            Span(round(begin, 6), round(end, 6), round(min(1.0, float(left[same].sum())), 15))
        )
        left[same] = 0.0
    return sorted(spans, key=lambda span: -span.probability)


def _occurrences(
    p: NDArray[np.float64], ids: NDArray[np.int64], boundary: int | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return for each step the probability that a phrase is complete there, and its mean span.

    Of a phrase between boundaries it is complete at the boundary after it, or at step T.
    """
    T, n = len(p), len(ids)
    blank = p.shape[1] - 1
    fresh = np.append(True, ids[1:] != ids[:-1])  # whether no blank is needed before the token
    # Probabilities that the last k tokens are the first k of the phrase, and that the step is the
    # last of them, or a blank; and these times the step of the first token, and that after the last
    # step of the last token.
    token, gap = np.zeros((3, n)), np.zeros((3, n))
    outside = np.array([0.0, 1.0])  # the last token is the boundary: in it, or in a blank after it
    found = np.zeros((3, T + 1))
    for t in range(T):
        if boundary is not None:
            found[:, t] = p[t, boundary] * (token[:, -1] + gap[:, -1])
            enter = outside.sum()
        else:
            enter = 1.0 - (p[t - 1, ids[0]] if t else 0.0)
        arrive = np.zeros((3, n))
        arrive[:, 1:] = gap[:, :-1] + fresh[1:] * token[:, :-1]
        arrive[:2, 0] = enter, enter * t
        if boundary is None:
            found[:, t] = p[t, ids[-1]] * arrive[:, -1]
            found[2, t] = found[0, t] * (t + 1)
        gap = p[t, blank] * (token + gap)
        token = p[t, ids] * (token + arrive)
        token[2] = token[0] * (t + 1)
        if boundary is not None:
            outside = np.array([p[t, boundary], p[t, blank] * outside.sum()])
    if boundary is not None:
        found[:, T] = token[:, -1] + gap[:, -1]
    ends = found[0]
    sums = np.where(ends > 0, ends, 1.0)
    return ends, found[1] / sums, found[2] / sums
