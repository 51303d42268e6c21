// Checks the core without Python: against the equations of src/ostinato/recurrence/cells/, written
// here once more in the plainest way, and against its own laws.
//
//   check [--cases N] [--seed S] [--first K]            cases K to K + N - 1 that the seed gives
//   check --threads [--cases N] [--seed S]              many callers simultaneously, and forks in between
//
// With --patience S a case may take so many seconds. The digest at the end is of all that the cases gave:
// the same for every instruction set that has fused multiply-adds.
//
// Status 0 where all is well; 1 where something is not, 3 where a call crashes or does not return: the
// case is printed then, and `--seed S --first K --cases 1` repeats it. The table of checks is at the end.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "callers.hpp"
#include "lattices.hpp"
#include "recurrences.hpp"
#include "selections.hpp"
#include "sequences.hpp"
#include "streams.hpp"

namespace {

using namespace ostinato;
using namespace ostinato::check;

struct Check {
    const char* name;
    void (*run)(uint64_t seed, int64_t first, int64_t cases);
    bool many_callers;  // runs with --threads, and then alone
};

const Check checks[] = {
    {"oracle", check_oracle, false},
    {"subnormals", check_subnormals, false},
    {"sequences", check_sequences, false},
    {"streams", check_streams, false},
    {"recurrences", check_recurrences, false},
    {"selections", check_selections, false},
    {"lattices", check_lattices, false},
    {"callers", check_callers, true},
};

[[noreturn]] void usage() {
    std::fputs("usage: check [--threads] [--cases N] [--seed S] [--first K] [--patience S]\n", stderr);
    std::exit(2);
}

}  // namespace

int main(int count, char** arguments) {
    bool many_callers = false;
    int64_t cases = 500, first = 0;
    uint64_t seed = 1;
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (name == "--threads") {
            many_callers = true;
            continue;
        }
        if (++i == count) usage();
        const long long value = std::atoll(arguments[i]);
        if (name == "--cases") cases = value;
        else if (name == "--seed") seed = uint64_t(value);
        else if (name == "--first") first = value;
        else if (name == "--patience") patience = unsigned(value);
        else usage();
    }
    signal(SIGALRM, broken);
    for (int crash : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL})
        if (!address_sanitizer && !thread_sanitizer) signal(crash, broken);
    for (const Check& check : checks) {
        if (check.many_callers != many_callers) continue;
        try {
            check.run(seed, first, cases);
        } catch (const Failure& failure) {
            std::fprintf(stderr, "%s: %s\nat %s", check.name, failure.what.c_str(), current);
            return 1;
        }
    }
    alarm(0);
    std::printf("%s, int8 %s: %lld cases of seed %llu hold", instruction_set(), int8_products(), static_cast<long long>(cases),
                static_cast<unsigned long long>(seed));
    if (!many_callers)
        std::printf("; errors are at most %.2f of the tolerance; digest %016llx", worst,
                    static_cast<unsigned long long>(digest));
    std::printf("\n");
}
