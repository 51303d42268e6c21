"""Causes that lie in the recurrent layers: gradients over time and depth, gates, units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.insight.causes.common import J, helped, unless_learned
from ostinato.insight.evidence import Evidence
from ostinato.insight.flow import LayerFlow
from ostinato.insight.trials import Change
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.tracing import Traced, stacks_of
from ostinato.recurrence.cells import RNNCell
from ostinato.recurrence.layers import Recurrent
from ostinato.training.findings import Cause, Finding, Remedy
from ostinato.training.free_causes import FREE, clipping

_ORTHOGONAL = Remedy(
    "init", "orthogonal", "recurrent weights that preserve norms",
    "for name, w in model.named_parameters():\n"
    "    if 'weight_hh' in name: [nn.init.orthogonal_(b) for b in w.data.split(w.shape[1])]",
)  # fmt: skip


def _stacks(j: J) -> list[Recurrent]:
    return [stack for _, _, stack in stacks_of(j.evidence.network)]


def _cell(j: J) -> str:
    """Return the name of the cell: ``rnn``, ``rnn-relu``, or another for one with gates."""
    cells = [cell for stack in _stacks(j) for cell in stack.cells]
    loops = [m for m in j.evidence.network.modules() if isinstance(m, nn.RNNCellBase)]
    plain = next((cell for cell in cells if isinstance(cell, RNNCell)), None)
    own = next((m for m in loops if isinstance(m, nn.RNNCell)), None)
    if plain is not None:
        return "rnn-relu" if plain.activation == "relu" else "rnn"
    if own is not None:
        return "rnn-relu" if own.nonlinearity == "relu" else "rnn"
    return str(j.evidence.settings.get("cell", "gated" if cells or loops else "rnn"))


def _unpadded(layer: Traced, values: Tensor) -> Tensor:
    """Return ``values (T, B, H)`` of a layer as ``(steps, H)``, without padding."""
    return values.cpu()[torch.arange(len(values))[:, None] < layer.ends.cpu()]


def _learned_well(j: J) -> bool:
    return j.improvement > j.thresholds.good_improvement


# Weights


def identical_layers(j: J) -> Iterator[Finding]:
    """Two layers with nearly the same weights."""
    for stack in _stacks(j):
        for i, k in combinations(range(len(stack._all_weights)), 2):
            a, b = ([w for w in stack.weights_of(n).values() if w.dim() > 1] for n in (i, k))
            if [w.shape for w in a] != [w.shape for w in b]:
                continue
            pairs = [torch.stack(pair).detach().flatten(1) for pair in zip(a, b, strict=True)]
            r = min(float(torch.corrcoef(p.double()).nan_to_num()[0, 1]) for p in pairs)
            # Independent weights have a correlation of 1 / sqrt(number of weights) by chance.
            chance = min(v.numel() for v in a) ** -0.5
            if r > min(0.95, max(j.thresholds.correlation, 5 * chance)):
                yield Finding(
                    "identical layers",
                    f"layers {i} and {k} have nearly the same weights, with a correlation of "
                    f"{r:.3f} (independent layers: about 0): they were initialised equal and do "
                    "little more than a single layer.",
                    {"correlation": r},
                    [
                        Remedy("seed", 1, "initialise each layer independently",
                               "for m in model.modules():\n"
                               "    if hasattr(m, 'reset_parameters'): m.reset_parameters()"),
                        Remedy("num_layers", 1, "one layer does the work of both", "num_layers=1"),
                    ],
                    0.92,
                )  # fmt: skip


def identical_units(j: J) -> Iterator[Finding]:
    """All units of a layer have the same state."""
    e = j.evidence
    for layer in e.traced:
        h = _unpadded(layer, layer.trace.states.h).double()
        if h.shape[1] < 2 or not len(h) or not bool(h.isfinite().all()):
            continue
        if isinstance(layer.cell, RNNCell) and layer.cell.activation == "relu":
            continue  # dead units, if all are zero
        if float(h.abs().mean()) > j.thresholds.saturated:
            continue  # at an end of their range, where all look the same
        apart = float(h.std(1).mean() / h.square().mean().sqrt().clamp(min=1e-12))
        if apart < j.thresholds.identical:
            yield Finding(
                "identical units",
                f"{layer.name}: its {h.shape[1]} units have the same state at every step, within "
                f"{apart:.1g} of its size: they were initialised equal, get equal gradients, and "
                "stay so. The layer is one of a single unit.",
                {"apart": apart},
                [
                    Remedy(
                        "init", "orthogonal", "weights that differ from the start",
                        "for m in model.modules():\n"
                        "    if hasattr(m, 'reset_parameters'): m.reset_parameters()",
                    )
                ],
                unless_learned(j, 0.95, proven=True),
            )  # fmt: skip
            return


def not_finite(j: J) -> Iterator[Finding]:
    """Weights, or the loss on the data, that are NaN or infinite."""
    e = j.evidence
    bad = [n for n, p in e.network.named_parameters() if not p.isfinite().all()]
    if bad or not math.isfinite(e.loss_now):
        where = f"weight {bad[0]}" if bad else "the loss"
        yield Finding(
            "not finite",
            f"{where} is not finite: gradients exploded, or the data hold NaN or infinity.",
            {"weights": float(len(bad))},
            against_explosion(j),
            0.95,
        )


# States and gates


def dead_units(j: J) -> Iterator[Finding]:
    """ReLU units that are zero whatever comes in."""
    remedies = [
        Remedy("init", "identity", "start from biases of zero",
               "for m in model.modules():\n"
               "    if isinstance(m, nn.RNN): m.bias_ih_l0.data.zero_()"),
        j.lower_rate("steps that disable no units"),
        Remedy("cell", "gru", "units that cannot die", "nn.GRU in place of nn.RNN"),
    ]  # fmt: skip
    if j.evidence.settings.get("cell") == "rnn-relu":  # an estimator's starts from the identity
        del remedies[0]
    for layer in j.evidence.traced:
        if not isinstance(layer.cell, RNNCell) or layer.cell.activation != "relu":
            continue
        h = _unpadded(layer, layer.trace.states.h)
        dead = float((h.abs().amax(0) == 0).double().mean())
        if dead > j.thresholds.dead:
            yield Finding(
                "dead units",
                f"{layer.name}: {dead:.0%} of its ReLU units are zero at every step of every "
                "sequence examined; no gradient reaches them, and they do not learn.",
                {"dead": dead},
                remedies,
                0.85,
            )


def saturated_gates(j: J) -> Iterator[Finding]:
    """Gates or units at an end of their range."""
    for layer in j.evidence.traced:
        yield from _closed_gates(j, layer)
        yield from _saturated_units(j, layer)


def _closed_gates(j: J, layer: Traced) -> Iterator[Finding]:
    t, gates = j.thresholds, layer.trace.gates
    letters = {} if gates is None else gates._asdict()
    for letter, padded in letters.items():
        values = _unpadded(layer, padded)
        if letter not in ("i", "f", "o", "z", "r") or values.min() < 0:
            continue
        closed = float((values < 0.05).double().mean())
        open_ = float((values > 0.95).double().mean())
        mean = float(values.mean())
        passes = 1 - mean if letter == "z" and "r" in letters else mean
        if letter == "f" and "g" in letters:
            is_bad = passes < t.forget_gate or closed > t.saturated
            effect = "the cell state is forgotten at every step"
        else:
            is_bad = passes < t.closed and not _learned_well(j)
            effect = "almost nothing passes it, forward or backward"
        if is_bad:
            above = f" (above 0.95 at {open_:.0%})" if letter == "z" else ""
            yield Finding(
                "saturated gates",
                f"{layer.name}: gate {letter} is {mean:.3f} on average, and below 0.05 at "
                f"{closed:.0%} of steps and units{above}: {effect}.",
                {"mean": mean, "closed": closed, "open": open_},
                [
                    Remedy("init", "orthogonal", "a forget gate that starts open", _OPEN),
                    _chrono(j.evidence.flow.steps, "gates that start with long memories"),
                    j.lower_rate("steps that saturate no gates"),
                ],
                0.82,
            )


_OPEN = (
    "for name, b in model.named_parameters():\n"
    "    if 'bias_ih' in name: b.data.zero_(); H = len(b) // 4; b.data[H:2 * H] = 1.0"
)


def _saturated_units(j: J, layer: Traced) -> Iterator[Finding]:
    cell, h = layer.cell, _unpadded(layer, layer.trace.states.h)
    if not isinstance(cell, RNNCell) or cell.activation not in ("tanh", "sigmoid"):
        return
    ends = h.abs() > 0.99 if cell.activation == "tanh" else (h < 0.01) | (h > 0.99)
    share = float(ends.double().mean())
    if share > j.thresholds.saturated:
        yield Finding(
            "saturated gates",
            f"{layer.name}: {share:.0%} of its {cell.activation} units are at an end of their "
            "range, where their gradient is zero.",
            {"saturated": share},
            [
                _ORTHOGONAL,
                j.lower_rate("steps that saturate no units"),
                Remedy("cell", "lstm", "a cell state that is not squashed",
                       "nn.LSTM in place of nn.RNN"),
            ],
            0.82,
        )  # fmt: skip


# Gradients


def exploding(j: J) -> Iterator[Finding]:
    """Gradients that grow on their way back through time."""
    e, t = j.evidence, j.thresholds
    for layer in e.flow.layers:
        growth = layer.growth()
        gain = 0.0 if layer.gains is None else float(np.nanmax(layer.gains))
        if growth.low > 1 and growth.factor > t.growth and gain > t.exploded:
            remedies = against_explosion(j)
            base = e.trial() if e.was_trained and not _learned_well(j) else None
            if base is not None and base.share > max(0.0, j.improvement) + t.helps:
                # Fresh weights learn: those that it started from are at fault.
                remedies = [_ORTHOGONAL, *(r for r in remedies if r is not _ORTHOGONAL)]
            yield Finding(
                "exploding",
                f"{layer.name}: going back in time, the gradient {growth}, {gain:.2g} times over "
                "the sequence.",
                {"growth": growth.factor, "low": growth.low, "gain": gain},
                remedies,
                0.89,
            )


def vanishing_over_layers(j: J) -> Iterator[Finding]:
    """A deep stack whose lowest layers get no gradient, or that learns less than a single layer."""
    e, t = j.evidence, j.thresholds
    layers = [layer for layer in e.flow.layers if "backward" not in layer.name]
    sizes = [layer.size for layer in layers]
    depth = max((m.num_layers for m in e.network.modules() if _is_stack(m)), default=0)
    if len(sizes) < 3 or not max(sizes) > 0:
        return
    share = sizes[0] / sizes[-1] if sizes[-1] else 0.0
    each = share ** (1 / (len(sizes) - 1))
    p, weighed = 0.78 if share < t.layer_vanished else 0.0, list[str]()
    if depth >= t.deep and e.was_trained and not _learned_well(j):
        change = Change(layers=1) if e.rebuild is None else Change(settings=(("num_layers", 1),))
        tried, weighed = helped(j, change, "a single layer", max(p, 0.5), fits=True)
        p = max(p, tried)
    if p:
        yield Finding(
            "vanishing over layers",
            f"the lowest of {len(sizes)} layers has {share:.2g} of the gradient of the top layer; "
            f"each layer passes on {each:.2f} of it.",
            {"share": share, "each": each},
            [
                Remedy("residual", True, "layers that add their input to their output",
                       "ostinato.LSTM(..., num_layers=L, residual=True) in place of nn.LSTM"),
                Remedy("num_layers", 2, "fewer layers", "num_layers=2"),
                _ORTHOGONAL,
            ],
            p,
            weighed,
        )  # fmt: skip


def _is_stack(module: nn.Module) -> TypeGuard[nn.RNNBase | Recurrent]:
    return isinstance(module, nn.RNNBase | Recurrent)


def vanishing_over_time(j: J) -> Iterator[Finding]:
    """Little of the gradient reaches early steps, and what is near was not enough."""
    t, e = j.thresholds, j.evidence
    many = isinstance(e.network, ManyToMany) or (e.scores is not None and e.scores.dim() > 2)
    enough = t.step_improvement if many else t.improvement
    if not e.flow.layers or j.improvement > enough:
        return
    best = max(e.flow.layers, key=lambda layer: _left(j, layer))
    left, growth = _left(j, best), best.growth()
    underflow = ""
    if best.underflow > 0.01:
        underflow = f", and {best.underflow:.0%} of it is smaller than any normal number"
    if left < t.vanished:
        share = f"{left:.2g}" if left > 0 else "nothing"
        shrinks = f": it {growth}" if math.isfinite(growth.factor) else ""
        yield Finding(
            "vanishing over time",
            f"{share} of the gradient is left {_required_lag(j, best)} steps before the last"
            f"{shrinks}{underflow}. Dependencies on inputs that early cannot be learned.",
            {"left": left, "growth": growth.factor, "underflow": best.underflow},
            against_vanishing(j),
            0.75,
        )


def short_memory(j: J) -> Iterator[Finding]:
    """Inputs as far back as the task needs have no effect."""
    e = j.evidence
    if e.distance is None or e.influence is None:
        return
    influence = e.influence
    effects = influence.effect[influence.lags >= e.distance]
    if not len(effects):
        return
    effect = float(effects[0] / max(1e-300, influence.effect.max()))
    length = influence.memory_length
    if effect < j.thresholds.influence:
        yield Finding(
            "short memory",
            f"the task depends on inputs {e.distance} steps before; their effect on the output is "
            f"{effect:.2g} of the largest effect, and inputs have an effect for {length} steps.",
            {"effect": effect, "memory_length": float(length)},
            against_vanishing(j),
            0.72,
        )


def _required_lag(j: J, layer: LayerFlow) -> int:
    """Return the lag that gradients must reach: the task's, or two thirds of the sequence."""
    lags = int(np.isfinite(layer.norms).sum())
    distance = j.evidence.distance
    return 2 * lags // 3 if distance is None else min(distance, lags - 1)


def _left(j: J, layer: LayerFlow) -> float:
    """Return the share of the largest gradient that is left from the required lag on."""
    norms = np.nan_to_num(layer.norms)
    if not norms.max(initial=0.0) > 0:
        return 0.0
    return float(norms[_required_lag(j, layer) :].max() / norms.max())


# Remedies


def against_explosion(j: J) -> list[Remedy]:
    """Return remedies for gradients that grow."""
    remedies, settings = [], j.evidence.settings
    if not settings.get("clip_norm"):
        remedies.append(clipping("steps of a bounded length"))
    if _cell(j).startswith("rnn"):
        gru = Remedy("cell", "gru", "gates that keep gradients bounded",
                     "nn.GRU in place of nn.RNN")  # fmt: skip
        remedies += [_ORTHOGONAL, gru]
    remedies.append(j.lower_rate("steps that do not diverge"))
    if window := settings.get("window"):
        remedies.append(Remedy("window", max(1, window // 2), "shorter paths back in time"))
    return remedies


def against_vanishing(j: J) -> list[Remedy]:
    """Return remedies for gradients that shrink."""
    cell, network, steps = _cell(j), j.evidence.network, j.evidence.flow.steps
    remedies = [_chrono(steps, f"gates that start with memories of up to {steps} steps")]
    if cell.startswith("rnn"):
        why = "a cell state that gradients pass unchanged"
        remedies = [Remedy("cell", "lstm", why, "nn.LSTM in place of nn.RNN")]
        if cell != "rnn-relu":
            remedies.append(
                Remedy("cell", "rnn-relu", "units that start as perfect memories",
                       "ostinato.RNN(..., nonlinearity='relu', init='identity')")
            )  # fmt: skip
    if isinstance(network, ManyToOne) and network.pooling == "last":
        remedies.append(Remedy("pooling", "attention", "a short path to every step",
                               "pooling='attention'"))  # fmt: skip
    elif not isinstance(network, ManyToMany | ManyToOne):
        code = "h.mean(1)  # in place of h[:, -1]"
        remedies.append(Remedy("", "", "a short path to every step", code))
    return [*remedies, _ORTHOGONAL]


def _chrono(steps: int, why: str) -> Remedy:
    code = f"ostinato.LSTM(..., init='chrono', init_steps={steps}) in place of nn.LSTM"
    return Remedy("init", "chrono", why, code)


CAUSES: tuple[Cause[Evidence], ...] = (
    FREE["not finite"].also(not_finite),
    Cause("identical layers", "Two layers were initialised equal.", identical_layers),
    Cause("identical units", "All units of a layer were initialised equal.", identical_units),
    FREE["exploding"].also(exploding),
    Cause("dead units", "ReLU units are always zero.", dead_units),
    Cause("saturated gates", "Gates or units are at an end of their range.", saturated_gates),
    Cause(
        "vanishing over layers",
        "The lowest layers of a deep stack get no gradient.",
        vanishing_over_layers,
    ),
    Cause(
        "vanishing over time", "Little of the gradient reaches early steps.", vanishing_over_time
    ),
    Cause("short memory", "Inputs as far back as the task needs have no effect.", short_memory),
)
