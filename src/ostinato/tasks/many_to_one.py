"""One answer for a sequence: classify it, or say a number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch
from ostinato.data.corpus import Corpus
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.arrangements import ManyToOne, OneToOne, PoolingKind
from ostinato.networks.outputs import Output, OutputKind
from ostinato.training.pictures import draw_confusion
from ostinato.training.supervised import Answer, SupervisedEstimator


@dataclass(kw_only=True, eq=False, repr=False)
class _OneAnswer(SupervisedEstimator):
    """What the two share.

    Args:
        pooling: what stands for a sequence: last (its last hidden state), mean or max of them all,
            or attention (a mean weighted by what matters).
    """

    pooling: PoolingKind = "attention"

    @property
    @abstractmethod
    def _output(self) -> OutputKind:
        """What the scores are."""

    @abstractmethod
    def _answers(self) -> int:
        """Scores of a sequence, K."""

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want_one_of("pooling", get_args(PoolingKind))

    def _assemble(self, encode: nn.Module, features: int) -> nn.Module:
        dropout, H = self._value("dropout"), self._value("hidden_size")
        wide = H * (2 if self.bidirectional else 1)
        output = Output(wide, self._answers(), self._output, dropout)
        if self.memory == "none" or (self.inputs_.kind == "image" and self.image == "whole"):
            layers = [wide] * (self.num_layers + 1)
            return OneToOne(encode, features, layers, output, dropout, pooled=True)
        recurrent = self._recurrent(features, bidirectional=self.bidirectional)
        return ManyToOne(encode, recurrent, output, self.pooling, self._input_dropout())

    def _scores(self, X: Any) -> Tensor:
        """Scores of sequences, ``(N, K)``."""
        corpus = self._corpus(X, labelled=None)
        return torch.stack(self._scored(corpus, lambda y, batch: iter(y.cpu())))


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceClassifier(_OneAnswer):
    """A recurrent network that says which class a sequence is of, or which labels it has.

    Sequences are texts, measurements, recordings or images, in memory or in files; see `fit`. Where
    labels are lists, a sequence may have several at once, or none.

    Args:
        pooling: what stands for a sequence: last (its last hidden state), mean or max of them all,
            or attention (a mean weighted by what matters).

    Further settings are those of `SupervisedEstimator`, `InputSettings`, `ReadingSettings` and
    `TrainingSettings`.

    Attributes:
        classes_: the classes, sorted.
        several_: whether a sequence may have several labels.
        inputs_: what is known of the inputs, such as words.
        network_: the trained network.
        training_: facts of the training run.
        chosen_: settings that were not given, and what the data made of them.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(rng.integers(3, 9), 2)) + 2 * (i % 2) for i in range(60)]
        >>> y = ["low", "high"] * 30
        >>> model = SequenceClassifier(hidden_size=8, epochs=5).fit(X, y)
        >>> model.predict([np.full((4, 2), 2.0)]).tolist()
        ['high']
    """

    @property
    def _output(self) -> OutputKind:
        return "probability" if self.several_ else "category"

    def _answers(self) -> int:
        return len(self.classes_)

    def _learn_targets(self, training: Corpus, held_out: Corpus | None) -> None:
        targets = list(training.targets or [])
        self.several_ = isinstance(targets[0], list | tuple | set | frozenset)
        labels: set[Any] = set()
        for target, place in zip(targets, training.places, strict=True):
            if isinstance(target, list | tuple | set | frozenset) != self.several_:
                raise place.error(f"has the label {target!r}; others have lists of labels, or not.")
            labels |= {_plain(t) for t in target} if self.several_ else {_plain(target)}
        if len({isinstance(label, str) for label in labels}) > 1:
            raise DataError("some labels are text and some are numbers; make them one kind.")
        self.classes_ = np.array(sorted(labels))
        if len(labels) < (1 if self.several_ else 2):
            raise DataError(
                f"all {len(targets)} sequences have the label {', '.join(map(repr, labels))}; "
                "two classes are the least.",
                path=training.places[0].path,
            )
        if held_out is not None:
            self._refuse_unseen(held_out)

    def _refuse_unseen(self, corpus: Corpus) -> None:
        known = set(self.classes_.tolist())
        for target, place in zip(corpus.targets or [], corpus.places, strict=True):
            for label in target if self.several_ else [target]:
                if _plain(label) not in known:
                    shown = ", ".join(map(str, self.classes_[:10]))
                    shown += ", ..." if len(known) > 10 else ""
                    raise place.error(
                        f"has the label {_plain(label)!r}, which was not met in training; "
                        f"known are {shown}."
                    )

    def _encode_targets(self, corpus: Corpus) -> NDArray[Any]:
        number = {label: i for i, label in enumerate(self.classes_.tolist())}
        targets = corpus.targets or []
        if not self.several_:
            return np.array([number[_plain(t)] for t in targets], dtype=np.int64)
        found = np.zeros((len(targets), len(number)), dtype=np.float32)
        for row, labels in zip(found, targets, strict=True):
            row[[number[_plain(label)] for label in labels]] = 1.0
        return found

    def _groups(self, corpus: Corpus) -> list[str] | None:
        targets = corpus.targets or []
        lists = isinstance(targets[0], list | tuple | set | frozenset)
        return None if lists else [str(_plain(t)) for t in targets]

    def _judge(self, x: Any, batch: SequenceBatch, targets: Tensor) -> dict[str, float]:
        y, _ = self.network_(x, lengths=batch.unequal)
        loss = self.network_.output.loss(y, targets).mean()
        return {"loss": float(loss), "accuracy": float(self._right(y, targets).double().mean())}

    def _right(self, y: Tensor, targets: Tensor) -> Tensor:
        """Whether the class, or every label, of each row of scores ``(N, K)`` is right."""
        return ((y > 0) == targets).all(-1) if self.several_ else y.argmax(-1) == targets

    def _aim(self) -> str:
        return f"{len(self.classes_):,} " + ("labels" if self.several_ else "classes")

    def _finish(self, data: Path) -> None:
        """Find the temperature with which the probabilities fit the validation data best.

        Guo et al. 2017, "On calibration of modern neural networks".
        """
        super()._finish(data)
        self.training_["temperature"] = 1.0
        if self._validation is None:
            return
        scores = torch.stack(self._read_scores(self._validation, lambda y, batch: iter(y.cpu())))
        targets = torch.from_numpy(np.asarray(self._validation.examples.targets))
        output = self.network_.output
        coldness = torch.zeros((), requires_grad=True)  # log of 1 / temperature
        optimizer = torch.optim.LBFGS([coldness], max_iter=50, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value: Tensor = output.loss(scores * coldness.exp(), targets).mean()
            value = value + 0.5 / len(scores) * coldness**2  # a prior, for few data
            torch.autograd.backward(value)
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        if torch.isfinite(coldness):
            self.training_["temperature"] = float((-coldness.detach()).exp())

    # Using

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class, ``(N, K)``, calibrated on the validation data."""
        scores = self._scores(X).double() / self.training_.get("temperature", 1.0)
        return np.asarray(self.network_.output.predict(scores).numpy())

    def predict(self, X: Any) -> Any:
        """The likeliest class of each sequence, ``(N,)``; or a list of labels each."""
        probabilities = self.predict_proba(X)
        if not self.several_:
            return self.classes_[probabilities.argmax(1)]
        return [self.classes_[row > 0.5].tolist() for row in probabilities]

    def answers(self, X: Any, *, probabilities: bool = False) -> Iterator[Answer]:
        """What the model says of each sequence; see `predict`."""
        corpus = self._corpus(X, labelled=None)
        for place, p in zip(corpus.places, self.predict_proba(corpus), strict=True):
            each = {str(c): round(float(q), 4) for c, q in zip(self.classes_, p, strict=True)}
            facts: dict[str, Any] = {"probabilities": each} if probabilities else {}
            if self.several_:
                labels = self.classes_[p > 0.5].tolist()
                words = [", ".join(f"{label} {each[str(label)]:.3f}" for label in labels) or "-"]
                facts = {"labels": labels, **facts}
            else:
                label = self.classes_[p.argmax()].item()
                words = [str(label), f"{p.max():.3f}"]
                facts = {"label": label, "probability": round(float(p.max()), 4), **facts}
            if probabilities:
                words = [" ".join(f"{name}={q:.3f}" for name, q in each.items())]
            yield Answer(place, "\t".join([*words, str(place)]), facts)

    def plot_confusion(self, confusion: Sequence[Sequence[int]], picture: Path) -> None:
        """Draw what `evaluate` found of confusion as a PNG. Needs ``ostinato[plots]``."""
        draw_confusion(confusion, self.classes_.tolist(), Path(picture))

    def score(self, X: Any, y: Any = None) -> float:
        """The share of sequences whose class, or whose every label, is right."""
        return float(self.evaluate(X, y)["accuracy"])

    def evaluate(self, X: Any, y: Any = None) -> dict[str, Any]:
        """How well the model predicts labels that are known.

        Args:
            X: as in `fit`.
            y: as in `fit`.

        Returns:
            accuracy, macro_f1 (the mean over classes of the harmonic mean of precision and recall),
            log_loss (nats a sequence), sequences; and confusion, ``[true][predicted]`` counts, or
            micro_f1 where there are several labels.
        """
        corpus = self._corpus(X, y, labelled=True)
        self._refuse_untargeted(corpus)
        self._refuse_unseen(corpus)
        truth, p = self._encode_targets(corpus), self.predict_proba(corpus)
        floor = np.finfo(np.float64).tiny
        if self.several_:
            guess = p > 0.5
            log_loss = -np.where(truth > 0, np.log(p + floor), np.log1p(-p + floor)).sum(1).mean()
            return {
                "accuracy": float((guess == (truth > 0)).all(1).mean()),
                "macro_f1": _f1(truth, guess, "macro"),
                "micro_f1": _f1(truth, guess, "micro"),
                "log_loss": float(log_loss),
                "sequences": len(truth),
            }
        guess = p.argmax(1)
        return {
            "accuracy": float((guess == truth).mean()),
            "macro_f1": _f1(truth, guess, "macro"),
            "log_loss": float(-np.log(p[np.arange(len(p)), truth] + floor).mean()),
            "sequences": len(truth),
            "confusion": metrics.confusion_matrix(
                truth, guess, labels=range(len(self.classes_))
            ).tolist(),
        }

    def _documents(self) -> dict[str, Any]:
        classes = {"classes": self.classes_.tolist(), "several": self.several_}
        return {**super()._documents(), "classes.json": classes}

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        super()._take_documents(documents)
        self.classes_ = np.array(documents["classes.json"]["classes"])
        self.several_ = bool(documents["classes.json"]["several"])


def _plain(label: Any) -> Any:
    """A label as JSON can hold it."""
    label = label.item() if isinstance(label, np.generic) else label
    if not isinstance(label, str | int | float):
        raise OstinatoError(f"{label!r:.40} is no label; expected text or a number.")
    return label


def _f1(truth: Any, guess: Any, average: str) -> float:
    return float(metrics.f1_score(truth, guess, average=average, zero_division=0))


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceRegressor(_OneAnswer):
    """A recurrent network that says a number, or several, for a sequence.

    Args:
        pooling: what stands for a sequence: last (its last hidden state), mean or max of them all,
            or attention (a mean weighted by what matters).

    Sequences, settings and attributes are as of `SequenceClassifier`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(rng.integers(3, 9), 1)) for i in range(100)]
        >>> y = [x.mean() for x in X]
        >>> model = SequenceRegressor(hidden_size=16, epochs=20).fit(X, y)
        >>> model.score(X, y) > 0.8
        True
    """

    _loss_unit = "squares"

    @property
    def _output(self) -> OutputKind:
        return "number"

    def _answers(self) -> int:
        return len(self._mean)

    def _learn_targets(self, training: Corpus, held_out: Corpus | None) -> None:
        numbers = _numbers(training)
        self._is_single = not isinstance((training.targets or [])[0], list | tuple | np.ndarray)
        self._mean, self._scale = numbers.mean(0), numbers.std(0)
        if not (self._scale > 0).any():
            raise DataError(
                f"all {len(numbers)} sequences have the number {numbers[0].tolist()}; there is "
                "nothing to learn.",
                path=training.places[0].path,
            )
        self._scale = np.where(self._scale > 0, self._scale, 1.0)
        if held_out is not None:
            _numbers(held_out, len(self._mean))

    def _encode_targets(self, corpus: Corpus) -> NDArray[Any]:
        numbers = _numbers(corpus, len(self._mean))
        return np.asarray((numbers - self._mean) / self._scale, dtype=np.float32)

    def _finish(self, data: Path) -> None:
        if self._validation is not None:
            guess = self._read_scores(self._validation, lambda y, batch: iter(y.cpu().numpy()))
            truth = np.asarray(self._validation.examples.targets)
            errors = (np.stack(guess) - truth) * self._scale
            self.training_["validation"] = {
                "mae": float(np.abs(errors).mean()),
                "rmse": float(np.sqrt((errors**2).mean())),
            }

    def _aim(self) -> str:
        K = self._answers()
        return "a number each" if K == 1 else f"{K} numbers each"

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The number of each sequence, ``(N,)``, or its numbers, ``(N, K)``."""
        numbers = self._scores(X).double().numpy() * self._scale + self._mean
        return np.asarray(numbers[:, 0] if self._is_single else numbers)

    def answers(self, X: Any, *, probabilities: bool = False) -> Iterator[Answer]:
        """What the model says of each sequence; see `predict`."""
        corpus = self._corpus(X, labelled=None)
        for place, found in zip(corpus.places, self.predict(corpus), strict=True):
            numbers = np.atleast_1d(found).tolist()
            said = " ".join(f"{number:.6g}" for number in numbers)
            facts = {"number": numbers[0]} if self._is_single else {"numbers": numbers}
            yield Answer(place, f"{said}\t{place}", facts)

    def score(self, X: Any, y: Any = None) -> float:
        """R2: the share of the numbers' variance that the predictions explain."""
        return float(self.evaluate(X, y)["r2"])

    def evaluate(self, X: Any, y: Any = None) -> dict[str, Any]:
        """How well the model predicts numbers that are known.

        Returns:
            mae (mean absolute error), rmse (root of the mean squared error), r2, sequences.
        """
        corpus = self._corpus(X, y, labelled=True)
        self._refuse_untargeted(corpus)
        truth = _numbers(corpus, len(self._mean))
        guess = self.predict(corpus).reshape(truth.shape)
        return {
            "mae": float(np.abs(truth - guess).mean()),
            "rmse": float(np.sqrt(((truth - guess) ** 2).mean())),
            "r2": float(metrics.r2_score(truth, guess)) if len(truth) > 1 else float("nan"),
            "sequences": len(truth),
        }

    def _documents(self) -> dict[str, Any]:
        targets = {
            "mean": self._mean.tolist(),
            "scale": self._scale.tolist(),
            "single": self._is_single,
        }
        return {**super()._documents(), "targets.json": targets}

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        super()._take_documents(documents)
        targets = documents["targets.json"]
        self._mean, self._scale = np.array(targets["mean"]), np.array(targets["scale"])
        self._is_single = bool(targets["single"])


def _numbers(corpus: Corpus, wanted: int | None = None) -> NDArray[np.float64]:
    """Targets ``(N, K)``; a `DataError` at the first that is no number."""
    rows = []
    for target, place in zip(corpus.targets or [], corpus.places, strict=True):
        several = isinstance(target, list | tuple | np.ndarray)
        try:
            row = [float(t) for t in (target if several else [target])]
        except (TypeError, ValueError):
            raise place.error(f"has the label {target!r:.40}; expected a number.") from None
        if not np.isfinite(row).all():
            raise place.error(f"has the label {target!r:.40}; expected a finite number.")
        wanted = len(row) if wanted is None else wanted
        if len(row) != wanted:
            raise place.error(f"has {len(row)} numbers; expected {wanted}.")
        rows.append(row)
    return np.array(rows)
