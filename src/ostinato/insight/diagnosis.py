"""Diagnosis: problems of a network, the measurements that show them, and remedies."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from statistics import fmean, median
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.insight.flow import GradientFlow, LayerFlow, gradient_flow, rounded
from ostinato.insight.influence import InputInfluence, ScoringNetwork, input_influence
from ostinato.insight.samples import (
    Data,
    Loss,
    Model,
    estimator_of,
    mean_loss,
    network_and_sample,
    row_lengths,
)
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.tracing import Traced, stacks_of, tracing
from ostinato.recurrence.cells import RNNCell
from ostinato.training.callbacks import read_metrics
from ostinato.training.evaluation import Sample, eval_mode
from ostinato.training.health import STEPS, Level, oscillates

Issue = Literal[
    "identical layers",
    "not finite",
    "exploding",
    "oscillating",
    "dead units",
    "saturated gates",
    "vanishing over layers",
    "vanishing over time",
    "short memory",
    "overfitting",
]
"""In the order in which they are reported: an earlier one often causes a later one."""

_Found: TypeAlias = tuple[str, Mapping[str, float], Sequence["Remedy"]]
"""Message, values and remedies of a `Finding`."""

Record: TypeAlias = Mapping[str, Any]
"""A line of ``metrics.jsonl``: a training step or an evaluation."""


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which a measurement is reported as an issue.

    Args:
        vanished: share of the gradient at the last step that is left at the first third of the
            sequence; below a thousandth it is lost in the noise of the last steps.
        layer_vanished: share of the top layer's gradient that reaches the lowest layer.
        exploded: factor by which a gradient may grow from the last step to the first.
        growth: growth per step that counts as exploding, if its confidence interval is above 1.
        spikes: share of training steps with a gradient norm above ten times the usual.
        gradient_norm: usual gradient norm before clipping that counts as exploding.
        correlation: correlation of the weights of two layers at which they count as identical.
        dead: share of a layer's ReLU units that are zero at all steps of all sequences.
        saturated: share of the values of a gate, or of a tanh layer, at an end of their range.
        closed: mean of an update, input or output gate below which nothing passes.
        forget_gate: mean of a forget gate below which nothing is kept: a hundredth in three steps.
        oscillation: share of the second half of training in which the loss swings by more than a
            fifth of itself around a level above its best.
        overshoot: factor by which the mean of 10 losses may exceed the first loss.
        gain: root of the mean sum of squares of a row of recurrent weights; initially 0.6 to 1.
        improvement: improvement over a constant prediction (see `Diagnosis`) above which vanishing
            gradients are not reported: what there was to learn was near.
        step_improvement: the same for a network with an output at every step, where much is near.
        good_improvement: improvement above which spikes of the gradient norm and nearly closed
            gates are not reported.
        high_improvement: improvement above which a swinging loss and overfitting are not reported.
        overfitting: increase of the validation loss from best to last, as a share of the first.
        influence: share of the largest effect of an input below which it counts as forgotten.
    """

    vanished: float = 1e-3
    layer_vanished: float = 0.01
    exploded: float = 1e3
    growth: float = 1.02
    spikes: float = 0.02
    gradient_norm: float = 1e3
    correlation: float = 0.25
    dead: float = 0.6
    saturated: float = 0.9
    closed: float = 0.02
    forget_gate: float = 0.2
    oscillation: float = 0.5
    overshoot: float = 1.5
    gain: float = 3.0
    improvement: float = 0.15
    step_improvement: float = 0.05
    good_improvement: float = 0.5
    high_improvement: float = 0.9
    overfitting: float = 0.1
    influence: float = 0.01


class Remedy(NamedTuple):
    """A setting to change.

    Attributes:
        setting: an argument of the estimator, such as ``clip_norm``; the flag is ``--clip-norm``.
        value: the value to set.
        why: what it does.
    """

    setting: str
    value: str | float | bool
    why: str

    @property
    def flag(self) -> str:
        """The setting as a flag of the command line."""
        name = self.setting.replace("_", "-")
        if self.value is False:
            return f"--no-{name}"
        return f"--{name}" if self.value is True else f"--{name} {self.value}"

    def __str__(self) -> str:
        return f"{self.flag}: {self.why}"


@dataclass(frozen=True)
class Finding:
    """An issue, the values that show it, and remedies, the best first."""

    issue: Issue
    message: str
    values: Mapping[str, float]
    remedies: Sequence[Remedy] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.issue}: {self.message}", *(f"    {r}" for r in self.remedies)])


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Result of `diagnose`.

    Attributes:
        findings: the issues found, the one to treat first at the front; empty if healthy.
        improvement: 1 - loss / loss of the best constant prediction; NaN if unknown.
        flow: gradients by step and layer.
        influence: how far back the output depends on the input; None if it cannot be measured.
        history: records of training, if any.
    """

    findings: list[Finding]
    improvement: float
    flow: GradientFlow
    influence: InputInfluence | None = None
    history: Sequence[Record] = ()

    @property
    def healthy(self) -> bool:
        """Whether no issue was found."""
        return not self.findings

    @property
    def first(self) -> Issue | None:
        """The issue to treat first."""
        return self.findings[0].issue if self.findings else None

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["healthy: no issue was found."]
        return "\n".join([*lines, "", *self.measurements()])

    def measurements(self) -> Iterator[str]:
        """Yield the measurements as lines of text."""
        yield "measurements"
        if math.isfinite(self.improvement):
            share = f"{max(0.0, self.improvement):.0%}"
            yield f"  {'improvement':<18}loss {share} below that of a constant prediction"
        for layer in self.flow.layers:
            growth = layer.growth()
            half = growth.half_life
            life = f"half in {half:.1f} steps" if math.isfinite(half) else "does not shrink"
            yield f"  {layer.name:<17} gradient {layer.size:.2g}, {growth}, {life}"
        if self.influence is not None:
            yield f"  {'input influence':<18}{self.influence}"

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as a JSON document."""
        findings = [
            vars(finding) | {"remedies": [{"flag": r.flag, "why": r.why} for r in finding.remedies]}
            for finding in self.findings
        ]
        measured = {"healthy": self.healthy, "findings": findings, "improvement": self.improvement}
        influence = None if self.influence is None else self.influence.to_json()
        return rounded(measured) | {"flow": self.flow.to_json(), "influence": influence}


def diagnose(
    model: Model,
    data: Data = None,
    *,
    history: str | os.PathLike[str] | Sequence[Record] | None = None,
    distance: int | None = None,
    loss: Loss | None = None,
    thresholds: Thresholds | None = None,
) -> Diagnosis:
    """Diagnose a network: report issues with the measurements that show them, and remedies.

    Args:
        model: a network, or an estimator.
        data: ``(x, y)`` or ``(x, y, lengths)``; for an estimator what its ``fit`` takes. By default
            the validation data, for an estimator from a run's folder.
        history: records of training: a ``metrics.jsonl``, or mappings with ``step``, ``loss``,
            ``gradient_norm`` and ``validation_loss``. By default those of the run, likewise.
        distance: steps from input to output over which the task depends, if known.
        loss: loss function of a custom module, as in `gradient_flow`.
        thresholds: limits, if other than the defaults.

    Raises:
        OstinatoError: if there are no data.

    Example:
        >>> from ostinato.recurrence.dropin import RNN
        >>> from ostinato.networks.outputs import Output
        >>> network = ManyToOne(nn.Identity(), RNN(1, 16, batch_first=True), Output(16, 2))
        >>> x, y = torch.randn(16, 100, 1), torch.arange(16) % 2
        >>> diagnose(network, (x, y)).first
        'vanishing over time'
    """
    estimator, settings = estimator_of(model), dict[str, Any]()
    if estimator is not None:
        settings = {name: estimator.resolved(name) for name in estimator.get_params()}
        if folder := estimator.folder_:
            if history is None and (folder / "metrics.jsonl").exists():
                history = folder / "metrics.jsonl"
            if data is None and (folder / "data").exists():
                data = estimator.validation_examples(folder / "data")
    if data is None:
        raise OstinatoError("diagnose: there are no data; pass data=(x, y).")
    network, sample = network_and_sample(model, data)
    records = read_metrics(history) if isinstance(history, str | os.PathLike) else history or []
    flow = gradient_flow(network, sample, loss=loss)
    with eval_mode(network), torch.no_grad(), tracing(network) as traced:
        value = float(mean_loss(network, sample, loss))
    improvement, influence = math.nan, None
    if isinstance(network, ScoringNetwork) and loss is None:
        improvement = _improvement(network, sample, value)
        if math.isfinite(flow.loss):
            influence = input_influence(network, sample)
    found = Diagnosis([], improvement, flow, influence, records)
    checks = _Checks(found, network, settings, distance, thresholds or Thresholds(), traced)
    return replace(found, findings=list(checks.run()))


def _unpadded(layer: Traced, values: Tensor) -> Tensor:
    """Return ``values (T, B, H)`` of a layer as ``(steps, H)``, without padding."""
    return values.cpu()[torch.arange(len(values))[:, None] < layer.ends.cpu()]


_ORTHOGONAL = Remedy("init", "orthogonal", "recurrent weights that preserve norms")


@dataclass
class _Checks:
    """A method for each `Issue`, of its name, which yields what it finds."""

    found: Diagnosis
    network: nn.Module
    settings: Mapping[str, Any]
    distance: int | None
    thresholds: Thresholds
    layers: Sequence[Traced]

    def __post_init__(self) -> None:
        self.improvement, self.flow = self.found.improvement, self.found.flow
        self.steps = [r for r in self.found.history if "loss" in r]
        self.stacks = [stack for _, _, stack in stacks_of(self.network)]

    def run(self) -> Iterator[Finding]:
        """Yield the first finding of each check."""
        for issue in get_args(Issue):
            check: Callable[[], Iterator[_Found]] = getattr(self, issue.replace(" ", "_"))
            for found in islice(check(), 1):
                yield Finding(issue, *found)
                if issue == "not finite":
                    return  # no other measurement has a meaning

    def cell(self) -> str:
        """Return the name of the cell: ``rnn``, ``rnn-relu``, or another for one with gates."""
        cells = [cell for stack in self.stacks for cell in stack.cells]
        plain = next((cell for cell in cells if isinstance(cell, RNNCell)), None)
        if plain is None:
            return str(self.settings.get("cell", "gated" if cells else "rnn"))
        return "rnn-relu" if plain.activation == "relu" else "rnn"

    # Weights

    def identical_layers(self) -> Iterator[_Found]:
        for stack in self.stacks:
            for i, j in combinations(range(len(stack._all_weights)), 2):
                a, b = ([w for w in stack.weights_of(k).values() if w.dim() > 1] for k in (i, j))
                if [w.shape for w in a] != [w.shape for w in b]:
                    continue
                pairs = [torch.stack(pair).detach().flatten(1) for pair in zip(a, b, strict=True)]
                r = min(float(torch.corrcoef(p.double()).nan_to_num()[0, 1]) for p in pairs)
                # Independent weights have a correlation of 1 / sqrt(number of weights) by chance.
                chance = min(v.numel() for v in a) ** -0.5
                if r > min(0.95, max(self.thresholds.correlation, 5 * chance)):
                    yield (
                        f"layers {i} and {j} have nearly the same weights, with a correlation of "
                        f"{r:.3f} (independent layers: about 0): they were initialised equal and "
                        "do little more than a single layer.",
                        {"correlation": r},
                        [
                            Remedy("seed", 1, "initialise each layer independently"),
                            Remedy("num_layers", 1, "one layer does the work of both"),
                        ],
                    )

    def not_finite(self) -> Iterator[_Found]:
        bad = [n for n, p in self.network.named_parameters() if not p.isfinite().all()]
        steps = [r["step"] for r in self.steps if r["loss"] is None]
        if bad or steps or not math.isfinite(self.flow.loss):
            where = f"weight {bad[0]}" if bad else "the loss"
            first = f", first at step {steps[0]}" if steps else ""
            yield (
                f"{where} is not finite{first}: gradients exploded, or the input is not finite.",
                {"weights": float(len(bad))},
                self._against_explosion(),
            )

    # States and gates

    def dead_units(self) -> Iterator[_Found]:
        remedies = [
            Remedy("init", "identity", "start from biases of zero"),
            self._lower_rate("steps that disable no units"),
            Remedy("cell", "gru", "units that cannot die"),
        ]
        if self.settings.get("cell") == "rnn-relu":  # an estimator's starts from the identity
            del remedies[0]
        for layer in self.layers:
            if not isinstance(layer.cell, RNNCell) or layer.cell.activation != "relu":
                continue
            h = _unpadded(layer, layer.trace.states.h)
            dead = float((h.abs().amax(0) == 0).double().mean())
            if dead > self.thresholds.dead:
                yield (
                    f"{layer.name}: {dead:.0%} of its ReLU units are zero at every step of every "
                    "sequence examined; no gradient reaches them, and they do not learn.",
                    {"dead": dead},
                    remedies,
                )

    def saturated_gates(self) -> Iterator[_Found]:
        for layer in self.layers:
            yield from self._closed_gates(layer)
            yield from self._saturated_units(layer)

    def _closed_gates(self, layer: Traced) -> Iterator[_Found]:
        t, gates = self.thresholds, layer.trace.gates
        letters = {} if gates is None else gates._asdict()
        for letter, padded in letters.items():
            values = _unpadded(layer, padded)
            if letter not in ("i", "f", "o", "z", "r") or values.min() < 0:
                continue
            closed = float((values < 0.05).double().mean())
            open_ = float((values > 0.95).double().mean())
            mean = float(values.mean())
            passes = 1 - mean if letter == "z" and "r" in letters else mean
            if letter == "f" and "g" in letters:
                is_bad = passes < t.forget_gate or closed > t.saturated
                effect = "the cell state is forgotten at every step"
            else:
                is_bad = passes < t.closed and not self.improvement > t.good_improvement
                effect = "almost nothing passes it, forward or backward"
            if is_bad:
                above = f" (above 0.95 at {open_:.0%})" if letter == "z" else ""
                yield (
                    f"{layer.name}: gate {letter} is {mean:.3f} on average, and below 0.05 at "
                    f"{closed:.0%} of steps and units{above}: {effect}.",
                    {"mean": mean, "closed": closed, "open": open_},
                    [
                        Remedy("init", "orthogonal", "a forget gate that starts open"),
                        Remedy("init", "chrono", "gates that start with long memories"),
                        self._lower_rate("steps that saturate no gates"),
                    ],
                )

    def _saturated_units(self, layer: Traced) -> Iterator[_Found]:
        cell, h = layer.cell, _unpadded(layer, layer.trace.states.h)
        if not isinstance(cell, RNNCell) or cell.activation not in ("tanh", "sigmoid"):
            return
        ends = h.abs() > 0.99 if cell.activation == "tanh" else (h < 0.01) | (h > 0.99)
        share = float(ends.double().mean())
        if share > self.thresholds.saturated:
            yield (
                f"{layer.name}: {share:.0%} of its {cell.activation} units are at an end of their "
                "range, where their gradient is zero.",
                {"saturated": share},
                [
                    _ORTHOGONAL,
                    self._lower_rate("steps that saturate no units"),
                    Remedy("cell", "lstm", "a cell state that is not squashed"),
                ],
            )

    # Gradients and losses

    def exploding(self) -> Iterator[_Found]:
        t, remedies = self.thresholds, self._against_explosion()
        for layer in self.flow.layers:
            growth = layer.growth()
            gain = 0.0 if layer.gains is None else float(np.nanmax(layer.gains))
            if growth.low > 1 and growth.factor > t.growth and gain > t.exploded:
                yield (
                    f"{layer.name}: going back in time, gradients grow by {growth}, "
                    f"{gain:.2g} times over the sequence.",
                    {"growth": growth.factor, "low": growth.low, "gain": gain},
                    remedies,
                )
        norms = [r["gradient_norm"] for r in self.steps if r.get("gradient_norm") is not None]
        if len(norms) < 40 or self.improvement > t.good_improvement:
            return
        # Late in training gradients are small, and a normal one looks large beside them.
        usual, worst = max(median(norms), median(norms[:20])), max(norms)
        spikes = sum(n > 10 * usual for n in norms) / len(norms)
        if usual > t.gradient_norm or (spikes > t.spikes and worst > 100 * usual):
            yield (
                f"the gradient norm was above ten times its usual {usual:.2g} at {spikes:.1%} of "
                f"training steps, {worst:.2g} at most.",
                {"spikes": spikes, "usual": usual, "worst": worst},
                remedies,
            )

    def oscillating(self) -> Iterator[_Found]:
        t, improvement = self.thresholds, self.improvement
        losses = [r["loss"] for r in self.steps if r["loss"] is not None]
        if len(losses) < 20:
            return
        remedies = [
            self._lower_rate("shorter steps"),
            Remedy("clip_norm", self.settings.get("clip_norm") or 1, "no unusually long steps"),
            Remedy("batch_size", 2 * (self.settings.get("batch_size") or 32), "steadier gradients"),
        ]
        first = fmean(losses[:2])
        highest = max(fmean(losses[i : i + 10]) for i in range(len(losses) - 9))
        if highest > t.overshoot * first > 0 and not improvement > t.good_improvement:
            yield (
                f"the loss started at {first:.3g} and rose to {highest:.3g} over 10 steps: the "
                "steps are too long and moved the network to where it learns nothing.",
                {"first": first, "highest": highest},
                remedies,
            )
        # The size of recurrent weights: root mean square times the root of their inputs.
        sizes = [
            (float(p.detach().double().square().mean().sqrt()) * p.shape[1] ** 0.5, name)
            for stack in self.stacks
            for name, p in stack.named_parameters()
            if name.startswith("weight_hh") and p.dim() == 2
        ]
        gain, weight = max(sizes, default=(0.0, ""))
        if improvement < t.improvement and gain > t.gain:
            yield (
                f"nothing was learned, and {weight} has grown to {gain:.1f} times the size that "
                "preserves norms: the steps are too long.",
                {"gain": gain},
                remedies,
            )
        share, swing, level, best = oscillation(losses) or (0.0, 0.0, 0.0, 0.0)
        if share > t.oscillation and not improvement > t.high_improvement:
            yield (
                f"in {share:.0%} of the second half of training the loss swings around a level "
                f"above its best: by {swing:.2g} from step to step, around {level:.3g}; its best "
                f"was {best:.3g}. The steps are too long.",
                {"share": share, "swing": swing, "level": level, "best": best},
                remedies,
            )

    def vanishing_over_layers(self) -> Iterator[_Found]:
        sizes = [layer.size for layer in self.flow.layers if "backward" not in layer.name]
        if len(sizes) < 3 or not max(sizes) > 0:
            return
        share = sizes[0] / sizes[-1] if sizes[-1] else 0.0
        each = share ** (1 / (len(sizes) - 1))
        if share < self.thresholds.layer_vanished:
            yield (
                f"the lowest of {len(sizes)} layers has {share:.2g} of the gradient of the top "
                f"layer; each layer passes on {each:.2f} of it.",
                {"share": share, "each": each},
                [
                    Remedy("residual", True, "layers that add their input to their output"),
                    Remedy("num_layers", 2, "fewer layers"),
                    _ORTHOGONAL,
                ],
            )

    def vanishing_over_time(self) -> Iterator[_Found]:
        t = self.thresholds
        enough = t.step_improvement if isinstance(self.network, ManyToMany) else t.improvement
        if not self.flow.layers or self.improvement > enough:
            return
        best = max(self.flow.layers, key=self._left)
        left, growth = self._left(best), best.growth()
        underflow = ""
        if best.underflow > 0.01:
            underflow = f", and {best.underflow:.0%} of it is smaller than any normal number"
        if left < t.vanished:
            yield (
                f"{left:.2g} of the gradient is left {self._required_lag(best)} steps before the "
                f"last: it shrinks by {growth}{underflow}. Dependencies on inputs that early "
                "cannot be learned.",
                {"left": left, "growth": growth.factor, "underflow": best.underflow},
                self._against_vanishing(),
            )

    def short_memory(self) -> Iterator[_Found]:
        influence = self.found.influence
        if self.distance is None or influence is None:
            return
        effects = influence.effect[influence.lags >= self.distance]
        if not len(effects):
            return
        effect = float(effects[0] / max(1e-300, influence.effect.max()))
        length = influence.memory_length
        if effect < self.thresholds.influence:
            yield (
                f"the task depends on inputs {self.distance} steps before; their effect on the "
                f"output is {effect:.2g} of the largest effect, and inputs have an effect for "
                f"{length} steps.",
                {"effect": effect, "memory_length": float(length)},
                self._against_vanishing(),
            )

    def overfitting(self) -> Iterator[_Found]:
        t = self.thresholds
        evaluations = [r for r in self.found.history if r.get("validation_loss") is not None]
        if len(evaluations) < 3 or not self.steps or self.improvement > t.high_improvement:
            return
        best = min(evaluations, key=lambda r: r["validation_loss"])
        last = min(evaluations[-2:], key=lambda r: r["validation_loss"])  # one may be an outlier
        lowest, highest, step = best["validation_loss"], last["validation_loss"], best["step"]
        # Losses of densities have no natural zero: they are measured from the lowest of them.
        floor = min(0.0, lowest, *(r["loss"] for r in self.steps))
        rise = (highest - lowest) / (evaluations[0]["validation_loss"] - floor)
        near = [[r["loss"] for r in self.steps if r["step"] <= e["step"]] for e in (best, last)]
        before, after = (fmean(losses[-50:]) if losses else math.nan for losses in near)
        fell = (after - floor) / (before - floor)
        if rise > t.overfitting and fell < 0.8:
            hidden_size = max(16, (self.settings.get("hidden_size") or 64) // 2)
            yield (
                f"the validation loss rose from {lowest:.3g} at step {step} to {highest:.3g}, "
                f"while the training loss fell from {before:.3g} to {after:.3g}. The weights kept "
                f"are those of step {step}.",
                {"rise": rise, "training": fell},
                [
                    Remedy("dropout", 0.5, "features that do not depend on each other"),
                    Remedy("weight_dropout", 0.3, "the same for recurrent weights"),
                    Remedy("hidden_size", hidden_size, "fewer weights"),
                    Remedy("weight_decay", 0.1, "smaller weights"),
                ],
            )

    def _required_lag(self, layer: LayerFlow) -> int:
        """Return the lag that gradients must reach: the task's, or two thirds of the sequence."""
        lags = int(np.isfinite(layer.norms).sum())
        return 2 * lags // 3 if self.distance is None else min(self.distance, lags - 1)

    def _left(self, layer: LayerFlow) -> float:
        """Return the share of the largest gradient that is left from the required lag on."""
        norms = np.nan_to_num(layer.norms)
        if not norms.max(initial=0.0) > 0:
            return 0.0
        return float(norms[self._required_lag(layer) :].max() / norms.max())

    # Remedies

    def _lower_rate(self, why: str) -> Remedy:
        rate = float(f"{self.settings.get('learning_rate', 0.003) / 10:.2g}")
        return Remedy("learning_rate", rate, why)

    def _against_explosion(self) -> list[Remedy]:
        remedies = []
        if not self.settings.get("clip_norm"):
            remedies.append(Remedy("clip_norm", 1, "steps of a bounded length"))
        if self.cell().startswith("rnn"):
            remedies += [_ORTHOGONAL, Remedy("cell", "gru", "gates that keep gradients bounded")]
        remedies.append(self._lower_rate("steps that do not diverge"))
        if window := self.settings.get("window"):
            remedies.append(Remedy("window", max(1, window // 2), "shorter paths back in time"))
        return remedies

    def _against_vanishing(self) -> list[Remedy]:
        cell = self.cell()
        why = f"gates that start with memories of up to {self.flow.steps} steps"
        remedies = [Remedy("init", "chrono", why)]
        if cell.startswith("rnn"):
            remedies = [Remedy("cell", "lstm", "a cell state that gradients pass unchanged")]
            if cell != "rnn-relu":
                remedies.append(Remedy("cell", "rnn-relu", "units that start as perfect memories"))
        if isinstance(self.network, ManyToOne) and self.network.pooling == "last":
            remedies.append(Remedy("pooling", "attention", "a short path to every step"))
        return [*remedies, _ORTHOGONAL]


def _improvement(network: ScoringNetwork, sample: Sample, loss: float) -> float:
    """Return the improvement of a loss over that of the best constant prediction."""
    kind, targets = network.output.kind, sample.targets
    if not isinstance(targets, Tensor):
        return math.nan
    if targets.dim() > 1 and targets.shape[:2] == sample.inputs.shape[:2]:
        targets = targets[torch.arange(targets.shape[1])[None] < row_lengths(sample)[:, None]]
    if kind == "category":
        counts = torch.bincount(targets.flatten()).double()
        constant = torch.special.entr(counts / counts.sum()).sum()
    elif kind == "number":
        constant = targets.double().var(0, correction=0).sum()
    else:
        p = targets.double().mean(0).clamp(1e-9, 1 - 1e-9)
        constant = torch.special.entr(torch.stack([p, 1 - p])).sum()
    return 1 - loss / float(constant) if constant > 0 else math.nan


def oscillation(losses: Sequence[float]) -> tuple[float, float, float, float] | None:
    """Measure oscillation in the second half of training: its share, swing, level and best level.

    Windows of `STEPS` steps are compared; see `oscillates`. Returns None for fewer than three.
    """
    if len(losses) < 3 * STEPS:
        return None
    starts = range(0, len(losses) - STEPS + 1, STEPS // 2)
    levels = [Level.of(losses[i : i + STEPS]) for i in starts]
    best, later = min(levels, key=lambda level: level.mean), levels[len(levels) // 2 :]
    bad = [level for level in later if oscillates(level, best, levels[0])]
    worst = max(bad or later, key=lambda level: level.swing)
    return len(bad) / len(later), worst.swing, worst.mean, best.mean
