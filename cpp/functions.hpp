// What kernels of programs are made of, beside activations.hpp: functions over vectors that behave as PyTorch's
// for NaN, infinities and zeros, and sums over the numbers of a row that do not depend on the width of a vector.
#pragma once

#include <cmath>
#include <limits>

#include "activations.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

// f of every lane by itself, where there is no faster way.
template <class T, class F> inline Vec<T> each_lane(Vec<T> x, F&& f) {
    for (int l = 0; l < W<T>; ++l) x[l] = f(T(x[l]));
    return x;
}

// The whole range, unlike exp_plus: 0 below, infinity above.
inline Vec<float> exp(Vec<float> x) {
    const auto large = x > 87.0f;
    const Vec<float> y = exp_plus(large ? x - 1.0f : x, 0.0f) * (large ? splat(2.71828182845904524f) : splat(1.0f));
    return x < -87.3365448f ? Vec<float>{} : y;
}
inline Vec<double> exp(Vec<double> x) {
    const auto large = x > 708.0;
    const Vec<double> y = exp_plus(large ? x - 1.0 : x, 0.0) * (large ? splat(2.71828182845904523536) : splat(1.0));
    return x < -708.396418532264106 ? Vec<double>{} : y;
}

// log(2^e m) = e log 2 + log m with m in [sqrt(1/2), sqrt(2)). Polynomial of the Cephes library (S. Moshier, logf).
inline Vec<float> log(Vec<float> x) {
    typedef int32_t Int __attribute__((vector_size(vector_bytes)));
    constexpr float infinity = std::numeric_limits<float>::infinity();
    Int bits;
    std::memcpy(&bits, &x, sizeof bits);
    Int exponent = (bits >> 23) - 126;
    bits = (bits & 0x7fffff) | 0x3f000000;
    Vec<float> m;  // in [1/2, 1)
    std::memcpy(&m, &bits, sizeof m);
    const auto small = m < 0.707106781186547524f;
    exponent = exponent + small;
    m = (small ? m + m : m) - 1.0f;
    const Vec<float> e = __builtin_convertvector(exponent, Vec<float>), square = m * m;
    Vec<float> p = polynomial(m, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f,
                              1.4249322787e-1f, -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f,
                              3.3333331174e-1f);
    p = p * m * square;
    p = fma(e, splat(-2.12194440e-4f), p);
    p = fma(square, splat(-0.5f), p);
    const Vec<float> y = fma(e, splat(0.693359375f), m + p);
    const Vec<float> positive = x < infinity ? y : x;  // infinity and NaN as they are
    const Vec<float> low = x == 0.0f ? splat(-infinity) : splat(std::numeric_limits<float>::quiet_NaN());
    return x <= 0.0f ? low : positive;
}
inline Vec<double> log(Vec<double> x) { return each_lane<double>(x, [](double a) { return std::log(a); }); }

// What rounding takes from 1 + x is given back as a factor.
inline Vec<float> log1p(Vec<float> x) {
    const Vec<float> u = 1.0f + x, d = u - 1.0f, y = log(u);
    const Vec<float> far = u < std::numeric_limits<float>::infinity() ? y * (x / d) : y;
    return d == 0.0f ? x : far;
}
inline Vec<double> log1p(Vec<double> x) { return each_lane<double>(x, [](double a) { return std::log1p(a); }); }

inline Vec<float> expm1(Vec<float> x) {
    const Vec<float> u = exp(x), d = u - 1.0f;
    const Vec<float> near = d * (x / log(u)), far = x > 80.0f ? u : near;
    const Vec<float> low = d == -1.0f ? splat(-1.0f) : far;
    return d == 0.0f ? x : low;
}
inline Vec<double> expm1(Vec<double> x) { return each_lane<double>(x, [](double a) { return std::expm1(a); }); }

// A 13/8 rational function (the coefficients of Eigen), up to where erf rounds to 1.
inline Vec<float> erf(Vec<float> x) {
    x = at_most(at_least(x, -4.0f), 4.0f);
    const Vec<float> s = x * x;
    const Vec<float> p = polynomial(s, -2.72614225801306e-10f, 2.77068142495902e-08f, -2.10102402082508e-06f,
                                    -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                                    -1.60960333262415e-02f);
    const Vec<float> q = polynomial(s, -1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f,
                                    -7.37332916720468e-03f, -1.42647390514189e-02f);
    return p * x / q;
}
inline Vec<double> erf(Vec<double> x) { return each_lane<double>(x, [](double a) { return std::erf(a); }); }

template <class V> inline V sqrt(V x) {
    for (unsigned l = 0; l < sizeof(V) / sizeof x[0]; ++l) x[l] = std::sqrt(x[l]);  // one instruction
    return x;
}
template <class T> inline Vec<T> sin(Vec<T> x) { return each_lane<T>(x, [](T a) { return std::sin(a); }); }
template <class T> inline Vec<T> cos(Vec<T> x) { return each_lane<T>(x, [](T a) { return std::cos(a); }); }
template <class T> inline Vec<T> atan(Vec<T> x) { return each_lane<T>(x, [](T a) { return std::atan(a); }); }
template <class T> inline Vec<T> floor(Vec<T> x) { return each_lane<T>(x, [](T a) { return std::floor(a); }); }
template <class T> inline Vec<T> pow(Vec<T> x, Vec<T> y) {
    for (int l = 0; l < W<T>; ++l) x[l] = std::pow(T(x[l]), T(y[l]));
    return x;
}
template <class T> inline Vec<T> sign(Vec<T> x) {
    return (x > T(0) ? splat(T(1)) : Vec<T>{}) - (x < T(0) ? splat(T(1)) : Vec<T>{});
}
template <class T> inline Vec<T> absolute(Vec<T> x) {
    const Vec<T> y = x < T(0) ? -x : x;
    return y + T(0);  // of -0 as well
}
// NaN where either is.
template <class T> inline Vec<T> maximum(Vec<T> a, Vec<T> b) { return ((a > b) | (a != a)) ? a : b; }
template <class T> inline Vec<T> minimum(Vec<T> a, Vec<T> b) { return ((a < b) | (a != a)) ? a : b; }
template <class T> inline Vec<T> choose(Vec<T> where, Vec<T> a, Vec<T> b) { return where != T(0) ? a : b; }

// A sum or a maximum over the numbers of a row is taken over this many vectors in turns, 64 bytes in all, whatever
// the width of a vector.
constexpr int turns = 64 / vector_bytes;
template <class T> inline Vec<T> first_lanes(Vec<T> v, int64_t n, T others) {
    decltype(v < v) lane{};
    for (int l = 0; l < W<T>; ++l) lane[l] = l;
    return lane < int(n < W<T> ? n : W<T>) ? v : splat(others);
}
template <class T, class F> inline T fold(const Vec<T> (&of)[turns], F&& f) {
    T lanes[turns * W<T>];
    for (int u = 0; u < turns; ++u) store(lanes + u * W<T>, of[u]);
    for (int half = turns * W<T> / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lanes[l] = f(lanes[l], lanes[l + half]);
    return lanes[0];
}
template <class T> inline T sum_of(const Vec<T> (&of)[turns]) {
    return fold<T>(of, [](T a, T b) { return a + b; });
}
template <class T> inline T maximum_of(const Vec<T> (&of)[turns]) {
    return fold<T>(of, [](T a, T b) { return a > b || a != a ? a : b; });
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
