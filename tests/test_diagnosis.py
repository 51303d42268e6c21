"""What a diagnosis names, on networks with one thing wrong, and on healthy ones."""

import copy
import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ostinato import SequenceClassifier, TextGenerator, diagnose
from ostinato.errors import OstinatoError
from ostinato.insight import Remedy, Thresholds, write_report
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.outputs import Output
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.training.callbacks import History
from ostinato.training.free_causes import oscillation

T, B = 60, 16


def net(layer, pooling="last"):
    return ManyToOne(nn.Identity(), layer, Output(layer.output_size, 2), pooling)


def data(T=T, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, 3, generator=generator), torch.arange(B) % 2


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def scaled(factor, **more):
    layer = RNN(3, 32, batch_first=True, init="orthogonal", **more)
    with torch.no_grad():
        layer.weight_hh_l0 *= factor
    return layer


def biased(layer, value, gate=0):
    with torch.no_grad():
        for name, bias in layer.named_parameters():
            if name.startswith("bias_ih"):
                H = layer.hidden_size
                bias[gate * H : (gate + 1) * H] = value
    return layer


def equal_layers():
    layer = GRU(3, 8, 3, batch_first=True)
    for name, weight in layer.weights_of(1).items():
        layer.weights_of(2)[name].data.copy_(weight.data)
    return layer


FAULTS = {
    "small radius": (lambda: scaled(0.3), "vanishing over time", "--cell lstm"),
    "large radius": (lambda: scaled(4.0), "exploding", "--clip-norm 1"),
    "dead": (
        lambda: biased(RNN(3, 32, nonlinearity="relu", batch_first=True), -20.0),
        "dead units",
        "--init identity",
    ),
    "closed": (
        lambda: biased(LSTM(3, 32, batch_first=True), -8.0, gate=1),
        "saturated gates",
        "--init orthogonal",
    ),
    "closed input": (
        lambda: biased(LSTM(3, 32, batch_first=True), -12.0, gate=0),
        "saturated gates",
        "--init orthogonal",
    ),
    "stuck": (lambda: biased(RNN(3, 32, batch_first=True), 9.0), "saturated gates", "--init"),
    "never updates": (
        lambda: biased(GRU(3, 32, batch_first=True), 12.0, gate=1),
        "saturated gates",
        "--init",
    ),
    "equal": (equal_layers, "identical layers", "--seed 1"),
    "depth": (
        lambda: LSTM(3, 16, 12, batch_first=True),
        "vanishing over layers",
        "--residual",
    ),
    "not finite": (
        lambda: biased(GRU(3, 8, batch_first=True), float("nan")),
        "not finite",
        "--clip-norm 1",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_first_with_values_and_remedies(name, tmp_path):
    make, issue, flag = FAULTS[name]
    found = diagnose(net(make()), data())
    assert found.first == issue
    assert not found.healthy
    finding = found.findings[0]
    assert any(character.isdigit() for character in finding.message)
    assert finding.values
    assert any(remedy.flag.startswith(flag) for remedy in finding.remedies)
    assert str(found).startswith(f"{issue}: ")
    json.dumps(found.to_json(), allow_nan=False)
    if name == "not finite":
        assert len(found.findings) == 1
        write_report(found, net(make()), tmp_path, "not finite")


@pytest.mark.parametrize("pooling", ["last", "mean", "attention"])
@pytest.mark.parametrize("layer", [
    lambda: LSTM(3, 32, batch_first=True, init="orthogonal"),
    lambda: RNN(3, 32, nonlinearity="relu", init="identity", batch_first=True),
    lambda: GRU(3, 32, 6, batch_first=True, init="chrono", init_steps=60, residual=True),
    lambda: LSTM(3, 16, 2, batch_first=True, bidirectional=True, init="orthogonal"),
])  # fmt: skip
def test_networks_that_let_gradients_through_are_healthy(layer, pooling):
    found = diagnose(net(layer(), pooling), data(T=30))
    assert found.first is None, str(found)
    assert found.verdict == "cannot tell" and not found.healthy  # it has learned nothing yet
    assert str(found).startswith("cannot tell: ")


def test_a_short_way_to_every_step_is_no_vanishing_gradient():
    layer = scaled(0.3)
    assert diagnose(net(layer), data()).first == "vanishing over time"
    assert diagnose(net(layer, "attention"), data()).first is None


def test_a_network_that_has_learned_is_not_reported_as_unable_to():
    layer, (x, _) = scaled(0.3), data()
    y = (x[:, -1, 0] > 0).long()
    network = net(layer)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        network.loss(x, y)[0].backward()
        optimizer.step()
    found = diagnose(network, (x, y))
    assert found.improvement > 0.8
    assert found.healthy and str(found).startswith("healthy: ")
    assert "vanishing over time" not in [f.issue for f in found.findings]
    far = diagnose(network, (x, y), distance=50)
    assert [f.issue for f in far.findings] == ["short memory"]
    assert far.findings[0].values["effect"] < 0.01


def steps(losses, norms=None, validation=()):
    norms = norms or [1.0] * len(losses)
    pairs = zip(losses, norms, strict=True)
    records = [
        {"step": i + 1, "loss": loss, "gradient_norm": norm} for i, (loss, norm) in enumerate(pairs)
    ]
    return [*records, *({"step": s, "validation_loss": v} for s, v in validation)]


def fresh():
    return net(LSTM(3, 32, batch_first=True, init="orthogonal"))


def test_issues_of_training_are_found_in_its_records():
    calm = [1.0 - 0.002 * i for i in range(300)]
    network, x = fresh(), data(T=20)

    def issues(history):
        return [finding.issue for finding in diagnose(network, x, history=history).findings]

    # What the network is was not learned in these runs, and nothing else is wrong with it.
    assert set(issues(steps(calm))) <= {"nothing learnt"}
    swinging = calm[:150] + [1.5 + (-1) ** i * 0.8 for i in range(150)]
    assert issues(steps(swinging))[0] == "learning rate too high"
    thrown = [1.0] * 20 + [5.0] * 30 + [1.0] * 250
    assert issues(steps(thrown))[0] == "learning rate too high"
    spiking = [500.0 if i % 20 == 7 else 1.0 for i in range(300)]
    assert issues(steps(calm, spiking))[0] == "exploding"
    always = [1e5] * 300
    assert issues(steps(calm, always))[0] == "exploding"
    lost = steps(calm)
    lost[200]["loss"] = None
    found = diagnose(network, x, history=lost)
    assert found.first == "not finite" and "step 201" in found.findings[0].message
    falling = [math.exp(-i / 100) for i in range(300)]
    rising = [(60, 1.0), (120, 0.7), (180, 0.9), (240, 1.1), (300, 1.2)]
    found = diagnose(network, x, history=steps(falling, validation=rising))
    assert found.first == "overfitting"
    assert "step 120" in found.findings[0].message
    steady = [(60, 1.0), (120, 0.7), (180, 0.69), (240, 0.7), (300, 0.7)]
    assert "overfitting" not in issues(steps(falling, validation=steady))


def test_oscillation_is_a_swing_above_the_best_level():
    assert oscillation([1.0] * 100) is None
    share, swing, level, best = oscillation([0.2] * 100 + [1.0, 2.0] * 100)
    assert (
        share == 1 and swing == 1.0 and level == pytest.approx(1.5) and best == pytest.approx(0.2)
    )
    assert oscillation([2.0 - 0.005 * i + 0.3 * (-1) ** i for i in range(300)])[0] == 0
    assert oscillation([1.0] * 100 + [0.01, 0.02] * 100)[0] == 0  # little is left to swing by


def test_thresholds_can_be_changed():
    layer = scaled(0.8)
    usual = diagnose(net(layer), data())
    assert usual.first == "vanishing over time"
    assert diagnose(net(layer), data(), thresholds=Thresholds(vanished=1e-30)).first is None


def test_remedies_are_flags_of_the_commands():
    known = set(TextGenerator().get_params()) | set(SequenceClassifier().get_params())
    for name, (make, *_) in FAULTS.items():
        for finding in diagnose(net(make()), data()).findings:
            for remedy in finding.remedies:
                assert remedy.setting in known or remedy.code, (name, remedy)
                assert remedy.change == remedy.code != ""  # lines of PyTorch, for a module
    assert Remedy("learning_rate", 0.001, "x").flag == "--learning-rate 0.001"
    assert Remedy("residual", True, "x").flag == "--residual"
    assert Remedy("bidirectional", False, "x").flag == "--no-bidirectional"


def test_an_estimator_is_diagnosed_from_its_run_or_on_new_data(tmp_path):
    text = "to be or not to be, that is the question. " * 60
    model = TextGenerator(hidden_size=16, steps=60, cell="rnn", window=40, learning_rate=0.01)
    model.fit(text, out=tmp_path / "run")
    found = diagnose(TextGenerator.load(tmp_path / "run"))
    assert len([r for r in found.history if "loss" in r]) == 60
    assert found.flow.steps == 40
    changes = [r.change for f in found.findings for r in f.remedies if r.setting]
    assert all("=" in change and "--" not in change for change in changes)
    again = diagnose(model, (text,))
    assert again.influence is not None
    alone = TextGenerator(hidden_size=16, steps=5).fit(text)
    with pytest.raises(OstinatoError, match="there are no data"):
        diagnose(copy.deepcopy(alone))
    found = diagnose(alone, (text,))
    assert math.isfinite(found.improvement)
    assert [r["step"] for r in found.history if "loss" in r] == [1, 2, 3, 4, 5]


def test_the_remedy_for_a_cell_is_another_cell_and_for_a_gated_one_its_start():
    plain = diagnose(net(scaled(0.3)), data()).findings[0].remedies
    gated = diagnose(net(GRU(3, 8, batch_first=True)), data()).findings[0].remedies
    assert plain[0].flag == "--cell lstm" and plain[0].change == "nn.LSTM in place of nn.RNN"
    assert gated[0].flag == "--init chrono"
    assert "up to 60 steps" in gated[0].why


def test_a_remedy_that_is_in_use_already_is_not_named():
    X = [torch.randn(20, 2).numpy() for _ in range(40)]
    model = SequenceClassifier(cell="rnn-relu", bidirectional=False, epochs=1, hidden_size=16)
    model.fit(X, ["a", "b"] * 20)
    with torch.no_grad():
        model.network_.recurrent.bias_ih_l0.fill_(-50.0)
    found = diagnose(model, (X, ["a", "b"] * 20))
    assert found.first == "dead units"
    first = found.findings[0].remedies[0]
    assert first.flag == "--learning-rate 0.0003"
    for remedy in found.findings[0].remedies:  # each can be set as it is
        assert remedy.change == f"{remedy.setting}={remedy.value!r}"
        SequenceClassifier(**{remedy.setting: remedy.value}).check_settings()


def test_a_custom_module_is_diagnosed_with_its_loss():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.RNN(3, 16, batch_first=True)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.layer(x)[0][:, -1])

    def loss(model, x, y, lengths):
        return nn.functional.cross_entropy(model(x), y)

    found = diagnose(Mine(), data(), loss=loss)
    assert found.first == "vanishing over time"
    assert found.constant == pytest.approx(math.log(2), abs=1e-4)  # as many of both classes
    assert found.improvement == pytest.approx(1 - found.loss / math.log(2), abs=1e-4)
    stuck = Mine()
    with torch.no_grad():
        stuck.layer.bias_ih_l0.fill_(9.0)
    assert diagnose(stuck, data(), loss=loss).first == "saturated gates"


def test_each_step_of_a_sequence_may_have_its_output():
    layer = GRU(3, 16, batch_first=True)
    network = ManyToMany(nn.Identity(), layer, Output(16, 2))
    x, _ = data()
    y = (x[..., 0] > 0).long()
    assert diagnose(network, (x, y, [T] * 8 + [20] * 8)).first == "vanishing over time"


def test_a_history_in_memory_is_thinned_evenly_and_rolled_back():
    history = History(limit=8)
    for step in range(1, 101):
        history.on_step({"step": step, "loss": 1 / step})
        if step % 50 == 0:
            history.on_validation({"step": step, "validation_loss": 0.5}, "a sample")
    kept = [r["step"] for r in history.records if "loss" in r]
    assert kept[0] == 1 and len(kept) <= 8 and kept[-1] > 80
    assert len({b - a for a, b in itertools.pairwise(kept[1:])}) == 1
    assert [r["step"] for r in history.records if "validation_loss" in r] == [50, 100]
    history.on_rollback(SimpleNamespace(step=40))
    assert max(r["step"] for r in history.records) <= 40
