"""Classification: one class for each sequence, or any number of labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.data.batches import SequenceBatches
from ostinato.data.corpus import Corpus
from ostinato.data.inputs import Inputs
from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToOne, OneToOne
from ostinato.tasks.base import Prediction
from ostinato.tasks.corpora import CorpusEstimator
from ostinato.tasks.linear import LinearClassifier, fit_blend
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

    Args:
        blend: whether texts with one label each are also classified by their words and pieces of
            words, by a linear classifier whose weight is fitted to the validation data.

    Further settings and attributes are those of `CorpusEstimator`.

    Attributes:
        linear_: the linear classifier that is added to the network's scores; None if there is none.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(rng.integers(3, 9), 2)) + 2 * (i % 2) for i in range(60)]
        >>> y = ["low", "high"] * 30
        >>> model = SequenceClassifier(hidden_size=8, epochs=5).fit(X, y)
        >>> model.predict([np.full((4, 2), 2.0)]).tolist()
        ['high']
    """

    blend: bool = True

    TARGETS = Classes
    linear_ = cast("LinearClassifier | None", None)

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
        """Measure the weights; calibrate the probabilities, and blend those of texts."""
        self.linear_, facts = None, {"temperature": 1.0, **super()._final_facts(problem)}
        training, held_out = problem.batches, problem.validation
        if not isinstance(training, SequenceBatches) or not isinstance(held_out, SequenceBatches):
            return facts
        scores, truth = self._scores(held_out), np.asarray(held_out.examples.targets)
        loss, targets = self.network_.output.loss, torch.from_numpy(truth)
        facts["temperature"] = temperature = calibrate(scores, targets, loss) or 1.0
        lexicon = self.inputs_.lexicon
        if not self.blend or self.multilabel_ or lexicon is None:
            return facts
        texts, held_out_texts = (lexicon.decode(each.examples) for each in (training, held_out))
        classes = np.asarray(training.examples.targets)
        logistic, bayes = LinearClassifier.fit(texts, classes, self.seed)
        calibrated = scores.double().numpy() / temperature
        others = [each.scores(held_out_texts) for each in (logistic, bayes)]
        weight, *shares = fit_blend([calibrated, *others], truth)
        linear = logistic.plus(bayes, *(shares if any(shares) else (1.0, 0.0)))
        each = {"network": calibrated, "linear": linear.scores(held_out_texts)}
        each["both"] = weight * calibrated + any(shares) * each["linear"]
        found = {name: float((z.argmax(1) == truth).mean()) for name, z in each.items()}
        facts |= {"held_out_accuracy": found, "summary": _summary(found, any(shares))}
        facts["validation"]["accuracy"] = found["both"]
        if any(shares):
            self.linear_ = linear
            names = ("network", "logistic_regression", "naive_bayes")
            facts["blend"] = dict(zip(names, (weight / temperature, *shares), strict=True))
        return facts

    def _scores(self, batches: SequenceBatches) -> Tensor:
        """Return the network's scores of all sequences, ``(N, K)``."""
        return torch.stack(predict(self.network_, batches, lambda y, batch: y.cpu()))

    def _fitted_documents(self) -> dict[str, Any]:
        if self.linear_ is None or "blend" not in self.training_:
            return {}
        return {"linear.json": self.linear_.to_json()}

    def _restore_fitted(self, documents: Mapping[str, Any]) -> None:
        if "linear.json" not in documents and "blend" not in self.training_:
            return
        linear, K = LinearClassifier(**documents["linear.json"]), len(self.classes_)
        fits = len(linear.bias) == K and self.inputs_.lexicon is not None and not self.multilabel_
        if not fits or not 0 <= self.training_["blend"]["network"] < math.inf:
            raise OstinatoError(f"linear.json: expected a classifier of texts of {K} classes.")
        self.linear_ = linear

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict the probability of each class, ``(N, K)``, calibrated on the validation data."""
        sequences = self._sequences()
        examples = sequences.unlabelled(self._read(X))
        scores, lexicon = self._scores(sequences.batches(examples)).double(), self.inputs_.lexicon
        if "blend" in self.training_ and self.linear_ is not None and lexicon is not None:
            scores *= self.training_["blend"]["network"]
            scores += torch.from_numpy(self.linear_.scores(lexicon.decode(examples)))
        else:
            scores /= self.training_.get("temperature", 1.0)
        return np.asarray(self.network_.output.predict(scores).numpy())

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


def _summary(accuracy: Mapping[str, float], blended: bool) -> str:
    """Say how good the network, the linear classifier and both are on the validation data."""
    shown = {name: f"{100 * value:.1f} %" for name, value in accuracy.items()}
    both = f"both {shown['both']}" if blended else "which adds nothing"
    return (
        f"validation accuracy: network {shown['network']}, words and pieces of words "
        f"{shown['linear']}, {both}"
    )
