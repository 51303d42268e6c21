"""The compiled core: eagerly by an autograd function, in graphs by custom operators.

Weights of all directions are passed to the core in the order of `_WEIGHTS`, None for those a cell
lacks; states are ``(directions, B, size)``. The workspace ``(directions, T, B, numbers)`` holds the
values of forward that backward needs, gates among them: see cpp/lines.hpp. With checkpoints there
is none: for an LSTM c is kept every so many steps, for other cells nothing, since y has the state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn.functional import embedding

from ostinato import _core
from ostinato.recurrence.cells import (
    ACTIVATIONS,
    Cell,
    GRUCell,
    LSTMCell,
    LSTMState,
    RNNCell,
    State,
    Trace,
    Weights,
)
from ostinato.recurrence.cells.standard import GatedCell
from ostinato.recurrence.scan import run_directions

STANDARD = (RNNCell, LSTMCell, GRUCell)
"""The cells whose equations the core has."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def constant_in_graphs(f: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let `torch.compile` call f when it traces, and keep the result."""
    # As `torch.compiler.assume_constant_result`, which would import all of Dynamo.
    setattr(f, "_dynamo_marked_constant", True)  # noqa: B010
    return f


def lacks(cells: tuple[Cell, ...], x: Tensor) -> str:
    """Return why the core cannot serve a call; empty where it can."""
    for cell in cells:
        if type(cell.standard_cell()) not in STANDARD:
            return "it has no equations for this cell"
    if not x.is_cpu or x.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64 on a CPU, not in {x.dtype} on {x.device}"
    if torch.is_autocast_enabled("cpu"):
        return "it does not take part in autocast"
    if is_transformed():
        return "it has no rule for torch.func's transforms and forward-mode derivatives"
    if _is_traced():
        return "torch.jit cannot trace it"
    return ""


@constant_in_graphs
def is_transformed() -> bool:
    """Return whether a transform is active: vmap, grad of grad, jvp."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@constant_in_graphs
def _is_traced() -> bool:
    return torch._C._get_tracing_state() is not None


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
_Flat = Sequence[Tensor | None]
_Shape = tuple[int, int, int, int, int]
_Keeps = Literal["nothing", "workspace", "readable workspace", "checkpoints"]


def shape_of(cell: Cell) -> _Shape:
    """Return the cell as the core knows it: kind, activation, I, H, P."""
    activation = 0
    if isinstance(cell, RNNCell):
        kind, activation = 0, list(ACTIVATIONS).index(cell.activation)
    elif isinstance(cell, LSTMCell):
        kind = 1
    else:
        kind = 2 if cast(GRUCell, cell).reset_after else 3
    return kind, activation, cell.input_size, cell.hidden_size, cell.output_size


_known_shape = lru_cache(maxsize=1024)(shape_of)


def flat_weights(w: Weights) -> list[Tensor | None]:
    """Return the weights in the order in which the core takes them."""
    return [w.get(name) for name in _WEIGHTS]


@lru_cache(maxsize=1024)
def _workspace_size(shape: _Shape, dtype: torch.dtype) -> int:
    """Numbers of the workspace for one step of one row."""
    return _core.line_length(shape, dtype == torch.float64)


@constant_in_graphs
def _workspace_size_of_graphs(shape: _Shape, doubles: bool) -> int:
    return _core.line_length(shape, doubles)


@constant_in_graphs
def _gate_at(shape: _Shape, doubles: bool, gate: int) -> int:
    return _core.gate_at(shape, doubles, gate)


def run(
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    tokens: Tensor | None,
    traces: list[Trace] | None,
    checkpoint_every: int,
) -> tuple[Tensor, State]:
    """Run one layer of a standard cell; arguments and results as those of `backends.run`."""
    h0, c0 = None, None
    if state is not None:
        h0, c0 = state.h, state.c if isinstance(state, LSTMState) else None
    workspace: Tensor | None = None
    graph = torch.compiler.is_compiling() or type(x) not in (Tensor, Parameter)
    if graph:
        shape = shape_of(cell)
        size = _workspace_size_of_graphs(shape, x.dtype == torch.float64)
        present = [w[name] for w in weights for name in _WEIGHTS if name in w]
        y, h, c, workspace = _layer_operator(
            x, lengths, h0, c0, present, list(shape), len(weights), size, checkpoint_every
        )
        # A graph must not return views of tensors that it keeps for backward.
        workspace = workspace.detach().clone() if traces is not None else None
    else:
        flat = [t for w in weights for t in flat_weights(w)]
        if torch.is_grad_enabled() and _any_requires_grad(x, h0, c0, *flat):
            given = (h0, c0, *flat)
            tensors = [t for t in given if t is not None]
            places = _places(tuple([t is not None for t in given]))
            shown: list[Tensor] | None = None if traces is None else []
            call = _Call(cell, shown, tokens, lengths, places, checkpoint_every)
            y, h, c = _apply(call, x, *tensors)  # type: ignore[no-untyped-call]
            workspace = shown[0] if shown else None
        else:
            keeps: _Keeps = "nothing" if traces is None else "readable workspace"
            y, h, c, workspace = _forward(
                _known_shape(cell), x, tokens, lengths, h0, c0, flat, keeps
            )
    if traces is not None and workspace is not None:
        outputs = y.detach().clone() if graph else y.detach()
        each = zip(workspace.detach().unbind(0), outputs.chunk(len(weights), -1), strict=True)
        traces += [_trace_of(cell, part, h) for part, h in each]
    last: State = LSTMState(h, c) if isinstance(cell, LSTMCell) else cell.state_type(h)
    return y, last


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    for t in tensors:  # noqa: SIM110  a generator costs a microsecond
        if t is not None and t.requires_grad:
            return True
    return False


def _trace_of(cell: Cell, workspace: Tensor, h: Tensor) -> Trace:
    """Return views of one direction's workspace."""
    shape, doubles, kind = shape_of(cell), workspace.dtype == torch.float64, cell.gates_type

    def read(gate: int) -> Tensor:
        at = _gate_at(shape, doubles, gate)
        return workspace[..., at : at + cell.hidden_size]

    gates = 0 if kind is None else cast(GatedCell, cell).gates_per_unit
    state: State = LSTMState(h, read(gates)) if isinstance(cell, LSTMCell) else cell.state_type(h)
    return Trace(kind(*map(read, range(gates))) if kind else None, state)


def _forward(
    shape: _Shape, x: Tensor, tokens: Tensor | None, lengths: Tensor | None, h0: Tensor | None,
    c0: Tensor | None, flat: _Flat, keeps: _Keeps, checkpoint_every: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Return outputs, last states, and the values kept for backward."""
    steps = x if tokens is None else tokens
    T, B, *_ = steps.shape
    D = 1 if len(flat) == len(_WEIGHTS) else 2
    if not _core.are_readable(x, h0, c0, *flat):
        x, h0, c0, flat = _rowwise(x), _dense(h0), _dense(c0), tuple(map(_dense, flat))
    y = _empty_sequence(x, D * shape[4], steps)
    h = x.new_empty(D, B, shape[4])
    c = x.new_empty(D, B, shape[3]) if shape[0] == 1 else None
    workspace = c_kept = None
    if keeps == "checkpoints":
        c_kept = _new_checkpoints(shape, x, D, T, B, checkpoint_every)
    elif keeps != "nothing":
        # Backward does not read past a row's length; a trace must find zeros there.
        new = x.new_zeros if keeps == "readable workspace" and lengths is not None else x.new_empty
        workspace = new(D, T, B, _workspace_size(shape, x.dtype))
    _core.forward(
        shape, x, lengths, h0, c0, tuple(flat), y, h, c, workspace, torch.get_num_threads(),
        tokens, checkpoint_every, c_kept,
    )  # fmt: skip
    return y, h, c, c_kept if workspace is None else workspace


def _new_checkpoints(
    shape: Sequence[int], x: Tensor, D: int, T: int, B: int, checkpoint_every: int
) -> Tensor | None:
    """Return room for c after every ``checkpoint_every`` steps but the last; of an LSTM."""
    return x.new_empty(D, max(T - 1, 0) // checkpoint_every, B, shape[3]) if shape[0] == 1 else None


def _backward(
    shape: _Shape, x: Tensor, tokens: Tensor | None, lengths: Tensor | None, h0: Tensor | None,
    c0: Tensor | None, flat: _Flat, y: Tensor, kept: Tensor | None,
    gradients: Sequence[Tensor | None], needs: Sequence[bool], checkpoint_every: int = 0,
) -> list[Tensor | None]:  # fmt: skip
    """Return the needed gradients of x, h0, c0 and the weights; overwrites the workspace."""
    dy, dh, dc = gradients
    if not _core.are_readable(x, h0, c0, *flat, dh, dc):
        x, h0, c0, flat = _rowwise(x), _dense(h0), _dense(c0), tuple(map(_dense, flat))
        dh, dc = _dense(dh), _dense(dc)
    if dy is not None and not _core.are_readable(dy):
        dy = _rowwise(dy)
    dx = None
    if needs[0]:
        dx = _empty_sequence(x, shape[2], x) if tokens is None else torch.empty_like(x)
    dh0, dc0, *dweights = [
        torch.empty_like(tensor) if needed and tensor is not None else None
        for tensor, needed in zip((h0, c0, *flat), needs[1:], strict=True)
    ]
    # Hooks on saved tensors may bring them back laid out in another way.
    if kept is not None and (not kept.is_contiguous() or kept.data_ptr() % 64):
        kept = torch.empty_like(kept, memory_format=torch.contiguous_format).copy_(kept)
    workspace, c_kept = (None, kept) if checkpoint_every else (kept, None)
    _core.backward(
        shape, x, lengths, h0, c0, tuple(flat), _rowwise(y), workspace, dy, dh,
        dc, dx, dh0, dc0, tuple(dweights), torch.get_num_threads(), tokens, checkpoint_every,
        c_kept,
    )  # fmt: skip
    return [dx, dh0, dc0, *dweights]


def _empty_sequence(x: Tensor, features: int, like: Tensor) -> Tensor:
    """Return a new (T, B, features) of x's type, laid out in memory as ``like (T, B, ...)`` is."""
    T, B, *_ = like.shape
    t_stride, b_stride, *_ = like.stride()
    if t_stride < b_stride:
        return x.new_empty(B, T, features).transpose(0, 1)
    return x.new_empty(T, B, features)


def _rowwise(x: Tensor) -> Tensor:
    """Return x with the features of a step side by side; a table contiguous."""
    x = x.resolve_neg()
    whole = x.is_contiguous() if x.dim() == 2 else x.stride(2) == 1 or x.shape[2] == 1
    return x if whole else x.contiguous()


@overload
def _dense(x: Tensor) -> Tensor: ...
@overload
def _dense(x: None) -> None: ...
def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.resolve_neg().contiguous()


def _new_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class _Call(NamedTuple):
    """Arguments of `_Layer` beside the tensors that may have gradients.

    Those, but for x, are the ones present of h0, c0 and the weights: autograd spends a microsecond
    on each None.
    """

    cell: Cell
    shown: list[Tensor] | None
    """A list to which the workspace is added for traces; None without traces."""
    tokens: Tensor | None
    lengths: Tensor | None
    places: tuple[int, ...]
    """Position of each of h0, c0 and the weights among those present; -1 if missing."""
    checkpoint_every: int


@lru_cache(maxsize=1024)
def _places(present: tuple[bool, ...]) -> tuple[int, ...]:
    """Return numbers of those that are present, in order, and -1 for the others."""
    counted = iter(range(len(present)))
    return tuple(next(counted) if each else -1 for each in present)


class _Context(Protocol):
    """Context that autograd passes from forward to backward."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    call: _Call
    used_up: bool

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...
    def set_materialize_grads(self, value: bool) -> None: ...


class _Layer(torch.autograd.Function):
    """One layer of the core for eager autograd; `_layer_operator` is the same for graphs."""

    @staticmethod
    def forward(
        ctx: _Context, call: _Call, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run forward."""
        cell, shown, tokens, lengths, places, checkpoint_every = call
        padded = (*tensors, None)
        h0, c0, *flat = [padded[i] for i in places]
        # A loader may put the next batch into the same memory before backward.
        lengths = None if lengths is None else lengths.clone()
        tokens = None if tokens is None else tokens.clone()
        keeps: _Keeps = "checkpoints" if checkpoint_every else "workspace"
        if shown is not None:
            keeps = "readable workspace"
        y, h, c, kept = _forward(
            _known_shape(cell), x, tokens, lengths, h0, c0, flat, keeps, checkpoint_every
        )
        ctx.save_for_backward(x, y, kept, tokens, lengths, *tensors)
        ctx.set_materialize_grads(False)
        ctx.call, ctx.used_up = call, False
        if shown is not None:
            shown.append(cast(Tensor, kept))
        return y, h, c

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients; differentiable ones, if required, by the reference."""
        x, y, saved, tokens, lengths, *tensors = ctx.saved_tensors
        kept: Tensor | None = saved
        cell, shown, _, _, places, checkpoint_every = ctx.call
        padded = (*tensors, None)
        h0, c0, *flat = [padded[i] for i in places]
        _, needs_x, *required = ctx.needs_input_grad
        needs = [needs_x, *[i >= 0 and required[i] for i in places]]
        if torch.is_grad_enabled() or is_transformed() or any(map(_is_batched, gradients)):
            found = _reference_gradients(cell, x, tokens, lengths, h0, c0, flat, gradients, needs)
        else:
            shape = _known_shape(cell)
            if ctx.used_up:  # by an earlier backward, whose graph was retained
                *_, kept = _forward(shape, x, tokens, lengths, h0, c0, flat, "workspace")
            elif shown is not None:
                kept = saved.clone()
            else:
                ctx.used_up = not checkpoint_every
            found = _backward(
                shape, x, tokens, lengths, h0, c0, flat, y, kept, gradients, needs, checkpoint_every
            )
        dx, *others = found
        return None, dx, *[g for g, i in zip(others, places, strict=True) if i >= 0]


def _is_batched(gradient: Tensor | None) -> bool:
    """Tell whether it comes from, say, `torch.autograd.functional.jacobian(vectorize=True)`."""
    return gradient is not None and torch._C._functorch.is_legacy_batchedtensor(gradient)


# `apply` of the base class, without what the derived one does for torch.func's transforms: those
# never come here, see `lacks`.
_apply = super(torch.autograd.Function, _Layer).apply


def _reference_gradients(
    cell: Cell, x: Tensor, tokens: Tensor | None, lengths: Tensor | None, h0: Tensor | None,
    c0: Tensor | None, flat: _Flat, gradients: Sequence[Tensor | None], needs: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """Return the gradients as differentiable functions of all that they depend on."""
    n = len(_WEIGHTS)
    with torch.enable_grad():
        weights = [
            {k: t for k, t in zip(_WEIGHTS, flat[i : i + n], strict=True) if t is not None}
            for i in range(0, len(flat), n)
        ]
        state: State | None = None
        if h0 is not None or c0 is not None:
            state = cell.state_type(*(t for t in (h0, c0) if t is not None))
        steps = x if tokens is None else embedding(tokens, x)
        y, last = run_directions(cell, weights, steps, state, lengths)
        outputs = [
            (out, gradient)
            for out, gradient in zip((y, *last), gradients, strict=False)
            if gradient is not None
        ]
        inputs = (x, h0, c0, *flat)
        needed = [t for t, need in zip(inputs, needs, strict=True) if need and t is not None]
        found = iter(
            torch.autograd.grad(
                [out for out, _ in outputs],
                needed,
                [gradient for _, gradient in outputs],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
        )
    return [
        next(found) if need and t is not None else None
        for t, need in zip(inputs, needs, strict=True)
    ]


# For graphs: what `torch.compile` and `torch.export` see of the core. `weights` are those that a
# cell has, of one direction after the other; `workspace_size` depends on the instruction set: a
# constant of the graph, so that none is taken from a cache that was compiled for another.


def _slots(weights: Sequence[Tensor], directions: int) -> list[Tensor | None]:
    """Return the weights in the order of `_WEIGHTS`, None for biases or a projection not there."""
    n = len(weights) // directions
    has_bias, is_projected = n > 3, n % 2 == 1
    slots: list[Tensor | None] = []
    for i in range(0, len(weights), n):
        ih, hh, *rest = weights[i : i + n]
        slots += [ih, hh, *(rest[:2] if has_bias else (None, None))]
        slots.append(rest[-1] if is_projected else None)
    return slots


def _layer(
    x: Tensor, lengths: Tensor | None, h0: Tensor | None, c0: Tensor | None,
    weights: Sequence[Tensor], shape: Sequence[int], directions: int,
    workspace_size: int, checkpoint_every: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y, h, c and the values kept for backward; empty tensors for missing ones."""
    keeps: _Keeps = "checkpoints" if checkpoint_every else "readable workspace"
    core_shape, flat = cast(_Shape, tuple(shape)), _slots(weights, directions)
    y, h, c, kept = _forward(core_shape, x, None, lengths, h0, c0, flat, keeps, checkpoint_every)
    return y, h, x.new_empty(0) if c is None else c, x.new_empty(0) if kept is None else kept


def _layer_shapes(
    x: Tensor, lengths: Tensor | None, h0: Tensor | None, c0: Tensor | None,
    weights: Sequence[Tensor], shape: Sequence[int], directions: int,
    workspace_size: int, checkpoint_every: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    T, B, _ = x.shape
    kept: Tensor | None = x.new_empty(directions, T, B, workspace_size)
    if checkpoint_every:
        kept = _new_checkpoints(shape, x, directions, T, B, checkpoint_every)
    return (
        _empty_sequence(x, directions * shape[4], x),
        x.new_empty(directions, B, shape[4]),
        x.new_empty(directions, B, shape[3]) if shape[0] == 1 else x.new_empty(0),
        x.new_empty(0) if kept is None else kept,
    )


def _layer_gradients(
    x: Tensor, lengths: Tensor | None, h0: Tensor | None, c0: Tensor | None,
    weights: Sequence[Tensor], shape: Sequence[int], directions: int,
    checkpoint_every: int, y: Tensor, kept: Tensor, dy: Tensor | None, dh: Tensor | None,
    dc: Tensor | None, needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    """Return gradients of x, h0, c0 and the weights; empty where ``needs`` says no."""
    flat, need = _slots(weights, directions), iter(needs[3:])
    all_needs = [*needs[:3], *(t is not None and next(need) for t in flat)]
    own: Tensor | None = kept.clone() if not checkpoint_every else kept  # backward overwrites it
    if checkpoint_every and shape[0] != 1:
        own = None
    found = _backward(
        cast(_Shape, tuple(shape)), x, None, lengths, h0, c0, flat, y, own, (dy, dh, dc),
        all_needs, checkpoint_every,
    )  # fmt: skip
    present = [*found[:3], *(g for g, t in zip(found[3:], flat, strict=True) if t is not None)]
    return [x.new_empty(0) if g is None else g for g in present]


def _gradient_shapes(
    x: Tensor, lengths: Tensor | None, h0: Tensor | None, c0: Tensor | None,
    weights: Sequence[Tensor], *rest: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    needs = rest[-1]
    dx = _empty_sequence(x, x.shape[2], x) if needs[0] else x.new_empty(0)
    others = zip((h0, c0, *weights), needs[1:], strict=True)
    return [dx, *(_new_like(t) if n and t is not None else x.new_empty(0) for t, n in others)]


class _GraphContext(Protocol):
    """Context that autograd passes from the operator to its backward."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, bool, bool, bool, list[bool], bool, bool, bool, bool]
    cell: tuple[Sequence[int], int, int]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...
    def set_materialize_grads(self, value: bool) -> None: ...


def _remember(
    ctx: _GraphContext,
    inputs: tuple[
        Tensor, Tensor | None, Tensor | None, Tensor | None, list[Tensor], list[int], int, int, int
    ],
    output: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    x, lengths, h0, c0, weights, shape, directions, _, checkpoint_every = inputs
    ctx.save_for_backward(x, lengths, h0, c0, output[0], output[3], *weights)
    ctx.set_materialize_grads(False)
    ctx.cell = shape, directions, checkpoint_every


def _operator_backward(
    ctx: _GraphContext, *gradients: Tensor | None
) -> tuple[Tensor | list[Tensor | None] | None, ...]:
    x, lengths, h0, c0, y, kept, *weights = ctx.saved_tensors
    needs_x, _, needs_h, needs_c, needs_weights, *_ = ctx.needs_input_grad
    needs = [needs_x, needs_h, needs_c, *needs_weights]
    dy, dh, dc, _ = gradients
    found = _gradients_operator(
        x, lengths, h0, c0, weights, *ctx.cell, y, kept, dy, dh,
        dc if ctx.cell[0][0] == 1 else None, needs,
    )  # fmt: skip
    dx, dh0, dc0, *dweights = [g if need else None for g, need in zip(found, needs, strict=True)]
    return dx, None, dh0, dc0, dweights, None, None, None, None


_layer_operator = torch.library.custom_op("ostinato::layer", _layer, mutates_args=())
_layer_operator.register_fake(_layer_shapes)
_layer_operator.register_autograd(_operator_backward, setup_context=_remember)
_gradients_operator = torch.library.custom_op(
    "ostinato::layer_gradients", _layer_gradients, mutates_args=()
)
_gradients_operator.register_fake(_gradient_shapes)
