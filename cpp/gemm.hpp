// Products of rows with packed panels of columns, every element accumulated over k in order.
//
// Rows are pointers, so that they may lie anywhere: a batch in any layout, a sequence read backwards,
// a ragged batch. Bits do not depend on the tile that a row falls into, on the rows beside it, or on
// the width of a vector.
#pragma once

#include "simd.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

template <int N> struct Constant {
    static constexpr int value = N;
    constexpr operator int() const { return N; }
};

// Rows of a tile, at the most, for a panel of NV vectors: what the registers hold, up to 8.
template <int NV> constexpr int tile_rows = (registers - NV - 1) / NV < 8 ? (registers - NV - 1) / NV : 8;

// acc[r][m * NV + v] += sum over i < k, in order, of a[r][i] * panel[m * stride + (i * NV + v) * W].
template <class T, int R, int NV, int M>
OSTINATO_INLINE void accumulate(Vec<T> (&acc)[R][M * NV], const T* const* a, const T* panel,
                                int64_t stride, int64_t k) {
    const T* row[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) row[r] = a[r];
    for (int64_t i = 0; i < k; ++i, panel += NV * W<T>) {
        Vec<T> column[M * NV];
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) column[m * NV + v] = load(panel + m * stride + v * W<T>);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec<T> x = splat(row[r][i]);
#pragma GCC unroll 16
            for (int v = 0; v < M * NV; ++v) acc[r][v] += x * column[v];
        }
    }
}

// A matrix of k rows whose columns are cut into panels of `width` vectors: a panel is
// k x (width * W) numbers, contiguous. Columns past the last are zeros.
template <class T> struct Panels {
    using Row = const T*;

    T* data = nullptr;
    int width = 1;
    int64_t count = 0, k = 0;

    Panels() = default;
    // For so many vectors of columns; take_memory() before use.
    Panels(int64_t vectors, int64_t k, int width)
        : width(width), count((vectors + width - 1) / width), k(k) {}
    template <class Arena> void take_memory(Arena& arena) { data = arena.template take<T>(count * stride()); }
    int64_t stride() const { return k * width * W<T>; }
    T* panel(int64_t p) const { return data + p * stride(); }
    T* at(int64_t vector, int64_t i) const {
        return panel(vector / width) + (i * width + vector % width) * W<T>;
    }

    // acc += rows times panels p up to p + M, of NV = width vectors each.
    template <int R, int NV, int M>
    OSTINATO_INLINE void add(Vec<T> (&acc)[R][M * NV], const Row* rows, int64_t p) const {
        accumulate<T, R, NV, M>(acc, rows, panel(p), stride(), k);
    }
    // What add() reads of k numbers; `at` is place for it, if it needs any.
    static Row row(const T* numbers, int64_t, char*) { return numbers; }
    static constexpr int64_t row_bytes(int64_t) { return 0; }
};

// The same with the rows transposed: acc[r][v] += sum over i < k of a[i][r] * panel[i][v].
template <class T, int R, int NV>
OSTINATO_INLINE void accumulate_transposed(Vec<T> (&acc)[R][NV], const T* const* a, int64_t offset,
                                           const T* panel, int64_t k) {
    for (int64_t i = 0; i < k; ++i, panel += NV * W<T>) {
        const T* row = a[i] + offset;
        Vec<T> column[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) column[v] = load(panel + v * W<T>);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec<T> x = splat(row[r]);
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) acc[r][v] += x * column[v];
        }
    }
}

// Calls tile(first row, Constant<R>) over n rows, in tiles of as many rows as the registers hold,
// then in smaller ones. A remainder of one or two rows would run at half speed: two tiles of four
// are better than six and two.
template <int NV, class Tile> OSTINATO_INLINE void for_tiles(int64_t n, Tile&& tile) {
    constexpr int most = tile_rows<NV>;
    int64_t row = 0;
    while (n - row >= most && !(most == 6 && (n - row == 7 || n - row == 8))) {
        tile(row, Constant<most>{});
        row += most;
    }
    if constexpr (most > 4) while (n - row >= 4) { tile(row, Constant<4>{}); row += 4; }
    if constexpr (most > 2) if (n - row >= 2) { tile(row, Constant<2>{}); row += 2; }
    for (; row < n; ++row) tile(row, Constant<1>{});
}

// Calls tile(panel, Constant<M>, first row, Constant<R>) over panels p0 up to p1 and n rows. A single
// row takes several panels at a time: an accumulator must wait four cycles for itself, and the
// machine could do eight others meanwhile.
template <int NV, class Tile>
OSTINATO_INLINE void for_panels(int64_t p0, int64_t p1, int64_t n, Tile&& tile) {
    constexpr int M = NV >= 4 ? 2 : NV == 3 ? 3 : NV == 2 ? 4 : 8;
    int64_t p = p0;
    if (n == 1)
        for (; p + M <= p1; p += M) tile(p, Constant<M>{}, int64_t(0), Constant<1>{});
    for (; p < p1; ++p)
        for_tiles<NV>(n, [&](int64_t row, auto rows) { tile(p, Constant<1>{}, row, rows); });
}

// Calls f(Constant<width>) for a width of 1 to 4.
template <class F> OSTINATO_INLINE void with_width(int width, F&& f) {
    switch (width) {
        case 4: return f(Constant<4>{});
        case 3: return f(Constant<3>{});
        case 2: return f(Constant<2>{});
        default: return f(Constant<1>{});
    }
}

// Vectors that a panel has best, where nothing else decides: wide, without an empty half.
inline int panel_width(int64_t vectors) {
    return vectors % 4 == 0 || vectors > 6 ? 4 : vectors % 2 == 0 || vectors > 2 ? 2 : 1;
}

// Rows a[0..n) times panels p0 up to p1: begin(row, vector) gives what a sum starts from, end(row,
// vector, sum) takes it, a vector at a time.
template <class T, class Matrix, class Begin, class End>
OSTINATO_INLINE void multiply(const Matrix& b, int64_t p0, int64_t p1, const typename Matrix::Row* a, int64_t n,
                              Begin&& begin, End&& end) {
    with_width(b.width, [&](auto width) {
        constexpr int NV = decltype(width)::value;
        for_panels<NV>(p0, p1, n, [&](int64_t p, auto panels, int64_t row, auto rows) {
            constexpr int M = decltype(panels)::value, R = decltype(rows)::value;
            Vec<T> acc[R][M * NV];
#pragma GCC unroll 1
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 1
                for (int v = 0; v < M * NV; ++v) acc[r][v] = begin(row + r, p * NV + v);
            b.template add<R, NV, M>(acc, a + row, p);
#pragma GCC unroll 1
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 1
                for (int v = 0; v < M * NV; ++v) end(row + r, p * NV + v, acc[r][v]);
        });
    });
}

// Packs vectors v0 up to v1: lane l of vector v, over k, is row source(v, l) of a row-major matrix;
// zeros where that is null.
template <class T, class Source>
void pack_rows(const Panels<T>& b, int64_t v0, int64_t v1, Source&& source) {
    for (int64_t v = v0; v < v1; ++v) {
        const T* row[W<T>];
        bool full = true;
        for (int l = 0; l < W<T>; ++l) full &= (row[l] = source(v, l)) != nullptr;
        T* to = b.at(v, 0);
        const int64_t step = b.width * W<T>;
        int64_t i = 0;
        for (; full && i + W<T> <= b.k; i += W<T>, to += W<T> * step) {
            Vec<T> square[W<T>];
#pragma GCC unroll 16
            for (int l = 0; l < W<T>; ++l) square[l] = load(row[l] + i);
            transpose<T>(square);
#pragma GCC unroll 16
            for (int l = 0; l < W<T>; ++l) store(to + l * step, square[l]);
        }
        for (; i < b.k; ++i, to += step)
            for (int l = 0; l < W<T>; ++l) to[l] = row[l] ? row[l][i] : T(0);
    }
}

// Packs lines i0 up to i1: line i is `columns` numbers at source(i); zeros where that is null.
template <class T, class Source>
void pack_lines(const Panels<T>& b, int64_t columns, int64_t i0, int64_t i1, Source&& source) {
    for (int64_t i = i0; i < i1; ++i) {
        const T* line = source(i);
        for (int64_t v = 0; v < b.count * b.width; ++v) {
            const int64_t left = columns - v * W<T>;
            store(b.at(v, i), line && left > 0 ? load_part(line + v * W<T>, left) : Vec<T>{});
        }
    }
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
