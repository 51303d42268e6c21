"""What a training loop shows for free, and the causes of trouble that can be told from that alone.

`free_checks` judges `Observations`: losses, gradient norms, learning rates, and which parameters
take part. Measuring a network on data is left to `ostinato.insight`, whose causes have the same
form: a `Cause` with a name, a meaning, the limits it uses, and a function that judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import fmean, median
from textwrap import indent
from typing import Any, Generic, Literal, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from torch import nn
from torch.optim import Optimizer

from ostinato.training.health import STEPS, Level, oscillates

Record: TypeAlias = Mapping[str, Any]
"""A line of ``metrics.jsonl``: a training step or an evaluation."""

Terms = Literal["torch", "estimator", "command"]
"""In what a remedy is told: lines of PyTorch, arguments of an estimator, flags of a command."""


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which a measurement is reported as an issue.

    Args:
        probable: probability from which a cause is reported as an issue; below it is a candidate.
        learned: improvement over a constant prediction (see `Diagnosis`) below which nothing was
            learned, if it is not clear of what shuffled inputs give.
        clear: standard deviations by which the loss must be below that of shuffled inputs to count
            as learned: chance reaches four in one of 30,000.
        low_improvement: improvement below which short training runs are made to find the cause.
        improvement: improvement over a constant prediction (see `Diagnosis`) above which vanishing
            gradients are not reported: what there was to learn was near.
        step_improvement: the same for a network with an output at every step, where much is near.
        good_improvement: improvement above which spikes of the gradient norm, nearly closed gates
            and faults that can be lived with are not reported.
        high_improvement: improvement above which a swinging loss and overfitting are not reported.
        helps: share of the constant prediction's loss by which a short run must end lower than
            another to count as better.
        tried: the same for a remedy that is tried to count as a help.
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
        movement: share of their size by which all updates of a run together could move the weights;
            below a twentieth the network is still the initial one.
        shrinkage: share of the weights that weight decay takes per step: at a thousandth they are
            halved in 700 steps, against the gradient.
        decay_share: gradient of weight decay as a multiple of that of the loss.
        clipped: factor by which clipping shortens the usual gradient; only an optimizer without
            adaptive steps suffers.
        accumulated: norm of the gradients that a network holds, in those of one batch; half of it
            is the growth of the gradient norm over a run that is along a straight line.
        linear: correlation of the gradient norm with the number of the step that counts as a
            straight line.
        overfitting: increase of the validation loss from best to last, as a share of the first.
        generalization_gap: difference between the improvements on the data and on held-out data.
        influence: share of the largest effect of an input below which it counts as forgotten.
        scale: size (root mean square) of an input or target beyond which, or below whose inverse,
            it counts as not scaled; weights are initialised for 1.
        outlier: distance from the median, in robust standard deviations, from which a value is an
            outlier; normal ones end at 6, and those of Student's t with 3 degrees of freedom at 20.
        outlier_share: largest share of the values that are outliers of a distribution, and not a
            part of it; five times that of those that are five times as far.
        duplicate: correlation of two input features that count as duplicates.
        constant: share of the input features that may be constant.
        imbalance: share of the most frequent class from which a network may ignore the others.
        recall: share of the other classes' rows that are recognised; below, they are ignored.
        one_class: share of predictions of one class at which a network predicts only that.
        leaky: correlation with the target, or accuracy, of a single input feature by itself.
        changed: relative change of an output that counts as a change; rounding is below.
        dropout: probability of dropout beyond which it is tried without.
        small: hidden units below which a larger network is proposed where training stalls.
        plateau: share by which the loss of the last third of a run is below that before; less
            counts as stalled.
        free_running: factor by which the loss of free running may exceed that with the true past.
    """

    probable: float = 0.5
    learned: float = 0.02
    clear: float = 4.0
    low_improvement: float = 0.3
    improvement: float = 0.15
    step_improvement: float = 0.05
    good_improvement: float = 0.5
    high_improvement: float = 0.9
    helps: float = 0.1
    tried: float = 0.03
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
    movement: float = 0.05
    shrinkage: float = 1e-3
    decay_share: float = 1.0
    clipped: float = 20.0
    accumulated: float = 8.0
    linear: float = 0.95
    overfitting: float = 0.1
    generalization_gap: float = 0.3
    influence: float = 0.01
    scale: float = 10.0
    outlier: float = 20.0
    outlier_share: float = 0.01
    duplicate: float = 0.9999
    constant: float = 0.0
    imbalance: float = 0.8
    recall: float = 0.1
    one_class: float = 0.98
    leaky: float = 0.999
    changed: float = 1e-4
    dropout: float = 0.5
    small: float = 8.0
    plateau: float = 0.05
    free_running: float = 2.0


class Remedy(NamedTuple):
    """A change that should help.

    Attributes:
        setting: an argument of the estimator, such as ``clip_norm``; the flag is ``--clip-norm``.
            Empty if no setting does it.
        value: the value to set.
        why: what it does.
        code: the same as lines of PyTorch; empty if there are none.
        terms: in what it is told.
        gain: what was measured when it was tried; see ``diagnose(try_remedies=True)``.
    """

    setting: str
    value: str | float | bool
    why: str
    code: str = ""
    terms: Terms = "command"
    gain: str = ""

    @property
    def flag(self) -> str:
        """The setting as a flag of the command line."""
        name = self.setting.replace("_", "-")
        if self.value is False:
            return f"--no-{name}"
        return f"--{name}" if self.value is True else f"--{name} {self.value}"

    @property
    def change(self) -> str:
        """What to change, in the user's terms; empty if only a hint can be given."""
        if self.terms == "torch":
            return self.code
        if not self.setting:
            return ""
        return self.flag if self.terms == "command" else f"{self.setting}={self.value!r}"

    def __str__(self) -> str:
        text = f"{self.why} ({self.gain})" if self.gain else self.why
        if self.terms != "torch":
            return f"{self.change}: {text}" if self.change else text
        return f"{text}:\n{indent(self.code, '    ')}" if self.code else text


@dataclass(frozen=True)
class Finding:
    """A cause of trouble, what shows it, and remedies.

    Attributes:
        issue: name of the `Cause`.
        message: what is wrong, with the figures that show it.
        values: these figures by name.
        remedies: what to change, the best first.
        probability: how likely it is a cause of what is seen, 0 to 1, all evidence weighed.
        evidence: what speaks for it (begins with "+") and against it ("-"), beyond the message.
    """

    issue: str
    message: str
    values: Mapping[str, float] = field(default_factory=dict)
    remedies: Sequence[Remedy] = ()
    probability: float = 0.9
    evidence: Sequence[str] = ()

    def in_terms(self, terms: Terms) -> Finding:
        """Return it with remedies in a user's terms, without those that cannot be told in them."""
        told = [r._replace(terms=terms) for r in self.remedies]
        usable = [r for r in told if r.change or not (r.setting or r.code)]
        return replace(self, remedies=usable)

    def __str__(self) -> str:
        weighed = [f"  {each}" for each in self.evidence]
        remedies = [indent(str(remedy), "    ") for remedy in self.remedies]
        return "\n".join([f"{self.issue}: {self.message}", *weighed, *remedies])


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What a training loop shows for free. Whatever is not known is empty, or NaN.

    Attributes:
        steps: number of each step observed.
        losses: training loss of each; NaN where it was not finite.
        norms: gradient norm of each before clipping.
        rates: learning rate of each.
        evaluations: (step, validation loss).
        clip_norm: largest gradient norm; 0 for no clipping.
        optimizer: name of the optimizer's class in lower case, such as adamw.
        weight_decay: largest weight decay of its groups.
        total: steps made, if more than observed.
        frozen: parameters that require no gradient.
        missing: parameters that require one, and are not in the optimizer.
        without_gradient: parameters in the optimizer whose gradient is None or zero at every step.
        unchanged: parameters in the optimizer that are equal before and after.
        recurrent: those of all parameters that belong to recurrent layers.
        parameters: number of parameters, all together, of those named above and others.
        update: size of an update of the weights in the size of the weights, the median over steps.
        decay: gradient of weight decay in the size of the loss's gradient; NaN if not known.
        kept: share of steps that began with gradients of the step before.
        constant: loss of the best constant prediction.
    """

    steps: Sequence[int] = ()
    losses: Sequence[float] = ()
    norms: Sequence[float] = ()
    rates: Sequence[float] = ()
    evaluations: Sequence[tuple[int, float]] = ()
    clip_norm: float = 0.0
    optimizer: str = ""
    weight_decay: float = 0.0
    total: int = 0
    frozen: Sequence[str] = ()
    missing: Sequence[str] = ()
    without_gradient: Sequence[str] = ()
    unchanged: Sequence[str] = ()
    recurrent: Sequence[str] = ()
    parameters: int = 0
    update: float = math.nan
    decay: float = math.nan
    kept: float = math.nan
    constant: float = math.nan

    @classmethod
    def of(
        cls,
        history: Iterable[Record | float] = (),
        network: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **known: Any,
    ) -> Self:
        """Read a history, a network's parameters and an optimizer.

        Args:
            history: losses, or records with ``loss`` (or ``training_loss``, ``train_loss``),
                ``gradient_norm`` (``grad_norm``), ``learning_rate`` (``lr``) and
                ``validation_loss`` (``val_loss``); or that of a `watch`.
            network: for the parameters that are frozen or missing from the optimizer.
            optimizer: the user's.
            known: further attributes.
        """
        records = list(records_of(history))
        steps = [r for r in records if "loss" in r]
        numbers = {
            name: [math.nan if r[key] is None else float(r[key]) for r in steps if key in r]
            for name, key in (
                ("losses", "loss"),
                ("norms", "gradient_norm"),
                ("rates", "learning_rate"),
            )
        }
        facts: dict[str, Any] = {"steps": [r["step"] for r in steps], **numbers}
        facts["evaluations"] = [
            (r["step"], float(r["validation_loss"]))
            for r in records
            if r.get("validation_loss") is not None
        ]
        facts["total"] = max((r["step"] for r in records), default=0)
        facts["clip_norm"] = max((float(r.get("clip_norm") or 0.0) for r in records), default=0.0)
        if network is not None:
            facts |= _parameters(network, optimizer)
        if optimizer is not None:
            groups, states = optimizer.param_groups, list(optimizer.state.values())
            facts["optimizer"] = type(optimizer).__name__.lower()
            facts["weight_decay"] = max(float(g.get("weight_decay") or 0.0) for g in groups)
            facts["rates"] = facts["rates"] or [max(float(g["lr"]) for g in groups)]
            made = (int(s["step"]) for s in states if "step" in s)
            facts["total"] = max([facts["total"], *made])
        for record in records:  # of a watch
            facts |= record.get("observed", {})
        return cls(**facts | known)

    @property
    def finite(self) -> list[float]:
        """Losses that are finite."""
        return [loss for loss in self.losses if math.isfinite(loss)]

    @property
    def rate(self) -> float:
        """The usual of the learning rates; NaN if not known."""
        return median(self.rates) if self.rates else math.nan


USUAL_DECAY = 0.02
"""Weight decay below which a high rate of shrinking is the learning rate's."""

USUAL_UPDATE = 0.01
"""An update of the weights, in their size, with which networks learn in some hundred steps."""

_ALIASES = {
    "training_loss": "loss",
    "train_loss": "loss",
    "grad_norm": "gradient_norm",
    "lr": "learning_rate",
    "val_loss": "validation_loss",
}


def records_of(history: Iterable[Record | float]) -> Iterator[Record]:
    """Yield a history as records as in ``metrics.jsonl``: losses are numbered from step 1."""
    for number, entry in enumerate(history, start=1):
        if not isinstance(entry, Mapping):
            loss = float(entry)
            yield {"step": number, "loss": loss if math.isfinite(loss) else None}
            continue
        evaluated = "best" in entry  # a record of `fit` with the last training loss, not a step
        named = {
            k if evaluated or _ALIASES.get(k, k) in entry else _ALIASES.get(k, k): v
            for k, v in entry.items()
        }
        yield named if "step" in named else {"step": number, **named}


def _parameters(network: nn.Module, optimizer: Optimizer | None) -> dict[str, Any]:
    named = dict(network.named_parameters())
    facts: dict[str, Any] = {"parameters": len(named)}
    facts["frozen"] = [name for name, p in named.items() if not p.requires_grad]
    facts["recurrent"] = [name for name in named if "weight_hh" in name or "weight_ih" in name]
    if optimizer is not None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [n for n, p in named.items() if p.requires_grad and id(p) not in held]
        facts["missing"] = missing
    return facts


E = TypeVar("E")


class Judgement(NamedTuple, Generic[E]):
    """What a `Cause` is judged by.

    Attributes:
        evidence: the measurements.
        observed: what training showed.
        thresholds: the limits.
        improvement: over a constant prediction, on held-out data if there are any; NaN if unknown.
        rate: the learning rate that a remedy starts from.
    """

    evidence: E
    observed: Observations
    thresholds: Thresholds
    improvement: float = math.nan
    rate: float = 0.003

    def lower_rate(self, why: str, factor: float = 0.1) -> Remedy:
        """Return the remedy of a lower, or a higher, learning rate."""
        rate = float(f"{self.rate * factor:.2g}")
        code = f'for group in optimizer.param_groups: group["lr"] = {rate:g}'
        return Remedy("learning_rate", rate, why, code)


class Cause(NamedTuple, Generic[E]):
    """A cause of trouble: its name, what it means in one sentence, its limits, and its judge.

    Attributes:
        name: as in `Finding.issue`.
        meaning: what it is, for the documentation.
        limits: names of the `Thresholds` that it uses.
        judge: yields what it finds, the most telling first.
    """

    name: str
    meaning: str
    limits: tuple[str, ...]
    judge: Callable[[Judgement[E]], Iterator[Finding]]

    def also(
        self, judge: Callable[[Judgement[Any]], Iterator[Finding]], *limits: str
    ) -> Cause[Any]:
        """Return the same cause with another judge, and the limits that it uses beside."""
        return Cause(self.name, self.meaning, (*self.limits, *limits), judge)


def judge(causes: Iterable[Cause[E]], judgement: Judgement[E]) -> list[Finding]:
    """Return the first finding of each cause, the most probable first."""
    found = [finding for cause in causes for finding in islice(cause.judge(judgement), 1)]
    return sorted(found, key=lambda finding: -finding.probability)


def free_checks(
    observed: Observations, thresholds: Thresholds | None = None, terms: Terms = "torch"
) -> list[Finding]:
    """Return what can be told from what a training loop shows for free, the most probable first.

    Example:
        >>> losses = [1.0 + 0.02 * step for step in range(200)]
        >>> free_checks(Observations.of(losses))[0].issue
        'learning rate too high'
    """
    judgement = Judgement(None, observed, thresholds or Thresholds(), rate=_known_rate(observed))
    return [finding.in_terms(terms) for finding in judge(FREE_CAUSES, judgement)]


def _known_rate(observed: Observations) -> float:
    return observed.rate if math.isfinite(observed.rate) else 0.003


# The causes


def not_finite(j: Judgement[Any]) -> Iterator[Finding]:
    """A loss that is NaN or infinite."""
    o = j.observed
    bad = [s for s, loss in zip(o.steps, o.losses, strict=False) if not math.isfinite(loss)]
    if bad:
        yield Finding(
            "not finite",
            f"the loss is not finite, first at step {bad[0]}: gradients exploded, or the data hold "
            "NaN or infinity.",
            {"step": float(bad[0])},
            [clipping("steps of a bounded length"), j.lower_rate("steps that do not diverge")],
            0.95,
        )


def not_in_optimizer(j: Judgement[Any]) -> Iterator[Finding]:
    """Parameters that the optimizer was not given."""
    names = j.observed.missing
    if names:
        yield Finding(
            "parameters not in the optimizer",
            f"{counted(names, j.observed.parameters)} require a gradient, but are not in the "
            f"optimizer, which never changes them: {listed(names)}.",
            {"parameters": float(len(names))},
            [
                Remedy(
                    "", "", "let the optimizer have all parameters, after the last layer is made",
                    "optimizer = type(optimizer)(model.parameters(), **optimizer.defaults)",
                )
            ],
            unless_learned(j, 0.95, proven=True),
        )  # fmt: skip


def frozen(j: Judgement[Any]) -> Iterator[Finding]:
    """Parameters that require no gradient."""
    o = j.observed
    names = [n for n in o.frozen if n in o.recurrent] or list(o.frozen)
    if names and (len(o.frozen) == o.parameters or set(names) & set(o.recurrent)):
        p = 0.95
    elif names:  # an embedding that was trained elsewhere is often frozen on purpose
        p = 0.55
    else:
        return
    yield Finding(
        "frozen parameters",
        f"{counted(o.frozen, o.parameters)} are frozen (requires_grad is False) and do not learn: "
        f"{listed(o.frozen)}.",
        {"parameters": float(len(o.frozen))},
        [
            Remedy(
                "", "", "let them learn",
                "model.requires_grad_(True)  # before the optimizer is made",
            )
        ],
        unless_learned(j, p, proven=p > 0.9),
    )  # fmt: skip


def no_gradient(j: Judgement[Any]) -> Iterator[Finding]:
    """Parameters to which no gradient came in any step."""
    names = j.observed.without_gradient
    if names:
        yield Finding(
            "no gradient",
            f"{counted(names, j.observed.parameters)} require a gradient, and their gradient is "
            f"exactly zero: {listed(names)}. Something between them and the loss cuts the graph "
            "(detach, .data, torch.no_grad, .item, argmax), or they are not used at all.",
            {"parameters": float(len(names))},
            [
                Remedy(
                    "", "", "do not cut the graph between these parameters and the loss",
                    "h = h  # not h.detach(), h.data, or a result of torch.no_grad()",
                )
            ],
            unless_learned(j, 0.93, proven=True),
        )  # fmt: skip


def unchanged(j: Judgement[Any]) -> Iterator[Finding]:
    """Weights that are those of the start."""
    o = j.observed
    names = [n for n in o.unchanged if n not in {*o.frozen, *o.missing, *o.without_gradient}]
    if names:
        yield Finding(
            "unchanged weights",
            f"{counted(names, o.parameters)} have the values of the start of training: "
            f"{listed(names)}. The optimizer does not move them: its rate is zero for them, it "
            "holds another copy of the network, or step() is not called.",
            {"parameters": float(len(names))},
            [
                Remedy(
                    "", "", "give the optimizer the parameters of the network that is trained",
                    "optimizer = torch.optim.Adam(model.parameters())  # of this very model",
                )
            ],
            0.94,
        )  # fmt: skip


def never_zeroed(j: Judgement[Any]) -> Iterator[Finding]:
    """Gradients that begin a step from those of the step before."""
    o, t = j.observed, j.thresholds
    remedies = [
        Remedy(
            "", "", "begin each step from zero gradients",
            "optimizer.zero_grad()  # before loss.backward()",
        )
    ]  # fmt: skip
    if o.kept > 0.5:
        yield Finding(
            "gradients never zeroed",
            f"{o.kept:.0%} of the steps began with the gradients of the steps before, which "
            "backward() adds to: the sum over the run is followed, not the gradient.",
            {"kept": o.kept},
            remedies,
            0.96,
        )
        return
    norms = np.asarray(o.norms, dtype=np.float64)
    if len(norms) < 30 or not np.isfinite(norms).all() or j.improvement > t.good_improvement:
        return
    third = len(norms) // 3
    growth = float(np.median(norms[-third:]) / max(1e-300, np.median(norms[:third])))
    steps = np.arange(len(norms))
    line = float(np.corrcoef(steps, norms)[0, 1]) if np.ptp(norms) > 0 else 0.0
    # A sum of gradients changes little from step to step; a batch's gradient varies.
    smooth = float(np.median(np.abs(np.diff(norms)))) < 0.05 * float(np.median(norms))
    if growth > t.accumulated / 2 and line > t.linear and smooth:
        yield Finding(
            "gradients never zeroed",
            f"the gradient norm grows along a straight line with the steps, {growth:.1f} times "
            "from the first third of the run to the last: gradients add up.",
            {"growth": growth, "line": line},
            remedies,
            0.85,
        )


def rate_too_high(j: Judgement[Any]) -> Iterator[Finding]:
    """A loss that rises, or swings above its best."""
    t, losses, improvement = j.thresholds, j.observed.finite, j.improvement
    if len(losses) < 20:
        return
    remedies = [j.lower_rate("shorter steps"), clipping("no unusually long steps")]
    first = fmean(losses[:2])
    highest = max(fmean(losses[i : i + 10]) for i in range(len(losses) - 9))
    if highest > t.overshoot * first > 0 and not improvement > t.good_improvement:
        last = fmean(losses[-10:])
        effect = "to where it learns nothing" if last > 0.9 * first else "away for a while"
        yield Finding(
            "learning rate too high",
            f"the loss started at {first:.3g} and rose to {highest:.3g} over 10 steps: the steps "
            f"are too long and moved the network {effect}.",
            {"first": first, "highest": highest, "last": last},
            remedies,
            0.88 if last > 0.9 * first else 0.6,
        )
    share, swing, level, best = oscillation(losses) or (0.0, 0.0, 0.0, 0.0)
    if share > t.oscillation and not improvement > t.high_improvement:
        yield Finding(
            "learning rate too high",
            f"in {share:.0%} of the second half of training the loss swings around a level above "
            f"its best: by {swing:.2g} from step to step, around {level:.3g}; its best was "
            f"{best:.3g}. The steps are too long.",
            {"share": share, "swing": swing, "level": level, "best": best},
            remedies,
            0.86,
        )


def exploding_norms(j: Judgement[Any]) -> Iterator[Finding]:
    """Gradient norms that are huge, or have spikes."""
    t, norms = j.thresholds, [n for n in j.observed.norms if math.isfinite(n)]
    if len(norms) < 40 or j.improvement > t.good_improvement:
        return
    # Late in training gradients are small, and a normal one looks large beside them.
    usual, worst = max(median(norms), median(norms[:20])), max(norms)
    spikes = sum(n > 10 * usual for n in norms) / len(norms)
    remedies = [clipping("steps of a bounded length"), j.lower_rate("steps that do not diverge")]
    if usual > t.gradient_norm:
        yield Finding(
            "exploding",
            f"the gradient norm is {usual:.2g} in most steps of training, {worst:.2g} at most.",
            {"spikes": spikes, "usual": usual, "worst": worst},
            remedies,
            0.84,
        )
    elif spikes > t.spikes and worst > 100 * usual:
        yield Finding(
            "exploding",
            f"the gradient norm was above ten times its usual {usual:.2g} at {spikes:.1%} of "
            f"training steps, {worst:.2g} at most.",
            {"spikes": spikes, "usual": usual, "worst": worst},
            remedies,
            0.84,
        )


def rate_too_low(j: Judgement[Any]) -> Iterator[Finding]:
    """Updates that together hardly move the weights."""
    o, t = j.observed, j.thresholds
    moved = o.total * o.update
    if o.total >= 20 and 0 < moved < t.movement and not j.improvement > t.low_improvement:
        yield Finding(
            "learning rate too low",
            f"a step changes the weights by {o.update:.1g} of their size: the {o.total:,} steps of "
            f"the run together by {moved:.1%} at most, so that the network is still the initial "
            "one.",
            {"update": o.update, "moved": moved},
            [j.lower_rate("longer steps", 10.0 ** round(math.log10(USUAL_UPDATE / o.update)))],
            0.9,
        )


def clipping_too_strong(j: Judgement[Any]) -> Iterator[Finding]:
    """Clipping far below the usual gradient norm, with steps of plain descent."""
    o, t = j.observed, j.thresholds
    norms = [n for n in o.norms if math.isfinite(n)]
    adaptive = o.optimizer not in ("sgd", "asgd", "")
    if not o.clip_norm or len(norms) < 20 or j.improvement > t.low_improvement or adaptive:
        return
    factor = median(norms) / o.clip_norm
    if factor > t.clipped:
        yield Finding(
            "clipping too strong",
            f"the usual gradient norm is {median(norms):.2g}, and clipping cuts it to "
            f"{o.clip_norm:g}: steps are {factor:.0f} times shorter than the learning rate says.",
            {"factor": factor},
            [_looser_clipping(median(norms))],
            0.85,
        )


def weight_decay_too_strong(j: Judgement[Any]) -> Iterator[Finding]:
    """Weight decay that outweighs the loss."""
    o, t = j.observed, j.thresholds
    if j.improvement > t.good_improvement or o.weight_decay < USUAL_DECAY:
        return
    shrinkage = o.weight_decay * o.rate
    if shrinkage > t.shrinkage:
        yield Finding(
            "weight decay too strong",
            f"weight decay of {o.weight_decay:g} at a learning rate of {o.rate:g} takes "
            f"{shrinkage:.2%} of each weight per step.",
            {"shrinkage": shrinkage},
            [less_decay()],
            0.7,
        )
    elif o.decay > t.decay_share:
        yield Finding(
            "weight decay too strong",
            f"the gradient of weight decay {o.weight_decay:g} is {o.decay:.1f} times that of the "
            "loss: weights are pulled to zero rather than to where the loss is low.",
            {"decay": o.decay},
            [less_decay()],
            0.7,
        )


def overfitting(j: Judgement[Any]) -> Iterator[Finding]:
    """A validation loss that rises while the training loss falls."""
    o, t = j.observed, j.thresholds
    pairs = list(zip(o.steps, o.losses, strict=False))
    if len(o.evaluations) < 3 or not o.finite or j.improvement > t.high_improvement:
        return
    best = min(o.evaluations, key=lambda e: e[1])
    last = min(o.evaluations[-2:], key=lambda e: e[1])  # one may be an outlier
    # Losses of densities have no natural zero: they are measured from the lowest of them.
    floor = min(0.0, best[1], *o.finite)
    rise = (last[1] - best[1]) / max(1e-12, o.evaluations[0][1] - floor)
    near = [[loss for step, loss in pairs if step <= e[0]] for e in (best, last)]
    before, after = (fmean(losses[-50:]) if losses else math.nan for losses in near)
    fell = (after - floor) / (before - floor) if before > floor else math.nan
    if rise > t.overfitting and fell < 0.8:
        yield Finding(
            "overfitting",
            f"the validation loss rose from {best[1]:.3g} at step {best[0]} to {last[1]:.3g}, "
            f"while the training loss fell from {before:.3g} to {after:.3g}: the network is too "
            "large for the data, or trained for too long.",
            {"rise": rise, "training": fell},
            against_overfitting(),
            0.8,
        )


def nothing_learnt(j: Judgement[Any]) -> Iterator[Finding]:
    """A training loss that stays where it was."""
    losses, constant = j.observed.finite, j.observed.constant
    if len(losses) < STEPS:
        return
    first, last = fmean(losses[: STEPS // 4]), fmean(losses[-STEPS // 4 :])
    noise = float(np.std(losses[-STEPS // 2 :]))
    stays = last > first - max(0.02 * abs(first), 2 * noise)
    if math.isfinite(constant) and last < 0.9 * constant:
        return
    if stays:
        yield Finding(
            "nothing learnt",
            f"in {max(j.observed.total, len(losses)):,} steps the training loss went from "
            f"{first:.3g} to {last:.3g}, no more than it changes from step to step.",
            {"first": first, "last": last},
            [Remedy("", "", "call ostinato.diagnose on the network and some data for the cause")],
            0.5,
        )


def clipping(why: str, norm: float = 1.0) -> Remedy:
    """Return the remedy of clipping gradients."""
    code = f"torch.nn.utils.clip_grad_norm_(model.parameters(), {norm:g})  # before optimizer.step"
    return Remedy("clip_norm", norm if norm % 1 else int(norm), why, code)


def _looser_clipping(usual: float) -> Remedy:
    return clipping("clip only unusually large gradients", float(f"{2 * usual:.1g}"))


def less_decay() -> Remedy:
    """Return the remedy of less weight decay."""
    code = 'for group in optimizer.param_groups: group["weight_decay"] = 0.0'
    return Remedy("weight_decay", 0.0, "weights that only the loss moves", code)


def against_overfitting(hidden_size: int = 32) -> list[Remedy]:
    """Return remedies for a network that is too large for its data."""
    return [
        Remedy("dropout", 0.5, "features that do not depend on each other",
               "self.dropout = nn.Dropout(0.5)  # before the output layer"),
        Remedy("weight_dropout", 0.3, "the same for recurrent weights"),
        Remedy("hidden_size", hidden_size, "fewer weights", f"hidden_size={hidden_size}"),
        Remedy("weight_decay", 0.1, "smaller weights",
               "optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.1)"),
    ]  # fmt: skip


def unless_learned(j: Judgement[Any], probability: float, *, proven: bool = False) -> float:
    """Return a probability, lower where the network has learned well all the same.

    What is proven stays an issue, unless there is hardly anything left to learn.
    """
    limits = j.thresholds
    if proven and not j.improvement > limits.high_improvement:
        return min(probability, 0.55) if j.improvement > limits.good_improvement else probability
    return 0.4 if j.improvement > limits.good_improvement else probability


def counted(names: Sequence[str], total: int) -> str:
    """Return how many of all parameters."""
    return f"{len(names)} of {max(total, len(names))} parameters"


def listed(names: Sequence[str], limit: int = 4) -> str:
    """Return some names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


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


FREE_CAUSES: tuple[Cause[Any], ...] = (
    Cause("not finite", "A loss or weight is NaN or infinite.", (), not_finite),
    Cause(
        "parameters not in the optimizer",
        "Parameters that the optimizer was not given never change.", (), not_in_optimizer,
    ),
    Cause("frozen parameters", "Parameters do not require a gradient.", (), frozen),
    Cause("no gradient", "The graph is cut between parameters and the loss.", (), no_gradient),
    Cause("unchanged weights", "The optimizer does not move the weights.", (), unchanged),
    Cause(
        "gradients never zeroed", "The gradients of all steps add up.",
        ("accumulated", "linear"), never_zeroed,
    ),
    Cause(
        "learning rate too high", "Steps are too long: the loss swings, rises or stays.",
        ("overshoot", "oscillation"), rate_too_high,
    ),
    Cause(
        "exploding", "Gradients grow on their way back through time.",
        ("spikes", "gradient_norm"), exploding_norms,
    ),
    Cause(
        "learning rate too low", "Steps are too short to get anywhere in the run.",
        ("movement",), rate_too_low,
    ),
    Cause(
        "clipping too strong", "Clipping shortens nearly every step.", ("clipped",),
        clipping_too_strong,
    ),
    Cause(
        "weight decay too strong", "Weight decay pulls the weights to zero.",
        ("shrinkage", "decay_share"), weight_decay_too_strong,
    ),
    Cause(
        "overfitting", "The network learns the training data by heart.",
        ("overfitting", "generalization_gap"), overfitting,
    ),
    Cause(
        "nothing learnt", "The loss is that of a constant prediction.", (), nothing_learnt,
    ),
)  # fmt: skip
"""Causes that can be told from `Observations` alone."""

FREE = {cause.name: cause for cause in FREE_CAUSES}
"""The same by name: those of `ostinato.insight` have further judges of them."""
