// A recurrent layer one step at a time, as real-time audio plug-ins have it (RTNeural): a loop in C++ with
// Eigen, all sizes known to the compiler. Compiled by peers.py for one CELL (RNN, LSTM, GRU) and SIZE.
#define EIGEN_STACK_ALLOCATION_LIMIT 0  // layers stand on the heap
#include <Eigen/Dense>

namespace {

enum Cell { RNN = 1, GRU = 3, LSTM = 4 };  // by their gates
constexpr int G = CELL, H = SIZE;

using Vector = Eigen::Matrix<float, H, 1>;
using Gates = Eigen::Matrix<float, G * H, 1>;

// Weights in PARTS matrices of as many rows each: one for every gate, or one for all gates together.
template <int Parts> struct Layer {
    static constexpr int rows = G * H / Parts;
    Eigen::Matrix<float, rows, H> of_x[Parts], of_h[Parts];
    Gates bias_x, bias_h, from_x, from_h;
    Vector h = Vector::Zero(), c = Vector::Zero();

    Layer(const float* w_ih, const float* w_hh, const float* b_ih, const float* b_hh) : bias_x(b_ih), bias_h(b_hh) {
        using RowMajor = Eigen::Matrix<float, rows, H, Eigen::RowMajor>;
        for (int p = 0; p < Parts; ++p) {
            of_x[p] = Eigen::Map<const RowMajor>(w_ih + p * rows * H);
            of_h[p] = Eigen::Map<const RowMajor>(w_hh + p * rows * H);
        }
        if (G != GRU) bias_x += bias_h;
    }

    template <class X> static auto sigmoid(const X& x) { return ((-x).exp() + 1.0f).inverse(); }

    void step(const Vector& x) {
        from_x = bias_x;
        if (G == GRU) from_h = bias_h;
        Gates& sum = G == GRU ? from_h : from_x;
        for (int p = 0; p < Parts; ++p) {
            from_x.template segment<rows>(p * rows).noalias() += of_x[p] * x;
            sum.template segment<rows>(p * rows).noalias() += of_h[p] * h;
        }
        const auto gate = [](Gates& gates, int g) { return gates.template segment<H>(g * H).array(); };
        if constexpr (G == RNN) {
            h = gate(from_x, 0).tanh();
        } else if constexpr (G == LSTM) {
            c = sigmoid(gate(from_x, 1)) * c.array() + sigmoid(gate(from_x, 0)) * gate(from_x, 2).tanh();
            h = sigmoid(gate(from_x, 3)) * c.array().tanh();
        } else {
            gate(from_x, 0) = sigmoid(gate(from_x, 0) + gate(from_h, 0));
            gate(from_x, 1) = sigmoid(gate(from_x, 1) + gate(from_h, 1));
            gate(from_x, 2) = (gate(from_x, 2) + gate(from_x, 0) * gate(from_h, 2)).tanh();
            h = gate(from_x, 2) + gate(from_x, 1) * (h.array() - gate(from_x, 2));
        }
    }

    void run(const float* x, long steps, float* y) {
        for (long t = 0; t < steps; ++t) {
            step(Vector(x + t * H));
            Eigen::Map<Vector>(y + t * H) = h;
        }
    }
};

}  // namespace

using Chosen = Layer<PARTS>;

extern "C" void* create(const float* w_ih, const float* w_hh, const float* b_ih, const float* b_hh) {
    return new Chosen(w_ih, w_hh, b_ih, b_hh);
}
extern "C" void destroy(void* layer) { delete static_cast<Chosen*>(layer); }
extern "C" void run(void* layer, const float* x, long steps, float* y) {
    static_cast<Chosen*>(layer)->run(x, steps, y);
}
