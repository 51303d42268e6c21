"""The pages of documentation: their code runs, their links resolve, and none is forgotten."""

import doctest
import gzip
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import unicodedata
import warnings
from pathlib import Path

import pytest
from command_line import write_data

import ostinato
from ostinato import cli
from ostinato.data import columns, formats
from ostinato.tasks.registry import TASKS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
_spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
hooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks)

WRITTEN = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
TEXTS = hooks.texts_of(DOCS)
NAMED = re.findall(r"^ +- \"?\??([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text(), re.M)
TINY = {("epochs", "steps", "minutes"): "--epochs 2", ("hidden-size",): "--hidden-size 8"}
"""What a command that trains is given, unless it has one of these options."""


MODULES = ("cells", "networks", "insight")
FENCED = r"^```(\w+)\n(.*?)^```"


def blocks(page):
    """Language and code of the blocks that a reader runs.

    Those of docs/extending.md are files of the package; tests/test_extending.py runs them.
    """
    found = re.findall(FENCED, TEXTS[page], re.M | re.S)
    return [(kind, code) for kind, code in found if kind in ("python", "sh")]


def runs(page):
    return any(not code.startswith("# src/") for kind, code in blocks(page))


def tiny(command):
    """The words of a command, with a small budget."""
    command = re.sub(r"--minutes \d+", "--steps 30", command)
    name, *words = shlex.split(command, comments=True)
    assert name == "ostinato", f"{command}: expected a command of ostinato"
    trains = words[0] in ("train", "tune") and words[1] in {task.command for task in TASKS}
    for flags, given in TINY.items():
        if trains and not any(f"--{flag}" in words for flag in flags):
            words += given.split()
    return words


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_examples(folder):
    """What pages that do not write their own data read."""
    write_data(folder)
    reviews = (folder / "reviews.csv").read_bytes()
    (folder / "reviews.data").write_bytes(reviews)
    (folder / "reviews.csv.gz").write_bytes(gzip.compress(reviews))
    words = [f"{i},{w},{t}" for i in range(20) for w, t in (("the", "D"), ("dog", "N"))]
    (folder / "words.csv").write_text("\n".join(["sentence,word,tag", *words]))


@pytest.mark.thorough
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("page", [page for page in WRITTEN if runs(page)])
def test_the_code_of_a_page_runs_from_top_to_bottom(folder, capfd, page):
    """Python shares names, commands the folder; pages in folders write what they read."""
    if "/" not in page:
        write_examples(folder)
    names = {"__name__": "page"}
    for kind, code in blocks(page):
        if kind == "python":
            if needed := re.match(r"# needs (\w+)", code):
                pytest.importorskip(needed[1], reason=f"the last block of {page} needs it")
            with warnings.catch_warnings():
                if needed:
                    warnings.simplefilter("ignore")  # of another library
                exec(compile(code, f"docs/{page}", "exec"), names)
            continue
        for command in code.splitlines():
            capfd.readouterr()
            with pytest.raises(SystemExit) as end:
                cli.main(tiny(command))
            out, err = capfd.readouterr()
            assert not end.value.code, f"{command}\n{out}\n{err}"
            assert out, f"{command} prints nothing"
            assert page != "tables.md" or "label: " in out


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(path.stem for path in hooks.NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_runs_from_top_to_bottom(folder, monkeypatch, name):
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = {"__name__": "__main__"}
    for i, (kind, code) in enumerate(blocks(f"notebooks/{name}.md")):
        assert kind == "python"
        exec(compile(code, f"docs/notebooks/{name}.ipynb, block {i}", "exec"), names)


def test_notebooks_are_stored_without_results():
    files = sorted(hooks.NOTEBOOKS.glob("*.ipynb"))
    assert [file.stem for file in files] == ["diagnose", "text"]
    for file in files:
        book = json.loads(file.read_text(encoding="utf-8"))
        assert (book["nbformat"], book["metadata"]["kernelspec"]["name"]) == (4, "python3")
        assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
        code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        assert [(c["outputs"], c["execution_count"]) for c in code] == [([], None)] * len(code)


def slugs(text):
    """The anchors of a page's headings, as Markdown makes them."""
    found = []
    for heading in re.findall(
        r"^#{1,6} (.+)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M
    ):
        plain = unicodedata.normalize("NFKD", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading))
        plain = plain.encode("ascii", "ignore").decode()
        found.append(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


@pytest.mark.parametrize("page", sorted(TEXTS))
def test_links_of_a_page_resolve(page):
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", TEXTS[page], flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = os.path.normpath(Path(page).parent / path) if path else page
        assert file in TEXTS or (DOCS / file).is_file(), f"{page}: {target}: no such page"
        assert not anchor or anchor in slugs(TEXTS[file]), f"{page}: {target}: no such heading"


def test_every_page_is_in_the_navigation_once():
    estimators = {f"reference/{task.estimator}.md" for task in TASKS}
    required = re.findall(r"^ +- ([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert [page for page in required if page not in TEXTS] == []
    assert len(NAMED) == len(set(NAMED))
    assert {*NAMED} & {*TEXTS} | estimators == {*TEXTS}


def test_pages_that_are_not_there_are_left_out_only_where_they_may_be():
    nav = [{"A": ["a.md", "?b.md", {"C": ["?c.md"]}]}, {"D": ["reference/estimators"]}]
    first, second = hooks.navigation(nav, {"a.md", "c.md"})
    assert first == {"A": ["a.md", {"C": ["c.md"]}]}
    assert hooks.named(second)[0] == "reference/TextGenerator.md"


def test_llms_txt_lists_every_page_with_what_it_is_about():
    text = hooks.llms([{"All": sorted(TEXTS)}], TEXTS, "In short.")
    assert text.startswith("# Ostinato\n\n> In short.\n")
    for page in TEXTS:
        assert f"]({page.removesuffix('md')}html)" in text
    assert "[Generate and score text](guides/text.html): `TextGenerator` and" in text
    assert "[Streaming](guides/streaming.html): A stream runs a layer one step at a time" in text


def test_every_page_has_one_title_and_says_what_it_is_about():
    for page, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        assert len(re.findall(r"^# ", prose, re.M)) == 1, page
        assert hooks.summary_of(text), page


def test_every_public_name_is_in_the_reference():
    paths = re.findall(r"^::: ([\w.]+)", "\n".join(TEXTS.values()), re.M)
    assert len(paths) == len(set(paths))
    homes = [path.rpartition(".") for path in paths]
    shown = {id(getattr(importlib.import_module(home), name)) for home, _, name in homes}
    for module in (ostinato, ostinato.cells, ostinato.networks, ostinato.insight):
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        public = {name: getattr(module, name) for name in names}
        missing = [n for n, each in public.items() if id(each) not in shown]
        assert [n for n in missing if not inspect.ismodule(public[n])] == [], module.__name__


def test_what_guides_import_is_in_the_reference():
    paths = set(re.findall(r"^::: ([\w.]+)", "\n".join(TEXTS.values()), re.M))
    names = {path.rpartition(".")[2] for path in paths}
    for page in TEXTS:
        if page == "extending.md":  # changes the library itself
            continue
        code = "\n".join(block for kind, block in re.findall(FENCED, TEXTS[page], re.M | re.S))
        for home, listed in re.findall(r"^ *from (ostinato[\w.]*) import (.+)$", code, re.M):
            for name in re.split(r", *", listed):
                public = home in ("ostinato", *(f"ostinato.{m}" for m in MODULES))
                known = name in names if public else f"{home}.{name}" in paths
                known |= (home, name) == ("ostinato.lightning", "Watch")
                assert known, f"{page}: from {home} import {name}"
        for name in re.findall(r"(?<!import )(?<!from )\bostinato\.([A-Za-z]\w*)", code):
            assert name in names | {*MODULES}, f"{page}: ostinato.{name}"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.estimator)
def test_the_page_of_an_estimator_has_every_setting(task):
    names = getattr(ostinato, task.estimator)._get_param_names()
    page = TEXTS[f"reference/{task.estimator}.md"]
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_the_page_on_installing_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = TEXTS["start/install.md"]
    extras = {*project["optional-dependencies"]} - {"dev", "release"}
    assert [extra for extra in extras if f"| `{extra}` |" not in page] == []


def test_every_command_is_in_the_reference_with_its_options():
    page = TEXTS["reference/commands.md"]
    for name, command in cli.COMMANDS.items():
        part = page.partition(f"### ostinato {name}\n")[2].partition("\n### ")[0]
        flags = [option.flag for option in command.options() if option.form == "keyword"]
        assert part and [f for f in flags if f not in part] == [], name


def test_the_page_of_cells_has_every_cell_with_its_code_and_its_name():
    page = TEXTS["understand/cells.md"]
    for name in ("lstm", "gru", "min-lstm", "indrnn"):
        assert f"`{name}`" in page
    part = page.partition("## CoupledLSTMCell\n")[2].partition("\n## ")[0]
    assert "| `weight_ih` | (3H, I) |" in part and "`step` is that of [LSTMCell]" in part
    assert "return LSTMGates((-f).sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())" in part


def test_the_examples_of_the_hooks_hold():
    found = doctest.testmod(hooks)
    assert found.attempted and not found.failed


def test_every_picture_is_shown_and_has_a_script():
    shown = re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", "\n".join(TEXTS.values()))
    names = {Path(name).name for name in shown}
    names |= {
        Path(n).name for n in re.findall(r"docs/[\w/]+\.png", (ROOT / "README.md").read_text())
    }
    assert {path.name for path in DOCS.rglob("*.png")} == names
    scripts = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    pages = {
        f"{stem}.png" for stem in re.findall(r'^    "(?:\w+/)?([\w-]+)\.md": "', scripts, re.M)
    }
    assert [name for name in names if name not in scripts and name not in pages] == []


@pytest.mark.thorough
def test_the_site_builds_and_asks_nobody(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name, reason="the site needs ostinato[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    for name in ("404.html", "llms.txt", "search/search_index.json", "index.html"):
        assert (tmp_path / name).is_file(), name
    loads = (
        r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'> ]+)"
    )
    for page in tmp_path.rglob("*.html"):
        assert re.findall(loads, page.read_text()) == [], page
    for sheet in tmp_path.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text()) == [], sheet
    layers = (tmp_path / "reference" / "layers.html").read_text()
    assert 'id="ostinato.LSTM"' in layers and "variational_dropout" in layers


def test_the_page_names_every_format_and_usual_name():
    page = TEXTS["tables.md"]
    for each in formats.FORMATS:
        said = f"`{each.name}`" in page or f"--format {each.name}" in page
        missing = [suffix for suffix in each.suffixes if f"`{suffix}`" not in page]
        assert said and not missing, f"docs/tables.md: say what {each.name} is {missing}"
    usual = (columns.LABELS | columns.TEXTS) - {"labels", "tags", "word", "token"}
    assert [name for name in usual if f"`{name}`" not in page] == []
