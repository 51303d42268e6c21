"""The forecasting network: a loop by hand, missing values, nothing of the future, every weight."""

import numpy as np
import pytest
import torch
from laws import random
from tolerances import assert_same

from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence.dropin import GRU, LSTM
from ostinato.tasks.forecasting.distributions import DISTRIBUTIONS
from ostinato.tasks.forecasting.network import STEP_FEATURES, ForecastNetwork, Window

B, C, A, SEASON, REACH, H = 3, 9, 4, 3, 5, 6
WINDOW = Window(known=2, observed=1, static=(3, 0))


def network(ahead=A, layer=LSTM, name="student", window=WINDOW, **more):
    torch.manual_seed(0)
    layers = layer(ForecastNetwork.input_size(window, SEASON), H, batch_first=True)
    net = ForecastNetwork(
        layers, DISTRIBUTIONS[name], window, ahead=ahead, season=SEASON, reach=REACH, **more
    ).double()
    torch.nn.init.normal_(net.straight.weight, std=0.3)
    return net


def batch(seed=0, missing=(), absent=0):
    """Windows, the future of which is not in them, and what is wanted."""
    x = random(B, C + A, WINDOW.size, seed=seed)
    x[..., Window.SEEN] = 1
    x[..., Window.THERE] = 1
    x[..., Window.SCALE] = torch.rand(B, 1, dtype=x.dtype) + 1
    x[..., Window.GRAIN] = torch.rand(B, 1, dtype=x.dtype)
    x[..., -2] = torch.tensor([0.0, 1.0, 2.0])[:, None]  # kinds
    x[:, C:, [Window.VALUE, Window.SEEN]] = 0
    x[:, C:, Window.FIRST + 2] = 0  # what is observed
    for row, t in missing:
        x[row, t, [Window.VALUE, Window.SEEN]] = 0
    if absent:
        x[0, :absent] = 0
    return x, random(B, A, seed=seed + 100)


def by_hand(net, x, wanted=None):
    """Outputs for each step ahead, one step and one row at a time."""
    found = []
    for b in range(len(x)):
        values: list = []
        state, rows, h = None, [], None

        def output(h, values, t, k=0, b=b):
            lags = [values[t - REACH + i] if t - REACH + i >= 0 else 0.0 for i in range(REACH)]
            lags = torch.stack([torch.as_tensor(v, dtype=x.dtype) for v in lags])
            if net.ahead is None:
                p = net.output(h)
            else:
                D = slice(k * STEP_FEATURES, (k + 1) * STEP_FEATURES)
                known = x[b, t + k, Window.FIRST : Window.FIRST + 2]
                a = net.steps.weight[D] @ h + net.steps.bias[D] + net.known.weight @ known
                p = net.output(a.relu())
            return torch.cat([p[:1] + net.straight.weight[k] @ lags, p[1:]])

        last = C if net.ahead is not None else C + A - 1
        for t in range(last):
            there, seen = x[b, t, Window.THERE] > 0, x[b, t, Window.SEEN] > 0
            missing = bool(there and not seen and t < C)
            value = x[b, t, Window.VALUE] if seen else torch.zeros((), dtype=x.dtype)
            if t >= C:
                missing = bool(wanted[b, t - C].isnan())
                value = wanted[b, t - C]
            if missing:
                value = net.distribution.point(output(h, values, t), None) if t else 0 * value
            values = [*values[:t], value]
            # What is read to foretell step t + 1.
            lag = values[t + 1 - SEASON] if t + 1 >= SEASON else torch.zeros((), dtype=x.dtype)
            lag_there = x[b, t + 1 - SEASON, Window.THERE] if t + 1 >= SEASON else 0.0
            first = Window.FIRST
            features = [
                value, float(missing), x[b, t, Window.THERE], lag, lag_there,
                *x[b, t + 1, first : first + 2], x[b, t, first + 2], x[b, t, Window.SEEN],
                *net.kinds[0](x[b, t + 1, first + 3].long()), x[b, t + 1, first + 4],
            ]  # fmt: skip
            v = torch.stack([torch.as_tensor(f, dtype=x.dtype) for f in features])
            h, state = net.recurrent(v[None, None], state)
            h = h[0, 0]
            if t + 1 >= C:
                rows.append((h, list(values), t + 1))
        if net.ahead is None:
            found.append(torch.stack([output(h, v, t) for h, v, t in rows]))
        else:
            h, v, t = rows[-1]
            found.append(torch.stack([output(h, v, t, k) for k in range(A)]))
    return torch.stack(found)


MISSING = ((0, 4), (0, 5), (2, 1), (2, C - 1), (1, 0))


@pytest.mark.parametrize("missing", [(), MISSING], ids=["whole", "gaps"])
@pytest.mark.parametrize("layer", [GRU, LSTM])
def test_all_steps_at_once_are_the_equations(layer, missing):
    net = network(layer=layer).eval()
    x, _ = batch(missing=missing, absent=3)
    ours, _ = net(x)
    assert ours.shape == (B, A, 3)
    assert_same([ours], [by_hand(net, x)])


@pytest.mark.parametrize("missing", [(), MISSING], ids=["whole", "gaps"])
def test_one_step_after_the_other_is_the_equations_and_the_loss_their_mean(missing):
    net = network(ahead=None).eval()
    x, wanted = batch(1, missing)
    wanted[1, 1] = wanted[2, 3] = torch.nan
    p = by_hand(net, x, wanted)
    there = ~wanted.isnan()
    each = net.distribution.loss(
        p, wanted.nan_to_num(), x[:, C:, Window.SCALE], x[:, C:, Window.GRAIN]
    )
    loss, _ = net.loss(x, wanted)
    assert loss.item() == pytest.approx(each[there].mean().item(), rel=1e-10)
    # And the same when what comes is fed step by step.
    full = wanted.nan_to_num(0.7)
    q, values, state = net.begin(x, A)
    found = [q]
    for k in range(A - 1):
        values = torch.cat([values, full[:, k : k + 1]], 1)
        q, state = net.step(x, values, C + k + 1, state)
        found.append(q)
    assert_same([torch.stack(found, 1)], [by_hand(net, x, full)])


@pytest.mark.parametrize("ahead", [A, None])
def test_nothing_of_the_future_is_read_but_what_is_known(ahead):
    net = network(ahead).eval()
    x, _ = batch(2)
    other = x.clone()
    other[:, C:, Window.VALUE] = 50.0
    other[:, C:, Window.FIRST + 2] = 50.0
    first = net(x)[0] if ahead else net.begin(x, A)[0]
    assert_same([first], [net(other)[0] if ahead else net.begin(other, A)[0]])
    other[:, C:, Window.FIRST] += 1
    changed = net(other)[0] if ahead else net.begin(other, A)[0]
    assert not torch.allclose(first, changed)


@pytest.mark.parametrize("ahead", [A, None])
def test_a_missing_value_says_nothing_and_gradients_go_through_its_forecast(ahead):
    net = network(ahead).eval()
    x, wanted = batch(3, MISSING)
    other = x.clone()
    for row, t in MISSING:
        other[row, t, Window.VALUE] = torch.nan
    loss, _ = net.loss(x, wanted)
    assert_same([loss], [net.loss(other, wanted)[0]])
    # What comes before a gap reaches the forecast through what the network says of the gap.
    assert torch.autograd.gradcheck(
        lambda v: net.loss(torch.cat([v, x[..., 1:]], -1), wanted)[0],
        x[..., :1].clone().requires_grad_(),
    )


@pytest.mark.parametrize("ahead", [A, None])
def test_every_weight_learns(ahead):
    net = network(ahead, dropout=0.2).train()
    x, wanted = batch(4, MISSING)
    torch.autograd.backward(net.loss(x, wanted)[0])
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_a_window_of_the_least_has_no_more():
    net = network(window=Window())
    x = torch.zeros(2, C + A, Window().size, dtype=torch.float64)
    assert net(x)[0].shape == (2, A, 3)
    assert np.isfinite(net.loss(x, torch.full((2, A), torch.nan))[0].item())


def test_what_does_not_fit_is_refused():
    with pytest.raises(OstinatoError, match="one direction, and 12 input features"):
        ForecastNetwork(LSTM(3, 4, batch_first=True), DISTRIBUTIONS["student"], WINDOW, season=3)
    with pytest.raises(ShapeError, match=r"targets have shape \(3, 2\); expected \(B, 4\)"):
        network().loss(batch()[0], torch.zeros(3, 2))
