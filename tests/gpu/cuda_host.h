// As much of CUDA C++ as the kernels in src/ops/gpu/cuda use, for an ordinary compiler: types and conversions here, threads, barriers and
// shared memory in emulator.cpp. What is defined here is `static`: the checked library has it once instrumented and once not.
#pragma once

#include <cmath>
#include <cstddef>

#include "emulator.h"
#include "halves.h"

#define __global__
#define __device__
#define __launch_bounds__(...)

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
} __attribute__((aligned(16)));
struct float4 {
    float x, y, z, w;
} __attribute__((aligned(16)));

#define threadIdx (gpu_host::thread_index())
#define blockIdx (gpu_host::block_index())
#define blockDim (gpu_host::block_size())
#define gridDim (gpu_host::grid_size())

static inline void __syncthreads() { gpu_host::block_barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { gpu_host::warp_barrier(mask); }
static inline float __shfl_xor_sync(unsigned mask, float value, int lanes) {
    const unsigned word = gpu_host::exchange(mask, __builtin_bit_cast(unsigned, value), gpu_host::lane() ^ static_cast<unsigned>(lanes));
    return __builtin_bit_cast(float, word);
}

static inline unsigned long long exchange_wide(unsigned mask, unsigned long long value, unsigned source) {
    const unsigned long long low = gpu_host::exchange(mask, static_cast<unsigned>(value), source);
    const unsigned long long high = gpu_host::exchange(mask, static_cast<unsigned>(value >> 32), source);
    return high << 32 | low;
}
static inline unsigned long long __shfl_xor_sync(unsigned mask, unsigned long long value, int lanes) {
    return exchange_wide(mask, value, gpu_host::lane() ^ static_cast<unsigned>(lanes));
}
// Lanes below `lanes` keep their value.
static inline unsigned long long __shfl_up_sync(unsigned mask, unsigned long long value, int lanes) {
    const unsigned lane = gpu_host::lane(), step = static_cast<unsigned>(lanes);
    return exchange_wide(mask, value, lane < step ? lane : lane - step);
}
static inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

static inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
static inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ typedef unsigned __int128 wide;
    return static_cast<unsigned long long>((static_cast<wide>(a) * b) >> 64);
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
static inline float __bfloat162float(__nv_bfloat16 value) { return bfloat_to_float(value.bits); }
static inline __nv_bfloat16 __float2bfloat16_rn(float value) { return {float_to_bfloat(value)}; }
static inline float __half2float(__half value) { return half_to_float(value.bits); }
static inline __half __float2half_rn(float value) { return {float_to_half(value)}; }
