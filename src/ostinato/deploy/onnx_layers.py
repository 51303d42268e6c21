"""Recurrent layers from ONNX files: their RNN, GRU and LSTM nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.deploy.graph import Array
from ostinato.deploy.imported import Imported, loaded, stack_of
from ostinato.deploy.nodes import ACTIVATIONS, GRU_ORDER, LSTM_ORDER
from ostinato.deploy.weights import damage
from ostinato.errors import DataError, OstinatoError, require
from ostinato.recurrence.cells import (
    Cell,
    CoupledLSTMCell,
    GRUCell,
    LSTMCell,
    PeepholeLSTMCell,
    RNNCell,
)
from ostinato.recurrence.layers import Lengths, Recurrent
from ostinato.recurrence.scan import reverse_rows

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
PASSIVE = {
    "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "GRU", "Gather",
    "Gemm", "Identity", "LSTM", "LogSoftmax", "MatMul", "RNN", "Reshape", "Shape", "Sigmoid",
    "Slice", "Softmax", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Nodes that change no number, or are known."""
LARGEST_FILE = (1 << 31) - 1
"""Bytes of an ONNX file, at most."""


class OnnxLayer(nn.Module):
    """A recurrent node of ONNX, computed by a layer of ours.

    Args:
        stack: the layer.
        reverse: whether the node reads from the end.
        batch_first: the node's ``layout``.
    """

    def __init__(self, stack: Recurrent, reverse: bool, batch_first: bool) -> None:
        super().__init__()
        self.stack, self.reverse, self.batch_first = stack, reverse, batch_first

    def forward(
        self, x: Tensor, lengths: Lengths = None, states: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Return Y, Y_h and, of an LSTM, Y_c of X ``(T, B, I)``, laid out as ONNX does.

        ``states`` are initial_h and, of an LSTM, initial_c.
        """
        D = 2 if self.stack.bidirectional else 1
        x = x if self.batch_first else x.transpose(0, 1)  # (B, T, I)
        ends = None if lengths is None else torch.as_tensor(lengths).long()
        if self.reverse:
            x = reverse_rows(x.transpose(0, 1), ends).transpose(0, 1)
        state = None
        if states is not None:
            given = [s.transpose(0, 1) if self.batch_first else s for s in states]
            kind = self.stack.cells[0].state_type
            state = self.stack.join_state([kind(*given)], False)
        y, hidden = cast(Any, self.stack(x, state, lengths=ends))
        if self.reverse:
            y = reverse_rows(y.transpose(0, 1), ends).transpose(0, 1)
        y = y.unflatten(2, (D, -1))  # (B, T, D, H)
        last = [hidden] if isinstance(hidden, Tensor) else list(hidden)
        if self.batch_first:
            return y, *(s.transpose(0, 1) for s in last)
        return y.permute(1, 2, 0, 3), *last


def read_onnx(path: Path) -> Imported:
    """Read the recurrent nodes of an ONNX file, and the linear layer if there is one."""
    onnx = require("onnx", "onnx", "reading ONNX")
    if path.stat().st_size > LARGEST_FILE:
        raise DataError("has 2 GB or more; an ONNX file has less.", path=path)
    with damage(path, "an ONNX file"):
        model = onnx.load_model(path, load_external_data=False)
        if not model.graph.node:
            raise DataError("is not an ONNX file: it has no nodes.", path=path)
        return from_onnx(model, path)


def from_onnx(
    model: Any, path: Path | None = None, given: Mapping[str, Array] | None = None
) -> Imported:
    """Return the recurrent nodes of an ONNX model; weights may be given by name as well."""
    onnx = require("onnx", "onnx", "reading ONNX")
    values = _Constants(onnx, model.graph, path, given or {})
    found = Imported(nn.Module())
    count = 0
    for node in model.graph.node:
        if node.op_type in ("RNN", "GRU", "LSTM") and node.domain in ("", "ai.onnx"):
            layer = _layer(onnx, node, values, path)
            name = node.name or f"{node.op_type.lower()}_{count}"
            found.module.add_module(name.replace(".", "_").replace("/", "_") or f"l{count}", layer)
            found.layers.append(layer.stack)
            count += 1
            if layer.reverse:
                found.obstacles.append(f"{name} reads in reverse alone")
        elif any(each.type in (5, 10) for each in node.attribute):
            found.obstacles.append(f"{node.op_type} has a graph of its own")
    if not found.layers:
        branches = ""
        if found.obstacles:
            branches = f" outside the graphs within {found.obstacles[0].split()[0]} nodes, not read"
        raise DataError(f"has no RNN, GRU or LSTM node{branches}.", path=path)
    _find_output(onnx, model.graph, values, found)
    return found


class _Constants:
    """Constants of a graph by name; read when they are asked for."""

    def __init__(
        self, onnx: Any, graph: Any, path: Path | None, given: Mapping[str, Array]
    ) -> None:
        self.onnx, self.path, self.given = onnx, path, given
        self.largest = 2 * graph.ByteSize()
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for each in node.attribute if node.op_type == "Constant" else ():
                if each.name == "value":
                    self.tensors[node.output[0]] = each.t
        self.nodes = {out: node for node in graph.node for out in node.output}

    def __call__(self, name: str, depth: int = 0) -> Array | None:
        """Return a constant, through casts and the like; None where it is computed."""
        if name in self.given:
            return self.given[name]
        if name in self.tensors:
            return self._array(self.tensors[name])
        node = self.nodes.get(name)
        if node is None or depth > 8 or not node.input:
            return None
        first = self(node.input[0], depth + 1)
        if first is None:
            return None
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        rest = [self(each, depth + 1) for each in node.input[1:]]
        if any(each is None for each in rest):
            return None
        others = cast(list[Array], rest)
        if node.op_type in ("Cast", "Identity"):
            return np.asarray(first, np.float32)
        if node.op_type == "Transpose":
            return np.transpose(first, attributes.get("perm"))
        if node.op_type in ("Reshape", "Unsqueeze", "Squeeze", "Mul"):
            return self._shaped(node.op_type, first, others)
        if node.op_type == "Concat" and first.ndim:
            parts = [first, *others]
            if sum(each.nbytes for each in parts) > self.largest:
                return None
            return np.concatenate(parts, attributes.get("axis", 0))
        if node.op_type == "Slice" and 2 <= len(others) <= 4:
            starts, ends, *more = [[int(n) for n in each.reshape(-1)[:8]] for each in others]
            axes = more[0] if more else range(len(starts))
            steps = more[1] if len(more) > 1 else [1] * len(starts)
            chosen = [slice(None)] * first.ndim
            for axis, *cut in zip(axes, starts, ends, steps, strict=True):
                chosen[axis] = slice(*cut)
            return first[tuple(chosen)]
        return None

    @staticmethod
    def _shaped(op: str, first: Array, others: Sequence[Array]) -> Array | None:
        if not others:
            return None
        if op == "Mul":
            size = np.broadcast_shapes(first.shape, others[0].shape)
            fits = size in (first.shape, others[0].shape)
            return np.asarray(first * others[0]) if fits else None
        numbers = tuple(int(n) for n in others[0].reshape(-1)[:16])
        if op == "Reshape":
            shape = [first.shape[i] if n == 0 else n for i, n in enumerate(numbers)]
            return first.reshape(shape)
        return np.expand_dims(first, numbers) if op == "Unsqueeze" else np.squeeze(first, numbers)

    def _array(self, tensor: Any) -> Array:
        if tensor.data_location == 1 or tensor.external_data:
            raise DataError(
                f"{tensor.name:.80} is in another file, which is not read; store the model with "
                "its weights inside.",
                path=self.path,
            )
        expected = int(np.prod([int(n) for n in tensor.dims], dtype=object)) if tensor.dims else 1
        if any(n < 0 for n in tensor.dims) or expected > 8 * tensor.ByteSize():
            raise DataError(f"{tensor.name:.80} has dimensions beyond its data.", path=self.path)
        return np.asarray(self.onnx.numpy_helper.to_array(tensor))


def _layer(onnx: Any, node: Any, values: _Constants, path: Path | None) -> OnnxLayer:
    """Return a node as a layer; what it cannot be is refused by the name of the attribute."""
    what = f"{node.op_type} {node.name}".strip()

    def refuse(why: str) -> OstinatoError:
        return DataError(f"{what:.80}: {why}.", path=path)

    a = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    direction = a.get("direction", b"forward").decode()
    if direction not in ("forward", "reverse", "bidirectional"):
        raise refuse(f"direction={direction!r:.40}; expected forward, reverse or bidirectional")
    D = 2 if direction == "bidirectional" else 1
    if a.get("clip"):
        raise refuse(f"clip={a['clip']:g}, which our cells have not")
    if a.get("output_sequence") or a.get("layout", 0) not in (0, 1):
        raise refuse("an attribute of a version of ONNX that is not known")
    names = dict(zip(INPUTS, [*node.input, *[""] * 8][:8], strict=True))
    if node.op_type != "LSTM":
        names["P"] = names["initial_c"] = ""
    weights = {k: values(names[k]) if names[k] else None for k in ("W", "R", "B", "P")}
    for key, value in weights.items():
        if names[key] and value is None:
            raise refuse(f"{key} is computed in the graph, not stored")
    W, R = weights["W"], weights["R"]
    if W is None or R is None or W.ndim != 3 or R.ndim != 3 or W.shape[0] != D:
        raise refuse("W and R are not of (directions, gates * H, features)")
    G = {"RNN": 1, "GRU": 3, "LSTM": 4}[node.op_type]
    I, H = W.shape[2], R.shape[2]
    if not (I and H) or W.shape[1] != G * H or R.shape != (D, G * H, H):
        raise refuse(f"W is {W.shape} and R {R.shape}; they do not fit each other")
    if a.get("hidden_size", H) != H:
        raise refuse(f"hidden_size={a['hidden_size']}; R has {H}")
    bias, peepholes = weights["B"], weights["P"]
    if bias is not None and bias.shape != (D, 2 * G * H):
        raise refuse(f"B is {bias.shape}; expected {(D, 2 * G * H)}")
    if peepholes is not None and peepholes.shape != (D, 3 * H):
        raise refuse(f"P is {peepholes.shape}; expected {(D, 3 * H)}")
    cell = _cell(node.op_type, a, D, I, H, bias is not None, peepholes is not None, refuse)
    coupled = isinstance(cell, CoupledLSTMCell)
    order = {"RNN": (0,), "GRU": GRU_ORDER, "LSTM": LSTM_ORDER}[node.op_type]
    # The place of each of our gates among those of ONNX.
    places = [order.index(i) for i in range(G)]

    def turned(value: Array, d: int) -> Array:
        blocks = np.split(np.asarray(value[d], np.float32), G)
        ours = [blocks[i] for i in places]
        # f = 1 - i there, i = 1 - f here.
        return np.concatenate([-ours[0], *ours[2:]] if coupled else ours)

    directions: list[dict[str, Array]] = []
    for d in range(D):
        own = {"weight_ih": turned(W, d), "weight_hh": turned(R, d)}
        if bias is not None:
            halves = [bias[:, : G * H], bias[:, G * H :]]
            own |= {n: turned(h, d) for n, h in zip(("bias_ih", "bias_hh"), halves, strict=True)}
        if peepholes is not None:
            i, o, f = np.split(peepholes[d], 3)
            own["weight_peephole"] = np.concatenate([i, f, o])
        directions.append(own)
    stack = loaded(stack_of([cell], D == 2), [directions])
    return OnnxLayer(stack, direction == "reverse", bool(a.get("layout", 0)))


def _cell(
    op: str, a: Mapping[str, Any], D: int, I: int, H: int, bias: bool, peepholes: bool, refuse: Any
) -> Cell:
    """Return the cell of a node."""
    usual = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[op]
    names = [name.decode() for name in a.get("activations", [])] or usual * D
    first = names[: len(usual)]
    if names != first * D or len(first) != len(usual):
        raise refuse(f"activations={names!r:.80}; expected the same in each direction")
    if op == "RNN":
        known = {theirs.lower(): ours for ours, theirs in ACTIVATIONS.items()}
        alpha, beta = ([*a.get(f"activation_{n}", [])] for n in ("alpha", "beta"))
        plain = first[0].lower() != "affine" or ({*alpha} <= {1.0} and {*beta} <= {0.0} and alpha)
        if first[0].lower() not in known or not plain:
            raise refuse(f"activations={first}, which our RNNCell has not")
        return RNNCell(I, H, bias, cast(Any, known[first[0].lower()]))
    if [n.lower() for n in first] != [n.lower() for n in usual]:
        raise refuse(f"activations={first}; expected {usual}")
    if op == "GRU":
        return GRUCell(I, H, bias, bool(a.get("linear_before_reset", 0)))
    if a.get("input_forget"):
        if peepholes:
            raise refuse("input_forget=1 beside peepholes, which our cells have not")
        return CoupledLSTMCell(I, H, bias)
    return PeepholeLSTMCell(I, H, bias) if peepholes else LSTMCell(I, H, bias)


def _find_output(onnx: Any, graph: Any, values: _Constants, found: Imported) -> None:
    """Find the linear layer of a graph, if it has just one."""
    linear: list[tuple[Array, Array | None]] = []
    sums = {node.output[0] for node in graph.node if node.op_type == "Add"}
    for node in graph.node:
        if node.op_type == "Gemm" or node.op_type == "MatMul":
            weight = values(node.input[1]) if len(node.input) > 1 else None
            if weight is None or weight.ndim != 2:
                continue
            turned = any(each.name == "transB" and each.i for each in node.attribute)
            weight = weight if turned else weight.T
            bias = values(node.input[2]) if len(node.input) > 2 else None
            for after in graph.node if bias is None else ():
                if after.op_type == "Add" and node.output[0] in after.input:
                    other = [name for name in after.input if name != node.output[0]]
                    bias = values(other[0]) if other else None
                    sums.discard(after.output[0])
            linear.append((weight, bias))
        elif node.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
            found.activation = "sigmoid" if node.op_type == "Sigmoid" else "softmax"
        elif node.op_type not in PASSIVE and values(node.output[0]) is None:
            found.obstacles.append(f"there is a node {node.op_type}")
        elif node.op_type == "Gather" and node.input and values(node.input[0]) is not None:
            found.obstacles.append("there is an embedding")
    if sums:
        found.obstacles.append("there are sums beside that of a bias")
    size = found.layers[-1].output_size
    if len(linear) == 1 and linear[0][0].shape[1] == size:
        weight, bias = linear[0]
        K = weight.shape[0]
        if bias is not None and bias.shape != (K,):
            return
        found.output = nn.Linear(size, K)
        with torch.no_grad():
            found.output.weight.copy_(torch.from_numpy(np.array(weight, np.float32)))
            given = np.zeros(K) if bias is None else bias
            found.output.bias.copy_(torch.from_numpy(np.array(given, np.float32)))
