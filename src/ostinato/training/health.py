"""Health of a run: non-finite numbers, exploding or vanishing gradients, oscillating loss."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToOne
from ostinato.networks.inputs import Words
from ostinato.networks.tracing import recording
from ostinato.training.callbacks import Callback, Run
from ostinato.training.evaluation import MovingStatistics
from ostinato.training.optimization import updates_of


class NonFiniteError(OstinatoError):
    """A loss or gradient is not finite, at a ``step``; the first such ``tensor`` by name."""

    def __init__(self, message: str, step: int, tensor: str) -> None:
        super().__init__(message)
        self.step = step
        self.tensor = tensor


class Monitor:
    """Warns of exploding gradients and an oscillating loss, once each, where the run suffers.

    - Spike: a gradient norm above ``spike`` times the usual, which is the median of the last 50, or
      of the first 20 if that is larger: late in training a large one need not be an explosion.
      It counts if the loss of the `STEPS` steps after it is above that of those before.
    - Oscillation: see `oscillates`; at half of `STEPS` more steps than not, each with those before
      it.

    Neither counts unless the loss rises by a share `LOST` of what it had fallen by: where it is
    small, a few examples that are hard make it swing.

    Example:
        >>> monitor = Monitor()
        >>> losses, norms = [1.0] * 60 + [2.0] * 40, [1.0] * 59 + [50.0] + [1.0] * 40
        >>> for step, (loss, norm) in enumerate(zip(losses, norms), 1):
        ...     for message in monitor.observe(step, loss, norm):
        ...         print(step, message)
        100 exploding gradients: of norm 50, 50 times the usual 1, at step 60, and the loss rose
        from 1 to 2; clip_norm=1.5 bounds them
    """

    def __init__(
        self, spike: float = 10.0, clip_norm: float = 0.0, clip: str = "clip_norm={}"
    ) -> None:
        self.spike = spike
        self.clip_norm = clip_norm
        self.clip = clip  # how it is told to clip to a norm
        self._norms: deque[float] = deque(maxlen=50)
        self._losses: deque[float] = deque(maxlen=STEPS)
        self._first_norm = 0.0
        self._first: Level | None = None
        self._best = Level(math.inf, 0.0)
        self._spike: tuple[int, float, float, Level] | None = None
        self._oscillating = 0
        self._warned: set[str] = set()

    def forget(self) -> None:
        """Let causes be said again: what was said of them turned out to be wrong."""
        self._warned.clear()

    def observe(self, step: int, loss: float, norm: float) -> list[str]:
        """Return warnings after a step."""
        found = {}
        if len(self._norms) == 20:
            self._first_norm = median(self._norms)
        usual = max(median(self._norms), self._first_norm) if len(self._norms) >= 20 else 0.0
        if norm > self.spike * usual > 0 and self._spike is None:
            self._spike = step, norm, usual, Level.of(self._losses)
        self._norms.append(norm)
        self._losses.append(loss)
        if len(self._losses) == STEPS:
            level = Level.of(self._losses)
            self._first = self._first or level
            if self._spike and step >= self._spike[0] + STEPS:
                if level.is_above(self._spike[3]) and self._loses(level, self._spike[3]):
                    found["spike"] = self._exploding(*self._spike, level)
                self._spike = None
            lasts = oscillates(level, self._best, self._first)
            self._oscillating = max(0, self._oscillating + (1 if lasts else -1))
            if self._oscillating >= STEPS // 2 and self._loses(level, self._best):
                found["oscillation"] = (
                    f"the loss oscillates: it swings by {level.swing:.2g} a step around "
                    f"{level.mean:.3g} and was at {self._best.mean:.3g}; try a lower learning rate "
                    f"or {self.clip.partition('=')[0].format(1)}"
                )
            if level.mean < self._best.mean:
                self._best = level
        new = [message for cause, message in found.items() if cause not in self._warned]
        self._warned |= found.keys()
        return new

    def _loses(self, level: Level, before: Level) -> bool:
        """Return whether much of what was learned is lost again."""
        assert self._first is not None
        return level.mean - before.mean > LOST * (self._first.mean - before.mean)

    def _exploding(self, step: int, norm: float, usual: float, before: Level, now: Level) -> str:
        bound = f"{self.clip.format(f'{1.5 * usual:.2g}')} bounds them"
        if self.clip_norm:
            bound = f"try a clip_norm below {self.clip_norm:g}, or a lower learning rate"
        return (
            f"exploding gradients: of norm {norm:.3g}, {norm / usual:.0f} times the usual "
            f"{usual:.2g}, at step {step}, and the loss rose from {before.mean:.3g} to "
            f"{now.mean:.3g}; {bound}"
        )


class Level(NamedTuple):
    """Mean of the losses of some steps, and how much they change from step to step on average."""

    mean: float
    swing: float

    @classmethod
    def of(cls, losses: Sequence[float]) -> Level:
        """Return the level of some losses."""
        return cls(fmean(losses), fmean([abs(b - a) for a, b in pairwise(losses)] or [0.0]))

    def is_above(self, other: Level) -> bool:
        """Tell whether it is higher than another by a tenth, and by more than its noise."""
        return self.mean > other.mean + max(0.1 * abs(other.mean), 2 * other.swing)


def oscillates(level: Level, best: Level, first: Level) -> bool:
    """Return whether the loss of some steps oscillates, compared with their best and first.

    It swings by more than a fifth of its level, and is a tenth above the best; and both by more
    than twice the swing of the best, so that noise of small batches does not count. Below a
    tenth of the first level little is left to learn.
    """
    return (
        abs(level.mean) > 0.1 * abs(first.mean)
        and level.swing > max(0.2 * abs(level.mean), 2 * best.swing)
        and level.is_above(best)
    )


class GradientHealth(Callback):
    """Measures at intervals how much gradient flows back through time, and reports it.

    Each recurrent layer runs one step at a time over a few rows of the latest batch; this does not
    change training.

    Args:
        share: maximum share of the training time.
        every: minimum number of steps between two measurements.
    """

    ROWS = 4
    MAX_STEPS = 1000

    def __init__(self, share: float = 0.02, every: int = 50) -> None:
        self.share = share
        self.every = every
        self._norms: deque[float] = deque(maxlen=every)
        self._spent = self._cost = 0.0
        self._warned = False

    def on_begin(self, run: Run) -> None:
        """Start the clock."""
        self.run = run
        self._start = time.perf_counter()

    def on_step(self, record: dict[str, Any]) -> None:
        """Measure, if it is due and within the time budget."""
        run, start = self.run, time.perf_counter()
        self._norms.append(record["gradient_norm"])
        affordable = self._spent + self._cost <= self.share * (start - self._start)
        if record["step"] % self.every or not affordable:
            return
        health = self.measure()
        self._cost = time.perf_counter() - start
        self._spent += self._cost
        if not health:
            return
        if clip := run.settings.clip_norm:
            clipped = sum(norm > clip for norm in self._norms) / len(self._norms)
            health["clipped"] = round(clipped, 3)
        for callback in run.callbacks:
            callback.on_health({"step": record["step"], "health": health})
        if health["growth"] > EXPLODING_GROWTH and not self._warned:
            self._warned = True
            run.suspect(
                f"gradients explode: over {health['steps']} steps back they grow "
                f"{health['growth']:.2g} times; try a lower learning_rate, cell='gru', or a "
                "shorter window"
            )

    def measure(self) -> dict[str, Any]:
        """Follow the gradient that enters at the last step, by lag; empty if none flows."""
        run = self.run
        kept = MovingStatistics(run.network)
        with updates_of(run.network), torch.random.fork_rng(devices=[]), torch.enable_grad(), kept:
            with recording(run.network) as tracks:
                loss, _ = run.objective.loss(run.network, _few(run.batch, self.ROWS), None)
            tracks = [t for t in tracks if 1 < len(t.states) <= self.MAX_STEPS]
            if not tracks or not loss.requires_grad:
                return {}
            T, last = len(tracks[-1].states), tracks[-1].states[-1].h
            states = [state.h for track in tracks for state in track.states]
            (g,) = torch.autograd.grad(loss, last, retain_graph=True, materialize_grads=True)
            gradients = iter(torch.autograd.grad(last, states, g, materialize_grads=True))
        norms = [0.0] * T  # by lag; of the layer with the largest
        for track in tracks:
            by_step = [float(next(gradients).double().norm()) for _ in track.states]
            for lag, norm in enumerate(by_step[::-1][:T]):
                norms[lag] = max(norms[lag], norm)
        if not (norms[0] > 0 and math.isfinite(sum(norms))):
            return {}
        shares = [norm / norms[0] for norm in norms]
        lags = sorted({*(2**k for k in range(T.bit_length()) if 2**k < T), T - 1})
        reach = max(lag for lag in range(T) if shares[lag] >= NEGLIGIBLE)
        if isinstance(run.network, ManyToOne) and run.network.pooling != "last":
            reach = T - 1  # pooling has a short path to every step
        return {
            "steps": T - 1,
            "reach": reach,
            "growth": float(f"{max(shares[T // 2 :]):.3g}"),
            "gradient_by_lag": {str(lag): float(f"{shares[lag]:.3g}") for lag in lags},
        }


STEPS = 40
"""Number of steps over which a loss is said to oscillate."""

LOST = 0.4
"""Share of what a loss has fallen by, since the first steps, that must be lost for a warning."""

NEGLIGIBLE = 1e-3
"""Share of the gradient at the last step below which a lag counts as out of reach."""

EXPLODING_GROWTH = 1e3
"""Growth over half a sequence above which gradients are reported as exploding."""


def _few(batch: Any, rows: int) -> Any:
    """Return the first rows of a batch, without steps that are padding in all of them."""
    parts: dict[str, Any] = {
        name: part[:rows] if isinstance(part, Tensor) else type(part)(*(p[:rows] for p in part))
        for name, part in zip(batch._fields, batch, strict=True)
        if isinstance(part, Tensor | tuple)
    }
    if len(parts.get("lengths", ())):
        longest = int(parts["lengths"].max())
        if isinstance(batch.inputs, Words):
            parts["inputs"] = batch.inputs.first(rows, longest)
        else:
            parts["inputs"] = parts["inputs"][:, :longest]
        by_step = batch.targets.dim() > 1 and batch.targets.shape[1] == batch.inputs.shape[1]
        if by_step and "target_lengths" not in parts:
            parts["targets"] = parts["targets"][:, :longest]
    return batch._replace(**parts)


def first_nonfinite(
    network: nn.Module, forward: Callable[[], Any], otherwise: str = "the norm of the gradients"
) -> str:
    """Return the name of the first non-finite tensor, in the order in which a step computes them.

    Weights come first, then the outputs of modules in ``forward``, then the gradients that the
    network holds, from the output back; if ``forward``, at random, finds none this time, the name
    ``otherwise``. The random state is unchanged.
    """
    parameters = list(network.named_parameters())
    found = [f"weight {name}" for name, p in parameters if not is_finite(p)]

    def check(module: nn.Module, inputs: Any, output: Any) -> None:
        for part, value in (("input", inputs), ("output", output)):
            if not found and not is_finite(value):
                found.append(f"{part} of {names[module] or 'the network'}")

    names = {m: name for name, m in network.named_modules() if not list(m.children())}
    with ExitStack() as hooks, torch.random.fork_rng(), torch.no_grad():
        hooks.enter_context(MovingStatistics(network))
        for module in names:
            hooks.enter_context(module.register_forward_hook(check))
        loss = forward()
    if not is_finite(loss):
        found.append("the loss")
    found += [f"gradient of {name}" for name, p in parameters[::-1] if not is_finite(p.grad)]
    return [*found, otherwise][0]


def is_finite(value: Any) -> bool:
    """Return whether all numbers in a tensor, or in nested tuples of tensors, are finite."""
    if isinstance(value, Tensor):
        # The sum of what is finite is finite, or too large; it is quicker than a look at each.
        return math.isfinite(value.detach().sum().item()) or bool(torch.isfinite(value).all())
    if isinstance(value, tuple | list):
        return all(is_finite(part) for part in value)
    return True
