"""The settings measured: their data, and their arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Family = Literal["training", "inference", "lengths", "last", "streaming"]
CellName = Literal["rnn", "lstm", "gru"]
Array = NDArray[np.float32]

CELLS: tuple[CellName, ...] = ("rnn", "lstm", "gru")
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
SIZES = (32, 64, 128, 256, 512)
SHAPES = ((32, 100), (8, 256), (1, 100))  # (B, T)


@dataclass(frozen=True)
class Setting:
    """One thing to measure. The input is as wide as the hidden state, ``I = H``.

    Args:
        family: ``training``, forward and backward with a loss at every step; ``inference``,
            forward alone; ``lengths``, training on rows of which half the steps are padding;
            ``last``, training with a loss at the last step alone; ``streaming``, one step a call.
        cell: rnn (tanh), lstm or gru.
        B: rows.
        T: steps.
        H: hidden units.
        input_grad: whether the input needs a gradient too.
    """

    family: Family
    cell: CellName
    B: int
    T: int
    H: int
    input_grad: bool = False

    @property
    def name(self) -> str:
        """A name to choose it by, such as ``training/lstm/32x100/128/dx``."""
        parts = [self.family, self.cell, f"{self.B}x{self.T}", str(self.H)]
        return "/".join([*parts, *["dx"] * self.input_grad])

    @property
    def is_training(self) -> bool:
        """Whether there is a backward pass."""
        return self.family not in ("inference", "streaming")


def quick_settings() -> list[Setting]:
    """A few minutes: what decides most."""
    return [
        *(Setting("training", c, 32, 100, H, True) for c, H in product(CELLS, SIZES)),
        *(Setting("training", c, 1, 100, H, True) for c, H in product(CELLS, SIZES)),
        *(Setting("inference", c, 32, 100, 128) for c in CELLS),
        *(Setting("lengths", c, 32, 100, H, True) for c, H in product(CELLS, (64, 256))),
        *(Setting("last", c, 8, 256, H, True) for c, H in product(CELLS, (64, 256))),
        *(Setting("streaming", c, 1, 1, H) for c, H in product(CELLS, SIZES)),
    ]


def full_settings() -> list[Setting]:
    """Everything, in 20 minutes or so."""
    grid = [(c, B, T, H) for (B, T), c, H in product(SHAPES, CELLS, SIZES)]
    return [
        *(Setting("training", *point, True) for point in grid),
        *(Setting("training", c, 32, 100, H, False) for c, H in product(CELLS, SIZES)),
        *(Setting("inference", c, 32, 100, H) for c, H in product(CELLS, SIZES)),
        *(Setting("lengths", c, 32, 100, H, True) for c, H in product(CELLS, SIZES)),
        *(Setting("last", c, 8, 256, H, True) for c, H in product(CELLS, (64, 256))),
        *(Setting("streaming", c, 1, 1, H) for c, H in product(CELLS, SIZES)),
    ]


def flops(setting: Setting, steps: int | None = None) -> int:
    """Multiplications and additions of the matrix products that a setting cannot do without.

    Forward is ``2 GH (I + H)`` a step. Backward repeats it for the weights' gradients, and once
    more for the gradients of what went in, of which the input's share is needed only if it has a
    gradient. The first step counts as any other: its state may have a gradient too.

    Args:
        setting: the setting.
        steps: steps of all rows together, without padding.
    """
    s, steps = setting, setting.B * setting.T if steps is None else steps
    I, GH = s.H, GATES[s.cell] * s.H
    forward = 2 * steps * GH * (I + s.H)
    if not s.is_training:
        return forward
    return 2 * forward + 2 * steps * GH * (s.H + (I if s.input_grad else 0))


def text_lengths(B: int, T: int, seed: int = 0) -> NDArray[np.int64]:
    """Lengths as sentences have them: log-normal, the longest ``T``, half of all steps padding.

    Sorted, longest first, since that is what PyTorch's packed path likes best.

    >>> text_lengths(8, 100).tolist()
    [100, 64, 53, 45, 39, 39, 34, 26]
    """
    drawn = np.sort(np.exp(0.6 * np.random.default_rng(seed).standard_normal(B)))[::-1]

    def scaled(scale: float) -> NDArray[np.int64]:
        lengths = np.clip(np.rint(scale * drawn), 1, T).astype(np.int64)
        lengths[0] = T
        return lengths

    low, high = 0.0, float(T) / float(drawn.min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).mean() < T / 2 else (low, middle)
    return scaled(high)


@dataclass(frozen=True)
class Problem:
    """The data of a setting, the same for every contender.

    Attributes:
        x: input, ``(T, B, I)``.
        cotangent: gradient of the loss by the outputs, ``(T, B, H)``, zero in padding; by the last
            output, ``(B, H)``, where that alone has a loss.
        weights: ``weight_ih (GH, I)``, ``weight_hh (GH, H)``, ``bias_ih (GH,)``, ``bias_hh (GH,)``,
            gates in PyTorch's order, drawn as PyTorch draws them.
        lengths: steps of each row, ``(B,)``, or None.
    """

    x: Array
    cotangent: Array
    weights: dict[str, Array]
    lengths: NDArray[np.int64] | None

    @classmethod
    def of(cls, setting: Setting) -> Problem:
        """Draw the data of a setting."""
        s, rng = setting, np.random.default_rng(0)
        GH, bound = GATES[s.cell] * s.H, s.H**-0.5
        shapes = {"weight_ih": (GH, s.H), "weight_hh": (GH, s.H), "bias_ih": GH, "bias_hh": GH}
        weights = {
            name: rng.uniform(-bound, bound, shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        x = rng.standard_normal((s.T, s.B, s.H), dtype=np.float32)
        # Of the size that the mean over rows and steps would give.
        outputs = (s.B, s.H) if s.family == "last" else (s.T, s.B, s.H)
        cotangent = rng.standard_normal(outputs, dtype=np.float32)
        cotangent /= np.prod(outputs[:-1], dtype=np.float32)
        if s.family != "lengths":
            return cls(x, cotangent, weights, None)
        lengths = text_lengths(s.B, s.T)
        cotangent *= np.arange(s.T)[:, None, None] < lengths[:, None]
        return cls(x, cotangent, weights, lengths)
