"""What commands share: which command suits which run, and what is printed."""

import json

import pytest
from command_line import assert_refused

import ostinato as package
from ostinato import cli
from ostinato.cli.commands import COMMANDS, GROUPS, listed, print_json
from ostinato.tasks import base
from ostinato.tasks.registry import TASKS

ASKING = [command for command in COMMANDS.values() if command.protocol]


def test_every_task_has_a_command_that_trains_and_one_that_uses_it():
    assert [command.name for command in listed(GROUPS[0])] == [f"train {t.command}" for t in TASKS]
    for task in TASKS:
        able = {command.name for command in ASKING if command.protocol in task.protocols}
        assert able & {command.name for command in listed(GROUPS[1])}, task
        assert task.next.split()[1] in able
    assert all(hasattr(base, command.protocol) for command in ASKING)


@pytest.mark.parametrize("command", ASKING, ids=lambda command: command.name)
def test_a_command_for_another_task_is_one_line_and_loads_nothing(command, ostinato, monkeypatch):
    loaded = []
    monkeypatch.setattr(package, "load", lambda run: loaded.append(run) or 1 / 0)
    more = {"gates": ["text"], "compose": ["--out", "x.mid"]}.get(command.name, [])
    for task in TASKS:
        monkeypatch.setattr(package, "describe", lambda run, name=task.estimator: {"task": name})
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
