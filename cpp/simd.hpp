// Vectors of one register, written once for every instruction set with GCC's vector extensions.
#pragma once

#include <cstdint>
#include <cstring>

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

// The first n of W lanes; the others are 0, or are left alone.
template <class T> inline Vec<T> load_part(const T* p, int64_t n) {
    if (n >= W<T>) return load(p);
    T lanes[W<T>] = {};
    for (int i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
}
template <class T> inline void store_part(T* p, Vec<T> v, int64_t n) {
    if (n >= W<T>) return store(p, v);
    for (int i = 0; i < n; ++i) p[i] = v[i];
}

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
