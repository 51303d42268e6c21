"""Draws the pictures of README and documentation, and the table of gradients.

    python benchmarks/figures.py [FIGURE ...] [--data FOLDER] [--minutes 14]

`guides` are the pictures of all pages whose code draws one; a page alone is named as in
``guides/music.md``. A figure whose data are missing is left out with a line. What each takes, on
two cores: unfolded and gradients seconds, guides, forecast and dates about a minute, attention the
minutes given, vanishing half an hour. docs/performance.png is drawn by benchmarks/report.py from
stored measurements.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import ostinato
from ostinato.cli.demo import FRESH, PAIRS, SETTINGS, STEPS, written_dates
from ostinato.insight import GradientFlow, gradient_flow, plot_unfolded, save_picture
from ostinato.networks import ManyToOne, Output
from ostinato.recurrence.layers import Recurrent
from ostinato.training.pictures import COLOURS, new_axes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SENTENCE = "A man in a blue shirt is standing on a ladder cleaning a window."
PAGES = {
    "guides/labels.md": "confusion.png",
    "guides/text.md": "run/learning_curve.png",
    "guides/regression.md": "wear.png",
    "guides/music.md": "piece.png",
    "guides/captions.md": "captions.png",
    "guides/speech.md": "letters.png",
    "guides/speaking.md": "speech.png",
    "guides/streaming.md": "live.png",
    "tagging.md": "labels.png",
    "guides/summarization.md": "copied.png",
    "guides/truncation.md": "truncation.png",
    "guides/own-cell.md": "flow.png",
    "understand/memory.md": "influence.png",
}
"""Pages whose code draws a picture, and the file that it writes."""

RUN = """
import os, shlex
os.environ["MPLBACKEND"] = "agg"
def _run(line):
    try:
        cli.main(shlex.split(line, comments=True)[1:])
    except SystemExit as end:
        assert not end.code, line
"""

LAYERS: Mapping[str, Callable[[int, int], Recurrent]] = {
    "RNN, tanh, pytorch": lambda I, H: ostinato.RNN(I, H, batch_first=True),
    "RNN, tanh, orthogonal": lambda I, H: ostinato.RNN(I, H, batch_first=True, init="orthogonal"),
    "RNN, relu, identity": lambda I, H: ostinato.RNN(
        I, H, batch_first=True, nonlinearity="relu", init="identity"
    ),
    "GRU, pytorch": lambda I, H: ostinato.GRU(I, H, batch_first=True),
    "GRU, chrono": lambda I, H: ostinato.GRU(I, H, batch_first=True, init="chrono", init_steps=200),
    "LSTM, pytorch": lambda I, H: ostinato.LSTM(I, H, batch_first=True),
    "LSTM, forget bias 1": lambda I, H: ostinato.LSTM(I, H, batch_first=True, init="orthogonal"),
    "LSTM, chrono": lambda I, H: ostinato.LSTM(
        I, H, batch_first=True, init="chrono", init_steps=200
    ),
}


def gradient_flows(seeds: int = 5, steps: int = 200, H: int = 64) -> dict[str, list[GradientFlow]]:
    """Measure untrained networks on noise, by the name of the layer, a measurement a seed."""
    found: dict[str, list[GradientFlow]] = {}
    for name, make in LAYERS.items():
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = ManyToOne(nn.Identity(), make(2, H), Output(H, 1, "number"))
            data = torch.randn(8, steps, 2), torch.randn(8, 1)
            found.setdefault(name, []).append(gradient_flow(network, data, seed=seed))
    return found


def table_of(flows: Mapping[str, list[GradientFlow]], lag: int = 100) -> str:
    """Return the table in Markdown."""
    lines = [f"| layer, initialisation | left {lag} steps back | per step |", "|---|---:|---:|"]
    for name, each in flows.items():
        gains = [flow.layers[0].gains for flow in each]
        left = np.mean([gain[lag] / gain[0] for gain in gains if gain is not None])
        factor = np.mean([flow.layers[0].growth().factor for flow in each])
        lines.append(f"| {name} | {left:.2g} | {factor:.3f} |")
    return "\n".join(lines)


def gradients(settings: argparse.Namespace) -> None:
    """Write the table of docs/understand/gradients.md, and draw it."""
    flows = gradient_flows()
    page = DOCS / "understand" / "gradients.md"
    between = r"(<!-- gradients: .*? -->\n).*?(<!-- end of gradients -->)"
    table = f"\\1\n{table_of(flows)}\n\n\\2"
    page.write_text(re.sub(between, table, page.read_text(), flags=re.S))
    axes = new_axes(8, 4.5, "a plot of gradients")
    for k, (name, each) in enumerate(flows.items()):
        gains = np.mean([flow.layers[0].gains for flow in each], axis=0)
        axes.plot(gains / gains[0], ("-", "--")[k // 6], color=COLOURS[k % 6], label=name)
    axes.set(yscale="log", ylim=(1e-12, 10), xlim=(199, 0), xlabel="steps back from the last one")
    axes.set_ylabel("Jacobian, share of that at the last step")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_picture(axes, DOCS / "pictures" / "gradients.png")


def unfolded(settings: argparse.Namespace) -> None:
    """Draw an LSTM over three steps."""
    recurrent = ostinato.LSTM(3, 8, batch_first=True)
    axes = plot_unfolded(ManyToOne(nn.Identity(), recurrent, Output(8, 2)))
    save_picture(axes, DOCS / "pictures" / "unfolded.png")


def dates(settings: argparse.Namespace) -> None:
    """Train as ``ostinato demo`` does, count new dates that are right, draw attention."""
    X, y = written_dates(PAIRS + FRESH, seed=0)
    model = ostinato.Translator(**SETTINGS, steps=STEPS)
    model.fit(X[:PAIRS], y[:PAIRS], progress="lines")
    found = model.translate(X[PAIRS:])
    right = sum(a == b for a, b in zip(found, y[PAIRS:], strict=True))
    print(f"{right} of {FRESH} new dates right after {model.training_['seconds']:.0f} seconds")
    model.plot_attention("3 July 1987", DOCS / "pictures" / "dates.png")


def draw_page(page: str) -> None:
    """Run the code of a page until it has drawn its picture, and keep that."""
    with tempfile.TemporaryDirectory() as folder:
        script = [f"import os; os.chdir({folder!r})", "from ostinato import cli"]
        for kind, code in re.findall(
            r"^```(\w+)\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S
        ):
            script += [code] if kind == "python" else []
            script += [f"_run({line!r})" for line in code.splitlines() if kind == "sh"]
            script += [f"if os.path.exists({PAGES[page]!r}):\n    raise SystemExit"]
        (Path(folder) / "page.py").write_text(f"{RUN}\n" + "\n".join(script))
        subprocess.run([sys.executable, Path(folder) / "page.py"], check=True)
        shutil.copy(Path(folder) / PAGES[page], DOCS / "pictures" / f"{Path(page).stem}.png")


def guides(settings: argparse.Namespace) -> None:
    """Draw the pictures of all pages whose code draws one."""
    for page in PAGES:
        draw_page(page)
        print(f"{page}: drawn", flush=True)


def forecast(settings: argparse.Namespace) -> None:
    """Forecast airline passengers from three cutoffs, trained on what was before the first."""
    file = _there(settings.data / "timeseries" / "airline-passengers.csv")
    found = ostinato.Forecaster(horizon=12).backtest(file, cutoffs=3, stride=12)
    print(found.scores())
    found.plot(DOCS / "forecast.png")


def attention(settings: argparse.Namespace) -> None:
    """Train on Multi30k, English to German, and draw the attention of a sentence."""
    folder = _there(settings.data / "multi30k-en-de")
    pairs = {part: [folder / f"{part}.{x}.gz" for x in ("en", "de")] for part in ("train", "val")}
    model = ostinato.Translator(minutes=settings.minutes)
    model.fit(pairs["train"], validation=pairs["val"], progress="lines")
    print(model.plot_attention(SENTENCE, DOCS / "attention.png"))


def vanishing(settings: argparse.Namespace) -> None:
    """Draw the adding problem before and after its remedies."""
    script = ROOT / "examples" / "vanishing" / "adding.py"
    subprocess.run([sys.executable, str(script), "--out", str(DOCS / "vanishing.png")], check=True)


def performance(settings: argparse.Namespace) -> None:
    """Draw docs/performance.png from the stored measurements."""
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "report.py")], check=True)


FIGURES: Mapping[str, Callable[[Any], None]] = {
    each.__name__: each
    for each in (unfolded, gradients, guides, dates, forecast, attention, vanishing, performance)
}


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(path)
    return path


def main() -> None:
    """Draw the figures that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = [*FIGURES, *PAGES]
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(known))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minutes", type=float, default=14.0, help="training of attention")
    settings = parser.parse_args()
    unknown = [name for name in settings.figures if name not in known]
    if unknown:
        parser.error(f"unknown figures {unknown}; expected some of {', '.join(known)}")
    for name in settings.figures or FIGURES:
        try:
            draw_page(name) if name in PAGES else FIGURES[name](settings)
            print(f"{name}: drawn", flush=True)
        except FileNotFoundError as error:
            print(
                f"{name}: left out: {error.args[0]} is not there: docs/reference/data.md",
                flush=True,
            )


if __name__ == "__main__":
    main()
