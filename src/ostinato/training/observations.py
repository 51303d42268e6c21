"""What a training loop shows for free: losses, gradient norms, rates, and its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self, TypeAlias

from torch import nn
from torch.optim import Optimizer

Record: TypeAlias = Mapping[str, Any]
"""A line of ``metrics.jsonl``: a training step or an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What a training loop shows for free. Whatever is not known is empty, or NaN.

    Attributes:
        steps: number of each step observed.
        losses: training loss of each; NaN where it was not finite.
        norms: gradient norm of each before clipping.
        rates: learning rate of each.
        evaluations: (step, validation loss).
        clip_norm: largest gradient norm; 0 for no clipping.
        optimizer: name of the optimizer's class in lower case, such as adamw.
        weight_decay: largest weight decay of its groups.
        total: steps made, if more than observed.
        frozen: parameters that require no gradient.
        missing: parameters that require one, and are not in the optimizer.
        without_gradient: parameters in the optimizer whose gradient is None or zero at every step.
        unchanged: parameters in the optimizer that are equal before and after.
        recurrent: those of all parameters that belong to recurrent layers.
        parameters: number of parameters, all together, of those named above and others.
        update: size of an update of the weights in the size of the weights, the median over steps.
        decay: gradient of weight decay in the size of the loss's gradient; NaN if not known.
        kept: share of steps that began with gradients of the step before.
        constant: loss of the best constant prediction.
    """

    steps: Sequence[int] = ()
    losses: Sequence[float] = ()
    norms: Sequence[float] = ()
    rates: Sequence[float] = ()
    evaluations: Sequence[tuple[int, float]] = ()
    clip_norm: float = 0.0
    optimizer: str = ""
    weight_decay: float = 0.0
    total: int = 0
    frozen: Sequence[str] = ()
    missing: Sequence[str] = ()
    without_gradient: Sequence[str] = ()
    unchanged: Sequence[str] = ()
    recurrent: Sequence[str] = ()
    parameters: int = 0
    update: float = math.nan
    decay: float = math.nan
    kept: float = math.nan
    constant: float = math.nan

    @classmethod
    def of(
        cls,
        history: Iterable[Record | float] = (),
        network: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **known: Any,
    ) -> Self:
        """Read a history, a network's parameters and an optimizer.

        Args:
            history: losses, or records with ``loss`` (or ``training_loss``, ``train_loss``),
                ``gradient_norm`` (``grad_norm``), ``learning_rate`` (``lr``) and
                ``validation_loss`` (``val_loss``); or that of a `watch`.
            network: for the parameters that are frozen or missing from the optimizer.
            optimizer: the user's.
            known: further attributes.
        """
        records = list(records_of(history))
        steps = [r for r in records if "loss" in r]
        numbers = {
            name: [math.nan if r[key] is None else float(r[key]) for r in steps if key in r]
            for name, key in (
                ("losses", "loss"),
                ("norms", "gradient_norm"),
                ("rates", "learning_rate"),
            )
        }
        facts: dict[str, Any] = {"steps": [r["step"] for r in steps], **numbers}
        facts["evaluations"] = [
            (r["step"], float(r["validation_loss"]))
            for r in records
            if r.get("validation_loss") is not None
        ]
        facts["total"] = max((r["step"] for r in records), default=0)
        facts["clip_norm"] = max((float(r.get("clip_norm") or 0.0) for r in records), default=0.0)
        if network is not None:
            facts |= _parameters(network, optimizer)
        if optimizer is not None:
            groups, states = optimizer.param_groups, list(optimizer.state.values())
            facts["optimizer"] = type(optimizer).__name__.lower()
            facts["weight_decay"] = max(float(g.get("weight_decay") or 0.0) for g in groups)
            facts["rates"] = facts["rates"] or [max(float(g["lr"]) for g in groups)]
            made = (int(s["step"]) for s in states if "step" in s)
            facts["total"] = max([facts["total"], *made])
        for record in records:  # of a watch
            facts |= record.get("observed", {})
        return cls(**facts | known)

    @property
    def finite(self) -> list[float]:
        """Losses that are finite."""
        return [loss for loss in self.losses if math.isfinite(loss)]

    @property
    def rate(self) -> float:
        """The usual of the learning rates; NaN if not known."""
        return median(self.rates) if self.rates else math.nan


_ALIASES = {
    "training_loss": "loss",
    "train_loss": "loss",
    "grad_norm": "gradient_norm",
    "lr": "learning_rate",
    "val_loss": "validation_loss",
}


def records_of(history: Iterable[Record | float]) -> Iterator[Record]:
    """Yield a history as records as in ``metrics.jsonl``: losses are numbered from step 1."""
    for number, entry in enumerate(history, start=1):
        if not isinstance(entry, Mapping):
            loss = float(entry)
            yield {"step": number, "loss": loss if math.isfinite(loss) else None}
            continue
        evaluated = "best" in entry  # a record of `fit` with the last training loss, not a step
        named = {
            k if evaluated or _ALIASES.get(k, k) in entry else _ALIASES.get(k, k): v
            for k, v in entry.items()
        }
        yield named if "step" in named else {"step": number, **named}


def _parameters(network: nn.Module, optimizer: Optimizer | None) -> dict[str, Any]:
    named = dict(network.named_parameters())
    facts: dict[str, Any] = {"parameters": len(named)}
    facts["frozen"] = [name for name, p in named.items() if not p.requires_grad]
    facts["recurrent"] = [name for name in named if "weight_hh" in name or "weight_ih" in name]
    if optimizer is not None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [n for n, p in named.items() if p.requires_grad and id(p) not in held]
        facts["missing"] = missing
    return facts
