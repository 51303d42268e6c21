"""Which path serves a call.

- ``"compiled"``: our own core, in C++. On a CPU, float32 and float64, the standard cells, those
  that are one of them with tied weights (see `Cell.standard_cell`) and those whose state enters
  linearly (see `LinearCell`), rows of any length; its gradients once. The results are the same to
  the last bit however a sequence is cut into chunks, whatever else is in the batch, and on any
  number of threads. Under autocast it computes in float32 and returns the type of autocast.
- ``"generated"``: any other cell whose step is made of known operations, compiled when it is first
  used by the C++ compiler of the system: see `generated`. On a CPU, float32 and float64; the same
  laws as for the core, under autocast too.
- ``"torch"``: PyTorch's own fused operators (cuDNN on CUDA). The standard cells, rows of one
  length.
- ``"reference"``: `scan`, plain PyTorch. Any cell, dtype and device, any number of derivatives.

The path is chosen call by call, is written to the log ``ostinato.recurrence`` at level DEBUG, and
can be queried with `choose` and forced with `use_backend`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ostinato.errors import OstinatoError, check_choice
from ostinato.recurrence.backends import compiled, diagonal, generated
from ostinato.recurrence.backends.torch import has_operator, run_operator
from ostinato.recurrence.cells import Cell, LinearCell, State, Trace, Weights
from ostinato.recurrence.scan import run_directions, run_segments

Backend = Literal["compiled", "generated", "torch", "reference"]

_log = logging.getLogger("ostinato.recurrence")
_forced: ContextVar[Backend | None] = ContextVar("ostinato_backend", default=None)


@contextmanager
def use_backend(name: Backend | Literal["auto"]) -> Iterator[None]:
    """Serve every recurrent call inside the block by one path.

    A function that `torch.compile` compiles keeps the path of the time when it was traced.

    Args:
        name: ``"compiled"``, ``"generated"``, ``"torch"``, ``"reference"``, or ``"auto"`` for the
            fastest that applies. A call the named path cannot serve is an `OstinatoError`.

    Example:
        >>> import ostinato
        >>> layer = ostinato.LSTM(3, 4)
        >>> with use_backend("torch"):
        ...     ostinato.backend(layer, torch.randn(5, 2, 3))
        'torch'
    """
    check_choice("use_backend: name", name, ("auto", *get_args(Backend)))
    token = _forced.set(None if name == "auto" else name)
    try:
        yield
    finally:
        _forced.reset(token)


@compiled.constant_in_graphs
def _forced_now() -> Backend | None:
    return _forced.get()


def choose(
    cells: Cell | tuple[Cell, ...], x: Tensor, *, steps: int | None = None, padded: bool = False
) -> Backend:
    """Return the path that serves a call.

    Args:
        cells: the cell, or all cells of a stack.
        x: the input, ``(T, B, I)``, or any tensor of its dtype and device.
        steps: ``T``, if not given by ``x``.
        padded: whether rows have unequal lengths.

    Raises:
        OstinatoError: if `use_backend` forces a path that cannot serve it.
    """
    cells = (cells,) if isinstance(cells, Cell) else cells
    forced = _forced_now()
    if forced == "reference":
        return "reference"
    lacks = diagonal.lacks(cells, x, torch.is_autocast_enabled("cpu"))
    if not lacks and forced not in ("torch", "generated"):
        return "compiled"
    if forced == "compiled":
        raise OstinatoError(
            f"use_backend('compiled'): the compiled core cannot serve {cells[0]!r}: {lacks}; "
            "use 'auto' or 'reference'."
        )
    steps = x.shape[0] if steps is None else steps
    able = steps > 0 and not padded and all(has_operator(cell) for cell in cells)
    if forced is None and compiled.is_transformed():
        return "reference"
    if forced == "generated" or (forced is None and not able):
        lacks = generated.lacks(cells, x, torch.is_autocast_enabled("cpu"))
        if not lacks:
            return "generated"
        if forced == "generated":
            raise OstinatoError(
                f"use_backend('generated'): {cells[0]!r} cannot be compiled: {lacks}; use 'auto' "
                "or 'reference'."
            )
        if not torch.compiler.is_compiling():
            generated.warn(cells, x, lacks)
    if forced == "torch" and not able:
        raise OstinatoError(
            f"use_backend('torch'): PyTorch has no fused operator for {cells[0]!r} with "
            f"T={steps}{' and lengths' if padded else ''}; use 'auto' or 'reference'."
        )
    return "torch" if able else "reference"


def run(
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None = None,
    lengths: Tensor | None = None,
    tokens: Tensor | None = None,
    traces: list[Trace] | None = None,
    checkpoint_every: int = 0,
) -> tuple[Tensor, State]:
    """Run one layer, in one direction or both, by the fastest path that serves the call.

    Args:
        cell: the equations.
        weights: those of each direction; the second direction reads backward.
        x: input ``(T, B, I)``.
        state: tensors ``(directions, B, size)``; zeros when None.
        lengths: as in `scan`.
        tokens: which row of ``x``, then a table ``(V, I)``, each step takes; ``(T, B)`` integers.
        traces: a list to which a `Trace` of each direction is added. PyTorch's own operators have
            none: the reference serves instead.
        checkpoint_every: see `Recurrent`; 0 to keep all steps, as traces do.

    Returns:
        outputs ``(T, B, directions * size)`` and the state after each row's last step.
    """
    T, B, *_ = (x if tokens is None else tokens).shape
    backend = choose(cell, x, steps=T, padded=lengths is not None)
    if tokens is not None:  # the core alone multiplies tables, where it pays
        graph = compiled.in_graph(x)
        whole = backend == "compiled" and not isinstance(cell, LinearCell)
        if not whole or graph or 2 * x.shape[0] > tokens.numel():
            if backend == "compiled" or not graph:
                tokens = cast(Tensor, compiled.kept(tokens, graph))
            x, tokens = embedding(tokens, x), None
    if not torch.compiler.is_compiling() and _log.isEnabledFor(logging.DEBUG):
        _log.debug("%s: %s %s", backend, cell, (T, B, cell.input_size))
    if traces is not None:
        checkpoint_every = 0
        backend = "reference" if backend == "torch" else backend
    standard = isinstance(cell, LinearCell) or type(cell) in compiled.STANDARD
    if backend in ("compiled", "torch") and not standard:
        weights, cell = [cell.standard_weights(w) for w in weights], cell.standard_cell()
    if backend == "compiled" and not isinstance(cell, LinearCell):
        return compiled.run(cell, weights, x, state, lengths, tokens, traces, checkpoint_every)
    path = _PATHS[backend]
    own = backend in ("compiled", "generated")
    if own and torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        path = partial(_in_float32, path)
    if checkpoint_every and T and torch.is_grad_enabled() and not compiled.is_transformed():
        return run_segments(path, cell, weights, x, state, lengths, checkpoint_every)
    return path(cell, weights, x, state, lengths, traces)


def _in_float32(
    path: Callable[..., tuple[Tensor, State]],
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    traces: list[Trace] | None = None,
) -> tuple[Tensor, State]:
    """Run a layer under autocast in float32, and return the type of autocast."""
    lower = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        weights = [{name: t.float() for name, t in w.items()} for w in weights]
        state = None if state is None else cell.state_type(*(s.float() for s in state))
        y, last = path(cell, weights, x.float(), state, lengths, traces)
    return y.to(lower), cell.state_type(*(s.to(lower) for s in last))


_PATHS: dict[Backend, Callable[..., tuple[Tensor, State]]] = {
    "compiled": diagonal.run,  # the cells that `compiled.run` has not
    "generated": generated.run,
    "torch": run_operator,
    "reference": run_directions,
}
