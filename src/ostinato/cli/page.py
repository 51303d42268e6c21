"""The page of ``ostinato demo``: one file, drawn without any library, that asks nobody."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ostinato.files import atomic_file

if TYPE_CHECKING:
    from ostinato.tasks.base import Text

STYLE = """
:root { --ink: #1b1f24; --soft: #66707a; --paper: #fff; --line: #d8dde2; --a: #00796b; --b: #d55e00;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaed; --soft: #98a2ac; --paper: #15181b;
  --line: #343a40; --a: #4db6ac; --b: #ff9e58; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
p { margin: .4rem 0; } .soft, text { color: var(--soft); fill: var(--soft); }
table { border-collapse: collapse; font-family: ui-monospace, monospace; }
.dates td { padding: .1rem 1rem .1rem 0; } .right { color: var(--a); } .wrong { color: var(--b); }
.look td, .look th { width: 1.45rem; height: 1.45rem; text-align: center; font-weight: 400;
  padding: 0; } .look td { background: rgb(from var(--a) r g b / var(--w)); }
svg { width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; }
.a { stroke: var(--a); fill: none; stroke-width: 2.5; } .b { stroke: var(--b); fill: none;
  stroke-width: 2.5; } .dot { fill: var(--b); } .grid { stroke: var(--line); }
.bar { background: var(--a); height: 1.3rem; border-radius: 3px; } .bar.other {
  background: var(--b); }
.race { display: grid; grid-template-columns: 11rem 1fr 8rem; gap: .3rem .8rem;
  align-items: center; }
code { background: rgb(from var(--soft) r g b / .13); padding: .1rem .4rem; border-radius: 4px; }
"""

WIDTH, HEIGHT, LEFT, TOP = 800, 260, 60, 14
"""Of a plot, with room for its labels at the left, and above."""

LOWEST = -4
"""Exponent of ten of the smallest share of a gradient that is drawn."""

NEXT = {
    'echo "4 May 2031" | ostinato translate {run}': "the model of this page",
    "ostinato diagnose {run}": "what keeps it from learning, if anything does",
    "ostinato train YOUR_FILES": "says what can be learned from your own data",
    "ostinato demo --text": "a language model, in some minutes",
    "ostinato examples": "programs to start from",
}
"""Commands to try next, and what each does."""


class Seen(NamedTuple):
    """What the demo found, for the terminal and for the page.

    Attributes:
        rows: dates as written, as they were translated, and as is right: ten, and one of a format
            never seen.
        right, fresh: how many of how many fresh dates were right.
        seconds: training time.
        read, text: the letters of a date, and its translation with the attention.
        left: share of the gradient that reaches each letter, by lag, of each network by name.
        speeds: steps per second of each contender by name.
        history: records of training.
    """

    rows: list[tuple[str, str, str]]
    right: int
    fresh: int
    seconds: float
    read: list[str]
    text: Text
    left: dict[str, list[float]]
    speeds: dict[str, float]
    history: Sequence[Any]


def write_page(path: Path, seen: Seen) -> None:
    """Write what the demo found as one HTML file."""
    with atomic_file(path) as file:
        file.write(page_of(seen, path.parent).encode())


def page_of(seen: Seen, run: Path) -> str:
    """Return the page; ``run`` is the folder of the model."""
    *ten, other = seen.rows
    names = list(seen.left)
    lags = min(map(len, seen.left.values()))
    ends = ", ".join(f"{percent(left[lags - 1])} ({n})" for n, left in seen.left.items())
    fastest = max(seen.speeds.values())
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width"><title>Ostinato: dates</title>',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{seen.right} of {seen.fresh} dates right</h1>",
        f'<p class="soft">that the network had never seen, after {seen.seconds:.0f} seconds of '
        "training on 2,000 examples. It is an encoder and a decoder of 128 gated recurrent units, "
        "with attention between them.</p>",
        _dates(ten),
        "<p>And one written in a way that it has never seen:</p>",
        _dates([other]),
        "<h2>Where it looks</h2>",
        '<p class="soft">Each row is a letter that it writes, each column one that it has read; '
        "the darker, the more attention.</p>",
        _attention(seen),
        "<h2>How it learned</h2>",
        '<p class="soft">Loss by step of training, with smoothed labels; dots: on dates held '
        "out.</p>",
        _curve(seen.history),
        "<h2>How much of the gradient reaches each letter</h2>",
        '<p class="soft">Counted back from the last letter, as a share of the gradient there: '
        f"{html.escape(ends)} after {lags - 1} letters. Attention brings it to every letter. A "
        "tanh RNN that is to tell the month of the same dates from its last state, as PyTorch "
        "initialises it, has nothing to learn from letters far back.</p>",
        _gradients([seen.left[name][:lags] for name in names], names),
        "<h2>One step at a time</h2>",
        '<p class="soft">An LSTM of 128 units on a stream, the same weights, steps per second on '
        "this machine.</p>",
        '<div class="race">',
        *(
            f'<span>{html.escape(name)}</span><div><div class="bar{" other" * (k > 0)}" '
            f'style="width:{max(0.5, 100 * speed / fastest):.1f}%"></div></div>'
            f"<span>{speed:,.0f}</span>"
            for k, (name, speed) in enumerate(seen.speeds.items())
        ),
        "</div>",
        "<h2>What to try next</h2>",
        *(
            f"<p><code>{html.escape(line.format(run=run))}</code><br>{about}</p>"
            for line, about in NEXT.items()
        ),
        "</body></html>",
    ]
    return "\n".join([*parts, ""])


def percent(share: float) -> str:
    """Return a share in per cent, two digits of it.

    >>> percent(0.5), percent(0.00123), percent(1e-9)
    ('50 %', '0.12 %', 'under 0.01 %')
    """
    return f"{100 * share:.2g} %" if share >= 10.0**LOWEST else f"under {10.0 ** (2 + LOWEST):g} %"


def _dates(rows: Iterable[tuple[str, str, str]]) -> str:
    cells = (
        f'<tr><td class="{"right" if found == target else "wrong"}">'
        f"{'✓' if found == target else '✗'}</td><td>{html.escape(source)}</td>"
        f"<td>{html.escape(found)}</td><td>{'' if found == target else target}</td></tr>"
        for source, found, target in rows
    )
    return f'<table class="dates">{"".join(cells)}</table>'


def _attention(seen: Seen) -> str:
    assert seen.text.attention is not None
    head = "".join(f"<th>{html.escape(letter)}</th>" for letter in seen.read)
    rows = [
        f"<tr><th>{html.escape(piece)}</th>"
        + "".join(f'<td style="--w:{weight:.2f}"></td>' for weight in weights)
        + "</tr>"
        for piece, weights in zip(seen.text.pieces, seen.text.attention, strict=False)
    ]
    return f'<table class="look"><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def _curve(history: Sequence[Any]) -> str:
    steps = [(r["step"], r["loss"]) for r in history if r.get("loss") is not None]
    held = [(r["step"], r["validation_loss"]) for r in history if r.get("validation_loss")]
    last = max(step for step, _ in [*steps, (1, 0.0)])
    top = max(1.0, *(loss for _, loss in [*steps, *held]))

    def at(step: float, loss: float) -> str:
        return f"{_x(step / last):.1f},{_y(1 - loss / top):.1f}"

    smooth, mean = [], steps[0][1] if steps else 0.0
    for step, loss in steps:
        mean += 0.1 * (loss - mean)
        smooth.append(at(step, mean))
    dots = (f'<circle class="dot" r="4" cx="{x}" cy="{y}"/>' for x, y in
            (at(*each).split(",") for each in held))  # fmt: skip
    drawn = [f'<polyline class="a" points="{" ".join(smooth)}"/>', *dots]
    marks = [(1 - k / 4, f"{k * top / 4:.2g}") for k in range(5)]
    return _plot(drawn, marks, [(0.0, "1"), (1.0, f"step {last:,}")])


def _gradients(curves: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    drawn = []
    for name, curve, style in zip(names, curves, "ab", strict=False):
        n = max(1, len(curve) - 1)
        points = [(_x(k / n), _y(_depth(share))) for k, share in enumerate(curve)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline class="{style}" points="{line}"/>')
        x, y = points[2 * n // 3]
        drawn.append(f'<text x="{x:.1f}" y="{y - 9:.1f}">{html.escape(name)}</text>')
    marks = [(k / -LOWEST, f"{100 * 10.0**-k:g} %") for k in range(1 - LOWEST)]
    most = max(map(len, curves)) - 1
    return _plot(drawn, marks, [(0.0, "the last letter"), (1.0, f"{most} letters before")])


def _depth(share: float) -> float:
    """Return how far down a share is drawn, from 0 to 1.

    >>> _depth(1.0) == 0, _depth(0.01), _depth(0.0)
    (True, 0.5, 1.0)
    """
    return min(1.0, max(0.0, math.log10(max(share, 1e-30)) / LOWEST))


def _plot(
    drawn: Iterable[str], rows: Iterable[tuple[float, str]], columns: Iterable[tuple[float, str]]
) -> str:
    """Return a plot with labels at shares of its height and of its width."""
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 40}">']
    for share, label in rows:
        y = _y(share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    for share, label in columns:
        anchor = "end" if share == 1 else "start"
        parts.append(
            f'<text x="{_x(share)}" y="{HEIGHT + 34}" text-anchor="{anchor}">{label}</text>'
        )
    return "".join([*parts, *drawn, "</svg>"])


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - 6)


def _y(share: float) -> float:
    return TOP + share * (HEIGHT - TOP)
