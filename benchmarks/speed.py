"""Measure the speed of recurrent layers of Ostinato, PyTorch, JAX, ONNX Runtime and Eigen.

    python benchmarks/speed.py              a few minutes
    python benchmarks/speed.py --full       everything, about 20 minutes
    python benchmarks/speed.py --isa avx2   all contenders restricted to AVX2
    python benchmarks/speed.py --only training/lstm/32x100 --only streaming

Every setting runs in this one process. First all contenders must agree in values and gradients;
then the fastest variant of each is found; then they take turns, in a new random order every round,
until the time is used. Before a turn the process waits until the threads of the previous one sleep,
and warms up caches and threads with untimed calls. The median and the quartiles of each are kept,
so that a machine that is slow for a while slows all contenders equally.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import instructions
import memory
import report
from settings import Problem, Setting, flops, full_settings, quick_settings

if TYPE_CHECKING:
    from peers import Contender

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("ostinato", "torch", "jax", "jaxlib", "onnxruntime", "numpy")
TURNS = 6
"""Turns of each contender that the time of a setting is cut into."""
FEWEST = 3
"""Times of each contender that are taken whatever it costs."""
BLOCK = 2e-4
"""Seconds timed together, for shorter calls."""
ISOLATED = ("training/lstm/32x100/128/dx", "streaming/lstm/1x1/128")
"""Settings whose contenders also run alone, each in a process of its own, to see that taking turns
costs nobody anything."""


# Time


def settle(limit: float = 0.5) -> None:
    """Wait until no idle thread of this process spins any more.

    PyTorch's threads spin for some 10 milliseconds after their work, ONNX Runtime's for 30.
    """
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.012)  # three ticks, by which the kernel counts the time of other threads
        if time.process_time() - before < 0.002:
            return


def turn(contender: Contender, seconds: float, at_least: int = 1) -> list[float]:
    """Seconds a call, or a step of it, some timed in blocks; the first calls wake what sleeps."""
    clock = time.perf_counter
    settle()
    times: list[float] = []
    with contender.mode():
        start_time, spent, calls = clock(), 0.0, 0
        while not calls or clock() - start_time < min(0.005, seconds / 4):
            contender.prepare()
            start = clock()
            contender.call()
            spent, calls = clock() - start, calls + 1
        if spent > seconds:  # so slow that a call is its own warm-up
            times.append(spent / contender.steps)
        block = max(1, int(BLOCK / spent))
        start_time = clock()
        while len(times) < at_least or clock() - start_time < seconds:
            contender.prepare()
            start = clock()
            for _ in range(block):
                contender.call()
            times.append((clock() - start) / block / contender.steps)
    return times


def finalists(variants: Sequence[Contender], seconds: float) -> list[Contender]:
    """The fastest variant by a few calls, and the next if it might be as fast."""
    if len(variants) == 1:
        return list(variants)
    for each in variants:
        each.call()  # compiles
    medians = {i: statistics.median(turn(v, seconds, FEWEST)) for i, v in enumerate(variants)}
    first, second = sorted(medians, key=medians.__getitem__)[:2]
    close = medians[second] < 1.5 * medians[first]
    return [variants[first], *[variants[second]] * close]


def interleave(contenders: Sequence[Contender], seconds: float) -> list[list[float]]:
    """Seconds a call of each contender, who take turns for ``seconds`` together.

    Nobody takes more than an equal share, so that the slow do not leave the fast without turns.
    """
    share = seconds / len(contenders)
    times: list[list[float]] = [[] for _ in contenders]
    spent = [0.0 for _ in contenders]
    draw = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        while waiting := [
            i for i in range(len(times)) if spent[i] < share or len(times[i]) < FEWEST
        ]:
            draw.shuffle(waiting)
            for i in waiting:
                start = time.perf_counter()
                times[i] += turn(contenders[i], share / TURNS)
                spent[i] += time.perf_counter() - start
        return times
    finally:
        gc.enable()


def busy() -> float | None:
    """Core seconds that were worked since the machine started, by anybody; None if unknown."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft, stolen = map(int, fields)
    ticks = user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


class Disturbance:
    """How busy everybody else on the machine is, as a share of its cores, inside a ``with``.

    Everybody but this process and those of its children that have ended.
    Threads that wait for one another are slowed by far more than this share.
    """

    share: float | None = None

    def __enter__(self) -> Disturbance:
        self._before = busy(), sum(os.times()[:4]), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        all_before, own_before, start = self._before
        now = busy()
        if all_before is not None and now is not None:
            others = now - all_before - (sum(os.times()[:4]) - own_before)
            cores = (os.cpu_count() or 1) * (time.perf_counter() - start)
            self.share = round(max(0.0, others / cores), 4)


# Agreement


def disagreements(contenders: Sequence[Contender]) -> list[str]:
    """What a contender computes otherwise than the first; nothing, if they may be compared."""
    import numpy as np

    found = []
    expected = {name: np.asarray(value) for name, value in contenders[0].results().items()}
    for each in contenders[1:]:
        with each.mode():
            results = {name: np.asarray(value) for name, value in each.results().items()}
        if results.keys() != expected.keys():
            found.append(f"{each.name} gives {sorted(results)}, not {sorted(expected)}")
            continue
        for name, value in results.items():
            if value.shape != expected[name].shape:
                found.append(f"{each.name}: {name} {value.shape}, not {expected[name].shape}")
                continue
            error = float(np.abs(value - expected[name]).max() / np.abs(expected[name]).max())
            if not error <= each.tolerance:
                found.append(f"{each.name}: {name} differs by {error:.1e} of its largest element")
    return found


class DisagreementError(RuntimeError):
    """Contenders that do not compute the same are not compared."""


# Measuring


def measure(
    setting: Setting,
    threads: int,
    seconds: float,
    *,
    only: Sequence[str] = (),
    thorough: bool = True,
) -> dict[str, Any]:
    """One setting: a record as it stands in the results.

    Args:
        setting: the setting.
        threads: how many each contender may use.
        seconds: for all contenders together.
        only: names of the contenders that are timed; all, if none is named.
        thorough: see `peers.contenders`.

    Raises:
        DisagreementError: if two contenders do not compute the same.
    """
    import peers

    groups = peers.contenders(setting, threads, thorough=thorough)
    wrong = disagreements([variant for group in groups for variant in group])
    if wrong:
        raise DisagreementError(f"{setting.name}: " + "; ".join(wrong))
    chosen = [group for group in groups if not only or group[0].name in only]
    fast = [each for group in chosen for each in finalists(group, seconds / 40)]
    del groups, chosen  # with the threads of the variants that are slower
    with Disturbance() as disturbance:
        times = interleave(fast, seconds)
    found: dict[str, dict[str, Any]] = {}
    for each, its_times in zip(fast, times, strict=True):
        one = {**summary(its_times), "note": each.note}
        if each.name not in found or one["median"] < found[each.name]["median"]:
            found[each.name] = one
    lengths = Problem.of(setting).lengths
    return {
        "name": setting.name,
        **{key: getattr(setting, key) for key in ("family", "cell", "B", "T", "H", "input_grad")},
        "flops": flops(setting, None if lengths is None else int(lengths.sum())),
        "disturbance": disturbance.share,
        "contenders": found,
    }


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "calls": len(times)}


def measure_peak(threads: int, tries: int = 10) -> dict[str, float]:
    """FLOP/s that this machine can do, by what does them.

    A loop of fused multiply-adds on registers alone, which reads and writes no memory, on as many
    threads as a contender has, all at the same time. The best of some tries, not their median: a
    peak is what the machine can do when let.
    """
    from ostinato import _core

    settle()
    meeting = threading.Barrier(threads)

    def rate(_: int) -> float:
        meeting.wait()
        return _core.peak_flops(0.05)

    with ThreadPoolExecutor(threads) as pool:
        return {"FMA loop": max(sum(pool.map(rate, range(threads))) for _ in range(tries))}


def machine(threads: int) -> dict[str, Any]:
    """What the measurements were made on and with."""
    from ostinato import _core

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "cpu": instructions.cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "instruction_set": _core.instruction_set(),
        "isa": instructions.LABELS.get(_core.instruction_set(), "generic"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in LIBRARIES if (found := version(name))},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def medians_in_a_process(
    setting: Setting, names: Sequence[str], seconds: float, threads: int
) -> dict[str, float]:
    """Medians of some contenders, or all, in a process of their own."""
    command = [sys.executable, __file__, "--only", f"={setting.name}", "--out", "-"]
    command += ["--seconds", str(seconds), "--threads", str(threads)]
    command += ["--contenders", *names] if names else []
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    (record,) = json.loads(done.stdout)["settings"]
    return {name: times["median"] for name, times in record["contenders"].items()}


def compare_isolated(
    settings: Sequence[Setting], seconds: float, threads: int, screen: Any
) -> list[dict[str, Any]]:
    """How long contenders take in turns and how long alone, measured one right after the other."""
    found = []
    for setting in (s for s in settings if s.name in ISOLATED):
        in_turns = medians_in_a_process(setting, [], seconds, threads)
        alone = {
            name: medians_in_a_process(setting, [name], seconds / 4, threads)[name]
            for name in in_turns
        }
        for name in in_turns:
            pair = {"in_turns": in_turns[name], "alone": alone[name]}
            found.append({"name": setting.name, "contender": name, **pair})
            ratio = f"{in_turns[name] / alone[name]:.2f}"
            print(f"{setting.name}: {name} in turns / alone {ratio}", file=screen, flush=True)
    return found


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(threads: int) -> None:
    """Hold everybody to so many cores and threads; before JAX is imported, which asks but once."""
    if threads < usable_cores() and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import torch

    torch.set_num_threads(threads)


def selected(settings: Sequence[Setting], patterns: Sequence[str]) -> list[Setting]:
    """The settings whose name begins with a pattern, or is all of it after a ``=``."""
    if not patterns:
        return list(settings)
    return [s for s in settings if any(s.name == p[1:] or s.name.startswith(p) for p in patterns)]


def absences() -> list[str]:
    """What cannot be measured here, and why."""
    import eigen
    import peers

    found = [] if peers.HAS_JAX else ["JAX is not installed: it takes no part."]
    if not peers.HAS_ONNX_RUNTIME:
        found.append("onnx and onnxruntime are not installed: ONNX Runtime takes no part.")
    if missing := eigen.absence():
        found.append(missing)
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--quick", action="store_true", help="a few minutes (the default)")
    kind.add_argument("--full", action="store_true", help="all settings")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="settings that begin so"
    )
    parser.add_argument("--contenders", nargs="+", default=[], metavar="NAME", help="only these")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="for each contender")
    parser.add_argument("--isa", choices=list(instructions.HELD), help="hold everybody to it")
    parser.add_argument("--seconds", type=float, help="timed for each setting")
    parser.add_argument("--isolation", action="store_true", help="some contenders alone as well")
    parser.add_argument("--out", help="JSON file, - for standard output")
    parser.add_argument("--list", action="store_true", help="name the settings and stop")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, show, write."""
    a = parse()
    kind = "full" if a.full else "quick"
    settings = selected(full_settings() if a.full or a.only else quick_settings(), a.only)
    if a.list:
        print("\n".join(s.name for s in settings))
        return
    if not settings:
        sys.exit("No setting has such a name; --full --list names them.")
    seconds = a.seconds or (2.5 if a.full else 1.5)
    instructions.hold(a.isa)
    limit_threads(a.threads)
    screen = sys.stderr if a.out == "-" else sys.stdout
    results: dict[str, Any] = {"kind": kind, "machine": machine(a.threads), "skipped": absences()}
    for line in results["skipped"]:
        print(line, file=screen)
    if any("Stream" in line for line in results["skipped"]):
        settings = [s for s in settings if s.family != "streaming"]
    results["peak"] = measure_peak(a.threads)
    results["settings"], results["failures"] = [], []
    print(report.heading(results), file=screen)
    for setting in settings:
        try:
            record = measure(
                setting, a.threads, seconds, only=a.contenders, thorough=kind == "full"
            )
        except DisagreementError as error:
            results["failures"].append(str(error))
            print(f"NOT COMPARED: {error}", file=screen)
            continue
        results["settings"].append(record)
        print(report.line(record, results["peak"]), file=screen, flush=True)
    again = measure_peak(a.threads)
    results["peak"] = {key: max(value, again[key]) for key, value in results["peak"].items()}
    if not a.only:
        import peers

        results["instructions"] = instructions.in_use(peers.PRESENT)
        results["memory"] = memory.measure()
    if disturbed := [r["name"] for r in results["settings"] if report.is_disturbed(r)]:
        print(f"\n{report.DISTURBED}: {', '.join(disturbed)}.", file=screen)
    if a.isolation:
        results["isolation"] = compare_isolated(settings, seconds, a.threads, screen)
    if a.out == "-":
        json.dump(results, sys.stdout)
        return
    print(f"\n{report.goals_table([results])}")
    if a.out or not (a.only or a.contenders):  # a partial run is written only on request
        path = Path(a.out) if a.out else RESULTS / f"{kind}-{results['machine']['isa']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\n{path}")
    if results["failures"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
