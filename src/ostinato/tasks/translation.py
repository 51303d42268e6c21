"""Translation: train on texts and their translations, and translate others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ostinato.errors import require
from ostinato.tasks.writing import WritingEstimator


@dataclass(kw_only=True, eq=False, repr=False)
class Translator(WritingEstimator):
    """A recurrent encoder and decoder with attention that learns to translate.

    Settings are those of `WritingEstimator`, `NetworkSettings`, `PairSettings` and
    `TrainingSettings`.

    Attributes, beside those of `Estimator`:
        vocabulary_: tokens of the target.
        source_vocabulary_: tokens of the source; the same where they are shared.

    Example:
        >>> X = ["one two", "two one", "one", "two", "two two", "one one"] * 8
        >>> y = [text.replace("one", "eins").replace("two", "zwei") for text in X]
        >>> model = Translator(hidden_size=32, epochs=30, level="word", learning_rate=0.01,
        ...                    dropout=0.0, label_smoothing=0.0).fit(X, y)
        >>> model.translate(["two one"])
        ['zwei eins']
    """

    def translate(
        self, X: Any, *, beam: int = 5, length_penalty: float = 1.0, **search: Any
    ) -> list[str]:
        """Return the best translation of each text; further arguments are those of `write`."""
        found = self.write(X, beam=beam, length_penalty=length_penalty, **search)
        return [several[0].text for several in found]

    def evaluate(self, X: Any, y: Any = None, **search: Any) -> dict[str, Any]:
        """Measure translations by known ones. Needs ``ostinato[translation]``.

        Args:
            X: as in `fit`.
            y: as in `fit`.
            search: as in `write`.

        Returns:
            bleu (Papineni et al. 2002) and chrf (Popović 2015) by sacrebleu, their signatures, and
            sentences.
        """
        sacrebleu = require("sacrebleu", "translation", "BLEU and chrF")
        pairs = self._labelled(X, y)
        written = self.translate(pairs.inputs, **search)
        several = pairs.targets or []
        most = max(map(len, several))
        references = [[t[k] if k < len(t) else None for t in several] for k in range(most)]
        bleu, chrf = sacrebleu.BLEU(force=True), sacrebleu.CHRF()
        return {
            "bleu": float(bleu.corpus_score(written, references).score),
            "chrf": float(chrf.corpus_score(written, references).score),
            "bleu_signature": str(bleu.get_signature()),
            "chrf_signature": str(chrf.get_signature()),
            "sentences": len(written),
        }

    def score(self, X: Any, y: Any = None) -> float:
        """Return BLEU."""
        return float(self.evaluate(X, y)["bleu"])
