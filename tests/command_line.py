"""What tests of the command line share: data to run it on, and what a mistake looks like."""

import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from test_features import sine, write_wav

from ostinato.data.midi import roll_of, write_midi

TEXT = "to be or not to be, that is the question. " * 40

QUICK = "--hidden-size 8 --window 8 --batch-size 4"
EPOCHS = "--epochs 3 --hidden-size 8 --batch-size 8"

TRAIN = f"train text text.txt --out run {QUICK}"


class Result(NamedTuple):
    status: int
    out: str
    err: str


def everything(folder):
    return {path: path.lstat().st_size for path in Path(folder).rglob("*")}


def assert_refused(result, words=""):
    assert result.status == 2, result
    assert result.out == ""
    assert result.err.startswith("ostinato: ")
    assert result.err.count("\n") == 1 and result.err.endswith("\n"), result.err
    assert words in result.err
    assert "Traceback" not in result.err


def no_nonsense(name):
    raise ValueError(name)


def write_data(folder: Path) -> None:
    """What the commands of the README read, small."""
    reviews = [f"{word} film number {i},{label}" for i in range(20) for word, label in
               (("lovely", "good"), ("dull", "bad"))]  # fmt: skip
    steps = [f"m{i},{t},{i + t},{t * i},{i}" for i in range(12) for t in range(3 + i)]
    sentence = "".join(
        f"{i}\t{word}\t{word}\t{tag}\t_\t_\t0\troot\t_\t_\n"
        for i, (word, tag) in enumerate([("the", "DET"), ("dog", "NOUN"), ("barks", "VERB")], 1)
    )
    english = ["one two three", "two one", "three three one", "two two two one"] * 10
    german = {"one": "eins", "two": "zwei", "three": "drei"}
    papers = [
        json.dumps({"document": f"{line} and so on. It goes on.", "summary": line})
        for line in english
    ]
    files = {
        "train.en": "\n".join(english),
        "train.de": "\n".join(" ".join(german[w] for w in line.split()) for line in english),
        "new.en": "one three\n\ntwo\n",
        "papers.jsonl": "\n".join(papers),
        "commands.txt": "yes\nno\n",
        "sales.csv": "\n".join(
            ["month,sales", *(f"{2000 + m // 12}-{m % 12 + 1:02d},{100 + m}" for m in range(60))]
        ),
        "book.txt": "It was the best of times, it was the worst of times. " * 60,
        "reviews.csv": "\n".join(["text,label", *reviews]),
        "test.csv": "\n".join(["text,label", *reviews[:6]]),
        "new.txt": "a lovely one\na dull one\n",
        "sensors.csv": "\n".join(["machine,time,heat,noise,wear", *steps]),
        "train.conllu": f"{sentence}\n" * 15,
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    for i in range(16):
        path = folder / "recordings" / ("yes", "no")[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, sine((300, 2000)[i % 2], 8000, 0.1), 8000)
    (folder / "images").mkdir()
    shades = {f"{i}.png": (0, 255)[i % 2] for i in range(12)}
    for name, shade in shades.items():
        Image.new("L", (16, 16), shade).save(folder / "images" / name)
    lines = [
        f"images/{name},it is {'bright' if shade else 'dark'}" for name, shade in shades.items()
    ]
    (folder / "captions.csv").write_text("\n".join(["image,caption", *lines]))
    (folder / "chorales").mkdir()
    for i in range(4):
        write_midi(roll_of([[60 + i], [64 + i], [67 + i]] * 4), folder / "chorales" / f"{i}.mid")
