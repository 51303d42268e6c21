// One step of every cell on one vector of hidden units, forward and backward: the equations of
// src/ostinato/recurrence/cells/. The caller does the products; these functions are elementwise.
#pragma once

#include "activations.hpp"
#include "sequence.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

template <class T> OSTINATO_INLINE Vec<T> activate(Activation f, Vec<T> a) {
    switch (f) {
        case Activation::tanh: return tanh(a);
        case Activation::relu: return a < T(0) ? Vec<T>{} : a;  // NaN stays
        case Activation::sigmoid: return sigmoid<T>(a);
        default: return a;
    }
}

// Derivative of f where it has the value h.
template <class T> OSTINATO_INLINE Vec<T> slope(Activation f, Vec<T> h) {
    switch (f) {
        case Activation::tanh: return one_minus_square(h);
        case Activation::relu: return h <= T(0) ? Vec<T>{} : splat(T(1));
        case Activation::sigmoid: return h * (T(1) - h);
        default: return splat(T(1));
    }
}

// c = f * c' + i * g;  h = o * tanh(c). Gates come as products and leave activated.
template <class T> struct LSTMUnit {
    Vec<T> i, f, g, o, c;

    // Leaves h, which is computed apart from the gates, to the caller.
    OSTINATO_INLINE void forward(Vec<T> c_before) {
        i = sigmoid<T>(i), f = sigmoid<T>(f), g = tanh(g), o = sigmoid<T>(o);
        c = fma(f, c_before, i * g);
    }

    // dh: gradient of o * tanh(c). dc: of c, from later steps; replaced by that for the step before.
    // Gates are replaced by the gradients of their products.
    OSTINATO_INLINE void backward(Vec<T> dh, Vec<T>& dc, Vec<T> c_before) {
        const Vec<T> t = tanh(c);
        const Vec<T> d = fma(dh * o, one_minus_square(t), dc);
        const Vec<T> di = d * g * i * (T(1) - i);
        const Vec<T> df = d * c_before * f * (T(1) - f);
        const Vec<T> dg = d * i * one_minus_square(g);
        dc = d * f;
        o = dh * t * o * (T(1) - o);
        i = di, f = df, g = dg;
    }
};

// n = tanh(x_n + r * hn);  h = (1 - z) * n + z * h' = n + z * (h' - n). hn is W_hn h' + b_hn, n comes as x_n.
template <class T> struct GRUUnit {
    Vec<T> hn, r, z, n;

    OSTINATO_INLINE Vec<T> forward(Vec<T> h_before) {
        r = sigmoid<T>(r), z = sigmoid<T>(z);
        n = tanh(fma(r, hn, n));
        return fma(z, h_before - n, n);
    }

    // dh: gradient of h. Returns what of it goes straight to the h before.
    OSTINATO_INLINE Vec<T> backward(Vec<T> dh, Vec<T> h_before) {
        const Vec<T> straight = dh * z;
        const Vec<T> dn = dh * (T(1) - z) * one_minus_square(n);
        const Vec<T> dr = dn * hn * r * (T(1) - r);
        z = dh * (h_before - n) * z * (T(1) - z);
        hn = dn * r;
        r = dr, n = dn;
        return straight;
    }
};

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
