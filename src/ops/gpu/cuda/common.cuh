// What all kernels share: element types, conversions, sums over a warp.
//
// Every product that is added to something is an explicit fmaf, so that no compiler may contract one instantiation and not another: the
// bits of a row must not depend on which kernel computed it.
#pragma once

#ifdef OPENELM_HOST
#include "cuda_host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SHARED(TYPE, NAME, COUNT) __shared__ __align__(16) TYPE NAME[COUNT]
#endif

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// What every thread does before it reads what other kernels write, or writes anything: it waits for the kernels sent before. On devices
// that can (9.0 and later) the next kernel is started meanwhile, up to this place.
__device__ inline void after_kernels_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// To the nearest, ties to even.
template <class T> __device__ inline T from_float(float value);
template <> __device__ inline __half from_float<__half>(float value) { return __float2half_rn(value); }
template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) { return __float2bfloat16_rn(value); }

template <class T> __device__ inline T from_bits(unsigned bits);
template <> __device__ inline __half from_bits<__half>(unsigned bits) { return __ushort_as_half(static_cast<unsigned short>(bits)); }
template <> __device__ inline __nv_bfloat16 from_bits<__nv_bfloat16>(unsigned bits) {
    return __ushort_as_bfloat16(static_cast<unsigned short>(bits));
}

// The two values of a word, the lower address first.
template <class T> __device__ inline void unpack(unsigned word, float* to) {
    to[0] = to_float(from_bits<T>(word & 0xffffu));
    to[1] = to_float(from_bits<T>(word >> 16));
}

// The eight values of 16 bytes.
template <class T> __device__ inline void unpack(uint4 words, float* to) {
    unpack<T>(words.x, to);
    unpack<T>(words.y, to + 2);
    unpack<T>(words.z, to + 4);
    unpack<T>(words.w, to + 6);
}

// Both leave the same bits in every lane: at each step partners add (compare) the same two numbers.
__device__ inline float warp_sum(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, step);
    }
    return value;
}

__device__ inline float warp_max(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, step));
    }
    return value;
}

// For x far below zero the exponential is infinite and the quotient -0; no value of x up to 1e30 gives NaN.
__device__ inline float silu_of(float x) { return x / (1.0f + expf(-x)); }

// Correctly rounded square root and quotient, where rsqrtf would differ between devices.
__device__ inline float inverse_root_mean(float sum_of_squares, int count, float eps) {
    return 1.0f / sqrtf(sum_of_squares / static_cast<float>(count) + eps);
}
