"""The loss of an RNN transducer: the sum over all paths through its lattice.

Letters: ``T`` frames and ``U`` labels of a row, ``J`` features of the joiner, ``V`` labels to
choose from; the blank is number ``V``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.errors import ShapeError
from ostinato.networks.functional import Lengths
from ostinato.recurrence.backends import compiled
from ostinato.recurrence.backends.arguments import Context, by_formula
from ostinato.recurrence.backends.compiled import apart, dense
from ostinato.recurrence.backends.core import core

CHUNK = 1 << 18
"""Numbers of the joiner that are in memory together, about."""


def transducer_loss(
    log_p: Tensor, lengths: Lengths = None, target_lengths: Lengths = None
) -> Tensor:
    """Compute the loss of an RNN transducer, minus the log-likelihood of each row's target.

    A. Graves 2012, "Sequence transduction with recurrent neural networks", eq. 16 to 20. A path
    begins at frame 0 with no label written. The blank takes it to the next frame, a label to the
    next label, and it ends by the blank at the last frame with all labels written::

        alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1)
        loss        = -log(alpha(T-1, U) blank(T-1, U))

    On the compiled core the forward and the backward pass of a row take microseconds a diagonal of
    the lattice, all in float64 inside; elsewhere they run on PyTorch. Both can be differentiated
    any number of times.

    Args:
        log_p: log-probabilities of the blank and of the next label, ``(B, T, U + 1, 2)``.
        lengths: frames of each row ``(B,)``.
        target_lengths: labels of each row ``(B,)``. What is past either is not read.

    Returns:
        the losses, ``(B,)``, in nats. Of a row without a path, infinity, with gradients of zero;
        without frames and labels, 0.

    Raises:
        ShapeError: if the shapes do not fit.

    Example:
        >>> log_p = torch.full((1, 2, 2, 2), 0.5).log()  # 2 frames, 1 label: 2 paths of 3 steps
        >>> transducer_loss(log_p).neg().exp()
        tensor([0.2500])
    """
    if (
        log_p.dim() != 4
        or log_p.shape[2] < 1
        or log_p.shape[3] != 2
        or not log_p.is_floating_point()
    ):
        raise ShapeError(
            f"transducer_loss: log_p is {log_p.dtype} of shape {tuple(log_p.shape)}; expected "
            "floating-point numbers (B, T, U + 1, 2)."
        )
    B, T, columns, _ = log_p.shape
    frames = checked_lengths("transducer_loss: lengths", lengths, B, T)
    labels = checked_lengths("transducer_loss: target_lengths", target_lengths, B, columns - 1)
    if compiled.in_graph(log_p) or compiled.lacks((), log_p):
        return plain_transducer_loss(log_p, frames, labels)
    if torch.is_grad_enabled() and log_p.requires_grad:
        losses: Tensor = _Loss.apply(log_p, frames, labels)  # type: ignore[no-untyped-call]
        return losses
    return _losses(log_p, frames, labels, None)


def checked_lengths(name: str, lengths: Lengths, rows: int, most: int) -> Tensor:
    """Return lengths ``(B,)`` as whole numbers on the CPU; all full if there are none."""
    if lengths is None:
        return torch.full((rows,), most)
    numbers = torch.as_tensor(lengths).cpu()
    if numbers.shape != (rows,) or numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise ShapeError(
            f"{name} are {numbers.dtype} of shape {tuple(numbers.shape)}; expected whole numbers "
            f"({rows},)."
        )
    if rows and not 0 <= int(numbers.min()) <= int(numbers.max()) <= most:
        raise ShapeError(f"{name} are {numbers.tolist()!s:.80}; expected 0 to {most}.")
    return numbers.long()


def plain_transducer_loss(log_p: Tensor, lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Compute `transducer_loss` in plain PyTorch, diagonal by diagonal; lengths are ``(B,)``."""
    B, T, columns, _ = log_p.shape
    device = log_p.device
    frames, labels = lengths.to(device)[:, None, None], target_lengths.to(device)[:, None, None]
    d = torch.arange(T + columns, device=device)[:, None]
    u = torch.arange(columns, device=device)
    t = (d - u).expand(B, -1, -1)  # (B, T + U + 1, U + 1), as all that follows
    inside = (t >= 0) & (t < frames) & (u <= labels)
    if T:
        at = t.clamp(0, T - 1)[..., None].expand(-1, -1, -1, 2)
        skewed = log_p.gather(1, at)
    else:
        skewed = log_p.new_zeros(B, columns, columns, 2)
    blank = torch.where(inside, skewed[..., 0], -torch.inf)
    label = torch.where(inside & (u < labels), skewed[..., 1], -torch.inf)
    alpha = torch.where(u == 0, 0.0, -torch.inf).to(log_p).expand(B, -1)
    alphas = [alpha]
    for i in range(T + columns - 1):
        by_label = F.pad(alpha[:, :-1] + label[:, i, :-1], (1, 0), value=-torch.inf)
        alpha = _log_add(alpha + blank[:, i], by_label)
        alphas.append(alpha)
    row, ends = torch.arange(B, device=device), (frames + labels)[:, 0, 0]
    total = torch.stack(alphas)[ends, row, labels[:, 0, 0]]
    return torch.where(total == -torch.inf, torch.inf, 0 - total)


def _log_add(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b), with gradients of any order where either is minus infinity."""
    only_a, only_b = b == -torch.inf, a == -torch.inf
    single = only_a | only_b
    both = torch.logaddexp(a.masked_fill(single, 0), b.masked_fill(single, 0))
    one = torch.where(only_a, a, b)
    return torch.where(single, one, both)


def _losses(log_p: Tensor, lengths: Tensor, labels: Tensor, gradients: Tensor | None) -> Tensor:
    losses = log_p.new_empty(len(log_p))
    threads = torch.get_num_threads()
    core.transducer_loss(dense(log_p), lengths, labels, losses, gradients, threads)
    return losses


class _LossContext(Context, Protocol):
    lengths: tuple[Tensor, Tensor]


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _LossContext, log_p: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        gradients = log_p.new_empty(log_p.shape)
        ctx.save_for_backward(log_p, gradients)
        ctx.lengths = lengths, labels
        return _losses(log_p, lengths, labels, gradients)

    @staticmethod
    def backward(ctx: _LossContext, d: Tensor) -> tuple[Tensor | None, None, None]:
        log_p, gradients = ctx.saved_tensors
        if not by_formula(d):
            return gradients * d[:, None, None, None], None, None
        with torch.enable_grad():
            losses = plain_transducer_loss(log_p, *ctx.lengths)
            (found,) = torch.autograd.grad(losses, log_p, d, create_graph=True)
        return found, None, None


def joint_log_probs(
    encoded: Tensor,
    predicted: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    lengths: Lengths = None,
    target_lengths: Lengths = None,
) -> Tensor:
    """Compute what `transducer_loss` takes, without ever holding all scores of the lattice.

    ::

        scores(t, u) = W tanh(encoded(t) + predicted(u)) + bias

    ``(B, T, U + 1, V + 1)`` of them would be the largest tensor of training by far. They are
    computed in chunks, of which the log-probabilities of blank and next label stay, and computed
    again for the gradients. Padding takes neither time nor memory.

    Args:
        encoded: frames, ``(B, T, J)``.
        predicted: what the prediction network makes of the labels so far, ``(B, U + 1, J)``.
        weight: ``(V + 1, J)``; its last row is the blank's.
        bias: ``(V + 1,)``.
        targets: labels ``(B, U)``.
        lengths: frames of each row ``(B,)``.
        target_lengths: labels of each row ``(B,)``.

    Returns:
        log-probabilities ``(B, T, U + 1, 2)``; zeros past the lengths.

    Raises:
        ShapeError: if the shapes do not fit.

    Example:
        >>> e, p = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
        >>> y = torch.tensor([[0, 3], [1, 0]])
        >>> joint_log_probs(e, p, torch.randn(6, 8), torch.zeros(6), y, [4, 2]).shape
        torch.Size([2, 4, 3, 2])
    """
    shapes = [tuple(t.shape) for t in (encoded, predicted, weight, bias, targets)]
    B, T, J = shapes[0] if len(shapes[0]) == 3 else (0, 0, 0)
    U = targets.shape[-1] if targets.dim() else 0
    classes = len(weight) if weight.dim() else 0
    if shapes != [(B, T, J), (B, U + 1, J), (classes, J), (classes,), (B, U)]:
        raise ShapeError(
            f"joint_log_probs: encoded, predicted, weight, bias and targets have shapes "
            f"{', '.join(map(str, shapes))}; expected (B, T, J), (B, U + 1, J), (V + 1, J), "
            "(V + 1,) and (B, U)."
        )
    frames = checked_lengths("joint_log_probs: lengths", lengths, B, T)
    labels = checked_lengths("joint_log_probs: target_lengths", target_lengths, B, U)
    given = encoded, predicted, weight, bias, targets, frames, labels
    if compiled.in_graph(encoded) or compiled.is_transformed():
        return plain_joint_log_probs(*given)
    found: Tensor = _Joint.apply(*given)  # type: ignore[no-untyped-call]
    return found


def plain_joint_log_probs(
    encoded: Tensor, predicted: Tensor, weight: Tensor, bias: Tensor, targets: Tensor,
    lengths: Tensor, target_lengths: Tensor,
) -> Tensor:  # fmt: skip
    """Compute `joint_log_probs` in plain PyTorch, with all scores in memory together."""
    T, columns = encoded.shape[1], predicted.shape[1]
    device = encoded.device
    t, u = torch.arange(T, device=device)[:, None], torch.arange(columns, device=device)
    inside = (t < lengths.to(device)[:, None, None]) & (
        u <= target_lengths.to(device)[:, None, None]
    )
    z = torch.where(inside[..., None], encoded[:, :, None] + predicted[:, None], 0.0).tanh()
    log_p = F.linear(z, weight, bias).log_softmax(-1)  # (B, T, U + 1, V + 1)
    has_label = inside & (u < target_lengths.to(device)[:, None, None])
    index = torch.where(has_label, F.pad(targets, (0, 1))[:, None], 0)[..., None]
    both = torch.cat([log_p[..., -1:], log_p.gather(-1, index)], -1)
    return torch.where(torch.stack([inside, has_label], -1), both, 0.0)


def _chunks(lengths: Tensor, labels: Tensor, size: int) -> Iterator[tuple[int, slice, int]]:
    """Yield row, frames and number of columns of parts of the lattices, each of about `CHUNK`."""
    for row, (T, U) in enumerate(zip(lengths.tolist(), labels.tolist(), strict=True)):
        step = max(1, CHUNK // (size * (U + 1)))
        for begin in range(0, T, step):
            yield row, slice(begin, min(begin + step, T)), U + 1


class _JointContext(Context, Protocol):
    lengths: tuple[Tensor, Tensor]


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _JointContext, encoded: Tensor, predicted: Tensor, weight: Tensor, bias: Tensor,
        targets: Tensor, lengths: Tensor, labels: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(encoded, predicted, weight, bias, targets)
        ctx.lengths = lengths, labels
        log_p = encoded.new_zeros(*encoded.shape[:2], predicted.shape[1], 2)
        for row, frames, n in _chunks(lengths, labels, max(weight.shape)):
            z = (encoded[row, frames, None] + predicted[row, :n]).tanh_()  # (t, n, J)
            scores = F.linear(z, weight, bias)  # (t, n, V + 1)
            norm = scores.logsumexp(-1)
            out = log_p[row, frames, :n]
            torch.sub(scores[..., -1], norm, out=out[..., 0])
            label = targets[row, : n - 1].expand(len(z), -1)[..., None]
            torch.sub(scores[:, :-1].gather(-1, label)[..., 0], norm[:, :-1], out=out[:, :-1, 1])
        return log_p

    @staticmethod
    def backward(ctx: _JointContext, d: Tensor) -> tuple[Tensor | None, ...]:
        encoded, predicted, weight, bias, targets = ctx.saved_tensors
        if by_formula(d):
            needs = ctx.needs_input_grad
            with torch.enable_grad():
                given = apart([encoded, predicted, weight, bias])
                e, p, w, b = given
                log_p = plain_joint_log_probs(e, p, w, b, targets, *ctx.lengths)
                needed = [t for t, need in zip(given, needs, strict=False) if need]
                found = iter(torch.autograd.grad(log_p, needed, d, create_graph=True))
            return *(next(found) if need else None for need in needs[:4]), None, None, None
        d_encoded, d_predicted = torch.zeros_like(encoded), torch.zeros_like(predicted)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for row, frames, n in _chunks(*ctx.lengths, max(weight.shape)):
            z = (encoded[row, frames, None] + predicted[row, :n]).tanh_()
            d_scores = F.linear(z, weight, bias).softmax(-1)
            of_blank, of_label = d[row, frames, :n].unbind(-1)
            d_scores *= -(of_blank + F.pad(of_label[:, :-1], (0, 1)))[..., None]
            d_scores[..., -1] += of_blank
            label = targets[row, : n - 1].expand(len(z), -1)[..., None]
            d_scores[:, :-1].scatter_add_(-1, label, of_label[:, :-1, None])
            flat = d_scores.flatten(0, 1)
            d_weight.addmm_(flat.T, z.flatten(0, 1))
            d_bias += flat.sum(0)
            dz = (d_scores @ weight).mul_(1 - z * z)
            d_encoded[row, frames] = dz.sum(1)
            d_predicted[row, :n] += dz.sum(0)
        return d_encoded, d_predicted, d_weight, d_bias, None, None, None
