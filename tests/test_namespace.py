"""The public namespace: few names, each where its list says, and nothing heavy on import."""

import ast
import inspect
import subprocess
import sys

import pytest

import ostinato
from ostinato import cells, networks
from ostinato.recurrence import cells as engine
from ostinato.tasks.registry import TASKS

HEAVY = {"torch", "numpy", "scipy", "sklearn", "safetensors", "pandas", "cyclopts", "rich"}


def test_type_checkers_see_what_is_imported_lazily():
    (block,) = [n for n in ast.parse(inspect.getsource(ostinato)).body if isinstance(n, ast.If)]
    homes = {alias.asname: node.module for node in block.body for alias in node.names}
    modules = [name for name, home in homes.items() if home == "ostinato"]
    assert {name: homes[name] for name in homes if name not in modules} == ostinato._HOME
    assert sorted([*homes, "load"]) == sorted(ostinato.__all__)


@pytest.mark.parametrize("name", ostinato.__all__)
def test_every_name_is_there_and_documented(name):
    assert inspect.getdoc(getattr(ostinato, name))
    assert name in dir(ostinato)


def test_the_root_holds_few_names_and_every_task():
    assert len(ostinato.__all__) < 30
    assert {task.estimator for task in TASKS} < set(ostinato.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'LSTMCell'"):
        ostinato.LSTMCell  # noqa: B018


def test_every_cell_and_state_is_in_cells():
    kinds = [kind for _, kind in inspect.getmembers(engine, inspect.isclass)]
    names = {k.__name__ for k in kinds if issubclass(k, engine.Cell) or "State" in k.__name__}
    assert {name for name in names if name[0] != "_"} - {"State"} <= {*cells.__all__}
    for module in (cells, networks):
        assert sorted(module.__all__) == sorted({*module.__all__})
        assert all(inspect.getdoc(getattr(module, name)) for name in module.__all__)


def test_importing_is_light():
    code = "import sys, ostinato; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {*done.stdout.split()}
    assert "importlib.metadata" not in done.stdout.split()
