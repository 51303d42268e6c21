"""Search spaces: which settings of a task are searched, and between which values.

Plain data, which the command line shows without importing PyTorch. In a file a space is TOML::

    learning_rate = { low = 0.0005, high = 0.02, log = true }
    num_layers = { low = 1, high = 3 }
    cell = ["gru", "lstm"]
    dropout = 0.3                      # one value: set, and not searched
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ostinato.errors import OstinatoError


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, both included: whole ones if both are; ``log``: by factors.

    >>> Range(0.001, 0.1, log=True).toml
    '{ low = 0.001, high = 0.1, log = true }'
    """

    low: float
    high: float
    log: bool = False

    @property
    def toml(self) -> str:
        """The range as TOML."""
        log = ", log = true" if self.log else ""
        return f"{{ low = {self.low!r}, high = {self.high!r}{log} }}"


Choices: TypeAlias = tuple[Any, ...]
Space: TypeAlias = Mapping[str, Range | Choices]
"""For each setting that is searched a range, or the values to choose from."""

_EVERY: Space = {
    "learning_rate": Range(5e-4, 2e-2, log=True),
    "hidden_size": Range(32, 512, log=True),
    "num_layers": Range(1, 3),
    "dropout": Range(0.0, 0.6),
    "weight_decay": Range(1e-4, 0.3, log=True),
    "cell": ("gru", "lstm"),
}
_BATCH: Space = {"batch_size": (8, 16, 32, 64, 128)}
_READER: Space = {"embedding_size": Range(32, 300, log=True), "word_dropout": Range(0.0, 0.6)}
_WRITER: Space = {"label_smoothing": Range(0.0, 0.2)}

_OWN: Mapping[str, Space] = {
    "text": {
        "window": (32, 64, 128, 256),
        "variational_dropout": Range(0.0, 0.5),
        "hidden_size": Range(64, 1024, log=True),
        "batch_size": (16, 32, 64),
    },
    "classify": {**_BATCH, **_READER, "pooling": ("last", "mean", "max", "attention")},
    "regress": {**_BATCH, **_READER, "pooling": ("last", "mean", "max", "attention")},
    "tag": {**_BATCH, **_READER},
    "translate": {**_BATCH, **_WRITER, "attention": ("multiplicative", "additive")},
    "summarize": {**_BATCH, **_WRITER},
    "transcribe": {**_BATCH, "stacked": (2, 3, 4)},
    "speak": {"batch_size": (16, 32, 64)},
    "vocode": {**_BATCH, "samples_per_step": (1, 2), "window": (8, 12, 20)},
    "caption": {**_BATCH, **_WRITER},
    "forecast": {
        **_BATCH,
        "learning_rate": Range(2e-4, 1e-2, log=True),
        "hidden_size": Range(16, 256, log=True),
        "output": ("student", "gaussian", "quantiles"),
        "method": ("autoregressive", "direct"),
    },
    "music": {**_BATCH, "weight_dropout": Range(0.0, 0.5)},
}


_TOKENS = ("level", "vocabulary_size", "min_count")
MEASURES: Mapping[str, Sequence[str]] = {
    "text": (*_TOKENS, "unknown"),
    "translate": _TOKENS,
    "summarize": _TOKENS,
    "transcribe": (*_TOKENS, "criterion"),
    "speak": ("symbols", "rate", "bands", "trim", "frames_per_step"),
    "vocode": ("rate", "trim"),
    "caption": _TOKENS,
    "forecast": ("horizon", "season"),
    "music": ("steps_per_beat",),
}
"""For some tasks the settings with which what trials are compared by measures something else."""


def space_of(command: str) -> Space:
    """Return the space of a task, by its command.

    >>> space_of("classify")["num_layers"]
    Range(low=1, high=3, log=False)
    """
    return {**_EVERY, **_OWN[command]}


def to_toml(space: Space) -> str:
    """Return a space as TOML, for `read_space`."""

    def written(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return f'"{value}"' if isinstance(value, str) else repr(value)

    return "".join(
        f"{name} = {where.toml if isinstance(where, Range) else _listed(map(written, where))}\n"
        for name, where in space.items()
    )


def _listed(values: Any) -> str:
    return f"[{', '.join(values)}]"


def read_space(path: Path, usual: Space) -> tuple[Space, dict[str, Any]]:
    """Return the usual space as a TOML file changes it, and the settings that the file sets.

    Raises:
        OstinatoError: the file is missing, no TOML, or has an entry that is no range or list.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OstinatoError(f"{path}: {error.strerror}.") from None
    except ValueError as error:
        raise OstinatoError(f"{path}: not TOML: {error}") from None
    try:
        return changed(usual, document)
    except OstinatoError as error:
        raise OstinatoError(f"{path}: {error}") from None


def changed(usual: Space, by: Mapping[str, Any]) -> tuple[Space, dict[str, Any]]:
    """Return a space with some entries changed, and settings that are set to one value.

    >>> changed({"cell": ("gru",), "dropout": Range(0, 1)}, {"dropout": 0.3, "cell": ["rnn"]})
    ({'cell': ('rnn',)}, {'dropout': 0.3})
    """
    space, given = dict(usual), {}
    for name, entry in by.items():
        space.pop(name, None)
        match entry:
            case Range():
                space[name] = entry
            case {"low": low, "high": high, "log": log} if len(entry) == 3:
                space[name] = Range(low, high, log)
            case {"low": low, "high": high} if len(entry) == 2:
                space[name] = Range(low, high)
            case list() | tuple() if entry:
                space[name] = tuple(entry)
            case str() | bool() | int() | float():
                given[name] = entry
            case _:
                raise OstinatoError(
                    f"{name} = {entry!r:.80}; expected {{ low = ..., high = ..., log = true }}, a "
                    "list of values, or one value."
                )
    return space, given


def check_comparable(space: Space, command: str) -> None:
    """Raise an `OstinatoError` at a setting with whose values trials cannot be compared."""
    for name in MEASURES.get(command, ()):
        if name in space:
            raise OstinatoError(
                f"tune: {name} changes what the error of {command} measures, by which trials are "
                f"compared; set {name} to one value."
            )


def check_space(space: Space, known: Collection[str], owner: str) -> None:
    """Raise an `OstinatoError` at a name that is no setting, or a range that is none."""
    for name, where in space.items():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"see the settings of {owner}."
            raise OstinatoError(f"tune: {name!r} is no setting of {owner}; {hint}")
        if not isinstance(where, Range):
            continue
        low, high, log = where
        numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (low, high))
        if not numbers or not low < high or not isinstance(log, bool) or (log and low <= 0):
            raise OstinatoError(
                f"tune: {name} = {where.toml}; expected low below high, above zero with log."
            )
