"""How often `diagnose` reports a planted fault first, and nothing for a healthy network.

    python benchmarks/diagnosis.py [--seeds 3] [--only WORD] [--verbose]

Thirty faults and thirty healthy networks, each on a small task, trained for a few seconds by the
package's training loop. Results go to benchmarks/results/diagnosis.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ostinato.insight import Diagnosis, diagnose
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.outputs import Output
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Recurrent
from ostinato.training.callbacks import Callback
from ostinato.training.evaluation import Objective
from ostinato.training.loop import Trainer
from ostinato.training.settings import TrainingSettings

RESULTS = Path(__file__).parent / "results" / "diagnosis.json"


class Some(NamedTuple):
    """A batch."""

    inputs: Tensor
    targets: Tensor
    fresh: bool = True

    @property
    def steps(self) -> int:
        """Steps of all rows."""
        return self.inputs.shape[0] * self.inputs.shape[1]


Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""``(rows, random) -> (x, y)``: random examples of a task."""


def adding(T: int) -> Draw:
    """The sum of two marked numbers."""

    def draw(rows: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        numbers = torch.rand(rows, T, generator=random)
        marks = torch.zeros(rows, T)
        first = torch.randint(0, T // 2, (rows,), generator=random)
        second = torch.randint(T // 2, T, (rows,), generator=random)
        marks[range(rows), first] = marks[range(rows), second] = 1
        return torch.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdim=True)

    return draw


def first_symbol(T: int, K: int = 4) -> Draw:
    """Which of K symbols came first, before noise."""

    def draw(rows: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(K, (rows,), generator=random)
        x = 0.3 * torch.randn(rows, T, K, generator=random)
        x[range(rows), 0, y] += 2
        return x, y

    return draw


def waves(T: int, K: int = 4) -> Draw:
    """How fast a noisy wave swings."""

    def draw(rows: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(K, (rows,), generator=random)
        phase = 6.28 * torch.rand(rows, 1, generator=random)
        t = torch.arange(T)[None] * (0.15 + 0.15 * y[:, None])
        x = torch.sin(t + phase) + 0.2 * torch.randn(rows, T, generator=random)
        return x[..., None], y

    return draw


def echo(T: int, K: int = 5, delay: int = 3) -> Draw:
    """At every step, the symbol of some steps before."""

    def draw(rows: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(K, (rows, T), generator=random)
        return nn.functional.one_hot(y, K).float(), y.roll(delay, 1)

    return draw


def words(T: int) -> Draw:
    """The next letter of words in a random order."""
    known = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "runs", "away"]
    letters = " " + "".join(sorted({c for word in known for c in word}))

    def draw(rows: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        lines = []
        for _ in range(rows):
            picks = torch.randint(len(known), (T,), generator=random).tolist()
            line = " ".join(known[p] for p in picks)[: T + 1]
            lines.append([letters.index(c) for c in line])
        ids = torch.tensor(lines)
        return nn.functional.one_hot(ids[:, :-1], len(letters)).float(), ids[:, 1:]

    return draw


TASKS: dict[str, tuple[int, int, str, bool]] = {
    "adding": (2, 1, "number", False),
    "first": (4, 4, "category", False),
    "waves": (1, 4, "category", False),
    "echo": (5, 5, "category", True),
    "words": (0, 0, "category", True),
}
DRAWS = {"adding": adding, "first": first_symbol, "waves": waves, "echo": echo, "words": words}


def build(task: str, T: int, layer: Callable[[int], Recurrent], pooling: Any) -> tuple[Any, Draw]:
    """A network for a task, and the task."""
    draw = DRAWS[task](T)
    x, y = draw(64, torch.Generator().manual_seed(0))
    kind: Any = TASKS[task][2]
    outputs = 1 if kind == "number" else int(y.max()) + 1
    recurrent = layer(x.shape[-1])
    output = Output(recurrent.output_size, outputs, kind)
    if TASKS[task][3]:
        return ManyToMany(nn.Identity(), recurrent, output), draw
    return ManyToOne(nn.Identity(), recurrent, output, pooling), draw


class Case(NamedTuple):
    """A network with or without a fault.

    Attributes:
        name: name of the case.
        task: of `TASKS`.
        T: steps.
        layer: makes the recurrent layers, of the input size.
        expected: issues that identify the fault; none for a healthy network.
        plant: introduces the fault.
        pooling: pooling of a network with a single output.
        settings: training settings.
    """

    name: str
    task: str
    T: int
    layer: Callable[[int], Recurrent]
    expected: tuple[str, ...] = ()
    plant: Callable[[Any], None] = lambda network: None
    pooling: str = "last"
    settings: dict[str, Any] = {}  # noqa: RUF012


def rnn(H: int = 32, **more: Any) -> Callable[[int], Recurrent]:
    """Elman layers."""
    return lambda I: RNN(I, H, batch_first=True, **more)


def lstm(H: int = 32, **more: Any) -> Callable[[int], Recurrent]:
    """LSTM layers."""
    return lambda I: LSTM(I, H, batch_first=True, **{"init": "orthogonal", **more})


def gru(H: int = 32, **more: Any) -> Callable[[int], Recurrent]:
    """GRU layers."""
    return lambda I: GRU(I, H, batch_first=True, **{"init": "orthogonal", **more})


def radius(value: float) -> Callable[[Any], None]:
    """Recurrent weights of this spectral radius."""

    def plant(network: Any) -> None:
        for name, weight in network.recurrent.named_parameters():
            if name.startswith("weight_hh"):
                now = torch.linalg.eigvals(weight.detach()).abs().max()
                weight.data *= value / now

    return plant


def bias(value: float, block: int | None = None) -> Callable[[Any], None]:
    """Biases of this size, of all units or of one gate."""

    def plant(network: Any) -> None:
        H = network.recurrent.hidden_size
        for name, weight in network.recurrent.named_parameters():
            if name.startswith("bias_ih"):
                part = weight.data if block is None else weight.data[block * H : (block + 1) * H]
                part.fill_(value)

    return plant


def tied(network: Any) -> None:
    """All layers above the first have the weights of the second, or both that of the first."""
    stack = network.recurrent
    first = 1 if stack.num_layers > 2 else 0
    for k in range(first + 1, stack.num_layers):
        for name, weight in stack.weights_of(k).items():
            weight.data.copy_(stack.weights_of(first)[name].data)


VANISHES, EXPLODES = ("vanishing over time",), ("exploding", "saturated gates")
TOO_HIGH = ("learning rate too high", "exploding")
LONG = {"steps": 60}
FAULTS = [
    Case("radius 0.2, first symbol", "first", 30, rnn(), VANISHES, radius(0.2)),
    Case("radius 0.4, first symbol", "first", 50, rnn(), VANISHES, radius(0.4)),
    Case("radius 0.3, adding", "adding", 40, rnn(), VANISHES, radius(0.3)),
    Case("radius 0.5, adding", "adding", 60, rnn(H=64), VANISHES, radius(0.5)),
    Case("radius 3, waves", "waves", 50, rnn(), EXPLODES, radius(3.0)),
    Case("radius 4, adding", "adding", 60, rnn(H=64), EXPLODES, radius(4.0)),
    Case("radius 6, first symbol", "first", 40, rnn(), EXPLODES, radius(6.0)),
    Case("radius 1.5, identity units", "waves", 60, rnn(nonlinearity="relu", init="identity"),
         EXPLODES, radius(1.5), settings={"clip_norm": 0.0, "steps": 5, "learning_rate": 1e-4}),
    Case("tanh, adding 150", "adding", 150, rnn(), VANISHES, settings=LONG),
    Case("tanh, adding 300", "adding", 300, rnn(H=64), VANISHES, settings=LONG),
    Case("tanh orthogonal, adding 400", "adding", 400, rnn(init="orthogonal"), VANISHES,
         settings=LONG),
    Case("tanh, first symbol 200", "first", 200, rnn(), VANISHES, settings=LONG),
    # Rates with which the network learns nothing, whatever the seed; a tenth of them is healthy.
    Case("rate ten times, words gru", "words", 40, gru(H=64), TOO_HIGH,
         settings={"optimizer": "sgd", "learning_rate": 10.0}),
    Case("rate ten times, waves gru", "waves", 60, gru(H=64), TOO_HIGH,
         settings={"learning_rate": 0.3}),
    Case("rate ten times, waves rnn", "waves", 40, rnn(H=64, init="orthogonal"),
         TOO_HIGH, settings={"learning_rate": 0.1}),
    Case("rate ten times, three gru", "echo", 40, gru(num_layers=3),
         TOO_HIGH, settings={"learning_rate": 0.3}),
    Case("dead relu -3, waves", "waves", 50, rnn(nonlinearity="relu", init="identity"),
         ("dead units",), bias(-3.0)),
    Case("dead relu -10, first symbol", "first", 30, rnn(nonlinearity="relu"), ("dead units",),
         bias(-10.0)),
    Case("dead relu -5, two layers", "echo", 40, rnn(nonlinearity="relu", num_layers=2),
         ("dead units",), bias(-5.0)),
    Case("dead relu -4, adding", "adding", 40, rnn(H=64, nonlinearity="relu", init="identity"),
         ("dead units",), bias(-4.0)),
    Case("forget gate -6, first symbol", "first", 40, lstm(), ("saturated gates",), bias(-6.0, 1)),
    Case("forget gate -8, adding", "adding", 50, lstm(H=64), ("saturated gates",), bias(-8.0, 1)),
    Case("forget gate -7, words", "words", 40, lstm(H=64), ("saturated gates",), bias(-7.0, 1)),
    Case("forget gate -10, two layers", "echo", 40, lstm(num_layers=2), ("saturated gates",),
         bias(-10.0, 1)),
    Case("identical layers, lstm", "echo", 30, lstm(num_layers=3), ("identical layers",), tied),
    Case("identical layers, gru", "waves", 40, gru(num_layers=4), ("identical layers",), tied),
    Case("identical layers, rnn", "words", 30, rnn(num_layers=3), ("identical layers",), tied),
    Case("depth 12, sigmoid", "echo", 20, rnn(num_layers=12, nonlinearity="sigmoid"),
         ("vanishing over layers",), settings={"steps": 20}),
    Case("depth 12, gru", "waves", 30, gru(num_layers=12, init="pytorch"),
         ("vanishing over layers",), settings={"steps": 20}),
    Case("depth 12, lstm", "words", 20, lstm(num_layers=12, init="pytorch"),
         ("vanishing over layers",), settings={"steps": 20}),
]  # fmt: skip

HEALTHY = [
    Case(f"{task} {T} {name}", task, T, layer, pooling=pooling, settings=settings)
    for task, T, name, layer, pooling, settings in [
        ("words", 40, "lstm", lstm(H=64), "last", {}),
        ("words", 40, "gru", gru(H=64), "last", {}),
        ("words", 60, "two lstm", lstm(H=48, num_layers=2), "last", {}),
        ("words", 30, "rnn", rnn(H=64, init="orthogonal"), "last", {}),
        ("words", 40, "relu", rnn(H=64, nonlinearity="relu", init="identity"), "last", {}),
        ("words", 40, "large batch", gru(H=64), "last", {"learning_rate": 0.01}),
        ("words", 50, "sgd", lstm(H=64), "last",
         {"optimizer": "sgd", "learning_rate": 1.0, "steps": 600}),
        ("words", 50, "rmsprop", gru(H=64), "last", {"optimizer": "rmsprop"}),
        ("words", 40, "clipped", lstm(H=64), "last", {"clip_norm": 0.1}),
        ("words", 40, "not clipped", lstm(H=64), "last", {"clip_norm": 0.0}),
        ("echo", 30, "lstm", lstm(), "last", {}),
        ("echo", 30, "gru", gru(), "last", {}),
        ("echo", 40, "rnn", rnn(H=64, init="orthogonal"), "last", {}),
        ("echo", 40, "three gru", gru(num_layers=3), "last", {"steps": 500}),
        ("echo", 30, "both ways", gru(bidirectional=True), "last", {}),
        ("echo", 20, "twelve residual", gru(num_layers=12, residual=True), "last", {}),
        ("waves", 40, "lstm", lstm(), "last", {}),
        ("waves", 60, "gru", gru(), "last", {}),
        ("waves", 50, "attention", gru(), "attention", {}),
        ("waves", 50, "mean", lstm(), "mean", {}),
        ("waves", 50, "max, both ways", gru(bidirectional=True), "max", {}),
        ("waves", 40, "rnn", rnn(H=64, init="orthogonal"), "last", {}),
        ("waves", 40, "two layers", lstm(num_layers=2), "last", {}),
        ("waves", 200, "attention, long", gru(), "attention", {"steps": 100}),
        ("adding", 30, "lstm", lstm(H=64), "last", {"steps": 800, "learning_rate": 0.01}),
        ("adding", 30, "gru", gru(H=64), "last", {"steps": 800, "learning_rate": 0.01}),
        ("adding", 50, "chrono", lstm(H=64, init="chrono", init_steps=50), "last",
         {"steps": 800, "learning_rate": 0.01}),
        ("first", 20, "lstm", lstm(), "last", {}),
        ("first", 15, "gru", gru(), "last", {"learning_rate": 0.01}),
        ("first", 30, "relu", rnn(H=64, nonlinearity="relu", init="identity"), "last",
         {"learning_rate": 0.001}),
    ]
]  # fmt: skip


class Recorder(Callback):
    """Keeps the records of a run."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_step(self, record: dict[str, Any]) -> None:
        """Keep it."""
        self.records.append(record)

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        """Keep it."""
        self.records.append(record)


class Endless:
    """Endless random batches."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self.draw, self.random = draw, torch.Generator().manual_seed(seed)
        self.windows = 50

    def next_batch(self) -> Some:
        """Return the next batch."""
        return Some(*self.draw(32, self.random))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: no run is resumed here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class Own(Objective[nn.Module, Some]):
    """The loss of the networks themselves."""

    loss_unit, step_name = "nats", "steps"

    def loss(self, network: Any, batch: Some, state: Any) -> tuple[Tensor, None]:
        """Return the mean loss of a batch."""
        return network.loss(batch.inputs, batch.targets)[0], None

    def count(self, batch: Some) -> int:
        """Return the number of sequences."""
        return len(batch.inputs)


def trained_and_diagnosed(case: Case, seed: int) -> Diagnosis:
    """Train the network of a case and diagnose it."""
    torch.manual_seed(seed)
    network, draw = build(case.task, case.T, case.layer, case.pooling)
    case.plant(network)
    batches, recorder = Endless(draw, 100 + seed), Recorder()
    defaults = {"steps": 300, "learning_rate": 0.003, "warmup_steps": 20, "schedule": "constant",
                "health": False}  # fmt: skip
    settings = TrainingSettings(**{**defaults, **case.settings})
    held_out = draw(256, torch.Generator().manual_seed(10_000 + seed))

    validation = [Some(*held_out)]
    Trainer(network, batches, Own(), settings, [recorder], validation=validation).run()
    return diagnose(network, (held_out[0][:32], held_out[1][:32]), history=recorder.records)


def main() -> None:
    """Run all cases, and print how many were diagnosed correctly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", help="cases whose name holds this word")
    parser.add_argument("--verbose", action="store_true", help="print what was found")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    found: dict[str, list[Any]] = {"faults": [], "healthy": []}

    def rows() -> Iterator[tuple[str, Case, int]]:
        for case in FAULTS:
            yield from (("faults", case, seed) for seed in seeds)
        for case in HEALTHY:
            yield "healthy", case, arguments.first

    for kind, case, seed in rows():
        if arguments.only not in case.name:
            continue
        start = time.perf_counter()
        result = trained_and_diagnosed(case, seed)
        right = result.first in case.expected if case.expected else result.healthy
        found[kind].append({"case": case.name, "seed": seed, "first": result.first, "right": right})
        seconds = time.perf_counter() - start
        mark = "yes" if right else "NO "
        issues = ", ".join(f.issue for f in result.findings) or "healthy"
        print(f"{mark} {case.name:<32}seed {seed}  {issues}  ({seconds:.1f} s)", flush=True)
        if arguments.verbose or not right:
            print("    " + str(result).replace("\n", "\n    "), flush=True)
    for kind, all_of in found.items():
        if all_of:
            right = sum(each["right"] for each in all_of)
            print(f"{kind}: {right} of {len(all_of)} right, {right / len(all_of):.1%}")
    if not arguments.only:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
