"""One row per task says what the package, the command line and the docs derive from it."""

import importlib
from pathlib import Path

import pytest

from ostinato.tasks import base
from ostinato.tasks.registry import TASKS, task_of, tasks_with

SOURCE = Path(base.__file__).parent


def test_names_and_commands_are_unique():
    for names in ([t.estimator for t in TASKS], [t.command for t in TASKS]):
        assert len(set(names)) == len(names)
    assert task_of("nothing") is None and tasks_with("Nothing") == []


def test_every_module_of_a_task_has_a_row():
    shared = {"__init__", "base", "registry", "targets", "networks"}
    modules = {path.stem for path in SOURCE.glob("*.py")} - shared | {"forecasting"}
    assert {task.module.split(".")[2] for task in TASKS} == modules


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.command)
def test_a_row_is_true(task):
    kind = getattr(importlib.import_module(task.module), task.estimator)
    assert kind.__module__ == task.module
    assert "{run}" in task.next
    assert task.help.splitlines()[0].endswith(".")
    for name in task.protocols:
        assert getattr(base, name)._is_protocol
