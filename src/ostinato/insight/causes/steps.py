"""Causes that lie in how steps follow one another: later inputs, states that are dropped or cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.insight.causes.common import J, helped, not_learned_well, unless_learned
from ostinato.insight.evidence import Evidence, smoothness
from ostinato.insight.influence import memory_span
from ostinato.insight.losses import Stand
from ostinato.insight.trials import Change
from ostinato.training.findings import Cause, Finding, Remedy

OFTEN = 4
"""Times that a token occurs at least for its class to count as more than a coincidence."""


def future_read(j: J) -> Iterator[Finding]:
    """Outputs use later inputs, which hold the targets."""
    e = j.evidence
    x, y, scores = e.sample.inputs, e.sample.targets, e.scores
    if scores is None or not isinstance(y, Tensor) or e.row_axis or x.dim() < 2:
        return
    T = x.shape[1]
    if T < 4 or y.dim() < 2 or y.shape[:2] != x.shape[:2] or scores.shape[:2] != x.shape[:2]:
        return
    shift = shift_of_targets(x, y, e.ends)
    told = "is the input of"
    if not shift and x.dim() == 3 and y.dim() == 2 and not y.is_floating_point():
        shift = _class_by_later_value(x, y, e.ends) if x.is_floating_point() else 0
        told = "is told by an input, or its change, until"
    if not shift or e.repeat_change >= j.thresholds.changed:
        return
    change = e.later_change
    if change > j.thresholds.changed:
        steps = "next step" if shift == 1 else f"step {shift} later"
        yield Finding(
            "future read",
            f"the target of a step {told} the {steps}, and outputs before step "
            f"{T // 2} change by {change:.2g} of their size with inputs from there on: the "
            "network reads what it is to predict, and cannot when it is used.",
            {"change": change, "shift": float(shift)},
            [
                Remedy("bidirectional", False, "read forward only",
                       "nn.LSTM(..., bidirectional=False)")
            ],
            0.95,
        )  # fmt: skip


def shift_of_targets(x: Tensor, y: Tensor, ends: Tensor | None = None) -> int:
    """Return by how many steps targets are inputs of later steps; 0 if they are not.

    Of tokens it counts which target belongs to which token, as both may have numbers of their own.
    """
    for shift in (1, 2, 3):
        ahead, own = x[:, shift:], y[:, :-shift]
        if not x.is_floating_point():
            comparable = ahead.shape == own.shape and not own.is_floating_point()
            same = float((ahead == own).double().mean()) if comparable else 0.0
            if comparable and x.dim() == 2:
                last = torch.full((len(x),), x.shape[1]) if ends is None else ends
                inside = torch.arange(ahead.shape[1])[None] < last[:, None] - shift
                inside &= (own >= 0).cpu()
                same = max(same, _one_to_one(ahead.cpu()[inside], own.cpu()[inside]))
        elif y.is_floating_point():
            a = ahead if ahead.dim() > 2 else ahead[..., None]
            b = own if own.dim() > 2 else own[..., None]
            same = max(float((a[..., k] == b[..., 0]).double().mean()) for k in range(a.shape[-1]))
        elif x.dim() == 3 and y.dim() == 2 and bool(((x == 0) | (x == 1)).all()):
            same = float((ahead.argmax(-1) == own).double().mean())
        else:
            same = 0.0
        if same > 0.95:
            return shift
    return 0


def _one_to_one(tokens: Tensor, classes: Tensor) -> float:
    """Return the share of items whose token and class are each other's most frequent partners.

    Of tokens that occur often enough; 0 of fewer than three classes, which another rule may tell.

    >>> tokens = torch.tensor([7, 2, 9, 4] * 10)
    >>> _one_to_one(tokens, torch.tensor([0, 3, 1, 2] * 10))
    1.0
    >>> _one_to_one(tokens, torch.tensor([0, 0, 1, 2] * 10))
    0.75
    """
    _, number, occurs = torch.unique(tokens, return_inverse=True, return_counts=True)
    often = occurs[number] >= OFTEN
    pairs, counts = torch.unique(
        torch.stack([tokens, classes], 1)[often], dim=0, return_counts=True
    )
    if len(counts) < 3 or len(torch.unique(pairs[:, 1])) < 3:
        return 0.0
    most = []
    for side in (0, 1):
        _, of = torch.unique(pairs[:, side], return_inverse=True)
        best = torch.zeros(int(of.max()) + 1, dtype=counts.dtype)
        most.append(int(best.scatter_reduce(0, of, counts, "amax").sum()))
    return min(most) / int(counts.sum())


def _class_by_later_value(x: Tensor, y: Tensor, ends: Tensor) -> int:
    """Return by how many steps later a feature, or its change until then, tells the class.

    It does so where the classes lie in intervals of it, and not in those of its present value. 0
    if none does.

    >>> x = torch.randn(4, 50, 1, generator=torch.Generator().manual_seed(0))
    >>> rises = (x[:, 1:] > x[:, :-1]).long()[..., 0]
    >>> _class_by_later_value(x[:, :-1], rises, torch.full((4,), 49))
    1
    """
    T = x.shape[1]
    for shift in (1, 2, 3):
        inside = torch.arange(T - shift)[None] < ends[:, None] - shift
        own = y[:, : T - shift].cpu()[inside]
        now, later = x[:, : T - shift].cpu()[inside], x[:, shift:].cpu()[inside]
        for k in range(min(x.shape[2], 64)):
            before = _in_intervals(now[:, k], own)
            for values in (later[:, k], later[:, k] - now[:, k]):
                if _in_intervals(values, own) > 0.98 and before < 0.9:
                    return shift
    return 0


def _in_intervals(values: Tensor, classes: Tensor) -> float:
    """Return the share of neighbours in the order of values that are of one class, 1 if all can be.

    >>> _in_intervals(torch.arange(100.0), (torch.arange(100) > 70).long())
    1.0
    """
    K = len(torch.unique(classes))
    if len(classes) < 32 or not 1 < K <= 8 or len(torch.unique(values)) < 2 * K:
        return 0.0
    order = values.argsort(stable=True)
    changes = int((classes[order].diff() != 0).sum())
    # What the frequencies of classes alone would give counts as nothing.
    share = torch.bincount(classes - classes.min()).double() / len(classes)
    chance = float(1 - share.square().sum()) * (len(classes) - 1)
    return 1 - (changes - (K - 1)) / max(1.0, chance - (K - 1))


def _dropped_between_rows(j: J) -> Iterator[Finding]:
    """Yield a finding where rows continue each other, and the state of one would help the next."""
    e, t = j.evidence, j.thresholds
    x, y, scores = e.sample.inputs, e.sample.targets, e.scores
    if e.row_axis or scores is None or x.dim() < 3 or not x.is_floating_point() or len(x) < 8:
        return
    if e.sample.lengths is not None or not isinstance(y, Tensor) or y.shape[:2] != x.shape[:2]:
        return
    if not e.learned < t.high_improvement or not _continues(x):
        return
    T = x.shape[1]
    with suppress(Exception), torch.no_grad():
        joined = torch.cat([x[:-1], x[1:]], 1)
        with_past = e.scores_of(e.sample._replace(inputs=joined, targets=torch.cat([y, y], 1)[1:]))
        alone = e.scores_of(e.sample._replace(inputs=x[1:], targets=y[1:]))
        if with_past is None or alone is None or with_past.shape[1] != 2 * T:
            return
        own = e.sample._replace(inputs=x[1:], targets=y[1:])
        if e.loss is None:
            output = e.copy.output
            assert isinstance(output, nn.Module)
            losses = [float(output.loss(s, y[1:]).mean()) for s in (alone, with_past[:, T:])]  # type: ignore[operator]
        else:
            losses = [
                float(e.loss(Stand(e.copy, s), own.inputs, y[1:], None))
                for s in (alone, with_past[:, T:])
            ]
        gain = 1 - losses[1] / losses[0] if losses[0] > 0 else 0.0
        if gain > t.carried:
            yield Finding(
                "state not carried",
                f"each row continues the one before it, and given that the loss falls from "
                f"{losses[0]:.4g} to {losses[1]:.4g} ({gain:.0%}): the state should be carried "
                "from row to row.",
                {"gain": gain},
                [
                    Remedy(
                        "", "", "carry the state, detached, from a batch to the one that "
                        "continues it",
                        "y, state = model(x, state); state = [s.detach() for s in state]",
                    ),
                    Remedy("window", 2 * T, "longer rows",
                           f"x = series.reshape(-1, {2 * T}, series.shape[-1])  # longer rows"),
                ],
                0.84,
            )  # fmt: skip


def _continues(x: Tensor) -> bool:
    """Return whether each row begins where the row before it ends."""
    ends, begins = x[:-1, -1], x[1:, 0]
    jump = (begins - ends).square().mean()
    usual = (x[:, 1:] - x[:, :-1]).square().mean()
    other = (begins.roll(len(begins) // 2, 0) - ends).square().mean()
    return bool(jump < 2 * usual and jump < 0.5 * other) and smoothness(x, 1) < 1.0


def state_not_carried(j: J) -> Iterator[Finding]:
    """Each step, or each row though it continues the one before, begins from zeros."""
    yield from _dropped_in_a_loop(j)
    yield from _dropped_between_rows(j)


def _dropped_in_a_loop(j: J) -> Iterator[Finding]:
    """Yield a finding where each step is a call of its own, which begins from zeros."""
    e = j.evidence
    T = e.sample.inputs.shape[1 - e.row_axis]
    alone = [f for f in e.flow.layers if f.calls == f.sequences >= max(4, T) and len(f.h) == 1]
    if not alone:
        return
    others = [f.name for f in e.flow.layers if f not in alone]
    name = alone[0].name
    yield Finding(
        "state not carried",
        f"{name} is called {alone[0].calls} times, a step each, and every call begins from zeros "
        "rather than from the state that the one before returned: nothing is remembered.",
        {"calls": float(alone[0].calls)},
        [
            Remedy(
                "", "", "pass the state of each step on to the next",
                "h = self.cell(x[:, t], h)  # or: out, state = self.rnn(x[:, t:t + 1], state)",
            )
        ],
        unless_learned(j, 0.6 if others else 0.95),
    )  # fmt: skip


def state_detached(j: J) -> Iterator[Finding]:
    """No gradient goes from any step to the one before, since the state is detached between."""
    yield from _cut(j, "state detached", every_step=True)


def _cut(j: J, issue: str, *, every_step: bool) -> Iterator[Finding]:
    """Yield a finding where gradients end at a detached state within the sequence."""
    e = j.evidence
    cuts = [
        f for f in e.flow.layers
        if f.cut_at is not None and f.reach < len(f.h) and (f.reach == 1) is every_step
    ]  # fmt: skip
    if not cuts:
        return
    layer = min(cuts, key=lambda f: f.reach)
    n, T = layer.reach, len(layer.h)
    states = " and ".join(layer.cut_states)
    prior = 0.9 if every_step else 0.65
    p, weighed = helped(j, Change(detach=False), "gradients that detach() does not cut", prior)
    reach = "from no step to the one before" if every_step else f"{n} of {T} steps back"
    yield Finding(
        issue,
        f"{layer.name} is called {layer.calls} times, and {states} come without their gradient: it "
        f"goes {reach}, so that what is farther cannot be learned.",
        {"reach": float(n), "steps": float(T)},
        [
            Remedy(
                "", "", "detach the state between batches that continue each other only, not within"
                " a sequence",
                "h = self.cell(x[:, t], h)  # no h.detach() in the loop over steps",
            ),
            Remedy("", "", "or fewer cuts", f"every = {4 * n}  # steps between two detach()"),
        ][: 1 if every_step else 2],
        p,
        weighed,
    )  # fmt: skip


def truncation_too_short(j: J) -> Iterator[Finding]:
    """Sequences are cut shorter than the distance over which the task depends."""
    e = j.evidence
    window = int(e.settings.get("window") or e.sample.inputs.shape[1 - e.row_axis])
    yield from _cut(j, "truncation too short", every_step=False)
    if e.distance is None:
        yield from _truncated_before_memory_ends(j, window)
        return
    if window >= e.distance:  # the first step of a row is said to be as far as the row is long
        return
    yield Finding(
        "truncation too short",
        f"the task depends on inputs {e.distance} steps before, and gradients flow through "
        f"{window} steps only: what links them cannot be learned.",
        {"window": float(window), "distance": float(e.distance)},
        [
            Remedy("window", 2 * e.distance, "sequences in which both ends lie",
                   f"x = series.reshape(-1, {2 * e.distance}, series.shape[-1])  # longer rows")
        ],
        0.94,
    )  # fmt: skip


def _truncated_before_memory_ends(j: J, window: int) -> Iterator[Finding]:
    """Yield a finding where a network that carries its state uses far more than its window."""
    e, matters = j.evidence, j.thresholds.matters
    if not e.settings.get("window") or not not_learned_well(j):
        return
    with suppress(OstinatoError, RuntimeError):
        span = memory_span(e.copy, e.sample, loss=e.loss, share=matters)
        if span.given == window and span.distance >= 2 * window:
            until = span.distance if span.is_bounded else span.window
            yield Finding(
                "truncation too short",
                f"inputs {until} steps before still have {matters:.0%} of the largest effect on "
                f"the output, and gradients flow through {window} steps only.",
                {"window": float(window), "distance": float(until)},
                [Remedy("window", 4 * window, "sequences in which both ends lie")],
                0.56,
            )


CAUSES: tuple[Cause[Evidence], ...] = (
    Cause(
        "future read",
        "The network reads what it is to predict, as a bidirectional one does.",
        future_read,
    ),
    Cause(
        "truncation too short",
        "Rows are shorter than the distance over which the task depends.",
        truncation_too_short,
    ),
    Cause(
        "state not carried",
        "Steps, or rows that continue each other, each start from zeros.",
        state_not_carried,
    ),
    Cause("state detached", "No gradient goes from a step to the one before.", state_detached),
)
