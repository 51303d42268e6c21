"""Builds the check of the compiled core, ``cpp/check``, and runs it: C++ alone, no Python in it.

``python tests/core_check.py`` builds it under AddressSanitizer with UndefinedBehaviorSanitizer and
under ThreadSanitizer, for the instruction sets of this CPU that matter, and fails on any finding.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CPP = Path(__file__).parent.parent / "cpp"
PARTS = ["core.cpp", "threads.cpp", "target.cpp", "check/check.cpp"]
# What each needs of the CPU, as /proc/cpuinfo calls it; best first.
X86 = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx2", "fma", "bmi1", "bmi2"},
    "x86-64": set(),
}
# As little optimisation as leaves vectors in registers: the core is one large template.
OPTIONS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = {
    "address and undefined": (
        ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        [["--cases", "400"], ["--threads", "--cases", "100"]],
    ),
    "thread": (["-g1", "-fsanitize=thread"], [["--threads", "--cases", "200"]]),
}


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "g++"))


def available() -> bool:
    return sys.platform == "linux" and shutil.which(compiler()[0]) is not None


def instruction_sets() -> list[str]:
    """What this CPU can run, best first."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return ["generic"]
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    has = [name for name, needed in X86.items() if needed <= flags]
    return has if "x86-64-v3" in has else has[-1:]


def symbol(instruction_set: str) -> str:
    space = instruction_set.replace("-", "_")
    return f"_ZN8ostinato{len(space)}{space}6targetE"


class Build:
    """The program for one instruction set, which stands in for the others, that take their time.

    Args:
        folder: where objects and program go.
        instruction_set: one of `instruction_sets`.
        options: more options for the compiler.
        sources: a copy of ``cpp``.
        sound: a build of the same, whose objects serve wherever ``changed`` plays no part.
        changed: a file of ``sources``, by name.
    """

    def __init__(
        self,
        folder: Path,
        instruction_set: str,
        options: Sequence[str] = (),
        sources: Path = CPP,
        sound: "Build | None" = None,
        changed: str = "",
    ):
        self.folder = folder
        self.program = folder / "check"
        folder.mkdir(parents=True, exist_ok=True)
        objects = []
        for part in PARTS:
            stem = Path(part).stem
            if sound is not None and changed not in sound.needed_by(stem):
                objects.append(sound.folder / f"{stem}.o")
                continue
            objects.append(folder / f"{stem}.o")
            own = {
                "target.cpp": [
                    *([] if instruction_set == "generic" else [f"-march={instruction_set}"]),
                    "-ffp-contract=fast",
                    f"-DOSTINATO_TARGET={instruction_set.replace('-', '_')}",
                    f'-DOSTINATO_TARGET_NAME="{instruction_set}"',
                ],
                "core.cpp": ['-DOSTINATO_VERSION="of the check"'],
            }
            self._call(
                [*OPTIONS, *options, *own.get(part, []), "-MMD", f"-I{sources}", "-c"],
                [sources / part, "-o", objects[-1]],
            )
        aliases = [
            f"-Wl,--defsym={symbol(other)}={symbol(instruction_set)}"
            for other in X86
            if instruction_set in X86 and other != instruction_set
        ]
        self._call([*options, *aliases, "-pthread"], [*objects, "-o", self.program])

    def needed_by(self, stem: str) -> set[str]:
        """Names of the files that a part was compiled from."""
        dependencies = (self.folder / f"{stem}.d").read_text()
        return {Path(name).name for name in dependencies.replace("\\\n", " ").split()}

    def _call(self, options: Sequence[str], files: Sequence[object]) -> None:
        command = [*compiler(), *options, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")

    def run(self, *arguments: str, seconds: float = 3600) -> "subprocess.CompletedProcess[str]":
        """Run the program; whoever does not return in time has status 124."""
        command = [str(self.program), *arguments]
        environment = {k: v for k, v in os.environ.items() if k != "OSTINATO_ISA"}
        environment["TSAN_OPTIONS"] = "halt_on_error=1"

        def once(command: list[str]) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, env=environment
            )

        try:
            done = once(command)
            if "unexpected memory mapping" in done.stderr:  # ThreadSanitizer dislikes some layouts
                done = once(["setarch", "-R", *command])
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", "does not return")
        return done


def main() -> int:
    worth_it = [name for name in instruction_sets() if name != "x86-64"] or instruction_sets()
    wrong, digests = 0, set()
    with tempfile.TemporaryDirectory() as folder:
        for sanitizer, (options, runs) in SANITIZERS.items():
            for instruction_set in worth_it:
                since = time.monotonic()
                place = Path(folder, sanitizer.partition(" ")[0], instruction_set)
                build = Build(place, instruction_set, options)
                built = time.monotonic()
                for arguments in runs:
                    done = build.run(*arguments)
                    wrong += done.returncode != 0
                    said = done.stdout.strip() or "FAILED"
                    digests |= {said.partition("digest ")[2]} - {""}
                    print(f"{sanitizer}: {said}\n{done.stderr}", end="")
                print(
                    f"  built in {built - since:.0f} s, run in {time.monotonic() - built:.0f} s",
                    flush=True,
                )
    if len(digests) > 1:
        print("The instruction sets give different bits.")
    return int(wrong > 0 or len(digests) > 1)


if __name__ == "__main__":
    sys.exit(main())
