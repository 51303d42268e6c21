"""Watch a training loop written in plain PyTorch: what its steps show for free, and warnings."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ostinato.errors import OstinatoError
from ostinato.training.findings import Finding, Remedy, listed
from ostinato.training.free_causes import clipping, free_checks
from ostinato.training.health import Monitor, first_nonfinite
from ostinato.training.observations import Observations
from ostinato.training.thresholds import Thresholds

Value = TypeVar("Value", Tensor, float)

CHECKS = {digit * 10**k for k in range(1, 9) for digit in (1, 3)} | {3}
"""Steps after which what was seen is judged, and at the end."""

LOOK = 50, 500
"""First and last records that are judged before the end."""

MEASURED_EVERY = 20
"""Every so many steps, and at the first three, gradients are measured whatever it costs."""

SAMPLED_EVERY = 100
"""Every so many steps the update of the weights is measured; and at some of the first ones."""

SAMPLE = 512
"""Elements of a parameter that are looked at."""

READ_EVERY = 20
"""Steps after which measurements are read, all together: a GPU is not waited for at each."""

CALLS = 8e-6
"""Seconds of a step that are spent outside of the hooks: to call them, and to take the loss."""

CLIP = "torch.nn.utils.clip_grad_norm_(model.parameters(), {})"


class WatchWarning(UserWarning):
    """A training loop does what is hardly meant; see `watch`."""


def watch(module: nn.Module, *optimizers: Optimizer, share: float = 0.02) -> Watch:
    """Watch a training loop written in plain PyTorch, and warn once of each problem it shows.

    Hooks of the optimizers observe gradients, learning rate and weights at each step; they change
    nothing, and are removed when the block ends. A problem is a `WatchWarning` that says what to
    do. What was seen is in ``history``, which `ostinato.diagnose` takes.

    Args:
        module: the network that is trained.
        optimizers: all optimizers that train it.
        share: share of the training time to spend; where it is not enough, the gradients of some
            steps are not measured.

    Raises:
        OstinatoError: if the arguments are not a module and optimizers.

    Example:
        >>> model = nn.GRU(3, 8, batch_first=True)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        >>> with watch(model, optimizer) as watched:
        ...     for _ in range(50):
        ...         loss = model(torch.randn(4, 10, 3))[0].square().mean()
        ...         optimizer.zero_grad()
        ...         watched.loss(loss).backward()
        ...         optimizer.step()
        >>> watched.step, watched.findings
        (50, [])
    """
    return Watch(module, *optimizers, share=share)


class Watch:
    """What `watch` returns: a context manager, and what was seen.

    Attributes:
        history: a record of each step as in ``metrics.jsonl``, ``step`` and ``learning_rate``, and
            as far as known ``loss`` and ``gradient_norm``; a record of each evaluation; and once
            the block has ended one of ``observed``, the further facts of `Observations`.
        findings: what was warned of.
        step: number of steps made; of several optimizers, by that which made the most.
    """

    def __init__(self, module: nn.Module, *optimizers: Optimizer, share: float = 0.02) -> None:
        given = [(module, nn.Module), *((o, Optimizer) for o in optimizers)]
        wrong = next((type(o).__name__ for o, kind in given if not isinstance(o, kind)), "")
        if wrong or not optimizers:
            raise OstinatoError(
                f"watch: got {wrong or 'no optimizer'}; expected watch(module, optimizer), with "
                "all optimizers if there are several."
            )
        self.module, self.optimizers, self.share = module, optimizers, share
        self._history: list[dict[str, Any]] = []
        self.findings: list[Finding] = []
        self.step = 0
        self._counts = Counter[Optimizer]()
        self._losses: list[Tensor | float] = []  # before the step they belong to
        self._late: bool | None = None  # whether losses are told after their step
        self._told: Tensor | float = math.nan
        self._steps: list[_Step] = []  # not read yet
        self._monitor = Monitor(clip=CLIP)
        self._evaluating = self._measured = self._without_any = 0
        self._clipped_norms: list[float] = []
        self._reached: set[str] = set()  # parameters that had a gradient once
        self._samples: list[_Sample] = []
        self._updates: list[float] = []
        self._moved: set[str] = set()
        self._still = Counter[str]()
        self._probes: dict[Optimizer, _Probe] = {}
        self._kept = 0  # steps that began with the gradients of the step before
        self._zeroed = False
        self._parameters: dict[Optimizer, dict[str, nn.Parameter]] = {}
        self._hooks = ExitStack()
        self._started = self._spent = 0.0
        self._due = self._measuring = False

    # The block

    def __enter__(self) -> Self:
        self._started, self._spent = time.perf_counter(), 0.0
        self._find_parameters()
        with ExitStack() as hooks:
            for optimizer in self.optimizers:
                hooks.callback(optimizer.register_step_pre_hook(self._before).remove)
                hooks.callback(optimizer.register_step_post_hook(self._after).remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.close()
        for probe in self._probes.values():
            probe.handle.remove()
        self._probes.clear()
        self._read()
        self.history.append({"step": self.step, "observed": self._facts()})
        if kind is None:
            self._check(at_end=True)

    # What the user tells

    def loss(self, value: Value) -> Value:
        """Record the loss of a step, either always before it or always after it; return it.

        Of several, such as those of the parts of a batch, the mean is recorded.
        """
        if self._late is None:
            self._late = self.step > 0
        target = self._steps[-1].losses if self._late and self._steps else self._losses
        target.append(_number(value))
        return value

    def gradient_norm(self, value: Value) -> Value:
        """Record the norm before clipping, as ``clip_grad_norm_`` returns it; return it."""
        self._told = _number(value)
        return value

    def validation(self, loss: Tensor | float, **metrics: float) -> None:
        """Record a validation loss, and further metrics by name."""
        value = float(_number(loss))
        self.history.append({"step": self.step, "validation_loss": value, **metrics})

    # What was seen

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records so far."""
        self._read(len(self._steps) - 1)  # the loss of the last may be told later
        return self._history

    def observed(self) -> Observations:
        """Return what was seen so far."""
        return self._observed(self.history)

    def _observed(self, records: Sequence[dict[str, Any]]) -> Observations:
        norms = [r["gradient_norm"] for r in records if "gradient_norm" in r]
        return replace(Observations.of(records, self.module), **self._facts(), norms=norms)

    def __str__(self) -> str:
        norms = [r["gradient_norm"] for r in self.history if "gradient_norm" in r]
        norms = [norm for norm in norms if math.isfinite(norm)]
        facts, (clip, clipped) = self._facts(), self._clipping()
        losses = [r["loss"] for r in self.history if r.get("loss") is not None]
        rates = [r["learning_rate"] for r in self.history if "learning_rate" in r]
        frozen = [name for name, p in self._named() if not p.requires_grad]
        names = dict.fromkeys(type(optimizer).__name__ for optimizer in self.optimizers)
        parts = [f"{self.step:,} steps of {' and '.join(names)}"]
        parts += [f"loss {losses[0]:.3g} to {losses[-1]:.3g}"] if losses else []
        parts += [f"gradient norm {median(norms):.2g}"] if norms else []
        parts += [f"clipped to {clip:.3g} in {clipped:.0%} of steps"] if clip else []
        parts += [f"learning rate {rates[-1]:.2g}"] if rates else []
        parts += [f"update {facts['update']:.2g} of the weights"] if self._updates else []
        lines = [", ".join(parts)]
        lines += [f"frozen: {listed(frozen)}"] if frozen else []
        lines += map(str, self.findings) if self.findings else ["no problem was seen"]
        return "\n".join(lines)

    def _facts(self) -> dict[str, Any]:
        """Return the facts of `Observations` that the records of steps do not have."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        held = {id(p) for group in groups for p in group["params"]}
        trained = {name: id(p) in held for name, p in self._named() if p.requires_grad}
        kept = 0.0 if self._zeroed else 1.0 if self._kept >= 10 else math.nan
        without = {
            name: p
            for name, p in self._named()
            if trained.get(name) and name not in self._reached and self._measured >= 3
        }
        if all(p.dim() < 2 for p in without.values()):
            without = {}  # the gradient of a bias may well be zero: in a difference it cancels out
        return {
            "total": self.step,
            "optimizer": "+".join(dict.fromkeys(type(o).__name__.lower() for o in self.optimizers)),
            "weight_decay": max(float(group.get("weight_decay") or 0.0) for group in groups),
            "clip_norm": self._clipping()[0],
            "missing": [name for name, is_held in trained.items() if not is_held],
            "without_gradient": [*without],
            "unchanged": [
                name for name, n in self._still.items() if n >= 2 and name not in self._moved
            ],
            "update": median(self._updates) if self._updates else math.nan,
            "kept": kept,
        }

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield parameters by name; that of a compiled module is the user's."""
        for name, p in self.module.named_parameters():
            yield name.removeprefix("_orig_mod."), p

    def _find_parameters(self) -> None:
        """Find the parameters of the network in each optimizer, by name."""
        names = {id(p): name for name, p in self._named()}
        self._parameters = {
            optimizer: {
                names[id(p)]: p
                for group in optimizer.param_groups
                for p in group["params"]
                if id(p) in names
            }
            for optimizer in self.optimizers
        }

    def _clipping(self) -> tuple[float, float]:
        """Return the norm to which gradients are clipped, 0 if not, and the share of such steps.

        Norms that are equal and the largest of all are those of clipped gradients.
        """
        norms = [norm for norm in self._clipped_norms if math.isfinite(norm)]
        largest = max(norms, default=0.0)
        share = sum(norm > 0.999 * largest for norm in norms) / max(1, len(norms))
        return (largest, share) if len(norms) >= 20 and share > 0.05 else (0.0, 0.0)

    # The hooks

    def _before(self, optimizer: Optimizer, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        start = time.perf_counter()
        self._counts[optimizer] += 1
        affordable = self._spent <= self.share * (time.perf_counter() - self._started)
        if self._counts[optimizer] > self.step:
            self._due |= self.step in CHECKS
            if self._due and affordable:
                self._due = False
                self._check()
            self._begin_step(optimizer.param_groups[0]["lr"])
        always = self.step <= 3 or self.step % MEASURED_EVERY == 0
        self._measuring = always or affordable
        if self._measuring:
            if self.step <= 3 or self.step in CHECKS or self.step % SAMPLED_EVERY == 0:
                self._samples += self._sampled(optimizer)
            if not _has_closure(args, kwargs):
                self._measure(optimizer)
        if probe := self._probes.pop(optimizer, None):
            self._kept += bool(probe.found) and all(probe.found)
            self._zeroed |= not all(probe.found)
            probe.handle.remove()
        self._spent += time.perf_counter() - start + CALLS

    def _after(self, optimizer: Optimizer, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if self._zeroed and not self._samples and not _has_closure(args, kwargs):
            return
        start = time.perf_counter()
        if not _has_closure(args, kwargs):
            self._look_for_kept(optimizer)
        elif self._measuring:  # the gradients are made during the step
            self._measure(optimizer)
        if self._samples:
            self._compare()
        self._spent += time.perf_counter() - start

    def _begin_step(self, rate: float | Tensor) -> None:
        if len(self._steps) >= READ_EVERY:
            self._read()
        self.step += 1
        step = _Step(self.step, rate, self._losses, self._told)
        self._steps.append(step)
        for loss in step.losses:
            if not isinstance(loss, Tensor) and not math.isfinite(loss):
                self._not_finite(step)  # before the weights are
        self._losses, self._told = [], math.nan
        self._evaluating += not self.module.training

    def _measure(self, optimizer: Optimizer) -> None:
        """Measure the gradients that an optimizer uses."""
        own = self._parameters[optimizer]
        gradients = {name: _values(p.grad) for name, p in own.items() if p.grad is not None}
        self._measured += 1
        self._without_any += not gradients
        if not gradients:
            return
        norms: Sequence[Tensor] = torch._foreach_norm([*gradients.values()])
        # A GradScaler gives these to a fused step, which is skipped if a gradient is not finite.
        scale, skips = (getattr(optimizer, name, None) for name in ("grad_scale", "found_inf"))
        if scale is not None:
            norms = [norm / scale.to(norm.device) for norm in norms]
        step = self._steps[-1]
        step.norms.append(_Norms([*gradients], norms, skips))
        if not step.on_gpu and not math.isfinite(sum(step.norms[-1].values())):
            self._not_finite(step)  # before the weights are

    def _read(self, count: int | None = None) -> None:
        """Write what was measured at the first steps that are not read yet to their records."""
        steps = self._steps[:count]
        del self._steps[:count]
        for step in steps:
            record: dict[str, Any] = {"step": step.number, "learning_rate": float(step.rate)}
            self._history.append(record)
            found, total, loss = list[float](), 0.0, 0.0
            for each in step.norms:
                norms = each.values()
                self._reached.update(n for n, norm in zip(each.names, norms, strict=False) if norm)
                found += norms
            if found:
                total = math.hypot(*found)
                self._clipped_norms.append(total)
                told = float(step.told)
                record["gradient_norm"] = total if math.isnan(told) else told
            if step.losses:
                loss = sum(map(float, step.losses)) / len(step.losses)
                record["loss"] = loss if math.isfinite(loss) else None
            if not math.isfinite(loss + total):
                self._not_finite(step)
            elif step.losses and found:
                for text in self._monitor.observe(step.number, loss, record["gradient_norm"]):
                    cause, _, rest = text.partition("exploding gradients: ")
                    self._report(Finding("exploding", rest) if rest else Finding(RATE, cause))

    def _look_for_kept(self, optimizer: Optimizer) -> None:
        """Look, until they once are, whether gradients are zero when `backward` adds to them."""
        if self._zeroed:
            return
        parameters = self._parameters[optimizer].values()
        used = [p for p in parameters if p.grad is not None and p.requires_grad]
        if used:
            parameter, found = min(used, key=torch.numel), list[bool]()

            def look(_: Tensor) -> None:
                before = parameter.grad
                found.append(before is not None and bool((_values(before) != 0).any()))

            self._probes[optimizer] = _Probe(parameter.register_hook(look), found)  # type: ignore[no-untyped-call]

    def _sampled(self, optimizer: Optimizer) -> Iterator[_Sample]:
        """Yield some elements of each parameter before a step."""
        for name, p in self._parameters[optimizer].items():
            if p.requires_grad and p.numel():
                every = max(1, p.numel() // SAMPLE)
                yield _Sample(name, p, every, _some(p, every).clone())

    def _compare(self) -> None:
        """Compare the samples with the same elements after the step."""
        ratios = []
        for name, p, every, before in self._samples:
            change = float((_some(p, every) - before).norm())
            if change:
                self._moved.add(name)
            elif p.grad is not None and not p.grad.is_sparse:
                self._still[name] += bool((_some(p.grad, every) != 0).any())
            if p.dim() > 1 and (size := float(before.norm())):
                ratios.append(change / size)
        self._updates += [median(ratios)] if ratios else []
        self._samples.clear()

    # Warnings

    def _check(self, at_end: bool = False) -> None:
        """Warn of what was seen so far."""
        self._find_parameters()  # layers may be unfrozen, groups added
        records = self.history
        if not at_end and len(records) > sum(LOOK):
            records = records[: LOOK[0]] + records[-LOOK[1] :]
        for finding in chain(self._own_checks(at_end), free_checks(self._observed(records))):
            late = finding.issue not in AT_END or (at_end and self.step >= 100)
            own = finding.issue != RATE or self._rises()
            if (
                finding.probability >= LIMITS.warned
                and finding.issue not in INTENDED
                and late
                and own
            ):
                self._report(finding)

    def _rises(self) -> bool:
        """Return whether the loss has not fallen by a tenth, with long steps and no other cause."""
        losses = [r["loss"] for r in self._history if r.get("loss") is not None]
        first, last = fmean(losses[:20]), fmean(losses[-20:])
        fell = last < first - 0.1 * abs(first)
        return not (self.findings or fell or self._facts()["update"] < 0.01)

    def _own_checks(self, at_end: bool) -> Iterator[Finding]:
        if at_end and not self.step and self._losses:
            yield Finding(
                "unchanged weights",
                "losses were computed, but none of the optimizers made a step.",
                remedies=[_fix("make a step", "loss.backward(); optimizer.step()")],
            )
        names = {name for name, p in self._named() if p.requires_grad}
        all_missing = len(self._facts()["missing"]) == len(names)
        if self._without_any >= self._measured >= 3 and not all_missing:
            yield Finding(
                "no gradient",
                f"no parameter had a gradient at any of {self._measured:,} steps looked at.",
                remedies=[
                    _fix("this order", "optimizer.zero_grad(); loss.backward(); optimizer.step()")
                ],
            )
        drops = [
            name or type(module).__name__
            for name, module in self.module.named_modules()
            if (isinstance(module, nn.Dropout) and module.p)
            or (isinstance(module, nn.RNNBase) and module.dropout)
        ]
        if drops and self._evaluating >= self.step >= 20:
            yield Finding(
                "evaluation mode",
                f"the network is in evaluation mode at every step: {listed(drops)} drops nothing.",
                remedies=[_fix("training mode, again after each evaluation", "model.train()")],
            )

    def _not_finite(self, step: _Step) -> None:
        """Warn of a number that is not finite, by the first tensor that has one."""
        name = first_nonfinite(self.module, lambda: None)
        if not name.startswith("weight") and not math.isfinite(sum(map(float, step.losses))):
            name = "the loss"
        self._report(
            Finding(
                "not finite",
                f"at step {step.number} {name} is not finite, the first tensor that is not.",
                {"step": float(step.number)},
                [
                    _fix("find the operation", "with torch.autograd.detect_anomaly(): ..."),
                    clipping("steps of a bounded length"),
                ],
            )
        )

    def _report(self, finding: Finding) -> None:
        """Warn of a finding, unless one of the same name was warned of."""
        if finding.issue in [each.issue for each in self.findings]:
            return
        finding = finding.in_terms("torch")
        self.findings.append(finding)
        self._history.append(
            {"step": self.step, "warning": finding.issue, "message": finding.message}
        )
        text = "; ".join([f"{finding.issue}: {finding.message}", *map(str, finding.remedies[:2])])
        warnings.warn(text, WatchWarning, stacklevel=_level_of_caller())


LIMITS = Thresholds()

RATE = "learning rate too high"

INTENDED = ("frozen parameters", "not finite")
"""Findings that are no warning: the first may be meant, of the other `Watch` says more."""

AT_END = ("learning rate too low", "nothing learnt", "overfitting")
"""Findings that a run at its beginning may have."""


@dataclass(slots=True)
class _Step:
    """What was measured at a step, until it is read.

    Attributes:
        number: the number of the step.
        rate: its learning rate.
        losses: its losses.
        told: norm of its gradients before clipping, if told.
        norms: norms of gradients, by optimizer.
    """

    number: int
    rate: float | Tensor
    losses: list[Tensor | float]
    told: Tensor | float
    norms: list[_Norms] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether reading waits for a GPU."""
        return any(norm.is_cuda for each in self.norms for norm in each.norms)


class _Norms(NamedTuple):
    """Norms of the gradients of parameters; if ``skips`` is above 0, the step is not made."""

    names: list[str]
    norms: Sequence[Tensor]
    skips: Tensor | None

    def values(self) -> list[float]:
        """Return the norms; none where the step is not made."""
        skipped = self.skips is not None and bool(self.skips)
        return [] if skipped else [float(norm) for norm in self.norms]


class _Sample(NamedTuple):
    """Elements of a parameter before a step."""

    name: str
    parameter: nn.Parameter
    every: int
    before: Tensor


class _Probe(NamedTuple):
    """A hook of a parameter, and whether at each `backward` it had a gradient already."""

    handle: RemovableHandle
    found: list[bool]


def _number(value: Tensor | float) -> Tensor | float:
    """Return a number, which is left on the GPU so that nothing waits for it."""
    if not isinstance(value, Tensor):
        return value
    return value.detach() if value.is_cuda else value.item()


def _fix(why: str, code: str) -> Remedy:
    return Remedy("", "", why, code)


def _has_closure(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Return whether `step` was given a closure; the first argument is the optimizer."""
    more = len(args) > 1 or bool(kwargs)
    return more and any(map(callable, (*args[1:], *kwargs.values())))


def _values(gradient: Tensor) -> Tensor:
    """Return the values of a gradient, which may be sparse."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient.detach()


def _some(tensor: Tensor, every: int) -> Tensor:
    """Return elements of a tensor."""
    return tensor.detach().reshape(-1)[::every]


def _level_of_caller() -> int:
    """Return the level of the first frame outside of this package and PyTorch, for a warning."""
    inside = tuple(str(Path(file).parent) for file in (__file__, torch.__file__))
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        level, frame = level + 1, frame.f_back
    return level
