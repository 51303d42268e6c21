"""Targets: the values to predict. Each learns from labelled data, encodes labels, decodes scores.

A task names its targets; they name the loss, and the metrics of validation data.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor
from torch.nn import functional as F

from ostinato.data.batches import SequenceBatch
from ostinato.data.corpus import Corpus
from ostinato.data.text import TextSource
from ostinato.data.vocabulary import Level, Vocabulary, build_vocabulary
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.networks.functional import Lengths, running
from ostinato.networks.outputs import CRFOutput, Output, OutputKind
from ostinato.recurrence.layers import Hidden
from ostinato.training.evaluation import Objective

Label: TypeAlias = str | int | float
PerSequence: TypeAlias = ManyToOne | OneToOne
PerStep: TypeAlias = ManyToMany | OneToOne


class SequenceNetwork(Protocol):
    """A network with a loss over whole sequences."""

    def loss(self, x: Any, targets: Tensor, *, lengths: Lengths = None) -> tuple[Tensor, Hidden]:
        """Return the mean loss, and a state."""


SequenceNetworkT = TypeVar("SequenceNetworkT", bound=SequenceNetwork)


class SequenceTargets(Objective[SequenceNetworkT, SequenceBatch], Generic[SequenceNetworkT]):
    """Targets of whole sequences; by default the loss is the network's own.

    Attributes:
        by_step: whether each step has a target, not each sequence.
        own_lengths: whether targets are sequences with lengths of their own.
    """

    by_step = False
    own_lengths = False
    loss_unit = "nats"
    step_name = "steps"

    def loss(
        self, network: SequenceNetworkT, batch: SequenceBatch, state: Hidden
    ) -> tuple[Tensor, None]:
        """Return the mean loss of a batch."""
        more = self.loss_arguments(batch)
        loss, _ = network.loss(batch.inputs, batch.targets, lengths=batch.unequal, **more)
        return loss, None

    def loss_arguments(self, batch: SequenceBatch) -> dict[str, Any]:
        """Return further arguments of the network's loss."""
        return {"target_lengths": batch.target_lengths} if self.own_lengths else {}

    def count(self, batch: SequenceBatch) -> int:
        """Return the number of sequences, or of steps where each has a target."""
        return batch.steps if self.by_step else len(batch.lengths)

    def check(self, corpus: Corpus) -> None:
        """Raise a `DataError` at a target that cannot be predicted."""

    def encode(self, corpus: Corpus) -> NDArray[Any] | Iterator[NDArray[Any]]:
        """Return the target of each sequence as numbers."""
        raise NotImplementedError

    def describe(self) -> str:
        """Describe the targets in words."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document."""
        values = vars(self).items()
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        values = document.items()
        return cls(**{k: _array(v) if isinstance(v, list) else v for k, v in values})


@dataclass
class Classes(SequenceTargets[PerSequence]):
    """One class for each sequence; or, ``multilabel``, any number of labels, none included.

    Args:
        names: the classes, sorted, ``(K,)``.
        multilabel: whether a sequence may have several, or none.

    >>> names = np.array(["a", "b"])
    >>> Classes(names).encode(Corpus("text", ["x", "y"], ["b", "a"], [])).tolist()
    [1, 0]
    >>> Classes(names, True).encode(Corpus("text", ["x", "y"], [["b"], []], [])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """

    names: NDArray[Any]
    multilabel: bool = False
    higher_is_better = True
    flawless = 1.0

    @classmethod
    def learn(cls, corpus: Corpus) -> Self:
        """Collect the classes; a `DataError` if there are too few, or text and numbers."""
        several = has_label_sets(corpus)
        labels = {label for i in range(len(corpus)) for label in _labels(corpus, i, several)}
        if len({isinstance(label, str) for label in labels}) > 1:
            raise DataError("some labels are text and some are numbers; make them one kind.")
        if len(labels) < (1 if several else 2):
            raise DataError(
                f"all {len(corpus)} sequences have the label {', '.join(map(repr, labels))}; "
                "expected two or more classes.",
                path=corpus.places[0].path,
            )
        return cls(np.array(sorted(labels)), several)

    def check(self, corpus: Corpus) -> None:
        """Raise a `DataError` at a label that training did not have."""
        known = set(self.names.tolist())
        for i, place in enumerate(corpus.places):
            for label in _labels(corpus, i, self.multilabel):
                if label not in known:
                    raise place.error(_unseen(label, self.names))

    def encode(self, corpus: Corpus) -> NDArray[Any]:
        """Return the number of each sequence's class, ``(N,)``; or 1 for each label, ``(N, K)``."""
        number, N = {name: i for i, name in enumerate(self.names.tolist())}, len(corpus)
        if self.multilabel:
            found = np.zeros((N, len(number)), np.float32)
            for i in range(N):
                found[i, [number[label] for label in _labels(corpus, i, True)]] = 1
            return found
        labels = (_labels(corpus, i, False)[0] for i in range(N))
        return np.fromiter((number[label] for label in labels), np.int64, N)

    def head(self, features: int, dropout: float) -> Output:
        """Return an output layer with a score for each class, or a yes or no."""
        kind: OutputKind = "probability" if self.multilabel else "category"
        return Output(features, len(self.names), kind, dropout)

    @property
    def judge(self) -> str:
        """Name of the metric that selects the best weights."""
        return "micro_f1" if self.multilabel else "accuracy"

    def metrics(
        self, network: PerSequence, batch: SequenceBatch, state: Hidden
    ) -> tuple[dict[str, float], None]:
        """Return the mean loss, and the share of sequences with the right class or labels."""
        scores, _ = network(batch.inputs, lengths=batch.unequal)
        targets = batch.targets
        found = {"loss": float(network.output.loss(scores, targets).mean())}
        if self.multilabel:
            guess, true = scores > 0, targets > 0
            right = (guess == true).all(-1)
            for name, counted in (("right", guess & true), ("guess", guess), ("true", true)):
                found[name] = float(counted.sum()) / len(guess)
        else:
            right = scores.argmax(-1) == targets
        return {**found, "accuracy": float(right.double().mean())}, None

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means, and the micro-averaged F1 where there are several labels."""
        return _with_f1(means, "micro_f1") if self.multilabel else means

    def decode(self, p: NDArray[np.float64]) -> Any:
        """Return the likeliest class, or the likely labels, of rows of probabilities ``(N, K)``."""
        if self.multilabel:
            return [self.names[row > 0.5].tolist() for row in p]
        return self.names[p.argmax(1)]

    def measure(self, truth: NDArray[Any], p: NDArray[np.float64]) -> dict[str, Any]:
        """Return measures of probabilities ``(N, K)`` by true targets, as `encode` returns them."""
        tiny, several = np.finfo(np.float64).tiny, self.multilabel
        guess: NDArray[Any] = p > 0.5 if several else p.argmax(1)
        if several:
            right = (guess == (truth > 0)).all(1)
            log_p = np.where(truth > 0, np.log(p + tiny), np.log1p(-p + tiny)).sum(1)
        else:
            right, log_p = guess == truth, np.log(p[np.arange(len(p)), truth] + tiny)
        found = {"accuracy": float(right.mean()), "macro_f1": f1(truth, guess, "macro")}
        if several:
            found["micro_f1"] = f1(truth, guess, "micro")
        found |= {"log_loss": float(-log_p.mean()), "sequences": len(truth)}
        if several:
            return found
        confusion = metrics.confusion_matrix(truth, guess, labels=range(len(self.names)))
        return {**found, "confusion": confusion.tolist()}

    def describe(self) -> str:
        return f"{len(self.names):,} {'labels' if self.multilabel else 'classes'}"


@dataclass
class Numbers(SequenceTargets[PerSequence]):
    """One number or several for each sequence, standardised.

    Args:
        mean: of each number in the training data, ``(K,)``.
        scale: standard deviation of each.
        single: whether a sequence has one number, and not a list of one.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    single: bool
    loss_unit = "squared errors"

    @classmethod
    def learn(cls, corpus: Corpus) -> Self:
        """Learn mean and scale; a `DataError` if a target is no number, or all are the same."""
        numbers = _numbers(corpus)
        mean, scale = numbers.mean(0), numbers.std(0)
        if not (scale > 0).any():
            raise DataError(
                f"all {len(numbers)} sequences have the number {numbers[0].tolist()}; there is "
                "nothing to learn.",
                path=corpus.places[0].path,
            )
        single = not isinstance((corpus.targets or [])[0], list | tuple | np.ndarray)
        return cls(mean, np.where(scale > 0, scale, 1.0), single)

    def numbers(self, corpus: Corpus) -> NDArray[np.float64]:
        """Return the numbers of each sequence in their own scale, ``(N, K)``."""
        return _numbers(corpus, len(self.mean))

    def check(self, corpus: Corpus) -> None:
        """Raise a `DataError` at a target that is no number, or not so many."""
        self.numbers(corpus)

    def encode(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return standardised numbers ``(N, K)``."""
        return np.asarray((self.numbers(corpus) - self.mean) / self.scale, dtype=np.float32)

    def head(self, features: int, dropout: float) -> Output:
        """Return a linear output layer."""
        return Output(features, len(self.mean), "number", dropout)

    def metrics(
        self, network: PerSequence, batch: SequenceBatch, state: Hidden
    ) -> tuple[dict[str, float], None]:
        """Return the mean loss, and the errors in the scale of the data."""
        scores, _ = network(batch.inputs, lengths=batch.unequal)
        loss = network.output.loss(scores, batch.targets).mean()
        errors = (scores - batch.targets).double().cpu().numpy() * self.scale
        mae, mse = float(np.abs(errors).mean()), float((errors**2).mean())
        return {"loss": float(loss), "mae": mae, "rmse": mse}, None

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means, with the root of the mean squared error."""
        return {**means, "rmse": math.sqrt(means["rmse"])}

    def decode(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scores ``(N, K)`` in the scale of the training data, ``(N, K)`` or ``(N,)``."""
        numbers = scores * self.scale + self.mean
        return numbers[:, 0] if self.single else numbers

    def describe(self) -> str:
        return f"{len(self.mean)} number{'s' * (len(self.mean) > 1)} for each"


@dataclass
class StepLabels(SequenceTargets[PerStep]):
    """A label for every step.

    Args:
        names: the labels, sorted, ``(K,)``.
        crf: whether the labels of a sequence are scored together.
        strict: whether a label that continues an entity is predicted only after one of the entity.
    """

    names: NDArray[Any]
    crf: bool = False
    strict: bool = False
    by_step = True
    higher_is_better = True
    flawless = 1.0

    @classmethod
    def learn(cls, corpus: Corpus, *, crf: bool | None = False) -> Self:
        """Collect the labels; a `DataError` if there are fewer than two.

        Where ``crf`` is None, labels of entities are scored together, others are not.
        """
        labels = {str(label) for labels in corpus.targets or [] for label in labels}
        if len(labels) < 2:
            raise DataError(
                f"all steps have the label {', '.join(labels)!r}; expected two or more labels.",
                path=corpus.places[0].path,
            )
        found = cls(np.array(sorted(labels)))
        found.crf = found.has_entities if crf is None else crf
        _, joined, continues = found._entity_tables()
        stray = continues & ~joined  # a label, after a label whose entity it does not continue
        rows = found.encode(corpus) if found.crf and found.has_entities else ()
        pairs = (stray[np.concatenate([[len(labels)], row[:-1]]), row] for row in rows if len(row))
        found.strict = found.crf and found.has_entities and not any(each.any() for each in pairs)
        return found

    @property
    def has_entities(self) -> bool:
        """Whether labels are of the form B-PERSON, I-PERSON, O."""
        return any(len(name) > 2 and name[:2] in ("B-", "I-") for name in map(str, self.names))

    def check(self, corpus: Corpus) -> None:
        """Raise a `DataError` at a label that training did not have, or labels too many or few."""
        known = set(self.names.tolist())
        for i, (steps, labels) in enumerate(zip(corpus.inputs, corpus.targets or [], strict=True)):
            place = corpus.places[i]
            if not isinstance(labels, list | tuple | np.ndarray):
                raise place.error(f"has the label {labels!r:.40}; expected a label for each step.")
            if len(steps) != len(labels):
                raise place.error(f"has {len(steps)} steps, and {len(labels)} labels.")
            for t, label in enumerate(labels):
                if str(label) not in known:
                    line = corpus.step_lines[i][t] if corpus.step_lines else place.line
                    raise place._replace(line=line).error(_unseen(label, self.names))

    def encode(self, corpus: Corpus) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of each sequence's labels, ``(T,)``."""
        known, dtype = self.names, self.names.dtype
        rows = ([str(label) for label in labels] for labels in corpus.targets or [])
        return (np.searchsorted(known, np.array(row, dtype)) for row in rows)

    def head(self, features: int, dropout: float) -> Output:
        """Return an output layer with a score for each label."""
        if not self.crf:
            return Output(features, len(self.names), dropout=dropout)
        _, joined, continues = self._entity_tables()
        barred = torch.from_numpy(continues & ~joined)[:, :-1] if self.strict else None
        return CRFOutput(features, len(self.names), dropout, barred)

    @property
    def judge(self) -> str:
        """Name of the metric that selects the best weights."""
        return "entity_f1" if self.has_entities else "accuracy"

    def metrics(
        self, network: PerStep, batch: SequenceBatch, state: Hidden
    ) -> tuple[dict[str, float], None]:
        """Return the mean loss and the accuracy of a batch's steps; entities for each step."""
        h, _ = network.hidden(batch.inputs, lengths=batch.unequal)
        output, steps = network.output, max(1, batch.steps)
        loss = output.mean_loss(h, batch.targets, batch.unequal)
        best = output.best(output(h), batch.lengths)
        right = (best == batch.targets) & running(h, batch.lengths)
        found = {"loss": float(loss), "accuracy": int(right.sum()) / steps}
        if self.has_entities:
            counts = self.count_entities(best, batch.targets, batch.lengths)
            names = ("right", "guess", "true")
            found |= {name: n / steps for name, n in zip(names, counts, strict=True)}
        return found, None

    def items(self, means: dict[str, float], count: int) -> int:
        """Return the number of true entities, where their F1 judges; otherwise of steps."""
        return round(means["true"] * count) if self.has_entities else count

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means, and the F1 of entities where there are any."""
        return _with_f1(means, "entity_f1") if self.has_entities else means

    def count_entities(
        self, best: Tensor, targets: Tensor, lengths: Tensor
    ) -> tuple[int, int, int]:
        """Return the numbers of entities that are right, predicted, and true.

        Args:
            best: numbers of the predicted labels, ``(B, T)``.
            targets: those of the true ones.
            lengths: steps of each row, ``(B,)``.
        """
        kinds, joined, _ = self._entity_tables()
        K, counts = len(self.names), running(best, lengths)

        def spans(rows: Tensor) -> NDArray[np.int64]:
            """Return the entities of all rows, each as one number."""
            padded = F.pad(rows.masked_fill(~counts, K), (1, 1), value=K).cpu().numpy().ravel()
            before, labels, after = padded[:-2], padded[1:-1], padded[2:]
            begins = np.flatnonzero((kinds[labels] >= 0) & ~joined[before, labels])
            ends = np.flatnonzero((kinds[labels] >= 0) & ~joined[labels, after])
            return np.asarray((begins * padded.size + ends) * K + kinds[labels[begins]])

        predicted, true = spans(best), spans(targets)
        right = np.intersect1d(predicted, true, assume_unique=True)
        return len(right), len(predicted), len(true)

    def _entity_tables(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which labels are of which entities; label K is outside of all.

        They are: the number of the kind of entity that a label is of, -1 for none, ``(K + 1,)``;
        whether a label, the column, continues the entity of the label before, the row,
        ``(K + 1, K + 1)``; and whether a label is meant to continue one, ``(K + 1,)``.
        """
        parts = [str(name).partition("-") for name in [*self.names, "O"]]
        marks, names = np.array([p[0] for p in parts]), np.array([p[2] for p in parts])
        inside = np.isin(marks, ["B", "I", "E", "S"]) & (names != "")
        kinds = np.where(inside, np.unique(names, return_inverse=True)[1], -1)
        continues = inside & np.isin(marks, ["I", "E"])
        opens = inside & np.isin(marks, ["B", "I"])
        return kinds, opens[:, None] & continues & (kinds[:, None] == kinds), continues

    def decode(self, best: NDArray[np.int64], lengths: Iterable[int]) -> Iterator[list[str]]:
        """Yield the labels of rows of numbers ``(B, T)``."""
        return (self.names[row[:n]].tolist() for row, n in zip(best, lengths, strict=True))

    def describe(self) -> str:
        jointly = ", scored jointly by a CRF" if self.crf else ""
        return f"{len(self.names):,} labels for each step{jointly}"


@dataclass
class TokenSequence(SequenceTargets[SequenceNetworkT]):
    """A text for each sequence, as token ids: as many as the text has.

    Args:
        vocabulary: the tokens.
    """

    vocabulary: Vocabulary
    own_lengths = True

    @staticmethod
    def texts(corpus: Corpus, i: int) -> Sequence[str]:
        """Return the texts of a sequence, any of which would do; a `DataError` if it has none."""
        several: Sequence[str] = (corpus.targets or [])[i]
        return several

    @classmethod
    def learn(
        cls, corpus: Corpus, level: Level, size: int | None = None, min_count: int = 1
    ) -> Self:
        """Collect the tokens of all texts; arguments are those of `build_vocabulary`."""
        texts = (text for i in range(len(corpus)) for text in cls.texts(corpus, i))
        return cls(vocabulary_of(texts, level, size, min_count))

    @classmethod
    def one_each(cls, corpus: Corpus) -> Corpus:
        """Return each sequence once for each of its texts."""
        counts = [len(cls.texts(corpus, i)) for i in range(len(corpus))]
        rows = np.repeat(np.arange(len(corpus)), counts)
        which = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        taken = corpus.take(rows)
        taken.targets = _OneEach(lambda i: cls.texts(corpus, i), rows, which)
        return taken

    def check(self, corpus: Corpus) -> None:
        """Raise a `DataError` at a target that is no text."""
        for i in range(len(corpus)):
            self.texts(corpus, i)

    def encode(self, corpus: Corpus) -> Iterator[NDArray[np.int64]]:
        """Yield the token ids of the first text of each sequence."""
        return (self.vocabulary.encode(self.texts(corpus, i)[0]) for i in range(len(corpus)))

    def count(self, batch: SequenceBatch) -> int:
        """Return the number of tokens, and of ends, which are predicted too."""
        assert batch.target_lengths is not None
        return int(batch.target_lengths.sum()) + len(batch.lengths)

    def describe(self) -> str:
        return f"{len(self.vocabulary):,} tokens of level {self.vocabulary.level}"

    def to_json(self) -> dict[str, Any]:
        return self.vocabulary.to_json()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(Vocabulary.from_json(document))


class _OneEach(Sequence[list[str]]):
    """Of each of some sequences the text of a number among its texts."""

    def __init__(
        self,
        texts: Callable[[int], Sequence[str]],
        rows: NDArray[np.int64],
        which: NDArray[np.int64],
    ) -> None:
        self._texts = texts
        self._rows = rows
        self._which = which

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[list[str]]: ...
    def __getitem__(self, index: int | slice) -> list[str] | Sequence[list[str]]:
        if isinstance(index, slice):
            return _OneEach(self._texts, self._rows[index], self._which[index])
        return [self._texts(int(self._rows[index]))[int(self._which[index])]]


def vocabulary_of(
    texts: Iterable[str], level: Level, size: int | None = None, min_count: int = 1
) -> Vocabulary:
    """Return the tokens of texts, one for unknown words or characters included."""
    source = TextSource(lambda: _lines(texts), "the texts")
    unknown = {"word": "<unk>", "char": "\ufffd"}.get(level)
    return build_vocabulary(level, source, size=size, min_count=min_count, unknown=unknown)


def usual_vocabulary(letters: int) -> int:
    """Return the number of subwords for texts of so many letters in all.

    >>> usual_vocabulary(1_000_000)
    2500
    """
    return int(min(8000, max(400, letters // 400)))


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts, a line between two of them."""
    for i, text in enumerate(texts):
        yield f"\n{text}" if i else text


def calibrate(
    scores: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> float | None:
    """Return the temperature with which probabilities fit data best; None if there is none.

    Scores are of validation data, ``(N, K)``, the loss is of each row of them. Guo et al. 2017, "On
    calibration of modern neural networks".

    >>> scores, targets = torch.tensor([[9.0, 0.0]] * 400), torch.arange(400) % 4 // 3
    >>> temperature = calibrate(scores, targets, Output(1, 2).loss)
    >>> [round(p, 2) for p in (scores[0] / temperature).softmax(0).tolist()]
    [0.75, 0.25]
    """
    coldness = torch.zeros((), requires_grad=True)  # log of 1 / temperature
    optimizer = torch.optim.LBFGS([coldness], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(scores * coldness.exp(), targets).mean()
        value = value + 0.5 / len(scores) * coldness**2  # a prior, for few data
        torch.autograd.backward(value)
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float((-coldness.detach()).exp()) if torch.isfinite(coldness) else None


def _array(values: list[Any]) -> NDArray[Any]:
    """Return labels or numbers as an array, where each label takes the room of the longest."""
    if any(isinstance(value, list | dict) for value in values):
        raise OstinatoError("expected labels or numbers, got a list of lists.")
    room = len(values) * max((len(v) for v in values if isinstance(v, str)), default=1)
    if room > 2**24:
        raise OstinatoError(f"{len(values):,} labels have up to {room // len(values):,} letters.")
    return np.array(values)


def has_label_sets(corpus: Corpus) -> bool:
    """Return whether the first sequence has a list of labels."""
    return isinstance((corpus.targets or [None])[0], list | tuple | set | frozenset)


def _labels(corpus: Corpus, i: int, multilabel: bool) -> list[Label]:
    """Return the labels of a sequence: one, or a list of them."""
    target = (corpus.targets or [])[i]
    if isinstance(target, list | tuple | set | frozenset) != multilabel:
        raise corpus.places[i].error(
            f"has the label {target!r}; others have lists of labels, or not."
        )
    return [_plain(each) for each in target] if multilabel else [_plain(target)]


def _plain(label: object) -> Label:
    """Return a label as JSON can hold it."""
    label = label.item() if isinstance(label, np.generic) else label
    if not isinstance(label, str | int | float):
        raise OstinatoError(f"{label!r:.40} is no label; expected text or a number.")
    return label


def _unseen(label: object, names: NDArray[Any]) -> str:
    shown = ", ".join(map(str, names[:20])) + (", ..." if len(names) > 20 else "")
    return f"has the label {label!r}, which was not in the training data; known are {shown}."


def _with_f1(means: dict[str, float], name: str) -> dict[str, float]:
    """Return means with the F1 of what is right, guessed and true in place of these."""
    right, guess, true = (means.pop(each) for each in ("right", "guess", "true"))
    return {**means, name: 2 * right / (guess + true) if right else 0.0}


def f1(truth: Any, guess: Any, average: str) -> float:
    """Return the F1 of labels, 0 where it is not defined; ``average`` as in scikit-learn."""
    return float(metrics.f1_score(truth, guess, average=average, zero_division=0))


def _numbers(corpus: Corpus, expected: int | None = None) -> NDArray[np.float64]:
    """Return targets ``(N, K)``; a `DataError` at the first that is no number."""
    rows = array("d")
    for target, place in zip(corpus.targets or [], corpus.places, strict=True):
        several = isinstance(target, list | tuple | np.ndarray)
        try:
            row = [float(t) for t in (target if several else [target])]
        except (TypeError, ValueError):
            raise place.error(f"has the label {target!r:.40}; expected a number.") from None
        if not np.isfinite(row).all():
            raise place.error(f"has the label {target!r:.40}; expected a finite number.")
        expected = len(row) if expected is None else expected
        if len(row) != expected:
            raise place.error(f"has {len(row)} numbers; expected {expected}.")
        rows.extend(row)
    return np.array(rows).reshape(-1, expected or 1)
