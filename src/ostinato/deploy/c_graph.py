"""The step of any cell in C: recorded as the operations that PyTorch runs, and written as loops.

Every tensor of a step is a view of a block of memory, so that what merely views another costs
nothing; elementwise operations whose result is read once become a part of the reader's expression.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ostinato.deploy import c_runtime as numerics
from ostinato.deploy.c_runtime import Array
from ostinato.deploy.c_source import Function, Source
from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import Cell, Weights

UNARY = {
    "neg": "-{}",
    "abs": "fabsf({})",
    "exp": "@exp({}, 0.0f)",
    "sigmoid": "@sigmoid({})",
    "tanh": "@tanh({})",
    "relu": "@relu({})",
    "softplus": "@softplus({})",
    "log": "logf({})",
    "log1p": "log1pf({})",
    "expm1": "expm1f({})",
    "sqrt": "sqrtf({})",
    "rsqrt": "1.0f / sqrtf({})",
    "reciprocal": "1.0f / {}",
    "sin": "sinf({})",
    "cos": "cosf({})",
    "erf": "erff({})",
    "clone": "{}",
    "silu": "{0} * @sigmoid({0})",
    "log_sigmoid_forward": "-@softplus(-{})",
}
BINARY = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "rsub": "{1} - {0}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "maximum": "fmaxf({}, {})",
    "minimum": "fminf({}, {})",
    "logaddexp": "{1} + @softplus({0} - {1})",
}
COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
REDUCE = {"sum", "mean", "amax", "amin"}
PRODUCTS = {"mm", "addmm"}
"""Operations that a step may consist of, and how they are written; views are free."""

ROUNDED = {
    "log", "log1p", "expm1", "rsqrt", "sin", "cos", "erf", "softplus", "silu", "logaddexp",
    "log_sigmoid_forward", "pow", "sum", "mean", "bmm",
}  # fmt: skip
"""Those whose last bits are not the same in C and in PyTorch."""

HELPED = ("exp", "sigmoid", "tanh", "relu", "softplus")


_SAME_BITS: dict[str, Callable[[Array], Array]] = {
    "exp": numerics.exp, "sigmoid": numerics.sigmoid, "tanh": numerics.tanh, "sqrt": np.sqrt
}  # fmt: skip
"""What C computes otherwise than PyTorch."""

MIRRORED = {*PRODUCTS, *_SAME_BITS, "native_layer_norm"}
"""What the reference with 8 bits computes in its own way, and counts: views come and go."""


class Call(NamedTuple):
    """An operation: its number among the `MIRRORED` ones, name, arguments and first result."""

    order: int
    name: str
    args: Sequence[Any]
    options: Mapping[str, Any]
    out: Tensor


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations on the tensors whose memory is known, and on what they make."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {_memory(t) for t in inputs}
        self.kept: list[object] = list(inputs)  # no memory may be used twice
        self.calls: list[Call] = []
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        self.count += func.overloadpacket.__name__ in MIRRORED
        out = func(*args, **kwargs)
        self.kept.append(out)
        if not any(_memory(t) in self.known for t in _tensors(args)):
            return out  # a constant
        outs = _tensors((out,))
        before = {_memory(t) for t in _tensors(args)}
        if func._schema.is_mutable:
            raise OstinatoError(f"export: the cell's step changes a tensor in place ({func}).")
        if all(_memory(t) in before for t in outs):
            return out  # a view
        self.calls.append(Call(self.count, func.overloadpacket.__name__, args, kwargs, outs[0]))
        self.known.update(_memory(t) for t in outs)
        return out


class _Mirror(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes as the C code does with 8 bits.

    Of the calls that were recorded, by their numbers, whether they are products of weights; others
    compute constants.
    """

    def __init__(self, recorded: Mapping[int, bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorded, self.count = recorded, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.overloadpacket.__name__
        self.count += name in MIRRORED
        if name not in MIRRORED or self.count not in self.recorded:
            return func(*args, **(kwargs or {}))
        if self.recorded[self.count]:
            bias, x, w = args if name == "addmm" else (None, *args)
            q = numerics.quantize(np.ascontiguousarray(w.numpy().T))
            start = np.zeros(w.shape[1], np.float32) if bias is None else bias.numpy()
            return torch.from_numpy(numerics.add8(q, x.numpy()[0], start))[None]
        if name in _SAME_BITS:
            return torch.from_numpy(_SAME_BITS[name](args[0].contiguous().numpy()))
        if name == "native_layer_norm":
            return _layer_norm(*args)
        return func(*args, **(kwargs or {}))


class Graph:
    """The step of a cell with its weights, in C and, as the reference for 8 bits, in PyTorch.

    Args:
        cell: any cell.
        w: its weights.
        name: prefix of the names of its constants.
    """

    def __init__(self, cell: Cell, w: Weights, name: str) -> None:
        self.cell, self.w, self.name = cell, w, name
        x = torch.zeros(1, cell.input_size)
        state = [torch.zeros(1, size) for size in cell.state_sizes]
        recorder = _Recorder([x, *state])
        with torch.no_grad(), recorder:
            new = self._run(x, state)
        self.x, self.state, self.new = x, state, new
        self.calls = _needed(recorder.calls, new)
        self.known, self._kept = recorder.known, recorder.kept
        for call in self.calls:
            if not _is_known(call.name):
                raise OstinatoError(
                    f"export: the step of {type(cell).__name__} uses {call.name}, which has no "
                    "form in C here; write it with the functions that "
                    "docs/guides/microcontrollers.md lists."
                )
        mirrored = [call for call in self.calls if call.name in MIRRORED]
        self.dense = {call.order: self._is_dense(call) for call in mirrored}

    def _run(self, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        old = self.cell.state_type(*state)
        return list(self.cell.step(self.w, self.cell.project(self.w, x), old))

    def _is_dense(self, call: Call) -> bool:
        """Whether a call is a product of weights and one row of numbers."""
        if call.name not in PRODUCTS:
            return False
        x, w = call.args[-2:]
        return x.shape[0] == 1 and _memory(x) in self.known and _memory(w) not in self.known

    def reset(self) -> None:
        """Begin a sequence of `step`."""
        self._now = list(self.cell.zero_state(1))

    def step(self, x: Array) -> Array:
        """Return the output of a step with 8 bits, ``(size,)``."""
        row = torch.from_numpy(x)[None]
        with torch.no_grad(), _Mirror(self.dense):
            self._now = self._run(row, self._now)
        return cast("Array", self._now[0][0].clone().numpy())

    def emit(self, c: Source, f: Function, x: str, states: Sequence[str]) -> None:
        """Add the step to a function that has features ``x``; the states are expressions."""
        _Writer(self, c, f, x, states).write()


class _Writer:
    """Writes the calls of a graph as statements of a function."""

    def __init__(self, graph: Graph, c: Source, f: Function, x: str, states: Sequence[str]) -> None:
        self.graph, self.c, self.f = graph, c, f
        self.names = {_memory(t): s for t, s in zip(graph.state, states, strict=True)}
        self.names[_memory(graph.x)] = x
        self.states = states
        self.inline: dict[int, tuple[Tensor, Callable[[Sequence[str]], str]]] = {}
        self.quantized: dict[str, str] = {}
        args = (_tensors((*call.args, *call.options.values())) for call in graph.calls)
        self.reads = Counter(_memory(t) for t in chain(*args, graph.new))

    def write(self) -> None:
        for call in self.graph.calls:
            rounded = call.name in PRODUCTS and not self.graph.dense[call.order]
            if call.name in ROUNDED or rounded:
                self.c.exact = False
            if call.name in PRODUCTS or call.name == "bmm":
                self._product(call)
            elif call.name == "cat":
                self._cat(call)
            elif call.name == "native_layer_norm":
                self._layer_norm(call)
            elif call.name in REDUCE:
                self._reduce(call)
            else:
                self._elementwise(call)
        finals = []
        for t in self.graph.new:
            old = _memory(t) in {_memory(s) for s in self.graph.state}
            finals.append(self._copied(t) if old or _memory(t) in self.inline else t)
        for t, s in zip(finals, self.states, strict=True):
            self._update(s, t)

    # Reading

    def _read(self, t: Any, at: Sequence[str]) -> str:
        """Return the expression of an element, ``at`` indices of the result's axes."""
        if not isinstance(t, Tensor):
            return number(t)
        at = at[len(at) - t.dim() :]
        if _memory(t) in self.inline:
            return self.inline[_memory(t)][1](at)
        place = _at(at, t.stride(), int(t.storage_offset()))
        return f"{self._name(t)}[{place}]"

    def _name(self, t: Tensor) -> str:
        """Return the array that a tensor is a view of; a constant becomes a table."""
        name = self.names.get(_memory(t))
        if name is None:
            if not t.is_floating_point() and t.dtype != torch.bool:
                raise OstinatoError(f"export: a cell's step computes with {t.dtype}.")
            whole = t.detach().new_empty(0).set_(t.untyped_storage())
            table = self.c.table(f"{self.graph.name}_k{len(self.names)}", whole.float().numpy())
            name = self.names[_memory(t)] = self.c.named(f"@{table}")
            self.graph._kept.append(t)
        return name

    def _pointer(self, t: Tensor) -> str:
        """Return the place of a vector whose numbers lie side by side."""
        if _memory(t) in self.inline or not t.is_contiguous():
            t = self._copied(t)
        return f"{self._name(t)} + {t.storage_offset()}" if t.storage_offset() else self._name(t)

    # Writing

    def _loop(self, shape: Sequence[int], statement: Callable[[list[str]], str]) -> None:
        """Add loops over the axes of a shape that are longer than 1."""
        axes = [n > 1 for n in shape]
        at = [
            ("i" if sum(axes) == 1 else f"i{k}") if there else "0" for k, there in enumerate(axes)
        ]
        heads = [
            f"for (int {i} = 0; {i} < {n}; ++{i})" for i, n in zip(at, shape, strict=True) if n > 1
        ]
        self.f.add(" ".join([*heads, statement(at)]))

    def _new(self, t: Tensor) -> str:
        """Have an array for a new tensor."""
        name = f"t{len(self.f.locals)}"
        self.f.local(name, max(1, t.untyped_storage().nbytes() // t.element_size()))
        self.names[_memory(t)] = name
        return name

    def _copied(self, t: Tensor) -> Tensor:
        """Copy a tensor into an array of its own."""
        copy = torch.empty(t.shape)
        self.graph._kept.append(copy)
        self._new(copy)
        self._store(copy, t)
        return copy

    def _store(self, to: Tensor, t: Tensor) -> None:
        """Copy a tensor to another of its shape."""
        self._loop(t.shape, lambda at: f"{self._read(to, at)} = {self._read(t, at)};")

    def _update(self, state: str, t: Tensor) -> None:
        """Copy a tensor to a part of the state."""
        strides = _dense(t.shape)
        self._loop(t.shape, lambda at: f"{state}[{_at(at, strides)}] = {self._read(t, at)};")

    def _elementwise(self, call: Call) -> None:
        name, args, out = call.name, list(call.args), call.out
        template = UNARY.get(name) or BINARY.get(name)
        if name in ("add", "sub", "rsub") and (alpha := call.options.get("alpha", 1)) != 1:
            template = str(template).replace("{}", "{}", 1)
            args[1] = _Scaled(args[1], alpha)
        if name in COMPARE:
            template = f"({{}} {COMPARE[name]} {{}} ? 1.0f : 0.0f)"
        elif name == "where":
            template = "({} > 0.5f ? {} : {})"
        elif name == "pow":
            template = _power(args[1])
        elif name in ("clamp", "clamp_min", "clamp_max"):
            low, high = [*args[1:], None, None][:2]
            low, high = (None, low) if name == "clamp_max" else (low, high)
            template = "{}" if low is None else f"fmaxf({{}}, {number(low)})"
            template = template if high is None else f"fminf({template}, {number(high)})"
            args = args[:1]
        elif name == "div" and call.options.get("rounding_mode"):
            raise OstinatoError("export: a cell's step rounds a quotient, which has no form here.")
        if name in UNARY or name == "pow":
            args = args[:1]
        for helper in HELPED:
            if f"@{helper}(" in str(template):
                self.c.need(helper)
        text = self.c.named(str(template))
        shape = out.shape

        def read(a: Any, at: Sequence[str]) -> str:
            if isinstance(a, _Scaled):
                return f"{number(a.factor)} * {read(a.tensor, at)}"
            if isinstance(a, Tensor) and a.dim() and a.shape != shape:
                a = a.expand(shape)
            return self._read(a, at)

        def expression(at: Sequence[str]) -> str:
            return f"({text.format(*(read(a, at) for a in args))})"

        alone = self.reads[_memory(out)] == 1 and text.count("{0}") < 2
        if alone and _reader_is_elementwise(self.graph, out):
            self.inline[_memory(out)] = out, expression
            return
        # What it reads must not change before; nothing does until the states are written.
        self._new(out)
        self._loop(shape, lambda at: f"{self._read(out, at)} = {expression(at)[1:-1]};")

    def _product(self, call: Call) -> None:
        x, w = call.args[-2:]
        bias = call.args[0] if call.name == "addmm" else None
        y = self._new(call.out)
        if call.name in PRODUCTS and self.graph.dense[call.order]:
            out = call.out
            start = 0.0 if bias is None else bias.expand(out.shape)
            self._loop(out.shape, lambda at: f"{self._read(out, at)} = {self._read(start, at)};")
            weight = w.detach().numpy().T
            matrix = self.c.matrix(
                f"{self.graph.name}_w{len(self.f.locals)}", np.ascontiguousarray(weight)
            )
            at = self._pointer(x)
            if at not in self.quantized:
                q = f"q{len(self.quantized)}"
                self.quantized[at] = self.c.quantized(self.f, at, x.shape[1], q)
            matrix.add(self.f, self.quantized[at], y)
            return
        batched = call.name == "bmm"
        n = x.shape[-1]

        def statement(at: Sequence[str]) -> str:
            head, (i, j) = list(at[:-2]), at[-2:]
            first = self._read(bias.expand(call.out.shape), at) if bias is not None else "0.0f"
            inner = f"{self._read(x, [*head, i, 'k'])} * {self._read(w, [*head, 'k', j])}"
            return (
                f"{{ float sum = {first}; for (int k = 0; k < {n}; ++k) sum += {inner}; "
                f"{self._read(call.out, at)} = sum; }}"
            )

        assert batched or call.name in PRODUCTS
        self.c.products += call.out.numel() * n
        self._loop(call.out.shape, statement)

    def _cat(self, call: Call) -> None:
        parts, dim = call.args[0], (call.args[1:] or [call.options.get("dim", 0)])[0]
        out = call.out
        self._new(out)
        begin = 0
        for part in parts:
            if not part.numel():
                continue
            target = out.narrow(dim, begin, part.shape[dim])
            begin += part.shape[dim]
            self._store(target, part)

    def _reduce(self, call: Call) -> None:
        x, out = call.args[0], call.out
        dims = call.args[1] if len(call.args) > 1 and call.args[1] is not None else range(x.dim())
        dims = {
            d % max(1, x.dim())
            for d in (dims if isinstance(dims, list | tuple | range) else [dims])
        }
        if not dims:
            dims = set(range(x.dim()))
        keep = (len(call.args) > 2 and call.args[2]) or call.options.get("keepdim", False)
        self._new(out)
        n = math.prod(x.shape[d] for d in dims)

        def statement(at: Sequence[str]) -> str:
            rest = iter([a for d, a in enumerate(at) if d not in dims] if keep else at)
            inner = [f"k{d}" if d in dims else next(rest) for d in range(x.dim())]
            loops = " ".join(
                f"for (int k{d} = 0; k{d} < {x.shape[d]}; ++k{d})" for d in sorted(dims)
            )
            value = self._read(x, inner)
            first = [a if d not in dims else "0" for d, a in enumerate(inner)]
            change = {"amax": f"sum = fmaxf(sum, {value});", "amin": f"sum = fminf(sum, {value});"}
            begin = self._read(x, first) if call.name in change else "0.0f"
            over = f" / {number(n)}" if call.name == "mean" else ""
            done = change.get(call.name, f"sum += {value};")
            return f"{{ float sum = {begin}; {loops} {done} {self._read(out, at)} = sum{over}; }}"

        self._loop(out.shape, statement)

    def _layer_norm(self, call: Call) -> None:
        x, shape, gain, bias, epsilon = call.args
        n, out = math.prod(shape), call.out
        if x.numel() != n:
            raise OstinatoError("export: a cell's step normalises several vectors simultaneously.")
        if _memory(x) in self.inline:
            x = self._copied(x)
        self._new(out)
        at = ["0"] * (x.dim() - 1) + ["i"]
        value = f"({self._read(x, at)} - mean) * scale"
        if gain is not None:
            value = f"{value} * {self._read(gain, ['i'])}"
        if bias is not None:
            value = f"{value} + {self._read(bias, ['i'])}"
        each = f"for (int i = 0; i < {n}; ++i)"
        self.f.add(
            "{",
            "    float mean = 0.0f, scale = 0.0f;",
            f"    {each} mean += {self._read(x, at)};",
            f"    mean /= {number(n)};",
            f"    {each} scale += ({self._read(x, at)} - mean) * ({self._read(x, at)} - mean);",
            f"    scale = 1.0f / sqrtf(scale / {number(n)} + {number(epsilon)});",
            f"    {each} {self._read(out, at)} = {value};",
            "}",
        )


class _Scaled(NamedTuple):
    """A tensor or number times a number, where an operation has one built in."""

    tensor: Any
    factor: float


def _layer_norm(
    x: Tensor, shape: Sequence[int], gain: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise a vector ``(1, n)``, as in C."""
    f, v = np.float32, x.contiguous().numpy()[0]
    mean = numerics.running_sum(v) / f(len(v))
    scale = f(1) / np.sqrt(numerics.running_sum((v - mean) * (v - mean)) / f(len(v)) + f(epsilon))
    y = (v - mean) * scale
    y = y if gain is None else y * gain.numpy()
    y = y if bias is None else y + bias.numpy()
    return torch.from_numpy(y)[None], torch.tensor(mean), torch.tensor(scale)


def _needed(calls: Sequence[Call], results: Sequence[Tensor]) -> list[Call]:
    """Return the calls without those that nothing reads, such as of a gate that a cell reports."""
    read = {_memory(t) for t in results}
    found: list[Call] = []
    for call in reversed(calls):
        if _memory(call.out) in read:
            read.update(_memory(t) for t in _tensors((*call.args, *call.options.values())))
            found.append(call)
    return found[::-1]


def _is_known(name: str) -> bool:
    others = {"cat", "bmm", "native_layer_norm", "where", "pow", "clamp", "clamp_min", "clamp_max"}
    return name in {*UNARY, *BINARY, *COMPARE, *REDUCE, *PRODUCTS} | others


def _reader_is_elementwise(graph: Graph, t: Tensor) -> bool:
    """Whether a tensor is read by one operation that is elementwise, as it is, unbroadcast."""
    barred = {"cat", "bmm", "native_layer_norm", *REDUCE, *PRODUCTS}
    for call in graph.calls:
        if any(a is t for a in _tensors(call.args)):
            return call.name not in barred and call.out.shape == t.shape
    return False


def _memory(t: Tensor) -> int:
    """Return what is the same of two tensors that are views of the same memory."""
    return int(t.untyped_storage()._cdata)


def _tensors(args: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for a in args:
        if isinstance(a, Tensor):
            found.append(a)
        elif isinstance(a, list | tuple):
            found += _tensors(a)
    return found


def _dense(shape: Sequence[int]) -> list[int]:
    """Strides of a dense tensor."""
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


def _at(at: Sequence[str], strides: Sequence[int], offset: int = 0) -> str:
    """Return the place of an element in memory, as an expression."""
    parts = [str(offset)] if offset else []
    for i, stride in zip(at, strides, strict=True):
        if i != "0" and stride:
            parts.append(i if stride == 1 else f"{stride} * {i}")
    return " + ".join(parts) or "0"


def _power(exponent: Any) -> str:
    known = {2: "{0} * {0}", 3: "{0} * {0} * {0}", 0.5: "sqrtf({})", -1: "1.0f / {}"}
    if isinstance(exponent, Tensor):
        raise OstinatoError("export: a cell's step has a tensor for an exponent.")
    return known.get(exponent, f"powf({{}}, {number(exponent)})")


def number(value: float) -> str:
    """Return a number as a constant of C.

    >>> number(3), number(0.1)
    ('3.0f', '0.1f')
    """
    return f"{np.float32(value)!s}f"
