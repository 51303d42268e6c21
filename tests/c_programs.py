"""Exported C programs, compiled: as a library to call, and their own tests."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from ostinato.deploy.c_export import program_of, texts_of

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")


class Compiled:
    """A model as a C file in a folder, and as a shared library."""

    def __init__(self, model, folder, precision="float32", options=("-O1",)):
        self.program = program_of(model)
        name = f"m{len([*folder.glob('*.c')])}"
        written = texts_of(self.program, name, int8=precision == "int8", header=f"{name}.h")
        (folder / f"{name}.h").write_text(written.header)
        (folder / f"{name}.c").write_text(written.source)
        library = folder / f"{name}.so"
        build = ["gcc", *STRICT, *options, "-shared", "-fPIC", f"{name}.c", "-o", library, "-lm"]
        subprocess.run(build, cwd=folder, check=True)
        self.library, self.name = ctypes.CDLL(str(library)), name
        self.state = ctypes.create_string_buffer(written.ram + 64)
        self.y = np.zeros(self.program.outputs, np.float32)
        self.call("init", self.state)

    def call(self, name, *args):
        """Call a function; arrays by their address."""
        made = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray)
            else ctypes.c_float(a) if isinstance(a, float) else a
            for a in args
        ]  # fmt: skip
        return getattr(self.library, f"{self.name}_{name}")(*made)

    def run(self, inputs):
        """The outputs after each step of a sequence."""
        self.call("reset", self.state)
        rows = []
        for x in inputs:
            x = int(x) if np.ndim(x) == 0 else np.ascontiguousarray(x, np.float32)
            self.call("step", self.state, x, self.y)
            rows.append(self.y.copy())
        return np.stack(rows)


def differences(programs, folder, compiler, options):
    """Compile the tests of programs as one program, and run it: what it says of each."""
    parts, calls = [], []
    for name, (program, int8) in programs.items():
        written = texts_of(program, name, int8=int8, header=f"{name}.h")
        (folder / f"{name}.h").write_text(written.header)
        (folder / f"{name}.c").write_text(written.source)
        parts.append(f"#define {name.upper()}_TEST\n#define main {name}_main\n")
        parts.append(f'#include "{name}.c"\n#undef main\n')
        calls.append(f'    printf("{name} ");\n    bad += {name}_main();\n')
    main = "int main(void)\n{\n    int bad = 0;\n" + "".join(calls) + "    return bad;\n}\n"
    (folder / "all.c").write_text("".join(parts) + main)
    subprocess.run(
        [*compiler, *STRICT, *options, "all.c", "-o", "all", "-lm"], cwd=folder, check=True
    )


def results(text):
    """The largest difference and what is allowed, by program."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: (float(row[3].rstrip(",")), float(row[5])) for row in rows}
