// SiLU, with and without a gate. Grid (ceil(width / block), rows), any block.
#include "common.cuh"

// Rows of x are `[gate | up]`, each `width` wide.
template <class T> __device__ void swiglu(const float* gate_up, T* out, int width) {
    after_kernels_before();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t row = blockIdx.y;
    if (i < width) {
        const float* gate = gate_up + row * 2 * width;
        out[row * width + i] = from_float<T>(silu_of(gate[i]) * gate[width + i]);
    }
}

template <class T> __device__ void silu(const float* x, T* out, int width) {
    after_kernels_before();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t row = blockIdx.y;
    if (i < width) {
        out[row * width + i] = from_float<T>(silu_of(x[row * width + i]));
    }
}

#define ACTIVATION(NAME, T)                                                                                                           \
    extern "C" __global__ void swiglu_##NAME(const float* gate_up, T* out, int width) { swiglu<T>(gate_up, out, width); }             \
    extern "C" __global__ void silu_##NAME(const float* x, T* out, int width) { silu<T>(x, out, width); }

ACTIVATION(bf16, __nv_bfloat16)
ACTIVATION(f16, __half)
