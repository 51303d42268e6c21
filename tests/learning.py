"""What the tests of training share: a small network, a small text as numbers, and a witness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ostinato.data.batches import ContiguousBatches
from ostinato.networks.arrangements import ManyToMany, recurrent_layers
from ostinato.networks.outputs import Output
from ostinato.training.callbacks import Callback, Run, TrainingResult
from ostinato.training.distributed import ALONE, World
from ostinato.training.loop import Trainer
from ostinato.training.settings import TrainingSettings

V = 5


def tokens(length: int = 121, seed: int = 0) -> Any:
    """Numbers in which the next one mostly follows from the last two."""
    generator = torch.Generator().manual_seed(seed)
    ids = [0, 1]
    for chance in torch.rand(length - 2, generator=generator).tolist():
        ids.append((ids[-1] + 2 * ids[-2] + (1 if chance < 0.1 else 0)) % V)
    return torch.tensor(ids).numpy()


def network(cell: str = "lstm", seed: int = 1, dropout: float = 0.0, **more: Any) -> ManyToMany:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        recurrent = recurrent_layers(cell, 4, 6, dropout=0.0, **more)  # type: ignore[arg-type]
        return ManyToMany(nn.Embedding(V, 4), recurrent, Output(6, V, dropout=dropout))


class Witness(Callback):
    """Writes down all that it is told, and may do something at a step."""

    def __init__(self, at: dict[int, Callable[[], object]] | None = None) -> None:
        self.at = at or {}
        self.told: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.samples: list[str | None] = []
        self.messages: list[str] = []
        self.notes: list[str] = []
        self.outcome: TrainingResult | None = None
        self.run: Any = None

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.records]

    def on_begin(self, run: Run) -> None:
        self.told.append("begin")
        self.run = run

    def on_step(self, record: dict[str, Any]) -> None:
        self.told.append("step")
        self.records.append(record)
        self.at.get(record["step"], lambda: None)()

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        self.told.append("evaluation")
        self.evaluations.append(record)
        self.samples.append(sample)

    def log(self, message: str) -> None:
        self.messages.append(message)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def on_rollback(self, run: Run) -> None:
        self.told.append("back")
        self.records = [record for record in self.records if record["step"] <= run.step]

    def on_end(self, result: TrainingResult) -> None:
        self.told.append("end")
        self.outcome = result

    def close(self) -> None:
        self.told.append("close")


def trainer(
    net: ManyToMany | None = None,
    *callbacks: Callback,
    batches: Any = None,
    objective: Any = None,
    folder: Path | None = None,
    validate: Any = None,
    sample: Any = None,
    on_best: Any = None,
    kind: type[Trainer] = Trainer,
    world: World = ALONE,
    **settings: Any,
) -> Trainer:
    """A trainer of a small network; what is not given is small and quick."""
    net = network() if net is None else net
    batches = ContiguousBatches(tokens(), 4, 5) if batches is None else batches  # 6 an epoch

    def loss(batch: Any, state: Any) -> Any:
        return net.loss(batch.inputs, batch.targets, state)

    if not {"steps", "epochs", "minutes"} & settings.keys():
        settings["steps"] = 20
    usual = {"learning_rate": 0.02, "warmup_steps": 0, "evaluations": 2, "health": False}
    used = loss if objective is None else objective(net, loss)
    return kind(
        net,
        batches,
        SimpleNamespace(  # type: ignore[arg-type]
            loss=lambda net, batch, state: used(batch, state),
            metrics=lambda net, batch, state: ({"loss": validate()}, None),
            count=lambda batch: 1,
            summarize=lambda means: means,
            items=lambda means, count: count,
            judge="loss",
            flawless=None,
            units=lambda loss: {},
            step_name="tok",
            loss_unit="nats",
        ),
        TrainingSettings(**{**usual, **settings}),
        callbacks,
        validation=None if validate is None else [None],
        sample=sample,
        on_best=on_best,
        folder=folder,
        title="small",
        world=world,
    )


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal bit for bit."""
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
