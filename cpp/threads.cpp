#include "threads.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ostinato {
namespace {

constexpr int most_spins = 400;  // about five microseconds

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Subnormal numbers count as zero for the life of this object.
class FlushSubnormals {
public:
#if defined(__x86_64__)
    FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushSubnormals() { _mm_setcsr(before_); }

private:
    unsigned before_;
#elif defined(__aarch64__)
    FlushSubnormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ | (uint64_t(1) << 24)));
    }
    ~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

private:
    uint64_t before_;
#endif
};

struct alignas(64) Barrier {
    std::atomic<int> arrived{0}, generation{0};

    void wait(int size) {
        const int now = generation.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived.store(0, std::memory_order_relaxed);
            generation.store(now + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; generation.load(std::memory_order_acquire) == now; ++spins)
            if (spins < most_spins) pause();
            else std::this_thread::yield();
    }
};

class Pool {
public:
    // False when the workers are busy with somebody else's call, or are too few.
    bool run(int count, void (*body)(const Member&, void*), void* context) {
        std::unique_lock<std::mutex> mine(in_use_, std::try_to_lock);
        if (!mine.owns_lock() || !grow(count - 1)) return false;
        body_ = body;
        context_ = context;
        pending_.store(count - 1, std::memory_order_relaxed);
        {
            // Under the lock, so that a worker about to sleep cannot miss it.
            std::lock_guard<std::mutex> lock(mutex_);
            call_.store(((call_.load() >> 16) + 1) << 16 | uint64_t(count));
        }
        wake_.notify_all();
        body(Member{0, count, barriers_}, context);
        for (int spins = 0; pending_.load(std::memory_order_acquire) > 0; ++spins)
            if (spins < most_spins) pause();
            else std::this_thread::yield();
        return true;
    }

private:
    bool grow(int wanted) {
        try {
            for (; workers_ < wanted; ++workers_)
                std::thread([this, index = workers_ + 1, seen = call_.load()] { work(index, seen); })
                    .detach();
        } catch (const std::system_error&) {
        }
        return workers_ >= wanted;
    }

    void work(int index, uint64_t seen) {
        FlushSubnormals flush;
        for (;;) {
            for (int spins = 0; call_.load(std::memory_order_acquire) == seen; ++spins) {
                if (spins < most_spins) {
                    pause();
                    continue;
                }
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return call_.load(std::memory_order_acquire) != seen; });
            }
            seen = call_.load(std::memory_order_acquire);
            const int count = int(seen & 0xffff);
            if (index >= count) continue;  // not of this call, of which it may read nothing else
            body_(Member{index, count, barriers_}, context_);
            pending_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex in_use_, mutex_;
    std::condition_variable wake_;
    std::atomic<uint64_t> call_{0};  // a number that grows, and in its low 16 bits the count
    std::atomic<int> pending_{0};
    void (*body_)(const Member&, void*) = nullptr;
    void* context_ = nullptr;
    int workers_ = 0;
    Barrier barriers_[most_threads + 1];
};

// The OpenMP runtime of the process, by the entry points that compilers call, which LLVM's and Intel's
// have as well as GCC's.
struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags);
    int (*most)();
    int (*count)();
    int (*index)();

    OpenMP() {
        find(parallel, "GOMP_parallel"), find(most, "omp_get_max_threads");
        find(count, "omp_get_num_threads"), find(index, "omp_get_thread_num");
    }
    // Whether all of them were found, in one library.
    bool is_whole() const { return whole_; }

private:
    template <class F> void find(F*& function, const char* name) {
        void* symbol = dlsym(RTLD_DEFAULT, name);
        Dl_info where{};
        whole_ = whole_ && symbol && dladdr(symbol, &where) && (!base_ || base_ == where.dli_fbase);
        base_ = where.dli_fbase;
        std::memcpy(&function, &symbol, sizeof function);
    }
    bool whole_ = true;
    void* base_ = nullptr;
};

// False where there is no runtime to be had.
bool run_on_openmp(int count, void (*body)(const Member&, void*), void* context) {
    static const OpenMP openmp;  // looked for when it is first needed: PyTorch is loaded by then
    if (!openmp.is_whole()) return false;
    static thread_local Barrier barriers[most_threads + 1];
    struct Call {
        int count;
        void (*body)(const Member&, void*);
        void* context;
        Barrier* barriers;
    } call{count, body, context, barriers};
    // Always as many threads as the runtime has: with fewer it would end some, to start them anew later.
    const int team = std::max(count, openmp.most());
    openmp.parallel([](void* data) {
        const Call& call = *static_cast<Call*>(data);
        // All that were asked for, or the caller alone: memory was counted for these two.
        const int count = openmp.count() < call.count ? 1 : call.count, index = openmp.index();
        if (index >= count) return;
        FlushSubnormals flush;
        call.body(Member{index, count, call.barriers}, call.context);
    }, &call, unsigned(team), 0);
    return true;
}

// Never destroyed: the workers run until the process ends. A child of fork() has none of them, so it
// starts with a new pool.
std::atomic<Pool*> pool{nullptr};
std::atomic<bool> is_child{false};

void start_afresh() { pool.store(new (std::nothrow) Pool); }

void begin_child() { is_child.store(true), start_afresh(); }

// From the moment that the core is loaded: a child must know that it is one.
const int registered = pthread_atfork(nullptr, nullptr, begin_child);

Pool* the_pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        if (!pool.load()) start_afresh();
    });
    return pool.load();
}

}  // namespace

void Member::wait(int group, int size) const noexcept {
    if (size > 1) static_cast<Barrier*>(barriers)[group + 1].wait(size);
}
void Member::wait() const noexcept { wait(-1, count); }

void parallel(int count, void (*body)(const Member&, void*), void* context) {
    if (count > most_threads) count = most_threads;
    if (count > 1 && !is_child.load() && run_on_openmp(count, body, context)) return;
    FlushSubnormals flush;
    if (count > 1)
        if (Pool* workers = the_pool())
            if (workers->run(count, body, context)) return;
    body(Member{0, 1, nullptr}, context);
}

}  // namespace ostinato
