"""What commands share: which command suits which run, and what is printed."""

import io
import json
from pathlib import Path

import pytest
from command_line import assert_refused, write_data

import ostinato as package
from ostinato import cli
from ostinato.cli.commands import COMMANDS, TRAIN, USE, listed, print_json
from ostinato.tasks import base
from ostinato.tasks.registry import TASKS, task_of

pytestmark = pytest.mark.filterwarnings("default::UserWarning")

ASKING = [command for command in COMMANDS.values() if command.protocol]


def test_every_task_has_a_command_that_trains_and_one_that_uses_it():
    trained = [f"train {task.command}" for task in TASKS]
    assert [command.name for command in listed(TRAIN)] == ["train", *trained, "prepare", "tune"]
    for task in TASKS:
        able = {command.name for command in ASKING if command.protocol in task.protocols}
        assert able & {command.name for command in listed(USE)}, task
        assert task.next.split()[1] in able
    assert all(hasattr(base, command.protocol) for command in ASKING)


@pytest.mark.parametrize("command", ASKING, ids=lambda command: command.name)
def test_a_command_for_another_task_is_one_line_and_loads_nothing(command, ostinato, monkeypatch):
    loaded = []
    monkeypatch.setattr(package, "load", lambda run: loaded.append(run) or 1 / 0)
    needed = [option for option in command.options() if option.needed][1:]
    file = "x.wav" if command.name == "vocode" else "x.mid"
    more = [word for o in needed for word in ([o.flag] if o.form == "keyword" else []) + [file]]
    more += {
        "transcribe": ["x.wav"],
        "find": ["x.wav", "--phrase", "a"],
        "speak": ["hi", "--out", "x.wav"],
    }.get(command.name, [])
    for task in TASKS:
        monkeypatch.setattr(
            package, "describe", lambda run, name=task.estimator, **more: {"task": name}
        )
        if command.protocol in task.protocols:
            with pytest.raises(ZeroDivisionError):
                cli.main([command.name, "run", *more])
            assert loaded.pop()
            continue
        result = ostinato(command.name, "run", *more)
        assert_refused(result, f"{command.name}: run holds a {task.estimator}; commands for it: ")
        assert task.next.split()[1] in result.err
        assert loaded == []


def test_json_holds_null_where_a_number_is_not_finite(capsys):
    document = {"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": (1, "NaN")}
    print_json(document)
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": [None, 1.5], "b": {"c": None}, "d": [1, "NaN"]}
    assert out.count("\n") == 1


DATA = {
    "text": "book.txt",
    "classify": "reviews.csv",
    "regress": "sensors.csv --id machine --label wear",
    "tag": "train.conllu",
    "translate": "train.en train.de",
    "summarize": "papers.jsonl",
    "transcribe": "recordings",
    "speak": "recordings",
    "vocode": "recordings",
    "caption": "captions.csv",
    "forecast": "sales.csv --horizon 6",
    "music": "chorales",
}
OTHERS = ["none.csv", "book.txt", "images", "recordings", "sensors.csv"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with data of every kind, and a run of every task that has its command's name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        write_data(Path())
        assert set(DATA) == {task.command for task in TASKS}, "DATA: what each `train` reads"
        for task, data in DATA.items():
            budget = "--steps 4" if task == "text" else "--epochs 1"
            words = f"train {task} {data} --out {task} --hidden-size 8 {budget} --quiet"
            with pytest.raises(SystemExit) as end:
                cli.main(words.split())
            assert end.value.code == 0, task
        yield


def assert_done_or_refused(result, words):
    lines = [line for line in result.err.splitlines() if not line.startswith("warning: ")]
    if words.endswith("--live"):
        lines = [line for line in lines if not line.startswith("listening: ")]
    assert result.status in (0, 2), words
    assert len(lines) == (result.status == 2), (words, result.err)


@pytest.mark.thorough
@pytest.mark.parametrize("task", DATA)
def test_every_command_does_its_work_or_ends_in_a_line(task, runs, ostinato, monkeypatch):
    own = DATA[task].split()[0]
    for command in ASKING:
        if command.protocol not in task_of(task).protocols:
            continue
        more = {"generate": "--length 3", "compose": "--out x.mid"}
        more |= dict.fromkeys(("speak", "vocode"), "--out x.wav")
        more = more.get(command.name, "")
        for data in ["", own, *OTHERS, f"{own} --plot x.png", f"{own} --json", "--live"]:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one two\n")))
            words = f"{command.name} {task} {data} {more}"
            assert_done_or_refused(ostinato(words), words)


@pytest.mark.thorough
def test_a_run_is_resumed_by_the_command_of_its_task_alone(runs, ostinato):
    for task in DATA:
        for other in DATA:
            result = ostinato(f"train {task} --resume --out {other} --quiet")
            if other == task:
                assert result == (0, "", "")
            else:
                assert_refused(result, f"ostinato train {other} --resume --out {other}")
