// Forward through a sequence: the contract is in sequence.hpp.
#pragma once

#include "cells.hpp"
#include "lines.hpp"
#include "threads.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

// The weights of a direction as forward needs them. The gates of the same units lie side by side in
// a panel, so that a tile has all that a step of these units needs.
// Matrix is Panels<T>, or the matrix of a stream with small weights.
template <class T, class Matrix = Panels<T>> struct ForwardWeights {
    Matrix ih, hh;
    Matrix second;  // W_hr of a projection; W_hn where the reset gate acts before the product
    T* bias;        // b_ih + b_hh, over the sections of an entry

    ForwardWeights() = default;
    ForwardWeights(const Shape& s, Arena& arena) {
        const int64_t vectors = whole<T>(s.H) / W<T>;
        const int G = s.gates(), width = panel_width(vectors);
        const bool before = s.cell == CellKind::gru_reset_before;
        ih = arena.panels<Matrix>(G * vectors, s.I, G == 1 ? width : G);
        hh = arena.panels<Matrix>((before ? 2 : G) * vectors, s.P, G == 1 ? width : before ? 2 : G);
        if (before) second = arena.panels<Matrix>(vectors, s.H, width);
        if (s.projects()) {
            const int64_t columns = whole<T>(s.P) / W<T>;
            second = arena.panels<Matrix>(columns, s.H, panel_width(columns));
        }
        bias = arena.take<T>(4 * whole<T>(s.H));
    }

    // One of `parts` shares of the work.
    void pack(const Shape& s, const Weights<T>& w, int part, int parts) const {
        auto share = [&](const Matrix& b, auto&& source) {
            const Share mine(b.count * b.width, part, parts);
            pack_rows<T>(b, mine.begin, mine.end, source);
        };
        // Vector v of gates side by side: the gate and the unit of its lane.
        auto gate_row = [&](const T* matrix, int64_t k, int gates) {
            return [=](int64_t v, int64_t lane) -> const T* {
                const int64_t unit = v / gates * W<T> + lane;
                return unit < s.H ? matrix + (v % gates * s.H + unit) * k : nullptr;
            };
        };
        const int G = s.gates();
        const bool before = s.cell == CellKind::gru_reset_before;
        share(ih, gate_row(w.w_ih, s.I, G));
        share(hh, gate_row(w.w_hh, s.P, before ? 2 : G));
        if (before) share(second, gate_row(w.w_hh + 2 * s.H * s.P, s.P, 1));
        if (s.projects())
            share(second, [&](int64_t v, int64_t lane) -> const T* {
                const int64_t p = v * W<T> + lane;
                return p < s.P ? w.w_hr + p * s.H : nullptr;
            });
        if (part > 0) return;
        const int64_t Hp = whole<T>(s.H);
        for (int64_t i = 0; i < 4 * Hp; ++i) bias[i] = T(0);
        for (int g = 0; g < G; ++g)
            for (int64_t u = 0; u < s.H; ++u) {
                const T x = w.b_ih ? w.b_ih[g * s.H + u] : T(0), h = w.b_hh ? w.b_hh[g * s.H + u] : T(0);
                if (s.cell != CellKind::gru) bias[g * Hp + u] = x + h;
                else if (g == 2) bias[3 * Hp + u] = x, bias[u] = h;
                else bias[(1 + g) * Hp + u] = x + h;
            }
    }
};

// to[r] = bias + W_ih a[r], in the sections of an entry; for panels p0 up to p1.
template <class T, class Matrix>
void project(const Shape& shape, const Lines<T>& lines, const ForwardWeights<T, Matrix>& w, int64_t p0, int64_t p1,
             const typename Matrix::Row* a, T* const* to, int64_t rows) {
    const bool gated = shape.cell != CellKind::rnn;
    const int64_t vectors = lines.Hp / W<T>;
    with_width(w.ih.width, [&](auto width) {
        constexpr int NV = decltype(width)::value;
        // Vector v of a panel is a gate's, or of a plain RNN the v-th of its units.
        const int64_t per_panel = gated ? W<T> : NV * W<T>, per_vector = gated ? lines.Hp : W<T>;
        for_panels<NV>(w.ih, p0, p1, rows, w.ih.k, [&](const Block& at, auto panels, int64_t row, auto tile) {
            constexpr int M = decltype(panels)::value, R = decltype(tile)::value;
            // Copies: what was captured by reference would be read again after every store.
            const int64_t first = lines.x.at + at.panel * per_panel, panel = per_panel, vector = per_vector;
            const int64_t existing = gated ? M * NV : vectors - at.panel * NV;
            auto place = [=](int v) { return first + v / NV * panel + v % NV * vector; };
            T* out[R];
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) out[r] = to[row + r];
            Vec<T> acc[R][M * NV];
#pragma GCC unroll 16
            for (int v = 0; v < M * NV; ++v) {
                const Vec<T> bias = v < existing ? load(w.bias + place(v)) : Vec<T>{};
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) acc[r][v] = bias;
            }
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < M * NV; ++v) prefetch(out[r] + place(v));
            w.ih.template add<R, NV, M>(acc, a, row, at);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < M * NV; ++v)
                    if (v < existing) store(out[r] + place(v), acc[r][v]);
        });
    });
}

// One step of some rows. Where x is given, the step adds its product as well, and the workspace holds
// nothing before; otherwise it holds bias + W_ih x, as project() leaves it.
template <class T, class Matrix = Panels<T>> struct Step {
    using Row = typename Matrix::Row;

    const Shape& shape;
    const Lines<T>& lines;
    const ForwardWeights<T, Matrix>& w;
    int64_t p0, p1;   // panels of units
    const Row* x;     // or null
    const T** h;      // of the step before
    const Row* hs;    // the same, as the product reads it
    const T** c;      // of the step before: an LSTM's
    T** line;
    T** y;            // where h goes
    Row* inner;       // for a second product: as many as rows
    char* inner_at;   // and place for them
    T* partial;       // for multiply(), where there is a second product

    void run(int64_t rows) const {
        switch (shape.cell) {
            case CellKind::rnn: return rnn(rows);
            case CellKind::lstm: return lstm(rows);
            case CellKind::gru: return gru(rows);
            case CellKind::gru_reset_before: return gru_reset_before(rows);
        }
    }

private:
    // The initial value of a gate's sums, a vector at `place` of an entry.
    OSTINATO_INLINE Vec<T> start(int64_t row, int64_t place) const {
        return load(x ? w.bias + place : line[row] + place);
    }
    // The product of the input, where there was no project() before.
    template <int R, int NV, int M>
    OSTINATO_INLINE void add_input(Vec<T> (&acc)[R][M * NV], int64_t row, const Block& at) const {
        if (x) w.ih.template add<R, NV, M>(acc, x, row, {at.panel, 0, w.ih.k, at.panel, 0});
    }

    void take_inner(int64_t rows, int64_t section) const {
        const int64_t bytes = Matrix::row_bytes(shape.H);
        for (int64_t j = 0; j < rows; ++j)
            inner[j] = Matrix::row(line[j] + section, shape.H, inner_at + j * bytes);
    }

    void rnn(int64_t rows) const {
        const int64_t vectors = lines.Hp / W<T>;
        const Activation f = shape.activation;
        with_width(w.hh.width, [&](auto width) {
            constexpr int NV = decltype(width)::value;
            for_panels<NV>(w.hh, p0, p1, rows, w.hh.k, [&](const Block& at, auto panels, int64_t row, auto tile) {
                constexpr int M = decltype(panels)::value, R = decltype(tile)::value;
                const int64_t first = at.panel * NV;
                Vec<T> acc[R][M * NV];
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                    for (int v = 0; v < M * NV; ++v)
                        acc[r][v] = first + v < vectors ? start(row + r, (first + v) * W<T>) : Vec<T>{};
                add_input<R, NV, M>(acc, row, at);
                w.hh.template add<R, NV, M>(acc, hs, row, at);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                    for (int v = 0; v < M * NV; ++v) {
                        if (first + v >= vectors) break;
                        const int64_t unit = (first + v) * W<T>;
                        const Vec<T> h = activate<T>(f, acc[r][v]);
                        store(line[row + r] + unit, h);
                        store_part(y[row + r] + unit, h, shape.H - unit);
                    }
            });
        });
    }

    void lstm(int64_t rows) const {
        const int64_t Hp = lines.Hp;
        const bool projects = shape.projects();
        for_panels<4>(w.hh, p0, p1, rows, w.hh.k, [&](const Block& at, auto panels, int64_t row, auto tile) {
            constexpr int M = decltype(panels)::value, R = decltype(tile)::value;
            const int64_t p = at.panel;
            Vec<T> acc[R][M * 4];
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < M * 4; ++v)
                    acc[r][v] = start(row + r, v % 4 * Hp + (p + v / 4) * W<T>);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int m = 0; m < M; ++m) {
                    const int64_t unit = (p + m) * W<T>;
                    prefetch(line[row + r] + lines.c + unit), prefetch(y[row + r] + unit);
                    prefetch(c[row + r] + unit);
                }
            add_input<R, 4, M>(acc, row, at);
            w.hh.template add<R, 4, M>(acc, hs, row, at);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int m = 0; m < M; ++m) {
                    const int64_t unit = (p + m) * W<T>;
                    const Vec<T>* a = acc[r] + 4 * m;
                    LSTMUnit<T> u{a[0], a[1], a[2], a[3], {}};
                    T* to = line[row + r] + unit;
                    u.forward(load(c[row + r] + unit));
                    store(to, u.i), store(to + Hp, u.f), store(to + 2 * Hp, u.g);
                    store(to + 3 * Hp, u.o), store(to + lines.c, u.c);
                    acc[r][4 * m] = u.o, acc[r][4 * m + 1] = u.c;
                }
            // Apart from the gates, so that rows need not wait for each other's long chains.
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int m = 0; m < M; ++m) {
                    const int64_t unit = (p + m) * W<T>;
                    const Vec<T> h = acc[r][4 * m] * tanh(acc[r][4 * m + 1]);
                    if (projects) store(line[row + r] + unit + lines.m, h);
                    else store_part(y[row + r] + unit, h, shape.H - unit);
                }
        });
        if (!projects) return;
        take_inner(rows, lines.m);
        multiply<T>(w.second, 0, w.second.count, inner, rows, partial, [](int64_t, int64_t) { return Vec<T>{}; },
                 [&](int64_t j, int64_t v, Vec<T> sum) {
                     if (v * W<T> < shape.P) store_part(y[j] + v * W<T>, sum, shape.P - v * W<T>);
                 });
    }

    void gru(int64_t rows) const {
        const int64_t Hp = lines.Hp;
        for_panels<3>(w.hh, p0, p1, rows, w.hh.k, [&](const Block& at, auto panels, int64_t row, auto tile) {
            constexpr int M = decltype(panels)::value, R = decltype(tile)::value;
            Vec<T> acc[R][M * 3], input[R][M];  // r z hn; and n of the input alone
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int m = 0; m < M; ++m) {
                    const int64_t unit = (at.panel + m) * W<T>;
                    acc[r][3 * m] = start(row + r, Hp + unit);
                    acc[r][3 * m + 1] = start(row + r, 2 * Hp + unit);
                    acc[r][3 * m + 2] = start(row + r, 3 * Hp + unit);
                }
            add_input<R, 3, M>(acc, row, at);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int m = 0; m < M; ++m) {
                    const int64_t unit = (at.panel + m) * W<T>;
                    input[r][m] = acc[r][3 * m + 2];
                    acc[r][3 * m + 2] = load(w.bias + unit);
                }
            w.hh.template add<R, 3, M>(acc, hs, row, at);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int m = 0; m < M; ++m) {
                    const int64_t unit = (at.panel + m) * W<T>;
                    const Vec<T>* a = acc[r] + 3 * m;
                    GRUUnit<T> u{a[2], a[0], a[1], input[r][m]};
                    T* to = line[row + r] + unit;
                    const Vec<T> h_t = u.forward(load_part(h[row + r] + unit, shape.H - unit));
                    store(to, u.hn), store(to + Hp, u.r), store(to + 2 * Hp, u.z), store(to + 3 * Hp, u.n);
                    store_part(y[row + r] + unit, h_t, shape.H - unit);
                }
        });
    }

    void gru_reset_before(int64_t rows) const {
        const int64_t H = shape.H, Hp = lines.Hp;
        if (x) project(shape, lines, w, 0, w.ih.count, x, line, rows);
        for_panels<2>(w.hh, 0, w.hh.count, rows, w.hh.k, [&](const Block& at, auto panels, int64_t row, auto tile) {
            constexpr int M = decltype(panels)::value, R = decltype(tile)::value;
            const int64_t p = at.panel;
            Vec<T> acc[R][M * 2];
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < M * 2; ++v)
                    acc[r][v] = load(line[row + r] + v % 2 * Hp + (p + v / 2) * W<T>);
            w.hh.template add<R, 2, M>(acc, hs, row, at);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int m = 0; m < M; ++m) {
                    const int64_t unit = (p + m) * W<T>;
                    T* to = line[row + r] + unit;
                    const Vec<T> reset = sigmoid<T>(acc[r][2 * m]);
                    store(to, reset), store(to + Hp, sigmoid<T>(acc[r][2 * m + 1]));
                    store(to + lines.rh, reset * load_part(h[row + r] + unit, H - unit));
                }
        });
        take_inner(rows, lines.rh);
        const int64_t vectors = Hp / W<T>;
        multiply<T>(w.second, 0, w.second.count, inner, rows, partial,
                 [&](int64_t j, int64_t v) {
                     return v < vectors ? load(line[j] + 2 * Hp + v * W<T>) : Vec<T>{};
                 },
                 [&](int64_t j, int64_t v, Vec<T> sum) {
                     if (v >= vectors) return;
                     const int64_t at = v * W<T>;
                     const Vec<T> n = tanh(sum), z = load(line[j] + Hp + at);
                     store(line[j] + 2 * Hp + at, n);
                     const Vec<T> before = load_part(h[j] + at, H - at);
                     store_part(y[j] + at, fma(z, before - n, n), H - at);
                 });
    }
};

// The memory of a member of a call.
template <class T> struct ForwardScratch {
    int64_t chunk;  // steps that are projected at a time
    T *zeros, *c0, *ring, *unread, *partial;
    const T **x, **h, **c, **inner;
    T **to, **line, **y;

    ForwardScratch() = default;
    ForwardScratch(const Sequence<T>& s, int64_t rows, bool has_lines, Arena& arena) {
        const Lines<T> lines(s.shape);
        chunk = rows < chunk_rows ? (chunk_rows + rows - 1) / (rows > 0 ? rows : 1) : 1;
        const int64_t pointers = chunk * rows > chunk_rows ? chunk * rows : chunk_rows;
        zeros = arena.take<T>(lines.Hp);
        c0 = arena.take<T>(s.shape.cell == CellKind::lstm ? rows * lines.Hp : 0);
        ring = arena.take<T>(has_lines ? 0 : chunk * rows * lines.length);
        unread = arena.take<T>(whole<T>(s.shape.P));
        partial = arena.take<T>(rows * 4 * W<T>);
        x = arena.take<const T*>(pointers), to = arena.take<T*>(pointers);
        h = arena.take<const T*>(rows), c = arena.take<const T*>(rows);
        inner = arena.take<const T*>(rows);
        line = arena.take<T*>(rows), y = arena.take<T*>(rows);
    }
};

// One share of the table's rows times the weights: entries from which a step copies its part.
template <class T>
void project_table(const Sequence<T>& s, const ForwardWeights<T>& w, const ForwardScratch<T>& m, T* table,
                   Share rows) {
    const Lines<T> lines(s.shape);
    for (int64_t r0 = rows.begin; r0 < rows.end; r0 += chunk_rows) {
        const int64_t n = rows.end - r0 < chunk_rows ? rows.end - r0 : chunk_rows;
        for (int64_t i = 0; i < n; ++i) m.x[i] = s.x + (r0 + i) * s.x_b, m.to[i] = table + (r0 + i) * lines.length;
        project(s.shape, lines, w, 0, w.ih.count, m.x, m.to, n);
    }
}

// The rows of one part, and of them the units of one member; of the steps, some from a checkpoint on. `table` is
// the result of project_table(), or null. A recomputation for backward (`again`) writes the workspace, not y.
template <class T>
void forward_part(const Part<T>& p, const ForwardWeights<T>& w, const ForwardScratch<T>& m, const T* table,
                  int unit, int units, const Member& me, int group, Share steps, bool again) {
    if (p.rows <= 0) return;
    const Sequence<T>& s = p.s;
    const int64_t H = s.shape.H, P = s.shape.P, Hp = p.lines.Hp;
    const bool lstm = s.shape.cell == CellKind::lstm;
    const Share mine(w.ih.count, unit, units);
    // The numbers of a section that are this member's.
    const int64_t per_panel = s.shape.cell == CellKind::rnn ? w.ih.width * W<T> : W<T>;
    const int64_t first = mine.begin * per_panel, past = mine.end * per_panel < Hp ? mine.end * per_panel : Hp;
    const int64_t last = past < H ? past : H;
    auto line = [&](int64_t t, int64_t j) {
        return p.d.lines ? p.line(t, j) : m.ring + (t % m.chunk * p.rows + j) * p.lines.length;
    };
    for (int64_t i = 0; i < Hp; ++i) m.zeros[i] = T(0);
    int64_t active = p.active(steps.begin, p.rows);
    for (int64_t j = 0; j < p.rows; ++j) {
        m.h[j] = steps.begin > 0 && j < active ? p.y(steps.begin - 1, j) : p.h0(j, m.zeros);
        if (!lstm) continue;
        T* c = m.c0 + j * Hp;
        const T* before = p.c_before(j < active ? steps.begin : 0, j);
        for (int64_t u = 0; u < Hp; ++u) c[u] = before && u < H ? before[u] : T(0);
        m.c[j] = c;
    }
    const Step<T> step{s.shape, p.lines, w,      mine.begin, mine.end, nullptr, m.h,
                       m.h,     m.c,     m.line, m.y,        m.inner,  nullptr, m.partial};
    const int64_t end = steps.end < p.steps() ? steps.end : p.steps();
    for (int64_t t0 = steps.begin; t0 < end; t0 += m.chunk) {
        const int64_t t1 = t0 + m.chunk < end ? t0 + m.chunk : end;
        int64_t n = 0;
        for (int64_t t = t0, rows = active; t < t1; ++t) {
            rows = p.active(t, rows);
            for (int64_t j = 0; j < rows; ++j) {
                if (!table) {
                    m.x[n] = p.x(t, j), m.to[n] = line(t, j), ++n;
                    continue;
                }
                const T* from = table + p.token(t, j) * p.lines.length + p.lines.x.at + first;
                T* to = line(t, j) + p.lines.x.at + first;
                for (int g = 0; g < p.lines.x.count; ++g)
                    std::memcpy(to + g * Hp, from + g * Hp, size_t(past - first) * sizeof(T));
            }
        }
        if (!table) project(s.shape, p.lines, w, mine.begin, mine.end, m.x, m.to, n);
        for (int64_t t = t0; t < t1; ++t) {
            active = p.active(t, active);
            for (int64_t j = 0; j < active; ++j) m.line[j] = line(t, j), m.y[j] = again ? m.unread : p.y(t, j);
            step.run(active);
            for (int64_t j = 0; j < active; ++j) m.h[j] = p.y(t, j), m.c[j] = m.line[j] + p.lines.c;
            const bool keeps = !again && p.d.c_kept && (t + 1) % s.checkpoint_every == 0 && t + 1 < s.steps;
            if (keeps && first < last)
                for (int64_t j = 0; j < active; ++j) {
                    const int64_t at = (t / s.checkpoint_every * s.rows + p.row(j)) * H + first;
                    std::memcpy(p.d.c_kept + at, m.c[j] + first, size_t(last - first) * sizeof(T));
                }
            me.wait(group, units);
        }
    }
    if (again) return;
    for (int64_t j = 0; j < p.rows; ++j) {
        const int64_t row = p.row(j);
        if (p.d.c_n && lstm && first < last)
            std::memcpy(p.d.c_n + row * H + first, m.c[j] + first, size_t(last - first) * sizeof(T));
        if (unit > 0) continue;
        if (p.d.h_n) std::memcpy(p.d.h_n + row * P, m.h[j], size_t(P) * sizeof(T));
        for (int64_t t = p.length(j); t < s.steps; ++t)
            std::memset(p.d.y + t * s.y_t + row * s.y_b, 0, size_t(P) * sizeof(T));
    }
}

// The plan of a member of a call: weights, tables and memory.
template <class T> struct ForwardPlan {
    Split split;
    ForwardWeights<T> w[2];
    T* table[2] = {nullptr, nullptr};
    ForwardScratch<T> scratch;

    ForwardPlan(const Sequence<T>& s, int threads, int member, Arena& arena) : split(s, s.directions, threads) {
        const bool has_lines = s.direction[0].lines && (s.directions == 1 || s.direction[1].lines);
        for (int i = 0; i < s.directions; ++i) {
            w[i] = ForwardWeights<T>(s.shape, arena);
            if (s.tokens) table[i] = arena.take<T>(s.table_rows * Lines<T>(s.shape).length);
        }
        for (int i = 0; i <= member; ++i)
            scratch = ForwardScratch<T>(s, (s.rows + split.parts - 1) / split.parts, has_lines, arena);
    }
};

// Memory that forward() takes from its block on so many threads, in bytes.
template <class T> int64_t forward_memory(const Sequence<T>& s, int threads) {
    Arena arena(nullptr);
    ForwardPlan<T>(s, threads, threads - 1, arena);
    return arena.used();
}

template <class T> void forward(const Sequence<T>& s, char* memory, const Member& me) {
    Arena arena(memory);
    const ForwardPlan<T> plan(s, me.count, me.index, arena);
    for (int i = 0; i < s.directions; ++i)
        plan.w[i].pack(s.shape, s.direction[i].w, me.index, me.count);
    me.wait();
    if (s.tokens) {
        for (int i = 0; i < s.directions; ++i)
            project_table(s, plan.w[i], plan.scratch, plan.table[i], Share(s.table_rows, me.index, me.count));
        me.wait();
    }
    plan.split.share(me, 0, s.directions, [&](int direction, int part, int unit, int group) {
        forward_part(Part<T>(s, s.direction[direction], part, plan.split.parts), plan.w[direction], plan.scratch,
                     plan.table[direction], unit, plan.split.units, me, group, Share(0, s.steps), false);
    });
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
