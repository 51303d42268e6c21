"""Linear recurrences and products with weights on the compiled core, and the cells made of them.

As in `compiled`: eagerly by autograd functions, in graphs by custom operators, and second
derivatives by plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

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
from ostinato.recurrence.backends.fused import Lazy, as_lazy, lazy_functions, settled
from ostinato.recurrence.backends.selection import compiled_selection
from ostinato.recurrence.cells import (
    PLAIN,
    Cell,
    Functions,
    LinearCell,
    State,
    Trace,
    Weights,
    Window,
)
from ostinato.recurrence.diagonal import (
    mask_of,
    plain_recurrence,
    recurrence_gradients,
    scan_linear,
)
from ostinato.recurrence.scan import reverse_rows, run_directions


def lacks(cells: tuple[Cell, ...], x: Tensor, autocast: bool = False) -> str:
    """Return why the core cannot serve a call, as `compiled.lacks`; it has linear cells as well."""
    return compiled.lacks(
        tuple([cell for cell in cells if not isinstance(cell, LinearCell)]), x, autocast
    )


def linear_recurrence(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    is_complex: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = a_t * h_(t-1) + b_t for all steps, on the compiled core where it can.

    There, a sequence in parts, a row alone and any number of threads give the same bits.

    Args:
        a: ``(T, B, H)``, or ``(H,)``, the same for all steps.
        b: ``(T, B, H)``.
        h0: h before the first step, ``(B, H)``; zeros when None.
        lengths: steps of each row, ``(B,)`` whole numbers from 0 to ``T``.
        resets: booleans ``(T, B)``, True at steps that start from h = 0, such as the first of
            each of several sequences in one row.
        is_complex: whether numbers are complex: of the last axis, which is then 2H long, the first
            half are real parts and the second half imaginary parts.

    Returns:
        h of every step, ``(T, B, H)``, zeros past a row's length, and h after each row's last step,
        ``(B, H)``.

    Raises:
        ShapeError: if the shapes do not fit.

    Example:
        >>> h, last = linear_recurrence(torch.tensor([0.5]), torch.ones(3, 1, 1))
        >>> h.flatten().tolist(), last.item()
        ([1.0, 1.5, 1.75], 1.75)
    """
    if b.dim() != 3 or not b.is_floating_point() or (is_complex and b.shape[2] % 2):
        kind = "(T, B, 2H), pairs" if is_complex else "(T, B, H) floating-point numbers"
        refuse("linear_recurrence", "b", b, kind)
    T, B, H = b.shape
    check(
        "linear_recurrence",
        b,
        {"a": (a, (H,) if a.dim() == 1 else (T, B, H)), "h0": (h0, (B, H))},
        lengths,
        resets,
    )
    h0 = b.new_zeros(b.shape[1:]) if h0 is None else h0
    run = plain_recurrence if compiled.lacks((), b) else compiled_recurrence
    return run(a, b, h0, lengths, resets, is_complex)


def run(
    cell: LinearCell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    traces: list[Trace] | None = None,
) -> tuple[Tensor, State]:
    """Run one layer of a linear cell; arguments and results as those of `backends.run`."""
    return run_directions(cell, weights, x, state, lengths, traces, each=_run_direction)


def _run_direction(
    cell: LinearCell,
    w: Weights,
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    reverse: bool,
    traces: list[Trace] | None,
) -> tuple[Tensor, State]:
    T, B = x.shape[:2]
    state = cell.zero_state(B, like=x) if state is None else state
    if lengths is not None:
        x = x.masked_fill(~mask_of(lengths, T), 0.0)
    if reverse:
        x = reverse_rows(x, lengths)
    own: list[Trace] | None = None if traces is None else []
    ways = compiled_recurrence, compiled_selection, COMPILED
    if not compiled.in_graph(x):
        # What puts out something else than its memory goes through memory a second time.
        f = FUSED if cell.h_is_c else FUSED_APART
        ways = _recurrence_of_lazy, _selection_of_lazy, f
    y, last = scan_linear(cell, w, x, state, lengths, *ways, own)
    (y,) = settled(y)
    if traces is not None and own:
        (found,) = own
        if reverse:
            back = partial(reverse_rows, lengths=lengths)
            gates = found.gates and type(found.gates)(*map(back, found.gates))
            found = Trace(gates, cell.state_type(*map(back, found.states)))
        traces.append(found)
    return (reverse_rows(y, lengths) if reverse else y), last


def _recurrence_of_lazy(a: Lazy | Tensor, b: Lazy | Tensor, *others: Any, **options: Any) -> Any:
    h, h_n = compiled_recurrence(*settled(a, b), *others, **options)
    return as_lazy(h), h_n


def _selection_of_lazy(*given: Any, **options: Any) -> Any:
    y, c_n = compiled_selection(*settled(*given), **options)
    return as_lazy(y), c_n


class _Options(NamedTuple):
    """Arguments of `_Recurrence` beside tensors with gradients."""

    lengths: Tensor | None
    resets: Tensor | None
    is_complex: bool


def compiled_recurrence(
    a: Tensor,
    b: Tensor,
    h0: Tensor,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    is_complex: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute `plain_recurrence` on the core."""
    graph = compiled.in_graph(b)
    lengths, resets = compiled.kept(lengths, graph), compiled.kept(resets, graph)
    if graph:
        h, h_n = _recurrence_operator(a, b, h0, lengths, resets, is_complex)
        return h, h_n
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or h0.requires_grad):
        options = _Options(lengths, resets, is_complex)
        found: tuple[Tensor, Tensor] = _Recurrence.apply(a, b, h0, options)  # type: ignore[no-untyped-call]
        return found
    return _forward(a, b, h0, lengths, resets, is_complex)


def _forward(
    a: Tensor,
    b: Tensor,
    h0: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    is_complex: bool,
) -> tuple[Tensor, Tensor]:
    h, h_n = torch.empty_like(b, memory_format=torch.contiguous_format), h0.new_empty(h0.shape)
    core.scan_forward(
        is_complex, in_rows(a), in_rows(b), dense(lengths), dense(resets), dense(h0), h, h_n,
        torch.get_num_threads(),
    )  # fmt: skip
    return h, h_n


def _backward(
    a: Tensor,
    h0: Tensor,
    h: Tensor,
    dh: Tensor | None,
    dh_n: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    is_complex: bool,
    needs_a: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor]:
    db, dh0 = torch.empty_like(h), torch.empty_like(h0, memory_format=torch.contiguous_format)
    da = h.new_empty(h.shape if a.dim() > 1 else h0.shape) if needs_a else None
    core.scan_backward(
        is_complex, in_rows(a), dense(lengths), dense(resets), dense(h0), h,
        None if dh is None else in_rows(dh), None if dh_n is None else dense(dh_n), da, db, dh0,
        torch.get_num_threads(),
    )  # fmt: skip
    return (da if a.dim() > 1 or da is None else da.sum(0)), db, dh0


class _RecurrenceContext(Context, Protocol):
    options: _Options


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _RecurrenceContext, a: Tensor, b: Tensor, h0: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        h, h_n = _forward(a, b, h0, *options)
        ctx.save_for_backward(a, h0, h)
        ctx.set_materialize_grads(False)
        ctx.options = options
        return h, h_n

    @staticmethod
    def backward(
        ctx: _RecurrenceContext, dh: Tensor | None, dh_n: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        a, h0, h = ctx.saved_tensors
        if by_formula(dh, dh_n):
            return *recurrence_gradients(a, h0, h, dh, dh_n, *ctx.options), None
        needs_a = ctx.needs_input_grad[0]
        return *_backward(a, h0, h, dh, dh_n, *ctx.options, needs_a=needs_a), None


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `torch.nn.functional.linear` on the core: a row's bits are its own."""
    rows, y = x.reshape(-1, x.shape[-1]), x
    if compiled.in_graph(x):
        y = _product_operator(rows, weight, bias)
    elif torch.is_grad_enabled():
        y = _Product.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        y = _multiply(rows, weight, bias)
    return y.view(*x.shape[:-1], len(weight))


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = x.new_empty(len(x), len(weight))
    core.product(dense(x), dense(weight), dense(bias), y, torch.get_num_threads())
    return y


class _ProductContext(Context, Protocol):
    has_bias: bool


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _ProductContext, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: _ProductContext, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        dx = None
        if needs_x:
            dx = dy @ weight if by_formula(dy) else _multiply(dy, weight.t(), None)
        dw = dy.t() @ x if needs_weight else None
        return dx, dw, dy.sum(0) if needs_bias else None


_FUNCTIONS = ("sigmoid", "tanh", "exp", "softplus", "silu", "sqrt")
"""As the core numbers them."""
_OF_ARGUMENT = (3, 4)
"""Those with gradients that follow from the argument, not from the value."""


def _function(number: int, x: Tensor) -> Tensor:
    """Compute one of `_FUNCTIONS` on the core: a number's bits are its own."""
    rows, y = x.reshape(-1, x.shape[-1]), x
    if compiled.in_graph(x):
        y = _map_operator(rows, number)
    elif torch.is_grad_enabled() and x.requires_grad:
        y = _Map.apply(rows, number)  # type: ignore[no-untyped-call]
    else:
        y = _map(rows, number)
    return y.view(x.shape)


def _map(x: Tensor, number: int) -> Tensor:
    y = x.new_empty(x.shape)
    core.map(number, in_rows(x), y, torch.get_num_threads())
    return y


def _map_gradient(kept: Tensor, dy: Tensor, number: int) -> Tensor:
    """Return the gradient of the argument, given the value, or for `_OF_ARGUMENT` the argument."""
    dx = dy.new_empty(dy.shape)
    core.map(number, in_rows(kept), dx, torch.get_num_threads(), dense(dy))
    return dx


def _slope(number: int, kept: Tensor) -> Tensor:
    """Return the derivative, from what `_map_gradient` is given."""
    y, s = kept, torch.sigmoid(kept)
    return (y * (1 - y), 1 - y * y, y, s, s * (1 + y * (1 - s)), 0.5 / y)[number]


class _MapContext(Context, Protocol):
    number: int


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _MapContext, x: Tensor, number: int) -> Tensor:
        y = _map(x, number)
        ctx.save_for_backward(x if number in _OF_ARGUMENT else y)
        ctx.number = number
        return y

    @staticmethod
    def backward(ctx: _MapContext, dy: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        if by_formula(dy):
            return dy * _slope(ctx.number, kept), None
        return _map_gradient(kept, dy, ctx.number), None


def convolve(seen: Sequence[Tensor], kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a causal convolution of each feature on the core."""
    assert isinstance(seen, Window)  # as `scan_linear` makes it
    x = seen.whole[..., : kernel.shape[1]]
    if compiled.in_graph(x):
        y: Tensor = _convolution_operator(x, kernel, bias)
    elif torch.is_grad_enabled():
        y = _Convolution.apply(x, kernel, bias)  # type: ignore[no-untyped-call]
    else:
        y = _convolve(x, kernel, bias)
    return y


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    y = _convolved_shape(x, kernel, bias)
    core.convolution(in_rows(x), dense(kernel), dense(bias), y, torch.get_num_threads())
    return y


def _convolved_shape(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0] - kernel.shape[0] + 1, *x.shape[1:])


def _convolution_gradients(x: Tensor, kernel: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, the kernel and the bias."""
    dx, dkernel, dbias = (
        x.new_empty(x.shape),
        kernel.new_empty(kernel.shape),
        dy.new_empty(dy.shape[2]),
    )
    core.convolution_backward(
        in_rows(x), dense(kernel), dense(dy), dx, dkernel, dbias, torch.get_num_threads()
    )
    return dx, dkernel, dbias


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _ProductContext, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.has_bias = bias is not None
        return _convolve(x, kernel, bias)

    @staticmethod
    def backward(ctx: _ProductContext, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        if not by_formula(dy):
            dx, dkernel, dbias = _convolution_gradients(x, kernel, dy)
        else:
            k, T = len(kernel), len(dy)
            late = torch.nn.functional.pad(dy, (0, 0, 0, 0, k - 1, k - 1))
            dx = PLAIN.convolve([late[j : j + T + k - 1] for j in range(k)], kernel.flip(0), None)
            dkernel = torch.stack([(dy * x[j : j + T]).sum((0, 1)) for j in range(k)])
            dbias = dy.sum((0, 1))
        return dx, dkernel, dbias if ctx.has_bias else None


COMPILED = Functions(
    linear=product,
    convolve=convolve,
    **{name: partial(_function, number) for number, name in enumerate(_FUNCTIONS)},
)
"""Those of the core."""
FUSED, FUSED_APART = (lazy_functions(COMPILED, apart) for apart in (False, True))
"""The same, of which those number by number are computed together: see `as_lazy`."""


# For graphs: what `torch.compile` and `torch.export` see of the core.

_Found = tuple[Tensor, Tensor]


def _recurrence_shapes(
    a: Tensor, b: Tensor, h0: Tensor, lengths: Tensor | None, resets: Tensor | None,
    is_complex: bool,
) -> _Found:  # fmt: skip
    return torch.empty_like(b, memory_format=torch.contiguous_format), h0.new_empty(h0.shape)


def _gradients(
    a: Tensor, h0: Tensor, h: Tensor, dh: Tensor | None, dh_n: Tensor | None,
    lengths: Tensor | None, resets: Tensor | None, is_complex: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    da, db, dh0 = _backward(a, h0, h, dh, dh_n, lengths, resets, is_complex)
    assert da is not None  # as asked for
    return da, db, dh0


def _gradient_shapes(
    a: Tensor, h0: Tensor, h: Tensor, *rest: object
) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(a.shape), h.new_empty(h.shape), h0.new_empty(h0.shape)


def _remember(ctx: _RecurrenceContext, inputs: tuple[object, ...], output: _Found) -> None:
    a, _, h0, *options = inputs
    ctx.save_for_backward(a, h0, output[0])  # type: ignore[arg-type]
    ctx.set_materialize_grads(False)
    ctx.options = _Options(*options)  # type: ignore[arg-type]


def _operator_backward(
    ctx: _RecurrenceContext, dh: Tensor | None, dh_n: Tensor | None
) -> tuple[Tensor | None, ...]:
    a, h0, h = ctx.saved_tensors
    found = _gradients_operator(a, h0, h, dh, dh_n, *ctx.options)
    return *found, None, None, None


def _product_shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _remember_product(
    ctx: _ProductContext, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor
) -> None:
    ctx.save_for_backward(*inputs[:2])


def _product_backward(ctx: _ProductContext, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad
    dx = _product_operator(dy, weight.t(), None) if needs_x else None
    return dx, dy.t() @ x if needs_weight else None, dy.sum(0) if needs_bias else None


_recurrence_operator = torch.library.custom_op(
    "ostinato::linear_recurrence", _forward, mutates_args=()
)
_recurrence_operator.register_fake(_recurrence_shapes)
_recurrence_operator.register_autograd(_operator_backward, setup_context=_remember)
_gradients_operator = torch.library.custom_op(
    "ostinato::linear_recurrence_gradients", _gradients, mutates_args=()
)
_gradients_operator.register_fake(_gradient_shapes)


_product_operator = torch.library.custom_op("ostinato::product", _multiply, mutates_args=())
_product_operator.register_fake(_product_shape)
_product_operator.register_autograd(_product_backward, setup_context=_remember_product)


def _remember_convolution(
    ctx: _ProductContext, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor
) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.has_bias = inputs[2] is not None


def _convolution_backward(ctx: _ProductContext, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, dkernel, dbias = _convolution_gradients_operator(*ctx.saved_tensors, dy)
    return dx, dkernel, dbias if ctx.has_bias else None


_convolution_operator = torch.library.custom_op("ostinato::convolution", _convolve, mutates_args=())
_convolution_operator.register_fake(_convolved_shape)
_convolution_operator.register_autograd(_convolution_backward, setup_context=_remember_convolution)
_convolution_gradients_operator = torch.library.custom_op(
    "ostinato::convolution_gradients", _convolution_gradients, mutates_args=()
)
_convolution_gradients_operator.register_fake(
    lambda x, kernel, dy: (
        x.new_empty(x.shape),
        kernel.new_empty(kernel.shape),
        dy.new_empty(dy.shape[2]),
    )
)


def _remember_map(ctx: _MapContext, inputs: tuple[Tensor, int], output: Tensor) -> None:
    x, ctx.number = inputs
    ctx.save_for_backward(x if ctx.number in _OF_ARGUMENT else output)


def _map_backward(ctx: _MapContext, dy: Tensor) -> tuple[Tensor | None, ...]:
    (kept,) = ctx.saved_tensors
    return _map_gradient_operator(kept, dy, ctx.number), None


_map_operator = torch.library.custom_op("ostinato::map", _map, mutates_args=())
_map_operator.register_fake(lambda x, number: x.new_empty(x.shape))
_map_operator.register_autograd(_map_backward, setup_context=_remember_map)
_map_gradient_operator = torch.library.custom_op(
    "ostinato::map_gradient", _map_gradient, mutates_args=()
)
_map_gradient_operator.register_fake(lambda kept, dy, number: dy.new_empty(dy.shape))
