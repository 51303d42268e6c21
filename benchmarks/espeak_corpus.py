"""Makes a corpus of speech by Debian's espeak-ng from the English sentences of UD EWT.

    python benchmarks/espeak_corpus.py OUT [--data FOLDER] [--hours 5] [--part train]

Two voices say the sentences in turn. Sentences are taken in their order as long as they have 3 to
25 words of letters alone, so that what is written is what is spoken: no digits, addresses or
symbols. OUT gets WAV files of 16,000 samples a second and ``clips.tsv`` (file, text, speaker),
which `ostinato train speak` reads. The training part is made of the sentences of the training file,
``--part test`` of those of the test file. The corpus is not committed.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ostinato.data.features import read_sound
from ostinato.data.synthesis import write_sound

RATE = 16_000
VOICES = {"ann": ("en-us+f3", "165", "55"), "ben": ("en-gb+m3", "160", "45")}
"""For each voice its name at espeak-ng, words a minute, and pitch."""

PLAIN = re.compile(r"[A-Za-z][A-Za-z' ,;:.?!-]*[.?!]")
ROOT = Path(__file__).parent.parent


def sentences(file: Path) -> list[str]:
    """Return the sentences of a CoNLL-U file that are plain words, each once."""
    texts = re.findall(r"^# text = (.*)$", file.read_text(encoding="utf-8"), re.M)
    found = []
    for text in dict.fromkeys(" ".join(each.split()) for each in texts):
        words = text.split()
        spelled = any(word.isupper() and len(word) > 1 for word in words)
        if PLAIN.fullmatch(text) and 3 <= len(words) <= 25 and not spelled:
            found.append(text)
    return found


def say(text: str, voice: str, file: Path) -> float:
    """Write a text as a WAV file of `RATE`, spoken by a voice; return its seconds."""
    name, speed, pitch = VOICES[voice]
    with tempfile.NamedTemporaryFile(suffix=".wav") as raw:
        subprocess.run(
            ["espeak-ng", "-v", name, "-s", speed, "-p", pitch, "-w", raw.name, "--stdin"],
            input=text.encode(), check=True,
        )  # fmt: skip
        samples, rate = read_sound(raw.name)
    from scipy.signal import resample_poly

    samples = np.asarray(resample_poly(samples, RATE // 50, rate // 50), dtype=np.float32)
    write_sound(file, samples, RATE)
    return len(samples) / RATE


def make(out: Path, texts: list[str], hours: float) -> float:
    """Write a corpus of so many hours, or of all texts; return the hours."""
    out.mkdir(parents=True)
    seconds = 0.0
    with open(out / "clips.tsv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)
        table.writerow(["file", "text", "speaker"])
        for i, text in enumerate(texts):
            if seconds >= 3600 * hours:
                break
            voice = list(VOICES)[i % 2]
            seconds += say(text, voice, out / f"{i:05d}_{voice}.wav")
            table.writerow([f"{i:05d}_{voice}.wav", text, voice])
    return seconds / 3600


def main() -> None:
    """Make a corpus."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--hours", type=float, default=5.0)
    parser.add_argument("--part", choices=["train", "dev", "test"], default="train")
    args = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak_corpus: espeak-ng is not installed: apt-get install espeak-ng")
    file = args.data / "ud-english-ewt" / f"en_ewt-ud-{args.part}.conllu"
    if not file.exists():
        sys.exit(f"espeak_corpus: there is no {file}; name the folder of the data with --data")
    texts = sentences(file)
    hours = make(args.out, texts, args.hours)
    print(f"{args.out}: {hours:.2f} hours of {len(texts):,} sentences at most")


if __name__ == "__main__":
    main()
