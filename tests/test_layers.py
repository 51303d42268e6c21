"""Layers: what `torch.nn` computes, then depth, direction, lengths and dropout over any cell."""

import copy
import inspect
import io
import pickle
import re
import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from laws import CELLS, detached, leaves, random, with_gradients
from tolerances import TOLERANCES, assert_same
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence.backends import run, use_backend
from ostinato.recurrence.cells import (
    Cell,
    GRUCell,
    GRUState,
    HigherOrderCell,
    LSTMCell,
    LSTMState,
    RNNCell,
    RNNState,
)
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import (
    IdenticalLayersWarning,
    Options,
    Recurrent,
    backend,
    observing,
)
from ostinato.recurrence.scan import scan
from ostinato.recurrence.streams import Stream

I, H, T, B = 3, 4, 5, 4
KINDS = {
    "rnn-tanh": (RNN, nn.RNN, {}),
    "rnn-relu": (RNN, nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, nn.LSTM, {}),
    "lstm-projected": (LSTM, nn.LSTM, {"proj_size": 2}),
    "gru": (GRU, nn.GRU, {}),
}
KIND = pytest.mark.parametrize("kind", KINDS)
ONE_WAY_AND_TWO = pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two"])
BACKEND = pytest.mark.parametrize("path", ["reference", "auto"])
EVERY_BACKEND = pytest.mark.parametrize("path", ["reference", "compiled", "torch"])
PROJECTED = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
LENGTHS = {"sorted": [5, 4, 2, 1], "unsorted": [2, 5, 1, 4], "ties": [3, 5, 3, 5]}


def pair(kind, **more):
    """Our layer and PyTorch's, in float64, with the same weights."""
    ours, theirs, special = KINDS[kind]
    arguments = {"dtype": torch.float64} | special | more
    theirs = theirs(I, H, **arguments)
    with torch.no_grad():
        for k, weight in enumerate(theirs.parameters()):
            weight.copy_(random(*weight.shape, seed=200 + k, scale=0.6))
    ours = ours(I, H, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def hidden(layer, rows=B, seed=5):
    """A random state for a layer of `torch.nn`, no two entries equal."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    batch = () if rows is None else (rows,)

    def leaf(size, seed):
        return random(count, *batch, size, seed=seed).requires_grad_()

    h = leaf(layer.proj_size or layer.hidden_size, seed)
    return (h, leaf(layer.hidden_size, seed + 1)) if isinstance(layer, nn.LSTM | LSTM) else h


def values_and_gradients(layer, call, x, hx):
    """The tensors that the call returns, and the gradients of input, states and all weights."""
    return with_gradients(call(layer, x, hx), [x, *leaves(hx), *layer.parameters()])


def assert_as_torch(kind, call, x, path, rows=B, **more):
    ours, theirs = pair(kind, **more)
    hx = hidden(theirs, rows)
    with use_backend(path):
        left = values_and_gradients(ours, call, x, hx)
    assert_same(left, values_and_gradients(theirs, call, x, hx))


def data(*shape, seed=7):
    return random(*shape, seed=seed).requires_grad_()


# Drop-in for torch.nn.


@PROJECTED
@EVERY_BACKEND
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "biasless"])
@ONE_WAY_AND_TWO
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@KIND
def test_the_same_values_and_gradients(kind, num_layers, bidirectional, bias, path):
    more = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias}
    assert_as_torch(kind, lambda layer, x, hx: layer(x, hx), data(T, B, I), path, **more)


@PROJECTED
@EVERY_BACKEND
@ONE_WAY_AND_TWO
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@KIND
def test_the_same_layouts(kind, batch_first, bidirectional, path):
    more = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}
    call = lambda layer, x, hx: layer(x, hx)  # noqa: E731
    batch = data(B, T, I) if batch_first else data(T, B, I)
    assert_as_torch(kind, call, batch, path, **more)
    assert_as_torch(kind, call, data(T, I), path, rows=None, **more)


@BACKEND
@ONE_WAY_AND_TWO
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@pytest.mark.parametrize("order", LENGTHS)
@KIND
def test_the_same_for_packed_sequences(kind, order, batch_first, bidirectional, path):
    def call(layer, x, hx):
        packed = pack_padded_sequence(x, LENGTHS[order], batch_first, enforce_sorted=False)
        y, hx = layer(packed, hx)
        assert isinstance(y, PackedSequence)
        assert all(torch.equal(a, b) for a, b in zip(y[1:], packed[1:], strict=True))
        return y.data, hx

    more = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}
    x = data(B, T, I) if batch_first else data(T, B, I)
    assert_as_torch(kind, call, x, path, **more)


@BACKEND
@KIND
def test_the_same_for_sequences_packed_in_order(kind, path):
    def call(layer, x, hx):
        y, hx = layer(pack_padded_sequence(x, LENGTHS["sorted"]), hx)
        assert y.sorted_indices is None
        assert y.unsorted_indices is None
        return y.data, hx

    assert_as_torch(kind, call, data(T, B, I), path, num_layers=2)


@BACKEND
@ONE_WAY_AND_TWO
@pytest.mark.parametrize("order", LENGTHS)
@KIND
def test_lengths_are_what_packing_is(kind, order, bidirectional, path):
    def call(layer, x, hx):
        if isinstance(layer, Recurrent):
            return layer(x, hx, lengths=LENGTHS[order])
        y, hx = layer(pack_padded_sequence(x, LENGTHS[order], enforce_sorted=False), hx)
        return pad_packed_sequence(y)[0], hx

    more = {"num_layers": 2, "bidirectional": bidirectional}
    assert_as_torch(kind, call, data(T, B, I), path, **more)


@PROJECTED
@EVERY_BACKEND
@KIND
def test_the_state_starts_at_zero(kind, path):
    ours, theirs = pair(kind, num_layers=2, bidirectional=True)
    x = random(T, B, I, seed=7)
    with use_backend(path):
        assert_same(leaves(ours(x)), leaves(theirs(x)))
        assert_same(leaves(ours(x[:, 0])), leaves(theirs(x[:, 0])))


@KIND
def test_states_come_out_as_in_torch_but_with_names(kind):
    ours, theirs = pair(kind)
    for given in ({}, {"lengths": [T] * B}):
        hx = ours(random(T, B, I, seed=7), **given)[1]
        assert type(hx) is (LSTMState if isinstance(theirs, nn.LSTM) else torch.Tensor)


@ONE_WAY_AND_TWO
@KIND
def test_the_same_seed_draws_the_same_weights(kind, bidirectional):
    ours, theirs, special = KINDS[kind]
    arguments = special | {"num_layers": 3, "bidirectional": bidirectional}

    def draw(make):
        torch.manual_seed(3)
        layer = make(I, H, **arguments)
        first = copy.deepcopy(layer.state_dict())
        layer.reset_parameters()
        return first | {f"{name} again": w for name, w in layer.state_dict().items()}

    left, right = draw(ours), draw(theirs)
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in right)


@PROJECTED
@EVERY_BACKEND
@ONE_WAY_AND_TWO
@KIND
def test_the_same_seed_drops_the_same_elements(kind, bidirectional, path):
    ours, theirs = pair(kind, num_layers=3, bidirectional=bidirectional, dropout=0.5)
    x = random(T, B, I, seed=7)
    torch.manual_seed(3)
    right = leaves(theirs(x))
    torch.manual_seed(3)
    with use_backend(path):
        assert_same(leaves(ours(x)), right)
    assert (right[0] - theirs.eval()(x)[0]).abs().max() > 1e-2


@KIND
def test_it_is_an_rnnbase_with_the_attributes_of_torchs_layer(kind):
    ours, theirs = pair(kind, num_layers=2, bidirectional=True, dropout=0.25, batch_first=True)
    assert isinstance(ours, nn.RNNBase)
    names = [
        *["mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"],
        *["bidirectional", "proj_size", "_flat_weights_names", "_all_weights", "training"],
    ]
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert getattr(ours, "nonlinearity", None) == getattr(theirs, "nonlinearity", None)
    assert repr(ours) == repr(theirs)
    for left, right in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert_same(left, right)
    assert len(ours._flat_weights) == len(theirs._flat_weights)
    named = [getattr(ours, name) for name in ours._flat_weights_names]
    assert all(a is b for a, b in zip(ours._flat_weights, named, strict=True))


@KIND
def test_state_dicts_go_both_ways(kind):
    ours, theirs = pair(kind, num_layers=2)
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    x = random(T, B, I, seed=7)
    assert_same(leaves(theirs(x)), leaves(ours(x)))
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata


@pytest.mark.parametrize(
    "call",
    [
        lambda make: make(I, 0),
        lambda make: make(I, H, 0),
        lambda make: make(I, H, dropout=2),
        lambda make: make(I, H, dropout=True),
        lambda make: make(I, H, proj_size=H),
        lambda make: make(I, H, proj_size=-1),
        lambda make: make(I, H, bias=1) and None,
        lambda make: make(I, H)(torch.zeros(T, B, I + 1)),
        lambda make: make(I, H)(torch.zeros(T)),
        lambda make: make(I, H)(torch.zeros(T, B, I, 1)),
        lambda make: make(I, H)(torch.zeros(T, B, I), torch.zeros(1, B, H + 1)),
        lambda make: make(I, H)(torch.zeros(T, I), torch.zeros(1, B, H)),
        lambda make: make(I, H)(torch.zeros(T, B, I, dtype=torch.float64)),
        lambda make: make(I, H)(
            torch.zeros(T, B, I), (torch.zeros(1, B, H), torch.zeros(1, B + 1, H))
        ),
    ],
)
@BACKEND
@pytest.mark.parametrize("kind", ["rnn-tanh", "lstm", "gru"])
def test_mistakes_are_refused_in_pytorchs_own_words(kind, path, call):
    ours, theirs, _ = KINDS[kind]

    def outcome(make):
        try:
            call(make)
        except Exception as error:
            return type(error), str(error)

    right = outcome(theirs)
    with use_backend(path):
        left = outcome(ours)
    if right is None:
        assert left is None
    else:
        assert issubclass(left[0], right[0])
        assert left[1] == right[1]


# A module like any other.


VARIANTS = {
    **{kind: lambda kind=kind: pair(kind, num_layers=2)[0] for kind in KINDS},
    "gru-reset-before": lambda: GRU(I, H, 2, reset_after=False, dtype=torch.float64),
    "lstm-sizes": lambda: LSTM(I, [4, 6], dtype=torch.float64),
    "mixed": lambda: Recurrent([LSTMCell(I, 4), RNNCell(4, 5), GRUCell(5, 2)], dtype=torch.float64),
}
EACH = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@EACH
def test_a_copy_computes_the_same_and_is_apart(make, clone):
    layer = make()
    other = clone(layer)
    x = random(T, B, I, seed=7)
    before = leaves(layer(x))
    assert_same(leaves(other(x)), before)
    assert repr(other) == repr(layer)
    with torch.no_grad():
        other.weight_hh_l0 += 1
    assert_same(leaves(layer(x)), before)
    assert (leaves(other(x))[0] - before[0]).abs().max() > 1e-3


@EACH
def test_it_changes_its_dtype(make):
    layer = make()
    x = random(T, B, I, seed=7)
    before = leaves(layer(x, lengths=[5, 0, 2, 1]))
    narrow = leaves(layer.float()(x.float(), lengths=[5, 0, 2, 1]))
    assert_same(narrow, [tensor.float() for tensor in before])
    again = leaves(layer.double()(x, lengths=[5, 0, 2, 1]))
    assert all(tensor.dtype == torch.float64 for tensor in again)
    assert all(a is b for a, b in zip(layer._flat_weights, layer.parameters(), strict=True))


@EACH
def test_a_functional_call_uses_the_weights_that_it_is_given(make):
    layer = make()
    other = copy.deepcopy(layer)
    other.reset_parameters()
    x = random(T, B, I, seed=7)
    before, wanted = leaves(layer(x)), leaves(other(x))
    theirs = dict(other.named_parameters())
    assert_same(leaves(torch.func.functional_call(layer, theirs, (x,))), wanted)
    assert_same(leaves(layer(x)), before)


@pytest.mark.parametrize("given", [{}, {"lengths": [5, 0, 2, 1]}], ids=["even", "ragged"])
@EACH
def test_a_parametrized_weight_is_used_and_learns(make, given):
    layer = make()
    x = random(T, B, I, seed=7)
    before = leaves(layer(x, **given))
    parametrizations.weight_norm(layer, "weight_hh_l0")
    assert_same(leaves(layer(x, **given)), before)
    original = layer.parametrizations.weight_hh_l0.original0
    layer(x, **given)[0].sum().backward()
    assert original.grad.abs().max() > 1e-4
    with torch.no_grad():
        original *= 3
    scaled = leaves(layer(x, **given))
    assert (scaled[0] - before[0]).abs().max() > 1e-3
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert_same(leaves(layer(x, **given)), scaled)


# Depth and direction over any cell: stacks of scans.


def stacked(layer, x, states, lengths=None):
    """Hand-stacked scans; ``states`` holds for each layer the state of each direction."""
    out = []
    for k, cell in enumerate(layer.cells):
        outputs = []
        for suffix, state in zip(["", "_reverse"], states[k], strict=False):
            w = {name: getattr(layer, f"{name}_l{k}{suffix}") for name in cell.weight_shapes()}
            y, state = scan(cell, w, x, state, lengths, reverse=bool(suffix))
            outputs.append(y)
            out.append(state)
        x = torch.cat(outputs, dim=-1)
    return x, out


def states_of(layer, rows=B):
    """Random states, for each layer a list with one of each direction."""
    seeds = iter(range(30, 100))

    def leaf(size):
        return random(rows, size, seed=next(seeds)).requires_grad_()

    directions = range(2 if layer.bidirectional else 1)
    return [
        [cell.state_type(*(leaf(size) for size in cell.state_sizes)) for _ in directions]
        for cell in layer.cells
    ]


def joined(states):
    """The states of one layer as one named tuple ``(D, B, size)``."""
    return type(states[0])(*(torch.stack(parts) for parts in zip(*states, strict=True)))


def rows_of(hx):
    """The inverse: of the state of a whole stack the tensors of each layer and direction."""
    if isinstance(hx, torch.Tensor):
        return list(hx)
    if hasattr(hx, "_fields"):
        return list(zip(*hx, strict=True))
    return [row for state in hx for row in rows_of(state)]


STACKS = {
    "rnn-sizes-and-activations": lambda **m: RNN(
        I, [4, 5, 2], nonlinearity=["relu", "sigmoid", "identity"], **m
    ),
    "rnn-activations": lambda **m: RNN(I, 4, nonlinearity=("tanh", "sigmoid"), **m),
    "rnn-tanh-then-relu": lambda **m: RNN(I, 4, nonlinearity=("tanh", "relu"), **m),
    "lstm-sizes": lambda **m: LSTM(I, [4, 5], **m),
    "lstm-sizes-projected": lambda **m: LSTM(I, [4, 5], proj_size=2, **m),
    "gru-sizes-reset-before": lambda **m: GRU(I, (5, 4, 3), reset_after=False, **m),
    "mixed": lambda **m: Recurrent(
        [
            LSTMCell(I, 4, proj_size=3),
            RNNCell((2 if m.get("bidirectional") else 1) * 3, 5, activation="relu"),
            GRUCell((2 if m.get("bidirectional") else 1) * 5, 5, bias=False),
        ],
        **m,
    ),
    **{
        f"repeated-{name}": lambda cell=cell, **m: Recurrent(cell, 2, **m)
        for name, cell in CELLS.items()
    },
}


@pytest.mark.parametrize("lengths", [None, [5, 0, 2, 1]], ids=["even", "ragged"])
@ONE_WAY_AND_TWO
@pytest.mark.parametrize("make", STACKS.values(), ids=STACKS)
def test_a_stack_is_scans_one_above_the_other(make, bidirectional, lengths):
    layer = make(bidirectional=bidirectional, dtype=torch.float64)
    x, states = data(T, B, I), states_of(layer)
    per_layer = [joined(group) for group in states]
    even = len({(type(s), *(t.shape for t in s)) for s in per_layer}) == 1
    hx = per_layer
    if even:
        hx = type(per_layer[0])(*(torch.cat(parts) for parts in zip(*per_layer, strict=True)))
    y, last = layer(x, hx, lengths=lengths)
    given = None if lengths is None else torch.tensor(lengths)
    y_stacked, last_stacked = stacked(layer, x, states, given)
    assert y.shape == (T, B, layer.output_size)
    inputs = [x, *leaves(states), *layer.parameters()]
    ours = with_gradients((y, rows_of(last)), inputs)
    assert_same(ours, with_gradients((y_stacked, last_stacked), inputs))


@pytest.mark.parametrize("make", STACKS.values(), ids=STACKS)
def test_two_directions_are_two_scans_side_by_side(make):
    layer = make(bidirectional=True, dtype=torch.float64)
    cell = layer.cells[0]
    single = Recurrent([cell], bidirectional=True, dtype=torch.float64)
    x, lengths = random(T, B, I, seed=7), torch.tensor([5, 0, 2, 1])
    y, _ = single(x, lengths=lengths)
    there, back = (
        {name: getattr(single, f"{name}_l0{suffix}") for name in cell.weight_shapes()}
        for suffix in ("", "_reverse")
    )
    forward, _ = scan(cell, there, x, None, lengths)
    for row, n in enumerate(lengths.tolist()):
        backward, _ = scan(cell, back, x[:n, row : row + 1].flip(0))
        side_by_side = torch.cat([forward[:n, row : row + 1], backward.flip(0)], dim=-1)
        assert_same([y[:n, row : row + 1]], [side_by_side])


@pytest.mark.parametrize("given", [{}, {"lengths": [3, 0, 2, 1]}], ids=["even", "ragged"])
def test_layers_of_one_size_have_one_state_and_others_one_a_layer(given):
    x = torch.randn(T, B, I)
    for layer in (LSTM(I, [6, 6]), Recurrent(LSTMCell(I, 6), 2)):
        hx = layer(x, **given)[1]
        assert type(hx) is LSTMState
        assert hx.c.shape == (2, B, 6)
    hx = Recurrent([GRUCell(I, 6), RNNCell(6, 6)], bidirectional=False)(x, **given)[1]
    assert [type(s) for s in hx] == [GRUState, RNNState]
    first, second = LSTM(I, [6, 5], bidirectional=True)(x, **given)[1]
    assert (first.h.shape, second.c.shape) == ((2, B, 6), (2, B, 5))


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@pytest.mark.parametrize("make", STACKS.values(), ids=STACKS)
def test_what_comes_out_goes_in_again_and_steps_are_the_whole(make, batch_first):
    layer = make(batch_first=batch_first, dtype=torch.float64)
    x = random(T, B, I, seed=7)
    axis = 1 if batch_first else 0
    whole, last = layer(x.transpose(0, 1) if batch_first else x)
    outputs, hx = [], None
    for x_t in x:
        y_t, hx = layer.step(x_t, hx)
        outputs.append(y_t)
    assert_same([torch.stack(outputs, dim=axis), *leaves(hx)], [whole, *leaves(last)])


@BACKEND
@KIND
def test_steps_from_a_state_are_the_whole_in_values_and_gradients(kind, path):
    def by_steps(layer, x, hx):
        outputs = []
        for x_t in x:
            y_t, hx = layer.step(x_t, hx)
            outputs.append(y_t)
        return torch.stack(outputs), hx

    layer, theirs = pair(kind, num_layers=2)
    x, hx = data(T, B, I), hidden(theirs)
    with use_backend(path):
        left = values_and_gradients(layer, by_steps, x, hx)
    assert_same(left, values_and_gradients(theirs, lambda whole, x, hx: whole(x, hx), x, hx))


def test_the_same_input_after_another_history_gives_another_output():
    torch.manual_seed(0)
    for layer in (RNN(I, H), LSTM(I, H), GRU(I, H), GRU(I, H, reset_after=False)):
        x = random(T, 2, I, seed=7, dtype=torch.float32)
        x[1:, 1] = x[1:, 0]  # the rows differ in their first step alone
        y, _ = layer(x)
        assert (y[:, 0] - y[:, 1]).abs().amax(dim=-1).min() > 1e-4
        short, _ = layer(x[1:])
        assert torch.equal(short[:, 0], short[:, 1])


@BACKEND
@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf])
@pytest.mark.parametrize("make", STACKS.values(), ids=STACKS)
def test_nothing_in_the_padding_reaches_an_output_or_a_gradient(make, rubbish, path):
    layer = make(bidirectional=True, dtype=torch.float64)
    lengths = [5, 0, 2, 1]
    sides = []
    for filling in (0.0, rubbish):
        x = random(T, B, I, seed=7)
        for row, n in enumerate(lengths):
            x[n:, row] = filling
        x.requires_grad_()
        with use_backend(path):
            y, hx = layer(x, lengths=lengths)
        sides.append(with_gradients((y, hx), [x, *layer.parameters()]))
        assert all(not y[n:, row].any() for row, n in enumerate(lengths))
    assert all(torch.equal(a, b) for a, b in zip(*sides, strict=True))


def test_lengths_may_be_a_list_a_tensor_of_any_integers_or_of_one_row():
    layer = LSTM(I, H, batch_first=True)
    x = torch.randn(B, T, I)
    y, _ = layer(x, lengths=[5, 0, 2, 1])
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert torch.equal(layer(x, lengths=torch.tensor([5, 0, 2, 1], dtype=dtype))[0], y)
    single, hx = layer(x[2], lengths=[2])
    assert_same([single], [y[2]])
    assert hx.h.shape == (1, H)


# Initialisation.


@pytest.mark.parametrize(
    "make",
    [
        lambda init: LSTM(I, H, 2, bidirectional=True, init=init),
        lambda init: Recurrent(LSTMCell(I, H), 2, bidirectional=True, init=init),
    ],
)
def test_every_layer_and_direction_is_drawn_by_the_recipe(make):
    layer = make("orthogonal")
    for k in range(2):
        for suffix in ("", "_reverse"):
            for gate in getattr(layer, f"weight_hh_l{k}{suffix}").split(H):
                assert_same([gate @ gate.T], [torch.eye(H)])
            biases = [getattr(layer, f"bias_{name}_l{k}{suffix}") for name in ("ih", "hh")]
            assert sum(biases).tolist() == [0.0] * H + [1.0] * H + [0.0] * 2 * H
    assert not torch.equal(layer.weight_hh_l0, layer.weight_hh_l0_reverse)


def test_rnns_of_relus_start_from_the_identity():
    layer = RNN(I, [4, 5], nonlinearity="relu", init="identity")
    assert torch.equal(layer.weight_hh_l0, torch.eye(4))
    assert torch.equal(layer.weight_hh_l1, torch.eye(5))
    with pytest.raises(OstinatoError, match="LSTMCell: init='identity' is for RNNCell"):
        LSTM(I, H, init="identity")


# Dropout.


def transparent(layers=2, size=50, **more):
    """Layers that pass on what they are given: what comes out are the masks between them."""
    layer = Recurrent(RNNCell(size, size, bias=False, activation="identity"), layers, **more)
    with torch.no_grad():
        for k in range(layers):
            getattr(layer, f"weight_ih_l{k}").copy_(torch.eye(size))
            getattr(layer, f"weight_hh_l{k}").zero_()
    layer._identity_checked = True  # they are identical on purpose
    return layer


def masks(seed=0, **more):
    torch.manual_seed(seed)
    return transparent(**more)(torch.ones(6, 40, 50))[0].detach()


def assert_scaled_mask(mask, p):
    """Zeros with probability p within five deviations, and 1/(1-p) elsewhere."""
    kept = mask != 0
    assert_same([mask[kept]], [torch.full_like(mask[kept], 1 / (1 - p))])
    assert abs(1 - kept.double().mean() - p) < 5 * (p * (1 - p) / mask.numel()) ** 0.5


def test_dropout_is_drawn_anew_at_every_step_row_and_feature():
    mask = masks(dropout=0.25)
    assert_scaled_mask(mask, 0.25)
    assert not any(torch.equal(a, b) for a, b in pairwise(mask))
    assert len({tuple(row.tolist()) for row in mask[0]}) == 40


def test_the_variational_mask_stays_over_time_and_differs_between_rows_and_calls():
    mask = masks(variational_dropout=0.25)
    assert all(torch.equal(step, mask[0]) for step in mask)
    assert_scaled_mask(mask[0], 0.25)
    assert len({tuple(row.tolist()) for row in mask[0]}) == 40
    assert not torch.equal(masks(variational_dropout=0.25, seed=1)[0], mask[0])


def test_masks_fall_between_layers_only():
    alone = masks(layers=1, dropout=0.9, variational_dropout=0.9)
    assert torch.equal(alone, torch.ones(6, 40, 50))
    three = masks(layers=3, variational_dropout=0.5)[0]
    assert abs((three != 0).double().mean() - 0.25) < 0.05
    assert set(three.unique().tolist()) == {0.0, 4.0}


def test_a_variational_mask_multiplies_the_gradient_too():
    torch.manual_seed(0)
    layer = transparent(variational_dropout=0.5)
    x = torch.ones(6, 4, 50, requires_grad=True)
    y, _ = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def recurrent_matrices(p, training=True, T=2, size=40):
    """W_hh as given, and as used at every step, read off unit vectors: h_t = W_hh h_(t-1)."""
    layer = Recurrent(RNNCell(1, size, bias=False, activation="identity"), weight_dropout=p)
    layer = layer.double().train(training)
    state, used = torch.eye(size).double()[None], []
    y, _ = layer(torch.zeros(T, size, 1).double(), RNNState(state))
    before = state[0]
    for step in y:
        used.append(torch.linalg.lstsq(before, step).solution.T if used else step.T)
        before = step
    return layer, used


def test_weight_dropout_zeroes_recurrent_weights_for_the_whole_sequence():
    torch.manual_seed(0)
    layer, (first, second) = recurrent_matrices(0.25)
    assert_scaled_mask((first / layer.weight_hh_l0).detach(), 0.25)
    torch.testing.assert_close(second, first)  # not the table: a linear system was solved
    again = layer(torch.zeros(1, 40, 1).double(), RNNState(torch.eye(40).double()[None]))[0][0].T
    assert not torch.equal(again, first)


def test_weight_dropout_sends_the_gradient_to_the_raw_weights_it_kept():
    torch.manual_seed(0)
    layer, (first,) = recurrent_matrices(0.25, T=1)
    first.sum().backward()
    kept = first.detach() != 0
    assert_same([layer.weight_hh_l0.grad], [kept.double() / 0.75])


def test_weight_dropout_leaves_input_weights_and_the_stored_weights_alone():
    torch.manual_seed(0)
    layer = LSTM(I, H, weight_dropout=1.0, dtype=torch.float64)
    before = copy.deepcopy(layer.state_dict())
    x, hx = random(T, B, I, seed=7), hidden(layer)
    y, _ = layer(x, hx)
    assert all(torch.equal(before[name], w) for name, w in layer.state_dict().items())
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    assert_same([y], [layer.eval()(x, hx)[0]])


@BACKEND
@EACH
def test_in_evaluation_nothing_is_dropped(make, path):
    layer = make().eval()
    x = random(T, B, I, seed=7)
    before = leaves(layer(x))
    layer.dropout, layer.variational_dropout, layer.weight_dropout = 0.5, 0.5, 0.5
    with use_backend(path):
        assert_same(leaves(layer(x)), before)
        assert_same(leaves(layer(x, lengths=[T] * B)), before)
    layer.train()
    assert (leaves(layer(x))[0] - before[0]).abs().max() > 1e-3


@PROJECTED
@EVERY_BACKEND
@pytest.mark.parametrize("name", ["variational_dropout", "weight_dropout"])
@KIND
def test_what_only_we_drop_is_dropped_on_every_path(kind, name, path):
    layer, theirs = pair(kind, num_layers=2)
    setattr(layer, name, 0.5)
    x = random(T, B, I, seed=7)
    torch.manual_seed(0)
    with use_backend(path):
        fast = leaves(layer(x))
    torch.manual_seed(0)
    with use_backend("reference"):
        assert_same(fast, leaves(layer(x)))
    assert (fast[0] - theirs(x)[0]).abs().max() > 1e-3


# Identical layers.


def identical(layer):
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(layer, f"{name}_l2").copy_(getattr(layer, f"{name}_l1"))
    return layer


@pytest.mark.parametrize("given", [{}, {"lengths": [5, 0, 2, 1]}], ids=["even", "ragged"])
@pytest.mark.parametrize(
    "make", [lambda: LSTM(I, H, 3), lambda: Recurrent(GRUCell(I, H), 3)], ids=["lstm", "recurrent"]
)
def test_identical_layers_are_told_once_while_training(make, given):
    layer, x = identical(make()), torch.randn(T, B, I)
    layer.eval()(x, **given)
    layer.train()
    with pytest.warns(IdenticalLayersWarning, match="layers 1 and 2 start from identical") as told:
        layer(x, **given)
    assert len(told) == 1
    layer(x, **given)  # a second warning would be an error
    layer.reset_parameters()
    layer(x, **given)
    identical(layer).reset_parameters()
    layer(x, **given)


class Decay(Cell):
    """A cell without matrices: h_t = d h_(t-1) + x_t."""

    state_type = RNNState

    def weight_shapes(self):
        return {"decay": (self.hidden_size,)}

    def step(self, w, x_t, state):
        return RNNState(w["decay"] * state.h + x_t)


def test_layers_that_differ_are_not_reported():
    x = torch.randn(T, B, I)
    LSTM(I, I, 3, bidirectional=True)(x)
    RNN(I, I, 3, nonlinearity="relu", init="identity")(x)
    Recurrent(LSTMCell(I, I), 3, init="orthogonal")(x)
    Recurrent(Decay(I, I), 3)(x)  # nothing to compare
    almost = identical(LSTM(I, H, 3))
    with torch.no_grad():
        almost.weight_ih_l2[0, 0] += 1e-3
    almost(x)


# Mistakes.


def test_a_stream_has_no_future():
    for layer in (LSTM(I, H, bidirectional=True), Recurrent(GRUCell(I, H), bidirectional=True)):
        with pytest.raises(OstinatoError, match="a bidirectional layer needs the future"):
            layer.step(torch.randn(B, I))


def call(layer, *shape, dtype=torch.float32, **more):
    return lambda: layer(torch.zeros(shape, dtype=dtype), **more)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            lambda: Recurrent([LSTMCell(3, 4), GRUCell(5, 4)]),
            "Recurrent: GRUCell(input_size=5, hidden_size=4, bias=True, reset_after=True) follows "
            "LSTMCell(input_size=3, hidden_size=4, bias=True, proj_size=0); its input_size must "
            "be 4",
        ),
        (
            lambda: Recurrent([LSTMCell(3, 4), GRUCell(4, 4)], bidirectional=True),
            "its input_size must be 8",
        ),
        (lambda: Recurrent([]), "Recurrent: 0 cells, num_layers=1; expected at least one layer"),
        (lambda: Recurrent(LSTMCell(3, 4), 0), "Recurrent: 1 cells, num_layers=0; expected at"),
        (lambda: Recurrent([LSTMCell(3, 4)], 2), "Recurrent: 1 cells, num_layers=2; expected at"),
        (
            lambda: LSTM(3, [4, 5], 3),
            "LSTM: num_layers=3 and entries a layer: {'hidden_size': 2}; expected the same number",
        ),
        (
            lambda: RNN(3, [4, 5], nonlinearity=["tanh", "relu", "tanh"]),
            "RNN: num_layers=1 and entries a layer: {'hidden_size': 2, 'nonlinearity': 3}",
        ),
        (lambda: LSTM(3, []), "LSTM: num_layers=1 and entries a layer: {'hidden_size': 0}"),
        (
            lambda: RNN(3, 4, nonlinearity=["tanh", "gelu"]),
            "RNNCell: activation='gelu'; expected one of tanh, relu, sigmoid, identity",
        ),
        (
            lambda: GRU(3, 4, weight_dropout=1.5),
            "GRU: weight_dropout=1.5; expected a probability from 0 to 1",
        ),
        (
            lambda: GRU(3, 4, variational_dropout=-1),
            "GRU: variational_dropout=-1.0; expected a probability from 0 to 1",
        ),
        (
            call(LSTM(3, 4), 5, 2, 6, lengths=[1, 2]),
            "LSTM(3, 4): input has shape (5, 2, 6); expected (T, B, 3) or (T, 3): its last axis",
        ),
        (
            call(LSTM(3, 4, batch_first=True), 5, 2, 6, lengths=[1, 2]),
            "LSTM(3, 4, batch_first=True): input has shape (5, 2, 6); expected (B, T, 3) or (T, 3)",
        ),
        (
            call(LSTM(3, 4), 5, lengths=[1]),
            "LSTM(3, 4): input has shape (5,); expected (T, B, 3) or (T, 3)",
        ),
        (
            call(LSTM(3, 4), 5, 2, 3, lengths=[1]),
            "LSTM(3, 4): lengths is torch.int64 of shape (1,); expected whole numbers of shape "
            "(2,), one for each row",
        ),
        (
            call(LSTM(3, 4), 5, 2, 3, lengths=[1.0, 2.0]),
            "LSTM(3, 4): lengths is torch.float32 of shape (2,); expected whole numbers",
        ),
        (
            call(LSTM(3, 4), 5, 2, 3, lengths=torch.tensor([True, False])),
            "LSTM(3, 4): lengths is torch.bool of shape (2,); expected whole numbers",
        ),
        (
            call(LSTM(3, 4), 5, 2, 3, lengths=[6, 1]),
            "LSTM(3, 4): lengths run from 1 to 6; expected 0 to 5, the steps of the input",
        ),
        (
            call(LSTM(3, 4), 5, 2, 3, lengths=[-1, 1]),
            "LSTM(3, 4): lengths run from -1 to 1; expected 0 to 5",
        ),
        (
            call(LSTM(3, 4), 5, 2, 3, dtype=torch.float64, lengths=[1, 1]),
            "LSTM(3, 4): input is torch.float64, the weights are torch.float32; convert one of "
            "them: input.to(torch.float32)",
        ),
        (
            call(LSTM(3, 4, 2), 5, 2, 3, lengths=[1, 1], hx=[torch.zeros(2, 2, 4)]),
            "LSTM(3, 4, num_layers=2): hx has shapes [(2, 2, 4)]; expected [(2, 2, 4), (2, 2, 4)]",
        ),
        (
            call(GRU(3, 4), 5, 2, 3, lengths=[1, 1], hx=torch.zeros(1, 3, 4)),
            "GRU(3, 4): hx has shapes [(1, 3, 4)]; expected [(1, 2, 4)]",
        ),
        (
            call(GRU(3, [4, 5]), 5, 2, 3, hx=[torch.zeros(1, 2, 4)]),
            "GRU(3, (4, 5), num_layers=2): hx has 1 entries; expected one state a layer, 2",
        ),
        (
            lambda: LSTM(3, 4)(pack_padded_sequence(torch.zeros(5, 2, 3), [5, 1]), lengths=[5, 1]),
            "LSTM(3, 4): a PackedSequence has its own lengths; leave lengths out",
        ),
    ],
)
def test_errors_name_the_call_what_came_and_what_was_wanted(mistake, message):
    with pytest.raises(OstinatoError, match=re.escape(message)):
        mistake()


NO_TENSORS = {
    "None": lambda: None,
    "a list": lambda: [[1.0] * I],
    "an array": lambda: np.zeros((T, B, I), np.float32),
    "sparse": lambda: torch.zeros(T, B, I).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(T, I)] * B),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("given", NO_TENSORS.values(), ids=NO_TENSORS)
@pytest.mark.parametrize("make", [LSTM, GRU, lambda *a: Recurrent(LSTMCell(*a))])
def test_what_is_no_dense_tensor_is_refused_by_name(make, given):
    layer, x = make(I, H), torch.zeros(T, B, I)
    with pytest.raises(OstinatoError, match=r": input is a .*; expected a dense tensor"):
        layer(given())
    with pytest.raises(OstinatoError, match=r": x_t is a .*; expected a dense tensor"):
        layer.step(given())
    for hx in ((given(), given()), [given()]):
        if given() is not None:
            with pytest.raises(OstinatoError, match=r": hx\[0\] is a .*; expected a dense tensor"):
                layer(x, hx)
    with pytest.raises(OstinatoError, match=r": hx\[0\] is a NoneType; expected a dense tensor"):
        layer(x, (None, None))
    if given() is not None:
        with pytest.raises(OstinatoError, match=r"lengths|rows"):
            layer(x, lengths=given())


@pytest.mark.parametrize("sizes", [[2, 9], [1, 2, 3], [3, -3], [], [5, 5]])
@pytest.mark.parametrize("make", [LSTM, lambda *a: Recurrent(LSTMCell(*a))])
def test_a_packed_sequence_that_is_none_is_refused(make, sizes):
    packed = PackedSequence(torch.zeros(6, I), torch.tensor(sizes, dtype=torch.int64))
    with pytest.raises(OstinatoError, match="PackedSequence with batch_sizes"):
        make(I, H)(packed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [LSTM, lambda *a: Recurrent(LSTMCell(*a))])
def test_scripting_is_refused_at_once(make):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make(I, H)

        def forward(self, x):
            return self.layer(x)[0]

    model = Model()
    for module in (model, model.layer):
        with pytest.raises(OstinatoError, match=r"torch\.jit\.script cannot .*torch\.export"):
            torch.jit.script(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize:UserWarning")
def test_pytorchs_quantization_says_that_it_leaves_our_layers():
    model = nn.Sequential(nn.Linear(I, I), LSTM(I, H))
    with pytest.warns(UserWarning, match=r"LSTM\(.*\): torch\.ao\.quantization leaves it"):
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear, nn.LSTM})


# Which path serves.


def test_backend_tells_which_path_a_call_takes():
    x = torch.randn(T, B, I)
    packed = pack_padded_sequence(x, [5, 4, 2, 1])
    lstm, before = LSTM(I, H, 2), GRU(I, H, reset_after=False)
    for layer in (lstm, before, LSTM(I, [4, 5]), Recurrent(LSTMCell(I, H)), RNN(I, H)):
        assert backend(layer, x) == backend(layer, packed) == "compiled"
        assert backend(layer, x, lengths=[5, 4, 2, 1]) == "compiled"
    assert backend(LSTM(I, H, batch_first=True), torch.randn(B, 0, I)) == "compiled"
    with use_backend("reference"):
        assert backend(lstm, x) == backend(lstm, packed) == "reference"
    with use_backend("torch"):
        assert backend(lstm, x) == backend(lstm, packed) == "torch"
        for layer, given, more in [
            (lstm, x, {"lengths": [5, 4, 2, 1]}),
            (LSTM(I, [4, 5]), packed, {}),  # layer by layer, and PyTorch's packs the whole alone
            (Recurrent(LSTMCell(I, H)), packed, {}),
            (before, x, {}),
        ]:
            with pytest.raises(OstinatoError, match="no fused operator"):
                backend(layer, given, **more)
        assert backend(LSTM(I, [4, 5]), x) == backend(Recurrent(LSTMCell(I, H)), x) == "torch"
    half = torch.randn(T, B, I, dtype=torch.bfloat16)
    assert backend(lstm, half) == "torch"
    assert backend(lstm, half, lengths=[5, 4, 2, 1]) == backend(before, half) == "reference"


@PROJECTED
@pytest.mark.parametrize("given", [{}, {"lengths": [5, 0, 2, 1]}], ids=["even", "ragged"])
@pytest.mark.parametrize("make", (VARIANTS | STACKS).values(), ids=VARIANTS | STACKS)
def test_where_the_core_cannot_serve_pytorchs_layer_serves_no_more_than_it_can(make, given):
    layer = make().bfloat16()
    x = random(T, B, I, seed=7, dtype=torch.bfloat16)
    ours = leaves(layer(x, **given))
    with use_backend("reference"):
        assert_same(ours, leaves(layer(x, **given)))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@EACH
def test_every_float_dtype_works_in_the_reference(make, dtype):
    layer = make().to(dtype)
    x = random(T, B, I, seed=7, dtype=dtype)
    with use_backend("reference"):
        ours = leaves(layer(x))
        theirs = leaves(layer.double()(x.double()))
    assert_same(ours, [tensor.to(dtype) for tensor in theirs])


def test_a_state_can_be_detached_between_windows():
    layer = LSTM(I, H)
    x = torch.randn(2 * T, B, I, requires_grad=True)
    _, state = layer(x[:T])
    y, _ = layer(x[T:], detached(state))
    y.sum().backward()
    assert not x.grad[:T].any()
    assert x.grad[T:].abs().amax(dim=-1).min() > 0


# PyTorch itself stays as it is.


def test_an_import_changes_no_setting_of_dynamo_and_does_not_import_it():
    code = """
import sys, torch
import ostinato
ostinato.LSTM(3, 4), ostinato.Recurrent
assert "torch._dynamo" not in sys.modules
import torch._dynamo
assert not torch._dynamo.config.allow_rnn
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: LSTM(I, H, 2),
        lambda: GRU(I, H),
        lambda: Recurrent([LSTMCell(I, 4), GRUCell(4, 5)]),
        lambda: Recurrent(HigherOrderCell(I, H)),
    ],
    ids=["lstm", "gru", "mixed", "higher-order"],
)
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # PyTorch before 2.13
def test_an_exported_layer_is_saved_with_states_in_and_out(make, strict):
    layer, x = make(), torch.randn(T, B, I)
    with torch.no_grad():
        _, hx = layer(x)
    file = io.BytesIO()
    torch.export.save(torch.export.export(layer, (x, hx), strict=strict), file)
    file.seek(0)
    y, last = torch.export.load(file).module()(2 * x, hx)
    expected = layer(2 * x, hx)
    assert type(last) is type(expected[1])
    assert_same([y, *leaves(last)], leaves(expected))
    torch._dynamo.reset()


@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
def test_the_signature_shows_every_option(make):
    parameters = inspect.signature(make).parameters
    assert set(Options.__annotations__) < set(parameters)
    shared = inspect.signature(Recurrent).parameters
    for name in Options.__annotations__:
        assert parameters[name] == shared[name]
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    keyword_only = [n for n, p in shared.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert keyword_only == list(Options.__annotations__)
    assert all(f"\n        {name}: " in make.__doc__ for name in ("num_layers", "dtype", "options"))


def test_a_layer_can_be_derived_from():
    class Own(LSTM):
        """An LSTM of another name."""

        def __init__(self, size, **more):
            super().__init__(size, size, **more)

    assert Own.__doc__ == "An LSTM of another name."
    assert list(inspect.signature(Own).parameters) == ["size", "more"]
    layer = Own(I, init="orthogonal", weight_dropout=0.25)
    assert (layer.init, layer.weight_dropout) == ("orthogonal", 0.25)
    assert layer(torch.randn(T, B, I))[0].shape == (T, B, I)


@pytest.mark.parametrize("path", ["auto", "torch"])
@pytest.mark.parametrize("lengths", [None, [T, 2, 0, 3]], ids=["even", "ragged"])
def test_an_observer_runs_each_layer_of_each_stack(lengths, path):
    torch.manual_seed(0)
    stacks = [GRU(I, H, 2, bidirectional=True), Recurrent([LSTMCell(2 * H, 4), RNNCell(4, 5)])]
    x, seen = torch.randn(T, B, I), []

    def observer(stack, number, call):
        seen.append((stack, number, call.cell, len(call.weights)))
        y, state = run(*call)
        return 2 * y, state

    def outputs(x, factor=1):
        for stack in stacks:
            for k, cell in enumerate(stack.cells):
                alone = Recurrent([cell], bidirectional=stack.bidirectional)
                for name, weight in stack.named_parameters():
                    if f"_l{k}" in name:
                        setattr(alone, name.replace(f"_l{k}", "_l0"), weight)
                x = factor * alone(x, lengths=lengths)[0]
        return x

    with use_backend("auto" if lengths else path):
        with observing(observer):
            y, _ = stacks[1](stacks[0](x, lengths=lengths)[0], lengths=lengths)
        assert_same([y], [outputs(x, 2)])
        assert len(seen) == 4
        y, _ = stacks[1](stacks[0](x, lengths=lengths)[0], lengths=lengths)
        assert_same([y], [outputs(x)])
    assert seen == [
        (stack, k, cell, 1 + stack.bidirectional)
        for stack in stacks
        for k, cell in enumerate(stack.cells)
    ]


# Gates and states of every step

GATED = {
    "lstm": lambda **more: LSTM(I, H, 2, bidirectional=True, **more),
    "lstm-projected": lambda **more: LSTM(I, H, proj_size=2, **more),
    "gru": lambda **more: GRU(I, H, bidirectional=True, **more),
    "gru-reset-before": lambda **more: GRU(I, H, 2, reset_after=False, **more),
    "rnn": lambda **more: RNN(I, [H, 2], nonlinearity=["relu", "tanh"], **more),
}


def by_hand(layer, x, hx, lengths):
    """Every gate and state by the cells' own equations, one row, step and direction at a time."""
    D, states = layer._directions, layer.split_state(hx, x, False, x)
    traces = []
    for k, cell in enumerate(layer.cells):
        outputs = []
        for d in range(D):
            w = layer.weights_of(k * D + d)
            names = [*(cell.gates_type._fields if cell.gates_type else ()), *states[k]._fields]
            sizes = [H] * (len(names) - len(cell.state_sizes)) + list(cell.state_sizes)
            seen = [x.new_zeros(*x.shape[:2], size) for size in sizes]
            for b in range(x.shape[1]):
                state = type(states[k])(*(s[d, b : b + 1] for s in states[k]))
                steps = range(int(lengths[b]))
                for t in reversed(steps) if d else steps:
                    x_t = cell.project(w, x[t, b : b + 1])
                    gates = cell.gates(w, x_t, state) if cell.gates_type else ()
                    state = cell.step(w, x_t, state)
                    for tensor, value in zip(seen, [*gates, *state], strict=True):
                        tensor[t, b] = value[0]
            traces.append(seen)
            outputs.append(seen[names.index("h")])
        x = torch.cat(outputs, dim=-1)
    return traces


@pytest.mark.parametrize("path", ["compiled", "reference"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["steps-first", "batch-first"])
@pytest.mark.parametrize("gradients", [False, True], ids=["values", "gradients"])
@pytest.mark.parametrize("name", GATED)
def test_gates_and_states_of_every_step_are_those_of_the_equations(
    name, gradients, batch_first, path
):
    layer = GATED[name](batch_first=batch_first).double()
    x = random(T, B, I, seed=1)
    lengths = torch.tensor([T, 2, 0, 3][:B])
    with torch.no_grad():
        _, hx = layer(random(*((B, 2) if batch_first else (2, B)), I, seed=2))
        wanted = by_hand(layer, x, layer_state(layer, hx), lengths)
    given = x.transpose(0, 1) if batch_first else x
    with torch.set_grad_enabled(gradients), use_backend(path):
        y, last, traces = layer(given, hx, lengths=lengths, return_gates=True)
        plain = layer(given, hx, lengths=lengths)
    assert_same([y, *leaves(last)], [plain[0], *leaves(plain[1])])
    found = [[*(trace.gates or ()), *trace.states] for trace in traces]
    assert not any(t.requires_grad for trace in found for t in trace)
    if batch_first:
        found = [[t.transpose(0, 1) for t in trace] for trace in found]
    assert_same([t for trace in found for t in trace], [t for trace in wanted for t in trace])


def layer_state(layer, hx):
    """The named tuple of a drop-in's state."""
    return hx if isinstance(hx, tuple) else layer.cells[0].state_type(hx)


def test_gates_that_were_asked_for_outlive_backward_and_change_no_gradient():
    layer = LSTM(I, H)
    x = random(T, B, I, seed=3, dtype=torch.float32)
    y, _, (trace,) = layer(x, return_gates=True)
    kept = [t.clone() for t in leaves(trace)]
    ours = torch.autograd.grad(y.sin().sum(), list(layer.parameters()))
    assert all(map(torch.equal, leaves(trace), kept))
    theirs = torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))
    assert all(map(torch.equal, ours, theirs))


def test_gates_of_unbatched_empty_and_packed_input_have_its_layout():
    layer = GRU(I, H)
    _, _, (trace,) = layer(torch.randn(T, I), return_gates=True)
    assert trace.gates.r.shape == trace.states.h.shape == (T, H)
    packed = pack_padded_sequence(torch.randn(T, 2, I), [T, 2])
    y, h, (trace,) = layer(packed, return_gates=True)
    assert isinstance(y, PackedSequence)
    assert h.shape == (1, 2, H)
    assert trace.gates.n.shape == (T, 2, H)
    assert not trace.gates.n[2:, 1].any()
    for path in ("compiled", "reference"):
        with use_backend(path):
            _, _, (trace,) = layer(torch.randn(0, 2, I), lengths=[0, 0], return_gates=True)
        assert trace.gates.z.shape == trace.states.h.shape == (0, 2, H)


# Tokens


@pytest.mark.parametrize("V", [3, 40], ids=["table", "lookup"])
@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["steps-first", "batch-first"])
@pytest.mark.parametrize("name", GATED)
def test_rows_of_a_table_are_what_looking_them_up_gives(name, batch_first, path, V):
    layer = GATED[name](batch_first=batch_first).double()
    table = random(V, I, seed=1).requires_grad_()
    tokens = torch.randint(V, (B, T) if batch_first else (T, B))
    lengths = torch.tensor([T, 2, 0, 3][:B])
    inputs = [table, *layer.parameters()]
    with use_backend(path):
        ours = with_gradients(layer(tokens, lengths=lengths, table=table), inputs)
        looked_up = torch.nn.functional.embedding(tokens, table)
        theirs = with_gradients(layer(looked_up, lengths=lengths), inputs)
    assert_same(ours, theirs)
    if path == "auto":
        values = len(ours) - len(inputs)
        assert all(map(torch.equal, ours[:values], theirs[:values]))


@pytest.mark.parametrize(
    ("tokens", "table"),
    [
        (torch.zeros(T, B), torch.zeros(2, I)),
        (torch.zeros(T, B, 1, dtype=torch.int64), torch.zeros(2, I)),
        (torch.zeros(T, B, dtype=torch.int64), torch.zeros(2, I + 1)),
        (torch.full((T, B), 2), torch.zeros(2, I)),
        (torch.full((T, B), -1), torch.zeros(2, I)),
        ([[0]], torch.zeros(2, I)),
    ],
)
def test_tokens_that_are_no_rows_of_the_table_are_refused(tokens, table):
    with pytest.raises(ShapeError, match="input (is|has).*; expected"):
        GRU(I, H)(tokens, table=table)


# Residual layers, and how long a memory is prepared for.


@pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=["even", "ragged"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two"])
def test_residual_layers_add_what_they_take(bidirectional, lengths):
    torch.manual_seed(0)
    layer = GRU(3, 4, 3, bidirectional=bidirectional, residual=True).double()
    x = random(5, 3, 3, seed=1)
    y, last = layer(x, lengths=lengths)
    directions = 1 + bidirectional
    wanted, states = x, []
    for k in range(3):
        alone = GRU(wanted.shape[-1], 4, bidirectional=bidirectional).double()
        for i in range(directions):
            for name, weight in layer.weights_of(k * directions + i).items():
                setattr(alone, f"{name}_l0{'_reverse' if i else ''}", weight)
        out, state = alone(wanted, lengths=lengths)
        wanted = out + wanted if k else out
        states.append(state)
    assert_same([y, last], [wanted, torch.cat(states)])
    with pytest.raises(OstinatoError, match="residual"):
        Stream(GRU(3, 4, 2, residual=True))
    if not bidirectional:
        y_t, state = layer.step(x[0])
        assert_same([y_t], [layer(x[:1])[0][0]])


def test_residual_layers_must_be_of_one_size():
    with pytest.raises(OstinatoError, match="takes 4 features and gives 5; give all layers one"):
        LSTM(3, [4, 5], residual=True)
    assert "residual=True" in repr(LSTM(3, 4, 2, residual=True))


def test_chrono_prepares_layers_for_so_many_steps():
    torch.manual_seed(0)
    layer = LSTM(3, 500, 2, init="chrono", init_steps=50)
    forget = torch.cat([layer.bias_ih_l0[500:1000], layer.bias_ih_l1[500:1000]]).exp()
    assert forget.min() >= 1
    assert 48 < forget.max() <= 49
    with pytest.raises(OstinatoError, match="more than 2 steps"):
        LSTM(3, 4, init="chrono", init_steps=2)


def _step(optimizer):
    def change(layer):
        layer(random(T, B, I, seed=9))[0].sum().backward()
        optimizer(layer.parameters()).step()

    return change


def _by_data(layer):
    layer.weight_hh_l0.data.mul_(1.5)


def _by_numpy(layer):
    layer.weight_hh_l0.detach().numpy()[0, 0] += 2


def _by_another_tensor(layer):
    layer.weight_ih_l0.data = torch.ones_like(layer.weight_ih_l0)


def _by_another_parameter(layer):
    layer.weight_ih_l0 = torch.nn.Parameter(torch.ones_like(layer.weight_ih_l0))


def _by_loading(layer):
    layer.load_state_dict({name: 2 * w for name, w in layer.state_dict().items()})


CHANGES = {
    "data": _by_data,
    "numpy": _by_numpy,
    "another-tensor": _by_another_tensor,
    "another-parameter": _by_another_parameter,
    "loading": _by_loading,
    "drawn": lambda layer: layer.reset_parameters(),
    **{
        f"{make.__name__}-{how}": _step(partial(make, lr=0.1, **{how: True}))
        for make in (torch.optim.SGD, torch.optim.Adam)
        for how in ("foreach", "fused")
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@EACH
def test_weights_that_were_changed_by_whatever_means_are_used(make, change):
    layer = make()
    x = random(T, B, I, seed=7)
    before = leaves(layer(x))
    change(layer)
    after = leaves(layer(x))
    other = make()
    other.load_state_dict({name: w.clone() for name, w in layer.state_dict().items()})
    assert all(map(torch.equal, after, leaves(other(x))))
    assert (after[0] - before[0]).abs().max() > 1e-3
