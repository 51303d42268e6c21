"""How fast a large table is read, beside pandas alone, and how much memory that takes.

    python benchmarks/tables.py [--rows 10000000] [--turns 3]

Each reading is a process of its own, and both take turns. Read is a long table of series: names,
times, numbers. Ours looks over the file for rows of another width, reads it, and gives the numbers
as an array and the names as codes; pandas reads it and gives the same. Memory is the most that a
reading took, beside that of its columns in pandas.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas


def write(path: Path, rows: int) -> None:
    """Write a table of a hundred series."""
    random = np.random.default_rng(0)
    T = rows // 100
    times = pandas.date_range("2000-01-01", periods=T, freq="h").strftime("%Y-%m-%d %H:%M")
    for i in range(100):
        frame = pandas.DataFrame(
            {
                "series": f"store_{i:03d}",
                "time": times,
                "price": random.normal(10, 3, T).round(2),
                "promo": random.integers(0, 2, T),
                "value": random.normal(100, 30, T).round(3),
            }
        )
        frame.to_csv(path, mode="a", header=i == 0, index=False)


def measure(reader: str, path: Path) -> None:
    """Print seconds, the memory taken and that of the columns, in MB."""
    from ostinato.data.formats import read_table

    numbers = ["price", "promo", "value"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if reader == "pandas":
        frame = pandas.read_csv(path)
        values, codes = frame[numbers].to_numpy(dtype=np.float64), pandas.factorize(frame["series"])
    else:
        table = read_table(path)
        frame = table.frame
        values = table.numbers([table.column(name, "a number") for name in numbers])
        codes = table.codes(table.column("series", "the names"))
    seconds = time.perf_counter() - start
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    columns = frame.memory_usage(deep=True).sum() / 2**20
    assert len(values) == len(codes[0])
    total = sum(float(np.ascontiguousarray(column).sum()) for column in values.T)
    print(json.dumps([seconds, taken, columns, total]))


def main() -> None:
    """Let both read, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        return measure(given.reader, given.file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write(path, given.rows)
        found: dict[str, list[list[float]]] = {"pandas": [], "ostinato": []}
        for _ in range(given.turns + 1):
            for reader, results in found.items():
                command = [sys.executable, __file__, "--reader", reader, "--file", str(path)]
                results.append(json.loads(subprocess.check_output(command)))
        size = path.stat().st_size / 2**20
    assert len({result[3] for results in found.values() for result in results}) == 1
    columns = found["pandas"][0][2]
    print(f"{given.rows:,} rows, {size:,.0f} MB; {platform.machine()}, pandas {pandas.__version__}")
    seconds = {}
    for reader, results in found.items():
        times = [result[0] for result in results[1:]]  # the first brings the file into memory
        seconds[reader] = statistics.median(times)
        most = max(result[1] for result in results)
        print(
            f"{reader:10} {seconds[reader]:6.2f} s ({min(times):.2f} to {max(times):.2f}), "
            f"{most:,.0f} MB, {most / columns:.2f} times the columns"
        )
    print(f"ratio      {seconds['ostinato'] / seconds['pandas']:6.2f}")


if __name__ == "__main__":
    main()
