// Compiled once for each instruction set (see CMakeLists.txt), with
//   OSTINATO_TARGET       the namespace of this compilation, such as x86_64_v3
//   OSTINATO_TARGET_NAME  the name of its instruction set, such as "x86-64-v3"
//
// Hazard: everything defined here, headers included, belongs in namespace OSTINATO_TARGET. The
// linker merges inline functions of the same name, so one from a shared header (std::vector, say),
// compiled here for AVX-512, could end up serving every caller and stop a smaller CPU dead.
#include "target.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

#if defined(__AVX512F__)
constexpr int vector_bits = 512;
#elif defined(__AVX__)
constexpr int vector_bits = 256;
#else
constexpr int vector_bits = 128;  // SSE2, which is part of x86-64; NEON
#endif

extern const Target target;  // a const object is private to its file unless declared extern
const Target target = {OSTINATO_TARGET_NAME, vector_bits};

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
