// Linear recurrences, h_t = a_t * h_(t-1) + b_t, and products of rows with a matrix: what the cells need
// whose gates do not depend on h. Plain data, as in sequence.hpp, with the same rules for pointers.
#pragma once

#include <cstdint>

#include "program.hpp"

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

// A selective scan: numbers c of a state, `memory` for each of `size` features, of which feature e puts out
//   c_t[n][e] = exp(d_t[e] A[n][e]) c_(t-1)[n][e] + d_t[e] v_t[e] B_t[n]
//   y_t[e] = D[e] v_t[e] + the sum over n of C_t[n] c_t[n][e]
// so that c, a and b are never written out: only c before each `selection_chunk` steps, which backward starts from.
constexpr int64_t selection_chunk = 16;
constexpr int64_t selection_tile = 512;  // bytes of features that one thread takes; sums over more are by the caller
template <class T> struct Selection {
    int64_t steps, rows, size, memory;
    const T *d, *v, *B, *C;     // at t * (their _t) + row * (their _b) + e, or n
    int64_t d_t, d_b, v_t, v_b, B_t, B_b, C_t, C_b;
    const T* A;                 // (memory, size), contiguous, as is c of a row
    const T* D;                 // (size); null for zeros
    const T* c0;                // (rows, memory, size), contiguous; null for zeros
    const int64_t* lengths;     // as above
    const uint8_t* resets;
    T* y;                       // (steps, rows, size), contiguous; zeros past a row's length
    T* c_n;                     // (rows, memory, size): c of each row's last step
    T* kept;                    // (chunks, rows, memory, size); null where backward does not follow

    __attribute__((always_inline)) int64_t length(int64_t row) const { return lengths ? lengths[row] : steps; }
    __attribute__((always_inline)) int64_t tiles() const {
        return (size * int64_t(sizeof(T)) + selection_tile - 1) / selection_tile;
    }
};
template <class T> struct SelectionGradients {
    const T* dy;      // at t * dy_t + row * dy_b + e; null for zeros
    int64_t dy_t, dy_b;
    const T* dc_n;    // (rows, memory, size); null for zeros
    T *dd, *dv;       // (steps, rows, size); zeros past a row's length, as are the next two
    T *dB, *dC;       // (tiles, steps, rows, memory): what the features of each tile add
    T* dA;            // (rows, memory, size)
    T* dD;            // (rows, size); not needed where D is null
    T* dc0;           // (rows, memory, size)
};

// A causal convolution, feature by feature: y_t = bias + the sum over j of kernel[j] x_(t+j), where x has window - 1
// steps more than y, before it.
template <class T> struct Convolution {
    int64_t steps, rows, size, window;  // `steps` of y
    const T* x;                         // at t * x_t + row * x_b + e
    int64_t x_t, x_b;
    const T *kernel, *bias;             // (window, size); (size), null for zeros
    T* y;                               // (steps, rows, size); null in backward
    // Null in forward; then the gradients, contiguous too: of y and x, and of the others, summed.
    const T* dy;
    T *dx, *dkernel, *dbias;
};

// y = x W^T + bias for `rows` rows: x (rows, k), weight (columns, k), bias (columns) or null, y (rows,
// columns), all contiguous. A row's bits do not depend on the rows beside it.
template <class T> struct Product {
    int64_t rows, k, columns;
    const T *x, *weight, *bias;
    T* y;
};

enum class Function : int { sigmoid, tanh, exp, softplus, silu, sqrt };

// y = f(x), number by number: x (rows, columns), its rows x_row apart, y contiguous. A number's bits do not
// depend on where it stands.
template <class T> struct Map {
    Function function;
    int64_t rows, columns, x_row;
    const T* x;
    T* y;
    // Null, or the gradient of y, (rows, columns), contiguous: y takes that of x then, and x is what f gave,
    // but of softplus and silu what it was given.
    const T* dy;
};

// Elements (see program.hpp) in order, for each of `rows` rows. Base 0 is scratch; b, from 1 on, is tensor[b] at
// row * stride[b], and `count` are `vectors`, the same for all rows. Bits of a row depend on nothing beside it.
template <class T> struct Tape {
    int64_t rows, count, scratch;  // numbers of scratch of a row
    const Element* element;
    T* tensor[bases];
    int64_t stride[bases];
    const T* vectors;
};

}  // namespace ostinato
