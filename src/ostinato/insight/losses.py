"""Loss functions of custom modules, in the forms in which people have them."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.insight.samples import Loss
from ostinato.training.evaluation import Sample

MODEL_NAMES = ("model", "module", "network", "net", "m")


def as_loss(loss: Any) -> Loss | None:
    """Return a loss function of ``(model, x, y, lengths)``, from whatever form it has.

    - ``(model, x, y, lengths)`` or ``(model, x, y)``;
    - ``(model, batch)``, the first argument named model, module, network or net; a batch is
      ``(x, y)``, or ``(x, y, lengths)`` if there are lengths;
    - a loss of `torch.nn` or its functional form, of ``(output, target)``.
    """
    if loss is None:
        return None
    if not callable(loss):
        raise OstinatoError(f"loss: expected a function, got {type(loss).__name__}.")
    if isinstance(loss, nn.Module):
        return Criterion(loss)
    whole: Loss = loss
    parameters = list(inspect.signature(loss).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return whole
    required = [p for p in parameters if p.default is p.empty and p.kind != p.KEYWORD_ONLY]
    of_model = bool(required) and required[0].name in MODEL_NAMES
    if len(required) >= 4 or (len(parameters) == 4 and of_model):
        return whole
    if len(required) == 3:
        return lambda model, x, y, lengths: loss(model, x, y)
    if of_model:
        return lambda model, x, y, lengths: loss(
            model, (x, y) if lengths is None else (x, y, lengths)
        )
    return Criterion(loss)


class Criterion:
    """A loss of an output and a target, such as ``nn.CrossEntropyLoss()``, of a whole module.

    The module is called with ``lengths`` if its ``forward`` takes them. Scores ``(B, T, K)`` of
    classes ``(B, T)`` are flattened.
    """

    def __init__(self, criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.criterion = criterion

    def __call__(self, model: nn.Module, x: Any, y: Any, lengths: Tensor | None) -> Tensor:
        """Return the mean loss."""
        scores = main_output(call(model, x, lengths))
        if y.dim() >= 2 and not y.is_floating_point() and scores.shape[:-1] == y.shape:
            scores, y = scores.reshape(-1, scores.shape[-1]), y.reshape(-1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using a target size")  # a cause of its own
            value = self.criterion(scores, y)
        return value.mean()


def call(model: nn.Module, x: Any, lengths: Tensor | None) -> Any:
    """Call a module with an input, and with lengths if its ``forward`` takes them."""
    if lengths is not None:
        names = inspect.signature(model.forward).parameters
        name = next((n for n in ("lengths", "length", "lens", "x_lengths") if n in names), None)
        if name is not None:
            return model(x, **{name: lengths})
    return model(x)


def main_output(output: Any) -> Tensor:
    """Return the scores in the output of a module: the first tensor of floating point in it."""
    found = next(_tensors(output), None)
    if found is None:
        raise OstinatoError(
            f"expected a module that returns a tensor, or a tuple that begins with one, got "
            f"{type(output).__name__}; pass loss=lambda model, x, y, lengths: ..."
        )
    return found


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)


class Stand(nn.Module):
    """Stands in for a module in a loss function: returns an output that is given to it."""

    def __init__(self, module: nn.Module, output: Any) -> None:
        super().__init__()
        object.__setattr__(self, "stands_for", module)
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output."""
        return self.output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "stands_for"), name)


@contextmanager
def output_kept(module: nn.Module) -> Iterator[list[Any]]:
    """Keep what calls of a module return inside the block."""
    kept: list[Any] = []
    hook = module.register_forward_hook(lambda m, args, output: kept.append(output))
    try:
        yield kept
    finally:
        hook.remove()


def copied(module: nn.Module) -> nn.Module:
    """Return a deep copy, also of a module that keeps tensors of an autograd graph.

    >>> module = nn.Linear(2, 2)
    >>> module.state = module(torch.ones(2))
    >>> bool((copied(module).state == module.state).all())
    True
    """
    memo: dict[int, Any] = {}
    for each in module.modules():
        for value in vars(each).values():
            for tensor in _tensors(value):
                if tensor.grad_fn is not None:
                    memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(module, memo)


def constant_loss(
    loss: Loss, module: nn.Module, output: Any, sample: Sample, steps: int = 60
) -> float:
    """Return the loss of the best constant output, by optimising one; NaN if that is impossible.

    The constant has the features of the module's output, the same in all rows and steps. Where the
    output is of probabilities, or of their logarithms, so is the constant.

    Args:
        loss: of ``(model, x, y, lengths)``.
        module: the module whose output is replaced.
        output: what it returned for the sample.
        sample: the data.
        steps: steps of the optimiser.
    """
    scores = main_output(output)
    if scores.dim() == 0 or not scores.isfinite().all():
        return math.nan  # the module returns its loss
    axis = _feature_axis(scores, sample.targets)
    shape = [1] * scores.dim()
    if axis is not None:
        shape[axis] = scores.shape[axis]
    to_range = _range_of(scores, axis, sample.targets)
    with torch.enable_grad():
        free = torch.zeros(shape, dtype=scores.dtype, device=scores.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([free], max_iter=steps, line_search_fn="strong_wolfe")
        best = math.inf
        x = sample.encode(sample.inputs)

        def evaluate() -> Tensor:
            nonlocal best
            optimizer.zero_grad()
            constant = to_range(free).expand(scores.shape)
            stand = Stand(module, replaced_output(output, scores, constant))
            value = loss(stand, x, sample.targets, sample.lengths)
            (free.grad,) = torch.autograd.grad(value, free)
            best = min(best, float(value.detach()))
            return value

        # Whoever does not call the module itself, or needs more of it, has no constant.
        with suppress(RuntimeError, AttributeError, TypeError, ValueError, IndexError):
            if sample.targets is not None and to_range is _as_it_is:
                with torch.no_grad():
                    free.copy_(_start(sample.targets, free, axis))
            optimizer.step(evaluate)  # type: ignore[no-untyped-call]
            return best if math.isfinite(best) else math.nan
    return math.nan


def _start(targets: Any, free: Tensor, axis: int | None) -> Tensor:
    """Return where to begin: the mean of numbers, in which large ones are far from zero."""
    if not isinstance(targets, Tensor) or not targets.is_floating_point():
        return free
    K = 1 if axis is None else free.numel()
    mean = targets.mean() if targets.numel() % K or targets.shape[-1:] != (K,) else None
    if mean is not None:
        return torch.full_like(free, float(mean))
    return targets.reshape(-1, K).mean(0).view(free.shape)


def _as_it_is(free: Tensor) -> Tensor:
    return free


def _range_of(scores: Tensor, axis: int | None, targets: Any) -> Callable[[Tensor], Tensor]:
    """Return what makes free numbers a constant of the range of the scores."""
    if axis is not None and scores.shape[axis] > 1:
        if is_simplex(scores, axis):
            return lambda free: free.softmax(axis)
        if (scores.logsumexp(axis).abs() < 1e-3).all():
            return lambda free: free.log_softmax(axis)
    within = not isinstance(targets, Tensor) or (targets.min() >= 0 and targets.max() <= 1)
    if scores.min() >= 0 and scores.max() <= 1 and within:
        return torch.sigmoid
    return _as_it_is


def is_simplex(scores: Tensor, axis: int = -1) -> bool:
    """Return whether scores are probabilities that sum to one."""
    sums = scores.detach().double().sum(axis)
    return bool((scores >= 0).all() and ((sums - 1).abs() < 1e-3).all())


def _feature_axis(scores: Tensor, targets: Any) -> int | None:
    """Return the axis of features: the last, or the second of ``(B, K, T)``; None if there is none.

    >>> _feature_axis(torch.zeros(2, 5, 7), torch.zeros(2, 7, dtype=torch.long))
    1
    """
    if isinstance(targets, Tensor):
        if scores.shape == targets.shape and (targets.dim() == 1 or _is_series(targets)):
            return None
        is_class = not targets.is_floating_point() and scores.dim() == targets.dim() + 1
        if is_class and scores.shape[:-1] != targets.shape and scores.shape[0] == len(targets):
            return 1
    return scores.dim() - 1


def _is_series(targets: Tensor) -> bool:
    return targets.dim() == 2 and targets.shape[1] > 8  # a number for each step


def replaced_output(output: Any, scores: Tensor, constant: Tensor) -> Any:
    """Return an output with its scores replaced."""
    if output is scores:
        return constant
    if isinstance(output, dict):
        return {k: replaced_output(v, scores, constant) for k, v in output.items()}
    if isinstance(output, tuple | list):
        parts = [replaced_output(part, scores, constant) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output


def aligned(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, int] | None:
    """Return scores ``(N, K)``, classes ``(N,)`` and the axis of scores; None if unknown."""
    if targets.is_floating_point() or scores.dim() < 2:
        return None
    axis = _feature_axis(scores, targets)
    if axis is None or scores.shape[axis] < 2:
        return None
    flat = scores.movedim(axis, -1)
    if flat.shape[:-1] != targets.shape:
        if flat.shape[:-1].numel() != targets.numel():
            return None
    elif int(targets.max()) >= flat.shape[-1]:
        return None
    return flat.reshape(-1, flat.shape[-1]), targets.reshape(-1), axis
