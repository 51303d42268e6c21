"""What the defaults reach on many sets, beside simple methods with a search of their settings.

    python benchmarks/defaults.py [SET ...] [--data FOLDER] [--seeds 5] [--only ours] [--list]

Ours are trained with defaults alone, each seed anew. The others are searched by cross-validation on
the same training data: logistic regression and naive Bayes on tf-idf of words and pairs of words;
MiniRocket, where aeon is installed. A set whose data are missing is left out with a line. Results
go to benchmarks/results/defaults.json, a set at a time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accuracy import DATA, Missing, there
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import make_pipeline

import ostinato

RESULTS = Path(__file__).parent / "results" / "defaults.json"


class Split(NamedTuple):
    """Training and test data, each inputs and targets; files where there are no targets."""

    training: tuple[Any, Any]
    test: tuple[Any, Any]


class Result(NamedTuple):
    """The figure of a set by seed, with seconds of training and of the prediction of the test."""

    values: list[float]
    training: float
    prediction: float
    notes: str = ""


class Set(NamedTuple):
    """A set of data: how it is read, our estimator, and the methods beside it."""

    kind: str
    read: Callable[[Path], Split]
    ours: Callable[[int], Any]
    others: dict[str, Callable[[Split], Result]]


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


def classifier(seed: int) -> Any:
    """Return our classifier of sequences."""
    return ostinato.SequenceClassifier(seed=seed)


TEXT = {
    "tf-idf, logistic regression": tfidf(
        LogisticRegression(max_iter=2000), {"C": [0.3, 1.0, 3.0, 10.0, 30.0]}
    ),
    "tf-idf, naive Bayes": tfidf(ComplementNB(), {"alpha": [0.03, 0.1, 0.3, 1.0]}),
}
SERIES = {"MiniRocket": minirocket}
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
}


def ours(of: Set, split: Split, seeds: int) -> Result:
    """Train with defaults, by every seed."""

    def given(pair: tuple[Any, Any]) -> tuple[Any, ...]:
        return pair if pair[1] is not None else pair[:1]

    found = [
        timed(
            lambda seed=seed: of.ours(seed).fit(*given(split.training)),
            lambda model: float(model.score(*given(split.test))),
        )
        for seed in range(seeds)
    ]
    return Result(
        [value for one in found for value in one.values],
        statistics.median(one.training for one in found),
        statistics.median(one.prediction for one in found),
    )


def main() -> None:
    """Run the sets that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    parser.add_argument("--seeds", type=int, default=5, help="how often ours are trained")
    parser.add_argument("--only", help="one method alone, such as ours")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    parser.add_argument("--list", action="store_true", help="list the sets")
    a = parser.parse_args()
    if a.list:
        print(*SETS, sep="\n")
        return
    if unknown := set(a.sets) - set(SETS):
        parser.error(f"no such set: {', '.join(sorted(unknown))}; see --list")
    results = json.loads(a.out.read_text()) if a.out.exists() else {}
    for name in a.sets or SETS:
        of = SETS[name]
        try:
            split = of.read(a.data)
        except Missing as missing:
            print(f"{name}: {missing} is missing; left out", file=sys.stderr)
            continue
        methods = {"ours": lambda split, of=of: ours(of, split, a.seeds)} | of.others
        for method, run in methods.items():
            if a.only not in (None, method):
                continue
            try:
                found: Result = run(split)
            except ImportError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            shown = f"{100 * statistics.mean(found.values):.1f} %"
            if len(found.values) > 1:
                low, high = min(found.values), max(found.values)
                shown += f" ({100 * low:.1f} to {100 * high:.1f})"
            print(
                f"{name:<18} {method:<28} {shown:<26} {found.training:7.1f} s "
                f"{found.prediction:6.2f} s",
                flush=True,
            )
            results.setdefault(name, {"kind": of.kind})[method] = found._asdict()
            a.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
