"""Kills training with SIGKILL, goes on with it, and compares with a run that nobody killed.

Prints a line of JSON for every trial. Some are killed at a random moment; some while they save, at
a chosen call of fsync, rename or replace, where the process stops until it is killed; some twice.
What must be equal: the record of every step and evaluation but for its times, the weights bit for
bit, and the rest of the model.

    OMP_NUM_THREADS=1 python tests/kill_and_resume.py FOLDER [TRIALS]
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import torch
import torch._dynamo  # which an optimizer imports: once here, and not in every process

from ostinato import TextGenerator
from ostinato.errors import OstinatoError
from ostinato.training import storage
from ostinato.training.checkpoints import Checkpoints

SETTINGS: dict[str, Any] = {
    "hidden_size": 12,
    "num_layers": 2,
    "dropout": 0.2,
    "variational_dropout": 0.1,
    "window": 8,
    "batch_size": 8,
    "steps": 30,
    "warmup_steps": 5,
    "evaluations": 4,
    "schedule": "plateau",
    "decay_patience": 1,
    "checkpoint_minutes": 1e-9,
}
CALLS = ("fsync", "rename", "replace")


def make_text() -> str:
    words = ["the", "rain", "in", "spain", "stays", "mainly", "plain", "and", "falls", "again"]
    draw = random.Random(5)
    return " ".join(draw.choice(words) for _ in range(500))


class Saving:
    """Notes every call of `CALLS` with what saves there, and stops for ever at one of them."""

    def __init__(self, stop_at: int | None, pipe: int) -> None:
        self.stop_at = stop_at
        self.pipe = pipe
        self.calls: list[str] = []
        self.inside: list[str] = []
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        Checkpoints.save = self._named("checkpoint", Checkpoints.save)  # type: ignore[method-assign]
        storage.write_files = self._named("files", storage.write_files)  # type: ignore[assignment]

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(f"{name} in {self.inside[0]}" if self.inside else name)
            if len(self.calls) == self.stop_at:
                os.write(self.pipe, self.calls[-1].encode())
                while True:
                    signal.pause()
            # A killed process loses no page that it has written: the disk need not be waited for.
            return None if name == "fsync" else real(*args, **kwargs)

        return replacement

    def _named(self, what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            self.inside.append(what)
            try:
                return real(*args, **kwargs)
            finally:
                self.inside.pop()

        return replacement


def sitting(
    out: Path, *, stop_at: int | None = None, after: float | None = None, log: Path | None = None
) -> str | None:
    """Begin the run in ``out``, or go on with it, in a process of its own.

    Args:
        out: the run's folder.
        stop_at: kill it at this of the calls that write.
        after: kill it after so many seconds.
        log: where the calls it made are written, if it is not killed.

    Returns:
        where it was killed; None if it came to its end.
    """
    reading, writing = os.pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            warnings.simplefilter("error")
            saving = Saving(stop_at, writing)
            begin_or_go_on(out)
            if log is not None:
                log.write_text(json.dumps(saving.calls))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    left = None if after is None else max(0.0, after - (time.monotonic() - begun))
    told, _, _ = select.select([reading], [], [], left)
    where = os.read(reading, 100).decode() if told else f"after {after:.3f} s"
    if where:
        os.kill(pid, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return where
    if status:
        raise SystemExit(f"{out}: training failed")
    return None


def begin_or_go_on(out: Path) -> None:
    """What a person would do: go on if there is a run, begin if there is none."""
    try:
        TextGenerator.resume(out)
    except OstinatoError as error:
        if "there is no run to resume" not in str(error) or out.exists():
            raise
        TextGenerator(**SETTINGS).fit(make_text(), out=out)


def result(out: Path) -> dict[str, Any]:
    """All that a run leaves, without times."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]
    model = storage.read_files(out)
    config = json.loads(model.pop("config.json"))
    config["training"].pop("seconds")
    return {
        # What is measured when there is time for it is not the same twice.
        "records": [
            {k: v for k, v in r.items() if k != "seconds"} for r in records if "health" not in r
        ],
        "steps": [r["step"] for r in records if "loss" in r],
        "config": config,
        "files": model,
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [name for name in expected if found[name] != expected[name]]


def main(folder: Path, trials: int) -> None:
    """Run the trials, and print them."""
    torch.set_num_threads(1)
    log = folder / "calls.json"
    begun = time.monotonic()
    if sitting(folder / "whole", log=log) is not None:
        raise SystemExit("the whole run was killed")
    duration = time.monotonic() - begun
    calls = json.loads(log.read_text())
    whole = result(folder / "whole")
    assert whole["steps"] == list(range(1, SETTINGS["steps"] + 1))
    inside = [k for k, call in enumerate(calls, 1) if " in " in call]
    first_checkpoint = calls.index("fsync in checkpoint") + 1
    files = [k for k in inside if "in files" in calls[k - 1]]
    draw = random.Random(0)
    for trial in range(trials):
        # Three in five die while saving: before there is a run, before there is a checkpoint,
        # while the best model is replaced, and anywhere. Every second one dies again.
        chosen = {
            0: files[draw.randrange(4)],
            1: first_checkpoint + draw.randrange(3),
            5: draw.choice(files),
            6: files[-1 - draw.randrange(4)],
        }.get(trial % 10, draw.choice(inside))
        out = folder / f"run {trial}"
        first: dict[str, Any] = (
            {"stop_at": chosen}
            if trial % 10 in (0, 1, 2, 5, 6, 7)
            else {"after": draw.uniform(0, duration)}
        )
        kills = [sitting(out, **first)]
        if trial % 2:
            again = (
                {"stop_at": draw.randrange(1, 80)}
                if trial % 4 == 1
                else {"after": draw.uniform(0, duration / 2)}
            )
            kills.append(sitting(out, **again))
        last = sitting(out)
        wrong = differences(result(out), whole)
        line = {"trial": trial, "killed": [kill for kill in kills if kill], "differs": wrong}
        print(json.dumps(line), flush=True)
        assert last is None
        if not wrong:
            shutil.rmtree(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
