"""``generate``, ``translate``, ``summarize``, ``transcribe``, ``compose``."""

import io
import json
import sys

import pytest
import soundfile
from command_line import TRAIN, assert_refused, everything, no_nonsense

import ostinato as package
from ostinato import TextGenerator, cli

pytestmark = pytest.mark.filterwarnings("default::UserWarning")


def test_json_is_all_that_json_says(ostinato, here, run):
    result = ostinato(f"{TRAIN} --steps 4 --evaluations 2 --json")
    assert (result.status, result.err) == (0, "")
    lines = [json.loads(line, parse_constant=no_nonsense) for line in result.out.splitlines()]
    assert [line["event"] for line in lines] == ["evaluation", "evaluation", "end"]
    assert [line["step"] for line in lines[:2]] == [2, 4]
    assert lines[0]["sample"]
    assert lines[0]["bits_per_character"] == pytest.approx(1.442695 * lines[0]["validation_loss"])
    assert lines[-1]["ended"] == "budget"

    result = ostinato(f"generate {run} --prompt 'to be' --length 30 --seed 1 --json")
    text = TextGenerator.load(run).generate("to be", 30, seed=1)
    assert (result.status, result.err) == (0, "")
    assert result.out.isascii() and result.out.count("\n") == 1
    assert json.loads(result.out) == {"prompt": "to be", "text": text}
    assert json.loads(ostinato(f"generate {run} --length 3 --json").out)["prompt"] == ""

    result = ostinato(f"info {run} --json")
    assert (result.status, result.err) == (0, "")
    assert json.loads(result.out) == json.loads((run / "config.json").read_text())


MISTAKES = {
    "generate": "generate: RUN is required: folder of",
    "generate none": "none: no such folder",
    "generate text.txt": "text.txt: no such folder",
    "generate taken": "taken: holds no finished model",
    "generate RUN more": "'more'",
    "generate RUN --heat 3": "--heat",
    "generate RUN --prompt Ω": "'Ω' (U+03A9) at position 0 is not among",
    "generate RUN --length -1": "length=-1; expected a whole number, zero or more",
    "generate RUN --length 2.5": "--length: invalid int value: '2.5'",
    "generate RUN --temperature -1": "temperature=-1.0; expected zero or more",
    "generate RUN --temperature inf": "temperature=inf",
    "generate RUN --top-k 0": "top_k=0; expected a whole number, one or more",
    "generate RUN --top-p 1.5": "top_p=1.5; expected above 0",
    "generate RUN --repetition-penalty 0": "repetition_penalty=0.0; expected",
    "generate RUN --seed 99999999999999999999": "seed=99999999999999999999",
    "generate RUN --stop ''": "stop=''; expected texts that are not empty",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line(command, ostinato, here, run):
    assert_refused(ostinato(command.replace("RUN", str(run))), MISTAKES[command])


def test_stop_is_given_once_or_more(ostinato, asked):
    ostinato("generate run --stop END")
    assert asked["controls"]["stop"] in ("END", ["END"])
    ostinato("generate run --stop END --stop '\n\n'")
    assert asked["controls"]["stop"] == ["END", "\n\n"]


def test_generate_writes_prompt_and_text(ostinato, run):
    text = TextGenerator.load(run).generate("to be", 50, seed=1, temperature=0.5, stop="qq")
    result = ostinato(
        f"generate {run} --prompt 'to be' --length 50 --seed 1 --temperature 0.5 --stop qq"
    )
    assert result == (0, f"to be{text}\n", "")
    assert ostinato(f"generate {run} --length 0") == (0, "\n", "")
    assert ostinato("generate", run, "--prompt", "to be " * 20_000, "--length", "1").status == 0


def test_generate_writes_each_piece_at_once(asked, monkeypatch):
    def stream(self, **controls):
        for piece in "ab":
            seen.append(out.buffer.getvalue())
            yield piece

    seen, out = [], io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(package.TextGenerator, "stream", stream)
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit):
        cli.main(["generate", "run", "--prompt", "to "])
    assert [*seen, out.buffer.getvalue()] == [b"to ", b"to a", b"to ab\n"]


def test_json_is_ascii(ostinato, asked):
    result = ostinato("generate run --prompt é☺ --json")
    assert result.out.isascii()
    assert json.loads(result.out)["prompt"] == "é☺"


def test_a_warning_comes_after_the_text(ostinato, here):
    TextGenerator(hidden_size=16, steps=60, window=12, batch_size=8, learning_rate=0.02).fit(
        "ab" * 500
    ).save(here / "model")
    result = ostinato("generate model --prompt ab --temperature 0 --length 60")
    assert result.out == "ab" * 31 + "\n"
    assert result.err.startswith("warning: the generated text is degenerate: it repeats 'ab' 30")
    assert result.err.count("\n") == 1


def test_texts_are_translated_line_by_line(data, ostinato, monkeypatch):
    result = ostinato(
        "train translate train.en train.de --out run --level word --epochs 8 --hidden-size 32 "
        "--dropout 0 --learning-rate 0.02"
    )
    assert result.status == 0, result
    assert "32 pairs of 2 to 4 steps for training, 8 for validation" in result.out
    assert "Next:      ostinato translate run FILE" in result.out
    lines = ostinato("translate run new.en").out.splitlines()
    assert len(lines) == 3 and lines[1] == ""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"two one\n")))
    assert ostinato("translate run --beam 2").out.count("\n") == 1
    several = ostinato("translate run new.en --n-best 2 --beam 3 --scores").out.splitlines()
    assert len(several) == 5 and float(several[0].split("\t")[0]) <= 0
    machine = [
        json.loads(line) for line in ostinato("translate run new.en --json").out.splitlines()
    ]
    assert [each["place"] for each in machine] == ["new.en:1", "new.en:2", "new.en:3"]
    assert machine[0]["texts"][0]["text"] == lines[0]
    assert ostinato("translate run new.en --attention seen.png").status == 0
    assert (data / "seen.png").exists()
    assert "bleu signature" in ostinato("evaluate run train.en train.de").out
    assert "measurements" in ostinato("diagnose run").out


def test_documents_are_summarised_and_recordings_written_down(data, ostinato):
    small = "--epochs 2 --hidden-size 16"
    assert ostinato(f"train summarize papers.jsonl --out short {small}").status == 0
    assert len(ostinato("summarize short papers.jsonl").out.splitlines()) == 40
    assert "lead rougeL" in ostinato("evaluate short papers.jsonl").out
    assert ostinato(f"train transcribe recordings --out ears {small}").status == 0
    assert ostinato("transcribe ears recordings").out.count("\n") == 16
    found = ostinato("transcribe ears recordings --choose commands.txt").out.splitlines()
    assert {line.split("\t")[0] for line in found} <= {"yes", "no"}
    assert "cer" in ostinato("evaluate ears recordings").out
    assert_refused(ostinato("transcribe ears --live"), "needs the future")
    assert ostinato("train text book.txt --out letters --steps 5 --hidden-size 8").status == 0
    assert ostinato("transcribe ears recordings --language letters --beam 2").status == 0


def test_recordings_are_searched_timed_and_compared(data, ostinato):
    lines = ["file\ttext\twho"]
    for i, file in enumerate(sorted((data / "recordings").glob("**/*.wav"))):
        lines.append(f"{file}\t{file.parent.name}\tspeaker {i % 4}")
    (data / "texts.tsv").write_text("\n".join(lines))
    how = "--label text --text file --group who --epochs 3 --hidden-size 8"
    result = ostinato(f"train transcribe texts.tsv --out ears {how}")
    assert result.status == 0 and "4 groups, of which 1 for validation alone: sp" in result.out
    assert_refused(ostinato("evaluate ears texts.tsv --show 2"), "16 of 16 sequences are of groups")
    shown = ostinato("evaluate ears texts.tsv --show 2 --allow-shared-groups").out
    assert shown.count("REF:") == shown.count("HYP:") == 2 and "substitutions" in shown
    facts = json.loads(
        ostinato("evaluate ears texts.tsv --show 1 --allow-shared-groups --json").out
    )
    assert facts["words"] == 16 and len(facts["worst"]) == 1
    assert facts["worst"][0]["words"][0][0] == facts["worst"][0]["reference"]
    timed = ostinato("transcribe ears recordings --timestamps").out.splitlines()
    for line in timed:
        start, end, *_ = line.split("\t")
        assert 0 <= float(start) < float(end)
    machine = ostinato("transcribe ears recordings --timestamps --json").out.splitlines()
    assert sum(len(json.loads(line)["words"]) for line in machine) == len(timed)
    hits = ostinato("find ears recordings --phrase yes --threshold 1e-8").out.splitlines()
    assert hits and all(line.split("\t")[3] == "yes" for line in hits)
    found = ostinato("find ears recordings --phrases commands.txt --false-alarms 60 --json")
    assert found.err.startswith("threshold ") and "missed" in found.err
    assert all(json.loads(line)["score"] > 0 for line in found.out.splitlines())
    known = "find ears recordings --phrase no --false-alarms 1 --validation texts.tsv"
    assert ostinato(known).status == 0
    for command, message in (
        ("find ears --phrase yes", "RECORDINGS is required"),
        ("find ears recordings", "--phrase TEXT is required"),
        ("find ears recordings --phrase a --validation texts.tsv", "needs --false-alarms"),
        ("find ears recordings --phrase 7", "the model cannot write '7'"),
        ("transcribe ears recordings --timestamps --choose commands.txt", "exclude each other"),
        ("evaluate ears texts.tsv --language ears", "expected a model of train text"),
    ):
        assert_refused(ostinato(command), message)


def test_sound_is_written_down_live(data, ostinato, monkeypatch):
    result = ostinato("train transcribe recordings --out ears --epochs 8 --no-bidirectional")
    assert result.status == 0, result
    (file, *_) = sorted((data / "recordings").glob("**/*.wav"))
    sound, rate = soundfile.read(file, dtype="int16")
    raw = sound.astype("<i2").tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw))))
    live = ostinato("transcribe ears --live")
    assert live.status == 0 and f"listening: {rate:,} samples per second" in live.err
    assert live.out.strip() == ostinato(f"transcribe ears {file} --beam 1").out.split("\t")[0]
    assert_refused(ostinato(f"transcribe ears {file} --live"), "--live takes no files")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train translate train.en --out run", "expected two parallel files"),
        ("train translate train.en new.en --out run", "train.en: has 40 lines, and new.en has 3"),
        ("train translate reviews.csv --out run --source words", "has no column 'words' for the s"),
        ("train summarize train.en none.de --out run", "none.de: "),
        ("train transcribe reviews.csv --out run", "the inputs are texts; expected recordings"),
        ("train caption recordings --out run", "expected images"),
        ("translate none new.en", "none: no such folder"),
        ("translate none new.en --beams 3", "unknown option --beams; did you mean --beam?"),
    ],
)
def test_mistakes_of_pairs_are_one_line(data, ostinato, command, message):
    before = everything(data)
    assert_refused(ostinato(command), message)
    assert everything(data) == before
