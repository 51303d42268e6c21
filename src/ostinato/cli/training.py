"""``ostinato train``: a command for each task."""

from __future__ import annotations

import json as jsons
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ostinato
from ostinato.cli.commands import (
    COMMANDS,
    TRAIN,
    Command,
    command,
    print_json,
    shown,
    with_settings,
)
from ostinato.cli.options import REQUIRED, Kind, Option, options_of
from ostinato.data.lazy import Lazy
from ostinato.errors import OstinatoError
from ostinato.files import (
    PREPARED_FILE,
    RUN_FILE,
    check_new_folder,
    check_there,
    is_prepared,
    refuse_to_overwrite,
)
from ostinato.launch import launch
from ostinato.memory import peak_memory
from ostinato.tasks.registry import TASKS, Task, task_of

if TYPE_CHECKING:
    from ostinato.cli import sources
else:
    sources = Lazy("ostinato.cli.sources")


def train(
    task: Task,
    /,
    *files: Path,
    out: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    config: Path | None = None,
    json: bool = False,
    quiet: bool = False,
    tensorboard: bool = False,
    **settings: Any,
) -> int:
    """Train an estimator.

    Args:
        task: the row of the registry.
        files: files or folders; - reads standard input.
        out: folder of the run, created: model, checkpoints, metrics and learning curve.
        resume: continue the run in --out, which keeps its data and settings.
        dry_run: train nothing: print what was read, what would be chosen, and how long training
            would take. Needs no --out.
        config: TOML file with any of these options; those given here take precedence.
        json: print one JSON object per line.
        quiet: print nothing but warnings.
        tensorboard: write curves for TensorBoard.
        **settings: of the estimator and its ``fit``.
    """
    if not files and not resume:
        raise OstinatoError(f"train {task.command}: FILES is required; - reads standard input.")
    how = {o.name: settings.pop(o.name) for o in fit_options(task) if o.name in settings}
    out = Path("run") if out is None else out
    place, data = launch(), None
    if dry_run and place.rank:
        return 0
    resume = resume or (place.restarts > 0 and (out / RUN_FILE).exists())
    if not resume and place.rank == 0:  # said before PyTorch is imported, which takes seconds
        if not dry_run:
            refuse_to_overwrite(out)
            check_new_folder(out)
        check_there(files)
        settings = prepared_settings(files, task) | settings
        data = sources.read(task.source, files, settings)
        if "validation" in how:
            how["validation"] = sources.read(task.source, how["validation"], settings)
    estimator, folder = getattr(ostinato, task.estimator), shlex.quote(str(out))
    shown_by = {"progress": "json" if json else "quiet" if quiet else "auto"}
    try:
        if dry_run:
            plan = estimator(**settings).plan(data, **how)
            if json:
                print_json(plan._asdict() | {"pace": plan.pace._asdict()})
            else:
                print(plan)
            return 0
        if resume and place.rank == 0:
            found = task_of(ostinato.describe(out, weights=False)["task"])
            if found not in (task, None):
                raise OstinatoError(
                    f"train {task.command}: {out} is a run of {found.estimator}; to continue it: "
                    f"ostinato train {found.command} --resume --out {folder}"
                )
        if resume:
            model = estimator.resume(out, **shown_by, tensorboard=tensorboard, **settings)
        else:
            model = estimator(**settings)
            model.fit(data, out=out, **how, **shown_by, tensorboard=tensorboard)
    except OSError as error:
        if error.filename is None and error.strerror:
            raise OstinatoError(f"{out}: {error.strerror}.") from error
        raise
    facts = model.training_
    if facts["ended"] == "interrupt":
        print(
            f"Stopped at step {facts['steps']:,}. "
            f"To continue:  ostinato train {task.command} --resume --out {folder}",
            file=sys.stderr,
        )
        return 130
    if not json and not quiet:
        _report(facts, out)
        print(f"Next:      {task.next.format(run=folder)}")
    return 0


def _report(facts: dict[str, Any], out: Path) -> None:
    seconds, most = facts["seconds"], peak_memory()
    took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    print(
        f"\nTrained for {took}, {facts['steps']:,} steps; "
        f"{out}/ holds the best model, of step {facts['best_step']:,}"
    )
    if most is not None:
        print(f"  memory   {most / 2**20:,.0f} MB at most")
    for name, value in facts.get("validation", {}).items():
        print(f"  {name.replace('_', ' '):<8} {shown(value)} on validation data")
    for name, file in (("curve", "learning_curve.png"), ("metrics", "metrics.jsonl")):
        if (out / file).exists():
            print(f"  {name:<8} {out}/{file}")


def prepared_settings(files: Sequence[Path], task: Task) -> dict[str, Any]:
    """Return the settings that data were prepared with; none for other data."""
    if len(files) != 1 or not is_prepared(files[0]):
        return {}
    try:
        settings = jsons.loads((files[0] / PREPARED_FILE).read_bytes())["settings"]
        known = {option.name for option in options_of(task.module, task.estimator)}
        return {name: value for name, value in settings.items() if name in known}
    except (OSError, ValueError, LookupError, AttributeError):
        return {}  # which is said when the data are opened


def fit_options(task: Task) -> list[Option]:
    """Return what ``fit`` takes beside the data and what every command has."""
    files = Kind(Path, repeated=True)
    changes: dict[str, dict[str, Any]] = {
        "pattern": {"help": "which files of a folder are read."},
        "validation": {"kind": files, "help": "files to validate on; repeat it for several."},
    }
    options = options_of(task.module, f"{task.estimator}.fit")
    return [o._replace(**changes[o.name]) for o in options if o.name in changes]


def _options(task: Task) -> list[Option]:
    own = [option for option in options_of(__name__, "train") if option.name != "task"]
    own = [o._replace(default=REQUIRED) if o.name == "out" else o for o in own]
    return with_settings(own + fit_options(task), task.estimator)


@command(TRAIN, "train")
def suggest(*files: Path) -> None:
    """Say which tasks fit some data, with the command for each.

    Reads the files, and trains nothing. After the name of a task the command trains.

    Args:
        files: files or folders.

    Examples:
        ostinato train reviews.csv
        ostinato train recordings/
    """
    found = sources.fitting(files)
    names = ", ".join(map(str, files))
    print(f"{names}: {'one task fits' if len(found) == 1 else 'these tasks fit'}\n")
    for each in found:
        print(f"{each.told(files)}\n")
    print("Add --dry-run to see what would be chosen, and how long it takes.")


for _task in TASKS:
    _name = f"train {_task.command}"
    COMMANDS[_name] = Command(
        _name, partial(train, _task), _task.help, TRAIN, partial(_options, _task)
    )
