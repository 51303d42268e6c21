"""Optimizers, learning rate schedules and gradient clipping."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ostinato.training.settings import TrainingSettings


def make_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimizer of the settings; weight decay applies to matrices, not to biases."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    matrices, others = ([p for p in parameters if (p.dim() >= 2) == k] for k in (True, False))
    groups = [
        {"params": chosen, "weight_decay": decay}
        for chosen, decay in ((matrices, settings.weight_decay), (others, 0.0))
        if chosen
    ]
    rate = settings.learning_rate
    if settings.optimizer in ("sgd", "rmsprop"):
        plain = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.RMSprop
        return plain(groups, lr=rate, momentum=settings.momentum)
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    adam = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return adam(groups, lr=rate, fused=fused)


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_locks.clear)  # whoever held one is not there


def updates_of(network: nn.Module) -> threading.RLock:
    """Return the lock that each step of training holds, from the forward pass to the update.

    Who copies the network's state meanwhile holds it, too, and gets that after a whole step.
    """
    return _locks.setdefault(network, threading.RLock())


class Schedule:
    """The learning rate at every step of a run.

    It depends only on the step and the length of the run, except for ``plateau``, which depends on
    the validation losses, ``scale``, which a rollback lowers, and `anneal`.

    Example:
        >>> settings = TrainingSettings(learning_rate=0.1, warmup_steps=10)
        >>> schedule = Schedule(settings)
        >>> [round(schedule.rate(step, 1000), 4) for step in (1, 10, 500, 1000)]
        [0.01, 0.1, 0.0513, 0.001]
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings
        self.scale, self.best, self.stalled = 1.0, math.inf, 0
        self.annealed = (0, 0, 0.0)

    @property
    def anneals(self) -> bool:
        """Whether the rate falls to the end, by `anneal`."""
        return self.annealed[1] > 0

    def anneal(self, step: int, steps: int, rate: float) -> None:
        """Let the rate fall along a cosine in so many steps after a step of that rate."""
        self.annealed = (step, steps, rate)

    def rate(self, step: int, total: int | None) -> float:
        """Return the learning rate of a step from 1 to ``total``, which is None until known."""
        s = self.settings
        if self.anneals:
            begin, steps, rate = self.annealed
            return rate * _cosine((step - begin) / steps)
        rate = s.learning_rate * self.scale
        warmup = s.warmup_steps if total is None else min(s.warmup_steps, total // 10)
        if step <= warmup:
            return rate * step / warmup
        if total is None or s.schedule in ("constant", "plateau"):
            return rate
        if s.schedule == "wsd":
            return rate * _cosine((step - 0.8 * total) / (0.2 * total))
        if s.schedule == "step":
            return float(rate * s.decay_factor ** (step // (s.decay_steps or max(1, total // 4))))
        return rate * _cosine((step - warmup) / max(1, total - warmup))

    def observe(self, validation_loss: float) -> None:
        """Record a validation loss; the plateau schedule decays when it stalls."""
        if validation_loss < self.best:
            self.best, self.stalled = validation_loss, 0
            return
        self.stalled += 1
        if self.settings.schedule == "plateau" and self.stalled > self.settings.decay_patience:
            self.scale *= self.settings.decay_factor
            self.stalled = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which `rate` depends."""
        return {name: getattr(self, name) for name in ("scale", "best", "stalled", "annealed")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; the inverse of `state_dict`."""
        vars(self).update(state)


def _cosine(done: float) -> float:
    """Fall from 1 to a hundredth along half a cosine."""
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2


def clip_gradients(parameters: Iterable[Tensor], norm: float, value: float) -> float:
    """Clip gradients in place; return their norm, all together, before clipping.

    Args:
        parameters: parameters with gradients.
        norm: maximum norm, to which they are scaled down (Pascanu, Mikolov and Bengio 2013, "On the
            difficulty of training recurrent neural networks"); 0 for no limit.
        value: maximum absolute value of each element, applied afterwards; 0 for no limit.
    """
    parameters = [p for p in parameters if p.grad is not None]
    total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if norm and total > norm and torch.isfinite(total):
        nn.utils.clip_grads_with_norm_(parameters, norm, total)
    if value and parameters:
        nn.utils.clip_grad_value_(parameters, value)
    return float(total)
