"""The one engine: a cell run over a sequence, in plain PyTorch.

Depth, direction, streaming and truncated back-propagation are all written over `scan`. It takes
any cell, any floating dtype and any device, and is differentiable any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ostinato.recurrence.cells import Cell, LinearCell, MLSTMCell, State, Tensors, Trace, Weights
from ostinato.recurrence.diagonal import mask_of as mask_of
from ostinato.recurrence.diagonal import scan_linear


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
            are at the positions of their inputs.
        observe: called in each step with the projected input ``(B, ...)``, the state before and the
            state after.

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
    if not T:
        return x.new_zeros(0, B, cell.output_size), state
    running = None if lengths is None else mask_of(lengths, T)  # (T, B, 1)
    if running is not None:
        x = x.masked_fill(~running, 0.0)
    if reverse:
        x = reverse_rows(x, lengths)
    if isinstance(cell, LinearCell) and observe is None:
        y, state = scan_linear(cell, w, x, state, lengths)
    elif isinstance(cell, MLSTMCell) and observe is None:
        y, state = cell.scan(w, x, state, running)
    else:
        outputs = []
        for t, x_t in enumerate(cell.project(w, x).unbind(0)):
            new = cell.step(w, x_t, state)
            if running is not None:
                new = cell.state_type(
                    *(torch.where(running[t], n, s) for n, s in zip(new, state, strict=True))
                )
            outputs.append(new.h)
            if observe is not None:
                observe(x_t, state, new)
            state = new
        y = torch.stack(outputs)
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
    """Run `scan`, and return the gates and states of every step as well."""
    T, gates_type = x.shape[0], cell.gates_type
    gates: list[Tensors] = []
    states: list[State] = []

    def observe(x_t: Tensor, before: State, after: State) -> None:
        states.append(after)
        if gates_type is not None:
            gates.append(cell.gates(w, x_t, before))

    def stacked(steps: Sequence[Tensors]) -> list[Tensor]:
        tensors = [torch.stack(parts).detach()[:T] for parts in zip(*steps, strict=True)]
        if lengths is not None:
            running = mask_of(lengths, T)
            tensors = [torch.where(running, each, 0.0) for each in tensors]
        return [reverse_rows(each, lengths) for each in tensors] if reverse else tensors

    y, last = scan(cell, w, x, state, lengths, reverse=reverse, observe=observe)
    if not states:  # T is 0: a step that is removed below gives the shapes
        scan(cell, w, x.new_zeros(1, *x.shape[1:]), last, observe=observe)
    found = None if gates_type is None else gates_type(*stacked(gates))
    return y, last, Trace(found, cell.state_type(*stacked(states)))


def run_directions(
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    traces: list[Trace] | None = None,
    each: Callable[..., tuple[Tensor, State]] | None = None,
) -> tuple[Tensor, State]:
    """Run a cell in each direction; arguments and results as those of `backends.run`.

    A direction is run by ``each(cell, w, x, state, lengths, reverse, traces)``, if it is given.
    """
    outputs: list[Tensor] = []
    lasts: list[State] = []
    for i, w in enumerate(weights):
        before = None if state is None else cell.state_type(*(s[i] for s in state))
        y, last = (each or _run_direction)(cell, w, x, before, lengths, i == 1, traces)
        outputs.append(y)
        lasts.append(last)
    joined = cell.state_type(*(torch.stack(parts) for parts in zip(*lasts, strict=True)))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1), joined


def _run_direction(
    cell: Cell,
    w: Weights,
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    reverse: bool,
    traces: list[Trace] | None,
) -> tuple[Tensor, State]:
    if traces is None:
        return scan(cell, w, x, state, lengths, reverse=reverse)
    y, last, seen = trace(cell, w, x, state, lengths, reverse=reverse)
    traces.append(seen)
    return y, last


def run_segments(
    run: Callable[..., tuple[Tensor, State]],
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    checkpoint_every: int,
) -> tuple[Tensor, State]:
    """Call ``run``, such as `run_directions`, on segments that backward computes again."""
    outputs: list[Tensor] = []
    lasts: list[State] = []
    for i, w in enumerate(weights):
        steps = reverse_rows(x, lengths) if i == 1 else x
        last = None if state is None else cell.state_type(*(s[i : i + 1] for s in state))
        parts: list[Tensor] = []
        for t, part in enumerate(torch.split(steps, checkpoint_every)):
            left = None if lengths is None else (lengths - t * checkpoint_every).clamp(0, len(part))
            y, last = checkpoint(run, cell, [w], part, last, left, use_reentrant=False)
            parts.append(y)
        assert last is not None  # there are steps
        y = torch.cat(parts)
        outputs.append(reverse_rows(y, lengths) if i == 1 else y)
        lasts.append(last)
    joined = cell.state_type(*(torch.cat(each) for each in zip(*lasts, strict=True)))
    return torch.cat(outputs, dim=-1), joined


def reverse_rows(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Reverse each row's own steps of ``x (T, B, ...)``, its padding left in place."""
    if lengths is None:
        return x.flip(0)
    t = torch.arange(x.shape[0], device=x.device)[:, None]
    source = torch.where(t < lengths, lengths - 1 - t, t)  # (T, B)
    return x[source, torch.arange(x.shape[1], device=x.device)]
