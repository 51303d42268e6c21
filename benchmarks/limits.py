"""What keeps the core from its goals: floors that no core of its kind can pass, measured.

    python benchmarks/limits.py [--isa avx2]

- ``half_rows``: the time of a training step of 16 rows beside that of 32, all of 100 steps. Rows of
  unequal length, half of them padding, cannot take less: the longest still has 100 steps, and each
  step costs something of its own.
- ``gates``: nanoseconds of one unit in one step, forward and backward, of what is elementwise in a
  cell, by the core's own functions on numbers in the first cache: a training step takes no less
  than its products at the peak, its gates and an empty function.
- ``products``: seconds of the six products of a training step, 32 rows x 100 steps, by the core's
  own tiles on numbers in the cache, of the shapes that they have on so many threads: what is left
  of the peak where a tile begins and ends for few multiplications.
- ``empty_function``: microseconds of a training step of a layer whose `torch.autograd.Function`
  computes nothing, 1 row x 100 steps, 32 units, beside that of `ostinato.RNN`.
- ``reads``: GB/s at which one core adds up the numbers of a block, by its size. A stream reads all
  its weights at every step.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import instructions
import numpy as np
from speed import RESULTS, machine, usable_cores

CELLS = ("rnn", "lstm", "gru")
SIZES = (32, 64, 128, 256, 512)
SMALL = (32, 64, 128)
CORE = Path(__file__).parents[1] / "cpp"
BLOCKS = (0.5, 2.0, 8.0)  # MB


def in_turns(works: dict[Any, Callable[[], object]], turns: int) -> dict[Any, float]:
    """Median seconds of each, taken in turns after two that do not count."""
    times: dict[Any, list[float]] = {name: [] for name in works}
    for turn in range(turns + 2):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def half_rows() -> dict[str, dict[int, float]]:
    """By cell and size: time of 16 rows over time of 32."""
    import torch

    import ostinato

    found: dict[str, dict[int, float]] = {cell: {} for cell in CELLS}
    for cell in CELLS:
        for H in SIZES:
            layer = getattr(ostinato, cell.upper())(H, H)

            def step(B: int, layer: Any = layer, H: int = H) -> Callable[[], object]:
                x, dy = torch.randn(100, B, H, requires_grad=True), torch.randn(100, B, H)
                return lambda: layer(x)[0].backward(dy)

            times = in_turns({B: step(B) for B in (16, 32)}, max(9, 4000 // H))
            found[cell][H] = times[16] / times[32]
    return found


def empty_function() -> dict[str, float]:
    """Microseconds of a training step with all that autograd does, and of ours."""
    import torch
    from torch import Tensor

    import ostinato

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, h: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            ctx.save_for_backward(x, h, *weights)
            return torch.empty_like(x), torch.empty_like(h)

        @staticmethod
        def backward(ctx: Any, dy: Tensor, dh: Tensor) -> Any:  # type: ignore[override]
            return tuple(torch.empty_like(t) for t in ctx.saved_tensors)

    layer = ostinato.RNN(32, 32)
    weights = list(layer.parameters())
    x, h = torch.randn(100, 1, 32, requires_grad=True), torch.zeros(1, 1, 32)
    dy = torch.randn(100, 1, 32)
    times = in_turns(
        {
            "an empty function": lambda: Empty.apply(x, h, *weights)[0].backward(dy),
            "ostinato": lambda: layer(x)[0].backward(dy),
        },
        3000,
    )
    return {name: 1e6 * seconds for name, seconds in times.items()}


def compiled(source: str, folder: str, *options: str) -> ctypes.CDLL:
    """A library of C++ for the instruction set that everybody is held to."""
    library = str(Path(folder, "limits.so"))
    command = ["g++", "-x", "c++", "-", "-O3", "-march=" + instructions.march(), *options]
    subprocess.run(
        [*command, "-shared", "-fPIC", "-o", library], input=source, text=True, check=True
    )
    return ctypes.CDLL(library)


GATES = """
#define OSTINATO_TARGET limits
#include "cells.hpp"
using namespace ostinato;
using namespace ostinato::limits;

// Sections of `units` numbers come in and go out, as from a line.
extern "C" void steps(int cell, const float* in, float* out, int units, long times) {
    while (times--)
        for (int u = 0; u < units; u += W<float>) {
            auto get = [&](int section) { return load(in + section * units + u); };
            auto put = [&](int section, Vec<float> v) { store(out + section * units + u, v); };
            const Vec<float> before = get(4), dh = get(5);
            if (cell == 0) {
                const Vec<float> h = tanh(get(0));
                put(0, h), put(1, dh * slope<float>(Activation::tanh, h));
            } else if (cell == 1) {
                LSTMUnit<float> unit{get(0), get(1), get(2), get(3), {}};
                unit.forward(before);
                put(0, unit.o * tanh(unit.c));
                Vec<float> dc = get(6);
                unit.backward(dh, dc, before);
                put(1, unit.i), put(2, unit.f), put(3, unit.g), put(4, unit.o), put(5, dc);
            } else {
                GRUUnit<float> unit{get(0), get(1), get(2), get(3)};
                put(0, unit.forward(before));
                put(5, unit.backward(dh, before));
                put(1, unit.r), put(2, unit.z), put(3, unit.n), put(4, unit.hn);
            }
        }
}
"""


def gates() -> dict[str, float]:
    """Nanoseconds of a unit's step by cell; empty without a C++ compiler."""
    if shutil.which("g++") is None:
        return {}
    units, times = 64, 2000
    sections = np.random.default_rng(0).standard_normal((7, units), dtype=np.float32)
    room = np.empty((6, units), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        steps = compiled(GATES, folder, f"-I{CORE}", "-ffp-contract=off").steps
        arrays = [ctypes.c_void_p(array.ctypes.data) for array in (sections, room)]
        works = {
            cell: functools.partial(steps, number, *arrays, units, ctypes.c_long(times))
            for number, cell in enumerate(CELLS)
        }
        seconds = in_turns(works, 100)
    return {cell: 1e9 * each / units / times for cell, each in seconds.items()}


PRODUCTS = """
#define OSTINATO_TARGET limits
#include "gemm.hpp"
using namespace ostinato;
using namespace ostinato::limits;

// n rows of k numbers times k x columns: sums that begin with what is there, as a step's do.
extern "C" void rows(const float* a, const float* b, float* y, int n, int k, int columns,
                     long times) {
    const float* row[64];
    for (int r = 0; r < n; ++r) row[r] = a + r * k;
    Panels<float> panels(columns / W<float>, k, panel_width(columns / W<float>));
    panels.data = const_cast<float*>(b);
    float partial[64 * 4 * W<float>];
    auto at = [&](int64_t r, int64_t v) { return y + r * columns + v * W<float>; };
    auto begin = [&](int64_t r, int64_t v) { return load(at(r, v)); };
    auto end = [&](int64_t r, int64_t v, Vec<float> sum) { store(at(r, v), sum); };
    while (times--) multiply<float>(panels, 0, panels.count, row, n, partial, begin, end);
}

// The sum over n rows of the products of a row's `height` numbers with a row's `columns`.
extern "C" void sums(const float* a, const float* b, float* y, int n, int height, int columns,
                     long times) {
    const int vectors = columns / W<float>;
    while (times--)
        with_width(panel_width(vectors), [&](auto width) {
            constexpr int NV = decltype(width)::value;
            for (int p = 0; p < vectors / NV; ++p)
                for_tiles<NV>(height, [&](int64_t row, auto tile) {
                    constexpr int R = decltype(tile)::value;
                    float* to = y + (p * height + row) * NV * W<float>;
                    Vec<float> acc[R][NV];
                    for (int r = 0; r < R; ++r)
                        for (int v = 0; v < NV; ++v) acc[r][v] = load(to + (r * NV + v) * W<float>);
                    auto numbers = [&](int64_t i) { return a + i * height + row; };
                    accumulate_transposed<float, R, NV>(acc, numbers, b + p * n * NV * W<float>, n);
                    for (int r = 0; r < R; ++r)
                        for (int v = 0; v < NV; ++v) store(to + (r * NV + v) * W<float>, acc[r][v]);
                });
        });
}
"""


def products() -> dict[str, dict[int, float]]:
    """Seconds by cell and size, shared by all threads; empty without a C++ compiler."""
    if shutil.which("g++") is None:
        return {}
    threads = usable_cores()
    numbers = np.random.default_rng(0).standard_normal((3, 1 << 18), dtype=np.float32)
    arrays = [ctypes.c_void_p((array.ctypes.data + 63) // 64 * 64) for array in numbers]
    found: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(PRODUCTS, folder, f"-I{CORE}", "-ffp-contract=off")
        for cell, gates in (("rnn", 1), ("lstm", 4), ("gru", 3)):
            found[cell] = {}
            for H in SMALL:
                G, own = gates * H, 32 // threads
                # Function, rows, k or height, columns; and rows of a thread in a training step.
                shapes = [
                    ("rows", own, H, G, 100 * own),  # a step's recurrent product
                    ("rows", own, G, H, 100 * own),  # its gradient
                    ("rows", 48, H, G, 100 * own),  # the input's product
                    ("rows", 48, G, H, 100 * own),  # its gradient
                    ("sums", 128, G, 2 * H, 100 * own),  # the weights' gradients
                ]
                works = {
                    i: functools.partial(getattr(library, name), *arrays, *sizes, ctypes.c_long(20))
                    for i, (name, *sizes, _) in enumerate(shapes)
                }
                times = in_turns(works, 100)
                found[cell][H] = sum(
                    shape[4] / shape[1] * times[i] / 20 for i, shape in enumerate(shapes)
                )
    return found


ADDING = """
typedef int Vector __attribute__((vector_size(32)));
extern "C" int add_up(const Vector* block, long vectors, long times) {
    Vector sum[4] = {};
    while (times--) {
        for (long i = 0; i < vectors; i += 4) {
            __builtin_prefetch(block + i + 32);
            for (int j = 0; j < 4; ++j) sum[j] += block[i + j];
        }
        asm volatile("" ::: "memory");
    }
    return (sum[0] + sum[1] + sum[2] + sum[3])[0];
}
"""


def reads() -> dict[float, float]:
    """GB/s by the size of a block in MB; empty without a C++ compiler."""
    if shutil.which("g++") is None:
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        add_up = compiled(ADDING, folder).add_up
        for size in BLOCKS:
            vectors, times = int(size * 1e6) // 128 * 4, int(40 / size)
            block = np.ones(8 * (vectors + 1), dtype=np.int32)
            place = ctypes.c_void_p((block.ctypes.data + 31) // 32 * 32)
            call = functools.partial(add_up, place, ctypes.c_long(vectors), ctypes.c_long(times))
            found[size] = 32e-9 * vectors * times / in_turns({size: call}, 100)[size]
    return found


def main() -> None:
    """Measure all, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--isa", choices=instructions.HELD, help="hold everybody to it")
    parser.add_argument("--out", type=Path, help="JSON file; results/limits-ISA.json if not given")
    a = parser.parse_args()
    instructions.hold(a.isa)
    import torch

    torch.set_num_threads(usable_cores())
    results = {
        "machine": machine(usable_cores()),
        "half_rows": half_rows(),
        "gates": gates(),
        "products": products(),
        "empty_function": empty_function(),
        "reads": reads(),
    }
    path = a.out or RESULTS / f"limits-{results['machine']['isa']}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name in ("half_rows", "gates", "products", "empty_function", "reads"):
        print(name, json.dumps(results[name]))
    print(path)


if __name__ == "__main__":
    main()
