"""Input influence by intervention, gradient and context, for networks whose memory is known."""

import numpy as np
import pytest
import torch
from torch import nn

from ostinato.errors import OstinatoError
from ostinato.insight import input_influence, memory_span
from ostinato.insight.influence import spread
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.outputs import Output
from ostinato.recurrence.dropin import GRU, RNN


def delay_line(k, kind="number"):
    """A network whose output is the input k steps before: its units pass it on, one to the next."""
    layer = RNN(1, k + 1, nonlinearity="identity", bias=False, batch_first=True)
    output = Output(k + 1, 1, kind)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()[0] = 1.0
        layer.weight_hh_l0.copy_(torch.diag(torch.ones(k), -1) if k else torch.zeros(1, 1))
        output.linear.weight.zero_()[0, k] = 1.0
        output.linear.bias.zero_()
    return layer, output


def series(k, B=40, T=20, seed=0):
    x = torch.randn(B, T, 1, generator=torch.Generator().manual_seed(seed))
    y = torch.zeros_like(x)
    y[:, k:] = x[:, : T - k]
    return x, y


@pytest.mark.parametrize("lengths", [None, "ragged"], ids=["even", "ragged"])
@pytest.mark.parametrize("k", [0, 1, 7])
@pytest.mark.parametrize("arrangement", ["in step", "once"])
def test_the_memory_of_a_delay_line_is_its_delay(k, lengths, arrangement):
    layer, output = delay_line(k)
    x, y = series(k)
    ends = torch.full((40,), 20)
    if lengths:
        ends = torch.randint(9, 21, (40,), generator=torch.Generator().manual_seed(1))
        ends[0] = 20
    if arrangement == "once":
        network = ManyToOne(nn.Identity(), layer, output)
        y = y[torch.arange(40), ends - 1]
    else:
        network = ManyToMany(nn.Identity(), layer, output)
    found = input_influence(network, (x, y, ends) if lengths else (x, y))
    others = np.arange(20) != k
    assert found.effect[k] > 0.5  # mean difference of two draws, in deviations: 1.1
    assert (found.effect[others] == 0).all()
    assert found.loss_increase[k] > 0.5
    assert (found.loss_increase[others] == 0).all()
    assert (found.gradient[others] == 0).all()
    assert found.loss == 0
    assert found.memory_length == k
    assert found.half_life == 1  # beyond its delay, nothing at all
    assert found.contexts[0] == 1
    np.testing.assert_allclose(found.context_loss[found.contexts > k], 0)
    assert (found.context_loss[found.contexts <= k] > 0.3).all()
    assert found.useful_context == k + 1


def test_a_memory_that_fades_is_halved_in_its_half_life():
    layer, output = delay_line(0)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(0.5 ** (1 / 4))
    network = ManyToOne(nn.Identity(), layer, output)
    x = torch.randn(400, 30, 1, generator=torch.Generator().manual_seed(3))
    found = input_influence(network, (x, torch.randn(400, 1)))
    assert 3 <= found.half_life <= 5
    assert 20 < found.memory_length < 30  # a hundredth after 4 log2(100) = 27 steps
    ratios = found.effect[1:12] / found.effect[:11]
    assert abs(ratios.mean() - 0.5**0.25) < 0.03
    pull = found.gradient[1:] / found.gradient[:-1]
    np.testing.assert_allclose(pull, 0.5**0.25, rtol=1e-4)


def test_a_category_and_a_probability_change_by_at_most_one():
    torch.manual_seed(0)
    x = torch.randint(5, (16, 12))
    for kind, y in (
        ("category", torch.randint(3, (16,))),
        ("probability", torch.rand(16, 3) > 0.5),
    ):
        network = ManyToOne(nn.Embedding(5, 4), GRU(4, 8, batch_first=True), Output(8, 3, kind))
        found = input_influence(network, (x, y.float() if kind == "probability" else y))
        assert (found.effect >= 0).all() and (found.effect <= 1).all()
        assert found.effect[0] > 1e-3
        assert str(found).startswith("a change of the input affects the output up to ")
        document = found.to_json()
        assert document["lags"] == list(range(12))


def test_looking_draws_the_same_twice_and_leaves_the_network_alone():
    torch.manual_seed(0)
    network = ManyToOne(nn.Identity(), GRU(1, 8, batch_first=True), Output(8, 1, "number")).train()
    data = torch.randn(8, 10, 1), torch.randn(8, 1)
    one, other = input_influence(network, data, seed=5), input_influence(network, data, seed=5)
    np.testing.assert_array_equal(one.effect, other.effect)
    assert not np.array_equal(one.effect, input_influence(network, data, seed=6).effect)
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert not network.encode._forward_hooks


def test_lags_are_all_of_few_and_some_of_many():
    assert spread(1).tolist() == [0]
    assert spread(64).tolist() == list(range(64))
    many = spread(5000)
    assert many[:16].tolist() == list(range(16))
    assert many[-1] == 4999
    assert len(many) <= 64
    assert (np.diff(many) > 0).all()


# The span of any module on longer windows


class Delay(nn.Module):
    """Any module whose output at a step is the input ``k`` steps before, in one of many layouts."""

    def __init__(self, k, layout="last", batch_first=True):
        super().__init__()
        self.layer = nn.RNN(1, k + 1, nonlinearity="relu", bias=False, batch_first=batch_first)
        self.k, self.layout, self.time = k, layout, 1 if batch_first else 0
        with torch.no_grad():
            self.layer.weight_ih_l0.zero_()[0] = 1.0
            self.layer.weight_hh_l0.copy_(torch.diag(torch.ones(k), -1) if k else torch.zeros(1, 1))

    def forward(self, x):
        y = self.layer(x)[0][..., self.k :]
        return {
            "last": lambda: y.select(self.time, -1),
            "number": lambda: y.select(self.time, -1)[:, 0],
            "steps": lambda: (y, None),
            "step numbers": lambda: y[..., 0],
            "flat": lambda: y.reshape(-1, 1),
        }[self.layout]()


LAYOUTS = ["last", "number", "steps", "step numbers", "flat"]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("k", [0, 3, 19])
def test_the_span_of_a_delay_line_is_its_delay_beyond_the_window_given(k, layout, batch_first):
    x = torch.rand(30, 8, 1, generator=torch.Generator().manual_seed(0))
    x = x if batch_first else x.transpose(0, 1)

    def loss(model, x, y, lengths):
        raise AssertionError(model(x))  # its targets would not fit to a longer window

    span = memory_span(Delay(k, layout, batch_first), (x, None), loss=loss)
    assert (span.window, span.given) == (32, 8)
    assert span.effect[k] > 0.3
    assert (np.delete(span.effect, k) == 0).all()
    assert span.distance == k + 1 and span.is_bounded


def test_a_span_without_end_is_that_of_the_window():
    layer = nn.RNN(1, 1, nonlinearity="relu", bias=False, batch_first=True)
    nn.init.ones_(layer.weight_ih_l0), nn.init.ones_(layer.weight_hh_l0)  # a running sum
    x = torch.rand(30, 8, 1)
    span = memory_span(layer, (x, None), loss=lambda m, x, y, n: m(x)[0].sum(), window=20)
    assert (span.distance, span.is_bounded, len(span.lags)) == (20, False, 20)
    np.testing.assert_allclose(span.effect, span.effect.mean(), rtol=0.5)


def test_rows_of_unequal_length_keep_it():
    layer, output = delay_line(4)
    x, y = series(4)
    ends = torch.randint(9, 21, (40,), generator=torch.Generator().manual_seed(1))
    span = memory_span(ManyToMany(nn.Identity(), layer, output), (x, y, ends))
    assert (span.window, span.distance) == (20, 5)
    assert (np.delete(span.effect, 4) == 0).all()


def test_what_has_no_span_is_refused():
    layer = nn.GRU(1, 2, batch_first=True)
    with pytest.raises(OstinatoError, match="does not call the model"):
        memory_span(layer, (torch.rand(3, 4, 1), None), loss=lambda m, x, y, n: x.sum())

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean()

    with pytest.raises(OstinatoError, match="expected an output for each of 3 rows"):
        memory_span(Mean(), (torch.rand(3, 4, 1), None), loss=lambda m, x, y, n: m(x))
    with pytest.raises(OstinatoError, match="in one tensor"):
        memory_span(layer, (torch.rand(3), None), loss=lambda m, x, y, n: m(x)[0].sum())
