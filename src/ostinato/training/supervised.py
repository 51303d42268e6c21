"""What estimators share that learn from sequences with labels: reading, splitting, choosing."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.data.corpus import Corpus, Place, ReadingSettings
from ostinato.data.features import ImageForm, WordTable, mean_and_scale, words_of
from ostinato.data.inputs import Inputs, InputSettings
from ostinato.data.ragged import Examples, Ragged
from ostinato.data.reading import corpus_of, read_corpus
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.arrangements import CellName, recurrent_layers
from ostinato.networks.inputs import Standardize, WordEncoder
from ostinato.recurrence.cells import Initialization
from ostinato.training.estimators import Learning, NetworkEstimator, Sample
from ostinato.training.watching import ProgressMode

Memory = Literal["recurrent", "none"]


class Prepared(NamedTuple):
    """Examples as they were prepared, and the words that their inputs are numbers of, if any."""

    examples: Examples
    table: WordTable | None


class Answer(NamedTuple):
    """What a model says of a sequence, for the command line.

    Attributes:
        place: where the sequence was read.
        text: lines to print.
        facts: the same for machines.
    """

    place: Place
    text: str
    facts: dict[str, Any]

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {"place": str(self.place), **self.facts}


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceEstimator(NetworkEstimator):
    """An estimator that learns from whole sequences, batches of them in a random order.

    Args:
        cell: lstm, gru, gru-reset-before, rnn (tanh), rnn-relu (starting from the identity); or a
            variant, slower: lstm-peephole, lstm-coupled, lstm-norm, gru-norm, mgu, indrnn, min-gru,
            min-lstm.
        hidden_size: hidden units of each layer and direction; by the size of the data if not given.
        num_layers: recurrent layers.
        init: initialisation of the recurrent layers: pytorch, orthogonal, identity, or chrono, for
            memories as long as the longest sequence.
        dropout: share of features dropped before and between layers, the same at every step, and
            before the output; by the size of the data if not given.
        weight_dropout: share of recurrent weights dropped.
        zoneout: share of units that keep their state in a step.
        residual: layers add what they take to what they give, so that many can be trained.
    """

    cell: CellName = "gru"
    hidden_size: int | None = None
    num_layers: int = 1
    init: Initialization = "orthogonal"
    dropout: float | None = None
    weight_dropout: float = 0.0
    zoneout: float = 0.0
    residual: bool = False

    _by_step = False
    """Whether each step has a target, not each sequence."""

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want_one_of("cell", get_args(CellName))
        self._want_one_of("init", get_args(Initialization))
        for name in ("hidden_size", "num_layers"):
            if getattr(self, name) is not None:
                self._want(name, lambda n: 0 < n < 2**24, "a whole number above zero, below 2**24")
        for name in ("dropout", "weight_dropout", "zoneout"):
            if getattr(self, name) is not None:
                self._want(name, lambda value: 0 <= value < 1, "a share from 0 to below 1")

    def _choose(self, steps: NDArray[np.int64]) -> dict[str, Any]:
        """Settings that were not given, by the size of the data."""
        n = self._pieces(steps)
        batch = self.batch_size or min(64, max(8, 1 << round(math.log2(max(1, n / 50)))))
        batch = min(batch, max(1, n))
        an_epoch = -(-n // batch)
        # Small data are gone over more often; none so seldom that the network has not begun.
        epochs = min(100.0, max(4.0, 40 * (1000 / n) ** (1 / 3)))
        epochs = max(epochs, 600 / an_epoch)
        if self.epochs is not None:
            epochs = self.epochs
        elif self.steps is not None:
            epochs = self.steps / an_epoch
        evaluations = self.evaluations or max(1, min(50, round(epochs)))
        budgeted = any(b is not None for b in (self.minutes, self.epochs, self.steps))
        return {
            "batch_size": batch,
            "evaluations": evaluations,
            "epochs": None if budgeted else round(epochs, 1),
            "patience": max(5, evaluations // 3) if self.validation_fraction != 0 else 0,
            "hidden_size": 64 if n < 500 else 128 if n < 200_000 else 256,
            "dropout": 0.5 if n < 20_000 else 0.3 if n < 200_000 else 0.1,
            "init_steps": int(steps.max()) if self.init == "chrono" else None,
        }

    def _pieces(self, steps: NDArray[np.int64]) -> int:
        """What is learnt from one at a time: sequences."""
        return len(steps)

    def _recurrent(self, features: int, *, bidirectional: bool = False) -> Any:
        """Recurrent layers on so many features."""
        return recurrent_layers(
            self.cell,
            features,
            self._value("hidden_size"),
            self.num_layers,
            bidirectional=bidirectional,
            variational_dropout=self._value("dropout") if self.num_layers > 1 else 0.0,
            weight_dropout=self.weight_dropout,
            init=self.init,
            init_steps=self.chosen_.get("init_steps") or 100,
            zoneout=self.zoneout,
            residual=self.residual,
        )

    # The loop

    @abstractmethod
    def _title(self, facts: Mapping[str, Any], device: torch.device) -> str:
        """What is learnt from what, in a line."""

    def _tensors(self, batch: SequenceBatch, table: WordTable | None, device: torch.device) -> Any:
        """What the network takes of a batch."""
        return batch.inputs.to(device).float()

    def _learning(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Learning:
        training = _open(data, "training")
        assert training is not None
        self._validation = _open(data, "validation")

        def objective(batch: SequenceBatch, state: Any) -> tuple[Tensor, Any]:
            return self._loss(batch, training.table, device), None

        return Learning(
            self._batches(training.examples),
            objective,
            title=self._title(facts, device),
            validate=None if self._validation is None else lambda: self._validate(device),
            counted="steps",
        )

    def _batches(self, examples: Examples) -> SequenceBatches:
        return SequenceBatches(examples, self._value("batch_size"), seed=self.seed)

    def _loss(self, batch: SequenceBatch, table: WordTable | None, device: torch.device) -> Tensor:
        x = self._tensors(batch, table, device)
        loss: Tensor
        loss, _ = self.network_.loss(x, batch.targets.to(device), lengths=batch.unequal)
        return loss

    def _judge(self, x: Any, batch: SequenceBatch, targets: Tensor) -> dict[str, float]:
        """Mean loss of a batch of validation examples, as ``loss``, and further figures."""
        loss, _ = self.network_.loss(x, targets, lengths=batch.unequal)
        return {"loss": float(loss)}

    def _validate(self, device: torch.device) -> tuple[float, dict[str, float]]:
        """Mean loss over the validation examples, and what else `_judge` finds."""
        assert self._validation is not None
        examples, table = self._validation
        sums: dict[str, float] = defaultdict(float)
        count = 0
        for _, batch in self._in_order(examples):
            weight = self._weight(batch)
            x = self._tensors(batch, table, device)
            for name, value in self._judge(x, batch, batch.targets.to(device)).items():
                sums[name] += weight * value
            count += weight
        figures = {name: total / max(1, count) for name, total in sums.items()}
        return figures.pop("loss"), figures

    def _weight(self, batch: SequenceBatch) -> int:
        """What the mean loss of a batch is a mean over, counted."""
        return batch.steps if self._by_step else len(batch.lengths)

    def _in_order(self, examples: Examples) -> Iterator[tuple[NDArray[np.int64], SequenceBatch]]:
        """All examples once, to look at them."""
        return SequenceBatches(examples, 64).in_order()

    def _finish(self, data: Path) -> None:
        """Note what the last weights come to on the validation examples."""
        if self._validation is not None:
            with torch.no_grad():
                _, figures = self._validate(next(self.network_.parameters()).device)
            if figures:
                self.training_["validation"] = figures

    def _read_scores(
        self, prepared: Prepared, read: Callable[[Any, SequenceBatch], Iterator[Any]]
    ) -> list[Any]:
        examples, table = prepared
        device = next(self.network_.parameters()).device
        found: list[Any] = [None] * len(examples.inputs)
        was_training = self.network_.training
        self.network_.eval()
        try:
            for rows, batch in SequenceBatches(examples, 64).in_order():
                with torch.inference_mode():
                    x = self._tensors(batch, table, device)
                    y, _ = self.network_(x, lengths=batch.unequal)
                    for row, item in zip(rows.tolist(), read(y, batch), strict=True):
                        found[row] = item
        finally:
            self.network_.train(was_training)
        return found

    def examples_of_run(self, data: Path, *, count: int = 32, steps: int | None = None) -> Sample:
        """Some of a run's data; see `NetworkEstimator`."""
        prepared = _open(data, "validation") or _open(data, "training")
        if prepared is None:
            raise DataError("holds no data of a run.", path=data)
        return self._sampled(prepared, count, steps)

    def _sampled(self, prepared: Prepared, count: int, steps: int | None) -> Sample:
        """Some rows, drawn at random; fewer where they are long."""
        examples, table = prepared
        if self._by_step:  # those with the most to look at
            steps = steps or 200
            rows = np.argsort(-examples.inputs.lengths, kind="stable")[:count]
        else:
            steps = int(examples.inputs.lengths.max(initial=1))
            count = min(count, max(4, 20_000 // max(1, steps)))
            rows = np.random.default_rng(self.seed % 2**32).permutation(len(examples.inputs))
        rows = np.sort(rows[:count])
        targets = examples.targets
        inputs = [examples.inputs[row][:steps] for row in rows]
        wanted = [
            np.asarray(targets[row])[:steps] if self._by_step else targets[row] for row in rows
        ]
        device = next(self.network_.parameters()).device
        ragged = isinstance(targets, Ragged)
        chosen = Examples(Ragged.of(inputs), Ragged.of(wanted) if ragged else np.array(wanted))
        _, batch = next(self._in_order(chosen))

        def encode(x: Tensor) -> Any:
            return self._tensors(batch._replace(inputs=x), table, device)

        apart = batch.target_lengths
        more = {} if apart is None else {"target_lengths": apart}
        return Sample(batch.inputs, batch.targets.to(device), batch.unequal, encode, more=more)

    def _said_of_choices(self) -> str:
        """What was chosen by the size of the data, as a line for a title."""
        chosen = {
            name: value
            for name, value in self.chosen_.items()
            if getattr(self, name, None) is None and value is not None
        }
        said = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        return f"\nby the size of the data: {said}" if said else ""


@dataclass(kw_only=True, eq=False, repr=False)
class SupervisedEstimator(InputSettings, ReadingSettings, SequenceEstimator):
    """An estimator that learns from sequences with labels, in memory or in files.

    Args:
        bidirectional: whether to read in both directions, so that a step may use the future.
        memory: recurrent, or none: the same network without recurrence, as a yardstick.
        embedding_size: features of a word's own vector.
        spelling_size: features that a small network makes of a word's letters; 0 for none.
        word_dropout: share of words taken for unknown while training.
    """

    bidirectional: bool = True
    memory: Memory = "recurrent"
    embedding_size: int = 100
    spelling_size: int = 64
    word_dropout: float = 0.3

    # What a task adds

    @abstractmethod
    def _learn_targets(self, training: Corpus, held_out: Corpus | None) -> None:
        """Find out what there is to predict, such as the classes."""

    @abstractmethod
    def _encode_targets(self, corpus: Corpus) -> NDArray[Any] | Iterator[NDArray[Any]]:
        """Targets as numbers, of each sequence or of each step."""

    @abstractmethod
    def _assemble(self, encode: nn.Module, features: int) -> nn.Module:
        """The network, on an encoder that gives so many features."""

    # Learning

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        out: str | os.PathLike[str] | None = None,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
    ) -> Self:
        """Learn from sequences and what is wanted of them.

        Args:
            X: sequences: texts, lists of words, arrays ``(T, I)`` or ``(T,)``, uint8 images
                ``(height, width)``, or, as `pathlib.Path`, recordings or images; or files and
                folders, one or several `pathlib.Path` and no ``y``.
            y: what is wanted of each sequence.
            validation: sequences to validate on, ``(X, y)`` or files as for ``X``; if not given,
                a share of the training data is held out.
            out: folder for the model, checkpoints, metrics and learning curve, made anew; None
                keeps all in memory.
            progress: bar, lines, json, quiet, or auto: a bar on a terminal, lines elsewhere.
            tensorboard: write curves for TensorBoard into ``out``.

        Raises:
            OstinatoError: on settings or data that cannot be used. Nothing is left behind.
        """
        return self._fit(
            lambda data: self._prepare(X, y, validation, data), out, progress, tensorboard
        )

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want_one_of("memory", get_args(Memory))
        self._want_one_of("image", get_args(ImageForm))
        for name in ("vocabulary_size", "min_count", "embedding_size", "bands"):
            if getattr(self, name) is not None:
                self._want(name, lambda n: 0 < n < 2**24, "a whole number above zero, below 2**24")
        self._want("spelling_size", lambda n: n >= 0 and n % 2 == 0, "an even number, 0 for none")
        self._want("word_dropout", lambda value: 0 <= value < 1, "a share from 0 to below 1")

    def _prepare(self, X: Any, y: Any, validation: Any, data: Path) -> dict[str, Any]:
        training, held_out = self._corpus(X, y, labelled=True), None
        self._refuse_untargeted(training)
        if validation is not None:
            pair = validation if isinstance(validation, tuple) else (validation, None)
            held_out = self._corpus(*pair, labelled=True)
        elif self.validation_fraction != 0:
            training, held_out = self._split(training)
        self._learn_targets(training, held_out)
        self.inputs_ = Inputs.learn(training, self, causal=not self.bidirectional)
        parts = {"training": training, "validation": held_out}
        for name, corpus in parts.items():
            if corpus is not None:
                self.inputs_.refuse_others(corpus)
                rows, table = self.inputs_.encode(corpus)
                Examples.write(data, name, rows, self._encode_targets(corpus))
                if table is not None:
                    np.save(data / f"{name}.words.npy", table.ids)
                    Ragged.write(table.spellings, data / f"{name}.spellings.npy")
        steps = Ragged.open(data / "training.inputs.npy").lengths
        if not steps.any():
            raise DataError("all sequences are empty; there is nothing to learn from.")
        self.chosen_ = self._choose(steps)
        return {
            "sequences": len(training),
            "held_out": 0 if held_out is None else len(held_out),
            "shortest": int(steps.min()),
            "longest": int(steps.max()),
            "notes": list(training.notes),
        }

    def _corpus(self, X: Any, y: Any = None, *, labelled: bool | None) -> Corpus:
        """Read files, or take what is in memory; a corpus is one already."""
        if isinstance(X, Corpus):
            return X
        paths = [X] if isinstance(X, os.PathLike) else X
        files = isinstance(paths, list) and all(isinstance(path, os.PathLike) for path in paths)
        if files and y is None:
            return read_corpus(paths, self, by_step=self._by_step, labelled=labelled)
        return corpus_of(X, y, self, by_step=self._by_step, labelled=labelled)

    def _refuse_untargeted(self, corpus: Corpus) -> None:
        if corpus.targets is None:
            raise OstinatoError(
                f"{type(self).__name__}.fit: there is nothing to learn: y is missing, and the "
                "files have no labels."
            )

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Training and validation sequences, labels in the same shares where that can be."""
        N = len(corpus)
        share = self.validation_fraction
        share = (0.2 if N < 1000 else 0.1) if share is None else share
        held = min(max(1, round(share * N)), 10_000 if self.validation_fraction is None else N)
        if N < 2 or held >= N:
            raise DataError(
                f"{type(self).__name__}: {N} sequences are too few to hold {held} out for "
                "validation; give more, or validation_fraction=0."
            )
        groups = self._groups(corpus)
        if groups is not None:
            _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
            # A label that occurs once cannot be in both parts: it is learnt from.
            lone = np.flatnonzero(counts[numbers] < 2)
            rest = np.flatnonzero(counts[numbers] >= 2)
            if len(counts[counts >= 2]) <= min(held, len(rest) - held):
                kept, held_out = train_test_split(
                    rest, test_size=held, random_state=self.seed % 2**32, stratify=numbers[rest]
                )
                return corpus.take(sorted([*kept, *lone])), corpus.take(sorted(held_out))
        kept, held_out = train_test_split(
            np.arange(N), test_size=held, random_state=self.seed % 2**32
        )
        return corpus.take(sorted(kept)), corpus.take(sorted(held_out))

    def _groups(self, corpus: Corpus) -> Sequence[str] | None:
        """What should be in the same shares in training and validation, of each sequence."""
        return None

    def _make_network(self) -> nn.Module:
        inputs = self.inputs_
        if inputs.lexicon is not None:
            encode = WordEncoder(
                len(inputs.lexicon.words) + 1,
                self.embedding_size,
                len(inputs.lexicon.characters) + 1,
                self.spelling_size,
                self.word_dropout,
            )
            return self._assemble(encode, encode.output_size)
        size = 1 if inputs.kind == "image" else inputs.features
        return self._assemble(Standardize(torch.zeros(size), torch.ones(size)), inputs.features)

    def _input_dropout(self) -> float:
        """Share of an encoded input's features to drop.

        Features of words stand in for each other, and so, less, do bands of sound; a variable of a
        series may be the only one that tells.
        """
        share = {"text": 1.0, "words": 1.0, "sound": 0.5}.get(self.inputs_.kind, 0.0)
        return share * float(self._value("dropout"))

    # The loop

    def _tensors(self, batch: SequenceBatch, table: WordTable | None, device: torch.device) -> Any:
        return self.inputs_.tensors(batch, table, device)

    def _learning(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Learning:
        encode = getattr(self.network_, "encode", None)
        if isinstance(encode, Standardize):
            rows = Ragged.open(data / "training.inputs.npy")
            mean, scale = mean_and_scale(rows, each=self.inputs_.kind != "image")
            encode.mean.copy_(torch.from_numpy(mean))
            encode.scale.copy_(torch.from_numpy(scale))
        return super()._learning(data, facts, device)

    def _title(self, facts: Mapping[str, Any], device: torch.device) -> str:
        words = {
            "text": "texts", "words": "sentences", "series": "series", "sound": "recordings",
            "image": "images",
        }[self.inputs_.kind]  # fmt: skip
        shortest, longest = facts["shortest"], facts["longest"]
        steps = f"{longest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
        network = "no recurrence" if self.memory == "none" else self.cell
        return (
            f"{facts['sequences']:,} {words} of {steps} step{'s' * (longest > 1)} to learn from, "
            f"{facts['held_out']:,} to validate on; {self._aim()}; {network} "
            f"of {self.num_layers} x {self._value('hidden_size')} units, {self._where(device)}"
            + self._said_of_choices()
            + "".join(f"\n{note}" for note in facts["notes"])
        )

    def _aim(self) -> str:
        """What is predicted, in a few words."""
        return ""

    # Using

    def _scored(
        self, corpus: Corpus, read: Callable[[Any, SequenceBatch], Iterator[Any]]
    ) -> list[Any]:
        """What ``read(scores, batch)`` makes of each sequence, in the order of the corpus."""
        check_is_fitted(self, "network_")
        self.inputs_.refuse_others(corpus)
        rows, table = self.inputs_.encode(corpus)
        examples = Examples(Ragged.of(rows), np.zeros(len(corpus)))
        return self._read_scores(Prepared(examples, table), read)

    def examples(
        self, X: Any, y: Any = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Some sequences and what is wanted of them; see `NetworkEstimator`."""
        check_is_fitted(self, "network_")
        corpus = self._corpus(X, y, labelled=True)
        self._refuse_untargeted(corpus)
        self.inputs_.refuse_others(corpus)
        rows, table = self.inputs_.encode(corpus)
        targets = self._encode_targets(corpus)
        wanted = targets if isinstance(targets, np.ndarray) else Ragged.of(targets)
        return self._sampled(Prepared(Examples(Ragged.of(rows), wanted), table), count, steps)

    def reading(self, sequence: Any) -> tuple[Any, list[str]]:
        """One sequence as the network takes it; see `NetworkEstimator`."""
        check_is_fitted(self, "network_")
        corpus = self._corpus([sequence], labelled=None).take([0])
        self.inputs_.refuse_others(corpus)
        rows, table = self.inputs_.encode(corpus)
        examples = Examples(Ragged.of(rows), np.zeros(1))
        _, batch = next(SequenceBatches(examples, 1).in_order())
        words = corpus.inputs[0] if corpus.kind == "words" else []
        words = words_of(corpus.inputs[0]) if corpus.kind == "text" else words
        device = next(self.network_.parameters()).device
        return self._tensors(batch, table, device), list(words)

    def _documents(self) -> dict[str, Any]:
        return {"inputs.json": self.inputs_.to_json()}

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        self.inputs_ = Inputs.from_json(documents["inputs.json"])


def _open(data: Path, name: str) -> Prepared | None:
    examples = Examples.open(data, name)
    if examples is None:
        return None
    words = data / f"{name}.words.npy"
    if not words.exists():
        return Prepared(examples, None)
    spellings = Ragged.open(data / f"{name}.spellings.npy")
    return Prepared(examples, WordTable(np.load(words), spellings))
