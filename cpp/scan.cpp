// Compiled once for each instruction set, as target.cpp is, and under its hazard.
#include "scan.hpp"
#include "selection.hpp"
#include "transducer.hpp"

#include "target.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

template <class T>
constexpr ScanPasses<T> all_passes = {
    scan_forward<T>, scan_backward<T>,     product_memory<T>,   product<T>,           map<T>,
    convolution<T>,  selection_forward<T>, selection_memory<T>, selection_backward<T>,
    lattice_memory<T>, lattice<T>,         tape_memory<T>,      run_tape<T>};

extern const Scans scans;
const Scans scans = {OSTINATO_TARGET_NAME, all_passes<float>, all_passes<double>};

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
