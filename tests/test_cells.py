"""A cell is its equations: step, gates, sizes, initialisation."""

import io
import math
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import torch
from laws import (
    BIASLESS,
    CELLS,
    VARIANTS,
    Case,
    H,
    I,
    P,
    equations_with_gradients,
    random,
    with_gradients,
)
from tolerances import assert_same

from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import (
    Cell,
    CellName,
    CoupledLSTMCell,
    GRUCell,
    GRUDCell,
    GRUState,
    HigherOrderCell,
    IndRNNCell,
    JordanCell,
    LayerNormGRUCell,
    LiGRUCell,
    LSTMCell,
    LSTMState,
    MGUCell,
    MinGRUCell,
    MinLSTMCell,
    RNNCell,
    RNNState,
    SLSTMCell,
    ZoneoutCell,
    cell_named,
)

EACH = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
EACH_AND_BIASLESS = pytest.mark.parametrize(
    "cell", (CELLS | BIASLESS).values(), ids=CELLS | BIASLESS
)
EVERY = pytest.mark.parametrize(
    "cell", (CELLS | BIASLESS | VARIANTS).values(), ids=CELLS | BIASLESS | VARIANTS
)
GATED = pytest.mark.parametrize(
    "cell",
    [cell for cell in CELLS.values() if cell.gates_type is not None],
    ids=str,
)


@EVERY
def test_a_step_is_the_equations_in_values_and_gradients(cell):
    case = Case(cell, T=1, seed=1)
    new = cell.step(case.w, cell.project(case.w, case.x)[0], case.state)
    ours = with_gradients((new.h[None], *new), case.inputs)
    assert_same(ours, equations_with_gradients(case))


@GATED
def test_gates_lie_between_0_and_1_and_candidates_between_minus_1_and_1(cell):
    case = Case(cell, seed=2)
    gates = cell.gates(case.w, 3 * cell.project(case.w, case.x)[0], case.state)._asdict()
    candidates = [gates.pop("g" if isinstance(cell, LSTMCell) else "n")]
    assert all((gate > 0).all() and (gate < 1).all() for gate in gates.values())
    assert all((candidate.abs() < 1).all() for candidate in candidates)
    assert any((candidate < 0).any() for candidate in candidates)


def test_an_lstm_is_three_sigmoids_and_one_tanh_around_a_cell():
    cell = LSTMCell(I, H)
    case = Case(cell, seed=3)
    x_t = cell.project(case.w, case.x)[0]
    i, f, g, o = gates = cell.gates(case.w, x_t, case.state)
    sums = x_t + case.state.h @ case.w["weight_hh"].T + case.w["bias_hh"]
    undone = [i.logit(), f.logit(), g.atanh(), o.logit()]
    assert type(gates)._fields == ("i", "f", "g", "o")
    assert_same([torch.cat(undone, dim=-1)], [sums])
    h, c = cell.step(case.w, x_t, case.state)
    assert_same([c, h], [f * case.state.c + i * g, o * torch.tanh(f * case.state.c + i * g)])


def test_a_gru_moves_between_its_state_and_its_candidate():
    cell = GRUCell(I, H)
    case = Case(cell, seed=4)
    x_t = cell.project(case.w, case.x)[0]
    gates = cell.gates(case.w, x_t, case.state)
    h = cell.step(case.w, x_t, case.state).h
    assert type(gates)._fields == ("r", "z", "n")
    assert_same([h], [gates.n + gates.z * (case.state.h - gates.n)])


@pytest.mark.parametrize("reset_after", [True, False])
def test_reset_before_and_after_differ_only_by_where_the_gate_acts(reset_after):
    cell = GRUCell(I, H, reset_after=reset_after)
    case = Case(cell, seed=5)
    x_t = cell.project(case.w, case.x)[0]
    here, there = (
        each.gates(case.w, x_t, case.state)
        for each in (cell, replace(cell, reset_after=not reset_after))
    )
    assert_same([here.r, here.z], [there.r, there.z])
    assert (here.n - there.n).abs().max() > 1e-2


@EVERY
def test_history_matters(cell):
    case = Case(cell, seed=6)
    x_t = cell.project(case.w, case.x[:1])[0]
    other = cell.state_type(*(s.flip(0) for s in case.state))
    ours, theirs = cell.step(case.w, x_t, case.state), cell.step(case.w, x_t, other)
    assert ((ours.h - theirs.h)[[0, 2]].abs().amax(dim=-1) > 1e-3).all()
    assert_same([ours.h[1]], [theirs.h[1]])


@EVERY
def test_states_are_named_and_start_at_zero(cell):
    like = torch.zeros(1, dtype=torch.float16)
    state = cell.zero_state(5, like=like)
    assert type(state) is cell.state_type
    assert [tuple(s.shape) for s in state] == [(5, size) for size in cell.state_sizes]
    assert all(s.dtype == like.dtype and not s.any() for s in state)
    assert state.h.shape == (5, cell.output_size)
    assert cell.zero_state(2).h.dtype == torch.get_default_dtype()


def test_the_names_of_the_states():
    assert RNNState._fields == GRUState._fields == ("h",)
    assert LSTMState._fields == ("h", "c")
    assert LSTMCell(I, H, proj_size=P).state_sizes == (P, H)


@EVERY
def test_a_saved_state_is_loaded_as_what_it_is_where_only_tensors_are(cell):
    state = cell.state_type(*(random(2, size, seed=size) for size in cell.state_sizes))
    file = io.BytesIO()
    torch.save({"state": state}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["state"]
    assert type(loaded) is type(state)
    assert all(map(torch.equal, loaded, state))


def test_the_state_of_an_lstm_is_made_of_two_tensors_or_of_one_iterable():
    h, c = random(2, H, seed=1), random(2, H, seed=2)
    for state in (
        LSTMState(h, c),
        LSTMState([h, c]),
        LSTMState(t for t in (h, c)),
        LSTMState(h, c=c),
    ):
        assert state.h is h
        assert state.c is c
    assert type(state._replace(c=h)) is LSTMState
    for wrong in ([h], [h, c, h]):
        with pytest.raises(ValueError, match="values to unpack"):
            LSTMState(wrong)


def test_every_name_is_that_of_one_cell():
    cells = [make(I, H, **options) for make, options in map(cell_named, get_args(CellName))]
    assert len(set(cells)) == len(cells) >= 13
    with pytest.raises(
        OstinatoError, match="cell='elman'; expected one of .*rnn-relu, rnn, lstm, "
    ) as no:
        cell_named("elman")
    names = {*str(no.value).partition("one of ")[2].rstrip(".").split(", ")}
    assert names == {*get_args(CellName)}, "CellName in variants.py: the names given by @named"


@EACH_AND_BIASLESS
def test_weights_are_named_and_shaped_as_in_pytorch(cell):
    kind = type(cell).__name__.removesuffix("Cell")
    more = {"proj_size": cell.proj_size} if isinstance(cell, LSTMCell) else {}
    theirs = getattr(torch.nn, kind)(I, H, bias=cell.bias, **more).state_dict()
    shapes = {name.removesuffix("_l0"): tuple(w.shape) for name, w in theirs.items()}
    assert list(cell.weight_shapes().items()) == list(shapes.items())


@EVERY
def test_with_input_changes_nothing_else(cell):
    other = cell.with_input(7)
    assert other.input_size == 7
    assert other.with_input(cell.input_size) == cell


def drawn(cell, how, seed=0):
    torch.manual_seed(seed)
    w = {n: torch.full(s, torch.nan, dtype=torch.float64) for n, s in cell.weight_shapes().items()}
    cell.initialize(w, how)
    return w


@EACH_AND_BIASLESS
def test_pytorchs_initialisation_is_uniform_within_one_over_the_root_of_h(cell):
    cell = replace(cell, hidden_size=16)
    for weight in drawn(cell, "pytorch").values():
        assert weight.abs().max() <= 1 / 4
        assert weight.min() < -1 / 8
        assert weight.max() > 1 / 8


@EACH_AND_BIASLESS
def test_orthogonal_initialisation_gate_by_gate(cell):
    w = drawn(cell, "orthogonal")
    for gate in w["weight_hh"].split(H):
        n = min(gate.shape)  # a projected gate is tall: its columns are orthonormal
        product = gate @ gate.T if gate.shape[0] == n else gate.T @ gate
        assert_same([product], [torch.eye(n, dtype=torch.float64)])
    blocks = w["weight_hh"].split(H)
    assert all((a - b).abs().max() > 1e-2 for a, b in pairwise(blocks))


@EACH_AND_BIASLESS
def test_orthogonal_initialisation_draws_other_matrices_after_glorot(cell):
    cell = replace(cell, input_size=30, hidden_size=20)
    w = drawn(cell, "orthogonal")
    blocks = [(gate, 30 + 20) for gate in w["weight_ih"].split(20)]
    blocks += [(w["weight_hr"], 20 + P)] if "weight_hr" in w else []
    for block, fans in blocks:
        bound = math.sqrt(6 / fans)
        assert 0.8 * bound < block.abs().max() <= bound


@EACH
def test_orthogonal_initialisation_opens_the_forget_gate_and_no_other(cell):
    w = drawn(cell, "orthogonal")
    wanted = torch.zeros_like(w["bias_ih"])
    if isinstance(cell, LSTMCell):
        wanted[H : 2 * H] = 1  # i, f, g, o
    assert torch.equal(w["bias_ih"] + w["bias_hh"], wanted)


def test_identity_initialisation_keeps_what_it_holds():
    cell = RNNCell(200, 50, activation="relu")
    w = drawn(cell, "identity")
    assert torch.equal(w["weight_hh"], torch.eye(50, dtype=torch.float64))
    assert 0.0009 < w["weight_ih"].std() < 0.0011
    assert not w["bias_ih"].any()
    assert not w["bias_hh"].any()
    state = RNNState(random(2, 50, seed=1).abs())
    assert_same(cell.step(w, cell.project(w, torch.zeros(2, 200).double()), state), state)


@pytest.mark.parametrize("cell", [LSTMCell(I, H), GRUCell(I, H)], ids=["lstm", "gru"])
def test_identity_initialisation_is_refused_where_it_means_nothing(cell):
    with pytest.raises(OstinatoError, match="'identity' is for RNNCell"):
        drawn(cell, "identity")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMCell(0, 4), "LSTMCell: input_size=0; expected a whole number above zero"),
        (lambda: GRUCell(3, -1), "GRUCell: hidden_size=-1; expected a whole number above zero"),
        (lambda: RNNCell(3, 2.0), "RNNCell: hidden_size=2.0; expected a whole number above zero"),
        (lambda: RNNCell(True, 2), "RNNCell: input_size=True; expected a whole number above zero"),
        (lambda: RNNCell(3, 4, activation="gelu"), "activation='gelu'; expected one of tanh, relu"),
        (lambda: LSTMCell(3, 4, proj_size=4), "proj_size=4; expected 0 .* below hidden_size=4"),
        (lambda: LSTMCell(3, 4, proj_size=-1), "proj_size=-1; expected 0"),
        (lambda: HigherOrderCell(3, 4, order=1), "HigherOrderCell: order=1; expected 2 or more"),
        (lambda: JordanCell(3, 4, outputs=0), "JordanCell: outputs=0; expected 1 or more"),
        (lambda: LayerNormGRUCell(3, 4, reset_after=False), "its reset gate acts after"),
        (lambda: ZoneoutCell(GRUCell(3, 4), 1.5), "ZoneoutCell: rates=1.5; expected 0 to 1"),
        (lambda: ZoneoutCell(GRUCell(3, 4), (0.1, 0.1)), "2 rates; GRUCell has 1 tensors"),
        (lambda: SLSTMCell(3, 6), "SLSTMCell: heads=4, hidden_size=6; expected a number of heads"),
        (lambda: drawn(RNNCell(3, 4), "chrono"), "RNNCell: init='chrono' is for cells"),
        (lambda: drawn(GRUCell(3, 4), "he"), "GRUCell: init='he'; expected one of pyt"),
    ],
)
def test_errors_name_what_came_and_what_was_wanted(make, message):
    with pytest.raises(OstinatoError, match=message):
        make()


def test_an_unfinished_cell_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Cell(I, H)


@pytest.mark.parametrize(
    ("cell", "keeps", "lets_in"),
    [
        (LSTMCell(I, 500), 1, 0),
        (CoupledLSTMCell(I, 500), 0, None),
        (GRUCell(I, 500), 1, None),
        (MGUCell(I, 500), None, 0),
        (LiGRUCell(I, 500), 0, None),
        (GRUDCell(I, 500), 1, None),
        (SLSTMCell(I, 500), 1, None),
        (MinGRUCell(I, 500), None, 0),
        (MinLSTMCell(I, 500), 0, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Cell) else "",
)
def test_chrono_initialisation_spreads_how_long_units_remember(cell, keeps, lets_in):
    w = drawn(cell, "chrono", seed=3)
    if "bias_hh" in w:
        assert not w["bias_hh"].any()
    blocks = w["bias_ih"].split(500)
    for block, sign in ((keeps, 1), (lets_in, -1)):
        if block is not None:
            times = (sign * blocks[block]).exp()  # uniform from 1 to 99, where steps=100
            assert 1 <= times.min() < 3
            assert 97 < times.max() <= 99
            assert 45 < times.mean() < 55
    others = set(range(len(blocks))) - {keeps, lets_in}
    assert not any(blocks[k].any() for k in others)
    torch.manual_seed(3)
    cell.initialize(w, "chrono", steps=10)
    block = lets_in if keeps is None else keeps
    assert 8 < w["bias_ih"].split(500)[block].abs().exp().max() <= 9


@pytest.mark.parametrize("name", ["lstm-norm", "gru-norm"])
@pytest.mark.parametrize("how", ["pytorch", "orthogonal", "chrono"])
def test_gains_start_at_one(name, how):
    w = drawn(VARIANTS[name], how)
    gains = [weight for key, weight in w.items() if key.startswith("gain")]
    assert gains
    assert all((gain == 1).all() for gain in gains)


@pytest.mark.parametrize("make", [LiGRUCell, GRUDCell])
@pytest.mark.parametrize("how", ["pytorch", "orthogonal"])
def test_recurrent_weights_start_orthogonal_where_the_paper_has_them_so(make, how):
    w = drawn(make(5, 30), how)
    for gate in w["weight_hh"].split(30):
        assert_same([gate @ gate.T], [torch.eye(30, dtype=torch.float64)])
    assert 0.9 < w["weight_ih"].abs().max() / math.sqrt(6 / (30 + w["weight_ih"].shape[1])) <= 1
    assert not w["bias_ih"].any()
    if make is GRUDCell:
        assert 0 < w["decay_x"].min() < w["decay_x"].max() <= 0.1
        assert 0 < w["decay_h"].min() < w["decay_h"].max() <= 0.1 / 5


def test_units_of_an_slstm_start_from_remembering_to_forgetting_in_each_head():
    w = drawn(SLSTMCell(5, 40, heads=2), "pytorch")
    assert not w["weight_hh"].any()
    assert 0.9 < w["weight_ih"].std() / math.sqrt(2 / 25) < 1.1
    i, f, g, o = w["bias_ih"].split(40)
    assert not torch.cat([i, g, o]).any()
    assert torch.equal(f[:20], f[20:])
    assert (f[:20].diff() < 0).all()
    assert_same([f[[0, 19]]], [torch.tensor([5.0, -7.0]).double()])
    for block in drawn(SLSTMCell(5, 40, heads=2), "orthogonal")["weight_hh"].split(20):
        assert_same([block @ block.T], [torch.eye(20, dtype=torch.float64)])


def test_units_of_an_indrnn_start_by_what_they_remember():
    cell = IndRNNCell(I, 400)
    u = drawn(cell, "orthogonal")["weight_hh"]
    assert 0 <= u.min() < 0.02
    assert 0.98 < u.max() < 1
    assert (drawn(cell, "identity")["weight_hh"] == 1).all()


@pytest.mark.parametrize(
    ("inner", "rates"),
    [
        (LSTMCell(I, H), (0.2, 0.2)),
        (GRUDCell(I, H), (0.2, 0.0, 0.0)),
        (SLSTMCell(I, H), (0.2, 0.0, 0.0, 0.0)),
        (HigherOrderCell(I, H), (0.2, 0.0)),
        (JordanCell(I, H, outputs=P, elman=True), (0.2, 0.2)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_one_rate_of_zoneout_is_for_what_can_be_kept(inner, rates):
    case = Case(inner, T=1)
    x_t = inner.project(case.w, case.x)[0]
    one, each = ZoneoutCell(inner, 0.2), ZoneoutCell(inner, rates)
    assert_same(one.step(case.w, x_t, case.state), each.step(case.w, x_t, case.state))


def test_zoneout_draws_in_training_and_takes_the_mean_otherwise():
    inner = LSTMCell(I, 2000)
    cell = ZoneoutCell(inner, (0.25, 0.75))
    case = Case(cell, T=1, B=1, seed=7)
    x_t = cell.project(case.w, case.x)[0]
    new = inner.step(case.w, x_t, case.state)
    torch.manual_seed(0)
    drawn_state = cell.in_training().step(case.w, x_t, case.state)
    mean = cell.step(case.w, x_t, case.state)
    for rate, kept, was, fresh, m in zip(
        cell.rates, drawn_state, case.state, new, mean, strict=True
    ):
        stays = kept == was
        assert ((kept == fresh) | stays).all()
        assert abs(stays.double().mean() - rate) < 0.05
        assert_same([m], [rate * was + (1 - rate) * fresh])


def test_a_higher_order_cell_that_heeds_its_last_state_alone_is_elmans():
    cell, elman = HigherOrderCell(I, H, order=3), RNNCell(I, H)
    case = Case(cell, seed=8)
    with torch.no_grad():
        case.w["weight_hh"][:, H:] = 0
    w = case.w | {"weight_hh": case.w["weight_hh"][:, :H]}
    x_t = cell.project(case.w, case.x)[0]
    new = cell.step(case.w, x_t, case.state)
    assert_same([new.h], [elman.step(w, x_t, RNNState(case.state.h)).h])
    assert_same([new.past], [torch.cat([case.state.h, case.state.past[:, :H]], dim=1)])
