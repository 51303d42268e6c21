// Backward through time: the contract is in sequence.hpp.
//
// Three phases: the recurrence, which turns the workspace into gradients of gates; then dx and the
// weights' gradients, which are large products over the workspace. These add the steps up in the order in which
// the recurrence goes back through them, so that they can go on from window to window where forward left no
// workspace: then each window of steps, the last one first, is recomputed and goes through all three phases.
// Where forward left the whole workspace, all steps go through each phase together: in windows of 4 to 16
// steps, which dx and dW would find in the second cache, backward runs at 0.80 to 1.04 of the speed (Zen 4,
// 32 rows, 32 to 512 units, both instruction sets).
//
// A loss on a few steps leaves many steps without any gradient: those after the last of them, and
// those so far before that the gradient has vanished below the smallest number. A part whose rows all
// have none skips the step, and marks its entries of the workspace, which then hold nothing, as dead.
#pragma once

#include "forward.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

// The weights of a direction as backward reads them: from gradients of gates to those of h and x.
template <class T> struct BackwardWeights {
    Panels<T> hh, ih;
    Panels<T> second;  // W_hr of a projection; W_hn where the reset gate acts before the product

    BackwardWeights() = default;
    BackwardWeights(const Shape& s, bool wants_dx, Arena& arena) {
        const Lines<T> lines(s);
        auto panels = [&](int64_t columns, int64_t k) {
            const int64_t vectors = whole<T>(columns) / W<T>;
            return arena.panels<Panels<T>>(vectors, k, panel_width(vectors));
        };
        hh = panels(s.P, lines.h.count * lines.Hp);
        if (s.projects()) second = panels(s.H, s.P);
        if (lines.n.count) second = panels(s.H, lines.Hp);
        if (wants_dx) ih = panels(s.I, lines.x.count * lines.Hp);
    }

    // One of `parts` shares of the work.
    void pack(const Shape& s, const Weights<T>& w, int part, int parts) const {
        const Lines<T> lines(s);
        auto share = [&](const Panels<T>& b, int64_t columns, auto&& source) {
            const Share mine(b.k, part, parts);
            pack_lines(b, columns, mine.begin, mine.end, source);
        };
        auto gates = [&](const GateRange& range, const T* matrix, int64_t columns) {
            return [=](int64_t k) -> const T* {
                const int64_t unit = k % lines.Hp;
                return unit < s.H ? matrix + (range.gate[k / lines.Hp] * s.H + unit) * columns : nullptr;
            };
        };
        share(hh, s.P, gates(lines.h, w.w_hh, s.P));
        if (s.projects()) share(second, s.H, [&](int64_t k) { return w.w_hr + k * s.H; });
        if (lines.n.count) share(second, s.H, gates(lines.n, w.w_hh, s.H));
        if (ih.data) share(ih, s.I, gates(lines.x, w.w_ih, s.I));
    }
};

template <class T> struct BackwardScratch {
    T *zeros, *c0;
    T* carry;           // dc of an LSTM, what goes straight to the h before of a GRU: rows x Hp
    T* partial;         // for multiply()
    const T **next, **dy, **h, **c, **inner;
    T** line;
    int64_t later = 0;  // rows that have the step after
    bool quiet = true;  // whether nothing comes from it

    BackwardScratch() = default;
    BackwardScratch(const Sequence<T>& s, int64_t rows, Arena& arena) {
        const int64_t Hp = whole<T>(s.shape.H);
        zeros = arena.take<T>(Hp);
        c0 = arena.take<T>(s.shape.cell == CellKind::lstm ? rows * Hp : 0);
        carry = arena.take<T>(rows * Hp);
        partial = arena.take<T>((rows > chunk_rows ? rows : chunk_rows) * 4 * W<T>);
        next = arena.take<const T*>(rows), dy = arena.take<const T*>(rows);
        h = arena.take<const T*>(rows), c = arena.take<const T*>(rows);
        inner = arena.take<const T*>(rows), line = arena.take<T*>(rows);
    }
};

template <class T> bool all_zero(const T* numbers, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        if (numbers[i] != T(0)) return false;
    return true;
}

// The rows of one part, and of them the units of one member; of the steps, those up to one with which nothing
// or the call before began.
template <class T>
void backward_part(const Part<T>& p, const Gradients<T>& all, const DirectionGradients<T>& g,
                   const BackwardWeights<T>& w, BackwardScratch<T>& m, bool* dead, int unit, int units,
                   const Member& me, int group, Share steps) {
    if (p.rows <= 0) return;
    const Sequence<T>& s = p.s;
    const Lines<T>& lines = p.lines;
    const int64_t H = s.shape.H, P = s.shape.P, Hp = lines.Hp, vectors = Hp / W<T>;
    const CellKind cell = s.shape.cell;
    const Activation f = s.shape.activation;
    const bool lstm = cell == CellKind::lstm, projects = s.shape.projects();
    const Share mine(w.hh.count, unit, units);
    const int64_t v0 = mine.begin * w.hh.width, v_end = mine.end * w.hh.width;

    for (int64_t i = 0; i < Hp; ++i) m.zeros[i] = T(0);
    const bool is_first = steps.end == s.steps;
    for (int64_t j = 0; j < p.rows; ++j) {
        T* carry = m.carry + j * Hp;
        for (int64_t u = 0; is_first && u < Hp; ++u) carry[u] = lstm && g.dc_n && u < H ? g.dc_n[p.row(j) * H + u] : T(0);
        const T* before = lstm && p.length(j) > steps.begin ? p.c_before(steps.begin, j) : nullptr;
        for (int64_t u = 0; lstm && u < Hp; ++u) m.c0[j * Hp + u] = before && u < H ? before[u] : T(0);
    }
    // The memory that the end of a tile touches, unit by unit, is prefetched at its start. Always inline: GCC takes a
    // function that only prefetches for one that does nothing, and drops its calls.
    const int sections = int((lines.x.at + lines.x.count * Hp) / Hp);
    auto prefetch_unit = [&](int64_t t, int64_t j, int64_t v) __attribute__((always_inline)) {
        const int64_t at = v * W<T>;
        if (at * int64_t(sizeof(T)) % 64 || v >= vectors) return;
        for (int i = 0; i < sections; ++i) prefetch(m.line[j] + i * Hp + at);
        if (lstm) prefetch(m.line[j] + lines.c + at), prefetch(m.c[j] + at);
        else prefetch(m.h[j] + at);
        if (g.dy && t > 0) prefetch(m.dy[j] - all.dy_t + at);
    };
    // The gradient of h before products: dy, for the last step of a row dh_n, and the carried one.
    auto direct = [&](int64_t t, int64_t j, int64_t v) {
        const int64_t at = v * W<T>, left = P - at;
        if (left <= 0) return Vec<T>{};
        Vec<T> sum = g.dy && t >= 0 ? load_part(m.dy[j] + at, left) : Vec<T>{};
        if (g.dh_n && t == p.length(j) - 1) sum += load_part(g.dh_n + p.row(j) * P + at, left);
        if (!lstm && cell != CellKind::rnn) sum += load(m.carry + j * Hp + at);
        return sum;
    };
    // A vector of gates, given the gradient of the unit's output.
    auto one = [&](int64_t j, int64_t v, Vec<T> dh) {
        if (v >= vectors) return;
        const int64_t at = v * W<T>;
        T* to = m.line[j] + at;
        T* carry = m.carry + j * Hp + at;
        switch (cell) {
            case CellKind::rnn: store(to, dh * slope<T>(f, load(to))); break;
            case CellKind::lstm: {
                LSTMUnit<T> u{load(to), load(to + Hp), load(to + 2 * Hp), load(to + 3 * Hp), load(to + lines.c)};
                Vec<T> dc = load(carry);
                u.backward(dh, dc, load(m.c[j] + at));
                store(carry, dc);
                store(to, u.i), store(to + Hp, u.f), store(to + 2 * Hp, u.g), store(to + 3 * Hp, u.o);
                break;
            }
            case CellKind::gru: {
                GRUUnit<T> u{load(to), load(to + Hp), load(to + 2 * Hp), load(to + 3 * Hp)};
                store(carry, u.backward(dh, load_part(m.h[j] + at, H - at)));
                store(to, u.hn), store(to + Hp, u.r), store(to + 2 * Hp, u.z), store(to + 3 * Hp, u.n);
                break;
            }
            case CellKind::gru_reset_before: {  // r waits for the gradient of r * h'
                const Vec<T> z = load(to + Hp), n = load(to + 2 * Hp);
                const Vec<T> before = load_part(m.h[j] + at, H - at);
                store(carry, dh * z);
                store(to + Hp, dh * (before - n) * z * (T(1) - z));
                store(to + 2 * Hp, dh * (T(1) - z) * one_minus_square(n));
            }
        }
    };
    // The gradient of h is whole; a projection keeps it for the gradient of its weights.
    auto arrived = [&](int64_t j, int64_t v, Vec<T> dh) {
        if (!projects) return one(j, v, dh);
        if (v * W<T> < P) store_part(m.line[j] + lines.dh + v * W<T>, dh, P - v * W<T>);
    };
    // The second product of a step, for the cells that have one.
    auto inner = [&](int64_t rows) {
        const auto none = [](int64_t, int64_t) { return Vec<T>{}; };
        if (projects) {
            for (int64_t j = 0; j < rows; ++j) m.inner[j] = m.line[j] + lines.dh;
            multiply<T>(w.second, 0, w.second.count, m.inner, rows, m.partial, none, one);
        } else if (cell == CellKind::gru_reset_before) {
            for (int64_t j = 0; j < rows; ++j) m.inner[j] = m.line[j] + lines.n.at;
            multiply<T>(w.second, 0, w.second.count, m.inner, rows, m.partial, none,
                     [&](int64_t j, int64_t v, Vec<T> drh) {
                         if (v >= vectors) return;
                         const int64_t at = v * W<T>;
                         T* carry = m.carry + j * Hp + at;
                         const Vec<T> r = load(m.line[j] + at);
                         store(carry, fma(drh, r, load(carry)));
                         const Vec<T> before = load_part(m.h[j] + at, H - at);
                         store(m.line[j] + at, drh * before * r * (T(1) - r));
                     });
        }
    };

    // Whether a step brings a row no gradient of its own.
    auto is_silent = [&](int64_t t, int64_t j) {
        if (t == p.length(j) - 1 && (g.dh_n || g.dc_n)) return false;
        return !g.dy || all_zero(m.dy[j], P);
    };
    // Whether nothing goes from a row to the step before.
    auto is_spent = [&](int64_t j) {
        const int64_t gates = (lines.x.at + lines.x.count * Hp);
        return all_zero<T>(m.line[j], gates) && all_zero<T>(m.carry + j * Hp, Hp);
    };
    int64_t later = is_first ? 0 : m.later;
    bool quiet = is_first ? units == 1 : m.quiet;  // one of several members cannot tell
    for (int64_t t = (steps.end < p.steps() ? steps.end : p.steps()) - 1; t >= steps.begin; --t) {
        const int64_t active = p.active(t, p.rows);
        bool silent = quiet;
        for (int64_t j = 0; j < active; ++j) {
            m.line[j] = p.line(t, j);
            m.next[j] = j < later ? p.line(t + 1, j) : nullptr;
            m.h[j] = t > 0 ? p.y(t - 1, j) : p.h0(j, m.zeros);
            if (g.dy) m.dy[j] = g.dy + p.time(t, j) * all.dy_t + p.row(j) * all.dy_b;
            if (lstm) m.c[j] = t > steps.begin ? p.line(t - 1, j) + lines.c : m.c0 + j * Hp;
            silent = silent && is_silent(t, j);
        }
        if (unit == 0)
            for (int64_t j = 0; j < active; ++j) dead[p.time(t, j) * s.rows + p.row(j)] = silent;
        if (!silent) {
            const int64_t fed = quiet ? 0 : later;
            multiply<T>(w.hh, mine.begin, mine.end, m.next, fed, m.partial,
                        [&](int64_t j, int64_t v) {
                            prefetch_unit(t, j, v);
                            return direct(t, j, v);
                        },
                        arrived);
            for (int64_t j = fed; j < active; ++j)
                for (int64_t v = v0; v < v_end; ++v) arrived(j, v, direct(t, j, v));
            inner(active);
            quiet = units == 1;
            for (int64_t j = 0; quiet && j < active; ++j) quiet = is_spent(j);
        }
        later = active;
        me.wait(group, units);
    }
    m.later = later, m.quiet = quiet;
    if (steps.begin > 0) return;
    // The initial states.
    for (int64_t j = 0; j < later; ++j) m.next[j] = p.line(0, j);
    if (g.dh0) {
        auto give = [&](int64_t j, int64_t v, Vec<T> sum) {
            if (v * W<T> < P) store_part(g.dh0 + p.row(j) * P + v * W<T>, sum, P - v * W<T>);
        };
        auto carried = [&](int64_t j, int64_t v) { return v < vectors && cell != CellKind::rnn && !lstm
                                                          ? load(m.carry + j * Hp + v * W<T>) : Vec<T>{}; };
        if (!quiet) multiply<T>(w.hh, mine.begin, mine.end, m.next, later, m.partial, carried, give);
        for (int64_t j = 0; quiet && j < later; ++j)
            for (int64_t v = v0; v < v_end; ++v) give(j, v, Vec<T>{});
        for (int64_t j = later; j < p.rows; ++j)  // rows without a step
            for (int64_t v = v0; v < v_end; ++v)
                if (v * W<T> < P)
                    give(j, v, g.dh_n ? load_part(g.dh_n + p.row(j) * P + v * W<T>, P - v * W<T>) : Vec<T>{});
    }
    if (g.dc0 && lstm)
        for (int64_t j = 0; j < p.rows; ++j) {
            const int64_t u0 = units == 1 ? 0 : v0 * W<T>;
            const int64_t u1 = units == 1 || v_end * W<T> > H ? H : v_end * W<T>;
            if (u0 < u1)
                std::memcpy(g.dc0 + p.row(j) * H + u0, m.carry + j * Hp + u0, size_t(u1 - u0) * sizeof(T));
        }
}

// Calls f(time, b, line) for every step of every row that is alive, in the order of the recurrence in backward.
template <class T, class F>
OSTINATO_INLINE void for_lines_back(const Sequence<T>& s, const Direction<T>& d, const bool* dead, Share steps, F&& f) {
    const Lines<T> lines(s.shape);
    for (int64_t t = steps.end - 1; t >= steps.begin; --t)
        for (int64_t b = 0; b < s.rows; ++b) {
            const int64_t length = s.lengths ? s.lengths[b] : s.steps;
            const int64_t time = d.reverse ? length - 1 - t : t;
            if (t < length && !dead[time * s.rows + b]) f(time, b, line_of(s, d, lines, t, time, b));
        }
}

// One share of the gradient of a table's rows, projected: the sum of the workspace over the steps of each
// token, for some of the numbers of an entry.
template <class T>
void sum_by_token(const Sequence<T>& s, const Direction<T>& d, const bool* dead, T* sums, const Member& me, Share steps) {
    const Lines<T> lines(s.shape);
    const Share mine(lines.x.count * lines.Hp / W<T>, me.index, me.count);
    const int64_t begin = lines.x.at + mine.begin * W<T>, end = lines.x.at + mine.end * W<T>;
    for (int64_t r = 0; steps.end == s.steps && r < s.table_rows; ++r)
        for (int64_t i = begin; i < end; ++i) sums[r * lines.length + i] = T(0);
    for_lines_back(s, d, dead, steps, [&](int64_t time, int64_t b, const T* line) {
        T* to = sums + s.tokens[time * s.tokens_t + b * s.tokens_b] * lines.length;
        for (int64_t i = begin; i < end; i += W<T>) store(to + i, load(to + i) + load(line + i));
    });
}

// One share of dx, of some steps or, where by_token is what sum_by_token() made, of the table: the sum over
// directions. The first of them overwrites dx, the second adds to it.
template <class T>
void input_gradient(const Sequence<T>& s, const Gradients<T>& g, const BackwardWeights<T> (&w)[2], T* const (&by_token)[2],
                    bool* const (&dead)[2], Share directions, Share steps, const Member& me, T* partial, const T** from,
                    T** to) {
    const Lines<T> lines(s.shape);
    const int64_t I = s.shape.I;
    // As many entries at a time as stay in the second cache from panel to panel, if that is not too few.
    const int64_t fit = 192 * 1024 / (w[0].ih.k * int64_t(sizeof(T))) / 12 * 12;
    const int64_t chunk = fit < 24 ? 24 : fit < chunk_rows ? fit : chunk_rows;
    int64_t n = 0;
    auto flush = [&] {
        for (int64_t i = directions.begin; i < directions.end; ++i) {
            multiply<T>(w[i].ih, 0, w[i].ih.count, from + i * chunk_rows, n, partial,
                        [&](int64_t r, int64_t v) {
                            const int64_t left = I - v * W<T>;
                            prefetch(to[r] + v * W<T>);
                            return i > 0 && left > 0 ? load_part(to[r] + v * W<T>, left) : Vec<T>{};
                        },
                        [&](int64_t r, int64_t v, Vec<T> sum) {
                            if (v * W<T> < I) store_part(to[r] + v * W<T>, sum, I - v * W<T>);
                        });
        }
        n = 0;
    };
    if (s.tokens) {
        const Share mine(s.table_rows, me.index, me.count);
        for (int64_t r = mine.begin; r < mine.end; ++r) {
            for (int64_t i = directions.begin; i < directions.end; ++i)
                from[i * chunk_rows + n] = by_token[i] + r * lines.length + lines.x.at;
            to[n] = g.dx + r * g.dx_b;
            if (++n == chunk) flush();
        }
        return flush();
    }
    // Entries of both directions lie by time; of one alone, where it reads backward, they are counted by its steps.
    const bool reverse = directions.end - directions.begin == 1 && s.direction[directions.begin].reverse;
    const Share mine((steps.end - steps.begin) * s.rows, me.index, me.count);
    for (int64_t at = mine.begin; at < mine.end; ++at) {
        const int64_t t = steps.begin + at / s.rows, b = at % s.rows, length = s.lengths ? s.lengths[b] : s.steps;
        const int64_t time = reverse && t < length ? length - 1 - t : t, place = time * s.rows + b;
        T* dx = g.dx + time * g.dx_t + b * g.dx_b;
        bool nothing = true;
        for (int64_t i = directions.begin; i < directions.end; ++i) nothing = nothing && (t >= length || dead[i][place]);
        if (nothing) {
            if (directions.begin == 0) std::memset(dx, 0, size_t(I) * sizeof(T));
            continue;
        }
        for (int64_t i = directions.begin; i < directions.end; ++i) {
            T* line = line_of(s, s.direction[i], lines, t, time, b) + lines.x.at;
            if (dead[i][place]) std::memset(line, 0, size_t(lines.x.count * lines.Hp) * sizeof(T));
            from[i * chunk_rows + n] = line;
        }
        to[n] = dx;
        if (++n == chunk) flush();
    }
    flush();
}

constexpr int64_t block_lines = 128;  // entries that are summed while a tile stays in registers
// Tiles read the numbers of an entry again for every panel. With many panels, those of a block of entries are
// copied side by side first, in the order in which tiles read them.
template <class T> constexpr int64_t copied_columns = 32 * W<T>;  // of all sources, from which on it pays
constexpr int64_t copied_height = 96;                             // numbers of an entry: the copies stay in L2
constexpr int64_t copied_lines = block_lines + 4;                 // apart: a power of two would share few sets

template <class T> struct WeightScratch {
    const T **lines, **sources[2];
    T *packed, *copies, *sums, *bias;

    WeightScratch() = default;
    WeightScratch(const Sequence<T>& s, Arena& arena)
        : WeightScratch(s.shape.gates() * whole<T>(s.shape.H), s.shape.I > s.shape.H ? s.shape.I : s.shape.H, arena) {}
    // For gradients of so many rows, and of so many columns at the most.
    WeightScratch(int64_t height, int64_t widest, Arena& arena) {
        const int64_t columns = whole<T>(widest) + 4 * W<T>;
        lines = arena.take<const T*>(block_lines);
        for (auto& of : sources) of = arena.take<const T*>(block_lines);
        packed = arena.take<T>(2 * block_lines * columns);
        copies = arena.take<T>(copied_height * copied_lines + 8);
        sums = arena.take<T>(2 * height * columns), bias = arena.take<T>(height);
    }
};

// dw[gate][unit][column], of as many columns as its source has: x, or h of the step before.
template <class T> struct WeightGradient {
    int64_t columns;
    T* dw;
};

// One share of dw[gate][unit][column] = sum over entries of line[section of gate][unit] * source[column],
// for one source or two, and of db, the sum of the entries; `sections` of `size` numbers each, of which the
// first `units` count. each(f) calls f(line, source, other source) for every entry. The sums `go_on` from the
// values of dw and db.
template <class T, int S, class Each>
void weight_gradient(const GateRange& sections, int64_t size, int64_t units, const WeightGradient<T> (&of)[S], T* db,
                     T* db_too, const WeightScratch<T>& m, const Member& me, bool go_on, Each&& each) {
    bool needed = db || db_too;
    for (const WeightGradient<T>& w : of) needed = needed || w.dw;
    if (!needed) return;
    const int64_t height = sections.count * size;
    const Share mine(height / W<T>, me.index, me.count);
    const int64_t m0 = mine.begin * W<T>, m1 = mine.end * W<T>;
    if (m0 >= m1) return;
    // Of every source: its numbers as panels, and sums as [panel][row][vector of the panel].
    Panels<T> b[S];
    T* sums[S];
    T *packed = m.packed, *sum = m.sums;
    for (int s = 0; s < S; ++s) {
        const int64_t vectors = whole<T>(of[s].columns) / W<T>;
        b[s] = Panels<T>(vectors, block_lines, panel_width(vectors));
        b[s].data = packed, sums[s] = sum;
        const int64_t width = b[s].count * b[s].width * W<T>;
        packed += block_lines * width, sum += (m1 - m0) * width;
    }
    for (T* p = m.sums; p < sum; ++p) *p = T(0);
    for (int64_t i = 0; i < m1 - m0; ++i) m.bias[i] = T(0);
    // Calls f(dw, sum, numbers) for each piece of a row that lies in one panel, and g(db, sum).
    auto for_sums = [&](auto&& f, auto&& g) {
        for (int64_t r = m0; r < m1; ++r) {
            const int64_t unit = r % size;
            if (unit >= units) continue;
            const int64_t to = sections.gate[r / size] * units + unit;
            for (int s = 0; s < S; ++s) {
                const int64_t width = b[s].width * W<T>, columns = of[s].dw ? of[s].columns : 0;
                for (int64_t at = 0; at < columns; at += width)
                    f(of[s].dw + to * columns + at, sums[s] + at * (m1 - m0) + (r - m0) * width,
                      columns - at < width ? columns - at : width);
            }
            if (db) g(db[to], m.bias[r - m0]);
            if (db_too) g(db_too[to], m.bias[r - m0]);
        }
    };
    if (go_on)
        for_sums([](const T* dw, T* sum, int64_t n) { std::memcpy(sum, dw, size_t(n) * sizeof(T)); },
                 [](const T& db, T& sum) { sum = db; });
    const bool copying = (sum - m.sums) / (m1 - m0) >= copied_columns<T>;
    int64_t n = 0;
    // Copies numbers r0 up to r1 of all entries, as [tile][entry][row of the tile].
    auto copy = [&](auto width, int64_t r0, int64_t r1) {
        for (int64_t i = 0; i < n; ++i) {
            if (i + 4 < n)
                for (int64_t r = r0; r < r1; r += 64 / int64_t(sizeof(T))) prefetch(m.lines[i + 4] + r);
            for_tiles<decltype(width)::value>(r1 - r0, [&](int64_t row, auto tile) {
                // Three numbers go as four: the next entry overwrites the last.
                constexpr int R = decltype(tile)::value, most = R == 3 ? 4 : R;
                std::memcpy(m.copies + row * copied_lines + i * R, m.lines[i] + r0 + row, most * sizeof(T));
            });
        }
    };
    auto add = [&](auto width, int s, int64_t r0, int64_t r1) {
        constexpr int NV = decltype(width)::value;
        for (int64_t p = 0; p < b[s].count; ++p)
            for_tiles<NV>(r1 - r0, [&](int64_t row, auto tile) {
                constexpr int R = decltype(tile)::value;
                T* to = sums[s] + (p * (m1 - m0) + r0 - m0 + row) * NV * W<T>;
                Vec<T> acc[R][NV];
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                    for (int v = 0; v < NV; ++v) acc[r][v] = load(to + (r * NV + v) * W<T>);
                const T* copies = m.copies + row * copied_lines;
                if (copying)
                    accumulate_transposed<T, R, NV>(acc, [&](int64_t i) { return copies + i * R; }, b[s].panel(p), n);
                else
                    accumulate_transposed<T, R, NV>(acc, [&](int64_t i) { return m.lines[i] + r0 + row; },
                                                    b[s].panel(p), n);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                    for (int v = 0; v < NV; ++v) store(to + (r * NV + v) * W<T>, acc[r][v]);
            });
    };
    auto flush = [&] {
        if (db || db_too)
            for (int64_t i = 0; i < n; ++i)
                for (int64_t r = m0; r < m1; r += W<T>)
                    store(m.bias + r - m0, load(m.bias + r - m0) + load(m.lines[i] + r));
        for (int s = 0; s < S; ++s)
            if (of[s].dw) pack_lines(b[s], of[s].columns, 0, n, [&](int64_t i) { return m.sources[s][i]; });
        const int64_t step = copying ? copied_height : m1 - m0;
        for (int64_t r0 = m0; r0 < m1; r0 += step) {
            const int64_t r1 = m1 - r0 < step ? m1 : r0 + step;
            for (int s = 0; s < S; ++s) {
                if (!of[s].dw) continue;
                const bool copied = s > 0 && of[s - 1].dw && b[s - 1].width == b[s].width;
                with_width(b[s].width, [&](auto width) {
                    if (copying && !copied) copy(width, r0, r1);
                    add(width, s, r0, r1);
                });
            }
        }
        n = 0;
    };
    each([&](const T* line, const T* source, const T* other) {
        m.lines[n] = line + sections.at, m.sources[0][n] = source, m.sources[1][n] = other;
        if (++n == block_lines) flush();
    });
    if (n) flush();
    for_sums([](T* dw, const T* sum, int64_t n) { std::memcpy(dw, sum, size_t(n) * sizeof(T)); },
             [](T& db, const T& sum) { db = sum; });
}

// Where both products add to the same sections, both biases have the same gradient.
inline bool has_one_bias(const Shape& s) { return s.cell == CellKind::rnn || s.cell == CellKind::lstm; }

// One share of the gradients of the input's weights where x is a table; `by_token` is what sum_by_token() made.
template <class T>
void table_gradients(const Sequence<T>& s, const DirectionGradients<T>& g, const WeightScratch<T>& m, const T* by_token,
                     const Member& me) {
    const Lines<T> lines(s.shape);
    weight_gradient(lines.x, lines.Hp, s.shape.H, {WeightGradient<T>{s.shape.I, g.dw_ih}}, g.db_ih,
                    has_one_bias(s.shape) ? g.db_hh : nullptr, m, me, false, [&](auto&& f) {
                        for (int64_t r = 0; r < s.table_rows; ++r) {
                            const T* line = by_token + r * lines.length;
                            // A row that no step took may hold anything, NaN included.
                            if (!all_zero(line + lines.x.at, lines.x.count * lines.Hp)) f(line, s.x + r * s.x_b, nullptr);
                        }
                    });
}

// One share of all other gradients of a direction's weights, from some steps and those after them, of which
// there are none or they were added up before.
template <class T>
void weight_gradients(const Sequence<T>& s, const Direction<T>& d, const DirectionGradients<T>& g, const WeightScratch<T>& m,
                      const bool* dead, T* zeros, const Member& me, Share window) {
    const Lines<T> lines(s.shape);
    const int64_t H = s.shape.H, P = s.shape.P, Hp = lines.Hp;
    const bool go_on = window.end < s.steps;
    T* const none = nullptr;
    for (int64_t i = 0; i < Hp; ++i) zeros[i] = T(0);
    // Every step of every row, with the results of source(t, b, line) and other(t, b, line); t is its time.
    const auto nothing = [](int64_t, int64_t, const T*) -> const T* { return nullptr; };
    auto steps = [&](auto&& source, auto&& other) {
        return [&, source, other](auto&& f) {
            for_lines_back(s, d, dead, window, [&](int64_t t, int64_t b, const T* line) {
                f(line, source(t, b, line), other(t, b, line));
            });
        };
    };
    auto x = [&](int64_t t, int64_t b, const T*) { return s.x + t * s.x_t + b * s.x_b; };
    auto h_before = [&](int64_t t, int64_t b, const T*) -> const T* {
        const int64_t last = s.lengths ? s.lengths[b] - 1 : s.steps - 1;
        const int64_t before = d.reverse ? t + 1 : t - 1;
        if (before >= 0 && before <= last) return d.y + before * s.y_t + b * s.y_b;
        return d.h0 ? d.h0 + b * P : zeros;
    };
    const bool same = has_one_bias(s.shape);
    using Weight = WeightGradient<T>;
    const Weight ih{s.shape.I, g.dw_ih}, hh{P, g.dw_hh};
    if (same && !s.tokens) {
        weight_gradient(lines.x, Hp, H, {ih, hh}, g.db_ih, g.db_hh, m, me, go_on, steps(x, h_before));
    } else {
        if (!s.tokens) weight_gradient(lines.x, Hp, H, {ih}, g.db_ih, none, m, me, go_on, steps(x, nothing));
        weight_gradient(lines.h, Hp, H, {hh}, same ? none : g.db_hh, none, m, me, go_on, steps(h_before, nothing));
    }
    if (lines.n.count) {
        auto reset = [&](int64_t, int64_t, const T* line) { return line + lines.rh; };
        weight_gradient(lines.n, Hp, H, {Weight{H, g.dw_hh}}, g.db_hh, none, m, me, go_on, steps(reset, nothing));
    }
    if (s.shape.projects()) {
        auto product = [&](int64_t, int64_t, const T* line) { return line + lines.m; };
        weight_gradient(GateRange{lines.dh, 1, {0}}, whole<T>(P), P, {Weight{H, g.dw_hr}}, none, none, m, me, go_on,
                        steps(product, nothing));
    }
}

// The memory of a member of a call.
template <class T> struct BackwardPlan {
    Split split;
    BackwardWeights<T> w[2];
    BackwardScratch<T> scratch;
    WeightScratch<T> sums;
    T* by_token[2] = {nullptr, nullptr};
    bool* dead[2] = {nullptr, nullptr};  // of every (t, b)
    const T** from;
    T** to;
    // Where the workspace is recomputed, one direction at a time.
    T* lines = nullptr;
    ForwardWeights<T> forward[2];
    T* table[2] = {nullptr, nullptr};
    ForwardScratch<T> again;

    BackwardPlan(const Sequence<T>& s, const Gradients<T>& g, int threads, int member, Arena& arena)
        : split(s, s.checkpoint_every ? 1 : s.directions, threads) {
        const int64_t length = Lines<T>(s.shape).length, rows = (s.rows + split.parts - 1) / split.parts;
        if (s.checkpoint_every) lines = arena.take<T>((s.checkpoint_every + 1) * s.rows * length);
        for (int i = 0; i < s.directions; ++i) {
            w[i] = BackwardWeights<T>(s.shape, g.dx, arena);
            dead[i] = arena.take<bool>(s.steps * s.rows);
            if (s.tokens) by_token[i] = arena.take<T>(s.table_rows * length);
            if (!s.checkpoint_every) continue;
            forward[i] = ForwardWeights<T>(s.shape, arena);
            if (s.tokens) table[i] = arena.take<T>(s.table_rows * length);
        }
        for (int i = 0; i <= member; ++i) {
            scratch = BackwardScratch<T>(s, rows, arena);
            sums = WeightScratch<T>(s, arena);
            from = arena.take<const T*>(2 * chunk_rows), to = arena.take<T*>(chunk_rows);
            if (s.checkpoint_every) again = ForwardScratch<T>(s, rows, true, arena);
        }
    }
};

// Memory that backward() takes from its block on so many threads, in bytes.
template <class T> int64_t backward_memory(const Sequence<T>& s, const Gradients<T>& g, int threads) {
    Arena arena(nullptr);
    BackwardPlan<T>(s, g, threads, threads - 1, arena);
    return arena.used();
}

// All phases for some directions and steps. Those after these steps have none left to do or went before.
template <class T>
void backward_steps(const Sequence<T>& s, const Gradients<T>& g, BackwardPlan<T>& plan, Share directions, Share steps,
                    const Member& me) {
    plan.split.share(me, directions.begin, directions.end, [&](int i, int part, int unit, int group) {
        const Part<T> p(s, s.direction[i], part, plan.split.parts);
        const int units = plan.split.units;
        if (s.checkpoint_every)
            forward_part(p, plan.forward[i], plan.again, plan.table[i], unit, units, me, group, steps, true);
        backward_part(p, g, g.direction[i], plan.w[i], plan.scratch, plan.dead[i], unit, units, me, group, steps);
    });
    me.wait();
    if (s.tokens) {
        for (int64_t i = directions.begin; i < directions.end; ++i)
            sum_by_token(s, s.direction[i], plan.dead[i], plan.by_token[i], me, steps);
        me.wait();
    }
    if (g.dx && (!s.tokens || steps.begin == 0))
        input_gradient(s, g, plan.w, plan.by_token, plan.dead, directions, steps, me, plan.scratch.partial, plan.from,
                       plan.to);
    for (int64_t i = directions.begin; i < directions.end; ++i) {
        const DirectionGradients<T>& to = g.direction[i];
        if (s.tokens && steps.begin == 0) table_gradients(s, to, plan.sums, plan.by_token[i], me);
        weight_gradients(s, s.direction[i], to, plan.sums, plan.dead[i], plan.scratch.zeros, me, steps);
    }
}

template <class T> void backward(const Sequence<T>& given, const Gradients<T>& g, char* memory, const Member& me) {
    Arena arena(memory);
    BackwardPlan<T> plan(given, g, me.count, me.index, arena);
    Sequence<T> s = given;
    for (int i = 0; i < s.directions; ++i) {
        plan.w[i].pack(s.shape, s.direction[i].w, me.index, me.count);
        if (!s.checkpoint_every) continue;
        plan.forward[i].pack(s.shape, s.direction[i].w, me.index, me.count);
        s.direction[i].lines = plan.lines;
    }
    me.wait();
    if (!s.checkpoint_every) return backward_steps(s, g, plan, Share(0, s.directions), Share(0, s.steps), me);
    for (int i = 0; s.tokens && i < s.directions; ++i)
        project_table(s, plan.forward[i], plan.again, plan.table[i], Share(s.table_rows, me.index, me.count));
    me.wait();
    for (int i = 0; i < s.directions; ++i)
        for (int64_t end = s.steps, begin; ; end = begin) {
            begin = s.checkpoints() > 0 && end > 0 ? (end - 1) / s.checkpoint_every * s.checkpoint_every : 0;
            backward_steps(s, g, plan, Share(i, i + 1), Share(begin, end), me);
            me.wait();
            if (begin == 0) break;
        }
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
