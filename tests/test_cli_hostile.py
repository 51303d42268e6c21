"""The command line as a hostile newcomer uses it: each mistake is one line and leaves nothing."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import TEXT, assert_refused, everything, write_data
from test_cli_app import process

from ostinato import TextGenerator, cli, memory
from ostinato.errors import OstinatoError
from ostinato.files import MIDI, PICTURES, atomic_file, check_new_file, check_new_folder
from ostinato.insight import save_picture
from ostinato.memory import available_memory, check_memory
from ostinato.training.pictures import new_axes

pytestmark = pytest.mark.filterwarnings("default::UserWarning")

SMALL = "--epochs 1 --hidden-size 4 --batch-size 8 --quiet"
RUNS = {
    "text": "text book.txt --steps 2 --hidden-size 4 --window 8 --batch-size 4 --quiet",
    "classify": f"classify reviews.csv {SMALL}",
    "translate": f"translate train.en train.de --vocabulary-size 300 {SMALL}",
    "transcribe": f"transcribe recordings {SMALL}",
    "live": f"transcribe recordings --no-bidirectional {SMALL}",
    "caption": f"caption captions.csv {SMALL}",
    "music": f"music chorales {SMALL}",
    "forecast": f"forecast sales.csv --ensemble-size 1 {SMALL}",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, some of it bad; and a run of each task, trained when it is asked for."""
    folder = tmp_path_factory.mktemp("hostile")
    write_data(folder)
    (folder / "empty").touch()
    (folder / "binary").write_bytes(bytes(range(256)) * 20)
    (folder / "latin").write_bytes(b"one\ntwo caf\xe9\n")
    (folder / "folder").mkdir()
    (folder / "broken.png").symlink_to("nowhere/x.png")
    return folder


@pytest.fixture
def asked(place, ostinato, monkeypatch):
    """Runs a command in that folder; the names of the runs are those of `RUNS`."""
    monkeypatch.chdir(place)

    def run(command):
        for name in RUNS.keys() & {*command.split()[1:2]} if command[:5] != "train" else ():
            if not Path(name).exists():
                done = ostinato(f"train {RUNS[name]} --out {name}")
                assert done.status == 0, done.err
        return ostinato(command)

    return run


HUGE = 10**9

# What is asked, and words of the one line that says what is wrong with it.
REFUSED = {
    # Texts that are none
    "gates text latin": "latin: line 2, byte 11: 0xE9 is not valid UTF-8",
    "gates text binary": "binary: line 2, byte 128: 0x80 is not valid UTF-8",
    "gates text empty": "empty: the text is empty",
    "gates text ''": "the sequence is empty",
    "gates text folder": "no file below this folder matches",
    "gates text /dev/null": "/dev/null: is neither a file nor a folder",
    "gates text it --unit 4": "has no unit 4; expected 0 to 3",
    "gates text it --unit -1": "has no unit -1",
    "gates text it --unit 0 --layer 9": "there is no layer 9",
    "gates translate latin": "latin: line 2, byte 11",
    "gates classify empty": "empty: is empty",
    "gates classify none": "none: no such file",
    "memory text latin": "latin: line 2, byte 11",
    "memory text it --steps 0": "steps=0; expected a number of steps, from 1",
    "diagnose text latin": "latin: line 2, byte 11",
    "diagnose text --distance 0": "distance=0; expected a number of steps, from 1",
    f"diagnose text --distance {10**30}": "expected a number of steps",
    "transcribe transcribe recordings --choose latin": "latin: line 2, byte 11",
    "transcribe transcribe recordings --choose binary": "binary: line 1: holds a zero byte",
    "transcribe transcribe recordings --choose empty": "choose: texts is empty",
    "transcribe transcribe recordings --choose folder": "folder: is a folder; expected a file",
    "transcribe transcribe recordings --choose none": "none: cannot be read: No such file",
    "transcribe transcribe empty": "empty: is empty",
    "predict classify empty": "empty: is empty",
    "predict classify /dev/null": "/dev/null: is neither a file nor a folder",
    "predict classify binary": "binary: line 1: holds a zero byte",
    "predict classify folder": "holds no recordings, images or texts",
    "predict caption empty": "empty: is empty",
    "predict transcribe empty": "empty: is empty",
    "translate translate latin": "latin: line 2, byte 11",
    "forecast forecast binary": "binary: line 1: holds a zero byte",
    "train text latin --out new": "latin: line 2, byte 11",
    "train classify empty --out new": "empty: is empty",
    "train classify reviews.csv --separator '' --out new": "separator=''; expected a text",
    # Sizes
    f"forecast forecast --horizon {HUGE}": "num_samples=64, 1 series needs at least ",
    f"forecast forecast --num-samples {HUGE}": "num_samples=1000000000, 1 series needs at least ",
    "forecast forecast --num-samples 0": "num_samples=0; expected 1 or more",
    "forecast forecast --horizon -1": "horizon=-1; expected 1 or more steps",
    "evaluate forecast --cutoffs 0": "cutoffs=0, stride=12; expected 1 or more",
    f"generate text --length {10**20} --json": "needs at least 900,000,000,000,000,000,000 bytes",
    f"compose music --length {10**12} --out a.mid": "needs at least 352,000,000,000,000 bytes",
    f"translate translate new.en --beam {10**12}": "beam=1000000000000 for ",
    "translate translate new.en --beam 0": "beam=0; expected a whole number, 1 or more",
    "translate translate new.en --batch-size 0": "batch_size=0; expected 1 or more",
    "translate translate new.en --no-repeat -1": "no_repeat=-1; expected 0 or more",
    "translate translate new.en --length-penalty 1e308": "length_penalty=1e+308; expected -100 to",
    "translate translate new.en --length-penalty nan": "length_penalty=nan; expected -100 to 100",
    "translate translate new.en --sampling --temperature nan": "temperature=nan; expected zero or",
    f"translate translate new.en --sampling --seed {10**20}": "expected a whole number below 2**63",
    f"compose music --seed {10**20} --out a.mid": "expected a whole number below 2**63",
    "transcribe transcribe recordings --beam 0": "beam=0, weight=0.5; expected 1 or more",
    "transcribe transcribe recordings --weight nan": "weight=nan; expected 1 or more, a number",
    "train text book.txt --out new --hidden-size 10000000": "GB); this process has ",
    f"train text book.txt --out new --num-layers {HUGE}": "num_layers=1000000000",
    "train text book.txt --out new --num-layers 1025": "above zero, up to 1,024",
    "train forecast sales.csv --out new --num-layers 100000": "above zero, up to 1,024",
    "train classify reviews.csv --out new --hidden-size 10000000": "network of ",
    "train classify reviews.csv --out new --embedding-size 16000000 --hidden-size 4000": "network",
    f"train classify reviews.csv --out new --spelling-size {HUGE}": "below 2**24, 0 for none",
    "train transcribe recordings --out new --bands 16000000": "a number of bands, 1 to 10,000",
    "train translate train.en train.de --out new --hidden-size 10000000": "network of ",
    "train forecast sales.csv --out new --context 100000 --hidden-size 200 --ensemble-size 1": (
        "a batch of "
    ),
    # Paths to be written
    "forecast forecast --plot a.xyz": "a.xyz: cannot be written: expected a name that ends in .png",
    "forecast forecast --plot a": "a: cannot be written: expected a name that ends in .png",
    "forecast forecast --plot folder": "folder: cannot be written: expected a name that ends",
    "forecast forecast --plot ''": "expected a name that ends in .png",
    "forecast forecast --plot none/a.png": "none/a.png: cannot be written: there is no none",
    "forecast forecast --plot empty/a.png": "empty/a.png: cannot be written: empty is no folder",
    "evaluate classify test.csv --plot a.xyz": "a.xyz: cannot be written",
    "evaluate forecast --plot a.xyz": "a.xyz: cannot be written",
    "memory text --plot a.xyz": "a.xyz: cannot be written",
    "gates text it --unit 0 --plot a.xyz": "a.xyz: cannot be written",
    "translate translate new.en --attention a.xyz": "a.xyz: cannot be written",
    "compose music --out a.xyz": "a.xyz: cannot be written: expected a name that ends in .mid",
    "compose music --out none/a.mid": "none/a.mid: cannot be written: there is no none",
    "diagnose text --out empty": "empty: cannot be written: empty is no folder",
    "diagnose text --out empty/new": "empty/new: cannot be written: empty is no folder",
    # Options that contradict each other, or that the model has no use for
    "forecast forecast --csv --json": "--csv and --json exclude each other",
    "train text book.txt --out new --json --quiet": "--json and --quiet exclude each other",
    "evaluate classify test.csv --cutoffs 3": "evaluate --cutoffs: classify holds no forecaster",
    "evaluate translate train.en train.de --plot a.png": "has no confusion matrix to plot",
    "transcribe live --live --beam 3": "takes no files and none of the other options",
    "transcribe transcribe --live": "reads in both directions",
    "transcribe transcribe": "RECORDINGS is required",
    "transcribe transcribe recordings --language classify": "expected a model of train text",
    # Wrong kinds, wrong places
    "predict none new.txt": "none: no such folder",
    "predict book.txt new.txt": "book.txt: no such folder",
    "predict folder new.txt": "folder: holds no finished model",
    "predict text new.txt": "commands for it: generate, diagnose, memory, gates",
    "info /dev/null": "/dev/null: no such folder",
    "info text text": "unexpected argument 'text'",
    "generate text --length 1e3": "--length: invalid int value: '1e3'",
    f"generate text --length {'9' * 5000}": "--length: invalid int value: '999",
    "generate text --prompt it\u00e9": "'\u00e9' (U+00E9) at position 2",
    f"info {'x/' * 5000}": "...",
}


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: command[:60])
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(command, asked, place, monkeypatch):
    asked(f"info {command.split()[1]}")  # trains it
    monkeypatch.setattr(memory, "available_memory", lambda: 2 << 30)
    before = everything(place)
    result = asked(command)
    assert_refused(result, REFUSED[command])
    assert len(result.err) < 2100
    assert everything(place) == before


ACCEPTED = [
    "gates text it",
    "gates translate new.en",
    "transcribe transcribe recordings --choose commands.txt",
    "memory text --plot broken.png",
    "memory text book.txt --steps 1000000000",
    "evaluate forecast --cutoffs 1000000000",
    "generate text --length 3 --top-k 100000000000000000000",
    "translate translate new.en --no-repeat 100000000000000000000 --batch-size 1000000000",
    "transcribe live --live",
]


@pytest.mark.parametrize("command", ACCEPTED)
def test_what_is_odd_and_can_be_done_is_done(command, asked, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert asked(command).status == 0


def test_a_picture_may_be_of_any_known_format_and_takes_the_place_of_an_older(tmp_path):
    for suffix in PICTURES:
        file = tmp_path / f"a{suffix}"
        file.touch()
        save_picture(new_axes(1, 1, "a test"), file)
        assert file.stat().st_size > 100
    assert len(list(tmp_path.iterdir())) == len(PICTURES)


def test_no_file_takes_the_place_of_a_device_or_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for check in (check_new_file, lambda path: atomic_file(path).__enter__()):
        with pytest.raises(OstinatoError, match="a.png: cannot be written: is no regular file"):
            check(tmp_path / "a.png")
        with pytest.raises(OstinatoError, match="/dev/null: cannot be written: is no regular"):
            check(Path("/dev/null"))
    assert (tmp_path / "a.png").is_fifo()
    (tmp_path / "b.mid").mkdir()
    with pytest.raises(OstinatoError, match="b.mid: cannot be written: is a folder"):
        check_new_file(tmp_path / "b.mid", MIDI)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    for check, path in ((check_new_file, "a.png"), (check_new_folder, "a"), (check_new_folder, "")):
        with pytest.raises(OstinatoError, match="cannot be written: .*closed is not writable"):
            check(tmp_path / "closed" / path)


# Full disks. A process may be held to files of a size, which tells as a full disk does.


@contextmanager
def files_of(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_model_that_cannot_be_written_whole_names_the_file_and_leaves_the_old(run, tmp_path):
    model = TextGenerator.load(run)
    model.save(tmp_path / "model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    with files_of(2000), pytest.raises(OstinatoError) as error:
        model.save(tmp_path / "model")
    assert "weights.safetensors: cannot be written: File too large." in str(error.value)
    assert {n: (tmp_path / "model" / n).read_bytes() for n in before} == before
    with pytest.raises(OstinatoError, match="file/model: cannot be written: Not a directory"):
        (tmp_path / "file").touch()
        model.save(tmp_path / "file" / "model")


@pytest.mark.parametrize("size", [100, 600, 3000])
def test_a_run_that_cannot_be_written_names_a_file(size, place, ostinato, monkeypatch):
    monkeypatch.chdir(place)
    before = everything(place)
    with files_of(size):
        result = ostinato(f"train {RUNS['text']} --out full")
    assert_refused(result, ": cannot be written: File too large.")
    assert "full" in result.err.partition(":")[2].partition(":")[0]
    assert {path for path in everything(place) if "full" not in path.parts} == {*before}


def test_a_picture_that_cannot_be_written_leaves_the_old(asked, place):
    asked("info text")
    (place / "memory.png").write_bytes(b"old")
    with files_of(1000):
        result = asked("memory text --plot memory.png")
    assert_refused(result, "memory.png: cannot be written: File too large.")
    assert (place / "memory.png").read_bytes() == b"old"


# A terminal that is not there.


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
def test_a_full_disk_behind_standard_output_is_one_line(run):
    for argv in (["info", run], ["generate", run, "--length", "20000"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "ostinato.cli", *map(str, argv)],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert done.stderr == "ostinato: standard output: No space left on device\n"
        assert done.returncode == 2


@pytest.mark.thorough
@pytest.mark.parametrize("closed", ["1", "0", "2"])
def test_a_closed_stream_is_no_traceback(closed, place, asked):
    asked("info forecast")
    command = f"{sys.executable} -m ostinato.cli forecast forecast --csv {closed}>&-"
    done = subprocess.run(["sh", "-c", command], cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("series,time,median") == (closed != "1")


@pytest.mark.thorough
def test_letters_that_are_no_text_are_refused_in_one_line(run):
    child = process("generate", run, "--prompt", os.fsdecode(b"\xff"), "--length", "3")
    out, err = child.communicate()
    assert child.returncode == 2
    assert out == b""
    assert err.startswith(b"ostinato: ") and err.count(b"\n") == 1


@pytest.mark.thorough
def test_ctrl_c_while_a_command_works_is_no_traceback(run):
    child = process("generate", run, "--length", "100000000")
    assert child.stdout.read(10)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert (child.returncode, err) == (130, b"")


# Memory


def test_memory_that_there_is_not_is_refused_with_its_bytes():
    there = available_memory()
    check_memory("it", there, "do not")
    with pytest.raises(OstinatoError, match=f"it needs at least {there + 1:,} bytes .*: do not."):
        check_memory("it", there + 1, "do not")


LIMITED = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from ostinato import cli
from ostinato.memory import peak_memory
try:
    cli.main(sys.argv[2:])
finally:
    print(peak_memory(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "forecast forecast --horizon 10000000",
        "forecast forecast --num-samples 100000000",
        "translate translate new.en --beam 10000000",
        "compose music --length 20000000 --out a.mid",
        "generate text --length 1000000000 --json",
        "train text book.txt --out new --hidden-size 12000",
        "train tag train.conllu --out new --hidden-size 12000",
        "train forecast sales.csv --out new --context 100000 --hidden-size 200 --batch-size 64",
        "train caption captions.csv --out new --hidden-size 12000",
    ],
)
def test_a_process_that_may_have_little_memory_never_asks_for_more(command, asked, place):
    asked(f"info {command.split()[1]}")
    before = everything(place)
    argv = [sys.executable, "-c", LIMITED, str(4 << 30), *command.split()]
    done = subprocess.run(argv, cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert " needs at least " in done.stderr and done.stderr.count("\n") == 1
    assert int(done.stdout) < 700e6
    assert everything(place) == before


def test_json_is_one_document_whatever_happens(asked):
    assert json.loads(asked("info text --json").out)["task"] == "TextGenerator"
    assert TEXT and cli.COMMANDS
