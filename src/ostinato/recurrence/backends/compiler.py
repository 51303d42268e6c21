"""C++ compiled by the system's compiler, loaded, and kept for the next process.

Only what the package itself wrote is compiled, from the cell that a caller gives; nothing is ever
taken from the folder of a model. Results lie in a private folder, ``ostinato`` below
``$XDG_CACHE_HOME`` or ``~/.cache``: others than its owner may not write there, or it is not used.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from ostinato.errors import OstinatoError
from ostinato.recurrence.backends.core import core

HEADERS = ("simd.hpp", "activations.hpp", "functions.hpp")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-w",
)


class NoCompiler(OstinatoError):
    """There is no compiler, or it failed."""


def compiler() -> list[str]:
    """Return the command of the compiler, with options of its own if it is given some.

    ``$OSTINATO_COMPILER``, or the first of c++, g++ and clang++ that there is; ``none`` for none.

    Raises:
        NoCompiler: where there is none.
    """
    asked = os.environ.get("OSTINATO_COMPILER", "")
    if asked == "none":
        raise NoCompiler("OSTINATO_COMPILER is none")
    for name in [asked] if asked else ["c++", "g++", "clang++"]:
        command = shlex.split(name)
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    raise NoCompiler(
        f"OSTINATO_COMPILER: no program {asked}" if asked else "no C++ compiler: install g++"
    )


def load(source: str, floats: str) -> ctypes.CDLL:
    """Compile a source, unless that was done before, and load the result.

    Args:
        source: functions ``extern "C"``, written on cpp/functions.hpp.
        floats: the type ``T`` of its numbers, ``float`` or ``double``.

    Raises:
        NoCompiler: where that cannot be done.
    """
    return _loaded(source, floats, os.environ.get("OSTINATO_COMPILER", ""))


@cache
def _loaded(source: str, floats: str, _: str) -> ctypes.CDLL:
    command, isa = compiler(), core.instruction_set()
    text = (
        f'#include "functions.hpp"\nnamespace ostinato {{\nnamespace OSTINATO_TARGET {{\n'
        f"using T = {floats};\n{source}\n}}\n}}\n"
    )
    headers = _headers()
    march = [f"-march={isa}"] if isa.startswith("x86-64") else []
    flags = [*FLAGS, *march, f"-DOSTINATO_TARGET={isa.replace('-', '_')}"]
    program = Path(command[0]).resolve()
    key = _digest(
        text, *((headers / name).read_text(encoding="utf-8") for name in HEADERS), *command, *flags,
        str(program), str(program.stat().st_size), str(program.stat().st_mtime_ns),
        core.version(),
    )  # fmt: skip
    folder = cache_folder()
    file = folder / f"{key}.so"
    if not (_is_private(file) and _is_whole(file)):
        with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as at:
            code, made = Path(at) / "cell.cpp", Path(at) / "cell.so"
            code.write_text(text, encoding="utf-8")
            run = [command[0], *flags, *command[1:], f"-I{headers}", str(code), "-o", str(made)]
            try:
                done = subprocess.run(run, capture_output=True, text=True, check=False)
            except OSError as error:
                raise NoCompiler(f"{shlex.join(command)}: {error}") from error
            if done.returncode or not made.exists():
                said = (done.stderr.strip() or "no output").splitlines()
                first = next((line for line in said if "error" in line), said[0])
                raise NoCompiler(f"{shlex.join(command)} failed: {first}")
            library = made.read_bytes()
            made.write_bytes(library + hashlib.sha256(library).digest())
            made.chmod(0o700)
            made.replace(file)
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:  # in a folder from which nothing may be run, say
        raise NoCompiler(f"{file}: {error}") from error


def _is_whole(library: Path) -> bool:
    """Tell whether a library ends with its digest: to load a damaged one may end the process."""
    data = library.read_bytes()
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


def recall(key: str) -> str | None:
    """Return the text that `keep` kept for a key, if there is one."""
    file = cache_folder() / f"{_digest(core.version(), key)}.json"
    return file.read_text(encoding="utf-8") if _is_private(file) else None


def keep(key: str, text: str) -> None:
    """Keep a text for a key, for later processes; as far as there is room for it."""
    folder = cache_folder()
    with suppress(OSError), tempfile.TemporaryDirectory(dir=folder, prefix="building-") as at:
        made = Path(at) / "text"
        made.write_text(text, encoding="utf-8")
        made.chmod(0o600)
        made.replace(folder / f"{_digest(core.version(), key)}.json")


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _headers() -> Path:
    """Return the folder with the core's headers: in the package, or of a checkout."""
    package = Path(__file__).parents[2]
    for folder in (package / "cpp", package.parents[1] / "cpp"):
        if (folder / HEADERS[-1]).exists():
            return folder
    raise NoCompiler("this installation of ostinato has no headers of the core")


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ostinato-")


def cache_folder() -> Path:
    """Return the private folder of compiled cells; a temporary one where that cannot be had."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        parent = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
        folder = parent / "ostinato"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(_temporary().name)


def _is_private(path: Path) -> bool:
    """Tell whether something is there, is ours, and nobody else may write it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    mine = found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return mine and not stat.S_ISLNK(found.st_mode)
