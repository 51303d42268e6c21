"""Linear recurrences, h_t = a_t * h_(t-1) + b_t, in plain PyTorch, and the cells that are one."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ostinato.recurrence.cells import (
    PLAIN,
    Functions,
    LinearCell,
    Selection,
    State,
    Trace,
    Weights,
    Window,
    conjugate,
    times,
)


class Recurrence(Protocol):
    """A way to compute `plain_recurrence`."""

    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        h0: Tensor,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        is_complex: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return h of every step, 0 past a row's length, and h after each row's last step."""


class SelectiveScan(Protocol):
    """A way to compute `plain_selection`."""

    def __call__(
        self,
        d: Tensor,
        v: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        c0: Tensor,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return y of every step, 0 past a row's length, and c after each row's last step."""


def plain_recurrence(
    a: Tensor,
    b: Tensor,
    h0: Tensor,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    is_complex: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = a_t * h_(t-1) + b_t, differentiable any number of times.

    Args:
        a: ``(T, B, H)``, or ``(H,)`` for all steps.
        b: ``(T, B, H)``.
        h0: ``(B, H)``.
        lengths: steps of each row, ``(B,)``.
        resets: steps that start from 0, booleans ``(T, B)``.
        is_complex: whether the last axes are pairs, the real parts first.
    """
    a = a.expand_as(b)
    if resets is not None:
        a = a.masked_fill(resets[..., None], 0.0)
    if lengths is None:
        y = _recurrence(a, b, h0, is_complex)
        return y, y[-1] if len(y) else h0
    running = mask_of(lengths, len(b))
    a = torch.where(running, a, _one(a, is_complex))
    y = _recurrence(a, b.masked_fill(~running, 0.0), h0, is_complex)
    return torch.where(running, y, 0.0), y[-1] if len(y) else h0


def plain_selection(
    d: Tensor,
    v: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    c0: Tensor,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute c_t = exp(d A) c_(t-1) + B (d v), y_t = C c_t + D v, differentiable at will.

    Args:
        d: ``(T, B, E)``.
        v: ``(T, B, E)``.
        A: ``(N, E)``.
        B: ``(T, B, N)``.
        C: ``(T, B, N)``.
        D: ``(E,)``; zeros when None.
        c0: ``(B, N E)``.
        lengths: steps of each row, ``(B,)``.
        resets: steps that start from 0, booleans ``(T, B)``.
    """
    if lengths is not None:
        running = mask_of(lengths, len(d))
        d, v, B, C = (torch.where(running, t, 0.0) for t in (d, v, B, C))
    steps = Selection(d, v, A, B, C, D)
    c, c_n = plain_recurrence(*steps.factors(), c0, lengths, resets)
    return steps.output(c), c_n


def recurrence_gradients(
    a: Tensor,
    h0: Tensor,
    h: Tensor,
    dh: Tensor | None,
    dh_n: Tensor | None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    is_complex: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b and h0 as differentiable functions of all that is given.

    d_t = dh_t + conj(a_(t+1)) d_(t+1) is the gradient of b_t: a recurrence, from the last step.
    """
    factors, T = a.expand_as(h), len(h)
    d = torch.zeros_like(h) if dh is None else dh
    if resets is not None:
        factors = factors.masked_fill(resets[..., None], 0.0)
    last = torch.zeros_like(h0) if dh_n is None else dh_n
    if lengths is not None:
        # In the padding h stays, and so does its gradient, which is that of h_n.
        running = mask_of(lengths, T)
        factors = torch.where(running, factors, _one(a, is_complex))
        d = torch.where(running, d, 0.0)
    later = torch.cat([conjugate(factors[1:], is_complex), _one(a, is_complex).expand_as(h[:1])])
    d = _recurrence(later.flip(0), d.flip(0), last, is_complex).flip(0)
    dh0 = times(conjugate(factors[0], is_complex), d[0], is_complex) if T else last
    before = torch.cat([h0[None], h[:-1]])
    if lengths is not None:
        d = torch.where(running, d, 0.0)
    if resets is not None:
        before = before.masked_fill(resets[..., None], 0.0)
    da = times(d, conjugate(before, is_complex), is_complex)
    return (da if a.dim() > 1 else da.sum((0, 1))), d, dh0


def _one(like: Tensor, is_complex: bool) -> Tensor:
    """Return the number 1, as many times as the last axis has numbers."""
    size = like.shape[-1]
    if not is_complex:
        return like.new_ones(size)
    return torch.cat([like.new_ones(size // 2), like.new_zeros(size // 2)])


class _Recurrence(torch.autograd.Function):
    """`plain_recurrence` without lengths and resets.

    A parallel scan (D. Hillis and G. Steele 1986, "Data parallel algorithms"), or on a CPU, where
    that would do more work on no more cores, a sequential one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, h0: Tensor, is_complex: bool) -> Tensor:
        plain = a.device.type == "cpu" and not torch._C._are_functorch_transforms_active()
        return (sequential_scan if plain else parallel_scan)(a, b, h0, is_complex)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, _, h0, ctx.is_complex = inputs
        ctx.save_for_backward(a, h0, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, which are recurrences again."""
        a, h0, y = ctx.saved_tensors
        later = torch.cat([conjugate(a[1:], ctx.is_complex), torch.zeros_like(a[:1])])
        zeros = torch.zeros_like(h0)
        d = _recurrence(later.flip(0), g.flip(0), zeros, ctx.is_complex).flip(0)
        before = torch.cat([h0[None], y[:-1]])
        first = times(conjugate(a[0], ctx.is_complex), d[0], ctx.is_complex) if len(a) else zeros
        return times(d, conjugate(before, ctx.is_complex), ctx.is_complex), d, first, None


def _recurrence(a: Tensor, b: Tensor, h0: Tensor, is_complex: bool) -> Tensor:
    result: Tensor = _Recurrence.apply(a, b, h0, is_complex)  # type: ignore[no-untyped-call]
    return result


def sequential_scan(a: Tensor, b: Tensor, h: Tensor, is_complex: bool = False) -> Tensor:
    """Compute a linear recurrence step by step."""
    y = torch.empty_like(b)
    for a_t, b_t, y_t in zip(a, b, y, strict=True):
        if is_complex:
            h = torch.add(times(a_t, h, True), b_t, out=y_t)
        else:
            h = torch.addcmul(b_t, a_t, h, out=y_t)
    return y


def parallel_scan(a: Tensor, b: Tensor, h: Tensor, is_complex: bool = False) -> Tensor:
    """Compute a linear recurrence in log2(T) rounds, each of which doubles the steps combined."""
    b = torch.cat([b[:1] + times(a[:1], h[None], is_complex)[: len(b)], b[1:]])
    reach = 1
    while reach < len(a):
        b = torch.cat([b[:reach], b[reach:] + times(a[reach:], b[:-reach], is_complex)])
        a = torch.cat([a[:reach], times(a[reach:], a[:-reach], is_complex)])
        reach *= 2
    return b


def scan_linear(
    cell: LinearCell,
    w: Weights,
    x: Tensor,
    state: State,
    lengths: Tensor | None,
    recurrence: Recurrence = plain_recurrence,
    selection: SelectiveScan = plain_selection,
    f: Functions = PLAIN,
    traces: list[Trace] | None = None,
) -> tuple[Tensor, State]:
    """Run a linear cell over a whole sequence: all that needs no state first, then the recurrence.

    Args:
        cell: the equations.
        w: its weights.
        x: input ``(T, B, I)`` of at least one step, zeros in the padding.
        state: the state before the first step.
        lengths: steps of each row.
        recurrence: computes c.
        selection: computes what a `Selection` puts out.
        f: computes products with weights, and functions.
        traces: a list to which the gates and states of every step are added.
    """
    T, rows = len(x), torch.arange(x.shape[1], device=x.device)
    c0, past = cell.parts(state)
    u = cell.project(w, x, f)
    size = cell.window_size if past else u.shape[-1]
    own, rest = torch.split(u, [size, u.shape[-1] - size], dim=-1)
    whole = torch.cat([torch.stack(past), own]) if past else u
    steps = cell.steps(w, Window(whole, u, rest), f)
    if isinstance(steps, Selection):
        c, c_n = selection(*steps[:6], c0, lengths)
    else:
        c, c_n = recurrence(steps.a, steps.b, c0, lengths, is_complex=cell.is_complex)
    h = cell.read(w, c, steps, f)
    running = None if lengths is None else mask_of(lengths, T)
    if running is not None and not cell.h_is_c:
        h = torch.where(running, h, 0.0)
    h_n = c_n
    if not cell.h_is_c:
        h_n = h[-1]
        if lengths is not None:
            h_n = torch.where(lengths[:, None] > 0, h[(lengths - 1).clamp_min(0), rows], state.h)
    ends = T if lengths is None else lengths
    last = [whole[k + ends] if lengths is None else whole[k + ends, rows] for k in range(len(past))]
    if traces is not None:
        if isinstance(steps, Selection):
            c, _ = recurrence(*steps.factors(f), c0, lengths)
        each = [whole[k : k + T] for k in range(1, len(past) + 1)]
        kinds = [*(steps.gates or ()), *cell.state_of(h, c, each)]
        kept = [t.detach() if running is None else torch.where(running, t, 0.0) for t in kinds]
        gates = len(kept) - len(cell.state_sizes)
        found = None if cell.gates_type is None else cell.gates_type(*kept[:gates])
        traces.append(Trace(found, cell.state_type(*(t.detach() for t in kept[gates:]))))
    return h, cell.state_of(h_n, c_n, last)


def mask_of(lengths: Tensor, T: int) -> Tensor:
    """Return ``(T, B, 1)`` booleans: True where a row still has a step."""
    return (torch.arange(T, device=lengths.device)[:, None] < lengths)[..., None]
