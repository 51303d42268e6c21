"""The program: errors, exit codes, what is imported, and the environment that it sets."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest
from command_line import QUICK, TEXT, TRAIN, assert_refused, everything

import ostinato as package
from ostinato import cli

pytestmark = pytest.mark.filterwarnings("default::UserWarning")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written_is_named(ostinato, here):
    (here / "secret.txt").write_text(TEXT)
    (here / "secret.txt").chmod(0)
    assert_refused(ostinato(f"train text secret.txt --out run {QUICK}"), "secret.txt: cannot be")
    (here / "closed").mkdir(mode=0o500)
    assert_refused(ostinato(f"train text text.txt --out closed/run {QUICK}"), "closed/run: cannot")
    assert not list((here / "closed").iterdir())


@pytest.mark.parametrize("argv", ["", "--help", "train", "train --help", "tune --help", "prepare"])
def test_the_list_of_commands_fits_a_terminal(argv, ostinato):
    shown = ostinato(*argv.split()) if argv != "" else ostinato("-h")
    assert (shown.status, shown.err) == (0, "")
    assert max(map(len, shown.out.splitlines())) <= 80
    of = argv.split()[0] if argv[:1].isalpha() else "train"
    assert all(f"\n  {name}  " in shown.out for name in cli.COMMANDS if name.startswith(f"{of} "))
    assert ("  predict " in shown.out) == (not argv[:1].isalpha())


def test_an_unknown_command_is_one_line(ostinato):
    assert_refused(ostinato("dance"), "unknown command 'dance'; did you mean")
    assert_refused(ostinato("train poems"), "unknown command 'train poems'")
    assert_refused(ostinato("--bogus"), "unknown command '--bogus'; see ostinato --help")


EXTRAS = {
    "tokenizers": ("--level bpe", "needs tokenizers: pip install 'ostinato[bpe]'"),
    "torch.utils.tensorboard": ("--tensorboard", "pip install 'ostinato[tensorboard]'"),
}


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_extra_is_one_line_and_leaves_nothing(module, ostinato, here, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    before = everything(here)
    flags, words = EXTRAS[module]
    assert_refused(ostinato(f"{TRAIN} {flags}"), words)
    assert everything(here) == before


def test_a_terminal_without_letters_is_no_reason_to_fail(run, here, monkeypatch):
    for argv in ([*TRAIN.split(), "--steps", "2"], ["generate", str(run), "--length", "5"]):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        assert end.value.code == 0
        assert out.buffer.getvalue().isascii()


HEAVY = {
    *["torch", "numpy", "scipy", "sklearn", "safetensors", "pandas", "matplotlib", "rich"],
    *["importlib.metadata", "inspect", "dataclasses"],
}


def process(*argv, python=("-m", "ostinato.cli"), **more):
    run = [sys.executable, *python, *map(str, argv)]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(run, env=environ, **pipes, **more)


def test_the_version_needs_nothing_heavy():
    shown = ("-X", "importtime")
    child = process("--version", python=(*shown, "-m", "ostinato.cli"))
    out, err = child.communicate()
    assert (child.returncode, out.decode()) == (0, f"ostinato {package.__version__}\n")
    imported = imports(err)
    assert "ostinato" in imported
    assert not HEAVY & imported - imports(process(python=(*shown, "-c", "")).communicate()[1])


def imports(importtime):
    return {line.rpartition("|")[2].strip() for line in importtime.decode().splitlines()}


def test_help_imports_no_pytorch_and_reads_the_sources_of_its_command_alone():
    code = f"""
import sys
before = set(sys.modules)
from ostinato.cli import COMMANDS, main, options
def run(*argv):
    try:
        main(argv)
    except SystemExit as end:
        assert end.code in (0, 2), argv
    return options._source.cache_info().currsize
for argv in ([], ["--help"], ["--version"], ["train"], ["train", "--help"], ["dance"]):
    assert run(*argv) == 0, argv
assert run("info", "--help") == 1
assert run("generate", "--help") == 3
for name in COMMANDS:
    run(*name.split(), "--help")
    run(*name.split(), "--bogus")
heavy = {HEAVY!r} & set(sys.modules) - before
sys.exit(", ".join(heavy) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
def test_a_reader_that_goes_away_is_no_trouble(run):
    for argv, wanted in (
        (["info", run], 0),
        (["generate", run, "--length", "100000"], 10),
    ):
        with process(*argv) as child:
            child.stdout.read(wanted)
            child.stdout.close()
            assert child.stderr.read() == b""
        assert child.returncode == 141


PAUSED = """
import sys
from ostinato.cli import main
from ostinato.training.callbacks import MetricsFile

def on_step(self, record, real=MetricsFile.on_step):
    real(self, record)
    if record["step"] == 20:
        print("at step 20", flush=True)
        sys.stdin.read()

MetricsFile.on_step = on_step
main(sys.argv[1:])
"""


@pytest.mark.thorough
def test_ctrl_c_at_a_terminal(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    command = f"train text text.txt --out run --steps 50 --evaluations 3 {QUICK}".split()
    child = process(*command, python=("-c", PAUSED), cwd=tmp_path, stdin=subprocess.PIPE)
    while (line := child.stdout.readline()) != b"at step 20\n":
        assert line, child.stderr.read().decode()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate()
    assert child.returncode == 130
    assert err.decode().startswith("Stopped at step 20")
    assert "Traceback" not in err.decode()
    child = process(*err.decode().split("ostinato", 1)[1].split(), cwd=tmp_path)
    out, err = child.communicate()
    assert (child.returncode, err) == (0, b"")
    assert "50 steps" in out.decode()


@pytest.mark.parametrize(
    "result", [{}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "7"}, {"OMP_WAIT_POLICY": "active"}]
)
def test_openmp_is_told_how_long_to_spin_before_pytorch_is_there_unless_the_user_has(
    result, tmp_path
):
    (tmp_path / "book.txt").touch()
    names = ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"]
    code = f"""
import json, os, sys
from ostinato.cli import OPENMP, main

class Finder:  # of PyTorch: what the environment is when it is asked for
    def find_spec(name, path=None, target=None):
        if name == "torch":
            found = {{name: os.environ[name] for name in {names} if name in os.environ}}
            print(json.dumps([OPENMP, found]))
            sys.exit(9)

sys.meta_path.insert(0, Finder)
main(["train", "text", "book.txt", "--out", "run"])
"""
    environ = {name: value for name, value in os.environ.items() if name not in names} | result
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 9, done.stderr
    ours, found = json.loads(done.stdout)
    assert set(ours) < set(names)
    assert found == (result or ours)


def test_a_program_that_has_pytorch_already_keeps_its_environment(monkeypatch, capsys):
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    assert "torch" in sys.modules
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert dict(os.environ) == before
