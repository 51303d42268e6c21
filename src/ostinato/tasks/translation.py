"""Translation: train on texts and their translations, and translate others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ostinato.tasks.writing import WritingEstimator, sacrebleu_scores


@dataclass(kw_only=True, eq=False, repr=False)
class Translator(WritingEstimator):
    """A recurrent encoder and decoder with attention that learns to translate.

    Settings and attributes are those of `WritingEstimator`.

    Example:
        >>> X = ["one two", "two one", "one", "two", "two two", "one one"] * 8
        >>> y = [text.replace("one", "eins").replace("two", "zwei") for text in X]
        >>> model = Translator(hidden_size=32, epochs=30, level="word", learning_rate=0.01,
        ...                    dropout=0.0, label_smoothing=0.0).fit(X, y)
        >>> model.translate(["two one"])
        ['zwei eins']
    """

    def translate(self, X: Any, **search: Any) -> list[str]:
        """Return the best translation of each text; further arguments are those of `write`."""
        return self.predict(X, **search)

    def evaluate(
        self,
        X: Any,
        y: Any = None,
        *,
        groups: Any = None,
        allow_shared_groups: bool = False,
        **search: Any,
    ) -> dict[str, Any]:
        """Measure translations by known ones; data are as in `fit`, ``search`` as in `write`.

        Needs ``ostinato[translation]``.

        Returns:
            bleu (Papineni et al. 2002) and chrf (Popović 2015) by sacrebleu, their signatures, and
            sentences.
        """
        pairs = self._tested(X, y, groups, allow_shared_groups)
        several = pairs.targets or []
        found = sacrebleu_scores(
            lambda: self.translate(pairs.inputs, **search), several, "BLEU", "CHRF"
        )
        return {**found, "sentences": len(pairs)}

    def score(self, X: Any, y: Any = None) -> float:
        """Return BLEU."""
        return float(self.evaluate(X, y)["bleu"])
