"""Which instructions everybody runs with: holding all to AVX2, and finding out what each one uses.

The libraries read the environment when they are loaded, or when they first compute: `hold` comes
before that. What `in_use` tells was asked of the libraries, not taken from the environment.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HELD: dict[str, dict[str, str]] = {
    "avx2": {
        "OSTINATO_ISA": "x86-64-v3",
        "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own loops, and those that torch.compile writes
        "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",  # for the compiler that torch.compile calls
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
    "avx512": {"OSTINATO_ISA": "x86-64-v4"},
}
"""Environment variables by the instruction set that they hold everybody to."""

NAMES = {"avx2": "AVX2", "avx512": "AVX-512", "sse2": "SSE2", "generic": "generic"}
"""As they are printed."""

LABELS = {"x86-64-v3": "avx2", "x86-64-v4": "avx512", "x86-64": "sse2"}
"""By the name that the core has for it."""


def hold(isa: str | None) -> None:
    """Hold everybody to an instruction set, to none if it is None; end where the CPU has it not."""
    for name, value in HELD.get(isa or "", {}).items():
        already = os.environ.get(name, "")
        os.environ[name] = f"{already} {value}".strip() if name == "XLA_FLAGS" else value
    from ostinato import _core

    try:
        _core.instruction_set()
    except ValueError as error:
        sys.exit(str(error))


def march() -> str:
    """Return the ``-march=...`` of a C++ compiler for the instruction set of this process."""
    held = os.environ.get("OSTINATO_ISA", "")
    return held if held in ("x86-64", "x86-64-v3") else "native"


def cpu_model() -> str:
    """The CPU's name, and its family and model where the name says little."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or "unknown"
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.processor() or "unknown")
    if "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']}, model {facts.get('model', '?')})"


# What each one uses

REGISTERS = {128: "x", 256: "y", 512: "z"}
"""First letters of the registers' names, by their bits."""

MATRICES = """
import numpy, sys
if sys.argv[1] == "torch":
    import torch
    torch.randn(64, 64) @ torch.randn(64, 64)
    torch.nn.LSTM(32, 32)(torch.randn(4, 2, 32))
    print("aten", torch.backends.cpu.get_cpu_capability())
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    print("inductor", pick_vec_isa())
else:
    import jax
    jax.jit(lambda x: jax.numpy.tanh(x * 3 + 1))(numpy.ones(4096, "f"))
"""


def in_use(present: Mapping[str, bool]) -> dict[str, str]:
    """Instructions by contender, as the libraries say or as the code that they wrote shows.

    Args:
        present: whether those beside PyTorch take part, see `peers.PRESENT`.
    """
    from ostinato import _core

    found = {"ostinato": NAMES[LABELS.get(_core.instruction_set(), "generic")]}
    output = _run("torch", ONEDNN_VERBOSE="1", MKL_VERBOSE="1")
    mkl = _after(r"^MKL_VERBOSE .*architecture (.*?),? Lnx", output)
    parts = {
        "ATen": _after(r"^aten (\w+)", output),
        "oneDNN": _after(r"^onednn_verbose.*cpu,isa:([^\n]*)", output),
        # On other CPUs than Intel's it does not say more than the family.
        "MKL": mkl.removesuffix(" enabled processors") if "enabled" in mkl else "does not say",
    }
    found["torch"] = "; ".join(f"{name}: {isa}" for name, isa in parts.items() if isa)
    found["torch.compile"] = f"vectors {_after(r'^inductor (.*)', output)}, -march={march()}"
    if present["jax"]:
        found["jax"] = _xla()
    if present["onnxruntime"]:
        found["onnxruntime"] = "as this CPU has them: nothing holds it (MLAS asks the CPU)"
    if present["eigen"]:
        found["eigen"] = f"-march={march()}"
    return {name: isa for name, isa in found.items() if isa}


def _xla() -> str:
    """By the registers in the code that XLA wrote."""
    with tempfile.TemporaryDirectory() as folder:
        flags = os.environ.get("XLA_FLAGS", "")
        _run("jax", XLA_FLAGS=f"{flags} --xla_dump_to={folder} --xla_dump_hlo_as_text")
        files = sorted(Path(folder).rglob("*.o"))
        if not files or not shutil.which("objdump"):
            return f"not known; XLA_FLAGS={flags}" if flags else "not known"
        done = subprocess.run(["objdump", "-d", *files], stdout=subprocess.PIPE, check=True)
    code = done.stdout.decode()
    wide = next((bits for bits in (512, 256, 128) if f"%{REGISTERS[bits]}mm" in code), 0)
    more = re.search(r"%k[1-7]|%[xyz]mm(1[6-9]|2\d|3[01])|%zmm", code)
    return f"AVX{'-512' if more else '2'}, vectors of {wide} bits"


def _run(what: str, **environment: str) -> str:
    """What a process says that multiplies a few matrices with a library."""
    command = [sys.executable, "-c", MATRICES, what]
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout.decode(errors="replace")


def _after(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else ""
