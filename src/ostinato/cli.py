"""The command line: ``ostinato train|generate|info``.

Nothing is declared here twice: the flags of a command are the arguments of the estimator it
drives, with their types, defaults and help. PyTorch is imported when a command needs it.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import shlex
import sys
import tomllib
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, cast

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Dict

import ostinato
from ostinato.errors import OstinatoError
from ostinato.signatures import REQUIRED, Option, options_of

GENERATION = "ostinato.tasks.generation"

app = App(
    name="ostinato",
    help="Recurrent neural networks for your sequences: train, use, look inside.",
    version=lambda: f"ostinato {ostinato.__version__}",
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    default_parameter=Parameter(negative=(), show_env_var=False),
)
train = App(name="train", help="Train a model on your files.")
app.command(train)


def main(argv: list[str] | None = None) -> None:
    """Run a command; ends the process with 0, 2 for a mistake of the user's, 130 for Ctrl-C."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # not every terminal knows every letter
    try:
        tokens = _take_config(sys.argv[1:] if argv is None else list(argv))
        status = app(tokens)
        print(end="", flush=True)  # while a broken pipe can still be dealt with
    except CycloptsError as error:
        _fail(" ".join(str(error).split()))
    except OstinatoError as error:
        _fail(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        _fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except KeyboardInterrupt:
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        _fail("there is not enough memory; choose a smaller hidden_size, batch_size or window.")
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    print(f"ostinato: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _take_config(tokens: list[str]) -> list[str]:
    """``tokens`` without ``--config FILE``; the file's settings stand in for flags not given."""
    rest: list[str] = []
    app.config = ()
    for i, token in enumerate(tokens):
        before = tokens[i - 1] if i else ""
        if token == "--":
            return rest + tokens[i:]
        if token.startswith("--config=") or before == "--config":
            app.config = (_read_config(Path(token.removeprefix("--config="))),)
        elif token != "--config":
            rest.append(token)
        elif i == len(tokens) - 1:
            raise OstinatoError("--config: name a TOML file.")
    return rest


def _read_config(path: Path) -> Dict:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OstinatoError(f"--config {path}: {error.strerror}.") from None
    except ValueError as error:
        raise OstinatoError(f"--config {path}: not TOML: {error}") from None
    return Dict(settings, source=str(path), use_commands_as_keys=False)


def _with_options(function: Callable[..., Any], options: list[Option]) -> Callable[..., Any]:
    """``function`` with ``options`` in place of its ``**settings``, for cyclopts to read.

    It is called with those options alone that were given.
    """
    own = [
        p.replace(annotation=eval(p.annotation, globals()))
        for p in inspect.signature(function).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    groups = {
        owner: Group(f"{_titled(owner)}", sort_key=i + 1)
        for i, owner in enumerate(dict.fromkeys(o.owner for o in reversed(options)))
    }
    taken = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if option.default is REQUIRED else option.default,
            annotation=Annotated[
                option.annotation,
                Parameter(
                    help=option.help,
                    group=groups[option.owner],
                    converter=_whole if option.annotation in (int, int | None) else None,
                ),
            ],
        )
        for option in options
    ]
    wrapper: Any = lambda *args, **kwargs: function(*args, **kwargs)  # noqa: E731
    wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
    wrapper.__signature__ = inspect.Signature([*own, *taken])
    wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *taken]}
    return cast("Callable[..., Any]", wrapper)


def _whole(type_: Any, tokens: Any) -> int:
    """A whole number as it is written; cyclopts would round others."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError from None


def _titled(owner: str) -> str:
    return {"TrainingSettings": "Training", "TextGenerator": "Network and text"}.get(
        owner, "Controls"
    )


Config = Annotated[
    Path | None, Parameter(help="TOML file with any of these settings; flags given here win.")
]
Paths = Annotated[
    str,
    # "-" begins like an option; `train_text` refuses the others that do.
    Parameter(help="Text files or folders; - for standard input.", allow_leading_hyphen=True),
]
Resume = Annotated[bool, Parameter(help="Go on with the run in --out; no paths needed.")]


def train_text(
    *paths: Paths,
    out: Annotated[Path, Parameter(help="Folder for the model and all it leaves; made anew.")],
    resume: Resume = False,
    pattern: Annotated[str, Parameter(help="Which files of a folder are read.")] = "*.txt",
    config: Config = None,
    json: Annotated[bool, Parameter(help="Print one JSON object a line.")] = False,
    quiet: Annotated[bool, Parameter(help="Print nothing but warnings.")] = False,
    tensorboard: Annotated[bool, Parameter(help="Write curves for TensorBoard.")] = False,
    **settings: Any,
) -> int:
    """Learn to write text like yours.

    Shows the loss on held-out text and a sample as it goes. Ctrl-C stops it with nothing lost.
    """
    for path in paths:
        if path.startswith("-") and path != "-":
            flags = [f"--{o.name.replace('_', '-')}" for o in TEXT_OPTIONS]
            meant = "".join(get_close_matches(path, flags, n=1))
            hint = f"did you mean {meant}?" if meant else f"for a file of this name, ./{path}"
            raise OstinatoError(f"Unknown option: {path}; {hint}")
    shown: dict[str, Any] = {
        "progress": "json" if json else "quiet" if quiet else "auto",
        "tensorboard": tensorboard,
    }
    if resume:
        model = ostinato.TextGenerator.resume(out, **shown, **settings)
    elif paths:
        model = ostinato.TextGenerator(**settings)
        model.fit(list(paths), out=out, pattern=pattern, **shown)
    else:
        raise OstinatoError("train text: no paths; name files or folders, or - for standard input.")
    facts, folder = model.training_, shlex.quote(str(out))
    if facts["ended"] == "interrupt":
        print(
            f"Stopped at step {facts['steps']:,}. "
            f"Go on:  ostinato train text --resume --out {folder}",
            file=sys.stderr,
        )
        return 130
    if not json and not quiet:
        print(
            f"\nTrained for {_duration(facts['seconds'])}, {facts['steps']:,} steps; "
            f"the best, of step {facts['best_step']:,}, is kept in {out}/"
        )
        if (out / "learning_curve.png").exists():
            print(f"  curve    {out}/learning_curve.png")
        print(f"  metrics  {out}/metrics.jsonl")
        print(f"Next:      ostinato generate {folder} --length 500")
    return 0


def generate(
    run: Annotated[Path, Parameter(help="Folder of a trained model.")],
    /,
    *,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
    **controls: Any,
) -> None:
    """Write text with a trained model, as it comes."""
    model = ostinato.TextGenerator.load(run)
    prompt = controls.get("prompt", "")
    if json:
        print_json({"prompt": prompt, "text": model.generate(**controls)})
        return
    pieces = model.stream(**controls)
    print(prompt, end="", flush=True)
    with warnings.catch_warnings(record=True) as heard:
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)
    for warning in heard:
        _show_warning(warning.message)


@app.command
def info(
    run: Annotated[Path, Parameter(help="Folder of a model or a run.")],
    /,
    *,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> None:
    """Say what is in a folder: the model, its settings, how it was trained."""
    config = ostinato.describe(run)
    if json:
        print_json(config)
        return
    print(f"{run}: {config['task']}")
    for title in ("training", "parameters"):
        print(f"\n{title}")
        for name, value in config[title].items():
            print(f"  {name:<22}{_shown(value)}")


def print_json(document: Any) -> None:
    """Print a document as one line of JSON, in ASCII."""
    print(json.dumps(document))


def _shown(value: Any) -> str:
    return {int: "{:,}", float: "{:.4g}"}.get(type(value), "{}").format(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


TEXT_OPTIONS = options_of(GENERATION, "TextGenerator")
train.command(_with_options(train_text, TEXT_OPTIONS), name="text")
app.command(_with_options(generate, options_of(GENERATION, "TextGenerator.generate")))

if __name__ == "__main__":
    main()
