"""Text to frames: the attention equals its equations; known steps equal those one by one."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.speech import (
    STOP_WEIGHT,
    DynamicConvolutionAttention,
    SpeechNetwork,
    beta_binomial,
)
from ostinato.recurrence.dropin import GRU, LSTM


def network(dtype=torch.float64, voice=3, layer=GRU, seed=0):
    torch.manual_seed(seed)
    M = 8 + voice
    made = SpeechNetwork(
        9, 3, 5, 2,
        GRU(6, 4, batch_first=True, bidirectional=True), layer(8, 7, batch_first=True),
        layer(7 + M, 6, batch_first=True), GRU(5, 4, batch_first=True),
        width=6, prenet=4, voice=voice,
    )  # fmt: skip
    return made.to(dtype).eval()


X = torch.tensor([[1, 3, 4, 5, 8, 0], [2, 6, 7, 8, 0, 0]])
LENGTHS = torch.tensor([5, 4])


def test_the_prior_is_the_beta_binomial_distribution():
    def of(n, a, b, k):
        beta = lambda x, y: math.gamma(x) * math.gamma(y) / math.gamma(x + y)  # noqa: E731
        return math.comb(n, k) * beta(k + a, n - k + b) / beta(a, b)

    found = beta_binomial(10, 0.1, 0.9)
    np.testing.assert_allclose(found, [of(10, 0.1, 0.9, k) for k in range(11)], rtol=1e-9)
    assert sum(k * p for k, p in enumerate(found)) == pytest.approx(1)


def test_attention_equals_its_equations():
    torch.manual_seed(1)
    attend = DynamicConvolutionAttention(3, 5, 2, 23).double()
    query, S = torch.randn(2, 3).double(), 7
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    weights = torch.rand(2, S).double() * mask
    made = attend.dynamic(attend.query(query).tanh()).view(2, 23, 2)
    prior = beta_binomial(10, 0.1, 0.9)
    expected = torch.full((2, S), -torch.inf).double()
    for b in range(2):
        for s in range(int(mask[b].sum())):
            features = torch.zeros(4).double()
            for i in range(23):
                j = s + i - 11
                if 0 <= j < S:
                    row = torch.cat([attend.static[i], made[b, i]])
                    features = features + row * weights[b, j]
            before = sum(p * float(weights[b, s - k]) for k, p in enumerate(prior) if s >= k)
            e = attend.score(attend.combine(features).tanh())[0] + math.log(max(before, 1e-6))
            expected[b, s] = e
    torch.testing.assert_close(attend(query, weights, mask), expected.softmax(-1))


def test_attention_goes_on_and_never_back():
    attend = DynamicConvolutionAttention(3)
    torch.nn.init.zeros_(attend.score.weight)
    mask = torch.ones(1, 40, dtype=torch.bool)
    weights = attend.start(mask)
    places = []
    for _ in range(20):
        weights = attend(torch.zeros(1, 3), weights, mask).detach()
        places.append(float((weights * torch.arange(40)).sum()))
    assert all(b > a for a, b in itertools.pairwise(places))
    assert 15 < places[-1] < 25, "one position a step on average"


@pytest.mark.parametrize("layer", [GRU, LSTM])
def test_known_steps_equal_those_one_by_one(layer):
    net = network(layer=layer)
    targets = torch.randn(2, 8, 5).double()
    before = F.pad(targets[:, 1:-1:2], (0, 0, 1, 0))
    encoded = net.encode(X, LENGTHS)
    whole = net(before, encoded, None, torch.Generator().manual_seed(3))
    # The prenet draws for all steps at a time: give each step its own draws by dropping nothing.
    net._prenet = lambda x, generator: net.prenet[1](net.prenet[0](x).relu()).relu()
    whole = net(before, encoded)
    state, frames, stops, weights = None, [], [], []
    for t in range(4):
        y = net(before[:, t : t + 1], encoded, state)
        state = y.state
        frames.append(y.frames)
        stops.append(y.stop)
        weights.append(y.weights)
    torch.testing.assert_close(torch.cat(frames, 1), whole.frames)
    torch.testing.assert_close(torch.cat(stops, 1), whole.stop)
    torch.testing.assert_close(torch.cat(weights, 1), whole.weights)
    assert whole.weights[1, :, 3:].abs().max() == 0, "padding is not attended to"
    torch.testing.assert_close(whole.weights.sum(-1), torch.ones(2, 4).double())


def test_a_text_alone_is_what_it_is_in_a_batch():
    net = network()
    targets = torch.randn(2, 8, 5).double()
    net._prenet = lambda x, generator: net.prenet[1](net.prenet[0](x).relu()).relu()
    ends = torch.tensor([8, 4])
    both = net.terms(X, targets, lengths=LENGTHS, target_lengths=ends)
    one = net.terms(X[:1, :5], targets[:1])
    two = net.terms(X[1:, :4], targets[1:, :4])
    for name in ("coarse", "refined", "stop", "astray", "focus"):
        a, b = getattr(one, name), getattr(two, name)
        torch.testing.assert_close(getattr(both, name), (4 * a + 2 * b) / 6, msg=name)


def test_the_loss_is_of_frames_and_of_the_stop():
    net = network()
    targets = torch.randn(2, 8, 5).double()
    ends = torch.tensor([8, 4])
    draw = lambda: torch.Generator().manual_seed(7)  # noqa: E731
    before = F.pad(targets[:, 1:-1:2], (0, 0, 1, 0))
    y = net(before, net.encode(X, LENGTHS), None, draw())
    parts, stops = [], []
    for row, (n, last) in enumerate([(8, 3), (4, 1)]):
        parts.append((y.frames[row, :n] - targets[row, :n]).abs())
        parts.append((y.coarse[row, :n] - targets[row, :n]).abs())
        for t in range(last + 1):
            p = y.stop[row, t].sigmoid()
            stops.append(-STOP_WEIGHT * p.log() if t == last else -(1 - p).log())
    expected = torch.cat(parts).mean() * 2 + torch.stack(stops).mean()
    more = {"lengths": LENGTHS, "target_lengths": ends}
    found, _ = net.loss(X, targets, generator=draw(), **more)
    torch.testing.assert_close(found, expected)
    guided, _ = net.loss(X, targets, generator=draw(), guided=0.5, **more)
    far = sum(
        float(y.weights[row, t, s]) * (1 - math.exp(-((s / n - t / T) ** 2) / 0.08))
        for row, (n, T) in enumerate([(4, 4), (3, 2)])
        for t in range(T)
        for s in range(n)
    )
    assert float((guided - found).detach()) == pytest.approx(0.5 * far / 6)


def test_gradients_are_those_of_differences():
    net = network(seed=2)
    targets = torch.randn(2, 4, 5).double()
    weights = [net.attention.static, net.glance.weight, net.correction.weight, net.voices.weight]

    def loss(*_):
        generator = torch.Generator().manual_seed(1)
        return net.loss(X, targets, lengths=LENGTHS, guided=1.0, generator=generator)[0]

    assert torch.autograd.gradcheck(loss, weights, eps=1e-7, atol=1e-5)


def test_speaking_goes_on_until_every_text_has_stopped():
    net = network()
    torch.nn.init.zeros_(net.stop.weight)
    torch.nn.init.constant_(net.stop.bias, -1.0)
    assert len(list(net.steps(X, LENGTHS, most=6))) == 6
    torch.nn.init.constant_(net.stop.bias, 1.0)
    assert len(list(net.steps(X, LENGTHS, most=6))) == 1
    calls = iter([[-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [0.0, 0.0]])
    net.stop = type("Stop", (torch.nn.Module,), {
        "forward": lambda self, x: torch.tensor(next(calls)).view(2, 1, 1)
    })()  # fmt: skip
    assert len(list(net.steps(X, LENGTHS, most=6))) == 3


def test_the_same_draws_are_the_same_frames():
    net = network()

    def frames(seed):
        steps = net.steps(X, LENGTHS, most=5, generator=torch.Generator().manual_seed(seed))
        return torch.cat([y.frames for y in steps], 1)

    assert torch.equal(frames(1), frames(1)) and not torch.equal(frames(1), frames(2))


def test_shapes_that_do_not_fit_are_one_error():
    net = network()
    with pytest.raises(ShapeError, match=r"expected \(B, T \* 2, 5\)"):
        net.loss(X, torch.zeros(2, 7, 5).double())
    with pytest.raises(ShapeError, match="a speaker and tokens"):
        net.encode(torch.zeros(2, 3))
    with pytest.raises(OstinatoError, match="attending is GRU"):
        SpeechNetwork(3, 1, 5, 2, net.reading, net.writing, net.writing, net.refining,
                      width=6, prenet=4, voice=0)  # fmt: skip
    with pytest.raises(OstinatoError, match="taps=5"):
        DynamicConvolutionAttention(3, taps=5)
