"""Classification: one class for each sequence, or any number of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ostinato.data.batches import SequenceBatches
from ostinato.data.corpus import Corpus
from ostinato.data.inputs import Inputs
from ostinato.networks.arrangements import ManyToOne, OneToOne
from ostinato.tasks.base import Prediction
from ostinato.tasks.corpora import CorpusEstimator
from ostinato.tasks.networks import PoolingSettings, pooled_network
from ostinato.tasks.sequences import split
from ostinato.tasks.targets import Classes, calibrate, has_label_sets
from ostinato.training.evaluation import Problem, predict
from ostinato.training.pictures import draw_confusion


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceClassifier(PoolingSettings, CorpusEstimator[Classes, ManyToOne | OneToOne]):
    """A recurrent network that predicts the class of a sequence, or its labels.

    Sequences are texts, measurements, recordings or images, in memory or in files; see `fit`. Where
    labels are lists, a sequence may have several, or none.

    Settings and attributes are those of `CorpusEstimator`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(rng.integers(3, 9), 2)) + 2 * (i % 2) for i in range(60)]
        >>> y = ["low", "high"] * 30
        >>> model = SequenceClassifier(hidden_size=8, epochs=5).fit(X, y)
        >>> model.predict([np.full((4, 2), 2.0)]).tolist()
        ['high']
    """

    TARGETS = Classes

    @property
    def classes_(self) -> NDArray[Any]:
        """The classes, sorted."""
        return self.targets_.names

    @property
    def multilabel_(self) -> bool:
        """Whether a sequence may have several labels."""
        return self.targets_.multilabel

    def _build(self, inputs: Inputs, targets: Classes) -> ManyToOne | OneToOne:
        return pooled_network(inputs, targets.head, self.architecture(self.resolved_), self)

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Split with labels in equal shares in both parts."""
        several, fraction = has_label_sets(corpus), self.validation_fraction
        strata = None if several else [str(target) for target in corpus.targets or []]
        return split(corpus, fraction, self.seed, strata, call=type(self).__name__)

    def _final_facts(self, problem: Problem) -> dict[str, Any]:
        """Measure the weights, and find the temperature of the probabilities."""
        facts = {"temperature": 1.0, **super()._final_facts(problem)}
        held_out = problem.validation
        if isinstance(held_out, SequenceBatches):
            scores = torch.stack(predict(self.network_, held_out, lambda y, batch: y.cpu()))
            truth = torch.from_numpy(np.asarray(held_out.examples.targets))
            facts["temperature"] = calibrate(scores, truth, self.network_.output.loss) or 1.0
        return facts

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict the probability of each class, ``(N, K)``, calibrated on the validation data."""
        scores = self._sequences().scores(self.network_, self._read(X)).double()
        p = self.network_.output.predict(scores / self.training_.get("temperature", 1.0))
        return np.asarray(p.numpy())

    def predict(self, X: Any) -> Any:
        """Predict the class of each sequence, ``(N,)``; or a list of labels for each."""
        return self.targets_.decode(self.predict_proba(X))

    def predictions(self, X: Any, *, probabilities: bool = False) -> Iterator[Prediction]:
        """Yield the prediction for each sequence; see `Predictor`."""
        corpus = self._read(X)
        for place, p in zip(corpus.places, self.predict_proba(corpus), strict=True):
            each = {str(c): round(float(q), 4) for c, q in zip(self.classes_, p, strict=True)}
            facts: dict[str, Any] = {"probabilities": each} if probabilities else {}
            if self.multilabel_:
                labels = self.classes_[p > 0.5].tolist()
                words = [", ".join(f"{label} {each[str(label)]:.3f}" for label in labels) or "-"]
                facts = {"labels": labels, **facts}
            else:
                label = self.classes_[p.argmax()].item()
                words = [str(label), f"{p.max():.3f}"]
                facts = {"label": label, "probability": round(float(p.max()), 4), **facts}
            if probabilities:
                words = [" ".join(f"{name}={q:.3f}" for name, q in each.items())]
            yield Prediction(place, "\t".join([*words, str(place)]), facts)

    def evaluate(self, X: Any, y: Any = None) -> dict[str, Any]:
        """Measure the predictions by known labels; data are as in `fit`.

        Returns:
            accuracy, macro_f1 (the mean over classes of the harmonic mean of precision and recall),
            log_loss (nats a sequence), sequences; and confusion, ``[true][predicted]`` counts, or
            micro_f1 where there are several labels.
        """
        corpus = self._labelled(X, y)
        self.targets_.check(corpus)
        return self.targets_.measure(self.targets_.encode(corpus), self.predict_proba(corpus))

    def score(self, X: Any, y: Any = None) -> float:
        """Return the share of sequences whose class, or whose every label, is right."""
        return float(self.evaluate(X, y)["accuracy"])

    def plot_confusion(self, confusion: Sequence[Sequence[int]], picture: Path) -> None:
        """Draw the confusion of `evaluate` as a PNG. Needs ``ostinato[plots]``."""
        draw_confusion(confusion, self.classes_.tolist(), Path(picture))
