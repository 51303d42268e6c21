"""MiniRocket by its definition, and its regression beside scikit-learn's."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from ostinato.data.ragged import Ragged
from ostinato.errors import OstinatoError
from ostinato.tasks import minirocket
from ostinato.tasks.minirocket import MiniRocket


def waves(N=24, I=1, K=3, seed=0, shortest=5, longest=40, noise=0.3):
    """Series of unequal length whose frequency depends on their class."""
    random = np.random.default_rng(seed)
    classes = np.arange(N) % K
    rows = []
    for k in classes:
        t = np.arange(random.integers(shortest, longest + 1))
        phase = random.uniform(0, 6, I)
        x = np.sin((0.3 + 0.5 * k) * t[:, None] + phase) + random.normal(
            scale=0.3, size=(len(t), I)
        )
        rows.append(x.astype(np.float32))
    return Ragged.of(rows), classes


def share(x, kernel, dilation, variables, threshold):
    """The feature of one series ``(T, I)``, step by step."""
    T, above = len(x), 0
    for t in range(T):
        y = 0.0
        for k in range(9):
            at = t + (k - 4) * dilation
            if 0 <= at < T:
                y += kernel[k] * sum(float(x[at, i]) for i in np.flatnonzero(variables))
        above += y > threshold
    return above / T


@pytest.mark.parametrize("I", [1, 3])
def test_a_feature_is_the_share_of_steps_above_a_threshold(I):
    series, classes = waves(I=I)
    model, _ = MiniRocket.fit(series, classes, 0)
    found = model.features(series, np.arange(6))
    assert found.shape == (6, sum(each.size for each in model.thresholds)) and found.std(0).any()
    kernels = [[2 if k in c else -1 for k in range(9)] for c in combinations(range(9), 3)]
    assert len(model.dilations) > 2 and model.dilations[0] == 1
    random, begin = np.random.default_rng(0), 0
    for d, thresholds in enumerate(model.thresholds):
        for _ in range(12):
            row, c, n = (
                random.integers(6),
                random.integers(84),
                random.integers(thresholds.shape[1]),
            )
            expected = share(
                series[row], kernels[c], model.dilations[d], model.variables[d, c], thresholds[c, n]
            )
            np.testing.assert_allclose(found[row, begin + c * thresholds.shape[1] + n], expected)
        begin += thresholds.size


def test_thresholds_are_spread_over_what_the_training_series_give():
    series, classes = waves(40)
    model, _ = MiniRocket.fit(series, classes, 0)
    means = model.features(series, np.arange(40)).mean(0)
    assert means.size > 5000 and abs(means.mean() - 0.5) < 0.03
    assert np.histogram(means, 5, (0, 1))[0].min() > 0.1 * means.size


def test_variables_are_some_of_all_and_never_none():
    series, classes = waves(I=5)
    counts = MiniRocket.fit(series, classes, 0)[0].variables.sum(-1)
    assert {*counts.flatten()} == {1, 2, 3, 4, 5} and (counts == 1).mean() > (counts == 5).mean()


def test_it_is_ridge_regression_of_the_classes(monkeypatch):
    random = np.random.default_rng(0)
    X, truth = (
        random.normal(size=(30, 50)) * random.uniform(0.1, 2, 50),
        np.eye(3)[np.arange(30) % 3],
    )
    X[:, 7] = 1 / 3  # a feature that is constant
    monkeypatch.setattr(minirocket, "STRENGTHS", [2.5])
    weights, bias, left_out = minirocket._ridge(X, truth)
    mean, scale = X.mean(0), np.hypot(X.std(0), minirocket.RARE)
    Z = (X - mean) / scale
    whole = Ridge(2.5).fit(Z, truth)
    np.testing.assert_allclose(X @ weights + bias, whole.predict(Z), atol=1e-4)
    np.testing.assert_allclose(weights * scale[:, None], whole.coef_.T, atol=1e-5)
    for i in range(30):
        others = np.arange(30) != i
        expected = Ridge(2.5).fit(Z[others], truth[others]).predict(Z[[i]])[0]
        np.testing.assert_allclose(left_out[i], expected, atol=1e-4)


def test_the_strength_is_the_one_by_which_rows_left_out_are_predicted_best(monkeypatch):
    random = np.random.default_rng(0)
    truth = np.eye(2)[random.integers(0, 2, 40)]
    X = np.concatenate(
        [truth[:, :1] + random.normal(size=(40, 3)), random.normal(size=(40, 60))], 1
    )
    found = minirocket._ridge(X, truth)[2]
    errors = []
    for strength in minirocket.STRENGTHS.tolist():
        monkeypatch.setattr(minirocket, "STRENGTHS", [strength])
        errors.append(((minirocket._ridge(X, truth)[2] - truth) ** 2).mean())
    assert ((found - truth) ** 2).mean() == min(errors) < errors[0] * 0.9


def test_it_tells_the_classes_and_knows_how_surely():
    series, classes = waves(60)
    model, left_out = MiniRocket.fit(series, classes, 0)
    others, truth = waves(60, seed=1)
    assert (model.scores(series).argmax(1) == classes).mean() == 1
    assert (model.scores(others).argmax(1) == truth).mean() > 0.9
    assert (left_out.argmax(1) == classes).mean() > 0.9

    random = np.random.default_rng(0)  # a quarter of the labels are wrong
    classes = np.where(random.random(60) < 0.25, random.integers(0, 3, 60), classes)
    _, left_out = MiniRocket.fit(series, classes, 0)

    def nats(factor):
        scores = torch.from_numpy(factor * left_out)
        return float(torch.nn.functional.cross_entropy(scores, torch.from_numpy(classes)))

    assert nats(1) < min(nats(0.7), nats(1.4))


def test_the_seed_decides():
    series, classes = waves()
    a, b, c = (MiniRocket.fit(series, classes, seed)[0].to_json() for seed in (1, 1, 2))
    assert a == b and a["thresholds"] != c["thresholds"]


def test_a_series_counts_the_same_whatever_is_beside_it():
    series, classes = waves(I=2)
    model, _ = MiniRocket.fit(series, classes, 0)
    alone = np.concatenate([model.scores(series, np.array([i])) for i in range(len(series))])
    np.testing.assert_allclose(model.scores(series), alone, atol=0.02)


def test_series_may_be_short_empty_or_constant():
    series, classes = waves(12, shortest=1, longest=4)
    rows = [
        *series,
        np.zeros((0, 1), np.float32),
        *(np.full((30, 1), v, np.float32) for v in (0, 3)),
    ]
    many = Ragged.of(rows)
    model, left_out = MiniRocket.fit(many, np.append(classes, [0, 1, 2]), 0)
    assert np.isfinite(left_out).all() and np.isfinite(model.scores(many)).all()
    assert not model.features(many, np.array([12])).any()
    flat = Ragged.of([np.full((50, 1), v, np.float32) for v in (0.1, 0.7, -0.3, 1.9)])
    first, *others = model.features(flat, np.arange(4))[:, : model.thresholds[0].size : 97]
    inside = [
        share(np.zeros((50, 1)), [0] * 9, 1, [1], b) for b in model.thresholds[0].flatten()[::97]
    ]
    for each in (first, *others):  # only the ends tell them apart
        assert np.abs(each - inside).max() <= 8 / 50


def test_many_series_values_and_weights_are_bounded(monkeypatch):
    series, classes = waves(90)
    monkeypatch.setattr(minirocket, "MAX_SERIES", 40)
    seen = []
    ridge = minirocket._ridge
    monkeypatch.setattr(minirocket, "_ridge", lambda X, y: seen.append(X.shape) or ridge(X, y))
    _, left_out = MiniRocket.fit(series, classes, 0)
    assert seen[-1][0] in range(40, 44) and (left_out.argmax(1) == classes).mean() > 0.8
    monkeypatch.setattr(minirocket, "MAX_VALUES", 200)
    MiniRocket.fit(series, classes, 0)
    assert seen[-1][0] < 20
    monkeypatch.setattr(minirocket, "MAX_VALUES", 1)  # but one of each class
    MiniRocket.fit(series, classes, 0)
    assert seen[-1][0] in (3, 4)
    monkeypatch.setattr(minirocket, "MAX_WEIGHTS", 3 * 84 * 2)
    assert MiniRocket.fit(series, classes, 0)[0].weights.shape == (84 * 2, 3)


def test_stored_it_is_the_same():
    series, classes = waves(I=2)
    model = MiniRocket.fit(series, classes, 0)[0].times(0.3)
    again = MiniRocket(**json.loads(json.dumps(model.to_json())))
    assert np.array_equal(again.scores(series), model.scores(series))


def with_changes(change):
    document = MiniRocket.fit(*waves(), 0)[0].to_json()
    return document | {name: make(document[name]) for name, make in change.items()}


@pytest.mark.parametrize(
    "change",
    [
        {"weights": lambda a: a[1:]},
        {"bias": lambda a: [*a, 0.0]},
        {"bias": lambda a: [math.nan, *a[1:]]},
        {"dilations": lambda a: [0, *a[1:]]},
        {"dilations": lambda a: [1.0, *a[1:]]},
        {"dilations": lambda a: [*a, 2**30]},
        {"variables": lambda a: a[1:]},
        {"thresholds": lambda a: [[[math.inf, *a[0][0][1:]], *a[0][1:]], *a[1:]]},
        {"thresholds": lambda a: [a[0][1:], *a[1:]]},
        {"thresholds": lambda a: a[:-1]},
    ],
)
def test_what_no_fit_gave_is_refused(change):
    with pytest.raises(OstinatoError, match="MiniRocket: its weights do not fit"):
        MiniRocket(**with_changes(change))
