// As much of CUDA C++ as the kernels in src/ops/gpu/cuda use, for an ordinary compiler: types and conversions here, threads, barriers and
// shared memory in cuda_host.cpp. What is defined here is `static`: the checked library has it once instrumented and once not.
#pragma once

#include <cmath>
#include <cstddef>

#define __global__
#define __device__
#define __launch_bounds__(...)

struct uint2 {
    unsigned x, y;
};
struct uint3 {
    unsigned x, y, z;
};
struct uint4 {
    unsigned x, y, z, w;
} __attribute__((aligned(16)));
struct float4 {
    float x, y, z, w;
} __attribute__((aligned(16)));

namespace gpu_host {

uint3 thread_index();
uint3 block_index();
uint3 block_size();
uint3 grid_size();
void block_barrier();
void warp_barrier(unsigned mask);
// The word that the lane `source` of the warp gives.
unsigned exchange(unsigned mask, unsigned word, unsigned source);
unsigned lane();
// Memory of the block that belongs to the declaration `key`.
void* shared_array(const void* key, size_t bytes);

}  // namespace gpu_host

#define threadIdx (gpu_host::thread_index())
#define blockIdx (gpu_host::block_index())
#define blockDim (gpu_host::block_size())
#define gridDim (gpu_host::grid_size())
#define SHARED(TYPE, NAME, COUNT)   \
    static char NAME##_declaration; \
    TYPE* const NAME = static_cast<TYPE*>(gpu_host::shared_array(&NAME##_declaration, sizeof(TYPE) * (COUNT)))

static inline void __syncthreads() { gpu_host::block_barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { gpu_host::warp_barrier(mask); }
static inline float __shfl_xor_sync(unsigned mask, float value, int lanes) {
    const unsigned word = gpu_host::exchange(mask, __builtin_bit_cast(unsigned, value), gpu_host::lane() ^ static_cast<unsigned>(lanes));
    return __builtin_bit_cast(float, word);
}

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct __half {
    unsigned short bits;
};
struct __nv_bfloat16 {
    unsigned short bits;
};

static inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

static inline float __bfloat162float(__nv_bfloat16 value) { return __builtin_bit_cast(float, static_cast<unsigned>(value.bits) << 16); }

static inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    if (value != value) {
        return {0x7fff};
    }
    const unsigned bits = __builtin_bit_cast(unsigned, value);
    return {static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

static inline float __half2float(__half value) {
    const unsigned sign = (value.bits & 0x8000u) << 16, exponent = (value.bits >> 10) & 31u, fraction = value.bits & 0x3ffu;
    if (exponent == 0) {  // subnormal: the fraction counts 2^-24
        const float size = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0 ? -size : size;
    }
    const unsigned rebased = exponent == 31 ? 255u : exponent + (127u - 15u);
    return __builtin_bit_cast(float, sign | (rebased << 23) | (fraction << 13));
}

static inline __half __float2half_rn(float value) {
    const unsigned bits = __builtin_bit_cast(unsigned, value);
    const unsigned sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) {
        return {0x7fff};
    }
    if (size >= 0x477ff000u) {  // 65520 and more: infinite
        return {static_cast<unsigned short>(sign | 0x7c00u)};
    }
    if (size < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the fraction, in units of 2^-24, rounded in the lowest bits
        const float shifted = __builtin_bit_cast(float, size) + 0.5f;
        return {static_cast<unsigned short>(sign | (__builtin_bit_cast(unsigned, shifted) - 0x3f000000u))};
    }
    const unsigned rebased = size - ((127u - 15u) << 23);
    return {static_cast<unsigned short>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13))};
}
