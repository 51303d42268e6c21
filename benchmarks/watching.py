"""What `ostinato.watch` costs: a training loop in plain PyTorch, watched and not, in turns.

    python benchmarks/watching.py [--seconds 10] [--only WORD]

Of each size of a step a network is trained in turns of some steps, by one optimizer that is watched
and one that is not.
Printed are the median over turns of the CPU's time of a watched turn in that of the one beside it,
and the same of all turns together, which has what happens rarely.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

import ostinato

SIZES = {"1 ms": (16, 32, 1, 8, 12), "4 ms": (32, 64, 1, 32, 30), "40 ms": (64, 128, 2, 32, 100)}
"""Inputs, units, layers, rows and steps of an LSTM whose training step takes about so long."""

TURN = 0.2
"""Seconds of a turn, at least; it has ten steps or more."""

Told = Callable[[torch.Tensor], torch.Tensor]


class Classifier(nn.Module):
    """An LSTM and a layer of scores."""

    def __init__(self, I: int, H: int, layers: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(I, H, layers, batch_first=True)
        self.head = nn.Linear(H, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(B, 4)``."""
        out: torch.Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def cost(size: tuple[int, int, int, int, int], seconds: float) -> tuple[float, float, float]:
    """Return seconds of a step, and what a watched one costs more: median of turns, and of all."""
    I, H, layers, B, T = size
    torch.manual_seed(0)
    model, x, y = Classifier(I, H, layers), torch.randn(B, T, I), torch.arange(B) % 4
    # Equal networks differ in time by where their memory lies.
    plain, seen = (torch.optim.Adam(model.parameters(), 1e-4) for _ in range(2))

    def turn(optimizer: torch.optim.Optimizer, steps: int, told: Told) -> float:
        start = time.thread_time()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            told(loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return time.thread_time() - start

    turn(plain, 10, lambda loss: loss)
    steps = max(10, round(TURN * 10 / turn(plain, 10, lambda loss: loss)))
    times: list[tuple[float, float]] = []
    with ostinato.watch(model, seen) as watched:
        while sum(map(sum, times)) < seconds:
            begin = time.perf_counter()
            without = turn(plain, steps, lambda loss: loss)
            watched._started += time.perf_counter() - begin  # of which the watch knows nothing
            times.append((without, turn(seen, steps, watched.loss)))
    all_without, all_with = map(sum, zip(*times, strict=True))
    of_turns = median(b / a for a, b in times)
    return all_without / len(times) / steps, of_turns - 1, all_with / all_without - 1


def main() -> None:
    """Print what is measured of each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seconds", type=float, default=10.0, help="of each size")
    parser.add_argument("--only", default="", help="sizes whose name holds this word")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, size in SIZES.items():
        if arguments.only not in name:
            continue
        step, of_turns, of_all = cost(size, arguments.seconds)
        print(
            f"{name:<7} a step of {step * 1e3:.2f} ms: watched {of_turns:+.1%}, the median of "
            f"turns; {of_all:+.1%}, all together",
            flush=True,
        )


if __name__ == "__main__":
    main()
