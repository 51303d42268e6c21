"""Checkpoints: everything a run needs to resume as if it had never stopped.

Each is a separate folder, ``checkpoints/000042``, renamed into place once all of it is on disk.
The newest two are kept, in case one is damaged.
"""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from ostinato.errors import OstinatoError
from ostinato.files import sync_folder, writing
from ostinato.training import storage


class Checkpoints:
    """The newest checkpoints of a run.

    A checkpoint is a tree of dicts, lists, tuples, tensors, numbers, strings, booleans and None.
    Tuples of any kind are loaded as plain tuples.

    Args:
        folder: folder of the checkpoints; None keeps the newest one in memory.
        keep: number of checkpoints to keep.

    Example:
        >>> import torch
        >>> checkpoints = Checkpoints(None)
        >>> checkpoints.save({"step": 3, "weights": {"w": torch.ones(2)}})
        >>> checkpoints.load()
        {'step': 3, 'weights': {'w': tensor([1., 1.])}}
    """

    def __init__(self, folder: Path | None, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._in_memory: Any = None

    def save(self, tree: Any) -> None:
        """Save ``tree`` as the newest checkpoint."""
        if self.folder is None:
            self._in_memory = copy.deepcopy(tree)
            return
        tensors: dict[str, Tensor] = {}
        document = storage.to_json(_take_apart(tree, tensors))
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".unfinished-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            serial = 1 + max((int(path.name) for path in self._all()), default=0)
            unfinished = self.folder / f".unfinished-{serial:06d}"
            packed = storage.pack_tensors(tensors)
            storage.write_files(unfinished, {"state.json": document, "tensors.safetensors": packed})
            os.rename(unfinished, self.folder / f"{serial:06d}")
            sync_folder(self.folder)
            for old in self._all()[: -self.keep]:
                # Renamed first: a half-deleted folder must not look like a checkpoint.
                doomed = old.with_name(f".unfinished-{old.name}")
                os.rename(old, doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def load(self) -> Any:
        """Load the newest undamaged checkpoint, warning of damaged ones; None if there is none.

        If all are damaged, that is an error.
        """
        if self.folder is None:
            return copy.deepcopy(self._in_memory)
        damage = None
        for path in reversed(self._all()):
            try:
                files = storage.read_files(path, "state.json", "tensors.safetensors")
                tensors = storage.unpack_tensors(files["tensors.safetensors"], path)
                document = storage.from_json(files["state.json"], path / "state.json")
                with storage.parts_of(path):
                    return _put_together(document, tensors)
            except storage.DamagedError as error:
                damage = error
                warnings.warn(f"{error} Trying an older checkpoint.", stacklevel=2)
        if damage is not None:
            raise OstinatoError(f"{self.folder}: all checkpoints are damaged. {damage}")
        return None

    def _all(self) -> list[Path]:
        """Return the folders of checkpoints, oldest first."""
        paths = self.folder.iterdir() if self.folder is not None and self.folder.is_dir() else ()
        return sorted((p for p in paths if p.name.isdecimal()), key=lambda path: int(path.name))


def _take_apart(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return ``tree`` as JSON; its tensors go to ``tensors``, replaced by their names."""
    match tree:
        case Tensor():
            name = str(len(tensors))
            tensors[name] = tree
            return {"tensor": name}
        case dict():
            return {"dict": [[key, _take_apart(value, tensors)] for key, value in tree.items()]}
        case tuple():
            return {"tuple": [_take_apart(value, tensors) for value in tree]}
        case list():
            return [_take_apart(value, tensors) for value in tree]
        case None | bool() | int() | float() | str():
            return tree
    raise TypeError(f"a checkpoint cannot hold {type(tree).__name__}: {tree!r}")


def _put_together(document: Any, tensors: dict[str, Tensor]) -> Any:
    match document:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": items}:
            return {key: _put_together(value, tensors) for key, value in items}
        case {"tuple": values}:
            return tuple(_put_together(value, tensors) for value in values)
        case list():
            return [_put_together(value, tensors) for value in document]
    return document
