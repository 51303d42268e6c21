#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <dlfcn.h>
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#endif

namespace ostinato {
namespace {

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

// Nanoseconds that this thread ran; where the system does not tell, of its life, sleep included.
inline int64_t thread_clock() {
#if defined(CLOCK_THREAD_CPUTIME_ID) && !defined(_WIN32)
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
#else
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

// Longer than threads that all run wait for one another in most steps, and nothing beside the
// milliseconds for which another program takes the core of one of them.
constexpr std::chrono::microseconds most_spinning{20};

thread_local int64_t waited = 0;  // nanoseconds of this thread in vain, as its clock counts them

// Whether `done` came true while this spun.
template <class Done> bool spin_until(Done&& done) {
    const auto begin = std::chrono::steady_clock::now();
    std::chrono::nanoseconds spent{0};
    do {
        for (int i = 0; i < 32; ++i) {
            if (done()) {
                waited += spent.count();
                return true;
            }
            pause();
        }
        spent = std::chrono::steady_clock::now() - begin;
    } while (spent < most_spinning);
    waited += spent.count();
    return false;
}

// Sleeps unless `value` is no longer `old`, until wake_all() or for no reason. Where the system has no
// such call the core is given away for a moment.
inline void sleep_while(std::atomic<int>& value, int old) {
#if defined(__linux__)
    static_assert(sizeof value == 4, "a futex is a word of 32 bits");
    syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
    if (value.load() == old) std::this_thread::yield();
#endif
}

inline void wake_all(std::atomic<int>& value) {
#if defined(__linux__)
    syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
    (void)value;
#endif
}

// A thread that waits long sleeps: one that yields keeps the core from the thread that it waits for,
// or, where the two have a core each, loses its turn to other programs.
struct alignas(64) Barrier {
    std::atomic<int> arrived{0}, generation{0}, sleeping{0};

    void wait(int size) {
        const int now = generation.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived.store(0, std::memory_order_relaxed);
            generation.store(now + 1);
            if (sleeping.load() > 0) wake_all(generation);
            return;
        }
        if (spin_until([&] { return generation.load(std::memory_order_acquire) != now; })) return;
        const int64_t begin = thread_clock();
        // Counted before the last look, and the last to arrive looks after it has counted: one sees the other.
        sleeping.fetch_add(1);
        while (generation.load() == now) sleep_while(generation, now);
        sleeping.fetch_sub(1);
        waited += thread_clock() - begin;
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
        {
            // Under the lock, so that a worker about to sleep cannot miss it.
            std::lock_guard<std::mutex> lock(mutex_);
            call_.store(((call_.load() >> 16) + 1) << 16 | uint64_t(count));
        }
        wake_.notify_all();
        const Member me{0, count, barriers_};
        body(me, context);
        me.wait();  // for the last of them
        return true;
    }

private:
    bool grow(int count) {
        try {
            for (; workers_ < count; ++workers_)
                std::thread([this, index = workers_ + 1, seen = call_.load()] { work(index, seen); })
                    .detach();
        } catch (const std::system_error&) {
        }
        return workers_ >= count;
    }

    void work(int index, uint64_t seen) {
        FlushSubnormals flush;
        for (;;) {
            const auto called = [&] { return call_.load(std::memory_order_acquire) != seen; };
            if (!spin_until(called)) {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, called);
            }
            seen = call_.load(std::memory_order_acquire);
            const int count = int(seen & 0xffff);
            if (index >= count) continue;  // not of this call, of which it may read nothing else
            const Member me{index, count, barriers_};
            body_(me, context_);
            me.wait();  // for the caller, who goes on with them all
        }
    }

    std::mutex in_use_, mutex_;
    std::condition_variable wake_;
    std::atomic<uint64_t> call_{0};  // a number that grows, and in its low 16 bits the count
    void (*body_)(const Member&, void*) = nullptr;
    void* context_ = nullptr;
    int workers_ = 0;
    Barrier barriers_[most_threads + 1];
};

#if defined(_WIN32)
// Its OpenMP has other entry points, and there is no fork().
bool run_on_openmp(int, void (*)(const Member&, void*), void*) { return false; }
#else
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
    // Always as many threads as the runtime has: with fewer it would end some, to start them again later.
    const int team = std::max(count, openmp.most());
    openmp.parallel([](void* data) {
        const Call& call = *static_cast<Call*>(data);
        // All that were asked for, or the caller alone: memory was counted for these two.
        const int count = openmp.count() < call.count ? 1 : call.count, index = openmp.index();
        if (index >= count) return;
        FlushSubnormals flush;
        const Member me{index, count, call.barriers};
        call.body(me, call.context);
        me.wait();  // here, since the runtime's own wait at the end spins for milliseconds
    }, &call, unsigned(team), 0);
    return true;
}
#endif

// Never destroyed: the workers run until the process ends. A child of fork() has none of them, so it
// starts with a new pool.
std::atomic<Pool*> pool{nullptr};
std::atomic<bool> is_child{false};

void start_afresh() { pool.store(new (std::nothrow) Pool); }

#if !defined(_WIN32)
void begin_child() { is_child.store(true), start_afresh(); }

// From the moment that the core is loaded: a child must know that it is one.
const int registered = pthread_atfork(nullptr, nullptr, begin_child);
#endif

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

int64_t time_worked() { return thread_clock() - waited; }

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
