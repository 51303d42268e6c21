// A case of the check: the numbers that a pass reads and those that it is to write, drawn from a seed.
//
// All that the core may not read or write is marked with bytes of 0xff, which are NaN to whoever reads
// them as numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "core.hpp"

namespace ostinato {
namespace check {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool address_sanitizer = true;
#else
constexpr bool address_sanitizer = false;
#endif

struct Failure {
    std::string what;
};

[[noreturn]] inline void fail(const std::string& what) { throw Failure{what}; }

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {  // SplitMix64
        uint64_t z = state_ += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }
    int64_t from(int64_t low, int64_t high) { return low + int64_t(next() % uint64_t(high - low + 1)); }
    bool one_in(int64_t n) { return from(1, n) == 1; }
    double real() { return double(next() >> 11) * 0x1p-52 - 1; }  // from -1 to 1

private:
    uint64_t state_;
};

// ---- Memory ------------------------------------------------------------------------------------

// How (n, m, k) numbers lie: which of the first two axes is the inner one, and the gaps.
struct Layout {
    bool first_inside;
    int64_t before, inner_gap, outer_gap;
};

// (n, m, k) numbers, the last axis contiguous, in memory of which the rest is marked; as is every
// number that was not yet set. Under AddressSanitizer nothing lies behind the last.
template <class T> class Tensor {
public:
    int64_t n = 0, m = 0, k = 0, stride_n = 0, stride_m = 0;

    Tensor() = default;
    Tensor(int64_t n, int64_t m, int64_t k, Layout layout = {}, bool aligned = false) : n(n), m(m), k(k) {
        const int64_t inner = k + layout.inner_gap;
        const int64_t outer = (layout.first_inside ? n : m) * inner + layout.outer_gap;
        stride_n = layout.first_inside ? inner : outer, stride_m = layout.first_inside ? outer : inner;
        const int64_t size = n > 0 && m > 0 && k > 0 ? (n - 1) * stride_n + (m - 1) * stride_m + k : 0;
        const int64_t margin = address_sanitizer ? 0 : 32, line = aligned ? 64 / int64_t(sizeof(T)) : 1;
        memory_.resize(size_t(std::max<int64_t>(1, layout.before + size + margin + line - 1)));
        std::memset(memory_.data(), 0xff, memory_.size() * sizeof(T));
        begin_ = layout.before;
        while (aligned && reinterpret_cast<uintptr_t>(data()) % 64) ++begin_;
    }
    T* data() { return memory_.data() + begin_; }
    T* row(int64_t i, int64_t j) { return data() + i * stride_n + j * stride_m; }
    const T* row(int64_t i, int64_t j) const { return const_cast<Tensor*>(this)->row(i, j); }

    // Calls f(i, j, l, number) for every number.
    template <class F> void each(F&& f) {
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < m; ++j)
                for (int64_t l = 0; l < k; ++l) f(i, j, l, row(i, j)[l]);
    }
    bool written_outside() const {
        Tensor copy = *this;
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < m; ++j) std::memset(copy.row(i, j), 0xff, size_t(k) * sizeof(T));
        const auto* bytes = reinterpret_cast<const unsigned char*>(copy.memory_.data());
        const auto* end = bytes + memory_.size() * sizeof(T);
        return std::any_of(bytes, end, [](unsigned char byte) { return byte != 0xff; });
    }
    bool unchanged_since(const Tensor& before) const {
        return !std::memcmp(memory_.data(), before.memory_.data(), memory_.size() * sizeof(T));
    }

private:
    std::vector<T> memory_;
    int64_t begin_ = 0;
};

// The same bits; NaN has no bits worth keeping.
template <class T> bool same(T a, T b) { return !std::memcmp(&a, &b, sizeof a) || (a != a && b != b); }

// ---- A case, drawn at random -------------------------------------------------------------------

// What belongs to one direction: first what the core reads, then what it writes.
enum Name {
    w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, dh_n, dc_n,
    h_n, c_n, dw_ih, dw_hh, db_ih, db_hh, dw_hr, dh0, dc0, names
};
const char* const labels[] = {"w_ih", "w_hh", "b_ih",  "b_hh",  "w_hr",  "h0",    "c0",    "dh_n", "dc_n",
                              "h_n",  "c_n",  "dw_ih", "dw_hh", "db_ih", "db_hh", "dw_hr", "dh0",  "dc0"};
inline bool is_read(int name) { return name < h_n; }

enum class Numbers {
    smooth,
    saturating,  // some units of some gates are pushed to the ends of their range and far beyond
    whole,       // small whole numbers: sums are exact, zero among them
    holed        // one x is NaN
};
const char* const number_labels[] = {"smooth", "saturating", "whole", "holed"};

struct Plan {
    uint64_t seed;
    Shape shape;
    int64_t T, B;
    int D, G;
    bool reverse[2];
    bool ragged, gives_order;
    int64_t table;  // rows of the table of which x takes one a step; 0: x has its steps itself
    std::vector<int64_t> lengths, order;  // of the rows; by falling length
    Numbers numbers;
    int64_t silent = 1;  // of so many steps of a row, dy is zero in all but about one
    bool has[2][names], has_dy[2], has_lines[2], has_dx, backward;
    Layout of_x, of_y, of_dy, of_dx, of_tokens;
    int64_t before;  // numbers before whatever is contiguous

    bool lstm() const { return shape.cell == CellKind::lstm; }
    bool reset_before() const { return shape.cell == CellKind::gru_reset_before; }
    bool linear() const {  // but for the kink of a relu
        return shape.cell == CellKind::rnn &&
               (shape.activation == Activation::relu || shape.activation == Activation::identity);
    }
    int64_t length(int64_t b) const { return ragged ? lengths[size_t(b)] : T; }
    bool exists(int name) const {
        if (name == w_hr || name == dw_hr) return shape.projects();
        return lstm() || (name != c0 && name != c_n && name != dc_n && name != dc0);
    }
    int64_t rows(int name) const {
        if (name == w_ih || name == w_hh || name == dw_ih || name == dw_hh) return G * shape.H;
        if (name == w_hr || name == dw_hr) return shape.P;
        return name == b_ih || name == b_hh || name == db_ih || name == db_hh ? 1 : B;
    }
    int64_t columns(int name) const {
        if (name == w_ih || name == dw_ih) return shape.I;
        if (name == b_ih || name == b_hh || name == db_ih || name == db_hh) return G * shape.H;
        return name == w_hh || name == dw_hh || name == h0 || name == h_n || name == dh_n || name == dh0
                   ? shape.P : shape.H;
    }
    // Sections of an entry of the workspace that gate_at() can find: gates, and then c or hn.
    int sections() const { return G + (lstm() || shape.cell == CellKind::gru ? 1 : 0); }
    std::string text() const;
};

inline std::string Plan::text() const {
    const char* const cells[] = {"rnn", "lstm", "gru", "gru_reset_before"};
    const char* const activations[] = {"tanh", "relu", "sigmoid", "identity"};
    std::string s = cells[int(shape.cell)];
    auto add = [&](const char* name, int64_t value) {
        s += std::string(" ") + name + "=" + std::to_string(value);
    };
    if (shape.cell == CellKind::rnn) s += std::string(" ") + activations[int(shape.activation)];
    s += std::string(" ") + number_labels[int(numbers)];
    add("T", T), add("B", B), add("I", shape.I), add("H", shape.H);
    if (shape.projects()) add("P", shape.P);
    if (table) add("table", table);
    add("D", D), s += reverse[0] ? " reverse" : " forward";
    if (D == 2) s += reverse[1] ? ",reverse" : ",forward";
    if (ragged) {
        s += gives_order ? " ordered lengths=" : " lengths=";
        for (int64_t b = 0; b < B; ++b) s += (b ? "," : "") + std::to_string(lengths[size_t(b)]);
    }
    for (int i = 0; i < D; ++i) {
        s += i ? "; null" : " null";
        for (int name = 0; name < names; ++name)
            if (!has[i][name] && exists(name)) s += std::string(" ") + labels[name];
        s += std::string(has_dy[i] ? "" : " dy") + (has_lines[i] ? "" : " lines");
    }
    s += has_dx ? "" : "; no dx";
    return s + (of_x.first_inside ? "; batch first" : "");
}

enum class Size { any, small, many_rows, many_steps, wide, widest };

inline Plan draw_plan(uint64_t seed, Size size = Size::any) {
    Random r(seed);
    Plan p{};
    p.seed = r.next();
    if (size == Size::any) {
        const int64_t of_a_hundred = r.from(1, 100);
        size = of_a_hundred <= 70 ? Size::small : of_a_hundred <= 80 ? Size::many_rows
             : of_a_hundred <= 90 ? Size::many_steps : of_a_hundred <= 97 ? Size::wide : Size::widest;
    }
    p.shape.cell = CellKind(r.from(0, 3));
    p.shape.activation = Activation(r.from(0, 3));
    p.G = p.shape.cell == CellKind::rnn ? 1 : p.lstm() ? 4 : 3;
    auto side = [&] {  // tiny, about a whole number of vectors, or any
        if (r.one_in(3)) return r.from(1, 5);
        return r.one_in(3) ? 8 * r.from(1, 4) + r.from(-1, 1) : r.from(1, 40);
    };
    p.T = r.one_in(12) ? 0 : r.from(1, 9), p.B = r.one_in(15) ? 0 : r.from(1, 16);
    p.shape.I = side(), p.shape.H = side();
    switch (size) {
        case Size::many_rows: p.T = r.from(1, 4), p.B = r.from(17, 120), p.shape.H = r.from(1, 20); break;
        case Size::many_steps:
            p.T = r.from(30, 220), p.B = r.from(1, 3), p.shape.I = r.from(1, 12), p.shape.H = r.from(1, 12);
            break;
        // Weights so large that the hidden units of a row are split, in double: see Split in lines.hpp.
        case Size::wide:
        case Size::widest:
            if (p.reset_before()) p.shape.cell = CellKind::gru;
            p.T = r.from(2, 4), p.B = r.from(1, 3), p.shape.I = r.from(1, 20);
            if (size == Size::widest) p.T = 2, p.B = r.from(8, 18);
            p.shape.H = r.from(0, 10) + (p.shape.cell == CellKind::rnn ? 314 : p.lstm() ? 157 : 182);
            break;
        default: break;
    }
    p.shape.P = p.shape.H;
    if (p.lstm() && p.shape.H > 1 && p.shape.H < 150 && r.one_in(3)) p.shape.P = r.from(1, p.shape.H - 1);
    p.D = int(r.from(1, 2));
    p.reverse[0] = r.one_in(3), p.reverse[1] = !r.one_in(4);
    p.ragged = r.one_in(2), p.gives_order = r.one_in(2);
    const bool straight = r.one_in(2);
    for (int64_t b = 0; p.ragged && b < p.B; ++b)
        p.lengths.push_back(r.one_in(6) ? 0 : r.one_in(4) ? p.T : r.from(0, p.T));
    p.order.resize(size_t(p.B));
    std::iota(p.order.begin(), p.order.end(), int64_t(0));
    for (size_t b = p.order.size(); b > 1; --b)
        std::swap(p.order[b - 1], p.order[size_t(r.from(0, int64_t(b) - 1))]);  // equal ones in any order
    if (p.ragged)
        std::stable_sort(p.order.begin(), p.order.end(),
                         [&](int64_t a, int64_t b) { return p.lengths[size_t(a)] > p.lengths[size_t(b)]; });
    const int64_t absent = r.one_in(3) ? 1000000 : r.from(2, 5);  // one in so many
    for (int i = 0; i < p.D; ++i) {
        for (int name = 0; name < names; ++name) {
            const bool needed = name == w_ih || name == w_hh || name == w_hr;
            p.has[i][name] = p.exists(name) && (needed || !r.one_in(absent));
        }
        p.has_dy[i] = !r.one_in(absent);
    }
    p.has_dx = !r.one_in(absent), p.backward = !r.one_in(10);
    for (bool& has : p.has_lines) has = p.backward || r.one_in(2);
    const bool relu = p.shape.cell == CellKind::rnn && p.shape.activation == Activation::relu;
    p.numbers = r.one_in(relu ? 3 : 12) ? Numbers::holed  // the one cell that asks how numbers compare
              : p.linear() ? (r.one_in(2) && size == Size::small ? Numbers::whole : Numbers::smooth)
              : r.one_in(4) ? Numbers::saturating : Numbers::smooth;
    if (p.numbers == Numbers::whole) p.T = std::min<int64_t>(p.T, 3);
    for (int64_t& length : p.lengths) length = std::min(length, p.T);
    p.silent = r.one_in(3) ? r.from(2, 12) : 1;
    if (p.numbers == Numbers::holed) p.silent = 1, p.has_dy[0] = p.has_dy[1] = true;  // 0 * NaN may be either
    auto layout = [&](bool batch_first) {
        return straight ? Layout{batch_first, r.from(0, 3), 0, 0}
                        : Layout{batch_first, r.from(0, 3), r.from(0, 5), r.from(0, 5)};
    };
    const bool batch_first = r.one_in(2);
    p.of_x = layout(batch_first), p.of_y = layout(batch_first);
    p.of_dy = layout(batch_first ^ r.one_in(4)), p.of_dx = layout(batch_first ^ r.one_in(4));
    p.of_tokens = layout(r.one_in(2)), p.table = r.one_in(4) ? r.from(1, 12) : 0;
    p.before = r.from(0, 3);
    return p;
}

// ---- The numbers of a case ---------------------------------------------------------------------

template <class T> struct Data {
    const Plan& plan;
    // x (T, B, I), or a table (1, rows, I) of which a step takes row tokens (T, B, 1); y (T, B, D * P).
    Tensor<T> x, dy, y, dx;
    Tensor<int64_t> tokens;
    Tensor<T> own[2][names];
    Tensor<T> gates[2];               // (T, B, sections * H); of the oracle alone

    // Laid out as the plan says, or `plainly`: contiguous, and everything is there.
    explicit Data(const Plan& p, bool plainly = false) : plan(p) {
        auto layout = [&](Layout l) { return plainly ? Layout{} : l; };
        const int64_t n = p.table ? 1 : p.T, m = p.table ? p.table : p.B;
        x = Tensor<T>(n, m, p.shape.I, layout(p.of_x)), dx = Tensor<T>(n, m, p.shape.I, layout(p.of_dx));
        if (p.table) tokens = Tensor<int64_t>(p.T, p.B, 1, layout(p.of_tokens));
        y = Tensor<T>(p.T, p.B, p.D * p.shape.P, layout(p.of_y));
        dy = Tensor<T>(p.T, p.B, p.D * p.shape.P, layout(p.of_dy));
        for (int i = 0; i < p.D; ++i)
            for (int name = 0; name < names; ++name)
                if (plainly || p.has[i][name])
                    own[i][name] =
                        Tensor<T>(1, p.rows(name), p.columns(name), layout({false, p.before, 0, 0}));
        for (int i = 0; plainly && i < p.D; ++i) gates[i] = Tensor<T>(p.T, p.B, p.sections() * p.shape.H);
    }

    // Where x, or its gradient, has step t of row b.
    T* x_row(Tensor<T>& of, int64_t t, int64_t b) {
        return plan.table ? of.row(0, tokens.row(t, b)[0]) : of.row(t, b);
    }

    // Draws what the core reads. Padding stays marked.
    Data& draw() {
        const Plan& p = plan;
        Random r(p.seed);
        const bool whole = p.numbers == Numbers::whole;
        auto real = [&](double scale) {
            if (whole) return T(r.one_in(2) ? 0 : r.from(-2, 2));
            return T(scale * r.real());
        };
        auto steps = [&](Tensor<T>& t, double scale) {
            t.each([&](int64_t step, int64_t b, int64_t, T& v) { if (step < p.length(b)) v = real(scale); });
        };
        if (p.table) {
            x.each([&](int64_t, int64_t, int64_t, T& v) { v = real(1.5); });
            tokens.each([&](int64_t, int64_t, int64_t, int64_t& v) { v = r.from(0, p.table - 1); });
        } else {
            steps(x, 1.5);
        }
        steps(dy, 1);
        for (int64_t t = 0; t < p.T; ++t)
            for (int64_t b = 0; b < p.B; ++b)
                if (t < p.length(b) && !r.one_in(p.silent)) std::fill_n(dy.row(t, b), dy.k, T(0));
        // Products that grow from step to step would leave nothing to compare.
        for (int i = 0; i < p.D; ++i)
            for (int name = 0; is_read(name); ++name) {
                const double scale = name == w_ih ? 1.5 / std::sqrt(double(p.shape.I))
                                   : name == w_hh ? (p.linear() ? 0.75 : 1.5) / std::sqrt(double(p.shape.P))
                                   : name == w_hr ? 1.5 / std::sqrt(double(p.shape.H))
                                   : name == b_ih || name == b_hh ? 0.5 : 1;
                // A large hn would enlarge what rounding leaves of the slope of a saturated n.
                const bool has_hn = name == b_hh && p.shape.cell == CellKind::gru;
                const int64_t free = (has_hn ? 2 : p.G) * p.shape.H;
                const bool saturates = p.numbers == Numbers::saturating && (name == b_ih || name == b_hh);
                own[i][name].each([&](int64_t, int64_t, int64_t l, T& v) {
                    v = real(scale);
                    if (saturates && l < free && r.one_in(5))
                        v = T((r.one_in(2) ? 1 : -1) * std::pow(10.0, double(r.from(0, 3))));
                });
            }
        if (p.numbers == Numbers::holed && p.T * p.B > 0) {
            const int64_t b = r.from(0, p.B - 1), n = p.length(b);
            const int64_t column = r.from(0, p.shape.I - 1);
            if (n > 0) x_row(x, r.from(0, n - 1), b)[column] = std::numeric_limits<T>::quiet_NaN();
        }
        return *this;
    }

    // Calls f(name, tensor of this, tensor of the other) for all that the core reads, or writes.
    template <class U, class F> void each(bool read, Data<U>& other, F&& f) {
        if (read) f("x", x, other.x), f("dy", dy, other.dy);
        else f("y", y, other.y), f("dx", dx, other.dx);
        for (int i = 0; i < plan.D; ++i)
            for (int name = 0; name < names; ++name)
                if (is_read(name) == read && plan.has[i][name])
                    f(labels[name] + std::to_string(i), own[i][name], other.own[i][name]);
    }
};

// The same numbers in another type, and zeros for tensors that are not given.
template <class R, class T> Data<R> widened(Data<T>& from) {
    const Plan& p = from.plan;
    Data<R> to(p, true);
    auto zeros = [](Tensor<R>& t) { t.each([](int64_t, int64_t, int64_t, R& v) { v = 0; }); };
    zeros(to.x), zeros(to.dy), zeros(to.y), zeros(to.dx);
    for (int i = 0; i < p.D; ++i)
        for (Tensor<R>& t : to.own[i]) zeros(t);
    from.each(true, to, [](const std::string&, Tensor<T>& a, Tensor<R>& b) {
        b.each([&](int64_t i, int64_t j, int64_t l, R& v) { v = R(a.row(i, j)[l]); });
    });
    to.tokens = from.tokens;
    for (int i = 0; i < p.D; ++i)
        to.dy.each([&](int64_t, int64_t, int64_t l, R& v) { if (!p.has_dy[i] && l / p.shape.P == i) v = 0; });
    return to;
}

}  // namespace check
}  // namespace ostinato
