"""Cells of one's own, compiled, beside the built-in core, the eager loop and ``torch.compile``.

    python benchmarks/custom_cells.py [--only core eager] [--sizes 32 128] [--turns 9] [--json FILE]

Training steps of 100 steps x 32 rows, I = H. Two works are timed in pairs, one directly after the
other, and a ratio is the median over the pairs, which says most on a machine that others use, too;
with ``OMP_NUM_THREADS=1`` it is of the time of the processor.
Parts: ``core``, the cells of the core as cells of one's own; ``eager``, other cells against the
reference loop, and what part of both times the products take; ``compile``, ``torch.compile`` of the
step (minutes); ``streams``; ``first``, the first use in a process of its own. Each result is added
to the file as it comes, so that a run can be continued with what is left.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from speed import machine
from torch import Tensor
from torch.nn.functional import gelu, linear, softplus

import ostinato
from ostinato.cells import (
    Cell,
    CoupledLSTMCell,
    GRUCell,
    LayerNormLSTMCell,
    LSTMCell,
    LSTMState,
    RNNState,
    SLSTMCell,
)
from ostinato.recurrence.backends import run, use_backend

T, B = 100, 32
Work = Callable[[], object]


class Unusual(LSTMCell):
    """Functions that no built-in cell has."""

    def step(self, w: Any, x_t: Tensor, state: Any) -> LSTMState:
        i, f, g, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(4, -1)
        c = state.c * torch.exp(-softplus(f)) + gelu(g) / (1 + i.abs())
        return LSTMState(torch.erf(c) * o.sigmoid(), c)


@dataclass(frozen=True)
class Products(Cell):
    """The products of a cell with so many gates, and next to nothing else."""

    gates_per_unit: int = 4

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        rows = self.gates_per_unit * self.hidden_size
        return {"weight_ih": (rows, self.input_size), "weight_hh": (rows, self.hidden_size)}

    def project(self, w: Any, x: Tensor) -> Tensor:
        return linear(x, w["weight_ih"])

    def step(self, w: Any, x_t: Tensor, state: Any) -> RNNState:
        gates = (x_t + linear(state.h, w["weight_hh"])).chunk(self.gates_per_unit, -1)
        return RNNState(sum((0.1 * k * gate for k, gate in enumerate(gates, 1)), 0 * state.h))


class OwnLSTM(LSTMCell):
    """The built-in equations, which the core does not recognise."""


def cells(H: int) -> dict[str, Cell]:
    """Those that are compared with the eager loop."""
    named = {
        "lstm-coupled": CoupledLSTMCell(H, H),
        "slstm": SLSTMCell(H, H),
        "lstm-norm": LayerNormLSTMCell(H, H),
    }
    return named | {"unusual": Unusual(H, H)}


class Pair(NamedTuple):
    """Median milliseconds of two works, and the median of the ratios of the first to the second."""

    first: float
    second: float
    ratio: float
    spread: tuple[float, float]
    """Quartiles of the ratios."""


def pairs(first: Work, second: Work, turns: int) -> dict[str, Any]:
    """Time two works in turns, which begin by each in turn; two do not count.

    On one thread it is the processor's time, which others on the machine take little from.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: list[tuple[float, float]] = []
    for turn in range(turns + 2):
        found = {}
        for work in (first, second) if turn % 2 else (second, first):
            start = clock()
            work()
            found[work] = clock() - start
        if turn >= 2:
            times.append((found[first], found[second]))
    ratios = [a / b for a, b in times]
    low, middle, high = statistics.quantiles(ratios, n=4)
    a, b = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
    return Pair(a, b, middle, (low, high))._asdict()


def training_step(cell: Cell, path: str) -> Work:
    """Return a training step by a path."""
    w = {
        name: torch.empty(shape).uniform_(-0.1, 0.1).requires_grad_()
        for name, shape in cell.weight_shapes().items()
    }
    x = torch.randn(T, B, cell.input_size, requires_grad=True)

    def work() -> None:
        with use_backend(path):  # type: ignore[arg-type]
            y, _ = run(cell, [w], x)
            torch.autograd.grad(y.sum(), [x, *w.values()], allow_unused=True)

    return work


def products_in_pytorch(H: int, gates: int) -> Work:
    """Return the products of a training step of a loop, as autograd does them."""
    x, h, a = torch.randn(T, B, H), torch.randn(B, H), torch.randn(T, B, gates * H)
    w_ih, w_hh = torch.randn(gates * H, H), torch.randn(gates * H, H)

    def work() -> None:
        linear(x, w_ih)
        for _ in range(T):
            linear(h, w_hh)
        total = torch.zeros_like(w_hh)
        for t in range(T):
            a[t] @ w_hh
            total += a[t].T @ h
        a.view(T * B, -1) @ w_ih
        a.view(T * B, -1).T @ x.view(T * B, -1)

    return work


def core(H: int, turns: int) -> dict[str, Any]:
    """An LSTM and a GRU as cells of one's own, over the built-in."""
    each = {"lstm": LSTMCell(H, H), "gru": GRUCell(H, H)}
    return {
        name: pairs(training_step(cell, "generated"), training_step(cell, "compiled"), turns)
        for name, cell in each.items()
    }


def eager(H: int, turns: int) -> dict[str, Any]:
    """The eager loop over the kernels, and the products of four gates alone in both."""
    found: dict[str, Any] = {
        name: pairs(training_step(cell, "reference"), training_step(cell, "generated"), turns)
        for name, cell in cells(H).items()
    }
    found["geometric mean"] = math.exp(
        statistics.fmean(math.log(each["ratio"]) for each in found.values())
    )
    own = training_step(Products(H, H), "generated")
    found["products of 4 gates"] = pairs(products_in_pytorch(H, 4), own, turns)
    return found


def compiled_step(H: int, turns: int) -> dict[str, Any]:
    """A loop over the step by ``torch.compile``, over the kernels."""
    return {name: _against_inductor(cell, turns) for name, cell in cells(H).items()}


def _against_inductor(cell: Cell, turns: int) -> dict[str, Any]:
    w = {
        n: torch.empty(s).uniform_(-0.1, 0.1).requires_grad_()
        for n, s in cell.weight_shapes().items()
    }
    x = torch.randn(T, B, cell.input_size, requires_grad=True)

    def step(x_t: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return tuple(cell.step(w, x_t, cell.state_type(*state)))

    torch.compiler.reset()  # or the steps of all cells together exceed what it recompiles
    compiled = torch.compile(step, fullgraph=True)

    def work() -> None:
        state = tuple(cell.zero_state(B, x))
        outputs = []
        for x_t in cell.project(w, x):
            state = compiled(x_t, *state)
            outputs.append(state[0])
        torch.autograd.grad(torch.stack(outputs).sum(), [x, *w.values()])

    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return pairs(work, training_step(cell, "generated"), turns) | {"seconds to compile": seconds}


def streams(H: int, turns: int) -> dict[str, Any]:
    """Microseconds of a step of a stream: a cell of one's own, and the built-in one."""
    each = ostinato.Stream(ostinato.Recurrent(OwnLSTM(H, H))), ostinato.Stream(ostinato.LSTM(H, H))
    x, y = torch.randn(H).numpy(), torch.empty(H).numpy()

    def many(stream: Any) -> Work:
        def work() -> None:
            for _ in range(1000):
                stream.step(x, out=y)

        return work

    return pairs(*map(many, each), turns)


FIRST = """
import sys, time, torch
sys.path.insert(0, {here!r})
import ostinato
from ostinato.cells import SLSTMCell
from ostinato.recurrence.backends import generated
import torch.fx.experimental.proxy_tensor, torch._decomp
torch.func.functionalize(lambda x: x + 1)(torch.ones(1))
start, work = time.perf_counter(), time.process_time()
assert not isinstance(generated.find(SLSTMCell(64, 64), torch.float32), str)
print(time.perf_counter() - start, time.process_time() - work)
"""


def first(H: int, turns: int) -> dict[str, Any]:
    """Seconds until a cell can run: at first, and from the cache, in a new process each."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        code = FIRST.format(here=str(Path(__file__).parent))
        for name in ("first", "cached"):
            environment = os.environ | {"XDG_CACHE_HOME": folder}
            command = [sys.executable, "-c", code]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            found[name], found[f"{name}, of the processor"] = map(float, done.stdout.split())
    return found


PARTS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "core": core, "eager": eager, "compile": compiled_step, "streams": streams, "first": first,
}  # fmt: skip


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=[*PARTS])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128, 256, 512])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine(torch.get_num_threads())
    results = Path(__file__).parent / "results" / f"custom_cells-{facts['isa']}.json"
    path = options.json or results
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in options.only:
        for H in options.sizes if part != "first" else options.sizes[:1]:
            found["machine"] = facts
            found.setdefault(part, {})[str(H)] = PARTS[part](H, options.turns)
            print(part, H, json.dumps(found[part][str(H)]), flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
