"""Tagging: a label for every step: words of a sentence, frames of a video, steps of a sensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor

from ostinato.data.batches import SequenceBatch
from ostinato.data.corpus import Corpus
from ostinato.data.inputs import Inputs
from ostinato.errors import DataError
from ostinato.networks.arrangements import ManyToMany, OneToOne
from ostinato.tasks.base import Prediction
from ostinato.tasks.corpora import CorpusEstimator
from ostinato.tasks.networks import check_sizes, encoder_network
from ostinato.tasks.targets import StepLabels, f1

FEW = 10
"""Sequences below which validation data are the ends of sequences, not whole ones."""


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceTagger(CorpusEstimator[StepLabels, ManyToMany | OneToOne]):
    """A recurrent network that predicts a label for every step of a sequence.

    Steps are words, read by themselves and by their letters, or measurements; see `fit`.

    Args:
        crf: whether labels are scored jointly, by which follows which (a conditional random field);
            if not given, where they are of entities, such as B-PERSON, I-PERSON, O.
        window: steps of measurements in a training example; longer series are cut, each time at
            other places.

    Further settings and attributes are those of `CorpusEstimator`.

    Example:
        >>> X = [["the", "dog", "barks"], ["a", "dog", "sleeps"], ["the", "cat", "sleeps"]] * 10
        >>> y = [["D", "N", "V"]] * 30
        >>> model = SequenceTagger(hidden_size=8, epochs=8, validation_fraction=0.1).fit(X, y)
        >>> model.predict([["the", "cat", "barks"]])
        [['D', 'N', 'V']]
    """

    crf: bool | None = None
    window: int = 200
    affix_size: int = 64

    TARGETS = StepLabels
    BY_STEP = True

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes(self, "window")

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels, sorted."""
        return self.targets_.names

    def _learn_targets(self, training: Corpus) -> StepLabels:
        return StepLabels.learn(training, crf=self.crf)

    def _build(self, inputs: Inputs, targets: StepLabels) -> ManyToMany | OneToOne:
        how = self.architecture(self.resolved_)
        return encoder_network(inputs, targets.head, how, self, ManyToMany, pooled=False)

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Hold out whole sequences, or, where there are few, the end of each."""
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

        def part(of: Callable[[Any, int], Any]) -> Corpus:
            steps, targets, lines = (
                [of(item, at) for item, at in zip(items or (), cuts, strict=False)]
                for items in (corpus.inputs, corpus.targets, corpus.step_lines)
            )
            taken = replace(corpus, inputs=steps, targets=targets, step_lines=lines)
            return taken.take([i for i, some in enumerate(steps) if len(some)])

        return part(lambda steps, at: steps[:at]), part(lambda steps, at: steps[at:])

    def _pieces(self, inputs: Inputs, lengths: NDArray[np.int64]) -> int:
        whole = inputs.lexicon is not None
        return len(lengths) if whole else int(np.maximum(1, -(-lengths // self.window)).sum())

    def _batching(self) -> dict[str, int]:
        return {} if self.inputs_.lexicon is not None else {"window": self.window}

    def predict(self, X: Any) -> list[list[str]]:
        """Predict the labels of each sequence; ``X`` as in `fit`."""

        def decode(scores: Tensor, batch: SequenceBatch) -> Iterator[list[str]]:
            best = self.network_.output.best(scores, batch.lengths).cpu().numpy()
            return self.targets_.decode(best, batch.lengths.tolist())

        return self._sequences().predict(self.network_, self._read(X), decode)

    def predict_proba(self, X: Any) -> list[NDArray[np.float64]]:
        """Predict the probability of each label at each step, ``(T, K)`` for each sequence."""

        def decode(scores: Tensor, batch: SequenceBatch) -> Iterator[NDArray[np.float64]]:
            p = self.network_.output.predict(scores.double(), batch.lengths).cpu().numpy()
            return (row[:n].copy() for row, n in zip(p, batch.lengths.tolist(), strict=True))

        return self._sequences().predict(self.network_, self._read(X), decode)

    def predictions(self, X: Any, *, probabilities: bool = False) -> Iterator[Prediction]:
        """Yield the prediction for each sequence; see `Predictor`."""
        corpus = self._read(X)
        shares = self.predict_proba(corpus) if probabilities else [None] * len(corpus)
        for i, (labels, p) in enumerate(zip(self.predict(corpus), shares, strict=True)):
            place = corpus.places[i]
            if corpus.kind == "words":
                steps = corpus.inputs[i]
            elif corpus.step_lines:
                steps = [str(place._replace(line=n)) for n in corpus.step_lines[i]]
            else:
                steps = [f"{place} step {t}" for t in range(len(corpus.inputs[i]))]
            lines = [f"{step}\t{label}" for step, label in zip(steps, labels, strict=True)]
            facts: dict[str, Any] = {"steps": list(steps), "labels": labels}
            if p is not None:
                facts["probabilities"] = p.max(1).round(4).tolist()
                lines = [f"{line}\t{q:.3f}" for line, q in zip(lines, p.max(1), strict=True)]
            yield Prediction(place, "\n".join([*lines, ""]), facts)

    def evaluate(
        self, X: Any, y: Any = None, *, groups: Any = None, allow_shared_groups: bool = False
    ) -> dict[str, Any]:
        """Measure the predictions by known labels, see `measure`; data are as in `fit`.

        Groups that were trained or validated on are a `DataError`, unless ``allow_shared_groups``.
        """
        corpus = self._tested(X, y, groups, allow_shared_groups)
        self.targets_.check(corpus)
        truth = [[str(label) for label in labels] for labels in corpus.targets or []]
        return measure(truth, self.predict(corpus), has_entities=self.targets_.has_entities)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the share of steps whose label is right."""
        return float(self.evaluate(X, y)["accuracy"])


def measure(
    truth: Sequence[Sequence[str]], guess: Sequence[Sequence[str]], *, has_entities: bool
) -> dict[str, Any]:
    """Measure predicted labels by true ones.

    Returns:
        accuracy, macro_f1, steps, sequences; and, where labels are of the form B-PERSON, I-PERSON,
        O: entity_precision, entity_recall, entity_f1, of entities that are right in their kind and
        in both of their ends (Tjong Kim Sang and De Meulder 2003, CoNLL); and the number of them.
    """
    flat_truth, flat_guess = (list(chain.from_iterable(some)) for some in (truth, guess))
    found = {
        "accuracy": float(metrics.accuracy_score(flat_truth, flat_guess)),
        "macro_f1": f1(flat_truth, flat_guess, "macro"),
        "steps": len(flat_truth),
        "sequences": len(truth),
    }
    if has_entities:
        true = {(i, *span) for i, labels in enumerate(truth) for span in entities(labels)}
        predicted = {(i, *span) for i, labels in enumerate(guess) for span in entities(labels)}
        right = len(true & predicted)
        precision, recall = right / max(1, len(predicted)), right / max(1, len(true))
        found |= {
            "entity_precision": precision,
            "entity_recall": recall,
            "entity_f1": 2 * precision * recall / max(1e-300, precision + recall),
            "entities": len(true),
        }
    return found


def entities(labels: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield begin, end and kind of the entities in labels: B-X begins one, I-X continues it.

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
