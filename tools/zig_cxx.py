"""A C++ compiler for wheels that run on distributions older than this machine's. Used as ``CXX``.

PyPI's ``ziglang`` brings clang, its standard library, and the symbols of every glibc: it compiles
and links all but the kernels, for glibc `GLIBC` and with no need of libstdc++. The kernels,
``cpp/target.cpp`` and ``cpp/scan.cpp``, need no standard library, and GCC's code for them is 1.4 to
1.7 times as fast. They do not depend on the interpreter: with ``KERNELS``, a folder, in the
environment they are compiled once, and their objects kept there for the next wheel.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

GLIBC = "2.28"
KERNELS = ("/target.cpp", "/scan.cpp")


def command(given: list[str], machine: str) -> list[str]:
    """Return the command that compiles or links as the arguments say.

    >>> command(["-march=x86-64-v3", "-c", "cpp/target.cpp"], "x86_64")
    ['g++', '-march=x86-64-v3', '-c', 'cpp/target.cpp']
    >>> command(["-c", "cpp/core.cpp"], "x86_64")[1:7]
    ['-I', '-m', 'ziglang', 'c++', '-target', 'x86_64-linux-gnu.2.28']
    """
    if any(each.endswith(KERNELS) for each in given):
        return ["g++", *given]
    # -I: pip hides the packages of this interpreter from builds in isolation.
    zig = [sys.executable, "-I", "-m", "ziglang", "c++", "-target", f"{machine}-linux-gnu.{GLIBC}"]
    # Last of all, for Debian's Python, one of whose headers includes another by its path there.
    return [*zig, "-idirafter", "/usr/include", *given]


def kept(given: list[str], compiler: str) -> str:
    """Return by which name the object of a kernel is kept: of sources, compiler, options but paths.

    >>> first = kept(["-O3", "-MF", "a.d", "-o", "a.o", "-c", "/a/scan.cpp"], "GCC 12")
    >>> first == kept(["-O3", "-MF", "b.d", "-o", "b.o", "-c", "/b/scan.cpp"], "GCC 12")
    True
    >>> first == kept(["-O2", "-MF", "a.d", "-o", "a.o", "-c", "/a/scan.cpp"], "GCC 12")
    False
    """
    (source,) = (Path(each) for each in given if each.endswith(KERNELS))
    options = [each for each in given if each.startswith("-")]
    found = hashlib.sha256(" ".join([compiler, source.name, *options]).encode())
    for each in sorted(source.parent.glob("*.*pp")):
        found.update(each.name.encode() + each.read_bytes())
    return f"{found.hexdigest()}.o"


def compile_once(found: list[str], given: list[str], folder: Path) -> None:
    """Compile a kernel, or copy its object from those that are kept in a folder."""
    version = subprocess.run([found[0], "--version"], capture_output=True, text=True, check=True)
    there, out = folder / kept(given, version.stdout), given[given.index("-o") + 1]
    if not there.exists():
        subprocess.run(found, check=True)
        folder.mkdir(parents=True, exist_ok=True)
        part = there.with_suffix(f".{os.getpid()}")
        shutil.copy(out, part)
        part.replace(there)
    shutil.copy(there, out)


if __name__ == "__main__":
    given = sys.argv[1:]
    found = command(given, os.uname().machine)
    if found[0] == "g++" and "KERNELS" in os.environ:
        compile_once(found, given, Path(os.environ["KERNELS"]))
    else:
        os.execvp(found[0], found)
