"""Commands that predict and evaluate: ``predict``, ``forecast``, ``evaluate``."""

from __future__ import annotations

import shutil
import sys
from csv import writer as csv_writer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ostinato
from ostinato.cli.commands import USE, can, command, print_json, shown
from ostinato.cli.options import Picture
from ostinato.cli.writing import language_model
from ostinato.data.lazy import Lazy
from ostinato.errors import OstinatoError

if TYPE_CHECKING:
    from ostinato.tasks import transcripts
    from ostinato.tasks.base import Evaluator, Predictor, SeriesForecaster, SpeechTranscriber
    from ostinato.tasks.classification import SequenceClassifier
    from ostinato.tasks.forecasting.forecast import Forecast
    from ostinato.tasks.transcripts import Comparison
else:
    transcripts = Lazy("ostinato.tasks.transcripts")


@command(USE, protocol="Predictor")
def predict(run: Path, /, *files: Path, probabilities: bool = False, json: bool = False) -> None:
    """Predict labels, numbers or captions for files.

    Prints one line per sequence: the prediction, its probability and where it was read.

    Args:
        run: folder of a trained model.
        files: files or folders as in training, labels not needed; or a text per line from
            standard input, with - or no files.
        probabilities: print the probability of every class.
        json: print one JSON object per line.

    Examples:
        ostinato predict sentiment new.txt
        echo "a lovely film" | ostinato predict sentiment --probabilities
    """
    model: Predictor = ostinato.load(run)
    paths = list(files) or [Path("-")]
    for prediction in model.predictions(paths, probabilities=probabilities or json):
        if json:
            print_json(prediction.to_json())
        else:
            print(prediction)


@command(USE, protocol="Evaluator")
def evaluate(
    run: Path,
    /,
    *files: Path,
    plot: Picture | None = None,
    cutoffs: int = 1,
    show: int = 0,
    beam: int | None = None,
    language: Path | None = None,
    weight: float | None = None,
    allow_shared_groups: bool = False,
    json: bool = False,
) -> None:
    """Evaluate a model on labelled files.

    Prints the metrics of the task, such as accuracy, F1, BLEU or MASE. A forecaster predicts the
    last steps of each series; without files, of the series that it was trained on.

    Args:
        run: folder of a trained model.
        files: files or folders with labels, as in training.
        plot: PNG to write: the confusion matrix, or forecasts beside the observed values.
        cutoffs: forecasts of each series, one horizon apart.
        show: transcripts to show beside their true texts, those with the most errors first.
        beam: hypotheses that a transcriber keeps at each step.
        language: folder of a model of train text --level char that scores transcripts.
        weight: weight of the score of --language.
        allow_shared_groups: evaluate on groups, such as speakers, that were trained on, too.
        json: print one JSON object.

    Examples:
        ostinato evaluate sentiment test.csv --plot confusion.png
        ostinato evaluate ears test/ --show 5
    """
    forecasts_series = can(run, "SeriesForecaster")
    search = {"beam": beam, "language": language_model("evaluate", language), "weight": weight}
    how: dict[str, Any] = {name: given for name, given in search.items() if given is not None}
    if (show or how) and not can(run, "SpeechTranscriber"):
        raise OstinatoError(
            f"evaluate: {run} holds no transcriber; --show, --beam, --language and --weight are "
            "for one."
        )
    if cutoffs != 1 and not forecasts_series:
        raise OstinatoError(f"evaluate --cutoffs: {run} holds no forecaster.")
    model = ostinato.load(run)
    if forecasts_series:
        forecaster: SeriesForecaster = model
        forecasts: Forecast = forecaster.historical_forecasts(list(files) or None, cutoffs=cutoffs)
        found: dict[str, Any] = forecasts.scores()
        if not files and not json:
            print("On the training series, the last steps of which were the validation split.")
        if plot is not None:
            forecasts.plot(plot)
    elif not files:
        raise OstinatoError("evaluate: FILES is required: files with labels.")
    else:
        if allow_shared_groups:
            if "groups" not in model.training_:
                raise OstinatoError(
                    f"evaluate --allow-shared-groups: {run} was trained without groups (--group)."
                )
            how["allow_shared_groups"] = True
        if show:
            transcriber: SpeechTranscriber = model
            compared = transcriber.compare(list(files), **how)
            found = transcripts.error_rates(compared)
            worst = sorted(compared, key=lambda each: -each.errors)
            shown_texts = [each for each in worst[:show] if each.errors]
        else:
            evaluator: Evaluator = model
            found = evaluator.evaluate(list(files), **how)
            shown_texts = []
        if plot is not None and "confusion" not in found:
            name = type(model).__name__
            raise OstinatoError(f"evaluate: {name} has no confusion matrix to plot.")
        if plot is not None:
            classifier: SequenceClassifier = model
            classifier.plot_confusion(found["confusion"], plot)
    if json:
        print_json(found | ({"worst": list(map(_compared, shown_texts))} if show else {}))
        return
    for each in shown_texts if show else ():
        print(f"{each.headline}\n" + "\n".join(each.lines(_columns())) + "\n")
    for name, value in found.items():
        if name == "confusion":
            _print_confusion(model.classes_.tolist(), value)
        else:
            print(f"{name.replace('_', ' '):<21}{shown(value)}")


def _compared(each: Comparison) -> dict[str, Any]:
    facts = {"place": str(each.place), "errors": each.errors, "words": each.words}
    return facts | {"reference": each.reference, "hypothesis": each.hypothesis}


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _print_confusion(classes: list[Any], confusion: list[list[int]]) -> None:
    """Print the confusion matrix as a table, where it fits the terminal."""
    names = [str(name) for name in classes]
    cells = [names, *([f"{n:,}" if n else "·" for n in row] for row in confusion)]
    width = 2 + max(len(cell) for row in cells for cell in row)
    room = max(map(len, names)) + 8
    if room + width * len(names) > _columns():
        return
    print("\ntrue  \\ predicted".ljust(room) + "".join(name.rjust(width) for name in names))
    for name, row in zip(names, cells[1:], strict=True):
        print(name.ljust(room - 1) + "".join(cell.rjust(width) for cell in row))


@command(USE, protocol="SeriesForecaster")
def forecast(
    run: Path,
    /,
    *files: Path,
    horizon: int | None = None,
    levels: str = "0.1,0.9",
    num_samples: int = 64,
    plot: Picture | None = None,
    csv: bool = False,
    json: bool = False,
) -> None:
    """Forecast series, with prediction intervals.

    Prints the median and quantiles of each step, of the series that the model was trained on or of
    others in files like theirs.

    Args:
        run: folder of a trained forecaster.
        files: tables as in training; without files, the training series.
        horizon: steps ahead; as in training if not given.
        levels: quantiles to print, from 0 to 1.
        num_samples: sample paths, of a model trained with --method autoregressive.
        plot: PNG to write: a fan chart.
        csv: print comma-separated values.
        json: print one JSON object per line.

    Examples:
        ostinato forecast sales --plot forecast.png
        ostinato forecast sales new.csv --levels 0.05,0.95 --csv
    """
    model: SeriesForecaster = ostinato.load(run)
    try:
        shares = [float(level) for level in levels.split(",")]
    except ValueError:
        raise OstinatoError(
            f"forecast: --levels {levels}; expected numbers between 0 and 1, as in 0.1,0.9."
        ) from None
    found: Forecast = model.forecast(list(files) or None, horizon, num_samples=num_samples)
    if plot is not None:
        found.plot(plot)
    frame = found.to_frame(shares)
    times = found.panel.grid.format(frame["ds"].to_numpy())
    figures = frame.iloc[:, 3:].to_numpy().tolist()  # the median, and quantiles
    steps = list(zip(frame["unique_id"], times, figures, strict=True))
    named = len(found) > 1 or csv
    heads = ["series"] * named + ["time", "median"]
    heads += [f"q{level:g}" if csv else f"{100 * level:g} %" for level in shares]
    rows = [[name] * named + [time, *map(_figure, each)] for name, time, each in steps]
    if json:
        for name, time, (median, *quantiles) in steps:
            by_level = dict(zip(map(str, shares), quantiles, strict=True))
            print_json({"series": name, "time": time, "median": median, "quantiles": by_level})
    elif csv:
        csv_writer(sys.stdout, lineterminator="\n").writerows([heads, *rows])
    else:
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        for row in [heads, *rows]:
            print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if not named and not json:
        chance = float(found.rises()[0])
        print(f"\n{times[0]} is above the last value with a probability of {chance:.2f}.")


def _figure(value: float) -> str:
    """Return a number with six significant digits, or two decimals."""
    before = len(f"{abs(value):.0f}")
    return f"{value:.{max(6, before + 2)}g}"
