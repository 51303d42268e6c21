"""Plots of gradients, input influence, gates and units. Each needs ``ostinato[plots]``.

Every function draws into axes of matplotlib, new ones by default, and returns them. Colours are
those of Okabe and Ito 2008, which colour-blind readers can distinguish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ostinato.errors import OstinatoError
from ostinato.insight.diagnosis import Thresholds
from ostinato.insight.flow import GradientFlow
from ostinato.insight.gates import Gates, Unit
from ostinato.insight.influence import NEGLIGIBLE, InputInfluence, ScoringNetwork
from ostinato.networks.arrangements import ManyToOne
from ostinato.recurrence.layers import Recurrent
from ostinato.training.pictures import COLOURS, new_axes, plot_losses

__all__ = [
    "plot_curve",
    "plot_flow",
    "plot_gate",
    "plot_influence",
    "plot_layers",
    "plot_unfolded",
    "plot_unit",
]

FONT = "monospace"


def plot_flow(flow: GradientFlow, axes: Any = None, thresholds: Thresholds | None = None) -> Any:
    """Plot the gradient by lag, one line per layer, on a log scale, with the vanished range shaded.

    Args:
        flow: result of `gradient_flow`.
        axes: axes to draw into.
        thresholds: limits of the shaded range.
    """
    axes = new_axes(8, 4.5, "a plot of gradients") if axes is None else axes
    limits = thresholds or Thresholds()
    curves = {layer.name: layer.norms for layer in flow.layers}
    first = max((float(np.nanmax(c, initial=0.0)) for c in curves.values()), default=0.0) or 1.0
    lowest = 1.0
    styles = ["-", "--", "-.", ":"]
    for k, (name, curve) in enumerate(curves.items()):
        share = np.where(curve > 0, curve / first, np.nan)
        lowest = min(lowest, float(np.nanmin(share, initial=1.0)))
        growth = flow.layers[k].growth().factor
        axes.plot(
            share, styles[k // len(COLOURS) % 4], color=COLOURS[k % len(COLOURS)], linewidth=2,
            label=f"{name}: {growth:.3g} per step",
        )  # fmt: skip
    top = max(10.0, 3 * max(float(np.nanmax(c, initial=0.0) / first) for c in curves.values()))
    floor = max(1e-40, min(limits.vanished / 30, lowest / 3))
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    axes.set_ylim(floor, top)
    axes.set_xlim(flow.steps - 1 if flow.steps > 1 else 1, 0)
    axes.axhspan(floor, limits.vanished, color="0.85", zorder=0)
    axes.text(
        0.01, limits.vanished, f"vanished: below {limits.vanished:g} of the largest ", va="top",
        transform=axes.get_yaxis_transform(), fontsize=9, color="0.25",
    )  # fmt: skip
    axes.set_xlabel("steps back from the last one")
    axes.set_ylabel("gradient of the state, share of the largest")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8 if len(curves) > 4 else 10)
    axes.set_title("Gradient by step, back in time")
    return axes


def plot_layers(flow: GradientFlow, axes: Any = None) -> Any:
    """Plot the gradient by layer and lag as a heat map, on a log scale."""
    axes = (
        new_axes(8, 1.8 + 0.35 * len(flow.layers), "a plot of gradients") if axes is None else axes
    )
    width = max(len(layer.norms) for layer in flow.layers)
    rows = [np.pad(layer.norms, (0, width - len(layer.norms)), constant_values=np.nan)
            for layer in flow.layers]  # fmt: skip
    with np.errstate(divide="ignore"):
        values = np.log10(np.maximum(np.stack(rows), 1e-45))
    top = float(np.nanmax(values, initial=-45.0))
    low, extent = (
        max(float(np.nanmin(values, initial=top)), top - 12),
        (width - 0.5, -0.5, -0.5, len(rows) - 0.5),
    )
    image = axes.imshow(
        values[::-1, ::-1], aspect="auto", cmap="viridis", vmin=low, vmax=top, extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    axes.set_yticks(range(len(rows)), [layer.name for layer in flow.layers])
    axes.set_xlabel("steps back from the last one")
    axes.set_title("Gradient by layer and step")
    axes.figure.colorbar(image, ax=axes, label="log10 of its norm")
    return axes


def plot_influence(found: InputInfluence, axes: Any = None) -> Any:
    """Plot how much the output depends on the input by steps back in time."""
    axes = new_axes(8, 4.5, "a plot of input influence") if axes is None else axes
    top = found.effect.max() or 1.0
    shares = np.where(found.effect > 0, found.effect / top, np.nan)
    axes.plot(found.lags + 1, shares, "o-", color=COLOURS[0], markersize=3,
              label="change of the output when the input is replaced")  # fmt: skip
    gradient = found.gradient / (found.gradient.max() or 1.0)
    axes.plot(found.lags + 1, np.where(gradient > 0, gradient, np.nan), "--", color=COLOURS[1],
              label="gradient with respect to the input")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes.xaxis, axes.yaxis)
    axes.set_ylim(1e-4, 2)
    axes.axhspan(1e-4, NEGLIGIBLE, color="0.85", zorder=0)
    axes.text(0.99, NEGLIGIBLE, "negligible ", va="top", ha="right", fontsize=9, color="0.25",
              transform=axes.get_yaxis_transform())  # fmt: skip
    axes.axvline(found.memory_length + 1, color=COLOURS[2], linestyle=":",
                 label=f"memory length: {found.memory_length} steps")  # fmt: skip
    axes.set_xlabel("steps before the output (1: the last input)")
    axes.set_ylabel("share of the largest")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title("How far back the output depends on the input")
    return axes


def plot_gate(found: Gates, letter: str, layer: int = 0, axes: Any = None, limit: int = 100) -> Any:
    """Plot how far a gate is open, by unit and step, with the names of the steps on the axis.

    Args:
        found: result of `gates`.
        letter: letter of the gate.
        layer: number of the layer, from 0.
        axes: axes to draw into.
        limit: maximum number of steps.
    """
    gates = found.layers[layer].gates
    if letter not in gates:
        raise OstinatoError(
            f"plot_gate: {found.layers[layer].name} has no gate {letter!r}; expected one of "
            f"{', '.join(gates) or 'none'}."
        )
    axes = new_axes(12, 4.5, "a plot of gates") if axes is None else axes
    values = gates[letter][:limit]
    order = np.argsort(values.mean(0))
    is_gate = values.min() >= 0
    image = axes.imshow(
        values[:, order].T, aspect="auto", interpolation="nearest", origin="lower",
        cmap="cividis" if is_gate else "PuOr", vmin=0 if is_gate else -1, vmax=1,
    )  # fmt: skip
    steps = [_shown(step) for step in found.steps[:limit]]
    axes.set_xticks(range(len(steps)), steps, family=FONT, fontsize=8,
                    rotation=90 if max(map(len, steps)) > 2 else 0)  # fmt: skip
    axes.set_ylabel("units, ordered by mean")
    label = "0 closed, 1 open" if is_gate else "-1 to 1"
    axes.figure.colorbar(image, ax=axes, label=label)
    axes.set_title(f"Gate {letter} of {found.layers[layer].name}")
    return axes


def plot_unit(found: Gates, unit: Unit, axes: Any = None, width: int = 80) -> Any:
    """Plot the sequence as text, each step coloured by the state of one unit.

    Args:
        found: result of `gates`.
        unit: the unit, such as one of `Gates.rank`.
        axes: axes to draw into.
        width: characters per line.
    """
    values = found.activations(unit)
    lines: list[list[tuple[str, float]]] = [[]]
    used = 0
    for step, value in zip(found.steps, values, strict=True):
        ends = "\n" in step
        text = _shown(step)
        if used + len(text) > width:
            lines.append([])
            used = 0
        lines[-1].append((text, float(value)))
        used += len(text)
        if ends:
            lines.append([])
            used = 0
    lines = [line for line in lines if line][:40]
    axes = new_axes(12, 0.9 + 0.25 * len(lines), "a plot of a unit") if axes is None else axes
    bound = float(np.abs(values).max()) or 1.0
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(-bound, bound), "PuOr")
    for row, line in enumerate(lines):
        at = 0
        for text, value in line:
            axes.add_patch(_box(at, row, len(text), colours.to_rgba(np.asarray(value))))
            ink = "white" if abs(value) > 0.7 * bound else "black"
            middle = at + len(text) / 2
            axes.text(middle, row, text, ha="center", va="center", family=FONT, size=9, color=ink)
            at += len(text)
    axes.set_xlim(0, width)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.axis("off")
    axes.figure.colorbar(colours, ax=axes, label=f"{unit.state} of unit {unit.number}", shrink=0.9)
    follows = f": correlation {unit.correlation:+.2f}" if np.isfinite(unit.correlation) else ""
    axes.set_title(f"{unit.layer}, {unit.state} of unit {unit.number}{follows}")
    return axes


def _box(x: float, y: float, width: float, colour: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y - 0.5), width, 1, color=colour, linewidth=0)


def _shown(step: str) -> str:
    """Return a step as shown in a plot, with visible white space."""
    return step.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣") or "∅"


def plot_curve(records: Sequence[Mapping[str, Any]], axes: Any = None, unit: str = "nats") -> Any:
    """Plot the learning curve, with spikes of the gradient norm marked.

    Args:
        records: records of training, as in ``metrics.jsonl``.
        axes: axes to draw into.
        unit: unit of the loss.
    """
    axes = new_axes(8, 4.5, "a learning curve") if axes is None else axes
    plot_losses(records, axes, unit)
    return axes


def plot_unfolded(network: nn.Module, axes: Any = None, steps: int = 3, batch: str = "B") -> Any:
    """Plot the network unfolded in time: one column per step, with the shapes of its tensors.

    Weights are the same in every column; their shapes are given in the first.

    Args:
        network: a network with a recurrent layer of Ostinato.
        axes: axes to draw into.
        steps: number of columns.
        batch: symbol of the batch size.
    """
    stack = next((m for m in network.modules() if isinstance(m, Recurrent)), None)
    if stack is None:
        raise OstinatoError(f"plot_unfolded: {type(network).__name__} has no recurrent layer.")
    L = stack.num_layers
    axes = (
        new_axes(3.4 * (steps + 1), 1.5 * (L + 2.6), "an unfolded network")
        if axes is None
        else axes
    )
    output = network.output.linear if isinstance(network, ScoringNetwork) else None
    pooled = isinstance(network, ManyToOne)
    for t in range(steps):
        _node(axes, t, 0, f"x{_subscript(t + 1)}\n({batch}, {stack.input_size})", COLOURS[5])
        for layer, cell in enumerate(stack.cells):
            state = cell.zero_state(1)._asdict().items()
            sizes = ", ".join(f"{name} ({batch}, {part.shape[1]})" for name, part in state)
            _node(axes, t, layer + 1, f"layer {layer}\n{sizes}", COLOURS[0])
            own = "shared " if t else ""
            weight = f"{own}W_ih" + (f" {tuple(stack.weights_of(0)['weight_ih'].shape)}"
                                           if not t and layer == 0 else "")  # fmt: skip
            _arrow(axes, (t, layer), (t, layer + 1), weight)
            both = "<->" if stack.bidirectional else "->"
            recurrent = stack.weights_of(layer * (1 + stack.bidirectional)).get("weight_hh")
            shape = f" {tuple(recurrent.shape)}" if recurrent is not None and t == 0 else ""
            label = f"{own}decay" if recurrent is None else f"{own}W_hh{shape}"
            _arrow(axes, (t, layer + 1), (t + 1, layer + 1), label, both)
        if output is not None and (not pooled or t == steps - 1):
            text = f"y{_subscript(t + 1)}\n({batch}, {output.out_features})"
            _node(axes, t, L + 1, text, COLOURS[1])
            _arrow(axes, (t, L), (t, L + 1), f"{'shared ' if t and not pooled else ''}W_hy")
    for layer in range(L):
        axes.text(steps - 0.05, layer + 1, "...", fontsize=16, va="center", ha="left")
    axes.set_xlim(-0.6, steps + 0.3)
    axes.set_ylim(-0.5, L + (1.6 if output is not None else 0.6))
    axes.axis("off")
    axes.set_title(f"{type(network).__name__}, unfolded: the same weights in every column")
    return axes


def _subscript(number: int) -> str:
    """Return a number as a subscript."""
    return "".join(chr(0x2080 + int(digit)) for digit in str(number))


def _plain_ticks(*axis: Any) -> None:
    """Write powers of ten as plain numbers, which every font has."""
    for each in axis:
        each.set_major_formatter(lambda value, _: f"{value:g}")
        each.set_minor_formatter(lambda value, _: "")


def _node(axes: Any, x: float, y: float, text: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
    axes.text(x, y, text, ha="center", va="center", fontsize=9, zorder=3, bbox=box)


def _arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], text: str, style: str = "->"
) -> None:
    upward = start[0] == end[0]
    gap = (0, 0.3) if upward else (0.3, 0)
    axes.annotate(
        "", (end[0] - gap[0], end[1] - gap[1]), (start[0] + gap[0], start[1] + gap[1]),
        arrowprops={"arrowstyle": style, "color": "0.4"},
    )  # fmt: skip
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    shift = (0.03, 0.0) if upward else (0.0, 0.09)
    axes.text(
        middle[0] + shift[0], middle[1] + shift[1], text, fontsize=7.5, color="0.3",
        ha="left" if upward else "center", va="center" if upward else "bottom",
    )  # fmt: skip
