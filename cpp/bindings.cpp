// The Python module ostinato._core: names, checks and docstrings; nothing is computed here.
// src/ostinato/_core.pyi says the same in types.
#include <nanobind/nanobind.h>

#include "core.hpp"

NB_MODULE(_core, m) {
    m.doc() = "The compiled core of Ostinato.";
    m.def("version", &ostinato::version,
          "The version of the package that this core was built for.");
    m.def("instruction_set", &ostinato::instruction_set,
          "The instruction set that the core runs with on this CPU.\n\n"
          "Raises ValueError where the environment variable OSTINATO_ISA names one that it\n"
          "cannot run with.");
}
