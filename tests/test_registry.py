"""One row per task says what the package, the command line and the docs derive from it."""

import importlib
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from test_layering import SHARED_BY_TASKS

from ostinato.insight.influence import ScoringNetwork
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
    rows = {task.module.split(".")[2] for task in TASKS}
    assert rows == modules, "a module of tasks/ is a row of TASKS in tasks/registry.py"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.command)
def test_a_row_is_true(task):
    kind = getattr(importlib.import_module(task.module), task.estimator)
    assert kind.__module__ == task.module
    assert "{run}" in task.next
    assert task.help.splitlines()[0].endswith(".")
    fulfilled = {name for name in PROTOCOLS if fulfils(kind, getattr(base, name))}
    assert set(task.protocols) == fulfilled, f"protocols of {task.estimator} in tasks/registry.py"


def fulfils(kind, protocol):
    """Whether a class has the methods of a protocol, and builds a network of the kind it names."""
    methods = {m for m, f in vars(protocol).items() if callable(f) and not m.startswith("_")}
    network = get_type_hints(protocol).get("network_", object)
    built = get_type_hints(kind._build)["return"]
    allowed = get_args(network) or (network,)
    fits = all(issubclass(each, allowed) for each in get_args(built) or (built,))
    return methods <= set(dir(kind)) and fits


def test_memory_is_measured_of_the_networks_that_insight_knows():
    assert get_args(get_type_hints(base.StepScorer)["network_"]) == get_args(ScoringNetwork)
