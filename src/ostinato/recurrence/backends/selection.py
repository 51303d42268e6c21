"""The selective scan of Mamba on the compiled core, which never writes its state out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ostinato.recurrence.backends import compiled
from ostinato.recurrence.backends.arguments import (
    Context,
    by_formula,
    check,
    in_rows,
    refuse,
)
from ostinato.recurrence.backends.compiled import dense
from ostinato.recurrence.backends.core import core
from ostinato.recurrence.diagonal import plain_selection


def selective_scan(
    d: Tensor,
    v: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    c0: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute c_t = exp(d_t A) c_(t-1) + B_t (d_t v_t) and y_t = C_t c_t + D v_t.

    That is the recurrence of Mamba: E features, with N numbers of state c for each. On the compiled
    core c, exp(d A) and B (d v) stay in registers; backward computes them again from every 16th c.
    A sequence in parts, a row alone and any number of threads give the same bits.

    Args:
        d: time steps, ``(T, B, E)``.
        v: input, ``(T, B, E)``.
        A: rates, ``(N, E)``, below 0 where the state is to fade.
        B: what writes the state, ``(T, B, N)``.
        C: what reads it, ``(T, B, N)``.
        D: what leads past it, ``(E,)``; zeros when None.
        c0: c before the first step, ``(B, N E)``; zeros when None.
        lengths: steps of each row, ``(B,)`` whole numbers from 0 to ``T``.
        resets: booleans ``(T, B)``, True at steps that start from c = 0.

    Returns:
        y, ``(T, B, E)``, zeros past a row's length, and c after each row's last step, ``(B, N E)``.

    Raises:
        ShapeError: if the shapes do not fit.

    Example:
        >>> d, v, A = torch.ones(3, 1, 1), torch.ones(3, 1, 1), torch.tensor([[0.5]]).log()
        >>> y, last = selective_scan(d, v, A, B=torch.ones(3, 1, 1), C=torch.ones(3, 1, 1))
        >>> [round(float(y_t), 4) for y_t in y]
        [1.0, 1.5, 1.75]
    """
    if d.dim() != 3 or not d.is_floating_point():
        refuse("selective_scan", "d", d, "(T, B, E) floating-point numbers")
    if A.dim() != 2 or not len(A):
        refuse("selective_scan", "A", A, f"(N, {d.shape[2]}), N 1 or more")
    T, rows, E, N = *d.shape, len(A)
    given = {
        "v": (v, (T, rows, E)), "A": (A, (N, E)), "B": (B, (T, rows, N)), "C": (C, (T, rows, N)),
        "D": (D, (E,)), "c0": (c0, (rows, N * E)),
    }  # fmt: skip
    check("selective_scan", d, given, lengths, resets)
    c0 = d.new_zeros(rows, N * E) if c0 is None else c0
    run = plain_selection if compiled.lacks((), d) else compiled_selection
    return run(d, v, A, B, C, D, c0, lengths, resets)


def compiled_selection(
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
    """Compute `plain_selection` on the core."""
    given = d, v, A, B, C, D, c0
    graph = compiled.in_graph(d)
    lengths, resets = compiled.kept(lengths, graph), compiled.kept(resets, graph)
    needs = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    if graph:
        y, c_n, _ = _selection_operator(*given, lengths, resets, needs)
        return y, c_n
    if needs:
        found: tuple[Tensor, Tensor] = _Selection.apply(*given, lengths, resets)  # type: ignore[no-untyped-call]
        return found
    return _select(*given, lengths, resets, False)[:2]


def _select(
    d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, c0: Tensor,
    lengths: Tensor | None, resets: Tensor | None, keeps: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y, the last c, and every 16th c, if backward needs them."""
    y, c_n, kept = _selection_shapes(d, v, A, B, C, D, c0, lengths, resets, keeps)
    core.selection_forward(
        in_rows(d), in_rows(v), dense(A), in_rows(B), in_rows(C), dense(D), dense(c0),
        dense(lengths), dense(resets), y, c_n, kept if keeps else None, torch.get_num_threads(),
    )  # fmt: skip
    return y, c_n, kept


def _selection_shapes(
    d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, c0: Tensor,
    lengths: Tensor | None, resets: Tensor | None, keeps: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    chunks = -(-d.shape[0] // core.selection_chunk) if keeps else 0
    return d.new_empty(d.shape), c0.new_empty(c0.shape), c0.new_empty(chunks, *c0.shape)


def _selection_gradients(
    d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    lengths: Tensor | None, resets: Tensor | None, kept: Tensor, dy: Tensor | None,
    dc_n: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of d, v, A, B, C, D (empty where there is none) and c0."""
    tiles = -(-d.shape[2] * d.element_size() // core.selection_tile)
    dd, dv = d.new_empty(d.shape), d.new_empty(d.shape)
    dA, dc0 = kept.new_empty(kept.shape[1:]), kept.new_empty(kept.shape[1:])
    dD = d.new_empty(kept.shape[1], 0 if D is None else D.shape[0])
    dB, dC = d.new_empty(tiles, *B.shape), d.new_empty(tiles, *B.shape)
    core.selection_backward(
        in_rows(d), in_rows(v), dense(A), in_rows(B), in_rows(C), dense(D), dense(lengths),
        dense(resets), kept, None if dy is None else in_rows(dy), dense(dc_n), dd, dv, dA, dB, dC,
        None if D is None else dD, dc0, torch.get_num_threads(),
    )  # fmt: skip
    dB, dC = (t[0] if tiles == 1 else t.sum(0) for t in (dB, dC))
    return dd, dv, dA.sum(0).view(A.shape), dB, dC, dD.sum(0), dc0


class _SelectionContext(Context, Protocol):
    rest: tuple[Tensor | None, Tensor | None]


class _Selection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _SelectionContext, d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor,
        D: Tensor | None, c0: Tensor, lengths: Tensor | None, resets: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        y, c_n, kept = _select(d, v, A, B, C, D, c0, lengths, resets, True)
        ctx.save_for_backward(d, v, A, B, C, D, c0, kept)
        ctx.set_materialize_grads(False)
        ctx.rest = lengths, resets
        return y, c_n

    @staticmethod
    def backward(
        ctx: _SelectionContext, dy: Tensor | None, dc_n: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        d, v, A, B, C, D, c0, kept = ctx.saved_tensors
        if by_formula(dy, dc_n):
            return *_selection_by_formula(ctx, [d, v, A, B, C, D, c0], dy, dc_n), None, None
        found = _selection_gradients(d, v, A, B, C, D, *ctx.rest, kept, dy, dc_n)
        return *_found(ctx, found), None, None


def _found(ctx: _SelectionContext, gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients that are needed."""
    needs = ctx.needs_input_grad
    return [g if need else None for g, need in zip(gradients, needs, strict=False)]


def _selection_by_formula(
    ctx: _SelectionContext, given: list[Tensor], dy: Tensor | None, dc_n: Tensor | None
) -> list[Tensor | None]:
    """Return the gradients as differentiable functions, by plain PyTorch."""
    with torch.enable_grad():
        given = compiled.apart(given)
        d, v, A, B, C, D, c0 = given
        y = plain_selection(d, v, A, B, C, D, c0, *ctx.rest)
        pairs = [(o, g) for o, g in zip(y, (dy, dc_n), strict=True) if g is not None]
        needed = [t for t, need in zip(given, ctx.needs_input_grad, strict=False) if need]
        outputs, known = zip(*pairs, strict=True)
        found = iter(
            torch.autograd.grad(outputs, needed, known, create_graph=True, allow_unused=True)
        )
    return [next(found) if need else None for need in ctx.needs_input_grad[:7]]


def _remember_selection(
    ctx: _SelectionContext, inputs: tuple[object, ...], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    *given, lengths, resets, _ = inputs
    ctx.save_for_backward(*given, output[2])  # type: ignore[arg-type]
    ctx.set_materialize_grads(False)
    ctx.rest = lengths, resets  # type: ignore[assignment]


def _selection_operator_backward(
    ctx: _SelectionContext, dy: Tensor | None, dc_n: Tensor | None, dkept: Tensor | None
) -> tuple[Tensor | None, ...]:
    *given, _, kept = ctx.saved_tensors
    found = _selection_gradients_operator(*given, *ctx.rest, kept, dy, dc_n)
    return *_found(ctx, found), None, None, None


_selection_operator = torch.library.custom_op("ostinato::selection", _select, mutates_args=())
_selection_operator.register_fake(_selection_shapes)
_selection_operator.register_autograd(
    _selection_operator_backward, setup_context=_remember_selection
)
_selection_gradients_operator = torch.library.custom_op(
    "ostinato::selection_gradients", _selection_gradients, mutates_args=()
)


@_selection_gradients_operator.register_fake
def _(
    d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    lengths: Tensor | None, resets: Tensor | None, kept: Tensor, *rest: object,
) -> tuple[Tensor, ...]:  # fmt: skip
    dD = d.new_empty(0 if D is None else D.shape[0])
    return *(t.new_empty(t.shape) for t in (d, v, A, B, C)), dD, kept.new_empty(kept.shape[1:])
