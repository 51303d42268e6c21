// Threads that work on one call together. Pure C++; knows nothing of what it runs.
#pragma once

#include <cstdint>

namespace ostinato {

constexpr int most_threads = 256;  // that work on one call

// One of the threads that run a body.
class Member {
public:
    int index, count;
    // Returns once `size` members have called this for the same group; groups are numbered from 0 to
    // count - 1, and a group always has the same members within a call. Spins for microseconds, then
    // sleeps, so that the others can run where threads are more than cores. No memory is allocated.
    void wait(int group, int size) const noexcept;
    // The same for all of them; no group stands in its way.
    void wait() const noexcept;
    void* barriers;
};

// Runs body(member, context) on `count` threads simultaneously, the caller one of them, and returns when all
// are done. Where there are not that many to be had, the caller runs the body alone, with a count of 1:
// a body asks its member how many there are.
//
// The threads are those of the OpenMP runtime that the process has loaded for all to see, as PyTorch
// does: its threads keep spinning for milliseconds after their work, and would take the cores from any
// others. Where there is none, and in a forked child, in which OpenMP's would hang, they are the core's
// own: they spin for microseconds, then sleep, and serve one call at a time.
//
// While a body runs, subnormal numbers count as zero; the control words of all threads are restored.
// Safe to call from several threads. The body must not throw.
void parallel(int count, void (*body)(const Member&, void* context), void* context);

// Nanoseconds that this thread has run so far, without those for which it spun or slept in vain in wait().
int64_t time_worked();

}  // namespace ostinato
