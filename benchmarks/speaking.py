"""Measures `Speaker` by what others make of its sound.

    python benchmarks/speaking.py digits [--data FOLDER] [--run RUN] [--minutes 20] [--out WORK]
    python benchmarks/speaking.py sentences CORPUS TEST [--run RUN] [--minutes 120] [--out WORK]

`digits`: the Free Spoken Digit Dataset, six speakers. The recordings 5 to 49 of each digit and
speaker train the speaker and, apart from it, a classifier; the classifier is measured on the real
recordings 0 to 4 and on ten draws of each digit in each voice.

`sentences`: corpora of espeak_corpus.py. A `Transcriber` trained on CORPUS reads 200 sentences of
TEST as espeak-ng says them, and as the speaker does; the speaker's faults are counted.

Prints a line of JSON, with the time of a processor that a second of sound takes. A RUN that is
there is loaded, not trained.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import ostinato
from ostinato.data.corpus import Corpus
from ostinato.data.places import Place

ROOT = Path(__file__).parent.parent
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEST = 5
"""Recordings below this index are for tests, as the data set's README has it."""


def trained(run: Path, model: Any, *data: Any) -> Any:
    """Load the model of a run, or train it."""
    if (run / "config.json").exists():
        return ostinato.load(run)
    return model.fit(*data, out=run, progress="lines")


def digits(data: Path, run: Path, work: Path, minutes: float, draws: int = 10) -> dict[str, Any]:
    """Speak each digit in each voice some times, and have it recognised."""
    files = sorted((data / "fsdd" / "recordings").glob("*.wav"))
    known, real = [], []
    for file in files:
        digit, who, take = file.stem.split("_")
        (real if int(take) < TEST else known).append((file, DIGITS[int(digit)], who))
    X, words = [file for file, _, _ in known], [word for _, word, _ in known]
    judge = trained(work / "judge", ostinato.SequenceClassifier(epochs=20), X, words)
    pairs = [(word, who) for _, word, who in known]
    speaker = trained(run, ostinato.Speaker(minutes=minutes), X, pairs)
    right = judge.score([file for file, _, _ in real], [word for _, word, _ in real])
    (work / "sound").mkdir(parents=True, exist_ok=True)
    spoken, faults, seconds, sound = [], Counter[str](), 0.0, 0.0
    for who in speaker.speakers_:
        for word in DIGITS:
            for k in range(draws):
                start = time.process_time()
                speech = speaker.speak(word, speaker=who, seed=k)
                seconds += time.process_time() - start
                sound += len(speech.samples) / speech.rate
                faults.update(fault.name for fault in speech.faults)
                file = work / "sound" / f"{word}_{who}_{k}.wav"
                speech.save(file)
                spoken.append((file, word, who))
    guess = judge.predict([file for file, _, _ in spoken])
    good = [g == word for g, (_, word, _) in zip(guess, spoken, strict=True)]
    by = {
        who: sum(ok for ok, s in zip(good, spoken, strict=True) if s[2] == who) / (10 * draws)
        for who in speaker.speakers_
    }
    wrong = Counter(
        f"{word} ({who}) heard as {g}"
        for g, (_, word, who) in zip(guess, spoken, strict=True) if g != word
    )  # fmt: skip
    return {
        "recognised": sum(good) / len(good), "real": right, "by_speaker": by,
        "wrong": dict(wrong.most_common(12)), "faults": dict(faults),
        "real_time_factor": seconds / sound,
        "training_minutes": speaker.training_["seconds"] / 60,
        "training_steps": speaker.training_["steps"],
    }  # fmt: skip


def clips(folder: Path) -> list[tuple[Path, str, str]]:
    """Return file, text and speaker of each clip of a corpus."""
    with open(folder / "clips.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(folder / row["file"], row["text"], row["speaker"]) for row in rows]


def heard(text: str) -> str:
    """Return what can be heard of a text: its letters, in lower case."""
    kept = "".join(c if c.isalpha() or c == "'" else " " for c in text.lower())
    return " ".join(kept.split())


def sentences(
    corpus: Path, test: Path, run: Path, work: Path, minutes: float, count: int = 200
) -> dict[str, Any]:
    """Speak sentences that nobody trained on, and have them written down."""
    known, others = clips(corpus), clips(test)[:count]
    X = [file for file, _, _ in known]
    ears = trained(
        work / "ears", ostinato.Transcriber(minutes=minutes), X, [heard(t) for _, t, _ in known]
    )
    speaker = trained(run, ostinato.Speaker(minutes=minutes), X, [(t, w) for _, t, w in known])
    (work / "sound").mkdir(parents=True, exist_ok=True)
    files, faults, good, seconds, sound = [], Counter[str](), 0, 0.0, 0.0
    for file, text, who in others:
        start = time.process_time()
        speech = speaker.speak(text, speaker=who, seed=0)
        seconds += time.process_time() - start
        sound += len(speech.samples) / speech.rate
        faults.update(fault.name for fault in speech.faults)
        good += not speech.faults
        speech.save(work / "sound" / file.name)
        files.append(work / "sound" / file.name)
    texts = [heard(text) for _, text, _ in others]

    def wrong(some: list[Path]) -> float:
        return float(
            ears.evaluate(Corpus("sound", some, texts, [Place(str(f)) for f in some]))["cer"]
        )

    return {
        "characters_wrong": wrong(files), "real": wrong([file for file, _, _ in others]),
        "without_fault": good, "of": len(files), "faults": dict(faults),
        "real_time_factor": seconds / sound,
        "training_minutes": speaker.training_["seconds"] / 60,
        "training_steps": speaker.training_["steps"],
    }  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["digits", "sentences"])
    parser.add_argument("corpora", nargs="*", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path("speaking"))
    args = parser.parse_args()
    work, run = args.out, args.run or args.out / "voice"
    work.mkdir(parents=True, exist_ok=True)
    if args.what == "digits":
        found = digits(args.data, run, work, args.minutes)
    else:
        corpus, test = args.corpora
        found = sentences(corpus, test, run, work, args.minutes)
    where = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(json.dumps({args.what: found, **where}))


if __name__ == "__main__":
    main()
