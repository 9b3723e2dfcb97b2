// As much of the Metal shading language as the kernels in src/ops/gpu/metal use, for an ordinary compiler: types and functions here,
// threads, barriers and memory of a threadgroup in emulator.cpp. Address spaces are ignored; tests/gpu/metal-check.sh looks at them.
//
// What is defined here is `static` or a template of the kernels: the checked library has it once instrumented and once not. Attributes that
// say what a parameter is are ignored too: call.h goes by types.
#pragma once

#include <cstddef>

#include "call.h"
#include "emulator.h"
#include "halves.h"
#include "registry.h"

#define device
#define threadgroup
#define thread
#define constant const
#define INFINITY __builtin_inff()

// The instance of a template is known by its name from when the library is opened on, as is a kernel that is no template.
#define INSTANTIATE(NAME, ...) REGISTER(NAME, __COUNTER__, __VA_ARGS__)
#define REGISTER(...) REGISTER_NUMBERED(__VA_ARGS__)
#define REGISTER_NUMBERED(NAME, NUMBER, ...) static const gpu_host::Registration registration_##NUMBER(NAME, Call<__VA_ARGS__>::with);
#define PLAIN_KERNEL(NAME) INSTANTIATE(#NAME, NAME)

using uint = unsigned;
using ushort = unsigned short;
using ulong = unsigned long;

struct uint2 {
    uint x, y;
};
using uint3 = gpu_host::Index;
struct alignas(16) uint4 {
    uint4() = default;
    explicit uint4(uint all) : x(all), y(all), z(all), w(all) {}
    uint x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct ulong2 {
    explicit ulong2(ulong all) : x(all), y(all) {}
    ulong x, y;
};

struct half {
    half() = default;
    explicit half(float value) : bits(float_to_half(value)) {}
    explicit operator float() const { return half_to_float(bits); }
    ushort bits;
};
struct bfloat {
    bfloat() = default;
    explicit bfloat(float value) : bits(float_to_bfloat(value)) {}
    explicit operator float() const { return bfloat_to_float(bits); }
    ushort bits;
};

namespace metal {

template <class To, class From> static inline To as_type(From from) { return __builtin_bit_cast(To, from); }

static inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float fmax(float a, float b) { return __builtin_fmaxf(a, b); }

namespace precise {
static inline float exp(float x) { return __builtin_expf(x); }
static inline float exp2(float x) { return __builtin_exp2f(x); }
static inline float sqrt(float x) { return __builtin_sqrtf(x); }
}  // namespace precise

// Here a barrier orders all memory; kernels that rely on more than they say are not found out.
enum class mem_flags { mem_device, mem_threadgroup };

static inline void threadgroup_barrier(mem_flags) { gpu_host::block_barrier(); }
static inline void simdgroup_barrier(mem_flags) { gpu_host::warp_barrier(0xffffffffu); }

static inline uint simd_shuffle_xor(uint value, ushort mask) { return gpu_host::exchange(0xffffffffu, value, gpu_host::lane() ^ mask); }
static inline float simd_shuffle_xor(float value, ushort mask) { return as_type<float>(simd_shuffle_xor(as_type<uint>(value), mask)); }
// Lanes below `delta` keep their value.
static inline uint simd_shuffle_up(uint value, ushort delta) {
    const uint lane = gpu_host::lane();
    return gpu_host::exchange(0xffffffffu, value, lane < delta ? lane : lane - delta);
}

enum memory_order { memory_order_relaxed };

struct atomic_uint {
    uint value;
};
static inline void atomic_store_explicit(atomic_uint* at, uint value, memory_order) {
    __atomic_store_n(&at->value, value, __ATOMIC_RELAXED);
}
static inline uint atomic_load_explicit(const atomic_uint* at, memory_order) { return __atomic_load_n(&at->value, __ATOMIC_RELAXED); }
static inline uint atomic_fetch_add_explicit(atomic_uint* at, uint value, memory_order) {
    return __atomic_fetch_add(&at->value, value, __ATOMIC_RELAXED);
}

// A matrix of a simdgroup. Which lane holds what is left open by Metal; here two neighbours, the lanes row after row.
template <class T, int COLUMNS, int ROWS> struct simdgroup_matrix;
template <> struct simdgroup_matrix<float, 8, 8> {
    float own[2];
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;

template <class T, int COLUMNS, int ROWS> static inline simdgroup_matrix<T, COLUMNS, ROWS> make_filled_simdgroup_matrix(T value) {
    return {{value, value}};
}

static inline void simdgroup_load(simdgroup_float8x8& to, const float* from, ulong stride = 8, ulong2 origin = ulong2(0),
                                  bool transposed = false) {
    from += origin.y * stride + origin.x;
    const uint row = gpu_host::lane() / 4, column = gpu_host::lane() % 4 * 2;
    to.own[0] = transposed ? from[column * stride + row] : from[row * stride + column];
    to.own[1] = transposed ? from[(column + 1) * stride + row] : from[row * stride + column + 1];
}

static inline void simdgroup_store(const simdgroup_float8x8& from, float* to, ulong stride = 8) {
    const uint row = gpu_host::lane() / 4, column = gpu_host::lane() % 4 * 2;
    to[row * stride + column] = from.own[0];
    to[row * stride + column + 1] = from.own[1];
}

static inline void simdgroup_multiply_accumulate(simdgroup_float8x8& d, simdgroup_float8x8& a, simdgroup_float8x8& b,
                                                 simdgroup_float8x8& c) {
    gpu_host::multiply_matrices(d.own, a.own, b.own, c.own);
}

}  // namespace metal
