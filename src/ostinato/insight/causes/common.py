"""What the judges of causes share."""

from __future__ import annotations

import math
from typing import TypeAlias

from torch import nn

from ostinato.insight.evidence import Evidence
from ostinato.insight.trials import Change
from ostinato.recurrence.layers import Recurrent
from ostinato.training.findings import Judgement
from ostinato.training.findings import unless_learned as unless_learned

J: TypeAlias = Judgement[Evidence]


def not_learned_well(j: J) -> bool:
    """Return whether there is a reason to look for what holds the network up."""
    return not j.improvement > j.thresholds.good_improvement


def helped(
    j: J,
    change: Change,
    what: str,
    prior: float,
    without: Change | None = None,
    *,
    fits: bool = False,
) -> tuple[float, list[str]]:
    """Weigh a cause by a short run without it: the probability, and what was seen.

    With ``fits`` it counts as well, if less, how far the loss falls on the rows of the run itself:
    of what holds back the steps, not of what makes rows easier to learn by heart.
    """
    if not not_learned_well(j):
        return 0.4, ["- the network learned all the same"]
    base, better = j.evidence.trial(without), j.evidence.trial(change)
    if base is None or better is None or not math.isfinite(better.share):
        return prior, []
    seen = (
        f"in {better.steps} steps from a fresh start the loss falls {percent(better.share)} below "
        f"that of a constant prediction with {what}, and {percent(base.share)} as it is"
    )
    least = j.thresholds.helps
    if better.share > max(base.share, 0.0) + least:
        return max(prior, 0.93), [f"+ {seen}"]
    if fits and better.training > max(base.training, 0.0) + 2 * least:
        seen = (
            f"in {better.steps} steps from a fresh start the loss of training falls "
            f"{percent(better.training)} below that of a constant prediction with {what}, and "
            f"{percent(base.training)} as it is"
        )
        return max(prior, 0.88), [f"+ {seen}"]
    if base.share > least:
        return 0.45, [f"- {seen}"]
    return prior - 0.1, [f"- {seen}"]


def percent(share: float) -> str:
    """Return a share as a percentage, at least zero."""
    return f"{max(0.0, share):.0%}" if math.isfinite(share) else "nothing"


def units_of(e: Evidence) -> int:
    """Return the hidden units of the widest recurrent layer."""
    kinds = (nn.RNNBase, nn.RNNCellBase, Recurrent)
    return max((m.hidden_size for m in e.network.modules() if isinstance(m, kinds)), default=0)
