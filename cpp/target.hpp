// What the core can do with one instruction set: the table that core.cpp chooses once.
#pragma once

namespace ostinato {

struct Target {
    const char* name;  // as instruction_set() gives it
    int vector_bits;   // width of one vector register
};

}  // namespace ostinato
