"""Classification and regression: trained, evaluated, stored, resumed, refused in words."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from test_features import sine, write_wav

from ostinato import SequenceClassifier, SequenceRegressor, load
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks import estimators
from ostinato.tasks.targets import calibrate
from ostinato.training.callbacks import Callback

QUICK = {"hidden_size": 8, "epochs": 4, "batch_size": 8}


def series(N=80, seed=0):
    """Series of unequal length whose first number says which class they are of."""
    random = np.random.default_rng(seed)
    X = [random.normal(size=(random.integers(3, 9), 2)) for _ in range(N)]
    y = ["low" if x[0, 0] < 0 else "high" for x in X]
    return X, y


@pytest.fixture(scope="module")
def model():
    """A classifier that has learnt."""
    made = SequenceClassifier(hidden_size=16, epochs=30, batch_size=8, blend=False)
    return made.fit(*series(200))


# Learning.


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_what_comes_first_is_remembered(pooling, bidirectional):
    # With a single direction only memory can tell: the label is in the first step alone.
    model = SequenceClassifier(
        pooling=pooling, bidirectional=bidirectional, hidden_size=16, epochs=40, dropout=0.1
    )
    assert model.fit(*series(300)).score(*series(200, seed=1)) > 0.85


def test_words_tell_a_text():
    random = np.random.default_rng(0)
    filler = [f"w{i}" for i in range(30)]

    def texts(N):
        y = random.choice(["good", "bad"], N)
        X = [
            " ".join([*random.choice(filler, 5), f"{label}ly", *random.choice(filler, 3)])
            for label in y
        ]
        return X, y.tolist()

    model = SequenceClassifier(hidden_size=16, epochs=15, embedding_size=16, spelling_size=8)
    model.fit(*texts(200))
    X, y = texts(50)
    assert model.score(X, y) > 0.9
    # A word never met is read by its letters.
    unseen = [x.replace("goodly", "Goodly").replace("badly", "Badly") for x in X]
    assert model.score(unseen, y) > 0.9


def pulses(N, seed=0):
    """A rise before a fall, or a fall before a rise, somewhere in noise."""
    random = np.random.default_rng(seed)
    X = random.normal(scale=0.5, size=(N, 60, 1))
    y = random.integers(0, 2, N)
    for x, kind, at in zip(X, y, random.integers(0, 48, N), strict=True):
        x[at : at + 12, 0] += np.repeat([2.0, -2.0] if kind else [-2.0, 2.0], 6)
    return list(X), y.tolist()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_series_are_told_by_a_shape_wherever_it_is(bidirectional):
    settings = {"hidden_size": 16, "steps": 200, "bidirectional": bidirectional}
    model = SequenceClassifier(**settings).fit(*pulses(150))
    assert model.network_.convolutions.causal != bidirectional
    assert model.score(*pulses(100, seed=1)) > 0.95
    if not bidirectional:
        x, memory = torch.from_numpy(pulses(1)[0][0]).float(), None
        for x_t in x:
            scores, memory = model.network_.step(x_t[None], memory)
        np.testing.assert_allclose(
            (scores / model.training_["temperature"]).softmax(-1).detach().numpy(),
            model.predict_proba([x.numpy()]),
            rtol=1e-4,
        )


@pytest.mark.parametrize("estimator", [SequenceClassifier, SequenceRegressor])
def test_convolutions_are_for_series_unless_asked_for(estimator):
    short = {"steps": 1, "hidden_size": 6, "batch_size": 4}
    X, y = series(20)[0], [0, 1] * 10
    by_default = {None: True, True: True, False: False}
    for asked, expected in by_default.items():
        network = estimator(convolutions=asked, **short).fit(X, y).network_
        assert (network.convolutions is not None) == expected
        assert network.pooling == ("mean" if expected else "attention")
    baseline = estimator(recurrent=False, **short).fit(X, y).network_
    assert not any(isinstance(module, torch.nn.Conv1d) for module in baseline.modules())
    images = list(np.random.default_rng(0).integers(0, 256, (20, 5, 4), dtype=np.uint8))
    assert estimator(**short).fit(images, y).network_.convolutions is None
    assert estimator(convolutions=True, **short).fit(images, y).network_.convolutions is not None
    for data, settings in [
        (["a word"] * 20, {}), (X, {"recurrent": False}), (images, {"image": "whole"})
    ]:  # fmt: skip
        with pytest.raises(OstinatoError, match="convolutions=True; expected recurrent=True and"):
            estimator(convolutions=True, **settings, **short).fit(data, y)
    assert estimator(**short).fit(["a word"] * 20, y).network_.convolutions is None


def test_several_labels_at_once():
    random = np.random.default_rng(0)
    X = [random.normal(size=(5, 2)) for _ in range(300)]
    y = [[name for k, name in enumerate("ab") if x[:, k].mean() > 0] for x in X]
    model = SequenceClassifier(hidden_size=16, epochs=40, dropout=0.1).fit(X[:250], y[:250])
    found = model.evaluate(X[250:], y[250:])
    assert found["accuracy"] > 0.7 and found["micro_f1"] > 0.85
    assert set(map(type, model.predict(X[:3]))) == {list}
    p = model.predict_proba(X[:3])
    assert p.shape == (3, 2) and ((p > 0) & (p < 1)).all()
    with pytest.raises(DataError, match="others have lists of labels, or not"):
        SequenceClassifier(**QUICK).fit(X, [["a"], "b", *y[2:]])


def test_the_same_seed_learns_the_same():
    a, b, c = (SequenceClassifier(seed=s, **QUICK).fit(*series()) for s in (1, 1, 2))
    X, _ = series(10, seed=3)
    assert np.array_equal(a.predict_proba(X), b.predict_proba(X))
    assert not np.array_equal(a.predict_proba(X), c.predict_proba(X))


def test_settings_that_are_not_given_follow_from_the_data():
    small = SequenceClassifier(steps=1).fit(*series(40)).resolved_
    large = SequenceClassifier(steps=1).fit(*series(3000)).resolved_
    for name in ("batch_size", "hidden_size"):
        assert small[name] < large[name]
    given = SequenceClassifier(steps=1, hidden_size=7, dropout=0.0, batch_size=5).fit(*series(40))
    assert given.network_.recurrent.cells[0].hidden_size == 7
    assert given.training_["held_out"] == 8 and given.training_["sequences"] == 32
    told = clone(given)
    assert told.get_params() == given.get_params() and not hasattr(told, "network_")


def test_validation_data_may_be_given():
    X, y = series(60)
    model = SequenceClassifier(**QUICK).fit(X, y, validation=series(20, seed=5))
    assert (model.training_["sequences"], model.training_["held_out"]) == (60, 20)
    without = SequenceClassifier(validation_fraction=0, **QUICK).fit(X, y)
    assert (without.training_["sequences"], without.training_["held_out"]) == (60, 0)
    assert without.training_["temperature"] == 1.0


# Judging.


def test_probabilities_are_calibrated_on_validation_data(model):
    X, y = series(400, seed=7)
    scores = model._sequences().scores(model.network_, model._read(X)).double()
    truth = [model.classes_.tolist().index(label) for label in y]

    def nats(temperature):
        return -scores.div(temperature).log_softmax(-1)[range(len(y)), truth].mean().item()

    T = model.training_["temperature"]
    assert 0.1 < T < 10 and T != 1
    np.testing.assert_allclose(model.evaluate(X, y)["log_loss"], nats(T), rtol=1e-6)


def test_confidence_that_does_not_hold_is_undone():
    wrong = {"low": "high", "high": "low"}

    def doubtful(N, seed):
        """Every fourth label is wrong, so that nobody can be sure of any."""
        X, y = series(N, seed)
        return X, [wrong[label] if i % 4 == 0 else label for i, label in enumerate(y)]

    model = SequenceClassifier(hidden_size=16, epochs=10, seed=1)
    model.fit(*doubtful(300, 0), validation=doubtful(1000, 1))
    T = model.training_["temperature"]
    output = model.network_.output.linear
    for parameter in (output.weight, output.bias):
        parameter.data.mul_(8)
    X, y = doubtful(1000, 1)
    truth = torch.tensor([["high", "low"].index(label) for label in y])
    scores = model._sequences().scores(model.network_, model._read(X))
    found = calibrate(scores, truth, model.network_.output.loss)
    # Not to the digit: a weak prior draws towards 1.
    np.testing.assert_allclose(found, 8 * T, rtol=0.1)


def test_what_is_measured_is_what_was_predicted(model):
    X, y = series(50, seed=2)
    found, guess, p = model.evaluate(X, y), model.predict(X), model.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1)
    assert found["accuracy"] == model.score(X, y) == np.mean(guess == np.array(y))
    names = model.classes_.tolist()
    confusion = [[0, 0], [0, 0]]
    for true, said in zip(y, guess, strict=True):
        confusion[names.index(true)][names.index(said)] += 1
    assert found["confusion"] == confusion
    f1 = [
        2 * confusion[k][k] / max(1, sum(confusion[k]) + confusion[0][k] + confusion[1][k])
        for k in (0, 1)
    ]
    np.testing.assert_allclose(found["macro_f1"], np.mean(f1))


def test_an_answer_does_not_depend_on_what_is_asked_beside(model):
    X, _ = series(20, seed=3)
    alone = np.concatenate([model.predict_proba([x]) for x in X])
    np.testing.assert_allclose(model.predict_proba(X), alone, rtol=1e-5)


def test_numbers_are_predicted_in_their_own_scale():
    random = np.random.default_rng(0)
    X = [random.normal(size=(random.integers(3, 9), 1)) for _ in range(300)]
    y = np.array([1000 + 50 * x.mean() for x in X])
    model = SequenceRegressor(hidden_size=16, epochs=40, dropout=0.0).fit(X[:250], y[:250])
    guess, found = model.predict(X[250:]), model.evaluate(X[250:], y[250:])
    errors = guess - y[250:]
    assert found["r2"] > 0.8
    np.testing.assert_allclose(found["mae"], np.abs(errors).mean())
    np.testing.assert_allclose(found["rmse"], np.sqrt((errors**2).mean()))
    variance = ((y[250:] - y[250:].mean()) ** 2).mean()
    np.testing.assert_allclose(found["r2"], 1 - (errors**2).mean() / variance)
    two = SequenceRegressor(**QUICK).fit(X, np.stack([y, -y], axis=1))
    assert two.predict(X[:3]).shape == (3, 2)


# Keeping.


@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceRegressor])
def test_a_model_that_was_kept_is_the_same(tmp_path, kind):
    X, y = series()
    y = y if kind is SequenceClassifier else [float(x.mean()) for x in X]
    model = kind(**QUICK).fit(X, y)
    model.save(tmp_path / "kept")
    again = load(tmp_path / "kept")
    assert type(again) is kind
    assert np.array_equal(again.predict(X), model.predict(X))
    if kind is SequenceClassifier:
        assert np.array_equal(again.predict_proba(X), model.predict_proba(X))


class Interrupting(Callback):
    """Ends the run at a step, as Ctrl-C would."""

    def __init__(self, at):
        self.at = at

    def on_begin(self, run):
        self.run = run

    def on_step(self, record):
        if record["step"] == self.at:
            self.run._interrupted = True


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    X, y = [f"w{i % 7} w{i % 3}" for i in range(60)], ["ab"[i % 2] for i in range(60)]
    whole = SequenceClassifier(**QUICK).fit(X, y, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(estimators, "make_progress", lambda mode: Interrupting(7))
        stopped = SequenceClassifier(**QUICK).fit(X, y, out=tmp_path / "stopped")
    assert stopped.training_["ended"] == "interrupt"
    resumed = SequenceClassifier.resume(tmp_path / "stopped")
    assert np.array_equal(resumed.predict_proba(X), whole.predict_proba(X))

    def records(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [{**json.loads(line), "seconds": 0} for line in lines]

    assert records("stopped") == records("whole")


# Files.


def test_recordings_in_folders(tmp_path):
    random = np.random.default_rng(0)
    for i in range(24):
        word, rate = (("hum", 8000), ("beep", 11025))[i % 2]
        tone = sine(300 if word == "hum" else 2000, rate, 0.1 + 0.1 * random.random())
        silence = np.zeros(rate // 20)
        path = tmp_path / "sounds" / word / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, np.concatenate([silence, 0.5 * tone]), rate)
    model = SequenceClassifier(hidden_size=16, epochs=30).fit(tmp_path / "sounds")
    assert model.classes_.tolist() == ["beep", "hum"]
    assert model.score(tmp_path / "sounds") > 0.9
    found = list(model.predictions(tmp_path / "sounds" / "hum"))
    assert len(found) == 12
    assert str(found[0]).split("\t")[2].endswith("0.wav")
    assert found[0].to_json().keys() == {"place", "label", "probability"}


def test_bands_are_convolved_where_sound_is_read_in_both_directions(tmp_path):
    short = {"steps": 1, "hidden_size": 6, "batch_size": 4, "bands": 10}
    sounds, y = [tmp_path / f"{i}.wav" for i in range(12)], [0, 1] * 6
    for i, sound in enumerate(sounds):
        write_wav(sound, sine(500 + 50 * i, 8000, 0.1), 8000)
    for settings, expected in [
        ({}, True), ({"band_convolutions": False}, False), ({"bidirectional": False}, False),
        ({"recurrent": False}, False),
    ]:  # fmt: skip
        network = SequenceClassifier(**settings, **short).fit(sounds, y).network_
        assert any(isinstance(module, torch.nn.Conv2d) for module in network.modules()) == expected
    assert SequenceRegressor(**short).fit(sounds, y).network_.front is None
    for data, settings in [
        (sounds, {"bidirectional": False}), (sounds, {"recurrent": False}),
        ([np.zeros((3, 10))] * 12, {}),
    ]:  # fmt: skip
        with pytest.raises(OstinatoError, match="band_convolutions=True; expected recordings, rec"):
            SequenceClassifier(band_convolutions=True, **settings, **short).fit(data, y)


@pytest.mark.parametrize("image", ["rows", "pixels", "whole"])
def test_images_by_rows_by_pixels_and_at_once(image):
    random = np.random.default_rng(0)
    X = random.integers(0, 50, (120, 5, 4), dtype=np.uint8)
    y = random.integers(0, 2, 120)
    X[y == 1, 1:3, 1:3] += 200
    model = SequenceClassifier(image=image, hidden_size=16, epochs=20, dropout=0.1).fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.predict(X[:3]).dtype == y.dtype
    assert hasattr(model.network_, "recurrent") == (image != "whole")


# Missing values.


def gappy(N=120, seed=0):
    """Walks that go up or down, of which half of the values are missing, and one row all."""
    random = np.random.default_rng(seed)
    X = [random.normal(size=(random.integers(4, 12), 2)).cumsum(0) for _ in range(N)]
    y = ["up" if x[-1, 0] > 0 else "down" for x in X]
    for x in X:
        x[random.random(x.shape) < 0.5] = np.nan
    X[0][:] = np.nan
    return X, y


def test_a_cell_that_takes_missing_values_has_them_in_every_form(tmp_path):
    X, y = gappy()
    rows = [
        f"{i},{','.join('' if np.isnan(v) else repr(float(v)) for v in step)},{label}"
        for i, (x, label) in enumerate(zip(X, y, strict=True))
        for step in x
    ]
    (tmp_path / "walks.csv").write_text("id,a,b,label\n" + "\n".join(rows))
    how = {"cell": "gru-d", "hidden_size": 16, "epochs": 10, "batch_size": 8, "seed": 1}
    model = SequenceClassifier(**how).fit(X, y, out=tmp_path / "run")
    assert model.network_.convolutions is None and model.linear_ is None
    assert model.score(X, y) > 0.8
    of_files = SequenceClassifier(**how).fit(tmp_path / "walks.csv")
    np.testing.assert_array_equal(of_files.predict_proba(X), model.predict_proba(X))
    stored = load(tmp_path / "run")
    np.testing.assert_array_equal(stored.predict_proba(X), model.predict_proba(X))
    numbers = SequenceRegressor(**how).fit(X, np.arange(len(X)))
    assert np.isfinite(numbers.predict(X)).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cell": "gru"}, "is nan at step"),
        ({"cell": "gru-d", "recurrent": False}, "is nan at step"),
        ({"cell": "gru-d", "convolutions": True}, "several steps that are measurements, none miss"),
    ],
)
def test_what_takes_no_missing_values_says_so(how, message):
    with pytest.raises(OstinatoError, match=message):
        SequenceClassifier(**{**QUICK, **how}).fit(*gappy(20))


def test_infinity_is_no_missing_value():
    X, y = gappy(20)
    X[3][2, 1] = np.inf
    with pytest.raises(DataError, match=r"X\[3\]: is inf at step 2, variable 1; fill it in\."):
        SequenceClassifier(cell="gru-d", **QUICK).fit(X, y)


def test_the_command_line_reads_missing_values_for_a_cell_that_takes_them(ostinato, tmp_path):
    path = tmp_path / "walks.csv"
    rows = [
        f"{i},{'' if (i + t) % 3 else i % 2},{'ab'[i % 2]}" for i in range(30) for t in range(4)
    ]
    path.write_text("id,x,label\n" + "\n".join(rows))
    command = f"train classify {path} --out {tmp_path / 'run'} --steps 3 --hidden-size 8"
    assert "'x' is missing; fill it in" in ostinato(command).err
    done = ostinato(f"{command} --cell gru-d")
    assert done.status == 0, done
    assert ostinato(f"predict {tmp_path / 'run'} {path}").status == 0


# Mistakes.

MISTAKES = {
    "one class": (series()[0], ["x"] * 80, "sequences have the label 'x'; expected two"),
    "two kinds": (series()[0], ["x", 1] * 40, "some labels are text and some are numbers"),
    "no label": (series()[0], [None] * 80, "is missing; fill it in"),
    "no labels": (series()[0], None, "y is missing"),
    "too few": ([[1.0]], ["x"], "1 sequences are too few to hold 1 out"),
    "no steps": ([np.zeros((0, 2))] * 10, ["x", "y"] * 5, "all sequences are empty"),
    "not a number": ([[1.0], [float("nan")]] * 9, ["x", "y"] * 9, "X[1]: is nan at step 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_and_leaves_nothing(tmp_path, name):
    X, y, message = MISTAKES[name]
    with pytest.raises(OstinatoError) as caught:
        SequenceClassifier(**QUICK).fit(X, y, out=tmp_path / "run")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_was_not_met_in_training_is_refused(model):
    X, _ = series(2)
    with pytest.raises(DataError, match=r"X\[1\]: has the label 'mid', which was not in"):
        model.score(X, ["low", "mid"])
    with pytest.raises(DataError, match="has 3 variables; the model was trained on 2"):
        model.predict([np.zeros((4, 3))])
    with pytest.raises(DataError, match=r"X\[0\]: has the label 'x'; expected a number"):
        SequenceRegressor(**QUICK).fit(X, ["x", "y"])
    with pytest.raises(DataError, match=r"all 2 sequences have the number \[1.0\]"):
        SequenceRegressor(validation_fraction=0, **QUICK).fit(X, [1, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "first"}, "pooling='first'; expected one of last, mean, max, attention"),
        ({"recurrent": "some"}, "recurrent='some'; expected true or false"),
        ({"convolutions": 1}, "convolutions=1; expected true or false, or None"),
        ({"hidden_size": 0}, "hidden_size=0; expected a whole number above zero"),
        ({"dropout": 1.0}, "dropout=1.0; expected a share"),
        ({"spelling_size": 3}, "spelling_size=3; expected an even number"),
        ({"batch_size": 2.5}, "batch_size=2.5; expected a whole number"),
        ({"image": "columns"}, "image='columns'; expected one of rows, pixels, whole"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(OstinatoError) as caught:
        SequenceClassifier(**settings).fit(*series())
    assert message in str(caught.value)


def test_arrays_are_trained_on_without_pandas():
    """It takes a second to import, and reads tables and dates alone."""
    program = """
import importlib.machinery, sys
class Refused:  # scikit-learn imports it where it can
    def find_spec(self, name, *_):
        return importlib.machinery.ModuleSpec(name, self) if name == "pandas" else None
    def create_module(self, spec):
        raise ImportError(spec.name)
    def exec_module(self, module): ...
sys.meta_path.insert(0, Refused())
import numpy as np, ostinato
X = [np.full((3, 2), i % 2.0) for i in range(12)]
ostinato.SequenceClassifier(hidden_size=4, epochs=1).fit(X, [0, 1] * 6).predict(X)
ostinato.Forecaster, ostinato.Translator, ostinato.Captioner
"""
    subprocess.run([sys.executable, "-c", program], check=True)
