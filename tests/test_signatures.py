"""`ostinato.signatures`: what is read from the source is what Python imports."""

import importlib
import inspect
import subprocess
import sys
from typing import get_type_hints

import pytest

from ostinato.signatures import REQUIRED, options_of
from ostinato.tasks.generation import TextGenerator

GENERATION = "ostinato.tasks.generation"
READ = [
    (GENERATION, "TextGenerator"),
    (GENERATION, "TextGenerator.generate"),
    (GENERATION, "TextGenerator.stream"),
    (GENERATION, "draw_token"),
    ("ostinato.training.settings", "TrainingSettings"),
]
OFFERED = [each for each in READ if each[1] != "TextGenerator.stream"]  # its help is generate's


def imported(module, name):
    thing = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def by_python(module, name):
    """Name, type and default of every argument, as `inspect` and `typing` see them."""
    thing = imported(module, name)
    hints = get_type_hints(thing)
    return [
        (p.name, hints[p.name], REQUIRED if p.default is p.empty else p.default)
        for p in inspect.signature(thing).parameters.values()
        if p.name != "self"
    ]


@pytest.mark.parametrize(("module", "name"), READ)
def test_the_source_says_what_python_imports(module, name):
    read = [(o.name, o.annotation, o.default) for o in options_of(module, name)]
    assert read == by_python(module, name)
    assert [type(default) for *_, default in read] == [
        type(default) for *_, default in by_python(module, name)
    ]


@pytest.mark.parametrize(("module", "name"), [e for e in OFFERED if e[1] != "draw_token"])
def test_every_option_has_its_own_help(module, name):
    helps = {o.name: o.help for o in options_of(module, name)}
    assert all(helps.values()), helps
    assert len(set(helps.values())) == len(helps)
    assert all("\n" not in text and "  " not in text for text in helps.values())
    documented = inspect.getdoc(imported(module, name)) or ""
    if name == "TextGenerator":  # the others are documented where they are declared
        documented += inspect.getdoc(imported("ostinato.training.settings", "TrainingSettings"))
    flat = " ".join(documented.split())
    for option, text in helps.items():
        assert f"{option}: {text}" in flat


def test_no_option_is_documented_that_does_not_exist():
    for module, name in OFFERED:
        section = inspect.getdoc(imported(module, name)).partition("Args:\n")[2]
        listed = [
            line.strip().partition(":")[0]
            for line in section.partition("\n\n")[0].splitlines()
            if line.startswith("    ") and not line.startswith("     ")
        ]
        assert set(listed) <= {option.name for option in options_of(module, name)}


def test_the_owner_of_an_option_is_the_class_that_declares_it():
    owners = {option.name: option.owner for option in options_of(GENERATION, "TextGenerator")}
    assert owners["hidden_size"] == "TextGenerator"
    assert owners["learning_rate"] == "TrainingSettings"
    assert set(owners.values()) == {"TextGenerator", "TrainingSettings"}


def test_generate_and_stream_take_the_same():
    generate, stream = (
        inspect.signature(getattr(TextGenerator, name)).parameters
        for name in ("generate", "stream")
    )
    assert list(generate.values()) == list(stream.values())


SOURCE = '''
from __future__ import annotations
import math as m
import os
from collections.abc import Sequence as Several
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Name = Literal["a", "b"]
Names = Several[Name] | None
WIDTH = 2 * 8
HALF: float = WIDTH / 32


@dataclass(kw_only=True)
class Base:
    """Base.

    Args:
        first: of the base,
            in two lines.
    """

    first: int = -WIDTH
    untyped = 3


@dataclass(kw_only=True)
class Derived(Base, dict):
    """Derived.

    Args:
        second: own: with a colon.
    """

    second: str | os.PathLike[str]
    third: Names = None
    fourth: list[Path] | tuple[int, ...] = ()

    def method(self, a: Name, /, b, c: float = HALF, *, d: bool, e: Several[int] = (1, 2)) -> None:
        """Do.

        Args:
            a: one.
            d: four.
        """

    @classmethod
    def other(cls, x: bytes = b"x") -> None: ...


def function(path: Path, limit: float = 1e9, *, name: Name = "a") -> Derived: ...
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "made_up.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_up"
    sys.modules.pop("made_up", None)


def test_any_module_is_read_as_python_reads_it(module):
    assert {o.name: o.help for o in options_of(module, "Derived")} == {
        "first": "of the base, in two lines.",
        "second": "own: with a colon.",
        "third": "",
        "fourth": "",
    }
    method = {
        o.name: (o.annotation, o.default, o.help) for o in options_of(module, "Derived.method")
    }
    assert module not in sys.modules  # nothing of it was run
    for name in ("Base", "Derived", "Derived.other", "function"):
        read = [(o.name, o.annotation, o.default) for o in options_of(module, name)]
        assert read == by_python(module, name)
    hints = get_type_hints(imported(module, "Derived.method"))
    assert method == {
        "a": (hints["a"], REQUIRED, "one."),
        "b": (method["b"][0], REQUIRED, ""),
        "c": (float, 0.5, ""),
        "d": (bool, REQUIRED, "four."),
        "e": (hints["e"], (1, 2), ""),
    }


def test_a_wrong_default_or_type_would_be_noticed(module, tmp_path):
    """The comparison above can fail: a source that differs from what was imported does."""
    python = by_python(module, "function")
    (tmp_path / "changed.py").write_text(SOURCE.replace("1e9", "1e8").replace('= "a"', '= "b"'))
    read = [(o.name, o.annotation, o.default) for o in options_of("changed", "function")]
    assert [a == b for a, b in zip(read, python, strict=True)] == [True, False, False]


def test_reading_imports_neither_the_module_nor_pytorch():
    code = (
        "import sys; from ostinato.signatures import options_of;"
        f"options_of({GENERATION!r}, 'TextGenerator');"
        f"options_of({GENERATION!r}, 'TextGenerator.generate');"
        f"loaded = {{'torch', 'numpy', 'sklearn', {GENERATION!r}}} & set(sys.modules);"
        "sys.exit(', '.join(loaded) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
