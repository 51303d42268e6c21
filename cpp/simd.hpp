// Vectors of one register, written once for every instruction set with GCC's vector extensions.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define OSTINATO_INLINE inline __attribute__((always_inline))

namespace ostinato {
namespace OSTINATO_TARGET {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int registers = 32;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
constexpr int registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16;
constexpr int registers = 32;
#else
constexpr int vector_bytes = 16;
constexpr int registers = 16;
#endif

template <class T> struct Simd {
    typedef T Vec __attribute__((vector_size(vector_bytes)));
    typedef T Unaligned __attribute__((vector_size(vector_bytes), aligned(alignof(T)), may_alias));
    static constexpr int W = vector_bytes / int(sizeof(T));
};
template <class T> using Vec = typename Simd<T>::Vec;
template <class T> constexpr int W = Simd<T>::W;

template <class T> inline Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}
template <class T> inline void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}
template <class T> inline Vec<T> splat(T x) { return x - Vec<T>{}; }

// a * b + c, rounded once where the instruction set can. Compilers are not allowed to fuse anything by
// themselves (-ffp-contract=off): what they choose to fuse, and with it the last bit, would differ from
// compiler to compiler, and between two copies of one loop.
OSTINATO_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (Vec<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
OSTINATO_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
    return (Vec<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (Vec<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    return (Vec<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}
// 1 - x * x.
template <class V> OSTINATO_INLINE V one_minus_square(V x) { return fma(-x, x, 1 - V{}); }

// first * x^n + ... + more, with n more coefficients.
template <class V, class T, class... More> OSTINATO_INLINE V polynomial(V x, T first, More... more) {
    V p = splat(first);
    ((p = fma(p, x, splat(more))), ...);
    return p;
}

// Starts to bring the 64 bytes around p into the first cache. Any address will do.
OSTINATO_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// x, but at least `limit`, or at most; NaN stays NaN: x86's maximum gives its second operand where one of
// them is NaN. One instruction, where GCC makes a comparison and a choice of the vector expression.
#if defined(__AVX512F__)
constexpr __mmask16 all_lanes = 0xffff;  // GCC 12 warns of the forms without a mask, which its header begins with
#endif
OSTINATO_INLINE Vec<float> at_least(Vec<float> x, float limit) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_mask_max_ps((__m512)x, all_lanes, (__m512)splat(limit), (__m512)x);
#elif defined(__AVX__)
    return (Vec<float>)_mm256_max_ps((__m256)splat(limit), (__m256)x);
#else
    return x < limit ? splat(limit) : x;
#endif
}
OSTINATO_INLINE Vec<float> at_most(Vec<float> x, float limit) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_mask_min_ps((__m512)x, all_lanes, (__m512)splat(limit), (__m512)x);
#elif defined(__AVX__)
    return (Vec<float>)_mm256_min_ps((__m256)splat(limit), (__m256)x);
#else
    return x > limit ? splat(limit) : x;
#endif
}

// The first n of W lanes; the others are 0, or are left alone.
#if defined(__AVX512F__)
OSTINATO_INLINE unsigned first_bits(int64_t n) { return n <= 0 ? 0 : (1u << n) - 1; }
OSTINATO_INLINE Vec<float> load_some(const float* p, int64_t n) {
    return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16(first_bits(n)), p);
}
OSTINATO_INLINE Vec<double> load_some(const double* p, int64_t n) {
    return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8(first_bits(n)), p);
}
OSTINATO_INLINE void store_some(float* p, Vec<float> v, int64_t n) {
    _mm512_mask_storeu_ps(p, __mmask16(first_bits(n)), (__m512)v);
}
OSTINATO_INLINE void store_some(double* p, Vec<double> v, int64_t n) {
    _mm512_mask_storeu_pd(p, __mmask8(first_bits(n)), (__m512d)v);
}
#elif defined(__AVX2__)
OSTINATO_INLINE __m256i mask_of_first(float, int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
OSTINATO_INLINE __m256i mask_of_first(double, int64_t n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
OSTINATO_INLINE Vec<float> load_some(const float* p, int64_t n) {
    return (Vec<float>)_mm256_maskload_ps(p, mask_of_first(0.0f, n));
}
OSTINATO_INLINE Vec<double> load_some(const double* p, int64_t n) {
    return (Vec<double>)_mm256_maskload_pd(p, mask_of_first(0.0, n));
}
OSTINATO_INLINE void store_some(float* p, Vec<float> v, int64_t n) {
    _mm256_maskstore_ps(p, mask_of_first(0.0f, n), (__m256)v);
}
OSTINATO_INLINE void store_some(double* p, Vec<double> v, int64_t n) {
    _mm256_maskstore_pd(p, mask_of_first(0.0, n), (__m256d)v);
}
#else
template <class T> inline Vec<T> load_some(const T* p, int64_t n) {
    T lanes[W<T>] = {};
    for (int i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
}
template <class T> inline void store_some(T* p, Vec<T> v, int64_t n) {
    for (int i = 0; i < n; ++i) p[i] = v[i];
}
#endif
template <class T> inline Vec<T> load_part(const T* p, int64_t n) {
    return n >= W<T> ? load(p) : load_some(p, n);
}
template <class T> inline void store_part(T* p, Vec<T> v, int64_t n) {
    if (n >= W<T>) store(p, v);
    else store_some(p, v, n);
}

// a0 b0 a1 b1 ... of the lower halves of a and b, and of the upper.
template <class T> OSTINATO_INLINE void interleave(Vec<T> a, Vec<T> b, Vec<T>& lower, Vec<T>& upper) {
    constexpr int half = W<T> / 2;
#if defined(__clang__)
    for (int l = 0; l < half; ++l) {
        lower[2 * l] = a[l], lower[2 * l + 1] = b[l];
        upper[2 * l] = a[half + l], upper[2 * l + 1] = b[half + l];
    }
#else
    typedef decltype(a < b) Index;  // integers as wide as T
    Index low{};
    for (int l = 0; l < half; ++l) low[2 * l] = l, low[2 * l + 1] = W<T> + l;
    lower = __builtin_shuffle(a, b, low);
    upper = __builtin_shuffle(a, b, low + half);
#endif
}

// A square of W vectors, transposed: interleaving the first half of the vectors with the second moves
// one bit of the row's number into the column's; after log2(W) times all have moved.
template <class T> OSTINATO_INLINE void transpose(Vec<T> (&rows)[W<T>]) {
    for (int step = 1; step < W<T>; step *= 2) {
        Vec<T> next[W<T>];
#pragma GCC unroll 16
        for (int i = 0; i < W<T> / 2; ++i) interleave<T>(rows[i], rows[i + W<T> / 2], next[2 * i], next[2 * i + 1]);
#pragma GCC unroll 16
        for (int i = 0; i < W<T>; ++i) rows[i] = next[i];
    }
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
