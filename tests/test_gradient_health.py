"""Gradients measured while a network trains: what is said of them, at no cost to training."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ostinato import Captioner, SequenceClassifier, TextGenerator
from ostinato.data.batches import SequenceBatch
from ostinato.insight import gradient_flow
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.outputs import Output
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.training import health as training_health
from ostinato.training.callbacks import Callback
from ostinato.training.health import GradientHealth, _few
from ostinato.training.progress import Bar
from ostinato.training.settings import TrainingSettings

TEXT = "to be or not to be, that is the question. " * 100


class Heard(Callback):
    def __init__(self):
        self.found, self.said = [], []

    def on_health(self, record):
        self.found.append(record)

    def log(self, message):
        self.said.append(message)


def batch(T=20, B=6, ragged=False, by_step=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, T, 3, generator=generator)
    y = torch.arange(B) % 2
    lengths = torch.full((B,), T)
    if ragged:
        lengths[:4] = torch.tensor([T - 2, 5, 3, 1])
    if by_step:
        y = y[:, None].expand(B, T).contiguous()
    return SequenceBatch(x, lengths, y, 0)


def run_of(network, given, heard, clip_norm=0.0):
    """What `GradientHealth` knows of a run."""
    return SimpleNamespace(
        network=network,
        objective=SimpleNamespace(
            loss=lambda network, some, state: network.loss(
                some.inputs, some.targets, lengths=some.unequal
            )
        ),
        batch=given,
        settings=TrainingSettings(clip_norm=clip_norm),
        callbacks=[heard],
        log=heard.log,
        suspect=heard.log,
    )


def measured(network, given, every=1, steps=1, clip_norm=0.0):
    heard = Heard()
    health = GradientHealth(share=math.inf, every=every)
    health.on_begin(run_of(network, given, heard, clip_norm))
    for step in range(1, steps + 1):
        health.on_step({"step": step, "gradient_norm": float(step)})
    return heard, health


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
def test_what_is_measured_is_the_gradient_flow_of_the_first_rows(make, ragged):
    torch.manual_seed(0)
    network = ManyToOne(nn.Identity(), make(3, 8, batch_first=True), Output(8, 2))
    given = batch(ragged=ragged)
    heard, _ = measured(network, given)
    (record,) = heard.found
    T = int(given.lengths[:4].max())
    found = record["health"]
    assert record["step"] == 1 and found["steps"] == T - 1
    rows = given.inputs[:4, :T], given.targets[:4], given.lengths[:4]
    flow = gradient_flow(network, rows if ragged else rows[:2], jacobian=False).layers[0]
    if not ragged:  # there a lag counts from the end of the batch, here from that of each row
        norms = np.sqrt((flow.h**2).sum(1))
        for lag, share in found["gradient_by_lag"].items():
            assert share == pytest.approx(norms[int(lag)] / norms[0], rel=1e-2)
        assert found["reach"] == max(np.flatnonzero(norms >= 1e-3 * norms[0]))
    assert found["gradient_by_lag"].keys() == {"1", "2", "4", "8", "16", str(T - 1)} - (
        set() if T > 16 else {"16"}
    )


def test_a_network_that_answers_at_every_step_is_judged_by_its_last_answer():
    torch.manual_seed(0)
    network = ManyToMany(nn.Identity(), RNN(3, 8, batch_first=True), Output(8, 2))
    given = batch(by_step=True)
    heard, _ = measured(network, given)
    x, y = given.inputs[:4], given.targets[:4]
    norms = np.sqrt((gradient_flow(network, (x, y), jacobian=False).layers[0].h ** 2).sum(1))
    for lag, share in heard.found[0]["health"]["gradient_by_lag"].items():
        assert share == pytest.approx(norms[int(lag)] / norms[0], rel=1e-2)


def test_pooling_reaches_every_step_and_explosion_is_said_once():
    torch.manual_seed(0)
    short = ManyToOne(nn.Identity(), RNN(3, 8, batch_first=True), Output(8, 2), "mean")
    heard, _ = measured(short, batch(T=60))
    assert heard.found[0]["health"]["reach"] == 59
    layer = RNN(3, 8, nonlinearity="identity", init="orthogonal", batch_first=True)
    with torch.no_grad():
        layer.weight_hh_l0 *= 1.5
    network = ManyToOne(nn.Identity(), layer, Output(8, 1, "number"))
    given = batch(T=60)
    heard, _ = measured(network, given._replace(targets=given.targets[:, None].float()), steps=3)
    assert heard.found[0]["health"]["growth"] == pytest.approx(1.5**59, rel=0.5)
    assert len(heard.said) == 1
    assert "gradients explode: over 59 steps back they grow" in heard.said[0]


def test_targets_with_steps_of_their_own_are_not_cut_to_the_inputs():
    lengths = torch.tensor([3, 2, 2, 1, 6, 6])
    x, y = torch.randn(6, 6, 3), torch.randint(2, (6, 6))
    own = torch.full((6,), 6)
    few = _few(SequenceBatch(x, lengths, y, 0, target_lengths=own), 4)
    assert few.inputs.shape == (4, 3, 3)
    assert torch.equal(few.targets, y[:4]) and torch.equal(few.target_lengths, own[:4])
    assert _few(SequenceBatch(x, lengths, y, 0), 4).targets.shape == (4, 3)


def test_the_share_of_clipped_steps_is_told():
    network = ManyToOne(nn.Identity(), GRU(3, 8, batch_first=True), Output(8, 2))
    heard, _ = measured(network, batch(), every=10, steps=20, clip_norm=15.0)
    assert [record["health"]["clipped"] for record in heard.found] == [0.0, 0.5]


@pytest.mark.parametrize(("cost", "share"), [(0.5, 0.02), (7.0, 0.5), (0.0, 0.0), (0.125, 1.0)])
def test_it_waits_until_it_can_afford_to(monkeypatch, cost, share):
    """A step takes a second, a measurement what it costs; and at any time it has had its share."""
    now, network = [100.0], ManyToOne(nn.Identity(), GRU(3, 4, batch_first=True), Output(4, 2))
    monkeypatch.setattr(training_health, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    given, heard = batch(T=3), Heard()
    health = GradientHealth(share=share, every=1)
    measure = health.measure

    def slow():
        now[0] += cost
        return measure()

    monkeypatch.setattr(health, "measure", slow)
    health.on_begin(run_of(network, given, heard))
    for step in range(1, 401):
        now[0] += 1.0
        before = len(heard.found)
        health.on_step({"step": step, "gradient_norm": 1.0})
        spent, elapsed = cost * len(heard.found), now[0] - 100.0
        assert spent <= max(share * elapsed, cost)  # the first tells what one costs
        if len(heard.found) == before:
            assert spent + cost > share * elapsed, "another would have been affordable"


@pytest.mark.parametrize("task", ["text", "classes", "captions"])
def test_training_gives_the_same_bits_with_it_and_without(task):
    models = []
    for health in (True, False):
        if task == "text":
            model = TextGenerator(
                hidden_size=12, steps=160, window=20, dropout=0.2, health=health, num_layers=2
            ).fit(TEXT)
        elif task == "captions":
            images = list(np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
            model = Captioner(hidden_size=8, blocks=2, steps=60, batch_size=4, health=health)
            model.fit(images, ["some noise"] * 40)
        else:
            X = [np.random.default_rng(i).normal(size=(5 + i % 7, 2)) for i in range(60)]
            model = SequenceClassifier(hidden_size=8, epochs=10, health=health)
            model.fit(X, ["a", "b"] * 30)
        models.append(model.network_.state_dict())
    assert all(map(torch.equal, models[0].values(), models[1].values()))


def test_a_run_records_it(tmp_path):
    model = TextGenerator(hidden_size=12, steps=400, window=16, cell="rnn")
    model.fit(TEXT, out=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    found = [record for record in records if "health" in record]
    assert found, "a measurement in 400 steps"
    assert all(record["step"] % 50 == 0 for record in found)
    assert set(found[0]["health"]) == {"steps", "reach", "growth", "gradient_by_lag", "clipped"}
    assert len([record for record in records if "loss" in record]) == 400


def test_the_bar_shows_what_has_turned_bad(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    bar = Bar()

    objective = SimpleNamespace(units=lambda loss: {}, step_name="tok", loss_unit="nats")
    bar.on_begin(
        SimpleNamespace(
            title="t", step=3, total=10, tokens=5, seconds=1.0, time_limit=None, objective=objective
        )
    )
    record = {"step": 3, "loss": 1.0, "learning_rate": 0.1, "gradient_norm": 1.0}

    def shown(**health):
        bar.on_health({"step": 3, "health": {"steps": 63, "reach": 63, "growth": 0.5, **health}})
        bar._drawn = 0.0
        bar.on_step(record)
        return bar._bar.tasks[0].fields["numbers"]

    assert "gradients" not in shown()
    assert "gradients reach 9 of 63" in shown(reach=9)
    assert "gradients grow 2.5e+03x" in shown(growth=2500.0)
    assert "gradients" not in shown()
    bar.close()
