// Checks the core without Python: against the equations of src/ostinato/recurrence/cells.py, written
// here once more in the plainest way, and against its own laws.
//
//   check [--cases N] [--seed S] [--first K]            cases K to K + N - 1 that the seed gives
//   check --threads [--cases N] [--seed S]              many callers at once, and forks in between
//
// Status 0 where all is well; 1 where something is not, 3 where a call does not return: the case is
// printed then, and `--seed S --first K --cases 1` repeats it. All that the core may not read or write
// is marked with bytes of 0xff, which are NaN to whoever reads them. The table of checks is at the end.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "core.hpp"
#include "target.hpp"

#if defined(__SANITIZE_ADDRESS__)
constexpr bool address_sanitizer = true;
#else
constexpr bool address_sanitizer = false;
#endif
#if defined(__SANITIZE_THREAD__)
constexpr bool thread_sanitizer = true;
#else
constexpr bool thread_sanitizer = false;
#endif

namespace ostinato {
#if defined(__x86_64__)
namespace x86_64_v4 { extern const Target target; }
namespace x86_64_v3 { extern const Target target; }
namespace x86_64 { extern const Target target; }
#else
namespace generic { extern const Target target; }
#endif
}  // namespace ostinato

namespace {

using namespace ostinato;

constexpr unsigned patience = address_sanitizer || thread_sanitizer ? 300 : 60;  // seconds for a case
constexpr int most_threads = 4;

struct Failure {
    std::string what;
};

[[noreturn]] void fail(const std::string& what) { throw Failure{what}; }

char current[4096];  // what is being checked

void does_not_return(int) {
    const char text[] = "\ndoes not return: ";
    bool written = write(2, text, sizeof text - 1) >= 0 && write(2, current, std::strlen(current)) >= 0;
    _exit(written ? 3 : 4);
}

void now(const std::string& what) {
    std::snprintf(current, sizeof current, "%s\n", what.c_str());
    alarm(patience);
}

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

// How (n, m, k) numbers lie: which of the first two axes is the inner one, and what is left out.
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
        return !std::all_of(bytes, bytes + memory_.size() * sizeof(T), [](unsigned char b) { return b == 0xff; });
    }
    bool unchanged_since(const Tensor& before) const {
        return !std::memcmp(memory_.data(), before.memory_.data(), memory_.size() * sizeof(T));
    }

private:
    std::vector<T> memory_;
    int64_t begin_ = 0;
};

// The same bits; what is not a number has no bits worth keeping.
template <class T> bool same(T a, T b) { return !std::memcmp(&a, &b, sizeof a) || (a != a && b != b); }

// ---- A case: what is drawn ---------------------------------------------------------------------

// What belongs to one direction: first what the core reads, then what it writes.
enum Name {
    w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, dh_n, dc_n,
    h_n, c_n, dw_ih, dw_hh, db_ih, db_hh, dw_hr, dh0, dc0, names
};
const char* const labels[] = {"w_ih", "w_hh", "b_ih",  "b_hh",  "w_hr",  "h0",    "c0",    "dh_n", "dc_n",
                              "h_n",  "c_n",  "dw_ih", "dw_hh", "db_ih", "db_hh", "dw_hr", "dh0",  "dc0"};
bool is_read(int name) { return name < h_n; }

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
    std::vector<int64_t> lengths, order;  // of the rows; by falling length
    Numbers numbers;
    bool has[2][names], has_dy[2], has_dx, backward;
    bool has_lines;
    Layout of_x, of_y, of_dy, of_dx;
    int64_t before;  // numbers before whatever is contiguous

    bool lstm() const { return shape.cell == CellKind::lstm; }
    bool reset_before() const { return shape.cell == CellKind::gru_reset_before; }
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
    // Sections of a line that gate_at() can find: gates, and then c or hn.
    int sections() const { return G + (lstm() || shape.cell == CellKind::gru ? 1 : 0); }
    std::string text() const;
};

std::string Plan::text() const {
    const char* const cells[] = {"rnn", "lstm", "gru", "gru_reset_before"};
    const char* const activations[] = {"tanh", "relu", "sigmoid", "identity"};
    std::string s = cells[int(shape.cell)];
    auto add = [&](const char* name, int64_t value) { s += std::string(" ") + name + "=" + std::to_string(value); };
    if (shape.cell == CellKind::rnn) s += std::string(" ") + activations[int(shape.activation)];
    s += std::string(" ") + number_labels[int(numbers)];
    add("T", T), add("B", B), add("I", shape.I), add("H", shape.H);
    if (shape.projects()) add("P", shape.P);
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
        s += has_dy[i] ? "" : " dy";
    }
    s += has_dx ? "" : "; no dx";
    s += has_lines ? "" : "; no lines";
    return s + (of_x.first_inside ? "; batch first" : "");
}

enum class Size { any, small, many_rows, many_steps, wide, widest };

Plan draw_plan(uint64_t seed, Size size = Size::any) {
    Random r(seed);
    Plan p{};
    p.seed = r.next();
    if (size == Size::any) {
        const int64_t of_a_hundred = r.from(1, 100);
        size = of_a_hundred <= 70 ? Size::small : of_a_hundred <= 80 ? Size::many_rows
             : of_a_hundred <= 90 ? Size::many_steps : of_a_hundred <= 98 ? Size::wide : Size::widest;
    }
    p.shape.cell = CellKind(r.from(0, 3));
    if (size == Size::widest) p.shape.cell = r.one_in(2) ? CellKind::lstm : CellKind::gru;
    p.shape.activation = Activation(r.from(0, 3));
    p.G = p.shape.cell == CellKind::rnn ? 1 : p.lstm() ? 4 : 3;
    auto side = [&] { return r.one_in(3) ? r.from(1, 5) : r.one_in(3) ? 8 * r.from(1, 4) + r.from(-1, 1) : r.from(1, 40); };
    p.T = r.one_in(12) ? 0 : r.from(1, 9), p.B = r.one_in(15) ? 0 : r.from(1, 16);
    p.shape.I = side(), p.shape.H = side();
    switch (size) {
        case Size::many_rows: p.T = r.from(1, 4), p.B = r.from(17, 120), p.shape.H = r.from(1, 20); break;
        case Size::many_steps:
            p.T = r.from(30, 220), p.B = r.from(1, 3), p.shape.I = r.from(1, 12), p.shape.H = r.from(1, 12);
            break;
        // Weights so large that the hidden units of a row are split: see Split in lines.hpp.
        case Size::wide:
            p.T = r.from(1, 5), p.B = r.from(1, 4);
            p.shape.H = p.shape.cell == CellKind::rnn ? r.from(128, 170) : r.from(64, 100);
            break;
        case Size::widest:  // in double
            p.T = r.from(2, 3), p.B = r.from(8, 18), p.shape.I = r.from(1, 8);
            p.shape.H = p.lstm() ? r.from(182, 200) : r.from(210, 220);
            break;
        default: break;
    }
    p.shape.P = p.shape.H;
    if (p.lstm() && p.shape.H > 1 && size != Size::widest && r.one_in(3)) p.shape.P = r.from(1, p.shape.H - 1);
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
    p.has_lines = p.backward || r.one_in(2);
    const bool linear = p.shape.cell == CellKind::rnn &&
                        (p.shape.activation == Activation::relu || p.shape.activation == Activation::identity);
    p.numbers = r.one_in(12) ? Numbers::holed
              : linear ? (r.one_in(2) && size == Size::small ? Numbers::whole : Numbers::smooth)
              : r.one_in(4) ? Numbers::saturating : Numbers::smooth;
    if (p.numbers == Numbers::whole) p.T = std::min<int64_t>(p.T, 3);
    for (int64_t& length : p.lengths) length = std::min(length, p.T);
    auto layout = [&](bool batch_first) {
        return straight ? Layout{batch_first, r.from(0, 3), 0, 0}
                        : Layout{batch_first, r.from(0, 3), r.from(0, 5), r.from(0, 5)};
    };
    const bool batch_first = r.one_in(2);
    p.of_x = layout(batch_first), p.of_y = layout(batch_first);
    p.of_dy = layout(batch_first ^ r.one_in(4)), p.of_dx = layout(batch_first ^ r.one_in(4));
    p.before = r.from(0, 3);
    return p;
}

// ---- The numbers of a case ---------------------------------------------------------------------

template <class T> struct Data {
    const Plan& plan;
    Tensor<T> x, dy, y, dx;           // (T, B, I) or, both directions beside each other, (T, B, D * P)
    Tensor<T> own[2][names];
    Tensor<T> gates[2];               // (T, B, sections * H); of the oracle alone

    // Laid out as the plan says, or `plainly`: contiguous, and everything is there.
    explicit Data(const Plan& p, bool plainly = false) : plan(p) {
        auto layout = [&](Layout l) { return plainly ? Layout{} : l; };
        x = Tensor<T>(p.T, p.B, p.shape.I, layout(p.of_x)), dx = Tensor<T>(p.T, p.B, p.shape.I, layout(p.of_dx));
        y = Tensor<T>(p.T, p.B, p.D * p.shape.P, layout(p.of_y));
        dy = Tensor<T>(p.T, p.B, p.D * p.shape.P, layout(p.of_dy));
        for (int i = 0; i < p.D; ++i)
            for (int name = 0; name < names; ++name)
                if (plainly || p.has[i][name])
                    own[i][name] = Tensor<T>(1, p.rows(name), p.columns(name), layout({false, p.before, 0, 0}));
        for (int i = 0; plainly && i < p.D; ++i) gates[i] = Tensor<T>(p.T, p.B, p.sections() * p.shape.H);
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
        steps(x, 1.5), steps(dy, 1);
        // Products that grow from step to step would leave nothing to compare.
        const bool linear = p.shape.cell == CellKind::rnn && (p.shape.activation == Activation::relu ||
                                                              p.shape.activation == Activation::identity);
        for (int i = 0; i < p.D; ++i)
            for (int name = 0; is_read(name); ++name) {
                const double scale = name == w_ih ? 1.5 / std::sqrt(double(p.shape.I))
                                   : name == w_hh ? (linear ? 0.75 : 1.5) / std::sqrt(double(p.shape.P))
                                   : name == w_hr ? 1.5 / std::sqrt(double(p.shape.H))
                                   : name == b_ih || name == b_hh ? 0.5 : 1;
                // A large hn would enlarge what rounding leaves of the slope of a saturated n.
                const int64_t free = name == b_hh && p.shape.cell == CellKind::gru ? 2 * p.shape.H : p.G * p.shape.H;
                const bool saturates = p.numbers == Numbers::saturating && (name == b_ih || name == b_hh);
                own[i][name].each([&](int64_t, int64_t, int64_t l, T& v) {
                    v = real(scale);
                    if (saturates && l < free && r.one_in(5))
                        v = T((r.one_in(2) ? 1 : -1) * std::pow(10.0, double(r.from(0, 3))));
                });
            }
        if (p.numbers == Numbers::holed && p.T * p.B > 0) {
            const int64_t b = r.from(0, p.B - 1), n = p.length(b);
            if (n > 0) x.row(r.from(0, n - 1), b)[r.from(0, p.shape.I - 1)] = std::numeric_limits<T>::quiet_NaN();
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

// The same numbers in another type, and zeros for what is not given.
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
    for (int i = 0; i < p.D; ++i)
        to.dy.each([&](int64_t, int64_t, int64_t l, R& v) { if (!p.has_dy[i] && l / p.shape.P == i) v = 0; });
    return to;
}

// ---- The oracle --------------------------------------------------------------------------------

template <class R> R logistic(R a) { return 1 / (1 + std::exp(-a)); }
template <class R> R logistic_slope(R a) {
    const R c = std::cosh(a / 2);
    return 1 / (4 * c * c);
}
template <class R> R tanh_slope(R a) {
    const R c = std::cosh(a);
    return 1 / (c * c);
}

// The equations: one gate of one unit of one row at a time, and what the chain rule makes of them, in
// terms of what went into each activation. Fills in all that the core writes.
template <class R> class Oracle {
public:
    explicit Oracle(Data<R>& data) : d(data), p(data.plan), I(p.shape.I), H(p.shape.H), P(p.shape.P) {}

    void run(bool backward = true) {
        for (int i = 0; i < p.D; ++i)
            for (int64_t b = 0; b < p.B; ++b) {
                forward(i, b);
                if (backward) this->backward(i, b);
            }
    }
    // The argument of a relu that is closest to its kink, and not on it.
    R closest = 1;

private:
    typedef std::vector<R> Vector;
    struct Step {
        int64_t t;
        Vector h_before, c_before;
        Vector of_x, of_h;  // W_ih x + b_ih and W_hh h + b_hh, gate by gate
        Vector fed;         // r * h, of a reset before the product
        Vector c, out;      // out = o * tanh(c)
    };
    Data<R>& d;
    const Plan& p;
    const int64_t I, H, P;
    std::vector<Step> steps;

    R& own(int i, Name name, int64_t row, int64_t column) { return d.own[i][name].row(0, row)[column]; }
    R times(const R* a, const R* b, int64_t n) {
        R sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += a[j] * b[j];
        return sum;
    }
    R apply(R a) {
        switch (p.shape.activation) {
            case Activation::tanh: return std::tanh(a);
            case Activation::relu:
                if (a != 0 && std::abs(a) < closest) closest = std::abs(a);
                return a < 0 ? 0 : a;
            case Activation::sigmoid: return logistic(a);
            default: return a;
        }
    }
    R slope(R a) {
        switch (p.shape.activation) {
            case Activation::tanh: return tanh_slope(a);
            case Activation::relu: return a <= 0 ? 0 : 1;
            case Activation::sigmoid: return logistic_slope(a);
            default: return 1;
        }
    }

    void forward(int i, int64_t b) {
        const int64_t n = p.length(b);
        Vector h(d.own[i][h0].row(0, b), d.own[i][h0].row(0, b) + P), c(size_t(H), 0);
        if (p.lstm()) c.assign(d.own[i][c0].row(0, b), d.own[i][c0].row(0, b) + H);
        steps.clear();
        for (int64_t s = 0; s < n; ++s) {
            Step e{p.reverse[i] ? n - 1 - s : s, h, c, Vector(size_t(p.G * H)), Vector(size_t(p.G * H)),
                   Vector(size_t(H)), Vector(size_t(H)), Vector(size_t(H))};
            auto recur = [&](int64_t gate_unit, const Vector& what) {
                return own(i, b_hh, 0, gate_unit) + times(d.own[i][w_hh].row(0, gate_unit), what.data(), P);
            };
            for (int64_t k = 0; k < p.G * H; ++k) {
                e.of_x[size_t(k)] =
                    own(i, b_ih, 0, k) + times(d.own[i][w_ih].row(0, k), d.x.row(e.t, b), I);
                e.of_h[size_t(k)] = recur(k, h);
            }
            R* gates = d.gates[i].row(e.t, b);
            for (int64_t u = 0; u < H; ++u) {
                auto a = [&](int64_t gate) { return e.of_x[size_t(gate * H + u)] + e.of_h[size_t(gate * H + u)]; };
                auto keep = [&](int64_t section, R value) { return gates[section * H + u] = value; };
                switch (p.shape.cell) {
                    case CellKind::rnn: h[size_t(u)] = keep(0, apply(a(0))); break;
                    case CellKind::lstm: {
                        const R in = keep(0, logistic(a(0))), forget = keep(1, logistic(a(1)));
                        const R candidate = keep(2, std::tanh(a(2))), open = keep(3, logistic(a(3)));
                        c[size_t(u)] = keep(4, forget * c[size_t(u)] + in * candidate);
                        e.out[size_t(u)] = open * std::tanh(c[size_t(u)]);
                        if (P == H) h[size_t(u)] = e.out[size_t(u)];
                        break;
                    }
                    case CellKind::gru: {
                        const R reset = keep(0, logistic(a(0))), update = keep(1, logistic(a(1)));
                        const R hn = keep(3, e.of_h[size_t(2 * H + u)]);
                        const R candidate = keep(2, std::tanh(e.of_x[size_t(2 * H + u)] + reset * hn));
                        h[size_t(u)] = (1 - update) * candidate + update * h[size_t(u)];
                        break;
                    }
                    case CellKind::gru_reset_before:
                        e.fed[size_t(u)] = keep(0, logistic(a(0))) * h[size_t(u)];
                        keep(1, logistic(a(1)));
                }
            }
            for (int64_t u = 0; p.reset_before() && u < H; ++u) {
                const size_t k = size_t(2 * H + u);
                e.of_h[k] = recur(2 * H + u, e.fed);
                gates[2 * H + u] = std::tanh(e.of_x[k] + e.of_h[k]);
                h[size_t(u)] = (1 - gates[H + u]) * gates[2 * H + u] + gates[H + u] * h[size_t(u)];
            }
            for (int64_t q = 0; P != H && q < P; ++q)
                h[size_t(q)] = times(d.own[i][w_hr].row(0, q), e.out.data(), H);
            e.c = c;
            std::copy(h.begin(), h.end(), d.y.row(e.t, b) + i * P);
            steps.push_back(e);
        }
        std::copy(h.begin(), h.end(), d.own[i][h_n].row(0, b));
        if (p.lstm()) std::copy(c.begin(), c.end(), d.own[i][c_n].row(0, b));
    }

    void backward(int i, int64_t b) {
        Vector dh(d.own[i][dh_n].row(0, b), d.own[i][dh_n].row(0, b) + P), dc(size_t(H), 0);
        if (p.lstm()) dc.assign(d.own[i][dc_n].row(0, b), d.own[i][dc_n].row(0, b) + H);
        for (; !steps.empty(); steps.pop_back()) {
            const Step& e = steps.back();
            for (int64_t q = 0; q < P; ++q) dh[size_t(q)] += d.dy.row(e.t, b)[i * P + q];
            Vector dout = dh, dh_before(size_t(P), 0), d_of_x(size_t(p.G * H)), d_of_h(size_t(p.G * H));
            if (P != H) {
                dout.assign(size_t(H), 0);
                for (int64_t q = 0; q < P; ++q)
                    for (int64_t u = 0; u < H; ++u) {
                        dout[size_t(u)] += own(i, w_hr, q, u) * dh[size_t(q)];
                        own(i, dw_hr, q, u) += e.out[size_t(u)] * dh[size_t(q)];
                    }
            }
            for (int64_t u = 0; u < H; ++u) {
                auto index = [&](int64_t gate) { return size_t(gate * H + u); };
                auto a = [&](int64_t gate) { return e.of_x[index(gate)] + e.of_h[index(gate)]; };
                auto gives = [&](int64_t gate, R da) { d_of_x[index(gate)] = d_of_h[index(gate)] = da; };
                const R g = dout[size_t(u)];
                switch (p.shape.cell) {
                    case CellKind::rnn: gives(0, g * slope(a(0))); break;
                    case CellKind::lstm: {
                        R& dcu = dc[size_t(u)];
                        const R cu = e.c[size_t(u)];
                        gives(3, g * std::tanh(cu) * logistic_slope(a(3)));
                        dcu += g * logistic(a(3)) * tanh_slope(cu);
                        gives(0, dcu * std::tanh(a(2)) * logistic_slope(a(0)));
                        gives(1, dcu * e.c_before[size_t(u)] * logistic_slope(a(1)));
                        gives(2, dcu * logistic(a(0)) * tanh_slope(a(2)));
                        dcu *= logistic(a(1));
                        break;
                    }
                    case CellKind::gru:
                    case CellKind::gru_reset_before: {
                        const bool after = p.shape.cell == CellKind::gru;
                        const R reset = logistic(a(0)), update = logistic(a(1)), before = e.h_before[size_t(u)];
                        const R into_n = e.of_x[index(2)] + (after ? reset : 1) * e.of_h[index(2)];
                        const R dn = g * (1 - update) * tanh_slope(into_n);
                        gives(1, g * (before - std::tanh(into_n)) * logistic_slope(a(1)));
                        gives(2, dn);
                        dh_before[size_t(u)] += g * update;
                        if (!after) break;
                        d_of_h[index(2)] = dn * reset;
                        gives(0, dn * e.of_h[index(2)] * logistic_slope(a(0)));
                    }
                }
            }
            for (int64_t u = 0; p.reset_before() && u < H; ++u) {
                R dfed = 0;
                for (int64_t k = 0; k < H; ++k) dfed += own(i, w_hh, 2 * H + k, u) * d_of_h[size_t(2 * H + k)];
                const R a = e.of_x[size_t(u)] + e.of_h[size_t(u)];
                dh_before[size_t(u)] += dfed * logistic(a);
                d_of_x[size_t(u)] = d_of_h[size_t(u)] = dfed * e.h_before[size_t(u)] * logistic_slope(a);
            }
            for (int64_t k = 0; k < p.G * H; ++k) {
                const bool through_reset = p.reset_before() && k >= 2 * H;
                const Vector& fed = through_reset ? e.fed : e.h_before;
                const R da_x = d_of_x[size_t(k)], da_h = d_of_h[size_t(k)];
                own(i, db_ih, 0, k) += da_x, own(i, db_hh, 0, k) += da_h;
                const R *x = d.x.row(e.t, b), *w_x = d.own[i][w_ih].row(0, k), *w_h = d.own[i][w_hh].row(0, k);
                R *dx = d.dx.row(e.t, b), *dw_x = d.own[i][dw_ih].row(0, k), *dw_h = d.own[i][dw_hh].row(0, k);
                for (int64_t j = 0; j < I; ++j) dw_x[j] += da_x * x[j], dx[j] += da_x * w_x[j];
                for (int64_t q = 0; q < P; ++q) {
                    dw_h[q] += da_h * fed[size_t(q)];
                    if (!through_reset) dh_before[size_t(q)] += da_h * w_h[q];
                }
            }
            dh = dh_before;
        }
        std::copy(dh.begin(), dh.end(), d.own[i][dh0].row(0, b));
        if (p.lstm()) std::copy(dc.begin(), dc.end(), d.own[i][dc0].row(0, b));
    }
};

// The oracle's gradients are the slope of its outputs, along a direction drawn at random.
void check_oracle(uint64_t seed, int64_t, int64_t) {
    typedef long double R;
    for (uint64_t k = 0; k < 24; ++k) {
        Plan p = draw_plan(seed + k, Size::small);
        p.shape.cell = CellKind(k % 4), p.shape.activation = Activation(k / 4 % 4);
        p.G = p.shape.cell == CellKind::rnn ? 1 : p.lstm() ? 4 : 3;
        p.numbers = Numbers::smooth;
        p.shape.P = p.lstm() && p.shape.H > 1 && k / 4 % 2 ? p.shape.H - 1 : p.shape.H;
        for (int i = 0; i < p.D; ++i)
            for (int name = 0; name < names; ++name) p.has[i][name] = p.exists(name);
        now("the oracle's gradients: " + p.text());
        Data<R> drawn(p);
        drawn.draw();
        Data<R> middle = widened<R>(drawn), up = middle, down = middle;
        for (Tensor<R>* t : {&middle.x, &up.x, &down.x, &middle.dy, &up.dy, &down.dy})
            t->each([&](int64_t step, int64_t b, int64_t, R& v) { if (step >= p.length(b)) v = 0; });
        Oracle<R>(middle).run();
        Random r(p.seed);
        const R epsilon = 1e-5L;
        R expected = 0, found = 0, size = 1;
        auto vary = [&](Tensor<R>& up, Tensor<R>& down, Tensor<R>& gradient) {
            up.each([&](int64_t i, int64_t j, int64_t l, R& v) {
                const R along = R(r.real());
                v += epsilon * along, down.row(i, j)[l] -= epsilon * along;
                expected += gradient.row(i, j)[l] * along, size += std::abs(gradient.row(i, j)[l] * along);
            });
        };
        vary(up.x, down.x, middle.dx);
        const Name pairs[][2] = {{w_ih, dw_ih}, {w_hh, dw_hh}, {b_ih, db_ih}, {b_hh, db_hh},
                                 {w_hr, dw_hr}, {h0, dh0},     {c0, dc0}};
        for (int i = 0; i < p.D; ++i)
            for (auto [name, gradient] : pairs)
                if (p.exists(name)) vary(up.own[i][name], down.own[i][name], middle.own[i][gradient]);
        Oracle<R>(up).run(false), Oracle<R>(down).run(false);
        auto gather = [&](Tensor<R>& up, Tensor<R>& down, Tensor<R>& weight) {
            up.each([&](int64_t i, int64_t j, int64_t l, R& v) {
                found += (v - down.row(i, j)[l]) / (2 * epsilon) * weight.row(i, j)[l];
            });
        };
        gather(up.y, down.y, middle.dy);
        for (int i = 0; i < p.D; ++i) {
            gather(up.own[i][h_n], down.own[i][h_n], middle.own[i][dh_n]);
            if (p.lstm()) gather(up.own[i][c_n], down.own[i][c_n], middle.own[i][dc_n]);
        }
        if (!(std::abs(found - expected) <= 1e-8L * size))
            fail("the oracle's gradient is " + std::to_string(expected) + ", its slope " + std::to_string(found));
    }
}

// ---- The core at work --------------------------------------------------------------------------

const Target& target() {
#if defined(__x86_64__)
    const Target* const all[] = {&x86_64_v4::target, &x86_64_v3::target, &x86_64::target};
#else
    const Target* const all[] = {&generic::target};
#endif
    for (const Target* each : all)
        if (!std::strcmp(each->name, instruction_set())) return *each;
    fail("no such instruction set");
}

// Through core.hpp, which takes fewer threads for little work; or directly what it calls, on just so
// many and in memory of ours.
struct How {
    int threads;
    bool direct;
    std::string text() const { return std::to_string(threads) + (direct ? " threads, direct" : " threads"); }
};

How draw_how(Random& r) { return {int(r.from(1, most_threads)), !r.one_in(3)}; }

template <class T> void pass(const Sequence<T>& s, const Gradients<T>* g, How how) {
    if (!how.direct) return g ? backward(s, *g, how.threads) : forward(s, how.threads);
    struct Context {
        const Passes<T>& passes;
        const Sequence<T>& s;
        const Gradients<T>* g;
        Tensor<char> memory;
    } context{passes<T>(target()), s, g, {}};
    auto need = [&](int threads) {
        return g ? context.passes.backward_memory(s, *g, threads) : context.passes.forward_memory(s, threads);
    };
    context.memory = Tensor<char>(1, 1, std::max(need(1), need(how.threads)), {}, true);
    parallel(how.threads, [](const Member& me, void* context) {
        Context& c = *static_cast<Context*>(context);
        if (c.g) c.passes.backward(c.s, *c.g, c.memory.data(), me);
        else c.passes.forward(c.s, c.memory.data(), me);
    }, &context);
    if (context.memory.written_outside()) fail("a pass leaves the memory that it asked for");
}

template <class T> Sequence<T> sequence_of(Data<T>& d, Tensor<T> (&lines)[2], bool order) {
    const Plan& p = d.plan;
    Sequence<T> s{};
    s.shape = p.shape, s.steps = p.T, s.rows = p.B, s.directions = p.D;
    s.x = d.x.data(), s.x_t = d.x.stride_n, s.x_b = d.x.stride_m;
    s.y_t = d.y.stride_n, s.y_b = d.y.stride_m;
    s.lengths = p.ragged ? p.lengths.data() : nullptr;
    s.order = p.ragged && order ? p.order.data() : nullptr;
    for (int i = 0; i < p.D; ++i) {
        auto at = [&](Name name) { return p.has[i][name] ? d.own[i][name].data() : nullptr; };
        if (p.has_lines) lines[i] = Tensor<T>(p.T, p.B, line_length<T>(p.shape), {}, true);
        s.direction[i] = {{at(w_ih), at(w_hh), at(b_ih), at(b_hh), at(w_hr)}, p.reverse[i], at(h0), at(c0),
                          d.y.data() + i * p.shape.P, at(h_n), at(c_n), p.has_lines ? lines[i].data() : nullptr};
    }
    return s;
}

template <class T> Gradients<T> gradients_of(Data<T>& d) {
    const Plan& p = d.plan;
    Gradients<T> g{};
    g.dx = p.has_dx ? d.dx.data() : nullptr, g.dx_t = d.dx.stride_n, g.dx_b = d.dx.stride_m;
    g.dy_t = d.dy.stride_n, g.dy_b = d.dy.stride_m;
    for (int i = 0; i < p.D; ++i) {
        auto at = [&](Name name) { return p.has[i][name] ? d.own[i][name].data() : nullptr; };
        g.direction[i] = {p.has_dy[i] ? d.dy.data() + i * p.shape.P : nullptr, at(dh_n), at(dc_n), at(dw_ih),
                          at(dw_hh), at(db_ih), at(db_hh), at(dw_hr), at(dh0), at(dc0)};
    }
    return g;
}

// Nothing that is only read has changed, and nothing was written beside what is to be.
template <class T> void check_memory(Data<T>& d, Data<T>& given) {
    d.each(true, given, [](const std::string& name, Tensor<T>& t, Tensor<T>& before) {
        if (!t.unchanged_since(before)) fail(name + " is changed");
    });
    d.each(false, given, [](const std::string& name, Tensor<T>& t, Tensor<T>&) {
        if (t.written_outside()) fail("something is written beside " + name);
    });
}

// Runs the plan on what is given; after(data, lines) is called between the passes.
template <class T, class After> Data<T> execute(Data<T>& given, How how, After&& after) {
    const Plan& p = given.plan;
    Data<T> d = given;
    Tensor<T> lines[2];
    const Sequence<T> s = sequence_of(d, lines, how.direct || p.gives_order);
    pass(s, static_cast<Gradients<T>*>(nullptr), how);
    check_memory(d, given);
    after(d, lines);
    if (!p.backward) return d;
    const Gradients<T> g = gradients_of(d);
    const Data<T> halfway = d;
    pass(s, &g, how);
    check_memory(d, given);
    for (int i = 0; i < p.D; ++i) {
        if (lines[i].written_outside()) fail("something is written beside the lines");
        for (Name name : {h_n, c_n})
            if (p.has[i][name] && !d.own[i][name].unchanged_since(halfway.own[i][name])) fail("backward changes h_n");
    }
    if (!d.y.unchanged_since(halfway.y)) fail("backward changes y");
    if (!p.has_dx && !d.dx.unchanged_since(given.dx)) fail("dx is not asked for");
    return d;
}
template <class T> Data<T> execute(Data<T>& given, How how) {
    return execute(given, how, [](Data<T>&, Tensor<T>(&)[2]) {});
}

double worst = 0;  // error, in tolerances

// As close as the type allows, in relation to the largest number of the tensor; and NaN where NaN is.
template <class T, class R> void check_close(const std::string& name, Tensor<T>& got, Tensor<R>& wanted) {
    const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;
    R scale = 0.1;  // what comes in is about 1: far below, rounding is all there is
    wanted.each([&](int64_t, int64_t, int64_t, R& v) { if (std::abs(v) > scale) scale = std::abs(v); });
    wanted.each([&](int64_t i, int64_t j, int64_t l, R& v) {
        const T x = got.row(i, j)[l];
        const double error = double(std::abs(R(x) - v) / scale) / tolerance;
        if (error > worst) worst = error;
        if (v != v ? x != x : error <= 1) return;
        char text[200];
        std::snprintf(text, sizeof text, "%s at (%d, %d, %d) is %.17g, expected %.17g", name.c_str(), int(i), int(j),
                      int(l), double(x), double(v));
        fail(text);
    });
}

template <class T> void check_padding(const std::string& name, Tensor<T>& got, const Plan& p) {
    got.each([&](int64_t t, int64_t b, int64_t, T& v) {
        if (t >= p.length(b) && !(v == 0)) fail("padding of " + name + " is not zero");
    });
}

template <class T, class R> void check_gates(Tensor<T> (&lines)[2], Data<R>& expected) {
    const Plan& p = expected.plan;
    for (int i = 0; p.has_lines && i < p.D; ++i) {
        Tensor<T> gates(p.T, p.B, p.sections() * p.shape.H);
        gates.each([&](int64_t t, int64_t b, int64_t l, T& v) {
            const int section = int(l / p.shape.H);
            if (t >= p.length(b)) expected.gates[i].row(t, b)[l] = v = 0;
            else v = lines[i].row(t, b)[gate_at<T>(p.shape, section) + l % p.shape.H];
        });
        check_close("gates" + std::to_string(i), gates, expected.gates[i]);
    }
}

// Threads: whatever their number, the same bits.
template <class T> void check_same(Data<T>& one, Data<T>& other, const std::string& law) {
    one.each(false, other, [&](const std::string& name, Tensor<T>& a, Tensor<T>& b) {
        a.each([&](int64_t i, int64_t j, int64_t l, T& v) {
            if (!same(v, b.row(i, j)[l])) fail(law + ": " + name + " has other bits");
        });
    });
}

// Chunks: a sequence cut into pieces gives the same outputs and final states as the whole.
template <class T> void check_chunks(Data<T>& given, Data<T>& whole, Random& r) {
    const Plan& p = given.plan;
    const int64_t P = p.shape.P, H = p.shape.H;
    std::vector<int64_t> cuts{0};
    for (const int64_t most = r.from(1, 4); cuts.back() < p.T;)
        cuts.push_back(std::min(p.T, cuts.back() + r.from(p.T > 20 ? 13 : 1, p.T > 20 ? 60 : most)));
    for (int i = 0; i < p.D; ++i) {
        Data<T> d = given;
        Tensor<T> lines[2];
        Sequence<T> s = sequence_of(d, lines, false);
        std::vector<T> h[2], c[2];
        for (int side = 0; side < 2; ++side) h[side].resize(size_t(p.B * P + 1)), c[side].resize(size_t(p.B * H + 1));
        std::vector<int64_t> lengths(size_t(p.B + 1));
        s.directions = 1, s.direction[0] = s.direction[i];
        Direction<T>& to = s.direction[0];
        T* const y = to.y;
        const T* const x = s.x;
        const size_t pieces = cuts.size() - 1;
        for (size_t k = 0; k < pieces; ++k) {
            const size_t piece = p.reverse[i] ? pieces - 1 - k : k;
            const int64_t begin = cuts[piece], n = cuts[piece + 1] - begin;
            for (int64_t b = 0; b < p.B; ++b)
                lengths[size_t(b)] = std::min(std::max<int64_t>(p.length(b) - begin, 0), n);
            s.steps = n, s.x = x + begin * s.x_t, to.y = y + begin * s.y_t;
            s.lengths = p.ragged ? lengths.data() : nullptr, s.order = nullptr;
            to.h_n = h[k % 2].data(), to.c_n = p.lstm() ? c[k % 2].data() : nullptr;
            pass(s, static_cast<Gradients<T>*>(nullptr), {int(r.from(1, most_threads)), false});
            to.h0 = to.h_n, to.c0 = to.c_n;
        }
        if (!pieces) continue;
        d.y.each([&](int64_t t, int64_t b, int64_t l, T& v) {
            if (l / P == i && !same(v, whole.y.row(t, b)[l])) fail("in chunks: y has other bits");
        });
        for (Name name : {h_n, c_n})
            if (p.has[i][name])
                whole.own[i][name].each([&](int64_t, int64_t b, int64_t l, T& v) {
                    if (!same(v, name == h_n ? to.h_n[b * P + l] : to.c_n[b * H + l]))
                        fail(std::string("in chunks: ") + labels[name] + " has other bits");
                });
    }
}

// Rows: one alone gives what it gives among others.
template <class T> void check_row(Data<T>& given, Data<T>& whole, Random& r) {
    const Plan& p = given.plan;
    if (p.B == 0) return;
    const int64_t b = r.from(0, p.B - 1);
    Data<T> d = given;
    Tensor<T> lines[2];
    Sequence<T> s = sequence_of(d, lines, false);
    Gradients<T> g = gradients_of(d);
    const int64_t only = 0;
    s.rows = 1, s.x += b * s.x_b, s.lengths += s.lengths ? b : 0, s.order = s.lengths ? &only : nullptr;
    g.dx += g.dx ? b * g.dx_b : 0;
    auto move = [](auto*& pointer, int64_t by) { if (pointer) pointer += by; };
    for (int i = 0; i < p.D; ++i) {
        Direction<T>& to = s.direction[i];
        DirectionGradients<T>& dto = g.direction[i];
        move(to.h0, b * p.shape.P), move(to.h_n, b * p.shape.P), move(to.y, b * s.y_b);
        move(to.c0, b * p.shape.H), move(to.c_n, b * p.shape.H);
        move(dto.dh_n, b * p.shape.P), move(dto.dh0, b * p.shape.P), move(dto.dy, b * g.dy_b);
        move(dto.dc_n, b * p.shape.H), move(dto.dc0, b * p.shape.H);
        dto.dw_ih = dto.dw_hh = dto.db_ih = dto.db_hh = dto.dw_hr = nullptr;
    }
    const How how = draw_how(r);
    pass(s, static_cast<Gradients<T>*>(nullptr), how);
    if (p.backward) pass(s, &g, how);
    auto compare = [&](const std::string& name, Tensor<T>& a, Tensor<T>& one, bool weights) {
        a.each([&](int64_t i, int64_t j, int64_t l, T& v) {
            if (!weights && j == b && !same(v, one.row(i, j)[l])) fail("a row alone: " + name + " has other bits");
        });
    };
    compare("y", whole.y, d.y, false);
    if (p.backward && p.has_dx) compare("dx", whole.dx, d.dx, false);
    for (int i = 0; i < p.D; ++i)
        for (Name name : {h_n, c_n, dh0, dc0})
            if (p.has[i][name]) compare(labels[name], whole.own[i][name], d.own[i][name], false);
}

uint64_t digest = 0xcbf29ce484222325;  // of everything that the core wrote: FNV-1a

template <class T> void check_case(const Plan& p, Random& r) {
    typedef std::conditional_t<sizeof(T) == 4, double, long double> R;
    Data<T> given(p);
    given.draw();
    Data<R> expected = widened<R>(given);
    Oracle<R> oracle(expected);
    oracle.run(p.backward);
    const How how = draw_how(r), other = draw_how(r);
    std::snprintf(current + std::strlen(current) - 1, 64, " (%s)\n", how.text().c_str());
    Data<T> d = execute(given, how, [&](Data<T>&, Tensor<T>(&lines)[2]) { check_gates(lines, expected); });
    check_close("y", d.y, expected.y);
    check_padding("y", d.y, p);
    // Where rounding decides on which side of its kink a relu is, gradients may differ.
    const bool kinked = oracle.closest < (sizeof(T) == 4 ? 1e-5 : 1e-12);
    for (int i = 0; i < p.D; ++i)
        for (int name = h_n; name < names; ++name)
            if (p.has[i][name] && (name == h_n || name == c_n || (p.backward && !kinked)))
                check_close(labels[name] + std::to_string(i), d.own[i][name], expected.own[i][name]);
    if (p.backward && p.has_dx) {
        if (!kinked) check_close("dx", d.dx, expected.dx);
        check_padding("dx", d.dx, p);
    }
    d.each(false, d, [&](const std::string&, Tensor<T>& t, Tensor<T>&) {
        t.each([&](int64_t, int64_t, int64_t, T& v) {
            unsigned char bytes[sizeof v];
            std::memcpy(bytes, &v, sizeof v);
            for (unsigned char byte : bytes) digest = (digest ^ (v != v ? 0 : byte)) * 0x100000001b3;
        });
    });
    Data<T> again = execute(given, other);
    check_same(d, again, "on " + other.text() + " instead of " + how.text());
    check_chunks(given, d, r);
    check_row(given, d, r);
}

void check_sequences(uint64_t seed, int64_t first, int64_t cases) {
    for (int64_t k = first; k < first + cases; ++k) {
        Random r(seed * 1000003 + uint64_t(k));
        const uint64_t drawn = r.next();
        const Plan p = draw_plan(drawn);
        const bool doubles = r.one_in(2) || p.shape.H > 180;
        now("--seed " + std::to_string(seed) + " --first " + std::to_string(k) + " --cases 1: " +
            (doubles ? "double " : "float ") + p.text());
        if (doubles) check_case<double>(p, r);
        else check_case<float>(p, r);
    }
}

// Subnormal numbers count as zero inside, on every thread, and not outside.
template <class T> void check_flushing() {
    Plan p{};
    p.shape = {CellKind::rnn, Activation::identity, 1, 1, 1};
    p.T = 1, p.B = 8, p.D = p.G = 1;
    p.has[0][w_ih] = p.has[0][w_hh] = p.has[0][h0] = p.has[0][h_n] = true;
    Data<T> given(p);
    given.draw();
    given.x.each([](int64_t, int64_t, int64_t, T& v) { v = 0; });
    given.own[0][w_hh].row(0, 0)[0] = T(0.25);
    given.own[0][h0].each([](int64_t, int64_t, int64_t, T& v) { v = std::numeric_limits<T>::min(); });
    Data<T> d = execute(given, {most_threads, true});
    d.y.each([](int64_t, int64_t, int64_t, T& v) { if (!(v == 0)) fail("a subnormal number comes out"); });
    volatile T tiny = std::numeric_limits<T>::min();
    tiny = tiny / 4;
    if (tiny == 0) fail("the caller's subnormal numbers count as zero after a call");
}

void check_subnormals(uint64_t, int64_t, int64_t) {
    now("subnormal numbers");
    check_flushing<float>();
    check_flushing<double>();
}

// ---- Many callers at once ----------------------------------------------------------------------

// A case, with what it gives on one thread.
template <class T> struct Job {
    const Plan plan;
    Data<T> given, expected;
    explicit Job(const Plan& p) : plan(p), given(plan), expected(execute(given.draw(), {1, true})) {}
    Job(const Job&) = delete;
    void repeat(How how) {
        Data<T> again = execute(given, how);
        check_same(expected, again, how.text() + " among many callers: " + plan.text());
    }
};

struct Jobs {
    std::vector<std::unique_ptr<Job<float>>> floats;
    std::vector<std::unique_ptr<Job<double>>> doubles;

    explicit Jobs(uint64_t seed) {
        for (uint64_t k = 0; k < 8; ++k) {
            const Plan p = draw_plan(seed * 1000003 + k, k < 4 ? Size::wide : k < 6 ? Size::small : Size::many_rows);
            if (k % 2) floats.emplace_back(new Job<float>(p));
            else doubles.emplace_back(new Job<double>(p));
        }
        // Enough work for core.hpp to take several threads; then both directions with their units split.
        for (const int64_t rows : {8, 1}) {
            Plan p{};
            p.seed = seed, p.shape = {CellKind::lstm, Activation::tanh, 64, 64, 64};
            p.T = rows == 1 ? 48 : 16, p.B = rows, p.D = 2, p.G = 4, p.reverse[1] = true;
            for (int i = 0; i < p.D; ++i) {
                for (int name = 0; name < names; ++name) p.has[i][name] = p.exists(name);
                p.has_dy[i] = true;
            }
            p.has_dx = p.has_lines = p.backward = true;
            floats.emplace_back(new Job<float>(p));
        }
    }
    // Several calls; what went wrong, or nothing.
    std::string repeat(Random r, int64_t calls, const std::atomic<bool>& stop) const {
        try {
            for (int64_t k = 0; k < calls && !stop; ++k)
                if (r.one_in(2)) floats[size_t(r.from(0, int64_t(floats.size()) - 1))]->repeat(draw_how(r));
                else doubles[size_t(r.from(0, int64_t(doubles.size()) - 1))]->repeat(draw_how(r));
        } catch (const Failure& failure) {
            return failure.what;
        }
        return "";
    }
};

// A child starts threads of its own, whatever those of its parent were at.
void check_fork(const Jobs& jobs, Random r) {
    const pid_t child = fork();
    if (child < 0) fail("fork() failed");
    if (child == 0) {
        alarm(patience);
        const std::atomic<bool> stop{false};
        const std::string wrong = jobs.repeat(r, 6, stop);
        std::fputs(wrong.c_str(), stderr);
        _exit(wrong.empty() ? 0 : 1);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) fail("waitpid() failed");
    if (!WIFEXITED(status) || WEXITSTATUS(status)) fail("a forked child fails, or does not return");
}

void check_callers(uint64_t seed, int64_t, int64_t cases) {
    constexpr int callers = 3, rounds = 4;
    now("the cases of many callers");
    const Jobs jobs(seed);
    Random r(seed);
    for (int round = 0; round < rounds; ++round) {
        now("many callers: --threads --seed " + std::to_string(seed) + ", round " + std::to_string(round));
        std::string wrong[callers];
        std::atomic<bool> stop{false};
        std::vector<std::thread> threads;
        for (int i = 0; i < callers; ++i)
            threads.emplace_back([&, i, own = Random(r.next())] {
                wrong[i] = jobs.repeat(own, cases / rounds / callers + 1, stop);
                if (!wrong[i].empty()) stop = true;
            });
        // The sanitizers' own locks do not survive a fork amid other threads.
        std::string forked;
        try {
            if (!address_sanitizer && !thread_sanitizer)
                for (int k = 0; k < 3; ++k) check_fork(jobs, Random(r.next()));
        } catch (const Failure& failure) {
            forked = failure.what, stop = true;
        }
        for (std::thread& thread : threads) thread.join();
        for (const std::string& each : wrong)
            if (!each.empty()) fail(each);
        if (!forked.empty()) fail(forked);
        // Now the pool is idle. ThreadSanitizer knows no threads in a forked child.
        if (!thread_sanitizer) check_fork(jobs, Random(r.next()));
    }
}

struct Check {
    const char* name;
    void (*run)(uint64_t seed, int64_t first, int64_t cases);
    bool many_callers;  // runs with --threads, and then alone
};

const Check checks[] = {
    {"oracle", check_oracle, false},
    {"subnormals", check_subnormals, false},
    {"sequences", check_sequences, false},
    {"callers", check_callers, true},
};

[[noreturn]] void usage() {
    std::fputs("usage: check [--threads] [--cases N] [--seed S] [--first K]\n", stderr);
    std::exit(2);
}

}  // namespace

int main(int count, char** arguments) {
    bool many_callers = false;
    int64_t cases = 500, first = 0;
    uint64_t seed = 1;
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (name == "--threads") {
            many_callers = true;
            continue;
        }
        if (++i == count) usage();
        const long long value = std::atoll(arguments[i]);
        if (name == "--cases") cases = value;
        else if (name == "--seed") seed = uint64_t(value);
        else if (name == "--first") first = value;
        else usage();
    }
    signal(SIGALRM, does_not_return);
    for (const Check& check : checks) {
        if (check.many_callers != many_callers) continue;
        try {
            check.run(seed, first, cases);
        } catch (const Failure& failure) {
            std::fprintf(stderr, "%s: %s\nat %s", check.name, failure.what.c_str(), current);
            return 1;
        }
    }
    alarm(0);
    std::printf("%s: %lld cases of seed %llu hold", instruction_set(), static_cast<long long>(cases),
                static_cast<unsigned long long>(seed));
    if (!many_callers)
        std::printf("; errors are at most %.2f of the tolerance; digest %016llx", worst,
                    static_cast<unsigned long long>(digest));
    std::printf("\n");
}
