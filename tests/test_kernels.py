"""Every path computes what the reference computes, and the caller can tell and choose which ran."""

import logging

import pytest
import torch
from laws import BIASLESS, CELLS, Case, with_gradients
from tolerances import assert_same

from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import GRUCell, LSTMCell, RNNCell
from ostinato.recurrence.kernels import choose, run, use_backend
from ostinato.recurrence.scan import scan

FUSED = ["rnn-tanh", "rnn-relu", "lstm", "lstm-projected", "gru"]
FUSED_CELLS = {n: c for n, c in (CELLS | BIASLESS).items() if n.removesuffix("-biasless") in FUSED}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("cell", FUSED_CELLS.values(), ids=FUSED_CELLS)
def test_pytorchs_operators_equal_the_reference_in_values_and_gradients(cell, dtype, reverse):
    case = Case(cell, dtype=dtype)
    with use_backend("torch"):
        ours = run(cell, case.w, case.x, case.state, reverse=reverse)
    theirs = scan(cell, case.w, case.x, case.state, reverse=reverse)
    assert type(ours[1]) is cell.state_type
    assert_same(with_gradients(ours, case.inputs), with_gradients(theirs, case.inputs))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 0, 2])], ids=["even", "ragged"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_whatever_path_is_chosen_equals_the_reference(cell, lengths, reverse):
    case = Case(cell)
    ours = run(cell, case.w, case.x, case.state, lengths, reverse=reverse)
    theirs = scan(cell, case.w, case.x, case.state, lengths, reverse=reverse)
    assert_same(with_gradients(ours, case.inputs), with_gradients(theirs, case.inputs))


@pytest.mark.parametrize("name", CELLS)
def test_the_fused_operators_serve_even_rows_of_the_standard_cells(name):
    cell = CELLS[name]
    assert choose(cell, steps=3) == ("torch" if name in FUSED else "reference")
    assert choose(cell, steps=3, padded=True) == "reference"
    assert choose(cell, steps=0) == "reference"


def test_a_stack_is_fused_if_all_of_it_can_be():
    lstm, before = LSTMCell(3, 4), GRUCell(4, 4, reset_after=False)
    assert choose((lstm, LSTMCell(4, 4)), steps=3) == "torch"
    assert choose((lstm, before), steps=3) == "reference"


def test_a_derived_cell_is_not_taken_for_its_parent():
    class Half(LSTMCell):
        def step(self, w, x_t, state):
            return type(state)(*(s / 2 for s in super().step(w, x_t, state)))

    case = Case(Half(3, 4))
    assert choose(case.cell, steps=4) == "reference"
    ours, _ = run(case.cell, case.w, case.x, case.state)
    assert_same(ours, scan(case.cell, case.w, case.x, case.state)[0])


def test_a_path_can_be_forced_and_is_let_go_even_after_an_error():
    cell = LSTMCell(3, 4)
    with use_backend("reference"):
        assert choose(cell, steps=3) == "reference"
        with use_backend("auto"):
            assert choose(cell, steps=3) == "torch"
        assert choose(cell, steps=3) == "reference"
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    assert choose(cell, steps=3) == "torch"


def test_a_path_that_cannot_serve_is_an_error():
    sigmoid = RNNCell(3, 4, activation="sigmoid")
    with use_backend("torch"):
        with pytest.raises(OstinatoError, match=r"no fused operator for RNNCell.*sigmoid.* T=3;"):
            choose(sigmoid, steps=3)
        with pytest.raises(OstinatoError, match="T=3 and lengths; use 'auto' or 'reference'"):
            choose(LSTMCell(3, 4), steps=3, padded=True)
    with (
        pytest.raises(OstinatoError, match="'cuda'.*expected 'auto' or one of reference, torch"),
        use_backend("cuda"),
    ):
        pass


def test_the_log_tells_which_path_ran(caplog):
    case = Case(LSTMCell(3, 4))
    with caplog.at_level(logging.DEBUG, logger="ostinato.recurrence"):
        run(case.cell, case.w, case.x, case.state)
        with use_backend("reference"):
            run(case.cell, case.w, case.x, case.state)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "torch",
        "reference",
    ]
    assert "LSTMCell" in caplog.text
    assert "(4, 3, 3)" in caplog.text
