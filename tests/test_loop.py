"""`ostinato.training.loop`: what is learnt is what a loop written by hand learns, come what may."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import V, Witness, network, same, tokens, trainer, weights
from torch import nn

from ostinato.data.batches import ContiguousBatches
from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import LSTMState
from ostinato.training import distributed, loop
from ostinato.training.callbacks import Callback
from ostinato.training.checkpoints import Checkpoints
from ostinato.training.health import NonFiniteError
from ostinato.training.loop import Trainer, detach, device_of


@pytest.fixture(autouse=True)
def spared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power: the disk need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# Truncated back-propagation through time.


class ByHand:
    """The same network of plain `torch.nn`, trained by the plainest loop there is."""

    def __init__(self, net: nn.Module, cell: str) -> None:
        self.embedding = nn.Embedding(V, 4)
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.rnn, self.linear = kind(4, 6, batch_first=True), nn.Linear(6, V)
        self.names = {"encode": self.embedding, "recurrent": self.rnn, "output.linear": self.linear}
        state = net.state_dict()
        for name, module in self.names.items():
            module.double()
            module.load_state_dict({key: state[f"{name}.{key}"] for key in module.state_dict()})

    def train(self, ids: Any, B: int, T: int, steps: int, optimizer: Any, clip: float) -> Any:
        n = (len(ids) - 1) // B
        inputs = torch.from_numpy(ids[: B * n]).view(B, n)
        targets = torch.from_numpy(ids[1 : B * n + 1]).view(B, n)
        parameters = [p for module in self.names.values() for p in module.parameters()]
        optimizer = optimizer(parameters)
        state: Any = None
        losses, norms, at = [], [], 0
        for _ in range(steps):
            if at == 0:
                state = None
            h, state = self.rnn(self.embedding(inputs[:, at : at + T]), state)
            # A state is a tensor or a pair; cut off here, the next window goes on from numbers.
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            scores = self.linear(h)
            wanted = targets[:, at : at + T].flatten()
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), wanted)
            optimizer.zero_grad()
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(parameters, clip)))
            optimizer.step()
            losses.append(loss.item())
            at = 0 if at + T >= n else at + T
        return losses, norms, state

    def weights(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": tensor
            for name, module in self.names.items()
            for key, tensor in module.state_dict().items()
        }


def near(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("window", [1, 4, 7, 30, 1000])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_training_equals_a_loop_written_by_hand(cell: str, window: int) -> None:
    net = network(cell).double()
    theirs = ByHand(net, cell)
    witness = Witness()
    ids, steps = tokens(121), 20  # 30 steps of time in 4 rows, several epochs of most windows
    settings: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.0}
    ours = trainer(
        net,
        witness,
        batches=ContiguousBatches(ids, 4, window),
        schedule="constant",
        learning_rate=0.3,
        clip_norm=0.5,
        steps=steps,
        **settings,
    )
    ours.run()
    losses, norms, state = theirs.train(
        ids, 4, window, steps, lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.8), 0.5
    )
    near(witness.losses, losses)
    near([record["gradient_norm"] for record in witness.records], norms)
    near(weights(net), theirs.weights())
    near(
        tuple(ours.state) if isinstance(ours.state, tuple) else ours.state,
        state,
    )
    assert losses[-1] != losses[-2], "it moves"


def test_adam_equals_a_loop_written_by_hand() -> None:
    net = network().double()
    theirs = ByHand(net, "lstm")
    witness = Witness()
    trainer(
        net, witness, optimizer="adam", weight_decay=0.0, schedule="step", decay_steps=8,
        decay_factor=0.1, warmup_steps=2,
    ).run()  # fmt: skip
    rates = [0.01, *[0.02] * 6, *[0.002] * 8, *[0.0002] * 5]

    class Adam(torch.optim.Adam):
        def step(self, closure: Any = None) -> None:
            self.param_groups[0]["lr"] = used.pop(0)
            super().step(closure)

    used = list(rates)
    losses, _, _ = theirs.train(tokens(), 4, 5, 20, lambda p: Adam(p, fused=False), 1.0)
    near(witness.losses, losses)
    near(weights(net), theirs.weights())
    near([record["learning_rate"] for record in witness.records], rates)


def gradients(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def gradients_of_windows(T: int, window: int) -> dict[str, torch.Tensor]:
    """Gradients, added up, that the trainer finds over one sequence of T steps in windows."""
    net = network().double()
    summed: dict[str, torch.Tensor] = {}

    class Adding(Trainer):
        def train_step(self) -> None:
            super().train_step()
            share = self.tokens - self.before
            self.before = self.tokens
            for name, gradient in gradients(net).items():
                summed[name] = summed.get(name, 0) + gradient * (share / (3 * T))

        before = 0

    batches = ContiguousBatches(tokens(3 * T + 1), 3, window)
    ours = trainer(net, batches=batches, kind=Adding, learning_rate=1e-300, clip_norm=0.0, epochs=1)
    ours.run()
    assert ours.step == -(-T // window)
    return summed


def test_a_window_as_long_as_the_text_is_full_back_propagation() -> None:
    T = 12
    net = network().double()
    ids = torch.from_numpy(tokens(3 * T + 1))
    loss, _ = net.loss(ids[:-1].view(3, T), ids[1:].view(3, T))
    loss.backward()
    full = gradients(net)
    for window in (T, T + 1, 1000):
        near(gradients_of_windows(T, window), full)
    for window in (1, 5, T - 1):
        found = gradients_of_windows(T, window)
        assert all((found[n] - full[n]).abs().max() > 1e-5 for n in full if "recurrent" in n)


def test_the_state_is_carried_cut_off_and_reset_where_an_epoch_begins() -> None:
    seen: list[tuple[bool, Any]] = []
    left: list[Any] = []

    def objective(net: Any, loss: Any) -> Any:
        def watched(batch: Any, state: Any) -> Any:
            seen.append((batch.fresh, state))
            value, after = loss(batch, state)
            left.append(after)
            return value, after

        return watched

    trainer(objective=objective, steps=14).run()
    assert [fresh for fresh, _ in seen] == [k % 6 == 0 for k in range(14)]
    for k, (fresh, state) in enumerate(seen):
        if fresh:
            assert state is None
        else:
            assert isinstance(state, LSTMState)
            for mine, before in zip(state, left[k - 1], strict=True):
                assert mine.equal(before) and before.grad_fn is not None
                assert mine.grad_fn is None and not mine.requires_grad


def test_detach_keeps_the_kind_of_a_state() -> None:
    x = torch.ones(2, requires_grad=True) * 3
    state = detach((LSTMState(x, x), None, (x, [1])))
    assert type(state) is tuple and type(state[0]) is LSTMState
    assert state[1] is None and state[2][1] == [1]
    assert not state[0].h.requires_grad and not state[2][0].requires_grad
    assert state[0].h.data_ptr() == x.data_ptr(), "no copy"


# The budget.


def test_steps_and_epochs_are_a_number_of_steps() -> None:
    for settings, steps in [
        ({"steps": 7}, 7),
        ({"steps": 1}, 1),
        ({"epochs": 2}, 12),
        ({"epochs": 1.5}, 9),
        ({"epochs": 0.01}, 1),
        ({"epochs": 0.34}, 3),
    ]:
        witness = Witness()
        outcome = trainer(None, witness, **settings).run()
        assert (outcome.ended, outcome.steps) == ("budget", steps)
        assert [record["step"] for record in witness.records] == list(range(1, steps + 1))
        assert witness.run.total == steps
        numbers = [record["tokens"] for record in witness.records]
        assert numbers == [20 * k for k in range(1, steps + 1)]


class Clock:
    """Stands still but for what is told to take time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.speed = 1.0
        monkeypatch.setattr(distributed, "time", self)

    def perf_counter(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Any:
        """An objective of which each call takes that long."""

        def objective(net: Any, loss: Any) -> Any:
            def slow(batch: Any, state: Any) -> Any:
                self.now += seconds * self.speed
                return loss(batch, state)

            return slow

        return objective

    def validate(self, seconds: float) -> Callable[[], float]:
        def validate() -> float:
            self.now += seconds * self.speed
            return 1.0

        return validate


@pytest.mark.parametrize(
    ("per_step", "measured"),
    [(1 / 32, 96), (1 / 8, 24), (0.5, 20), (2.0, 15), (7.0, 5), (100.0, 1)],
    ids=str,
)
def test_minutes_become_steps_after_a_measured_start(
    monkeypatch: pytest.MonkeyPatch, per_step: float, measured: int
) -> None:
    """A twentieth of the minute, and 20 steps unless half of it is gone: then it is known."""
    clock = Clock(monkeypatch)
    totals: dict[int, int | None] = {}
    witness = Witness()
    ours = trainer(
        None,
        witness,
        minutes=1.0,
        objective=clock.takes(per_step),
        validate=clock.validate(0.25),
        evaluations=4,
        checkpoint_minutes=1000,
    )
    witness.at = {k: lambda k=k: totals.update({k: ours.total}) for k in range(1, 7000)}
    begun = clock.now
    outcome = ours.run()
    assert [k for k, total in totals.items() if total is None] == list(range(1, measured + 1))
    assert outcome.steps == ours.total
    if measured < 5:
        return
    # The measuring evaluation, three or four more, and one of the best weights at the end.
    assert 60 - per_step - 2 * 0.25 <= clock.now - begun <= 60 + per_step
    assert outcome.seconds == pytest.approx(clock.now - begun)
    at = [record["step"] for record in witness.evaluations]
    assert at[0] == measured and at[-1] == outcome.steps
    assert min(4, outcome.steps - measured) <= len(at) <= 5
    rates = [record["learning_rate"] for record in witness.records]
    assert rates[-1] < 0.05 * max(rates)


def test_slow_first_steps_do_not_make_the_run_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, steps = Clock(monkeypatch), 0

    def objective(net: Any, loss: Any) -> Any:
        first, later = clock.takes(2.0)(net, loss), clock.takes(0.125)(net, loss)

        def one(batch: Any, state: Any) -> Any:
            nonlocal steps
            steps += 1
            return (first if steps <= 3 else later)(batch, state)

        return one

    begun = clock.now
    trainer(minutes=1.0, objective=objective, checkpoint_minutes=1000).run()
    assert clock.now - begun == pytest.approx(60, abs=1)


@pytest.mark.parametrize("slower", [0.25, 3.0])
def test_minutes_are_a_limit_though_steps_become_slower_or_faster(
    monkeypatch: pytest.MonkeyPatch, slower: float
) -> None:
    clock, witness, rates = Clock(monkeypatch), Witness(), []

    def change() -> None:
        clock.speed = slower

    witness.at = {100: change}
    begun = clock.now
    trainer(
        None, witness, minutes=1.0, objective=clock.takes(0.125), validate=clock.validate(0.25),
        evaluations=10, checkpoint_minutes=1000,
    ).run()  # fmt: skip
    assert clock.now - begun == pytest.approx(60, abs=1.5)
    rates = [record["learning_rate"] for record in witness.records]
    assert rates[-1] < 0.05 * max(rates), "the schedule follows"


def test_slow_evaluations_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, witness = Clock(monkeypatch), Witness()
    begun = clock.now
    trainer(
        None, witness, minutes=1.0, objective=clock.takes(0.125), validate=clock.validate(2.5),
        evaluations=10, checkpoint_minutes=1000,
    ).run()  # fmt: skip
    assert len(witness.evaluations) == 1 + 2  # the measuring one, and a tenth of the minute
    # Two and a half seconds are left for an evaluation of what is kept.
    assert clock.now - begun == pytest.approx(60 - 2.5, abs=1)


def test_the_number_of_steps_is_recorded_once_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run has the same rates; the time before counts, on a slower machine too."""

    def run(folder: Path, stop_at: int, slower: float) -> tuple[list[Any], Any]:
        clock, witness = Clock(monkeypatch), Witness()
        witness.at = {stop_at: lambda: signal.raise_signal(signal.SIGINT)}
        net = network()
        settings: dict[str, Any] = {"minutes": 1.0, "objective": clock.takes(0.4)}
        ours = trainer(net, witness, folder=folder, **settings)
        ours.run()
        clock.speed, resumed_witness = slower, Witness()
        net = network(seed=2)
        settings["objective"] = clock.takes(0.4)
        resumed = trainer(net, resumed_witness, folder=folder, **settings)
        assert resumed.total is None
        outcome = resumed.run(resume=True)
        rates = [(r["step"], r["learning_rate"]) for r in witness.records + resumed_witness.records]
        return rates, outcome

    rates, outcome = run(tmp_path / "a", 40, slower=1.0)
    uninterrupted, _ = run(tmp_path / "b", 10_000, slower=1.0)
    assert rates == uninterrupted
    assert outcome.steps == 150
    _, outcome = run(tmp_path / "c", 40, slower=10.0)
    assert outcome.seconds == pytest.approx(60, abs=4.1)


def test_the_default_budget_is_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ours = trainer(objective=clock.takes(3.0), minutes=None)
    assert ours.run().steps == 100


def test_minutes_end_though_not_one_step_can_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def objective(net: Any, loss: Any) -> Any:
        slow = clock.takes(40.0)(net, loss)
        return lambda batch, state: (slow(batch, state)[0] * math.nan, None)

    ours = trainer(objective=objective, minutes=1.0, on_nonfinite="skip", checkpoint_minutes=0.1)
    with pytest.raises(NonFiniteError, match="step 1: loss not finite"):
        ours.run()


def test_budgets_exclude_each_other() -> None:
    with pytest.raises(OstinatoError, match="expected one budget, got .* steps"):
        trainer(epochs=1, steps=2)


# Evaluation, the best, patience.


@pytest.mark.parametrize("steps", [1, 3, 10, 23])
@pytest.mark.parametrize("evaluations", [1, 4, 10])
def test_evaluations_are_spread_evenly_and_the_last_step_is_one(
    steps: int, evaluations: int
) -> None:
    witness = Witness()
    trainer(None, witness, steps=steps, evaluations=evaluations, validate=lambda: 1.0).run()
    at = [record["step"] for record in witness.evaluations]
    assert at[-1] == steps
    assert len(at) == min(steps, evaluations)
    gaps = np.diff([0, *at])
    assert max(gaps) - min(gaps) <= 1


def test_the_best_weights_come_back(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 1.5, 1.7, 1.5, math.nan, 1.6, 1.9]
    for folder in (None, tmp_path):
        net, snapshots, kept = network(), [], []

        def validate(net: Any = net, snapshots: Any = snapshots) -> float:
            assert not net.training and not torch.is_grad_enabled()
            snapshots.append(weights(net))
            return losses[len(snapshots) - 1]

        witness = Witness()
        outcome = trainer(
            net,
            witness,
            folder=folder,
            steps=16,
            evaluations=8,
            validate=validate,
            on_best=lambda result, kept=kept, net=net: kept.append(weights(net)),
        ).run()
        assert (outcome.best_loss, outcome.best_step, outcome.ended) == (1.5, 6, "budget")
        assert same(weights(net), snapshots[2])
        assert not same(snapshots[7], snapshots[2]), "training went on"
        assert all(same(a, b) for a, b in zip(kept, snapshots[:3], strict=True))
        assert [record["best"] for record in witness.evaluations] == [True] * 3 + [False] * 5
        assert not net.training
        assert any("validation loss nan: not finite; these weights" in m for m in witness.messages)


@pytest.mark.parametrize(("patience", "ends"), [(1, 4), (2, 7), (3, 8), (4, 16), (None, 16)])
def test_patience_ends_a_run_that_no_longer_gets_better(patience: int | None, ends: int) -> None:
    losses = [5.0, 4.0, 3.0, 3.5, 2.5, 2.6, 2.7, 2.8, 2.4, *[2.9] * 3, 1.0, 2.0, 2.0, 2.0]
    evaluated = iter(losses)
    outcome = trainer(
        steps=16,
        evaluations=16,
        validate=lambda: next(evaluated),
        patience=patience,
        schedule="constant",
    ).run()
    assert outcome.steps == ends
    assert outcome.ended == ("budget" if ends == 16 else "patience")
    assert outcome.best_loss == min(losses[:ends])


def test_when_patience_ends_the_rate_falls_from_the_best_weights(tmp_path: Path) -> None:
    """Three steps to the best, two that are worse: back, and three steps down to the end."""
    losses = [5.0, 4.0, 3.0, 3.5, 3.1, 2.9, 2.9, 2.8]
    for folder in (None, tmp_path):
        evaluated, net, witness = iter(losses), network(), Witness()
        before: list[Any] = []  # weights before each step
        after: list[Any] = []

        def validate(net: Any = net, after: Any = after, evaluated: Any = evaluated) -> Any:
            after.append(weights(net))
            return next(evaluated)

        def objective(net: Any, loss: Any, before: Any = before) -> Any:
            return lambda batch, state: (before.append(weights(net)), loss(batch, state))[1]

        ours = trainer(
            net, witness, steps=100, evaluations=100, validate=validate, objective=objective,
            patience=2, folder=folder, learning_rate=0.01,
        )  # fmt: skip
        outcome = ours.run()
        assert (outcome.ended, outcome.steps, outcome.best_step) == ("patience", 8, 8)
        assert same(before[5], after[2]), "the sixth step starts from the best weights"
        rates = [record["learning_rate"] for record in witness.records]
        assert rates[4] > 0.009 and rates[5:] == pytest.approx(
            [rates[4] * (0.01 + 0.99 * (1 + math.cos(math.pi * k / 3)) / 2) for k in (1, 2, 3)]
        )
        assert [note.split(";")[0] for note in witness.notes] == [
            "step 5: no better for 2 evaluations"
        ]


def test_a_run_that_falls_from_its_best_is_resumed_like_any(tmp_path: Path) -> None:
    def run(folder: Path | None, stop: int | None, resume: bool = False) -> tuple[Any, Any]:
        losses = {k: 3.0 + 0.1 * (k > 4) for k in range(1, 30)} | {1: 5.0, 2: 4.5, 3: 4.0}
        net, witness = network(seed=2 if resume else 1), Witness()
        if stop:
            witness.at = {stop: lambda: signal.raise_signal(signal.SIGINT)}
        ours: Any = None
        ours = trainer(
            net, witness, steps=100, evaluations=100, validate=lambda: losses[ours.step],
            patience=3, folder=folder,
        )  # fmt: skip
        return ours.run(resume=resume), weights(net)

    whole, final = run(None, None)
    assert (whole.ended, whole.best_step) == ("patience", 4) and whole.steps == 7 + 4
    for stop in (6, 7, 9):
        run(tmp_path / str(stop), stop)
        resumed, then = run(tmp_path / str(stop), None, resume=True)
        assert (resumed.ended, resumed.steps, resumed.best_step) == (whole.ended, 11, 4)
        assert same(then, final)


# The judge.


def judged_by(values: list[tuple[float, float]], items: int, higher: bool, **settings: Any) -> Any:
    """A run whose evaluations find so much of loss and metric, over so many items."""
    found, n = iter(values), len(values)
    ours = trainer(steps=n, evaluations=n, validate=lambda: 0.0, **settings)
    objective: Any = ours.objective
    objective.judge, objective.higher_is_better = "skill", higher
    objective.count = lambda batch: items
    objective.metrics = lambda *_: (dict(zip(("loss", "skill"), next(found), strict=True)), None)
    return ours.run()


@pytest.mark.parametrize("higher", [True, False])
def test_the_metric_that_judges_selects_the_best_weights(higher: bool) -> None:
    sign = 1 if higher else -1
    values = [(3.0, 0.2), (1.0, 0.5), (2.0, 0.7), (1.5, 0.7), (1.7, 0.6), (1.9, 0.7)]
    signed = [(loss, sign * skill) for loss, skill in values]
    outcome = judged_by(signed, loop.COARSE, higher)
    assert (outcome.best_step, outcome.best_loss) == (4, 1.5), "the loss decides between equals"
    outcome = judged_by(signed, loop.COARSE - 1, higher)
    assert (outcome.best_step, outcome.best_loss) == (2, 1.0), "of few items the loss judges"


@pytest.mark.parametrize(("flawless", "ends"), [(None, 8), (0.9, 5)])
def test_what_is_flawless_cannot_become_better(flawless: float | None, ends: int) -> None:
    """The loss goes on to fall, which counts only where the metric may still rise."""
    values = [(1.0 / k, min(0.9, 0.45 * k)) for k in range(1, 9)]

    class Flawless(Trainer):
        def evaluate(self) -> None:
            self.objective.flawless = flawless
            super().evaluate()

    outcome = judged_by(values, 100, True, patience=3, schedule="constant", kind=Flawless)
    assert (outcome.steps, outcome.best_step) == (ends, ends)


def test_without_validation_the_latest_weights_stay() -> None:
    """Whatever the loss of the last batch, which is noise."""
    witness = Witness()
    net = network()
    seen = []
    ours = trainer(net, witness, sample=lambda step: "text", learning_rate=2.0, evaluations=20)
    witness.at = {20: lambda: seen.extend(p.clone() for p in net.parameters())}
    outcome = ours.run()
    assert witness.losses[19] > min(witness.losses)
    assert [record["training_loss"] for record in witness.evaluations] == witness.losses
    assert "validation_loss" not in witness.evaluations[0]
    assert (outcome.best_step, outcome.best_loss) == (20, witness.losses[19])
    assert all(map(torch.equal, seen, net.parameters()))
    assert witness.samples == ["text"] * 20


# What callbacks are told.


def test_callbacks_are_told_everything_in_order() -> None:
    witness = Witness()
    outcome = trainer(None, witness, steps=4, evaluations=2, validate=lambda: 1.0).run()
    told = ["begin", "step", "step", "evaluation", "step", "step", "evaluation", "end", "close"]
    assert witness.told == told
    assert witness.outcome == outcome
    record = witness.records[2]
    assert record.keys() == {"step", "loss", "learning_rate", "gradient_norm", "tokens", "seconds"}
    assert record["step"] == 3 and record["tokens"] == 60


@pytest.mark.parametrize(
    "where", ["on_begin", "on_step", "on_validation", "on_checkpoint", "on_end", "close"]
)
def test_a_callback_that_fails_fails_the_run_and_all_are_closed(where: str) -> None:
    class Broken(Callback):
        pass

    def fail(*args: object) -> None:
        raise RuntimeError(f"broken in {where}")

    broken = Broken()
    setattr(broken, where, fail)
    before, after = Witness(), Witness()
    with pytest.raises(RuntimeError, match=f"broken in {where}"):
        trainer(None, before, broken, after, steps=2, validate=lambda: 1.0).run()
    assert before.told[-1] == after.told[-1] == "close"
    assert before.told.count("close") == after.told.count("close") == 1


def test_callbacks_are_closed_when_nothing_can_be_resumed(tmp_path: Path) -> None:
    trainer(folder=tmp_path, steps=2).run()
    for file in tmp_path.rglob("state.json"):
        file.unlink()
    witness = Witness()
    with (
        pytest.warns(UserWarning, match="Trying an older checkpoint"),
        pytest.raises(OstinatoError, match="all checkpoints are damaged"),
    ):
        trainer(None, witness, folder=tmp_path, steps=2).run(resume=True)
    assert witness.told == ["close"]


def test_callbacks_and_checkpoints_change_nothing(tmp_path: Path) -> None:
    def run(*callbacks: Callback, **more: Any) -> tuple[Any, Any, Any]:
        torch.manual_seed(7)
        net = network(dropout=0.4)
        ours = trainer(net, *callbacks, **more)
        losses: list[float] = []
        ours.record = lambda loss, *rest, r=ours.record: (losses.append(loss), r(loss, *rest))  # type: ignore[method-assign]
        ours.run()
        return losses, weights(net), torch.get_rng_state()

    class Careless(Callback):
        def on_step(self, record: dict[str, Any]) -> None:
            record.clear()

    alone = run()
    for callbacks, more in [
        ((Witness(), Witness(), Careless()), {}),
        ((), {"checkpoint_minutes": 1e-9}),
        ((), {"checkpoint_minutes": 1e-9, "folder": tmp_path}),
    ]:
        losses, after, state = run(*callbacks, **more)
        assert losses == alone[0]
        assert same(after, alone[1])
        assert state.equal(alone[2])


# Numbers that are not finite.


class Spoilt(ContiguousBatches):
    """Numbers to read; those of some batches, by how often they were asked for, are spoilt."""

    def __init__(self, spoilt: Any = (), again: bool = False) -> None:
        super().__init__(tokens(), 4, 5)
        self.spoilt, self.again, self.asked = set(spoilt), again, 0

    def next_batch(self) -> Any:
        batch = super().next_batch()
        self.asked += 1
        where = 6 * batch.epoch + (self._next or 6) if self.again else self.asked
        return batch._replace(epoch=math.nan if where in self.spoilt else batch.epoch)


def spoilt_loss(net: Any, loss: Any) -> Any:
    def objective(batch: Any, state: Any) -> Any:
        value, after = loss(batch, state)
        return (value * batch.epoch if math.isnan(batch.epoch) else value), after

    return objective


def identity_rnn() -> nn.Module:
    """What explodes: recurrent weights of twice the identity, and no bound."""
    net = network("rnn-relu")
    with torch.no_grad():
        net.recurrent.weight_hh_l0.copy_(2 * torch.eye(6))
    return net


def loaded(folder: Path) -> Any:
    checkpoint = Checkpoints(folder).load()
    assert all(t.isfinite().all() for t in checkpoint["network"].values())
    return checkpoint


@pytest.mark.parametrize("remedy", ["stop", "skip"])
def test_a_run_that_explodes_stops_with_its_step_its_tensor_and_its_checkpoint(
    tmp_path: Path, remedy: Any
) -> None:
    net, witness = identity_rnn(), Witness()
    ours = trainer(
        net,
        witness,
        folder=tmp_path,
        optimizer="sgd",
        learning_rate=1e6,
        schedule="constant",
        clip_norm=0.0,
        steps=200,
        on_nonfinite=remedy,
        checkpoint_minutes=1e-9,
    )
    with pytest.raises(NonFiniteError) as caught:
        ours.run()
    error = caught.value
    assert error.step == ours.step + 1 == len(witness.records) + 1
    assert error.tensor.startswith(("weight ", "output of ", "input of ", "the ", "gradient of "))
    words = str(error)
    assert f"step {error.step}: " in words and f"first non-finite tensor: {error.tensor}" in words
    assert "lower learning_rate (now 1e+06), clip_norm=1, cell='lstm'" in words
    assert "on_nonfinite='rollback'" in words and words.count("step") < 4
    assert all(math.isfinite(loss) for loss in witness.losses)
    assert witness.told[-1] == "close" and "end" not in witness.told
    loaded(tmp_path)


@pytest.mark.parametrize("spoilt", [1, 2, 9])
def test_stop_leaves_the_network_and_the_checkpoint_of_the_last_good_step(
    tmp_path: Path, spoilt: int
) -> None:
    net, good = network(), network()
    ours = trainer(
        net,
        batches=Spoilt([spoilt]),
        objective=spoilt_loss,
        folder=tmp_path,
        checkpoint_minutes=1e-9,
        schedule="constant",
    )
    with pytest.raises(NonFiniteError, match=f"step {spoilt}: loss not finite; .*: the loss") as e:
        ours.run()
    assert (e.value.step, e.value.tensor) == (spoilt, "the loss")
    trainer(good, steps=max(1, spoilt - 1), schedule="constant").run()
    checkpoint = loaded(tmp_path)
    assert checkpoint["step"] == spoilt - 1
    assert same(checkpoint["network"], weights(net))
    if spoilt > 1:
        assert same(weights(net), weights(good))


class Normed(nn.Module):
    """An encoder with the statistics of batches behind it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.inner(x)
        normed: torch.Tensor = self.norm(v.flatten(0, -2)).view(v.shape)
        return normed


def test_a_step_that_is_left_out_moves_no_statistics() -> None:
    net = network()
    net.encode = Normed(net.encode)
    trainer(
        net, batches=Spoilt([4, 5]), objective=spoilt_loss, on_nonfinite="skip", steps=8
    ).run()  # fmt: skip
    assert net.encode.norm.num_batches_tracked == 8


def test_skip_leaves_out_the_step_and_nothing_else() -> None:
    """As if the batch had not been there: its state is that of before, its loss is not counted."""
    witness = Witness()
    net, theirs = network(), network()
    before = weights(net)
    trainer(
        net, witness, batches=Spoilt([4, 5]), objective=spoilt_loss, on_nonfinite="skip",
        schedule="constant", optimizer="sgd", steps=8,
    ).run()  # fmt: skip
    assert [record["step"] for record in witness.records] == list(range(1, 9))
    assert witness.records[-1]["tokens"] == 160
    assert len(witness.messages) == 2
    assert all("the loss; the step is skipped" in message for message in witness.messages)
    assert witness.messages[0].startswith("step 3: loss not finite")

    # By hand: ten batches, two of which only pass.
    batches, state = ContiguousBatches(tokens(), 4, 5), None
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for k in range(1, 11):
        batch = batches.next_batch()
        if k in (4, 5):
            continue
        loss, state = theirs.loss(batch.inputs, batch.targets, None if batch.fresh else state)
        state = detach(state)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        optimizer.step()
        losses.append(loss.item())
    # Weight decay is the only difference, and it is small: the losses agree until it tells.
    torch.testing.assert_close(witness.losses, losses, rtol=2e-3, atol=0)
    assert not same(before, weights(net))


def test_skipping_is_bounded() -> None:
    batches = Spoilt(range(5, 1000))
    witness = Witness()
    ours = trainer(
        None, witness, batches=batches, objective=spoilt_loss, on_nonfinite="skip", steps=1000
    )
    with pytest.raises(NonFiniteError, match="step 5"):
        ours.run()
    assert batches.asked == 4 + loop.MAX_SKIPS + 1
    assert len(witness.messages) == loop.MAX_SKIPS


def test_skips_apart_from_each_other_are_not_added_up() -> None:
    batches = Spoilt(range(2, 200, 3))
    outcome = trainer(batches=batches, objective=spoilt_loss, on_nonfinite="skip", steps=100).run()
    assert outcome.steps == 100 and batches.asked > 100 + loop.MAX_SKIPS


class Carrying(ContiguousBatches):
    """Numbers to read, all in one stretch: the state is never reset."""

    def next_batch(self) -> Any:
        return super().next_batch()._replace(fresh=False)


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("remedy", ["stop", "skip", "rollback"])
def test_a_state_that_is_not_finite_is_neither_carried_on_nor_saved(
    tmp_path: Path, remedy: Any, wrong: float
) -> None:
    """Its loss and gradients are finite: the step counts, and the next begins from zeros."""
    seen: list[Any] = []

    def spoilt(net: Any, loss: Any) -> Any:
        def objective(batch: Any, state: Any) -> Any:
            seen.append(state)
            value, after = loss(batch, state)
            if len(seen) in (3, 6):
                after = after._replace(h=after.h.index_fill(2, torch.tensor([1]), wrong))
            return value, after

        return objective

    witness = Witness()
    batches = Carrying(tokens(), 4, 5)
    ours = trainer(
        None, witness, batches=batches, objective=spoilt, on_nonfinite=remedy, steps=6,
        folder=tmp_path, checkpoint_minutes=1e-9,
    )  # fmt: skip
    ours.run()
    assert [state is None for state in seen] == [True, False, False, True, False, False]
    assert len(witness.records) == 6
    assert [m.partition(":")[0] for m in witness.messages] == ["step 3", "step 6"]
    assert all("the carried state is not finite" in message for message in witness.messages)
    assert ours.state is None and loaded(tmp_path)["carried"] is None


def test_a_state_that_was_saved_although_it_is_not_finite_is_not_restored() -> None:
    ours = trainer(steps=2)
    ours.run()
    checkpoint = ours.checkpoints.load()
    h, *rest = checkpoint["carried"]
    ours.restore(checkpoint)
    assert ours.state is not None
    ours.restore(checkpoint | {"carried": (h * math.inf, *rest)})
    assert ours.state is None


def test_steps_that_are_skipped_again_and_again_end_in_a_state_of_zeros() -> None:
    """A finite state may be so large that every loss after it is not."""
    seen: list[Any] = []

    def spoilt(net: Any, loss: Any) -> Any:
        def objective(batch: Any, state: Any) -> Any:
            value, after = loss(batch, state)
            if torch.is_grad_enabled():
                seen.append(state)
                after = after._replace(h=after.h + 1e30 * (len(seen) == 2))
            too_large = state is not None and bool(state.h.abs().max() > 1e20)
            return value * math.nan if too_large else value, after

        return objective

    witness = Witness()
    batches = Carrying(tokens(), 4, 5)
    trainer(None, witness, batches=batches, objective=spoilt, on_nonfinite="skip", steps=5).run()
    assert len(witness.messages) == 4 and len(witness.records) == 5
    assert all("first non-finite tensor: the loss" in message for message in witness.messages)
    assert [state is None for state in seen] == [True, *[False] * 5, True, False, False]


def test_a_loss_that_is_not_finite_is_named_although_it_is_when_it_is_computed_again() -> None:
    count = iter(range(100))

    def once(net: Any, loss: Any) -> Any:
        def objective(batch: Any, state: Any) -> Any:
            value, after = loss(batch, state)
            return value * (math.nan if next(count) == 2 else 1.0), after

        return objective

    with pytest.raises(NonFiniteError, match="step 3: loss not finite; .* tensor: the loss. Try"):
        trainer(objective=once, steps=9).run()


def test_spoilt_weights_are_not_skipped() -> None:
    net = network()

    def spoil() -> None:
        with torch.no_grad():
            net.output.linear.bias[2] = math.nan

    witness = Witness({3: spoil})
    with pytest.raises(NonFiniteError, match=r"step 4: .*: weight output\.linear\.bias"):
        trainer(net, witness, on_nonfinite="skip").run()
    assert witness.messages == []


def test_a_rollback_halves_the_rate_and_recovers(tmp_path: Path) -> None:
    """Weights are spoilt once, at step 13; the run goes back to its last checkpoint, at 10."""
    for folder in (None, tmp_path):
        net = network()

        def spoil(net: Any = net, done: list[int] = []) -> None:  # noqa: B006
            if net not in done:
                done.append(net)
                with torch.no_grad():
                    net.encode.weight[0, 0] = math.nan

        witness = Witness({13: spoil})
        ours = trainer(
            net, witness, folder=folder, on_nonfinite="rollback", schedule="constant",
            evaluations=4, validate=lambda: 1.0,
        )  # fmt: skip
        witness.at[10] = ours.save
        outcome = ours.run()
        assert outcome.steps == 20 and ours.rollbacks == 1
        (message,) = witness.messages
        assert message == (
            "step 10: at step 14 loss not finite; first non-finite tensor: weight encode.weight; "
            "back to step 10 with the learning rate halved to 0.01"
        )
        assert [r["step"] for r in witness.records] == list(range(1, 21))
        assert [r["learning_rate"] for r in witness.records] == [0.02] * 10 + [0.01] * 10
        assert [r["step"] for r in witness.evaluations] == [5, 10, 15, 20]
        assert all(t.isfinite().all() for t in net.state_dict().values())


def test_what_follows_a_rollback_is_a_run_from_there_at_half_the_rate(tmp_path: Path) -> None:
    net, witness = network(dropout=0.3), Witness()
    torch.manual_seed(3)
    ours = trainer(
        net, witness, batches=Spoilt([14]), objective=spoilt_loss, folder=tmp_path / "a",
        on_nonfinite="rollback", schedule="constant",
    )  # fmt: skip
    witness.at[10] = ours.save
    ours.run()

    other, seen = network(dropout=0.3), Witness()
    torch.manual_seed(3)
    theirs = trainer(other, seen, folder=tmp_path / "b", schedule="constant")
    seen.at[10] = lambda: setattr(theirs.schedule, "scale", 0.5)
    theirs.run()
    assert witness.losses == seen.losses
    assert same(weights(net), weights(other))


def test_a_rate_that_explodes_is_rolled_back_until_it_does_not() -> None:
    net, witness = identity_rnn(), Witness()
    ours = trainer(
        net, witness, optimizer="sgd", momentum=0.0, learning_rate=3.0, schedule="constant",
        clip_norm=0.0, steps=60, on_nonfinite="rollback",
    )  # fmt: skip
    assert ours.run().steps == 60
    assert 1 <= ours.rollbacks == sum("back to step 0" in m for m in witness.messages)
    assert {r["learning_rate"] for r in witness.records} == {3.0 / 2**ours.rollbacks}
    assert all(math.isfinite(loss) for loss in witness.losses)
    assert all(t.isfinite().all() for t in net.state_dict().values())


def test_rolling_back_is_bounded(tmp_path: Path) -> None:
    witness = Witness()
    ours = trainer(
        None, witness, batches=Spoilt([5], again=True), objective=spoilt_loss,
        on_nonfinite="rollback", folder=tmp_path, schedule="constant",
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match="step 5"):
        ours.run()
    assert len(witness.messages) == ours.rollbacks == loop.MAX_ROLLBACKS
    rates = {record["learning_rate"] for record in witness.records}
    assert rates == {0.02 / 2**loop.MAX_ROLLBACKS}
    assert loaded(tmp_path)["rollbacks"] == loop.MAX_ROLLBACKS


def test_rolling_back_is_counted_over_all_sittings_and_its_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    begun = clock.now

    def objective(net: Any, loss: Any) -> Any:
        return clock.takes(1.0)(net, spoilt_loss(net, loss))

    for sitting in range(2):
        witness = Witness({10 * (sitting + 1): lambda: signal.raise_signal(signal.SIGINT)})
        ours = trainer(
            None, witness, batches=Spoilt([4]), objective=objective, folder=tmp_path, steps=40,
            on_nonfinite="rollback", checkpoint_minutes=1000,
        )  # fmt: skip
        outcome = ours.run(resume=sitting > 0)
        assert ours.rollbacks == sitting + 1
        assert outcome.seconds == clock.now - begun


@pytest.mark.parametrize("remedy", ["stop", "skip", "rollback"])
def test_a_network_spoilt_from_the_beginning_is_refused(tmp_path: Path, remedy: Any) -> None:
    for folder in (None, tmp_path):
        net = network()
        with torch.no_grad():
            net.encode.weight[0, 0] = math.nan
        with pytest.raises(NonFiniteError, match=r"step 1: .*: weight encode\.weight"):
            trainer(net, folder=folder, on_nonfinite=remedy).run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("validated", [True, False])
def test_weights_spoilt_by_the_last_step_are_not_what_a_run_ends_with(
    tmp_path: Path, validated: bool
) -> None:
    """With an evaluation before, its weights are the best; without one the run has failed."""

    def run(net: Any, evaluations: int) -> Any:
        def spoil() -> None:
            with torch.no_grad():
                net.output.linear.weight[0, 0] = math.nan

        def validate() -> float:
            return net.output.linear.weight.sum().item()

        witness = Witness({6: spoil})
        folder = tmp_path / str(evaluations)
        return trainer(
            net, witness, steps=6, evaluations=evaluations, folder=folder,
            validate=validate if validated else lambda: math.nan,
        ).run()  # fmt: skip

    net = network()
    if validated:
        outcome = run(net, 2)
        assert outcome.steps == 6 and outcome.best_step == 3
        assert all(t.isfinite().all() for t in net.state_dict().values())
    with pytest.raises(NonFiniteError, match="the weights are not finite"):
        run(network(), 1)
    assert loaded(tmp_path / "1")["step"] == 0


def test_a_gradient_alone_that_is_not_finite_is_met_before_the_weights_are_moved() -> None:
    net = network()
    before = weights(net)
    bad = net.recurrent.weight_hh_l0.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteError) as caught:
        trainer(net).run()
    bad.remove()
    assert "gradient not finite" in str(caught.value)
    assert caught.value.tensor == "gradient of recurrent.weight_hh_l0"
    assert same(weights(net), before)


def test_a_validation_loss_that_is_not_finite_counts_against_patience() -> None:
    losses = iter([2.0, math.nan, math.inf, 1.0])
    witness = Witness()
    outcome = trainer(
        None,
        witness,
        steps=4,
        evaluations=4,
        validate=lambda: next(losses),
        patience=2,
        schedule="constant",
    ).run()
    assert (outcome.ended, outcome.steps, outcome.best_loss) == ("patience", 3, 2.0)
    assert [m.split(";")[0] for m in witness.messages] == [
        "step 2: validation loss nan: not finite",
        "step 3: validation loss inf: not finite",
    ]


# Going on.


def everything(**more: Any) -> dict[str, Any]:
    """Settings under which all that a checkpoint holds has a part in what follows."""
    usual = {"schedule": "plateau", "decay_patience": 1, "warmup_steps": 3, "evaluations": 8}
    return {**usual, "steps": 24, "checkpoint_minutes": 1e-9, **more}


def run_of(folder: Path | None, witness: Witness, resume: bool = False, **more: Any) -> Any:
    """One sitting; the network, the data and the random state are made anew for each."""
    torch.manual_seed(99 if resume else 3)
    net = network(seed=8 if resume else 1, dropout=0.3)
    held = ContiguousBatches(tokens(60, seed=5), 1, 59)

    def validate() -> float:
        batch = next(iter(held))
        return round(net.loss(batch.inputs, batch.targets)[0].item(), 2)  # so that it stalls

    ours = trainer(net, witness, folder=folder, validate=validate, **everything(**more))
    outcome = ours.run(resume=resume)
    return outcome, weights(net), torch.get_rng_state()


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw"])
@pytest.mark.parametrize("stops", [[1], [6, 7], [3, 11, 23], [12, 18]])
def test_resumed_equals_uninterrupted(tmp_path: Path, stops: list[int], optimizer: Any) -> None:
    whole = Witness()
    outcome, final, state = run_of(None, whole, optimizer=optimizer)
    assert outcome.ended == "budget"
    records, evaluations = [], []
    for sitting, stop in enumerate([*stops, None]):
        at = {} if stop is None else {stop: lambda: signal.raise_signal(signal.SIGINT)}
        part = Witness(at)
        ended, weights_then, state_then = run_of(
            tmp_path, part, resume=sitting > 0, optimizer=optimizer
        )
        assert ended.ended == ("budget" if stop is None else "interrupt")
        assert ended.steps == (24 if stop is None else stop)
        records += part.records
        evaluations += part.evaluations
    assert without_times(records) == without_times(whole.records)
    assert without_times(evaluations) == without_times(whole.evaluations)
    assert same(weights_then, final)
    assert state_then.equal(state)
    assert (ended.best_step, ended.best_loss) == (outcome.best_step, outcome.best_loss)


@pytest.mark.parametrize("patience", [None, 1])
def test_a_run_that_is_over_is_over_when_resumed(tmp_path: Path, patience: int | None) -> None:
    outcome, final, _ = run_of(tmp_path, Witness(), patience=patience)
    assert outcome.ended == ("budget" if patience is None else "patience")
    witness = Witness()
    again, weights_then, _ = run_of(tmp_path, witness, resume=True, patience=patience)
    assert (again.ended, again.steps, again.best_step) == (
        outcome.ended,
        outcome.steps,
        outcome.best_step,
    )
    assert same(weights_then, final)
    assert witness.told == ["begin", "end", "close"]


def test_an_evaluation_is_not_made_twice_though_the_first_resumed_step_is_skipped(
    tmp_path: Path,
) -> None:
    witness = Witness({10: lambda: signal.raise_signal(signal.SIGINT)})
    trainer(None, witness, folder=tmp_path, validate=lambda: 1.0).run()
    assert [record["step"] for record in witness.evaluations] == [10]
    resumed = Witness()
    trainer(
        None, resumed, folder=tmp_path, validate=lambda: 1.0, batches=Spoilt([1]),
        objective=spoilt_loss, on_nonfinite="skip",
    ).run(resume=True)  # fmt: skip
    assert [record["step"] for record in resumed.evaluations] == [20]


def test_a_run_without_a_checkpoint_is_resumed_from_its_beginning(tmp_path: Path) -> None:
    outcome, final, _ = run_of(None, Witness())
    torch.manual_seed(3)
    net = network(seed=1, dropout=0.3)
    held = ContiguousBatches(tokens(60, seed=5), 1, 59)
    batch = next(iter(held))

    def validate() -> float:
        return round(net.loss(batch.inputs, batch.targets)[0].item(), 2)

    ours = trainer(net, folder=tmp_path / "none", validate=validate, **everything())
    assert ours.run(resume=True).best_step == outcome.best_step
    assert same(weights(net), final)


def test_other_data_or_another_network_cannot_be_resumed_from(tmp_path: Path) -> None:
    trainer(folder=tmp_path, steps=2).run()
    with pytest.raises(OstinatoError, match="saved with window=5, here it is 4"):
        trainer(folder=tmp_path, batches=ContiguousBatches(tokens(), 4, 4)).run(resume=True)


# Interrupts.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_the_step_finish_and_saves(tmp_path: Path, number: Any) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    witness = Witness({7: lambda: os.kill(os.getpid(), number)})
    net = network()
    outcome = trainer(net, witness, folder=tmp_path, validate=lambda: 1.0, evaluations=4).run()
    assert outcome.best_step == 5
    assert (outcome.ended, outcome.steps) == ("interrupt", 7)
    assert [record["step"] for record in witness.records] == list(range(1, 8))
    assert witness.told[-2:] == ["end", "close"]
    checkpoint = loaded(tmp_path)
    assert checkpoint["step"] == 7
    assert same(checkpoint["network"], weights(net)), "the latest, not the best"
    assert not same(checkpoint["network"], checkpoint["best_weights"])
    assert {n: signal.getsignal(n) for n in before} == before


def test_handlers_come_back_whatever_happens() -> None:
    def mine(number: int, frame: object) -> None:
        raise AssertionError("not called")

    old = {n: signal.signal(n, mine) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(NonFiniteError):
            trainer(batches=Spoilt([2]), objective=spoilt_loss).run()
        assert {signal.getsignal(n) for n in old} == {mine}
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def test_a_second_interrupt_breaks_off_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)  # the first is noticed
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    witness = Witness({5: twice})
    with pytest.raises(KeyboardInterrupt):
        trainer(None, witness, folder=tmp_path).run()
    assert witness.told[-1] == "close" and "end" not in witness.told
    assert signal.getsignal(signal.SIGINT) is before
    assert loaded(tmp_path)["step"] == 0


def test_terminating_twice_does_not_break_off(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    outcome = trainer(None, Witness({5: twice}), folder=tmp_path).run()
    assert (outcome.ended, outcome.steps) == ("interrupt", 5)


def test_a_trainer_goes_on_after_an_interrupt() -> None:
    ours = trainer(None, Witness({5: lambda: signal.raise_signal(signal.SIGINT)}))
    assert ours.run().steps == 5
    assert ours.run(resume=True).ended == "budget"
    assert ours.step == 20


def test_training_in_another_thread_leaves_signals_alone() -> None:
    found: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    witness = Witness({2: lambda: found.append(signal.getsignal(signal.SIGINT))})
    thread = threading.Thread(target=lambda: found.append(trainer(None, witness).run()))
    thread.start()
    thread.join()
    assert found[0] is before
    assert found[1].steps == 20


def test_a_device_that_is_not_there_is_refused() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda")
    for name in ("nowhere", "cuda:99"):
        with pytest.raises(OstinatoError, match=f"device='{name}' cannot be used here"):
            device_of(name)
