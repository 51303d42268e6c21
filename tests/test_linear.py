"""The linear classifier of texts, and its blend with a network, beside scikit-learn's."""

import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ostinato.errors import OstinatoError
from ostinato.tasks import linear
from ostinato.tasks.linear import Blend, LinearClassifier, fit_blend

WORDS = ["good", "goodness", "bad", "badly", "so", "film", "a", "not", "ça", "x!", "so-so"]


def sentences(N=120, K=3, seed=0):
    """Sentences, an empty one among them, whose words depend on their class."""
    random = np.random.default_rng(seed)
    classes = np.arange(N) % K
    odds = random.dirichlet(np.ones(len(WORDS)), K)
    texts = [random.choice(WORDS, random.integers(1, 9), p=odds[k]).tolist() for k in classes]
    return [[], *texts[1:]], classes


def peer(texts, classes, others):
    """Log-probabilities by scikit-learn alone, of texts as it takes them."""
    joined, asked = ([" ".join(text) for text in some] for some in (texts, others))
    # Letters between blanks are a word: its pieces begin and end in one, never both sides of one.
    marked, marked_asked = (
        [" ".join(f"<{word}>" for word in text) for text in some] for some in (texts, others)
    )

    def pieces(text):
        return [
            w[i : i + n] for w in text.split() for n in (3, 4, 5) for i in range(len(w) - n + 1)
        ]

    kinds = [
        (
            TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True),
            joined,
            asked,
        ),
        (TfidfVectorizer(analyzer=pieces, min_df=2, sublinear_tf=True), marked, marked_asked),
    ]
    learned = hstack([kind.fit_transform(some) for kind, some, _ in kinds])
    model = LogisticRegression(C=linear.STRENGTH, max_iter=1000).fit(learned, classes)
    return model.predict_log_proba(hstack([kind.transform(some) for kind, _, some in kinds]))


@pytest.mark.parametrize("K", [2, 3])
def test_it_is_logistic_regression_on_tf_idf(K):
    texts, classes = sentences(K=K)
    others = [*sentences(40, K, seed=1)[0], ["unheard"], ["good", "unheard", "bad", "bad"]]
    found = LinearClassifier.fit(texts, classes, 0).log_probabilities(others)
    np.testing.assert_allclose(found, peer(texts, classes, others), atol=2e-3)
    np.testing.assert_allclose(np.exp(found).sum(1), 1)


def test_a_text_counts_the_same_whatever_is_beside_it():
    texts, classes = sentences()
    model = LinearClassifier.fit(texts, classes, 0)
    alone = np.concatenate([model.log_probabilities([text]) for text in texts])
    assert np.array_equal(model.log_probabilities(texts), alone)


def test_stored_it_is_the_same():
    texts, classes = sentences()
    model = LinearClassifier.fit(texts, classes, 0)
    again = LinearClassifier(**json.loads(json.dumps(model.to_json())))
    assert np.array_equal(again.log_probabilities(texts), model.log_probabilities(texts))


def test_many_words_and_terms_are_bounded(monkeypatch):
    texts, classes = sentences(600)
    monkeypatch.setattr(linear, "MAX_WORDS", 3 * 500)
    monkeypatch.setattr(linear, "MAX_TERMS", 7)
    model = LinearClassifier.fit(texts, classes, 0)
    assert 60 < model.texts < 200
    assert [len(terms) for terms in model.terms.values()] == [7, 7]
    few = set(model.terms["phrases"])
    monkeypatch.setattr(linear, "MAX_TERMS", 10**6)
    assert few < LinearClassifier.fit(texts, classes, 0).terms["phrases"].keys()
    monkeypatch.setattr(linear, "MAX_WORDS", 1)  # but none of the classes is lost
    assert LinearClassifier.fit(texts, classes, 0).log_probabilities(texts).shape == (600, 3)


def with_weights(**changes):
    texts, classes = sentences()
    return {**LinearClassifier.fit(texts, classes, 0).to_json(), **changes}


@pytest.mark.parametrize(
    "document",
    [
        with_weights(weights=[[0.0, 0.0, 0.0]]),
        with_weights(bias=[math.nan, 0.0, 0.0]),
        with_weights(bias=[0.0]),
        with_weights(texts=3),
        with_weights(terms={"phrases": {"a": 1}, "pieces": {"b": 1.5}}, weights=np.zeros((2, 3))),
        with_weights(terms={"phrases": {"a": 0}, "pieces": {}}, weights=np.zeros((1, 3))),
    ],
)
def test_what_no_fit_gave_is_refused(document):
    with pytest.raises(OstinatoError, match="LinearClassifier: its weights do not fit"):
        LinearClassifier(**document)


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (1.0, math.nan), (math.inf, 0.0)])
def test_a_blend_of_other_weights_is_refused(weights):
    with pytest.raises(OstinatoError, match="expected numbers not below 0"):
        Blend(*weights)


# The blend.


def experts(N, K, seed, skill):
    """Scores of two experts who know something of N classes, and err on their own."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, K, N)
    scores = [
        s * 2 * np.eye(K)[classes] + random.normal(size=(N, K)) * (1 if s else 1e-3) for s in skill
    ]
    return *(z - np.logaddexp.reduce(z, 1, keepdims=True) for z in scores), classes


def nats(blend, network, linear_, classes):
    return -np.log(blend(network, linear_)[np.arange(len(classes)), classes]).mean()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("skill", [(1, 1), (0.3, 1), (1, 0), (0, 1), (0, 0), (50, 50), (-1, 1)])
@pytest.mark.parametrize("N", [3, 200])
def test_a_blend_fits_no_worse_than_either_alone(N, skill, seed):
    data = experts(N, 3, seed, skill)
    blend = fit_blend(*data)
    assert blend.network >= 0 and blend.linear >= 0
    assert nats(blend, *data) <= nats(Blend(1, 0), *data) + 1e-12
    # The network alone is taken though the other fits better by no more than chance.
    chance = 0 if blend.linear else linear.CHANCE / N
    assert nats(blend, *data) <= nats(Blend(0, 1), *data) + chance + 1e-12


def test_a_blend_fits_best():
    data = experts(400, 3, 0, (0.6, 1))

    def objective(w):
        blend = Blend(*np.abs(w))
        return nats(blend, *data) + 0.5 / 400 * (np.abs(w).sum() - 1) ** 2

    best = minimize(objective, [0.5, 0.5], method="Nelder-Mead", options={"xatol": 1e-8})
    blend = fit_blend(*data)
    np.testing.assert_allclose([blend.network, blend.linear], np.abs(best.x), rtol=1e-3)


def test_what_does_not_help_is_left_out():
    kept = [fit_blend(*experts(300, 2, seed, (1, 0))).linear for seed in range(40)]
    assert np.mean(np.array(kept) > 0) < 0.15  # a twentieth, by chance
    assert all(fit_blend(*experts(300, 2, seed, (1, 1))).linear > 0.2 for seed in range(10))
