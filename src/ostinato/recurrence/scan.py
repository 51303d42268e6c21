"""The one engine: a cell run over a sequence, in plain PyTorch.

Depth, direction, streaming and truncated back-propagation are all written over `scan`. It takes
any cell, any floating dtype and any device, and is differentiable any number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ostinato.recurrence.cells import Cell, State, Trace, Weights


def scan(
    cell: Cell,
    w: Weights,
    x: Tensor,
    state: State | None = None,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
    observe: Callable[[Tensor, State, State], None] | None = None,
) -> tuple[Tensor, State]:
    """Run ``cell`` over the steps of ``x``.

    Args:
        cell: the equations.
        w: the cell's weights by name.
        x: input ``(T, B, I)``.
        state: the state before the first step, tensors ``(B, size)``; zeros when None.
        lengths: steps of each row, ``(B,)`` integers from 0 to ``T``. A step at or beyond its row's
            length is padding: it copies the state through, its output is 0, and nothing of ``x``
            there, NaN included, reaches an output or a gradient.
        reverse: read each row from its last step (by its own length) to its first; the outputs
            stand where their inputs stand.
        observe: called in each step with what it took, the projected input ``(B, ...)`` and the
            state before, and with the state after.

    Returns:
        outputs ``(T, B, cell.output_size)`` and the state after each row's last step.

    Example:
        >>> from ostinato.recurrence.cells import RNNCell
        >>> cell = RNNCell(1, 1, bias=False, activation="identity")
        >>> w = {"weight_ih": torch.ones(1, 1), "weight_hh": torch.ones(1, 1)}
        >>> outputs, state = scan(cell, w, torch.ones(3, 1, 1))     # a running sum
        >>> outputs.flatten().tolist(), state.h.item()
        ([1.0, 2.0, 3.0], 3.0)
    """
    T, B = x.shape[:2]
    state = cell.zero_state(B, like=x) if state is None else state
    running = None if lengths is None else mask_of(lengths, T)  # (T, B, 1)
    if running is not None:
        x = x.masked_fill(~running, 0.0)
    if reverse:
        x = reverse_rows(x, lengths)
    outputs = []
    for t, x_t in enumerate(cell.project(w, x).unbind(0)):
        new = cell.step(w, x_t, state)
        if running is not None:
            new = cell.state_type(
                *(torch.where(running[t], n, s) for n, s in zip(new, state, strict=True))  # type: ignore[call-overload]
            )
        outputs.append(new.h)
        if observe is not None:
            observe(x_t, state, new)
        state = new
    if not outputs:
        return x.new_zeros(0, B, cell.output_size), state
    y = torch.stack(outputs)  # (T, B, H)
    if running is not None:
        y = torch.where(running, y, 0.0)
    return (reverse_rows(y, lengths) if reverse else y), state


def trace(
    cell: Cell,
    w: Weights,
    x: Tensor,
    state: State | None = None,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, State, Trace]:
    """What `scan` returns, and every gate and state on the way.

    Example:
        >>> from ostinato.recurrence.cells import GRUCell
        >>> cell = GRUCell(3, 4)
        >>> w = {name: torch.zeros(shape) for name, shape in cell.weight_shapes().items()}
        >>> _, _, seen = trace(cell, w, torch.ones(5, 2, 3))
        >>> seen.gates.z.shape, seen.gates.z.unique().item()
        (torch.Size([5, 2, 4]), 0.5)
    """
    gates: list[Any] = []
    states: list[Any] = []

    def observe(x_t: Tensor, before: State, after: State) -> None:
        states.append(after)
        if cell.gates_type is not None:
            gates.append(cast(Any, cell).gates(w, x_t, before))

    y, last = scan(cell, w, x, state, lengths, reverse=reverse, observe=observe)

    def stacked(steps: list[Any]) -> Any:
        """Named tuples of ``(B, size)`` as one of ``(T, B, size)``."""
        tensors = [torch.stack(parts).detach() for parts in zip(*steps, strict=True)]
        if lengths is not None:
            running = mask_of(lengths, len(steps))
            tensors = [torch.where(running, each, 0.0) for each in tensors]
        if reverse:
            tensors = [reverse_rows(each, lengths) for each in tensors]
        return type(steps[0])(*tensors)

    if not states:  # no steps: shapes are all there is to see
        B, H = x.shape[1], cell.hidden_size
        kind = cell.gates_type
        nothing = None if kind is None else kind(*[x.new_zeros(0, B, H)] * len(kind._fields))
        sizes = cell.state_sizes
        return y, last, Trace(nothing, cell.state_type(*(x.new_zeros(0, B, n) for n in sizes)))
    return y, last, Trace(stacked(gates) if gates else None, cast(State, stacked(states)))


def mask_of(lengths: Tensor, T: int) -> Tensor:
    """``(T, B, 1)`` booleans: True where a row still has a step."""
    return (torch.arange(T, device=lengths.device)[:, None] < lengths)[..., None]


def reverse_rows(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """``x (T, B, ...)`` with each row's own steps in reverse order and its padding left in place.

    >>> reverse_rows(torch.tensor([[1, 1], [2, 2], [3, 0]]), torch.tensor([3, 2])).T.tolist()
    [[3, 2, 1], [2, 1, 0]]
    """
    if lengths is None:
        return x.flip(0)
    t = torch.arange(x.shape[0], device=x.device)[:, None]
    source = torch.where(t < lengths, lengths - 1 - t, t)  # (T, B)
    return x[source, torch.arange(x.shape[1], device=x.device)]
