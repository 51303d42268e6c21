"""``ostinato demo``: dates as people write them, to ISO dates; ``--text``: prose on Python."""

from __future__ import annotations

import importlib
import math
import random
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ostinato
from ostinato.cli.commands import START, command
from ostinato.cli.page import LOWEST, Seen, percent, write_page
from ostinato.files import check_new_folder

if TYPE_CHECKING:
    from ostinato.tasks.generation import TextGenerator
    from ostinato.tasks.translation import Translator

FORMATS = (
    "{d} {month} {y}",
    "{month} {d}, {y}",
    "{d} {mon} {y}",
    "{d}.{m:02d}.{y}",
    "{mon} {d} {y}",
    "{weekday} {d} {month} {y}",
)
"""How people write dates."""

NEW_FORMAT = "{weekday}, {month} {d}, {y}"
"""One that the demo does not train on."""

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

STEPS, TEXT_STEPS = 1000, 6000
"""Optimizer steps of the two demos."""

PAIRS, FRESH = 2000, 300
"""Dates to train on, and those that are kept from training."""

SETTINGS: dict[str, Any] = {
    **{"level": "char", "hidden_size": 128, "learning_rate": 0.005, "dropout": 0.1},
    **{"batch_size": 32, "evaluations": 5, "patience": 0, "validation_fraction": 0.05},
}

UNITS = 128
"""Units of the layer that races."""


@command(START)
def demo(
    *, text: bool = False, steps: int | None = None, out: Path | None = None, seed: int = 0
) -> None:
    """Train a small network in a minute, and look inside it.

    An encoder and a decoder with attention learn from 2,000 examples to rewrite dates as people
    write them: 3 July 1987 becomes 1987-07-03. Ends with dates that it has never seen, how far its
    gradients reach, a race of a stream, and a page with all of it. With --text a language model
    learns to write about Python, from the help pages that come with Python, in some minutes.

    Args:
        text: the language model.
        steps: steps of training; 1,000, and 6,000 with --text, if not given.
        out: folder for the model and the page; if not given runs/demo, or the first of
            runs/demo-2, runs/demo-3 ... that is not there.
        seed: random seed.

    Examples:
        ostinato demo --out runs/dates
        ostinato demo --text --steps 8000
    """
    folder = check_new_folder(free_folder(Path("runs/demo")) if out is None else out)
    if text:
        _write(folder, TEXT_STEPS if steps is None else steps, seed)
    else:
        _translate(folder, STEPS if steps is None else steps, seed)


def free_folder(first: Path) -> Path:
    """Return a path, or the first of ``first-2``, ``first-3``, ... that is not there yet."""
    numbered = (first.with_name(f"{first.name}-{i}") for i in range(2, 10_000))
    return next(path for path in (first, *numbered) if not path.exists())


# Dates


def written(day: date, form: str) -> str:
    """Return a date as people write it.

    >>> written(date(1987, 7, 3), FORMATS[-1])
    'Friday 3 July 1987'
    """
    month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    return form.format(
        d=day.day, m=day.month, y=day.year, month=month, mon=month[:3], weekday=weekday
    )


def written_dates(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Return dates of 1950 to 2059 as people write them, and the same as ISO dates; all differ.

    >>> texts, days = written_dates(3, seed=0)
    >>> len(texts), [len(day) for day in days]
    (3, [10, 10, 10])
    """
    drawn = random.Random(seed)
    days = [date(1950, 1, 1) + timedelta(days=n) for n in drawn.sample(range(40_000), count)]
    texts = [written(day, drawn.choice(FORMATS)) for day in days]
    return texts, [day.isoformat() for day in days]


def _translate(folder: Path, steps: int, seed: int) -> None:
    X, y = written_dates(PAIRS + FRESH + 1, seed)
    print("A recurrent encoder and decoder with attention learn from 2,000 examples:")
    for source, target in zip(X[:3], y, strict=False):
        print(f"  {source:<28} -> {target}")
    print(flush=True)
    training = X[:PAIRS], y[:PAIRS]
    model = ostinato.Translator(steps=steps, seed=seed, **SETTINGS)
    model.fit(*training, out=folder, progress="auto")
    if model.training_["ended"] == "interrupt":
        raise KeyboardInterrupt
    print("\nTranslating dates that it has never seen, and measuring ...", flush=True)
    seen = look(model, X[PAIRS:], y[PAIRS:])
    page = folder / "demo.html"
    write_page(page, seen)
    print("\n".join(told(seen)))
    run = shlex.quote(str(folder))
    print(f"\nAll of this with pictures, and what to try next:\n  {page.resolve()}")
    print(f'Yours:  echo "4 May 2031" | ostinato translate {run}')
    print("        ostinato train YOUR_FILES    says what can be learned from them")


def look(model: Translator, X: Sequence[str], y: Sequence[str]) -> Seen:
    """Translate fresh dates, the last one in a format never seen, and measure."""
    X, y, day = X[:-1], y[:-1], date.fromisoformat(y[-1])
    new = written(day, NEW_FORMAT)
    *found, other = model.translate([*X, new])
    right = sum(a == b for a, b in zip(found, y, strict=True))
    rows = [*zip(X[:10], found[:10], y[:10], strict=True), (new, other, day.isoformat())]
    ((text,),) = model.write([X[0]])
    left, seconds = gradients_left(model, X[10:42], y[10:42]), model.training_["seconds"]
    return Seen(rows, right, len(X), seconds, list(X[0]), text, left, race(), model.history_)


def gradients_left(model: Translator, X: Sequence[str], y: Sequence[str]) -> dict[str, list[float]]:
    """Return the gradient that reaches each letter, by lag, as a share of that at the last one.

    Of the encoder, and of a tanh RNN that is to tell the month of the same dates from its last
    state, with PyTorch's initialisation.
    """
    import torch

    networks, flow = ostinato.networks, ostinato.insight.gradient_flow
    ids = [torch.from_numpy(model.inputs_.encode_text(text)).long() for text in X]
    lengths, months = torch.tensor(list(map(len, ids))), torch.tensor([int(d[5:7]) - 1 for d in y])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = networks.ManyToOne(
            torch.nn.Embedding(len(model.source_vocabulary_), UNITS // 2),
            ostinato.RNN(UNITS // 2, UNITS, batch_first=True),
            networks.Output(UNITS, 12),
        )
    data = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True), months, lengths
    flows = {"this network": flow(model, (list(X), list(y)), jacobian=False)}
    flows["a tanh RNN"] = flow(plain, data, jacobian=False)
    norms = {name: each.layers[0].norms for name, each in flows.items()}
    return {name: (each / each[0]).tolist() for name, each in norms.items()}


def race(seconds: float = 1.0, turns: int = 5) -> dict[str, float]:
    """Return steps per second of a `Stream` and of ``torch.nn.LSTMCell`` with the same weights."""
    import torch

    layer = ostinato.LSTM(UNITS, UNITS)
    cell = torch.nn.LSTMCell(UNITS, UNITS)
    cell.load_state_dict({n.removesuffix("_l0"): p for n, p in layer.state_dict().items()})
    stream, x = ostinato.Stream(layer), torch.randn(UNITS)
    x_t, y_t, row = x.numpy(), torch.empty(UNITS).numpy(), x[None]
    state = None

    def ours() -> None:
        stream.step(x_t, out=y_t)

    def theirs() -> None:
        nonlocal state
        state = cell(row, state)

    with torch.inference_mode():
        together = torch.from_numpy(stream.fork().step(x_t)), cell(row)[0][0]
    assert torch.allclose(*together, atol=1e-5), "the contenders compute the same"
    contenders: dict[str, Callable[[], None]] = {"Stream": ours, "torch.nn.LSTMCell": theirs}
    counts, times = dict.fromkeys(contenders, 0), dict.fromkeys(contenders, 0.0)
    with torch.inference_mode():
        for _ in range(turns):
            for name, step in contenders.items():
                start = time.perf_counter()
                while (spent := time.perf_counter() - start) < seconds / turns / len(contenders):
                    for _ in range(50):
                        step()
                    counts[name] += 50
                times[name] += spent
    return {name: counts[name] / times[name] for name in contenders}


# In the terminal

BLOCKS, SHADES = "▁▂▃▄▅▆▇█", " ░▒▓█"
PLAIN_BLOCKS, PLAIN_SHADES = "_.,-=+*#", " .-+#"
"""The same, where a terminal has no blocks."""


def told(seen: Seen) -> list[str]:
    """Return what the demo found, as lines of a terminal of 80 columns."""
    tick, cross, blocks, shades, bar = "✓", "✗", BLOCKS, SHADES, "█"
    try:
        (BLOCKS + SHADES + tick + cross).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        tick, cross, blocks, shades, bar = "+", "-", PLAIN_BLOCKS, PLAIN_SHADES, "#"

    def row(source: str, found: str, target: str) -> str:
        is_right = found == target
        note = "" if is_right else f"   should be {target}"
        return f"  {tick if is_right else cross} {source:<29} {found}{note}"

    *ten, other = seen.rows
    lines = ["", "TEN DATES THAT IT HAS NEVER SEEN", *(row(*each) for each in ten)]
    lines += ["", "And one written in a way that it has never seen:", row(*other)]
    lines += ["", "WHERE IT LOOKS, letter by letter (the darker, the more)"]
    assert seen.text.attention is not None
    lines += ["      " + " ".join(seen.read)]
    for piece, weights in zip(seen.text.pieces, seen.text.attention, strict=False):
        cells = (shades[min(4, int(5 * weight))] * 2 for weight in weights)
        lines.append(f"    {piece} " + "".join(cells).rstrip())
    lines += ["", "HOW MUCH OF THE GRADIENT reaches each letter, from the last one back"]
    lags = min(map(len, seen.left.values()))
    for name, left in seen.left.items():
        drawn = "".join(blocks[level(share)] for share in left[:lags])
        lines.append(f"  {name:<14} {drawn}  {percent(left[lags - 1])} after {lags - 1}")
    lines.append("  (the RNN answers from its last state; the lowest block is 0.01 % or less)")
    lines += ["", f"ONE STEP AT A TIME, an LSTM of {UNITS} units, steps per second"]
    fastest = max(seen.speeds.values())
    for name, speed in seen.speeds.items():
        drawn = bar * max(1, round(36 * speed / fastest))
        lines.append(f"  {name:<18} {drawn} {speed:,.0f}")
    lines += ["", f"{seen.right} of {seen.fresh} dates right that it had never seen, after "
              f"{seen.seconds:.0f} seconds of training."]  # fmt: skip
    return lines


def level(share: float) -> int:
    """Return which of eight blocks shows a share, on a scale of logarithms.

    >>> [level(share) for share in (2.0, 1.0, 0.01, 1e-4, 0.0)]
    [7, 7, 4, 0, 0]
    """
    depth = math.log10(max(share, 10.0**LOWEST)) / LOWEST
    return min(7, round(7 * (1 - depth)))


# Text


def prose() -> str:
    """Return the paragraphs of English among the help pages that every Python has."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    found: dict[str, None] = {}
    for name in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[name]):
            text = " ".join(block.split())
            letters = sum(c.isalpha() or c == " " for c in text)
            if re.match("[A-Z].{100}", text) and text[-1] in ".:" and letters > 0.9 * len(text):
                found[text] = None
    return "\n".join(found) + "\n"


def _write(folder: Path, steps: int, seed: int) -> None:
    text = prose()
    print(f"A language model reads {len(text):,} letters about Python, from its own help pages.\n")
    model: TextGenerator = ostinato.TextGenerator(
        cell="lstm", hidden_size=256, batch_size=16, steps=steps, seed=seed
    )
    model.fit(text, out=folder, progress="auto")
    if model.training_["ended"] == "interrupt":
        raise KeyboardInterrupt
    page = model.generate("The ", 700, temperature=0.5, seed=seed, stop="\n\n")
    print(f"\nWhat it writes now, letter by letter:\n\nThe {page.rstrip()}\n")
    run = shlex.quote(str(folder))
    print(f"the model  {folder}/\nits curve  {folder}/learning_curve.png")
    print(f'\nYours:  ostinato generate {run} --prompt "A class " --temperature 0.6')
    print("        ostinato train text YOUR_FILES --out runs/mine")
