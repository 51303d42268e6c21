// Checks of many callers simultaneously, and of forks in between.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "run.hpp"

namespace ostinato {
namespace check {

// A case, with its results on one thread.
template <class T> struct Job {
    const Plan plan;
    Data<T> given, expected;
    explicit Job(const Plan& p) : plan(p), given(plan), expected(execute(given.draw(), {1, true})) {}
    Job(const Job&) = delete;
    void repeat(Random& r) {
        const How how = r.one_in(3) ? draw_checkpoints(r, plan) : draw_how(r);
        Data<T> again = execute(given, how);
        check_same(expected, again, how.text() + " among many callers: " + plan.text());
    }
};

struct Jobs {
    std::vector<std::unique_ptr<Job<float>>> floats;
    std::vector<std::unique_ptr<Job<double>>> doubles;

    explicit Jobs(uint64_t seed) {
        for (uint64_t k = 0; k < 8; ++k) {
            const Size size = k < 4 ? Size::wide : k < 6 ? Size::small : Size::many_rows;
            const Plan p = draw_plan(seed * 1000003 + k, size);
            if (k % 2 && k >= 4) floats.emplace_back(new Job<float>(p));
            else doubles.emplace_back(new Job<double>(p));
        }
        // Enough work for core.hpp to take several threads; then both directions with their units split.
        for (const int64_t rows : {8, 1}) {
            Plan p{};
            const int64_t H = rows == 1 ? 224 : 64;
            p.seed = seed, p.shape = {CellKind::lstm, Activation::tanh, 16, H, H};
            p.T = rows == 1 ? 12 : 24, p.B = rows, p.D = 2, p.G = 4, p.reverse[1] = true;
            for (int i = 0; i < p.D; ++i) {
                for (int name = 0; name < names; ++name) p.has[i][name] = p.exists(name);
                p.has_dy[i] = p.has_lines[i] = true;
            }
            p.has_dx = p.backward = true;
            floats.emplace_back(new Job<float>(p));
        }
    }
    // Several calls; what went wrong, or nothing.
    std::string repeat(Random r, int64_t calls, const std::atomic<bool>& stop) const {
        try {
            for (int64_t k = 0; k < calls && !stop; ++k)
                if (r.one_in(2)) floats[size_t(r.from(0, int64_t(floats.size()) - 1))]->repeat(r);
                else doubles[size_t(r.from(0, int64_t(doubles.size()) - 1))]->repeat(r);
        } catch (const Failure& failure) {
            return failure.what;
        }
        return "";
    }
};

// A child starts threads of its own, whatever those of its parent were at.
inline void check_fork(const Jobs& jobs, Random r) {
    const pid_t child = fork();
    if (child < 0) fail("fork() failed");
    if (child == 0) {
        alarm(patience);
        const std::atomic<bool> stop{false};
        const std::string wrong = jobs.repeat(r, 6, stop);
        std::fputs(wrong.c_str(), stderr);
        _exit(wrong.empty() ? 0 : 1);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) fail("waitpid() failed");
    if (!WIFEXITED(status) || WEXITSTATUS(status)) fail("a forked child fails, or does not return");
}

inline void check_callers(uint64_t seed, int64_t, int64_t cases) {
    constexpr int callers = 3, rounds = 4;
    now("the cases of many callers");
    const Jobs jobs(seed);
    Random r(seed);
    for (int round = 0; round < rounds; ++round) {
        now("many callers: --threads --seed " + std::to_string(seed) + ", round " + std::to_string(round));
        std::string wrong[callers];
        std::atomic<bool> stop{false};
        std::vector<std::thread> threads;
        for (int i = 0; i < callers; ++i)
            threads.emplace_back([&, i, own = Random(r.next())] {
                wrong[i] = jobs.repeat(own, cases / rounds / callers + 1, stop);
                if (!wrong[i].empty()) stop = true;
            });
        // The sanitizers' own locks do not survive a fork amid other threads.
        std::string forked;
        try {
            if (!address_sanitizer && !thread_sanitizer)
                for (int k = 0; k < 3; ++k) check_fork(jobs, Random(r.next()));
        } catch (const Failure& failure) {
            forked = failure.what, stop = true;
        }
        for (std::thread& thread : threads) thread.join();
        for (const std::string& each : wrong)
            if (!each.empty()) fail(each);
        if (!forked.empty()) fail(forked);
        // Now the pool is idle. ThreadSanitizer knows no threads in a forked child.
        if (!thread_sanitizer) check_fork(jobs, Random(r.next()));
    }
}

}  // namespace check
}  // namespace ostinato
