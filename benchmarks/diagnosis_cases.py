"""How often `diagnose` names the faults that practitioners make, in three forms.

    python benchmarks/diagnosis_cases.py [--seeds 3] [--kinds NAME ...] [--forms torch,...]
        [--half tuning|held-out|fresh] [--check] [--try] [--verbose]

Plain PyTorch modules with a training loop, estimators, and the command line, each with a fault or
without one, trained for a second. `half` tells the kinds that may be looked at from those that are
only counted, and from the ``fresh`` ones of other data, which were written after the limits.
``--check`` trains the mended copy of each as well: the fault has to hurt, and the copy must not be
called by its name. ``--try`` tries the first remedy of the first finding, and that which comes
first once `diagnose` has tried them: by a short run, or, where only the user can apply it, by the
mended copy if the fault was named. Results go to benchmarks/results/diagnosis-cases.json.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import diagnosis_fits as fits
import diagnosis_fresh as fresh
import diagnosis_modules as modules
import torch

import ostinato
from ostinato.cli import main as command_line
from ostinato.insight import Diagnosis

RESULTS = Path(__file__).parent / "results" / "diagnosis-cases.json"

REFUSED = "refused data"
"""An error that names values that are missing or not finite."""

EXPECTED: dict[str, tuple[str, ...]] = {
    "batch-and-time-swapped": ("batch and time swapped",),
    "bidirectional-future": ("future read",),
    "class-imbalance": ("class imbalance",),
    "clipping": ("clipping too strong",),
    "constant-feature": ("constant feature",),
    "constant-init": ("identical units",),
    "dead-units": ("dead units",),
    "deep-stack": ("vanishing over layers",),
    "detached-encoder": ("no gradient",),
    "detached-state": ("state detached", "truncation too short"),  # to a single step
    "dropout": ("dropout too strong",),
    "duplicate-feature": ("duplicate features",),
    "exploding": ("exploding", "saturated gates"),  # what large recurrent weights do to tanh
    "frozen-embedding": ("frozen parameters", "constant feature"),  # of vectors that are all equal
    "frozen-recurrent": ("frozen parameters",),
    "gradients-not-zeroed": ("gradients never zeroed",),
    "inf-inputs": ("not finite in the data", REFUSED),
    "input-outliers": ("outliers",),
    "inputs-not-scaled": ("inputs not scaled",),
    "inputs-offset": ("inputs not scaled",),
    "labels-shifted": ("labels unrelated to inputs",),
    "labels-shuffled": ("labels unrelated to inputs",),
    "leaky-feature": ("leaky feature",),
    "nan-inputs": ("not finite in the data", REFUSED),
    "nan-targets": ("not finite in the data", REFUSED),
    "not-in-optimizer": ("parameters not in the optimizer",),
    "overfitting": ("overfitting",),
    "padding-in-loss": ("padding in the loss",),
    "rate-decayed": ("learning rate too low",),
    "rate-too-high": ("learning rate too high",),
    "rate-too-low": ("learning rate too low",),
    "reads-padding": ("padding read",),
    "saturated-gates": ("saturated gates",),
    "sigmoid-before-bce": ("sigmoid before BCE with logits",),
    "softmax-before-cross-entropy": ("softmax before cross-entropy",),
    "state-leaks": ("state leaks between batches",),
    "state-not-carried": ("state not carried",),
    "tag-imbalance": ("class imbalance",),
    "target-in-input": ("leaky feature",),
    "target-outliers": ("outliers",),
    "targets-not-scaled": ("targets not scaled",),
    "teacher-forcing": ("teacher forcing gap",),
    "too-small": ("network too small",),
    "truncation": ("truncation too short",),
    "vanishing": ("vanishing over time", "short memory"),
    "view-for-transpose": ("batch and time swapped",),
    "weight-decay": ("weight decay too strong",),
    "zoneout": ("zoneout too strong", "dropout too strong"),  # of a cell of one's own
}
"""Names of the findings that are right, by the kind of fault: what was planted, and no effect."""

HALVES = {k: ("tuning", "held-out")[i % 2] for i, k in enumerate(sorted(EXPECTED))}
"""Alternating in alphabetical order."""

FORMS = ("torch", "estimator", "command")

PARTS = ("tuning", "held-out", "fresh")
"""Two halves of the kinds, and a set of its own."""

FRESH_SEEDS = 2
"""Seeds of the faults of the fresh set as estimators; on the command line one."""


def half_of(kind: str) -> str:
    """The half of a kind of fault, or of a healthy run: alternating in the order of the tables."""
    if kind in HALVES:
        return HALVES[kind]
    names = next(list(h) for h in (modules.HEALTHY, fits.HEALTHY) if kind in h)
    return ("tuning", "held-out")[names.index(kind) % 2]


class Case(NamedTuple):
    """A run: ``kind`` is that of the fault, or the name of a healthy one.

    It is of `diagnosis_fresh` if ``fresh``, else of the other modules.
    """

    kind: str
    form: str
    seed: int
    faulty: bool
    fresh: bool = False

    @property
    def part(self) -> str:
        """Of `PARTS`."""
        return "fresh" if self.fresh else half_of(self.kind)


class Outcome(NamedTuple):
    """What was found.

    Attributes:
        names: of the findings, in order; "refused data" if an error names values that are missing
            or not finite, "refused" for another error.
        healthy: whether it was called healthy.
        error: of the network, 1 for the best constant; None if nothing was trained.
        text: what was printed.
        gains: what trying the first remedy of the first finding brought, that before any was tried
            and that after; empty of one that only the user can apply.
    """

    names: list[str]
    healthy: bool
    error: float | None
    text: str
    gains: tuple[str, ...] = ()

    def rank(self, kind: str) -> int | None:
        """Place of the right finding, from 1; None if it was not found."""
        return next((n for n, name in enumerate(self.names, 1) if name in EXPECTED[kind]), None)


def refusal(error: object, trained: float | None) -> Outcome:
    """The outcome of an error."""
    finite = re.search(r"\b(nan|inf|missing|empty|finite)\b", str(error).lower())
    return Outcome([REFUSED if finite else "refused"], False, trained, str(error))


def gains(plain: list[tuple[str, str]], tried: list[tuple[str, str]]) -> tuple[str, ...]:
    """Return the gains of the first remedies, of each of which ``(why, gain)`` is given."""
    return (dict(tried)[plain[0][0]], tried[0][1]) if plain and tried else ()


def diagnosed(given: modules.Given, try_remedies: bool = False) -> Outcome:
    """Diagnose with all that this version of `diagnose` takes."""
    takes = inspect.signature(ostinato.diagnose).parameters
    more = {"history": given.history, "distance": given.distance, "loss": given.loss}
    more |= {"optimizer": given.optimizer, "held_out": given.held_out}
    more = {name: value for name, value in more.items() if name in takes and value is not None}

    def remedies(found: Diagnosis) -> list[tuple[str, str]]:
        return [(r.why, r.gain) for f in found.findings[:1] for r in f.remedies]

    try:
        found = ostinato.diagnose(given.model, given.data, **more)
        worth: tuple[str, ...] = ()
        if try_remedies and found.findings:
            tried = ostinato.diagnose(given.model, given.data, try_remedies=True, **more)
            worth = gains(remedies(found), remedies(tried))
    except (ostinato.OstinatoError, RuntimeError, ValueError, TypeError) as error:
        return refusal(error, given.error)
    names = [str(f.issue) for f in found.findings]
    return Outcome(names, found.healthy, given.error, str(found), worth)


def typed(arguments: list[str]) -> tuple[int, str, str]:
    """Run a command; return its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command_line(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def commanded(fit: fits.Fit, try_remedies: bool = False) -> Outcome:
    """Train and diagnose on the command line."""
    with tempfile.TemporaryDirectory() as folder:
        commands = fit.commands(Path(folder))
        status, _, said = typed(commands.train)
        if status:
            return refusal(said, None)
        error = fit.judge(ostinato.load(commands.run))
        remedies = list[list[tuple[str, str]]]()
        found: dict[str, Any] = {}
        for more in ([], ["--try"])[: 1 + try_remedies]:
            status, printed, said = typed([*commands.diagnose, *more])
            if status:
                return refusal(said, error)
            found = found or json.loads(printed)
            first = json.loads(printed)["findings"][:1]
            remedies.append([(r["why"], r["gain"]) for f in first for r in f["remedies"]])
        names = [f["issue"] for f in found["findings"]]
        worth = gains(remedies[0], remedies[-1]) if try_remedies else ()
        return Outcome(names, found["healthy"], error, json.dumps(found), worth)


def setup_of(case: Case, mended: bool) -> Any:
    """The network or estimator of a case, its data and how it is trained."""
    torch.manual_seed(case.seed)
    source: Any = fresh if case.fresh else modules if case.form == "torch" else fits
    if case.faulty:
        return source.FAULTS[case.kind](case.seed, mended)
    return source.HEALTHY[case.kind](case.seed)


def trained(case: Case, mended: bool) -> modules.Given:
    """Train a case in memory."""
    setup = setup_of(case, mended)
    return setup.run(case.seed) if case.form == "torch" else setup.run()


def outcome(case: Case, mended: bool = False, try_remedies: bool = False) -> Outcome:
    """Train and diagnose a case."""
    if case.form == "command":
        return commanded(setup_of(case, mended), try_remedies)
    try:
        given = trained(case, mended)
    except ostinato.OstinatoError as error:
        return refusal(error, None)
    return diagnosed(given, try_remedies)


def improves(gain: str, rank: int | None, error: float | None, mended: float) -> bool:
    """Whether a remedy improves a run by 3 % or more."""
    if ", helped: " in gain or ", did not help: " in gain:
        return ", helped: " in gain
    return rank == 1 and (error is None or mended < 0.97 * error)


def cases(seeds: range) -> Iterator[Case]:
    """All runs: each healthy one with the first seed, then each fault with each; the fresh set."""
    for form in FORMS:
        for name in (modules if form == "torch" else fits).HEALTHY:
            if not (form == "command" and name in fits.MEMORY_ONLY):
                yield Case(name, form, seeds.start + (10 if form == "command" else 0), False)
    for seed in seeds:
        for kind in sorted(EXPECTED):
            for form in FORMS:
                source = modules if form == "torch" else fits
                if kind in source.FAULTS and not (form == "command" and kind in fits.MEMORY_ONLY):
                    # The command line has data of its own.
                    yield Case(kind, form, seed + (10 if form == "command" else 0), True)
    first = seeds.start
    for form in FORMS[1:]:
        more = 10 if form == "command" else 0
        for name in fresh.HEALTHY:
            yield Case(name, form, first + more, False, True)
        for seed in range(first, first + (1 if more else FRESH_SEEDS)):
            for kind in sorted(fresh.FAULTS):
                yield Case(kind, form, seed + more, True, True)


def hurts(error: float | None, mended: float | None) -> bool:
    """Whether a fault makes a network clearly worse than the mended one, which learns."""
    return mended is not None and mended < 0.75 and (error is None or error > mended + 0.15)


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Shares of the table: of faults named first and among the first two, and of healthy runs."""
    faults = [row for row in rows if row["faulty"]]
    sound = [row for row in rows if not row["faulty"]]
    shares: dict[str, float] = {"faults": len(faults), "healthy runs": len(sound)}
    if faults:
        ranks = [row["rank"] or 99 for row in faults]
        shares["named first"] = sum(r == 1 for r in ranks) / len(faults)
        shares["among the first two"] = sum(r <= 2 for r in ranks) / len(faults)
        shares["called healthy, faulty"] = sum(row["healthy"] for row in faults) / len(faults)
    if sound:
        shares["called healthy, healthy"] = sum(row["healthy"] for row in sound) / len(sound)
    worth = [row["improves"] for row in faults if "improves" in row]
    if worth:
        shares["first remedy improves"] = sum(before for before, _ in worth) / len(worth)
        shares["first of the tried improves"] = sum(after for _, after in worth) / len(worth)
    twins = [row for row in faults if "twin_rank" in row]
    if twins:
        shares["mended, not named first"] = sum(r["twin_rank"] != 1 for r in twins) / len(twins)
        shares["mended, called healthy"] = sum(r["twin_healthy"] for r in twins) / len(twins)
    return shares


def main() -> None:
    """Run cases, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kinds", nargs="*", default=[], help="kinds or names of healthy runs")
    parser.add_argument("--forms", default=",".join(FORMS), help="torch, estimator, command")
    parser.add_argument("--half", choices=PARTS)
    parser.add_argument("--check", action="store_true", help="train the mended networks as well")
    parser.add_argument(
        "--try",
        action="store_true",
        dest="try_remedies",
        help="try the remedies of the first finding",
    )
    parser.add_argument("--verbose", action="store_true", help="print the diagnoses")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--update", action="store_true", help="keep the other results in it")
    parser.add_argument("--missing", action="store_true", help="the same, and skip what is in it")
    arguments = parser.parse_args()
    arguments.update |= arguments.missing
    torch.set_num_threads(1)
    kinds = arguments.kinds
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    kept: dict[Any, dict[str, Any]] = {}
    if arguments.update and arguments.out.exists():
        kept = {_key(row): row for row in json.loads(arguments.out.read_text())["rows"]}
    for case in cases(seeds):
        half = case.part
        if case.form not in arguments.forms.split(",") or (kinds and case.kind not in kinds):
            continue
        if arguments.half and half != arguments.half:
            continue
        known = kept.get(_key(case._asdict()), {})
        checked = "hurts" in known or not (case.faulty and arguments.check)
        if arguments.missing and known and checked:
            continue
        start = time.perf_counter()
        found = outcome(case, try_remedies=arguments.try_remedies)
        row = {**case._asdict(), "half": half, "names": found.names, "healthy": found.healthy}
        row["error"] = found.error
        if case.faulty:
            row["rank"] = found.rank(case.kind)
            mark = {1: "1 ", 2: "2 "}.get(row["rank"] or 0, "- " if row["rank"] else "NO")
            if arguments.try_remedies:
                mended = math.nan
                if row["rank"] == 1 and any("help" not in gain for gain in found.gains):
                    mended = trained(case, True).error
                row["gains"] = found.gains
                told = found.gains or ("", "")
                row["improves"] = [improves(g, row["rank"], found.error, mended) for g in told]
            if arguments.check:
                twin = outcome(case, mended=True)
                row |= {"twin_error": twin.error, "twin_rank": twin.rank(case.kind)}
                row |= {"twin_healthy": twin.healthy, "twin_names": twin.names}
                row["hurts"] = hurts(found.error, twin.error)
        else:
            mark = "ok" if found.healthy else "NO"
            row["learns"] = found.error is not None and found.error < 0.75
        kept[_key(row)] = row
        named = ", ".join(found.names) or ("healthy" if found.healthy else "cannot tell")
        shown = "-" if found.error is None else f"{found.error:.2f}"
        if case.faulty and arguments.check:
            beside = "-" if twin.error is None else f"{twin.error:.2f}"
            shown += f"/{beside}{'' if row['hurts'] else ' WEAK'}"
            shown += f" [{', '.join(twin.names) or 'healthy'}]" if twin.names else ""
        elif not case.faulty and not row["learns"]:
            shown += " DOES NOT LEARN"
        seconds = time.perf_counter() - start
        print(
            f"{mark} {case.kind:<30}{case.form:<10}{case.seed:<3} {named}"
            f"  ({shown}; {seconds:.1f} s)",
            flush=True,
        )
        if arguments.try_remedies and case.faulty:
            print(f"   improves: {row['improves']} {found.gains}", flush=True)
        if arguments.verbose:
            print("    " + found.text.replace("\n", "\n    "), flush=True)
        if arguments.update:  # a long run may be ended
            write(arguments.out, list(kept.values()))
    print(report_text(report_of(list(kept.values()))))
    if not kinds and not arguments.half and arguments.forms == ",".join(FORMS):
        write(arguments.out, list(kept.values()))


def _key(row: dict[str, Any]) -> tuple[str, str, int, bool]:
    """What tells runs apart."""
    return row["kind"], row["form"], row["seed"], row.get("fresh", False)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the tables, and a line for each run."""
    head = json.dumps(report_of(rows), indent=1)[:-2]
    body = ",\n  ".join(json.dumps(row) for row in rows)
    path.write_text(f'{head},\n "rows": [\n  {body}\n ]\n}}\n')


def report_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares by form and half, and for each kind the ranks and what was named instead."""
    by_kind = {}
    for half, kind in sorted({(row["half"], row["kind"]) for row in rows if row["faulty"]}):
        of_kind = [row for row in rows if (row["half"], row["kind"]) == (half, kind)]
        instead = Counter(
            (row["names"] or ["healthy" if row["healthy"] else "cannot tell"])[0]
            for row in of_kind
            if row["rank"] != 1
        )
        ranks = {form: [row["rank"] for row in of_kind if row["form"] == form] for form in FORMS}
        name = f"{kind}, fresh" if half == "fresh" else kind
        by_kind[name] = {"half": half, "ranks": ranks, "instead": dict(instead)}
    known = [row for row in rows if row["half"] != "fresh"]
    shares = {form: summary([row for row in known if row["form"] == form]) for form in FORMS}
    for half in PARTS:
        for form in FORMS:
            own = [row for row in rows if row["half"] == half and row["form"] == form]
            shares[f"{half}, {form}"] = summary(own)
        shares[half] = summary([row for row in rows if row["half"] == half])
    return {"shares": shares | {"all": summary(known)}, "kinds": by_kind}


def report_text(report: dict[str, Any]) -> str:
    """Both tables as text."""
    lines = [f"\n{'kind':<31}{'half':<10}{'torch':<10}{'estimator':<11}{'command':<10}instead"]
    for kind, found in report["kinds"].items():
        ranks = [" ".join(str(r or "-") for r in found["ranks"][form]) for form in FORMS]
        instead = ", ".join(f"{name} {n}" for name, n in found["instead"].items())
        lines.append(
            f"{kind:<31}{found['half']:<10}{ranks[0]:<10}{ranks[1]:<11}{ranks[2]:<10}{instead}"
        )
    lines.append("")
    for part, shares in report["shares"].items():
        told = "  ".join(
            f"{name} {value:.1%}" if isinstance(value, float) else f"{value} {name}"
            for name, value in shares.items()
        )
        lines.append(f"{part:<21}{told}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
