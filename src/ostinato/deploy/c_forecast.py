"""One step of a forecasting network in C: a value goes in, distributions of what follows come out.

The state holds the latest values in the units of the window, which a program sets when it begins
one; where a value is missing (NaN), each network reads its own prediction of it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ostinato.deploy import c_runtime as numerics
from ostinato.deploy.c_layers import Part, layers_of
from ostinato.deploy.c_parts import Dense
from ostinato.deploy.c_runtime import Array
from ostinato.deploy.c_source import Function, Source
from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.distributions import (
    Distribution,
    LocationScale,
    NegativeBinomial,
    Quantiles,
    StudentT,
)
from ostinato.tasks.forecasting.forecaster import Forecaster
from ostinato.tasks.forecasting.network import STEP_FEATURES, ForecastNetwork, Window


def describe(distribution: Distribution) -> str:
    """Say what the outputs of a step are, in words."""
    if isinstance(distribution, Quantiles):
        levels = ", ".join(f"{level:g}" for level in distribution.LEVELS)
        return f"quantiles at {levels}"
    if isinstance(distribution, NegativeBinomial):
        return "mean and shape (variance = mean + mean^2 / shape)"
    freedom = ", degrees of freedom" if isinstance(distribution, StudentT) else ""
    return f"center, scale{freedom}"


class Forecasting(Part):
    """The networks of an ensemble, side by side.

    A step's input is a value and the covariates ``(1 + A F,)`` of the steps that are predicted.
    """

    def __init__(self, model: Forecaster) -> None:
        network = copy.deepcopy(model.network_).cpu().float().eval()
        sizes = next(iter(network)).sizes
        if sizes.past_covariates or sizes.static_categories or sizes.static_numbers:
            raise OstinatoError(
                "export: a network that reads past or static covariates has no form in C; train "
                "the forecaster without them."
            )
        self.model, self.members = model, [_Member(m, i) for i, m in enumerate(network)]
        self.size = sum(member.size for member in self.members)
        self.covariates = sizes.future_covariates
        self.ahead = self.members[0].ahead
        encoding = model.inputs_.encoding.future
        raw = self.covariates - encoding.shape[1]  # the calendar's features
        self.mean = np.concatenate([np.zeros(raw), encoding[0]]).astype(np.float32)
        self.scale = np.concatenate([np.ones(raw), encoding[1]]).astype(np.float32)

    def emit(self, c: Source, f: Function, x: str) -> str:
        c.exact = False  # softplus is the C library's
        t = c.state("steps", 1, "int")
        location, scale = c.state("location", 1), c.state("scale", 1, initial=1)
        F = self.covariates
        known = "0"
        if F:
            known = f.local("covariates", self.ahead * F)
            mean, width = (
                c.named(f"@{c.table(name, v)}")
                for name, v in (("covariate_mean", self.mean), ("covariate_scale", self.scale))
            )
            f.loop(self.ahead * F, f"{known}[i] = (known[i] - {mean}[i % {F}]) / {width}[i % {F}];")
        f.add(f"const float z = ({x} - {location}[0]) / {scale}[0];")
        at = 0
        for member in self.members:
            f.add(member.emit(c, known, f"y + {at}", bool(F)))
            at += member.size
        ring = self.members[0].ring
        half = (1 << 29) // ring * ring
        history = self.members[0].network.history
        f.add(f"if (++{t}[0] >= {2 * half}) {t}[0] -= {half};")
        f.add(f"if ({t}[0] <= {history}) return 0;")
        return "y"

    def reset(self) -> None:
        self.t = 0
        for member in self.members:
            member.reset()

    def step(self, x: Any) -> Any:
        known = (x[1:].reshape(self.ahead, -1) - self.mean) / self.scale
        found = [member.step(self.t, x[0], known) for member in self.members]
        self.t += 1
        there = [row for row in found if row is not None]
        return np.concatenate(there) if there else None

    def reference(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return what the networks predict after each of ``(T, 1 + A F)``, NaN where nothing."""
        A, F = self.ahead, self.covariates
        covariates = (x[:, 1:].reshape(len(x), A, F) - self.mean) / self.scale
        rows = []
        for t in range(len(x)):
            found = []
            for member in self.members:
                network = member.network
                if t < network.history:
                    found.append(np.full(member.size, np.nan))
                    continue
                values = torch.from_numpy(x[None, : t + 1, 0])
                seen = ~values.isnan()
                known = np.zeros((1, t + 1 + A, F), np.float32)
                known[0, 1 : t + 1], known[0, t + 1 :] = covariates[:t, 0], covariates[t]
                one, none = torch.ones(1), torch.zeros(1, 0)
                window = Window(
                    values.nan_to_num(), seen, torch.ones_like(seen), torch.from_numpy(known),
                    torch.zeros(1, t + 1, 0), none.long(), none, one, 0 * one,
                )  # fmt: skip
                p = network(window)[0][0].numpy()
                found += [_outputs(network.distribution, each) for each in p]
            rows.append(np.concatenate(found))
        return np.stack(rows)


class _Member:
    """One network of an ensemble."""

    def __init__(self, network: ForecastNetwork, number: int) -> None:
        self.network, self.name = network, f"member{number}"
        self.layers = layers_of(network.recurrent, f"{self.name}_layer")
        self.output = Dense(network.output, f"{self.name}_output")
        self.ahead = network.horizon or 1
        self.size = self.ahead * network.distribution.size
        self.shortcut = network.shortcut.weight.detach().numpy()  # (A, reach)
        self.steps = self.future = None
        if network.horizon is not None:
            self.steps = Dense(network.steps, f"{self.name}_steps")
            if network.future is not None:
                self.future = Dense(network.future, f"{self.name}_future")
        self.ring = max(network.reach, *network.seasons, 1)

    def emit(self, c: Source, known: str, y: str, has_known: bool) -> str:
        """Add the function of a step, and return its call."""
        network, name, R = self.network, self.name, self.ring
        f = c.function(
            f"static void @{name}(@state *s, float z, const float *known, float *y)"
            if has_known
            else f"static void @{name}(@state *s, float z, float *y)"
        )
        ring, seen = c.state(f"{name}_ring", R), c.state(f"{name}_seen", R)
        center = c.state(f"{name}_center", 1)
        x = f.local("x", network.recurrent.input_size)
        f.add(
            "const int t = s->steps[0], missing = z != z;",
            f"if (missing) z = t > {network.history} ? {center}[0] : 0.0f;",
            f"{ring}[t % {R}] = z;",
            f"{seen}[t % {R}] = missing && t < {network.history} ? 0.0f : 1.0f;",
            f"if (t < {network.history}) return;",
            f"{x}[0] = z;",
            f"{x}[1] = missing ? 1.0f : 0.0f;",
            f"{x}[2] = 1.0f;",
        )
        n = len(network.seasons)
        for j, m in enumerate(network.seasons):
            place = f"(t + 1 - {m}) % {R}"
            f.add(f"{x}[{3 + j}] = t + 1 < {m} ? 0.0f : {ring}[{place}];")
            f.add(f"{x}[{3 + n + j}] = t + 1 < {m} ? 0.0f : {seen}[{place}];")
        F = network.sizes.future_covariates
        if F:
            f.loop(F, f"{x}[{3 + 2 * n} + i] = known[i];")
        h, outer, c.stack = x, c.stack, 0
        for layer in self.layers:
            h = layer.emit(c, f, h)
        f.bytes, c.stack = f.bytes + c.stack, outer
        each, A, K = Function(c, ""), self.ahead, network.distribution.size
        if self.steps is not None:
            row = f"({self.steps.emit(c, f, h)} + {STEP_FEATURES} * k)"
            if self.future is not None:
                more = self.future.emit(c, each, f"(known + {F} * k)")
                each.loop(STEP_FEATURES, f"{row}[i] += {more}[i];")
            each.loop(STEP_FEATURES, f"{row}[i] = {c.call('relu')}({row}[i]);")
            h = row
        before = c.products
        p = self.output.emit(c, each, h)
        weights = c.named(f"@{c.table(f'{name}_shortcut', self.shortcut)}")
        fma, reach, n = c.named("$FMA"), network.reach, self.shortcut.shape[1]
        c.need("fma")
        c.products += (A - 1) * (c.products - before) + self.shortcut.size
        each.add("float line = 0.0f;")
        each.loop(
            reach,
            f"const int at = t + 1 - {reach} + i;",
            f"if (at >= 0) line = {fma}({weights}[{n} * k + i], {ring}[at % {R}], line);",
        )
        for j, m in enumerate(network.far):
            each.add(
                f"if (t + 1 >= {m}) line = {fma}({weights}[{n} * k + {reach + j}], "
                f"{ring}[(t + 1 - {m}) % {R}], line);"
            )
        each.add(f"{p}[0] += line;")
        self._write(c, each, p, center)
        each.add(f"y += {K};")
        f.locals, f.bytes = f.locals + each.locals, f.bytes + each.bytes
        f.add(f"for (int k = 0; k < {A}; ++k) {{", *(f"    {line}" for line in each.lines), "}")
        c.close(f)
        return c.named(f"@{name}(s, z, {f'{known}, ' if has_known else ''}{y});")

    def _write(self, c: Source, f: Function, p: str, center: str) -> None:
        """Write the outputs of a step ahead in the units of the data; keep the first's center."""
        distribution = self.network.distribution
        softplus = c.call("softplus")
        units = "s->location[0] + s->scale[0] *"
        if isinstance(distribution, NegativeBinomial):
            f.add(
                f"{p}[0] = {softplus}({p}[0]) + 1e-4f;",
                f"if (k == 0) {center}[0] = {p}[0];",
                f"y[0] = s->scale[0] * {p}[0];",
                f"y[1] = {softplus}({p}[1]) + 1e-4f;",
            )
            return
        f.add(f"if (k == 0) {center}[0] = {p}[0];")
        if isinstance(distribution, LocationScale):
            f.add(f"y[0] = {units} {p}[0];", f"y[1] = s->scale[0] * ({softplus}({p}[1]) + 1e-4f);")
            if isinstance(distribution, StudentT):
                f.add(f"y[2] = 2.0f + ({softplus}({p}[2]) + 1e-4f);")
            return
        middle = Quantiles.MEDIAN
        f.add(f"y[{middle}] = {units} {p}[0];", "float below = 0.0f, above = 0.0f;")
        f.loop(
            middle,
            f"below += ({softplus}({p}[1 + i]) + 1e-4f) / 4.0f;",
            f"above += ({softplus}({p}[{middle + 1} + i]) + 1e-4f) / 4.0f;",
            f"y[{middle - 1} - i] = {units} ({p}[0] - below);",
            f"y[{middle + 1} + i] = {units} ({p}[0] + above);",
        )

    def reset(self) -> None:
        self.values: list[np.float32] = []
        self.seen: list[float] = []
        self.center = np.float32(0)
        for layer in self.layers:
            layer.reset()

    def step(self, t: int, z: np.float32, known: Array) -> Array | None:
        network = self.network
        missing = bool(np.isnan(z))
        if missing:
            z = self.center if t > network.history else np.float32(0)
        self.values.append(np.float32(z))
        self.seen.append(0.0 if missing and t < network.history else 1.0)
        if t < network.history:
            return None

        def ago(of: Sequence[Any], m: int) -> float:
            return float(of[t + 1 - m]) if t + 1 >= m else 0.0

        lags = [[ago(of, m) for m in network.seasons] for of in (self.values, self.seen)]
        x = np.array([z, missing, 1, *lags[0], *lags[1], *known[0]], np.float32)
        for layer in self.layers:
            x = layer.step(x)
        hidden = [x]
        if self.steps is not None:
            hidden = [*self.steps.step(x).reshape(self.ahead, -1)]
            if self.future is not None:
                hidden = [h + self.future.step(row) for h, row in zip(hidden, known, strict=True)]
            hidden = [np.maximum(h, np.float32(0)) for h in hidden]
        found = []
        for k, h in enumerate(hidden):
            p, line = self.output.step(h), np.float32(0)
            back = [*range(network.reach, 0, -1), *network.far]
            for weight, m in zip(self.shortcut[k], back, strict=True):
                if t + 1 >= m:
                    line = np.float32(numerics.fma(weight, self.values[t + 1 - m], line))
            p[0] += line
            found.append(_outputs(network.distribution, p))
            if k == 0:
                is_count = isinstance(network.distribution, NegativeBinomial)
                self.center = np.float32(found[0][0] if is_count else p[0])
        return np.concatenate(found)


def _outputs(distribution: Distribution, p: Array) -> Array:
    """Return what a step puts out in the units of the network."""
    positive = (np.logaddexp(0, p) + 1e-4).astype(np.float32)
    if isinstance(distribution, NegativeBinomial):
        return positive
    if isinstance(distribution, LocationScale):
        freedom = [2 + positive[2]] if isinstance(distribution, StudentT) else []
        return np.array([p[0], positive[1], *freedom], np.float32)
    middle = Quantiles.MEDIAN
    down, up = (np.cumsum(each) / 4 for each in (positive[1 : middle + 1], positive[middle + 1 :]))
    return np.concatenate([p[0] - down[::-1], p[:1], p[0] + up]).astype(np.float32)


CENTERED = """\
/* The median of n > 0 numbers, which it sorts. */
static float @median(float *x, int n)
{
    for (int i = 1; i < n; ++i) {
        const float v = x[i];
        int j = i;
        for (; j > 0 && x[j - 1] > v; --j) x[j] = x[j - 1];
        x[j] = v;
    }
    return n % 2 ? x[n / 2] : 0.5f * (x[n / 2 - 1] + x[n / 2]);
}
@HEAD
{
    float usual, level, sum = 0.0f;
    int count = 0;
    *location = 0.0f;
    *scale = 1.0f;
    for (int i = n - 1; i >= 0 && count < @SEASON; --i)
        if (values[i] == values[i]) work[count++] = values[i];
    if (count == 0) return;
    *location = @median(work, count);
    count = 0;
    for (int i = 0; i < n; ++i)
        if (values[i] == values[i]) work[count++] = fabsf(values[i] - *location);
    usual = @median(work, count);
    for (int i = 0; i < count; ++i)
        sum += usual > 0.0f && work[i] > 10.0f * usual ? 10.0f * usual : work[i];
    *scale = sum / (float)count;
    level = fabsf(*location);
    if (!(*scale > 1e-7f * level)) *scale = (level > 1.0f ? level : 1.0f) * 1e-2f;
}
"""

UNCENTERED = """\
@HEAD
{
    float sum = 0.0f;
    int count = 0;
    (void)work;
    for (int i = 0; i < n; ++i) {
        if (values[i] == values[i]) {
            sum += fabsf(values[i]);
            ++count;
        }
    }
    *location = 0.0f;
    *scale = count > 0 && sum > (float)count ? sum / (float)count : 1.0f;
}
"""

BEGIN = """\
@HEAD
{
    @reset(s);
    s->location[0] = location;
    s->scale[0] = scale;
}
"""


def units(model: Forecaster, c: Source) -> str:
    """Add the functions that find and set the units of a window; return their prototypes."""
    find = c.named(
        "void @units(const float *values, int n, float *work, float *location, float *scale)"
    )
    begin = c.named("void @begin(@state *s, float location, float scale)")
    text = CENTERED if model.network_.distribution.centered else UNCENTERED
    text = text.replace("@SEASON", str(max(model.resolved("season"), 4)))
    c.functions += [
        c.named(text.replace("@HEAD", find)),
        c.named(BEGIN.replace("@HEAD", begin)),
    ]
    return (
        "/* The units of a window of n values, NaN where missing; work has room for n. */\n"
        f"{find};\n/* Begin a window in these units. */\n{begin};\n"
    )
