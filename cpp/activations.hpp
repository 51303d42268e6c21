// exp, sigmoid and tanh over vectors: the accuracy knob.
//
// Largest errors, relative: sigmoid 1.3e-7 and tanh 2.4e-7 in float, 3e-16 and 5e-16 in double.
// Rounding by adding and taking away a large number needs strict arithmetic: no -ffast-math. NaN
// stays NaN; infinities give the limits.
#pragma once

#include "simd.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

// e^x + c, where e^x = 2^n e^r with |r| <= ln 2 / 2, for x in [-87, 88]; clamped outside. Minimax
// polynomial of the Cephes library (S. Moshier, expf).
inline Vec<float> exp_plus(Vec<float> x, float c) {
    typedef int32_t Int __attribute__((vector_size(vector_bytes)));
    const float magic = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer
    x = at_most(at_least(x, -87.0f), 88.0f);
    const Vec<float> n = fma(x, splat(1.44269504088896341f), splat(magic)) - magic;
    Vec<float> r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Vec<float> p = polynomial(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                              1.6666665459e-1f, 5.0000001201e-1f);
    p = fma(p, r * r, r) + 1.0f;
    const Int power = (__builtin_convertvector(n, Int) + 127) << 23;
    Vec<float> scale;
    std::memcpy(&scale, &power, sizeof scale);
    return fma(p, scale, splat(c));
}

// The same for x in [-708, 709], by Taylor's series to degree 13.
inline Vec<double> exp_plus(Vec<double> x, double c) {
    typedef int64_t Int __attribute__((vector_size(vector_bytes)));
    const double magic = 6755399441055744.0;  // 1.5 * 2^52
    x = x < -708.0 ? splat(-708.0) : x;
    x = x > 709.0 ? splat(709.0) : x;
    const Vec<double> shifted = fma(x, splat(1.44269504088896340736), splat(magic));
    const Vec<double> n = shifted - magic;
    Vec<double> r = fma(n, splat(-6.93145751953125e-1), x);
    r = fma(n, splat(-1.42860682030941723212e-6), r);
    const Vec<double> p = polynomial(r, 1.0 / 6227020800.0, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                                     1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24,
                                     1.0 / 6, 0.5, 1.0, 1.0);
    Int bits;  // the low bits of the shifted number are n
    std::memcpy(&bits, &shifted, sizeof bits);
    const Int power = (bits + 1023) << 52;
    Vec<double> scale;
    std::memcpy(&scale, &power, sizeof scale);
    return fma(p, scale, splat(c));
}

// Keeps its relative accuracy for negative x, unlike (1 + tanh(x / 2)) / 2.
template <class T> inline Vec<T> sigmoid(Vec<T> x) { return T(1) / exp_plus(-x, T(1)); }

// A 13/6 rational function (the coefficients of Eigen) up to where tanh rounds to 1, and there exactly 1:
// the slope of a saturated unit is 0, not what rounding leaves of it.
inline Vec<float> tanh(Vec<float> x) {
    constexpr float limit = 7.99881172180175781f;
    x = at_most(at_least(x, -limit), limit);
    const Vec<float> s = x * x;
    // In turns: each has to wait for itself.
    Vec<float> p = polynomial(s, -2.76076847742355e-16f, 2.00018790482477e-13f, -8.60467152213735e-11f);
    Vec<float> q = splat(1.19825839466702e-06f);
    p = fma(p, s, splat(5.12229709037114e-08f));
    p = fma(p, s, splat(1.48572235717979e-05f)), q = fma(q, s, splat(1.18534705686654e-04f));
    p = fma(p, s, splat(6.37261928875436e-04f)), q = fma(q, s, splat(2.26843463243900e-03f));
    p = fma(p, s, splat(4.89352455891786e-03f)), q = fma(q, s, splat(4.89352518554385e-03f));
    const Vec<float> y = p * x / q, upper = x >= limit ? splat(1.0f) : y;
    return x <= -limit ? splat(-1.0f) : upper;
}

// (e^2x - 1) / (e^2x + 1) loses digits near 0, where the odd series is exact.
inline Vec<double> tanh(Vec<double> x) {
    const Vec<double> e = exp_plus(x + x, 0.0);
    const Vec<double> far = (e - 1.0) / (e + 1.0);
    const Vec<double> s = x * x;
    const Vec<double> p = polynomial(s, 21844.0 / 6081075.0, -1382.0 / 155925.0, 62.0 / 2835.0, -17.0 / 315.0,
                                     2.0 / 15.0, -1.0 / 3.0);
    const Vec<double> near = fma(x * s, p, x);
    return s < 0.01 ? near : far;
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
