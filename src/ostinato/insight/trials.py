"""Short training runs of a copy, changed in one respect, that tell causes apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from ostinato.errors import OstinatoError
from ostinato.insight.chance import above_chance, classes_of, known_targets, scores_of
from ostinato.insight.losses import copied, main_output, replaced_output
from ostinato.insight.samples import Loss, mean_loss
from ostinato.recurrence.cells import ZoneoutCell
from ostinato.recurrence.layers import Recurrent
from ostinato.training.evaluation import Sample, eval_mode
from ostinato.training.observations import Observations
from ostinato.training.optimization import clip_gradients, make_optimizer
from ostinato.training.settings import TrainingSettings

BATCH = 32
"""Rows of a step."""

MAX_STEPS = 80
"""Steps of a short run."""

STEPS_BUDGET = 6_000
"""Steps of a sequence times those of a short run, at most; but `MIN_STEPS` are made."""

MIN_STEPS = 20

MIN_JUDGED = 24
"""Rows at least to learn from, and to judge on, where held-out rows are divided."""

Init = Literal["", "orthogonal", "chrono", "identity"]


@dataclass(frozen=True)
class Change:
    """In what a short run differs from the user's.

    Attributes:
        rate: factor of the learning rate.
        standardized: inputs, targets, or neither are standardised.
        decay: whether there is weight decay.
        dropout: whether there are dropout and zoneout.
        clip: largest gradient norm; -1 for as it is, 0 for no limit, of single elements neither.
        thawed: whether all parameters learn.
        init: what the recurrent weights start from, if not from what the modules do.
        kept: whether it starts from the weights as they are, and not from fresh ones.
        layers: layers of each stack of `torch.nn`; 0 for as many as it has.
        cell: what each `nn.RNN` is replaced by, if anything.
        copies: copies of the network side by side, the scores added up; see `Copies`.
        detach: whether `detach` cuts gradients.
        settings: settings of an estimator, by name.
        rows: rows to train on; 0 for all.
        held_out: whether it learns from half of the rows that others are judged on.
        times: how many times as long it is.
    """

    rate: float = 1.0
    standardized: Literal["", "inputs", "targets", "inputs and targets"] = ""
    decay: bool = True
    dropout: bool = True
    clip: float = -1.0
    thawed: bool = False
    init: Init = ""
    kept: bool = False
    layers: int = 0
    cell: Literal["", "lstm", "gru"] = ""
    copies: int = 1
    detach: bool = True
    settings: tuple[tuple[str, Any], ...] = ()
    rows: int = 0
    held_out: bool = False
    times: int = 1


class Trial(NamedTuple):
    """Result of a short run.

    Attributes:
        share: improvement over a constant prediction on rows that were not trained on, if there are
            enough; minus infinity if the run diverged.
        training: the same on those trained on.
        steps: steps made.
        losses: training loss of each.
        above_chance: standard deviations by which predictions are better than chance on the rows of
            ``share``; NaN if unknown.
        one_class: share of the most frequent class in these predictions; NaN if they are none.
    """

    share: float
    training: float
    steps: int
    losses: list[float]
    above_chance: float = math.nan
    one_class: float = math.nan


@dataclass(eq=False)
class Start:
    """What short runs start from."""

    network: nn.Module
    training: Sample
    judged: Sample
    loss: Loss | None
    optimizer: Optimizer | None
    settings: Mapping[str, Any]
    observed: Observations
    row_axis: int
    taken: Callable[..., Sample]
    kind: str
    rebuild: Callable[[Mapping[str, Any]], nn.Module] | None = None
    scales: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The learning rate of the user; where that is unknown, 0.001."""
        if self.optimizer is not None:
            return max(float(group["lr"]) for group in self.optimizer.param_groups)
        usual = self.observed.rate if math.isfinite(self.observed.rate) else 0.001
        return float(self.settings.get("learning_rate") or usual)

    @property
    def steps(self) -> int:
        """Steps of a short run."""
        T = self.training.inputs.shape[1 - self.row_axis]
        return max(MIN_STEPS, min(MAX_STEPS, STEPS_BUDGET // max(1, T)))


def run_trial(start: Start, change: Change, constant: float) -> Trial | None:
    """Train a fresh copy on some rows and judge it on others; None if that is impossible.

    The random state is unchanged, and so are network and optimizer.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        # A loss function may need more of its module or data than a copy and some rows have.
        with suppress(RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError,
                      OstinatoError):  # fmt: skip
            return _run(start, change, constant)
    return None


def _run(start: Start, change: Change, constant: float) -> Trial | None:
    network = fresh(start, change)
    training, judged = _standardized(start, change)
    if change.held_out:
        rows = torch.arange(judged.inputs.shape[start.row_axis])
        half = len(rows) // 2
        if half < MIN_JUDGED:
            return None
        training, judged = start.taken(judged, rows[:half]), start.taken(judged, rows[half:])
    if "targets" in change.standardized:
        constant *= float(_scale(start, "targets")[1].square().mean()) ** -1.0
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = optimizer_of(start, change, network)
    clip, element = change.clip, 0.0
    if clip < 0:
        clip = float(start.settings.get("clip_norm") or start.observed.clip_norm)
        element = float(start.settings.get("clip_value") or 0.0)
    losses, value = [], math.nan
    network.train()
    random = torch.Generator().manual_seed(0)
    count = training.inputs.shape[start.row_axis]
    if 0 < change.rows < count:
        count = change.rows
        training = start.taken(training, torch.arange(count))
    order = torch.randperm(count, generator=random)
    for _ in range(start.steps * change.times):
        if len(order) < min(BATCH, count):
            order = torch.cat([order, torch.randperm(count, generator=random)])
        rows, order = order[:BATCH].sort().values, order[BATCH:]
        with nullcontext() if change.detach else Attached():
            loss = mean_loss(network, start.taken(training, rows), start.loss)
        if not loss.requires_grad:
            return None
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if all(p.grad is None for p in parameters):
            return None  # the loss function is not of its argument, but of a module of its own
        clip_gradients(parameters, clip, element)
        optimizer.step()
        value = float(loss.detach())
        losses.append(value)
        if not math.isfinite(value):
            return Trial(-math.inf, -math.inf, len(losses), losses)
    with eval_mode(network), torch.no_grad():
        end = float(mean_loss(network, judged, start.loss))
    scores = scores_of(network, judged, start.loss)
    pair = None if scores is None else classes_of(scores, known_targets(judged), start.kind)
    one_class = math.nan
    if pair is not None and len(pair[1]):
        one_class = float(np.bincount(pair[1]).max() / len(pair[1]))
    scale = constant if constant > 1e-9 else abs(losses[0])
    zero = constant if constant > 1e-9 else losses[0]
    last = fmean(losses[-5:])
    share = (zero - end) / scale if math.isfinite(end) else -math.inf
    above = above_chance(scores, judged, start.kind)
    return Trial(share, (zero - last) / scale, len(losses), losses, above, one_class)


class Attached(TorchFunctionMode):
    """Inside the block `detach` returns the tensor itself, so that it cuts no gradient.

    >>> x = torch.ones(2, requires_grad=True)
    >>> with Attached():
    ...     y = x.detach()
    >>> y is x
    True
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.detach, torch.detach):
            return args[0]
        return func(*args, **(kwargs or {}))


class Copies(nn.Module):
    """Copies of a network side by side: one with as many times its units, in blocks.

    Scores are added up and divided by the root of their number, as a wider layer would start; where
    they are probabilities, their mean is taken.
    """

    def __init__(self, copies: Sequence[nn.Module]) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copies)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the first copy, with the scores of all."""
        outputs = [copy(*args, **kwargs) for copy in self.copies]
        scores = [main_output(output) for output in outputs]
        bounded = all(bool(((s >= 0) & (s <= 1)).all()) for s in scores)
        whole = torch.stack(scores).sum(0) / len(scores) ** (1.0 if bounded else 0.5)
        return replaced_output(outputs[0], scores[0], whole)


def fresh(start: Start, change: Change) -> nn.Module:
    """Return the network as it was before training, as near as its modules can tell."""
    if change.copies > 1:
        if start.loss is None:
            raise OstinatoError("a network that computes its own loss cannot be one of several")
        alone = replace(change, copies=1)
        return Copies([fresh(start, alone) for _ in range(change.copies)])
    if start.rebuild is not None and not change.kept:
        network = start.rebuild(dict(change.settings))
    else:
        network = copied(start.network)
        for module in network.modules():
            own = list(module.parameters(recurse=False))
            learns = any(p.requires_grad for p in own) or change.thawed
            if (
                own
                and learns
                and not change.kept
                and callable(reset := getattr(module, "reset_parameters", None))
            ):
                reset()
    if change.thawed:
        network.requires_grad_(True)
    if change.layers or change.cell:
        replace_stacks(network, change.layers, change.cell)
    if not change.dropout:
        remove_dropout(network)
    if change.init:
        T = start.training.inputs.shape[1 - start.row_axis]
        for module in network.modules():
            if isinstance(module, nn.RNNBase):
                initialize(module, change.init, T)
    return network


def replace_stacks(network: nn.Module, layers: int, cell: Literal["", "lstm", "gru"] = "") -> None:
    """Replace stacks of `torch.nn` by fresh ones of fewer layers or another cell, in place."""
    for module in list(network.modules()):
        for name, each in list(module.named_children()):
            if not isinstance(each, nn.RNNBase):
                continue
            L = min(each.num_layers, layers or each.num_layers)
            kind: Any = type(each)
            if cell and isinstance(each, nn.RNN):
                kind = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
            if kind is type(each) and each.num_layers == L:
                continue
            options: dict[str, Any] = {"bias": each.bias, "batch_first": each.batch_first}
            options |= {"bidirectional": each.bidirectional, "dropout": each.dropout * (L > 1)}
            if kind is nn.RNN and isinstance(each, nn.RNN):
                options["nonlinearity"] = each.nonlinearity
            if isinstance(each, nn.LSTM):
                options["proj_size"] = each.proj_size
            made = kind(each.input_size, each.hidden_size, L, **options)
            setattr(module, name, made.to(next(each.parameters())))


def remove_dropout(network: nn.Module) -> None:
    """Set all dropout, of words too, and zoneout to zero, in place."""
    for module in network.modules():
        for name in ("dropout", "variational_dropout", "weight_dropout", "word_dropout", "p"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
        if isinstance(module, Recurrent):
            for cell in module.cells:
                if isinstance(cell, ZoneoutCell):
                    object.__setattr__(cell, "rates", 0.0)


def initialize(layer: nn.RNNBase, init: Init, steps: int) -> None:
    """Start recurrent weights and gates as `Remedy.code` says."""
    H = layer.hidden_size
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh") and init != "identity":
                for block in torch.split(weight, H):
                    if block.shape[0] == block.shape[1]:
                        nn.init.orthogonal_(block)
            elif name.startswith("bias_ih") and init == "identity":
                weight.zero_()
            elif name.startswith("bias_ih") and isinstance(layer, nn.LSTM):
                weight[H : 2 * H] = 1.0
                if init == "chrono":
                    times = torch.empty(H).uniform_(1, max(2, steps - 1)).log()
                    weight[H : 2 * H], weight[:H] = times, -times
            elif name.startswith("bias_ih") and isinstance(layer, nn.GRU) and init == "chrono":
                weight[H : 2 * H] = torch.empty(H).uniform_(1, max(2, steps - 1)).log()


def optimizer_of(start: Start, change: Change, network: nn.Module) -> Optimizer:
    """Return an optimizer of a fresh network, like the user's."""
    if start.optimizer is None:
        known = {n: v for n, v in start.settings.items() if n in _TRAINING and v is not None}
        known |= {n: v for n, v in change.settings if n in _TRAINING}
        known.setdefault("learning_rate", start.rate)
        known.setdefault("optimizer", _known_name(start.observed.optimizer))
        settings = TrainingSettings(**{n: known[n] for n in _TRAINING if n in known})
        settings.learning_rate *= change.rate
        if not change.decay:
            settings.weight_decay = 0.0
        return make_optimizer(network, settings)
    names = {id(p): name for name, p in start.network.named_parameters()}
    members = network.copies if isinstance(network, Copies) else [network]
    own = [dict(member.named_parameters()) for member in members]
    groups = []
    for group in start.optimizer.param_groups:
        options = {k: v for k, v in group.items() if k not in ("params", "initial_lr")}
        options["lr"] = float(group["lr"]) * change.rate
        if not change.decay and "weight_decay" in options:
            options["weight_decay"] = 0.0
        of_group = [names[id(p)] for p in group["params"] if id(p) in names]
        params = [each[name] for name in of_group for each in own if name in each]
        if params:
            groups.append({"params": params, **options})
    if change.thawed or not groups:
        held = {id(p) for group in groups for p in group["params"]}
        others = [p for p in network.parameters() if id(p) not in held]
        options = {k: v for k, v in start.optimizer.param_groups[0].items() if k != "params"}
        options.pop("initial_lr", None)
        if others:
            groups.append({"params": others, **options})
    make: Any = type(start.optimizer)
    defaults = {k: v for k, v in start.optimizer.defaults.items() if k in ("lr",)}
    made: Optimizer = make(groups, **defaults)
    return made


def _known_name(name: str) -> str:
    return name if name in ("sgd", "rmsprop", "adam", "adamw") else "adam"


_TRAINING = ("learning_rate", "optimizer", "momentum", "weight_decay")


def _standardized(start: Start, change: Change) -> tuple[Sample, Sample]:
    found = []
    for sample in (start.training, start.judged):
        if "inputs" in change.standardized:
            mean, std = _scale(start, "inputs")
            sample = sample._replace(inputs=(sample.inputs - mean) / std)
        if "targets" in change.standardized:
            mean, std = _scale(start, "targets")
            sample = sample._replace(targets=(sample.targets - mean) / std)
        found.append(sample)
    return found[0], found[1]


def _scale(start: Start, name: Literal["inputs", "targets"]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the features of inputs or targets."""
    if name not in start.scales:
        v = getattr(start.training, name)
        axes = (
            tuple(range(v.dim() - 1)) if v.dim() > 2 or name == "inputs" else tuple(range(v.dim()))
        )
        mean, std = v.mean(axes, keepdim=True), v.std(axes, keepdim=True)
        start.scales[name] = mean, torch.where(std > 1e-6 * mean.abs() + 1e-12, std, 1.0)
    return start.scales[name]


def best_rate(rates: Mapping[float, Trial | None], least: float) -> float | None:
    """Return the factor of the learning rate that gave most, if it gave more than the user's.

    Of factors that are within ``least`` of the best, the one nearest to the user's.
    """
    shares = {f: t.share for f, t in rates.items() if t is not None}
    if 1.0 not in shares:
        return None
    top = max(shares.values())
    if not top > max(shares[1.0], 0.0) + least:
        return None
    good = [f for f, share in shares.items() if share > top - least / 2]
    return min(good, key=lambda f: abs(math.log10(f)))
