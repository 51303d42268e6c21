// Runs programs of program.hpp: time, rows, lengths, threads and products; the kernels are the program's.
//
// Every row is computed by itself and every sum over rows in the order of backward, so that the bits depend
// on no other row, on no thread, and not on where a sequence is cut.
#pragma once

#include "backward.hpp"
#include "elements.hpp"
#include "program.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

// Whether a member of a team, or one without, does what is not shared.
inline bool leads(const Member* team) { return !team || team->index == 0; }

// The weights as the operations read them.
template <class T> struct ProgramWeights {
    Panels<T>* panels;
    T* vectors;

    ProgramWeights() = default;
    ProgramWeights(const Program& p, Arena& arena) {
        panels = arena.take<Panels<T>>(p.matrices);
        for (int64_t i = 0; i < p.matrices; ++i) {
            const int64_t count = whole<T>(p.matrix[i].n) / W<T>;
            const Panels<T> b = arena.panels<Panels<T>>(count, p.matrix[i].k, panel_width(count));
            if (panels) panels[i] = b;
        }
        vectors = arena.take<T>(p.vectors);
    }

    // One of `parts` shares of the work; `which` has a bit for each phase whose products are needed.
    void pack(const Program& p, const T* const* tensors, unsigned which, int part, int parts) const {
        for (int phase = 0; phase < 4; ++phase)
            for (int64_t i = 0; i < p.count[phase]; ++i) {
                const Operation& o = p.operations[phase][i];
                if (o.kernel || o.matrix < 0 || !(which >> phase & 1)) continue;
                const Matrix& m = p.matrix[o.matrix];
                const Panels<T>& b = panels[o.matrix];
                const T* from = tensors[m.tensor] + m.offset;
                if (m.n_stride == 1) {
                    const Share mine(m.k, part, parts);
                    pack_lines(b, m.n, mine.begin, mine.end, [&](int64_t k) { return from + k * m.k_stride; });
                } else {
                    const Share mine(b.count * b.width, part, parts);
                    pack_rows<T>(b, mine.begin, mine.end, [&](int64_t v, int64_t lane) -> const T* {
                        const int64_t n = v * W<T> + lane;
                        return n < m.n ? from + n * m.n_stride : nullptr;
                    });
                }
            }
        if (part > 0) return;
        for (int64_t i = 0; i < p.vectors; ++i) vectors[i] = T(0);
        for (int64_t i = 0; i < p.vector_count; ++i)
            std::memcpy(vectors + p.vector[i].at, tensors[p.vector[i].tensor], size_t(p.vector[i].n) * sizeof(T));
    }
};

// Rows of a phase: where each has its memories.
template <class T> struct ProgramRows {
    T** base[bases];
    const T** from;
    T* partial;
    T* unread = nullptr;  // where a gradient of x goes that is not needed

    ProgramRows() = default;
    ProgramRows(int64_t rows, Arena& arena) {
        for (T**& each : base) each = arena.take<T*>(rows);
        from = arena.take<const T*>(rows);
        partial = arena.take<T>(rows * 4 * W<T>);
    }
    T** operator[](Base b) const { return base[int(b)]; }

    // A team works on the same rows: its first member runs the kernels, each has a share of every product, and
    // all wait for one another where a product begins and ends.
    void run(const Program& p, Phase phase, const ProgramWeights<T>& w, int64_t rows, const Member* team) const {
        if (rows <= 0) return;
        bool waited = !team;
        for (const Operation *o = p.operations[int(phase)], *end = o + p.count[int(phase)]; o != end; ++o) {
            if (o->kernel) {
                if (leads(team)) reinterpret_cast<Kernel<T>>(const_cast<void*>(o->kernel))(base, w.vectors, rows);
                waited = !team;
                continue;
            }
            if (o->matrix < 0) {
                if (leads(team)) element<T>(p.element[-1 - o->matrix], base, w.vectors, rows);
                waited = !team;
                continue;
            }
            if (!waited) team->wait();
            if (o->to.base == Base::dx && (*this)[Base::dx][0] == unread) continue;
            const Panels<T>& b = w.panels[o->matrix];
            const int64_t n = p.matrix[o->matrix].n;
            T* const* const to = (*this)[o->to.base];
            for (int64_t j = 0; j < rows; ++j) from[j] = (*this)[o->from.base][j] + o->from.at;
            const T* const start = o->start < 0 ? nullptr : w.vectors + o->start;
            const int64_t at = o->to.at;
            const Share mine(b.count, team ? team->index : 0, team ? team->count : 1);
            multiply<T>(b, mine.begin, mine.end, from, rows, partial,
                        [=](int64_t, int64_t v) { return start && v * W<T> < n ? load(start + v * W<T>) : Vec<T>{}; },
                        [=](int64_t j, int64_t v, Vec<T> sum) {
                            if (v * W<T> < n) store_part(to[j] + at + v * W<T>, sum, n - v * W<T>);
                        });
            if (team) team->wait(), waited = true;
        }
    }
};

// The memory of a member of a call.
template <class T> struct ProgramScratch {
    int64_t chunk;  // steps that are run ahead at a time
    ProgramRows<T> rows, many;  // of one step; of several
    T *initial, *ring, *ahead, *scratch, *temporary, *carry[2];
    WeightScratch<T> sums;
    T* folds;  // the sums of program_folds

    ProgramScratch() = default;
    ProgramScratch(const ProgramCall<T>& c, int64_t n, bool backward, Arena& arena) {
        const Program& p = c.program;
        chunk = n < chunk_rows ? (chunk_rows + n - 1) / (n > 0 ? n : 1) : 1;
        const int64_t most = chunk * n > chunk_rows ? chunk * n : chunk_rows;
        rows = ProgramRows<T>(n, arena), many = ProgramRows<T>(most, arena);
        initial = arena.take<T>(backward ? 0 : n * p.state_length);
        ring = arena.take<T>(backward || c.lines ? 0 : (chunk + 1) * n * p.line);
        ahead = arena.take<T>(backward ? 0 : most * p.ahead);
        scratch = arena.take<T>(most * p.scratch);
        temporary = arena.take<T>(p.temporary);
        for (T*& each : carry) each = arena.take<T>(backward ? n * p.state_length : 0);
        if (!backward) return;
        many.unread = arena.take<T>(whole<T>(p.input));
        int64_t height = 0, widest = 0, folded = 0;
        for (int64_t i = 0; i < p.sums; ++i) {
            if (p.sum[i].sources == 0) folded += whole<T>(p.sum[i].rows);
            else if (p.sum[i].rows > height) height = p.sum[i].rows;
            for (int64_t s = 0; s < p.sum[i].sources; ++s)
                if (p.sum[i].columns[s] > widest) widest = p.sum[i].columns[s];
        }
        sums = WeightScratch<T>(whole<T>(height), widest, arena);
        folds = arena.take<T>(folded);
    }
};

// The state before the first step, of a row, padded.
template <class T> void take_state(const ProgramCall<T>& c, int64_t row, T* to) {
    const Program& p = c.program;
    for (int64_t i = 0; i < p.state_length; ++i) to[i] = T(0);
    for (int64_t s = 0; s < p.states; ++s)
        if (c.state[s])
            std::memcpy(to + p.state_at[s], c.state[s] + row * p.state_size[s], size_t(p.state_size[s]) * sizeof(T));
}

template <class T>
void program_forward_part(const ProgramCall<T>& c, const ProgramWeights<T>& w, const ProgramScratch<T>& m,
                          const PartRows& part, const Member* team) {
    const Program& p = c.program;
    const bool leads = OSTINATO_TARGET::leads(team);
    const int64_t n = part.rows, slots = m.chunk + 1;
    if (n <= 0) return;
    const int64_t P = p.state_size[p.output], h = p.state_in_line + p.state_at[p.output];
    auto line = [&](int64_t t, int64_t j) {
        return c.lines ? c.lines + (part.time(t, j) * c.rows + part.row(j)) * p.line
                       : m.ring + (t % slots * n + j) * p.line;
    };
    for (int64_t j = 0; j < n && leads; ++j) {
        take_state(c, part.row(j), m.initial + j * p.state_length);
        m.rows[Base::before][j] = m.initial + j * p.state_length;
    }
    const int64_t end = part.steps();
    int64_t active = part.active(0, n);
    for (int64_t t0 = 0; t0 < end; t0 += m.chunk) {
        const int64_t t1 = t0 + m.chunk < end ? t0 + m.chunk : end;
        int64_t count = 0;
        auto show = [&](const ProgramRows<T>& rows, int64_t at, int64_t t, int64_t j, int64_t place) {
            if (!leads) return;
            rows[Base::x][at] = const_cast<T*>(c.x) + part.time(t, j) * c.x_t + part.row(j) * c.x_b;
            rows[Base::line][at] = line(t, j);
            rows[Base::ahead][at] = m.ahead + place * p.ahead;
            rows[Base::scratch][at] = m.scratch + at * p.scratch;
            rows[Base::temporary][at] = m.temporary;
        };
        for (int64_t t = t0, rows = active; t < t1; ++t) {
            rows = part.active(t, rows);
            for (int64_t j = 0; j < rows; ++j, ++count) show(m.many, count, t, j, (t - t0) * n + j);
        }
        m.many.run(p, Phase::ahead, w, count, team);
        for (int64_t t = t0; t < t1; ++t) {
            active = part.active(t, active);
            for (int64_t j = 0; j < active; ++j) show(m.rows, j, t, j, (t - t0) * n + j);
            m.rows.run(p, Phase::step, w, active, team);
            for (int64_t j = 0; j < active && leads; ++j) {
                T* const to = m.rows[Base::line][j];
                m.rows[Base::before][j] = to + p.state_in_line;
                std::memcpy(c.y + part.time(t, j) * c.y_t + part.row(j) * c.y_b, to + h, size_t(P) * sizeof(T));
            }
        }
    }
    for (int64_t j = 0; j < n && leads; ++j) {
        const int64_t row = part.row(j);
        for (int64_t s = 0; s < p.states; ++s)
            std::memcpy(c.last[s] + row * p.state_size[s], m.rows[Base::before][j] + p.state_at[s],
                        size_t(p.state_size[s]) * sizeof(T));
        for (int64_t t = part.length(j); t < c.steps; ++t)
            std::memset(c.y + t * c.y_t + row * c.y_b, 0, size_t(P) * sizeof(T));
    }
}

// Steps of all rows that backward goes through before it sums what the gradients of the weights need of them, while that
// is in the cache: some megabytes, or several blocks of entries, over which each pass through the sums goes.
template <class T> int64_t window_of(const ProgramCall<T>& c) {
    const int64_t bytes = c.program.back * int64_t(sizeof(T)), fit = (8 << 20) / (bytes > 0 ? bytes : 1);
    const int64_t entries = fit > 8 * block_lines ? fit : 8 * block_lines;
    const int64_t steps = c.rows > 0 ? (entries + c.rows - 1) / c.rows : 1;
    return steps < c.steps ? steps : c.steps;
}

// What backward shows of step t, at its `time`, of a row of the batch.
template <class T>
void show_back(const ProgramCall<T>& c, const ProgramScratch<T>& m, const T* initial, T* back,
               const ProgramRows<T>& rows, int64_t at, int64_t t, int64_t time, int64_t row) {
    const Program& p = c.program;
    const int64_t place = time * c.rows + row, earlier = c.reverse ? place + c.rows : place - c.rows;
    rows[Base::x][at] = const_cast<T*>(c.x) + time * c.x_t + row * c.x_b;
    rows[Base::line][at] = c.lines + place * p.line;
    rows[Base::back][at] = back;
    rows[Base::before][at] = t > 0 ? c.lines + earlier * p.line + p.state_in_line
                                   : const_cast<T*>(initial) + row * p.state_length;
    rows[Base::scratch][at] = m.scratch + at * p.scratch;
    rows[Base::temporary][at] = m.temporary;
}

// Calls between(window) after the steps of each window, from the last one on; every member does.
template <class T, class Between>
void program_backward_part(const ProgramCall<T>& c, const ProgramWeights<T>& w, const ProgramScratch<T>& m,
                           const T* initial, T* backs, const PartRows& part, const Member* team, Between&& between) {
    const Program& p = c.program;
    const bool leads = OSTINATO_TARGET::leads(team);
    const int64_t P = p.state_size[p.output], h = p.state_at[p.output], window = window_of(c);
    auto arrive = [&](int64_t j, T* to) {  // the gradient of the last state
        for (int64_t i = 0; i < p.state_length; ++i) to[i] = T(0);
        for (int64_t s = 0; s < p.states; ++s)
            if (c.d_last[s])
                std::memcpy(to + p.state_at[s], c.d_last[s] + part.row(j) * p.state_size[s],
                            size_t(p.state_size[s]) * sizeof(T));
    };
    int64_t later = 0;
    T *now = m.carry[0], *next = m.carry[1];
    for (int64_t i = 0; i < part.rows * p.state_length && leads; ++i) now[i] = next[i] = T(0);
    for (int64_t t = c.steps - 1; t >= 0; --t) {
        if (t < part.steps()) {
            const int64_t active = part.active(t, part.rows), place = t % window;
            for (int64_t j = later; j < active && leads; ++j) arrive(j, now + j * p.state_length);
            for (int64_t j = 0; j < active && leads; ++j) {
                const int64_t time = part.time(t, j), row = part.row(j);
                show_back(c, m, initial, backs + (place * c.rows + row) * p.back, m.rows, j, t, time, row);
                T* const d = now + j * p.state_length;
                m.rows[Base::d_after][j] = d, m.rows[Base::d_before][j] = next + j * p.state_length;
                if (!c.dy) continue;
                const T* const dy = c.dy + time * c.dy_t + row * c.dy_b;
                for (int64_t i = 0; i < P; ++i) d[h + i] += dy[i];
            }
            m.rows.run(p, Phase::back, w, active, team);
            later = active;
            T* const swapped = now;
            now = next, next = swapped;
        }
        if (t % window == 0) between(Share(t, t + window < c.steps ? t + window : c.steps));
    }
    if (c.steps == 0) between(Share(0, 0));
    if (!leads) return;
    for (int64_t j = later; j < part.rows; ++j) arrive(j, now + j * p.state_length);  // rows without a step
    for (int64_t j = 0; j < part.rows; ++j)
        for (int64_t s = 0; s < p.states; ++s)
            if (c.d_state[s])
                std::memcpy(c.d_state[s] + part.row(j) * p.state_size[s], now + j * p.state_length + p.state_at[s],
                            size_t(p.state_size[s]) * sizeof(T));
}

// One share of the steps of a window, of all rows: what dx and the gradients of the weights need.
template <class T>
void program_after(const ProgramCall<T>& c, const ProgramWeights<T>& w, const ProgramScratch<T>& m, const T* initial,
                   T* backs, Share window, const Member& me) {
    const Program& p = c.program;
    const Share mine((window.end - window.begin) * c.rows, me.index, me.count);
    int64_t n = 0;
    for (int64_t at = mine.begin; at < mine.end; ++at) {
        const int64_t place = at / c.rows, t = window.begin + place, row = at % c.rows, length = c.lengths ? c.lengths[row] : c.steps;
        const int64_t time = c.reverse && t < length ? length - 1 - t : t;
        T* const dx = c.dx ? c.dx + time * c.dx_t + row * c.dx_b : nullptr;
        if (t >= length) {
            if (dx) std::memset(dx, 0, size_t(p.input) * sizeof(T));
            continue;
        }
        show_back(c, m, initial, backs + at * p.back, m.many, n, t, time, row);
        m.many[Base::dx][n++] = dx ? dx : m.many.unread;
        if (n == chunk_rows) m.many.run(p, Phase::after, w, n, nullptr), n = 0;
    }
    m.many.run(p, Phase::after, w, n, nullptr);
}

// Calls f(at) for the steps of a window, of all rows, in the order of backward: at(place) is where such a row has it.
template <class T, class F>
void for_steps_back(const ProgramCall<T>& c, const T* initial, const T* backs, Share window, F&& f) {
    const Program& p = c.program;
    for (int64_t t = window.end - 1; t >= window.begin; --t)
        for (int64_t row = 0; row < c.rows; ++row) {
            const int64_t length = c.lengths ? c.lengths[row] : c.steps;
            if (t >= length) continue;
            const int64_t time = c.reverse ? length - 1 - t : t, place = time * c.rows + row;
            const int64_t earlier = c.reverse ? place + c.rows : place - c.rows;
            f([&](const Place& it) -> const T* {
                switch (it.base) {
                    case Base::x: return c.x + time * c.x_t + row * c.x_b + it.at;
                    case Base::line: return c.lines + place * p.line + it.at;
                    case Base::back: return backs + ((t - window.begin) * c.rows + row) * p.back + it.at;
                    default:
                        return (t > 0 ? c.lines + earlier * p.line + p.state_in_line
                                      : initial + row * p.state_length) + it.at;
                }
            });
        }
}

// One share of a sum with sources over the steps of a window of all rows; what came before goes on.
template <class T>
void program_sum(const ProgramCall<T>& c, const Sum& sum, const WeightScratch<T>& m, const T* initial, const T* backs,
                 Share window, const Member& me) {
    T* const none = nullptr;
    auto dw = [&](int s) { return WeightGradient<T>{sum.columns[s], c.results[sum.to[s]]}; };
    auto each = [&](auto&& f) {
        for_steps_back(c, initial, backs, window, [&](auto&& at) {
            f(at(sum.of), at(sum.source[0]), sum.sources > 1 ? at(sum.source[1]) : nullptr);
        });
    };
    const GateRange range{0, 1, {0}};
    T* const db = sum.sum_to >= 0 ? c.results[sum.sum_to] : none;
    const int64_t height = whole<T>(sum.rows);
    const bool go_on = window.end < c.steps;
    if (sum.sources > 1)
        weight_gradient(range, height, sum.rows, {dw(0), dw(1)}, db, none, m, me, go_on, each);
    else
        weight_gradient(range, height, sum.rows, {dw(0)}, db, none, m, me, go_on, each);
}

// The same for `count` sums without sources, of the same numbers.
template <class T>
void program_folds(const ProgramCall<T>& c, const Sum* sums, int64_t count, T* folds, const T* initial, const T* backs,
                   Share window, const Member& me) {
    const int64_t rows = sums->rows;
    const Share mine(whole<T>(rows) / W<T>, me.index, me.count);
    const int64_t i0 = mine.begin * W<T>, i1 = mine.end * W<T>, height = i1 - i0;
    for (int64_t s = 0; s < count; ++s)
        for (int64_t i = i0; i < i1; i += W<T>)
            store(folds + s * height + i - i0,
                  window.end < c.steps ? load_part(c.results[sums[s].sum_to] + i, rows - i) : Vec<T>{});
    for_steps_back(c, initial, backs, window, [&](auto&& at) {
        const T* const of = at(sums->of);
        for (int64_t s = 0; s < count; ++s) {
            T* const to = folds + s * height - i0;
            if (sums[s].factor.base == Base::count) {
                for (int64_t i = i0; i < i1; i += W<T>) store(to + i, load(to + i) + load_part(of + i, rows - i));
                continue;
            }
            const T* const factor = at(sums[s].factor);
            for (int64_t i = i0; i < i1; i += W<T>)
                store(to + i, fma(load_part(of + i, rows - i), load_part(factor + i, rows - i), load(to + i)));
        }
    });
    for (int64_t s = 0; s < count; ++s)
        for (int64_t i = i0; i < i1; i += W<T>)
            store_part(c.results[sums[s].sum_to] + i, load(folds + s * height + i - i0), rows - i);
}

template <class T>
void program_sums(const ProgramCall<T>& c, const ProgramScratch<T>& m, const T* initial, const T* backs, Share window,
                  const Member& me) {
    const Sum *sum = c.program.sum, *const end = sum + c.program.sums;
    while (sum != end) {
        if (sum->sources > 0) {
            program_sum(c, *sum++, m.sums, initial, backs, window, me);
            continue;
        }
        const Sum* last = sum;
        while (last != end && last->sources == 0 && last->of.base == sum->of.base && last->of.at == sum->of.at && last->rows == sum->rows) ++last;
        program_folds(c, sum, last - sum, m.folds, initial, backs, window, me);
        sum = last;
    }
}

template <class T> struct ProgramPlan {
    ProgramWeights<T> w;
    ProgramScratch<T> scratch, first;  // of the member; of the first one
    T *initial, *backs;  // of all rows; what backward leaves of a window: (its steps, rows, back)

    ProgramPlan(const ProgramCall<T>& c, bool backward, int threads, int member, Arena& arena)
        : w(c.program, arena), initial(arena.take<T>(backward ? c.rows * c.program.state_length : 0)),
          backs(arena.take<T>(backward ? window_of(c) * c.rows * c.program.back : 0)) {
        for (int i = 0; i <= member; ++i) {
            scratch = ProgramScratch<T>(c, (c.rows + threads - 1) / threads, backward, arena);
            if (i == 0) first = scratch;
        }
    }
    // The rows of the first, with what a member needs for its share of a product.
    ProgramScratch<T> of_team() const {
        ProgramScratch<T> found = first;
        found.rows.from = scratch.rows.from, found.rows.partial = scratch.rows.partial;
        found.many.from = scratch.many.from, found.many.partial = scratch.many.partial;
        return found;
    }
};

template <class T> int64_t program_memory(const ProgramCall<T>& c, bool backward, int threads) {
    Arena arena(nullptr);
    ProgramPlan<T>(c, backward, threads, threads - 1, arena);
    return arena.used();
}

template <class T> void program_forward(const ProgramCall<T>& c, char* memory, const Member& me) {
    Arena arena(memory);
    const ProgramPlan<T> plan(c, false, me.count, me.index, arena);
    plan.w.pack(c.program, c.tensors, 1u << int(Phase::ahead) | 1u << int(Phase::step), me.index, me.count);
    me.wait();
    const bool together = me.count > 1 && sharing_of(c) == Sharing::units;
    program_forward_part(c, plan.w, together ? plan.of_team() : plan.scratch,
                         PartRows(c.lengths, c.order, c.steps, c.rows, c.reverse, together ? 0 : me.index,
                                  together ? 1 : me.count),
                         together ? &me : nullptr);
}

template <class T> void program_backward(const ProgramCall<T>& c, char* memory, const Member& me) {
    Arena arena(memory);
    const ProgramPlan<T> plan(c, true, me.count, me.index, arena);
    plan.w.pack(c.program, c.tensors, 1u << int(Phase::back) | 1u << int(Phase::after), me.index, me.count);
    const Share mine(c.rows, me.index, me.count);
    for (int64_t row = mine.begin; row < mine.end; ++row)
        take_state(c, row, plan.initial + row * c.program.state_length);
    me.wait();
    const bool together = me.count > 1 && sharing_of(c) == Sharing::units;
    program_backward_part(c, plan.w, together ? plan.of_team() : plan.scratch, plan.initial, plan.backs,
                          PartRows(c.lengths, c.order, c.steps, c.rows, c.reverse, together ? 0 : me.index,
                                   together ? 1 : me.count),
                          together ? &me : nullptr, [&](Share window) {
                              me.wait();
                              program_after(c, plan.w, plan.scratch, plan.initial, plan.backs, window, me);
                              me.wait();
                              program_sums(c, plan.scratch, plan.initial, plan.backs, window, me);
                              me.wait();
                          });
}

// A layer that takes one step at a time: its weights, and its state, lie in a block of memory each.
template <class T> int64_t program_model_memory(const Program& p) {
    Arena arena(nullptr);
    ProgramWeights<T>(p, arena);
    return arena.used();
}
template <class T> void program_pack(const Program& p, const T* const* tensors, char* model) {
    Arena arena(model);
    ProgramWeights<T>(p, arena).pack(p, tensors, 1u << int(Phase::ahead) | 1u << int(Phase::step), 0, 1);
}

// Two lines of each row: a step reads the state from one and writes the other.
template <class T> struct ProgramState {
    T *lines[2], *ahead, *scratch, *temporary;
    ProgramRows<T> rows;

    ProgramState(const Program& p, int64_t n, Arena& arena) {
        for (T*& each : lines) each = arena.take<T>(n * p.line);
        ahead = arena.take<T>(n * p.ahead), scratch = arena.take<T>(n * p.scratch);
        temporary = arena.take<T>(p.temporary);
        rows = ProgramRows<T>(n, arena);
    }
};
template <class T> int64_t program_state_memory(const Program& p, int64_t rows) {
    Arena arena(nullptr);
    ProgramState<T>(p, rows, arena);
    return arena.used();
}

// From x (rows, I) to y (rows, P); `side` is the line that has the state before.
template <class T>
void program_step(const Program& p, char* model, char* state, int64_t n, int side, const T* x, T* y) {
    Arena weights(model), arena(state);
    const ProgramWeights<T> w = [&] {
        ProgramWeights<T> known;
        known.panels = weights.take<Panels<T>>(p.matrices);
        for (int64_t i = 0; i < p.matrices; ++i)
            weights.take<T>(known.panels[i].count * known.panels[i].stride());
        known.vectors = weights.take<T>(p.vectors);
        return known;
    }();
    const ProgramState<T> s(p, n, arena);
    for (int64_t j = 0; j < n; ++j) {
        s.rows[Base::x][j] = const_cast<T*>(x) + j * p.input;
        s.rows[Base::line][j] = s.lines[1 - side] + j * p.line;
        s.rows[Base::before][j] = s.lines[side] + j * p.line + p.state_in_line;
        s.rows[Base::ahead][j] = s.ahead + j * p.ahead;
        s.rows[Base::scratch][j] = s.scratch + j * p.scratch;
        s.rows[Base::temporary][j] = s.temporary;
    }
    s.rows.run(p, Phase::ahead, w, n, nullptr);
    s.rows.run(p, Phase::step, w, n, nullptr);
    const int64_t P = p.state_size[p.output], h = p.state_in_line + p.state_at[p.output];
    for (int64_t j = 0; j < n; ++j) std::memcpy(y + j * P, s.rows[Base::line][j] + h, size_t(P) * sizeof(T));
}

// All tensors of the state, (rows, size) each, one behind another: to the numbers, or from them.
template <class T> void program_copy_state(const Program& p, char* state, int64_t n, int side, T* to, const T* from) {
    Arena arena(state);
    const ProgramState<T> s(p, n, arena);
    for (int64_t i = 0; i < p.states; ++i)
        for (int64_t j = 0; j < n; ++j) {
            T* const at = s.lines[side] + j * p.line + p.state_in_line + p.state_at[i];
            const size_t bytes = size_t(p.state_size[i]) * sizeof(T);
            if (to) std::memcpy(to, at, bytes), to += p.state_size[i];
            else std::memcpy(at, from, bytes), from += p.state_size[i];
        }
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
