"""Short training runs of a copy, changed in one respect, that tell causes apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ostinato.errors import OstinatoError
from ostinato.insight.losses import copied
from ostinato.insight.samples import Loss, mean_loss
from ostinato.recurrence.cells import ZoneoutCell
from ostinato.recurrence.layers import Recurrent
from ostinato.training.evaluation import Sample, eval_mode
from ostinato.training.findings import Observations
from ostinato.training.optimization import clip_gradients, make_optimizer
from ostinato.training.settings import TrainingSettings

BATCH = 32
"""Rows of a step."""

MAX_STEPS = 80
"""Steps of a short run."""

STEPS_BUDGET = 6_000
"""Steps of a sequence times those of a short run, at most; but `MIN_STEPS` are made."""

MIN_STEPS = 20


@dataclass(frozen=True)
class Change:
    """In what a short run differs from the user's.

    Attributes:
        rate: factor of the learning rate.
        standardized: inputs, targets, or neither are standardised.
        decay: whether there is weight decay.
        dropout: whether there are dropout and zoneout.
        clip: largest gradient norm; -1 for as it is, 0 for no limit.
        thawed: whether all parameters learn.
        init: what the recurrent weights start from, if not from what the modules do.
        settings: settings of an estimator, by name.
        rows: rows to train on; 0 for all.
    """

    rate: float = 1.0
    standardized: Literal["", "inputs", "targets", "inputs and targets"] = ""
    decay: bool = True
    dropout: bool = True
    clip: float = -1.0
    thawed: bool = False
    init: Literal["", "orthogonal", "chrono"] = ""
    settings: tuple[tuple[str, Any], ...] = ()
    rows: int = 0


class Trial(NamedTuple):
    """Result of a short run.

    Attributes:
        share: improvement over a constant prediction on rows that were not trained on, if there are
            enough; minus infinity if the run diverged.
        training: the same on those trained on.
        steps: steps made.
        losses: training loss of each.
    """

    share: float
    training: float
    steps: int
    losses: list[float]


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
    if "targets" in change.standardized:
        constant *= float(_scale(start, "targets")[1].square().mean()) ** -1.0
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = _optimizer(start, change, network)
    clip = change.clip
    if clip < 0:
        clip = float(start.settings.get("clip_norm") or start.observed.clip_norm)
    losses, value = [], math.nan
    network.train()
    random = torch.Generator().manual_seed(0)
    if change.rows:
        training = start.taken(training, torch.arange(change.rows))
    count = training.inputs.shape[start.row_axis]
    order = torch.randperm(count, generator=random)
    for _ in range(start.steps):
        if len(order) < min(BATCH, count):
            order = torch.cat([order, torch.randperm(count, generator=random)])
        rows, order = order[:BATCH].sort().values, order[BATCH:]
        loss = mean_loss(network, start.taken(training, rows), start.loss)
        if not loss.requires_grad:
            return None
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if all(p.grad is None for p in parameters):
            return None  # the loss function is not of its argument, but of a module of its own
        clip_gradients(parameters, clip, 0.0)
        optimizer.step()
        value = float(loss.detach())
        losses.append(value)
        if not math.isfinite(value):
            return Trial(-math.inf, -math.inf, len(losses), losses)
    with eval_mode(network), torch.no_grad():
        end = float(mean_loss(network, judged, start.loss))
    scale = constant if constant > 1e-9 else abs(losses[0])
    zero = constant if constant > 1e-9 else losses[0]
    last = fmean(losses[-5:])
    share = (zero - end) / scale if math.isfinite(end) else -math.inf
    return Trial(share, (zero - last) / scale, len(losses), losses)


def fresh(start: Start, change: Change) -> nn.Module:
    """Return the network as it was before training, as near as its modules can tell."""
    if start.rebuild is not None:
        network = start.rebuild(dict(change.settings))
    else:
        network = copied(start.network)
        for module in network.modules():
            own = list(module.parameters(recurse=False))
            learns = any(p.requires_grad for p in own) or change.thawed
            if own and learns and callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    if change.thawed:
        network.requires_grad_(True)
    if not change.dropout:
        remove_dropout(network)
    if change.init:
        T = start.training.inputs.shape[1 - start.row_axis]
        for module in network.modules():
            if isinstance(module, nn.RNNBase):
                initialize(module, change.init, T)
    return network


def remove_dropout(network: nn.Module) -> None:
    """Set all dropout and zoneout to zero, in place."""
    for module in network.modules():
        for name in ("dropout", "variational_dropout", "weight_dropout", "p"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
        if isinstance(module, Recurrent):
            for cell in module.cells:
                if isinstance(cell, ZoneoutCell):
                    object.__setattr__(cell, "rates", 0.0)


def initialize(layer: nn.RNNBase, init: Literal["orthogonal", "chrono"], steps: int) -> None:
    """Start recurrent weights from orthogonal ones, and gates open, as `Remedy.code` says."""
    H = layer.hidden_size
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                for block in torch.split(weight, H):
                    if block.shape[0] == block.shape[1]:
                        nn.init.orthogonal_(block)
            elif name.startswith("bias_ih") and isinstance(layer, nn.LSTM):
                weight[H : 2 * H] = 1.0
                if init == "chrono":
                    times = torch.empty(H).uniform_(1, max(2, steps - 1)).log()
                    weight[H : 2 * H], weight[:H] = times, -times
            elif name.startswith("bias_ih") and isinstance(layer, nn.GRU) and init == "chrono":
                weight[H : 2 * H] = torch.empty(H).uniform_(1, max(2, steps - 1)).log()


def _optimizer(start: Start, change: Change, network: nn.Module) -> Optimizer:
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
    copies = dict(network.named_parameters())
    groups = []
    for group in start.optimizer.param_groups:
        options = {k: v for k, v in group.items() if k not in ("params", "initial_lr")}
        options["lr"] = float(group["lr"]) * change.rate
        if not change.decay and "weight_decay" in options:
            options["weight_decay"] = 0.0
        params = [copies[names[id(p)]] for p in group["params"] if id(p) in names]
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
