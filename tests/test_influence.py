"""Input influence by intervention, gradient and context, for networks whose memory is known."""

import numpy as np
import pytest
import torch
from torch import nn

from ostinato.insight import input_influence
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
