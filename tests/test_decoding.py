"""Searches against enumeration: of all texts, and of all alignments."""

import math
from itertools import groupby, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_seq2seq import LENGTHS, V, batch, network

from ostinato.errors import OstinatoError
from ostinato.networks.decoding import (
    Search,
    beam_search,
    ctc_beam,
    ctc_greedy,
    edit_distance,
    sample,
)


def likelihood(net, x, length, tokens):
    """log p of tokens and the end, given one source, a step at a time."""
    encoded, state = net.start(x[None, :length])
    token, total = torch.tensor([net.decoder.begin]), 0.0
    for wanted in [*tokens, net.decoder.end]:
        log_p, state, _ = net.step(token, encoded, state)
        total += float(log_p[0, wanted])
        token = torch.tensor([wanted])
    return total


@pytest.mark.parametrize("kind", ["multiplicative", "fed", "all", "plain"])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_keeps_everything_finds_the_best(kind, penalty):
    net = network(kind).eval()
    x, _ = batch()
    # Three tokens at most: all of them can be tried.
    how = Search(beam=400, length_penalty=penalty, n_best=3, max_length=3, max_factor=0.0)
    found = beam_search(net, x, LENGTHS, how)
    with torch.no_grad():
        for row in range(len(x)):
            every = {
                tokens: likelihood(net, x[row], int(LENGTHS[row]), tokens)
                for n in range(4)
                for tokens in product(range(V), repeat=n)
            }
            best = sorted(every, key=lambda t: -every[t] / how.norm(len(t) + 1))[:3]
            assert [tuple(h.tokens) for h in found[row]] == best
            for h in found[row]:
                assert h.log_p == pytest.approx(every[tuple(h.tokens)])
                assert h.score == pytest.approx(h.log_p / how.norm(len(h.tokens) + 1))


@pytest.mark.parametrize("kind", ["multiplicative", "all"])
def test_a_beam_of_one_takes_the_likeliest_token(kind):
    net = network(kind).eval()
    x, _ = batch()
    found = beam_search(net, x, LENGTHS, Search(beam=1, max_length=6, max_factor=0.0))
    for row in range(len(x)):
        encoded, state = net.start(x[row : row + 1, : int(LENGTHS[row])])
        token, tokens, weights = torch.tensor([net.decoder.begin]), [], []
        while len(tokens) < 6:
            log_p, state, attention = net.step(token, encoded, state)
            token = log_p.argmax(-1)
            if int(token) == net.decoder.end:
                break
            tokens.append(int(token))
            weights.append(attention[0].detach().numpy())
        (only,) = found[row]
        assert only.tokens == tokens
        if tokens:
            n = int(LENGTHS[row])
            np.testing.assert_allclose(only.attention[:, :n], np.stack(weights), atol=1e-6)


def test_a_source_is_searched_the_same_alone_and_in_a_batch():
    net = network("fed").eval()
    x, _ = batch()
    how = Search(beam=4, n_best=2, max_length=5)
    together = beam_search(net, x, LENGTHS, how)
    for row in range(len(x)):
        (alone,) = beam_search(net, x[row : row + 1, : int(LENGTHS[row])], None, how)
        assert [h.tokens for h in alone] == [h.tokens for h in together[row]]
        np.testing.assert_allclose([h.score for h in alone], [h.score for h in together[row]])


def test_wider_beams_find_no_worse():
    net = network("additive").eval()
    x, _ = batch(3)
    before = [-math.inf] * 3
    for beam in (1, 3, 30, 300):
        found = beam_search(
            net, x, LENGTHS, Search(beam=beam, length_penalty=0.0, max_length=3, max_factor=0.0)
        )
        scores = [h[0].log_p for h in found]
        assert all(a >= b - 1e-9 for a, b in zip(scores, before, strict=True))
        before = scores


def test_lengths_and_repetitions_are_bounded():
    net = network().eval()
    x, _ = batch()
    with torch.no_grad():
        net.decoder.output.bias[net.decoder.end] = -20.0  # never wants to end
    for found in beam_search(net, x, LENGTHS, Search(beam=3, max_length=4, max_factor=0.0)):
        assert len(found[0].tokens) == 4
    for found in beam_search(net, x, LENGTHS, Search(beam=3, max_length=9, no_repeat=2)):
        pairs = list(zip(found[0].tokens, found[0].tokens[1:], strict=False))
        assert len(pairs) == len(set(pairs)) > 3
    with torch.no_grad():
        net.decoder.output.bias[net.decoder.end] = 20.0  # wants to end at once
    for found in beam_search(net, x, LENGTHS, Search(beam=3, min_length=2)):
        assert len(found[0].tokens) == 2


def test_samples_come_as_often_as_they_are_likely():
    net = network().eval()
    x, _ = batch()
    row, n = x[:1, :5], 4000
    generator = torch.Generator().manual_seed(0)
    drawn = sample(net, row.expand(n, -1), None, Search(max_length=20), generator)
    counts = {}
    for h in drawn:
        counts[tuple(h.tokens)] = counts.get(tuple(h.tokens), 0) + 1
    with torch.no_grad():
        for tokens in [(), (0,), (1,), (2,), (3,), (4,)]:
            p = math.exp(likelihood(net, x[0], 5, tokens))
            spread = 4 * math.sqrt(p * (1 - p) / n)
            assert abs(counts.get(tokens, 0) / n - p) < spread + 1e-9
        for h in drawn[:20]:
            assert h.log_p == pytest.approx(likelihood(net, x[0], 5, h.tokens))


def alignments(log_p):
    """log p of every text, summed over all alignments."""
    T, K = log_p.shape
    texts = {}
    for path in product(range(K), repeat=T):
        text = tuple(token for token, _ in groupby(path) if token != K - 1)
        value = sum(log_p[t, token] for t, token in enumerate(path))
        texts[text] = np.logaddexp(texts.get(text, -np.inf), value)
    return texts


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 10_000))
def test_a_prefix_beam_sums_all_alignments(T, K, seed):
    rng = np.random.default_rng(seed)
    log_p = np.log(rng.dirichlet(np.ones(K + 1), size=T))
    every = alignments(log_p)
    best = sorted(every, key=lambda text: -every[text])[:3]
    found = ctc_beam(log_p, beam=500, n_best=3, floor=-1e9)
    assert [tuple(h.tokens) for h in found] == best
    for h in found:
        assert h.log_p == pytest.approx(every[tuple(h.tokens)])


def test_a_language_model_weighs_in():
    rng = np.random.default_rng(0)
    log_p = np.log(rng.dirichlet(np.ones(4), size=5))
    every = alignments(log_p)
    table = np.log(rng.dirichlet(np.ones(3), size=4))

    def language(text):
        return table[text[-1] if text else 3]

    def worth(text):
        general = sum(language(text[:i])[token] for i, token in enumerate(text))
        return every[text] + 0.7 * general + 0.3 * len(text)

    best = max(every, key=worth)
    (found,) = ctc_beam(log_p, 1000, language=language, weight=0.7, bonus=0.3, floor=-1e9)
    assert tuple(found.tokens) == best
    assert found.score == pytest.approx(worth(best))


def test_greedy_is_the_likeliest_alignment():
    rng = np.random.default_rng(1)
    for _ in range(20):
        log_p = np.log(rng.dirichlet(np.ones(4), size=6))
        path = log_p.argmax(1)
        wanted = [int(token) for token, _ in groupby(path) if token != 3]
        assert ctc_greedy(log_p).tokens == wanted
        assert ctc_greedy(log_p).log_p == pytest.approx(log_p.max(1).sum())
    assert ctc_greedy(np.zeros((0, 4))).tokens == []


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_is_a_metric_and_counts_single_changes(a, b):
    d = edit_distance(a, b)
    assert d == edit_distance(b, a)
    assert (d == 0) == (a == b)
    assert abs(len(a) - len(b)) <= d <= max(len(a), len(b))
    assert edit_distance(a + "x", b + "x") == d
    assert edit_distance(a + "x", b) <= d + 1


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(OstinatoError, match="beam=0; expected a whole number, 1 or more"):
        Search(beam=0)
    with pytest.raises(OstinatoError, match="n_best=4; expected at most beam=2"):
        Search(beam=2, n_best=4)
