"""What training needs of a task, and the other loops over batches: evaluate and predict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.networks.inputs import Words
from ostinato.recurrence.layers import Hidden
from ostinato.training.distributed import ALONE, World

NetworkInput: TypeAlias = Tensor | Words

T = TypeVar("T")
NetworkT = TypeVar("NetworkT", bound=nn.Module)
BatchT = TypeVar("BatchT")
NetworkT_contra = TypeVar("NetworkT_contra", contravariant=True)
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class Batches(Protocol):
    """Endless batches with a position. A batch with ``fresh`` true starts from the zero state."""

    @property
    def windows(self) -> int:
        """Batches in one pass over the data."""

    def next_batch(self) -> Any:
        """Return the next batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


class Objective(Protocol[NetworkT_contra, BatchT_contra]):
    """A training objective: the loss of a batch, and further metrics.

    Attributes:
        loss_unit: unit of the loss.
        step_name: short name of a step of a sequence.
        higher_is_better: whether the best weights are those with the highest `judge`.
        flawless: value of `judge` that cannot become better; None if there is none.
    """

    loss_unit: str
    step_name: str
    higher_is_better: bool = False
    flawless: float | None = None

    @property
    def judge(self) -> str:
        """Name of the metric that selects the best weights."""
        return "loss"

    @property
    def compared_by(self) -> str:
        """Name of the metric by which networks of unlike settings are compared.

        The judge, or else one of which less is better.
        """
        return self.judge

    def loss(
        self, network: NetworkT_contra, batch: BatchT_contra, state: Hidden
    ) -> tuple[Tensor, Hidden]:
        """Return the mean loss of a batch, and the state after it; None if no state is kept."""

    def metrics(
        self, network: NetworkT_contra, batch: BatchT_contra, state: Hidden
    ) -> tuple[dict[str, float], Hidden]:
        """Return means over a batch by name, ``loss`` among them, and the state after it."""
        loss, state = self.loss(network, batch, state)
        return {"loss": float(loss)}, state

    def count(self, batch: BatchT_contra) -> int:
        """Return the number of items that the means of a batch are taken over."""

    def items(self, means: dict[str, float], count: int) -> int:
        """Return how many items `judge` rests on: those counted, or the entities among them."""
        return count

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Return metrics of means over all batches, such as ratios of them."""
        return means

    def units(self, loss: float) -> dict[str, float]:
        """Return a loss in other units, by name; by default in none."""
        return {}


def evaluate(
    network: NetworkT, objective: Objective[NetworkT, BatchT], batches: Iterable[BatchT]
) -> dict[str, float]:
    """Return an objective's metrics over batches, including ``loss``.

    State is carried from batch to batch if the objective returns one.
    """
    return measure(network, objective, batches)[0]


def measure(
    network: NetworkT,
    objective: Objective[NetworkT, BatchT],
    batches: Iterable[BatchT],
    world: World = ALONE,
) -> tuple[dict[str, float], int]:
    """Return the metrics as `evaluate` does, and the number of items that the judge rests on.

    Where ranks have some of the batches each, the metrics are those of all.
    """
    sums: dict[str, float] = defaultdict(float)
    count, state = 0, None
    with eval_mode(network), torch.no_grad():
        for batch in batches:
            measured, state = objective.metrics(network, batch, state)
            weight = objective.count(batch)
            for name, value in measured.items():
                sums[name] += weight * value
            count += weight
    if world.size > 1:
        all_ranks, sums = world.gather((dict(sums), count)), defaultdict(float)
        for part, _ in all_ranks:
            for name, value in part.items():
                sums[name] += value
        count = sum(each for _, each in all_ranks)
    means = {name: total / max(1, count) for name, total in sums.items()}
    items = objective.items(means, count)
    return objective.summarize(means), items


def predict(
    network: nn.Module,
    batches: SequenceBatches,
    decode: Callable[[Tensor, SequenceBatch], Iterable[T]],
) -> list[T]:
    """Apply a network to all sequences, batched by length; results in the original order.

    ``decode`` converts the scores of a batch into one result per sequence.
    """
    found: dict[int, T] = {}
    with eval_mode(network), torch.inference_mode():
        for rows, batch in batches.in_order():
            scores, _ = network(batch.inputs, lengths=batch.unequal)
            found.update(zip(rows.tolist(), decode(scores, batch), strict=True))
    return [found[row] for row in range(len(found))]


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Set a network to eval mode inside the block; restore the mode of every module after it."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class MovingStatistics:
    """The statistics of batches in a network, which each forward pass in training mode moves.

    As a context manager it puts back those of before the block.
    """

    def __init__(self, network: nn.Module) -> None:
        norms = (module for module in network.modules() if isinstance(module, _BatchNorm))
        self.buffers = [buffer for norm in norms for buffer in norm.buffers()]

    def keep(self) -> None:
        """Remember the statistics."""
        self._kept = [buffer.clone() for buffer in self.buffers]

    def restore(self) -> None:
        """Put back those that were remembered."""
        with torch.no_grad():
            for buffer, kept in zip(self.buffers, self._kept, strict=True):
                buffer.copy_(kept)

    def __enter__(self) -> None:
        self.keep()

    def __exit__(self, *raised: object) -> None:
        self.restore()


class Sample(NamedTuple):
    """Encoded data for inspecting a network.

    Attributes:
        inputs: ``(B, T, ...)``.
        targets: targets of each row or step.
        lengths: steps of each row ``(B,)``; None if all are equal.
        encode: converts inputs, or similar ones, to the network's input.
        more: further arguments of the network's loss.
    """

    inputs: Tensor
    targets: Any
    lengths: Tensor | None = None
    encode: Callable[[Tensor], Any] = lambda x: x
    more: Mapping[str, Any] = {}


class Problem(NamedTuple):
    """The arguments of `fit` beside the network and the settings."""

    batches: Batches
    objective: Objective[Any, Any]
    validation: Iterable[Any] | None
    title: str
    notes: str = ""
    sample: Callable[[int], str] | None = None
