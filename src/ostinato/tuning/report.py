"""Pictures of a study, drawn by Optuna: history, importance of settings, parallel coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ostinato.errors import require
from ostinato.files import atomic_file


def draw_study(optuna: ModuleType, study: Any, folder: Path, facts: Mapping[str, Any]) -> None:
    """Draw the pictures for which there are trials enough.

    Args:
        optuna: the module.
        study: the study.
        folder: where ``history.png``, ``importance.png`` and ``parallel.png`` go.
        facts: ``metric`` and ``higher`` of the score.
    """
    pyplot = require("matplotlib.pyplot", "plots", "a picture of a study")
    plots = optuna.visualization.matplotlib
    complete = study.get_trials(False, (optuna.trial.TrialState.COMPLETE,))
    if not complete:
        return
    sign = -1 if facts["higher"] else 1

    def score(trial: Any) -> float:
        return float(sign * trial.value)

    drawn = {"history": plots.plot_optimization_history}
    if len(complete) > 2 and len({trial.value for trial in complete}) > 1:
        drawn |= {
            "importance": plots.plot_param_importances,
            "parallel": plots.plot_parallel_coordinate,
        }
    before = pyplot.get_backend()
    pyplot.switch_backend("agg")
    try:
        for name, plot in drawn.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Optuna: these plots may change
                axes = plot(study, target=score, target_name=facts["metric"])
            figure = axes.figure
            figure.set_size_inches(10 if name == "parallel" else 8, 4.5)
            figure.tight_layout()
            with atomic_file(folder / f"{name}.png") as file:
                figure.savefig(file, dpi=120, format="png")
            pyplot.close(figure)
    finally:
        pyplot.switch_backend(before)
