"""Makes folders of models that no training wrote, and loads them.

Of each, whatever is in it, there is a model, or one error of ours, in little time and memory; the
checksums are right, since whoever makes such a folder can make them, too. Prints a line of JSON for
each that is not so, and one with the number of folders by outcome.

    OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=1 python tests/hostile_folders.py FOLDER [FOLDERS [SEED]]
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_runs import make_runs

import ostinato
from ostinato.errors import OstinatoError
from ostinato.tasks.registry import TASKS
from ostinato.training import storage

SECONDS = 10
"""Much more than it takes: the machine may be busy."""
MEMORY = 200 * 2**20


def nested(depth: int) -> Any:
    tree: Any = []
    for _ in range(depth):
        tree = [tree]
    return tree


VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 7, 100, 1000, 10**5, 10**7, 2**24 - 1, 2**31, 2**63, 10**30,
    1.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "a\0b", "\ud800", "../x", "lstm",
    "9" * 99, "a" * 10**5, [], {}, [[]], [1, [2]], ["a", 1], [1, "a"], [0] * 10**5, nested(300),
    {"a": {"b": 1}},
    [10**30, -(10**30)], [float("nan")] * 3, [[116, 104]] * 2, [[256 + i] * 2 for i in range(60)],
    ["a" * 10**6, *"bcdefgh" * 1000], {"level": "char", "characters": "ab", "unknown": None},
    {"level": "bpe", "merges": [[97, 97], *([i, i] for i in range(256, 320))]},
]  # fmt: skip
NAMES = ["hidden_size", "num_layers", "embedding_size", "spelling_size", "ensemble_size", "cell",
         "init", "horizon", "season", "context", "method", "output", "dropout", "bidirectional",
         "recurrent", "level", "window", "attention", "bands", "init_steps",
         "residual"]  # fmt: skip
TEXTS = [b"", b"[" * 10**6, b'{"a":' * 10**5, b"\xff\xfe{}", b"null", b"[]", b"9" * 10**4,
         b"\0" * 99, b'{"format": 1}', b'{"format": 1, "task": "TextGenerator"}']  # fmt: skip


class Runaway(BaseException):
    """It takes too long."""


def places_in(tree: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all parts of a JSON document."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:5])
    parts = [(key, value) for key, value in items]
    below = [w for k, v in parts if isinstance(v, dict | list) for w in places_in(v, (*way, k))]
    return [(*way, key) for key, _ in parts] + below


def put(tree: Any, way: tuple[Any, ...], value: Any, remove: bool = False) -> None:
    for key in way[:-1]:
        tree = tree[key]
    if remove:
        del tree[way[-1]]
    else:
        tree[way[-1]] = value


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write a model's files and their checksums, right whatever they hold."""
    folder.mkdir()
    sums = "".join(f"{storage.sha256(data)}  {name}\n" for name, data in files.items())
    for name, data in [*files.items(), (storage.SUMS, sums.encode())]:
        (folder / name).write_bytes(data)


def some_json(draw: random.Random, files: dict[str, bytes]) -> str:
    return draw.choice(["config.json", *(name for name in files if name.endswith(".json"))])


# Ways to make a folder. Each takes the files of a model.


def with_values(draw: random.Random, files: dict[str, bytes], folder: Path) -> None:
    """Some values of the documents are replaced, or removed."""
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        name = some_json(draw, files)
        document = json.loads(files[name])
        way = draw.choice(places_in(document))
        put(document, way, copy.deepcopy(draw.choice(VALUES)), draw.random() < 0.1)
        files[name] = json.dumps(document).encode()
    write(folder, files)


def with_settings(draw: random.Random, files: dict[str, bytes], folder: Path) -> None:
    """Settings of the network are others."""
    config = json.loads(files["config.json"])
    for _ in range(draw.choice([1, 1, 2, 3])):
        part = draw.choice(["parameters", "parameters", "resolved", "training"])
        config[part][draw.choice(NAMES)] = copy.deepcopy(draw.choice(VALUES))
    files["config.json"] = json.dumps(config).encode()
    write(folder, files)


def with_another_task(draw: random.Random, files: dict[str, bytes], folder: Path) -> None:
    """The task is another, or none."""
    config = json.loads(files["config.json"])
    tasks = [task.estimator for task in TASKS] + [task.command for task in TASKS]
    config["task"] = copy.deepcopy(draw.choice([*tasks, "LSTM", "load", "__class__", *VALUES]))
    files["config.json"] = json.dumps(config).encode()
    write(folder, files)


def with_text(draw: random.Random, files: dict[str, bytes], folder: Path) -> None:
    """A document is something else."""
    files[some_json(draw, files)] = draw.choice(TEXTS)
    write(folder, files)


def with_weights(draw: random.Random, files: dict[str, bytes], folder: Path) -> None:
    """The header of the weights lies."""
    data = files[storage.WEIGHTS]
    (n,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + n]), data[8 + n :]
    names = [name for name in header if name != "__metadata__"]
    name = draw.choice(names)
    match draw.randrange(9):
        case 0:
            header[name]["shape"] = draw.choice(
                [[2**40], [2**63], [-1], [], "x", None, [1.5], [[]]]
            )
        case 1:
            header[name]["dtype"] = draw.choice(["F64", "BF16", "I8", "BOOL", "X", 1, None])
        case 2:
            header[name]["data_offsets"] = draw.choice([[0, 2**62], [-1, 4], [4, 0], [], "x"])
        case 3:
            del header[name]
        case 4:
            header |= {f"more {i}": header[name] for i in range(draw.choice([1, 20_000]))}
        case 5:
            header[name] = draw.choice(VALUES)
        case 6:
            files[storage.WEIGHTS] = draw.choice(TEXTS)
        case 7:
            sizes = [0, 1, n - 1, n + 1, 10**8, 2**62, 2**64 - 1]
            files[storage.WEIGHTS] = struct.pack("<Q", draw.choice(sizes)) + data[8:]
        case 8:
            files[storage.WEIGHTS] = data[: draw.randrange(len(data))]
    if files[storage.WEIGHTS] is data:
        text = json.dumps(header).encode()
        files[storage.WEIGHTS] = struct.pack("<Q", len(text)) + text + body
    write(folder, files)


def with_large_files(draw: random.Random, files: dict[str, bytes], folder: Path) -> None:
    """A file has a hole of many gigabytes at its end."""
    write(folder, files)
    name = draw.choice([*files, storage.SUMS, storage.WEIGHTS])
    os.truncate(folder / name, draw.choice([10**8, 10**10, 10**12]))


def with_other_checksums(draw: random.Random, files: dict[str, bytes], folder: Path) -> None:
    """The list of checksums is something else."""
    write(folder, files)
    sums = folder / storage.SUMS
    lines = sums.read_text().splitlines(keepends=True)
    digest = storage.sha256(b"")
    more = [
        "\n",
        "x\n",
        f"{digest}  ..\n",
        f"{digest}  /dev/zero\n",
        f"{digest}  {'a' * 300}\n",
        f"{digest}  a\0b\n",
        lines[0] * 10**5,
        "\ud800".encode("utf-8", "surrogatepass").hex(),
    ]
    sums.write_text("".join([*lines[draw.randrange(2) :], draw.choice(more)]))  # fmt: skip


def with_special_files(draw: random.Random, files: dict[str, bytes], folder: Path) -> None:
    """A file is no file."""
    write(folder, files)
    name = draw.choice([*files, storage.SUMS, ".commit", "run.json", "data"])
    path = folder / name
    path.unlink(missing_ok=True)
    if draw.random() < 0.2 and name != ".commit":
        path = folder / ".commit" / name
        path.parent.mkdir()
    match draw.randrange(7):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(draw.choice(["/dev/zero", "/dev/urandom", "/dev/null", "/dev/tty"]))
        case 3:
            path.symlink_to(
                draw.choice(["nowhere", path.name, ".", "..", "/proc/self/mem", "/etc"])
            )
        case 4:
            there = os.getcwd()
            os.chdir(path.parent)  # the path of a socket must be short
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
            os.chdir(there)
        case 5:
            path.write_bytes(draw.choice(TEXTS))
        case 6:
            pass  # missing


WAYS: list[Callable[[random.Random, dict[str, bytes], Path], None]] = [
    with_values, with_values, with_values, with_settings, with_settings, with_another_task,
    with_text, with_weights, with_weights, with_large_files, with_other_checksums,
    with_special_files, with_special_files,
]  # fmt: skip


def outcome_of(folder: Path) -> tuple[str, str]:
    """What loading a folder comes to, and the error."""
    found = "loaded", ""
    for use in (ostinato.describe, ostinato.load):
        signal.alarm(SECONDS)
        try:
            use(folder)
        except OstinatoError as error:
            message = str(error)
            if "memory" in message or "allocate" in message:
                return "too much memory", message
            if str(folder) not in message or len(message) > 600 or len(message.splitlines()) > 1:
                return "unclear", message
            found = "refused", message
        except Runaway:
            return "too long", use.__name__
        except Exception:
            return "traceback", traceback.format_exc()
        finally:
            signal.alarm(0)
    return found


def main(folder: Path, folders: int, seed: int) -> None:
    """Make folders, load them, and print."""
    torch.set_num_threads(1)
    models = []
    for run in make_runs(folder / "runs"):
        ostinato.load(run)
        models.append(storage.read_files(run))

    def run_away(number: int, frame: object) -> None:
        raise Runaway

    signal.signal(signal.SIGALRM, run_away)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    draw, counts = random.Random(seed), Counter[str]()
    for trial in range(folders):
        hostile, way = folder / f"{trial}", draw.choice(WAYS)
        way(draw, dict(draw.choice(models)), hostile)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        outcome, detail = outcome_of(hostile)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        counts[outcome] += 1
        if outcome in ("loaded", "refused"):
            shutil.rmtree(hostile)
        else:
            line = {"trial": trial, "way": way.__name__, "outcome": outcome, "detail": detail}
            print(json.dumps(line), flush=True)
    print(json.dumps(counts))


if __name__ == "__main__":
    rest = [int(each) for each in sys.argv[2:]]
    main(Path(sys.argv[1]), *rest, *[1000, 0][len(rest) :])
