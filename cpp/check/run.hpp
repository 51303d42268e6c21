// Runs the core on a case, through core.hpp or directly, and compares: values within tolerances, bits, memory.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "case.hpp"
#include "target.hpp"

namespace ostinato {
#if defined(__x86_64__)
namespace x86_64_v4 { extern const Target target; }
namespace x86_64_v3 { extern const Target target; }
namespace x86_64 { extern const Target target; }
#else
namespace generic { extern const Target target; }
#endif

namespace check {

#if defined(__SANITIZE_THREAD__)
constexpr bool thread_sanitizer = true;
#else
constexpr bool thread_sanitizer = false;
#endif

inline unsigned patience = address_sanitizer || thread_sanitizer ? 300 : 20;  // seconds for a case
constexpr int most_threads = 4;

inline char current[4096];  // description of the case that is being checked

inline void broken(int signal) {
    const char* const text = signal == SIGALRM ? "\ndoes not return: " : "\ncrashes: ";
    const bool said = write(2, text, std::strlen(text)) >= 0 && write(2, current, std::strlen(current)) >= 0;
    _exit(said ? 3 : 4);
}

inline void now(const std::string& what) {
    std::snprintf(current, sizeof current, "%s\n", what.c_str());
    alarm(patience);
}

inline std::string case_name(uint64_t seed, int64_t k) {
    return "--seed " + std::to_string(seed) + " --first " + std::to_string(k) + " --cases 1: ";
}

inline const Target& target() {
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

inline How draw_how(Random& r) { return {int(r.from(1, most_threads)), !r.one_in(3)}; }

inline How draw_checkpoints(Random& r, const Plan& p) {
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

inline double worst = 0;  // error, in tolerances

// As close as the type allows, in relation to the largest number of the tensor but at least to `scale`
// (what comes in is about 1: far below that, rounding is all there is); and NaN where NaN is.
template <class T, class R>
void check_close(const std::string& name, Tensor<T>& got, Tensor<R>& expected, R scale = 0.1,
                 double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12) {
    expected.each([&](int64_t, int64_t, int64_t, R& v) { if (std::abs(v) > scale) scale = std::abs(v); });
    expected.each([&](int64_t i, int64_t j, int64_t l, R& v) {
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

inline uint64_t digest = 0xcbf29ce484222325;  // of everything that the core wrote: FNV-1a

template <class T> void digest_of(Tensor<T>& t) {
    t.each([&](int64_t, int64_t, int64_t, T& v) {
        unsigned char bytes[sizeof v];
        std::memcpy(bytes, &v, sizeof v);
        for (unsigned char byte : bytes) digest = (digest ^ (v != v ? 0 : byte)) * 0x100000001b3;
    });
}

}  // namespace check
}  // namespace ostinato
