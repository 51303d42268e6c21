"""Recurrent layers as nodes of an ONNX graph: RNN, LSTM, GRU where ONNX has the cell, else Scan."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from ostinato.deploy.graph import Graph
from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import Cell, GRUCell, LSTMCell, PeepholeLSTMCell, RNNCell, Weights
from ostinato.recurrence.layers import Recurrent

ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}
"""Names that ONNX has for the activations of an `RNNCell`; Affine is a x + b."""

LSTM_ORDER, GRU_ORDER = (0, 3, 1, 2), (1, 0, 2)
"""Where the gates of ONNX, i o f c and z r h, stand in PyTorch's order."""

States = Sequence[Sequence[str]]
"""States of each layer: of each tensor ``(D, B, size)`` the name."""


def layers(
    g: Graph, stack: Recurrent, x: str, lengths: str | None = None, states: States | None = None
) -> tuple[str, list[list[str]]]:
    """Add a stack of layers.

    Args:
        g: the graph.
        stack: the layers.
        x: input ``(T, B, I)``.
        lengths: steps of each row ``(B,)``, int64; all of them if None.
        states: the states before; zeros if None.

    Returns:
        output ``(T, B, D * H)``, and the states after.
    """
    D, last = 2 if stack.bidirectional else 1, []
    for k, cell in enumerate(stack.cells):
        weights = [stack.weights_of(D * k + d) for d in range(D)]
        before = None if states is None else states[k]
        node = node_of(cell, weights)
        if node is None:
            y, after = _scan(g, cell, weights, x, lengths, before)
        else:
            y, after = _add(g, node, x, lengths, before)
        x = g.add("Add", y, x) if stack.residual and k > 0 else y
        last.append(after)
    return x, last


class Node(NamedTuple):
    """A layer as ONNX's RNN, LSTM or GRU has it; arrays are ``(D, ...)``, gates in its order."""

    op: str
    attributes: dict[str, Any]
    W: np.ndarray[Any, Any]
    R: np.ndarray[Any, Any]
    B: np.ndarray[Any, Any] | None
    P: np.ndarray[Any, Any] | None


def node_of(cell: Cell, weights: Sequence[Weights]) -> Node | None:
    """Return a layer as one node, or None where ONNX has none for its cell."""
    standard = cell.standard_cell()
    if getattr(standard, "proj_size", 0):
        return None
    D, H = len(weights), standard.hidden_size
    attributes: dict[str, Any] = {"hidden_size": H}
    if D == 2:
        attributes["direction"] = "bidirectional"
    match standard:
        case RNNCell() if type(standard) is RNNCell:
            op, order = "RNN", tuple(range(1))
            attributes["activations"] = [ACTIVATIONS[standard.activation]] * D
            if standard.activation == "identity":
                attributes |= {"activation_alpha": [1.0] * D, "activation_beta": [0.0] * D}
        case LSTMCell() if type(standard) in (LSTMCell, PeepholeLSTMCell):
            op, order = "LSTM", LSTM_ORDER
        case GRUCell() if type(standard) is GRUCell:
            op, order = "GRU", GRU_ORDER
            attributes["linear_before_reset"] = int(standard.reset_after)
        case _:
            return None

    def stacked(name: str, order: Sequence[int]) -> np.ndarray[Any, Any]:
        """Return the weights of each direction, their gates in another order."""
        each = [cell.standard_weights(w)[name].detach().float() for w in weights]
        blocks = [torch.cat([torch.split(w, H)[i] for i in order]) for w in each]
        return torch.stack(blocks).numpy()

    bias = peepholes = None
    if standard.bias:
        bias = np.concatenate([stacked("bias_ih", order), stacked("bias_hh", order)], 1)
    if type(standard) is PeepholeLSTMCell:
        peepholes = stacked("weight_peephole", (0, 2, 1))  # i f o to i o f
    W, R = stacked("weight_ih", order), stacked("weight_hh", order)
    return Node(op, attributes, W, R, bias, peepholes)


def _add(
    g: Graph, node: Node, x: str, lengths: str | None, before: Sequence[str] | None
) -> tuple[str, list[str]]:
    """Add a layer as one node; arguments and results as of `layers`."""

    def matrices(array: np.ndarray[Any, Any]) -> str:
        if g.precision != "int8":
            return g.weight(array)
        rows = g.weight(array.reshape(-1, array.shape[-1]))
        return g.add("Reshape", rows, g.ints(*array.shape))

    H, count = node.attributes["hidden_size"], 3 if node.op == "LSTM" else 2
    steps = "" if lengths is None else g.add("Cast", lengths, to=6)
    given = [x, matrices(node.W), matrices(node.R)]
    given += ["" if node.B is None else g.constant(node.B), steps, *(before or [])]
    if node.P is not None:
        given += [*([] if before else ["", ""]), g.constant(node.P)]
    y, *after = g.many(count, node.op, *given, **node.attributes)
    if lengths is not None and before is not None:  # of a row without steps ONNX loses the state
        some = g.add("Greater", lengths, g.constant(0, np.int64))
        some = g.add("Unsqueeze", some, g.ints(0, 2))
        after = [g.add("Where", some, n, s) for n, s in zip(after, before, strict=True)]
    y = g.add("Transpose", y, perm=[0, 2, 1, 3])  # (T, B, D, H)
    return g.add("Reshape", y, g.ints(0, 0, len(node.W) * H)), after


def _scan(
    g: Graph,
    cell: Cell,
    weights: Sequence[Weights],
    x: str,
    lengths: str | None,
    before: Sequence[str] | None,
) -> tuple[str, list[str]]:
    """Add a layer as a Scan over the cell's step; arguments and results as of `layers`."""
    program = _program(cell, weights[0])
    outputs, lasts = [], []
    mask = turns = None
    if lengths is not None:
        mask = g.running(g.add("Transpose", x, perm=[1, 0, 2]), lengths)  # (B, T)
        mask = g.add("Unsqueeze", g.add("Transpose", mask, perm=[1, 0]), g.ints(2))
        turns = g.add("Max", lengths, g.constant(1, np.int64))
    for d, w in enumerate(weights):

        def turned(value: str, d: int = d) -> str:
            """Return each row's own steps in the order in which they are read."""
            if not d:
                return value
            if turns is not None:
                return g.add("ReverseSequence", value, turns, batch_axis=1, time_axis=0)
            ends = g.ints(-1), g.ints(-(2**62)), g.ints(0), g.ints(-1)
            return g.add("Slice", value, *ends)

        if before is None:
            rows = g.size(x, 1)
            states = [
                g.add("Expand", g.constant(0.0), g.concat([rows, g.ints(size)], 0))
                for size in cell.state_sizes
            ]
        else:
            states = [g.add("Gather", s, g.constant(d, np.int64), axis=0) for s in before]
        body, sizes = g.body(), cell.state_sizes
        held = [body.input(g.fresh("state"), np.float32, ("B", n)) for n in sizes]
        x_t = body.input(g.fresh("x"), np.float32, ("B", cell.input_size))
        new = program(body, x_t, held, w)
        if mask is not None:
            runs = body.input(g.fresh("runs"), np.bool_, ("B", 1))
            new = [body.add("Where", runs, n, s) for n, s in zip(new, held, strict=True)]
        for value, size in zip([*new, new[0]], [*sizes, sizes[0]], strict=True):
            body.output(g.fresh("new"), value, np.float32, ("B", size))
        scanned = [turned(x), *([] if mask is None else [mask])]
        *last, y = g.many(
            len(sizes) + 1, "Scan", *states, *scanned,
            body=body.proto(g.fresh("step")), num_scan_inputs=len(scanned),
        )  # fmt: skip
        y = y if mask is None else g.where(mask, y)
        outputs.append(turned(y))
        lasts.append([g.add("Unsqueeze", s, g.ints(0)) for s in last])
    joined = [g.concat(parts, 0) for parts in zip(*lasts, strict=True)]
    return g.concat(outputs, 2), joined


ROWS = 5
"""Rows of the batch that a step is traced with; a graph takes any number."""

Program = Callable[[Graph, str, Sequence[str], Weights], list[str]]


def _program(cell: Cell, like: Weights) -> Program:
    """Trace a cell's step; returns what adds it to a graph: x_t, states and weights, new states."""
    names, count, B = list(like), len(cell.state_sizes), ROWS

    def step(x_t: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        w = dict(zip(names, rest[count:], strict=True))
        return tuple(cell.step(w, cell.project(w, x_t), cell.state_type(*rest[:count])))

    shapes = [(B, cell.input_size), *((B, size) for size in cell.state_sizes)]
    examples = [*map(torch.zeros, shapes), *(w.detach().float() for w in like.values())]
    with torch.no_grad():
        table: Any = core_aten_decompositions()
        traced = make_fx(functionalize(step), decomposition_table=table)(*examples)

    def add(g: Graph, x_t: str, states: Sequence[str], w: Weights) -> list[str]:
        given = iter([x_t, *states, *(w[name] for name in names)])
        values: dict[Any, Any] = {}
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = getattr(traced, node.target)
            elif node.op == "output":
                return [_named(g, values[each]) for each in node.args[0]]
            else:
                args = torch.fx.node.map_arg(node.args, values.__getitem__)
                values[node] = _operation(g, cell, node, args)
        raise AssertionError("a traced step has an output")

    return add


def _named(g: Graph, value: Any) -> str:
    """Return a value of the graph; a tensor, such as a weight, becomes one."""
    if isinstance(value, Tensor):
        return g.weight(value)
    return value if isinstance(value, str) else g.constant(value)


def _operation(g: Graph, cell: Cell, node: Any, args: Sequence[Any]) -> Any:
    """Add the operation of a traced step."""
    if node.target is operator.getitem:
        return args[0][args[1]]
    name = node.target.__name__.partition(".")[0] if callable(node.target) else str(node.target)

    def value(i: int) -> str:
        return _named(g, args[i])

    if not any(isinstance(each, str) for each in torch.utils._pytree.tree_leaves(args)):
        return node.target(*args, **node.kwargs)  # of weights alone
    if name in _SAME:
        return args[0]
    if name in _PLAIN:
        return g.add(_PLAIN[name], *map(value, range(len(args))))
    if name in _WRITTEN:
        return _WRITTEN[name](g, args, value, node.kwargs)
    raise OstinatoError(
        f"export: {type(cell).__name__} uses {name}, for which the exporter has no ONNX form."
    )


_SAME = {"alias", "clone", "detach", "lift_fresh_copy", "_to_copy", "contiguous"}
"""Operations of PyTorch that change no number."""

_PLAIN = {
    "abs": "Abs", "ceil": "Ceil", "cos": "Cos", "div": "Div", "eq": "Equal", "erf": "Erf",
    "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual",
    "log": "Log", "logical_and": "And", "logical_not": "Not", "lt": "Less", "maximum": "Max",
    "minimum": "Min", "mul": "Mul", "neg": "Neg", "pow": "Pow", "reciprocal": "Reciprocal",
    "relu": "Relu", "sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt",
    "tan": "Tan", "tanh": "Tanh", "where": "Where",
}  # fmt: skip
"""Operations of PyTorch that ONNX has too, with the same arguments."""

Value = Callable[[int], str]
Written = Callable[[Graph, Sequence[Any], Value, Mapping[str, Any]], Any]


def _sum_of(op: str) -> Written:
    def write(g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]) -> str:
        other = value(1)
        if more.get("alpha", 1) != 1:
            other = g.add("Mul", other, g.constant(more["alpha"]))
        return g.add(op, value(0), other)

    return write


def _reduced(op: str) -> Written:
    def write(g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]) -> str:
        axes = [args[1]] if isinstance(args[1], int) else args[1]
        keep = int(args[2]) if len(args) > 2 else 0
        return g.add(op, value(0), g.ints(*axes), keepdims=keep)

    return write


def _product(g: Graph, x: str, w: Any) -> str:
    return g.add("MatMul", x, g.weight(w, axis=1) if isinstance(w, Tensor) else w)


def _clip(g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]) -> str:
    low, high = (*args[1:3], None, None)[:2]
    ends = ["" if end is None else g.constant(end) for end in (low, high)]
    return g.add("Clip", value(0), *ends)


def _slice(g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]) -> str:
    axis, begin, end = [*args[1:4], *[None] * 3][:3]
    return g.slice(value(0), axis or 0, begin or 0, 2**62 if end is None else end)


def _reshaped(g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]) -> str:
    rows, *rest = args[1]
    if rows not in (ROWS, -1):
        raise OstinatoError(f"export: a step joins rows with features: a reshape to {args[1]}.")
    return g.add("Reshape", value(0), g.ints(0 if rows == ROWS else -1, *rest))


def _expanded(g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]) -> str:
    # Ones stand for what is there: rows are as many as there are.
    sizes = [1 if size in (ROWS, -1) else size for size in args[1]]
    return g.add("Expand", value(0), g.ints(*sizes))


def _log_sigmoid(
    g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]
) -> tuple[str, None]:
    return g.add("Neg", g.add("Softplus", g.add("Neg", value(0)))), None


def _softplus(g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]) -> str:
    if [*args[1:], *(1, 20)[len(args) - 1 :]] != [1, 20]:
        raise OstinatoError("export: a step has a softplus with a beta or threshold of its own.")
    return g.add("Softplus", value(0))


def _layer_norm(
    g: Graph, args: Sequence[Any], value: Value, more: Mapping[str, Any]
) -> tuple[str, None, None]:
    _, shape, weight, bias, eps = args
    gain = g.constant(np.ones(shape)) if weight is None else value(2)
    given = [value(0), gain, *([] if bias is None else [value(3)])]
    axis = -len(shape)
    return g.add("LayerNormalization", *given, axis=axis, epsilon=eps), None, None


_WRITTEN: Mapping[str, Written] = {
    "add": _sum_of("Add"),
    "sub": _sum_of("Sub"),
    "addmm": lambda g, args, value, more: g.add("Add", _product(g, value(1), args[2]), value(0)),
    "mm": lambda g, args, value, more: _product(g, value(0), args[1]),
    "t": lambda g, args, value, more: g.add("Transpose", value(0), perm=[1, 0]),
    "permute": lambda g, args, value, more: g.add("Transpose", value(0), perm=args[1]),
    "cat": lambda g, args, value, more: g.concat(
        [_named(g, each) for each in args[0]], args[1] if len(args) > 1 else 0
    ),
    "split_with_sizes": lambda g, args, value, more: g.split(
        value(0), args[1], args[2] if len(args) > 2 else 0
    ),
    "slice": _slice,
    "view": _reshaped,
    "_unsafe_view": _reshaped,
    "reshape": _reshaped,
    "expand": _expanded,
    "log_sigmoid_forward": _log_sigmoid,
    "softplus": _softplus,
    "squeeze": lambda g, args, value, more: g.add(
        "Squeeze", value(0), g.ints(*(args[1] if isinstance(args[1], list) else args[1:2]))
    ),
    "select": lambda g, args, value, more: g.add(
        "Gather", value(0), g.constant(args[2], np.int64), axis=args[1]
    ),
    "expm1": lambda g, args, value, more: g.add("Sub", g.add("Exp", value(0)), g.constant(1.0)),
    "unsqueeze": lambda g, args, value, more: g.add("Unsqueeze", value(0), g.ints(args[1])),
    "sum": _reduced("ReduceSum"),
    "mean": _reduced("ReduceMean"),
    "amax": _reduced("ReduceMax"),
    "amin": _reduced("ReduceMin"),
    "clamp": _clip,
    "hardtanh": _clip,
    "rsqrt": lambda g, args, value, more: g.add("Reciprocal", g.add("Sqrt", value(0))),
    "log1p": lambda g, args, value, more: g.add("Log", g.add("Add", value(0), g.constant(1.0))),
    "_softmax": lambda g, args, value, more: g.add("Softmax", value(0), axis=args[1]),
    "scalar_tensor": lambda g, args, value, more: g.constant(args[0]),
    "zeros_like": lambda g, args, value, more: g.constant(0.0),
    "ones_like": lambda g, args, value, more: g.constant(1.0),
    "full_like": lambda g, args, value, more: g.constant(args[1]),
    "native_layer_norm": _layer_norm,
}
"""Operations of PyTorch that are written in ONNX's terms."""
