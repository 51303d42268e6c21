// The workspace, of which forward leaves an entry for every step and row (`lines`, each a `line`), and the
// memory of a call.
//
// An entry is made of sections of Hp = H rounded up to whole vectors:
//   RNN                h
//   LSTM               i f g o | c          with a projection also | m = o * tanh(c) | dh
//   GRU                hn r z n             hn = W_hn h' + b_hn
//   GRU, reset before  r z n | r * h'
// Forward leaves activated gates there; backward turns them into the gradients of what they were
// before activation, in place. Sections that a product reads together lie side by side.
#pragma once

#include "gemm.hpp"
#include "sequence.hpp"
#include "threads.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace ostinato {
namespace OSTINATO_TARGET {

template <class T> constexpr int64_t whole(int64_t n) { return (n + W<T> - 1) / W<T> * W<T>; }

// Sections side by side, and which of PyTorch's gates each belongs to.
struct GateRange {
    int64_t at;
    int count;
    int gate[4];
};

template <class T> struct Lines {
    int64_t Hp, length;
    GateRange x;  // what the input's product adds to
    GateRange h;  // what the product of the h before adds to
    GateRange n;  // what that of r * h' adds to, where the reset gate acts before the product
    int64_t c, m, dh, rh;
    // Where gate g is read; past the gates' count, c of an LSTM and hn of a GRU.
    int64_t gate_at(int g) const { return x.at + (g < x.count || x.at == 0 ? g * Hp : -Hp); }

    explicit Lines(const Shape& s)
        : Hp(whole<T>(s.H)), x{}, h{}, n{}, c(4 * Hp), m(5 * Hp), dh(6 * Hp), rh(3 * Hp) {
        int64_t sections = 0;
        switch (s.cell) {
            case CellKind::rnn: x = h = {0, 1, {0}}, sections = 1; break;
            case CellKind::lstm:
                x = h = {0, 4, {0, 1, 2, 3}}, sections = s.projects() ? 7 : 5;
                break;
            case CellKind::gru: x = {Hp, 3, {0, 1, 2}}, h = {0, 3, {2, 0, 1}}, sections = 4; break;
            case CellKind::gru_reset_before:
                x = {0, 3, {0, 1, 2}}, h = {0, 2, {0, 1}}, n = {2 * Hp, 1, {2}}, sections = 4;
                break;
        }
        // The padding keeps entries from sharing a set of the cache.
        length = sections * Hp + 64 / int64_t(sizeof(T));
    }
};

// Hands out memory from one block, 64-byte aligned and not initialised. Without a block it only
// counts, so that the same code says how much is needed.
class Arena {
public:
    explicit Arena(char* base) : base_(base) {}
    template <class U> U* take(int64_t n) {
        U* p = base_ ? reinterpret_cast<U*>(base_ + used_) : nullptr;
        const int64_t bytes = n * int64_t(sizeof(U));
        used_ += (bytes + 63) / 64 * 64;
#if defined(__SANITIZE_ADDRESS__)
        used_ += 64;  // which must not be touched, and the rest of the 64 bytes before
        if (p) __asan_poison_memory_region(reinterpret_cast<char*>(p) + bytes, size_t(base_ + used_ - reinterpret_cast<char*>(p) - bytes));
#endif
        return p;
    }
    template <class Matrix> Matrix panels(int64_t vectors, int64_t k, int width) {
        Matrix b(vectors, k, width);
        b.take_memory(*this);
        return b;
    }
    int64_t used() const { return used_; }

private:
    char* base_;
    int64_t used_ = 0;
};

// How the threads share a recurrence. Directions run side by side where there are threads for it;
// within a direction the rows are split into parts, which need not wait for each other; and where
// that leaves threads without a row, or too few rows for each pass over large weights, the hidden
// units of a part are split as well, at the price of a barrier in every step.
struct Split {
    int sides, parts, units;

    template <class T> Split(const Sequence<T>& s, int directions, int threads) {
        sides = directions == 2 && threads >= 2 ? 2 : 1;
        const int64_t each = threads / sides, rows = s.rows > 0 ? s.rows : 1;
        parts = int(each < rows ? each : rows);
        units = 1;
        const int64_t weights = s.shape.gates() * s.shape.H * s.shape.P * int64_t(sizeof(T));
        const bool one_product = s.shape.cell != CellKind::gru_reset_before && !s.shape.projects();
        const bool starved = (rows < each && weights >= 48 * 1024) || (rows < 8 * each && weights >= 128 * 1024);
        if (!one_product || !starved) return;
        parts = int(rows / 8 < 1 ? 1 : rows / 8);
        const int64_t panels = whole<T>(s.shape.H) / W<T> / (s.shape.cell == CellKind::rnn ? 4 : 1);
        units = int(each / parts < panels ? each / parts : panels);
        if (units < 1) units = 1;
    }

    Sharing sharing() const {
        return units > 1 ? Sharing::units : sides * parts > 1 ? Sharing::rows : Sharing::none;
    }

    // Calls work(direction, part, unit, group) for the share of a member in some directions; `group`
    // numbers the members that share the units of a part.
    template <class Work> void share(const Member& me, int begin, int end, Work&& work) const {
        const int side = me.index % sides, within = me.index / sides;
        if (within >= parts * units) return;
        for (int direction = begin + side; direction < end; direction += sides)
            work(direction, within / units, within % units, side * parts + within / units);
    }
};

// A range; or of `n`, the share of one of `parts`.
struct Share {
    int64_t begin, end;
    Share(int64_t begin, int64_t end) : begin(begin), end(end) {}
    Share(int64_t n, int64_t part, int64_t parts) : begin(n * part / parts), end(n * (part + 1) / parts) {}
};

// The workspace of step t of row b, which is at `time` in memory. Entries that are recomputed lie in a ring:
// a window of steps, and the first of the window after it.
template <class T>
T* line_of(const Sequence<T>& s, const Direction<T>& d, const Lines<T>& lines, int64_t t, int64_t time, int64_t b) {
    const int64_t at = s.checkpoint_every ? t % (s.checkpoint_every + 1) : time;
    return d.lines + (at * s.rows + b) * lines.length;
}

// One part of the rows of a direction. Rows of one length are cut into blocks, so that what a thread
// writes lies together; of rows of unequal length a part has every parts-th by falling length, so that
// all parts are long for as long. `j` counts the rows of the part, `t` the steps as the direction reads
// them.
struct PartRows {
    const int64_t *lengths, *order;
    const int64_t all_steps;
    const bool reverse;
    const int64_t part, parts;
    const Share block;
    const int64_t rows;

    PartRows(const int64_t* lengths, const int64_t* order, int64_t steps, int64_t all_rows, bool reverse, int64_t part,
             int64_t parts)
        : lengths(lengths), order(order), all_steps(steps), reverse(reverse), part(part), parts(parts),
          block(all_rows, part, parts), rows(order ? (all_rows - part + parts - 1) / parts : block.end - block.begin) {}

    int64_t row(int64_t j) const { return order ? order[part + j * parts] : block.begin + j; }
    int64_t length(int64_t j) const { return lengths ? lengths[row(j)] : all_steps; }
    int64_t steps() const { return rows > 0 ? length(0) : 0; }
    // Rows that have a step t, always the first so many; `most` is what it was for an earlier t.
    int64_t active(int64_t t, int64_t most) const {
        if (!lengths) return t < all_steps ? most : 0;
        while (most > 0 && length(most - 1) <= t) --most;
        return most;
    }
    int64_t time(int64_t t, int64_t j) const { return reverse ? length(j) - 1 - t : t; }
};

template <class T> struct Part : PartRows {
    const Sequence<T>& s;
    const Direction<T>& d;
    const Lines<T> lines;

    Part(const Sequence<T>& s, const Direction<T>& d, int64_t part, int64_t parts)
        : PartRows(s.lengths, s.order, s.steps, s.rows, d.reverse, part, parts), s(s), d(d), lines(s.shape) {}

    int64_t token(int64_t t, int64_t j) const {
        return s.tokens[time(t, j) * s.tokens_t + row(j) * s.tokens_b];
    }
    const T* x(int64_t t, int64_t j) const { return s.x + time(t, j) * s.x_t + row(j) * s.x_b; }
    T* y(int64_t t, int64_t j) const { return d.y + time(t, j) * s.y_t + row(j) * s.y_b; }
    T* line(int64_t t, int64_t j) const { return line_of(s, d, lines, t, time(t, j), row(j)); }
    // c before step t, the first or that after a checkpoint, of H numbers; null for zeros.
    const T* c_before(int64_t t, int64_t j) const {
        const int64_t kept = t > 0 ? t / s.checkpoint_every - 1 : 0;
        const T* c = t > 0 ? d.c_kept + kept * s.rows * s.shape.H : d.c0;
        return c ? c + row(j) * s.shape.H : nullptr;
    }
    const T* h0(int64_t j, const T* zeros) const {
        return d.h0 ? d.h0 + row(j) * s.shape.P : zeros;
    }
};

constexpr int64_t chunk_rows = 96;  // rows of input that are projected at a time: they stay in L2

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
