"""Layers called in chunks, steps and loops over cells are one layer over time."""

import numpy as np
import pytest
import torch
from laws import random
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import ostinato
from ostinato.insight import gradient_flow
from ostinato.networks.tracing import recording, tracing

T, B, I, H = 9, 4, 3, 5
LENGTHS = torch.tensor([4, 9, 1, 6])
KINDS = ["RNN", "LSTM", "GRU"]
EACH = pytest.mark.parametrize("kind", KINDS)


def data(T=T):
    return random(B, T, I, seed=2), torch.arange(B) % 3


def state_of(hx):
    """The tensors of a state."""
    return list(hx) if isinstance(hx, tuple) else [hx]


def like(hx, tensors):
    """The tensors as a state of the same kind, made again by the user."""
    return tuple(tensors) if isinstance(hx, tuple) else tensors[0]


class Model(nn.Module):
    """A recurrent layer of PyTorch or its cells, and a linear output of the last state.

    What `run` does with them is given; it returns the last h, ``(B, features)``.
    """

    def __init__(self, kind, run, layers=1, bidirectional=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer = getattr(nn, kind)(I, H, layers, batch_first=True, bidirectional=bidirectional)
        make, self.cells = getattr(nn, f"{kind}Cell"), nn.ModuleList()
        for k in range(layers):
            for suffix in ("", "_reverse")[: 1 + bidirectional]:
                cell = make((1 + bidirectional) * H if k else I, H)
                for name, weight in cell.named_parameters():
                    weight.data.copy_(getattr(self.layer, f"{name}_l{k}{suffix}"))
                self.cells.append(cell)
        self.head = nn.Linear((1 + bidirectional) * H, 3)
        self.run = run
        self.double()

    def forward(self, x, lengths=None):
        return self.head(self.run(self, x, lengths))


def loss(model, x, y, lengths):
    return cross_entropy(model(x, lengths), y)


def once(model, x, lengths):
    """One call of the layer."""
    y, _ = model.layer(x)
    return y[:, -1]


def chunks(model, x, lengths, change=lambda t: t):
    hx = None
    for part in x.split(2, dim=1):
        y, hx = model.layer(part, hx)
        hx = like(hx, [change(t) for t in state_of(hx)])
    return y[:, -1]


def steps(model, x, lengths, change=lambda t: t):
    hx = None
    for x_t in x.unbind(1):
        hx = model.cells[0](x_t, hx)
        hx = like(hx, [change(t) for t in state_of(hx)])
    return state_of(hx)[0]


def flow_of(model, given=None, **more):
    return gradient_flow(model, given or data(), loss=loss, **more)


def assert_equal_flows(ours, theirs, fields=("h", "c", "jacobian", "largest")):
    for a, b in zip(ours, theirs, strict=True):
        for name in fields:
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            if x is not None:
                np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-12)


@EACH
@pytest.mark.parametrize(("run", "calls"), [(chunks, 5), (steps, 9)], ids=["chunks", "steps"])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t,
        lambda t: t.clone(),
        lambda t: torch.stack([*t.unbind(0)]),
        lambda t: t.contiguous().view(-1).view(t.shape),
        lambda t: torch.where(torch.ones_like(t) > 0, t, 0.0),
    ],
    ids=["as it is", "clone", "stack", "view", "where"],
)
def test_calls_that_carry_the_state_are_one_layer_over_time(kind, run, calls, change):
    whole = flow_of(Model(kind, once)).layers
    parts = flow_of(Model(kind, lambda *args: run(*args, change))).layers
    assert [(layer.calls, layer.sequences, layer.cut_at) for layer in parts] == [(calls, 1, None)]
    assert parts[0].name == ("cells.0" if run is steps else "layer.layer 0")
    assert_equal_flows(parts, whole)


@EACH
def test_the_gradient_of_a_cells_loop_is_that_of_a_loop_by_hand(kind):
    model, (x, y) = Model(kind, steps), data()
    kept, hx = [], None
    for x_t in x.unbind(1):
        # Copies: the gradient of c is that of what follows, without its own h.
        kept.append([t.clone() for t in state_of(model.cells[0](x_t, hx))])
        hx = tuple(kept[-1]) if kind == "LSTM" else kept[-1][0]
        for t in kept[-1]:
            t.retain_grad()
    cross_entropy(model.head(kept[-1][0]), y).backward()
    model.zero_grad()
    (layer,) = flow_of(model, (x, y)).layers
    for k, name in enumerate(["h", "c"][: len(kept[0])]):
        found = [tensors[k].grad for tensors in kept[::-1]]  # none at the last c
        wanted = [np.zeros(B) if g is None else g.norm(dim=-1).numpy() for g in found]
        np.testing.assert_allclose(getattr(layer, name), wanted, rtol=1e-6, atol=1e-12)


@EACH
@pytest.mark.parametrize("run", [chunks, steps], ids=["chunks", "steps"])
@pytest.mark.parametrize(
    "detach",
    [
        lambda t: t.detach(),
        lambda t: t.detach().clone(),
        lambda t: t.data.numpy(),
    ],
    ids=["detach", "clone", "numpy"],
)
def test_a_detached_state_is_the_same_layer_and_the_gradient_is_cut_there(kind, run, detach):
    seen = []

    def change(t):
        """Cut the state after four steps."""
        seen.append(t)
        states = 1 + (kind == "LSTM")
        after = 2 if run is chunks else 4
        return torch.as_tensor(detach(t)) if (len(seen) - 1) // states == after - 1 else t

    (layer,) = flow_of(Model(kind, lambda *args: run(*args, change))).layers
    (whole,) = flow_of(Model(kind, once)).layers
    assert (layer.sequences, layer.cut_at) == (1, 5)
    assert layer.cut_states == (("h", "c") if kind == "LSTM" else ("h",))
    np.testing.assert_allclose(layer.h[:5], whole.h[:5], rtol=1e-6)
    assert (layer.h[5:] == 0).all() and (layer.jacobian[5:] == 0).all()
    assert (whole.h[5:] > 0).all()


def test_a_detached_cell_state_alone_is_named():
    def run(model, x, lengths):
        h, c = torch.zeros(2, B, H).double()
        for x_t in x.unbind(1):
            h, c = model.cells[0](x_t, (h, c))
            c = c.detach()
        return h

    (layer,) = flow_of(Model("LSTM", run)).layers
    assert (layer.cut_at, layer.cut_states) == (1, ("c",))
    assert (layer.h[1:] > 0).all()


@EACH
def test_stacked_cells_are_each_a_layer(kind):
    def run(model, x, lengths):
        states = [None, None]
        for x_t in x.unbind(1):
            for k, cell in enumerate(model.cells):
                states[k] = cell(x_t, states[k])
                x_t = state_of(states[k])[0]
        return x_t

    found = flow_of(Model(kind, run, layers=2)).layers
    assert [layer.name for layer in found] == ["cells.0", "cells.1"]
    assert_equal_flows(found, flow_of(Model(kind, once, layers=2)).layers)


@EACH
def test_loops_in_both_directions_are_a_bidirectional_layer(kind):
    def whole(model, x, lengths):
        y, _ = model.layer(x)
        return torch.cat([y[:, -1, :H], y[:, 0, H:]], -1)

    def run(model, x, lengths):
        ends = []
        for cell, order in zip(model.cells, (range(T), reversed(range(T))), strict=True):
            hx = None
            for t in order:
                hx = cell(x[:, t], hx)
            ends.append(state_of(hx)[0])
        return torch.cat(ends, -1)

    found = flow_of(Model(kind, run, bidirectional=True)).layers
    assert [layer.name for layer in found] == ["cells.0", "cells.1 backward"]
    assert_equal_flows(found, flow_of(Model(kind, whole, bidirectional=True)).layers)


@EACH
def test_fresh_sequences_are_rows_of_one_layer(kind):
    """A siamese network: the layer reads two sequences, of unlike lengths."""

    def run(model, x, lengths):
        a, b = model.layer(x)[0][:, -1], model.layer(x[:, :5] + 1)[0][:, -1]
        return a + b

    def by_lengths(model, x, lengths):
        both = torch.cat([x, x + 1])
        ends = torch.tensor([T] * B + [5] * B)
        packed = pack_padded_sequence(both, ends, batch_first=True, enforce_sorted=False)
        h = state_of(model.layer(packed)[1])[0][-1]
        return h[:B] + h[B:]

    (found,) = flow_of(Model(kind, run)).layers
    assert (found.calls, found.sequences, found.h.shape) == (2, 2, (T, 2 * B))
    assert_equal_flows([found], flow_of(Model(kind, by_lengths)).layers)


def test_a_sequence_that_starts_in_another_has_steps_of_its_own():
    """Two answers to one question: the longer way is one sequence, the second answer another."""

    def run(model, x, lengths):
        _, hx = model.layer(x)
        ends = [model.layer(x[:, :n], hx)[0][:, -1] for n in (2, 3)]
        return ends[0] + ends[1]

    (found,) = flow_of(Model("GRU", run)).layers
    assert (found.calls, found.sequences) == (3, 2)
    assert np.isfinite(found.h).sum(0).tolist() == [T + 2] * B + [3] * B


def decoder(model, x, lengths, kept=None):
    """An attention decoder: its cell takes a context, concatenated with its own last output."""
    memory, _ = model.layer(x)
    h, c = memory[:, -1], torch.zeros(B, H).double()
    for _ in range(4):
        weights = (memory @ h[:, :, None]).softmax(1)
        context = (weights * memory).sum(1)
        h, c = model.decode(torch.cat([context, h], -1), (h, c))
        if kept is not None:
            h.retain_grad()
            kept.append(h)
    return h


def test_an_attention_decoder_is_one_layer_over_its_steps():
    model, kept, (x, y) = Model("LSTM", decoder), [], data()
    model.decode = nn.LSTMCell(2 * H, H).double()
    cross_entropy(model.head(decoder(model, x, None, kept)), y).backward()
    for given in ((x, y), (x, y, LENGTHS)):
        found = flow_of(model, given).layers
        assert [layer.name for layer in found] == ["layer.layer 0", "decode"]
        assert [layer.calls for layer in found] == [1, 4]
        wanted = [h.grad.norm(dim=-1).numpy() for h in kept[::-1]]
        np.testing.assert_allclose(found[1].h, wanted, rtol=1e-6, atol=1e-12)


# Rows of unequal length


def packed(model, x, lengths):
    order = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return state_of(model.layer(order)[1])[0][-1]


def padded(model, x, lengths):
    """Run to the padded end; take the output at each row's last step."""
    return model.layer(x)[0][torch.arange(B), lengths - 1]


def masked(model, x, lengths):
    """A loop over a cell in which ended rows keep their state."""
    zeros = torch.zeros(B, H).double()
    hx = (zeros, zeros) if isinstance(model.cells[0], nn.LSTMCell) else zeros
    for t, x_t in enumerate(x.unbind(1)):
        new = model.cells[0](x_t, hx)
        pairs = zip(state_of(new), state_of(hx), strict=True)
        running = (t < lengths)[:, None]
        hx = like(hx, [torch.where(running, n, o) for n, o in pairs])
    return state_of(hx)[0]


def shrinking(model, x, lengths):
    """A loop over a cell in which the batch holds the rows that still run, sorted."""
    order = lengths.argsort(descending=True)
    hx, ends, x = None, [], x[order]
    for t, x_t in enumerate(x.unbind(1)):
        rows = int((lengths > t).sum())
        hx = None if hx is None else like(hx, [h[:rows] for h in state_of(hx)])
        hx = model.cells[0](x_t[:rows], hx)
        last = int((lengths > t + 1).sum())
        ends.insert(0, state_of(hx)[0][last:rows])
    return torch.cat(ends)[order.argsort()]


@EACH
@pytest.mark.parametrize("run", [padded, masked], ids=["padded", "masked"])
def test_lags_count_from_the_last_true_step_of_each_row(kind, run):
    x, y = data()
    wanted = flow_of(Model(kind, packed), (x, y, LENGTHS)).layers
    found = flow_of(Model(kind, run), (x, y, LENGTHS)).layers
    assert np.isfinite(found[0].h).sum(0).tolist() == LENGTHS.tolist()
    assert found[0].padding == 0
    assert_equal_flows(found, wanted)


def test_of_a_batch_that_shrinks_each_row_has_its_own_steps():
    x, y = data()
    (wanted,) = flow_of(Model("GRU", packed), (x, y, LENGTHS)).layers
    (found,) = flow_of(Model("GRU", shrinking), (x, y, LENGTHS)).layers
    order = LENGTHS.argsort(descending=True)
    np.testing.assert_allclose(found.h, wanted.h[:, order], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.jacobian, wanted.jacobian[:, order], rtol=1e-6)


@EACH
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["even", "ragged"])
def test_packed_sequences_are_as_a_loop_over_each_row(kind, lengths):
    model, (x, y) = Model(kind, packed), data()
    ends = torch.full((B,), T) if lengths is None else lengths
    flow = flow_of(model, (x, y, ends))
    rows, kept = [], []
    for row, end in zip(x, ends.tolist(), strict=True):
        hx, own = None, []
        for x_t in row[:end]:
            hx = model.cells[0](x_t, hx)
            own.append(state_of(hx)[0])
            own[-1].retain_grad()
        rows.append(own[-1])
        kept.append(own)
    cross_entropy(model.head(torch.stack(rows)), y).backward()
    for k, own in enumerate(kept):
        wanted = [h.grad.norm().item() for h in own[::-1]]
        np.testing.assert_allclose(flow.layers[0].h[: len(own), k], wanted, rtol=1e-6)
        assert np.isnan(flow.layers[0].h[len(own) :, k]).all()


def test_a_model_that_reads_the_end_of_the_padding_is_told_by_its_share():
    x, y = data()
    (layer,) = flow_of(Model("GRU", once), (x, y, LENGTHS)).layers
    assert layer.padding > 0.1
    assert np.isfinite(layer.h).sum(0).tolist() == LENGTHS.tolist()
    assert flow_of(Model("GRU", once), (x, y)).layers[0].padding == 0


def test_a_backward_direction_that_reads_the_padding_first_counts_its_true_steps():
    def run(model, x, lengths):
        return torch.cat([model.layer(x)[0][:, 0, H:]] * 2, -1)

    x, y = data()
    found = flow_of(Model("GRU", run, bidirectional=True), (x, y, LENGTHS)).layers
    wanted = flow_of(Model("GRU", run, bidirectional=True), (x, y)).layers[1].h
    for row, end in enumerate(LENGTHS.tolist()):
        np.testing.assert_allclose(found[1].h[:end, row], wanted[:end, row], rtol=1e-9)
        assert np.isnan(found[1].h[end:, row]).all()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("tokens", [False, True])
def test_trailing_padding_is_told_when_lengths_are_not_given(batch_first, tokens):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, I, padding_idx=7)
            self.layer = nn.GRU(I, H, batch_first=batch_first)

        def forward(self, x):
            return self.layer(self.embed(x) if tokens else x)[0]

    x = torch.randint(6, (B, T)) if tokens else torch.randn(B, T, I)
    pad = torch.arange(T) >= LENGTHS[:, None]
    x[pad] = 7 if tokens else 0.0
    x = x if batch_first else x.transpose(0, 1)

    def measured(x, lengths=None):
        given = (x, None) if lengths is None else (x, None, lengths)
        flow = gradient_flow(Net(), given, loss=lambda m, x, y, n: m(x).sum(), jacobian=False)
        return flow.trailing

    assert measured(x) == pytest.approx(pad.double().mean().item())
    assert measured(x, LENGTHS) == 0
    assert measured(x * 0 + (1 if tokens else 0.5)) == 0


# Gates


@EACH
def test_gates_of_a_loop_over_a_cell_are_those_of_one_call(kind):
    x, _ = data()
    with torch.no_grad():
        for run in (chunks, steps):
            model = Model(kind, once)
            with tracing(model) as whole:
                model(x)
            model = Model(kind, run)
            with tracing(model) as parts:
                model(x)
            assert len(parts) == 1
            assert parts[0].ends.tolist() == [T] * B
            for a, b in zip(parts[0].trace, whole[0].trace, strict=True):
                assert (a is None) == (b is None)
                for t, u in zip(a or (), b or (), strict=True):
                    torch.testing.assert_close(t, u)


def test_gates_of_fresh_sequences_are_rows_of_one_layer():
    x, _ = data()
    layer = nn.GRU(I, H, batch_first=True).double()
    with torch.no_grad(), tracing(layer) as seen:
        y = layer(x)[0]
        z = layer(x[:2, :4] + 1)[0]
    (traced,) = seen
    assert traced.ends.tolist() == [T] * B + [4] * 2
    h = traced.trace.states.h.transpose(0, 1)
    torch.testing.assert_close(h[:B], y)
    torch.testing.assert_close(h[B:, :4], z)
    assert (h[B:, 4:] == 0).all()


@EACH
@pytest.mark.parametrize("unbatched", [False, True], ids=["batched", "unbatched"])
def test_cells_give_what_they_give_and_stay_as_they_are(kind, unbatched):
    cell = getattr(nn, f"{kind}Cell")(I, H)
    x = torch.randn(I) if unbatched else torch.randn(B, I)
    before = cell(x)
    attributes = set(vars(cell))
    with recording(cell) as tracks:
        during = cell(input=x, hx=cell(x))
    after = cell(x)
    assert type(during) is type(before)
    torch.testing.assert_close(during, cell(x, before), rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, state_of(after), state_of(before)))
    assert [(t.name, t.calls) for t in tracks] == [("layer 0", 2)]
    assert set(vars(cell)) == attributes
    assert not cell._forward_hooks and not cell._forward_pre_hooks


def test_a_layer_of_ours_step_by_step_is_one_sequence():
    layer = ostinato.LSTM(I, H, 2)
    with recording(layer) as tracks:
        state = None
        for x_t in torch.randn(T, B, I):
            _, state = layer.step(x_t, state)
    assert [(t.name, t.calls, len(t.states)) for t in tracks] == [
        ("layer 0", T, T), ("layer 1", T, T)
    ]  # fmt: skip


def test_a_subclass_and_normed_weights_are_served():
    class Own(nn.GRU):
        pass

    layer = weight_norm(Own(I, H, batch_first=True), "weight_hh_l0")
    x = torch.randn(B, T, I)
    before = layer(x)[0]
    with recording(layer) as tracks:
        torch.testing.assert_close(layer(x)[0], before)
    assert len(tracks) == 1


def test_a_network_under_no_grad_has_no_gradient_and_is_still_one_layer():
    def run(model, x, lengths):
        with torch.no_grad():
            return chunks(model, x, lengths)

    (layer,) = flow_of(Model("LSTM", run)).layers
    assert (layer.calls, layer.sequences) == (5, 1)
    assert (layer.h == 0).all() and (layer.c == 0).all()
    assert layer.cut_states == ("h", "c")


def test_lengths_of_a_loop_stay_with_a_packed_layer():
    """A packed sequence is unpacked by the user, and the outputs are taken at each row's end."""

    def run(model, x, lengths):
        order = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, n = pad_packed_sequence(model.layer(order)[0], batch_first=True)
        return y[torch.arange(B), n - 1]

    x, y = data()
    found = flow_of(Model("LSTM", run), (x, y, LENGTHS)).layers
    assert_equal_flows(found, flow_of(Model("LSTM", packed), (x, y, LENGTHS)).layers)
