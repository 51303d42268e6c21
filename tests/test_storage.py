"""`ostinato.training.storage`: whole or not there, and what is not what was written is refused."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import shutil
import stat
import subprocess
import threading
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from dying import calls_of, die_at, quickly
from sklearn.exceptions import NotFittedError
from small_runs import output_of

import ostinato
from ostinato.data.inputs import Inputs
from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.windows import CovariateEncoding
from ostinato.tasks.targets import Classes, Numbers, StepLabels
from ostinato.training import loop, storage
from ostinato.training.runs import RunFolder
from ostinato.training.storage import (
    DamagedError,
    load_model,
    pack_tensors,
    read_files,
    save_model,
    write_files,
)

OLD = {"a.json": b'{"age": "old"}\n', "b.bin": bytes(range(256)) * 3, "gone.json": b"[]\n"}
NEW = {"a.json": b'{"age": "new"}\n', "b.bin": b"\x07" * 1000, "c.json": b"{}\n"}
LATEST = {"a.json": b'"latest"\n', "b.bin": b"", "c.json": b"1\n"}


def found_in(folder: Path) -> dict[str, bytes] | None:
    """What is read from a folder; None where nothing was ever written whole."""
    if not any((folder / place / storage.SUMS).exists() for place in ("", ".commit")):
        return None
    return read_files(folder)


# A death at any call.


@pytest.mark.parametrize("before", [OLD, None], ids=["over old files", "anew"])
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power fails"])
def test_a_death_at_any_call_leaves_all_old_or_all_new(
    tmp_path: Path, before: dict[str, bytes] | None, power: bool
) -> None:
    def fresh(name: str) -> Path:
        if before is not None:
            quickly(lambda: write_files(tmp_path / name, before))
        return tmp_path / name

    counted = fresh("counted")
    calls = calls_of(lambda: write_files(counted, NEW))
    assert {"mkdir", "open", "write", "fsync", "rename", "replace", "rmdir"} <= set(calls)
    outcomes = []
    for k in range(1, len(calls) + 1):
        folder = fresh(str(k))
        disk = die_at(k, lambda folder=folder: write_files(folder, NEW))
        assert disk.calls[-1] == calls[k - 1]
        if power:
            disk.fail_power(tmp_path)
        found = found_in(folder)
        assert found in (before, NEW), f"neither old nor new after a death at call {k}"
        outcomes.append(found == NEW)
        quickly(lambda folder=folder: write_files(folder, LATEST))
        assert read_files(folder) == LATEST
        assert not [name for name in os.listdir(folder) if name.startswith(".")]
    # The renaming decides, and nothing after it takes it back.
    decided = calls.index("rename") + 1
    assert outcomes == [False] * decided + [True] * (len(calls) - decided)


def test_a_second_death_while_the_first_is_cleared_up_does_no_harm(tmp_path: Path) -> None:
    quickly(lambda: write_files(tmp_path / "old", OLD))
    quickly(lambda: shutil.copytree(tmp_path / "old", tmp_path / "1"))
    length = len(calls_of(lambda: write_files(tmp_path / "1", NEW)))
    for first in range(1, length + 1, 2):
        killed = tmp_path / f"killed at {first}"
        shutil.copytree(tmp_path / "old", killed)
        die_at(first, lambda killed=killed: write_files(killed, NEW))
        before = read_files(killed)
        shutil.copytree(killed, tmp_path / "counted")
        again = len(calls_of(lambda: write_files(tmp_path / "counted", LATEST)))
        shutil.rmtree(tmp_path / "counted")
        for second in range(1, again + 1, 2):
            folder = tmp_path / f"{first} {second}"
            shutil.copytree(killed, folder)
            die_at(second, lambda folder=folder: write_files(folder, LATEST))
            assert read_files(folder) in (before, LATEST), (first, second)


def test_what_is_renamed_is_on_the_disk_before_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename, replace = os.fsync, os.rename, os.replace

    def note_sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", lambda *names: (done.append("rename"), rename(*names)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("move"), replace(*names)))
    write_files(tmp_path, OLD)
    files = len(OLD) + 1  # and the checksums
    assert done == ["file"] * files + ["folder", "rename", "folder"] + ["move"] * files + ["folder"]


def test_a_full_disk_costs_nothing_that_was_there(tmp_path: Path) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_files(tmp_path, OLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OstinatoError, match=r"a\.json: cannot be written: No space left"):
            write_files(tmp_path, NEW)
    assert read_files(tmp_path) == OLD
    write_files(tmp_path, NEW)
    assert read_files(tmp_path) == NEW


# Somebody reads meanwhile.


def test_what_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, len(OLD) + 1):  # when so many files have been read
        write_files(tmp_path, OLD)
        count = 0

        def replacing(data: bytes, at: int = at, sha256: Any = storage.sha256) -> str:
            nonlocal count
            count += 1
            if count == at:
                write_files(tmp_path, NEW)
            return sha256(data)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "sha256", replacing)
            assert read_files(tmp_path) in (OLD, NEW)
        assert read_files(tmp_path) == NEW


def test_what_is_committed_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """The same, when the new files count, and the first few of them are in their place."""
    quickly(lambda: write_files(tmp_path / "counted", OLD))
    calls = calls_of(lambda: write_files(tmp_path / "counted", NEW))
    for k in range(calls.index("rename") + 2, len(calls) + 1):
        folder, sha256, count = tmp_path / str(k), storage.sha256, [0]
        quickly(lambda folder=folder: write_files(folder, OLD))

        def committing(
            data: bytes, k: int = k, folder: Path = folder, count: Any = count, sha256: Any = sha256
        ) -> str:
            count[0] += 1
            if count[0] == 1:
                die_at(k, lambda: write_files(folder, NEW))
            return sha256(data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage, "sha256", committing)
            assert read_files(folder) == NEW


def test_a_reader_never_meets_anything_but_a_whole_model(tmp_path: Path) -> None:
    folder = store(tmp_path / "m", number=0)
    numbers, enough = [0], threading.Event()

    def write() -> None:
        for number in itertools.count(1):
            store(folder, number=number)
            if enough.is_set():
                return

    writer = threading.Thread(target=write)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        writer.start()
        try:
            while len(set(numbers)) < 20:
                assert writer.is_alive()
                numbers.append(load_model(folder, "Task")[0]["number"])
                assert storage.read_config(folder)["number"] >= numbers[-1]
        finally:
            enough.set()
            writer.join()
    assert numbers == sorted(numbers)


def test_writers_of_a_folder_wait_for_each_other(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    writing = threading.Event()
    writing.set()

    def repeat(files: dict[str, bytes]) -> None:
        try:
            for _ in range(60):
                write_files(tmp_path, files)
        except BaseException as error:
            failures.append(error)

    def read() -> None:
        try:
            while writing.is_set():
                assert read_files(tmp_path) in (OLD, NEW, LATEST)
        except BaseException as error:
            failures.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        write_files(tmp_path, OLD)
        reader = threading.Thread(target=read)
        writers = [threading.Thread(target=repeat, args=(each,)) for each in (OLD, NEW, LATEST)]
        for thread in (reader, *writers):
            thread.start()
        child = os.fork()  # a process of its own writes, too
        if child == 0:
            failed = 1
            try:
                for _ in range(60):
                    write_files(tmp_path, NEW)
                failed = 0
            finally:
                os._exit(failed)
        for thread in writers:
            thread.join()
        assert os.waitpid(child, 0)[1] == 0
        writing.clear()
        reader.join()
    assert failures == []


def test_a_model_is_saved_and_loaded_while_it_trains(tmp_path: Path) -> None:
    model = ostinato.TextGenerator(
        hidden_size=4, window=4, batch_size=2, steps=150, evaluations=50, health=False
    )
    other, failures = tmp_path / "other", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(RunFolder, "draw", lambda self, unit: None)
        training = threading.Thread(target=lambda: model.fit("abcab " * 50, out=tmp_path / "run"))
        training.start()

        def load() -> None:
            while training.is_alive():
                for folder in (tmp_path / "run", other):
                    try:
                        ostinato.load(folder)
                    except OstinatoError as error:
                        if "no such folder" in str(error) or "no finished model" in str(error):
                            continue
                        failures.append(error)

        reader = threading.Thread(target=load)
        reader.start()
        saved = 0
        while training.is_alive():
            for folder in (tmp_path / "run", other):
                try:
                    if folder.exists() or folder == other:
                        model.save(folder)
                        saved += 1
                except NotFittedError:  # there is no best model yet
                    continue
        training.join()
        reader.join()
    assert failures == [] and saved > 2
    for folder in (tmp_path / "run", other):
        ostinato.load(folder)


class Counting(torch.optim.Optimizer):
    """Sets all parameters to the number of the step, slowly."""

    def __init__(self, network: torch.nn.Module, settings: object) -> None:
        super().__init__(list(network.parameters()), {"lr": 1.0})
        self.count = 0

    def step(self, closure: Any = None) -> None:
        self.count += 1
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.fill_(self.count / 1024)
                    time.sleep(1e-4)


def test_weights_saved_while_another_thread_trains_are_those_after_a_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(loop, "make_optimizer", Counting)
    model = ostinato.TextGenerator(
        hidden_size=4, window=4, batch_size=2, steps=300, evaluations=100, health=False
    )
    training = threading.Thread(target=lambda: model.fit("abcab " * 50))
    training.start()
    seen = set()
    while training.is_alive():
        with suppress(NotFittedError):  # there is no best model yet
            model.save(tmp_path / "model")
            weights = safetensors.torch.load_file(tmp_path / "model" / storage.WEIGHTS).values()
            numbers = {float(number) for each in weights for number in each.flatten()}
            assert len(numbers) == 1, numbers
            seen |= numbers
    training.join()
    assert len(seen) > 3


# Damage.


def store(folder: Path, **config: object) -> Path:
    save_model(
        folder,
        {"task": "Task", "parameters": {"size": 3}, "resolved": {}, "training": {}, **config},
        pack_tensors({"w": torch.arange(60.0).view(3, 20), "b": torch.tensor([1.5, float("nan")])}),
        {"vocabulary.json": {"tokens": ["a", "é", "水"]}},
    )
    return folder


def test_a_model_comes_back(tmp_path: Path) -> None:
    config, weights, more = load_model(store(tmp_path / "m"), "Task")
    assert config == {
        "format": 1, "task": "Task", "parameters": {"size": 3}, "resolved": {}, "training": {}
    }  # fmt: skip
    assert weights["w"].equal(torch.arange(60.0).view(3, 20))
    assert weights["b"][0] == 1.5 and weights["b"][1].isnan()
    assert more == {"vocabulary.json": {"tokens": ["a", "é", "水"]}}
    files = sorted(os.listdir(tmp_path / "m"))
    assert files == ["SHA256SUMS", "config.json", "vocabulary.json", "weights.safetensors"]


NAMES = ["SHA256SUMS", "config.json", "vocabulary.json", "weights.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_every_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    file = store(tmp_path / "m") / name
    whole = file.read_bytes()
    draw = random.Random(name)
    places = (
        range(len(whole))
        if name == "SHA256SUMS"
        else draw.sample(range(len(whole)), min(80, len(whole)))
    )
    for at in places:
        for change in (1 << draw.randrange(8), draw.randrange(1, 256), whole[at] ^ 10):
            if change:  # the last makes it a new line
                file.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
                with pytest.raises(OstinatoError):
                    load_model(file.parent, "Task")
    file.write_bytes(whole)
    load_model(file.parent, "Task")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_grown_or_missing_is_found_and_named(tmp_path: Path, name: str) -> None:
    file = store(tmp_path / "m") / name
    whole = file.read_bytes()
    # A list of checksums may lose what only its task knows to be needed.
    cuts = [0, 1, len(whole) // 2, len(whole) - 1]
    for damaged in [*(whole[:cut] for cut in cuts), whole + b"\n", whole + b"\0", None]:
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        with pytest.raises(OstinatoError, match=f"{name}|holds no finished model"):
            load_model(file.parent, "Task")


def test_a_list_that_lacks_a_line_is_found(tmp_path: Path) -> None:
    sums = store(tmp_path / "m") / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    for lost in ("config.json", "weights.safetensors"):
        sums.write_text("".join(line for line in lines if not line.endswith(f"{lost}\n")))
        with pytest.raises(DamagedError, match=f"SHA256SUMS: damaged: {lost} is not in it"):
            load_model(tmp_path / "m", "Task")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "a\0b", ""])
def test_a_list_reaches_no_other_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"")
    folder = store(tmp_path / "m")
    with open(folder / "SHA256SUMS", "a") as sums:
        sums.write(f"{storage.sha256(b'')}  {name}\n")
    with pytest.raises(DamagedError, match="is not a checksum and a name"):
        load_model(folder, "Task")


def test_sha256sum_agrees(tmp_path: Path) -> None:
    program = next(
        (p for p in (["sha256sum"], ["shasum", "-a", "256"]) if shutil.which(p[0])), None
    )
    if program is None:
        pytest.skip("neither sha256sum nor shasum is installed")
    folder = store(tmp_path / "m")
    check = [*program, "-c", "SHA256SUMS"]
    good = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
    assert good.returncode == 0
    assert sorted(good.stdout.splitlines()) == sorted(f"{n}: OK" for n in NAMES if n[0] != "S")
    (folder / "vocabulary.json").write_text("{}")
    bad = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
    assert bad.returncode != 0 and "vocabulary.json: FAILED" in bad.stdout


# What is refused.


@pytest.mark.parametrize("version", [2, 0, -1, "1", None, 1.5])
def test_another_format_is_refused(tmp_path: Path, version: object) -> None:
    folder = store(tmp_path / "m", format=version)
    with pytest.raises(OstinatoError, match=rf"format {version!r}; .* reads 1 to 1: upgrade it"):
        load_model(folder, "Task")
    with pytest.raises(OstinatoError, match="upgrade it"):
        ostinato.describe(folder)


def test_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OstinatoError, match="expected a model of Forecaster, got Task"):
        load_model(store(tmp_path / "m"), "Forecaster")
    with pytest.raises(OstinatoError, match="expected a model of TextGenerator"):
        ostinato.TextGenerator.load(tmp_path / "m")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OstinatoError, match="no such folder"):
        load_model(tmp_path / "nowhere", "Task")
    with pytest.raises(OstinatoError, match=r"holds no finished model \(no config.json\)"):
        load_model(tmp_path, "Task")


def test_a_model_that_counts_is_read_though_not_all_is_in_its_place(tmp_path: Path) -> None:
    quickly(lambda: store(tmp_path / "old", task="Old"))
    shutil.copytree(tmp_path / "old", tmp_path / "counted")
    calls = calls_of(lambda: store(tmp_path / "counted"))
    for k in range(calls.index("rename") + 2, len(calls) + 1):
        folder = tmp_path / str(k)
        shutil.copytree(tmp_path / "old", folder)
        die_at(k, lambda folder=folder: store(folder))
        assert load_model(folder, "Task")[0]["task"] == "Task"
        assert ostinato.describe(folder)["task"] == "Task"


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    folder = store(tmp_path / "m")
    for name in ("config.json", "weights.safetensors", "SHA256SUMS"):
        for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
            whole = (folder / name).read_bytes()
            (folder / name).unlink()
            make(folder / name)
            with pytest.raises(DamagedError, match=rf"{name}: is not a regular file"):
                load_model(folder, "Task")
            shutil.rmtree(folder)
            store(folder)
            assert (folder / name).read_bytes() == whole


def test_no_file_is_read_that_is_larger_than_it_can_be(tmp_path: Path) -> None:
    for name in NAMES:
        folder = store(tmp_path / name)
        os.truncate(folder / name, 10**12)
        with pytest.raises(DamagedError, match=rf"{name}: damaged: .* bytes"):
            load_model(folder, "Task")
        if name != "config.json":
            assert storage.read_config(folder)["task"] == "Task"


def test_no_more_is_saved_than_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LARGEST_JSON", 1000)
    with pytest.raises(OstinatoError, match="takes 2,... bytes as JSON; expected 1,000 at most"):
        store(tmp_path / "m", notes="x" * 2000)
    assert not (tmp_path / "m").exists()


def test_a_network_is_not_built_before_its_size_is_known_to_be_that_of_the_weights(
    tmp_path: Path,
) -> None:
    model = ostinato.TextGenerator(hidden_size=4, window=4, steps=3, batch_size=2, evaluations=1)
    model.fit("abcab " * 20, out=tmp_path / "run")
    whole = storage.read_files(tmp_path / "run")

    def load_with(**parameters: object) -> None:
        config = json.loads(whole["config.json"])
        config["parameters"] |= parameters
        write_files(tmp_path / "run", whole | {"config.json": storage.to_json(config)})
        ostinato.load(tmp_path / "run")

    load_with()
    for parameters, reason in (
        ({"hidden_size": 5}, r"has the shape \[.*4.*\] in weights.safetensors; expected \[.*5.*\]"),
        ({"hidden_size": 2**24 - 1}, "has the shape"),
        ({"hidden_size": 2**31}, "expected a whole number above zero"),
        ({"hidden_size": "4"}, "hidden_size='4'; expected"),
        ({"num_layers": 1000}, "expected 1 x 1000 layers, got 7 tensors"),
        ({"num_layers": 2**31}, "num_layers=2147483648"),
        ({"num_layers": None}, "num_layers=None; expected"),
        ({"cell": ["lstm"]}, "expected a name"),
        ({"cells": 3}, "unexpected keyword argument 'cells'"),
    ):
        with pytest.raises(DamagedError, match=f"its parts do not fit together: .*{reason}"):
            load_with(**parameters)


def test_texts_that_are_no_unicode_come_back(tmp_path: Path) -> None:
    assert load_model(store(tmp_path / "m", notes="a\ud800b"), "Task")[0]["notes"] == "a\ud800b"


def test_a_setting_is_quoted_as_far_as_can_be_read() -> None:
    for setting in ({"cell": "a" * 10**6}, {"momentum": [0] * 10**5}, {"hidden_size": 10**4000}):
        with pytest.raises(OstinatoError) as caught:
            ostinato.TextGenerator(**setting).check_settings()  # type: ignore[arg-type]
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "restore",
    [
        lambda texts: CovariateEncoding.from_json({"future": texts, "past": [], "static": []}),
        lambda texts: CovariateEncoding.from_json({"future": [], "past": texts, "static": []}),
        lambda texts: Classes.from_json({"names": texts}),
        lambda texts: Numbers.from_json({"mean": [texts], "scale": [1.0], "single": True}),
        lambda texts: StepLabels.from_json({"names": [[text] for text in texts]}),
        lambda texts: Inputs.from_json(
            {"kind": "sound", "features": 40, "lexicon": None, "spectrogram": {"rate": 10**12}}
        ),
        lambda texts: Inputs.from_json(
            {"kind": "sound", "lexicon": None, "spectrogram": {"rate": 8000, "bands": 9999}}
        ),
        lambda texts: Inputs.from_json(
            {"kind": "image", "lexicon": None, "spectrogram": None, "shape": [10**6, 10**6, 3]}
        ),
    ],
)
def test_what_a_document_says_of_sizes_takes_no_memory(restore: Any) -> None:
    texts = ["a" * 10**6, *"bcdefgh" * 100]  # as an array: 2.8 GB
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            restore(texts)
        assert tracemalloc.get_traced_memory()[1] < 10**8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("task", ["Task", "text", "LSTM", "load", 1, None, ["TextGenerator"], {}])
def test_a_task_of_any_kind_is_refused(tmp_path: Path, task: object) -> None:
    folder = store(tmp_path / "m", task=task)
    expected = "expected a model of a known task, got" if isinstance(task, str) else "'task' is"
    with pytest.raises(OstinatoError, match=expected):
        ostinato.load(folder)


@pytest.mark.parametrize(
    "count",
    [pytest.param(60, marks=pytest.mark.thorough), pytest.param(1000, marks=pytest.mark.slow)],
)
def test_hostile_folders_are_refused_in_little_time_and_memory(tmp_path: Path, count: int) -> None:
    lines = output_of("hostile_folders.py", tmp_path, count, 17)
    assert sum(lines[-1].values()) == count
    assert {name: n for name, n in lines[-1].items() if name not in ("loaded", "refused")} == {}, (
        lines
    )
    assert lines[-1]["refused"] > count // 2


# No pickle.


def test_nothing_in_a_run_is_a_pickle_or_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ostinato.TextGenerator(hidden_size=4, window=4, steps=3, batch_size=2, evaluations=1)
    model.fit("abcab " * 20, out=tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert path.suffix in {"", ".json", ".jsonl", ".npy", ".png", ".safetensors", ".sha256"}
        assert not path.read_bytes().startswith((b"\x80", b"PK")), "a pickle, or torch.save's zip"

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something is unpickled")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")]:
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    ostinato.TextGenerator.load(tmp_path / "run")
    ostinato.TextGenerator.resume(tmp_path / "run")


# Tensors.


def test_tensors_come_back_whatever_their_memory() -> None:
    w = torch.arange(12.0).view(3, 4)
    tensors = {
        "itself": w,
        "tied": w,
        "a part": w[1:],
        "transposed": w.T,
        "strided": w[:, ::2],
        "expanded": torch.tensor([2.0]).expand(3),
        "a parameter": torch.nn.Parameter(w.clone()),
        "nothing": torch.empty(0, 3),
        "a number": torch.tensor(1.5),
    }
    data = storage.pack_tensors(tensors)
    back = storage.unpack_tensors(data, Path("x"))
    assert back.keys() == tensors.keys()
    assert all(back[name].equal(tensor) for name, tensor in tensors.items())
    assert not any(tensor.requires_grad for tensor in back.values())
    with pytest.raises(DamagedError, match="x: not a safetensors file"):
        storage.unpack_tensors(data[:10], Path("x"))


def test_json_is_for_people_too() -> None:
    assert storage.to_json({"é": [1]}).decode() == '{\n "é": [\n  1\n ]\n}\n'
    assert json.loads(storage.to_json({"é": [1]})) == {"é": [1]}
    with pytest.raises(DamagedError, match="x: not JSON"):
        storage.from_json(b"{", Path("x"))
