"""The network of a forecaster as an ONNX graph: read steps, and predict what follows each."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.deploy.graph import Graph
from ostinato.deploy.pieces import (
    Feeds,
    Head,
    Piece,
    Port,
    hidden_of,
    named_state,
    pieces,
    run_layers,
    state_names,
    state_ports,
    state_values,
)
from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.distributions import NegativeBinomial
from ostinato.tasks.forecasting.network import STEP_FEATURES, Ensemble, ForecastNetwork


@pieces.register
def forecast_pieces(
    ensemble: Ensemble, g: Callable[[], Graph], *heads: Head, **options: bool
) -> list[Piece]:
    """Return the graph of an ensemble: its members side by side, from values in their own units."""
    first, direct = next(iter(ensemble)), ensemble.direct
    if first.reads_missing:
        raise OstinatoError(
            f"export: a forecaster of {type(first.recurrent.cells[0]).__name__} reads what is "
            "missing, and has no ONNX form; train with another cell."
        )
    what = "of all steps ahead" if direct else "after each step"
    piece = Piece(g(), f"outputs of the predictive distribution {what}")
    b, sizes = piece.graph, first.sizes
    origin = origin_of(first)  # the place in z of the value at the first step that is read
    steps = first.reach - first.history if direct else "T"
    count: int | str = first.reach if direct else f"{origin} + T - 1"
    about = "latest values, as measured; where there is none, location"
    history = Port("values", ("B", count), about, "history", 0 if direct else origin, 3.0, 2.0)
    values = piece.take(history)
    about = "value in the middle of the window, and the unit that it is measured in"
    location = piece.take(Port("location", ("B",), about, mean=3.0))
    scale = piece.take(Port("scale", ("B",), about, "positive"))
    flags = 2 + len(first.seasons)
    I = flags + sizes.future_covariates
    I += sizes.past_covariates + 1 if sizes.past_covariates else 0
    features = piece.take(Port("features", ("B", steps, I), "flags and covariates of each step"))
    started = piece.take(Port("started", ("B", steps), "1; 0 before the series begins", "flags"))
    categories = [
        piece.take(Port(f"category_{k}", ("B",), "static covariate, 0 if unknown", "ids", n))
        for k, n in enumerate(sizes.static_categories)
    ]
    numbers = None
    if sizes.static_numbers:
        about = "static covariates"
        numbers = piece.take(Port("numbers", ("B", sizes.static_numbers), about))
    future = None
    if direct and sizes.future_covariates:
        ahead = ("B", first.horizon or 0, sizes.future_covariates)
        future = piece.take(Port("future", ahead, "future covariates of the steps ahead"))
    z = b.add("Sub", values, b.add("Unsqueeze", location, b.ints(1)))
    z = b.add("Div", z, b.add("Unsqueeze", scale, b.ints(1)))
    line, T = z, b.size(features, 1)
    if direct:  # before the window there is nothing
        z = b.add("Pad", z, b.ints(max(first.seasons, default=0), 0), "", b.ints(1))

    def ago(m: int) -> str:
        """Return the values so many steps before each, ``(B, T, 1)``."""
        begin = b.ints(origin - m)
        part = b.slice(z, 1, begin, b.add("Add", begin, T))
        return b.add("Unsqueeze", part, b.ints(2))

    def embedded(member: ForecastNetwork) -> str:
        runs = b.add("Cast", started, to=7)
        parts = []
        for k, name in enumerate(categories):
            every = b.add("Mul", b.add("Unsqueeze", name, b.ints(1)), runs)
            parts.append(b.lookup(cast(nn.Embedding, member.embeddings[k]).weight, every))
        if numbers is not None:
            each = b.add("Unsqueeze", numbers, b.ints(1))
            parts.append(b.add("Mul", each, b.add("Unsqueeze", started, b.ints(2))))
        lags = [ago(m) for m in first.seasons]
        head = b.slice(features, 2, 0, 2)
        return b.concat([ago(1), head, *lags, b.slice(features, 2, 2, 2**62), *parts], 2)

    found, ports, lasts = [], [], []
    for e, member in enumerate(ensemble):
        stack, prefix = member.recurrent, f"member_{e}_" if len(ensemble) > 1 else ""
        own = [port._replace(name=prefix + port.name) for port in state_ports(stack)]
        before = None
        if not direct:
            before = state_names(stack, [piece.take(port) for port in own], b)
        h, last = run_layers(b, stack, embedded(member), None, before)
        found.append(_outputs(b, member, h, line, future, ago))
        ports += own
        lasts += state_values(stack, last, b)
    shape = (len(ensemble), "B", first.horizon or "T", ensemble.distribution.size)
    p = b.concat([b.add("Unsqueeze", each, b.ints(0)) for each in found], 0)
    piece.give(Port("parameters", shape, "outputs of each member, see the document"), p)
    center = b.slice(p, 3, 0, 1)
    if isinstance(ensemble.distribution, NegativeBinomial):
        center = b.add("Add", b.add("Softplus", center), b.constant(1e-4))
    center = b.add("Squeeze", b.add("ReduceMean", center, b.ints(0), keepdims=0), b.ints(2))
    center = b.add("Mul", center, b.add("Unsqueeze", scale, b.ints(1)))
    center = b.add("Add", center, b.add("Unsqueeze", location, b.ints(1)))
    about = "mean of the members' centers, in units of the data"
    piece.give(Port("center", ("B", first.horizon or "T"), about), center)
    for port, name in zip([] if direct else ports, lasts, strict=False):
        piece.give(port._replace(name=f"next_{port.name}"), name)
        piece.carried[f"next_{port.name}"] = port.name
    piece.run = lambda feeds: _run(ensemble, origin, feeds)
    return [piece]


def origin_of(network: ForecastNetwork) -> int:
    """Return how many values precede the first step that is read."""
    if network.horizon is None:
        return max(network.reach, *network.seasons, 1)
    return network.history + 1 + max(network.seasons, default=0)


def _outputs(
    g: Graph,
    member: ForecastNetwork,
    h: str,
    z: str,
    future: str | None,
    ago: Callable[[int], str],
) -> str:
    """Add the equations of p; see `ForecastNetwork`."""
    output, shortcut = member.output, member.shortcut.weight
    if member.horizon is None:
        R, kernel = member.reach, shortcut[:, None, : member.reach]
        T = g.size(h, 1)
        begin = g.size(z, 1)
        # The convolution ends with the value before the last step.
        begin = g.add("Sub", g.add("Sub", begin, T), g.ints(R - 1))
        near = g.add("Unsqueeze", g.slice(z, 1, begin, 2**62), g.ints(1))
        line = g.add("Conv", near, g.constant(kernel))  # (B, 1, T)
        line = g.add("Transpose", line, perm=[0, 2, 1])
        if member.far:
            far = g.concat([ago(m) for m in member.far], 2)
            line = g.add("Add", line, g.linear(far, shortcut[:, R:]))
        p = g.linear(h, output.weight, output.bias)
    else:
        A, steps = member.horizon, member.steps
        a = g.linear(g.slice(h, 1, -1, 2**62), steps.weight, steps.bias)
        a = g.add("Reshape", a, g.ints(0, A, STEP_FEATURES))
        if member.future is not None and future is not None:
            a = g.add("Add", a, g.linear(future, member.future.weight))
        p = g.linear(g.add("Relu", a), output.weight, output.bias)
        line = g.add("Unsqueeze", g.linear(z, shortcut), g.ints(2))
    first = g.add("Add", g.slice(p, 2, 0, 1), line)
    return g.concat([first, g.slice(p, 2, 1, 2**62)], 2)


def _run(ensemble: Ensemble, origin: int, f: Feeds) -> dict[str, Tensor]:
    """Compute the same by the members' own step."""
    z = (f["values"] - f["location"][:, None]) / f["scale"][:, None]
    T, started = f["features"].shape[1], f["started"]
    found: dict[str, Tensor] = {}
    ps = []
    for e, member in enumerate(ensemble):
        prefix = f"member_{e}_" if len(ensemble) > 1 else ""
        fixed = [f["features"]]
        for k, embedding in enumerate(member.embeddings):
            fixed.append(embedding(f[f"category_{k}"][:, None] * started.long()))
        if "numbers" in f:
            fixed.append(f["numbers"][:, None] * started[..., None])
        read = torch.cat(fixed, -1)
        if member.horizon is not None:
            padded = F.pad(z, (max(member.seasons, default=0), 0))
            value, *lags = (padded[:, origin - m : origin - m + T] for m in (1, *member.seasons))
            h, _ = member.recurrent(member._join(value, read, lags))
            future = f.get("future", torch.zeros(len(z), member.horizon, 0))
            ps.append(member._outputs(h, z[:, None], future))
            continue
        state, steps = hidden_of(member.recurrent, f, prefix), []
        for t in range(T):
            p, state = member.step(z[:, : origin + t], read[:, t], state)
            steps.append(p)
        ps.append(torch.stack(steps, 1))
        named = named_state(member.recurrent, state)
        found |= {f"next_{prefix}{name}": value for name, value in named.items()}
    points = torch.stack([ensemble.distribution.point(p) for p in ps]).mean(0)
    center = points * f["scale"][:, None] + f["location"][:, None]
    return {"parameters": torch.stack(ps), "center": center, **found}
