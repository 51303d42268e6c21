"""Export a trained model; the suffix of the file says as what."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, get_args

from ostinato.deploy.base import Exported, Precision
from ostinato.deploy.c_export import write_c
from ostinato.deploy.onnx import write_onnx
from ostinato.errors import check_choice
from ostinato.files import check_new_file

WRITERS: Mapping[str, Callable[..., Exported]] = {".onnx": write_onnx, ".c": write_c}
"""What writes a model, by the suffix of the file."""


def export(
    model: Any, path: str | os.PathLike[str], *, precision: Precision = "float32"
) -> Exported:
    """Export a trained model to a file that other programs run without Ostinato.

    Args:
        model: a fitted estimator, such as `load` returns; or recurrent layers, or a network of
            `ostinato.networks`.
        path: file to write; its suffix says what it becomes: .onnx, or .c.
        precision: float32, float16 or int8.

    Raises:
        OstinatoError: the model, or a part of it, has no such form; nothing is written.
    """
    path = check_new_file(path, list(WRITERS))
    check_choice("export: precision", precision, get_args(Precision))
    return WRITERS[path.suffix.lower()](model, path, precision)
