"""Linear classifiers of texts beside scikit-learn's, and what they are blended by."""

import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

from ostinato.errors import OstinatoError
from ostinato.tasks import linear
from ostinato.tasks.linear import LinearClassifier, fit_blend

WORDS = ["good", "goodness", "bad", "badly", "so", "film", "a", "not", "ça", "x!", "so-so"]


def sentences(N=120, K=3, seed=0):
    """Sentences, an empty one among them, whose words depend on their class."""
    random = np.random.default_rng(seed)
    classes = np.arange(N) % K
    odds = random.dirichlet(np.ones(len(WORDS)), K)
    texts = [random.choice(WORDS, random.integers(1, 9), p=odds[k]).tolist() for k in classes]
    return [[], *texts[1:]], classes


def peer(texts, classes, others):
    """Log-probabilities of other texts by logistic regression and naive Bayes of scikit-learn."""
    joined, asked = ([" ".join(text) for text in some] for some in (texts, others))

    def pieces(text):
        marked = [f"<{word}>" for word in text.split()]
        return [w[i : i + n] for w in marked for n in (3, 4, 5) for i in range(len(w) - n + 1)]

    phrases = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True)
    kinds = [phrases, TfidfVectorizer(analyzer=pieces, min_df=2, sublinear_tf=True)]
    learned = [kind.fit_transform(joined).toarray() for kind in kinds]
    given = [kind.transform(asked).toarray() for kind in kinds]
    bayes = MultinomialNB(alpha=linear.SMOOTHING).fit(learned[0], classes)
    X, Z = np.hstack(learned), np.hstack(given)
    scale = np.zeros(X.shape[1])
    for k in set(classes):  # how many texts of a class have a term, and of all others
        p, q = (1 + (X[rows] > 0).sum(0) for rows in (classes == k, classes != k))
        scale = np.maximum(scale, np.abs(np.log(p / p.sum() / (q / q.sum()))))
    model = LogisticRegression(C=linear.STRENGTH, max_iter=1000).fit(X * scale, classes)
    return model.predict_log_proba(Z * scale), bayes.predict_log_proba(given[0])


@pytest.mark.parametrize("K", [2, 3])
def test_they_are_logistic_regression_and_naive_bayes_on_tf_idf(K):
    texts, classes = sentences(K=K)
    others = [*sentences(40, K, seed=1)[0], ["unheard"], ["good", "unheard", "bad", "bad"]]
    found = LinearClassifier.fit(texts, classes, 0)
    for each, expected in zip(found, peer(texts, classes, others), strict=True):
        np.testing.assert_allclose(log_softmax(each.scores(others), 1), expected, atol=2e-3)


def fitted(K=3):
    texts, classes = sentences(K=K)
    return LinearClassifier.fit(texts, classes, 0)


def test_a_sum_of_two_has_the_sum_of_their_scores():
    texts, _ = sentences(40, seed=1)
    logistic, bayes = fitted()
    expected = 2 * logistic.scores(texts) + 0.5 * bayes.scores(texts)
    found = logistic.plus(bayes, 2, 0.5).scores(texts)
    np.testing.assert_allclose(log_softmax(found, 1), log_softmax(expected, 1), atol=1e-3)


def test_a_text_counts_the_same_whatever_is_beside_it():
    texts, _ = sentences()
    model, _ = fitted()
    alone = np.concatenate([model.scores([text]) for text in texts])
    assert np.array_equal(model.scores(texts), alone)


def test_stored_it_is_the_same():
    texts, _ = sentences()
    for model in (fitted()[0], fitted()[0].plus(fitted()[1], 1, 1)):
        again = LinearClassifier(**json.loads(json.dumps(model.to_json())))
        assert np.array_equal(again.scores(texts), model.scores(texts))


def test_many_words_and_terms_are_bounded(monkeypatch):
    texts, classes = sentences(600)
    monkeypatch.setattr(linear, "MAX_WORDS", 3 * 500)
    monkeypatch.setattr(linear, "MAX_TERMS", 7)
    model, _ = LinearClassifier.fit(texts, classes, 0)
    assert 60 < model.texts < 200
    assert [len(terms) for terms in model.terms.values()] == [7, 7]
    monkeypatch.setattr(linear, "MAX_TERMS", 10**6)
    whole, _ = LinearClassifier.fit(texts, classes, 0)
    assert model.terms["phrases"].keys() < whole.terms["phrases"].keys()
    monkeypatch.setattr(linear, "MAX_WORDS", 1)  # but none of the classes is lost
    assert LinearClassifier.fit(texts, classes, 0)[0].scores(texts).shape == (600, 3)


def with_changes(**changes):
    return {**fitted()[0].to_json(), **changes}


@pytest.mark.parametrize(
    "document",
    [
        with_changes(weights=[[0.0, 0.0, 0.0]]),
        with_changes(bias=[math.nan, 0.0, 0.0]),
        with_changes(bias=[0.0]),
        with_changes(texts=3),
        with_changes(terms={"phrases": {"a": 1}, "pieces": {"b": 1.5}}, weights=np.zeros((2, 3))),
        with_changes(terms={"phrases": {"a": 0}, "pieces": {}}, weights=np.zeros((1, 3))),
    ],
)
def test_what_no_fit_gave_is_refused(document):
    with pytest.raises(OstinatoError, match="LinearClassifier: its weights do not fit"):
        LinearClassifier(**document)


# The blend.


def experts(N, K, seed, skill):
    """Scores of experts who know something of N classes, each with errors of its own."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, K, N)
    known = [s * 2 * np.eye(K)[classes] for s in skill]
    noise = [random.normal(size=(N, K)) * (1 if s else 1e-3) for s in skill]
    return [log_softmax(k + n, 1) for k, n in zip(known, noise, strict=True)], classes


def nats(weights, scores, classes):
    """Return the log-loss of scores that are added."""
    log_p = log_softmax(sum(w * z for w, z in zip(weights, scores, strict=True)), 1)
    return -log_p[np.arange(len(classes)), classes].mean()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "skill", [(1, 1, 1), (0.3, 1, 0), (1, 0, 0), (0, 1, 0.5), (0, 0, 0), (50, 50, 50), (-1, 1, -1)]
)
@pytest.mark.parametrize("N", [3, 200])
def test_a_blend_fits_no_worse_than_any_alone(N, skill, seed):
    data = experts(N, 3, seed, skill)
    weights = fit_blend(*data)
    assert min(weights) >= 0
    network, *others = (nats(alone, *data) for alone in np.eye(3))
    assert nats(weights, *data) <= network + 1e-12
    # The first alone is taken though another fits better by no more than chance.
    chance = 0 if any(weights[1:]) else linear.CHANCE / N
    assert nats(weights, *data) <= min(others) + chance + 1e-12


def test_a_blend_fits_best():
    data = experts(400, 3, 0, (0.6, 1, 0.5))

    def objective(w):
        return nats(np.abs(w), *data) + 0.5 / 400 * (np.abs(w).sum() - 1) ** 2

    best = minimize(objective, [0.5] * 3, method="Nelder-Mead", options={"xatol": 1e-8})
    np.testing.assert_allclose(fit_blend(*data), np.abs(best.x), atol=1e-3)


def test_what_does_not_help_is_left_out():
    kept = [any(fit_blend(*experts(300, 2, seed, (1, 0, 0)))[1:]) for seed in range(40)]
    assert np.mean(kept) < 0.15  # a twentieth, by chance
    assert all(fit_blend(*experts(300, 2, seed, (1, 1, 0)))[1] > 0.2 for seed in range(10))
