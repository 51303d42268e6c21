"""A step and its gradients, traced into operations of ATen, and cut from what precedes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from ostinato.recurrence.backends.programs.values import NotCompiled, aten
from ostinato.recurrence.cells import Cell, Weights


def _batch_for(sizes: Iterable[int]) -> int:
    """Return a number of rows that no other size is."""
    taken = set(sizes)
    return next(n for n in (211, 223, 227, 229, 233, 239, 241, 251, 257, 263) if n not in taken)


_DECOMPOSITIONS = [
    aten.native_layer_norm, aten.gelu, aten.gelu_backward, aten.softplus, aten._softmax,
    aten._log_softmax, aten.elu, aten.leaky_relu, aten.hardtanh, aten.log_sigmoid_forward,
    aten.hardsigmoid, aten.hardswish, aten.silu, aten.mish,
]  # fmt: skip


class _Step(NamedTuple):
    """A traced step, cut behind what depends on weights alone."""

    main: fx.GraphModule
    front: fx.GraphModule
    rows: list[Tensor]  # x and the state
    given: list[Tensor]  # what `front` returns, of the weights of the trace
    batch: int


class _Traced(NamedTuple):
    """The step and its gradient."""

    graph: fx.Graph
    given: list[Tensor]
    batch: int


def _cut_step(cell: Cell, dtype: torch.dtype) -> _Step:
    """Trace a step of the projected input."""
    shapes, sizes = cell.weight_shapes(), cell.state_sizes
    names = list(shapes)
    B = _batch_for([cell.input_size, *sizes, *(n for shape in shapes.values() for n in shape)])
    like = torch.empty(0, dtype=dtype)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype) * 0.5 + 0.1

    state = cell.zero_state(B, like)
    if [tuple(s.shape) for s in state] != [(B, n) for n in sizes]:
        raise NotCompiled(f"a state of shapes {[tuple(s.shape) for s in state]}")

    def step(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        w: Weights = dict(zip(names, rest[len(sizes) :], strict=True))
        return tuple(cell.step(w, cell.project(w, x), cell.state_type(*rest[: len(sizes)])))

    rows = [draw(B, cell.input_size), *(draw(B, n) for n in sizes)]
    w = [draw(*shapes[name]) for name in names]
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        whole = make_fx(torch.func.functionalize(step))(*rows, *w)
        whole.graph.eliminate_dead_code()
        main, front = _cut(whole, len(rows))
        return _Step(main, front, rows, list(front(*w)), B)


def _traced(step: _Step) -> _Traced:
    """Trace a step together with the gradients of all that it takes."""
    cotangents = [torch.ones_like(s) for s in step.rows[1:]]
    n = len(cotangents)

    def joint(*all_of_them: Tensor) -> list[Tensor]:
        args, d = all_of_them[:-n], all_of_them[-n:]
        after, pull, *_ = torch.func.vjp(step.main, *args)
        return [*after, *pull(tuple(d))]

    table = {**core_aten_decompositions(), **get_decompositions(_DECOMPOSITIONS)}
    table.pop(aten.addmm.default, None)  # its sums begin with the bias
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        traced = make_fx(torch.func.functionalize(joint), decomposition_table=table)(
            *step.rows, *step.given, *cotangents
        )
    traced.graph.eliminate_dead_code()
    return _Traced(traced.graph, step.given, step.batch)


def _cut(whole: fx.GraphModule, rows: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a step in two: what the ``rows`` first inputs play a part in, and what is before."""
    main, front = fx.Graph(), fx.Graph()
    placeholders = [n for n in whole.graph.nodes if n.op == "placeholder"]
    in_main = {n: main.placeholder(n.name) for n in placeholders[:rows]}
    in_front = {n: front.placeholder(n.name) for n in placeholders[rows:]}
    later: dict[fx.Node, None] = dict.fromkeys(placeholders[:rows])
    batch = placeholders[0].meta["val"].shape[0]
    for n in whole.graph.nodes:
        inputs = n.all_input_nodes
        if (n.op == "call_function" and any(i in later for i in inputs)) or (
            not inputs and n.op == "call_function" and batch in n.meta["val"].shape
        ):
            later[n] = None
    # Placeholders stand before all else: one for each use of a weight.
    uses: list[tuple[fx.Node, fx.Node]] = []
    for n in whole.graph.nodes:
        if n.op in ("placeholder", "output"):
            continue
        if n not in later:
            in_front[n] = front.node_copy(n, lambda each: in_front[each])
    for n in whole.graph.nodes:
        if (n in later and n.op == "call_function") or n.op == "output":
            uses += [(n, i) for i in n.all_input_nodes if i not in later and not _is_number(i)]
    tensors = {use: main.placeholder(f"w{i}") for i, use in enumerate(uses)}
    given = [in_front[i] for _, i in uses]
    for n in whole.graph.nodes:
        if (n in later and n.op == "call_function") or n.op == "output":

            def taken(each: fx.Node, of: fx.Node = n) -> fx.Node:
                if _is_number(each):
                    return main.node_copy(each)
                return in_main[each] if each in later else tensors[of, each]

            in_main[n] = main.node_copy(n, taken)
    front.output(tuple(given))
    return fx.GraphModule(whole, main), fx.GraphModule(whole, front)


def _is_number(n: fx.Node) -> bool:
    """Tell whether a node makes a number of nothing, such as the 0.0 of a ``where``."""
    return n.op == "call_function" and not n.all_input_nodes and n.meta["val"].dim() == 0
