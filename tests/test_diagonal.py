"""Linear recurrences: a kernel, products, and the cells that are made of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from laws import LINEAR, Case, leaves, random, with_gradients
from layer_cases import threads
from tolerances import TOLERANCES, assert_same

from ostinato import Forecaster, SequenceClassifier, load
from ostinato.errors import ShapeError
from ostinato.insight import gates, gradient_flow
from ostinato.networks.arrangements import ManyToOne, recurrent_layers
from ostinato.networks.outputs import Output
from ostinato.recurrence.backends import choose, run, use_backend
from ostinato.recurrence.backends.diagonal import (
    COMPILED,
    compiled_recurrence,
    convolve,
    linear_recurrence,
    product,
)
from ostinato.recurrence.backends.selection import compiled_selection, selective_scan
from ostinato.recurrence.cells import (
    PLAIN,
    LRUCell,
    RGLRUCell,
    S5Cell,
    SelectiveCell,
    SRUCell,
    Window,
)
from ostinato.recurrence.diagonal import plain_recurrence, plain_selection, recurrence_gradients
from ostinato.recurrence.layers import Recurrent

KINDS = pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
SHARED = pytest.mark.parametrize("shared", [False, True], ids=["per-step", "per-unit"])
NAMES = pytest.mark.parametrize("name", LINEAR)
# T, B and numbers of h: within a vector, across, tiles of several rows, rows of several tiles.
SIZES = [(1, 1, 2), (7, 3, 6), (5, 40, 34), (3, 2, 5000), (90, 4, 130)]


class Numbers:
    """The arguments of a recurrence, drawn at random."""

    def __init__(self, T, B, H, shared, dtype=torch.float64, seed=0):
        def leaf(*shape, seed, scale=1.0):
            return random(*shape, seed=seed, dtype=dtype, scale=scale).requires_grad_()

        self.a = leaf(*(() if shared else (T, B)), H, seed=seed + 1, scale=0.6)
        self.b, self.h0 = leaf(T, B, H, seed=seed + 2), leaf(B, H, seed=seed + 3)
        generator = torch.Generator().manual_seed(seed)
        self.lengths = torch.randint(0, T + 1, (B,), generator=generator)
        self.lengths[0] = T
        self.resets = torch.rand(T, B, generator=generator) < 0.2

    @property
    def inputs(self):
        return [self.a, self.b, self.h0]


def by_loop(n, lengths, resets, is_complex):
    """The recurrence, one row and one step at a time, in PyTorch's own complex numbers."""
    T, B, width = n.b.shape

    def numbers(x):
        return torch.complex(*x.chunk(2, dim=-1)) if is_complex else x

    def pairs(x):
        return torch.cat([x.real, x.imag], dim=-1) if is_complex else x

    rows, last = [], []
    for row in range(B):
        h, steps = numbers(n.h0[row]), []
        for t in range(T if lengths is None else int(lengths[row])):
            if resets is not None and resets[t, row]:
                h = torch.zeros_like(h)
            a = n.a if n.a.dim() == 1 else n.a[t, row]
            h = numbers(a) * h + numbers(n.b[t, row])
            steps.append(pairs(h))
        last.append(pairs(h))
        steps += [torch.zeros(width, dtype=n.b.dtype)] * (T - len(steps))
        rows.append(torch.stack(steps))
    return torch.stack(rows, dim=1), torch.stack(last)


@pytest.mark.parametrize("which", ["compiled", "plain"])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("resets", [False, True], ids=["", "resets"])
@SHARED
@KINDS
@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_a_recurrence_is_the_loop_in_values_and_gradients(
    size, is_complex, shared, resets, ragged, which
):
    n = Numbers(*size, shared)
    given = n.lengths if ragged else None, n.resets if resets else None, is_complex
    path = compiled_recurrence if which == "compiled" else plain_recurrence
    assert_same(
        with_gradients(path(*n.inputs, *given), n.inputs),
        with_gradients(by_loop(n, *given), n.inputs),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@SHARED
@KINDS
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_kernel_is_the_plain_recurrence_at_every_size(size, is_complex, shared, dtype):
    n = Numbers(*size, shared, dtype=dtype, seed=9)
    given = n.lengths, n.resets, is_complex
    ours = with_gradients(compiled_recurrence(*n.inputs, *given), n.inputs)
    theirs = with_gradients(plain_recurrence(*n.inputs, *given), n.inputs)
    for a, b in zip(ours, theirs, strict=True):
        near = TOLERANCES[dtype] * max(1.0, float(b.detach().abs().max()))
        assert (a - b).abs().max() <= near


@KINDS
def test_threads_chunks_rows_and_strides_give_the_same_bits(is_complex):
    n = Numbers(150, 24, 130, False, torch.float32, seed=5)
    given = n.lengths, n.resets, is_complex
    whole = with_gradients(compiled_recurrence(*n.inputs, *given), n.inputs)
    for count in (2, 3, 5):
        with threads(count):
            ours = with_gradients(compiled_recurrence(*n.inputs, *given), n.inputs)
        assert all(map(torch.equal, ours, whole))
    h, last = whole[:2]
    with torch.no_grad():
        now, parts = n.h0, []
        for t in range(0, 150, 37):
            left = (n.lengths - t).clamp(0, min(37, 150 - t))
            cut = slice(t, t + 37)
            part, now = compiled_recurrence(
                n.a[cut], n.b[cut], now, left, n.resets[cut], is_complex
            )
            parts.append(part)
        assert torch.equal(torch.cat(parts), h)
        assert torch.equal(now, last)
        for row in (0, 7):
            one = slice(row, row + 1)
            alone, _ = compiled_recurrence(
                n.a[:, one], n.b[:, one], n.h0[one], n.lengths[one], n.resets[:, one], is_complex
            )
            assert torch.equal(alone, h[:, one])
        a, b = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (n.a, n.b))
        assert torch.equal(compiled_recurrence(a, b, n.h0, *given)[0], h)
        assert torch.equal(
            compiled_recurrence(*(x[..., ::2] for x in (a, b, n.h0)))[0],
            compiled_recurrence(*(x[..., ::2].clone() for x in (a, b, n.h0)))[0],
        )


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@SHARED
@KINDS
def test_the_kernel_is_differentiable_twice(is_complex, shared, ragged):
    n = Numbers(4, 3, 4, shared, seed=2)
    given = n.lengths if ragged else None, n.resets, is_complex

    def f(*inputs):
        return compiled_recurrence(*inputs, *given)

    assert torch.autograd.gradcheck(f, n.inputs)
    assert torch.autograd.gradgradcheck(f, n.inputs)


def test_padding_is_not_read():
    n = Numbers(6, 4, 10, False, seed=3)
    foul = [n.a.detach().clone(), n.b.detach().clone()]
    for x in foul:
        for row, end in enumerate(n.lengths.tolist()):
            x[end:, row] = torch.nan
    inputs = [x.requires_grad_() for x in (*foul, n.h0)]
    ours = with_gradients(compiled_recurrence(*inputs, n.lengths), inputs)
    theirs = with_gradients(compiled_recurrence(*n.inputs, n.lengths), n.inputs)
    assert all(map(torch.equal, ours, theirs))


def test_a_reset_lets_nothing_through_not_even_nan():
    a, b = torch.ones(3, 1, 2), torch.ones(3, 1, 2)
    b[0] = torch.nan
    h, _ = compiled_recurrence(a, b, torch.zeros(1, 2), None, torch.tensor([[0], [0], [1]]).bool())
    assert h[1].isnan().all()
    assert (h[2] == 1).all()


class Selected:
    """The arguments of a selective scan, drawn at random."""

    def __init__(self, T, B, E, N, dtype=torch.float64, seed=0):
        def leaf(*shape, seed, scale=1.0):
            return random(*shape, seed=seed, dtype=dtype, scale=scale).requires_grad_()

        self.d = leaf(T, B, E, seed=seed + 1, scale=0.5)
        self.v, self.A = leaf(T, B, E, seed=seed + 2), leaf(N, E, seed=seed + 3, scale=0.5)
        self.B, self.C = leaf(T, B, N, seed=seed + 4), leaf(T, B, N, seed=seed + 5)
        self.D, self.c0 = leaf(E, seed=seed + 7), leaf(B, N * E, seed=seed + 6)
        drawn = Numbers(T, B, 2, True, seed=seed)
        self.lengths, self.resets = drawn.lengths, drawn.resets

    @property
    def inputs(self):
        return [self.d, self.v, self.A, self.B, self.C, self.D, self.c0]


def selected_by_loop(n, lengths, resets):
    """A selective scan, one row, one step and one number of state at a time."""
    (T, B, E), N = n.d.shape, len(n.A)
    rows, last = [], []
    for row in range(B):
        c = [*n.c0[row].view(N, E).unbind()]
        outputs = []
        for t in range(T if lengths is None else int(lengths[row])):
            y = n.D * n.v[t, row]
            for k in range(N):
                if resets is not None and resets[t, row]:
                    c[k] = torch.zeros_like(c[k])
                c[k] = torch.exp(n.d[t, row] * n.A[k]) * c[k]
                c[k] = c[k] + n.d[t, row] * n.B[t, row, k] * n.v[t, row]
                y = y + n.C[t, row, k] * c[k]
            outputs.append(y)
        last.append(torch.cat(c))
        outputs += [torch.zeros(E, dtype=n.d.dtype)] * (T - len(outputs))
        rows.append(torch.stack(outputs))
    return torch.stack(rows, dim=1), torch.stack(last)


@pytest.mark.parametrize("which", ["compiled", "plain"])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("resets", [False, True], ids=["", "resets"])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (19, 2, 5, 2), (4, 3, 70, 9)], ids=str)
def test_a_selective_scan_is_the_loop_in_values_and_gradients(size, resets, ragged, which):
    n = Selected(*size)
    given = n.lengths if ragged else None, n.resets if resets else None
    path = compiled_selection if which == "compiled" else plain_selection
    assert_same(
        with_gradients(path(*n.inputs, *given), n.inputs),
        with_gradients(selected_by_loop(n, *given), n.inputs),
    )


# Within and across a chunk of 16 steps, a tile of 512 bytes of features, and blocks of states.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(16, 3, 16, 8), (17, 2, 33, 17), (50, 3, 260, 16)], ids=str)
def test_the_selective_kernel_is_the_plain_scan_at_every_size(size, dtype):
    n = Selected(*size, dtype, seed=9)
    ours = with_gradients(compiled_selection(*n.inputs, n.lengths, n.resets), n.inputs)
    theirs = with_gradients(plain_selection(*n.inputs, n.lengths, n.resets), n.inputs)
    for a, b in zip(ours, theirs, strict=True):
        near = 4 * TOLERANCES[dtype] * max(1.0, float(b.detach().abs().max()))
        assert (a - b).abs().max() <= near


def test_threads_chunks_rows_and_strides_of_a_selective_scan_give_the_same_bits():
    n = Selected(90, 5, 260, 9, torch.float32, seed=5)
    given = n.lengths, n.resets
    whole = with_gradients(compiled_selection(*n.inputs, *given), n.inputs)
    for count in (2, 3, 5):
        with threads(count):
            ours = with_gradients(compiled_selection(*n.inputs, *given), n.inputs)
        assert all(map(torch.equal, ours, whole))
    y, last = whole[:2]
    with torch.no_grad():
        now, parts = n.c0, []
        for t in range(0, 90, 37):
            cut, left = slice(t, t + 37), (n.lengths - t).clamp(0, min(37, 90 - t))
            d, v, B, C = (x[cut] for x in (n.d, n.v, n.B, n.C))
            part, now = compiled_selection(d, v, n.A, B, C, n.D, now, left, n.resets[cut])
            parts.append(part)
        assert torch.equal(torch.cat(parts), y)
        assert torch.equal(now, last)
        one = slice(3, 4)
        d, v, B, C = (x[:, one] for x in (n.d, n.v, n.B, n.C))
        alone, _ = compiled_selection(
            d, v, n.A, B, C, n.D, n.c0[one], n.lengths[one], n.resets[:, one]
        )
        assert torch.equal(alone, y[:, one])
        d, v, B, C = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (n.d, n.v, n.B, n.C))
        assert torch.equal(compiled_selection(d, v, n.A, B, C, n.D, n.c0, *given)[0], y)


def test_a_selective_scan_is_differentiable_twice_and_its_padding_is_not_read():
    n = Selected(4, 3, 2, 2, seed=2)
    given = n.lengths, n.resets
    assert torch.autograd.gradgradcheck(lambda *x: compiled_selection(*x, *given), n.inputs)
    foul = [t.detach().clone() for t in (n.d, n.v, n.B, n.C)]
    for x in foul:
        for row, end in enumerate(n.lengths.tolist()):
            x[end:, row] = torch.nan
    d, v, B, C = (t.requires_grad_() for t in foul)
    inputs = [d, v, n.A, B, C, n.D, n.c0]
    expected = with_gradients(plain_selection(*n.inputs, *given), n.inputs)
    for path in (compiled_selection, plain_selection):
        assert_same(with_gradients(path(*inputs, *given), inputs), expected)


def test_without_d_nothing_leads_past_the_state():
    n = Selected(5, 2, 3, 2)
    zeros = [*n.inputs[:5], torch.zeros_like(n.D), n.c0]
    without = [*n.inputs[:5], None, n.c0]
    inputs = [*n.inputs[:5], n.c0]
    expected = with_gradients(compiled_selection(*zeros), inputs)
    for path in (compiled_selection, plain_selection):
        assert_same(with_gradients(path(*without), inputs), expected)
    d, v, A, B, C = n.inputs[:5]
    y, last = selective_scan(d, v, A, B, C, c0=n.c0)
    assert_same([y, last], expected[:2])
    assert torch.equal(selective_scan(d, v, A, B, C)[1], selective_scan(d, v, A, B, C, n.D)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (7, 3, 5, 2), (3, 2, 150, 4)], ids=str)
def test_a_causal_convolution_is_that_of_pytorch(sizes, dtype):
    T, B, E, k = sizes
    given = [random(T + k - 1, B, E, seed=1, dtype=dtype), random(k, E, seed=2, dtype=dtype)]
    x, kernel, bias = (t.requires_grad_() for t in (*given, random(E, seed=3, dtype=dtype)))

    def ours(x, kernel, bias):
        return convolve(Window(x, x[len(kernel) - 1 :], x[:0]), kernel, bias)

    for b in (bias, None):
        inputs = [x, kernel] if b is None else [x, kernel, b]
        found = with_gradients(ours(x, kernel, b), inputs)
        rows = torch.nn.functional.conv1d(x.permute(1, 2, 0), kernel.t()[:, None], b, groups=E)
        expected = with_gradients(rows.permute(2, 0, 1), inputs)
        for mine, theirs in zip(found, expected, strict=True):
            near = TOLERANCES[dtype] * max(1.0, float(theirs.detach().abs().max()))
            assert (mine - theirs).abs().max() <= near
        with threads(3):
            assert all(map(torch.equal, with_gradients(ours(x, kernel, b), inputs), found))
    small = [random(*s, seed=4).requires_grad_() for s in ((4, 2, 2), (2, 2), (2,))]
    assert torch.autograd.gradgradcheck(ours, small)


def test_a_selective_scan_keeps_one_state_in_sixteen_steps():
    n = Selected(33, 1, 5, 4)
    y, _ = compiled_selection(*n.inputs)
    kept = [t for t in y.grad_fn.saved_tensors if t.dim() == 3 and t.shape[-1] == 20]
    assert [tuple(t.shape) for t in kept] == [(3, 1, 20)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 3, 7), (97, 33, 70), (200, 600, 20)], ids=str)
def test_a_product_is_that_of_pytorch_and_each_row_has_its_own_bits(sizes, dtype):
    N, k, columns = sizes
    scale = k**-0.5
    x, w = random(N, k, seed=1, dtype=dtype), random(columns, k, seed=2, dtype=dtype, scale=scale)
    inputs = [x, w, random(columns, seed=3, dtype=dtype)]
    inputs = [t.requires_grad_() for t in inputs]
    ours = with_gradients(product(*inputs), inputs)
    theirs = with_gradients(torch.nn.functional.linear(*inputs), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= TOLERANCES[dtype] * max(1.0, float(b.detach().abs().max()))
    with torch.no_grad():
        for row in (0, N - 1):
            assert torch.equal(product(x[row], w, inputs[2]), ours[0][row])
        assert torch.equal(product(x.reshape(N, 1, k), w), product(x, w)[:, None])
        with threads(3):
            assert torch.equal(product(*inputs), ours[0])
    small = [random(*s, seed=4).requires_grad_() for s in ((2, 3), (4, 3), (4,))]
    assert torch.autograd.gradgradcheck(product, small)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "exp", "softplus", "silu"])
def test_functions_are_those_of_pytorch_and_each_number_has_its_own_bits(name, dtype):
    x = (8 * random(7, 3, 100, seed=1, dtype=dtype)).requires_grad_()
    x.data[0, 0, :5] = torch.tensor([0.0, -1e-6, 80.0, -80.0, torch.nan])
    f, plain = getattr(COMPILED, name), getattr(PLAIN, name)
    ours = with_gradients(f(x.chunk(4, dim=-1)[1]), [x])
    theirs = with_gradients(plain(x.chunk(4, dim=-1)[1]), [x])
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype], equal_nan=True)
    with torch.no_grad():
        near = torch.finfo(dtype).eps * 8
        assert torch.allclose(f(x), plain(x), rtol=near, atol=1e-37, equal_nan=True)
        for place in [(0, 0, 0), (3, 1, 49), (6, 2, 99)]:
            assert torch.equal(f(x[place][None]), f(x)[place][None])
        with threads(3):
            assert torch.equal(f(x[1:]), f(x)[1:])
    small = random(2, 3, seed=4).requires_grad_()
    assert torch.autograd.gradgradcheck(f, small)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"a": torch.ones(2)}, r"a is torch.float32 of shape \(2,\); expected torch.float32 of"),
        ({"b": torch.ones(3, 2)}, r"b is torch.float32 of shape \(3, 2\); expected \(T, B, H\)"),
        ({"is_complex": True}, r"b .*; expected \(T, B, 2H\), pairs"),
        ({"h0": torch.ones(2, 3, dtype=torch.float64)}, "h0 is torch.float64"),
        ({"lengths": torch.tensor([1.0, 2.0])}, "lengths is torch.float32"),
        ({"lengths": torch.tensor([1, 5])}, "lengths has 5 for row 1; expected 0 to 4"),
        ({"resets": torch.ones(4, 2)}, "resets is torch.float32 .*; expected torch.bool"),
    ],
)
def test_errors_name_the_argument(wrong, message):
    given = {"a": torch.ones(4, 2, 3), "b": torch.ones(4, 2, 3)}
    with pytest.raises(ShapeError, match=message):
        linear_recurrence(**given | wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"d": torch.ones(4, 2)}, r"d is .*\(4, 2\); expected \(T, B, E\) floating"),
        ({"v": torch.ones(4, 2, 2)}, r"v is .*; expected torch.float32 of shape \(4, 2, 3\)"),
        ({"A": torch.ones(3)}, r"A is .*\(3,\); expected \(N, 3\)"),
        ({"A": torch.ones(0, 3)}, r"A is .*\(0, 3\); expected \(N, 3\), N 1 or more"),
        ({"B": torch.ones(4, 2, 3)}, r"B is .*; expected torch.float32 of shape \(4, 2, 5\)"),
        ({"C": torch.ones(4, 2, 5).double()}, "C is torch.float64"),
        ({"D": torch.ones(5)}, r"D is .*; expected torch.float32 of shape \(3,\)"),
        ({"c0": torch.ones(2, 5, 3)}, r"c0 is .*; expected torch.float32 of shape \(2, 15\)"),
        ({"lengths": torch.tensor([1, 5])}, "lengths has 5 for row 1; expected 0 to 4"),
    ],
)
def test_errors_of_a_selective_scan_name_the_argument(wrong, message):
    given = {"d": torch.ones(4, 2, 3), "v": torch.ones(4, 2, 3), "A": torch.ones(5, 3)}
    given |= {"B": torch.ones(4, 2, 5), "C": torch.ones(4, 2, 5)}
    with pytest.raises(ShapeError, match=message):
        selective_scan(**given | wrong)


# The cells.


def call(name, directions=1, seed=0, T=4):
    cases = [Case(LINEAR[name], seed=seed + i, T=T) for i in range(directions)]
    cell, states = cases[0].cell, zip(*(case.state for case in cases), strict=True)
    state = cell.state_type(*(torch.stack([s.detach() for s in each]) for each in states))
    return cell, [case.w for case in cases], cases[0].x, state


def on(path, call, lengths):
    cell, weights, x, state = call
    inputs = [x, *state, *(t for w in weights for t in w.values())]
    inputs = [t.requires_grad_() for t in inputs]
    with use_backend(path):
        assert choose(cell, x) == path
        y, last = run(cell, weights, x, state, lengths)
    assert type(last) is cell.state_type
    return with_gradients((y, last), inputs)


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]], ids=["even", "ragged"])
@pytest.mark.parametrize("directions", [1, 2])
@NAMES
def test_a_cell_on_the_core_is_the_reference(name, directions, lengths):
    given = call(name, directions)
    lengths = None if lengths is None else torch.tensor(lengths)
    assert_same(on("compiled", given, lengths), on("reference", given, lengths))


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]], ids=["even", "ragged"])
@NAMES
def test_gates_and_states_of_every_step_are_those_of_the_reference(name, lengths):
    cell, weights, x, state = call(name, directions=2)
    lengths, seen = None if lengths is None else torch.tensor(lengths), {}
    for path in ("compiled", "reference"):
        seen[path] = []
        with use_backend(path):
            run(cell, weights, x, state, lengths, traces=seen[path])
    for ours, theirs in zip(seen["compiled"], seen["reference"], strict=True):
        assert type(ours.states) is type(theirs.states) is cell.state_type
        assert type(ours.gates) is type(theirs.gates)
        assert_same([*ours.states, *(ours.gates or ())], [*theirs.states, *(theirs.gates or ())])


def wider(name, I=5, H=24):
    cell = replace(LINEAR[name], hidden_size=H)
    return replace(cell, input_size=H if name == "sru-square" else I)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@NAMES
def test_steps_parts_and_rows_alone_have_the_bits_of_the_whole(name, dtype):
    torch.manual_seed(0)
    layer = Recurrent(wider(name), 2, dtype=dtype)
    x = torch.randn(23, 3, layer.input_size, dtype=dtype)
    with torch.no_grad():
        y, last = layer(x)
        state, steps = None, []
        for x_t in x:
            y_t, state = layer.step(x_t, state)
            steps.append(y_t)
        assert torch.equal(torch.stack(steps), y)
        assert all(map(torch.equal, leaves(state), leaves(last)))
        first, state = layer(x[:9])
        second, state = layer(x[9:], state)
        assert torch.equal(torch.cat([first, second]), y)
        alone, _ = layer(x[:, 1:2])
        assert torch.equal(alone, y[:, 1:2])
        with threads(3):
            assert torch.equal(layer(x)[0], y)
        padded = torch.cat([x, torch.full_like(x[:4], torch.nan)])
        assert torch.equal(layer(padded, lengths=[23] * 3)[0][:23], y)


@pytest.mark.parametrize("name", ["qrnn", "lru", "mamba"])
def test_a_layer_compiles_whole_with_lengths_and_gradients(name):
    torch.manual_seed(0)
    layer = Recurrent(LINEAR[name], 2, bidirectional=True).double()
    x = torch.randn(6, 3, layer.input_size).double().requires_grad_()
    lengths, inputs = torch.tensor([6, 0, 3]), [x, *layer.parameters()]

    def f(x):
        return layer(x, lengths=lengths)[0]

    whole = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert_same(with_gradients(whole(x), inputs), with_gradients(f(x), inputs))


@pytest.mark.parametrize("name", ["min-lstm", "lru", "mamba"])
def test_segments_that_backward_computes_again_give_the_same_gradients(name):
    torch.manual_seed(0)
    layer = Recurrent(LINEAR[name], bidirectional=True).double()
    x = torch.randn(7, 3, layer.input_size).double().requires_grad_()
    lengths, inputs = torch.tensor([7, 0, 4]), [x, *layer.parameters()]
    found = []
    for every in (None, 3):
        layer.checkpoint_every = every
        found.append(with_gradients(layer(x, lengths=lengths)[0], inputs))
    assert_same(*found)


# Published initialisations.


def drawn(cell, seed=0):
    torch.manual_seed(seed)
    w = {n: torch.full(s, torch.nan, dtype=torch.float64) for n, s in cell.weight_shapes().items()}
    cell.initialize(w)
    return w


def test_an_lru_starts_on_a_ring_and_keeps_the_variance_of_its_input():
    cell = LRUCell(8, 4000, r_min=0.9, r_max=0.99, max_phase=math.pi / 10)
    w = drawn(cell)
    size, angle = (-w["nu"].exp()).exp(), w["theta"].exp()
    assert 0.9 <= size.min() < 0.901
    assert 0.989 < size.max() <= 0.99
    assert abs((size**2).mean() - (0.9**2 + 0.99**2) / 2) < 0.005  # uniform over the ring
    assert angle.min() > 0
    assert 0.31 < angle.max() <= math.pi / 10
    B = w["weight_ih"][:8000]
    assert abs(B.std() * 4 - 1) < 0.02
    x = torch.randn(2000, 1, 8, dtype=torch.float64)
    steps = cell.steps(w, [cell.project(w, x)])
    c, _ = compiled_recurrence(steps.a, steps.b, torch.zeros(1, 8000).double(), None, None, True)
    assert abs(c[1000:].square().mean() - 0.5) < 0.02  # of either part


def test_an_s5_layer_starts_from_the_eigenvalues_of_hippo():
    cell = S5Cell(6, 8, memory=8, blocks=2)
    w = drawn(cell)
    n = 8
    root = np.sqrt(np.arange(n) + 0.5)
    legs = np.tril(-2 * np.outer(root, root), -1) - np.diag(np.arange(n) + 1.0)
    normal = legs + np.outer(root, root)  # HiPPO-LegS and its low-rank part: HiPPO-N
    known = np.linalg.eigvals(normal)
    known = np.sort(known[known.imag > 0].imag)
    np.testing.assert_allclose(np.linalg.eigvals(normal).real, -0.5, atol=1e-9)
    np.testing.assert_allclose(w["frequency"], np.tile(known, 2), rtol=1e-9)
    np.testing.assert_allclose(w["decay"].exp(), 0.5)
    assert w["step"].min() >= math.log(0.001)
    assert w["step"].max() <= math.log(0.1)
    # Turned into the basis of half of the eigenvectors, B and C keep half of their squares.
    wide = drawn(S5Cell(400, 400, memory=20))
    assert abs(wide["weight_ih"][:40].square().sum() - 20) < 1
    assert abs(wide["weight_ch"].square().sum() - 200) < 10


def test_the_decay_of_an_rg_lru_starts_uniform():
    w = drawn(RGLRUCell(16, 4000))
    a = torch.sigmoid(w["decay"]) ** 8
    assert 0.9 <= a.min() < 0.901
    assert 0.998 < a.max() <= 0.999
    assert abs(a.mean() - 0.9495) < 0.002
    assert abs(w["weight_ih"].std() * 4 - 1) < 0.02
    assert not w["bias_ih"].any()


def test_a_selective_layer_starts_with_the_time_scales_of_the_paper():
    w = drawn(SelectiveCell(4, 2000))
    d = torch.nn.functional.softplus(w["d"])
    assert 0.001 <= d.min() < 0.0011
    assert 0.09 < d.max() <= 0.1
    assert abs(d.log().mean() - math.log(0.01)) < 0.1
    assert torch.equal(w["A"].exp().round(), torch.arange(1, 17).double().expand(4000, 16))
    assert (w["D"] == 1).all()


def test_an_sru_starts_uniform():
    w = drawn(SRUCell(12, 500))
    assert 0.49 < w["weight_ih"].abs().max() <= 0.5
    assert not w["bias_ih"].any()


# In networks and tasks.


@pytest.mark.parametrize("cell", ["min-lstm", "qrnn", "sru", "rg-lru", "lru", "s5", "mamba"])
def test_a_network_of_linear_recurrences_is_diagnosed(cell):
    torch.manual_seed(0)
    layers = recurrent_layers(cell, 3, 4, 2)
    network = ManyToOne(torch.nn.Identity(), layers, Output(layers.output_size, 1, "number"))
    flow = gradient_flow(network, (torch.randn(2, 9, 3), torch.randn(2, 1)), jacobian=True)
    for layer in flow.layers:
        assert (layer.norms[:9] > 0).all()  # the gradient reaches the first step
        assert 0 < layer.growth().factor < 1.2
    found = gates(network, torch.randn(9, 3))
    assert found.layers[1].states["h"].shape == (9, 4)
    assert (cell in ("lru", "s5", "mamba")) == (not found.layers[0].gates)


@pytest.mark.parametrize("cell", ["qrnn", "lru", "s5", "mamba"])
def test_a_classifier_of_linear_recurrences_is_trained_and_stored(cell, tmp_path):
    generator = np.random.default_rng(0)
    X = [generator.normal(size=(generator.integers(3, 9), 2)) for _ in range(24)]
    y = ["low" if x[0, 0] < 0 else "high" for x in X]
    model = SequenceClassifier(cell=cell, num_layers=2, hidden_size=4, steps=4, batch_size=8)
    model.fit(X, y, out=tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.cell == cell
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("cell", ["rg-lru", "mamba"])
def test_a_stream_of_a_task_forecasts_as_the_whole_series_does(cell):
    y = np.sin(np.arange(60) / 3) + 0.1 * np.cos(np.arange(60))
    model = Forecaster(
        horizon=2, season=1, epochs=1, hidden_size=8, ensemble_size=1, context=12, cell=cell
    )
    stream = model.fit(y).stream(y[:55])
    for t in range(55, 60):
        found = stream.observe(y[t])
        np.testing.assert_array_equal(found.median, model.forecast(y[: t + 1]).median)


def test_the_gradient_of_a_shared_factor_is_a_sum_over_steps_and_rows():
    a, b = torch.rand(4, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
    h0, dh = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
    given = [each.requires_grad_() for each in (a, b, h0)]
    h, steps = h0, []
    for b_t in b:
        h = a * h + b_t
        steps.append(h)
    y = torch.stack(steps)
    expected = torch.autograd.grad(y, given, dh)
    found = recurrence_gradients(a, h0, y.detach(), dh, None)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
