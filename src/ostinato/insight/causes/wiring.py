"""Causes that lie in how modules, losses, rows and steps are put together, mostly proven by a test.

Each test changes what must not matter, and looks whether it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.insight.causes.common import J, not_learned_well, unless_learned
from ostinato.insight.causes.steps import shift_of_targets
from ostinato.insight.evidence import Evidence, relative_change
from ostinato.insight.losses import (
    Criterion,
    Stand,
    aligned,
    copied,
    is_simplex,
    main_output,
    replaced_output,
)
from ostinato.insight.samples import mean_loss
from ostinato.insight.trials import remove_dropout
from ostinato.networks.seq2seq import EncoderDecoder
from ostinato.training.evaluation import Sample, eval_mode
from ostinato.training.findings import Cause, Finding, Remedy, listed
from ostinato.training.free_causes import FREE

MORE_PADDING = 3
"""Steps by which padding is extended, which must not change anything."""


def loss_given(e: Evidence, scores: Tensor) -> float:
    """Return the loss that other scores would have; NaN if the loss refuses them."""
    if e.loss is None or e.output is None or e.scores is None:
        return math.nan
    stand = Stand(e.copy, replaced_output(e.output, main_output(e.output), scores))
    with suppress(Exception), torch.no_grad():
        x = e.sample.encode(e.sample.inputs)
        return float(e.loss(stand, x, e.sample.targets, e.sample.lengths))
    return math.nan


def softmax_before_cross_entropy(j: J) -> Iterator[Finding]:
    """The outputs are probabilities, and the loss applies softmax again."""
    e = j.evidence
    if e.loss is None or e.scores is None or not isinstance(e.sample.targets, Tensor):
        return
    pair = aligned(e.scores, e.sample.targets)
    if pair is None or not is_simplex(e.scores, pair[2]):
        return
    # A softmax does not change when a number is added to all of its inputs.
    before, shifted = loss_given(e, e.scores), loss_given(e, e.scores + 3.0)
    if not math.isfinite(before) or abs(shifted - before) > 1e-4 * (1 + abs(before)):
        return
    K = e.scores.shape[pair[2]]
    lowest = math.log(math.e + K - 1) - 1
    yield Finding(
        "softmax before cross-entropy",
        f"the outputs are probabilities (they sum to 1), and the loss does not change when 3 is "
        f"added to all of them: it applies softmax once more. With {K} classes it cannot fall "
        f"below {lowest:.3g}, and its gradients are small.",
        {"lowest": lowest, "shifted": shifted - before},
        [
            Remedy(
                "", "", "let the module return scores (logits), and apply softmax to predict only",
                "return self.head(h)  # without softmax; CrossEntropyLoss applies it",
            )
        ],
        0.97,
    )  # fmt: skip


def sigmoid_before_logits(j: J) -> Iterator[Finding]:
    """The outputs are probabilities, and the loss applies the sigmoid again."""
    e = j.evidence
    if e.loss is None or e.scores is None or e.kind != "probability":
        return
    scores = e.scores
    if scores.min() < 0 or scores.max() > 1 or scores.dim() == 0:
        return
    criterion = e.loss.criterion if isinstance(e.loss, Criterion) else None
    known = isinstance(criterion, nn.BCEWithLogitsLoss) or (
        criterion is F.binary_cross_entropy_with_logits
    )
    if not known:
        # Of logits 0 the loss is log 2, and it grows along a line: not so of probabilities.
        zero, far, farther = (loss_given(e, torch.full_like(scores, v)) for v in (0.0, 40.0, 80.0))
        grows_linearly = math.isfinite(far) and abs(farther - 2 * far) < 0.02 * abs(far) + 1e-6
        if not (abs(zero - math.log(2)) < 0.02 and grows_linearly):
            return
    yield Finding(
        "sigmoid before BCE with logits",
        f"the outputs lie between {float(scores.min()):.3g} and {float(scores.max()):.3g}, and the "
        "loss applies the sigmoid once more: it takes them for logits, so that each probability "
        "lies between 0.5 and 0.73.",
        {"lowest": float(scores.min()), "highest": float(scores.max())},
        [
            Remedy(
                "", "", "let the module return logits, and apply the sigmoid to predict only",
                "return self.head(h)  # without sigmoid; BCEWithLogitsLoss applies it",
            )
        ],
        0.97,
    )  # fmt: skip


def shapes_broadcast(j: J) -> Iterator[Finding]:
    """Outputs and targets of different shapes, of which the loss compares every pair."""
    e = j.evidence
    scores, y = e.scores, e.sample.targets
    if e.loss is None or scores is None or not isinstance(y, Tensor):
        return
    if scores.shape == y.shape or scores.numel() != y.numel() or scores.numel() < 4:
        return
    with suppress(RuntimeError):
        whole, own = torch.broadcast_tensors(  # type: ignore[no-untyped-call]
            scores, y.to(scores.dtype)
        )
        kept = loss_given(e, scores)
        for criterion in (F.mse_loss, F.l1_loss, F.smooth_l1_loss):
            paired = float(criterion(scores.reshape(-1), y.reshape(-1).to(scores.dtype)))
            every = float(criterion(whole, own))
            near = abs(every - kept) < 1e-4 * (1e-9 + abs(kept))
            if whole.numel() > y.numel() and near and abs(paired - every) > 1e-3 * abs(every):
                yield Finding(
                    "shapes broadcast",
                    f"the outputs have shape {tuple(scores.shape)}, the targets {tuple(y.shape)}: "
                    f"the loss compares all {whole.numel():,} pairs instead of {y.numel():,}, and "
                    "is lowest where all outputs are equal.",
                    {"pairs": float(whole.numel()), "expected": float(y.numel())},
                    [
                        Remedy(
                            "", "", "give both the same shape",
                            f"loss = criterion(output.reshape(y.shape), y)  # {tuple(y.shape)}",
                        )
                    ],
                    0.96,
                )  # fmt: skip
                return


# Rows and calls


def _perturbed_rows(e: Evidence) -> tuple[Tensor, int] | None:
    """Return the relative change of each row's output, and the row that was changed."""
    B, scores = len(e.rows), e.scores
    if B < 3 or scores is None:
        return None
    axes = [k for k in range(scores.dim()) if scores.shape[k] == B]
    j = B // 2
    order = torch.arange(B)
    order[j] = (j + 1 + B // 3) % B
    changed = e.taken(e.sample, order, inputs_only=True)
    x = changed.inputs
    if x.is_floating_point():  # another row may be equal
        index = [slice(None)] * x.dim()
        index[e.row_axis] = slice(j, j + 1)
        x = x.clone()
        x[tuple(index)] = x[tuple(index)].flip(1 - e.row_axis) + 0.1 * x.std().nan_to_num(1.0)
        changed = changed._replace(inputs=x)
    new = e.scores_of(changed)
    if not axes or new is None or new.shape != scores.shape:
        return None
    change = relative_change(new, scores).nan_to_num(0, 0, 0)
    by_axis = [change.movedim(k, 0).reshape(B, -1).amax(1) for k in axes]
    others = torch.arange(B) != j
    best = min(by_axis, key=lambda rows: float(rows[others].max()))
    return best, j


def _is_random(e: Evidence) -> bool:
    """Return whether outputs differ from call to call by chance, though in eval mode."""
    with torch.random.fork_rng(devices=[]):
        outputs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            outputs.append(e.scores_of(e.sample))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        again = e.scores_of(e.sample)
    if outputs[0] is None or outputs[1] is None or again is None:
        return False
    return not torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], again)


def state_leaks(j: J) -> Iterator[Finding]:
    """What a module returns depends on its previous calls."""
    e = j.evidence
    if e.scores is None:
        return
    change = e.repeat_change
    if change < j.thresholds.changed or _is_random(e):
        return
    by_step = e.scores.dim() >= 3
    yield Finding(
        "state leaks between batches",
        f"the same batch, given twice in eval mode with another between, has outputs that differ "
        f"by {change:.2g} of their size: the module keeps its state from call to call, so that a "
        "row begins with the state of whichever row stood in its place before.",
        {"change": change},
        [
            Remedy(
                "", "", "start each batch from zeros; or pass the state and return it, where a "
                "batch continues the one before",
                "h, state = self.rnn(x)  # no self.hidden as its initial state",
            )
        ],
        unless_learned(j, 0.93) if by_step else 0.93 if not_learned_well(j) else 0.55,
    )  # fmt: skip


def batch_and_time_swapped(j: J) -> Iterator[Finding]:
    """The recurrence runs over the rows of the batch."""
    e = j.evidence
    if e.repeat_change >= j.thresholds.changed:
        return  # then nothing can be told from changes
    found = _perturbed_rows(e)
    if found is None:
        return
    change, row = found
    mixed = [k for k in range(len(change)) if k != row and change[k] > j.thresholds.changed]
    if not mixed:
        return
    later = all(k > row for k in mixed)
    how = "all of them later ones, as if rows were steps" if later else "before and after it"
    layers = [n for n, m in e.network.named_modules() if isinstance(m, nn.RNNBase)]
    name = layers[0] if layers else "rnn"
    kind = type(dict(e.network.named_modules())[name]).__name__ if layers else "LSTM"
    first = any(getattr(m, "batch_first", False) for m in e.network.modules())
    code = (
        "x = x.transpose(0, 1)  # (B, T, I), as batch_first=True expects"
        if first
        else f"self.{name} = nn.{kind}(..., batch_first=True)  # x is (B, T, I)"
    )
    yield Finding(
        "batch and time swapped",
        f"changing row {row} alone changes the outputs of {len(mixed)} other rows, {how}: the "
        "recurrence runs over the batch instead of over time.",
        {"rows": float(len(mixed))},
        [Remedy("", "", "give the recurrent layers time and batch in their order", code)],
        unless_learned(j, 0.96 if later or layers else 0.8),
    )


# Padding


def _extended(e: Evidence) -> Sample | None:
    """Return the sample with some more steps of padding; None if it has none."""
    sample, ends = e.sample, e.ends
    x = sample.inputs
    T = x.shape[1 - e.row_axis] if x.dim() > 1 else 0
    short = int(ends.argmin())
    if T < 2 or int(ends[short]) >= T or e.row_axis:
        return None
    pad = x[short : short + 1, -1:]
    x = torch.cat([x, pad.expand(len(x), MORE_PADDING, *x.shape[2:])], 1)
    y = sample.targets
    if isinstance(y, Tensor) and y.dim() > 1 and y.shape[:2] == sample.inputs.shape[:2]:
        more = y[short : short + 1, -1:].expand(len(y), MORE_PADDING, *y.shape[2:])
        y = torch.cat([y, more], 1)
    return sample._replace(inputs=x, targets=y)


def padding_read(j: J) -> Iterator[Finding]:
    """Outputs of a row change with the padding behind it, or their gradient goes there."""
    e = j.evidence
    T = e.sample.inputs.shape[1 - e.row_axis]
    share, p = 1 - float(e.ends.double().mean()) / T, 0.94
    rows, shown = _changed_by_padding(e)
    values = {"rows": float(rows), "change": shown, "padding": share}
    if rows:
        told = (
            f"{MORE_PADDING} more steps of it change the outputs of {rows} rows, by {shown:.2g} of "
            "their size"
        )
        p = 0.94 if e.sample.lengths is not None else 0.85
    else:  # after many steps of padding, more of it changes nothing
        beyond = max((layer.padding for layer in e.flow.layers), default=0.0)
        if beyond < j.thresholds.beyond:
            return
        told = f"{beyond:.0%} of the gradient of the loss goes to steps of it"
        values["beyond"] = beyond
    seen = "" if e.sample.lengths is not None else ", as trailing zeros show"
    yield Finding(
        "padding read",
        f"{float((e.ends < T).double().mean()):.0%} of the rows end in padding ({share:.0%} of all "
        f"steps{seen}), and {told}: the last step is read from padding.",
        values,
        [
            Remedy(
                "", "", "read the last true step of each row",
                "h_last = h[torch.arange(len(h)), lengths - 1]  # not h[:, -1]",
            ),
            Remedy(
                "", "", "or pack the rows, so that padding is not computed",
                "packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True,"
                " enforce_sorted=False)",
            ),
        ],
        unless_learned(j, p, proven=True),
    )  # fmt: skip


def _changed_by_padding(e: Evidence) -> tuple[int, float]:
    """Return the number of rows whose outputs more padding changes, and by how much at most."""
    scores, extended = e.scores, _extended(e)
    if scores is None or extended is None or e.repeat_change >= e.thresholds.changed:
        return 0, 0.0
    with suppress(Exception):
        new = e.scores_of(extended)
        if new is None or new.dim() != scores.dim() or len(new) != len(scores):
            return 0, 0.0
        T = e.sample.inputs.shape[1]
        if new.dim() > 1 and new.shape[1] == T + MORE_PADDING and scores.shape[1] == T:
            inside = torch.arange(T)[None] < e.ends[:, None]
            change = relative_change(new[:, :T], scores)
            change = change.reshape(*change.shape[:2], -1).amax(-1).cpu() * inside
            change = change.amax(1)
        elif new.shape == scores.shape:
            change = relative_change(new, scores).reshape(len(new), -1).amax(1).cpu()
        else:
            return 0, 0.0
        return int((change > e.thresholds.changed).sum()), float(change.max())
    return 0, 0.0


def padding_in_loss(j: J) -> Iterator[Finding]:
    """Steps of padding count in the loss."""
    e = j.evidence
    y = e.sample.targets
    extended = _extended(e)
    if extended is None or not isinstance(y, Tensor) or extended.targets.shape == y.shape:
        return
    if e.repeat_change >= j.thresholds.changed:
        return
    with suppress(Exception), torch.no_grad():
        before = float(mean_loss(e.copy, e.sample, e.loss))
        after = float(mean_loss(e.copy, extended, e.loss))
        change = abs(after - before) / (1e-9 + abs(before))
        if change > 10 * j.thresholds.changed:
            share = 1 - float(e.ends.double().mean()) / e.sample.inputs.shape[1]
            yield Finding(
                "padding in the loss",
                f"{MORE_PADDING} more steps of padding change the loss from {before:.4g} to "
                f"{after:.4g}: the {share:.0%} of all steps that are padding count as if they were "
                "data, and are easy to predict.",
                {"change": change, "padding": share},
                [
                    Remedy(
                        "", "", "leave padding out of the loss",
                        "y[torch.arange(T) >= lengths[:, None]] = -100  # ignored by "
                        "cross_entropy; or loss[mask].mean()",
                    )
                ],
                0.86,
            )  # fmt: skip


# Gradients and parameters


def no_gradient(j: J) -> Iterator[Finding]:
    """Gradients of the loss on the data do not reach parameters; see `free_causes.no_gradient`."""
    names = [name for name, g in j.evidence.gradients.items() if g is None]
    if not names:
        return
    recurrent = [n for n in names if "weight_hh" in n or "weight_ih" in n]
    total = len(list(j.evidence.network.parameters()))
    yield Finding(
        "no gradient",
        f"{len(names)} of {total} parameters require a gradient, and none reaches them from the "
        f"loss: {listed(names)}. Something between cuts the graph (detach, .data, torch.no_grad, "
        ".item, argmax), or they are not used.",
        {"parameters": float(len(names)), "recurrent": float(len(recurrent))},
        [
            Remedy("", "", "do not cut the graph between these parameters and the loss",
                   "h = h  # not h.detach(), h.data, or a result of torch.no_grad()"),
        ],
        unless_learned(j, 0.97 if recurrent else 0.8, proven=bool(recurrent)),
    )  # fmt: skip


def unregistered(j: J) -> Iterator[Finding]:
    """Modules in a plain list or dict, whose parameters PyTorch does not know."""
    e = j.evidence
    if not e.unknown:
        return
    place, total = next(iter(e.unknown)), sum(e.unknown.values())
    yield Finding(
        "parameters not in the optimizer",
        f"{total} parameters are of modules in plain lists or dicts ({listed(list(e.unknown))}), "
        "which PyTorch does not look into: model.parameters() lacks them, and no optimizer changes "
        "them.",
        {"parameters": float(total)},
        [
            Remedy(
                "", "", "keep them in a list that PyTorch knows",
                f"self.{place.rpartition('.')[2]} = nn.ModuleList(...)  # or nn.ModuleDict",
            )
        ],
        unless_learned(j, 0.96, proven=True),
    )  # fmt: skip


def free_running_gap(j: J) -> Iterator[Finding]:
    """The network fails where it is fed with its own predictions."""
    e = j.evidence
    yield from _written_apart(j)
    yield from _fed_with_the_truth(j)
    free, limit = e.free_running, e.loss_now
    if math.isnan(free) and j.improvement > j.thresholds.good_improvement:
        free, limit = _fed_back(e), e.constant  # errors grow with steps, but not without end
    factor = free / e.loss_now if e.loss_now > 0 else math.nan
    if free > j.thresholds.free_running * limit:
        yield Finding(
            "teacher forcing gap",
            f"fed with its own predictions the network has a loss of {free:.3g}, "
            f"{factor:.1f} times that with the true past ({e.loss_now:.3g}): it never learned to "
            "go on from its own errors.",
            {"factor": factor, "free_running": free},
            [
                Remedy("", "", "feed its own predictions in some steps of training",
                       "x_t = y_t if torch.rand(()) < 0.75 else prediction.detach()"),
            ],
            0.8,
        )  # fmt: skip


def _fed_with_the_truth(j: J) -> Iterator[Finding]:
    """Yield a finding where a module that drops nothing has a far lower loss in training mode.

    It reads the true past then, and its own predictions in evaluation mode.
    """
    e = j.evidence
    if e.loss is None or any("Norm" in type(m).__name__ for m in e.network.modules()):
        return
    network = copied(e.network)
    remove_dropout(network)
    with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
        losses = [
            float(mean_loss(network.train(training), e.sample, e.loss))
            for training in (True, False)
        ]
        if losses[1] > j.thresholds.free_running * losses[0] and losses[0] < 0.7 * e.constant:
            yield Finding(
                "teacher forcing gap",
                f"on the same data the loss is {losses[0]:.3g} in training mode and "
                f"{losses[1]:.3g} in evaluation mode, without dropout: in training the module is "
                "given something else, as a true past, which it relies on.",
                {"training": losses[0], "evaluation": losses[1]},
                [
                    Remedy("", "", "feed its own predictions in some steps of training",
                           "x_t = y_t if torch.rand(()) < 0.75 else prediction.detach()"),
                ],
                0.93,
            )  # fmt: skip


def _written_apart(j: J) -> Iterator[Finding]:
    """Yield a finding where a decoder writes far fewer right tokens after its own than after true.

    Tokens are compared step by step, the likeliest at each.
    """
    e = j.evidence
    network, targets = e.copy, e.sample.targets
    if not isinstance(network, EncoderDecoder) or e.loss is not None:
        return
    B, T = targets.shape
    lengths = e.sample.more.get("target_lengths")
    ends = torch.full((B,), T) if lengths is None else torch.as_tensor(lengths)
    counts = torch.arange(T)[None] < ends[:, None]
    right = []
    with eval_mode(network), torch.no_grad():
        encoded, first = network.start(e.sample.encode(e.sample.inputs), e.sample.lengths)
        for own in (False, True):
            state, token = first, torch.full_like(targets[:, 0], network.decoder.begin)
            written = []
            for t in range(T):
                log_p, state, _ = network.step(token, encoded, state)
                written.append(log_p.argmax(-1))
                token = targets[:, t] if not own else written[-1]
                token = token.masked_fill(token == network.decoder.end, 0)
            right.append(float((torch.stack(written, 1) == targets).cpu()[counts].double().mean()))
    if right[0] > j.thresholds.right and right[0] > j.thresholds.free_running * right[1]:
        yield Finding(
            "teacher forcing gap",
            f"after true tokens {right[0]:.0%} of the next ones are right, after its own "
            f"{right[1]:.0%}: it never learned to go on from its own errors.",
            {"forced": right[0], "free_running": right[1]},
            [Remedy("sampled", 0.25, "its own tokens in some steps of training")],
            0.7,
        )


def _fed_back(e: Evidence, most: int = 16) -> float:
    """Return the loss of a network that predicts the next step of a series of numbers, fed back."""
    x, y, scores = e.sample.inputs, e.sample.targets, e.scores
    if scores is None or e.loss is None or not isinstance(y, Tensor) or not x.is_floating_point():
        return math.nan
    if e.row_axis or x.dim() != 3 or not x.shape == y.shape == scores.shape or x.shape[1] < 8:
        return math.nan
    if shift_of_targets(x, y) != 1 or e.repeat_change >= e.thresholds.changed:
        return math.nan
    T = x.shape[1]
    begin = max(T // 2, T - most)
    series, written = x[:, : begin + 1], scores.clone()
    for t in range(begin, T):
        new = e.scores_of(e.sample._replace(inputs=series, targets=y[:, : t + 1], lengths=None))
        if new is None or new.shape[1] != t + 1:
            return math.nan
        written[:, t] = new[:, -1]
        series = torch.cat([series, new[:, -1:]], 1)
    last = e.sample._replace(inputs=x[:, begin:], targets=y[:, begin:], lengths=None)
    with suppress(Exception), torch.no_grad():
        return float(e.loss(Stand(e.copy, written[:, begin:]), last.inputs, last.targets, None))
    return math.nan


CAUSES: tuple[Cause[Evidence], ...] = (
    Cause(
        "softmax before cross-entropy", "Softmax is applied twice.", softmax_before_cross_entropy
    ),
    Cause("sigmoid before BCE with logits", "The sigmoid is applied twice.", sigmoid_before_logits),
    Cause(
        "shapes broadcast",
        "Output and target have shapes of which all pairs are compared.",
        shapes_broadcast,
    ),
    Cause(
        "batch and time swapped",
        "The recurrence runs over the rows of the batch.",
        batch_and_time_swapped,
    ),
    Cause(
        "state leaks between batches", "A row starts from the state of another row.", state_leaks
    ),
    FREE["no gradient"].also(no_gradient),
    FREE["parameters not in the optimizer"].also(unregistered),
    Cause("padding read", "The last step is read from padding.", padding_read),
    Cause("padding in the loss", "Padding counts in the loss.", padding_in_loss),
    Cause(
        "teacher forcing gap",
        "The network fails where it is fed with its own predictions.",
        free_running_gap,
    ),
)
