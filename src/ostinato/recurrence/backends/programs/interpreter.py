"""Operations of ATen on a row, as nodes: views only move codes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ostinato.recurrence.backends.programs.tracing import _Traced
from ostinato.recurrence.backends.programs.values import (
    _BITS,
    CONSTANT,
    ELEMENTWISE,
    GRADIENT,
    INPUT,
    MOST_PIECES,
    STATE,
    NotCompiled,
    Run,
    _Matrix,
    _Node,
    _Tail,
    _Value,
)


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
