"""Estimators in the tools of scikit-learn."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import ostinato
from ostinato.tasks.registry import TASKS

RNG = np.random.default_rng(0)
QUICK = {"hidden_size": 4, "steps": 3, "evaluations": 1, "health": False}
WORDS = [f"{a} {b}" for a in ("good", "bad", "fine", "grey") for b in ("day", "rain", "wind")] * 2
SERIES = [RNG.normal(size=(8, 2)) for _ in range(24)]
DATA = {
    "SequenceClassifier": (SERIES, [0, 1] * 12),
    "SequenceRegressor": (SERIES, [float(x.mean()) for x in SERIES]),
    "SequenceTagger": ([w.split() for w in WORDS], [["A", "N"] for _ in WORDS]),
    "Translator": (WORDS, [word[::-1] for word in WORDS]),
    "Summarizer": (WORDS, [word[:3] for word in WORDS]),
    "Transcriber": (SERIES, ["a", "b"] * 12),
}


def estimator(name):
    return getattr(ostinato, name)(**QUICK)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.command)
def test_a_clone_has_the_settings_and_nothing_that_was_learnt(task):
    model = getattr(ostinato, task.estimator)(hidden_size=7, seed=3)
    again = clone(model)
    assert again is not model and again.get_params() == model.get_params()
    assert not any(name.endswith("_") for name in vars(again))


@pytest.mark.parametrize("name", DATA)
def test_cross_validation_trains_on_the_other_folds(name):
    X, y = DATA[name]
    scores = cross_val_score(estimator(name), X, y, cv=KFold(3), error_score="raise")
    parts = []
    for train, test in KFold(3).split(X):
        model = estimator(name).fit([X[i] for i in train], [y[i] for i in train])
        parts.append(model.score([X[i] for i in test], [y[i] for i in test]))
    np.testing.assert_allclose(scores, parts, rtol=1e-6)


@pytest.mark.parametrize("name", DATA)
def test_a_grid_search_keeps_the_best(name):
    X, y = DATA[name]
    grid = {"learning_rate": [1e-9, 0.05]}
    search = GridSearchCV(estimator(name), grid, cv=KFold(2), error_score="raise").fit(X, y)
    means = search.cv_results_["mean_test_score"]
    assert search.best_score_ == max(means) and search.best_params_["learning_rate"] in (1e-9, 0.05)
    assert search.best_estimator_.learning_rate == search.best_params_["learning_rate"]
    assert len(list(search.predict(X[:2]))) == 2


@pytest.mark.parametrize("name", ["SequenceClassifier", "SequenceRegressor", "Transcriber"])
def test_a_pipeline_hands_on_what_it_transforms(name):
    X, y = DATA[name]
    double = FunctionTransformer(lambda sequences: [2 * x for x in sequences])
    piped = make_pipeline(double, estimator(name)).fit(X, y)
    alone = estimator(name).fit([2 * x for x in X], y)
    assert list(piped.predict(X[:5])) == list(alone.predict([2 * x for x in X[:5]]))
    key = [step for step, _ in piped.steps][1]
    assert clone(piped).set_params(**{f"{key}__hidden_size": 9}).steps[1][1].hidden_size == 9
