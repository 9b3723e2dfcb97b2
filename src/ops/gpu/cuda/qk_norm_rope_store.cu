// One pass over the fused projection: RMSNorm of every q and k head, rotation, q back in place, k and v to the pages.
// A warp takes a head. Without `is_normed` the gains may be anything. Grid (rows, ceil((q_heads + 2 * kv_heads) / STORE_WARPS)), block STORE_WARPS * 32.
#include "common.cuh"

constexpr int STORE_WARPS = 4;

template <class T, int D>
__device__ void qk_norm_rope_store(float* qkv, const float* q_gain, const float* k_gain, int is_normed, float eps, const float* rope,
                                   const unsigned* positions, const unsigned* slots, T* keys, T* values, int q_heads, int kv_heads) {
    after_kernels_before();
    // A lane holds both ends of its pairs (j, j + D / 2), so that it rotates them alone. With D = 32 half of the lanes hold nothing.
    constexpr int HALF = D / 2;
    constexpr int PAIRS = (HALF + WARP - 1) / WARP;
    const size_t row = blockIdx.x;
    const int lane = threadIdx.x % WARP;
    const int head = blockIdx.y * STORE_WARPS + threadIdx.x / WARP;
    if (head >= q_heads + 2 * kv_heads) {
        return;
    }
    float* x = qkv + (row * (q_heads + 2 * kv_heads) + head) * D;
    float low[PAIRS], high[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const int j = lane + WARP * i;
        low[i] = j < HALF ? x[j] : 0.0f;
        high[i] = j < HALF ? x[j + HALF] : 0.0f;
    }

    const bool is_value = head >= q_heads + kv_heads;
    const float* gain = head < q_heads ? q_gain : k_gain;
    if (!is_value && is_normed) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            sum = fmaf(low[i], low[i], sum);
            sum = fmaf(high[i], high[i], sum);
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
    T* const to = is_value ? values + (slot + head - q_heads - kv_heads) * D : keys + (slot + head - q_heads) * D;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const int j = lane + WARP * i;
        if (j >= HALF) {
            continue;
        }
        if (!is_value) {
            const float* turn = rope + (static_cast<size_t>(positions[row]) * HALF + j) * 2;
            const float cosine = turn[0], sine = turn[1], before = low[i];
            low[i] = fmaf(before, cosine, -(high[i] * sine));
            high[i] = fmaf(high[i], cosine, before * sine);
        }
        if (head < q_heads) {
            x[j] = low[i];
            x[j + HALF] = high[i];
        } else {
            to[j] = from_float<T>(low[i]);
            to[j + HALF] = from_float<T>(high[i]);
        }
    }
}

#define QK_NORM_ROPE_STORE(NAME, T, D)                                                                                               \
    extern "C" __global__ void __launch_bounds__(STORE_WARPS * WARP)                                                                 \
        qk_norm_rope_store_##NAME##_##D(float* qkv, const float* q_gain, const float* k_gain, int is_normed, float eps,              \
                                        const float* rope, const unsigned* positions, const unsigned* slots, T* keys, T* values,     \
                                        int q_heads, int kv_heads) {                                                                 \
        qk_norm_rope_store<T, D>(qkv, q_gain, k_gain, is_normed, eps, rope, positions, slots, keys, values, q_heads, kv_heads);      \
    }

QK_NORM_ROPE_STORE(bf16, __nv_bfloat16, 32)
QK_NORM_ROPE_STORE(bf16, __nv_bfloat16, 64)
QK_NORM_ROPE_STORE(bf16, __nv_bfloat16, 128)
QK_NORM_ROPE_STORE(f16, __half, 32)
QK_NORM_ROPE_STORE(f16, __half, 64)
QK_NORM_ROPE_STORE(f16, __half, 128)
