"""The engine: its values, its gradients, and that it may be cut, padded and reversed."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import (
    BIASLESS,
    CELLS,
    VARIANTS,
    Case,
    detached,
    equations_with_gradients,
    leaves,
    random,
    with_gradients,
)
from tolerances import TOLERANCES, assert_same

from ostinato.recurrence.cells import (
    Cell,
    GRUCell,
    GRUDCell,
    LinearCell,
    MLSTMCell,
    RNNCell,
    RNNState,
    SelectiveCell,
    SLSTMCell,
    ZoneoutCell,
)
from ostinato.recurrence.diagonal import mask_of, parallel_scan, sequential_scan
from ostinato.recurrence.scan import reverse_rows, scan

EACH = pytest.mark.parametrize("cell", (CELLS | VARIANTS).values(), ids=CELLS | VARIANTS)
BOTH_DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])

RAGGED = torch.tensor([4, 0, 2])


def run(case, lengths=None, reverse=False):
    return scan(case.cell, case.w, case.x, case.state, lengths, reverse=reverse)


# What it computes.


@BOTH_DIRECTIONS
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]], ids=["even", "ragged"])
@pytest.mark.parametrize(
    "cell", (CELLS | BIASLESS | VARIANTS).values(), ids=CELLS | BIASLESS | VARIANTS
)
def test_scan_is_the_equations_in_values_and_gradients(cell, lengths, reverse):
    case = Case(cell)
    given = None if lengths is None else torch.tensor(lengths)
    ours = with_gradients(run(case, given, reverse), case.inputs)
    assert_same(ours, equations_with_gradients(case, lengths, reverse))


@EACH
def test_the_state_starts_at_zero_unless_it_is_given(cell):
    case = Case(cell)
    ours = scan(cell, case.w, case.x)
    theirs = scan(cell, case.w, case.x, cell.zero_state(case.B, like=case.x))
    assert_same(leaves(ours), leaves(theirs))


@pytest.mark.parametrize(
    ("lengths", "reverse"), [(None, False), ([3, 0], False), ([3, 2], True)], ids=str
)
@EACH
def test_scan_is_differentiable_twice(cell, lengths, reverse):
    if isinstance(cell, ZoneoutCell):
        cell = replace(cell, inner=replace(cell.inner, input_size=2, hidden_size=3))
    else:
        has_heads = isinstance(cell, MLSTMCell | SLSTMCell)
        cell = replace(cell, input_size=2, hidden_size=4 if has_heads else 3)
    case = Case(cell, T=3, B=2)
    lengths = None if lengths is None else torch.tensor(lengths)
    states = len(case.state)

    def f(x, *rest):
        state, w = cell.state_type(*rest[:states]), dict(zip(case.w, rest[states:], strict=True))
        return tuple(leaves(scan(case.cell, w, x, state, lengths, reverse=reverse)))

    assert torch.autograd.gradcheck(f, case.inputs)
    assert torch.autograd.gradgradcheck(f, case.inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@EACH
def test_every_float_dtype_works(cell, dtype):
    case = Case(cell, dtype=dtype)
    exact = Case(cell)
    with torch.no_grad():
        for wide, narrow in zip(exact.inputs, case.inputs, strict=True):
            wide.copy_(narrow)
    ours = with_gradients(run(case, RAGGED), case.inputs)
    theirs = with_gradients(run(exact, RAGGED), exact.inputs)
    steps = 2 if isinstance(cell, SelectiveCell) else 1  # products of products are rounded again
    assert_same([t / steps for t in ours], [t.to(dtype) / steps for t in theirs])


@BOTH_DIRECTIONS
def test_no_steps_are_no_change(reverse):
    case = Case(CELLS["lstm-projected"], T=0)
    y, state = run(case, reverse=reverse)
    assert y.shape == (0, case.B, case.cell.output_size)
    assert all(torch.equal(a, b) for a, b in zip(state, case.state, strict=True))


@dataclass(frozen=True)
class Leaky(Cell):
    """A stranger's cell: another state, no projection, a decay that is no matrix."""

    state_type = RNNState

    def weight_shapes(self):
        return {"weight_ih": (self.hidden_size, self.input_size), "decay": (self.hidden_size,)}

    def step(self, w, x_t, state):
        return RNNState(w["decay"] * state.h + x_t @ w["weight_ih"].T)


@BOTH_DIRECTIONS
def test_any_cell_will_do(reverse):
    case = Case(Leaky(3, 4), T=3)
    y, state = run(case, RAGGED.clamp(max=3), reverse)
    (h,), u, a = case.state, case.x @ case.w["weight_ih"].T, case.w["decay"]
    order = [2, 1, 0] if reverse else [0, 1, 2]
    wanted = a * (a * (a * h[0] + u[order[0], 0]) + u[order[1], 0]) + u[order[2], 0]
    assert_same([y[order[2], 0], state.h[0], state.h[1]], [wanted, wanted, h[1]])


# The chunk law.


@EACH
@given(
    chunks=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    lengths=st.none() | st.tuples(*[st.integers(0, 12)] * 3),
)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_any_partition_gives_the_same_outputs_states_and_gradients(cell, chunks, lengths):
    case = Case(cell, T=sum(chunks))
    lengths = None if lengths is None else torch.tensor(lengths).clamp(max=case.T)
    outputs, state, start = [], case.state, 0
    for chunk in case.x.split(chunks):
        own = None if lengths is None else (lengths - start).clamp(0, len(chunk))
        y, state = scan(cell, case.w, chunk, state, own)
        outputs.append(y)
        start += len(chunk)
    ours = with_gradients((torch.cat(outputs), state), case.inputs)
    assert_same(ours, with_gradients(run(case, lengths), case.inputs))


# The padding law.


@BOTH_DIRECTIONS
@EACH
def test_a_padded_row_equals_the_row_alone(cell, reverse):
    case = Case(cell, seed=1)
    y, state = run(case, RAGGED, reverse)
    for row, n in enumerate(RAGGED.tolist()):
        here = slice(row, row + 1)
        alone = cell.state_type(*(s[here] for s in case.state))
        y_alone, alone = scan(cell, case.w, case.x[:n, here], alone, reverse=reverse)
        assert_same([y[:n, here], *(s[here] for s in state)], [y_alone, *alone])
        assert not y[n:, here].any()


@BOTH_DIRECTIONS
@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, -torch.inf])
@EACH
def test_nothing_in_the_padding_reaches_an_output_or_a_gradient(cell, rubbish, reverse):
    clean, foul = Case(cell), Case(cell)
    with torch.no_grad():
        for row, n in enumerate(RAGGED.tolist()):
            foul.x[n:, row] = rubbish
    ours = with_gradients(run(foul, RAGGED, reverse), foul.inputs)
    theirs = with_gradients(run(clean, RAGGED, reverse), clean.inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@BOTH_DIRECTIONS
@EACH
def test_a_row_without_steps_keeps_its_state_and_learns_nothing(cell, reverse):
    case = Case(cell)
    y, state = run(case, RAGGED, reverse)
    assert all(torch.equal(new[1], old[1]) for new, old in zip(state, case.state, strict=True))
    kept = sum(s[1].sum() for s in state) + y[:, 1].sum()
    by_x, *by_state = torch.autograd.grad(kept, [case.x, *case.state])
    assert not by_x.any()
    wanted = torch.tensor([[0.0], [1.0], [0.0]]).double()
    assert all(torch.equal(gradient, wanted.expand_as(gradient)) for gradient in by_state)


def test_the_mask_is_true_where_a_row_still_has_a_step():
    wanted = [[True, False, True], [True, False, True], [True, False, False]]
    assert mask_of(torch.tensor([3, 0, 2]), 3)[..., 0].tolist() == wanted


# The reversal law.


@EACH
def test_a_reverse_scan_is_a_forward_scan_of_the_reversed_row(cell):
    case = Case(cell, seed=2)
    y, state = run(case, RAGGED, reverse=True)
    for row, n in enumerate(RAGGED.tolist()):
        backwards = torch.arange(n - 1, -1, -1)
        here = slice(row, row + 1)
        alone = cell.state_type(*(s[here] for s in case.state))
        y_alone, alone = scan(cell, case.w, case.x[backwards, here], alone)
        assert_same([y[backwards, here], *(s[here] for s in state)], [y_alone, *alone])


def test_reversing_rows_twice_changes_nothing_and_padding_stays():
    x = random(5, 4, 2, seed=1)
    lengths = torch.tensor([5, 0, 1, 3])
    once = reverse_rows(x, lengths)
    assert torch.equal(reverse_rows(once, lengths), x)
    assert torch.equal(once[3:, 3], x[3:, 3])
    assert torch.equal(once[:, 1], x[:, 1])
    assert torch.equal(once[:3, 3], x[:3, 3].flip(0))
    assert torch.equal(reverse_rows(x), reverse_rows(x, torch.tensor([5] * 4)))


# Back-propagation through time, written out.


def truncated_sum(case, window):
    """dL/dW_hh of a tanh network for L = sum of g_t h_t, every term of the double sum.

    dL/dW = sum over t and over s <= t in the same window of
            (diag(1 - h_s^2) J^T g_t) h_(s-1)^T,   J = dh_t/dh_s = prod of diag(1 - h_j^2) W_hh.
    """
    w = {name: weight.detach().numpy() for name, weight in case.w.items()}
    W, gradient = w["weight_hh"], 0.0
    for row in range(case.B):
        h = [case.state.h[row].detach().numpy()]  # h[t + 1] is the state after step t
        for x in case.x[:, row].detach().numpy():
            a = w["weight_ih"] @ x + w["bias_ih"] + W @ h[-1] + w["bias_hh"]
            h.append(np.tanh(a))
        for t in range(case.T):
            g = weighting(case)[t, row].numpy()
            for s in range(t - t % window, t + 1):
                J = np.eye(len(W))
                for j in range(s + 1, t + 1):
                    J = np.diag(1 - h[j + 1] ** 2) @ W @ J
                gradient += np.outer((1 - h[s + 1] ** 2) * (J.T @ g), h[s])
    return torch.from_numpy(gradient)


def weighting(case):
    return random(case.T, case.B, case.cell.output_size, seed=50)


def truncated_autograd(case, window):
    """The same by autograd: the state is detached between windows."""
    state, loss = case.state, 0.0
    for x, g in zip(case.x.split(window), weighting(case).split(window), strict=True):
        y, state = scan(case.cell, case.w, x, detached(state))
        loss = loss + (g * y).sum()
    return torch.autograd.grad(loss, list(case.w.values()))


@pytest.mark.parametrize("window", [1, 2, 3, 6, 9])
def test_truncated_bptt_is_the_sum_of_jacobian_products_within_each_window(window):
    case = Case(RNNCell(3, 4), T=6, seed=3)
    gradients = dict(zip(case.w, truncated_autograd(case, window), strict=True))
    assert_same([gradients["weight_hh"]], [truncated_sum(case, window)])


@EACH
def test_truncated_bptt_with_a_window_of_the_whole_is_full_bptt(cell):
    case = Case(cell, T=5, seed=4)
    y, _ = run(case)
    full = torch.autograd.grad((weighting(case) * y).sum(), list(case.w.values()))
    assert_same(truncated_autograd(case, window=5), full)
    assert_same(truncated_autograd(case, window=8), full)
    short = truncated_autograd(case, window=2)
    differ = [(a - b).abs().max() > 1e-3 for a, b in zip(short, full, strict=True)]
    # Where h is no longer fed back, weights between the memory and h have no history; nor where
    # no value is missing the decays.
    assert differ[0] if isinstance(cell, LinearCell | GRUDCell) else all(differ)


# Missing values.


@BOTH_DIRECTIONS
@pytest.mark.parametrize("name", ["gru-d", "gru-d-biasless"])
def test_missing_values_decay_as_in_the_equations(name, reverse):
    case = Case(VARIANTS[name], T=6, B=4)
    with torch.no_grad():
        case.x[random(6, 4, 3, seed=5) > 0] = torch.nan
        case.x[:, 3] = torch.nan  # a row without any value
        case.state.age.abs_()
    lengths = [6, 4, 0, 5]
    ours = with_gradients(run(case, torch.tensor(lengths), reverse), case.inputs)
    assert_same(ours, equations_with_gradients(case, lengths, reverse))


def test_without_missing_values_and_biases_of_decay_it_is_a_gru():
    case = Case(VARIANTS["gru-d"])
    w = {name: weight.detach() for name, weight in case.w.items()}
    w["bias_x"], w["bias_h"] = (torch.zeros_like(w[name]) for name in ("bias_x", "bias_h"))
    y, last = scan(case.cell, w, case.x)
    ones = w["weight_ih"][:, 3:].sum(1)
    gru = {"weight_ih": w["weight_ih"][:, :3], "weight_hh": w["weight_hh"]}
    gru |= {"bias_ih": w["bias_ih"] + ones, "bias_hh": torch.zeros(12).double()}
    theirs, _ = scan(GRUCell(3, 4, reset_after=False), gru, case.x)
    assert_same([y, last.last], [theirs, case.x[-1]])
    assert not last.age.any()


# Exponential gates.


def test_a_normaliser_is_never_below_1_and_large_gates_leave_numbers_finite():
    case = Case(VARIANTS["slstm"], T=300, dtype=torch.float32)
    with torch.no_grad():
        case.w["weight_ih"].mul_(100)
    y, last = scan(case.cell, case.w, case.x)
    gradients = torch.autograd.grad(y.sum(), [*case.w.values(), case.x])
    assert all(part.isfinite().all() for part in (y, *last, *gradients))
    assert (last.n >= 1).all()


# Cells whose state enters linearly.


@pytest.mark.parametrize("T", [1, 2, 3, 8, 13])
def test_a_parallel_scan_is_the_recurrence_step_by_step(T):
    a, b, h = random(T, 2, 3, seed=1), random(T, 2, 3, seed=2), random(2, 3, seed=3)
    wanted, now = [], h
    for t in range(T):
        now = a[t] * now + b[t]
        wanted.append(now)
    assert_same([sequential_scan(a, b, h), parallel_scan(a, b, h)], [torch.stack(wanted)] * 2)


@pytest.mark.parametrize("name", ["min-gru", "min-lstm", "qrnn", "lru", "mamba"])
def test_a_parallel_scan_takes_part_in_vmap_and_grad(name):
    case = Case(VARIANTS[name])
    w = {k: v.detach() for k, v in case.w.items()}

    def last(x):
        return scan(case.cell, w, x[:, None])[0].square().sum()

    rows = case.x.detach().transpose(0, 1)  # (B, T, I)
    x = rows.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(sum(last(row) for row in x), x)
    assert_same([torch.func.vmap(torch.func.grad(last))(rows)], [wanted])


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_of_a_matrix_memory_are_its_steps(chunk, monkeypatch):
    monkeypatch.setattr(MLSTMCell, "chunk", chunk)
    case = Case(MLSTMCell(3, 8, heads=2), T=20)
    lengths = torch.tensor([20, 0, 9])
    ours = with_gradients(run(case, lengths), case.inputs)
    stepwise = scan(case.cell, case.w, case.x, case.state, lengths, observe=lambda *_: None)
    assert_same(ours, with_gradients(stepwise, case.inputs))


def test_a_matrix_memory_stands_large_gates_over_many_steps():
    cell = MLSTMCell(3, 8)
    case = Case(cell, T=300, dtype=torch.float32)
    with torch.no_grad():
        case.w["weight_ih"].mul_(40)
    y, state = run(case)
    assert y.isfinite().all()
    assert all(part.isfinite().all() for part in state)
    gradients = torch.autograd.grad(y.sum(), list(case.w.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_gates_of_a_matrix_memory_start_where_the_input_does_not_matter():
    cell = MLSTMCell(5, 400)
    torch.manual_seed(0)
    w = {n: torch.full(s, torch.nan) for n, s in cell.weight_shapes().items()}
    cell.initialize(w)
    assert not w["weight_ih"][-8:].any()
    assert abs(w["weight_ih"][:-8].std() - (2 / 25) ** 0.5) < 0.01
    assert w["bias_ih"][-4:].tolist() == [3.0, 4.0, 5.0, 6.0]
    assert 0 < w["bias_ih"][-8:-4].abs().max() < 0.5
