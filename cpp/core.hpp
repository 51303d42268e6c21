// The compiled core, as its callers see it. Pure C++17: bindings.cpp alone knows Python.
#pragma once

#include "sequence.hpp"

namespace ostinato {

// The version of the package that this core was built for. Static storage.
const char* version() noexcept;

// The instruction set that the core runs with: "x86-64-v4", "x86-64-v3" or "x86-64", the first of
// them that this CPU can run; "generic" where the CPU is no x86. Chosen once, when first needed,
// and then for good. The environment variable OSTINATO_ISA, when set and not empty, names another.
// Static storage.
//
// Throws std::invalid_argument where OSTINATO_ISA names what this build does not have or this CPU
// cannot run; nothing is chosen then, and the next call tries again. Safe to call from any thread.
const char* instruction_set();

// Numbers in a line of Direction::lines.
template <class T> int64_t line_length(const Shape& shape);

// Where a line of Direction::lines holds gate g of a unit, after forward and before backward: at
// gate_at() + unit; past the gates' count: c of an LSTM; hn of a GRU.
template <class T> int64_t gate_at(const Shape& shape, int gate);

// The passes of sequence.hpp, on at most so many threads; on fewer where the work is small or the
// threads are busy with another call. Results do not depend on the number. `order` may be null with
// lengths: it is worked out. Throws std::bad_alloc before anything is written.
template <class T> void forward(const Sequence<T>& sequence, int threads);
template <class T> void backward(const Sequence<T>& sequence, const Gradients<T>& gradients, int threads);

// Floating-point operations a second that one thread does in the kernel at the heart of the passes,
// its data in the first cache: the most that this core can reach in float32. Takes some milliseconds.
double peak_flops();

}  // namespace ostinato
