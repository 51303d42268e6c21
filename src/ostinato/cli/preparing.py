"""``ostinato prepare``: a command for each task that prepares data for any number of runs."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ostinato
from ostinato.cli.commands import (
    COMMANDS,
    PREPARE,
    TRAIN,
    Command,
    command,
    print_json,
    with_settings,
)
from ostinato.cli.options import Option, options_of
from ostinato.cli.training import fit_options
from ostinato.data.lazy import Lazy
from ostinato.errors import OstinatoError
from ostinato.files import check_new_folder, check_there
from ostinato.memory import peak_memory
from ostinato.tasks.registry import TASKS, Task

if TYPE_CHECKING:
    from ostinato.cli import sources
    from ostinato.tasks import prepared
else:
    sources, prepared = Lazy("ostinato.cli.sources"), Lazy("ostinato.tasks.prepared")

OWNERS = {"InputSettings", "ReadingSettings", "TableSettings", "PairSettings", "SpeechSettings",
          "SeriesSettings"}  # fmt: skip
"""Classes whose settings all shape data."""

SHAPING = {
    *("level", "vocabulary_size", "min_count", "unknown", "shared", "longest", "crf", "cell"),
    *("bidirectional", "affix_size", "image", "steps_per_beat", "validation_fraction", "seed"),
    *("symbols", "language", "lowercase", "rate", "bands", "frames_per_step", "trim"),
    *("guided_epochs",),
}
"""Other settings that do, by name."""

FREE = {
    "forecast": {
        *("season", "long_season", "calendar"),
        *("cell", "bidirectional", "seed", "validation_fraction"),
    }
}
"""Settings of a task that do not."""


def prepare(
    task: Task,
    /,
    *files: Path,
    out: Path,
    config: Path | None = None,
    json: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> int:
    """Prepare data.

    Args:
        task: the row of the registry.
        files: files or folders.
        out: folder of the prepared data, created; or one of an earlier call, which is continued,
            reused, or prepared again where the files have changed.
        config: TOML file with any of these options; those given here take precedence.
        json: print one JSON object per line.
        quiet: print nothing but warnings.
        **settings: of the estimator and its ``fit``, as far as they shape data.
    """
    if not files:
        raise OstinatoError(f"prepare {task.command}: FILES is required.")
    check_new_folder(out)
    check_there(files)
    how = {o.name: settings.pop(o.name) for o in fit_options(task) if o.name in settings}
    estimator = getattr(ostinato, task.estimator)(**settings)
    shown_by = "json" if json else "quiet" if quiet else "auto"
    estimator.prepare(list(files), out=out, progress=shown_by, **how)
    found = prepared.PreparedFolder.open(out)
    facts, size = found.facts, found.size
    if json:
        print_json({"event": "end", "folder": str(out), "bytes": size, "facts": facts})
    elif not quiet:
        what = next(name for name in ("sequences", "series", "tokens") if name in facts)
        most = peak_memory()
        told = [*([facts["columns"]] if "columns" in facts else []), *facts.get("notes", ())]
        print(*told, sep="\n", end="\n" * bool(told))
        print(f"{out}: {facts[what]:,} {what} to train on, {size / 1e6:,.1f} MB"
              + (f"; memory {most / 2**20:,.0f} MB at most" if most else ""))  # fmt: skip
        print(f"Next:      ostinato train {task.command} {shlex.quote(str(out))} --out run")
    return 0


def _options(task: Task) -> list[Option]:
    own = [option for option in options_of(__name__, "prepare") if option.name != "task"]
    settings = with_settings(own + fit_options(task), task.estimator)
    free = FREE.get(task.command, set())
    return [
        o
        for o in settings
        if o.owner in OWNERS or o.name in SHAPING or o.owner[0].islower()
        if o.name not in free
    ]


@command(TRAIN, "prepare")
def suggest(*files: Path) -> None:
    """Prepare data once, for any number of runs.

    Reads the files, and says which tasks fit, with the command for each. After the name of a task
    the command prepares: data may be larger than memory.

    Args:
        files: files or folders.

    Examples:
        ostinato prepare reviews.csv
        ostinato prepare recordings/
    """
    for each in sources.fitting(files):
        print(f"{each.told(files, 'prepare', 'prepared')}\n")


for _task in TASKS:
    _name = f"prepare {_task.command}"
    _example = "--parts" if _task.command == "forecast" else "--validation-fraction 0.05"
    _text = f"""Prepare data for train {_task.command}.

    Data are read a chunk at a time, encoded into memory-mapped shards with checksums, and may be
    larger than memory: also folders of tables (Parquet, CSV, JSON lines), and tar archives of
    samples. After Ctrl-C or a kill the same command goes on; data that have not changed are not
    prepared again. Then: ostinato train {_task.command} prepared --out run, as often as you like.

    Examples:
        ostinato prepare {_task.command} FILES --out prepared
        ostinato prepare {_task.command} FILES --out prepared {_example}
    """
    COMMANDS[_name] = Command(
        _name, partial(prepare, _task), _text, PREPARE, partial(_options, _task)
    )
