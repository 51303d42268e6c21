"""Short training runs: what they change of a network, and how they are judged."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ostinato.insight.chance import above_chance
from ostinato.insight.diagnosis import diagnose
from ostinato.insight.evidence import Evidence
from ostinato.insight.losses import as_loss
from ostinato.insight.trials import (
    Attached,
    Change,
    Copies,
    fresh,
    optimizer_of,
    remove_dropout,
)
from ostinato.training.evaluation import Sample
from ostinato.training.observations import Observations


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Loop(nn.Module):
    """A loop over a cell, with an output at every step, whose state is detached at times."""

    def __init__(self, cell=nn.GRUCell, every=0, H=16, K=4):
        super().__init__()
        self.cell, self.head, self.every = cell(K, H), nn.Linear(H, K), every

    def forward(self, x):
        state, outs = None, []
        for t in range(x.shape[1]):
            if self.every and state is not None and t % self.every == 0:
                many = isinstance(state, tuple)
                state = tuple(s.detach() for s in state) if many else state.detach()
            state = self.cell(x[:, t], state)
            outs.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(outs, 1))


def echo(rows=64, steps=12, delay=2, K=4):
    ids = torch.randint(K, (rows, steps), generator=torch.Generator().manual_seed(rows))
    y = ids.roll(delay, 1)
    y[:, :delay] = -100
    return F.one_hot(ids, K).float(), y


def evidence(network, x, y, loss=F.cross_entropy, optimizer=None, **more):
    made = optimizer or torch.optim.Adam(network.parameters(), 0.02)
    observed = Observations.of([1.0] * 20, network, made)
    held = more.pop("held_out", None)
    apart = None if held is None else Sample(*held, None)
    sample = Sample(x, y, None)
    return Evidence(network, sample, observed, loss=as_loss(loss), optimizer=made, held_out=apart)


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
@pytest.mark.parametrize("every", [1, 3])
def test_where_detach_does_nothing_gradients_are_those_of_the_whole_sequence(cell, every):
    cut, whole = Loop(cell, every), Loop(cell)
    whole.load_state_dict(cut.state_dict())
    x, y = echo(delay=5)

    def gradient(network):
        network.zero_grad()
        F.cross_entropy(network(x).flatten(0, 1), y.flatten()).backward()
        return network.cell.weight_hh.grad.clone()

    expected = gradient(whole)
    assert not torch.allclose(gradient(cut), expected, rtol=1e-3)
    with Attached():
        torch.testing.assert_close(gradient(cut), expected)
    assert not torch.allclose(gradient(cut), expected, rtol=1e-3)  # as before


@pytest.mark.parametrize("every", [1, 2])
def test_a_state_that_is_detached_is_proven_by_a_run_in_which_it_is_not(every):
    x, y = echo(rows=256, steps=6, delay=2)
    network = Loop(every=every, H=32)
    found = diagnose(network, (x, y), loss=nn.CrossEntropyLoss(), history=[1.4] * 60,
                     optimizer=torch.optim.Adam(network.parameters(), 0.02))  # fmt: skip
    assert found.first == ("state detached" if every == 1 else "truncation too short")
    assert found.findings[0].values == {"reach": every, "steps": 6}
    assert found.findings[0].evidence[0].startswith("+ in 80 steps")
    right = diagnose(Loop(), (x, y), loss=nn.CrossEntropyLoss())
    assert not {"state detached", "truncation too short"} & {f.issue for f in right.findings}


@pytest.mark.parametrize("count", [2, 5])
def test_copies_are_a_wider_network_in_blocks(count):
    x, _ = echo()
    networks = [Loop(H=3) for _ in range(count)]
    scores = torch.stack([network(x) for network in networks])
    torch.testing.assert_close(Copies(networks)(x), scores.sum(0) / count**0.5)
    chances = [nn.Sequential(network, nn.Softmax(-1)) for network in networks]
    torch.testing.assert_close(Copies(chances)(x), scores.softmax(-1).mean(0))


def test_a_run_of_copies_trains_all_of_them_by_the_groups_of_the_optimizer():
    x, y = echo()
    network = Loop(H=2)
    groups = [{"params": network.cell.parameters()}, {"params": network.head.parameters(), "lr": 0}]
    e = evidence(network, x, y, optimizer=torch.optim.SGD(groups, 0.5))
    wide = fresh(e.start, Change(copies=3))
    before = [p.clone() for p in wide.parameters()]
    made = optimizer_of(e.start, Change(copies=3), wide)
    F.cross_entropy(wide(x).flatten(0, 1), y.flatten()).backward()
    made.step()
    changed = {
        name: not torch.equal(p, old)
        for (name, p), old in zip(wide.named_parameters(), before, strict=True)
    }
    assert all(is_new == ("cell" in name) for name, is_new in changed.items())


def test_copies_of_a_network_of_one_unit_learn_what_one_cannot():
    x, y = echo(rows=256, steps=6, delay=1)
    network = Loop(H=1)
    e = evidence(network, x, y, optimizer=torch.optim.Adam(network.parameters(), 0.05))
    alone, many = e.trial(), e.trial(Change(copies=8))
    assert many.share > alone.share + 0.2 and many.training > alone.training + 0.2


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("both", [False, True])
def test_a_stack_is_made_shallow_with_its_options(kind, both):
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(4, 8, 6, batch_first=True, bidirectional=both, bias=False)
            self.head = nn.Linear(16 if both else 8, 4)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    x, y = echo()
    e = evidence(Stack(), x, y)
    single = fresh(e.start, Change(layers=1))
    assert single.rnn.num_layers == 1 and len([*single.rnn.parameters()]) == (4 if both else 2)
    assert single(x).shape == (64, 12, 4)
    assert e.network.rnn.num_layers == 6
    assert math.isfinite(e.trial(Change(layers=1)).share)


@pytest.mark.parametrize(("cell", "kind", "gates"), [("lstm", nn.LSTM, 4), ("gru", nn.GRU, 3)])
def test_plain_layers_are_replaced_by_gated_ones_with_their_options(cell, kind, gates):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(4, 8, 2, bias=False, batch_first=True, dropout=0.3)
            self.gated = nn.GRU(8, 4, batch_first=True)

        def forward(self, x):
            return self.gated(self.rnn(x)[0])[0]

    e = evidence(Two(), *echo())
    made = fresh(e.start, Change(cell=cell))
    assert type(made.rnn) is kind and made.rnn.weight_hh_l1.shape == (8 * gates, 8)
    assert (made.rnn.batch_first, made.rnn.bias, made.rnn.dropout) == (True, False, 0.3)
    assert type(made.gated) is nn.GRU and type(e.network.rnn) is nn.RNN
    assert math.isfinite(e.trial(Change(cell=cell)).share)


def test_a_run_starts_from_fresh_weights_or_from_those_there_are():
    network = Loop()
    e = evidence(network, *echo())
    own, kept, made = (net.state_dict() for net in (
        network, fresh(e.start, Change(kept=True)), fresh(e.start, Change())
    ))  # fmt: skip
    assert all(torch.equal(own[name], kept[name]) for name in own)
    assert not any(torch.equal(own[name], made[name]) for name in own)


def test_held_out_rows_are_divided_into_those_to_learn_from_and_to_judge_on():
    x, y = echo()
    seen = []

    def loss(model, x, y, lengths):
        seen.append(len(x))
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    e = evidence(Loop(H=32), x, y, loss, held_out=echo(rows=61))
    assert e.trial(Change(held_out=True)).above_chance > 10
    assert {30, 31} <= set(seen)
    few = evidence(Loop(), x, y, held_out=echo(rows=40))
    assert few.trial(Change(held_out=True)) is None


def test_dropout_is_gone_and_nothing_else():
    network = nn.Sequential(nn.Dropout(0.5), nn.LSTM(4, 4, 2, dropout=0.3))
    remove_dropout(network)
    x = torch.randn(3, 2, 4)
    torch.testing.assert_close(network.train()(x)[0], network.eval()(x)[0])


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_deviations_above_chance_are_those_of_independent_guesses(share):
    """Under chance they have mean 0 and deviation 1, and what is known stands out."""
    random = torch.Generator().manual_seed(1)

    def draw():
        p = torch.tensor([share, 1 - share])
        return torch.multinomial(p, 200, True, generator=random)

    found = []
    for _ in range(400):
        true, guess = draw(), draw()
        sample = Sample(torch.zeros(200, 3, 1), true, None)
        found.append(above_chance(F.one_hot(guess, 2).float(), sample, "category"))
    found = torch.tensor(found)
    assert abs(float(found.mean())) < 0.2 and 0.8 < float(found.std()) < 1.2
    known = Sample(torch.zeros(200, 3, 1), true, None)
    assert above_chance(F.one_hot(true, 2).float(), known, "category") > 5


def test_deviations_of_numbers_are_those_of_their_correlation():
    sample = Sample(torch.zeros(100, 3, 1), y := torch.randn(100, 1), None)
    assert above_chance(3 * y - 1, sample, "number") == pytest.approx(10)
    assert above_chance(-y, sample, "number") == pytest.approx(-10)
    assert abs(above_chance(torch.randn(100, 1), sample, "number")) < 4
    assert above_chance(torch.zeros(100, 1), sample, "number") == 0
    assert math.isnan(above_chance(torch.full((100, 1), math.nan), sample, "number"))
    assert math.isnan(above_chance(None, sample, "number"))


def test_padding_counts_in_no_prediction():
    lengths = torch.tensor([3, 1] * 10)
    y = torch.randint(2, (20, 3))
    right = F.one_hot(y, 2).float()
    outside = torch.arange(3) >= lengths[:, None]
    wrong = torch.where(outside[..., None], 1 - right, right)
    sample = Sample(torch.zeros(20, 3, 1), y, lengths)
    inside = above_chance(right, sample, "category")
    assert above_chance(wrong, sample, "category") == inside > 3
