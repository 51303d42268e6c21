"""Causes of trouble, each in one place: what it is, its limits, its judge and its remedies.

Those that can be told from what training shows for free stand in `ostinato.training.findings`.
"""

from __future__ import annotations

from ostinato.insight.causes import data, generalization, optimization, recurrence, wiring
from ostinato.insight.causes.common import J as J
from ostinato.insight.evidence import Evidence
from ostinato.training.findings import FREE_CAUSES, Cause

CAUSES: tuple[Cause[Evidence], ...] = (
    *data.CAUSES[:1],
    *wiring.CAUSES,
    *FREE_CAUSES[:-1],  # "nothing learnt" is measured here
    *optimization.CAUSES,
    *data.CAUSES[1:],
    *recurrence.CAUSES,
    *generalization.CAUSES,
)
"""All causes. Of equal probability, an earlier one is reported first."""


def by_name() -> dict[str, list[Cause[Evidence]]]:
    """Return the causes by name; some have several judges, of which the most certain counts."""
    named: dict[str, list[Cause[Evidence]]] = {}
    for cause in CAUSES:
        named.setdefault(cause.name, []).append(cause)
    return named
