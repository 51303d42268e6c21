"""Text to token ids and back: by character, byte, word or subword.

A token is a short run of UTF-8 bytes, so that decoding is the same few lines for every level; the
levels differ in how they cut a text into tokens.
"""

from __future__ import annotations

import codecs
import functools
import json
import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, ClassVar, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ostinato.errors import DataError, OstinatoError, require

Level: TypeAlias = Literal["char", "byte", "word", "bpe"]
Ids: TypeAlias = NDArray[np.int64]

_BYTES = [bytes([byte]) for byte in range(256)]
_WORD_LIMIT = 64  # characters of one word, or one run of spaces, that make a single token
_BPE_SIZE = 4096  # tokens, where the caller gives no size
_BPE_BYTES = 1 << 25  # of all tokens together, at most
_CACHED_WORDS = 1 << 17  # words whose subwords a BPEVocabulary remembers


class Vocabulary:
    """A fixed set of V tokens, and how to cut a text into them.

    Ids run from 0 to V - 1. One token need not be valid UTF-8 by itself (a byte of a longer
    character), so decode ids together, or with `decode_stream`.

    Attributes:
        level: ``"char"``, ``"byte"``, ``"word"`` or ``"bpe"``.
        unk_id: id of the token for whatever is not in the vocabulary; None if there is none.
    """

    level: ClassVar[Level]
    _fields: ClassVar[tuple[str, ...]] = ()  # arguments of __init__, which are stored

    def __init__(self, tokens: Sequence[bytes], unk_id: int | None = None) -> None:
        self._tokens = tokens
        self.unk_id = unk_id

    def encode(self, text: str) -> Ids:
        """Token ids of a text: int64 of shape (T,).

        A character that has no token, where none stands for unknown ones, is a `DataError`.
        """
        return np.concatenate([*self.encode_pieces([text]), np.zeros(0, dtype=np.int64)])

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[Ids]:
        """Token ids of a text that comes in pieces, in constant memory.

        Wherever the text is cut, the arrays concatenated equal `encode` of the whole: a token that
        the next piece might still change is kept back until it comes.
        """
        return (ids for _, ids in self.encode_counted(pieces))

    def encode_counted(self, pieces: Iterable[str]) -> Iterator[tuple[int, Ids]]:
        """As `encode_pieces`, with the number of characters that the ids of each array stand for.

        After them the text may be taken up again: what comes then has the same ids.
        """
        return ((sum(map(len, words)), self._ids(words)) for words in _words_of_pieces(pieces))

    def _ids(self, words: list[str]) -> Ids:
        """Return the ids of whole words, see `word_tokens`."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids from 0 to V - 1; bytes that are not UTF-8 come out as U+FFFD."""
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids that come one at a time: each piece as soon as it is complete.

        The pieces concatenated equal `decode`; a character of several tokens comes with its last.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            if piece := decoder.decode(self.bytes_of(i)):
                yield piece
        if piece := decoder.decode(b"", final=True):
            yield piece

    def token(self, i: int) -> str:
        r"""A printable name of token `i`: control characters and stray bytes are escaped.

        >>> ByteVocabulary().token(10), ByteVocabulary().token(65), ByteVocabulary().token(255)
        ('\\n', 'A', '\\xff')
        """
        text = self.bytes_of(i).decode("utf-8", "backslashreplace")
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    def bytes_of(self, i: int) -> bytes:
        """The bytes of token ``i``."""
        try:
            index = operator.index(i)
        except TypeError:
            raise OstinatoError(
                f"{self!r}: id {i!r} is not an integer; expected a sequence of integer ids."
            ) from None
        if not 0 <= index < len(self._tokens):
            raise OstinatoError(
                f"{self!r}: there is no token {index}; ids run from 0 to {len(self) - 1}."
            )
        return self._tokens[index]

    def to_json(self) -> dict[str, Any]:
        """The vocabulary as plain JSON values."""
        return {"level": self.level, **{name: getattr(self, name) for name in self._fields}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `to_json` described; an `OstinatoError` if that is malformed.

        >>> Vocabulary.from_json({"level": "char", "characters": "abc", "unknown": None})
        CharacterVocabulary(V=3)
        """
        if not isinstance(data, Mapping) or str(data.get("level")) not in _LEVELS:
            raise OstinatoError(
                f"Vocabulary.from_json: expected an object whose 'level' is one of "
                f"{', '.join(_LEVELS)}; got {data!r:.80}."
            )
        kind = _LEVELS[str(data["level"])]
        if set(data) != {"level", *kind._fields}:
            raise OstinatoError(
                f"Vocabulary.from_json: a vocabulary of level {kind.level!r} has the keys "
                f"{', '.join(['level', *kind._fields])}; got {', '.join(map(str, data))}."
            )
        return kind(**{name: data[name] for name in kind._fields})

    def __len__(self) -> int:
        """V, the number of tokens."""
        return len(self._tokens)

    def __eq__(self, other: object) -> bool:
        """Whether both give every text the same ids."""
        return isinstance(other, Vocabulary) and self.to_json() == other.to_json()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(V={len(self)})"


class CharacterVocabulary(Vocabulary):
    """One token for each character (Unicode code point).

    Args:
        characters: the characters, each once, in the order of their ids.
        unknown: the text, none of them, of an unknown token, which then has id 0 and stands for
            every other character; None to refuse other characters.

    >>> vocabulary = CharacterVocabulary("abc")
    >>> vocabulary.encode("cab")
    array([2, 0, 1])
    >>> vocabulary.decode([2, 0, 1])
    'cab'
    """

    level = "char"
    _fields = ("characters", "unknown")

    def __init__(self, characters: str, unknown: str | None = None) -> None:
        known = list(characters) if isinstance(characters, str) else characters
        tokens = _text_tokens(self, known, unknown)
        self.characters = characters
        self.unknown = unknown
        super().__init__(tokens, None if unknown is None else 0)
        codes = _code_points(characters)
        # The last entry is for every code point beyond the table.
        self._table = np.full(int(codes.max()) + 2, -1 if unknown is None else 0, dtype=np.int64)
        self._table[codes] = np.arange(len(tokens) - len(codes), len(tokens))

    def encode_counted(self, pieces: Iterable[str]) -> Iterator[tuple[int, Ids]]:
        position = 0
        for text in pieces:
            ids: Ids = self._table.take(_code_points(text, position), mode="clip")
            if self.unk_id is None and ids.size and ids.min() < 0:
                i = int(np.argmin(ids))  # the first of the lowest, -1
                raise DataError(
                    f"{self!r}.encode: {text[i]!r} (U+{ord(text[i]):04X}) at position "
                    f"{position + i} is not among its {len(self)} characters; take it out of the "
                    "text, or build the vocabulary with an unknown token, unknown='<unk>'."
                )
            yield len(text), ids
            position += len(text)


class ByteVocabulary(Vocabulary):
    """The 256 bytes: any text at all in UTF-8, with no unknown token; id = byte.

    >>> ByteVocabulary().encode("é")
    array([195, 169])
    """

    level = "byte"

    def __init__(self) -> None:
        super().__init__(_BYTES)

    def encode_counted(self, pieces: Iterable[str]) -> Iterator[tuple[int, Ids]]:
        for text in pieces:
            ids = np.frombuffer(_encoded(text, "utf-8"), dtype=np.uint8).astype(np.int64)
            yield len(text), ids


class WordVocabulary(Vocabulary):
    """One token for each word, as `word_tokens` cuts them; id 0 is the unknown word.

    Args:
        words: the words, each once, by their ids from 1; a space before a word is part of it.
        unknown: the text that the unknown word decodes to.

    >>> vocabulary = WordVocabulary(["the", " cat", " sat"])
    >>> vocabulary.encode("the dog sat")
    array([1, 0, 3])
    >>> vocabulary.decode([1, 0, 3])
    'the<unk> sat'
    """

    level = "word"
    _fields = ("words", "unknown")

    def __init__(self, words: Sequence[str], unknown: str = "<unk>") -> None:
        if not isinstance(unknown, str):
            raise OstinatoError(f"WordVocabulary: unknown is {unknown!r}; expected a string.")
        tokens = _text_tokens(self, words, unknown)
        self.words = list(words)
        self.unknown = unknown
        super().__init__(tokens, 0)
        self._id_of = {word: i for i, word in enumerate(self.words, start=1)}

    def _ids(self, words: list[str]) -> Ids:
        id_of = self._id_of.get
        return np.fromiter((id_of(word, 0) for word in words), dtype=np.int64, count=len(words))


class BPEVocabulary(Vocabulary):
    """Subwords by byte-level byte-pair encoding: any text at all, with no unknown token.

    Ids 0 to 255 are the bytes. Each word (see `word_tokens`) starts as its UTF-8 bytes; then, again
    and again, the leftmost pair of neighbours that stands first in `merges` becomes one token.
    Sennrich, Haddow, Birch (2016), Neural Machine Translation of Rare Words with Subword Units;
    over bytes as in Radford et al. (2019), Language Models are Unsupervised Multitask Learners.

    Args:
        merges: pairs of ids, each once, the most important first; each makes the next free id,
            unless its text is a token already.

    >>> vocabulary = BPEVocabulary([[116, 104], [256, 101]])  # t + h, th + e
    >>> vocabulary.encode("the then")
    array([257,  32, 257, 110])
    >>> vocabulary.token(257)
    'the'
    """

    level = "bpe"
    _fields = ("merges",)

    def __init__(self, merges: Sequence[Sequence[int]]) -> None:
        tokens = list(_BYTES)
        id_of = {token: i for i, token in enumerate(tokens)}
        self._joined: dict[tuple[int, int], tuple[int, int]] = {}  # pair to (rank, id of the two)
        if isinstance(merges, str) or not isinstance(merges, Sequence):
            raise OstinatoError(f"BPEVocabulary: merges is {merges!r:.80}; expected pairs.")
        room = _BPE_BYTES
        for rank, merge in enumerate(merges):
            pair = tuple(merge) if isinstance(merge, list | tuple) else ()
            if len(pair) != 2 or not all(type(i) is int and 0 <= i < len(tokens) for i in pair):
                raise OstinatoError(
                    f"BPEVocabulary: merge {rank} is {merge!r:.80}; expected two ids "
                    f"below {len(tokens)}, the number of tokens made before it."
                )
            if pair in self._joined:
                raise OstinatoError(f"BPEVocabulary: merge {rank}, {pair}, occurs a second time.")
            room -= len(tokens[pair[0]]) + len(tokens[pair[1]])
            if room < 0:  # each may be twice as long as the one before
                raise OstinatoError(
                    f"BPEVocabulary: the tokens up to merge {rank} have more than "
                    f"{_BPE_BYTES:,} bytes."
                )
            both = tokens[pair[0]] + tokens[pair[1]]
            if both not in id_of:
                id_of[both] = len(tokens)
                tokens.append(both)
            self._joined[pair] = (rank, id_of[both])
        super().__init__(tokens)
        self.merges = [list(merge) for merge in merges]
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls, pieces: Iterable[str], size: int = _BPE_SIZE, min_count: int = 1
    ) -> BPEVocabulary:
        """Learn the merges from a text. Needs ``ostinato[bpe]``; a trained vocabulary does not.

        Args:
            pieces: the text, in pieces cut anywhere.
            size: the target V, 256 or more; fewer where the text has no more pairs to merge.
            min_count: occurrences a pair must have in the text to be merged.
        """
        _check_size("BPEVocabulary.train", size, 256, "the 256 bytes")
        tokenizers = require("tokenizers", "bpe", "training a BPE vocabulary")
        # One character of Latin-1 stands for one byte, so that nothing has to be escaped.
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=min_count,
            initial_alphabet=[byte.decode("latin-1") for byte in _BYTES],
            show_progress=False,
        )
        texts = (
            [_encoded(word, "utf-8").decode("latin-1") for word in words]
            for words in _words_of_pieces(pieces)
        )
        tokenizer.train_from_iterator(texts, trainer)
        id_of = {byte: i for i, byte in enumerate(_BYTES)}
        merges = []
        for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
            left, right = left.encode("latin-1"), right.encode("latin-1")
            merges.append([id_of[left], id_of[right]])
            id_of.setdefault(left + right, len(id_of))
        return cls(merges)

    def _ids(self, words: list[str]) -> Ids:
        cache, ids = self._cache, list[int]()
        for word in words:
            known = cache.get(word)
            if known is None:
                if len(cache) >= _CACHED_WORDS:
                    cache.clear()
                known = cache[word] = self._merged(_encoded(word, "utf-8"))
            ids += known
        return np.array(ids, dtype=np.int64)

    def _merged(self, word: bytes) -> list[int]:
        ids, joined = list(word), self._joined
        while ranked := [(*joined[p], at) for at, p in enumerate(pairwise(ids)) if p in joined]:
            _, both, at = min(ranked)
            ids[at : at + 2] = [both]
        return ids


_LEVELS: dict[str, type[Vocabulary]] = {kind.level: kind for kind in Vocabulary.__subclasses__()}


def build_vocabulary(
    level: Level,
    source: Iterable[str],
    *,
    size: int | None = None,
    min_count: int = 1,
    unknown: str | None = None,
) -> Vocabulary:
    """The vocabulary of a text.

    Characters get ids by code point; words by falling count, then by code point.

    Args:
        level: ``"char"``, ``"byte"``, ``"word"`` or ``"bpe"`` (needs ``ostinato[bpe]``).
        source: the text: a string, a `TextSource`, or any pieces; read once.
        size: the most tokens to have, an unknown token included; the most frequent stay. None
            keeps all characters or words, and gives a BPE vocabulary 4096 tokens.
        min_count: how often a character, word or pair to merge must occur to have a token.
        unknown: text of the token for everything else. A word vocabulary always has one
            (``"<unk>"`` unless given), a character vocabulary only if given; it is not trained
            where every character of `source` has a token.

    Raises:
        OstinatoError: an option does not fit the level, or characters would be left out with no
            unknown token to stand for them.
        DataError: the text is empty.

    >>> vocabulary = build_vocabulary("char", "hello", min_count=2, unknown="?")
    >>> vocabulary.decode(vocabulary.encode("hello"))
    '??ll?'
    """
    call = f"build_vocabulary({level!r})"
    if not isinstance(level, str) or level not in _LEVELS:
        raise OstinatoError(f"{call}: level must be one of {', '.join(_LEVELS)}.")
    if not isinstance(min_count, int) or min_count < 1:
        raise OstinatoError(f"{call}: min_count is {min_count!r}; expected an integer, 1 or more.")
    if unknown is not None and level in ("byte", "bpe"):
        raise OstinatoError(
            f"{call}: unknown is {unknown!r}, but every text consists of bytes; leave it out."
        )
    if level == "byte":
        if size is not None or min_count != 1:
            raise OstinatoError(f"{call}: always has 256 tokens; leave out size and min_count.")
        return ByteVocabulary()
    pieces = _not_empty([source] if isinstance(source, str) else source, call)
    if level == "bpe":
        return BPEVocabulary.train(pieces, _BPE_SIZE if size is None else size, min_count)
    if level == "word":
        unknown = "<unk>" if unknown is None else unknown
        counts = Counter(chain.from_iterable(_words_of_pieces(pieces)))
    else:
        counts = _count_characters(pieces)
        counts.pop(unknown or "", None)  # a character that is the unknown token needs no other
    specials = int(unknown is not None)
    if size is not None:
        _check_size(call, size, specials + 1, "one token beside the unknown one, if any")
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    most = None if size is None else size - specials
    kept = [token for token in ranked if counts[token] >= min_count][:most]
    if not kept:
        raise OstinatoError(f"{call}: nothing occurs {min_count} times; lower min_count.")
    if level == "word":
        assert unknown is not None
        return WordVocabulary(kept, unknown)
    if unknown is None and len(kept) < len(counts):
        raise OstinatoError(
            f"{call}: min_count={min_count} and size={size} leave out {len(counts) - len(kept)} of "
            f"{len(counts)} characters; give an unknown token to stand for them, unknown='<unk>'."
        )
    return CharacterVocabulary("".join(sorted(kept)), unknown)


def word_tokens(text: str) -> list[str]:
    r"""Cut a text into words, punctuation marks and runs of white space, losing nothing.

    The tokens concatenated equal the text. A single space belongs to the word or mark after it;
    an apostrophe inside a word belongs to the word; combining marks belong to the letter before.
    A word of more than 64 letters is cut after every 64.

    >>> word_tokens("Don't say “no”.\n\n  Never!")
    ["Don't", ' say', ' “', 'no', '”', '.', '\n\n ', ' Never', '!']
    """
    if not isinstance(text, str):
        raise OstinatoError(f"word_tokens: text is {type(text).__name__}; expected str.")
    return cast("list[str]", _word_pattern().findall(text))


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    # `re` counts no combining mark as part of a word, which would cut Hindi or Thai to bits.
    marks = "".join(
        re.escape(chr(code))
        for code in range(0x300, 0x1F000)
        if unicodedata.category(chr(code)).startswith("M") or code in (0x200C, 0x200D)  # joiners
    )
    mark = rf"(?![\x00-\u02ff])[{marks}]"  # the look-ahead alone makes it four times faster
    letters = rf"\w{{1,{_WORD_LIMIT}}}(?:{mark}\w{{0,{_WORD_LIMIT - 1}}}){{0,31}}"
    # Every repetition is bounded, and whether a token ends after a character depends on the two
    # characters that follow, no more: `_words_of_pieces` relies on both.
    return re.compile(
        rf" ?{letters}(?:['\u2019]{letters}){{0,3}}"  # a word
        rf"| ?[^\w\s](?:{mark}){{0,{_WORD_LIMIT}}}"  # a punctuation mark
        rf"|(?:(?! \S)\s){{1,{_WORD_LIMIT}}}"  # white space, less a space that the next one takes
    )


def _words_of_pieces(pieces: Iterable[str]) -> Iterator[list[str]]:
    """`word_tokens` of a text that comes in pieces: lists which concatenated equal the whole's."""
    rest = ""
    for piece in pieces:
        text = rest + piece if rest else piece
        words = word_tokens(text)
        end = len(text)
        while words and end > len(text) - 2:  # what follows may still change such a token
            end -= len(words.pop())
        rest = text[end:]
        if words:
            yield words
    if rest:
        yield word_tokens(rest)


def _count_characters(pieces: Iterable[str]) -> Counter[str]:
    counts = np.zeros(0x110000, dtype=np.int64)
    position = 0
    for piece in pieces:
        seen = np.bincount(_code_points(piece, position))
        counts[: len(seen)] += seen
        position += len(piece)
    return Counter({chr(code): int(counts[code]) for code in np.flatnonzero(counts)})


def _not_empty(pieces: Iterable[str], call: str) -> Iterator[str]:
    empty = True
    for piece in pieces:
        empty = empty and not piece
        yield piece
    if empty:
        raise DataError(f"{call}: the text is empty; give some text to learn a vocabulary from.")


def _code_points(text: str, position: int = 0) -> NDArray[np.uint32]:
    return np.frombuffer(_encoded(text, "utf-32-le", position), dtype="<u4")


def _encoded(text: str, encoding: str, position: int = 0) -> bytes:
    """The text as bytes; `position` is where it starts in the whole, for the message."""
    if not isinstance(text, str):
        raise OstinatoError(f"a vocabulary encodes str; got {type(text).__name__}.")
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at position "
            f"{position + error.start}, which is no character; it often stands for a byte that "
            "was not UTF-8 where the text came from."
        ) from None


def _text_tokens(owner: Vocabulary, known: object, unknown: str | None) -> list[bytes]:
    """The tokens of a vocabulary of strings, checked: the unknown token, if any, then the rest."""
    name = type(owner).__name__
    if isinstance(known, str) or not isinstance(known, Sequence):
        raise OstinatoError(f"{name}: got {known!r:.80} for its tokens; expected strings.")
    texts = list(known) if unknown is None else [unknown, *known]
    for text in texts:
        if not isinstance(text, str) or not text:
            raise OstinatoError(f"{name}: {text!r} is no token; expected a string, not empty.")
    if not known:
        raise OstinatoError(f"{name}: has no tokens; expected one at least.")
    if len(set(known)) < len(known) or (owner.level == "char" and unknown in known):
        twice = Counter(texts).most_common(1)[0][0]
        raise OstinatoError(f"{name}: the token {twice!r} is given twice.")
    return [_encoded(text, "utf-8") for text in texts]


def _check_size(call: str, size: object, least: int, what: str) -> None:
    if not isinstance(size, int) or size < least:
        raise OstinatoError(f"{call}: size is {size!r}; expected {least} or more, for {what}.")
