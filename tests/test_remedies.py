"""Which short run a remedy is, and beside which it is judged."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ostinato.insight.causes.recurrence import exploding
from ostinato.insight.evidence import Evidence
from ostinato.insight.losses import as_loss
from ostinato.insight.remedies import change_of, tried
from ostinato.insight.trials import Change, Trial
from ostinato.training.evaluation import Sample
from ostinato.training.findings import Finding, Judgement, Remedy
from ostinato.training.observations import Observations
from ostinato.training.thresholds import Thresholds


class Net(nn.Module):
    def __init__(self, kind=nn.GRU, H=4):
        super().__init__()
        self.rnn, self.head = kind(4, H, batch_first=True), nn.Linear(H, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def evidence(network=None, rates=(0.1, 0.01), steps=6, **more):
    """Of a network that tells which symbol came last but one."""
    torch.manual_seed(0)
    network = network or Net()
    x = F.one_hot(torch.randint(4, (128, steps)), 4).float()
    history = [{"loss": 1.4, "learning_rate": rate} for rate in rates for _ in range(20)]
    optimizer = more.pop("optimizer", torch.optim.Adam(network.parameters(), rates[-1]))
    observed = Observations.of(history, network, optimizer)
    sample = Sample(x, x[:, -2].argmax(-1), None)
    loss = as_loss(F.cross_entropy)
    return Evidence(network, sample, observed, loss=loss, optimizer=optimizer, **more)


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("learning_rate", 0.1, Change(rate=0.1 / 0.01)),
        ("schedule", "constant", Change(rate=0.1 / 0.01)),
        ("clip_norm", 2, Change(clip=2.0)),
        ("hidden_size", 20, Change(copies=5)),
        ("hidden_size", 400, Change(copies=8)),
        ("hidden_size", 6, None),
        ("num_layers", 1, Change(layers=1)),
        ("cell", "lstm", Change(cell="lstm")),
        ("cell", "rnn-relu", None),
        ("weight_decay", 0.0, Change(decay=False)),
        ("weight_decay", 0.1, None),
        ("init", "chrono", Change(init="chrono")),
        ("init", "identity", Change(init="identity")),
        ("window", 40, None),
    ],
)
def test_a_remedy_of_a_module_is_a_change_of_a_short_run(name, value, change):
    assert change_of(Remedy(name, value, ""), "exploding", evidence()) == change


def test_settings_of_an_estimator_are_those_of_a_fresh_network():
    settings = {"hidden_size": 4, "window": 8}
    e = evidence(optimizer=None, settings=settings, rebuild=lambda settings: Net(H=4))
    of = Change(settings=(("hidden_size", 6),))
    assert change_of(Remedy("hidden_size", 6, ""), "network too small", e) == of
    assert change_of(Remedy("window", 40, ""), "truncation too short", e) is None


def test_weights_from_a_new_start_are_judged_beside_those_there_are():
    network = Net(H=16)
    with torch.no_grad():
        network.rnn.bias_ih_l0[16:32] = 25.0  # its update gates are closed
    e = evidence(network, rates=(0.02,))
    finding = Finding("saturated gates", "", {}, [Remedy("init", "orthogonal", "start anew")])
    first = tried(finding, e).remedies[0]
    assert ", helped: " in first.gain
    kept = e.trial(Change(kept=True)).share
    assert first.gain.endswith(f"{max(0.0, kept):.0%} without")


def test_looser_clipping_is_judged_beside_the_clipping_that_is():
    network = Net(H=16)
    e = evidence(network, optimizer=torch.optim.SGD(network.parameters(), 1.0))
    finding = Finding("clipping too strong", "", {"clip": 1e-4}, [Remedy("clip_norm", 2, "looser")])
    assert ", helped: " in tried(finding, e).remedies[0].gain
    unknown = replace(finding, values={})
    assert "did not help" in tried(unknown, e).remedies[0].gain


def test_only_the_first_of_the_remedies_that_are_no_settings_is_tried():
    network = Net(H=16)
    network.rnn.requires_grad_(False)
    e = evidence(network, rates=(0.02,))
    remedies = [Remedy("", "", "let them learn"), Remedy("", "", "see where they are read")]
    first, second = tried(Finding("frozen parameters", "", {}, remedies), e).remedies
    assert first.why == "let them learn" and ", helped: " in first.gain
    assert second.gain == ""


@pytest.mark.parametrize(
    ("with_it", "told"),
    [(0.5, "tried for 320 steps, helped"), (0.01, "too short to tell")],
)
def test_a_run_in_which_nothing_is_learned_is_made_longer(monkeypatch, with_it, told):
    e = evidence()

    def trial(change):
        share = with_it if change.times > 1 and change.decay is False else 0.0
        return Trial(share, share, 80 * change.times, [])

    monkeypatch.setattr(e, "trial", trial)
    remedies = [Remedy("weight_decay", 0.0, "less"), Remedy("", "", "more rows")]
    first, second = tried(Finding("weight decay too strong", "", {}, remedies), e).remedies
    assert told in first.gain and second.gain == ""


def test_what_did_not_help_comes_last(monkeypatch):
    e = evidence()
    shares = {Change(decay=False): 0.3, Change(clip=1.0): 0.6}
    monkeypatch.setattr(e, "trial", lambda c: Trial(shares.get(c, 0.4), 0.4, 80, []))
    remedies = [Remedy("weight_decay", 0.0, "a"), Remedy("", "", "b"), Remedy("clip_norm", 1, "c")]
    ordered = tried(Finding("x", "", {}, remedies), e).remedies
    assert [r.why for r in ordered] == ["c", "b", "a"]
    assert [", helped: " in r.gain for r in ordered] == [True, False, False]


@pytest.mark.parametrize(("share", "first"), [(0.5, "init"), (0.05, "clip_norm")])
def test_where_fresh_weights_learn_those_that_explode_are_made_anew_first(
    monkeypatch, share, first
):
    network = Net(nn.RNN, H=32)
    nn.init.normal_(network.rnn.weight_hh_l0, 0, 1.0)
    e = evidence(network, steps=30)
    monkeypatch.setattr(e, "trial", lambda change=None: Trial(share, share, 80, []))
    found = next(exploding(Judgement(e, e.observed, Thresholds(), 0.0)))
    assert found.remedies[0].setting == first
    assert {r.setting for r in found.remedies} == {"init", "clip_norm", "cell", "learning_rate"}
