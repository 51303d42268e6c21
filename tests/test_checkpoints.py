"""`ostinato.training.checkpoints`: the newest whole one comes back, whatever happened meanwhile."""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from dying import Disk, calls_of, die_at, quickly
from hypothesis import given, settings
from hypothesis import strategies as st

from ostinato.errors import OstinatoError
from ostinato.training import storage
from ostinato.training.checkpoints import Checkpoints

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
State = namedtuple("State", "h c")


def same(a: Any, b: Any) -> bool:
    """Equal in type, value and bits, NaN included; any tuple counts as a tuple."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.contiguous().flatten().view(torch.uint8).equal(b.flatten().view(torch.uint8))
        )
    if isinstance(a, tuple | list):
        kind = tuple if isinstance(a, tuple) else list
        return type(b) is kind and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return (
            type(b) is dict
            and [(type(k), k) for k in a] == [(type(k), k) for k in b]
            and all(same(a[k], b[k]) for k in a)
        )
    if isinstance(a, float):
        return type(b) is float and (math.isnan(a) == math.isnan(b)) and (a == b or math.isnan(a))
    return type(a) is type(b) and a == b


def save(folder: Path, *numbers: int, keep: int = 2) -> None:
    for number in numbers:
        quickly(lambda n=number: Checkpoints(folder, keep).save({"n": n, "w": torch.full((9,), n)}))


def number_in(folder: Path) -> int | None:
    tree = Checkpoints(folder).load()
    if tree is None:
        return None
    assert tree["w"].equal(torch.full((9,), tree["n"]))
    return int(tree["n"])


# What goes in comes out.


def both(tmp_path: Path) -> list[Checkpoints]:
    return [Checkpoints(tmp_path / "a" / "b"), Checkpoints(None)]


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert [checkpoints.load() for checkpoints in both(tmp_path)] == [None, None]
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert Checkpoints(tmp_path / "a" / "b").load() is None


def test_a_tree_of_everything_comes_back(tmp_path: Path) -> None:
    w = torch.randn(4, 3)
    tree = {
        "numbers": [0, -1, 2**70, 0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324, True, None],
        "texts": ["", 'é\n"水'],
        "empty": [{}, [], (), ""],
        0: {7: {"step": torch.tensor(3.0)}, 8: (1, (2, [3, (4,)]))},
        "tensors": {str(dtype): torch.ones(3, 2).to(dtype) for dtype in DTYPES},
        "shapes": [torch.empty(0), torch.empty(2, 0, 3), torch.tensor(2.5), w.T, w[1:, ::2]],
        "tied": {"embedding": w, "output": w},
        "wild": torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45]),
        "state": State(torch.ones(2), None),
        "tensor": "0",
        "dict": {"tuple": [{"tensor": "1"}], "list": ()},
    }
    for checkpoints in both(tmp_path):
        checkpoints.save(tree)
        back = checkpoints.load()
        if checkpoints.folder is None:
            back["state"] = tuple(back["state"])
        assert same(tree, back)
        assert math.copysign(1, back["numbers"][4]) == -1


TREES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.builds(
            lambda numbers, dtype: torch.tensor(numbers).to(dtype),
            st.lists(st.floats(width=32), max_size=3),
            st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(TREES)
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("any"))
    quickly(lambda: checkpoints.save(tree))
    assert same(tree, checkpoints.load())


@pytest.mark.parametrize("thing", [{1, 2}, object(), b"bytes", torch.nn.Linear(1, 1)], ids=type)
def test_what_would_not_come_back_is_refused(tmp_path: Path, thing: object) -> None:
    save(tmp_path, 1)
    with pytest.raises(TypeError, match=f"cannot hold {type(thing).__name__}"):
        Checkpoints(tmp_path).save({"n": [thing]})
    assert number_in(tmp_path) == 1


def test_a_checkpoint_is_a_copy(tmp_path: Path) -> None:
    w = torch.zeros(3)
    for checkpoints in both(tmp_path):
        w.zero_()
        tree = {"w": w, "list": [1]}
        checkpoints.save(tree)
        w.fill_(5)
        tree["list"].append(2)  # type: ignore[attr-defined]
        first = checkpoints.load()
        assert same(first, {"w": torch.zeros(3), "list": [1]})
        first["w"].fill_(7)
        assert same(checkpoints.load(), {"w": torch.zeros(3), "list": [1]})


# How many stay.


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_stay(tmp_path: Path, keep: int) -> None:
    for n in range(1, 7):
        save(tmp_path, n, keep=keep)
        expected = [f"{i:06d}" for i in range(max(1, n - keep + 1), n + 1)]
        assert sorted(os.listdir(tmp_path)) == expected
    assert number_in(tmp_path) == 6


def test_the_newest_is_the_one_of_the_highest_number(tmp_path: Path) -> None:
    save(tmp_path, 1)
    os.rename(tmp_path / "000001", tmp_path / "999999")
    save(tmp_path, 2, 3)
    assert sorted(os.listdir(tmp_path)) == ["1000000", "1000001"]
    assert number_in(tmp_path) == 3


# Damage.


def damage_bit(folder: Path) -> None:
    file = folder / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "a flipped bit": damage_bit,
    "cut short": lambda folder: os.truncate(folder / "tensors.safetensors", 20),
    "empty": lambda folder: os.truncate(folder / "state.json", 0),
    "no checksums": lambda folder: os.truncate(folder / "SHA256SUMS", 0),
    "checksums of one": lambda folder: (folder / "SHA256SUMS").write_text(
        (folder / "SHA256SUMS").read_text().splitlines(keepends=True)[0]
    ),
    "missing": lambda folder: (folder / "state.json").unlink(),
    "all missing": lambda folder: [file.unlink() for file in folder.iterdir()],
    "another file": lambda folder: (folder / "tensors.safetensors").write_bytes(
        struct.pack("<Q", 2) + b"{}"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_older_one_takes_the_place_of_a_damaged_one(tmp_path: Path, damage: Any) -> None:
    save(tmp_path, 1, 2, 3)
    damage(tmp_path / "000003")
    with pytest.warns(UserWarning, match=r"000003.* Trying an older checkpoint\."):
        assert number_in(tmp_path) == 2
    save(tmp_path, 4)
    assert number_in(tmp_path) == 4
    damage(tmp_path / "000004")
    shutil.rmtree(tmp_path / "000003")
    with (
        pytest.warns(UserWarning, match="000004"),
        pytest.raises(OstinatoError, match="all checkpoints are damaged"),
    ):
        number_in(tmp_path)


def test_all_damaged_is_an_error_that_names_folder_and_file(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    damage_bit(tmp_path / "000001")
    damage_bit(tmp_path / "000002")
    with (
        pytest.warns(UserWarning, match="older checkpoint") as warned,
        pytest.raises(OstinatoError, match=r"all checkpoints are damaged\. .*tensors.*: dam"),
    ):
        number_in(tmp_path)
    assert len(warned) == 2


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", "old"):
        (tmp_path / name).mkdir(parents=True)
    save(tmp_path, 1, 2, 3)
    assert number_in(tmp_path) == 3
    assert sorted(os.listdir(tmp_path)) == ["000002", "000003", "notes.txt", "old"]


# A death at any call.


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power fails"])
def test_a_death_at_any_call_leaves_the_newest_or_the_one_before(
    tmp_path: Path, before: int, power: bool
) -> None:
    save(tmp_path / "counted", *range(1, before + 1))
    tree = {"n": 9, "w": torch.full((9,), 9)}
    calls = calls_of(lambda: Checkpoints(tmp_path / "counted").save(tree))
    assert calls.count("rename") == (3 if before == 2 else 2)
    outcomes = []
    for k in range(1, len(calls) + 1):
        folder = tmp_path / str(k)
        save(folder, *range(1, before + 1))
        disk = die_at(k, lambda folder=folder: Checkpoints(folder).save(tree))
        if power:
            disk.fail_power(tmp_path)
        found = number_in(folder)  # a warning would be an error
        assert found in (before or None, 9)
        outcomes.append(found == 9)
        save(folder, 10)
        assert number_in(folder) == 10
        assert len(os.listdir(folder)) <= 2, "what the dead left is cleared away"
    decided = [k for k, call in enumerate(calls) if call == "rename"][1] + 1
    assert outcomes == [False] * decided + [True] * (len(calls) - decided)


def test_a_checkpoint_takes_its_name_when_all_of_it_is_on_disk(tmp_path: Path) -> None:
    with Disk().watched() as disk, pytest.MonkeyPatch.context() as patch:
        rename = os.rename

        def look(source: Path, target: Path) -> None:
            if Path(target).name == "000001":
                assert not disk.unsynced
                assert storage.read_files(Path(source)).keys() == {
                    "state.json",
                    "tensors.safetensors",
                }
            rename(source, target)

        patch.setattr(os, "rename", look)
        Checkpoints(tmp_path).save({"w": torch.ones(2)})
    last = len(disk.calls) - disk.calls[::-1].index("rename")
    assert disk.calls[last] == "fsync", "the folder is synced after the renaming"
