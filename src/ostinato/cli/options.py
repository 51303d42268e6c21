"""Options of a command, read from the sources of what it calls.

Importing an estimator imports PyTorch, which takes seconds; its source gives names, types, defaults
and help in milliseconds. Only the sources that the chosen command needs are read, none is run.
"""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias, cast

from ostinato.errors import OstinatoError, require
from ostinato.files import EXPORTS, MIDI, PICTURES, SOUND, check_new_file

SOURCES = Path(__file__).parents[2]
REQUIRED = object()
"""The default of an option that has none."""

Form = Literal["positional", "several", "keyword"]
_Node = ast.expr | None
_Meaning = ast.ClassDef | ast.FunctionDef | ast.expr

EXCLUSIVE = [("csv", "json"), ("json", "quiet"), ("dry_run", "resume")]
"""Options of which a command takes one."""

METAVARS = {bool: "", int: "N", float: "X", str: "TEXT", Path: "PATH"}

Picture: TypeAlias = Path
"""A picture to be written."""
MidiFile: TypeAlias = Path
"""A MIDI file to be written."""
SoundFile: TypeAlias = Path
"""A sound file to be written."""
ExportFile: TypeAlias = Path
"""A model to be exported."""
WIDTH = 80
UNBROKEN = "\N{NO-BREAK SPACE}"


class Kind(NamedTuple):
    """How the value of an option is written.

    Attributes:
        type: int, float, str, bool or Path; None if only its choices are known.
        choices: the allowed values; empty for any.
        repeated: whether the option may be given several times.
        check: raises an `OstinatoError` at a value that the command could only fail with later.
        paths: whether ``package.module:name`` is allowed beside the choices.
    """

    type: Any = None
    choices: tuple[str, ...] = ()
    repeated: bool = False
    check: Callable[[Any], object] | None = None
    paths: bool = False

    def __or__(self, other: Kind) -> Kind:
        """Return the kind of a union; the first type counts."""
        choices = self.choices + other.choices
        repeated = self.repeated or other.repeated
        check, paths = self.check or other.check, self.paths or other.paths
        return Kind(self.type or other.type, choices, repeated, check, paths)


class _OrPath(tuple[str, ...]):
    """Choices beside which ``package.module:name`` is allowed."""

    def __contains__(self, value: object) -> bool:
        return super().__contains__(value) or (isinstance(value, str) and ":" in value)


def _check_picture(path: Path) -> None:
    check_new_file(path, PICTURES)
    require("matplotlib", "plots", "a plot")


TYPES = {each.__name__: Kind(each) for each in (int, float, str, bool, Path)}
TYPES["ImportPath"] = Kind(str, paths=True)
TYPES["Picture"] = Kind(Path, check=_check_picture)
TYPES["MidiFile"] = Kind(Path, check=partial(check_new_file, suffixes=MIDI))
TYPES["SoundFile"] = Kind(Path, check=partial(check_new_file, suffixes=SOUND))
TYPES["ExportFile"] = Kind(Path, check=partial(check_new_file, suffixes=EXPORTS))


class Option(NamedTuple):
    """A parameter of a function, or a field of a dataclass.

    Attributes:
        name, kind: its name, and how it is written.
        default: its default; `REQUIRED` if there is none.
        help: its entry in the docstring.
        owner: name of the class or function that declares it.
        form: positional, several (``*args``), or keyword.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    owner: str
    form: Form = "keyword"

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return f"--{self.name.rstrip('_').replace('_', '-')}"  # as `try_`, a word of Python

    @property
    def needed(self) -> bool:
        """Whether the command cannot do without."""
        return self.default is REQUIRED and self.form != "several"

    @property
    def heading(self) -> str:
        """Where help lists it."""
        if self.form != "keyword":
            return "arguments"
        if self.owner[0].islower():
            return "options"
        group = self.owner.removesuffix("Settings")
        return "model options" if group == self.owner else f"{group.lower()} options"

    @property
    def metavar(self) -> str:
        """What stands for its value."""
        if self.form == "keyword":
            choices = ",".join(self.kind.choices)
            short = f"{{{choices}}}" if len(choices) < 40 else "NAME"
            return short if choices else METAVARS[self.kind.type]
        name = self.name.upper() + " ..." * (self.form == "several")
        return name if self.needed else f"[{name}]"


def options_of(module: str, name: str) -> list[Option]:
    """Return the parameters of a dataclass (its bases' first), a function, or a ``Class.method``.

    >>> settings = {o.name: o for o in options_of("ostinato.training.settings", "TrainingSettings")}
    >>> settings["learning_rate"].default, settings["learning_rate"].kind.type
    (0.003, <class 'float'>)
    """
    where = _source(module).definition(name)
    assert where is not None, f"{module} has no {name}"
    source, node = where
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    found: dict[str, Option] = {}
    if isinstance(node, ast.ClassDef):
        for base in reversed(source.bases(node)):
            found |= {option.name: option for option in options_of(*base)}
    for field, annotation, default, form in _fields(node):
        kind = Kind() if annotation is None else source.kind(annotation)
        value = REQUIRED if default is None else source.value(default)
        help = found[field].help if field in found else ""
        found[field] = Option(field, kind, value, help, node.name, form)
    text = section(cleaned(ast.get_docstring(node, clean=False) or ""), "Args")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.M)
    helps = {name: " ".join(help.split()) for name, help in entries}
    return [o._replace(help=helps.get(o.name, o.help)) for o in found.values()]


def _fields(node: _Meaning) -> Iterator[tuple[str, _Node, _Node, Form]]:
    """Yield name, annotation, default and form of each field or parameter."""
    if isinstance(node, ast.ClassDef):
        decorators = [ast.unparse(each) for each in node.decorator_list]
        for item in node.body if any("dataclass" in each for each in decorators) else ():
            match item:
                case ast.AnnAssign(annotation=ast.Subscript(value=ast.Name(id="ClassVar"))):
                    continue
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                    yield name, annotation, value, "keyword"
        return
    assert isinstance(node, ast.FunctionDef)
    args = node.args
    ordered = [*args.posonlyargs, *args.args]
    defaults = [*[None] * (len(ordered) - len(args.defaults)), *args.defaults]
    for arg, default in zip(ordered, defaults, strict=True):
        if arg.arg not in ("self", "cls"):
            form: Form = "positional" if arg in args.posonlyargs else "keyword"
            yield arg.arg, arg.annotation, default, form
    if args.vararg:
        yield args.vararg.arg, args.vararg.annotation, None, "several"
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield arg.arg, arg.annotation, default, "keyword"


def cleaned(text: str) -> str:
    """Return a docstring without the indentation of its lines after the first."""
    first, _, rest = text.partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}".strip()


def section(docstring: str, title: str) -> str:
    r"""Return the indented lines below a title of a docstring, such as ``Args:``.

    >>> section("Do.\n\nArgs:\n    x: one.\n\nReturns:\n    it.", "Args")
    '    x: one.'
    """
    found = re.search(rf"^{title}:\n((?:(?: {{4}}.*)?(?:\n|$))+)", docstring, re.M)
    return found[1].rstrip() if found else ""


class _Source:
    """A module of the package, parsed and not run."""

    def __init__(self, module: str) -> None:
        path = SOURCES.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.module = module
        self.tree = ast.parse(path.read_text(encoding="utf-8"))

    def find(self, name: str) -> tuple[_Source, _Meaning] | None:
        """Return what a name stands for, and the module that says so; None for foreign names."""
        for node in reversed(self.tree.body):
            match node:
                case ast.ClassDef() | ast.FunctionDef() if node.name == name:
                    return self, node
                case (
                    ast.Assign(targets=[ast.Name(id=target)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value)
                ) if target == name:
                    return self, value
                case ast.ImportFrom(module=str(module)) if module.startswith("ostinato."):
                    for alias in node.names:
                        if (alias.asname or alias.name) == name:
                            return _source(module).find(alias.name)
                        if alias.name == "*" and (found := _source(module).find(name)):
                            return found
        return None

    def definition(self, name: str) -> tuple[_Source, _Meaning] | None:
        """Return a class or function, or a ``Class.method``, its own or inherited."""
        owner, _, method = name.rpartition(".")
        found = self.find(owner or name)
        if not owner or found is None:
            return found
        source, node = found
        assert isinstance(node, ast.ClassDef), owner
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == method:
                return source, item
        inherited = (_source(m).definition(f"{base}.{method}") for m, base in source.bases(node))
        return next(filter(None, inherited), None)

    def bases(self, node: ast.ClassDef) -> list[tuple[str, str]]:
        """Return module and name of each base class that the package defines."""
        plain = [b.value if isinstance(b, ast.Subscript) else b for b in node.bases]
        found = filter(None, (self.find(base.id) for base in plain if isinstance(base, ast.Name)))
        return [(s.module, base.name) for s, base in found if isinstance(base, ast.ClassDef)]

    def value(self, node: _Meaning) -> Any:
        """Return what a default is: a literal, or a name of one."""
        if isinstance(node, ast.Name) and (found := self.find(node.id)):
            return found[0].value(found[1])
        return ast.literal_eval(cast(ast.expr, node))

    def kind(self, node: _Meaning) -> Kind:
        """Return how a value of an annotation is written."""
        match node:
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.kind(left) | self.kind(right)
            case ast.Name(id=name) if name in TYPES:
                return TYPES[name]
            case ast.Name(id=name) if found := self.find(name):
                return found[0].kind(found[1])
            case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
                each = choices.elts if isinstance(choices, ast.Tuple) else [choices]
                return Kind(str, tuple(ast.literal_eval(choice) for choice in each))
            case ast.Subscript(value=ast.Name(id="Sequence" | "list"), slice=item):
                return self.kind(item)._replace(repeated=True)
        return Kind()


_source = cache(_Source)


class _Parser(argparse.ArgumentParser):
    """The options of a command; a mistake in them is an `OstinatoError`."""

    def __init__(self, command: str, options: Sequence[Option], text: str = "") -> None:
        text = cleaned(text)
        needed = [f"{o.flag} {o.metavar}" for o in options if o.needed and o.form == "keyword"]
        arguments = [o.metavar for o in options if o.form != "keyword"]
        super().__init__(
            prog=command,
            usage=" ".join(["ostinato", command, *arguments, *needed, "[options]"]),
            description=_wrapped(re.split(r"^(?:Args|Examples):", text, flags=re.M)[0]),
            epilog="examples:\n"
            + textwrap.indent(textwrap.dedent(section(text, "Examples")), "  "),
            formatter_class=partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=26, width=WIDTH
            ),
            argument_default=argparse.SUPPRESS,
            add_help=False,
            allow_abbrev=False,
        )
        for heading in dict.fromkeys(option.heading for option in options):
            group = self.add_argument_group(heading)
            for option in options:
                if option.heading == heading:
                    _add(group, option)

    def error(self, message: str) -> NoReturn:
        raise OstinatoError(f"{self.prog}: {message.removeprefix('argument ')}")


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    kind, help = option.kind, option.help.replace("%", "%%")
    if option.metavar == "NAME" and any(choice not in help for choice in kind.choices):
        help += f" [choices: {', '.join(kind.choices)}]"
    default = "on" if option.default is True else option.default
    if default not in (REQUIRED, None, "", ()) and default is not False:
        help += f" [default:{UNBROKEN}{default}]"
    if option.form != "keyword":
        group.add_argument(option.name, metavar=option.metavar, help=help, nargs="?")
    elif kind.type is bool and option.default is False:
        group.add_argument(option.flag, dest=option.name, action="store_true", help=help)
    elif kind.type is bool:
        group.add_argument(option.flag, action=argparse.BooleanOptionalAction, help=help)
    else:
        group.add_argument(
            option.flag,
            action="append" if kind.repeated else "store",
            type=kind.type,
            choices=(_OrPath(kind.choices) if kind.paths else kind.choices) or None,
            metavar=option.metavar,
            help=help,
        )


def _wrapped(text: str) -> str:
    """Return paragraphs filled to the width of help."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(textwrap.fill(" ".join(each.split()), WIDTH) for each in paragraphs)


def help_of(command: str, text: str, options: Sequence[Option]) -> str:
    """Return the help of a command: ``text`` is a line, further lines, and ``Examples:``."""
    return _Parser(command, options, text).format_help().replace(UNBROKEN, " ")


def parse(
    command: str, options: Sequence[Option], tokens: Sequence[str]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments and those options that were given, by name.

    Settings of the file that an option ``config`` names stand in for options that are not given. An
    `OstinatoError` says what is unknown, missing or of the wrong type. A dry run writes nothing,
    and needs no place for it.
    """
    known = {o.name: o for o in options if o.form == "keyword"}
    parser = _Parser(command, list(known.values()))
    end = tokens.index("--") if "--" in tokens else len(tokens)
    namespace, rest = parser.parse_known_args(tokens[:end])
    for token in rest:
        if token.startswith("-") and token != "-":
            raise OstinatoError(f"{command}: {_unknown(token.partition('=')[0], known)}")
    given = vars(namespace)
    if "config" in given:
        given = _read_config(given.pop("config"), known, parser) | given
    for option in known.values():
        if option.needed and option.name not in given and not given.get("dry_run"):
            raise OstinatoError(f"{command}: {option.flag} {option.metavar} is required.")
    values, args = [*rest, *tokens[end + 1 :]], []
    for option in options:
        if option.form == "positional" and values:
            args.append(option.kind.type(values.pop(0)))
        elif option.form == "positional" and option.needed:
            raise OstinatoError(f"{command}: {option.metavar} is required: {option.help}")
        elif option.form == "several":
            args += [option.kind.type(value) for value in values]
            values = []
    if values:
        raise OstinatoError(f"{command}: unexpected argument {values[0]!r}.")
    return args, given


def check_options(command: str, options: Sequence[Option], given: Mapping[str, Any]) -> None:
    """Raise an `OstinatoError` at options that exclude each other, or that could only fail later.

    Later is after the work of the command: paths that cannot be written.
    """
    for one, other in EXCLUSIVE:
        if given.get(one) and given.get(other):
            flags = f"--{one} and --{other}".replace("_", "-")
            raise OstinatoError(f"{command}: {flags} exclude each other; give one.")
    for option in options:
        if option.kind.check and option.name in given:
            option.kind.check(given[option.name])


def _unknown(flag: str, known: Mapping[str, Option]) -> str:
    flags = {o.flag: o for o in known.values()}
    close = get_close_matches(flag, flags, n=1)
    hint = f"did you mean {close[0]}?" if close else f"for a file of this name write ./{flag}."
    return f"unknown option {flag}; {hint}"


def _read_config(path: Path, known: Mapping[str, Option], parser: _Parser) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        given, tokens = {}, []
        for name, value in document.items():
            if name not in known:
                raise OstinatoError(_unknown(f"--{name.replace('_', '-')}", known))
            option = known[name]
            several = value if isinstance(value, list) and option.kind.repeated else [value]
            if isinstance(value, bool) and option.kind.type is bool:
                given[name] = value
            elif any(isinstance(each, bool | list | dict) for each in several):
                raise OstinatoError(f"{name} = {value}: expected {METAVARS.get(option.kind.type)}")
            else:
                tokens += [f"{option.flag}={each}" for each in several]
        return vars(parser.parse_args(tokens)) | given
    except OstinatoError as error:
        raise OstinatoError(f"--config {path}: {error}") from None
    except OSError as error:
        raise OstinatoError(f"--config {path}: {error.strerror}.") from None
    except ValueError as error:
        raise OstinatoError(f"--config {path}: not TOML: {error}") from None
