"""Outputs: predictions from hidden states, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError, ShapeError, check_choice
from ostinato.networks.functional import Lengths, drop, running

OutputKind = Literal["category", "number", "probability"]

Steps = Literal["all", "last"] | Sequence[int]


class Output(nn.Module):
    """y_t = W_hy h_t + b_y, read as categories, numbers or probabilities.

    Args:
        hidden_size: features of ``h_t``.
        size: categories, numbers or probabilities per step, ``K``.
        kind: ``category``, one of K by softmax; ``number``, K numbers, linear; ``probability``,
            K independent yes-or-no units by sigmoid.
        dropout: probability of zeroing a feature of ``h_t`` while training.

    Example:
        >>> output = Output(4, 3, "category")
        >>> y = output(torch.randn(2, 5, 4))                       # scores, (B, T, K)
        >>> output.predict(y).sum(-1).allclose(torch.ones(2, 5))   # probabilities of categories
        True
    """

    def __init__(
        self, hidden_size: int, size: int, kind: OutputKind = "category", dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_choice("Output: kind", kind, get_args(OutputKind))
        if not 0 <= dropout <= 1:
            raise OstinatoError(f"Output: dropout={dropout}; expected a probability from 0 to 1.")
        self.kind = kind
        self.dropout = dropout
        self.linear = nn.Linear(hidden_size, size)

    def forward(self, h: Tensor) -> Tensor:
        """Return scores ``(..., K)`` of hidden states ``(..., H)``; see `predict`."""
        y: Tensor = self.linear(drop(h, self.dropout, self.training))
        return y

    def predict(self, y: Tensor, lengths: Lengths = None) -> Tensor:
        """Return probabilities, or numbers, ``(..., K)`` for scores ``(..., K)``.

        ``lengths`` matter for outputs that depend on the whole sequence.
        """
        if self.kind == "category":
            return y.softmax(-1)
        return y.sigmoid() if self.kind == "probability" else y

    def loss(self, y: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of every step, ``(...)``: nats, or squared errors, summed over K.

        Of scores ``(..., K)`` and category numbers ``(...)``; or numbers, or 0 and 1, ``(..., K)``.
        """
        shape = y.shape[:-1] if self.kind == "category" else y.shape
        if targets.shape != shape:
            raise ShapeError(
                f"Output.loss: targets has shape {tuple(targets.shape)}; expected {tuple(shape)}."
            )
        if self.kind == "category":
            flat = y.reshape(-1, y.shape[-1]), targets.reshape(-1)
            # No number means "ignore": `lengths` and `steps` tell which steps count.
            losses = F.cross_entropy(*flat, reduction="none", ignore_index=-(2**31))
            return losses.view(targets.shape)
        targets = targets.to(y.dtype)
        if self.kind == "probability":
            return F.binary_cross_entropy_with_logits(y, targets, reduction="none").sum(-1)
        return F.mse_loss(y, targets, reduction="none").sum(-1)

    def mean_loss(
        self, h: Tensor, targets: Tensor, lengths: Lengths = None, steps: Steps = "all"
    ) -> Tensor:
        """Compute the mean loss over the selected steps of hidden states ``(B, T, H)``.

        Arguments as in `ManyToMany.loss`.
        """
        B, T = h.shape[:2]
        if lengths is None and steps == "all":
            return self.loss(self(h), targets).mean()
        ends = torch.full((B,), T) if lengths is None else torch.as_tensor(lengths)
        ends = ends.to(h.device)[:, None]  # (B, 1)
        if steps == "last":
            t = (ends - 1).clamp(min=0)  # (B, 1)
            if targets.dim() == (1 if self.kind == "category" else 2):
                targets = targets[:, None].expand(B, T, *targets.shape[1:])
        else:
            chosen = torch.arange(T) if steps == "all" else torch.arange(T)[list(steps)]
            t = chosen.to(h.device).expand(B, -1)  # (B, chosen steps)
        rows = torch.arange(B, device=h.device)[:, None]
        counts = t < ends
        targets = targets[rows, t]
        # Padding may hold anything, NaN included: a NaN that `where` hides has a NaN gradient.
        targets = targets.masked_fill(~counts.view(*counts.shape, *[1] * (targets.dim() - 2)), 0)
        losses = self.loss(self(h[rows, t]), targets)
        return torch.where(counts, losses, 0.0).sum() / counts.sum().clamp(min=1)

    def best(self, y: Tensor, lengths: Lengths = None) -> Tensor:
        """Return the likeliest category of each step, ``(...)``, for scores ``(..., K)``."""
        return y.argmax(-1)


class CRFOutput(Output):
    """A conditional random field: an `Output` of categories with scores of neighbours.

    The score of tags y_1 ... y_T is the sum over steps of the network's score of each tag and of a
    learned score of each pair of neighbours (Lafferty, McCallum and Pereira 2001, "Conditional
    random fields"; on a recurrent network: Huang, Xu and Yu 2015, "Bidirectional LSTM-CRF models").
    Used like `Output`, but losses, probabilities and the best tags depend on the whole sequence.

    Args:
        hidden_size: features of ``h_t``.
        size: tags, ``K``.
        dropout: as in `Output`.
        barred: which tag must not follow which in a prediction, ``(K + 1, K)``; the last row is of
            tags that must not come first. None for none.

    Example:
        >>> output = CRFOutput(4, 3)
        >>> y = output(torch.randn(2, 5, 4))                          # scores, (B, T, K)
        >>> output.best(y, lengths=[5, 2]).shape                      # tags by Viterbi
        torch.Size([2, 5])
        >>> output.predict(y).sum(-1).allclose(torch.ones(2, 5))      # marginal probabilities
        True
    """

    barred: Tensor

    def __init__(
        self, hidden_size: int, size: int, dropout: float = 0.0, barred: Tensor | None = None
    ) -> None:
        super().__init__(hidden_size, size, "category", dropout)
        # Not -inf, or a row in which every tag is barred would have none.
        penalty = torch.zeros(size + 1, size) if barred is None else -1e4 * barred.float()
        self.register_buffer("barred", penalty, persistent=False)
        self.first = nn.Parameter(torch.zeros(size))
        self.follows = nn.Parameter(torch.zeros(size, size))  # [tag, the tag after it]
        self.last = nn.Parameter(torch.zeros(size))

    def loss(self, y: Tensor, targets: Tensor) -> Tensor:
        """Raise an error: a single step has no loss."""
        raise OstinatoError("CRFOutput.loss: a step has no loss of its own; call mean_loss.")

    def mean_loss(
        self, h: Tensor, targets: Tensor, lengths: Lengths = None, steps: Steps = "all"
    ) -> Tensor:
        """Compute the negative log-likelihood of the tags ``(B, T)``, in nats per step."""
        if steps != "all":
            raise OstinatoError(f"CRFOutput.mean_loss: steps={steps!r}; expected 'all'.")
        if targets.shape != h.shape[:2]:
            raise ShapeError(
                f"CRFOutput: targets has shape {tuple(targets.shape)}; "
                f"expected {tuple(h.shape[:2])}."
            )
        counts = running(h, lengths)
        likelihood = self.log_likelihood(self(h), targets, counts)
        return -likelihood.sum() / counts.sum().clamp(min=1)

    def log_likelihood(self, y: Tensor, tags: Tensor, counts: Tensor) -> Tensor:
        """Compute the log of the probability of ``tags (B, T)`` by ``y (B, T, K)``, ``(B,)``.

        ``counts (B, T)`` is True where a row still has a step.
        """
        tags = tags.masked_fill(~counts, 0)
        scores = y.gather(-1, tags[..., None])[..., 0]  # (B, T)
        scores[:, 1:] += self.follows[tags[:, :-1], tags[:, 1:]]
        scores = torch.where(counts, scores, 0.0).sum(1)
        B, T = tags.shape
        if not T:
            return scores
        ends = (counts.sum(1) - 1).clamp(min=0)
        scores = scores + self.first[tags[:, 0]] + self.last[tags[torch.arange(B), ends]]
        return torch.where(counts[:, 0], scores - self.log_partition(y, counts), 0.0)

    def log_partition(self, y: Tensor, counts: Tensor) -> Tensor:
        """Compute the log of the sum over all tags of the exponential of their score, ``(B,)``."""
        total = self.first + y[:, 0]  # (B, K): over all sequences that end in each tag
        for t in range(1, y.shape[1]):
            step = torch.logsumexp(total[:, :, None] + self.follows, dim=1) + y[:, t]
            total = torch.where(counts[:, t, None], step, total)
        return torch.logsumexp(total + self.last, dim=-1)

    def predict(self, y: Tensor, lengths: Lengths = None) -> Tensor:
        """Return the probability of each tag at each step, ``(B, T, K)``; zeros in padding.

        The derivative of the log-partition by a score is the probability of its tag.
        """
        if not y.shape[1]:
            return y.clone()
        with torch.enable_grad(), torch.inference_mode(False):
            y = y.detach().clone().requires_grad_()
            counts = running(y, lengths)
            total = self.log_partition(y, counts)
            (marginals,) = torch.autograd.grad(total.sum(), y)
        return torch.where(counts[..., None], marginals, 0.0)

    def best(self, y: Tensor, lengths: Lengths = None) -> Tensor:
        """Return the likeliest sequence of tags, ``(B, T)``, by the algorithm of Viterbi 1967."""
        B, T, K = y.shape
        counts = running(y, lengths)
        tags = torch.zeros(B, T, dtype=torch.long, device=y.device)
        if not T:
            return tags
        follows, total = self.follows + self.barred[:-1], self.first + self.barred[-1] + y[:, 0]
        came_from = []
        for t in range(1, T):
            best = (total[:, :, None] + follows).max(dim=1)
            # Past a row's length nothing changes, and each tag comes from itself.
            stays = torch.arange(K, device=y.device).expand(B, K)
            came_from.append(torch.where(counts[:, t, None], best.indices, stays))
            total = torch.where(counts[:, t, None], best.values + y[:, t], total)
        tag = (total + self.last).argmax(-1)  # (B,)
        tags[:, -1] = tag
        for t in range(T - 2, -1, -1):
            tag = came_from[t].gather(1, tag[:, None])[:, 0]
            tags[:, t] = tag
        return tags.masked_fill(~counts, 0)
