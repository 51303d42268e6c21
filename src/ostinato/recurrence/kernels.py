"""The same equations on fast paths, and which path serves a call.

- ``"compiled"``: our own core, in C++. On a CPU, float32 and float64, the standard cells and those
  that are one of them with tied weights (see `Cell.standard_cell`), rows of equal or unequal
  length; its gradients once. Its results are the same to the last bit however
  a sequence is cut into chunks, whatever else is in the batch, and on any number of threads.
- ``"torch"``: PyTorch's own fused operators (cuDNN on CUDA). The standard cells, rows of one
  length.
- ``"reference"``: `scan`, plain PyTorch. Any cell, dtype and device, any number of derivatives.

Which path runs is chosen call by call, is written to the log ``ostinato.recurrence`` at level
DEBUG, and can be asked with `choose` and forced with `use_backend`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, cast, get_args, overload

import torch
from torch import _VF, Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from ostinato import _core
from ostinato.errors import OstinatoError
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
from ostinato.recurrence.scan import reverse_rows, scan, trace

Backend = Literal["compiled", "torch", "reference"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_log = logging.getLogger("ostinato.recurrence")
_STANDARD = (RNNCell, LSTMCell, GRUCell)
_DTYPES = (torch.float32, torch.float64)
_forced: ContextVar[Backend | None] = ContextVar("ostinato_backend", default=None)


@contextmanager
def use_backend(name: Backend | Literal["auto"]) -> Iterator[None]:
    """Serve every recurrent call inside the block by one path.

    A function that `torch.compile` compiles keeps the path of the time when it was traced.

    Args:
        name: ``"compiled"``, ``"torch"``, ``"reference"``, or ``"auto"`` for the fastest that
            applies. A call the named path cannot serve is an `OstinatoError`.

    Example:
        PyTorch's own operators instead of the compiled core:

        >>> import ostinato
        >>> layer = ostinato.LSTM(3, 4)
        >>> with use_backend("torch"):
        ...     ostinato.backend(layer, torch.randn(5, 2, 3))
        'torch'
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


def _constant_in_graphs(f: Callable[_P, _R]) -> Callable[_P, _R]:
    """`torch.compile` asks f when it traces, and keeps the answer."""
    return cast("Callable[_P, _R]", torch.compiler.assume_constant_result(f))  # type: ignore[no-untyped-call]


@_constant_in_graphs
def _forced_now() -> Backend | None:
    return _forced.get()


def is_fused_by_torch(cell: Cell) -> bool:
    """Whether PyTorch has a fused operator for this cell's equations."""
    cell = cell.standard_cell()
    if type(cell) is RNNCell:
        return cell.activation in ("tanh", "relu")
    if type(cell) is GRUCell:
        return cell.reset_after
    return type(cell) is LSTMCell


def compiled_lacks(cells: tuple[Cell, ...], x: Tensor) -> str:
    """Why the core cannot serve a call; empty where it can."""
    for cell in cells:
        if type(cell.standard_cell()) not in _STANDARD:
            return "it has no equations for this cell"
    if not x.is_cpu or x.dtype not in _DTYPES:
        return f"it computes in float32 and float64 on a CPU, not in {x.dtype} on {x.device}"
    if torch.is_autocast_enabled("cpu"):
        return "it does not take part in autocast"
    if _is_transformed():
        return "it has no rule for torch.func's transforms and forward-mode derivatives"
    if _is_traced():
        return "torch.jit cannot trace it"
    return ""


@_constant_in_graphs
def _is_transformed() -> bool:
    """Whether more is asked than values and first derivatives: vmap, grad of grad, jvp."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@_constant_in_graphs
def _is_traced() -> bool:
    return torch._C._get_tracing_state() is not None


def choose(
    cells: Cell | tuple[Cell, ...], x: Tensor, *, steps: int | None = None, padded: bool = False
) -> Backend:
    """The path that serves a call.

    Args:
        cells: the cell, or all cells of a stack.
        x: the input, ``(T, B, I)``, or whatever has its dtype and device.
        steps: ``T``, where ``x`` does not tell.
        padded: whether rows have unequal lengths.
    """
    cells = (cells,) if isinstance(cells, Cell) else cells
    forced = _forced_now()
    if forced == "reference":
        return "reference"
    lacks = compiled_lacks(cells, x)
    if not lacks and forced is None:
        return "compiled"
    if forced == "compiled" and lacks:
        raise OstinatoError(
            f"use_backend('compiled'): the compiled core cannot serve {cells[0]!r}: {lacks}; "
            "use 'auto' or 'reference'."
        )
    if not lacks and forced != "torch":
        return "compiled"
    steps = x.shape[0] if steps is None else steps
    able = steps > 0 and not padded and all(is_fused_by_torch(cell) for cell in cells)
    if forced is None and _is_transformed():
        return "reference"
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
    """One layer, in one direction or both, by the fastest path that serves the call.

    Args:
        cell: the equations.
        weights: those of each direction; the second direction reads backward.
        x: input ``(T, B, I)``.
        state: tensors ``(directions, B, size)``; zeros when None.
        lengths: as in `scan`.
        tokens: which row of ``x``, then a table ``(V, I)``, each step takes; ``(T, B)`` integers.
        traces: where a `Trace` of each direction is put. PyTorch's own operators cannot tell any.
        checkpoint_every: keep the state every so many steps, and compute what lies between again
            in backward; 0 to keep all. Traces keep all in any case.

    Returns:
        outputs ``(T, B, directions * size)`` and the state after each row's last step.
    """
    T, B, *_ = (x if tokens is None else tokens).shape
    backend = choose(cell, x, steps=T, padded=lengths is not None)
    if tokens is not None:  # the core alone multiplies tables, where it pays
        graph = torch.compiler.is_compiling() or type(x) not in (Tensor, Parameter)
        if backend != "compiled" or graph or 2 * x.shape[0] > tokens.numel():
            x, tokens = embedding(tokens, x), None
    if not torch.compiler.is_compiling() and _log.isEnabledFor(logging.DEBUG):
        _log.debug("%s: %s %s", backend, cell, (T, B, cell.input_size))
    own = backend == "reference" or (backend == "torch" and traces is not None)
    if not own and type(cell) not in _STANDARD:
        weights = [cell.standard_weights(w) for w in weights]
        cell = cell.standard_cell()
    if traces is not None:
        checkpoint_every = 0
    if backend == "compiled":
        return _compiled(cell, weights, x, state, lengths, tokens, traces, checkpoint_every)
    if checkpoint_every and T and torch.is_grad_enabled() and not _is_transformed():
        segment = _reference if backend == "reference" else _torch
        return _in_segments(segment, cell, weights, x, state, lengths, checkpoint_every)
    if backend == "reference" or traces is not None:
        return _reference(cell, weights, x, state, lengths, traces)
    return _torch(cell, weights, x, state)


def _reference(
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    traces: list[Trace] | None = None,
) -> tuple[Tensor, State]:
    runs: list[tuple[Tensor, State]] = []
    for i, w in enumerate(weights):
        before = state and cell.state_type(*(s[i] for s in cast(tuple[Tensor, ...], state)))
        if traces is None:
            runs.append(scan(cell, w, x, before, lengths, reverse=i == 1))
        else:
            y, last, seen = trace(cell, w, x, before, lengths, reverse=i == 1)
            runs.append((y, last))
            traces.append(seen)
    outputs = [y for y, _ in runs]
    lasts = (torch.stack(parts) for parts in zip(*(s for _, s in runs), strict=True))
    return outputs[0] if len(runs) == 1 else torch.cat(outputs, dim=-1), cell.state_type(*lasts)


def _in_segments(
    run_segment: Callable[..., tuple[Tensor, State]],
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    checkpoint_every: int,
) -> tuple[Tensor, State]:
    """A layer of which autograd keeps inputs and states of segments, and runs them again."""
    runs: list[tuple[Tensor, State]] = []
    for i, w in enumerate(weights):
        steps = reverse_rows(x, lengths) if i == 1 else x
        last = state and cell.state_type(*(s[i : i + 1] for s in cast(tuple[Tensor, ...], state)))
        outputs = []
        for t, part in enumerate(torch.split(steps, checkpoint_every)):
            left = None if lengths is None else lengths - t * checkpoint_every
            left = None if left is None else left.clamp(0, part.shape[0])
            given = (part, last) if run_segment is _torch else (part, last, left)
            y, last = checkpoint(run_segment, cell, [w], *given, use_reentrant=False)
            outputs.append(y)
        y = torch.cat(outputs)
        runs.append((reverse_rows(y, lengths) if i == 1 else y, cast(State, last)))
    lasts = (torch.cat(parts) for parts in zip(*(s for _, s in runs), strict=True))
    return torch.cat([y for y, _ in runs], dim=-1), cell.state_type(*lasts)


def _torch(
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
) -> tuple[Tensor, State]:
    """PyTorch's fused operator."""
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    rest = (cell.bias, 1, 0.0, torch.is_grad_enabled(), len(weights) == 2, False)
    flat = [w[name] for w in weights for name in cell.weight_shapes()]
    if state is None:
        zeros = cell.zero_state(x.shape[1], like=x)
        state = cell.state_type(*(s.expand(len(weights), -1, -1).contiguous() for s in zeros))  # type: ignore[attr-defined]
    if isinstance(state, LSTMState):
        y, h, c = _VF.lstm(x, (state.h, state.c), flat, *rest)
        return y, LSTMState(h, c)
    operator = _VF.gru
    if isinstance(cell, RNNCell):
        operator = _VF.rnn_tanh if cell.activation == "tanh" else _VF.rnn_relu
    y, h = operator(x, state.h, flat, *rest)
    return y, cell.state_type(h)


# The compiled core. `flat` are the weights of all directions in the order of `_WEIGHTS`, None for
# what a cell lacks; states are (directions, B, size). Lines are what backward needs of forward, and
# where gates can be read: see cpp/lines.hpp. With checkpoints there are none: what is kept for
# backward is then c of an LSTM every so many steps, and nothing of the others, whose state is in y.

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
_Flat = Sequence[Tensor | None]
_Shape = tuple[int, int, int, int, int]
_Keeps = Literal["nothing", "lines", "lines to be seen", "checkpoints"]


def shape_of(cell: Cell) -> _Shape:
    """The cell as the core knows it: kind, activation, I, H, P."""
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
    """The weights in the order in which the core takes them."""
    return [w.get(name) for name in _WEIGHTS]


@lru_cache(maxsize=1024)
def _line_length(shape: Sequence[int], dtype: torch.dtype) -> int:
    return _core.line_length(shape, dtype == torch.float64)


@_constant_in_graphs
def _line_length_of_graphs(shape: _Shape, doubles: bool) -> int:
    return _core.line_length(shape, doubles)


@_constant_in_graphs
def _gate_at(shape: _Shape, doubles: bool, gate: int) -> int:
    return _core.gate_at(shape, doubles, gate)


def _compiled(
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    tokens: Tensor | None,
    traces: list[Trace] | None,
    checkpoint_every: int,
) -> tuple[Tensor, State]:
    flat = [t for w in weights for t in flat_weights(w)]
    h0, c0 = (None, None) if state is None else (state.h, getattr(state, "c", None))
    shown: list[Tensor] | None = None if traces is None else []
    graph = torch.compiler.is_compiling() or type(x) not in (Tensor, Parameter)
    if graph:
        shape = shape_of(cell)
        y, h, c, kept = _layer_operator(
            x, lengths, h0, c0, *flat, *[None] * (10 - len(flat)),
            shape=[
                *shape,
                _line_length_of_graphs(shape, x.dtype == torch.float64),
                checkpoint_every,
            ],
        )  # fmt: skip
        if shown is not None:
            # A graph may not give away views of what it keeps for backward.
            shown.append(kept.detach().clone())
    elif torch.is_grad_enabled() and _any_requires_grad(x, h0, c0, *flat):
        given = (h0, c0, *flat)
        tensors = [t for t in given if t is not None]
        places = _places(tuple([t is not None for t in given]))
        call = _Call(cell, shown, tokens, lengths, places, checkpoint_every)
        y, h, c = _apply(call, x, *tensors)  # type: ignore[no-untyped-call]
    else:
        keeps: _Keeps = "nothing" if shown is None else "lines to be seen"
        y, h, c, kept = _forward(_known_shape(cell), x, tokens, lengths, h0, c0, flat, keeps)
        if shown is not None:
            shown.append(cast(Tensor, kept))
    if traces is not None and shown:
        outputs = y.detach().clone() if graph else y.detach()
        each = zip(shown[0].detach().unbind(0), outputs.chunk(len(weights), -1), strict=True)
        traces += [_trace_of(cell, lines, h) for lines, h in each]
    return y, LSTMState(h, c) if isinstance(cell, LSTMCell) else cell.state_type(h)


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    for t in tensors:  # noqa: SIM110  a generator costs a microsecond
        if t is not None and t.requires_grad:
            return True
    return False


def _trace_of(cell: Cell, lines: Tensor, h: Tensor) -> Trace:
    """Views of one direction's lines."""
    shape, doubles, kind = shape_of(cell), lines.dtype == torch.float64, cell.gates_type

    def read(gate: int) -> Tensor:
        at = _gate_at(shape, doubles, gate)
        return lines[..., at : at + cell.hidden_size]

    gates = 0 if kind is None else len(kind._fields)
    state = LSTMState(h, read(gates)) if isinstance(cell, LSTMCell) else cell.state_type(h)
    return Trace(kind(*map(read, range(gates))) if kind else None, state)


def _forward(
    shape: _Shape,
    x: Tensor,
    tokens: Tensor | None,
    lengths: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    flat: _Flat,
    keeps: _Keeps,
    checkpoint_every: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Outputs, last states, and what is kept."""
    steps = x if tokens is None else tokens
    T, B, *_ = steps.shape
    D = 1 if len(flat) == len(_WEIGHTS) else 2
    if not _core.are_readable(x, h0, c0, *flat):
        x, h0, c0, flat = _rowwise(x), _dense(h0), _dense(c0), tuple(map(_dense, flat))
    y = _empty_sequence(x, D * shape[4], steps)
    h = x.new_empty(D, B, shape[4])
    c = x.new_empty(D, B, shape[3]) if shape[0] == 1 else None
    lines = c_kept = None
    if keeps == "checkpoints":
        c_kept = _new_checkpoints(shape, x, D, T, B, checkpoint_every)
    elif keeps != "nothing":
        # Nobody reads what is past a row's length but those who look, who find zeros.
        new = x.new_zeros if keeps == "lines to be seen" and lengths is not None else x.new_empty
        lines = new(D, T, B, _line_length(shape, x.dtype))
    _core.forward(
        shape, x, lengths, h0, c0, tuple(flat), y, h, c, lines, torch.get_num_threads(), tokens,
        checkpoint_every, c_kept,
    )  # fmt: skip
    return y, h, c, c_kept if lines is None else lines


def _new_checkpoints(
    shape: Sequence[int], x: Tensor, D: int, T: int, B: int, checkpoint_every: int
) -> Tensor | None:
    """Place for c after every ``checkpoint_every`` steps but the last; of an LSTM."""
    return x.new_empty(D, max(T - 1, 0) // checkpoint_every, B, shape[3]) if shape[0] == 1 else None


def _backward(
    shape: _Shape,
    x: Tensor,
    tokens: Tensor | None,
    lengths: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    flat: _Flat,
    y: Tensor,
    kept: Tensor | None,
    gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
    checkpoint_every: int = 0,
) -> list[Tensor | None]:
    """Gradients of x, h0, c0 and the weights, those that are needed; uses up kept lines."""
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
    lines, c_kept = (None, kept) if checkpoint_every else (kept, None)
    _core.backward(
        shape, x, lengths, h0, c0, tuple(flat), _rowwise(y), lines, dy, dh, dc,
        dx, dh0, dc0, tuple(dweights), torch.get_num_threads(), tokens, checkpoint_every, c_kept,
    )  # fmt: skip
    return [dx, dh0, dc0, *dweights]


def _empty_sequence(x: Tensor, features: int, like: Tensor) -> Tensor:
    """A new (T, B, features) of x's type, in memory by step or by row, as (T, B, ...) is."""
    T, B, *_ = like.shape
    t_stride, b_stride, *_ = like.stride()
    if t_stride < b_stride:
        return x.new_empty(B, T, features).transpose(0, 1)
    return x.new_empty(T, B, features)


def _rowwise(x: Tensor) -> Tensor:
    """The same with the features of a step side by side; a table whole."""
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
    """What a call of `_Layer` is given beside the tensors that may have gradients.

    Those, but for x, are what there is of h0, c0 and the weights: autograd spends a microsecond on
    each None.
    """

    cell: Cell
    shown: list[Tensor] | None
    """Where lines are put that somebody may look at."""
    tokens: Tensor | None
    lengths: Tensor | None
    places: tuple[int, ...]
    """Where each of h0, c0 and the weights stands among what there is; -1 where it is missing."""
    checkpoint_every: int


@lru_cache(maxsize=1024)
def _places(there: tuple[bool, ...]) -> tuple[int, ...]:
    """Numbers of those that are there, in order, and -1 for the others."""
    counted = iter(range(len(there)))
    return tuple(next(counted) if each else -1 for each in there)


class _Layer(torch.autograd.Function):
    """One layer of the core for eager autograd; `_layer_operator` is the same for graphs."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run forward."""
        cell, shown, tokens, lengths, places, checkpoint_every = call
        padded = (*tensors, None)
        h0, c0, *flat = [padded[i] for i in places]
        # A loader may put the next batch into the same memory before backward.
        lengths = None if lengths is None else lengths.clone()
        tokens = None if tokens is None else tokens.clone()
        keeps: _Keeps = "checkpoints" if checkpoint_every else "lines"
        if shown is not None:
            keeps = "lines to be seen"
        y, h, c, kept = _forward(
            _known_shape(cell), x, tokens, lengths, h0, c0, flat, keeps, checkpoint_every
        )
        ctx.save_for_backward(x, y, kept, tokens, lengths, *tensors)
        ctx.set_materialize_grads(False)
        ctx.cell, ctx.places, ctx.checkpoint_every = cell, places, checkpoint_every
        ctx.used_up, ctx.shown = False, shown is not None
        if shown is not None:
            shown.append(cast(Tensor, kept))
        return y, h, c

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        """Gradients; differentiable ones, where they are asked for, by the reference."""
        x, y, kept, tokens, lengths, *tensors = ctx.saved_tensors
        places, checkpoint_every = ctx.places, ctx.checkpoint_every
        padded = (*tensors, None)
        h0, c0, *flat = [padded[i] for i in places]
        _, needs_x, *asked = ctx.needs_input_grad
        needs = [needs_x, *[i >= 0 and asked[i] for i in places]]
        if torch.is_grad_enabled() or _is_transformed() or any(map(_is_batched, gradients)):
            found = _reference_gradients(
                ctx.cell, x, tokens, lengths, h0, c0, flat, gradients, needs
            )
        else:
            shape = _known_shape(ctx.cell)
            if ctx.used_up:  # by an earlier backward, whose graph was retained
                _, _, _, kept = _forward(shape, x, tokens, lengths, h0, c0, flat, "lines")
            elif ctx.shown:
                kept = kept.clone()
            else:
                ctx.used_up = not checkpoint_every
            found = _backward(
                shape, x, tokens, lengths, h0, c0, flat, y, kept, gradients, needs, checkpoint_every
            )
        dx, *others = found
        return None, dx, *[g for g, i in zip(others, places, strict=True) if i >= 0]


def _is_batched(gradient: Tensor | None) -> bool:
    """Whether it comes from `torch.autograd.functional.jacobian(vectorize=True)`, say."""
    return gradient is not None and torch._C._functorch.is_legacy_batchedtensor(gradient)


# `apply` of the base class, without what the derived one does for torch.func's transforms: those
# never come here, see `compiled_lacks`.
_apply = super(torch.autograd.Function, _Layer).apply


def _reference_gradients(
    cell: Cell,
    x: Tensor,
    tokens: Tensor | None,
    lengths: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    flat: _Flat,
    gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients as differentiable functions of all that they depend on."""
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
        y, last = _reference(cell, weights, steps, state, lengths)
        outputs = [
            (out, gradient)
            for out, gradient in zip((y, *cast(tuple[Tensor, ...], last)), gradients, strict=False)
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


# `shape` is that of the core, then the numbers in a line, which depend on the instruction set: a
# constant of the graph, so that nobody takes one that was compiled for another from a cache; and
# `checkpoint_every`.


def _layer(
    x: Tensor, lengths: Tensor | None, h0: Tensor | None, c0: Tensor | None,
    w0: Tensor | None, w1: Tensor | None, w2: Tensor | None, w3: Tensor | None, w4: Tensor | None,
    w5: Tensor | None, w6: Tensor | None, w7: Tensor | None, w8: Tensor | None, w9: Tensor | None,
    shape: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    y, h, c, kept = _forward(
        cast(_Shape, tuple(shape[:5])), x, None, lengths, h0, c0,
        _present((w0, w1, w2, w3, w4, w5, w6, w7, w8, w9)),
        "checkpoints" if shape[6] else "lines to be seen", shape[6],
    )  # fmt: skip
    return y, h, x.new_empty(0) if c is None else c, x.new_empty(0) if kept is None else kept


def _present(flat: _Flat) -> _Flat:
    """Without the second direction, where there is none."""
    return flat[: len(_WEIGHTS)] if flat[len(_WEIGHTS)] is None else flat


def _layer_shapes(
    x: Tensor, lengths: Any, h0: Any, c0: Any,
    w0: Any, w1: Any, w2: Any, w3: Any, w4: Any, w5: Any, w6: Any, w7: Any, w8: Any, w9: Any,
    shape: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    T, B, _ = x.shape
    D = 1 if w5 is None else 2
    kept: Tensor | None = x.new_empty(D, T, B, shape[5])
    if shape[6]:
        kept = _new_checkpoints(shape, x, D, T, B, shape[6])
    return (
        _empty_sequence(x, D * shape[4], x),
        x.new_empty(D, B, shape[4]),
        x.new_empty(D, B, shape[3]) if shape[0] == 1 else x.new_empty(0),
        x.new_empty(0) if kept is None else kept,
    )


def _layer_gradients(
    x: Tensor, lengths: Tensor | None, h0: Tensor | None, c0: Tensor | None,
    w0: Tensor | None, w1: Tensor | None, w2: Tensor | None, w3: Tensor | None, w4: Tensor | None,
    w5: Tensor | None, w6: Tensor | None, w7: Tensor | None, w8: Tensor | None, w9: Tensor | None,
    shape: list[int], y: Tensor, kept: Tensor, dy: Tensor | None, dh: Tensor | None,
    dc: Tensor | None, needs: list[bool],
) -> list[Tensor]:  # fmt: skip
    flat = _present((w0, w1, w2, w3, w4, w5, w6, w7, w8, w9))
    found = _backward(
        cast(_Shape, tuple(shape[:5])), x, None, lengths, h0, c0, flat, y,
        (kept if shape[0] == 1 else None) if shape[6] else kept.clone(),
        (dy, dh, dc), needs[: 3 + len(flat)], shape[6],
    )  # fmt: skip
    found += [None] * (10 - len(flat))
    return [x.new_empty(0) if t is None else t for t in found]


def _gradient_shapes(
    x: Tensor, lengths: Any, h0: Tensor | None, c0: Tensor | None, *rest: Any
) -> list[Tensor]:
    flat, needs = rest[:10], rest[-1]
    return [
        _empty_sequence(x, x.shape[2], x) if needs[0] else x.new_empty(0),
        *(
            _new_like(t) if need and t is not None else x.new_empty(0)
            for t, need in zip((h0, c0, *flat), needs[1:], strict=True)
        ),
    ]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:14], output[0], output[3])
    ctx.set_materialize_grads(False)
    ctx.shape = inputs[14]


def _operator_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, y, kept = ctx.saved_tensors
    asked = ctx.needs_input_grad
    needs = [asked[0], *asked[2:14]]
    dc = gradients[2] if ctx.shape[0] == 1 else None
    found = _gradients_operator(*inputs, ctx.shape, y, kept, *gradients[:2], dc, needs)
    wanted = [g if need else None for g, need in zip(found, needs, strict=True)]
    return wanted[0], None, *wanted[1:], None


# For graphs: what `torch.compile` and `torch.export` see of the core.
_layer_operator = torch.library.custom_op("ostinato::layer", _layer, mutates_args=())
_layer_operator.register_fake(_layer_shapes)
_layer_operator.register_autograd(_operator_backward, setup_context=_remember)
_gradients_operator = torch.library.custom_op(
    "ostinato::layer_gradients", _layer_gradients, mutates_args=()
)
_gradients_operator.register_fake(_gradient_shapes)
