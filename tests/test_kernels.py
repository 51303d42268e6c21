"""Every path computes what the reference computes, and the caller can tell and choose which ran."""

import copy
import itertools
import logging
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import core_check
import numpy as np
import pytest
import torch
from laws import (
    BIASLESS,
    CELLS,
    COMPILED_VARIANTS,
    LINEAR,
    VARIANTS,
    Case,
    cotangents,
    equations_with_gradients,
    leaves,
    with_gradients,
)
from layer_cases import (
    KINDS,
    WITHIN,
    LayerCase,
    assert_core_is_the_reference,
    described,
    draw,
    threads,
    weighting,
)
from tolerances import HANGS, TOLERANCES, assert_same
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from ostinato import GRU, LSTM, RNN, Stream, _core, backend
from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence.backends import choose, compiled, run, use_backend
from ostinato.recurrence.cells import GRUCell, LSTMCell, RNNCell, cell_named
from ostinato.recurrence.layers import Recurrent
from ostinato.recurrence.scan import scan

TESTS = Path(__file__).parent
TIED = {name: VARIANTS[name] for name in COMPILED_VARIANTS}
ALL_CELLS = CELLS | BIASLESS | TIED | LINEAR
FUSED = ["rnn-tanh", "rnn-relu", "lstm", "lstm-projected", "gru"]
FUSED_CELLS = {n: c for n, c in ALL_CELLS.items() if n.removesuffix("-biasless") in FUSED}
FUSED_CELLS["lstm-coupled"] = TIED["lstm-coupled"]
EACH_CELL = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
RAGGED = torch.tensor([4, 0, 2])
LENGTHS = pytest.mark.parametrize("lengths", [None, RAGGED], ids=["even", "ragged"])
DIRECTIONS = pytest.mark.parametrize("directions", [1, 2], ids=["one-way", "two"])
LAYERS = {
    "rnn": lambda **more: RNN(3, 4, **more),
    "lstm-projected": lambda **more: LSTM(3, 4, proj_size=2, **more),
    "gru": lambda **more: GRU(3, 4, **more),
    "gru-reset-before": lambda **more: GRU(3, 4, reset_after=False, **more),
}
EACH_LAYER = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def call(cell, directions=1, lengths=None, dtype=torch.float64, seed=0):
    """A small call, of T=4 steps and B=3 rows, as in `laws`."""
    cases = [Case(cell, dtype=dtype, seed=seed + i) for i in range(directions)]
    states = zip(*(case.state for case in cases), strict=True)
    state = cell.state_type(*(torch.stack([s.detach() for s in each]) for each in states))
    for tensor in state:
        tensor.requires_grad_()
    return LayerCase(cell, [case.w for case in cases], cases[0].x, state, lengths)


def on(path, case):
    """Values and gradients of a call by this path."""
    with use_backend(path):
        y, last = run(case.cell, case.weights, case.x, case.state, case.lengths)
    assert type(last) is case.cell.state_type
    return with_gradients((y, last), case.inputs)


def all_equal(ours, theirs):
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


# The paths against the reference, and the core against the equations.


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("cell", FUSED_CELLS.values(), ids=FUSED_CELLS)
def test_pytorchs_operators_equal_the_reference_in_values_and_gradients(cell, dtype, directions):
    case = call(cell, directions, dtype=dtype)
    assert_same(on("torch", case), on("reference", case))


@pytest.mark.parametrize("path", ["auto", "compiled", "reference"])
@DIRECTIONS
@LENGTHS
@pytest.mark.parametrize("cell", ALL_CELLS.values(), ids=ALL_CELLS)
def test_a_path_equals_scan_in_each_direction(cell, lengths, directions, path):
    case = call(cell, directions, lengths)
    outputs, lasts = [], []
    for i, w in enumerate(case.weights):
        state = cell.state_type(*(s[i] for s in case.state))
        y, last = scan(cell, w, case.x, state, lengths, reverse=i == 1)
        outputs.append(y)
        lasts.append(last)
    theirs = [torch.cat(outputs, -1), *map(torch.stack, zip(*lasts, strict=True))]
    assert_same(on(path, case), with_gradients(theirs, case.inputs))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_core_serves_standard_cells_with_tied_weights_and_linear_recurrences(name):
    cell, served = VARIANTS[name], name in TIED or name in LINEAR
    assert choose(cell, torch.zeros(1)) == ("compiled" if served else "reference")
    lacks = compiled.lacks((cell,), torch.zeros(1))
    assert lacks == ("" if name in TIED else "it has no equations for this cell")


@LENGTHS
@pytest.mark.parametrize("name", TIED)
def test_the_core_shows_the_gates_of_tied_variants(name, lengths):
    case = call(TIED[name], 2, lengths)
    seen = {}
    for path in ("compiled", "reference"):
        seen[path] = []
        with use_backend(path):
            run(case.cell, case.weights, case.x, case.state, lengths, traces=seen[path])
        for trace in seen[path]:
            assert type(trace.gates) is case.cell.gates_type
            assert type(trace.states) is case.cell.state_type
    assert_same(leaves(tuple(seen["compiled"])), leaves(tuple(seen["reference"])))


@pytest.mark.parametrize("path", ["compiled", "reference"])
@LENGTHS
@pytest.mark.parametrize("cell", ALL_CELLS.values(), ids=ALL_CELLS)
def test_both_directions_equal_the_equations_in_values_and_gradients(cell, lengths, path):
    forward, back = Case(cell, seed=1), Case(cell, seed=2)
    back.x = forward.x
    state = cell.state_type(
        *(torch.stack(s).detach() for s in zip(forward.state, back.state, strict=True))
    )
    for tensor in state:
        tensor.requires_grad_()
    case = LayerCase(cell, [forward.w, back.w], forward.x, state, lengths)
    with use_backend(path):
        y, last = run(cell, case.weights, case.x, state, lengths)
    # The weighting of the outputs that the oracle uses, for each direction.
    gy, *g_last = cotangents([y[..., : cell.output_size], *(s[0] for s in last)])
    weights = [torch.cat([gy, gy], -1), *(torch.stack([g, g]) for g in g_last)]
    found = torch.autograd.grad([y, *last], case.inputs, weights, materialize_grads=True)
    n = 1 + len(state)
    steps = None if lengths is None else lengths.tolist()
    one = equations_with_gradients(forward, steps)
    other = equations_with_gradients(back, steps, reverse=True)
    values = [torch.cat([one[0], other[0]], -1)]
    values += map(torch.stack, zip(one[1:n], other[1:n], strict=True))
    assert_same([y, *last], values)
    (dx, *rest), (dx_back, *rest_back) = one[n:], other[n:]
    k = len(state)
    d_state = map(torch.stack, zip(rest[:k], rest_back[:k], strict=True))
    assert_same(found, [dx + dx_back, *d_state, *rest[k:], *rest_back[k:]])


@pytest.mark.parametrize("group", range(20))
def test_the_core_equals_the_reference_on_random_calls(group):
    for seed in range(100 * group, 100 * (group + 1)):
        assert_core_is_the_reference(draw(seed))


@pytest.mark.slow
@pytest.mark.parametrize("group", range(20, 120))
def test_the_core_equals_the_reference_on_many_more_random_calls(group):
    for seed in range(100 * group, 100 * (group + 1)):
        assert_core_is_the_reference(draw(seed))


def test_the_random_calls_are_of_every_kind():
    cases = [draw(seed) for seed in range(600)]
    kinds = {(type(c.cell), c.cell.bias, *vars(c.cell).values()) for c in cases}
    assert len(kinds) > 500
    for kind, options in KINDS.values():
        same = [c for c in cases if type(c.cell) is kind]
        assert len([c for c in same if vars(c.cell).items() >= options.items()]) > 5
    for property in (
        lambda c: c.x.dtype == torch.float32,
        lambda c: len(c.weights) == 2,
        lambda c: c.lengths is not None and (c.lengths == 0).any() and (c.lengths > 0).any(),
        lambda c: c.state is None,
        lambda c: 0 in c.x.shape,
        lambda c: c.x.shape[0] >= 40 and c.x.shape[1] > 2,
        lambda c: c.x.stride(0) < c.x.stride(1),
        lambda c: c.x.shape[2] > 1 and c.x.stride(2) > 1,
        lambda c: 0 < len(c.inputs) < 3,
        lambda c: not c.inputs,
        lambda c: not c.weights[0]["weight_hh"].is_contiguous(),
        lambda c: c.threads == 3,
    ):
        assert 10 < sum(map(bool, map(property, cases))) < 590


# Enough work for several threads, and every way of sharing it out: T, B, I, H, directions, threads.
SHARED = {
    "rows": (30, 24, 64, 96, 1, 3),
    "rows-and-directions": (30, 24, 64, 96, 2, 3),
    "more-threads-than-rows": (130, 2, 96, 100, 1, 4),
    "directions-alone": (130, 1, 96, 96, 2, 2),
    "units": (150, 1, 128, 128, 1, 3),
    "units-and-directions": (80, 1, 128, 144, 2, 4),
    "units-of-wide-weights": (12, 10, 40, 324, 1, 2),
    "units-and-rows": (6, 17, 40, 324, 1, 4),
}


def shared(kind, dtype, name, lengths=None):
    T, B, I, H, directions, n = SHARED[name]
    make, options = KINDS[kind]
    if "proj_size" in options:
        options = {"proj_size": H - 3}
    elif make is RNNCell:
        T *= 4  # a quarter of the work of an LSTM
        if name.startswith("units"):
            H = max(H, 4 * 70)  # with a share of the units, in blocks of four vectors, for each
            T //= 4
    cell = make(I, H, **options)
    generator = torch.Generator().manual_seed(T + B)

    def leaf(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()

    weights = [
        {n: leaf(*s, scale=s[-1] ** -0.5) for n, s in cell.weight_shapes().items()}
        for _ in range(directions)
    ]
    state = cell.state_type(*(leaf(directions, B, size) for size in cell.state_sizes))
    if lengths == "ragged":
        lengths = torch.randint(T // 2, T + 1, (B,), generator=generator)
    return LayerCase(cell, weights, leaf(T, B, I), state, lengths, threads=n)


@pytest.mark.parametrize("lengths", [None, "ragged"], ids=["even", "ragged"])
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("kind", ["rnn-relu", "lstm", "lstm-projected", "gru", "gru-reset-before"])
def test_several_threads_compute_the_reference(kind, name, lengths):
    case = shared(kind, torch.float32, name, lengths)
    assert_core_is_the_reference(case)
    alone = LayerCase(case.cell, case.weights, case.x, case.state, case.lengths, threads=1)
    assert all_equal(case.on_the_core(), alone.on_the_core())


@pytest.mark.parametrize("name", SHARED)
def test_several_threads_compute_the_reference_in_float64(name):
    assert_core_is_the_reference(shared("lstm", torch.float64, name))


def in_a_new_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{code}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the threads in /proc")
def test_the_core_has_as_many_threads_as_it_is_given_and_the_work_is_worth():
    done = in_a_new_process("""
import os
import torch
from test_kernels import SHARED, call, shared
from ostinato.recurrence.cells import GRUCell
from ostinato.recurrence.backends import run

def new_threads(case, n):
    torch.set_num_threads(n)
    before = set(os.listdir("/proc/self/task"))
    run(case.cell, case.weights, case.x, case.state)
    return len(set(os.listdir("/proc/self/task")) - before)

small, large = call(GRUCell(3, 4)), shared("lstm", torch.float32, "rows")
print(*(new_threads(case, n) for case, n in [(small, 3), (large, 1), (large, 3), (large, 3)]))
""")
    assert done.stdout.split() == ["0", "0", "2", "0"], done.stderr


def test_groups_of_threads_that_are_done_at_different_times_do_not_hang():
    done = in_a_new_process("""
import torch
from test_kernels import all_equal, shared

for name in ("units-and-rows", "units-and-directions"):
    case = shared("lstm", torch.float32, name, "ragged")
    first = case.on_the_core()
    assert all(all_equal(case.on_the_core(), first) for _ in range(200))
print("the same")
""")
    assert done.stdout == "the same\n", done.stderr


# Layouts in memory.


@EACH_CELL
@DIRECTIONS
def test_states_and_weights_may_be_views_and_have_gradients(cell, directions):
    case = call(cell, directions, RAGGED)
    turned = case.like(lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0))
    assert not turned.state.h.is_contiguous() or directions == 1
    assert not turned.weights[0]["weight_hh"].is_contiguous()
    assert all_equal(turned.on_the_core(), case.on_the_core())


def test_a_state_and_an_input_may_be_one_row_seen_many_times():
    case = call(LSTMCell(3, 4))
    seen = case.like(lambda t: t[:, :1].expand(t.shape) if t.dim() == 3 else t)
    theirs = case.like(lambda t: t[:, :1].expand(t.shape).clone() if t.dim() == 3 else t)
    assert seen.x.stride(1) == 0
    assert all_equal(seen.on_the_core(), theirs.on_the_core())


@pytest.mark.parametrize("B", [0, 2])
@pytest.mark.parametrize("T", [0, 3])
@EACH_CELL
def test_a_sum_of_all_outputs_can_be_differentiated_of_empty_calls_too(cell, T, B):
    case = call(cell, 2)
    x = torch.randn(T, B, cell.input_size, dtype=torch.float64, requires_grad=True)
    state = cell.state_type(*(s[:, :B].detach().requires_grad_() for s in case.state))
    y, last = run(cell, case.weights, x, state)
    sum(t.sum() for t in (y, *last)).backward()
    assert x.grad.shape == x.shape
    for tensor in state:
        assert tensor.grad.shape == tensor.shape
        if T == 0:
            assert torch.equal(tensor.grad, torch.ones_like(tensor))
    for w in case.weights:
        for tensor in w.values():
            assert tensor.grad.shape == tensor.shape
            assert (tensor.grad != 0).any() == (T > 0 and B > 0)


@pytest.mark.parametrize("which", ["x", "h", "dy", "dh"])
def test_numbers_that_pytorch_has_yet_to_negate_are_negated(which):
    def lazily_negated(tensor):  # what z.conj().imag is
        return torch._neg_view(-tensor)

    def values_and_gradients(change):
        cell = RNNCell(1, 1)
        case = call(cell)
        x, h = case.x.detach(), case.state.h.detach()
        x, h = (change(x) if which == "x" else x), (change(h) if which == "h" else h)
        y, (last,) = run(cell, case.weights, x, cell.state_type(h))
        gy, gh = weighting([y, last])
        gy, gh = (change(gy) if which == "dy" else gy), (change(gh) if which == "dh" else gh)
        return [y, *torch.autograd.grad([y, last], [*case.weights[0].values()], [gy, gh])]

    assert lazily_negated(torch.ones(1)).is_neg()
    ours, theirs = values_and_gradients(lazily_negated), values_and_gradients(torch.clone)
    assert all_equal(ours, theirs)


# Padding, and what is not a number.


@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@DIRECTIONS
@EACH_CELL
def test_nothing_in_the_padding_reaches_a_value_or_a_gradient(cell, directions, dtype, rubbish):
    case = call(cell, directions, RAGGED, dtype)
    padding = torch.arange(4)[:, None] >= RAGGED  # (T, B)
    empty = RAGGED == 0

    def values_and_gradients(x, state, poison):
        leaves = [x.requires_grad_(), *(s.requires_grad_() for s in state)]
        with use_backend("compiled"):
            y, last = run(cell, case.weights, x, state, RAGGED)
        gy, *g_last = weighting([y, *last])
        gy = torch.where(padding[..., None], poison, gy)
        inputs = [*leaves, *(t for w in case.weights for t in w.values())]
        found = torch.autograd.grad([y, *last], inputs, [gy, *g_last])
        return y.detach(), [s.detach() for s in last], found

    x, state = case.x.detach(), [s.detach() for s in case.state]
    y, last, found = values_and_gradients(x.clone(), cell.state_type(*state), 0.0)
    poisoned_x = torch.where(padding[..., None], rubbish, x)
    poisoned = cell.state_type(*(torch.where(empty[:, None], rubbish, s) for s in state))
    y_p, last_p, found_p = values_and_gradients(poisoned_x, poisoned, rubbish)
    assert torch.equal(y, y_p)
    assert all_equal(found, found_p)
    assert not (y[padding] != 0).any()
    for s, s_p, given in zip(last, last_p, poisoned, strict=True):
        assert torch.equal(s[:, ~empty], s_p[:, ~empty])
        # A row without a step gives back the very state that it was given.
        assert torch.equal(s_p[:, empty].nan_to_num(7.0), given[:, empty].nan_to_num(7.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@LENGTHS
@EACH_CELL
def test_nan_in_the_input_stays_in_its_row(cell, lengths, dtype):
    case = call(cell, 2, lengths, dtype)
    sound = case.on_the_core()

    def spoil(t):
        if t.shape != case.x.shape:
            return t
        t = t.clone()
        t[1, 2] = torch.nan
        return t

    spoilt = case.like(spoil)
    ours, theirs = spoilt.on_the_core(), spoilt.by_the_reference()
    n = 1 + len(case.state)
    for a, b, s in zip(ours[: n * 2], theirs, sound, strict=False):
        if a.dim() == 3:  # everything that has rows: outputs, states, and the gradients of those
            assert torch.equal(a[:, :2], s[:, :2])
            assert torch.equal(a[:, 2].isnan(), b[:, 2].isnan())
    P = cell.output_size
    y = ours[0]
    steps = 4 if lengths is None else 2
    assert torch.equal(y[0, 2, :P], sound[0][0, 2, :P])
    if not isinstance(cell, RNNCell) or cell.activation != "relu":
        assert y[1:steps, 2, :P].isnan().all()
        assert y[:2, 2, P:].isnan().all()


# Denormals.


def vanishing(kind, dtype):
    """A call whose gradients lose five digits a step, until no number is as small."""
    make, options = KINDS[kind]
    cell = make(5, 6, bias=False, **options)
    generator = torch.Generator().manual_seed(3)

    def leaf(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator)).to(dtype)

    shapes = cell.weight_shapes()
    w = {n: leaf(*s, scale=1e-5 if n == "weight_hh" else 0.5) for n, s in shapes.items()}
    x = leaf(80, 3, 5)
    if make is not RNNCell:  # shut: the forget gate of the LSTM, the update gate of the GRU
        x[..., 0], w["weight_ih"][:, 0], w["weight_ih"][6:12, 0] = 8.0, 0.0, -6.0
    for tensor in (x, *w.values()):
        tensor.requires_grad_()
    return LayerCase(cell, [w], x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["rnn-tanh", "rnn-identity", "lstm", "gru", "gru-reset-before"])
def test_gradients_that_vanish_become_zero_and_not_denormal(kind, dtype):
    case = vanishing(kind, dtype)
    tiny = torch.finfo(dtype).tiny

    def gradient(path):
        with use_backend(path):
            y, _ = run(case.cell, case.weights, case.x)
        return torch.autograd.grad(y[-1].sum(), case.x)[0]

    ours, theirs = gradient("compiled"), gradient("reference")
    assert ((theirs != 0) & (theirs.abs() < tiny)).any(), "the reference meets denormals"
    assert (theirs[0] == 0).all(), "and in the end underflows"
    assert ((ours == 0) | (ours.abs() >= tiny)).all()
    # Each of the sums on the way may lose what is below the smallest normal number.
    bound = WITHIN[dtype] * theirs.abs().amax(dim=(1, 2), keepdim=True) + 100 * tiny
    assert ((ours - theirs).abs() <= bound).all()


def denormals_live():
    """Whether a product below the smallest normal number is kept, wherever it is computed."""
    one, other = 1e-200, 1e-120
    return {
        "python": one * other != 0,
        "numpy": bool(np.float32(1e-30) * np.float32(1e-12) != 0),
        "torch": bool((torch.full((64,), 1e-30) * torch.full((64,), 1e-12) != 0).all()),
    }


@pytest.mark.parametrize("threads", [1, 3])
def test_denormals_of_the_caller_live_on(threads):
    assert set(denormals_live().values()) == {True}
    case = shared("gru", torch.float32, "rows")
    case.threads = threads
    case.on_the_core()
    assert set(denormals_live().values()) == {True}
    shape = (2, 0, 3, 4, 4)
    x, y = torch.zeros(2, 1, 3), torch.empty(2, 1, 4)
    for wrong in (torch.tensor([3]), None):
        with pytest.raises(ShapeError):
            _core.forward(shape, x, wrong, None, None, (), y, None, None, None, threads)
        assert set(denormals_live().values()) == {True}


def test_a_caller_who_flushes_denormals_goes_on_to():
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU does not flush denormals")
    try:
        shared("gru", torch.float32, "rows").on_the_core()
        assert not denormals_live()["torch"]
    finally:
        torch.set_flush_denormal(False)
    assert denormals_live()["torch"]


# Autograd.


@EACH_CELL
@LENGTHS
def test_a_graph_that_is_kept_gives_the_same_gradients_again(cell, lengths):
    case = call(cell, 2, lengths)
    y, last = run(cell, case.weights, case.x, case.state, lengths)
    weights = weighting([y, *last])

    def gradients(**keeps):
        return torch.autograd.grad([y, *last], case.inputs, weights, **keeps)

    first = gradients(retain_graph=True)
    assert all_equal(first, gradients(retain_graph=True))
    differentiable = gradients(create_graph=True)
    assert_same([g.detach() for g in differentiable], first)
    assert all_equal(first, gradients())
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        gradients()


@pytest.mark.parametrize(
    "name",
    ["lstm", "gru", "rnn", "lstm-coupled", "lstm-norm", "ligru", "min-gru", "rg-lru", "mamba"],
)
def test_a_layer_that_reads_its_own_output_has_its_gradients_again(name):
    make, options = cell_named(name)
    layer = Recurrent(make(4, 4, **options)).double()
    x, weights = torch.randn(6, 3, 4).double(), dict(layer.named_parameters())

    def output(*values):
        given = dict(zip(weights, values, strict=True))
        h, state = torch.func.functional_call(layer, given, (x,))
        return torch.func.functional_call(layer, given, (h, state))[0].tanh()

    def gradients(**keeps):
        return torch.autograd.grad(
            output(*weights.values()).square().sum(), weights.values(), **keeps
        )

    assert_same([g.detach() for g in gradients(create_graph=True)], gradients())
    assert torch.autograd.gradgradcheck(output, (*weights.values(),), fast_mode=True)


@EACH_CELL
def test_each_output_alone_has_its_gradient(cell):
    case = call(cell, 2, RAGGED)
    with use_backend("compiled"):
        ours = run(cell, case.weights, case.x, case.state, RAGGED)
    with use_backend("reference"):
        theirs = run(cell, case.weights, case.x, case.state, RAGGED)
    for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        g = weighting([a])
        some = {"retain_graph": True, "materialize_grads": True}
        assert_same(
            torch.autograd.grad(a, case.inputs, g, **some),
            torch.autograd.grad(b, case.inputs, g, **some),
        )


@pytest.mark.parametrize("needed", ["x", "h", "weight_ih", "weight_hh"])
@EACH_CELL
def test_what_needs_no_gradient_gets_none_and_the_rest_the_same(cell, needed):
    every = call(cell, 2)
    case = every.like(torch.clone)
    for tensor in case.inputs:
        tensor.requires_grad_(False)
    one = {"x": case.x, "h": case.state.h}.get(needed)
    one = case.weights[1][needed] if one is None else one
    one.requires_grad_()
    index = next(k for k, t in enumerate(every_input(case)) if t is one)
    n = 1 + len(case.state)
    assert torch.equal(case.on_the_core()[n], every.on_the_core()[n + index])


def every_input(case):
    return [case.x, *case.state, *(t for w in case.weights for t in w.values())]


@DIRECTIONS
@EACH_CELL
def test_gradients_have_gradients(cell, directions):
    case = call(cell, directions, RAGGED)
    small = case.like(lambda t: t.clone())

    def outputs(*inputs):
        x, *rest = inputs
        n = len(small.state)
        names = list(small.weights[0])
        weights = [
            dict(zip(names, rest[n + i * len(names) :], strict=False)) for i in range(directions)
        ]
        with use_backend("compiled"):
            y, last = run(cell, weights, x, cell.state_type(*rest[:n]), RAGGED)
        return (y, *last)

    assert torch.autograd.gradgradcheck(outputs, every_input(small), fast_mode=True)
    assert torch.autograd.gradcheck(outputs, every_input(small), fast_mode=True)


@EACH_CELL
def test_jacobians_are_those_of_the_reference_row_by_row_or_batched(cell):
    case = call(cell, 2, RAGGED)
    names = list(case.weights[0])

    def outputs(x, h, w):
        weights = [dict(case.weights[0]) | {names[1]: w}, case.weights[1]]
        state = cell.state_type(h, *case.state[1:])
        y, last = run(cell, weights, x, state, RAGGED)
        return (y, *last)

    inputs = (case.x, case.state.h, case.weights[0][names[1]])
    with use_backend("reference"):
        theirs = [t for row in jacobian(outputs, inputs) for t in row]
    for vectorize in (False, True):
        ours = [t for row in jacobian(outputs, inputs, vectorize=vectorize) for t in row]
        assert_same(ours, theirs)
    with use_backend("compiled"):
        y = outputs(*inputs)[0]
    basis = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
    (rows,) = torch.autograd.grad(y, case.x, basis, is_grads_batched=True, retain_graph=True)
    assert_same([rows.reshape(theirs[0].shape)], [theirs[0]])
    (rows,) = torch.vmap(lambda g: torch.autograd.grad(y, case.x, g, retain_graph=True))(basis)
    assert_same([rows.reshape(theirs[0].shape)], [theirs[0]])


def of_x(case):
    """The outputs as a function of the input; rows may come one at a time."""

    def f(x):
        y, last = run(case.cell, case.weights, x, case.state)
        return (y, *last)

    return f


@EACH_CELL
def test_a_mapped_call_is_the_calls_one_by_one(cell):
    case = call(cell, 2)
    xs = torch.stack([case.x.detach() * factor for factor in (1.0, -0.5, 2.0)])
    f = of_x(case)
    one_by_one = [torch.stack(each) for each in zip(*map(f, xs), strict=True)]
    assert_same(torch.vmap(f)(xs), one_by_one)

    def loss(weights, x):
        y, _ = run(cell, weights, x)
        return (y**2).sum()

    each_row = case.x.detach().transpose(0, 1)[:, :, None]  # (B, T, 1, I)
    weights = [{n: t.detach() for n, t in w.items()} for w in case.weights]
    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, each_row)
    for b, x in enumerate(each_row):
        leaves = [{n: t.clone().requires_grad_() for n, t in w.items()} for w in weights]
        flat = [t for w in leaves for t in w.values()]
        theirs = torch.autograd.grad(loss(leaves, x), flat)
        assert_same([t[b] for w in per_sample for t in w.values()], theirs)


def differences(f, x, direction, step=1e-6):
    up, down = f(x + step * direction), f(x - step * direction)
    return [(a - b) / (2 * step) for a, b in zip(up, down, strict=True)]


# PyTorch's own derivatives of derivatives are scripts, which PyTorch has deprecated.
SCRIPTS = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@SCRIPTS
@EACH_CELL
def test_tangents_are_finite_differences(cell):
    case = call(cell, 2)
    f, x = of_x(case), case.x.detach()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    wanted = [t.detach() for t in differences(f, x, direction)]
    assert all(t.abs().max() > 1e-2 for t in wanted)
    values, tangents = torch.func.jvp(f, (x,), (direction,))
    assert_same([v.detach() for v in values], [v.detach() for v in f(x)])
    torch.testing.assert_close([t.detach() for t in tangents], wanted, rtol=1e-7, atol=1e-7)
    with forward_ad.dual_level():
        outputs = f(forward_ad.make_dual(x, direction))
        tangents = [forward_ad.unpack_dual(y).tangent.detach() for y in outputs]
    torch.testing.assert_close(tangents, wanted, rtol=1e-7, atol=1e-7)


REFUSED = "compiled core cannot serve .*: it has no rule for torch.func's transforms"


def dual(f, x):
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(x, torch.ones_like(x)))


@SCRIPTS
@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: torch.vmap(f)(x[None]),
        lambda f, x: torch.func.jvp(f, (x,), (x,)),
        lambda f, x: torch.func.grad(lambda x: f(x)[0].sum())(x),
        lambda f, x: torch.func.vjp(f, x),
        lambda f, x: torch.func.jacrev(f)(x),
        dual,
    ],
    ids=["vmap", "jvp", "grad", "vjp", "jacrev", "dual numbers"],
)
def test_the_core_refuses_what_it_has_no_rule_for(transform):
    case = call(LSTMCell(3, 4))
    f, x = of_x(case), case.x.detach()
    transform(f, x)  # another path serves it
    with use_backend("compiled"), pytest.raises(OstinatoError, match=REFUSED):
        transform(f, x)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not"])
@EACH_LAYER
def test_checkpointed_activations_give_the_same_gradients(make, reentrant):
    layer, x = make(bidirectional=True), torch.randn(5, 3, 3, requires_grad=True)

    def gradients(outputs):
        y, hx = outputs
        h = hx if isinstance(hx, torch.Tensor) else hx[0]
        return torch.autograd.grad([y, h], gathered, weighting([y, h]))

    def backward(outputs):  # the reentrant kind wants .backward()
        y, hx = outputs
        h = hx if isinstance(hx, torch.Tensor) else hx[0]
        torch.autograd.backward([y, h], weighting([y, h]))
        found = [t.grad for t in gathered]
        for t in gathered:
            t.grad = None
        return found

    gathered = [x, *layer.parameters()]

    def flat(x):
        y, hx = layer(x)
        return (y, hx) if isinstance(hx, torch.Tensor) else (y, *hx)

    plain = backward(flat(x)[:2])
    assert all_equal(plain, gradients(flat(x)[:2]))
    assert all_equal(plain, backward(checkpoint(flat, x, use_reentrant=reentrant)[:2]))


def moved(tensor):
    """The same numbers eight bytes past a place that is aligned."""
    size = tensor.numel() * tensor.element_size()
    room = torch.empty(size + 64, dtype=torch.uint8)
    room = room[(8 - room.data_ptr()) % 64 :][:size]
    return room.view(tensor.dtype).view(tensor.shape).copy_(tensor)


HOOKS = {
    "on the CPU": save_on_cpu,
    "as they are": lambda: saved_tensors_hooks(lambda t: t, lambda t: t),
    "copied": lambda: saved_tensors_hooks(torch.clone, torch.clone),
    "from memory of another alignment": lambda: saved_tensors_hooks(torch.clone, moved),
    "transposed": lambda: saved_tensors_hooks(
        lambda t: t.movedim(0, -1).contiguous(), lambda t: t.movedim(-1, 0)
    ),
}


@pytest.mark.parametrize("hooks", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=["even", "ragged"])
@EACH_LAYER
def test_saved_tensors_may_be_kept_elsewhere(make, lengths, hooks):
    layer, x = make(bidirectional=True), torch.randn(5, 3, 3, requires_grad=True)
    inputs = [x, *layer.parameters()]
    y, _ = layer(x, lengths=lengths)
    plain = torch.autograd.grad(y, inputs, weighting([y]))
    with hooks():
        y, _ = layer(x, lengths=lengths)
    for _ in range(2):
        assert all_equal(plain, torch.autograd.grad(y, inputs, weighting([y]), retain_graph=True))


@pytest.mark.parametrize("changed", ["x", "state", "weight"])
@EACH_CELL
def test_what_backward_needs_cannot_be_changed_unnoticed(cell, changed):
    case = call(cell)
    inputs = case.inputs
    x, h = case.x * 1, case.state.h * 1
    weights = [dict(case.weights[0])]
    weights[0]["weight_hh"] = weights[0]["weight_hh"] * 1
    y, _ = run(cell, weights, x, cell.state_type(h, *case.state[1:]))
    with torch.no_grad():
        {"x": x, "state": h, "weight": weights[0]["weight_hh"]}[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), inputs)


IN_PLACE = {
    "ReLU": lambda y: torch.relu_(y),
    "a step": lambda y: y[2].zero_(),
    "a view": lambda y: y.transpose(0, 1)[1:, :, 1].mul_(3),
    "twice": lambda y: y.mul_(2).add_(1),
}


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=["even", "ragged"])
@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("batch_first", [False, True])
@EACH_LAYER
def test_an_output_may_be_changed_in_place(make, batch_first, change, lengths, every):
    layer = make(num_layers=2, bidirectional=True, batch_first=batch_first, checkpoint_every=every)
    x = torch.randn(5, 3, 3).transpose(0, int(batch_first)).requires_grad_()
    inputs = [x, *layer.parameters()]

    def gradients(copied):
        y, hx = layer(x, lengths=lengths)
        h = hx if isinstance(hx, torch.Tensor) else hx[0]
        y, h = (y.clone(), h.clone()) if copied else (y, h)
        change(y if not batch_first else y.transpose(0, 1))
        h.mul_(2)
        outputs = [y, h]
        for _ in range(2):
            found = torch.autograd.grad(outputs, inputs, weighting(outputs), retain_graph=True)
        return [*outputs, *found]

    assert all_equal(gradients(copied=False), gradients(copied=True))


def test_gates_that_were_asked_for_do_not_change_with_the_output():
    layer, x = GRU(3, 4), torch.randn(5, 2, 3)
    y, _, (trace,) = layer(x, return_gates=True)
    kept = trace.states.h.clone()
    y.data.zero_()
    assert torch.equal(trace.states.h, kept)


@EACH_LAYER
def test_a_copy_taken_after_training_steps_computes_the_same_bits(make):
    layer, x = make(num_layers=2, bidirectional=True), torch.randn(5, 3, 3)
    layer(x)[0].sum().backward()
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(clone(x, lengths=[5, 0, 2])[0], layer(x, lengths=[5, 0, 2])[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=["even", "ragged"])
@EACH_LAYER
def test_under_autocast_the_core_computes_in_float32_and_rounds_what_it_returns(
    make, lengths, dtype
):
    layer = make(num_layers=2)
    x = torch.randn(5, 3, 3).to(dtype).float().requires_grad_()
    inputs = [x, *layer.parameters()]

    def run(x, hx=None):
        y, hx = layer(x, hx, lengths=lengths)
        return [y, *([hx] if isinstance(hx, torch.Tensor) else hx)]

    for given in (x, x.to(dtype)):
        with torch.autocast("cpu", dtype=dtype):
            assert backend(layer, given, lengths=lengths) == "compiled"
            ours = run(given)
            again = run(given, tuple(ours[1:]) if len(ours) > 2 else ours[1])
        assert {t.dtype for t in (*ours, *again)} == {dtype}
        weights = weighting(ours)
        found = torch.autograd.grad(ours, inputs, [w.to(dtype) for w in weights])
        # The layers between round as well: each is one call of the core.
        theirs = run(x)
        expected = torch.autograd.grad(theirs, inputs, [w.to(dtype).float() for w in weights])
        near = TOLERANCES[torch.float16] if dtype == torch.float16 else 5e-2
        for a, b in zip([*ours, *found], [*theirs, *expected], strict=True):
            torch.testing.assert_close(a.float(), b, rtol=near, atol=near)


@EACH_CELL
def test_under_autocast_one_layer_is_rounded_once(cell):
    case = call(cell, dtype=torch.float32)
    y, last = run(cell, case.weights, case.x, case.state)
    found = torch.autograd.grad(y.bfloat16().float().sum(), case.inputs, allow_unused=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, low_last = run(cell, case.weights, case.x, case.state)
        ours = torch.autograd.grad(low.float().sum(), case.inputs, allow_unused=True)
    assert all_equal([low, *low_last], [t.bfloat16() for t in (y, *last)])
    assert all(a is b or torch.equal(a, b) for a, b in zip(ours, found, strict=True))


def test_autocast_leaves_float64_and_refuses_to_mix_it():
    layer = LSTM(3, 4).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(torch.randn(5, 2, 3, dtype=torch.float64))
        assert y.dtype == torch.float64
        with pytest.raises(OstinatoError, match="convert one of them"):
            layer(torch.randn(5, 2, 3), lengths=[5, 1])
        with pytest.raises(OstinatoError, match="float32 and float64 on a CPU"):
            Stream(GRU(3, 4).bfloat16())


# Threads of Python, and children.


def test_threads_of_python_do_not_disturb_each_other():
    cases = [shared("lstm", torch.float32, "rows"), shared("gru", torch.float32, "units")]
    cases += [call(CELLS[name], 2, RAGGED) for name in CELLS] + [draw(seed) for seed in range(20)]
    for case in cases:
        case.threads = 1
    alone = [case.on_the_core() for case in cases]
    wrong, ready = [], threading.Barrier(4)

    def work(first):
        ready.wait()
        for k in range(len(cases)):
            k = (k + first) % len(cases)
            try:
                with use_backend("compiled"):
                    found = cases[k].by_run()
                if not all_equal(found, alone[k]):
                    wrong.append(described(cases[k]))
            except BaseException as error:
                wrong.append(repr(error))

    with threads(3):
        workers = [threading.Thread(target=work, args=(7 * i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(HANGS)
        assert not any(worker.is_alive() for worker in workers)
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a core for all threads")
def test_threads_that_share_one_core_wait_for_one_another():
    # OpenMP's, then the core's own, which a forked child has: whoever waits must let the rest run.
    done = in_a_new_process("""
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from test_kernels import shared

def bits(count):
    torch.get_num_threads = lambda: count
    cases = [shared("lstm", torch.float32, name) for name in ("rows", "units")]
    return [t.numpy().tobytes() for case in cases for t in case.by_run()]

alone = bits(1)
assert all(bits(3) == alone for _ in range(3)), "OpenMP"
child = os.fork()
if child == 0:
    os._exit(int(any(bits(3) != alone for _ in range(3))))
assert os.waitpid(child, 0)[1] == 0, "the child"
print("same")
""")
    assert done.stdout == "same\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a child")
def test_a_forked_child_computes_the_same_bits():
    # The parent's workers do not live in the child, which has to get its own.
    done = in_a_new_process("""
import multiprocessing
import torch
from test_kernels import HANGS, shared

# Of the core alone: where PyTorch itself has run in parallel, its children may hang.
torch.get_num_threads = lambda: 3

def bits(name):
    return [t.numpy().tobytes() for t in shared("lstm", torch.float32, name).by_run()]

def child(pipe):
    pipe.send([bits("rows"), bits("units")])

before = [bits("rows"), bits("units")]
context = multiprocessing.get_context("fork")
for _ in range(3):
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    assert ours.poll(HANGS / 2), "the child hangs"
    assert ours.recv() == before
    process.join()
    assert process.exitcode == 0
assert [bits("rows"), bits("units")] == before
print("same")
""")
    assert done.stdout == "same\n", done.stderr


# Graphs.


IN_A_CHILD = """
import os, sys, time, torch, ostinato
torch.set_num_threads(3)
torch.randn(1_000_000).exp().sum()  # PyTorch's threads, which die in a child
B, H, failed = 32, 128, 0
x = torch.randn(50, B, 64)
for kind in ("RNN", "LSTM", "GRU"):
    for num_layers in (1, 2, 3):
        for training in (True, False):
            for more in ({}, {"lengths": [20] * B}, {"return_gates": True}):
                layer = getattr(ostinato, kind)(64, H, num_layers).train(training)
                dy = torch.randn(50, B, H)
                def gradients():
                    layer.zero_grad()
                    y, *_ = layer(x, **more)
                    torch.autograd.backward(y, dy)
                child = os.fork()
                if child == 0:
                    gradients()
                    os._exit(0)
                until = time.monotonic() + {HANGS}
                while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
                    time.sleep(0.005)
                failed += done != (child, 0)
                assert not failed, (kind, num_layers, training, more)
print("all")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a child")
def test_layers_in_a_forked_child_do_not_wait_for_threads_that_are_gone():
    done = in_a_new_process(IN_A_CHILD.replace("{HANGS}", str(HANGS / 30)))
    assert done.stdout == "all\n", done.stderr


@pytest.mark.parametrize("rows", [3, 40], ids=["small table", "large table"])
def test_threads_with_buffers_rewritten_between_forward_and_backward_compute_the_same(rows):
    layer = LSTM(4, 8, 2)
    wrong, ready = [], threading.Barrier(8)

    def work(seed):
        rng = np.random.default_rng(seed)
        lengths, tokens = np.zeros(6, np.int64), np.zeros((5, 6), np.int64)
        table = torch.from_numpy(rng.standard_normal((rows, 4), np.float32)).requires_grad_()
        ready.wait()
        try:
            for _ in range(20):
                found = []
                drawn = rng.integers(0, 6, 6), rng.integers(0, rows, (5, 6))
                for rewrite in (False, True):
                    lengths[...], tokens[...] = drawn
                    given = torch.from_numpy(lengths), torch.from_numpy(tokens)
                    y, _ = layer(given[1], lengths=given[0], table=table)
                    if rewrite:
                        lengths[...], tokens[...] = 1 << 40, -(1 << 40)
                    found.append(torch.autograd.grad(y.sum(), [table, *layer.parameters()]))
                if not all_equal(*found):
                    wrong.append(seed)
        except BaseException as error:
            wrong.append(repr(error))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(HANGS)
    assert not any(worker.is_alive() for worker in workers)
    assert not wrong


class Recorder:
    """A backend of `torch.compile` that keeps the graphs it is given."""

    def __init__(self, backend="aot_eager"):
        self.backend, self.graphs = torch._dynamo.lookup_backend(backend), []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return self.backend(graph, inputs)

    def operators(self):
        return {str(node.target) for graph in self.graphs for node in graph.graph.nodes}


@pytest.fixture
def fresh_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_compiles(layer, backend, shapes, with_lengths):
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for T, B in shapes:
        size = (B, T, 3) if layer.batch_first else (T, B, 3)
        x = torch.randn(size, requires_grad=True)
        lengths = torch.arange(B) % (T + 1) if with_lengths else None
        inputs = [x, *layer.parameters()]

        def values_and_gradients(f, x=x, lengths=lengths, inputs=inputs):
            y, hx = f(x, lengths=lengths)
            outputs = [y, hx] if isinstance(hx, torch.Tensor) else [y, *hx]
            return [*outputs, *torch.autograd.grad(outputs, inputs, weighting(outputs))]

        ours, theirs = values_and_gradients(compiled), values_and_gradients(layer)
        assert all_equal(ours, theirs)


@pytest.mark.usefixtures("fresh_graphs")
@pytest.mark.parametrize("with_lengths", [False, True], ids=["even", "ragged"])
@EACH_LAYER
def test_a_layer_compiles_into_one_graph_for_all_shapes(make, with_lengths):
    layer = make(num_layers=2, bidirectional=True, batch_first=with_lengths)
    recorder = Recorder()
    shapes = [(5, 3), (7, 4), (6, 5), (9, 2)]
    assert_compiles(layer, recorder, shapes, with_lengths)
    assert len(recorder.graphs) <= 2  # of the first shape, and of every other
    assert "ostinato.layer.default" in recorder.operators()


@pytest.mark.thorough
@pytest.mark.usefixtures("fresh_graphs")
@pytest.mark.parametrize("with_lengths", [False, True], ids=["even", "ragged"])
def test_pytorchs_compiler_gives_the_same_bits(with_lengths):
    layer = LSTM(3, 4, bidirectional=True)
    assert_compiles(layer, "inductor", [(5, 3), (7, 4)], with_lengths)


@pytest.mark.usefixtures("fresh_graphs")
@pytest.mark.parametrize(
    "backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("checkpoint_every", [None, 2])
def test_a_graph_keeps_the_lengths_and_tokens_of_its_forward(backend, checkpoint_every):
    layer = LSTM(3, 4, 2, checkpoint_every=checkpoint_every)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    table = torch.randn(12, 3, requires_grad=True)  # so many rows that eagerly they are looked up
    x = torch.randn(5, 4, 3, requires_grad=True)
    lengths, tokens = np.array([5, 0, 3, 4]), np.arange(20).reshape(5, 4) % 7
    given = torch.from_numpy(lengths), torch.from_numpy(tokens)

    def gradients(f, of, rewrite, **more):
        lengths[...], tokens[...] = [5, 0, 3, 4], np.arange(20).reshape(5, 4) % 7
        y, _ = f(given[1] if more else of, lengths=given[0], **more)
        if rewrite:
            lengths[...], tokens[...] = 1, 0
        return torch.autograd.grad(y.square().sum(), [of, *layer.parameters()])

    for more, of in (({}, x), ({"table": table}, table)):
        expected = gradients(layer, of, False, **more)
        assert all_equal(gradients(compiled, of, True, **more), expected)


COMPILED = """
import torch, ostinato
layer, x = ostinato.GRU(3, 4), torch.randn(5, 3, 3, requires_grad=True)
y, _ = torch.compile(layer, fullgraph=True)(x)
assert torch.equal(y, layer(x)[0])
y.sum().backward()
"""


@pytest.mark.thorough
def test_a_graph_of_another_instruction_set_is_not_taken_from_the_cache(tmp_path):
    for isa in core_check.instruction_sets():
        environment = os.environ | {"OSTINATO_ISA": isa, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", COMPILED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.usefixtures("fresh_graphs")
def test_a_graph_keeps_the_path_of_its_tracing():
    layer, x = GRU(3, 4), torch.randn(5, 3, 3)
    recorder = Recorder("eager")
    with use_backend("reference"):
        y, _ = torch.compile(layer, fullgraph=True, backend=recorder)(x)
    assert "ostinato.layer.default" not in recorder.operators()
    assert_same([y.detach()], [layer(x)[0].detach()])


@pytest.mark.usefixtures("fresh_graphs")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not"])
@pytest.mark.parametrize("with_lengths", [False, True], ids=["even", "ragged"])
def test_a_layer_is_exported_with_any_steps_and_rows(with_lengths, strict):
    layer = LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    T, B = torch.export.Dim("T", min=2, max=1000), torch.export.Dim("B", min=2, max=1000)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, lengths=None):
            y, state = self.layer(x, lengths=lengths)
            return y, state.h, state.c

    def arguments(T, B):
        return (torch.randn(B, T, 3), *([torch.arange(B) % (T + 1)] if with_lengths else []))

    free = {"x": {0: B, 1: T}} | ({"lengths": {0: B}} if with_lengths else {})
    exported = torch.export.export(
        Model(), arguments(5, 3), dynamic_shapes=free, strict=strict
    ).module()
    for sizes in [(5, 3), (8, 2), (3, 6)]:
        given = arguments(*sizes)
        assert all_equal(list(exported(*given)), list(Model()(*given)))


def operator_arguments(cell, directions, lengths, requires_grad, checkpoint_every):
    case = call(cell, directions, lengths, torch.float32)
    c0 = case.state.c if case.state[1:] else None
    given = [case.state.h, c0, *(t for w in case.weights for t in compiled.flat_weights(w))]
    x, *tensors = [
        t.detach().requires_grad_(requires_grad) for t in (case.x, *given) if t is not None
    ]
    counted, shape = itertools.count(), compiled.shape_of(cell)
    places = [-1 if t is None else next(counted) for t in given]
    workspace = _core.line_length(shape, False)
    return x, lengths, tensors, list(shape), places, workspace, checkpoint_every


@LENGTHS
@DIRECTIONS
@pytest.mark.parametrize("cell", (CELLS | BIASLESS).values(), ids=CELLS | BIASLESS)
@pytest.mark.parametrize("every", [0, 2], ids=["workspace", "checkpoints"])
def test_the_operators_keep_their_contract_with_pytorch(cell, directions, lengths, every):
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    # The workspace has gaps that are never written, and so has c past a row's end: there two calls
    # differ.
    if (lengths is None) == (every > 0):
        checks.append("test_aot_dispatch_dynamic")
    arguments = operator_arguments(cell, directions, lengths, True, every)
    torch.library.opcheck(torch.ops.ostinato.layer.default, arguments, test_utils=checks)
    arguments = operator_arguments(cell, directions, lengths, False, every)
    y, h, c, kept = torch.ops.ostinato.layer.default(*arguments)
    dc = torch.randn(c.shape) if isinstance(cell, LSTMCell) else None
    *given, _, _ = arguments
    needs = [k % 3 != 1 for k in range(1 + len(given[2]))]
    gradients = torch.randn(y.shape), torch.randn(h.shape), dc
    torch.library.opcheck(
        torch.ops.ostinato.layer_gradients.default, (*given, every, y, kept, *gradients, needs)
    )


def test_the_operator_refuses_to_be_differentiated_twice_rather_than_give_zero():
    class Own(torch.Tensor):
        """A tensor for which the operator serves even outside of graphs."""

    x = torch.randn(4, 2, 3).as_subclass(Own).requires_grad_()
    layer = GRU(3, 4)
    y, _ = layer(x)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad((first**2).sum(), [*layer.parameters()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_goes_another_way():
    layer, x = GRU(3, 4), torch.randn(5, 3, 3)
    traced = torch.jit.trace(layer, x)
    assert "ostinato::" not in str(traced.graph)
    assert_same([traced(2 * x)[0].detach()], [layer(2 * x)[0].detach()])


# Which path serves a call.


def an_input(T=3, dtype=torch.float32):
    return torch.zeros(T, 2, 3, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_the_core_serves_every_cell_of_ours(name, dtype):
    cell = CELLS[name]
    for padded in (False, True):
        for T in (0, 3):
            assert choose(cell, an_input(T, dtype), padded=padded) == "compiled"
    assert choose(cell, an_input().requires_grad_()) == "compiled"


@pytest.mark.parametrize("name", CELLS)
def test_the_fused_operators_serve_even_rows_of_what_the_core_cannot(name):
    cell, half = CELLS[name], an_input(dtype=torch.bfloat16)
    assert choose(cell, half) == ("torch" if name in FUSED else "reference")
    assert choose(cell, half, padded=True) == "reference"
    assert choose(cell, half[:0]) == "reference"


def test_a_stack_is_fused_if_all_of_it_can_be():
    half = an_input(dtype=torch.bfloat16)
    lstm, before = LSTMCell(3, 4), GRUCell(4, 4, reset_after=False)
    assert choose((lstm, LSTMCell(4, 4)), half) == "torch"
    assert choose((lstm, before), half) == "reference"
    assert choose((lstm, before), an_input()) == "compiled"


class Half(LSTMCell):
    """An LSTM that forgets by halves."""

    def step(self, w, x_t, state):
        return type(state)(*(s / 2 for s in super().step(w, x_t, state)))


def test_a_derived_cell_is_not_taken_for_its_parent():
    case = call(Half(3, 4))
    assert choose(case.cell, case.x) == "reference"
    assert choose((LSTMCell(3, 4), Half(4, 4)), case.x) == "reference"
    ours, _ = run(case.cell, case.weights, case.x, case.state)
    state = type(case.state)(*(s[0] for s in case.state))
    assert_same([ours], [scan(case.cell, case.weights[0], case.x, state)[0]])


def test_a_path_can_be_forced_and_is_let_go_even_after_an_error():
    cell, x = LSTMCell(3, 4), an_input()
    for name in ("reference", "torch", "compiled"):
        with use_backend(name):
            assert choose(cell, x) == name
            with use_backend("auto"):
                assert choose(cell, x) == "compiled"
            assert choose(cell, x) == name
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    assert choose(cell, x) == "compiled"


def test_a_path_that_cannot_serve_is_an_error():
    sigmoid = RNNCell(3, 4, activation="sigmoid")
    with use_backend("torch"):
        with pytest.raises(OstinatoError, match=r"no fused operator for RNNCell.*sigmoid.* T=3;"):
            choose(sigmoid, an_input())
        with pytest.raises(OstinatoError, match="T=3 and lengths; use 'auto' or 'reference'"):
            choose(LSTMCell(3, 4), an_input(), padded=True)
    with use_backend("compiled"):
        for cell, x, why in [
            (Half(3, 4), an_input(), "no equations for this cell"),
            (LSTMCell(3, 4), an_input(dtype=torch.bfloat16), "not in torch.bfloat16 on cpu"),
            (LSTMCell(3, 4), an_input().to("meta"), "not in torch.float32 on meta"),
        ]:
            with pytest.raises(OstinatoError, match=f"cannot serve .*: .*{why}; use 'auto' or"):
                choose(cell, x)
    with (
        pytest.raises(
            OstinatoError, match="'cuda'; expected one of auto, compiled, generated, torch"
        ),
        use_backend("cuda"),
    ):
        pass


def test_the_log_tells_which_path_ran(caplog):
    case = call(LSTMCell(3, 4))
    with caplog.at_level(logging.DEBUG, logger="ostinato.recurrence"):
        for name in ("auto", "torch", "reference"):
            with use_backend(name):
                run(case.cell, case.weights, case.x, case.state)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "compiled",
        "torch",
        "reference",
    ]
    assert "LSTMCell" in caplog.text
    assert "(4, 3, 3)" in caplog.text
