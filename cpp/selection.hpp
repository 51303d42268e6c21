// The selective scan of linear.hpp. A vector of features goes through the steps of a chunk with some of its
// numbers of state in registers, then with the next; sums over the numbers of state wait in y, or in dd and dv.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "activations.hpp"
#include "linear.hpp"
#include "lines.hpp"
#include "threads.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

constexpr int forward_states = registers / 4, backward_states = registers / 8;  // that are in registers together

// What a vector of features, from e on, of a row reads and writes.
template <class T> struct Features {
    const Selection<T>& s;
    int64_t row, e, left;

    OSTINATO_INLINE int64_t state(int64_t n) const { return (row * s.memory + n) * s.size + e; }
    OSTINATO_INLINE int64_t step(int64_t t) const { return (t * s.rows + row) * s.size + e; }
    OSTINATO_INLINE Vec<T> d(int64_t t) const { return load_part(s.d + t * s.d_t + row * s.d_b + e, left); }
    OSTINATO_INLINE Vec<T> v(int64_t t) const { return load_part(s.v + t * s.v_t + row * s.v_b + e, left); }
    OSTINATO_INLINE const T* B(int64_t t) const { return s.B + t * s.B_t + row * s.B_b; }
    OSTINATO_INLINE const T* C(int64_t t) const { return s.C + t * s.C_t + row * s.C_b; }
    OSTINATO_INLINE Vec<T> direct() const { return s.D ? load_part(s.D + e, left) : Vec<T>{}; }
    OSTINATO_INLINE bool starts(int64_t t) const { return s.resets && s.resets[t * s.rows + row]; }
    OSTINATO_INLINE T* kept(int64_t chunk, int64_t n) const {
        return s.kept + chunk * s.rows * s.memory * s.size + state(n);
    }
};

// Calls f(count, n) for the numbers of state from n on, `count` a constant, in as few calls as may be.
template <int most, class F> OSTINATO_INLINE void for_states(int64_t memory, F&& f) {
    int64_t n = 0;
    for (; n + most <= memory; n += most) f(std::integral_constant<int, most>(), n);
    for (; n < memory; ++n) f(std::integral_constant<int, 1>(), n);
}

// Calls f(row, first feature, end) for the tiles of a member.
template <class T, class F> OSTINATO_INLINE void for_tiles(const Selection<T>& s, const Member& me, F&& f) {
    constexpr int64_t features = selection_tile / int64_t(sizeof(T));
    const int64_t tiles = s.tiles();
    const Share mine(s.rows * tiles, me.index, me.count);
    for (int64_t at = mine.begin; at < mine.end; ++at) {
        const int64_t row = at / tiles, tile = at % tiles, end = (tile + 1) * features;
        f(row, tile, tile * features, end < s.size ? end : s.size);
    }
}

template <class T, int count>
OSTINATO_INLINE void select_forward(const Features<T>& f, int64_t t0, int64_t t1, int64_t n0) {
    Vec<T> c[count], A[count];
    for (int n = 0; n < count; ++n) {
        c[n] = load_part(f.s.c_n + f.state(n0 + n), f.left);
        A[n] = load_part(f.s.A + (n0 + n) * f.s.size + f.e, f.left);
    }
    for (int64_t t = t0; t < t1; ++t) {
        const Vec<T> d = f.d(t), x = d * f.v(t);
        const T *B = f.B(t) + n0, *C = f.C(t) + n0;
        T* const y = f.s.y + f.step(t);
        Vec<T> sum = n0 ? load_part(y, f.left) : f.direct() * f.v(t);
        if (f.starts(t))
            for (Vec<T>& each : c) each = Vec<T>{};
#pragma GCC unroll 8
        for (int n = 0; n < count; ++n) {
            c[n] = fma(exp_plus(d * A[n], T(0)), c[n], x * splat(B[n]));
            sum = fma(splat(C[n]), c[n], sum);
        }
        store_part(y, sum, f.left);
    }
    for (int n = 0; n < count; ++n) store_part(f.s.c_n + f.state(n0 + n), c[n], f.left);
}

template <class T> void selection_forward(const Selection<T>& s, const Member& me) {
    for_tiles(s, me, [&](int64_t row, int64_t, int64_t first, int64_t last) {
        const int64_t length = s.length(row), bytes = (last - first) * int64_t(sizeof(T));
        auto each_state = [&](auto&& f) {
            for (int64_t n = 0; n < s.memory; ++n) f((row * s.memory + n) * s.size + first);
        };
        each_state([&](int64_t at) {
            s.c0 ? std::memcpy(s.c_n + at, s.c0 + at, size_t(bytes)) : std::memset(s.c_n + at, 0, size_t(bytes));
        });
        for (int64_t t0 = 0; t0 < length; t0 += selection_chunk) {
            const int64_t t1 = t0 + selection_chunk < length ? t0 + selection_chunk : length;
            T* const kept = s.kept ? s.kept + t0 / selection_chunk * s.rows * s.memory * s.size : nullptr;
            if (kept) each_state([&](int64_t at) { std::memcpy(kept + at, s.c_n + at, size_t(bytes)); });
            for (int64_t e = first; e < last; e += W<T>)
                for_states<forward_states>(s.memory, [&](auto count, int64_t n) __attribute__((always_inline)) {
                    select_forward<T, count>({s, row, e, last - e}, t0, t1, n);
                });
        }
        for (int64_t t = length; t < s.steps; ++t)
            std::memset(s.y + (t * s.rows + row) * s.size + first, 0, size_t(bytes));
    });
}

// A sum over features is taken over 64 bytes of them in turns, whatever the width of a vector.
template <class T> constexpr int64_t lanes = 64 / int64_t(sizeof(T));

// The sums of W<T> such groups of lanes, each as l + (l + half) for ever smaller halves.
template <class T> OSTINATO_INLINE Vec<T> fold_lanes(const T* from) {
    constexpr int pieces = int(lanes<T>) / W<T>;
    Vec<T> sums[W<T>];
    for (int i = 0; i < W<T>; ++i) {
        Vec<T> piece[pieces];
        for (int p = 0; p < pieces; ++p) piece[p] = load(from + i * lanes<T> + p * W<T>);
        for (int half = pieces / 2; half > 0; half /= 2)
            for (int p = 0; p < half; ++p) piece[p] += piece[p + half];
        sums[i] = piece[0];
    }
    transpose<T>(sums);
    for (int half = W<T> / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
    return sums[0];
}

// The sums over features of a chunk, in lanes, (steps, memory, lanes) each; before the first of a chunk, zeros.
template <class T> struct LaneSums {
    T *dB, *dC;
    LaneSums(const Selection<T>& s, Arena& arena, int index) {
        for (int i = 0; i <= index; ++i)
            for (T** each : {&dB, &dC}) *each = arena.take<T>((selection_chunk * s.memory + W<T>) * lanes<T>);
    }
};
template <class T> int64_t selection_memory(const Selection<T>& s, int threads) {
    Arena arena(nullptr);
    LaneSums<T>(s, arena, threads - 1);
    return arena.used();
}

// c and a of the chunk once more, forward; then the gradients, backward. With g that of c, and x = d v: dx is the
// sum of g B, and that of d A the product of g, a and the c before.
template <class T, int count>
OSTINATO_INLINE void select_backward(const Features<T>& f, const SelectionGradients<T>& g, const LaneSums<T>& sums,
                                     int64_t t0, int64_t t1, int64_t n0) {
    const Selection<T>& s = f.s;
    Vec<T> a[selection_chunk][count], c[selection_chunk + 1][count], A[count], carry[count], dA[count];
    const Vec<T> D = f.direct();
    Vec<T> dD = s.D ? load_part(g.dD + f.row * s.size + f.e, f.left) : Vec<T>{};
    for (int n = 0; n < count; ++n) {
        c[0][n] = load_part(f.kept(t0 / selection_chunk, n0 + n), f.left);
        A[n] = load_part(s.A + (n0 + n) * s.size + f.e, f.left);
        carry[n] = load_part(g.dc0 + f.state(n0 + n), f.left), dA[n] = load_part(g.dA + f.state(n0 + n), f.left);
    }
    for (int64_t t = t0, i = 0; t < t1; ++t, ++i) {
        const Vec<T> d = f.d(t), x = d * f.v(t);
        const T* const B = f.B(t) + n0;
        const bool starts = f.starts(t);
#pragma GCC unroll 8
        for (int n = 0; n < count; ++n) {
            a[i][n] = exp_plus(d * A[n], T(0));
            c[i + 1][n] = fma(a[i][n], starts ? Vec<T>{} : c[i][n], x * splat(B[n]));
        }
    }
    const int64_t lane = f.e % lanes<T>;
    for (int64_t t = t1 - 1; t >= t0; --t) {
        const int64_t i = t - t0;
        const Vec<T> d = f.d(t), v = f.v(t), x = d * v;
        const Vec<T> dy = g.dy ? load_part(g.dy + t * g.dy_t + f.row * g.dy_b + f.e, f.left) : Vec<T>{};
        const T *B = f.B(t) + n0, *C = f.C(t) + n0;
        T *const dB = sums.dB + (i * s.memory + n0) * lanes<T> + lane, *const dC = sums.dC + (dB - sums.dB);
        T *const dd = g.dd + f.step(t), *const dv = g.dv + f.step(t);
        const bool starts = f.starts(t);
        Vec<T> dx = n0 ? load_part(dv, f.left) : Vec<T>{}, own = n0 ? load_part(dd, f.left) : Vec<T>{};
#pragma GCC unroll 8
        for (int n = 0; n < count; ++n) {
            const Vec<T> dc = fma(dy, splat(C[n]), carry[n]), past = dc * a[i][n];
            store(dC + n * lanes<T>, fma(dy, c[i + 1][n], load(dC + n * lanes<T>)));
            store(dB + n * lanes<T>, fma(dc, x, load(dB + n * lanes<T>)));
            dx = fma(dc, splat(B[n]), dx);
            const Vec<T> exponent = starts ? Vec<T>{} : past * c[i][n];
            own = fma(exponent, A[n], own), dA[n] = fma(exponent, d, dA[n]);
            carry[n] = starts ? Vec<T>{} : past;
        }
        const bool is_last = n0 + count == s.memory;
        if (is_last) own = fma(dx, v, own), dx = fma(dy, D, dx * d), dD = fma(dy, v, dD);
        store_part(dv, dx, f.left), store_part(dd, own, f.left);
    }
    if (s.D) store_part(g.dD + f.row * s.size + f.e, dD, f.left);
    for (int n = 0; n < count; ++n)
        store_part(g.dc0 + f.state(n0 + n), carry[n], f.left), store_part(g.dA + f.state(n0 + n), dA[n], f.left);
}

template <class T>
void selection_backward(const Selection<T>& s, const SelectionGradients<T>& g, char* block, const Member& me) {
    Arena arena(block);
    const LaneSums<T> sums(s, arena, me.index);
    for_tiles(s, me, [&](int64_t row, int64_t tile, int64_t first, int64_t last) {
        const int64_t length = s.length(row), bytes = (last - first) * int64_t(sizeof(T));
        for (int64_t n = 0; n < s.memory; ++n) {
            const int64_t at = (row * s.memory + n) * s.size + first;
            std::memset(g.dA + at, 0, size_t(bytes));
            g.dc_n ? std::memcpy(g.dc0 + at, g.dc_n + at, size_t(bytes)) : std::memset(g.dc0 + at, 0, size_t(bytes));
        }
        if (s.D) std::memset(g.dD + row * s.size + first, 0, size_t(bytes));
        auto of_tile = [&](T* p, int64_t t) { return p + ((tile * s.steps + t) * s.rows + row) * s.memory; };
        for (int64_t t = length; t < s.steps; ++t) {
            for (T* p : {g.dd, g.dv}) std::memset(p + (t * s.rows + row) * s.size + first, 0, size_t(bytes));
            for (T* p : {g.dB, g.dC}) std::memset(of_tile(p, t), 0, size_t(s.memory) * sizeof(T));
        }
        for (int64_t end = length; end > 0;) {
            const int64_t t0 = (end - 1) / selection_chunk * selection_chunk;
            for (T* p : {sums.dB, sums.dC}) std::memset(p, 0, size_t(selection_chunk * s.memory + W<T>) * 64);
            for (int64_t e = first; e < last; e += W<T>)
                for_states<backward_states>(s.memory, [&](auto count, int64_t n) __attribute__((always_inline)) {
                    select_backward<T, count>({s, row, e, last - e}, g, sums, t0, end, n);
                });
            for (T* const p : {sums.dB, sums.dC})
                for (int64_t i = 0; i < (end - t0) * s.memory; i += W<T>) {
                    T sum[W<T>];
                    store(sum, fold_lanes<T>(p + i * lanes<T>));
                    for (int64_t j = i; j < i + W<T> && j < (end - t0) * s.memory; ++j)
                        of_tile(p == sums.dB ? g.dB : g.dC, t0 + j / s.memory)[j % s.memory] = sum[j - i];
                }
            end = t0;
        }
    });
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
