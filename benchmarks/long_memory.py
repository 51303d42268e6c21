"""Train cells on adding (600 steps) and copying (10 symbols over 30 steps) for fixed minutes each.

    python benchmarks/long_memory.py [--cells gru,rg-lru] [--seconds 90] [--seed 0]

Adding: of 600 numbers in 0 to 1 two are marked; the network gives their sum after the last. To say
1 always has a mean squared error of 0.167 (S. Hochreiter and J. Schmidhuber 1997, experiment 4).
Copying: 10 symbols of 8, 30 steps of nothing, and then the symbols once more; the share that is
right (experiment of A. Graves et al. 2014; chance: 0.125). Two layers of 64 units, Adam with a rate
of 0.003 that falls to 0 with the time, gradients clipped to norm 1, 32 fresh sequences a step.
Every cell has the same seconds of processor time, on one thread; the figure is that of 1000
sequences drawn apart.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ostinato.recurrence.cells import LRUCell, cell_named
from ostinato.recurrence.layers import Recurrent

CELLS = ("lstm", "gru", "rg-lru", "min-gru", "lru")
H, LAYERS, B, RATE = 64, 2, 32, 3e-3
SYMBOLS, KEPT, DELAY = 8, 10, 30


class Problem(NamedTuple):
    """A task: how to draw sequences, sizes, loss and figure."""

    draw: Callable[[int], tuple[Tensor, Tensor]]
    inputs: int
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor, Tensor], Tensor]


def adding(rows: int, T: int = 600) -> tuple[Tensor, Tensor]:
    """Return sequences ``(T, rows, 2)``, and the sum of the two marked numbers, ``(rows,)``."""
    x = torch.zeros(T, rows, 2)
    x[..., 0] = torch.rand(T, rows)
    first = torch.randint(0, T // 2, (rows,))
    second = torch.randint(T // 2, T, (rows,))
    for marked in (first, second):
        x[marked, torch.arange(rows), 1] = 1.0
    return x, (x[..., 0] * x[..., 1]).sum(0)


def copying(rows: int) -> tuple[Tensor, Tensor]:
    """Return sequences, one-hot, and the symbols to repeat at their end, ``(KEPT, rows)``."""
    symbols = torch.randint(0, SYMBOLS, (KEPT, rows))
    steps = torch.full((2 * KEPT + DELAY, rows), SYMBOLS)
    steps[:KEPT] = symbols
    steps[KEPT + DELAY - 1] = SYMBOLS + 1  # now
    return nn.functional.one_hot(steps, SYMBOLS + 2).float(), symbols


def squared(y: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of the last step's output."""
    return (y[-1, :, 0] - target).square().mean()


def crossed(y: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of the last steps' outputs."""
    return nn.functional.cross_entropy(y[-KEPT:].flatten(0, 1), target.flatten())


def right(y: Tensor, target: Tensor) -> Tensor:
    """Return the share of symbols that are right."""
    return (y[-KEPT:].argmax(-1) == target).float().mean()


PROBLEMS = {
    "adding 600, mean squared error": Problem(adding, 2, 1, squared, squared),
    "copy 30, share right": Problem(copying, SYMBOLS + 2, SYMBOLS, crossed, right),
}


def layers(cell: str, inputs: int) -> Recurrent:
    """Return the layers; an LRU on the ring that its paper takes for long sequences."""
    make, options = cell_named(cell)
    if make is LRUCell:
        made = LRUCell(inputs, H, r_min=0.9, r_max=0.999, max_phase=math.pi / 10)
    else:
        made = make(inputs, H, **options)
    return Recurrent(made, LAYERS)


def train(cell: str, problem: Problem, seconds: float, seed: int) -> tuple[float, int]:
    """Return the figure after so much processor time, and the training steps in it."""
    torch.manual_seed(seed)
    recurrent, output = layers(cell, problem.inputs), nn.Linear(H, problem.outputs)
    weights = [*recurrent.parameters(), *output.parameters()]
    optimizer, start, steps = torch.optim.Adam(weights, RATE), time.process_time(), 0
    while (spent := time.process_time() - start) < seconds:
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * spent / seconds)) / 2
        x, target = problem.draw(B)
        optimizer.zero_grad()
        problem.loss(output(recurrent(x)[0]), target).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        steps += 1
    torch.manual_seed(seed + 1000)
    with torch.no_grad():
        x, target = problem.draw(1000)
        return float(problem.figure(output(recurrent(x)[0]), target)), steps


def main() -> None:
    """Train every cell on every problem, and print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, problem in PROBLEMS.items():
        for cell in options.cells.split(","):
            figure, steps = train(cell, problem, options.seconds, options.seed)
            print(f"{name}: {cell} {figure:.4f} after {steps} steps", flush=True)


if __name__ == "__main__":
    main()
