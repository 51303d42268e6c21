// Linear recurrences, h_t = a_t * h_(t-1) + b_t, and products of rows with a matrix: what the cells need
// whose gates do not depend on h. Plain data, as in sequence.hpp, with the same rules for pointers.
#pragma once

#include <cstdint>

namespace ostinato {

// A complex number is a pair: a vector of `size` complex numbers is their real parts, then their
// imaginary parts. `width` real numbers stand for a vector of either kind.
template <class T> struct Recurrence {
    int64_t steps, rows, size;
    bool is_complex;
    const T* a;              // at t * a_t + b * a_b + i; where all steps have the same, both are 0
    const T* b;              // at t * b_t + b * b_b + i
    int64_t a_t, a_b, b_t, b_b;
    const T* h0;             // (rows, width), contiguous; null for zeros
    const int64_t* lengths;  // steps of each row, 0 to `steps`; null where all are full
    const uint8_t* resets;   // (steps, rows): not 0 where a step starts from h = 0; null for never
    T* h;                    // at t * h_t + b * h_b + i; zeros past a row's length
    int64_t h_t, h_b;
    T* h_n;                  // (rows, width), contiguous: h of each row's last step; null where not needed

    __attribute__((always_inline)) bool is_constant() const { return a_t == 0 && a_b == 0; }
    __attribute__((always_inline)) int64_t width() const { return is_complex ? 2 * size : size; }
    __attribute__((always_inline)) int64_t length(int64_t row) const { return lengths ? lengths[row] : steps; }
};

// Incoming gradients are null for zeros, outgoing ones where not needed. The gradient of a complex number is
// the pair of those of its two parts.
template <class T> struct RecurrenceGradients {
    const T* dh;             // at t * dh_t + b * dh_b + i
    int64_t dh_t, dh_b;
    const T* dh_n;           // (rows, width), as are the two that follow
    T* dh0;
    T* da_row;               // of an a that all steps share: the sum over the steps of each row
    T *da, *db;              // (steps, rows, width), contiguous; zeros past a row's length
};

// y = x W^T + bias for `rows` rows: x (rows, k), weight (columns, k), bias (columns) or null, y (rows,
// columns), all contiguous. A row's bits do not depend on the rows beside it.
template <class T> struct Product {
    int64_t rows, k, columns;
    const T *x, *weight, *bias;
    T* y;
};

enum class Function : int { sigmoid, tanh, exp, softplus };

// y = f(x), number by number: x (rows, columns), its rows x_row apart, y contiguous. A number's bits do not
// depend on where it stands.
template <class T> struct Map {
    Function function;
    int64_t rows, columns, x_row;
    const T* x;
    T* y;
    // Null, or the gradient of y, (rows, columns), contiguous: y takes that of x then, and x is what f gave,
    // but of softplus what it was given.
    const T* dy;
};

}  // namespace ostinato
