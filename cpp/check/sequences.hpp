// Checks of whole sequences: the oracle's own gradients; values, gradients and the laws of equal bits; subnormals.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "oracle.hpp"
#include "run.hpp"

namespace ostinato {
namespace check {

// The oracle's gradients are the slope of its outputs, along a direction drawn at random.
inline void check_oracle(uint64_t seed, int64_t, int64_t) {
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

inline void check_sequences(uint64_t seed, int64_t first, int64_t cases) {
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

inline void check_subnormals(uint64_t, int64_t, int64_t) {
    now("subnormal numbers");
    check_flushing<float>();
    check_flushing<double>();
}

}  // namespace check
}  // namespace ostinato
