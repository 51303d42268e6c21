"""Times of words, errors beside a reference, thresholds for a rate of false alarms."""

import itertools

import numpy as np
import pytest

from ostinato.data.places import Place
from ostinato.data.vocabulary import BPEVocabulary, CharacterVocabulary, build_vocabulary
from ostinato.errors import OstinatoError
from ostinato.networks.alignment import Span
from ostinato.networks.decoding import edit_distance
from ostinato.tasks.transcripts import (
    Calibration,
    Comparison,
    Hit,
    aligned,
    count_phrase,
    error_rates,
    timed_words,
)

PLACE = Place("a.wav")


def test_alignments_hold_both_texts_and_the_fewest_errors():
    random = np.random.default_rng(0)
    for _ in range(100):
        a, b = ("".join(random.choice(list("abc"), random.integers(0, 7))) for _ in range(2))
        pairs = aligned(a, b)
        assert "".join(x for x, _ in pairs if x) == a
        assert "".join(y for _, y in pairs if y) == b
        assert sum(x != y for x, y in pairs) == edit_distance(a, b)


def test_an_alignment_is_shown_in_lines_that_fit():
    shown = Comparison(PLACE, "one two three four", "two tree four five")
    assert shown.kinds == {"": 2, "D": 1, "S": 1, "I": 1} and shown.errors == 3
    assert str(shown).splitlines() == [
        "a.wav: 1 substitution, 1 deletion, 1 insertion",
        "REF:   one  two  three  four  ****",
        "HYP:   ***  two  tree   four  five",
        "Eval:  D         S            I",
    ]
    lines = shown.lines(width=22)
    assert max(map(len, lines)) == 22 and len(lines) == 6
    assert lines[0] == "REF:   one  two  three" and lines[-3] == "REF:   four  ****"
    assert Comparison(PLACE, "", "").lines() == []


def test_error_rates_are_sums_over_all_recordings():
    compared = [Comparison(PLACE, "ab cd", "ab xd"), Comparison(PLACE, "e", "e f")]
    found = error_rates(compared)
    assert found["cer"] == pytest.approx(3 / 6) and found["wer"] == pytest.approx(2 / 3)
    assert [found[k] for k in ("substitutions", "deletions", "insertions")] == [1, 0, 1]
    assert (found["words"], found["exact"], found["recordings"]) == (3, 0.0, 2)
    assert error_rates([])["wer"] == 0


@pytest.mark.parametrize("level", ["char", "bpe", "word"])
def test_words_are_timed_whatever_the_tokens_are(level):
    text = "so it is"
    if level == "char":
        vocabulary = CharacterVocabulary(" iost")
    elif level == "bpe":
        vocabulary = BPEVocabulary([[115, 111], [32, 105]])
    else:
        vocabulary = build_vocabulary(level, [text])
    tokens = vocabulary.encode(text).tolist()
    # Each token takes the steps of its letters, two a letter.
    ends = np.cumsum([0, *(2 * len(vocabulary.bytes_of(token)) for token in tokens)])
    spans = [Span(int(a), int(b), 0.5) for a, b in itertools.pairwise(ends)]
    words = timed_words(vocabulary, tokens, spans, 0.03)
    assert [word.text for word in words] == ["so", "it", "is"]
    assert [word.end for word in words] == pytest.approx([0.12, 0.3, 0.48])
    begins = [0.0, 0.18, 0.36] if level == "char" else [0.0, 0.12, 0.3]
    assert [word.start for word in words] == pytest.approx(begins)
    assert all(word.probability == pytest.approx(0.5) for word in words)


def test_a_threshold_is_the_lowest_that_keeps_to_the_rate():
    random = np.random.default_rng(0)
    phrases, texts = ["a", "b"], [" ".join(random.choice(list("abc"), 3)) for _ in range(20)]
    hits = [
        Hit(phrase, i, PLACE, t, t + 1, round(float(random.random()), 3))
        for phrase in phrases
        for i in range(len(texts))
        for t in range(2)
    ]

    def measured(threshold):
        alarms = missed = 0
        for phrase in phrases:
            for i, text in enumerate(texts):
                said = text.split().count(phrase)
                found = sum(
                    h.score >= threshold for h in hits if (h.phrase, h.recording) == (phrase, i)
                )
                alarms, missed = alarms + max(0, found - said), missed + max(0, said - found)
        return alarms, missed

    for rate in (0.0, 1.0, 2.5, 10.0, 1000.0):
        found = Calibration.of(phrases, hits, texts, 2.0, rate)
        assert (found.false_alarms, found.missed) == measured(found.threshold)
        assert found.false_alarms <= 2 * rate
        assert found.said == sum(text.count(phrase) for text in texts for phrase in phrases)
        below = [hit.score for hit in hits if hit.score < found.threshold]
        assert not below or measured(max(below))[0] > 2 * rate
    assert "missed" in str(found)
    nothing = Calibration.of(["a"], [], ["a"], 1.0, 1.0)
    assert (nothing.missed, nothing.said, nothing.false_alarms) == (1, 1, 0)
    with pytest.raises(OstinatoError, match=r"hours=0.*expected a number above zero"):
        Calibration.of(["a"], [], [], 0.0, 1.0)


def test_phrases_are_counted_as_whole_words():
    assert count_phrase("one two one  two one", "one  two") == 2
    assert count_phrase("someone", "one") == 0
