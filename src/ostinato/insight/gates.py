"""What every gate and unit does at every step, and which unit follows what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ostinato.errors import OstinatoError
from ostinato.insight.samples import estimator_of
from ostinato.networks.seq2seq import EncoderDecoder
from ostinato.networks.tracing import tracing
from ostinato.training.fit import eval_mode

LEFT, RIGHT = 0.1, 0.9
"""Below and above these a gate counts as shut and as open (Karpathy et al. 2015, section 4.2)."""


class Unit(NamedTuple):
    """A unit, and how well it follows a label.

    Attributes:
        layer: its layer, by its name.
        state: h, or c of an LSTM.
        number: of the unit within the layer.
        correlation: of the state with the label, -1 to 1.
    """

    layer: str
    state: str
    number: int
    correlation: float


@dataclass(frozen=True, eq=False)
class LayerGates:
    """Gates and states of one layer in one direction, ``(T, H)`` each.

    Attributes:
        name: of the layer.
        gates: by their letter, values in (0, 1); candidates, in (-1, 1), too.
        states: h, and c where the cell has one.
    """

    name: str
    gates: dict[str, NDArray[np.float64]]
    states: dict[str, NDArray[np.float64]]

    def saturation(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Of each gate, by unit: the share of steps at which it is shut, and is open."""
        return {
            letter: ((values < LEFT).mean(0), (values > RIGHT).mean(0))
            for letter, values in self.gates.items()
            if values.min(initial=0.0) >= 0
        }

    def dead(self) -> NDArray[np.int64]:
        """Units whose state is the same at all steps."""
        return np.flatnonzero(np.ptp(self.states["h"], axis=0) < 1e-6)


@dataclass(frozen=True, eq=False)
class Gates:
    """What `gates` found.

    Attributes:
        steps: what each step is called, such as a character.
        layers: a `LayerGates` for each layer and direction.
    """

    steps: list[str]
    layers: list[LayerGates]

    def rank(self, labels: ArrayLike, most: int = 10) -> list[Unit]:
        """The units whose state follows a label best, the best first.

        Args:
            labels: a number, or true and false, for each step: `inside_quotes` of a text, say;
                NaN at steps that do not count.
            most: how many.

        Raises:
            OstinatoError: if there are not as many labels as steps, or all are the same.
        """
        wanted = np.asarray(labels, dtype=np.float64)
        if wanted.shape != (len(self.steps),):
            raise OstinatoError(
                f"Gates.rank: labels have shape {wanted.shape}; expected ({len(self.steps)},), "
                "one for each step."
            )
        counts = np.isfinite(wanted)
        wanted = wanted[counts] - wanted[counts].mean() if counts.any() else np.zeros(0)
        if not wanted.any():
            raise OstinatoError("Gates.rank: all labels are the same; there is nothing to follow.")
        wanted = wanted / np.linalg.norm(wanted)
        units = []
        for layer in self.layers:
            for name, values in layer.states.items():
                centred = values[counts] - values[counts].mean(0)
                norms = np.linalg.norm(centred, axis=0)
                found = wanted @ centred / np.maximum(norms, 1e-12)
                units += [Unit(layer.name, name, i, float(r)) for i, r in enumerate(found)]
        return sorted(units, key=lambda unit: -abs(unit.correlation))[:most]

    def unit(self, number: int, layer: int = 0, state: str = "h") -> Unit:
        """A unit by its number; of an LSTM ``c`` is another state than ``h``.

        Raises:
            OstinatoError: if there is none.
        """
        if not 0 <= layer < len(self.layers):
            raise OstinatoError(f"there is no layer {layer}; expected 0 to {len(self.layers) - 1}.")
        H = self.layers[layer].states[state].shape[1]
        if not 0 <= number < H:
            raise OstinatoError(
                f"{self.layers[layer].name} has no unit {number}; expected 0 to {H - 1}."
            )
        return Unit(self.layers[layer].name, state, number, float("nan"))

    def of(self, unit: Unit) -> NDArray[np.float64]:
        """The state of a unit at each step, ``(T,)``."""
        layer = next(layer for layer in self.layers if layer.name == unit.layer)
        return layer.states[unit.state][:, unit.number]

    def __str__(self) -> str:
        lines = []
        for layer in self.layers:
            parts = [f"{len(layer.dead())} of {layer.states['h'].shape[1]} units dead"]
            for letter, (shut, open_) in layer.saturation().items():
                shares = f"shut {shut.mean():.0%}, open {open_.mean():.0%}"
                parts.append(f"{letter} {layer.gates[letter].mean():.2f} on average, {shares}")
            lines.append(f"{layer.name}: " + "; ".join(parts))
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Means and shares, by layer."""
        return {
            layer.name: {
                "dead": layer.dead().tolist(),
                **{
                    letter: {
                        "mean": float(layer.gates[letter].mean()),
                        "shut": float(shut.mean()),
                        "open": float(open_.mean()),
                    }
                    for letter, (shut, open_) in layer.saturation().items()
                },
            }
            for layer in self.layers
        }


def overlay(found: Gates, unit: Unit, width: int = 80) -> str:
    """What was read, line by line, and below each step the state of a unit, from low to high."""
    shown = [step.replace("\n", "⏎").replace("\t", "⇥") or "∅" for step in found.steps]
    marks = sparkline(found.of(unit))
    lines, above, below = [], "", ""
    for step, mark in zip(shown, marks, strict=True):
        if len(above) + len(step) > width:
            lines += [above, below, ""]
            above = below = ""
        above, below = above + step, below + mark * len(step)
    return "\n".join([*lines, above, below])


def gates(model: Any, sequence: Any) -> Gates:
    """Every gate and state by step and unit, as the network reads one sequence.

    On the path that serves the network anyway, at its speed; of an `EncoderDecoder` its encoder.

    Args:
        model: an estimator, or any module with recurrent layers of ours or of `torch.nn`.
        sequence: a text for a `TextGenerator`; for other estimators one sequence as ``fit`` takes
            many; for a network a tensor ``(T, ...)``, which it is
            given as a batch of one.

    Raises:
        OstinatoError: if the network has no recurrent layers, or the sequence no steps.

    Example:
        >>> from torch import nn
        >>> from ostinato.recurrence.dropin import GRU
        >>> from ostinato.networks.arrangements import ManyToMany
        >>> from ostinato.networks.outputs import Output
        >>> network = ManyToMany(nn.Identity(), GRU(2, 5, batch_first=True), Output(5, 2))
        >>> found = gates(network, torch.randn(7, 2))
        >>> found.layers[0].gates["z"].shape, len(found.rank(range(7), most=3))
        ((7, 5), 3)
    """
    estimator = estimator_of(model)
    if estimator is not None:
        x, names = estimator.encode(sequence)
        network: Any = estimator.network_
    else:
        network, x = model, sequence[None]
        names = []
    with eval_mode(network), torch.no_grad(), tracing(network) as seen:
        reader = network.encoder if isinstance(network, EncoderDecoder) else network
        reader(x)
    if not seen:
        raise OstinatoError(f"gates: {type(network).__name__} has no recurrent layers.")
    layers = [
        LayerGates(each.name, _arrays(each.trace.gates), _arrays(each.trace.states))
        for each in seen
    ]
    T = len(layers[0].states["h"])
    if not T:
        raise OstinatoError("gates: the sequence is empty; give one with steps.")
    return Gates(list(names) or [str(t) for t in range(T)], layers)


def _arrays(parts: Any) -> dict[str, NDArray[np.float64]]:
    """Tensors ``(T, 1, H)`` of a named tuple by name, as arrays ``(T, H)``."""
    found: dict[str, Tensor] = {} if parts is None else parts._asdict()
    return {name: t[:, 0].double().cpu().numpy() for name, t in found.items()}


def inside_quotes(text: str, marks: str = '"') -> NDArray[np.bool_]:
    """For each character whether it stands within quotation marks, these included.

    >>> "".join("x" if inside else "." for inside in inside_quotes('he "said" so'))
    '...xxxxxx...'
    """
    inside, found = False, []
    for character in text:
        is_mark = character in marks
        found.append(inside or is_mark)
        inside ^= is_mark
    return np.array(found, dtype=bool)


def position_in_line(text: str) -> NDArray[np.int64]:
    r"""For each character how many stand before it in its line.

    >>> position_in_line("ab\ncd").tolist()
    [0, 1, 2, 0, 1]
    """
    found, position = [], 0
    for character in text:
        found.append(position)
        position = 0 if character == "\n" else position + 1
    return np.array(found, dtype=np.int64)


LABELS: dict[str, Callable[[str], NDArray[Any]]] = {
    "quotes": inside_quotes,
    "line": position_in_line,
}
"""What a character can be labelled with, by name."""


def labels_of(name: str, steps: list[str]) -> NDArray[Any]:
    """A label of `LABELS` for each step of a text: that of its first character.

    >>> labels_of("line", ["ab", "-", "c"]).tolist()
    [0, 2, 3]
    """
    if name not in LABELS:
        raise OstinatoError(f"label {name!r}; expected one of {', '.join(LABELS)}.")
    of_characters = LABELS[name]("".join(steps))
    begins = np.cumsum([0, *(len(step) for step in steps[:-1])])
    return np.asarray(of_characters[np.minimum(begins, len(of_characters) - 1)])


def sparkline(values: NDArray[np.float64]) -> str:
    """Values as marks from low to high, one each.

    >>> sparkline(np.array([0.0, 0.5, 1.0]))
    '▁▅█'
    """
    marks = "▁▂▃▄▅▆▇█"
    low, high = float(values.min()), float(values.max())
    places = (values - low) / max(high - low, 1e-12) * (len(marks) - 1)
    return "".join(marks[int(place + 0.5)] for place in places)
