// Puts the splits of paged_attention together, in ascending order: a warp for each (row, query head).
// Grid (rows, ceil(q_heads / MERGE_WARPS)), block MERGE_WARPS * 32.
#include "common.cuh"

constexpr int MERGE_WARPS = 4;

template <class T, int D>
__device__ void attention_merge(const float* partial, const unsigned* positions, T* out, int q_heads, int split, int max_splits) {
    after_kernels_before();
    constexpr int E = D / WARP;
    constexpr int STRIDE = D + 2;  // peak, sum, numerators
    const size_t row = blockIdx.x;
    const int lane = threadIdx.x % WARP;
    const int head = blockIdx.y * MERGE_WARPS + threadIdx.x / WARP;
    if (head >= q_heads) {
        return;
    }
    const int splits = static_cast<int>(positions[row]) / split + 1;
    const float* from = partial + (row * q_heads + head) * max_splits * STRIDE;
    float peak = -INFINITY;
    for (int i = 0; i < splits; ++i) {
        peak = fmaxf(peak, from[i * STRIDE]);
    }
    // From -0 the first addition leaves any number as it is, so that one split gives the bits that paged_attention writes by itself.
    float sum = -0.0f, mix[E];
#pragma unroll
    for (int e = 0; e < E; ++e) {
        mix[e] = -0.0f;
    }
    for (int i = 0; i < splits; ++i) {
        const float* part = from + i * STRIDE;
        const float weight = exp2f(part[0] - peak);  // peaks are exponents of 2
        sum = fmaf(weight, part[1], sum);
#pragma unroll
        for (int e = 0; e < E; ++e) {
            mix[e] = fmaf(weight, part[2 + lane + WARP * e], mix[e]);
        }
    }
    T* to = out + (row * q_heads + head) * D;
#pragma unroll
    for (int e = 0; e < E; ++e) {
        to[lane + WARP * e] = from_float<T>(mix[e] / sum);
    }
}

#define ATTENTION_MERGE(NAME, T, D)                                                                                              \
    extern "C" __global__ void __launch_bounds__(MERGE_WARPS * WARP)                                                             \
        attention_merge_##NAME##_##D(const float* partial, const unsigned* positions, T* out, int q_heads, int split,            \
                                     int max_splits) {                                                                           \
        attention_merge<T, D>(partial, positions, out, q_heads, split, max_splits);                                              \
    }

ATTENTION_MERGE(bf16, __nv_bfloat16, 32)
ATTENTION_MERGE(bf16, __nv_bfloat16, 64)
ATTENTION_MERGE(bf16, __nv_bfloat16, 128)
ATTENTION_MERGE(f16, __half, 32)
ATTENTION_MERGE(f16, __half, 64)
ATTENTION_MERGE(f16, __half, 128)
