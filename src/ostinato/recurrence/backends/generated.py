"""Cells written in Python, at compiled speed: their step as a program that the core runs.

`find` traces a cell's step once for each type of numbers (programs/) and compiles it
(compiler.py). `run` then serves a layer as the built-in core does: an autograd function of x, the
state and the weights, eager or as a custom operator in graphs; derivatives of gradients by the
reference. What depends on the weights alone is computed by PyTorch in front of the program.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ostinato.recurrence.backends.compiled import (
    _any_requires_grad,
    _empty_sequence,
    _rowwise,
    apart,
    constant_in_graphs,
    dense,
    in_graph,
    is_batched,
    is_transformed,
    kept,
)
from ostinato.recurrence.backends.compiler import (
    NoCompiler,
    cache_folder,
    compiler,
    keep,
    load,
    recall,
)
from ostinato.recurrence.backends.core import core
from ostinato.recurrence.backends.programs import write_program
from ostinato.recurrence.backends.programs.values import NotCompiled, Written
from ostinato.recurrence.cells import Cell, LinearCell, MLSTMCell, State, Trace, Weights
from ostinato.recurrence.scan import mask_of, run_directions, scan

_log = logging.getLogger("ostinato.recurrence")

PATIENCE = 1.0
"""Seconds after which a user is told what is going on."""


class CellNotCompiledWarning(UserWarning):
    """A cell runs on the reference path, slower, since no kernels could be made of it."""


class _Pieces(NamedTuple):
    """Of each tensor that a program reads, and of each of its sums: weight, first number, count."""

    tensors: list[tuple[int, int, int]]
    results: list[tuple[int, int, int]]


@dataclass(frozen=True, eq=False)
class Program:
    """A cell, compiled for one type of numbers."""

    cell: Cell
    written: Written
    core: Any
    number: int
    pieces: _Pieces | None
    seconds: float
    """That tracing and compiling took."""

    @property
    def names(self) -> list[str]:
        """Names of the weights, in order."""
        return list(self.cell.weight_shapes())


_found: dict[tuple[object, torch.dtype, str | None], Program | str] = {}
_quick: dict[tuple[int, torch.dtype, str | None], tuple[Cell, Program | str]] = {}  # by id
_programs: list[Program] = []
_TYPES = {torch.float32: "float", torch.float64: "double"}


def _key_of(cell: Cell) -> object:
    """Return what two cells share that run the same program: their fields, where these are all."""
    values = {f.name: getattr(cell, f.name) for f in fields(cell)}
    parts = tuple(_key_of(v) if isinstance(v, Cell) else v for v in values.values())
    try:
        hash(parts)
    except TypeError:
        return _Same(cell)
    whole = vars(cell).keys() <= values.keys() | cell.derived
    return (type(cell), *parts) if whole else _Same(cell)


class _Same:
    """Equal to another of the same cell, whatever the cell says; keeps it alive."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.cell is self.cell

    def __hash__(self) -> int:
        return id(self.cell)


def find(cell: Cell, dtype: torch.dtype) -> Program | str:
    """Return the program of a cell, or why there is none."""
    quick = id(cell), dtype, os.environ.get("OSTINATO_COMPILER")
    known = _quick.get(quick)
    if known is not None and known[0] is cell:
        return known[1]
    key = _key_of(cell), *quick[1:]
    if key not in _found:
        with torch.inference_mode(False), torch.enable_grad():
            _found[key] = _make(cell, dtype)
    if len(_quick) > 1024:  # of cells that are made again for every call, say
        _quick.clear()
    _quick[quick] = cell, _found[key]
    return _found[key]


def _make(cell: Cell, dtype: torch.dtype) -> Program | str:
    start = time.perf_counter()

    def say() -> None:  # a warning, so that it is seen on stderr where nobody set up logging
        name = type(cell).__name__
        _log.warning("compiling %s, once: its kernels are kept in %s", name, cache_folder())

    telling = threading.Timer(PATIENCE, say)
    telling.daemon = True
    telling.start()
    try:
        compiler()
        written = write_program(cell, dtype, recall, keep)
        library = load(written.source, _TYPES[dtype])
    except NotCompiled as error:
        return f"its step has {error}"
    except NoCompiler as error:
        return str(error)
    except Exception as error:  # whatever the step does while it is traced
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"its step cannot be traced: {what:.300}"
    finally:
        telling.cancel()

    def address(number: int) -> int:
        return cast(int, ctypes.cast(getattr(library, f"k{number}"), ctypes.c_void_p).value)

    operations = [
        [n for op in phase for n in ([address(op[0]), *op[1:]] if op[0] else op)]
        for phase in written.operations
    ]
    pieces = _pieces(cell, dtype, written)
    made = core.Program(
        dtype == torch.float64, written.sizes, written.states, operations, written.matrices,
        written.vectors, written.sums, written.work,
        [] if pieces is None else [[n for piece in each for n in piece] for each in pieces],
    )  # fmt: skip
    seconds = time.perf_counter() - start
    _programs.append(Program(cell, written, (made, library), len(_programs), pieces, seconds))
    _log.debug("compiled %s in %.1f s", cell, seconds)
    return _programs[-1]


def _pieces(cell: Cell, dtype: torch.dtype, written: Written) -> _Pieces | None:
    """Return which pieces of the weights a program reads and has the gradients of.

    Found by a trial; None where the program's tensors are computed, or lie in another way: then
    PyTorch stands between the weights and the program.
    """
    weights = [torch.ones(s, dtype=dtype).requires_grad_() for s in cell.weight_shapes().values()]
    places = {w.untyped_storage().data_ptr(): i for i, w in enumerate(weights)}
    prepared = list(written.weights(*weights))
    tensors: list[tuple[int, int, int]] = []
    for t, (_, strides) in zip(prepared, written.strides, strict=True):
        owner = places.get(t.untyped_storage().data_ptr())
        if owner is None or t.stride() != strides:
            return None
        tensors.append((owner, t.storage_offset(), t.numel()))
    sizes = _result_sizes(written)
    if sum(sizes) >= 1 << 24:  # more than float32 can count
        return None
    results = list(torch.arange(1, 1 + sum(sizes), dtype=dtype).split(sizes))  # type: ignore[no-untyped-call]
    found = _weight_gradients(written, weights, prepared, results)
    places_of: list[tuple[int, int, int]] = []
    covered = [0] * len(weights)
    for r in results:
        for i, g in enumerate(found):
            flat = None if g is None else g.contiguous().view(-1)
            at = [] if flat is None else (flat == r[0]).nonzero().flatten().tolist()
            if flat is not None and len(at) == 1 and torch.equal(flat[at[0] : at[0] + len(r)], r):
                places_of.append((i, at[0], len(r)))
                covered[i] += len(r)
                break
        else:
            return None
    whole = all(n == (0 if g is None else g.numel()) for n, g in zip(covered, found, strict=True))
    return _Pieces(tensors, places_of) if whole else None


def _weight_gradients(
    written: Written, leaves: Sequence[Tensor], prepared: Sequence[Tensor],
    results: Sequence[Tensor],
) -> list[Tensor | None]:  # fmt: skip
    """Return the gradients of weights, from the sums; None of those without one."""
    sums = [_shaped(results, *each) for each in written.results]
    with torch.no_grad():
        grads = written.gradients(*sums, *(t.detach() for t in prepared))
    pairs = [
        (t, g) for t, g in zip(prepared, grads, strict=True) if g is not None and t.requires_grad
    ]
    if not pairs:
        return [None] * len(leaves)
    outputs, known = zip(*pairs, strict=True)
    asked = [t for t in leaves if t.requires_grad]
    each = iter(torch.autograd.grad(outputs, asked, known, allow_unused=True))
    return [next(each) if t.requires_grad else None for t in leaves]


def lacks(cells: tuple[Cell, ...], x: Tensor, autocast: bool = False) -> str:
    """Return why no program can serve a call, which may be under autocast; empty where one can."""
    known = x.dtype in _TYPES or (autocast and x.is_floating_point())
    if core is None or not x.is_cpu or not known or is_transformed():
        return "it is for float32 and float64 on a CPU, without transforms"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit cannot trace it"
    dtype = x.dtype if x.dtype in _TYPES else torch.float32
    return next((why for why in (_lack(cell, dtype) for cell in cells) if why), "")


_warned: set[type[Cell]] = set()


def warn(cells: tuple[Cell, ...], x: Tensor, why: str) -> None:
    """Say once of a class of cells that it runs on the reference path, and why."""
    for cell in cells:
        new = type(cell) not in _warned and not isinstance(cell, LinearCell | MLSTMCell)
        if (
            not new
            or not x.is_cpu
            or x.dtype not in _TYPES
            or os.environ.get("OSTINATO_COMPILER") == "none"
        ):
            continue
        if isinstance(find(cell, x.dtype), str):
            _warned.add(type(cell))
            warnings.warn(
                f"{type(cell).__name__} runs on the reference path, slower: {why}.",
                CellNotCompiledWarning,
                stacklevel=2,
            )


@constant_in_graphs
def _lack(cell: Cell, dtype: torch.dtype) -> str:
    if isinstance(cell, LinearCell):
        return "it is a linear recurrence; its layer's step() takes one step"
    if isinstance(cell, MLSTMCell):
        return "it runs a sequence in chunks of products; its layer's step() takes one step"
    found = find(cell, dtype)
    return found if isinstance(found, str) else ""


@constant_in_graphs
def _number(cell: Cell, dtype: torch.dtype) -> int:
    found = find(cell, dtype)
    assert isinstance(found, Program)
    return found.number


def run(
    cell: Cell,
    weights: Sequence[Weights],
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    traces: list[Trace] | None = None,
) -> tuple[Tensor, State]:
    """Run one layer; arguments and results as those of `backends.run`."""
    if not x.shape[0] or not x.shape[1]:
        return run_directions(cell, weights, x, state, lengths, traces)
    lengths = kept(lengths, in_graph(x))
    return run_directions(cell, weights, x, state, lengths, traces, each=_run_direction)


def _run_direction(
    cell: Cell,
    w: Weights,
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    reverse: bool,
    traces: list[Trace] | None,
) -> tuple[Tensor, State]:
    if state is None and not starts_at_zero(cell):
        state = cell.zero_state(x.shape[1], x)
    given = [*(state or ()), *(w[name] for name in cell.weight_shapes())]
    call, graph = _Call(_number(cell, x.dtype), reverse, lengths, state is not None), in_graph(x)
    if graph:
        y, last, _ = _program_operator(x, lengths, given, call.number, call.reverse, call.has_state)
    elif torch.is_grad_enabled() and _any_requires_grad(x, *given):
        y, *last = _apply(call, x, *given)
    else:
        y, last, _ = _forward(call, x, given, False)
    if traces is not None:
        traces.append(_trace(call, cell, w, x, given, graph))
    return y, cell.state_type(*last)


def starts_at_zero(cell: Cell) -> bool:
    """Return whether the state before the first step is zeros."""
    return type(cell).zero_state is Cell.zero_state


class _Call(NamedTuple):
    """Arguments of `_Layer` beside tensors with gradients."""

    number: int
    reverse: bool
    lengths: Tensor | None
    has_state: bool


def _prepared(program: Program, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return what the program reads of the weights."""
    with torch.autocast("cpu", enabled=False):
        return list(program.written.weights(*weights))


def _tensors(program: Program, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what has the numbers that the program reads of the weights, as they lie in memory."""
    if program.pieces is None:
        return _flat(program, _prepared(program, weights))
    return tuple([w.resolve_neg().contiguous() for w in weights])


def _flat(program: Program, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return tensors as the program expects them to lie in memory."""
    found = []
    for t, (shape, strides) in zip(tensors, program.written.strides, strict=True):
        t = t.detach().resolve_neg()
        if t.stride() != strides:
            t = t.new_empty_strided(shape, strides).copy_(t)
        found.append(t.as_strided((t.numel(),), (1,)))
    return tuple(found)


def _forward(
    call: _Call, x: Tensor, given: Sequence[Tensor], keeps: bool
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Return outputs, last states, and the workspace if it is to be kept."""
    program = _programs[call.number]
    cell, made = program.cell, program.core[0]
    S = len(cell.state_sizes)
    T, B, _ = x.shape
    state, weights = _parted(call, given, S)
    with torch.no_grad():
        tensors = _tensors(program, weights)
    x = _rowwise(x)
    y = _empty_sequence(x, cell.output_size, x)
    last = [x.new_empty(B, n) for n in cell.state_sizes]
    lines = x.new_empty(T, B, program.written.line) if keeps else None
    made.forward(
        x, call.lengths, tensors, tuple(map(dense, state)), call.reverse, y, tuple(last), lines,
        torch.get_num_threads(),
    )  # fmt: skip
    return y, last, lines


def _parted(
    call: _Call, given: Sequence[Tensor], states: int
) -> tuple[list[Tensor | None], list[Tensor]]:
    n = states if call.has_state else 0
    return [*given[:n]] if n else [None] * states, [*given[n:]]


def _backward(
    call: _Call, x: Tensor, given: Sequence[Tensor], lines: Tensor,
    gradients: Sequence[Tensor | None], needs: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """Return the needed gradients of x and what is given."""
    program = _programs[call.number]
    cell, written, made = program.cell, program.written, program.core[0]
    S = len(cell.state_sizes)
    state, weights = _parted(call, given, S)
    n = S if call.has_state else 0
    x = _rowwise(x)
    dy, *d_last = gradients
    if dy is not None:
        dy = _rowwise(dy)
    dx = _empty_sequence(x, cell.input_size, x) if needs[0] else None
    d_state = [
        torch.empty_like(s, memory_format=torch.contiguous_format)
        if s is not None and need
        else None
        for s, need in zip(state, needs[1 : 1 + S] if n else [False] * S, strict=True)
    ]
    found: list[Tensor | None]
    places: Sequence[Tensor | None]
    if program.pieces is not None:
        with torch.no_grad():
            tensors = _tensors(program, weights)
        owners = {i for i, *_ in program.pieces.results}
        places = found = [
            torch.empty_like(w, memory_format=torch.contiguous_format) if i in owners else None
            for i, w in enumerate(weights)
        ]
    else:
        with torch.enable_grad():
            each = zip(weights, needs[1 + n :], strict=True)
            leaves = [w.detach().requires_grad_(need) for w, need in each]
            prepared = _prepared(program, leaves)
        tensors = _flat(program, prepared)
        places = results = [x.new_empty(size) for size in _result_sizes(written)]
    if lines.data_ptr() % 64 or not lines.is_contiguous():  # hooks on saved tensors may move them
        lines = torch.empty_like(lines, memory_format=torch.contiguous_format).copy_(lines)
    made.backward(
        x, call.lengths, tensors, tuple(map(dense, state)), call.reverse, lines,
        dy, tuple(map(dense, d_last)), dx, tuple(d_state), tuple(places), torch.get_num_threads(),
    )  # fmt: skip
    if program.pieces is None:
        found = _weight_gradients(written, leaves, prepared, results)
    found = [
        torch.zeros_like(w) if need and g is None else g
        for w, g, need in zip(weights, found, needs[1 + n :], strict=True)
    ]
    return [dx, *d_state[:n], *found]


def _result_sizes(written: Written) -> list[int]:
    """Return how many numbers each sum has."""
    sums = written.sums
    sizes: dict[int, int] = {}
    for row in range(0, len(sums), 15):
        _, _, rows, sources, *_, c0, c1, to0, to1, plain, _, _ = sums[row : row + 15]
        for s, columns, to in ((0, c0, to0), (1, c1, to1)):
            if s < sources:
                sizes[to] = rows * columns
        if plain >= 0:
            sizes[plain] = rows
    return [sizes[i] for i in range(len(sizes))]


def _shaped(
    results: Sequence[Tensor], which: Sequence[int], shape: tuple[int, ...], turned: bool
) -> Tensor:
    parts = [results[i] for i in which]
    flat = parts[0] if len(parts) == 1 else torch.cat(parts)
    if not turned:
        return flat.view(shape)
    return flat.view(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)


class _Layer(torch.autograd.Function):
    """One direction of a layer for eager autograd; `_program_operator` is the same for graphs."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        y, last, lines = _forward(call, x, given, True)
        ctx.save_for_backward(x, lines, call.lengths, *given)
        ctx.set_materialize_grads(False)
        ctx.call = call
        return y, *last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients; differentiable ones, if required, by the reference."""
        x, lines, lengths, *given = ctx.saved_tensors
        call = ctx.call._replace(lengths=lengths)
        _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled() or is_transformed() or any(map(is_batched, gradients)):
            return None, *_reference_gradients(call, x, given, gradients, needs)
        return None, *_backward(call, x, given, lines, gradients, needs)


_apply: Callable[..., Any] = super(torch.autograd.Function, _Layer).apply


def _reference_gradients(
    call: _Call, x: Tensor, given: Sequence[Tensor], gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """Return the gradients as differentiable functions of all that they depend on."""
    program = _programs[call.number]
    cell = program.cell
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        (x,), given = apart([x]), apart(given)
        state, weights = _parted(call, given, len(cell.state_sizes))
        before = cell.state_type(*cast(list[Tensor], state)) if call.has_state else None
        w = dict(zip(program.names, weights, strict=True))
        y, last = scan(cell, w, x, before, call.lengths, reverse=call.reverse)
        pairs = [(o, g) for o, g in zip((y, *last), gradients, strict=True) if g is not None]
        pairs = [(o, g) for o, g in pairs if o.requires_grad]
        asked = [t for t, need in zip((x, *given), needs, strict=True) if need]
        outputs, known = zip(*pairs, strict=True)
        found = iter(
            torch.autograd.grad(outputs, asked, known, create_graph=True, allow_unused=True)
        )
    return [next(found) if need else None for need in needs]


def _trace(
    call: _Call, cell: Cell, w: Weights, x: Tensor, given: Sequence[Tensor], graph: bool
) -> Trace:
    """Return the states after every step, and the gates, of all steps as one batch."""
    T, B, lengths = x.shape[0], x.shape[1], call.lengths
    with torch.no_grad():
        options = call.number, call.reverse, call.has_state
        detached = [t.detach() for t in given]
        run = _program_operator if graph else _program
        _, _, lines = run(x.detach(), lengths, detached, *options)
        first = detached[: len(cell.state_sizes)] if call.has_state else cell.zero_state(B, x)
        running = None if lengths is None else mask_of(lengths, T)
        after: list[Tensor] = []
        before: list[Tensor] = []
        at = iter(_programs[call.number].written.states[1::2])
        for n, s0 in zip(cell.state_sizes, first, strict=True):
            place = next(at)
            s = lines[..., place : place + n]
            s = s.clone() if running is None else torch.where(running, s, 0.0)
            after.append(s)
            earlier = torch.cat([s[1:], s0[None]] if call.reverse else [s0[None], s[:-1]])
            if call.reverse and lengths is not None:
                last = torch.arange(T)[:, None] == lengths - 1
                earlier = torch.where(last[..., None], s0, earlier)
            before.append(earlier.flatten(0, 1))
        gates = None
        if cell.gates_type is not None:
            flat = cell.project(w, x).flatten(0, 1)
            found = [
                torch.unflatten(g, 0, (T, B)) for g in cell.gates(w, flat, cell.state_type(*before))
            ]
            gates = cell.gates_type(
                *(g if running is None else torch.where(running, g, 0.0) for g in found)
            )
    return Trace(gates, cell.state_type(*after))


def for_stream(
    cells: Sequence[Cell], weights: Sequence[Weights]
) -> tuple[tuple[Any, ...], tuple[tuple[Tensor, ...], ...]]:
    """Return the programs of a stack, and the tensors that each of them reads."""
    programs: list[Any] = []
    tensors: list[tuple[Tensor, ...]] = []
    for cell, w in zip(cells, weights, strict=True):
        values = [w[name] for name in cell.weight_shapes()]
        program = find(cell, values[0].dtype)
        assert isinstance(program, Program)
        with torch.no_grad():
            tensors.append(_tensors(program, values))
        programs.append(program.core[0])
    return tuple(programs), tuple(tensors)


# For graphs: what `torch.compile` and `torch.export` see.


def _program(
    x: Tensor, lengths: Tensor | None, given: Sequence[Tensor], number: int, reverse: bool,
    has_state: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:  # fmt: skip
    y, last, lines = _forward(_Call(number, reverse, lengths, has_state), x, given, True)
    assert lines is not None
    return y, last, lines


def _program_shapes(
    x: Tensor, lengths: Tensor | None, given: Sequence[Tensor], number: int, reverse: bool,
    has_state: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:  # fmt: skip
    program, (T, B, _) = _programs[number], x.shape
    y = _empty_sequence(x, program.cell.output_size, x)
    last = [x.new_empty(B, n) for n in program.cell.state_sizes]
    return y, last, x.new_empty(T, B, program.written.line)


def _program_gradients(
    x: Tensor, lengths: Tensor | None, given: Sequence[Tensor], number: int, reverse: bool,
    has_state: bool, lines: Tensor, gradients: Sequence[Tensor], present: Sequence[bool],
    needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    each = iter(gradients)
    every = [next(each) if there else None for there in present]
    call = _Call(number, reverse, lengths, has_state)
    found = _backward(call, x, given, lines, every, needs)
    return [x.new_empty(0) if g is None else g.contiguous() for g in found]


def _program_gradient_shapes(
    x: Tensor, lengths: Tensor | None, given: Sequence[Tensor], *rest: Any
) -> list[Tensor]:
    dense = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, *given)]
    return [t if need else x.new_empty(0) for t, need in zip(dense, rest[-1], strict=True)]


def _remember(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor], Tensor]
) -> None:
    x, lengths, given, *options = inputs
    ctx.save_for_backward(x, lengths, output[2], *given)
    ctx.options = options
    ctx.set_materialize_grads(False)


def _operator_backward(
    ctx: Any, dy: Tensor | None, d_last: list[Tensor | None], _: Tensor | None
) -> tuple[Any, ...]:
    x, lengths, lines, *given = ctx.saved_tensors
    needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[2]]
    gradients = [dy, *(d_last or [None] * len(_programs[ctx.options[0]].cell.state_sizes))]
    found = _gradients_operator(
        x, lengths, given, *ctx.options, lines, [g for g in gradients if g is not None],
        [g is not None for g in gradients], needs,
    )  # fmt: skip
    dx, *others = [g if need else None for g, need in zip(found, needs, strict=True)]
    return dx, None, others, None, None, None


_program_operator = torch.library.custom_op("ostinato::program", _program, mutates_args=())
_program_operator.register_fake(_program_shapes)
_program_operator.register_autograd(_operator_backward, setup_context=_remember)
_gradients_operator = torch.library.custom_op(
    "ostinato::program_gradients", _program_gradients, mutates_args=()
)
_gradients_operator.register_fake(_program_gradient_shapes)
