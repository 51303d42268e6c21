"""The forecasting network: a loop by hand, missing values, future covariates, every weight."""

import numpy as np
import pytest
import torch
from laws import random
from tolerances import assert_same

from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence.cells.variants import GRUDCell
from ostinato.recurrence.dropin import GRU, LSTM
from ostinato.recurrence.layers import Recurrent
from ostinato.tasks.forecasting.distributions import DISTRIBUTIONS
from ostinato.tasks.forecasting.network import (
    STEP_FEATURES,
    ForecastNetwork,
    Window,
    WindowSizes,
)

B, C, A, REACH, H = 3, 9, 4, 5, 6
SEASONS = (3, 7)
SIZES = WindowSizes(2, 1, (3,), 1)


def network(horizon=A, layer=LSTM, name="student", sizes=SIZES, seasons=(3,), **more):
    torch.manual_seed(0)
    layers = layer(sizes.input_size(seasons), H, batch_first=True)
    net = ForecastNetwork(
        layers, DISTRIBUTIONS[name], sizes, horizon=horizon, seasons=seasons, reach=REACH, **more
    ).double()
    torch.nn.init.normal_(net.shortcut.weight, std=0.3)
    return net


def batch(seed=0, missing=(), absent=0):
    """Windows, and the values that follow them."""
    x = random(B, C + A, 6, seed=seed)
    observed, valid = torch.ones(2, B, C, dtype=torch.bool)
    for row, t in missing:
        observed[row, t] = False
    if absent:
        observed[0, :absent] = valid[0, :absent] = False
        x[0, :absent] = 0
    window = Window(
        past_values=torch.where(observed, x[:, :C, 0], 0.0),
        observed=observed,
        valid=valid,
        future_covariates=x[..., 1:3],
        past_covariates=x[:, :C, 3:4],
        static_categories=torch.tensor([[0], [1], [2]]),
        static_numbers=x[:, -1, 4:5],
        scale=torch.rand(B, dtype=x.dtype) + 1,
        resolution=torch.rand(B, dtype=x.dtype),
    )
    return window, random(B, A, seed=seed + 100)


def by_hand(net, window, targets=None):
    """Outputs for each step ahead, one step and one row at a time."""
    found = []
    dtype = window.past_values.dtype

    def tensor(value):
        return torch.as_tensor(value, dtype=dtype)

    for b in range(len(window.past_values)):
        values: list = []
        state, rows, h = None, [], None

        def output(h, values, t, k=0, b=b):
            back = [*range(REACH, 0, -1), *(m for m in net.seasons if m > REACH)]
            back = back if net.horizon is None else back[:REACH]
            lags = [values[t - n] if t >= n else 0.0 for n in back]
            lags = torch.stack([tensor(v) for v in lags])
            lags = lags.nan_to_num() if net.reads_missing else lags
            if net.horizon is None:
                p = net.output(h)
            else:
                D = slice(k * STEP_FEATURES, (k + 1) * STEP_FEATURES)
                future = window.future_covariates[b, t + k]
                a = net.steps.weight[D] @ h + net.steps.bias[D] + net.future.weight @ future
                p = net.output(a.relu())
            return torch.cat([p[:1] + net.shortcut.weight[k] @ lags, p[1:]])

        def valid(t, b=b):
            return 0.0 if t < 0 else 1.0 if t >= C else float(window.valid[b, t])

        def known(t, b=b):
            return float(window.observed[b, t]) if 0 <= t < net.history else valid(t)

        last = C if net.horizon is not None else C + A - 1
        for t in range(last):
            observed = t < C and bool(window.observed[b, t])
            if t >= C:
                missing = bool(targets[b, t - C].isnan())
                value = targets[b, t - C]
            else:
                missing = bool(window.valid[b, t]) and not observed
                value = window.past_values[b, t] if observed else tensor(0.0)
            if missing and net.reads_missing:
                value = tensor(torch.nan)
            elif missing and t > net.history:
                value = net.distribution.point(output(h, values, t))
            values = [*values[:t], value]
            if t < net.history:
                continue
            # What is read to predict step t + 1.
            ago = [t + 1 - m for m in net.seasons]
            begun = valid(t + 1)  # static covariates are 0 before
            category = window.static_categories[b, 0] * int(begun)
            features = [
                value, float(missing), valid(t), *(values[a] if a >= 0 else 0.0 for a in ago),
                *map(known, ago),
                *window.future_covariates[b, t + 1],
                window.past_covariates[b, t, 0] if t < C else 0.0, float(observed),
                *net.embeddings[0](category), window.static_numbers[b, 0] * begun,
            ]  # fmt: skip
            v = torch.stack([tensor(f) for f in features])
            h, state = net.recurrent(v[None, None], state)
            h = h[0, 0]
            if t + 1 >= C:
                rows.append((h, list(values), t + 1))
        if net.horizon is None:
            found.append(torch.stack([output(h, v, t) for h, v, t in rows]))
        else:
            h, v, t = rows[-1]
            found.append(torch.stack([output(h, v, t, k) for k in range(A)]))
    return torch.stack(found)


MISSING = ((0, 4), (0, 5), (2, 1), (2, C - 1), (1, 0))


LAGS = [{}, {"seasons": SEASONS, "history": 3}, {"seasons": SEASONS}]
"""A season; two, the longer beyond the shortcut, with steps that only they see; and without."""


def gru_d(features, size, *, batch_first):
    return Recurrent(GRUDCell(features, size), batch_first=batch_first)


@pytest.mark.parametrize("missing", [(), MISSING], ids=["whole", "gaps"])
@pytest.mark.parametrize("layer", [GRU, LSTM, gru_d])
@pytest.mark.parametrize("lags", LAGS)
def test_all_steps_simultaneously_are_the_equations(layer, missing, lags):
    net = network(layer=layer, **lags).eval()
    window, _ = batch(missing=missing, absent=3)
    ours, _ = net(window)
    assert ours.shape == (B, A, 3)
    assert_same([ours], [by_hand(net, window)])


@pytest.mark.parametrize("missing", [(), MISSING], ids=["whole", "gaps"])
@pytest.mark.parametrize("absent", [0, 3])
@pytest.mark.parametrize("lags", LAGS)
@pytest.mark.parametrize("layer", [LSTM, gru_d])
def test_one_step_after_the_other_is_the_equations_and_the_loss_their_mean(
    missing, absent, lags, layer
):
    net = network(horizon=None, layer=layer, **lags).eval()
    window, targets = batch(1, missing if not absent else missing[2:], absent)
    targets[1, 1] = targets[2, 3] = torch.nan
    p = by_hand(net, window, targets)
    known = ~targets.isnan()
    each = net.distribution.loss(
        p, targets.nan_to_num(), window.scale[:, None], window.resolution[:, None]
    )
    loss, _ = net.loss(window, targets)
    assert loss.item() == pytest.approx(each[known].mean().item(), rel=1e-10)
    # And the same when the following values are fed step by step.
    full = targets.nan_to_num(0.7)
    q, values, state = net.begin(window)
    fixed, found = net.ahead(window), [q[:, 0]]
    for k in range(A - 1):
        values = torch.cat([values, full[:, k : k + 1]], 1)
        q, state = net.step(values, fixed[:, k], state)
        found.append(q)
    assert_same([torch.stack(found, 1)], [by_hand(net, window, full)])


@pytest.mark.parametrize("horizon", [A, None])
def test_future_covariates_are_read_at_their_step(horizon):
    net = network(horizon).eval()
    window, _ = batch(2)
    future = window.future_covariates.clone()
    future[:, C:] += 1
    first, other = (
        net(w)[0] if horizon else net.begin(w)[0]
        for w in (window, window._replace(future_covariates=future))
    )
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("horizon", [A, None])
def test_a_missing_value_is_not_read_and_gradients_flow_through_its_prediction(horizon):
    net = network(horizon).eval()
    window, targets = batch(3, MISSING)
    values = window.past_values.clone()
    for row, t in MISSING:
        values[row, t] = torch.nan
    loss, _ = net.loss(window, targets)
    assert_same([loss], [net.loss(window._replace(past_values=values), targets)[0]])
    # What precedes a gap reaches the forecast through the prediction of the gap.
    assert torch.autograd.gradcheck(
        lambda v: net.loss(window._replace(past_values=v), targets)[0],
        window.past_values.clone().requires_grad_(),
    )


@pytest.mark.parametrize("horizon", [A, None])
def test_every_weight_has_a_gradient(horizon):
    net = network(horizon, dropout=0.2).train()
    window, targets = batch(4, MISSING)
    torch.autograd.backward(net.loss(window, targets)[0])
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_windows_without_covariates():
    net = network(sizes=WindowSizes())
    window, _ = batch()
    nothing = window._replace(
        future_covariates=torch.zeros(B, C + A, 0, dtype=torch.float64),
        past_covariates=torch.zeros(B, C, 0, dtype=torch.float64),
        static_categories=torch.zeros(B, 0, dtype=torch.int64),
        static_numbers=torch.zeros(B, 0, dtype=torch.float64),
    )
    assert net(nothing)[0].shape == (B, A, 3)
    assert np.isfinite(net.loss(nothing, torch.full((B, A), torch.nan))[0].item())


def test_wrong_layers_and_targets_are_refused():
    with pytest.raises(OstinatoError, match="one direction, and 12 input features"):
        ForecastNetwork(LSTM(3, 4, batch_first=True), DISTRIBUTIONS["student"], SIZES, seasons=[3])
    with pytest.raises(ShapeError, match=r"targets have shape \(3, 2\); expected \(B, 4\)"):
        network().loss(batch()[0], torch.zeros(3, 2))
