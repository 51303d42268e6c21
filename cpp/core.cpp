#include "core.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "target.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace ostinato {

#if defined(__x86_64__)
namespace x86_64_v4 { extern const Target target; extern const Scans scans; }
namespace x86_64_v3 { extern const Target target; extern const Scans scans; }
namespace x86_64 { extern const Target target; extern const Scans scans; }
#else
namespace generic { extern const Target target; extern const Scans scans; }
#endif

namespace {

struct Candidate {
    const Target& target;
    bool (*runs)();  // on this CPU
};

bool always() { return true; }

#if defined(__x86_64__)

struct Cpuid { unsigned a, b, c, d; };

// Asked of the CPU itself: not every compiler's runtime knows (that of zig says no to everything).
Cpuid cpuid(unsigned leaf, unsigned subleaf = 0) {
    Cpuid r{};
    if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) return {};
    return r;
}

constexpr unsigned bit(int n) { return 1u << n; }
bool all_of(unsigned have, unsigned needed) { return (have & needed) == needed; }

// Whether the operating system saves such parts of the registers, by their bits in XCR0.
bool are_saved(unsigned parts) {
    if (!(cpuid(1).c & bit(27))) return false;  // OSXSAVE
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return all_of(low, parts);
}

bool has_v3() {
    const unsigned fma_movbe_avx_f16c = bit(12) | bit(22) | bit(28) | bit(29);
    const unsigned bmi_avx2_bmi2 = bit(3) | bit(5) | bit(8), lzcnt = bit(5);
    return all_of(cpuid(1).c, fma_movbe_avx_f16c) && all_of(cpuid(7).b, bmi_avx2_bmi2) &&
           all_of(cpuid(0x80000001).c, lzcnt) && are_saved(0x06);
}

bool has_v4() {
    const unsigned f_dq_cd_bw_vl = bit(16) | bit(17) | bit(28) | bit(30) | bit(31);
    return has_v3() && all_of(cpuid(7).b, f_dq_cd_bw_vl) && are_saved(0xe6);
}

// Best first; the last runs always.
const Candidate candidates[] = {
    {x86_64_v4::target, has_v4}, {x86_64_v3::target, has_v3}, {x86_64::target, always}};

#else

const Candidate candidates[] = {{generic::target, always}};

#endif

const Target& choose() {
    const char* variable = std::getenv("OSTINATO_ISA");
    const std::string asked = variable ? variable : "";
    std::string choices;
    for (const Candidate& candidate : candidates) {
        if (!candidate.runs()) continue;
        if (asked.empty() || asked == candidate.target.name) return candidate.target;
        choices += choices.empty() ? "" : ", ";
        choices += candidate.target.name;
    }
    bool known = false;
    for (const Candidate& candidate : candidates) known |= asked == candidate.target.name;
    throw std::invalid_argument(
        "OSTINATO_ISA: '" + asked + "' is " +
        (known ? "more than this CPU can run" : "no instruction set of this build") +
        "; expected one of: " + choices + ". Unset it to have the best of them.");
}

const Target& target() {
    static const Target& chosen = choose();  // when choose() throws, the next call tries again
    return chosen;
}

// A block that begins at a multiple of 64 bytes; Windows has functions of its own for it.
char* aligned_block(int64_t bytes) {
    const size_t whole = (size_t(bytes) + 63) / 64 * 64;
#if defined(_WIN32)
    void* block = _aligned_malloc(whole, 64);
#else
    void* block = std::aligned_alloc(64, whole);
#endif
    if (!block) throw std::bad_alloc();
    advise_large_pages(block, int64_t(whole));
    return static_cast<char*>(block);
}

void free_block(const char* block) {
#if defined(_WIN32)
    _aligned_free(const_cast<char*>(block));
#else
    std::free(const_cast<char*>(block));
#endif
}

// A block of memory that a thread keeps for its next call, unless it is large.
class Workspace {
public:
    Workspace() = default;
    ~Workspace() { free_block(data_); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    char* get(int64_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
        if (data_) __asan_unpoison_memory_region(data_, size_t(size_));  // the next call lays it out again
#endif
        if (bytes <= size_) return data_;
        release();
        data_ = aligned_block(bytes);
        size_ = bytes;
        return data_;
    }
    void done() {
        if (size_ > most_kept) release();
    }

private:
    static constexpr int64_t most_kept = 64 << 20;
    void release() {
        free_block(data_);
        data_ = nullptr, size_ = 0;
    }
    char* data_ = nullptr;
    int64_t size_ = 0;
};

thread_local Workspace workspace;

// A thread that must be woken costs some twenty microseconds: a call of less than that stays alone.
constexpr double work_for_a_thread = 3e6;  // floating-point operations

int threads_for(double operations, int threads) {
    return std::max(1, int(std::min(double(std::min(threads, most_threads)), operations / work_for_a_thread)));
}

// For `times` the operations of a forward pass.
int useful_threads(Sharing sharing, double operations, int times, int threads) {
    if (sharing != Sharing::none) return threads_for(times * operations, threads);
    // Threads that sleep until the gradients of the weights, half of it, are woken twice.
    return times == 1 ? 1 : threads_for(times * operations / 8, threads);
}

template <class T> int useful_threads(const Sequence<T>& s, int times, int threads) {
    const Shape& shape = s.shape;
    const double operations = 2.0 * s.directions * double(s.steps) * double(s.rows) * shape.gates() *
                              double(shape.H) * double(shape.I + shape.P);
    return useful_threads(passes<T>(target()).sharing(s, threads), operations, times, threads);
}

// Threads that wait for one another at each step lose most of their time where other programs run on their
// cores. So where those of a call computed less in its time than one thread alone would have, some calls stay
// on one thread: few, since it may have been a moment, and more each time that the next call on several does
// no better. Results do not depend on it.
class Crowd {
public:
    int threads(int asked) { return asked > 1 && calls_alone_.load() > 0 && calls_alone_.fetch_sub(1) > 0 ? 1 : asked; }
    // `taken` by the clock, `worked` by the threads of a call together.
    void note(int threads, std::chrono::nanoseconds taken, int64_t worked) {
        const double time = double(taken.count()), alone = alone_.load();
        if (threads == 1) return alone_.store(alone + 0.2 * (std::min(1.0, double(worked) / time) - alone));
        // To wake a thread takes less.
        const bool lost = double(worked) + 200e3 < alone * time;
        const int more = lost ? next_.load() : 0;
        if (lost) calls_alone_.store(more);
        next_.store(lost ? std::min(2 * more, 32) : 2);
        alone_.store(alone + 0.02 * (1 - alone));  // which is known no longer
    }

private:
    std::atomic<int> calls_alone_{0}, next_{2};
    std::atomic<double> alone_{1};  // what one thread works of its time
};

Crowd crowd;

template <class T> Sharing sharing(const Sequence<T>& s, int threads) { return passes<T>(target()).sharing(s, threads); }
template <class T> Sharing sharing(const ProgramCall<T>& c, int) { return sharing_of(c); }

// Runs a pass of a Sequence or a ProgramCall: `memory` for so many threads, then `run` on them.
template <class Call, class Memory, class Run>
void run_pass(Call s, int threads, Memory&& memory, Run&& run) {
    std::vector<int64_t> order;
    if (s.lengths && !s.order) {
        order.resize(size_t(s.rows));
        std::iota(order.begin(), order.end(), int64_t(0));
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return s.lengths[a] > s.lengths[b]; });
        s.order = order.data();
    }
    const bool in_step = threads > 1 && sharing(s, threads) == Sharing::units;
    if (in_step) threads = crowd.threads(threads);
    // The pass may get one thread where it asked for more.
    char* block = workspace.get(std::max(memory(s, threads), memory(s, 1)));
    struct Context {
        const Call& s;
        char* block;
        Run& run;
        const bool in_step;
        std::atomic<int64_t> worked;
    } context{s, block, run, in_step, {0}};
    const auto begin = std::chrono::steady_clock::now();
    parallel(threads, [](const Member& me, void* context) {
        Context& c = *static_cast<Context*>(context);
        const int64_t before = c.in_step ? time_worked() : 0;
        c.run(c.s, c.block, me);
        if (c.in_step) c.worked.fetch_add(time_worked() - before, std::memory_order_relaxed);
    }, &context);
    if (in_step) crowd.note(threads, std::chrono::steady_clock::now() - begin, context.worked.load());
    workspace.done();
}

}  // namespace

void advise_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = 2 << 20;
    const uintptr_t begin = (uintptr_t(memory) + page - 1) / page * page, end = (uintptr_t(memory) + uintptr_t(bytes)) / page * page;
    if (end > begin + page) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // or it stays as it was
#else
    (void)memory, (void)bytes;
#endif
}

template <class T> int64_t line_length(const Shape& shape) { return passes<T>(target()).line_length(shape); }
template int64_t line_length<float>(const Shape&);
template int64_t line_length<double>(const Shape&);

template <class T> int64_t gate_at(const Shape& shape, int gate) {
    return passes<T>(target()).gate_at(shape, gate);
}
template int64_t gate_at<float>(const Shape&, int);
template int64_t gate_at<double>(const Shape&, int);

template <class T> void forward(const Sequence<T>& s, int threads) {
    const Passes<T>& p = passes<T>(target());
    run_pass(s, useful_threads(s, 1, threads),
             [&](const Sequence<T>& s, int threads) { return p.forward_memory(s, threads); },
             [&](const Sequence<T>& s, char* block, const Member& me) { p.forward(s, block, me); });
}
template void forward(const Sequence<float>&, int);
template void forward(const Sequence<double>&, int);

template <class T> void backward(const Sequence<T>& s, const Gradients<T>& g, int threads) {
    const Passes<T>& p = passes<T>(target());
    run_pass(s, useful_threads(s, s.checkpoint_every ? 3 : 2, threads),
             [&](const Sequence<T>& s, int threads) { return p.backward_memory(s, g, threads); },
             [&](const Sequence<T>& s, char* block, const Member& me) { p.backward(s, g, block, me); });
}
template void backward(const Sequence<float>&, const Gradients<float>&, int);
template void backward(const Sequence<double>&, const Gradients<double>&, int);

template <class T> void run_program(const ProgramCall<T>& call, bool backward, int threads) {
    const Passes<T>& p = passes<T>(target());
    const double operations = call.program.work * double(call.steps) * double(call.rows);
    run_pass(call, useful_threads(sharing_of(call), operations, backward ? 2 : 1, threads),
             [&](const ProgramCall<T>& c, int threads) { return p.program_memory(c, backward, threads); },
             [&](const ProgramCall<T>& c, char* block, const Member& me) {
                 (backward ? p.program_backward : p.program_forward)(c, block, me);
             });
}
template void run_program(const ProgramCall<float>&, bool, int);
template void run_program(const ProgramCall<double>&, bool, int);

namespace {

// Those of the target that was chosen.
const Scans& scans() {
#if defined(__x86_64__)
    const Scans* const all[] = {&x86_64_v4::scans, &x86_64_v3::scans, &x86_64::scans};
#else
    const Scans* const all[] = {&generic::scans};
#endif
    static const Scans& chosen = **std::find_if(std::begin(all), std::end(all), [](const Scans* each) {
        return !std::strcmp(each->name, target().name);
    });
    return chosen;
}

constexpr double work_of_a_number = 50;  // a step of a recurrence waits for memory: so many operations

// Runs body(member) on at most so many threads.
template <class Body> void run_on(int threads, Body&& body) {
    parallel(threads, [](const Member& me, void* body) { (*static_cast<std::remove_reference_t<Body>*>(body))(me); }, &body);
}

template <class T> int threads_of(const Recurrence<T>& s, int threads) {
    return threads_for(work_of_a_number * double(s.steps) * double(s.rows) * double(s.width()), threads);
}

}  // namespace

template <class T> void scan_forward(const Recurrence<T>& s, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    run_on(threads_of(s, threads), [&](const Member& me) { p.forward(s, me); });
}
template void scan_forward(const Recurrence<float>&, int);
template void scan_forward(const Recurrence<double>&, int);

template <class T> void scan_backward(const Recurrence<T>& s, const RecurrenceGradients<T>& g, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    run_on(threads_of(s, threads), [&](const Member& me) { p.backward(s, g, me); });
}
template void scan_backward(const Recurrence<float>&, const RecurrenceGradients<float>&, int);
template void scan_backward(const Recurrence<double>&, const RecurrenceGradients<double>&, int);

template <class T> void product(const Product<T>& q, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    const int n = threads_for(2.0 * double(q.rows) * double(q.k) * double(q.columns), threads);
    // It may get one thread where it asked for more, which needs less.
    char* block = workspace.get(p.product_memory(q, n));
    run_on(n, [&](const Member& me) { p.product(q, block, me); });
    workspace.done();
}
template void product(const Product<float>&, int);
template void product(const Product<double>&, int);

template <class T> void map(const Map<T>& m, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    run_on(threads_for(work_of_a_number * double(m.rows) * double(m.columns), threads),
           [&](const Member& me) { p.map(m, me); });
}
template void map(const Map<float>&, int);
template void map(const Map<double>&, int);

template <class T> void convolution(const Convolution<T>& c, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    run_on(threads_for(work_of_a_number * double(c.steps) * double(c.rows) * double(c.size), threads),
           [&](const Member& me) { p.convolution(c, me); });
}
template void convolution(const Convolution<float>&, int);
template void convolution(const Convolution<double>&, int);

template <class T> void run_tape(const Tape<T>& tape, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    double numbers = 0;
    for (int64_t i = 0; i < tape.count; ++i) numbers += double(tape.element[i].n);
    const int n = threads_for(work_of_a_number / 5 * double(tape.rows) * numbers, threads);
    char* block = workspace.get(p.tape_memory(tape, n));
    run_on(n, [&](const Member& me) { p.run_tape(tape, block, me); });
    workspace.done();
}
template void run_tape(const Tape<float>&, int);
template void run_tape(const Tape<double>&, int);

namespace {

template <class T> int threads_of(const Selection<T>& s, int threads) {
    return threads_for(work_of_a_number * double(s.steps) * double(s.rows) * double(s.size) * double(s.memory), threads);
}

}  // namespace

template <class T> void selection_forward(const Selection<T>& s, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    run_on(threads_of(s, threads), [&](const Member& me) { p.selection_forward(s, me); });
}
template void selection_forward(const Selection<float>&, int);
template void selection_forward(const Selection<double>&, int);

template <class T> void selection_backward(const Selection<T>& s, const SelectionGradients<T>& g, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    const int n = threads_of(s, threads);
    char* block = workspace.get(p.selection_memory(s, n));
    run_on(n, [&](const Member& me) { p.selection_backward(s, g, block, me); });
    workspace.done();
}
template void selection_backward(const Selection<float>&, const SelectionGradients<float>&, int);
template void selection_backward(const Selection<double>&, const SelectionGradients<double>&, int);

template <class T> void lattice(const Lattice<T>& l, int threads) {
    const ScanPasses<T>& p = passes<T>(scans());
    const double work = work_of_a_number * double(l.rows) * double(l.frames) * double(l.labels + 1);
    const int n = std::min(threads_for(work, threads), int(std::max(int64_t(1), std::min(l.rows, int64_t(most_threads)))));
    char* block = workspace.get(p.lattice_memory(l, n));
    run_on(n, [&](const Member& me) { p.lattice(l, block, me); });
    workspace.done();
}
template void lattice(const Lattice<float>&, int);
template void lattice(const Lattice<double>&, int);

namespace {

bool cpu_has(DotFeature feature) {
#if defined(__x86_64__)
    if (feature == DotFeature::avx512_vnni) return has_v4() && cpuid(7).c & bit(11);
    if (feature == DotFeature::avx_vnni) return has_v3() && cpuid(7, 1).a & bit(4);
#elif defined(__ARM_FEATURE_DOTPROD)
    return feature == DotFeature::arm_dotprod;
#elif defined(__aarch64__) && defined(__linux__)
    return feature == DotFeature::arm_dotprod && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP);
#endif
    (void)feature;
    return false;
}

// The fastest way that the CPU has, or less where less is asked for.
Products products_of(Precision precision) {
    if (precision == Precision::int8_portable || !target().has_native) return Products::portable;
    return precision == Precision::int8 && cpu_has(target().dot_feature) ? Products::dot : Products::native;
}

template <class T> const StreamPasses<T>* stream_passes(Precision precision);
template <> const StreamPasses<float>* stream_passes(Precision precision) {
    return precision == Precision::full ? &target().float_streams : &target().quantized_streams;
}
template <> const StreamPasses<double>* stream_passes(Precision precision) {
    if (precision != Precision::full) throw std::invalid_argument("8-bit weights are for float");
    return &target().double_streams;
}
template <class T> const StreamPasses<T>& as_passes(const void* passes) {
    return *static_cast<const StreamPasses<T>*>(passes);
}

}  // namespace

template <class T> void Stream<T>::Free::operator()(char* p) const { free_block(p); }

template <class T>
Stream<T>::Stream(const std::vector<Shape>& shapes, const std::vector<Weights<T>>& weights, int64_t rows,
                  Precision precision)
    : passes_(stream_passes<T>(precision)), rows_(rows), state_size_(0), input_(shapes.front().I),
      output_(shapes.back().P) {
    const StreamPasses<T>& p = as_passes<T>(passes_);
    const int64_t layers = int64_t(shapes.size());
    for (const Shape& s : shapes) state_size_ += rows * (s.P + (s.cell == CellKind::lstm ? s.H : 0));
    char* model = aligned_block(p.model_memory(shapes.data(), layers));
    model_ = std::shared_ptr<const char>(model, free_block);
    p.build_model(shapes.data(), weights.data(), layers, products_of(precision), model);
    state_.reset(aligned_block(p.state_memory(model, rows)));
    p.build_state(model, rows, state_.get());
    reset();
}

template <class T> void Stream<T>::add(const Program* program, std::shared_ptr<char> model) {
    const int64_t bytes = passes<T>(target()).program_state_memory(*program, rows_);
    programs_.push_back({program, std::move(model), std::unique_ptr<char, Free>(aligned_block(bytes)),
                         std::vector<T>(size_t(rows_ * program->state_size[program->output]))});
    std::memset(programs_.back().state.get(), 0, size_t(bytes));
    for (int64_t s = 0; s < program->states; ++s) state_size_ += rows_ * program->state_size[s];
}

template <class T>
Stream<T>::Stream(const std::vector<const Program*>& programs, const std::vector<std::vector<const T*>>& tensors,
                  int64_t rows)
    : passes_(nullptr), rows_(rows), state_size_(0), input_(programs.front()->input),
      output_(programs.back()->state_size[programs.back()->output]) {
    const Passes<T>& p = passes<T>(target());
    for (size_t i = 0; i < programs.size(); ++i) {
        char* const model = aligned_block(p.program_model_memory(*programs[i]));
        std::shared_ptr<char> owned(model, free_block);
        p.program_pack(*programs[i], tensors[i].data(), model);
        add(programs[i], std::move(owned));
    }
}

template <class T>
Stream<T>::Stream(const Stream& other)
    : side_(0), model_(other.model_), passes_(other.passes_), rows_(other.rows_), state_size_(0),
      input_(other.input_), output_(other.output_) {
    for (const Layer& layer : other.programs_) add(layer.program, layer.model);
    state_size_ = other.state_size_;
    if (passes_) {
        const StreamPasses<T>& p = as_passes<T>(passes_);
        state_.reset(aligned_block(p.state_memory(model_.get(), rows_)));
        p.build_state(model_.get(), rows_, state_.get());
    }
    std::vector<T> numbers(static_cast<size_t>(state_size_));
    other.save(numbers.data());
    load(numbers.data());
}

template <class T> void Stream<T>::save(T* to) const {
    if (passes_) return as_passes<T>(passes_).save(model_.get(), state_.get(), to);
    for (const Layer& layer : programs_) {
        passes<T>(target()).program_copy_state(*layer.program, layer.state.get(), rows_, side_, to, nullptr);
        for (int64_t s = 0; s < layer.program->states; ++s) to += rows_ * layer.program->state_size[s];
    }
}
template <class T> void Stream<T>::load(const T* from) {
    if (passes_) return as_passes<T>(passes_).load(model_.get(), state_.get(), from);
    for (const Layer& layer : programs_) {
        passes<T>(target()).program_copy_state(*layer.program, layer.state.get(), rows_, side_, nullptr, from);
        for (int64_t s = 0; s < layer.program->states; ++s) from += rows_ * layer.program->state_size[s];
    }
}
template <class T> void Stream<T>::run_programs(const T* x, int64_t steps, T* y) noexcept {
    const Passes<T>& p = passes<T>(target());
    for (int64_t t = 0; t < steps; ++t) {
        const T* from = x + t * rows_ * input_;
        for (size_t i = 0; i < programs_.size(); ++i) {
            Layer& layer = programs_[i];
            T* const to = i + 1 < programs_.size() ? layer.y.data() : y + t * rows_ * output_;
            p.program_step(*layer.program, layer.model.get(), layer.state.get(), rows_, side_, from, to);
            from = to;
        }
        side_ = 1 - side_;
    }
}
template <class T> void Stream<T>::reset() {
    const std::vector<T> zeros(static_cast<size_t>(state_size_));
    load(zeros.data());
}

template <class T> void Stream<T>::run(const T* x, int64_t steps, T* y, int threads) noexcept {
    struct Context {
        Stream* stream;
        const T* x;
        int64_t steps;
        T* y;
    } context{this, x, steps, y};
    parallel(passes_ ? threads : 1, [](const Member& me, void* context) {
        const Context& c = *static_cast<Context*>(context);
        if (!c.stream->passes_) return c.stream->run_programs(c.x, c.steps, c.y);
        as_passes<T>(c.stream->passes_).run(c.stream->model_.get(), c.stream->state_.get(), c.x, c.steps, c.y, me);
    }, &context);
}

template class Stream<float>;
template class Stream<double>;

const char* int8_products() {
    const char* const names[] = {"portable", "native", "dot"};
    return names[int(products_of(Precision::int8))];
}

double peak_flops(double seconds) {
    const auto start = std::chrono::steady_clock::now();
    std::chrono::duration<double> took{};
    double operations = 0;
    while (took.count() < seconds || operations == 0) {
        operations += 2 * target().multiply_adds(20000);
        took = std::chrono::steady_clock::now() - start;
    }
    return operations / took.count();
}

const char* version() noexcept { return OSTINATO_VERSION; }

const char* instruction_set() { return target().name; }

}  // namespace ostinato
