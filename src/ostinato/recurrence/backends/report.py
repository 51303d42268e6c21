"""What became of a cell: `compile_cell`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ostinato.errors import OstinatoError
from ostinato.recurrence.backends import generated
from ostinato.recurrence.backends.dispatch import run, use_backend
from ostinato.recurrence.cells import Cell

STEPS, ROWS = 100, 32


@dataclass(frozen=True)
class CompiledCell:
    """What became of a cell; printed, a summary.

    Attributes:
        cell: the cell.
        reason: why it runs on the reference path; empty if it is compiled.
        operations: names of the ATen operations of a step and its gradient.
        kernels: C++ functions between the products of a step, forward and backward.
        products: products with weights, forward and backward.
        source: their C++.
        seconds: that tracing and compiling took, or finding the result in the cache.
        training_step: seconds of forward and backward over 100 steps of 32 rows.
        reference_step: the same on the reference path.
    """

    cell: Cell
    reason: str
    operations: tuple[str, ...] = ()
    kernels: int = 0
    products: int = 0
    source: str = ""
    seconds: float = 0.0
    training_step: float = 0.0
    reference_step: float = 0.0

    @property
    def speedup(self) -> float:
        """How many times as fast as the reference path it trains; 1 if it is not compiled."""
        return self.reference_step / self.training_step if self.training_step else 1.0

    def __str__(self) -> str:
        if self.reason:
            return f"{self.cell}\n  runs on the reference path: {self.reason}"
        return (
            f"{self.cell}\n"
            f"  operations  {', '.join(self.operations)}\n"
            f"  compiled    {self.kernels} kernels, {self.products} products, "
            f"in {self.seconds:.1f} s\n"
            f"  trains on   {STEPS} steps x {ROWS} rows in {1e3 * self.training_step:.1f} ms, "
            f"the reference path in {1e3 * self.reference_step:.0f} ms: "
            f"{self.speedup:.1f} times as fast"
        )


def compile_cell(cell: Cell, dtype: torch.dtype = torch.float32) -> CompiledCell:
    """Compile a cell, as its first use would, and tell what became of it.

    Args:
        cell: the cell, with its sizes.
        dtype: float32 or float64.

    Example:
        >>> from ostinato.cells import PeepholeLSTMCell
        >>> found = compile_cell(PeepholeLSTMCell(8, 32))
        >>> print(found)                                                # doctest: +SKIP
        >>> found.source[:10]                                           # doctest: +SKIP
    """
    if not isinstance(cell, Cell):
        raise OstinatoError(f"compile_cell: cell is a {type(cell).__name__}; expected a Cell.")
    if dtype not in (torch.float32, torch.float64):
        raise OstinatoError(f"compile_cell: dtype={dtype}; expected torch.float32 or float64.")
    found = generated.find(cell, dtype)
    if isinstance(found, str):
        return CompiledCell(cell, found)
    written = found.written
    w = {
        name: torch.empty(shape, dtype=dtype).uniform_(-0.1, 0.1).requires_grad_()
        for name, shape in cell.weight_shapes().items()
    }
    x = torch.randn(STEPS, ROWS, cell.input_size, dtype=dtype)
    times = {path: median(_seconds(cell, w, x, path)) for path in ("generated", "reference")}
    return CompiledCell(
        cell,
        "",
        tuple(written.operation_names),
        written.kernels,
        len(written.matrices) // 6,
        written.source,
        found.seconds,
        times["generated"],
        times["reference"],
    )


def _seconds(cell: Cell, w: dict[str, Tensor], x: Tensor, path: str) -> list[float]:
    """Time a few training steps, behind one that is not counted."""
    times: list[float] = []
    with use_backend(path):  # type: ignore[arg-type]
        for _ in range(4):
            start = time.perf_counter()
            torch.autograd.backward(run(cell, [w], x)[0].sum())
            times.append(time.perf_counter() - start)
    return times[1:]
