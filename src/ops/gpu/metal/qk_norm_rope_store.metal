// One pass over the fused projection: RMSNorm of every q and k head, rotation, q back in place, k and v to the pages.
// A simdgroup takes a head. Without `is_normed` the gains may be anything. Grid (rows, ceil((q_heads + 2 * kv_heads) / STORE_WARPS)),
// STORE_WARPS * 32 threads.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

constexpr constant int STORE_WARPS = 4;

template <class T, int D>
[[kernel, max_total_threads_per_threadgroup(STORE_WARPS * WARP)]] void
qk_norm_rope_store(device float* qkv [[buffer(0)]], device const float* q_gain [[buffer(1)]], device const float* k_gain [[buffer(2)]],
                   constant int& is_normed [[buffer(3)]], constant float& eps [[buffer(4)]], device const float* rope [[buffer(5)]],
                   device const uint* positions [[buffer(6)]], device const uint* slots [[buffer(7)]], device T* keys [[buffer(8)]],
                   device T* values [[buffer(9)]], constant int& q_heads [[buffer(10)]], constant int& kv_heads [[buffer(11)]],
                   uint3 group [[threadgroup_position_in_grid]], uint warp [[simdgroup_index_in_threadgroup]],
                   uint lane [[thread_index_in_simdgroup]]) {
    // A lane holds both ends of its pairs (j, j + D / 2), so that it rotates them alone. With D = 32 half of the lanes hold nothing.
    constexpr int HALF = D / 2;
    constexpr int PAIRS = (HALF + WARP - 1) / WARP;
    const size_t row = group.x;
    const int head = group.y * STORE_WARPS + warp;
    if (head >= q_heads + 2 * kv_heads) {
        return;
    }
    device float* x = qkv + (row * (q_heads + 2 * kv_heads) + head) * D;
    float low[PAIRS], high[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const int j = lane + WARP * i;
        low[i] = j < HALF ? x[j] : 0.0f;
        high[i] = j < HALF ? x[j + HALF] : 0.0f;
    }

    const bool is_value = head >= q_heads + kv_heads;
    device const float* gain = head < q_heads ? q_gain : k_gain;
    if (!is_value && is_normed) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            sum = fma(low[i], low[i], sum);
            sum = fma(high[i], high[i], sum);
        }
        const float scale = inverse_root_mean(warp_sum(sum), D, eps);
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const int j = lane + WARP * i;
            if (j < HALF) {
                low[i] = low[i] * scale * gain[j];
                high[i] = high[i] * scale * gain[j + HALF];
            }
        }
    }

    const size_t slot = static_cast<size_t>(slots[row]) * kv_heads;
    device T* to = is_value ? values + (slot + head - q_heads - kv_heads) * D : keys + (slot + head - q_heads) * D;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const int j = lane + WARP * i;
        if (j >= HALF) {
            continue;
        }
        if (!is_value) {
            device const float* turn = rope + (static_cast<size_t>(positions[row]) * HALF + j) * 2;
            const float cosine = turn[0], sine = turn[1], before = low[i];
            low[i] = fma(before, cosine, -(high[i] * sine));
            high[i] = fma(high[i], cosine, before * sine);
        }
        if (head < q_heads) {
            x[j] = low[i];
            x[j + HALF] = high[i];
        } else {
            to[j] = static_cast<T>(low[i]);
            to[j + HALF] = static_cast<T>(high[i]);
        }
    }
}

#define QK_NORM_ROPE_STORE(NAME, T, D) INSTANTIATE("qk_norm_rope_store_" #NAME "_" #D, qk_norm_rope_store<T, D>)

QK_NORM_ROPE_STORE(bf16, bfloat, 32)
QK_NORM_ROPE_STORE(bf16, bfloat, 64)
QK_NORM_ROPE_STORE(bf16, bfloat, 128)
QK_NORM_ROPE_STORE(f16, half, 32)
QK_NORM_ROPE_STORE(f16, half, 64)
QK_NORM_ROPE_STORE(f16, half, 128)
