#include "core.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "target.hpp"

namespace ostinato {

#if defined(__x86_64__)
namespace x86_64_v4 { extern const Target target; }
namespace x86_64_v3 { extern const Target target; }
namespace x86_64 { extern const Target target; }
#else
namespace generic { extern const Target target; }
#endif

namespace {

struct Candidate {
    const Target& target;
    bool (*runs)();  // on this CPU
};

bool always() { return true; }

#if defined(__x86_64__)

// The features that both GCC and clang can ask for and that tell the levels apart. The answers
// count in whether the operating system saves the wider registers.
bool has_v3() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

bool has_v4() {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

// Best first; the last runs always.
const Candidate candidates[] = {
    {x86_64_v4::target, has_v4}, {x86_64_v3::target, has_v3}, {x86_64::target, always}};

#else

const Candidate candidates[] = {{generic::target, always}};

#endif

const Target& choose() {
    const char* variable = std::getenv("OSTINATO_ISA");
    const std::string wanted = variable ? variable : "";
    std::string choices;
    for (const Candidate& candidate : candidates) {
        if (!candidate.runs()) continue;
        if (wanted.empty() || wanted == candidate.target.name) return candidate.target;
        choices += choices.empty() ? "" : ", ";
        choices += candidate.target.name;
    }
    bool known = false;
    for (const Candidate& candidate : candidates) known |= wanted == candidate.target.name;
    throw std::invalid_argument(
        "OSTINATO_ISA: '" + wanted + "' is " +
        (known ? "more than this CPU can run" : "no instruction set of this build") +
        "; expected one of: " + choices + ". Unset it to have the best of them.");
}

const Target& target() {
    static const Target& chosen = choose();  // when choose() throws, the next call tries again
    return chosen;
}

}  // namespace

const char* version() noexcept { return OSTINATO_VERSION; }

const char* instruction_set() { return target().name; }

}  // namespace ostinato
