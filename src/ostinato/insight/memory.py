"""How far back what a network says depends on what it was given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.insight.flow import number
from ostinato.insight.samples import Data, Examined, sample_of
from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.training.fit import eval_mode

SCORED = (ManyToMany, ManyToOne, OneToOne)
"""Networks with scores of each step or sequence, whose memory can be measured."""

MOST_LAGS = 64
"""Lags that are measured at most: all of the first 16, then ever fewer."""

NOTHING = 0.01
"""Share of the largest effect below which an effect counts as none."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What `memory` found. Lag 0 is the last step of a row.

    Attributes:
        lags: which were measured, ``(K,)``.
        effect: mean change of the answer when the input at a lag is swapped for another, ``(K,)``:
            half the sum of the changes of probabilities, 0 to 1; of numbers, their change in
            deviations of the numbers.
        loss_rise: mean rise of the loss at the last step, by the same.
        gradient: norm of the gradient of the loss at the last step by the encoded input, ``(K,)``.
        contexts: numbers of last steps, ``(C,)``.
        context_loss: mean loss at the last step given so many steps alone, ``(C,)``.
        loss: the same given all steps.
    """

    lags: NDArray[np.int64]
    effect: NDArray[np.float64]
    loss_rise: NDArray[np.float64]
    gradient: NDArray[np.float64]
    contexts: NDArray[np.int64]
    context_loss: NDArray[np.float64]
    loss: float

    @property
    def half_life(self) -> float:
        """Steps in which the effect falls to half of its largest; infinite if it never does."""
        top = int(self.effect.argmax())
        later = np.flatnonzero(self.effect[top:] <= self.effect[top] / 2)
        return float(self.lags[top + later[0]] - self.lags[top]) if len(later) else math.inf

    @property
    def reach(self) -> int:
        """The largest lag measured whose effect is more than a hundredth of the largest."""
        felt = np.flatnonzero(self.effect > NOTHING * self.effect.max())
        return int(self.lags[felt[-1]]) if len(felt) else 0

    @property
    def useful(self) -> int:
        """Fewest last steps that give 95 % of what all steps gain over the last one alone."""
        gain = self.context_loss[0] - self.loss
        enough = np.flatnonzero(self.context_loss[0] - self.context_loss >= 0.95 * gain)
        return int(self.contexts[enough[0]]) if gain > 0 and len(enough) else 1

    def __str__(self) -> str:
        half = "never falls to half"
        if math.isfinite(self.half_life):
            half = f"falls to half in {_counted(int(self.half_life))}"
        return (
            f"a change of the input is felt up to {_counted(self.reach)} later; its effect {half}. "
            f"The loss of the last step is {self.context_loss[0]:.3f} knowing that step alone, "
            f"{self.loss:.3f} knowing all {self.contexts[-1]}, and nearly that knowing the last "
            f"{_counted(self.useful)}."
        )

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return {
            "half_life": self.half_life if math.isfinite(self.half_life) else None,
            "reach": self.reach,
            "useful": self.useful,
            "loss": number(self.loss),
            **{
                name: [number(v) for v in getattr(self, name)]
                for name in ("lags", "effect", "loss_rise", "gradient", "contexts", "context_loss")
            },
        }


def memory(model: Any, data: Data, *, seed: int = 0) -> Memory:
    """How far back the answer at the last step depends on the input.

    Measured by intervention: the input some steps ago is swapped for one from elsewhere in the
    data, and the change of the answer is what depended on it. And by gradient, and by what the
    network loses when it is given the last few steps alone.

    Args:
        model: a network of `networks` or an estimator.
        data: ``(x, y)`` or ``(x, y, lengths)``; for an estimator what its ``fit`` takes.
        seed: of what is swapped in.

    Raises:
        OstinatoError: if the network is none of `SCORED`.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> from ostinato.networks.arrangements import ManyToOne
        >>> from ostinato.networks.outputs import Output
        >>> network = ManyToOne(nn.Identity(), GRU(1, 8, batch_first=True), Output(8, 2))
        >>> found = memory(network, (torch.randn(4, 30, 1), torch.tensor([0, 1, 0, 1])))
        >>> found.effect.shape == found.lags.shape
        True
    """
    looked = sample_of(model, data)
    if not isinstance(looked.network, SCORED):
        raise OstinatoError(
            f"memory: expected a network that scores each step or sequence "
            f"({', '.join(kind.__name__ for kind in SCORED)}), got {type(looked.network).__name__}."
        )
    x, ends = looked.sample.inputs, looked.ends
    random = np.random.default_rng(seed)
    T = int(ends.max())
    lags = spread(T)
    with eval_mode(looked.network):
        with torch.no_grad():
            scores = looked.last(x, looked.lengths)
            losses = looked.losses(scores)
            answer = _answers(looked, scores)
            effect, rise = [], []
            for lag in lags.tolist():
                there = torch.from_numpy(np.flatnonzero(ends.numpy() > lag))
                swapped = _swapped(x, ends, there, lag, random)
                new = looked.last(swapped, looked.lengths)
                effect.append(float(_distance(looked, _answers(looked, new), answer)[there].mean()))
                rise.append(float((looked.losses(new) - losses)[there].mean()))
            contexts = spread(T) + 1
            given = []
            for n in contexts.tolist():
                steps = ends.clamp(max=n)
                cut = _last_steps(x, ends, n)
                equal = bool((steps == n).all())
                given.append(
                    float(looked.losses(looked.last(cut, None if equal else steps)).mean())
                )
        gradient = _by_gradient(looked, lags)
    return Memory(
        lags, np.array(effect), np.array(rise), gradient, contexts, np.array(given),
        float(losses.mean()),
    )  # fmt: skip


def _counted(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps:,} steps"


def spread(T: int) -> NDArray[np.int64]:
    """Lags below T: the first all, then ever fewer.

    >>> spread(20).tolist()[-5:], len(spread(10_000)) <= 64
    ([15, 16, 17, 18, 19], True)
    """
    if T <= MOST_LAGS:
        return np.arange(T)
    far = np.geomspace(16, T - 1, MOST_LAGS - 16).round().astype(np.int64)
    return np.unique(np.concatenate([np.arange(16), far]))


def _swapped(
    x: Tensor, ends: Tensor, rows: Tensor, lag: int, random: np.random.Generator
) -> Tensor:
    """``x`` with the input of each row at a lag replaced by one of another row and step."""
    B = len(x)
    donors = (rows + torch.from_numpy(random.integers(1, max(2, B), len(rows)))) % B
    # What stands near the beginning or the end is not swapped for what stands elsewhere.
    shift = torch.from_numpy(random.integers(-3, 4, len(rows)))
    steps = (ends[donors] - 1 - lag + shift).clamp(min=0)
    steps = torch.minimum(steps, (ends[donors] - 1).clamp(min=0))
    changed = x.clone()
    changed[rows, ends[rows] - 1 - lag] = x[donors, steps]
    return changed


def _last_steps(x: Tensor, ends: Tensor, n: int) -> Tensor:
    """The last n steps of each row, ``(B, n, ...)``, zeros after the end of shorter ones."""
    begins = (ends - n).clamp(min=0)
    steps = begins[:, None] + torch.arange(n)
    there = steps < ends[:, None]
    taken = x[torch.arange(len(x))[:, None], steps.clamp(max=x.shape[1] - 1)]
    there = there.view(*there.shape, *[1] * (x.dim() - 2)).to(x.device)
    return taken.masked_fill(~there, 0)


def _answers(looked: Examined, scores: Tensor) -> Tensor:
    kind = looked.network.output.kind  # type: ignore[union-attr]
    if kind == "category":
        return scores.double().softmax(-1)
    return scores.double().sigmoid() if kind == "probability" else scores.double()


def _distance(looked: Examined, new: Tensor, old: Tensor) -> Tensor:
    """How far two answers are from each other, ``(B,)``."""
    kind = looked.network.output.kind  # type: ignore[union-attr]
    change = (new - old).abs()
    if kind == "category":
        return change.sum(-1) / 2
    if kind == "probability":
        return change.mean(-1)
    scale = looked.last_targets().double().std(0).clamp(min=1e-12)
    return (change / scale).mean(-1)


def _by_gradient(looked: Examined, lags: NDArray[np.int64]) -> NDArray[np.float64]:
    """Norm of the gradient of the last step's loss by the encoded input, mean over rows."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        seen.append(output if output.requires_grad else output.detach().requires_grad_())
        return seen[-1]

    hook = looked.network.encode.register_forward_hook(keep)  # type: ignore[union-attr]
    try:
        with torch.enable_grad():
            loss = looked.losses(looked.last(looked.sample.inputs, looked.lengths)).sum()
            (gradient,) = torch.autograd.grad(loss, seen[0])  # (B, T, I)
    finally:
        hook.remove()
    norms, ends = gradient.double().norm(dim=-1).cpu(), looked.ends
    found = []
    for lag in lags.tolist():
        rows = torch.nonzero(ends > lag)[:, 0]
        found.append(float(norms[rows, ends[rows] - 1 - lag].mean()))
    return np.array(found)
