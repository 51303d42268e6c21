"""The command line: what it takes is the estimator's, and every mistake is one line."""

import io
import json
import os
import random
import shlex
import signal
import string
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin

import pytest

import ostinato as package
from ostinato import TextGenerator, cli
from ostinato.data.text import TextSource
from ostinato.signatures import options_of
from ostinato.tasks import estimators, generation
from ostinato.training.callbacks import Callback

# As where the command runs; its `main` prints warnings in its own way.
pytestmark = pytest.mark.filterwarnings("default::UserWarning")

TEXT = "to be or not to be, that is the question. " * 40
QUICK = "--hidden-size 8 --window 8 --batch-size 4"
FLAGS = options_of(generation.__name__, "TextGenerator")
CONTROLS = options_of(generation.__name__, "TextGenerator.generate")


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def ostinato(capsys, monkeypatch):
    """Runs a command in this process, as a shell would split it."""
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*words):
        capsys.readouterr()
        argv = shlex.split(words[0]) if len(words) == 1 else [str(word) for word in words]
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        return Said(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a text and some that are none."""
    monkeypatch.chdir(tmp_path)
    files = {
        "text.txt": TEXT.encode(),
        "empty.txt": b"",
        "latin.txt": "one\ntwo caf\xe9".encode("latin-1"),
        "one.txt": b"x",
        "ten.txt": b"0123456789",
        "taken/file": b"here first",
        "bare/notes.md": b"no text",
        "good.toml": b"hidden_size = 6\nlearning_rate = 0.5\ncell = 'gru'\nunknown = '?'\n",
        "broken.toml": b"steps = = 3",
        "latin.toml": b"cell = '\xe9'",
        "key.toml": b"hiden_size = 3",
        "table.toml": b"[training]\nsteps = 3",
        "word.toml": b"steps = 'three'",
        "list.toml": b"steps = [1, 2]",
        "half.toml": b"steps = 2.5",
        "bool.toml": b"hidden_size = true",
        "choice.toml": b"cell = 'tree'",
        "budget.toml": b"minutes = 1.0",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    settings = {"hidden_size": 12, "window": 12, "batch_size": 8, "learning_rate": 0.02}
    TextGenerator(steps=40, **settings).fit(TEXT, out=out)
    return out


def everything(folder):
    return {path: path.lstat().st_size for path in Path(folder).rglob("*")}


def assert_refused(said, words=""):
    assert said.status == 2, said
    assert said.out == ""
    assert said.err.startswith("ostinato: ")
    assert said.err.count("\n") == 1 and said.err.endswith("\n"), said.err
    assert words in said.err
    assert "Traceback" not in said.err


# Mistakes

TRAIN = f"train text text.txt --out run {QUICK}"
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
    "no text": (f"train text --out run {QUICK}", "no paths; name files or folders"),
    # Where to
    "no out": (f"train text text.txt {QUICK}", "--out requires an argument"),
    "out is taken": (f"train text text.txt --out taken {QUICK}", "taken: exists already"),
    "out is a file": (f"train text text.txt --out text.txt {QUICK}", "text.txt: exists already"),
    "out in a file": (f"train text text.txt --out one.txt/run {QUICK}", "one.txt/run: cannot be"),
    "out is here": (f"train text text.txt --out . {QUICK}", ".: exists already"),
    "out is empty": (f"train text text.txt --out '' {QUICK}", ".: exists already"),
    "out is too long": (f"train text text.txt --out {'x' * 300} {QUICK}", "File name too long"),
    # Settings
    "flag": (f"{TRAIN} --bogus", "--bogus"),
    "flag with value": (f"{TRAIN} --hiden-size=3", "did you mean --hidden-size?"),
    "short flag": (f"{TRAIN} -x", "-x"),
    "choice": (f"{TRAIN} --cell tree", '"tree" for --cell. Choose from: "lstm"'),
    "level": (f"{TRAIN} --level letter", '"letter" for --level. Choose from: "char"'),
    "negative": (f"{TRAIN} --learning-rate -1", "learning_rate=-1.0; expected a number above"),
    "zero": (f"{TRAIN} --num-layers 0", "num_layers=0; expected a whole number above zero"),
    "half": (f"{TRAIN} --steps 2.5", '"2.5" into int'),
    "no number": (f"{TRAIN} --steps many", '"many" into int'),
    "nan": (f"{TRAIN} --dropout nan", "dropout=nan; expected a finite number"),
    "infinite": (f"{TRAIN} --epochs inf", "epochs=inf; expected a finite number"),
    "huge": (f"{TRAIN} --seed 99999999999999999999", "seed=99999999999999999999; expected"),
    "huge size": (f"{TRAIN} --embedding-size 99999999999999999999", "embedding_size=9999"),
    "no value": (f"{TRAIN} --steps", "--steps requires an argument"),
    "twice": (f"{TRAIN} --window 9", "--window specified multiple times"),
    "two budgets": (f"{TRAIN} --minutes 1 --steps 5", "minutes and steps are all budgets"),
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
        "there is not enough memory; choose a smaller hidden_size",
    ),
    # A file of settings
    "no config": (f"{TRAIN} --config", "--config: name a TOML file"),
    "missing config": (f"{TRAIN} --config none.toml", "--config none.toml: No such file"),
    "config is a folder": (f"{TRAIN} --config=taken", "--config taken: Is a directory"),
    "broken config": (f"{TRAIN} --config broken.toml", "--config broken.toml: not TOML: Invalid"),
    "latin config": (f"{TRAIN} --config latin.toml", "--config latin.toml: not TOML: 'utf-8'"),
    "key": (f"{TRAIN} --config key.toml", 'option: "[hiden_size]" from key.toml'),
    "table": (f"{TRAIN} --config table.toml", '"[training][steps]" from table.toml'),
    "word": (f"{TRAIN} --config word.toml", "[steps] from word.toml"),
    "list": (f"{TRAIN} --config list.toml", "[steps] from list.toml"),
    "half config": (f"{TRAIN} --config half.toml", "[steps] from half.toml"),
    "bool": ("train text text.txt --out run --config bool.toml", "[hidden_size] from bool.toml"),
    "choice config": (f"{TRAIN} --config choice.toml", '"tree" for [cell] from choice.toml'),
    "budget config": (f"{TRAIN} --config budget.toml --steps 1", "are all budgets"),
    # Going on
    "no run": ("train text --resume --out none", "none: there is no run to go on with"),
    "no run there": ("train text --resume --out taken", "taken: there is no run to go on with"),
    "other settings": (
        "train text --resume --out RUN --hidden-size 256",
        "hidden_size=256 (it began with 12)",
    ),
    "a run already": (f"train text text.txt --out RUN {QUICK}", "holds a run already; go on with"),
    # Commands
    "command": ("dance", 'Unknown command "dance"'),
    "task": ("train poems", '"poems"'),
    # Writing
    "no model": ("generate", "RUN requires an argument"),
    "missing model": ("generate none", "none: no such folder"),
    "model is a file": ("generate text.txt", "text.txt: no such folder"),
    "no model there": ("generate taken", "taken: holds no finished model"),
    "too much": ("generate RUN more", "'more'"),
    "unknown control": ("generate RUN --heat 3", "--heat"),
    "prompt": ("generate RUN --prompt Ω", "'Ω' (U+03A9) at position 0 is not among"),
    "length": ("generate RUN --length -1", "length=-1; expected a whole number, zero or more"),
    "half length": ("generate RUN --length 2.5", '"2.5" into int'),
    "temperature": ("generate RUN --temperature -1", "temperature=-1.0; expected zero or more"),
    "hot": ("generate RUN --temperature inf", "temperature=inf"),
    "top k": ("generate RUN --top-k 0", "top_k=0; expected a whole number, one or more"),
    "top p": ("generate RUN --top-p 1.5", "top_p=1.5; expected above 0"),
    "penalty": ("generate RUN --repetition-penalty 0", "repetition_penalty=0.0; expected"),
    "seed": ("generate RUN --seed 99999999999999999999", "seed=99999999999999999999"),
    "stop": ("generate RUN --stop ''", "stop=''; expected texts that are not empty"),
    # Looking
    "info on nothing": ("info none", "none: no such folder"),
    "info on no run": ("info taken", "taken: holds no finished model"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(mistake, ostinato, here, run):
    command, words = MISTAKES[mistake]
    before = everything(here), everything(run.parent)
    assert_refused(ostinato(command.replace("RUN", str(run))), words)
    assert (everything(here), everything(run.parent)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written_is_named(ostinato, here):
    (here / "secret.txt").write_text(TEXT)
    (here / "secret.txt").chmod(0)
    assert_refused(ostinato(f"train text secret.txt --out run {QUICK}"), "secret.txt: cannot be")
    (here / "closed").mkdir(mode=0o500)
    assert_refused(ostinato(f"train text text.txt --out closed/run {QUICK}"), "closed/run: cannot")
    assert not list((here / "closed").iterdir())


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "weights.safetensors"])
def test_a_damaged_model_is_one_line(name, ostinato, here, run):
    model = TextGenerator.load(run)
    model.save(here / "model")
    file = here / "model" / name
    file.write_bytes(file.read_bytes()[:-2])
    for command in ("generate model", "info model"):
        assert_refused(ostinato(command), f"model/{name}: ")


def test_a_damaged_run_is_one_line(ostinato, here):
    assert ostinato(f"train text text.txt --out run --steps 1 {QUICK} --quiet").status == 0
    (here / "run" / "run.json").write_bytes(b"{}")
    assert_refused(ostinato("train text --resume --out run"), "run/run.json: damaged")
    assert_refused(ostinato(f"train text text.txt --out run {QUICK}"), "run: holds a run already")


EXTRAS = {
    "tokenizers": ("--level bpe", "needs tokenizers: pip install 'ostinato[bpe]'"),
    "torch.utils.tensorboard": ("--tensorboard", "pip install 'ostinato[tensorboard]'"),
}


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_extra_is_one_line_and_leaves_nothing(module, ostinato, here, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    before = everything(here)
    flags, words = EXTRAS[module]
    assert_refused(ostinato(f"{TRAIN} {flags}"), words)
    assert everything(here) == before


def test_without_matplotlib_there_is_no_curve_and_a_warning(ostinato, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = ostinato(f"{TRAIN} --steps 2")
    assert said.status == 0
    assert said.err.startswith("warning: ") and "pip install 'ostinato[plots]'" in said.err
    assert said.err.count("\n") == 1
    assert "learning_curve.png" not in said.out
    assert (here / "run" / "config.json").exists()


# Flags


def another(option):
    """A value of an option's type that is not its default, as written and as meant."""
    kinds = get_args(option.annotation) or [option.annotation]
    if get_origin(option.annotation) is Literal:
        choice = [choice for choice in kinds if choice != option.default][-1]
        return choice, choice
    if option.annotation is bool:
        return str(not option.default), not option.default
    if str in kinds:
        return "x y", "x y"
    return ("7", 7) if int in kinds else ("0.25", 0.25)


@pytest.fixture
def asked(monkeypatch):
    """What the estimator is asked by a command; nothing is done."""
    asked = {}

    class Estimator:
        def __init__(self, **settings):
            asked["settings"] = settings
            self.training_ = {"ended": "budget", "steps": 1, "seconds": 1.0, "best_step": 1}

        def fit(self, *args, **more):
            asked["fit"] = args, more

        @classmethod
        def resume(cls, *args, **more):
            asked["resume"] = args, more
            return cls()

        @classmethod
        def load(cls, run):
            asked["run"] = run
            return cls()

        def stream(self, **controls):
            asked["controls"] = controls
            return iter(["a", "b"])

        def generate(self, **controls):
            asked["controls"] = controls
            return "ab"

    monkeypatch.setattr(package, "TextGenerator", Estimator)
    return asked


def test_every_flag_reaches_the_estimator_as_its_argument(ostinato, asked):
    for option in FLAGS:
        written, meant = another(option)
        flag = f"--{option.name.replace('_', '-')}"
        ways = [[flag, written], [f"{flag}={written}"]]
        if option.annotation is bool:
            ways = [[flag if meant else flag.replace("--", "--no-")]]
        for words in ways:
            assert ostinato("train", "text", "a.txt", "--out", "run", *words).status == 0
            assert asked["settings"] == {option.name: meant}
            assert type(asked["settings"][option.name]) is type(meant)
    for option in CONTROLS:
        written, meant = another(option)
        assert (
            ostinato("generate", "run", f"--{option.name.replace('_', '-')}", written).status == 0
        )
        wanted = [meant] if option.name == "stop" else meant
        got = asked["controls"][option.name]
        assert got in (wanted, meant)
    assert set(asked["controls"]) == {"stop"}


def test_what_is_not_asked_is_left_to_the_estimator(ostinato, asked):
    said = ostinato("train text a.txt b.txt --out some/run")
    assert said.status == 0
    assert asked["settings"] == {}
    assert asked["fit"] == (
        (["a.txt", "b.txt"],),
        {"out": Path("some/run"), "pattern": "*.txt", "progress": "auto", "tensorboard": False},
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


def test_stop_is_given_once_or_more(ostinato, asked):
    ostinato("generate run --stop END")
    assert asked["controls"]["stop"] in ("END", ["END"])
    ostinato("generate run --stop END --stop '\n\n'")
    assert asked["controls"]["stop"] == ["END", "\n\n"]


def test_help_says_what_the_estimator_says(ostinato):
    for command, options in (("train text", FLAGS), ("generate", CONTROLS)):
        said = ostinato(f"{command} --help")
        assert (said.status, said.err) == (0, "")
        shown = " ".join(said.out.replace("│", " ").split())
        for option in options:
            start = shown.index(f" --{option.name.replace('_', '-')} ")
            assert option.help in shown[start:]
            if option.default not in (None, ""):
                assert f"[default: {option.default}]" in shown[start:]
            if get_origin(option.annotation) is Literal:
                assert f"[choices: {', '.join(get_args(option.annotation))}]" in shown[start:]
    assert {"train", "generate", "info"} <= set(ostinato("--help").out.split())
    assert "text" in ostinato("train --help").out


def test_settings_come_from_a_file_and_flags_win(ostinato, asked, here):
    ostinato("train text a --out run --config good.toml")
    from_file = {"hidden_size": 6, "learning_rate": 0.5, "cell": "gru", "unknown": "?"}
    assert asked["settings"] == from_file
    ostinato("train text --config=good.toml a --out run --cell rnn --window 5")
    assert asked["settings"] == {**from_file, "cell": "rnn", "window": 5}
    lines = [
        f"{option.name} = {json.dumps(another(option)[1])}"
        for option in FLAGS
        if option.name not in ("minutes", "epochs")
    ]
    (here / "all.toml").write_text("\n".join([*lines, "out = 'elsewhere'", "json = true"]))
    ostinato("train text a --config all.toml")
    assert asked["settings"] == {
        option.name: another(option)[1]
        for option in FLAGS
        if option.name not in ("minutes", "epochs")
    }
    assert asked["fit"][1]["out"] == Path("elsewhere")
    assert asked["fit"][1]["progress"] == "json"
    ostinato("train text a --out run")
    assert asked["settings"] == {}  # a file counts for its own command alone


# What is said


def no_nonsense(name):
    raise ValueError(name)


def test_json_is_all_that_json_says(ostinato, here, run):
    said = ostinato(f"{TRAIN} --steps 4 --evaluations 2 --json")
    assert (said.status, said.err) == (0, "")
    lines = [json.loads(line, parse_constant=no_nonsense) for line in said.out.splitlines()]
    assert [line["event"] for line in lines] == ["evaluation", "evaluation", "end"]
    assert [line["step"] for line in lines[:2]] == [2, 4]
    assert lines[0]["sample"]
    assert lines[0]["bits_per_character"] == pytest.approx(1.442695 * lines[0]["validation_loss"])
    assert lines[-1]["ended"] == "budget"

    said = ostinato(f"generate {run} --prompt 'to be' --length 30 --seed 1 --json")
    text = TextGenerator.load(run).generate("to be", 30, seed=1)
    assert (said.status, said.err) == (0, "")
    assert said.out.isascii() and said.out.count("\n") == 1
    assert json.loads(said.out) == {"prompt": "to be", "text": text}
    assert json.loads(ostinato(f"generate {run} --length 3 --json").out)["prompt"] == ""

    said = ostinato(f"info {run} --json")
    assert (said.status, said.err) == (0, "")
    assert json.loads(said.out) == json.loads((run / "config.json").read_text())


def test_quiet_says_nothing(ostinato, here):
    assert ostinato(f"{TRAIN} --steps 2 --quiet") == (0, "", "")
    assert (here / "run" / "learning_curve.png").stat().st_size > 1000
    assert ostinato("train text --resume --out run --quiet") == (0, "", "")


def test_what_is_said_of_a_run_is_true(ostinato, here):
    said = ostinato(f"train text text.txt --out 'a run' --steps 4 --evaluations 2 {QUICK}")
    assert (said.status, said.err) == (0, "")
    first, *_ = said.out.splitlines()
    assert first.startswith("1,680 characters; 15 tokens of level char; lstm of 1 x 8 units")
    assert "4 steps; the best, of step 4, is kept in a run/" in said.out
    named = [line.split(maxsplit=1)[1] for line in said.out.splitlines()[-3:-1]]
    assert named == ["a run/learning_curve.png", "a run/metrics.jsonl"]
    assert all((here / name).exists() for name in named)
    command = said.out.partition("Next:")[2].split("ostinato", 1)[1]
    said = ostinato(command)
    assert said.status == 0
    assert len(said.out) == 501


def test_generate_writes_prompt_and_text(ostinato, run):
    text = TextGenerator.load(run).generate("to be", 50, seed=1, temperature=0.5, stop="qq")
    said = ostinato(
        f"generate {run} --prompt 'to be' --length 50 --seed 1 --temperature 0.5 --stop qq"
    )
    assert said == (0, f"to be{text}\n", "")
    assert ostinato(f"generate {run} --length 0") == (0, "\n", "")
    assert ostinato("generate", run, "--prompt", "to be " * 20_000, "--length", "1").status == 0


def test_generate_writes_each_piece_at_once(asked, monkeypatch):
    def stream(self, **controls):
        for piece in "ab":
            seen.append(out.buffer.getvalue())
            yield piece

    seen, out = [], io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(package.TextGenerator, "stream", stream)
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit):
        cli.main(["generate", "run", "--prompt", "to "])
    assert [*seen, out.buffer.getvalue()] == [b"to ", b"to a", b"to ab\n"]


def test_json_is_ascii(ostinato, asked):
    said = ostinato("generate run --prompt é☺ --json")
    assert said.out.isascii()
    assert json.loads(said.out)["prompt"] == "é☺"


def test_a_warning_comes_after_the_text(ostinato, here):
    TextGenerator(hidden_size=16, steps=60, window=12, batch_size=8, learning_rate=0.02).fit(
        "ab" * 500
    ).save(here / "model")
    said = ostinato("generate model --prompt ab --temperature 0 --length 60")
    assert said.out == "ab" * 31 + "\n"
    assert said.err.startswith("warning: the generated text is degenerate: it repeats 'ab' 30")
    assert said.err.count("\n") == 1


def test_info_says_what_is_there(ostinato, run):
    said = ostinato(f"info {run}")
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == f"{run}: TextGenerator"
    shown = {line.split()[0]: line.split()[-1] for line in lines[1:] if line.startswith("  ")}
    config = json.loads((run / "config.json").read_text())
    assert set(shown) == {*config["training"], *config["parameters"]}
    assert shown["hidden_size"] == "12"
    assert shown["characters"] == "1,680"
    assert float(shown["best_loss"]) == pytest.approx(config["training"]["best_loss"], rel=1e-3)


def test_a_terminal_without_letters_is_no_reason_to_fail(run, here, monkeypatch):
    for argv in ([*TRAIN.split(), "--steps", "2"], ["generate", str(run), "--length", "5"]):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        assert end.value.code == 0
        assert out.buffer.getvalue().isascii()


# Texts and folders of all kinds


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
    said = ostinato(f"train text odd.txt --out run --steps 2 {progress} {QUICK}")
    assert (said.status, said.err) == (0, "")
    said = ostinato("generate run --length 20 --seed 0 --temperature 9")
    assert said.status == 0
    assert set(said.out[:-1]) <= set(content[1])


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
    said = ostinato(f"train text text.txt --out run {sizes} {settings}")
    assert (said.status, said.err) == (0, "")
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
    said = ostinato(*command)
    assert (said.status, said.err) == (0, "")
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
    said = ostinato(f"train text texts --out texts/run --steps 1 {QUICK}")
    assert said.status == 0
    assert said.out.startswith(f"{len(TEXT):,} characters")


@pytest.mark.parametrize("argv", ["- --out run", "--out run -", "--out run -- -"])
def test_a_minus_is_standard_input(argv, ostinato, here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    said = ostinato(f"train text {QUICK} --steps 1 {argv}")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith(f"{len(TEXT):,} characters")
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


def test_tensorboard_gets_its_curves(ostinato, here):
    assert ostinato(f"{TRAIN} --steps 2 --quiet --tensorboard").status == 0
    assert list((here / "run" / "tensorboard").glob("events.*"))


def test_no_heap_of_letters_makes_it_fail(ostinato, here, run):
    """Whatever is typed, the end is 0 or one line."""
    choose = random.Random(0)
    flags = [f"--{option.name.replace('_', '-')}" for option in CONTROLS]
    values = ["0", "1", "-1", "2.5", "nan", "inf", "1e400", "", "é", "a b", "--", "-", "x" * 500]
    for _ in range(150):
        argv = ["generate", str(run), "--length=3"]
        for _ in range(choose.randrange(1, 4)):
            argv.append(f"{choose.choice(flags[2:])}={choose.choice(values)}")
            if choose.random() < 0.3:
                argv.append("".join(choose.choices(string.printable, k=4)))
        said = ostinato(*argv)
        if said.status != 0:
            assert_refused(said)


@pytest.mark.parametrize("more", ["", "--validation-fraction 0", "--on-nonfinite skip --json"])
def test_a_run_that_explodes_ends_in_a_line_and_leaves_no_model(more, ostinato, here):
    wild = "--steps 12 --learning-rate 1e30 --optimizer sgd --clip-norm 0 --warmup-steps 0"
    said = ostinato(f"{TRAIN} {wild} {more}")
    assert said.status == 2
    *warned, last = said.err.splitlines()
    assert last.startswith("ostinato: step 3: loss not finite")
    assert all(line.startswith("warning: ") for line in warned)
    assert_refused(ostinato("generate run"), "run: holds no finished model")


# Stopping and going on


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
        said = ostinato(f"{command} --out '{out}'")
    assert said.status == 130
    assert said.out == ""
    assert said.err.startswith(f"Stopped at step {at}. Go on:  ostinato train text --resume --out ")
    assert said.err.count("\n") == 1
    info = ostinato("info", out)
    assert info.status == 0
    assert ("unfinished run" in info.out) == (at == 1)  # later ones have been evaluated
    said = ostinato(said.err.partition("ostinato")[2])
    assert said.status == 0
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
        def on_end(self, result):
            said.on_end(result)

    said = estimators.make_progress("json")
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
        (TextSource, "characters"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            assert ostinato(f"{TRAIN} --steps 1") == (130, "", "")
        assert everything(here) == before


# As a process of its own


HEAVY = {"torch", "numpy", "scipy", "sklearn", "safetensors", "pandas", "matplotlib"}


def process(*argv, python=("-m", "ostinato.cli"), **more):
    run = [sys.executable, *python, *map(str, argv)]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(run, env=environ, **pipes, **more)


def test_the_version_needs_nothing_heavy():
    child = process("--version", python=("-X", "importtime", "-m", "ostinato.cli"))
    out, err = child.communicate()
    assert (child.returncode, out.decode()) == (0, f"ostinato {package.__version__}\n")
    imported = {line.rpartition("|")[2].strip() for line in err.decode().splitlines()}
    assert "ostinato" in imported
    assert not HEAVY & imported


def test_help_imports_no_pytorch():
    code = f"""
import sys
from ostinato.cli import main
for argv in ([], ["--help"], ["--version"], ["train", "--help"], ["train", "text", "--help"],
             ["generate", "--help"], ["info", "--help"], ["train", "text", "--bogus"]):
    try:
        main(argv)
    except SystemExit as end:
        assert end.code in (0, 2), argv
heavy = {HEAVY!r} & set(sys.modules)
sys.exit(", ".join(heavy) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
def test_a_reader_that_goes_away_is_no_trouble(run):
    for argv, wanted in (
        (["info", run], 0),
        (["generate", run, "--length", "100000"], 10),
    ):
        with process(*argv) as child:
            child.stdout.read(wanted)
            child.stdout.close()
            assert child.stderr.read() == b""
        assert child.returncode == 141


# The command, which after a step says so and waits until its input is closed.
PAUSED = """
import sys
from ostinato.cli import main
from ostinato.training.callbacks import MetricsFile

def on_step(self, record, real=MetricsFile.on_step):
    real(self, record)
    if record["step"] == 20:
        print("at step 20", flush=True)
        sys.stdin.read()

MetricsFile.on_step = on_step
main(sys.argv[1:])
"""


@pytest.mark.thorough
def test_ctrl_c_at_a_terminal(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    command = f"train text text.txt --out run --steps 50 --evaluations 3 {QUICK}".split()
    child = process(*command, python=("-c", PAUSED), cwd=tmp_path, stdin=subprocess.PIPE)
    while (line := child.stdout.readline()) != b"at step 20\n":
        assert line, child.stderr.read().decode()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate()
    assert child.returncode == 130
    assert err.decode().startswith("Stopped at step 20")
    assert "Traceback" not in err.decode()
    child = process(*err.decode().split("ostinato", 1)[1].split(), cwd=tmp_path)
    out, err = child.communicate()
    assert (child.returncode, err) == (0, b"")
    assert "50 steps" in out.decode()


@pytest.mark.parametrize(
    "said", [{}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "7"}, {"OMP_WAIT_POLICY": "active"}]
)
def test_openmp_is_told_how_long_to_spin_before_pytorch_is_there_unless_the_user_has(said):
    names = ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"]
    code = f"""
import json, os, sys
from ostinato.cli import OPENMP, main

class Finder:  # of PyTorch: what the environment is when it is asked for
    def find_spec(name, path=None, target=None):
        if name == "torch":
            found = {{name: os.environ[name] for name in {names} if name in os.environ}}
            print(json.dumps([OPENMP, found]))
            sys.exit(9)

sys.meta_path.insert(0, Finder)
main(["train", "text", "book.txt", "--out", "run"])
"""
    environ = {name: value for name, value in os.environ.items() if name not in names} | said
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    ours, found = json.loads(done.stdout)
    assert set(ours) < set(names)
    assert found == (said or ours)


def test_a_program_that_has_pytorch_already_keeps_its_environment(monkeypatch, capsys):
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    assert "torch" in sys.modules
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert dict(os.environ) == before
