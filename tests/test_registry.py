"""One row per task says what the package, the command line and the docs derive from it."""

import importlib
from pathlib import Path

import pytest
from test_layering import SHARED_BY_TASKS

from ostinato.tasks import base
from ostinato.tasks.registry import TASKS, task_of, tasks_with

PROTOCOLS = [
    name
    for name, kind in vars(base).items()
    if getattr(kind, "_is_protocol", False) and kind.__module__ == base.__name__
]
SOURCE = Path(base.__file__).parent


def test_names_and_commands_are_unique():
    for names in ([t.estimator for t in TASKS], [t.command for t in TASKS]):
        assert len(set(names)) == len(names)
    assert task_of("nothing") is None and tasks_with("Nothing") == []


def test_every_module_of_a_task_has_a_row():
    shared = SHARED_BY_TASKS | {"__init__"}
    modules = {path.stem for path in SOURCE.glob("*.py")} - shared | {"forecasting"}
    assert {task.module.split(".")[2] for task in TASKS} == modules


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.command)
def test_a_row_is_true(task):
    kind = getattr(importlib.import_module(task.module), task.estimator)
    assert kind.__module__ == task.module
    assert "{run}" in task.next
    assert task.help.splitlines()[0].endswith(".")
    methods = {
        name: {m for m, f in vars(getattr(base, name)).items() if callable(f) and m[0] != "_"}
        for name in PROTOCOLS
    }
    assert {name for name in PROTOCOLS if methods[name] <= set(dir(kind))} == set(task.protocols)
