"""``ostinato tune``: a command for each task that searches for its settings."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ostinato
from ostinato.cli.commands import (
    COMMANDS,
    TRAIN,
    TUNE,
    Command,
    command,
    print_json,
    shown,
    with_settings,
)
from ostinato.cli.options import Option, options_of
from ostinato.cli.training import fit_options
from ostinato.data.lazy import Lazy
from ostinato.errors import OstinatoError
from ostinato.files import check_new_folder, check_there
from ostinato.tasks.registry import TASKS, Task
from ostinato.tuning.space import changed, read_space, space_of, to_toml

if TYPE_CHECKING:
    from ostinato.cli import sources
    from ostinato.tuning.study import Tuned
else:
    sources = Lazy("ostinato.cli.sources")


def tune(
    task: Task,
    /,
    *files: Path,
    out: Path | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    space: Path | None = None,
    show_space: bool = False,
    storage: str | None = None,
    retrain: bool = False,
    config: Path | None = None,
    json: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> int:
    """Search for settings.

    Args:
        task: the row of the registry.
        files: files or folders to train on.
        out: folder of the study, created, or continued if it holds one. Several processes may work
            on one at the same time.
        trials: trials of the study, those of earlier calls included; 20 if there is no limit.
        minutes: minutes of this call. A trial that is cut off is continued by the next.
        space: TOML file that changes the search space; in the form that --show-space prints.
        show_space: print the search space as TOML, and end.
        storage: URL of a database for the study, so that several machines can share it.
        retrain: train the best settings once more, on all data.
        config: TOML file with any of these options; those given here take precedence.
        json: print one JSON object per line.
        quiet: print nothing but warnings.
        **settings: of the estimator and its ``fit``; what is given is not searched.
    """
    name, usual = f"tune {task.command}", space_of(task.command)
    where, fixed = changed(usual, {}) if space is None else read_space(space, usual)
    fixed |= {n: value for n, value in settings.items() if n in where}
    where, _ = changed(where, fixed)
    if show_space:
        print(to_toml(where), end="")
        return 0
    if out is None or not files:
        what = "FILES is required." if not files else "--out PATH is required: the study's folder."
        raise OstinatoError(f"{name}: {what}")
    check_new_folder(out)
    check_there(files)
    given = {**settings, **fixed}
    how = {o.name: settings.pop(o.name) for o in fit_options(task) if o.name in settings}
    data = sources.read(task.source, files, settings)
    if task.command == "text":
        data = sources.read_pattern(files, how.pop("pattern", "*.txt"))
    if "validation" in how:
        how["validation"] = sources.read(task.source, how["validation"], settings)
    found: Tuned = ostinato.tune(
        getattr(ostinato, task.estimator)(**{**settings, **fixed}),
        data,
        out=out,
        trials=trials,
        minutes=minutes,
        space={**where, **fixed},
        storage=storage,
        retrain=retrain,
        progress="json" if json else "quiet" if quiet else "auto",
        **how,
    )
    chosen = {**given, **found.settings}
    if found.model is not None:  # as many as every trial had
        chosen["evaluations"] = found.model.evaluations
    again = shlex.join(["ostinato", "train", task.command, *map(str, files), *_flags(chosen)])
    if json:
        facts = found._asdict() | {"trials": len(found.trials) - 1, "command": again}
        del facts["model"]
        print_json({"event": "end"} | facts)
    elif not quiet:
        _report(found, out, again)
    if found.ended == "interrupt":
        print("Stopped. The same command goes on.", file=sys.stderr)
        return 130
    return 0


def _report(found: Tuned, out: Path, again: str) -> None:
    defaults = f"{found.metric} {shown(found.defaults)}"
    print()
    if found.settings:
        print(f"Best: {found.metric} {shown(found.score)}; the settings as given: {defaults}")
    else:
        print(f"The settings as given are best: {defaults}")
    print(f"  model    {found.model.folder_}" if found.model else "  model    on another machine")
    print(f"  trials   {out}/trials.csv")
    pictures = [name for name in ("history", "importance", "parallel") if
                (out / f"{name}.png").exists()]  # fmt: skip
    if pictures:
        print(f"  pictures {', '.join(f'{out}/{name}.png' for name in pictures)}")
    if found.settings:
        print(f"Again:     {again} --out RUN")


def _flags(settings: Mapping[str, Any]) -> Sequence[str]:
    """Return settings as options of the command line."""
    found: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        for each in value if isinstance(value, list) else [value]:
            found += [f"--{flag}", str(each)]
    return found


def _options(task: Task) -> list[Option]:
    own = [option for option in options_of(__name__, "tune") if option.name != "task"]
    return with_settings(own + fit_options(task), task.estimator)


@command(TRAIN, "tune")
def suggest(*files: Path) -> None:
    """Search for the best settings of a task.

    Reads the files, and says which tasks fit, with the command for each. Trains nothing; after the
    name of a task the command searches.

    Args:
        files: files or folders.

    Examples:
        ostinato tune reviews.csv
        ostinato tune recordings/
    """
    for each in sources.fitting(files):
        print(f"{each.told(files, 'tune', 'study')}\n")


for _task in TASKS:
    _name = f"tune {_task.command}"
    _first = f"Search for settings of train {_task.command}."
    _text = f"""{_first}

    Settings as given are tried first; then trials with settings that TPE proposes (Optuna), each of
    them an ordinary run in STUDY/trials, of which those that fall behind end early. Judged by the
    metric of the task on validation data. Ctrl-C stops; the same command goes on.

    Examples:
        ostinato tune {_task.command} FILES --out study --trials 30
        ostinato tune {_task.command} --show-space > space.toml
    """
    COMMANDS[_name] = Command(_name, partial(tune, _task), _text, TUNE, partial(_options, _task))
