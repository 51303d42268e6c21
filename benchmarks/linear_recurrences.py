"""Time h_t = a_t * h_(t-1) + b_t and the cells made of it beside parallel scans on PyTorch.

    python benchmarks/linear_recurrences.py [--only WORD ...] [--rounds 7] [--json results.json]

A training step, forward and backward, of 32 rows x 128 units at T = 100, and of fewer rows at
longer T; of a selective scan, 256 features with 16 numbers of state each. Peers: a parallel scan by
doubling, one in log space (F. Heinsen 2023; positive b alone), and, if they are installed,
`mambapy`'s and `accelerated-scan`'s for a CPU. Values and gradients are compared before anything is
timed; the calls of a round are interleaved; figures are medians, with the ratio to ours. Beside a
layer stands what its products with weights take by themselves in PyTorch. Then the memory that a
step needs at its peak, in numbers of h (or y): of a process of its own. `--only` picks parts by
words of their titles; each is added to the file of results when it is done.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from instructions import cpu_model
from torch import Tensor, nn

from ostinato import _core
from ostinato.recurrence.backends.diagonal import linear_recurrence
from ostinato.recurrence.backends.selection import selective_scan
from ostinato.recurrence.cells import MinGRUCell, SelectiveCell
from ostinato.recurrence.diagonal import parallel_scan, plain_selection
from ostinato.recurrence.layers import Recurrent

H, E, N = 128, 256, 16
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
    """Return a, b, and the gradient of h: a near 1, b positive, as a logarithm needs it."""
    torch.manual_seed(T)
    a = torch.rand(T, B, H) * 0.2 + 0.79
    return [a.requires_grad_(), (torch.rand(T, B, H) + 0.01).requires_grad_(), torch.randn(T, B, H)]


def selected_inputs(T: int, B: int) -> list[Tensor]:
    """Return d, v, A, B and C of a selective scan, and the gradient of y."""
    torch.manual_seed(T)
    A = -torch.arange(1.0, N + 1)[:, None].expand(N, E).contiguous()
    given = [torch.rand(T, B, E) * 0.1, torch.randn(T, B, E), A]
    given += [torch.randn(T, B, N), torch.randn(T, B, N)]
    return [*(t.requires_grad_() for t in given), torch.randn(T, B, E)]


def select(d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return y, by the core."""
    return selective_scan(d, v, A, B, C)[0]


def select_plainly(d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return y, by PyTorch, c step by step."""
    return plain_selection(d, v, A, B, C, None, d.new_zeros(d.shape[1], A.numel()))[0]


def select_as_mambapy(d: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return y, by mambapy's scan of all of c."""
    from mambapy.pscan import pscan

    d, v, B, C = (t.transpose(0, 1) for t in (d, v, B, C))  # (B, L, ...)
    a = torch.exp(d.unsqueeze(-1) * A.t())
    b = d.unsqueeze(-1) * B.unsqueeze(2) * v.unsqueeze(-1)
    found: Tensor = (pscan(a, b) @ C.unsqueeze(-1)).squeeze(3)
    return found.transpose(0, 1)


SELECTIONS: dict[str, Callable[..., Tensor]] = {"ostinato": select, "step by step": select_plainly}
SELECTIONS |= {"mambapy": select_as_mambapy} if find_spec("mambapy") else {}


def step_of(scan: Callable[..., Tensor], given: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Return a training step, which gives what the scan puts out, and all gradients."""
    *leaves, d_out = given

    def step() -> tuple[Tensor, ...]:
        out = scan(*leaves)
        return out.detach(), *torch.autograd.grad(out, leaves, d_out)

    return step


class ScannedMinGRU(nn.Module):
    """The layer as one writes it in PyTorch, by a parallel scan."""

    def __init__(self, layer: Recurrent, scan: Scan) -> None:
        super().__init__()
        self.weight, self.bias, self.scan = layer.weight_ih_l0, layer.bias_ih_l0, scan

    def forward(self, x: Tensor) -> Tensor:
        z, n = nn.functional.linear(x, self.weight, self.bias).chunk(2, -1)
        return self.scan((-z).sigmoid(), z.sigmoid() * n)


def products(layer: Recurrent, T: int, B: int) -> Callable[[], object]:
    """Return the products with weights of a training step, in PyTorch: x W, and both gradients."""
    weights = [w.detach() for name, w in layer.weights_of(0).items() if name.startswith("weight")]
    pairs = [(torch.randn(T * B, w.shape[1]), w) for w in weights]

    def run() -> None:
        for x, weight in pairs:
            y = x @ weight.t()
            y @ weight, y.t() @ x

    return run


def training_step(
    run: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, dh: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """Return a training step, which gives the outputs and the gradients of the weights."""
    weights = [p for p in module.parameters() if p.requires_grad]

    def step() -> tuple[Tensor, ...]:
        h = run(x)
        return h.detach(), *torch.autograd.grad(h, weights, dh)

    return step


def min_gru(T: int, B: int) -> dict[str, Callable[[], object]]:
    """Return training steps of a minGRU layer: ours, and the same equations on parallel scans."""
    torch.manual_seed(0)
    x, dh = torch.randn(T, B, H), torch.randn(T, B, H)
    layer = Recurrent(MinGRUCell(H, H))
    found = {"ostinato": training_step(lambda x: layer(x)[0], layer, x, dh)}
    for name in ("doubling", "mambapy", "accelerated-scan"):
        if name in SCANS:
            scanned = ScannedMinGRU(layer, SCANS[name])
            found[name] = training_step(scanned, layer, x, dh)
    agree(found)
    return {**found, "products alone": products(layer, T, B)}


def mamba(T: int, B: int) -> dict[str, Callable[[], object]]:
    """Return training steps of a selective layer: ours, and mambapy's block with its weights."""
    torch.manual_seed(0)
    x, dh = torch.randn(T, B, H), torch.randn(T, B, H)
    layer = Recurrent(SelectiveCell(H, H))
    found = {"ostinato": training_step(lambda x: layer(x)[0], layer, x, dh)}
    if "mambapy" in SCANS:
        from mambapy.mamba import MambaBlock, MambaConfig

        block = MambaBlock(MambaConfig(d_model=H, n_layers=1))
        w = layer.weights_of(0)
        known = {
            "in_proj.weight": w["weight_ih"], "conv1d.weight": w["kernel"][:, None],
            "conv1d.bias": w["bias_kernel"], "x_proj.weight": w["weight_v"],
            "dt_proj.weight": w["weight_d"], "dt_proj.bias": w["d"], "A_log": w["A"], "D": w["D"],
            "out_proj.weight": w["weight_o"],
        }  # fmt: skip
        block.load_state_dict(known)
        run = lambda x: block(x.transpose(0, 1)).transpose(0, 1)  # noqa: E731
        found["mambapy"] = training_step(run, block, x, dh)
        ours, theirs = found["ostinato"](), found["mambapy"]()
        assert torch.allclose(ours[0], theirs[0], atol=1e-4), "mambapy computes something else"
    return {**found, "products alone": products(layer, T, B)}


def agree(steps: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
    """Compare what steps give with what ours gives."""
    expected = steps["ostinato"]()
    for name, step in steps.items():
        for mine, theirs in zip(expected, step(), strict=True):
            scale = float(mine.abs().max())
            assert (mine - theirs).abs().max() < 2e-3 * scale, f"{name} computes something else"


def scans(T: int, B: int) -> dict[str, Callable[[], object]]:
    """Return training steps of the recurrence alone."""
    given = inputs(T, B)
    steps = {name: step_of(scan, given) for name, scan in SCANS.items()}
    agree(steps)
    return {**steps}


def selections(T: int, B: int) -> dict[str, Callable[[], object]]:
    """Return training steps of a selective scan alone."""
    given = selected_inputs(T, B)
    steps = {name: step_of(scan, given) for name, scan in SELECTIONS.items()}
    agree(steps)
    return {**steps}


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


def peak(kind: str, name: str, T: int, B: int) -> float:
    """Peak memory of a training step over that of its inputs, in numbers of what it puts out."""
    scan, draw = (
        (SCANS[name], inputs) if kind == "recurrence" else (SELECTIONS[name], selected_inputs)
    )
    given = draw(T, B)
    step_of(scan, draw(16, 1))()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = memory("VmRSS")
    found = step_of(scan, given)()
    after = memory("VmHWM")
    del found
    return (after - before) / (4 * given[-1].numel())


def peaks(kind: str, T: int, B: int) -> dict[str, float]:
    """Return `peak` of everyone."""
    figures = {}
    for name in SCANS if kind == "recurrence" else SELECTIONS:
        command = [sys.executable, __file__, "--peak", kind, name, str(T), str(B)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures[name] = float(done.stdout)
    return figures


def parts(rounds: int) -> Iterator[tuple[str, str, Callable[[], dict[str, float]]]]:
    """Yield title, unit and what measures it."""
    works = {
        "recurrence": scans, "selective scan": selections, "min-gru layer": min_gru,
        "mamba layer": mamba,
    }  # fmt: skip
    for title, work in works.items():
        for T, B in SIZES.items():
            if T <= 1000 or title == "recurrence" or title == "min-gru layer":
                yield f"{title}, T={T} B={B}", "ms", partial(timed, work, T, B, rounds)
    for kind in ("recurrence", "selective scan"):
        for T in (1000, 4000):
            B = 16 if kind == "recurrence" else 2
            title = f"peak memory of a {kind}, T={T} B={B}"
            yield title, "numbers a number put out", partial(peaks, kind, T, B)


def timed(
    work: Callable[[int, int], dict[str, Callable[[], object]]], T: int, B: int, rounds: int
) -> dict[str, float]:
    """Return the medians of some work."""
    return medians(work(T, B), rounds)


def memory(kind: str) -> int:
    """Return the bytes that this process has in memory, or had at its peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{kind}:")[2].split()[0])


def main() -> None:
    """Measure what is asked for, print it, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], help="words of titles")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        kind, name, T, B = options.peak
        print(peak(kind, name, int(T), int(B)))
        return
    isa, file = _core.instruction_set(), options.json
    results = json.loads(file.read_text()) if file and file.exists() else {}
    results["machine"] = (
        f"{cpu_model()}, {isa}, {options.threads} thread, PyTorch {torch.__version__}"
    )
    print(results["machine"])
    for title, unit, measure in parts(options.rounds):
        if not any(word in title for word in options.only):
            continue
        figures = measure()
        own = figures["ostinato"]
        each = (f"{name} {value:.4g} ({value / own:.2f})" for name, value in figures.items())
        print(f"{title}, {unit}: {', '.join(each)}", flush=True)
        results[title] = {"unit": unit, **{k: round(v, 3) for k, v in figures.items()}}
        if file:
            file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
