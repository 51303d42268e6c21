"""What is read of other libraries' files: layers of ours, and perhaps the network of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.data.inputs import Inputs
from ostinato.deploy.base import ImportTask
from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import (
    Cell,
    CoupledLSTMCell,
    GRUCell,
    LSTMCell,
    PeepholeLSTMCell,
    RNNCell,
)
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Recurrent
from ostinato.tasks.classification import SequenceClassifier
from ostinato.tasks.regression import SequenceRegressor
from ostinato.tasks.tagging import SequenceTagger
from ostinato.tasks.targets import Classes, Numbers, StepLabels

MAX_BYTES = 1 << 33
"""Bytes of weights of a file, at most."""

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(-1),
    "tanh": torch.tanh,
}


class Layer(nn.Module):
    """Recurrent layers ``(B, T, I)`` in the manner of Keras.

    Args:
        stack: the layers, ``batch_first``.
        steps: every output, or the last.
        reverse: whether sequences are read from their ends; outputs are in that order.
        merge: how the outputs of two directions are joined: concat, sum, mul, ave.
    """

    def __init__(
        self,
        stack: Recurrent,
        steps: Literal["all", "last"] = "all",
        reverse: bool = False,
        merge: str = "concat",
    ) -> None:
        super().__init__()
        self.stack, self.steps, self.reverse, self.merge = stack, steps, reverse, merge

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs ``(B, T, H)``, or those of the last step of each direction ``(B, H)``."""
        y, hidden = self.stack(x.flip(1) if self.reverse else x)
        if self.steps == "last":
            y = torch.cat(self.stack.last_hidden(hidden).unbind(0), -1)
        if self.merge == "concat":
            return cast(Tensor, y)
        first, second = cast(Tensor, y).chunk(2, -1)
        if self.merge == "mul":
            return first * second
        return (first + second) / (2 if self.merge == "ave" else 1)


class Dense(nn.Linear):
    """A linear layer, and an activation by its name."""

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__(inputs, outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., outputs)``."""
        return ACTIVATIONS[self.activation](super().forward(x))


@dataclass
class Imported:
    """A network, or its layers, read from a file.

    Attributes:
        module: layers by the names that they have there; or, where the file tells how they follow
            each other, a `torch.nn.Sequential` that computes what the original computed.
        layers: the recurrent layers, the first one first.
        output: the linear layer after them; None if there is none, or several.
        activation: what follows it: linear, softmax, sigmoid; empty if the file does not tell.
        by_step: whether each step has an output; None if the file does not tell.
        notes: what was left out, such as dropout.
    """

    module: nn.Module
    layers: list[Recurrent] = field(default_factory=list)
    output: nn.Linear | None = None
    activation: str = ""
    by_step: bool | None = None
    notes: list[str] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Return the layers, one a line."""
        lines = [repr(layer) for layer in self.layers]
        if self.output is not None:
            lines.append(repr(self.output))
        return "\n".join([*lines, *self.notes])


def loaded(stack: Recurrent, directions: Sequence[Sequence[Mapping[str, Any]]]) -> Recurrent:
    """Return a stack with weights, by layer, direction and bare name, once their shapes fit."""
    i = 0
    for layer in directions:
        for weights in layer:
            for name, weight in stack.weights_of(i).items():
                given = weights[name]
                given = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
                value = given.detach().to(torch.float32)
                if value.shape != weight.shape:
                    raise OstinatoError(
                        f"import: {name} of {stack} has shape {tuple(value.shape)}; expected "
                        f"{tuple(weight.shape)}."
                    )
                with torch.no_grad():
                    weight.copy_(value)
            i += 1
    return stack.eval()


def stack_of(cells: Sequence[Cell], bidirectional: bool) -> Recurrent:
    """Return layers of cells, drop-in ones where there is such a class."""
    first, H = cells[0], [cell.hidden_size for cell in cells]
    sizes: int | list[int] = H[0] if len({*H}) == 1 else H
    n = len(cells) if len({*H}) == 1 else 1
    more: dict[str, Any] = {"batch_first": True, "bidirectional": bidirectional, "num_layers": n}
    if len({(type(c), c.bias, isinstance(c, GRUCell) and c.reset_after) for c in cells}) > 1:
        return Recurrent(cells, batch_first=True, bidirectional=bidirectional)
    given = (first.input_size, sizes)
    if type(first) is RNNCell:
        names = [cell.activation for cell in cells if isinstance(cell, RNNCell)]
        nonlinearity = names[0] if len({*names}) == 1 else names
        return RNN(*given, nonlinearity=nonlinearity, bias=first.bias, **more)
    if type(first) is LSTMCell:
        return LSTM(*given, bias=first.bias, proj_size=first.proj_size, **more)
    if type(first) is GRUCell:
        return GRU(*given, bias=first.bias, reset_after=first.reset_after, **more)
    return Recurrent(cells, batch_first=True, bidirectional=bidirectional)


CELL_NAMES: Mapping[type[Cell], str] = {
    LSTMCell: "lstm",
    PeepholeLSTMCell: "lstm-peephole",
    CoupledLSTMCell: "lstm-coupled",
}


def as_estimator(
    found: Imported, task: ImportTask | None = None, labels: Sequence[str] = ()
) -> SequenceClassifier | SequenceRegressor | SequenceTagger:
    """Return an estimator with the network that was read, for series of measurements.

    Args:
        found: a stack of equal recurrent layers and one linear layer.
        task: classify, by the last step; regress, likewise; or tag; by the file, if it tells.
        labels: of the classes, in the order of the outputs; numbers from 0 if there are none.

    Raises:
        OstinatoError: no task has such a network.
    """
    if task is None:
        if found.by_step is None or not found.activation:
            raise OstinatoError(
                "import: the file does not tell what the outputs are; give --task classify, "
                "regress or tag."
            )
        numbers = found.activation == "linear" and not found.by_step
        task = "regress" if numbers else "tag" if found.by_step else "classify"
    obstacles, output = [*found.obstacles], found.output
    cells = [cell for layer in found.layers for cell in layer.cells]
    if not cells:
        obstacles.append("there is no recurrent layer")
    if output is None:
        obstacles.append("there is not one linear layer after the recurrent ones")
    name = _cell_name(cells[0]) if cells else ""
    stacks = {(layer.bidirectional, layer.batch_first) for layer in found.layers}
    kinds = {(type(c), c.hidden_size, _cell_name(c)) for c in cells}
    if len(kinds) > 1 or len(stacks) > 1:
        obstacles.append("the recurrent layers differ from each other")
    if cells and (not name or any(isinstance(c, LSTMCell) and c.proj_size for c in cells)):
        obstacles.append(f"no task has layers of {cells[0]}")
    if found.by_step is not None and found.by_step != (task == "tag"):
        obstacles.append(f"{task} does not fit outputs {'of each step' * found.by_step}")
    if found.activation == "sigmoid" and task != "classify":
        obstacles.append(f"{task} has no sigmoid outputs")
    if obstacles or output is None:
        raise OstinatoError(
            f"import: no task has this network: {'; '.join(obstacles)}. Its layers can be used in "
            "Python: ostinato.read_layers."
        )
    bidirectional, K = found.layers[0].bidirectional, output.out_features
    settings: dict[str, Any] = {
        "cell": name, "hidden_size": cells[0].hidden_size, "num_layers": len(cells),
        "bidirectional": bidirectional, "dropout": 0.0, "init": "pytorch",
    }  # fmt: skip
    I = cells[0].input_size
    variables = [f"x{i}" for i in range(I)]
    inputs = Inputs("series", I, variables=variables, mean=[0.0] * I, scale=[1.0] * I)
    names = np.array(list(labels) or [str(i) for i in range(K)])
    if task != "regress" and (len(names) != K or len({*names.tolist()}) != K):
        raise OstinatoError(f"import: {len(names)} labels; expected {K} different ones.")
    order = np.argsort(names, kind="stable")  # a task keeps its labels sorted
    if task == "tag":
        model: Any = SequenceTagger(crf=False, affix_size=0, **settings)
        targets: Any = StepLabels(names[order])
    elif task == "regress":
        model = SequenceRegressor(pooling="last", **settings)
        targets, order = Numbers(np.zeros(K), np.ones(K), K == 1), np.arange(K)
    else:
        several = found.activation == "sigmoid"
        model = SequenceClassifier(pooling="last", convolutions=False, **settings)
        targets = Classes(names[order], several)
    model.check_settings()
    model.inputs_, model.targets_, model.resolved_ = inputs, targets, {}
    model.training_ = {"imported": True, "steps": 0, "best_step": 0}
    network = model._build(inputs, targets)
    # A layer without biases has some of zeros.
    stored = network.state_dict().items()
    weights = {n: torch.zeros_like(w) for n, w in stored if n.startswith("recurrent.bias")}
    k = 0
    for layer in found.layers:
        D = 2 if layer.bidirectional else 1
        for i in range(len(layer.cells) * D):
            for bare, value in layer.weights_of(i).items():
                suffix = f"_l{k + i // D}{'_reverse' * (i % D)}"
                weights[f"recurrent.{bare}{suffix}"] = value.detach()
        k += len(layer.cells)
    weights["output.linear.weight"] = output.weight.detach()[order.copy()]
    weights["output.linear.bias"] = output.bias.detach()[order.copy()]
    weights |= {"encode.mean": torch.zeros(I), "encode.scale": torch.ones(I)}
    network.load_state_dict(weights)
    model.network_ = network.eval()
    found_model: SequenceClassifier | SequenceRegressor | SequenceTagger = model
    return found_model


def _cell_name(cell: Cell) -> str:
    """Return the name of a cell, empty if it has none."""
    if type(cell) is RNNCell:
        return {"tanh": "rnn", "relu": "rnn-relu"}.get(cell.activation, "")
    if type(cell) is GRUCell:
        return "gru" if cell.reset_after else "gru-reset-before"
    return CELL_NAMES.get(type(cell), "")
