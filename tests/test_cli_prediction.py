"""``predict``, ``evaluate``, ``forecast``: from files to predictions; every mistake is one line."""

import json
from pathlib import Path

import pytest
from command_line import EPOCHS, assert_refused, everything

from ostinato import SequenceClassifier

pytestmark = pytest.mark.filterwarnings("default::UserWarning")


def test_texts_are_classified_from_file_to_answer(data, ostinato):
    result = ostinato(f"train classify reviews.csv --out run {EPOCHS}")
    assert result.status == 0, result
    assert "32 texts of 4 steps for training, 8 for validation; 2 classes" in result.out
    assert "by the size of the data: evaluations 3, patience 5, dropout 0.5" in result.out
    assert "validation" in result.out and "accuracy" in result.out
    assert "Next:      ostinato predict run FILES" in result.out
    answers = ostinato("predict run new.txt").out.splitlines()
    assert [line.split("\t")[2] for line in answers] == ["new.txt:1", "new.txt:2"]
    assert {line.split("\t")[0] for line in answers} <= {"good", "bad"}
    machine = [json.loads(line) for line in ostinato("predict run new.txt --json").out.splitlines()]
    for answer, line in zip(machine, answers, strict=True):
        assert answer["place"] == line.split("\t")[2] and answer["label"] == line.split("\t")[0]
        assert abs(sum(answer["probabilities"].values()) - 1) < 1e-3
    model = SequenceClassifier.load("run")
    found = json.loads(ostinato("evaluate run test.csv --json").out)
    assert found == model.evaluate(Path("test.csv"))
    table = ostinato("evaluate run test.csv --plot confusion.png").out
    assert f"accuracy             {found['accuracy']:.4g}" in table and "predicted" in table
    assert (data / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert ostinato("predict run new.txt --probabilities").out.startswith("bad=")


def test_every_task_goes_from_files_to_answers(data, ostinato):
    commands = {
        "classify recordings": "recordings",
        "regress sensors.csv --id machine --label wear": "sensors.csv",
        "tag train.conllu": "train.conllu",
    }
    for i, (command, again) in enumerate(commands.items()):
        result = ostinato(f"train {command} --out run{i} {EPOCHS} --quiet")
        assert (result.status, result.out) == (0, ""), result
        assert ostinato(f"predict run{i} {again}").out.strip()
        assert json.loads(ostinato(f"evaluate run{i} {again} --json").out)
    assert ostinato("predict run2 train.conllu").out.startswith("the\t")
    first = json.loads(ostinato("predict run2 train.conllu --json").out.splitlines()[0])
    assert first["steps"] == ["the", "dog", "barks"] and len(first["probabilities"]) == 3
    result = ostinato(f"train music chorales --out music {EPOCHS}")
    assert "3 pieces of 12 steps for training, 1 for validation" in result.out
    assert "steps" in ostinato("compose music --length 8 --seed 1 --out new.mid").out
    assert (data / "new.mid").read_bytes().startswith(b"MThd")
    assert_refused(
        ostinato("predict music new.mid"),
        "music holds a MusicModel; commands for it: evaluate, compose,",
    )
    assert_refused(
        ostinato("compose run0 --out x.mid"), "run0 holds a SequenceClassifier; commands for it:"
    )
    assert_refused(ostinato("evaluate run1 sensors.csv --plot a.png"), "no confusion matrix")


MISTAKES = {
    "train classify --out run": "train classify: FILES is required",
    "train classify none.csv --out run": "none.csv: no such file or folder",
    "train classify book.txt --out run": "book.txt: ",
    "train classify train.conllu --out run": "train.conllu: has a label for every word",
    "train classify reviews.csv --out run --label mood": "has no column 'mood' for the labels",
    "train classify reviews.csv --out run --pooling first": "choose from",
    "train classify recordings/yes --out run": "lie in one folder, 'yes'",
    "train regress reviews.csv --out run": "line 2: has the label 'good'; expected a number",
    "train regress sensors.csv --id machine --out run": "name it with label",
    "train tag reviews.csv --out run --label 9": "has no column '9' for the labels",
    "train music book.txt --out run": "book.txt: expected .mat, .json, .mid",
    "train classify reviews.csv --hiden-size 3 --out run": "did you mean --hidden-size?",
    "predict none new.txt": "none: no such folder",
    "evaluate none new.txt": "none: no such folder",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(data, ostinato, command):
    before = everything(data)
    result = ostinato(command)
    message = MISTAKES[command]
    assert_refused(result, message)
    assert everything(data) == before


def test_series_are_forecast_from_file_to_picture(data, ostinato):
    result = ostinato("train forecast sales.csv --horizon 6 --out run --epochs 1")
    assert result.status == 0, result
    assert "time: month; target: sales; one series, monthly\n" in result.out
    assert "1 series of 60 steps; horizon 6, context 36, season 12" in result.out
    table = ostinato("forecast run").out.splitlines()
    assert table[0].split() == ["time", "median", "10", "%", "90", "%"] and len(table) == 9
    assert table[1].split()[0] == "2005-01" and "with a probability of" in table[-1]
    machine = [
        json.loads(line) for line in ostinato("forecast run sales.csv --json").out.split("\n")[:-1]
    ]
    assert [each["time"] for each in machine] == [f"2005-{m:02d}" for m in range(1, 7)]
    assert float(table[3].split()[1]) == pytest.approx(machine[2]["median"], rel=1e-5)
    assert machine[0]["quantiles"]["0.1"] < machine[0]["median"] < machine[0]["quantiles"]["0.9"]
    rows = ostinato("forecast run --csv --levels 0.05 --horizon 9 --plot fan.png").out.splitlines()
    assert rows[0] == "series,time,median,q0.05" and len(rows) == 10
    found = ostinato("evaluate run --cutoffs 2 --plot backtest.png").out
    assert "mase" in found and "seasonal naive mase" in found and "coverage 80" in found
    for name in ("fan.png", "backtest.png"):
        assert (data / name).read_bytes().startswith(b"\x89PNG")
    assert "measurements" in ostinato("diagnose run").out


def test_json_of_scores_that_are_not_defined_is_null(data, ostinato):
    (data / "flat.csv").write_text("t,y\n" + "".join(f"{t},1\n" for t in range(40)))
    assert ostinato("train forecast flat.csv --horizon 2 --out flat --steps 1").status == 0
    found = json.loads(ostinato("evaluate flat --json").out, parse_constant=pytest.fail)
    assert found["mase"] is None and found["smape"] < 50


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train forecast sensors.csv --out run", "which column is to be forecast is not clear"),
        ("train forecast sales.csv --out run --horizon 80", "the longest series has 60 steps, too"),
        (
            "train forecast sales.csv --out run --frequency often",
            "frequency='often'; expected a st",
        ),
        ("train forecast none.csv --out run", "none.csv: "),
        ("train forecast images --out run", "images: holds no tables"),
        ("train forecast sales.csv --out run --validation new.txt", "unknown option --validation"),
        ("forecast none", "none: no such folder"),
    ],
)
def test_mistakes_of_series_are_one_line(data, ostinato, command, message):
    before = everything(data)
    assert_refused(ostinato(command), message)
    assert everything(data) == before
