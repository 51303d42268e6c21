"""Images as sources: a small convolutional network."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from ostinato.networks.functional import Lengths
from ostinato.networks.seq2seq import Encoded


class ImageEncoder(nn.Module):
    """A small convolutional network: an image as a grid of features, each with its position.

    Args:
        channels: channels of the image.
        size: features per position, M.
        blocks: number of convolutions, each of which halves the image.
        dropout: probability of zeroing a channel while training.

    Example:
        >>> encoded = ImageEncoder(3, 32, blocks=3)(torch.rand(2, 3, 40, 64))
        >>> encoded.memory.shape
        torch.Size([2, 40, 32])
    """

    def __init__(self, channels: int, size: int, blocks: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [channels, *(max(16, size >> (blocks - 1 - k)) for k in range(blocks - 1)), size]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout2d(dropout)
        self.place = nn.Linear(2, size)
        self.output_size = size

    def forward(self, x: Tensor, lengths: Lengths = None) -> Encoded:
        """Encode images ``(B, channels, height, width)`` of numbers from 0 to 1."""
        grid = self.dropout(self.layers(x))  # (B, M, rows, columns)
        rows, columns = grid.shape[2:]
        down, right = torch.meshgrid(
            torch.linspace(-1, 1, rows, device=x.device),
            torch.linspace(-1, 1, columns, device=x.device),
            indexing="ij",
        )
        memory = grid.flatten(2).transpose(1, 2)  # (B, S, M)
        memory = memory + self.place(torch.stack([down, right], -1).flatten(0, 1))
        mask = torch.ones(memory.shape[:2], dtype=torch.bool, device=x.device)
        return Encoded(memory, mask, memory.mean(1))
