"""Plots of a run and its results. Each needs ``ostinato[plots]``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ostinato.errors import require
from ostinato.files import PICTURES, atomic_file, check_new_file
from ostinato.training.callbacks import read_metrics

# Okabe and Ito 2008, "Color universal design": distinguishable for colour-blind readers.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]


def new_axes(width: float, height: float, what: str, rows: int = 1, columns: int = 1) -> Any:
    """Return axes in a new figure without a window, sizes in inches; several in a grid."""
    require("matplotlib", "plots", what)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots(rows, columns)


def save_picture(axes: Any, picture: str | os.PathLike[str]) -> None:
    """Write the figure of some axes as a file, in the format that its suffix names."""
    path = check_new_file(picture, PICTURES)
    with atomic_file(path) as file:
        axes.figure.savefig(file, dpi=120, format=path.suffix[1:].lower())


def draw_learning_curve(metrics: Path, picture: Path, unit: str = "nats") -> None:
    """Draw the losses in a metrics file as a PNG; see `plot_curve`."""
    save_picture(plot_curve(read_metrics(metrics), unit=unit), picture)


def plot_curve(records: Sequence[Mapping[str, Any]], axes: Any = None, unit: str = "nats") -> Any:
    """Plot training and validation loss by step, with spikes of the gradient norm marked.

    Args:
        records: records of training, as in ``metrics.jsonl``.
        axes: axes of matplotlib to draw into, returned; new ones by default.
        unit: unit of the loss.
    """
    axes = axes or new_axes(8, 4.5, "a learning curve")
    steps = [r for r in records if r.get("loss") is not None]
    evaluations = [r for r in records if r.get("validation_loss") is not None]
    x, y = [r["step"] for r in steps], [r["loss"] for r in steps]
    xv, yv = [r["step"] for r in evaluations], [r["validation_loss"] for r in evaluations]
    smooth = _smoothed(y)
    axes.plot(x, y, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    axes.plot(x, smooth, color=COLOURS[0], label="training")
    if evaluations:
        axes.plot(xv, yv, "o-", color=COLOURS[1], label="validation")
        best = min(range(len(yv)), key=yv.__getitem__)
        axes.annotate(
            f"{yv[best]:.3f}", (xv[best], yv[best]), (0, 8), textcoords="offset points", ha="center"
        )
    # Ten times the usual gradient norm: the median of the 50 steps before, or of the first 20.
    norms = [r.get("gradient_norm") or 0.0 for r in steps]
    usual = (max(median(norms[max(0, i - 50) : i]), median(norms[:20])) for i in range(20, len(y)))
    spikes = [i for i, norm in enumerate(usual, start=20) if norms[i] > 10 * norm > 0]
    if spikes:
        at, marks = [x[i] for i in spikes], [smooth[i] for i in spikes]
        label = f"gradient spikes ({len(spikes)})"
        axes.plot(at, marks, "^", color=COLOURS[3], markersize=6, label=label)
    # The loss of the first steps is far above the rest, which the plot should show.
    settled = sorted([*smooth[len(y) // 50 :], *yv])
    if settled and settled[-1] > settled[0]:
        margin = 0.1 * (settled[-1] - settled[0])
        axes.set_ylim(settled[0] - margin, settled[-1] + margin)
    axes.set(xlabel="step", ylabel=f"loss ({unit})", title="Loss by training step")
    axes.grid(alpha=0.3)
    axes.legend()
    return axes


def _smoothed(values: list[float]) -> list[float]:
    """Return moving averages over windows of about a fiftieth of the values."""
    half = len(values) // 100
    sums = [0.0, *accumulate(values)]
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[b] - sums[a]) / (b - a) for a, b in ends]


def draw_confusion(
    confusion: Sequence[Sequence[int]], classes: Sequence[Any], picture: Path
) -> None:
    """Draw a confusion matrix, counts ``[true][predicted]``, as a PNG, coloured by shares."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    names, K = [str(name) for name in classes], len(classes)
    size = min(16.0, 2.5 + 0.45 * K)
    axes = new_axes(size + 0.8, size, "a confusion matrix")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    crowded = K * max(map(len, names)) > 60
    axes.set_xticks(range(K), names, rotation=90 if crowded else 0)
    axes.set_yticks(range(K), names)
    if K <= 30:
        for i, j in np.argwhere(counts):
            axes.text(
                j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=8,
                color="white" if shares[i, j] > 0.5 else "black",
            )  # fmt: skip
    correct = np.trace(counts) / max(1, counts.sum())
    title = f"{correct:.1%} of {counts.sum():,} correct"
    axes.set(xlabel="predicted", ylabel="true", title=title)
    save_picture(axes, picture)


def draw_attention(
    weights: Any, source: Sequence[str], target: Sequence[str], picture: Path
) -> None:
    """Draw attention ``weights (target, source)`` between the pieces of two texts as a PNG."""
    axes = new_axes(1.5 + 0.3 * len(source), 1.5 + 0.3 * len(target), "a plot of attention")
    axes.imshow(np.asarray(weights), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), source, rotation=90)
    axes.set_yticks(range(len(target)), target)
    axes.xaxis.tick_top()
    save_picture(axes, picture)


def draw_speech(
    mel: Any, weights: Any, pieces: Sequence[str], picture: str | os.PathLike[str]
) -> None:
    """Draw log-mel frames ``(T, K)``, and below them the attention ``(steps, S)`` to the pieces."""
    width = min(16.0, 4 + 0.02 * len(mel))
    height = min(12.0, 4 + 0.12 * len(pieces))
    above, below = new_axes(width, height, "a picture of speech", 2)
    extent = (0, len(mel), 0, np.shape(mel)[1])
    above.imshow(np.asarray(mel).T, origin="lower", aspect="auto", cmap="magma", extent=extent)
    above.set(ylabel="mel band")
    below.imshow(
        np.asarray(weights).T, aspect="auto", cmap="Blues", vmin=0, vmax=1,
        extent=(0, len(mel), len(pieces) - 0.5, -0.5),
    )  # fmt: skip
    if len(pieces) <= 120:
        below.set_yticks(range(len(pieces)), pieces, fontsize=8)
    below.set(xlabel="frame", ylabel="text")
    save_picture(above, picture)
