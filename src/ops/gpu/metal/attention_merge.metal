// Puts the splits of paged_attention together, in ascending order: a simdgroup for each (row, query head).
// Grid (rows, ceil(q_heads / MERGE_WARPS)), MERGE_WARPS * 32 threads.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

constexpr constant int MERGE_WARPS = 4;

template <class T, int D>
[[kernel, max_total_threads_per_threadgroup(MERGE_WARPS * WARP)]] void
attention_merge(device const float* partial [[buffer(0)]], device const uint* positions [[buffer(1)]], device T* out [[buffer(2)]],
                constant int& q_heads [[buffer(3)]], constant int& split [[buffer(4)]], constant int& max_splits [[buffer(5)]],
                uint3 group [[threadgroup_position_in_grid]], uint warp [[simdgroup_index_in_threadgroup]],
                uint lane [[thread_index_in_simdgroup]]) {
    constexpr int E = D / WARP;
    constexpr int STRIDE = D + 2;  // peak, sum, numerators
    const size_t row = group.x;
    const int head = group.y * MERGE_WARPS + warp;
    if (head >= q_heads) {
        return;
    }
    const int splits = static_cast<int>(positions[row]) / split + 1;
    device const float* from = partial + (row * q_heads + head) * max_splits * STRIDE;
    float peak = -INFINITY;
    for (int i = 0; i < splits; ++i) {
        peak = fmax(peak, from[i * STRIDE]);
    }
    // From -0 the first addition leaves any number as it is, so that one split gives the bits that paged_attention writes by itself.
    float sum = -0.0f, mix[E];
#pragma unroll
    for (int e = 0; e < E; ++e) {
        mix[e] = -0.0f;
    }
    for (int i = 0; i < splits; ++i) {
        device const float* part = from + i * STRIDE;
        const float weight = precise::exp2(part[0] - peak);  // peaks are exponents of 2
        sum = fma(weight, part[1], sum);
#pragma unroll
        for (int e = 0; e < E; ++e) {
            mix[e] = fma(weight, part[2 + lane + WARP * e], mix[e]);
        }
    }
    device T* to = out + (row * q_heads + head) * D;
#pragma unroll
    for (int e = 0; e < E; ++e) {
        to[lane + WARP * e] = static_cast<T>(mix[e] / sum);
    }
}

#define ATTENTION_MERGE(NAME, T, D) INSTANTIATE("attention_merge_" #NAME "_" #D, attention_merge<T, D>)

ATTENTION_MERGE(bf16, bfloat, 32)
ATTENTION_MERGE(bf16, bfloat, 64)
ATTENTION_MERGE(bf16, bfloat, 128)
ATTENTION_MERGE(f16, half, 32)
ATTENTION_MERGE(f16, half, 64)
ATTENTION_MERGE(f16, half, 128)
