"""The generated pages of the documentation, `llms.txt` and the navigation: hooks of mkdocs.

`pages` needs nothing but the package, so that tests can look at every page without mkdocs.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import ostinato
from ostinato import cells, insight, networks
from ostinato.cli.commands import GROUPS, PREPARE, TUNE, listed
from ostinato.cli.options import REQUIRED, help_of, options_of, section
from ostinato.recurrence.backends import diagonal
from ostinato.recurrence.cells.base import _named
from ostinato.tasks.estimators import Estimator
from ostinato.tasks.registry import TASKS

INTRO = {
    "layers": (
        "Layers, streams and models",
        "The names of `ostinato` itself; the estimators have pages of their own.",
        ostinato,
    ),
    "cells": (
        "Cells and their states",
        "The names of `ostinato.cells`. Equations, shapes and code of each cell: "
        "[Cells](../understand/cells.md).",
        cells,
    ),
    "networks": ("Networks", "The names of `ostinato.networks`.", networks),
    "insight": ("Measurements and diagnosis", "The names of `ostinato.insight`.", insight),
}
TOOLS = (
    "ostinato.data.formats.read_table",
    "ostinato.data.tables.TableSettings",
    "ostinato.data.midi.roll_of",
    "ostinato.data.midi.write_midi",
    "ostinato.networks.arrangements.recurrent_layers",
    "ostinato.training.callbacks.read_metrics",
    "ostinato.training.health.Monitor",
)
"""What the guides take from other modules."""

NOTEBOOKS = Path(__file__).parent / "notebooks"

RESULTS = {
    "Forecaster": ["forecasting.forecast.Forecast", "forecasting.predictor.ForecastStream"],
    "TextGenerator": ["generation.Score", "generation.DegenerateTextWarning"],
    "Speaker": ["base.Speech", "speaking.SpeechWarning"],
    "Transcriber": ["transcription.TranscriptionStream"],
    "Translator": ["base.Text"],
    "Vocoder": ["vocoding.VocoderStream"],
}
"""What methods of an estimator return, below `ostinato.tasks`."""

I, O, H = 11, 3, 1000
"""Sizes that can be told from each other in the shapes of a cell."""


def public(module: ModuleType) -> dict[str, Any]:
    """Return the public classes and functions of a module by name."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {n: each for n, each in found.items() if inspect.isclass(each) or callable(each)}


def paths() -> dict[str, str]:
    """Return the path of each public class and function, as the reference lists it, by name."""
    found = {task.estimator: f"{task.module}.{task.estimator}" for task in TASKS}
    for _, _, module in reversed(INTRO.values()):
        for name, each in public(module).items():
            # A function that has the name of its module is found there alone.
            home = f"{module.__name__}.{name}"
            hidden = inspect.isfunction(each) and each.__module__ == home
            found.setdefault(name, f"{home}.{name}" if hidden else home)
    return found


def pages() -> dict[str, str]:
    """Return the generated pages by their path in the folder of the documentation."""
    found = {"understand/cells.md": _cells(), "reference/commands.md": _commands()}
    for page, (title, text, module) in INTRO.items():
        own = [n for n, path in paths().items() if path.startswith(f"{module.__name__}.")]
        if module is ostinato:
            inner = tuple(f"ostinato.{name}." for name in ("cells", "networks", "insight", "tasks"))
            own = [n for n in own if not paths()[n].startswith(inner)]
            own.sort(key=lambda name: name.endswith(("Error", "Extra")))  # last
        blocks = (f"::: {paths()[name]}\n" for name in own)
        found[f"reference/{page}.md"] = "\n".join([f"# {title}\n", f"{text}\n", *blocks])
    for task in TASKS:
        found[f"reference/{task.estimator}.md"] = _estimator(task)
    tools = "Parts of the library that the guides use, by the modules that they are imported from."
    lines = [f"## {path.rpartition('.')[0]}\n\n::: {path}\n" for path in TOOLS]
    lines.append(
        '## ostinato.lightning\n\n`Watch(share=0.02, monitor="val_loss")` is a callback: '
        "[Watching a training loop](../watch.md#lightning).\n"
    )
    found["reference/tools.md"] = "\n".join(["# Files and training\n", f"{tools}\n", *lines])
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        found[f"notebooks/{file.stem}.md"] = _notebook(file)
    return found


def _notebook(file: Path) -> str:
    """Return the page of a notebook: its text and code, and the notebook itself."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    download = f"To run it, cell by cell: [{file.name}]({file.name}), a notebook of Jupyter."
    return "\n\n".join([*parts, download]) + "\n"


def _estimator(task: Any) -> str:
    """Return the page of an estimator: the class, what it returns, and all its settings."""
    lines = [f"# {task.estimator}\n"]
    command = f"commands.md#ostinato-train-{task.command}"
    lines += [f"On the command line [`ostinato train {task.command}`]({command}).\n"]
    path = paths()[task.estimator]
    lines += [f"::: {path}", "    options:", "      inherited_members: true", "      members:"]
    lines += [*(f"        - {name}" for name in _members(getattr(ostinato, task.estimator))), ""]
    lines += [f"::: ostinato.tasks.{name}\n" for name in RESULTS.get(task.estimator, ())]
    lines += ["## Once it is fitted\n", "| attribute | what it is |", "|---|---|"]
    known = section(inspect.getdoc(Estimator) or "", "Attributes")
    for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", known, re.M):
        lines.append(f"| `{name}` | {' '.join(text.split()).replace('``', '`')} |")
    lines += ["", "## Settings\n", "Arguments of the class, and options of the command.\n"]
    options = options_of(task.module, task.estimator)
    for owner in dict.fromkeys(option.owner for option in reversed(options)):
        lines += [f"### {owner}\n", "| setting | default | meaning |", "|---|---|---|"]
        for option in options:
            if option.owner == owner:
                default = "" if option.default is REQUIRED else f"`{option.default!r}`"
                text = option.help.replace("|", "\\|").replace("*", "\\*")
                lines.append(f"| `{option.name}` | {default} | {text} |")
        lines.append("")
    return "\n".join(lines)


def _members(cls: type) -> list[str]:
    """Return what a user calls of an estimator, and what it has once it is fitted."""
    bases = [vars(base) for base in cls.__mro__ if base.__module__.startswith("ostinato")]
    ours = {n: each for base in bases for n, each in base.items() if not n.startswith("_")}
    fitted = sorted(n for n, each in ours.items() if n.endswith("_") and isinstance(each, property))
    return [*fitted, *(n for n in dir(cls()) if n in ours and callable(getattr(cls, n, None)))]


def _commands() -> str:
    """Return the page of all commands: their own help."""
    lines = ["# Commands\n", "What `ostinato COMMAND --help` shows.\n"]
    for group in [*GROUPS, PREPARE, TUNE]:
        lines.append(f"## {group}\n")
        for each in listed(group):
            help = help_of(each.name, each.text, each.options()).rstrip()
            lines += [f"### ostinato {each.name}\n", f"```text\n{help}\n```\n"]
    return "\n".join(lines)


def _cells() -> str:
    """Return the page of all cells: docstring, shapes, and the code that runs."""
    lines = [
        "# Cells\n",
        "Every cell as it runs: the equations and citations of its docstring, the shapes of its "
        "weights and state, and its code, which is the reference that the compiled core must "
        "equal. `x_t` is the input of a step, `(B, I)`; `h` the hidden state, `(B, H)`; `B` rows, "
        "`I` and `H` features; `*` is the product of elements. A weight matrix stacks the blocks "
        "of its gates. `step` takes the projected input, `W_ih x_t + b_ih`, which is computed for "
        "all steps in one product. Biases are there unless `bias=False`.\n",
        "| cell | name for `cell=` | tensors of state | runs on |",
        "|---|---|---|---|",
    ]
    shown = [c for c in public(cells).values() if _is_cell(c)]
    parts = []
    for cls in shown:
        cell = _made(cls)
        names = [name for name, (made, _) in _named.items() if made is cls]
        slow = diagonal.lacks((cell,), torch.empty(0))
        where = "plain PyTorch" if slow else "the compiled core"
        state = ", ".join(cell.state_type._fields)
        called = ", ".join(f"`{name}`" for name in names)
        lines.append(
            f"| [{cls.__name__}](#{cls.__name__.lower()}) | {called} | {state} | {where} |"
        )
        parts += _cell(cls, cell)
    return "\n".join([*lines, "", *parts])


def _is_cell(cls: Any) -> bool:
    return inspect.isclass(cls) and issubclass(cls, cells.Cell) and not inspect.isabstract(cls)


def _made(cls: Any) -> Any:
    if cls is cells.ZoneoutCell:
        return cls(cells.GRUCell(I, H))
    return cls(I, H, outputs=O) if cls is cells.JordanCell else cls(I, H)


def _cell(cls: Any, cell: Any) -> Iterator[str]:
    yield f"## {cls.__name__}\n"
    text = inspect.getdoc(cls) or ""
    arguments = section(text, "Args")
    yield markdown(text.replace(f"Args:\n{arguments}", ""))
    yield "\n| tensor | shape |\n|---|---|"
    weights = cell.weight_shapes().items()
    yield from (f"| `{name}` | ({', '.join(map(_letter, shape))}) |" for name, shape in weights)
    for name, size in zip(cell.state_type._fields, cell.state_sizes, strict=True):
        yield f"| `{name}` of the state | (B, {_letter(size)}) |"
    yield ""
    methods = ("project", "gates", "steps", "read", "step")
    own = [inspect.getsource(vars(cls)[name]) for name in methods if name in vars(cls)]
    yield "```python\n" + "\n".join(map(textwrap.dedent, own)) + "```\n"
    inherited = {n: _owner(cls, n) for n in methods if n not in vars(cls)}
    inherited = {n: owner for n, owner in inherited.items() if _is_cell(owner)}
    if inherited:
        links = {n: f"[{o.__name__}](#{o.__name__.lower()})" for n, o in inherited.items()}
        yield f"{', '.join(f'`{n}` is that of {link}' for n, link in links.items())}.\n"


def _owner(cls: type, name: str) -> type | None:
    return next((base for base in cls.__mro__ if name in vars(base)), None)


def _letter(size: int) -> str:
    rank = -(-H // 16)
    letters = {I: "I", O: "O", H: "H", 4 * H + 8: "4H + 8", H * H // 4: "H²/4"}
    letters |= {rank: "H/16", rank + 32: "H/16 + 32"}
    if size in letters:
        return letters[size]
    if size % H and size % I:
        return str(size)
    return f"{size // I}I" if size % H else f"{size // H}H"


def markdown(docstring: str) -> str:
    r"""Return a docstring as Markdown: its literal blocks fenced, its double backticks single.

    >>> markdown("One.\n\n::\n\n    a = b\n\nTwo ``c``.")
    'One.\n\n```text\na = b\n```\n\nTwo `c`.'
    """
    parts = re.split(r"^::\n\n((?:(?: {4}.*)?\n)+)", docstring + "\n", flags=re.M)
    for i, part in enumerate(parts):
        fence = f"```text\n{textwrap.dedent(part).strip()}\n```\n\n"
        parts[i] = fence if i % 2 else part.replace("``", "`")
    return "".join(parts).strip()


def title_of(text: str) -> str:
    """Return the title of a page."""
    return re.findall(r"^# (.+)", text, re.M)[0]


def summary_of(text: str) -> str:
    """Return the first paragraph of a page, in plain text."""
    prose = re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.M | re.S)
    plain = [b.strip() for b in re.split(r"\n\s*\n", prose) if b.strip()[:1] not in "#|!:-<"]
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(plain[0].split())) if plain else ""


def named(nav: Any) -> list[str]:
    """Return the pages of a navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in named(part)]


def navigation(nav: Any, found: set[str]) -> Any:
    """Return a navigation with a page for each estimator, without what is optional and missing.

    Optional pages begin with a question mark.
    """
    if isinstance(nav, str):
        if nav == "reference/estimators":
            return {"Estimators": [f"reference/{task.estimator}.md" for task in TASKS]}
        return nav.lstrip("?") if not nav.startswith("?") or nav[1:] in found else None
    if isinstance(nav, dict):
        return {title: navigation(part, found) for title, part in nav.items()}
    return [each for part in nav if (each := navigation(part, found))]


def llms(nav: Any, texts: dict[str, str], summary: str) -> str:
    """Return what `llms.txt` says: every page, with its address and its first paragraph."""
    lines = ["# Ostinato", "", f"> {summary}"]
    for part in nav:
        for title, inner in part.items():
            lines += ["", f"## {title}", ""]
            for page in named(inner):
                where = re.sub(r"\.md$", ".html", page)
                about = summary_of(texts[page])
                lines.append(f"- [{title_of(texts[page])}]({where}){f': {about}' if about else ''}")
    return "\n".join(lines) + "\n"


def texts_of(docs: Path) -> dict[str, str]:
    """Return the text of every page, written or generated, by its path in the folder."""
    written = {path.relative_to(docs).as_posix(): path for path in docs.rglob("*.md")}
    return {name: path.read_text(encoding="utf-8") for name, path in written.items()} | pages()


def on_config(config: Any) -> Any:
    """Complete the navigation."""
    texts = texts_of(Path(config.docs_dir))
    config.nav = navigation(config.nav, set(texts))
    config.extra["texts"] = texts
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and `llms.txt`."""
    generated = importlib.import_module("mkdocs.structure.files").File.generated
    texts = config.extra["texts"]
    more = {name: texts[name] for name in pages()}
    more["llms.txt"] = llms(config.nav, texts, config.site_description)
    for name, text in more.items():
        files.append(generated(config, name, content=text))
    return files
