// Compiled once for each instruction set (see CMakeLists.txt), with
//   OSTINATO_TARGET       the namespace of this compilation, such as x86_64_v3
//   OSTINATO_TARGET_NAME  the name of its instruction set, such as "x86-64-v3"
//
// Hazard: everything defined here, headers included, belongs in namespace OSTINATO_TARGET. The
// linker merges inline functions of the same name, so one from a shared header (std::vector, say),
// compiled here for AVX-512, could end up serving every caller and stop a smaller CPU dead.
#include "target.hpp"

#include "backward.hpp"
#include "generated.hpp"
#include "stream.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

template <class T> int64_t line_length(const Shape& shape) { return Lines<T>(shape).length; }
template <class T> int64_t gate_at(const Shape& shape, int gate) { return Lines<T>(shape).gate_at(gate); }

template <class T> Sharing sharing(const Sequence<T>& s, int threads) {
    return Split(s, s.checkpoint_every ? 1 : s.directions, threads).sharing();
}

// The same number, which the compiler does not know any more.
template <class T> OSTINATO_INLINE Vec<T> unknown(Vec<T> x) {
#if defined(__AVX512F__)
    asm("" : "+v"(x));
#elif defined(__x86_64__)
    asm("" : "+x"(x));
#elif defined(__aarch64__)
    asm("" : "+w"(x));
#endif
    return x;
}

// Multiplies and adds registers alone, as many sums side by side as they hold, which is more than a CPU has
// under way; gives how many numbers that were.
double multiply_adds(int64_t rounds) {
    constexpr int sums = registers - 4;
    const Vec<float> factor = unknown<float>(splat(0x1p-30f));  // so small that the sums stay as they are
    Vec<float> sum[sums];
#pragma GCC unroll 32
    for (int i = 0; i < sums; ++i) sum[i] = unknown<float>(splat(float(i)));
    for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 32
        for (int i = 0; i < sums; ++i) sum[i] = fma(sum[i], factor, sum[i]);
    Vec<float> all{};
    for (int i = 0; i < sums; ++i) all += sum[i];
    return all[0] * 0 + double(rounds) * sums * W<float>;
}

template <class T>
constexpr Passes<T> all_passes = {line_length<T>,          gate_at<T>,         sharing<T>,
                                  forward_memory<T>,       forward<T>,         backward_memory<T>,
                                  backward<T>,             program_memory<T>,  program_forward<T>,
                                  program_backward<T>,     program_model_memory<T>, program_pack<T>,
                                  program_state_memory<T>, program_step<T>,    program_copy_state<T>};

template <class T, class Matrix, class S = Streams<T, Matrix>>
constexpr StreamPasses<T> all_streams = {S::model_memory, S::build_model, S::state_memory, S::build_state,
                                         S::save,         S::load,        S::run};

extern const Target target;  // a const object is private to its file unless declared extern
const Target target = {OSTINATO_TARGET_NAME,
                       all_passes<float>,
                       all_passes<double>,
                       all_streams<float, Panels<float>>,
                       all_streams<float, QuantizedPanels>,
                       all_streams<double, Panels<double>>,
                       QuantizedPanels::has_native,
                       QuantizedPanels::dot_feature,
                       multiply_adds};

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
