// Chosen rows of an operand, put together.
#include "common.cuh"

// out[i] = x[rows[i]]. Grid (count), any block.
template <class T> __device__ void gather(const T* x, const unsigned* rows, T* out, int width) {
    after_kernels_before();
    const T* from = x + static_cast<size_t>(rows[blockIdx.x]) * width;
    T* to = out + static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        to[i] = from[i];
    }
}

#define GATHER(NAME, T)                                                                             \
    extern "C" __global__ void gather_##NAME(const T* x, const unsigned* rows, T* out, int width) { \
        gather<T>(x, rows, out, width);                                                             \
    }

GATHER(bf16, __nv_bfloat16)
GATHER(f16, __half)
