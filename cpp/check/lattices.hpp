// Checks of the loss of an RNN transducer, against plain loops over the nodes of the lattice.
#pragma once

#include "recurrences.hpp"

namespace ostinato {
namespace check {

// A batch of lattices drawn at random, and what was found of it.
template <class T> struct LatticeCase {
    int64_t rows, frames, labels;
    bool ragged, has_gradients;
    Tensor<T> log_p, losses, gradients;
    std::vector<int64_t> lengths, label_lengths;

    explicit LatticeCase(Random& r) {
        rows = r.one_in(15) ? 0 : r.from(1, 6), frames = r.one_in(12) ? 0 : r.from(1, 30);
        labels = r.one_in(6) ? 0 : r.one_in(3) ? 8 * r.from(1, 3) + r.from(-2, 1) : r.from(1, 20);
        ragged = r.one_in(2), has_gradients = !r.one_in(5);
        const Layout whole{false, r.from(0, 3), 0, 0};
        log_p = gradients = Tensor<T>(rows, frames, 2 * (labels + 1), whole);
        losses = Tensor<T>(1, 1, rows, whole);
        const bool holed = r.one_in(4);
        log_p.each([&](int64_t, int64_t, int64_t, T& x) {
            x = holed && r.one_in(12) ? -std::numeric_limits<T>::infinity() : T(2 * r.real() - 2);
        });
        for (int64_t row = 0; row < rows; ++row) {
            lengths.push_back(r.one_in(6) ? 0 : r.from(0, frames)), label_lengths.push_back(r.from(0, labels));
            for (int64_t t = 0; t < frames; ++t)  // padding is not read
                for (int64_t u = 0; u <= labels; ++u)
                    for (int64_t k = 0; k < 2; ++k)
                        if (t >= length(row) || u + k > label_length(row))
                            log_p.row(row, t)[2 * u + k] = std::numeric_limits<T>::quiet_NaN();
        }
        lengths.push_back(0), label_lengths.push_back(0);  // never null
    }
    int64_t length(int64_t row) const { return ragged ? lengths[size_t(row)] : frames; }
    int64_t label_length(int64_t row) const { return ragged ? label_lengths[size_t(row)] : labels; }
    std::string text() const {
        return "B=" + std::to_string(rows) + " T=" + std::to_string(frames) + " U=" + std::to_string(labels) +
               (ragged ? " ragged" : "") + (has_gradients ? "" : " no gradients");
    }
    void run(int threads) {
        lattice(Lattice<T>{rows, frames, labels, log_p.data(), ragged ? lengths.data() : nullptr,
                           ragged ? label_lengths.data() : nullptr, losses.data(), has_gradients ? gradients.data() : nullptr},
                threads);
    }
};

// By the recursions as they are written, in the numbers themselves: no row here is so long that they vanish.
template <class T> void check_against_loop(LatticeCase<T>& c) {
    typedef long double L;
    Tensor<L> gradients(c.rows, c.frames, 2 * (c.labels + 1));
    gradients.each([](int64_t, int64_t, int64_t, L& x) { x = 0; });
    for (int64_t row = 0; row < c.rows; ++row) {
        const int64_t frames = c.length(row), labels = c.label_length(row), columns = labels + 1;
        auto p = [&](int64_t t, int64_t u, int k) -> L {
            return t < frames && u + k <= labels ? std::exp(L(c.log_p.row(row, t)[2 * u + k])) : L(0);
        };
        std::vector<L> alpha(size_t((frames + 1) * columns), L(0)), beta(size_t((frames + 2) * (columns + 1)), L(0));
        auto a = [&](int64_t t, int64_t u) -> L& { return alpha[size_t(t * columns + u)]; };
        auto b = [&](int64_t t, int64_t u) -> L& { return beta[size_t(t * (columns + 1) + u)]; };
        for (int64_t t = 0; t <= frames; ++t)
            for (int64_t u = 0; u <= labels; ++u)
                a(t, u) = (t + u == 0 ? L(1) : L(0)) + (t > 0 ? a(t - 1, u) * p(t - 1, u, 0) : L(0)) +
                          (u > 0 ? a(t, u - 1) * p(t, u - 1, 1) : L(0));
        b(frames, labels) = 1;
        for (int64_t t = frames - 1; t >= 0; --t)
            for (int64_t u = labels; u >= 0; --u) b(t, u) = p(t, u, 0) * b(t + 1, u) + p(t, u, 1) * b(t, u + 1);
        const L total = a(frames, labels), loss = -std::log(total), found = c.losses.data()[row];
        if (total == 0 ? found != std::numeric_limits<L>::infinity()
                       : !(std::abs(found - loss) <= (std::abs(loss) + 1) * (sizeof(T) == 4 ? 1e-6L : 1e-13L)))
            fail("the loss of row " + std::to_string(row) + " is " + std::to_string(double(found)) + "; expected " +
                 std::to_string(double(loss)));
        for (int64_t t = 0; total > 0 && t < frames; ++t)
            for (int64_t u = 0; u <= labels; ++u) {
                gradients.row(row, t)[2 * u] = -a(t, u) * p(t, u, 0) * b(t + 1, u) / total;
                gradients.row(row, t)[2 * u + 1] = u < labels ? -a(t, u) * p(t, u, 1) * b(t, u + 1) / total : L(0);
            }
    }
    if (c.has_gradients) check_close("gradients", c.gradients, gradients, L(1));
}

template <class T> void check_lattice(const std::string& name, Random r) {
    LatticeCase<T> given(r);
    now(name + "a lattice: " + given.text());
    LatticeCase<T> one = given, other = given;
    one.run(1), other.run(int(r.from(2, most_threads)));
    check_against_loop(one);
    for (auto [a, b] : {std::pair(&one.losses, &other.losses), {&one.gradients, &other.gradients}}) {
        if (a->written_outside()) fail("something is written beside an output of a lattice");
        a->each([&, b = b](int64_t i, int64_t j, int64_t l, T& v) {
            if (!same(v, b->row(i, j)[l])) fail("several threads: a lattice has other bits");
        });
        digest_of(*a);
    }
    if (!one.log_p.unchanged_since(given.log_p)) fail("a lattice changes its input");
}

inline void check_lattices(uint64_t seed, int64_t first, int64_t cases) {
    for (int64_t k = first; k < first + cases; ++k) {
        Random r(seed * 1000151 + uint64_t(k));
        k % 2 ? check_lattice<double>(case_name(seed, k), r) : check_lattice<float>(case_name(seed, k), r);
    }
}

}  // namespace check
}  // namespace ostinato
