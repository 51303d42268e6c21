"""Causes that lie in the size of the network beside that of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

from ostinato.insight.causes.common import J, percent, units_of
from ostinato.insight.evidence import Evidence
from ostinato.insight.trials import Change
from ostinato.training.findings import Cause, Finding, Remedy
from ostinato.training.free_causes import FREE, against_overfitting


def overfitting(j: J) -> Iterator[Finding]:
    """The improvement on the data is not that on held-out data."""
    e, t = j.evidence, j.thresholds
    if e.held_out is None:
        return
    own, other = e.improvement, e.held_out_improvement
    if own - other > t.generalization_gap and own > t.generalization_gap:
        weights = sum(p.numel() for p in e.network.parameters())
        losses = [loss for _, loss in e.observed.evaluations]
        p, weighed = 0.45 if other > t.good_improvement else 0.8, list[str]()
        if len(losses) >= 3 and losses[-1] < (1 + t.overfitting) * min(losses):
            weighed = ["- the validation loss did not rise while it did so"]
            p = 0.45 if other > t.low_improvement else p
        if e.classes is not None and e.held_out_classes is not None:
            right, apart = (
                (true == found).mean() for true, found in (e.classes, e.held_out_classes)
            )
            if right - apart < t.helps:
                p = 0.45
                weighed.append(
                    f"- of held-out data {apart:.0%} are right, of the others {right:.0%}"
                )
        yield Finding(
            "overfitting",
            f"the loss is {own:.0%} below that of a constant prediction on the data, and on "
            f"held-out data {other:.0%}: a network of {weights:,} weights has learned "
            f"{e.count:,} rows by heart.",
            {"improvement": own, "held_out_improvement": other, "weights": float(weights)},
            against_overfitting(max(16, units_of(e) // 2)),
            p,
            weighed,
        )


def too_small(j: J) -> Iterator[Finding]:
    """Few units, and a loss that stays where it is, the same on held-out data."""
    e, t = j.evidence, j.thresholds
    H = units_of(e)
    if not H or not e.was_trained or not j.improvement < t.small_improvement:
        return
    if e.improvement - e.learned > t.generalization_gap / 2:
        return
    weighed: list[str] = []
    p = 0.0
    if H < t.small:  # noqa: SIM300
        p = 0.62 if not e.has_learned or _stalled(e, t.plateau) else 0.54
        weighed.append(f"+ there are only {H} units")
    if H < 4 * t.small:  # noqa: SIM300
        change, times = Change(settings=(("hidden_size", 8 * H),)), 8
        if e.rebuild is None:
            times = max(2, min(8, round(16 / H)))
            change = Change(copies=times)
        wide, base = e.trial(change), e.trial()
        if wide is not None and base is not None:
            told = (
                f"with {times * H} units a short run learns {percent(wide.share)}, with {H} "
                f"{percent(base.share)}"
            )
            # What is learned faster by many may be learned by few; not so what is never learned.
            if wide.share > max(base.share, j.improvement, 0.0) + t.helps:
                p = min(0.9, max(p + 0.3, 0.45))
                weighed.append(f"+ {told}")
                faster = e.trial(Change(rate=10.0))
                if p > t.probable and faster and wide.share > faster.share + t.helps:
                    p = 0.96
                    weighed.append(f"+ at ten times the rate {H} learn {percent(faster.share)}")
            elif base.share > t.helps:
                p -= 0.1
                weighed.append(f"- {told}")
    if p > 0:
        yield Finding(
            "network too small",
            f"the loss stays {j.improvement:.0%} below that of a constant prediction, on what was "
            f"trained on as well; the recurrent layers have {H} units.",
            {"hidden_size": float(H), "improvement": j.improvement},
            [
                Remedy("hidden_size", 8 * H, "more to remember and to tell apart with",
                       f"hidden_size={8 * H}")
            ],
            p,
            weighed,
        )  # fmt: skip


def _stalled(e: Evidence, plateau: float) -> bool:
    losses = e.observed.finite
    if len(losses) < 30:
        return False
    third = len(losses) // 3
    before, last = fmean(losses[third : 2 * third]), fmean(losses[-third:])
    return before - last < plateau * abs(before)


def nothing_learnt(j: J) -> Iterator[Finding]:
    """The loss is that of a constant prediction, after training."""
    e, t = j.evidence, j.thresholds
    if not e.was_trained or e.has_learned or not e.learned <= t.low_improvement:
        return
    if e.clearness > t.clear and e.learned > t.learned:
        return
    where = "the data" if e.held_out is None else "held-out data"
    constant = e.constant if e.held_out is None else e.held_out_constant
    loss = e.loss_now if e.held_out is None else e.held_out_loss
    against = f"the best constant prediction has {constant:.4g}"
    if not math.isfinite(constant):
        against = f"with the inputs of other rows it is {fmean(e.shuffled):.4g}"
    steps = f" after {e.observed.total:,} steps" if e.observed.total else ""
    yield Finding(
        "nothing learnt",
        f"the loss on {where} is {loss:.4g}{steps}; {against}.",
        {"loss": loss, "constant": constant},
        [
            Remedy("", "", "see whether it can learn 8 rows by heart; if not, the module or the "
                   "loss is wrong; if so, the rate, the scale of the data, or the labels",
                   "x, y = x[:8], y[:8]  # train on these alone: the loss should come near zero"),
        ],
        0.52,
    )  # fmt: skip


CAUSES: tuple[Cause[Evidence], ...] = (
    Cause("network too small", "Too few units for what there is to learn.", too_small),
    FREE["overfitting"].also(overfitting),
    FREE["nothing learnt"].also(nothing_learnt),
)
