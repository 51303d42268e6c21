"""Functions that networks share: masks and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.recurrence.scan import mask_of

Lengths = Tensor | Sequence[int] | None


def drop(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p, and scale the others by 1 / (1 - p).

    On a CPU about four times faster than PyTorch's: it draws 16 random bits per element instead of
    a random number, so that p is rounded to a multiple of 2^-16.

    >>> y = drop(torch.ones(1000, 1000), 0.25)
    >>> sorted(y.unique().tolist()) == [0.0, torch.tensor(4 / 3).item()], round(y.mean().item(), 1)
    (True, 1.0)
    """
    threshold = round(p * 2**16)
    eager = x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter)
    if not eager or torch.compiler.is_compiling() or not 0 < threshold < 2**16:
        return F.dropout(x, p)
    numbers = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    return x * (bits >= threshold - 2**15).to(x.dtype).mul_(2**16 / (2**16 - threshold))


def running(x: Any, lengths: Lengths) -> Tensor:
    """Return ``(B, T)`` booleans: True where a row of ``x (B, T, ...)`` has a step."""
    B, T = x.shape[:2]
    if lengths is None:
        return torch.ones(B, T, dtype=torch.bool, device=x.device)
    return mask_of(torch.as_tensor(lengths).to(x.device), T)[..., 0].T
