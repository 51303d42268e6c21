"""PyTorch's own fused operators."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import _VF, Tensor

from ostinato.recurrence.cells import Cell, GRUCell, LSTMCell, LSTMState, RNNCell, State, Weights


def has_operator(cell: Cell) -> bool:
    """Return whether PyTorch has a fused operator for this cell's equations."""
    cell = cell.standard_cell()
    if type(cell) is RNNCell:
        return cell.activation in ("tanh", "relu")
    if type(cell) is GRUCell:
        return cell.reset_after
    return type(cell) is LSTMCell


def run_operator(
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None = None,
    traces: object = None,
) -> tuple[Tensor, State]:
    """Run one layer of a standard cell, as `backends.run` does; without lengths and traces."""
    assert lengths is None and traces is None
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    rest = (cell.bias, 1, 0.0, torch.is_grad_enabled(), len(weights) == 2, False)
    flat = [w[name] for w in weights for name in cell.weight_shapes()]
    if state is None:
        zeros = cell.zero_state(x.shape[1], like=x)
        state = cell.state_type(*(s.expand(len(weights), -1, -1).contiguous() for s in zeros))
    eager = x.is_cuda and not torch.compiler.is_compiling()
    with warnings.catch_warnings() if eager else nullcontext():
        if eager:  # weights of one layer of a stack, or tied ones, are no one block: cuDNN copies
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contig")
        if isinstance(state, LSTMState):
            y, h, c = _VF.lstm(x, (state.h, state.c), flat, *rest)
            return y, LSTMState(h, c)
        operator = _VF.gru
        if isinstance(cell, RNNCell):
            operator = _VF.rnn_tanh if cell.activation == "tanh" else _VF.rnn_relu
        y, h = operator(x, state.h, flat, *rest)
        return y, cell.state_type(h)
