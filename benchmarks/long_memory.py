"""Train cells on adding, copying and images by pixels for the same short time each.

    python benchmarks/long_memory.py [--cells gru,rg-lru] [--seconds 60] [--seed 0] [--json FILE]
        [--data FOLDER] [--text FILE] [--only pixels]

Adding: of 600 numbers in 0 to 1 two are marked; the network gives their sum after the last. To say
1 always has a mean squared error of 0.167 (S. Hochreiter and J. Schmidhuber 1997, experiment 4).
Copying: 10 symbols of 8, 30 steps of nothing, and then the symbols once more; the share that is
right (experiment of A. Graves et al. 2014; chance: 0.125). Pixels: the digits of MNIST, 784 steps
of one pixel, if there is a folder of them (`--data`, see docs/reference/data.md); the share of 1000
test images that is right. Text: `--text FILE`, such as Tiny Shakespeare, 256 characters at a time;
nats a character of the last tenth.

Two layers of 64 units, Adam with a rate of 0.003 that falls to 0 with the time, gradients clipped
to norm 1, 32 sequences a step. Every cell has the same seconds of processor time, on one thread;
nothing is tuned to a cell. The figure is that of 1000 sequences drawn apart. What the file of
results holds is not measured again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from instructions import cpu_model
from torch import Tensor, nn

from ostinato.recurrence.cells import LRUCell, cell_named
from ostinato.recurrence.layers import Recurrent

CELLS = ("lstm", "gru", "rg-lru", "min-gru", "lru", "s5")
H, LAYERS, B, RATE = 64, 2, 32, 3e-3
SYMBOLS, KEPT, DELAY = 8, 10, 30


class Problem(NamedTuple):
    """A task: how to draw sequences, sizes, loss and figure."""

    draw: Callable[[int, bool], tuple[Tensor, Tensor]]  # rows, and whether for training
    inputs: int
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor, Tensor], Tensor]


def adding(rows: int, training: bool, T: int = 600) -> tuple[Tensor, Tensor]:
    """Return sequences ``(T, rows, 2)``, and the sum of the two marked numbers, ``(rows,)``."""
    x = torch.zeros(T, rows, 2)
    x[..., 0] = torch.rand(T, rows)
    first = torch.randint(0, T // 2, (rows,))
    second = torch.randint(T // 2, T, (rows,))
    for marked in (first, second):
        x[marked, torch.arange(rows), 1] = 1.0
    return x, (x[..., 0] * x[..., 1]).sum(0)


def copying(rows: int, training: bool) -> tuple[Tensor, Tensor]:
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


def classified(y: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of the last step's output."""
    return nn.functional.cross_entropy(y[-1], target)


def recognized(y: Tensor, target: Tensor) -> Tensor:
    """Return the share of images that are right."""
    return (y[-1].argmax(-1) == target).float().mean()


def pixels(folder: Path) -> Problem:
    """Return the problem of MNIST's images, read from its idx files."""

    def read(name: str, header: int) -> Tensor:
        numbers = gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes())[header:]
        return torch.frombuffer(bytearray(numbers), dtype=torch.uint8)

    parts = {}
    for training, name in ((True, "train"), (False, "t10k")):
        images = read(f"{name}-images-idx3", 16).view(-1, 784)
        parts[training] = images, read(f"{name}-labels-idx1", 8).long()

    def draw(rows: int, training: bool) -> tuple[Tensor, Tensor]:
        images, labels = parts[training]
        chosen = torch.randint(len(images), (rows,)) if training else torch.arange(rows)
        return (images[chosen].float() / 255).t()[..., None].contiguous(), labels[chosen]

    return Problem(draw, 1, 10, classified, recognized)


def characters(file: Path, T: int = 256) -> Problem:
    """Return the problem of the next character of a text, whose last tenth is held out."""
    text = file.read_text(encoding="utf-8")
    known = sorted(set(text))
    numbers = {character: k for k, character in enumerate(known)}
    ids = torch.tensor([numbers[character] for character in text])
    split = len(ids) * 9 // 10
    parts = {True: ids[:split], False: ids[split:]}

    def draw(rows: int, training: bool) -> tuple[Tensor, Tensor]:
        part = parts[training]
        begins = torch.randint(len(part) - T, (rows,))
        taken = part[begins + torch.arange(T + 1)[:, None]]
        return nn.functional.one_hot(taken[:-1], len(known)).float(), taken[1:]

    def loss(y: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(y.flatten(0, 1), target.flatten())

    return Problem(draw, len(known), len(known), loss, loss)


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
        x, target = problem.draw(B, True)
        optimizer.zero_grad()
        problem.loss(output(recurrent(x)[0]), target).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        steps += 1
    torch.manual_seed(seed + 1000)
    with torch.no_grad():
        x, target = problem.draw(1000, False)
        return float(problem.figure(output(recurrent(x)[0]), target)), steps


def main() -> None:
    """Train every cell on every problem, and print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="a folder with MNIST's idx files")
    parser.add_argument("--text", type=Path, help="a text, such as Tiny Shakespeare")
    parser.add_argument("--only", default="", help="problems whose names begin so")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file, results = options.json, {}
    if file and file.exists():
        results = json.loads(file.read_text())
    results["machine"] = f"{cpu_model()}, 1 thread, PyTorch {torch.__version__}"
    how = f"{options.seconds:g} s, seed {options.seed}"
    problems = dict(PROBLEMS)
    if options.data:
        problems["pixels, share right"] = pixels(options.data)
    if options.text:
        problems["text, nats a character"] = characters(options.text)
    for name, problem in problems.items():
        if not name.startswith(options.only):
            continue
        for cell in options.cells.split(","):
            known = results.setdefault(f"{name}, {how}", {})
            if cell not in known:
                figure, steps = train(cell, problem, options.seconds, options.seed)
                known[cell] = {"figure": round(figure, 6), "steps": steps}
            print(f"{name}, {how}: {cell} {known[cell]}", flush=True)
            if file:
                file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
