"""The adding problem: vanishing gradients, their diagnosis, and remedies.

Two numbers of a sequence are marked, one in each half; the target is their sum (Hochreiter and
Schmidhuber 1997). The best constant prediction is 1, with a mean squared error of 0.167. Each cell
is trained, diagnosed, and trained again with the first remedy found, until it is healthy.

    python examples/vanishing/adding.py [--steps 50 200 600] [--out vanishing.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import ostinato
from ostinato.insight import Diagnosis

CELLS = ("rnn", "rnn-relu", "gru", "lstm")
SOLVED = 0.01


def adding(N: int, T: int, seed: int) -> tuple[Any, Any]:
    """N sequences of T steps, each a number and a mark; and the sums."""
    random = np.random.default_rng(seed)
    X = np.zeros((N, T, 2), dtype=np.float32)
    X[..., 0] = random.random((N, T))
    first, second = random.integers(0, T // 2, N), random.integers(T // 2, T, N)
    X[np.arange(N), first, 1] = X[np.arange(N), second, 1] = 1
    return X, X[np.arange(N), first, 0] + X[np.arange(N), second, 0]


def trained(T: int, N: int, **settings: Any) -> tuple[Diagnosis, float]:
    """Return the diagnosis of a network, and its mean squared error on new data."""
    model = ostinato.SequenceRegressor(
        bidirectional=False, pooling="last", dropout=0.0, hidden_size=64, epochs=8, **settings
    )
    model.fit(*adding(N, T, seed=1))
    X, y = adding(500, T, seed=2)
    return ostinato.diagnose(model, (X[:32], y[:32])), float(model.evaluate(X, y)["rmse"]) ** 2


def course(cell: str, T: int, N: int = 10_000) -> list[tuple[dict[str, Any], Diagnosis, float]]:
    """Train a cell, then with one remedy after the other: settings, diagnosis, error."""
    # Rectified units that start as the identity explode at the rate that suits the others.
    settings: dict[str, Any] = {"cell": cell, "learning_rate": 0.003 if "relu" in cell else 0.01}
    rounds = []
    for _ in range(4):
        found, error = trained(T, N, **settings)
        rounds.append((dict(settings), found, error))
        issue = found.first or "healthy"
        words = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in settings.items())
        print(f"  {words:<52}error {error:.5f}  {issue}", flush=True)
        if error < SOLVED or not found.findings:
            break
        remedy = found.findings[0].remedies[0]
        print(f"    {found.findings[0].message}\n    remedy: {remedy}", flush=True)
        settings[remedy.setting] = remedy.value
    return rounds


def draw(courses: dict[tuple[int, str], list[Any]], picture: Path) -> None:
    """Plot the gradient by lag of every cell before and after its remedies."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ostinato.training.pictures import COLOURS

    lengths = sorted({T for T, _ in courses})
    figure = Figure(figsize=(5 * len(lengths), 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(lengths), squeeze=False)
    for column, T in enumerate(lengths):
        for row, which in enumerate((0, -1)):
            axes = panels[row][column]
            for k, cell in enumerate(CELLS):
                settings, found, error = courses[T, cell][which]
                norms = found.flow.layers[0].norms
                share = np.where(norms > 0, norms / np.nanmax(norms), np.nan)
                name = cell if not which else f"{cell}, now {settings['cell']}"
                if which and settings.get("init"):
                    name += f" {settings['init']}"
                axes.plot(share, color=COLOURS[k], label=f"{name}: error {error:.4f}")
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_ylim(1e-12, 10)
            axes.set_xlim(T - 1, 0)
            axes.axhspan(1e-12, 1e-3, color="0.9", zorder=0)
            axes.grid(alpha=0.3)
            axes.legend(loc="lower left", fontsize=8)
            axes.set_title(f"{T} steps, {'as it comes' if not which else 'with the remedies'}")
            axes.set_xlabel("steps back from the last one")
        panels[0][0].set_ylabel("gradient, share of the largest")
        panels[1][0].set_ylabel("gradient, share of the largest")
    figure.savefig(picture, dpi=100)


def main() -> dict[tuple[int, str], list[Any]]:
    """Run all cells on all lengths, and draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 200, 600])
    parser.add_argument("--out", type=Path, default=Path("vanishing.png"))
    arguments = parser.parse_args()
    courses = {}
    for T in arguments.steps:
        for cell in CELLS:
            print(f"{cell}, {T} steps", flush=True)
            courses[T, cell] = course(cell, T)
    draw(courses, arguments.out)
    print(f"picture: {arguments.out}")
    return courses


if __name__ == "__main__":
    main()
