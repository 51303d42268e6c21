"""Atomic writes of several files, checksums, and models as folders.

A model is a folder: ``config.json`` (format version, task, parameters, training facts),
``weights.safetensors``, further JSON files of its task, and ``SHA256SUMS`` over them, which
``sha256sum -c SHA256SUMS`` checks too. Nothing in it is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ostinato.errors import OstinatoError
from ostinato.files import sync_folder, writing

FORMAT = 1
"""Version of the model folder; a folder of a later version is refused."""

SUMS = "SHA256SUMS"
_COMMIT = ".commit"
_INCOMING = ".incoming"


class DamagedError(OstinatoError):
    """A stored file is missing or damaged."""


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` and their checksums into ``folder``: all of them or none.

    A process killed at any moment leaves either the old files or all new ones: these are first
    written to a folder of their own, renaming it commits them, and the next call finishes moving.
    """
    incoming = folder / _INCOMING
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in files.items())
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _finish(folder)
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        for name, data in [*files.items(), (SUMS, sums.encode())]:
            new = incoming / name
            with writing(folder / name, new), open(new, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(incoming)
        os.rename(incoming, folder / _COMMIT)
        sync_folder(folder)
        _finish(folder)


def _finish(folder: Path) -> None:
    """Move files that an earlier `write_files` committed into place."""
    commit = folder / _COMMIT
    if commit.is_dir():
        for file in commit.iterdir():
            os.replace(file, folder / file.name)
        sync_folder(folder)
        commit.rmdir()


def read_files(folder: Path, *needed: str) -> dict[str, bytes]:
    """Read the files of `write_files` by name, each checked against its checksum.

    Those ``needed`` must be among them, since a truncated list is not noticed otherwise.

    Raises:
        DamagedError: if one is missing, or any bit of it has changed.
    """
    while True:
        version = _version(folder)
        try:
            return _read_whole(folder, needed)
        except DamagedError:
            if _version(folder) == version:
                raise  # else it was replaced meanwhile


def _read_whole(folder: Path, needed: tuple[str, ...]) -> dict[str, bytes]:
    files = {}
    *lines, rest = _read_newest(folder, SUMS).decode(errors="replace").split("\n")
    if rest:
        raise DamagedError(f"{folder / SUMS}: damaged: it is truncated.")
    for line in lines:
        digest, _, name = line.partition("  ")
        if "/" in name or not name or not name.isprintable():
            raise DamagedError(f"{folder / SUMS}: {line!r} is not a checksum and a name.")
        files[name] = _read_newest(folder, name)
        if sha256(files[name]) != digest:
            raise DamagedError(
                f"{folder / name}: damaged: its SHA-256 is not the one in {SUMS}; "
                "restore it from a copy, or train again."
            )
    for name in needed:
        if name not in files:
            raise DamagedError(f"{folder / SUMS}: damaged: {name} is not in it.")
    return files


def _read_newest(folder: Path, name: str) -> bytes:
    """Read a file of the last commit, which may not be in place yet."""
    try:
        with suppress(FileNotFoundError):
            return (folder / _COMMIT / name).read_bytes()
        return (folder / name).read_bytes()
    except OSError as error:
        reason = f"{error.strerror}; the folder is incomplete"
        raise DamagedError(f"{folder / name}: {reason}.") from None


def _version(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return a value that changes when the files are replaced."""
    versions = {}
    for path in (folder / _COMMIT / SUMS, folder / SUMS):  # in the order in which it moves
        with suppress(OSError):
            facts = path.stat()
            versions[path] = (facts.st_ino, facts.st_mtime_ns)
    return versions


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    # Copies, since safetensors refuses tensors that share memory, such as tied weights.
    layout = torch.contiguous_format
    copies = {n: t.detach().cpu().clone(memory_format=layout) for n, t in tensors.items()}
    return safetensors.torch.save(copies)


def unpack_tensors(data: bytes, origin: Path) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file; errors name ``origin``."""
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{origin}: not a safetensors file: {error}") from None


def save_model(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], more: Mapping[str, Any]
) -> None:
    """Write a model folder; an older model in it is replaced atomically.

    ``config`` includes ``task``; ``more`` are JSON documents by file name, such as a vocabulary.
    """
    documents = {"config.json": {"format": FORMAT, **config}, **more}
    files = {name: to_json(document) for name, document in documents.items()}
    write_files(folder, files | {"weights.safetensors": pack_tensors(weights)})


def load_model(folder: Path, task: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Read a model folder: its config, its weights, and its further documents by file name.

    Raises:
        OstinatoError: if there is no model, one of another task, or of a later format.
        DamagedError: if a file is missing or damaged.
    """
    config = read_config(folder)
    if config.get("task") != task:
        raise OstinatoError(f"{folder}: expected a model of {task}, got {config.get('task')}.")
    files = read_files(folder, "config.json", "weights.safetensors")
    weights = unpack_tensors(files.pop("weights.safetensors"), folder / "weights.safetensors")
    documents = {name: from_json(data, folder / name) for name, data in files.items()}
    return documents.pop("config.json"), weights, documents


def holds_model(folder: Path) -> bool:
    """Return whether ``folder`` holds a complete model."""
    return (folder / "config.json").exists() or (folder / _COMMIT / "config.json").exists()


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder, without its weights."""
    if not folder.is_dir():
        raise OstinatoError(f"{folder}: no such folder; expected the folder of a model or run.")
    if not holds_model(folder):
        raise OstinatoError(
            f"{folder}: holds no finished model (no config.json); "
            "if its training was stopped, resume it with --resume."
        )
    path = folder / "config.json"
    config = from_json(_read_newest(folder, "config.json"), path)
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise OstinatoError(
            f"{path}: format {version!r}; this version of Ostinato reads 1 to {FORMAT}: upgrade it."
        )
    return dict(config)


def to_json(document: Any) -> bytes:
    """Return a JSON document as indented text."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def from_json(data: bytes, origin: Path) -> Any:
    """Parse a JSON document; errors name ``origin``."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise DamagedError(f"{origin}: not JSON: {error}") from None
