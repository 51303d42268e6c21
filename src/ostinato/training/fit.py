"""Train, evaluate and apply any network: the three loops over batches that all tasks share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.networks.inputs import Words
from ostinato.recurrence.layers import Hidden
from ostinato.training.callbacks import Callback, TrainingResult
from ostinato.training.health import GradientHealth
from ostinato.training.loop import Batches, Trainer
from ostinato.training.settings import TrainingSettings

NetworkInput: TypeAlias = Tensor | Words

T = TypeVar("T")
NetworkT = TypeVar("NetworkT", bound=nn.Module)
BatchT = TypeVar("BatchT")
NetworkT_contra = TypeVar("NetworkT_contra", contravariant=True)
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class Objective(Protocol[NetworkT_contra, BatchT_contra]):
    """A training objective: the loss of a batch, and further metrics.

    Attributes:
        loss_unit: unit of the loss.
        step_name: short name of a step of a sequence.
    """

    loss_unit: str
    step_name: str

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

    def units(self, loss: float) -> dict[str, float]:
        """Return a loss in other units, by name; by default in none."""
        return {}


def fit(
    network: NetworkT,
    batches: Batches,
    objective: Objective[NetworkT, BatchT],
    settings: TrainingSettings,
    callbacks: Sequence[Callback] = (),
    *,
    validation: Iterable[BatchT] | None = None,
    sample: Callable[[int], str] | None = None,
    on_best: Callable[[TrainingResult], None] | None = None,
    title: str = "",
    folder: Path | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train a network in place, until its budget is used, patience is lost, or an interrupt.

    Args:
        network: the network, on its device.
        batches: training batches, ready for the network.
        objective: their loss.
        settings: settings of the run.
        callbacks: callbacks to call.
        validation: validation batches; None for no validation.
        sample: returns something to show at each validation, by the step.
        on_best: called with the result so far when the weights are the best so far.
        title: a one-line description of the run.
        folder: folder of checkpoints; None keeps the newest in memory.
        resume: continue from the newest checkpoint, if there is one.

    Returns:
        how training ended; the network holds the best weights, after an interrupt the latest.

    Raises:
        NonFiniteError: see ``settings.on_nonfinite``.

    Example:
        >>> import numpy as np
        >>> from ostinato.data.ragged import Examples, Ragged
        >>> from ostinato.networks.arrangements import ManyToOne, recurrent_layers
        >>> from ostinato.networks.outputs import Output
        >>> from ostinato.tasks.targets import Classes
        >>> examples = Examples(Ragged.of(np.ones((n, 2), "f4") for n in (3, 1)), np.array([0, 1]))
        >>> network = ManyToOne(nn.Identity(), recurrent_layers("gru", 2, 8), Output(8, 2))
        >>> batches = SequenceBatches(examples, batch_size=2)
        >>> settings, classes = TrainingSettings(steps=30, health=False), Classes(np.array([0, 1]))
        >>> result = fit(network, batches, classes, settings, validation=batches)
        >>> result.ended, result.best_loss < 0.7
        ('budget', True)
    """
    if settings.health:
        callbacks = [*callbacks, GradientHealth()]
    trainer = Trainer(
        network,
        batches,
        partial(objective.loss, network),
        settings,
        callbacks,
        validate=None if validation is None else partial(evaluate, network, objective, validation),
        sample=sample,
        on_best=on_best,
        units=objective.units,
        title=title,
        counted=objective.step_name,
        loss_unit=objective.loss_unit,
        folder=folder,
    )
    return trainer.run(resume=resume)


def evaluate(
    network: NetworkT, objective: Objective[NetworkT, BatchT], batches: Iterable[BatchT]
) -> dict[str, float]:
    """Return the means of an objective's metrics over batches, including ``loss``.

    State is carried from batch to batch if the objective returns one.
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
    return {name: total / max(1, count) for name, total in sums.items()}


def predict(
    network: nn.Module,
    batches: SequenceBatches,
    decode: Callable[[Tensor, SequenceBatch], Iterable[T]],
) -> list[T]:
    """Apply a network to all sequences, batched by length; results in the original order.

    Args:
        network: called with ``(inputs, lengths=...)``, returns scores and a state.
        batches: the sequences.
        decode: converts the scores of a batch into one result per sequence.
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


class Sample(NamedTuple):
    """Encoded data for inspecting a network.

    Attributes:
        inputs: ``(B, T, ...)``.
        targets: targets of each row or step.
        lengths: steps of each row ``(B,)``; None if all are equal.
        encode: converts inputs, or similar ones, to the network's input.
        names: names of the steps of each row, if any.
        more: further arguments of the network's loss.
    """

    inputs: Tensor
    targets: Any
    lengths: Tensor | None = None
    encode: Callable[[Tensor], Any] = lambda x: x
    names: Sequence[Sequence[str]] = ()
    more: Mapping[str, Any] = {}


class Problem(NamedTuple):
    """The arguments of `fit` beside the network and the settings."""

    batches: Batches
    objective: Objective[Any, Any]
    validation: Iterable[Any] | None
    title: str
    notes: str = ""
    sample: Callable[[int], str] | None = None
