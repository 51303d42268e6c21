"""Write the table, the plot and the page from the measured results.

    python benchmarks/report.py                     docs/performance.md and docs/performance.png
    python benchmarks/report.py --results FOLDER --docs FOLDER

Results are in one file per instruction set, such as ``full-avx2.json`` or, if it is missing,
``quick-avx2.json``, with ``end_to_end-avx2.json``, ``busy-avx2.json`` and ``int8_accuracy.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructions import LABELS, NAMES

ROOT = Path(__file__).parent.parent
Record = dict[str, Any]
"""One setting as it was measured: see `speed.measure`."""
Results = dict[str, Any]

FAMILIES = {
    "training": "Training step: forward and backward, a loss at every step",
    "inference": "Inference: forward only",
    "lengths": "Training step with unequal lengths: half the steps are padding",
    "last": "Training step with the loss at the last step only",
    "streaming": "Streaming: one step per call, one row",
}
DISTURBED = "Other processes used more than a twentieth of the machine; to be measured again"
LOOP = " loop"
"""The end of a contender's name whose loop over the steps of a stream is in C++."""
CELL_NAMES = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}


# Numbers


def median(record: Record, name: str = "ostinato") -> float:
    """Seconds a call."""
    return float(record["contenders"][name]["median"])


def peers(record: Record) -> list[str]:
    """The contenders other than Ostinato, without C++ loops, which are compared separately."""
    names = record["contenders"]
    return [n for n in names if not n.startswith("ostinato") and not n.endswith(LOOP)]


def best_peer(record: Record, among: str = "") -> str | None:
    """The fastest of the peers whose name begins with ``among``."""
    contenders = record["contenders"] if among.endswith(LOOP) else peers(record)
    names = [name for name in contenders if name.startswith(among)]
    return min(names, key=lambda name: median(record, name), default=None)


def speed_up(record: Record, among: str = "", ours: str = "ostinato") -> float | None:
    """How many times faster than the best peer Ostinato is; None if either was not measured."""
    peer = best_peer(record, among)
    if peer is None or ours not in record["contenders"]:
        return None
    return median(record, peer) / median(record, ours)


def share_of_peak(record: Record, peak: dict[str, float], name: str = "ostinato") -> float | None:
    """The rate of a contender as a share of what the machine can do."""
    if name not in record["contenders"]:
        return None
    return float(record["flops"]) / median(record, name) / max(peak.values())


def is_disturbed(record: Record) -> bool:
    """Whether others worked on the machine meanwhile, so that the times say little."""
    return (record.get("disturbance") or 0.0) > 0.05


def geometric_mean(numbers: Iterable[float | None]) -> float | None:
    """The geometric mean of what was measured; None of nothing.

    >>> geometric_mean([1.0, None, 4.0])
    2.0
    """
    known = [math.log(number) for number in numbers if number is not None]
    return math.exp(sum(known) / len(known)) if known else None


# Goals


@dataclass(frozen=True)
class Goal:
    """Goals with AVX2 and AVX-512, and how to compute them from the results."""

    what: str
    avx2: float
    avx512: float
    measured: Callable[[Results], float | None]
    unit: str = "×"
    at_most: bool = False

    def cells(self, results: Results) -> tuple[str, str]:
        """Goal and measured."""
        goal = self.avx512 if isa(results) == "avx512" else self.avx2
        return f"{'at most ' * self.at_most}{goal:g} {self.unit}", self.number(
            self.measured(results)
        )

    def number(self, value: float | None) -> str:
        """As it is printed."""
        if value is None:
            return "not measured"
        return f"{value:.0f} %" if self.unit == "%" else f"{value:.2f} ×"


def isa(results: Results) -> str:
    """The instruction set of a run: avx2, avx512, sse2 or generic."""
    m = results["machine"]
    return str(m.get("isa") or LABELS.get(m["instruction_set"], "generic"))


def place(results: Results) -> str:
    """Instruction set and CPU, which stand beside every figure.

    >>> place({"machine": {"cpu": "Some CPU", "instruction_set": "x86-64-v3"}})
    'AVX2, Some CPU'
    """
    return f"{NAMES[isa(results)]}, {results['machine']['cpu']}"


def _matching(results: Results, family: str, **filters: Any) -> list[Record]:
    def fits(record: Record) -> bool:
        return record["family"] == family and all(
            record[key] in (value if isinstance(value, tuple) else (value,))
            for key, value in filters.items()
        )

    return [record for record in results["settings"] if fits(record)]


def _mean_speed_up(
    family: str, among: str = "", ours: str = "ostinato", **filters: Any
) -> Callable[[Results], float | None]:
    return lambda results: geometric_mean(
        speed_up(record, among, ours) for record in _matching(results, family, **filters)
    )


def _least_speed_up(family: str, **filters: Any) -> Callable[[Results], float | None]:
    def least(results: Results) -> float | None:
        found = [speed_up(record) for record in _matching(results, family, **filters)]
        return min((each for each in found if each is not None), default=None)

    return least


def _mean_share(family: str, **filters: Any) -> Callable[[Results], float | None]:
    def share(results: Results) -> float | None:
        records = _matching(results, family, **filters)
        mean = geometric_mean(share_of_peak(record, results["peak"]) for record in records)
        return None if mean is None else 100 * mean

    return share


def _against_plain(cell: str) -> Callable[[Results], float | None]:
    def ratio(results: Results) -> float | None:
        runs = [r for r in results.get("end_to_end", {}).get("runs", []) if r["cell"] == cell]
        rates = [run["contenders"] for run in runs]
        return geometric_mean(r["ostinato"]["median"] / r["torch"]["median"] for r in rates)

    return ratio


def _against_one_thread(results: Results) -> float | None:
    ratio = results.get("busy", {}).get("ratio_to_one_thread")
    return None if ratio is None else float(ratio)


def memory_ratio(results: Results) -> float | None:
    """Memory that a training step keeps, as a share of torch.nn's, for the worst cell."""
    kept = results.get("memory", {}).get("kept", {}).values()
    return max((each["ostinato"] / each["torch.nn"] for each in kept), default=None)


_BATCH = {"B": 32, "T": 100}
_ONE = {"B": 1, "T": 100}
_LARGE = {"H": (128, 256, 512)}
_MEAN, _LEAST = _mean_speed_up, _least_speed_up
GOALS = [
    Goal("training, 32 rows x 100 steps, all cells", 2.0, 2.2, _MEAN("training", **_BATCH)),
    Goal("the same, LSTM", 1.6, 1.6, _MEAN("training", cell="lstm", **_BATCH)),
    Goal("the same, LSTM, its slowest size", 1.3, 1.25, _LEAST("training", cell="lstm", **_BATCH)),
    Goal("the same, GRU", 2.4, 2.6, _MEAN("training", cell="gru", **_BATCH)),
    Goal("the same, RNN", 2.0, 2.4, _MEAN("training", cell="rnn", **_BATCH)),
    Goal(
        "the same, LSTM, 128 units and more, share of the machine's peak",
        70,
        80,
        _mean_share("training", cell="lstm", **_BATCH, **_LARGE),
        "%",
    ),
    Goal("training, 1 row x 100 steps, all cells", 2.5, 2.5, _MEAN("training", **_ONE)),
    Goal("the same, the slowest cell and size", 1.2, 1.2, _LEAST("training", **_ONE)),
    Goal(
        "half the steps padding, against the better of PyTorch packed and padded",
        3.0,
        4.5,
        _MEAN("lengths", "torch"),
    ),
    Goal(
        "loss at the last of 256 steps, against PyTorch with default settings",
        10.0,
        10.0,
        lambda results: geometric_mean(
            median(record, "torch") / median(record)
            for record in _matching(results, "last")
            if {"torch", "ostinato"} <= record["contenders"].keys()
        ),
    ),
    Goal(
        "streaming, up to 128 units, against ONNX Runtime",
        6.0,
        8.0,
        _MEAN("streaming", "onnxruntime", H=(32, 64, 128)),
    ),
    Goal(
        "streaming, 256 and 512 units, against ONNX Runtime",
        1.5,
        1.5,
        _MEAN("streaming", "onnxruntime", H=(256, 512)),
    ),
    Goal(
        "the same with int8 weights, against ONNX Runtime in float32",
        5.0,
        6.0,
        _MEAN("streaming", "onnxruntime", "ostinato int8", H=(256, 512)),
    ),
    Goal(
        "busy machine: two threads beside two busy loops, against one thread there",
        0.9,
        0.9,
        _against_one_thread,
    ),
    Goal(
        "memory that a training step keeps, 32 rows x 1,000 steps, 256 units, the worst cell, "
        "against PyTorch",
        1.0,
        1.0,
        memory_ratio,
        at_most=True,
    ),
    Goal("`ostinato train text`, LSTM, against plain PyTorch", 1.5, 1.5, _against_plain("lstm")),
    Goal("`ostinato train text`, GRU, against plain PyTorch", 2.5, 2.5, _against_plain("gru")),
]
"""Goals: times the speed of the best peer of the same run, as geometric means."""


# The terminal


def duration(seconds: float) -> str:
    """Three digits, in milliseconds or microseconds.

    >>> duration(0.01234), duration(1.2e-6)
    ('12.3 ms', '1.20 µs')
    """
    value, unit = (seconds * 1e3, "ms") if seconds >= 0.9995e-3 else (seconds * 1e6, "µs")
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f} {unit}"


def heading(results: Results) -> str:
    """The machine, and the columns of `line`."""
    columns = f"{'':34}{'ostinato':>10}  {'of peak':>7}  {'speed-up':>8}  peers"
    return f"{described(results)}\n\n{columns}"


def described(results: Results) -> str:
    """The machine and the versions, in two lines."""
    m, peak = results["machine"], results["peak"]
    by = max(peak, key=peak.__getitem__)
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    threads = f"{m['threads']} thread{'s' * (m['threads'] != 1)}"
    return (
        f"{place(results)}, {threads}, {peak[by] / 1e9:.0f} GFLOP/s at its peak ({by}); "
        f"{m['system']}; {m['date']}.\n{versions}, Python {m['python']}."
    )


def line(record: Record, peak: dict[str, float]) -> str:
    """One setting in the terminal."""
    ours = duration(median(record)) if "ostinato" in record["contenders"] else "-"
    share, ratio = share_of_peak(record, peak), speed_up(record)
    others = sorted(peers(record), key=lambda name: median(record, name))
    others += [n for n in record["contenders"] if n.startswith("ostinato ") or n.endswith(LOOP)]
    others = list(dict.fromkeys(others))
    theirs = ", ".join(f"{name} {duration(median(record, name))}" for name in others)
    return (
        f"{record['name']:34}{ours:>10}  {_percent(share):>7}  "
        f"{'-' if ratio is None else f'{ratio:.2f} x':>8}  {theirs}"
        + (f"  (others used {_percent(record['disturbance'])})" if is_disturbed(record) else "")
    )


def goals_table(runs: Sequence[Results]) -> str:
    """Goal and measured, for the terminal."""
    rows = goal_rows(runs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{'>' if i else '<'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def goal_rows(runs: Sequence[Results]) -> list[list[str]]:
    """What, and goal and measured of every run, under a head."""
    head = ["", *(word for run in runs for word in (f"goal, {NAMES[isa(run)]}", place(run)))]
    return [head, *([goal.what, *(c for run in runs for c in goal.cells(run))] for goal in GOALS)]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


# The page


def page(runs: Sequence[Results]) -> str:
    """docs/performance.md."""
    parts = [_introduction(runs), _goals(runs), _method(runs)]
    for family, title in FAMILIES.items():
        if any(_matching(run, family) for run in runs):
            parts.append(f"## {title}\n\n{_family_tables(family, runs)}")
    if any(run.get("memory", {}).get("kept") for run in runs):
        parts.append(_memory(runs))
    if any(run.get("end_to_end", {}).get("runs") for run in runs):
        parts.append(_end_to_end(runs))
    if limited := [run for run in runs if run.get("limits")]:
        parts.append(_limits(limited))
    if runs[0].get("int8_accuracy", {}).get("rows"):
        parts.append(_int8_accuracy(runs[0]["int8_accuracy"]))
    return "\n\n".join(parts) + "\n"


def _introduction(runs: Sequence[Results]) -> str:
    measured = "\n".join(f"- {_measured_on(run)}" for run in runs)
    return (
        "<!-- Written by benchmarks/report.py from benchmarks/results: do not edit. -->\n\n"
        "# Performance\n\n"
        "![Speed-up over the best peer by instruction set, cell and size](performance.png)\n\n"
        f"Measured on:\n\n{measured}\n\n"
        "`make bench` repeats the most important measurements in a few minutes, `make bench-full` "
        "all of them; `ISA=avx2` restricts all contenders to AVX2 on a CPU with AVX-512. Numbers "
        "differ between machines."
    )


def _measured_on(run: Results) -> str:
    served = sorted({r["contenders"]["ostinato"]["note"] for r in run["settings"] if _served(r)})
    path = f" Ostinato used the path `{'`, `'.join(served)}`." if served else ""
    return described(run).replace("\n", "\n  ") + path


def _served(record: Record) -> bool:
    """Whether the note of Ostinato's says by which path it ran."""
    return record["family"] != "streaming" and "ostinato" in record["contenders"]


def _goals(runs: Sequence[Results]) -> str:
    head, *rows = goal_rows(runs)
    return (
        "## Goals and measurements\n\n"
        "Times the speed of the best peer of the same run, as a geometric mean over cells and "
        "sizes, unless stated otherwise.\n\n" + _table(head, rows, "-" + "r" * (len(head) - 1))
    )


def _instructions(runs: Sequence[Results]) -> str:
    asked = [run for run in runs if run.get("instructions")]
    names = list(dict.fromkeys(name for run in asked for name in run["instructions"]))
    rows = [[name, *(run["instructions"].get(name, "") for run in asked)] for name in names]
    return (
        "Instruction sets used, as reported by the libraries (XLA: as found in the code it "
        "generated). PyTorch's LSTM is oneDNN's; its GRU and RNN use matrix products of MKL.\n\n"
        + _table(["", *map(place, asked)], rows, "-" * (1 + len(asked)))
    )


def _method(runs: Sequence[Results]) -> str:
    parts = [
        "## How it is measured",
        "- All contenders get the same weights, inputs and gradients, and must agree in outputs "
        "and gradients before timing (float32 to 2e-4 of the largest element, int8 to "
        "5e-2).\n"
        "- They take turns in one process, in a new random order every round, all on the same "
        "cores. Before each turn the process waits until no idle thread of the previous contender "
        "spins, and then warms up caches and threads with untimed calls. The numbers are medians; "
        "quartiles are in the JSON files.\n"
        "- PyTorch runs with default settings, with denormal numbers flushed, and in `make "
        "bench-full`, for sequences of 100 steps, with `torch.compile`, whose compilation is not "
        "timed. It breaks the graph at a recurrent layer and calls the same ATen operation. With "
        "`allow_rnn` it unrolls the steps, and compiles 100 of them for minutes: for GRU and RNN "
        "of 64 and 256 units in a batch the faster of this and of ten steps compiled as one graph "
        "and called ten times is shown; an unrolled LSTM is half as fast as oneDNN's operation.\n"
        "- JAX runs `lax.scan` under `jit`; shown is the best of projecting the input ahead of the "
        "loop, unrolled 1, 4 or 8 times, or within it. ONNX Runtime runs its own recurrent nodes; "
        "shown is the best of one or all threads, and for streams of plain calls or bound memory.\n"
        "- A step of a stream is called from Python. Beside it is the time of a step in a C++ loop "
        "over 256 steps: Ostinato's, and one with Eigen like RTNeural's (sizes known to the "
        "compiler, `-O3 -ffast-math`), the faster of one product for each gate and one for all. "
        "These two are compared only with each other.\n"
        "- The input is as wide as the hidden state. `dx`: its gradient is computed as well.\n"
        "- FLOP are those of matrix products: `2 GH (I + H)` per step and row forward, the same "
        "for the gradients of the weights, and for those of state and input if computed; without "
        "padding. The peak is that of a loop of fused multiply-adds on registers, on the same "
        "number of threads and with the same instruction set as Ostinato.",
    ]
    for run in runs:
        parts[1] += "".join(f"\n- {place(run)}: {each}" for each in _remarks(run))
    if any(run.get("instructions") for run in runs):
        parts.append(_instructions(runs))
    return "\n\n".join(parts)


def _remarks(run: Results) -> list[str]:
    found = list(run.get("skipped", []))
    if run.get("isolation"):
        ratios = [each["in_turns"] / each["alone"] for each in run["isolation"]]
        found.append(
            "taking turns has little influence: compared with a separate process, a "
            f"contender took {min(ratios):.2f} to {max(ratios):.2f} times as long, median "
            f"{sorted(ratios)[len(ratios) // 2]:.2f} ({len(ratios)} cases)."
        )
    if disturbed := [f"`{r['name']}`" for r in run["settings"] if is_disturbed(r)]:
        found.append(f"{DISTURBED}: {', '.join(disturbed)}.")
    return found


def _family_tables(family: str, runs: Sequence[Results]) -> str:
    def group(record: Record) -> tuple[Any, ...]:
        return record["B"], record["T"], record["input_grad"]

    groups = dict.fromkeys(group(record) for run in runs for record in _matching(run, family))
    tables = []
    for B, T, input_grad in groups:
        shape = "" if family == "streaming" else f"{B} row{'s' * (B > 1)} × {T} steps"
        shape += ", dx" * input_grad + "; " * bool(shape)
        for run in runs:
            rows = _matching(run, family, B=B, T=T, input_grad=input_grad)
            if rows:
                tables.append(f"{shape}{place(run)}:")
                tables.append(_one_table(rows, run["peak"], family != "streaming"))
    return "\n\n".join(tables)


def _one_table(records: Sequence[Record], peak: dict[str, float], with_rate: bool) -> str:
    names = list(dict.fromkeys(name for record in records for name in record["contenders"]))
    names.sort(key=lambda name: (name.endswith(LOOP), not name.startswith("ostinato")))
    loops = [name for name in names if name.endswith(LOOP)]
    names = [name for name in names if name not in loops]
    head = ["cell", "H", *names, "speed-up", *["GFLOP/s", "of peak"] * with_rate]
    head += [*loops, "speed-up"] if loops else []
    rows = []
    for record in records:
        ratio, known = speed_up(record), record["contenders"]
        times = [duration(median(record, name)) if name in known else "" for name in names]
        row = [CELL_NAMES[record["cell"]], str(record["H"]), *times]
        row.append("" if ratio is None else f"**{ratio:.2f} ×**")
        if with_rate:
            rate = record["flops"] / median(record) / 1e9 if "ostinato" in known else 0.0
            row += [f"{rate:.0f}", _percent(share_of_peak(record, peak))]
        if loops:
            row += [duration(median(record, name)) if name in known else "" for name in loops]
            ratio = speed_up(record, "eigen" + LOOP, "ostinato" + LOOP)
            row.append("" if ratio is None else f"**{ratio:.2f} ×**")
        rows.append(row)
    return _table(head, rows, "-" + "r" * (len(head) - 1))


def _memory(runs: Sequence[Results]) -> str:
    rows = []
    for run in (run for run in runs if run.get("memory", {}).get("kept")):
        found = run["memory"]
        numbers = found["B"] * found["T"] * found["H"]
        for cell, kept in found["kept"].items():
            sizes = [*kept.values()]
            each = [f"{size / 1e6:.0f} MB ({size / numbers:.1f})" for size in sizes]
            each.insert(2, f"**{kept['ostinato'] / kept['torch.nn']:.2f}**")
            rows.append([CELL_NAMES[cell], place(run), *each, f"{found['slower'][cell]:.2f} ×"])
    shape = f"{found['B']} rows × {found['T']:,} steps, {found['H']} units"
    return (
        "## Memory of a training step\n\n"
        f"Memory kept between forward and backward, including outputs, for {shape}; in brackets, "
        "bytes per step, row and unit. Measured as the growth of the resident memory of a separate "
        "process over its second forward pass (`benchmarks/memory.py`). On the right, layers with "
        f"`checkpoint_every={found['every']}`, which compute the steps between again in backward, "
        "with the same gradients to the last bit; and the processor time of their step relative to "
        "that of a layer without checkpoints.\n\n"
        + _table(
            ["cell", "", "ostinato", "torch.nn", "ratio", "with checkpoints", "their time"],
            rows,
            "--rrrrr",
        )
    )


def _end_to_end(runs: Sequence[Results]) -> str:
    rows = []
    for run in (run for run in runs if run.get("end_to_end", {}).get("runs")):
        model = run["end_to_end"]["model"]
        for each in run["end_to_end"]["runs"]:
            rates = [each["contenders"][name]["median"] for name in ("ostinato", "torch")]
            numbers = [f"{rate:,.0f}" for rate in rates]
            numbers.append(f"**{rates[0] / rates[1]:.2f} ×**")
            rows.append([CELL_NAMES[each["cell"]], place(run), *numbers])
    return (
        "## End to end: training on a text\n\n"
        "Training characters per second of `ostinato train text` with "
        f"`examples/shakespeare.toml` ({model}), including metrics and checkpoints, and "
        "of a plain PyTorch script with the same model, batches and optimizer "
        "(`benchmarks/end_to_end.py`). Two processes take turns.\n\n"
        + _table(["cell", "", "ostinato", "plain script", "speed-up"], rows, "--rrr")
    )


def _limits(runs: Sequence[Results]) -> str:
    """The limits of the core, each with its measurement."""
    found = []
    for run in runs:
        limits, parts = run["limits"], []
        for cell in CELL_NAMES:
            large = _matching(run, "training", cell=cell, B=32, T=100, H=(256, 512))
            shares = [share_of_peak(r, run["peak"], best_peer(r) or "") for r in large]
            if mean := geometric_mean(shares):
                parts.append(
                    f"{CELL_NAMES[cell]} of 256 and 512 units: the best peer runs at "
                    f"{100 * mean:.0f} % of the peak; a speed-up of more than {1 / mean:.2f} times "
                    "is impossible."
                )
        empty = limits["empty_function"]
        parts.append(
            "One row, RNN of 32 units, 100 steps: an empty `torch.autograd.Function` takes "
            f"{empty['an empty function']:.0f} µs per training step, Ostinato's "
            f"{empty['ostinato']:.0f} µs."
        )
        if small := _floors(run, limits):
            parts.append(
                "Up to 128 units: the products of a training step in tiles of their shapes on "
                "numbers in the cache, its gates and an empty function, one after the other, would "
                "take this share of Ostinato's time, and be this much faster than the best peer, "
                f"by units in brackets: {small}."
            )
        halves = [value for sizes in limits["half_rows"].values() for value in sizes.values()]
        parts.append(
            "Lengths: with half as many rows of full length a training step takes "
            f"{geometric_mean(halves):.2f} of the time ({min(halves):.2f} to {max(halves):.2f} by "
            "cell and size). Rows of unequal length with half the steps padding cannot be faster: "
            "the longest has as many steps as before, and each step has a fixed cost."
        )
        rates = ", ".join(f"{rate:.0f} at {size} MB" for size, rate in limits["reads"].items())
        text = f"Streams: read bandwidth of one core, GB/s by block size: {rates}"
        for H, bytes_each, name in ((128, 4, ""), (256, 1, " int8"), (512, 1, " int8")):
            for record in _matching(run, "streaming", cell="lstm", H=H):
                if f"ostinato{name}" in record["contenders"]:
                    size = 8e-6 * bytes_each * H**2
                    rate = 1e-3 * size / median(record, f"ostinato{name}")
                    text += f"; LSTM{name} of {H} units ({size:.1f} MB per step): {rate:.0f}"
        parts.append(f"{text}. 32 products take four instructions without VNNI, one with it.")
        found.append(f"{place(run)}:\n\n" + "\n".join(f"- {part}" for part in parts))
    return "## Limits\n\n" + "\n\n".join(found)


def _floors(run: Results, limits: dict[str, Any]) -> str:
    """Compare small sizes with the least time that they can take."""
    found = []
    for cell, gates in limits["gates"].items():
        rows = []
        for r in _matching(
            run, "training", cell=cell, B=32, T=100, H=(32, 64, 128), input_grad=True
        ):
            elementwise = 1e-9 * gates * 32 * 100 * r["H"] / run["machine"]["threads"]
            function = 1e-6 * limits["empty_function"]["an empty function"]
            least = limits["products"][cell][str(r["H"])] + elementwise + function
            share, most = least / median(r), median(r, best_peer(r) or "") / least
            rows.append(f"{100 * share:.0f} %, {most:.2f} × ({r['H']})")
        if rows:
            found.append(f"{CELL_NAMES[cell]} {'; '.join(rows)}")
    return ". ".join(found)


def _int8_accuracy(results: Results) -> str:
    rows = []
    for row in results["rows"]:
        cell, numbers = (
            CELL_NAMES[row["cell"]],
            [f"{row[kind]:.4f}" for kind in ("float32", "int8")],
        )
        rows.append([f"{cell}, {row['H']} units", *numbers, f"{row['largest']:.3f}"])
    return (
        "## Accuracy with int8 weights\n\n"
        f"Nats per character on held-out text ({results['text']}) of models trained for "
        f"{results['steps']} steps, streamed character by character with float32 and with int8 "
        "weights (`benchmarks/int8_accuracy.py`); and the largest difference between two "
        "probabilities of a next character.\n\n"
        + _table(["", "float32", "int8", "largest difference"], rows, "-rrr")
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    marks = ["---:" if each == "r" else "---" for each in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, marks, *rows])


# The plot

COLOURS = {"rnn": "#0072B2", "lstm": "#D55E00", "gru": "#009E73"}
"""Okabe and Ito's, distinguishable for colour-blind readers."""


PANELS: list[tuple[str, str, dict[str, int]]] = [
    ("A training step, 32 sequences of 100 steps", "training", _BATCH),
    ("A training step, 1 sequence of 100 steps", "training", _ONE),
    ("One step of a live stream", "streaming", {}),
]


def picture(runs: Sequence[Results], path: Path) -> None:
    """Bars of the speed-up over the best peer, by cell and size; a column for each run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    bars = [[_bars(_matching(run, family, **at)) for run in runs] for _, family, at in PANELS]
    panels = [(title, row) for (title, *_), row in zip(PANELS, bars, strict=True) if any(row)]
    figure, axes = plt.subplots(
        len(panels) or 1,
        len(runs),
        figsize=(8 * len(runs), 3.3 * max(1, len(panels))),
        squeeze=False,
        sharey="row",
    )
    for axes_row, (title, row) in zip(axes, panels, strict=False):
        for axis, run, found in zip(axes_row, runs, row, strict=True):
            if found:
                _draw(axis, f"{title} ({NAMES[isa(run)]})", found)
            else:
                axis.set_axis_off()
    figure.suptitle(
        "Times as fast as the fastest of PyTorch, JAX and ONNX Runtime\n"
        + ";  ".join(map(place, runs)),
        weight="bold",
    )
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def _bars(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Speed-up by cell and size; of a size measured both with and without dx, the mean."""
    found: dict[str, dict[int, float]] = {}
    for cell in CELL_NAMES:
        for H in sorted({record["H"] for record in records}):
            here = [r for r in records if (r["cell"], r["H"]) == (cell, H)]
            ratio = geometric_mean(speed_up(record) for record in here)
            if ratio is not None:
                found.setdefault(cell, {})[H] = ratio
    return found


def _draw(axis: Any, title: str, bars: dict[str, dict[int, float]]) -> None:
    place, ticks = 0.0, []
    for cell, by_size in bars.items():
        places = [place + i for i in range(len(by_size))]
        drawn = axis.bar(places, by_size.values(), 0.85, color=COLOURS[cell])
        axis.bar_label(drawn, [f"{ratio:.1f}×" for ratio in by_size.values()], fontsize=9)
        ticks += list(zip(places, by_size, strict=True))
        middle = sum(places) / len(places)
        axis.annotate(
            CELL_NAMES[cell],
            (middle, 0),
            (0, -30),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            weight="bold",
            color=COLOURS[cell],
        )
        place = places[-1] + 2
    axis.axhline(1, color="black", linewidth=1)
    axis.annotate("as fast", (1, 1), (4, 0), xycoords=("axes fraction", "data"),
                  textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    axis.set_xticks([x for x, _ in ticks], [str(H) for _, H in ticks])
    axis.set_title(f"{title}, by hidden units", loc="left", fontsize=11)
    axis.margins(y=0.15)
    axis.set_ylabel("times as fast")
    axis.spines[["top", "right"]].set_visible(False)


# Everything


def load(folder: Path) -> list[Results]:
    """Load the runs in a folder, one for each instruction set, with their further results.

    Raises:
        FileNotFoundError: if there are no results.
    """

    def read(name: str) -> Results:
        file = folder / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    runs = []
    for each in NAMES:
        run = read(f"full-{each}") or read(f"quick-{each}")
        if run:
            parts = {name: read(f"{name}-{each}") for name in ("end_to_end", "busy", "limits")}
            runs.append({**run, **parts, "int8_accuracy": read("int8_accuracy")})
    if not runs:
        raise FileNotFoundError(folder)
    return runs


def write(runs: Sequence[Results], docs: Path) -> list[Path]:
    """Write the page and the plot; return the files written."""
    docs.mkdir(parents=True, exist_ok=True)
    written = [docs / "performance.md"]
    written[0].write_text(page(runs), encoding="utf-8")
    try:
        picture(runs, docs / "performance.png")
    except ImportError:
        print("No picture: matplotlib is not installed.", file=sys.stderr)
        return written
    return [*written, docs / "performance.png"]


def main() -> None:
    """Print the table; write the page and the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    a = parser.parse_args()
    try:
        runs = load(a.results)
    except FileNotFoundError:
        sys.exit(f"{a.results}: no results; run make bench.")
    for run in runs:
        print(heading(run))
        for record in run["settings"]:
            print(line(record, run["peak"]))
        print()
    print(f"{goals_table(runs)}\n")
    print("\n".join(str(path) for path in write(runs, a.docs)))


if __name__ == "__main__":
    main()
