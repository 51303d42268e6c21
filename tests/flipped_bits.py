"""Flips bits of runs' folders, one at a time, and uses the folders.

Every use either says that something is damaged, or gives what it gave before. That a bit changed
must be said by one use at least, but for a bit of an older checkpoint, which is not read. Of the
learning curve no bit is flipped: it is for people, and nothing reads it. Prints a line of JSON for
every flip that went wrong, and one with the number of flips by outcome.

    OMP_NUM_THREADS=1 python tests/flipped_bits.py FOLDER [FLIPS [SEED]]
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_runs import make_runs

import ostinato
from ostinato.errors import OstinatoError
from ostinato.training.callbacks import read_metrics
from ostinato.training.checkpoints import Checkpoints
from ostinato.training.runs import RunFolder

RESUMED = 50
"""Every so many flips the run is resumed as well, in a copy."""


def loaded(run: Path) -> Any:
    model = ostinato.load(run)
    sample = model.validation_examples(run / "data")
    return model.get_params(), model.training_, model.network_.state_dict(), list(sample[:2])


def reopened(run: Path) -> Any:
    found = RunFolder.reopen(run)
    found.check_data()
    return found.document


def resumed(run: Path) -> Any:
    copy = run.with_name(f"{run.name} copy")
    shutil.copytree(run, copy)
    try:
        task = getattr(ostinato, RunFolder.reopen(copy).document["task"])
        model = task.resume(copy)
        return model.training_ | {"seconds": None}, model.network_.state_dict()
    finally:
        shutil.rmtree(copy)


USES: list[Callable[[Path], Any]] = [
    ostinato.describe,
    loaded,
    reopened,
    lambda run: read_metrics(run / "metrics.jsonl"),
    lambda run: Checkpoints(run / "checkpoints").load(),
]


def outcome_of(use: Callable[[Path], Any], run: Path) -> str:
    """What a use says, or a hash of what it gives."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            given = use(run)
        except OstinatoError as error:
            assert run.name in str(error) and len(str(error).splitlines()) == 1, error
            return "noticed"
    if any("Trying an older checkpoint" in str(each.message) for each in warned):
        return "noticed"
    return hashlib.sha256(repr(plain(given)).encode()).hexdigest()


def plain(tree: Any) -> Any:
    """The same with bytes in place of tensors."""
    match tree:
        case torch.Tensor():
            return tree.shape, tree.dtype, tree.contiguous().numpy().tobytes()
        case dict():
            return {key: plain(value) for key, value in tree.items()}
        case list() | tuple():
            return [plain(value) for value in tree]
    return tree


def main(folder: Path, flips: int, seed: int) -> None:
    """Flip bits, and print."""
    torch.set_num_threads(1)
    RunFolder.draw = lambda self, unit: None  # type: ignore[method-assign]
    runs = make_runs(folder)
    clean = {(run, use): outcome_of(use, run) for run in runs for use in [*USES, resumed]}
    assert "noticed" not in clean.values()
    draw, counts = random.Random(seed), Counter[str]()
    for trial in range(flips):
        run = runs[trial % len(runs)]
        files = [p for p in sorted(run.rglob("*")) if p.is_file() and p.suffix != ".png"]
        file = draw.choice(files)
        whole = file.read_bytes()
        bit = draw.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            uses = [*USES, resumed] if trial % RESUMED == 0 else USES
            found = {use: outcome_of(use, run) for use in uses}
            changed = [use for use in uses if found[use] not in ("noticed", clean[run, use])]
            outcome = "noticed" if "noticed" in found.values() else "without effect"
            if changed:
                outcome = "changed what is read"
            elif outcome == "without effect" and file.parent.parent.name != "checkpoints":
                outcome = "unnoticed"
            detail = ", ".join(use.__name__ for use in changed)
        except Exception:
            outcome, detail = "traceback", traceback.format_exc()
        file.write_bytes(whole)
        counts[outcome] += 1
        if outcome not in ("noticed", "without effect"):
            where = {"file": str(file.relative_to(folder)), "bit": bit}
            print(json.dumps(where | {"outcome": outcome, "detail": detail}), flush=True)
    print(json.dumps(counts))


if __name__ == "__main__":
    rest = [int(each) for each in sys.argv[2:]]
    main(Path(sys.argv[1]), *rest, *[1000, 0][len(rest) :])
