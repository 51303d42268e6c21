"""Causes of trouble, each in one place: what it is, its limits, its judge and its remedies.

Those that can be told from what training shows for free stand in `ostinato.training.free_causes`.
"""

from __future__ import annotations

from ostinato.insight.causes import (
    data,
    generalization,
    optimization,
    recurrence,
    steps,
    wiring,
)
from ostinato.insight.causes.common import J as J
from ostinato.insight.evidence import Evidence
from ostinato.training.findings import Cause
from ostinato.training.free_causes import FREE_CAUSES

CAUSES: tuple[tuple[Cause[Evidence], ...], ...] = (
    data.CAUSES[:1],  # data that are not finite
    (
        *wiring.CAUSES[:-1],
        *steps.CAUSES,
        wiring.CAUSES[-1],
        *FREE_CAUSES[:-1],
    ),  # "nothing learnt" is measured below
    (*optimization.CAUSES, *data.CAUSES[1:], *recurrence.CAUSES, *generalization.CAUSES),
)
"""All causes, in parts that are judged one after the other; of equal probability an earlier one is
reported first."""


def by_name() -> dict[str, list[Cause[Evidence]]]:
    """Return the causes by name; some have several judges, of which the most certain counts."""
    named: dict[str, list[Cause[Evidence]]] = {}
    for cause in (cause for part in CAUSES for cause in part):
        named.setdefault(cause.name, []).append(cause)
    return named
