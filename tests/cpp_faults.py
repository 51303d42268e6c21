"""Faults planted in the compiled core one at a time, and whether its check notices.

``python tests/cpp_faults.py [word ...]`` compiles the check of the core against each fault whose
description holds one of the words, runs it, prints what became of it, and fails if a fault lives or
the sound core does not pass. All faults stand in one copy of the sources: OSTINATO_FAULT=n, given
to the compiler, lets the n-th take the place of the sound line.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import core_check

HANGS = 3600  # seconds; no machine is so slow

# The file, what is wrong, a piece of a line and what stands there instead.
FAULTS = """
cells.hpp: LSTM: i and f swapped
- c = fma(f, c_before, i * g);
+ c = fma(i, c_before, f * g);

cells.hpp: LSTM: dc is not cut by the forget gate
- dc = d * f;
+ dc = d;

cells.hpp: relu: NaN becomes zero
- return a < T(0) ? Vec<T>{} : a;
+ return a > T(0) ? a : Vec<T>{};

cells.hpp: relu: slope 1 at 0
- return h <= T(0) ? Vec<T>{} : splat(T(1));
+ return h < T(0) ? Vec<T>{} : splat(T(1));

cells.hpp: relu: slope 0 at NaN
- return h <= T(0) ? Vec<T>{} : splat(T(1));
+ return h > T(0) ? splat(T(1)) : Vec<T>{};

cells.hpp: GRU: the gradient of hn is that of n
- hn = dn * r;
+ hn = dn;

activations.hpp: exp in float overflows
- x = at_most(at_least(x, -87.0f), 88.0f);
+ ;

activations.hpp: exp in double overflows
- x = x > 709.0 ? splat(709.0) : x;
+ ;

activations.hpp: tanh in double: the series reaches too far
- return s < 0.01 ? near : far;
+ return s < 0.25 ? near : far;

simd.hpp: the last lane of a tail is not read
- for (int i = 0; i < n; ++i) lanes[i] = p[i];
+ for (int i = 0; i + 1 < n; ++i) lanes[i] = p[i];

simd.hpp: a whole vector is written over a tail
- for (int i = 0; i < n; ++i) p[i] = v[i];
+ for (int i = 0; i < W<T>; ++i) p[i] = v[i];

gemm.hpp: tiles: seven or eight rows are taken for six
- while (n - row >= most && !(most == 6
+ while (n - row >= most - 1 && !(most == 6

gemm.hpp: tiles: the last row is left out
- for (; row < n; ++row) tile(row, Constant<1>{});
+ for (; row + 1 < n; ++row) tile(row, Constant<1>{});

gemm.hpp: a single row: one panel too many
- for (; p + M <= p1; p += M)
+ for (; p + M <= p1 + 1; p += M)

gemm.hpp: the last parts of four are added twice
- for (; i < k; ++i, panel += NV * W<T>) step(row(i), panel);
+ for (i -= i > 3; i < k; ++i, panel += NV * W<T>) step(row(i), panel);

gemm.hpp: a later part of k starts from nothing
- acc[r][v] = first ? begin(row + r, vector + v) : load(kept + (r * NV + v) * W<T>);
+ acc[r][v] = begin(row + r, vector + v);

lines.hpp: GRU: the sections of the recurrent product in another order
- h = {0, 3, {2, 0, 1}}
+ h = {0, 3, {2, 1, 0}}

lines.hpp: reverse by T, not by length
- return reverse ? length(j) - 1 - t : t;
+ return reverse ? all_steps - 1 - t : t;

lines.hpp: ragged rows in the wrong order
- return order ? order[part + j * parts] : block.begin + j;
+ return part + j * parts;

lines.hpp: a finished row is carried a step too far
- while (most > 0 && length(most - 1) <= t) --most;
+ while (most > 0 && length(most - 1) < t) --most;

lines.hpp: an idle thread takes part
- if (within >= parts * units) return;
+ if (within > parts * units) return;

lines.hpp: shares leave a remainder
- end(n * (part + 1) / parts) {}
+ end(n / parts * (part + 1)) {}

forward.hpp: b_hh added twice
- if (s.cell != CellKind::gru) bias[g * Hp + u] = x + h;
+ if (s.cell != CellKind::gru) bias[g * Hp + u] = x + h + h;

forward.hpp: GRU: b_hn outside of the reset gate
- bias[3 * Hp + u] = x, bias[u] = h;
+ bias[3 * Hp + u] = x + h, bias[u] = T(0);

forward.hpp: reset before: h instead of r * h
- store(to + lines.rh, reset * load_part(
+ store(to + lines.rh, load_part(

forward.hpp: the lines of a chunk overwrite each other
- m.ring + (t % m.chunk * p.rows
+ m.ring + (t % (m.chunk / 2 + 1) * p.rows

forward.hpp: the last step of a chunk is left out
- const int64_t t1 = t0 + m.chunk < end ? t0 + m.chunk : end;
+ const int64_t t1 = t0 + m.chunk < end ? t0 + m.chunk - 1 : end;

forward.hpp: no barrier between the steps of split units
- me.wait(group, units);
+ ;

forward.hpp: padding of y: one step is not zeroed
- for (int64_t t = p.length(j); t < s.steps; ++t)
+ for (int64_t t = p.length(j) + 1; t < s.steps; ++t)

backward.hpp: dc is not carried
- store(carry, dc);
+ ;

backward.hpp: dh_n at the last step of the batch, not of the row
- if (g.dh_n && t == p.length(j) - 1)
+ if (g.dh_n && t == s.steps - 1)

backward.hpp: dh0 missing in rows without a step
- for (int64_t j = later; j < p.rows; ++j)  // rows without a step
+ for (int64_t j = p.rows; j < p.rows; ++j)

backward.hpp: projection: dh is not kept
- store_part(m.line[j] + lines.dh + v * W<T>, dh, P - v * W<T>);
+ ;

backward.hpp: reset before: the gradient of r without h
- drh * before * r * (T(1) - r));
+ drh * r * (T(1) - r));

backward.hpp: no barrier between the steps of split units
- me.wait(group, units);
+ ;

backward.hpp: dx of the second direction overwrites the first's
- return i > 0 && left > 0 ?
+ return i > 1 && left > 0 ?

backward.hpp: a step is silent although dh_n comes in
- if (t == p.length(j) - 1 && (g.dh_n || g.dc_n)) return false;
+ ;

backward.hpp: the lines of skipped steps are taken as they are
- if (dead[i][place]) std::memset(
+ if (false) std::memset(

backward.hpp: the numbers of a copied line begin one too late
- std::memcpy(m.copies + row * copied_lines + i * R, m.lines[i] + r0 + row,
+ std::memcpy(m.copies + row * copied_lines + i * R, m.lines[i] + r0 + row + 1,

backward.hpp: a block of lines too long by one
- if (++n == block_lines) flush();
+ if (++n > block_lines) flush();

backward.hpp: a share of the weights' gradient lost on four threads
- if (m0 >= m1) return;
+ if (m0 >= m1 || me.index == 3) return;

backward.hpp: GRU: db_hh is db_ih
- { return s.cell == CellKind::rnn || s.cell == CellKind::lstm; }
+ { return s.cell != CellKind::gru_reset_before; }

backward.hpp: h before a step of the reverse direction
- const int64_t before = d.reverse ? t + 1 : t - 1;
+ const int64_t before = t - 1;

backward.hpp: the gradient of a table's row goes to another
- T* to = sums + s.tokens[time * s.tokens_t + b * s.tokens_b] * lines.length;
+ T* to = sums + s.tokens[b * s.tokens_b] * lines.length;

core.cpp: rows by rising length
- return s.lengths[a] > s.lengths[b];
+ return s.lengths[a] < s.lengths[b];

lines.hpp: gates are looked for in another place
- x.at == 0 ? g * Hp : -Hp
+ x.at == 0 ? g * Hp : Hp

core.cpp: memory for one thread only
- workspace.get(std::max(memory(s, threads), memory(s, 1)));
+ workspace.get(memory(s, 1));

quantized.hpp: a column has its neighbour's scale
- scale[to] = largest / 127.0f;
+ scale[to ^ 1] = largest / 127.0f;

quantized.hpp: the sum does not start from what ~w leaves out
- return row.below - Int{};
+ return row.below * 0 - Int{};

quantized.hpp: a second row is multiplied by the signs of the first
- const auto x = Way::of(rows[r], i + 4 * half);
+ const auto x = Way::of(rows[0], i + 4 * half);

quantized.hpp: one of the two sums of a row is lost
- sums == 2 ? part[0][r][v] + part[sums - 1][r][v]
+ sums == 2 ? part[0][r][v] + part[0][r][v] * 0

quantized.hpp: the largest number is 128
- const float largest = magnitude(numbers, k), inverse = largest > 1e-30f ? 127.0f / largest
+ const float largest = magnitude(numbers, k), inverse = largest > 1e-30f ? 128.0f / largest

quantized.hpp: NaN in a row is lost
- poison += x * 0.0f;
+ ;

quantized.hpp: a column's scale stands behind them all
- const int64_t columns = count * width * W<float>;
+ const int64_t columns = count * width * W<float> - 1;

stream.hpp: a stream does not go on from its last step
- if (me.index == 0) s.side = int(side ^ (steps & 1));
+ ;

threads.cpp: subnormal numbers are not flushed
- _mm_setcsr(before_ | 0x8040);
+ _mm_setcsr(before_);

threads.cpp: the caller's control word stays changed
- ~FlushSubnormals() { _mm_setcsr(before_); }
+ ~FlushSubnormals() {}

threads.cpp: the caller does not wait for the last worker
- me.wait();  // for the last of them
+ ;

threads.cpp: a worker too many
- if (index >= count) continue;
+ if (index > count) continue;

threads.cpp: a forked child waits for its parent's workers
- is_child.store(true), start_afresh();
+ is_child.store(true);

threads.cpp: nothing says that the workers' results are there
- arrived.fetch_add(1, std::memory_order_acq_rel)
+ arrived.fetch_add(1, std::memory_order_relaxed)

threads.cpp: who sleeps at a barrier is not woken
- if (sleeping.load() > 0) wake_all(generation);
+ ;

backward.hpp: a window starts without the carry of the one after
- is_first && u < Hp
+ u < Hp

backward.hpp: a window forgets which rows have the step after
- int64_t later = is_first ? 0 : m.later;
+ int64_t later = 0;

backward.hpp: every window's sums begin anew
- const bool go_on = window.end < s.steps;
+ const bool go_on = false;

backward.hpp: the gradient of a table takes the last window alone
- for (int64_t r = 0; steps.end == s.steps && r < s.table_rows; ++r)
+ for (int64_t r = 0; r < s.table_rows; ++r)

lines.hpp: the ring of lines has no place for the step after a window
- t % (s.checkpoint_every + 1)
+ t % s.checkpoint_every

lines.hpp: every window starts from the first checkpoint
- t / s.checkpoint_every - 1 : 0
+ 0 : 0

forward.hpp: c is kept a step late
- (t + 1) % s.checkpoint_every == 0
+ t % s.checkpoint_every == 0

scan.hpp: a complex product without the product of the imaginary parts
- sum.re = fma(x.re, y.re, fma(-x.im, y.im, z.re));
+ sum.re = fma(x.re, y.re, z.re);

scan.hpp: the gradient takes a, not its conjugate
- x.im = -x.im;
+ ;

scan.hpp: a tile leaves its last vector out
- first += tile_vectors) {
+ first += tile_vectors + 1) {

scan.hpp: a reset lets h through
- if (s.resets && s.resets[t * s.rows + row]) return nullptr;
+ ;

scan.hpp: padding of h is not zeroed
- N{}.write(h + i, size - i, size);
+ ;

scan.hpp: h_n is that of the last step of the batch
- const int64_t n = s.length(row);
+ const int64_t n = s.steps;

scan.hpp: a reset lets the gradient through
- carry[place] = starts ? N{} : N
+ carry[place] = N

scan.hpp: the gradient of a shared a is that of the first step
- sum[place] = N::multiply_add(d, past, sum[place]);
+ sum[place] = N::multiply_add(d, past, N{});

elements.hpp: softplus: the series is too short
- splat(T(1) / T(n)));
+ splat(n > 9 ? T(0) : T(1) / T(n)));

scan.hpp: a function: rows lie side by side
- load_part(m.x + row * m.x_row + column, left)
+ load_part(m.x + row * m.columns + column, left)

elements.hpp: a function: the gradient of tanh is that of a sigmoid
- return dy * one_minus_square(x);
+ return dy * (x * (T(1) - x));

scan.hpp: a product: the last columns have no bias
- i < mine.end * W<T>; ++i) m.bias[i]
+ i + W<T> < mine.end * W<T>; ++i) m.bias[i]

scan.hpp: a product: nobody waits for the packed weights
- me.wait();
+ ;

selection.hpp: a selective scan: the states that fill no block are left out
- for (; n < memory; ++n) f(
+ for (; n + 1 < memory; ++n) f(

selection.hpp: a selective scan: a reset lets c through
- for (Vec<T>& each : c) each = Vec<T>{};
+ for (Vec<T>& each : c) each = each;

selection.hpp: a selective scan: y begins anew with each block of states
- Vec<T> sum = n0 ? load_part(y, f.left) : f.direct() * f.v(t);
+ Vec<T> sum = f.direct() * f.v(t);

selection.hpp: a selective scan: c is kept of the first chunk only
- kept + at, s.c_n + at
+ s.kept + at, s.c_n + at

selection.hpp: a selective scan: padding of y is not zeroed
- std::memset(s.y + (t * s.rows + row) * s.size + first, 0, size_t(bytes));
+ ;

selection.hpp: a selective scan: a sum over features leaves a lane out
- for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
+ for (int l = 0; l + (half > 1) < half; ++l) sums[l] += sums[l + half];

selection.hpp: a selective scan: backward: a reset lets c through
- starts ? Vec<T>{} : c[i][n], x
+ c[i][n], x

selection.hpp: a selective scan: backward: a reset lets the gradient through
- carry[n] = starts ? Vec<T>{} : past;
+ carry[n] = past;

selection.hpp: a selective scan: backward: the exponent's gradient takes the c after
- past * c[i][n];
+ past * c[i + 1][n];

selection.hpp: a selective scan: the gradient of C takes the c before
- fma(dy, c[i + 1][n],
+ fma(dy, c[i][n],

selection.hpp: a selective scan: the gradient of d forgets its input
- own = fma(dx, v, own), dx
+ dx

selection.hpp: a selective scan: the gradient of v has nothing of what leads past the state
- dx = fma(dy, D, dx * d),
+ dx = dx * d,

scan.hpp: a convolution: the last step of a kernel is left out at the end
- t >= c.window - 1 ? c.window : t + 1;
+ t > c.window - 1 ? c.window : t;

scan.hpp: a convolution: the gradient of a kernel is that of its first step
- load_part(c.x + (t + j) * c.x_t + row * c.x_b + e, left), load_part(sum
+ load_part(c.x + t * c.x_t + row * c.x_b + e, left), load_part(sum

scan.hpp: a convolution: y has no bias
- forward && c.bias ? load_part
+ !forward && c.bias ? load_part

elements.hpp: a function: the gradient of silu is that of a sigmoid's value
- return dy * (sigmoid<T>(x) * fma(x, rest, splat(T(1))));
+ return dy * sigmoid<T>(x);

selection.hpp: a selective scan: all features of a tile add to the lanes of the first
- f.e % lanes<T>;
+ 0;

selection.hpp: a selective scan: the sums of a chunk keep those of the one before
- std::memset(p, 0, size_t(selection_chunk * s.memory + W<T>) * 64);
+ (void)p;

elements.hpp: an element: one number in all places is read as many
- return e.step[k] ? load_part
+ return true ? load_part

elements.hpp: an element: of several rows the first is read
- base[int(p.base)][row]) + p.at;
+ base[int(p.base)][0]) + p.at;

elements.hpp: an element: fnma does not negate
- fma(-x(0), x(1), x(2));
+ fma(x(0), x(1), x(2));

elements.hpp: an element: the smaller number
- ((a > b) | (a != a)) ? a : b;
+ ((a < b) | (a != a)) ? a : b;

generated.hpp: elements are not run
- element<T>(p.element[-1 - o->matrix], base, w.vectors, rows);
+ ;

transducer.hpp: a lattice: paths end where no label is written
- s.beta[s.at(0, labels)] = 0;
+ s.beta[s.at(0, 0)] = 0;

transducer.hpp: a lattice: the log of a sum is off by a share of a thousandth
- 1.0 / 7, 1.0 / 5, 1.0 / 3);
+ 1.0 / 7, 1.0 / 5, 1.0 / 3.01);

transducer.hpp: a lattice: no path and no path make no number
- return high == no_path ? high : sum;
+ return sum;

transducer.hpp: a lattice: after the last label comes another
- if (u < labels) s.label[
+ s.label[

transducer.hpp: a lattice: where there is no path gradients are no numbers
- if (total == no_path) return;
+ ;

transducer.hpp: a lattice: padding has gradients
- std::memset(gradients, 0, size_t(l.frames * columns * 2) * sizeof(T));
+ (void)columns;
"""
# Harmless on x86 but for what a compiler may do with it: what ThreadSanitizer is there for.
FOR_THREAD_SANITIZER = {"nothing says that the workers' results are there"}
# Within the memory of the call, in what belongs to nobody.
FOR_ADDRESS_SANITIZER = {"a column's scale stands behind them all"}


class Fault(NamedTuple):
    number: int
    file: str
    what: str
    sound: str
    faulty: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"

    def line(self) -> int:
        """Where it stands, from 0; the place must be there, and only once."""
        text = (core_check.CPP / self.file).read_text(encoding="utf-8")
        count = text.count(self.sound)
        assert count == 1, f"{self}: {self.sound!r} stands {count} times in {self.file}"
        return text[: text.index(self.sound)].count("\n")


def _faults() -> list[Fault]:
    faults = []
    for number, block in enumerate(FAULTS.strip().split("\n\n"), 1):
        title, sound, faulty = block.splitlines()
        file, _, what = title.partition(": ")
        faults.append(
            Fault(number, file, what, sound.removeprefix("- "), faulty.removeprefix("+ "))
        )
    return faults


ALL = _faults()


def plant(folder: Path) -> Path:
    """A copy of the sources that holds every fault, behind OSTINATO_FAULT."""
    sources = folder / "cpp"
    shutil.copytree(core_check.CPP, sources)
    for file in {fault.file for fault in ALL}:
        lines = (sources / file).read_text(encoding="utf-8").splitlines()
        here = [fault for fault in ALL if fault.file == file]
        for at in {fault.line() for fault in here}:
            planted = []
            for fault in here:
                if fault.line() == at:
                    planted.append(f"#{'el' if planted else ''}if OSTINATO_FAULT == {fault.number}")
                    planted.append(lines[at].replace(fault.sound, fault.faulty))
            lines[at] = "\n".join([*planted, "#else", lines[at], "#endif"])
        (sources / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sources


class Trial:
    """Compiles and runs the check with one fault or, with number 0, none."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.sources = plant(folder)
        # The one that compiles fastest of those that have fused multiply-adds.
        self.instruction_set = core_check.instruction_sets()[-1]
        if "x86-64-v3" in core_check.instruction_sets():
            self.instruction_set = "x86-64-v3"
        self.sound: dict[str, core_check.Build] = {}
        # Seconds after which a fault counts as one that makes the check run for ever: many times
        # what the sound core takes, once that is known.
        self.limit = HANGS

    def build(self, fault: Fault | None, options: tuple[str, ...] = ()) -> core_check.Build:
        key = " ".join(options)
        if key not in self.sound:
            self.sound[key] = core_check.Build(
                self.folder / f"sound{len(self.sound)}",
                self.instruction_set,
                [*options, "-DOSTINATO_FAULT=0"],
                self.sources,
            )
        if fault is None:
            return self.sound[key]
        return core_check.Build(
            self.folder / f"fault{fault.number}",
            self.instruction_set,
            # A fault may leave something unused.
            [*options, f"-DOSTINATO_FAULT={fault.number}", "-Wno-error"],
            self.sources,
            self.sound[key],
            Path(fault.file).name,
        )

    def outcome(self, fault: Fault | None) -> str:
        """What the check says where it fails; nothing where it passes."""
        runs = [[], ["--threads"]]
        options: tuple[str, ...] = ()
        if fault and fault.what in FOR_THREAD_SANITIZER:
            options, runs = tuple(core_check.SANITIZERS["thread"][0]), [["--threads"]]
        if fault and fault.what in FOR_ADDRESS_SANITIZER:
            options, runs = tuple(core_check.SANITIZERS["address and undefined"][0]), [[]]
        build = self.build(fault, options)
        begun = time.monotonic()
        try:
            for run in runs:
                done = build.run(*run, seconds=self.limit if fault else HANGS)
                if done.returncode:
                    said = [line for line in done.stderr.splitlines() if line.strip("=")]
                    return f"status {done.returncode}: {said[0] if said else ''}"
            if fault is None:
                self.limit = 60 + 20 * (time.monotonic() - begun)
            return ""
        finally:
            if fault:
                shutil.rmtree(build.folder)


def main(words: list[str]) -> int:
    chosen = [fault for fault in ALL if not words or any(word in str(fault) for word in words)]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder))
        for fault in [None, *chosen]:
            since = time.monotonic()
            outcome = trial.outcome(fault)
            fine = bool(outcome) == (fault is not None)
            wrong += not fine
            print(
                f"{time.monotonic() - since:5.1f} s  {'' if fine else 'WRONG: '}"
                f"{fault or 'the sound core'}: {outcome or 'all holds'}",
                flush=True,
            )
    print(f"\n{wrong} wrong of {len(chosen) + 1}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
