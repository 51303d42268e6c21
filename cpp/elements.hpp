// Functions of linear.hpp, and elements of program.hpp: what is computed number by number.
#pragma once

#include "activations.hpp"
#include "linear.hpp"
#include "program.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

// log(1 + e^x). With s = u / (2 + u), log(1 + u) = 2 artanh(s), and s is 1/3 at most.
template <class T> inline Vec<T> softplus(Vec<T> x) {
    const Vec<T> size = x < T(0) ? x : -x, u = exp_plus(size, T(0)), s = u / (T(2) + u), q = s * s;
    Vec<T> p = splat(T(1) / 37);
#pragma GCC unroll 18
    for (int n = 35; n > 1; n -= 2) p = fma(p, q, splat(T(1) / T(n)));
    const Vec<T> positive = x < T(0) ? Vec<T>{} : x;
    return fma(T(2) * s, fma(p, q, splat(T(1))), positive);
}

template <class T> inline Vec<T> square_root(Vec<T> x) {
    for (int l = 0; l < W<T>; ++l) x[l] = sizeof(T) == 4 ? T(__builtin_sqrtf(float(x[l]))) : T(__builtin_sqrt(double(x[l])));
    return x;
}

template <class T> OSTINATO_INLINE Vec<T> apply(Function f, Vec<T> x) {
    switch (f) {
        case Function::sigmoid: return sigmoid<T>(x);
        case Function::tanh: return tanh(x);
        case Function::exp: return exp_plus(x, T(0));
        case Function::softplus: return softplus<T>(x);
        case Function::silu: return x * sigmoid<T>(x);
        default: return square_root<T>(x);
    }
}

// The gradient of x, given f(x), or x of softplus and silu.
template <class T> OSTINATO_INLINE Vec<T> slope(Function f, Vec<T> x, Vec<T> dy) {
    switch (f) {
        case Function::sigmoid: return dy * (x * (T(1) - x));
        case Function::tanh: return dy * one_minus_square(x);
        case Function::exp: return dy * x;
        case Function::softplus: return dy * sigmoid<T>(x);
        case Function::silu: {
            const Vec<T> rest = sigmoid<T>(-x);  // 1 - s is not, where s rounds to 1 and x is large
            return dy * (sigmoid<T>(x) * fma(x, rest, splat(T(1))));
        }
        default: return dy * (T(0.5) / x);
    }
}

// to = f(read), where read(k) gives what stands in from[k].
template <class T, class F>
OSTINATO_INLINE void each_number(const Element& e, T* const* const* base, const T* vectors, int64_t rows, F&& f) {
    for (int64_t row = 0; row < rows; ++row) {
        const T* from[3];
        for (int k = 0; k < 3; ++k) {
            const Place& p = e.from[k];
            from[k] = (p.base == Base::count ? vectors : base[int(p.base)][row]) + p.at;
        }
        T* const to = base[int(e.to.base)][row] + e.to.at;
        int64_t i = 0;
        if (e.step[0] && e.step[1] && e.step[2])
            for (; i + W<T> <= e.n; i += W<T>) {
                auto read = [&](int k) __attribute__((always_inline)) { return load(from[k] + i); };
                store(to + i, f(read));
            }
        for (; i < e.n; i += W<T>) {
            auto read = [&](int k) __attribute__((always_inline)) {
                return e.step[k] ? load_part(from[k] + i, e.n - i) : splat(*from[k]);
            };
            store_part(to + i, f(read), e.n - i);
        }
    }
}

template <class T> void element(const Element& e, T* const* const* base, const T* vectors, int64_t rows) {
    auto to = [&](auto&& f) __attribute__((always_inline)) { each_number<T>(e, base, vectors, rows, f); };
    switch (e.function) {
        case ElementFunction::copy: return to([](auto& x) { return x(0); });
        case ElementFunction::add: return to([](auto& x) { return x(0) + x(1); });
        case ElementFunction::subtract: return to([](auto& x) { return x(0) - x(1); });
        case ElementFunction::multiply: return to([](auto& x) { return x(0) * x(1); });
        case ElementFunction::divide: return to([](auto& x) { return x(0) / x(1); });
        case ElementFunction::fma: return to([](auto& x) { return fma(x(0), x(1), x(2)); });
        case ElementFunction::fnma: return to([](auto& x) { return fma(-x(0), x(1), x(2)); });
        case ElementFunction::maximum: return to([](auto& x) {
            const Vec<T> a = x(0), b = x(1);
            return ((a > b) | (a != a)) ? a : b;  // NaN where a is
        });
        case ElementFunction::sqrt: return to([](auto& x) { return square_root<T>(x(0)); });
        case ElementFunction::negate: return to([](auto& x) { return -x(0); });
        case ElementFunction::sigmoid: return to([](auto& x) { return sigmoid<T>(x(0)); });
        case ElementFunction::tanh: return to([](auto& x) { return tanh(x(0)); });
        case ElementFunction::exp: return to([](auto& x) { return exp_plus(x(0), T(0)); });
        case ElementFunction::softplus: return to([](auto& x) { return softplus<T>(x(0)); });
        case ElementFunction::silu: return to([](auto& x) {
            const Vec<T> a = x(0);
            return a * sigmoid<T>(a);
        });
        case ElementFunction::sigmoid_slope: return to([](auto& x) { return slope<T>(Function::sigmoid, x(0), x(1)); });
        case ElementFunction::tanh_slope: return to([](auto& x) { return slope<T>(Function::tanh, x(0), x(1)); });
        case ElementFunction::softplus_slope: return to([](auto& x) { return slope<T>(Function::softplus, x(0), x(1)); });
        case ElementFunction::silu_slope: return to([](auto& x) { return slope<T>(Function::silu, x(0), x(1)); });
        case ElementFunction::sqrt_slope: return to([](auto& x) { return slope<T>(Function::sqrt, x(0), x(1)); });
        case ElementFunction::at_least: return to([](auto& x) {
            const Vec<T> a = x(0), b = x(1), c = x(2);
            return a >= b ? c : Vec<T>{};
        });
    }
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
