"""A classifier of texts or series is a network and a linear classifier."""

import hashlib
import json
import re

import numpy as np
import pytest
from scipy.optimize import minimize
from test_classification import Interrupting, series
from test_linear import nats, peer, sentences
from test_minirocket import waves as minirocket_waves

from ostinato import SequenceClassifier, load
from ostinato.data.ragged import Ragged
from ostinato.errors import OstinatoError
from ostinato.tasks import estimators
from ostinato.tasks.minirocket import MiniRocket
from ostinato.training.callbacks import Callback

SETTINGS = {"hidden_size": 8, "embedding_size": 8, "spelling_size": 8, "epochs": 6, "seed": 3}


def texts(N=400):
    X, classes = sentences(N)
    return [" ".join(filter(str.isalpha, words)) or "so" for words in X], [
        f"class {k}" for k in classes
    ]


@pytest.fixture(scope="module")
def model():
    """A classifier of texts in which network and words have a weight."""
    found = SequenceClassifier(**SETTINGS).fit(*texts())
    assert min(found.training_["blend"][name] for name in ("network", "logistic_regression")) > 0
    return found


def alone(model, X):
    """Return the network's scores."""
    return model._sequences().scores(model.network_, model._read(X)).double().numpy()


def test_probabilities_are_those_of_both(model):
    X, y = texts()
    asked, _ = texts(100)
    asked += ["unheard of", "GOOD film"]
    words = [[text.lower().split() for text in some] for some in (X, asked)]
    classes = np.searchsorted(model.classes_, y)
    weights = model.training_["blend"]
    parts = [alone(model, asked), *peer(words[0], classes, words[1])]
    p = np.exp(sum(w * part for w, part in zip(weights.values(), parts, strict=True)))
    np.testing.assert_allclose(model.predict_proba(asked), p / p.sum(1, keepdims=True), atol=3e-3)


def test_on_validation_data_both_fit_no_worse_than_either(model):
    X, y = texts()
    training, held_out = model._parts(X, y, None)
    truth = np.searchsorted(model.classes_, held_out.targets)
    words = [text.split() for text in held_out.inputs]
    scores = [alone(model, held_out) / model.training_["temperature"]]
    classes = np.searchsorted(model.classes_, training.targets)
    scores += peer([text.split() for text in training.inputs], classes, words)
    weights = [*model.training_["blend"].values()]
    linear = np.tensordot(weights[1:], scores[1:], 1)
    both = weights[0] * alone(model, held_out) + linear
    assert nats([1], [both], truth) < min(nats(alone, scores, truth) for alone in np.eye(3))
    right = [np.mean(z.argmax(1) == truth) for z in (scores[0], linear, both)]
    assert [*model.training_["held_out_accuracy"].values()] == right
    assert model.training_["validation"]["accuracy"] == right[-1]
    # What is kept has learned from these texts, too.
    assert nats([1], [model.linear_.scores(words)], truth) < nats([1], [linear], truth)


def test_training_ends_with_how_good_each_is(model, monkeypatch):
    noted = []

    class Notes(Callback):
        def note(self, message):
            noted.append(message)

    monkeypatch.setattr(estimators, "make_progress", lambda mode: Notes())
    SequenceClassifier(**SETTINGS).fit(*texts())
    shares = [f"{100 * share:.1f}" for share in model.training_["held_out_accuracy"].values()]
    assert noted == [model.training_["summary"]]
    assert re.findall(r"\d+\.\d(?= %)", noted[0]) == shares


def test_turned_off_the_network_is_alone_and_the_same(model, tmp_path):
    X, y = texts()
    off = SequenceClassifier(blend=False, **SETTINGS).fit(X, y)
    assert off.linear_ is None and not {"blend", "summary", "held_out_accuracy"} & {*off.training_}
    assert np.array_equal(alone(off, X), alone(model, X))
    assert off.training_["temperature"] == model.training_["temperature"]
    scores = alone(off, X) / off.training_["temperature"]
    p = np.exp(scores - scores.max(1, keepdims=True))
    np.testing.assert_allclose(off.predict_proba(X), p / p.sum(1, keepdims=True), rtol=1e-12)
    off.save(tmp_path)
    assert not (tmp_path / "linear.json").exists()


def test_what_has_no_texts_labels_or_validation_data_is_the_network_alone():
    X, y = texts(60)
    quick = SETTINGS | {"epochs": 1}
    for settings, data in (
        ({"validation_fraction": 0}, (X, y)),
        ({}, (X, [[label] for label in y])),
        ({"bidirectional": False}, series()),
        ({"recurrent": False}, series()),
        ({"blend": False}, series()),
    ):
        found = SequenceClassifier(**quick, **settings).fit(*data)
        assert found.linear_ is None and not {"blend", "summary"} & found.training_.keys()
    with pytest.raises(OstinatoError, match="blend='some'; expected true or false"):
        SequenceClassifier(blend="some").fit(X, y)


def test_what_tells_nothing_is_left_out():
    random = np.random.default_rng(0)
    X, y = texts(300)
    found = SequenceClassifier(**SETTINGS | {"epochs": 2}).fit(X, random.permutation(y).tolist())
    assert found.linear_ is None and "blend" not in found.training_
    assert found.training_["summary"].endswith("which adds nothing")


def test_files_and_arrays_are_alike(model, tmp_path):
    X, y = texts()
    lines = [f"{label}\t{text}" for text, label in zip(X, y, strict=True)]
    (tmp_path / "texts.tsv").write_text("\n".join(["label\ttext", *lines]))
    found = SequenceClassifier(**SETTINGS).fit(tmp_path / "texts.tsv")
    assert np.array_equal(found.predict_proba(X), model.predict_proba(X))


def test_stored_or_resumed_it_is_the_same(model, tmp_path, monkeypatch):
    X, y = texts()
    model.save(tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr(estimators, "make_progress", lambda mode: Interrupting(20))
        stopped = SequenceClassifier(**SETTINGS).fit(X, y, out=tmp_path / "run")
    assert stopped.linear_ is None and not (tmp_path / "run" / "linear.json").exists()
    resumed = SequenceClassifier.resume(tmp_path / "run")
    expected = model.predict_proba(X)
    for again in (load(tmp_path / "kept"), resumed, load(tmp_path / "run")):
        assert np.array_equal(again.predict_proba(X), expected)
    documents = [(tmp_path / name / "linear.json").read_bytes() for name in ("kept", "run")]
    assert documents[0] == documents[1]
    # Trained again without, the estimator has none, nor has its folder.
    model = load(tmp_path / "kept").set_params(blend=False)
    model.fit(X, y).save(tmp_path / "kept")
    assert model.linear_ is load(tmp_path / "kept").linear_ is None
    assert not np.array_equal(model.predict_proba(X), expected)


@pytest.fixture(scope="module")
def shapes():
    """A classifier of series in which the network and MiniRocket have a weight."""
    found = SequenceClassifier(hidden_size=8, steps=60, seed=3).fit(*waves(90))
    assert min(found.training_["blend"].values()) > 0
    return found


def waves(N, seed=0):
    X, y = minirocket_waves(N, I=2, seed=seed, noise=1.0)
    return [*X], [f"class {k}" for k in y]


def test_probabilities_of_series_are_those_of_both(shapes):
    X, y = waves(90)
    training, held_out = shapes._parts(X, y, None)
    scaled = [(np.concatenate(training.inputs).mean(0), np.concatenate(training.inputs).std(0))] * 2
    rows = [
        Ragged.of([(x - mean) / scale for x in each])
        for each, (mean, scale) in zip(
            ([*training.inputs, *held_out.inputs], waves(40, seed=1)[0]), scaled, strict=True
        )
    ]
    classes = np.searchsorted(shapes.classes_, [*training.targets, *held_out.targets])
    rocket, left_out = MiniRocket.fit(rows[0], classes, 3)
    weights = shapes.training_["blend"]
    both = weights["network"] * alone(shapes, waves(40, seed=1)[0])
    both += weights["minirocket"] * rocket.scores(rows[1])
    p = np.exp(both) / np.exp(both).sum(1, keepdims=True)
    np.testing.assert_allclose(shapes.predict_proba(waves(40, seed=1)[0]), p, atol=0.02)
    # The weights are those that fit the held-out series best, by what was not fitted to them.
    scores = [alone(shapes, held_out), left_out[len(training) :]]
    truth, N = classes[len(training) :], len(held_out)
    T = shapes.training_["temperature"]

    def objective(w):
        return nats(w, scores, truth) + 2 / N * ((w[0] * T - 0.25) ** 2 + (w[1] - 0.75) ** 2)

    best = minimize(objective, [0.5, 0.5], method="Nelder-Mead", options={"xatol": 1e-8})
    np.testing.assert_allclose([*weights.values()], best.x, atol=0.03)


def test_of_series_each_part_is_told(shapes):
    X, y = waves(90)
    _, held_out = shapes._parts(X, y, None)
    told = shapes.training_["held_out_accuracy"]
    truth = np.searchsorted(shapes.classes_, held_out.targets)
    assert told["network"] == np.mean(alone(shapes, held_out).argmax(1) == truth)
    assert 0.5 < told["linear"] <= 1 and told["both"] == shapes.training_["validation"]["accuracy"]
    shares = [f"{100 * share:.1f}" for share in told.values()]
    assert re.findall(r"\d+\.\d(?= %)", shapes.training_["summary"]) == shares
    assert "MiniRocket" in shapes.training_["summary"]


def test_stored_a_classifier_of_series_is_the_same(shapes, tmp_path):
    X, _ = waves(30, seed=2)
    shapes.save(tmp_path)
    assert np.array_equal(load(tmp_path).predict_proba(X), shapes.predict_proba(X))
    document = json.loads((tmp_path / "linear.json").read_text())
    for change in (
        {"variables": np.ones((len(document["dilations"]), 84, 1)).tolist()},
        {"bias": 1},
    ):
        (tmp_path / "linear.json").write_text(json.dumps(document | change))
        names = ("config.json", "inputs.json", "linear.json", "targets.json", "weights.safetensors")
        sums = [hashlib.sha256((tmp_path / each).read_bytes()).hexdigest() for each in names]
        lines = [f"{d}  {each}\n" for d, each in zip(sums, names, strict=True)]
        (tmp_path / "SHA256SUMS").write_text("".join(lines))
        with pytest.raises(OstinatoError) as caught:
            load(tmp_path)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def two_classes(files):
    weights = [weights[:2] for weights in files["linear.json"]["weights"]]
    files["linear.json"].update(bias=[0.0, 0.0], weights=weights)


HOSTILE = {
    "no classifier": lambda files: files.pop("linear.json"),
    "no weights of both": lambda files: files["config.json"]["training"].pop("blend"),
    "a negative weight": lambda f: f["config.json"]["training"]["blend"].update(network=-1),
    "other classes": two_classes,
    "a term too many": lambda files: files["linear.json"]["terms"]["phrases"].update(more=1),
    "a weight too few": lambda files: files["linear.json"]["weights"].pop(),
    "no kind of terms": lambda files: files["linear.json"]["terms"].pop("pieces"),
    "no numbers": lambda files: files["linear.json"].update(bias=["a", "b", "c"]),
    "a list": lambda files: files.update({"linear.json": []}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_whose_parts_do_not_fit_is_refused_in_a_line(model, tmp_path, name):
    model.save(tmp_path)
    names = ["config.json", "inputs.json", "linear.json", "targets.json"]
    files = {each: json.loads((tmp_path / each).read_text()) for each in names}
    HOSTILE[name](files)
    for each, document in files.items():
        (tmp_path / each).write_text(json.dumps(document))
    listed = [*files, "weights.safetensors"]
    digests = [hashlib.sha256((tmp_path / each).read_bytes()).hexdigest() for each in listed]
    sums = [f"{d}  {each}\n" for d, each in zip(digests, listed, strict=True)]
    (tmp_path / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(OstinatoError) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
