"""Options: what is read from the source is what Python imports, and what is typed arrives."""

import importlib
import inspect
import json
import random
import re
import shlex
import string
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from command_line import assert_refused

from ostinato.cli import options
from ostinato.cli.commands import COMMANDS
from ostinato.cli.options import REQUIRED, Kind, help_of, options_of, parse
from ostinato.errors import OstinatoError
from ostinato.tasks.registry import TASKS

GENERATION = "ostinato.tasks.generation"
FLAGS = options_of(GENERATION, "TextGenerator")
CONTROLS = options_of(GENERATION, "TextGenerator.stream")
READ = [
    (GENERATION, "TextGenerator.stream"),
    (GENERATION, "draw_token"),
    ("ostinato.training.settings", "TrainingSettings"),
    *[(task.module, task.estimator) for task in TASKS],
    *[(task.module, f"{task.estimator}.write") for task in TASKS if "TextWriter" in task.protocols],
]


# Reading sources


def imported(module, name):
    thing = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def kind_of(hint):
    """How a value of a type is written, by what `typing` says of it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Kind(str, args)
    if origin in (Union, types.UnionType):
        kinds = [kind_of(arg) for arg in args]
        first = next((kind.type for kind in kinds if kind.type), None)
        choices = tuple(choice for kind in kinds for choice in kind.choices)
        return Kind(first, choices, any(kind.repeated for kind in kinds))
    if origin in (list, Sequence):
        return kind_of(args[0])._replace(repeated=True)
    return Kind(hint) if hint in (int, float, str, bool, Path) else Kind()


def by_python(module, name):
    """Name, kind and default of every argument, as `inspect` and `typing` see them."""
    thing = imported(module, name)
    hints = get_type_hints(thing)
    return [
        (p.name, kind_of(hints[p.name]), REQUIRED if p.default is p.empty else p.default)
        for p in inspect.signature(thing).parameters.values()
        if p.name != "self"
    ]


@pytest.mark.parametrize(("module", "name"), READ)
def test_the_source_says_what_python_imports(module, name):
    options = options_of(module, name)
    assert {o.name for o in options if o.kind.paths} <= {"cell"}  # for Python it is a string
    read = [(o.name, o.kind._replace(paths=False), o.default) for o in options]
    assert read == by_python(module, name)
    assert [type(default) for *_, default in read] == [
        type(default) for *_, default in by_python(module, name)
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_of_its_own(name):
    helps = {option.name: option.help for option in COMMANDS[name].options()}
    assert [option for option, text in helps.items() if not text] == []
    assert len(set(helps.values())) == len(helps)
    assert all("\n" not in text and "  " not in text for text in helps.values())


def test_no_option_is_documented_that_does_not_exist():
    for task in TASKS:
        section = options.section(inspect.getdoc(imported(task.module, task.estimator)), "Args")
        listed = [line.split(":")[0].strip() for line in section.splitlines() if line[4] != " "]
        assert {*listed} <= {option.name for option in options_of(task.module, task.estimator)}


def test_the_owner_of_an_option_is_the_class_that_declares_it():
    owners = {option.name: option.owner for option in FLAGS}
    assert owners["hidden_size"] == "TextGenerator"
    assert owners["learning_rate"] == "TrainingSettings"


SOURCE = '''
from __future__ import annotations
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Name = Literal["a", "b"]
Names = Sequence[Name] | None
HALF: float = 0.5


@dataclass(kw_only=True)
class Base:
    """Base.

    Args:
        first: of the base,
            in two lines.
    """

    first: int = -16
    untyped = 3


@dataclass(kw_only=True)
class Derived(Base, dict):
    """Derived.

    Args:
        second: own: with a colon.
        first: of the derived.
    """

    second: str | os.PathLike[str]
    third: Names = None
    fourth: list[Path] | int = ()

    @property
    def fifth(self) -> int: ...

    def method(self, a: Name, /, b, c: float = HALF, *, d: bool, e: Sequence[int] = (1, 2)) -> None:
        """Do.

        Args:
            a: one.
            d: four.
        """


@dataclass(kw_only=True)
class Further(Derived, Generic[T]):
    """Further."""


@dataclass(kw_only=True)
class Last(Further[int]):
    """Last."""

    sixth: int = 6


def function(path: Path, limit: float = 1e9, *, name: Name = "a") -> Derived: ...


def command(run: Path, /, *files: Path, json: bool = False, **settings: int) -> None: ...
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "made_up.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(options, "SOURCES", tmp_path)
    yield "made_up"
    sys.modules.pop("made_up", None)


def test_any_module_is_read_as_python_reads_it(module):
    assert {o.name: o.help for o in options_of(module, "Derived")} == {
        "first": "of the derived.",
        "second": "own: with a colon.",
        "third": "",
        "fourth": "",
    }
    method = {o.name: (o.kind, o.default, o.help) for o in options_of(module, "Last.method")}
    forms = {o.name: o.form for o in options_of(module, "command")}
    assert module not in sys.modules  # nothing of it was run
    assert forms == {"run": "positional", "files": "several", "json": "keyword"}
    for name in ("Base", "Derived", "Last", "function"):
        read = [(o.name, o.kind, o.default) for o in options_of(module, name)]
        assert read == by_python(module, name)
    assert method == {
        "a": (Kind(str, ("a", "b")), REQUIRED, "one."),
        "b": (Kind(), REQUIRED, ""),
        "c": (Kind(float), 0.5, ""),
        "d": (Kind(bool), REQUIRED, "four."),
        "e": (Kind(int, (), True), (1, 2), ""),
    }


def test_a_wrong_default_or_type_would_be_noticed(module, tmp_path):
    """The comparison above can fail: a source that differs from what was imported does."""
    python = by_python(module, "function")
    (tmp_path / "changed.py").write_text(SOURCE.replace("1e9", "1e8").replace('= "a"', '= "b"'))
    read = [(o.name, o.kind, o.default) for o in options_of("changed", "function")]
    assert [a == b for a, b in zip(read, python, strict=True)] == [True, False, False]


def test_reading_imports_neither_the_module_nor_pytorch():
    code = (
        "import sys; from ostinato.cli.options import options_of;"
        f"options_of({GENERATION!r}, 'TextGenerator');"
        f"options_of({GENERATION!r}, 'TextGenerator.stream');"
        f"loaded = {{'torch', 'numpy', 'sklearn', {GENERATION!r}}} & set(sys.modules);"
        "sys.exit(', '.join(loaded) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Reading what is typed


def another(option):
    """A value of an option's kind that is not its default, as written and as meant."""
    kind: Any = option.kind.type
    if option.kind.choices:
        choice = [choice for choice in option.kind.choices if choice != option.default][-1]
        return choice, choice
    if kind is bool:
        return "", not option.default
    written = {int: "7", float: "0.25"}.get(kind, "x y")
    return written, kind(written)


def flag_of(option, value):
    return option.flag if value is not False else option.flag.replace("--", "--no-")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_arrives_as_its_argument(name):
    listed = COMMANDS[name].options()
    args = ["run"] * sum(o.form == "positional" for o in listed)
    needed = {o.flag: "x" for o in listed if o.form == "keyword" and o.needed}
    for option in [o for o in listed if o.form == "keyword" and o.name != "config"]:
        written, meant = another(option)
        flag = flag_of(option, meant)
        rest = [word for f, v in needed.items() if f != flag for word in (f, v)]
        for words in [[flag, written], [f"{flag}={written}"]] if written else [[flag]]:
            _, given = parse(name, listed, [*args, *rest, *words])
            value = given[option.name]
            assert value == ([meant] if option.kind.repeated else meant)
            assert type(value) is type([meant] if option.kind.repeated else meant)
            assert len(given) == 1 + len(rest) // 2


def test_every_flag_reaches_the_estimator(ostinato, here, asked):
    (here / "a.txt").touch()
    for option in FLAGS:
        written, meant = another(option)
        words = [flag_of(option, meant), *filter(None, [written])]
        assert ostinato("train", "text", "a.txt", "--out", "run", *words).status == 0
        assert asked["settings"] == {option.name: meant}
    for option in CONTROLS:
        written, meant = another(option)
        assert ostinato("generate", "run", option.flag, written).status == 0
        assert asked["controls"] == {option.name: [meant] if option.name == "stop" else meant}


TYPED = {
    "": ([], {}),
    "a b": (["a", "b"], {}),
    "--steps 3 a": (["a"], {"steps": 3}),
    "a --steps=-3 b": (["a", "b"], {"steps": -3}),
    "--rate -1 --rate 2": ([], {"rate": 2.0}),
    "--label a --label=b -": (["-"], {"label": ["a", "b"]}),
    "--on -- --steps -": (["--steps", "-"], {"on": True}),
    "--no-on": ([], {"on": False}),
    "--steps 2.5": "--steps: invalid int value: '2.5'",
    "--steps": "--steps: expected one argument",
    "--rate x": "--rate: invalid float value: 'x'",
    "--kind c": "--kind: invalid choice: 'c' (choose from 'a', 'b')",
    "--on=1": "--on",
    "--stps 3": "unknown option --stps; did you mean --steps?",
    "-x": "unknown option -x; for a file of this name write ./-x",
    "--step 3": "unknown option --step; did you mean --steps?",
}


@pytest.mark.parametrize("typed", TYPED)
def test_options_stand_anywhere_and_the_last_one_counts(typed, tmp_path, monkeypatch):
    source = "def command(*files: str, steps: int = 1, rate: float = 1.0, label: list[str] = (), "
    source += "kind: Literal['a', 'b'] = 'a', on: bool = True): ..."
    (tmp_path / f"typed{abs(hash(typed))}.py").write_text(source)
    monkeypatch.setattr(options, "SOURCES", tmp_path)
    listed = options_of(f"typed{abs(hash(typed))}", "command")
    expected = TYPED[typed]
    if isinstance(expected, str):
        with pytest.raises(OstinatoError) as caught:
            parse("do", listed, typed.split())
        assert str(caught.value).startswith(f"do: {expected}")
    else:
        assert parse("do", listed, typed.split()) == expected


def test_no_heap_of_letters_makes_it_fail(ostinato, here, run):
    """Whatever is typed, the end is 0 or one line."""
    choose = random.Random(0)
    values = ["0", "1", "-1", "2.5", "nan", "inf", "1e400", "", "é", "a b", "--", "-", "x" * 500]
    for _ in range(150):
        argv = ["generate", str(run), "--length=3"]
        for _ in range(choose.randrange(1, 4)):
            argv.append(f"{choose.choice(CONTROLS[2:]).flag}={choose.choice(values)}")
            if choose.random() < 0.3:
                argv.append("".join(choose.choices(string.printable, k=4)))
        result = ostinato(*argv)
        if result.status != 0:
            assert_refused(result)


def test_settings_come_from_a_file_and_flags_win(ostinato, asked, here):
    (here / "a").touch()
    ostinato("train text a --out run --config good.toml")
    from_file = {"hidden_size": 6, "learning_rate": 0.5, "cell": "gru", "unknown": "?"}
    assert asked["settings"] == from_file
    ostinato("train text --config=good.toml a --out run --cell rnn --window 5")
    assert asked["settings"] == {**from_file, "cell": "rnn", "window": 5}
    values = {option.name: another(option)[1] for option in FLAGS}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    (here / "all.toml").write_text("\n".join([*lines, "out = 'elsewhere'", "json = true"]))
    ostinato("train text a --config all.toml")
    assert asked["settings"] == values
    assert asked["fit"][1]["out"] == Path("elsewhere")
    assert asked["fit"][1]["progress"] == "json"
    ostinato("train text a --out run")
    assert asked["settings"] == {}  # a file counts for its own command alone


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole_and_fits_a_terminal(name):
    command = COMMANDS[name]
    shown = help_of(name, command.text, command.options())
    assert max(map(len, shown.splitlines())) <= 80
    flat = " ".join(re.sub(r"(?<=\w-)\n\s+", "", shown).split())
    summary = command.text.splitlines()[0]
    assert summary.endswith(".") and summary[0].isupper() and summary in flat
    for option in command.options():
        assert option.help in flat
        if option.form == "keyword":
            rest = flat[flat.index(f" {option.flag}", flat.index(" options: ")) :]
            assert all(choice in rest for choice in option.kind.choices)
            if option.kind.type is not bool and option.default not in (REQUIRED, None, (), ""):
                assert f"[default: {option.default}]" in rest


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_help_can_be_typed(name):
    command = COMMANDS[name]
    lines = options.section(options.cleaned(command.text), "Examples").splitlines()
    assert len(lines) >= 2
    for line in lines:
        words = shlex.split(line.partition(f"ostinato {name} ")[2].partition(" | ")[0])
        assert words, line
        args, given = parse(name, command.options(), words)
        assert args or given
