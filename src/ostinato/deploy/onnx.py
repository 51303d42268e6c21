"""A trained network as an ONNX file, with its state as inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ostinato.deploy.base import Exported, Precision
from ostinato.errors import OstinatoError


def write_onnx(model: Any, path: Path, precision: Precision = "float32") -> Exported:
    """Write a model as an ONNX file, once ONNX Runtime has shown that it computes the same."""
    raise OstinatoError(f"export: a {type(model).__name__} cannot be exported to ONNX.")
