"""What other systems do otherwise: Windows, of which a fixture has the rules, and encodings.

Windows opens no folder, renames nothing over what is there, and neither renames nor removes a file
that somebody has open or mapped. It has no fork, pread, fcntl; ``os.kill(pid, 0)`` ends a process.
"""

import ast
import errno
import gc
import io
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ostinato
from ostinato import files, memory
from ostinato.data.text import TextSource
from ostinato.training import runs

ROOT = Path(__file__).parent.parent


def in_use(path):
    """Files at or below a path that this process has open or mapped."""
    descriptors = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    known = {os.readlink(link) for link in descriptors if link.is_symlink()}
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    known |= {line[line.index("/") :] for line in maps if "/" in line}
    path = os.path.realpath(path)
    return sorted(each for each in known if each == path or each.startswith(f"{path}{os.sep}"))


@pytest.fixture
def windows(monkeypatch):
    """The rules of Windows, as far as a Linux can be held to them."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("open files are looked up in /proc, which this system does not have")
    there = {name: getattr(os, name) for name in ("open", "rename", "replace", "unlink")}
    rmtree = shutil.rmtree

    def refuse_open(path, why="used by another process"):
        if used := in_use(path):
            raise PermissionError(errno.EACCES, f"{why}: {used}", os.fspath(path))

    def open_file(path, flags, *args, **kwargs):
        if not isinstance(path, int) and os.path.isdir(path) and "dir_fd" not in kwargs:
            raise PermissionError(errno.EACCES, "is a folder", os.fspath(path))
        return there["open"](path, flags, *args, **kwargs)

    def rename(source, target, **kwargs):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "is there", os.fspath(target))
        refuse_open(source)
        there["rename"](source, target)

    def replace(source, target, **kwargs):
        refuse_open(source)
        refuse_open(target)
        there["replace"](source, target)

    def unlink(path, **kwargs):
        if not kwargs.get("dir_fd"):
            refuse_open(path)
        there["unlink"](path, **kwargs)

    def remove(path, *args, **kwargs):
        refuse_open(path)
        with monkeypatch.context() as plain:
            plain.setattr(os, "open", there["open"])
            rmtree(path, *args, **kwargs)

    for name, each in {"rename": rename, "replace": replace, "unlink": unlink}.items():
        monkeypatch.setattr(os, name, each)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(shutil, "rmtree", remove)
    monkeypatch.setattr(os, "kill", lambda *args: pytest.fail("os.kill ends a process there"))
    for name in ("fork", "pread", "uname", "sysconf", "register_at_fork"):
        monkeypatch.delattr(os, name, raising=False)
    # Who relies on it to close a file closes it at some time.
    gc.collect()
    gc.disable()
    fake = SimpleNamespace(platform="win32", maxsize=sys.maxsize)
    for module in (files, memory, runs):
        monkeypatch.setattr(module, "sys", fake)
    monkeypatch.delattr(files, "fcntl", raising=False)
    yield
    gc.enable()


X, Y = ["a fine film", "a dull film", "fine", "dull"] * 15, ["good", "bad"] * 30
RHYME = "a rose is a rose is a rose, said the poet. " * 30


@pytest.mark.parametrize("kind", ["text", "classes", "forecast"])
def test_a_run_is_written_resumed_and_saved_again_under_the_rules_of_windows(
    windows, tmp_path, kind
):
    run = tmp_path / "run"
    run.mkdir()  # an empty folder may be given
    if kind == "text":
        model = ostinato.TextGenerator(
            hidden_size=8, steps=6, window=8, batch_size=4, evaluations=2
        )
        model.fit(RHYME, out=run)
    elif kind == "classes":
        model = ostinato.SequenceClassifier(hidden_size=8, epochs=2).fit(X, Y, out=run)
    else:
        model = ostinato.Forecaster(
            horizon=2, season=1, hidden_size=8, epochs=2, ensemble_size=1, context=8
        )
        model.fit(np.sin(np.arange(80) / 3), out=run)
    for folder in (run, tmp_path / "copy", tmp_path / "copy"):  # the second time over the first
        model.save(folder)
        assert type(ostinato.load(folder)) is type(model)
    again = type(model).resume(run)
    assert again.training_["steps"] == model.training_["steps"]
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith("unfinished")] == []


def test_a_fit_without_a_folder_leaves_none_behind(windows, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ostinato.SequenceClassifier(hidden_size=8, epochs=2).fit(X, Y)
    ostinato.TextGenerator(hidden_size=8, steps=4, window=8, batch_size=4).fit(RHYME)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_read_is_replaced_when_its_reader_is_done(windows, tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_bytes(b"old")
    reader = path.open("rb")
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        reader.close()

    monkeypatch.setattr(files.time, "sleep", sleep)
    with files.atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and len(waited) == 1


def test_one_who_reads_for_ever_is_an_error(windows, tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    writing = files.atomic_file(path)
    with (
        path.open("rb"),
        pytest.raises(ostinato.OstinatoError, match="cannot be written"),
        writing as file,
    ):
        file.write(b"new")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_elsewhere_a_refusal_is_one_at_once(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: pytest.fail("waits"))
    with pytest.raises(PermissionError):
        files.replace(tmp_path / "a", tmp_path / "b")


def test_leftovers_of_others_are_left_where_nobody_knows_whether_they_live(windows, tmp_path):
    (tmp_path / f".run.1.{os.getpid()}.unfinished").mkdir()
    runs.RunFolder.create(tmp_path / "run", lambda data: {})
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_on_a_drive_that_is_not_there(monkeypatch):
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(ostinato.OstinatoError, match="cannot be written: there is no"):
        files.check_new_folder(Path("Q:/run"))


def test_memory_is_unlimited_where_it_is_not_known(windows):
    memory.check_memory("forecast: horizon=9", 1e15, "choose a shorter horizon")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_syncs_no_folder_is_no_reason_to_stop(tmp_path, monkeypatch, code):
    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    if code == errno.EINVAL:
        files.sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match="Input/output"):
            files.sync_folder(tmp_path)


def test_standard_input_is_read_twice_without_pread(monkeypatch):
    monkeypatch.delattr(os, "pread")
    text = "Où est la rose? " * 100_000  # more than a piece
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    source = TextSource.from_paths("-", "*")
    first, second = iter(source), iter(source)
    parts = [next(first), next(second), *second]  # the two in turn
    assert len(parts) > 2 and "".join(parts[1:]) == text == parts[0] + "".join(first)


def test_standard_output_is_utf_8_on_windows(monkeypatch):
    app = sys.modules["ostinato.cli.app"]
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(app, "_run", lambda words: print("Ωμέγα"))
    with pytest.raises(SystemExit):
        app.main(["info"])
    out.flush()
    assert out.buffer.getvalue().decode().split() == ["Ωμέγα"]


def _unnamed(path):
    """Lines of calls that open a text file without its encoding."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        modes += [k.value.value for k in node.keywords if k.arg == "mode"]
        text = any(isinstance(m, str) and re.fullmatch("[rwax]t?[+]?", m) for m in modes)
        method = isinstance(node.func, ast.Attribute)
        if (
            (method and name in ("read_text", "write_text", "TextIOWrapper"))
            or (not method and name == "open" and not modes)
            or (text and name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"))
        ):
            yield node.lineno


def test_every_text_file_names_its_encoding(tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text("open(a)\nopen(a, 'rb')\np.read_text()\np.open('w')\nopen(a, encoding='x')")
    assert list(_unnamed(sample)) == [1, 3, 4]
    parts = [path for part in ("src", "tools") for path in (ROOT / part).rglob("*.py")]
    assert len(parts) > 50
    assert {str(path): lines for path in parts if (lines := list(_unnamed(path)))} == {}


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    metadata = project["tool"]["scikit-build"]["metadata"]["version"]
    source = (ROOT / metadata["input"]).read_text(encoding="utf-8")
    (found,) = re.findall(r'^__version__ = "(.+)"$', source, re.M)
    assert ostinato.__version__ == found
    others = [ROOT / "CMakeLists.txt", *(ROOT / "cpp").iterdir(), *(ROOT / "tools").iterdir()]
    texts = [path.read_text(encoding="utf-8") for path in others if path.is_file()]
    assert [text[:40] for text in texts if f'"{found}"' in text] == []
