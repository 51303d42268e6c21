// The oracle of the check: the equations of src/ostinato/recurrence/cells/ and what the chain rule
// makes of them, in the plainest way, and nothing that the core is made of.
#pragma once

#include "case.hpp"

namespace ostinato {
namespace check {

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
    // Both sides of every product are rounded to 8 bits first, as in a stream of that precision.
    bool quantized = false;

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
    // The largest of the numbers stands for 127; their rounding is that of floats.
    static float largest(const R* a, int64_t n) {
        float most = 0;
        for (int64_t j = 0; j < n; ++j) most = std::max(most, std::abs(float(a[j])));
        return most;
    }
    R times(const R* a, const R* b, int64_t n) {
        R sum = 0;
        if (quantized) {
            const float most_a = largest(a, n), most_b = largest(b, n);
            if (most_a < 1e-30f || most_b < 1e-30f) return 0;
            for (int64_t j = 0; j < n; ++j)
                sum += R(std::nearbyint(float(a[j]) * (127 / most_a))) *
                       R(std::nearbyint(float(b[j]) * (127 / most_b)));
            return sum * R(most_a) * R(most_b) / (127 * 127);
        }
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
                    own(i, b_ih, 0, k) + times(d.own[i][w_ih].row(0, k), d.x_row(d.x, e.t, b), I);
                e.of_h[size_t(k)] = recur(k, h);
            }
            R* gates = d.gates[i].row(e.t, b);
            for (int64_t u = 0; u < H; ++u) {
                auto a = [&](int64_t gate) {
                    return e.of_x[size_t(gate * H + u)] + e.of_h[size_t(gate * H + u)];
                };
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
                        const R reset = logistic(a(0)), update = logistic(a(1));
                        const R before = e.h_before[size_t(u)];
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
                for (int64_t k = 2 * H; k < 3 * H; ++k) dfed += own(i, w_hh, k, u) * d_of_h[size_t(k)];
                const R a = e.of_x[size_t(u)] + e.of_h[size_t(u)];
                dh_before[size_t(u)] += dfed * logistic(a);
                d_of_x[size_t(u)] = d_of_h[size_t(u)] = dfed * e.h_before[size_t(u)] * logistic_slope(a);
            }
            for (int64_t k = 0; k < p.G * H; ++k) {
                const bool through_reset = p.reset_before() && k >= 2 * H;
                const Vector& fed = through_reset ? e.fed : e.h_before;
                const R da_x = d_of_x[size_t(k)], da_h = d_of_h[size_t(k)];
                own(i, db_ih, 0, k) += da_x, own(i, db_hh, 0, k) += da_h;
                const R *w_x = d.own[i][w_ih].row(0, k), *w_h = d.own[i][w_hh].row(0, k);
                const R* x = d.x_row(d.x, e.t, b);
                R *dw_x = d.own[i][dw_ih].row(0, k), *dw_h = d.own[i][dw_hh].row(0, k);
                R* dx = d.x_row(d.dx, e.t, b);
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

}  // namespace check
}  // namespace ostinato
