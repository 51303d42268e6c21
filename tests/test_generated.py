"""Cells of one's own, compiled: the laws of the core, and what cannot be compiled says so."""

import copy
import os
import pickle
import subprocess
import sys
import time
import warnings
from typing import NamedTuple

import pytest
import torch
from laws import COMPILED_VARIANTS, VARIANTS, Case, leaves
from layer_cases import threads
from test_kernels import DIRECTIONS, LENGTHS, all_equal, call, on
from tolerances import assert_same
from torch import Tensor
from torch.nn.functional import gelu, linear, logsigmoid, softmax, softplus

import ostinato
from ostinato import Stream, backend
from ostinato.cells import (
    Cell,
    GRUCell,
    LinearCell,
    LSTMCell,
    LSTMState,
    MLSTMCell,
    PeepholeLSTMCell,
    RNNCell,
    RNNState,
    ZoneoutCell,
)
from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import recurrent_layers
from ostinato.recurrence.backends import choose, compiler, generated, run, use_backend
from ostinato.recurrence.backends.generated import CellNotCompiledWarning
from ostinato.recurrence.layers import Recurrent

I, H = 3, 4
WITHOUT_COMPILER = pytest.mark.filterwarnings(
    "ignore::ostinato.recurrence.backends.generated.CellNotCompiledWarning"
)


class Unusual(LSTMCell):
    """Block-diagonal recurrent weights, and functions that no built-in cell has."""

    def step(self, w, x_t, state):
        heads = 2
        size = self.hidden_size // heads
        blocks = w["weight_hh"].view(4, heads, size, -1)[..., :size]
        by_head = torch.einsum("bhd,ghed->bghe", state.h.view(-1, heads, size), blocks)
        i, f, g, o = (by_head.reshape(len(state.h), -1) + x_t).chunk(4, -1)
        c = softplus(f) * state.c / (1 + i.abs()) + gelu(g) + torch.log1p(i * i)
        return LSTMState(torch.erf(c) * o.sigmoid() + torch.sqrt(1 + o * o), c)


class ExponentialState(NamedTuple):
    c: Tensor
    n: Tensor
    m: Tensor
    h: Tensor


class Exponential(LSTMCell):
    """Exponential gates with a stabiliser; h is the last of its state."""

    state_type = ExponentialState

    @property
    def state_sizes(self):
        return (self.hidden_size,) * 4

    @property
    def output_size(self):
        return self.hidden_size

    def step(self, w, x_t, state):
        z, i, f, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(4, -1)
        m = torch.maximum(logsigmoid(f) + state.m, i)
        keep, let_in = torch.exp(logsigmoid(f) + state.m - m), torch.exp(i - m)
        c, n = keep * state.c + let_in * z.tanh(), keep * state.n + let_in
        return ExponentialState(c, n, m, o.sigmoid() * c / n.clamp(min=0.1))


class Derived(RNNCell):
    """Weights that are normalised and masked; a number as a weight; a mean and a softmax."""

    def weight_shapes(self):
        return super().weight_shapes() | {"gain": (self.hidden_size,), "scale": ()}

    def step(self, w, x_t, state):
        weight, H = w["weight_hh"], self.hidden_size
        weight = weight / weight.norm(dim=1, keepdim=True) * w["gain"][:, None]
        weight = weight * torch.triu(torch.ones(H, H, dtype=weight.dtype))
        h = torch.sin(x_t + state.h @ weight) * w["scale"] + softmax(state.h, -1)
        h = h - h.mean(-1, keepdim=True)
        return RNNState(torch.where(h > 0, h, softplus(w["gain"]) * h.expm1()))


# Every variant that the core lacks; the core's own, as if they were not; sizes beyond a vector.
CELLS = {
    **{n: c for n, c in VARIANTS.items() if n not in COMPILED_VARIANTS},
    "lstm-37": LSTMCell(5, 37),
    "gru": GRUCell(I, H),
    "gru-reset-before": GRUCell(I, H, reset_after=False),
    "unusual": Unusual(I, H, False),
    "exponential": Exponential(I, 20),
    "derived": Derived(I, 9, False),
}
CELLS = {n: c for n, c in CELLS.items() if not isinstance(c, LinearCell | MLSTMCell)}
EACH_CELL = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
SOME = pytest.mark.parametrize("name", ["lstm-norm", "unusual", "jordan-elman"])


@pytest.fixture(autouse=True)
def with_compiler(monkeypatch, tmp_path_factory):
    """Compile, quickly; and keep nothing beyond the tests."""
    monkeypatch.setenv("OSTINATO_COMPILER", "c++ -O1")
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@EACH_CELL
def test_kernels_equal_the_reference_in_values_and_gradients(cell):
    for directions in (1, 2):
        for lengths in (None, torch.tensor([4, 0, 2])):
            case = call(cell, directions, lengths)
            ours, theirs = on("generated", case), on("reference", case)
            assert_same(ours, theirs)


@pytest.mark.parametrize("name", ["lstm-37", "lstm-norm", "exponential", "derived"])
def test_kernels_equal_the_reference_in_float32(name):
    case = call(CELLS[name], 2, torch.tensor([4, 0, 2]), dtype=torch.float32)
    assert_same(on("generated", case), on("reference", case))


@pytest.mark.parametrize("name", ["gru-d", "lstm-norm", "derived"])
def test_an_input_may_need_no_gradient(name):
    case = call(CELLS[name], 2, torch.tensor([4, 0, 2]))
    needed = [*case.state, *(w for each in case.weights for w in each.values())]
    found = {}
    for path in ("generated", "reference"):
        with use_backend(path):
            y, _ = run(case.cell, case.weights, case.x.detach(), case.state, case.lengths)
        found[path] = torch.autograd.grad(y.square().sum(), needed, materialize_grads=True)
    assert_same(*found.values())


def test_the_fastest_path_is_chosen_and_can_be_told():
    cell = CELLS["lstm-peephole"]
    assert choose(cell, torch.zeros(1, dtype=torch.float64)) == "generated"
    assert choose(LSTMCell(I, H), torch.zeros(1)) == "compiled"
    assert (
        backend(Recurrent(cell, dtype=torch.float64), torch.zeros(2, 1, I).double()) == "generated"
    )
    assert choose(cell, torch.zeros(1, dtype=torch.float16)) == "reference"


@SOME
def test_bits_depend_on_no_other_row_on_no_cut_and_on_no_thread(name):
    cell = CELLS[name]
    layer = Recurrent(cell, dtype=torch.float64)
    x = torch.randn(40, 9, cell.input_size, dtype=torch.float64)
    y, last = layer(x)
    cut, state = [], None
    for part in x.split([1, 13, 26]):
        each, state = layer(part, state)
        cut.append(each)
    assert all_equal([torch.cat(cut), *state], [y, *last])
    assert torch.equal(layer(x[:, 4:5])[0], y[:, 4:5])
    lengths = torch.tensor([40, 3, 17, 0, 40, 5, 1, 30, 2])
    assert torch.equal(layer(x, lengths=lengths)[0][:17, 2], y[:17, 2])

    def gradients():
        return [
            g.clone()
            for g in torch.autograd.grad(layer(x)[0].square().sum(), [*layer.parameters()])
        ]

    with threads(1):
        one = gradients()
    with threads(2):
        assert all_equal(one, gradients())


@pytest.mark.parametrize(("T", "lengths"), [(200, None), (200, [150]), (3, [0])], ids=str)
@pytest.mark.parametrize("H", [8, 72])
def test_one_row_has_the_same_bits_however_many_threads_share_its_products(T, lengths, H):
    torch.manual_seed(1)
    layer = Recurrent(PeepholeLSTMCell(3, H), bidirectional=True, dtype=torch.float64)
    x = torch.randn(T, 1, 3, dtype=torch.float64, requires_grad=True)

    def results():
        y, last = layer(x, lengths=lengths)
        outputs = [y, *leaves(last)]
        total = sum(each.square().sum() for each in outputs)
        return [*outputs, *torch.autograd.grad(total, [x, *layer.parameters()])]

    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(results())
    assert all(all_equal(found[0], other) for other in found[1:])
    with use_backend("reference"):
        assert_same(found[0], results())


@pytest.mark.parametrize("lengths", [None, torch.tensor([6, 0, 2])], ids=["even", "ragged"])
@pytest.mark.parametrize(("name", "path"), [("lstm-peephole", "generated"), ("rg-lru", "compiled")])
def test_under_autocast_a_layer_computes_in_float32_and_is_rounded_once(name, path, lengths):
    layer = recurrent_layers(name, I, H)
    x = torch.randn(3, 6, I, requires_grad=True)
    inputs = [x, *layer.parameters()]
    y, last = layer(x, lengths=lengths)
    expected = torch.autograd.grad(y.bfloat16().float().square().sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert choose(layer.cells, x, padded=lengths is not None) == path
        low, low_last = layer(x, lengths=lengths)
        again, _ = layer(x.bfloat16(), low_last, lengths=lengths)
    found = torch.autograd.grad(low.float().square().sum(), inputs)
    assert again.dtype == torch.bfloat16
    assert all_equal([low, *leaves(low_last)], [t.bfloat16() for t in (y, *leaves(last))])
    assert all_equal(found, expected)


@pytest.mark.parametrize("fill", [float("nan"), float("inf")])
def test_padding_leaks_nowhere(fill):
    case = call(CELLS["lstm-norm"], 2, torch.tensor([4, 0, 2]))
    clean = on("generated", case)
    with torch.no_grad():
        case.x[2:, 2], case.x[:, 1] = fill, fill
    assert_same(on("generated", case), clean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_missing_values_are_missing_to_kernels(dtype):
    case = call(CELLS["gru-d"], 2, torch.tensor([4, 0, 2]), dtype=dtype)
    with torch.no_grad():
        case.x[::2, :, 1], case.x[1], case.x[3, :, 2] = torch.nan, torch.nan, torch.nan
    assert_same(on("generated", case), on("reference", case))


class Functions(NamedTuple):
    h: Tensor
    rest: Tensor


class Many(Cell):
    """A function of each kind of the input, without any state or product."""

    state_type = Functions

    @property
    def state_sizes(self):
        return (self.input_size, 16 * self.input_size)

    def weight_shapes(self):
        return {}

    def step(self, w, x, state):
        found = [
            x.exp(), x.expm1(), x.log(), x.log1p(), x.sqrt(), x.erf(), x.sin(), x.cos(), x.abs(),
            x.sign(), x.relu(), x.clamp(-1, 2), torch.maximum(x, 0.5 - x), x**3, 1 / x, x.rsqrt(),
        ]  # fmt: skip
        return Functions(torch.minimum(x, x * x), torch.cat(found, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_functions_behave_as_pytorchs_with_infinities_and_nan(dtype):
    special = [0.0, -0.0, 1e-30, -1e-30, 87.5, 88.5, 89.0, -87.0, -120.0, 1e30, -1e30, 1.0, -1.0]
    special += [float("inf"), float("-inf"), float("nan")]
    x = torch.cat([torch.tensor(special), torch.linspace(-10, 10, 48)]).to(dtype)[None, None]
    cell = Many(64, 64)
    seen = []
    for path in ("generated", "reference"):
        with use_backend(path):
            y, last = run(cell, [{}], x)
        seen.append([y, last.rest])
    near = 1e-6 if dtype == torch.float32 else 1e-14
    for ours, theirs in zip(*seen, strict=True):
        small = theirs.abs() < torch.finfo(dtype).tiny  # which the core takes for zero
        torch.testing.assert_close(
            ours.masked_fill(small, 0),
            theirs.masked_fill(small, 0),
            rtol=near,
            atol=near,
            equal_nan=True,
        )


@LENGTHS
@DIRECTIONS
def test_gates_and_states_are_shown(lengths, directions):
    case = call(CELLS["lstm-peephole"], directions, lengths)
    seen = {}
    for path in ("generated", "reference"):
        seen[path] = []
        with use_backend(path):
            run(case.cell, case.weights, case.x, case.state, lengths, traces=seen[path])
    assert_same(leaves(tuple(seen["generated"])), leaves(tuple(seen["reference"])))


def test_gradients_have_gradients():
    case = Case(CELLS["lstm-norm"], T=3, B=2)

    def f(x, h, c, *weights):
        with use_backend("generated"):
            w = dict(zip(case.w, weights, strict=True))
            state = LSTMState(h[None], c[None])
            y, _ = run(case.cell, [w], x, state)
            return y

    assert torch.autograd.gradcheck(f, case.inputs)
    assert torch.autograd.gradgradcheck(f, case.inputs)


def test_a_graph_can_be_used_twice_and_the_output_changed():
    case = call(CELLS["unusual"])
    with use_backend("generated"):
        y, _ = run(case.cell, case.weights, case.x, case.state)
        first = torch.autograd.grad(y.sum(), case.inputs, retain_graph=True, allow_unused=True)
        second = torch.autograd.grad(y.sum(), case.inputs, allow_unused=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))


@SOME
@pytest.mark.parametrize("B", [None, 3])
def test_a_stream_gives_the_bits_of_its_layer(name, B):
    cell = CELLS[name]
    layer = Recurrent([cell, LSTMCell(cell.output_size, 6)], dtype=torch.float64)
    x = torch.randn(6, *([] if B is None else [B]), cell.input_size, dtype=torch.float64)
    with torch.no_grad(), use_backend("generated"):
        y, last = layer(x)
    stream = Stream(layer, B)
    assert torch.equal(torch.stack([stream.step(x_t) for x_t in x[:4]]), y[:4])
    for other in (stream.fork(), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert torch.equal(other.run(x[4:]), y[4:])
        assert all_equal(leaves(other.state), leaves(last))
    assert torch.equal(stream.run(x[4:]), y[4:])


def test_only_cells_of_the_core_stream_with_8_bits():
    with pytest.raises(OstinatoError, match="8-bit weights are for"):
        Stream(Recurrent(CELLS["derived"], dtype=torch.float32), quantize="int8")


# What cannot be compiled.


class Branching(RNNCell):
    def step(self, w, x_t, state):
        return RNNState(x_t if x_t.sum() > 0 else -x_t)


class Sorting(RNNCell):
    def step(self, w, x_t, state):
        return RNNState(x_t + state.h.sort(-1).values)


class Mixing(RNNCell):
    def step(self, w, x_t, state):
        return RNNState(x_t - state.h.mean(0))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Branching, "cannot be traced: .*_local_scalar_dense"),
        (Sorting, r"its step has aten.sort"),
        (Mixing, "its step has a mean over the batch"),
    ],
)
def test_the_reference_serves_what_cannot_be_compiled_and_one_warning_says_why(make, why):
    cell, x = make(I, H), torch.randn(5, 2, I)
    layer = Recurrent(cell)
    generated._warned.discard(make)
    with pytest.warns(
        CellNotCompiledWarning, match=f"{make.__name__} runs on the reference.*{why}"
    ):
        y, _ = layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
    with use_backend("reference"):
        assert torch.equal(layer(x)[0], y)
    with use_backend("generated"), pytest.raises(OstinatoError, match=why):
        layer(x)


@pytest.mark.parametrize("command", ["no-such-compiler", f"{sys.executable} -c 1/0", "false"])
def test_a_machine_without_a_compiler_has_the_reference(command, monkeypatch):
    monkeypatch.setenv("OSTINATO_COMPILER", command)
    generated._warned.discard(type(CELLS["indrnn"]))
    with pytest.warns(CellNotCompiledWarning, match="compiler|failed|program"):
        assert choose(CELLS["indrnn"], torch.zeros(1)) == "reference"


# What is compiled is kept.


def test_what_was_compiled_is_kept_and_only_where_others_cannot_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "ostinato"
    source = 'extern "C" __attribute__((visibility("default"))) int number() { return 7; }'

    def runs():
        compiler._loaded.cache_clear()
        return compiler.load(source, "float").number()

    assert runs() == 7
    assert folder.stat().st_mode & 0o777 == 0o700
    (kept,) = folder.iterdir()
    before = kept.stat().st_mtime_ns
    assert runs() == 7
    assert kept.stat().st_mtime_ns == before
    cut = kept.read_bytes()[:5000]
    kept.unlink()  # which is still in use
    kept.write_bytes(cut)
    kept.chmod(0o700)
    assert runs() == 7  # is made again
    folder.chmod(0o777)
    assert compiler.cache_folder() != folder
    folder.chmod(0o700)
    (folder / "away").symlink_to(kept)
    assert not compiler._is_private(folder / "away")


@pytest.mark.parametrize(("patience", "lines"), [(0.01, 1), (600.0, 0)])
def test_a_first_use_that_takes_long_says_what_it_does(patience, lines, monkeypatch):
    class Fresh(LSTMCell):
        pass

    def slow(source, floats):
        waiting = time.monotonic() + (10 if lines else 0)
        while not said and time.monotonic() < waiting:
            time.sleep(0.01)
        return compiler.load(source, floats)

    said = []
    monkeypatch.setattr(generated, "PATIENCE", patience)
    monkeypatch.setattr(generated, "load", slow)
    monkeypatch.setattr(generated._log, "warning", lambda *args: said.append(args[0] % args[1:]))
    assert generated.find(Fresh(I, H), torch.float64)
    assert generated.find(Fresh(I, H), torch.float64)
    assert len(said) == lines
    assert all(line.startswith("compiling Fresh, once: its kernels are kept in ") for line in said)


# Tasks.


CELL = """
from torch.nn.functional import linear
from ostinato.cells import Cell, RNNState

class Leaky(Cell):
    def weight_shapes(self):
        H = self.hidden_size
        return {"weight_ih": (H, self.input_size), "weight_hh": (H, H)}

    def step(self, w, x_t, state):
        a = linear(x_t, w["weight_ih"]) + linear(state.h, w["weight_hh"])
        return RNNState(0.9 * state.h + 0.1 * a.tanh())
"""


def test_a_task_takes_a_cell_of_ones_own_and_a_model_never_imports_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OSTINATO_COMPILER", "none")
    (tmp_path / "mine.py").write_text(CELL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine

    X, y = [torch.randn(5, 2).numpy() for _ in range(40)], ["a", "b"] * 20
    model = ostinato.SequenceClassifier(cell=mine.Leaky, hidden_size=6, steps=3).fit(X, y)
    assert type(model.network_.recurrent.cells[0]) is mine.Leaky
    assert model.cell == "mine:Leaky"
    model.save("model")
    assert ostinato.load("model").predict(X[:3]) is not None
    code = "import ostinato; print(ostinato.load('model').cell)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "cell='mine:Leaky' is no class of a module that was imported" in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", "import mine, " + code[7:]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "mine:Leaky\n", done.stderr


def test_an_instance_keeps_its_settings():
    cell = ostinato.cells.HigherOrderCell(1, 1, order=3)
    model = ostinato.SequenceClassifier(cell=cell)
    assert model.cell == 'ostinato.recurrence.cells.variants:HigherOrderCell {"order": 3}'
    layer = recurrent_layers(cell, 5, 8)
    assert layer.cells[0].order == 3
    assert layer.cells[0].hidden_size == 8


def test_the_command_line_imports_the_cell_that_it_is_told(ostinato, tmp_path, monkeypatch):
    monkeypatch.setenv("OSTINATO_COMPILER", "none")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_too.py").write_text(CELL)
    (tmp_path / "text.txt").write_text("abcabc" * 200)
    done = ostinato("train text text.txt --out run --cell mine_too:Leaky --steps 3 --hidden-size 8")
    assert done.status == 0, done
    done = ostinato("generate run --length 5 --cell mine_too:Leaky")
    assert done.status == 0, done
    assert "cannot import 'absent'" in ostinato("generate run --cell absent:Leaky").err
    assert "mine_too has no Lost" in ostinato("generate run --cell mine_too:Lost").err


def test_a_cell_without_a_state_type_has_the_simplest_and_others_need_an_h():
    class Least(Cell):
        def weight_shapes(self):
            return {}

        def step(self, w, x_t, state):
            return RNNState(x_t + state.h)

    assert Least(2, 2).zero_state(3).h.shape == (3, 2)

    class Odd(NamedTuple):
        s: Tensor

    class Wrong(Least):
        state_type = Odd

    with pytest.raises(
        OstinatoError, match="Wrong: state_type is .*Odd.*expected a NamedTuple with"
    ):
        Wrong(2, 2).zero_state(3)


def test_compile_cell_shows_what_became_of_a_cell():
    found = ostinato.compile_cell(CELLS["lstm-peephole"])
    assert found.kernels >= 2 and found.products == 4
    assert "sigmoid" in found.operations and "void k1(" in found.source
    assert found.speedup > 0
    assert "times as fast" in str(found)
    assert "has aten.sort" in str(ostinato.compile_cell(Sorting(I, H)))
    with pytest.raises(OstinatoError, match="compile_cell: cell is a int"):
        ostinato.compile_cell(3)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", ["lstm-norm", "lstm-peephole"])
def test_sums_go_on_from_window_to_window_of_backward(name, ragged):
    """Backward sums for the gradients of weights after every 8 MB of what it leaves of steps."""
    cases = [Case(CELLS[name], T=200, B=53, seed=seed) for seed in (0, 1)]
    weights, x = [case.w for case in cases], cases[0].x
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 201, (53,), generator=generator) if ragged else None

    def results():
        y, _ = run(CELLS[name], weights, x, None, lengths)
        asked = [x, *(w for each in weights for w in each.values())]
        return [y, *torch.autograd.grad(y.square().sum(), asked)]

    found = {}
    for count in (1, 3):
        with threads(count), use_backend("generated"):
            found[count] = results()
    assert all_equal(found[1], found[3])
    with use_backend("reference"):
        assert_same(found[1], results())


@WITHOUT_COMPILER
def test_a_cell_that_a_layer_makes_anew_for_every_call_is_traced_once(monkeypatch):
    """As zoneout does in training, around cells with attributes of their own, too."""

    class Scaled(Unusual):
        def __post_init__(self):
            object.__setattr__(self, "scale", [0.5])  # no field: cells of other scales are others

        def step(self, w, x_t, state):
            return super().step(w, x_t * self.scale[0], state)

    traced, real = [], generated.write_program
    monkeypatch.setattr(
        generated, "write_program", lambda cell, *more: traced.append(cell) or real(cell, *more)
    )
    for inner in (LSTMCell(I, H), Unusual(I, H), Scaled(I, H), Scaled(I, H)):
        before = len(traced)
        layer = Recurrent(ZoneoutCell(inner, 0.123)).train()
        for _ in range(3):
            layer(torch.randn(5, 2, I))[0].sum().backward()
        assert len(traced) == before + 1
