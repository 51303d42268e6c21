"""Signatures and docstrings of the package's own code, read without running it.

The command line takes its flags, types, defaults and help from the estimators. Importing an
estimator imports PyTorch, which takes seconds; its source says the same in milliseconds.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docstring_parser import DocstringStyle, parse

REQUIRED = object()
"""The default of an option that has none."""


@dataclass(frozen=True)
class Option:
    """An argument of a callable.

    Args:
        name: its name.
        annotation: its type.
        default: its default; `REQUIRED` if it has none.
        help: what its docstring says.
        owner: name of the class or function that declares it.
    """

    name: str
    annotation: Any
    default: Any
    help: str
    owner: str


def options_of(module: str, name: str) -> list[Option]:
    """Arguments of a dataclass (its bases' first), a function, or a method, as ``Class.method``.

    >>> settings = {o.name: o for o in options_of("ostinato.training.settings", "TrainingSettings")}
    >>> settings["learning_rate"].default, settings["learning_rate"].annotation
    (0.003, <class 'float'>)
    """
    source = _source(module)
    node = source.definition(name)
    helps = {p.arg_name: p.description or "" for p in _docstring(node).params}
    fields: list[tuple[str, ast.expr | None, ast.expr | None]]
    options = []
    if isinstance(node, ast.ClassDef):
        for base in node.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            home = source.home_of(plain.id) if isinstance(plain, ast.Name) else None
            if home is not None:
                options += options_of(home, plain.id)  # type: ignore[attr-defined]
        is_dataclass = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
        fields = [
            (item.target.id, item.annotation, item.value)
            for item in node.body
            if is_dataclass
            and isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
        ]
    else:
        arguments = [*node.args.posonlyargs, *node.args.args]
        missing = [None] * (len(arguments) - len(node.args.defaults))
        defaults = [*missing, *node.args.defaults, *node.args.kw_defaults]
        fields = [
            (argument.arg, argument.annotation, default)
            for argument, default in zip([*arguments, *node.args.kwonlyargs], defaults, strict=True)
            if argument.arg not in ("self", "cls")
        ]
    found = {option.name: option for option in options}
    for field, annotation, default in fields:
        value = REQUIRED if default is None else source.value_of(default)
        meant = Any if annotation is None else source.value_of(annotation)
        help = " ".join(helps.get(field, "").split())
        found[field] = Option(field, meant, value, help, node.name)
    return list(found.values())


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> Any:
    return parse(ast.get_docstring(node) or "", style=DocstringStyle.GOOGLE)


@cache
def _source(module: str) -> _Source:
    return _Source(module)


class _Source(Mapping[str, Any]):
    """A module's names, each evaluated from its source when it is asked for."""

    def __init__(self, module: str) -> None:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None, module
        self.module = module
        self.tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))

    def definition(self, name: str) -> ast.ClassDef | ast.FunctionDef:
        """The class or function ``name``; a method as ``Class.method``."""
        body: list[ast.stmt] = self.tree.body
        for part in name.split("."):
            found = [
                node
                for node in body
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part
            ]
            (node,) = found
            body = node.body
        return node

    def home_of(self, name: str) -> str | None:
        """The module of the package that defines ``name``; None if it comes from elsewhere."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self.module
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ostinato."):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return node.module
        return None

    def value_of(self, node: ast.expr) -> Any:
        """What an annotation or a default means."""
        code = compile(ast.Expression(node), self.module, "eval")
        return eval(code, {"__builtins__": {}}, self)

    def __getitem__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        for node in self.tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return self.value_of(node.value)
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        if node.module.startswith("ostinato."):
                            return _source(node.module)[alias.name]
                        return getattr(importlib.import_module(node.module), alias.name)
            if isinstance(node, ast.Import) and any(alias.name == name for alias in node.names):
                return importlib.import_module(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
