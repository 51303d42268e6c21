"""The same equations on fast paths, and which path serves a call.

- ``"reference"``: `scan`, plain PyTorch. Any cell, dtype and device, any number of derivatives.
- ``"torch"``: PyTorch's own fused operators (oneDNN on a CPU, cuDNN on CUDA). The standard cells,
  rows of one length.

Which path runs is chosen call by call, is written to the log ``ostinato.recurrence`` at level
DEBUG, and can be asked with `choose` and forced with `use_backend`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch
from torch import _VF, Tensor

from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import (
    Cell,
    GRUCell,
    GRUState,
    LSTMCell,
    LSTMState,
    RNNCell,
    RNNState,
    State,
    Weights,
)
from ostinato.recurrence.scan import scan

Backend = Literal["reference", "torch"]

_log = logging.getLogger("ostinato.recurrence")
_forced: ContextVar[Backend | None] = ContextVar("ostinato_backend", default=None)


@contextmanager
def use_backend(name: Backend | Literal["auto"]) -> Iterator[None]:
    """Serve every recurrent call inside the block by one path.

    Args:
        name: ``"reference"``, ``"torch"``, or ``"auto"`` for the fastest that applies. A call the
            named path cannot serve is an `OstinatoError`.

    Example:
        Second derivatives, which PyTorch's fused operators lack in float32:

        >>> import ostinato
        >>> layer = ostinato.LSTM(3, 4)
        >>> with use_backend("reference"):
        ...     ostinato.backend(layer, torch.randn(5, 2, 3))
        'reference'
    """
    if name != "auto" and name not in get_args(Backend):
        raise OstinatoError(
            f"use_backend({name!r}): expected 'auto' or one of {', '.join(get_args(Backend))}."
        )
    token = _forced.set(None if name == "auto" else name)
    try:
        yield
    finally:
        _forced.reset(token)


def is_fused_by_torch(cell: Cell) -> bool:
    """Whether PyTorch has a fused operator for this cell's equations."""
    if type(cell) is RNNCell:
        return cell.activation in ("tanh", "relu")
    if type(cell) is GRUCell:
        return cell.reset_after
    return type(cell) is LSTMCell


def choose(cells: Cell | tuple[Cell, ...], steps: int, *, padded: bool = False) -> Backend:
    """The path that serves a call.

    Args:
        cells: the cell, or all cells of a stack.
        steps: ``T``.
        padded: whether rows have unequal lengths.
    """
    cells = (cells,) if isinstance(cells, Cell) else cells
    able = steps > 0 and not padded and all(is_fused_by_torch(cell) for cell in cells)
    forced = _forced.get()
    if forced == "torch" and not able:
        raise OstinatoError(
            f"use_backend('torch'): PyTorch has no fused operator for {cells[0]!r} with T={steps}"
            f"{' and lengths' if padded else ''}; use 'auto' or 'reference'."
        )
    return "torch" if able and forced != "reference" else "reference"


def run(
    cell: Cell,
    w: Weights,
    x: Tensor,
    state: State,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """What `scan` computes, by the fastest path that serves the call."""
    backend = choose(cell, x.shape[0], padded=lengths is not None)
    _log.debug("%s: %s %s", backend, cell, tuple(x.shape))
    if backend == "reference":
        return scan(cell, w, x, state, lengths, reverse=reverse)
    y, state = _torch_layer(cell, w, x.flip(0) if reverse else x, state)
    return (y.flip(0) if reverse else y), state


def _torch_layer(cell: Cell, w: Weights, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One layer in one direction through PyTorch's fused operator; ``x`` is ``(T, B, I)``."""
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    rest = (cell.bias, 1, 0.0, torch.is_grad_enabled(), False, False)
    flat = [w[name] for name in cell.weight_shapes()]
    if isinstance(state, LSTMState):
        y, h, c = _VF.lstm(x, (state.h[None], state.c[None]), flat, *rest)
        return y, LSTMState(h[0], c[0])
    if isinstance(cell, RNNCell):
        operator = _VF.rnn_tanh if cell.activation == "tanh" else _VF.rnn_relu
        y, h = operator(x, state.h[None], flat, *rest)
        return y, RNNState(h[0])
    y, h = _VF.gru(x, state.h[None], flat, *rest)
    return y, GRUState(h[0])
