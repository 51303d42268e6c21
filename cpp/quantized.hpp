// Panels of 8-bit weights, for streams whose weights do not stay in the cache.
//
// A column of weights is a whole-number vector in [-127, 127] times a scale of its own, a row of
// numbers the same; their product is summed in integers, exactly, and scaled once. Every way of
// summing, see Products, gives the same integers.
#pragma once

#include "gemm.hpp"
#include "target.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace ostinato {
namespace OSTINATO_TARGET {

struct QuantizedPanels {
    // Whole numbers in [-127, 127] that stand for numbers scale times as large, padded with zeros to
    // a multiple of 64; and the forms in which the ways to multiply them take them.
    struct Row {
        const int8_t* plain;
        const uint8_t* shifted;    // plain + 128
        const uint8_t* magnitude;  // |plain|
        const int8_t* sign;        // -1 where plain < 0, else 0
        int32_t below;             // sum of |plain| where plain < 0
        float scale;
    };
    typedef int32_t Int __attribute__((vector_size(vector_bytes)));
    typedef int8_t Bytes __attribute__((vector_size(vector_bytes)));
    typedef int8_t Unaligned __attribute__((vector_size(vector_bytes), aligned(1), may_alias));
    typedef int8_t Lane __attribute__((vector_size(W<float>), aligned(1), may_alias));

    int8_t* data = nullptr;    // [panel][k / 4][vector][lane][4]
    float* scale = nullptr;    // of every column
    int32_t* shift = nullptr;  // -128 times the sum of every column
    int width = 1;
    int64_t count = 0, k = 0, padded = 0;
    Products products = Products::portable;

    QuantizedPanels() = default;
    QuantizedPanels(int64_t vectors, int64_t k, int width)
        : width(width), count((vectors + width - 1) / width), k(k), padded((k + 7) / 8 * 8) {}
    template <class Arena> void take_memory(Arena& arena) {
        const int64_t columns = count * width * W<float>;
        data = arena.template take<int8_t>(columns * padded);
        scale = arena.template take<float>(columns), shift = arena.template take<int32_t>(columns);
    }

    static int64_t row_bytes(int64_t k) { return 4 * ((k + 63) / 64 * 64); }
    static Row row(const float* numbers, int64_t k, char* at) {
        const int64_t length = (k + 63) / 64 * 64;
        auto* bytes = reinterpret_cast<Unaligned*>(at);
        const int64_t step = length / vector_bytes;
        const float largest = magnitude(numbers, k), inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
        Int below{};
        for (int64_t i = 0; i < length; i += W<float>) {
            Vec<float> q = nearest(load_part(numbers + i, k - i) * inverse);
            q = q == q ? q : Vec<float>{};  // NaN shows in the scale
            const Int whole = __builtin_convertvector(q, Int);
            below -= whole < 0 ? whole : Int{};
            *reinterpret_cast<Lane*>(at + i) = __builtin_convertvector(whole, Lane);
        }
        for (int64_t i = 0; i < step; ++i) {
            const Bytes q = bytes[i], sign = q < 0;
            bytes[step + i] = q ^ int8_t(-128), bytes[2 * step + i] = (q ^ sign) - sign, bytes[3 * step + i] = sign;
        }
        int32_t sum = 0;
        for (int l = 0; l < W<float>; ++l) sum += below[l];
        auto* unsigned_at = reinterpret_cast<const uint8_t*>(at);
        auto* signed_at = reinterpret_cast<const int8_t*>(at);
        return {signed_at, unsigned_at + length,    unsigned_at + 2 * length, signed_at + 3 * length,
                sum,       largest / 127.0f};
    }

    // One column, the weights of a row of a matrix; null for zeros.
    void pack(int64_t v, int lane, const float* column) const {
        const int64_t to = v * W<float> + lane;
        const float largest = column ? magnitude(column, k) : 0, inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
        scale[to] = largest / 127.0f;
        int32_t sum = 0;
        for (int64_t i = 0; i < padded; ++i) {
            const float scaled = i < k && column ? nearest(column[i] * inverse) : 0;
            const int q = scaled == scaled ? int(scaled) : 0;
            sum += q;
            const int64_t inner = v % width * W<float> + lane, panel = v / width * width * W<float> * padded;
            data[panel + (i / 4 * width * W<float> + inner) * 4 + i % 4] = int8_t(q);
        }
        shift[to] = -128 * sum;
    }

    int64_t part() const { return k; }  // a sum of integers is scaled once, whole

    template <int R, int NV, int M>
    OSTINATO_INLINE void add(Vec<float> (&acc)[R][M * NV], const Row* all, int64_t row, const Block& at) const {
        const Row* rows = all + row;
        const int64_t p = at.panel;
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            Int sum[R][NV];
            const int8_t* panel = data + (p + m) * NV * W<float> * padded;
            const int64_t first = (p + m) * NV * W<float>;
            if (Dot::feature != DotFeature::none && products == Products::dot) sum_by<Dot>(sum, panel, shift + first, rows);
            else if (Native::exists && products != Products::portable) sum_by<Native>(sum, panel, shift + first, rows);
            else
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                    for (int v = 0; v < NV; ++v)
                        sum[r][v] = sum_plainly(panel + v * vector_bytes, NV * vector_bytes, padded, rows[r].plain);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < NV; ++v)
                    acc[r][m * NV + v] = fma(__builtin_convertvector(sum[r][v], Vec<float>),
                                             load(scale + first + v * W<float>) * rows[r].scale, acc[r][m * NV + v]);
        }
    }

private:
    template <class X> static X nearest(X x) { return (x + 12582912.0f) - 12582912.0f; }

    // The largest absolute value; NaN if one of the numbers is NaN or infinite.
    static float magnitude(const float* numbers, int64_t k) {
        Vec<float> largest{}, poison{};
        for (int64_t i = 0; i < k; i += W<float>) {
            const Vec<float> x = load_part(numbers + i, k - i), m = x < 0.0f ? -x : x;
            largest = m > largest ? m : largest;
            poison += x * 0.0f;
        }
        float most = 0, sum = 0;
        for (int l = 0; l < W<float>; ++l) most = largest[l] > most ? largest[l] : most, sum += poison[l];
        return most + sum;
    }

    // Four bytes for every lane.
    template <class Byte> static OSTINATO_INLINE Bytes four(const Byte* bytes) {
        int32_t word;
        std::memcpy(&word, bytes, 4);
        return Bytes(word - Int{});
    }

    // Ways to add four products to every lane: what they need of a row, from where a sum starts and
    // how it goes on.

    // 8-bit dot products. x86 multiplies signed weights by unsigned numbers: the row is shifted, and the
    // sum starts from what that adds.
    struct Dot {
        struct Four { Bytes x; };
#if defined(__aarch64__)
        static constexpr DotFeature feature = DotFeature::arm_dotprod;
        static OSTINATO_INLINE Four of(const Row& row, int64_t i) { return {four(row.plain + i)}; }
        static OSTINATO_INLINE Int start(const int32_t*, const Row&) { return Int{}; }
        static OSTINATO_INLINE Int add(Int sum, Bytes w, Four a) {
#if !defined(__ARM_FEATURE_DOTPROD)
            asm(".arch armv8.2-a+dotprod");
#endif
            asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(a.x));
            return sum;
        }
#else
        static OSTINATO_INLINE Four of(const Row& row, int64_t i) { return {four(row.shifted + i)}; }
        static OSTINATO_INLINE Int start(const int32_t* shift, const Row&) {
            Int sum;
            std::memcpy(&sum, shift, sizeof sum);
            return sum;
        }
#if defined(__AVX512F__)
        static constexpr DotFeature feature = DotFeature::avx512_vnni;
        static OSTINATO_INLINE Int add(Int sum, Bytes w, Four a) {
            asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a.x), "v"(w));
            return sum;
        }
#elif defined(__AVX2__) && (__GNUC__ >= 12 || __clang_major__ >= 12)  // whose assemblers know AVX-VNNI
        static constexpr DotFeature feature = DotFeature::avx_vnni;
        static OSTINATO_INLINE Int add(Int sum, Bytes w, Four a) {
            asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a.x), "x"(w));
            return sum;
        }
#else
        static constexpr DotFeature feature = DotFeature::none;
        static OSTINATO_INLINE Int add(Int sum, Bytes, Four) { return sum; }
#endif
#endif
    };

    // What every CPU of the target has.
    struct Native {
        struct Four { Bytes x, y; };
        static OSTINATO_INLINE Int start(const int32_t*, const Row& row) {
#if defined(__AVX2__)
            return row.below - Int{};
#else
            return (void)row, Int{};
#endif
        }
#if defined(__AVX2__)
        // Unsigned times signed bytes, two products to a sum of 16 bits, which must not overflow:
        // |x| times w, or where x < 0 times ~w = -w - 1. The sum starts from what that leaves out.
        // 2 * 127 * 128 is less than 2^15.
        static constexpr bool exists = true;
        static OSTINATO_INLINE Four of(const Row& row, int64_t i) {
            return {four(row.magnitude + i), four(row.sign + i)};
        }
        static OSTINATO_INLINE Int add(Int sum, Bytes w, Four a) {
            const Bytes signed_w = w ^ a.y;
#if defined(__AVX512BW__)
            const __m512i two = _mm512_maddubs_epi16((__m512i)a.x, (__m512i)signed_w);
            return sum + (Int)_mm512_madd_epi16(two, _mm512_set1_epi16(1));
#else
            const __m256i two = _mm256_maddubs_epi16((__m256i)a.x, (__m256i)signed_w);
            return sum + (Int)_mm256_madd_epi16(two, _mm256_set1_epi16(1));
#endif
        }
#elif defined(__SSE2__)
        // Bytes 0 and 2 of every lane as numbers of 16 bits, and bytes 1 and 3.
        static constexpr bool exists = true;
        static OSTINATO_INLINE Bytes even(Bytes b) {
            return (Bytes)_mm_srai_epi16(_mm_slli_epi16((__m128i)b, 8), 8);
        }
        static OSTINATO_INLINE Bytes odd(Bytes b) { return (Bytes)_mm_srai_epi16((__m128i)b, 8); }
        static OSTINATO_INLINE Four of(const Row& row, int64_t i) {
            const Bytes x = four(row.plain + i);
            return {even(x), odd(x)};
        }
        static OSTINATO_INLINE Int add(Int sum, Bytes w, Four a) {
            return sum + (Int)_mm_madd_epi16((__m128i)even(w), (__m128i)a.x) +
                   (Int)_mm_madd_epi16((__m128i)odd(w), (__m128i)a.y);
        }
#elif defined(__aarch64__)
        // Products of 16 bits, and sums of two of them: 2 * 127 * 127 is less than 2^15.
        static constexpr bool exists = true;
        static OSTINATO_INLINE Four of(const Row& row, int64_t i) { return {four(row.plain + i), Bytes{}}; }
        static OSTINATO_INLINE Int add(Int sum, Bytes w, Four a) {
            const int8x16_t b = (int8x16_t)w, x = (int8x16_t)a.x;
            const int16x8_t low = vmull_s8(vget_low_s8(b), vget_low_s8(x)), high = vmull_high_s8(b, x);
            return (Int)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
        }
#else
        static constexpr bool exists = false;
        static OSTINATO_INLINE Four of(const Row&, int64_t) { return {}; }
        static OSTINATO_INLINE Int add(Int sum, Bytes, Four) { return sum; }
#endif
    };

    template <class Way, int R, int NV>
    OSTINATO_INLINE void sum_by(Int (&sum)[R][NV], const int8_t* panel, const int32_t* shift, const Row* rows) const {
        // An instruction that adds waits four cycles for the one before it: a row alone has two sums.
        constexpr int sums = R == 1 ? 2 : 1;
        Int part[sums][R][NV] = {};
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) part[0][r][v] = Way::start(shift + v * W<float>, rows[r]);
        for (int64_t i = 0; i < padded; i += 8)
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half, panel += NV * vector_bytes) {
                Bytes w[NV];
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) w[v] = reinterpret_cast<const Unaligned*>(panel)[v];
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) {
                    const auto x = Way::of(rows[r], i + 4 * half);
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v)
                        part[half % sums][r][v] = Way::add(part[half % sums][r][v], w[v], x);
                }
            }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) sum[r][v] = sums == 2 ? part[0][r][v] + part[sums - 1][r][v] : part[0][r][v];
    }

    // One vector of columns, on any CPU.
    static __attribute__((noinline)) Int sum_plainly(const int8_t* w, int64_t step, int64_t padded, const int8_t* row) {
        Int sum{};
        for (int64_t i = 0; i < padded; i += 4, w += step)
            for (int l = 0; l < W<float>; ++l)
                for (int j = 0; j < 4; ++j) sum[l] += w[4 * l + j] * row[i + j];
        return sum;
    }

public:
    static constexpr bool has_native = Native::exists;
    static constexpr DotFeature dot_feature = Dot::feature;
};

// As pack_rows() of Panels.
template <class T, class Source>
void pack_rows(const QuantizedPanels& b, int64_t v0, int64_t v1, Source&& source) {
    for (int64_t v = v0; v < v1; ++v)
        for (int lane = 0; lane < W<T>; ++lane) b.pack(v, lane, source(v, lane));
}

// How a matrix is multiplied with; Panels know one way.
template <class T> void set_products(Panels<T>&, Products) {}
inline void set_products(QuantizedPanels& b, Products products) { b.products = products; }

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
