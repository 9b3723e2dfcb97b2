// What all kernels share: conversions, sums over a simdgroup. It is put before each kernel's file where Metal compiles them.
//
// Every product that is added to something is an explicit fma, so that no compiler may contract one instantiation and not another: the
// bits of a row must not depend on which kernel computed it. Metal has to be told not to use fast math: masks rely on infinities and NaN,
// sums on their order, norms and softmax on rounded quotients and roots.
#ifndef OPENELM_COMMON
#define OPENELM_COMMON

#ifdef OPENELM_HOST
#include "metal_host.h"
#else
#include <metal_stdlib>
// A type check brings its own: other C++ has no local variables of an address space, nor attributes of an explicit instantiation.
#ifndef INSTANTIATE
#define SHARED(TYPE, NAME, COUNT) threadgroup TYPE NAME[COUNT]
// The instance of a template that is the kernel called NAME.
#define INSTANTIATE(NAME, ...) template [[host_name(NAME)]] [[kernel]] decltype(__VA_ARGS__) __VA_ARGS__;
#endif
// A kernel that is no template: Metal knows it by its own name, the host has to be told.
#define PLAIN_KERNEL(NAME)
#endif

using namespace metal;

// Threads of a simdgroup, on every GPU of Apple.
constexpr constant int WARP = 32;

// The two values of a word, the lower address first.
template <class T> inline void unpack(uint word, thread float* to) {
    to[0] = static_cast<float>(as_type<T>(static_cast<ushort>(word & 0xffffu)));
    to[1] = static_cast<float>(as_type<T>(static_cast<ushort>(word >> 16)));
}

// The eight values of 16 bytes.
template <class T> inline void unpack(uint4 words, thread float* to) {
    unpack<T>(words.x, to);
    unpack<T>(words.y, to + 2);
    unpack<T>(words.z, to + 4);
    unpack<T>(words.w, to + 6);
}

// Four values, to be stored at once.
inline float4 packed(thread const float* from) {
    float4 four;
    four.x = from[0];
    four.y = from[1];
    four.z = from[2];
    four.w = from[3];
    return four;
}

// Both leave the same bits in every lane: at each step partners add (compare) the same two numbers.
inline float warp_sum(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        value += simd_shuffle_xor(value, static_cast<ushort>(step));
    }
    return value;
}

inline float warp_max(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        value = fmax(value, simd_shuffle_xor(value, static_cast<ushort>(step)));
    }
    return value;
}

// For x far below zero the exponential is infinite and the quotient -0; no value of x up to 1e30 gives NaN.
inline float silu_of(float x) { return x / (1.0f + precise::exp(-x)); }

// Root and quotient, where rsqrt would differ between devices.
inline float inverse_root_mean(float sum_of_squares, int count, float eps) {
    return 1.0f / precise::sqrt(sum_of_squares / static_cast<float>(count) + eps);
}

#endif
