// The loss of an RNN transducer, over the lattice of A. Graves 2012, "Sequence transduction with recurrent neural
// networks", sections 2.4 and 2.5. Plain data, as in sequence.hpp, with the same rules for pointers.
#pragma once

#include <cstdint>

namespace ostinato {

// A path through the lattice of a row starts at frame 0 and label 0. At (t, u) it goes on to (t + 1, u) by the blank, or
// to (t, u + 1) by label u; it ends by the blank at the last frame, when all labels are written. The row's
// probability is the sum over all paths of the product of their steps.
template <class T> struct Lattice {
    int64_t rows, frames, labels;
    const T* log_p;                          // (rows, frames, labels + 1, 2): of the blank, and of the next label
    const int64_t *lengths, *label_lengths;  // frames and labels of each row; null where all are full
    T* losses;                               // (rows): minus the natural log of the row's probability
    T* gradients;                            // of the losses, as log_p; zeros outside a row's lattice, and
                                             // where it has no path; null where not needed

    __attribute__((always_inline)) int64_t length(int64_t row) const { return lengths ? lengths[row] : frames; }
    __attribute__((always_inline)) int64_t label_length(int64_t row) const {
        return label_lengths ? label_lengths[row] : labels;
    }
};

}  // namespace ostinato
