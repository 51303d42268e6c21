"""Sequences end to end, and batches of them: all there, each once, in an order that resumes."""

import numpy as np
import pytest
import torch

from ostinato.data.batches import SequenceBatches
from ostinato.data.ragged import Examples, Ragged
from ostinato.errors import DataError, OstinatoError

LENGTHS = [3, 0, 5, 1, 2, 9, 4]


def rows(features=None):
    """Arrays whose numbers say where they stand: 100 * row + step."""
    steps = [100 * i + np.arange(n) for i, n in enumerate(LENGTHS)]
    return steps if features is None else [np.stack([s] * features, -1) for s in steps]


def examples(by_step=False):
    targets = Ragged.of(rows()) if by_step else np.arange(len(LENGTHS))
    return Examples(Ragged.of(rows()), targets)


@pytest.mark.parametrize("features", [None, 2])
def test_what_is_written_is_what_is_read(tmp_path, features):
    path = tmp_path / "a.npy"
    for found in (Ragged.of(rows(features)), Ragged.write(iter(rows(features)), path)):
        assert len(found) == len(LENGTHS)
        assert found.lengths.tolist() == LENGTHS
        assert all(a.tolist() == b.tolist() for a, b in zip(found, rows(features), strict=True))
    with pytest.raises(IndexError):
        found[len(LENGTHS)]


def test_padding_is_zeros_after_the_end():
    found = Ragged.of(rows()).padded([2, 3, 1])
    assert found.tolist() == [[200, 201, 202, 203, 204], [300, 0, 0, 0, 0], [0] * 5]
    assert Ragged.of(rows()).padded([2, 5], [3, 6], 2).tolist() == [[203, 204], [506, 507]]


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a.npy: there is no sequence at all"):
        Ragged.write([], tmp_path / "a.npy")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"a.npy: is damaged, or missing"):
        Ragged.open(tmp_path / "a.npy")
    assert Ragged.write([np.zeros((0, 3))], tmp_path / "b.npy").values.shape == (0, 3)


@pytest.mark.parametrize("by_step", [False, True])
def test_examples_are_kept_in_a_folder(tmp_path, by_step):
    wanted = examples(by_step)
    targets = iter(wanted.targets) if by_step else wanted.targets
    Examples.write(tmp_path, "training", iter(wanted.inputs), targets)
    found = Examples.open(tmp_path, "training")
    assert [x.tolist() for x in found.inputs] == [x.tolist() for x in wanted.inputs]
    assert [np.asarray(y).tolist() for y in found.targets] == [
        np.asarray(y).tolist() for y in wanted.targets
    ]
    assert Examples.open(tmp_path, "validation") is None


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 9])
def test_an_epoch_has_every_sequence_once(batch_size):
    batches = SequenceBatches(examples(), batch_size, seed=3)
    for epoch in range(3):
        seen = []
        for _ in range(batches.windows):
            batch = batches.next_batch()
            assert (batch.epoch, batch.fresh) == (epoch, True)
            assert batch.steps == sum(LENGTHS[i] for i in batch.targets.tolist())
            for x, n, row in zip(batch.inputs, batch.lengths, batch.targets, strict=True):
                assert n == LENGTHS[row]
                assert x[:n].tolist() == [100 * int(row) + t for t in range(n)]
                assert not x[n:].any()
            seen += batch.targets.tolist()
        assert sorted(seen) == list(range(len(LENGTHS)))


def test_the_order_differs_between_epochs_and_seeds():
    def order(seed):
        batches = SequenceBatches(examples(), 2, seed=seed)
        return [batches.next_batch().targets.tolist() for _ in range(3 * batches.windows)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:4] != order(1)[4:8]


def test_similar_lengths_come_together():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 200, 1000)
    many = Examples(Ragged.of(np.zeros(n, np.int8) for n in lengths), np.zeros(1000))
    batches = SequenceBatches(many, 20)
    found = [batches.next_batch() for _ in range(batches.windows)]
    assert sum(b.inputs.numel() for b in found) < 1.1 * lengths.sum()


def test_long_sequences_are_cut_at_other_places_every_time():
    batches = SequenceBatches(examples(by_step=True), 4, window=4, seed=1)
    cuts = set()
    for _ in range(20):
        seen = []
        for _ in range(batches.windows):
            batch = batches.next_batch()
            for x, n, y in zip(batch.inputs, batch.lengths, batch.targets, strict=True):
                assert n <= 4
                assert x[:n].tolist() == y[:n].tolist()
                seen.append(x[:n].tolist())
        steps = sorted({step for piece in seen for step in piece})
        assert steps == sorted(step for row in rows() for step in row)
        cuts |= {piece[0] for piece in seen if piece and piece[0] // 100 == 5}
    assert len(cuts) == 9  # every step of the longest has begun a window


def test_features_are_moved_with_their_targets():
    x = np.eye(6, dtype=np.uint8)
    batches = SequenceBatches(Examples(Ragged.of([x] * 8), Ragged.of([x] * 8)), 8, shift=2)
    batch, shifts = batches.next_batch(), set()
    assert batch.inputs.equal(batch.targets)
    for row in batch.inputs.numpy():
        found = [n for n in range(-2, 3) if np.array_equal(row, np.eye(6, k=n))]
        shifts |= set(found)
        assert len(found) == 1
    assert len(shifts) > 2


def test_evaluation_meets_whole_sequences_by_their_numbers():
    batches = SequenceBatches(examples(by_step=True), 3, window=2)
    seen = {}
    for numbers, batch in batches.in_order():
        for row, x, n in zip(numbers, batch.inputs, batch.lengths, strict=True):
            seen[int(row)] = x[:n].tolist()
    assert seen == {i: row.tolist() for i, row in enumerate(rows())}


def test_a_position_can_be_gone_back_to():
    batches = SequenceBatches(examples(), 2, seed=5)
    for k in range(9):
        state = batches.state_dict()
        wanted = [batches.next_batch().targets.tolist() for _ in range(6)]
        other = SequenceBatches(examples(), 2, seed=5)
        other.load_state_dict(state)
        assert [other.next_batch().targets.tolist() for _ in range(6)] == wanted
        batches.load_state_dict(state)
        for _ in range(k % 3 + 1):
            batches.next_batch()
    with pytest.raises(OstinatoError, match="saved with batch_size=2, here it is 3"):
        SequenceBatches(examples(), 3, seed=5).load_state_dict(state)


def test_what_batches_cannot_be_made_of():
    with pytest.raises(OstinatoError, match="batch_size must be an integer, 1 or more"):
        SequenceBatches(examples(), 0)
    with pytest.raises(OstinatoError, match="one target cannot be cut"):
        SequenceBatches(examples(), 2, window=3)


def test_types_are_those_that_networks_take():
    def types(array):
        batch = SequenceBatches(Examples(Ragged.of([array]), np.zeros(1, np.float32)), 1)
        return batch.next_batch().inputs.dtype

    assert types(np.zeros(2, np.int32)) == torch.int64
    assert types(np.zeros(2, np.uint8)) == torch.uint8
    assert types(np.zeros(2, np.float32)) == torch.float32
