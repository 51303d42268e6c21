"""Layers of PyTorch for layers of ours, with the same weights, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from ostinato.errors import OstinatoError
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Recurrent

OURS: dict[type[nn.Module], Callable[..., Recurrent]] = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}


def convert(module: nn.Module) -> nn.Module:
    """Return a copy of a module whose `torch.nn` RNN, LSTM and GRU are ours, weights and all.

    Results are the same up to rounding, names of weights in the ``state_dict`` are the same; the
    inverse is `to_torch`.

    Args:
        module: any module, or such a layer.

    Raises:
        OstinatoError: a layer is of a class derived from these, has hooks or parametrizations.

    Example:
        >>> import torch
        >>> network = nn.ModuleDict({"read": nn.GRU(3, 4), "write": nn.Linear(4, 2)})
        >>> ours = convert(network)
        >>> ours["read"]
        GRU(3, 4)
        >>> x = torch.randn(5, 2, 3)
        >>> torch.allclose(ours["read"](x)[0], network["read"](x)[0], atol=1e-6)
        True
    """

    def make(layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, Recurrent) or not isinstance(layer, nn.RNNBase):
            return None
        if type(layer) not in OURS:
            raise _refusal("convert", layer, "is of a class derived from torch.nn's")
        more: dict[str, Any] = {}
        more |= {"nonlinearity": layer.nonlinearity} if isinstance(layer, nn.RNN) else {}
        more |= {"proj_size": layer.proj_size} if isinstance(layer, nn.LSTM) else {}
        return OURS[type(layer)](**_arguments(layer), **more)

    return _replaced("convert", module, make)


def to_torch(module: nn.Module) -> nn.Module:
    """Return a copy of a module whose RNN, LSTM and GRU are `torch.nn`'s: the inverse of `convert`.

    Raises:
        OstinatoError: `torch.nn` has no such layer: its cell, sizes that differ between layers, or
            an option.
    """

    def make(layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, Recurrent):
            return None
        usual = Recurrent.__init__.__kwdefaults__ or {}
        names = [n for n, value in usual.items() if getattr(layer, n) != value]
        names = [n for n in names if n not in ("init", "init_steps", "checkpoint_every")]
        if names or not getattr(layer, "_is_torchs", False):
            what = f"has {', '.join(names)}" if names else "has another cell or uneven sizes"
            raise _refusal("to_torch", layer, f"{what}, which torch.nn's have not")
        kind = next(theirs for theirs, ours in OURS.items() if type(layer) is ours)
        more: dict[str, Any] = {}
        more |= {"nonlinearity": layer.nonlinearity} if isinstance(layer, RNN) else {}
        more |= {"proj_size": layer.proj_size} if isinstance(layer, LSTM) else {}
        return kind(**_arguments(layer), **more)

    return _replaced("to_torch", module, make)


def _arguments(layer: nn.RNNBase) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
    found = {name: getattr(layer, name) for name in (*names, "bidirectional")}
    return found | {"device": "meta"}


def _refusal(call: str, layer: nn.Module, why: str) -> OstinatoError:
    return OstinatoError(f"{call}: {layer!r:.200} {why}; replace it by hand.")


def _replaced(
    call: str, module: nn.Module, make: Callable[[nn.Module], nn.Module | None]
) -> nn.Module:
    """Return a copy with the layers replaced for which ``make`` makes another."""
    if not isinstance(module, nn.Module):
        raise OstinatoError(f"{call}: module is {module!r:.99}; expected a torch.nn.Module.")
    module = copy.deepcopy(module)
    made: dict[nn.Module, nn.Module] = {}
    for name, layer in list(module.named_modules()):
        new = make(layer)
        if new is None:
            continue
        if hasattr(layer, "parametrizations") or set(layer._parameters) != set(new._parameters):
            raise _refusal(call, layer, "has parametrizations or weights of its own")
        if any(value for key, value in vars(layer).items() if key.endswith("_hooks")):
            raise _refusal(call, layer, f"({name or 'the module'}) has hooks")
        for weight, parameter in layer._parameters.items():
            setattr(new, weight, parameter)
        made[layer] = new.train(layer.training)
    if module in made:
        return made[module]
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                parent._modules[name] = made[child]
    return module
