"""Recordings with the text that is spoken in each, and by whom."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ostinato.data.archives import is_archive
from ostinato.data.chunks import corpus_chunks, walk
from ostinato.data.columns import LABELS
from ostinato.data.corpus import Corpus, ReadingSettings, media_kind
from ostinato.data.formats import is_table, read_table
from ostinato.data.reading import corpus_of, fields_of, read_corpus
from ostinato.data.sequences import sequences_of
from ostinato.data.tables import Table
from ostinato.errors import DataError, OstinatoError
from ostinato.files import check_there

SPEAKERS = {"speaker", "speaker_id", "speakers", "voice", "client_id"}
"""What columns of speakers are called."""


@dataclass(kw_only=True, eq=False, repr=False)
class SpeechSettings(ReadingSettings):
    """How recordings are read.

    Args:
        speaker: column, or field of the pattern, of who speaks; if not given, a column or a field
            of the name speaker, where there is one.
    """

    speaker: str | None = None


def read_speech(paths: Sequence[str | os.PathLike[str]], settings: SpeechSettings) -> Corpus:
    """Read recordings from folders, files, or tables that name files and texts.

    The target of each is its text and its speaker, who is "" where there is one alone. A
    `DataError` names what cannot be used.
    """
    listed = [Path(path) for path in paths]
    check_there(listed)
    if tables := _tables(listed):
        return Corpus.joined([_of_table(read_table(path, settings), settings) for path in tables])
    return _of_names(read_corpus(listed, settings), settings)


def speech_chunks(paths: Sequence[Path], settings: SpeechSettings) -> Iterator[Corpus]:
    """Read recordings a chunk at a time; arguments and errors are those of `read_speech`.

    Also from tar archives, of one speaker.
    """
    check_there(paths)
    if tables := _tables(paths):
        for path in tables:
            yield _of_table(read_table(path, settings), settings)
        return
    archives = [path for path in walk(paths) if is_archive(path)]
    if archives and (settings.speaker is not None or "{speaker}" in (settings.pattern or "")):
        raise DataError("is a tar archive, whose samples have no speakers; expected a table that "
                        "names recordings, texts and speakers.", path=archives[0])  # fmt: skip
    for corpus in corpus_chunks(paths, settings):
        yield _of_names(corpus, settings)


def _tables(paths: Sequence[Path]) -> list[Path]:
    """Return files, and those in folders, if all of them are tables; otherwise none."""
    files = list(walk(paths))
    return files if all(path.is_file() and is_table(path) for path in files) else []


def _of_names(corpus: Corpus, settings: SpeechSettings) -> Corpus:
    """Return recordings that were read with their texts, with the speakers in their names."""
    _check_kind(corpus)
    texts, pattern = corpus.targets or [], settings.pattern or ""
    field = settings.speaker or "speaker"
    speakers = [""] * len(texts)
    if f"{{{field}}}" in pattern:
        speakers = fields_of(list(corpus.inputs), pattern, field, True) or speakers
    elif settings.speaker is not None:
        raise OstinatoError(
            f"speaker={field!r}: expected a field {{{field}}} in the pattern of the files' names, "
            f"as in pattern='{{label}}_{{{field}}}.wav', got pattern={settings.pattern!r}."
        )
    return _spoken(corpus, texts, speakers)


def speech_of(X: Any, y: Any, settings: SpeechSettings) -> Corpus:
    """Take recordings, as paths, and their texts, or pairs of text and speaker, from memory."""
    pairs = None if y is None else [(t, "") if isinstance(t, str) else t for t in y]
    corpus = corpus_of(X, None if pairs is None else [str(i) for i in range(len(pairs))], settings)
    _check_kind(corpus)
    if pairs is None:
        return corpus
    for pair, place in zip(pairs, corpus.places, strict=True):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise place.error(f"has the target {pair!r:.40}; expected a text, or text and speaker.")
    return _spoken(corpus, [text for text, _ in pairs], [str(who) for _, who in pairs])


def _of_table(table: Table, settings: SpeechSettings) -> Corpus:
    """Read a table with a column of files, one of texts, and perhaps one of speakers."""
    everything = range(len(table.names))
    who = table.called(SPEAKERS, everything)[:1]
    if settings.speaker is not None:
        who = [table.column(settings.speaker, "the speakers")]
    apart = who if settings.group is None else [*who, table.column(settings.group, "the groups")]
    rest = [i for i in everything if i not in apart]
    sounds = [
        i for i in rest if media_kind([str(c) for c in table.texts(i)[:100].tolist()]) == "sound"
    ]
    if settings.text is None and len(sounds) != 1:
        raise table.error("which column holds the recordings is not clear; name it with text")
    sound = sounds[0] if settings.text is None else table.column(settings.text, "the recordings")
    rest = [i for i in rest if i != sound]
    words = table.called(LABELS | {"text", "sentence", "transcript", "transcription"}, rest)
    words = rest if len(rest) == 1 else words
    if settings.label is None and len(words) != 1:
        raise table.error("which column holds the texts that are spoken is not clear; name it "
                          "with label")  # fmt: skip
    text = words[0] if settings.label is None else table.column(settings.label, "the texts")
    named = replace(settings, text=str(sound + 1), label=str(text + 1), separator=None)
    corpus = sequences_of(table, named, False, True)
    _check_kind(corpus)
    speakers = [cell.strip() for cell in table.filled(who[0])] if who else [""] * len(table)
    roles = {"recordings": [sound], "texts": [text], "speakers": who}
    roles["not used"] = [i for i in everything if i not in (sound, text, *apart)]
    names = {role: ", ".join(table.names[i] for i in some) for role, some in roles.items() if some}
    corpus.notes = ["; ".join(f"{role}: {name}" for role, name in names.items())]
    return _spoken(corpus, corpus.targets or [], speakers)


def _spoken(corpus: Corpus, texts: Sequence[Any], speakers: Sequence[str]) -> Corpus:
    """Return recordings whose targets are text and speaker; a `DataError` at an empty text."""
    pairs = []
    for text, who, place in zip(texts, speakers, corpus.places, strict=True):
        words = " ".join(str(text).split())
        if not words:
            raise place.error("has no text; expected what is spoken.")
        pairs.append((words, who))
    return replace(corpus, targets=pairs)


def _check_kind(corpus: Corpus) -> None:
    if corpus.kind != "sound":
        raise corpus.places[0].error(f"holds {corpus.kind}; expected recordings.")


def espeak() -> str:
    """Return the path of espeak-ng; an `OstinatoError` where it is not installed."""
    found = shutil.which("espeak-ng") or shutil.which("espeak")
    if found is None:
        raise OstinatoError(
            "symbols='phoneme' needs espeak-ng: apt-get install espeak-ng (or brew install "
            "espeak-ng), or use symbols='char'."
        )
    return found


@lru_cache(maxsize=100_000)
def phonemes(text: str, language: str = "en") -> str:
    """Return the phonemes of a text, in the letters of the IPA, by an installed espeak-ng.

    The mark that ends a sentence is kept, since its melody depends on it.
    """
    if not re.fullmatch(r"[A-Za-z0-9+_-]{1,40}", language) or language.startswith("-"):
        raise OstinatoError(f"language={language!r}; expected a voice of espeak-ng, as in en-us.")
    done = subprocess.run(
        [espeak(), "-q", "--ipa", "-v", language, "--stdin"],
        input=text, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode or not done.stdout.strip():
        reason = done.stderr.strip().splitlines()[:1] or ["no phonemes came"]
        raise OstinatoError(f"espeak-ng, language={language!r}: {reason[0]}")
    ending = text.rstrip()[-1:]
    return " ".join(done.stdout.split()) + (ending if ending in ".?!" else "")
