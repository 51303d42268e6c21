"""What ails a run: numbers that are not finite, gradients that explode, a loss that oscillates."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError


class NonFiniteError(OstinatoError):
    """Training met a loss or a gradient that is not finite, and was told to stop at it.

    Attributes:
        step: the step at which it happened.
        tensor: the first tensor concerned, by name.
    """

    def __init__(self, message: str, step: int, tensor: str) -> None:
        super().__init__(message)
        self.step = step
        self.tensor = tensor


class Monitor:
    """Watches loss and gradient norm, and says so when a run goes wrong while it still runs.

    - A spike: a gradient norm above ``spike`` times its usual, which is the median of the last 50,
      or of the first 20 where that is more: what a network is learnt from ever less often has
      large gradients when it comes, which is no explosion.
    - Oscillation: over 40 steps the loss swings from step to step by more than a fifth of its
      level, and its mean lies a tenth above the best such mean before; and both by more than twice
      the swing of those best steps, so that the noise of small batches is not taken for it. Once
      the loss is below a twentieth of the first such mean, it has little left to swing by.

    Neither is said again within 100 steps.

    Example:
        >>> monitor = Monitor()
        >>> said = [monitor.observe(step, loss=1.0, norm=1.0) for step in range(1, 60)]
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
        self._said: dict[str, int] = {}

    def observe(self, step: int, loss: float, norm: float) -> list[str]:
        """What there is to say after a step."""
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
        if step - self._said.get(kind, -100) < 100:
            return []
        self._said[kind] = step
        return [message]


def first_nonfinite(network: nn.Module, forward: Callable[[], Any]) -> str:
    """Name of the first tensor that is not finite, in the order in which a step makes them.

    Weights come first, then what each module gives in ``forward``, then the gradients that the
    network holds, from the output back. The random state is left as it was.
    """
    for name, parameter in network.named_parameters():
        if not _is_finite(parameter):
            return f"weight {name}"
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not _is_finite(inputs):
                found.append(f"input of {name or 'the network'}")
            if not found and not _is_finite(output):
                found.append(f"output of {name or 'the network'}")

        return hook

    hooks = [
        module.register_forward_hook(look(name))
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
    """Whether all numbers in a tensor, or in tensors nested in tuples and lists, are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, tuple | list):
        return all(_is_finite(part) for part in value)
    return True
