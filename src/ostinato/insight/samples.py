"""Some data as a network takes them, for everything that inspects a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToMany
from ostinato.networks.outputs import CRFOutput
from ostinato.recurrence.layers import Hidden
from ostinato.tasks.base import Inspectable
from ostinato.training.evaluation import Sample

Model: TypeAlias = nn.Module | Inspectable
"""A network, or a fitted estimator."""

Data: TypeAlias = Any
"""``(x, y)`` or ``(x, y, lengths)``; for an estimator what its ``fit`` takes, or a `Sample`."""

Loss: TypeAlias = Callable[[nn.Module, Any, Any, Tensor | None], Tensor]
"""``(model, x, y, lengths) -> loss``."""


@runtime_checkable
class HasLoss(Protocol):
    """A network that computes its own loss."""

    def loss(self, x: Any, targets: Any, /, **options: Any) -> tuple[Tensor, Hidden]:
        """Return the mean loss, and the state after the last step."""


def mean_loss(
    network: nn.Module, sample: Sample, loss: Loss | None = None, *, last_step: bool = False
) -> Tensor:
    """Compute the mean loss of a network on a sample, by its own loss function unless given one.

    With ``last_step`` only the last step of each row counts, if each has a loss of its own.
    """
    x = sample.encode(sample.inputs)
    if loss is not None:
        return loss(network, x, sample.targets, sample.lengths)
    if not isinstance(network, HasLoss):
        raise OstinatoError(
            f"{type(network).__name__} has no method loss(x, y, lengths=...); "
            "pass a loss function: loss=lambda model, x, y, lengths: ..."
        )
    options: dict[str, Any] = {"lengths": sample.lengths, **sample.more}
    if last_step and isinstance(network, ManyToMany) and not isinstance(network.output, CRFOutput):
        options["steps"] = "last"
    return network.loss(x, sample.targets, **options)[0]


def row_lengths(sample: Sample) -> Tensor:
    """Return the steps of each row, ``(B,)`` on the CPU."""
    B, T = sample.inputs.shape[:2]
    return torch.full((B,), T) if sample.lengths is None else torch.as_tensor(sample.lengths).cpu()


def is_in_time(x: Tensor, shapes: Iterable[Sequence[int]]) -> bool:
    """Return whether an input is ``(T, B, ...)``, by the shapes ``(T, B)`` that layers saw."""
    first = tuple(x.shape[:2])
    seen = {tuple(shape) for shape in shapes}
    return first in seen and first[::-1] not in seen


def estimator_of(model: Model) -> Inspectable | None:
    """Return the model if it is an estimator, which must be fitted; None if it is a network."""
    if isinstance(model, BaseEstimator):
        check_is_fitted(model, "network_")
    return model if isinstance(model, Inspectable) else None


def network_and_sample(model: Model, data: Data, count: int = 32) -> tuple[nn.Module, Sample]:
    """Return the network of a model, and the data as a `Sample`, of an estimator's so many rows."""
    estimator = estimator_of(model)
    network = model if estimator is None else estimator.network_
    if not isinstance(network, nn.Module):
        raise OstinatoError(
            f"model: expected a torch.nn.Module or a fitted estimator, got {type(model).__name__}."
        )
    if isinstance(data, Sample):
        return network, data
    if estimator is not None:
        parts = [data] if isinstance(data, str | os.PathLike | list) else data
        return network, estimator.examples(*parts, count=count)
    if not isinstance(data, tuple) or len(data) not in (2, 3) or not isinstance(data[0], Tensor):
        raise OstinatoError("data: expected tensors, (x, y) or (x, y, lengths).")
    x, y, lengths = (*data, None)[:3]
    return network, Sample(x, y, None if lengths is None else torch.as_tensor(lengths))
