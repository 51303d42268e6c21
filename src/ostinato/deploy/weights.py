"""Layers from files of weights: PyTorch's state_dict, Lightning's checkpoints, safetensors."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from ostinato.deploy.imported import MAX_BYTES, Imported, loaded, stack_of
from ostinato.errors import DataError
from ostinato.recurrence.cells import Cell, GRUCell, LSTMCell, RNNCell
from ostinato.recurrence.layers import MAX_LAYERS, is_dense

_WEIGHT = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_l(\d{1,5})(_reverse)?")
_OLD = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number by which files of PyTorch before 1.6 begin, behind two bytes."""
_CELL_WEIGHT = re.compile(r"(weight|bias)_(ih|hh)")
_GATES: Mapping[int, type[Cell]] = {1: RNNCell, 3: GRUCell, 4: LSTMCell}


def read_torch(path: Path) -> Imported:
    """Read a ``state_dict``, or a checkpoint that holds one; nothing in the file is run."""
    with damage(path, "a file of torch.save"):
        with path.open("rb") as start:
            old = start.read(14)[2:] == _OLD
        if old:
            raise DataError(
                "was stored by PyTorch before 1.6; store it once more: "
                "torch.save(torch.load(path, weights_only=True), path).",
                path=path,
            )
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
        packed = [each for each in members if each.compress_type != zipfile.ZIP_STORED]
        if packed or sum(each.file_size for each in members) > path.stat().st_size:
            raise DataError("its parts are packed, as torch.save packs none.", path=path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors of kinds that are refused below
            document = _unpickled(path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
    return from_weights(document, path)


class _Unread:
    """Stands in for what a checkpoint holds besides tensors, numbers and texts, such as a path."""

    def __new__(cls, *_: object) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _unpickled(path: Path) -> Any:
    """Return what a file of PyTorch holds, as far as that is tensors, numbers and texts.

    Hyperparameters and the like, in a checkpoint that has a ``state_dict`` beside them, are
    replaced by objects that do nothing.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not found:
            raise
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with (
            suppress(pickle.UnpicklingError),
            torch.serialization.safe_globals([(_Unread, name) for name in names]),
        ):
            document = torch.load(path, map_location="cpu", weights_only=True)
            weights = document.get("state_dict") if isinstance(document, dict) else None
            if isinstance(weights, dict) and _Unread not in map(type, weights.values()):
                return document
        raise DataError(
            f"holds a {found[1]:.80}, which is not read; store the state_dict alone: "
            "torch.save(model.state_dict(), path).",
            path=path,
        ) from error


def read_safetensors(path: Path) -> Imported:
    """Read a file of safetensors."""
    with damage(path, "a file of safetensors"):
        return from_weights(safetensors.torch.load_file(path), path)


@contextmanager
def damage(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises at a damaged file into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError("it needs more memory than there is.", path=path) from error
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"is not {kind}, or is damaged: {reason:.200}", path=path) from error


def from_weights(tensors: Any, path: Path) -> Imported:
    """Return the recurrent layers of a ``state_dict``, by the names of their weights.

    Cells follow from the shapes; that of one gate is taken for a tanh RNN, as `torch.nn.RNN` is.
    """
    known = isinstance(tensors, Mapping) and all(isinstance(name, str) for name in tensors)
    if not known or not any(isinstance(value, Tensor) for value in tensors.values()):
        raise DataError("holds no weights by name; expected a state_dict.", path=path)
    size = path.stat().st_size
    groups: dict[str, dict[str, Tensor]] = {}
    others: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            continue
        if not is_dense(value) or value.device.type != "cpu" or value.is_quantized:
            raise DataError(f"{name:.80} is no dense tensor on the CPU.", path=path)
        if value.numel() * value.element_size() > min(size, MAX_BYTES):
            raise DataError(f"{name:.80} is larger than the file.", path=path)
        owner, _, last = name.rpartition(".")
        if _CELL_WEIGHT.fullmatch(last):
            last += "_l0"  # of an LSTMCell, GRUCell or RNNCell
        (groups if _WEIGHT.fullmatch(last) else others).setdefault(owner, {})[last] = value
    if not groups:
        raise DataError("holds no weights of recurrent layers (weight_ih_l0, ...).", path=path)
    found = Imported(nn.Module())
    for owner, weights in groups.items():
        layer = _layers(owner or "the layer", weights, path)
        found.layers.append(layer)
        found.module.add_module(owner.replace(".", "_") or "layers", layer)
    if len(groups) > 1:
        found.obstacles.append("there are several recurrent layers, in an order that is not told")
    linear = {n: w for n, w in others.items() if set(w) == {"weight", "bias"}}
    linear = {n: w for n, w in linear.items() if w["weight"].dim() == 2 and w["bias"].dim() == 1}
    rest = sorted(name for name in others if name not in linear)
    if rest:
        found.obstacles.append(f"there are weights of other layers: {', '.join(rest):.99}")
    for name, weights in linear.items():
        output = nn.Linear(*weights["weight"].shape[::-1])
        with torch.no_grad():
            if weights["bias"].shape != output.bias.shape:
                raise DataError(f"{name:.80}: weight and bias do not fit.", path=path)
            output.weight.copy_(weights["weight"])
            output.bias.copy_(weights["bias"])
        found.module.add_module(name.replace(".", "_") or "linear", output)
        if len(linear) == 1 and output.in_features == found.layers[-1].output_size:
            found.output = output
    return found


def _layers(owner: str, weights: Mapping[str, Tensor], path: Path) -> Any:
    """Return layers of weights by their names."""

    def wrong(why: str) -> DataError:
        return DataError(f"{owner:.80}: {why}.", path=path)

    count = 1 + max(int(match[2]) for name in weights if (match := _WEIGHT.fullmatch(name)))
    if count > min(MAX_LAYERS, len(weights)):
        raise wrong(f"has weights of a layer {count - 1}, and {len(weights)} weights")
    both = "weight_ih_l0_reverse" in weights
    cells: list[Cell] = []
    directions = []
    for k in range(count):
        suffixes: list[Literal["", "_reverse"]] = ["", "_reverse"] if both else [""]
        directions.append([
            {
                bare: weights[f"{bare}_l{k}{suffix}"]
                for bare in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                if f"{bare}_l{k}{suffix}" in weights
            }
            for suffix in suffixes
        ])  # fmt: skip
        first = directions[-1][0]
        if not {"weight_ih", "weight_hh"} <= set(first) or any(
            w.dim() != (2 if n.startswith("weight") else 1) or not w.is_floating_point()
            for each in directions[-1]
            for n, w in each.items()
        ):
            raise wrong(f"lacks matrices of layer {k}")
        rows, I = first["weight_ih"].shape
        P = first["weight_hh"].shape[1]
        H = first["weight_hr"].shape[1] if "weight_hr" in first else P
        kind = _GATES.get(rows // H) if H and I and rows % H == 0 else None
        if kind is None:
            raise wrong(f"weight_ih_l{k} is ({rows}, {I}), which no cell of {H} units has")
        more = {"proj_size": P} if "weight_hr" in first else {}
        cells.append(kind(I, H, "bias_ih" in first, **more))
    for k, (cell, layer) in enumerate(zip(cells, directions, strict=True)):
        expected = [*cell.weight_shapes()]
        if any(sorted(expected) != sorted(own) for own in layer):
            raise wrong(
                f"expected the weights {', '.join(expected)} of layer {k} in each direction"
            )
    if len(weights) != sum(len(own) for layer in directions for own in layer):
        raise wrong("has weights that belong to no layer and direction")
    return loaded(stack_of(cells, both), directions)
