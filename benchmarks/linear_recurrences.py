"""Time h_t = a_t * h_(t-1) + b_t and the cells made of it beside parallel scans on PyTorch.

    python benchmarks/linear_recurrences.py [--rounds 7] [--threads 1] [--json results.json]

A training step, forward and backward, of 32 rows x 128 units at T = 100, and of fewer rows at
longer T. Peers: a parallel scan by doubling, one in log space (F. Heinsen 2023; positive b alone),
and, if they are installed, `mambapy`'s and `accelerated-scan`'s for a CPU. Values and gradients are
compared before anything is timed; the calls of a round are interleaved; figures are medians, with
the ratio to ours. Then the memory that a step needs at its peak, in numbers of h: of a process of
its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ostinato.recurrence.backends.diagonal import linear_recurrence
from ostinato.recurrence.cells import MinGRUCell, SelectiveCell
from ostinato.recurrence.diagonal import parallel_scan
from ostinato.recurrence.layers import Recurrent

H = 128
SIZES = {100: 32, 1000: 8, 10_000: 2}  # T, B

Scan = Callable[[Tensor, Tensor], Tensor]


def ours(a: Tensor, b: Tensor) -> Tensor:
    """Return h, by the core."""
    return linear_recurrence(a, b)[0]


def doubling(a: Tensor, b: Tensor) -> Tensor:
    """Return h, by a scan that doubles the steps combined."""
    return parallel_scan(a, b, torch.zeros_like(b[0]))


def log_space(a: Tensor, b: Tensor) -> Tensor:
    """Return h, by cumulative sums of logarithms."""
    sums = a.log().cumsum(0)
    return (sums + (b.log() - sums).logcumsumexp(0)).exp()


def mambapy(a: Tensor, b: Tensor) -> Tensor:
    """Return h, by mambapy."""
    from mambapy.pscan import pscan

    def laid_out(x: Tensor) -> Tensor:  # (B, L, D, N)
        return x.transpose(0, 1)[..., None]

    found: Tensor = pscan(laid_out(a), laid_out(b))
    return found[..., 0].transpose(0, 1)


def accelerated_scan(a: Tensor, b: Tensor) -> Tensor:
    """Return h, by the reference of accelerated-scan."""
    from accelerated_scan.ref import scan

    def laid_out(x: Tensor) -> Tensor:  # (B, C, T)
        return x.permute(1, 2, 0).contiguous()

    found: Tensor = scan(laid_out(a), laid_out(b))
    return found.permute(2, 0, 1)


SCANS: dict[str, Scan] = {"ostinato": ours, "doubling": doubling, "log space": log_space}
SCANS |= {"mambapy": mambapy} if find_spec("mambapy") else {}
SCANS |= {"accelerated-scan": accelerated_scan} if find_spec("accelerated_scan") else {}


def inputs(T: int, B: int) -> list[Tensor]:
    """A, b, and the gradient of h: a near 1, b positive, as a logarithm needs it."""
    torch.manual_seed(T)
    a = torch.rand(T, B, H) * 0.2 + 0.79
    return [a.requires_grad_(), (torch.rand(T, B, H) + 0.01).requires_grad_(), torch.randn(T, B, H)]


def step_of(scan: Scan, given: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Return a training step, which gives h and the gradients of a and b."""
    a, b, dh = given

    def step() -> tuple[Tensor, ...]:
        h = scan(a, b)
        return h.detach(), *torch.autograd.grad(h, (a, b), dh)

    return step


class ScannedMinGRU(nn.Module):
    """The layer as one writes it in PyTorch, by a parallel scan."""

    def __init__(self, layer: Recurrent, scan: Scan) -> None:
        super().__init__()
        self.weight, self.bias, self.scan = layer.weight_ih_l0, layer.bias_ih_l0, scan

    def forward(self, x: Tensor) -> Tensor:
        z, n = nn.functional.linear(x, self.weight, self.bias).chunk(2, -1)
        return self.scan((-z).sigmoid(), z.sigmoid() * n)


def layers(T: int, B: int) -> dict[str, dict[str, Callable[[], object]]]:
    """Training steps of layers: ours, and the same equations on parallel scans."""
    torch.manual_seed(0)
    x, dh = torch.randn(T, B, H), torch.randn(T, B, H)
    layer = Recurrent(MinGRUCell(H, H))

    def step(run: Callable[[Tensor], Tensor], module: nn.Module) -> Callable[[], object]:
        weights = [p for p in module.parameters() if p.requires_grad]
        return lambda: torch.autograd.grad(run(x), weights, dh)

    min_gru = {"ostinato": step(lambda x: layer(x)[0], layer)}
    for name, scan in SCANS.items():
        if name in ("doubling", "mambapy", "accelerated-scan"):
            min_gru[name] = step(ScannedMinGRU(layer, scan), layer)
    found = {"min-gru": min_gru}
    if "mambapy" in SCANS:
        from mambapy.mamba import MambaBlock, MambaConfig

        selective = Recurrent(SelectiveCell(H, H))
        block = MambaBlock(MambaConfig(d_model=H, n_layers=1))
        found["mamba"] = {
            "ostinato": step(lambda x: selective(x)[0], selective),
            "mambapy": step(lambda x: block(x.transpose(0, 1)).transpose(0, 1), block),
        }
    return found


def medians(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, interleaved, after two rounds to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if round >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(each) for name, each in seconds.items()}


def peak(name: str, T: int, B: int) -> float:
    """Peak memory of a training step over that of its inputs, in numbers of h."""
    given = inputs(T, B)
    small = inputs(16, 1)
    step_of(SCANS[name], small)()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = memory("VmRSS")
    found = step_of(SCANS[name], given)()
    after = memory("VmHWM")
    del found
    return (after - before) / (4 * T * B * H)


def memory(kind: str) -> int:
    """Return the bytes that this process has in memory, or had at its peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{kind}:")[2].split()[0])


def main() -> None:
    """Time everything, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.peak[0], int(options.peak[1]), int(options.peak[2])))
        return
    results: dict[str, dict[str, float]] = {}

    def report(title: str, figures: dict[str, float], unit: str) -> None:
        results[title] = figures
        own = figures["ostinato"]
        each = (f"{name} {value:.4g} ({value / own:.2f})" for name, value in figures.items())
        print(f"{title}, {unit}: {', '.join(each)}", flush=True)

    for T, B in SIZES.items():
        given = inputs(T, B)
        steps = {name: step_of(scan, given) for name, scan in SCANS.items()}
        expected = steps["ostinato"]()
        for name, step in steps.items():
            for mine, theirs in zip(expected, step(), strict=True):
                scale = float(mine.abs().max())
                assert (mine - theirs).abs().max() < 2e-3 * scale, f"{name} computes something else"
        report(f"recurrence, T={T} B={B}", medians(steps, options.rounds), "ms")
    for T, B in SIZES.items():
        for cell, steps in layers(T, B).items():
            if cell == "mamba" and T > 1000:
                continue
            report(f"{cell} layer, T={T} B={B}", medians(steps, options.rounds), "ms")
    for T, B in ((1000, 16), (4000, 16)):
        figures = {}
        for name in SCANS:
            command = [sys.executable, __file__, "--peak", name, str(T), str(B)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures[name] = float(done.stdout)
        report(f"peak memory, T={T} B={B}", figures, "numbers a number of h")
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} threads, "
        f"PyTorch {torch.__version__}"
    )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
