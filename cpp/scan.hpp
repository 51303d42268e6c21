// The passes of linear.hpp.
#pragma once

#include "elements.hpp"
#include "gemm.hpp"
#include "linear.hpp"
#include "lines.hpp"
#include "threads.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

// A vector of real numbers, or of complex ones.
template <class T, bool is_complex> struct Numbers {
    Vec<T> re{}, im{};

    // Of `n` numbers from p on; the imaginary parts stand `size` further on.
    static OSTINATO_INLINE Numbers read(const T* p, int64_t n, int64_t size) {
        Numbers x;
        if (!p) return x;
        x.re = load_part(p, n);
        if constexpr (is_complex) x.im = load_part(p + size, n);
        return x;
    }
    OSTINATO_INLINE void write(T* p, int64_t n, int64_t size) const {
        if (!p) return;
        store_part(p, re, n);
        if constexpr (is_complex) store_part(p + size, im, n);
    }
    // x * y + z.
    static OSTINATO_INLINE Numbers multiply_add(Numbers x, Numbers y, Numbers z) {
        Numbers sum;
        if constexpr (is_complex) {
            sum.re = fma(x.re, y.re, fma(-x.im, y.im, z.re));
            sum.im = fma(x.re, y.im, fma(x.im, y.re, z.im));
        } else {
            sum.re = fma(x.re, y.re, z.re);
        }
        return sum;
    }
    OSTINATO_INLINE Numbers conjugate() const {
        Numbers x = *this;
        x.im = -x.im;
        return x;
    }
};

constexpr int64_t tile_vectors = 128;  // that go through time together: h of one step stays in L1

// The share of a member: vectors of units of all rows, in tiles. Calls each(step) as work(row, unit, numbers
// of it, place of the vector in the tile), from the first step to the last or the other way round; a row's
// vectors lie side by side. begin(..) comes before the first step, end(..) after the last.
template <class T, class Begin, class Work, class End>
OSTINATO_INLINE void for_time(const Recurrence<T>& s, const Member& me, bool backward, Begin&& begin, Work&& work,
                              End&& end) {
    const int64_t per_row = (s.size + W<T> - 1) / W<T>;
    const Share mine(s.rows * per_row, me.index, me.count);
    auto vectors = [&](int64_t first, int64_t last, auto&& f) __attribute__((always_inline)) {
        for (int64_t at = first; at < last;) {
            const int64_t row = at / per_row, stop = last < (row + 1) * per_row ? last : (row + 1) * per_row;
            f(row, at - row * per_row, stop - row * per_row, at - first);
            at = stop;
        }
    };
    for (int64_t first = mine.begin; first < mine.end; first += tile_vectors) {
        const int64_t last = first + tile_vectors < mine.end ? first + tile_vectors : mine.end;
        vectors(first, last, begin);
        for (int64_t i = 0; i < s.steps; ++i) {
            const int64_t t = backward ? s.steps - 1 - i : i;
            vectors(first, last, [&](int64_t row, int64_t v0, int64_t v1, int64_t place) __attribute__((always_inline)) {
                work(t, row, v0, v1, place);
            });
        }
        vectors(first, last, end);
    }
}

// h before step t of a row; null for zeros.
template <class T> OSTINATO_INLINE const T* h_before(const Recurrence<T>& s, int64_t t, int64_t row) {
    if (s.resets && s.resets[t * s.rows + row]) return nullptr;
    if (t > 0) return s.h + (t - 1) * s.h_t + row * s.h_b;
    return s.h0 ? s.h0 + row * s.width() : nullptr;
}

template <class T> OSTINATO_INLINE T* at_unit(T* p, int64_t unit) { return p ? p + unit : nullptr; }

template <class T, bool is_complex> void scan_forward_of(const Recurrence<T>& s, const Member& me) {
    using N = Numbers<T, is_complex>;
    const int64_t size = s.size;
    for_time(
        s, me, false, [](int64_t, int64_t, int64_t, int64_t) {},
        [&](int64_t t, int64_t row, int64_t v0, int64_t v1, int64_t) __attribute__((always_inline)) {
            T* h = s.h + t * s.h_t + row * s.h_b;
            if (t >= s.length(row)) {
                for (int64_t i = v0 * W<T>; v0 < v1; ++v0, i += W<T>) N{}.write(h + i, size - i, size);
                return;
            }
            const T *a = s.a + t * s.a_t + row * s.a_b, *b = s.b + t * s.b_t + row * s.b_b, *before = h_before(s, t, row);
            for (int64_t i = v0 * W<T>; v0 < v1; ++v0, i += W<T>) {
                const N past = N::read(at_unit(before, i), size - i, size);
                N::multiply_add(N::read(a + i, size - i, size), past, N::read(b + i, size - i, size))
                    .write(h + i, size - i, size);
            }
        },
        [&](int64_t row, int64_t v0, int64_t v1, int64_t) {
            if (!s.h_n) return;
            const int64_t n = s.length(row);
            const T* last = n > 0 ? s.h + (n - 1) * s.h_t + row * s.h_b : s.h0 ? s.h0 + row * s.width() : nullptr;
            for (int64_t i = v0 * W<T>; v0 < v1; ++v0, i += W<T>)
                N::read(at_unit(last, i), size - i, size).write(s.h_n + row * s.width() + i, size - i, size);
        });
}

template <class T> void scan_forward(const Recurrence<T>& s, const Member& me) {
    s.is_complex ? scan_forward_of<T, true>(s, me) : scan_forward_of<T, false>(s, me);
}

// d_t = dh_t + conj(a_(t+1)) d_(t+1) is the gradient of b_t; that of a_t is d_t conj(h_(t-1)).
template <class T, bool is_complex>
void scan_backward_of(const Recurrence<T>& s, const RecurrenceGradients<T>& g, const Member& me) {
    using N = Numbers<T, is_complex>;
    const int64_t size = s.size, width = s.width();
    N carry[tile_vectors], sum[tile_vectors];  // of each vector: what comes from the step after; da of the row
    for_time(
        s, me, true,
        [&](int64_t row, int64_t v0, int64_t v1, int64_t place) {
            for (int64_t i = v0 * W<T>; v0 < v1; ++v0, i += W<T>, ++place) {
                carry[place] = N::read(at_unit(g.dh_n, row * width + i), size - i, size);
                sum[place] = {};
            }
        },
        [&](int64_t t, int64_t row, int64_t v0, int64_t v1, int64_t place) __attribute__((always_inline)) {
            const int64_t at = (t * s.rows + row) * width;
            if (t >= s.length(row)) {
                for (int64_t i = v0 * W<T>; v0 < v1; ++v0, i += W<T>) {
                    N{}.write(at_unit(g.da, at + i), size - i, size);
                    N{}.write(at_unit(g.db, at + i), size - i, size);
                }
                return;
            }
            const T *a = s.a + t * s.a_t + row * s.a_b, *before = h_before(s, t, row);
            const T* dh = at_unit(g.dh, t * g.dh_t + row * g.dh_b);
            const bool starts = s.resets && s.resets[t * s.rows + row];
            for (int64_t i = v0 * W<T>; v0 < v1; ++v0, i += W<T>, ++place) {
                N d = carry[place];
                const N own = N::read(at_unit(dh, i), size - i, size);
                d.re += own.re, d.im += own.im;
                d.write(at_unit(g.db, at + i), size - i, size);
                const N past = N::read(at_unit(before, i), size - i, size).conjugate();
                if (g.da) N::multiply_add(d, past, N{}).write(g.da + at + i, size - i, size);
                if (g.da_row) sum[place] = N::multiply_add(d, past, sum[place]);
                carry[place] = starts ? N{} : N::multiply_add(N::read(a + i, size - i, size).conjugate(), d, N{});
            }
        },
        [&](int64_t row, int64_t v0, int64_t v1, int64_t place) {
            for (int64_t i = v0 * W<T>; v0 < v1; ++v0, i += W<T>, ++place) {
                carry[place].write(at_unit(g.dh0, row * width + i), size - i, size);
                sum[place].write(at_unit(g.da_row, row * width + i), size - i, size);
            }
        });
}

template <class T> void scan_backward(const Recurrence<T>& s, const RecurrenceGradients<T>& g, const Member& me) {
    s.is_complex ? scan_backward_of<T, true>(s, g, me) : scan_backward_of<T, false>(s, g, me);
}

template <class T> void map(const Map<T>& m, const Member& me) {
    const int64_t per_row = (m.columns + W<T> - 1) / W<T>;
    const Share mine(m.rows * per_row, me.index, me.count);
    for (int64_t at = mine.begin; at < mine.end; ++at) {
        const int64_t row = at / per_row, column = (at - row * per_row) * W<T>, left = m.columns - column;
        const Vec<T> x = load_part(m.x + row * m.x_row + column, left);
        const int64_t to = row * m.columns + column;
        store_part(m.y + to, m.dy ? slope<T>(m.function, x, load_part(m.dy + to, left)) : apply<T>(m.function, x), left);
    }
}

// Elements of some rows at a time, so that what they leave for one another stays in the first cache. The memory of a
// member is its own: see tape_memory().
template <class T> constexpr int64_t tape_rows(const Tape<T>& tape) {
    const int64_t bytes = (tape.scratch > 0 ? tape.scratch : 1) * int64_t(sizeof(T)), fit = 24 * 1024 / bytes;
    return fit < 1 ? 1 : fit > 16 ? 16 : fit;
}

template <class T> int64_t tape_memory(const Tape<T>& tape, int threads) {
    Arena arena(nullptr);
    for (int i = 0; i < threads; ++i) arena.take<T>(tape_rows(tape) * tape.scratch);
    return arena.used();
}

template <class T> void run_tape(const Tape<T>& tape, char* memory, const Member& me) {
    Arena arena(memory);
    const int64_t most = tape_rows(tape);
    T* scratch = nullptr;
    for (int i = 0; i <= me.index; ++i) scratch = arena.take<T>(most * tape.scratch);
    T* at[bases][16];
    T** base[bases];
    for (int b = 0; b < bases; ++b) base[b] = at[b];
    for (int64_t j = 0; j < most; ++j) at[0][j] = scratch + j * tape.scratch;
    const Share mine(tape.rows, me.index, me.count);
    for (int64_t first = mine.begin; first < mine.end; first += most) {
        const int64_t n = mine.end - first < most ? mine.end - first : most;
        for (int b = 1; b < bases; ++b)
            for (int64_t j = 0; j < n; ++j) at[b][j] = tape.tensor[b] ? tape.tensor[b] + (first + j) * tape.stride[b] : nullptr;
        for (int64_t i = 0; i < tape.count; ++i) element<T>(tape.element[i], base, tape.vectors, n);
    }
}

// y, or dx, by shares of steps and rows; sums over them by shares of features.
template <class T> void convolution(const Convolution<T>& c, const Member& me) {
    constexpr int64_t tile = 512 / int64_t(sizeof(T));
    const bool forward = c.y != nullptr;
    const Share lines((forward ? c.steps : c.steps + c.window - 1) * c.rows, me.index, me.count);
    for (int64_t at = lines.begin; at < lines.end; ++at) {
        const int64_t t = at / c.rows, row = at % c.rows;
        // Steps that a step of y has seen lie ahead in x; those that have seen a step of x, behind in y.
        const int64_t first = forward || t < c.steps ? 0 : t - c.steps + 1, last = forward || t >= c.window - 1 ? c.window : t + 1;
        for (int64_t e = 0; e < c.size; e += W<T>) {
            const int64_t left = c.size - e;
            Vec<T> sum = forward && c.bias ? load_part(c.bias + e, left) : Vec<T>{};
            for (int64_t j = first; j < last; ++j) {
                const T* from = forward ? c.x + (t + j) * c.x_t + row * c.x_b : c.dy + ((t - j) * c.rows + row) * c.size;
                sum = fma(load_part(c.kernel + j * c.size + e, left), load_part(from + e, left), sum);
            }
            store_part((forward ? c.y : c.dx) + at * c.size + e, sum, left);
        }
    }
    if (forward) return;
    const Share tiles((c.size + tile - 1) / tile, me.index, me.count);
    for (int64_t from = tiles.begin * tile, end = tiles.end * tile; from < end; from += tile) {
        const int64_t to = from + tile < c.size ? from + tile : c.size;
        const size_t bytes = size_t(to - from) * sizeof(T);
        for (int64_t j = 0; j < c.window; ++j) std::memset(c.dkernel + j * c.size + from, 0, bytes);
        if (c.dbias) std::memset(c.dbias + from, 0, bytes);
        for (int64_t at = 0; at < c.steps * c.rows; ++at)
            for (int64_t e = from; e < to; e += W<T>) {
                const int64_t t = at / c.rows, row = at % c.rows, left = to - e;
                const Vec<T> dy = load_part(c.dy + at * c.size + e, left);
                for (int64_t j = 0; j < c.window; ++j) {
                    T* const sum = c.dkernel + j * c.size + e;
                    store_part(sum, fma(dy, load_part(c.x + (t + j) * c.x_t + row * c.x_b + e, left), load_part(sum, left)), left);
                }
                if (c.dbias) store_part(c.dbias + e, dy + load_part(c.dbias + e, left), left);
            }
    }
}

// The memory of a product: the packed weight, and of each thread the sums that wait.
template <class T> struct ProductMemory {
    Panels<T> weight;
    T* bias;
    T* partial;  // of the first member, then of the others
    static int64_t sums(const Panels<T>& weight) { return chunk_rows * weight.width * W<T>; }

    ProductMemory(const Product<T>& p, Arena& arena, int threads) {
        const int64_t vectors = whole<T>(p.columns) / W<T>;
        weight = arena.panels<Panels<T>>(vectors, p.k, panel_width(vectors));
        bias = arena.take<T>(weight.count * weight.width * W<T>);
        partial = arena.take<T>(threads * sums(weight));
    }
};

template <class T> int64_t product_memory(const Product<T>& p, int threads) {
    Arena arena(nullptr);
    ProductMemory<T>(p, arena, threads);
    return arena.used();
}

template <class T> void product(const Product<T>& p, char* block, const Member& me) {
    Arena arena(block);
    const ProductMemory<T> m(p, arena, me.count);
    const int64_t vectors = m.weight.count * m.weight.width;
    const Share mine(vectors, me.index, me.count);
    pack_rows<T>(m.weight, mine.begin, mine.end, [&](int64_t v, int64_t lane) -> const T* {
        const int64_t column = v * W<T> + lane;
        return column < p.columns ? p.weight + column * p.k : nullptr;
    });
    for (int64_t i = mine.begin * W<T>; i < mine.end * W<T>; ++i) m.bias[i] = p.bias && i < p.columns ? p.bias[i] : T(0);
    me.wait();
    T* partial = m.partial + me.index * ProductMemory<T>::sums(m.weight);
    const Share rows(p.rows, me.index, me.count);
    const T* x[chunk_rows];
    for (int64_t first = rows.begin; first < rows.end; first += chunk_rows) {
        const int64_t n = rows.end - first < chunk_rows ? rows.end - first : chunk_rows;
        for (int64_t j = 0; j < n; ++j) x[j] = p.x + (first + j) * p.k;
        multiply<T>(m.weight, 0, m.weight.count, x, n, partial,
                    [&](int64_t, int64_t vector) { return load(m.bias + vector * W<T>); },
                    [&](int64_t row, int64_t vector, Vec<T> sum) {
                        const int64_t column = vector * W<T>, left = p.columns - column;
                        if (left > 0) store_part(p.y + (first + row) * p.columns + column, sum, left);
                    });
    }
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
