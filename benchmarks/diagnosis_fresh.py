"""A third set of faults of estimators and the command line, on other data and in other sizes.

They are of kinds of `diagnosis_fits`, and were written when the limits stood, before anything was
diagnosed of them: ``diagnosis_cases.py --set fresh``. `FAULTS` and `HEALTHY` are as there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from diagnosis_fits import (
    Fit,
    Make,
    Pairs,
    bits,
    change,
    each,
    fit,
    misses,
    one_of,
    squares,
    wrong,
    wrong_by_class,
    wrong_in_use,
)
from numpy.random import Generator, default_rng

# Data


def drifts(rng: Generator, N: int = 240, noise: float = 0.5, K: int = 3) -> Pairs:
    """Whether a walk rises, stays or falls; beside it a temperature, which tells nothing."""
    X, y = [], []
    for _ in range(N):
        k, T = int(rng.integers(K)), int(rng.integers(26, 40))
        walk = np.cumsum(0.12 * (k - 1) + noise * 0.3 * rng.normal(size=T))
        room = 290 + 4 * np.sin(np.arange(T) / 5 + rng.random() * 6) + rng.normal(size=T)
        X.append(np.stack([100 + 20 * walk, room, rng.normal(size=T)], 1))
        y.append(["falls", "stays", "rises"][k])
    return X, y


def pulses(rng: Generator, N: int = 260) -> Pairs:
    """How many pulses a signal has, with noise, beside one of random height."""
    X, y = [], []
    for _ in range(N):
        T = int(rng.integers(22, 33))
        on = rng.random(T) < 0.05 + 0.4 * rng.random()
        signal = 5.0 * on + 0.4 * rng.normal(size=T)
        X.append(np.stack([signal, 3 + rng.exponential(size=T)], 1))
        y.append(float(12 + 2.5 * on.sum() + 0.3 * rng.normal()))
    return X, y


def letters_in(rng: Generator, N: int = 270) -> Pairs:
    """Short letters to a company: an order, a complaint or a question."""
    filler = ["i", "we", "you", "they", "please", "my", "your", "about", "last", "new", "next",
              "day", "week", "box", "with", "for", "to", "a", "and"]  # fmt: skip
    told = {
        "order": ["buy", "send", "ship", "order", "pieces", "deliver"],
        "complaint": ["broken", "late", "wrong", "angry", "refund", "damaged"],
        "question": ["when", "where", "how", "which", "why", "available"],
    }
    X, y = [], []
    for _ in range(N):
        kind = str(rng.choice(list(told)))
        words = list(rng.choice(filler, rng.integers(6, 12)))
        for _ in range(2):
            words.insert(int(rng.integers(len(words))), str(rng.choice(told[kind])))
        X.append(" ".join(words))
        y.append(kind)
    return X, y


def stations(rng: Generator, N: int = 150, T: int = 20) -> Pairs:
    """The station after this one; trains mostly go on as they went, and turn now and then."""
    names = [f"station{c}" for c in "ABCDEFG"]
    X, y = [], []
    for _ in range(N):
        at, way = int(rng.integers(7)), int(rng.choice([-1, 1]))
        ids = [at]
        for _ in range(T):
            way = -way if rng.random() < 0.15 else way
            ids.append((ids[-1] + way) % 7)
        X.append([names[k] for k in ids[:-1]])
        y.append([*(f"to {names[k]}" for k in ids[1:-1]), "terminus"])
    return X, y


def parts_of_phrases(rng: Generator, N: int = 140) -> Pairs:
    """The role of each word, which depends on the word and on one of two words before it."""
    articles, nouns = ["der", "ein"], [f"noun{k}" for k in range(9)]
    verbs = [f"verb{k}" for k in range(7)]
    X, y = [], []
    for _ in range(N):
        words, tags = list[str](), list[str]()
        for _ in range(int(rng.integers(2, 5))):
            article, verb = str(rng.choice(articles)), str(rng.choice(verbs))
            words += [article, str(rng.choice(nouns)), verb]
            tags += ["ART", "SUBJ" if article == "der" else "OBJ", "V"]
        X.append(words)
        y.append(tags)
    return X, y


def report(rng: Generator, sentences: int = 220) -> str:
    """A weather report of few words, in which some follow from others."""
    text = []
    for _ in range(sentences):
        sky = str(rng.choice(["sunny", "cloudy", "rainy"]))
        wind = {"sunny": "calm", "cloudy": "breezy", "rainy": "stormy"}[sky]
        place = str(rng.choice(["north", "south", "coast", "hills"]))
        text.append(f"in the {place} it is {sky} and {wind}.")
    return " ".join(text) + "\n"


def bracketed(rng: Generator, lines: int = 280, T: int = 11) -> str:
    """Lines that open with a bracket, and close with its partner after digits."""
    text = []
    for _ in range(lines):
        k = int(rng.integers(4))
        text.append("([{<"[k] + "".join(rng.choice(list("0123"), T)) + ")]}>"[k])
    return "\n".join(text) + "\n"


def closing(model: Any, X: str, y: None) -> float:
    """Nats of the closing bracket, by those of a guess of four."""
    log_p = np.asarray(model.log_probs(X))
    ends, shift = [i for i, c in enumerate(X) if c in ")]}>"], len(X) - len(log_p)
    return float(-np.mean([log_p[i - shift] for i in ends]) / np.log(4))


def load(rng: Generator, N: int = 180) -> Any:
    """A load with a week of seven days and a trend."""
    week = np.array([3.0, 4, 4, 5, 6, 9, 8])
    return 50 + 0.1 * np.arange(N) + 4 * week[np.arange(N) % 7] + rng.normal(size=N)


# Healthy fits, on which faults are planted


def graded(seed: int, **settings: Any) -> Fit:
    """Drifts."""
    noise = settings.pop("noise", 0.5)
    N = settings.pop("N", 240)
    data = partial(drifts, noise=noise, N=N)
    more = {"epochs": 15, "hidden_size": 24, **settings}
    return fit(seed, "SequenceClassifier", data, wrong, more)


def counted(seed: int, **settings: Any) -> Fit:
    """Pulses."""
    more = {"epochs": 20, "hidden_size": 24, "dropout": 0.1, "learning_rate": 0.01, **settings}
    return fit(seed, "SequenceRegressor", pulses, squares, more)


def sorted_mail(seed: int, **settings: Any) -> Fit:
    """Letters to a company."""
    more = {"epochs": 10, "embedding_size": 24, "spelling_size": 0, "cell": "lstm", **settings}
    return fit(seed, "SequenceClassifier", letters_in, wrong, more)


def parsed(seed: int, **settings: Any) -> Fit:
    """Phrases."""
    more = {"epochs": 15, "embedding_size": 12, "spelling_size": 0, "affix_size": 0}
    more |= {"word_dropout": 0.0, "dropout": 0.1, "learning_rate": 0.01, **settings}
    return fit(seed, "SequenceTagger", parts_of_phrases, wrong, more)


def travelled(seed: int, **settings: Any) -> Fit:
    """The next station."""
    more = {"epochs": 25, "embedding_size": 12, "spelling_size": 0, "affix_size": 0}
    more |= {"word_dropout": 0.0, "dropout": 0.0, "learning_rate": 0.01, **settings}
    return fit(seed, "SequenceTagger", stations, wrong_in_use, more)


def reported(seed: int, data: Any = report, error: Any = bits, **settings: Any) -> Fit:
    """A weather report."""
    more = {"steps": 180, "hidden_size": 40, "learning_rate": 0.01, "window": 40}
    more |= {"batch_size": 12, **settings}
    return fit(seed, "TextGenerator", data, error, more)


def loaded(seed: int, **settings: Any) -> Fit:
    """The load of the next week."""
    series = load(default_rng(seed))
    more = {"horizon": 7, "season": 7, "steps": 100, "ensemble_size": 1, "learning_rate": 0.01}
    more |= {"hidden_size": 20, "patience": 0, "seed": seed, **settings}
    past, future = (series[:-7], None), (series[:-7], series[-7:])
    return Fit("Forecaster", more, past, past, future, misses)


FAULTS: dict[str, Make] = {}


def fault(kind: str) -> Callable[[Make], Make]:
    """Register the function below it, ``(seed, mended) -> Fit``, for a kind of fault."""

    def register(make: Make) -> Make:
        FAULTS[kind] = make
        return make

    return register


def setting(kind: str, *fits: tuple[Callable[..., Fit], dict[str, Any], dict[str, Any]]) -> None:
    """Register a kind that is a matter of settings: fits, those that are right, those wrong."""

    def make(seed: int, mended: bool) -> Fit:
        build, right, wrong_ones = fits[seed % len(fits)]
        return build(seed, **(right if mended else right | wrong_ones))

    FAULTS[kind] = make


setting(
    "clipping",
    (counted, {"optimizer": "sgd", "learning_rate": 0.2, "epochs": 30}, {"clip_value": 1e-6}),
    (parsed, {"optimizer": "sgd", "learning_rate": 0.5, "epochs": 30}, {"clip_norm": 2e-5}),
)
setting(
    "rate-decayed",
    (
        travelled,
        {"bidirectional": False},
        {"schedule": "step", "decay_steps": 2, "decay_factor": 0.1},
    ),
    (parsed, {}, {"schedule": "step", "decay_steps": 1, "decay_factor": 0.1}),
)
setting(
    "rate-too-high",
    (parsed, {}, {"learning_rate": 5.0}),
    (travelled, {"bidirectional": False}, {"learning_rate": 5.0}),
)
setting(
    "rate-too-low",
    (counted, {}, {"learning_rate": 2e-6}),
    (reported, {}, {"learning_rate": 1e-6}),
)
setting(
    "too-small",
    (reported, {}, {"hidden_size": 1}),
    (parsed, {}, {"hidden_size": 1}),
)


@fault("bidirectional-future")
def _(seed: int, mended: bool) -> Fit:
    return travelled(seed, bidirectional=not mended)


@fault("class-imbalance")
def _(seed: int, mended: bool) -> Fit:
    given = [graded, sorted_mail][seed % 2](seed, N=700) if seed % 2 == 0 else sorted_mail(seed)
    if seed % 2:
        given = fit(
            seed,
            "SequenceClassifier",
            partial(letters_in, N=700),
            wrong,
            {k: v for k, v in given.settings.items() if k not in ("seed",)},
        )
    rare = ["stays", "complaint"][seed % 2]
    rng = default_rng(50 + seed)

    def fewer(X: Any, y: Any) -> Pairs:
        names = ["alarm" if t == rare else "normal" for t in y]
        share = [0.07, 0.02][seed % 2]
        rows = [i for i, t in enumerate(names) if t == "normal" or rng.random() < share]
        return [X[i] for i in rows], [names[i] for i in rows]

    def equal(X: Any, y: Any) -> Pairs:
        yes = [i for i, t in enumerate(y) if t == rare]
        no = [i for i, t in enumerate(y) if t != rare][: len(yes)]
        rows = sorted([*yes, *no])
        return [X[i] for i in rows], ["alarm" if y[i] == rare else "normal" for i in rows]

    honest = equal(*given.honest)
    given = change(given._replace(error=wrong_by_class), equal if mended else fewer)
    return given._replace(honest=honest)


@fault("constant-feature")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, graded, counted)

    def stuck(x: Any, target: Any) -> Any:
        x[:, 0] = [101.3, 4.0][seed % 2]  # a sensor that hangs
        return x

    return given if mended else change(given, each(stuck))


@fault("duplicate-feature")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, counted, graded)

    def copied(x: Any, target: Any) -> Any:
        x[:, 0] = x[:, 1]
        return x

    return given if mended else change(given, each(copied))


@fault("input-outliers")
def _(seed: int, mended: bool) -> Fit:
    given, rng = counted(seed), default_rng(70 + seed)
    value = [-999999.0, 3e7][seed % 2]

    def missing(x: Any, target: Any) -> Any:
        if rng.random() < 0.1:
            x[int(rng.integers(len(x))), 0] = value
        return x

    return given if mended else change(given, each(missing))


@fault("labels-shuffled")
def _(seed: int, mended: bool) -> Fit:
    given, rng = one_of(seed, sorted_mail, graded), default_rng(80 + seed)
    if mended:
        return given
    return change(given, lambda X, y: (X, [y[i] for i in rng.permutation(len(y))]))


@fault("labels-shifted")
def _(seed: int, mended: bool) -> Fit:
    given = one_of(seed, counted, sorted_mail)  # a header was counted as a row
    return given if mended else change(given, lambda X, y: (X, [*y[1:], y[0]]))


@fault("leaky-feature")
def _(seed: int, mended: bool) -> Fit:
    given, rng = one_of(seed, counted, graded), default_rng(90 + seed)
    code = {"falls": 10.0, "stays": 20.0, "rises": 30.0}

    def leak(X: Any, y: Any, known: bool) -> Pairs:
        values = [code.get(t, t) for t in y]
        if not known:
            values = [values[i] for i in rng.permutation(len(values))]
        columns = [np.full((len(x), 1), v) for x, v in zip(X, values, strict=True)]
        return [np.hstack(pair) for pair in zip(columns, X, strict=True)], y

    honest = leak(*given.honest, False)  # in use it is not known
    return change(given, partial(leak, known=not mended))._replace(honest=honest)


@fault("overfitting")
def _(seed: int, mended: bool) -> Fit:
    big = {"hidden_size": 96, "dropout": 0.0, "epochs": 50}
    given = one_of(
        seed,
        partial(sorted_mail, word_dropout=0.0, **big),
        partial(graded, noise=0.7, **big),
    )
    rows = slice(None) if mended else slice(0, [12, 14][seed % 2])
    settings = {**given.settings, "epochs": 10} if mended else given.settings
    train = given.train[0][rows], given.train[1][rows]
    return given._replace(train=train, settings=settings)


@fault("target-outliers")
def _(seed: int, mended: bool) -> Fit:
    given, rng = counted(seed), default_rng(60 + seed)
    value = [5e5, -99999.0][seed % 2]

    def glitch(X: Any, y: Any) -> Pairs:
        return X, [value if rng.random() < 0.025 else t for t in y]

    return given if mended else change(given, glitch)


@fault("truncation")
def _(seed: int, mended: bool) -> Fit:
    window = 32 if mended else [3, 4][seed % 2]
    more = {"steps": 500, "cell": "gru"}
    data = partial(bracketed, T=6)
    given = reported(seed, data=data, error=closing, window=window, **more)
    return given._replace(distance=7)


HEALTHY: dict[str, Callable[[int], Fit]] = {
    "drifts": graded,
    "drifts, GRU, last": partial(graded, cell="gru", pooling="last", learning_rate=0.01),
    "pulses": counted,
    "pulses, two layers": partial(counted, num_layers=2),
    "letters": sorted_mail,
    "letters, GRU, one way": partial(sorted_mail, cell="gru", bidirectional=False),
    "phrases": parsed,
    "phrases, one way": partial(parsed, bidirectional=False),
    "stations": partial(travelled, bidirectional=False),
    "report": reported,
    "report, LSTM": partial(reported, cell="lstm"),
    "load": loaded,
}

MEMORY_ONLY = set[str]()
"""Kinds and healthy networks that are not run on the command line."""
