"""Damaged files of every format: data, or an answer in one line."""

import subprocess
import sys

import fuzz
import pytest

for module in ("conllu", "mido", "openpyxl", "PIL", "pyarrow", "scipy", "soundfile", "zstandard"):
    pytest.importorskip(module)


def run(*arguments):
    """Run `fuzz` in a process of its own, whose memory is bounded."""
    return subprocess.run(
        [sys.executable, fuzz.__file__, *map(str, arguments)],
        capture_output=True, text=True, errors="replace", timeout=1200,
    )  # fmt: skip


def test_damaged_files_are_read_or_refused():
    done = run("--files", 300, "--seed", "sample")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_damaged_files_are_read_or_refused(seed):
    done = run("--files", 1000, "--seed", seed)
    assert done.returncode == 0, done.stdout


def test_what_fails_is_told_with_its_file(tmp_path, monkeypatch, capsys):
    def read(path, random):
        if path.stem.endswith("-3"):
            raise KeyError("planted")

    monkeypatch.setattr(fuzz, "read", read)
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(fuzz.warnings, "simplefilter", lambda *_: None)
    assert fuzz.run(5, 60, 1, (".wav",), tmp_path / "kept") == 1
    assert "KeyError: 'planted'" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "kept").glob("1-*")] == ["1-3.wav"]
