"""The table, the picture and the page, all from the JSON that was measured.

    python benchmarks/report.py                     docs/performance.md and docs/performance.png
    python benchmarks/report.py --results FOLDER --docs FOLDER

The page is written from ``full.json``, or from ``quick.json`` where there is no other, and from
``end_to_end.json`` and ``int8_accuracy.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
Record = dict[str, Any]
"""One setting as it was measured: see `speed.measure`."""
Results = dict[str, Any]

FAMILIES = {
    "training": "Training step: forward and backward, a loss at every step",
    "inference": "Inference: forward alone",
    "lengths": "Unequal lengths: a training step where half the steps are padding",
    "last": "Loss at the last step alone: a training step",
    "streaming": "Streaming: one step a call, one row",
}
DISTURBED = "Other processes took more than a twentieth of the machine; measure these again"
CELL_NAMES = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}


# Numbers


def median(record: Record, name: str = "ostinato") -> float:
    """Seconds a call."""
    return float(record["contenders"][name]["median"])


def peers(record: Record) -> list[str]:
    """Everybody but Ostinato."""
    return [name for name in record["contenders"] if not name.startswith("ostinato")]


def best_peer(record: Record, among: str = "") -> str | None:
    """The fastest of the peers whose name begins with ``among``."""
    names = [name for name in peers(record) if name.startswith(among)]
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
    """What is aimed at, and how it is read off the results."""

    what: str
    goal: float
    measured: Callable[[Results], float | None]
    unit: str = "×"

    def row(self, results: Results) -> tuple[str, str, str]:
        """What, goal, measured."""
        value = self.measured(results)
        return self.what, f"{self.goal:g} {self.unit}", self.number(value)

    def number(self, value: float | None) -> str:
        """As it is printed."""
        if value is None:
            return "not measured"
        return f"{value:.0f} %" if self.unit == "%" else f"{value:.2f} ×"


def _matching(results: Results, family: str, **wanted: Any) -> list[Record]:
    def fits(record: Record) -> bool:
        return record["family"] == family and all(
            record[key] in (value if isinstance(value, tuple) else (value,))
            for key, value in wanted.items()
        )

    return [record for record in results["settings"] if fits(record)]


def _mean_speed_up(
    family: str, among: str = "", ours: str = "ostinato", **wanted: Any
) -> Callable[[Results], float | None]:
    return lambda results: geometric_mean(
        speed_up(record, among, ours) for record in _matching(results, family, **wanted)
    )


def _least_speed_up(family: str, **wanted: Any) -> Callable[[Results], float | None]:
    def least(results: Results) -> float | None:
        found = [speed_up(record) for record in _matching(results, family, **wanted)]
        return min((each for each in found if each is not None), default=None)

    return least


def _mean_share(family: str, **wanted: Any) -> Callable[[Results], float | None]:
    def share(results: Results) -> float | None:
        records = _matching(results, family, **wanted)
        mean = geometric_mean(share_of_peak(record, results["peak"]) for record in records)
        return None if mean is None else 100 * mean

    return share


def _against_plain(cell: str) -> Callable[[Results], float | None]:
    def ratio(results: Results) -> float | None:
        runs = [r for r in results.get("end_to_end", {}).get("runs", []) if r["cell"] == cell]
        rates = [run["contenders"] for run in runs]
        return geometric_mean(r["ostinato"]["median"] / r["torch"]["median"] for r in rates)

    return ratio


_BATCH = {"B": 32, "T": 100}
_LARGE = {"H": (128, 256, 512)}
GOALS = [
    Goal("training, 32 rows x 100 steps, all cells", 2.4, _mean_speed_up("training", **_BATCH)),
    Goal("the same, RNN", 3.0, _mean_speed_up("training", cell="rnn", **_BATCH)),
    Goal("the same, GRU", 2.4, _mean_speed_up("training", cell="gru", **_BATCH)),
    Goal("the same, LSTM", 1.8, _mean_speed_up("training", cell="lstm", **_BATCH)),
    Goal(
        "the same, LSTM, its slowest size", 1.0, _least_speed_up("training", cell="lstm", **_BATCH)
    ),
    Goal(
        "the same, LSTM, 128 units and more, share of the machine's peak",
        65,
        _mean_share("training", cell="lstm", **_BATCH, **_LARGE),
        "%",
    ),
    Goal("training, 1 row x 100 steps, all cells", 3.0, _mean_speed_up("training", B=1, T=100)),
    Goal("half the steps padding, against PyTorch", 3.0, _mean_speed_up("lengths", "torch")),
    Goal(
        "loss at the last of 256 steps, against PyTorch as it comes",
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
        _mean_speed_up("streaming", "onnxruntime", H=(32, 64, 128)),
    ),
    Goal(
        "streaming with int8 weights, 256 and 512 units, against ONNX Runtime in float32",
        5.0,
        _mean_speed_up("streaming", "onnxruntime", "ostinato int8", H=(256, 512)),
    ),
    Goal("`ostinato train text`, LSTM, against plain PyTorch", 1.5, _against_plain("lstm")),
    Goal("`ostinato train text`, GRU, against plain PyTorch", 2.5, _against_plain("gru")),
]
"""What is aimed at: times the best peer of the same run, geometric means, unless it says so."""


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
    """What it was measured on, and the columns of `line`."""
    columns = f"{'':34}{'ostinato':>10}  {'of peak':>7}  {'speed-up':>8}  peers"
    return f"{described(results)}\n\n{columns}"


def described(results: Results) -> str:
    """The machine and the versions, in two lines."""
    m, peak = results["machine"], max(results["peak"].values())
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    threads = f"{m['threads']} thread{'s' * (m['threads'] != 1)}"
    return (
        f"{m['cpu']}, {m['instruction_set']}, {threads}, {peak / 1e9:.0f} GFLOP/s at its peak; "
        f"{m['system']}; {m['date']}.\n{versions}, Python {m['python']}."
    )


def line(record: Record, peak: dict[str, float]) -> str:
    """One setting in the terminal."""
    ours = duration(median(record)) if "ostinato" in record["contenders"] else "-"
    share, ratio = share_of_peak(record, peak), speed_up(record)
    others = sorted(peers(record), key=lambda name: median(record, name))
    others += [name for name in record["contenders"] if name.startswith("ostinato ")]
    theirs = ", ".join(f"{name} {duration(median(record, name))}" for name in others)
    return (
        f"{record['name']:34}{ours:>10}  {_percent(share):>7}  "
        f"{'-' if ratio is None else f'{ratio:.2f} x':>8}  {theirs}"
        + (f"  (others used {_percent(record['disturbance'])})" if is_disturbed(record) else "")
    )


def goals_table(results: Results) -> str:
    """Goal and measured, for the terminal."""
    rows = [goal.row(results) for goal in GOALS]
    width = max(len(what) for what, _, _ in rows)
    table = [f"{what:{width}}  {goal:>7}  {found:>12}" for what, goal, found in rows]
    return "\n".join([f"{'':{width}}  {'goal':>7}  {'measured':>12}", *table])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


# The page


def page(results: Results) -> str:
    """docs/performance.md."""
    parts = [_introduction(results), _goals(results), _method(results)]
    for family, title in FAMILIES.items():
        records = _matching(results, family)
        if records:
            parts.append(f"## {title}\n\n{_family_tables(family, records, results['peak'])}")
    if results.get("end_to_end", {}).get("runs"):
        parts.append(_end_to_end(results["end_to_end"]))
    if results.get("int8_accuracy", {}).get("rows"):
        parts.append(_int8_accuracy(results["int8_accuracy"]))
    return "\n\n".join(parts) + "\n"


def _introduction(results: Results) -> str:
    served = sorted(
        {r["contenders"]["ostinato"]["note"] for r in results["settings"] if _has_backend(r)}
    )
    path = f" Ostinato ran by the path `{'`, `'.join(served)}`." if served else ""
    return (
        "<!-- Written by benchmarks/report.py from benchmarks/results: do not edit. -->\n\n"
        "# Performance\n\n"
        "![Speed-up over the best peer by cell and size](performance.png)\n\n"
        f"Measured on: {described(results)}{path}\n\n"
        "`make bench` measures the most telling settings again in a few minutes, `make bench-full` "
        "all of them. A number on another machine will differ; that is what the commands are for."
    )


def _has_backend(record: Record) -> bool:
    return bool(record["contenders"].get("ostinato", {}).get("note"))


def _goals(results: Results) -> str:
    rows = [goal.row(results) for goal in GOALS]
    return (
        "## Goals and what was measured\n\n"
        "Times the speed of the best peer of the same run, as a geometric mean over cells and "
        "sizes, unless it says otherwise.\n\n" + _table(["", "goal", "measured"], rows, "-rr")
    )


def _method(results: Results) -> str:
    parts = [
        "## How it is measured",
        "- All contenders get the same weights, inputs and gradients, and must agree in outputs "
        "and gradients before anybody is timed (float32 to 2e-4 of the largest element, int8 to "
        "5e-2).\n"
        "- They take turns in one process, in an order drawn anew every round, all on the same "
        "cores. Before each turn the process waits until no idle thread of the one before spins, "
        "and then wakes caches and threads with calls that are not timed. The numbers are medians; "
        "quartiles stand in the JSON.\n"
        "- PyTorch runs as it comes and with denormal numbers flushed. JAX runs `lax.scan` under "
        "`jit` and gets the best of: the input projected ahead of the loop, unrolled 1, 4 or 8 "
        "times, or within it. ONNX Runtime runs its own recurrent nodes and gets the best of one "
        "or all threads, and for streams of plain calls or bound memory.\n"
        "- The input is as wide as the hidden state. `dx` means that it needs a gradient as well.\n"
        "- FLOP are those of the matrix products: `2 GH (I + H)` a step and row forward, the same "
        "for the gradients of the weights, and for those of state and input as far as needed; no "
        "padding. The peak is the highest of: a large matrix product in PyTorch, by MKL and by "
        "oneDNN, and in JAX; the core's own innermost loop.",
    ]
    if results.get("isolation"):
        ratios = [each["in_turns"] / each["alone"] for each in results["isolation"]]
        parts[1] += (
            "\n- Taking turns costs nobody anything to speak of: beside a process of its own, a "
            f"contender took {min(ratios):.2f} to {max(ratios):.2f} times as long, in the median "
            f"{sorted(ratios)[len(ratios) // 2]:.2f} ({len(ratios)} cases)."
        )
    parts[1] += "".join(f"\n- {each}" for each in results.get("skipped", []))
    if disturbed := [f"`{r['name']}`" for r in results["settings"] if is_disturbed(r)]:
        parts[1] += f"\n- {DISTURBED}: {', '.join(disturbed)}."
    return "\n\n".join(parts)


def _family_tables(family: str, records: Sequence[Record], peak: dict[str, float]) -> str:
    def group(record: Record) -> tuple[Any, ...]:
        return record["B"], record["T"], record["input_grad"]

    order = list(dict.fromkeys(map(group, records)))
    ordered = sorted(records, key=lambda record: order.index(group(record)))
    tables = []
    for (B, T, input_grad), rows in groupby(ordered, group):
        if family != "streaming":
            dx = ", dx" if input_grad else ""
            tables.append(f"{B} row{'s' * (B > 1)} × {T} steps{dx}")
        tables.append(_one_table(list(rows), peak, family != "streaming"))
    return "\n\n".join(tables)


def _one_table(records: Sequence[Record], peak: dict[str, float], with_rate: bool) -> str:
    names = list(dict.fromkeys(name for record in records for name in record["contenders"]))
    names.sort(key=lambda name: not name.startswith("ostinato"))
    head = ["cell", "H", *names, "speed-up", *["GFLOP/s", "of peak"] * with_rate]
    rows = []
    for record in records:
        ratio, known = speed_up(record), record["contenders"]
        times = [duration(median(record, name)) if name in known else "" for name in names]
        row = [CELL_NAMES[record["cell"]], str(record["H"]), *times]
        row.append("" if ratio is None else f"**{ratio:.2f} ×**")
        if with_rate:
            rate = record["flops"] / median(record) / 1e9 if "ostinato" in known else 0.0
            row += [f"{rate:.0f}", _percent(share_of_peak(record, peak))]
        rows.append(row)
    return _table(head, rows, "-" + "r" * (len(head) - 1))


def _end_to_end(results: Results) -> str:
    rows = []
    for run in results["runs"]:
        rates = [run["contenders"][name]["median"] for name in ("ostinato", "torch")]
        numbers = [f"{rate:,.0f}" for rate in rates]
        rows.append([CELL_NAMES[run["cell"]], *numbers, f"**{rates[0] / rates[1]:.2f} ×**"])
    return (
        "## End to end: learning a text\n\n"
        "Characters learnt a second by `ostinato train text` with "
        f"`examples/shakespeare.toml` ({results['model']}), metrics and checkpoints included, and "
        "by a plain PyTorch script with the same model, batches and optimizer "
        "(`benchmarks/end_to_end.py`). Two processes take turns.\n\n"
        + _table(["cell", "ostinato", "plain script", "speed-up"], rows, "-rrr")
    )


def _int8_accuracy(results: Results) -> str:
    rows = []
    for row in results["rows"]:
        cell, numbers = (
            CELL_NAMES[row["cell"]],
            [f"{row[kind]:.4f}" for kind in ("float32", "int8")],
        )
        rows.append([f"{cell}, {row['H']} units", *numbers, f"{row['largest']:.3f}"])
    return (
        "## What eight bits a weight cost\n\n"
        f"Nats a character on held-out text ({results['text']}) of models trained for "
        f"{results['steps']} steps, their characters streamed one by one with the weights as they "
        "are and with eight bits of each (`benchmarks/int8_accuracy.py`); and the largest "
        "difference between two probabilities of a next character.\n\n"
        + _table(["", "float32", "int8", "largest difference"], rows, "-rrr")
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    marks = ["---:" if each == "r" else "---" for each in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, marks, *rows])


# The picture

COLOURS = {"rnn": "#0072B2", "lstm": "#D55E00", "gru": "#009E73"}
"""Okabe and Ito's, which the colour-blind can tell apart."""


def picture(results: Results, path: Path) -> None:
    """Bars of the speed-up over the best peer, by cell and size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [
        ("A training step, 32 sequences of 100 steps", _matching(results, "training", **_BATCH)),
        ("One step of a live stream", _matching(results, "streaming")),
    ]
    panels = [(title, _bars(records)) for title, records in panels]
    panels = [(title, bars) for title, bars in panels if bars]
    figure, axes = plt.subplots(
        len(panels) or 1, 1, figsize=(9, 3.3 * max(1, len(panels))), squeeze=False
    )
    for axis, (title, bars) in zip(axes[:, 0], panels, strict=False):
        _draw(axis, title, bars)
    figure.suptitle("Times as fast as the fastest of PyTorch, JAX and ONNX Runtime", weight="bold")
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


# All of it


def load(folder: Path) -> Results:
    """The results in a folder, end to end and the accuracy of int8 included.

    Raises:
        FileNotFoundError: if nothing was measured yet.
    """
    full, quick = folder / "full.json", folder / "quick.json"
    results: Results = json.loads((full if full.exists() else quick).read_text(encoding="utf-8"))
    for name in ("end_to_end", "int8_accuracy"):
        more = folder / f"{name}.json"
        if more.exists():
            results[name] = json.loads(more.read_text(encoding="utf-8"))
    return results


def write(results: Results, docs: Path) -> list[Path]:
    """The page and the picture; returns what was written."""
    docs.mkdir(parents=True, exist_ok=True)
    written = [docs / "performance.md"]
    written[0].write_text(page(results), encoding="utf-8")
    try:
        picture(results, docs / "performance.png")
    except ImportError:
        print("No picture: matplotlib is not installed.", file=sys.stderr)
        return written
    return [*written, docs / "performance.png"]


def main() -> None:
    """Table to the terminal; page and picture to their folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    a = parser.parse_args()
    try:
        results = load(a.results)
    except FileNotFoundError:
        sys.exit(f"{a.results}: nothing was measured yet; make bench does.")
    print(heading(results))
    for record in results["settings"]:
        print(line(record, results["peak"]))
    print(f"\n{goals_table(results)}\n")
    print("\n".join(str(path) for path in write(results, a.docs)))


if __name__ == "__main__":
    main()
