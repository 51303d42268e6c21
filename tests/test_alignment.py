"""Where tokens and phrases stand in the output of CTC, by enumerating all paths."""

import itertools

import numpy as np
import pytest

from ostinato.errors import OstinatoError
from ostinato.networks.alignment import _occurrences, ctc_align, ctc_find

V, T = 3, 5
BLANK = V


def probabilities(seed):
    random = np.random.default_rng(seed)
    return random, random.dirichlet(np.full(V + 1, 0.7), size=T)


def emitted(path):
    """The tokens of a path, with the first step of each and that after its last."""
    tokens, before = [], BLANK
    for t, symbol in enumerate(path):
        if symbol != BLANK and symbol == before:
            tokens[-1] = (symbol, tokens[-1][1], t + 1)
        elif symbol != BLANK:
            tokens.append((symbol, t, t + 1))
        before = symbol
    return tokens


def paths(p):
    for path in itertools.product(range(V + 1), repeat=T):
        yield emitted(path), np.prod(p[range(T), path])


@pytest.mark.parametrize("seed", range(12))
def test_the_alignment_is_the_likeliest_of_all_paths(seed):
    random, p = probabilities(seed)
    tokens = random.integers(0, V, random.integers(1, 4)).tolist()
    best = max(
        ((q, each) for each, q in paths(p) if [token for token, _, _ in each] == tokens),
        default=None,
    )
    if best is None:
        with pytest.raises(OstinatoError, match="5 steps for 3 tokens"):
            ctc_align(np.log(p), tokens)
        return
    spans = ctc_align(np.log(p), tokens)
    assert [(span.begin, span.end) for span in spans] == [(b, e) for _, b, e in best[1]]
    for span, token in zip(spans, tokens, strict=True):
        assert span.probability == pytest.approx(p[span.begin : span.end, token].max())


@pytest.mark.parametrize("boundary", [None, V - 1])
@pytest.mark.parametrize("seed", range(12))
def test_a_phrase_has_the_probability_of_all_paths_that_hold_it(seed, boundary):
    random, p = probabilities(seed)
    ids = random.integers(0, V if boundary is None else V - 1, random.integers(1, 4))
    n = len(ids)
    expected = np.zeros((3, T + 1))
    for tokens, q in paths(p):
        for i in range(len(tokens) - n + 1):
            if [token for token, _, _ in tokens[i : i + n]] != ids.tolist():
                continue
            (_, begin, _), (_, last, end) = tokens[i], tokens[i + n - 1]
            t = last
            if boundary is None:
                end = last + 1  # what comes after its first step is not waited for
            else:
                if i > 0 and tokens[i - 1][0] != boundary:
                    continue
                t = T if i + n == len(tokens) else tokens[i + n][1]
                if i + n < len(tokens) and tokens[i + n][0] != boundary:
                    continue
            expected[:, t] += q, q * begin, q * end
    ends, begins, lasts = _occurrences(p, ids, boundary)
    np.testing.assert_allclose([ends, ends * begins, ends * lasts], expected, atol=1e-12)
    spans = ctc_find(p, ids.tolist(), boundary=boundary, least=0.0)
    if all(span.probability < 1 for span in spans):  # a phrase may be in a text several times
        assert sum(span.probability for span in spans) == pytest.approx(ends.sum(), abs=1e-9)


def test_a_phrase_is_found_wherever_it_is_said():
    symbols = [3, 0, 1, 3, 2, 0, 1, 3, 3, 2, 1]
    p = np.full((len(symbols), V + 1), 0.001)
    p[range(len(symbols)), symbols] = 0.997
    first, second = sorted(ctc_find(p, [0, 1], boundary=2)[:2])
    assert (first.begin, first.end) == pytest.approx((1, 3), abs=0.1)
    assert (second.begin, second.end) == pytest.approx((5, 7), abs=0.1)
    assert min(first.probability, second.probability) > 0.95
    assert all(span.probability < 0.1 for span in ctc_find(p, [1, 0], boundary=2))


def test_nothing_is_aligned_with_nothing():
    assert ctc_align(np.zeros((0, V + 1)), []) == []
    assert ctc_find(np.zeros((0, V + 1)), [0]) == []
    with pytest.raises(OstinatoError, match="tokens is empty; expected a phrase"):
        ctc_find(np.zeros((2, V + 1)), [])
