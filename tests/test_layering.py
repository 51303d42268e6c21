"""An import goes strictly downward, and stands at the top of its module."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "ostinato"

RANKS = {
    "_core": 0,
    "errors": 0,
    "files": 0.5,
    "launch": 0.5,
    "memory": 0.5,
    "recurrence": 1,
    "networks": 2,
    "data": 3,
    "training": 4,
    "tasks": 5,
    "insight": 6,
    "lightning": 5,
    "tuning": 6,
    "cells": 7,
    "deploy": 7,
    "cli": 8,
    "__main__": 9,
}
# `import ostinato` is for what stands above everything that the package offers by name.
ROOT = 7.5
RECURRENCE = ["cells", "diagonal", "scan", "backends", "layers", "dropin", "streams"]
# What all tasks may import; every other module of `tasks` is one of them.
SHARED_BY_TASKS = {
    "base", "corpora", "estimators", "linear", "minirocket", "networks", "prepared", "registry",
    "sequences", "targets", "transcripts", "writing",
}  # fmt: skip


def tree(root: Path) -> dict[str, str]:
    """Return the source of every module below `root`, by name; that of a package ends in `.`."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1]) + "." if parts[-1] == "__init__" else ".".join(parts)
        modules[name] = path.read_text(encoding="utf-8")
    return modules


def imports(module: str, source: str, modules: dict[str, str]) -> Iterator[tuple[int, str, bool]]:
    """Yield line, target and whether it stands in a function or class, for each own import."""

    def resolve(name: str) -> str:
        return f"{name}." if f"{name}." in modules else name

    def targets(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (resolve(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *filter(None, [node.module])])
            for alias in node.names:
                inside = resolve(f"{base}.{alias.name}")
                is_layer = base == "ostinato" and alias.name in RANKS
                yield inside if inside in modules or is_layer else resolve(base)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in {"import_module", "__import__"}:
                yield resolve(str(node.args[0].value))

    def visit(node: ast.AST, nested: bool) -> Iterator[tuple[int, str, bool]]:
        for target in targets(node):
            if target.split(".")[0] == "ostinato":
                yield node.lineno, target, nested
        nested |= isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
        )
        for child in ast.iter_child_nodes(node):
            yield from visit(child, nested)

    return visit(ast.parse(source), nested=False)


def rank(module: str) -> float | None:
    layer = module.rstrip(".").split(".")[1:2]
    return RANKS.get(layer[0]) if layer else ROOT


def objection(module: str, target: str) -> str | None:
    """Say why `module` may not import `target`, or None where it may."""
    here, there = module.split("."), target.split(".")
    if rank(target) is None:
        return f"{there[1]} has no rank: give it one"
    if there[1:2] != here[1:2] or len(here) == 2:
        return None if rank(target) < rank(module) else "is not below it"
    if target.endswith(".") and module.startswith(target):
        return "is the package that holds it"
    if here[-1] == "":  # a package gathers what it holds
        return None
    if here[1] == "tasks" and there[2] not in SHARED_BY_TASKS | {here[2]}:
        return None if here[2] == "registry" else "is another task"
    if here[1] == "recurrence" and there[2] != here[2]:
        if there[2] not in RECURRENCE or here[2] not in RECURRENCE:
            return f"the order within recurrence is {' < '.join(RECURRENCE)}"
        if RECURRENCE.index(there[2]) >= RECURRENCE.index(here[2]):
            return "is not below it"
    return None


def violations(modules: dict[str, str]) -> list[str]:
    found, graph = [], {}
    for module, source in modules.items():
        if module == "ostinato.":  # offers the layers by name, lazily
            continue
        if rank(module) is None:
            found.append(f"{module} has no rank: give it one")
            continue
        for line, target, nested in imports(module, source, modules):
            graph.setdefault(module, set()).add(target)
            why = "stands in a function or class" if nested else objection(module, target)
            if why:
                found.append(f"{module}, line {line}: import of {target}: {why}")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"a circle: {' -> '.join(reversed(error.args[1]))}")
    return found


def test_the_package_keeps_its_layers():
    modules = tree(SOURCE)
    assert "ostinato." in modules
    assert "ostinato.errors" in modules
    assert violations(modules) == []


GOOD = {
    "ostinato.": "def __getattr__(name):\n    from ostinato import cli",
    "ostinato.errors": "import math",
    "ostinato.recurrence.": "from ostinato.recurrence.layers import LSTM",
    "ostinato.recurrence.cells": "from ostinato.errors import OstinatoError",
    "ostinato.recurrence.backends": "from ostinato import _core\nfrom .cells import LSTMCell",
    "ostinato.recurrence.layers": "from ostinato.recurrence import backends, cells",
    "ostinato.networks.": "",
    "ostinato.networks.attention": "",
    "ostinato.networks.seq2seq": "from .attention import Attention\nfrom ..recurrence import scan",
    "ostinato.data.": "from ostinato.networks import inputs",
    "ostinato.data.ragged": "",
    "ostinato.data.batches": "from ostinato.data.ragged import pad",
    "ostinato.training.": "",
    "ostinato.tasks.": "from . import tagging, translation",
    "ostinato.tasks.tagging": "from ostinato.recurrence import LSTM\nimport ostinato.data",
    "ostinato.tasks.translation": "if TYPE_CHECKING:\n    from ..recurrence.cells import Cell",
    "ostinato.tasks.forecasting.": "",
    "ostinato.tasks.forecasting.windows": "",
    "ostinato.tasks.forecasting.forecaster": "from ostinato.tasks.forecasting.windows import W",
    "ostinato.cells": "from ostinato.recurrence.cells import LSTMCell",
    "ostinato.cli.": "from ostinato.cli.app import main",
    "ostinato.cli.app": "import ostinato\nfrom ostinato import __version__, tasks",
}


def test_a_good_package_has_no_violations():
    assert violations(GOOD) == []


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("errors", "import ostinato._core", "is not below it"),
        ("errors", "from ostinato import recurrence", "is not below it"),
        ("errors", "import ostinato.recurrence.cells as cells", "is not below it"),
        ("data.ragged", "from ostinato.training.loop import fit", "is not below it"),
        ("data.ragged", "from ..training import fit", "is not below it"),
        ("data.ragged", "from ostinato import LSTM", "is not below it"),
        ("data.ragged", "import ostinato", "is not below it"),
        ("data.ragged", "from . import pad", "is the package that holds it"),
        ("data.ragged", "from ostinato.data import pad", "is the package that holds it"),
        ("data.ragged", "from .batches import pad", "a circle"),
        ("data.ragged", "if TYPE_CHECKING:\n    import ostinato.tasks", "is not below it"),
        ("data.ragged", "try:\n    import ostinato.cli\nexcept E: pass", "is not below it"),
        ("data.", "from ostinato.training import fit", "is not below it"),
        ("tasks.tagging", "def f():\n    from ostinato.errors import E", "in a function or class"),
        ("tasks.tagging", "async def f():\n    import ostinato.errors", "in a function or class"),
        ("tasks.tagging", "class C:\n    import ostinato.errors", "in a function or class"),
        ("tasks.tagging", "f = lambda: import_module('ostinato.errors')", "in a function or class"),
        ("tasks.tagging", "importlib.import_module('ostinato.cli')", "is not below it"),
        ("tasks.tagging", "from ostinato.tasks.translation import T", "is another task"),
        ("tasks.tagging", "from . import translation", "is another task"),
        ("tasks.tagging", "from .forecasting.windows import W", "is another task"),
        ("tasks.base", "from .tagging import T", "is another task"),
        ("tasks.forecasting.windows", "from ..tagging import T", "is another task"),
        ("tasks.forecasting.windows", "from .forecaster import F", "a circle"),
        ("networks.attention", "from .seq2seq import Decoder", "a circle"),
        ("networks.attention", "from ostinato.data.batches import B", "is not below it"),
        ("recurrence.cells", "from .layers import LSTM", "is not below it"),
        ("recurrence.cells", "from ostinato.recurrence import backends", "is not below it"),
        ("recurrence.layers", "from .helpers import x", "the order within recurrence"),
        ("recurrence.helpers", "from .cells import x", "the order within recurrence"),
        ("recurrence.cells", "import ostinato.utils", "utils has no rank"),
        ("utils", "", "utils has no rank"),
        ("cli.app", "import ostinato.cli", "is the package that holds it"),
    ],
)
def test_a_planted_fault_is_found(module, source, why):
    found = violations(GOOD | {f"ostinato.{module}": source})
    assert any(why in each for each in found), found
