"""Causes that lie in the data: values, scales, classes, labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.insight.causes.common import J, helped, not_learned_well, unless_learned
from ostinato.insight.evidence import Evidence, Features, positions
from ostinato.insight.trials import Change
from ostinato.training.findings import Cause, Finding, Remedy
from ostinato.training.thresholds import Thresholds

_SCALE_INPUTS = Remedy(
    "", "", "inputs of mean 0 and standard deviation 1, by the figures of the training data",
    "x = (x - x.mean((0, 1))) / x.std((0, 1))",
)  # fmt: skip
_SCALE_TARGETS = Remedy(
    "", "", "targets of mean 0 and standard deviation 1; undo it on predictions",
    "y = (y - y.mean(0)) / y.std(0)",
)  # fmt: skip


def not_finite(j: J) -> Iterator[Finding]:
    """NaN or infinity in inputs or targets."""
    sample = j.evidence.sample
    if j.evidence.settings and math.isfinite(j.evidence.loss_now):
        return  # estimators take missing values where they can, and refuse others
    for name, tensor in (("inputs", sample.inputs), ("targets", sample.targets)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        bad, letter = ~tensor.isfinite(), "x" if name == "inputs" else "y"
        if name == "inputs" and sample.lengths is not None and tensor.dim() > 1:
            inside = torch.arange(tensor.shape[1])[None] < j.evidence.ends[:, None]
            bad &= inside.view(*inside.shape, *[1] * (tensor.dim() - 2)).to(bad.device)
        count = int(bad.sum())
        if count:
            rows = int(bad.flatten(1).any(1).sum()) if bad.dim() > 1 else count
            yield Finding(
                "not finite in the data",
                f"{count:,} of {tensor.numel():,} {name}, in {rows:,} of {len(bad):,} rows, are "
                f"NaN or infinite: {name}{f', {name}'.join(positions(bad))}.",
                {"count": float(count), "rows": float(rows)},
                [
                    Remedy(
                        "", "", f"fill or leave out what is missing in the {name}",
                        f"{letter} = {letter}[torch.isfinite({letter}.flatten(1)).all(1)]",
                    )
                ],
                0.99,
            )  # fmt: skip


def _extent(features: Features) -> NDArray[np.float64]:
    """Return the usual size of each feature: outliers, a cause of their own, do not count."""
    return np.where(features.far > 0, features.usual, features.sizes)


def _unscaled(features: Features | None, limit: float) -> str:
    """Return what is wrong with the scale of features that vary; empty if nothing is."""
    if features is None or features.constant.all():
        return ""
    sizes = np.where(features.constant, 0, _extent(features))
    k, total = int(sizes.argmax()), float(np.sqrt((sizes**2).sum()))
    which = f"feature {k} has " if len(sizes) > 1 else ""
    if sizes[k] > limit:
        return f"{which}mean {features.mean[k]:.3g} and standard deviation {features.std[k]:.3g}"
    # Many features that are each small, as of one-hot vectors, are not small together.
    if total < 1 / limit:
        return f"all are small: {which}standard deviation {features.std[k]:.2g}"
    return ""


def inputs_not_scaled(j: J) -> Iterator[Finding]:
    """Inputs of the recurrent layers far from the scale that weights are initialised for."""
    e, t = j.evidence, j.thresholds
    entering = e.entering or e.inputs
    wrong = _unscaled(entering, t.scale)
    if not wrong or entering is None or not e.sample.inputs.is_floating_point():
        return
    targets_too = bool(_unscaled(e.numbers, t.scale))
    change = Change(standardized="inputs and targets" if targets_too else "inputs")
    p, weighed = helped(j, change, "standardised inputs", 0.72, without=_base(targets_too))
    yield Finding(
        "inputs not scaled",
        f"of what enters the recurrent layers {wrong}; weights are initialised for numbers of "
        "about 1, and units saturate or barely react.",
        {"size": float(_extent(entering).max())},
        [_SCALE_INPUTS],
        p,
        weighed,
    )


def _base(both: bool) -> Change:
    return Change(standardized="targets") if both else Change()


def targets_not_scaled(j: J) -> Iterator[Finding]:
    """Numbers to predict far from the scale of the output."""
    e, t = j.evidence, j.thresholds
    wrong = _unscaled(e.numbers, t.scale)
    if not wrong or e.numbers is None or e.settings:  # estimators scale targets themselves
        return
    inputs_too = bool(_unscaled(e.entering or e.inputs, t.scale))
    inputs_too &= e.sample.inputs.is_floating_point()
    change = Change(standardized="inputs and targets" if inputs_too else "targets")
    without = Change(standardized="inputs") if inputs_too else Change()
    p, weighed = helped(j, change, "standardised targets", 0.72, without=without)
    yield Finding(
        "targets not scaled",
        f"of the targets {wrong}; an output begins near 0 and is moved by a step only as far as "
        "the learning rate.",
        {"size": float(_extent(e.numbers).max())},
        [_SCALE_TARGETS],
        p,
        weighed,
    )


def _is_binary(j: J) -> bool:
    values = j.evidence.values
    return values is not None and bool(((values == 0) | (values == 1)).all())


def constant_features(j: J) -> Iterator[Finding]:
    """Input features that never change."""
    e, t = j.evidence, j.thresholds
    if e.inputs is None or e.values is None or len(e.values) < 8 or _is_binary(j):
        return
    constant = np.flatnonzero(e.inputs.constant)
    F = len(e.inputs.std)
    if len(constant) / F <= t.constant:
        return
    names = ", ".join(map(str, constant[:6]))
    not_zero = bool((e.inputs.mean[constant] != 0).any())  # as empty borders of pictures are
    yield Finding(
        "constant feature",
        f"{len(constant)} of {F} input features have the same value at every step of every row "
        f"(numbers {names}): they tell nothing.",
        {"constant": float(len(constant)), "features": float(F)},
        [
            Remedy(
                "", "", "leave them out, or see why they are constant where the data are read",
                f"x = x[..., x.flatten(0, 1).std(0) > 0]  # {F - len(constant)} of {F} features",
            )
        ],
        0.96
        if len(constant) == F
        else unless_learned(j, 0.96 if len(constant) / F >= t.lost else 0.62, proven=not_zero),
    )  # fmt: skip


def duplicate_features(j: J) -> Iterator[Finding]:
    """Input features that are copies of each other."""
    e, t = j.evidence, j.thresholds
    if e.inputs is None or e.values is None or _is_binary(j):
        return
    varying = np.flatnonzero(~e.inputs.constant)
    if len(e.values) < 8 or not 1 < len(varying) <= 512:
        return
    v = e.values[:10_000].double().cpu().numpy()[:, varying]
    r = np.corrcoef(np.nan_to_num(v), rowvar=False)
    pairs = [(a, b) for a, b in np.argwhere(np.triu(np.abs(r), 1) > t.duplicate).tolist()]
    if pairs:
        a, b = pairs[0]
        share = len({a for pair in pairs for a in pair}) / e.values.shape[1]
        yield Finding(
            "duplicate features",
            f"{len(pairs)} pairs of input features are copies of each other: features "
            f"{varying[a]} and {varying[b]} have a correlation of {r[a, b]:.5f}.",
            {"pairs": float(len(pairs)), "correlation": float(r[a, b])},
            [
                Remedy(
                    "", "", "leave one of them out, or see whether another was meant",
                    f"x = x[..., [k for k in range(x.shape[-1]) if k != {varying[b]}]]",
                )
            ],
            unless_learned(j, 0.96 if share >= t.lost else 0.6, proven=True),
        )  # fmt: skip


def outliers(j: J) -> Iterator[Finding]:
    """A few values far from all others."""
    e, t = j.evidence, j.thresholds
    for name, features in (("inputs", e.inputs), ("targets", e.numbers)):
        if features is None or not len(features.far) or (name == "inputs" and _is_binary(j)):
            continue
        # The outliers of a feature decide its scale where they are few and far.
        times = np.clip(features.span / t.outlier, 1, 10)
        few = (features.far > 0) & (features.far <= t.outlier_share * times)
        if not few.any():
            continue
        k = int(np.where(few, features.span, 0).argmax())
        which = f"feature {k} of the {name}" if len(features.far) > 1 else f"the {name}"
        letter = "x" if name == "inputs" else "y"
        weight = float(features.weight[k])
        p, what = _by_span(float(features.span[k]) / t.outlier), "decide the scale"
        decide = weight > t.outlier_weight
        if decide:
            p, what = 0.96, f"make {weight:.1%} of the variance, and decide the scale"
        yield Finding(
            "outliers",
            f"{features.far[k]:.2%} of {which} lie more than {t.outlier:g} standard deviations "
            f"(robust) from the median, {features.span[k]:.3g} at most: they {what}, and "
            "single steps of training.",
            {"share": float(features.far[k]), "span": float(features.span[k]), "weight": weight},
            [
                Remedy(
                    "", "", "limit them, or see how they came about",
                    f"{letter} = {letter}.clamp({letter}.quantile(0.001), "
                    f"{letter}.quantile(0.999))",
                ),
                Remedy("clip_norm", 1, "no step that a single row decides",
                       "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"),
            ],
            unless_learned(j, p, proven=decide and name == "targets"),
        )  # fmt: skip


def _by_span(times: float) -> float:
    """Return the probability by how far the farthest is beyond the limit."""
    return 0.83 if times > 5 else 0.55 if times > 2.5 else 0.4


def class_imbalance(j: J) -> Iterator[Finding]:
    """One class is so frequent that the others are ignored."""
    e, t = j.evidence, j.thresholds
    if e.classes is None or len(e.classes[0]) < 8:
        return
    true, predicted = e.classes
    apart = e.held_out_classes
    every = true if apart is None else np.concatenate([true, apart[0]])
    counts = np.bincount(every)
    share, K = counts.max() / len(every), int((counts > 0).sum())
    top = int(counts.argmax())
    if apart is not None and bool((apart[0] != top).any()):
        true, predicted = apart  # those trained on may have been learned by heart
    others = true != top
    recall = float((predicted[others] == true[others]).mean()) if others.any() else 1.0
    if K < 2 or share < min(t.imbalance, max(0.5, 3 / K)):
        return
    ignored = recall <= t.recall
    of_rows = e.kind == "category" or e.wide.targets.numel() == e.count  # as notes of music are not
    poor = recall <= t.poor_recall and others.sum() >= 8 and of_rows and not_learned_well(j)
    if not ignored and not poor:
        return
    same = float((predicted == top).mean())
    weights = "len(y) / counts.clamp(min=1) / len(counts)"
    code = f"loss = nn.CrossEntropyLoss(weight={weights})  # counts = torch.bincount(y)"
    if e.kind == "probability":
        code = "loss = nn.BCEWithLogitsLoss(pos_weight=(1 - y).sum() / y.sum())"
    p, weighed = 0.86 if same >= t.one_class and share >= t.imbalance else 0.66, list[str]()
    p = p if ignored else 0.55
    if e.was_trained and p > 0.8:
        runs = [e.trial(Change(rate=f)) for f in (1.0, 10.0)]
        others = [run.one_class for run in runs if run is not None and run.share > t.helps]
        if others and min(others) >= t.one_class:
            p = 0.96
            weighed = ["+ short runs that lower the loss predict that class alone, too"]
    yield Finding(
        "class imbalance",
        f"{share:.0%} of the targets are of class {top}, and {same:.0%} of the predictions; of the "
        f"rows of other classes {recall:.0%} are recognised. "
        + "To predict always the same is nearly as good as the best." * ignored,
        {"share": float(share), "recall": recall, "predicted": same},
        [
            Remedy("", "", "a loss that weighs classes by how rare they are", code),
            Remedy("", "", "draw rare classes more often, or give more rows of them",
                   "DataLoader(data, sampler=torch.utils.data.WeightedRandomSampler(w, len(w)))"),
        ],
        p,
        weighed,
    )  # fmt: skip


def labels_unrelated(j: J) -> Iterator[Finding]:
    """What was learned is the training rows themselves: labels have nothing to do with inputs."""
    e, t = j.evidence, j.thresholds
    remedies = [
        Remedy(
            "", "", "see whether rows and labels belong together where they are read, sorted, "
            "joined or shuffled",
            "order = torch.randperm(len(x)); x, y = x[order], y[order]  # the same order for both",
        )
    ]  # fmt: skip
    if e.held_out is not None:
        # A network of the best validation loss may be one from before it learned rows by heart.
        trained, held_out = max(e.improvement, _at_the_end(e, e.constant)), e.held_out_improvement
        chance = e.held_out_deviations
        by_heart = trained > t.generalization_gap and held_out <= _by_chance(chance, t)
        if by_heart and not chance > t.above_chance:
            p, weighed = _related(j, chance)
            yield Finding(
                "labels unrelated to inputs",
                f"in training the loss is {trained:.0%} below that of a constant prediction, on "
                f"held-out data {_below(held_out)}, and predictions are no better than chance "
                "there: the rows were learned by heart, and nothing that holds for others.",
                {"improvement": trained, "held_out_improvement": held_out, "deviations": chance},
                remedies,
                p,
                weighed,
            )
            return
    evaluations = j.observed.evaluations
    first = evaluations[0][1] if evaluations else math.nan
    constant = e.constant if math.isfinite(e.constant) else first
    trained = max(e.improvement, _at_the_end(e, constant))  # data of a run may be held out
    if len(evaluations) >= 3 and trained > t.generalization_gap:
        best = min(loss for _, loss in evaluations)
        if best > 0.98 * constant and first - best < 0.1 * constant:
            p, weighed = _related(j, 0.0)
            yield Finding(
                "labels unrelated to inputs",
                f"the validation loss fell from {first:.3g} to {best:.3g} at best, about that of a "
                f"constant prediction ({constant:.3g}), while the loss of training fell "
                f"{trained:.0%} below it: its rows were learned by heart.",
                {"best": best, "constant": constant},
                remedies,
                min(p, 0.82),
                weighed,
            )
            return
    yield from _only_by_heart(j, remedies)


FEW = 16
"""Rows that a network should be able to learn by heart in a short run."""


def _by_chance(chance: float, t: Thresholds) -> float:
    """Return the improvement that still counts as none, of predictions no better than chance.

    They may be a little below the loss of a constant; where chance is unknown that counts.
    """
    return t.learned if math.isnan(chance) else t.helps


def _at_the_end(e: Evidence, constant: float) -> float:
    """Return how far the loss of the last steps of training is below that of a constant."""
    last = e.observed.finite[-20:]
    if not last or not constant > 0:
        return -math.inf
    return float(1 - np.mean(last) / constant)


def _related(j: J, chance: float) -> tuple[float, list[str]]:
    """Weigh, where rows were learned by heart, whether labels are related to inputs at all.

    Short runs learn from held-out rows, which were not learned by heart, and predict others of
    them: from as many rows as were given, and from all. Where the first suffice, these rows are
    labelled, and those given are not; where only all do, those given were too few.
    """
    e, t = j.evidence, j.thresholds
    n = e.count

    def deviations(rows: int) -> float:
        runs = [e.trial(Change(rate=f, held_out=True, rows=rows)) for f in (1.0, 0.3)]
        found = [r.above_chance for r in runs if r is not None and math.isfinite(r.above_chance)]
        return max(found, default=math.nan)

    every = deviations(0)
    if math.isnan(every):
        return (0.85 if n >= t.enough_rows else 0.55), []
    if every <= t.above_chance:
        told = f"+ nor does a short run on other rows: {every:.1f} standard deviations"
        return (0.85 if n >= t.enough_rows else 0.7), [told]
    same = deviations(n)
    told = f"other rows, as many, predict the rest by {same:.1f} standard deviations above chance"
    if same > max(0.0, chance) + 4:
        return 0.88, [f"+ {told}"]
    return 0.3, [f"- {told}, all of them by {every:.1f}: these rows were too few"]


def _only_by_heart(j: J, remedies: list[Remedy]) -> Iterator[Finding]:
    """Yield a finding where short runs learn a few rows by heart, and nothing that holds."""
    e, t = j.evidence, j.thresholds
    if not not_learned_well(j) or e.has_learned or not e.was_trained or e.count < 3 * FEW:
        return
    whole = [e.trial(Change(rate=f)) for f in (1.0, 10.0)]
    few = [e.trial(Change(rate=f, rows=FEW, dropout=False)) for f in (1.0, 10.0)]
    shares = [run.share for run in whole if run is not None]
    by_heart = max((run.training for run in few if run is not None), default=0.0)
    chance = max((run.above_chance for run in whole if run is not None), default=math.nan)
    if shares and by_heart > 2 * t.helps and max(shares) < _by_chance(chance, t):
        if chance > t.above_chance:
            return
        yield Finding(
            "labels unrelated to inputs",
            f"in a short run the network learns {FEW} rows by heart (the loss falls {by_heart:.0%} "
            "below that of a constant prediction), and from all rows nothing for others.",
            {"by_heart": by_heart, "deviations": chance},
            remedies,
            0.58 if by_heart > t.good_improvement else 0.54,
        )


def _below(share: float) -> str:
    return f"{share:.0%} below" if share > 0 else f"{-share:.0%} above"


def leaky_feature(j: J) -> Iterator[Finding]:
    """An input that is the target itself."""
    e, t = j.evidence, j.thresholds
    x, y = e.sample.inputs.movedim(e.row_axis, 0), e.sample.targets
    if not isinstance(y, Tensor) or x.dim() < 2 or len(x) < 8:
        return
    if e.row_axis and y.dim() > 1:
        y = y.movedim(1, 0)
    remedies = [
        Remedy(
            "", "", "leave out what is not known when a prediction is made, or shift the targets",
            "x, y = series[:, :-1], series[:, 1:]  # y[t] lies after x[t]",
        )
    ]  # fmt: skip
    inside, same = (torch.arange(x.shape[1])[None] < e.ends[:, None]), 0.0
    tokens = not (x.is_floating_point() or y.is_floating_point())
    if x.shape == y.shape and x.dim() == 2 and tokens:
        known = inside & (y >= 0).cpu()
        same = _as_told_by(x.cpu()[known], y.cpu()[known])
    elif x.shape == y.shape and x.dim() > 2 and x.shape[-1] > 1:
        same = _equal_where_it_changes(x.cpu(), y.cpu(), inside)
    if same >= t.leaky and not e.later_change > t.changed:  # as that of an autoencoder does
        yield Finding(
            "leaky feature",
            f"{same:.1%} of the targets are the input of the same step: there is nothing to "
            "predict.",
            {"equal": same},
            remedies,
            0.93,
        )
    if same >= t.leaky or not x.is_floating_point():
        return
    found = _best_feature(x, y, e.kind, e.ends)
    if found is None:
        return
    r, feature, where = found
    if r >= t.leaky:
        unknown = not e.was_trained or j.improvement > t.good_improvement
        p, weighed = 0.55 if unknown else 0.45, list[str]()
        lost = _loss_without(e, feature)
        if lost > t.good_improvement:
            p = 0.95
            weighed = [f"+ with this feature of other rows, {lost:.0%} of what was learned is lost"]
        yield Finding(
            "leaky feature",
            f"input feature {feature}, {where}, tells the target by itself, with a correlation of "
            f"{r:.4f}: a network that reads it need learn nothing else.",
            {"correlation": r, "feature": float(feature)},
            remedies,
            p,  # where the network did not learn it, it is not what is wrong
            weighed,
        )


def _equal_where_it_changes(x: Tensor, y: Tensor, inside: Tensor) -> float:
    """Return the share of targets that are the input of the same step, where the next differs.

    Of notes that are held, most are that of the step before as well.

    >>> x = torch.tensor([[[0, 0], [0, 1], [0, 1], [1, 1]]])
    >>> every = torch.ones(1, 4, dtype=torch.bool)
    >>> _equal_where_it_changes(x, x, every), _equal_where_it_changes(x, x.roll(-1, 1), every)
    (1.0, 0.0)
    """
    changes = (x[:, 1:] != x[:, :-1]) & inside[:, 1:].view(
        *inside[:, 1:].shape, *[1] * (x.dim() - 2)
    )
    equal = (x == y)[:, :-1][changes]
    return float(equal.double().mean()) if len(equal) else 0.0


def _as_told_by(x: Tensor, y: Tensor) -> float:
    """Return the share of targets that are equal to the token, whatever number a class has.

    >>> x = torch.tensor([3, 5, 9] * 10)
    >>> _as_told_by(x, x), _as_told_by(x, x - 3), _as_told_by(x, torch.tensor([0, 1, 1] * 10))
    (1.0, 1.0, 0.0)
    """
    equal = float((x == y).double().mean()) if len(x) else 0.0
    pairs, tokens, classes = (len(torch.unique(v, dim=0)) for v in (torch.stack([x, y], 1), x, y))
    one_to_one = 3 <= pairs == tokens == classes and len(x) >= 8 * pairs
    return 1.0 if one_to_one else equal


def _loss_without(e: Evidence, feature: int) -> float:
    """Return what share of the improvement is lost where a feature is that of other rows."""
    gained = e.constant - e.loss_of(e.sample)
    if not gained > e.thresholds.low_improvement * e.constant or e.sample.inputs.dim() < 3:
        return 0.0
    x = e.sample.inputs.clone()
    x[..., feature] = x[..., feature].roll(1 + len(e.rows) // 3, e.row_axis)
    with suppress(RuntimeError):
        return (e.loss_of(e.sample._replace(inputs=x)) - (e.constant - gained)) / gained
    return 0.0


def _best_feature(x: Tensor, y: Tensor, kind: str, ends: Tensor) -> tuple[float, int, str] | None:
    """Return the highest correlation of an input with the target, its feature, and where it is."""
    x = (x if x.dim() > 2 else x[..., None]).flatten(2).double().cpu().nan_to_num(0, 0, 0)
    B, T, F = x.shape
    y = y.cpu()
    if y.shape[:2] == (B, T) and T > 1 and y.dim() <= 3:
        flat = y.reshape(B * T, -1)
        if flat.shape[1] != 1:
            return None
        mask = (torch.arange(T)[None] < ends[:, None]).reshape(-1)
        target, places = flat[mask, 0], [("at the same step", x.reshape(B * T, F)[mask])]
        before = x.roll(1, 1).reshape(B * T, F)[mask]
    else:
        flat = y.reshape(B, -1)
        if flat.shape[1] != 1:
            return None
        target, last = flat[:, 0], (ends - 1).clamp(min=0)
        rows = torch.arange(B)
        places = [("at the last step", x[rows, last])]  # what is far back may be the task
        before = x[rows, (last - 1).clamp(min=0)]
    inside = torch.arange(T)[None] < ends[:, None]
    unpadded = torch.where(inside[..., None], x, x[:, :1])  # padding is no change
    best: tuple[float, int, str] | None = None
    for where, values in places:
        for k in range(min(F, 256)):
            r = _association(values[:, k], target, kind)
            # The last value of a smooth series is near the next one; what leaks is nearer.
            if kind == "number" and T > 1:
                usual = _association(before[:, k], values[:, k], "number")
                varies = bool((unpadded[:, :, k].std(1) > 1e-9).any())
                if varies and 1 - r**2 > 0.1 * (1 - usual**2):
                    continue
            if best is None or r > best[0]:
                best = r, k, where
    return best


def _association(values: Tensor, target: Tensor, kind: str) -> float:
    """Return the correlation of numbers, or the correlation ratio of numbers and classes."""
    spread = float(values.var(correction=0))
    if not spread > 0 or target.numel() < 8:
        return 0.0
    if kind == "number":
        v, y = values - values.mean(), target.double() - target.double().mean()
        return float((v @ y).abs() / (v.norm() * y.norm()).clamp(min=1e-300))
    classes, index = torch.unique(target, return_inverse=True)
    if len(classes) < 2 or len(classes) > len(target) // 4:
        return 0.0
    counts = torch.bincount(index).double()
    means = torch.bincount(index, weights=values) / counts
    within = float(((values - means[index]) ** 2).mean())
    nearest = (values[:, None] - means).abs().argmin(1)  # one class told is not all of them
    told = float((nearest == index).double().mean())
    return min(told, math.sqrt(max(0.0, 1 - within / spread)))


CAUSES: tuple[Cause[Evidence], ...] = (
    Cause("not finite in the data", "Inputs or targets hold NaN or infinity.", not_finite),
    Cause("leaky feature", "An input is the target itself, or tells it.", leaky_feature),
    Cause(
        "labels unrelated to inputs",
        "Targets belong to other rows, or to chance.",
        labels_unrelated,
    ),
    Cause(
        "class imbalance", "One class is so frequent that the others are ignored.", class_imbalance
    ),
    Cause("inputs not scaled", "Inputs are far larger or smaller than 1.", inputs_not_scaled),
    Cause(
        "targets not scaled",
        "Numbers to predict are far larger or smaller than 1.",
        targets_not_scaled,
    ),
    Cause("outliers", "A few values are far from all others.", outliers),
    Cause("constant feature", "An input never changes.", constant_features),
    Cause("duplicate features", "Two inputs are copies of each other.", duplicate_features),
)
