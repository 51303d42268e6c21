"""Gradients by lag, layer and direction: against finite differences, and against a loop by hand."""

import math

import numpy as np
import pytest
import torch
from laws import random
from tolerances import assert_same
from torch import nn

from ostinato.errors import OstinatoError
from ostinato.insight import gradient_flow
from ostinato.insight.flow import growth_of
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.outputs import Output
from ostinato.networks.tracing import recording
from ostinato.recurrence.cells import ZoneoutCell
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Recurrent
from ostinato.recurrence.scan import scan

T, B, I, H = 6, 3, 2, 4
LAYERS = {
    "rnn": lambda **more: RNN(I, H, **more),
    "relu": lambda **more: RNN(I, H, nonlinearity="relu", **more),
    "lstm": lambda **more: LSTM(I, H, **more),
    "projected": lambda **more: LSTM(I, H, proj_size=2, **more),
    "gru": lambda **more: GRU(I, H, **more),
}
EACH = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
LENGTHS = pytest.mark.parametrize("lengths", [None, [6, 1, 3]], ids=["even", "ragged"])


def network(make, pooling="last", outputs=3, **more):
    torch.manual_seed(1)
    layer = make(batch_first=True, **more).double()
    output = Output(layer.output_size, outputs).double()
    return ManyToOne(nn.Identity(), layer, output, pooling).double()


def data(T=T, B=B, features=I):
    return random(B, T, features, seed=2), torch.arange(B) % 3


@EACH
def test_the_gradient_of_a_state_is_what_a_small_change_of_it_does(make):
    net = network(make)
    x, y = data()
    flow = gradient_flow(net, (x, y)).layers[0]
    layer = net.recurrent
    with torch.no_grad():
        for lag in range(T):
            _, state = layer(x[:, : T - lag])

            def loss(state, lag=lag):
                last = state
                if lag:
                    _, last = layer(x[:, T - lag :], state)
                h = last.h if hasattr(last, "h") else last
                return net.output.loss(net.output(h[0]), y).mean()

            tensors = list(state) if hasattr(state, "h") else [state]
            for part, found in zip(range(len(tensors)), (flow.h, flow.c), strict=False):
                wanted = torch.zeros_like(tensors[part])
                for index in np.ndindex(*wanted.shape):
                    moved = [[t.clone() for t in tensors] for _ in range(2)]
                    moved[0][part][index] += 1e-6
                    moved[1][part][index] -= 1e-6
                    ahead, behind = (
                        loss(type(state)(*m) if hasattr(state, "h") else m[0]) for m in moved
                    )
                    wanted[index] = (ahead - behind) / 2e-6
                np.testing.assert_allclose(found[lag], wanted[0].norm(dim=-1), rtol=1e-5, atol=1e-9)


@LENGTHS
@pytest.mark.parametrize("name", ["lstm", "gru", "relu"])
def test_two_layers_in_both_directions_are_as_by_hand(name, lengths):
    """By hand: `scan` with the states kept as the graph's nodes, each layer and direction apart."""
    net = network(LAYERS[name], num_layers=2, bidirectional=True, pooling="mean")
    x, y = data()
    flow = gradient_flow(net, (x, y) if lengths is None else (x, y, lengths), jacobian=False)
    layer, kept = net.recurrent, []
    steps = None if lengths is None else torch.tensor(lengths)
    v = x.transpose(0, 1)
    for k, cell in enumerate(layer.cells):
        outputs = []
        for d in range(2):
            states = []

            def observe(x_t, before, after, states=states):
                after.h.retain_grad()
                states.append(after)

            out, _ = scan(
                cell, layer.weights_of(2 * k + d), v, None, steps, reverse=d == 1, observe=observe
            )
            outputs.append(out)
            kept.append(states)
        v = torch.cat(outputs, -1)
    pooled = v.sum(0) / torch.tensor(lengths or [T] * B)[:, None]
    torch.autograd.backward(net.output.loss(net.output(pooled), y).mean())
    names = ["layer 0", "layer 0 backward", "layer 1", "layer 1 backward"]
    assert [found.name for found in flow.layers] == names
    for found, states in zip(flow.layers, kept, strict=True):
        for row in range(B):
            end = lengths[row] if lengths else T
            ours = found.h[:, row]
            assert np.isnan(ours[end:]).all()
            theirs = [states[end - 1 - lag].h.grad[row].norm().item() for lag in range(end)]
            np.testing.assert_allclose(ours[:end], theirs, rtol=1e-9)
            assert (ours[:end] > 0).all()


@EACH
@LENGTHS
def test_recording_changes_no_bit_and_leaves_no_trace(make, lengths):
    layer = make(num_layers=2, bidirectional=True, batch_first=True)
    x = random(B, T, I, seed=3, dtype=torch.float32)
    before = layer(x, lengths=lengths)
    with recording(layer) as tracks:
        during = layer(x, lengths=lengths)
    after = layer(x, lengths=lengths)
    for y, last in (during, after):
        assert torch.equal(y, before[0])
        theirs = before[1] if hasattr(last, "h") else [before[1]]
        assert all(map(torch.equal, last if hasattr(last, "h") else [last], theirs))
    assert len(tracks) == 4


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_layers_of_torch_are_recorded_with_the_same_dropout_and_stay_as_they_are(training):
    torch.manual_seed(0)
    layer = torch.nn.LSTM(3, 5, 2, batch_first=True, dropout=0.5).train(training)
    x = random(B, T, 3, seed=3, dtype=torch.float32)

    def run(*hx):
        torch.manual_seed(7)
        y, (h, c) = layer(x, *hx)
        return y, h, c, torch.rand(1)

    before, attributes = run(), set(vars(layer))
    with recording(layer) as tracks:
        during = run()
        assert len(tracks) == 2
        torch.testing.assert_close(run(before[1:3]), run(during[1:3]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(during, before, rtol=1e-5, atol=1e-6)
    assert torch.equal(during[3], before[3])
    assert all(map(torch.equal, run(), before))
    assert set(vars(layer)) == attributes
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_a_model_that_is_looked_at_stays_as_it_is():
    net = network(LAYERS["lstm"]).train()
    weights = {name: p.clone() for name, p in net.named_parameters()}
    state = torch.get_rng_state()
    gradient_flow(net, data())
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, p in net.named_parameters():
        assert p.grad is None
        assert torch.equal(p, weights[name])


@EACH
def test_a_jacobian_is_the_product_of_those_of_the_steps(make):
    net = network(make)
    x, y = data()
    flow = gradient_flow(net, (x, y)).layers[0]
    layer = net.recurrent
    (cell,), w = layer.cells, {k: v.detach() for k, v in layer.weights_of(0).items()}
    sizes = cell.state_sizes
    for row in range(B):
        state = torch.zeros(sum(sizes), dtype=torch.float64)
        products = []

        def step(s, t, row=row):
            parts = cell.state_type(*(p[None] for p in s.split(sizes)))
            return torch.cat([p[0] for p in cell.step(w, cell.project(w, x[row, t])[None], parts)])

        for t in range(T):
            products.append(torch.autograd.functional.jacobian(lambda s, t=t: step(s, t), state))
            state = step(state, t)
        whole = torch.eye(sum(sizes), dtype=torch.float64)[: sizes[0]]  # dh_T / d(state)_T
        for lag in range(T):
            blocks = whole.split(sizes, dim=1)
            gains = [math.sqrt(float((b**2).sum()) / sizes[0]) for b in blocks]
            tops = [float(torch.linalg.matrix_norm(b, 2)) for b in blocks]
            np.testing.assert_allclose(flow.jacobian[lag, row], max(gains), rtol=1e-9)
            np.testing.assert_allclose(flow.largest[lag, row], max(tops), rtol=1e-9)
            whole = whole @ products[T - 1 - lag]


def test_random_products_come_near_the_exact_jacobian(monkeypatch):
    net = network(LAYERS["gru"])
    exact = gradient_flow(net, data(T=4))
    monkeypatch.setattr("ostinato.insight.flow.EXACT_SIZE", 0)
    monkeypatch.setattr("ostinato.insight.flow.RANDOM_VECTORS", 2000)
    drawn = gradient_flow(net, data(T=4), seed=1)
    assert drawn.layers[0].largest is None
    np.testing.assert_allclose(drawn.layers[0].jacobian, exact.layers[0].jacobian, rtol=0.1)
    again = gradient_flow(net, data(T=4), seed=1)
    np.testing.assert_array_equal(again.layers[0].jacobian, drawn.layers[0].jacobian)


def linear(factor, T, dtype=torch.float32):
    """A network that multiplies its state by a factor at every step."""
    layer = RNN(1, 8, nonlinearity="identity", init="orthogonal", batch_first=True)
    with torch.no_grad():
        layer.weight_hh_l0 *= factor
    net = ManyToOne(nn.Identity(), layer, Output(8, 2)).to(dtype)
    return gradient_flow(net, (torch.randn(4, T, 1, dtype=dtype), torch.tensor([0, 1, 0, 1])))


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1])
def test_growth_is_the_factor_of_a_linear_network(factor):
    growth = linear(factor, 20, torch.float64).layers[0].growth()
    rounding = 1e-7  # the orthogonal matrix was drawn in float32
    assert abs(growth.factor - factor) < rounding
    assert growth.low - rounding <= factor <= growth.high + rounding
    if factor == 1:
        assert growth.half_life > 1e6
    else:
        half = math.log(0.5) / math.log(factor) if factor < 1 else math.inf
        assert growth.half_life == pytest.approx(half, rel=1e-6)


def test_the_interval_of_growth_holds_it_as_often_as_it_says():
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        slopes = -0.1 + 0.05 * rng.normal(size=8)
        curves = np.exp(slopes * np.arange(12)[:, None] + 0.02 * rng.normal(size=(12, 8)))
        growth = growth_of(curves)
        held += growth.low <= math.exp(-0.1) <= growth.high
    assert 0.91 <= held / 300 <= 0.99


def test_growth_of_next_to_nothing_is_not_known():
    assert math.isnan(growth_of(np.zeros((5, 2))).factor)
    assert math.isnan(growth_of(np.ones((2, 2))).factor)


def test_underflow_is_the_share_below_the_smallest_normal_number():
    T, flow = 80, linear(0.1, 80)
    norms = flow.layers[0].norms
    lost = sum(norm < 8**0.5 * 2 * torch.finfo(torch.float32).tiny for norm in norms[1:])
    assert 30 < lost < 60
    assert abs(flow.layers[0].underflow - lost / (T - 1)) < 0.05
    assert linear(0.9, 80).layers[0].underflow == 0


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_layers_of_torch_are_served_with_their_own_weights(kind):
    torch.manual_seed(3)

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = getattr(nn, kind)(I, H, 2, batch_first=True)
            self.head = nn.Linear(H, 3)

        def forward(self, x):
            y, _ = self.layer(x)
            return self.head(y[:, -1])

    mine, (x, y) = Mine().double(), data()

    def loss(model, x, y, lengths):
        return nn.functional.cross_entropy(model(x), y)

    flow = gradient_flow(mine, (x, y), loss=loss)
    assert [layer.name for layer in flow.layers] == ["layer.layer 0", "layer.layer 1"]
    ours = network(LAYERS[kind.lower()], num_layers=2)
    ours.recurrent.load_state_dict(mine.layer.state_dict())
    ours.output.linear.load_state_dict(mine.head.state_dict())
    theirs = gradient_flow(ours, (x, y))
    assert_same(
        [torch.from_numpy(layer.h) for layer in flow.layers],
        [torch.from_numpy(layer.h) for layer in theirs.layers],
    )
    assert "forward" not in vars(mine.layer)
    assert flow.weights["head.weight"] > 0


def test_of_a_network_that_answers_at_every_step_the_last_answer_counts():
    torch.manual_seed(0)
    net = ManyToMany(nn.Identity(), GRU(I, H, batch_first=True), Output(H, 3)).double()
    x = random(B, T, I, seed=4)
    y = torch.randint(3, (B, T))
    other = y.clone()
    other[:, :-1] = (y[:, :-1] + 1) % 3
    ours, theirs = (gradient_flow(net, (x, targets)).layers[0].h for targets in (y, other))
    np.testing.assert_array_equal(ours, theirs)


def test_a_cell_of_any_kind_and_frozen_weights_can_be_looked_at():
    layer = Recurrent(ZoneoutCell(LSTM(I, H).cells[0], 0.2), 2, batch_first=True)
    net = ManyToOne(nn.Identity(), layer, Output(H, 3)).double().requires_grad_(False)
    flow = gradient_flow(net, data())
    assert (flow.layers[0].norms > 0).all()
    assert flow.layers[0].c is not None
    assert flow.weights == {}
    document = flow.to_json()
    assert len(document["layers"]) == 2
    assert len(document["layers"][0]["gradient_by_lag"]) == T


def test_what_cannot_be_looked_at_is_refused():
    with pytest.raises(OstinatoError, match="no recurrent layer"):
        gradient_flow(nn.Linear(2, 3).double(), data(), loss=lambda m, x, y, n: m(x).sum())
    with pytest.raises(OstinatoError, match="pass a loss function"):
        gradient_flow(nn.Linear(2, 3), data())
    with pytest.raises(OstinatoError, match=r"expected tensors, \(x, y\)"):
        gradient_flow(network(LAYERS["gru"]), "no data")
    with pytest.raises(OstinatoError, match="expected a torch.nn.Module"):
        gradient_flow("no model", data())
