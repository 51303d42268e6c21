"""Some data as a network takes them, for whatever looks into it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToMany
from ostinato.networks.outputs import CRFOutput
from ostinato.tasks.base import Inspectable
from ostinato.training.fit import Sample

Data = Any
"""``(x, y)`` or ``(x, y, lengths)``; for an estimator what its ``fit`` takes, or a `Sample`."""

Loss = Callable[[nn.Module, Any, Any, Any], Tensor]
"""``(model, x, y, lengths) -> loss``."""


@dataclass
class Examined:
    """A network and a sample of data.

    Attributes:
        network: the network.
        sample: the data.
    """

    network: nn.Module
    sample: Sample

    @property
    def inputs(self) -> Any:
        """What the network takes."""
        return self.sample.encode(self.sample.inputs)

    @property
    def targets(self) -> Any:
        """What is wanted."""
        return self.sample.targets

    @property
    def lengths(self) -> Tensor | None:
        """Steps of each row."""
        return self.sample.lengths

    @property
    def ends(self) -> Tensor:
        """Steps of each row, ``(B,)`` on the CPU, whether they are equal or not."""
        B, T = self.sample.inputs.shape[:2]
        return torch.full((B,), T) if self.lengths is None else torch.as_tensor(self.lengths).cpu()

    def loss(self, *, last: bool = False) -> Tensor:
        """The network's mean loss; ``last`` counts the last step of a row alone."""
        network: Any = self.network
        if not hasattr(network, "loss"):
            raise OstinatoError(
                f"{type(network).__name__} has no method loss(x, y, lengths=...); "
                "say what the loss is: loss=lambda model, x, y, lengths: ..."
            )
        more: dict[str, Any] = {"lengths": self.lengths, **self.sample.more}
        judged_by_step = isinstance(network, ManyToMany) and not self._is_judged_together()
        if last and judged_by_step:
            more["steps"] = "last"
        loss: Tensor = network.loss(self.inputs, self.targets, **more)[0]
        return loss

    def last(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores ``(B, K)`` of the last step of each row of other inputs."""
        y, _ = self.network(self.sample.encode(inputs), lengths=lengths)
        if y.dim() == 2:
            return y  # type: ignore[no-any-return]
        ends = torch.full((len(y),), y.shape[1]) if lengths is None else lengths
        return y[torch.arange(len(y)), (ends - 1).clamp(min=0)]  # type: ignore[no-any-return]

    def last_targets(self) -> Tensor:
        """What is wanted at the last step of each row."""
        targets = self.targets
        by_step = isinstance(self.network, ManyToMany) or (
            targets.dim() > 1 and targets.shape[:2] == self.sample.inputs.shape[:2]
        )
        if not by_step:
            return targets  # type: ignore[no-any-return]
        return targets[torch.arange(len(targets)), (self.ends - 1).clamp(min=0)]  # type: ignore[no-any-return]

    def losses(self, scores: Tensor) -> Tensor:
        """Loss of each row at its last step, ``(B,)``, of scores ``(B, K)``."""
        output: Any = self.network.output
        if self._is_judged_together():  # tags by themselves, since a last one has no future
            return torch.nn.functional.cross_entropy(scores, self.last_targets(), reduction="none")
        losses: Tensor = output.loss(scores, self.last_targets())
        return losses

    def _is_judged_together(self) -> bool:
        return isinstance(getattr(self.network, "output", None), CRFOutput)


def estimator_of(model: Any) -> Inspectable | None:
    """Return the model if it is an estimator, which must be fitted; None if it is a network."""
    if isinstance(model, BaseEstimator):
        check_is_fitted(model, "network_")
    return model if isinstance(model, Inspectable) else None


def sample_of(model: Any, data: Data) -> Examined:
    """What a function that looks into a model was given, as tensors.

    Raises:
        OstinatoError: if it is neither a module nor an estimator, or the data do not fit.
    """
    estimator = estimator_of(model)
    if estimator is not None:
        if isinstance(data, Sample):
            return Examined(estimator.network_, data)
        paths = isinstance(data, str | os.PathLike | list)
        sample = estimator.examples(data) if paths else estimator.examples(*data)
        return Examined(estimator.network_, sample)
    if not isinstance(model, nn.Module):
        raise OstinatoError(
            f"{type(model).__name__} is no network; expected a module or estimator."
        )
    if isinstance(data, Sample):
        return Examined(model, data)
    if not isinstance(data, tuple) or len(data) not in (2, 3) or not isinstance(data[0], Tensor):
        raise OstinatoError("data: expected tensors, (x, y) or (x, y, lengths).")
    x, y, *lengths = data
    given = lengths[0] if lengths else None
    given = None if given is None else torch.as_tensor(given)
    return Examined(model, Sample(x, y, given))
