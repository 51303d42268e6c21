"""The core gives the same bits however a call is cut up, laid out, shared out or compiled."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layer_cases import KINDS, LayerCase, draw, threads

from ostinato import _core
from ostinato.recurrence.backends import run, use_backend
from ostinato.recurrence.cells import RNNCell

LAW = settings(max_examples=1000, derandomize=True, deadline=None, database=None)
SEEDS = st.integers(0, 2**32 - 1)
TESTS = Path(__file__).parent


def forward(cell, weights, x, state=None, lengths=None, n=1):
    with threads(n), use_backend("compiled"):
        y, last = run(cell, weights, x, state, lengths)
    return y, last


def assert_equal(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.equal(a, b), f"[{k}] {tuple(a.shape)}"


@st.composite
def calls(draw_, directions=(1, 2), T=(1, 12), B=(1, 9), ragged=None):
    """A small call, its numbers from a seed, nothing to be differentiated."""
    seed = draw_(SEEDS)
    generator = torch.Generator().manual_seed(seed)
    dtype = draw_(st.sampled_from([torch.float32, torch.float64]))
    T, B = draw_(st.integers(*T)), draw_(st.integers(*B))
    sizes = st.one_of(st.integers(1, 9), st.integers(1, 70))
    I, H = draw_(sizes), draw_(sizes)
    make, options = KINDS[draw_(st.sampled_from(list(KINDS)))]
    if "proj_size" in options:
        H += 1
        options = {"proj_size": draw_(st.integers(1, H - 1))}
    cell = make(I, H, bias=draw_(st.booleans()), **options)
    D = draw_(st.sampled_from(directions))

    def numbers(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator)).to(dtype)

    weights = [
        {n: numbers(*s, scale=s[-1] ** -0.5) for n, s in cell.weight_shapes().items()}
        for _ in range(D)
    ]
    state = lengths = None
    if draw_(st.booleans()):
        state = cell.state_type(*(numbers(D, B, size) for size in cell.state_sizes))
    if draw_(st.booleans()) if ragged is None else ragged:
        lengths = torch.randint(0, T + 1, (B,), generator=generator)
    return LayerCase(cell, weights, numbers(T, B, I), state, lengths)


@LAW
@given(calls(directions=[1]), st.lists(st.integers(1, 4), max_size=12))
def test_any_chunking_of_a_sequence_equals_the_whole(case, chunks):
    whole, last = forward(case.cell, case.weights, case.x, case.state, case.lengths)
    T = case.x.shape[0]
    ends = [min(sum(chunks[: k + 1]), T) for k in range(len(chunks))]
    state, outputs, begin = case.state, [], 0
    for end in [*ends, T]:
        left = None if case.lengths is None else (case.lengths - begin).clamp(0, end - begin)
        y, state = forward(case.cell, case.weights, case.x[begin:end], state, left)
        outputs.append(y)
        begin = end
    assert_equal([torch.cat(outputs), *state], [whole, *last])


@LAW
@given(calls(T=(1, 8), B=(2, 20)), st.data())
def test_a_row_alone_equals_the_row_in_a_batch(case, data):
    y, last = forward(case.cell, case.weights, case.x, case.state, case.lengths)
    row = data.draw(st.integers(0, case.x.shape[1] - 1))
    state = case.state and type(case.state)(*(s[:, row : row + 1] for s in case.state))
    x, T = case.x[:, row : row + 1], case.x.shape[0]
    if case.lengths is not None:
        # Alone it needs no lengths.
        T = int(case.lengths[row])
        x = x[:T]
    alone, last_alone = forward(case.cell, case.weights, x, state)
    assert_equal([alone, *last_alone], [y[:T, row : row + 1], *(s[:, row : row + 1] for s in last)])
    assert not (y[T:, row] != 0).any()


@LAW
@given(calls(B=(2, 20)), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(case, random):
    order = list(range(case.x.shape[1]))
    random.shuffle(order)
    y, last = forward(case.cell, case.weights, case.x, case.state, case.lengths)
    state = case.state and type(case.state)(*(s[:, order] for s in case.state))
    lengths = None if case.lengths is None else case.lengths[order]
    mixed, last_mixed = forward(case.cell, case.weights, case.x[:, order], state, lengths)
    assert_equal([mixed, *last_mixed], [y[:, order], *(s[:, order] for s in last)])


def with_threads(case, n):
    return LayerCase(case.cell, case.weights, case.x, case.state, case.lengths, threads=n)


@LAW
@given(SEEDS, st.integers(2, 6))
def test_any_number_of_threads_computes_the_same(seed, n):
    case = draw(seed)
    assert_equal(with_threads(case, n).on_the_core(), with_threads(case, 1).on_the_core())


# Around the work that is worth another thread, 8e6 operations: so many times that.
@settings(LAW, max_examples=150)
@given(
    SEEDS,
    st.sampled_from(list(KINDS)),
    st.sampled_from([1, 2, 3, 17, 40]),
    st.sampled_from([33, 64, 129, 300]),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.floats(0.5, 4.0),
    st.integers(2, 6),
)
@example(0, "lstm", 1, 129, 1, False, 3.5, 3)  # split by hidden units
@example(0, "lstm", 1, 129, 2, False, 3.5, 6)  # in two groups
@example(0, "gru", 17, 300, 1, False, 4.0, 4)  # and rows
@example(0, "rnn-relu", 1, 300, 1, True, 4.0, 3)
def test_so_it_does_with_work_for_several(seed, kind, B, H, directions, ragged, times, n):
    generator = torch.Generator().manual_seed(seed)
    make, options = KINDS[kind]
    if "proj_size" in options:
        options = {"proj_size": H // 2}
    cell = make(20, H, **options)
    G = 1 if make is RNNCell else 4 if kind.startswith("lstm") else 3
    T = round(times * 8e6 / (2 * directions * B * G * H * (20 + cell.output_size)))

    def leaf(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator)).requires_grad_()

    weights = [
        {n: leaf(*s, scale=s[-1] ** -0.5) for n, s in cell.weight_shapes().items()}
        for _ in range(directions)
    ]
    T = min(max(T, 1), 400)
    lengths = torch.randint(T // 2, T + 1, (B,), generator=generator) if ragged else None
    state = cell.state_type(*(leaf(directions, B, size) for size in cell.state_sizes))
    case = LayerCase(cell, weights, leaf(T, B, 20), state, lengths)
    assert_equal(with_threads(case, n).on_the_core(), with_threads(case, 1).on_the_core())


@LAW
@given(SEEDS)
def test_the_layout_of_the_input_does_not_matter(seed):
    case = draw(seed)
    theirs = case.like(lambda t: t.contiguous())
    assert_equal(case.on_the_core(), theirs.on_the_core())
    if case.x.dim() == 3:
        rows_first = case.like(
            lambda t: t if t.shape != case.x.shape else t.transpose(0, 1).clone().transpose(0, 1)
        )
        assert_equal(rows_first.on_the_core(), theirs.on_the_core())


# One instruction set and another.

RANDOM_CALLS = 1200


def hashes():
    """Of every one of so many calls, its values and gradients."""
    for seed in range(RANDOM_CALLS):
        found = draw(seed).on_the_core()
        bits = b"".join(t.contiguous().numpy().tobytes() for t in found)
        yield hashlib.sha256(bits).hexdigest()


def hashes_with(instruction_set):
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\nimport test_same_bits as t\n"
    return subprocess.run(
        [sys.executable, "-c", code + "print(t._core.instruction_set(), *t.hashes(), sep='\\n')"],
        env=os.environ | {"OSTINATO_ISA": instruction_set, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_the_instruction_sets_with_fused_products_compute_the_same():
    if not _core.instruction_set().startswith("x86-64"):
        pytest.skip("this CPU is no x86")
    four, three = hashes_with("x86-64-v4"), hashes_with("x86-64-v3")
    for done in (four, three):
        if "is more than this CPU can run" in done.stderr:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr
    (name, *ours), (other, *theirs) = four.stdout.split(), three.stdout.split()
    assert (name, other) == ("x86-64-v4", "x86-64-v3")
    assert len(ours) == len(theirs) == RANDOM_CALLS
    assert len(set(ours)) > 0.9 * RANDOM_CALLS
    different = [seed for seed in range(RANDOM_CALLS) if ours[seed] != theirs[seed]]
    assert not different, f"{len(different)} calls differ, draw({different[0]}) first"
