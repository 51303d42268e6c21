"""Diagnosis: what keeps a network from learning, how that is seen, and remedies."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ostinato.errors import OstinatoError
from ostinato.insight.causes import CAUSES
from ostinato.insight.evidence import Evidence
from ostinato.insight.flow import GradientFlow, rounded
from ostinato.insight.influence import InputInfluence
from ostinato.insight.losses import as_loss
from ostinato.insight.remedies import tried
from ostinato.insight.samples import Data, Loss, Model, estimator_of, network_and_sample
from ostinato.tasks.base import MANY, Inspectable, RunSamples
from ostinato.training.callbacks import read_metrics
from ostinato.training.evaluation import Sample
from ostinato.training.findings import Finding as Finding
from ostinato.training.findings import Judgement, Terms, judge
from ostinato.training.findings import Remedy as Remedy
from ostinato.training.observations import Observations, Record, records_of
from ostinato.training.thresholds import Thresholds as Thresholds


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Result of `diagnose`.

    Attributes:
        findings: the causes found, the most probable first; empty if there are none.
        improvement: 1 - loss / loss of the best constant prediction; NaN if unknown. For a custom
            module the constant is found by optimising one, or by shuffling inputs against targets.
        flow: gradients by step and layer.
        influence: how far back the output depends on the input; None if it cannot be measured.
        history: records of training, if any.
        candidates: causes that are possible, and less probable than not.
        verdict: ``healthy`` if learning is shown and no cause was found; ``cannot tell`` if
            neither; else the name of the first finding.
        held_out_improvement: the improvement on held-out data; NaN if there are none.
        loss: the loss on the data.
        constant: the loss of the best constant prediction.
        needs: what would tell more.
    """

    findings: list[Finding]
    improvement: float
    flow: GradientFlow
    influence: InputInfluence | None = None
    history: Sequence[Record] = ()
    candidates: Sequence[Finding] = ()
    verdict: str = "cannot tell"
    held_out_improvement: float = math.nan
    loss: float = math.nan
    constant: float = math.nan
    needs: Sequence[str] = ()

    @property
    def healthy(self) -> bool:
        """Whether learning is shown, and nothing found that holds it up."""
        return self.verdict == "healthy"

    @property
    def first(self) -> str | None:
        """The issue to treat first; None if none was found."""
        return self.findings[0].issue if self.findings else None

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or [self.summary]
        if self.candidates:
            lines += ["", "less probable"]
            lines += [f"  {c.issue} ({c.probability:.0%}): {c.message}" for c in self.candidates]
        return "\n".join([*lines, "", *self.measurements()])

    def wrapped(self, width: int) -> str:
        """Return the text in lines of a width, continued at their indentation."""
        lines = []
        for line in str(self).splitlines():
            indent = " " * (len(line) - len(line.lstrip()) + 2)
            broken = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False)
            lines += [line] if len(line) <= width else broken
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """The verdict as a sentence, where no issue was found."""
        if self.healthy:
            return "healthy: no issue was found, and the network has learned."
        more = "; ".join(self.needs)
        return (
            "cannot tell: no issue was found, and that the network learns is not shown. "
            f"To tell more: {more}."
        )

    def measurements(self) -> Iterator[str]:
        """Yield the measurements as lines of text."""
        yield "measurements"
        if math.isfinite(self.loss):
            against = ""
            if math.isfinite(self.constant):
                against = f", {self.constant:.4g} with the best constant prediction"
            yield f"  {'loss':<18}{self.loss:.4g}{against}"
        for name, share in (
            ("improvement", self.improvement),
            ("on held-out data", self.held_out_improvement),
        ):
            if math.isfinite(share):
                side = f"{share:.0%} below" if share > 0 else f"{-share:.0%} above"
                yield f"  {name:<18}loss {side} that of a constant prediction"
        for layer in self.flow.layers:
            growth = layer.growth()
            half = growth.half_life
            life = f", half in {half:.1f} steps" if math.isfinite(half) else ""
            told = f", {growth}{life}" if math.isfinite(growth.factor) else ""
            yield f"  {layer.name:<17} gradient {layer.size:.2g}{told}"
        if self.influence is not None:
            yield f"  {'input influence':<18}{self.influence}"

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as a JSON document."""

        def told(finding: Finding) -> dict[str, Any]:
            remedies = [
                {"change": r.change, "flag": r.flag, "why": r.why, "gain": r.gain}
                for r in finding.remedies
            ]
            return vars(finding) | {"remedies": remedies, "evidence": list(finding.evidence)}

        measured = {
            "healthy": self.healthy,
            "verdict": self.verdict,
            "findings": [told(finding) for finding in self.findings],
            "candidates": [told(finding) for finding in self.candidates],
            "needs": list(self.needs),
            "loss": self.loss,
            "constant": self.constant,
            "improvement": self.improvement,
            "held_out_improvement": self.held_out_improvement,
        }
        influence = None if self.influence is None else self.influence.to_json()
        return rounded(measured) | {"flow": self.flow.to_json(), "influence": influence}


def diagnose(
    model: Model,
    data: Data = None,
    *,
    loss: Any = None,
    optimizer: Optimizer | None = None,
    held_out: Data = None,
    history: str | os.PathLike[str] | Sequence[Record | float] | None = None,
    distance: int | None = None,
    clip_norm: float = 0.0,
    initial: Mapping[str, Any] | None = None,
    free_running: Loss | None = None,
    try_remedies: bool = False,
    thresholds: Thresholds | None = None,
    terms: Terms | None = None,
) -> Diagnosis:
    """Diagnose a network: find what keeps it from learning, how that is seen, and what helps.

    Causes are ranked by their probability. Where measurements leave it open, short training runs of
    a copy tell causes apart. Network, optimizer and random state are left as they are.

    Args:
        model: a network, any module with recurrent layers, or an estimator.
        data: ``(x, y)`` or ``(x, y, lengths)`` that were trained on; for an estimator what its
            ``fit`` takes. By default, for an estimator, rows that it was trained on, of its run's
            folder or as `fit` kept them, with those that it held out as ``held_out``.
        loss: loss function of a custom module: one of `torch.nn` or its functional form, of
            ``(output, target)``; or ``(model, x, y, lengths) -> loss``, or ``(model, batch) ->
            loss``.
        optimizer: the one that trained it: its rate, its decay, and which parameters it has.
        held_out: data that were not trained on, like ``data``.
        history: records of training: a ``metrics.jsonl``; losses by step; or mappings with ``loss``
            and, if known, ``step``, ``gradient_norm``, ``learning_rate``, ``validation_loss``. By
            default those of the run, likewise.
        distance: steps from input to output over which the task depends, if known.
        clip_norm: largest gradient norm in training, of a custom module; 0 for no clipping.
        initial: the weights at the start of training, a ``state_dict``.
        free_running: loss of a custom module fed with its own predictions, ``(model, x, y,
            lengths) -> loss``.
        try_remedies: try the first remedies that can be applied by short runs from the same start,
            and say which helped, by how much.
        thresholds: limits, if other than the defaults.
        terms: in what remedies are told: ``torch``, ``estimator`` or ``command``; by default by the
            kind of the model.

    Raises:
        OstinatoError: if there are no data, or no recurrent layers.

    Example:
        >>> import torch
        >>> from ostinato.recurrence.dropin import RNN
        >>> from ostinato.networks.arrangements import ManyToOne
        >>> from ostinato.networks.outputs import Output
        >>> network = ManyToOne(nn.Identity(), RNN(1, 16, batch_first=True), Output(16, 2))
        >>> x, y = torch.randn(16, 100, 1), torch.arange(16) % 2
        >>> diagnose(network, (x, y)).first
        'vanishing over time'
    """
    estimator, settings, more = estimator_of(model), dict[str, Any](), None
    if estimator is not None:
        settings = {name: estimator.resolved(name) for name in estimator.get_params()}
        history = _history(estimator) if history is None else history
        if data is None and (own := _samples(estimator)) is not None:
            data, more = own.few, own.many
            held_out = own.held_out if held_out is None else held_out
        elif data is not None and not isinstance(data, Sample):
            _, more = network_and_sample(model, data, MANY)
    if data is None:
        raise OstinatoError("diagnose: there are no data; pass data=(x, y).")
    network, sample = network_and_sample(model, data)
    apart = None if held_out is None else network_and_sample(model, held_out, MANY)[1]
    if isinstance(history, str | os.PathLike):
        history = read_metrics(history)
    records = list(records_of(history or []))
    known: dict[str, Any] = {}
    if clip := clip_norm or float(settings.get("clip_norm") or 0.0):
        known["clip_norm"] = clip
    if initial is not None:
        known["unchanged"] = _unchanged(network, initial)
    observed = Observations.of(records, network, optimizer, **known)
    if settings:
        decay = float(settings.get("weight_decay") or 0.0)
        name = settings.get("optimizer") or ""
        observed = replace(observed, optimizer=name, weight_decay=decay)
    limits = thresholds or Thresholds()
    evidence = Evidence(
        network,
        sample,
        observed,
        limits,
        as_loss(loss),
        apart,
        optimizer,
        settings,
        distance,
        None if estimator is None else estimator.untrained,
    )
    evidence.more = more
    if free_running is not None:
        evidence.free_running = evidence.loss_of(sample, loss=as_loss(free_running))
    return _judged(evidence, records, terms or ("torch" if estimator is None else "estimator"),
                   try_remedies)  # fmt: skip


def _judged(e: Evidence, records: Sequence[Record], terms: Terms, try_remedies: bool) -> Diagnosis:
    t = e.thresholds
    flow, observed = e.flow, replace(e.observed, constant=e.constant, update=e.update)
    judgement = Judgement(e, observed, t, e.learned, e.start.rate)
    found: dict[str, Finding] = {}
    for part in CAUSES:  # what is proven by one needs no short training runs in the next
        every = sorted([*found.values(), *judge(part, judgement)], key=lambda f: -f.probability)
        found = {}
        for finding in every:
            found.setdefault(finding.issue, finding)  # the most probable of each name
        if every and every[0].issue.startswith("not finite"):
            found = {every[0].issue: every[0]}  # no other measurement has a meaning
            break
        e.may_train = not (every and every[0].probability >= t.proven)
    top = max((finding.probability for finding in found.values()), default=0.0)
    if top >= t.proven:  # a cause that is proven explains what is only typical
        for name in ("vanishing over time", "saturated gates", "nothing learnt"):
            if name in found and found[name].probability < t.proven:
                found[name] = replace(found[name], probability=0.45)
    told = [_usable(finding.in_terms(terms), e) for finding in found.values()]
    findings = [f for f in told if f.probability >= t.probable]
    candidates = [f for f in told if f.probability < t.probable]
    if len(findings) > 1:  # which only says that there must be a cause
        findings.sort(key=lambda f: f.issue == "nothing learnt")
    e.may_train = True
    if try_remedies and findings:
        findings[0] = tried(findings[0], e)
    shown = e.has_learned and e.holds
    verdict = findings[0].issue if findings else "healthy" if shown else "cannot tell"
    return Diagnosis(
        findings,
        e.improvement,
        flow,
        e.influence,
        records,
        candidates,
        verdict,
        e.held_out_improvement,
        e.loss_now,
        e.constant,
        [] if verdict == "healthy" else list(_needs(e)),
    )


def _usable(finding: Finding, e: Evidence) -> Finding:
    """Return a finding without remedies that are in use already."""
    remedies = [
        r for r in finding.remedies
        if not r.setting or r.setting not in e.settings or e.settings[r.setting] != r.value
    ]  # fmt: skip
    known = [r for r in remedies if not e.settings or not r.setting or r.setting in e.settings]
    return replace(finding, remedies=known)


def _needs(e: Evidence) -> Iterator[str]:
    if not math.isfinite(e.improvement):
        yield "pass a loss of (output, target), so that it can be compared with a constant's"
    if not e.observed.losses:
        yield "pass history=, the losses of training"
    if e.optimizer is None and not e.settings:
        yield "pass optimizer=, for its rate and its parameters"
    if e.held_out is None:
        yield "pass held_out=, data that were not trained on"
    elif not e.holds:
        count = len(e.held_out.inputs)
        yield f"pass more held-out data: {count} rows do not show that predictions hold for others"
    if not e.was_trained:
        yield "train the network first, if it is untrained"


def _samples(estimator: Inspectable) -> RunSamples | None:
    """Return rows of what an estimator was trained on, kept by it or in its folder."""
    folder = estimator.folder_
    if folder is not None and (folder / "data").exists():
        return estimator.samples_of_run(folder / "data")
    return estimator.samples_


def _history(estimator: Inspectable) -> Sequence[Record]:
    """Return the records of an estimator's training, of its folder if that has any."""
    file = estimator.folder_ and estimator.folder_ / "metrics.jsonl"
    return read_metrics(file) if file and file.exists() else estimator.history_


def _unchanged(network: nn.Module, initial: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, p in network.named_parameters()
        if name in initial and p.shape == initial[name].shape and bool((p == initial[name]).all())
    ]
