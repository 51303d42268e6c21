"""What is measured of a network for its diagnosis, each once, when a cause asks for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.optim import Optimizer

from ostinato.errors import OstinatoError
from ostinato.insight.chance import above_chance, classes_of, known_targets, output_of, scores_of
from ostinato.insight.flow import GradientFlow, gradient_flow
from ostinato.insight.influence import InputInfluence, ScoringNetwork, input_influence
from ostinato.insight.losses import constant_loss, copied, main_output
from ostinato.insight.samples import Loss, mean_loss, row_lengths
from ostinato.insight.trials import Change, Start, Trial, run_trial
from ostinato.networks.tracing import Traced, tracing
from ostinato.recurrence.layers import Recurrent
from ostinato.training.evaluation import Sample, eval_mode
from ostinato.training.observations import Observations
from ostinato.training.thresholds import Thresholds

SHUFFLES = 8
"""Times that inputs are shuffled against the targets, to see what loss chance gives."""

FEW = 8
"""Rows of a small batch."""

TRIAL_SECONDS = 20.0
"""Seconds (of the CPU) after which no further short training run is begun."""

TRIAL_ROWS = 256
"""Maximum number of rows that short training runs use."""

JUDGED_ROWS = 64
"""Rows by which short training runs are judged, where there are enough."""


class Features(NamedTuple):
    """Statistics of features of real numbers, ``(F,)`` each, without padding.

    Attributes:
        mean: mean of each.
        std: standard deviation.
        span: largest absolute distance from the median, in robust standard deviations.
        far: share of the values that are outliers.
        usual: size without outliers: root of the squares of median and robust deviation.
        weight: share of the squared distances from the median that is that of outliers.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    span: NDArray[np.float64]
    far: NDArray[np.float64]
    usual: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, values: Tensor, outlier: float) -> Features:
        """Measure ``values (N, F)``."""
        v = values.detach().double().cpu().numpy()
        middle = np.median(v, axis=0)
        centred = np.abs(v - middle)
        spread = np.median(centred, axis=0) / 0.6745
        std = v.std(0)
        # Where more than half of the values are equal, the usual distance of the others counts.
        for k in np.flatnonzero(spread <= 1e-3 * std):
            others = centred[:, k][centred[:, k] > 0]
            spread[k] = np.median(others) / 0.6745 if len(others) else 0.0
        distance = centred / np.where(spread > 0, spread, np.inf)
        far = (distance > outlier).mean(0)
        usual = np.sqrt(middle**2 + spread**2)
        squares = centred**2
        weight = (squares * (distance > outlier)).sum(0) / np.maximum(squares.sum(0), 1e-300)
        return cls(v.mean(0), std, distance.max(0, initial=0.0), far, usual, weight)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether each feature has the same value everywhere."""
        return np.asarray(self.std <= 1e-7 * (1e-30 + np.abs(self.mean)))

    @property
    def sizes(self) -> NDArray[np.float64]:
        """Size of each feature: root mean square."""
        return np.asarray(np.sqrt(self.mean**2 + self.std**2))


@dataclass(eq=False)
class Evidence:
    """Measurements of a network on data.

    Args:
        network: the network; what may change it is done to a copy.
        sample: the data.
        observed: what training showed.
        thresholds: the limits.
        loss: loss function; None for the network's own.
        held_out: data that were not trained on.
        optimizer: the user's.
        settings: of an estimator; empty for a network.
        distance: steps from input to output over which the task depends, if known.
        rebuild: makes a fresh network with other settings; of an estimator.
        free_running: loss of the network fed with its own predictions, if known.
        may_train: whether short training runs may be made.
        more: a sample of more rows, for these; None for the data.
        spent: seconds that they took so far.
    """

    network: nn.Module
    sample: Sample
    observed: Observations
    thresholds: Thresholds = field(default_factory=Thresholds)
    loss: Loss | None = None
    held_out: Sample | None = None
    optimizer: Optimizer | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    distance: int | None = None
    rebuild: Callable[[Mapping[str, Any]], nn.Module] | None = None
    free_running: float = math.nan
    may_train: bool = True
    more: Sample | None = None
    spent: float = 0.0

    # Losses

    @cached_property
    def copy(self) -> nn.Module:
        """A copy of the network for measurements that may change it, in eval mode."""
        return copied(self.network).eval()

    def loss_of(self, sample: Sample, loss: Loss | None = None) -> float:
        """Return the mean loss on some data, in eval mode; by another function, if given."""
        with eval_mode(self.copy), torch.no_grad():
            return float(mean_loss(self.copy, sample, loss or self.loss))

    @property
    def wide(self) -> Sample:
        """The data, of more rows where there are more."""
        return self.more or self.sample

    @cached_property
    def loss_now(self) -> float:
        """The loss on the data."""
        return self.loss_of(self.wide)

    def output_of(self, sample: Sample) -> Any:
        """Return what the module returns for some data; None if it is not called as a whole."""
        return output_of(self.copy, sample, self.loss)

    @cached_property
    def output(self) -> Any:
        """What the module returns for the data; None if it is not called as a whole."""
        return self.output_of(self.sample)

    def scores_of(self, sample: Sample) -> Tensor | None:
        """Return the scores for some data, or None."""
        return scores_of(self.copy, sample, self.loss)

    @cached_property
    def scores(self) -> Tensor | None:
        """The scores for the data: the first tensor that the module returns; None if unknown."""
        with suppress(OstinatoError):
            found = main_output(self.output)
            return found if found.dim() else None
        return None

    @cached_property
    def repeat_change(self) -> float:
        """Largest relative change of scores when a call is made again, after one of other rows.

        Of the whole rows, and of their first steps, in which a state is not yet forgotten.
        """
        T, B = self.sample.inputs.shape[1 - self.row_axis], len(self.rows)
        changes = [0.0]
        for steps in {T, min(T, 2)}:
            x = self.sample.inputs.narrow(1 - self.row_axis, 0, steps)
            y, lengths = self.sample.targets, self.sample.lengths
            if isinstance(y, Tensor) and y.shape[:2] == self.sample.inputs.shape[:2]:
                y = y.narrow(1 - self.row_axis, 0, steps)
            lengths = None if lengths is None else lengths.clamp(max=steps)
            same = self.sample._replace(inputs=x, targets=y, lengths=lengths)
            first = self.scores_of(same)
            self.scores_of(self.taken(same, torch.arange(B).roll(1), inputs_only=True))
            second = self.scores_of(same)
            if first is not None and second is not None and first.shape == second.shape:
                change = relative_change(second, first).nan_to_num(0, 0, 0)
                changes.append(float(change.max()) if change.numel() else 0.0)
        return max(changes)

    @cached_property
    def later_change(self) -> float:
        """Largest relative change of scores of the first half of the steps with others after it.

        NaN if scores are not of every step.
        """
        x, scores = self.sample.inputs, self.scores
        if scores is None or self.row_axis or x.dim() < 2 or x.shape[1] < 4:
            return math.nan
        cut, later = x.shape[1] // 2, x.clone()
        later[:, cut:] = later[:, cut:].roll(1, 0).flip(1)
        new = self.scores_of(self.sample._replace(inputs=later))
        if scores.shape[:2] != x.shape[:2] or new is None or new.shape != scores.shape:
            return math.nan
        change = relative_change(new[:, :cut], scores[:, :cut]).nan_to_num(0, 0, 0)
        return float(change.max()) if change.numel() else math.nan

    @cached_property
    def constant(self) -> float:
        """Loss of the best constant output on the data; NaN if unknown."""
        output = self.output if self.more is None else self.output_of(self.wide)
        return self.constant_on(self.wide, output)

    def constant_on(self, sample: Sample, output: Any) -> float:
        """Return the loss of the best constant output on some data."""
        if self.loss is None:
            if isinstance(self.network, ScoringNetwork):
                return best_constant(self.network, sample)
            return math.nan
        return math.nan if output is None else constant_loss(self.loss, self.copy, output, sample)

    @cached_property
    def shuffled(self) -> list[float]:
        """Losses with the inputs of other rows; empty if there are too few rows."""
        B = self.wide.inputs.shape[self.row_axis]
        if B < 4:
            return []
        shifts = sorted({1 + k * (B - 1) // SHUFFLES for k in range(SHUFFLES)})
        found = []
        with suppress(RuntimeError, IndexError):
            for shift in shifts:
                order = torch.arange(B).roll(shift)
                found.append(self.loss_of(self.taken(self.wide, order, inputs_only=True)))
        return found

    @cached_property
    def improvement(self) -> float:
        """1 - loss / loss of the best constant; over shuffled inputs where that is unknown."""
        return self._improvement(self.wide, self.loss_now, self.constant)

    @cached_property
    def held_out_loss(self) -> float:
        """The loss on held-out data; NaN if there are none."""
        return math.nan if self.held_out is None else self.loss_of(self.held_out)

    @cached_property
    def held_out_constant(self) -> float:
        """Loss of the best constant output on held-out data."""
        if self.held_out is None:
            return math.nan
        return self.constant_on(self.held_out, self.output_of(self.held_out))

    @cached_property
    def held_out_improvement(self) -> float:
        """`improvement` on held-out data; NaN if there are none."""
        if self.held_out is None:
            return math.nan
        return self._improvement(self.held_out, self.held_out_loss, self.held_out_constant)

    @cached_property
    def held_out_scores(self) -> Tensor | None:
        """The scores for held-out data, or None."""
        return None if self.held_out is None else self.scores_of(self.held_out)

    @cached_property
    def held_out_deviations(self) -> float:
        """Deviations by which held-out predictions are better than chance; NaN if unknown."""
        if self.held_out is None:
            return math.nan
        return above_chance(self.held_out_scores, self.held_out, self.kind)

    @cached_property
    def learned(self) -> float:
        """Improvement on held-out data; on the data if there are none, or that is not known."""
        apart = self.held_out_improvement
        return self.improvement if math.isnan(apart) else apart

    def _improvement(self, sample: Sample, loss: float, constant: float) -> float:
        if math.isfinite(constant) and constant > 1e-9:
            return 1 - loss / constant
        if sample is self.wide and self.shuffled and not math.isfinite(constant):
            chance = float(np.mean(self.shuffled))
            return 1 - loss / chance if chance > 0 else math.nan
        return math.nan

    @cached_property
    def clearness(self) -> float:
        """Deviations by which the loss is below that of shuffled inputs; NaN if unknown."""
        if len(self.shuffled) < 4 or not np.isfinite(self.shuffled).all():
            return math.nan
        spread = float(np.std(self.shuffled)) + 1e-6 * abs(self.loss_now) + 1e-12
        return (float(np.mean(self.shuffled)) - self.loss_now) / spread

    @property
    def has_learned(self) -> bool:
        """Whether the loss is below the best constant's, and not by chance."""
        t = self.thresholds
        clear = not self.clearness < t.clear
        return (self.learned > t.learned and clear) or self.learned > t.good_improvement

    @property
    def holds(self) -> bool:
        """Whether it is shown that what was learned holds for others, where there are others."""
        return not self.held_out_deviations < self.thresholds.above_chance

    @property
    def was_trained(self) -> bool:
        """Whether there is a sign of training: a history, or steps of the optimizer."""
        return self.observed.total >= 10 or bool(self.settings)

    @cached_property
    def movement(self) -> float:
        """How far all updates together could move the weights, in their size; NaN if unknown."""
        rate, steps = self.start.rate, self.observed.total
        known = self.optimizer is not None or bool(self.observed.rates) or bool(self.settings)
        if not known or not steps:
            return math.nan
        weights = [p for p in self.network.parameters() if p.requires_grad and p.dim() > 1]
        count = sum(p.numel() for p in weights)
        square = sum(float(p.detach().double().square().sum()) for p in weights)
        size = math.sqrt(square / max(1, count))
        usual = float(np.mean(self.observed.rates)) if len(self.observed.rates) > 1 else rate
        if "sgd" in (self.observed.optimizer or self.settings.get("optimizer", "")):
            found = [g for g in self.gradients.values() if g is not None and g.dim() > 1]
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in found))
            held = self.optimizer.param_groups[0].get("momentum", 0.0) if self.optimizer else 0.0
            return steps * usual * norm / (1 - min(0.999, held)) / max(1e-12, math.sqrt(square))
        return steps * usual / max(1e-12, size)  # steps of Adam and its like are of the rate

    @property
    def update(self) -> float:
        """How far an update moves the weights on average, in their size; NaN if unknown."""
        return self.movement / max(1, self.observed.total)

    # Rows and steps

    @cached_property
    def row_axis(self) -> int:
        """The axis of rows of the inputs: 1 where only that has as many as there are targets."""
        x, y = self.sample.inputs, self.sample.targets
        if isinstance(y, Tensor) and x.dim() > 1 and y.dim() and self.sample.lengths is None:
            first, second = x.shape[:2]
            if len(y) == second != first:
                return 1
            if y.dim() > 1 and y.shape[:2] == x.shape[:2] and self._reads_time_first:
                return 1
        return 0

    @property
    def _reads_time_first(self) -> bool:
        """Whether inputs with targets at every step are time first, by the layers and the data."""
        layers = [m for m in self.network.modules() if isinstance(m, nn.RNNBase)]
        x, y = self.sample.inputs, self.sample.targets
        if not layers or any(layer.batch_first for layer in layers) or min(x.shape[:2]) < 4:
            return False
        if x.shape == y.shape:  # the next step of a series
            return bool((x[1:] == y[:-1]).all()) and not bool((x[:, 1:] == y[:, :-1]).all())
        return x.is_floating_point() and smoothness(x, 0) < 0.7 * smoothness(x, 1)

    @property
    def rows(self) -> range:
        """Numbers of the rows."""
        return range(self.sample.inputs.shape[self.row_axis])

    @property
    def count(self) -> int:
        """Number of rows there are for short training runs and for what was learned."""
        return int(self.wide.inputs.shape[self.row_axis])

    def taken(self, sample: Sample, rows: Tensor, *, inputs_only: bool = False) -> Sample:
        """Return some rows of a sample."""
        x = sample.inputs.index_select(self.row_axis, rows.to(sample.inputs.device))
        y, lengths, more = sample.targets, sample.lengths, dict(sample.more)
        if lengths is not None:
            lengths = lengths[rows]
        if not inputs_only:
            B = sample.inputs.shape[self.row_axis]
            y = _rows_of(y, rows, B, self.row_axis)
            more = {k: _rows_of(v, rows, B, 0) for k, v in more.items()}
        elif isinstance(y, Tensor) and lengths is not None and y.dim() > 1:
            lengths = sample.lengths  # targets of each step keep their own ends
        return sample._replace(inputs=x, targets=y, lengths=lengths, more=more)

    @cached_property
    def ends(self) -> Tensor:
        """Steps of each row: as given, or where padding begins that is seen in the inputs."""
        return self._ends_of(self.sample)

    def _ends_of(self, sample: Sample) -> Tensor:
        if sample.lengths is not None:
            return row_lengths(sample)
        x = sample.inputs.movedim(self.row_axis, 0)
        found = padding_begins(x)
        return torch.full((x.shape[0],), x.shape[1]) if found is None else found

    @cached_property
    def values(self) -> Tensor | None:
        """Inputs of real numbers without padding, ``(N, F)``; None for tokens."""
        x = self.wide.inputs.movedim(self.row_axis, 0)
        if not x.is_floating_point() or x.dim() < 2:
            return None
        x = x if x.dim() > 2 else x[..., None]
        mask = torch.arange(x.shape[1])[None] < self._ends_of(self.wide)[:, None]
        return x.flatten(2)[mask.to(x.device)]

    @cached_property
    def inputs(self) -> Features | None:
        """Statistics of the inputs; None for tokens."""
        if self.values is None or not len(self.values):
            return None
        return Features.of(self.values.nan_to_num(0, 0, 0), self.thresholds.outlier)

    @cached_property
    def entering(self) -> Features | None:
        """Statistics of what enters the first recurrent layer, behind any scaling or embedding.

        Of all its calls: in a loop over a cell each is a step.
        """
        first, seen = list[nn.Module](), list[Tensor]()

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0] if args else None
            x = x.data if isinstance(x, PackedSequence) else x
            if isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 1:
                first.append(module)
                if module is first[0]:
                    seen.append(self._unpadded(x.detach(), module).flatten(0, -2))

        kinds = (nn.RNNBase, nn.RNNCellBase, Recurrent)
        hooks = [
            m.register_forward_pre_hook(keep) for m in self.copy.modules() if isinstance(m, kinds)
        ]
        with suppress(Exception):
            _ = self.loss_of(self.sample)
        for hook in hooks:
            hook.remove()
        if not seen:
            return None
        return Features.of(torch.cat(seen).nan_to_num(0, 0, 0), self.thresholds.outlier)

    def _unpadded(self, x: Tensor, layer: nn.Module) -> Tensor:
        """Return what enters a layer ``(B, T, F)``, or ``(T, B, F)``, as ``(N, F)`` of true steps.

        What has another shape stays as it is.
        """
        if x.dim() != 3:
            return x
        T, B = self.sample.inputs.shape[1 - self.row_axis], len(self.rows)
        inside = (torch.arange(T)[None] < self.ends[:, None]).to(x.device)
        shape = tuple(x.shape[:2])
        if shape == (B, T) and (B != T or getattr(layer, "batch_first", True)):
            return x[inside]
        return x[inside.T] if shape == (T, B) else x

    # Targets

    @cached_property
    def kind(self) -> str:
        """Of the targets: category, probability, number, or empty if they are no tensor."""
        y = self.sample.targets
        if not isinstance(y, Tensor):
            return ""
        if isinstance(self.network, ScoringNetwork):
            return self.network.output.kind
        if not y.is_floating_point():
            scores = self.scores
            one_number = scores is not None and scores.numel() == y.numel() and int(y.max()) <= 1
            return "probability" if one_number and int(y.min()) >= 0 else "category"
        return "probability" if bool(((y == 0) | (y == 1)).all()) else "number"

    @cached_property
    def numbers(self) -> Features | None:
        """Statistics of targets that are numbers; None for others."""
        y = self.wide.targets
        if self.kind != "number" or not y.numel():
            return None
        columns = y.shape[-1] if y.dim() > 1 and y.shape[-1] <= 8 else 1
        flat = y.reshape(-1, columns)
        others = None if self.held_out is None else self.held_out.targets
        if isinstance(others, Tensor) and others.numel() % columns == 0:
            flat = torch.cat([flat, others.to(flat).reshape(-1, columns)])  # few show no outliers
        return Features.of(flat.nan_to_num(0, 0, 0), self.thresholds.outlier)

    @cached_property
    def classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """True and predicted class of each item, ``(N,)``; None where there are none."""
        scores = self.scores if self.more is None else self.scores_of(self.wide)
        y = known_targets(self.wide)
        return None if scores is None else classes_of(scores, y, self.kind)

    @cached_property
    def held_out_classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """The same of held-out data."""
        if self.held_out is None:
            return None
        scores, y = self.held_out_scores, known_targets(self.held_out)
        return None if scores is None else classes_of(scores, y, self.kind)

    # The network

    @cached_property
    def unknown(self) -> dict[str, int]:
        """Numbers of parameters of modules in plain lists, which the network lacks, by name."""
        known = {id(m) for m in self.network.modules()}
        found: dict[str, int] = {}
        for name, module in self.network.named_modules():
            for key, value in vars(module).items():
                parts = value.values() if isinstance(value, dict) else value
                if key.startswith("_") or not isinstance(value, list | tuple | dict):
                    continue
                for each in parts:
                    if isinstance(each, nn.Module) and id(each) not in known:
                        place = f"{name}.{key}" if name else key
                        found[place] = found.get(place, 0) + len(list(each.parameters()))
        return {place: count for place, count in found.items() if count}

    @cached_property
    def flow(self) -> GradientFlow:
        """Gradients by step and layer; no layers if the loss has no gradient at all."""
        networks = [self.copy] if self.unknown else [self.copy, self.network]
        for network in networks:  # perhaps the loss function is of a module of its own
            try:
                return gradient_flow(network, self.sample, loss=self.loss)
            except RuntimeError:
                break
            except OstinatoError:
                if network is self.network:
                    raise
        T = self.sample.inputs.shape[1 - self.row_axis]
        return GradientFlow([], self.loss_now, T, {})

    @cached_property
    def traced(self) -> list[Traced]:
        """Gates and states of recurrent layers on the data."""
        with tracing(self.copy) as traced:
            self.loss_of(self.sample)
        return traced

    @cached_property
    def influence(self) -> InputInfluence | None:
        """How far back the output depends on the input; None if it cannot be measured."""
        measurable = isinstance(self.network, ScoringNetwork) and self.loss is None
        if measurable and math.isfinite(self.loss_now):
            return input_influence(self.copy, self.sample)
        return None

    @cached_property
    def gradients(self) -> dict[str, Tensor | None]:
        """Gradient of the loss on the data by each weight, in eval mode; None where none flows."""
        found = self._gradients_of(self.copy)
        if found and all(g is None for g in found.values()):
            found = self._gradients_of(self.network)  # perhaps the loss function is of itself
        return found

    @cached_property
    def batch_norms(self) -> list[float]:
        """Norms of the gradients of some small batches of the data, in training mode."""
        B, found = len(self.rows), list[float]()
        for first in range(0, min(B, 6 * FEW), FEW):
            part = self.taken(self.sample, torch.arange(first, min(B, first + FEW)))
            with suppress(Exception), torch.random.fork_rng(devices=[]), torch.enable_grad():
                network = copied(self.network).train()  # with its dropout
                weights = [p for p in network.parameters() if p.requires_grad]
                value = mean_loss(network, part, self.loss)
                gradients = torch.autograd.grad(value, weights, allow_unused=True)
                squares = (float(g.double().square().sum()) for g in gradients if g is not None)
                found.append(math.sqrt(sum(squares)))
        return found

    def _gradients_of(self, network: nn.Module) -> dict[str, Tensor | None]:
        named = {n: p for n, p in network.named_parameters() if p.requires_grad}
        if not named:
            return {}
        with eval_mode(network), torch.enable_grad():
            try:
                value = mean_loss(network, self.sample, self.loss)
                found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
            except RuntimeError:  # nothing requires a gradient
                return dict.fromkeys(named)
        return dict(zip(named, found, strict=True))

    # Short training runs

    @cached_property
    def start(self) -> Start:
        """What short training runs start from: rows to train and to judge on, and an optimizer."""
        source = self.wide
        B = source.inputs.shape[self.row_axis]
        random = torch.Generator().manual_seed(0)
        order = torch.randperm(B, generator=random)[:TRIAL_ROWS]
        apart = 0 if self.held_out is None else self.held_out.inputs.shape[self.row_axis]
        if self.held_out is not None and (apart >= JUDGED_ROWS or apart >= B // 2):
            training = self.taken(source, order.sort().values)
            judged = self.taken(self.held_out, torch.arange(min(TRIAL_ROWS, apart)))
        elif B >= 16:
            half = len(order) // 2
            training = self.taken(source, order[:half].sort().values)
            judged = self.taken(source, order[half:].sort().values)  # new to a fresh network
        else:
            training = judged = source
        return Start(
            self.network,
            training,
            judged,
            self.loss,
            self.optimizer,
            self.settings,
            self.observed,
            self.row_axis,
            self.taken,
            self.kind,
            self.rebuild,
        )

    @cached_property
    def _trials(self) -> dict[Change, Trial | None]:
        return {}

    def trial(self, change: Change | None = None) -> Trial | None:
        """Train a fresh copy briefly, changed in one respect or not at all; None if impossible."""
        change = change or Change()
        if not self.may_train:
            return None
        if change not in self._trials:
            if self.spent > TRIAL_SECONDS:
                return None
            begin = time.thread_time()
            self._trials[change] = run_trial(self.start, change, self.judged_constant)
            self.spent += time.thread_time() - begin
        return self._trials[change]

    @cached_property
    def judged_constant(self) -> float:
        """Loss of the best constant output on the rows that short training runs are judged on."""
        judged = self.start.judged
        if judged is self.wide:
            return self.constant
        constant = self.constant_on(judged, self.output_of(judged))
        return constant if math.isfinite(constant) else float(np.mean(self.shuffled or [math.nan]))


def _rows_of(value: Any, rows: Tensor, B: int, row_axis: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    if row_axis and value.dim() > 1 and value.shape[1] == B:
        return value.index_select(1, rows.to(value.device))
    return value[rows.to(value.device)] if value.dim() and len(value) == B else value


def best_constant(network: ScoringNetwork, sample: Sample) -> float:
    """Return the loss of the best constant prediction of a network of `networks`."""
    kind, targets = network.output.kind, sample.targets
    if not isinstance(targets, Tensor):
        return math.nan
    if targets.dim() > 1 and targets.shape[:2] == sample.inputs.shape[:2]:
        targets = targets[torch.arange(targets.shape[1])[None] < row_lengths(sample)[:, None]]
    if kind == "category":
        counts = torch.bincount(targets.flatten()).double()
        return float(torch.special.entr(counts / counts.sum()).sum())
    if kind == "number":
        return float(targets.double().var(0, correction=0).sum())
    p = targets.double().mean(0).clamp(1e-9, 1 - 1e-9)
    return float(torch.special.entr(torch.stack([p, 1 - p])).sum())


def smoothness(x: Tensor, axis: int) -> float:
    """Return the mean squared change along an axis, in the variance: 2 where nothing is alike."""
    v = x.detach().double().nan_to_num(0, 0, 0)
    change = v.diff(dim=axis).square().mean()
    return float(change / v.var(correction=0).clamp(min=1e-12))


def padding_begins(x: Tensor) -> Tensor | None:
    """Return the steps of each row before trailing padding; None if no padding is seen.

    Padding is of zeros (of features, or the token 0) at the ends of rows, unlike in different rows,
    and not within them.

    >>> x = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [2, 0, 0, 0], [3, 3, 3, 0]])
    >>> padding_begins(x).tolist()
    [4, 2, 1, 3]
    """
    B, T = x.shape[:2]
    if B < 2 or T < 3:
        return None
    zero = x.eq(0).reshape(B, T, -1).all(-1).cpu()
    ends = T - zero.flip(1).long().cumprod(1).sum(1)
    padded = T - ends
    inside = torch.arange(T)[None] < ends[:, None]
    zeros_inside = float((zero & inside).sum()) / max(1, int(inside.sum()))
    enough = float((padded >= 2).double().mean()) >= 0.25 and len(set(ends.tolist())) > 2
    return ends.clamp(min=1) if enough and zeros_inside < 0.02 else None


def positions(mask: Tensor, limit: int = 3) -> Iterator[str]:
    """Yield where a mask of a tensor is true, as ``[row, step, feature]``."""
    for index in torch.nonzero(mask)[:limit].tolist():
        yield str(index)


def relative_change(new: Tensor, old: Tensor) -> Tensor:
    """Return absolute changes in the size of what changed."""
    size = old.detach().double().std() + old.detach().double().abs().mean() + 1e-12
    return (new.detach().double() - old.detach().double()).abs() / size
