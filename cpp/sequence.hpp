// What the core computes: one recurrent layer, in one direction or both, over a whole sequence.
//
// Plain data, shared by every instruction set. T is float or double. Sizes: `steps` time, `rows`
// batch, I input features, H hidden features, P features of h (P = H but for a projected LSTM),
// G gates a unit (RNN 1, LSTM 4 in the order i f g o, GRU 3 in the order r z n).
//
// Everything a pointer shows is the caller's, must live until the call returns, and may not overlap
// with anything that is written. No other alignment than that of T is asked for, but for `lines`.
#pragma once

#include <cstdint>

namespace ostinato {

enum class CellKind : int { rnn, lstm, gru, gru_reset_before };
enum class Activation : int { tanh, relu, sigmoid, identity };

struct Shape {
    CellKind cell;
    Activation activation;  // of an RNN
    int64_t I, H, P;
    // Always inline: see target.cpp.
    __attribute__((always_inline)) bool projects() const { return P != H; }
    __attribute__((always_inline)) int gates() const {
        return cell == CellKind::rnn ? 1 : cell == CellKind::lstm ? 4 : 3;
    }
};

// Contiguous, in PyTorch's layout: w_ih (G*H, I), w_hh (G*H, P), b_ih and b_hh (G*H) or null,
// w_hr (P, H) of a projected LSTM.
template <class T> struct Weights {
    const T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};

template <class T> struct Direction {
    Weights<T> w;
    bool reverse;        // from the last step of each row to its first
    const T *h0, *c0;    // (rows, P), (rows, H), contiguous; null for zeros
    T* y;                // h of every step, at t * y_t + b * y_b + p; zeros past a row's length
    T *h_n, *c_n;        // (rows, P), (rows, H), contiguous; null where not needed; c of an LSTM
    // The workspace, which backward needs, and where gates and states can be read: line_length() numbers
    // for each (t, b), 64-byte aligned, or null where neither is needed. See lines.hpp.
    T* lines;
    // Null, or c of an LSTM after every `checkpoint_every` steps but the last: (checkpoints(), rows, H), of
    // each row as the direction reads it. Numbers past a row's last step are not written.
    T* c_kept;
};

template <class T> struct Sequence {
    Shape shape;
    int64_t steps, rows;
    const T* x;          // at t * x_t + b * x_b + i
    int64_t x_t, x_b, y_t, y_b;
    // Steps of each row, 0 to `steps`, and the rows by falling length; both null where all are full.
    const int64_t *lengths, *order;
    // 0 where backward reads the workspace that forward left; else it has none, and recomputes it, so many
    // steps at a time, from y and c_kept.
    int64_t checkpoint_every;
    int directions;      // 1 or 2; both read the same x
    Direction<T> direction[2];
    // Null, or x is a table of `table_rows` rows, x_b apart, and a step takes the row
    // tokens[t * tokens_t + b * tokens_b], which must be one of them (in padding too). The table is
    // multiplied instead of the steps, and dx is the gradient of the table.
    const int64_t* tokens;
    int64_t tokens_t, tokens_b, table_rows;

    __attribute__((always_inline)) int64_t checkpoints() const {
        return checkpoint_every > 0 && steps > 0 ? (steps - 1) / checkpoint_every : 0;
    }
};

// Incoming gradients (null for zeros) and outgoing ones (null where not needed), laid out as the tensors
// they belong to; overwritten, not added to.
template <class T> struct DirectionGradients {
    const T *dy, *dh_n, *dc_n;
    T *dw_ih, *dw_hh, *db_ih, *db_hh, *dw_hr, *dh0, *dc0;
};

// dx is the sum over both directions. Backward reads the sequence as forward left it, and overwrites its
// workspace, if it has one: it can run once on it.
template <class T> struct Gradients {
    int64_t dy_t, dy_b;
    T* dx;
    int64_t dx_t, dx_b;
    DirectionGradients<T> direction[2];
};

// What threads share of the steps of a recurrence: nothing, since one follows them alone; the rows or the
// directions; or the units of a step, at each of which they wait for one another.
enum class Sharing { none, rows, units };

}  // namespace ostinato
