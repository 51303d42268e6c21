"""The command line on data with labels: from files to answers, and every mistake is one line."""

import io
import json
from pathlib import Path

import pytest
import soundfile
from test_cli import assert_refused, everything, here, ostinato  # noqa: F401
from test_readme import write_data

from ostinato import SequenceClassifier, SequenceRegressor, SequenceTagger, TextGenerator
from ostinato.cli import _negative
from ostinato.signatures import options_of

pytestmark = pytest.mark.filterwarnings("default::UserWarning")

QUICK = "--epochs 3 --hidden-size 8 --batch-size 8"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder to work in, with data of every kind."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return tmp_path


def test_texts_are_classified_from_file_to_answer(data, ostinato):  # noqa: F811
    said = ostinato(f"train classify reviews.csv --out run {QUICK}")
    assert said.status == 0, said
    assert "32 texts of 4 steps to learn from, 8 to validate on; 2 classes" in said.out
    assert "by the size of the data: evaluations 3, patience 5, dropout 0.5" in said.out
    assert "validation" in said.out and "accuracy" in said.out
    assert "Next:      ostinato predict run FILES" in said.out
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


def test_every_task_goes_from_files_to_answers(data, ostinato):  # noqa: F811
    commands = {
        "classify recordings": "recordings",
        "regress sensors.csv --id machine --label wear": "sensors.csv",
        "tag train.conllu": "train.conllu",
    }
    for i, (command, again) in enumerate(commands.items()):
        said = ostinato(f"train {command} --out run{i} {QUICK} --quiet")
        assert (said.status, said.out) == (0, ""), said
        assert ostinato(f"predict run{i} {again}").out.strip()
        assert json.loads(ostinato(f"evaluate run{i} {again} --json").out)
    assert ostinato("predict run2 train.conllu").out.startswith("the\t")
    first = json.loads(ostinato("predict run2 train.conllu --json").out.splitlines()[0])
    assert first["steps"] == ["the", "dog", "barks"] and len(first["probabilities"]) == 3
    said = ostinato(f"train music chorales --out music {QUICK}")
    assert "3 pieces of 12 to 12 steps to learn from, 1 to validate on" in said.out
    assert "steps" in ostinato("compose music --length 8 --seed 1 --out new.mid").out
    assert (data / "new.mid").read_bytes().startswith(b"MThd")
    assert_refused(ostinato("predict music new.mid"), "a MusicModel cannot predict; try ostinato")
    assert_refused(ostinato("compose run0 --out x.mid"), "cannot compose")
    assert_refused(ostinato("evaluate run1 sensors.csv --plot a.png"), "no confusion matrix")


def test_validation_files_and_a_config_are_taken(data, ostinato):  # noqa: F811
    (data / "a.toml").write_text("epochs = 2\nhidden_size = 8\nbidirectional = false\n")
    said = ostinato("train classify reviews.csv --validation test.csv --out run --config a.toml")
    assert "40 texts of 4 steps to learn from, 6 to validate on" in said.out
    model = SequenceClassifier.load("run")
    assert not model.bidirectional
    assert ostinato(f"train classify reviews.csv --out b --no-bidirectional {QUICK}").status == 0
    assert not SequenceClassifier.load("b").bidirectional


MISTAKES = {
    "train classify --out run": "train classify: no paths; name files or folders",
    "train classify none.csv --out run": "none.csv: no such file or folder",
    "train classify book.txt --out run": "book.txt: ",
    "train classify train.conllu --out run": "train.conllu: has a label for every word",
    "train classify reviews.csv --out run --label mood": "has no column 'mood' for the labels",
    "train classify reviews.csv --out run --pooling first": "Choose from",
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
def test_a_mistake_is_one_line_and_leaves_nothing(data, ostinato, command):  # noqa: F811
    before = everything(data)
    said = ostinato(command)
    message = MISTAKES[command]
    assert_refused(said, message)
    assert everything(data) == before


@pytest.mark.parametrize(
    "name", ["many_to_one.SequenceClassifier", "tagging.SequenceTagger", "music.MusicModel"]
)
def test_every_flag_has_help_and_its_own_default(name):
    module, estimator = name.split(".")
    options = options_of(f"ostinato.tasks.{module}", estimator)
    assert len({option.name for option in options}) == len(options)
    assert [option.name for option in options if not option.help] == []
    kinds = {"SequenceClassifier": SequenceClassifier, "SequenceTagger": SequenceTagger}
    if estimator in kinds:
        defaults = kinds[estimator]().get_params()
        assert {option.name: option.default for option in options} == defaults


def test_what_is_on_can_be_turned_off():
    options = {o.name: o for o in options_of("ostinato.tasks.tagging", "SequenceTagger")}
    assert _negative(options["bidirectional"]) == ("--no-bidirectional",)
    assert _negative(options["header"]) == ("--no-header",)
    assert _negative(options["crf"]) == ()
    assert SequenceRegressor().get_params().keys() == SequenceClassifier().get_params().keys()


# Looking inside


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small run on a text."""
    folder = tmp_path_factory.mktemp("written")
    text = 'he said "no" and left.\n' * 80
    TextGenerator(hidden_size=12, steps=40, window=20, cell="lstm").fit(text, out=folder / "run")
    return folder / "run"


def test_a_run_is_diagnosed_in_words_figures_and_pictures(written, ostinato, tmp_path):  # noqa: F811
    said = ostinato(f"diagnose {written} --out {tmp_path}/seen")
    assert (said.status, said.err) == (0, "")
    assert "figures\n  learnt " in said.out
    assert f"Page with pictures: {tmp_path}/seen/index.html" in said.out
    assert {"index.html", "diagnosis.json", "memory.png", "learning_curve.png"} <= {
        file.name for file in (tmp_path / "seen").iterdir()
    }
    (tmp_path / "new.txt").write_text('and he left, "no".\n'.replace(",", "") * 3)
    said = ostinato(f"diagnose {written} {tmp_path}/new.txt --json")
    assert set(json.loads(said.out)) == {"healthy", "findings", "learnt", "flow", "memory"}
    assert (written / "diagnosis" / "index.html").exists()


def test_memory_is_told_of_a_text_a_file_or_the_run(written, ostinato, tmp_path):  # noqa: F811
    said = ostinato(f"memory {written} --plot {tmp_path}/memory.png")
    assert said.out.startswith("A change of the input is felt up to ")
    assert "\n  0  " in said.out and (tmp_path / "memory.png").exists()
    (tmp_path / "a.txt").write_text("he said and left.\n" * 5)
    by_file = json.loads(ostinato(f"memory {written} {tmp_path}/a.txt --steps 30 --json").out)
    assert by_file["contexts"][-1] == 30
    by_text = json.loads(ostinato("memory", written, "he said and left", "--json").out)
    assert by_text["contexts"][-1] == 15


def test_gates_are_shown_over_a_text(written, ostinato, tmp_path):  # noqa: F811
    text = 'he "said" no'
    said = ostinato("gates", written, text, "--label", "quotes", "--plot", tmp_path / "unit.png")
    assert said.out.startswith("layer 0: ")
    assert said.out.count("correlation") == 10
    assert text in said.out and (tmp_path / "unit.png").exists()
    found = json.loads(ostinato("gates", written, text, "--unit", "3", "--json").out)
    assert found["steps"] == len(found["values"]) == len(text)
    (tmp_path / "a.txt").write_text("he left.")
    assert (
        ostinato(f"gates {written} {tmp_path}/a.txt --gate f --plot {tmp_path}/f.png").status == 0
    )
    for wrong, message in {
        "--label vowels": "label 'vowels'; expected one of quotes, line",
        "--unit 12": "has no unit 12; expected 0 to 11",
        "--layer 1 --unit 0": "there is no layer 1",
        f"--plot {tmp_path}/x.png": "say what to draw",
        f"--gate z --plot {tmp_path}/x.png": "has no gate 'z'",
    }.items():
        assert_refused(ostinato("gates", written, "he left", *wrong.split()), message)
    assert not (tmp_path / "x.png").exists()


def test_labelled_sequences_are_looked_at_too(data, ostinato):  # noqa: F811
    assert ostinato(f"train classify reviews.csv --out run {QUICK}").status == 0
    assert "figures" in ostinato("diagnose run").out
    assert "figures" in ostinato("diagnose run test.csv").out
    assert "steps back" in ostinato("memory run test.csv").out
    assert ostinato("gates run new.txt").out.startswith("layer 0: ")
    assert_refused(ostinato("diagnose none"), "none: no such folder")
    assert_refused(ostinato("diagnose run new.txt"), "new.txt")


# Writing


def test_texts_are_translated_line_by_line(data, ostinato, monkeypatch):  # noqa: F811
    said = ostinato(
        "train translate train.en train.de --out run --level word --epochs 8 --hidden-size 32 "
        "--dropout 0 --learning-rate 0.02"
    )
    assert said.status == 0, said
    assert "32 pairs to learn from, 8 to validate on" in said.out
    assert "Next:      ostinato translate run FILE" in said.out
    lines = ostinato("translate run new.en").out.splitlines()
    assert len(lines) == 3 and lines[1] == ""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"two one\n")))
    assert ostinato("translate run --beam 2").out.count("\n") == 1
    several = ostinato("translate run new.en --n-best 2 --beam 3 --scores").out.splitlines()
    assert len(several) == 5 and float(several[0].split("\t")[0]) <= 0
    machine = [
        json.loads(line) for line in ostinato("translate run new.en --json").out.splitlines()
    ]
    assert [each["place"] for each in machine] == ["new.en:1", "new.en:2", "new.en:3"]
    assert machine[0]["texts"][0]["text"] == lines[0]
    assert ostinato("translate run new.en --attention seen.png").status == 0
    assert (data / "seen.png").exists()
    assert "bleu signature" in ostinato("evaluate run train.en train.de").out
    assert "figures" in ostinato("diagnose run").out


def test_documents_are_summarised_and_recordings_written_down(data, ostinato):  # noqa: F811
    small = "--epochs 2 --hidden-size 16"
    assert ostinato(f"train summarize papers.jsonl --out short {small}").status == 0
    assert len(ostinato("summarize short papers.jsonl").out.splitlines()) == 40
    assert "lead rougeL" in ostinato("evaluate short papers.jsonl").out
    assert ostinato(f"train transcribe recordings --out ears {small}").status == 0
    assert ostinato("transcribe ears recordings").out.count("\n") == 16
    found = ostinato("transcribe ears recordings --find commands.txt").out.splitlines()
    assert {line.split("\t")[0] for line in found} <= {"yes", "no"}
    assert "cer" in ostinato("evaluate ears recordings").out
    assert_refused(ostinato("transcribe ears --live"), "needs the future")
    assert ostinato("train text book.txt --out letters --steps 5 --hidden-size 8").status == 0
    assert ostinato("transcribe ears recordings --language letters --beam 2").status == 0


def test_sound_is_written_down_live(data, ostinato, monkeypatch):  # noqa: F811
    said = ostinato("train transcribe recordings --out ears --epochs 8 --no-bidirectional")
    assert said.status == 0, said
    (file, *_) = sorted((data / "recordings").glob("**/*.wav"))
    sound, rate = soundfile.read(file, dtype="int16")
    raw = sound.astype("<i2").tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw))))
    live = ostinato("transcribe ears --live")
    assert live.status == 0 and f"listening: {rate:,} samples a second" in live.err
    assert live.out.strip() == ostinato(f"transcribe ears {file} --beam 1").out.split("\t")[0]
    assert_refused(ostinato(f"transcribe ears {file} --live"), "--live takes no files")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train translate train.en --out run", "expected two parallel files"),
        ("train translate train.en new.en --out run", "train.en: has 40 lines, and new.en has 3"),
        ("train translate reviews.csv --out run --source words", "has no column 'words' for the s"),
        ("train summarize train.en none.de --out run", "none.de: "),
        ("train transcribe reviews.csv --out run", "the inputs are texts; expected recordings"),
        ("train caption recordings --out run", "expected images"),
        ("translate none new.en", "none: no such folder"),
        ("translate none new.en --beams 3", "Unknown option: --beams"),
    ],
)
def test_mistakes_of_pairs_are_one_line(data, ostinato, command, message):  # noqa: F811
    before = everything(data)
    assert_refused(ostinato(command), message)
    assert everything(data) == before


def test_series_are_forecast_from_file_to_picture(data, ostinato):  # noqa: F811
    said = ostinato("train forecast sales.csv --horizon 6 --out run --epochs 1")
    assert said.status == 0, said
    assert "time: month; target: sales; one series, monthly\n" in said.out
    assert "1 series of 60 steps; horizon 6, context 36, season 12" in said.out
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
    assert "figures" in ostinato("diagnose run").out


def test_json_holds_no_nan(data, ostinato):  # noqa: F811
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
        ("train forecast sales.csv --out run --validation new.txt", "expected neither y nor"),
        ("forecast none", "none: no such folder"),
    ],
)
def test_mistakes_of_series_are_one_line(data, ostinato, command, message):  # noqa: F811
    before = everything(data)
    assert_refused(ostinato(command), message)
    assert everything(data) == before
