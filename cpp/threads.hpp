// Threads that work on one call together. Pure C++; knows nothing of what it runs.
#pragma once

namespace ostinato {

constexpr int most_threads = 256;  // that work on one call

// One of the threads that run a body.
class Member {
public:
    int index, count;
    // Returns once `size` members have called this for the same group; groups are numbered from 0 to
    // count - 1, and a group always has the same members within a call. No memory is allocated.
    void wait(int group, int size) const noexcept;
    // The same for all of them; no group stands in its way.
    void wait() const noexcept { wait(-1, count); }
    void* barriers;
};

// Runs body(member, context) on `count` threads at once, the caller one of them, and returns when all
// are done. Where the threads are busy with another call or the system has no more to give, the
// caller runs the body alone, with a count of 1: a body asks its member how many there are.
//
// While a body runs, subnormal numbers count as zero; the caller's control word is restored. Safe to
// call from several threads. A forked child starts threads of its own. The body must not throw.
void parallel(int count, void (*body)(const Member&, void* context), void* context);

}  // namespace ostinato
