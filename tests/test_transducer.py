"""The RNN transducer: its likelihood by all alignments, its decoding by trying all texts."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from laws import random
from tolerances import assert_same
from torch import nn

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.transducer import GreedySearch, Lookahead, Transducer, TransducerStream
from ostinato.recurrence.dropin import GRU, LSTM

V, I = 2, 3


def network(stacked=1, lookahead=0, bidirectional=False, layer=GRU, dtype=torch.float64, **more):
    torch.manual_seed(0)
    encoder = layer(stacked * I, 4, batch_first=True, bidirectional=bidirectional, num_layers=2)
    made = Transducer(
        nn.Identity(), encoder, layer(3, 5, batch_first=True), V, 6, stacked, lookahead, **more
    )
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(random(*p.shape, seed=p.numel(), scale=0.7))
    return made.to(dtype).eval()


def share(net, encoded, text):
    """The probability of a text, by every alignment with the steps ``encoded (T, J)``."""
    T, U, total = len(encoded), len(text), 0.0
    predicted = [net.begin(1)]
    for token in text:
        predicted.append(net.predict(torch.tensor([token]), predicted[-1]))
    p = [[net.scores(e[None], after.vector).softmax(-1)[0] for after in predicted] for e in encoded]
    for chosen in combinations(range(T + U - 1), U):
        t = u = 0
        path = 1.0
        for i in range(T + U):
            if i in chosen:
                path, u = path * float(p[t][u][text[u]]), u + 1
            else:
                path, t = path * float(p[t][u][net.blank]), t + 1
        total += path
    return total


@pytest.mark.parametrize("stacked", [1, 2])
def test_the_loss_is_minus_the_log_of_all_alignments(stacked):
    net = network(stacked, lookahead=1)
    x = random(4, 5, I, seed=1)
    lengths, target_lengths = torch.tensor([5, 4, 2, 3]), torch.tensor([3, 0, 1, 2])
    y = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 1]])
    with torch.no_grad():
        encoded, _ = net(x, lengths=lengths)
        loss, _ = net.loss(x, y, lengths=lengths, target_lengths=target_lengths)
        likely = net.likelihoods(x, y, lengths=lengths, target_lengths=target_lengths)
        ends = net.steps(lengths).tolist()
        expected = [
            np.log(share(net, encoded[b, : ends[b]], y[b, : target_lengths[b]].tolist()))
            for b in range(4)
        ]
        of_one = net.likelihoods_of(encoded[0, : ends[0]], y, target_lengths)
        assert of_one[1].item() == pytest.approx(np.log(share(net, encoded[0, : ends[0]], [])))
    assert likely.tolist() == pytest.approx(expected, rel=1e-9)
    assert loss.item() == pytest.approx(-sum(expected) / 6)


def test_gradients_reach_every_weight_and_padding_none():
    net = network(2, lookahead=2, dropout=0.3)
    x, y = random(2, 6, I, seed=2), torch.tensor([[0, 1], [1, 0]])
    other = x.clone()
    other[1, 3:] = torch.nan
    lengths = {"lengths": torch.tensor([6, 3]), "target_lengths": torch.tensor([2, 1])}

    def gradients(x):
        loss, _ = net.loss(x, y, **lengths)
        return torch.autograd.grad(loss, list(net.parameters()))

    found = gradients(other)
    assert_same(found, gradients(x))
    assert all(g.any() for g in found)
    ours, _ = net(other, lengths=[6, 3])
    alone, _ = net(x[1:, :3])
    assert torch.equal(ours[1, :2], alone[0])


def test_rows_without_frames_take_no_part():
    net = network()
    x, y = random(2, 3, I, seed=3), torch.tensor([[0], [1]])
    loss, _ = net.loss(x, y, lengths=[3, 0], target_lengths=[1, 1])
    assert_same([2 * loss], [net.loss(x[:1], y[:1])[0]])
    torch.autograd.backward(loss)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("symbols", [1, 3])
def test_greedy_takes_the_likeliest_time_and_again(symbols):
    net = network(dtype=torch.float32)
    with torch.no_grad():
        net.output.bias[-1] -= 2.0  # otherwise it is mostly blanks
        net.embedding.weight *= 3  # what was written is to count
    x, lengths = random(6, 9, I, seed=4, dtype=torch.float32), torch.tensor([9, 0, 4, 1, 9, 7])
    with torch.no_grad():
        encoded, _ = net(x, lengths=lengths)
        found = net.greedy(encoded, lengths, symbols)
        for row, n in enumerate(lengths.tolist()):
            tokens, steps, after = [], [], net.begin(1)
            for t in range(n):
                for _ in range(symbols):
                    best = int(net.scores(encoded[row, t][None], after.vector).argmax())
                    if best == net.blank:
                        break
                    tokens.append(best)
                    steps.append(t)
                    after = net.predict(torch.tensor([best]), after)
            assert found[row] == (tokens, steps)
    assert max(map(len, (a.tokens for a in found))) > 3


@pytest.mark.parametrize("layer", [GRU, LSTM])
@pytest.mark.parametrize("lookahead", [0, 3])
def test_a_stream_in_any_chunks_has_the_bits_of_the_whole(layer, lookahead):
    net = network(2, lookahead, layer=layer, dtype=torch.float32)
    with torch.no_grad():
        net.output.bias[-1] -= 1.0
    x, rng = random(41, I, seed=5, dtype=torch.float32), np.random.default_rng(0)
    with torch.inference_mode():
        whole, _ = net(x[None])
    (written,) = net.greedy(whole)
    assert len(written.tokens) > 5
    for _ in range(5):
        stream, at, state, parts = TransducerStream(net), 0, None, []
        tokens, steps = [], []
        while at < 41:
            n = int(2 * rng.integers(0, 6))
            final = at + n >= 41
            with torch.inference_mode():
                if n:
                    e, state = net(x[None, at : at + n], state, final=final)
                    parts.append(e)
            found = stream.feed(x[at : at + n], final=final)
            tokens += found.tokens
            steps += found.steps
            at += n
        assert torch.equal(torch.cat(parts, 1), whole)
        assert (tokens, steps) == written


def test_what_is_held_back_comes_at_the_end():
    net = network(2, 3, dtype=torch.float32)
    x = random(20, I, seed=6, dtype=torch.float32)
    stream = TransducerStream(net)
    parts = [stream.feed(x), stream.feed(x[:0], final=True)]
    with torch.inference_mode():
        whole = net.greedy(net(x[None])[0])[0]
    assert [t for p in parts for t in p.tokens] == whole.tokens
    assert TransducerStream(net).feed(x[:0], final=True).tokens == []


def test_a_step_waits_for_its_lookahead_and_for_no_more():
    net, stacked, lookahead = network(2, 3), 2, 3
    x = random(1, 24, I, seed=7)
    before, _ = net(x)
    for step in (0, 4):
        seen = stacked * (step + 1 + lookahead)
        later, last = x.clone(), x.clone()
        later[:, seen:] += 1.0
        last[:, seen - 1] += 1.0
        assert torch.equal(net(later)[0][:, : step + 1], before[:, : step + 1])
        assert not torch.equal(net(last)[0][:, step], before[:, step])


def test_a_lookahead_is_a_sum_over_the_steps_that_follow():
    layer, h = Lookahead(4, 2), random(2, 7, 4, seed=8, dtype=torch.float32)
    assert torch.equal(layer(h), h[:, :5])
    with torch.no_grad():
        layer.weight.copy_(random(3, 4, seed=9, dtype=torch.float32))
    w = layer.weight
    expected = [[w[0] * r[t] + w[1] * r[t + 1] + w[2] * r[t + 2] for t in range(5)] for r in h]
    assert_same([layer(h)], [torch.stack([torch.stack(row) for row in expected])])


def test_a_wide_beam_finds_the_likeliest_of_all_texts():
    net = network()
    encoded, _ = net(random(1, 2, I, seed=10))
    with torch.no_grad():
        found = net.beam_search(encoded[0], 200, n_best=200, symbols=3)
        by_text = {tuple(h.tokens): h for h in found}  # up to six labels
        texts = [text for n in range(4) for text in product(range(V), repeat=n)]
        truth = {text: np.log(share(net, encoded[0], list(text))) for text in texts}
    for text, log_p in truth.items():
        assert by_text[text].log_p == pytest.approx(log_p)
    assert len(found) == len(by_text) == 127
    assert found[0].tokens == list(max(truth, key=truth.get))
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    (narrow,) = net.beam_search(encoded[0], 4)
    assert narrow.log_p <= by_text[tuple(narrow.tokens)].log_p + 1e-12


def test_a_language_model_is_weighed_in():
    net = network()
    encoded, _ = net(random(1, 4, I, seed=11))

    def only_ones(text):
        return np.array([-50.0, 0.0])

    found = net.beam_search(encoded[0], 8, n_best=8, language=only_ones, weight=2.0, bonus=0.5)
    assert set(found[0].tokens) <= {1}
    plain = {tuple(h.tokens): h for h in net.beam_search(encoded[0], 500, n_best=500)}
    for h in found:
        prior = 0.5 * len(h.tokens) - 100 * h.tokens.count(0)
        assert h.score == pytest.approx(h.log_p + prior)
        assert h.log_p <= plain[tuple(h.tokens)].log_p + 1e-9


def test_what_does_not_fit_is_refused():
    layer = GRU(3, 4, batch_first=True)
    both = GRU(3, 4, batch_first=True, bidirectional=True)
    with pytest.raises(OstinatoError, match="stacked=2; expected batch_first=True and an input"):
        Transducer(nn.Identity(), layer, layer, V, 4, 2)
    with pytest.raises(OstinatoError, match="prediction is GRU.*and one direction"):
        Transducer(nn.Identity(), layer, both, V, 4)
    with pytest.raises(OstinatoError, match="lookahead=2 with GRU.*expected 0 or more, and 0"):
        Transducer(nn.Identity(), both, layer, V, 4, lookahead=2)
    with pytest.raises(OstinatoError, match="reads in both directions and needs the future"):
        TransducerStream(network(bidirectional=True))
    with pytest.raises(OstinatoError, match="got 3 frames; expected a multiple of stacked=2"):
        TransducerStream(network(2)).feed(torch.zeros(3, I))
    with pytest.raises(OstinatoError, match="symbols=0; expected 1 or more"):
        GreedySearch(network(), symbols=0)
    with pytest.raises(OstinatoError, match="beam=0, symbols=3, weight=0.5; expected 1 or more"):
        network().beam_search(torch.zeros(3, 6), 0)
    with pytest.raises(ShapeError, match=r"Transducer.loss: targets are torch.int64 \(3,\)"):
        network().loss(random(3, 4, I, seed=1), torch.tensor([0, 1, 0]))
