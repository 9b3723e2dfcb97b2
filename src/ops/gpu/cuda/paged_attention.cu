// Causal attention over paged keys and values, for prefill and decode alike. Block ATTENTION_WARPS * 32, grid (items, kv_heads, splits).
//
// An item is a few consecutive rows of one sequence; their query heads of one kv head are the queries of a block, up to Q for each warp.
// The block brings a tile of 32 keys and values to shared memory once for all of them. Tiles start at absolute position 0 and splits are
// whole tiles, so that a query's sums run in one order whatever shares its block, its launch or its item. With `is_partial` a split's sums
// go to `partial`, for attention_merge; without it there is one split, and `partial` may be anything.
#include "common.cuh"

constexpr int ATTENTION_WARPS = 4;
constexpr int TILE = WARP;
constexpr float LOG2_E = 1.44269504088896340736f;

// How a tile of 32 heads of D 16-bit values lies in shared memory and is carried there by the threads, in chunks of 16 bytes.
template <int D> struct TileShape {
    static constexpr int CHUNKS = D / 8;
    // An odd number of chunks from key to key: lanes that read one chunk of different keys meet different banks.
    static constexpr int KEY_STRIDE = CHUNKS + 1;
    static constexpr int SHARE = TILE * CHUNKS / (ATTENTION_WARPS * WARP);
};

// Chunks on their way from the pages to shared memory: read early, so that their latency passes behind the tile before.
template <int D> struct Carried {
    uint4 keys[TileShape<D>::SHARE];
    uint4 values[TileShape<D>::SHARE];
};

// Reads this thread's part of `count` slots of `stride` chunks; what lies behind them may be anything and is not touched.
template <int D> __device__ inline void fetch_tile(Carried<D>& carried, const uint4* keys, const uint4* values, size_t stride, int count) {
    constexpr int CHUNKS = TileShape<D>::CHUNKS;
#pragma unroll
    for (int i = 0; i < TileShape<D>::SHARE; ++i) {
        const int chunk = threadIdx.x + i * ATTENTION_WARPS * WARP;
        const size_t from = chunk / CHUNKS * stride + chunk % CHUNKS;
        const bool used = chunk / CHUNKS < count;
        carried.keys[i] = used ? keys[from] : make_uint4(0, 0, 0, 0);
        carried.values[i] = used ? values[from] : make_uint4(0, 0, 0, 0);
    }
}

template <int D> __device__ inline void put_tile(const Carried<D>& carried, uint4* keys, uint4* values) {
    constexpr int CHUNKS = TileShape<D>::CHUNKS;
#pragma unroll
    for (int i = 0; i < TileShape<D>::SHARE; ++i) {
        const int chunk = threadIdx.x + i * ATTENTION_WARPS * WARP;
        keys[chunk / CHUNKS * TileShape<D>::KEY_STRIDE + chunk % CHUNKS] = carried.keys[i];
        values[chunk] = carried.values[i];
    }
}

// This lane's D / 32 consecutive values of a row of values.
template <class T, int E> __device__ inline void own_values(const uint4* row, int lane, float* to) {
    if constexpr (E == 1) {
        to[0] = to_float(reinterpret_cast<const T*>(row)[lane]);
    } else if constexpr (E == 2) {
        unpack<T>(reinterpret_cast<const unsigned*>(row)[lane], to);
    } else {
        const uint2 words = reinterpret_cast<const uint2*>(row)[lane];
        unpack<T>(words.x, to);
        unpack<T>(words.y, to + 2);
    }
}

// The running softmax of a warp's queries. `reach` is the last position a query sees, -1 for none. `sum` is this lane's share of the
// denominator, `mix` its E values of the numerator; both are relative to 2^peak.
template <int Q, int E> struct Softmax {
    int reach[Q];
    float peak[Q];
    float sum[Q];
    float mix[Q][E];
};

// Scores of all queries of the warp with the key of this lane. Two chains a query hide the latency of the other.
template <class T, int D, int Q> __device__ inline void score_tile(const uint4* key, const float4* queries, float (&scores)[Q]) {
    float chains[Q][2] = {};
#pragma unroll(Q == 1 ? 8 : 1)
    for (int chunk = 0; chunk < TileShape<D>::CHUNKS; ++chunk) {
        float k[8];
        unpack<T>(key[chunk], k);
#pragma unroll
        for (int i = 0; i < Q; ++i) {
            const float4 low = queries[i * (D / 4) + 2 * chunk];
            const float4 high = queries[i * (D / 4) + 2 * chunk + 1];
            chains[i][0] = fmaf(low.x, k[0], chains[i][0]);
            chains[i][1] = fmaf(low.y, k[1], chains[i][1]);
            chains[i][0] = fmaf(low.z, k[2], chains[i][0]);
            chains[i][1] = fmaf(low.w, k[3], chains[i][1]);
            chains[i][0] = fmaf(high.x, k[4], chains[i][0]);
            chains[i][1] = fmaf(high.y, k[5], chains[i][1]);
            chains[i][0] = fmaf(high.z, k[6], chains[i][0]);
            chains[i][1] = fmaf(high.w, k[7], chains[i][1]);
        }
    }
#pragma unroll
    for (int i = 0; i < Q; ++i) {
        scores[i] = chains[i][0] + chains[i][1];
    }
}

// Adds all values of a tile for one query, without a branch: a query alone has nothing else to wait with.
template <class T, int D> __device__ inline void add_whole_tile(float (&mix)[D / WARP], const uint4* values, const float* weights) {
    constexpr int E = D / WARP;
#pragma unroll
    for (int position = 0; position < TILE; position += 4) {
        const float4 four = *reinterpret_cast<const float4*>(weights + position);
        const float weight[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            float v[E];
            own_values<T, E>(values + (position + k) * TileShape<D>::CHUNKS, static_cast<int>(threadIdx.x % WARP), v);
#pragma unroll
            for (int e = 0; e < E; ++e) {
                mix[e] = fmaf(weight[k], v[e], mix[e]);
            }
        }
    }
}

// Adds the tile that starts at position `tile` to the softmax of a warp. `weights` is the warp's own room of Q * TILE floats. Positions
// behind a query's reach are selected away, never multiplied by zero: they may hold NaN.
template <class T, int D, int Q>
__device__ inline void attend_tile(Softmax<Q, D / WARP>& state, int tile, const uint4* keys, const uint4* values, const float4* queries,
                                   float* weights) {
    constexpr int E = D / WARP;
    const int lane = threadIdx.x % WARP;
    float scores[Q];
    score_tile<T, D, Q>(keys + lane * TileShape<D>::KEY_STRIDE, queries, scores);
    int seen[Q], most = 0;
#pragma unroll
    for (int i = 0; i < Q; ++i) {
        seen[i] = state.reach[i] - tile + 1;
        if (seen[i] <= 0) {
            continue;
        }
        most = seen[i] > most ? seen[i] : most;
        const bool visible = lane < seen[i];
        const float peak = fmaxf(state.peak[i], warp_max(visible ? scores[i] : -INFINITY));
        const float fade = exp2f(state.peak[i] - peak);
        const float weight = visible ? exp2f(scores[i] - peak) : 0.0f;
        weights[i * TILE + lane] = weight;
        state.peak[i] = peak;
        state.sum[i] = fmaf(state.sum[i], fade, weight);
#pragma unroll
        for (int e = 0; e < E; ++e) {
            state.mix[i][e] *= fade;
        }
    }
    __syncwarp();
    if (Q == 1 && most >= TILE) {
        add_whole_tile<T, D>(state.mix[0], values, weights);
        return;
    }
    most = most < TILE ? most : TILE;
    for (int position = 0; position < most; position += 4) {
        float v[4][E];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            own_values<T, E>(values + (position + k) * TileShape<D>::CHUNKS, lane, v[k]);
        }
#pragma unroll
        for (int i = 0; i < Q; ++i) {
            if (position >= seen[i]) {
                continue;
            }
            const float4 four = *reinterpret_cast<const float4*>(weights + i * TILE + position);
            const float weight[4] = {four.x, four.y, four.z, four.w};
            if (position + 4 <= seen[i]) {
#pragma unroll
                for (int k = 0; k < 4; ++k) {
#pragma unroll
                    for (int e = 0; e < E; ++e) {
                        state.mix[i][e] = fmaf(weight[k], v[k][e], state.mix[i][e]);
                    }
                }
            } else {
#pragma unroll
                for (int k = 0; k < 3; ++k) {
#pragma unroll
                    for (int e = 0; e < E; ++e) {
                        state.mix[i][e] = position + k < seen[i] ? fmaf(weight[k], v[k][e], state.mix[i][e]) : state.mix[i][e];
                    }
                }
            }
        }
    }
}

template <class T, int D, int Q>
__device__ void paged_attention(const float* qkv, const T* keys, const T* values, const unsigned* work, const unsigned* tables,
                                float* partial, T* out, int is_partial, int q_heads, int kv_heads, int block_size, int split,
                                int max_splits, float scale) {
    after_kernels_before();
    constexpr int E = D / WARP;
    using Shape = TileShape<D>;
    SHARED(uint4, key_tile, TILE * Shape::KEY_STRIDE);
    SHARED(uint4, value_tile, TILE * Shape::CHUNKS);
    SHARED(float4, all_queries, ATTENTION_WARPS * Q * D / 4);
    SHARED(float, all_weights, ATTENTION_WARPS * Q * TILE);

    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int kv_head = blockIdx.y, group = q_heads / kv_heads;
    const unsigned* item = work + 4 * static_cast<size_t>(blockIdx.x);
    const int first_row = item[0], rows = item[1], start = item[3];
    const unsigned* table = tables + item[2];
    const int begin = blockIdx.z * split, last = start + rows - 1;
    if (begin > last) {
        return;
    }
    const int end = begin + split <= last ? begin + split : last + 1;

    // Neighbouring queries go to different warps, so that few of them are spread over all. Scaled once for base-2 exponentials.
    float4* queries = all_queries + warp * Q * (D / 4);
    float* weights = all_weights + warp * Q * TILE;
    Softmax<Q, E> state;
    for (int i = 0; i < Q; ++i) {
        const int query = i * ATTENTION_WARPS + warp, row = query / group, head = kv_head * group + query % group;
        const float* q = qkv + ((static_cast<size_t>(first_row) + row) * (q_heads + 2 * kv_heads) + head) * D;
        for (int d = lane; d < D; d += WARP) {
            reinterpret_cast<float*>(queries)[i * D + d] = row < rows ? q[d] * (scale * LOG2_E) : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < Q; ++i) {
        const int row = (i * ATTENTION_WARPS + warp) / group;
        state.reach[i] = row < rows ? start + row : -1;
        state.peak[i] = -INFINITY;
        state.sum[i] = 0.0f;
#pragma unroll
        for (int e = 0; e < E; ++e) {
            state.mix[i][e] = 0.0f;
        }
    }

    Carried<D> carried;
    const auto fetch = [&](int tile) {
        const size_t slot = static_cast<size_t>(table[tile / block_size]) * block_size + tile % block_size;
        const size_t from = (slot * kv_heads + kv_head) * Shape::CHUNKS, stride = static_cast<size_t>(kv_heads) * Shape::CHUNKS;
        const uint4* from_keys = reinterpret_cast<const uint4*>(keys) + from;
        fetch_tile<D>(carried, from_keys, reinterpret_cast<const uint4*>(values) + from, stride, last + 1 - tile);
    };
    fetch(begin);
    for (int tile = begin; tile < end; tile += TILE) {
        __syncthreads();  // no warp still reads the tile before
        put_tile<D>(carried, key_tile, value_tile);
        __syncthreads();
        if (tile + TILE < end) {
            fetch(tile + TILE);
        }
        if (warp < rows * group) {
            attend_tile<T, D, Q>(state, tile, key_tile, value_tile, queries, weights);
        }
    }

#pragma unroll
    for (int i = 0; i < Q; ++i) {
        if (state.reach[i] < begin) {  // no such query, or it ends before this split
            continue;
        }
        const int query = i * ATTENTION_WARPS + warp, head = kv_head * group + query % group;
        const size_t result = (static_cast<size_t>(first_row) + query / group) * q_heads + head;
        const float sum = warp_sum(state.sum[i]);
        if (!is_partial) {
#pragma unroll
            for (int e = 0; e < E; ++e) {
                out[result * D + lane * E + e] = from_float<T>(state.mix[i][e] / sum);
            }
            continue;
        }
        float* to = partial + (result * max_splits + blockIdx.z) * (D + 2);
        if (lane == 0) {
            to[0] = state.peak[i];
            to[1] = sum;
        }
#pragma unroll
        for (int e = 0; e < E; ++e) {
            to[2 + lane * E + e] = state.mix[i][e];
        }
    }
}

// Two blocks on a multiprocessor at least: aiming at more by itself, ptxas spills some registers.
#define PAGED_ATTENTION(NAME, T, D, Q)                                                                                               \
    extern "C" __global__ void __launch_bounds__(ATTENTION_WARPS * WARP, 2)                                                          \
        paged_attention_##NAME##_##D##_##Q(const float* qkv, const T* keys, const T* values, const unsigned* work,                   \
                                           const unsigned* tables, float* partial, T* out, int is_partial, int q_heads,              \
                                           int kv_heads, int block_size, int split, int max_splits, float scale) {                   \
        paged_attention<T, D, Q>(qkv, keys, values, work, tables, partial, out, is_partial, q_heads, kv_heads, block_size, split,    \
                                 max_splits, scale);                                                                                 \
    }

PAGED_ATTENTION(bf16, __nv_bfloat16, 32, 1)
PAGED_ATTENTION(bf16, __nv_bfloat16, 32, 8)
PAGED_ATTENTION(bf16, __nv_bfloat16, 64, 1)
PAGED_ATTENTION(bf16, __nv_bfloat16, 64, 8)
PAGED_ATTENTION(bf16, __nv_bfloat16, 128, 1)
PAGED_ATTENTION(bf16, __nv_bfloat16, 128, 8)
PAGED_ATTENTION(f16, __half, 32, 1)
PAGED_ATTENTION(f16, __half, 32, 8)
PAGED_ATTENTION(f16, __half, 64, 1)
PAGED_ATTENTION(f16, __half, 64, 8)
PAGED_ATTENTION(f16, __half, 128, 1)
PAGED_ATTENTION(f16, __half, 128, 8)
