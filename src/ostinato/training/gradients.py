"""The gradients of a batch: of all of it, or of parts, one after the other or on many ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ostinato.data.prefetch import Closable
from ostinato.errors import OstinatoError
from ostinato.training.distributed import (
    ALONE,
    World,
    joined_rows,
    noticing_lost_peers,
    own_rows,
)
from ostinato.training.evaluation import Objective
from ostinato.training.health import is_finite


class Computed(NamedTuple):
    """What a batch gave beside the gradients, the same on every rank but for its own state.

    Attributes:
        loss: the mean loss.
        steps: true steps.
        state: the state after it; of parts a list, with None where nothing is carried.
        carries: whether all of the state is finite, on all ranks.
        stop: whether any rank was asked to end the run.
        items: items of the loss's mean, where they are counted.
    """

    loss: float
    steps: int
    state: Any
    carries: bool
    stop: bool
    items: int = 1


class Whole:
    """Computes the gradients of a batch in this process, at one time."""

    def __init__(self, network: nn.Module, objective: Objective[Any, Any]) -> None:
        self._network, self._objective = network, objective

    def losses(self, batch: Any, state: Any) -> Sequence[Tensor]:
        """Return the loss of each part of a batch that is computed here."""
        return [self._objective.loss(self._network, batch, state)[0]]

    def gradients(self, batch: Any, state: Any, stop: bool) -> Computed:
        """Compute the gradients, which are zero before; none if the loss is not finite."""
        loss, after = self._objective.loss(self._network, batch, state)
        value = loss.item()
        if math.isfinite(value):
            torch.autograd.backward(loss)
        return Computed(value, batch.steps, after, is_finite(after), stop)


@runtime_checkable
class Divisible(Protocol):
    """Batches whose rows can be divided into parts."""

    def split(self, part: int, parts: int) -> Self:
        """Return a copy whose batches have some of the rows."""


class PartedBatch(NamedTuple):
    """The parts of a batch that a rank works on."""

    parts: Sequence[Any]

    @property
    def fresh(self) -> bool:
        """Whether the carried state must be reset."""
        return bool(self.parts[0].fresh)


class Parts:
    """Those parts of batches that a rank works on, ``accumulate`` of them one after the other."""

    def __init__(self, batches: Any, world: World, accumulate: int) -> None:
        if not isinstance(batches, Divisible):
            raise OstinatoError(
                f"Trainer: {type(batches).__name__} cannot be divided among {world.size} processes "
                f"or into {accumulate} parts; expected a method split(part, parts)."
            )
        first, count = world.rank * accumulate, world.size * accumulate
        self._mine: list[Any] = [batches.split(first + i, count) for i in range(accumulate)]
        self.windows: int = self._mine[0].windows

    def next_batch(self) -> PartedBatch:
        """Return the parts of the next batch."""
        return PartedBatch([part.next_batch() for part in self._mine])

    def state_dict(self) -> dict[str, Any]:
        """Return the position, which does not depend on the number of parts."""
        found: dict[str, Any] = self._mine[0].state_dict()
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        for part in self._mine:
            part.load_state_dict(state)

    def close(self) -> None:
        """End the threads that read them ahead, if there are any."""
        for part in self._mine:
            if isinstance(part, Closable):
                part.close()


class Joined(nn.Module):
    """Computes the gradients of a batch whose rows are divided into parts, on one rank or several.

    Args:
        network: the network.
        objective: its loss, a mean over as many items as its ``count`` says.
        world: the ranks.
        accumulate: parts of a batch for each of them.
        apart: whether each rank has the gradients of its own rows alone, see `Average`.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective[Any, Any],
        world: World,
        accumulate: int,
        *,
        apart: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self._objective, self._world, self._parts = objective, world, accumulate
        self._apart, self._shared = apart, ALONE if apart else world
        self._trained = [p for p in network.parameters() if p.requires_grad]
        self._parallel = (self._shared.parallel(self),)  # a tuple: it is no part of this module
        # After its first pass DDP divides the gradients again, in the order in which they came, and
        # adds up those of three ranks and more in another order. A pass over nothing comes first,
        # so that those of all steps are divided equally, of a run that goes on, too.
        if self._trained:
            with noticing_lost_peers():
                nothing, _ = self._parallel[0](None, None)
                torch.autograd.backward(nothing)
            for p in self._trained:
                p.grad = None

    def forward(self, part: Any, state: Any) -> tuple[Tensor, Any]:
        """Return the sum of the losses of the items of a part, and the state after it.

        Of None a loss of 0 that every parameter has a part in.
        """
        if part is None:
            zero: Tensor = _Reaching.apply(  # type: ignore[no-untyped-call]
                torch.zeros(()), *self._trained
            )
            return zero, None
        loss, after = self._objective.loss(self.network, part, state)
        total: Tensor = _Reaching.apply(  # type: ignore[no-untyped-call]
            loss * self._items(part), *self._trained
        )
        return total, after

    def losses(self, batch: PartedBatch, states: Sequence[Any] | None) -> Sequence[Tensor]:
        """Return the loss of each part of a batch that is computed here."""
        pairs = zip(batch.parts, states or [None] * len(batch.parts), strict=True)
        return [self._objective.loss(self.network, part, state)[0] for part, state in pairs]

    def gradients(self, batch: PartedBatch, states: Sequence[Any] | None, stop: bool) -> Computed:
        """Compute the gradients of the mean loss over all rows of a batch, on all ranks.

        They are zero before. Each rank adds up those of the sum over its rows; their mean over
        ranks becomes the mean over items once it is known how many these are.
        """
        world = self._shared
        (module,) = self._parallel
        total, items, steps, after = 0.0, 0, 0, []
        pairs = zip(batch.parts, states or [None] * len(batch.parts), strict=True)
        for i, (part, before) in enumerate(pairs):
            is_last = i == len(batch.parts) - 1
            waiting: AbstractContextManager[None] = nullcontext()
            if isinstance(module, DistributedDataParallel) and not is_last:
                waiting = module.no_sync()
            with noticing_lost_peers(), waiting:
                loss, state = module(part, before)
                torch.autograd.backward(loss)
            after.append(None if part.idle else state)
            total += loss.item()
            items += self._items(part)
            steps += 0 if part.idle else part.steps
        sums = world.sum(total, items, steps, not is_finite(after), stop)
        count = max(1.0, sums[1])
        for p in self._trained:
            if p.grad is None and self._apart:  # optimizers of all ranks have the same moments
                p.grad = torch.zeros_like(p)
            if p.grad is not None:
                p.grad.mul_(world.size / count)
        loss_of_all, steps_of_all = sums[0] / count, round(sums[2])
        return Computed(loss_of_all, steps_of_all, after, not sums[3], sums[4] > 0, round(sums[1]))

    def joined_state(self, states: Sequence[Any] | None) -> Any:
        """Return the state of all rows of a batch, on all ranks, of those after its parts."""
        several = self._world.gather(states or [])
        rows = [state for states in several for state in states if state is not None]
        return joined_rows(rows) if rows else None

    def own_state(self, state: Any) -> list[Any] | None:
        """Return the states of the parts of this rank: the inverse of `joined_state`."""
        if state is None:
            return None
        first, count = self._world.rank * self._parts, self._world.size * self._parts
        return [own_rows(state, first + i, count) for i in range(self._parts)]

    def _items(self, part: Any) -> int:
        return 0 if part.idle else self._objective.count(part)


class Interval(NamedTuple):
    """What all ranks trained on since they had the same weights.

    Attributes:
        loss: the mean loss of all items.
        others: true steps of the other ranks.
        share: part of the items that are this rank's.
        lost: optimizer steps that were left out since a loss or gradient was not finite.
        problem: the first tensor that was not finite; empty if all were.
        hopeless: whether another step would not be either.
        stop: whether any rank was asked to end the run.
    """

    loss: float
    others: int
    share: float
    lost: int
    problem: str
    hopeless: bool
    stop: bool


class Average:
    """Ranks that train apart for some steps, and then average (local SGD).

    Zinkevich et al. 2010, "Parallelized stochastic gradient descent"; Stich 2019, "Local SGD
    converges fast and communicates little". Not only weights are averaged but the optimizer's
    moments as well, so that all ranks are equal after it and a checkpoint holds the run. Each rank
    counts by the items it has trained on: one step of plain SGD is one of the joined batch.

    Args:
        world: the ranks.
        network: the network of each, equal on all at first.
        optimizer: its optimizer.
    """

    def __init__(self, world: World, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._world, self._optimizer = world, optimizer
        self._trained = [p for p in network.parameters() if p.requires_grad]
        world.broadcast(network.state_dict().values())
        self._clear()

    def _clear(self) -> None:
        self.pending = False
        self._loss, self._items, self._steps = 0.0, 0, 0
        self._lost, self._problem, self._hopeless = 0, "", False

    def add(self, found: Computed) -> None:
        """Count a step of the optimizer."""
        self.pending = True
        self._loss += found.loss * found.items
        self._items += found.items
        self._steps += found.steps

    def lose(self, tensor: str, hopeless: bool) -> None:
        """Count a step that was left out, and keep which tensor was not finite."""
        self.pending = True
        self._lost += 1
        self._problem = self._problem or tensor
        self._hopeless = self._hopeless or hopeless

    def exchange(self, stop: bool) -> Interval:
        """Tell the others of the steps since the last time, and count from zero."""
        told = (self._loss, self._items, self._steps, self._lost, self._hopeless, stop)
        loss, items, steps, lost, hopeless, stops = self._world.sum(*told)
        problem = ""
        if lost:
            problem = next(each for each in self._world.gather(self._problem) if each)
        found = Interval(
            loss / max(1.0, items),
            round(steps) - self._steps,
            self._items / items if items else 1 / self._world.size,
            round(lost),
            problem,
            hopeless > 0,
            stops > 0,
        )
        self._clear()
        return found

    @torch.no_grad()
    def combine(self, share: float) -> None:
        """Average weights and moments over the ranks, each with its share."""
        states = [self._optimizer.state[p] for p in self._trained]
        kept = [each[k] for each in states for k in sorted(each) if isinstance(each[k], Tensor)]
        # All but the numbers of steps, which are equal.
        self._world.combine([*self._trained, *(t for t in kept if t.dim())], share)


class _Reaching(torch.autograd.Function):
    """The same loss, of which every parameter is an input.

    DDP waits for the gradient of each, and the rows of one rank may leave some parameters out, such
    as those of the cells where all sequences are empty.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = len(parameters)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, *[None] * ctx.parameters
