"""Predictive distributions: against SciPy, against each other, and against their samples."""

import numpy as np
import pytest
import torch
from scipy import stats

from ostinato.tasks.forecasting.distributions import DISTRIBUTIONS, Quantiles, Units

LEVELS = [0.05, 0.2, 0.5, 0.8, 0.95]
NAMES = list(DISTRIBUTIONS)


def parameters(name, N=6, seed=0):
    """Random outputs of a network, and units."""
    rng = np.random.default_rng(seed)
    family = DISTRIBUTIONS[name]
    p = rng.normal(size=(N, family.size))
    location = rng.normal(size=N) * 10 if family.centered else np.zeros(N)
    return family, p, units(location, rng.uniform(2, 30, N))


def units(location, scale, resolution=0.0):
    """Units of values that may be negative."""
    parts = np.broadcast_arrays(location, scale, resolution, -np.inf)
    return Units(*(part.astype(float) for part in parts))


def repeat(each, count):
    """``count`` copies of an array or of units."""
    if isinstance(each, Units):
        return Units(*(repeat(part, count) for part in each))
    return np.broadcast_to(each, (count, *each.shape))


def softplus(x):
    return np.log1p(np.exp(x)) + 1e-4


def oracle(name, p, units):
    """The same distribution of SciPy's."""
    location, scale = units.location, units.scale
    if name == "gaussian":
        return stats.norm(location + scale * p[..., 0], scale * softplus(p[..., 1]))
    if name == "student":
        middle, sigma = location + scale * p[..., 0], scale * softplus(p[..., 1])
        return stats.t(2 + softplus(p[..., 2]), middle, sigma)
    mean, r = scale * softplus(p[..., 0]), softplus(p[..., 1])
    return stats.nbinom(r, r / (r + mean))


@pytest.mark.parametrize("name", NAMES[:3])
def test_loss_quantiles_mean_and_probabilities_are_those_of_scipy(name):
    family, p, units = parameters(name)
    location, scale = units.location, units.scale
    ours = oracle(name, p, units)
    y = np.round(location + scale * np.abs(np.random.default_rng(1).normal(size=6)))
    z = torch.from_numpy((y - location) / scale)
    p_t, scale_t = torch.from_numpy(p), torch.from_numpy(scale)
    loss = family.loss(p_t, z, scale_t, torch.zeros(6)).numpy()
    if name == "negative-binomial":
        np.testing.assert_allclose(loss, -ours.logpmf(y), rtol=1e-8)
    else:
        np.testing.assert_allclose(loss, -ours.logpdf(y) - np.log(scale), rtol=1e-8)
    np.testing.assert_allclose(family.cdf(p, y, units), ours.cdf(y), rtol=1e-8)
    expected = np.stack([ours.ppf(level) for level in LEVELS], -1)
    np.testing.assert_allclose(family.quantiles(p, units, LEVELS), expected, rtol=1e-8)
    np.testing.assert_allclose(family.mean(p, units), ours.mean(), rtol=1e-8)
    if name != "negative-binomial":
        point = location + scale * family.point(p_t).numpy()
        np.testing.assert_allclose(point, ours.median(), rtol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_quantiles_and_the_mean(name):
    family, p, units = parameters(name, N=3)
    rng = np.random.default_rng(2)
    drawn = family.sample(repeat(p, 40_000), repeat(units, 40_000), rng.random((40_000, 3)))
    quantiles = family.quantiles(p, units, LEVELS)
    for k, level in enumerate(LEVELS):
        share = (drawn < quantiles[:, k]).mean(0) + (drawn == quantiles[:, k]).mean(0) / 2
        if name == "negative-binomial":  # whole numbers: a quantile may be common
            low, high = (drawn < quantiles[:, k]).mean(0), (drawn <= quantiles[:, k]).mean(0)
            assert (low <= level + 0.01).all() and (high >= level - 0.01).all()
        else:
            np.testing.assert_allclose(share, level, atol=0.01)
    if name != "student":  # of few degrees of freedom the mean converges slowly
        np.testing.assert_allclose(
            drawn.mean(0), family.mean(p, units), atol=0.05 * units.scale.max()
        )
    median = np.median(drawn, 0)
    np.testing.assert_allclose(family.cdf(p, median, units), (drawn <= median).mean(0), atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_at_a_share_is_the_quantile_there(name):
    family, p, units = parameters(name, N=200)
    p[:, -1] *= 5  # degrees of freedom from 2 to 20
    levels = [1e-9, 1e-3, 0.2, 0.5, 0.77, 0.999, 1 - 1e-9]
    expected = family.quantiles(p, units, levels)
    found = np.stack([family.sample(p, units, np.full(200, level)) for level in levels], -1)
    center = expected[:, [3]]
    np.testing.assert_allclose(found - center, expected - center, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_differences(name):
    family, p, units = parameters(name)
    z = torch.from_numpy(np.abs(np.random.default_rng(3).normal(size=6)))
    p_t = torch.from_numpy(p).requires_grad_()
    for resolution in (torch.zeros(6), torch.linspace(0.1, 2, 6, dtype=torch.float64)):
        assert torch.autograd.gradcheck(
            lambda q, r=resolution: family.loss(q, z, torch.from_numpy(units.scale), r), p_t
        )


@pytest.mark.parametrize("name", ["gaussian", "student"])
def test_a_rounded_value_has_the_probability_of_all_that_is_rounded_to_it(name):
    family, grain, scale, location = DISTRIBUTIONS[name], 0.5, 4.0, 10.0
    rounded = units(location, scale, grain * scale)
    at = np.arange(-2000, 2001)
    for sigma, rough in ((2.0, 1e-6), (0.3, 1e-4), (grain / 8, 0.02), (1e-9, 0.02)):
        p = np.array([0.1, np.log(np.expm1(sigma)), 1.0])[: family.size]
        z = torch.from_numpy(at * grain)
        densities = (
            -family.loss(torch.from_numpy(p), z, torch.ones(()), torch.tensor(grain))
        ).exp()
        borders = location + scale * (at[None] + [[-0.5], [0.5]]) * grain
        below = family.cdf(p, borders, rounded)
        np.testing.assert_allclose(grain * densities.numpy(), below[1] - below[0], atol=rough)
    # Certainty is worth no more than certainty; and it is drawn as it was learnt, tails and all.
    assert (grain * densities).max().item() < 1.001
    u = np.random.default_rng(0).random(200_000)
    drawn = family.sample(repeat(p, 200_000), repeat(rounded, 200_000), u)
    z = np.round((drawn - location) / scale / grain)
    for k in (-1, 0, 1):
        share = grain * densities[2000 + k].item()
        assert (z == k).mean() == pytest.approx(share, abs=0.02)
    low, high = family.quantiles(p, rounded, [0.1, 0.9])
    assert ((drawn < low).mean(), (drawn < high).mean()) == pytest.approx((0.1, 0.9), abs=0.01)


def test_quantiles_never_cross_and_their_loss_is_the_pinball_loss():
    family, p, units = parameters("quantiles")
    location, scale = units.location, units.scale
    values = family.quantiles(p, units, Quantiles.LEVELS)
    assert (np.diff(values, axis=-1) > 0).all()
    z = np.random.default_rng(4).normal(size=6)
    y = location + scale * z
    total = np.zeros(6)
    for k, level in enumerate(Quantiles.LEVELS):
        off = (y - values[:, k]) / scale
        total += np.where(off > 0, level * off, (level - 1) * off)
    loss = family.loss(*(torch.from_numpy(each) for each in (p, z, scale, 0 * z)))
    np.testing.assert_allclose(loss.numpy(), 2 * total / len(Quantiles.LEVELS), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_has_the_least_loss(name):
    """A proper score: of many shifts and stretches that of the distribution itself is the best."""
    family, p, units = parameters(name, N=1, seed=5)
    location, scale = units.location, units.scale
    u = np.random.default_rng(6).random((20_000, 1))
    drawn = family.sample(repeat(p, 20_000), repeat(units, 20_000), u)
    z = torch.from_numpy((drawn - location) / scale)[:, 0]

    def mean_loss(q):
        q = torch.from_numpy(np.broadcast_to(q, (20_000, family.size)).copy())
        return (
            family.loss(q, z, torch.full((20_000,), float(scale[0])), torch.zeros(1)).mean().item()
        )

    own = mean_loss(p[0])
    for k in range(2):
        for off in (-0.5, 0.5):
            other = p[0].copy()
            other[k] += off
            assert mean_loss(other) > own
