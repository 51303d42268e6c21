"""The compiled core: eagerly by an autograd function, in graphs by custom operators.

``given`` are h0, c0 and the weights of all directions in the order of `_WEIGHTS`, None for those a
cell lacks; states are ``(directions, B, size)``. The workspace ``(directions, T, B, numbers)`` has
the values of forward that backward needs, gates among them: see cpp/lines.hpp. With checkpoints
an LSTM's c is kept every so many steps instead; of other cells y has the state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import compress
from typing import Literal, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn.functional import embedding

from ostinato.recurrence.backends.core import core, warn_of_missing_core
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
_MaybeTensor = TypeVar("_MaybeTensor", bound=Tensor | None)


def constant_in_graphs(f: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let `torch.compile` call f when it traces, and keep the result."""
    # As `torch.compiler.assume_constant_result`, which would import all of Dynamo.
    setattr(f, "_dynamo_marked_constant", True)  # noqa: B010
    return f


def lacks(cells: tuple[Cell, ...], x: Tensor, autocast: bool = False) -> str:
    """Return why the core cannot serve a call, which may be under autocast; empty where it can."""
    if core is None:
        if not torch.compiler.is_compiling():
            warn_of_missing_core()
        return "it is not installed"
    for cell in cells:
        if type(cell.standard_cell()) not in STANDARD:
            return "it has no equations for this cell"
    known = x.dtype in (torch.float32, torch.float64) or (autocast and x.is_floating_point())
    if not x.is_cpu or not known:
        return f"it computes in float32 and float64 on a CPU, not in {x.dtype} on {x.device}"
    if is_transformed():
        return "it has no rule for torch.func's transforms and forward-mode derivatives"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit cannot trace it"
    return ""


@constant_in_graphs
def is_transformed() -> bool:
    """Return whether a transform is active: vmap, grad of grad, jvp."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
_Given = Sequence[Tensor | None]
_Shape = tuple[int, int, int, int, int]
_Keeps = Literal["nothing", "workspace", "readable workspace"]


@lru_cache(maxsize=1024)
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


def flat_weights(w: Weights) -> list[Tensor | None]:
    """Return the weights in the order in which the core takes them."""
    return [w.get(name) for name in _WEIGHTS]


@lru_cache(maxsize=1024)
@constant_in_graphs
def _workspace_size(shape: _Shape, dtype: torch.dtype) -> int:
    """Numbers of the workspace for one step of one row."""
    return core.line_length(shape, dtype == torch.float64)


@constant_in_graphs
def _gate_at(shape: _Shape, dtype: torch.dtype, gate: int) -> int:
    return core.gate_at(shape, dtype == torch.float64, gate)


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
    """Run one layer of a standard cell; arguments and results as those of `backends.run`.

    Under autocast it computes in float32 and returns the type of autocast, but of float64.
    """
    given: list[Tensor | None] = [None, None]
    if state is not None:
        given = [state.h, state.c if isinstance(state, LSTMState) else None]
    given += [t for w in weights for t in flat_weights(w)]
    lower: torch.dtype | None = None
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        lower = torch.get_autocast_dtype("cpu")
        x, given = x.float(), [None if t is None else t.float() for t in given]
    workspace: Tensor | None = None
    graph = in_graph(x)
    if graph or (torch.is_grad_enabled() and _any_requires_grad(x, *given)):
        lengths, tokens = kept(lengths, graph), kept(tokens, graph)
        tensors = [t for t in given if t is not None]
        present = tuple([t is not None for t in given])
        if graph:  # where PyTorch sees through caches, and warns
            shape, places = shape_of.__wrapped__(cell), _places.__wrapped__(present)
            size = _workspace_size.__wrapped__(shape, x.dtype)
            y, h, c, workspace = _layer_operator(
                x, lengths, tensors, [*shape], [*places], size, checkpoint_every
            )
            # A graph must not return views of tensors that it keeps for backward.
            workspace = workspace.detach().clone() if traces is not None else None
        else:
            shown: list[Tensor] | None = None if traces is None else []
            call = _Call(cell, shown, tokens, lengths, _places(present), checkpoint_every)
            y, h, c = _apply(call, x, *tensors)  # type: ignore[no-untyped-call]
            workspace = shown[0] if shown else None
    else:
        keeps: _Keeps = "nothing" if traces is None else "readable workspace"
        y, h, c, workspace = _forward(shape_of(cell), x, tokens, lengths, given, keeps)
    if traces is not None and workspace is not None:
        outputs = y.detach().clone() if graph else _copied(y.detach())  # for changes of y in place
        each = zip(workspace.detach().unbind(0), outputs.chunk(len(weights), -1), strict=True)
        traces += [_trace_of(cell, part, h) for part, h in each]
    if lower is not None:
        y, h, c = y.to(lower), h.to(lower), None if c is None else c.to(lower)
    last: State = LSTMState(h, c) if isinstance(cell, LSTMCell) else cell.state_type(h)
    return y, last


def in_graph(x: Tensor) -> bool:
    """Return whether a call becomes part of a graph, by a compiler or by a tensor that traces."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, Parameter)


def kept(numbers: Tensor | None, graph: bool) -> Tensor | None:
    """Return a copy of lengths or tokens, for backward; in a graph one that no compiler removes.

    A loader may put the next batch into the same memory before backward.
    """
    if numbers is None or not torch.is_grad_enabled():
        return numbers
    return _copy_operator(numbers) if graph else numbers.clone()


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    for t in tensors:  # noqa: SIM110  a generator costs a microsecond
        if t is not None and t.requires_grad:
            return True
    return False


def _trace_of(cell: Cell, workspace: Tensor, h: Tensor) -> Trace:
    """Return views of one direction's workspace."""
    shape, kind = shape_of.__wrapped__(cell), cell.gates_type

    def read(gate: int) -> Tensor:
        at = _gate_at(shape, workspace.dtype, gate)
        return workspace[..., at : at + cell.hidden_size]

    gates = 0 if kind is None else cast(GatedCell, cell).gates_per_unit
    state: State = LSTMState(h, read(gates)) if isinstance(cell, LSTMCell) else cell.state_type(h)
    return Trace(kind(*map(read, range(gates))) if kind else None, state)


def _forward(
    shape: _Shape, x: Tensor, tokens: Tensor | None, lengths: Tensor | None, given: _Given,
    keeps: _Keeps, checkpoint_every: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Return outputs, last states, and the values kept for backward."""
    steps = x if tokens is None else tokens
    T, B, *_ = steps.shape
    D = len(given) // len(_WEIGHTS)
    if not core.are_readable(x, *given):
        x, given = _rowwise(x), [*map(dense, given)]
    y = _empty_sequence(x, D * shape[4], steps)
    h = x.new_empty(D, B, shape[4])
    c = x.new_empty(D, B, shape[3]) if shape[0] == 1 else None
    workspace = c_kept = None
    if checkpoint_every:
        c_kept = _new_checkpoints(shape, x, D, T, B, checkpoint_every)
    elif keeps != "nothing":
        # Backward does not read past a row's length; a trace must find zeros there.
        workspace = x.new_empty(D, T, B, _workspace_size(shape, x.dtype))
        if keeps == "readable workspace" and lengths is not None:
            workspace.numpy().fill(0)
    core.forward(
        shape, x, lengths, given[0], given[1], tuple(given[2:]), y, h, c, workspace,
        torch.get_num_threads(), tokens, checkpoint_every, c_kept,
    )  # fmt: skip
    return y, h, c, c_kept if workspace is None else workspace


def _new_checkpoints(
    shape: Sequence[int], x: Tensor, D: int, T: int, B: int, checkpoint_every: int
) -> Tensor | None:
    """Return room for c after every ``checkpoint_every`` steps but the last; of an LSTM."""
    return x.new_empty(D, max(T - 1, 0) // checkpoint_every, B, shape[3]) if shape[0] == 1 else None


def _backward(
    shape: _Shape, x: Tensor, tokens: Tensor | None, lengths: Tensor | None, given: _Given,
    y: Tensor, kept: Tensor | None, gradients: _Given, needs: Sequence[bool], checkpoint_every: int,
) -> list[Tensor | None]:  # fmt: skip
    """Return the needed gradients of x and what is given; overwrites the workspace."""
    dy, dh, dc = gradients
    if not core.are_readable(x, *given, dh, dc):
        x, given, dh, dc = _rowwise(x), [*map(dense, given)], dense(dh), dense(dc)
    if dy is not None and not core.are_readable(dy):
        dy = _rowwise(dy)
    dx = None
    if needs[0]:
        dx = _empty_sequence(x, shape[2], x) if tokens is None else torch.empty_like(x)
    found = [
        torch.empty_like(tensor) if needed and tensor is not None else None
        for tensor, needed in zip(given, needs[1:], strict=True)
    ]
    # Hooks on saved tensors may bring them back laid out in another way.
    if kept is not None and (not kept.is_contiguous() or kept.data_ptr() % 64):
        kept = torch.empty_like(kept, memory_format=torch.contiguous_format).copy_(kept)
    workspace, c_kept = (None, kept) if checkpoint_every else (kept, None)
    core.backward(
        shape, x, lengths, given[0], given[1], tuple(given[2:]), _rowwise(y), workspace, dy, dh,
        dc, dx, found[0], found[1], tuple(found[2:]), torch.get_num_threads(), tokens,
        checkpoint_every, c_kept,
    )  # fmt: skip
    return [dx, *found]


def _empty_sequence(x: Tensor, features: int, like: Tensor) -> Tensor:
    """Return a new (T, B, features) of x's type, laid out in memory as ``like (T, B, ...)`` is."""
    T, B, *_ = like.shape
    t_stride, b_stride, *_ = like.stride()
    if t_stride < b_stride:  # no view: autograd lets none of those be changed in place
        return x.new_empty_strided((T, B, features), (features, T * features, 1))
    return x.new_empty(T, B, features)


def _rowwise(x: Tensor) -> Tensor:
    """Return x with the features of a step side by side; a table contiguous."""
    x = x.resolve_neg()
    whole = x.is_contiguous() if x.dim() == 2 else x.stride(2) == 1 or x.shape[2] == 1
    return x if whole else x.contiguous()


def _copied(x: Tensor) -> Tensor:
    """Return a copy, by NumPy: PyTorch's threads, with which it copies, die in a forked child."""
    copy = torch.empty_like(x)
    np.copyto(copy.numpy(), x.numpy())
    return copy


@overload
def dense(x: Tensor) -> Tensor: ...
@overload
def dense(x: Tensor | None) -> Tensor | None: ...
def dense(x: Tensor | None) -> Tensor | None:
    """Return x with all numbers side by side."""
    return None if x is None else x.resolve_neg().contiguous()


class _Call(NamedTuple):
    """Arguments of `_Layer` beside tensors with gradients: a None costs autograd a microsecond."""

    cell: Cell
    shown: list[Tensor] | None
    """A list to which the workspace is added for traces; None without traces."""
    tokens: Tensor | None
    lengths: Tensor | None
    places: tuple[int, ...]
    """Position of each of those given among those present; -1 if missing."""
    checkpoint_every: int


@lru_cache(maxsize=1024)
def _places(present: tuple[bool, ...]) -> tuple[int, ...]:
    """Return numbers of those that are present, in order, and -1 for the others."""
    return tuple(sum(present[:i]) if each else -1 for i, each in enumerate(present))


class _AutogradContext(Protocol):
    """Context that autograd passes from forward to backward."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...
    def set_materialize_grads(self, value: bool) -> None: ...


class _Context(_AutogradContext, Protocol):
    needs_input_grad: tuple[bool, ...]
    call: _Call
    used_up: bool
    version_of_y: Tensor
    """Without numbers; its version counts the changes of y in place."""


_NO_NUMBERS = torch.empty(0)


class _Layer(torch.autograd.Function):
    """One layer of the core for eager autograd; `_layer_operator` is the same for graphs."""

    @staticmethod
    def forward(
        ctx: _Context, call: _Call, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        cell, shown, tokens, lengths, places, checkpoint_every = call
        padded = (*tensors, None)
        keeps: _Keeps = "workspace" if shown is None else "readable workspace"
        given, shape = [padded[i] for i in places], shape_of(cell)
        y, h, c, kept = _forward(shape, x, tokens, lengths, given, keeps, checkpoint_every)
        # The caller may change y in place, as with PyTorch's: backward then computes it again.
        # What is saved has a version of its own, or autograd would refuse.
        ctx.version_of_y = y.detach()
        ctx.version_of_y.data = _NO_NUMBERS
        ctx.save_for_backward(x, y.data, kept, tokens, lengths, *tensors)
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
        given = [padded[i] for i in places]
        _, needs_x, *required = ctx.needs_input_grad
        needs = [needs_x, *[i >= 0 and required[i] for i in places]]
        if torch.is_grad_enabled() or is_transformed() or any(map(is_batched, gradients)):
            found = _reference_gradients(cell, x, tokens, lengths, given, gradients, needs)
        else:
            shape = shape_of(cell)
            # An earlier backward, with its graph retained, used it up; or y was changed in place.
            if ctx.used_up or ctx.version_of_y._version:
                y, _, _, kept = _forward(
                    shape, x, tokens, lengths, given, "workspace", checkpoint_every
                )
            elif shown is not None:
                kept = _copied(saved)
            else:
                ctx.used_up = not checkpoint_every
            found = _backward(
                shape, x, tokens, lengths, given, y, kept, gradients, needs, checkpoint_every
            )
        dx, *others = found
        return None, dx, *[g for g, i in zip(others, places, strict=True) if i >= 0]


def is_batched(gradient: Tensor | None) -> bool:
    """Tell whether it comes from, say, `torch.autograd.functional.jacobian(vectorize=True)`."""
    return gradient is not None and torch._C._functorch.is_legacy_batchedtensor(gradient)


def apart(tensors: Sequence[_MaybeTensor]) -> list[_MaybeTensor]:
    """Return tensors none of which depends on another, as the states of a layer on its weights.

    So the gradient of each is that of its own use alone, and not again that of what it was made of.
    """
    views = [None if t is None else t.view_as(t) for t in tensors]
    return cast(list[_MaybeTensor], views)


# `apply` of the base class, without what the derived one does for torch.func's transforms: those
# never come here, see `lacks`.
_apply = super(torch.autograd.Function, _Layer).apply


def _reference_gradients(
    cell: Cell, x: Tensor, tokens: Tensor | None, lengths: Tensor | None, given: _Given,
    gradients: _Given, needs: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """Return the gradients as differentiable functions of all that they depend on."""
    n = len(_WEIGHTS)
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        (x,), given = apart([x]), apart(given)
        weights = [
            {k: t for k, t in zip(_WEIGHTS, given[i : i + n], strict=True) if t is not None}
            for i in range(2, len(given), n)
        ]
        before = [t for t in given[:2] if t is not None]
        steps = x if tokens is None else embedding(tokens, x)
        state = cell.state_type(*before) if before else None
        y, last = run_directions(cell, weights, steps, state, lengths)
        pairs = zip((y, *last), gradients, strict=False)
        outputs, known = zip(*((out, g) for out, g in pairs if g is not None), strict=True)
        needed = cast(list[Tensor], [*compress((x, *given), needs)])
        found = iter(
            torch.autograd.grad(outputs, needed, known, create_graph=True, allow_unused=True)
        )
    return [next(found) if need else None for need in needs]


# For graphs: what `torch.compile` and `torch.export` see of the core. `tensors` and `places` are as
# in `_Call`; `workspace_size` depends on the instruction set: a constant of the graph, so that none
# is taken from a cache that was compiled for another.


def _layer(
    x: Tensor, lengths: Tensor | None, tensors: Sequence[Tensor], shape: Sequence[int],
    places: Sequence[int], workspace_size: int, checkpoint_every: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y, h, c and the values kept for backward; empty tensors for missing ones."""
    padded, core_shape = (*tensors, None), cast(_Shape, tuple(shape))
    given = [padded[i] for i in places]
    y, h, c, kept = _forward(
        core_shape, x, None, lengths, given, "readable workspace", checkpoint_every
    )
    return y, h, x.new_empty(0) if c is None else c, x.new_empty(0) if kept is None else kept


def _layer_shapes(
    x: Tensor, lengths: Tensor | None, tensors: Sequence[Tensor], shape: Sequence[int],
    places: Sequence[int], workspace_size: int, checkpoint_every: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (T, B, _), D = x.shape, len(places) // len(_WEIGHTS)
    kept: Tensor | None = x.new_empty(D, T, B, workspace_size)
    if checkpoint_every:
        kept = _new_checkpoints(shape, x, D, T, B, checkpoint_every)
    return (
        _empty_sequence(x, D * shape[4], x),
        x.new_empty(D, B, shape[4]),
        x.new_empty(D, B, shape[3]) if shape[0] == 1 else x.new_empty(0),
        x.new_empty(0) if kept is None else kept,
    )


def _layer_gradients(
    x: Tensor, lengths: Tensor | None, tensors: Sequence[Tensor], shape: Sequence[int],
    places: Sequence[int], checkpoint_every: int, y: Tensor, kept: Tensor, dy: Tensor | None,
    dh: Tensor | None, dc: Tensor | None, needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    """Return gradients of x and the tensors; empty where ``needs`` says no."""
    padded, core_shape = (*tensors, None), cast(_Shape, tuple(shape))
    given = [padded[i] for i in places]
    all_needs = [needs[0], *(i >= 0 and needs[1 + i] for i in places)]
    own: Tensor | None = kept.clone() if not checkpoint_every else kept  # backward overwrites it
    if checkpoint_every and shape[0] != 1:
        own = None
    gradients = (dy, dh, dc)
    dx, *others = _backward(
        core_shape, x, None, lengths, given, y, own, gradients, all_needs, checkpoint_every
    )
    found = [dx, *(g for g, i in zip(others, places, strict=True) if i >= 0)]
    return [x.new_empty(0) if g is None else g for g in found]


def _gradient_shapes(
    x: Tensor, lengths: Tensor | None, tensors: Sequence[Tensor], *rest: Sequence[bool]
) -> list[Tensor]:
    dense = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]
    each = zip([_empty_sequence(x, x.shape[2], x), *dense], rest[-1], strict=True)
    return [t if need else x.new_empty(0) for t, need in each]


class _GraphContext(_AutogradContext, Protocol):
    needs_input_grad: tuple[bool, bool, list[bool], bool, bool, bool, bool]
    cell: tuple[Sequence[int], Sequence[int], int]


def _remember(
    ctx: _GraphContext,
    inputs: tuple[Tensor, Tensor | None, list[Tensor], list[int], list[int], int, int],
    output: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    x, lengths, tensors, shape, places, _, checkpoint_every = inputs
    ctx.save_for_backward(x, lengths, output[0], output[3], *tensors)
    ctx.set_materialize_grads(False)
    ctx.cell = shape, places, checkpoint_every


def _operator_backward(
    ctx: _GraphContext, *gradients: Tensor | None
) -> tuple[Tensor | list[Tensor | None] | None, ...]:
    x, lengths, y, kept, *tensors = ctx.saved_tensors
    needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[2]]
    dy, dh, dc, _ = gradients
    found = _gradients_operator(
        x, lengths, tensors, *ctx.cell, y, kept, dy, dh, dc if ctx.cell[0][0] == 1 else None, needs
    )
    dx, *others = [g if need else None for g, need in zip(found, needs, strict=True)]
    return dx, None, others, None, None, None, None


def _copy(numbers: Tensor) -> Tensor:
    return numbers.clone()


_copy_operator = torch.library.custom_op("ostinato::copy", _copy, mutates_args=())
_copy_operator.register_fake(torch.empty_like)
_layer_operator = torch.library.custom_op("ostinato::layer", _layer, mutates_args=())
_layer_operator.register_fake(_layer_shapes)
_layer_operator.register_autograd(_operator_backward, setup_context=_remember)
_gradients_operator = torch.library.custom_op(
    "ostinato::layer_gradients", _layer_gradients, mutates_args=()
)
_gradients_operator.register_fake(_gradient_shapes)
