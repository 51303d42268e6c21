"""`ostinato.data.batches`: every target once an epoch, every stream without a gap."""

from __future__ import annotations

import json
import os
import stat
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ostinato.data.batches import (
    ContiguousBatches,
    SequenceBatch,
    open_tokens,
    write_tokens,
)
from ostinato.data.text import TextSource
from ostinato.data.vocabulary import build_vocabulary
from ostinato.errors import DataError, OstinatoError
from ostinato.files import atomic_file

LAW = settings(max_examples=150, derandomize=True, deadline=None, database=None)
LAYOUT = st.builds(  # length, batch_size, window
    lambda batch_size, more, window: (2 * batch_size + more, batch_size, window),
    st.integers(1, 6),
    st.integers(0, 50),
    st.integers(1, 25),
)


def numbered(length: int, batch_size: int, window: int) -> ContiguousBatches:
    """Batches of tokens that are their own positions."""
    return ContiguousBatches(np.arange(length, dtype=np.uint16), batch_size, window)


def same(a: SequenceBatch, b: SequenceBatch) -> bool:
    tensors = [a.inputs, a.lengths, a.targets], [b.inputs, b.lengths, b.targets]
    return all(map(torch.equal, *tensors)) and a[3:] == b[3:]


# Laws of the batches.


@LAW
@given(LAYOUT)
@example((2, 1, 1))
@example((13, 3, 2))  # n = 4, windows divide it
@example((12, 3, 2))  # n = 3, a short last window
@example((12, 3, 25))  # one window
def test_an_epoch_reads_every_stream_without_a_gap(layout: tuple[int, int, int]) -> None:
    length, batch_size, window = layout
    batches = numbered(*layout)
    n = (length - 1) // batch_size
    for epoch in range(3):
        seen = [batches.next_batch() for _ in range(batches.windows)]
        assert [batch.fresh for batch in seen] == [True] + [False] * (batches.windows - 1)
        assert {batch.epoch for batch in seen} == {epoch}
        widths = [batch.inputs.shape[1] for batch in seen]
        assert all(width == window for width in widths[:-1]) and 1 <= widths[-1] <= window
        assert [batch.lengths.tolist() for batch in seen] == [[n] * batch_size for n in widths]
        assert [batch.steps for batch in seen] == [batch.targets.numel() for batch in seen]
        assert all(
            part.shape == (batch_size, width) and part.dtype == torch.int64
            for batch, width in zip(seen, widths, strict=True)
            for part in (batch.inputs, batch.targets)
        )
        inputs = torch.cat([batch.inputs for batch in seen], dim=1).tolist()
        targets = torch.cat([batch.targets for batch in seen], dim=1).tolist()
        for b in range(batch_size):
            assert inputs[b] == list(range(b * n, (b + 1) * n))
            assert targets[b] == list(range(b * n + 1, (b + 1) * n + 1))


@LAW
@given(LAYOUT)
def test_every_target_comes_exactly_once_an_epoch(layout: tuple[int, int, int]) -> None:
    length, batch_size, _ = layout
    batches = numbered(*layout)
    used = Counter(i for batch in batches for i in batch.targets.flatten().tolist())
    assert set(used.values()) == {1}
    assert sorted(used) == list(range(1, batches.predictions + 1))
    assert 0 <= length - 1 - batches.predictions < batch_size, "the fewest possible are left over"


@LAW
@given(LAYOUT, st.integers(0, 12), st.integers(1, 12))
def test_resumed_equals_uninterrupted(
    layout: tuple[int, int, int], before: int, after: int
) -> None:
    batches = numbered(*layout)
    for _ in range(before):
        batches.next_batch()
    state = json.loads(json.dumps(batches.state_dict()))
    resumed = numbered(*layout)
    resumed.load_state_dict(state)
    for _ in range(after):
        assert same(batches.next_batch(), resumed.next_batch())


def test_evaluation_is_one_epoch_and_moves_nothing() -> None:
    batches, untouched = numbered(20, 2, 4), numbered(20, 2, 4)
    for _ in range(batches.windows + 1):
        batches.next_batch(), untouched.next_batch()
    for _ in range(2):
        epoch = list(batches)
        assert len(epoch) == batches.windows
        assert [batch.fresh for batch in epoch] == [True, False, False]
        assert epoch[0].inputs[:, 0].tolist() == [0, 9]
        assert {batch.epoch for batch in epoch} == {0}
    assert same(batches.next_batch(), untouched.next_batch())


def test_a_batch_is_a_copy() -> None:
    tokens = np.arange(9)
    batches = ContiguousBatches(tokens, 2, 4)
    batches.next_batch().inputs.zero_()
    assert tokens.tolist() == list(range(9))


@pytest.mark.parametrize(
    "tokens", [list(range(9)), np.arange(18)[::2] // 2, torch.arange(9), np.arange(9, dtype=">u4")]
)
def test_any_integers_will_do(tokens: object) -> None:
    expected = numbered(9, 2, 3)
    for batch in ContiguousBatches(tokens, 2, 3):  # type: ignore[arg-type]
        assert same(batch, expected.next_batch())


# Mistakes.


@pytest.mark.parametrize(
    ("length", "batch_size", "advice"),
    [
        (7, 4, "has 7 tokens, but 4 streams of 2 tokens or more need 8; lower batch_size to 3"),
        (2, 2, "lower batch_size to 1"),
        (1, 1, "has 1 tokens, .* need 2; give more text"),
        (0, 1, "has 0 tokens, .* need 2; give more text"),
    ],
)
def test_a_text_too_short_is_refused_with_what_to_lower(
    length: int, batch_size: int, advice: str
) -> None:
    with pytest.raises(DataError, match=advice):
        ContiguousBatches(np.arange(length), batch_size, 5)
    if length >= 2:
        ContiguousBatches(np.arange(length), length // 2, 5)


@pytest.mark.parametrize(
    ("tokens", "batch_size", "window", "message"),
    [
        (np.arange(20), 0, 5, "batch_size must be an integer, 1 or more"),
        (np.arange(20), 2.0, 5, "batch_size must be an integer"),
        (np.arange(20), 2, -1, "window must be an integer, 1 or more"),
        (np.arange(20.0), 2, 5, r"shape \(20,\) and type float64; expected integers"),
        (np.zeros((4, 5), int), 2, 5, r"shape \(4, 5\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    tokens: np.ndarray, batch_size: int, window: int, message: str
) -> None:
    with pytest.raises(OstinatoError, match=message):
        ContiguousBatches(tokens, batch_size, window)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 21}, "saved with tokens=21, here it is 20"),
        ({"batch_size": 3}, "saved with batch_size=3"),
        ({"window": 9}, "saved with window=9"),
        ({"epoch": -1}, "is no position"),
        ({"next_batch": 3}, "epoch 0, batch 3 is no position among 3 batches"),
        ({"next_batch": -1}, "is no position"),
        ({"more": 1}, "expected the keys"),
    ],
)
def test_a_position_in_something_else_is_refused(change: dict[str, int], message: str) -> None:
    batches = numbered(20, 2, 4)
    state = batches.state_dict()
    with pytest.raises(OstinatoError, match=message):
        batches.load_state_dict(state | change)
    with pytest.raises(OstinatoError, match="expected the keys"):
        batches.load_state_dict({})
    assert batches.state_dict() == state, "a refused state changes nothing"


# Tokens on disk.


@settings(LAW, max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=9), max_size=6),
    st.sampled_from([0, 1, 2**8, 2**16]),
)
def test_tokens_come_back(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[list[int]], extra: int
) -> None:
    ids = [i for piece in pieces for i in piece]
    assume(ids)
    size = min(max(ids) + 1 + extra, 2**32)
    path = tmp_path_factory.mktemp("tokens") / "a.npy"
    mapped = write_tokens([np.array(piece, dtype=np.int64) for piece in pieces], path, size)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    assert mapped.tolist() == np.load(path).tolist() == open_tokens(path).tolist() == ids
    assert os.listdir(path.parent) == ["a.npy"]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1, np.uint8),
        (256, np.uint8),
        (257, np.uint16),
        (65_536, np.uint16),
        (65_537, np.uint32),
        (2**32, np.uint32),
    ],
)
def test_tokens_take_the_smallest_type(tmp_path: Path, size: int, dtype: type) -> None:
    mapped = write_tokens([np.array([size - 1, 0])], tmp_path / "a.npy", size)
    assert mapped.dtype == dtype
    assert mapped.tolist() == [size - 1, 0]


def fails() -> Iterator[np.ndarray]:
    yield np.array([1, 2])
    raise DataError("the text went bad")


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "the text is empty"),
        ([np.array([], int)], "the text is empty"),
        ([np.array([3]), np.array([1, 4, 0])], "there is no token 4; ids run from 0 to 3"),
        ([np.array([0, -1])], "there is no token -1"),
        ([np.array([0.5])], "a piece has shape"),
        ([np.array([[1]])], r"a piece has shape \(1, 1\)"),
        (fails(), "the text went bad"),
    ],
)
def test_tokens_are_written_whole_or_not_at_all(
    tmp_path: Path, pieces: Iterator[np.ndarray], message: str
) -> None:
    path = tmp_path / "a.npy"
    before = write_tokens([np.array([1, 2, 3])], path, 4).tolist()
    with pytest.raises(OstinatoError, match=message):
        write_tokens(pieces, path, 4)
    assert open_tokens(path).tolist() == before
    assert os.listdir(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("size", [0, -1, 2**32 + 1, 4.0])
def test_a_vocabulary_size_must_make_sense(tmp_path: Path, size: int) -> None:
    with pytest.raises(OstinatoError, match="expected an integer from 1"):
        write_tokens([np.array([0])], tmp_path / "a.npy", size)


def test_what_was_mapped_before_stays_as_it_was(tmp_path: Path) -> None:
    old = write_tokens([np.array([1, 2, 3])], tmp_path / "a.npy", 4)
    new = write_tokens([np.array([3, 2, 1])], tmp_path / "a.npy", 4)
    assert (old.tolist(), new.tolist()) == ([1, 2, 3], [3, 2, 1])


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "a.npy"
    with pytest.raises(OstinatoError, match=r"nowhere/a\.npy: cannot be written: there is no "):
        write_tokens([np.array([0])], path, 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OstinatoError, match="folder: cannot be written: is a folder; expected"):
        write_tokens([np.array([0])], tmp_path / "folder", 1)
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_is_named_and_other_trouble_is_not_taken_for_it(tmp_path: Path) -> None:
    full = pytest.raises(OstinatoError, match=r"a\.bin: cannot be written: No space left")
    with full, atomic_file(tmp_path / "a.bin"):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.bin"):
        (tmp_path / "another").read_bytes()
    assert os.listdir(tmp_path) == []


def test_an_atomic_file_reaches_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        assert Path(source).read_bytes() == b"whole" and target.read_bytes() == b"old"
        done.append("rename")
        real_replace(source, target)

    (tmp_path / "a.bin").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    with atomic_file(tmp_path / "a.bin") as file:
        file.write(b"whole")
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is damaged, or is no .npy file"),
        (b"hello", "is damaged, or is no .npy file"),
        (b"\x93NUMPY\x01\x00", "is damaged, or is no .npy file"),
        (b"\x93NUMPY\x01\x00\x08\x00{'descr'", "is damaged, or is no .npy file"),
        ("cut short", "is damaged, or is no .npy file"),
        (np.zeros(3), "does not hold token ids"),
        (np.zeros((2, 2), np.uint8), "does not hold token ids"),
        (np.zeros(3, np.int64), "does not hold token ids"),
        (np.array(["a"], dtype=object), "is damaged, or is no .npy file"),
    ],
    ids=str,
)
def test_a_file_without_tokens_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif content == "cut short":
        write_tokens([np.arange(100)], path, 100)
        os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match=message) as caught:
        open_tokens(path)
    assert caught.value.path == str(path)


# The whole way from a file to a batch.


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    line = "eine große Menge Text\n"
    path.write_text(line * 2_500_000, encoding="utf-8")
    assert path.stat().st_size > 50 << 20
    tracemalloc.start()
    try:
        source = TextSource.from_paths(path)
        vocabulary = build_vocabulary("char", source)
        tokens = write_tokens(
            vocabulary.encode_pieces(source), tmp_path / "tokens.npy", len(vocabulary)
        )
        batches = ContiguousBatches(tokens, batch_size=32, window=100)
        for _ in range(50):
            batch = batches.next_batch()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(tokens) == len(line) * 2_500_000
    n = (len(tokens) - 1) // 32
    where = 31 * n + 49 * 100
    expected = (line * 7)[where % len(line) :][:100]
    assert vocabulary.decode(batch.inputs[31].tolist()) == expected
    assert peak < 32 << 20
