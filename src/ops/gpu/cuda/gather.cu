// Moves operands without computing: chosen rows put together, and memory filled with one value.
#include "common.cuh"

// out[i] = x[rows[i]]. Grid (count), any block.
template <class T> __device__ void gather(const T* x, const unsigned* rows, T* out, int width) {
    const T* from = x + static_cast<size_t>(rows[blockIdx.x]) * width;
    T* to = out + static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        to[i] = from[i];
    }
}

// Grid (ceil(count / block)), any block.
template <class T> __device__ void fill(T* out, float value, unsigned count) {
    const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) {
        out[i] = from_float<T>(value);
    }
}

#define GATHER(NAME, T)                                                                                            \
    extern "C" __global__ void gather_##NAME(const T* x, const unsigned* rows, T* out, int width) {                \
        gather<T>(x, rows, out, width);                                                                            \
    }                                                                                                              \
    extern "C" __global__ void fill_##NAME(T* out, float value, unsigned count) { fill<T>(out, value, count); }

GATHER(bf16, __nv_bfloat16)
GATHER(f16, __half)
