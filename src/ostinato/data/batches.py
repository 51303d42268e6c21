"""Batches: of one long sequence for truncated back-propagation through time, or of many."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from ostinato.data.ragged import Examples, Ragged, write_array
from ostinato.data.shards import Reader, Work, write_shards
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.inputs import Words

POOL = 50
"""Batches among which sequences are sorted by length: less padding, and still a random order."""

SHUFFLED = 1 << 28
"""Bytes of sequences that are shuffled together; of more, stretches are shuffled, and then a few of
these at a time (as in WebDataset, or a shuffle buffer), so that memory is bounded."""

STRETCHES = 16
"""Stretches of sequences that are shuffled together, where there are more."""

_ROWS = 1 << 14  # sequences of a stretch, at most

T = TypeVar("T")

_Piece: TypeAlias = tuple[int, int, int]
"""A sequence's number, the step at which to begin in it, and steps."""


class Epochs:
    """A position in an endless succession of epochs, each of ``windows`` batches."""

    windows: int
    _epoch, _next = 0, 0
    _part, _parts = 0, 1

    def split(self, part: int, parts: int) -> Self:
        """Return a copy whose batches are a part of these: rows part, part + parts, and so on.

        Rows are sorted by length where lengths differ, so that all parts take about as much work. A
        part without rows of its own gets a row that is not `SequenceBatch.idle` in another.
        """
        found = copy.copy(self)
        found._part, found._parts = part, parts
        return found

    def _share(self, rows: Sequence[T]) -> tuple[Sequence[T], bool]:
        """Return the rows of a batch that are ours; or else one that is not, and True."""
        own = rows[self._part :: self._parts]
        return (own, False) if len(own) else (rows[:1], True)

    def _advance(self) -> None:
        self._next += 1
        if self._next == self.windows:
            self._epoch, self._next = self._epoch + 1, 0

    def _layout(self) -> dict[str, int]:
        """Return what gives a position a meaning."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        """Where `next_batch` stands, and what gives it a meaning."""
        return {"epoch": self._epoch, "next_batch": self._next, **self._layout()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to where `state_dict` was taken, of the same data and settings."""
        call, layout = f"{type(self).__name__}.load_state_dict", self._layout()
        if set(state) != {"epoch", "next_batch", *layout}:
            raise OstinatoError(
                f"{call}: expected the keys epoch, next_batch, {', '.join(layout)}; "
                f"got {', '.join(map(str, state)) or 'none'}."
            )
        for name, here in layout.items():
            if state[name] != here:
                raise OstinatoError(
                    f"{call}: the state was saved with {name}={state[name]}, here it is {here}; "
                    "resume with the same data and settings."
                )
        epoch, batch = state["epoch"], state["next_batch"]
        if epoch < 0 or not 0 <= batch < self.windows:
            raise OstinatoError(
                f"{call}: epoch {epoch}, batch {batch} is no position among {self.windows} batches "
                "an epoch."
            )
        self._epoch, self._next = epoch, batch


class SequenceBatch(NamedTuple):
    """Some sequences, or one window of each of some streams.

    Attributes:
        inputs: ``(B, T, ...)``, zeros in padding; words, where a transform made them.
        lengths: steps of each, int64 ``(B,)``.
        targets: ``(B,)`` or ``(B, K)`` of sequences, ``(B, T)`` or ``(B, T, K)`` of steps; or
            sequences of lengths of their own.
        epoch: passes completed before this one.
        fresh: whether the carried state must be reset; otherwise each row continues the same row
            of the batch before.
        target_lengths: steps of each target, int64 ``(B,)``, where they are of their own.
        idle: whether the rows count nothing: they are those of another part, see `Epochs.split`.
    """

    inputs: Tensor | Words
    lengths: Tensor
    targets: Tensor
    epoch: int
    fresh: bool = True
    target_lengths: Tensor | None = None
    idle: bool = False

    @property
    def steps(self) -> int:
        """True steps of all sequences together."""
        return int(self.lengths.sum())

    @property
    def unequal(self) -> Tensor | None:
        """The lengths, unless there is no padding, which is faster done without them."""
        return None if bool((self.lengths == self.inputs.shape[1]).all()) else self.lengths


class ContiguousBatches(Epochs):
    """Windows over B parallel streams, each of which continues where its last window ended.

    With ``n = (len(tokens) - 1) // batch_size``, stream b reads ``tokens[b*n : (b+1)*n + 1]``; each
    token is the target of at most one stream, and in one epoch each target of each stream comes
    exactly once. The last window of an epoch is shorter than the others where `window` does
    not divide n. Up to ``batch_size - 1`` tokens at the very end belong to no stream.

    Args:
        tokens: token ids, integers of shape (N,), N >= 2 B; may be mapped from disk
            (`open_tokens`).
        batch_size: B, the number of streams.
        window: T, the time steps of one batch.
        reader: watches over the file that tokens are mapped from.

    Attributes:
        windows: batches in an epoch.
        predictions: targets in an epoch, over all streams.

    >>> batches = ContiguousBatches(range(8), batch_size=2, window=2)
    >>> batches.next_batch().inputs.tolist(), batches.next_batch().inputs.tolist()
    ([[0, 1], [3, 4]], [[2], [5]])
    >>> batches.windows, batches.predictions, batches.next_batch().fresh
    (2, 6, True)
    """

    def __init__(
        self, tokens: ArrayLike, batch_size: int, window: int, reader: Reader | None = None
    ) -> None:
        array = np.asanyarray(tokens)
        call = _checked_call("ContiguousBatches", batch_size=batch_size, window=window)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise OstinatoError(
                f"{call}: tokens has shape {array.shape} and type {array.dtype}; expected integers "
                "of shape (N,)."
            )
        if len(array) < 2 * batch_size:
            most = len(array) // 2
            raise DataError(
                f"{call}: the text has {len(array)} tokens, but {batch_size} streams of 2 tokens "
                f"or more need {2 * batch_size}; "
                f"{f'lower batch_size to {most} or less, or ' if most else ''}give more text."
            )
        self.batch_size = batch_size
        self.window = window
        self._length = len(array)
        n = (len(array) - 1) // batch_size
        # Views, so that tokens mapped from disk stay there until their window comes.
        self._reader, self._n = reader, n
        self._streams = [array[i : batch_size * n + i].reshape(batch_size, n) for i in (0, 1)]
        self.windows = -(-n // window)
        self.predictions = batch_size * n

    def next_batch(self) -> SequenceBatch:
        """The next window of the endless succession of epochs."""
        batch = self._batch(self._epoch, self._next)
        self._advance()
        return batch

    def __iter__(self) -> Iterator[SequenceBatch]:
        """One whole epoch, called epoch 0, for evaluation; leaves `next_batch` where it was.

        Of a part without streams, see `split`, nothing.
        """
        windows = range(0 if self._part >= self.batch_size else self.windows)
        return (self._batch(0, window) for window in windows)

    def _batch(self, epoch: int, window: int) -> SequenceBatch:
        steps = slice(window * self.window, min((window + 1) * self.window, self._n))
        rows, idle = self._share(range(self.batch_size))
        if self._reader is not None:
            for row in rows:
                self._reader.touch(row * self._n + steps.start, row * self._n + steps.stop + 1)
        inputs, targets = (
            torch.from_numpy(streams[np.asarray(rows), steps].astype(np.int64))
            for streams in self._streams
        )
        lengths = torch.full((len(rows),), inputs.shape[1])
        return SequenceBatch(inputs, lengths, targets, epoch, fresh=window == 0, idle=idle)

    def _layout(self) -> dict[str, int]:
        return {"tokens": self._length, "batch_size": self.batch_size, "window": self.window}

    def __repr__(self) -> str:
        return f"ContiguousBatches({self._length} tokens, B={self.batch_size}, T={self.window})"


def write_tokens(
    pieces: Iterable[NDArray[np.integer[Any]]],
    path: str | os.PathLike[str],
    vocabulary_size: int,
) -> np.memmap[Any, np.dtype[Any]]:
    """Write token ids to a ``.npy`` file, a piece at a time, and map it.

    The file comes into being whole or not at all (see `atomic_file`).

    Args:
        pieces: token ids, integers of shape (T,) each, as `Vocabulary.encode_pieces` gives them.
        path: the file; one that is there already is replaced.
        vocabulary_size: V; decides the type, the smallest of uint8, uint16 and uint32 that fits.

    Returns:
        All ids, of shape (N,), mapped read-only; a `DataError` if there is none.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "tokens.npy")
    >>> write_tokens([np.array([3, 1]), np.array([2])], path, vocabulary_size=4)
    memmap([3, 1, 2], dtype=uint8)
    """
    call = f"write_tokens(vocabulary_size={vocabulary_size!r})"
    if not isinstance(vocabulary_size, int) or not 1 <= vocabulary_size <= 2**32:
        raise OstinatoError(f"{call}: expected an integer from 1 to 2**32.")
    dtype = np.min_scalar_type(vocabulary_size - 1)

    def checked() -> Iterator[NDArray[Any]]:
        for piece in pieces:
            ids = np.asarray(piece)
            if not ids.size:
                continue
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise OstinatoError(
                    f"{call}: a piece has shape {ids.shape} and type {ids.dtype}; expected "
                    "integers of shape (T,)."
                )
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= vocabulary_size:
                raise OstinatoError(
                    f"{call}: there is no token {low if low < 0 else high}; ids run from 0 to "
                    f"{vocabulary_size - 1}."
                )
            yield ids.astype(dtype)

    write_array(checked(), path, f"{call}: the text is empty; give some text.")
    return open_tokens(path)


def write_token_shards(
    pieces: Callable[[int], Iterable[tuple[int, NDArray[np.integer[Any]]]]],
    path: Path,
    vocabulary_size: int,
    work: Work,
    stage: str,
    characters: int,
) -> np.memmap[Any, np.dtype[Any]]:
    """Write token ids as `write_tokens` does, in shards, from where it was interrupted.

    Args:
        pieces: yields token ids from a character on, and the characters that they stand for, as
            `Vocabulary.encode_counted`.
        path: the file.
        vocabulary_size: V.
        work: where the shards are listed.
        stage: what is told of the progress.
        characters: of all pieces.
    """
    dtype = np.min_scalar_type(vocabulary_size - 1)

    def items(done: int) -> Iterator[tuple[int, NDArray[Any]]]:
        return ((n, ids.astype(dtype)) for n, ids in pieces(done))

    write_shards(path, items, work, stage, characters)
    return open_tokens(path)


def open_tokens(path: str | os.PathLike[str]) -> np.memmap[Any, np.dtype[Any]]:
    """Map a file that `write_tokens` wrote: ids of shape (N,), read-only, read when used."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}.", path=path) from error
    except Exception as error:  # of NumPy, at bytes that it did not write
        raise DataError(f"is damaged, or is no .npy file: {error}", path=path) from error
    kinds = (np.uint8, np.uint16, np.uint32)
    if not isinstance(tokens, np.memmap) or tokens.ndim != 1 or tokens.dtype not in kinds:
        raise DataError("does not hold token ids; write it with write_tokens.", path=path)
    return tokens


class _Plan(NamedTuple):
    """The batches of some stretches of an epoch.

    Attributes:
        epoch: the epoch.
        group: number of the group of stretches.
        begin: number of the first of the batches in the epoch.
        batches: sequences, or windows of them, of each batch.
        left: those that were too few for a batch.
    """

    epoch: int
    group: int
    begin: int
    batches: list[list[_Piece]]
    left: list[_Piece]


def _stretches(rows: Ragged) -> NDArray[np.int64]:
    """Return where stretches of sequences begin that are shuffled as one, and where the last ends.

    A single one, unless the sequences are too large or too many to be shuffled together.
    """
    N = len(rows)
    if rows.nbytes <= SHUFFLED and N <= STRETCHES * _ROWS:
        return np.array([0, N])
    each = max(1, rows.nbytes // max(1, len(rows.values)))  # bytes of a step
    steps = max(1, SHUFFLED // STRETCHES // each)
    ends = np.searchsorted(rows.starts, np.arange(0, len(rows.values), steps))
    return np.unique(np.concatenate([np.arange(0, N, _ROWS), ends[ends < N], [N]]))


@dataclass(eq=False, repr=False)
class SequenceBatches(Epochs):
    """Batches of sequences, in another random order in every epoch, similar lengths together.

    Args:
        examples: the sequences.
        batch_size: B, the most in a batch.
        window: sequences of steps that are longer are cut into windows of so many, at other places
            in every epoch; only where targets are of steps. None for whole ones.
        own_lengths: whether targets are sequences with lengths of their own.
        shift: features of each sequence are moved up or down by so many places at most, such as the
            keys of a piano, another number every time; so are targets of as many features.
        seed: of the order, of the shifts and of what ``augment`` draws.
        augment: varies the features ``(T, I)`` of a sequence by numbers drawn from a generator,
            such as `Augmentation`; it may change T. Only where no step has a target; not in
            evaluation.
        transform: makes a batch ready for the network, such as on its device.

    Attributes:
        windows: batches in an epoch.

    Example:
        >>> examples = Examples(Ragged.of(np.arange(n) for n in (3, 1, 2)), np.array([7, 8, 9]))
        >>> batches = SequenceBatches(examples, batch_size=2)
        >>> sorted(int(t) for _ in range(batches.windows) for t in batches.next_batch().targets)
        [7, 8, 9]
    """

    examples: Examples
    batch_size: int
    window: int | None = None
    shift: int = 0
    seed: int = 0
    _: KW_ONLY
    own_lengths: bool = False
    augment: Callable[[NDArray[Any], np.random.Generator], NDArray[Any]] | None = None
    transform: Callable[[SequenceBatch], SequenceBatch] = lambda batch: batch

    def __post_init__(self) -> None:
        window = self.window
        counts = {} if window is None else {"window": window}
        call = _checked_call("SequenceBatches", batch_size=self.batch_size, **counts)
        lengths, targets = self.examples.inputs.lengths, self.examples.targets
        if window is not None and not isinstance(targets, Ragged):
            raise OstinatoError(f"{call}: a sequence with one target cannot be cut into windows.")
        self._lengths = lengths
        if self.augment and isinstance(targets, Ragged) and not self.own_lengths:
            raise OstinatoError(
                f"{call}: sequences with a target at each step cannot be augmented."
            )
        # Steps of targets that are sequences of their own; pieces are sorted by them, too.
        self._own = targets.lengths if self.own_lengths and isinstance(targets, Ragged) else None
        self._further = np.zeros_like(lengths) if self._own is None else self._own
        pieces = np.ones_like(lengths)
        if window is not None:  # the first window of a long sequence may be short
            pieces = np.where(lengths > window, -(-lengths // window) + 1, 1)
        self._pieces = int(pieces.sum())
        self.windows = -(-self._pieces // self.batch_size)
        self._stretches = _stretches(self.examples.inputs)
        self._plan = _Plan(-1, 0, 0, [], [])

    def next_batch(self) -> SequenceBatch:
        """The next batch of the endless succession of epochs."""
        plan = self._plan
        if plan.epoch != self._epoch or self._next < plan.begin:
            plan = self._arranged(_Plan(self._epoch, -1, 0, [], []))
        while self._next >= plan.begin + len(plan.batches):
            plan = self._arranged(plan)
        self._plan = plan
        pieces = plan.batches[self._next - plan.begin]
        own, idle = self._share(pieces)
        places, _ = self._share(range(len(pieces)))
        batch = self._batch(own, self._epoch, places)._replace(idle=idle)
        if self.shift and isinstance(batch.inputs, Tensor):
            random = np.random.default_rng([self.seed % 2**32, self._epoch, self._next])
            shifts = random.integers(-self.shift, self.shift + 1, len(pieces)).tolist()
            shifts, _ = self._share(shifts)
            _move(batch.inputs, shifts)
            if batch.targets.shape == batch.inputs.shape:
                _move(batch.targets, shifts)
        self._advance()
        return self.transform(batch)

    def __iter__(self) -> Iterator[SequenceBatch]:
        """All whole sequences once, by length: for evaluation. Of a part some of the batches."""
        return (batch for _, batch in self.in_order())

    def in_order(self) -> Iterator[tuple[NDArray[np.int64], SequenceBatch]]:
        """All whole sequences once, by length, with their numbers: for evaluation."""
        order = np.argsort(self._lengths + self._further, kind="stable")
        for begin in range(0, len(order), self.batch_size)[self._part :: self._parts]:
            rows = order[begin : begin + self.batch_size]
            ends = zip(rows.tolist(), self._lengths[rows].tolist(), strict=True)
            yield rows, self.transform(self._batch([(row, 0, end) for row, end in ends], 0))

    def _arranged(self, before: _Plan) -> _Plan:
        """Return the batches of the next group of stretches of an epoch."""
        epoch, group = before.epoch, before.group + 1
        seed, stretches = self.seed % 2**32, len(self._stretches) - 1
        random = np.random.default_rng([seed, epoch])
        if stretches == 1:
            rows = np.arange(len(self._lengths))
        else:
            some = random.permutation(stretches)[group * STRETCHES :][:STRETCHES].tolist()
            rows = np.concatenate([np.arange(*self._stretches[i : i + 2]) for i in sorted(some)])
            random = np.random.default_rng([seed, epoch, group])
        pieces: list[_Piece] = []
        expected = 0
        for row, length in zip(rows.tolist(), self._lengths[rows].tolist(), strict=True):
            bounds = [0, length]
            if self.window is not None and length > self.window:
                offset = int(random.integers(1, self.window + 1))
                bounds[1:1] = range(offset, length, self.window)
                expected += -(-length // self.window)
            expected += 1
            pieces += [(row, begin, end - begin) for begin, end in pairwise(bounds)]
        pieces = [pieces[i] for i in random.permutation(len(pieces))]
        pieces += pieces[: expected - len(pieces)]  # so that all epochs are of one length
        pieces = before.left + pieces
        size, further, left = self.batch_size, self._further, list[_Piece]()
        if (group + 1) * STRETCHES < stretches:  # a batch may be of two groups
            whole = len(pieces) // size * size
            pieces, left = pieces[:whole], pieces[whole:]
        batches: list[list[_Piece]] = []
        for pool in range(0, len(pieces), POOL * size):
            some_pieces = pieces[pool : pool + POOL * size]
            some_pieces.sort(key=lambda p: p[2] + int(further[p[0]]))
            batches += [some_pieces[i : i + size] for i in range(0, len(some_pieces), size)]
        batches = [batches[i] for i in random.permutation(len(batches))]
        return _Plan(epoch, group, before.begin + len(before.batches), batches, left)

    def _batch(
        self, pieces: Sequence[_Piece], epoch: int, places: Sequence[int] = ()
    ) -> SequenceBatch:
        """Return some pieces as a batch; they are varied where their places in it are given."""
        rows, begins, steps = map(list, zip(*pieces, strict=True))
        longest = max(steps)
        if self.augment is None or not places:
            inputs = self.examples.inputs.padded(rows, begins, longest)
        else:  # every row by numbers of its own, which do not depend on how a batch is split
            key = [self.seed % 2**32, self._epoch, self._next]
            varied = Ragged.of(
                self.augment(self.examples.inputs[row], np.random.default_rng([*key, place]))
                for row, place in zip(rows, places, strict=True)
            )
            inputs, steps = varied.padded(range(len(rows))), varied.lengths.tolist()
        targets, own = self.examples.targets, None
        if not isinstance(targets, Ragged):
            chosen = targets[rows]
        elif self._own is None:
            chosen = targets.padded(rows, begins, longest)
        else:
            chosen, own = targets.padded(rows), torch.from_numpy(self._own[rows])
        lengths = torch.tensor(steps)
        return SequenceBatch(_tensor(inputs), lengths, _tensor(chosen), epoch, target_lengths=own)

    def _layout(self) -> dict[str, int]:
        stretches = len(self._stretches) - 1
        several = {"stretches": stretches} if stretches > 1 else {}
        return several | {
            "sequences": len(self._lengths),
            "batch_size": self.batch_size,
            "window": self.window or 0,
            "shift": self.shift,
            "seed": self.seed,
        }


def _checked_call(name: str, **counts: int) -> str:
    """Return how a call begins its messages; raise an error unless its arguments are counts."""
    call = f"{name}({', '.join(f'{key}={value!r}' for key, value in counts.items())})"
    for key, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise OstinatoError(f"{call}: {key} must be an integer, 1 or more.")
    return call


def _move(x: Tensor, places: Sequence[int]) -> None:
    """Move the features of each row of ``x (B, T, I)`` up by some places, zeros after them."""
    for row, n in zip(x, places, strict=True):
        row.copy_(F.pad(row, (n, -n)))


def _tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor of a type that PyTorch computes with."""
    whole = array.dtype.kind in "iu" and array.dtype != np.uint8
    return torch.from_numpy(array.astype(np.int64, copy=False) if whole else array)
