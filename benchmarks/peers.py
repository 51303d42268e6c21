"""Who takes part: Ostinato, PyTorch, JAX, ONNX Runtime and Eigen, each its best way.

`contenders` gives for every peer the variants among which the faster one is to be found by
measurement: how far JAX unrolls its loop and whether it projects the input ahead of it, how many
threads ONNX Runtime uses and how its inputs and outputs are bound, whether a loop with Eigen has a
product for each gate or one for all.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import eigen
import numpy as np
import torch
from settings import CellName, Problem, Setting
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import ostinato
from ostinato.recurrence.streams import SlowQuantizationWarning

HAS_JAX = importlib.util.find_spec("jax") is not None
HAS_ONNX_RUNTIME = all(importlib.util.find_spec(each) for each in ("onnx", "onnxruntime"))
HAS_EIGEN = eigen.absence() is None
HAS_COMPILER = eigen.COMPILER is not None  # which torch.compile needs as well
PRESENT = {"jax": HAS_JAX, "onnxruntime": HAS_ONNX_RUNTIME, "eigen": HAS_EIGEN}

if HAS_JAX:
    import jax
    import jax.numpy as jnp

    # A call that is waited for gains nothing by another thread, and loses the way there and back.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
if HAS_ONNX_RUNTIME:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

FLOAT32_TOLERANCE = 2e-4
"""Largest difference between two contenders, as a share of the largest element."""

INT8_TOLERANCE = 5e-2
"""The same where weights are rounded to eight bits."""

PARITY_STEPS = 20
"""Steps of a stream that are compared."""

UNROLLED = 10
"""Steps that torch.compile unrolls at a time."""

LOOP_STEPS = 256
"""Steps of a stream that a loop in C++ takes in a call."""

Results = dict[str, np.ndarray]


@dataclass
class Contender:
    """Somebody who takes part in one setting.

    Args:
        name: who it is.
        call: does once what is timed, and returns when it is done.
        results: outputs and gradients by name, to compare with others'.
        prepare: what must come before every call and is not timed.
        flush: whether PyTorch flushes denormal numbers meanwhile.
        tolerance: by how much its results may differ.
        note: which variant it is, or by which path it runs.
        steps: how many a call takes, if the time of one step is measured.
    """

    name: str
    call: Callable[[], Any]
    results: Callable[[], Results]
    prepare: Callable[[], None] = lambda: None
    flush: bool = False
    tolerance: float = FLOAT32_TOLERANCE
    note: str = ""
    steps: int = 1

    @contextmanager
    def mode(self) -> Iterator[None]:
        """Have denormal numbers flushed, or not, as this one wants it."""
        torch.set_flush_denormal(self.flush)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)


def contenders(setting: Setting, threads: int, *, thorough: bool = True) -> list[list[Contender]]:
    """The variants of each contender of a setting, PyTorch first and Ostinato second.

    Args:
        setting: what they do.
        threads: how many each may use.
        thorough: try variants too that take long to compile and win seldom.
    """
    problem = Problem.of(setting)
    if setting.family == "streaming":
        groups = _torch_streams(setting, problem) + _ostinato_streams(setting, problem, threads)
        groups += _jax_streams(setting, problem) if HAS_JAX else []
        groups += _loops(setting, problem)
        return groups + (_onnx_streams(setting, problem, threads) if HAS_ONNX_RUNTIME else [])
    groups = _modules(setting, problem)
    if HAS_COMPILER and thorough and setting.family == "training" and setting.T == 100:
        groups.append(_compiled_modules(setting, problem))
    groups += [_jax_scans(setting, problem, thorough)] if HAS_JAX else []
    if HAS_ONNX_RUNTIME and setting.family == "inference":
        groups.append(_onnx_sequences(setting, problem, threads))
    return groups


# PyTorch and Ostinato, whose layers have the same interface


def _layer(library: Any, kind: str, setting: Setting, problem: Problem) -> Any:
    layer = getattr(library, kind)(setting.H, setting.H)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(torch.from_numpy(problem.weights[name.removesuffix("_l0")]))
    return layer


def _modules(setting: Setting, problem: Problem) -> list[list[Contender]]:
    kind = setting.cell.upper()
    ours = _layer(ostinato, kind, setting, problem)
    lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths)
    served = ostinato.backend(ours, torch.from_numpy(problem.x), lengths=lengths)
    routes = {"torch": ""} if lengths is None else {"torch padded": "", "torch packed": "packed"}
    found = []
    for name, route in routes.items():
        layer = _layer(nn, kind, setting, problem)
        found.append([_module(name, layer, setting, problem, route)])
        found.append([_module(f"{name}, flushed", layer, setting, problem, route, flush=True)])
    route = "" if lengths is None else "lengths"
    ostinato_s = _module("ostinato", ours, setting, problem, route, note=served)
    return [found[0], [ostinato_s], *found[1:]]


def _module(
    name: str,
    layer: Any,
    setting: Setting,
    problem: Problem,
    route: str,
    run: Callable[..., Any] | None = None,
    **rest: Any,
) -> Contender:
    """A layer over a sequence; ``route``: how lengths are passed, ``run``: replaces the call."""
    run = layer if run is None else run
    x = torch.from_numpy(problem.x).requires_grad_(setting.input_grad)
    cotangent = torch.from_numpy(problem.cotangent)
    lengths = torch.from_numpy(problem.lengths) if problem.lengths is not None else None
    if route == "packed":
        cotangent = pack_padded_sequence(cotangent, lengths).data

    def forward() -> Tensor:
        if route == "packed":
            return run(pack_padded_sequence(x, lengths))[0].data
        y = run(x, lengths=lengths)[0] if route == "lengths" else run(x)[0]
        return y[-1] if setting.family == "last" else y

    def train() -> Tensor:
        y = forward()
        torch.autograd.backward(y, cotangent)
        return y

    def infer() -> Tensor:
        with torch.inference_mode():
            return forward()

    def prepare() -> None:
        x.grad = None
        for parameter in layer.parameters():
            parameter.grad = None

    call = train if setting.is_training else infer

    def results() -> Results:
        prepare()
        y = call().detach()
        if lengths is not None and route != "packed":
            y = pack_padded_sequence(y, lengths).data
        found = {"y": y.numpy()}
        if setting.is_training:
            found |= {f"d{n.removesuffix('_l0')}": p.grad for n, p in layer.named_parameters()}
        return found | ({"dx": x.grad} if setting.input_grad else {})

    return Contender(name, call, results, prepare, **rest)


def _compiled_modules(setting: Setting, problem: Problem) -> list[Contender]:
    """torch.nn's layer through torch.compile, forward and backward.

    As it comes, it breaks its graph at a recurrent layer, and calls the same operation of ATen.
    With Dynamo's ``allow_rnn`` it unrolls the steps, and compiles the longer the more there are: so
    a part of the sequence is compiled, as one graph, and called until all is done, and that for
    some sizes of a batch alone. An LSTM that is unrolled is half as fast as the operation,
    oneDNN's, and does not take part.
    """

    def as_it_comes() -> Contender:
        layer = _layer(nn, setting.cell.upper(), setting, problem)
        run = torch.compile(layer, dynamic=False)
        run(torch.from_numpy(problem.x).requires_grad_(setting.input_grad))
        note = "the same operation of ATen"
        return _module("torch.compile", layer, setting, problem, "", run=run, note=note)

    def unrolled() -> Contender:
        layer = _layer(nn, setting.cell.upper(), setting, problem)
        compiled = torch.compile(lambda x, h: layer(x, h), fullgraph=True, dynamic=False)
        # With a gradient from the first step on, so that one graph serves all parts.
        state = torch.zeros(1, setting.B, setting.H, requires_grad=True)

        def run(x: Tensor) -> tuple[Tensor]:
            h, y, state.grad = state, [], None
            with torch._dynamo.config.patch(allow_rnn=True):
                for inputs in x.split(UNROLLED):
                    outputs, h = compiled(inputs, h)
                    y.append(outputs)
            return (torch.cat(y),)

        note = f"unrolled, {UNROLLED} steps a call"
        return _module("torch.compile", layer, setting, problem, "", run=run, note=note)

    torch._dynamo.reset()  # which gives up on a function that was compiled often
    unrolls = setting.cell != "lstm" and setting.B > 1 and setting.H in (64, 256)
    return [as_it_comes(), unrolled()] if unrolls else [as_it_comes()]


def _torch_streams(setting: Setting, problem: Problem) -> list[list[Contender]]:
    cell = _layer(nn, f"{setting.cell.upper()}Cell", setting, problem)

    def start() -> Callable[[Any], Any]:
        state = torch.zeros(1, setting.H)
        state = (state, state) if setting.cell == "lstm" else state

        def step(x: Any) -> Any:
            nonlocal state
            with torch.inference_mode():
                state = cell(torch.from_numpy(x), state)
                return (state[0] if setting.cell == "lstm" else state).numpy()

        return step

    return [[_stream("torch", start, problem)]]


def _ostinato_streams(setting: Setting, problem: Problem, threads: int) -> list[list[Contender]]:
    layer = _layer(ostinato, setting.cell.upper(), setting, problem)

    def variants(name: str, quantize: Any) -> list[Contender]:
        def start(count: int) -> Callable[[Any], Any]:
            with warnings.catch_warnings():  # small layers are measured as well
                warnings.simplefilter("ignore", SlowQuantizationWarning)
                stream = ostinato.Stream(layer, 1, quantize=quantize, threads=count)
            # Bound memory, as that of ONNX Runtime's best.
            step, out = stream.step, np.empty((1, setting.H), np.float32)
            return lambda x: step(x, out)

        counts = [1] if threads == 1 else [1, threads]
        notes = {1: "one thread"}
        return [
            _stream(name, partial(start, n), problem, notes.get(n, f"{n} threads")) for n in counts
        ]

    rounded = variants("ostinato int8", "int8")
    for each in rounded:
        each.tolerance = INT8_TOLERANCE
    return [variants("ostinato", None), rounded]


def _stream(
    name: str, start: Callable[[], Callable[[Any], Any]], problem: Problem, note: str = ""
) -> Contender:
    """One step a call; ``start`` begins a stream and gives its step, ``(1, I) -> (1, H)``."""
    step, x = start(), problem.x[0]

    def results() -> Results:
        rng, fresh = np.random.default_rng(1), start()
        inputs = rng.standard_normal((PARITY_STEPS, *x.shape), dtype=np.float32)
        return {"y": np.stack([np.array(fresh(x_t)).reshape(1, -1) for x_t in inputs])}

    return Contender(name, lambda: step(x), results, note=note)


def _loops(setting: Setting, problem: Problem) -> list[list[Contender]]:
    """Streams whose loop over the steps is in C++: no Python between one step and the next."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((LOOP_STEPS, setting.H), dtype=np.float32)

    def ours() -> Contender:
        stream = ostinato.Stream(_layer(ostinato, setting.cell.upper(), setting, problem))
        inputs = torch.from_numpy(x)

        def results() -> Results:
            stream.reset()
            return {"y": stream.run(inputs[:PARITY_STEPS]).numpy()[:, None]}

        return Contender("ostinato loop", lambda: stream.run(inputs), results, steps=LOOP_STEPS)

    def theirs(stacked: bool) -> Contender:
        def results() -> Results:
            call, y = eigen.Loop(setting.cell, problem.weights, stacked=stacked).bound(x)
            call()
            return {"y": y[:PARITY_STEPS, None]}

        call, _ = eigen.Loop(setting.cell, problem.weights, stacked=stacked).bound(x)
        note = f"{'one product' if stacked else 'a product for each gate'}"
        return Contender("eigen loop", call, results, note=note, steps=LOOP_STEPS)

    found = [[ours()]]
    both = (False, True)[: 1 if setting.cell == "rnn" else 2]
    return [*found, [theirs(stacked) for stacked in both]] if HAS_EIGEN else found


# JAX


def _jax_cell(cell: CellName) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The input's share of the gates, ``(w, x) -> xp``, and a step, ``(w, xp_t, state) -> state``.

    Both biases belong to the former, where the equations let them.
    """
    sigmoid, tanh = jax.nn.sigmoid, jnp.tanh

    def project(w: Any, x: Any) -> Any:
        bias = w["bias_ih"] if cell == "gru" else w["bias_ih"] + w["bias_hh"]
        return x @ w["weight_ih"] + bias

    def rnn(w: Any, xp: Any, state: Any) -> Any:
        return (tanh(xp + state[0] @ w["weight_hh"]),)

    def lstm(w: Any, xp: Any, state: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(xp + h @ w["weight_hh"], 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    def gru(w: Any, xp: Any, state: Any) -> Any:
        (h,) = state
        xr, xz, xn = jnp.split(xp, 3, axis=-1)
        hr, hz, hn = jnp.split(h @ w["weight_hh"] + w["bias_hh"], 3, axis=-1)
        z = sigmoid(xz + hz)
        return ((1 - z) * tanh(xn + sigmoid(xr + hr) * hn) + z * h,)

    return project, {"rnn": rnn, "lstm": lstm, "gru": gru}[cell]


def _jax_weights(problem: Problem) -> dict[str, Any]:
    return {name: jnp.asarray(np.ascontiguousarray(w.T)) for name, w in problem.weights.items()}


def _jax_scans(setting: Setting, problem: Problem, thorough: bool) -> list[Contender]:
    (project, cell), parts = _jax_cell(setting.cell), 2 if setting.cell == "lstm" else 1
    w, x, cotangent = _jax_weights(problem), jnp.asarray(problem.x), jnp.asarray(problem.cotangent)

    def contender(ahead: bool, unroll: int) -> Contender:
        def forward(w: Any, x: Any) -> Any:
            def step(state: Any, x_t: Any) -> Any:
                state = cell(w, x_t if ahead else project(w, x_t), state)
                return state, state[0]

            zeros = jnp.zeros((setting.B, setting.H))
            inputs = project(w, x) if ahead else x
            _, y = jax.lax.scan(step, (zeros,) * parts, inputs, unroll=unroll)
            return y[-1] if setting.family == "last" else y

        def train(w: Any, x: Any, cotangent: Any) -> Any:
            leaves = (w, x) if setting.input_grad else (w,)
            y, pull = jax.vjp(lambda w, x=x: forward(w, x), *leaves)
            return y, pull(cotangent)

        compiled = jax.jit(train if setting.is_training else forward)
        arguments = (w, x, cotangent) if setting.is_training else (w, x)

        def results() -> Results:
            found = compiled(*arguments)
            y, gradients = found if setting.is_training else (found, ())
            y = torch.from_numpy(np.array(y))
            if problem.lengths is not None:
                y = pack_padded_sequence(y, torch.from_numpy(problem.lengths)).data
            named = {"y": y.numpy()}
            if gradients:
                named |= {f"d{name}": np.asarray(each).T for name, each in gradients[0].items()}
            return named | ({"dx": np.asarray(gradients[1])} if setting.input_grad else {})

        note = f"unroll={unroll}" + (", input projected ahead" if ahead else "")
        return Contender(
            "jax", lambda: jax.block_until_ready(compiled(*arguments)), results, note=note
        )

    usual, seldom = [(True, 1), (True, 4), (False, 1)], [(True, 8), (False, 4)]
    return [contender(*variant) for variant in [*usual, *seldom * thorough]]


def _jax_streams(setting: Setting, problem: Problem) -> list[list[Contender]]:
    (project, cell), parts = _jax_cell(setting.cell), 2 if setting.cell == "lstm" else 1
    w = _jax_weights(problem)

    def step(w: Any, x: Any, state: Any) -> Any:
        return cell(w, project(w, x), state)

    def contender(donate: bool) -> Contender:
        compiled = jax.jit(step, donate_argnums=(2,) if donate else ())

        def start() -> Callable[[Any], Any]:
            state = tuple(jnp.zeros((1, setting.H)) for _ in range(parts))

            def next_step(x: Any) -> Any:
                nonlocal state
                state = compiled(w, x, state)
                return np.asarray(state[0])

            return next_step

        return _stream("jax", start, problem, "state donated" if donate else "")

    # An output that NumPy has looked at cannot be donated; JAX then copies, and says nothing.
    return [[contender(False), contender(True)]]


# ONNX Runtime

ONNX_GATES = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}
"""ONNX's gates (iofc, zrh) by their places in PyTorch's order (ifgo, rzn)."""


def onnx_model(setting: Setting, problem: Problem) -> bytes:
    """A model of one native recurrent node: ``X, H0[, C0] -> Y, H1[, C1]``."""
    s, states = setting, ["H", "C"] if setting.cell == "lstm" else ["H"]

    def reordered(name: str) -> np.ndarray:
        gates = np.split(problem.weights[name], len(ONNX_GATES[s.cell]))
        return np.concatenate([gates[place] for place in ONNX_GATES[s.cell]])

    constants = {
        "W": reordered("weight_ih")[None],
        "R": reordered("weight_hh")[None],
        "B": np.concatenate([reordered("bias_ih"), reordered("bias_hh")])[None],
    }

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    node = helper.make_node(
        s.cell.upper(),
        ["X", "W", "R", "B", "", *(f"{each}0" for each in states)],
        ["Y", *(f"{each}1" for each in states)],
        hidden_size=s.H,
        **({"linear_before_reset": 1} if s.cell == "gru" else {}),
    )
    graph = helper.make_graph(
        [node],
        s.cell,
        [value("X", s.T, s.B, s.H), *(value(f"{each}0", 1, s.B, s.H) for each in states)],
        [value("Y", s.T, 1, s.B, s.H), *(value(f"{each}1", 1, s.B, s.H) for each in states)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    # Old enough for any runtime; the recurrent nodes have not changed since.
    opset = helper.make_opsetid("", 14)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def _onnx_session(model: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _onnx_states(setting: Setting) -> dict[str, np.ndarray]:
    names = ["H0", "C0"] if setting.cell == "lstm" else ["H0"]
    return {name: np.zeros((1, setting.B, setting.H), np.float32) for name in names}


def _thread_counts(threads: int) -> list[int]:
    return sorted({1, threads})


def _onnx_sequences(setting: Setting, problem: Problem, threads: int) -> list[Contender]:
    model = onnx_model(setting, problem)
    inputs = {"X": problem.x, **_onnx_states(setting)}

    def contender(threads: int) -> Contender:
        session = _onnx_session(model, threads)

        def call() -> Any:
            return session.run(["Y"], inputs)

        note = f"{threads} thread{'s' * (threads > 1)}"
        return Contender("onnxruntime", call, lambda: {"y": call()[0][:, 0]}, note=note)

    return [contender(each) for each in _thread_counts(threads)]


def _onnx_streams(setting: Setting, problem: Problem, threads: int) -> list[list[Contender]]:
    model = onnx_model(setting, problem)

    def contender(threads: int, bound: bool) -> Contender:
        session = _onnx_session(model, threads)

        def run() -> Callable[[Any], Any]:
            states = _onnx_states(setting)

            def step(x: Any) -> Any:
                y, *after = session.run(None, {"X": x[None], **states})
                states.update(zip(states, after, strict=True))
                return y

            return step

        def bind() -> Callable[[Any], Any]:
            # Two bindings to and fro between two sets of state, all in memory of our own.
            x_t, y_t = (np.zeros((1,) * n + (setting.H,), np.float32) for n in (2, 3))
            sets = [_onnx_states(setting), _onnx_states(setting)]
            bindings, turn = [], 0
            for before, after in (sets, sets[::-1]):
                binding = session.io_binding()
                for name, array in {"X": x_t, **before}.items():
                    binding.bind_ortvalue_input(
                        name, onnxruntime.OrtValue.ortvalue_from_numpy(array)
                    )
                for name, array in {"Y": y_t, **after}.items():
                    value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
                    binding.bind_ortvalue_output(name.replace("0", "1"), value)
                bindings.append(binding)

            def step(x: Any) -> Any:
                nonlocal turn
                x_t[0] = x
                session.run_with_iobinding(bindings[turn])
                turn = 1 - turn
                return y_t

            return step

        note = f"{threads} thread{'s' * (threads > 1)}{', bound' * bound}"
        return _stream("onnxruntime", bind if bound else run, problem, note)

    return [[contender(*each) for each in product(_thread_counts(threads), (False, True))]]
