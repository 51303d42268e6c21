"""Attention over the steps of a source.

Letters: ``S`` steps of the source, ``M`` features of each; ``T`` queries, ``H`` features of each.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError, check_choice

AttentionKind = Literal["additive", "multiplicative"]


class Attention(nn.Module):
    """Attention of queries over the steps of a source.

    ::

        additive        e = v tanh(W_q q + W_m m_s)    Bahdanau, Cho and Bengio 2015, appendix A.1.2
        multiplicative  e = q W_m m_s                  Luong, Pham and Manning 2015, eq. 8, general
        with coverage   ... + w_c c_s inside tanh      See, Liu and Manning 2017, eq. 11
        weights         softmax of e over the source

    Args:
        query_size: features of a query, ``H``.
        memory_size: ``M``.
        kind: additive or multiplicative.
        coverage: take earlier attention into account; additive only.

    Example:
        >>> attend = Attention(4, 6, "additive")
        >>> memory, mask = torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool)
        >>> context, weights = attend(torch.randn(2, 3, 4), attend.keys(memory), memory, mask)
        >>> context.shape, weights.sum(-1).allclose(torch.ones(2, 3))
        (torch.Size([2, 3, 6]), True)
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        kind: AttentionKind = "multiplicative",
        *,
        coverage: bool = False,
    ) -> None:
        super().__init__()
        check_choice("Attention: kind", kind, get_args(AttentionKind))
        if coverage and kind != "additive":
            raise OstinatoError(f"Attention: coverage needs kind='additive', got {kind!r}.")
        self.kind = kind
        self.memory = nn.Linear(memory_size, query_size, bias=False)
        self.query = nn.Linear(query_size, query_size) if kind == "additive" else None
        self.score = nn.Linear(query_size, 1, bias=False) if kind == "additive" else None
        self.covered = nn.Linear(1, query_size, bias=False) if coverage else None

    def keys(self, memory: Tensor) -> Tensor:
        """Project the memory, independently of the query: ``(B, S, M) -> (B, S, H)``."""
        keys: Tensor = self.memory(memory)
        return keys

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        memory: Tensor,
        mask: Tensor,
        coverage: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return contexts ``(B, T, M)`` for queries ``(B, T, H)``, and weights ``(B, T, S)``.

        Keys are as `keys` makes them of the memory ``(B, S, M)``; the mask ``(B, S)`` is True at
        steps of the source, and zeros come out where it has none; coverage ``(B, S)`` sums the
        attention so far.
        """
        if self.query is None or self.score is None:
            e = query @ keys.transpose(1, 2) * query.shape[-1] ** -0.5
        else:
            a = self.query(query)[:, :, None] + keys[:, None]  # (B, T, S, H)
            if self.covered is not None and coverage is not None:
                a = a + self.covered(coverage[..., None])[:, None]
            e = self.score(a.tanh())[..., 0]
        e = e.masked_fill(~mask[:, None], -torch.inf)
        weights = torch.where(mask.any(1)[:, None, None], e.softmax(-1), 0.0)
        return weights @ memory, weights
