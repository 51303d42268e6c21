"""Each cause on networks that have it, of several kinds, and on near ones that do not."""

import ast
import inspect
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import ostinato
from ostinato.insight import Observations, diagnose, free_checks
from ostinato.insight.causes import CAUSES, by_name
from ostinato.networks.seq2seq import Decoder, EncoderDecoder, RecurrentEncoder
from ostinato.training.thresholds import Thresholds

B, T = 64, 20
FLAT = [1.4 + 0.01 * (-1) ** i for i in range(100)]
"""Losses of a run in which nothing was learned."""


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Net(nn.Module):
    """What people write: a recurrent layer and a head, on the last step or on all."""

    def __init__(self, kind=nn.GRU, I=3, H=16, K=4, steps="last", post=None, **more):
        super().__init__()
        self.rnn = kind(I, H, **{"batch_first": True, **more})
        self.head = nn.Linear(H * (1 + self.rnn.bidirectional), K)
        self.steps, self.post = steps, post or (lambda y: y)

    def forward(self, x):
        h, _ = self.rnn(x)
        h = h if self.steps == "all" else h.mean(1) if self.steps == "mean" else h[:, -1]
        return self.post(self.head(h))


def waves(rows=B, steps=T, K=4, I=3):
    """Which of K frequencies a wave has; the other features are noise."""
    y = torch.arange(rows) % K
    t = torch.arange(steps)[None] * (0.2 + 0.3 * y[:, None])
    x = torch.randn(rows, steps, I)
    x[..., 0] = torch.sin(t + 6.28 * torch.rand(rows, 1)) + 0.1 * torch.randn(rows, steps)
    return x, y


def train(net, x, y, loss, rate=0.01, steps=60, optimizer=torch.optim.Adam, **options):
    made = optimizer(net.parameters(), rate, **options)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(x), (32,))
        made.zero_grad()
        value = loss(net(x[rows]), y[rows])
        value.backward()
        made.step()
        losses.append(value.item())
    return {"history": losses, "optimizer": made}


def found(net, x, y, loss=None, **more):
    return diagnose(net, (x, y), loss=loss or nn.CrossEntropyLoss(), **more)


def named(diagnosis):
    return [finding.issue for finding in diagnosis.findings]


# Loss and output


@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("loss", [
    nn.CrossEntropyLoss(),
    F.cross_entropy,
    nn.CrossEntropyLoss(label_smoothing=0.1),
    lambda model, x, y, lengths: F.cross_entropy(model(x), y),
])  # fmt: skip
def test_softmax_before_cross_entropy(loss, K):
    x, y = waves(K=K)
    assert found(Net(K=K, post=lambda s: s.softmax(-1)), x, y, loss).first == (
        "softmax before cross-entropy"
    )


@pytest.mark.parametrize(("post", "loss"), [
    (lambda s: s, nn.CrossEntropyLoss()),
    (lambda s: s.log_softmax(-1), nn.NLLLoss()),
    (lambda s: s.log_softmax(-1), nn.CrossEntropyLoss()),  # the same as once
    (lambda s: s.softmax(-1), lambda p, y: F.nll_loss(p.log(), y)),
    (lambda s: s.softmax(-1), lambda p, y: (p - F.one_hot(y, 4)).square().sum(-1).mean()),
])  # fmt: skip
def test_probabilities_that_the_loss_takes_as_such_are_right(post, loss):
    x, y = waves()
    diagnosis = found(Net(post=post), x, y, loss)
    assert "softmax before cross-entropy" not in named(diagnosis)
    assert diagnosis.improvement == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("loss", [
    nn.BCEWithLogitsLoss(),
    nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
    lambda model, x, y, lengths: F.binary_cross_entropy_with_logits(model(x), y),
])  # fmt: skip
def test_sigmoid_before_logits(loss):
    x, y = waves(K=2)
    net = Net(K=1, post=lambda s: s.sigmoid())
    assert found(net, x, y[:, None].float(), loss).first == "sigmoid before BCE with logits"
    right = found(Net(K=1), x, y[:, None].float(), loss)
    assert "sigmoid before BCE with logits" not in named(right)


def test_sigmoid_before_bce_is_right():
    x, y = waves(K=2)
    net = Net(K=1, post=lambda s: s.sigmoid())
    for loss in (nn.BCELoss(), nn.MSELoss()):
        diagnosis = found(net, x, y[:, None].float(), loss)
        assert "sigmoid before BCE with logits" not in named(diagnosis)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss()])
def test_shapes_that_broadcast(loss):
    x, y = torch.randn(B, T, 3), torch.randn(B)
    assert found(Net(K=1), x, y, loss).first == "shapes broadcast"
    squeezed = Net(K=1, post=lambda s: s.squeeze(-1))
    assert "shapes broadcast" not in named(found(squeezed, x, y, loss))


# Rows, calls, padding


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_batch_and_time_swapped(kind):
    x, y = waves()
    diagnosis = found(Net(kind, batch_first=False), x, y)
    assert diagnosis.first == "batch and time swapped"
    assert "batch_first=True" in str(diagnosis.findings[0].remedies[0])


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][-1])


def test_time_first_is_right_where_the_data_are_so():
    x, y = waves()
    right = diagnose(TimeFirst(), (x.transpose(0, 1), y), loss=F.cross_entropy)
    assert "batch and time swapped" not in named(right)
    inside = found(TimeFirst(), x, y, lambda m, x, y, lengths: F.cross_entropy(
        m(x.transpose(0, 1)), y))  # fmt: skip
    assert "batch and time swapped" not in named(inside)
    swapped = diagnose(
        BatchFirstOnTimeFirst(), (x.transpose(0, 1), y), loss=F.cross_entropy, history=FLAT
    )
    assert swapped.first == "batch and time swapped"


class BatchFirstOnTimeFirst(TimeFirst):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 16, batch_first=True)


class Stateful(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.rnn, self.head = kind(3, 16, batch_first=True), nn.Linear(16, 4)
        self.state = None

    def forward(self, x):
        h, state = self.rnn(x, self.state)
        self.state = tuple(s.detach() for s in state) if isinstance(state, tuple) else (
            state.detach()
        )  # fmt: skip
        return self.head(h[:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_state_that_leaks(kind):
    x, y = waves()
    net = Stateful(kind)
    net(x)
    kept = net.state
    assert found(net, x, y).first == "state leaks between batches"
    assert net.state is kept  # the user's module is as it was


def test_randomness_is_no_state():
    class Noisy(Net):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.1, training=True)

    x, y = waves()
    assert "state leaks between batches" not in named(found(Noisy(), x, y))


def padded(rows=B, steps=T):
    x, y = waves(rows, steps)
    lengths = torch.randint(5, steps + 1, (rows,))
    lengths[0] = steps
    x[torch.arange(steps)[None] >= lengths[:, None]] = 0
    return x, y, lengths


class Packed(Net):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h, ends = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(h[torch.arange(len(x)), ends - 1])


class Masked(Net):
    def forward(self, x):
        ends = (x != 0).any(-1).sum(1)  # its own lengths, by zeros
        return self.head(self.rnn(x)[0][torch.arange(len(x)), ends - 1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("given", [True, False])
def test_the_last_step_read_from_padding(kind, given):
    x, y, lengths = padded()
    data = (x, y, lengths) if given else (x, y)
    for steps in ("last", "mean"):
        net = Net(kind, steps=steps)
        assert diagnose(net, data, loss=F.cross_entropy).first == "padding read"


def test_padding_that_is_left_out_is_right():
    x, y, lengths = padded()
    for net in (Packed(), Masked()):
        diagnosis = diagnose(net, (x, y, lengths), loss=F.cross_entropy)
        assert "padding read" not in named(diagnosis)
    full = diagnose(Net(), (x, y, torch.full((B,), T)), loss=F.cross_entropy)
    assert "padding read" not in named(full)


@pytest.mark.parametrize("number", [True, False])
def test_padding_in_the_loss(number):
    x, _, lengths = padded()
    outside = torch.arange(T)[None] >= lengths[:, None]
    if number:
        y = x[..., 0].roll(1, 1).masked_fill(outside, 0.0)[..., None]
        loss, masked = (
            nn.MSELoss(),
            lambda m, x, y, n: (m(x) - y).square()[~outside_of(x, n)].mean(),
        )
    else:
        y = (x[..., 0] > 0).long().masked_fill(outside, 0)
        loss = nn.CrossEntropyLoss()

        def masked(m, x, y, n):
            return F.cross_entropy(m(x)[~outside_of(x, n)], y[~outside_of(x, n)])

    net = Net(steps="all", K=1 if number else 2)
    data = (x, y, lengths)
    assert "padding in the loss" in named(diagnose(net, data, loss=loss))
    assert "padding in the loss" not in named(diagnose(net, data, loss=masked))
    if not number:
        ignored = y.masked_fill(outside, -100)
        right = diagnose(net, (x, ignored, lengths), loss=loss)
        assert "padding in the loss" not in named(right)


def outside_of(x, lengths):
    return torch.arange(x.shape[1])[None] >= lengths[:, None]


# Past and future


@pytest.mark.parametrize("tokens", [True, False])
def test_a_bidirectional_network_that_reads_what_it_predicts(tokens):
    if tokens:
        series = torch.randint(6, (B, T + 1))
        body = nn.Embedding(6, 3)
        x, y, loss, K = series[:, :-1], series[:, 1:], nn.CrossEntropyLoss(), 6
    else:
        series = torch.randn(B, T + 1, 3)
        body = nn.Identity()
        x, y, loss, K = series[:, :-1], series[:, 1:, :1], nn.MSELoss(), 1
    both = nn.Sequential(body, Net(steps="all", K=K, bidirectional=True))
    assert found(both, x, y, loss).first == "future read"
    forward = nn.Sequential(body, Net(steps="all", K=K))
    assert "future read" not in named(found(forward, x, y, loss))
    tags = torch.randint(2, (B, T))  # a tagger may look ahead
    tagger = nn.Sequential(body, Net(steps="all", K=2, bidirectional=True))
    assert "future read" not in named(found(tagger, x, tags))


def test_truncation_shorter_than_the_distance():
    x, y = waves()
    assert found(Net(), x, y, distance=39).first == "truncation too short"
    assert "truncation too short" not in named(found(Net(), x, y, distance=T - 1))
    assert "truncation too short" not in named(found(Net(), x, y, distance=T))
    assert "truncation too short" in named(found(Net(), x, y, distance=T + 1))


def test_state_that_should_be_carried():
    # A slow wave, and what it was 12 steps ago; rows of 8 steps continue each other.
    series = torch.sin(torch.arange(8 * 65) * 0.1)[:, None]
    x, y = series[: 8 * 64].view(64, 8, 1), series.roll(12, 0)[: 8 * 64].view(64, 8, 1)

    class Delay(nn.Module):  # a perfect memory of 12 steps, from zeros in each row
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(1, 13, batch_first=True)
            with torch.no_grad():
                for p in self.rnn.parameters():
                    p.zero_()
                self.rnn.weight_ih_l0[0, 0] = 0.01
                self.rnn.weight_hh_l0[1:, :-1] = torch.eye(12)

        def forward(self, x):
            return 100 * self.rnn(x)[0][..., 12:]

    assert "state not carried" in named(found(Delay(), x, y, nn.MSELoss()))
    order = torch.randperm(64)
    apart = found(Delay(), x[order], y[order], nn.MSELoss())
    assert "state not carried" not in named(apart)


def test_the_gap_of_teacher_forcing():
    x, y = waves()
    near, far = ((lambda m, x, y, n, f=f: f * F.cross_entropy(m(x), y)) for f in (1.2, 5.0))
    assert "teacher forcing gap" in named(found(Net(), x, y, free_running=far))
    assert "teacher forcing gap" not in named(found(Net(), x, y, free_running=near))


@pytest.mark.thorough
@pytest.mark.parametrize("told", [False, True])
def test_a_decoder_that_cannot_go_on_from_its_own_tokens(told):
    # Each token is the one before plus one; the first is in the source, or nowhere.
    first = torch.randint(6, (256, 1))
    y = (first + torch.arange(8)) % 6
    x = first.expand(-1, 3) if told else torch.randint(6, (256, 3))
    encoder = RecurrentEncoder(nn.Embedding(6, 8), ostinato.GRU(8, 24, batch_first=True))
    decoder = Decoder(6, ostinato.GRU(8, 24, batch_first=True), encoder.output_size, 8)
    network = EncoderDecoder(encoder, decoder)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(80):
        optimizer.zero_grad()
        network.loss(x[:64], y[:64])[0].backward()
        optimizer.step()
    issues = named(diagnose(network, (x[64:96], y[64:96])))
    assert ("teacher forcing gap" in issues) is not told


@pytest.mark.thorough
def test_a_series_that_blows_up_when_it_is_fed_back():
    t = 0.3 * torch.arange(25)[None] + 6.28 * torch.rand(64, 1)
    series = torch.sin(t)[..., None]
    x, y = series[:, :-1], series[:, 1:]

    class Line(nn.Module):  # exact on a sine: y[t] = 2 cos(w) x[t] - x[t - 1]
        def __init__(self, off):
            super().__init__()
            self.rnn, self.off = nn.RNN(1, 2, batch_first=True), off
            with torch.no_grad():
                self.rnn.weight_ih_l0.copy_(torch.tensor([[1e-3], [0.0]]))
                self.rnn.weight_hh_l0.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
                self.rnn.bias_ih_l0.zero_()
                self.rnn.bias_hh_l0.zero_()

        def forward(self, x):
            h = 1e3 * self.rnn(x)[0]
            return 1.3 * h[..., :1] if self.off else 2 * math.cos(0.3) * h[..., :1] - h[..., 1:]

    good = found(Line(False), x, y, nn.MSELoss())
    assert "teacher forcing gap" not in named(good)
    assert "teacher forcing gap" in named(found(Line(True), x, y, nn.MSELoss()))


# Parameters


class Detached(Net):
    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1].detach())


class NoGrad(Net):
    def forward(self, x):
        with torch.no_grad():
            h = self.rnn(x)[0][:, -1]
        return self.head(h)


@pytest.mark.parametrize("make", [Detached, NoGrad])
def test_a_graph_that_is_cut(make):
    x, y = waves()
    diagnosis = found(make(), x, y)
    assert diagnosis.first == "no gradient"
    assert diagnosis.findings[0].values["parameters"] == 4


def test_frozen_parameters():
    x, y = waves()
    net = Net()
    net.rnn.requires_grad_(False)
    assert found(net, x, y).first == "frozen parameters"
    head = Net()
    head.rnn.weight_hh_l0.requires_grad_(False)
    assert found(head, x, y).first == "frozen parameters"
    assert "frozen parameters" not in named(found(Net(), x, y))


def test_parameters_that_the_optimizer_was_not_given():
    x, y = waves()
    net = Net()
    for given in (net.head, net.rnn):
        optimizer = torch.optim.Adam(given.parameters(), 0.01)
        assert found(net, x, y, optimizer=optimizer).first == "parameters not in the optimizer"
    other = torch.optim.SGD(Net().parameters(), 0.01)  # of another copy
    assert found(net, x, y, optimizer=other).first == "parameters not in the optimizer"
    whole = torch.optim.Adam(net.parameters(), 0.01)
    assert "parameters not in the optimizer" not in named(found(net, x, y, optimizer=whole))


def test_weights_that_never_change():
    x, y = waves()
    net = Net()
    start = {name: p.clone() for name, p in net.state_dict().items()}
    assert found(net, x, y, initial=start).first == "unchanged weights"
    train(net.head, torch.randn(B, 16), y, F.cross_entropy, steps=3)
    part = found(net, x, y, initial=start)
    assert part.first == "unchanged weights" and part.findings[0].values["parameters"] == 4
    train(net, x, y, F.cross_entropy, steps=3)
    assert "unchanged weights" not in named(found(net, x, y, initial=start))


# What training shows for free


def records(**columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def issues(observed):
    return [finding.issue for finding in free_checks(observed)]


def test_gradients_that_add_up():
    noise = torch.rand(200).tolist()
    growing = records(loss=FLAT * 2, grad_norm=[1 + 0.2 * i + 0.1 * n for i, n in enumerate(noise)])
    assert "gradients never zeroed" in issues(Observations.of(growing))
    assert "gradients never zeroed" in issues(Observations.of(FLAT, kept=1.0))
    noisy = records(loss=FLAT * 2, grad_norm=[1 + 5 * n for n in noise])
    assert "gradients never zeroed" not in issues(Observations.of(noisy))
    exploding = records(loss=FLAT * 2, grad_norm=[math.exp(0.05 * i) for i in range(200)])
    assert "gradients never zeroed" not in issues(Observations.of(exploding))


def test_gradients_that_a_network_holds_from_many_steps():
    x, y = waves()
    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        net = Net()
        made = optimizer(net.parameters(), 1e-4)
        for _ in range(60):
            F.cross_entropy(net(x), y).backward()
            made.step()
        assert "gradients never zeroed" in named(found(net, x, y, optimizer=made, history=FLAT))
        made.zero_grad()
        F.cross_entropy(net(x), y).backward()
        assert "gradients never zeroed" not in named(found(net, x, y, optimizer=made))


def test_steps_that_are_too_short_by_what_they_move():
    tiny = Observations.of(FLAT, update=1e-6)
    assert issues(tiny)[0] == "learning rate too low"
    assert "learning rate too low" not in issues(Observations.of(FLAT, update=1e-2))


def test_clipping_and_decay_that_bind():
    norms = records(loss=FLAT, grad_norm=[50.0] * 100)
    bound = replace(Observations.of(norms), clip_norm=0.1, optimizer="sgd")
    assert "clipping too strong" in issues(bound)
    assert "clipping too strong" not in issues(replace(bound, clip_norm=40.0))
    assert "clipping too strong" not in issues(replace(bound, optimizer="adam"))
    rates = {"rates": [0.01], "weight_decay": 1.0}
    assert "weight decay too strong" in issues(Observations(losses=FLAT, **rates))
    usual = Observations(losses=FLAT, rates=[0.01], weight_decay=0.01)
    assert "weight decay too strong" not in issues(usual)


def test_losses_of_any_form_are_read():
    by_name = Observations.of([{"train_loss": 2.0, "lr": 0.1, "val_loss": 1.0}])
    assert by_name.losses == [2.0] and by_name.rates == [0.1] and by_name.evaluations == [(1, 1.0)]
    plain = Observations.of([3.0, float("nan"), torch.tensor(1.0)])
    assert plain.steps == [1, 2, 3] and math.isnan(plain.losses[1]) and plain.finite == [3.0, 1.0]


# Data


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_data_that_are_not_finite(bad):
    x, y = waves()
    x[5, 7, 1] = bad
    diagnosis = found(Net(), x, y)
    assert diagnosis.first == "not finite in the data" and len(diagnosis.findings) == 1
    assert "[5, 7, 1]" in diagnosis.findings[0].message
    targets = torch.randn(B, 1)
    targets[3] = bad
    assert found(Net(K=1), torch.randn(B, T, 3), targets, nn.MSELoss()).first == (
        "not finite in the data"
    )


def test_features_that_tell_nothing():
    x, y = waves()
    x[..., 2] = 5.0
    assert "constant feature" in named(found(Net(), x, y))
    x[..., 2] = -2 * x[..., 1]
    assert "duplicate features" in named(found(Net(), x, y))
    x, y = waves()
    near = named(found(Net(), x, y))
    assert not {"constant feature", "duplicate features"} & {*near}
    one_hot = F.one_hot(torch.randint(2, (B, T)), 3).float()  # never the third; the first is not
    near = named(found(Net(), one_hot, y))  # the second
    assert not {"constant feature", "duplicate features"} & {*near}


def test_outliers_in_inputs_and_targets():
    x, y = waves()
    x[3, 4, 1] = 5000.0
    assert "outliers" in named(found(Net(), x, y))
    x, numbers = torch.randn(B, T, 3), torch.randn(200, 1)[:B]
    numbers[7] = -3000.0
    targets = torch.cat([numbers, torch.randn(B, 1)])
    long = torch.randn(2 * B, T, 3)
    assert "outliers" in named(found(Net(K=1), long, targets, nn.MSELoss()))
    heavy = torch.distributions.StudentT(3.0).sample((B, T, 3))
    assert "outliers" not in named(found(Net(), heavy, y))


def test_one_class_that_hides_the_others():
    x = torch.randn(200, T, 3)
    y = (torch.arange(200) % 20 == 0).long()
    net = Net(K=2)
    with torch.no_grad():
        net.head.bias.copy_(torch.tensor([3.0, 0.0]))
    assert "class imbalance" in named(found(net, x, y))
    single = Net(K=1)
    with torch.no_grad():
        single.head.bias.fill_(-3.0)
    binary = found(single, x, y[:, None].float(), nn.BCEWithLogitsLoss())
    assert "class imbalance" in named(binary)
    even = torch.arange(200) % 2
    assert "class imbalance" not in named(found(net, x, even))


def test_a_feature_that_is_the_target():
    x, y = waves()
    x[..., 2] = y[:, None].float()
    assert "leaky feature" in named(found(Net(), x, y))
    numbers = torch.randn(B, 1)
    x, _ = waves()
    x[:, -1, 1] = 3 * numbers[:, 0] + 1e-4 * torch.randn(B)
    assert "leaky feature" in named(found(Net(K=1), x, numbers, nn.MSELoss()))
    tokens = torch.randint(6, (B, T))
    same = nn.Sequential(nn.Embedding(6, 3), Net(steps="all", K=6))
    assert "leaky feature" in named(found(same, tokens, tokens))
    # Near: the next value of a smooth series, and a threshold on an input.
    t = torch.arange(T + 1)[None] * 0.02 + 6.28 * torch.rand(B, 1)
    series = torch.sin(t)[..., None]
    smooth = found(Net(I=1, K=1), series[:, :-1], series[:, -1], nn.MSELoss())
    assert "leaky feature" not in named(smooth)
    x, _ = waves()
    assert "leaky feature" not in named(found(Net(K=2), x, (x[:, -1, 1] > 0).long()))


# What short training runs tell


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_rate_that_is_far_too_low(kind):
    x, y = waves(256)
    net = Net(kind)
    run = train(net, x, y, F.cross_entropy, rate=1e-6)
    diagnosis = found(net, x, y, **run, held_out=waves(128))
    assert diagnosis.first == "learning rate too low"
    assert diagnosis.findings[0].remedies[0].setting == "learning_rate"


@pytest.mark.thorough
@pytest.mark.parametrize(("optimizer", "rate"), [(torch.optim.Adam, 1.0), (torch.optim.SGD, 300)])
def test_a_rate_that_is_far_too_high(optimizer, rate):
    x, y = waves(256)
    net = Net()
    run = train(net, x, y, F.cross_entropy, rate=rate, optimizer=optimizer)
    assert found(net, x, y, **run, held_out=waves(128)).first == "learning rate too high"


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_what_has_learned_is_healthy(kind):
    x, y = waves(256)
    net = Net(kind, H=32)
    run = train(net, x, y, F.cross_entropy, rate=0.01, steps=150)
    held_out = waves(128)
    diagnosis = found(net, x, y, **run, held_out=held_out)
    assert diagnosis.healthy and diagnosis.verdict == "healthy", str(diagnosis)
    with torch.no_grad():
        constant = math.log(4)
        loss = float(F.cross_entropy(net(held_out[0]), held_out[1]))
    assert diagnosis.held_out_improvement == pytest.approx(1 - loss / constant, abs=1e-3)
    assert diagnosis.constant == pytest.approx(constant, abs=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("factor", [1000.0, 0.0005])
def test_inputs_and_targets_that_are_not_scaled(factor):
    x, y = waves(256)
    wrong = x * factor + (2000.0 if factor > 1 else 0.0)
    net = Net()
    run = train(net, wrong, y, F.cross_entropy)
    assert "inputs not scaled" in named(found(net, wrong, y, **run))[:2]


@pytest.mark.thorough
def test_targets_that_are_not_scaled():
    x = torch.randn(256, T, 3)
    y = 400 + 50 * x.mean(1)[:, :1] * T**0.5
    net = Net(K=1)
    run = train(net, x, y, nn.MSELoss(), rate=0.001)
    assert found(net, x, y, nn.MSELoss(), **run).first == "targets not scaled"
    scaled = (y - y.mean()) / y.std()
    run = train(net := Net(K=1), x, scaled, nn.MSELoss(), steps=100)
    assert "targets not scaled" not in named(found(net, x, scaled, nn.MSELoss(), **run))


@pytest.mark.thorough
def test_labels_that_belong_to_other_rows():
    for seed, K in enumerate((2, 4, 4)):
        torch.manual_seed(seed)
        x, y = waves(64, K=K)
        y = y[torch.randperm(64)]
        net = Net(H=48, K=K)
        run = train(net, x, y, F.cross_entropy, rate=0.02, steps=250)
        diagnosis = found(net, x, y, **run, held_out=waves(128, K=K))
        assert diagnosis.first == "labels unrelated to inputs"


@pytest.mark.thorough
def test_dropout_that_leaves_nothing():
    x, y = waves(256)
    for rate in (0.9, 0.97):
        net = nn.Sequential(nn.Dropout(rate), Net())
        run = train(net, x, y, F.cross_entropy, steps=40)
        assert "dropout too strong" in named(found(net, x, y, **run))
    light = nn.Sequential(nn.Dropout(0.1), Net())
    assert "dropout too strong" not in named(found(light, x, y))


@pytest.mark.thorough
def test_decay_that_leaves_nothing():
    x, y = waves(256)
    for optimizer, decay in ((torch.optim.AdamW, 30.0), (torch.optim.Adam, 1.0)):
        net = Net()
        run = train(net, x, y, F.cross_entropy, optimizer=optimizer, weight_decay=decay)
        assert found(net, x, y, **run).first == "weight decay too strong"


@pytest.mark.thorough
def test_a_network_that_is_too_large_for_its_rows():
    x, y = waves(24)
    x = x + 1.5 * torch.randn(x.shape)
    net = Net(H=64)
    run = train(net, x, y, F.cross_entropy, rate=0.02, steps=200)
    apart = waves(256)
    noisy = (apart[0] + 0.8 * torch.randn(apart[0].shape), apart[1])
    issues = named(found(net, x, y, **run, held_out=noisy))
    assert issues[0] in ("overfitting", "labels unrelated to inputs")


# What is seen in gradients, states and calls


class CellLoop(nn.Module):
    """A loop over a cell; ``carry`` passes the state on."""

    def __init__(self, cell=nn.GRUCell, carry=True, I=3, H=16, K=4):
        super().__init__()
        self.cell, self.head, self.carry = cell(I, H), nn.Linear(H, K), carry

    def forward(self, x):
        state = None
        for t in range(x.shape[1]):
            new = self.cell(x[:, t], state)
            state = new if self.carry else None
        return self.head(new[0] if isinstance(new, tuple) else new)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_a_state_that_no_step_passes_on(cell):
    x, y = waves()
    assert found(CellLoop(cell, carry=False), x, y).first == "state not carried"
    assert "state not carried" not in named(found(CellLoop(cell), x, y))

    class Calls(Net):  # a layer, called a step at a time
        def forward(self, x):
            return self.head(torch.stack([self.rnn(part)[0][:, -1] for part in x.split(1, 1)])[-1])

    assert found(Calls(), x, y).first == "state not carried"


@pytest.mark.parametrize(("kind", "value"), [(nn.LSTM, 0.0), (nn.GRU, 0.05), (nn.RNN, 0.05)])
def test_units_that_were_initialised_equal(kind, value):
    x, y = waves()
    net = Net(kind)
    assert "identical units" not in named(found(net, x, y))
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(value)
    assert found(net, x, y).first == "identical units"


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_padding_so_long_that_more_of_it_changes_nothing(kind):
    x, y, lengths = padded()
    x = torch.cat([x, torch.zeros(B, 150, 3)], 1)
    net = Net(kind)
    with torch.no_grad():
        net.rnn.weight_hh_l0 *= 0.1  # which forgets in a few steps
    diagnosis = diagnose(net, (x, y, lengths), loss=F.cross_entropy)
    assert diagnosis.first == "padding read"
    assert diagnosis.findings[0].values["beyond"] > 0.99
    right = diagnose(Packed(kind), (x, y, lengths), loss=F.cross_entropy)
    assert "padding read" not in named(right)


@pytest.mark.parametrize("make", [CellLoop, Net])
def test_what_enters_a_layer_is_that_of_all_its_steps(make):
    x, y = waves()
    x = x * torch.linspace(0, 30, T)[:, None]  # small at the first step
    issues = [f.issue for f in found(make(), x, y).findings]
    assert "inputs not scaled" in issues


def test_layers_in_a_plain_list():
    class Listed(nn.Module):
        def __init__(self, made=list):
            super().__init__()
            self.layers, self.head = made([nn.GRU(3, 16, batch_first=True)]), nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.layers[0](x)[0][:, -1])

    x, y = waves()
    diagnosis = found(Listed(), x, y)
    assert diagnosis.first == "parameters not in the optimizer"
    assert "layers" in diagnosis.findings[0].message
    assert "nn.ModuleList" in str(diagnosis.findings[0].remedies[0])
    assert "parameters not in the optimizer" not in named(found(Listed(nn.ModuleList), x, y))


@pytest.mark.parametrize("vectors", [torch.zeros(9, 3), torch.full((9, 3), 0.2)])
def test_a_frozen_embedding_of_equal_rows(vectors):
    x, y = torch.randint(9, (B, T)), torch.arange(B) % 4
    equal = nn.Sequential(nn.Embedding.from_pretrained(vectors), Net())
    diagnosis = found(equal, x, y)
    assert diagnosis.first == "frozen parameters" and "equal" in diagnosis.findings[0].message
    usual = nn.Sequential(nn.Embedding.from_pretrained(torch.randn(9, 3)), Net())
    messages = [f.message for f in found(usual, x, y).findings]
    assert not any("equal" in message for message in messages)


def test_gradients_that_add_up_are_told_from_large_ones_by_how_they_change():
    x, y = waves()
    net = Net()
    F.cross_entropy(net(x), y).backward()
    one = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters()))
    net.zero_grad()
    summed = records(loss=FLAT, grad_norm=[one * (60 + math.sin(k)) for k in range(100)])
    assert "gradients never zeroed" in named(found(net, x, y, history=summed))
    noisy = records(loss=FLAT, grad_norm=[one * 60 * (1 + k % 3) for k in range(100)])
    assert "gradients never zeroed" not in named(found(net, x, y, history=noisy))
    usual = records(loss=FLAT, grad_norm=[one] * 100)
    assert "gradients never zeroed" not in named(found(net, x, y, history=usual))


@pytest.mark.parametrize("clip", ["norm", "value"])
def test_clipping_is_seen_in_the_gradients_that_are_left(clip):
    x, y = waves(32)
    net, losses = Net(H=32), []
    optimizer = torch.optim.SGD(net.parameters(), 1.0, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if clip == "norm":
            nn.utils.clip_grad_norm_(net.parameters(), 1e-5)
        else:
            nn.utils.clip_grad_value_(net.parameters(), 1e-7)
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters()))
        optimizer.step()
        losses.append({"loss": loss.item(), "grad_norm": 0.3 if clip == "norm" else norm})
    diagnosis = found(net, x, y, history=losses, optimizer=optimizer)
    assert "clipping too strong" in named(diagnosis), str(diagnosis)


def test_a_module_that_is_given_the_truth_in_training_only():
    class Told(Net):
        def forward(self, x, y=None):
            scores = super().forward(x)
            return scores if y is None else scores + 4.0 * F.one_hot(y, 4)

    x, y = waves()

    def loss(model, x, y, lengths):
        return F.cross_entropy(model(x, y if model.training else None), y)

    assert found(Told(), x, y, loss).first == "teacher forcing gap"
    dropped = nn.Sequential(nn.Dropout(0.9), Net())
    assert "teacher forcing gap" not in named(found(dropped, x, y))


def test_a_roll_of_notes_held_and_struck_is_no_leak():
    notes = (torch.rand(B, T + 1, 8) < 0.02).long()
    notes[:, :, 0] = 1
    x, y = notes[:, :-1], notes[:, 1:]

    class Notes(Net):
        def forward(self, x):
            return super().forward(x.float())

    net = Notes(I=8, K=8, steps="all")
    diagnosis = found(
        net, x, y, lambda scores, y: F.binary_cross_entropy_with_logits(scores, y.float())
    )
    assert "leaky feature" not in named(diagnosis)
    for same in (x, x.float()):
        diagnosis = found(net, same, same, lambda scores, y: F.mse_loss(scores, y.float()))
        assert diagnosis.first == "leaky feature"


def test_an_autoencoder_has_no_leak():
    class Coded(nn.Module):
        def __init__(self):
            super().__init__()
            self.reads = nn.GRU(2, 16, batch_first=True)
            self.writes = nn.GRU(16, 16, batch_first=True)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            code = self.reads(x)[0][:, -1:]
            return self.head(self.writes(code.expand(-1, x.shape[1], -1))[0])

    x = torch.randn(B, 8, 2)
    assert "leaky feature" not in named(found(Coded(), x, x, nn.MSELoss()))
    assert "leaky feature" in named(found(Net(I=2, K=2, steps="all"), x, x, nn.MSELoss()))


def test_a_leak_counts_where_the_network_reads_it():
    x, y = waves()
    x = torch.cat([x, y[:, None, None].float().expand(-1, T, 1)], -1)

    class Reads(nn.Module):
        def __init__(self, used):
            super().__init__()
            self.rnn, self.used = nn.GRU(4, 4, batch_first=True), used

        def forward(self, x):
            told = 8.0 * F.one_hot(x[:, -1, 3].long(), 4)
            return self.rnn(x)[0][:, -1] + self.used * told

    read = next(f for f in found(Reads(1), x, y).findings if f.issue == "leaky feature")
    assert read.probability == 0.95 and read.evidence[0].startswith("+ with this feature of other")
    unread = found(Reads(0), x, y)
    every = [*unread.findings, *unread.candidates]
    assert next(f for f in every if f.issue == "leaky feature").probability < 0.6


@pytest.mark.thorough
def test_few_rows_are_told_from_labels_of_other_rows_by_rows_that_were_not_learned():
    x, y = waves(20)
    net = Net(H=48)
    hard = waves(160)
    noisy = (hard[0] + 0.4 * torch.randn(hard[0].shape), hard[1])
    run = train(net, x + 1.5 * torch.randn(x.shape), y, F.cross_entropy, rate=0.02, steps=150)
    few = found(net, x, y, **run, held_out=noisy)
    order = torch.randperm(160)
    unrelated = found(net, x, y, **run, held_out=(noisy[0], noisy[1][order]))
    assert few.first != "labels unrelated to inputs"
    assert unrelated.first in ("labels unrelated to inputs", "overfitting", "nothing learnt")


# The verdict


def test_without_a_sign_of_learning_nobody_is_called_healthy():
    x, y = waves()
    untrained = diagnose(Net(), (x, y), loss=F.cross_entropy)
    assert untrained.verdict == "cannot tell" and not untrained.healthy
    assert "history=" in str(untrained) and "optimizer=" in str(untrained)
    stuck = diagnose(Net(K=1), (x[:16], torch.randn(16, 1)), loss=F.mse_loss, history=FLAT)
    assert stuck.first == "nothing learnt"
    assert not stuck.healthy


def test_a_loss_that_the_module_returns_is_compared_with_shuffled_inputs():
    class Whole(Net):
        def forward(self, x, y=None):
            scores = super().forward(x)
            return scores if y is None else F.cross_entropy(scores, y)

    x, y = waves(256)
    net = Whole()
    run = train(net, x, y, F.cross_entropy, steps=150)
    diagnosis = diagnose(net, (x, y), loss=lambda model, x, y, lengths: model(x, y), **run)
    assert diagnosis.improvement > 0.3 and math.isnan(diagnosis.constant)


def test_losses_of_all_forms_are_the_same():
    x, y = waves()
    net = Net()
    forms = [
        nn.CrossEntropyLoss(),
        F.cross_entropy,
        lambda output, target: F.cross_entropy(output, target),
        lambda model, x, y, lengths: F.cross_entropy(model(x), y),
        lambda model, x, y: F.cross_entropy(model(x), y),
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
    ]
    losses = {round(diagnose(net, (x, y), loss=form).loss, 5) for form in forms}
    assert losses == {round(F.cross_entropy(net(x), y).item(), 5)}


@pytest.mark.thorough
def test_remedies_are_tried_and_the_best_comes_first():
    x, y = waves(256)
    net = Net()
    run = train(net, x, y, F.cross_entropy, rate=1e-6)
    first = found(net, x, y, **run, try_remedies=True).findings[0]
    assert "tried for" in first.remedies[0].gain and "helped" in first.remedies[0].gain


def test_nothing_of_the_user_is_changed():
    x, y = waves()
    net = nn.Sequential(nn.Dropout(0.5), Net())
    run = train(net, x, y, F.cross_entropy, rate=1e-6, steps=20)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    rate, modes = run["optimizer"].param_groups[0]["lr"], [m.training for m in net.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found(net, x, y, **run, try_remedies=True)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert run["optimizer"].param_groups[0]["lr"] == rate


LIMITS = set(Thresholds.__dataclass_fields__)
OF_ALL = {"low_improvement", "good_improvement", "high_improvement", "probable"}
"""Limits of what was learned, which most judges use."""


def limits_of(cause):
    """The limits that a judge uses, and the functions of its module that it calls."""
    used, todo, done = set(), [cause.judge], set()
    while todo:
        function = todo.pop()
        done.add(function)
        for node in ast.walk(ast.parse(inspect.getsource(function))):
            if isinstance(node, ast.Attribute) and node.attr in LIMITS:
                owner = getattr(node.value, "id", getattr(node.value, "attr", ""))
                used |= {node.attr} if owner in ("t", "limits", "thresholds") else set()
            called = vars(inspect.getmodule(function)).get(getattr(node, "id", ""))
            if inspect.isfunction(called) and called not in done:
                todo.append(called)
    return used


def test_every_limit_is_used_by_a_cause():
    used = {limit for part in CAUSES for cause in part for limit in limits_of(cause)}
    assert LIMITS - used == {"proven", "tried", "warned"}
    assert all(cause.meaning.endswith(".") for part in CAUSES for cause in part)
    assert len(by_name()) >= 35


PAGE = Path(__file__).parent.parent / "docs" / "diagnosis.md"


def table():
    """The causes as a table, from the registry."""
    rows = ["| cause | what it is | limits |", "|---|---|---|"]
    for name, causes in by_name().items():
        used = {limit for cause in causes for limit in limits_of(cause)} - OF_ALL
        own = [limit for limit in Thresholds.__dataclass_fields__ if limit in used]
        told = ", ".join(f"`{limit}` {getattr(Thresholds(), limit):g}" for limit in own)
        rows.append(f"| {name} | {causes[0].meaning} | {told or 'a test, without a limit'} |")
    return "\n".join(rows)


def test_the_page_lists_the_causes_with_their_limits():
    page = PAGE.read_text(encoding="utf-8")
    listed = page.partition("<!-- causes -->\n")[2].partition("\n<!-- end of causes -->")[0]
    assert listed == table()
