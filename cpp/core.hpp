// The compiled core, as its callers see it. Pure C++17: bindings.cpp alone knows Python.
#pragma once

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

}  // namespace ostinato
