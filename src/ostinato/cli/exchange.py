"""Commands that take models out: ``export``."""

from __future__ import annotations

from pathlib import Path

import ostinato
from ostinato.cli.commands import USE, command, print_json
from ostinato.cli.options import ExportFile
from ostinato.deploy.base import Precision


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
