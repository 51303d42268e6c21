"""Estimators and the command line, with arguments and data that are right or wrong.

`FAULTS` maps a kind of fault to a function ``(seed, mended) -> Fit``, and `HEALTHY` a name to a
function ``(seed) -> Fit``. `Fit.run` is the estimator in memory, `Fit.commands` writes files and
returns the command lines that do the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from diagnosis_modules import Given
from numpy.random import Generator, default_rng

import ostinato

Pairs = tuple[Any, Any]
"""Inputs and targets; the targets are None where the task has none."""

COMMAND = {
    "SequenceClassifier": "classify",
    "SequenceRegressor": "regress",
    "SequenceTagger": "tag",
    "TextGenerator": "text",
    "Forecaster": "forecast",
    "Translator": "translate",
}


class Commands(NamedTuple):
    """What is typed, without ``ostinato``: `train`, then `diagnose` of the folder ``run``."""

    train: list[str]
    diagnose: list[str]
    run: Path


class Fit(NamedTuple):
    """An estimator and its data.

    Attributes:
        estimator: name of the class.
        settings: its arguments.
        train, held: data of one source.
        honest: data without the fault, by which the model is judged.
        error: of a model on honest data, that of the best constant being 1.
        distance: steps of the dependency, if the user knows.
    """

    estimator: str
    settings: dict[str, Any]
    train: Pairs
    held: Pairs
    honest: Pairs
    error: Callable[[Any, Any, Any], float]
    distance: int | None = None

    def run(self) -> Given:
        """Train in memory."""
        model = getattr(ostinato, self.estimator)(**self.settings)
        X, y = self.train
        model.fit(X) if y is None else model.fit(X, y)
        rows = slice(0, 64 if y is not None else None)
        data = (X,) if y is None else (X[rows], y[rows])
        held = (self.held[0],) if y is None else self.held
        return Given(model, data, self.judge(model), held_out=held, distance=self.distance)

    def judge(self, model: Any) -> float:
        """The error on honest data."""
        value = self.error(model, *self.honest)
        return value if math.isfinite(value) else math.inf

    def commands(self, folder: Path) -> Commands:
        """Write the training data into a folder."""
        X, y = self.train
        names: list[str] = []
        flags: list[str] = []
        file = folder / "data.csv"
        if self.estimator == "TextGenerator":
            file = folder / "book.txt"
            file.write_text(X)
        elif self.estimator == "Forecaster":
            pd.DataFrame({"step": range(len(X)), "value": X}).to_csv(file, index=False)
        elif self.estimator == "Translator":
            names = [str(folder / "source.txt"), str(folder / "target.txt")]
            for name, lines in zip(names, (X, y), strict=True):
                Path(name).write_text("".join(f"{line}\n" for line in lines))
        elif self.estimator == "SequenceTagger":
            file = folder / "data.conll"
            rows = [
                "".join(f"{a}\t{b}\n" for a, b in zip(words, tags, strict=True))
                for words, tags in zip(X, y, strict=True)
            ]
            file.write_text("\n".join(rows))
        elif isinstance(X[0], str):
            pd.DataFrame({"text": X, "label": y}).to_csv(file, index=False)
        else:
            frames = [
                pd.DataFrame(x, columns=[f"sensor_{k}" for k in range(x.shape[1])]).assign(
                    machine=f"m{i}", label=label
                )
                for i, (x, label) in enumerate(zip(X, y, strict=True))
            ]
            pd.concat(frames).to_csv(file, index=False)
            flags = ["--id", "machine", "--label", "label"]
        for name, value in self.settings.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                flags.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                flags += [f"--{flag}", str(value)]
        run = folder / "run"
        out = ["--out", str(run), "--quiet"]
        distance = [] if self.distance is None else ["--distance", str(self.distance)]
        return Commands(
            ["train", COMMAND[self.estimator], *(names or [str(file)]), *flags, *out],
            ["diagnose", str(run), "--json", *distance],
            run,
        )


# Errors: 0 if all is right, 1 for the best constant


def wrong(model: Any, X: Any, y: Any) -> float:
    """Share of wrong classes, or tags, by that of the most frequent one."""
    found = model.predict(X)
    if isinstance(y[0], list):
        found, y = np.concatenate([np.array(f) for f in found]), np.concatenate(y)
    found, y = np.array(found).astype(str), np.array(y).astype(str)
    most = max(np.mean(y == name) for name in set(y))
    return float(np.mean(found != y) / (1 - most))


def wrong_by_class(model: Any, X: Any, y: Any) -> float:
    """The same with each class of equal weight."""
    found = model.predict(X)
    if isinstance(y[0], list):
        found, y = np.concatenate([np.array(f) for f in found]), np.concatenate(y)
    found, y = np.array(found), np.array(y)
    names = sorted(set(y))
    recall = np.mean([np.mean(found[y == name] == name) for name in names])
    return float((1 - recall) / (1 - 1 / len(names)))


def wrong_in_use(model: Any, X: Any, y: Any) -> float:
    """Of tags, where only the past is known: the tag of the last step of each beginning."""
    ends = range(3, len(X[0]), 3)
    starts = [x[:t] for x in X for t in ends]
    found = [tags[-1] for tags in model.predict(starts)]
    true = [tags[t - 1] for tags in y for t in ends]
    most = max(true.count(name) for name in set(true)) / len(true)
    return float(np.mean([a != b for a, b in zip(found, true, strict=True)]) / (1 - most))


def squares(model: Any, X: Any, y: Any) -> float:
    """Mean squared error by the variance."""
    return float(np.mean((model.predict(X) - np.array(y)) ** 2) / np.var(y))


def bits(model: Any, X: str, y: None) -> float:
    """Bits of a character by those of the frequencies of characters."""
    share = np.array([X.count(c) for c in set(X)]) / len(X)
    return model.score(X).bits_per_character / float(-(share * np.log2(share)).sum())


def first_of_lines(model: Any, X: str, y: None) -> float:
    """Bits of the last letter of each line, by those of a guess of four."""
    log_p = np.asarray(model.log_probs(X))
    ends = [i for i, c in enumerate(X) if c == "\n"]
    shift = len(X) - len(log_p)
    return float(-np.mean([log_p[i - 1 - shift] for i in ends]) / math.log(4))


def misses(model: Any, X: Any, y: Any) -> float:
    """Squared error of the forecast by that of the mean of the past."""
    forecast = np.asarray(model.forecast(X).median).ravel()
    return float(np.mean((forecast - y) ** 2) / np.mean((np.mean(X) - y) ** 2))


def letters(model: Any, X: Any, y: Any) -> float:
    """Wrong letters of translations."""
    found = model.translate(X)
    pairs = [
        (a, b) for f, t in zip(found, y, strict=True) for a, b in zip(f.ljust(9), t, strict=False)
    ]
    return float(np.mean([a != b for a, b in pairs]) / 0.75)


def notes_missed(model: Any, X: Any, y: None) -> float:
    """Nats of a step by those of the frequencies of the keys."""
    rolls = np.concatenate([[[key in notes for key in range(21, 109)] for notes in x] for x in X])
    p = rolls.mean(0).clip(1e-6, 1 - 1e-6)
    constant = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    return float(model.evaluate(X)["nll_per_step"] / constant)


# Data


def waves(rng: Generator, N: int = 160, noise: float = 0.3, T: int = 22) -> Pairs:
    """How fast a wave swings, beside a channel of noise."""
    X, y = [], []
    for i in range(N):
        t = np.arange(rng.integers(T - 5, T + 1))
        wave = np.sin(t * (0.3 + 0.4 * (i % 3)) + 6.28 * rng.random())
        x = np.stack([wave + noise * rng.normal(size=len(t)), rng.normal(size=len(t))], 1)
        X.append(x)
        y.append(["slow", "medium", "fast"][i % 3])
    return X, y


def wear(rng: Generator, N: int = 200) -> Pairs:
    """Wear by how often a machine ran, beside a channel of noise."""
    X, y = [], []
    for _ in range(N):
        T, rate = rng.integers(12, 20), rng.random()
        on = (rng.random(T) < rate) * 1.0
        X.append(np.stack([on, rng.normal(size=T)], 1))
        y.append(float(on.mean() + 0.03 * rng.normal()))
    return X, y


def sums(rng: Generator, N: int = 300, T: int = 10) -> Pairs:
    """The sum of numbers that are marked."""
    X, y = [], []
    for _ in range(N):
        numbers, marks = rng.random(T), np.zeros(T)
        marks[rng.choice(T, 3, replace=False)] = 1
        X.append(np.stack([numbers, marks], 1))
        y.append(float((numbers * marks).sum()))
    return X, y


def firsts(rng: Generator, N: int = 200, T: int = 100) -> Pairs:
    """Which symbol came first, before noise."""
    X, y = [], []
    for i in range(N):
        x = 0.3 * rng.normal(size=(T, 3))
        x[0, i % 3] += 2
        X.append(x)
        y.append("abc"[i % 3])
    return X, y


def reviews(rng: Generator, N: int = 200) -> Pairs:
    """Reviews."""
    plain = [
        "the",
        "film",
        "plot",
        "was",
        "with",
        "and",
        "actors",
        "of",
        "a",
        "scene",
        "ending",
        "music",
        "it",
        "director",
        "camera",
    ]
    moods = [
        ["lovely", "warm", "funny", "great", "clever"],
        ["dull", "long", "bad", "weak", "boring"],
    ]
    X, y = [], []
    for i in range(N):
        words = list(rng.choice(plain, rng.integers(8, 15)))
        for place in rng.choice(len(words), 3, replace=False):
            words[place] = rng.choice(moods[i % 2])
        X.append(" ".join(words))
        y.append(["good", "bad"][i % 2])
    return X, y


def sentences(rng: Generator, N: int = 150, T: int = 9) -> Pairs:
    """Words whose tag follows from the word and the one before."""
    kinds = {f"w{k}": "NVA"[k % 3] for k in range(24)}
    X, y = [], []
    for _ in range(N):
        words = [str(w) for w in rng.choice(list(kinds), T)]
        before = ["", *words[:-1]]
        tags = [
            kinds[w] + ("1" if kinds.get(b) == "N" else "0")
            for w, b in zip(words, before, strict=True)
        ]
        X.append(words)
        y.append(tags)
    return X, y


def rare_tags(rng: Generator, N: int = 200, T: int = 12) -> Pairs:
    """Words of which few, after certain others, are names."""
    X, y = [], []
    for _ in range(N):
        ids = rng.integers(0, 30, T)
        tags = ["O"] + ["NAME" if a < 6 and b < 6 else "O" for a, b in pairwise(ids)]
        X.append([f"w{k}" for k in ids])
        y.append(tags)
    return X, y


def events(rng: Generator, N: int = 200, T: int = 10) -> Pairs:
    """The next event at every step; events mostly follow a cycle."""
    X, y = [], []
    for _ in range(N):
        ids = [int(rng.integers(6))]
        for _ in range(T):
            ids.append((ids[-1] + 1) % 6 if rng.random() < 0.75 else int(rng.integers(6)))
        X.append([f"e{k}" for k in ids[:-1]])
        y.append([f"e{k}" for k in ids[1:]])
    return X, y


def rounds(rng: Generator, N: int = 200, T: int = 24) -> Pairs:
    """The next event at every step, which mostly is that of three steps before; then the end."""
    X, y = [], []
    for _ in range(N):
        ids = [int(k) for k in rng.integers(5, size=T)]
        for t in range(3, T):
            ids[t] = ids[t - 3] if rng.random() < 0.85 else ids[t]
        X.append([f"e{k}" for k in ids])
        y.append([*X[-1][1:], "end"])
    return X, y


KNOWN = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away",
         "from", "all"]  # fmt: skip


def book(rng: Generator, words: int = 900) -> str:
    """Words in a random order."""
    return " ".join(rng.choice(KNOWN, words))


def refrains(rng: Generator, lines: int = 260, T: int = 14) -> str:
    """Lines that end with the letter that they began with, after other letters."""
    text = []
    for _ in range(lines):
        first = rng.choice(list("abcd"))
        text.append(first + "".join(rng.choice(list("xyz"), T)) + first)
    return "\n".join(text) + "\n"


def seasons(rng: Generator, N: int = 200) -> Any:
    """A series with a season of 12."""
    t = np.arange(N)
    return 20 + 5 * np.sin(2 * np.pi * t / 12) + 0.5 * rng.normal(size=N)


def backwards(rng: Generator, N: int = 250, T: int = 4) -> Pairs:
    """Words, and the same from back to front."""
    X = ["".join(rng.choice(list("abcde"), T)) for _ in range(N)]
    return X, [x[::-1] for x in X]


def tunes(rng: Generator, N: int = 40, T: int = 24) -> Pairs:
    """Pieces of four chords in turn, from any of them, with a wrong note here and there."""
    chords = [[60, 64, 67], [62, 65, 69], [65, 69, 72], [67, 71, 74]]
    pieces = []
    for _ in range(N):
        start = int(rng.integers(4))
        piece = [list(chords[(start + t) % 4]) for t in range(T)]
        for t in rng.choice(T, 2, replace=False):
            piece[t] = [*piece[t][:2], int(rng.integers(55, 80))]
        pieces.append(piece)
    return pieces, None


# Healthy fits, on which faults are planted

SMALL: dict[str, Any] = {"hidden_size": 16, "patience": 0}


def fit(
    seed: int, estimator: str, data: Callable[..., Any], error: Any, settings: Any, held: Any = None
) -> Fit:
    """A fit on data of which more is drawn to be held out."""
    train, rest = data(default_rng(seed)), data(default_rng(1000 + seed))
    if isinstance(train, str):
        train, rest = (train, None), (rest, None)
    settings = {**SMALL, "seed": seed, **settings}
    return Fit(estimator, settings, train, rest, held or rest, error)


def classified(seed: int, noise: float = 0.3, N: int = 160, **settings: Any) -> Fit:
    """Waves."""
    data = partial(waves, noise=noise, N=N)
    return fit(seed, "SequenceClassifier", data, wrong, {"epochs": 20, **settings})


def regressed(seed: int, **settings: Any) -> Fit:
    """Wear."""
    return fit(seed, "SequenceRegressor", wear, squares, {"epochs": 12, **settings})


def summed(seed: int, **settings: Any) -> Fit:
    """Marked numbers."""
    return fit(
        seed,
        "SequenceRegressor",
        sums,
        squares,
        {"epochs": 25, "dropout": 0.0, "learning_rate": 0.01, **settings},
    )


def judged(seed: int, **settings: Any) -> Fit:
    """Reviews."""
    more = {"epochs": 12, "embedding_size": 16, "spelling_size": 0, **settings}
    return fit(seed, "SequenceClassifier", reviews, wrong, more)


def tagged(seed: int, data: Any = sentences, error: Any = wrong, **settings: Any) -> Fit:
    """Words."""
    more = {"epochs": 12, "embedding_size": 16, "spelling_size": 0, "affix_size": 0}
    more |= {"word_dropout": 0.0, "dropout": 0.1, "learning_rate": 0.01, **settings}
    return fit(seed, "SequenceTagger", data, error, more)


def written(seed: int, data: Any = book, error: Any = bits, **settings: Any) -> Fit:
    """Text."""
    more = {"steps": 150, "hidden_size": 32, "learning_rate": 0.01, "window": 32}
    more |= {"batch_size": 16, **settings}
    return fit(seed, "TextGenerator", data, error, more)


def foreseen(seed: int, **settings: Any) -> Fit:
    """A series with a season."""
    series = seasons(default_rng(seed))
    more = {"horizon": 6, "season": 12, "steps": 80, "ensemble_size": 1, "learning_rate": 0.01}
    past, future = (series[:-6], None), (series[:-6], series[-6:])
    return Fit(
        "Forecaster", {**SMALL, "seed": seed, **more, **settings}, past, past, future, misses
    )


def composed(seed: int, **settings: Any) -> Fit:
    """Music."""
    more = {"steps": 250, "hidden_size": 32, "weight_dropout": 0.0, "dropout": 0.0}
    return fit(seed, "MusicModel", tunes, notes_missed, more | settings)


def reversed_words(seed: int, **settings: Any) -> Fit:
    """Words backwards."""
    more = {"level": "char", "hidden_size": 32, "embedding_size": 16, "epochs": 20}
    more |= {"learning_rate": 0.01, "dropout": 0.0, "label_smoothing": 0.0, **settings}
    return fit(seed, "Translator", backwards, letters, more)


def one_of(seed: int, *fits: Callable[[int], Fit]) -> Fit:
    """A different fit for each seed."""
    return fits[seed % len(fits)](seed)


def change(given: Fit, edit: Callable[[Any, Any], Pairs], train_only: bool = False) -> Fit:
    """Change the training and the held-out data alike; honest data stay."""
    held = given.held if train_only else edit(*given.held)
    return given._replace(train=edit(*given.train), held=held)


def each(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Pairs]:
    """Change each sequence, by itself and its target."""
    return lambda X, y: ([function(x.copy(), t) for x, t in zip(X, y, strict=True)], y)


Make = Callable[[int, bool], Fit]
FAULTS: dict[str, Make] = {}


def fault(kind: str) -> Callable[[Make], Make]:
    """Register the function below it, ``(seed, mended) -> Fit``, for a kind of fault."""

    def register(make: Make) -> Make:
        FAULTS[kind] = make
        return make

    return register


def setting(kind: str, wrong: list[dict[str, Any]], *fits: Callable[[int], Fit]) -> None:
    """Register a kind that is a matter of settings, of each fit in turn."""

    def make(seed: int, mended: bool) -> Fit:
        given = one_of(seed, *fits)
        more = {} if mended else wrong[seed % len(wrong)]
        return given._replace(settings={**given.settings, **more})

    FAULTS[kind] = make


setting("rate-too-low", [{"learning_rate": 1e-6}], classified, tagged, written)
setting(
    "rate-too-high",
    [{"learning_rate": 1.0}, {"learning_rate": 2.0}, {"learning_rate": 1.0}],
    classified, tagged, partial(classified, cell="lstm", pooling="last"),
)  # fmt: skip
setting(
    "rate-decayed",
    [{"schedule": "step", "decay_steps": 2, "decay_factor": 0.3}],
    written, classified, tagged,
)  # fmt: skip
setting(
    "weight-decay",
    [{"weight_decay": 100.0}, {"weight_decay": 300.0}, {"weight_decay": 100.0}],
    tagged, classified, written,
)  # fmt: skip
setting("dropout", [{"dropout": 0.97}], classified, tagged, written)
setting("zoneout", [{"zoneout": 0.99}], written, classified, partial(tagged, bidirectional=False))
setting(
    "clipping",
    [{"clip_norm": 1e-5}, {"clip_value": 1e-6}, {"clip_norm": 1e-5}],
    partial(classified, optimizer="sgd", learning_rate=0.1),
    partial(tagged, optimizer="sgd", learning_rate=0.1),
    partial(written, cell="gru", optimizer="sgd", learning_rate=0.3, steps=250),
)
setting("too-small", [{"hidden_size": 1}], written, tagged, partial(written, cell="gru"))
setting(
    "deep-stack",
    [{"num_layers": 12, "cell": "lstm", "init": "pytorch"}],
    classified, tagged, partial(written, steps=100),
)  # fmt: skip


@fault("vanishing")
def _(seed: int, mended: bool) -> Fit:
    return fit(
        seed,
        "SequenceClassifier",
        partial(firsts, T=[100, 80, 120][seed % 3]),
        wrong,
        {
            "cell": ["rnn", "rnn", "lstm"][seed % 3],
            "pooling": "attention" if mended else "last",
            "init": "pytorch",
            "bidirectional": False,
            "epochs": 10,
            "dropout": 0.0,
        },
    )


@fault("constant-feature")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, classified, summed, regressed)
    column = 1 if seed % 3 == 1 else 0

    def stuck(x: Any, target: Any) -> Any:
        x[:, column] = 0.7
        return x

    return given if mended else change(given, each(stuck))


@fault("duplicate-feature")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, summed, classified, regressed)
    to, of = [(1, 0), (0, 1), (0, 1)][seed % 3]

    def copied(x: Any, target: Any) -> Any:
        x[:, to] = x[:, of]
        return x

    return given if mended else change(given, each(copied))


@fault("input-outliers")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, classified, regressed, classified)
    rng, value = default_rng(seed), [1e6, 99999.0, -1e5][seed % 3]

    def glitch(x: Any, target: Any) -> Any:
        if rng.random() < 0.06:
            x[rng.integers(len(x)), 0] = value
        return x

    return given if mended else change(given, each(glitch))


@fault("target-outliers")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, regressed, summed)
    rng, value = default_rng(seed), [1e4, -9999.0, 999.0][seed % 3]

    def glitch(X: Any, y: Any) -> Pairs:
        return X, [value if rng.random() < 0.03 else t for t in y]

    return given if mended else change(given, glitch)


@fault("class-imbalance")
def _(seed: int, mended: bool) -> Fit:
    given = classified(seed, noise=1.0, N=450)._replace(error=wrong_by_class)
    rng, rare = default_rng(seed), ["fast", "slow", "medium"][seed % 3]

    def fewer(X: Any, y: Any) -> Pairs:
        names = ["yes" if t == rare else "no" for t in y]
        kept = [t == "no" or rng.random() < 0.08 for t in names]
        rows = [i for i, keep in enumerate(kept) if keep]
        return [X[i] for i in rows], [names[i] for i in rows]

    def equal(X: Any, y: Any) -> Pairs:
        yes = [i for i, t in enumerate(y) if t == rare]
        no = [i for i, t in enumerate(y) if t != rare][: len(yes)]
        rows = [i for pair in zip(yes, no, strict=True) for i in pair]
        return [X[i] for i in rows], ["yes" if y[i] == rare else "no" for i in rows]

    honest = equal(*given.honest)
    return change(given, equal if mended else fewer)._replace(honest=honest)


@fault("tag-imbalance")
def _(seed: int, mended: bool) -> Fit:
    given = tagged(seed, data=rare_tags, error=wrong_by_class, epochs=3, learning_rate=0.002)
    if mended:  # sentences without a name are left out, and it takes longer
        given = change(
            given,
            lambda X, y: tuple(
                zip(*((a, b) for a, b in zip(X, y, strict=True) if "NAME" in b), strict=True)
            ),  # type: ignore[return-value]
        )
        given = given._replace(
            train=(list(given.train[0]), list(given.train[1])),
            held=(list(given.held[0]), list(given.held[1])),
            settings={**given.settings, "epochs": 40, "learning_rate": 0.01},
        )
    return given


@fault("labels-shuffled")
def _(seed: int, mended: bool) -> Fit:
    given, rng = one_of(seed, classified, regressed, judged), default_rng(seed)
    if mended:
        return given
    return change(given, lambda X, y: (X, [y[i] for i in rng.permutation(len(y))]))


@fault("labels-shifted")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, regressed, tagged, summed)
    return given if mended else change(given, lambda X, y: (X, [y[-1], *y[:-1]]))


@fault("leaky-feature")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, partial(classified, noise=0.6), summed, regressed)
    rng = default_rng(seed)
    code = {"slow": 0.0, "medium": 1.0, "fast": 2.0}

    def leak(X: Any, y: Any, known: bool) -> Pairs:
        values = [code.get(t, t) for t in y]
        if not known:
            values = [values[i] for i in rng.permutation(len(values))]
        columns = [np.full((len(x), 1), v) for x, v in zip(X, values, strict=True)]
        return [np.hstack(pair) for pair in zip(X, columns, strict=True)], y

    honest = leak(*given.honest, False)  # in use it is not known
    return change(given, partial(leak, known=not mended))._replace(honest=honest)


@fault("bidirectional-future")
def _(seed: int, mended: bool) -> Fit:
    # The last step, which has no future, is always the end.
    more = {"epochs": 30, "bidirectional": not mended}
    return tagged(seed, data=rounds, error=wrong_in_use, **more)


@fault("target-in-input")
def _(seed: int, mended: bool) -> Fit:
    given = tagged(seed, data=events, bidirectional=False)  # the shift by one was forgotten
    return given if mended else change(given, lambda X, y: (X, [list(x) for x in X]))


@fault("overfitting")
def _(seed: int, mended: bool) -> Fit:
    big = {"hidden_size": 128, "dropout": 0.0}
    given = one_of(
        seed,
        partial(classified, noise=0.8, N=300, **big),
        partial(judged, **big, word_dropout=0.0),
        partial(written, **big),
    )
    if mended:
        return given
    if seed % 3 == 2:
        return given._replace(
            train=(" ".join(KNOWN) + " " + given.train[0][:60], None),  # every letter occurs
            settings={**given.settings, "window": 16, "batch_size": 4},
        )
    return given._replace(
        train=(given.train[0][:24], given.train[1][:24]),
        settings={**given.settings, "epochs": 60},
    )


@fault("truncation")
def _(seed: int, mended: bool) -> Fit:
    window = 34 if mended else [4, 3, 5][seed % 3]
    given = written(
        seed,
        data=partial(refrains, T=8),
        error=first_of_lines,
        window=window,
        steps=300,
        batch_size=16,
        cell="gru",
    )
    return given._replace(distance=9 if seed % 3 != 1 else None)


@fault("nan-inputs")
def _(seed: int, mended: bool) -> Fit:
    def spoil(X: Any, y: Any) -> Pairs:
        X = [x.copy() for x in X]
        X[5][3, 0] = math.nan
        return X, y

    given = one_of(seed, classified, regressed)
    return given if mended else change(given, spoil)


@fault("inf-inputs")
def _(seed: int, mended: bool) -> Fit:
    def spoil(X: Any, y: Any) -> Pairs:
        X = [x.copy() for x in X]
        X[7][2, 1] = math.inf
        return X, y

    given = one_of(seed, regressed, classified)
    return given if mended else change(given, spoil)


@fault("nan-targets")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, regressed, summed)
    return given if mended else change(given, lambda X, y: (X, [math.nan, *y[1:]]))


HEALTHY: dict[str, Callable[[int], Fit]] = {
    "classifier of sensors": classified,
    "classifier, LSTM, last": partial(classified, cell="lstm", pooling="last"),
    "classifier of texts": judged,
    "regressor of sensors": regressed,
    "regressor, marked numbers": summed,
    "tagger": tagged,
    "tagger, next event": partial(tagged, data=events, error=wrong_in_use, bidirectional=False),
    "text": written,
    "text, GRU, SGD": partial(written, cell="gru", optimizer="sgd", learning_rate=0.3),
    "music": composed,
    "forecaster": foreseen,
    "translator": reversed_words,
}

MEMORY_ONLY = {
    "inf-inputs",
    "music",
}
"""Kinds and healthy networks that are not run on the command line."""
