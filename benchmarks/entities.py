"""How well entities and word classes are found by default, beside a CRF with features made by hand.

    python benchmarks/entities.py [SET ...] [--data FOLDER] [--seeds N] [--draws N] [--json FILE]

Ours has default settings. The CRF is CRFsuite's with the features of its tutorial and more of the
kind: the word, its ends, its shape, and the same of two neighbours on each side. Its penalties c1
and c2 are drawn at random, as its tutorial does, and chosen by three-fold cross-validation on the
training data, by F1 of entities or accuracy. Needs `sklearn-crfsuite`. Times are of one thread for
the CRF, and of as many as PyTorch has for ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from instructions import cpu_model
from scipy import stats
from sklearn.model_selection import RandomizedSearchCV

from ostinato import SequenceTagger
from ostinato.data.corpus import Corpus
from ostinato.data.features import affixes_of
from ostinato.data.reading import read_corpus
from ostinato.tasks.tagging import measure

DATA = Path("../shared/data")
SETS = {
    "gum": ("ner/gum-train.conll", "ner/gum-test.conll"),
    "sec": ("ner/sec-train.txt", "ner/sec-test.txt"),
    "ewt": ("ud-english-ewt/en_ewt-ud-train.conllu", "ud-english-ewt/en_ewt-ud-test.conllu"),
}
REACH = 2
"""Neighbours on each side whose features a word has."""


def features(words: Sequence[str]) -> list[dict[str, Any]]:
    """The features of each word of a sentence.

    >>> sorted(features(["Go", "home"])[1])[:5]
    ['+0:lower=home', '+0:prefix2=ho', '+0:prefix3=hom', '+0:shape==xxxx', '+0:shape=~x']
    """
    own = []
    for word in words:
        low = word.lower()
        own.append(
            [
                f"lower={low}",
                f"prefix2={low[:2]}",
                f"prefix3={low[:3]}",
                f"suffix2={low[-2:]}",
                f"suffix3={low[-3:]}",
                *(f"shape={shape}" for shape in affixes_of(word)[-2:]),
                *(name for name in ("isupper", "istitle", "isdigit") if getattr(word, name)()),
            ]
        )
    T, found = len(words), []
    for t in range(T):
        near = {"bias": 1.0}
        for at in range(t - REACH, t + REACH + 1):
            there = own[at] if 0 <= at < T else ["start" if at < 0 else "end"]
            near |= {f"{at - t:+d}:{each}": 1.0 for each in there}
        found.append(near)
    return found


def judged(truth: Any, guess: Any) -> dict[str, Any]:
    """Measures of labels, the first the one to judge by."""
    has_entities = any(label[:2] in ("B-", "I-") for row in truth for label in row)
    found = measure(truth, guess, has_entities=has_entities)
    key = "entity_f1" if has_entities else "accuracy"
    return {key: found[key], **found}


def crf(training: Corpus, test: Corpus, draws: int) -> dict[str, Any]:
    """Measures of a tuned CRF."""
    from sklearn_crfsuite import CRF

    start = time.perf_counter()

    def score(model: Any, X: Any, y: Any) -> float:
        return float(next(iter(judged(y, model.predict(X)).values())))

    known = {"c1": stats.expon(scale=0.5), "c2": stats.expon(scale=0.05)}
    plain = CRF(algorithm="lbfgs", max_iterations=100, all_possible_transitions=True)
    search = RandomizedSearchCV(plain, known, cv=3, n_iter=draws, random_state=0, scoring=score)
    search.fit([features(each) for each in training.inputs], training.targets)
    trained = time.perf_counter()
    guess = search.predict([features(each) for each in test.inputs])
    return judged(test.targets, guess) | {
        "training_seconds": search.refit_time_,
        "inference_seconds": time.perf_counter() - trained,
        "search_seconds": trained - start,
        "settings": search.best_params_,
    }


def ours(training: Corpus, test: Corpus, seed: int) -> dict[str, Any]:
    """Measures of a tagger by default."""
    start = time.perf_counter()
    model = SequenceTagger(seed=seed).fit(training)
    trained = time.perf_counter()
    guess = model.predict(test)
    return judged(test.targets, guess) | {
        "training_seconds": trained - start,
        "inference_seconds": time.perf_counter() - trained,
    }


def main() -> None:
    """Measure each set, and print a line for each contender."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; all if none")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=1, help="how often ours is trained")
    parser.add_argument("--draws", type=int, default=10, help="penalties tried; 0: no CRF")
    parser.add_argument("--json", type=Path, help="file for the results")
    a = parser.parse_args()
    if unknown := set(a.sets) - set(SETS):
        sys.exit(f"no set {', '.join(sorted(unknown))}; there are {', '.join(SETS)}.")
    machine = {"cpu": cpu_model(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    results: dict[str, Any] = {"machine": machine, "sets": {}}
    for name in a.sets or SETS:
        files = [a.data / file for file in SETS[name]]
        if missing := [file for file in files if not file.exists()]:
            print(f"{name}: skipped: {missing[0]} is missing; see docs/reference/data.md.")
            continue
        training, test = (
            read_corpus([file], SequenceTagger(), by_step=True, labelled=True) for file in files
        )
        calls = {f"ours, seed {seed}": partial(ours, seed=seed) for seed in range(a.seeds)}
        if a.draws:
            calls["CRF"] = partial(crf, draws=a.draws)
        found = results["sets"][name] = {}
        for contender, call in calls.items():
            found[contender] = each = call(training, test)
            key = next(iter(each))
            seconds = f"{each['training_seconds']:.0f} s, {each['inference_seconds']:.2f} s"
            print(f"{name:<6}{contender:<14}{key} {100 * each[key]:5.1f} %  {seconds}", flush=True)
            if a.json:
                a.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
