"""Search for settings: trials are ordinary runs, a study goes on where it ended."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_features import sine, write_wav

import ostinato
from ostinato.cli.options import options_of
from ostinato.errors import OstinatoError
from ostinato.tasks.registry import TASKS
from ostinato.training.callbacks import read_metrics
from ostinato.tuning import space
from ostinato.tuning import study as studies
from ostinato.tuning.space import (
    Range,
    changed,
    check_comparable,
    read_space,
    space_of,
    to_toml,
)

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'ostinato[tune]'")

SPACE = {"hidden_size": [3, 4, 6], "learning_rate": Range(1e-3, 1e-1, log=True)}
RNG = np.random.default_rng(0)
X = [RNG.normal(label, 1.5, (10, 2)) for label in (0, 1) * 60]
Y = [0, 1] * 60


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Spare the disk; and the time of drawing, but where pictures are looked for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    if "pictures" not in request.node.name:
        monkeypatch.setattr(studies, "draw_study", lambda *arguments: None)
        monkeypatch.setattr("ostinato.training.runs.draw_learning_curve", lambda *arguments: None)


def classifier(**settings):
    usual = {"epochs": 4, "convolutions": False, "batch_size": 16, "pooling": "mean", "cell": "gru"}
    usual |= {"num_layers": 1, "dropout": 0.1, "weight_decay": 0.0, "blend": False}
    return ostinato.SequenceClassifier(**usual | settings)


def search(out, trials=4, estimator=None, data=(X, Y), **more):
    model = classifier() if estimator is None else estimator
    kept = {name: getattr(model, name) for name in ("num_layers", "cell")}
    return ostinato.tune(model, *data, out=out, trials=trials, space=SPACE | kept, **more)


def without_times(table):
    return table.drop(columns="seconds").to_csv(index=False)


def test_a_trial_is_the_run_that_its_settings_make(tmp_path):
    found = search(tmp_path / "study")
    complete = found.trials[found.trials.state == "complete"]
    assert len(found.trials) == 5 and len(complete) > 2
    for row in complete.to_dict("records"):
        trained = ostinato.load(tmp_path / "study" / "trials" / str(row["trial"]))
        own = {} if row["trial"] == "defaults" else {name: row[name] for name in SPACE}
        again = classifier(evaluations=trained.evaluations, **own).fit(X, Y)
        for name, weights in again.network_.state_dict().items():
            torch.testing.assert_close(trained.network_.state_dict()[name], weights, rtol=0, atol=0)
        assert again.training_["best_loss"] == pytest.approx(row[found.metric], abs=0)


def test_the_best_is_the_least_of_all_and_no_worse_than_the_defaults(tmp_path):
    found = search(tmp_path / "study", 6)
    complete = found.trials[found.trials.state == "complete"]
    assert found.score == complete["loss"].min() <= found.defaults
    assert found.defaults == complete["loss"].iloc[0]
    best = complete.loc[complete["loss"].astype(float).idxmin()]
    assert found.settings == ({} if best["trial"] == "defaults" else {n: best[n] for n in SPACE})
    assert Path(found.model.folder_) == tmp_path / "study" / "trials" / str(best["trial"])


def test_defaults_that_are_best_are_said_to_be(tmp_path):
    bad = {"learning_rate": Range(1e-9, 1e-8, log=True)}
    model = classifier(learning_rate=0.02, hidden_size=8)
    found = ostinato.tune(model, X, Y, out=tmp_path / "s", trials=4, space=bad | {"cell": "gru"})
    assert found.settings == {} and found.score == found.defaults
    assert found.model.folder_ == tmp_path / "s" / "trials" / "defaults"


def test_a_metric_where_more_is_better_is_judged_upwards(monkeypatch):
    monkeypatch.setattr("ostinato.training.loop.COARSE", 1)
    found = search(None, 5)
    assert found.metric == "accuracy" and found.higher_is_better
    complete = found.trials[found.trials.state == "complete"]
    assert found.score == complete["accuracy"].max() >= found.defaults


def test_what_falls_behind_ends_early_and_can_be_resumed(tmp_path):
    space = SPACE | {"learning_rate": [1e-9, 0.03], "cell": "gru"}
    model = classifier(epochs=9, learning_rate=1e-4)
    found = ostinato.tune(model, X, Y, out=tmp_path / "study", trials=8, space=space)
    early = found.trials[found.trials.state == "ended early"]
    assert 1e-9 in {*early["learning_rate"]} and found.settings["learning_rate"] == 0.03
    place = tmp_path / "study" / "trials" / str(early["trial"].iloc[0])
    resumed = ostinato.SequenceClassifier.resume(place)
    assert resumed.training_["ended"] in ("budget", "patience")


class Stopped(Exception):
    pass


def stop_at(monkeypatch, trial, step, how):
    """Let the run of a trial come to a certain step only, once."""
    true, left = studies._Watch.on_step, [1]

    def on_step(watch, record):
        true(watch, record)
        number = None if watch.trial is None else watch.trial.number
        if (number, record["step"]) == (trial, step) and left:
            left.clear()
            how(watch)

    monkeypatch.setattr(studies._Watch, "on_step", on_step)


@pytest.mark.parametrize("trial", [None, 0, 2])
def test_a_study_that_is_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, trial):
    whole = search(tmp_path / "whole")
    stop_at(monkeypatch, trial, 5, lambda watch: watch.run.stop())
    out = tmp_path / "cut"
    if trial is None:
        with pytest.raises(OstinatoError, match="before the settings as given were trained"):
            search(out)
    else:
        cut = search(out)
        assert cut.ended == "interrupt" and "running" in {*cut.trials["state"]}
    found = search(out)
    assert found.ended == "trials" and found.settings == whole.settings
    assert (
        without_times(found.trials).splitlines()[: (trial or 0) + 3]
        == (without_times(whole.trials).splitlines()[: (trial or 0) + 3])
    )


def test_the_time_cuts_a_trial_off_and_the_next_call_finishes_it(tmp_path, monkeypatch):
    stop_at(monkeypatch, 1, 3, lambda watch: watch._stop("minutes"))
    cut = search(tmp_path / "study", minutes=60)
    assert cut.ended == "minutes" and list(cut.trials["state"])[-1] == "running"
    found = search(tmp_path / "study")
    assert len(found.trials) == 5 and "running" not in {*found.trials["state"]}


def in_a_process(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


DIES = """
import os, sys
import test_tuning as t
def on_step(watch, record, true=t.studies._Watch.on_step):
    true(watch, record)
    if watch.trial is not None and watch.trial.number == 1 and record["step"] == 6:
        os._exit(9)
t.studies._Watch.on_step = on_step
t.search(sys.argv[1])
"""
WORKS = "import sys, test_tuning as t; t.search(sys.argv[1], 6)"


@pytest.mark.thorough
def test_a_process_that_dies_leaves_a_study_that_goes_on(tmp_path):
    dead = in_a_process(DIES, tmp_path / "study")
    assert (dead.communicate()[0], dead.returncode) == ("", 9)
    found = search(tmp_path / "study")
    assert sorted(found.trials["trial"][1:]) == [0, 1, 2, 3]
    assert {*found.trials["state"]} <= {"complete", "ended early"}
    assert found.settings == search(tmp_path / "whole").settings


@pytest.mark.thorough
def test_two_processes_share_a_study(tmp_path):
    both = [in_a_process(WORKS, tmp_path / "study") for _ in range(2)]
    assert [(each.communicate()[0], each.returncode) for each in both] == [("", 0)] * 2
    found = search(tmp_path / "study", 6)
    assert 6 <= len(found.trials) - 1 <= 7 and {*found.trials["state"]} <= {
        "complete",
        "ended early",
    }
    assert sorted(found.trials["trial"][1:]) == [*range(len(found.trials) - 1)]
    assert (
        len({*found.trials["learning_rate"][1:]}) == len(found.trials) - 1
    )  # none was tried twice


def test_a_study_has_pictures_and_a_table(tmp_path):
    found = search(tmp_path / "study", 5)
    assert (found.trials["state"] == "complete").sum() > 3
    for name in ("history", "importance", "parallel"):
        assert (tmp_path / "study" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    written = pd.read_csv(tmp_path / "study" / "trials.csv")
    assert list(written["trial"]) == ["defaults", *"01234"]
    assert list(written["loss"]) == pytest.approx(list(found.trials["loss"].astype(float)))


def test_other_settings_or_data_do_not_get_into_a_study(tmp_path):
    search(tmp_path / "study", 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OstinatoError, match=r"other settings \(epochs: 4, now 5"):
        search(tmp_path / "study", 1, classifier(epochs=5))
    with pytest.raises(OstinatoError, match=r"other data \(training"):
        search(tmp_path / "study", 1, data=(X[::-1], Y[::-1]))
    with pytest.raises(OstinatoError, match=r"other space"):
        ostinato.tune(classifier(), X, Y, out=tmp_path / "study", space=SPACE | {"cell": ["rnn"]})
    with pytest.raises(OstinatoError, match="holds no study"):
        search(tmp_path / "study" / "trials", 1)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_trial_that_diverges_does_not_end_the_search():
    space = {"learning_rate": [1e25, 0.02], "cell": "gru"}
    model = classifier(learning_rate=0.01, clip_norm=0.0, optimizer="sgd", cell="rnn-relu")
    found = ostinato.tune(model, X, Y, trials=8, space=space | {"cell": "rnn-relu"})
    bad = found.trials["learning_rate"] == 1e25
    assert bad.sum() and "complete" not in {*found.trials["state"][bad.fillna(False)]}
    assert found.score <= found.defaults


def test_three_failures_in_a_row_end_it(monkeypatch):
    true, calls = ostinato.SequenceClassifier.fit, []

    def fit(self, *args, **kwargs):
        calls.append(self)
        if len(calls) > 1:
            raise OstinatoError("no memory")
        return true(self, *args, **kwargs)

    monkeypatch.setattr(ostinato.SequenceClassifier, "fit", fit)
    with pytest.raises(OstinatoError, match="no memory"):
        search(None)
    assert len(calls) == 4


def test_the_best_settings_are_trained_on_all_data_on_request(tmp_path):
    found = search(tmp_path / "study", 3, retrain=True)
    facts = found.model.training_
    assert (facts["sequences"], facts["held_out"]) == (120, 0)
    name = "defaults"
    if found.settings:
        name = str(found.trials["trial"][found.trials["loss"].astype(float).idxmin()])
    trial = ostinato.load(tmp_path / "study" / "trials" / name).training_
    share = trial["sequences"] / 120
    assert facts["steps"] == round(trial["steps"] / share)
    assert found.model.folder_ == tmp_path / "study" / "best"
    assert search(tmp_path / "study", 3, retrain=True).model.folder_ == found.model.folder_


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.command)
def test_every_space_has_settings_that_the_task_takes(task):
    known = {option.name for option in options_of(task.module, task.estimator)}
    estimator = getattr(ostinato, task.estimator)
    for name, where in space_of(task.command).items():
        assert name in known
        for value in where[:2] if isinstance(where, Range) else where:
            estimator(**{name: value}).check_settings()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.command)
def test_a_space_is_the_same_after_being_written_as_a_file(task, tmp_path):
    usual = space_of(task.command)
    (tmp_path / "space.toml").write_text(to_toml(usual), encoding="utf-8")
    assert read_space(tmp_path / "space.toml", usual) == (usual, {})


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("learning_rte = [1]", "'learning_rte' is no setting.*did you mean 'learning_rate'"),
        ("dropout = {low = 0.5, high = 0.1}", "expected low below high"),
        ("dropout = {low = 0.0, high = 0.1, log = true}", "above zero with log"),
        ("dropout = {low = 0, hig = 1}", "expected {{ low|expected { low"),
        ("dropout = []", "a list of values"),
        ("dropout = [0.1, 1.5]", "dropout=1.5"),
        ("cell = ['gru', 'lstn']", "lstn"),
        ("num_layers = {low = 0, high = 2}", "num_layers=0"),
    ],
)
def test_a_wrong_space_is_said_before_any_training(entry, why, tmp_path):
    with pytest.raises(OstinatoError, match=why):
        ostinato.tune(classifier(), X, Y, out=tmp_path / "study", space=tomllib.loads(entry))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.command)
def test_what_changes_the_measure_of_a_loss_is_not_searched(task):
    check_comparable(space_of(task.command), task.command)
    kind = getattr(ostinato, task.estimator)
    given = kind().get_params()
    for name in space.MEASURES.get(task.command, ()):
        if name in given:
            with pytest.raises(OstinatoError, match=f"{name} changes what the error"):
                ostinato.tune(kind(), None, space={name: ["one", "other"]})
        else:
            assert name == "min_count"


def test_forecasts_are_compared_by_their_scaled_error(tmp_path):
    t = np.arange(120)
    series = [10 + np.sin(t / 2 + k) + RNG.normal(0, 0.2, 120) for k in range(3)]
    model = ostinato.Forecaster(horizon=4, season=12, hidden_size=4, epochs=3, ensemble_size=1)
    kept = {"num_layers": 1, "cell": "gru", "dropout": 0.1, "weight_decay": 0.0, "batch_size": 32}
    space = {"output": ["student", "quantiles"], "method": ["autoregressive", "direct"]}
    space |= {"learning_rate": Range(1e-3, 1e-1, log=True), **kept}
    found = ostinato.tune(model, series, out=tmp_path / "study", trials=5, space=space)
    assert found.metric == "mase" and not found.higher_is_better
    complete = found.trials[found.trials.state == "complete"]
    assert len(complete) > 2
    for name, mase in zip(complete.trial, complete.mase, strict=True):
        records = read_metrics(tmp_path / "study" / "trials" / str(name) / "metrics.jsonl")
        kept = [each for each in records if each.get("best")][-1]
        assert kept["mase"] == mase
        loss = min(each["validation_loss"] for each in records if "validation_loss" in each)
        assert kept["validation_loss"] == loss


def test_a_setting_that_was_given_is_not_searched(tmp_path):
    model = classifier(hidden_size=5, cell="lstm")
    found = ostinato.tune(model, X, Y, out=tmp_path / "s", trials=2, space={"num_layers": 1})
    searched = {*found.trials.columns} - {"trial", "loss", "state", "seconds"}
    # Those that differ from their defaults are kept; words are not read.
    assert searched == {"learning_rate"}
    assert {ostinato.load(tmp_path / "s" / "trials" / str(i)).cell for i in (0, 1)} == {"lstm"}


def small_data(command, folder):
    """Data and quick settings of a task."""
    recordings = [folder / f"{i}.wav" for i in range(12)]
    for i, path in enumerate(recordings):
        write_wav(path, sine(300 + 100 * i, 8000, 0.15), 8000)
    words = [f"{a} {b}" for a in ("good", "bad", "fine", "grey") for b in ("day", "rain", "wind")]
    wave = np.sin(np.arange(90.0)) + 0.01 * np.arange(90.0)
    rolls = [RNG.random((20, 88)) < 0.05 for _ in range(6)]
    quick = {"steps": 3, "evaluations": 2}
    return {
        "text": ("in the rain and the wind " * 60, None, quick | {"window": 8, "batch_size": 4}),
        "classify": (words * 4, [text[0] for text in words * 4], quick),
        "regress": (X, [float(x.mean()) for x in X], quick),
        "tag": ([text.split() for text in words], [["A", "N"] for _ in words], quick),
        "translate": (words, [word[::-1] for word in words], quick),
        "summarize": (words, [word[:3] for word in words], quick),
        "transcribe": (X[:20], [["a", "b"][y] for y in Y[:20]], quick),
        "speak": (recordings, ["ab", "ba"] * 6, quick),
        "vocode": (recordings, None, quick),
        "forecast": (wave, None, quick | {"horizon": 3, "ensemble_size": 1}),
        "music": (rolls, None, quick),
    }[command]


@pytest.mark.parametrize(
    "task", [t for t in TASKS if t.command != "caption"], ids=lambda t: t.command
)
def test_every_task_can_be_tuned(task, tmp_path):
    data, y, settings = small_data(task.command, tmp_path)
    model = getattr(ostinato, task.estimator)(**settings)
    small = {"hidden_size": [4, 6], "num_layers": 1, "learning_rate": [0.01, 0.02], "cell": ["gru"]}
    found = ostinato.tune(model, data, y, trials=1, space=small)
    assert list(found.trials["trial"]) == ["defaults", 0] and np.isfinite(found.score)
    assert len(found.trials.columns) > 4


# The command


@pytest.fixture
def reviews(tmp_path):
    draw = np.random.default_rng(1)
    lines = ["text,label"]
    for i in range(80):
        said = draw.choice(["fine", "lovely"] if i % 2 else ["dull", "poor"], 2)
        lines.append(f"the {said[0]} film was {said[1]},{'good' if i % 2 else 'bad'}")
    (tmp_path / "reviews.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "reviews.csv"


QUICK = "--epochs 2 --hidden-size 4 --no-blend --cell gru --num-layers 1 --embedding-size 8"


def test_the_command_finds_settings_and_says_how_to_train_them_again(ostinato, reviews, tmp_path):
    done = ostinato(
        *f"tune classify {reviews} --out {tmp_path}/s --trials 3 --json {QUICK}".split()
    )
    *trials, end = [json.loads(line) for line in done.out.splitlines()]
    assert [each["trial"] for each in trials] == ["defaults", "0", "1", "2"]
    assert end["event"] == "end" and end["trials"] == 3
    ostinato(*shlex.split(end["command"])[1:], "--out", f"{tmp_path}/again", "--quiet")
    import ostinato as package

    again = package.load(tmp_path / "again")
    assert again.training_["best_loss"] == pytest.approx(end["score"], abs=1e-12)
    assert all(getattr(again, name) == value for name, value in end["settings"].items())


def test_the_command_prints_a_space_that_it_takes(ostinato, reviews, tmp_path):
    shown = ostinato("tune", "classify", "--show-space", "--cell", "rnn").out
    space = tomllib.loads(shown)
    assert "cell" not in space and space["num_layers"] == {"low": 1, "high": 3}
    (tmp_path / "space.toml").write_text(
        "learning_rate = [0.02]\ndropout = 0.1\n", encoding="utf-8"
    )
    line = f"tune classify {reviews} --out {tmp_path}/s --trials 1 --space {tmp_path}/space.toml"
    printed = ostinato(*line.split(), *QUICK.split()).out
    assert "learning_rate 0.02" in printed and " dropout" not in printed.partition("Again")[0]
    assert max(map(len, printed.partition("Again")[0].splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tune classify", "FILES is required"),
        ("tune classify reviews.csv", "--out PATH is required"),
        ("tune clasify reviews.csv", "did you mean 'tune classify'"),
        ("tune classify nowhere.csv --out s", "nowhere.csv"),
        ("tune classify reviews.csv --out s --space none.toml", "none.toml"),
    ],
)
def test_mistakes_are_said_in_a_line(ostinato, reviews, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = ostinato(*words.split())
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_changes_of_a_space_are_ranges_lists_or_values():
    usual = {"a": Range(1, 2), "b": (1, 2)}
    space, fixed = changed(usual, {"a": {"low": 3, "high": 4}, "b": 5, "c": [1.5]})
    assert (space, fixed) == ({"a": Range(3, 4), "c": (1.5,)}, {"b": 5})
