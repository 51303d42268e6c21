"""Training beside other programs: how much two threads learn while two busy loops want both cores.

    python benchmarks/busy.py book.txt        any text; without one, Python's own sources

Everybody is a process of its own; they are stopped and continued in turns, first beside the busy
loops, then without them. Two works: ``step``, a training step of a character model in PyTorch whose
layer is `ostinato.LSTM` or `torch.nn.LSTM`, and, where it is asked for, ``text``, `ostinato train
text` beside `plain_text.py`: only its ratio to one thread means something, since what the command
does by the clock weighs more in a process that is stopped most of the time. Each runs on one thread
and on several, and in the environment as it is and in the one that the command line makes: the
better of the two counts for PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import instructions
from end_to_end import CONFIG, commands, own_sources, read
from report import DISTURBED, is_disturbed
from speed import RESULTS, Disturbance, machine, summary, usable_cores

from ostinato.cli import OPENMP

WORKS = ("step", "text")
# A program that wants a core, and ends with the one that started it.
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10**5))"


@dataclass(frozen=True)
class Contender:
    """One of those that take turns.

    Args:
        side: ``ostinato`` or ``torch``.
        threads: how many it uses.
        calm: whether its environment says how long OpenMP's threads spin.
        command: what starts it.
        records: file in which it notes every step.
        variables: what its environment has beside the user's.
    """

    side: str
    threads: int
    calm: bool
    command: list[str]
    records: Path
    variables: dict[str, str]

    @property
    def name(self) -> str:
        """A name to show it by, such as ``ostinato/2/calm``."""
        return f"{self.side}/{self.threads}/{'calm' if self.calm else 'default'}"

    def environment(self) -> dict[str, str]:
        """The environment that it is started in."""
        others = (*OPENMP, "OMP_WAIT_POLICY")
        kept = {name: value for name, value in os.environ.items() if name not in others}
        return kept | {"OMP_NUM_THREADS": str(self.threads)} | self.variables


def contenders(work: str, text: Path, folder: Path, threads: int) -> list[Contender]:
    """Those who take part in a work."""
    found = []
    for count in (1, threads):
        for side in ("ostinato", "torch"):
            for calm in (False, True):
                itself = work == "text" and side == "ostinato"  # the command sets it
                if itself and not calm:
                    continue
                place = folder / f"{work}-{side}-{count}-{calm}"
                place.mkdir()
                if work == "text":
                    command, records = commands(text, "lstm", place)[side]
                else:
                    records = place / "steps.jsonl"
                    command = [sys.executable, __file__, "--work", side, "--out", str(records)]
                variables = OPENMP if calm and not itself else {}
                found.append(Contender(side, count, calm, command, records, variables))
    return found


def train_steps(side: str, records: Path, B: int = 32, T: int = 100, H: int = 128) -> None:
    """Train a character model on random tokens until somebody ends it; one record a step."""
    import torch
    from plain_text import Model
    from torch import nn

    import ostinato

    torch.manual_seed(0)
    V = 65
    model = Model("lstm", V, H, 0.0)
    if side == "ostinato":
        inner = model.recurrent
        model.recurrent = ostinato.LSTM(inner.input_size, H, batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(V, (B, T + 1))
    start = time.perf_counter()
    with records.open("w", buffering=1, encoding="utf-8") as file:
        step = 0
        while True:
            scores, _ = model(tokens[:, :-1], None)
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            seconds = time.perf_counter() - start
            file.write(json.dumps({"tokens": step * B * T, "seconds": seconds}) + "\n")


# Turns


@contextmanager
def stopped(
    commands: Sequence[tuple[list[str], dict[str, str]]], folder: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes, started one by one and stopped as they are; ended with the ``with``."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command, environment in commands:
            with (folder / f"{len(running)}.log").open("wb") as log:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            running[-1].send_signal(signal.SIGSTOP)
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def get_ready(process: subprocess.Popen[bytes], contender: Contender, steps: int = 3) -> None:
    """Let a contender run until it has done some steps.

    Raises:
        RuntimeError: if it ends by itself.
    """
    process.send_signal(signal.SIGCONT)
    while not contender.records.exists() or len(read(contender.records)) < steps:
        time.sleep(0.1)
        if process.poll() is not None:
            raise RuntimeError(f"{contender.name} ended by itself: {contender.command}")
    process.send_signal(signal.SIGSTOP)


def rate(steps: Sequence[tuple[float, int]], tokens: int, seconds: float) -> float:
    """Tokens a second in a turn of ``seconds``, of the records that it left and what came before.

    Between the first record and the last, where there are enough; else by the count.

    >>> rate([(7.2, 20), (7.4, 30), (7.6, 40)], 10, 1.0)
    50.0
    >>> rate([(7.2, 20)], 10, 2.0)
    5.0
    """
    if not steps:
        return 0.0
    (first, last) = steps[0], steps[-1]
    if len(steps) < 3:
        return (last[1] - tokens) / seconds
    return round((last[1] - first[1]) / (last[0] - first[0]), 6)


def take_turns(
    who: Sequence[Contender], loops: int, folder: Path, turns: int, seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Tokens a second of each contender in each of its turns, ``busy`` and ``quiet``."""
    loop = ([sys.executable, "-c", LOOP], dict(os.environ))
    found: dict[str, dict[str, list[float]]] = {"busy": {}, "quiet": {}}
    everybody = [(each.command, each.environment()) for each in who] + [loop] * loops
    with stopped(everybody, folder) as processes:
        running = list(zip(who, processes, strict=False))
        for each, process in running:
            get_ready(process, each)
        for _ in range(turns):
            for condition, rates in found.items():
                for busy in processes[len(who) :]:
                    busy.send_signal(signal.SIGCONT if condition == "busy" else signal.SIGSTOP)
                for each, process in running:
                    before = read(each.records)
                    start = time.perf_counter()
                    process.send_signal(signal.SIGCONT)
                    time.sleep(seconds)
                    process.send_signal(signal.SIGSTOP)
                    took = time.perf_counter() - start
                    new = read(each.records)[len(before) :]
                    rates.setdefault(each.name, []).append(rate(new, before[-1][1], took))
    return found


# Results


def best(medians: dict[str, float], side: str, threads: int) -> str:
    """The faster of those of a side on so many threads.

    >>> best({"torch/2/calm": 3.0, "torch/2/default": 1.0, "torch/1/calm": 9.0}, "torch", 2)
    'torch/2/calm'
    """
    names = [name for name in medians if name.startswith(f"{side}/{threads}/")]
    return max(names, key=medians.__getitem__)


def ratios(found: dict[str, list[float]], threads: int) -> dict[str, dict[str, float]]:
    """How many times as fast the layer, or the command, is on ``threads`` as others are.

    Of each turn one quotient, of which these are median and quartiles: turns of one round lie close
    together in time.
    """
    ours = found[f"ostinato/{threads}/calm"]
    others = {"one_thread": found["ostinato/1/calm"]}
    if f"ostinato/{threads}/default" in found:
        others["default_environment"] = found[f"ostinato/{threads}/default"]
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    for name, count in (("torch", threads), ("torch_one_thread", 1)):
        fastest = best(medians, "torch", count)
        others[name] = found[fastest]
    return {
        name: summary([a / b for a, b in zip(ours, rates, strict=True) if b > 0])
        for name, rates in others.items()
        if sum(b > 0 for b in rates) > 1
    }


def show(run: dict[str, Any]) -> None:
    """Print what a work came to."""
    note = f" ({DISTURBED})" if is_disturbed(run) else ""
    print(f"\n{run['work']}, {run['condition']}{note}: characters a second, median (quartiles)")
    for name, s in run["contenders"].items():
        print(f"  {name:<20}{s['median']:>12,.0f}   ({s['low']:,.0f} to {s['high']:,.0f})")
    for name, s in run["ratios"].items():
        print(f"  times {name:<20}{s['median']:>6.2f}   ({s['low']:.2f} to {s['high']:.2f})")


def main() -> None:
    """Run every workload with and without the loops, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path, nargs="?", help="text file to learn")
    parser.add_argument("--works", nargs="+", default=["step"], choices=WORKS)
    parser.add_argument("--turns", type=int, default=7, help="of each contender")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="and as many busy loops"
    )
    parser.add_argument("--out", type=Path, help="JSON file; results/busy-ISA.json if not given")
    parser.add_argument("--isa", choices=instructions.HELD, help="hold everybody to it")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    a = parser.parse_args()
    instructions.hold(a.isa)
    if a.work:
        train_steps(a.work, a.out)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nobody is left behind, stopped
    import torch

    settings = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    keys = ("hidden_size", "dropout", "window", "batch_size")
    results: dict[str, Any] = {
        "machine": machine(a.threads),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "loops": a.threads,
        "environment": OPENMP,
        "models": {
            "step": "lstm, hidden_size 128, window 100, batch_size 32",
            "text": "lstm, " + ", ".join(f"{key} {settings[key]}" for key in keys),
        },
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        text = a.text or Path(folder) / "text.txt"
        if a.text is None:
            text.write_text(own_sources(), encoding="utf-8")
        for work in a.works:
            who = contenders(work, text, Path(folder), a.threads)
            with Disturbance() as disturbance:
                found = take_turns(who, a.threads, Path(folder), a.turns, a.seconds)
            for condition, rates in found.items():
                run = {
                    "work": work,
                    "condition": condition,
                    "disturbance": disturbance.share,
                    "contenders": {name: summary(each) for name, each in rates.items()},
                    "ratios": ratios(rates, a.threads),
                }
                results["runs"].append(run)
                show(run)
    # Of the work that comes off worst.
    results["ratio_to_one_thread"] = min(
        run["ratios"]["one_thread"]["median"]
        for run in results["runs"]
        if run["condition"] == "busy"
    )
    path = a.out or RESULTS / f"busy-{results['machine']['isa']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
