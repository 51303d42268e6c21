// Checks of linear recurrences and of products, against plain loops and against their own laws.
#pragma once

#include <limits>
#include <algorithm>
#include <complex>
#include <cstdint>
#include <string>
#include <vector>

#include "run.hpp"

namespace ostinato {
#if defined(__x86_64__)
namespace x86_64_v4 { extern const Scans scans; }
namespace x86_64_v3 { extern const Scans scans; }
namespace x86_64 { extern const Scans scans; }
#else
namespace generic { extern const Scans scans; }
#endif

namespace check {

inline const Scans& scans() {
#if defined(__x86_64__)
    const Scans* const all[] = {&x86_64_v4::scans, &x86_64_v3::scans, &x86_64::scans};
#else
    const Scans* const all[] = {&generic::scans};
#endif
    for (const Scans* each : all)
        if (!std::strcmp(each->name, instruction_set())) return *each;
    fail("no such instruction set");
}

// A recurrence drawn at random, and what it wrote.
template <class T> struct RecurrenceCase {
    int64_t steps, rows, size, width;
    bool is_complex, shared, ragged, resetting, has_h0, has_h_n, has_dh, has_dh_n, has_da, has_db, has_dh0;
    Tensor<T> a, b, h0, dh, dh_n, h, h_n, da, da_row, db, dh0;
    std::vector<int64_t> lengths;
    std::vector<uint8_t> resets;

    explicit RecurrenceCase(Random& r) {
        steps = r.one_in(12) ? 0 : r.from(1, 12), rows = r.one_in(15) ? 0 : r.from(1, 12);
        size = r.one_in(3) ? 8 * r.from(1, 4) + r.from(-1, 1) : r.from(1, 40);
        if (r.one_in(12)) size = r.from(900, 2200), rows = std::min<int64_t>(rows, 3);  // more than a tile
        is_complex = r.one_in(2), shared = r.one_in(3), ragged = r.one_in(2), resetting = r.one_in(3);
        width = is_complex ? 2 * size : size;
        has_h0 = !r.one_in(4), has_h_n = !r.one_in(4), has_dh = !r.one_in(4), has_dh_n = !r.one_in(4);
        has_da = !r.one_in(4), has_db = !r.one_in(4), has_dh0 = !r.one_in(4);
        auto layout = [&] {
            return Layout{r.one_in(3), r.from(0, 3), r.one_in(2) ? 0 : r.from(1, 5), r.one_in(2) ? 0 : r.from(1, 5)};
        };
        auto draw = [&](Tensor<T>& t) { t.each([&](int64_t, int64_t, int64_t, T& v) { v = T(r.real()); }); };
        const Layout none{false, r.from(0, 3), 0, 0};
        a = shared ? Tensor<T>(1, 1, width, none) : Tensor<T>(steps, rows, width, layout());
        b = Tensor<T>(steps, rows, width, layout()), dh = Tensor<T>(steps, rows, width, layout());
        h0 = Tensor<T>(1, rows, width, none), dh_n = Tensor<T>(1, rows, width, none);
        for (Tensor<T>* t : {&a, &b, &dh, &h0, &dh_n}) draw(*t);
        h = Tensor<T>(steps, rows, width, layout()), da = db = Tensor<T>(steps, rows, width, none);
        h_n = dh0 = da_row = Tensor<T>(1, rows, width, none);
        for (int64_t row = 0; row < rows; ++row) lengths.push_back(r.one_in(6) ? 0 : r.from(0, steps));
        for (int64_t i = 0; i < steps * rows; ++i) resets.push_back(r.one_in(4));
        lengths.push_back(0), resets.push_back(0);  // never null
        for (int64_t row = 0; ragged && row < rows; ++row)  // padding is not read
            for (int64_t t = lengths[size_t(row)]; t < steps; ++t)
                for (int64_t i = 0; i < width; ++i) {
                    if (!shared) a.row(t, row)[i] = std::numeric_limits<T>::quiet_NaN();
                    b.row(t, row)[i] = dh.row(t, row)[i] = std::numeric_limits<T>::quiet_NaN();
                }
    }
    int64_t length(int64_t row) const { return ragged ? lengths[size_t(row)] : steps; }
    bool starts(int64_t t, int64_t row) const { return resetting && resets[size_t(t * rows + row)]; }
    std::string text() const {
        return std::string(is_complex ? "complex" : "real") + " T=" + std::to_string(steps) + " B=" + std::to_string(rows) +
               " size=" + std::to_string(size) + (shared ? " shared" : "") + (ragged ? " ragged" : "") +
               (resetting ? " resets" : "");
    }
    Recurrence<T> recurrence() {
        return {steps, rows, size, is_complex, a.data(), b.data(), shared ? 0 : a.stride_n, shared ? 0 : a.stride_m,
                b.stride_n, b.stride_m, has_h0 ? h0.data() : nullptr, ragged ? lengths.data() : nullptr,
                resetting ? resets.data() : nullptr, h.data(), h.stride_n, h.stride_m, has_h_n ? h_n.data() : nullptr};
    }
    RecurrenceGradients<T> gradients() {
        return {has_dh ? dh.data() : nullptr, dh.stride_n, dh.stride_m, has_dh_n ? dh_n.data() : nullptr,
                has_dh0 ? dh0.data() : nullptr, has_da && shared ? da_row.data() : nullptr,
                has_da && !shared ? da.data() : nullptr, has_db ? db.data() : nullptr};
    }
    void run(int threads) {
        struct Context {
            RecurrenceCase& c;
            bool backward;
        };
        for (const bool backward : {false, true}) {
            Context context{*this, backward};
            parallel(threads, [](const Member& me, void* context) {
                Context& c = *static_cast<Context*>(context);
                const ScanPasses<T>& p = passes<T>(scans());
                if (c.backward) p.backward(c.c.recurrence(), c.c.gradients(), me);
                else p.forward(c.c.recurrence(), me);
            }, &context);
        }
    }
};

// By plain loops over complex numbers, a row and a number at a time.
template <class T> void check_against_loop(RecurrenceCase<T>& c) {
    typedef std::complex<long double> C;
    auto zero = [](Tensor<long double>& t) { t.each([](int64_t, int64_t, int64_t, long double& v) { v = 0; }); };
    Tensor<long double> h(c.steps, c.rows, c.width), da = h, db = h, h_n(1, c.rows, c.width), dh0 = h_n, da_row = h_n;
    for (Tensor<long double>* t : {&h, &da, &db, &h_n, &dh0, &da_row}) zero(*t);
    for (int64_t row = 0; row < c.rows; ++row)
        for (int64_t i = 0; i < c.size; ++i) {
            auto get = [&](const T* p) { return C(p[i], c.is_complex ? p[c.size + i] : T(0)); };
            auto put = [&](long double* p, C v) {
                p[i] = v.real();
                if (c.is_complex) p[c.size + i] = v.imag();
            };
            auto factor = [&](int64_t t) { return get(c.shared ? c.a.data() : c.a.row(t, row)); };
            C now = c.has_h0 ? get(c.h0.row(0, row)) : C(0);
            std::vector<C> before;
            for (int64_t t = 0; t < c.length(row); ++t) {
                before.push_back(c.starts(t, row) ? C(0) : now);
                now = factor(t) * before.back() + get(c.b.row(t, row));
                put(h.row(t, row), now);
            }
            put(h_n.row(0, row), now);
            C d = c.has_dh_n ? get(c.dh_n.row(0, row)) : C(0), sum = 0;
            for (int64_t t = c.length(row) - 1; t >= 0; --t) {
                if (c.has_dh) d += get(c.dh.row(t, row));
                put(db.row(t, row), d);
                const C own = d * std::conj(before[size_t(t)]);
                put(da.row(t, row), own);
                sum += own;
                d = c.starts(t, row) ? C(0) : d * std::conj(factor(t));
            }
            put(dh0.row(0, row), d), put(da_row.row(0, row), sum);
        }
    check_close("h", c.h, h, 1.0L);
    if (c.has_h_n) check_close("h_n", c.h_n, h_n, 1.0L);
    if (c.has_da && c.shared) check_close("da of a row", c.da_row, da_row, 1.0L);
    if (c.has_da && !c.shared) check_close("da", c.da, da, 1.0L);
    if (c.has_db) check_close("db", c.db, db, 1.0L);
    if (c.has_dh0) check_close("dh0", c.dh0, dh0, 1.0L);
}

template <class T> void check_recurrence(const std::string& name, Random r) {
    RecurrenceCase<T> given(r);
    now(name + "a recurrence: " + given.text());
    RecurrenceCase<T> one = given, other = given, chunks = given;
    one.run(1);
    check_against_loop(one);
    auto outputs = [](RecurrenceCase<T>& c) {
        return std::vector<Tensor<T>*>{&c.h, &c.h_n, &c.da, &c.da_row, &c.db, &c.dh0};
    };
    other.run(int(r.from(2, most_threads)));
    for (size_t k = 0; k < outputs(one).size(); ++k) {
        if (outputs(one)[k]->written_outside()) fail("something is written beside an output of a recurrence");
        outputs(one)[k]->each([&](int64_t i, int64_t j, int64_t l, T& v) {
            if (!same(v, outputs(other)[k]->row(i, j)[l])) fail("several threads: a recurrence has other bits");
        });
        if (k == 0 || (k == 1 && one.has_h_n)) digest_of(*outputs(one)[k]);
    }
    if (!one.a.unchanged_since(given.a) || !one.b.unchanged_since(given.b)) fail("a recurrence changes its inputs");
    // A step at a time.
    std::vector<T> state[2];
    for (auto& each : state) each.resize(size_t(given.rows * given.width + 1));
    for (int64_t t = 0; t < given.steps; ++t) {
        Recurrence<T> s = chunks.recurrence();
        std::vector<int64_t> left(given.lengths);
        for (int64_t& n : left) n = n > t ? 1 : 0;
        s.steps = 1, s.a += t * s.a_t, s.b += t * s.b_t, s.h += t * s.h_t, s.h_n = state[t % 2].data();
        if (s.lengths) s.lengths = left.data();
        if (s.resets) s.resets += t * s.rows;
        if (t > 0) s.h0 = state[(t + 1) % 2].data();
        scan_forward(s, most_threads);
    }
    one.h.each([&](int64_t t, int64_t row, int64_t l, T& v) {
        if (!same(v, chunks.h.row(t, row)[l])) fail("step by step: a recurrence has other bits");
    });
}

template <class T> void check_product(const std::string& name, Random r) {
    const int64_t rows = r.one_in(3) ? r.from(90, 220) : r.from(1, 20), k = r.one_in(4) ? r.from(600, 1100) : r.from(1, 50);
    const int64_t columns = r.one_in(3) ? r.from(40, 170) : r.from(1, 40);
    now(name + "a product: " + std::to_string(rows) + " x " + std::to_string(k) + " x " + std::to_string(columns));
    const Layout none{false, r.from(0, 3), 0, 0};
    Tensor<T> x(1, rows, k, none), weight(1, columns, k, none), bias(1, 1, columns, none), y(1, rows, columns, none);
    for (Tensor<T>* t : {&x, &weight, &bias}) t->each([&](int64_t, int64_t, int64_t, T& v) { v = T(r.real()); });
    const bool has_bias = r.one_in(2);
    Tensor<long double> expected(1, rows, columns);
    expected.each([&](int64_t, int64_t i, int64_t j, long double& v) {
        v = has_bias ? bias.data()[j] : T(0);
        for (int64_t l = 0; l < k; ++l) v += static_cast<long double>(x.row(0, i)[l]) * weight.row(0, j)[l];
    });
    Tensor<T> first;
    for (const int threads : {1, int(r.from(2, most_threads))}) {
        y = Tensor<T>(1, rows, columns, none);
        struct Context {
            Product<T> p;
            std::vector<char> memory;
            char* block;
        } context{{rows, k, columns, x.data(), weight.data(), has_bias ? bias.data() : nullptr, y.data()}, {}, nullptr};
        context.memory.resize(size_t(passes<T>(scans()).product_memory(context.p, threads)) + 64);
        context.block = context.memory.data() + (64 - reinterpret_cast<uintptr_t>(context.memory.data()) % 64) % 64;
        parallel(threads, [](const Member& me, void* context) {
            Context& c = *static_cast<Context*>(context);
            passes<T>(scans()).product(c.p, c.block, me);
        }, &context);
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(context.memory.data(), context.memory.size());
#endif
        check_close("a product", y, expected, 1.0L);
        if (y.written_outside()) fail("something is written beside a product");
        if (threads == 1) first = y;
        y.each([&](int64_t i, int64_t j, int64_t l, T& v) {
            if (!same(v, first.row(i, j)[l])) fail("several threads: a product has other bits");
        });
    }
    digest_of(y);
    // One row, through core.hpp.
    const int64_t row = r.from(0, rows - 1);
    Tensor<T> alone(1, 1, columns);
    product<T>({1, k, columns, x.row(0, row), weight.data(), has_bias ? bias.data() : nullptr, alone.data()}, 2);
    alone.each([&](int64_t, int64_t, int64_t l, T& v) {
        if (!same(v, first.row(0, row)[l])) fail("a row alone: a product has other bits");
    });
}

// A function of numbers that lie in rows, whole or with gaps between them, of any length.
template <class T> void check_map(const std::string& name, Random r) {
    const int64_t rows = r.from(1, 9), columns = r.from(1, 70);
    const Function f = Function(r.from(0, 5));
    now(name + "a function " + std::to_string(int(f)) + " of " + std::to_string(rows) + " x " + std::to_string(columns));
    Tensor<T> x(1, rows, columns, {false, r.from(0, 3), r.one_in(2) ? 0 : r.from(1, 9), 0}), y(1, rows, columns);
    const double size = r.one_in(3) ? 85 : r.one_in(2) ? 1e-3 : 5;
    x.each([&](int64_t, int64_t, int64_t, T& v) { v = T(f == Function::sqrt ? 1e-3 + std::abs(size * r.real()) : size * r.real()); });
    struct Context {
        Map<T> m;
    } context{{f, rows, columns, x.stride_m, x.data(), y.data(), nullptr}};
    parallel(int(r.from(1, most_threads)), [](const Member& me, void* context) {
        passes<T>(scans()).map(static_cast<Context*>(context)->m, me);
    }, &context);
    if (y.written_outside()) fail("something is written beside a function's values");
    y.each([&](int64_t, int64_t i, int64_t j, T& v) {
        const long double a = x.row(0, i)[j], e = std::exp(a);
        const long double expected = f == Function::sigmoid ? 1 / (1 + std::exp(-a)) : f == Function::tanh ? std::tanh(a)
                                   : f == Function::exp ? e : f == Function::softplus ? std::log1p(e) : f == Function::silu ? a / (1 + std::exp(-a)) : std::sqrt(a);
        const long double scale = std::max(std::abs(expected), 1e-37L), near = sizeof(T) == 4 ? 1e-6L : 3e-15L;
        if (!(std::abs(v - expected) <= near * scale)) fail("a function is off at " + std::to_string(double(a)));
        T alone;
        map<T>({f, 1, 1, 1, x.row(0, i) + j, &alone, nullptr}, 1);
        if (!same(alone, v)) fail("a number alone: a function has other bits");
    });
    digest_of(y);
    Tensor<T> dx(1, rows, columns), dy(1, rows, columns);
    dy.each([&](int64_t, int64_t, int64_t, T& v) { v = T(r.real()); });
    const bool given = f == Function::softplus || f == Function::silu;
    map<T>({f, rows, columns, given ? x.stride_m : columns, given ? x.data() : y.data(), dx.data(), dy.data()}, most_threads);
    dx.each([&](int64_t, int64_t i, int64_t j, T& v) {
        const long double value = y.row(0, i)[j], d = dy.row(0, i)[j];
        const long double a = x.row(0, i)[j], s = 1 / (1 + std::exp(-a));
        const long double slope = f == Function::sigmoid ? value * (1 - value) : f == Function::tanh ? 1 - value * value
                                : f == Function::exp ? value : f == Function::softplus ? s : f == Function::silu ? s * (1 + a * (1 - s)) : 0.5L / value;
        const long double scale = std::max(std::abs(d * slope), f == Function::exp ? 1e-37L : 1e-1L);
        const long double zero = std::numeric_limits<T>::min();  // subnormal numbers count as zero
        if (!(std::abs(v - d * slope) <= (sizeof(T) == 4 ? 1e-6L : 3e-15L) * scale + zero))
            fail("a function's gradient is off at " + std::to_string(double(x.row(0, i)[j])));
    });
    digest_of(dx);
}

inline void check_recurrences(uint64_t seed, int64_t first, int64_t cases) {
    for (int64_t k = first; k < first + cases; ++k) {
        Random r(seed * 1000037 + uint64_t(k));
        const std::string name = case_name(seed, k);
        if (k % 4 == 0) check_recurrence<float>(name, r);
        if (k % 4 == 1) check_recurrence<double>(name, r);
        if (k % 4 == 2) check_product<float>(name, r);
        if (k % 4 == 3) check_product<double>(name, r);
        if (k % 4 == 0) check_map<float>(name, Random(r.next()));
        if (k % 4 == 1) check_map<double>(name, Random(r.next()));
    }
}

}  // namespace check
}  // namespace ostinato
