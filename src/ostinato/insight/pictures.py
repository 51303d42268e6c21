"""Plots of gradients, input influence, gates and units. Each needs ``ostinato[plots]``.

Every function draws into ``axes`` of matplotlib, new ones by default, and returns them. Colours are
those of Okabe and Ito 2008, which colour-blind readers can distinguish.
"""

from __future__ import annotations

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
from ostinato.training.pictures import COLOURS, new_axes

FONT = "monospace"
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def plot_flow(flow: GradientFlow, axes: Any = None, thresholds: Thresholds | None = None) -> Any:
    """Plot the gradient by lag, a line per layer; below ``thresholds.vanished`` it is shaded."""
    axes = axes or new_axes(8, 4.5, "a plot of gradients")
    vanished = (thresholds or Thresholds()).vanished
    tops = [float(np.nanmax(layer.norms, initial=0.0)) for layer in flow.layers]
    largest = max(tops, default=0.0) or 1.0
    lowest = 1.0
    for k, layer in enumerate(flow.layers):
        share = np.where(layer.norms > 0, layer.norms / largest, np.nan)
        lowest = min(lowest, float(np.nanmin(share, initial=1.0)))
        style = ("-", "--", "-.", ":")[k // len(COLOURS) % 4]
        factor = layer.growth().factor
        label = f"{layer.name}: times {factor:.3g} a step" if factor == factor else layer.name
        axes.plot(share, style, color=COLOURS[k % len(COLOURS)], linewidth=2, label=label)
    floor = max(1e-40, min(vanished / 30, lowest / 3))
    axes.set(
        yscale="log",
        ylim=(floor, 10.0),
        xlim=(max(flow.steps - 1, 1), 0),
        xlabel="steps back from the last one",
        ylabel="gradient of the state, share of the largest",
        title="Gradient by step, back in time",
    )
    _finish(axes, vanished, f"vanished: below {vanished:g} of the largest ", ha="left")
    axes.legend(loc="best", fontsize=8 if len(flow.layers) > 4 else 10)
    return axes


def plot_layers(flow: GradientFlow, axes: Any = None) -> Any:
    """Plot the gradient by layer and lag as a heat map, on a log scale."""
    L = len(flow.layers)
    axes = axes or new_axes(8, 1.8 + 0.35 * L, "a plot of gradients")
    norms = np.full((L, max(len(layer.norms) for layer in flow.layers)), np.nan)
    for row, layer in zip(norms, flow.layers, strict=True):
        row[: len(layer.norms)] = layer.norms
    values = np.log10(np.maximum(norms, 1e-45))
    top = float(np.nanmax(values, initial=-45.0))
    low = max(float(np.nanmin(values, initial=top)), top - 12)
    image = axes.imshow(
        values[::-1, ::-1], aspect="auto", cmap="viridis", vmin=low, vmax=top,
        extent=(norms.shape[1] - 0.5, -0.5, -0.5, L - 0.5), interpolation="nearest",
    )  # fmt: skip
    axes.set_yticks(range(L), [layer.name for layer in flow.layers])
    axes.set(xlabel="steps back from the last one", title="Gradient by layer and step")
    axes.figure.colorbar(image, ax=axes, label="log10 of its norm")
    return axes


def plot_influence(found: InputInfluence, axes: Any = None) -> Any:
    """Plot how much the output depends on the input by steps back in time."""
    axes = axes or new_axes(8, 4.5, "a plot of input influence")
    for values, style, color, label in (
        (found.effect, "o-", COLOURS[0], "change of the output when the input is replaced"),
        (found.gradient, "--", COLOURS[1], "gradient with respect to the input"),
    ):
        shares = np.where(values > 0, values / (values.max() or 1.0), np.nan)
        axes.plot(found.lags + 1, shares, style, color=color, markersize=3, label=label)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(1e-4, 2),
        xlabel="steps before the output (1: the last input)",
        ylabel="share of the largest",
        title="How far back the output depends on the input",
    )
    label = f"memory length: {found.memory_length} steps"
    axes.axvline(found.memory_length + 1, color=COLOURS[2], linestyle=":", label=label)
    _finish(axes, NEGLIGIBLE, "negligible ", ha="right")
    axes.legend()
    return axes


def _finish(axes: Any, limit: float, text: str, ha: str) -> None:
    """Shade what lies below a limit; write powers of ten as plain numbers, which every font has."""
    axes.axhspan(axes.get_ylim()[0], limit, color="0.85", zorder=0)
    place = {"transform": axes.get_yaxis_transform(), "va": "top", "ha": ha}
    axes.text(0.99 if ha == "right" else 0.01, limit, text, fontsize=9, color="0.25", **place)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")
    axes.grid(alpha=0.3)


def plot_gate(found: Gates, letter: str, layer: int = 0, axes: Any = None, limit: int = 100) -> Any:
    """Plot how far a gate of a layer is open, by unit and step, with the names of the steps.

    Args:
        found: result of `gates`.
        letter: letter of the gate.
        layer: number of the layer, from 0.
        axes: axes to draw into.
        limit: maximum number of steps.
    """
    name, gates = found.layers[layer].name, found.layers[layer].gates
    if letter not in gates:
        raise OstinatoError(
            f"plot_gate: {name} has no gate {letter!r}; expected one of "
            f"{', '.join(gates) or 'none'}."
        )
    axes = axes or new_axes(12, 4.5, "a plot of gates")
    values = gates[letter][:limit]
    low, cmap, label = 0, "cividis", "0 closed, 1 open"
    if values.min() < 0:
        low, cmap, label = -1, "PuOr", "-1 to 1"
    image = axes.imshow(
        values[:, np.argsort(values.mean(0))].T, aspect="auto", interpolation="nearest",
        origin="lower", cmap=cmap, vmin=low, vmax=1,
    )  # fmt: skip
    steps = [_shown(step) for step in found.steps[:limit]]
    rotation = 90 if max(map(len, steps)) > 2 else 0
    axes.set_xticks(range(len(steps)), steps, family=FONT, fontsize=8, rotation=rotation)
    axes.set(ylabel="units, ordered by mean", title=f"Gate {letter} of {name}")
    axes.figure.colorbar(image, ax=axes, label=label)
    return axes


def plot_unit(found: Gates, unit: Unit, axes: Any = None, width: int = 80) -> Any:
    """Plot the sequence as text of so many characters per line, coloured by the state of a unit."""
    values = found.activations(unit)
    places = []
    line = at = 0
    for step, value in zip(found.steps, values.tolist(), strict=True):
        text = _shown(step)
        if at and at + len(text) > width:
            line, at = line + 1, 0
        places.append((line, at, text, value))
        line, at = (line + 1, 0) if "\n" in step else (line, at + len(text))
    lines = min(40, places[-1][0] + 1)
    axes = axes or new_axes(12, 0.9 + 0.25 * lines, "a plot of a unit")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    bound = float(np.abs(values).max()) or 1.0
    colours = ScalarMappable(Normalize(-bound, bound), "PuOr")
    for line, at, text, value in places:
        if line < lines:
            paint = colours.to_rgba(np.asarray(value))
            axes.add_patch(Rectangle((at, line - 0.5), len(text), 1, color=paint, linewidth=0))
            axes.text(
                at + len(text) / 2, line, text, ha="center", va="center", family=FONT, size=9,
                color="white" if abs(value) > 0.7 * bound else "black",
            )  # fmt: skip
    state = f"{unit.state} of unit {unit.number}"
    follows = f": correlation {unit.correlation:+.2f}" if np.isfinite(unit.correlation) else ""
    axes.set(xlim=(0, width), ylim=(lines - 0.5, -0.5), title=f"{unit.layer}, {state}{follows}")
    axes.axis("off")
    axes.figure.colorbar(colours, ax=axes, label=state, shrink=0.9)
    return axes


def _shown(step: str) -> str:
    """Return a step as shown in a plot, with visible white space."""
    return step.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣") or "∅"


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
    axes = axes or new_axes(2.6 * (steps + 1), 1.4 * (L + 2.6), "an unfolded network")
    output = network.output.linear if isinstance(network, ScoringNetwork) else None
    pooled = isinstance(network, ManyToOne)
    sideways = "<->" if stack.bidirectional else "->"
    for t in range(steps):
        own, number = "shared " if t else "", str(t + 1).translate(SUBSCRIPTS)
        _node(axes, t, 0, f"x{number}\n({batch}, {stack.input_size})", COLOURS[5])
        for layer, cell in enumerate(stack.cells):
            state = cell.zero_state(1)._asdict().items()
            sizes = ", ".join(f"{name} ({batch}, {part.shape[1]})" for name, part in state)
            _node(axes, t, layer + 1, f"layer {layer}\n{sizes}", COLOURS[0])
            weights = stack.weights_of(layer * (1 + stack.bidirectional))
            shapes = {} if t else {n: f" {tuple(w.shape)}" for n, w in weights.items()}
            upward = shapes.get("weight_ih", "") if layer == 0 else ""
            _arrow(axes, (t, layer), (t, layer + 1), f"{own}W_ih{upward}")
            name = f"W_hh{shapes.get('weight_hh', '')}" if "weight_hh" in weights else "decay"
            _arrow(axes, (t, layer + 1), (t + 1, layer + 1), f"{own}{name}", sideways)
        if output is not None and (not pooled or t == steps - 1):
            _node(axes, t, L + 1, f"y{number}\n({batch}, {output.out_features})", COLOURS[1])
            _arrow(axes, (t, L), (t, L + 1), "W_hy" if pooled else f"{own}W_hy")
    for layer in range(L):
        axes.text(steps - 0.05, layer + 1, "...", fontsize=16, va="center", ha="left")
    title = f"{type(network).__name__}, unfolded: the same weights in every column"
    top = L + (1.6 if output is not None else 0.6)
    axes.set(xlim=(-0.6, steps + 0.3), ylim=(-0.5, top), title=title)
    axes.axis("off")
    return axes


def _node(axes: Any, x: float, y: float, text: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
    axes.text(x, y, text, ha="center", va="center", fontsize=11, zorder=3, bbox=box)


def _arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], text: str, style: str = "->"
) -> None:
    upward = start[0] == end[0]
    gap = np.array((0, 0.3) if upward else (0.3, 0))
    shape = {"arrowstyle": style, "color": "0.4"}
    axes.annotate("", np.subtract(end, gap), np.add(start, gap), arrowprops=shape)
    x, y = np.add(start, end) / 2 + ((0.03, 0.0) if upward else (0.0, 0.09))
    axes.text(
        x, y, text, fontsize=9.5, color="0.3",
        ha="left" if upward else "center", va="center" if upward else "bottom",
    )  # fmt: skip
