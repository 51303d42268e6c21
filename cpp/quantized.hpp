// Panels of 8-bit weights, for streams whose weights do not stay in the cache.
//
// A column of weights is a whole-number vector in [-127, 127] times a scale of its own, a row of
// numbers the same; their product is summed in integers, exactly, and scaled once. Two ways to the
// same integers: four products at a time where the CPU has such an instruction (VNNI), else float
// multiply-adds, whose sums of at most 1024 products stay below 2^24 and so are exact.
#pragma once

#include "gemm.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

// Whether the instruction may be used in this compilation; whether the CPU has it, is asked as it runs.
#if defined(__AVX512F__)
constexpr bool may_have_dot = true;
#else
constexpr bool may_have_dot = false;
#endif

struct QuantizedPanels {
    // Whole numbers in [-127, 127] that stand for numbers scale times as large.
    struct Row {
        const uint8_t* shifted;  // by 128, padded with 128 to a multiple of 8
        const float* plain;      // the same as floats
        float scale;
    };
    typedef int32_t Int __attribute__((vector_size(vector_bytes)));
    typedef int8_t Bytes __attribute__((vector_size(vector_bytes), aligned(1), may_alias));
    typedef int8_t Lane __attribute__((vector_size(W<float>), aligned(1), may_alias));
    static constexpr int64_t exact = 1024;  // products whose sum a float holds exactly

    int8_t* data = nullptr;   // with dot: [panel][k / 4][vector][lane][4]; else [panel][k][vector][lane]
    float* scale = nullptr;   // of every column
    int32_t* shift = nullptr; // -128 times the sum of every column, with dot
    int width = 1;
    int64_t count = 0, k = 0, padded = 0;
    bool dot = false;         // whether the CPU has the instruction

    QuantizedPanels() = default;
    QuantizedPanels(int64_t vectors, int64_t k, int width)
        : width(width), count((vectors + width - 1) / width), k(k), padded((k + 7) / 8 * 8) {}
    template <class Arena> void take_memory(Arena& arena) {
        const int64_t columns = count * width * W<float>;
        data = arena.template take<int8_t>(columns * padded);
        scale = arena.template take<float>(columns), shift = arena.template take<int32_t>(columns);
    }

    // Room for both, rounded up to whole vectors; plain may be written a vector past its end.
    static int64_t row_bytes(int64_t k) { return ((k + 7) / 8 * 8 * 5 + 2 * vector_bytes + 63) / 64 * 64; }
    static Row row(const float* numbers, int64_t k, char* at) {
        const int64_t padded = (k + 7) / 8 * 8;
        float* plain = reinterpret_cast<float*>(at);
        uint8_t* shifted = reinterpret_cast<uint8_t*>(plain + padded + W<float>);
        const float largest = magnitude(numbers, k), inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
        for (int64_t i = 0; i < padded; i += W<float>) {
            Vec<float> q = nearest(load_part(numbers + i, k - i) * inverse);
            q = q == q ? q : Vec<float>{};  // NaN shows in the scale
            store(plain + i, q);
        }
        for (int64_t i = 0; i < padded; ++i) shifted[i] = uint8_t(int(plain[i]) + 128);
        return {shifted, plain, largest / 127.0f};
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
            data[panel + (dot ? (i / 4 * width * W<float> + inner) * 4 + i % 4 : i * width * W<float> + inner)] =
                int8_t(q);
        }
        shift[to] = -128 * sum;
    }

    int64_t part() const { return k; }  // a sum of integers is scaled once, whole

    template <int R, int NV, int M>
    OSTINATO_INLINE void add(Vec<float> (&acc)[R][M * NV], const Row* all, int64_t row, const Block& at) const {
        const Row* rows = all + row;
        const int64_t p = at.panel;
        for (int m = 0; m < M; ++m)
            for (int r = 0; r < R; ++r) {
                Int sum[NV];
                const int8_t* panel = data + (p + m) * NV * W<float> * padded;
                const int64_t first = (p + m) * NV * W<float>;
                if (may_have_dot && dot) sum_dot<NV>(sum, panel, shift + first, rows[r].shifted);
                else sum_float<NV>(sum, panel, rows[r].plain);
                for (int v = 0; v < NV; ++v)
                    acc[r][m * NV + v] += __builtin_convertvector(sum[v], Vec<float>) *
                                          (load(scale + first + v * W<float>) * rows[r].scale);
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

    // Four products of unsigned and signed bytes are added to every lane.
    static OSTINATO_INLINE Int dot_add(Int sum, Int bytes, Int weights) {
#if defined(__AVX512F__)
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights));
#else
        (void)bytes, (void)weights;
#endif
        return sum;
    }

    template <int NV>
    OSTINATO_INLINE void sum_dot(Int (&sum)[NV], const int8_t* panel, const int32_t* start,
                                 const uint8_t* row) const {
        Int even[NV], odd[NV] = {};
        for (int v = 0; v < NV; ++v) std::memcpy(&even[v], start + v * W<float>, sizeof(Int));
        for (int64_t i = 0; i < padded; i += 8, row += 8, panel += 8 * NV * W<float>) {
            int32_t four[2];
            std::memcpy(four, row, 8);
            const Int a = four[0] - Int{}, b = four[1] - Int{};
            Int w[2 * NV];
#pragma GCC unroll 8
            for (int v = 0; v < 2 * NV; ++v)
                w[v] = Int(*reinterpret_cast<const Bytes*>(panel + v * vector_bytes));
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) even[v] = dot_add(even[v], a, w[v]), odd[v] = dot_add(odd[v], b, w[NV + v]);
        }
        for (int v = 0; v < NV; ++v) sum[v] = even[v] + odd[v];
    }

    template <int NV>
    OSTINATO_INLINE void sum_float(Int (&sum)[NV], const int8_t* panel, const float* row) const {
        for (int v = 0; v < NV; ++v) sum[v] = Int{};
        for (int64_t i0 = 0; i0 < k; i0 += exact) {
            const int64_t i1 = i0 + exact < k ? i0 + exact : k;
            Vec<float> part[NV] = {};
            for (int64_t i = i0; i < i1; ++i, panel += NV * W<float>)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) {
                    const Lane bytes = *reinterpret_cast<const Lane*>(panel + v * W<float>);
                    part[v] += row[i] * __builtin_convertvector(bytes, Vec<float>);
                }
            for (int v = 0; v < NV; ++v) sum[v] += __builtin_convertvector(part[v], Int);
        }
    }
};

// As pack_rows() of Panels.
template <class T, class Source>
void pack_rows(const QuantizedPanels& b, int64_t v0, int64_t v1, Source&& source) {
    for (int64_t v = v0; v < v1; ++v)
        for (int lane = 0; lane < W<T>; ++lane) b.pack(v, lane, source(v, lane));
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
