"""What all tests share: hidden GPUs, and fixtures of the command line."""

import os
import shlex
import signal

import pytest
from command_line import TEXT, Result, write_data

import ostinato as package
from ostinato import TextGenerator, cli


def pytest_configure(config):
    """Hide GPUs, but from the tests of GPUs alone, and the compiler; hear Ctrl-C."""
    if not all("test_cuda" in argument for argument in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Cells that the core does not have run on the reference, but where a test asks for kernels: to
    # compile them takes a second or two each.
    os.environ.setdefault("OSTINATO_COMPILER", "none")
    # A shell lets what it runs in the background ignore Ctrl-C, and all its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def ostinato(capsys, monkeypatch):
    """Runs a command in this process, as a shell would split it."""
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*words):
        capsys.readouterr()
        argv = shlex.split(words[0]) if len(words) == 1 else [str(word) for word in words]
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        return Result(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a text and some that are none."""
    monkeypatch.chdir(tmp_path)
    files = {
        "text.txt": TEXT.encode(),
        "empty.txt": b"",
        "latin.txt": "one\ntwo caf\xe9".encode("latin-1"),
        "one.txt": b"x",
        "ten.txt": b"0123456789",
        "taken/file": b"here first",
        "bare/notes.md": b"no text",
        "good.toml": b"hidden_size = 6\nlearning_rate = 0.5\ncell = 'gru'\nunknown = '?'\n",
        "broken.toml": b"steps = = 3",
        "latin.toml": b"cell = '\xe9'",
        "key.toml": b"hiden_size = 3",
        "table.toml": b"[training]\nsteps = 3",
        "word.toml": b"steps = 'three'",
        "list.toml": b"steps = [1, 2]",
        "half.toml": b"steps = 2.5",
        "bool.toml": b"hidden_size = true",
        "choice.toml": b"cell = 'tree'",
        "budget.toml": b"minutes = 1.0",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    settings = {"hidden_size": 12, "window": 12, "batch_size": 8, "learning_rate": 0.02}
    TextGenerator(steps=40, **settings).fit(TEXT, out=out)
    return out


@pytest.fixture
def asked(monkeypatch):
    """What the estimator is asked by a command; nothing is done."""
    asked = {}

    class Estimator:
        def __init__(self, **settings):
            asked["settings"] = settings
            self.training_ = {"ended": "budget", "steps": 1, "seconds": 1.0, "best_step": 1}

        def fit(self, *args, **more):
            asked["fit"] = args, more

        @classmethod
        def resume(cls, *args, **more):
            asked["resume"] = args, more
            return cls()

        @classmethod
        def load(cls, run):
            asked["run"] = run
            return cls()

        def stream(self, **controls):
            asked["controls"] = controls
            return iter(["a", "b"])

        def generate(self, **controls):
            asked["controls"] = controls
            return "ab"

    monkeypatch.setattr(package, "TextGenerator", Estimator)
    monkeypatch.setattr(package, "describe", lambda run, **more: {"task": "TextGenerator"})
    monkeypatch.setattr(package, "load", Estimator.load)
    return asked


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder to work in, with data of every kind."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small run on a text."""
    folder = tmp_path_factory.mktemp("written")
    text = 'he said "no" and left.\n' * 80
    TextGenerator(hidden_size=12, steps=40, window=20, cell="lstm").fit(text, out=folder / "run")
    return folder / "run"
