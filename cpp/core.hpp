// The compiled core, as its callers see it. Pure C++17: bindings.cpp alone knows Python.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lattice.hpp"
#include "linear.hpp"
#include "program.hpp"
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

// Numbers in an entry of the workspace, Direction::lines.
template <class T> int64_t line_length(const Shape& shape);

// Where an entry of the workspace holds gate g of a unit, after forward and before backward: at
// gate_at() + unit; past the gates' count: c of an LSTM; hn of a GRU.
template <class T> int64_t gate_at(const Shape& shape, int gate);

// The passes of sequence.hpp, on at most so many threads; on fewer where the work is small or the
// threads are busy with another call. Results do not depend on the number. `order` may be null with
// lengths: it is worked out. Throws std::bad_alloc before anything is written.
template <class T> void forward(const Sequence<T>& sequence, int threads);
template <class T> void backward(const Sequence<T>& sequence, const Gradients<T>& gradients, int threads);

// Those of linear.hpp, in the same way; but for products, tapes and selection_backward they allocate nothing.
template <class T> void scan_forward(const Recurrence<T>& recurrence, int threads);
template <class T> void scan_backward(const Recurrence<T>& recurrence, const RecurrenceGradients<T>& gradients, int threads);
template <class T> void product(const Product<T>& product, int threads);
template <class T> void map(const Map<T>& map, int threads);
template <class T> void convolution(const Convolution<T>& convolution, int threads);
template <class T> void run_tape(const Tape<T>& tape, int threads);
template <class T> void selection_forward(const Selection<T>& selection, int threads);
template <class T> void selection_backward(const Selection<T>& selection, const SelectionGradients<T>& gradients, int threads);
// That of lattice.hpp. Throws std::bad_alloc before anything is written.
template <class T> void lattice(const Lattice<T>& lattice, int threads);

// Asks the system for large pages, where it has some, for memory that is about to be written: to touch a small page
// for the first time costs about a microsecond, a third of a call that fills 100 MB.
void advise_large_pages(void* memory, int64_t bytes);

// The same for a program; `order` is worked out.
template <class T> void run_program(const ProgramCall<T>& call, bool backward, int threads);

// How a stream holds its weights.
enum class Precision : int {
    full,                // as they are
    int8,                // 8 bits a weight; inputs and states are rounded to 8 bits for each product
    int8_native,         // the same numbers without 8-bit dot products, as on a CPU that has none
    int8_portable,       // the same numbers by plain loops, as on a CPU that the core does not know
};

// A stack of layers that takes one step at a time, for as long as there are any. It owns its weights,
// packed, and its state; layer i + 1 reads what layer i puts out. Copying one copies the state and
// shares the weights. Not for several threads simultaneously.
template <class T> class Stream {
public:
    // Reads the weights, and needs them no more. int8 is for float. Throws std::bad_alloc.
    Stream(const std::vector<Shape>& shapes, const std::vector<Weights<T>>& weights, int64_t rows,
           Precision precision = Precision::full);
    // The same of programs, which must live as long, with the tensors that each reads. One thread serves it.
    Stream(const std::vector<const Program*>& programs, const std::vector<std::vector<const T*>>& tensors, int64_t rows);
    Stream(const Stream& other);

    int64_t rows() const { return rows_; }
    int64_t state_size() const { return state_size_; }
    // h (rows, P) of every layer, followed by c (rows, H) of an LSTM, from the first layer to the last.
    void save(T* to) const;
    void load(const T* from);
    void reset();  // to zeros

    // x (steps, rows, I) to y (steps, rows, P). The same bits as forward() with the same state, but for
    // int8. On one thread it allocates nothing and takes no lock; more share the units of every layer,
    // which pays where the weights do not fit into one core's cache and steps follow each other closely.
    void run(const T* x, int64_t steps, T* y, int threads = 1) noexcept;

private:
    struct Free { void operator()(char* p) const; };
    // Of one program each.
    struct Layer {
        const Program* program;
        std::shared_ptr<char> model;
        std::unique_ptr<char, Free> state;
        std::vector<T> y;
    };
    void add(const Program* program, std::shared_ptr<char> model);
    void run_programs(const T* x, int64_t steps, T* y) noexcept;

    std::vector<Layer> programs_;
    int side_ = 0;  // of the lines of the programs
    std::shared_ptr<const char> model_;
    std::unique_ptr<char, Free> state_;
    const void* passes_;
    int64_t rows_, state_size_, input_, output_;
};

// How int8 streams multiply on this CPU: "dot", "native" or "portable", see Products of target.hpp.
// Static storage. Throws as instruction_set().
const char* int8_products();

// Floating-point operations a second that the calling thread does in float32 on registers alone, on the
// average of so many seconds: the most that this CPU can do with the instruction set of the core. What
// several cores can do together is measured by calling it on as many threads at the same time.
double peak_flops(double seconds);

}  // namespace ostinato
