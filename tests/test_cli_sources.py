"""``ostinato train FILES`` says which tasks fit, with commands that work; plans; early errors."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_refused, everything, write_data

from ostinato.cli import sources
from ostinato.tasks.registry import TASKS
from ostinato.training.loop import Trainer

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SETS = {
    "sst2/train.tsv": "classify",
    "timeseries/airline-passengers.csv": "forecast",
    "timeseries/ETTh1.csv": "forecast --target OT",
    "forecasts/gasrate_co2.csv": "forecast --target CO2%",
    "m4-weekly/Weekly-train.csv": "forecast --series-in-rows",
    "gesture-phase/a1_va3.csv": "tag",
    "ner/sec-train.txt": "tag",
    "ud-english-ewt/en_ewt-ud-dev.conllu": "tag",
    "uea/GunPoint_TRAIN.ts": "classify",
    "mnist/t10k-images-idx3-ubyte.gz": "classify",
    "polyphonic/jsb-chorales-quarter.json": "music",
    "polyphonic/MuseData.mat": "music",
    "tinyshakespeare/input.txt": "text",
    "scitldr-a/dev.jsonl": "summarize",
    "multi30k-en-de/val.en.gz multi30k-en-de/val.de.gz": "translate",
    "fsdd/recordings": "classify --pattern {label}_{b}_{c}.wav",
}
"""Real data, and the first suggestion for them."""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The files of the README, in the current folder."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = ["day,shop,sales", *(f"2024-01-{d:02d},{s},{d * 3}" for s in "ab" for d in range(1, 30))]
    Path("shops.csv").write_text("\n".join(rows))
    prices = [
        f"house {n} of {word} size,{n * 37 % 101}.5"
        for n, word in enumerate(("big", "small") * 40, 900)
    ]
    Path("prices.csv").write_text("\n".join(["text,price", *prices]))
    kinds = [f"a film {i},{['good', 'bad'][i % 2]},{['de', 'en', 'fr'][i % 3]}" for i in range(60)]
    Path("kinds.csv").write_text("\n".join(["review,mood,language", *kinds]))
    words = [" ".join(rng.choice(["one", "two", "three"], 6)) for _ in range(80)]
    Path("old.en").write_text("\n".join(words))
    Path("old.de").write_text("\n".join(each.replace("two", "zwei") for each in words))
    news = [{"source": 5 * f"{each} and so on. ", "target": each} for each in words]
    Path("news.jsonl").write_text("\n".join(map(json.dumps, news)))
    frames = [",".join([*(f"{x:.3f}" for x in rng.normal(size=6)), ["wave", "rest"][t // 9 % 2]])
              for t in range(120)]  # fmt: skip
    Path("frames.csv").write_text("\n".join(["a,b,c,d,e,f,move", *frames]))
    return tmp_path


FIRST = {
    "reviews.csv": "classify",
    "kinds.csv": "classify --label mood",
    "prices.csv": "regress",
    "sensors.csv": "regress --id machine --label wear",
    "shops.csv": "forecast",
    "sales.csv": "forecast",
    "frames.csv": "tag",
    "train.conllu": "tag",
    "old.en old.de": "translate",
    "news.jsonl": "summarize",
    "book.txt": "text",
    "captions.csv": "caption",
    "recordings": "classify",
    "chorales": "music",
}


@pytest.mark.parametrize("files", FIRST)
def test_the_likeliest_task_comes_first(data, files):
    first = sources.fitting([Path(name) for name in files.split()])[0]
    assert shlex.join([first.command, *first.options]) == FIRST[files]


@pytest.mark.parametrize("files", FIRST)
def test_every_command_that_is_said_reads_the_files(data, files):
    """What is suggested is what the command's own reader takes."""
    paths = [Path(name) for name in files.split()]
    rows = {task.command: task for task in TASKS}
    for fit in sources.fitting(paths):
        flags = dict(zip(fit.options[::2], fit.options[1::2], strict=False))
        given = {flag[2:]: value for flag, value in flags.items()}
        assert sources.read(rows[fit.command].source, paths, given) is not None


@pytest.mark.parametrize("files", SETS)
def test_real_sets_are_recognized(files):
    paths = [DATA / name for name in files.split()]
    if not all(path.exists() for path in paths):
        pytest.skip(f"needs {paths[0]}, see docs/reference/data.md")
    first = sources.fitting(paths)[0]
    assert " ".join([first.command, *first.options]) == SETS[files]


@pytest.mark.thorough
def test_the_command_prints_commands_that_can_be_pasted(data, ostinato):
    Path("my reviews.csv").write_bytes(Path("reviews.csv").read_bytes())
    done = ostinato("train", "my reviews.csv")
    assert done.status == 0 and "one of 2 labels (bad, good) for each of 40 texts" in done.out
    (line,) = [line.strip() for line in done.out.splitlines() if "ostinato train classify" in line]
    words = shlex.split(line)[1:]
    assert words == ["train", "classify", "my reviews.csv", "--out", "run"]
    assert ostinato(*words, "--epochs", "1", "--hidden-size", "8", "--no-blend").status == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("train nothing.csv", "nothing.csv: no such file."),
        ("train revuews.csv", "revuews.csv: no such file; did you mean reviews.csv?"),
        ("train clasify", "did you mean 'train classify'?"),
        ("train recordings nothing", "nothing: no such file or folder"),
        ("train empty", "is an empty folder"),
        ("train tables", "is a folder with a.csv, b.csv; name the files to train on"),
        ("train zeros.bin", "no task fits what is there"),
        ("train blank.csv", "no task fits what is there"),
    ],
)
def test_what_fits_nothing_is_one_line(data, ostinato, words, error):
    for name in ("a", "b"):
        (data / "tables").mkdir(exist_ok=True)
        (data / "tables" / f"{name}.csv").write_text("x\n1\n")
    (data / "empty").mkdir()
    (data / "zeros.bin").write_bytes(bytes(1000))
    (data / "blank.csv").write_text("")
    before = everything(data)
    assert_refused(ostinato(words), error)
    assert everything(data) == before


EARLY = {
    "train classify reviews.csv --label stars --out run": "has no column 'stars' for the labels",
    "train classify kinds.csv --out run": "which column holds the labels is not clear",
    "train classify reviews.csv --validation shops.csv --label label --out run": "'label'",
    "train regress sensors.csv --id machin --out run": "has no column 'machin'",
    "train tag frames.csv --text word --out run": "has no column 'word'",
    "train translate papers.jsonl --source document --target sumary --out run": "'sumary'",
    "train forecast shops.csv --target sale --out run": "has no column 'sale' for target",
    "train transcribe recordings --pattern x{label} --out run": "does not match",
    "train caption captions.csv --label title --out run": "has no column 'title'",
    "train classify blank.csv --out run": "blank.csv",
}


def test_wrong_columns_are_said_before_pytorch_is_imported(data):
    (data / "blank.csv").write_text("")
    code = (
        "import sys, json\nfrom ostinato.cli import main\nfor line in json.load(sys.stdin):\n"
        "    try:\n        main(line.split())\n    except SystemExit as end:\n"
        "        print(end.code, 'torch' in sys.modules, flush=True)"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, input=json.dumps([*EARLY]), capture_output=True, text=True)
    assert done.stdout.splitlines() == ["2 False"] * len(EARLY), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(EARLY)
    for line, words in zip(lines, EARLY.values(), strict=True):
        assert line.startswith("ostinato: ") and words in line


PLANS = {
    "text book.txt --steps 40": "40 steps",
    "text book.txt --minutes 3": "training takes 3 min",
    "classify reviews.csv --epochs 3": "text: text; label: label",
    "regress sensors.csv --id machine --label wear": "label: wear",
    "tag train.conllu --epochs 2": "steps of",
    "translate train.en train.de --level word": "by the size of the data: ",
    "summarize papers.jsonl --level word --epochs 2": "steps of",
    "transcribe recordings --epochs 2": "steps of",
    "caption captions.csv --epochs 2": "steps of",
    "forecast sales.csv --ensemble-size 1": "time: month; target: sales",
    "music chorales --epochs 2": "steps of",
}


@pytest.fixture
def hasty(monkeypatch):
    """Plans measure for a moment alone."""
    monkeypatch.setattr(Trainer.pace, "__defaults__", (0.02,))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", PLANS)
def test_a_dry_run_says_what_would_be_and_leaves_nothing(data, ostinato, hasty, task):
    before = everything(data)
    done = ostinato(f"train {task} --hidden-size 8 --dry-run")
    assert done.status == 0, done.err
    assert PLANS[task] in done.out and "training takes " in done.out
    assert everything(data) == before


def test_a_plan_counts_the_steps_that_training_takes(data, ostinato, hasty):
    words = "train classify reviews.csv --epochs 3 --hidden-size 8 --no-blend --json"
    plan = json.loads(ostinato(f"{words} --dry-run").out)
    done = ostinato(f"{words} --out run")
    (end,) = [json.loads(line) for line in done.out.splitlines() if '"event": "end"' in line]
    assert end["steps"] == plan["steps"]
    assert done.out.count('"event": "evaluation"') == plan["evaluations"]
    whole = plan["steps"] * plan["pace"]["step"] + 3 * plan["pace"]["evaluation"]
    assert plan["seconds"] == pytest.approx(whole) and whole > 0


def test_a_dry_run_does_not_resume(data, ostinato):
    words = "train classify reviews.csv --dry-run --resume --out run"
    assert_refused(ostinato(words), "--dry-run and --resume exclude each other")
