"""What newcomers get wrong is one sentence that says what to do; in memory, for every class."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

import ostinato
from ostinato import (
    Forecaster,
    MusicModel,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    TextGenerator,
    Transcriber,
    Translator,
)
from ostinato.errors import OstinatoError

X, Y = ["good film", "bad film"] * 10, ["p", "n"] * 10
FRAME = pd.DataFrame({"text": X, "stars": range(20)})
WORDS = [["a", "b"], ["c", "d"]] * 10
QUICK = {"epochs": 1, "hidden_size": 4}
SERIES = np.arange(50.0)


def classify(**settings):
    return SequenceClassifier(**QUICK, **settings)


SLIPS = {
    # Data of the wrong kind
    "a text for texts": (lambda: classify().fit("a film", "p"), "got 'a film'; expected several"),
    "a name for a file": (lambda: classify().fit("a.csv"), "for files, pathlib.Path objects"),
    "one label": (lambda: classify().fit(X, "p"), "got 'p'; expected several items"),
    "nothing": (lambda: classify().fit(None, Y), "got None; expected several items"),
    "numbers for texts": (lambda: classify().fit(np.ones(20), Y), "expected a sequence: a text"),
    "mixed": (lambda: classify().fit(["a", 3.0] * 10, Y), r"X\[1\]: is 3.0; expected a text"),
    "empty": (lambda: classify().fit([], []), "X is empty"),
    "texts for sound": (lambda: Transcriber(**QUICK).fit(X, Y), "the inputs are texts"),
    "a text for a translation": (lambda: Translator(**QUICK).fit("ab", "ba"), "got 'ab'"),
    "a number for a series": (lambda: Forecaster().fit(3), "X is 3; expected series"),
    "a number for a text": (lambda: TextGenerator().fit(3), "got 3; expected a text"),
    "texts for a text": (lambda: TextGenerator().fit(["so it is"] * 9), "Join them"),
    "a name for a text": (lambda: TextGenerator().fit("book.txt"), "there is none"),
    "a note that is none": (lambda: MusicModel().fit([[[200]] * 5] * 4), "has the note 200"),
    "words as series": (lambda: Forecaster().fit(["a", "b"] * 20), "is 'a', no number"),
    # Labels
    "no labels": (lambda: classify().fit(X), "the data have no targets: y is missing"),
    "too few labels": (lambda: classify().fit(X, Y[1:]), "X has 20 sequences, and y 19 labels"),
    "one class": (lambda: classify().fit(X, ["p"] * 20), "expected two or more classes"),
    "missing labels": (lambda: classify().fit(X, [None] * 20), r"y\[0\]: is missing"),
    "words as numbers": (
        lambda: SequenceRegressor(**QUICK).fit(X, Y),
        "has the label 'p'; expected a number",
    ),
    "a label a sentence": (
        lambda: SequenceTagger(**QUICK).fit(WORDS, [["N", "V"], ["N"]] * 10),
        "2",
    ),
    "which column": (lambda: classify().fit(FRAME), "name it with label; its columns are text"),
    "wrong column": (lambda: classify(label="mood").fit(FRAME), "has no column 'mood'"),
    "validation without labels": (
        lambda: classify().fit(X, Y, validation=X),
        r"validation is .*; expected \(X, y\), as for training",
    ),
    "three validations": (
        lambda: classify().fit(X, Y, validation=(X, Y, 1)),
        r"expected \(X, y\), as for training",
    ),
    # Shapes
    "unequal variables": (
        lambda: classify().fit([np.ones((3, 2)), np.ones((3, 3))] * 10, Y),
        r"X\[1\]: has shape \(3, 3\); expected \(T, 2\), as X\[0\] has",
    ),
    "missing numbers": (lambda: classify().fit([[np.nan]] * 20, Y), "is nan at step 0"),
    "too short": (lambda: Forecaster(horizon=3).fit([1.0, 2.0]), "has 2 steps, too few"),
    # Settings
    "a cell": (lambda: classify(cell="ltsm").fit(X, Y), "cell='ltsm'; expected one of lstm, gru"),
    "a size in quotes": (
        lambda: SequenceClassifier(hidden_size="64").fit(X, Y),
        "hidden_size='64'; expected a whole number",
    ),
    "progress": (
        lambda: classify().fit(X, Y, progress="bra"),
        "fit: progress='bra'; expected one of auto, bar, lines, json, quiet",
    ),
    "device": (lambda: classify(device="gpu").fit(X, Y), "device='gpu' cannot be used here"),
    # Models
    "no model": (lambda: ostinato.load("nowhere"), "nowhere: no such folder"),
    "a layer for a stream": (
        lambda: ostinato.Stream(torch.nn.LSTM(8, 4)),
        "layer is a LSTM; expected an ostinato layer",
    ),
    "an array for a layer": (
        lambda: ostinato.LSTM(8, 4)(np.ones((3, 5, 8))),
        "input is a ndarray; expected a dense tensor",
    ),
    "lengths": (
        lambda: ostinato.LSTM(8, 4, batch_first=True)(torch.ones(2, 5, 8), lengths=[9, 2]),
        "lengths run from 2 to 9; expected 0 to 5",
    ),
    "no data to diagnose": (
        lambda: ostinato.diagnose(torch.nn.LSTM(2, 2)),
        r"there are no data; pass data=\(x, y\)",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_one_sentence(slip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, words = SLIPS[slip]
    with pytest.raises(OstinatoError, match=words) as error:
        call()
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda: SequenceClassifier().predict(X),
        lambda: SequenceTagger().predict(WORDS),
        lambda: SequenceRegressor().evaluate(X, [1.0] * 20),
        lambda: Translator().translate(["a"]),
        lambda: TextGenerator().generate("a"),
        lambda: Forecaster().forecast(),
        lambda: Forecaster().panel_,
        lambda: MusicModel().compose(),
        lambda: SequenceClassifier().save("model"),
        lambda: ostinato.diagnose(SequenceClassifier(), (X, Y)),
    ],
)
def test_what_needs_training_says_so(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFittedError, match="call.*fit|not fitted"):
        use()


def test_an_untrained_estimator_has_no_fitted_attributes():
    model = SequenceClassifier()
    assert not hasattr(model, "network_") and not hasattr(model, "nothing")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        model.nothing  # noqa: B018


def test_a_text_of_no_words_gets_a_prediction_too():
    model = classify().fit(X, Y)
    alone, among = model.predict_proba([""]), model.predict_proba(["", "good film"])
    np.testing.assert_allclose(alone[0], among[0], rtol=1e-5)
