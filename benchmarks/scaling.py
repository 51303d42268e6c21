"""How training scales over processes: what is measured here, and what that makes of more of them.

    torchrun --nproc-per-node 2 benchmarks/scaling.py [--seconds 60] [--json FILE]

Measured, in short turns after each other: the throughput of two ranks with one thread each beside
that of one process with two threads; seconds of a training step by rows, the CPU's time of one
thread; the size of the gradients; the time of an all-reduce by its size, of which a latency and a
bandwidth are fitted. From these, and from what is assumed of a network, the efficiency of more
ranks is worked out: compute over compute and exchange, which do not overlap.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed, nn

from ostinato.data.batches import ContiguousBatches
from ostinato.networks.arrangements import ManyToMany, recurrent_layers
from ostinato.networks.outputs import Output
from ostinato.recurrence.layers import Hidden
from ostinato.training.distributed import ALONE, World, join
from ostinato.training.evaluation import Objective
from ostinato.training.loop import Trainer
from ostinato.training.settings import TrainingSettings

V, WIDTH, WINDOW, ROWS = 96, 96, 64, 32
"""A language model of characters, as ``ostinato train text`` makes it."""

UNITS = (256, 1024)
"""Hidden units; the first is what two ranks are compared with two threads at."""

TURN = 0.3
"""Seconds of a turn."""

RANKS = (8, 64, 512)
POWER_SGD_RANK = 4
ACCUMULATED = 8
AVERAGED = 16
"""Steps between two averages of local SGD."""


class Link(NamedTuple):
    """What joins ranks: seconds before the first byte of a message, and bytes a second."""

    name: str
    latency: float
    bandwidth: float


ASSUMED = (
    Link("10 Gbit/s Ethernet", 30e-6, 1.1e9),
    Link("100 Gbit/s, RDMA", 4e-6, 11e9),
)
"""Round figures of usual networks, measured by nobody here."""


class NextToken(Objective[ManyToMany, Any]):
    """The token after each."""

    loss_unit, step_name = "nats", "tok"

    def loss(self, network: ManyToMany, batch: Any, state: Hidden) -> Any:
        """Return the mean loss, and the state."""
        return network.loss(batch.inputs, batch.targets, state)

    def count(self, batch: Any) -> int:
        """Return the number of tokens."""
        return int(batch.steps)


def trainer(world: World, units: int, rows: int, every: int = 1) -> Trainer:
    """Return a trainer of which single steps can be made."""
    torch.manual_seed(0)
    recurrent = recurrent_layers("lstm", WIDTH, units)
    network = ManyToMany(nn.Embedding(V, WIDTH), recurrent, Output(units, V))
    tokens = np.random.default_rng(0).integers(0, V, 64 * WINDOW * rows)
    settings = TrainingSettings(steps=10**9, health=False, average_every=every)
    batches = ContiguousBatches(tokens, rows, WINDOW)
    made = Trainer(network, batches, NextToken(), settings, world=world)
    made._start = made._seconds_before = 0.0
    network.train()
    return made


def turn(step: Callable[[], object], steps: int) -> float:
    """Return the seconds of some steps."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - start


def two_ranks_and_two_threads(world: World, seconds: float, every: int) -> dict[str, Any]:
    """Compare two ranks of a thread each with two threads of one, in turns.

    Of each turn the time by the clock, and that of the CPU, of which other programs take none.
    """
    both, alone = trainer(world, UNITS[0], ROWS, every), trainer(ALONE, UNITS[0], ROWS)
    turn(both.train_step, 3)
    steps = max(2, int(world.gather(TURN * 3 / turn(both.train_step, 3))[0]))
    steps = -(-steps // every) * every
    ranks, threads, cpu = [], [], []
    start = world.gather(time.perf_counter())[0]
    while world.gather(time.perf_counter())[0] - start < seconds:
        spent = time.process_time()
        ranks.append(turn(both.train_step, steps))
        spent = sum(world.gather(time.process_time() - spent))
        if world.rank == 0:
            torch.set_num_threads(world.size)
            own = time.process_time()
            threads.append(turn(alone.train_step, steps))
            cpu.append((time.process_time() - own) / spent)
            torch.set_num_threads(1)
    if world.rank:
        return {}
    ratios, tokens = np.array(threads) / ranks, ROWS * WINDOW * steps
    return {
        "turns": len(ratios),
        "throughput, median of turns": median(ratios),
        "quartiles": np.percentile(ratios, [25, 75]).tolist(),
        "throughput, best turns": min(threads) / min(ranks),
        "by the CPU's time, median": median(cpu),
        "tokens a second, median": [tokens / median(ranks), tokens / median(threads)],
        "tokens a second, best": [tokens / min(ranks), tokens / min(threads)],
    }


def compute(units: int, rows: int, seconds: float = 3.0) -> float:
    """Return the CPU's seconds of a training step in one thread: others do not count."""
    made, found = trainer(ALONE, units, rows), []
    turn(made.train_step, 2)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 5:
        start = time.thread_time()
        made.train_step()
        found.append(time.thread_time() - start)
    return min(found)


def all_reduce(world: World) -> tuple[list[tuple[int, float]], Link]:
    """Return the seconds of an all-reduce by bytes, and what a ring of this machine has."""
    found = []
    for size in (8, 1024, 2**14, 2**17, 2**20, 2**22, 2**24):
        numbers = torch.zeros(size // 4)
        times = []
        for _ in range(30):
            world.sum()
            start = time.perf_counter()
            distributed.all_reduce(numbers)
            times.append(time.perf_counter() - start)
        found.append((size, min(times)))
    N = world.size
    latency = found[0][1] / (2 * (N - 1))
    size, seconds = found[-1]
    bandwidth = 2 * (N - 1) / N * size / max(1e-9, seconds - found[0][1])
    return found, Link("this machine, gloo over loopback", latency, bandwidth)


def exchange(link: Link, ranks: int, size: float) -> float:
    """Return the seconds of an all-reduce in a ring: 2 (N - 1) messages of a share of 1 / N.

    Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".

    >>> exchange(Link("", 1.0, 4.0), 2, 4.0)
    3.0
    """
    return 2 * (ranks - 1) * (link.latency + size / ranks / link.bandwidth)


def compressed(network: nn.Module) -> int:
    """Return the bytes that PowerSGD exchanges (Vogels et al. 2019), of rank `POWER_SGD_RANK`."""
    sizes = [
        POWER_SGD_RANK * (p.shape[0] + p[0].numel()) if p.dim() > 1 else p.numel()
        for p in network.parameters()
    ]
    return 4 * sum(sizes)


def efficiencies(seconds: float, link: Link, ranks: int, size: int, small: int) -> dict[str, float]:
    """Return the share of the time that ranks compute, by how they exchange.

    Each step has an all-reduce of the gradients, and one of a few numbers, such as the loss.
    """
    scalars, whole = exchange(link, ranks, 48), exchange(link, ranks, size)
    waits = {
        "as it is": whole + scalars,
        f"accumulate {ACCUMULATED}": (whole + scalars) / ACCUMULATED,
        f"PowerSGD, rank {POWER_SGD_RANK}": 2 * exchange(link, ranks, small / 2) + scalars,
        # Weights and two moments of AdamW, and the numbers.
        f"averaged every {AVERAGED}": (exchange(link, ranks, 3 * size) + scalars) / AVERAGED,
    }
    return {name: seconds / (seconds + wait) for name, wait in waits.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print what follows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    world = join()
    if world.size < 2:
        parser.error("launch it with torchrun --nproc-per-node 2")
    torch.set_num_threads(1)
    compared, averaged = (
        two_ranks_and_two_threads(world, asked.seconds, every) for every in (1, AVERAGED)
    )
    sizes, here = all_reduce(world)
    if world.rank:
        world.first(lambda: None)  # waits for the first to measure alone
        return
    steps = {f"{units} x {rows}": compute(units, rows) for units in UNITS for rows in (1, 8, ROWS)}
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "two ranks of a thread, to two threads": compared,
        f"the same, averaged every {AVERAGED}": averaged,
        "seconds of a step, units x rows": steps,
        "seconds of an all-reduce, by bytes": sizes,
        "link": here._asdict(),
        "efficiency": [],
    }
    print(json.dumps({k: v for k, v in found.items() if k != "efficiency"}, indent=1))
    print(
        "\n| units | gradients | joined by | ranks | "
        + " | ".join(efficiencies(1.0, here, 2, 8, 8))
        + " |"
    )
    print("| ---: | ---: | --- | ---: |" + " ---: |" * 4)
    for units in UNITS:
        network = trainer(ALONE, units, ROWS).network
        size, small = 4 * sum(p.numel() for p in network.parameters()), compressed(network)
        for link in (here, *ASSUMED):
            for ranks in (2,) if link is here else RANKS:
                each = efficiencies(steps[f"{units} x {ROWS}"], link, ranks, size, small)
                found["efficiency"].append(
                    {"units": units, "link": link.name, "ranks": ranks, "bytes": size, **each}
                )
                shares = " | ".join(f"{100 * value:.0f} %" for value in each.values())
                print(f"| {units} | {size / 1e6:.1f} MB | {link.name} | {ranks} | {shares} |")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))
    world.first(lambda: None)


if __name__ == "__main__":
    main()
