"""What the C code of an exported model is made of, and the same arithmetic in NumPy.

In the C texts ``@`` stands for the prefix of names and ``$`` for that of macros. Activations and
8-bit products are those of the compiled core (``cpp/activations.hpp``, ``cpp/quantized.hpp``), so
that with 8 bits a program computes what `Stream` computes, bit for bit; where a file is exported
in float32, products of a machine without fused multiply-adds are rounded twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BLOCKS = (64, 16)
"""Rows of a float32 matrix that lie side by side, column by column; the rest of them last."""


class Helper(NamedTuple):
    """A function or macro in C, and the names of the others that it calls."""

    text: str
    needs: tuple[str, ...] = ()


_FUSED = """\
/* a * b + c, rounded once where the machine can. */
#if defined FP_FAST_FMAF || defined __FP_FAST_FMAF || defined __FMA__ || defined __ARM_FEATURE_FMA
#define $FMA(a, b, c) fmaf(a, b, c)
#else
"""

_TILE = """\
static void @tile{width}(const float *restrict w, const float *restrict x, int n, float *restrict y)
{{
    for (int b = 0; b < {width}; b += $TILE{width}) {{
        float sum[$TILE{width}];
        for (int j = 0; j < $TILE{width}; ++j) sum[j] = y[b + j];
        for (int k = 0; k < n; ++k)
            for (int j = 0; j < $TILE{width}; ++j)
                sum[j] = $FMA(w[k * {width} + b + j], x[k], sum[j]);
        for (int j = 0; j < $TILE{width}; ++j) y[b + j] = sum[j];
    }}
}}
"""

HELPERS: dict[str, Helper] = {
    "fma": Helper(
        _FUSED + "#define $FMA(a, b, c) ((a) * (b) + (c))\n#endif\n",
    ),
    "exact_fma": Helper(
        _FUSED
        + """\
static inline float @fma(float a, float b, float c)
{
    union { double number; uint64_t bits; } odd;
    const double product = (double)a * (double)b, sum = product + (double)c, rest = sum - product;
    const double error = (product - (sum - rest)) + ((double)c - rest);
    odd.number = sum; /* rounded to odd, so that it can be rounded again */
    if ((odd.bits & 1u) == 0) {
        if (error > 0.0) odd.bits += sum > 0.0 ? 1u : UINT64_MAX;
        else if (error < 0.0) odd.bits += sum > 0.0 ? UINT64_MAX : 1u;
    }
    return (float)odd.number;
}
#define $FMA(a, b, c) @fma(a, b, c)
#endif
"""
    ),
    "bits": Helper("""\
static inline uint32_t @bits(float x)
{
    union { float number; uint32_t bits; } both;
    both.number = x;
    return both.bits;
}
static inline float @number(uint32_t x)
{
    union { float number; uint32_t bits; } both;
    both.bits = x;
    return both.number;
}
"""),
    "exp": Helper(
        """\
/* e^x + c, of x between -87 and 88; NaN stays. */
static inline float @exp(float x, float c)
{
    float shifted, n, r, p;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    shifted = $FMA(x, 1.44269504088896341f, 12582912.0f); /* its low bits are the rounded power */
    n = shifted - 12582912.0f;
    r = $FMA(n, -0.693359375f, x);
    r = $FMA(n, 2.12194440e-4f, r);
    p = $FMA(1.9875691500e-4f, r, 1.3981999507e-3f);
    p = $FMA(p, r, 8.3334519073e-3f);
    p = $FMA(p, r, 4.1665795894e-2f);
    p = $FMA(p, r, 1.6666665459e-1f);
    p = $FMA(p, r, 5.0000001201e-1f);
    p = $FMA(p, r * r, r) + 1.0f;
    return $FMA(p, @number((@bits(shifted) + 127u) << 23), c);
}
""",
        ("fma", "bits"),
    ),
    "sigmoid": Helper(
        "static inline float @sigmoid(float x)\n{\n    return 1.0f / @exp(-x, 1.0f);\n}\n", ("exp",)
    ),
    "tanh": Helper(
        """\
static inline float @tanh(float x)
{
    float s, p, q, y;
    x = x < -7.99881172180175781f ? -7.99881172180175781f : x;
    x = x > 7.99881172180175781f ? 7.99881172180175781f : x;
    s = x * x;
    p = $FMA(-2.76076847742355e-16f, s, 2.00018790482477e-13f);
    p = $FMA(p, s, -8.60467152213735e-11f);
    p = $FMA(p, s, 5.12229709037114e-08f);
    p = $FMA(p, s, 1.48572235717979e-05f);
    p = $FMA(p, s, 6.37261928875436e-04f);
    p = $FMA(p, s, 4.89352455891786e-03f);
    q = $FMA(1.19825839466702e-06f, s, 1.18534705686654e-04f);
    q = $FMA(q, s, 2.26843463243900e-03f);
    q = $FMA(q, s, 4.89352518554385e-03f);
    y = p * x / q;
    y = x >= 7.99881172180175781f ? 1.0f : y;
    return x <= -7.99881172180175781f ? -1.0f : y;
}
""",
        ("fma",),
    ),
    "relu": Helper("static inline float @relu(float x)\n{\n    return x < 0.0f ? 0.0f : x;\n}\n"),
    "softplus": Helper(
        """\
static inline float @softplus(float x)
{
    return (x > 0.0f ? x : 0.0f) + log1pf(@exp(x > 0.0f ? -x : x, 0.0f));
}
""",
        ("exp",),
    ),
    "add": Helper(
        """\
/* y += W x, the columns of W one after the other. A tile of sums is kept in registers. */
#ifdef __arm__
#define $TILE64 8
#define $TILE16 8
#elif defined __AVX__
#define $TILE64 64
#define $TILE16 16
#else
#define $TILE64 32
#define $TILE16 16
#endif
"""
        + _TILE.format(width=64)
        + _TILE.format(width=16)
        + """\
static void @add(const float *restrict w, int rows, const float *restrict x, int n,
                 float *restrict y)
{
    for (; rows >= 64; rows -= 64, w += 64 * n, y += 64) @tile64(w, x, n, y);
    for (; rows >= 16; rows -= 16, w += 16 * n, y += 16) @tile16(w, x, n, y);
    for (int k = 0; k < n; ++k, w += rows)
        for (int j = 0; j < rows; ++j) y[j] = $FMA(w[j], x[k], y[j]);
}
""",
        ("fma",),
    ),
    "add8": Helper(
        """\
/* Numbers as whole numbers from -127 to 127, and the unit that they count. */
static float @quantize(const float *restrict x, int n, int16_t *restrict q)
{
    uint32_t most = 0;
    float largest, inverse;
    for (int i = 0; i < n; ++i) {
        const uint32_t size = @bits(x[i]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    largest = @number(most < 0x7f800000u ? most : 0x7fc00000u);
    inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    for (int i = 0; i < n; ++i) {
        float v = x[i] * inverse;
        v = (v + 12582912.0f) - 12582912.0f;
        q[i] = (int16_t)(v == v ? (int)v : 0);
    }
    return largest / 127.0f;
}
/* y += W x; a sum of products is whole, and scaled once. */
static void @add8(const int8_t *restrict w, const float *restrict scale, int rows,
                  const int16_t *restrict q, float unit, int n, float *restrict y)
{
    for (int j = 0; j < rows; ++j, w += n) {
        int32_t sum = 0;
        for (int k = 0; k < n; ++k) {
            const int16_t v = w[k]; /* both of 16 bits: twice as fast with GCC */
            sum += v * q[k];
        }
        y[j] = $FMA((float)sum, scale[j] * unit, y[j]);
    }
}
""",
        ("fma", "bits"),
    ),
    "softmax": Helper(
        """\
static void @softmax(float *y, int n)
{
    float most = y[0], sum = 0.0f;
    for (int i = 1; i < n; ++i) most = y[i] > most ? y[i] : most;
    for (int i = 0; i < n; ++i) y[i] = @exp(y[i] - most, 0.0f);
    for (int i = 0; i < n; ++i) sum += y[i];
    for (int i = 0; i < n; ++i) y[i] /= sum;
}
""",
        ("exp",),
    ),
}
"""Helpers by name, in the order in which a file defines them."""


Number = Array | np.float32 | float


def fma(a: Number, b: Number, c: Number) -> Array:
    """A * b + c, rounded once."""
    product = np.multiply(a, b, dtype=np.float64)  # exact
    return np.asarray(product.astype(np.longdouble) + c, dtype=np.float32)


def exp(x: Array, c: float = 0.0) -> Array:
    """e^x + c, as in C."""
    f = np.float32
    x = np.asarray(np.minimum(np.maximum(x, f(-87)), f(88)))
    n = fma(x, f(1.44269504088896341), f(12582912)) - f(12582912)
    r = fma(n, f(2.12194440e-4), fma(n, f(-0.693359375), x))
    p = np.full_like(r, 1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
                        5.0000001201e-1):  # fmt: skip
        p = fma(p, r, f(coefficient))
    p = fma(p, r * r, r) + f(1)
    power = np.ldexp(f(1), np.nan_to_num(n).astype(np.int32)).astype(np.float32)
    return fma(p, power, f(c))


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), as in C."""
    return np.asarray(np.float32(1) / exp(-x, 1.0))


def tanh(x: Array) -> Array:
    """The hyperbolic tangent, as in C."""
    f, limit = np.float32, np.float32(7.99881172180175781)
    x = np.asarray(np.minimum(np.maximum(x, -limit), limit))
    s = x * x
    p, q = np.full_like(s, -2.76076847742355e-16), np.full_like(s, 1.19825839466702e-06)
    for coefficient in (
        2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
        6.37261928875436e-04, 4.89352455891786e-03,
    ):  # fmt: skip
        p = fma(p, s, f(coefficient))
    for coefficient in (1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03):
        q = fma(q, s, f(coefficient))
    y = p * x / q
    return np.asarray(np.where(x >= limit, f(1), np.where(x <= -limit, f(-1), y)), np.float32)


def softmax(y: Array) -> Array:
    """Probabilities of scores ``(K,)``, as in C."""
    e = exp(y - y.max())
    return np.asarray(e / running_sum(e))


def running_sum(x: Array) -> np.float32:
    """The sum of ``(n,)``, one number after the other."""
    return np.float32(np.add.accumulate(x, dtype=np.float32)[-1]) if len(x) else np.float32(0)


def quantize(x: Array) -> tuple[NDArray[np.int8], Array]:
    """Whole numbers of each row of ``(..., n)``, and the unit that they count, ``(...)``."""
    f = np.float32
    largest = np.abs(x).max(-1, initial=0).astype(f)
    largest = np.where(np.isfinite(x).all(-1), largest, f(np.nan))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(largest > f(1e-30), f(127) / largest, f(0)).astype(f)
        scaled = np.rint(x * inverse[..., None])
    return np.nan_to_num(scaled).astype(np.int8), np.asarray(largest / f(127))


def add8(weights: tuple[NDArray[np.int8], Array], x: Array, y: Array) -> Array:
    """Y + W x with 8 bits, of quantized W ``(rows, n)``."""
    q, scale = weights
    whole, unit = quantize(x)
    sums = q.astype(np.int32) @ whole.astype(np.int32)
    return fma(sums.astype(np.float32), scale * unit, y)
