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
from torch.utils._pytree import tree_leaves

from ostinato.errors import OstinatoError
from ostinato.insight.flow import rounded
from ostinato.insight.samples import (
    Data,
    Loss,
    Model,
    is_in_time,
    mean_loss,
    network_and_sample,
    row_lengths,
)
from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.networks.outputs import CRFOutput
from ostinato.networks.tracing import tracing
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


@dataclass(frozen=True, eq=False)
class MemorySpan:
    """Result of `memory_span`. Lag 0 is the last step of a row.

    Attributes:
        lags: the lags measured, ``(K,)``.
        effect: change of the last output when the input at a lag is replaced by another, ``(K,)``:
            the norm of the change over that between the outputs of two rows, the root mean square
            of both over rows.
        share: share of the largest effect below which one counts as none.
        window: steps of the window measured.
        given: steps of the longest row of the data.
    """

    lags: NDArray[np.int64]
    effect: NDArray[np.float64]
    share: float
    window: int
    given: int

    @property
    def distance(self) -> int:
        """The first lag from which on no effect is above the share; ``window`` if there is none."""
        above = np.flatnonzero(self.effect > self.share * self.effect.max(initial=0.0))
        if not len(above):
            return 0
        last = int(above[-1])
        return int(self.lags[last + 1]) if last + 1 < len(self.lags) else self.window

    @property
    def is_bounded(self) -> bool:
        """Whether the effect falls below the share within the window."""
        return self.distance < self.window

    def to_json(self) -> dict[str, Any]:
        """Return all values as a JSON document."""
        derived = {name: getattr(self, name) for name in ("distance", "is_bounded")}
        return rounded(derived | vars(self))


def memory_span(
    model: Model,
    data: Data,
    *,
    loss: Loss | None = None,
    window: int | None = None,
    share: float = NEGLIGIBLE,
    seed: int = 0,
) -> MemorySpan:
    """Measure how far back the last output of any network depends on the input, on a long window.

    Rows are made longer by steps of other rows in front of them, so that a network that was trained
    on short windows shows whether it would use more. The network is called as its loss function
    calls it; its output, or the first tensor of it, is compared at each row's last step.

    Args:
        model: a network, an estimator, or any module.
        data: ``(x, y)`` or ``(x, y, lengths)``; for an estimator what its ``fit`` takes. Rows of
            unequal length are not made longer.
        loss: loss function of a custom module, as in `gradient_flow`.
        window: steps of a row; by default four times those of the data.
        share: share of the largest effect below which an effect counts as none.
        seed: seed of the random replacements.

    Raises:
        OstinatoError: if the loss function does not call the model, or the output is not one for
            each row or step.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> from ostinato.networks.outputs import Output
        >>> network = ManyToOne(nn.Identity(), GRU(1, 8, batch_first=True), Output(8, 2))
        >>> x, y = torch.randn(32, 10, 1), torch.arange(32) % 2
        >>> span = memory_span(network, (x, y))
        >>> span.window, span.distance <= 40
        (40, True)
    """
    network, sample = network_and_sample(model, data)
    if not isinstance(sample.inputs, Tensor) or sample.inputs.dim() < 2:
        raise OstinatoError("memory_span: expected inputs in one tensor, (B, T) or (B, T, I).")
    random = np.random.default_rng(seed)
    with eval_mode(network), torch.no_grad():
        with tracing(network) as layers:
            _output(network, sample, loss)
        in_time = is_in_time(sample.inputs, (each.trace.states.h.shape[:2] for each in layers))
        x = sample.inputs.transpose(0, 1) if in_time else sample.inputs
        B, given = x.shape[:2]
        ends = torch.full((B,), given) if sample.lengths is None else sample.lengths.cpu()
        T = given
        if int(ends.min()) == given:
            T = window or 4 * given
            while x.shape[1] < T:  # steps of other rows in front
                others = torch.from_numpy(random.permutation(B)).to(x.device)
                x = torch.cat([x[others, -given:], x], 1)
            x, ends = x[:, x.shape[1] - T :], torch.full((B,), T)

        def outputs(x: Tensor) -> Tensor:
            lengths = None if sample.lengths is None else ends
            changed = sample._replace(inputs=x.transpose(0, 1) if in_time else x, lengths=lengths)
            return _last_output(_output(network, changed, loss), T, ends, in_time)

        before = outputs(x)
        scale = (before - before.roll(1, 0)).norm(dim=-1).square().mean().sqrt().clamp(min=1e-300)
        lags, effect = spread(int(ends.max())), []
        for lag in lags.tolist():
            rows = torch.nonzero(ends > lag)[:, 0]
            change = (outputs(_replaced(x, ends, rows, lag, random)) - before)[rows].norm(dim=-1)
            effect.append(float(change.square().mean().sqrt() / scale))
    return MemorySpan(lags, np.array(effect), share, T, given)


class _Output(Exception):
    """Carries the output of a network out of its loss function."""


def _output(network: nn.Module, sample: Sample, loss: Loss | None) -> Tensor:
    """Return the output of a network as its loss function calls it; the first tensor of several."""
    if loss is None and isinstance(network, ScoringNetwork):
        scores: Tensor = network(sample.encode(sample.inputs), lengths=sample.lengths)[0]
        return scores

    def stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise _Output(output)

    with network.register_forward_hook(stop):
        try:
            mean_loss(network, sample, loss)
        except _Output as found:
            y: Tensor = next(t for t in tree_leaves(found.args[0]) if isinstance(t, Tensor))
            return y
    raise OstinatoError(
        f"memory_span: the loss function does not call the model, {type(network).__name__}(...); "
        "expected loss=lambda model, x, y, lengths: criterion(model(x), y)."
    )


def _last_output(y: Tensor, T: int, ends: Tensor, in_time: bool) -> Tensor:
    """Return the output at each row's last step, or that of a row, ``(B, K)`` in double."""
    B = len(ends)
    if y.dim() and len(y) == B * T != B:
        y = y.reshape(*((T, B) if in_time else (B, T)), *y.shape[1:])
    if y.shape[:2] == (T, B) and (in_time or T != B):
        y = y.transpose(0, 1)
    if not y.dim() or len(y) != B:
        raise OstinatoError(
            f"memory_span: the model returns {tuple(y.shape)}; expected an output for each of "
            f"{B} rows, or for each of their {T} steps."
        )
    if T in y.shape[1:]:
        steps = y.movedim(1 + y.shape[1:].index(T), 1)
        y = steps[torch.arange(B), (ends - 1).clamp(min=0)]
    return y.reshape(B, -1).double()


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
