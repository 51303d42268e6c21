"""Causes of trouble that can be told from what a training loop shows for free.

Measuring a network on data is left to `ostinato.insight`, which has further judges of some of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from ostinato.training.findings import (
    Cause,
    Finding,
    Judgement,
    Remedy,
    Terms,
    counted,
    judge,
    listed,
    unless_learned,
)
from ostinato.training.health import STEPS, Level, oscillates
from ostinato.training.observations import Observations
from ostinato.training.thresholds import Thresholds

USUAL_UPDATE = 0.01
"""An update of the weights, in their size, with which networks learn in some hundred steps."""


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
        [THAW],
        unless_learned(j, p, proven=p > 0.9),
    )


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
    if o.kept > t.kept:
        yield Finding(
            "gradients never zeroed",
            f"{o.kept:.0%} of the steps began with the gradients of the steps before, which "
            "backward() adds to: the sum over the run is followed, not the gradient.",
            {"kept": o.kept},
            [ZERO],
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
            [ZERO],
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
    constant = j.observed.constant  # of all data: the first batches may be easy ones
    usual = max(first, constant) if math.isfinite(constant) else first
    if highest > t.overshoot * usual > 0 and not improvement > t.good_improvement:
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
            {"factor": factor, "clip": o.clip_norm},
            [looser_clipping(median(norms))],
            0.85,
        )


def weight_decay_too_strong(j: Judgement[Any]) -> Iterator[Finding]:
    """Weight decay that outweighs the loss."""
    o, t = j.observed, j.thresholds
    if j.improvement > t.good_improvement or o.weight_decay < t.weight_decay:
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
            unless_learned(j, 0.8),
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


THAW = Remedy(
    "", "", "let them learn", "model.requires_grad_(True)  # before the optimizer is made"
)
ZERO = Remedy(
    "", "", "begin each step from zero gradients", "optimizer.zero_grad()  # before loss.backward()"
)


def clipping(why: str, norm: float = 1.0) -> Remedy:
    """Return the remedy of clipping gradients."""
    code = f"torch.nn.utils.clip_grad_norm_(model.parameters(), {norm:g})  # before optimizer.step"
    return Remedy("clip_norm", norm if norm % 1 else int(norm), why, code)


def looser_clipping(usual: float) -> Remedy:
    """Return the remedy of clipping to twice the usual norm."""
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
    Cause("not finite", "A loss or weight is NaN or infinite.", not_finite),
    Cause(
        "parameters not in the optimizer",
        "Parameters that the optimizer was not given never change.",
        not_in_optimizer,
    ),
    Cause("frozen parameters", "Parameters do not require a gradient.", frozen),
    Cause("no gradient", "The graph is cut between parameters and the loss.", no_gradient),
    Cause("unchanged weights", "The optimizer does not move the weights.", unchanged),
    Cause("gradients never zeroed", "The gradients of all steps add up.", never_zeroed),
    Cause(
        "learning rate too high",
        "Steps are too long: the loss swings, rises or stays.",
        rate_too_high,
    ),
    Cause("exploding", "Gradients grow on their way back through time.", exploding_norms),
    Cause("learning rate too low", "Steps are too short to get anywhere in the run.", rate_too_low),
    Cause("clipping too strong", "Clipping shortens nearly every step.", clipping_too_strong),
    Cause(
        "weight decay too strong",
        "Weight decay pulls the weights to zero.",
        weight_decay_too_strong,
    ),
    Cause("overfitting", "The network learns the training data by heart.", overfitting),
    Cause("nothing learnt", "The loss is that of a constant prediction.", nothing_learnt),
)
"""Causes that can be told from `Observations` alone."""

FREE = {cause.name: cause for cause in FREE_CAUSES}
"""The same by name: those of `ostinato.insight` have further judges of them."""
