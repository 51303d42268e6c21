"""Every block of code in the pages of documentation does what its page says."""

import gzip
import re
import shlex
from pathlib import Path

import pytest
from command_line import write_data

from ostinato import cli
from ostinato.data import columns, formats

ROOT = Path(__file__).parent.parent
PAGES = [
    "docs/tables.md",
    "docs/checks.md",
    "docs/training.md",
    "docs/classification.md",
    "docs/series.md",
    "docs/tagging.md",
    "docs/diagnosis.md",
    "docs/watch.md",
]
TEXT = "".join((ROOT / page).read_text() for page in PAGES)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder to work in, with the files that the pages read."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    reviews = (tmp_path / "reviews.csv").read_bytes()
    (tmp_path / "reviews.data").write_bytes(reviews)
    (tmp_path / "reviews.csv.gz").write_bytes(gzip.compress(reviews))
    words = [f"{i},{w},{t}" for i in range(20) for w, t in (("the", "D"), ("dog", "N"))]
    (tmp_path / "words.csv").write_text("\n".join(["sentence,word,tag", *words]))
    return tmp_path


@pytest.mark.parametrize("code", [block for kind, block in BLOCKS if kind == "python"])
def test_python_blocks_run(data, code):
    exec(compile(code, "docs", "exec"), {})


@pytest.mark.thorough
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize(
    "command",
    [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line],
)
def test_commands_run(data, capfd, command):
    with pytest.raises(SystemExit) as end:
        cli.main([*shlex.split(command)[1:], "--epochs", "2", "--hidden-size", "8"])
    out, err = capfd.readouterr()
    assert not end.value.code, f"{command}\n{out}\n{err}"
    assert "label: " in out


def test_the_page_names_every_format_and_usual_name():
    page = (ROOT / "docs/tables.md").read_text()
    for each in formats.FORMATS:
        said = f"`{each.name}`" in page or f"--format {each.name}" in page
        missing = [suffix for suffix in each.suffixes if f"`{suffix}`" not in page]
        assert said and not missing, f"docs/tables.md: say what {each.name} is {missing}"
    usual = (columns.LABELS | columns.TEXTS) - {"labels", "tags", "word", "token"}
    assert [name for name in usual if f"`{name}`" not in page] == []
