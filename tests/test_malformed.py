"""Malformed calls of layers, streams, functions: no signal, and an error of ours or PyTorch's."""

import inspect
import os
import random
import resource
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import ostinato
from ostinato import cells
from ostinato.errors import OstinatoError

T, B, I, H = 4, 3, 5, 6
MEMORY = 16 << 30  # bytes of addresses
ALLOWED = 20  # of 1,500, exceptions that are neither ours nor PyTorch's


def garbage(rng):
    """Something that is no argument, or seldom one."""
    x = torch.randn(T, B, I)
    numbers = [None, 0, -1, 3, 2.5, float("nan"), True, 2**31, 2**70, 1j]
    things = ["x", "", b"x", [], [1], [None], (), (None, None), (5,), {}, {"a": 1}, set(), object()]
    things += [len, iter([1]), torch.Size([3]), torch.float32, np.float32(2), nn.Linear(I, I)]
    arrays = [np.zeros((T, B, I), np.float32), np.zeros(I), np.zeros((2, 0)), np.array("x")]
    tensors = [x[0, 0], x[..., :2], x[None], torch.zeros(()), torch.zeros(0), x[:, :0], x[:0]]
    tensors += [x.to(t) for t in (torch.float64, torch.int64, torch.bool, torch.complex64)]
    tensors += [x.bfloat16(), x.to("meta"), x.to_sparse(), x[:, 0].to_sparse_csr()]
    tensors += [torch.nested.nested_tensor([x[:, 0], x[:2, 0]]), x.expand(2, T, B, I)]
    tensors += [
        torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        x.half(),
        torch.full((B,), 2**40),
    ]
    packed = [PackedSequence(x[0], torch.tensor(n)) for n in ([2, 9], [1, 2], [3, -3], [], [[3]])]
    packed += [pack_padded_sequence(x[..., :2], [4, 2, 1]), PackedSequence(x[0], torch.ones(3))]
    states = [(x[:1], x[:1]), (x[:1, :, :2],), [None, x], (x, "x"), torch.zeros(1, B, H + 1)]
    states += [torch.zeros(1, B, H).double(), (torch.zeros(1, B, H), torch.zeros(2, B, H))]
    return rng.choice(rng.choice([numbers, things, arrays, tensors, packed, states]))


def layer_call(rng):
    """A call of a layer in which one or two arguments are garbage, and the same of PyTorch's."""
    kind, options = rng.choice(["RNN", "LSTM", "GRU"]), {"num_layers": rng.choice([1, 2])}
    options |= {"batch_first": rng.random() < 0.5, "bidirectional": rng.random() < 0.3}
    ours = getattr(ostinato, kind)(I, H, **options).train(rng.random() < 0.5)
    theirs = getattr(nn, kind)(I, H, **options)
    if rng.random() < 0.2:
        ours, theirs = ostinato.Recurrent([cells.LSTMCell(I, H), cells.GRUCell(H, 2)]), None
    arguments = {"input": torch.randn(T, B, I)}
    name = rng.choice(["input", "input", "hx", "hx", "lengths", "table", "return_gates"])
    arguments[name] = garbage(rng)
    if rng.random() < 0.2:
        arguments[rng.choice(["hx", "lengths", "table"])] = garbage(rng)
    plain = {k: v for k, v in arguments.items() if k in ("input", "hx")}
    if rng.random() < 0.1:
        given = garbage(rng)
        return lambda: ours.step(given), None
    return lambda: ours(**arguments), theirs and (lambda: theirs(**plain))


def make_layer(rng):
    kind = rng.choice(["RNN", "LSTM", "GRU", "Recurrent", "cell", "zoneout"])
    bad = garbage(rng)
    if kind == "cell":
        cell = getattr(cells, rng.choice(["RNNCell", "LSTMCell", "MGUCell", "IndRNNCell"]))
        name = rng.choice(["input_size", "hidden_size"])
        return lambda: cell(**({"input_size": I, "hidden_size": H} | {name: bad})), None
    if kind == "zoneout":
        return lambda: cells.ZoneoutCell(cells.GRUCell(I, H), bad), None
    shared = ["num_layers", "batch_first", "dropout", "bidirectional", "dtype", "device", "unknown"]
    own = ["init", "variational_dropout", "weight_dropout", "checkpoint_every"]
    name = rng.choice([*shared, *own, "first", "second"])
    if kind == "Recurrent" and name == "unknown":
        name = "first"
    if kind == "Recurrent":
        given = (bad,) if name == "first" else (cells.GRUCell(I, H),)
        more = {} if name in ("first", "second") else {name: bad}
        theirs = (lambda: torch.empty(1, **more)) if name in ("dtype", "device") else None
        return lambda: ostinato.Recurrent(*given, **more), theirs
    given = {"first": (bad, H), "second": (I, bad)}.get(name, (I, H))
    more = {} if name in ("first", "second") else {name: bad}
    theirs = (lambda: getattr(nn, kind)(*given, **more)) if name not in own else None
    return lambda: getattr(ostinato, kind)(*given, **more), theirs


def stream_call(rng):
    size = rng.choice([None, 1, B])
    stream = ostinato.Stream(ostinato.LSTM(I, H), size)
    bad, other = garbage(rng), garbage(rng)
    x = np.zeros((I,) if size is None else (size, I), np.float32)
    calls = [
        lambda: stream.step(bad),
        lambda: stream.step(x, out=bad),
        lambda: stream.step(torch.from_numpy(x), bad),
        lambda: stream.run(bad),
        lambda: setattr(stream, "state", bad),
        lambda: ostinato.Stream(bad),
        lambda: ostinato.Stream(ostinato.LSTM(I, H), bad),
        lambda: ostinato.Stream(ostinato.LSTM(I, H), quantize=bad),
        lambda: ostinato.Stream(ostinato.LSTM(I, H), threads=bad),
        lambda: rng.choice([stream.step, stream.run, stream.reset, stream.fork])(bad, other, 3),
        lambda: rng.choice([stream.step, stream.run, ostinato.Stream])(),
        lambda: rng.choice([stream.step, stream.run, stream.fork, ostinato.Stream])(wrong=bad),
    ]
    return rng.choice(calls), None


def function_call(rng):
    layer, x, bad = ostinato.GRU(I, H), torch.randn(T, B, I), garbage(rng)

    def forced(name):
        with ostinato.use_backend(name):
            layer(x)

    calls = [
        lambda: forced(bad),
        lambda: ostinato.backend(layer, bad),
        lambda: ostinato.backend(bad, x),
        lambda: layer.load_state_dict(bad),
    ]
    k = rng.randrange(len(calls))
    theirs = (lambda: nn.GRU(I, H).load_state_dict(bad)) if k == 3 else None
    return calls[k], theirs


KINDS = [layer_call] * 5 + [make_layer] * 3 + [stream_call] * 3 + [function_call]


def verdict(call, theirs):
    """Return how a call ended: "taken", "ours", "PyTorch's", or the error."""

    def outcome(call):
        try:
            call()
        except Exception as error:
            return error
        return None

    error = outcome(call)
    if error is None or isinstance(error, OstinatoError):
        return "ours" if error else "taken"
    same = theirs and outcome(theirs)
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    if place == inspect.getfile(nn.RNNBase) or (
        same is not None and (type(same), str(same)) == (type(error), str(error))
    ):
        return "PyTorch's"
    return f"{type(error).__name__}: {error}"


def main(first, last):
    """As a program: make the calls of these numbers, and print what ended as it should not."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for seed in range(first, last):
        torch.manual_seed(seed)
        rng = random.Random(seed)
        kind = rng.choice(KINDS)
        found = verdict(*kind(rng))
        if found not in ("taken", "ours", "PyTorch's"):
            print(f"{seed}: {kind.__name__}: {found}"[:300].replace("\n", " "), flush=True)
    print("alive")


def outside(first, last):
    """Make the calls in a process of their own; return the errors that are of other families."""
    here = Path(__file__).parent
    code = f"import sys; sys.path.insert(0, {str(here)!r}); import test_malformed as t"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", f"{code}; t.main({first}, {last})"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    *lines, last_line = done.stdout.splitlines() or [""]
    assert (done.returncode, last_line) == (0, "alive"), done.stderr[-3000:]
    return lines


def test_some_malformed_calls_end_in_an_error_of_ours_or_of_pytorch():
    assert outside(0, 200) == []


@pytest.mark.slow
def test_malformed_calls_end_in_an_error_of_ours_or_of_pytorch():
    found = outside(200, 1700)
    assert len(found) <= ALLOWED, "\n".join(found)
