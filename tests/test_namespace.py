"""The public namespace: few names, each where its list says, and nothing heavy on import."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import ostinato
from ostinato import cells, networks
from ostinato.recurrence import cells as engine
from ostinato.tasks import registry

HEAVY = {"torch", "numpy", "scipy", "sklearn", "safetensors", "pandas", "cyclopts", "rich"}


@pytest.mark.parametrize("tasks", [True, False], ids=["tasks", "others"])
def test_type_checkers_see_what_is_imported_lazily(tasks):
    module = registry if tasks else ostinato
    (block,) = [n for n in ast.parse(inspect.getsource(module)).body if isinstance(n, ast.If)]
    seen = {(node.module, a.name) for node in block.body for a in node.names if a.asname == a.name}
    names = {task.estimator for task in registry.TASKS}
    lazily = {(home, name) for name, home in ostinato._HOME.items() if (name in names) == tasks}
    lazily |= set() if tasks else {("ostinato", name) for name in ostinato._MODULES}
    what = [f"from {home} import {name} as {name}" for home, name in lazily - seen]
    assert lazily == seen, f"`if TYPE_CHECKING` of {module.__file__}: {what} missing"


@pytest.mark.parametrize("name", ostinato.__all__)
def test_every_name_is_there_and_documented(name):
    assert inspect.getdoc(getattr(ostinato, name))
    assert name in dir(ostinato)


def test_dir_shows_what_a_user_calls_and_nothing_else():
    found = {name for name in dir(ostinato) if not name.startswith("__")}
    assert found == set(ostinato.__all__)


@pytest.mark.parametrize("task", registry.TASKS, ids=lambda task: task.estimator)
def test_dir_of_an_estimator_shows_what_a_user_calls_sets_or_reads(task):
    model = getattr(ostinato, task.estimator)()
    model.network_ = None
    found = {name for name in dir(model) if not name.startswith("__")}
    expected = {*model.get_params(), "network_", "fit", "save", "load", "resume", "set_params"}
    assert expected <= found
    inner = ("_", "set_fit_request", "get_metadata_routing", "check_settings", "TARGETS")
    assert not [name for name in found if name.startswith(inner) or name.isupper()]


MODULES = [m.name for m in pkgutil.walk_packages(ostinato.__path__, "ostinato.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith(".__main__")])
def test_what_is_public_is_documented_here_or_where_it_is_inherited_from(name):
    own = [m for m in vars(import_module(name)).values() if getattr(m, "__module__", "") == name]
    public = [m for m in own if inspect.isclass(m) or inspect.isfunction(m)]
    public += [
        getattr(kind, attribute)
        for kind in filter(inspect.isclass, own)
        for attribute, value in vars(kind).items()
        if isinstance(value, classmethod | staticmethod | property) or inspect.isfunction(value)
        if attribute[0] != "_" and kind.__name__[0] != "_"
    ]
    bare = [getattr(m, "fget", m) for m in public if not inspect.getdoc(m)]
    names = [each.__qualname__ for each in bare if each.__module__ == name]  # not PyTorch's
    assert not [each for each in names if each[0] != "_" and "<lambda>" not in each]


def test_the_root_holds_few_names_and_every_task():
    names, tasks = {*ostinato.__all__}, {task.estimator for task in registry.TASKS}
    assert tasks < names and len(names - tasks) <= 25
    with pytest.raises(AttributeError, match="has no attribute 'LSTMCell'"):
        ostinato.LSTMCell  # noqa: B018


def test_every_cell_and_state_is_in_cells():
    kinds = [kind for _, kind in inspect.getmembers(engine, inspect.isclass)]
    names = {k.__name__ for k in kinds if issubclass(k, engine.Cell) or "State" in k.__name__}
    assert {name for name in names if name[0] != "_"} - {"State"} <= {*cells.__all__}
    assert "Tensor" not in cells.__all__ and "NamedTuple" not in cells.__all__
    for module in (cells, networks):
        assert sorted(module.__all__) == sorted({*module.__all__})
        assert all(inspect.getdoc(getattr(module, name)) for name in module.__all__)


def test_importing_is_light():
    code = "import sys, ostinato; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {*done.stdout.split()}
    assert "importlib.metadata" not in done.stdout.split()
