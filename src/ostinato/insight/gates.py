"""Gates and units at every step of a sequence, and which units follow a label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ostinato.errors import OstinatoError
from ostinato.insight.samples import Model, estimator_of
from ostinato.networks.seq2seq import EncoderDecoder
from ostinato.networks.speech import SpeechNetwork
from ostinato.networks.tracing import tracing
from ostinato.recurrence.cells import Tensors
from ostinato.training.evaluation import eval_mode

CLOSED, OPEN = 0.1, 0.9
"""Below and above these a gate counts as closed and as open (Karpathy et al. 2015, section 4.2)."""


class Unit(NamedTuple):
    """A unit, and its correlation with a label.

    Attributes:
        layer: name of its layer.
        state: name of the state: h, or c for an LSTM.
        number: number of the unit within the layer, from 0.
        correlation: correlation of the state with the label, -1 to 1.
    """

    layer: str
    state: str
    number: int
    correlation: float


@dataclass(frozen=True, eq=False)
class LayerGates:
    """Gates and states of one layer in one direction, ``(T, H)`` each.

    Attributes:
        name: name of the layer.
        gates: gates by letter, values in (0, 1); candidates, in (-1, 1), too.
        states: states by name: h, and c if the cell has one.
    """

    name: str
    gates: dict[str, NDArray[np.float64]]
    states: dict[str, NDArray[np.float64]]

    def saturation(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return, for each gate, the share of steps at which each unit is closed and open."""
        return {
            letter: ((values < CLOSED).mean(0), (values > OPEN).mean(0))
            for letter, values in self.gates.items()
            if values.min(initial=0.0) >= 0
        }

    def dead(self) -> NDArray[np.int64]:
        """Return the units whose state is the same at all steps."""
        return np.flatnonzero(np.ptp(self.states["h"], axis=0) < 1e-6)

    def to_json(self) -> dict[str, Any]:
        """Return the dead units, and means and shares of each gate, as a JSON document."""
        gates = {
            letter: {
                "mean": float(self.gates[letter].mean()),
                "closed": float(closed.mean()),
                "open": float(open_.mean()),
            }
            for letter, (closed, open_) in self.saturation().items()
        }
        return {"dead": self.dead().tolist(), **gates}

    def __str__(self) -> str:
        gates = self.to_json()
        parts = [f"{len(gates.pop('dead'))} of {self.states['h'].shape[1]} units dead"]
        for letter, gate in gates.items():
            shares = f"closed {gate['closed']:.0%}, open {gate['open']:.0%}"
            parts.append(f"{letter} {gate['mean']:.2f} on average, {shares}")
        return f"{self.name}: " + "; ".join(parts)


@dataclass(frozen=True, eq=False)
class Gates:
    """Result of `gates`.

    Attributes:
        steps: name of each step, such as a character.
        layers: a `LayerGates` for each layer and direction.
    """

    steps: list[str]
    layers: list[LayerGates]

    def rank(self, labels: ArrayLike, limit: int = 10) -> list[Unit]:
        """Rank units by the absolute correlation of their state with a label.

        Args:
            labels: a number or boolean for each step, such as `inside_quotes` of a text; NaN at
                steps to ignore.
            limit: maximum number of units.

        Raises:
            OstinatoError: if the number of labels is not that of steps, or all labels are equal.
        """
        target = np.asarray(labels, dtype=np.float64)
        if target.shape != (len(self.steps),):
            raise OstinatoError(
                f"Gates.rank: labels have shape {target.shape}; expected ({len(self.steps)},), "
                "one for each step."
            )
        mask = np.isfinite(target)
        if len(np.unique(target[mask])) < 2:
            raise OstinatoError("Gates.rank: all labels are equal; expected at least two values.")
        target = target[mask] - target[mask].mean()
        target /= np.linalg.norm(target)
        units = []
        for layer in self.layers:
            for name, values in layer.states.items():
                centred = values[mask] - values[mask].mean(0)
                norms = np.linalg.norm(centred, axis=0)
                correlations = target @ centred / np.maximum(norms, 1e-12)
                units += [Unit(layer.name, name, i, float(r)) for i, r in enumerate(correlations)]
        return sorted(units, key=lambda unit: -abs(unit.correlation))[:limit]

    def unit(self, number: int, layer: int = 0, state: str = "h") -> Unit:
        """Return a unit by its number, and its layer's; for an LSTM, ``state`` may be ``c``."""
        if not 0 <= layer < len(self.layers):
            raise OstinatoError(f"there is no layer {layer}; expected 0 to {len(self.layers) - 1}.")
        name, H = self.layers[layer].name, self.layers[layer].states[state].shape[1]
        if not 0 <= number < H:
            raise OstinatoError(f"{name} has no unit {number}; expected 0 to {H - 1}.")
        return Unit(name, state, number, float("nan"))

    def activations(self, unit: Unit) -> NDArray[np.float64]:
        """Return the state of a unit at each step, ``(T,)``."""
        layer = next(layer for layer in self.layers if layer.name == unit.layer)
        return layer.states[unit.state][:, unit.number]

    def __str__(self) -> str:
        return "\n".join(map(str, self.layers))

    def to_json(self) -> dict[str, Any]:
        """Return means and shares by layer as a JSON document."""
        return {layer.name: layer.to_json() for layer in self.layers}


def overlay(found: Gates, unit: Unit, width: int = 80) -> str:
    """Show the sequence line by line, and below each step a unit's state, from low to high."""
    values = found.activations(unit)
    levels = (values - values.min()) / max(np.ptp(values), 1e-12) * 7
    lines, above, below = [], "", ""
    for step, level in zip(found.steps, levels.tolist(), strict=True):
        shown = step.replace("\n", "⏎").replace("\t", "⇥") or "∅"
        if len(above) + len(shown) > width:
            lines += [above, below, ""]
            above = below = ""
        above, below = above + shown, below + "▁▂▃▄▅▆▇█"[int(level + 0.5)] * len(shown)
    return "\n".join([*lines, above, below])


def _reader(network: nn.Module) -> Callable[[Any], object]:
    """Return what reads the input of a network: all of it, or its encoder."""
    if isinstance(network, EncoderDecoder):
        return network.encoder
    return network.encode if isinstance(network, SpeechNetwork) else network


def gates(model: Model, sequence: Any) -> Gates:
    """Compute every gate and state by step and unit while a network reads one sequence.

    Runs on the usual path of the network, at its speed; for an `EncoderDecoder` and a
    `SpeechNetwork`, only the encoder.

    Args:
        model: an estimator, or any module with recurrent layers of Ostinato or `torch.nn`.
        sequence: a text for a `TextGenerator`; for other estimators one of the sequences that
            ``fit`` takes; for a network a tensor ``(T, ...)``.

    Raises:
        OstinatoError: if the network has no recurrent layers, or the sequence no steps.

    Example:
        >>> from torch import nn
        >>> from ostinato.recurrence.dropin import GRU
        >>> from ostinato.networks.arrangements import ManyToMany
        >>> from ostinato.networks.outputs import Output
        >>> network = ManyToMany(nn.Identity(), GRU(2, 5, batch_first=True), Output(5, 2))
        >>> found = gates(network, torch.randn(7, 2))
        >>> found.layers[0].gates["z"].shape, len(found.rank(range(7), limit=3))
        ((7, 5), 3)
    """
    estimator, names = estimator_of(model), list[str]()
    if estimator is not None:
        network = estimator.network_
        x, names = estimator.encode(sequence)
    else:
        network, x = cast(nn.Module, model), sequence[None]
    with eval_mode(network), torch.no_grad(), tracing(network) as traced:
        _reader(network)(x)
    if not traced:
        raise OstinatoError(f"gates: {type(network).__name__} has no recurrent layers.")
    layers = [LayerGates(each.name, *map(_arrays, each.trace)) for each in traced]
    T = len(layers[0].states["h"])
    if not T:
        raise OstinatoError("gates: the sequence is empty; expected at least one step.")
    return Gates(names or [str(t) for t in range(T)], layers)


def _arrays(tensors: Tensors | None) -> dict[str, NDArray[np.float64]]:
    """Return tensors ``(T, 1, H)`` of a named tuple by name, as arrays ``(T, H)``."""
    parts = {} if tensors is None else tensors._asdict()
    return {name: t[:, 0].double().cpu().numpy() for name, t in parts.items()}


def inside_quotes(text: str, marks: str = '"') -> NDArray[np.bool_]:
    """Return for each character whether it is inside quotation marks, including the marks.

    >>> "".join("x" if inside else "." for inside in inside_quotes('he "said" so'))
    '...xxxxxx...'
    """
    is_mark = np.array([character in marks for character in text], dtype=bool)
    return np.asarray(is_mark | (is_mark.cumsum() % 2 == 1))


def position_in_line(text: str) -> NDArray[np.int64]:
    r"""Return the position of each character in its line, from 0.

    >>> position_in_line("ab\ncd").tolist()
    [0, 1, 2, 0, 1]
    """
    starts = (text.rfind("\n", 0, i) + 1 for i in range(len(text)))
    return np.array([i - start for i, start in enumerate(starts)], dtype=np.int64)


LABELS: dict[str, Callable[[str], NDArray[Any]]] = {
    "quotes": inside_quotes,
    "line": position_in_line,
}
"""Labels of characters by name."""


def labels_of(name: str, steps: list[str]) -> NDArray[Any]:
    """Return the label of each step of a text, which is that of its first character.

    >>> labels_of("line", ["ab", "-", "c"]).tolist()
    [0, 2, 3]
    """
    if name not in LABELS:
        raise OstinatoError(f"label {name!r}; expected one of {', '.join(LABELS)}.")
    of_characters = LABELS[name]("".join(steps))
    starts = np.cumsum([0, *(len(step) for step in steps[:-1])])
    return np.asarray(of_characters[np.minimum(starts, len(of_characters) - 1)])
