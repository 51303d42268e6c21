"""A C file as it is put together: constants, state, functions, and how much of each there is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ostinato.deploy.c_runtime import BLOCKS, HELPERS, Array, quantize
from ostinato.errors import OstinatoError

SIZES = {"float": 4, "int8_t": 1, "int16_t": 2, "uint16_t": 2, "int": 4}
"""Bytes of a number of each type."""


class Function:
    """A function of the file: its statements, and the arrays that it works in."""

    def __init__(self, source: Source, head: str) -> None:
        self.source, self.head = source, head
        self.lines: list[str] = []
        self.locals: list[str] = []
        self.bytes = 0

    def local(self, name: str, size: int, kind: str = "float") -> str:
        """Declare an array and return its name."""
        self.locals.append(f"{kind} {name}[{size}];")
        self.bytes += size * SIZES[kind]
        return name

    def add(self, *lines: str) -> None:
        """Add statements."""
        self.lines += lines

    def loop(self, size: int, *lines: str, i: str = "i") -> None:
        """Add a loop of ``size`` rounds over ``i``."""
        head = f"for (int {i} = 0; {i} < {size}; ++{i})"
        if len(lines) == 1:
            self.add(f"{head} {lines[0]}")
        else:
            self.add(f"{head} {{", *(f"    {line}" for line in lines), "}")

    def text(self) -> str:
        """Return the function in C."""
        body = "\n".join(f"    {line}" for line in [*self.locals, *self.lines])
        return f"{self.head}\n{{\n{body}\n}}\n"


@dataclass(frozen=True)
class Matrix:
    """A matrix ``(rows, columns)`` of constants in the file, or several of the same shape.

    With 8 bits, ``whole`` are its whole numbers and the scale of each row.
    """

    source: Source
    name: str
    count: int
    rows: int
    columns: int
    whole: tuple[NDArray[np.int8], Array] | None

    def add(self, f: Function, x: str, y: str, which: str = "") -> None:
        """Add ``y += W x``; with 8 bits, of the result of `quantized`.

        ``which`` is an expression of the matrix's number, where there are several.
        """
        size = self.rows * self.columns
        w = f"@{self.name}" + (f" + {which} * {size}" if which else "")
        if self.whole is None:
            f.add(self.source.named(f"@add({w}, {self.rows}, {x}, {self.columns}, {y});"))
            return
        scale = f"@{self.name}_scale" + (f" + {which} * {self.rows}" if which else "")
        q, unit = x.split()
        f.add(
            self.source.named(
                f"@add8({w}, {scale}, {self.rows}, {q}, {unit}, {self.columns}, {y});"
            )
        )


@dataclass
class Source:
    """The parts of a file, and of a state struct, whose names begin with a prefix.

    Args:
        prefix: a C identifier.
        int8: whether matrices have 8 bits.
    """

    prefix: str
    int8: bool = False
    tables: list[str] = field(default_factory=list)
    fields: list[tuple[str, int, str, float]] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    flash: int = 0
    products: int = 0  # multiply-adds of a step
    stack: int = 0
    exact: bool = True  # whether the reference with 8 bits has the same bits

    def named(self, text: str) -> str:
        """Return a text with the prefix in its places."""
        return text.replace("@", f"{self.prefix}_").replace("$", f"{self.prefix.upper()}_")

    def need(self, *names: str) -> None:
        """Have helpers in the file."""
        for name in names:
            self.helpers.add(name)
            self.need(*HELPERS[name].needs)

    def call(self, name: str) -> str:
        """Have a helper, and return its name."""
        self.need(name)
        return f"{self.prefix}_{name}"

    def function(self, head: str) -> Function:
        """Begin a function that `close` ends."""
        return Function(self, self.named(head))

    def close(self, function: Function) -> None:
        """Put a function that is complete into the file."""
        self.functions.append(function.text())
        self.stack = max(self.stack, function.bytes)

    def table(
        self, name: str, values: NDArray[np.generic], kind: str = "float", *, missing: bool = False
    ) -> str:
        """Define constants and return their name, without the prefix; NaN where ``missing``."""
        flat = np.asarray(values).ravel()
        if kind == "float":
            if not missing and not np.isfinite(flat).all():
                raise OstinatoError(f"export: {name} holds numbers that are not finite.")
            flat = flat.astype(np.float32)
            texts: Iterable[str] = ("NAN" if np.isnan(v) else f"{v!s}f" for v in flat)
        else:
            texts = (str(int(value)) for value in flat.tolist())
        self.tables.append(
            f"static const {kind} {self.prefix}_{name}[{flat.size}] = {{\n{wrapped(texts)}\n}};\n"
        )
        self.flash += flat.size * SIZES[kind]
        return name

    def state(self, name: str, size: int, kind: str = "float", initial: float = 0) -> str:
        """Add an array to the state, and return the expression of it."""
        self.fields.append((name, size, kind, initial))
        return f"s->{name}"

    def matrix(self, name: str, *weights: Array, steps: bool = True) -> Matrix:
        """Define a matrix, or several of the same shape, of ``(rows, columns)``.

        Those of every step count for the operations of a step.
        """
        rows, columns = weights[0].shape
        self.products += len(weights) * rows * columns * steps
        self.need("add8" if self.int8 else "add")
        if not self.int8:
            self.table(name, np.concatenate([blocks(w) for w in weights]))
            return Matrix(self, name, len(weights), rows, columns, None)
        pairs = [quantize(np.ascontiguousarray(w, np.float32)) for w in weights]
        whole = np.concatenate([q for q, _ in pairs])
        scale = np.concatenate([unit for _, unit in pairs])
        self.table(name, whole, "int8_t")
        self.table(f"{name}_scale", scale)
        return Matrix(self, name, len(weights), rows, columns, (whole, scale))

    def quantized(self, f: Function, x: str, size: int, name: str) -> str:
        """Have ``x`` as `Matrix.add` takes it: with 8 bits, quantized once, in local ``name``."""
        if not self.int8:
            return x
        f.local(name, size, "int16_t")
        quantize = self.named("@quantize")
        f.add(f"const float {name}_unit = {quantize}({x}, {size}, {name});")
        return f"{name} {name}_unit"

    def ram(self) -> int:
        """Bytes of the state."""
        return sum(size * SIZES[kind] for _, size, kind, _ in self.fields)


def blocks(w: Array) -> Array:
    """Return a matrix as ``add`` reads it: blocks of rows, each column by column."""
    parts, at = [], 0
    for size in BLOCKS:
        while len(w) - at >= size:
            parts.append(w[at : at + size])
            at += size
    return np.concatenate([part.T.ravel() for part in [*parts, w[at:]]])


def wrapped(texts: Iterable[str], width: int = 98) -> str:
    """Return texts with commas between, in lines."""
    lines: list[str] = []
    line: list[str] = []
    length = 0
    for text in texts:
        if line and length + len(text) + 2 > width:
            lines.append(" ".join(line))
            line, length = [], 0
        line.append(f"{text},")
        length += len(text) + 2
    return "\n".join([*lines, " ".join(line)])


def string(text: bytes) -> str:
    r"""Return bytes as a C string literal.

    >>> print(string("é?\n7".encode()))
    "\303\251\077\0127"
    """
    safe = set(b" !#$%&'()*+,-./0123456789:;<=>@[]^_`{|}~") | {*range(65, 91), *range(97, 123)}
    return '"' + "".join(chr(b) if b in safe else f"\\{b:03o}" for b in text) + '"'


def strings(name: str, texts: Sequence[bytes]) -> str:
    """Return the definition of an array of strings."""
    return f"const char *const {name}[{len(texts)}] = {{\n{wrapped(map(string, texts))}\n}};\n"
