"""Recurrent layers in C: standard cells as the compiled core has them, others by their graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
import torch

from ostinato.deploy.c_graph import Graph
from ostinato.deploy.c_runtime import Array
from ostinato.deploy.c_source import Function, Source
from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import Cell, GRUCell, LSTMCell, RNNCell, Weights
from ostinato.recurrence.layers import Recurrent
from ostinato.recurrence.streams import Stream


class Part(Protocol):
    """A part of a program: it makes the features of a step from those of the part before."""

    size: int
    """Features that it makes."""

    def emit(self, c: Source, f: Function, x: str) -> str:
        """Add the part to the function of a step that has features ``x``; return its own."""

    def reset(self) -> None:
        """Begin a sequence."""

    def step(self, x: Any) -> Any:
        """Compute what the C code computes with 8 bits: the reference for it."""


class Layer(Part):
    """One layer of a stack.

    Args:
        cell: its cell.
        w: its weights.
        name: by which its constants, state and function are called.
        residual: whether it adds its input to its output.
    """

    def __init__(self, cell: Cell, w: Weights, name: str, residual: bool = False) -> None:
        self.cell, self.name, self.residual = cell.standard_cell(), name, residual
        self.w = {n: t.detach().float().cpu() for n, t in cell.standard_weights(w).items()}
        self.size = cell.output_size
        self.is_standard = type(self.cell) in _STANDARD
        self.graph = None if self.is_standard else Graph(self.cell, self.w, name)
        self._step: Callable[[Array], Array] | None = None

    def emit(self, c: Source, f: Function, x: str) -> str:
        layer = c.function(f"static void @{self.name}(@state *s, const float *restrict x)")
        states = [
            c.state(f"{self.name}_{name}", t.shape[1], initial=_initial(t))
            for name, t in self.cell.zero_state(1)._asdict().items()
        ]
        if self.graph is None:
            weights = {n: t.numpy() for n, t in self.w.items()}
            _STANDARD[type(self.cell)](_Emitter(c, layer, self.name, self.cell, weights))
        else:
            self.graph.emit(c, layer, "x", states)
        c.close(layer)
        f.add(c.named(f"@{self.name}(s, {x});"))
        if not self.residual:
            return states[0]
        y = f.local(f"{self.name}_y", self.size)
        f.loop(self.size, f"{y}[i] = {states[0]}[i] + {x}[i];")
        return y

    def reset(self) -> None:
        if self.graph is not None:
            self.graph.reset()
            self._step = self.graph.step
            return
        layer = Recurrent(self.cell)
        with torch.no_grad():
            for name, weight in layer.weights_of(0).items():
                weight.copy_(self.w[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow here
            self._step = cast("Callable[[Array], Array]", Stream(layer, quantize="int8").step)

    def step(self, x: Array) -> Array:
        assert self._step is not None
        y = np.array(self._step(np.ascontiguousarray(x, np.float32)))
        return y + x if self.residual else y


def layers_of(recurrent: Recurrent, name: str = "layer") -> list[Layer]:
    """Return the layers of a stack; an `OstinatoError` if it cannot stream."""
    if recurrent.bidirectional:
        raise OstinatoError(
            "export: the network reads in both directions, and a C program has no future; train "
            "it with bidirectional=False (--no-bidirectional)."
        )
    return [
        Layer(cell, recurrent.weights_of(i), f"{name}{i}", recurrent.residual and i > 0)
        for i, cell in enumerate(recurrent.cells)
    ]


def _initial(t: torch.Tensor) -> float:
    """Return the number that all of an initial state are."""
    if bool((t != t.flatten()[0]).any()):
        raise OstinatoError("export: a cell's initial state holds different numbers.")
    return float(t.flatten()[0])


class _Emitter:
    """What the equations of a standard cell need to be written in C."""

    def __init__(self, c: Source, f: Function, name: str, cell: Cell, w: dict[str, Array]) -> None:
        self.c, self.f, self.name, self.cell, self.w = c, f, name, cell, w
        self.H, self.I = cell.hidden_size, cell.input_size
        self.h = f"s->{name}_h"
        self.quantized: dict[str, str] = {}
        self.sigmoid, self.tanh = (c.named(f"@{n}") for n in ("sigmoid", "tanh"))
        self.fma = c.named("$FMA")

    def biases(self) -> list[tuple[Array, Array]]:
        """Return the biases of each gate, of the input and of the state."""
        none = np.zeros_like(self.w["weight_ih"][:, 0])
        both = (self.w.get(n, none).reshape(-1, self.H) for n in ("bias_ih", "bias_hh"))
        return list(zip(*both, strict=True))

    def start(self, *bias: Array) -> None:
        """Have sums ``a`` that begin as biases."""
        values = np.concatenate(bias)
        table = self.c.named(f"@{self.c.table(f'{self.name}_bias', values)}")
        self.f.local("a", len(values))
        self.f.loop(len(values), f"a[i] = {table}[i];")

    def product(self, name: str, weight: Array, x: str, y: str, columns: int) -> None:
        """Add ``y += weight x``; a vector that is multiplied again is quantized once."""
        matrix = self.c.matrix(f"{self.name}_{name}", np.ascontiguousarray(weight))
        if x not in self.quantized:
            q = f"q{len(self.quantized)}"
            self.quantized[x] = self.c.quantized(self.f, x, columns, q)
        matrix.add(self.f, self.quantized[x], y)


def _rnn(e: _Emitter) -> None:
    ((b_ih, b_hh),) = e.biases()
    e.start(b_ih + b_hh)
    e.product("ih", e.w["weight_ih"], "x", "a", e.I)
    e.product("hh", e.w["weight_hh"], e.h, "a", e.H)
    activation = cast(RNNCell, e.cell).activation
    value = "a[i]" if activation == "identity" else f"{e.c.call(activation)}(a[i])"
    e.f.loop(e.H, f"{e.h}[i] = {value};")


def _lstm(e: _Emitter) -> None:
    H, P, c = e.H, e.cell.output_size, f"s->{e.name}_c"
    e.c.need("sigmoid", "tanh")
    e.start(*(b_ih + b_hh for b_ih, b_hh in e.biases()))
    e.product("ih", e.w["weight_ih"], "x", "a", e.I)
    e.product("hh", e.w["weight_hh"], e.h, "a", P)
    h = e.f.local("m", H) if P < H else e.h
    e.f.loop(
        H,
        f"const float in = {e.sigmoid}(a[i]), forget = {e.sigmoid}(a[{H} + i]);",
        f"const float new = {e.fma}(forget, {c}[i], in * {e.tanh}(a[{2 * H} + i]));",
        f"{c}[i] = new;",
        f"{h}[i] = {e.sigmoid}(a[{3 * H} + i]) * {e.tanh}(new);",
    )
    if P < H:
        e.f.loop(P, f"{e.h}[i] = 0.0f;")
        e.product("hr", e.w["weight_hr"], h, e.h, H)


def _gru(e: _Emitter) -> None:
    H = e.H
    e.c.need("sigmoid", "tanh")
    r, z, n = e.biases()
    w_ih, w_hh = e.w["weight_ih"], e.w["weight_hh"]
    new = f"const float old = {e.h}[i], z = {e.sigmoid}(a[%d + i]), n = {e.tanh}(%s);"
    mix = f"{e.h}[i] = {e.fma}(z, old - n, n);"
    if cast(GRUCell, e.cell).reset_after:
        e.start(n[0], r[0] + r[1], z[0] + z[1], n[1])
        e.product("ih", np.concatenate([w_ih[2 * H :], w_ih[: 2 * H]]), "x", "a", e.I)
        e.product("hh", w_hh, e.h, f"a + {H}", H)
        inner = f"{e.fma}({e.sigmoid}(a[{H} + i]), a[{3 * H} + i], a[i])"
        e.f.loop(H, new % (2 * H, inner), mix)
        return
    e.start(*(b_ih + b_hh for b_ih, b_hh in (r, z, n)))
    e.product("ih", w_ih, "x", "a", e.I)
    e.product("hh", w_hh[: 2 * H], e.h, "a", H)
    rh = e.f.local("rh", H)
    e.f.loop(H, f"{rh}[i] = {e.sigmoid}(a[i]) * {e.h}[i];")
    e.product("hn", w_hh[2 * H :], rh, f"a + {2 * H}", H)
    e.f.loop(H, new % (H, f"a[{2 * H} + i]"), mix)


_STANDARD: dict[type[Cell], Callable[[_Emitter], None]] = {
    RNNCell: _rnn,
    LSTMCell: _lstm,
    GRUCell: _gru,
}
