"""Networks as C files: right, fast and small? And a keyword spotter for a microcontroller.

    python benchmarks/microcontrollers.py networks       200 random networks, float32 and 8 bits
    python benchmarks/microcontrollers.py speed          a step beside ONNX Runtime's
    python benchmarks/microcontrollers.py keyword DATA   spoken digits: accuracy, flash, RAM

Needs gcc; for the sizes on a Cortex-M4 gcc-arm-none-eabi, for the emulator qemu-system-arm.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from speed import RESULTS, machine

import ostinato
from ostinato.data.features import read_sound
from ostinato.deploy.c_export import program_of, texts_of, write_c
from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import (
    CellName,
    ManyToMany,
    ManyToOne,
    PoolingKind,
    recurrent_layers,
)
from ostinato.networks.convolution import Convolutions
from ostinato.networks.outputs import Output

ARM = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]
FAST = ["gcc", "-std=c99", "-O3", "-march=native"]
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]


def random_network(rng: np.random.Generator, cell: CellName) -> torch.nn.Module:
    """Draw a network with a cell: sizes, layers, input, pooling and convolutions."""
    I, H, K = (int(rng.integers(1, n)) for n in (9, 40, 9))
    H += -H % 4 if cell in ("mlstm", "slstm") else 0
    layers = int(rng.integers(1, 4))
    torch.manual_seed(int(rng.integers(1 << 30)))
    residual = bool(rng.integers(2)) and layers > 1
    options: dict[str, Any] = {"num_layers": layers, "residual": residual}
    if cell == "lstm" and not residual and H > 2 and rng.integers(3) == 0:
        recurrent: Any = ostinato.LSTM(I, H, layers, batch_first=True, proj_size=H // 2)
    else:
        zoneout = 0.2 * int(rng.integers(4) == 0)
        recurrent = recurrent_layers(cell, I, H, zoneout=zoneout, **options)
    with torch.no_grad():
        for weight in recurrent.parameters():
            weight.uniform_(-1, 1).div_(max(1, weight.shape[-1]) ** 0.5)
    width = recurrent.output_size
    kind = int(rng.integers(4))
    if kind == 0:
        return torch.nn.Module.eval(recurrent)
    encode = torch.nn.Embedding(7, I) if rng.integers(2) else torch.nn.Identity()
    if kind == 1:
        return ManyToMany(encode, recurrent, Output(width, K)).eval()
    pooling = rng.choice(get_args(PoolingKind))
    convolutions = Convolutions(I, 4, causal=True) if kind == 3 else None
    if convolutions is not None:
        width += convolutions.output_size
    return ManyToOne(encode, recurrent, Output(width, K), pooling, convolutions=convolutions).eval()


def networks(first: int, count: int, folder: Path) -> dict[str, Any]:
    """Compile and run the tests of random networks; return what came of them.

    Each with gcc and with clang, with one of the two under the sanitizers.
    """
    names = get_args(CellName)
    found: dict[str, Any] = {"networks": 0, "refused": [], "failed": []}
    worst = {"float32": 0.0, "int8": 0.0}
    lines: list[str] = []
    for i in range(first, first + count):
        network = random_network(np.random.default_rng(i), names[i % len(names)])
        try:
            with torch.no_grad():
                program = program_of(network)
                for precision in worst:
                    name = f"m{i}_{precision}"
                    written = texts_of(program, name, int8=precision == "int8", header=f"{name}.h")
                    (folder / f"{name}.c").write_text(written.source)
                    (folder / f"{name}.h").write_text(written.header)
                    lines.append(name)
        except OstinatoError as error:
            found["refused"].append(f"{i}, {names[i % len(names)]}: {error}")
        found["networks"] += 1
    for k, begin in enumerate(range(0, len(lines), 20)):
        some = lines[begin : begin + 20]
        tests = "".join(
            f'#define {n.upper()}_TEST\n#define main {n}_main\n#include "{n}.c"\n#undef main\n'
            for n in some
        )
        calls = "".join(f'    printf("{n} ");\n    {n}_main();\n' for n in some)
        text = f"{tests}int main(void)\n{{\n{calls}    return 0;\n}}\n"
        (folder / "all.c").write_text(text)
        sanitizers = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        plain, checked = ("gcc", "clang") if k % 2 == 0 else ("clang", "gcc")
        for build in ([plain, "-O1"], [checked, *sanitizers]):
            subprocess.run([*build, *STRICT, "all.c", "-o", "all", "-lm"], cwd=folder, check=True)
            ran = subprocess.run([folder / "all"], capture_output=True, text=True, check=True)
            results = [line.split() for line in ran.stdout.splitlines()]
            assert [row[0] for row in results] == some, ran.stdout
            for name, *_, difference, _, allowed in results:
                precision = name.partition("_")[2]
                worst[precision] = max(worst[precision], float(difference.rstrip(",")))
                if not float(difference.rstrip(",")) <= float(allowed):
                    found["failed"].append(f"{name}, {' '.join(build)}: {difference} {allowed}")
    return found | {f"largest {name} difference": value for name, value in worst.items()}


def added(known: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return what came of networks, and of those after them."""
    return {
        key: max(known[key], value) if key.startswith("largest") else known[key] + value
        for key, value in more.items()
    }


class Compiled:
    """The C file of a vector or sound program, as a shared library."""

    def __init__(self, source: Path, prefix: str, bytes_of_state: int, outputs: int) -> None:
        library = source.with_suffix(".so")
        subprocess.run(
            [*FAST, "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True
        )
        self.library = ctypes.CDLL(str(library))
        self.prefix = prefix
        self.state = ctypes.create_string_buffer(bytes_of_state + 64)
        self.y = np.zeros(outputs, np.float32)
        self.at = self.y.ctypes.data_as(ctypes.c_void_p)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, f"{self.prefix}_{name}")

    def hear(self, samples: NDArray[np.int16], hop: int) -> NDArray[np.float32]:
        """Return the output after a recording."""
        self.init(self.state)
        for begin in range(0, len(samples), hop):
            part = samples[begin : begin + hop]
            self.step(self.state, part.ctypes.data_as(ctypes.c_void_p), len(part), self.at)
        self.finish(self.state, self.at)
        return self.y.copy()


def keyword(data: Path, minutes: float) -> dict[str, Any]:
    """Train a small network on spoken digits; accuracy in C with 8 bits, flash and RAM."""
    files = sorted((data / "fsdd" / "recordings").glob("*.wav"))
    numbers = [int(file.stem.split("_")[2]) for file in files]
    training = [f for f, n in zip(files, numbers, strict=True) if n >= 5]
    test = [f for f, n in zip(files, numbers, strict=True) if n < 5]
    model = ostinato.SequenceClassifier(
        bidirectional=False, hidden_size=64, dropout=0.3, minutes=minutes, pooling="attention"
    )
    model.fit(training, [f.stem[0] for f in training], progress="lines")
    found: dict[str, Any] = {"machine": machine(1)}
    guess = {"network": model.predict(test).tolist()}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "int8"):
            at = Path(folder) / f"spotter_{precision}.c"
            exported = write_c(model, at, precision)  # type: ignore[arg-type]
            facts = exported.facts
            c = Compiled(at, at.stem, facts["ram_bytes"], len(model.classes_))
            answers = []
            for file in test:
                samples = np.round(read_sound(file)[0] * 32768).astype(np.int16)
                answers.append(str(model.classes_[c.hear(samples, 80).argmax()]))
            guess[precision] = answers
            found[precision] = facts
            if shutil.which(ARM[0]):
                found[precision] |= arm_sizes(at)
    truth = [f.stem[0] for f in test]
    for name, answers in guess.items():
        right = sum(a == b for a, b in zip(answers, truth, strict=True))
        found[f"accuracy {name}"] = right / len(truth)
    print(json.dumps(found, indent=2))
    return found


def arm_sizes(source: Path) -> dict[str, int]:
    """Return bytes of code, constants and state as compiled for a Cortex-M4, libm included."""
    main = source.with_name("main.c")
    prefix = source.stem
    main.write_text(
        f'#include "{prefix}.h"\nstatic {prefix}_state s;\n'
        f"static int16_t x[{prefix.upper()}_INPUTS];"
        f"static float y[{prefix.upper()}_OUTPUTS];\nint main(void) {{ {prefix}_init(&s); "
        f"for (;;) if ({prefix}_step(&s, x, 1, y)) x[0] = (int16_t)y[0]; }}\n"
    )
    program = source.with_suffix(".elf")
    options = ["-Os", "-std=c99", "-ffunction-sections", "-Wl,--gc-sections", "--specs=nano.specs"]
    subprocess.run(
        [*ARM, *options, "--specs=nosys.specs", str(source), str(main), "-o", str(program), "-lm"],
        check=True,
        capture_output=True,
    )
    out = subprocess.run(
        ["arm-none-eabi-size", program], capture_output=True, text=True, check=True
    )
    text, initialised, zeros = map(int, out.stdout.splitlines()[1].split()[:3])
    return {"arm_flash_bytes": text + initialised, "arm_ram_bytes": initialised + zeros}


def speed(rounds: int) -> dict[str, Any]:
    """Time a step of one stream: C, and ONNX Runtime's session.run, one after the other."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    found: dict[str, Any] = {"machine": machine(1), "onnxruntime": onnxruntime.__version__}
    for kind, H in itertools.product(("LSTM", "GRU"), (32, 64)):
        layer = getattr(ostinato, kind)(H, H)
        names = ["x", "w", "r", "b", "", "h", *(["c"] if kind == "LSTM" else [])]
        order = [0, 3, 1, 2] if kind == "LSTM" else [1, 0, 2]
        w = {n: p.detach().numpy() for n, p in layer.named_parameters()}

        def gates(a: NDArray[Any], order: list[int] = order) -> NDArray[Any]:
            parts = np.split(a, len(order))
            return np.concatenate([parts[i] for i in order])

        bias = np.concatenate([gates(w["bias_ih_l0"]), gates(w["bias_hh_l0"])])
        tables = [
            numpy_helper.from_array(np.ascontiguousarray(a[None]), n)
            for n, a in (
                ("w", gates(w["weight_ih_l0"])),
                ("r", gates(w["weight_hh_l0"])),
                ("b", bias),
            )
        ]
        states = ["h", "c"] if kind == "LSTM" else ["h"]
        node = helper.make_node(
            kind, names, ["y", *(f"{s}n" for s in states)], hidden_size=H,
            **({} if kind == "LSTM" else {"linear_before_reset": 1}),
        )  # fmt: skip
        f32 = TensorProto.FLOAT
        graph = helper.make_graph(
            [node], "step",
            [helper.make_tensor_value_info(n, f32, [1, 1, H]) for n in ("x", *states)],
            [helper.make_tensor_value_info(f"{n}n", f32, [1, 1, H]) for n in states], tables,
        )  # fmt: skip
        onnx_model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(onnx_model.SerializeToString(), options)
        x = np.random.default_rng(0).normal(size=(1, 1, H)).astype(np.float32)
        feed = {"x": x} | {s: np.zeros((1, 1, H), np.float32) for s in states}
        with tempfile.TemporaryDirectory() as folder:
            clocks: dict[str, Any] = {}
            for precision in ("float32", "int8"):
                at = Path(folder) / f"step_{precision}.c"
                facts = write_c(layer, at, precision).facts  # type: ignore[arg-type]
                loop = at.with_name(f"loop_{precision}.c")
                p = at.stem
                loop.write_text(
                    f'#include "{at.name}"\nvoid {p}_many({p}_state *s, const float *x, float *y, '
                    f"int n);\nvoid {p}_many({p}_state *s, const float *x, float *y, int n)\n"
                    f"{{\n    for (int i = 0; i < n; ++i) {p}_step(s, x, y);\n}}\n"
                )
                clocks[precision] = Compiled(loop, p, facts["ram_bytes"], H)
            c = clocks["float32"]
            c.init(c.state)
            place = x.ctypes.data_as(ctypes.c_void_p)
            c.step(c.state, place, c.at)
            first = session.run(None, feed)[0].ravel()
            assert np.abs(first - c.y).max() < 1e-5, "the two do not compute the same"
            times: dict[str, list[float]] = {n: [] for n in ("onnxruntime", *clocks, "called")}
            for _ in range(rounds):
                begin = time.perf_counter()
                for _ in range(25):  # bursts short enough to be left alone by other programs
                    values = session.run(None, feed)
                    feed = {"x": x} | dict(zip(states, values, strict=True))
                times["onnxruntime"].append((time.perf_counter() - begin) / 25)
                for name, c in clocks.items():
                    begin = time.perf_counter()
                    c.many(c.state, place, c.at, 300)
                    times[name].append((time.perf_counter() - begin) / 300)
                c = clocks["float32"]
                step, state, y = c.step, c.state, c.at
                begin = time.perf_counter()
                for _ in range(300):
                    step(state, place, y)
                times["called"].append((time.perf_counter() - begin) / 300)
        middle = {n: statistics.median(t) * 1e6 for n, t in times.items()}
        ratios = [a / b for a, b in zip(times["onnxruntime"], times["float32"], strict=True)]
        row = {f"{n} microseconds": round(t, 3) for n, t in middle.items()}
        row["onnxruntime / float32"] = round(statistics.median(ratios), 1)
        print(kind, H, row)
        found[f"{kind} {H}"] = row
    return found


def main() -> None:
    """Run one part, and keep what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=["networks", "speed", "keyword"])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=200, help="random networks")
    parser.add_argument(
        "--first", type=int, default=0, help="go on from here; what is stored is added to"
    )
    parser.add_argument("--rounds", type=int, default=201, help="rounds of timing")
    parser.add_argument("--minutes", type=float, default=5, help="minutes of training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "microcontrollers.json"
    known = json.loads(path.read_text()) if path.exists() else {}

    def some() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            found = networks(given.first, given.count, Path(folder))
        print(found)
        return added(known["networks"], found) if given.first and "networks" in known else found

    found = {
        "networks": some,
        "speed": lambda: speed(given.rounds),
        "keyword": lambda: keyword(given.data, given.minutes),
    }[given.part]()
    path.write_text(json.dumps(known | {given.part: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
