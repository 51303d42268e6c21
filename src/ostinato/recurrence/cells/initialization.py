"""Initialisation of weights; see `Cell.initialize` for citations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Initialization = Literal["pytorch", "orthogonal", "identity", "chrono"]


def fill(w: Mapping[str, Tensor], how: Initialization, hidden_size: int) -> None:
    """Fill weights in place; matrices gate by gate, where each gate is one linear map."""
    if how == "pytorch":
        bound = hidden_size**-0.5
        for weight in w.values():
            torch.nn.init.uniform_(weight, -bound, bound)
        return
    for name, weight in w.items():
        if weight.dim() < 2:
            torch.nn.init.zeros_(weight)
            continue
        rows = hidden_size if name in ("weight_ih", "weight_hh") else weight.shape[0]
        for block in torch.split(weight, rows):
            if name != "weight_hh":
                if how == "identity":
                    torch.nn.init.normal_(block, std=0.001)
                else:
                    torch.nn.init.xavier_uniform_(block)
            elif how == "identity":
                torch.nn.init.eye_(block)
            else:
                torch.nn.init.orthogonal_(block)


def fill_gains(w: Mapping[str, Tensor]) -> None:
    """Set the gains of layer normalisation to 1."""
    for name, weight in w.items():
        if name.startswith("gain"):
            weight.fill_(1.0)


def fill_time_scales(
    bias: Tensor, time_gates: Mapping[int, int], hidden_size: int, steps: int
) -> None:
    """Set biases of gates so that units forget over 1 to ``steps`` steps."""
    times = bias.new_empty(hidden_size).uniform_(1, steps - 1).log_()
    for gate, sign in time_gates.items():
        bias[gate * hidden_size : (gate + 1) * hidden_size] = sign * times
