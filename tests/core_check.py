"""Builds the check of the compiled core, ``cpp/check``, and runs it: C++ alone, no Python in it.

``python tests/core_check.py`` builds it under AddressSanitizer with UndefinedBehaviorSanitizer and
under ThreadSanitizer, for the instruction sets of this CPU that matter, and fails on any finding.
``python tests/core_check.py arm`` builds it for 64-bit Arm, runs it in an emulator, and fails if a
check does or the bits are not those of this CPU.
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
PARTS = ["core.cpp", "threads.cpp", "target.cpp", "scan.cpp", "check/check.cpp"]
# What each needs of the CPU, as /proc/cpuinfo calls it; best first.
X86 = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx2", "fma", "bmi1", "bmi2"},
    "x86-64": set(),
}
# 64-bit Arm: the compiler; the emulator, and CPUs of it with 8-bit dot products and without.
ARM_COMPILER = ["aarch64-linux-gnu-g++"]
ARM_EMULATOR = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
ARM_CPUS = ["max", "cortex-a53"]
ARM_PACKAGES = "g++-aarch64-linux-gnu qemu-user"
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


def arm_lacks() -> list[str]:
    """What a check for 64-bit Arm needs and is not installed."""
    return [name for name, *_ in (ARM_COMPILER, ARM_EMULATOR) if shutil.which(name) is None]


def instruction_sets() -> list[str]:
    """What this CPU can run, best first."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return ["generic"]
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    has = [name for name, needed in X86.items() if needed <= flags]
    return has if "x86-64-v3" in has else has[-1:]


def symbols(instruction_set: str) -> list[str]:
    space = instruction_set.replace("-", "_")
    return [f"_ZN8ostinato{len(space)}{space}{table}E" for table in ("6target", "5scans")]


class Build:
    """The program for one instruction set, which stands in for the others, that take their time.

    Args:
        folder: where objects and program go.
        instruction_set: one of `instruction_sets`.
        options: more options for the compiler.
        sources: a copy of ``cpp``.
        sound: a build of the same, whose objects serve wherever ``changed`` plays no part.
        changed: a file of ``sources``, by name.
        cross: the compiler for another machine, and what runs its programs here.
    """

    def __init__(
        self,
        folder: Path,
        instruction_set: str,
        options: Sequence[str] = (),
        sources: Path = CPP,
        sound: "Build | None" = None,
        changed: str = "",
        cross: tuple[Sequence[str], Sequence[str]] | None = None,
    ):
        self.folder = folder
        self.compiler, self.runner = cross or (compiler(), ())
        self.program = folder / "check"
        folder.mkdir(parents=True, exist_ok=True)
        objects = []
        for part in PARTS:
            stem = Path(part).stem
            if sound is not None and changed not in sound.needed_by(stem):
                objects.append(sound.folder / f"{stem}.o")
                continue
            objects.append(folder / f"{stem}.o")
            of_target = [
                *([] if instruction_set == "generic" else [f"-march={instruction_set}"]),
                "-ffp-contract=off",
                f"-DOSTINATO_TARGET={instruction_set.replace('-', '_')}",
                f'-DOSTINATO_TARGET_NAME="{instruction_set}"',
            ]
            own = {
                "target.cpp": of_target,
                "scan.cpp": of_target,
                "core.cpp": ['-DOSTINATO_VERSION="of the check"'],
            }
            self._call(
                [*OPTIONS, *options, *own.get(part, []), "-MMD", f"-I{sources}", "-c"],
                [sources / part, "-o", objects[-1]],
            )
        aliases = [
            f"-Wl,--defsym={other}={own}"
            for each in X86
            if instruction_set in X86 and each != instruction_set
            for other, own in zip(symbols(each), symbols(instruction_set), strict=True)
        ]
        self._call([*options, *aliases, "-pthread"], [*objects, "-o", self.program])

    def needed_by(self, stem: str) -> set[str]:
        """Names of the files that a part was compiled from."""
        dependencies = (self.folder / f"{stem}.d").read_text()
        return {Path(name).name for name in dependencies.replace("\\\n", " ").split()}

    def _call(self, options: Sequence[str], files: Sequence[object]) -> None:
        command = [*self.compiler, *options, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")

    def run(
        self, *arguments: str, seconds: float = 3600, cpu: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run the program, on a CPU of the emulator; a run that does not return has status 124."""
        runner = [*self.runner, "-cpu", cpu] if cpu else self.runner
        command = [*runner, str(self.program), *arguments]
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


def digest(done: "subprocess.CompletedProcess[str]") -> str:
    """The digest of what a run computed; raises where the run failed."""
    if done.returncode:
        raise RuntimeError(f"{shlex.join(done.args)}\n{done.stderr}")
    return done.stdout.strip().partition("digest ")[2]


def arm_digests(folder: Path, cases: int) -> dict[str, str]:
    """What 64-bit Arm computes, and this CPU by its fused multiply-adds, if it has any."""
    arguments = ["--cases", str(cases), "--patience", "300"]
    arm = Build(folder / "arm", "generic", cross=(ARM_COMPILER, ARM_EMULATOR))
    found = {f"arm {cpu}": digest(arm.run(*arguments, cpu=cpu)) for cpu in ARM_CPUS}
    if instruction_sets()[0] != "x86-64":
        name = "x86-64-v3" if "x86-64-v3" in instruction_sets() else instruction_sets()[0]
        found[name] = digest(Build(folder / "host", name).run(*arguments))
    return found


def arm() -> int:
    """Check the core for 64-bit Arm, where the packages for it are installed."""
    if lacks := arm_lacks():
        print(f"64-bit Arm: skipped without {' and '.join(lacks)}: apt install {ARM_PACKAGES}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        digests = arm_digests(Path(folder), 200)
    print(*(f"{name}: digest {value}" for name, value in digests.items()), sep="\n")
    if len(set(digests.values())) > 1:
        print("The machines give different bits.")
    return int(len(set(digests.values())) > 1)


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
    sys.exit(arm() if sys.argv[1:] == ["arm"] else main())
