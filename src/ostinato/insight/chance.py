"""What a network returns for some data, and whether its predictions are better than chance."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.insight.influence import ScoringNetwork
from ostinato.insight.losses import aligned, call, main_output, output_kept
from ostinato.insight.samples import Loss, mean_loss, row_lengths
from ostinato.training.evaluation import Sample, eval_mode


def output_of(network: nn.Module, sample: Sample, loss: Loss | None) -> Any:
    """Return what a module returns for some data; None if it is not called as a whole."""
    kept: list[Any] = []
    # Whether a module takes other rows or lengths than those given is up to it.
    with eval_mode(network), torch.no_grad(), suppress(Exception):
        if loss is None:
            x = sample.encode(sample.inputs)
            if isinstance(network, ScoringNetwork):
                return network(x, lengths=sample.lengths)
            return call(network, x, sample.lengths)
        with output_kept(network) as kept:
            mean_loss(network, sample, loss)
    return kept[0] if len(kept) == 1 else None


def scores_of(network: nn.Module, sample: Sample, loss: Loss | None) -> Tensor | None:
    """Return the first tensor of floating point that a module returns for some data, or None."""
    with suppress(OstinatoError):
        found = main_output(output_of(network, sample, loss))
        return found if found.dim() else None
    return None


def classes_of(
    scores: Tensor, targets: Any, kind: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return true and predicted classes; None if the targets are no classes."""
    if not isinstance(targets, Tensor):
        return None
    if kind == "probability" and scores.numel() == targets.numel():
        # Of logits, or of probabilities.
        cut = 0.5 if bool(((scores >= 0) & (scores <= 1)).all()) else 0.0
        true, predicted = targets.reshape(-1), scores.reshape(-1) > cut
    else:
        pair = aligned(scores, targets) if kind == "category" else None
        if pair is None:
            return None
        true, predicted = pair[1], pair[0].argmax(-1)
    known = (true >= 0).cpu()
    return (
        true.cpu()[known].numpy().astype(np.int64),
        predicted.cpu()[known].numpy().astype(np.int64),
    )


def known_targets(sample: Sample) -> Any:
    """Return the targets, those of padding -1 where each step has one."""
    y = sample.targets
    if not isinstance(y, Tensor) or sample.lengths is None:
        return y
    if y.shape[:2] != sample.inputs.shape[:2]:
        return y
    outside = torch.arange(y.shape[1])[None] >= row_lengths(sample)[:, None]
    return y.masked_fill(outside.view(*outside.shape, *[1] * (y.dim() - 2)).to(y.device), -1)


def above_chance(scores: Tensor | None, sample: Sample, kind: str) -> float:
    """Return by how many standard deviations predictions are better than chance; NaN if unknown.

    Of classes it is the share of right ones, beside that of guesses as frequent as the predictions;
    of numbers their correlation.
    """
    y = known_targets(sample)
    if scores is None or not isinstance(y, Tensor) or not bool(scores.isfinite().all()):
        return math.nan
    pair = classes_of(scores, y, kind)
    if pair is not None:
        true, predicted = pair
        n = len(true)
        if n < 2:
            return math.nan
        K = int(max(true.max(), predicted.max())) + 1
        a, b = (np.bincount(v, minlength=K).astype(float) for v in (true, predicted))
        right, expected = float((true == predicted).sum()), a @ b / n
        # Of pairs at random with these frequencies: hypergeometric in each class.
        own, pairs = (
            float((a * b * (n - a) * (n - b)).sum()),
            float((a @ b) ** 2 - ((a * b) ** 2).sum()),
        )
        spread = math.sqrt((own + pairs) / (n**2 * (n - 1)))
        return float(right - expected) / spread if spread > 0 else 0.0
    if kind == "number" and scores.numel() == y.numel() >= 4:
        a, b = (v.flatten().double().cpu().numpy() for v in (scores, y))
        spread = float(a.std() * b.std())
        r = float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else 0.0
        return float(r * math.sqrt(len(a)))
    return math.nan
