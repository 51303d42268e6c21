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

LONGER = 4
"""Times as long as others are runs of a remedy where those learn hardly anything."""

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
    if name == "clip_value":
        return Change(clip=0.0)
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
    least, e.spent = e.thresholds.tried, 0.0
    results: list[tuple[float, Remedy]] = []
    for number, remedy in enumerate(finding.remedies):
        can_be = number == 0 or (remedy.setting and number < TRIED)
        change = change_of(remedy, finding.issue, e) if can_be else None
        runs = None if change is None else _runs(change, as_it_is(remedy, finding), e)
        order = 1.0
        if runs is not None:
            trial, base = runs
            gain = trial.share - max(base.share, -1.0)
            how, order = ("helped", -gain) if gain > least else ("did not help", 2.0)
            if not _learns(runs, e) and -math.inf < gain <= least:
                how, order = "too short to tell", 1.0
            told = (
                f"tried for {trial.steps} steps, {how}: the loss falls {percent(trial.share)} "
                f"below a constant prediction's, {percent(base.share)} without"
            )
            remedy = remedy._replace(gain=told)
        results.append((order, remedy))
    return replace(finding, remedies=[r for _, r in sorted(results, key=lambda each: each[0])])


def _runs(change: Change, beside: Change, e: Evidence) -> tuple[Trial, Trial] | None:
    """Return runs with a remedy and without, longer ones where short ones learn hardly anything."""
    found = None
    for times in (1, LONGER):
        pair = [e.trial(replace(each, times=times)) for each in (change, beside)]
        if pair[0] is None or pair[1] is None:
            break
        found = pair[0], pair[1]
        if _learns(found, e):
            break
    return found


def _learns(runs: tuple[Trial, Trial], e: Evidence) -> bool:
    """Return whether anything is learned, with a remedy or without it."""
    return any(run.share > e.thresholds.helps for run in runs)
