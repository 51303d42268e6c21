"""Remedies, tried by short training runs from the same start."""

from __future__ import annotations

import math
from dataclasses import replace

from ostinato.insight.causes.common import percent, units_of
from ostinato.insight.evidence import Evidence
from ostinato.insight.trials import Change, Init, Trial
from ostinato.training.findings import Finding, Remedy

TRIED = 4
"""Remedies that are tried at most."""

MOST_COPIES = 8
"""Copies of a network at most that stand for a wider one."""

NOT_SHOWN = ("schedule", "seed", "window", "sampled")
"""Settings of estimators on which a short run does not depend."""

INITS: tuple[Init, ...] = ("orthogonal", "chrono", "identity")

_OF_FIRST = {
    "inputs not scaled": Change(standardized="inputs"),
    "targets not scaled": Change(standardized="targets"),
    "frozen parameters": Change(thawed=True),
    "parameters not in the optimizer": Change(thawed=True),
    "state detached": Change(detach=False),
}
"""What the first remedy of a finding does, where it is no setting."""


def change_of(remedy: Remedy, issue: str, e: Evidence) -> Change | None:
    """Return the change of a short run that is a remedy; None if it cannot be applied by itself."""
    name, value = remedy.setting, remedy.value
    if not name:
        return _OF_FIRST.get(issue)
    if name == "learning_rate" and isinstance(value, float):
        return Change(rate=value / e.start.rate)
    if name == "clip_norm":
        return Change(clip=float(value))
    if e.rebuild is not None and name in e.settings:
        return None if name in NOT_SHOWN else Change(settings=((name, value),))
    if name == "schedule" and e.optimizer is not None and e.observed.rates:
        return Change(rate=max(e.observed.rates) / e.start.rate)
    if name == "hidden_size" and (H := units_of(e)) and int(value) >= 2 * H:
        return Change(copies=min(MOST_COPIES, int(value) // H))
    if name == "num_layers":
        return Change(layers=int(value))
    if name == "cell" and value in ("lstm", "gru"):
        return Change(cell="lstm" if value == "lstm" else "gru")
    if name == "weight_decay" and value == 0:
        return Change(decay=False)
    if name == "dropout" and issue == "dropout too strong":
        return Change(dropout=False)
    if name == "init":
        return next((Change(init=each) for each in INITS if each == value), None)
    return None


def as_it_is(remedy: Remedy, finding: Finding) -> Change:
    """Return the short run beside which a remedy is judged: one that has the fault.

    Weights that are at fault are gone in a fresh start.
    """
    if remedy.setting == "init":
        return Change(kept=True)
    return Change(clip=finding.values.get("clip", -1.0))


def tried(finding: Finding, e: Evidence) -> Finding:
    """Return a finding whose first remedies were tried: those that helped first, by how much."""
    results: list[tuple[float, Remedy]] = []
    for number, remedy in enumerate(finding.remedies):
        can_be = number == 0 or (remedy.setting and number < TRIED)
        change = change_of(remedy, finding.issue, e) if can_be else None
        trial = None if change is None else e.trial(change)
        base = None if trial is None else e.trial(as_it_is(remedy, finding))
        gain = 0.0
        if trial is not None and base is not None:
            gain = _gain(trial, base)
            how = "helped" if gain > e.thresholds.tried else "did not help"
            told = (
                f"tried for {trial.steps} steps, {how}: the loss falls {percent(trial.share)} "
                f"below a constant prediction's, {percent(base.share)} without"
            )
            remedy = remedy._replace(gain=told)
        order = 0.0 if gain > e.thresholds.tried else 1.0 if not remedy.gain else 2.0
        results.append((order - min(0.99, max(0.0, gain)) * (order == 0.0), remedy))
    ranked = sorted(range(len(results)), key=lambda k: results[k][0])
    return replace(finding, remedies=[results[k][1] for k in ranked])


def _gain(trial: Trial, base: Trial) -> float:
    if not math.isfinite(trial.share):
        return -math.inf
    return trial.share - max(base.share, -1.0)
