"""A cell as a program: its step traced forward and backward, and cut at the products.

`write_program` traces ``cell.step`` of ``cell.project`` on a batch, and its vector-Jacobian
product, into operations of ATen. What depends on weights alone stays in PyTorch
(`Written.weights`), products become tables for the core's own kernels, and what lies between
becomes C++ on cpp/functions.hpp. cpp/program.hpp describes the result, cpp/generated.hpp runs it.

Every value is a batch of rows. A tensor is an array of codes, one for each number of a row: which
`_Node` it comes from, and where in it. Views, slices and concatenations only move codes; operations
on them are then cut into runs of numbers that lie side by side.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ostinato.recurrence.backends.programs.tracing import _cut_step
from ostinato.recurrence.backends.programs.values import VERSION, Written, aten
from ostinato.recurrence.backends.programs.writer import _Writer
from ostinato.recurrence.cells import Cell


def write_program(
    cell: Cell, dtype: torch.dtype, recall: Callable[[str], str | None],
    keep: Callable[[str, str], None],
) -> Written:  # fmt: skip
    """Trace a cell and write its program, or find it by its step where it was written before.

    Args:
        cell: the cell.
        dtype: type of the numbers.
        recall: returns the text that was kept for a key, if there is one.
        keep: keeps a text for a key.

    Raises:
        NotCompiled: if the step does what no program can do.
    """
    step = _cut_step(cell, dtype)
    key = repr((
        VERSION, str(step.main.graph), [(tuple(t.shape), t.stride()) for t in step.given],
        step.batch, cell.input_size, cell.state_sizes,
        getattr(cell.state_type, "_fields", None), str(dtype),
    ))  # fmt: skip
    kept = recall(key)
    if kept is not None:
        return _from_json(kept, step.front)
    written = _Writer(cell, dtype, step).written
    text = _to_json(written)
    if text is not None:
        keep(key, text)
    return written


def _to_json(written: Written) -> str | None:
    """Return a program as text, but for what PyTorch does before it; None if it has none."""
    numbers: dict[fx.Node, int] = {}

    def encoded(value: object) -> object:
        if isinstance(value, fx.Node):
            return {"node": numbers[value]}
        if isinstance(value, list | tuple):
            return [encoded(each) for each in value]
        if value is None or isinstance(value, str | int | float):
            return value
        raise TypeError

    nodes: list[object] = []
    try:
        for n in written.gradients.graph.nodes:
            numbers[n] = len(nodes)
            if n.kwargs or (n.op == "call_function" and not str(n.target).startswith("aten.")):
                return None
            nodes.append(
                [n.op, n.name if n.op == "placeholder" else str(n.target), encoded(n.args)]
            )
    except TypeError:
        return None
    parts = written._asdict()
    del parts["weights"]
    return json.dumps(parts | {"gradients": nodes})


def _from_json(text: str, front: fx.GraphModule) -> Written:
    parts = json.loads(text)
    graph, made = fx.Graph(), list[fx.Node]()

    def decoded(value: Any) -> Any:
        if isinstance(value, dict):
            return made[value["node"]]
        return [decoded(each) for each in value] if isinstance(value, list) else value

    for op, target, args in parts["gradients"]:
        if op == "placeholder":
            made.append(graph.placeholder(target))
        elif op == "output":
            made.append(graph.output(decoded(args)[0]))
        else:
            _, name, overload = target.split(".")
            operation = getattr(getattr(aten, name), overload)
            made.append(graph.call_function(operation, tuple(decoded(args))))
    parts["gradients"] = fx.GraphModule(torch.nn.Module(), graph)
    parts["strides"] = [(tuple(shape), tuple(strides)) for shape, strides in parts["strides"]]
    parts["results"] = [(which, tuple(shape), turned) for which, shape, turned in parts["results"]]
    return Written(weights=front, **parts)
