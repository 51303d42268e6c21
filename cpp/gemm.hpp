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

// Whether the registers hold the sums of R rows and N vectors, all columns, and the number of one row.
constexpr bool columns_fit(int R, int N) { return R * N + N + 1 <= registers; }
// Or the numbers of all rows and one column.
constexpr bool rows_fit(int R, int N) { return R * N + R + 1 <= registers; }

// Rows of a tile, at the most, for a panel of NV vectors: what the registers hold, up to 8.
template <int NV> constexpr int tile_rows = [] {
    int rows = 1;
    while (rows < 8 && (columns_fit(rows + 1, NV) || rows_fit(rows + 1, NV))) ++rows;
    return rows;
}();

// The sums of one more number of k: acc[r][v] += number(r) * column(v).
template <class T, int R, int N, class Number, class Column>
OSTINATO_INLINE void add_products(Vec<T> (&acc)[R][N], const Number& number, const Column& column) {
    if constexpr (columns_fit(R, N)) {
        Vec<T> columns[N];
#pragma GCC unroll 16
        for (int v = 0; v < N; ++v) columns[v] = column(v);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec<T> x = splat(number(r));
#pragma GCC unroll 16
            for (int v = 0; v < N; ++v) acc[r][v] = fma(x, columns[v], acc[r][v]);
        }
    } else {
        Vec<T> x[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) x[r] = splat(number(r));
#pragma GCC unroll 16
        for (int v = 0; v < N; ++v) {
            const Vec<T> c = column(v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) acc[r][v] = fma(x[r], c, acc[r][v]);
        }
    }
}

// acc[r][m * NV + v] += sum over i < k, in order, of a[r][i] * panel[m * stride + (i * NV + v) * W].
// Meanwhile `ahead`, the memory that is read next, is prefetched: 64 bytes for every four of k.
template <class T, int R, int NV, int M>
OSTINATO_INLINE void accumulate(Vec<T> (&acc)[R][M * NV], const T* const (&a)[R], const T* panel,
                                int64_t stride, int64_t k, const char* ahead) {
    auto step = [&](int64_t i, const T* from) __attribute__((always_inline)) {
        add_products<T, R, M * NV>(acc, [&](int r) __attribute__((always_inline)) { return a[r][i]; },
                                   [&](int v) __attribute__((always_inline)) {
                                       return load(from + v / NV * stride + v % NV * W<T>);
                                   });
    };
    int64_t i = 0;
    for (; i + 4 <= k; i += 4, panel += 4 * NV * W<T>, ahead += 64) {
        prefetch(ahead);
        step(i, panel), step(i + 1, panel + NV * W<T>);
        step(i + 2, panel + 2 * NV * W<T>), step(i + 3, panel + 3 * NV * W<T>);
    }
    for (; i < k; ++i, panel += NV * W<T>) step(i, panel);
}

// A panel, or several of them, and the part of k that a tile adds up; the memory read after that.
struct Block {
    int64_t panel, begin, end;
    int64_t next_panel, next_begin;
};

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

    // Numbers of k that let a panel's part stay in the second cache while all rows pass.
    int64_t part() const {
        constexpr int64_t bytes = 64 * 1024;
        const int64_t parts = (stride() * int64_t(sizeof(T)) + bytes - 1) / bytes;
        return parts <= 1 ? k : ((k + parts - 1) / parts + 3) / 4 * 4;
    }

    // acc += rows from `row` on times M panels of NV = width vectors each, in the part of k that `at` names.
    template <int R, int NV, int M>
    OSTINATO_INLINE void add(Vec<T> (&acc)[R][M * NV], const Row* rows, int64_t row, const Block& at) const {
        const T* a[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) a[r] = rows[row + r] + at.begin;
        // Each tile of rows prefetches another piece of the block that comes next.
        const int64_t n = at.end - at.begin, piece = n / 4 * 64, block = n * NV * W<T> * int64_t(sizeof(T));
        const int64_t offset = row / R * piece;
        const T* next = panel(at.next_panel) + at.next_begin * NV * W<T>;
        accumulate<T, R, NV, M>(acc, a, panel(at.panel) + at.begin * NV * W<T>, stride(), n,
                                reinterpret_cast<const char*>(next) + (offset < block ? offset : 0));
    }
    // What add() reads of k numbers; `at` is place for it, if it needs any.
    static Row row(const T* numbers, int64_t, char*) { return numbers; }
    static constexpr int64_t row_bytes(int64_t) { return 0; }
};

// The same with the rows transposed: acc[r][v] += sum over i < k of row(i)[r] * panel[(i * NV + v) * W].
template <class T, int R, int NV, class Row>
OSTINATO_INLINE void accumulate_transposed(Vec<T> (&acc)[R][NV], const Row& row, const T* panel, int64_t k) {
    auto step = [&](const T* numbers, const T* from) __attribute__((always_inline)) {
        add_products<T, R, NV>(acc, [&](int r) __attribute__((always_inline)) { return numbers[r]; },
                               [&](int v) __attribute__((always_inline)) { return load(from + v * W<T>); });
    };
    int64_t i = 0;
    for (; i + 4 <= k; i += 4, panel += 4 * NV * W<T>) {
        step(row(i), panel), step(row(i + 1), panel + NV * W<T>);
        step(row(i + 2), panel + 2 * NV * W<T>), step(row(i + 3), panel + 3 * NV * W<T>);
    }
    for (; i < k; ++i, panel += NV * W<T>) step(row(i), panel);
}

// Calls tile(first row, Constant<R>) over n rows, in tiles of as many rows as the registers hold,
// then in smaller ones. A remainder of one or two rows would run at half speed: two tiles of four
// are better than six and two.
template <int NV, class Tile> OSTINATO_INLINE void for_tiles(int64_t n, Tile&& tile) {
    constexpr int most = tile_rows<NV>;
    int64_t row = 0;
    while (n - row >= most && !(most == 6 && (n - row == 7 || n - row == 8)) && !(most == 3 && n - row == 4)) {
        tile(row, Constant<most>{});
        row += most;
    }
    if constexpr (most > 4) while (n - row >= 4) { tile(row, Constant<4>{}); row += 4; }
    if constexpr (most > 2) while (n - row >= 2) { tile(row, Constant<2>{}); row += 2; }
    for (; row < n; ++row) tile(row, Constant<1>{});
}

// Calls tile(block, Constant<M>, first row, Constant<R>) for the panels p0 up to p1 of b, `part` numbers of k
// at a time, and n rows. A single row takes several panels at a time: an accumulator must wait four cycles
// for itself, and the machine could do eight others meanwhile.
template <int NV, class Matrix, class Tile>
OSTINATO_INLINE void for_panels(const Matrix& b, int64_t p0, int64_t p1, int64_t n, int64_t part, Tile&& tile) {
    constexpr int M = NV >= 4 ? 2 : NV == 3 ? 3 : NV == 2 ? 4 : 8;
    const int64_t k = b.k;
    int64_t p = p0;
    if (n == 1)
        for (; p + M <= p1; p += M)
            tile(Block{p, 0, k, p + M < p1 ? p + M : p0, 0}, Constant<M>{}, int64_t(0), Constant<1>{});
    for (; p < p1; ++p) {
        int64_t begin = 0;
        do {
            const bool last = k - begin <= part;
            const Block at = last ? Block{p, begin, k, p + 1 < p1 ? p + 1 : p0, 0}
                                  : Block{p, begin, begin + part, p, begin + part};
            for_tiles<NV>(n, [&](int64_t row, auto rows) { tile(at, Constant<1>{}, row, rows); });
            begin = at.end;
        } while (begin < k);
    }
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
// vector, sum) takes it, a vector at a time. `partial` is place for n * width vectors: sums over the first
// parts of k wait there.
template <class T, class Matrix, class Begin, class End>
OSTINATO_INLINE void multiply(const Matrix& b, int64_t p0, int64_t p1, const typename Matrix::Row* a, int64_t n,
                              T* partial, Begin&& begin, End&& end) {
    with_width(b.width, [&](auto width) {
        constexpr int NV = decltype(width)::value;
        for_panels<NV>(b, p0, p1, n, n == 1 ? b.k : b.part(), [&](const Block& at, auto panels, int64_t row, auto rows) {
            constexpr int M = decltype(panels)::value, R = decltype(rows)::value;
            const int64_t vector = at.panel * NV;
            const bool first = at.begin == 0, last = at.end == b.k;
            T* kept = partial + row * NV * W<T>;
            Vec<T> acc[R][M * NV];
#pragma GCC unroll 1
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 1
                for (int v = 0; v < M * NV; ++v)
                    acc[r][v] = first ? begin(row + r, vector + v) : load(kept + (r * NV + v) * W<T>);
            b.template add<R, NV, M>(acc, a, row, at);
#pragma GCC unroll 1
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 1
                for (int v = 0; v < M * NV; ++v)
                    if (last) end(row + r, vector + v, acc[r][v]);
                    else store(kept + (r * NV + v) * W<T>, acc[r][v]);
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

// Packs rows i0 up to i1: row i is `columns` numbers at source(i); zeros where that is null.
template <class T, class Source>
void pack_lines(const Panels<T>& b, int64_t columns, int64_t i0, int64_t i1, Source&& source) {
    for (int64_t i = i0; i < i1; ++i) {
        const T* line = source(i);
        int64_t column = 0;
        for (int64_t p = 0; p < b.count; ++p)
            for (int v = 0; v < b.width; ++v, column += W<T>) {
                const bool some = line && column < columns;
                store(b.panel(p) + (i * b.width + v) * W<T>, some ? load_part(line + column, columns - column) : Vec<T>{});
            }
    }
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
