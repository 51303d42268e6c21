// Checks of streams: the bits of a sequence, copies, states, and 8-bit weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "oracle.hpp"
#include "run.hpp"

namespace ostinato {
namespace check {

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
void check_state(const Stream<T>& stream, const std::vector<T>& expected, const char* which) {
    if (stream.state_size() != int64_t(expected.size())) fail("a stream's state has another size");
    Tensor<T> state(1, 1, stream.state_size());
    stream.save(state.data());
    if (state.written_outside()) fail("something is written beside a stream's state");
    for (size_t i = 0; i < expected.size(); ++i)
        if (!same(state.data()[i], expected[i]))
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
inline void check_small_stream(const std::string& name, Random r) {
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

inline void check_streams(uint64_t seed, int64_t first, int64_t cases) {
    for (int64_t k = first; k < first + cases; ++k) {
        Random r(seed * 1000033 + uint64_t(k));
        const std::string name = case_name(seed, k);
        if (k % 5 == 0) check_stream<float>(name, r);
        if (k % 5 == 1) check_stream<double>(name, r);
        if (k % 5 == 2) check_small_stream(name, r);
    }
}

}  // namespace check
}  // namespace ostinato
