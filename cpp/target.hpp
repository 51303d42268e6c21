// What the core can do with one instruction set: the table that core.cpp chooses once.
#pragma once

#include "lattice.hpp"
#include "linear.hpp"
#include "program.hpp"
#include "sequence.hpp"
#include "threads.hpp"

namespace ostinato {

// For one type of number. Nothing here allocates or throws: each pass works in a block of memory,
// 64-byte aligned, of the size that its *_memory() tells for so many threads or fewer.
template <class T> struct Passes {
    int64_t (*line_length)(const Shape&);
    int64_t (*gate_at)(const Shape&, int gate);
    Sharing (*sharing)(const Sequence<T>&, int threads);
    int64_t (*forward_memory)(const Sequence<T>&, int threads);
    void (*forward)(const Sequence<T>&, char* memory, const Member&);
    int64_t (*backward_memory)(const Sequence<T>&, const Gradients<T>&, int threads);
    void (*backward)(const Sequence<T>&, const Gradients<T>&, char* memory, const Member&);
    int64_t (*program_memory)(const ProgramCall<T>&, bool backward, int threads);
    void (*program_forward)(const ProgramCall<T>&, char* memory, const Member&);
    void (*program_backward)(const ProgramCall<T>&, char* memory, const Member&);
    // Of streams; the memory of a state begins as zeros.
    int64_t (*program_model_memory)(const Program&);
    void (*program_pack)(const Program&, const T* const* tensors, char* model);
    int64_t (*program_state_memory)(const Program&, int64_t rows);
    void (*program_step)(const Program&, char* model, char* state, int64_t rows, int side, const T* x, T* y);
    void (*program_copy_state)(const Program&, char* state, int64_t rows, int side, T* to, const T* from);
};

// How sums of 8-bit products are taken, from the one that runs anywhere to the fastest. All give the same
// integers; `products` of build_model() means nothing where weights have all their bits.
enum class Products : int {
    portable,
    native,  // by the instructions that every CPU of the target has, or portable where there are none
    dot      // by 8-bit dot products: where the CPU has the target's DotFeature
};

// What Products::dot needs of the CPU, beyond what the target needs.
enum class DotFeature : int { none, avx512_vnni, avx_vnni, arm_dotprod };

// Streams of one type of number and of weight. Models and states are blocks of memory as above; a model
// may serve many states, from many threads.
template <class T> struct StreamPasses {
    int64_t (*model_memory)(const Shape*, int64_t layers);
    void (*build_model)(const Shape*, const Weights<T>*, int64_t layers, Products, char* model);
    int64_t (*state_memory)(const char* model, int64_t rows);
    void (*build_state)(const char* model, int64_t rows, char* state);  // load() before the first step
    void (*save)(const char* model, const char* state, T* to);
    void (*load)(const char* model, char* state, const T* from);
    void (*run)(const char* model, char* state, const T* x, int64_t steps, T* y, const Member&);
};

struct Target {
    const char* name;  // as instruction_set() gives it
    Passes<float> floats;
    Passes<double> doubles;
    StreamPasses<float> float_streams, quantized_streams;
    StreamPasses<double> double_streams;
    bool has_native;  // of Products
    DotFeature dot_feature;
    double (*multiply_adds)(int64_t rounds);  // see peak_flops()
};

// The same for what linear.hpp and lattice.hpp describe: a table of its own, which is compiled apart.
template <class T> struct ScanPasses {
    void (*forward)(const Recurrence<T>&, const Member&);
    void (*backward)(const Recurrence<T>&, const RecurrenceGradients<T>&, const Member&);
    int64_t (*product_memory)(const Product<T>&, int threads);
    void (*product)(const Product<T>&, char* memory, const Member&);
    void (*map)(const Map<T>&, const Member&);
    void (*convolution)(const Convolution<T>&, const Member&);
    void (*selection_forward)(const Selection<T>&, const Member&);
    int64_t (*selection_memory)(const Selection<T>&, int threads);
    void (*selection_backward)(const Selection<T>&, const SelectionGradients<T>&, char* memory, const Member&);
    int64_t (*lattice_memory)(const Lattice<T>&, int threads);
    void (*lattice)(const Lattice<T>&, char* memory, const Member&);
    int64_t (*tape_memory)(const Tape<T>&, int threads);
    void (*run_tape)(const Tape<T>&, char* memory, const Member&);
};

struct Scans {
    const char* name;
    ScanPasses<float> floats;
    ScanPasses<double> doubles;
};

template <class T> const ScanPasses<T>& passes(const Scans& scans);
template <> inline const ScanPasses<float>& passes(const Scans& scans) { return scans.floats; }
template <> inline const ScanPasses<double>& passes(const Scans& scans) { return scans.doubles; }

template <class T> const Passes<T>& passes(const Target& target);
template <> inline const Passes<float>& passes(const Target& target) { return target.floats; }
template <> inline const Passes<double>& passes(const Target& target) { return target.doubles; }

}  // namespace ostinato
