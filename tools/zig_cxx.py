"""A C++ compiler for wheels that run on distributions older than this machine's. Used as ``CXX``.

PyPI's ``ziglang`` brings clang, its standard library, and the symbols of every glibc: it compiles
and links all but the kernels, for glibc `GLIBC` and with no need of libstdc++. The kernels,
``cpp/target.cpp`` and ``cpp/scan.cpp``, need no standard library, and GCC's code for them is 1.4 to
1.7 times as fast.
"""

import os
import sys

GLIBC = "2.28"


def command(given: list[str], machine: str) -> list[str]:
    """Return the command that compiles or links as the arguments say.

    >>> command(["-march=x86-64-v3", "-c", "cpp/target.cpp"], "x86_64")
    ['g++', '-march=x86-64-v3', '-c', 'cpp/target.cpp']
    >>> command(["-c", "cpp/core.cpp"], "x86_64")[1:7]
    ['-I', '-m', 'ziglang', 'c++', '-target', 'x86_64-linux-gnu.2.28']
    """
    if any(each.endswith(("/target.cpp", "/scan.cpp")) for each in given):
        return ["g++", *given]
    # -I: pip hides the packages of this interpreter from builds in isolation.
    zig = [sys.executable, "-I", "-m", "ziglang", "c++", "-target", f"{machine}-linux-gnu.{GLIBC}"]
    # Last of all, for Debian's Python, one of whose headers includes another by its path there.
    return [*zig, "-idirafter", "/usr/include", *given]


if __name__ == "__main__":
    found = command(sys.argv[1:], os.uname().machine)
    os.execvp(found[0], found)
