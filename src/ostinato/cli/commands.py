"""What a command is, and what commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import ostinato
from ostinato.cli.options import REQUIRED, Option, options_of
from ostinato.errors import OstinatoError
from ostinato.files import finite
from ostinato.tasks.registry import task_of

if TYPE_CHECKING:
    from ostinato.tasks.base import TextSampler

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(NamedTuple):
    """A command: a function whose signature gives the options, and its help.

    Attributes:
        name, group: as it is typed, and its heading in the list of commands.
        call: the function; its first argument is the folder of a run, if it asks for a protocol.
        text: help: a line, further lines, and a section ``Examples:``.
        options: reads its arguments and options.
        protocol: what the task of the run must fulfil, by its name in `ostinato.tasks.base`.
    """

    name: str
    call: Callable[..., int | None]
    text: str
    group: str
    options: Callable[[], list[Option]]
    protocol: str | None = None


GROUPS = START, TRAIN, USE, LOOK = (
    "Start here",
    "Train a model",
    "Use a model",
    "Look inside a model",
)

TUNE = "Search for settings"
"""The heading of the commands that tune a task, in the help of ``ostinato tune`` alone."""

PREPARE = "Prepare data"
"""The heading of the commands that prepare data for a task, in the help of ``ostinato prepare``."""

TASKED = {"train": TRAIN, "tune": TUNE, "prepare": PREPARE}
"""First words of the commands whose second word is a task, and their headings."""

COMMANDS: dict[str, Command] = {}
"""Every command by its name."""


def listed(group: str | None = None) -> list[Command]:
    """Return the commands of a group, or all, in the order of help."""
    groups = GROUPS if group is None else [group]
    return [each for group in groups for each in COMMANDS.values() if each.group == group]


def command(
    group: str,
    name: str = "",
    text: str = "",
    *,
    protocol: str | None = None,
    settings: tuple[str, str] | None = None,
) -> Callable[[Function], Function]:
    """Make a function a command; its name and docstring are the command's, if not given.

    The keyword arguments of ``settings``, an estimator and its method, are options, too.
    """

    def add(function: Function) -> Function:
        def options() -> list[Option]:
            own = options_of(function.__module__, function.__name__)
            return own if settings is None else with_settings(own, *settings)

        typed, help = name or function.__name__, text or function.__doc__ or ""
        COMMANDS[typed] = Command(typed, function, help, group, options, protocol)
        return function

    return add


def with_settings(own: list[Option], estimator: str, method: str = "") -> list[Option]:
    """Return the options of a command, and after them those of an estimator or of a method.

    Of the estimator's classes the most specific comes first. What has no default is data.
    """
    task = task_of(estimator)
    assert task is not None, estimator
    names = {option.name for option in own}
    more = [
        option
        for option in options_of(task.module, f"{estimator}.{method}".rstrip("."))
        if option.default is not REQUIRED and option.name not in names
    ]
    owners = dict.fromkeys(option.owner for option in reversed(more))
    return own + [option for owner in owners for option in more if option.owner == owner]


def can(run: Path, protocol: str) -> bool:
    """Return whether the task of the model in a folder fulfils a protocol."""
    task = task_of(ostinato.describe(run, weights=False)["task"])
    return task is not None and protocol in task.protocols


def refuse_wrong_task(asked: Command, run: Path) -> None:
    """Raise an `OstinatoError` if the model in a folder cannot do what a command asks for."""
    task = task_of(ostinato.describe(run, weights=False)["task"])
    if task is not None and asked.protocol not in task.protocols:
        able = [each.name for each in listed() if each.protocol in task.protocols]
        raise OstinatoError(
            f"{asked.name}: {run} holds a {task.estimator}; commands for it: {', '.join(able)}."
        )


def language_model(asked: str, run: Path | None) -> TextSampler | None:
    """Return the language model in a folder, that a command is given; None if it is given none."""
    if run is None:
        return None
    if not can(run, "TextSampler"):
        raise OstinatoError(f"{asked} --language {run}: expected a model of train text.")
    model: TextSampler = ostinato.load(run)
    return model


def print_json(document: Any) -> None:
    """Print a document as one line of JSON, in ASCII; null stands for numbers not finite."""
    print(json.dumps(finite(document), allow_nan=False))


def shown(value: Any) -> str:
    """Return a value as people read it.

    >>> shown(1234567), shown(0.123456), shown("gru")
    ('1,234,567', '0.1235', 'gru')
    """
    return {int: "{:,}", float: "{:.4g}"}.get(type(value), "{}").format(value)
