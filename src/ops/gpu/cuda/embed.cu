// Rows of the embedding table, widened to f32. Grid (rows), any block.
#include "common.cuh"

template <class T> __device__ void embed(const T* table, const unsigned* tokens, float* out, int width) {
    after_kernels_before();
    const size_t row = blockIdx.x;
    const T* from = table + static_cast<size_t>(tokens[row]) * width;
    float* to = out + row * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        to[i] = to_float(from[i]);
    }
}

#define EMBED(NAME, T)                                                                                       \
    extern "C" __global__ void embed_##NAME(const T* table, const unsigned* tokens, float* out, int width) { \
        embed<T>(table, tokens, out, width);                                                                 \
    }

EMBED(bf16, __nv_bfloat16)
EMBED(f16, __half)
