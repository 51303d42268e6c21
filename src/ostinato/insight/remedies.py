"""Remedies, tried by short training runs from the same start."""

from __future__ import annotations

import math
from dataclasses import replace

from ostinato.insight.causes.common import percent
from ostinato.insight.evidence import Evidence
from ostinato.insight.trials import Change, Trial
from ostinato.training.findings import Finding, Remedy

TRIED = 4
"""Remedies that are tried at most."""

_BY_ISSUE = {
    "inputs not scaled": Change(standardized="inputs"),
    "targets not scaled": Change(standardized="targets"),
    "frozen parameters": Change(thawed=True),
    "parameters not in the optimizer": Change(thawed=True),
}


def change_of(remedy: Remedy, issue: str, e: Evidence) -> Change | None:
    """Return the change of a short run that is a remedy; None if it cannot be applied by itself."""
    name, value = remedy.setting, remedy.value
    if not name:
        return _BY_ISSUE.get(issue)
    if name == "learning_rate" and isinstance(value, float):
        return Change(rate=value / e.start.rate)
    if name == "clip_norm":
        return Change(clip=float(value))
    if e.rebuild is not None and name in e.settings:
        return Change(settings=((name, value),))
    if name == "weight_decay" and value == 0:
        return Change(decay=False)
    if name == "dropout" and issue == "dropout too strong":
        return Change(dropout=False)
    if name == "init" and value in ("orthogonal", "chrono"):
        return Change(init="chrono" if value == "chrono" else "orthogonal")
    return None


def tried(finding: Finding, e: Evidence) -> Finding:
    """Return a finding whose first remedies were tried: those that helped first, by how much."""
    base = e.trial()
    if base is None:
        return finding
    results: list[tuple[float, Remedy]] = []
    for number, remedy in enumerate(finding.remedies):
        change = change_of(remedy, finding.issue, e) if number < TRIED else None
        trial = None if change is None else e.trial(change)
        gain = 0.0 if trial is None else _gain(trial, base)
        if trial is not None:
            how = "helped" if gain > e.thresholds.tried else "did not help"
            told = (
                f"tried for {trial.steps} steps, {how}: the loss falls {percent(trial.share)} "
                f"below a constant prediction's, {percent(base.share)} without"
            )
            remedy = remedy._replace(gain=told)
        order = 0.0 if gain > e.thresholds.tried else 1.0 if trial is None else 2.0
        results.append((order - min(0.99, max(0.0, gain)) * (order == 0.0), remedy))
    ranked = sorted(range(len(results)), key=lambda k: results[k][0])
    return replace(finding, remedies=[results[k][1] for k in ranked])


def _gain(trial: Trial, base: Trial) -> float:
    if not math.isfinite(trial.share):
        return -math.inf
    return trial.share - max(base.share, -1.0)
