"""CTC: its likelihood against the sum over all alignments."""

import math
from itertools import groupby, product

import numpy as np
import pytest
import torch
from laws import random
from tolerances import assert_same
from torch import nn

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.ctc import CTC, CTCStream
from ostinato.networks.decoding import ctc_greedy
from ostinato.recurrence.dropin import GRU

V, I = 2, 3


def network(stacked=1, bidirectional=False, **more):
    torch.manual_seed(0)
    layer = GRU(stacked * I, 4, batch_first=True, bidirectional=bidirectional)
    return CTC(nn.Identity(), layer, V, stacked, **more).double()


@pytest.mark.parametrize("stacked", [1, 2])
def test_the_loss_is_minus_the_log_of_all_alignments(stacked):
    net = network(stacked).eval()
    x = random(3, 5, I, seed=1)
    lengths, target_lengths = torch.tensor([5, 4, 2]), torch.tensor([2, 0, 1])
    y = torch.tensor([[0, 1], [1, 1], [1, 0]])
    with torch.no_grad():
        scores, _ = net(x, lengths=lengths)
        loss, _ = net.loss(x, y, lengths=lengths, target_lengths=target_lengths)
        likely = net.likelihoods(x, y, lengths=lengths, target_lengths=target_lengths)
    total = 0.0
    for row in range(3):
        T = math.ceil(int(lengths[row]) / stacked)
        p = scores[row, :T].softmax(-1).numpy()
        wanted = y[row, : target_lengths[row]].tolist()
        share = sum(
            np.prod([p[t, token] for t, token in enumerate(path)])
            for path in product(range(V + 1), repeat=T)
            if [token for token, _ in groupby(path) if token != net.blank] == wanted
        )
        assert likely[row].item() == pytest.approx(math.log(share), rel=1e-9)
        total -= math.log(share)
    assert loss.item() == pytest.approx(total / 3)


def test_padding_reaches_nothing_and_frames_are_stacked():
    net = network(2, bidirectional=True)
    x = random(2, 5, I, seed=2)
    other = x.clone()
    other[1, 3:] = torch.nan
    lengths = torch.tensor([5, 3])
    ours, _ = net(x, lengths=lengths)
    theirs, _ = net(other, lengths=lengths)
    assert ours.shape == (2, 3, V + 1)
    assert_same([ours[0], ours[1, :2]], [theirs[0], theirs[1, :2]])
    alone, _ = net(x[1:, :3])
    assert_same([alone[0]], [ours[1, :2]])


def test_a_stream_of_frames_says_the_same():
    net = network(2).eval()
    x = random(1, 12, I, seed=3)
    whole, _ = net(x)
    state, parts = None, []
    for begin in range(0, 12, 4):
        y, state = net(x[:, begin : begin + 4], state)
        parts.append(y)
    assert_same([torch.cat(parts, 1)], [whole])


def test_a_stream_writes_what_the_whole_does_in_any_chunks():
    net = network(2).eval()
    with torch.no_grad():
        net.output.weight *= 20  # so that what it writes depends on what it hears
    x = random(81, I, seed=5, scale=3.0)
    with torch.no_grad():
        (whole,) = net.greedy(net(x[None])[0])
    assert len(whole.tokens) > 4
    assert whole.tokens == ctc_greedy(net(x[None])[0][0].detach().numpy()).tokens
    for n in (2, 4, 6):
        stream, tokens, steps = CTCStream(net), [], []
        for begin in range(0, 81, n):
            found = stream.feed(x[begin : begin + n], final=begin + n >= 81)
            tokens += found.tokens
            steps += found.steps
        assert (tokens, steps) == whole
    with pytest.raises(OstinatoError, match="CTCStream: the network reads in both directions"):
        CTCStream(network(bidirectional=True))


def test_likelihoods_of_texts_are_those_of_rows():
    net = network(2).eval()
    x, texts = random(1, 9, I, seed=6), torch.tensor([[0, 1], [1, 1], [1, 0]])
    with torch.no_grad():
        ours = net.likelihoods_of(net(x)[0][0], texts, torch.tensor([2, 2, 1]))
        theirs = net.likelihoods(x.expand(3, -1, -1), texts, target_lengths=torch.tensor([2, 2, 1]))
    assert_same([ours], [theirs])


def test_a_target_that_cannot_be_spelled_takes_no_part():
    net = network()
    x, y = random(2, 2, I, seed=4), torch.tensor([[0, 0], [1, 0]])
    loss, _ = net.loss(x, y)  # "00" needs three frames
    assert torch.isfinite(loss)
    torch.autograd.backward(loss)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.likelihoods(x, y)[0] == -torch.inf


def test_what_does_not_fit_is_refused():
    with pytest.raises(OstinatoError, match="stacked=2; expected batch_first=True and an input"):
        CTC(nn.Identity(), GRU(3, 4, batch_first=True), V, 2)
    with pytest.raises(ShapeError, match=r"CTC.loss: targets are torch.int64 \(3,\)"):
        network().loss(random(3, 4, I, seed=1), torch.tensor([0, 1, 0]))
