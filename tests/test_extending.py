"""What `docs/extending.md` adds works: in a copy of the package, in the files that one place means.

The checks run in processes of their own, in which `ostinato` is that copy.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from command_line import Result, assert_refused, write_data
from laws import Case, leaves

import ostinato as package
from ostinato import _core, cells, cli
from ostinato.cli.commands import COMMANDS, listed
from ostinato.data import formats
from ostinato.recurrence.layers import Recurrent

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
SECTIONS = re.findall(r"^## An? (\w+): (.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
MAY_CHANGE = {
    "cell": ["recurrence/cells/variants.py"],
    "task": ["tasks/pronunciation.py", "tasks/registry.py"],
    "reader": ["data/formats.py", "data/stata.py"],
    "command": ["cli/inspection.py"],
}


def apply(kind, block, root):
    """Do to the files below a folder what a block of the page says; the file."""
    head, _, body = block.partition("\n")
    path = root / head.lstrip("#- ").removesuffix(", at the end")
    if kind == "python":
        assert path.exists() == head.endswith("at the end"), head
        with path.open("a", encoding="utf-8") as file:
            file.write("\n\n" + body if path.stat().st_size else body)
        return path
    text = path.read_text(encoding="utf-8")
    for hunk in body.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(x[1:] for x in lines if x[0] != sign) for sign in "+-")
        assert text.count(before) == 1, f"{PAGE.name}: stands {text.count(before)} times:\n{before}"
        text = text.replace(before, after)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A folder with the package in `src`, extended, and the tests."""
    root = tmp_path_factory.mktemp("extended")
    ignore = shutil.ignore_patterns("__pycache__", "_core*")
    shutil.copytree(ROOT / "src" / "ostinato", root / "src" / "ostinato", ignore=ignore)
    core = Path(_core.__file__)
    (root / "src" / "ostinato" / core.name).symlink_to(core)
    for name in ("docs", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", root)
    for section, text in SECTIONS:
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S)
        changed = {str(apply(kind, block, root).relative_to(root)) for kind, block in blocks}
        assert changed == {f"src/ostinato/{name}" for name in MAY_CHANGE[section]}
    return root


def in_copy(root, code, folder):
    """Run code in a process in which `ostinato` is the copy, not one that is installed editable."""
    code = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in type(f).__module__]\n"
        f"sys.path[:0] = [{str(root / 'src')!r}, {str(root / 'tests')!r}]\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-Wdefault", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_is_short_and_has_each_section_once():
    assert [name for name, _ in SECTIONS] == list(MAY_CHANGE)
    assert PAGE.read_text().count("\n") < 150


@pytest.mark.thorough
@pytest.mark.parametrize("name", MAY_CHANGE)
def test_what_the_page_adds_is_there(name, extended, tmp_path):
    write_data(tmp_path)
    in_copy(extended, f"import test_extending\ntest_extending.check_{name}()", tmp_path)


@pytest.mark.thorough
def test_the_laws_of_one_place_hold_with_what_the_page_adds(extended):
    """Its row is true, type checkers see it, imports go downward, every option has help ..."""
    tests = ["registry", "namespace", "layering", "cells", "cli_options", "cli_commands"]
    some = [f"tests/test_{name}.py" for name in tests]
    new = "registry or namespace or layering or every_name or pronounce or runs"
    options = ["-q", "-mnot thorough", "-pno:cacheprovider", "-rfE", f"-k{new}", *some]
    in_copy(extended, f"import pytest\nsys.exit(pytest.main({options!r}))", extended)


# In the copy


def ostinato(words):
    """Run a command, which is not to fail in any way but by a line."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with streams[0], streams[1], pytest.raises(SystemExit) as end:
        cli.main(shlex.split(words))
    return Result(end.value.code, out.getvalue(), err.getvalue())


def done(words):
    result = ostinato(words)
    assert result.status == 0, result
    return result.out


def check_cell():
    cell = cells.UGRNNCell(3, 4)
    assert "UGRNNCell" in cells.__all__
    case = Case(cell, T=5)
    with torch.no_grad():
        y, last = cells.scan(cell, case.w, case.x, case.state)
    w = {name: each.detach().numpy() for name, each in case.w.items()}
    h = case.state.h.detach().numpy().copy()
    for x_t, y_t in zip(case.x.detach().numpy(), y.numpy(), strict=True):
        for row in range(len(h)):
            a = w["weight_ih"] @ x_t[row] + w["bias_ih"] + w["weight_hh"] @ h[row] + w["bias_hh"]
            g, n = 1 / (1 + np.exp(-a[:4])), np.tanh(a[4:])
            h[row] = g * h[row] + (1 - g) * n
        np.testing.assert_allclose(y_t, h, rtol=1e-12)
    np.testing.assert_allclose(last.h.numpy(), h, rtol=1e-12)

    def f(x, h, *weights):
        named = dict(zip(case.w, weights, strict=True))
        return tuple(leaves(cells.scan(cell, named, x, type(case.state)(h))))

    assert torch.autograd.gradcheck(f, case.inputs)
    y, _ = Recurrent(cell, bidirectional=True)(torch.randn(7, 2, 3), lengths=[7, 3])
    assert y.shape == (7, 2, 8)
    assert "min-lstm, ugrnn," in " ".join(done("train classify --help").split())
    assert "ugrnn" in ostinato("train text book.txt --out run --cell ugrn").err
    done("train text book.txt --out run --cell ugrnn --steps 5 --hidden-size 8")
    assert package.describe("run")["parameters"]["cell"] == "ugrnn"
    assert type(package.load("run").network_.recurrent.cells[0]) is cells.UGRNNCell


def check_task():
    words = ["cab", "bad", "dab", "ace", "bed", "fade", "deaf", "cafe", "bead", "face"] * 6
    spoken = [" ".join(word.upper()) for word in words]
    model = package.Pronouncer(level="char", hidden_size=32, epochs=25, learning_rate=0.01)
    assert model.fit(words, spoken).evaluate(words, spoken)["word_accuracy"] > 0.5
    model.save("model")
    assert package.load("model").predict(words[:10]) == model.predict(words[:10])
    Path("dictionary.tsv").write_text(
        "word\tphonemes\n" + "".join(f"{w}\t{s}\n" for w, s in zip(words, spoken, strict=True))
    )
    Path("words.txt").write_text("cab\nface\n")
    assert "  train pronounce   Train a model of pronunciation." in done("--help")
    assert "--copying" in done("train pronounce --help")
    train = (
        "train pronounce dictionary.tsv --source word --target phonemes --level char --out spoken"
    )
    assert "ostinato pronounce spoken FILE" in done(f"{train} --epochs 2 --hidden-size 16")
    predicted = package.load("spoken").predict(["cab", "face"])
    assert done("pronounce spoken words.txt").splitlines() == predicted
    lines = [json.loads(line) for line in done("predict spoken words.txt --json").splitlines()]
    assert [line["text"] for line in lines] == predicted
    assert "word accuracy" in done("evaluate spoken dictionary.tsv")
    assert done("train pronounce --resume --out spoken --quiet") == ""
    assert_refused(
        ostinato("memory spoken"), "memory: spoken holds a Pronouncer; commands for it: "
    )
    assert_refused(ostinato("train tag --resume --out spoken"), "ostinato train pronounce --resume")


def check_reader():
    frame = pandas.read_csv("reviews.csv")
    frame.to_stata("reviews.dta", write_index=False)
    for path in ("reviews.csv", "reviews.dta"):
        assert formats.read_table(path).texts(0).tolist() == frame["text"].tolist()
    assert formats.is_table(Path("reviews.dta"))
    out = done("train classify reviews.dta --epochs 2 --hidden-size 8 --out run")
    assert "Trained for" in out
    Path("reviews.dta").rename("reviews")
    assert "accuracy" in done("train classify reviews --format stata --epochs 1 --out other")
    Path("broken.dta").write_bytes(b"no table")
    assert_refused(ostinato("evaluate run broken.dta"), "broken.dta: cannot be read as Stata: ")
    Path("folder").mkdir()
    refused = ostinato("train forecast folder --out x")
    assert_refused(refused, "folder: holds no tables (")
    assert ".dta" in refused.err
    with pytest.raises(package.OstinatoError, match="expected one of csv, .*excel, stata"):
        formats.read_table("reviews", formats.TableSettings(format="dta"))


def check_command():
    assert COMMANDS["runs"] in listed()
    assert "  runs              List the models below a folder" in done("--help")
    assert "--task TEXT" in done("runs --help")
    assert_refused(ostinato("runs"), "runs: FOLDER is required: folder that holds models.")
    assert_refused(ostinato("runs . --tasks x"), "unknown option --tasks; did you mean --task?")
    assert_refused(ostinato("runs images"), "images: expected a folder with models; found none.")
    for name in ("a", "b"):
        done(f"train text book.txt --out models/{name} --steps 3 --hidden-size 8")
    done("train classify reviews.csv --out models/c --epochs 1 --hidden-size 8")
    lines = done("runs models").splitlines()
    assert [line.split()[0] for line in lines] == ["SequenceClassifier", *["TextGenerator"] * 2]
    assert done("runs models --task TextGenerator").splitlines() == lines[1:]
