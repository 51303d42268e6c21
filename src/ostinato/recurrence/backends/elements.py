"""One step of a linear cell as products and elements that the core runs itself, for streams.

`scan_linear` runs for one step of one row on tensors that hold, in place of numbers, where these
will stand. Moving numbers about moves such addresses; a function of them becomes an element of a
program (see cpp/program.hpp); what depends on weights alone is computed. So the equations stand in
one place, and a stream computes what the layer computes for a sequence, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ostinato.errors import OstinatoError
from ostinato.recurrence.backends.core import core
from ostinato.recurrence.cells import Functions, LinearCell, Weights
from ostinato.recurrence.diagonal import scan_linear

_X, _LINE, _SCRATCH, _BEFORE, _VECTORS = (base << 40 for base in (0, 1, 4, 5, 10))
"""Bases of program.hpp; an address is a base and a place there."""

ELEMENT_FUNCTIONS = (
    "copy", "add", "subtract", "multiply", "divide", "fma", "fnma", "maximum", "sqrt",
    "negate", "sigmoid", "tanh", "exp", "softplus", "silu",
    "sigmoid_slope", "tanh_slope", "softplus_slope", "silu_slope", "sqrt_slope", "at_least",
)  # fmt: skip
"""As ElementFunction of program.hpp numbers them."""

_MOVES = {
    "__getitem__", "cat", "chunk", "clone", "concat", "contiguous", "detach", "expand", "expand_as",
    "flatten", "flip", "movedim", "narrow", "permute", "repeat", "reshape", "roll", "select",
    "split", "squeeze", "stack", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view",
}  # fmt: skip
_SHAPES = {"__get__", "__len__", "dim", "numel", "size"}
_ARITHMETIC = {
    "add": "add", "radd": "add", "sub": "subtract", "mul": "multiply", "rmul": "multiply",
    "div": "divide", "truediv": "divide", "neg": "negate", "maximum": "maximum",
    "clamp_min": "maximum",
}  # fmt: skip


class CellProgram(NamedTuple):
    """A program of the core, and the tensors that it reads."""

    program: Any
    tensors: tuple[Tensor, ...]


def program_of(cell: LinearCell, w: Weights) -> CellProgram:
    """Return a step of a cell as a program.

    Raises:
        OstinatoError: where the cell computes with something that the core has not.
    """
    tape = _Tape(cell, next(iter(w.values())).dtype)
    sizes, places, length = cell.state_sizes, [], 0
    for n in sizes:
        places.append(length)
        length += _padded(n)
    x = tape.numbers(_X + torch.arange(cell.input_size).view(1, 1, -1))
    before = [
        tape.numbers(_BEFORE + at + torch.arange(n).view(1, -1))
        for at, n in zip(places, sizes, strict=True)
    ]
    with torch.no_grad():
        _, after = scan_linear(
            cell, w, x, cell.state_type(*before), None, tape.recurrence, tape.selection,
            tape.functions(),
        )  # fmt: skip
        for at, n, value in zip(places, sizes, after, strict=True):
            tape.write("copy", [value], _LINE + at + torch.arange(n).view(1, -1))
    table = [
        cell.input_size, len(sizes), 0, length, 0, length, 0, 0, tape.scratch, 0, tape.vectors,
    ]  # fmt: skip
    states = [n for pair in zip(sizes, places, strict=True) for n in pair]
    program = core.Program(
        tape.dtype == torch.float64, table, states, [[], tape.operations, [], []], tape.matrices,
        tape.copies, [], 0.0, [], tape.elements,
    )  # fmt: skip
    return CellProgram(program, tuple(tape.tensors))


def _padded(n: int) -> int:
    """Return n rounded up to whole lines of the cache."""
    return -(-n // 16) * 16


class _Numbers(Tensor):
    """A tensor of which it is known where each number will stand."""

    addresses: Tensor
    tape: _Tape

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tape = next(t.tape for t in tree_leaves(args) if isinstance(t, cls))
        with torch._C.DisableTorchFunctionSubclass():
            return tape.run(function, args, kwargs or {})


class _Tape:
    """What a step does, as the tables of a program, and the memory that it needs."""

    def __init__(self, cell: LinearCell, dtype: torch.dtype) -> None:
        self.cell, self.dtype = cell, dtype
        self.scratch = self.vectors = 0
        self.operations: list[int] = []
        self.elements: list[int] = []
        self.matrices: list[int] = []
        self.copies: list[int] = []  # of tensors to vectors
        self.tensors: list[Tensor] = []
        # Where constants stand, and they themselves, so that no id is given twice.
        self._constants: dict[object, tuple[int, Any]] = {}

    def numbers(self, addresses: Tensor) -> _Numbers:
        with torch._C.DisableTorchFunctionSubclass():
            made = torch.empty(addresses.shape, dtype=self.dtype).as_subclass(_Numbers)
            made.addresses, made.tape = addresses, self
        return made

    def functions(self) -> Functions:
        """Return what the cell computes with: notes of it."""
        names = [name for name in Functions._fields if name in ELEMENT_FUNCTIONS]
        noted = {name: partial(self._function, name) for name in names}
        return Functions(linear=self._product, convolve=self._convolution, **noted)

    def run(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do what a function of PyTorch does, and return its result."""
        name = function.__name__
        if name in _SHAPES:
            return function(*args, **kwargs)
        if name in _MOVES:
            moved = function(*tree_map_only(Tensor, self.addresses, args), **kwargs)
            return tree_map_only(Tensor, self.numbers, moved)
        name = name.strip("_")
        if name in _ARITHMETIC and not kwargs:
            return self.write(_ARITHMETIC[name], args)
        if name == "rsub" and not kwargs:
            return self.write("subtract", args[::-1])
        if name in ("reciprocal", "rdiv", "rtruediv"):
            inverse = self.write("divide", [1.0, args[0]])
            return self.write("multiply", [inverse, args[1]]) if len(args) > 1 else inverse
        if name == "square":
            return self.write("multiply", [args[0], args[0]])
        raise OstinatoError(
            f"Stream: {self.cell} computes with {name}; a linear cell can stream that computes "
            "with +, -, *, /, maxima, and the functions that it is given."
        )

    def addresses(self, value: Any) -> Tensor:
        """Return where numbers stand: constants among the vectors."""
        if isinstance(value, _Numbers):
            return value.addresses
        is_tensor = isinstance(value, Tensor)
        key = ("tensor", id(value)) if is_tensor else float(value)
        tensor = value if is_tensor else torch.tensor(value, dtype=self.dtype)
        n = tensor.numel()
        if key not in self._constants:
            own = tensor.detach().to(self.dtype).contiguous()
            self.copies += [self._tensor(own), n, self.vectors]
            self._constants[key] = self.vectors, value
            self.vectors += _padded(n)
        return _VECTORS + self._constants[key][0] + torch.arange(n).view(tensor.shape)

    def write(self, function: str, args: Sequence[Any], to: Tensor | None = None) -> _Numbers:
        """Compute a function, into new memory if no other is given."""
        given = map(self.addresses, args)
        sources = torch.broadcast_tensors(*given)  # type: ignore[no-untyped-call]
        to = self._room(sources[0].shape) if to is None else to
        flat = np.stack([t.reshape(-1).numpy() for t in (to, *sources)])
        for first, last in _runs(flat):
            self.operations += [0, -1 - len(self.elements) // 13, 0, 0, 0, 0, -1]
            self.elements += [
                ELEMENT_FUNCTIONS.index(function),
                last - first,
                *_place(flat[0, first]),
            ]
            for row in range(1, 4):
                source = flat[min(row, len(sources)), first:last]
                self.elements += [*_place(source[0]), int(source[-1] > source[0])]
        return self.numbers(to)

    def _room(self, shape: Sequence[int]) -> Tensor:
        at, n = self.scratch, prod(shape)
        self.scratch += _padded(n)
        return _SCRATCH + at + torch.arange(n).view(*shape)

    def _tensor(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    # What a cell computes with, in the order of the core.

    def _function(self, name: str, x: Tensor) -> Tensor:
        return self.write(name, [x])

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        at = self.addresses(x).flatten()
        if bool((at.diff() != 1).any()):
            at = self.write("copy", [self.numbers(at)]).addresses
        start = -1 if bias is None else int(self.addresses(bias)[0]) - _VECTORS
        n, k = weight.shape
        self.matrices += [self._tensor(weight.detach().contiguous()), 0, k, n, 1, k]
        y = self._room((*x.shape[:-1], n))
        places = *_place(int(at[0])), *_place(int(y.flatten()[0]))
        self.operations += [0, len(self.matrices) // 6 - 1, *places, start]
        return self.numbers(y)

    def _convolution(self, seen: Sequence[Tensor], kernel: Tensor, bias: Tensor | None) -> Tensor:
        """As `convolution` of cpp/scan.hpp."""
        y = self.addresses(0.0 if bias is None else bias).expand(kernel.shape[1])
        for kernel_j, x_j in zip(self.addresses(kernel), seen, strict=True):
            y = self._fma(kernel_j, self.addresses(x_j).flatten()[: len(y)], y)
        return self.numbers(y.view(1, 1, -1))

    def recurrence(
        self, a: Tensor, b: Tensor, h0: Tensor, lengths: Tensor | None = None,
        resets: Tensor | None = None, is_complex: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """As `multiply_add` of cpp/scan.hpp."""
        a, b, h0 = (self.addresses(t).reshape(1, -1) for t in (a, b, h0))
        if not is_complex:
            h = self._fma(a, h0, b)
        else:
            (p, q), (r, s), (t, u) = (x.chunk(2, dim=-1) for x in (a, h0, b))
            real = self._fma(p, r, self._fma(q, s, t, negated=True))
            h = torch.cat([real, self._fma(p, s, self._fma(q, r, u))], dim=-1)
        return self.numbers(h[None]), self.numbers(h)

    def selection(
        self, d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, c0: Tensor,
        lengths: Tensor | None = None, resets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """As `select_forward` of cpp/selection.hpp."""
        d, v, B, C = (self.addresses(t).flatten() for t in (d, v, B, C))
        A = self.addresses(A)
        x = self._multiply(d, v)
        a = self.write("exp", [self.numbers(self._multiply(d.expand_as(A), A))]).addresses
        b = self._multiply(x.expand_as(A), B[:, None].expand_as(A))
        c = self._fma(a, self.addresses(c0).view(A.shape), b)
        y = self.addresses(0.0).expand_as(d)
        if D is not None:
            y = self._multiply(self.addresses(D), v)
        for c_n, C_n in zip(c, C, strict=True):
            y = self._fma(C_n.expand_as(c_n), c_n, y)
        return self.numbers(y.view(1, 1, -1)), self.numbers(c.view(1, -1))

    def _fma(self, a: Tensor, b: Tensor, c: Tensor, negated: bool = False) -> Tensor:
        """Compute ±a * b + c, of and to addresses."""
        each = [self.numbers(t) for t in (a, b, c)]
        return self.write("fnma" if negated else "fma", each).addresses

    def _multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return self.write("multiply", [self.numbers(a), self.numbers(b)]).addresses


def _place(address: int) -> tuple[int, int]:
    """Return base and place of an address."""
    return int(address) >> 40, int(address) & ((1 << 40) - 1)


def _runs(addresses: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut columns of ``(1 + sources, n)`` where a row does not go on by 1, or a source by 0."""
    steps, n, first = np.diff(addresses, axis=1), addresses.shape[1], 0
    goes_on = (steps[0] == 1) & ((steps == 0) | (steps == 1)).all(0)
    turns = np.append(1 + np.flatnonzero((steps[:, 1:] != steps[:, :-1]).any(0)), n - 1)
    while first < n:
        last = first
        if first < n - 1 and goes_on[first]:
            last = int(turns[np.searchsorted(turns, first, side="right")])
        yield first, last + 1
        first = last + 1
