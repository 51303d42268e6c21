"""What is computed again in backward is what was kept before."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import CELLS, VARIANTS
from layer_cases import WITHIN, apart, draw

from ostinato import GRU, LSTM, RNN, OstinatoError, Recurrent, use_backend

LAW = settings(max_examples=400, derandomize=True, deadline=None, database=None)
T, B, I, H = 23, 4, 3, 6
LAYERS = {
    "lstm": LSTM,
    "lstm-projected": lambda *sizes, **more: LSTM(*sizes, proj_size=2, **more),
    "gru": GRU,
    "gru-reset-before": lambda *sizes, **more: GRU(*sizes, reset_after=False, **more),
    "rnn": RNN,
}
EACH_LAYER = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def results(layer, x, lengths=None, **more):
    """Values, last states and gradients of everything, each weighted at random."""
    torch.manual_seed(3)  # of what is dropped
    leaf = more.get("table", x).detach().requires_grad_()
    more = {**more, "table": leaf} if "table" in more else more
    y, hx = layer(leaf if "table" not in more else x, lengths=lengths, **more)
    outputs = [y, *(hx if isinstance(hx, tuple) else [hx])]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in outputs]
    pairs = zip(outputs, weights, strict=True)  # an age has no gradient
    scored, weights = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
    found = torch.autograd.grad(scored, [leaf, *layer.parameters()], weights)
    return [*(o.detach() for o in outputs), *found]


def kept_numbers(layer, x):
    """How many numbers autograd keeps of a call, each tensor once, without input and weights."""
    own = {t.untyped_storage().data_ptr() for t in [x, *layer.parameters()]}
    seen = {}

    def pack(t):
        memory = t.untyped_storage()
        if memory.data_ptr() not in own:
            seen[memory.data_ptr()] = memory.nbytes() // t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(seen.values())


@LAW
@given(st.integers(0, 2**32 - 1), st.one_of(st.integers(1, 4), st.integers(1, 80)))
def test_the_core_computes_the_same_bits_again(seed, every):
    case = draw(seed)
    whole, again = case.on_the_core(), replace(case, checkpoint_every=every).on_the_core()
    assert len(whole) == len(again)
    for k, (a, b) in enumerate(zip(again, whole, strict=True)):
        assert torch.equal(a, b), f"[{k}] {tuple(a.shape)}"


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("name", CELLS | VARIANTS)
def test_every_cell_has_the_same_gradients(name, directions, ragged):
    torch.manual_seed(0)
    cell = (CELLS | VARIANTS)[name]
    layer = Recurrent(cell, bidirectional=directions == 2, dtype=torch.float64)
    x = torch.randn(T, B, cell.input_size, dtype=torch.float64)
    lengths = torch.tensor([T, 0, 11, 5]) if ragged else None
    if ragged:
        x[11:, 2] = torch.nan
    with use_backend("reference"):
        whole = results(layer, x, lengths)
        layer.checkpoint_every = 5
        again = results(layer, x, lengths)
    for ours, theirs in zip(again, whole, strict=True):
        assert apart(ours.nan_to_num(7.0), theirs.nan_to_num(7.0)) < WITHIN[torch.float64]


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", ["rnn", "lstm", "lstm-projected", "gru"])
def test_pytorchs_operators_have_the_same_gradients(kind, bidirectional):
    torch.manual_seed(0)
    layer = LAYERS[kind](I, H, num_layers=2, bidirectional=bidirectional, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    with use_backend("torch"):
        whole = results(layer, x)
        layer.checkpoint_every = 4
        again = results(layer, x)
        kept = kept_numbers(layer, x)
        layer.checkpoint_every = None
        assert kept < kept_numbers(layer, x)
    for ours, theirs in zip(again, whole, strict=True):
        assert apart(ours, theirs) < WITHIN[torch.float64]


@EACH_LAYER
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_rows_of_a_table_have_the_same_bits(make, ragged):
    torch.manual_seed(0)
    layer = make(I, H, num_layers=2, bidirectional=True)
    tokens, table = torch.randint(0, 9, (T, B)), torch.randn(9, I)
    lengths = [T, 0, 11, 5] if ragged else None
    whole = results(layer, tokens, lengths, table=table)
    for layer.checkpoint_every in (1, 5, T - 1, T, 2 * T):
        again = results(layer, tokens, lengths, table=table)
        assert all(map(torch.equal, again, whole))


@EACH_LAYER
def test_less_is_kept_and_an_lstm_keeps_c_alone(make):
    layer, x = make(I, H), torch.randn(T, B, I, requires_grad=True)
    P = layer.proj_size or H
    layer.checkpoint_every = 5
    states = T // 5 * B * H if isinstance(layer, LSTM) else 0
    assert kept_numbers(layer, x) == T * B * P + states


@pytest.mark.parametrize("make", [LSTM, GRU])
def test_a_kept_graph_gives_the_same_again_and_gradients_have_gradients(make):
    torch.manual_seed(0)
    layer = make(I, H, dtype=torch.float64, checkpoint_every=5)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    first = torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0]
    again = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
    assert apart(first, again.detach()) < WITHIN[torch.float64]
    (second,) = torch.autograd.grad(again.square().sum(), x)
    with use_backend("reference"):
        layer.checkpoint_every = None
        (g,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        (expected,) = torch.autograd.grad(g.square().sum(), x)
    assert apart(second, expected) < 1e-10


@pytest.mark.parametrize("make", [LSTM, GRU])
def test_a_graph_computes_again_too(make):
    torch._dynamo.reset()
    layer = make(I, H, num_layers=2, bidirectional=True, checkpoint_every=5)
    x = torch.randn(T, B, I)
    compiled = results(torch.compile(layer, fullgraph=True, backend="aot_eager"), x)
    assert all(map(torch.equal, compiled, results(layer, x)))
    torch._dynamo.reset()


def test_gates_may_be_read_all_the_same():
    torch.manual_seed(0)
    layer, x = LSTM(I, H), torch.randn(T, B, I)
    *_, whole = layer(x, return_gates=True)
    layer.checkpoint_every = 4
    *_, again = layer(x, return_gates=True)
    assert torch.equal(whole[0].gates.f, again[0].gates.f)


@pytest.mark.parametrize("every", [0, -1])
def test_a_number_of_steps_is_asked_for(every):
    with pytest.raises(OstinatoError, match=rf"LSTM: checkpoint_every={every}; expected"):
        LSTM(I, H, checkpoint_every=every)


@pytest.mark.parametrize("what", ["lengths", "tokens"])
def test_a_buffer_that_is_used_again_before_backward_changes_nothing(what):
    torch.manual_seed(0)
    layer, table = GRU(I, H), torch.randn(9, I, requires_grad=True)
    tokens, lengths = torch.randint(0, 9, (T, B)), torch.tensor([T, 9, 11, 5])
    found = []
    for change in (False, True):
        y, _ = layer(tokens, table=table, lengths=lengths)
        if change:
            {"lengths": lengths, "tokens": tokens}[what].numpy()[:] = 1
        found.append(torch.autograd.grad(y.square().sum(), [table, *layer.parameters()]))
    assert all(map(torch.equal, *found))
