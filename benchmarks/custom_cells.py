"""Cells of one's own, compiled, beside the built-in core, the reference loop and ``torch.compile``.

    python benchmarks/custom_cells.py [--sizes 32 128] [--turns 7] [--inductor]

Training steps of 100 steps x 32 rows, I = H, in turns; ratios of medians. ``--inductor`` adds
``torch.compile`` of the step of one cell and size. First use and cache are timed in processes of
their own. Prints one JSON object.
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
from pathlib import Path
from typing import Any, NamedTuple

import torch
from limits import in_turns
from speed import machine
from torch import Tensor
from torch.nn.functional import gelu, linear, logsigmoid, softplus

import ostinato
from ostinato.cells import CoupledLSTMCell, GRUCell, LayerNormLSTMCell, LSTMCell, LSTMState
from ostinato.recurrence.backends import run, use_backend

T, B = 100, 32


class Unusual(LSTMCell):
    """Functions that no built-in cell has."""

    def step(self, w: Any, x_t: Tensor, state: Any) -> LSTMState:
        i, f, g, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(4, -1)
        c = state.c * torch.exp(-softplus(f)) + gelu(g) / (1 + i.abs())
        return LSTMState(torch.erf(c) * o.sigmoid(), c)


class ExponentialState(NamedTuple):
    """State of `SLSTM`, each ``(B, H)``."""

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


class SLSTM(LSTMCell):
    """xLSTM's cell with scalar memory (M. Beck et al. 2024, "xLSTM", equations 8 to 18)."""

    state_type = ExponentialState

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size,) * 4

    def step(self, w: Any, x_t: Tensor, state: Any) -> Any:
        z, i, f, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(4, -1)
        f = logsigmoid(f) + state.m
        m = torch.maximum(f, i)
        keep, let_in = torch.exp(f - m), torch.exp(i - m)
        c, n = keep * state.c + let_in * z.tanh(), keep * state.n + let_in
        return ExponentialState(o.sigmoid() * c / n.clamp(min=1e-6), c, n, m)


def training_step(cell: Any, path: str) -> Callable[[], object]:
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


def against_the_core(sizes: list[int], turns: int) -> dict[str, dict[int, float]]:
    """Time of the cell as a cell of one's own, over that of the built-in one."""
    found: dict[str, dict[int, float]] = {"lstm": {}, "gru": {}}
    for H in sizes:
        for name, cell in (("lstm", LSTMCell(H, H)), ("gru", GRUCell(H, H))):
            paths = ("generated", "compiled")
            times = in_turns({p: training_step(cell, p) for p in paths}, turns)
            found[name][H] = times["generated"] / times["compiled"]
    return found


def against_the_reference(H: int, turns: int) -> dict[str, float]:
    """Time of the reference loop over that of the kernels."""
    cells = (CoupledLSTMCell(H, H), SLSTM(H, H), LayerNormLSTMCell(H, H), Unusual(H, H))
    found = {}
    for cell in cells:
        paths = ("generated", "reference")
        times = in_turns({p: training_step(cell, p) for p in paths}, max(2, turns // 2))
        found[type(cell).__name__] = times["reference"] / times["generated"]
    found["geometric mean"] = math.exp(statistics.fmean(map(math.log, found.values())))
    return found


def streams() -> dict[int, dict[str, float]]:
    """Microseconds of a step."""
    found = {}
    for H in (32, 64, 128):
        own = ostinato.Recurrent(OwnLSTM(H, H))
        each = {"own": ostinato.Stream(own), "built-in": ostinato.Stream(ostinato.LSTM(H, H))}
        x, y = torch.randn(H).numpy(), torch.empty(H).numpy()

        def many(stream: Any, x: Any = x, y: Any = y) -> Callable[[], object]:
            def work() -> None:
                for _ in range(1000):
                    stream.step(x, out=y)

            return work

        times = in_turns({name: many(s) for name, s in each.items()}, 5)
        found[H] = {name: 1e3 * seconds for name, seconds in times.items()}
    return found


class OwnLSTM(LSTMCell):
    """The built-in equations, which the core does not recognise."""


FIRST = """
import sys, time, torch
sys.path.insert(0, {here!r})
import ostinato
from custom_cells import SLSTM
from ostinato.recurrence.backends import generated
import torch.fx.experimental.proxy_tensor, torch._decomp
torch.func.functionalize(lambda x: x + 1)(torch.ones(1))
start = time.perf_counter()
assert not isinstance(generated.find(SLSTM(64, 64), torch.float32), str)
print(time.perf_counter() - start)
"""


def first_use() -> dict[str, float]:
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
            found[name] = float(done.stdout)
    return found


def against_inductor(H: int, turns: int) -> dict[str, float]:
    """Time of a loop over the step, by ``torch.compile``, over that of the kernels."""
    cell = Unusual(H, H)
    w = {
        n: torch.empty(s).uniform_(-0.1, 0.1).requires_grad_()
        for n, s in cell.weight_shapes().items()
    }
    x = torch.randn(T, B, H, requires_grad=True)

    def step(x_t: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(cell.step(w, x_t, LSTMState(h, c)))

    compiled = torch.compile(step, fullgraph=True)

    def work() -> None:
        h = c = torch.zeros(B, H)
        outputs = []
        for x_t in cell.project(w, x):
            h, c = compiled(x_t, h, c)
            outputs.append(h)
        torch.autograd.grad(torch.stack(outputs).sum(), [x, *w.values()])

    start = time.perf_counter()
    work()
    compiling = time.perf_counter() - start
    times = in_turns({"inductor": work, "own": training_step(cell, "generated")}, turns)
    return {"ratio": times["inductor"] / times["own"], "seconds of compiling": compiling}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128, 256, 512])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--inductor", action="store_true")
    options = parser.parse_args()
    found: dict[str, object] = {"machine": machine()}
    found["own over built-in"] = against_the_core(options.sizes, options.turns)
    found["reference over own, H = 128"] = against_the_reference(128, options.turns)
    found["microseconds of a stream's step"] = streams()
    found["seconds until a cell runs"] = first_use()
    if options.inductor:
        found["torch.compile over own, H = 128"] = against_inductor(128, options.turns)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
