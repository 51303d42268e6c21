"""Convolutions: as their definition has them, whatever stands beside a row or behind it."""

import numpy as np
import pytest
import torch
from laws import random, with_gradients
from tolerances import assert_same
from torch import nn

from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToOne
from ostinato.networks.convolution import BandConvolutions, Convolutions
from ostinato.networks.outputs import Output
from ostinato.recurrence.dropin import GRU, LSTM

I, C, H, K, T, B = 3, 6, 4, 5, 40, 5
LENGTHS = [T, 0, 17, 1, 3]
SHORT = {"kernels": (5, 3), "dilations": (1, 3)}
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["centred", "causal"])
POOLING = pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])


def convolutions(causal=False, **more):
    """Random weights, and statistics such as training leaves."""
    torch.manual_seed(0)
    made = Convolutions(I, C, causal=causal, **{**SHORT, **more}).double()
    for norm in made.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return made


def many_to_one(pooling, causal=False):
    beside = convolutions(causal)
    recurrent = LSTM(I, H, batch_first=True, bidirectional=not causal)
    output = Output(recurrent.output_size + beside.output_size, K)
    return ManyToOne(nn.Identity(), recurrent, output, pooling, convolutions=beside).double()


def sequences():
    return random(B, T, I, seed=1)


def spoilt(x):
    there = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    return torch.where(there[..., None], x, torch.nan)


def by_hand(made, x):
    """Features of one row ``(T, I)``, a step and a tap at a time."""
    h = x.numpy()
    for parts, norm in zip(made.layers, made.norms, strict=True):
        columns = []
        for part in parts:
            w, d = part.weight.detach().numpy(), part.dilation[0]
            k = w.shape[-1]
            y = np.zeros((len(h), len(w)))
            for t in range(len(h)):
                for j in range(k):
                    s = t + d * (j - (k - 1 if made.causal else k // 2))
                    if 0 <= s < len(h):
                        y[t] += w[:, :, j] @ h[s]
            columns.append(y)
        scale = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
        y = np.concatenate(columns, 1) - norm.running_mean.numpy()
        h = np.maximum(y * scale + norm.bias.detach().numpy(), 0)
    return torch.from_numpy(h)


@CAUSAL
def test_features_are_those_of_the_definition_for_each_row_alone(causal):
    made, x = convolutions(causal).eval(), sequences()
    found = made(spoilt(x), LENGTHS)
    for row, n in enumerate(LENGTHS):
        assert_same([found[row, :n]], [by_hand(made, x[row, :n])])
        assert not found[row, n:].any()
    assert_same([made(x)], [torch.stack([by_hand(made, row) for row in x])])
    assert made(x[:, :0], [0] * B).shape == (B, 0, C)


@CAUSAL
def test_padding_reaches_no_gradient_and_no_statistics(causal):
    found = []
    for x in (sequences(), spoilt(sequences())):
        made, x = convolutions(causal), x.requires_grad_()
        loss = made(x, LENGTHS).square().sum()
        found.append([*with_gradients(loss, [x, *made.parameters()]), *made.buffers()])
        assert not any(found[-1][1][row, n:].any() for row, n in enumerate(LENGTHS))
    assert_same(*found)


def test_statistics_are_those_of_all_true_steps_together():
    made, x = convolutions(), sequences()
    before = made.norms[0].running_mean.clone(), made.norms[0].running_var.clone()
    made(spoilt(x), LENGTHS)
    rows = [
        torch.cat([part(x[row : row + 1, :n].transpose(1, 2)) for part in made.layers[0]], 1)
        for row, n in enumerate(LENGTHS)
        if n
    ]
    steps = torch.cat(rows, -1)[0]  # (C, N)
    now = made.norms[0].running_mean, made.norms[0].running_var
    expected = [
        0.9 * b + 0.1 * s for b, s in zip(before, (steps.mean(1), steps.var(1)), strict=True)
    ]
    assert_same(now, expected)
    # Normalised by these, whether or not there is padding.
    whole = convolutions()
    assert_same([whole(x)], [convolutions()(x, [T] * B)])


@pytest.mark.parametrize("lengths", [[1, 0, 0, 0, 0], [0] * B])
def test_a_batch_of_a_step_or_none_is_normalised_by_earlier_ones(lengths):
    made, x = convolutions(), sequences()
    statistics = [buffer.clone() for buffer in made.buffers()]
    assert_same([made(x, lengths)], [made.eval()(x, lengths)])
    assert_same(made.buffers(), statistics)
    assert_same([made.train()(x[:1, :1])], [made.eval()(x[:1, :1])])


def test_a_causal_feature_depends_on_its_reach_and_no_more():
    made, t = convolutions(causal=True).eval(), 30
    (gradient,) = torch.autograd.grad(made(x := sequences().requires_grad_())[:, t].sum(), x)
    reached = gradient.abs().sum((0, 2)).nonzero()[:, 0].tolist()
    assert (reached[0], reached[-1]) == (t + 1 - made.reach, t)
    assert made.reach == 1 + 3 * (4 + 2)


# Beside recurrent layers.


@CAUSAL
@POOLING
def test_a_row_of_a_batch_gets_what_it_gets_alone(pooling, causal):
    net, x = many_to_one(pooling, causal).eval(), sequences()
    found, _ = net(spoilt(x), lengths=LENGTHS)
    for row, n in enumerate(LENGTHS):
        if n:
            assert_same([found[row]], [net(x[row : row + 1, :n])[0][0]])
    assert_same([found[1]], [net.output(torch.zeros(net.output.linear.in_features).double())])


@POOLING
def test_steps_are_described_by_state_and_features(pooling):
    net, x = many_to_one(pooling).eval(), sequences()
    h, _ = net.hidden(x, lengths=LENGTHS)
    beside = net.convolutions(x, LENGTHS)
    assert_same([h], [torch.cat([net.recurrent(x, lengths=LENGTHS)[0], beside], -1)])
    row, n = 2, LENGTHS[2]
    pooled = {"mean": h[row, :n].mean(0), "max": h[row, :n].amax(0)}
    pooled["last"] = torch.cat([h[row, n - 1, :H], h[row, 0, H : 2 * H], h[row, n - 1, 2 * H :]])
    if pooling in pooled:
        assert_same([net(x, lengths=LENGTHS)[0][row]], [net.output(pooled[pooling])])


@POOLING
def test_a_stream_is_the_whole_step_by_step(pooling):
    net, x, memory = many_to_one(pooling, causal=True).eval(), sequences(), None
    for t in range(T):
        y, memory = net.step(x[:, t], memory)
        assert_same([y], [net(x[:, : t + 1])[0]])
    assert memory.recent.shape[1] == net.convolutions.reach < T


def test_a_network_of_one_direction_takes_no_convolutions_that_see_the_future():
    with pytest.raises(OstinatoError, match=r"expected Convolutions\(causal=True\)"):
        ManyToOne(
            nn.Identity(),
            GRU(I, H, batch_first=True),
            Output(H + C, K),
            convolutions=convolutions(),
        )
    with pytest.raises(OstinatoError, match="and of the convolutions"):
        ManyToOne(
            nn.Identity(),
            GRU(I, H, batch_first=True),
            Output(H, K),
            convolutions=convolutions(causal=True),
        )
    with pytest.raises(OstinatoError, match="expected odd kernels, and dilations of 1 or more"):
        convolutions(kernels=(8, 5))


# Over steps and bands.

BANDS, CHANNELS = 10, (3, 2)


def band_convolutions():
    """Random weights, and statistics such as training leaves."""
    torch.manual_seed(0)
    made = BandConvolutions(BANDS, CHANNELS).double()
    for norm in made.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return made


def sounds():
    return random(B, T, BANDS, seed=2)


def bands_by_hand(made, x):
    """Features of one row ``(T, I)``, a step, a band and a weight at a time."""
    h = x.numpy()[None]  # (C, T, bands)
    for layer, norm in zip(made.layers, made.norms, strict=True):
        w = layer.weight.detach().numpy()
        scale = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
        steps, bands = h.shape[1:]
        y = np.zeros((len(w), steps, bands))
        for t, b in np.ndindex(steps, bands):
            for i, j in np.ndindex(3, 3):
                if 0 <= t + i - 1 < steps and 0 <= b + j - 1 < bands:
                    y[:, t, b] += w[:, :, i, j] @ h[:, t + i - 1, b + j - 1]
        y = (y - norm.running_mean.numpy()[:, None, None]) * scale[:, None, None]
        y = np.maximum(y + norm.bias.detach().numpy()[:, None, None], 0)
        h = np.stack([y[..., b : b + 2].max(-1) for b in range(0, bands, 2)], -1)
    return torch.from_numpy(h.transpose(1, 0, 2).reshape(len(x), made.output_size))


def test_bands_are_convolved_by_the_definition_for_each_row_alone():
    made, x = band_convolutions().eval(), sounds()
    assert made.output_size == 2 * 3  # of 10 bands 5, and of these 3
    found = made(spoilt(x), LENGTHS)
    for row, n in enumerate(LENGTHS):
        assert_same([found[row, :n]], [bands_by_hand(made, x[row, :n])])
        assert not found[row, n:].any()
    assert_same([made(x)], [torch.stack([bands_by_hand(made, row) for row in x])])
    assert made(x[:, :0], [0] * B).shape == (B, 0, made.output_size)


def test_padding_of_sound_reaches_no_gradient_and_no_statistics():
    found = []
    for x in (sounds(), spoilt(sounds())):
        made, x = band_convolutions(), x.requires_grad_()
        loss = made(x, LENGTHS).square().sum()
        found.append([*with_gradients(loss, [x, *made.parameters()]), *made.buffers()])
        assert not any(found[-1][1][row, n:].any() for row, n in enumerate(LENGTHS))
    assert_same(*found)


def test_a_sound_a_band_higher_is_as_one_that_is_not_at_the_edges():
    made, x = band_convolutions().eval(), torch.zeros(1, T, 40, dtype=torch.float64)
    x[..., 16:24] = random(1, T, 8, seed=3)
    rows = [made(torch.roll(x, n, -1)).unflatten(-1, (2, 10)) for n in (0, 4)]
    assert_same([rows[0][..., 2:8]], [rows[1][..., 3:9]])


@POOLING
def test_a_row_of_sound_gets_in_a_batch_what_it_gets_alone(pooling):
    front = band_convolutions()
    recurrent = LSTM(front.output_size, H, batch_first=True, bidirectional=True)
    net = ManyToOne(nn.Identity(), recurrent, Output(2 * H, K), pooling, front=front)
    net, x = net.double().eval(), sounds()
    assert net.features == BANDS
    found, _ = net(spoilt(x), lengths=LENGTHS)
    for row, n in enumerate(LENGTHS):
        if n:
            assert_same([found[row]], [net(x[row : row + 1, :n])[0][0]])


def test_a_front_is_for_layers_of_its_size_in_both_directions():
    front, output = band_convolutions(), Output(H, K)
    for settings, expected in (
        ({"bidirectional": False}, "see no later step, but the front does; expected front=None"),
        ({"bidirectional": True}, f"recurrent has {I} input features; expected 6, the output"),
    ):
        recurrent = GRU(I, H, batch_first=True, **settings)
        with pytest.raises(OstinatoError, match=expected):
            ManyToOne(nn.Identity(), recurrent, output, front=front)


def test_a_batch_of_sound_without_steps_is_zeros():
    made = band_convolutions()
    assert not made(sounds(), [0] * B).any()
    assert not made.eval()(sounds(), [0] * B).any()
