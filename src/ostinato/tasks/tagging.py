"""A label for every step: words of a sentence, frames of a video, moments of a sensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.data.corpus import Corpus
from ostinato.data.ragged import Examples
from ostinato.errors import DataError
from ostinato.networks.arrangements import ManyToMany, OneToOne
from ostinato.networks.functional import running
from ostinato.networks.outputs import CRFOutput, Output
from ostinato.training.supervised import Answer, SupervisedEstimator

FEW = 10
"""Sequences below which validation data are the ends of sequences, not whole ones."""


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceTagger(SupervisedEstimator):
    """A recurrent network that gives every step of a sequence a label.

    Steps are words, read by themselves and by their letters, or measurements; see `fit`.

    Args:
        crf: whether labels are judged together, by what follows what (a conditional random field).
        window: steps of measurements that are learnt from at once; longer series are cut, each time
            at other places.

    Further settings are those of `SupervisedEstimator`, `InputSettings`, `ReadingSettings` and
    `TrainingSettings`.

    Attributes:
        classes_: the labels, sorted.
        inputs_: what is known of the inputs, such as words.
        network_: the trained network.
        training_: facts of the training run.
        chosen_: settings that were not given, and what the data made of them.

    Example:
        >>> X = [["the", "dog", "barks"], ["a", "dog", "sleeps"], ["the", "cat", "sleeps"]] * 10
        >>> y = [["D", "N", "V"]] * 30
        >>> model = SequenceTagger(hidden_size=8, epochs=8, validation_fraction=0.1).fit(X, y)
        >>> model.predict([["the", "cat", "barks"]])
        [['D', 'N', 'V']]
    """

    crf: bool = False
    window: int = 200

    _by_step = True

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want("window", lambda n: 0 < n < 2**24, "a whole number above zero, below 2**24")

    def _assemble(self, encode: nn.Module, features: int) -> nn.Module:
        dropout, H = self._value("dropout"), self._value("hidden_size")
        wide = H * (2 if self.bidirectional else 1)
        kind = CRFOutput if self.crf else Output
        output = kind(wide, len(self.classes_), dropout=dropout)
        if self.memory == "none":
            return OneToOne(encode, features, [wide] * (self.num_layers + 1), output, dropout)
        recurrent = self._recurrent(features, bidirectional=self.bidirectional)
        return ManyToMany(encode, recurrent, output, self._input_dropout())

    # Learning

    def _learn_targets(self, training: Corpus, held_out: Corpus | None) -> None:
        labels = {str(label) for labels in training.targets or [] for label in labels}
        self.classes_ = np.array(sorted(labels))
        if len(labels) < 2:
            raise DataError(
                f"all steps have the label {', '.join(labels)!r}; two are the least.",
                path=training.places[0].path,
            )
        for corpus in (training, held_out):
            if corpus is not None:
                self._refuse_misfits(corpus)

    def _refuse_misfits(self, corpus: Corpus) -> None:
        """Raise a `DataError` at a label that training did not meet, or labels too many or few."""
        known = set(self.classes_.tolist())
        for i, (steps, labels) in enumerate(zip(corpus.inputs, corpus.targets or [], strict=True)):
            place = corpus.places[i]
            if len(steps) != len(labels):
                raise place.error(f"has {len(steps)} steps, and {len(labels)} labels.")
            for t, label in enumerate(labels):
                if str(label) not in known:
                    line = corpus.step_lines[i][t] if corpus.step_lines else place.line
                    shown = ", ".join(sorted(known)[:20])
                    raise place._replace(line=line).error(
                        f"has the label {label!r}, which was not met in training; known are "
                        f"{shown}."
                    )

    def _encode_targets(self, corpus: Corpus) -> Iterator[NDArray[Any]]:
        number = {label: i for i, label in enumerate(self.classes_.tolist())}
        return (
            np.array([number[str(label)] for label in labels], dtype=np.int64)
            for labels in corpus.targets or []
        )

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Whole sequences are held out, or, where there are few, the end of each."""
        if len(corpus) >= FEW:
            return super()._split(corpus)
        share = 0.2 if self.validation_fraction is None else self.validation_fraction
        cuts = [round((1 - share) * len(steps)) for steps in corpus.inputs]
        if not any(0 < cut < len(steps) for cut, steps in zip(cuts, corpus.inputs, strict=True)):
            raise DataError(
                "the sequences are too short to hold their ends out for validation; give more, "
                "or validation_fraction=0.",
                path=corpus.places[0].path,
            )

        def part(ends: bool) -> Corpus:
            def cut(items: Sequence[Any]) -> list[Any]:
                return [i[c:] if ends else i[:c] for i, c in zip(items, cuts, strict=True)]

            taken = Corpus(
                corpus.kind,
                cut(corpus.inputs),
                cut(corpus.targets or []),
                corpus.places,
                corpus.variables,
                cut(corpus.step_lines) if corpus.step_lines else [],
            )
            return taken.take([i for i, steps in enumerate(taken.inputs) if len(steps)])

        return part(ends=False), part(ends=True)

    def _pieces(self, steps: NDArray[np.int64]) -> int:
        return int(np.maximum(1, -(-steps // self.window)).sum()) if self._cuts() else len(steps)

    def _cuts(self) -> bool:
        return self.inputs_.lexicon is None

    def _batches(self, examples: Examples) -> SequenceBatches:
        window = self.window if self._cuts() else None
        return SequenceBatches(examples, self._value("batch_size"), window, seed=self.seed)

    def _aim(self) -> str:
        return f"{len(self.classes_):,} labels a step" + (", judged together" if self.crf else "")

    # Using

    def predict(self, X: Any) -> list[list[str]]:
        """The likeliest labels of each sequence."""
        corpus = self._corpus(X, labelled=None)

        def read(y: Tensor, batch: SequenceBatch) -> Iterator[list[str]]:
            best = self.network_.output.best(y, batch.lengths).cpu().numpy()
            return (
                self.classes_[row[:length]].tolist()
                for row, length in zip(best, batch.lengths.tolist(), strict=True)
            )

        return self._scored(corpus, read)

    def predict_proba(self, X: Any) -> list[NDArray[np.float64]]:
        """The probability of each label at each step, ``(T, K)`` for each sequence."""
        corpus = self._corpus(X, labelled=None)
        coldness = 1 / self.training_.get("temperature", 1.0)

        def read(y: Tensor, batch: SequenceBatch) -> Iterator[NDArray[np.float64]]:
            p = self.network_.output.predict(y.double() * coldness, batch.lengths).cpu().numpy()
            return (row[:n].copy() for row, n in zip(p, batch.lengths.tolist(), strict=True))

        return self._scored(corpus, read)

    def answers(self, X: Any, *, probabilities: bool = False) -> Iterator[Answer]:
        """What the model says of each sequence; see `predict`."""
        corpus = self._corpus(X, labelled=None)
        shares = self.predict_proba(corpus) if probabilities else [None] * len(corpus)
        for i, labels in enumerate(self.predict(corpus)):
            place = corpus.places[i]
            steps = corpus.inputs[i] if corpus.kind == "words" else self._step_names(corpus, i)
            lines = [f"{step}\t{label}" for step, label in zip(steps, labels, strict=True)]
            facts: dict[str, Any] = {"steps": list(steps), "labels": labels}
            if (p := shares[i]) is not None:
                facts["probabilities"] = p.max(1).round(4).tolist()
                lines = [f"{line}\t{q:.3f}" for line, q in zip(lines, p.max(1), strict=True)]
            yield Answer(place, "\n".join([*lines, ""]), facts)

    def _judge(self, x: Any, batch: SequenceBatch, targets: Tensor) -> dict[str, float]:
        h, _ = self.network_.hidden(x, lengths=batch.unequal)
        output = self.network_.output
        loss = output.mean_loss(h, targets, batch.unequal)
        right = output.best(output(h), batch.lengths) == targets
        right &= running(h, batch.lengths)
        return {"loss": float(loss), "accuracy": int(right.sum()) / max(1, batch.steps)}

    def _step_names(self, corpus: Corpus, i: int) -> list[str]:
        """What to call the steps of a series: their lines, or their numbers."""
        if corpus.step_lines:
            return [str(corpus.places[i]._replace(line=n)) for n in corpus.step_lines[i]]
        return [f"{corpus.places[i]} step {t}" for t in range(len(corpus.inputs[i]))]

    def score(self, X: Any, y: Any = None) -> float:
        """The share of steps whose label is right."""
        return float(self.evaluate(X, y)["accuracy"])

    def evaluate(self, X: Any, y: Any = None) -> dict[str, Any]:
        """How well the model predicts labels that are known.

        Returns:
            accuracy, macro_f1, steps, sequences; and, where labels are of the form B-PERSON,
            I-PERSON, O: entity_precision, entity_recall, entity_f1, of entities that are right in
            their kind and in both of their ends (Tjong Kim Sang and De Meulder 2003, CoNLL).
        """
        corpus = self._corpus(X, y, labelled=True)
        self._refuse_untargeted(corpus)
        self._refuse_misfits(corpus)
        truth = [[str(label) for label in labels] for labels in corpus.targets or []]
        guess = self.predict(corpus)
        flat_truth = [label for labels in truth for label in labels]
        flat_guess = [label for labels in guess for label in labels]
        found = {
            "accuracy": float(metrics.accuracy_score(flat_truth, flat_guess)),
            "macro_f1": float(
                metrics.f1_score(flat_truth, flat_guess, average="macro", zero_division=0)
            ),
            "steps": len(flat_truth),
            "sequences": len(truth),
        }
        if any(label.startswith("B-") for label in self.classes_):
            wanted = {(i, *span) for i, labels in enumerate(truth) for span in entities(labels)}
            given = {(i, *span) for i, labels in enumerate(guess) for span in entities(labels)}
            right = len(wanted & given)
            precision, recall = right / max(1, len(given)), right / max(1, len(wanted))
            found |= {
                "entity_precision": precision,
                "entity_recall": recall,
                "entity_f1": 2 * precision * recall / max(1e-300, precision + recall),
                "entities": len(wanted),
            }
        return found

    def _documents(self) -> dict[str, Any]:
        return {**super()._documents(), "classes.json": {"classes": self.classes_.tolist()}}

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        super()._take_documents(documents)
        self.classes_ = np.array(documents["classes.json"]["classes"])


def entities(labels: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Begin, end and kind of the entities that labels spell: B-X begins one, I-X goes on with it.

    An I-X or E-X after something else begins one too, as in the CoNLL evaluation; S-X is one alone.

    >>> list(entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
    [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
    """
    begin, kind = 0, ""
    for t, label in enumerate([*labels, "O"]):
        mark, _, name = label.partition("-")
        if kind and (mark not in ("I", "E") or name != kind):
            yield begin, t, kind
            kind = ""
        if mark in ("B", "I", "E", "S") and name and not kind:
            begin, kind = t, name
        if kind and mark in ("E", "S"):
            yield begin, t + 1, kind
            kind = ""
