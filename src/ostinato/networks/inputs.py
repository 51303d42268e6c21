"""Inputs: vectors of words, and measurements by their mean and scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError
from ostinato.recurrence.dropin import LSTM


class Words(NamedTuple):
    """Words with their characters; each distinct word of a batch is spelled once.

    Attributes:
        ids: number of each word, 0 for an unknown one, ``(B, T)``.
        spelled: row of each word in ``characters``, ``(B, T)``.
        characters: numbers of the characters of each distinct word, ``(F, C)``.
        sizes: number of characters of each distinct word, ``(F,)``.
        affixes: numbers of the affixes and shapes of each distinct word, 0 for an unknown one,
            ``(F, A)``.
    """

    ids: Tensor
    spelled: Tensor
    characters: Tensor
    sizes: Tensor
    affixes: Tensor

    @property
    def shape(self) -> torch.Size:
        """``(B, T)``."""
        return self.ids.shape

    @property
    def device(self) -> torch.device:
        """Device of the words."""
        return self.ids.device

    def to(self, device: Any) -> Words:
        """Return the words on a device."""
        return Words(*(part.to(device) for part in self))

    def first(self, rows: int, steps: int) -> Words:
        """Return the first steps of the first rows."""
        used, spelled = torch.unique(self.spelled[:rows, :steps], return_inverse=True)
        parts = (part[used] for part in (self.characters, self.sizes, self.affixes))
        return Words(self.ids[:rows, :steps], spelled, *parts)


class WordEncoder(nn.Module):
    """Word vectors: an embedding of each word, encodings of its characters and of its affixes.

    Args:
        words: number of known words, including the unknown one, number 0.
        width: features of the embedding.
        characters: number of known characters.
        spelling_width: features of the characters' encoding: the last states of an LSTM that reads
            them, half in each direction (Ling et al. 2015, "Finding function in form").
            0 for none.
        affixes: number of known affixes and shapes.
        affix_width: features of the sum of their embeddings.
        word_dropout: probability of replacing a word by the unknown one while training, so that the
            network learns to use the rest; and of leaving out an affix or a shape.

    Example:
        >>> encode = WordEncoder(words=10, width=6, characters=5, spelling_width=4)
        >>> words = Words(
        ...     torch.tensor([[1, 0, 2]]), torch.tensor([[0, 1, 1]]),
        ...     torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1]), torch.zeros(2, 0),
        ... )
        >>> encode(words).shape
        torch.Size([1, 3, 10])
    """

    def __init__(
        self,
        words: int,
        width: int,
        characters: int,
        spelling_width: int = 0,
        word_dropout: float = 0.0,
        affixes: int = 0,
        affix_width: int = 0,
    ) -> None:
        super().__init__()
        self.output_size = width + spelling_width + (affix_width if affixes else 0)
        self.word_dropout = word_dropout
        self.words = _embedding(words, width)
        self.characters: nn.Embedding | None = None
        if spelling_width % 2:
            raise OstinatoError(f"WordEncoder: spelling_width={spelling_width}; must be even.")
        if spelling_width:
            letters, half = min(32, spelling_width), spelling_width // 2
            self.characters = _embedding(characters, letters)
            self.spelling = LSTM(letters, half, batch_first=True, bidirectional=True)
        self.affixes: nn.Embedding | None = None
        if affixes and affix_width:
            self.affixes = nn.Embedding(affixes + 1, affix_width, padding_idx=0)
            # A word has about eight, and their sum a length of about one.
            nn.init.normal_(self.affixes.weight[1:], std=(8 * affix_width) ** -0.5)

    def forward(self, x: Words) -> Tensor:
        """Return vectors ``(B, T, width + spelling_width + affix_width)``."""
        vectors: list[Tensor] = [self.words(self._thinned(x.ids))]
        if self.characters is not None:
            _, state = self.spelling(x.characters, lengths=x.sizes, table=self.characters.weight)
            spellings = torch.cat(state.h.unbind(0), dim=-1)  # (F, spelling_width)
            vectors.append(F.embedding(x.spelled, spellings))
        if self.affixes is not None:
            kept = 1 - self.word_dropout * self.training
            sums = self.affixes(self._thinned(x.affixes)).sum(1) / kept  # (F, affix_width)
            vectors.append(F.embedding(x.spelled, sums))
        return torch.cat(vectors, dim=-1)

    def _thinned(self, ids: Tensor) -> Tensor:
        """Return numbers, some of them taken for unknown while training."""
        if not (self.training and self.word_dropout):
            return ids
        return ids.masked_fill(torch.rand(ids.shape, device=ids.device) < self.word_dropout, 0)


class Standardize(nn.Module):
    """(x - mean) / scale, with statistics stored with the network.

    Example:
        >>> encode = Standardize(mean=torch.tensor([1.0, 10.0]), scale=torch.tensor([2.0, 5.0]))
        >>> encode(torch.tensor([[3.0, 0.0]]))
        tensor([[ 1., -2.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Standardize ``x (..., I)`` of any number type; the result has the statistics' type."""
        return (x - self.mean) / self.scale


def _embedding(count: int, width: int) -> nn.Embedding:
    """Return an embedding with vectors of about unit length, which need no further scaling."""
    embedding = nn.Embedding(count, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    return embedding
