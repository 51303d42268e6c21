"""Arguments and gradients of what the core computes for linear cells."""

from __future__ import annotations

from typing import NoReturn, Protocol

import torch
from torch import Tensor

from ostinato.errors import ShapeError
from ostinato.recurrence.backends import compiled


def refuse(function: str, name: str, tensor: Tensor, expected: str) -> NoReturn:
    """Raise the error of a tensor that does not fit."""
    got = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
    raise ShapeError(f"{function}: {name} is {got}; expected {expected}.")


def check(
    function: str,
    like: Tensor,
    given: dict[str, tuple[Tensor | None, tuple[int, ...]]],
    lengths: Tensor | None,
    resets: Tensor | None,
) -> None:
    """Check arguments, given with the shapes expected, beside a sequence ``like (T, B, ...)``."""
    T, B, *_ = like.shape
    for name, (tensor, shape) in given.items():
        if tensor is not None and (tensor.shape != shape or tensor.dtype != like.dtype):
            refuse(function, name, tensor, f"{like.dtype} of shape {shape}")
    if lengths is not None and (lengths.shape != (B,) or lengths.dtype != torch.int64):
        refuse(function, "lengths", lengths, f"torch.int64 of shape {(B,)}")
    if resets is not None and (resets.shape != (T, B) or resets.dtype != torch.bool):
        refuse(function, "resets", resets, f"torch.bool of shape {(T, B)}")


def in_rows(x: Tensor) -> Tensor:
    """Return x with the numbers of a step side by side."""
    x = x.resolve_neg()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


class Context(Protocol):
    """Context that autograd passes from forward to backward."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward."""

    def set_materialize_grads(self, value: bool) -> None:
        """Say whether gradients that are missing come as zeros."""


def by_formula(*gradients: Tensor | None) -> bool:
    """Whether the gradients are to be differentiable themselves, or come in a batch."""
    batched = any(map(compiled.is_batched, gradients))
    return torch.is_grad_enabled() or compiled.is_transformed() or batched
