"""``ostinato train``: runs begin, stop and continue, and every mistake is one line."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import EPOCHS, QUICK, TEXT, TRAIN, assert_refused, everything, no_nonsense

from ostinato import SequenceClassifier
from ostinato.data.text import TextSource
from ostinato.tasks import estimators, generation
from ostinato.training.callbacks import Callback, MetricsFile

pytestmark = pytest.mark.filterwarnings("default::UserWarning")

MISTAKES = {
    # The text
    "missing": (f"train text none.txt --out run {QUICK}", "none.txt: no such file or folder."),
    "empty": (f"train text empty.txt --out run {QUICK}", "empty.txt: the text is empty"),
    "not UTF-8": (
        f"train text text.txt latin.txt --out run {QUICK}",
        "latin.txt: line 2, byte 11: 0xE9 is not valid UTF-8",
    ),
    "no match": (f"train text bare --out run {QUICK}", "bare: no file below this folder matches"),
    "folder in pattern": (f"train text . --pattern a/b --out run {QUICK}", "pattern='a/b'"),
    "unreadable": (f"train text loop.txt --out run {QUICK}", "loop.txt: cannot be read"),
    "one character": (f"train text one.txt --out run {QUICK}", "has 1 token"),
    "ten characters": (f"train text ten.txt --out run {QUICK}", "held out to validate on has 1"),
    "no text": (f"train text --out run {QUICK}", "FILES is required"),
    # Where to
    "no out": (f"train text text.txt {QUICK}", "--out PATH is required"),
    "out is taken": (f"train text text.txt --out taken {QUICK}", "taken: already exists"),
    "out is a file": (f"train text text.txt --out text.txt {QUICK}", "text.txt: already exists"),
    "out in a file": (f"train text text.txt --out one.txt/run {QUICK}", "one.txt/run: cannot be"),
    "out is here": (f"train text text.txt --out . {QUICK}", ".: already exists"),
    "out is empty": (f"train text text.txt --out '' {QUICK}", ".: already exists"),
    "out is too long": (f"train text text.txt --out {'x' * 300} {QUICK}", "File name too long"),
    # Settings
    "flag": (f"{TRAIN} --bogus", "--bogus"),
    "flag with value": (f"{TRAIN} --hiden-size=3", "did you mean --hidden-size?"),
    "short flag": (f"{TRAIN} -x", "-x"),
    "choice": (f"{TRAIN} --cell tree", "--cell: invalid choice: 'tree' (choose from"),
    "level": (f"{TRAIN} --level letter", "--level: invalid choice: 'letter' (choose from"),
    "negative": (f"{TRAIN} --learning-rate -1", "learning_rate=-1.0; expected a number above"),
    "zero": (f"{TRAIN} --num-layers 0", "num_layers=0; expected a whole number above zero"),
    "half": (f"{TRAIN} --steps 2.5", "--steps: invalid int value: '2.5'"),
    "no number": (f"{TRAIN} --steps many", "--steps: invalid int value: 'many'"),
    "nan": (f"{TRAIN} --dropout nan", "dropout=nan; expected a finite number"),
    "infinite": (f"{TRAIN} --epochs inf", "epochs=inf; expected a finite number"),
    "huge": (f"{TRAIN} --seed 99999999999999999999", "seed=99999999999999999999; expected"),
    "huge size": (f"{TRAIN} --embedding-size 99999999999999999999", "embedding_size=9999"),
    "no value": (f"{TRAIN} --steps", "--steps: expected one argument"),
    "two budgets": (f"{TRAIN} --minutes 1 --steps 5", "expected one budget, got minutes and steps"),
    "device": (
        f"train text text.txt --out new/run {QUICK} --device abacus",
        "device='abacus' cannot be used here",
    ),
    "all held out": (f"{TRAIN} --validation-fraction 0.99999", "expected less"),
    "does not fit": (f"{TRAIN} --init identity", "'identity' is for RNNCell with relu"),
    "bytes": (f"{TRAIN} --level byte --unknown x", "every text consists of bytes"),
    "vocabulary": (f"{TRAIN} --vocabulary-size 3", "leave out"),
    "memory": (
        "train text text.txt --out run --hidden-size 16000000 --steps 1",
        "training a network of ",
    ),
    # A file of settings
    "no config": (f"{TRAIN} --config", "--config: expected one argument"),
    "missing config": (f"{TRAIN} --config none.toml", "--config none.toml: No such file"),
    "config is a folder": (f"{TRAIN} --config=taken", "--config taken: Is a directory"),
    "broken config": (f"{TRAIN} --config broken.toml", "--config broken.toml: not TOML: Invalid"),
    "latin config": (f"{TRAIN} --config latin.toml", "--config latin.toml: not TOML: 'utf-8'"),
    "key": (
        f"{TRAIN} --config key.toml",
        "key.toml: unknown option --hiden-size; did you mean --hidden-size?",
    ),
    "table": (f"{TRAIN} --config table.toml", "table.toml: unknown option --training"),
    "word": (
        f"{TRAIN} --config word.toml",
        "word.toml: train text: --steps: invalid int value: 'three'",
    ),
    "list": (f"{TRAIN} --config list.toml", "list.toml: steps = [1, 2]: expected N"),
    "half config": (
        f"{TRAIN} --config half.toml",
        "half.toml: train text: --steps: invalid int value: '2.5'",
    ),
    "bool": (
        "train text text.txt --out run --config bool.toml",
        "bool.toml: hidden_size = True: expected N",
    ),
    "choice config": (
        f"{TRAIN} --config choice.toml",
        "choice.toml: train text: --cell: invalid choice: 'tree'",
    ),
    "budget config": (f"{TRAIN} --config budget.toml --steps 1", "expected one budget"),
    # Going on
    "no run": ("train text --resume --out none", "none: no such folder"),
    "no run there": ("train text --resume --out taken", "taken: holds no finished model"),
    "other settings": (
        "train text --resume --out RUN --hidden-size 256",
        "hidden_size=256 (started with 12)",
    ),
    "a run already": (f"train text text.txt --out RUN {QUICK}", "already holds a run; resume it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(mistake, ostinato, here, run):
    command, words = MISTAKES[mistake]
    before = everything(here), everything(run.parent)
    assert_refused(ostinato(command.replace("RUN", str(run))), words)
    assert (everything(here), everything(run.parent)) == before


def test_a_damaged_run_is_one_line(ostinato, here):
    assert ostinato(f"train text text.txt --out run --steps 1 {QUICK} --quiet").status == 0
    (here / "run" / "run.json").write_bytes(b"{}")
    assert_refused(ostinato("train text --resume --out run"), "run/run.json: damaged")
    assert_refused(ostinato(f"train text text.txt --out run {QUICK}"), "run: already holds a run")


def test_without_matplotlib_there_is_no_curve_and_a_warning(ostinato, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = ostinato(f"{TRAIN} --steps 2")
    assert result.status == 0
    assert result.err.startswith("warning: ") and "pip install 'ostinato[plots]'" in result.err
    assert result.err.count("\n") == 1
    assert "learning_curve.png" not in result.out
    assert (here / "run" / "config.json").exists()


def test_what_is_not_asked_is_left_to_the_estimator(ostinato, here, asked):
    for name in ("a.txt", "b.txt", "a"):
        (here / name).touch()
    result = ostinato("train text a.txt b.txt --out some/run")
    assert result.status == 0
    assert asked["settings"] == {}
    assert asked["fit"] == (
        ([Path("a.txt"), Path("b.txt")],),
        {"out": Path("some/run"), "progress": "auto", "tensorboard": False},
    )
    ostinato("train text a --out run --pattern *.md --tensorboard --json")
    assert asked["fit"][1] | {"out": 0} == {
        "out": 0,
        "pattern": "*.md",
        "progress": "json",
        "tensorboard": True,
    }
    ostinato("train text --resume --out run --window 5 --quiet")
    assert asked["resume"] == (
        (Path("run"),),
        {"progress": "quiet", "tensorboard": False, "window": 5},
    )
    assert ostinato("generate run").out == "ab\n"
    assert asked["controls"] == {}


def test_quiet_says_nothing(ostinato, here):
    assert ostinato(f"{TRAIN} --steps 2 --quiet") == (0, "", "")
    assert (here / "run" / "learning_curve.png").stat().st_size > 1000
    assert ostinato("train text --resume --out run --quiet") == (0, "", "")


def test_what_is_said_of_a_run_is_true(ostinato, here):
    result = ostinato(f"train text text.txt --out 'a run' --steps 4 --evaluations 2 {QUICK}")
    assert (result.status, result.err) == (0, "")
    first, *_ = result.out.splitlines()
    assert first.startswith("1,680 characters; 15 tokens of level char; lstm of 1 x 8 units")
    assert "4 steps; a run/ holds the best model, of step 4" in result.out
    assert re.search(r"^  bits per character [0-9.]+ on validation data$", result.out, re.M)
    named = [line.split(maxsplit=1)[1] for line in result.out.splitlines()[-3:-1]]
    assert named == ["a run/learning_curve.png", "a run/metrics.jsonl"]
    assert all((here / name).exists() for name in named)
    command = result.out.partition("Next:")[2].split("ostinato", 1)[1]
    result = ostinato(command)
    assert result.status == 0
    assert len(result.out) == 501


@pytest.mark.parametrize(
    "content",
    {
        "CRLF": "to be\r\nor not\r\n" * 20,
        "NUL": "a\x00b" * 50,
        "emoji": "😀👩‍🚀é\u0301" * 20,
        "escapes": "\x1b[31mred\x1b[0m " * 20,
        "one character": "a" * 30,
        "separators": "a\u2028b\x85c\x0bd" * 20,
        "byte order mark": "\ufeffabc" * 20,
        "brackets": "[bold]a[/bold] [/x] {b} %s \\n" * 10,
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("progress", ["", "--json"])
def test_any_text_is_learnt(content, progress, ostinato, here):
    (here / "odd.txt").write_bytes(content[1].encode())
    result = ostinato(f"train text odd.txt --out run --steps 2 {progress} {QUICK}")
    assert (result.status, result.err) == (0, "")
    result = ostinato("generate run --length 20 --seed 0 --temperature 9")
    assert result.status == 0
    assert set(result.out[:-1]) <= set(content[1])


@pytest.mark.parametrize(
    "settings",
    [
        "--steps 1 --hidden-size 1 --window 1 --batch-size 1",
        "--steps 2 --evaluations 1000",
        "--steps 2 --batch-size 100000",
        "--steps 2 --window 100000 --batch-size 100000",
        "--steps 2 --validation-fraction 0",
        "--minutes 0.003",
        "--epochs 0.001",
        "--steps 2 --level word",
        "--steps 2 --level byte --num-layers 3",
        "--steps 2 --level bpe",
        "--steps 2 --vocabulary-size 4 --unknown ☐",
        "--steps 2 --checkpoint-minutes 1e-9",
        "--steps 2 --clip-norm 0 --optimizer sgd",
        "--steps 2 --seed -1",
    ],
)
def test_any_sensible_or_silly_setting_works(settings, ostinato, here):
    sizes = "" if "--hidden-size" in settings else "--hidden-size 4"
    result = ostinato(f"train text text.txt --out run {sizes} {settings}")
    assert (result.status, result.err) == (0, "")
    assert ostinato("generate run --length 5").status == 0
    assert ostinato("train text --resume --out run").status == 0


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("my text.txt", "my run/"),
        ("тест 文.txt", "läuft ☺"),
        ("a'b\"c.txt", "x/y z/run"),
        ("-dash.txt", "-dash"),
        (os.fsdecode(b"caf\xe9.txt"), os.fsdecode(b"run\xe9")),
        ("[bold].txt", "[red]run[/red]"),
    ],
)
def test_any_name_is_taken(text, out, ostinato, here):
    try:
        (here / text).write_text(TEXT)
    except OSError:
        pytest.skip("the file system takes no such name")
    (here / "x").mkdir()
    given = f"./{text}" if text.startswith("-") else text
    command = ["train", "text", given, f"--out={out}", "--steps", "2", *QUICK.split()]
    result = ostinato(*command)
    assert (result.status, result.err) == (0, "")
    folder = f"./{out}" if out.startswith("-") else out
    for command in (["info", folder], ["info", folder, "--json"], ["generate", folder]):
        assert ostinato(*command).status == 0
    assert ostinato("train", "text", "--resume", f"--out={out}").status == 0


def test_an_empty_folder_may_be_named(ostinato, here):
    (here / "run").mkdir()
    assert ostinato(f"{TRAIN} --steps 1 --quiet").status == 0
    assert (here / "run" / "config.json").exists()


def test_a_folder_is_read_while_the_run_lies_in_it(ostinato, here):
    (here / "texts" / "deep").mkdir(parents=True)
    (here / "texts" / "deep" / "a.txt").write_text(TEXT)
    result = ostinato(f"train text texts --out texts/run --steps 1 {QUICK}")
    assert result.status == 0
    assert result.out.startswith(f"{len(TEXT):,} characters")


@pytest.mark.parametrize("argv", ["- --out run", "--out run -", "--out run -- -"])
def test_a_minus_is_standard_input(argv, ostinato, here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    result = ostinato(f"train text {QUICK} --steps 1 {argv}")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"{len(TEXT):,} characters")
    assert ostinato("train text --resume --out run --quiet").status == 0  # needs it no more


@pytest.mark.parametrize(
    ("content", "argv", "words"),
    [
        (b"", "-", "the text is empty"),
        (b"a\xff", "-", "<standard input>: line 1, byte 1: 0xFF is not valid UTF-8"),
        (b"abc", "- text.txt -", "standard input can be read only once"),
        (None, "-", "<standard input>: is closed"),
    ],
)
def test_bad_standard_input_is_one_line(content, argv, words, ostinato, here, monkeypatch):
    stream = None if content is None else io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stream)
    before = everything(here)
    assert_refused(ostinato(f"train text {argv} --out run {QUICK}"), words)
    assert everything(here) == before


def test_a_full_disk_is_one_line_that_names_the_run(ostinato, here, monkeypatch):
    def full(self, *args, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MetricsFile, "on_step", full)
    assert_refused(ostinato(f"{TRAIN} --steps 2 --json"), "run: No space left on device.")


def test_tensorboard_gets_its_curves(ostinato, here):
    assert ostinato(f"{TRAIN} --steps 2 --quiet --tensorboard").status == 0
    assert list((here / "run" / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("more", ["", "--validation-fraction 0", "--on-nonfinite skip --json"])
def test_a_run_that_explodes_ends_in_a_line_and_leaves_no_model(more, ostinato, here):
    wild = "--steps 12 --learning-rate 1e30 --optimizer sgd --clip-norm 0 --warmup-steps 0"
    result = ostinato(f"{TRAIN} {wild} {more}")
    assert result.status == 2
    *warned, last = result.err.splitlines()
    assert re.match(r"ostinato: step \d: loss not finite", last)
    assert all(line.startswith("warning: ") for line in warned)
    assert_refused(ostinato("generate run"), "run: holds no finished model")


class Interrupting(Callback):
    """Presses Ctrl-C at a step."""

    def __init__(self, at):
        self.at = at

    def on_step(self, record):
        if record["step"] == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("at", "out"), [(1, "run"), (3, "my run"), (7, "run")])
def test_ctrl_c_stops_a_run_that_goes_on_as_if_it_had_not(at, out, ostinato, here, monkeypatch):
    command = f"train text text.txt --steps 8 --evaluations 4 --dropout 0.3 {QUICK}"
    assert ostinato(f"{command} --out whole --quiet").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(estimators, "make_progress", lambda mode: Interrupting(at))
        result = ostinato(f"{command} --out '{out}'")
    assert result.status == 130
    assert result.out == ""
    assert result.err.startswith(
        f"Stopped at step {at}. To continue:  ostinato train text --resume --out "
    )
    assert result.err.count("\n") == 1
    info = ostinato("info", out)
    assert info.status == 0
    assert ("unfinished run" in info.out) == (at == 1)  # later ones have been evaluated
    result = ostinato(result.err.partition("ostinato")[2])
    assert result.status == 0
    for name in ("weights.safetensors", "vocabulary.json"):
        assert (here / out / name).read_bytes() == (here / "whole" / name).read_bytes()
    steps, wanted = (
        [
            json.loads(line)["step"]
            for line in (here / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in (out, "whole")
    )
    assert steps == wanted


def test_json_of_a_run_stopped_early_is_json(ostinato, here, monkeypatch):
    class Both(Interrupting):
        def on_end(self, ending):
            result.on_end(ending)

    result = estimators.make_progress("json")
    monkeypatch.setattr(estimators, "make_progress", lambda mode: Both(1))
    out = ostinato(f"{TRAIN} --steps 9 --json").out
    assert json.loads(out, parse_constant=no_nonsense)["ended"] == "interrupt"


def test_ctrl_c_before_the_first_step_leaves_nothing(ostinato, here, monkeypatch):
    def interrupt(*args, **more):
        raise KeyboardInterrupt

    before = everything(here)
    for owner, name in (
        (generation, "write_tokens"),
        (generation, "ManyToMany"),
        (TextSource, "__iter__"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            assert ostinato(f"{TRAIN} --steps 1") == (130, "", "")
        assert everything(here) == before


def test_validation_files_and_a_config_are_taken(data, ostinato):
    (data / "a.toml").write_text("epochs = 2\nhidden_size = 8\nbidirectional = false\n")
    result = ostinato("train classify reviews.csv --validation test.csv --out run --config a.toml")
    assert "40 texts of 4 steps for training, 6 for validation" in result.out
    model = SequenceClassifier.load("run")
    assert not model.bidirectional
    assert ostinato(f"train classify reviews.csv --out b --no-bidirectional {EPOCHS}").status == 0
    assert not SequenceClassifier.load("b").bidirectional


def test_what_columns_mean_is_said_once(data, ostinato):
    (data / "kinds.csv").write_text(
        "number,words,mood\n" + "".join(f"{7 * i},fine film {i},{'ab'[i % 2]}\n" for i in range(20))
    )
    columns = "--text words --label mood"
    result = ostinato(f"train classify kinds.csv {columns} --out run {EPOCHS}")
    assert result.out.count("text: words; label: mood; not used: number") == 1
    result = ostinato(f"train translate train.en train.de --out german {EPOCHS}")
    assert len(set(lines := result.out.splitlines()[:4])) == len(lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train classify none.csv --out run", "none.csv: no such file or folder."),
        ("train classify there.csv --out taken", "already exists and is not an empty folder"),
        ("train classify there.csv --out there.csv/run", "is no folder"),
        ("train classify there.csv", "--out PATH is required"),
        ("train classify --out run", "FILES is required"),
    ],
)
def test_slips_are_named_before_pytorch_is_imported(line, message, tmp_path):
    (tmp_path / "taken").mkdir()
    for file in ("there.csv", "taken/file"):
        (tmp_path / file).write_text("a,b\n")
    code = (
        "import sys\nfrom ostinato.cli.app import _run\n"
        "try:\n    _run(sys.argv[1:])\n"
        "except Exception as error:\n    print(error, 'torch' in sys.modules)\n"
    )
    run = [sys.executable, "-c", code, *line.split()]
    said = subprocess.run(run, check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    assert message in said and said.endswith("False\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "there.csv"]
