"""A label for every step: words, frames, entities."""

import numpy as np
import pytest

from ostinato import SequenceTagger, load
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.tagging import entities

QUICK = {"hidden_size": 8, "epochs": 4, "batch_size": 8}


def sentences(N=100, seed=0):
    """Words of which some can only be tagged by the word before."""
    random = np.random.default_rng(seed)
    X, y = [], []
    for _ in range(N):
        words, tags = [], []
        for _ in range(random.integers(1, 6)):
            first = random.choice(["the", "to"])
            words += [first, "run"]
            tags += ["DET", "NOUN"] if first == "the" else ["PART", "VERB"]
        X.append(words)
        y.append(tags)
    return X, y


@pytest.mark.parametrize("crf", [False, True])
def test_a_word_is_tagged_by_its_neighbours(crf):
    model = SequenceTagger(hidden_size=16, epochs=15, crf=crf, bidirectional=False)
    model.fit(*sentences())
    X, y = sentences(20, seed=1)
    assert model.evaluate(X, y)["accuracy"] > 0.98
    assert model.predict(X)[0] == y[0]
    if not crf:  # which remembers a step by itself
        alone = SequenceTagger(hidden_size=16, epochs=15, recurrent=False).fit(*sentences())
        assert alone.evaluate(X, y)["accuracy"] < 0.9
    for p, tags in zip(model.predict_proba(X), y, strict=True):
        assert p.shape == (len(tags), 4)
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)


def frames(T, seed=0):
    """One long series whose label changes now and then, with noisy measurements."""
    random = np.random.default_rng(seed)
    labels = np.repeat(random.integers(0, 2, T // 20 + 1), 20)[:T]
    return labels[:, None] + random.normal(size=(T, 3)), ["ab"[label] for label in labels]


def test_one_long_series_is_cut_and_its_end_held_out():
    X, y = frames(600)
    model = SequenceTagger(hidden_size=16, window=50, epochs=30, dropout=0.1).fit([X], [y])
    assert model.training_["sequences"] == 1
    assert model.training_["longest"] == 480
    test = frames(300, seed=1)
    found = model.evaluate([test[0]], [test[1]])
    assert found["accuracy"] > 0.9 and found["steps"] == 300


def test_a_model_that_was_kept_is_the_same(tmp_path):
    model = SequenceTagger(crf=True, **QUICK).fit(*sentences(), out=tmp_path / "run")
    X, _ = sentences(5, seed=2)
    again = load(tmp_path / "run")
    assert again.predict(X) == model.predict(X)
    for a, b in zip(again.predict_proba(X), model.predict_proba(X), strict=True):
        assert np.array_equal(a, b)


# Entities.


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ("B-A I-A O", [(0, 2, "A")]),
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")]),
        ("I-A I-B", [(0, 1, "A"), (1, 2, "B")]),
        ("S-A B-A E-A I-A", [(0, 1, "A"), (1, 3, "A"), (3, 4, "A")]),
        ("O O", []),
        ("B-A", [(0, 1, "A")]),
        ("B-A O I-A", [(0, 1, "A"), (2, 3, "A")]),
    ],
)
def test_entities_are_what_the_labels_spell(labels, wanted):
    assert list(entities(labels.split())) == wanted


def test_entities_count_when_both_ends_and_the_kind_are_right(monkeypatch):
    y = [["B-A", "I-A", "O", "B-B"], ["B-A", "O", "O", "O"]]
    said = [["B-A", "I-A", "O", "B-A"], ["B-A", "I-A", "O", "O"]]
    X = [["a", "b", "c", "d"], ["a", "b", "c", "d"]]
    model = SequenceTagger(validation_fraction=0, **QUICK).fit(X * 5, y * 5)
    monkeypatch.setattr(model, "predict", lambda corpus: said)
    found = model.evaluate(X, y)
    assert (found["entity_precision"], found["entity_recall"]) == (1 / 3, 1 / 3)
    np.testing.assert_allclose(found["entity_f1"], 1 / 3)
    assert found["entities"] == 3 and found["accuracy"] == 6 / 8


def test_labels_that_only_continue_are_entities_too():
    X, y = [["a", "b", "c"]] * 12, [["I-A", "I-A", "O"]] * 12
    model = SequenceTagger(validation_fraction=0, **QUICK).fit(X, y)
    assert model.targets_.crf and not model.targets_.strict
    assert model.evaluate(X, y)["entities"] == 12


def test_a_name_is_known_by_its_capital_and_its_end():
    random = np.random.default_rng(0)

    def of(N):
        X, y = [], []
        for _ in range(N):
            stem = "".join(random.choice(list("bcdfgklmnprst"), 5))
            word, label = [
                (stem, "O"),
                (stem.title(), "B-A"),
                (stem + "ing", "O"),
                (stem + "ia", "B-B"),
            ][random.integers(4)]
            X.append(["we", "saw", word])
            y.append(["O", "O", label])
        return X, y

    model = SequenceTagger(spelling_size=0, hidden_size=16, epochs=8).fit(*of(300))
    assert model.evaluate(*of(200))["entity_f1"] > 0.95


# Mistakes.


def test_mistakes_name_their_line(tmp_path):
    path = tmp_path / "train.conll"
    path.write_text("\n\n".join(["the DET\ndog NOUN"] * 12))
    other = tmp_path / "other.conll"
    other.write_text("the DET\ncat VERB\n")
    model = SequenceTagger(**QUICK).fit(path)
    with pytest.raises(
        DataError, match=r"other.conll: line 2: has the label 'VERB', which was not"
    ):
        model.evaluate(other)
    with pytest.raises(DataError, match=r"X\[\d+\]: has 1 steps, and 2 labels"):
        SequenceTagger(**QUICK).fit([["a"], ["b"]] * 9, [["x"], ["x", "y"]] * 9)
    with pytest.raises(DataError, match="all steps have the label 'x'"):
        SequenceTagger(**QUICK).fit([["a", "b"]] * 20, [["x", "x"]] * 20)
    with pytest.raises(DataError, match="too short to hold their ends out"):
        SequenceTagger(**QUICK).fit([["a"]], [["x"]])
    with pytest.raises(OstinatoError, match="crf='no'; expected true or false, or None"):
        SequenceTagger(crf="no").fit([["a"]], [["x"]])
