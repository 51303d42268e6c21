"""Input influence: how far back the output of a network depends on its input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ostinato.errors import OstinatoError
from ostinato.insight.flow import rounded
from ostinato.insight.samples import Data, Model, network_and_sample, row_lengths
from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.networks.outputs import CRFOutput
from ostinato.training.evaluation import Sample, eval_mode

ScoringNetwork: TypeAlias = ManyToMany | ManyToOne | OneToOne
"""Networks with scores for each step or sequence, whose input influence can be measured."""

MAX_LAGS = 64
"""Maximum number of lags measured: each of the first 16, then increasingly sparse ones."""

NEGLIGIBLE = 0.01
"""Share of the largest effect below which an effect is negligible."""


@dataclass(frozen=True, eq=False)
class InputInfluence:
    """Result of `input_influence`. Lag 0 is the last step of a row.

    Attributes:
        lags: the lags measured, ``(K,)``.
        effect: mean change of the prediction when the input at a lag is replaced by another,
            ``(K,)``: for probabilities half the sum of their absolute changes, 0 to 1; for numbers
            the change in standard deviations of the targets.
        loss_increase: mean increase of the loss at the last step, by the same replacement.
        gradient: norm of the gradient of the loss at the last step with respect to the encoded
            input, ``(K,)``.
        contexts: numbers of last steps, ``(C,)``.
        context_loss: mean loss at the last step given only so many steps, ``(C,)``.
        loss: the same given all steps.
    """

    lags: NDArray[np.int64]
    effect: NDArray[np.float64]
    loss_increase: NDArray[np.float64]
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
    def memory_length(self) -> int:
        """The largest lag measured whose effect is more than a hundredth of the largest."""
        significant = np.flatnonzero(self.effect > NEGLIGIBLE * self.effect.max())
        return int(self.lags[significant[-1]]) if len(significant) else 0

    @property
    def useful_context(self) -> int:
        """Fewest last steps that give 95 % of the improvement of all steps over the last one."""
        gain = self.context_loss[0] - self.loss
        enough = np.flatnonzero(self.context_loss[0] - self.context_loss >= 0.95 * gain)
        return int(self.contexts[enough[0]]) if gain > 0 and len(enough) else 1

    def __str__(self) -> str:
        fast = math.isfinite(self.half_life)
        half = f"falls to half in {_steps(self.half_life)}" if fast else "does not fall to half"
        return (
            f"a change of the input affects the output up to {_steps(self.memory_length)} later; "
            f"its effect {half}. The loss of the last step is {self.context_loss[0]:.3f} given "
            f"only that step, {self.loss:.3f} given all {self.contexts[-1]}, and nearly the same "
            f"given the last {_steps(self.useful_context)}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return all values as a JSON document."""
        derived = {name: getattr(self, name) for name in ("memory_length", "useful_context")}
        return rounded({"half_life": self.half_life, **derived, **vars(self)})


def input_influence(model: Model, data: Data, *, seed: int = 0) -> InputInfluence:
    """Measure how far back the output at the last step depends on the input.

    By the change when the input some steps ago is replaced by one from elsewhere in the data, by
    gradient, and by the loss when the network is given only the last few steps.

    Args:
        model: a network of `networks`, or an estimator.
        data: ``(x, y)`` or ``(x, y, lengths)``; for an estimator what its ``fit`` takes.
        seed: seed of the random replacements.

    Raises:
        OstinatoError: if the network is not a `ScoringNetwork`.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> from ostinato.networks.outputs import Output
        >>> network = ManyToOne(nn.Identity(), GRU(1, 8, batch_first=True), Output(8, 2))
        >>> found = input_influence(network, (torch.randn(4, 30, 1), torch.tensor([0, 1, 0, 1])))
        >>> found.effect.shape == found.lags.shape
        True
    """
    network, sample = network_and_sample(model, data)
    if not isinstance(network, ScoringNetwork):
        raise OstinatoError(
            f"input_influence: expected a network with scores for each step or sequence "
            f"({', '.join(kind.__name__ for kind in get_args(ScoringNetwork))}), got "
            f"{type(network).__name__}."
        )
    x, ends, last = sample.inputs, row_lengths(sample), _LastStep(network, sample)
    random = np.random.default_rng(seed)
    T = int(ends.max())
    lags, contexts = spread(T), spread(T) + 1
    effect, loss_increase, context_loss = [], [], []
    with eval_mode(network):
        with torch.no_grad():
            scores = last.scores(x, sample.lengths)
            losses, predictions = last.losses(scores), last.predictions(scores)
            for lag in lags.tolist():
                rows = torch.nonzero(ends > lag)[:, 0]
                new = last.scores(_replaced(x, ends, rows, lag, random), sample.lengths)
                change = last.distances(last.predictions(new), predictions)
                effect.append(float(change[rows].mean()))
                loss_increase.append(float((last.losses(new) - losses)[rows].mean()))
            for n in contexts.tolist():
                lengths = ends.clamp(max=n)
                equal = bool((lengths == n).all())
                scores = last.scores(_last_steps(x, ends, n), None if equal else lengths)
                context_loss.append(float(last.losses(scores).mean()))
        gradient = _by_gradient(last, lags)
    measured = (np.array(effect), np.array(loss_increase), gradient)
    loss = float(losses.mean())
    return InputInfluence(lags, *measured, contexts, np.array(context_loss), loss)


def _steps(count: float) -> str:
    return "1 step" if count == 1 else f"{count:,.0f} steps"


def spread(T: int) -> NDArray[np.int64]:
    """Return lags below T: each of the first, then increasingly sparse ones.

    >>> spread(20).tolist()[-5:], len(spread(10_000)) <= 64
    ([15, 16, 17, 18, 19], True)
    """
    if T <= MAX_LAGS:
        return np.arange(T)
    far = np.geomspace(16, T - 1, MAX_LAGS - 16).round().astype(np.int64)
    return np.unique(np.concatenate([np.arange(16), far]))


class _LastStep:
    """The output of a network at the last step of each row of a sample."""

    def __init__(self, network: ScoringNetwork, sample: Sample) -> None:
        self.network = network
        self.sample = sample
        self.targets: Tensor = sample.targets  # (B,) or (B, K)
        by_step = self.targets.dim() > 1 and self.targets.shape[:2] == sample.inputs.shape[:2]
        if isinstance(network, ManyToMany) or by_step:
            self.targets = _at_end(self.targets, row_lengths(sample))

    def scores(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores ``(B, K)`` for other inputs."""
        y: Tensor = self.network(self.sample.encode(x), lengths=lengths)[0]
        return y if y.dim() == 2 else _at_end(y, lengths)

    def losses(self, scores: Tensor) -> Tensor:
        """Return the loss of each row, ``(B,)``."""
        if isinstance(self.network.output, CRFOutput):  # the last tag alone has no later neighbour
            return cross_entropy(scores, self.targets, reduction="none")
        return self.network.output.loss(scores, self.targets)

    def predictions(self, scores: Tensor) -> Tensor:
        """Return probabilities, or numbers in standard deviations of the targets, ``(B, K)``."""
        kind, scores = self.network.output.kind, scores.double()
        if kind == "number":
            return scores / self.targets.double().std(0).clamp(min=1e-12)
        return scores.softmax(-1) if kind == "category" else scores.sigmoid()

    def distances(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the distance between two predictions for each row, ``(B,)``."""
        change = (new - old).abs()
        return change.sum(-1) / 2 if self.network.output.kind == "category" else change.mean(-1)


def _at_end(y: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the last step of each row of ``y (B, T, ...)``."""
    if lengths is None:
        return y[:, -1]
    return y[torch.arange(len(y)), (lengths - 1).clamp(min=0)]


def _replaced(
    x: Tensor, ends: Tensor, rows: Tensor, lag: int, random: np.random.Generator
) -> Tensor:
    """Return ``x`` with the input of each row at a lag replaced by one of another row and step."""
    B = len(x)
    donors = (rows + torch.from_numpy(random.integers(1, max(2, B), len(rows)))) % B
    last = (ends[donors] - 1).clamp(min=0)
    # Inputs near the beginning or the end are replaced by others near there.
    shift = torch.from_numpy(random.integers(-3, 4, len(rows)))
    steps = torch.minimum((ends[donors] - 1 - lag + shift).clamp(min=0), last)
    changed = x.clone()
    changed[rows, ends[rows] - 1 - lag] = x[donors, steps]
    return changed


def _last_steps(x: Tensor, ends: Tensor, n: int) -> Tensor:
    """Return the last n steps of each row, ``(B, n, ...)``, zeros after the end of shorter ones."""
    steps = (ends - n).clamp(min=0)[:, None] + torch.arange(n)
    taken = x[torch.arange(len(x))[:, None], steps.clamp(max=x.shape[1] - 1)]
    padding = (steps >= ends[:, None]).view(*steps.shape, *[1] * (x.dim() - 2))
    return taken.masked_fill(padding.to(x.device), 0)


def _by_gradient(last: _LastStep, lags: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the norm of the last step's loss gradient by the encoded input, mean over rows."""
    encoded: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        encoded.append(output if output.requires_grad else output.detach().requires_grad_())
        return encoded[-1]

    with last.network.encode.register_forward_hook(keep), torch.enable_grad():
        loss = last.losses(last.scores(last.sample.inputs, last.sample.lengths)).sum()
        (gradient,) = torch.autograd.grad(loss, encoded[0])  # (B, T, I)
    norms, ends = gradient.double().norm(dim=-1).cpu(), row_lengths(last.sample)
    means = []
    for lag in lags.tolist():
        rows = torch.nonzero(ends > lag)[:, 0]
        means.append(float(norms[rows, ends[rows] - 1 - lag].mean()))
    return np.array(means)
