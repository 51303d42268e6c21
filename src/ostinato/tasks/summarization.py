"""Summarization: train on documents and their summaries, and summarise others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ostinato.networks.attention import AttentionKind
from ostinato.tasks.writing import WritingEstimator


@dataclass(kw_only=True, eq=False, repr=False)
class Summarizer(WritingEstimator):
    """A recurrent encoder and decoder that learns to summarise, and may copy words (See 2017).

    Settings and attributes are those of `WritingEstimator`.

    Example:
        >>> X = [f"the {word} is here and there" for word in ["sun", "sea", "sky"]] * 6
        >>> y = [text.split()[1] for text in X]
        >>> model = Summarizer(hidden_size=32, epochs=10, level="word", coverage=False).fit(X, y)
        >>> len(model.predict(X[:2]))
        2
    """

    attention: AttentionKind = "additive"
    coverage: bool = True
    copying: bool = True

    def evaluate(
        self,
        X: Any,
        y: Any = None,
        *,
        groups: Any = None,
        allow_shared_groups: bool = False,
        **search: Any,
    ) -> dict[str, Any]:
        """Measure summaries by known ones, beside the document's first sentence.

        Data are as in `fit`, of several summaries the one that agrees best counts; ``search`` is as
        in `write`.

        Returns:
            rouge1, rouge2, rougeL: F1 of words, of pairs of words and of the longest common
            subsequence (Lin 2004), 0 to 100; the same of the document's first sentence, as
            lead_rouge1, ...; documents.
        """
        pairs = self._tested(X, y, groups, allow_shared_groups)
        references = pairs.targets or []
        written = self.predict(pairs.inputs, **{"no_repeat": 3, **search})
        lead = [first_sentence(source) for source in pairs.inputs]
        found: dict[str, Any] = {}
        for name, texts in (("", written), ("lead_", lead)):
            scores = [rouge(text, refs) for text, refs in zip(texts, references, strict=True)]
            for key in scores[0]:
                found[name + key] = 100 * sum(s[key] for s in scores) / len(scores)
        return {**found, "documents": len(written)}

    def score(self, X: Any, y: Any = None) -> float:
        """Return ROUGE-L."""
        return float(self.evaluate(X, y)["rougeL"])


def first_sentence(text: str) -> str:
    """The text up to the first full stop that ends a sentence.

    >>> first_sentence("It is 3.5 m long. It is old.")
    'It is 3.5 m long.'
    """
    end = re.search(r"[.!?](?=\s|$)", text)
    return text[: end.end()] if end else text


def rouge(text: str, references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F1 from 0 to 1, against the reference that agrees best by each.

    C.-Y. Lin 2004, "ROUGE: a package for automatic evaluation of summaries"; words are runs of
    letters and digits in lower case, not stemmed.

    >>> found = rouge("the cat sat", ["the cat lay", "a dog"])
    >>> round(found["rouge1"], 3), found["rouge2"], round(found["rougeL"], 3)
    (0.667, 0.5, 0.667)
    """
    best = {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    words = _words(text)
    for expected in map(_words, references):
        found = {"rougeL": _f1(_common(words, expected), len(words), len(expected))}
        for n in (1, 2):
            ours, theirs = (
                Counter(tuple(some[i : i + n]) for i in range(len(some) - n + 1))
                for some in (words, expected)
            )
            found[f"rouge{n}"] = _f1((ours & theirs).total(), ours.total(), theirs.total())
        best = {name: max(value, found[name]) for name, value in best.items()}
    return best


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
