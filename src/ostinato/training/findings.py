"""Findings and remedies, and the form of a cause of trouble: what it is, and how it is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from textwrap import indent
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ostinato.training.observations import Observations
from ostinato.training.thresholds import Thresholds

Terms = Literal["torch", "estimator", "command"]
"""In what a remedy is told: lines of PyTorch, arguments of an estimator, flags of a command."""


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
    """A cause of trouble: its name, what it means in one sentence, and its judge.

    Attributes:
        name: as in `Finding.issue`.
        meaning: what it is, for the documentation.
        judge: yields what it finds, the most telling first.
    """

    name: str
    meaning: str
    judge: Callable[[Judgement[E]], Iterator[Finding]]

    def also(self, judge: Callable[[Judgement[Any]], Iterator[Finding]]) -> Cause[Any]:
        """Return the same cause with another judge."""
        return self._replace(judge=judge)


def judge(causes: Iterable[Cause[E]], judgement: Judgement[E]) -> list[Finding]:
    """Return the first finding of each cause, the most probable first."""
    found = [finding for cause in causes for finding in islice(cause.judge(judgement), 1)]
    return sorted(found, key=lambda finding: -finding.probability)


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
