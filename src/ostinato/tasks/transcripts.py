"""What is known of a transcript: times of its words, errors by a reference, phrases found in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ostinato.data.places import Place
from ostinato.data.vocabulary import Vocabulary
from ostinato.errors import OstinatoError
from ostinato.networks.alignment import Span
from ostinato.networks.decoding import edit_distance

T = TypeVar("T")


class TimedWord(NamedTuple):
    """A word and when it is said.

    Attributes:
        text: the word.
        start, end: in seconds; of series that are not sound, in steps.
        probability: the geometric mean, over its tokens, of the highest probability of each.
    """

    text: str
    start: float
    end: float
    probability: float


def timed_words(
    vocabulary: Vocabulary, tokens: Sequence[int], spans: Sequence[Span], unit: float
) -> list[TimedWord]:
    """Return the words that tokens make, and when each is said; a step takes ``unit`` seconds.

    Tokens may be characters, words, or pieces of either, with white space anywhere.
    """
    found: list[TimedWord] = []
    word, own = b"", list[Span]()

    def end() -> None:
        nonlocal word, own
        if word:
            p = float(np.exp(np.mean([np.log(max(span.probability, 1e-300)) for span in own])))
            start, stop = own[0].begin * unit, own[-1].end * unit
            text = word.decode("utf-8", "replace")
            found.append(TimedWord(text, round(start, 4), round(stop, 4), p))
        word, own = b"", []

    for token, span in zip(tokens, spans, strict=True):
        for part in re.split(rb"(\s+)", vocabulary.bytes_of(token)):
            if part.isspace():
                end()
            elif part:
                word += part
                own = [*own, span]
    end()
    return found


def aligned(reference: Sequence[T], hypothesis: Sequence[T]) -> list[tuple[T | None, T | None]]:
    """Align two sequences by the fewest substitutions, deletions and insertions.

    Pairs of what stands in both; None where it is missing, in the reference (an insertion) or in
    the hypothesis (a deletion). Takes a byte for each pair of items.

    >>> aligned("a b c".split(), "a x c d".split())
    [('a', 'a'), ('b', 'x'), ('c', 'c'), (None, 'd')]
    """
    number: dict[T, int] = {}
    ids, guesses = (
        np.array([number.setdefault(item, len(number)) for item in each], dtype=np.int64)
        for each in (reference, hypothesis)
    )
    i, j = len(ids), len(guesses)
    places = np.arange(j + 1)
    cost = places  # of each beginning of the hypothesis, for none of the reference
    moves = np.full((i + 1, j + 1), _INSERTION, dtype=np.int8)
    for row, item in enumerate(ids, 1):
        both, deletion = cost[:-1] + (guesses != item), cost + 1
        best = deletion.copy()
        best[1:] = np.minimum(best[1:], both)
        cost = np.minimum.accumulate(best - places) + places  # insertions after the best
        moves[row, cost == deletion] = _DELETION
        moves[row, 1:][cost[1:] == both] = _BOTH
    pairs: list[tuple[T | None, T | None]] = []
    while i or j:
        move = moves[i, j]
        i, j = i - (move != _INSERTION), j - (move != _DELETION)
        pairs.append((
            None if move == _INSERTION else reference[i],
            None if move == _DELETION else hypothesis[j],
        ))  # fmt: skip
    return pairs[::-1]


_BOTH, _DELETION, _INSERTION = range(3)


class Comparison(NamedTuple):
    """A transcript beside the true text.

    Attributes:
        place: where the recording was read.
        reference, hypothesis: the true text, and the transcript.

    Example:
        >>> print(Comparison(Place("a.wav"), "one two three", "one ten three four"))
        a.wav: 1 substitution, 0 deletions, 1 insertion
        REF:   one  two  three  ****
        HYP:   one  ten  three  four
        Eval:       S           I
    """

    place: Place
    reference: str
    hypothesis: str

    @property
    def words(self) -> list[tuple[str | None, str | None]]:
        """The words of both, aligned; see `aligned`."""
        return aligned(self.reference.split(), self.hypothesis.split())

    @property
    def kinds(self) -> Counter[str]:
        """How many words are right (empty), substituted (S), deleted (D) and inserted (I)."""
        return Counter(_kind(*pair) for pair in self.words)

    @property
    def errors(self) -> int:
        """Words that are substituted, deleted or inserted."""
        return sum(count for kind, count in self.kinds.items() if kind)

    def lines(self, width: int = 80) -> list[str]:
        """Return the alignment in lines of at most a width, if no word is longer."""
        columns = []
        for pair in self.words:
            size = max(len(word) for word in pair if word is not None)
            shown = ["*" * size if word is None else word for word in pair]
            columns.append([cell.ljust(size) for cell in (*shown, _kind(*pair))])
        lines, some = [], list[list[str]]()
        for column in [*columns, None]:
            used = sum(len(cells[0]) + 2 for cells in some)
            if some and (column is None or 7 + used + len(column[0]) > width):
                for head, cells in zip(
                    ("REF:", "HYP:", "Eval:"), zip(*some, strict=True), strict=True
                ):
                    lines.append(f"{head:<7}{'  '.join(cells)}".rstrip())
                some = []
            if column is not None:
                some.append(column)
        return lines

    @property
    def headline(self) -> str:
        """The place, and how many errors of each kind there are."""
        kinds = self.kinds
        names = {"S": "substitution", "D": "deletion", "I": "insertion"}
        counted = [f"{kinds[k]} {name}{'s' * (kinds[k] != 1)}" for k, name in names.items()]
        return f"{self.place}: {', '.join(counted)}"

    def __str__(self) -> str:
        return "\n".join([self.headline, *self.lines()])


def _kind(reference: str | None, hypothesis: str | None) -> str:
    if reference == hypothesis:
        return ""
    return "I" if reference is None else "D" if hypothesis is None else "S"


def error_rates(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """Return the errors of transcripts a character and a word, and their kinds.

    Returns:
        cer, wer: substitutions, deletions and insertions over the length of the true texts;
        substitutions, deletions, insertions of words; words of the true texts; exact, the share
        of transcripts without any error; recordings.
    """
    listed = list(comparisons)
    kinds = sum((each.kinds for each in listed), Counter[str]())
    letters = sum(edit_distance(each.reference, each.hypothesis) for each in listed)
    words = sum(len(each.reference.split()) for each in listed)
    length = sum(len(each.reference) for each in listed)
    return {
        "cer": letters / max(1, length),
        "wer": sum(kinds[k] for k in "SDI") / max(1, words),
        "substitutions": kinds["S"],
        "deletions": kinds["D"],
        "insertions": kinds["I"],
        "words": words,
        "exact": float(np.mean([e.hypothesis == e.reference for e in listed])) if listed else 0.0,
        "recordings": len(listed),
    }


class Hit(NamedTuple):
    """A place where a phrase is said, perhaps.

    Attributes:
        phrase: the phrase.
        recording: number of the recording, from 0.
        place: where the recording was read.
        start, end: in seconds; of series that are not sound, in steps.
        score: the probability, by the model, that it is said there.
    """

    phrase: str
    recording: int
    place: Place
    start: float
    end: float
    score: float


class Calibration(NamedTuple):
    """A threshold for the score of hits, and what it does on the data that it was chosen by.

    Attributes:
        threshold: lowest score that counts.
        false_alarms: hits in recordings in which the phrase is not said, or said less often.
        missed: times that a phrase is said and not found.
        said: times that a phrase is said.
        hours: of the recordings.
    """

    threshold: float
    false_alarms: int
    missed: int
    said: int
    hours: float

    @classmethod
    def of(
        cls,
        phrases: Sequence[str],
        hits: Sequence[Hit],
        texts: Sequence[str],
        hours: float,
        false_alarms_per_hour: float,
    ) -> Calibration:
        """Return the lowest threshold that keeps to a rate of false alarms.

        Args:
            phrases: what is searched for.
            hits: of all phrases in all recordings, however low their score.
            texts: what is said in each recording.
            hours: of the recordings.
            false_alarms_per_hour: hits an hour of all phrases together that may be wrong.
        """
        if hours <= 0 or not false_alarms_per_hour >= 0:
            raise OstinatoError(
                f"Calibration: hours={hours}, false_alarms_per_hour={false_alarms_per_hour}; "
                "expected a number above zero, and zero or more."
            )
        allowed = int(false_alarms_per_hour * hours + 1e-9)
        said = {
            (phrase, recording): count_phrase(text, phrase)
            for phrase in phrases
            for recording, text in enumerate(texts)
        }
        left, right, wrong = dict(said), list[float](), list[float]()
        for hit in sorted(hits, key=lambda hit: -hit.score):
            key = hit.phrase, hit.recording
            (right if left[key] > 0 else wrong).append(hit.score)
            left[key] -= 1
        # The next score above that of the first false alarm too many; of none, any score will do.
        bound = wrong[allowed] if len(wrong) > allowed else 0.0
        above = [score for score in [*right, *wrong] if score > bound]
        threshold = min(above, default=float(np.nextafter(bound, 2)))
        total = sum(said.values())
        found = sum(score >= threshold for score in right)
        alarms = sum(score >= threshold for score in wrong)
        return cls(threshold, alarms, total - found, total, hours)

    def __str__(self) -> str:
        return (
            f"threshold {self.threshold:.3g}: {self.false_alarms} false alarms in "
            f"{60 * self.hours:.1f} minutes, {self.missed} of {self.said} missed"
        )


def count_phrase(text: str, phrase: str) -> int:
    """Count how often a phrase is said in a text, as whole words.

    >>> count_phrase("one two one two one", "one two"), count_phrase("someone", "one")
    (2, 0)
    """
    words, sought = text.split(), phrase.split()
    return sum(words[i : i + len(sought)] == sought for i in range(len(words) - len(sought) + 1))
