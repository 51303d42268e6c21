"""Health of a run: non-finite numbers, exploding or vanishing gradients, oscillating loss."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToOne
from ostinato.networks.inputs import Words
from ostinato.networks.tracing import recording
from ostinato.training.callbacks import Callback, Run


class NonFiniteError(OstinatoError):
    """A loss or gradient is not finite, and training stops.

    Attributes:
        step: the step at which it happened.
        tensor: name of the first non-finite tensor.
    """

    def __init__(self, message: str, step: int, tensor: str) -> None:
        super().__init__(message)
        self.step = step
        self.tensor = tensor


class Monitor:
    """Warns of exploding gradients and an oscillating loss during a run.

    - Spike: a gradient norm above ``spike`` times the usual, which is the median of the last 50, or
      of the first 20 if that is larger: late in training, rare examples have relatively large
      gradients without exploding.
    - Oscillation: over 40 steps the loss swings from step to step by more than a fifth of its
      level, and its mean is a tenth above the best such mean before; and both by more than twice
      the swing of those best steps, so that noise of small batches does not count. Ignored once the
      loss is below a twentieth of the first such mean.

    Neither is repeated within 100 steps.

    Example:
        >>> monitor = Monitor()
        >>> messages = [monitor.observe(step, loss=1.0, norm=1.0) for step in range(1, 60)]
        >>> monitor.observe(60, loss=1.0, norm=50.0)
        ['gradient norm 50, 50 times its usual 1: exploding gradients; clip_norm=1.5 bounds them']
    """

    def __init__(self, spike: float = 10.0, clip_norm: float = 0.0) -> None:
        self.spike = spike
        self.clip_norm = clip_norm
        self._norms: deque[float] = deque(maxlen=50)
        self._losses: deque[float] = deque(maxlen=40)
        self._first_mean: float | None = None
        self._first_norm: float | None = None
        self._best_mean = math.inf
        self._best_swing = 0.0
        self._warned: dict[str, int] = {}

    def observe(self, step: int, loss: float, norm: float) -> list[str]:
        """Return warnings after a step."""
        messages = []
        if self._first_norm is None and len(self._norms) == 20:
            self._first_norm = median(self._norms)
        usual = max(median(self._norms), self._first_norm) if self._first_norm is not None else 0.0
        if norm > self.spike * usual > 0:
            bound = (
                f"clipped to {self.clip_norm:g}"
                if self.clip_norm
                else f"clip_norm={1.5 * usual:.2g} bounds them"
            )
            messages += self._once(
                step,
                "spike",
                f"gradient norm {norm:.3g}, {norm / usual:.0f} times its usual {usual:.2g}: "
                f"exploding gradients; {bound}",
            )
        self._norms.append(norm)
        self._losses.append(loss)
        if len(self._losses) == self._losses.maxlen:
            losses = list(self._losses)
            mean = fmean(losses)
            swing = fmean(abs(b - a) for a, b in pairwise(losses))
            level, noise = self._best_mean, 2 * self._best_swing
            if self._first_mean is None:
                self._first_mean = mean
            matters = abs(mean) > 0.05 * abs(self._first_mean)
            if (
                matters
                and swing > max(0.2 * abs(mean), noise)
                and mean > level + max(0.1 * abs(level), noise)
            ):
                messages += self._once(
                    step,
                    "oscillation",
                    f"the loss oscillates: it swings by {swing:.2g} a step around {mean:.3g} "
                    f"and was at {self._best_mean:.3g}; try a lower learning rate or clip_norm",
                )
            if mean < self._best_mean:
                self._best_mean, self._best_swing = mean, swing
        return messages

    def _once(self, step: int, kind: str, message: str) -> list[str]:
        if step - self._warned.get(kind, -100) < 100:
            return []
        self._warned[kind] = step
        return [message]


class GradientHealth(Callback):
    """Measures at intervals how much gradient flows back through time, and reports it.

    Each recurrent layer runs one step at a time over a few rows of the latest batch. This does not
    influence training: without it the weights are the same.

    Args:
        network: the network in training.
        clip_norm: the norm to which gradients are clipped; 0 for no clipping.
        others: callbacks to report to.
        share: maximum share of the training time.
        every: minimum number of steps between two measurements.

    The training loop must call the result of `observed` in place of its objective.
    """

    ROWS = 4
    MAX_STEPS = 1000

    def __init__(
        self,
        network: nn.Module,
        clip_norm: float = 0.0,
        others: Sequence[Callback] = (),
        *,
        share: float = 0.02,
        every: int = 50,
    ) -> None:
        self.network = network
        self.clip_norm = clip_norm
        self.others = others
        self.share = share
        self.every = every
        self._objective: Callable[[Any, Any], tuple[Tensor, Any]] | None = None
        self._batch: Any = None
        self._norms: deque[float] = deque(maxlen=every)
        self._spent = self._start = self._cost = 0.0
        self._warned = False

    def observed(
        self, objective: Callable[[Any, Any], tuple[Tensor, Any]]
    ) -> Callable[[Any, Any], tuple[Tensor, Any]]:
        """Return the objective, wrapped to remember the latest batch."""
        self._objective = objective

        def observing(batch: Any, state: Any) -> tuple[Tensor, Any]:
            self._batch = batch
            return objective(batch, state)

        return observing

    def on_begin(self, run: Run) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step(self, record: dict[str, Any]) -> None:
        """Measure, if it is due and within the time budget."""
        self._norms.append(record["gradient_norm"])
        if record["step"] % self.every or self._batch is None:
            return
        now = time.perf_counter()
        if self._spent + self._cost > self.share * (now - self._start):
            return
        health = self.measure()
        self._cost = time.perf_counter() - now
        self._spent += self._cost
        if not health:
            return
        clipped = sum(norm > self.clip_norm for norm in self._norms) / len(self._norms)
        if self.clip_norm:
            health["clipped"] = round(clipped, 3)
        for callback in self.others:
            callback.on_health({"step": record["step"], "health": health})
        if health["growth"] > EXPLODING_GROWTH and not self._warned:
            self._warned = True
            for callback in self.others:
                callback.log(
                    f"step {record['step']}: gradients explode: over {health['steps']} steps back "
                    f"they grow {health['growth']:.2g} times; try a lower learning_rate, "
                    "cell='gru', or a shorter window"
                )

    def measure(self) -> dict[str, Any]:
        """Measure the gradient by lag, as shares of that at the last step; empty if none flows.

        Only the part of the loss's gradient that enters at the last step is followed.
        """
        assert self._objective is not None
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            with recording(self.network) as tracks:
                loss, _ = self._objective(_few(self._batch, self.ROWS), None)
            tracks = [t for t in tracks if 1 < len(t.states) <= self.MAX_STEPS]
            if not tracks or not loss.requires_grad:
                return {}
            top, states = tracks[-1], [s.h for t in tracks for s in t.states]
            last = top.states[-1].h
            (g,) = torch.autograd.grad(loss, last, retain_graph=True, allow_unused=True)
            if g is None:
                return {}
            gradients = torch.autograd.grad(last, states, g, allow_unused=True)
        T = len(top.states)
        norms = [0.0] * T  # by lag; of the layer with the largest
        rest = iter(gradients)
        for track in tracks:
            by_step = [next(rest) for _ in track.states]
            for lag, g in enumerate(reversed(by_step)):
                if g is not None and lag < T:
                    norms[lag] = max(norms[lag], float(g.double().norm()))
        if not (norms[0] > 0 and math.isfinite(sum(norms))):
            return {}
        shares = [norm / norms[0] for norm in norms]
        lags = sorted({*(2**k for k in range(T.bit_length()) if 2**k < T), T - 1})
        reach = max(lag for lag in range(T) if shares[lag] >= NEGLIGIBLE)
        if isinstance(self.network, ManyToOne) and self.network.pooling != "last":
            reach = T - 1  # pooling has a short path to every step
        return {
            "steps": T - 1,
            "reach": reach,
            "growth": float(f"{max(shares[T // 2 :]):.3g}"),
            "gradient_by_lag": {str(lag): float(f"{shares[lag]:.3g}") for lag in lags},
        }


NEGLIGIBLE = 1e-3
"""Share of the gradient at the last step below which a lag counts as out of reach."""

EXPLODING_GROWTH = 1e3
"""Growth over half a sequence above which gradients are reported as exploding."""


def _few(batch: Any, rows: int) -> Any:
    """Return the first rows of a batch."""
    parts = {name: _first(getattr(batch, name), rows) for name in batch._fields
             if isinstance(getattr(batch, name), Tensor | tuple)}  # fmt: skip
    if "lengths" in parts and len(parts["lengths"]):
        longest = int(parts["lengths"].max())
        if isinstance(batch.inputs, Words):
            parts["inputs"] = batch.inputs.first(rows, longest)
        else:
            parts["inputs"] = parts["inputs"][:, :longest]
        own_steps = "target_lengths" in parts
        by_step = batch.targets.dim() > 1 and batch.targets.shape[1] == batch.inputs.shape[1]
        if by_step and not own_steps:
            parts["targets"] = parts["targets"][:, :longest]
    return batch._replace(**parts)


def _first(part: Any, rows: int) -> Any:
    """Return the first rows of a tensor, or of each tensor of a named tuple."""
    return part[:rows] if isinstance(part, Tensor) else type(part)(*(p[:rows] for p in part))


def first_nonfinite(network: nn.Module, forward: Callable[[], Any]) -> str:
    """Return the name of the first non-finite tensor, in the order in which a step computes them.

    Weights come first, then the outputs of modules in ``forward``, then the gradients that the
    network holds, from the output back. The random state is unchanged.
    """
    for name, parameter in network.named_parameters():
        if not _is_finite(parameter):
            return f"weight {name}"
    found: list[str] = []

    def check(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not _is_finite(inputs):
                found.append(f"input of {name or 'the network'}")
            if not found and not _is_finite(output):
                found.append(f"output of {name or 'the network'}")

        return hook

    hooks = [
        module.register_forward_hook(check(name))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.random.fork_rng(), torch.no_grad():
            loss = forward()
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    if not _is_finite(loss):
        return "the loss"
    for name, parameter in reversed(list(network.named_parameters())):
        if not _is_finite(parameter.grad):
            return f"gradient of {name}"
    return "the norm of the gradients"


def _is_finite(value: Any) -> bool:
    """Return whether all numbers in a tensor, or in nested tuples of tensors, are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, tuple | list):
        return all(_is_finite(part) for part in value)
    return True
