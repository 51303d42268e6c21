"""Causes that lie in the optimizer and in regularisation, told apart by short training runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from statistics import fmean, median

import torch
from torch import Tensor, nn

from ostinato.insight.causes.common import J, helped, not_learned_well, percent, unless_learned
from ostinato.insight.evidence import Evidence
from ostinato.insight.trials import Change, Trial, best_rate
from ostinato.recurrence.cells import ZoneoutCell
from ostinato.recurrence.layers import Recurrent
from ostinato.training.findings import Cause, Finding, Remedy, listed
from ostinato.training.free_causes import (
    FREE,
    THAW,
    USUAL_UPDATE,
    ZERO,
    less_decay,
    looser_clipping,
)


def rates(j: J, factors: tuple[float, ...], **change: object) -> dict[float, Trial | None]:
    """Return short runs at multiples of the learning rate."""
    return {f: j.evidence.trial(Change(rate=f, **change)) for f in factors}  # type: ignore[arg-type]


def _little_learned(j: J) -> bool:
    return not j.improvement > j.thresholds.low_improvement


def rate_too_high(j: J) -> Iterator[Finding]:
    """A tenth or a hundredth of the rate learns from a fresh start, and it does not."""
    t, e = j.thresholds, j.evidence
    if not not_learned_well(j) or not e.was_trained:
        return
    own = e.trial()
    if own is None or own.share > t.low_improvement or own.training > t.good_improvement:
        return  # shorter steps learn rows less by heart, which is another matter
    found = rates(j, (1.0, 0.1, 0.01))
    factor = best_rate(found, t.helps)
    if factor is None:
        return
    best = found[factor]
    assert best is not None
    rate = e.start.rate
    fails = "diverges" if not math.isfinite(own.share) else f"falls {percent(own.share)}"
    yield Finding(
        "learning rate too high",
        f"from a fresh start the loss {fails} in {own.steps} steps at a learning rate of {rate:g} "
        f"(below that of a constant prediction), and {percent(best.share)} at {rate * factor:g}.",
        {"rate": rate, "share": best.share, "factor": factor},
        [j.lower_rate("shorter steps", factor)],
        0.94,
    )


def grown_weights(j: J) -> Iterator[Finding]:
    """Recurrent weights have grown to sizes that long steps bring about."""
    e, t = j.evidence, j.thresholds
    # The size of recurrent weights: root mean square times the root of their inputs.
    sizes = [
        (float(p.detach().double().square().mean().sqrt()) * p.shape[1] ** 0.5, name)
        for name, p in e.network.named_parameters()
        if "weight_hh" in name and p.dim() == 2
    ]
    gain, weight = max(sizes, default=(0.0, ""))
    if not gain > t.gain or not e.was_trained:
        return
    by_heart = e.improvement > t.good_improvement  # which makes weights grow, too
    if j.improvement < t.improvement and not by_heart:
        yield Finding(
            "learning rate too high",
            f"nothing was learned, and {weight} has grown to {gain:.1f} times the size that "
            "preserves norms: the steps are too long.",
            {"gain": gain},
            [j.lower_rate("shorter steps")],
            0.87,
        )
    elif not j.improvement > t.high_improvement:  # it learned all the same, and less than it could
        found = rates(j, (1.0, 0.1, 0.01))
        factor = best_rate(found, t.helps)
        best = None if factor is None else found[factor]
        if factor is None or best is None or not best.share > max(0.0, j.improvement) + t.helps:
            return
        rate = e.start.rate
        yield Finding(
            "learning rate too high",
            f"{weight} has grown to {gain:.1f} times the size that preserves norms, and in "
            f"{best.steps} steps from a fresh start at a learning rate of {rate * factor:g} the "
            f"loss falls {percent(best.share)} below that of a constant prediction; the whole "
            f"training at {rate:g} brought it {percent(j.improvement)} below.",
            {"gain": gain, "share": best.share, "factor": factor},
            [j.lower_rate("shorter steps", factor)],
            0.9,
        )


def rate_too_low(j: J) -> Iterator[Finding]:
    """Ten or a hundred times the rate learns more in a short run than all of training did."""
    t, e = j.thresholds, j.evidence
    moved = e.movement
    if e.was_trained and not j.improvement > t.high_improvement:
        yield from _decayed(j)
    if not not_learned_well(j) or not e.was_trained or moved > t.barely_moved:
        return
    if math.isnan(moved) and not _falls_slowly(e):
        return
    far = 10.0 ** round(math.log10(USUAL_UPDATE / e.update)) if e.update > 0 else 1.0
    found = rates(j, (1.0, 10.0, 100.0) if far <= 100 else (1.0, 100.0, far, 10 * far))
    factor = best_rate(found, t.helps)
    if factor is None:
        return
    best = found[factor]
    assert best is not None
    if not best.share > max(0.0, j.improvement) + t.helps:
        return
    rate = e.start.rate
    sum_of_all = f" The steps together can move the weights by {moved:.1%}."
    yield Finding(
        "learning rate too low",
        f"at {factor:g} times the learning rate of {rate:g} a run of {best.steps} steps brings the "
        f"loss {percent(best.share)} below that of a constant prediction; the whole training "
        f"brought it {percent(j.improvement)} below." + ("" if math.isnan(moved) else sum_of_all),
        {"rate": rate, "share": best.share, "factor": factor},
        [j.lower_rate("longer steps", factor)],
        0.95 if moved < t.movement or math.isnan(moved) else 0.9,
    )


def _decayed(j: J) -> Iterator[Finding]:
    """Yield a finding where a schedule lowered the rate before anything was learned."""
    e = j.evidence
    used = [rate for rate in e.observed.rates if rate > 0]
    peak, last = (max(used), used[-1]) if used else (0.0, 0.0)
    until = sum(rate > 0.1 * peak for rate in used)
    if not last < 0.1 * peak or until > len(used) / 4:
        return
    own = e.trial(Change(rate=peak / e.start.rate))
    if own is None or not own.share > max(0.0, j.improvement) + j.thresholds.helps:
        return
    yield Finding(
        "learning rate too low",
        f"the learning rate fell from {peak:.3g} to a tenth of it within {until} of {len(used)} "
        f"steps: a run of {own.steps} steps at {peak:.3g} brings the loss {percent(own.share)} "
        f"below that of a constant prediction, the whole training brought it "
        f"{percent(j.improvement)} below.",
        {"peak": peak, "last": last, "share": own.share},
        [
            Remedy("schedule", "constant", "a rate that stays",
                   "# no scheduler; or scheduler.step() once an epoch rather than once a batch")
        ],
        0.94,
    )  # fmt: skip


def _falls_slowly(e: Evidence) -> bool:
    """Return whether the loss falls evenly and hardly, as it does with tiny steps."""
    losses = e.observed.finite
    if len(losses) < 20:
        return False
    third = len(losses) // 3
    first, middle, last = (fmean(losses[k * third : (k + 1) * third]) for k in range(3))
    return first > middle > last and first - last < 0.1 * abs(first)


def weight_decay_too_strong(j: J) -> Iterator[Finding]:
    """Without weight decay a short run learns, and with it does not."""
    e = j.evidence
    decay = max(e.observed.weight_decay, float(e.settings.get("weight_decay") or 0.0))
    if decay < 1e-3 or not not_learned_well(j):
        return
    p, weighed = helped(j, Change(decay=False), "no weight decay", 0.4, fits=True)
    sizes = [
        float(p.detach().abs().mean()) for n, p in e.network.named_parameters() if "weight" in n
    ]
    if sizes and max(sizes) < 1e-3:
        p, weighed = max(p, 0.9), [*weighed, f"+ weights are {max(sizes):.1g} on average at most"]
    if p < 0.5:
        return
    yield Finding(
        "weight decay too strong",
        f"weight decay of {decay:g} pulls weights to zero rather than to where the loss is low.",
        {"weight_decay": decay},
        [less_decay()],
        p,
        weighed,
    )


def _dropouts(network: nn.Module) -> Iterator[tuple[float, str]]:
    for name, module in network.named_modules():
        for key in ("p", "dropout", "variational_dropout", "weight_dropout"):
            rate = vars(module).get(key)
            if isinstance(rate, float) and rate > 0:
                layers = getattr(module, "num_layers", 2)
                if key in ("dropout", "variational_dropout") and layers == 1:
                    continue  # between layers
                yield rate, f"{name}.{key}" if name else key


def dropout_too_strong(j: J) -> Iterator[Finding]:
    """Without dropout a short run learns, and with it does not."""
    e, t = j.evidence, j.thresholds
    found = sorted(_dropouts(e.network), reverse=True)
    if not found or found[0][0] <= t.dropout or not not_learned_well(j):
        return
    rate, name = found[0]
    p, weighed = helped(j, Change(dropout=False), "no dropout", 0.55 + (rate >= 0.8) * 0.2)
    yield Finding(
        "dropout too strong",
        f"{name} is {rate:g}: of what the layers pass on {1 - rate:.0%} are left.",
        {"dropout": rate},
        [
            Remedy("dropout", 0.2, "more of what the layers pass on",
                   "for m in model.modules():\n"
                   "    if isinstance(m, nn.Dropout): m.p = 0.2")
        ],
        p,
        weighed,
    )  # fmt: skip


def zoneout_too_strong(j: J) -> Iterator[Finding]:
    """Without zoneout a short run learns, and with it does not."""
    e, t = j.evidence, j.thresholds
    rates_found = [
        max(cell._rates())
        for module in e.network.modules()
        if isinstance(module, Recurrent)
        for cell in module.cells
        if isinstance(cell, ZoneoutCell)
    ]
    rate = max(rates_found, default=0.0)
    if rate <= t.dropout or not not_learned_well(j):
        return
    p, weighed = helped(j, Change(dropout=False), "no zoneout", 0.55 + (rate >= 0.8) * 0.2)
    yield Finding(
        "zoneout too strong",
        f"zoneout is {rate:g}: of the units {1 - rate:.0%} change in a step.",
        {"zoneout": rate},
        [Remedy("zoneout", 0.1, "units that react", "ZoneoutCell(cell, 0.1)")],
        p,
        weighed,
    )


def clipping_too_strong(j: J) -> Iterator[Finding]:
    """Without clipping a short run learns, and with it does not."""
    yield from _elements_clipped(j)
    e = j.evidence
    clip = float(e.settings.get("clip_norm") or e.observed.clip_norm)
    if not _little_learned(j) or not e.was_trained:
        return
    norm = _norm(e.gradients.values())
    held = _norm(p.grad for p in e.network.parameters())
    clip = clip or held  # which clipping leaves as short as it made it
    if not clip:
        return
    norms = [n for n in e.observed.norms if math.isfinite(n)]
    usual = median(norms) if norms and not _at_bound(e.network) else norm
    if not usual > j.thresholds.clipped / 2 * clip:
        return
    without = Change(clip=clip)
    p, weighed = helped(j, Change(clip=0.0), "no clipping", 0.55, without, fits=True)
    yield Finding(
        "clipping too strong",
        f"the usual gradient norm is {usual:.2g}, and clipping cuts it to {clip:g}: steps are "
        f"{usual / clip:.0f} times shorter than the learning rate says.",
        {"factor": usual / clip, "clip": clip},
        [looser_clipping(usual)],
        p,
        weighed,
    )


def _elements_clipped(j: J) -> Iterator[Finding]:
    """Yield a finding where ``clip_value`` leaves next to nothing of the gradient."""
    e = j.evidence
    limit = float(e.settings.get("clip_value") or 0.0)
    if not limit or not _little_learned(j):
        return
    usual = _norm(e.gradients.values())
    left = _norm(None if g is None else g.clamp(-limit, limit) for g in e.gradients.values())
    if not left > 0 or not usual > j.thresholds.clipped / 2 * left:
        return
    p, weighed = helped(j, Change(clip=0.0), "no clipping", 0.55, fits=True)
    yield Finding(
        "clipping too strong",
        f"the gradient norm is {usual:.2g}, and {left:.2g} once each element is cut to {limit:g}: "
        f"steps are {usual / left:.0f} times shorter than the learning rate says.",
        {"factor": usual / left, "limit": limit},
        [Remedy("clip_value", 0, "elements as large as they are")],
        p,
        weighed,
    )


def _at_bound(network: nn.Module) -> bool:
    """Return whether many elements of the gradients held have the same size, the largest of all.

    So it is after `torch.nn.utils.clip_grad_value_`.
    """
    held = [p.grad.detach().abs().flatten() for p in network.parameters() if p.grad is not None]
    every = torch.cat(held) if held else torch.zeros(1)
    return bool(every.max() > 0) and float((every >= 0.999 * every.max()).double().mean()) > 0.1


def never_zeroed(j: J) -> Iterator[Finding]:
    """Gradients of the last steps are far larger than those of any batch, and change little."""
    e, t = j.evidence, j.thresholds
    if not not_learned_well(j) or not e.was_trained or e.settings:
        return  # estimators begin each step from zeros
    one = max([*e.batch_norms, _norm(e.gradients.values())])
    norms = [n for n in e.observed.norms if math.isfinite(n)][-LAST:]
    if len(norms) == LAST:
        # A sum of gradients differs from that of the step before by one gradient.
        changes = [abs(after - before) for before, after in pairwise(norms)]
        last, least = median(norms), t.accumulated / 2
        if not 0.01 * one < median(changes) < min(2 * one, 0.25 * last):
            return
        seen = f"in the last {LAST} steps the gradient norm is about {last:.3g}"
    else:
        last, least = _norm(p.grad for p in e.network.parameters()), t.accumulated
        seen = f"the gradients that the network holds have a norm of {last:.3g}"
    if one > 0 and math.isfinite(last) and last > least * one:
        yield Finding(
            "gradients never zeroed",
            f"{seen}, {last / one:.0f} times that of the data given ({one:.3g}), whichever the "
            "batch: backward() adds to the gradients of earlier steps.",
            {"held": last, "batch": one},
            [ZERO],
            0.9,
        )


LAST = 20
"""Last steps whose gradient norms are looked at."""


def _norm(gradients: Iterable[Tensor | None]) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None))


def frozen_parameters(j: J) -> Iterator[Finding]:
    """Frozen parameters that a short run needs, or an embedding in which all words are the same."""
    e = j.evidence
    names = list(e.observed.frozen)
    if not names:
        return
    for name, module in e.network.named_modules():
        if not isinstance(module, nn.Embedding) or module.weight.requires_grad:
            continue
        weight = module.weight
        rows = weight.detach().double()
        if module.padding_idx is not None:
            rows = rows[torch.arange(len(rows)) != module.padding_idx]
        spread = float(rows.std(0).max())
        if len(rows) > 1 and spread <= 1e-6 * float(rows.abs().max()):
            yield Finding(
                "frozen parameters",
                f"{name}.weight is frozen, and its {len(weight):,} rows are equal: every token is "
                "the same to the layers behind it.",
                {"parameters": float(len(names)), "spread": spread},
                [
                    THAW,
                    Remedy("", "", "see why the vectors were not found where they are read",
                           f"print(model.{name}.weight.std(0))  # 0: all rows are equal"),
                ],
                unless_learned(j, 0.96, proven=True),
            )  # fmt: skip
            return
    p, weighed = helped(j, Change(thawed=True), "all parameters learning", 0.55)
    yield Finding(
        "frozen parameters",
        f"{len(names)} of {e.observed.parameters} parameters are frozen (requires_grad is False) "
        f"and do not learn: {listed(names)}.",
        {"parameters": float(len(names))},
        [THAW],
        p,
        weighed,
    )


CAUSES: tuple[Cause[Evidence], ...] = (
    FREE["gradients never zeroed"].also(never_zeroed),
    FREE["frozen parameters"].also(frozen_parameters),
    FREE["learning rate too high"].also(rate_too_high),
    FREE["learning rate too high"].also(grown_weights),
    FREE["learning rate too low"].also(rate_too_low),
    FREE["weight decay too strong"].also(weight_decay_too_strong),
    Cause("dropout too strong", "Too little is passed on in training.", dropout_too_strong),
    Cause("zoneout too strong", "Units hardly change in training.", zoneout_too_strong),
    FREE["clipping too strong"].also(clipping_too_strong),
)
