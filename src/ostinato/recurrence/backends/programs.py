"""A cell as a program: its step traced forward and backward, and cut at the products.

`write_program` traces ``cell.step`` of ``cell.project`` on a batch, and its vector-Jacobian
product, into operations of ATen. What depends on weights alone stays in PyTorch
(`Written.weights`), products become tables for the core's own kernels, and what lies between
becomes C++ on cpp/functions.hpp. cpp/program.hpp describes the result, cpp/generated.hpp runs it.

Every value is a batch of rows. A tensor is an array of codes, one for each number of a row: which
`_Node` it comes from, and where in it. Views, slices and concatenations only move codes; operations
on them are then cut into runs of numbers that lie side by side.
"""

from __future__ import annotations

import json
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from ostinato.recurrence.cells import Cell, Weights

aten = torch.ops.aten

CHEAP = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "neg": "-{0}",
    "copy": "{0}",
    "abs": "absolute<T>({0})",
    "sign": "sign<T>({0})",
    "relu": "{0} < T(0) ? Vec<T>{{}} : {0}",
    "maximum": "maximum<T>({0}, {1})",
    "minimum": "minimum<T>({0}, {1})",
    "where": "choose<T>({0}, {1}, {2})",
    "gt": "{0} > {1} ? splat(T(1)) : Vec<T>{{}}",
    "lt": "{0} < {1} ? splat(T(1)) : Vec<T>{{}}",
    "ge": "{0} >= {1} ? splat(T(1)) : Vec<T>{{}}",
    "le": "{0} <= {1} ? splat(T(1)) : Vec<T>{{}}",
    "eq": "{0} == {1} ? splat(T(1)) : Vec<T>{{}}",
    "ne": "{0} != {1} ? splat(T(1)) : Vec<T>{{}}",
}
"""Operations that backward does again rather than read their results, as C++."""
DEAR = {
    "div": "{0} / {1}",
    "sqrt": "sqrt({0})",
    "exp": "exp({0})",
    "expm1": "expm1({0})",
    "log": "log({0})",
    "log1p": "log1p({0})",
    "erf": "erf({0})",
    "sigmoid": "sigmoid<T>({0})",
    "tanh": "tanh({0})",
    "sin": "sin<T>({0})",
    "cos": "cos<T>({0})",
    "atan": "atan<T>({0})",
    "floor": "floor<T>({0})",
    "pow": "pow<T>({0}, {1})",
}
ELEMENTWISE = CHEAP | DEAR
REDUCTIONS = {"sum": "T(0)", "amax": "-std::numeric_limits<T>::infinity()"}
"""Folds over the numbers of a row, and what they start from."""
VERSION = 5  # of what is written for a step: a program that was kept by another is none
MOST_PIECES = 128  # of one tensor, in which its numbers lie side by side

X, LINE, BACK, AHEAD, SCRATCH, BEFORE, D_AFTER, D_BEFORE, DX, TEMPORARY = range(10)
"""`Base` of cpp/program.hpp."""
VECTORS = -1
CONSTANT, INPUT, STATE, GRADIENT = range(4)
"""What a node depends on, at the most: weights; x; the state; the gradient of the state after."""
_BITS = 32


class NotCompiled(Exception):
    """A cell has something that no program can do; the message names it."""


class Place(NamedTuple):
    """Where a row has numbers."""

    base: int
    at: int


class Run(NamedTuple):
    """Numbers side by side: ``n`` of a node's from ``at`` on, or with step 0 one of them again."""

    node: int
    at: int
    step: int
    n: int


@dataclass(frozen=True)
class _Matrix:
    """Part of a weight: number (k, n) is at ``at + k * k_stride + n * n_stride``."""

    tensor: int
    at: int
    k: int
    n: int
    k_stride: int
    n_stride: int


@dataclass(eq=False)
class _Node:
    """``n`` numbers of a row: the result of an operation, or what a program is given."""

    op: str
    args: tuple[Run, ...]
    n: int
    kind: int
    value: Any = None  # a constant; a leaf's place; a product's matrix and where its sums start


@dataclass(frozen=True)
class _Value:
    """A traced tensor. ``codes`` has its shape, but for the batch axis ``b``, which is 1 there."""

    shape: tuple[int, ...]
    b: int | None
    codes: NDArray[np.int64]

    @property
    def flat(self) -> NDArray[np.int64]:
        return self.codes.reshape(-1)


@dataclass(frozen=True)
class _Tail:
    """A tensor summed over the rows of the batch: what follows is done in PyTorch."""


class Written(NamedTuple):
    """A program: tables for the core, C++, and what PyTorch does before and after."""

    sizes: list[int]
    states: list[int]
    operations: list[list[list[int]]]
    """Of each phase; a kernel's first number is its number in the source, counted from 1."""
    matrices: list[int]
    vectors: list[int]
    sums: list[int]
    work: float
    source: str
    kernels: int
    weights: fx.GraphModule
    """From the cell's weights to the tensors that the program reads."""
    strides: list[tuple[tuple[int, ...], tuple[int, ...]]]
    """Shape and layout of each of these."""
    gradients: fx.GraphModule
    """From the sums, and these tensors, to the gradients of these."""
    results: list[tuple[Sequence[int], tuple[int, ...], bool]]
    """Shape of each sum."""
    line: int
    back: int
    operation_names: list[str]


def write_program(
    cell: Cell, dtype: torch.dtype, recall: Callable[[str], str | None],
    keep: Callable[[str, str], None],
) -> Written:  # fmt: skip
    """Trace a cell and write its program, or find it by its step where it was written before.

    Args:
        cell: the cell.
        dtype: type of the numbers.
        recall: returns the text that was kept for a key, if there is one.
        keep: keeps a text for a key.

    Raises:
        NotCompiled: if the step does what no program can do.
    """
    step = _cut_step(cell, dtype)
    key = repr((
        VERSION, str(step.main.graph), [(tuple(t.shape), t.stride()) for t in step.given],
        step.batch, cell.input_size, cell.state_sizes,
        getattr(cell.state_type, "_fields", None), str(dtype),
    ))  # fmt: skip
    kept = recall(key)
    if kept is not None:
        return _from_json(kept, step.front)
    written = _Writer(cell, dtype, step).written
    text = _to_json(written)
    if text is not None:
        keep(key, text)
    return written


def _to_json(written: Written) -> str | None:
    """Return a program as text, but for what PyTorch does before it; None if it has none."""
    numbers: dict[fx.Node, int] = {}

    def encoded(value: object) -> object:
        if isinstance(value, fx.Node):
            return {"node": numbers[value]}
        if isinstance(value, list | tuple):
            return [encoded(each) for each in value]
        if value is None or isinstance(value, str | int | float):
            return value
        raise TypeError

    nodes: list[object] = []
    try:
        for n in written.gradients.graph.nodes:
            numbers[n] = len(nodes)
            if n.kwargs or (n.op == "call_function" and not str(n.target).startswith("aten.")):
                return None
            nodes.append(
                [n.op, n.name if n.op == "placeholder" else str(n.target), encoded(n.args)]
            )
    except TypeError:
        return None
    parts = written._asdict()
    del parts["weights"]
    return json.dumps(parts | {"gradients": nodes})


def _from_json(text: str, front: fx.GraphModule) -> Written:
    parts = json.loads(text)
    graph, made = fx.Graph(), list[fx.Node]()

    def decoded(value: Any) -> Any:
        if isinstance(value, dict):
            return made[value["node"]]
        return [decoded(each) for each in value] if isinstance(value, list) else value

    for op, target, args in parts["gradients"]:
        if op == "placeholder":
            made.append(graph.placeholder(target))
        elif op == "output":
            made.append(graph.output(decoded(args)[0]))
        else:
            _, name, overload = target.split(".")
            operation = getattr(getattr(aten, name), overload)
            made.append(graph.call_function(operation, tuple(decoded(args))))
    parts["gradients"] = fx.GraphModule(torch.nn.Module(), graph)
    parts["strides"] = [(tuple(shape), tuple(strides)) for shape, strides in parts["strides"]]
    parts["results"] = [(which, tuple(shape), turned) for which, shape, turned in parts["results"]]
    return Written(weights=front, **parts)


def _batch_for(sizes: Iterable[int]) -> int:
    """Return a number of rows that no other size is."""
    taken = set(sizes)
    return next(n for n in (211, 223, 227, 229, 233, 239, 241, 251, 257, 263) if n not in taken)


_DECOMPOSITIONS = [
    aten.native_layer_norm, aten.gelu, aten.gelu_backward, aten.softplus, aten._softmax,
    aten._log_softmax, aten.elu, aten.leaky_relu, aten.hardtanh, aten.log_sigmoid_forward,
    aten.hardsigmoid, aten.hardswish, aten.silu, aten.mish,
]  # fmt: skip


class _Step(NamedTuple):
    """A traced step, cut behind what depends on weights alone."""

    main: fx.GraphModule
    front: fx.GraphModule
    rows: list[Tensor]  # x and the state
    given: list[Tensor]  # what `front` returns, of the weights of the trace
    batch: int


class _Traced(NamedTuple):
    """The step and its gradient."""

    graph: fx.Graph
    given: list[Tensor]
    batch: int


def _cut_step(cell: Cell, dtype: torch.dtype) -> _Step:
    """Trace a step of the projected input."""
    shapes, sizes = cell.weight_shapes(), cell.state_sizes
    names = list(shapes)
    B = _batch_for([cell.input_size, *sizes, *(n for shape in shapes.values() for n in shape)])
    like = torch.empty(0, dtype=dtype)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype) * 0.5 + 0.1

    state = cell.zero_state(B, like)
    if [tuple(s.shape) for s in state] != [(B, n) for n in sizes]:
        raise NotCompiled(f"a state of shapes {[tuple(s.shape) for s in state]}")

    def step(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        w: Weights = dict(zip(names, rest[len(sizes) :], strict=True))
        return tuple(cell.step(w, cell.project(w, x), cell.state_type(*rest[: len(sizes)])))

    rows = [draw(B, cell.input_size), *(draw(B, n) for n in sizes)]
    w = [draw(*shapes[name]) for name in names]
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        whole = make_fx(torch.func.functionalize(step))(*rows, *w)
        whole.graph.eliminate_dead_code()
        main, front = _cut(whole, len(rows))
        return _Step(main, front, rows, list(front(*w)), B)


def _traced(step: _Step) -> _Traced:
    """Trace a step together with the gradients of all that it takes."""
    cotangents = [torch.ones_like(s) for s in step.rows[1:]]
    n = len(cotangents)

    def joint(*all_of_them: Tensor) -> list[Tensor]:
        args, d = all_of_them[:-n], all_of_them[-n:]
        after, pull, *_ = torch.func.vjp(step.main, *args)
        return [*after, *pull(tuple(d))]

    table = {**core_aten_decompositions(), **get_decompositions(_DECOMPOSITIONS)}
    table.pop(aten.addmm.default, None)  # its sums begin with the bias
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        traced = make_fx(torch.func.functionalize(joint), decomposition_table=table)(
            *step.rows, *step.given, *cotangents
        )
    traced.graph.eliminate_dead_code()
    return _Traced(traced.graph, step.given, step.batch)


def _cut(whole: fx.GraphModule, rows: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a step in two: what the ``rows`` first inputs play a part in, and what is before."""
    main, front = fx.Graph(), fx.Graph()
    placeholders = [n for n in whole.graph.nodes if n.op == "placeholder"]
    in_main = {n: main.placeholder(n.name) for n in placeholders[:rows]}
    in_front = {n: front.placeholder(n.name) for n in placeholders[rows:]}
    later: dict[fx.Node, None] = dict.fromkeys(placeholders[:rows])
    batch = placeholders[0].meta["val"].shape[0]
    for n in whole.graph.nodes:
        inputs = n.all_input_nodes
        if (n.op == "call_function" and any(i in later for i in inputs)) or (
            not inputs and n.op == "call_function" and batch in n.meta["val"].shape
        ):
            later[n] = None
    # Placeholders stand before all else: one for each use of a weight.
    uses: list[tuple[fx.Node, fx.Node]] = []
    for n in whole.graph.nodes:
        if n.op in ("placeholder", "output"):
            continue
        if n not in later:
            in_front[n] = front.node_copy(n, lambda each: in_front[each])
    for n in whole.graph.nodes:
        if (n in later and n.op == "call_function") or n.op == "output":
            uses += [(n, i) for i in n.all_input_nodes if i not in later]
    tensors = {use: main.placeholder(f"w{i}") for i, use in enumerate(uses)}
    given = [in_front[i] for _, i in uses]
    for n in whole.graph.nodes:
        if (n in later and n.op == "call_function") or n.op == "output":

            def taken(each: fx.Node, of: fx.Node = n) -> fx.Node:
                return in_main[each] if each in later else tensors[of, each]

            in_main[n] = main.node_copy(n, taken)
    front.output(tuple(given))
    return fx.GraphModule(whole, main), fx.GraphModule(whole, front)


class _Interpreter:
    """Runs a traced step on codes; its results are nodes, and sums over the batch."""

    def __init__(self, traced: _Traced, input_size: int, sizes: Sequence[int]) -> None:
        self.batch, self.nodes = traced.batch, list[_Node]()
        self._known: dict[object, int] = {}
        self.sums: list[tuple[_Value, _Value | None, bool]] = []  # of, source, is transposed
        self.strides: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.names: dict[str, None] = {}
        self.env: dict[fx.Node, Any] = {}
        self.tail: list[fx.Node] = []
        placeholders = [n for n in traced.graph.nodes if n.op == "placeholder"]
        count, S = len(placeholders), len(sizes)
        for i, n in enumerate(placeholders):
            if i == 0:
                self.env[n] = self._rows("x", input_size, INPUT, 0)
            elif i <= S:
                self.env[n] = self._rows("state", sizes[i - 1], STATE, i - 1)
            elif i >= count - S:
                self.env[n] = self._rows("gradient", sizes[i - count + S], GRADIENT, i - count + S)
            else:
                self.env[n] = self._weight(traced.given[i - 1 - S], i - 1 - S)
        self.weight_nodes = placeholders[1 + S : count - S]
        for n in traced.graph.nodes:
            if n.op == "call_function":
                self.env[n] = self._call(n)
            elif n.op == "get_attr":
                raise NotCompiled("a tensor that is made in the step")
            elif n.op == "output":
                self.outputs = list(n.args[0])

    # Nodes and values

    def node(
        self, op: str, args: tuple[Run, ...], n: int, kind: int | None = None, value: Any = None
    ) -> int:
        key = op, args, n, value
        if key not in self._known:
            kinds = [self.nodes[a.node].kind for a in args]
            self._known[key] = len(self.nodes)
            found = max(kinds, default=CONSTANT) if kind is None else kind
            self.nodes.append(_Node(op, args, n, found, value))
        return self._known[key]

    def _rows(self, what: str, n: int, kind: int, which: int) -> _Value:
        return self._whole(self.node("leaf", (), n, kind, (what, which)), (self.batch, n), 0)

    def _whole(self, node: int, shape: tuple[int, ...], b: int | None) -> _Value:
        inner = tuple(1 if i == b else n for i, n in enumerate(shape))
        codes = (node << _BITS) + np.arange(math.prod(inner), dtype=np.int64)
        return _Value(shape, b, codes.reshape(inner))

    def _weight(self, t: Tensor, which: int) -> _Value:
        """Number a weight as it lies in memory, if it is dense there."""
        shape, strides = tuple(t.shape), tuple(t.stride())
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if extent != t.numel():
            strides = tuple(torch.empty(shape).stride())
        self.strides.append((shape, strides))
        at = np.zeros(shape, np.int64)
        for axis, (n, s) in enumerate(zip(shape, strides, strict=True)):
            at += np.arange(n).reshape([-1 if i == axis else 1 for i in range(len(shape))]) * s
        return _Value(
            shape, None, (self.node("leaf", (), t.numel(), CONSTANT, ("w", which)) << _BITS) + at
        )

    def constant(self, number: float | bool) -> int:
        return self.node("constant", (), 1, CONSTANT, repr(float(number))) << _BITS

    def _filled(self, shape: Sequence[int], number: float) -> _Value:
        rows = [i for i, n in enumerate(shape) if n == self.batch]
        b = rows[0] if rows else None
        inner = [1 if i == b else n for i, n in enumerate(shape)]
        return _Value(tuple(shape), b, np.full(inner, self.constant(number), np.int64))

    def _value(self, given: object) -> _Value:
        if isinstance(given, fx.Node):
            given = self.env[given]
        if isinstance(given, _Value):
            return given
        assert isinstance(given, int | float)
        return _Value((), None, np.array(self.constant(given), np.int64))

    def is_constant(self, code: int, number: float) -> bool:
        node = self.nodes[code >> _BITS]
        return node.op == "constant" and float(node.value) == number

    # Operations

    def runs(self, flats: Sequence[NDArray[np.int64]]) -> list[tuple[int, int, tuple[int, ...]]]:
        """Cut numbers into runs (begin, end, step of each array) in which each has one step."""
        n = len(flats[0])
        if n < 2:
            return [(0, n, (1,) * len(flats))] if n else []
        steps = np.stack([np.diff(f) for f in flats])
        turns = np.flatnonzero((np.diff(steps) != 0).any(axis=0)) + 1
        found: list[tuple[int, int, tuple[int, ...]]] = []
        at = 0
        for a, b in pairwise([0, *turns.tolist(), n - 1]):
            column = tuple(int(s) for s in steps[:, a])
            if all(s in (0, 1) for s in column):
                if b + 1 > at:
                    found.append((at, b + 1, column))
                    at = b + 1
            else:
                found += [(i, i + 1, (1,) * len(flats)) for i in range(at, b)]
                at = max(at, b)
            if len(found) > MOST_PIECES:
                break
        found += [(i, i + 1, (1,) * len(flats)) for i in range(at, n)]
        if len(found) > MOST_PIECES:
            raise NotCompiled("a rearrangement of features into very many pieces")
        return found

    def runs_of(self, value: _Value) -> tuple[Run, ...]:
        flat = value.flat
        return tuple(
            Run(*divmod(int(flat[a]), 1 << _BITS), 0 if b - a > 1 and not s else 1, b - a)
            for a, b, (s,) in self.runs([flat])
        )

    def pointwise(self, op: str, *given: object) -> _Value:
        values = [self._value(each) for each in given]
        ndim = max(len(v.shape) for v in values)
        bs = {v.b - len(v.shape) for v in values if v.b is not None}
        if len(bs) > 1:
            raise NotCompiled("an operation that takes two axes for the batch")
        b = ndim + bs.pop() if bs else None
        arrays = np.broadcast_arrays(*(v.codes for v in values))
        inner = arrays[0].shape
        if b is not None and inner[b] != 1:
            raise NotCompiled("an operation across the batch")
        shape = tuple(self.batch if i == b else n for i, n in enumerate(inner))
        flats = [a.reshape(-1) for a in arrays]
        out = np.empty(len(flats[0]), np.int64)
        for begin, end, steps in self.runs(flats):
            firsts = [int(f[begin]) for f in flats]
            n = 1 if not any(steps) else end - begin
            known = self._simpler(op, firsts)
            if known is not None:
                out[begin:end] = flats[known][begin:end]
                continue
            mask = (1 << _BITS) - 1
            args = tuple(
                Run(c >> _BITS, c & mask, s if n > 1 else 1, n)
                for c, s in zip(firsts, steps, strict=True)
            )
            first = self.node(op, args, n) << _BITS
            out[begin:end] = first if n == 1 else first + np.arange(n)
        return _Value(shape, b, out.reshape(inner))

    def _simpler(self, op: str, firsts: Sequence[int]) -> int | None:
        """Return which operand is the result, if one is."""
        if op in ("add", "mul"):
            nothing = 0.0 if op == "add" else 1.0
            for i in (0, 1):
                if self.is_constant(firsts[i], nothing):
                    return 1 - i
        elif op in ("sub", "div") and self.is_constant(firsts[1], 0.0 if op == "sub" else 1.0):
            return 0
        return None

    def reduce(self, op: str, value: _Value, axes: Sequence[int], keep: bool) -> _Value:
        """Fold axes of a row, none of them the batch."""
        ndim = len(value.shape)
        axes = [a % ndim for a in axes] if axes else list(range(ndim))
        others = [i for i in range(ndim) if i not in axes]
        moved = np.transpose(value.codes, others + list(axes))
        outer = moved.shape[: len(others)]
        rows = moved.reshape(-1, math.prod(moved.shape[len(others) :]))
        out = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            parts = [
                (run.node << _BITS) + run.at if run.n == 1 else self.node(op, (run,), 1) << _BITS
                for run in self.runs_of(_Value((len(row),), None, row))
            ]
            if len(parts) > 16:
                raise NotCompiled(f"{op} over numbers that lie in very many pieces")
            out[i] = parts[0]
            for part in parts[1:]:
                pair = (_Value((), None, np.array(p, np.int64)) for p in (int(out[i]), part))
                out[i] = self.pointwise("add" if op == "sum" else "maximum", *pair).codes
        shape = [value.shape[i] for i in others]
        codes = out.reshape(outer)
        b = None if value.b is None else others.index(value.b)
        if keep:
            for axis in sorted(axes):
                codes = np.expand_dims(codes, axis)
                shape.insert(axis, 1)
            b = value.b
        return _Value(tuple(shape), b, codes)

    def _sum(self, value: _Value, axes: Sequence[int] | None, keep: bool) -> _Value | _Tail:
        ndim = len(value.shape)
        over = [a % ndim for a in axes] if axes else list(range(ndim))
        if value.b not in over:
            return self.reduce("sum", value, over, keep)
        others = [a for a in over if a != value.b]
        inner = self.reduce("sum", value, others, True) if others else value
        shape = [n for i, n in enumerate(inner.shape) if keep or i not in over]
        if keep:
            for a in over:
                shape[a] = 1
        self.sums.append((_Value(tuple(shape), None, inner.codes), None, False))
        return _Tail()

    def _matrix(self, value: _Value) -> _Matrix:
        """Return a weight (K, N) as it lies in memory."""
        codes = value.codes
        K, N = codes.shape
        first = int(codes[0, 0])
        k_stride = int(codes[1, 0]) - first if K > 1 else N
        n_stride = int(codes[0, 1]) - first if N > 1 else 1
        expected = first + np.arange(K)[:, None] * k_stride + np.arange(N) * n_stride
        leaf = self.nodes[first >> _BITS]
        if leaf.op != "leaf" or leaf.value[0] != "w" or not np.array_equal(codes, expected):
            raise NotCompiled("a product with what is no weight")
        if n_stride != 1 and k_stride != 1:
            raise NotCompiled("a product with a weight whose numbers lie apart")
        return _Matrix(leaf.value[1], first & ((1 << _BITS) - 1), K, N, k_stride, n_stride)

    def _product(
        self, rows: NDArray[np.int64], w: _Value, start: tuple[int, int] | None = None
    ) -> NDArray[np.int64]:
        """Return codes of rows (K,) times w (K, N)."""
        matrix = self._matrix(w)
        source = self.runs_of(_Value((len(rows),), None, rows))
        kind = max(INPUT, *(self.nodes[r.node].kind for r in source))
        node = self.node("product", source, matrix.n, kind, (matrix, start))
        return (node << _BITS) + np.arange(matrix.n, dtype=np.int64)

    def multiply(self, a: _Value, b: _Value, start: _Value | None = None) -> _Value | _Tail:
        """A product of matrices, or of as many as there are heads: (.., M, K) (.., K, N)."""
        heads = len(a.shape) - 2
        if a.b == heads and b.b is None:  # rows times a weight
            if heads:
                each = zip(a.codes, b.codes, strict=True)
                codes = np.stack(
                    [self._product(r[0], _Value(w.shape, None, w))[None] for r, w in each]
                )
            else:
                codes = self._product(a.codes[0], b, self._start(start, b.shape[1]))[None]
            return _Value((*a.shape[:-1], b.shape[-1]), heads, codes)
        if a.b is None and b.b == heads + 1:  # a weight times columns
            found = self.multiply(_turned(b), _turned(a))
            assert isinstance(found, _Value)
            return _turned(found)
        if a.b == heads + 1 and b.b == heads:  # over the batch
            self.sums.append((a, b, False))
            return _Tail()
        raise NotCompiled("a product of what depends on the input or the state with itself")

    def _start(self, start: _Value | None, n: int) -> tuple[int, int] | None:
        """Return where the sums of a product begin: the tensor and its first number."""
        if start is None:
            return None
        (run,) = self.runs_of(start)
        leaf = self.nodes[run.node]
        assert leaf.op == "leaf" and run.n == n
        return run.node, run.at

    def _starts(self, start: _Value, n: int) -> bool:
        """Tell whether the sums of a product can begin with a vector."""
        if start.b is not None or start.codes.size != n:
            return False
        runs = self.runs_of(start)
        return len(runs) == 1 and runs[0].step == 1 and self.nodes[runs[0].node].op == "leaf"

    def _reshaped(self, value: _Value, shape: Sequence[int]) -> _Value:
        total = math.prod(value.shape)
        known = math.prod(n for n in shape if n != -1)
        shape = [total // known if n == -1 else n for n in shape]
        if value.b is None:
            return _Value(tuple(shape), None, value.codes.reshape(shape))
        rows = [i for i, n in enumerate(shape) if n == self.batch]
        if len(rows) != 1 or math.prod(shape[: rows[0]]) != math.prod(value.shape[: value.b]):
            raise NotCompiled("a view that mixes the batch with features")
        inner = [1 if i == rows[0] else n for i, n in enumerate(shape)]
        return _Value(tuple(shape), rows[0], value.codes.reshape(inner))

    def _permuted(self, value: _Value, axes: Sequence[int]) -> _Value:
        axes = [a % len(value.shape) for a in axes]
        b = None if value.b is None else axes.index(value.b)
        return _Value(tuple(value.shape[a] for a in axes), b, value.codes.transpose(axes))

    def _sliced(self, value: _Value, axis: int, where: slice | int) -> _Value:
        axis %= len(value.shape)
        if axis == value.b:
            if isinstance(where, slice) and where.indices(self.batch) == (0, self.batch, 1):
                return value
            raise NotCompiled("a selection of rows of the batch")
        codes = value.codes[(slice(None),) * axis + (where,)]
        b = value.b
        if isinstance(where, int) and b is not None and b > axis:
            b -= 1
        return _Value(
            tuple(self.batch if i == b else n for i, n in enumerate(codes.shape)), b, codes
        )

    def _scattered(self, into: object, source: object, axis: int, where: slice | int) -> _Value:
        value, part = self._value(into), self._value(source)
        axis %= len(value.shape)
        if axis == value.b:
            raise NotCompiled("a selection of rows of the batch")
        codes = value.codes.copy()
        place = (slice(None),) * axis + (where,)
        codes[place] = np.broadcast_to(part.codes, codes[place].shape)
        b = value.b if value.b is not None else part.b
        return _Value(value.shape, b, codes)

    def _expanded(self, value: _Value, shape: Sequence[int]) -> _Value:
        lead = len(shape) - len(value.shape)
        shape = [value.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)]
        b = None if value.b is None else value.b + lead
        if b is None:
            rows = [i for i, n in enumerate(shape) if n == self.batch]
            b = rows[0] if rows else None
        inner = [1 if i == b else n for i, n in enumerate(shape)]
        return _Value(tuple(shape), b, np.broadcast_to(value.codes, inner))

    def _joined(self, parts: Sequence[fx.Node], axis: int) -> _Value:
        values = [self._value(p) for p in parts]
        values = [v for v in values if v.shape != (0,)]
        ndim, axis = len(values[0].shape), axis % len(values[0].shape)
        b = next((v.b for v in values if v.b is not None), None)
        if b == axis or any(v.b not in (None, b) for v in values):
            raise NotCompiled("a concatenation of rows of the batch")
        if b is not None and any(v.b is None for v in values):
            raise NotCompiled("a concatenation of weights with what depends on the input")
        codes = np.concatenate([v.codes for v in values], axis)
        return _Value(
            tuple(self.batch if i == b else codes.shape[i] for i in range(ndim)), b, codes
        )

    def _strided(
        self, n: fx.Node, value: _Value, shape: Sequence[int], strides: Sequence[int], at: int
    ) -> _Value:
        base = n.args[0]
        traced = base.meta.get("val") if isinstance(base, fx.Node) else None
        rows = [i for i, size in enumerate(shape) if size == self.batch]
        if traced is None or not traced.is_contiguous() or value.b != 0 or rows != [0]:
            raise NotCompiled("as_strided")
        if (
            strides[0] != value.codes.size
            or at + sum((size - 1) * s for size, s in zip(shape[1:], strides[1:], strict=True))
            >= strides[0]
        ):
            raise NotCompiled("as_strided")
        index = np.full([1, *shape[1:]], at)
        for axis, (size, s) in enumerate(zip(shape[1:], strides[1:], strict=True), 1):
            index = (
                index
                + np.arange(size).reshape([-1 if i == axis else 1 for i in range(len(shape))]) * s
            )
        return _Value(tuple(shape), 0, value.flat[index])

    def _call(self, n: fx.Node) -> Any:
        if n.target is operator.getitem:
            source: Any = n.args[0]
            return self.env[source][n.args[1]]
        name = str(n.target)
        short = name.split(".")[1] if name.startswith("aten.") else name
        if any(isinstance(self.env.get(i), _Tail) for i in n.all_input_nodes):
            self.tail.append(n)
            return _Tail()
        self.names[short] = None
        try:
            return self._operation(
                n, short, [self.env[a] if isinstance(a, fx.Node) else a for a in n.args], n.kwargs
            )
        except (KeyError, IndexError, TypeError, ValueError, AssertionError) as error:
            raise NotCompiled(f"{name} in this form") from error

    def _operation(self, n: fx.Node, name: str, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
        p = self.pointwise
        if name in ("add", "sub", "rsub") and not (name == "add" and len(args) < 2):
            a, b = args[:2] if name != "rsub" else args[1::-1]
            alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
            if alpha != 1:
                b = p("mul", b, alpha)
            return p("sub" if name == "rsub" else name, a, b)
        if name == "div" and kwargs.get("rounding_mode") is not None:
            raise NotCompiled("aten.div with rounding_mode")
        if name in ELEMENTWISE and name != "copy":
            return self._power(*args) if name == "pow" else p(name, *args)
        if name in _VIEWS:
            return _VIEWS[name](
                self, *args, **{k: v for k, v in kwargs.items() if k in ("dim", "step")}
            )
        match name:
            case "rsqrt":
                return p("div", 1.0, p("sqrt", args[0]))
            case "reciprocal":
                return p("div", 1.0, args[0])
            case "square":
                return p("mul", args[0], args[0])
            case "sgn":
                return p("sign", args[0])
            case "addcmul":
                return p(
                    "add", args[0], p("mul", p("mul", args[1], args[2]), kwargs.get("value", 1))
                )
            case "addcdiv":
                return p(
                    "add", args[0], p("div", p("mul", args[1], kwargs.get("value", 1)), args[2])
                )
            case "clamp" | "clamp_min" | "clamp_max" | "hardtanh":
                low, high = {
                    "clamp_min": (args[1], None) if name == "clamp_min" else (None, None),
                    "clamp_max": (None, args[1]) if name == "clamp_max" else (None, None),
                }.get(name, ([*args[1:], None, None])[:2])
                low, high = kwargs.get("min", low), kwargs.get("max", high)
                value = args[0]
                if low is not None:
                    value = p("maximum", value, low)
                return value if high is None else p("minimum", value, high)
            case "logical_and" | "bitwise_and":
                return p("mul", p("ne", args[0], 0), p("ne", args[1], 0))
            case "logical_or" | "bitwise_or":
                return p("maximum", p("ne", args[0], 0), p("ne", args[1], 0))
            case "logical_not" | "bitwise_not":
                return p("eq", args[0], 0)
            case "isnan":
                return p("ne", args[0], args[0])
            case "mm" | "bmm":
                return self.multiply(*map(self._value, args))
            case "addmm":
                start, a, b = map(self._value, args)
                if kwargs:
                    raise NotCompiled("aten.addmm with factors")
                if self._starts(start, b.shape[1]) and a.b == 0:
                    return self.multiply(a, b, start)
                return p("add", start, self.multiply(a, b))
            case "baddbmm":
                return p("add", args[0], self.multiply(*map(self._value, args[1:])))
            case (
                "full"
                | "full_like"
                | "zeros_like"
                | "ones_like"
                | "zeros"
                | "ones"
                | "scalar_tensor"
                | "new_zeros"
                | "new_ones"
                | "new_full"
            ):
                return self._new(name, args)
            case "sum":
                return self._sum(
                    args[0], args[1] if len(args) > 1 else None, len(args) > 2 and bool(args[2])
                )
            case "mean":
                value, axes = (
                    args[0],
                    args[1] if len(args) > 1 and args[1] else range(len(args[0].shape)),
                )
                if value.b is not None and value.b in [a % len(value.shape) for a in axes]:
                    raise NotCompiled("a mean over the batch")
                count = math.prod(value.shape[a] for a in axes)
                return p(
                    "mul",
                    self.reduce("sum", value, list(axes), len(args) > 2 and bool(args[2])),
                    1 / count,
                )
            case "amax" | "amin":
                value, axes, keep = (
                    args[0],
                    args[1] if len(args) > 1 else [],
                    len(args) > 2 and bool(args[2]),
                )
                self._check_rows(value, axes)
                if name == "amin":
                    return p("neg", self.reduce("amax", p("neg", value), axes, keep))
                return self.reduce("amax", value, axes, keep)
            case "var_mean" | "var":
                return self._variance(name, args, kwargs)
            case "_to_copy" | "to":
                source, to = cast(fx.Node, n.args[0]), kwargs.get("dtype")
                known = (None, source.meta["val"].dtype, torch.float32, torch.float64)
                if to not in known:
                    raise NotCompiled(f"a tensor of {to}")
                return args[0]
            case "as_strided":
                return self._strided(n, args[0], args[1], args[2], args[3] if len(args) > 3 else 0)
        raise NotCompiled(str(n.target))

    def _check_rows(self, value: _Value, axes: Sequence[int]) -> None:
        over = [a % len(value.shape) for a in axes] if axes else range(len(value.shape))
        if value.b is not None and value.b in over:
            raise NotCompiled("an operation across the batch")

    def _power(self, base: Any, exponent: Any) -> _Value:
        p = self.pointwise
        if isinstance(exponent, int | float):
            if exponent == 2:
                return p("mul", base, base)
            if exponent == 3:
                return p("mul", p("mul", base, base), base)
            if exponent in (0.5, -0.5):
                root = p("sqrt", base)
                return root if exponent > 0 else p("div", 1.0, root)
            if exponent in (0, 1, -1):
                return (
                    base
                    if exponent == 1
                    else p("div", 1.0, base)
                    if exponent
                    else p("eq", 0.0, 0.0)
                )
        return p("pow", base, exponent)

    def _new(self, name: str, args: list[Any]) -> _Value:
        number = {
            "zeros": 0.0,
            "new_zeros": 0.0,
            "zeros_like": 0.0,
            "ones": 1.0,
            "new_ones": 1.0,
            "ones_like": 1.0,
        }
        if name == "scalar_tensor":
            return self._filled((), args[0])
        shape = (
            args[0].shape
            if name.endswith("_like")
            else args[1]
            if name.startswith("new")
            else args[0]
        )
        return self._filled(shape, number[name] if name in number else args[-1])

    def _variance(self, name: str, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
        p, value = self.pointwise, args[0]
        axes = args[1] if len(args) > 1 and args[1] is not None else list(range(len(value.shape)))
        self._check_rows(value, axes)
        correction, keep = kwargs.get("correction", 1), bool(kwargs.get("keepdim", False))
        count = math.prod(value.shape[a] for a in axes)
        mean = p("mul", self.reduce("sum", value, axes, True), 1 / count)
        apart = p("sub", value, mean)
        var = p(
            "mul",
            self.reduce("sum", p("mul", apart, apart), axes, True),
            1 / max(0, count - (1 if correction is None else correction)),
        )
        if not keep:
            over = sorted((a % len(value.shape) for a in axes), reverse=True)
            for a in over:
                var, mean = self._sliced(var, a, 0), self._sliced(mean, a, 0)
        return (var, mean) if name == "var_mean" else var


def _turned(value: _Value) -> _Value:
    """Return a matrix transposed, or each of several."""
    last = len(value.shape) - 1
    b = {last: last - 1, last - 1: last}.get(value.b, value.b) if value.b is not None else None
    shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
    return _Value(shape, b, np.swapaxes(value.codes, -1, -2))


def _pieces(
    self: _Interpreter, value: _Value, sizes: int | Sequence[int], dim: int = 0
) -> list[_Value]:
    n = value.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, n - i) for i in range(0, n, sizes)]
    ends = np.cumsum(sizes).tolist()
    return [self._sliced(value, dim, slice(b - s, b)) for b, s in zip(ends, sizes, strict=True)]


def _slice(start: int | None = None, end: int | None = None, step: int = 1) -> slice:
    return slice(start, None if end is None or end > 1 << 62 else end, step)


def _squeezed(self: _Interpreter, value: _Value, dim: int | Sequence[int] | None = None) -> _Value:
    ndim = len(value.shape)
    axes = range(ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {a % ndim for a in axes if value.shape[a] == 1}
    return self._reshaped(value, [n for i, n in enumerate(value.shape) if i not in gone])


def _unsqueezed(self: _Interpreter, value: _Value, dim: int) -> _Value:
    shape = list(value.shape)
    shape.insert(dim % (len(shape) + 1), 1)
    return self._reshaped(value, shape)


_VIEWS: dict[str, Callable[..., Any]] = {
    "view": lambda self, v, shape: self._reshaped(v, shape),
    "_unsafe_view": lambda self, v, shape: self._reshaped(v, shape),
    "reshape": lambda self, v, shape: self._reshaped(v, shape),
    "permute": lambda self, v, axes: self._permuted(v, axes),
    "t": lambda self, v: self._permuted(v, [*range(len(v.shape))][::-1]),
    "transpose": lambda self, v, a, b: _swapped(self, v, a, b),
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    "expand": lambda self, v, shape: self._expanded(v, shape),
    "slice": lambda self, v, dim=0, *where, **step: self._sliced(v, dim, _slice(*where, **step)),
    "select": lambda self, v, dim, index: self._sliced(v, dim, index),
    "slice_scatter": lambda self, v, s, dim=0, *where: self._scattered(v, s, dim, _slice(*where)),
    "select_scatter": lambda self, v, s, dim, index: self._scattered(v, s, dim, index),
    "split": _pieces,
    "split_with_sizes": _pieces,
    "cat": lambda self, parts, dim=0: self._joined(parts, dim),
    "alias": lambda self, v: v,
    "clone": lambda self, v: v,
    "detach": lambda self, v: v,
    "lift_fresh_copy": lambda self, v: v,
}  # fmt: skip


def _swapped(self: _Interpreter, value: _Value, a: int, b: int) -> _Value:
    axes = list(range(len(value.shape)))
    axes[a], axes[b] = axes[b], axes[a]
    return self._permuted(value, axes)


def _split(nodes: list[_Node], roots: list[list[Run]]) -> tuple[list[_Node], list[list[Run]]]:
    """Cut nodes whose numbers are used apart, as gates are, and drop those without use."""
    uses: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)  # begin, end, may be cut

    def use(run: Run, may_cut: bool) -> None:
        n = run.n if run.step else 1
        uses[run.node].append((run.at, run.at + n, may_cut))

    for root in roots:
        for run in root:
            use(run, True)
    pieces: dict[int, list[tuple[int, int]]] = {}
    for i in reversed(range(len(nodes))):
        node = nodes[i]
        if not uses[i]:
            continue
        cuts = sorted({0, node.n, *(a for u in uses[i] for a in u[:2])})
        rigid = [(a, b) for a, b, may_cut in uses[i] if not may_cut]
        whole = node.op not in ELEMENTWISE or any(a < cut < b for a, b in rigid for cut in cuts)
        pieces[i] = [(0, node.n)] if whole else list(pairwise(cuts))
        for a, b in pieces[i]:
            for arg in node.args:
                one = (
                    arg
                    if node.op not in ELEMENTWISE
                    else Run(arg.node, arg.at + a * arg.step, arg.step, b - a)
                )
                use(one, node.op == "product")
    found: list[_Node] = []
    known: dict[object, int] = {}  # pieces may be equal where what they were cut from is not
    places: dict[int, list[tuple[int, int, int]]] = {}

    def moved(run: Run) -> list[Run]:
        n = run.n if run.step else 1
        return [
            Run(
                new,
                max(run.at, a) - a,
                run.step,
                min(run.at + n, b) - max(run.at, a) if run.step else run.n,
            )
            for a, b, new in places[run.node]
            if a < run.at + n and run.at < b
        ]

    for i in sorted(pieces):
        node, places[i] = nodes[i], []
        for a, b in pieces[i]:
            if node.op in ELEMENTWISE:
                args = tuple(
                    moved(Run(r.node, r.at + a * r.step, r.step, b - a))[0] for r in node.args
                )
            else:
                args = tuple(each for r in node.args for each in moved(r))
            value = node.value
            if node.op == "product" and value[1] is not None:
                value = value[0], (places[value[1][0]][0][2], value[1][1])
            key = node.op, args, b - a, value
            if key not in known:
                known[key] = len(found)
                found.append(_Node(node.op, args, b - a, node.kind, value))
            places[i].append((a, b, known[key]))
    return found, [[each for run in root for each in moved(run)] for root in roots]


class _Writer:
    """Writes the program of a cell; see `write_program`."""

    def __init__(self, cell: Cell, dtype: torch.dtype, step: _Step) -> None:
        traced = _traced(step)
        self.sizes = list(cell.state_sizes)
        S, run = len(self.sizes), _Interpreter(traced, cell.input_size, cell.state_sizes)
        self.line_of_cache = 64 // torch.empty(0, dtype=dtype).element_size()
        values = [run._value(o) for o in run.outputs[: 2 * S + 1]]
        roots = [list(run.runs_of(v)) for v in values]
        jobs, results = self._jobs(run)
        for of, source in jobs:
            roots += [list(of), list(source or ())]
        for node in list(run.nodes):  # where sums begin
            if node.op == "product" and node.value[1] is not None:
                roots.append([Run(node.value[1][0], 0, 1, run.nodes[node.value[1][0]].n)])
        self.nodes, roots = _split(run.nodes, roots)
        self.after, self.dx, self.before = roots[:S], roots[S], roots[S + 1 : 2 * S + 1]
        pairs = roots[2 * S + 1 : 2 * S + 1 + 2 * len(jobs)]
        runs = [r for root in roots for r in root] + [r for n in self.nodes for r in n.args]
        ends = [n for r in runs if r.n > 1 for n in (r.at, r.n)]
        # Whether a vector may begin or end within another, and reach beyond the numbers of a node.
        self.is_odd = any(n % self.line_of_cache for n in (*self.sizes, *ends))
        self.taken: dict[int, int] = defaultdict(int)  # numbers of each memory
        self.vectors: list[int] = []
        self.vector_at: dict[int, int] = {}
        self.matrices: list[int] = []
        self.source: list[str] = []
        self.kernels = 0
        self.side_by_side: dict[tuple[Run, ...], Place] = {}
        self.operations: list[list[list[int]]] = []
        self.work = 0.0
        self.state_at = [self._take(LINE, n) for n in self.sizes]
        state_length = self.taken[LINE]
        self.leaves = {
            i: {
                "x": lambda s: Place(X, 0),
                "state": lambda s: Place(BEFORE, self.state_at[s]),
                "gradient": lambda s: Place(D_AFTER, self.state_at[s]),
            }[node.value[0]](node.value[1])
            for i, node in enumerate(self.nodes)
            if node.op == "leaf" and node.value[0] != "w"
        }
        self._plan(pairs)
        sums = self._sums(pairs)
        self.taken[TEMPORARY] += 1
        state_type: Any = cell.state_type
        output = state_type._fields.index("h")
        order = [
            state_length,
            0,
            # One more line of the cache, or rows would share few of its sets.
            *(self.taken[b] + self.line_of_cache for b in (LINE, BACK, AHEAD, SCRATCH)),
            self.taken[TEMPORARY],
            self.taken[VECTORS],
        ]
        tail = self._tail(run, traced, S, results)
        self.written = Written(
            [cell.input_size, S, output, *order],
            [n for pair in zip(self.sizes, self.state_at, strict=True) for n in pair],
            self.operations,
            self.matrices,
            self.vectors,
            sums,
            self.work,
            self._source(),
            self.kernels,
            step.front,
            run.strides,
            tail,
            results,
            order[2],
            order[3],
            list(run.names),
        )

    # Sums over rows

    def _jobs(
        self, run: _Interpreter
    ) -> tuple[list[tuple[tuple[Run, ...], tuple[Run, ...] | None]], list[Any]]:
        """Return what is summed over rows, and how the results are put together."""
        jobs: list[tuple[tuple[Run, ...], tuple[Run, ...] | None]] = []
        results: list[Any] = []
        for a, b, _ in run.sums:
            if b is None:
                results.append(([len(jobs)], a.shape, False))
                jobs.append((run.runs_of(a), None))
                continue
            A = a.codes.reshape(-1, a.shape[-2])  # of each head; the batch is an axis of 1
            Bm = b.codes.reshape(-1, b.shape[-1])
            first = run.runs_of(_Value((A.shape[1],), None, A[0]))
            turned = max(run.nodes[r.node].kind for r in first) < GRADIENT
            shape = (*a.shape[:-1], b.shape[-1])
            results.append((list(range(len(jobs), len(jobs) + len(A))), shape, turned))
            for of, source in zip(A, Bm, strict=True):
                pair = [run.runs_of(_Value((len(each),), None, each)) for each in (of, source)]
                jobs.append((pair[turned], pair[not turned]))
        return jobs, results

    def _sums(self, pairs: list[list[Run]]) -> list[int]:
        """Return the table of sums; those of the same numbers go through memory together."""
        groups: dict[tuple[Place, int], list[tuple[int, int, Place | None, int]]] = defaultdict(
            list
        )
        for job, (of, source) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            place = self.sum_places[tuple(of)]
            other = self.sum_places[tuple(source)] if source else None
            groups[place, _count(of)].append((job, _count(of), other, _count(source)))
        table: list[int] = []
        for (place, rows), members in groups.items():
            products = [m for m in members if m[2] is not None]
            plain = [m for m in members if m[2] is None]
            while products or plain:
                two, products = products[:2], products[2:]
                one = plain.pop(0) if plain else None
                sources = [p for m in two for p in (m[2] or place)] + [0] * (4 - 2 * len(two))
                columns = [m[3] for m in two] + [0] * (2 - len(two))
                to = [m[0] for m in two] + [-1] * (2 - len(two))
                table += [
                    *place,
                    rows,
                    len(two),
                    *sources,
                    *columns,
                    *to,
                    -1 if one is None else one[0],
                ]
        return table

    def _tail(
        self, run: _Interpreter, traced: _Traced, S: int, results: list[Any]
    ) -> fx.GraphModule:
        """Write what PyTorch does with the sums, for the gradients of the tensors."""
        graph = fx.Graph()
        new: dict[fx.Node, fx.Node] = {}
        sums = iter([graph.placeholder(f"sum{i}") for i in range(len(results))])
        for node in run.weight_nodes:
            new[node] = graph.placeholder(node.name)
        first = {n for n in run.env if isinstance(run.env[n], _Tail)}
        for n in traced.graph.nodes:
            if n not in first:
                continue
            if n in run.tail:
                for i in n.all_input_nodes:
                    self._copy(graph, new, i)
                new[n] = graph.node_copy(n, lambda each: new[each])
            else:
                new[n] = next(sums)
        found: list[Any] = []
        for o in run.outputs[2 * S + 1 :]:
            value = run.env.get(o)
            if isinstance(value, _Tail):
                found.append(new[o])
            elif value is None or all(run.is_constant(int(c), 0.0) for c in value.flat):
                found.append(None)
            else:
                raise NotCompiled("a gradient that no row plays a part in")
        graph.output(tuple(found))
        return fx.GraphModule(torch.nn.Module(), graph)

    def _copy(self, graph: fx.Graph, new: dict[fx.Node, fx.Node], n: fx.Node) -> None:
        """Copy what does not depend on rows."""
        if n in new:
            return
        if n.op != "call_function" or any(
            i.op == "placeholder" and i not in new for i in n.all_input_nodes
        ):
            raise NotCompiled("a gradient of a weight that depends on single rows")
        for i in n.all_input_nodes:
            self._copy(graph, new, i)
        new[n] = graph.node_copy(n, lambda each: new[each])

    # Memory

    def _padded(self, n: int) -> int:
        return (-(-n // self.line_of_cache) + self.is_odd) * self.line_of_cache

    def _take(self, base: int, n: int) -> int:
        at = self.taken[base]
        self.taken[base] = at + self._padded(n)
        return at

    def _vector(self, leaf: int) -> int:
        if leaf not in self.vector_at:
            node = self.nodes[leaf]
            self.vector_at[leaf] = self._take(VECTORS, node.n)
            self.vectors += [node.value[1], node.n, self.vector_at[leaf]]
        return self.vector_at[leaf]

    def _is_given(self, i: int) -> bool:
        return self.nodes[i].op in ("leaf", "constant")

    def _reached(self, roots: Iterable[int], into: Callable[[int], bool]) -> set[int]:
        found: set[int] = set()
        stack = [i for i in roots if into(i)]
        while stack:
            i = stack.pop()
            if i not in found:
                found.add(i)
                stack += [a.node for a in self.nodes[i].args if into(a.node)]
        return found

    # Phases

    def _plan(self, pairs: list[list[Run]]) -> None:
        """Decide what is computed when and kept where, and write the four phases."""
        nodes = self.nodes

        def is_gradient(i: int) -> bool:
            return nodes[i].kind == GRADIENT and not self._is_given(i)

        in_back = self._reached((r.node for root in self.before for r in root), is_gradient)
        roots = [r.node for root in [self.dx, *pairs] for r in root]
        in_after = self._reached(roots, lambda i: is_gradient(i) and i not in in_back)
        # What the sums read must lie side by side.
        self.sum_places: dict[tuple[Run, ...], Place] = {}
        line_targets: list[tuple[list[Run], Place]] = []
        back_targets: list[tuple[list[Run], Place]] = []
        after_targets: list[tuple[list[Run], Place]] = []
        for root in sorted(pairs, key=len, reverse=True):
            key = tuple(root)
            if not root or key in self.sum_places:
                continue
            for at in (
                at for t in (back_targets, after_targets, line_targets) for at in _within(t, key)
            ):
                self.sum_places[key] = at
            if key in self.sum_places:
                continue
            kinds = {nodes[r.node].kind for r in root}
            leaf = self.leaves.get(root[0].node) if len(root) == 1 and root[0].step else None
            if leaf is not None and leaf.base in (X, BEFORE):
                self.sum_places[key] = Place(leaf.base, leaf.at + root[0].at)
                continue
            if len(root) == 1 and root[0].step:
                state = self._state_place(root[0].node)
                if state is not None:
                    self.sum_places[key] = Place(LINE, state.at + root[0].at)
                    continue
            if max(kinds) < GRADIENT:
                place = Place(LINE, self._take(LINE, _count(root)))
                line_targets.append((root, place))
            else:
                place = Place(BACK, self._take(BACK, _count(root)))
                late = any(r.node in in_after for r in root)
                (after_targets if late else back_targets).append((root, place))
            self.sum_places[key] = place
        # What the last phase reads of the one before it.
        stored = {
            t[0][0].node
            for t in back_targets
            if len(t[0]) == 1 and t[0][0].n == nodes[t[0][0].node].n
        }
        direct = [r.node for t in (*after_targets, (self.dx, None)) for r in t[0]]
        crossing = {a.node for i in in_after for a in nodes[i].args} | set(direct)
        for i in sorted(crossing):
            is_leaf = i in self.leaves and self.leaves[i].base == D_AFTER
            covered = any(r.node == i and r.n == nodes[i].n for t in back_targets for r in t[0])
            if (i in in_back or is_leaf) and i not in stored and not covered:
                back_targets.append(
                    ([Run(i, 0, 1, nodes[i].n)], Place(BACK, self._take(BACK, nodes[i].n)))
                )
        # What backward reads of forward.
        saved: dict[int, Place] = {}
        for root, place in line_targets:
            start = place.at
            for r in root:
                if r.step and r.at == 0 and r.n == nodes[r.node].n and not self._is_given(r.node):
                    saved.setdefault(r.node, Place(LINE, start))
                start += r.n
        keep: list[int] = []

        def frontier(i: int) -> set[int]:
            node = nodes[i]
            if self._is_given(i) or i in saved or self._state_place(i) is not None:
                return set()
            if node.op in CHEAP or node.kind == CONSTANT:
                return set().union(*(frontier(a.node) for a in node.args))
            return {i}

        def want(i: int) -> None:
            missing = frontier(i)
            if sum(nodes[m].n for m in missing) > nodes[i].n:
                missing = {i}
            for m in sorted(missing):
                saved[m] = Place(LINE, self._take(LINE, nodes[m].n))
                keep.append(m)

        forward = {
            a.node
            for i in in_back | in_after
            for a in nodes[i].args
            if nodes[a.node].kind < GRADIENT and not self._is_given(a.node)
        } | {
            r.node
            for root in [self.dx, *self.before, *(t[0] for t in back_targets + after_targets)]
            for r in root
            if nodes[r.node].kind < GRADIENT and not self._is_given(r.node)
        }
        for i in sorted(forward, key=lambda i: (nodes[i].op in CHEAP, i)):
            want(i)
        # Forward: first what the input alone decides, for many steps at a time.
        targets = [
            (root, Place(LINE, at)) for root, at in zip(self.after, self.state_at, strict=True)
        ]
        targets += line_targets + [([Run(i, 0, 1, nodes[i].n)], saved[i]) for i in keep]
        early = [
            t for t in targets[len(self.after) :] if all(nodes[r.node].kind <= INPUT for r in t[0])
        ]
        targets = [t for t in targets if not any(t is e for e in early)]
        in_step = self._reached(
            (r.node for root, _ in targets for r in root),
            lambda i: nodes[i].kind == STATE and not self._is_given(i),
        )
        ahead: dict[int, Place] = {}
        needed = {a.node for i in in_step for a in nodes[i].args} | {
            r.node for t in targets for r in t[0]
        }
        for i in sorted(needed):
            if nodes[i].kind == INPUT and not self._is_given(i) and i not in saved:
                ahead[i] = Place(AHEAD, self._take(AHEAD, nodes[i].n))
                early.append(([Run(i, 0, 1, nodes[i].n)], ahead[i]))
        weights = {i: Place(X, 0) for i, p in self.leaves.items() if p.base == X}
        states = {i: p for i, p in self.leaves.items() if p.base in (X, BEFORE)}
        in_line = dict(saved)
        for i in range(len(nodes)):
            given = self._state_place(i)
            if given is not None and not self._is_given(i):
                in_line.setdefault(i, given)
        early_saved = {i: p for i, p in saved.items() if nodes[i].kind <= INPUT}
        self._phase(early, weights, True)
        self._phase(targets, states | ahead | early_saved, True)
        targets = [
            (root, Place(D_BEFORE, at)) for root, at in zip(self.before, self.state_at, strict=True)
        ]
        self.side_by_side = _parts_of(line_targets)
        self._phase(targets + back_targets, self.leaves | in_line, False)
        self.side_by_side |= _parts_of(back_targets)
        in_backs: dict[int, Place] = {}
        for root, place in back_targets:
            start = place.at
            for r in root:
                if r.step and r.at == 0 and r.n == nodes[r.node].n:
                    in_backs.setdefault(r.node, Place(BACK, start))
                start += r.n
        self._phase([(self.dx, Place(DX, 0)), *after_targets], states | in_line | in_backs, False)

    def _state_place(self, i: int) -> Place | None:
        """Return where a node lies as a state after the step, if it is one."""
        for root, at in zip(self.after, self.state_at, strict=True):
            for r in root:
                if r.node == i and r.step and r.at == 0 and r.n == self.nodes[i].n:
                    return Place(LINE, at)
                at += r.n
        return None

    def _phase(
        self, targets: list[tuple[list[Run], Place]], known: Mapping[int, Place], counts: bool
    ) -> None:
        """Write the kernels and products that compute targets from what is known where."""
        _Phase(self, targets, known, counts)

    def _source(self) -> str:
        return "\n".join(self.source)


_Targets = Sequence[tuple[list[Run], Place]]


def _parts_of(targets: _Targets) -> dict[tuple[Run, ...], Place]:
    """Return where every piece of what lies side by side begins."""
    found: dict[tuple[Run, ...], Place] = {}
    for root, place in targets:
        for a in range(len(root)):
            for b in range(a + 1, len(root) + 1):
                at = place.at + _count(root[:a])
                found.setdefault(tuple(root[a:b]), Place(place.base, at))
    return found


def _within(targets: _Targets, key: tuple[Run, ...]) -> list[Place]:
    """Return where something lies in what lies side by side; nothing if it does not."""
    place = _parts_of(targets).get(key)
    return [] if place is None else [place]


def _count(root: Sequence[Run]) -> int:
    return sum(r.n for r in root)


class _Phase:
    """Kernels and products, in turns, that compute ``targets``: a stage ends with its products."""

    def __init__(
        self, writer: _Writer, targets: list[tuple[list[Run], Place]],
        known: Mapping[int, Place], counts: bool,
    ) -> None:  # fmt: skip
        self.writer, self.known, self.counts = writer, known, counts
        self.nodes = writer.nodes
        self.extra: dict[int, _Node] = {}  # copies
        self.needed: dict[int, None] = {}
        self.dest: dict[int, list[tuple[Place, bool]]] = defaultdict(
            list
        )  # whether others lie behind
        self.sections: dict[tuple[Run, ...], tuple[Place, list[int]]] = {}
        self.from_: dict[int, tuple[Place, list[int]]] = {}  # of products: place, nodes to wait for
        self.targets = {
            part: (place, target)
            for target in reversed(targets)
            for part, place in _parts_of([target]).items()
        }
        for root, place in targets:
            if self.sections.get(tuple(root), (None,))[0] != place:
                self._section(root, place)
        self.stage: dict[int, int] = {}
        order = sorted(self.needed, key=self._key)
        for i in order:
            self._stage_of(i)
        self._store_across(order)
        operations: list[list[int]] = []
        for stage in range(max(self.stage.values(), default=-1) + 1):
            here = [i for i in order if self.stage[i] == stage and self._node(i).op != "product"]
            if here:
                writer.kernels += 1
                writer.source.append(_Kernel(self, here, writer.kernels).text)
                operations.append([writer.kernels, 0, 0, 0, 0, 0, -1])
            for i in order:
                if self.stage[i] == stage and self._node(i).op == "product":
                    operations.append(self._product(i))
        writer.operations.append(operations)

    def _node(self, i: int) -> _Node:
        return self.extra[i] if i in self.extra else self.nodes[i]

    def _key(self, i: int) -> tuple[int, int]:
        # A copy stands behind what it copies.
        return (self.extra[i].args[0].node, i) if i in self.extra else (i, 0)

    def _need(self, i: int) -> None:
        node = self._node(i)
        if i in self.needed or i in self.known or node.op in ("leaf", "constant"):
            if node.op == "leaf" and node.value[0] != "w" and i not in self.known:
                raise NotCompiled("a value out of its phase")
            return
        self.needed[i] = None
        for a in node.args:
            self._need(a.node)
        if node.op == "product":
            self.from_[i] = self._side_by_side(node.args)

    def _section(self, root: Sequence[Run], place: Place) -> list[int]:
        """Have numbers written side by side from a place on; the nodes that write them."""
        parts: list[int] = []
        at = place.at
        for r in root:
            node = self._node(r.node)
            whole = r.step and r.at == 0 and r.n == node.n and r.node not in self.known
            i = r.node
            if (
                not whole
                or node.op in ("leaf", "constant")
                or (node.op == "product" and self.dest[i])
            ):
                i = len(self.nodes) + len(self.extra)
                self.extra[i] = _Node("copy", (r,), r.n, node.kind)
            self.dest[i].append((Place(place.base, at), r is not root[-1] or place.base == DX))
            parts.append(i)
            at += r.n
        self.sections[tuple(root)] = place, parts
        for i in parts:
            self._need(i)
        return parts

    def _side_by_side(self, root: tuple[Run, ...]) -> tuple[Place, list[int]]:
        if len(root) == 1 and root[0].step:
            (r,) = root
            if r.node in self.known:
                place = self.known[r.node]
                return Place(place.base, place.at + r.at), []
            node = self._node(r.node)
            if root in self.targets and r.n == node.n:
                return self._wanted(root)
            if node.op not in ("leaf", "constant"):
                if not self.dest[r.node]:
                    self.dest[r.node].append(
                        (Place(SCRATCH, self.writer._take(SCRATCH, node.n)), False)
                    )
                place = self.dest[r.node][0][0]
                return Place(place.base, place.at + r.at), [r.node]
        if root not in self.sections:
            if root in self.writer.side_by_side:
                return self.writer.side_by_side[root], []
            if root in self.targets:
                return self._wanted(root)
            self._section(root, Place(SCRATCH, self.writer._take(SCRATCH, _count(root))))
        return self.sections[root]

    def _wanted(self, root: tuple[Run, ...]) -> tuple[Place, list[int]]:
        """Return where something lies that is a target, or a part of one."""
        place, (target, begin) = self.targets[root]
        if self.sections.get(tuple(target), (None,))[0] != begin:
            self._section(target, begin)
        ends = np.cumsum([begin.at, *(r.n for r in target)]).tolist()
        first = ends.index(place.at)
        return place, self.sections[tuple(target)][1][first : first + len(root)]

    def _stage_of(self, i: int) -> int:
        if i not in self.stage:
            node = self._node(i)
            waits = self.from_[i][1] if i in self.from_ else [a.node for a in node.args]
            self.stage[i] = 0
            for a in waits:
                if a in self.needed:
                    later = self._node(a).op == "product"
                    self.stage[i] = max(self.stage[i], self._stage_of(a) + later)
        return self.stage[i]

    def _store_across(self, order: list[int]) -> None:
        """Give a place to what another stage, or a product, reads or writes."""
        for i in order:
            node = self._node(i)
            for a in node.args if node.op != "product" else ():
                if (
                    a.node in self.needed
                    and self.stage[a.node] != self.stage[i]
                    and not self.dest[a.node]
                ):
                    n = self._node(a.node).n
                    self.dest[a.node].append((Place(SCRATCH, self.writer._take(SCRATCH, n)), False))

    def _product(self, i: int) -> list[int]:
        node, writer = self._node(i), self.writer
        matrix, start = node.value
        if self.counts:
            writer.work += 2.0 * matrix.k * matrix.n
        if not self.dest[i]:
            self.dest[i].append((Place(SCRATCH, writer._take(SCRATCH, node.n)), False))
        number = len(writer.matrices) // 6
        writer.matrices += [
            matrix.tensor,
            matrix.at,
            matrix.k,
            matrix.n,
            matrix.k_stride,
            matrix.n_stride,
        ]
        begin = -1 if start is None else writer._vector(start[0]) + start[1]
        return [0, number, *self.from_[i][0], *self.dest[i][0][0], begin]


class _Kernel:
    """The C++ of one kernel: for every row loops over the numbers of nodes, one behind another."""

    def __init__(self, phase: _Phase, nodes: list[int], number: int) -> None:
        self.phase, self.here = phase, set(nodes)
        self.line = phase.writer.line_of_cache
        self.bases: set[int] = set()
        self.temporary = 0
        self.place: dict[int, Place] = {}
        self.loop: dict[int, int] = {}
        for i in nodes:
            self.loop[i] = self._loop_of(i)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i in nodes:
            groups[self.loop[i], self._length(i)].append(i)
        self.group = {i: key for key, members in groups.items() for i in members}
        for i in nodes:
            self._store_for_others(i, nodes)
        body = [
            self._emit(n, members)
            for (_, n), members in sorted(groups.items(), key=lambda g: (g[0][0], g[0][1]))
        ]
        head = [
            f"T* const b{b} = base[{b}][{0 if b == TEMPORARY else 'r'}];"
            for b in sorted(self.bases)
        ]
        phase.writer.taken[TEMPORARY] = max(phase.writer.taken[TEMPORARY], self.temporary)
        if phase.counts:
            phase.writer.work += sum(20.0 * self._node(i).n for i in nodes)
        lines = "\n".join(head + body).replace("\n", "\n        ")
        self.text = (
            f'extern "C" __attribute__((visibility("default")))\n'
            f"void k{number}(T* const* const* base, const T* vectors, int64_t rows) {{\n"
            "    (void)vectors;\n"
            f"    for (int64_t r = 0; r < rows; ++r) {{\n        {lines}\n    }}\n}}\n"
        )

    def _node(self, i: int) -> _Node:
        return self.phase._node(i)

    def _length(self, i: int) -> int:
        node = self._node(i)
        return node.args[0].n if node.op in REDUCTIONS else node.n

    def _together(self, i: int, a: Run) -> bool:
        """Tell whether an operand can be taken from the register in which it was computed."""
        node = self._node(a.node)
        if node.op in REDUCTIONS:
            return False
        if self._length(i) == 1 or node.n == 1:
            return node.n == 1 and self._length(i) == 1
        return a.step == 1 and a.at == 0 and a.n == node.n == self._length(i)

    def _loop_of(self, i: int) -> int:
        loop = 0
        for a in self._node(i).args:
            if a.node in self.here:
                loop = max(loop, self.loop[a.node] + (not self._together(i, a)))
        return loop

    def _is_number(self, i: int) -> bool:
        return i in self.here and self._node(i).n == 1

    def _store_for_others(self, i: int, nodes: list[int]) -> None:
        if self._is_number(i):
            return
        for j in nodes:
            for a in self._node(j).args:
                if a.node == i and not (self._together(j, a) and self.group[j] == self.group[i]):
                    if self.phase.dest[i]:
                        self.place[i] = self.phase.dest[i][0][0]
                    elif i not in self.place:
                        self.place[i] = Place(TEMPORARY, self.temporary)
                        self.temporary += self.phase.writer._padded(self._node(i).n)

    def _pointer(self, place: Place) -> str:
        self.bases.add(place.base)
        return f"b{place.base} + {place.at}"

    def _operand(self, i: int, a: Run, loads: dict[str, str]) -> str:
        node = self._node(a.node)
        if node.op == "constant":
            number = float(node.value)
            if math.isnan(number):
                return "splat(std::numeric_limits<T>::quiet_NaN())"
            if math.isinf(number):
                return f"splat({'-' if number < 0 else ''}std::numeric_limits<T>::infinity())"
            return f"splat(T({node.value}))"
        if a.node in self.here:
            if node.n == 1:
                return f"splat(s{a.node})"
            if self._together(i, a) and self.group[a.node] == self.group[i]:
                return f"v{a.node}"
            place = self.place[a.node]
        elif node.op == "leaf" and node.value[0] == "w":
            at = self.phase.writer._vector(a.node) + a.at
            return self._loaded(f"vectors + {at}", a, self._length(i), False, loads)
        elif a.node in self.phase.known:
            place = self.phase.known[a.node]
        else:
            place = self.phase.dest[a.node][0][0]
        pointer = self._pointer(Place(place.base, place.at + a.at))
        return self._loaded(pointer, a, self._length(i), place.base == X, loads)

    def _loaded(self, pointer: str, a: Run, n: int, is_foreign: bool, loads: dict[str, str]) -> str:
        if n == 1 or not a.step:
            text = f"splat(({pointer})[0])"
        elif is_foreign and n % self.line:
            text = f"load_part<T>({pointer} + i, {n} - i)"
        else:
            text = f"load({pointer} + i)"
        return text if n == 1 else loads.setdefault(text, f"m{len(loads)}")

    def _emit(self, n: int, members: list[int]) -> str:
        loads: dict[str, str] = {}
        computed: list[str] = []
        stores: list[str] = []
        folds = [i for i in members if self._node(i).op in REDUCTIONS]
        for i in members:
            node = self._node(i)
            operands = [self._operand(i, a, loads) for a in node.args]
            if node.op in REDUCTIONS:
                start = REDUCTIONS[node.op]
                value = (
                    operands[0]
                    if n % self.line == 0
                    else f"first_lanes<T>({operands[0]}, {n} - i, {start})"
                )
                joined = (
                    f"f{i}[u] + {value}" if node.op == "sum" else f"maximum<T>(f{i}[u], {value})"
                )
                stores.append(f"f{i}[u] = {joined};")
                continue
            text = ELEMENTWISE[node.op].format(*operands)
            if n == 1:
                computed.append(f"const T s{i} = Vec<T>({text})[0];")
                stores += [
                    f"({self._pointer(place)})[0] = s{i};" for place, _ in self.phase.dest[i]
                ]
                continue
            computed.append(f"const Vec<T> v{i} = {text};")
            places = list(self.phase.dest[i])
            if not places and i in self.place:
                places = [(self.place[i], False)]
            for place, is_inside in places:
                pointer = self._pointer(place)
                if is_inside and n % self.line:
                    stores.append(f"store_part<T>({pointer} + i, v{i}, {n} - i);")
                else:
                    stores.append(f"store({pointer} + i, v{i});")
        inner = (
            [f"const Vec<T> {name} = {text};" for text, name in loads.items()] + computed + stores
        )
        if n == 1:
            return "\n".join(computed + stores)
        body = "\n    ".join(inner)
        if not folds:
            return f"for (int64_t i = 0; i < {n}; i += W<T>) {{\n    {body}\n}}"
        begin = [
            f"Vec<T> f{i}[turns];\nfor (auto& f : f{i}) f = splat({REDUCTIONS[self._node(i).op]});"
            for i in folds
        ]
        end = []
        for i in folds:
            end.append(
                f"const T s{i} = {'sum' if self._node(i).op == 'sum' else 'maximum'}_of<T>(f{i});"
            )
            end += [f"({self._pointer(place)})[0] = s{i};" for place, _ in self.phase.dest[i]]
        loop = (
            f"for (int64_t j = 0; j < {n}; j += turns * W<T>)\n"
            f"    for (int u = 0; u < turns; ++u) {{\n"
            f"    const int64_t i = j + u * W<T>;\n    if (i >= {n}) break;\n    {body}\n    }}"
        )
        return "\n".join([*begin, loop, *end])
