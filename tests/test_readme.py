"""Every block of code in the README does what the README says."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from test_features import sine, write_wav

from ostinato import cli
from ostinato.data.midi import roll_of, write_midi

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
]


def test_the_readme_has_blocks_of_known_languages_only():
    assert {language for language, _ in BLOCKS} == {"sh", "python"}


@pytest.mark.thorough
@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


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


@pytest.mark.thorough
@pytest.mark.filterwarnings("default::UserWarning")
def test_shell_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """In their order, with small data and a small budget; make targets are only planned.

    The commands run in this process, which has imported PyTorch already.
    """
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        budget = "--steps 30 --hidden-size 32"
        name, *words = shlex.split(command.replace("--minutes 5", budget))
        if name == "make":
            status: object = subprocess.run(["make", "-n", "-C", str(ROOT), *words]).returncode
        else:
            assert name == "ostinato"
            if words[0] == "train" and words[1] != "text":
                words += ["--epochs", "2", "--hidden-size", "8"]
            with pytest.raises(SystemExit) as end:
                cli.main(words)
            status = end.value.code
        out, err = capfd.readouterr()
        assert not status, f"{command}\n{out}\n{err}"
        assert out.strip(), f"{command} prints nothing"


def test_every_file_that_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\b(?:examples|docs|benchmarks)/[\w.]+\w", text))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
