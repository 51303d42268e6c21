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
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ostinato.errors import MissingExtra, OstinatoError
from ostinato.files import open_file, replace, sole_writer, sync_folder, writing

FORMAT = 1
"""Version of the model folder; a folder of a later version is refused."""

SUMS = "SHA256SUMS"
WEIGHTS = "weights.safetensors"
LARGEST_JSON = 2**26
"""Bytes of a JSON file at most: a vocabulary of some millions of words."""
LARGEST_HEADER = 2**22
"""Bytes of the header of a safetensors file at most: some ten thousands of tensors."""
_COMMIT = ".commit"
_INCOMING = ".incoming"


class DamagedError(OstinatoError):
    """A stored file is missing or damaged."""


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` and their checksums into ``folder``: all of them or none.

    A process killed at any moment leaves either the old files or all new ones: these are first
    written to a folder of their own, renaming it commits them, and the next call finishes moving.
    Other threads and processes that write into the folder wait.
    """
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in files.items())
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(folder):
            _finish(folder)
            incoming = folder / _INCOMING
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir()
            for name, data in [*files.items(), (SUMS, sums.encode())]:
                with writing(folder / name), open(incoming / name, "wb") as file:
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
            replace(file, folder / file.name)
        sync_folder(folder)
        commit.rmdir()


Header = Mapping[str, Any]
"""Type, shape and place of each tensor of a safetensors file, by name; as unchecked as the file."""

Allowance = Callable[[Mapping[str, bytes], Header], int | None]
"""The bytes of tensors that may be read, by all other files and the header; raises to refuse.

Of 0 only the checksum is checked; of None not even that.
"""


def read_files(
    folder: Path, *needed: str, allow: Allowance = lambda files, header: sys.maxsize
) -> dict[str, bytes]:
    """Read the files of `write_files` by name; a `DamagedError` unless each fits its checksum.

    Those ``needed`` must be among them, since a truncated list is not noticed otherwise. Tensors
    come last, as far as ``allow`` allows.
    """
    while True:
        version = _version(folder)
        try:
            return _read_whole(folder, needed, allow)
        except DamagedError:
            if _version(folder) == version:
                raise  # else it was replaced meanwhile


def _read_whole(folder: Path, needed: tuple[str, ...], allow: Allowance) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with _newest(folder, SUMS) as file:
        *lines, rest = _limited(file, folder / SUMS).decode(errors="replace").split("\n")
    if rest:
        raise DamagedError(f"{folder / SUMS}: damaged: it is truncated.")
    digests: dict[str, str] = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if "/" in name or not name.isprintable() or name in {*digests, ""}:
            raise DamagedError(f"{folder / SUMS}: {line!r:.99} is not a checksum and a name.")
        digests[name] = digest
    for name in needed:
        if name not in digests:
            raise DamagedError(f"{folder / SUMS}: damaged: {name} is not in it.")
    for name in sorted(digests, key=lambda name: name.endswith(".safetensors")):
        path, most = folder / name, cast("int | None", LARGEST_JSON)
        with _newest(folder, name) as file:
            if name.endswith(".safetensors"):
                most = allow(files, _header(file, path))
            if most is None:
                continue
            if most:
                files[name] = _limited(file, path, most)
            found = sha256(files[name]) if most else digest_of(file)
        if found != digests[name]:
            raise DamagedError(_changed(path, SUMS))
    return files


@contextmanager
def _newest(folder: Path, name: str) -> Iterator[BufferedReader]:
    """Open a file of the last commit, which may not be in place yet."""
    try:
        file = None
        with suppress(FileNotFoundError):
            file = open_file(folder / _COMMIT / name)
        with file or open_file(folder / name) as file:
            yield file
    except OSError as error:
        reason = f"{error.strerror}; the folder is incomplete"
        raise DamagedError(f"{folder / name}: {reason}.") from None


def _limited(file: BufferedReader, path: Path, most: int = LARGEST_JSON) -> bytes:
    """Read a file of at most so many bytes."""
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise DamagedError(f"{path}: damaged: it has {size:,} bytes; expected {most:,} at most.")
    return file.read()


def _header(file: BufferedReader, path: Path) -> Header:
    """Read the header of a safetensors file, and go back to its beginning."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= LARGEST_HEADER:
        raise DamagedError(f"{path}: not a safetensors file: its header has {length:,} bytes.")
    header = from_json(file.read(length), path)
    file.seek(0)
    if not isinstance(header, dict):
        raise DamagedError(f"{path}: not a safetensors file: its header is no JSON object.")
    header.pop("__metadata__", None)
    size = os.fstat(file.fileno()).st_size - 8 - length
    try:
        expected = max((int(each["data_offsets"][1]) for each in header.values()), default=0)
    except (LookupError, TypeError, ValueError, OverflowError):
        expected = -1
    if size != expected:
        raise DamagedError(f"{path}: damaged: its header does not fit its {size:,} bytes after it.")
    return header


def check_digests(folder: Path, digests: Mapping[str, str], listed_in: str) -> None:
    """Raise a `DamagedError` if a file of a folder is missing, or any bit of it has changed."""
    for name, digest in digests.items():
        with _newest(folder, name) as file:
            if digest_of(file) != digest:
                raise DamagedError(_changed(folder / name, listed_in))


def digest_of(file: BufferedReader) -> str:
    """Return the SHA-256 of an open file, of any size, in hexadecimal digits."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(path: Path, listed_in: str) -> str:
    return (
        f"{path}: damaged: its SHA-256 is not the one in {listed_in}; restore it from a copy, or "
        "train again."
    )


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
    folder: Path, config: Mapping[str, Any], weights: bytes, more: Mapping[str, Any]
) -> None:
    """Write a model folder; an older model in it is replaced atomically.

    ``config`` includes ``task``; ``weights`` are of `pack_tensors`; ``more`` are JSON documents by
    file name, such as a vocabulary.
    """
    documents = {"config.json": {"format": FORMAT, **config}, **more}
    files = {name: to_json(document) for name, document in documents.items()}
    write_files(folder, files | {WEIGHTS: weights})


Expected = Callable[[dict[str, Any], dict[str, Any], Header], Mapping[str, Tensor]]
"""Makes, of a config, documents and a header, the tensors expected, such as on the meta device."""


def load_model(
    folder: Path, task: str, expected: Expected | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Read a model folder: its config, its weights, and its further documents by file name.

    No weights are read but those ``expected``, and no more bytes than these have.

    Raises:
        OstinatoError: if there is no model, one of another task, or of a later format.
        DamagedError: if a file is missing or damaged.
    """
    config = read_config(folder)
    if config["task"] != task:
        raise OstinatoError(f"{folder}: expected a model of {task}, got {config['task']:.40}.")
    documents: dict[str, Any] = {}

    def allow(files: Mapping[str, bytes], header: Header) -> int:
        nonlocal config, documents
        documents = {name: from_json(data, folder / name) for name, data in files.items()}
        config = _checked_config(documents.pop("config.json"), folder / "config.json")
        if expected is None:
            return sys.maxsize
        with parts_of(folder):
            tensors = expected(config, documents, header)
            found = {name: list(each["shape"]) for name, each in header.items()}
            shapes = {name: list(each.shape) for name, each in tensors.items()}
            for name in sorted(found.keys() ^ shapes.keys()) or list(shapes):
                if found.get(name) != shapes.get(name):
                    raise DamagedError(
                        f"{folder}: its parts do not fit together: {name:.80} has the shape "
                        f"{found.get(name)} in {WEIGHTS}; expected {shapes.get(name)}."
                    )
            sizes = (each.numel() * each.element_size() for each in tensors.values())
            return 8 + LARGEST_HEADER + sum(sizes)

    files = read_files(folder, "config.json", WEIGHTS, allow=allow)
    weights = unpack_tensors(files[WEIGHTS], folder / WEIGHTS)
    return config, weights, documents


@contextmanager
def parts_of(folder: Path, *clear: type[Exception]) -> Iterator[None]:
    """Turn whatever the block raises on the parts of a model or run into an error of ours.

    Errors that are ``clear`` without the folder's name stay as they are.
    """
    try:
        yield
    except clear:
        raise
    except (DamagedError, MissingExtra):
        raise
    except MemoryError as error:
        raise OstinatoError(f"{folder}: it needs more memory than there is.") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedError(f"{folder}: its parts do not fit together: {reason:.300}") from error


def holds_model(folder: Path) -> bool:
    """Return whether ``folder`` holds a complete model."""
    # In the order in which files move.
    return (folder / _COMMIT / "config.json").exists() or (folder / "config.json").exists()


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
    with _newest(folder, "config.json") as file:
        return _checked_config(from_json(_limited(file, path), path), path)


def _checked_config(config: Any, path: Path) -> dict[str, Any]:
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise OstinatoError(
            f"{path}: format {version!r:.40}; this version of Ostinato reads 1 to {FORMAT}: "
            "upgrade it."
        )
    return check_types(config, path, task=str, parameters=dict, resolved=dict, training=dict)


def read_file(path: Path, most: int = LARGEST_JSON) -> bytes:
    """Read a regular file of at most so many bytes."""
    with open_file(path) as file:
        return _limited(file, path, most)


def check_types(document: Any, origin: Path, **types: type) -> dict[str, Any]:
    """Return a JSON object if its members are of these types; a `DamagedError` otherwise."""
    known = document if isinstance(document, dict) else {}
    for name, expected in types.items():
        if not isinstance(known.get(name), expected):
            raise DamagedError(
                f"{origin}: damaged: {name!r} is {known.get(name)!r:.40}; expected a "
                f"{expected.__name__}."
            )
    return known


def to_json(document: Any) -> bytes:
    """Return a JSON document as indented text; an `OstinatoError` if it is too large to load."""
    data = (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode(
        errors="surrogatepass"
    )
    if len(data) > LARGEST_JSON:
        raise OstinatoError(
            f"what a model knows of its data takes {len(data):,} bytes as JSON; expected "
            f"{LARGEST_JSON:,} at most: choose a smaller vocabulary, or fewer series."
        )
    return data


def from_json(data: bytes, origin: Path) -> Any:
    """Parse a JSON document; errors name ``origin``."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{origin}: not JSON: {error}") from None
