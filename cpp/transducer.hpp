// The forward-backward algorithm of lattice.hpp. What is on one diagonal, t + u = d, depends on the diagonal before
// alone, so the lattice is laid out by diagonals, [d][u], and a vector goes along one. Where there is no lattice, and
// around it, log-probabilities are minus infinity: no path goes there, and nothing asks where it ends. All of it is in
// double: log-probabilities of thousands of steps have thousands before their point.
#pragma once

#include <cstring>
#include <limits>

#include "functions.hpp"
#include "lattice.hpp"
#include "lines.hpp"
#include "threads.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

constexpr double no_path = -std::numeric_limits<double>::infinity();

// log(1 + y) for y from 0 to 1, as twice the area hyperbolic tangent of y / (2 + y), which is a third at most.
inline Vec<double> log_of_one_plus(Vec<double> y) {
    const Vec<double> s = y / (2.0 + y), q = s * s;
    const Vec<double> p = polynomial(q, 1.0 / 33, 1.0 / 31, 1.0 / 29, 1.0 / 27, 1.0 / 25, 1.0 / 23, 1.0 / 21, 1.0 / 19,
                                     1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3);
    return fma(2.0 * s * q, p, 2.0 * s);
}

// log(e^a + e^b); NaN where either is.
inline Vec<double> log_add(Vec<double> a, Vec<double> b) {
    const Vec<double> high = maximum<double>(a, b), low = minimum<double>(a, b);
    const Vec<double> sum = high + log_of_one_plus(exp_plus(low - high, 0.0));
    return high == no_path ? high : sum;
}

// The lattice of one row by diagonals of `width` numbers, `margin` of them before u = 0.
struct Diagonals {
    static constexpr int64_t margin = W<double>;
    int64_t width;
    double *blank, *label, *alpha, *beta;  // of beta one diagonal

    Diagonals(int64_t frames, int64_t labels, Arena& arena) : width(width_for(labels)) {
        const int64_t all = (frames + labels + 1) * width;
        for (double** each : {&blank, &label, &alpha}) *each = arena.take<double>(all);
        beta = arena.take<double>(width + margin);
    }
    static int64_t width_for(int64_t labels) { return margin + (labels + margin) / margin * margin; }
    int64_t at(int64_t d, int64_t u) const { return d * width + margin + u; }
};

template <class T> int64_t lattice_memory(const Lattice<T>& l, int threads) {
    Arena arena(nullptr);
    for (int i = 0; i < threads; ++i) Diagonals(l.frames, l.labels, arena);
    return arena.used();
}

template <class T> void run_lattice(const Lattice<T>& l, int64_t row, Diagonals& s) {
    const int64_t frames = l.length(row), labels = l.label_length(row), last = frames + labels, columns = l.labels + 1;
    const T* const log_p = l.log_p + row * l.frames * columns * 2;
    s.width = Diagonals::width_for(labels);
    for (double* each : {s.blank, s.label, s.alpha})
        for (int64_t i = 0; i < (last + 1) * s.width; ++i) each[i] = no_path;
    for (int64_t t = 0; t < frames; ++t)
        for (int64_t u = 0; u <= labels; ++u) {
            const T* const from = log_p + (t * columns + u) * 2;
            s.blank[s.at(t + u, u)] = double(from[0]);
            if (u < labels) s.label[s.at(t + u, u)] = double(from[1]);
        }
    s.alpha[s.at(0, 0)] = 0;
    for (int64_t d = 1; d <= last; ++d)
        for (int64_t u = 0; u <= labels; u += W<double>) {
            const int64_t before = s.at(d - 1, u);
            store(s.alpha + s.at(d, u), log_add(load(s.alpha + before) + load(s.blank + before),
                                                load(s.alpha + before - 1) + load(s.label + before - 1)));
        }
    const double total = s.alpha[s.at(last, labels)];
    l.losses[row] = T(0.0 - total);
    if (!l.gradients) return;
    T* const gradients = l.gradients + row * l.frames * columns * 2;
    std::memset(gradients, 0, size_t(l.frames * columns * 2) * sizeof(T));
    if (total == no_path) return;
    for (int64_t i = 0; i < s.width + Diagonals::margin; ++i) s.beta[i] = no_path;
    s.beta[s.at(0, labels)] = 0;
    for (int64_t d = last - 1; d >= 0; --d)
        for (int64_t u = 0; u <= labels; u += W<double>) {
            double *const blank = s.blank + s.at(d, u), *const label = s.label + s.at(d, u), *const beta = s.beta + s.at(0, u);
            const Vec<double> alpha = load(s.alpha + s.at(d, u)) - total;
            const Vec<double> by_blank = load(beta) + load(blank), by_label = load(beta + 1) + load(label);
            store(beta, log_add(by_blank, by_label));
            store(blank, -exp(alpha + by_blank)), store(label, -exp(alpha + by_label));
        }
    for (int64_t t = 0; t < frames; ++t)
        for (int64_t u = 0; u <= labels; ++u) {
            T* const to = gradients + (t * columns + u) * 2;
            to[0] = T(s.blank[s.at(t + u, u)]);
            if (u < labels) to[1] = T(s.label[s.at(t + u, u)]);
        }
}

template <class T> void lattice(const Lattice<T>& l, char* block, const Member& me) {
    Arena arena(block);
    for (int i = 0; i < me.index; ++i) Diagonals(l.frames, l.labels, arena);
    Diagonals mine(l.frames, l.labels, arena);
    for (int64_t row = me.index; row < l.rows; row += me.count) run_lattice(l, row, mine);
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
