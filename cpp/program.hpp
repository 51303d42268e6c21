// A cell whose equations the core does not have, as a program: kernels compiled elsewhere, or elements, between
// products that the core does. backends/programs and backends/elements.py of src/ostinato/recurrence write it.
//
// Plain data, shared by every instruction set; `steps`, `rows` and layouts as in sequence.hpp.
#pragma once

#include <cstdint>

#include "sequence.hpp"

namespace ostinato {

// The memories in which a row has its numbers.
enum class Base : int {
    x,          // the input of the step; the caller's: nothing may be read past its last number
    line,       // the workspace of the step, which backward reads; the states after it lie there too
    back,       // what backward leaves of the step for the gradients of the weights
    ahead,      // what depends on the input alone, computed for many steps together
    scratch,    // nothing outlives the phase
    before,     // the states before the step
    d_after,    // the gradient of the states after it
    d_before,   // takes that of the states before it
    dx,         // takes the gradient of x; the caller's, as x
    temporary,  // one for all rows: nothing outlives a row
    count
};
constexpr int bases = int(Base::count);

struct Place {
    Base base;
    int64_t at;
};

// Some rows of one step, or of several; base[b][r] is where row r has its memory b, and null where a phase
// has none. `vectors` holds the weights that are not matrices.
template <class T> using Kernel = void (*)(T* const* const* base, const T* vectors, int64_t rows);

// What the core computes itself, number by number: to = f(from[0], from[1], from[2]), for n numbers.
enum class ElementFunction : int {
    copy, add, subtract, multiply, divide, fma, fnma, maximum, sqrt, negate, sigmoid, tanh, exp, softplus, silu,
    // from[1], the gradient of a function, times its slope, given as for `slope` of elements.hpp; the last is
    // from[2] where from[0] is from[1] or more, and else 0.
    sigmoid_slope, tanh_slope, softplus_slope, silu_slope, sqrt_slope, at_least
};
struct Element {
    ElementFunction function;  // fma is from[0] * from[1] + from[2], fnma the same of -from[0]
    int64_t n;
    Place to, from[3];         // the base `count` is `vectors`
    int64_t step[3];           // 1; or 0 for one number in all places
};

// A kernel; where that is null, element -1 - matrix, if matrix is negative, or to = start + from * matrix.
struct Operation {
    const void* kernel;
    int64_t matrix;
    Place from, to;
    int64_t start;  // where in `vectors` the sums begin; -1 for zeros
};

// A matrix in tensor `tensor`: number (k, n) is at offset + k * k_stride + n * n_stride, one of which is 1.
struct Matrix {
    int64_t tensor, offset, k, n, k_stride, n_stride;
};
// The numbers of a tensor that go to `at` of the vectors.
struct Vector {
    int64_t tensor, n, at;
};
// dW[row][column], the sum over steps and rows of of[row] * source[column], for none, one or two sources; and
// the sum of of[row], or without sources of of[row] * factor[row]. Results are numbered; -1 for none, and the base
// `count` is no factor.
struct Sum {
    Place of;
    int64_t rows, sources;
    Place source[2];
    int64_t columns[2], to[2], sum_to;
    Place factor;
};

enum class Phase : int { ahead, step, back, after };  // in forward the first two; `after` is what dx and the weights need

// Lengths count numbers, in whole lines of the cache.
struct Program {
    int64_t input, states, output;            // I; tensors of the state; which of them is h
    const int64_t *state_size, *state_at;     // of each
    int64_t state_length, state_in_line;      // all of them, and where they lie in a line
    int64_t line, back, ahead, scratch, temporary, vectors;
    const Operation* operations[4];
    int64_t count[4];
    const Matrix* matrix;
    int64_t matrices;
    const Vector* vector;
    int64_t vector_count;
    const Sum* sum;
    int64_t sums;
    double work;  // floating-point operations of a step of a row, forward
    const Element* element;
};

template <class T> struct ProgramCall {
    const Program& program;
    int64_t steps, rows;
    bool reverse;
    const int64_t *lengths, *order;
    const T* x;
    int64_t x_t, x_b;
    const T* const* tensors;
    const T* const* state;  // (rows, size) each; null for zeros
    T* y;
    int64_t y_t, y_b;
    T* const* last;
    T* lines;               // (steps, rows, line), 64-byte aligned; null where backward does not follow
    // Backward: null where a gradient is zero, or not needed.
    const T* dy;
    int64_t dy_t, dy_b;
    const T* const* d_last;
    T* dx;
    int64_t dx_t, dx_b;
    T* const* d_state;
    T* const* results;      // of the sums
};

// Threads have rows of their own; one row they follow together, where its weights are worth the waits.
// Always inline: see target.cpp.
template <class T> __attribute__((always_inline)) inline Sharing sharing_of(const ProgramCall<T>& c) {
    if (c.rows > 1) return Sharing::rows;
    const Program& p = c.program;
    int64_t weights = 0;
    for (int64_t i = 0; i < p.count[int(Phase::step)]; ++i) {
        const Operation& o = p.operations[int(Phase::step)][i];
        if (!o.kernel && o.matrix >= 0) weights += p.matrix[o.matrix].k * p.matrix[o.matrix].n * int64_t(sizeof(T));
    }
    return weights >= 48 * 1024 ? Sharing::units : Sharing::none;
}

}  // namespace ostinato
