"""``ostinato examples``: the programs of the folder examples, which an installed wheel has too."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import shorten

import ostinato
from ostinato.cli.commands import START, command
from ostinato.errors import OstinatoError
from ostinato.files import atomic_file, check_new_folder


def home() -> Path:
    """Return the folder of the examples: beside the package's modules, or in a checkout."""
    package = Path(ostinato.__file__).parent
    folders = package / "examples", package.parents[1] / "examples"
    return next((folder for folder in folders if (folder / "spelling.py").is_file()), folders[0])


def available() -> dict[str, str]:
    """Return what each example is about, by its path in their folder."""
    found = {}
    for path in sorted(home().rglob("*")):
        if path.suffix not in (".py", ".toml"):
            continue
        text = path.read_text(encoding="utf-8")
        about = text.removeprefix("#")
        if path.suffix == ".py":
            about = ast.get_docstring(ast.parse(text)) or ""
        found[path.relative_to(home()).as_posix()] = about.strip().splitlines()[0].strip()
    return found


@command(START)
def examples(*names: str, out: Path | None = None) -> None:
    """List the examples, or copy some to look into and change.

    Args:
        names: examples to copy, such as spelling; without names all, if --out is given.
        out: folder to copy to, created if missing; the current one if not given. No file there is
            replaced.

    Examples:
        ostinato examples spelling timetable
        ostinato examples --out mine
    """
    there = available()
    if not there:
        raise OstinatoError(f"examples: {home()} holds none; install Ostinato again.")
    if not names and out is None:
        for name, about in there.items():
            print(f"{name.removesuffix('.py'):<22}{shorten(about, 57, placeholder=' ...')}")
        print("\nostinato examples NAME copies one here; then run it with python.")
        return
    chosen = [_named(name, there) for name in names] or list(there)
    folder = check_new_folder(Path() if out is None else out)
    targets = {name: folder / Path(name).name for name in chosen}
    for target in targets.values():
        if target.exists():
            raise OstinatoError(f"{target}: already exists; choose another folder with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        with atomic_file(target) as file:
            file.write((home() / name).read_bytes())
        print(target)


def _named(asked: str, there: dict[str, str]) -> str:
    found = [name for name in there if asked in (name, Path(name).name, Path(name).stem)]
    if not found:
        names = ", ".join(Path(name).stem for name in there)
        raise OstinatoError(f"examples: there is no {asked!r}; expected some of {names}.")
    return found[0]
