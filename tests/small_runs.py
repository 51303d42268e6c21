"""Small runs of tasks whose folders differ, as the tests that damage folders want them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ostinato import Forecaster, SequenceClassifier, TextGenerator, Translator

QUICK: dict[str, Any] = {
    "hidden_size": 4, "steps": 3, "batch_size": 4, "evaluations": 2, "checkpoint_minutes": 1e-9
}  # fmt: skip


def make_runs(folder: Path) -> list[Path]:
    """Train a text model, a classifier, a forecaster and a translator; return their folders."""
    words = [f"{a} {b}" for a in ("good", "bad", "fine", "grey") for b in ("day", "rain", "wind")]
    series = np.sin(np.arange(60.0)) + 0.01 * np.arange(60.0)
    TextGenerator(level="bpe", vocabulary_size=262, window=4, **QUICK).fit(
        "in the rain and the wind " * 20, out=folder / "text"
    )
    texts = words * 4  # so many that words tell more than a network of a few steps
    SequenceClassifier(**QUICK).fit(texts, [text[0] for text in texts], out=folder / "classes")
    Forecaster(horizon=3, ensemble_size=2, **QUICK).fit(series, out=folder / "series")
    Translator(**QUICK).fit(words, [word[::-1] for word in words], out=folder / "pairs")
    return sorted(folder.iterdir())


def output_of(script: str, *arguments: object) -> list[Any]:
    """What a script beside this one prints, a JSON document a line."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
