"""Sequences with targets, from data as they were read to batches, predictions and samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.data.corpus import Corpus
from ostinato.data.inputs import SequenceInputs
from ostinato.data.ragged import Examples, Ragged, WordTable
from ostinato.data.shards import Work
from ostinato.errors import DataError
from ostinato.tasks.targets import SequenceTargets
from ostinato.training.evaluation import NetworkInput, Problem, Sample, predict
from ostinato.training.settings import TrainingSettings

T = TypeVar("T")
InputsT = TypeVar("InputsT", bound=SequenceInputs)


def split(
    data: Corpus,
    fraction: float | None,
    seed: int,
    strata: Sequence[str] | NDArray[np.int64] | None = None,
    *,
    call: str = "split",
    most: int = 10_000,
    shuffled: bool = False,
) -> tuple[Corpus, Corpus]:
    """Split data into a training and a validation part; a `DataError` if they are too few.

    Args:
        data: the data.
        fraction: share of the validation part; None for a tenth, a fifth of fewer than 1,000.
        seed: of the choice.
        strata: labels that should be in equal shares in both parts, if that can be.
        call: who asks, for errors.
        most: sequences of the validation part, where no fraction is given.
        shuffled: whether the order becomes random.
    """
    N = len(data)
    share = _share(N, fraction)
    held = min(max(1, round(share * N)), most if fraction is None else N)
    if held >= N:
        raise DataError(
            f"{call}: {N} sequences are too few to hold {held} out for validation; give more, or "
            "validation_fraction=0."
        )
    rows, groups, lone = np.arange(N), None, np.arange(0)
    if strata is not None:
        _, numbers, counts = np.unique(strata, return_inverse=True, return_counts=True)
        # A label that occurs once cannot be in both parts: it is trained on.
        rest = np.flatnonzero(counts[numbers] >= 2)
        if len(counts[counts >= 2]) <= min(held, len(rest) - held):
            rows, groups, lone = rest, numbers[rest], np.flatnonzero(counts[numbers] < 2)
    kept, out = train_test_split(rows, test_size=held, random_state=seed % 2**32, stratify=groups)
    kept = np.concatenate([kept, lone])
    if not shuffled:
        kept, out = np.sort(kept), np.sort(out)
    return data.take(kept), data.take(out)


def split_groups(
    data: Corpus, fraction: float | None, seed: int, *, call: str = "split_groups"
) -> tuple[Corpus, Corpus]:
    """Split data into a training and a validation part that share no group, such as a speaker.

    Groups are drawn at random until they hold about the share of `split`; one at least, and not
    all. The training part has a note that names them.

    Raises:
        DataError: there is a single group.
    """
    groups = np.asarray(data.groups)
    names, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"{call}: all {len(data):,} sequences are of the group {str(names[0])!r}; expected two "
            "or more, some of which are held out for validation. Or use validation_fraction=0."
        )
    share = _share(len(data), fraction)
    order = np.random.default_rng(seed % 2**32).permutation(len(names))
    held = np.cumsum(counts[order])
    # As many as come nearest to the share.
    count = min(1 + int(np.abs(held - share * len(data)).argmin()), len(names) - 1)
    out = np.isin(numbers, order[:count])
    kept, chosen = np.flatnonzero(~out), sorted(names[order[:count]].tolist())
    training, held_out = data.take(kept.tolist()), data.take(np.flatnonzero(out).tolist())
    some = ", ".join(chosen[:8]) + (", ..." if count > 8 else "")
    note = f"{len(names):,} groups, of which {count:,} for validation alone: {some}"
    return replace(training, notes=[*training.notes, note]), held_out


def _share(count: int, fraction: float | None) -> float:
    """Return the share of so many sequences that is held out."""
    return (0.2 if count < 1000 else 0.1) if fraction is None else fraction


def group_digests(groups: Iterable[str]) -> list[str]:
    """Return a digest of each group, by which a model knows it without keeping its name.

    >>> group_digests(["theo", "theo"])
    ['1cf8531a22348eeb']
    """
    return sorted({sha256(group.encode()).hexdigest()[:16] for group in groups})


def check_groups(data: Corpus, seen: Collection[str], call: str, remedy: str) -> None:
    """Raise a `DataError` if a group of the data is among those with these digests."""
    known = set(seen)
    shared = sorted(g for g in set(data.groups or []) if group_digests([g])[0] in known)
    if shared:
        count = sum(group in shared for group in data.groups or [])
        names = ", ".join(map(repr, shared[:5])) + (", ..." if len(shared) > 5 else "")
        raise DataError(
            f"{call}: {count:,} of {len(data):,} sequences are of groups that were trained or "
            f"validated on: {names}; {remedy}"
        )


def resolve(
    settings: TrainingSettings, pieces: int, init_steps: int | None = None
) -> dict[str, Any]:
    """Return settings that were not given, by the size of the data.

    The ``pieces`` are sequences, or windows of them, that are trained on; ``init_steps`` those that
    the initialisation chrono reckons with.
    """
    n = pieces
    batch = settings.batch_size or min(64, max(8, 1 << round(math.log2(max(1, n / 50)))))
    batch = min(batch, max(1, n))
    per_epoch = -(-n // batch)
    # Small data are gone over more often; none so seldom that the network stays untrained.
    epochs = min(100.0, max(4.0, 40 * (1000 / n) ** (1 / 3)))
    epochs = max(epochs, 600 / per_epoch)
    if settings.epochs is not None:
        epochs = settings.epochs
    elif settings.steps is not None:
        epochs = settings.steps / per_epoch
    evaluations = settings.evaluations or max(1, min(50, round(epochs)))
    budgets = (settings.minutes, settings.epochs, settings.steps)
    return {
        "batch_size": batch,
        "evaluations": evaluations,
        "epochs": None if any(b is not None for b in budgets) else round(epochs, 1),
        "patience": max(5, evaluations // 3) if settings.validation_fraction != 0 else 0,
        "hidden_size": 64 if n < 500 else 128 if n < 200_000 else 256,
        "dropout": 0.5 if n < 20_000 else 0.3 if n < 200_000 else 0.1,
        "init_steps": init_steps,
    }


class Sequences(NamedTuple):
    """Encodes data by inputs and targets of a model, and puts them into batches.

    The seed is of their order, and of samples; the device is the network's.
    """

    inputs: SequenceInputs
    targets: SequenceTargets[Any]
    seed: int = 0
    device: torch.device = torch.device("cpu")

    def labelled(self, data: Corpus) -> Examples:
        """Encode data with targets in memory."""
        self.targets.check(data)
        rows, words = self._encoded(data)
        targets = self.targets.encode(data)
        encoded = targets if isinstance(targets, np.ndarray) else Ragged.of(targets)
        return Examples(Ragged.of(rows), encoded, words)

    def unlabelled(self, data: Corpus) -> Examples:
        """Encode data in memory, with zeros for targets."""
        rows, words = self._encoded(data)
        return Examples(Ragged.of(rows), np.zeros(len(data)), words)

    def _encoded(self, data: Corpus) -> tuple[Iterator[NDArray[Any]], WordTable | None]:
        self.inputs.check(data)
        return self.inputs.encode(data)

    def batches(self, examples: Examples, batch_size: int = 64, **more: Any) -> SequenceBatches:
        """Return batches as the network takes them; ``more`` as in `SequenceBatches`."""

        def ready(batch: SequenceBatch) -> SequenceBatch:
            x = self._prepared(batch.inputs, examples.words)
            return batch._replace(inputs=x, targets=batch.targets.to(self.device))

        return SequenceBatches(
            examples,
            batch_size,
            seed=self.seed,
            own_lengths=self.targets.own_lengths,
            transform=ready,
            **more,
        )

    def _prepared(self, rows: NetworkInput, words: WordTable | None) -> NetworkInput:
        assert isinstance(rows, Tensor)
        return self.inputs.prepare(rows, words).to(self.device)

    def problem(
        self, data: Path, facts: Mapping[str, Any], batch_size: int, notes: str, **more: Any
    ) -> Problem:
        """Return the training problem of the data, and their facts, that `prepare` left behind.

        The notes are further lines of the title; ``more`` is as in `SequenceBatches`.
        """
        training, held_out = Examples.open(data, "training"), Examples.open(data, "validation")
        if training is None:
            raise DataError("holds no data of a run.", path=data)
        shortest, longest = facts["shortest"], facts["longest"]
        steps = f"{longest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
        return Problem(
            self.batches(training, batch_size, **more),
            self.targets,
            None if held_out is None else self.batches(held_out),
            f"{facts['sequences']:,} {self.inputs.noun} of {steps} step{'s' * (longest > 1)} for "
            f"training, {facts['held_out']:,} for validation; {self.targets.describe()}",
            notes + "".join(f"\n{note}" for note in facts["notes"]),
        )

    def predict(
        self,
        network: nn.Module,
        data: Corpus,
        decode: Callable[[Tensor, SequenceBatch], Iterable[T]],
    ) -> list[T]:
        """Apply a network to each sequence; ``decode`` as in `evaluation.predict`."""
        return predict(network, self.batches(self.unlabelled(data)), decode)

    def scores(self, network: nn.Module, data: Corpus) -> Tensor:
        """Return the scores of a network with one output for each sequence, ``(N, K)``."""
        return torch.stack(self.predict(network, data, lambda y, batch: y.cpu()))

    def sample(self, examples: Examples, count: int, steps: int | None) -> Sample:
        """Draw some rows, fewer where they are long; the longest, where each step has a target."""
        rows, targets, words = examples
        by_step, lengths = self.targets.by_step, rows.lengths
        if by_step:
            steps = steps or 200
            order = np.argsort(-lengths, kind="stable")
        else:
            steps = int(lengths.max(initial=1))
            count = min(count, max(4, 20_000 // max(1, steps)))
            order = np.random.default_rng(self.seed % 2**32).permutation(len(rows))
        some = np.sort(order[:count]).tolist()
        cut = [np.asarray(targets[row])[:steps] if by_step else targets[row] for row in some]
        some_targets = Ragged.of(cut) if isinstance(targets, Ragged) else np.array(cut)
        steps_of_rows = [rows[row][:steps] for row in some]
        if words is not None:  # those of these rows, so that nothing refers to files of the others
            known = np.unique(np.concatenate([[0], *steps_of_rows])).astype(np.int64)  # 0: padding
            steps_of_rows = [np.searchsorted(known, row) for row in steps_of_rows]
            words = words.take(known.tolist())
        drawn = Examples(Ragged.of(steps_of_rows), some_targets)
        whole = SequenceBatches(drawn, len(some), own_lengths=self.targets.own_lengths)
        batch = next(iter(whole))
        assert isinstance(batch.inputs, Tensor)
        own = batch.target_lengths
        return Sample(
            batch.inputs,
            batch.targets.to(self.device),
            batch.unequal,
            partial(self._prepared, words=words),
            more={} if own is None else {"target_lengths": own},
        )

    def sample_of_run(self, data: Path, count: int, steps: int | None) -> Sample:
        """Draw rows of the data in a run's folder: the validation part, where there is one."""
        examples = Examples.open(data, "validation") or Examples.open(data, "training")
        if examples is None:
            raise DataError("holds no data of a run.", path=data)
        return self.sample(examples, count, steps)

    def training_sample_of_run(self, data: Path, count: int, steps: int | None) -> Sample | None:
        """Draw rows that a run trained on; None where there is no validation part."""
        training = Examples.open(data, "training")
        if training is None or Examples.open(data, "validation") is None:
            return None
        return self.sample(training, count, steps)

    def encode(self, data: Corpus) -> tuple[NetworkInput, list[str]]:
        """Encode the first sequence as the network takes it, and name its steps."""
        first = data.take([0])
        batch = next(iter(self.batches(self.unlabelled(first))))
        return batch.inputs, self.inputs.step_names(first)


def prepare(
    folder: Path,
    parts: Mapping[str, Corpus],
    inputs: InputsT,
    targets: SequenceTargets[Any],
    notes: Sequence[str] = (),
    work: Work | None = None,
) -> tuple[InputsT, NDArray[np.int64], dict[str, Any]]:
    """Encode data, ``training`` and perhaps ``validation``, into files.

    With ``work`` they are written in shards, from where it was interrupted.

    Returns:
        the inputs, scaled; the lengths of the training sequences; facts of the data, ``notes``
        among them.

    Raises:
        DataError: all sequences are empty, or one is not such as the others.
    """
    for part in parts.values():
        targets.check(part)
    written = {}
    for name, part in parts.items():
        inputs.check(part)
        encoded, words = inputs.encode(part)
        if work is None:
            written[name] = Examples.write(folder, name, encoded, targets.encode(part), words)
        else:
            Examples.write_words(folder, name, words)
            written[name] = _write_shards(folder, name, part, inputs, targets, work)
    rows = written["training"].inputs
    if not rows.lengths.any():
        raise DataError("all sequences are empty; there is nothing to train on.")
    held_out = written.get("validation")
    facts = {
        "sequences": len(rows),
        "held_out": 0 if held_out is None else len(held_out.inputs),
        "shortest": int(rows.lengths.min()),
        "longest": int(rows.lengths.max()),
        "notes": list(notes),
    }
    return inputs.scaled_by(rows), rows.lengths, facts


def _write_shards(
    folder: Path,
    name: str,
    part: Corpus,
    inputs: SequenceInputs,
    targets: SequenceTargets[Any],
    work: Work,
) -> Examples:
    def rows(done: int) -> Iterable[NDArray[Any]]:
        encoded, words = inputs.encode(part)
        if not done or words is not None:  # words have numbers by those before them
            return islice(encoded, done, None)
        return inputs.encode(part.take(np.arange(done, len(part))))[0]

    def labels(done: int) -> Iterable[NDArray[Any]]:
        return targets.encode(part.take(np.arange(done, len(part))))

    whole = targets.encode(part)
    return Examples.write_shards(
        folder, name, rows, whole if isinstance(whole, np.ndarray) else labels, len(part), work
    )
