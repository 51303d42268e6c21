"""Commands that take models out and in: ``export``, ``import``."""

from __future__ import annotations

from pathlib import Path

import ostinato
from ostinato.cli.commands import USE, command, print_json
from ostinato.cli.options import ExportFile
from ostinato.deploy.base import ImportTask, Precision
from ostinato.files import check_new_folder, check_there, refuse_to_overwrite


@command(USE)
def export(
    run: Path, /, *, out: ExportFile, precision: Precision = "float32", json: bool = False
) -> None:
    """Export a model for programs without Ostinato.

    Args:
        run: folder of a trained model.
        out: file to write; its suffix says what it becomes: .onnx, or .c.
        precision: float32, float16 or int8.
        json: print one JSON object.

    Examples:
        ostinato export run --out model.onnx
        ostinato export run --out small.onnx --precision int8
    """
    found = ostinato.export(ostinato.load(run), out, precision=precision)
    if json:
        print_json({"files": [str(path) for path in found.files], **found.facts})
        return
    print(found.summary)


@command(USE, name="import")
def import_(
    source: Path,
    /,
    *,
    out: Path,
    task: ImportTask | None = None,
    labels: str = "",
    json: bool = False,
) -> None:
    """Import a network of Keras, PyTorch or ONNX.

    It becomes the model of a task that reads series of measurements: a stack of equal recurrent
    layers and a linear one. What a file does not hold, such as the names of the classes, is given
    here.

    Args:
        source: file of Keras (.keras, .h5), PyTorch or Lightning (.pt, .pth, .ckpt), safetensors
            or ONNX; its suffix says which.
        out: new folder for the model.
        task: classify (by the last step), regress (likewise), or tag (each step); by the file, if
            it tells.
        labels: names of the classes, in the order of the outputs, with commas between; numbers
            from 0 if not given.
        json: print one JSON object.

    Examples:
        ostinato import model.keras --out model --labels low,high
        ostinato import weights.safetensors --out model --task tag
    """
    check_there([source])
    refuse_to_overwrite(out)
    check_new_folder(out)
    found = ostinato.read_layers(source)
    names = [name.strip() for name in labels.split(",")] if labels else []
    model = ostinato.as_estimator(found, task, names)
    model.save(out)
    if json:
        print_json({"task": type(model).__name__, "notes": found.notes})
        return
    print(f"{found.describe()}\n{out}/ holds a {type(model).__name__}")
