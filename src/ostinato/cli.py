"""The command line: ``ostinato train|predict|evaluate|generate|compose|diagnose|...``.

Nothing is declared here twice: the flags of a command are the arguments of the estimator it
drives, with their types, defaults and help. PyTorch is imported when a command needs it.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import os
import shlex
import shutil
import sys
import tomllib
import warnings
from array import array
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
MUSIC = "ostinato.tasks.music"
WRITING = "ostinato.training.writing"
OPENMP = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}
"""How long OpenMP's threads spin for one another before they sleep: looks, of GCC's runtime, which
take a tenth of a millisecond or two; milliseconds, of LLVM's and Intel's. Their own defaults are
5 and 200 milliseconds, for which a thread that waits keeps a core from who else wants it."""

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
    _limit_spinning()
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


def _limit_spinning() -> None:
    """Let OpenMP's threads sleep soon, unless the user has said how they wait.

    OpenMP reads the environment once, when PyTorch is imported.
    """
    names = {*OPENMP, "OMP_WAIT_POLICY"}
    if "torch" not in sys.modules and names.isdisjoint(os.environ):
        os.environ.update(OPENMP)


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
                    negative=_negative(option),
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


def _negative(option: Option) -> tuple[str, ...]:
    """The flag that turns off what is on, or may be, if it is not said."""
    off = option.annotation in (bool, bool | None) and option.default is not False
    return (f"--no-{option.name.replace('_', '-')}",) if off else ()


def _whole(type_: Any, tokens: Any) -> int:
    """A whole number as it is written; cyclopts would round others."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError from None


def _titled(owner: str) -> str:
    return {
        "TrainingSettings": "Training",
        "TableSettings": "Reading tables",
        "ReadingSettings": "Reading files",
        "InputSettings": "Inputs",
        "SequenceEstimator": "Network",
        "SupervisedEstimator": "Network, further",
        "_OneAnswer": "Answers",
        "SequenceTagger": "Labels",
        "PairSettings": "Reading files",
        "SeriesSettings": "Reading series",
        "Forecaster": "Forecasts",
        "WritingEstimator": "Reading and writing",
        "MusicModel": "Music",
        "TextGenerator": "Network and text",
    }.get(owner, "Controls")


Config = Annotated[
    Path | None, Parameter(help="TOML file with any of these settings; flags given here win.")
]
Paths = Annotated[
    str,
    # "-" begins like an option; what a command does with its paths refuses the others that do.
    Parameter(help="Files or folders; - for standard input.", allow_leading_hyphen=True),
]
Out = Annotated[Path, Parameter(help="Folder for the model and all it leaves; made anew.")]
Resume = Annotated[bool, Parameter(help="Go on with the run in --out; no paths needed.")]
JSON = Annotated[bool, Parameter(help="Print one JSON object a line.")]
Quiet = Annotated[bool, Parameter(help="Print nothing but warnings.")]
TensorBoard = Annotated[bool, Parameter(help="Write curves for TensorBoard.")]
Run = Annotated[Path, Parameter(help="Folder of a trained model.")]


def train_text(
    *paths: Paths,
    out: Out,
    resume: Resume = False,
    pattern: Annotated[str, Parameter(help="Which files of a folder are read.")] = "*.txt",
    config: Config = None,
    json: JSON = False,
    quiet: Quiet = False,
    tensorboard: TensorBoard = False,
    **settings: Any,
) -> int:
    """Learn to write text like yours.

    Shows the loss on held-out text and a sample as it goes. Ctrl-C stops it with nothing lost.
    """
    _refuse_options(paths, TEXT_OPTIONS)
    said = (out, resume, json, quiet, tensorboard)
    return _train("text", "TextGenerator", list(paths), {"pattern": pattern}, *said, settings)


def _data_command(verb: str, estimator: str, options: list[Option]) -> Callable[..., int]:
    """The command that trains an estimator on files of data."""

    def command(
        *paths: Paths,
        out: Out,
        validation: Annotated[
            list[Path] | None,
            Parameter(help="Files to validate on; if not given, a share of the data."),
        ] = None,
        resume: Resume = False,
        config: Config = None,
        json: JSON = False,
        quiet: Quiet = False,
        tensorboard: TensorBoard = False,
        **settings: Any,
    ) -> int:
        _refuse_options(paths, options)
        files = [Path(path) for path in paths]
        said = (out, resume, json, quiet, tensorboard)
        return _train(verb, estimator, files, {"validation": validation}, *said, settings)

    return command


def _refuse_options(paths: tuple[str, ...], options: list[Option]) -> None:
    """Say what was meant by a path that begins like an option."""
    for path in paths:
        if path.startswith("-") and path != "-":
            flags = [f"--{o.name.replace('_', '-')}" for o in options]
            meant = "".join(get_close_matches(path, flags, n=1))
            hint = f"did you mean {meant}?" if meant else f"for a file of this name, ./{path}"
            raise OstinatoError(f"Unknown option: {path}; {hint}")


def _train(
    verb: str,
    estimator: str,
    paths: list[Any],
    how: dict[str, Any],
    out: Path,
    resume: bool,
    json: bool,
    quiet: bool,
    tensorboard: bool,
    settings: dict[str, Any],
) -> int:
    """Train, or go on, and say what came of it."""
    shown: dict[str, Any] = {
        "progress": "json" if json else "quiet" if quiet else "auto",
        "tensorboard": tensorboard,
    }
    kind = getattr(ostinato, estimator)
    if resume:
        model = kind.resume(out, **shown, **settings)
    elif paths:
        model = kind(**settings)
        model.fit(paths, out=out, **how, **shown)
    else:
        raise OstinatoError(
            f"train {verb}: no paths; name files or folders, or - for standard input."
        )
    facts, folder = model.training_, shlex.quote(str(out))
    if facts["ended"] == "interrupt":
        print(
            f"Stopped at step {facts['steps']:,}. "
            f"Go on:  ostinato train {verb} --resume --out {folder}",
            file=sys.stderr,
        )
        return 130
    if not json and not quiet:
        print(
            f"\nTrained for {_duration(facts['seconds'])}, {facts['steps']:,} steps; "
            f"the best, of step {facts['best_step']:,}, is kept in {out}/"
        )
        for name, value in facts.get("validation", {}).items():
            print(f"  {name:<8} {_shown(value)} on validation data")
        if (out / "learning_curve.png").exists():
            print(f"  curve    {out}/learning_curve.png")
        print(f"  metrics  {out}/metrics.jsonl")
        print(f"Next:      {NEXT[verb].format(run=folder)}")
    return 0


NEXT = {
    "translate": "ostinato translate {run} FILE   (or evaluate, with translations)",
    "caption": "ostinato predict {run} IMAGES   (or evaluate, with captions)",
    "transcribe": "ostinato transcribe {run} FILES   (or evaluate, with texts)",
    "summarize": "ostinato summarize {run} FILE   (or evaluate, with summaries)",
    "forecast": "ostinato forecast {run} --plot forecast.png   (or evaluate)",
    "text": "ostinato generate {run} --length 500",
    "classify": "ostinato predict {run} FILES   (or evaluate, with labels)",
    "regress": "ostinato predict {run} FILES   (or evaluate, with numbers)",
    "tag": "ostinato predict {run} FILES   (or evaluate, with labels)",
    "music": "ostinato compose {run} --out piece.mid",
}


@app.command
def predict(
    run: Run,
    *inputs: Paths,
    probabilities: Annotated[bool, Parameter(help="Print those of all classes.")] = False,
    json: JSON = False,
) -> None:
    """Say what a trained model makes of files: a class, a number, a label for every step.

    Of standard input (-) each line is a text.
    """
    _refuse_options(inputs, [])
    model = _load(run, "predict")
    paths = [Path(path) for path in inputs] or [Path("-")]
    for answer in model.answers(paths, probabilities=probabilities or json):
        if json:
            print_json(answer.to_json())
        else:
            print(answer)


@app.command
def evaluate(
    run: Run,
    *data: Paths,
    plot: Annotated[
        Path | None, Parameter(help="Confusion matrix, or forecasts and the series, as a PNG.")
    ] = None,
    cutoffs: Annotated[int, Parameter(help="Of forecasts: cutoffs of each series.")] = 1,
    json: JSON = False,
) -> None:
    """Say how well a trained model predicts files whose labels are known.

    Of forecasts: how well it forecasts the last steps of each series, of the files or, without
    any, of those that it was trained on.
    """
    _refuse_options(data, [])
    model = _load(run, "evaluate")
    paths = [Path(path) for path in data]
    if isinstance(model, ostinato.Forecaster):
        forecasts = model.historical_forecasts(paths or None, cutoffs=cutoffs)
        found = forecasts.scores()
        if not paths and not json:
            print("On the training data, the last steps of which were held out for validation.")
        if plot is not None:
            forecasts.plot(plot)
            plot = None
    elif not data:
        raise OstinatoError("evaluate: name the files to evaluate on.")
    else:
        found = model.evaluate(paths)
    if plot is not None:
        if "confusion" not in found:
            raise OstinatoError(
                f"evaluate: {type(model).__name__} has no confusion matrix to plot."
            )
        model.plot_confusion(found["confusion"], plot)
    if json:
        print_json(found)
        return
    for name, value in found.items():
        if name == "confusion":
            _print_confusion(model.classes_.tolist(), value)
        else:
            print(f"{name.replace('_', ' '):<21}{_shown(value)}")


def _load(run: Path, method: str) -> Any:
    model = ostinato.load(run)
    if not hasattr(model, method):
        able = {"TextGenerator": "generate", "MusicModel": "compose"}.get(
            type(model).__name__, "info"
        )
        raise OstinatoError(
            f"{run}: a {type(model).__name__} cannot {method}; try ostinato {able}."
        )
    return model


def _print_confusion(classes: list[Any], confusion: list[list[int]]) -> None:
    """A table of what was taken for what, where it fits a terminal."""
    names = [str(name) for name in classes]
    cells = [names, *([f"{n:,}" if n else "·" for n in row] for row in confusion)]
    width = 2 + max(len(cell) for row in cells for cell in row)
    room = max(map(len, names)) + 8
    if room + width * len(names) > shutil.get_terminal_size((80, 24)).columns:
        return
    print("\ntrue  \\ predicted".ljust(room) + "".join(name.rjust(width) for name in names))
    for name, row in zip(names, cells[1:], strict=True):
        print(name.ljust(room - 1) + "".join(cell.rjust(width) for cell in row))


def compose(
    run: Run,
    piece: Annotated[Path | None, Parameter(help="Piece to go on with; none to begin one.")] = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="MIDI file to write, the piece included.")],
    **controls: Any,
) -> None:
    """Write music with a trained model."""
    model = _load(run, "evaluate")
    if not isinstance(model, ostinato.MusicModel):
        raise OstinatoError(f"{run}: a {type(model).__name__} cannot compose.")
    roll = model.generate(piece if piece is not None else (), out=out, **controls)
    sounding = roll.sum(1).mean()
    print(f"{len(roll)} steps, {sounding:.1f} notes at a time, written to {out}")


def generate(
    run: Run,
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


@app.command
def forecast(
    run: Run,
    *data: Paths,
    horizon: Annotated[int | None, Parameter(help="Steps ahead; as in training.")] = None,
    levels: Annotated[str, Parameter(help="Levels of the quantiles to print.")] = "0.1,0.9",
    num_samples: Annotated[
        int, Parameter(help="Sample paths, of a model with --method autoregressive.")
    ] = 1000,
    plot: Annotated[Path | None, Parameter(help="A fan chart, as a PNG.")] = None,
    csv: Annotated[bool, Parameter(help="A table with commas.")] = False,
    json: JSON = False,
) -> None:
    """Forecast series, with uncertainty.

    The series that the model was trained on, or others in files like theirs.
    """
    _refuse_options(data, [])
    model = _load(run, "forecast")
    try:
        shares = [float(level) for level in levels.split(",")]
    except ValueError:
        raise OstinatoError(
            f"forecast: --levels {levels}; expected numbers between 0 and 1, as in 0.1,0.9."
        ) from None
    paths = [Path(path) for path in data]
    found = model.forecast(paths or None, horizon, num_samples=num_samples)
    frame = found.to_frame(shares)
    if plot is not None:
        found.plot(plot)
    times = found.panel.grid.format(frame["ds"].to_numpy())
    figures = frame.iloc[:, 3:].to_numpy().tolist()
    if json:
        for series, time, (median, *quantiles) in zip(
            frame["unique_id"], times, figures, strict=True
        ):
            by_level = dict(zip(map(str, shares), quantiles, strict=True))
            facts = {"series": series, "time": time, "median": median}
            print_json(facts | {"quantiles": by_level})
        return
    named = len(found.panel) > 1 or csv
    heads = ["series"] * named + ["time", "median"]
    heads += [f"q{level:g}" if csv else f"{100 * level:g} %" for level in shares]
    rows = [
        [series] * named + [time, *map(_figure, each)]
        for series, time, each in zip(frame["unique_id"], times, figures, strict=True)
    ]
    if csv:
        for row in [heads, *rows]:
            print(",".join(map(_quoted, row)))
        return
    widths = [max(len(row[k]) for row in [heads, *rows]) for k in range(len(heads))]
    for row in [heads, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if not named:
        chance = float(found.rises()[0])
        print(f"\n{times[0]} is above the last value with a probability of {chance:.2f}.")


def _figure(value: float) -> str:
    """A number with six digits that mean something, or two after the point."""
    before = len(f"{abs(value):.0f}")
    return f"{value:.{max(6, before + 2)}g}"


def _quoted(cell: str) -> str:
    """A cell of a table with commas."""
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\n') else cell


@app.command
def transcribe(
    run: Run,
    *recordings: Paths,
    beam: Annotated[int, Parameter(help="Texts kept at a time; 1 is the fastest.")] = 16,
    find: Annotated[
        Path | None, Parameter(help="File of texts, one a line: say which of them is spoken.")
    ] = None,
    language: Annotated[
        Path | None, Parameter(help="Run of train text --level char: what is written in general.")
    ] = None,
    weight: Annotated[float, Parameter(help="How much --language weighs.")] = 0.5,
    live: Annotated[
        bool, Parameter(help="Sound from standard input, written down while it comes.")
    ] = False,
    json: JSON = False,
) -> None:
    """Write down what is said in recordings: files, or folders of them.

    With --live, raw sound from standard input: 16-bit little-endian samples of one channel, as many
    a second as the model was trained on; the model must have been trained with --no-bidirectional.
    """
    _refuse_options(recordings, [])
    model = _load(run, "transcribe")
    paths = [Path(path) for path in recordings]
    if live:
        if paths or find or language or json:
            raise OstinatoError("transcribe: --live takes no files and none of the other options.")
        _transcribe_live(model)
        return
    if not paths:
        raise OstinatoError("transcribe: name the recordings, or folders of them.")
    read = model.recordings(paths)
    if find is not None:
        known = [line for line in find.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [{"text": t, "probability": round(p, 4)} for t, p in model.find(read, known)]
    else:
        general = None if language is None else ostinato.TextGenerator.load(language)
        texts = model.transcribe(read, beam=beam, language=general, weight=weight)
        found = [{"text": text} for text in texts]
    for place, facts in zip(read.places, found, strict=True):
        if json:
            print_json({"place": str(place), **facts})
        else:
            print("\t".join([*map(str, facts.values()), str(place)]))


def _transcribe_live(model: Any) -> None:
    """Write down what comes on standard input, for as long as it comes."""
    stream = model.stream()
    if stream.rate is None:
        raise OstinatoError("transcribe --live: the model reads series, not sound.")
    print(f"listening: {stream.rate:,} samples a second", file=sys.stderr)
    odd = b""
    while sound := cast(io.BufferedReader, sys.stdin.buffer).read1(1 << 16):
        sound = odd + sound
        odd = sound[len(sound) // 2 * 2 :]
        samples = array("h", sound[: len(sound) // 2 * 2])
        if sys.byteorder == "big":
            samples.byteswap()
        print(stream.feed([sample / 32768 for sample in samples]), end="", flush=True)
    print(stream.finish())


def _writing_command(verb: str) -> Callable[..., None]:
    """The command by which a trained model writes a text for each line that it is given."""

    def command(
        run: Run,
        *inputs: Paths,
        scores: Annotated[bool, Parameter(help="Print log-probabilities too.")] = False,
        attention: Annotated[
            Path | None, Parameter(help="What the first text attends to, as a PNG.")
        ] = None,
        json: JSON = False,
        **controls: Any,
    ) -> None:
        _refuse_options(inputs, [])
        model = _load(run, "write")
        read = model.sources([Path(path) for path in inputs] or [Path("-")])
        if attention is not None:
            model.plot_attention(read.sources[0], attention)
        for place, several in zip(read.places, model.write(read, **controls), strict=True):
            if json:
                facts = [{"text": t.text, "score": t.score, "log_p": t.log_p} for t in several]
                print_json({"place": str(place), "texts": facts})
                continue
            for each in several:
                print(f"{each.log_p:.3f}\t{each.text}" if scores else each.text, flush=True)

    command.__doc__ = f"""{verb.capitalize()} files, a text a line, or standard input.

    Prints a line for each, an empty one for an empty one; with --n-best several.
    """
    return command


@app.command
def diagnose(
    run: Run,
    *data: Paths,
    out: Annotated[
        Path | None,
        Parameter(help="Folder for words, figures and pictures; RUN/diagnosis if none."),
    ] = None,
    distance: Annotated[
        int | None, Parameter(help="Steps over which the task needs its input, where it is known.")
    ] = None,
    json: JSON = False,
) -> None:
    """Say what ails a trained model, with figures, and what to do about it.

    Looks at the gradients of the model on your data, or, without data, on what the run was
    validated on; at its gates, its memory, and the records of its training.
    """
    model = ostinato.load(run)
    sample = model.examples([Path(path) for path in data]) if data else None
    found = ostinato.diagnose(model, sample, distance=distance)
    folder = run / "diagnosis" if out is None else out
    files = ostinato.insight.write_report(found, model.network_, folder, f"Diagnosis of {run}")
    if json:
        print_json(found.to_json())
        return
    print(found)
    print(f"\nPage with pictures: {files[0]}")


@app.command
def memory(
    run: Run,
    *data: Paths,
    steps: Annotated[int, Parameter(help="Steps of a text to look back over.")] = 256,
    plot: Annotated[Path | None, Parameter(help="Effect by distance, as a PNG.")] = None,
    json: JSON = False,
) -> None:
    """Say how far back what a model says depends on what it read: files, or a text as it is."""
    model = ostinato.load(run)
    if data:
        sample = model.examples(_texts_or_files(model, data), steps=steps)
    else:
        sample = model.examples_of_run(run / "data", steps=steps)
    found = ostinato.insight.memory(model, sample)
    if plot is not None:
        ostinato.insight.plot_memory(found).figure.savefig(plot, dpi=120)
    if json:
        print_json(found.to_json())
        return
    print(f"{found}"[:1].upper() + f"{found}"[1:])
    print("\n  steps back   change of the answer   rise of the loss")
    shown = [i for i, lag in enumerate(found.lags) if lag < 4 or (lag + 1) & lag == 0]
    for i in shown:
        print(f"  {found.lags[i]:<12,} {found.effect[i]:<22.4f} {found.loss_rise[i]:+.4f}")


@app.command
def gates(
    run: Run,
    data: Paths,
    /,
    *,
    unit: Annotated[int | None, Parameter(help="Number of a unit to show over the text.")] = None,
    layer: Annotated[int, Parameter(help="Number of the layer of --unit and --gate.")] = 0,
    gate: Annotated[str | None, Parameter(help="Letter of a gate to draw: i, f, o, z, ...")] = None,
    label: Annotated[
        str | None, Parameter(help="Name the units that follow it best: quotes or line.")
    ] = None,
    plot: Annotated[
        Path | None, Parameter(help="The unit or gate over the text, as a PNG.")
    ] = None,
    json: JSON = False,
) -> None:
    """Look at every gate and unit while a model reads a text, or the first sequence of a file."""
    model, looks = ostinato.load(run), ostinato.insight
    given: Any = _texts_or_files(model, (data,))
    if isinstance(given, list):
        text = hasattr(model, "vocabulary_")
        given = given[0].read_text(encoding="utf-8") if text else given[0]
    found = looks.gates(model, given)
    report = {"steps": len(found.steps), "layers": found.to_json()}
    ranked = [] if label is None else found.rank(looks.labels_of(label, found.steps))
    if ranked:
        report["units"] = [each._asdict() for each in ranked]
    chosen = ranked[:1] if unit is None else [found.unit(unit, layer)]
    if chosen:
        report["values"] = [round(float(v), 5) for v in found.of(chosen[0])]
    if plot is not None:
        if gate is not None:
            axes = looks.plot_gate(found, gate, layer)
        elif chosen:
            axes = looks.plot_unit(found, chosen[0])
        else:
            raise OstinatoError(
                "gates --plot: say what to draw: --unit N, --gate LETTER or --label."
            )
        axes.figure.savefig(plot, dpi=120)
    if json:
        print_json(report)
        return
    print(found)
    if label is not None:
        print(f"\nunits that follow {label}")
        for each in ranked:
            name = f"{each.layer}, {each.state} of unit {each.number}"
            print(f"  {name:<32}correlation {each.correlation:+.3f}")
    if chosen:
        print()
        print(looks.overlay(found, chosen[0], shutil.get_terminal_size((80, 24)).columns))


def _texts_or_files(model: Any, data: tuple[str, ...]) -> Any:
    """A text as it is, where a model of texts is given what names no file; else paths."""
    paths = [Path(path) for path in data]
    if hasattr(model, "vocabulary_") and not any(len(d) < 255 and Path(d).exists() for d in data):
        return " ".join(data)
    return paths


def print_json(document: Any) -> None:
    """Print a document as one line of JSON, in ASCII; a number that is not finite as null."""
    print(json.dumps(_finite(document), allow_nan=False))


def _finite(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def _shown(value: Any) -> str:
    return {int: "{:,}", float: "{:.4g}"}.get(type(value), "{}").format(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


TEXT_OPTIONS = options_of(GENERATION, "TextGenerator")
train.command(_with_options(train_text, TEXT_OPTIONS), name="text")
app.command(_with_options(generate, options_of(GENERATION, "TextGenerator.generate")))
app.command(
    _with_options(
        compose,
        [o for o in options_of(MUSIC, "MusicModel.generate") if o.name not in ("prompt", "out")],
    )
)
for verb, (home, estimator, said) in {
    "classify": (
        "many_to_one",
        "SequenceClassifier",
        """Learn which class sequences are of.

    From texts (CSV, TSV, JSON lines with a column of labels), measurements (.ts files, tables with
    a row for every step or every series), or folders of recordings or images.
    """,
    ),
    "regress": (
        "many_to_one",
        "SequenceRegressor",
        """Learn to say a number for a sequence.

    From the same files as classify, with numbers for labels.
    """,
    ),
    "tag": (
        "tagging",
        "SequenceTagger",
        """Learn a label for every step.

    From sentences (CoNLL, CoNLL-U) or tables with a row for every step.
    """,
    ),
    "translate": (
        "translation",
        "Translator",
        """Learn to translate.

    From two parallel files, a text a line: first the sources, then their translations; or tables
    (CSV, TSV, JSON lines) with a column of each. Files may be compressed (.gz).
    """,
    ),
    "summarize": (
        "summarization",
        "Summarizer",
        """Learn to summarise.

    From tables (JSON lines, TSV, CSV) with a column of documents and one of summaries, of which
    there may be several to a document.
    """,
    ),
    "transcribe": (
        "transcription",
        "Transcriber",
        """Learn to write down what is said.

    From a table with a column of sound files and one of texts (--text, --label), or a folder of
    recordings whose names tell: --pattern "{label}_{speaker}.wav".
    """,
    ),
    "caption": (
        "captioning",
        "Captioner",
        """Learn to say what is to be seen on images.

    From a table (CSV, TSV, JSON lines) with a column of image files and one of captions.
    """,
    ),
    "forecast": (
        "forecasting.forecaster",
        "Forecaster",
        """Learn to forecast series: prices, sales, sensors.

    From tables (CSV, TSV, JSON lines, Parquet, Excel) with a column of times and one of values
    (--target); several series in several columns, or named by --id. Missing values are left empty.
    """,
    ),
    "music": (
        "music",
        "MusicModel",
        """Learn music, and to go on with it.

    From MIDI files, or piano rolls in MATLAB or JSON files.
    """,
    ),
}.items():
    options = options_of(f"ostinato.tasks.{home}", estimator)
    command = _data_command(verb, estimator, options)
    command.__doc__ = said
    train.command(_with_options(command, options), name=verb)
for verb in ("translate", "summarize"):
    options = [o for o in options_of(WRITING, "WritingEstimator.write") if o.name != "X"]
    app.command(_with_options(_writing_command(verb), options), name=verb)

if __name__ == "__main__":
    main()
