"""What the defaults reach on many sets, beside simple methods with a search of their settings.

    python benchmarks/defaults.py [SET ...] [--data FOLDER] [--seeds 5] [--only ours] [--list]
        [--python PYTHON] [--summary]

Ours are trained with defaults alone, each seed anew. The others are searched by cross-validation on
the same training data: logistic regression and naive Bayes on tf-idf of words and pairs of words;
MiniRocket, where aeon is installed. Forecasts are beside those of simple rules, and of methods of
statsforecast and mlforecast, if PYTHON is that of an environment that has them. A set whose data
are missing is left out with a line. Results go to benchmarks/results/defaults.json, a set at a
time; at the end of all sets in it comes a summary.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accuracy import DATA, Missing, there
from forecast_sets import LEVELS, SERIES_SETS, Division, by_peer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import make_pipeline

import ostinato
from ostinato.tasks.forecasting.forecast import Blend

RESULTS = Path(__file__).parent / "results" / "defaults.json"


class Split(NamedTuple):
    """Training and test data, each inputs and targets, if there are such; files or series."""

    training: tuple[Any, Any]
    test: tuple[Any, Any]


class Result(NamedTuple):
    """The figure of a set by seed, with seconds of training and of the prediction of the test."""

    values: list[float]
    training: float
    prediction: float
    notes: str = ""
    more: Mapping[str, Sequence[float]] = {}
    """Further figures by name, each by seed."""
    warnings: Sequence[str] = ()
    """Warnings while ours were trained, the first of each seed."""


class Set(NamedTuple):
    """A set of data: how it is read, how ours does, by seed, and the methods beside it."""

    kind: str
    read: Callable[[Path], Split]
    ours: Callable[[Split, int], Result]
    others: Mapping[str, Callable[[Split], Result]]


def sentences(name: str, test: str | None = None) -> Callable[[Path], Split]:
    """Lines of a label and a sentence; a tenth, at random, is the test where there is none."""

    def lines(file: Path) -> tuple[list[str], list[str]]:
        found = file.read_text(encoding="latin-1").rstrip("\n").split("\n")  # some hold \x85
        rows = [line.split(" ", 1) for line in found]
        return [text for _, text in rows], [label for label, _ in rows]

    def read(data: Path) -> Split:
        X, y = lines(there(data / "sentences" / name))
        if test is not None:
            return Split((X, y), lines(there(data / "sentences" / test)))
        parts = train_test_split(X, y, test_size=0.1, random_state=0, stratify=y)
        return Split((parts[0], parts[2]), (parts[1], parts[3]))

    return read


def sst2(data: Path) -> Split:
    """Sentiment of film reviews."""

    def lines(file: Path) -> tuple[list[str], list[str]]:
        rows = [line.rsplit("\t", 1) for line in file.read_text().splitlines()]
        return [text for text, _ in rows], [label for _, label in rows]

    folder = there(data / "sst2")
    return Split(lines(folder / "train.tsv"), lines(folder / "test.tsv"))


def series(folder: str, name: str) -> Callable[[Path], Split]:
    """Series with a class, in the format of the UEA archive."""

    def read(data: Path) -> Split:
        files = there(data / folder)
        return Split((files / f"{name}_TRAIN.ts", None), (files / f"{name}_TEST.ts", None))

    return read


def timed(fit: Callable[[], Any], score: Callable[[Any], float]) -> Result:
    """Train and test once."""
    start = time.perf_counter()
    model = fit()
    middle = time.perf_counter()
    value = score(model)
    return Result([value], middle - start, time.perf_counter() - middle)


def tfidf(classifier: Any, grid: dict[str, Sequence[float]]) -> Callable[[Split], Result]:
    """A classifier of tf-idf of words and pairs of words, its setting searched in five folds."""

    def run(split: Split) -> Result:
        made = make_pipeline(TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True), classifier)
        settings = {f"{type(classifier).__name__.lower()}__{k}": v for k, v in grid.items()}
        search = GridSearchCV(
            made, settings | {"tfidfvectorizer__ngram_range": [(1, 1), (1, 2)]}, cv=5
        )
        found = timed(lambda: search.fit(*split.training), lambda m: float(m.score(*split.test)))
        return found._replace(notes=str(search.best_params_))

    return run


def minirocket(split: Split) -> Result:
    """MiniRocket with a ridge classifier, as its authors use it (Dempster et al. 2021)."""
    classification = importlib.import_module("aeon.classification.convolution_based")
    loading = importlib.import_module("aeon.datasets")
    X, y = loading.load_from_ts_file(str(split.training[0]))
    X_test, y_test = loading.load_from_ts_file(str(split.test[0]))
    if isinstance(X, list):  # of unequal length: padded by zeros
        longest = max(x.shape[1] for x in [*X, *X_test])
        X, X_test = (
            np.stack([np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in part])
            for part in (X, X_test)
        )
    return timed(
        lambda: classification.MiniRocketClassifier(random_state=0).fit(X, y),
        lambda model: float((model.predict(X_test) == y_test).mean()),
    )


def classifier(split: Split, seed: int) -> Result:
    """Our classifier of sequences."""

    def given(pair: tuple[Any, Any]) -> tuple[Any, ...]:
        return pair if pair[1] is not None else pair[:1]

    return timed(
        lambda: ostinato.SequenceClassifier(seed=seed).fit(*given(split.training)),
        lambda model: float(model.score(*given(split.test))),
    )


def divided(name: str) -> Callable[[Path], Split]:
    """Series, divided in time."""

    def read(data: Path) -> Split:
        division = Division.of_set(SERIES_SETS[name], data)
        return Split((division.known, None), (division, None))

    return read


def scored(division: Division, quantiles: Any, training: float, prediction: float) -> Result:
    """What is said of forecasts."""
    figures = division.scores(np.asarray(quantiles))
    more = {name: [value] for name, value in figures.items() if name != "MASE"}
    return Result([figures["MASE"]], training, prediction, "", more)


def forecaster(split: Split, seed: int) -> Result:
    """Our forecaster."""
    division: Division = split.test[0]
    of, start = division.of, time.perf_counter()
    model = ostinato.Forecaster(horizon=of.horizon, seed=seed).fit(division.known)
    middle = time.perf_counter()
    found = model.historical_forecasts(division.whole, cutoffs=of.cutoffs).quantiles(LEVELS)
    seconds = time.perf_counter() - middle
    done = scored(division, found, middle - start, seconds)
    return done._replace(notes=model.training_.get("summary", ""))


def rule(name: Any, split: Split) -> Result:
    """A simple rule; its intervals are of errors in the past."""
    division: Division = split.test[0]
    start = time.perf_counter()
    found = division.by_rule(Blend(name, division.of.season))
    return scored(division, found, 0.0, time.perf_counter() - start)


def peer(name: str, split: Split) -> Result:
    """A forecaster of another library."""
    found = by_peer(name, split.test[0], Peers.python)
    seconds = found["training_seconds"], found["forecasting_seconds"]
    return scored(split.test[0], found["quantiles"], *seconds)


class Peers:
    """Where the other libraries are."""

    python = sys.executable


TEXT = {
    "tf-idf, logistic regression": tfidf(
        LogisticRegression(max_iter=2000), {"C": [0.3, 1.0, 3.0, 10.0, 30.0]}
    ),
    "tf-idf, naive Bayes": tfidf(ComplementNB(), {"alpha": [0.03, 0.1, 0.3, 1.0]}),
}
SERIES = {"MiniRocket": minirocket}
RULES = ("naive", "seasonal naive", "drift")
FORECASTS: dict[str, Callable[[Split], Result]] = {
    **{name: functools.partial(rule, name) for name in RULES},
    **{
        name: functools.partial(peer, name)
        for name in ("AutoETS", "AutoTheta", "MSTL", "AutoARIMA", "boosted lags")
    },
}
SETS = {
    "sst2": Set("sentences", sst2, classifier, TEXT),
    "trec": Set("sentences", sentences("TREC.train.all", "TREC.test.all"), classifier, TEXT),
    "custrev": Set("sentences", sentences("custrev.all"), classifier, TEXT),
    "mpqa": Set("sentences", sentences("mpqa.all"), classifier, TEXT),
    "subj": Set("sentences", sentences("subj.all"), classifier, TEXT),
    "vowels": Set("series", series("uea-JapaneseVowels", "JapaneseVowels"), classifier, SERIES),
    **{
        name.lower(): Set("series", series("uea", name), classifier, SERIES)
        for name in ("ArrowHead", "GunPoint", "ItalyPowerDemand", "OSULeaf")
    },
    **{name: Set("forecasts", divided(name), forecaster, FORECASTS) for name in SERIES_SETS},
}


class Warnings(logging.Handler):
    """Keeps warnings of training; as a context manager, those given in the block."""

    def __enter__(self) -> list[str]:
        self.messages: list[str] = []
        logging.getLogger("ostinato.training").addHandler(self)
        return self.messages

    def __exit__(self, *raised: object) -> None:
        logging.getLogger("ostinato.training").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.messages.append(record.getMessage())


def ours(of: Set, split: Split, seeds: int) -> Result:
    """Train with defaults, by every seed."""
    found, warnings = [], []
    for seed in range(seeds):
        with Warnings() as messages:
            found.append(of.ours(split, seed))
        warnings += messages[:1]
    return Result(
        [value for one in found for value in one.values],
        statistics.median(one.training for one in found),
        statistics.median(one.prediction for one in found),
        found[0].notes,
        {name: [one.more[name][0] for one in found] for name in found[0].more},
        warnings,
    )


def shown(kind: str, found: Result) -> str:
    """Figures of a set in words; shares in per cent."""
    factor, unit, digits = (1, "", 3) if kind == "forecasts" else (100, " %", 1)
    words = f"{factor * statistics.mean(found.values):.{digits}f}{unit}"
    if len(found.values) > 1:
        low, high = (f"{factor * f(found.values):.{digits}f}" for f in (min, max))
        words += f" ({low} to {high})"
    for name, values in found.more.items():
        words += f", {name} {statistics.mean(values):.2f}"
    return words


def summary(results: Mapping[str, Any]) -> list[str]:
    r"""Lines about all sets of each kind: how often ours are as good, and by how much.

    ``results`` are those of the file. Ours are at least as good where the difference is within the
    spread of the seeds. Errors are compared by their ratio, whose mean is geometric; accuracies by
    their difference.

    >>> one = {"kind": "sentences", "ours": {"values": [0.8, 0.9]}, "bayes": {"values": [0.9]}}
    >>> two = {"kind": "forecasts", "ours": {"values": [0.5]}, "naive": {"values": [1.0]}}
    >>> two["ours"] |= {"more": {"coverage": [80]}}
    >>> one["ours"] |= {"warnings": ["the loss oscillates"]}
    >>> print(*summary({"a": one, "b": two}), sep="\n")
    sentences: at least as good as the best of others on 1 of 1 sets
      a warning in 1 of 2 runs
      bayes                        1 sets, ours -5.0 points
    forecasts: below the best simple rule on 1 of 1 sets; 80 % intervals hold 72 to 88 % on 1 of 1
      a warning in 0 of 1 runs
      naive                        1 sets, errors of ours 0.500 times theirs
    """
    lines = []
    for kind in dict.fromkeys(each["kind"] for each in results.values()):
        sets = [each for each in results.values() if each["kind"] == kind and "ours" in each]
        errors = kind == "forecasts"
        good, rows = 0, {}
        for each in sets:
            mean = {m: statistics.mean(r["values"]) for m, r in each.items() if m != "kind"}
            values, mine = each["ours"]["values"], mean.pop("ours")
            if errors:
                good += mine < min((mean[m] for m in RULES if m in mean), default=float("inf"))
            else:
                good += max(values) >= max(mean.values(), default=0.0)
            for method, value in mean.items():
                found = float(np.log(mine / value)) if errors else 100 * (mine - value)
                rows.setdefault(method, []).append(found)
        than = "below the best simple rule" if errors else "at least as good as the best of others"
        line = f"{kind}: {than} on {good} of {len(sets)} sets"
        if errors:
            held = [statistics.mean(each["ours"]["more"]["coverage"]) for each in sets]
            line += f"; 80 % intervals hold 72 to 88 % on {sum(72 <= h <= 88 for h in held)}"
            line += f" of {len(held)}"
        runs = [(each["ours"].get("warnings", []), each["ours"]["values"]) for each in sets]
        warned, all_runs = (sum(map(len, each)) for each in zip(*runs, strict=True))
        lines += [line, f"  a warning in {warned} of {all_runs} runs"]
        for method, found in rows.items():
            value = statistics.mean(found)
            words = f"errors of ours {np.exp(value):.3f} times theirs"
            words = words if errors else f"ours {value:+.1f} points"
            lines.append(f"  {method:<28} {len(found)} sets, {words}")
    return lines


def main() -> None:
    """Run the sets that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    parser.add_argument("--seeds", type=int, default=5, help="how often ours are trained")
    parser.add_argument("--only", help="one method alone, such as ours")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    parser.add_argument("--list", action="store_true", help="list the sets")
    parser.add_argument("--python", default=sys.executable, help="has statsforecast, mlforecast")
    parser.add_argument("--summary", action="store_true", help="nothing but the summary")
    a = parser.parse_args()
    if a.list:
        print(*SETS, sep="\n")
        return
    if unknown := set(a.sets) - set(SETS):
        parser.error(f"no such set: {', '.join(sorted(unknown))}; see --list")
    results = json.loads(a.out.read_text()) if a.out.exists() else {}
    Peers.python = a.python
    for name in () if a.summary else a.sets or SETS:
        of = SETS[name]
        try:
            split = of.read(a.data)
        except Missing as missing:
            print(
                f"{name}: {missing} is missing: docs/reference/data.md; left out", file=sys.stderr
            )
            continue
        methods = {"ours": lambda split, of=of: ours(of, split, a.seeds)} | of.others
        for method, run in methods.items():
            if a.only not in (None, method):
                continue
            try:
                found: Result = run(split)
            except (ImportError, Missing) as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            print(
                f"{name:<18} {method:<28} {shown(of.kind, found):<26} {found.training:7.1f} s "
                f"{found.prediction:6.2f} s",
                flush=True,
            )
            results.setdefault(name, {"kind": of.kind})[method] = found._asdict()
            a.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(*summary(results), sep="\n")


if __name__ == "__main__":
    main()
