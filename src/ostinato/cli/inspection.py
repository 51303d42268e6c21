"""Commands that look inside: ``info``, ``diagnose``, ``memory``, ``gates``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ostinato
from ostinato.cli.commands import LOOK, can, command, print_json, shown
from ostinato.cli.options import Picture
from ostinato.errors import OstinatoError
from ostinato.files import check_new_folder

if TYPE_CHECKING:
    from ostinato.tasks.base import Inspectable, StepScorer


@command(LOOK)
def info(run: Path, /, *, json: bool = False) -> None:
    """Show the task, settings and training of a model or run.

    Args:
        run: folder of a model or run.
        json: print one JSON object.

    Examples:
        ostinato info run
        ostinato info run --json | jq .training.best_loss
    """
    config = ostinato.describe(run)
    if json:
        print_json(config)
        return
    print(f"{run}: {config['task']}{'' if config.get('finished', True) else ', unfinished run'}")
    for title in ("training", "parameters"):
        print(f"\n{title}")
        for name, value in config[title].items():
            print(f"  {name:<22}{shown(value)}")


@command(LOOK, protocol="Inspectable")
def diagnose(
    run: Path,
    /,
    *files: Path,
    out: Path | None = None,
    distance: int | None = None,
    try_: bool = False,
    json: bool = False,
) -> None:
    """Diagnose what keeps a model from learning.

    Prints the most probable causes with their evidence and remedies. Reads the model's gradients,
    gates and memory on your data, and the records of its training; short training runs of a copy
    tell causes apart.

    Args:
        run: folder of a trained model.
        files: labelled files, as in training; the training and validation data of the run if none.
        out: folder for a page with text, values and plots; RUN/diagnosis if not given.
        distance: steps from input to output over which the task depends, if known.
        try_: try the first remedies in short training runs, and say which helped.
        json: print one JSON object.

    Examples:
        ostinato diagnose run
        ostinato diagnose run --try
        ostinato diagnose sentiment test.csv --out report --json
    """
    if distance is not None and not 0 < distance < 2**63:
        raise OstinatoError(f"diagnose: distance={distance}; expected a number of steps, from 1.")
    folder = check_new_folder(run / "diagnosis" if out is None else out)
    model: Inspectable = ostinato.load(run)
    found = ostinato.diagnose(
        model, list(files) or None, distance=distance, try_remedies=try_, terms="command"
    )
    pages = ostinato.insight.write_report(found, model.network_, folder, f"Diagnosis of {run}")
    if json:
        print_json(found.to_json())
        return
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    print(found.wrapped(width))
    print(f"\nPage with plots: {pages[0]}")


@command(LOOK, protocol="StepScorer")
def memory(
    run: Path, /, *data: str, steps: int = 256, plot: Picture | None = None, json: bool = False
) -> None:
    """Measure how far back a model's output depends on its input.

    Args:
        run: folder of a trained model.
        data: labelled files, as in training; for a language model files or a text; the validation
            split of the run if none.
        steps: longest distance, in steps of a text.
        plot: PNG to write: the effect of a change by distance.
        json: print one JSON object.

    Examples:
        ostinato memory run book.txt --plot memory.png
        ostinato memory run "It was the best of times" --json
    """
    if steps < 1:
        raise OstinatoError(f"memory: steps={steps}; expected a number of steps, from 1.")
    model: StepScorer = ostinato.load(run)
    if data:
        text = can(run, "TextSampler") and not any(map(os.path.exists, data))
        given = " ".join(data) if text else [Path(name) for name in data]
        sample = model.examples(given, steps=steps)
    else:
        sample = model.validation_examples(run / "data", steps=steps)
    found = ostinato.insight.input_influence(model, sample)
    if plot is not None:
        ostinato.insight.save_picture(ostinato.insight.plot_influence(found), plot)
    if json:
        print_json(found.to_json())
        return
    print(f"{found}"[:1].upper() + f"{found}"[1:])
    print("\n  steps back   change of output   increase of loss")
    for i, lag in enumerate(found.lags):
        if lag < 4 or (lag + 1) & lag == 0:
            print(f"  {lag:<12,} {found.effect[i]:<18.4f} {found.loss_increase[i]:+.4f}")


@command(LOOK, protocol="Inspectable")
def gates(
    run: Path,
    data: str,
    /,
    *,
    unit: int | None = None,
    layer: int = 0,
    gate: str | None = None,
    label: str | None = None,
    plot: Picture | None = None,
    json: bool = False,
) -> None:
    """Show gates and hidden units over a text or a sequence.

    Prints how open and how saturated each gate is, and dead units.

    Args:
        run: folder of a trained model.
        data: a text, or a file; of files other than texts the first sequence is read.
        unit: number of the unit to show over the text, from 0.
        layer: number of the layer of --unit and --gate, from 0.
        gate: letter of the gate to plot: i, f, o; r, z.
        label: rank units by correlation with a label of each character: quotes (inside quotation
            marks) or line (position in the line).
        plot: PNG to write: the unit or gate over the steps.
        json: print one JSON object.

    Examples:
        ostinato gates run "It was the best of times" --label line
        ostinato gates run book.txt --gate f --plot gate.png
    """
    insight = ostinato.insight
    model: Inspectable = ostinato.load(run)
    text = any(can(run, each) for each in ("TextSampler", "TextWriter", "SpeechSynthesizer"))
    found = insight.gates(model, data if text and not os.path.exists(data) else Path(data))
    report: dict[str, Any] = {"steps": len(found.steps), "layers": found.to_json()}
    ranked = [] if label is None else found.rank(insight.labels_of(label, found.steps))
    if ranked:
        report["units"] = [each._asdict() for each in ranked]
    selected = ranked[:1] if unit is None else [found.unit(unit, layer)]
    if selected:
        report["values"] = [round(float(v), 5) for v in found.activations(selected[0])]
    if plot is not None:
        if gate is not None:
            axes = insight.plot_gate(found, gate, layer)
        elif selected:
            axes = insight.plot_unit(found, selected[0])
        else:
            raise OstinatoError("gates --plot: add --unit N, --gate LETTER or --label.")
        insight.save_picture(axes, plot)
    if json:
        print_json(report)
        return
    print(found)
    if label is not None:
        print(f"\nunits that follow {label}")
        for each in ranked:
            name = f"{each.layer}, {each.state} of unit {each.number}"
            print(f"  {name:<32}correlation {each.correlation:+.3f}")
    if selected:
        print()
        print(insight.overlay(found, selected[0], shutil.get_terminal_size((80, 24)).columns))
