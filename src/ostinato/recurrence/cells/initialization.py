"""Initialisation of weights; see `Cell.initialize` for citations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Initialization = Literal["pytorch", "orthogonal", "identity", "chrono"]


def fill(w: Mapping[str, Tensor], how: Initialization, hidden_size: int) -> None:
    """Fill weights in place; matrices gate by gate, where each gate is one linear map."""
    bound = hidden_size**-0.5
    for name, weight in w.items():
        rows = hidden_size if name in ("weight_ih", "weight_hh") else weight.numel()
        if how == "pytorch":
            torch.nn.init.uniform_(weight, -bound, bound)
        elif weight.dim() < 2 and name != "weight_hh":
            torch.nn.init.zeros_(weight)
        elif weight.dim() < 2 and how == "identity":  # units with independent recurrence
            torch.nn.init.ones_(weight)
        elif weight.dim() < 2:
            torch.nn.init.uniform_(weight)
        else:
            for block in torch.split(weight, rows):
                if name != "weight_hh" and how == "identity":
                    torch.nn.init.normal_(block, std=0.001)
                elif name != "weight_hh":
                    torch.nn.init.xavier_uniform_(block)
                elif how == "identity":
                    torch.nn.init.eye_(block)
                else:
                    torch.nn.init.orthogonal_(block)
        if name.startswith("gain"):  # of layer normalisation
            weight.fill_(1.0)
