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
from ostinato.data.ragged import Examples, Ragged
from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToOne, OneToOne
from ostinato.tasks.base import Prediction
from ostinato.tasks.corpora import SoundEstimator
from ostinato.tasks.linear import LinearClassifier, fit_blend
from ostinato.tasks.minirocket import MiniRocket
from ostinato.tasks.networks import PoolingSettings, pooled_network
from ostinato.tasks.sequences import split
from ostinato.tasks.targets import Classes, calibrate, has_label_sets
from ostinato.training.evaluation import Problem, predict
from ostinato.training.pictures import draw_confusion

FEW = (0.25, 0.75)
"""Weights of network and MiniRocket where few validation data say nothing of them: MiniRocket is
calibrated on all data."""


LARGEST_BLEND = 1 << 30
"""Bytes of encoded sequences, at most, that another classifier is fitted to: it holds them all."""


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceClassifier(PoolingSettings, SoundEstimator[Classes, ManyToOne | OneToOne]):
    """A recurrent network that predicts the class of a sequence, or its labels.

    Sequences are texts, measurements, recordings or images, in memory or in files; see `fit`. Where
    labels are lists, a sequence may have several, or none.

    Args:
        blend: whether texts, or series, with one label each are also classified by a linear
            classifier, of words and pieces of words or of shapes (MiniRocket), whose weight is
            fitted to the validation data.

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
    RESPONSE = 10.0
    linear_ = cast("LinearClassifier | MiniRocket | None", None)

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
        strata = None if several else _strata(corpus.targets or [])
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
        if not self._blends or training.examples.inputs.nbytes > LARGEST_BLEND:
            return facts
        calibrated = scores.double().numpy() / temperature
        fit = self._fit_texts if self.inputs_.lexicon is not None else self._fit_series
        linear, beside, weights = fit(training.examples, held_out.examples, calibrated)
        weight, *shares = weights.values()
        each = {"network": calibrated, "linear": beside}
        each["both"] = weight * calibrated + any(shares) * beside
        found = {name: float((z.argmax(1) == truth).mean()) for name, z in each.items()}
        facts |= {"held_out_accuracy": found, "summary": _summary(found, linear, any(shares))}
        facts["validation"]["accuracy"] = found["both"]
        if any(shares):
            self.linear_ = linear
            facts["blend"] = weights | {"network": weight / temperature}
        return facts

    @property
    def _blends(self) -> bool:
        """Whether another classifier is fitted beside the network."""
        whole = self.inputs_.kind == "series" and not self.inputs_.missing
        by_shape = whole and self.bidirectional and self.recurrent
        alone = self.multilabel_ or len(self.classes_) < 2
        return self.blend and not alone and (by_shape or self.inputs_.lexicon is not None)

    def _fit_texts(
        self, training: Examples, held_out: Examples, network: NDArray[np.float64]
    ) -> tuple[LinearClassifier, NDArray[np.float64], dict[str, float]]:
        """Fit a classifier of texts to all of them.

        Also return the scores of held-out texts by one that was fitted to the others, and the
        weights of each part, by these.
        """
        assert self.inputs_.lexicon is not None
        texts, held_out_texts = map(self.inputs_.lexicon.decode, (training, held_out))
        classes, truth = map(np.asarray, (training.targets, held_out.targets))
        parts = LinearClassifier.fit(texts, classes, self.seed)
        scores = [network, *(each.scores(held_out_texts) for each in parts)]
        weight, *shares = fit_blend(scores, truth)
        weights = shares if any(shares) else [1.0, 0.0]
        beside = np.tensordot(weights, scores[1:], 1)
        if any(shares):  # the weights are known: fit to all texts
            classes = np.concatenate([classes, truth])
            parts = LinearClassifier.fit([*texts, *held_out_texts], classes, self.seed)
        names = ("network", "logistic_regression", "naive_bayes")
        shown = dict(zip(names, (weight, *shares), strict=True))
        return parts[0].plus(parts[1], *weights), beside, shown

    def _fit_series(
        self, training: Examples, held_out: Examples, network: NDArray[np.float64]
    ) -> tuple[MiniRocket, NDArray[np.float64], dict[str, float]]:
        """Fit a classifier of series to all of them; also return as `_fit_texts` does.

        Its scores of a held-out series are those of a fit to all others.
        """
        classes = np.concatenate([training.targets, held_out.targets])
        rocket, scores = MiniRocket.fit(self._standardised(training, held_out), classes, self.seed)
        beside = scores[len(training.inputs) :]
        weight, share = fit_blend([network, beside], np.asarray(held_out.targets), prior=FEW)
        return rocket.times(share), share * beside, {"network": weight, "minirocket": share}

    def _standardised(self, *parts: Examples) -> Ragged:
        """Return series as `MiniRocket` takes them."""
        mean, scale = (np.asarray(a, np.float32) for a in (self.inputs_.mean, self.inputs_.scale))
        return Ragged.of((row - mean) / scale for part in parts for row in part.inputs)

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
        K, I = len(self.classes_), self.inputs_.features
        kind = LinearClassifier if self.inputs_.lexicon is not None else MiniRocket
        linear = kind(**documents["linear.json"])
        fits = isinstance(linear, LinearClassifier) or linear.variables.shape[2] == I
        fits = fits and self._blends and len(linear.bias) == K
        if not fits or not 0 <= self.training_["blend"]["network"] < math.inf:
            noun = self.inputs_.noun
            raise OstinatoError(f"linear.json: expected a classifier of {noun} of {K} classes.")
        self.linear_ = linear

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict the probability of each class, ``(N, K)``, calibrated on the validation data."""
        sequences = self._sequences()
        examples = sequences.unlabelled(self._read(X))
        scores, lexicon = self._scores(sequences.batches(examples)).double(), self.inputs_.lexicon
        if "blend" in self.training_ and self.linear_ is not None:
            scores *= self.training_["blend"]["network"]
            if isinstance(self.linear_, MiniRocket):
                beside = self.linear_.scores(self._standardised(examples))
            else:
                assert lexicon is not None
                beside = self.linear_.scores(lexicon.decode(examples))
            scores += torch.from_numpy(beside)
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

    def evaluate(
        self, X: Any, y: Any = None, *, groups: Any = None, allow_shared_groups: bool = False
    ) -> dict[str, Any]:
        """Measure the predictions by known labels; data are as in `fit`.

        Groups that were trained or validated on are a `DataError`, unless ``allow_shared_groups``.

        Returns:
            accuracy, macro_f1 (the mean over classes of the harmonic mean of precision and recall),
            log_loss (nats a sequence), sequences; and confusion, ``[true][predicted]`` counts, or
            micro_f1 where there are several labels.
        """
        corpus = self._tested(X, y, groups, allow_shared_groups)
        self.targets_.check(corpus)
        return self.targets_.measure(self.targets_.encode(corpus), self.predict_proba(corpus))

    def score(self, X: Any, y: Any = None) -> float:
        """Return the share of sequences whose class, or whose every label, is right."""
        return float(self.evaluate(X, y)["accuracy"])

    def plot_confusion(self, confusion: Sequence[Sequence[int]], picture: Path) -> None:
        """Draw the confusion of `evaluate` as a PNG. Needs ``ostinato[plots]``."""
        draw_confusion(confusion, self.classes_.tolist(), Path(picture))


def _strata(targets: Sequence[Any]) -> NDArray[np.int64]:
    """Return the number of each label among all of them, sorted as text."""
    number: dict[str, int] = {}
    labels = (number.setdefault(str(target), len(number)) for target in targets)
    codes = np.fromiter(labels, np.int64, len(targets))
    place = {label: i for i, label in enumerate(sorted(number))}
    return np.array([place[label] for label in number], dtype=np.int64)[codes]


def _summary(
    accuracy: Mapping[str, float], linear: LinearClassifier | MiniRocket, blended: bool
) -> str:
    """Say how good the network, the linear classifier and both are on the validation data."""
    shown = {name: f"{100 * value:.1f} %" for name, value in accuracy.items()}
    both = f"both {shown['both']}" if blended else "which adds nothing"
    name = "MiniRocket" if isinstance(linear, MiniRocket) else "words and pieces of words"
    return f"validation accuracy: network {shown['network']}, {name} {shown['linear']}, {both}"
