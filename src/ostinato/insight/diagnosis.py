"""What ails a network, in words, with the figure behind each and what to do about it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from statistics import fmean, median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ostinato.errors import OstinatoError
from ostinato.insight.flow import GradientFlow, LayerFlow, gradient_flow, number
from ostinato.insight.memory import SCORED, Memory, memory
from ostinato.insight.samples import Data, Examined, Loss, estimator_of, sample_of
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.tracing import Traced, stacks_of, tracing
from ostinato.recurrence.cells import RNNCell
from ostinato.tasks.base import Inspectable
from ostinato.training.fit import eval_mode

Ailment = Literal[
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
"""In this order they are named: one that comes earlier is often the cause of one that follows."""


@dataclass(frozen=True)
class Thresholds:
    """From where on a figure counts as an ailment.

    Args:
        vanished: share of the gradient at the last step that is left at the first third of the
            sequence. Below a thousandth, an optimizer that scales its steps by the whole gradient
            cannot hear the first steps for the noise of the last.
        layer_vanished: share of the top layer's gradient that the lowest layer has.
        exploded: factor by which a gradient may grow from the last step to the first.
        growth: factor a step from which on growth is called exploding, if its interval is above 1.
        spikes: share of training steps with a gradient norm above ten times the usual.
        norm: gradient norm before clipping that counts as exploded however usual it is.
        alike: correlation of the weights of two layers from which on they count as one.
        dead: share of a layer's rectified units that are zero at all steps of all sequences.
        saturated: share of the values of a gate, or of a tanh layer, at an end of their range.
        shut: mean of a gate that keeps, or lets pass, below which nothing passes.
        forgets: mean of a forget gate below which nothing is kept: of what the cell holds, less
            than a hundredth is left after three steps.
        oscillation: share of the second half of training in which the loss swings by more than a
            fifth of itself around a level above its best.
        overshoot: factor by which the mean of 10 losses exceeds the first loss, after which steps
            count as too long.
        gain: size of recurrent weights, as the root of the mean sum of squares of a row; drawn
            anew they have 0.6 to 1.
        learnt: share of the loss of a constant answer that the network has learnt away, from which
            on a gradient that vanishes is no ailment: what was there to learn was near.
        begun: the same of a network that answers at every step, for which much is near.
        well: the same, from which on spikes of the gradient norm and gates nearly shut did no harm.
        mastered: the same, from which on a loss that swings has little left to swing by.
        overfitted: by what share of the first validation loss the last exceeds the best.
        felt: share of the largest effect of an input below which it counts as forgotten.
    """

    vanished: float = 1e-3
    layer_vanished: float = 0.01
    exploded: float = 1e3
    growth: float = 1.02
    spikes: float = 0.02
    norm: float = 1e3
    alike: float = 0.25
    dead: float = 0.6
    saturated: float = 0.9
    shut: float = 0.02
    forgets: float = 0.2
    oscillation: float = 0.5
    overshoot: float = 1.5
    gain: float = 3.0
    learnt: float = 0.15
    begun: float = 0.05
    well: float = 0.5
    mastered: float = 0.9
    overfitted: float = 0.1
    felt: float = 0.01


class Remedy(NamedTuple):
    """Something to do.

    Attributes:
        setting: an argument of the estimator, ``clip_norm`` say; the flag is ``--clip-norm``.
        value: what to set it to.
        why: what it does.
    """

    setting: str
    value: Any
    why: str

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        name = self.setting.replace("_", "-")
        if self.value is False:
            return f"--no-{name}"
        return f"--{name}" if self.value is True else f"--{name} {self.value}"

    def __str__(self) -> str:
        return f"{self.flag}: {self.why}"


@dataclass(frozen=True)
class Finding:
    """An ailment, the figures that show it, and remedies, the best first."""

    ailment: Ailment
    said: str
    figures: Mapping[str, float]
    remedies: Sequence[Remedy] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.ailment}: {self.said}", *(f"    {r}" for r in self.remedies)])


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        findings: ailments, the one to begin with first; none of a healthy network.
        healthy: whether there is none.
        overshoot: factor by which the mean of 10 losses exceeds the first loss, after which steps
            count as too long.
        gain: size of recurrent weights, as the root of the mean sum of squares of a row; drawn
            anew they have 0.6 to 1.
        learnt: share of the loss of a constant answer that is learnt away; NaN if not known.
        flow: the gradients.
        memory: how far back the answer depends on the input, where that could be measured.
        history: records of training, where there are.
    """

    findings: list[Finding]
    learnt: float
    flow: GradientFlow
    memory: Memory | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def first(self) -> Ailment | None:
        """The ailment to begin with."""
        return self.findings[0].ailment if self.findings else None

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["healthy: no ailment was found."]
        return "\n".join([*lines, "", *self.figures()])

    def figures(self) -> Iterator[str]:
        """The figures in words, line by line."""
        yield "figures"
        if math.isfinite(self.learnt):
            yield f"  {'learnt':<18}{max(0.0, self.learnt):.0%} of the loss of a constant answer"
        for layer in self.flow.layers:
            growth = layer.growth()
            half = growth.half_life
            life = f"half in {half:.1f} steps" if math.isfinite(half) else "does not shrink"
            yield f"  {layer.name:<18}gradient {layer.size:.2g}, {growth}, {life}"
        if self.memory is not None:
            yield f"  {'memory':<18}{self.memory}"

    def to_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "healthy": self.healthy,
            "findings": [
                {
                    "ailment": f.ailment,
                    "said": f.said,
                    "figures": {name: number(value) for name, value in f.figures.items()},
                    "remedies": [{"flag": r.flag, "why": r.why} for r in f.remedies],
                }
                for f in self.findings
            ],
            "learnt": number(self.learnt),
            "flow": self.flow.to_json(),
            "memory": None if self.memory is None else self.memory.to_json(),
        }


def diagnose(
    model: Any,
    data: Data = None,
    *,
    history: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
    distance: int | None = None,
    loss: Loss | None = None,
    thresholds: Thresholds | None = None,
) -> Diagnosis:
    """Say what ails a network, with the figures behind it, and what to do.

    Args:
        model: a network, or an estimator.
        data: ``(x, y)`` or ``(x, y, lengths)``; for an estimator what its ``fit`` takes, or, if not
            given and it stems from a run's folder, what it was validated on.
        history: records of training: a ``metrics.jsonl``, or mappings with ``step``, ``loss``,
            ``gradient_norm`` and ``validation_loss``; of an estimator from a run's folder those of
            the run, if not given.
        distance: steps over which the task needs its input, where that is known.
        loss: as of `gradient_flow`, for a module of one's own.
        thresholds: where other ones are wanted.

    Raises:
        OstinatoError: if there is nothing to look at.

    Example:
        >>> from torch import nn
        >>> from ostinato.recurrence.dropin import RNN
        >>> from ostinato.networks.arrangements import ManyToOne
        >>> from ostinato.networks.outputs import Output
        >>> network = ManyToOne(nn.Identity(), RNN(1, 16, batch_first=True), Output(16, 2))
        >>> x, y = torch.randn(16, 100, 1), torch.arange(16) % 2
        >>> diagnose(network, (x, y)).first
        'vanishing over time'
    """
    folder = getattr(model, "folder_", None)
    if folder is not None:
        if history is None and (folder / "metrics.jsonl").exists():
            history = folder / "metrics.jsonl"
        if data is None and (folder / "data").exists():
            data = model.validation_examples(folder / "data")
    records = _records(history)
    if data is None:
        raise OstinatoError("diagnose: there are no data to look at the network with; give some.")
    looked = sample_of(model, data)
    return _Examination(
        looked,
        estimator_of(model),
        records,
        distance,
        loss,
        thresholds or Thresholds(),
    ).diagnosis()


class _Examination:
    """A network being looked at."""

    def __init__(
        self,
        looked: Examined,
        estimator: Inspectable | None,
        records: list[dict[str, Any]],
        distance: int | None,
        loss: Loss | None,
        thresholds: Thresholds,
    ) -> None:
        self.looked = looked
        self.estimator = estimator
        self.records = records
        self.distance = distance
        self.thresholds = thresholds
        network = looked.network
        self.layers = [stack for _, _, stack in stacks_of(network)]
        self.flow = gradient_flow(network, looked.sample, loss=loss)
        with eval_mode(network), torch.no_grad(), tracing(network) as seen:
            if loss is None:
                self.loss = float(looked.loss())
            else:
                self.loss = float(loss(network, looked.inputs, looked.targets, looked.lengths))
        self.traces = list(map(_true_steps, seen))
        self.learnt = math.nan if loss is not None else self._learnt()
        ours = isinstance(network, SCORED) and loss is None
        sound = math.isfinite(self.flow.loss)
        self.memory = memory(network, looked.sample) if ours and sound else None

    def diagnosis(self) -> Diagnosis:
        """All checks, one after the other."""
        checks: list[Callable[[], Iterator[Finding]]] = [
            self.identical_layers,
            self.not_finite,
            self.exploding,
            self.oscillating,
            self.dead_units,
            self.saturated,
            self.vanishing_over_layers,
            self.vanishing_over_time,
            self.short_memory,
            self.overfitting,
        ]
        findings = []
        for check in checks:
            findings += list(check())
            if findings and findings[-1].ailment == "not finite":
                break  # nothing else that is measured has a meaning
        return Diagnosis(findings, self.learnt, self.flow, self.memory, self.records)

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the estimator, if it has one."""
        has = self.estimator is not None and hasattr(self.estimator, name)
        return self.estimator.resolved(name) if has and self.estimator is not None else default

    def cell(self) -> str:
        """The cell by name: ``rnn``, ``rnn-relu``, or anything else for one with gates."""
        cells = [cell for stack in self.layers for cell in stack.cells]
        plain = next((cell for cell in cells if isinstance(cell, RNNCell)), None)
        if plain is None:
            return str(self.setting("cell", "gated" if cells else "rnn"))
        return "rnn-relu" if plain.activation == "relu" else "rnn"

    # What can be seen of the weights

    def identical_layers(self) -> Iterator[Finding]:
        for stack in self.layers:
            for i, j in combinations(range(len(stack._all_weights)), 2):
                a, b = ([w for w in stack.weights_of(k).values() if w.dim() > 1] for k in (i, j))
                if len(a) != len(b) or any(v.shape != w.shape for v, w in zip(a, b, strict=True)):
                    continue
                alike = min(_correlation(v, w) for v, w in zip(a, b, strict=True))
                # Weights drawn apart have a correlation of 1 / sqrt(number of weights) by chance.
                chance = min(v.numel() for v in a) ** -0.5
                if alike > min(0.95, max(self.thresholds.alike, 5 * chance)):
                    yield Finding(
                        "identical layers",
                        f"layers {i} and {j} have nearly the same weights, with a correlation of "
                        f"{alike:.3f} where layers drawn apart have about 0: they began as one, "
                        "and do little more than one does.",
                        {"correlation": alike},
                        [
                            Remedy("seed", 1, "draw them anew, each by itself"),
                            Remedy("num_layers", 1, "one layer does what the two do"),
                        ],
                    )
                    return

    def not_finite(self) -> Iterator[Finding]:
        bad = [n for n, p in self.looked.network.named_parameters() if not p.isfinite().all()]
        steps = [r["step"] for r in self.records if "loss" in r and r["loss"] is None]
        if bad or steps or not math.isfinite(self.flow.loss):
            where = f"weight {bad[0]}" if bad else "the loss"
            yield Finding(
                "not finite",
                f"{where} is not finite"
                + (f", first at step {steps[0]}" if steps else "")
                + ": gradients exploded, or the input is not finite.",
                {"weights": float(len(bad))},
                self._against_explosion(),
            )

    # What can be seen of states and gates

    def dead_units(self) -> Iterator[Finding]:
        for name, cell, h, _ in self.traces:
            if not isinstance(cell, RNNCell) or cell.activation != "relu":
                continue
            dead = float((h.abs().amax(0) == 0).double().mean())
            if dead > self.thresholds.dead:
                yield Finding(
                    "dead units",
                    f"{name}: {dead:.0%} of its rectified units are zero at every step of every "
                    "sequence looked at; no gradient reaches them, and they never learn.",
                    {"dead": dead},
                    self._against_death(),
                )
                return

    def saturated(self) -> Iterator[Finding]:
        t = self.thresholds
        for name, cell, h, gates in self.traces:
            letters = {} if gates is None else gates._asdict()
            for letter, values in letters.items():
                if letter not in ("i", "f", "o", "z", "r") or values.min() < 0:
                    continue
                shut, open_ = (
                    float((values < 0.05).double().mean()),
                    float((values > 0.95).double().mean()),
                )
                mean = float(values.mean())
                keeps = letter == "f" and "g" in letters
                passes = 1 - mean if letter == "z" and "r" in letters else mean
                stuck = {"f": "it forgets everything at once, whatever came before"}.get(
                    letter, "next to nothing passes it, in either direction"
                )
                harmless = self.learnt > t.well and not keeps
                low = passes < (t.forgets if keeps else t.shut)
                if (low or (keeps and shut > t.saturated)) and not harmless:
                    yield Finding(
                        "saturated gates",
                        f"{name}: gate {letter} is {mean:.3f} on average, and below 0.05 at "
                        f"{shut:.0%} of steps and units"
                        + (" (above 0.95 at " + f"{open_:.0%})" if letter == "z" else "")
                        + f": {stuck}.",
                        {"mean": mean, "shut": shut, "open": open_},
                        [
                            Remedy("init", "orthogonal", "a forget gate that starts open"),
                            Remedy("init", "chrono", "gates that start with long memories"),
                            Remedy("learning_rate", self._lower(), "steps that keep gates movable"),
                        ],
                    )
                    return
            if isinstance(cell, RNNCell) and cell.activation in ("tanh", "sigmoid"):
                ends = h.abs() > 0.99 if cell.activation == "tanh" else (h < 0.01) | (h > 0.99)
                share = float(ends.double().mean())
                if share > t.saturated:
                    yield Finding(
                        "saturated gates",
                        f"{name}: {share:.0%} of its {cell.activation} units are at an end of "
                        "their range, where their gradient is zero.",
                        {"saturated": share},
                        [
                            Remedy("init", "orthogonal", "recurrent weights that keep lengths"),
                            Remedy("learning_rate", self._lower(), "steps that keep units movable"),
                            Remedy("cell", "lstm", "a state that is not squashed"),
                        ],
                    )
                    return

    # What can be seen of gradients

    def exploding(self) -> Iterator[Finding]:
        t = self.thresholds
        for layer in self.flow.layers:
            growth = layer.growth()
            gain = 0.0 if layer.gains is None else float(np.nanmax(layer.gains))
            if growth.low > 1 and growth.factor > t.growth and gain > t.exploded:
                yield Finding(
                    "exploding",
                    f"{layer.name}: a gradient grows by {growth} on its way back, "
                    f"{gain:.2g} times over the sequence.",
                    {"growth": growth.factor, "low": growth.low, "gain": gain},
                    self._against_explosion(),
                )
                return
        norms = [r["gradient_norm"] for r in self._steps() if r.get("gradient_norm") is not None]
        if len(norms) >= 40:
            # Once all is learnt, gradients are small, and a common one looks large beside them.
            usual = max(median(norms), median(norms[:20]))
            spiked = sum(n > 10 * usual for n in norms) / len(norms)
            worst = max(norms)
            matters = not self.learnt > t.well
            if matters and ((spiked > t.spikes and worst > 100 * usual) or usual > t.norm):
                yield Finding(
                    "exploding",
                    f"the gradient norm was above ten times its usual {usual:.2g} at {spiked:.1%} "
                    f"of training steps, {worst:.2g} at worst.",
                    {"spikes": spiked, "usual": usual, "worst": worst},
                    self._against_explosion(),
                )

    def oscillating(self) -> Iterator[Finding]:
        losses = [r["loss"] for r in self._steps() if r.get("loss") is not None]
        remedies = [
            Remedy("learning_rate", self._lower(), "shorter steps"),
            Remedy("clip_norm", self.setting("clip_norm") or 1, "no step longer than the usual"),
            Remedy("batch_size", 2 * (self.setting("batch_size") or 32), "steadier gradients"),
        ]
        if len(losses) >= 20 and not self.learnt > self.thresholds.well:
            first = fmean(losses[:2])
            highest = max(fmean(losses[i : i + 10]) for i in range(len(losses) - 9))
            if first > 0 and highest > self.thresholds.overshoot * first:
                yield Finding(
                    "oscillating",
                    f"the loss began at {first:.3g} and rose to {highest:.3g} over 10 steps: its "
                    "steps are too long, and threw the network to where it learns nothing.",
                    {"first": first, "highest": highest},
                    remedies,
                )
                return
        gain, weight = self._largest()
        if (
            len(losses) >= 20
            and self.learnt < self.thresholds.learnt
            and gain > self.thresholds.gain
        ):
            yield Finding(
                "oscillating",
                f"nothing was learnt, and {weight} has grown to {gain:.1f} times the size that "
                "keeps what passes through it as large as it is: steps too long threw it there.",
                {"gain": gain},
                remedies,
            )
            return
        swings = oscillation(losses) if not self.learnt > self.thresholds.mastered else None
        if swings is not None and swings[0] > self.thresholds.oscillation:
            share, swing, level, best = swings
            yield Finding(
                "oscillating",
                f"in {share:.0%} of the second half of training the loss swings around a level "
                f"above its best: by {swing:.2g} from step to step, around {level:.3g}, where it "
                f"was at {best:.3g}. Its steps are too long.",
                {"share": share, "swing": swing, "level": level, "best": best},
                remedies,
            )

    def _largest(self) -> tuple[float, str]:
        """The largest recurrent weights: root mean square times the root of their inputs."""
        sizes = [
            (float(p.detach().double().square().mean().sqrt()) * p.shape[1] ** 0.5, name)
            for stack in self.layers
            for name, p in stack.named_parameters()
            if name.startswith("weight_hh") and p.dim() == 2
        ]
        return max(sizes, default=(0.0, ""))

    def vanishing_over_layers(self) -> Iterator[Finding]:
        sizes = [layer.size for layer in self.flow.layers if "backward" not in layer.name]
        if len(sizes) < 3 or not max(sizes) > 0:
            return
        share = sizes[0] / sizes[-1] if sizes[-1] else 0.0
        if share < self.thresholds.layer_vanished:
            each = share ** (1 / (len(sizes) - 1))
            yield Finding(
                "vanishing over layers",
                f"the lowest of {len(sizes)} layers has {share:.2g} of the gradient of the top "
                f"layer; each layer passes {each:.2f} of it on.",
                {"share": share, "each": each},
                [
                    Remedy("residual", True, "layers that add to what they take"),
                    Remedy("num_layers", 2, "fewer layers"),
                    Remedy("init", "orthogonal", "weights that keep lengths"),
                ],
            )

    def vanishing_over_time(self) -> Iterator[Finding]:
        t = self.thresholds
        enough = t.begun if isinstance(self.looked.network, ManyToMany) else t.learnt
        if not self.flow.layers or self.learnt > enough:
            return
        best = max(self.flow.layers, key=self._left)
        left, growth = self._left(best), best.growth()
        if left < self.thresholds.vanished:
            lag = self._needed(best)
            yield Finding(
                "vanishing over time",
                f"{left:.2g} of the gradient is left {lag} steps before the last: it shrinks by "
                f"{growth}"
                + (
                    f", and {best.underflow:.0%} of it is smaller than any normal number"
                    if best.underflow > 0.01
                    else ""
                )
                + ". What came that early cannot be learnt.",
                {"left": left, "growth": growth.factor, "underflow": best.underflow},
                self._against_vanishing(),
            )

    def short_memory(self) -> Iterator[Finding]:
        if self.distance is None or self.memory is None:
            return
        far = self.memory.lags >= self.distance
        if not far.any():
            return
        effect = float(self.memory.effect[far][0] / max(1e-300, self.memory.effect.max()))
        if effect < self.thresholds.felt:
            yield Finding(
                "short memory",
                f"the task needs what came {self.distance} steps before; the answer depends on it "
                f"{effect:.2g} times as much as on what matters most, and is felt "
                f"{self.memory.reach} steps.",
                {"effect": effect, "reach": float(self.memory.reach)},
                self._against_vanishing(),
            )

    def overfitting(self) -> Iterator[Finding]:
        found = [r for r in self.records if r.get("validation_loss") is not None]
        steps = self._steps()
        if len(found) < 3 or not steps or self.learnt > self.thresholds.mastered:
            return
        best = min(found, key=lambda r: r["validation_loss"])
        last = min(found[-2:], key=lambda r: r["validation_loss"])  # one may be an accident
        # Losses of densities have no natural zero: how far they fell is what they are measured by.
        floor = min(0.0, best["validation_loss"], *(r["loss"] for r in steps))
        first = found[0]["validation_loss"] - floor
        rise = (last["validation_loss"] - best["validation_loss"]) / first

        def training(step: int) -> float:
            near = [r["loss"] for r in steps if r["step"] <= step][-50:]
            return fmean(near) if near else math.nan

        before, after = training(best["step"]), training(last["step"])
        fell = (after - floor) / (before - floor)
        if rise > self.thresholds.overfitted and fell < 0.8:
            yield Finding(
                "overfitting",
                f"the validation loss rose from {best['validation_loss']:.3g} at step "
                f"{best['step']} to {last['validation_loss']:.3g}, while the training loss fell "
                f"from {before:.3g} to {after:.3g}. The weights kept are those of step "
                f"{best['step']}.",
                {"rise": rise, "training": fell},
                [
                    Remedy("dropout", 0.5, "features that must not rely on each other"),
                    Remedy("weight_dropout", 0.3, "the same for recurrent weights"),
                    Remedy("hidden_size", max(16, (self.setting("hidden_size") or 64) // 2),
                           "fewer weights"),
                    Remedy("weight_decay", 0.1, "smaller weights"),
                ],
            )  # fmt: skip

    # Figures

    def _learnt(self) -> float:
        """Share of the loss of the best constant answer that the network has learnt away."""
        output = getattr(self.looked.network, "output", None)
        kind = getattr(output, "kind", None)
        targets = self.looked.targets
        if kind is None or not isinstance(targets, Tensor):
            return math.nan
        by_step = targets.shape[:2] == self.looked.sample.inputs.shape[:2] and targets.dim() > 1
        if by_step:
            there = torch.arange(targets.shape[1])[None] < self.looked.ends[:, None]
            targets = targets[there]
        targets = targets.double() if kind != "category" else targets
        if kind == "category":
            p = torch.bincount(targets.flatten()).double()
            p = p[p > 0] / p.sum()
            constant = float(-(p * p.log()).sum())
        elif kind == "number":
            constant = float(targets.var(0, correction=0).sum())
        else:
            p = targets.mean(0).clamp(1e-9, 1 - 1e-9)
            constant = float(-(p * p.log() + (1 - p) * (1 - p).log()).sum())
        return 1 - self.loss / constant if constant > 0 else math.nan

    def _needed(self, layer: LayerFlow) -> int:
        """The lag at which a gradient is asked for: the task's, or two thirds of the sequence."""
        lags = int(np.isfinite(layer.norms).sum())
        if self.distance is not None:
            return min(self.distance, lags - 1)
        return 2 * lags // 3

    def _left(self, layer: LayerFlow) -> float:
        """Share of the largest gradient that is left from the needed lag on."""
        norms = np.nan_to_num(layer.norms)
        if not norms.max(initial=0.0) > 0:
            return 0.0
        return float(norms[self._needed(layer) :].max() / norms.max())

    def _steps(self) -> list[dict[str, Any]]:
        """The records of training steps."""
        return [r for r in self.records if "loss" in r]

    # Remedies

    def _lower(self) -> float:
        return float(f"{self.setting('learning_rate', 0.003) / 10:.2g}")

    def _against_explosion(self) -> list[Remedy]:
        clip = self.setting("clip_norm")
        remedies = [] if clip else [Remedy("clip_norm", 1, "steps of a bounded length")]
        if self.cell().startswith("rnn"):
            remedies.append(Remedy("init", "orthogonal", "recurrent weights that keep lengths"))
            remedies.append(Remedy("cell", "gru", "gates that keep gradients bounded"))
        remedies.append(
            Remedy("learning_rate", self._lower(), "steps that do not leave the valley")
        )
        if self.setting("window"):
            remedies.append(
                Remedy("window", max(1, self.setting("window") // 2), "shorter ways back")
            )
        return remedies

    def _against_death(self) -> list[Remedy]:
        remedies = [
            Remedy("init", "identity", "start from biases of zero"),
            Remedy("learning_rate", self._lower(), "steps that do not throw units out"),
            Remedy("cell", "gru", "units that cannot die"),
        ]
        # The estimators' rnn-relu starts from the identity whatever is asked.
        begins_so = self.setting("cell") == "rnn-relu"
        return remedies[1:] if begins_so else remedies

    def _against_vanishing(self) -> list[Remedy]:
        cell, steps = self.cell(), self.flow.steps
        remedies = []
        if cell.startswith("rnn"):
            remedies.append(Remedy("cell", "lstm", "a state that gradients pass unhindered"))
            if cell != "rnn-relu":
                remedies.append(Remedy("cell", "rnn-relu", "units that start as perfect memories"))
        else:
            remedies.append(Remedy("init", "chrono", f"gates that start with up to {steps} steps"))
        if isinstance(self.looked.network, ManyToOne) and self.looked.network.pooling == "last":
            remedies.append(Remedy("pooling", "attention", "a short way to every step"))
        remedies.append(Remedy("init", "orthogonal", "recurrent weights that keep lengths"))
        return remedies


def oscillation(losses: Sequence[float]) -> tuple[float, float, float, float] | None:
    """How much of the second half of training the loss swings, the swing, its level, its best.

    Windows of 40 steps are compared: one counts where the loss changes from step to step by more
    than a fifth of itself, on average, and lies above the best window by more than a tenth and by
    more than twice that window's swing. None of fewer than 120 losses.
    """
    size = 40
    if len(losses) < 3 * size:
        return None
    windows = [losses[i : i + size] for i in range(0, len(losses) - size + 1, size // 2)]
    means = [fmean(w) for w in windows]
    swings = [fmean(abs(b - a) for a, b in pairwise(w)) for w in windows]
    best = min(range(len(means)), key=means.__getitem__)
    level, noise = means[best], 2 * swings[best]
    half = range(len(windows) // 2, len(windows))
    bad = [
        i
        for i in half
        if swings[i] > max(0.2 * abs(means[i]), noise)
        and means[i] > level + max(0.1 * abs(level), noise)
        and abs(means[i]) > 0.05 * abs(means[0])  # what is left to learn is worth a word
    ]
    worst = max(bad or half, key=swings.__getitem__)
    return len(bad) / len(half), swings[worst], means[worst], level


def _true_steps(seen: Traced) -> tuple[str, Any, Tensor, Any]:
    """Name, cell, states ``(steps, H)`` and gates of a layer, padding left out."""
    T = seen.trace.states.h.shape[0]
    there = torch.arange(T)[:, None] < seen.ends.cpu()  # (T, B)

    def true(t: Tensor) -> Tensor:
        return t.cpu()[there]

    gates = seen.trace.gates
    shown = None if gates is None else type(gates)(*map(true, gates))
    return seen.name, seen.cell, true(seen.trace.states.h), shown


def _correlation(a: Tensor, b: Tensor) -> float:
    v, w = (t.detach().double().flatten() - t.detach().double().mean() for t in (a, b))
    return float(v @ w / (v.norm() * w.norm()).clamp(min=1e-300))


def _records(history: Any) -> list[dict[str, Any]]:
    if history is None:
        return []
    if isinstance(history, str | os.PathLike):
        with open(history, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    return [dict(record) for record in history]
