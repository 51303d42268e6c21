// Compiled once for each instruction set (see CMakeLists.txt), with
//   OSTINATO_TARGET       the namespace of this compilation, such as x86_64_v3
//   OSTINATO_TARGET_NAME  the name of its instruction set, such as "x86-64-v3"
//
// Hazard: everything defined here, headers included, belongs in namespace OSTINATO_TARGET. The
// linker merges inline functions of the same name, so one from a shared header (std::vector, say),
// compiled here for AVX-512, could end up serving every caller and stop a smaller CPU dead.
#include "target.hpp"

#include "backward.hpp"
#include "stream.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

template <class T> int64_t line_length(const Shape& shape) { return Lines<T>(shape).length; }
template <class T> int64_t gate_at(const Shape& shape, int gate) { return Lines<T>(shape).gate_at(gate); }

// Multiplies tiles of the widest kind, all in the first cache, and gives their sum.
double multiply_adds(int64_t tiles) {
    constexpr int R = tile_rows<4>, k = 64;
    alignas(64) float a[R][k], b[k * 4 * W<float>];
    const float* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = a[r];
    for (int i = 0; i < k * 4 * W<float>; ++i) b[i] = 0.5f;
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < k; ++i) a[r][i] = 0.25f;
    double sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        Vec<float> acc[R][4] = {};
        accumulate<float, R, 4, 1>(acc, rows, b, 0, k, reinterpret_cast<const char*>(b));
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < 4; ++v) b[v] = acc[r][v][0] * 0x1p-20f, sum += b[v];
    }
    return sum * 0 + double(tiles) * R * 4 * W<float> * k;
}

template <class T>
constexpr Passes<T> all_passes = {line_length<T>,     gate_at<T>, forward_memory<T>, forward<T>,
                                     backward_memory<T>, backward<T>};

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
