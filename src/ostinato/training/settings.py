"""Settings of a training run, shared by every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from ostinato.errors import OstinatoError, check_choice
from ostinato.recurrence.cells import cell_named

OptimizerName = Literal["sgd", "rmsprop", "adam", "adamw"]
ScheduleName = Literal["constant", "cosine", "wsd", "step", "plateau"]
Remedy = Literal["stop", "skip", "rollback"]


@dataclass(kw_only=True, eq=False, repr=False)
class TrainingSettings:
    """Settings of a training run.

    Args:
        minutes: budget in minutes of training by the clock, evaluations included; the schedule
            follows it. Without any budget a text trains for 5 minutes, other data for epochs by
            their size.
        epochs: budget in passes over the training data.
        steps: budget in optimizer steps.
        batch_size: sequences per step, fewer where the data are short; if not given, 32 for a text,
            otherwise by the size of the data. Several processes share them.
        accumulate: parts of each batch that are computed one after the other, in less memory, for
            the same step.
        average_every: steps that several processes train apart before their weights are averaged
            (local SGD); with 1 they share the gradients of every step.
        optimizer: sgd (with momentum), rmsprop, adam or adamw.
        learning_rate: peak learning rate of the schedule.
        momentum: momentum of sgd and rmsprop.
        weight_decay: decay of the weight matrices; biases have none.
        schedule: constant, cosine (down to a hundredth), wsd (warm up, stay, and fall in the last
            fifth of the run, or when patience ends), step (times decay_factor every
            decay_steps), plateau (times decay_factor when the validation loss stalls).
        warmup_steps: steps over which the learning rate rises from zero; at most a tenth of the
            run.
        decay_factor: factor of the step and plateau schedules.
        decay_steps: steps between decays of the step schedule; a quarter of the run if not given.
        decay_patience: evaluations without improvement before plateau decays.
        clip_norm: largest norm of the gradients, which are scaled down to it; 0 for no limit.
        clip_value: largest absolute value of an element of the gradients; 0 for no limit.
        validation_fraction: share of the data held out for validation, 0 for none; if not given, a
            tenth, and of fewer than 1,000 sequences a fifth.
        evaluations: evaluations on the validation data, fewer where they would take more than a
            tenth of the minutes; if not given, 10 for a text, otherwise one per epoch.
        patience: evaluations without improvement before the run stops early, 0 for never; needs
            validation data. With the cosine schedule the rate first falls to its end from the best
            weights. If not given, never for a text, otherwise by the size of the data.
        on_nonfinite: action at a non-finite loss or gradient: stop, skip the step, or rollback to
            the last good checkpoint with half the learning rate.
        checkpoint_minutes: minutes between checkpoints.
        health: measure gradients over time at intervals, in at most 2 % of the training time.
        seed: random seed.
        device: auto (CUDA where there is one), cpu, cuda.
    """

    minutes: float | None = None
    epochs: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    average_every: int = 1
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 0.003
    momentum: float = 0.9
    weight_decay: float = 0.01
    schedule: ScheduleName = "cosine"
    warmup_steps: int = 100
    decay_factor: float = 0.5
    decay_steps: int | None = None
    decay_patience: int = 1
    clip_norm: float = 1.0
    clip_value: float = 0.0
    validation_fraction: float | None = None
    evaluations: int | None = None
    patience: int | None = None
    on_nonfinite: Remedy = "stop"
    checkpoint_minutes: float = 1.0
    health: bool = True
    seed: int = 0
    device: str = "auto"

    def check_settings(self) -> None:
        """Raise an `OstinatoError` that names a setting out of range, and what was expected."""
        for name, hint in get_type_hints(type(self)).items():
            if hint in (int, int | None) and isinstance(getattr(self, name), float):
                refuse(self, name, "a whole number")
            if hint in (bool, bool | None) and not isinstance(getattr(self, name), bool):
                if hint is bool:
                    refuse(self, name, "true or false")
                if getattr(self, name) is not None:
                    refuse(self, name, "true or false, or None to go by the data")
            choices = next((h for h in (hint, *get_args(hint)) if get_origin(h) is Literal), None)
            if choices is None:
                continue
            value = getattr(self, name)
            if name == "cell" and isinstance(value, str) and ":" in value:
                cell_named(value)  # of the user's own
            elif hint is choices or value is not None:
                check_setting(self, name, get_args(choices))
        budgets = "minutes epochs steps"
        given = [name for name in budgets.split() if getattr(self, name) is not None]
        if len(given) > 1:
            raise OstinatoError(
                f"{type(self).__name__}: expected one budget, got {' and '.join(given)}."
            )
        positive = f"{budgets} batch_size learning_rate decay_steps evaluations checkpoint_minutes"
        positive += " average_every"
        check_value(self, positive, lambda value: value > 0, "a number above zero")
        positive_or_zero = "weight_decay clip_norm clip_value warmup_steps decay_patience patience"
        check_value(self, positive_or_zero, lambda value: value >= 0, "zero or more")
        check_value(self, "accumulate", lambda n: 0 < n <= 10_000, "a number of parts, 1 or more")
        check_value(self, "momentum", lambda value: 0 <= value < 1, "a number from 0 to below 1")
        check_value(self, "decay_factor", lambda value: 0 < value < 1, "a number between 0 and 1")
        check_value(self, "validation_fraction", lambda v: 0 <= v < 1, "0 (none) to below 1")
        check_value(self, "seed", lambda value: abs(value) < 2**63, "a whole number below 2**63")
        if self.patience and self.validation_fraction == 0:
            raise OstinatoError(
                f"{type(self).__name__}: patience={self.patience} needs validation data; got "
                "validation_fraction=0."
            )


def check_value(settings: object, names: str, holds: Callable[[Any], bool], expected: str) -> None:
    """Raise an `OstinatoError` unless settings are finite numbers that satisfy ``holds``.

    Names are separated by spaces; a setting whose default is None may be None.
    """
    for name in names.split():
        value = getattr(settings, name)
        if value is None and getattr(type(settings), name, ...) is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            refuse(settings, name, "a finite number")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not holds(value):
            refuse(settings, name, expected)


def check_setting(settings: object, name: str, allowed: Sequence[str]) -> None:
    """Raise an `OstinatoError` unless a setting is one of some names."""
    check_choice(f"{type(settings).__name__}: {name}", getattr(settings, name), allowed)


def refuse(settings: object, name: str, expected: str) -> NoReturn:
    """Raise an `OstinatoError` that names a setting, its value and what was expected."""
    value = getattr(settings, name)
    raise OstinatoError(f"{type(settings).__name__}: {name}={value!r:.99}; expected {expected}.")
