// Checks of selective scans and of the elements of programs, against plain loops and their own laws.
#pragma once

#include "recurrences.hpp"

namespace ostinato {
namespace check {

// A selective scan drawn at random, and what it wrote.
template <class T> struct SelectionCase {
    int64_t steps, rows, size, memory;
    bool ragged, resetting, has_D, has_c0, has_dy, has_dc_n;
    Tensor<T> d, v, B, C, A, D, c0, dy, dc_n, y, c_n, kept, dd, dv, dB, dC, dA, dD, dc0;
    std::vector<int64_t> lengths;
    std::vector<uint8_t> resets;

    explicit SelectionCase(Random& r) {
        steps = r.one_in(12) ? 0 : r.from(1, 40), rows = r.one_in(15) ? 0 : r.from(1, 5);
        size = r.one_in(3) ? 8 * r.from(1, 4) + r.from(-1, 1) : r.from(1, 20), memory = r.one_in(3) ? 16 : r.from(1, 11);
        if (r.one_in(8)) size = r.from(60, 300), steps = std::min<int64_t>(steps, 5);  // more than a tile
        ragged = r.one_in(2), resetting = r.one_in(3), has_c0 = !r.one_in(4), has_dy = !r.one_in(6), has_dc_n = !r.one_in(4);
        has_D = !r.one_in(3);
        const Layout none{false, r.from(0, 3), 0, 0};
        auto layout = [&] {
            return Layout{r.one_in(3), r.from(0, 3), r.one_in(2) ? 0 : r.from(1, 5), r.one_in(2) ? 0 : r.from(1, 5)};
        };
        for (Tensor<T>* t : {&d, &v, &dy}) *t = Tensor<T>(steps, rows, size, layout());
        for (Tensor<T>* t : {&B, &C}) *t = Tensor<T>(steps, rows, memory, layout());
        A = Tensor<T>(1, memory, size, none), D = Tensor<T>(1, 1, size, none), dD = Tensor<T>(1, rows, size, none);
        for (Tensor<T>* t : {&c0, &dc_n, &c_n, &dA, &dc0}) *t = Tensor<T>(rows, memory, size, none);
        for (Tensor<T>* t : {&y, &dd, &dv}) *t = Tensor<T>(steps, rows, size, none);
        kept = Tensor<T>((steps + selection_chunk - 1) / selection_chunk * rows, memory, size, none);
        dB = dC = Tensor<T>(selection().tiles() * steps, rows, memory, none);
        for (Tensor<T>* t : {&d, &v, &dy, &B, &C, &A, &D, &c0, &dc_n, &dD})
            t->each([&](int64_t, int64_t, int64_t, T& x) { x = T(r.real()); });
        for (int64_t row = 0; row < rows; ++row) lengths.push_back(r.one_in(6) ? 0 : r.from(0, steps));
        for (int64_t i = 0; i < steps * rows; ++i) resets.push_back(r.one_in(6));
        lengths.push_back(0), resets.push_back(0);  // never null
        for (int64_t row = 0; ragged && row < rows; ++row)  // padding is not read
            for (int64_t t = lengths[size_t(row)]; t < steps; ++t) {
                for (Tensor<T>* each : {&d, &v, &dy})
                    for (int64_t e = 0; e < size; ++e) each->row(t, row)[e] = std::numeric_limits<T>::quiet_NaN();
                for (Tensor<T>* each : {&B, &C})
                    for (int64_t n = 0; n < memory; ++n) each->row(t, row)[n] = std::numeric_limits<T>::quiet_NaN();
            }
    }
    int64_t length(int64_t row) const { return ragged ? lengths[size_t(row)] : steps; }
    bool starts(int64_t t, int64_t row) const { return resetting && resets[size_t(t * rows + row)]; }
    std::string text() const {
        return "T=" + std::to_string(steps) + " B=" + std::to_string(rows) + " E=" + std::to_string(size) + " N=" +
               std::to_string(memory) + (ragged ? " ragged" : "") + (resetting ? " resets" : "");
    }
    Selection<T> selection() {
        return {steps, rows, size, memory, d.data(), v.data(), B.data(), C.data(), d.stride_n, d.stride_m, v.stride_n,
                v.stride_m, B.stride_n, B.stride_m, C.stride_n, C.stride_m, A.data(), has_D ? D.data() : nullptr, has_c0 ? c0.data() : nullptr,
                ragged ? lengths.data() : nullptr, resetting ? resets.data() : nullptr, y.data(), c_n.data(), kept.data()};
    }
    SelectionGradients<T> gradients() {
        return {has_dy ? dy.data() : nullptr, dy.stride_n, dy.stride_m, has_dc_n ? dc_n.data() : nullptr, dd.data(),
                dv.data(), dB.data(), dC.data(), dA.data(), dD.data(), dc0.data()};
    }
    std::vector<Tensor<T>*> outputs() { return {&y, &c_n, &dd, &dv, &dB, &dC, &dA, &dD, &dc0}; }

    void run(int threads) {
        struct Context {
            const Selection<T> s;
            const SelectionGradients<T> g;
            std::vector<char> memory;
            char* block;
        } context{selection(), gradients(), {}, nullptr};
        context.memory.resize(size_t(passes<T>(scans()).selection_memory(context.s, threads)) + 64);
        context.block = context.memory.data() + (64 - reinterpret_cast<uintptr_t>(context.memory.data()) % 64) % 64;
        parallel(threads, [](const Member& me, void* context) {
            passes<T>(scans()).selection_forward(static_cast<Context*>(context)->s, me);
        }, &context);
        parallel(threads, [](const Member& me, void* context) {
            Context& c = *static_cast<Context*>(context);
            passes<T>(scans()).selection_backward(c.s, c.g, c.block, me);
        }, &context);
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(context.memory.data(), context.memory.size());
#endif
    }
};

// By plain loops, a row and a number of state at a time.
template <class T> void check_against_loop(SelectionCase<T>& c) {
    typedef long double L;
    Tensor<L> y(c.steps, c.rows, c.size), dd = y, dv = y, dB(c.steps, c.rows, c.memory), dC = dB;
    Tensor<L> c_n(c.rows, c.memory, c.size), dA = c_n, dc0 = c_n, dD(1, c.rows, c.size);
    for (Tensor<L>* t : {&y, &dd, &dv, &dB, &dC, &c_n, &dA, &dc0, &dD}) t->each([](int64_t, int64_t, int64_t, L& x) { x = 0; });
    for (int64_t row = 0; row < c.rows && c.has_D; ++row)
        for (int64_t t = 0; t < c.length(row); ++t)
            for (int64_t e = 0; e < c.size; ++e) {
                const L v = c.v.row(t, row)[e], dy_t = c.has_dy ? c.dy.row(t, row)[e] : T(0);
                y.row(t, row)[e] = c.D.data()[e] * v, dv.row(t, row)[e] = c.D.data()[e] * dy_t;
                dD.row(0, row)[e] += dy_t * v;
            }
    for (int64_t row = 0; row < c.rows; ++row)
        for (int64_t n = 0; n < c.memory; ++n)
            for (int64_t e = 0; e < c.size; ++e) {
                L now = c.has_c0 ? c.c0.row(row, n)[e] : T(0);
                const L A = c.A.row(0, n)[e];
                std::vector<L> before, after;
                for (int64_t t = 0; t < c.length(row); ++t) {
                    const L d = c.d.row(t, row)[e];
                    before.push_back(c.starts(t, row) ? L(0) : now);
                    now = std::exp(d * A) * before.back() + d * c.v.row(t, row)[e] * c.B.row(t, row)[n];
                    after.push_back(now);
                    y.row(t, row)[e] += c.C.row(t, row)[n] * now;
                }
                c_n.row(row, n)[e] = now;
                L g = c.has_dc_n ? c.dc_n.row(row, n)[e] : T(0);
                for (int64_t t = c.length(row) - 1; t >= 0; --t) {
                    const L d = c.d.row(t, row)[e], v = c.v.row(t, row)[e], B = c.B.row(t, row)[n];
                    const L dy = c.has_dy ? c.dy.row(t, row)[e] : T(0), a = std::exp(d * A);
                    dC.row(t, row)[n] += dy * after[size_t(t)];
                    g += dy * c.C.row(t, row)[n];
                    const L exponent = g * before[size_t(t)] * a;
                    dB.row(t, row)[n] += g * d * v, dv.row(t, row)[e] += g * d * B;
                    dd.row(t, row)[e] += g * v * B + exponent * A, dA.row(row, n)[e] += exponent * d;
                    g = c.starts(t, row) ? L(0) : g * a;
                }
                dc0.row(row, n)[e] = g;
            }
    check_close("y", c.y, y, L(1)), check_close("c_n", c.c_n, c_n, L(1));
    check_close("dd", c.dd, dd, L(1)), check_close("dv", c.dv, dv, L(1));
    if (c.has_D) check_close("dD", c.dD, dD, L(1));
    check_close("dA", c.dA, dA, L(1)), check_close("dc0", c.dc0, dc0, L(1));
    auto summed = [&](Tensor<T>& of) {
        Tensor<T> sum(c.steps, c.rows, c.memory);
        sum.each([](int64_t, int64_t, int64_t, T& x) { x = 0; });
        for (int64_t tile = 0; tile < c.selection().tiles(); ++tile)
            sum.each([&](int64_t t, int64_t row, int64_t n, T& x) { x += of.row(tile * c.steps + t, row)[n]; });
        return sum;
    };
    Tensor<T> sums[2] = {summed(c.dB), summed(c.dC)};
    check_close("dB", sums[0], dB, L(1)), check_close("dC", sums[1], dC, L(1));
}

template <class T> void check_selection(const std::string& name, Random r) {
    SelectionCase<T> given(r);
    now(name + "a selective scan: " + given.text());
    SelectionCase<T> one = given, other = given, chunks = given;
    one.run(1);
    check_against_loop(one);
    other.run(int(r.from(2, most_threads)));
    for (size_t k = 0; k < one.outputs().size(); ++k) {
        if (one.outputs()[k]->written_outside()) fail("something is written beside an output of a selective scan");
        one.outputs()[k]->each([&](int64_t i, int64_t j, int64_t l, T& v) {
            if (!same(v, other.outputs()[k]->row(i, j)[l])) fail("several threads: a selective scan has other bits");
        });
        digest_of(*one.outputs()[k]);
    }
    for (const auto& [a, b] : {std::pair(&one.d, &given.d), {&one.v, &given.v}, {&one.B, &given.B}, {&one.C, &given.C}})
        if (!a->unchanged_since(*b)) fail("a selective scan changes its inputs");
    // A step at a time, through core.hpp.
    for (int64_t t = 0; t < given.steps; ++t) {
        Selection<T> s = chunks.selection();
        std::vector<int64_t> left(given.lengths);
        for (int64_t& n : left) n = n > t ? 1 : 0;
        s.steps = 1, s.d += t * s.d_t, s.v += t * s.v_t, s.B += t * s.B_t, s.C += t * s.C_t, s.kept = nullptr;
        s.y += t * s.rows * s.size;
        if (s.lengths) s.lengths = left.data();
        if (s.resets) s.resets += t * s.rows;
        Tensor<T> before = chunks.c_n;
        if (t > 0) s.c0 = before.data();
        selection_forward(s, most_threads);
    }
    one.y.each([&](int64_t t, int64_t row, int64_t l, T& v) {
        if (!same(v, chunks.y.row(t, row)[l])) fail("step by step: a selective scan has other bits");
    });
}

// A program of one element, by a stream: of inputs, the state, and constants.
template <class T> void check_element(const std::string& name, Random r) {
    const int64_t n = r.from(1, 40), rows = r.from(1, 4), line = (n + 15) / 16 * 16;
    const ElementFunction f = ElementFunction(r.from(0, int(ElementFunction::silu)));
    now(name + "element " + std::to_string(int(f)) + " of " + std::to_string(n) + " numbers");
    const Base third = r.one_in(2) ? Base::before : Base::count;
    const Element element{f, n, {Base::line, 0}, {{Base::x, 0}, {Base::x, n}, {third, 0}},
                          {!r.one_in(4), !r.one_in(4), !r.one_in(4)}};
    const Operation operation{nullptr, -1, {Base::x, 0}, {Base::line, 0}, -1};
    const Vector vector{0, n, 0};
    const int64_t size = n, at = 0;
    Program p{2 * n, 1, 0, &size, &at, line, 0, line, 0, 0, 0, 0, line, {nullptr, &operation}, {0, 1}, nullptr, 0,
              &vector, 1, nullptr, 0, 0, &element};
    std::vector<T> x(static_cast<size_t>(rows * 2 * n)), y(static_cast<size_t>(rows * n)), state(y), constants(static_cast<size_t>(n));
    for (std::vector<T>* v : {&x, &state, &constants})
        for (T& each : *v) each = T(r.real() + (f == ElementFunction::sqrt ? 2 : 0));
    for (T& each : x)
        if (f == ElementFunction::divide && std::abs(each) < 0.01) each = 1;
    Stream<T> stream({&p}, {{constants.data()}}, rows);
    stream.load(state.data());
    stream.run(x.data(), 1, y.data());
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < n; ++i) {
            auto from = [&](int k) -> long double {
                const T* each = k < 2 ? &x[size_t((2 * row + k) * n)] : third == Base::count ? constants.data() : &state[size_t(row * n)];
                return each[element.step[k] ? i : 0];
            };
            const long double a = from(0), b = from(1), c = from(2);
            const long double expected[] = {a, a + b, a - b, a * b, a / b, a * b + c, c - a * b, std::max(a, b), std::sqrt(a),
                                            -a, 1 / (1 + std::exp(-a)), std::tanh(a), std::exp(a), std::log1p(std::exp(a)), a / (1 + std::exp(-a))};
            const T found = y[size_t(row * n + i)];
            const long double error = std::abs(found - expected[int(f)]), scale = std::max(1.0L, std::abs(expected[int(f)]));
            if (!(error <= (sizeof(T) == 4 ? 1e-6L : 3e-15L) * scale)) fail("an element is off");
        }
}

// A causal convolution and its gradients.
template <class T> void check_convolution(const std::string& name, Random r) {
    typedef long double L;
    const int64_t steps = r.from(1, 9), rows = r.from(1, 4), size = r.one_in(3) ? r.from(60, 300) : r.from(1, 40), window = r.from(1, 5);
    now(name + "a convolution: T=" + std::to_string(steps) + " B=" + std::to_string(rows) + " E=" + std::to_string(size) +
        " k=" + std::to_string(window));
    const Layout none{false, r.from(0, 3), 0, 0};
    Tensor<T> x(steps + window - 1, rows, size, {r.one_in(3), r.from(0, 3), r.from(0, 5), r.from(0, 5)});
    Tensor<T> kernel(1, window, size, none), bias(1, 1, size, none), dy(steps, rows, size, none), y = dy;
    for (Tensor<T>* t : {&x, &kernel, &bias, &dy}) t->each([&](int64_t, int64_t, int64_t, T& v) { v = T(r.real()); });
    const bool has_bias = r.one_in(2);
    Tensor<L> expected(steps, rows, size), dx(steps + window - 1, rows, size), dkernel(1, window, size), dbias(1, 1, size);
    for (Tensor<L>* t : {&dx, &dkernel, &dbias}) t->each([](int64_t, int64_t, int64_t, L& v) { v = 0; });
    expected.each([&](int64_t t, int64_t row, int64_t e, L& v) {
        v = has_bias ? bias.data()[e] : T(0);
        const L d = dy.row(t, row)[e];
        dbias.data()[e] += d;
        for (int64_t j = 0; j < window; ++j) {
            const L k = kernel.row(0, j)[e], x_j = x.row(t + j, row)[e];
            v += k * x_j, dx.row(t + j, row)[e] += d * k, dkernel.row(0, j)[e] += d * x_j;
        }
    });
    Tensor<T> first[4];
    for (const int threads : {1, int(r.from(2, most_threads))}) {
        Tensor<T> out[4] = {y, Tensor<T>(steps + window - 1, rows, size), Tensor<T>(1, window, size, none), Tensor<T>(1, 1, size)};
        Convolution<T> c{steps, rows, size, window, x.data(), x.stride_n, x.stride_m, kernel.data(),
                         has_bias ? bias.data() : nullptr, out[0].data(), nullptr, nullptr, nullptr, nullptr};
        auto run = [&] {
            parallel(threads, [](const Member& me, void* c) { passes<T>(scans()).convolution(*static_cast<Convolution<T>*>(c), me); }, &c);
        };
        run();
        c.y = nullptr, c.dy = dy.data(), c.dx = out[1].data(), c.dkernel = out[2].data(), c.dbias = has_bias ? out[3].data() : nullptr;
        run();
        check_close("a convolution", out[0], expected, L(1)), check_close("dx", out[1], dx, L(1));
        check_close("dkernel", out[2], dkernel, L(1));
        if (has_bias) check_close("dbias", out[3], dbias, L(1));
        for (int k = 0; k < (has_bias ? 4 : 3); ++k) {
            if (out[k].written_outside()) fail("something is written beside an output of a convolution");
            if (threads == 1) first[k] = out[k], digest_of(out[k]);
            out[k].each([&](int64_t i, int64_t j, int64_t l, T& v) {
                if (!same(v, first[k].row(i, j)[l])) fail("several threads: a convolution has other bits");
            });
        }
    }
}

inline void check_selections(uint64_t seed, int64_t first, int64_t cases) {
    for (int64_t k = first; k < first + cases; ++k) {
        Random r(seed * 1000081 + uint64_t(k));
        const std::string name = case_name(seed, k);
        k % 2 ? check_selection<double>(name, r) : check_selection<float>(name, r);
        k % 2 ? check_convolution<double>(name, Random(r.next())) : check_convolution<float>(name, Random(r.next()));
        k % 2 ? check_element<double>(name, Random(r.next())) : check_element<float>(name, Random(r.next()));
    }
}

}  // namespace check
}  // namespace ostinato
