"""Read the weights of other libraries; the suffix of the file says whose it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ostinato.deploy.imported import Imported
from ostinato.deploy.keras import read_keras
from ostinato.deploy.onnx_layers import read_onnx
from ostinato.deploy.weights import read_safetensors, read_torch
from ostinato.errors import DataError

READERS: Mapping[str, Callable[[Path], Imported]] = {
    **dict.fromkeys((".keras", ".h5", ".hdf5"), read_keras),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), read_torch),
    ".safetensors": read_safetensors,
    ".onnx": read_onnx,
}
"""What reads a file, by its suffix."""


def read_layers(path: str | os.PathLike[str]) -> Imported:
    """Read recurrent layers from a file of Keras, PyTorch, Lightning, safetensors or ONNX.

    Args:
        path: a file; its suffix says what it is.

    Raises:
        DataError: the file is damaged, or holds what our layers cannot be; nothing in it is run.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"expected a name that ends in {', '.join(READERS)}.", path=path)
    if not path.is_file():
        raise DataError("no such file.", path=path)
    return reader(path)
