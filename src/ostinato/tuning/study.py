"""A search for good settings: trials, each an ordinary run, in a study of Optuna.

::

    STUDY/study.json          task, settings, space, checksums of the data
    STUDY/journal.log         the study, unless another storage keeps it
    STUDY/trials/defaults/    the run of the settings as they were given
    STUDY/trials/12/          that of trial 12; like any run it can be resumed, loaded, diagnosed
    STUDY/claims/             which of them a process is at, by locks
    STUDY/trials.csv          a row for each of them
    STUDY/*.png               pictures, see `report`
    STUDY/best/               the best settings, trained on all data, where that was asked for
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
from sklearn.base import clone

from ostinato.errors import MissingExtra, OstinatoError, require
from ostinato.files import (
    RUN_FILE,
    atomic_file,
    check_new_folder,
    open_file,
    sole_writer,
    temporary_folder,
)
from ostinato.tasks.estimators import Estimator
from ostinato.tasks.registry import task_of
from ostinato.training import storage as files
from ostinato.training.callbacks import Callback, Run, read_metrics
from ostinato.training.health import NonFiniteError
from ostinato.tuning.lines import TrialLines, TrialProgress
from ostinato.tuning.report import draw_study
from ostinato.tuning.space import (
    Choices,
    Range,
    Space,
    changed,
    check_comparable,
    check_space,
    space_of,
    to_toml,
)

STUDY_FILE = "study.json"
DEFAULTS = "defaults"
"""Name of the run with the settings as they were given."""

TRIALS = 20
"""Trials, where neither their number nor the time is given."""

FAILURES = 3
"""Trials in a row that may fail, by a lack of memory say, before the search gives up."""

AnyEstimator: TypeAlias = Estimator[Any, Any, Any]


class Tuned(NamedTuple):
    """What a search found.

    Attributes:
        settings: settings of the best trial, those that were searched; none where no trial is
            better than the settings as they were given.
        score: its validation score, by the metric of the task.
        defaults: the score of the settings as they were given.
        metric: name of the score.
        higher_is_better: whether more of it is better.
        trials: a row for each trial: its score, state, seconds and settings.
        model: the trained model of the best trial, or, where that was asked for, of its settings on
            all data; None where another machine has it.
        ended: why the search ended: trials, minutes, or interrupt (Ctrl-C).
    """

    settings: dict[str, Any]
    score: float
    defaults: float
    metric: str
    higher_is_better: bool
    trials: pd.DataFrame
    model: Any
    ended: str


def tune(
    estimator: AnyEstimator,
    X: Any,
    y: Any = None,
    *,
    validation: Any = None,
    out: str | os.PathLike[str] | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    space: Mapping[str, Any] | None = None,
    storage: str | None = None,
    retrain: bool = False,
    progress: TrialProgress = "quiet",
) -> Tuned:
    """Search for settings with which an estimator is best on its validation data.

    The settings as they are given are tried first. Every trial after that trains the estimator with
    settings that TPE (Bergstra et al. 2011) proposes, and ends early where it falls behind
    (Hyperband, Li et al. 2018). All trials have the same data, split and budget.

    Args:
        estimator: an estimator of any task. A setting that differs from its default is kept, unless
            ``space`` names it.
        X: training data, as for ``fit``.
        y: targets, as for ``fit``.
        validation: validation data, as for ``fit``; a share of the training data if not given.
        out: folder of the study. If it holds a study of the same settings, space and data, that is
            continued; several processes may work on it at the same time. None keeps nothing.
        trials: trials of the study, those of earlier calls included; 20 if there is no limit.
        minutes: minutes of this call. A trial that is cut off by it is continued by the next.
        space: changes of the search space: by the name of a setting a `Range`, a list of values, or
            one value.
        storage: URL of a database for the study, so that several machines can share it; its name
            there is that of ``out``.
        retrain: train the best settings once more, on training and validation data together.
        progress: auto (a line for each trial), json, or quiet.

    Returns:
        The best settings, their score and model, and a table of the trials.

    Raises:
        OstinatoError: on settings or data that cannot be used, or a folder with another study.
        MissingExtra: without Optuna: ``pip install 'ostinato[tune]'``.

    Example:
        >>> import numpy as np
        >>> import ostinato
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(label, 1, (12, 2)) for label in (0, 1) * 40]
        >>> model = ostinato.SequenceClassifier(hidden_size=8, epochs=2, convolutions=False)
        >>> found = ostinato.tune(model, X, [0, 1] * 40, trials=2, space={"cell": ["gru", "rnn"]})
        >>> len(found.trials), found.metric
        (3, 'loss')
    """
    optuna = require("optuna", "tune", "tune")
    if out is None and storage is not None:
        raise OstinatoError("tune: storage needs out, a folder for the runs of the trials.")
    if retrain and validation is not None:
        raise OstinatoError(
            "tune: retrain takes the validation data from the training data; with data of your own "
            "fit the best settings to both."
        )
    if trials is None and minutes is None:
        trials = TRIALS
    with temporary_folder() if out is None else nullcontext(Path(out)) as folder:
        data = (X, y) if validation is None else (X, y, validation)
        search = _Search.begin(optuna, estimator, data, folder, space or {}, storage, progress)
        ended = search.run(trials, minutes)
        return search.result(ended, retrain and ended != "interrupt")


class _Watch(Callback):
    """Reports a run to its trial, and stops it where it falls behind or the time is up."""

    def __init__(
        self, place: Path, trial: Any, reported: set[int], stop_at: float, lines: TrialLines
    ) -> None:
        self.place, self.trial, self.reported = place, trial, reported
        self.stop_at, self.lines = stop_at, lines
        self.reason = ""
        self.run: Run
        self._compared: float | None = None

    def on_begin(self, run: Run) -> None:
        self.run = run
        if (file := self.place / "metrics.jsonl").exists():  # of a run that goes on
            for record in read_metrics(file):
                if record["step"] <= run.step:
                    self._note(record)

    def _note(self, record: Mapping[str, Any]) -> None:
        """Note the metric that trials are compared by, where it is another than the judge."""
        name = self.run.objective.compared_by
        if name != self.run.objective.judge and record.get("best") and name in record:
            self._compared = record[name]

    @property
    def metric(self) -> str:
        """Name of the score."""
        return self.run.judge if self._compared is None else self.run.objective.compared_by

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better; the score is negative then."""
        judged = self._compared is None and self.run.judge != "loss"
        return judged and self.run.objective.higher_is_better

    @property
    def score(self) -> float:
        """What the best weights have least of."""
        return self.run.best_score if self._compared is None else self._compared

    def on_step(self, record: dict[str, Any]) -> None:
        if time.monotonic() > self.stop_at:
            self._stop("minutes")

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        run, part = self.run, self.run.evaluated_parts
        self._note(record)
        value = -self.score if self.higher_is_better else self.score
        self.lines.evaluated(self.metric, value, run.step, run.total)
        if self.trial is None or part in self.reported or not math.isfinite(self.score):
            return
        self.reported.add(part)
        self.trial.report(self.score, part)
        if run.step != run.total and self.trial.should_prune():
            self._stop("early")

    def _stop(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.run.stop()


@dataclass
class _Search:
    """A study, and what its trials share."""

    optuna: ModuleType
    estimator: AnyEstimator
    data: tuple[Any, ...]
    folder: Path
    space: Space
    study: Any
    lines: TrialLines
    failures: int = 0

    @classmethod
    def begin(
        cls,
        optuna: ModuleType,
        estimator: AnyEstimator,
        data: tuple[Any, ...],
        folder: Path,
        changes: Mapping[str, Any],
        url: str | None,
        progress: TrialProgress,
    ) -> _Search:
        """Open the study of a folder, or create it."""
        task = task_of(type(estimator).__name__)
        if task is None:
            raise OstinatoError(f"tune: {type(estimator).__name__} is no estimator of a task.")
        fresh, given = type(estimator)().get_params(), estimator.get_params()
        usual = {n: w for n, w in space_of(task.command).items() if given[n] == fresh[n]}
        space, fixed = changed(usual, changes)
        check_space({**space, **dict.fromkeys(fixed, ())}, given, task.estimator)
        model = clone(estimator).set_params(**fixed)
        check_comparable(space, task.command)
        for name, where in space.items():
            for value in where[:2] if isinstance(where, Range) else where:
                clone(model).set_params(**{name: value}).check_settings()
        if model.validation_fraction == 0 and len(data) < 3:
            raise OstinatoError("tune: validation_fraction=0; expected data to validate on.")
        with temporary_folder() as place:
            probe = clone(model)
            documents, probe.resolved_, _ = probe._prepared(place, *data, *[None] * (3 - len(data)))
            digests = {file.name: _digest(file) for file in sorted(place.iterdir())}
            inputs, _ = probe._restore(documents)
        if getattr(inputs, "lexicon", None) is None and "spelling_size" in given:  # no words
            space = {n: w for n, w in space.items() if n not in ("embedding_size", "word_dropout")}
        if not space:
            raise OstinatoError("tune: every setting is set; expected some to search.")
        # As many evaluations for all, at the same parts of their budgets: so they can be compared.
        evaluations = probe.resolved("evaluations") or 10
        model.set_params(evaluations=evaluations)
        known = {"task": task.estimator, "settings": model.get_params()}
        known |= {"space": to_toml(space), "data": digests}
        _keep(folder, json.loads(json.dumps(known)))
        with _without_log(optuna):
            study = optuna.create_study(
                study_name=folder.name if url else "study",
                storage=url or _journal(optuna, folder),
                pruner=optuna.pruners.HyperbandPruner(1, evaluations, 3),
                load_if_exists=True,
            )
        return cls(optuna, model, data, folder, space, study, TrialLines(progress))

    def run(self, trials: int | None, minutes: float | None) -> str:
        """Run trials until there are so many, or the time is up; return why it ended."""
        stop_at = math.inf if minutes is None else time.monotonic() + 60 * minutes
        with _without_log(self.optuna):
            ended = self._run_defaults(stop_at)
            while not ended:
                if trials is not None and len(self._trials("COMPLETE", "PRUNED")) >= trials:
                    return "trials"
                if time.monotonic() > stop_at:
                    return "minutes"
                with self._next() as trial:
                    ended = self._run_trial(trial, stop_at)
        return ended

    def _trials(self, *states: str) -> list[Any]:
        kinds = self.optuna.trial.TrialState
        return list(self.study.get_trials(False, [kinds[state] for state in states]))

    @contextmanager
    def _next(self) -> Iterator[Any]:
        """Yield a trial of this folder whose process is gone, or a new one; nobody else has it."""
        with ExitStack() as claims:
            found = None
            for each in self._trials("RUNNING"):
                ours = self._claim_of(each.number).exists()
                if ours and self._claim(each.number, claims):
                    state = self.study.get_trials(False)[each.number].state
                    found = None if state.is_finished() else each
                if found:
                    break
            while found is None:
                asked = self.study.ask()
                found = asked if self._claim(asked.number, claims) else None
            # What is proposed follows from the trials before and the number, whoever runs it.
            seed = (self.estimator.seed + found.number) % 2**32
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
            yield self.optuna.trial.Trial(self.study, found._trial_id)

    def _claim_of(self, name: object) -> Path:
        return self.folder / "claims" / str(name)

    def _claim(self, name: object, claims: ExitStack) -> bool:
        """Keep others from a run until ``claims`` is closed; return whether none has it."""
        place = self._claim_of(name)
        place.mkdir(parents=True, exist_ok=True)
        try:
            claims.enter_context(sole_writer(place, "busy"))
        except OstinatoError:
            return False
        return True

    def _place(self, name: object) -> Path:
        return self.folder / "trials" / str(name)

    def _run_defaults(self, stop_at: float) -> str:
        """Train with the settings as they are, unless that is done or another process does it."""
        with ExitStack() as claims:
            if self._facts() is not None or not self._claim(DEFAULTS, claims):
                return ""
            place, lines = self._place(DEFAULTS), self.lines.started(DEFAULTS)
            watch = _Watch(place, None, set(), stop_at, lines)
            ended, model = self._fit(DEFAULTS, {}, watch)
            if not ended:
                run, seconds = watch.run, model.training_["seconds"]
                facts = {"score": watch.score, "metric": watch.metric}
                facts |= {
                    "higher": watch.higher_is_better,
                    "unit": run.objective.loss_unit,
                    "seconds": seconds,
                }
                self.study.set_user_attr(DEFAULTS, facts)
                self.lines.ended(DEFAULTS, "", self.scored(watch.score), seconds, {})
        return ended

    def _facts(self) -> dict[str, Any] | None:
        """Return the score of the defaults, and its kind; None before it is known."""
        found: dict[str, Any] | None = self.study.user_attrs.get(DEFAULTS)
        return found

    def _run_trial(self, trial: Any, stop_at: float) -> str:
        """Run a trial, or what is left of it; return why the search must end, if it must."""
        kinds, name = self.optuna.trial.TrialState, f"trial {trial.number}"
        settings = {n: _suggested(trial, n, where) for n, where in self.space.items()}
        reported = {*self.study.get_trials(False)[trial.number].intermediate_values}
        place, lines = self._place(trial.number), self.lines.started(name)
        watch = _Watch(place, trial, reported, stop_at, lines)
        try:
            ended, model = self._fit(trial.number, settings, watch)
        except NonFiniteError:
            self.study.tell(trial, state=kinds.PRUNED)
            self.lines.ended(name, "diverged", None, None, settings)
            return ""
        except OstinatoError as error:
            self.study.tell(trial, state=kinds.FAIL)
            self.failures += 1
            if self.failures >= FAILURES:
                raise
            self.lines.ended(name, f"failed: {error}", None, None, settings)
            return ""
        if ended and watch.reason != "early":
            return ended
        self.failures, state = 0, ""
        score, seconds = watch.score, model.training_["seconds"]
        trial.set_user_attr("seconds", seconds)
        if watch.reason == "early":
            parts, whole = watch.run.evaluated_parts, self.estimator.evaluations
            state = f"ended early, at {parts} of {whole} evaluations"
        elif not math.isfinite(score):
            state = "diverged"
        elif score < self._lowest():
            state = "best so far"
        if state in ("", "best so far"):
            self.study.tell(trial, score)
        else:
            self.study.tell(trial, state=kinds.PRUNED)
        self.lines.ended(name, state, self.scored(score), seconds, settings)
        return ""

    def _fit(
        self, name: object, settings: dict[str, Any], watch: _Watch
    ) -> tuple[str, AnyEstimator]:
        """Train, or continue, the run of this name; return why it was stopped, if it was."""
        place, model = self._place(name), clone(self.estimator).set_params(**settings)
        X, y, *more = self.data
        if (place / RUN_FILE).exists():
            model = type(model).resume(place, callbacks=[watch])
        else:
            given = {"validation": more[0]} if more else {}
            model.fit(X, y, out=place, callbacks=[watch], **given)
        stopped = model.training_["ended"] == "interrupt"
        return (watch.reason or "interrupt") if stopped else "", model

    def best(self) -> Any:
        """Return the best trial that was trained to its end; None before there is one."""
        return min(self._trials("COMPLETE"), key=lambda trial: trial.value, default=None)

    def _lowest(self) -> float:
        """Return the best score so far, that of the defaults included."""
        facts, best = self._facts(), self.best()
        scores = [facts["score"] if facts else math.inf, best.value if best else math.inf]
        return min(scores)

    def scored(self, score: float) -> tuple[str, float, str]:
        """Return name, value and unit of a score."""
        facts = self._facts() or {"metric": "loss", "higher": False, "unit": ""}
        unit = facts["unit"] if facts["metric"] == "loss" else ""
        return facts["metric"], -score if facts["higher"] else score, unit

    def result(self, ended: str, retrain: bool) -> Tuned:
        """Return the best settings and their model; write table and pictures."""
        if self._facts() is None and self._claim_of(DEFAULTS).exists():
            with sole_writer(self._claim_of(DEFAULTS)):  # waits for who trains them
                pass
        facts, best = self._facts(), self.best()
        if facts is None:
            raise OstinatoError(
                f"tune: {ended} before the settings as given were trained; call it again to go on."
            )
        is_better = best is not None and best.value < facts["score"]
        settings = {name: best.params[name] for name in self.space} if is_better else {}
        table = self._table(facts)
        with atomic_file(self.folder / "trials.csv") as file:
            file.write(table.to_csv(index=False).encode())
        try:
            with _without_log(self.optuna):
                draw_study(self.optuna, self.study, self.folder, facts)
        except MissingExtra as error:
            self.lines.line(str(error))
        place = self._place(best.number if is_better else DEFAULTS)
        model = type(self.estimator).load(place) if (place / "config.json").exists() else None
        if retrain and model is not None:
            model = self._retrained(settings, model.training_)
        metric, value, _ = self.scored(best.value if is_better else facts["score"])
        defaults = self.scored(facts["score"])[1]
        return Tuned(settings, value, defaults, metric, facts["higher"], table, model, ended)

    def _retrained(self, settings: dict[str, Any], facts: Mapping[str, Any]) -> AnyEstimator:
        """Train with some settings on all data, for as many passes over them as the trial."""
        held_out = facts.get("held_out", 0)
        whole = facts.get("characters") or facts.get("sequences", 0) + held_out
        share = held_out / whole if "series" not in facts and whole else 0.0
        model = clone(self.estimator).set_params(
            **settings,
            validation_fraction=0,
            **{"epochs": None, "minutes": None, "patience": None},
            steps=max(1, round(facts["steps"] / (1 - share))),
        )
        self.lines.line(f"training on all data, {model.steps:,} steps")
        place, new = self.folder / "best", self.folder / "best.new"
        shutil.rmtree(new, ignore_errors=True)
        model.fit(*self.data, out=new)
        if model.training_["ended"] == "interrupt":
            raise KeyboardInterrupt
        shutil.rmtree(place, ignore_errors=True)
        os.rename(new, place)
        trained: AnyEstimator = type(model).load(place)
        return trained

    def _table(self, facts: Mapping[str, Any]) -> pd.DataFrame:
        def row(name: object, score: float, state: str, seconds: float | None) -> dict[str, Any]:
            metric, value, _ = self.scored(score)
            return {"trial": name, metric: value, "state": state, "seconds": seconds}

        rows = [row(DEFAULTS, facts["score"], "complete", facts["seconds"])]
        for each in self.study.get_trials(False):
            reported = min(each.intermediate_values.values(), default=math.nan)
            score = reported if each.value is None else each.value
            state = "ended early" if each.state.name == "PRUNED" else each.state.name.lower()
            seconds = each.user_attrs.get("seconds")
            chosen = {name: each.params.get(name) for name in self.space}
            rows.append(row(each.number, score, state, seconds) | chosen)
        return pd.DataFrame(rows).convert_dtypes()


def _suggested(trial: Any, name: str, where: Range | Choices) -> Any:
    if not isinstance(where, Range):
        return trial.suggest_categorical(name, where)
    low, high, log = where
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def _keep(folder: Path, document: dict[str, Any]) -> None:
    """Write the document of a new study; refuse a folder that holds anything else."""
    file = folder / STUDY_FILE
    if not file.exists() and folder.exists() and any(folder.iterdir()):
        raise OstinatoError(f"{folder}: exists, and holds no study; choose another folder.")
    check_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder):
        if not file.exists():
            with atomic_file(file) as opened:
                opened.write(json.dumps(document, indent=1).encode())
            return
        known = files.from_json(files.read_file(file), file)
    for part, now in document.items():
        if known.get(part) != now:
            raise OstinatoError(
                f"{folder}: holds a study with other {part}{_difference(known.get(part), now)}; "
                "continue it with the same command, or choose another folder."
            )


def _difference(known: Any, now: Any) -> str:
    if not isinstance(known, dict) or not isinstance(now, dict):
        return ""
    names = [name for name in {**known, **now} if known.get(name) != now.get(name)]
    some = (f"{name}: {known.get(name)!r:.40}, now {now.get(name)!r:.40}" for name in names[:3])
    return f" ({'; '.join(some)})"


def _digest(file: Path) -> str:
    with open_file(file) as opened:
        return files.digest_of(opened)


def _journal(optuna: ModuleType, folder: Path) -> Any:
    journal = optuna.storages.journal
    file = str(folder / "journal.log")
    lock = journal.JournalFileOpenLock(file) if sys.platform == "win32" else None
    return optuna.storages.JournalStorage(journal.JournalFileBackend(file, lock_obj=lock))


@contextmanager
def _without_log(optuna: ModuleType) -> Iterator[None]:
    """Keep Optuna from logging what is shown anyway."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
