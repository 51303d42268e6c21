"""`ostinato.data.vocabulary`: text to ids and back, however the text is cut."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ostinato.data import vocabulary as vocabulary_module
from ostinato.data.vocabulary import (
    BPEVocabulary,
    ByteVocabulary,
    CharacterVocabulary,
    Vocabulary,
    WordVocabulary,
    build_vocabulary,
    word_tokens,
)
from ostinato.errors import DataError, MissingExtra, OstinatoError, require

LAW = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

ENGLISH = (
    "The theory of the thing is that the cat sat on the mat; then the other cat, the one that "
    "hadn't sat there, thought about it.\n\n  It's thus: 12 cats, 345 mats ...\r\n"
) * 3
MIXED = ENGLISH + "naïve “café” नमस्ते दुनिया 你好世界 👩‍🔬🏽 e\u0301 \U0001f600\u200d x_y\t\x00\n"

# Letters, marks, joiners, apostrophes, spaces of all kinds: everything a word's end depends on.
TEXT = st.text(max_size=12) | st.text(
    alphabet="aBé1_'\u2019 \n\t\r\xa0\u2028\x1c.,!\u0301\u093f\u200d你😀\x00", max_size=40
)
# Words and runs of spaces beyond the length of one token, and words full of marks.
LONG = st.builds(
    lambda parts: "".join(unit * n for unit, n in parts),
    st.lists(
        st.tuples(
            st.sampled_from(["a", " ", "\n", "a\u0301", "\u0301", "a'", "."]),
            st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 130]),
        ),
        max_size=5,
    ),
)


@functools.cache
def bpe() -> BPEVocabulary:
    return BPEVocabulary.train([MIXED], size=360)


def vocabulary_for(level: str, text: str) -> Vocabulary:
    """A vocabulary with a token for everything in a text."""
    if level == "bpe":
        return bpe()
    return build_vocabulary(level, text or "-")  # type: ignore[arg-type]


def cut(text: str, data: st.DataObject) -> list[str]:
    bounds = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[a:b] for a, b in pairwise([0, *bounds, len(text)])]


every_level = pytest.mark.parametrize("level", ["char", "byte", "word", "bpe"])


# Laws.


@every_level
@LAW
@given(TEXT | LONG)
@example(MIXED)
def test_decoding_gives_the_text_back(level: str, text: str) -> None:
    vocabulary = vocabulary_for(level, text)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int64 and ids.ndim == 1
    assert vocabulary.decode(ids) == text
    assert not ids.size or 0 <= ids.min() <= ids.max() < len(vocabulary)


@every_level
@LAW
@given(TEXT | LONG, st.data())
def test_pieces_give_the_ids_of_the_whole(level: str, text: str, data: st.DataObject) -> None:
    vocabulary = vocabulary_for(level, text)
    for pieces in (cut(text, data), list(text)):
        found = [int(i) for ids in vocabulary.encode_pieces(pieces) for i in ids]
        assert found == vocabulary.encode(text).tolist()


@every_level
def test_pieces_do_not_wait_for_the_end(level: str) -> None:
    """Memory stays constant even where the text has no white space at all."""
    vocabulary = vocabulary_for(level, "acgt" * 10_000)
    pieces = ["acgt" * 1000] * 20
    sizes = [len(vocabulary.decode(ids)) for ids in vocabulary.encode_pieces(pieces)]
    assert sum(sizes) == 80_000
    assert len(sizes) >= 20 and max(sizes) < 4_100


@every_level
@LAW
@given(TEXT)
def test_decoding_a_stream_gives_each_character_as_soon_as_it_is_there(
    level: str, text: str
) -> None:
    vocabulary = vocabulary_for(level, text)
    ids = vocabulary.encode(text).tolist()
    read = b""
    shown = ""

    def fed() -> Iterator[int]:
        nonlocal read
        for i in ids:
            # Whatever was complete before this id has been shown.
            assert shown == read.decode("utf-8", "ignore")
            read += vocabulary._tokens[i]
            yield i

    for piece in vocabulary.decode_stream(fed()):
        assert piece
        shown += piece
    assert shown == text


@LAW
@given(st.binary(max_size=30))
@example(b"\xe2\x82")
@example(b"\xf0\x9f\x98 \xff")
def test_bytes_that_are_no_text_are_replaced(content: bytes) -> None:
    for vocabulary in (ByteVocabulary(), bpe()):
        assert vocabulary.decode(list(content)) == content.decode("utf-8", "replace")


@every_level
@LAW
@given(TEXT)
@example(MIXED)
def test_stored_and_read_again(level: str, text: str) -> None:
    vocabulary = vocabulary_for(level, text)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert type(again) is type(vocabulary)
    assert again == vocabulary
    assert (len(again), again.unk_id) == (len(vocabulary), vocabulary.unk_id)
    assert again.encode(text).tolist() == vocabulary.encode(text).tolist()


# Words.


@LAW
@given(TEXT | LONG)
@example(MIXED)
def test_words_concatenated_are_the_text(text: str) -> None:
    words = word_tokens(text)
    assert "".join(words) == text
    assert all(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" ", [" "]),
        ("a  b", ["a", " ", " b"]),
        ("a b ", ["a", " b", " "]),
        ("don't 'quote' rock\u2019n\u2019roll dogs' x", [
            "don't", " '", "quote", "'", " rock\u2019n\u2019roll", " dogs", "'", " x"]),
        ("1.5, x_y (z)...", ["1", ".", "5", ",", " x_y", " (", "z", ")", ".", ".", "."]),
        ("one.\n\n  Two\r\n", ["one", ".", "\n\n ", " Two", "\r\n"]),
        ("नमस्ते दुनिया।", ["नमस्ते", " दुनिया", "।"]),
        ("cafe\u0301 u\u0308berlebensgroß", ["cafe\u0301", " u\u0308berlebensgroß"]),
        ("😀👩‍🔬 ok", ["😀", "👩\u200d", "🔬", " ok"]),
        ("a" * 130, ["a" * 64, "a" * 64, "aa"]),
        ("x" + "\n" * 70 + "y", ["x", "\n" * 64, "\n" * 6, "y"]),
    ],
)  # fmt: skip
def test_words_are_cut_as_documented(text: str, words: list[str]) -> None:
    assert word_tokens(text) == words


def test_words_have_ids_by_falling_count_then_text() -> None:
    vocabulary = build_vocabulary("word", ["b c", " b b a c a d"])
    words = [" a", " b", " c", " d", "b"]  # 2 2 2 1 1: the first "b" has no space before it
    assert vocabulary.to_json() == {"level": "word", "words": words, "unknown": "<unk>"}
    assert build_vocabulary("word", " z z z y y x").to_json()["words"] == [" z", " y", " x"]


def test_words_beyond_size_or_below_min_count_are_unknown() -> None:
    text = "x a a a b b c"
    assert build_vocabulary("word", text, size=3).to_json()["words"] == [" a", " b"]
    vocabulary = build_vocabulary("word", text, min_count=2, unknown="⁇")
    assert vocabulary.to_json()["words"] == [" a", " b"]
    assert (len(vocabulary), vocabulary.unk_id) == (3, 0)
    assert vocabulary.encode(" a c b zebra").tolist() == [1, 0, 2, 0]
    assert vocabulary.decode([1, 0]) == " a⁇"


def test_a_word_that_reads_like_the_unknown_one_keeps_its_own_id() -> None:
    vocabulary = build_vocabulary("word", "unk what", unknown="unk")
    assert vocabulary.encode("unk what never").tolist() == [2, 1, 0]


# Characters.


def test_characters_have_ids_by_code_point() -> None:
    text = "zzzaé你你\n😀b"
    vocabulary = build_vocabulary("char", [text[:3], text[3:]])
    characters = sorted(set(text))
    assert vocabulary.to_json()["characters"] == "".join(characters)
    assert vocabulary.encode(text).tolist() == [characters.index(c) for c in text]
    assert vocabulary.unk_id is None


@pytest.mark.parametrize(("stranger", "name"), [("q", "U\\+0071"), ("😀", "U\\+1F600")])
def test_a_strange_character_is_named_with_its_place(stranger: str, name: str) -> None:
    vocabulary = CharacterVocabulary("abcz")
    with pytest.raises(DataError, match=rf"'{stranger}' \({name}\) at position 3 .*unknown="):
        vocabulary.encode("abc" + stranger + "qq")
    with pytest.raises(DataError, match=rf"'{stranger}' \({name}\) at position 7 "):
        list(vocabulary.encode_pieces(["abc", "", "ab", "ca" + stranger]))


def test_strange_and_rare_characters_are_the_unknown_one_where_there_is_one() -> None:
    vocabulary = build_vocabulary("char", "aabbcé", min_count=2, unknown="<?>")
    assert (len(vocabulary), vocabulary.unk_id) == (3, 0)
    ids = vocabulary.encode("acbéq😀\x00")
    assert ids.tolist() == [1, 0, 2, 0, 0, 0, 0]
    assert vocabulary.decode(ids[:3]) == "a<?>b"
    assert build_vocabulary("char", "aaabbc", size=2, unknown="_").to_json()["characters"] == "a"


def test_an_unknown_token_that_is_a_character_of_the_text_is_one_token() -> None:
    vocabulary = build_vocabulary("char", "a?b", unknown="?")
    assert len(vocabulary) == 3
    assert vocabulary.decode(vocabulary.encode("a?c")) == "a??"


def test_characters_are_not_dropped_in_silence() -> None:
    for options in ({"min_count": 2}, {"size": 2}):
        with pytest.raises(OstinatoError, match=r"leave out . of 3 characters; give an unknown"):
            build_vocabulary("char", "aabbc", **options)  # type: ignore[arg-type]


def test_counts_are_those_of_the_whole_text() -> None:
    pieces = [MIXED[i : i + 7] for i in range(0, len(MIXED), 7)]
    assert vocabulary_module._count_characters(pieces) == Counter(MIXED)
    words = [word for some in vocabulary_module._words_of_pieces(pieces) for word in some]
    assert Counter(words) == Counter(word_tokens(MIXED))


# Byte-pair encoding, against the reference implementation and against a naive trainer.


def latin(word: str) -> str:
    return word.encode().decode("latin-1")


@functools.cache
def reference_bpe() -> tokenizers.Tokenizer:
    vocabulary = bpe()
    names = [token.decode("latin-1") for token in vocabulary._tokens]
    return tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[(names[a], names[b]) for a, b in vocabulary.merges],
        )
    )


@LAW
@given(TEXT | LONG | st.text(alphabet="thea cs'", max_size=60))
@example(MIXED)
def test_bpe_encodes_as_the_reference_does(text: str) -> None:
    expected = [i for word in word_tokens(text) for i in reference_bpe().encode(latin(word)).ids]
    assert bpe().encode(text).tolist() == expected


def naive_merges(text: str, n_merges: int) -> list[list[int]]:
    """Count all pairs, merge the most frequent one (of equals the lowest ids), start again."""
    words = Counter(tuple(word.encode()) for word in word_tokens(text))
    merges: list[list[int]] = []
    while len(merges) < n_merges:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        new = 256 + len(merges)
        merges.append(list(best))
        merged: Counter[tuple[int, ...]] = Counter()
        for word, count in words.items():
            out: list[int] = []
            i = 0
            while i < len(word):
                if word[i : i + 2] == best:
                    out.append(new)
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] += count
        words = merged
    return merges


def test_bpe_training_merges_the_most_frequent_pairs() -> None:
    assert BPEVocabulary.train([ENGLISH], size=300).merges == naive_merges(ENGLISH, 44)


def test_bpe_training_does_not_depend_on_the_cuts_and_is_repeatable() -> None:
    for size in (1, 7, 100):
        pieces = (MIXED[i : i + size] for i in range(0, len(MIXED), size))
        assert BPEVocabulary.train(pieces, size=360) == bpe()


def test_bpe_compresses_and_knows_every_byte() -> None:
    vocabulary = bpe()
    assert len(vocabulary) == 360 and vocabulary.unk_id is None
    assert len(vocabulary.encode(ENGLISH)) < len(ENGLISH) / 2
    assert [vocabulary._tokens[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    assert vocabulary.encode("Ω").tolist() == list("Ω".encode())
    assert len(build_vocabulary("bpe", MIXED, size=256)) == 256
    assert len(build_vocabulary("bpe", MIXED)) < 4096  # fewer where there is nothing to merge
    assert len(build_vocabulary("bpe", "ab ab cd", min_count=2)) == 257


def test_two_merges_may_make_the_same_token() -> None:
    merges = [[97, 98], [98, 99], [256, 99], [97, 257], [258, 100]]  # ab bc ab+c a+bc abc+d
    vocabulary = BPEVocabulary(merges)
    assert len(vocabulary) == 256 + 4
    assert vocabulary.token(258) == "abc" and vocabulary.token(259) == "abcd"
    assert vocabulary.encode("abcd").tolist() == [259]


def test_bpe_remembers_a_bounded_number_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_module, "_CACHED_WORDS", 10)
    vocabulary = BPEVocabulary(bpe().merges)
    assert vocabulary.encode(MIXED * 3).tolist() == bpe().encode(MIXED * 3).tolist()
    assert len(vocabulary._cache) <= 10


def test_bpe_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"needs tokenizers: pip install 'ostinato\[bpe\]'"):
        build_vocabulary("bpe", "some text")
    again = Vocabulary.from_json(bpe().to_json())  # what is trained needs it no more
    assert again.decode(again.encode(MIXED)) == MIXED


def test_what_an_extra_needs_itself_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_there.py").write_text("import what_it_needs_itself\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"^this test needs what_it_needs_itself: pip install"):
        require("half_there", "extra", "this test")


# Names, equality, mistakes.


def test_names_of_tokens_are_printable() -> None:
    names = [ByteVocabulary().token(i) for i in range(256)]
    assert len(set(names)) == 256
    assert all(name.isprintable() for name in names)
    assert CharacterVocabulary("\n é😀").token(0) == "\\n"
    assert CharacterVocabulary("\n é😀").token(3) == "😀"


def test_equality() -> None:
    assert CharacterVocabulary("ab") == CharacterVocabulary("ab")
    different = [
        CharacterVocabulary("ab"),
        CharacterVocabulary("ba"),
        CharacterVocabulary("ab", "?"),
        WordVocabulary(["a", "b"]),
        WordVocabulary(["b", "a"]),
        WordVocabulary(["a", "b"], "?"),
        ByteVocabulary(),
        BPEVocabulary([]),
        BPEVocabulary([[97, 98]]),
    ]
    for i, a in enumerate(different):
        for j, b in enumerate(different):
            assert (a == b) is (i == j)
    assert CharacterVocabulary("ab") != "ab"


@every_level
@pytest.mark.parametrize("ids", [[0, -1], [10_000], [0.5], ["a"], [None], np.zeros((2, 2), int)])
def test_an_id_that_is_none_is_refused(level: str, ids: object) -> None:
    with pytest.raises(OstinatoError, match=r"ids run from 0 to|is not an integer"):
        vocabulary_for(level, "some text").decode(ids)  # type: ignore[arg-type]


@every_level
@pytest.mark.parametrize("stray", ["\ud800", "\udcff"])
def test_half_a_character_is_refused(level: str, stray: str) -> None:
    if level != "word":
        vocabulary = vocabulary_for(level, "ab")
        with pytest.raises(DataError, match=f"U\\+{ord(stray):04X}, at position"):
            vocabulary.encode("ab" + stray)
    if level != "byte":
        with pytest.raises(DataError, match="lone surrogate"):
            build_vocabulary(level, "ab" + stray)  # type: ignore[arg-type]


@every_level
def test_only_text_is_encoded(level: str) -> None:
    with pytest.raises(OstinatoError, match="bytes"):
        vocabulary_for(level, "ab").encode(b"ab")  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["char", "word", "bpe"])
@pytest.mark.parametrize("source", ["", [], ["", ""]])
def test_an_empty_text_is_refused(level: str, source: object) -> None:
    with pytest.raises(DataError, match=f"build_vocabulary\\('{level}'\\): the text is empty"):
        build_vocabulary(level, source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("level", "options", "message"),
    [
        ("letter", {}, "level must be one of char, byte, word, bpe"),
        (["char"], {}, "level must be one of"),
        ("char", {"min_count": 0}, "min_count is 0"),
        ("char", {"min_count": 1.5}, "min_count is 1.5"),
        ("char", {"size": 0}, "size is 0; expected 1 or more"),
        ("char", {"size": 1, "unknown": "?"}, "size is 1; expected 2 or more"),
        ("char", {"unknown": ""}, "is no token"),
        ("word", {"size": 1}, "size is 1; expected 2 or more"),
        ("word", {"size": "9"}, "size is '9'"),
        ("word", {"min_count": 99}, "nothing occurs 99 times"),
        ("word", {"unknown": 3}, "unknown is 3"),
        ("bpe", {"size": 255}, "size is 255; expected 256 or more"),
        ("bpe", {"unknown": "?"}, "leave it out"),
        ("byte", {"unknown": "?"}, "leave it out"),
        ("byte", {"size": 10}, "always has 256 tokens"),
        ("byte", {"min_count": 2}, "always has 256 tokens"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    level: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(OstinatoError, match=message):
        build_vocabulary(level, "a b c", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"level": "letter"},
        {"level": ["char"]},
        {"level": "char"},
        {"level": "char", "characters": "ab"},
        {"level": "char", "characters": "ab", "unknown": None, "more": 1},
        {"level": "char", "characters": "", "unknown": None},
        {"level": "char", "characters": "aa", "unknown": None},
        {"level": "char", "characters": "ab", "unknown": "b"},
        {"level": "char", "characters": "ab", "unknown": 1},
        {"level": "char", "characters": "ab", "unknown": ""},
        {"level": "char", "characters": ["a", "b"], "unknown": None},
        {"level": "char", "characters": 7, "unknown": None},
        {"level": "char", "characters": "\ud800", "unknown": None},
        {"level": "byte", "size": 256},
        {"level": "word", "words": "ab", "unknown": "<unk>"},
        {"level": "word", "words": [], "unknown": "<unk>"},
        {"level": "word", "words": ["a", "a"], "unknown": "<unk>"},
        {"level": "word", "words": ["a", ""], "unknown": "<unk>"},
        {"level": "word", "words": ["a", 1], "unknown": "<unk>"},
        {"level": "word", "words": ["a", ["b"]], "unknown": "<unk>"},
        {"level": "word", "words": ["a"], "unknown": None},
        {"level": "word", "words": {"a": 1}, "unknown": "<unk>"},
        {"level": "bpe", "merges": None},
        {"level": "bpe", "merges": "ab"},
        {"level": "bpe", "merges": [[1]]},
        {"level": "bpe", "merges": ["ab"]},
        {"level": "bpe", "merges": [[0, 256]]},
        {"level": "bpe", "merges": [[-1, 0]]},
        {"level": "bpe", "merges": [[1.0, 0]]},
        {"level": "bpe", "merges": [[True, 0]]},
        {"level": "bpe", "merges": [[97, 98], [97, 98]]},
    ],
)
def test_a_malformed_description_is_refused(data: object) -> None:
    with pytest.raises(OstinatoError):
        Vocabulary.from_json(data)  # type: ignore[arg-type]


def test_text_and_vocabularies_need_neither_torch_nor_tokenizers() -> None:
    program = (
        "import sys, ostinato.data.text, ostinato.data.vocabulary\n"
        "assert not {'torch', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
