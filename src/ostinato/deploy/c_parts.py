"""Inputs, pooling and outputs of a network in C, each beside the same arithmetic in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ostinato.data.features import Spectrogram, SpectrogramStream, mel_bands
from ostinato.deploy import c_runtime as numerics
from ostinato.deploy.c_layers import Part
from ostinato.deploy.c_runtime import Array
from ostinato.deploy.c_source import Function, Matrix, Source
from ostinato.errors import OstinatoError
from ostinato.networks.convolution import Convolutions, StepNorm


class Stateless(Part):
    """Base of parts without a state."""

    def reset(self) -> None:
        """Begin a sequence."""


class Scaled(Stateless):
    """(x - mean) / scale, or x * scale + mean, of each feature."""

    def __init__(self, mean: Any, scale: Any, size: int, *, name: str, back: bool = False) -> None:
        self.mean, self.scale = (
            np.broadcast_to(np.asarray(each, np.float32), size) for each in (mean, scale)
        )
        self.size, self.name, self.back = size, name, back

    def emit(self, c: Source, f: Function, x: str) -> str:
        mean, scale = (
            c.named(f"@{c.table(f'{self.name}_{what}', values)}")
            for what, values in (("mean", self.mean), ("scale", self.scale))
        )
        if self.back:
            f.loop(self.size, f"{x}[i] = {x}[i] * {scale}[i] + {mean}[i];")
            return x
        y = f.local(self.name, self.size)
        f.loop(self.size, f"{y}[i] = ({x}[i] - {mean}[i]) / {scale}[i];")
        return y

    def step(self, x: Array) -> Array:
        if self.back:
            return np.asarray(x * self.scale + self.mean)
        return np.asarray((np.asarray(x, np.float32) - self.mean) / self.scale)


class Embedding(Stateless):
    """The row of a table that a number names; of one that it does not have, the first."""

    def __init__(self, table: Array) -> None:
        self.table, self.size = table, table.shape[1]
        self.pairs: Any = None

    def emit(self, c: Source, f: Function, x: str) -> str:
        V, n = self.table.shape
        f.add(f"const int row = {x} >= 0 && {x} < {V} ? {x} : 0;")
        if not c.int8:
            c.table("embedding", self.table)
            f.add(c.named(f"const float *const embedded = @embedding + row * {n};"))
            return "embedded"
        q, unit = numerics.quantize(self.table)
        c.table("embedding", q, "int8_t")
        c.table("embedding_unit", unit)
        y = f.local("embedded", n)
        f.loop(n, c.named(f"{y}[i] = (float)@embedding[row * {n} + i] * @embedding_unit[row];"))
        return y

    def step(self, x: Any) -> Array:
        if self.pairs is None:
            self.pairs = numerics.quantize(self.table)
        q, unit = self.pairs
        return np.asarray(q[int(x)].astype(np.float32) * unit[int(x)])


class Dense(Stateless):
    """y = W x + b."""

    def __init__(self, linear: nn.Linear, name: str) -> None:
        self.weight = linear.weight.detach().float().cpu().numpy()
        self.bias = None if linear.bias is None else linear.bias.detach().float().cpu().numpy()
        self.size, self.inputs = self.weight.shape
        self.name = name
        self.pair: Any = None

    def emit(self, c: Source, f: Function, x: str, y: str = "") -> str:
        y = y or f.local(self.name, self.size)
        start = "0.0f"
        if self.bias is not None:
            start = c.named(f"@{c.table(f'{self.name}_bias', self.bias)}[i]")
        f.loop(self.size, f"{y}[i] = {start};")
        q = c.quantized(f, x, self.inputs, f"q_{self.name}")
        c.matrix(f"{self.name}_weight", self.weight).add(f, q, y)
        return y

    def step(self, x: Array) -> Array:
        self.pair = self.pair or numerics.quantize(self.weight)
        bias = np.zeros(self.size, np.float32) if self.bias is None else self.bias
        return numerics.add8(self.pair, x, bias)


class Activation(Stateless):
    """Probabilities of scores over a temperature: by softmax, or each by sigmoid."""

    def __init__(self, size: int, kind: str, temperature: float = 1.0) -> None:
        self.size, self.kind, self.temperature = size, kind, np.float32(temperature)

    def emit(self, c: Source, f: Function, x: str) -> str:
        if self.temperature != 1:
            f.loop(self.size, f"{x}[i] /= {self.temperature!s}f;")
        if self.kind == "category":
            f.add(f"{c.call('softmax')}({x}, {self.size});")
        else:
            f.loop(self.size, f"{x}[i] = {c.call('sigmoid')}({x}[i]);")
        return x

    def step(self, x: Array) -> Array:
        y = np.asarray(x / self.temperature)
        return numerics.softmax(y) if self.kind == "category" else numerics.sigmoid(y)


class Pooling(Part):
    """The hidden states so far as one: their last, mean, maximum or mean by attention."""

    def __init__(self, kind: str, size: int, attention: nn.Sequential | None = None) -> None:
        self.kind, self.size = kind, size
        self.scores: list[Dense] = []
        if attention is not None:
            linears = [each for each in attention if isinstance(each, nn.Linear)]
            self.scores = [Dense(each, f"attention{i}") for i, each in enumerate(linears)]

    def emit(self, c: Source, f: Function, x: str) -> str:
        if self.kind == "last":
            return x
        y, n = c.state("pooled", self.size), self.size
        weight = c.state("pooled_weight", 1)
        if self.kind == "mean":
            f.add(f"{weight}[0] += 1.0f;")
            f.loop(n, f"{y}[i] += ({x}[i] - {y}[i]) / {weight}[0];")
        elif self.kind == "max":
            f.loop(n, f"{y}[i] = {weight}[0] > 0.0f && {y}[i] > {x}[i] ? {y}[i] : {x}[i];")
            f.add(f"{weight}[0] = 1.0f;")
        else:
            most = c.state("pooled_most", 1)
            first, second = self.scores
            inner = first.emit(c, f, x)
            f.loop(n, f"{inner}[i] = {c.call('tanh')}({inner}[i]);")
            score, exp = second.emit(c, f, inner), c.call("exp")
            f.add(
                "float share = 1.0f;",
                f"if ({weight}[0] == 0.0f || {score}[0] > {most}[0]) {{",
                f"    {weight}[0] = {weight}[0] * {exp}({most}[0] - {score}[0], 0.0f) + 1.0f;",
                f"    {most}[0] = {score}[0];",
                "} else {",
                f"    share = {exp}({score}[0] - {most}[0], 0.0f);",
                f"    {weight}[0] += share;",
                "}",
                f"share /= {weight}[0];",
            )
            f.loop(n, f"{y}[i] += ({x}[i] - {y}[i]) * share;")
        return y

    def reset(self) -> None:
        self.y = np.zeros(self.size, np.float32)
        self.weight, self.most = np.zeros(1, np.float32), np.zeros(1, np.float32)

    def step(self, x: Array) -> Array:
        one = np.float32(1)
        if self.kind == "last":
            return x
        if self.kind == "mean":
            self.weight = self.weight + one
            self.y = self.y + (x - self.y) / self.weight
        elif self.kind == "max":
            self.y = np.where((self.weight > 0) & (self.y > x), self.y, x)
            self.weight = self.weight + one
        else:
            score = self.scores[1].step(numerics.tanh(self.scores[0].step(x)))
            share = np.ones(1, np.float32)
            if self.weight[0] == 0 or score[0] > self.most[0]:
                self.weight = self.weight * numerics.exp(self.most - score) + one
                self.most = score
            else:
                share = numerics.exp(score - self.most)
                self.weight = self.weight + share
            self.y = self.y + (x - self.y) * (share / self.weight)
        return self.y


class CausalConvolutions(Part):
    """Layers of causal convolutions, each over a ring of its latest inputs.

    The batch normalisation behind a convolution is a part of its weights.
    """

    def __init__(self, of: Convolutions) -> None:
        self.size = of.output_size
        self.layers: list[tuple[int, list[tuple[int, list[Array], Array]]]] = []
        for parts, norm in zip(of.layers, of.norms, strict=True):
            assert isinstance(parts, nn.ModuleList) and isinstance(norm, StepNorm)
            mean, var = norm.running_mean, norm.running_var
            assert mean is not None and var is not None
            scale = (norm.weight / (var + norm.eps).sqrt()).detach().double()
            bias = (norm.bias - mean * scale).detach().float().numpy()
            rows = torch.split(scale, len(scale) // len(parts))
            biases = np.split(bias, len(parts))
            made = []
            for part, factor, b in zip(parts, rows, biases, strict=True):
                assert isinstance(part, nn.Conv1d)
                w = (part.weight.detach().double() * factor[:, None, None]).float().numpy()
                taps = [np.ascontiguousarray(w[:, :, k]) for k in range(w.shape[2])]
                made.append((part.dilation[0], taps, b))
            self.layers.append((parts[0].in_channels, made))  # type: ignore[arg-type]

    @staticmethod
    def _length(made: list[tuple[int, list[Array], Array]]) -> int:
        return max(d * (len(taps) - 1) for d, taps, _ in made) + 1

    def emit(self, c: Source, f: Function, x: str) -> str:
        for i, (inputs, made) in enumerate(self.layers):
            n, name = self._length(made), f"convolution{i}"
            kind = "int8_t" if c.int8 else "float"
            ring = c.state(f"{name}_ring", n * inputs, kind)
            unit = c.state(f"{name}_unit", n) if c.int8 else ""
            at = c.state(f"{name}_at", 1, "int")
            f.add(f"{at}[0] = ({at}[0] + 1) % {n};")
            if c.int8:
                q = f.local(f"q_{name}", inputs, "int16_t")
                quantize = c.named("@quantize")
                f.add(f"{unit}[{at}[0]] = {quantize}({x}, {inputs}, {q});")
                f.loop(inputs, f"{ring}[{at}[0] * {inputs} + i] = (int8_t){q}[i];")
            else:
                f.loop(inputs, f"{ring}[{at}[0] * {inputs} + i] = {x}[i];")
            y, begin = f.local(name, self.size), 0
            bias = c.named(f"@{c.table(f'{name}_bias', np.concatenate([b for *_, b in made]))}")
            f.loop(self.size, f"{y}[i] = {bias}[i];")
            for d, taps, _ in made:
                matrix: Matrix = c.matrix(f"{name}_dilation{d}", *taps)
                back = f"({at}[0] + {n} - {d} * ({len(taps) - 1} - k)) % {n}"
                f.add(f"for (int k = 0; k < {len(taps)}; ++k) {{", f"    const int from = {back};")
                place = f"{ring} + from * {inputs}"
                inside = Function(c, "")
                if c.int8:
                    inside.loop(inputs, f"{q}[i] = {ring}[from * {inputs} + i];")
                    matrix.add(inside, f"{q} {unit}[from]", f"{y} + {begin}", "k")
                else:
                    matrix.add(inside, place, f"{y} + {begin}", "k")
                f.add(*(f"    {line}" for line in inside.lines), "}")
                begin += len(taps[0])
            f.loop(self.size, f"{y}[i] = {c.call('relu')}({y}[i]);")
            x = y
        return x

    def reset(self) -> None:
        self.rings = [[np.zeros(k, np.float32)] * self._length(made) for k, made in self.layers]

    def step(self, x: Array) -> Array:
        for ring, (_, made) in zip(self.rings, self.layers, strict=True):
            ring[:] = [*ring[1:], np.array(x)]
            parts = []
            for d, taps, y in made:
                for k, w in enumerate(taps):
                    y = numerics.add8(numerics.quantize(w), ring[-1 - d * (len(taps) - 1 - k)], y)
                parts.append(y)
            x = np.concatenate(parts)
            x = np.where(x < 0, np.float32(0), x)
        return x


_SOUND = """\
/* Add samples, at most @HOP; return whether they complete a row of the spectrogram. */
static int @listen(@state *s, const int16_t *samples, int count, float *mel)
{
    float re[@N], im[@N];
    int held = s->held[0];
    for (int i = 0; i < count; ++i) s->sound[held + i] = samples ? samples[i] : 0;
    held += count;
    if (held < @FFT) {
        s->held[0] = held;
        return 0;
    }
    /* Even samples are real parts and odd ones imaginary: one transform of half the length. */
    for (int i = 0; i < @N; ++i) {
        const int j = @reversed[i];
        re[j] = (float)s->sound[2 * i] * @window[2 * i];
        im[j] = (float)s->sound[2 * i + 1] * @window[2 * i + 1];
    }
    for (int half = 1; half < @N; half *= 2) {
        for (int i = 0; i < half; ++i) {
            const float wr = @cosine[i * (@FFT / 2 / half)], wi = -@sine[i * (@FFT / 2 / half)];
            for (int j = i; j < @N; j += 2 * half) {
                const float ur = re[j + half] * wr - im[j + half] * wi;
                const float ui = re[j + half] * wi + im[j + half] * wr;
                re[j + half] = re[j] - ur;
                im[j + half] = im[j] - ui;
                re[j] += ur;
                im[j] += ui;
            }
        }
    }
    for (int b = 0; b < @BANDS; ++b) mel[b] = 0.0f;
    for (int i = 0; i <= @N; ++i) {
        const int j = i % @N, k = (@N - i) % @N;
        const float er = 0.5f * (re[j] + re[k]), ei = 0.5f * (im[j] - im[k]);
        const float odd_re = 0.5f * (im[j] + im[k]), odd_im = 0.5f * (re[k] - re[j]);
        const float wr = i < @N ? @cosine[i] : -1.0f, wi = i < @N ? -@sine[i] : 0.0f;
        const float a = er + odd_re * wr - odd_im * wi, b = ei + odd_re * wi + odd_im * wr;
        const float energy = a * a + b * b;
        for (int m = @band_of[i]; m < @band_of[i + 1]; ++m) mel[@band[m]] += @share[m] * energy;
    }
    for (int b = 0; b < @BANDS; ++b) mel[b] = logf(mel[b] > @SILENCE ? mel[b] : @SILENCE);
    held -= @HOP;
    for (int i = 0; i < held; ++i) s->sound[i] = s->sound[i + @HOP];
    s->held[0] = held;
    return 1;
}
"""


class LogMel(Part):
    """Log-mel features of sound as it comes, by a fast Fourier transform of its own."""

    def __init__(self, how: Spectrogram) -> None:
        if not how.causal:
            raise OstinatoError(
                "export: the features of the sound depend on the whole recording; train with "
                "bidirectional=False (--no-bidirectional), which makes them causal."
            )
        if how.fft < 4 or how.step > how.fft:
            raise OstinatoError(
                f"export: {how}; expected a window of 3 samples and at least a hop."
            )
        self.how, self.size = how, how.bands

    def emit(self, c: Source, f: Function, x: str) -> str:
        how, fft = self.how, self.how.fft
        n = fft // 2
        bits = n.bit_length() - 1
        window = np.zeros(fft)
        begin = (fft - how.size) // 2
        window[begin : begin + how.size] = torch.hann_window(how.size).double().numpy()
        c.table("window", window / 32768)
        c.table("reversed", np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)]), "uint16_t")
        angle = 2 * np.pi * np.arange(n) / fft
        c.table("cosine", np.cos(angle))
        c.table("sine", np.sin(angle))
        triangles = mel_bands(how.rate, fft, how.bands).numpy()  # (bands, n + 1)
        band_of, bands = np.nonzero(triangles.T)
        c.table("band_of", np.searchsorted(band_of, np.arange(n + 2)), "uint16_t")
        c.table("band", bands, "uint16_t")
        c.table("share", triangles.T[band_of, bands])
        c.exact = False  # the logarithm is the C library's
        c.state("sound", fft + how.step, "int16_t")
        c.state("held", 1, "int", fft // 2)
        listen = Function(c, "")
        listen.bytes = 8 * n
        c.stack = max(c.stack, listen.bytes)
        text = _SOUND
        silence = np.float32(1e-9 * (how.size / 4) ** 2)
        for name, value in (("N", n), ("FFT", fft), ("HOP", how.step), ("BANDS", how.bands)):
            text = text.replace(f"@{name}", str(value))
        c.functions.append(c.named(text.replace("@SILENCE", f"{silence!s}f")))
        c.products += n * bits * 2 + 6 * n + 2 * len(bands)
        mel = f.local("mel", how.bands)
        f.add(c.named(f"if (!@listen(s, {x}, count, {mel})) return 0;"))
        return mel

    def reset(self) -> None:
        self.stream = SpectrogramStream(self.how)

    def step(self, x: Any) -> Any:
        """Return the row that samples complete, or None."""
        rows = self.stream.feed(np.asarray(x, np.float32) / np.float32(32768))
        return rows[0] if len(rows) else None
