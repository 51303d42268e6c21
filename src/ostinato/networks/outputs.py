"""Tags of a sequence judged together: a linear-chain conditional random field."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.arrangements import Lengths, Output, Steps, running


class CRFOutput(Output):
    """An `Output` of categories in which what follows what counts as well.

    The score of tags y_1 ... y_T is the sum over steps of the network's score of each tag and of a
    learnt score of each pair of neighbours (Lafferty, McCallum and Pereira 2001, "Conditional
    random fields"; on a recurrent network: Huang, Xu and Yu 2015, "Bidirectional LSTM-CRF models").
    Used as `Output` is, but that losses, probabilities and the best tags are of whole sequences.

    Args:
        hidden_size: features of ``h_t``.
        size: tags, ``K``.
        dropout: as in `Output`.

    Example:
        >>> output = CRFOutput(4, 3)
        >>> y = output(torch.randn(2, 5, 4))                          # scores, (B, T, K)
        >>> output.best(y, lengths=[5, 2]).shape                      # tags by Viterbi
        torch.Size([2, 5])
        >>> output.predict(y).sum(-1).allclose(torch.ones(2, 5))      # marginal probabilities
        True
    """

    def __init__(self, hidden_size: int, size: int, dropout: float = 0.0) -> None:
        super().__init__(hidden_size, size, "category", dropout)
        self.first = nn.Parameter(torch.zeros(size))
        self.follows = nn.Parameter(torch.zeros(size, size))  # [tag, the tag after it]
        self.last = nn.Parameter(torch.zeros(size))

    def loss(self, y: Tensor, targets: Tensor) -> Tensor:
        """A step alone has no loss: see `mean_loss`."""
        raise OstinatoError("CRFOutput: tags are judged together; take mean_loss, not loss.")

    def mean_loss(
        self, h: Tensor, targets: Tensor, lengths: Lengths = None, steps: Steps = "all"
    ) -> Tensor:
        """Negative log-likelihood of the tags ``(B, T)``, in nats a step."""
        if steps != "all":
            raise OstinatoError(f"CRFOutput: steps={steps!r}; tags are judged together: 'all'.")
        if targets.shape != h.shape[:2]:
            raise ShapeError(
                f"CRFOutput: targets has shape {tuple(targets.shape)}; "
                f"expected {tuple(h.shape[:2])}."
            )
        counts = running(h, lengths)
        likelihood = self.log_likelihood(self(h), targets, counts)
        return -likelihood.sum() / counts.sum().clamp(min=1)

    def log_likelihood(self, y: Tensor, tags: Tensor, counts: Tensor) -> Tensor:
        """Log of the probability of tags, ``(B,)``.

        Args:
            y: scores ``(B, T, K)``.
            tags: ``(B, T)``.
            counts: True where a row still has a step, ``(B, T)``.
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
        """Log of the sum over all tags of the exponential of their score, ``(B,)``."""
        total = self.first + y[:, 0]  # (B, K): of all ways to come to each tag
        for t in range(1, y.shape[1]):
            step = torch.logsumexp(total[:, :, None] + self.follows, dim=1) + y[:, t]
            total = torch.where(counts[:, t, None], step, total)
        return torch.logsumexp(total + self.last, dim=-1)

    def predict(self, y: Tensor, lengths: Lengths = None) -> Tensor:
        """The probability of each tag at each step, ``(B, T, K)``; zeros in padding.

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
        """The likeliest tags together, ``(B, T)``, by dynamic programming (Viterbi 1967)."""
        B, T, K = y.shape
        counts = running(y, lengths)
        tags = torch.zeros(B, T, dtype=torch.long, device=y.device)
        if not T:
            return tags
        total, came_from = self.first + y[:, 0], []
        for t in range(1, T):
            best = (total[:, :, None] + self.follows).max(dim=1)
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
