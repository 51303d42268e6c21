"""Measure the memory of training on data larger than memory, and the time to the first batch.

    python benchmarks/large_data.py text --gigabytes 20 --folder /tmp/large
    python benchmarks/large_data.py recordings --count 200000 --folder /tmp/large
    python benchmarks/large_data.py series --count 200000 --folder /tmp/large

Makes the data (a text of random words; or short recordings of tones and noise in tar archives; or
daily series of 200 steps in Parquet files, sorted by time), prepares them, and trains for some
steps; preparing and training are processes of their own. Of each the highest resident memory is
printed, apart by kind, as /proc/PID/status has them twenty times a second: RssAnon is what the
process cannot do without; RssFile are pages of mapped files, libraries among them, that the kernel
may take back. The same training on a thousandth of the data is the measure of "the model": the
difference is what the size of the data costs. The data are removed afterwards unless --keep is
given.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

MODEL = ["--hidden-size", "256", "--evaluations", "1", "--no-health"]
RATE = 8000


def write_text(path: Path, size: int) -> None:
    """Write so many bytes of random words, by Zipf's law, in lines."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(random.choice(letters, random.integers(1, 10))) for _ in range(50_000)]
    share = 1 / np.arange(1, len(words) + 1)
    table = np.array(words, dtype=object)
    with path.open("wb") as file:
        written = 0
        while written < size:
            some = table[random.choice(len(words), 1 << 19, p=share / share.sum())]
            lines = ("".join(f"{word} " for word in line) for line in some.reshape(-1, 16))
            block = "\n".join(lines).encode() + b"\n"
            # A block stands some times, each time from another place on.
            for begin in random.integers(0, len(block), 64).tolist():
                data = (block[begin:] + block[:begin])[: size - written]
                file.write(data)
                written += len(data)


def write_recordings(folder: Path, count: int, per_archive: int = 10_000) -> None:
    """Write recordings of 0.3 s, each with one of ten classes, into tar archives."""
    random = np.random.default_rng(0)
    t = np.arange(round(0.3 * RATE)) / RATE
    head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + 2 * len(t), b"WAVEfmt ", 16, 1, 1, RATE,
                       2 * RATE, 2, 16, b"data", 2 * len(t))  # fmt: skip
    folder.mkdir()
    for first in range(0, count, per_archive):
        with tarfile.open(folder / f"{first // per_archive:05}.tar", "w") as archive:
            for i in range(first, min(first + per_archive, count)):
                label = int(random.integers(10))
                wave = np.sin(2 * np.pi * (200 + 150 * label) * t) + random.normal(0, 0.5, len(t))
                samples = (8000 * wave).clip(-32768, 32767).astype("<i2").tobytes()
                for suffix, data in (("wav", head + samples), ("cls", str(label).encode())):
                    entry = tarfile.TarInfo(f"{i:07}.{suffix}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))


def write_series(folder: Path, count: int, steps: int = 200) -> None:
    """Write so many series with a week's season, sorted by time, in parts of some days."""
    random = np.random.default_rng(0)
    level, phase = random.normal(50, 10, count), random.integers(0, 7, count)
    names = np.array([f"item {i:06}" for i in range(count)])
    days = np.datetime64("2025-01-01") + np.arange(steps)
    folder.mkdir()
    for part, some in enumerate(np.array_split(np.arange(steps), 10)):
        values = [
            level + 5 * np.sin(2 * np.pi * (t + phase) / 7) + random.normal(0, 1, count)
            for t in some
        ]
        pd.DataFrame({
            "day": np.repeat(days[some], count),
            "item": np.tile(names, len(some)),
            "sold": np.concatenate(values).round(2),
        }).to_parquet(folder / f"{part}.parquet")  # fmt: skip


def run(*words: str) -> dict[str, float]:
    """Run a command of ostinato; return its time, and its highest memory in MB by kind."""
    code = "import sys; from ostinato.cli import main; main(sys.argv[1:])"
    start, most, first = time.monotonic(), dict[str, float](), 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = used.ru_utime + used.ru_stime
    command = [sys.executable, "-c", code, *words]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
    metrics = Path(words[words.index("--out") + 1], "metrics.jsonl")
    while child.poll() is None:
        try:
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        except OSError:
            break
        for name, value in (line.split(":", 1) for line in lines if line.startswith("Rss")):
            most[name] = max(most.get(name, 0.0), int(value.split()[0]) / 1024)
        if not first and metrics.exists() and metrics.stat().st_size:
            first = time.monotonic() - start
        time.sleep(0.05)
    if child.wait():
        sys.exit(f"{' '.join(words)}: status {child.returncode}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"seconds": time.monotonic() - start, **most}
    found["cpu_seconds"] = used.ru_utime + used.ru_stime - before
    found |= {"first_step": first} if first else {}
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    """Make the data, prepare them and train, small and large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["text", "recordings", "series"])
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    task = {"text": "text", "recordings": "classify", "series": "forecast"}[given.kind]
    how = ["--parts"] if given.kind == "series" else []
    for name, share in (("small", 0.001), ("large", 1.0)):
        home = given.folder / f"{given.kind}-{name}"
        home.mkdir()
        try:
            data = home / ("data.txt" if given.kind == "text" else "data")
            start = time.monotonic()
            if given.kind == "text":
                write_text(data, int(given.gigabytes * share * 1e9))
            elif given.kind == "recordings":
                write_recordings(data, max(2000, int(given.count * share)))
            else:
                write_series(data, max(2000, int(given.count * share)))
            made = round(time.monotonic() - start, 1)
            print(json.dumps({"data": name, "made in seconds": made}), flush=True)
            prepared, out = str(home / "prepared"), str(home / "run")
            for words in (
                ["prepare", task, str(data), "--out", prepared, *how],
                ["prepare", task, str(data), "--out", prepared, *how],
                ["train", task, prepared, "--out", out, "--steps", str(given.steps), *MODEL],
            ):
                print(json.dumps({"data": name, "command": words[0], **run(*words)}), flush=True)
        finally:
            if not given.keep:
                shutil.rmtree(home)


if __name__ == "__main__":
    main()
