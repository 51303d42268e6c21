"""A stream gives, step by step, the very bits that its layer gives for the whole sequence."""

import copy
import pickle
import threading
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from laws import COMPILED_VARIANTS, VARIANTS, leaves, random

from ostinato import _core
from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence.cells import (
    PLAIN,
    Cell,
    GRUCell,
    LinearCell,
    LRUCell,
    LSTMCell,
    LSTMState,
    MinGRUCell,
    MinLSTMCell,
    QRNNCell,
    RGLRUCell,
    RNNCell,
    RNNState,
    S5Cell,
    SelectiveCell,
    SRUCell,
    Steps,
)
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Recurrent
from ostinato.recurrence.streams import SlowQuantizationWarning, Stream

# Most layers here are too small to gain from 8 bits.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ostinato.recurrence.streams.SlowQuantizationWarning"
)
T = 9
LAYERS = {
    "rnn-stack": lambda dtype: RNN(3, [17, 8], nonlinearity=["relu", "sigmoid"], dtype=dtype),
    "rnn-identity": lambda dtype: RNN(5, 70, nonlinearity="identity", bias=False, dtype=dtype),
    "lstm": lambda dtype: LSTM(7, 20, 2, dtype=dtype),
    "lstm-one-unit": lambda dtype: LSTM(1, 1, dtype=dtype),
    "lstm-projected": lambda dtype: LSTM(3, 19, proj_size=5, dtype=dtype),
    "gru": lambda dtype: GRU(5, 33, dtype=dtype),
    "gru-reset-before": lambda dtype: GRU(3, 19, 2, reset_after=False, dtype=dtype),
    "mixed": lambda dtype: Recurrent([LSTMCell(4, 6), GRUCell(6, 5), RNNCell(5, 3)], dtype=dtype),
}
LINEAR = {
    "min-gru": lambda dtype: Recurrent(MinGRUCell(5, 21), 2, dtype=dtype),
    "min-lstm": lambda dtype: Recurrent(MinLSTMCell(5, 21), dtype=dtype),
    "qrnn": lambda dtype: Recurrent(QRNNCell(3, 18, kernel_size=3), 2, dtype=dtype),
    "sru": lambda dtype: Recurrent(SRUCell(7, 16), 2, dtype=dtype),
    "rg-lru": lambda dtype: Recurrent(RGLRUCell(1, 33, bias=False), dtype=dtype),
    "lru": lambda dtype: Recurrent(LRUCell(3, 19), 2, dtype=dtype),
    "s5": lambda dtype: Recurrent(S5Cell(3, 19, memory=6, blocks=2), dtype=dtype),
    "mamba": lambda dtype: Recurrent(SelectiveCell(5, 19, memory=9), 2, dtype=dtype),
    "linear-mixed": lambda dtype: Recurrent([LRUCell(4, 6), SRUCell(6, 5)], dtype=dtype),
}
EVERY = LAYERS | LINEAR


def case(name, dtype, B):
    """A layer with an input and the state that it comes upon."""
    layer = EVERY[name](dtype)
    with torch.no_grad():
        for k, weight in enumerate(layer.parameters()):
            weight.copy_(random(*weight.shape, seed=k, dtype=dtype, scale=weight.shape[-1] ** -0.5))
    batch = () if B is None else (B,)
    x = random(T, *batch, layer.input_size, seed=50, dtype=dtype)
    with torch.no_grad():
        _, state = layer(random(2, *batch, layer.input_size, seed=51, dtype=dtype))
    return layer, x, state


def equal(a, b):
    return all(map(torch.equal, leaves(a), leaves(b)))


@pytest.mark.parametrize("B", [None, 1, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_step_by_step_gives_the_bits_of_the_whole_sequence(name, dtype, B):
    layer, x, state = case(name, dtype, B)
    with torch.no_grad():
        y, last = layer(x, state)
    stream = Stream(layer, B)
    stream.state = state
    arrays = [torch.from_numpy(stream.step(x_t.numpy())) for x_t in x]
    assert torch.equal(torch.stack(arrays), y)
    assert equal(stream.state, last)
    stream.state = state
    assert torch.equal(torch.stack([stream.step(x_t) for x_t in x]), y)
    stream.state = state
    assert torch.equal(torch.cat([stream.run(x[:2]), stream.run(x[2:2]), stream.run(x[2:])]), y)
    assert equal(stream.state, last)


@pytest.mark.parametrize("name", EVERY)
def test_state_is_saved_set_reset_and_forked(name):
    layer, x, state = case(name, torch.float32, 2)
    stream = Stream(layer, 2)
    stream.state = state
    assert equal(stream.state, state)
    stream.step(x[0])
    saved, forked = stream.state, stream.fork()
    ours = [stream.step(x_t) for x_t in x[1:4]]
    theirs = [forked.step(x_t) for x_t in x[1:4]]
    assert all(map(torch.equal, ours, theirs))
    assert equal(forked.state, stream.state)
    stream.state = saved
    assert torch.equal(stream.step(x[1]), ours[0])
    forked.reset()
    assert all(not t.any() for t in leaves(forked.state))
    assert torch.equal(forked.step(x[0]), Stream(layer, 2).step(x[0]))
    assert all(t.any() for t in leaves(stream.state)), "a fork has a state of its own"
    stream.state = None
    assert all(not t.any() for t in leaves(stream.state))


@dataclass(frozen=True)
class Own(LinearCell):
    """A linear cell of one's own, with what others do not compute."""

    root: str = "sqrt"

    def weight_shapes(self):
        return {"weight_ih": (2 * self.hidden_size, self.input_size)}

    def steps(self, w, seen, f=PLAIN):
        n, r = seen[-1].chunk(2, dim=-1)
        root = f.sqrt if self.root == "sqrt" else torch.sin
        a = (1 / (1 + root(n.square()))).clamp_min(0.25)
        return Steps(a / 2, -(n - 1) * w["weight_ih"].sum() + r.flip(-1))


def test_a_linear_cell_of_ones_own_streams():
    layer = Recurrent(Own(3, 4), dtype=torch.float64)
    x = random(T, 3, seed=1)
    with torch.no_grad():
        assert torch.equal(Stream(layer).run(x), layer(x)[0])
    with pytest.raises(OstinatoError, match=r"Own.* computes with sin; a linear cell"):
        Stream(Recurrent(Own(3, 4, root="sin")))
    with pytest.raises(OstinatoError, match="8-bit weights are for RNN, LSTM and GRU"):
        Stream(Recurrent(MinGRUCell(3, 4)), quantize="int8")


def test_a_saved_state_does_not_change_with_the_stream():
    layer, x, _ = case("lstm", torch.float32, None)
    stream = Stream(layer)
    stream.step(x[0])
    saved = stream.state
    kept = LSTMState(*(t.clone() for t in saved))
    stream.step(x[1])
    assert equal(saved, kept)


def test_a_stream_keeps_the_weights_it_was_made_with():
    layer, x, _ = case("gru", torch.float32, None)
    with torch.no_grad():
        y, _ = layer(x)
        stream = Stream(layer)
        for weight in layer.parameters():
            weight.zero_()
    del layer
    assert torch.equal(stream.run(x), y)


def test_training_only_dropout_is_left_out():
    layer = LSTM(3, 4, 2, dropout=0.5, weight_dropout=0.5).train()
    x = random(T, 3, seed=1, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(Stream(layer).run(x), layer.eval()(x)[0])


@pytest.mark.parametrize("name", LAYERS)
def test_eight_bits_are_near_and_all_ways_to_them_agree_exactly(name):
    layer, x, state = case(name, torch.float32, 3)
    stream = Stream(layer, 3, quantize="int8")
    stream.state = state
    with torch.no_grad():
        y, _ = layer(x, state)
    found = stream.run(x)
    assert 0 < (found - y).abs().max() < 0.1 * y.abs().max()
    for products in ("native", "portable"):
        other = Stream(layer, 3, quantize="int8", _products=products)
        other.state = state
        assert torch.equal(other.run(x), found)


def test_eight_bits_are_the_rounding_they_are_said_to_be():
    """One step of a linear network, against the definition in whole numbers."""
    layer = RNN(37, 9, nonlinearity="identity", bias=False)
    x, h = random(37, seed=1, dtype=torch.float32), random(1, 9, seed=2, dtype=torch.float32)

    def quantized(rows):
        scale = rows.abs().amax(-1, keepdim=True).double() / 127
        return (rows.double() / scale).round(), scale.squeeze(-1)

    wanted = torch.zeros(9, dtype=torch.float64)
    for weight, vector in [(layer.weight_ih_l0, x), (layer.weight_hh_l0, h[0])]:
        (q, scale), (v, unit) = quantized(weight.detach()), quantized(vector)
        wanted += (q @ v) * scale * unit
    stream = Stream(layer, quantize="int8")
    stream.state = h
    torch.testing.assert_close(stream.step(x), wanted.float(), rtol=1e-5, atol=1e-6)


# More products than a float can sum exactly, all of the largest size, of one sign or of both.
@pytest.mark.parametrize("signs", [[1, 1], [-1, 1], [1, -1]], ids=str)
@pytest.mark.parametrize("products", ["dot", "native", "portable"])
@pytest.mark.parametrize("I", [1, 7, 1099, 2000])
def test_the_largest_sums_of_eight_bits_are_exact(I, products, signs):
    layer = RNN(I, 5, nonlinearity="identity", bias=False)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(0.5)
        layer.weight_ih_l0[3:] *= signs[0]
        layer.weight_hh_l0.zero_()
    x = torch.full((2, I), 2.0)
    x[1] *= signs[1]
    expected = x @ layer.weight_ih_l0.detach().T
    found = Stream(layer, 2, quantize="int8", _products=products).step(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)


def test_a_stream_says_where_eight_bits_bring_no_speed(monkeypatch):
    monkeypatch.setattr(_core, "int8_products", lambda: "native")
    with pytest.warns(SlowQuantizationWarning, match=r"weights, 1 KiB .* fit into the first cache"):
        Stream(GRU(3, 8), quantize="int8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Stream(GRU(3, 8))
        Stream(GRU(3, 128), quantize="int8")
    monkeypatch.setattr(_core, "int8_products", lambda: "portable")
    with pytest.warns(SlowQuantizationWarning, match="no instructions for 8-bit products"):
        Stream(GRU(3, 128), quantize="int8")


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("name", LAYERS)
def test_threads_that_share_a_step_change_no_bit(name, quantize):
    layer, x, state = case(name, torch.float32, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        streams = [Stream(layer, 3, quantize=quantize, threads=n) for n in (1, 2, 3)]
        for stream in streams:
            stream.state = state
        first, *others = [torch.stack([s.step(x_t) for x_t in x]) for s in streams]
        assert all(torch.equal(other, first) for other in others)
        first, *others = [s.fork().run(x) for s in streams]
        assert all(torch.equal(other, first) for other in others)
    finally:
        torch.set_num_threads(before)


def test_numbers_that_are_not_finite_show():
    for quantize in (None, "int8"):
        stream = Stream(GRU(3, 4), quantize=quantize)
        x = np.array([1.0, np.nan, 0.0], np.float32)
        assert np.isnan(stream.step(x)).all()


def test_streams_of_one_model_run_in_threads_of_their_own():
    layer, _, _ = case("lstm", torch.float32, None)
    inputs = [random(500, 7, seed=k, dtype=torch.float32) for k in range(4)]
    first = Stream(layer)
    streams = [first, *(first.fork() for _ in range(3))]
    wanted = [Stream(layer).run(x) for x in inputs]
    found = [None] * 4

    def work(k):
        found[k] = streams[k].run(inputs[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, found, wanted))


class Leaky(Cell):
    state_type = RNNState

    def weight_shapes(self):
        return {"weight_ih": (self.hidden_size, self.input_size)}

    def step(self, w, x_t, state):
        return RNNState((state.h + x_t @ w["weight_ih"].T) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stream(torch.nn.GRU(3, 4)), "layer is a GRU; expected an ostinato layer"),
        (lambda: Stream(GRU(3, 4, bidirectional=True)), "bidirectional and needs the future"),
        (lambda: Stream(GRU(3, 4), 0), "batch_size=0; expected None or at least 1"),
        (lambda: Stream(GRU(3, 4), threads=0), "threads=0; expected 1 to"),
        (lambda: Stream(GRU(3, 4), threads=1000), "threads=1000; expected 1 to"),
        (lambda: Stream(GRU(3, 4), quantize="int4"), "quantize='int4'; expected None or 'int8'"),
        (lambda: Stream(GRU(3, 4).double(), quantize="int8"), r"layer\.float\(\)"),
        (lambda: Stream(GRU(3, 4).half()), "it computes in float32 and float64 on a CPU"),
        (lambda: Stream(Recurrent(Leaky(3, 4))), "OSTINATO_COMPILER is none"),
    ],
)
def test_what_cannot_stream_is_refused(make, message):
    with pytest.raises(OstinatoError, match=message):
        make()


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(4, np.float32),
        np.zeros(3),
        np.zeros((2, 3), np.float32),
        np.zeros((3, 2), np.float32)[0],
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(4),
        torch.zeros(3, 2)[0],
        torch.zeros(3, dtype=torch.complex64).conj().imag,
        torch.zeros(3, device="meta"),
        b"123456789012",
        [0.0, 0.0, 0.0],
        None,
    ],
    ids=lambda x: str(type(x).__name__),
)
def test_a_step_refuses_what_is_no_input_and_loses_nothing(x):
    stream = Stream(GRU(3, 4))
    stream.step(np.ones(3, np.float32))
    before = stream.state
    with pytest.raises(ShapeError, match="^x "):
        stream.step(x)
    assert equal(stream.state, before)


def test_a_chunk_and_a_state_of_the_wrong_shape_are_refused():
    stream = Stream(GRU(3, 4), 2)
    for wrong in (
        torch.zeros(5, 3),
        torch.zeros(5, 1, 3),
        torch.zeros(5, 2, 4),
        np.zeros((5, 2, 3)),
    ):
        with pytest.raises(ShapeError, match="x "):
            stream.run(wrong)
    with pytest.raises(ShapeError, match=r"hx has shapes \[\(1, 4\)\]; expected \[\(1, 2, 4\)\]"):
        stream.state = torch.zeros(1, 4)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda stream: pickle.loads(pickle.dumps(stream)),
}


@pytest.mark.parametrize("clone", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(("quantize", "B"), [(None, None), (None, 2), ("int8", 1)])
@pytest.mark.parametrize("name", LAYERS)
def test_a_copy_goes_on_with_the_same_bits(name, quantize, B, clone):
    layer, x, state = case(name, torch.float32, B)
    stream = Stream(layer, B, quantize=quantize)
    stream.state = state
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()  # the stream has its own
    other = clone(stream)
    assert (type(other), repr(other)) == (type(stream), repr(stream))
    assert equal(other.state, stream.state)
    assert torch.equal(other.run(x), stream.run(x))
    other.reset()
    assert any(t.any() for t in leaves(stream.state))


@pytest.mark.parametrize("B", [None, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_result_goes_into_out(dtype, B):
    layer, x, _ = case("lstm-projected", dtype, B)
    stream, y = Stream(layer, B), Stream(layer, B).run(x)
    out = torch.full_like(y[0], 7.0)
    for x_t, y_t in zip(x, y, strict=True):
        assert stream.step(x_t, out=out) is out
        assert torch.equal(out, y_t)
    stream.reset()
    array = np.full_like(y[0].numpy(), 7.0)
    for x_t, y_t in zip(x.numpy(), y.numpy(), strict=True):
        assert stream.step(x_t, array) is array
        assert np.array_equal(array, y_t)


@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_same_arrays_may_be_given_again(dtype, B):
    layer, x, _ = case("gru", dtype, B)
    stream, y = Stream(layer, B), Stream(layer, B).run(x).numpy()
    row, outs = np.empty_like(x[0].numpy()), [np.empty_like(y[0]) for _ in range(2)]
    for t, x_t in enumerate(x.numpy()):
        row[:] = x_t
        out, other = outs[:: 1 if t // 2 % 2 else -1]  # each twice, then the other
        before = other.copy()
        assert stream.step(row, out=out) is out
        assert np.array_equal(out, y[t])
        assert np.array_equal(other, before, equal_nan=True)
    for held in (row, out):
        with pytest.raises(ValueError, match="resize"):
            held.resize(1000)
    stream.reset()
    for t, x_t in enumerate(x.numpy()):  # arrays that are gone, often at the same address
        assert np.array_equal(stream.step(x_t.copy(), out=np.empty_like(out)), y[t])


def test_out_may_be_the_input_itself():
    layer = GRU(4, 4, 2)
    stream, x = Stream(layer), random(1, 4, seed=1, dtype=torch.float32)
    y = Stream(layer).run(x)
    assert torch.equal(stream.step(x[0], out=x[0]), y[0])


@pytest.mark.parametrize(
    "out",
    [
        np.zeros(3, np.float32),
        np.zeros((1, 4), np.float32),
        np.zeros(4),
        np.zeros(8, np.float32)[::2],
        np.frombuffer(bytes(16), np.float32),
        np.zeros(17, np.uint8)[1:].view(np.float32),
        torch.zeros(3),
        torch.zeros(1, 4),
        torch.zeros(4, dtype=torch.float64),
        torch.zeros(4, 2)[:, 0],
        torch.zeros(4).to("meta"),
        torch.zeros(4, dtype=torch.complex64).conj().imag,
        [0.0] * 4,
        4,
    ],
    ids=lambda x: str(type(x).__name__),
)
def test_a_step_refuses_what_cannot_take_its_result_and_loses_nothing(out):
    stream, x = Stream(GRU(3, 4)), np.ones(3, np.float32)
    stream.step(x)
    before = stream.state
    with pytest.raises(ShapeError, match="^out "):
        stream.step(x, out=out)
    assert equal(stream.state, before)


@pytest.mark.parametrize("B", [None, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_may_be_strided(dtype, B):
    layer, x, _ = case("lstm", dtype, B)
    y = Stream(layer, B).run(x)
    layouts = [
        x.movedim(-1, 0).contiguous().movedim(0, -1),
        torch.cat([x, x], -1)[..., : x.shape[-1]],
        x.flip(-1).repeat_interleave(2, -1)[..., ::2].flip(-1),
    ]
    for strided in layouts:
        stream = Stream(layer, B)
        assert torch.equal(torch.stack([stream.step(x_t) for x_t in strided]), y)
        stream.reset()
        found = np.stack([stream.step(x_t) for x_t in strided.numpy()])
        assert np.array_equal(found, y.numpy())
    backward = np.ascontiguousarray(x.numpy()[..., ::-1])[..., ::-1]
    stream.reset()
    assert np.array_equal(np.stack([stream.step(x_t) for x_t in backward]), y.numpy())


def test_a_chunk_that_pytorch_has_yet_to_negate_is_negated():
    layer = GRU(3, 4)
    x = torch.randn(5, 3, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    assert torch.equal(Stream(layer).run(x), Stream(layer).run(x.clone()))


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: s.step(),
        lambda s, x: s.step(x, x, x),
        lambda s, x: s.step(x, wrong=x),
        lambda s, x: s.run(),
        lambda s, x: s.run(x, 1),
        lambda s, x: s.fork(1),
        lambda s, x: s.reset(1),
        lambda s, x: Stream(),
        lambda s, x: Stream(GRU(3, 4), 1, 2),
        lambda s, x: Stream(GRU(3, 4), wrong=2),
    ],
)
def test_the_wrong_arguments_are_an_error_of_ours(call):
    with pytest.raises(OstinatoError, match=r"^Stream"):
        call(Stream(GRU(3, 4)), np.ones(3, np.float32))


@pytest.mark.parametrize("name", COMPILED_VARIANTS)
def test_variants_that_the_core_knows_stream(name):
    torch.manual_seed(0)
    layer = Recurrent(VARIANTS[name], 2)
    x = random(T, 2, 3, seed=1, dtype=torch.float32)
    stream = Stream(layer, 2)
    y, last = layer(x)
    assert torch.equal(stream.run(x), y)
    assert equal(stream.state, last)
