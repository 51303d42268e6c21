// Checks the core without Python: against the equations of src/ostinato/recurrence/cells/, written
// here once more in the plainest way, and against its own laws.
//
//   check [--cases N] [--seed S] [--first K]            cases K to K + N - 1 that the seed gives
//   check --threads [--cases N] [--seed S]              many callers simultaneously, and forks in between
//
// With --patience S a case may take so many seconds. The digest at the end is of all that the cases gave:
// the same for every instruction set that has fused multiply-adds.
//
// Status 0 where all is well; 1 where something is not, 3 where a call crashes or does not return: the
// case is printed then, and `--seed S --first K --cases 1` repeats it. The table of checks is at the end.
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

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "oracle.hpp"
#include "target.hpp"

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
using namespace ostinato::check;

unsigned patience = address_sanitizer || thread_sanitizer ? 300 : 20;  // seconds for a case
constexpr int most_threads = 4;

char current[4096];  // description of the case that is being checked

void broken(int signal) {
    const char* const text = signal == SIGALRM ? "\ndoes not return: " : "\ncrashes: ";
    const bool said = write(2, text, std::strlen(text)) >= 0 && write(2, current, std::strlen(current)) >= 0;
    _exit(said ? 3 : 4);
}

void now(const std::string& what) {
    std::snprintf(current, sizeof current, "%s\n", what.c_str());
    alarm(patience);
}

std::string case_name(uint64_t seed, int64_t k) {
    return "--seed " + std::to_string(seed) + " --first " + std::to_string(k) + " --cases 1: ";
}

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
        for (Data<R>* d : {&middle, &up, &down})
            for (Tensor<R>* t : {&d->x, &d->dy})
                if (t == &d->dy || !p.table)
                    t->each([&](int64_t step, int64_t b, int64_t, R& v) { if (step >= p.length(b)) v = 0; });
        Oracle<R> oracle(middle);
        oracle.run();
        if (oracle.closest < 1e-3L) continue;  // a relu whose kink may lie between the two
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
            fail("the oracle's gradient is " + std::to_string(expected) + ", its slope " +
                 std::to_string(found));
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
// many and in memory of ours. With checkpoints every so many steps, or with a workspace.
struct How {
    int threads;
    bool direct;
    int64_t every = 0;
    std::string text() const {
        return std::to_string(threads) + (direct ? " threads, direct" : " threads") +
               (every ? ", checkpoints every " + std::to_string(every) : "");
    }
};

How draw_how(Random& r) { return {int(r.from(1, most_threads)), !r.one_in(3)}; }

How draw_checkpoints(Random& r, const Plan& p) {
    How how = draw_how(r);
    how.every = r.one_in(2) ? r.from(1, 4) : r.from(1, p.T + 2);
    return how;
}

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
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(context.memory.data(), size_t(context.memory.k));
#endif
    if (context.memory.written_outside()) fail("a pass leaves the memory that it asked for");
}

template <class T> Sequence<T> sequence_of(Data<T>& d, Tensor<T> (&lines)[2], bool order) {
    const Plan& p = d.plan;
    Sequence<T> s{};
    s.shape = p.shape, s.steps = p.T, s.rows = p.B, s.directions = p.D;
    s.x = d.x.data(), s.x_t = d.x.stride_n, s.x_b = d.x.stride_m;
    s.y_t = d.y.stride_n, s.y_b = d.y.stride_m;
    s.tokens = p.table ? d.tokens.data() : nullptr, s.table_rows = p.table;
    s.tokens_t = d.tokens.stride_n, s.tokens_b = d.tokens.stride_m;
    s.lengths = p.ragged ? p.lengths.data() : nullptr;
    s.order = p.ragged && order ? p.order.data() : nullptr;
    for (int i = 0; i < p.D; ++i) {
        auto at = [&](Name name) { return p.has[i][name] ? d.own[i][name].data() : nullptr; };
        if (p.has_lines[i]) lines[i] = Tensor<T>(p.T, p.B, line_length<T>(p.shape), {}, true);
        s.direction[i] = {{at(w_ih), at(w_hh), at(b_ih), at(b_hh), at(w_hr)}, p.reverse[i], at(h0), at(c0),
                          d.y.data() + i * p.shape.P, at(h_n), at(c_n),
                          p.has_lines[i] ? lines[i].data() : nullptr, nullptr};
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

// No tensor that is only read has changed, and nothing was written beside those that are written.
template <class T> void check_memory(Data<T>& d, Data<T>& given) {
    d.each(true, given, [](const std::string& name, Tensor<T>& t, Tensor<T>& before) {
        if (!t.unchanged_since(before)) fail(name + " is changed");
    });
    d.each(false, given, [](const std::string& name, Tensor<T>& t, Tensor<T>&) {
        if (t.written_outside()) fail("something is written beside " + name);
    });
}

// Runs the plan on the data given; after(data, lines) is called between the passes.
template <class T, class After> Data<T> execute(Data<T>& given, How how, After&& after) {
    const Plan& p = given.plan;
    Data<T> d = given;
    Tensor<T> lines[2], c_kept[2];
    Sequence<T> s = sequence_of(d, lines, how.direct || p.gives_order);
    s.checkpoint_every = how.every;
    for (int i = 0; how.every && i < p.D; ++i) {
        if (p.lstm()) c_kept[i] = Tensor<T>(s.checkpoints(), p.B, p.shape.H, {false, p.before, 0, 0});
        s.direction[i].lines = nullptr, s.direction[i].c_kept = p.lstm() ? c_kept[i].data() : nullptr;
    }
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
        if (c_kept[i].written_outside()) fail("something is written beside the checkpoints");
        for (Name name : {h_n, c_n})
            if (p.has[i][name] && !d.own[i][name].unchanged_since(halfway.own[i][name]))
                fail(std::string("backward changes ") + labels[name]);
    }
    if (!d.y.unchanged_since(halfway.y)) fail("backward changes y");
    if (!p.has_dx && !d.dx.unchanged_since(given.dx)) fail("dx is not asked for");
    return d;
}
template <class T> Data<T> execute(Data<T>& given, How how) {
    return execute(given, how, [](Data<T>&, Tensor<T>(&)[2]) {});
}

double worst = 0;  // error, in tolerances

// As close as the type allows, in relation to the largest number of the tensor but at least to `scale`
// (what comes in is about 1: far below that, rounding is all there is); and NaN where NaN is.
template <class T, class R>
void check_close(const std::string& name, Tensor<T>& got, Tensor<R>& wanted, R scale = 0.1,
                 double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12) {
    wanted.each([&](int64_t, int64_t, int64_t, R& v) { if (std::abs(v) > scale) scale = std::abs(v); });
    wanted.each([&](int64_t i, int64_t j, int64_t l, R& v) {
        const T x = got.row(i, j)[l];
        const double error = double(std::abs(R(x) - v) / scale) / tolerance;
        if (error > worst) worst = error;
        if (v != v ? x != x : error <= 1) return;
        char text[200];
        std::snprintf(text, sizeof text, "%s at (%d, %d, %d) is %.17g, expected %.17g", name.c_str(), int(i),
                      int(j), int(l), double(x), double(v));
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
    for (int i = 0; i < p.D; ++i) {
        if (!p.has_lines[i]) continue;
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
        for (int side = 0; side < 2; ++side)
            h[side].resize(size_t(p.B * P + 1)), c[side].resize(size_t(p.B * H + 1));
        std::vector<int64_t> lengths(size_t(p.B + 1));
        s.directions = 1, s.direction[0] = s.direction[i];
        Direction<T>& to = s.direction[0];
        T* const y = to.y;
        const T* const x = s.x;
        const int64_t* const tokens = s.tokens;
        const size_t pieces = cuts.size() - 1;
        for (size_t k = 0; k < pieces; ++k) {
            const size_t piece = p.reverse[i] ? pieces - 1 - k : k;
            const int64_t begin = cuts[piece], n = cuts[piece + 1] - begin;
            for (int64_t b = 0; b < p.B; ++b)
                lengths[size_t(b)] = std::min(std::max<int64_t>(p.length(b) - begin, 0), n);
            s.steps = n, to.y = y + begin * s.y_t;
            if (tokens) s.tokens = tokens + begin * s.tokens_t;
            else s.x = x + begin * s.x_t;
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
    auto move = [](auto*& pointer, int64_t by) { if (pointer) pointer += by; };
    s.rows = 1, move(s.tokens, b * s.tokens_b), move(s.lengths, b), s.order = s.lengths ? &only : nullptr;
    if (!p.table) move(s.x, b * s.x_b), move(g.dx, b * g.dx_b);
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
    auto compare = [&](const std::string& name, Tensor<T>& a, Tensor<T>& one) {
        a.each([&](int64_t i, int64_t j, int64_t l, T& v) {
            if (j == b && !same(v, one.row(i, j)[l])) fail("a row alone: " + name + " has other bits");
        });
    };
    compare("y", whole.y, d.y);
    if (p.backward && p.has_dx && !p.table) compare("dx", whole.dx, d.dx);
    for (int i = 0; i < p.D; ++i)
        for (Name name : {h_n, c_n, dh0, dc0})
            if (p.has[i][name]) compare(labels[name], whole.own[i][name], d.own[i][name]);
}

uint64_t digest = 0xcbf29ce484222325;  // of everything that the core wrote: FNV-1a

template <class T> void digest_of(Tensor<T>& t) {
    t.each([&](int64_t, int64_t, int64_t, T& v) {
        unsigned char bytes[sizeof v];
        std::memcpy(bytes, &v, sizeof v);
        for (unsigned char byte : bytes) digest = (digest ^ (v != v ? 0 : byte)) * 0x100000001b3;
    });
}

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
    // The slope of a saturated gate is what rounding leaves of 1 - 1.
    const R least = p.numbers == Numbers::saturating ? 1 : 0.1;
    // Where rounding decides on which side of its kink a relu is, gradients may differ.
    const bool kinked = oracle.closest < (sizeof(T) == 4 ? 1e-5 : 1e-12);
    for (int i = 0; i < p.D; ++i)
        for (int name = h_n; name < names; ++name)
            if (p.has[i][name] && (name == h_n || name == c_n || (p.backward && !kinked)))
                check_close(labels[name] + std::to_string(i), d.own[i][name], expected.own[i][name], least);
    if (p.backward && p.has_dx) {
        if (!kinked) check_close("dx", d.dx, expected.dx, least);
        if (!p.table) check_padding("dx", d.dx, p);
    }
    d.each(false, d, [&](const std::string&, Tensor<T>& t, Tensor<T>&) { digest_of(t); });
    Data<T> again = execute(given, other);
    check_same(d, again, "on " + other.text() + " instead of " + how.text());
    const How checkpoints = draw_checkpoints(r, p);
    Data<T> recomputed = execute(given, checkpoints);
    check_same(d, recomputed, "on " + checkpoints.text());
    check_chunks(given, d, r);
    check_row(given, d, r);
}

void check_sequences(uint64_t seed, int64_t first, int64_t cases) {
    for (int64_t k = first; k < first + cases; ++k) {
        Random r(seed * 1000003 + uint64_t(k));
        const uint64_t drawn = r.next();
        const Plan p = draw_plan(drawn);
        const bool doubles = r.one_in(2) || p.shape.H > 150;
        now(case_name(seed, k) + (doubles ? "double " : "float ") + p.text());
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

// ---- Streams -----------------------------------------------------------------------------------

// What may be special about the numbers of a stack.
enum class Special {
    none,
    vanishing,  // a unit whose weights are gone, and a step without input
    extreme,    // weights, inputs and states of one size: to 8 bits they are 127 or -127
    holed       // one input is NaN or infinite
};

// A stack of small layers and what forward() makes of a sequence, layer by layer.
template <class T> struct Stack {
    std::vector<Plan> plans;
    std::vector<Data<T>> data;
    std::vector<T> before, after;  // the state, as a stream saves it
    int64_t hole_t = 0, hole_b = 0;

    explicit Stack(Random& r, Special special = Special::none) {
        const int64_t layers = r.from(1, 3), steps = r.from(1, 9), rows = r.from(1, 9);
        plans.reserve(size_t(layers));
        for (int64_t i = 0; i < layers; ++i) {
            Plan p = draw_plan(r.next(), Size::small);
            p.T = steps, p.B = rows, p.D = 1, p.table = 0, p.numbers = Numbers::smooth;
            p.shape.I = i ? plans.back().shape.P : r.one_in(12) ? r.from(1000, 1100) : p.shape.I;
            p.reverse[0] = p.ragged = p.backward = p.has_lines[0] = false;
            p.of_x = p.of_y = {};
            for (int name = 0; name < names; ++name)
                p.has[0][name] = p.exists(name) && ((name != b_ih && name != b_hh) || p.has[0][name]);
            plans.push_back(p);
            Data<T> given(plans.back());
            given.draw();
            if (special == Special::vanishing) {
                for (int64_t j = 0; j < p.shape.P; ++j) given.own[0][w_hh].row(0, 0)[j] *= T(1e-37);
                for (int64_t j = 0; j < p.shape.I; ++j) given.x.row(0, 0)[j] *= T(1e-37);
            }
            if (special == Special::extreme) {
                const bool one_sign = r.one_in(2);
                auto size = [&](Tensor<T>& t, double size) {
                    t.each([&](int64_t, int64_t, int64_t, T& v) { v = T(v < 0 && !one_sign ? -size : size); });
                };
                size(given.x, 1), size(given.own[0][h0], 1);
                for (Name name : {w_ih, w_hh, w_hr})
                    if (p.exists(name)) size(given.own[0][name], 0.01);
            }
            if (special == Special::holed && i == 0) {
                hole_t = r.from(0, steps - 1), hole_b = r.from(0, rows - 1);
                given.x.row(hole_t, hole_b)[r.from(0, p.shape.I - 1)] =
                    r.one_in(2) ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::quiet_NaN();
            }
            if (i)
                given.x.each([&](int64_t t, int64_t b, int64_t l, T& v) { v = data.back().y.row(t, b)[l]; });
            data.push_back(execute(given, {1, false}));
            keep(before, data.back(), h0, c0), keep(after, data.back(), h_n, c_n);
        }
    }
    void keep(std::vector<T>& state, Data<T>& d, Name h, Name c) {
        auto add = [&](int64_t, int64_t, int64_t, T& v) { state.push_back(v); };
        d.own[0][h].each(add);
        if (d.plan.lstm()) d.own[0][c].each(add);
    }
};

template <class T> Stream<T> stream_of(Stack<T>& stack, Precision precision) {
    std::vector<Shape> shapes;
    std::vector<Weights<T>> weights;
    std::vector<Data<T>> lost = stack.data;  // a stream keeps no pointer to its weights
    for (Data<T>& d : lost) {
        auto at = [&](Name name) { return d.plan.has[0][name] ? d.own[0][name].data() : nullptr; };
        shapes.push_back(d.plan.shape), weights.push_back({at(w_ih), at(w_hh), at(b_ih), at(b_hh), at(w_hr)});
    }
    Stream<T> stream(shapes, weights, stack.plans[0].B, precision);
    lost.clear();
    return stream;
}

template <class T>
void check_state(const Stream<T>& stream, const std::vector<T>& wanted, const char* which) {
    if (stream.state_size() != int64_t(wanted.size())) fail("a stream's state has another size");
    Tensor<T> state(1, 1, stream.state_size());
    stream.save(state.data());
    if (state.written_outside()) fail("something is written beside a stream's state");
    for (size_t i = 0; i < wanted.size(); ++i)
        if (!same(state.data()[i], wanted[i]))
            fail(std::string("a stream's ") + which + " state has other bits");
}

// The whole sequence in groups of steps; halfway a copy goes on in the place of the stream.
template <class T> Tensor<T> run_stream(Stack<T>& stack, Precision precision, Random r) {
    const Plan &first = stack.plans.front(), &last = stack.plans.back();
    const int64_t T_ = first.T, B = first.B, I = first.shape.I, P = last.shape.P;
    Stream<T> one = stream_of(stack, precision);
    check_state(one, std::vector<T>(stack.before.size(), 0), "first");
    one.load(stack.before.data());
    check_state(one, stack.before, "loaded");
    Tensor<T> x(1, T_ * B, I, {false, r.from(0, 3), 0, 0}), y(1, T_ * B, P, {false, r.from(0, 3), 0, 0});
    x.each([&](int64_t, int64_t row, int64_t l, T& v) { v = stack.data[0].x.row(row / B, row % B)[l]; });
    const Tensor<T> x_before = x;
    const int64_t half = r.from(0, T_);
    auto run = [&](Stream<T>& stream, int64_t t, int64_t end) {
        for (int64_t n; t < end; t += n) {
            n = r.from(1, end - t);
            stream.run(x.row(0, t * B), n, y.row(0, t * B));
        }
    };
    run(one, 0, half);
    Stream<T> other(one);
    run(one, half, T_);
    Tensor<T> y_of_one = y;
    y = Tensor<T>(1, T_ * B, P);
    for (int64_t row = 0; row < half * B; ++row) std::copy_n(y_of_one.row(0, row), P, y.row(0, row));
    run(other, half, T_);
    if (y.written_outside() || y_of_one.written_outside()) fail("a stream writes beside its outputs");
    if (!x.unchanged_since(x_before)) fail("a stream changes its inputs");
    y.each([&](int64_t, int64_t row, int64_t l, T& v) {
        if (!same(v, y_of_one.row(0, row)[l])) fail("a stream's copy gives other bits");
    });
    for (const Stream<T>* stream : {&one, &other})
        if (precision == Precision::full) check_state(*stream, stack.after, "last");
    one.reset();
    check_state(one, std::vector<T>(stack.before.size(), 0), "reset");
    return y;
}

template <class T> void check_stream(const std::string& name, Random r) {
    Stack<T> stack(r);
    now(name + "a stream: " + stack.plans[0].text());
    Tensor<T> y = run_stream(stack, Precision::full, r);
    stack.data.back().y.each([&](int64_t t, int64_t b, int64_t l, T& v) {
        if (!same(v, y.row(0, t * stack.plans[0].B + b)[l]))
            fail("a stream gives other bits than a sequence");
    });
    digest_of(y);
}

// 8 bits: all ways to the same numbers, and those of the oracle but for values rounded to the other side.
void check_small_stream(const std::string& name, Random r) {
    const Special special = r.one_in(2) ? Special::none : Special(r.from(1, 3));
    Stack<float> stack(r, special);
    now(name + "a stream of 8 bits: " + stack.plans[0].text());
    Tensor<float> y = run_stream(stack, Precision::int8, r);
    for (const Precision other : {Precision::int8_native, Precision::int8_portable}) {
        Tensor<float> z = run_stream(stack, other, r);
        y.each([&](int64_t, int64_t row, int64_t l, float& v) {
            if (!same(v, z.row(0, row)[l])) fail("two ways to 8-bit products give other bits");
        });
    }
    digest_of(y);
    if (special == Special::holed) {
        const int64_t B = stack.plans[0].B;
        y.each([&](int64_t, int64_t row, int64_t, float& v) {
            const bool lost = row / B >= stack.hole_t && row % B == stack.hole_b;
            if (std::isfinite(v) == lost) fail("a number that is not finite is lost, or in other rows");
        });
        return;
    }
    Tensor<double> below;
    for (Data<float>& d : stack.data) {
        Data<double> expected = widened<double>(d);
        if (&d != &stack.data[0]) expected.x = below;
        Oracle<double> oracle(expected);
        oracle.quantized = true;
        oracle.run(false);
        below = expected.y;
    }
    Tensor<float> got(below.n, below.m, below.k);
    got.each([&](int64_t t, int64_t b, int64_t l, float& v) { v = y.row(0, t * below.m + b)[l]; });
    const double worst_before = worst;
    check_close("y of 8 bits", got, below, 1.0, 0.03);
    worst = worst_before;
}

void check_streams(uint64_t seed, int64_t first, int64_t cases) {
    for (int64_t k = first; k < first + cases; ++k) {
        Random r(seed * 1000033 + uint64_t(k));
        const std::string name = case_name(seed, k);
        if (k % 5 == 0) check_stream<float>(name, r);
        if (k % 5 == 1) check_stream<double>(name, r);
        if (k % 5 == 2) check_small_stream(name, r);
    }
}

// ---- Many callers simultaneously ---------------------------------------------------------------

// A case, with its results on one thread.
template <class T> struct Job {
    const Plan plan;
    Data<T> given, expected;
    explicit Job(const Plan& p) : plan(p), given(plan), expected(execute(given.draw(), {1, true})) {}
    Job(const Job&) = delete;
    void repeat(Random& r) {
        const How how = r.one_in(3) ? draw_checkpoints(r, plan) : draw_how(r);
        Data<T> again = execute(given, how);
        check_same(expected, again, how.text() + " among many callers: " + plan.text());
    }
};

struct Jobs {
    std::vector<std::unique_ptr<Job<float>>> floats;
    std::vector<std::unique_ptr<Job<double>>> doubles;

    explicit Jobs(uint64_t seed) {
        for (uint64_t k = 0; k < 8; ++k) {
            const Size size = k < 4 ? Size::wide : k < 6 ? Size::small : Size::many_rows;
            const Plan p = draw_plan(seed * 1000003 + k, size);
            if (k % 2 && k >= 4) floats.emplace_back(new Job<float>(p));
            else doubles.emplace_back(new Job<double>(p));
        }
        // Enough work for core.hpp to take several threads; then both directions with their units split.
        for (const int64_t rows : {8, 1}) {
            Plan p{};
            const int64_t H = rows == 1 ? 224 : 64;
            p.seed = seed, p.shape = {CellKind::lstm, Activation::tanh, 16, H, H};
            p.T = rows == 1 ? 12 : 24, p.B = rows, p.D = 2, p.G = 4, p.reverse[1] = true;
            for (int i = 0; i < p.D; ++i) {
                for (int name = 0; name < names; ++name) p.has[i][name] = p.exists(name);
                p.has_dy[i] = p.has_lines[i] = true;
            }
            p.has_dx = p.backward = true;
            floats.emplace_back(new Job<float>(p));
        }
    }
    // Several calls; what went wrong, or nothing.
    std::string repeat(Random r, int64_t calls, const std::atomic<bool>& stop) const {
        try {
            for (int64_t k = 0; k < calls && !stop; ++k)
                if (r.one_in(2)) floats[size_t(r.from(0, int64_t(floats.size()) - 1))]->repeat(r);
                else doubles[size_t(r.from(0, int64_t(doubles.size()) - 1))]->repeat(r);
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
    {"streams", check_streams, false},
    {"callers", check_callers, true},
};

[[noreturn]] void usage() {
    std::fputs("usage: check [--threads] [--cases N] [--seed S] [--first K] [--patience S]\n", stderr);
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
        else if (name == "--patience") patience = unsigned(value);
        else usage();
    }
    signal(SIGALRM, broken);
    for (int crash : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL})
        if (!address_sanitizer && !thread_sanitizer) signal(crash, broken);
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
    std::printf("%s, int8 %s: %lld cases of seed %llu hold", instruction_set(), int8_products(), static_cast<long long>(cases),
                static_cast<unsigned long long>(seed));
    if (!many_callers)
        std::printf("; errors are at most %.2f of the tolerance; digest %016llx", worst,
                    static_cast<unsigned long long>(digest));
    std::printf("\n");
}
